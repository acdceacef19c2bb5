"""A report on the screen, and what the JSON file says besides it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from typing import TYPE_CHECKING, Any

from ...loader.files import printable, quote
from .tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .evaluation import Evaluation
    from .examples import Example
    from .measured import Confusion, Measured
    from .swap import Fairness

__all__ = ["answers_as_lines", "as_json", "document", "table", "versions"]

#: Classes of a confusion matrix that the screen has room for.
MOST_CLASSES = 12
#: Characters of an answer that the screen shows.
LONGEST = 60
_HALVES = re.compile("[\ud800-\udfff]")
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
        yield f"{name:<{width}}  {value:.0f}" if name == "tokens" else f"{name:<{width}}  {value:.4f}"
    if measured.classes:
        yield ""
        yield from _columns(
            ["", *next(iter(measured.classes.values()))],
            [[printable(name, LONGEST), *map(_cell, row.items())] for name, row in measured.classes.items()],
        )
    if measured.confusion is not None and len(measured.confusion.labels) <= MOST_CLASSES:
        yield from _confusion(measured.confusion)
    for note in measured.notes:
        yield f"note: {note}"
    if (fair := done.fairness) is not None:
        yield ""
        yield from _fairness(fair, len(done.outcomes))


def _fairness(fair: Fairness, n: int) -> Iterator[str]:
    pairs = f"{fair.pairs} pair{'s' if fair.pairs > 1 else ''} of terms"
    yield f"{pairs} exchanged, in {fair.changed} of {n} examples: answers that changed: {fair.moved}"
    if fair.largest_shift:
        yield f"scores moved by {fair.mean_shift:.4f} in the mean, and by {fair.largest_shift:.4f} at most"
    for moved in fair.shown:
        before, after = quote(moved.before, LONGEST), quote(moved.after, LONGEST)
        answers = f": {before} -> {after}" if moved.before != moved.after else ""
        yield f"  {moved.place}{answers}" + (f" ({moved.by:+.4f})" if moved.by else "")


def _confusion(confusion: Confusion) -> Iterator[str]:
    yield ""
    yield "rows: the file's class; columns: the model's answer"
    labels = [printable(label, LONGEST) for label in confusion.labels]
    rows = zip(labels, confusion.counts, strict=True)
    yield from _columns(["", *labels], [[label, *map(str, counts)] for label, counts in rows])


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Cells under their names, numbers at the right."""
    every = [header, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(header))]
    for row in every:
        yield "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def _cell(named: tuple[str, float]) -> str:
    """How many there are as a whole number, shares with four decimals."""
    return f"{named[1]:.0f}" if named[0] == "support" else f"{named[1]:.4f}"


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
    return "".join(as_json(line) + "\n" for line in lines)


def as_json(value: object, indent: int | None = None) -> str:
    """Text as it is, but for halves of a surrogate pair, which a data file may hold and no UTF-8 has."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text if text.isascii() or not _HALVES.search(text) else json.dumps(value, indent=indent)
