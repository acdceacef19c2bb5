"""What the state machine of a model's life is made of (`test_life_machine.py`).

Models with what they answer alone, streams with what they will return, and ways to disturb a call.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import miaotui
from miaotui.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE = 60  # seconds of a step, a hundred times what it takes on a busy machine
LATEST = 0.004  # seconds after which a signal or an exception comes: about as long as a call
DEMO = Path(miaotui.__file__).parent / "tools" / "demo" / "model"
ASKED: list[dict[str, Any]] = [{}, {"temperature": 1.3, "seed": 5}, {"ignore_eos": True}]
DONE: Counter[str] = Counter()  # steps by their rule, and what came of them


class Late(Exception):  # noqa: N818 - as it reads where it is raised
    """What a handler raises that is no KeyboardInterrupt, as a library's time-out does."""


@dataclass
class Spec:
    """A checkpoint, and what it answers alone: a model of one thread, which nothing disturbs."""

    path: Path
    context: int
    n_vocab: int = 0

    @functools.cached_property
    def alone(self) -> miaotui.Model:
        return miaotui.load(self.path, threads=1, max_context=self.context)

    def prompt(self, n: int) -> list[int]:
        random = Random(n)  # noqa: S311 - ids
        return [random.randrange(self.n_vocab) for _ in range(1 + n % 11)]

    @functools.lru_cache(maxsize=10_000)  # noqa: B019 - specs live as long as the process
    def answer(self, ids: tuple[int, ...], asked: int, n: int) -> list[int]:
        return self.alone.generate(ids, max_new_tokens=n, **ASKED[asked]).ids

    @functools.lru_cache(maxsize=10_000)  # noqa: B019
    def logits(self, ids: tuple[int, ...]) -> bytes:
        row: bytes = self.alone.logits(ids)[-1].tobytes()
        return row

    def __hash__(self) -> int:
        return hash(self.path)


SPECS: list[Spec] = []


def load_and_close(spec: Spec) -> None:
    """A model that lives for a moment."""
    miaotui.load(spec.path, threads=2, max_context=spec.context).close()


@dataclass
class Held:
    """A model as the machine holds it: until it is dropped, then its streams and sequences alone do."""

    spec: Spec
    model: miaotui.Model | None
    closing: bool = False  # from now on a call may be refused
    closed: bool = False  # every call must be

    def __post_init__(self) -> None:
        self.session = weakref.ref(self.there.session)

    @property
    def there(self) -> miaotui.Model:
        assert self.model is not None
        return self.model

    def close(self) -> None:
        self.closing = True
        self.there.close()
        self.closed = True

    def generates(self, n: int, asked: int, size: int = 6) -> None:
        """Generate, and compare."""
        ids, model = self.spec.prompt(n), self.there
        wanted = self.spec.answer(tuple(ids), asked, size)

        def answer() -> list[int]:
            return model.generate(ids, max_new_tokens=size, **ASKED[asked]).ids

        self.agrees(answer, wanted)

    def gives_logits(self, n: int) -> None:
        """Compute logits, and compare."""
        ids, model = self.spec.prompt(n), self.there

        def last() -> bytes:
            row: bytes = model.logits(ids)[-1].tobytes()
            return row

        self.agrees(last, self.spec.logits(tuple(ids)))

    def agrees(self, call: Callable[[], Any], wanted: object) -> None:
        """What a call returns is wanted; where the model is closed, it is refused."""
        was_closed = self.closed
        try:
            got = call()
        except InputError as e:
            if not self.closing or "was closed" not in str(e):
                raise
            DONE["refused: the model was closed"] += 1
            return
        assert not was_closed, "a closed model answered"
        assert got == wanted
        DONE["right answers"] += 1


@dataclass
class Open:
    """A stream: who makes it, what it has returned and what it will."""

    of: Held
    made: Iterator[Any]
    wanted: list[int]
    got: list[int] = field(default_factory=list)

    def advance(self, n: int) -> bool:
        """Read n ids at most; whether it goes on."""
        for _ in range(n):
            try:
                token = next(self.made, None)
            except InputError as e:
                if not self.of.closing or "was closed" not in str(e):
                    raise
                return False
            if token is None:
                assert self.got == self.wanted
                return False
            self.got.append(token.id)
            assert self.got == self.wanted[: len(self.got)]
            DONE["right tokens"] += 1
        return True


class Worker(threading.Thread):
    """Generates until it is told to end, or its model is closed; what went wrong is in `wrong`."""

    def __init__(self, held: Held, first: int) -> None:
        super().__init__(daemon=True)
        self.held, self.first, self.over, self.wrong = held, first, False, list[BaseException]()

    def run(self) -> None:
        try:
            n = self.first
            while not self.over and not self.held.closing:
                self.held.generates(n % 40, n % len(ASKED))
                n += 1
        except BaseException as e:  # noqa: BLE001 - the machine says it
            self.wrong.append(e)

    def end(self) -> None:
        self.over = True
        self.join()
        assert not self.wrong, self.wrong


def in_threads(*calls: Callable[[], object]) -> None:
    """Call all at the same time. Errors: those of the calls, the first of them."""
    wrong: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as e:  # noqa: BLE001 - raised below
            wrong.append(e)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if wrong:
        raise wrong[0]


def signalled(act: Callable[[], object], late: float, handle: Callable[[], None]) -> bool:
    """Do `act`, with a handler that SIGALRM calls after `late` seconds. Whether what it raised came out."""
    live = True

    def handler(*_: object) -> None:
        if live:
            DONE["signals"] += 1
            handle()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(late, 1e-6))
        act()
        live = False
    except (KeyboardInterrupt, Late):
        return True
    finally:
        live = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return False


def struck(act: Callable[[], object], late: float, error: type[BaseException]) -> bool:
    """Do `act` in a thread, into which `error` is thrown after `late` seconds. Whether it came out."""
    inside, hit, wrong = [False], [False], list[BaseException]()

    def run() -> None:
        try:
            inside[0] = True
            act()
            inside[0] = False
        except (KeyboardInterrupt, Late):
            hit[0] = True
        except BaseException as e:  # noqa: BLE001 - raised below
            wrong.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(late)
    if inside[0] and thread.ident is not None:
        DONE["thrown"] += ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(error)
        )
    thread.join()
    if wrong:
        raise wrong[0]
    return hit[0]


def in_child(work: Callable[[], object]) -> None:
    """Do it in a forked child, which ends well or says why not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads
        child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - told by the code
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    end = time.monotonic() + DEADLINE / 2
    done = status = 0
    while not done and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.0002)
    if not done:
        os.kill(child, signal.SIGABRT)  # faulthandler says where it hangs
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child" + (" hung" if not done else " failed")
    DONE["children"] += 1


def pages_are_counted(model: miaotui.Model) -> None:
    """After a step, which collects what was dropped, the pages that are counted as free are those that are."""
    model.session.step([1], 0)
    pages = model.session.pages
    counted = list(pages.n_free)
    pages.recount()
    assert pages.n_free == counted
