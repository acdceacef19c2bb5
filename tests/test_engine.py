"""The scheduler over a table for a model: whatever waits together, a text gets what it gets alone."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from miaotui.errors import InputError
from miaotui.runtime.engine.choice import OVERTAKEN
from miaotui.runtime.engine.prefixes import begins_like
from miaotui.runtime.engine.scheduler import Engine
from miaotui.runtime.engine.wants import Run, Want
from miaotui.runtime.pages import Caller, Pages
from miaotui.runtime.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miaotui.runtime.pages import Table

SIZE, CONTEXT, CHUNK, ROWS = 16, 96, 24, 4
VOCAB = 7


def follows(ids: Sequence[int]) -> int:
    """What the model says after a text: it depends on all of it."""
    return hash(tuple(ids)) % VOCAB


class Model(Turns):
    """What the engine asks of a session. A page remembers the ids whose keys lie in it."""

    def __init__(self, n_pages: int, windows: tuple[int | None, ...] = (None,)) -> None:
        super().__init__(Pages(n_pages, SIZE, windows, self.copied))
        self.chunk, self.n_logits = CHUNK, ROWS
        self.memory = [[[-1] * SIZE for _ in range(n_pages)] for _ in windows]
        self.passes: list[list[tuple[Table, list[int], int, int]]] = []
        self.rows: list[list[int]] = []
        self.engine = Engine(self)  # type: ignore[arg-type]

    def copied(self, group: int, source: int, target: int) -> None:
        self.memory[group][target] = list(self.memory[group][source])

    def collect(self) -> None:
        pass

    def ready(self, table: Table, n: int, n_logits: int) -> None:
        self.pages.truncate(table, n - n_logits)

    def run_pass(self, parts: list[tuple[Table, list[int], int, int]], *, reserved: bool, draws: list[object]) -> None:
        """As a session: keys are written where the tables say; a row is the text that the pages have."""
        assert reserved
        assert not draws
        assert 0 < sum(len(ids) for _, ids, _, _ in parts) <= CHUNK
        assert sum(rows for *_, rows in parts) <= ROWS
        assert len({id(table) for table, *_ in parts}) == len(parts)
        self.passes.append(parts)
        self.rows = []
        for table, ids, start, n_rows in parts:
            table.used = len(self.passes)
            assert table.cached == start
            assert self.may_write(table, start + len(ids)), "a pass whose pages were not there"
            for g, memory in enumerate(self.memory):
                for slot, token in enumerate(ids, start):
                    memory[table.numbers[g, slot // SIZE]][slot % SIZE] = token
            table.cached = start + len(ids)
            self.rows += [self.seen(table, slot) for slot in range(table.cached - n_rows, table.cached)]
            self.pages.forget_unseen(table)

    def may_write(self, table: Table, end: int) -> bool:
        """Whether it has pages up to there, and nobody else has a slot that it writes.

        What began after it in the same choice may share the page, of which it reads the slots before.
        """
        others = [t for t in self.pages.tables if t is not table and t.cached > table.cached]
        for g in range(len(self.memory)):
            mine = set(table.numbers[g, table.cached // SIZE : table.high[g]].tolist())
            if table.high[g] * SIZE < end or any(mine & {*t.numbers[g, t.low[g] : t.high[g]].tolist()} for t in others):
                return False
        return True

    def seen(self, table: Table, slot: int) -> list[int]:
        """The text up to a slot, as the pages have it."""
        return [self.memory[0][table.numbers[0, i // SIZE]][i % SIZE] for i in range(slot + 1)]

    def text(self, ids: Sequence[int] = (), priority: int = 0) -> Text:
        return Text(self, list(ids), priority)


class Text:
    """A sequence, which somebody waits for as long as it is `going`."""

    def __init__(self, model: Model, ids: list[int], priority: int) -> None:
        self.model, self.ids, self.table = model, ids, model.pages.table(CONTEXT)
        self.table.begin(priority)
        self.want: Want | None = None

    def ask(self, rows: int = 1) -> Want:
        def take(row: int) -> int:
            assert self.model.rows[row + rows - 1] == self.ids
            return follows(self.ids)

        self.want = Want(self.table, self.ids, take, rows)
        return self.want

    def run(self, most: int, ends: tuple[int, ...] = ()) -> Run:
        def draw(row: int, n: int) -> int:
            assert self.model.rows[row] == [*self.ids, *run.drawn]
            assert n == len(self.ids) + len(run.drawn)
            return follows(self.model.rows[row])

        self.want = run = Run(self.table, self.ids, draw, most=most, ends=ends)
        return run

    def grow(self) -> None:
        assert self.want is not None
        made = self.want.result()
        self.ids += made if isinstance(self.want, Run) else [made]
        self.want = None

    def leave(self) -> None:
        """Who goes away keeps what was drawn, and no more."""
        if isinstance(self.want, Run):
            self.ids += self.want.drawn
        self.want = None


def alone(ids: Sequence[int], n: int) -> list[int]:
    text = list(ids)
    for _ in range(n):
        text.append(follows(text))
    return text[len(ids) :]


def until_done(model: Model, texts: list[Text]) -> None:
    while waiting := [t.want for t in texts if t.want is not None and not t.want.done]:
        model.engine.serve(waiting)


def test_answers_go_on_before_prompts_and_a_long_prompt_takes_one_chunk() -> None:
    model = Model(12)
    first = model.text(range(5))
    first.ask()
    until_done(model, [first])
    first.grow()
    long = model.text(range(100, 160))
    for _ in range(3):
        want = first.ask()
        model.engine.serve([want, long.want or long.ask()])
        assert want.done, "it waited for more than a chunk"
        first.grow()
    assert [sum(len(ids) for _, ids, _, _ in parts) for parts in model.passes] == [
        5,
        CHUNK,
        CHUNK,
        60 - 2 * (CHUNK - 1) + 1,
    ]
    assert long.want is not None
    assert long.want.result() == follows(long.ids)


def test_a_text_that_wants_all_rows_takes_turns_with_answers() -> None:
    """An answer takes a row of each pass: it must not keep who wants them all waiting to its end."""
    model = Model(12)
    first, many = model.text(range(5)), model.text(range(100, 140))
    wanted = many.ask(ROWS)
    for _ in range(5):
        want = first.ask()
        model.engine.serve([want, wanted])
        if want.done:
            first.grow()
        if wanted.done:
            break
    assert wanted.done, "it waits for an answer to end"
    assert wanted.result() == follows(many.ids)
    assert first.ids[5:] == alone(range(5), len(first.ids) - 5)
    assert len(first.ids) >= 5 + 3, "and the answer went on meanwhile"


def test_what_begins_alike_is_computed_once() -> None:
    model = Model(12)
    beginning = list(range(40))
    texts = [model.text([*beginning, i]) for i in range(3)]
    for text in texts:
        text.ask()
    until_done(model, texts)
    computed = sum(len(ids) for parts in model.passes for _, ids, _, _ in parts)
    assert computed == len(beginning) + 3
    assert [t.want.n_reused for t in texts if t.want] == [0, 40, 40]
    for text in texts:
        text.grow()
        assert text.ids[-1:] == alone([*beginning, text.ids[40]], 1)


def test_where_pages_run_out_the_text_that_came_last_waits() -> None:
    model = Model(4)
    early, late = model.text(range(30)), model.text(range(50, 80))
    for text in (early, late):
        text.ask()
    until_done(model, [early, late])
    for _ in range(30):  # each needs a third page, and then a fourth
        early.grow()
        early.ask()
        if late.want is None or late.want.done:
            late.grow()
            late.ask()
        model.engine.serve([w for w in (early.want, late.want) if w])
        assert early.want is not None
        assert early.want.done, "the earlier text waited"
    early.grow()
    model.pages.release(early.table)
    until_done(model, [late])
    late.grow()
    assert late.ids == [*range(50, 80), *alone(range(50, 80), len(late.ids) - 30)]


def test_a_text_that_never_fits_is_refused() -> None:
    model = Model(2)
    text, other = model.text(range(40)), model.text(range(50, 60))
    wants = [text.ask(), other.ask()]
    until_done(model, [text, other])
    with pytest.raises(InputError, match="does not fit the cache of 32 tokens: it has 40; load with a larger cache_"):
        wants[0].result()
    assert wants[1].result() == follows(other.ids), "another's text ended with it"
    assert len(model.passes) == 1
    model.pages.release(other.table)
    assert model.pages.n_free == [2]


def test_idle_texts_give_way_before_anything_waits() -> None:
    model = Model(6)
    idle = [model.text(range(100 * i, 100 * i + 2 * SIZE)) for i in range(3)]
    for text in idle:
        text.ask()
        until_done(model, [text])
    assert model.pages.n_free == [0]
    new = model.text(range(500, 500 + SIZE))
    new.ask()
    n = len(model.passes)
    until_done(model, [new])
    assert len(model.passes) == n + 1
    assert [t.table.cached for t in idle] == [0, 2 * SIZE, 2 * SIZE], "the longest idle alone"


def test_the_higher_priority_begins_first_and_equal_ones_as_they_came() -> None:
    model = Model(2)  # for one of them at a time
    texts = [model.text([10 * i] * 20, priority) for i, priority in enumerate((0, 2, -3, 2))]
    for text in texts:
        model.engine.add(text.ask())
    order = []
    while waiting := [t for t in texts if t.want is not None]:
        model.engine.take_passes([t.want for t in waiting if t.want])
        for text in waiting:
            if text.want and text.want.done:
                order.append(texts.index(text))
                text.grow()
                assert text.ids[20:] == alone(text.ids[:20], 1)
                model.pages.release(text.table)
    assert order == [1, 3, 0, 2]


def test_a_long_prompt_of_a_higher_priority_takes_a_chunk_as_any_does() -> None:
    model = Model(12)
    first = model.text(range(5))
    first.ask()
    until_done(model, [first])
    first.grow()
    urgent, later = model.text(range(100, 160), 9), model.text(range(200, 230), 1)
    for text in (later, urgent):
        model.engine.add(text.ask())
    for _ in range(3):
        model.engine.serve([first.ask()])
        first.grow()
    assert urgent.want is not None
    assert urgent.want.done
    assert later.want is not None
    assert not later.want.done, "what room a pass has is the urgent prompt's first"


def test_the_lower_priority_gives_its_pages_up_though_it_came_first() -> None:
    model = Model(4)
    low, high = model.text(range(30)), model.text(range(50, 80), 1)
    low.ask()
    until_done(model, [low])
    low.grow()
    low.ask()
    high.ask()
    for _ in range(30):  # each needs a third page, and then a fourth
        model.engine.serve([w for w in (low.want, high.want) if w])
        assert high.want is not None
        if low.want is not None and low.want.done:
            low.grow()
            low.ask()
        assert high.want.done or high.table.cached < 30, "the urgent text waited"
        if high.want.done:
            high.grow()
            high.ask()
    model.pages.release(high.table)
    until_done(model, [low])
    low.grow()
    assert low.ids == [*range(30), *alone(range(30), len(low.ids) - 30)]
    assert high.ids == [*range(50, 80), *alone(range(50, 80), len(high.ids) - 30)]


class Here(Caller):
    """Somebody who waits for the next id all the time, as a thread that generates."""

    def here(self) -> bool:
        return True


def test_who_is_more_urgent_takes_the_place_of_those_who_run() -> None:
    """No more of them than it needs, in its first pass; and what it took is computed again."""
    model, who = Model(6), Here()
    running = [model.text(range(100 * i, 100 * i + 20), i) for i in range(3)]  # two pages each
    for text in running:
        who.waits_for(text.table)
        text.ask()
    until_done(model, running)
    for text in running:
        text.grow()
        text.ask()
    equal, urgent = model.text(range(500, 520), 0), model.text(range(600, 620), 9)
    model.engine.serve([equal.ask()] + [text.want for text in running if text.want])
    assert equal.table.n_pages == 0, "one of the same priority takes no pages of who runs"
    for text in running:
        text.grow()
        model.engine.add(text.ask())
    wanted, n = urgent.ask(), len(model.passes)
    for want in (wanted, equal.want):
        assert want is not None
        model.engine.add(want)
    model.engine.take_passes([wanted])
    assert len(model.passes) == n + 1, "it waited"
    assert [t.table.n_pages for t in running] == [0, 2, 2]
    assert wanted.result() == follows(urgent.ids)
    model.pages.release(urgent.table)
    for text in (*running, equal):
        assert text.want is not None
        model.engine.forget(text.want)
        who.leaves(text.table)
    until_done(model, [*running, equal])
    for text in running:
        text.grow()
        assert text.ids[20:] == alone(text.ids[:20], len(text.ids) - 20)


def test_who_waits_for_room_takes_the_pass_that_those_who_have_it_wait_for() -> None:
    """Who has the pages asks for his next id later, and takes no pass himself: a task, whose loop has one turn."""
    model, who = Model(2), Here()
    first, second = model.text(range(20)), model.text(range(50, 70))
    who.waits_for(first.table)
    first.ask()
    until_done(model, [first])
    first.grow()
    wanted = second.ask()
    thread = threading.Thread(target=until_done, args=(model, [second]), daemon=True)
    thread.start()
    time.sleep(0.05)
    assert not wanted.done
    asked, end = first.ask(), time.monotonic() + 60
    model.engine.add(asked)
    while not asked.done:
        assert time.monotonic() < end, "nobody goes on"
        time.sleep(0.001)
    assert asked.result() == follows(first.ids)
    who.leaves(first.table)
    thread.join(60)
    assert wanted.result() == follows(second.ids)


def test_nobody_waits_for_ever() -> None:
    """Texts of a higher priority come all the time, each before the last has ended; the low one gets its turn, too."""
    model = Model(2)
    low = model.text([1] * 20)
    model.engine.add(low.ask())
    urgent, began = model.text([2] * 20, 5), 0
    model.engine.add(urgent.ask())
    while low.want is not None and not low.want.done:
        assert began <= OVERTAKEN + 2, "it starves"
        assert urgent.want is not None
        model.engine.take_passes([low.want, urgent.want])
        if urgent.want.done:
            began += 1
            urgent.grow()
            model.pages.release(urgent.table)
            urgent = model.text([3 + began] * 20, 5)
            model.engine.add(urgent.ask())
    assert began >= OVERTAKEN
    low.grow()
    assert low.ids[20:] == alone([1] * 20, 1)
    low.table.begin(0)
    assert not low.table.favoured, "its next call begins as any does"


def test_an_error_ends_the_text_that_it_is_of() -> None:
    model = Model(8)

    def refuse(_: int) -> int:
        msg = "no"
        raise InputError(msg)

    bad, good = model.text(range(5)), model.text(range(9))
    refused, asked = Want(bad.table, bad.ids, refuse), good.ask()
    model.engine.serve([refused, asked])
    assert len(model.passes) == 1
    assert asked.result() == follows(good.ids)
    with pytest.raises(InputError, match="no"):
        refused.result()


def test_what_is_struck_is_taken_again() -> None:
    """Ctrl-C while results are handed out, in the thread that took the pass: the others lose nothing."""
    model = Model(8)
    first, second = model.text(range(5)), model.text(range(9))

    def strike(_: int) -> int:
        raise KeyboardInterrupt

    struck, asked = Want(first.table, first.ids, strike), second.ask()
    with pytest.raises(KeyboardInterrupt):
        model.engine.serve([struck, asked])
    assert not asked.done
    model.engine.serve([asked])
    assert asked.result() == follows(second.ids)


def test_a_run_is_drawn_to_its_end_and_wakes_nobody_before() -> None:
    model = Model(12)
    runs = [model.text(range(n)) for n in (5, 9)]
    for text in runs:
        text.run(20)
    until_done(model, runs)
    assert len(model.passes) == 20
    for text, n in zip(runs, (5, 9), strict=True):
        text.grow()
        assert text.ids == [*range(n), *alone(range(n), 20)]
    one, wanted = model.text(range(5)), alone(range(5), 20)
    run = one.run(20, (wanted[3],))
    model.engine.serve([run])
    assert run.result() == wanted[: wanted.index(wanted[3]) + 1], "the first that ends it is the last"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", range(6))
def test_a_run_that_is_struck_loses_and_repeats_none(
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    late: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    """Ctrl-C before an id is added, after it, and between the last one and the end that is told of it."""
    model, strikes = Model(12), [at]
    text, other = model.text(range(5)), model.text(range(9))
    run, asked = text.run(6), other.run(6)
    goes_on, fulfil = Run.goes_on, Run.fulfil

    def strike(one: Run, n: int) -> None:
        if one is run and strikes == [n]:
            strikes.clear()
            raise KeyboardInterrupt

    def struck_late(self: Run) -> bool:
        strike(self, len(self.drawn) - 1)
        return goes_on(self)

    def struck(self: Run, row: int) -> None:
        strike(self, len(self.drawn))
        fulfil(self, row)

    monkeypatch.setattr(Run, *(("goes_on", struck_late) if late else ("fulfil", struck)))
    with pytest.raises(KeyboardInterrupt):
        until_done(model, [text, other])
    assert not strikes
    until_done(model, [text, other])
    assert run.result() == alone(range(5), 6)
    assert asked.result() == alone(range(9), 6)


def test_an_error_ends_a_run_after_the_ids_before_it() -> None:
    model = Model(12)
    text, good = model.text(range(5)), model.text(range(9))

    def draw(row: int, n: int) -> int:
        if n == 8:
            msg = "no"
            raise InputError(msg)
        return follows(model.rows[row])

    bad = Run(text.table, text.ids, draw, most=20)
    asked = good.run(6)
    model.engine.serve([bad, asked])
    assert bad.done
    assert not asked.done
    with pytest.raises(InputError, match="no"):
        bad.result()
    assert bad.drawn == alone(range(5), 3)
    until_done(model, [good])
    assert asked.result() == alone(range(9), 6)


def test_runs_of_threads_are_led_by_one_after_the_other() -> None:
    """Threads with runs of several lengths: each leaves the passes to the next, and nobody waits for a look."""
    model, answers = Model(40), dict[int, list[int]]()
    ready = threading.Barrier(ROWS)

    def answer(i: int) -> None:
        text = model.text([i] * 5)
        ready.wait()
        for most in (1, 10 + 5 * i, 3):
            model.engine.serve([text.run(most)])
            text.grow()
        answers[i] = text.ids[5:]

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(ROWS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: alone([i] * 5, 14 + 5 * i) for i in range(ROWS)}
    assert not model.engine._wants


def test_who_leaves_wakes_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose answer is over rings for another, who would wait for an hour otherwise."""
    monkeypatch.setattr("miaotui.runtime.engine.scheduler.FOLLOW", 3600)
    model, follower = Model(40), list[list[int]]()
    long = model.text(range(9))
    began = threading.Event()

    def follow() -> None:
        run = long.run(30)
        began.set()
        model.engine.serve([run])
        follower.append(run.result())

    thread = threading.Thread(target=follow, daemon=True)

    def lead(row: int, n: int) -> int:
        if n == 5:
            thread.start()
            began.wait(60)
            while not any(isinstance(want, Run) and want.bell for want in model.engine._waiting()):
                began.wait(0.001)
        return follows(model.rows[row])

    text = model.text(range(5))
    run = Run(text.table, text.ids, lead, most=4)
    model.engine._taker = threading.get_ident()
    model.engine.serve([run])
    assert run.result() == alone(range(5), 4)
    thread.join(60)
    assert follower == [alone(range(9), 30)]


