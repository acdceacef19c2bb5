"""Processes that do parts: each with a model of its own, whose mapped weights they share through the page cache.

Workers are spawned, not forked: a fork would copy a process whose threads, locks and arenas are in the middle of
something, and a server that forks would save the imports alone. Each is told of a part through a pipe and answers
through it; it ends when the pipe does, when the parent dies (a thread waits for that alone), or by SIGTERM.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager, redirect_stderr, suppress
from io import TextIOBase
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import MemoryLimitError, MiaotuiError, MiaotuiWarning
from .parts import Part, do_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from multiprocessing.context import SpawnProcess
    from types import FrameType

    from .inputs import Inputs
    from .journal import Commit
    from .outcomes import Predict

    #: What a worker calls once, in its own process: the task, and how records become its inputs. It is pickled.
    Make = Callable[[], AbstractContextManager[tuple[Predict, Inputs]]]

__all__ = ["Died", "Done", "Failed", "Order", "Pool", "Ready", "Said", "Step", "Worker"]

#: Seconds that a worker has to keep what it did before it is killed.
GRACE = 10.0


@dataclass(frozen=True)
class Order:
    """A part to do, and how (`do_part`)."""

    part: Part
    careful: bool = False
    spoilt: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True)
class Step:
    """How far a part is."""

    now: Commit


@dataclass(frozen=True)
class Done:
    """A part is."""

    now: Commit


@dataclass(frozen=True)
class Failed:
    """A typed error, of the part or, before `Ready`, of the model."""

    error: MiaotuiError


@dataclass(frozen=True)
class Said:
    """A line for standard error; `warned`: a warning of ours."""

    text: str
    warned: bool = False


@dataclass(frozen=True)
class Died:
    """The process is no more, and why."""

    reason: str


class _Stop(BaseException):
    """SIGTERM: end, and keep what is done."""


class Worker:
    """One process, as its parent sees it."""

    def __init__(self, make: Make) -> None:
        """Start it; Ctrl-C of a terminal, which goes to all of its processes, is for the parent alone."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, make), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.ready = False
        self.order: Order | None = None
        self._broken = ""

    @property
    def places(self) -> tuple[Connection, int]:
        """What becomes ready when it says something, or ends."""
        return self._pipe, self.process.sentinel

    def give(self, order: Order) -> None:
        """A part to do. One that cannot hear it has died, which `heard` tells."""
        self.order = order
        with suppress(OSError):
            self._pipe.send(order)

    def heard(self) -> Iterator[Ready | Step | Done | Failed | Said | Died]:
        """What it has said, without waiting for more; last of all that it died."""
        try:
            while self._pipe.poll():
                message = self._pipe.recv()
                if isinstance(message, str):
                    self._broken = message
                else:
                    yield message
        except (EOFError, OSError):
            self.process.join(GRACE)
            if self.process.is_alive():  # one that no longer hears or says anything
                self.process.kill()
                self.process.join()
        if not self.process.is_alive():
            yield Died(self._broken or _reason(self.process.exitcode))

    def end(self) -> None:
        """Ask it to end."""
        if self.process.is_alive():
            self.process.terminate()

    def close(self) -> None:
        """It has ended, or is made to."""
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._pipe.close()
        self.process.close()


class Pool:
    """Up to `n` workers."""

    def __init__(self, make: Make, n: int) -> None:
        """None is started yet."""
        self._make, self.n = make, n
        self.workers: list[Worker] = []

    def start(self) -> None:
        """One more."""
        self.workers.append(Worker(self._make))

    def wait(self) -> list[Worker]:
        """Until some have something to say: these."""
        told = wait([place for worker in self.workers for place in worker.places])
        return [worker for worker in self.workers if any(place in told for place in worker.places)]

    def drop(self, worker: Worker) -> None:
        """One that died."""
        self.workers.remove(worker)
        worker.close()

    def close(self) -> None:
        """End all; what they did is kept."""
        for worker in self.workers:
            worker.end()
        while self.workers:
            self.workers.pop().close()


def _reason(code: int | None) -> str:
    """Why a process ended, from its exit code."""
    if code is None or code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (", as the system does when memory runs out" if -code == signal.SIGKILL else "")


class _Errors(TextIOBase):
    """Standard error of a worker: whole lines are the parent's to print, so that each is printed once."""

    def __init__(self, say: Callable[[object], None]) -> None:
        super().__init__()
        self._say, self._begun = say, ""

    def write(self, text: str) -> int:
        """Keep what has no end yet."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._say(Said(line))
        return len(text)


def _work(pipe: Connection, make: Make) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    speaking = threading.Lock()

    def say(message: object) -> None:
        with speaking:
            pipe.send(message)

    def warned(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:  # noqa: ANN401 - as warnings has it
        if issubclass(category, MiaotuiWarning):
            say(Said(str(message), warned=True))
        else:
            usual(message, category, *where, **how)

    usual, warnings.showwarning = warnings.showwarning, warned
    lost, sys.unraisablehook = sys.unraisablehook, lambda args: _asked_again(args, lost)
    with suppress(_Stop, BrokenPipeError, EOFError), _stoppable(), redirect_stderr(_Errors(say)):
        try:
            with make() as (predict, inputs):
                say(Ready())
                _do(pipe, say, predict, inputs)
        except MiaotuiError as e:
            say(Failed(e))
        except Exception as e:
            say(f"ended ({type(e).__name__}: {e})")
            raise SystemExit(1) from e


def _do(pipe: Connection, say: Callable[[object], None], predict: Predict, inputs: Inputs) -> None:
    """Parts, until there are no more."""
    while True:
        order: Order = pipe.recv()
        try:
            now = do_part(
                order.part,
                inputs,
                predict,
                step=lambda now: say(Step(now)),
                careful=order.careful,
                spoilt=order.spoilt,
            )
        except MemoryLimitError as e:
            say(f"ended ({e})")
            raise SystemExit(1) from e
        except MiaotuiError as e:
            say(Failed(e))
        else:
            say(Done(now))


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM is `_Stop` within; before, it ends the process, and after, it ends anyway."""
    try:
        signal.signal(signal.SIGTERM, _stopped)
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _asked_again(args: sys.UnraisableHookArgs, usual: Callable[[sys.UnraisableHookArgs], object]) -> None:
    """Once more, soon, a `_Stop` that arose where Python drops exceptions: a weak reference's callback, a `__del__`."""
    if not isinstance(args.exc_value, _Stop):
        usual(args)
        return
    signal.signal(signal.SIGTERM, _stopped)
    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()


def _stopped(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stop


def _end_with_parent() -> None:
    """Whatever this process is doing, it ends with the one that reads what it says."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
