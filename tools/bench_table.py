"""A comparison's JSON as the table that README quotes: `python -m miaotui.tools.bench_table FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["main", "table"]


def table(report: dict[str, Any]) -> str:
    """Markdown, a row for each dtype and thread count: tokens per second of both, median of the paired ratios."""
    peer = report["peer"]
    lines = [
        f"| {report['shape']} | decode | {peer} | | of the read bandwidth | prefill {report['prompt']} | {peer} | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["results"]:
        ours, theirs = row["ours"], row["peer"]
        lines.append(
            f"| {row['dtype'].upper()}, {row['threads']} thread{'s' if row['threads'] > 1 else ''} "
            f"| {ours['decode_tps']:.0f} | {theirs['decode_tps']:.0f} | **{row['decode_ratio']['median']:.2f}x** "
            f"| {ours['read_fraction']:.0%} | {ours['prefill_tps']:.0f} | {theirs['prefill_tps']:.0f} "
            f"| **{row['prefill_ratio']['median']:.2f}x** |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Print it."""
    (file,) = sys.argv[1:] if argv is None else argv
    sys.stdout.write(table(json.loads(Path(file).read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