def test_threads_share_passes() -> None:
    model, answers = Model(40), dict[int, list[int]]()

    def answer(i: int) -> None:
        text = model.text([i] * 5)
        for _ in range(20):
            model.engine.serve([text.ask()])
            text.grow()
        answers[i] = text.ids[5:]

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(ROWS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: alone([i] * 5, 20) for i in range(ROWS)}


def test_the_thread_that_took_the_last_pass_is_left_the_next_but_not_waited_for() -> None:
    """One that asks and takes none, as its call was struck, holds nobody up."""
    model, asked = Model(40), list[Want]()
    struck = threading.Thread(target=lambda: asked.append(model.text([7] * 5).ask()))
    struck.start()
    struck.join()
    model.engine.add(asked[0])
    for taker in (asked[0].thread, threading.get_ident(), 0):
        text = model.text(range(3, 9))
        model.engine._taker, model.engine._away, model.engine._pass_s = taker, {id(text), id(model)}, 0.01
        model.engine.serve([text.ask()])
        text.grow()
        assert text.ids[6:] == alone(range(3, 9), 1)
    assert asked[0].done  # by the others' passes


def test_what_was_closed_meanwhile_is_refused_and_what_is_gone_is_forgotten() -> None:
    model = Model(8)
    closed, gone, good = model.text(range(5)), model.text(range(7)), model.text(range(9))
    wants = [closed.ask(), gone.ask(), good.ask()]
    for want in wants:
        model.engine.add(want)
    closed.table.dropped, gone.want = True, None
    del wants, want
    assert good.want is not None
    model.engine.take_passes([good.want])
    assert [[table for table, *_ in parts] for parts in model.passes] == [[good.table]]
    assert closed.want is not None
    with pytest.raises(InputError, match="this sequence was closed"):
        closed.want.result()


