"""Sweeps as a picture: what of a step's weights is left, against perplexity. `miaotui prune --sweep` draws its own.

    python -m miaotui.tools.prune_plot SWEEP.json [SWEEP.json ...] --out FIGURE.svg

A panel for each file. Zeros count as what a kernel that skips them would not read: the share of numbers that are not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["draw", "main"]

#: Okabe and Ito's colours, which the colour-blind tell apart; a marker for each kind of cut.
STYLES = {
    "first": ("#999999", "s"), "block-influence": ("#0072B2", "s"), "greedy": ("#D55E00", "s"),
    "activation": ("#999999", "o"), "wanda-sp": ("#0072B2", "o"), "flap": ("#D55E00", "o"),
    "magnitude": ("#999999", "^"), "wanda": ("#0072B2", "^"), "sparsegpt": ("#D55E00", "^"),
    "slicegpt": ("#009E73", "D"),
}  # fmt: skip


def draw(records: Sequence[dict[str, Any]], out: Path) -> None:
    """Write the picture. InputError: matplotlib is missing, or writes no such format."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        msg = "drawing needs matplotlib: pip install 'miaotui[plot]'"
        raise InputError(msg) from error
    figure = Figure(figsize=(4.4 * len(records) + 0.6, 4.4), layout="constrained")
    for axes, record in zip(figure.subplots(1, len(records), squeeze=False)[0], records, strict=True):
        _panel(axes, record)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    across = 3 * len(records)
    where = "outside lower center"
    figure.legend(handles.values(), handles.keys(), loc=where, ncols=across, fontsize=8, frameon=False)
    try:
        figure.savefig(out, dpi=110)
    except (OSError, ValueError) as error:
        msg = f"{out.name}: {error}"
        raise InputError(msg) from error


def _panel(axes: Any, record: dict[str, Any]) -> None:  # noqa: ANN401 - matplotlib comes late
    whole = record["original"]
    lines: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for r in record["results"]:
        _, method, *options = r["cut"].split()
        kind = (method, *(word for word in options if word.startswith("--")))  # joined: one method, one way to cut
        lines.setdefault(kind, []).append((_left(r, whole), r["ppl"]))
    named: set[str] = set()
    for (method, *_), points in lines.items():
        colour, marker = STYLES[method]
        xs, ys = zip(*sorted(points), strict=True)
        label = method if method not in named else None
        axes.plot(xs, ys, color=colour, marker=marker, markersize=6, alpha=0.8, lw=0.8, label=label)
        named.add(method)
    axes.axhline(whole["ppl"], color="black", lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set_xlabel("bytes of weights that a step reads, of the whole model's", fontsize=9)
    axes.set_ylabel(f"perplexity, {whole['n_tokens']} tokens", fontsize=9)
    axes.set_title(f"{record['model']} (dotted: whole)", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _left(r: dict[str, Any], whole: dict[str, Any]) -> float:
    """Share of the whole model's bytes a step."""
    return float(r["bytes_per_step"] / whole["bytes_per_step"])


def main(argv: list[str] | None = None) -> int:
    """Draw one picture of all files."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.prune_plot", description="sweeps as a picture")
    parser.add_argument("files", nargs="+", type=Path, help="what `miaotui prune --sweep` wrote")
    parser.add_argument("--out", type=Path, required=True, help="the picture: .svg or .png")
    args = parser.parse_args(argv)
    draw([json.loads(file.read_text(encoding="utf-8")) for file in args.files], args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
