"""A model's life as a state machine: threads, streams, sequences, closes, drops, forks and signals in any order.

After every step what answered has the bits of the answer made alone, or was a typed error; no thread of a model that is
closed or gone is left, no page is lost, and nothing hangs: a step that takes too long ends the process with a traceback
of every thread. So the machine runs in a process of its own, one for each executor (MIAOTUI_EXECUTOR).
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import json
import os
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import life
import pytest
import soak
from checkpoints import Drawn, small, write_checkpoint
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from life import ASKED, BEAMS, DEADLINE, DONE, LATEST, SPECS, Held, Late, Open, Spec, Worker, Written
from miaotui.errors import InputError
from miaotui.runtime.kvcache import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = st.integers(0, 39)
MOMENTS = st.integers(0, 1000).map(lambda n: n * LATEST / 1000)
ERRORS = st.sampled_from([KeyboardInterrupt, Late])
CALLS = st.sampled_from(["generate", "search", "feed", "fork", "truncate", "stream", "load", "close", "logits"])


def told(act: Callable[..., None]) -> Callable[..., None]:
    """What fails first is printed at once: Hypothesis does all of it again, and perhaps it then ends otherwise."""

    @functools.wraps(act)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            act(*args, **kwargs)
        except (Exception, KeyboardInterrupt):
            traceback.print_exc()
            raise

    return wrapped


class Life(RuleBasedStateMachine):
    """What is asked of models in any order. Numbers choose among what is there, so that every call has a meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[Held] = []
        self.texts: list[Written] = []
        self.streams: list[Open] = []
        self.workers: list[Worker] = []
        self.sessions: list[tuple[int, weakref.ref[Any]]] = []  # threads that each has started at most
        for which in (0, 3, 5):
            self.load(which, 2)

    def chosen(self, n: int) -> Held:
        return self.models[n % len(self.models)]

    # ---------------------------------------------------------------------------------------------- models

    @rule(which=NUMBERS, threads=st.integers(1, 3))
    @told
    def load(self, which: int, threads: int) -> None:
        spec = SPECS[which % len(SPECS)]
        model = spec.load(threads)
        self.sessions.append((threads - 1, weakref.ref(model.session)))
        self.models.append(Held(spec, model))
        if len(self.models) > 4:
            self.leave(self.models[0])

    @rule(which=NUMBERS, times=st.integers(1, 2))
    @told
    def close(self, which: int, times: int) -> None:
        held = self.closing(which)
        for _ in range(times):
            held.close()

    @rule(which=NUMBERS, n=st.integers(2, 4))
    @told
    def close_from_threads(self, which: int, n: int) -> None:
        held = self.closing(which)
        life.in_threads(*[held.close] * n)

    @rule(which=NUMBERS, late=MOMENTS, n=NUMBERS)
    @told
    def close_in_a_handler(self, which: int, late: float, n: int) -> None:
        held = self.closing(which)
        held.spec.answer(tuple(held.spec.prompt(n)), 0, 12)
        life.signalled(lambda: held.generates(n, 0, 12), late, held.close)

    def closing(self, which: int) -> Held:
        """A model to close; one that was closed before makes room for a new one, as most steps should get answers."""
        for held in [h for h in self.models if h.closed]:
            self.leave(held)
            self.load(which, 1 + which % 3)
        return self.chosen(which)

    @rule(which=NUMBERS, other=NUMBERS, n=NUMBERS, late=MOMENTS)
    @told
    def generate_in_a_handler(self, which: int, other: int, n: int, late: float) -> None:
        """A model answers, unless the same thread is inside a step of it; who was interrupted goes on."""
        held, inner = self.chosen(which), self.chosen(other)
        held.spec.answer(tuple(held.spec.prompt(n)), 0, 12)
        inner.spec.answer(tuple(inner.spec.prompt(n)), 1, 6)

        def generate() -> None:
            try:
                inner.generates(n, 1)
            except InputError as e:
                assert held is inner, e  # noqa: PT017 - raised or not
                assert "let it set a flag" in str(e)  # noqa: PT017
                DONE["refused: inside a step"] += 1

        life.signalled(lambda: held.generates(n, 0, 12), late, generate)

    @rule(which=NUMBERS)
    @told
    def drop(self, which: int) -> None:
        """Nobody has it any more but what is open; where nothing is, all of it goes."""
        self.leave(self.chosen(which))

    def leave(self, held: Held) -> None:
        self.models.remove(held)
        for worker in [w for w in self.workers if w.held is held]:
            worker.end()
        self.workers = [w for w in self.workers if w.held is not held]
        held.model = None
        if not self.models:
            self.load(1, 1)

    # ---------------------------------------------------------------------------------------------- answers

    @rule(which=NUMBERS, n=NUMBERS, asked=st.integers(0, 2))
    @told
    def generate(self, which: int, n: int, asked: int) -> None:
        self.chosen(which).generates(n, asked)

    @rule(which=NUMBERS, n=NUMBERS)
    @told
    def search(self, which: int, n: int) -> None:
        """With beams."""
        self.chosen(which).searches(n)

    @rule(calls=st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), min_size=2, max_size=6))
    @told
    def generate_in_threads(self, calls: list[tuple[int, int, bool]]) -> None:
        acts: list[Callable[[], None]] = []
        for which, n, beams in calls:
            held = self.chosen(which)
            acts.append(functools.partial(held.searches, n) if beams else functools.partial(held.generates, n, n % 3))
        life.in_threads(*acts)

    @rule(which=NUMBERS, n=NUMBERS)
    @told
    def begin_work(self, which: int, n: int) -> None:
        if len(self.workers) == 2:
            self.workers.pop(0).end()
        self.workers.append(Worker(self.chosen(which), n))
        self.workers[-1].start()

    @rule()
    @told
    def end_work(self) -> None:
        if self.workers:
            self.workers.pop().end()

    # ---------------------------------------------------------------------------------------------- streams

    @rule(which=NUMBERS, n=NUMBERS, asked=st.integers(0, 2))
    @told
    def stream(self, which: int, n: int, asked: int) -> None:
        """Of ids; an encoder's of vectors, of texts that are asked for one by one."""
        held = self.chosen(which)
        ids, made = held.spec.prompt(n), None
        if held.spec.writes:
            made = held.there.tokens(ids, max_new_tokens=20, **ASKED[asked])
            self.streams.append(Open(held, made, held.spec.answer(tuple(ids), asked, 20)))
        else:
            wanted = held.spec.vectors(n)
            made = held.there.encode(iter(held.spec.texts(n)))
            self.streams.append(Open(held, made, wanted))  # type: ignore[arg-type]  # an iterator of an iterator
        del self.streams[:-5]

    @rule(which=NUMBERS, n=st.integers(1, 8), elsewhere=st.booleans())
    @told
    def advance(self, which: int, n: int, elsewhere: bool) -> None:  # noqa: FBT001 - drawn
        if self.streams:
            stream, goes_on = self.streams.pop(which % len(self.streams)), list[bool]()
            life.in_threads(lambda: goes_on.append(stream.advance(n))) if elsewhere else goes_on.append(
                stream.advance(n)
            )
            self.streams += [stream] * goes_on[0]

    @rule(which=NUMBERS)
    @told
    def read_by_two(self, which: int) -> None:
        """Each id is read once; a reader that meets the other is refused."""
        if not self.streams:
            return
        stream, refused = self.streams.pop(which % len(self.streams)), list[str]()

        def read() -> None:
            try:
                while (item := next(stream.made, None)) is not None:
                    stream.got.append(stream.seen(item))
            except InputError as e:
                refused.append(str(e))

        life.in_threads(read, read)
        if any("was closed" in words for words in refused):
            assert stream.of.closing
        else:
            assert sorted(stream.got) == sorted(stream.wanted), refused

    @rule(which=NUMBERS, kindly=st.booleans())
    @told
    def end_stream(self, which: int, kindly: bool) -> None:  # noqa: FBT001 - drawn
        if self.streams:
            stream = self.streams.pop(which % len(self.streams))
            if kindly:
                stream.made.close()  # type: ignore[attr-defined]

    # ---------------------------------------------------------------------------------------------- sequences

    @rule(which=NUMBERS)
    @told
    def sequence(self, which: int) -> None:
        held = self.chosen(which)
        if held.spec.writes:
            source = held.spec.source(which)
            self.texts.append(Written(held, held.there.sequence(source), source))
            del self.texts[:-5]

    @rule(which=NUMBERS, n=NUMBERS)
    @told
    def feed(self, which: int, n: int) -> None:
        if self.texts:
            self.fed(self.texts[which % len(self.texts)], n)

    @staticmethod
    def fed(written: Written, n: int) -> None:
        held, text, ids = written.of, written.text, written.of.spec.ids(n)
        if len(text) + len(ids) > held.spec.context:
            text.truncate(n % 7)
        whole = (*text.ids, *ids)
        held.agrees(lambda: text.feed(ids).tobytes(), held.spec.logits(whole, written.source))

    @rule(which=NUMBERS, n=NUMBERS)
    @told
    def go_on(self, which: int, n: int) -> None:
        if self.texts:
            written = self.texts[which % len(self.texts)]
            held, text = written.of, written.text
            self.fed(written, n)
            if not len(text):  # the model was closed before its first id
                return
            size = min(4, held.spec.context - len(text))
            wanted = held.spec.continued(tuple(text.ids), size, written.source)
            held.agrees(lambda: text.generate(max_new_tokens=size, **ASKED[2]).ids, wanted)

    @rule(which=NUMBERS, n=NUMBERS)
    @told
    def fork_text(self, which: int, n: int) -> None:
        if self.texts:
            written = self.texts[which % len(self.texts)]
            twin = Written(written.of, written.text.fork(), written.source)
            self.fed(twin, n)
            self.texts.append(twin)
            del self.texts[:-5]

    @rule(which=NUMBERS, n=NUMBERS)
    @told
    def truncate(self, which: int, n: int) -> None:
        if self.texts:
            text = self.texts[which % len(self.texts)].text
            text.truncate(n % (len(text) + 1))

    @rule(which=NUMBERS, kindly=st.booleans())
    @told
    def end_text(self, which: int, kindly: bool) -> None:  # noqa: FBT001 - drawn
        if self.texts:
            text = self.texts.pop(which % len(self.texts)).text
            if kindly:
                text.close()

    # ---------------------------------------------------------------------------------------------- what disturbs

    @rule(which=NUMBERS, n=NUMBERS, late=MOMENTS)
    @told
    def fork_process(self, which: int, n: int, late: float) -> None:
        """The child generates, and reads on where this thread's stream is; both go on."""
        held = self.chosen(which)
        held.spec.answer(tuple(held.spec.prompt(n)), 1, 6)
        time.sleep(late)

        def work() -> None:
            held.generates(n, 1)
            for stream in self.streams[:1]:
                stream.advance(100)
            held.close()

        life.in_child(work)

    @rule(call=CALLS, which=NUMBERS, n=NUMBERS, late=MOMENTS, error=ERRORS)
    @told
    def signal(self, call: str, which: int, n: int, late: float, error: type[BaseException]) -> None:
        """A real signal somewhere in a call, whose handler raises."""
        act, after = self.act(call, which, n)

        def handle() -> None:
            raise error

        DONE["interrupted calls"] += life.signalled(act, late, handle)
        after()

    @rule(call=CALLS, which=NUMBERS, n=NUMBERS, late=MOMENTS, error=ERRORS)
    @told
    def throw(self, call: str, which: int, n: int, late: float, error: type[BaseException]) -> None:
        """An exception that comes into another thread somewhere in a call."""
        act, after = self.act(call, which, n)
        DONE["interrupted calls"] += life.struck(act, late, error)
        after()

    @rule(call=CALLS, which=NUMBERS, n=NUMBERS, late=MOMENTS, error=ERRORS)
    @told
    def signal_again(self, call: str, which: int, n: int, late: float, error: type[BaseException]) -> None:
        """Most of what can go wrong is there: it is drawn more often."""
        self.signal(call, which, n, late, error)

    def act(self, call: str, which: int, n: int) -> tuple[Callable[[], object], Callable[[], object]]:
        """Something to interrupt, and what then must hold."""
        held = self.chosen(which)
        again = functools.partial(held.generates, n, 0)
        if call == "close":
            held = self.closing(which)
            return held.close, held.close
        if call == "load":
            return functools.partial(life.load_and_close, held.spec), again
        if call in {"logits", "search"}:
            return functools.partial(held.gives_logits if call == "logits" else held.searches, n), again
        if call == "stream" and self.streams:
            stream = self.streams.pop(which % len(self.streams))  # it ends where it is interrupted
            return lambda: stream.advance(100), again
        if call in {"feed", "fork", "truncate"} and self.texts:
            written = self.texts[which % len(self.texts)]
            text, spec = written.text, written.of.spec
            whole = (*text.ids, *spec.ids(n))
            if len(whole) <= spec.context:
                spec.logits(whole, written.source)
            acts = {"feed": lambda: self.fed(written, n), "fork": text.fork, "truncate": lambda: text.truncate(0)}
            return acts[call], functools.partial(self.fed, written, n)
        spec, ids = held.spec, held.spec.prompt(n)
        spec.answer(tuple(ids), 0, 12)
        return lambda: held.generates(n, 0, 12), again

    # ---------------------------------------------------------------------------------------------- what holds

    def check_invariants(self, *args: Any, **kwargs: Any) -> None:
        """Count a step, and look what holds; the next has its time from here."""
        DONE["steps"] += 1
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        super().check_invariants(*args, **kwargs)

    @invariant()
    @told
    def workers_are_right(self) -> None:
        for worker in self.workers:
            assert not worker.wrong, worker.wrong

    @invariant()
    @told
    def no_page_is_lost(self) -> None:
        for held in self.models:
            if not held.closed:
                held.there.session.turn(functools.partial(self.counted, held))

    def counted(self, held: Held) -> None:
        """Pages are free or held, and held by what is open alone."""
        session = held.there.session
        session.collect()
        pools = [session.pages] if session.sources is None else [session.pages, session.sources.pages]
        users = BEAMS * sum(w.held is held and w.is_alive() for w in self.workers)
        users += sum(s.of is held for s in self.streams) + sum(t.of is held for t in self.texts)
        for pages in pools:
            if not pages.torn:
                before = list(pages.n_free)
                pages.recount()
                assert pages.n_free == before
            spare = (session._own, *session.kept)  # kept for texts that begin alike, until their pages are needed
            holders = [t for t in pages.tables if t.n_pages and t not in spare]
            assert len(holders) <= users, "a sequence that is gone holds pages"

    @invariant()
    @told
    def no_thread_is_left(self) -> None:
        """Of models that are closed, or that nobody can use any more."""
        if os.environ.get("MIAOTUI_EXECUTOR") == "prange":  # Numba's own threads
            return
        used = {id(h.session()) for h in [*self.models, *(s.of for s in self.streams), *(t.of for t in self.texts)]}
        allowed = 0
        for threads, ref in self.sessions:
            session = ref()
            assert session is None or id(session) in used, "a model that was dropped is still there"
            allowed += 0 if session is None or session._closed else threads
        self.sessions = [(n, ref) for n, ref in self.sessions if ref() is not None]
        end = time.monotonic() + 10
        while (extra := len(os.listdir("/proc/self/task")) - USUAL[0] - threading.active_count()) > allowed:  # noqa: PTH208
            assert time.monotonic() < end, f"{extra} threads of models, where {allowed} may be"
            time.sleep(0.001)  # a thread that has ended is counted for a moment

    def teardown(self) -> None:
        """Everything is let go of, in the order of its making; nothing stays."""
        while self.workers:
            self.workers.pop().end()
        for lists in (self.streams, self.texts, self.models):
            lists.clear()
        gc.collect()
        self.no_thread_is_left()
        assert not self.sessions or all(ref() is None for _, ref in self.sessions)