def test_beginnings_are_compared_in_blocks() -> None:
    for n in (0, 1, 63, 64, 65, 128, 130):
        ids = list(range(n))
        assert begins_like(ids, ids, n + 5) == n
        assert begins_like(ids, ids, n // 2) == n // 2
        for at in {0, n // 2, n - 1} & set(range(n)):
            other = [*ids[:at], -1, *ids[at + 1 :]]
            assert begins_like(ids, other, n) == at


class Mix(RuleBasedStateMachine):
    """Texts that come, grow, are left, forked and dropped, in any order, on a pool that is too small for them all."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(10)
        self.texts: list[Text] = []
        self.began: dict[int, list[int]] = {}

    @rule(first=st.integers(0, 2), n=st.integers(1, 50), kept=st.booleans(), priority=st.integers(-1, 2))
    def come(self, first: int, n: int, kept: bool, priority: int) -> None:  # noqa: FBT001 - drawn
        """Texts begin alike often."""
        ids = [first] * (n if kept else n // 2) + [n] * (0 if kept else n - n // 2)
        self.texts.append(self.model.text(ids, priority))

    @rule(chosen=st.sets(st.integers(0, 9), min_size=1), rows=st.integers(1, ROWS))
    def go_on(self, chosen: set[int], rows: int) -> None:
        texts = [self.texts[i] for i in sorted(chosen) if i < len(self.texts)]
        texts = [t for t in texts if len(t.ids) < CONTEXT - 1]
        for text in texts:
            if text.want is None:
                text.ask(min(rows, len(text.ids)))
        until_done(self.model, texts)
        for text in texts:
            before = list(text.ids)
            text.grow()
            assert text.ids == [*before, *alone(before, 1)]

    @rule(chosen=st.sets(st.integers(0, 9), min_size=1), most=st.integers(1, 20), end=st.integers(0, VOCAB))
    def go_on_at_once(self, chosen: set[int], most: int, end: int) -> None:
        texts = [self.texts[i] for i in sorted(chosen) if i < len(self.texts)]
        texts = [t for t in texts if len(t.ids) + most < CONTEXT]
        for text in texts:
            text.run(most, (end,))
        until_done(self.model, texts)
        for text in texts:
            before = list(text.ids)
            wanted = alone(before, most)
            text.grow()
            assert text.ids == before + wanted[: wanted.index(end) + 1 if end in wanted else most]

    @rule(chosen=st.sets(st.integers(0, 9), min_size=1), passes=st.integers(1, 3), most=st.integers(0, 5))
    def begin(self, chosen: set[int], passes: int, most: int) -> None:
        """Whoever waits is served a little, and goes away: cancelled, or in another thread."""
        texts = [self.texts[i] for i in sorted(chosen) if i < len(self.texts)]
        texts = [t for t in texts if len(t.ids) + most < CONTEXT]
        wants = [t.run(most) if most else t.ask() for t in texts]
        for want in wants:
            self.model.engine.add(want)
        if wants:
            for _ in range(passes):
                self.model.engine._take_pass(wants)
        for text, want in zip(texts, wants, strict=True):
            self.model.engine.forget(want)
            before = list(text.ids)
            text.leave()
            assert text.ids[len(before) :] == alone(before, len(text.ids) - len(before))

    @rule(i=st.integers(0, 9))
    def fork(self, i: int) -> None:
        if i < len(self.texts) < 10:
            twin = self.model.text(self.texts[i].ids)
            twin.table = self.model.pages.share(self.texts[i].table)
            self.texts.append(twin)

    @rule(i=st.integers(0, 9), n=st.integers(1, 60))
    def cut(self, i: int, n: int) -> None:
        if i < len(self.texts) and n < len(self.texts[i].ids):
            text = self.texts[i]
            self.model.pages.truncate(text.table, n)
            del text.ids[n:]
            text.want = None

    @rule(i=st.integers(0, 9))
    def drop(self, i: int) -> None:
        if i < len(self.texts):
            self.model.pages.release(self.texts.pop(i).table)

    @invariant()
    def pages_are_counted(self) -> None:
        pages = self.model.pages
        counted = list(pages.n_free)
        pages.recount()
        assert pages.n_free == counted
        held = {int(n) for t in self.texts for n in t.table.numbers[0, t.table.low[0] : t.table.high[0]]}
        assert pages.n_free == [pages.n_pages - len(held)]


TestMix = Mix.TestCase
TestMix.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
