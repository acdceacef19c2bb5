"""What a search measured, as rows of plain values, as a table of those that no other beats, and as a picture."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, InputError
from ...sizes import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .records import Result
    from .space import Space
    from .subject import Subject

__all__ = ["draw", "figure_class", "pareto", "rows_of", "table"]

#: Okabe and Ito's colours, which the colour-blind tell apart.
DOTS, FRONT, CHOSEN = "#999999", "#0072B2", "#D55E00"


def rows_of(space: Space, result: Result) -> list[dict[str, Any]]:
    """A row for every point that was measured or is out, the fastest first: JSON's values.

    `seconds` is the ratio times the median of the reference's time in all pairs: what a whole run compares.
    """
    whole = [b for row in result.rows for _, b in row.pairs]
    usual = statistics.median(whole) if whole else 0.0
    rows = [
        {
            "settings": space.label(row.point),
            "seconds": row.ratio * usual if row.pairs else None,
            "ratio": row.ratio if row.pairs else None,
            "pairs": len(row.pairs),
            "memory": row.memory,
            "loss": row.loss,
            "chosen": result.chosen is row,
        }
        | ({"why": row.why} if row.why else {})
        for row in result.rows
        if row.pairs or row.why
    ]
    return sorted(rows, key=lambda row: (row["ratio"] is None, row["ratio"] or 0.0, row["settings"]))


def pareto(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those measured rows that no other beats in time, memory or loss without being worse in another."""
    told = [r for r in rows if r["pairs"] and r["memory"] is not None and r["loss"] is not None]
    return [r for r in told if not any(_beats(other, r) for other in told)]


def _beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
    pairs = [(a[name], b[name]) for name in ("ratio", "memory", "loss")]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def table(rows: Sequence[dict[str, Any]], subject: Subject) -> str:
    """Lines for people: Pareto's rows, the reference and what was chosen, which a star marks."""
    front = pareto(rows)
    told = [r for r in rows if r in front or r["chosen"] or (r["settings"] == "as it is" and r["pairs"])]
    head = ("", f"ms/{subject.unit}", "speed", "memory", subject.loses, "settings")
    lines = [head]
    for r in told:
        loss = "-" if r["loss"] is None else f"{r['loss']:.4f}"
        size = "-" if r["memory"] is None else format_bytes(r["memory"])
        speed = f"{1 / r['ratio']:.2f}x"
        lines.append(("*" if r["chosen"] else "", f"{1e3 * r['seconds']:.1f}", speed, size, loss, r["settings"]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    put = [*[str.rjust] * 5, str.ljust]
    return "\n".join(
        "  ".join(p(cell, width) for p, cell, width in zip(put, line, widths, strict=True)).rstrip() for line in lines
    )


def figure_class() -> Any:  # noqa: ANN401 - matplotlib comes late
    """Matplotlib's figure. BackendError: it is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        msg = "--plot: drawing needs matplotlib: pip install 'miaotui[plot]'"
        raise BackendError(msg) from error
    return Figure


def draw(rows: Sequence[dict[str, Any]], subject: Subject, title: str, out: Path) -> None:
    """Time against memory; the front of those that nothing beats is a line, what was chosen a ring. InputError."""
    figure = figure_class()(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    told = [r for r in rows if r["pairs"] and r["memory"] is not None]
    places = [(r["memory"] / 2**20, 1e3 * r["seconds"]) for r in told]
    axes.scatter(*zip(*places, strict=True), color=DOTS, s=18, label="measured")
    front = sorted((r["memory"] / 2**20, 1e3 * r["seconds"], r["loss"]) for r in pareto(rows))
    axes.plot([x for x, *_ in front], [y for _, y, _ in front], color=FRONT, marker="o", lw=0.8, label="not beaten")
    for x, y, loss in front:
        axes.annotate(f"{loss:.2g}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7, color=FRONT)
    for r in (r for r in told if r["chosen"]):
        at = [r["memory"] / 2**20], [1e3 * r["seconds"]]
        axes.scatter(*at, s=140, facecolors="none", edgecolors=CHOSEN, linewidths=1.6, label="chosen")
    axes.set_xlabel("weights, arena and cache, MiB")
    axes.set_ylabel(f"ms an {subject.unit}" if subject.unit[0] in "ae" else f"ms a {subject.unit}")
    axes.set_title(f"{title}; numbers: {subject.loses}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    try:
        figure.savefig(out, dpi=110)
    except (OSError, ValueError) as error:
        msg = f"--plot {out.name}: {error}"
        raise InputError(msg) from error
