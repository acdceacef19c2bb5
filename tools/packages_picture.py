"""The packages as a picture, docs/packages.svg: a band for each, its parts, and how many modules import whom.

Drawn from the import graph, so it shows what is there; `./dev docs` writes it, and a test compares it.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from .import_graph import graph_of, modules_of

if TYPE_CHECKING:
    from pathlib import Path

    from .import_graph import Graph, Name

__all__ = ["packages_picture"]

#: From those that import to those that are imported: what each is for.
BANDS = {
    "tools": "commands, measurements, and what else joins the two below",
    "": "the façade: load, Model, what a load may ask for",
    "loader": "files: bytes to weights",
    "runtime": "arrays and ids, never files",
    "errors": "what any module may import",
}
#: Modules at the root that lie in the lowest band.
LOWEST = ("dataclass", "digest", "errors", "handlers", "once")
WIDTH, LEFT, PAD, LINE, BOX_HEIGHT, BOXES, GAP = 1080, 24, 14, 17, 44, 3, 44
FITS = 34  # characters of the small type that fit a box
ARROWS = 330  # the strip at the right that arrows run through
STYLE = (
    "text{font-family:sans-serif;font-size:13px;fill:#222}.name{font-weight:bold}.small{font-size:11px;fill:#555}"
    ".band{fill:#f4f6f8;stroke:#8a97a5}.box{fill:#fff;stroke:#b9c3cd}.arrow{stroke:#3b6ea5;stroke-width:2;fill:none}"
    ".count{font-size:11px;fill:#3b6ea5}"
)


def packages_picture(root: Path) -> str:
    """The SVG for the package whose folder is `root`."""
    modules = modules_of(root)
    graph = graph_of(modules)
    tops, at, body = dict[str, tuple[float, float]](), 40.0, list[str]()
    for band, meaning in BANDS.items():
        parts = _parts(band, modules)
        height = PAD + LINE + PAD + -(-len(parts) // BOXES) * (BOX_HEIGHT + 8)
        tops[band] = at, height
        body += _band(band, meaning, parts, at, height)
        at += height + GAP
    pairs = _between(graph)
    order = list(BANDS)
    if upwards := sorted(pair for pair in pairs if order.index(pair[0]) > order.index(pair[1])):
        msg = f"imports point upwards, from the first of each pair to the second: {upwards}"
        raise ValueError(msg)
    body += _arrows(pairs, tops)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{at:.0f}" viewBox="0 0 {WIDTH} {at:.0f}">\n'
        f"<style>{STYLE}</style>\n"
        f'<text x="{LEFT}" y="24" class="small">An arrow: modules above import modules below; the number: how many '
        "imports. None points upwards.</text>\n"
    )
    return head + "\n".join(body) + "\n</svg>\n"


def _band_of(name: Name) -> str:
    if name and name[0] in LOWEST:
        return "errors"
    return name[0] if name and name[0] in BANDS else ""


def _between(graph: Graph) -> Counter[tuple[str, str]]:
    """Imports from one band into another."""
    mine = ((me, other) for me, others in graph.items() if me != ("__main__",) for other in others if other)
    pairs = ((_band_of(me), _band_of(other)) for me, other in mine)
    return Counter((a, b) for a, b in pairs if a != b)


def _parts(band: str, modules: dict[Name, Path]) -> dict[str, tuple[int, str]]:
    """A band's parts: how many modules, and the first sentence of the docstring."""
    mine = [name for name in modules if _band_of(name) == band]
    if band in ("", "errors"):
        return {".".join(n): (1, _says(modules[n])) for n in mine if n and n != ("__main__",)}
    folders = Counter(name[:-1] if modules[name].name != "__init__.py" else name for name in mine)
    return {
        "/".join(folder): (count, _says(modules[folder]))
        for folder, count in sorted(folders.items())
        if folder in modules
    }


def _says(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    says = text.split("\n")[0].removeprefix("The package that ").rstrip(".").split(": ")[0].split(". ")[0]
    return says[:1].upper() + says[1:]


def _band(band: str, meaning: str, parts: dict[str, tuple[int, str]], y: float, height: float) -> list[str]:
    label = {"": "miaotui", "errors": ", ".join(LOWEST)}.get(band, band)
    indent = max(90, 8 * len(label))
    out = [
        f'<rect class="band" x="{LEFT}" y="{y:.0f}" width="{WIDTH - 2 * LEFT}" height="{height:.0f}" rx="6"/>',
        f'<text class="name" x="{LEFT + PAD}" y="{y + PAD + 8:.0f}">{label}</text>',
        f'<text class="small" x="{LEFT + PAD + indent}" y="{y + PAD + 8:.0f}">{escape(meaning)}</text>',
    ]
    width = (WIDTH - ARROWS - 2 * LEFT - 2 * PAD - 8 * (BOXES - 1)) / BOXES
    for i, (name, (count, says)) in enumerate(parts.items()):
        x, top = LEFT + PAD + i % BOXES * (width + 8), y + PAD + LINE + i // BOXES * (BOX_HEIGHT + 8)
        many = f" ({count})" if count > 1 else ""
        short = says if len(says) <= FITS else re.split("[;,] ", says)[0]
        short = short if len(short) <= FITS else short[:FITS].rsplit(" ", 1)[0] + " …"
        out += [
            f'<rect class="box" x="{x:.0f}" y="{top:.0f}" width="{width:.0f}" height="{BOX_HEIGHT}" rx="4"/>',
            f'<text x="{x + 8:.0f}" y="{top + 18:.0f}">{escape(name)}{many}</text>',
            f'<text class="small" x="{x + 8:.0f}" y="{top + 35:.0f}">{escape(short)}</text>',
        ]
    return out


def _arrows(pairs: Counter[tuple[str, str]], tops: dict[str, tuple[float, float]]) -> list[str]:
    """An arrow for each pair, side by side, from the lower edge of one band to the upper edge of the other."""
    tip = '<path d="M0,0 L8,4 L0,8 z" fill="#3b6ea5"/>'
    size = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
    out = [f'<defs><marker id="tip" {size} orient="auto">{tip}</marker></defs>']
    order = list(BANDS)
    for i, ((a, b), count) in enumerate(sorted(pairs.items(), key=lambda p: [order.index(n) for n in p[0]])):
        x = WIDTH - ARROWS + i * (ARROWS - LEFT - 40) / max(1, len(pairs) - 1)
        start, end = tops[a][0] + tops[a][1], tops[b][0]
        out += [
            f'<path class="arrow" d="M{x:.0f},{start:.0f} V{end - 2:.0f}" marker-end="url(#tip)"/>',
            f'<text class="count" x="{x + 5:.0f}" y="{start + 16:.0f}">{count}</text>',
        ]
    return out
