"""What the endpoints of one server share."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar, cast

from .admission import Admission
from .metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...model import Model
    from .served import Served
    from .settings import Settings

__all__ = ["State"]

T = TypeVar("T")


class State:
    """Settings, models, admission, metrics, and the threads that prepare requests."""

    def __init__(self, served: Served, settings: Settings) -> None:
        """Made once; its threads start when they are needed."""
        self.served, self.settings = served, settings
        self.admission, self.metrics = Admission(settings), Metrics()
        #: Beams hold a thread each that takes passes, from their first step to their last: others need some too.
        self.searches = asyncio.Semaphore(settings.searches)
        self._kept: dict[tuple[object, int], object] = {}
        self._threads = ThreadPoolExecutor(settings.preparing_threads, thread_name_prefix="miaotui-prepare")

    async def prepare(self, work: Callable[[], T]) -> T:
        """Work that must not keep the event loop waiting, nor its executor's threads, which take the passes."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def compute(self, work: Callable[[], T]) -> T:
        """Work that takes passes: a thread of those that take the passes of answers."""
        return await asyncio.get_running_loop().run_in_executor(None, work)

    def kept(self, model: Model, make: Callable[[Model], T]) -> T:
        """What `make` makes of a model, once. Threads that meet may each make it."""
        key = make, id(model)
        if key not in self._kept:
            self._kept[key] = make(model)
        return cast("T", self._kept[key])

    def close(self) -> None:
        """End the threads, once what they do is done."""
        self._threads.shutdown(cancel_futures=True)
