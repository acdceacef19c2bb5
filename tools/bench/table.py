"""Comparisons as the tables of README and tables.md: `python -m miaotui.tools.bench.table FILE [FILE ...]`.

One file: a row for each dtype and thread count. Several: one summary, a row for each shape, dtype and thread count,
with every prompt length that was measured. Of several peers each cell takes the best, the one that we beat by least.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["best", "main", "pairs", "read_reports", "summary", "table"]

Row = dict[str, Any]


def table(report: Row) -> str:
    """Markdown, a row for each dtype and thread count: tokens per second of both, median of the paired ratios."""
    peer = report["peers"][0] if len(report["peers"]) == 1 else "best peer"
    lines = [
        f"| {report['shape']} | decode | {peer} | | of the read bandwidth | prefill {report['prompt']} | {peer} | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for rows in _grouped(report["results"], ("dtype", "threads")):
        decode, prefill = best(rows, "decode"), best(rows, "prefill")
        lines.append(
            f"| {_label(decode)} | {_pair(decode, 'decode', len(report['peers']) > 1)} "
            f"| {decode['ours']['read_fraction']:.0%} | {_pair(prefill, 'prefill', len(report['peers']) > 1)} |"
        )
    return "\n".join(lines) + "\n"


def summary(reports: Sequence[Row]) -> str:
    """Markdown over many files: decode after the shortest prompt, prefill of every length; each with its best peer."""
    rows = [r | {"shape": report["shape"], "prompt": report["prompt"]} for report in reports for r in report["results"]]
    prompts = sorted({r["prompt"] for r in rows})
    head = ["", "decode", "best peer", "", "of the read bandwidth"]
    for n in prompts:
        head += [f"prefill {n}", "best peer", ""]
    lines = [f"| {' | '.join(head)} |".replace("  ", " "), "|---|" + "--:|" * (len(head) - 1)]
    for group in _grouped(rows, ("shape", "dtype", "threads")):
        first = min(r["prompt"] for r in group)
        decode = best([r for r in group if r["prompt"] == first], "decode")
        cells = [f"{decode['shape']}, {_label(decode)}", _pair(decode, "decode", named=True)]
        cells.append(f"{decode['ours']['read_fraction']:.0%}")
        for n in prompts:
            these = [r for r in group if r["prompt"] == n]
            cells.append(_pair(best(these, "prefill"), "prefill", named=True) if these else "| |")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def pairs(reports: Sequence[Row]) -> str:
    """Markdown for README: of each figure the pair with the lowest ratio, as "ratio: ours, theirs and whose"."""
    rows = [r | {"shape": report["shape"], "prompt": report["prompt"]} for report in reports for r in report["results"]]
    prompts = sorted({r["prompt"] for r in rows})
    lines = [
        f"| | decode | {' | '.join(f'prefill, {n} tokens' for n in prompts)} |",
        "|---|---|" + "---|" * len(prompts),
    ]
    for group in _grouped(rows, ("shape", "dtype")):
        chosen = [best([r for r in group if r["prompt"] == prompts[0]], "decode")]
        chosen += [best([r for r in group if r["prompt"] == n], "prefill") for n in prompts]
        cells = [_told(r, "prefill" if i else "decode") for i, r in enumerate(chosen)]
        lines.append(f"| {group[0]['shape']}, {group[0]['dtype'].upper()} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _told(row: Row, phase: str) -> str:
    """One cell: the ratio, and the two speeds that it is the median ratio of."""
    ours, theirs = row["ours"][f"{phase}_tps"], row["theirs"][f"{phase}_tps"]
    return f"**{row[f'{phase}_ratio']['median']:.2f}** ({ours:.0f} : {theirs:.0f} {row['peer']})"


def best(rows: Sequence[Row], phase: str) -> Row:
    """Of the rows of one setting the one whose peer came nearest to us, or furthest ahead."""
    return min(rows, key=lambda r: float(r[f"{phase}_ratio"]["median"]))


def read_reports(files: Sequence[str | Path]) -> list[Row]:
    """Read comparisons. InputError: a file is none."""
    reports = []
    for file in files:
        try:
            report = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"{Path(file).name}: cannot be read as JSON ({error}); expected what tools.bench.compare wrote"
            raise InputError(msg) from error
        if not isinstance(report, dict) or not {"shape", "peers", "prompt", "results"} <= set(report):
            msg = f"{Path(file).name}: no comparison; expected what tools.bench.compare wrote"
            raise InputError(msg)
        reports.append(report)
    return reports


def _grouped(rows: Sequence[Row], keys: tuple[str, ...]) -> list[list[Row]]:
    """Rows that agree in `keys`, in the order in which such groups first appear."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in keys), []).append(row)
    return list(groups.values())


def _label(row: Row) -> str:
    return f"{row['dtype'].upper()}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def _pair(row: Row, phase: str, named: bool) -> str:  # noqa: FBT001 - a cell with or without its peer's name
    """Three cells: ours, theirs, the ratio."""
    name = f" {row['peer']}" if named else ""
    ours, theirs = row["ours"][f"{phase}_tps"], row["theirs"][f"{phase}_tps"]
    return f"{ours:.0f} | {theirs:.0f}{name} | **{row[f'{phase}_ratio']['median']:.2f}x**"


def main(argv: list[str] | None = None) -> int:
    """Print it."""
    reports = read_reports(sys.argv[1:] if argv is None else argv)
    if not reports:
        msg = "no file was named: expected what tools.bench.compare wrote"
        raise InputError(msg)
    sys.stdout.write(table(reports[0]) if len(reports) == 1 else summary(reports))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
