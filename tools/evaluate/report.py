"""A report on the screen, and what the JSON file says besides it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import TYPE_CHECKING, Any

from .tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .evaluation import Evaluation
    from .examples import Example
    from .measured import Confusion, Measured

__all__ = ["answers_as_lines", "document", "table", "versions"]

#: Classes of a confusion matrix that the screen has room for.
MOST_CLASSES = 12
#: What may have a hand in the numbers.
LIBRARIES = ("miaotui", "numpy", "numba", "tokenizers", "scikit-learn", "sacrebleu", "rouge-score-rs", "duckdb")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that are installed."""
    out = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def table(done: Evaluation) -> str:
    """The report as lines of text."""
    return "\n".join(_lines(done.measured, done))


def _lines(measured: Measured, done: Evaluation) -> Iterator[str]:
    width = max(len(name) for name in measured.metrics)
    for name, value in measured.metrics.items():
        yield f"{name:<{width}}  {_number(value)}"
    if measured.classes:
        yield ""
        yield from _columns(
            ["", *next(iter(measured.classes.values()))],
            [[name, *(_number(v) for v in row.values())] for name, row in measured.classes.items()],
        )
    if measured.confusion is not None and len(measured.confusion.labels) <= MOST_CLASSES:
        yield from _confusion(measured.confusion)
    for note in measured.notes:
        yield f"note: {note}"
    if (fair := done.fairness) is not None:
        yield ""
        yield f"{fair.pairs} pairs of terms exchanged, in {fair.changed} of {len(done.outcomes)} examples:"
        yield f"  {fair.moved} answers are others; scores moved by {_number(fair.mean_shift)} in the mean, "
        yield f"  and by {_number(fair.largest_shift)} at most"
        for moved in fair.shown:
            answers = f"{moved.before!r} -> {moved.after!r}" if moved.before != moved.after else moved.before
            yield f"  {moved.place}: {answers}".rstrip(": ") + (f" ({moved.by:+.4f})" if moved.by else "")


def _confusion(confusion: Confusion) -> Iterator[str]:
    yield ""
    yield "rows: the file's class; columns: the model's answer"
    rows = zip(confusion.labels, confusion.counts, strict=True)
    yield from _columns(["", *confusion.labels], [[label, *map(str, counts)] for label, counts in rows])


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Cells under their names, numbers at the right."""
    every = [header, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(header))]
    for row in every:
        yield "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def _number(value: float) -> str:
    """Counts as whole numbers, others with four decimals."""
    return f"{value:.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"


def document(done: Evaluation, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - facts for JSON
    """What `--json` writes: `facts` first, then the report."""
    return {"format": "miaotui-evaluation", "version": 1, **facts, "versions": versions(), **done.report()}


def answers_as_lines(task: str, examples: Iterable[Example], done: Evaluation) -> str:
    """What `--predictions` writes: a JSON object for each example, in order."""
    surface = TASKS[task].surface
    lines = [
        {"place": e.place, "answer": surface(e, o), "score": o.score, "scores": o.scores}
        for e, o in zip(examples, done.outcomes, strict=True)
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
