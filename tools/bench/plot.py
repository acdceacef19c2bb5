"""Comparisons as a picture: `python -m miaotui.tools.bench.plot FILE [FILE ...] --out FIGURE.svg`.

A row of panels for each shape: decode, prefill of each length, and the share of the machine's read bandwidth that
decoding reached; in each a group of bars for every dtype, ours first and then the peers. Ours is the median over the
runs against the peers. Of several thread counts the largest is drawn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .table import read_reports

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["draw", "gather", "main"]

OURS = "miaotui"
#: Okabe and Ito's colours, which the colour-blind tell apart
COLOURS = {
    OURS: "#D55E00",
    "llama.cpp": "#0072B2",
    "openvino": "#009E73",
    "ctranslate2": "#CC79A7",
    "onnxruntime-genai": "#E69F00",
    "torch": "#56B4E9",
    "llama2.c": "#F0E442",
}
OTHER = "#999999"
#: {engine: {dtype: value}}
Bars = dict[str, dict[str, float]]


def gather(reports: Sequence[dict[str, Any]]) -> dict[str, dict[str, Bars]]:
    """{shape: {panel: {engine: {dtype: value}}}}; decode is that after the shortest prompt. InputError: no results."""
    rows = [r | {"shape": report["shape"], "prompt": report["prompt"]} for report in reports for r in report["results"]]
    if not rows:
        msg = "the files hold no results; expected a comparison that was not skipped"
        raise InputError(msg)
    threads = max(r["threads"] for r in rows)
    rows = [r for r in rows if r["threads"] == threads]
    shortest = {s: min(r["prompt"] for r in rows if r["shape"] == s) for s in dict.fromkeys(r["shape"] for r in rows)}
    by_panel: dict[str, dict[str, Bars]] = {}
    many: dict[tuple[str, str, str, str], list[float]] = {}
    for r in rows:
        values = {f"prefill {r['prompt']}, tokens/s": "prefill_tps"}
        if r["prompt"] == shortest[r["shape"]]:
            values = {"decode, tokens/s": "decode_tps"} | values | {"decode, of the read bandwidth": "read_fraction"}
        for panel, key in values.items():
            for engine, side in ((OURS, "ours"), (r["peer"], "theirs")):
                many.setdefault((r["shape"], panel, engine, r["dtype"]), []).append(r[side][key])
    for (shape, panel, engine, dtype), some in many.items():
        by_panel.setdefault(shape, {}).setdefault(panel, {}).setdefault(engine, {})[dtype] = statistics.median(some)
    for shape, panels in by_panel.items():  # the bandwidth last
        by_panel[shape] = dict(sorted(panels.items(), key=lambda item: "bandwidth" in item[0]))
    return by_panel


def draw(by_panel: dict[str, dict[str, Bars]], out: Path, title: str = "") -> None:
    """Write the picture. InputError: matplotlib is missing, or writes no such format."""
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415 - as above
    except ImportError as error:
        msg = "drawing needs matplotlib: pip install 'miaotui[plot]'"
        raise InputError(msg) from error
    with rc_context({"svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans", "Arial"]}):  # letters as text: smaller
        figure = Figure(layout="constrained")
        _fill(figure, by_panel, title)
        try:
            figure.savefig(out, dpi=100)
        except ValueError as error:
            msg = f"{out.name}: {error}"
            raise InputError(msg) from error


def _fill(figure: Any, by_panel: dict[str, dict[str, Bars]], title: str) -> None:  # noqa: ANN401 - matplotlib comes late
    """Lay out the panels, a line for each shape, and one legend for all."""
    columns = max(map(len, by_panel.values()))
    figure.set_size_inches(3.1 * columns + 0.4, 2.6 * len(by_panel) + 0.9)
    grid = figure.subplots(len(by_panel), columns, squeeze=False)
    for line, (shape, panels) in zip(grid, by_panel.items(), strict=True):
        for axes, (panel, bars) in zip(line, panels.items(), strict=False):
            _panel(axes, bars)
            axes.set_title(panel, fontsize=9)
        for axes in line[len(panels) :]:
            axes.set_axis_off()
        line[0].set_ylabel(shape, fontsize=10)
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)


def _panel(axes: Any, bars: Bars) -> None:  # noqa: ANN401 - matplotlib comes late
    """Groups by dtype, a bar for each engine that has it, its value on top."""
    dtypes = list(dict.fromkeys(d for values in bars.values() for d in values))
    dtypes.sort(key=["f32", "bf16", "int8", "int4"].index)
    engines = sorted(bars, key=lambda e: [*COLOURS, e].index(e))
    for at, dtype in enumerate(dtypes):
        here = [e for e in engines if dtype in bars[e]]
        width = 0.84 / len(here)
        for i, engine in enumerate(here):
            value = bars[engine][dtype]
            x = at + (i - (len(here) - 1) / 2) * width
            label = engine if engine not in axes.get_legend_handles_labels()[1] else None
            axes.bar(x, value, width * 0.94, color=COLOURS.get(engine, OTHER), label=label, clip_on=False)
            text = f" {value:.2f}" if value < 2 else f" {value:.0f}"  # noqa: PLR2004 - a fraction
            axes.text(x, value, text, ha="center", va="bottom", fontsize=5.5, rotation=90 if len(here) > 3 else 0)  # noqa: PLR2004
    axes.set_xticks(range(len(dtypes)), [d.upper() for d in dtypes], fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.locator_params(axis="y", nbins=4)
    axes.margins(y=0.18)
    axes.spines[["top", "right"]].set_visible(False)


def _title(reports: Sequence[dict[str, Any]]) -> str:
    """Threads and machine, where all files name the same."""
    threads = max((r["threads"] for report in reports for r in report["results"]), default=0)
    machines = {report["machine"]["cpu"] for report in reports if "machine" in report}
    return ", ".join([f"{threads} thread{'s' if threads > 1 else ''}", *machines]) if len(machines) == 1 else ""


def main(argv: list[str] | None = None) -> int:
    """Draw one picture of all files."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.plot", description="comparisons as a picture")
    parser.add_argument("files", nargs="+", type=Path, help="what tools.bench.compare wrote")
    parser.add_argument("--out", type=Path, required=True, help="the picture: .svg or .png")
    args = parser.parse_args(argv)
    reports = read_reports(args.files)
    draw(gather(reports), args.out, _title(reports))
    return 0


if __name__ == "__main__":
    sys.exit(main())
