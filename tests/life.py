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
    from collections.abc import Callable, Iterator, Sequence

    Ids = Sequence[int]

DEADLINE = 60  # seconds of a step, a hundred times what it takes on a busy machine
LATEST = 0.004  # seconds after which a signal or an exception comes: about as long as a call
DEMO = Path(miaotui.__file__).parent / "tools" / "demo" / "model"
ASKED: list[dict[str, Any]] = [{}, {"temperature": 1.3, "seed": 5}, {"ignore_eos": True}]
BEAMS = 3
DONE: Counter[str] = Counter()  # steps by their rule, and what came of them


class Late(Exception):  # noqa: N818 - as it reads where it is raised
    """What a handler raises that is no KeyboardInterrupt, as a library's time-out does."""


Source = tuple[int, ...] | None


@dataclass
class Spec:
    """A checkpoint, and what it answers alone: a model of one thread, which nothing disturbs.

    `kind`: "decoder", "encoder" (it gives vectors of texts, and hidden states), or "both" (whose decoder reads an
    encoder).
    `room`: tokens of the cache, of which beams of a decoder need more than a text.
    """

    path: Path
    context: int
    kind: str = "decoder"
    room: int | None = None
    n_vocab: int = 0

    def load(self, threads: int) -> miaotui.Model:
        return miaotui.load(self.path, threads=threads, max_context=self.context, cache_tokens=self.room)

    @functools.cached_property
    def alone(self) -> miaotui.Model:
        return self.load(1)

    @property
    def writes(self) -> bool:
        """It generates text."""
        return self.kind != "encoder"

    def ids(self, n: int) -> list[int]:
        """A few ids."""
        random = Random(n)  # noqa: S311 - ids
        return [random.randrange(3, self.n_vocab) for _ in range(1 + n % 11)]

    def prompt(self, n: int) -> list[int]:
        """What a model is asked to go on from; what an encoder reads may take several pages of a cache."""
        return self.ids(n) * (12 if self.kind == "both" and n % 4 == 3 else 1)

    def source(self, n: int) -> Source:
        """What a sequence needs before it reads a first id."""
        return tuple(self.prompt(n)) if self.kind == "both" else None

    def texts(self, n: int) -> list[str]:
        """What an encoder gives vectors of."""
        return [" ".join(f"w{i}" for i in self.ids(n + i)) for i in range(20)]

    @functools.lru_cache(maxsize=10_000)  # noqa: B019 - specs live as long as the process
    def answer(self, ids: tuple[int, ...], asked: int, n: int) -> list[Any]:
        return answered(self.alone, self.kind, ids, asked, n)

    @functools.lru_cache(maxsize=10_000)  # noqa: B019
    def found(self, ids: tuple[int, ...], n: int) -> list[Any]:
        return searched(self.alone, ids, n)

    @functools.lru_cache(maxsize=10_000)  # noqa: B019
    def vectors(self, n: int) -> list[bytes]:
        return [self.alone.encode(text).tobytes() for text in self.texts(n)]  # type: ignore[union-attr]

    @functools.lru_cache(maxsize=10_000)  # noqa: B019
    def continued(self, ids: tuple[int, ...], n: int, source: Source = None) -> list[int]:
        """What follows in a text of these ids, whatever ends there."""
        with self.alone.sequence(source) as text:
            return text.generate(ids, max_new_tokens=n, ignore_eos=True).ids

    @functools.lru_cache(maxsize=10_000)  # noqa: B019
    def logits(self, ids: tuple[int, ...], source: Source = None) -> bytes:
        return last(self.alone, self.kind, ids, source)

    def __hash__(self) -> int:
        return hash(self.path)


SPECS: list[Spec] = []


def answered(model: miaotui.Model, kind: str, ids: Ids, asked: int, n: int) -> list[Any]:
    """Ids that a model writes, or hidden states, as bytes."""
    if kind == "encoder":
        return [model.hidden(ids).tobytes()]
    return list(model.generate(ids, max_new_tokens=n, **ASKED[asked]).ids)


def searched(model: miaotui.Model, ids: Ids, n: int) -> list[Any]:
    """Answers of beams, and their scores."""
    best = model.generate(ids, max_new_tokens=n, num_beams=BEAMS, num_return_sequences=2, ignore_eos=n % 2 == 0)
    return [(g.ids, g.score) for g in (best, *best.alternatives)]


def last(model: miaotui.Model, kind: str, ids: Ids, source: Source) -> bytes:
    """Logits after the last id, or its hidden state."""
    if kind == "encoder":
        rows = model.hidden(ids)
    else:
        rows = model.logits(ids) if source is None else model.logits(source, decoder_ids=ids)
    row: bytes = rows[-1].tobytes()
    return row


def load_and_close(spec: Spec) -> None:
    """A model that lives for a moment."""
    spec.load(2).close()


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
        """Generate, and compare; an encoder's hidden states are compared."""
        ids, model, kind = tuple(self.spec.prompt(n)), self.there, self.spec.kind
        wanted = self.spec.answer(ids, asked, size)
        self.agrees(lambda: answered(model, kind, ids, asked, size), wanted)

    def searches(self, n: int, size: int = 6) -> None:
        """Generate with beams, where there is room for them, and compare."""
        if not self.spec.writes or self.spec.room is None:
            return self.generates(n, 0, size)
        ids, model = tuple(self.spec.prompt(n)), self.there
        wanted = self.spec.found(ids, size)
        self.agrees(lambda: searched(model, ids, size), wanted)
        DONE["beam searches"] += 1
        return None

    def gives_logits(self, n: int) -> None:
        """Compute logits, or hidden states, and compare."""
        ids, model, spec = tuple(self.spec.ids(n)), self.there, self.spec
        source = spec.source(n)
        self.agrees(lambda: last(model, spec.kind, ids, source), spec.logits(ids, source))

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
class Written:
    """A sequence: whose it is, and what its encoder reads."""

    of: Held
    text: miaotui.Sequence
    source: Source = None


@dataclass
class Open:
    """A stream: who makes it, what it has returned and what it will: ids, or vectors as bytes."""

    of: Held
    made: Iterator[Any]
    wanted: list[Any]
    got: list[Any] = field(default_factory=list)

    @staticmethod
    def seen(item: Any) -> Any:
        """What is compared."""
        return item.id if hasattr(item, "id") else item.tobytes()

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
            self.got.append(self.seen(token))
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
                self.held.generates(n % 40, n % len(ASKED)) if n % 3 else self.held.searches(n % 40)
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
