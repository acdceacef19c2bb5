"""Parts to Daft (the extra `daft`): its native runner on this machine, or the cluster that it is told of.

A row is a part, so that files are written as `do_part` writes them: in order, with journals, byte by byte the same.
On a cluster every machine must see the files and the model under the same names.
"""

from __future__ import annotations

import os
import pickle
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, MiaotuiError, WorkerError
from .parts import do_part

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from .dispatch import Result
    from .parts import Part
    from .workers import Make

__all__ = ["by_daft"]

#: Parts of a query.
MOST = 4096


class _Doer:
    """What a worker of Daft makes once: the task, and a model at its first part."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._opened = ExitStack()
        self._task: Any = None

    def do(self, parts: Any) -> list[bytes]:  # noqa: ANN401 - a series of pickled parts
        """What each came to, pickled, typed errors too: Daft would end the query with the first."""
        results = []
        for part in map(pickle.loads, parts.to_pylist()):
            try:
                if self._task is None:
                    self._task = self._opened.enter_context(self._make())
                predict, inputs = self._task
                result: Any = do_part(part, inputs, predict, step=lambda _: None)
            except MiaotuiError as e:
                result = e
            results.append(pickle.dumps((part.number, result)))
        return results


def by_daft(parts: Iterator[Part | None], make: Make, n: int) -> Generator[Result]:
    """As `by_processes`. Errors: `BackendError` without Daft; `WorkerError` where a query ends otherwise."""
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")  # ours says how far it is
    try:
        import daft  # noqa: PLC0415 - an extra
    except ImportError as e:
        msg = "--engine daft: needs Daft: pip install 'miaotui[daft]'; --engine processes needs nothing"
        raise BackendError(msg) from e

    class Doer(_Doer):
        do = daft.method.batch(return_dtype=daft.DataType.binary(), batch_size=1)(_Doer.do)

    doer = daft.cls(Doer, max_concurrency=n, use_process=True)(make)
    while some := _some(parts):
        frame = daft.from_pydict({"part": [pickle.dumps(part) for part in some.values()]})
        try:
            with closing(frame.select(doer.do(frame["part"]).alias("result")).iter_rows()) as rows:
                for row in rows:
                    number, result = pickle.loads(row["result"])  # noqa: S301 - our own
                    yield some[number], result
        except MiaotuiError:
            raise
        except Exception as e:
            said = " ".join(str(e).split())[:300]
            msg = f"--engine daft: a query ended with {type(e).__name__}: {said}; the same command goes on from there"
            raise WorkerError(msg) from e


def _some(parts: Iterator[Part | None]) -> dict[int, Part]:
    """The next parts, by number; none where there are no more."""
    some: dict[int, Part] = {}
    for part in parts:
        if part is None:
            break
        some[part.number] = part
        if len(some) == MOST:
            break
    return some