USUAL = [0]  # threads that are no model's, nor Python's


def main() -> None:
    """Arguments: steps, seed, a folder with an encoder and an encoder-decoder. What was done is printed as JSON.

    `executor` is in the environment.
    """
    steps, first, given = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "unclosed <miaotui.Model", ResourceWarning)
    sys.setswitchinterval(1e-4)  # threads meet more often
    sys.unraisablehook = threading.excepthook = lambda *_: None  # type: ignore[assignment]  # what was interrupted
    faulthandler.enable()
    with TemporaryDirectory() as folder:
        windowed = small("mistral")
        drawn = Drawn(windowed.config | {"max_position_embeddings": 160, "sliding_window": 20}, "F32", 3)
        for name, model in {"windowed": drawn, "plain": small("gpt2")}.items():
            write_checkpoint(Path(folder) / name, model)
        SPECS[:] = [Spec(life.DEMO, 64), Spec(Path(folder) / "windowed", 150), Spec(Path(folder) / "plain", 64),
                    Spec(life.DEMO, 64, room=BEAMS * PAGE), Spec(given / "encoder", 64, "encoder"),
                    Spec(given / "both", 2 * PAGE, "both", BEAMS * PAGE)]  # fmt: skip
        for spec in SPECS:
            spec.n_vocab = spec.alone.config.n_vocab
            spec.answer((5,), 0, 2)
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        USUAL[0] = len(os.listdir("/proc/self/task")) - threading.active_count()  # noqa: PTH208
        how = settings(
            max_examples=10, stateful_step_count=50, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck), print_blob=False,
        )  # fmt: skip
        while DONE["steps"] < steps:
            run_state_machine_as_test(seed(first)(Life), settings=how)
            first += 1
        faulthandler.cancel_dump_traceback_later()
        for spec in SPECS:
            spec.alone.close()
    print(json.dumps(DONE))  # noqa: T201


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small BERT that has a tokenizer, and a small BART."""
    encoders, both = pytest.importorskip("test_encoders"), pytest.importorskip("test_seq2seq")
    folder: Path = tmp_path_factory.mktemp("given")
    bert = encoders.transformers.BertConfig(
        vocab_size=304, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20
    )
    encoders.made(bert, folder / "encoder")
    encoders.word_pieces(folder / "encoder")
    both.made(both.small_config(), folder / "both")
    return folder


def lived(executor: str, steps: int, first: int, given: Path, seconds: float) -> None:
    """Run the machine in a process of its own, whose steps are told to a soak's result."""
    command = [sys.executable, __file__, str(steps), str(first), str(given)]
    env = os.environ | {"MIAOTUI_EXECUTOR": executor, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 0, f"seed {first}: {done.stdout[-3000:]}{done.stderr[-12000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["steps"] >= steps
    assert min(told.get(what, 0) for what in ("right answers", "beam searches", "children", "interrupted calls")) > 0
    for what, n in told.items():
        soak.count(f"{executor}: {what}", n)


@pytest.mark.ci  # 15 s, both
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("executor", "steps"), [("team", 500), ("prange", 200)])
def test_whatever_happens_answers_are_right(given: Path, executor: str, steps: int) -> None:
    lived(executor, steps, 1, given, 300)


@pytest.mark.soak("life")
@pytest.mark.parametrize(("executor", "steps"), [("team", 10_000), ("prange", 10_000)])
def test_ten_thousand_steps(pytestconfig: pytest.Config, given: Path, executor: str, steps: int) -> None:
    lived(executor, steps, int(pytestconfig.getoption("hypothesis_seed") or time.time_ns() % 2**32), given, 3600)


if __name__ == "__main__":
    main()
