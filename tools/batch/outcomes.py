"""What becomes of records: a result each, in order, or what is wrong with them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import InputError, TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .inputs import Inputs
    from .records import Record

    #: Inputs -> a result for each, in order, perhaps as they come.
    Predict = Callable[[list[Any]], Iterable[Any]]

__all__ = ["Outcome", "apart", "error_line", "outcomes"]

#: A place in a list that the user never made.
_ITEM = re.compile(r" \(item 0 of the input, counted from 0\)$")


@dataclass(frozen=True)
class Outcome:
    """What became of a record: a line of output, or what is wrong with it."""

    record: Record
    line: bytes = b""
    wrong: str | None = None


def outcomes(chunk: Sequence[Record], inputs: Inputs, predict: Predict) -> Iterator[Outcome]:
    """Of each record, in order, as results come."""
    taken: list[Any] = []
    wrongs = [record.wrong for record in chunk]
    for i, record in enumerate(chunk):
        if record.wrong is None:
            try:
                taken.append(inputs.of(record.value))
            except ValueError as e:
                wrongs[i] = str(e)
    results = apart(predict, taken)
    for record, wrong in zip(chunk, wrongs, strict=True):
        if wrong is not None:
            yield Outcome(record, wrong=wrong)
            continue
        result = next(results)
        if isinstance(result, InputError | TokenizerError):
            yield Outcome(record, wrong=str(result))
        else:
            yield _said(record, inputs.kept(record.value), result)


def apart(predict: Predict, values: list[Any]) -> Iterator[Any]:
    """A result for each, or what is wrong with it: where one of them is bad, halves of what is left are tried."""
    if not values:
        return
    n = 0
    try:
        for result in predict(values):
            yield result
            n += 1
    except (InputError, TokenizerError) as e:
        left = values[n:]
        if len(left) == 1:
            yield type(e)(_ITEM.sub("", str(e)))
            return
    else:
        return
    half = len(left) // 2
    yield from apart(predict, left[:half])
    yield from apart(predict, left[half:])


def _said(record: Record, kept: Mapping[str, Any], result: object) -> Outcome:
    try:
        return Outcome(record, _json({"line": record.line, **kept, "output": result}))
    except ValueError as e:
        return Outcome(record, wrong=f"its result is not to be written as JSON ({e})")


def error_line(outcome: Outcome) -> bytes:
    """What is told of a bad record in the file of `--errors`."""
    text = outcome.record.raw.decode("utf-8", "backslashreplace")
    return _json({"line": outcome.record.line, "error": outcome.wrong, "input": text})


def _json(value: Mapping[str, Any]) -> bytes:
    """A line. Text stays as it is, but for half a surrogate pair, which no UTF-8 has. `ValueError`: NaN."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:  # noqa: ANN401 - NumPy's numbers and arrays
    if hasattr(value, "tolist"):
        return value.tolist()
    msg = f"{type(value).__name__} is no JSON"
    raise ValueError(msg)
