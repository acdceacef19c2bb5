"""The pool of pages: nothing is lost, nothing is written that another holds, whatever the order of calls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.runtime.pages import Pages, Table

SIZE = 4
WINDOWS: list[list[int | None]] = [[None], [3], [None, 5], [1, None, 9]]


class World:
    """Sequences of drawn numbers, written into pages as a step writes keys; every slot can be read back."""

    def __init__(self, n_pages: int, windows: list[int | None]) -> None:
        self.memory = np.zeros((len(windows), n_pages, SIZE), np.int64)
        self.pages = Pages(n_pages, SIZE, windows, self.copy)
        self.windows, self.texts, self.fresh = windows, [], 1

    def copy(self, group: int, source: int, target: int) -> None:
        self.memory[group, target] = self.memory[group, source]

    def new(self) -> None:
        self.texts.append((self.pages.table(40), []))

    def feed(self, at: int, n: int) -> None:
        table, text = self.texts[at]
        n = min(n, 40 - len(text))
        wanted = text + list(range(self.fresh, self.fresh + n))
        if not self.pages.reserve(table, len(wanted)):
            return
        self.fresh += n
        for slot in range(table.cached, len(wanted)):  # what was given up is computed again
            for g in range(len(self.windows)):
                self.memory[g, table.numbers[g, slot // SIZE], slot % SIZE] = wanted[slot]
        text[:] = wanted
        table.cached = len(text)
        self.pages.forget_unseen(table)

    def cut(self, at: int, n: int) -> None:
        table, text = self.texts[at]
        del text[n:]
        self.pages.truncate(table, min(n, len(text)))

    def fork(self, at: int) -> None:
        table, text = self.texts[at]
        self.texts.append((self.pages.share(table), list(text)))

    def drop(self, at: int, *, wholly: bool) -> None:
        self.pages.release(self.texts[at][0])
        if wholly:
            del self.texts[at]

    def check(self) -> None:
        """Every slot that a next query sees holds its own number; pages are free or held, never both."""
        for table, text in self.texts:
            assert table.cached <= len(text)
            for g, window in enumerate(self.windows):
                first = 0 if window is None else max(0, table.cached - window + 1)
                got = [self.memory[g, table.numbers[g, s // SIZE], s % SIZE] for s in range(first, table.cached)]
                assert got == text[first : table.cached]
        assert {id(t) for t in self.pages.holding()} == {id(t) for t in self.pages.tables if t.n_pages}
        for g in range(len(self.windows)):
            held = {int(t.numbers[g, i]) for t, _ in self.texts for i in range(t.low[g], t.high[g])}
            assert self.pages.n_free[g] + len(held) == self.pages.n_pages


CALLS = st.lists(st.tuples(st.sampled_from("nffffcctdD"), st.integers(0, 9), st.integers(0, 17)), max_size=40)


@given(CALLS, st.sampled_from(WINDOWS), st.integers(1, 12))
def test_every_sequence_reads_what_it_wrote(
    calls: list[tuple[str, int, int]], windows: list[int | None], n: int
) -> None:
    world = World(n, windows)
    for call, which, size in calls:
        if call == "n" or not world.texts:
            world.new()
            continue
        at = which % len(world.texts)
        if call == "f":
            world.feed(at, size)
        elif call == "c":
            world.fork(at)
        elif call == "t":
            world.cut(at, size)
        else:
            world.drop(at, wholly=call == "D")
        world.check()
    for table, _ in world.texts:
        world.pages.release(table)
    assert world.pages.n_free == [n] * len(windows)


def test_pages_of_one_sequence_are_neighbours() -> None:
    pages = Pages(16, SIZE, [None], lambda *_: None)
    one, other = pages.table(40), pages.table(40)
    for end in range(1, 25):
        assert pages.reserve(one, end)
        one.cached = end
    assert one.numbers[0, :6].tolist() == [0, 1, 2, 3, 4, 5]
    assert pages.reserve(other, 8)
    assert other.numbers[0, :2].tolist() == [6, 7]


@pytest.mark.parametrize("cached", [3, 4, 5])
def test_who_writes_into_a_shared_page_copies_it_unless_it_is_alone(cached: int) -> None:
    copies: list[tuple[int, int, int]] = []
    pages = Pages(4, SIZE, [None], lambda *what: copies.append(what))
    one = pages.table(16)
    assert pages.reserve(one, cached)
    one.cached = cached
    twin: Table = pages.share(one)
    assert pages.reserve(twin, cached + 1)
    assert len(copies) == (cached % SIZE > 0)
    pages.release(twin)
    again = pages.share(one)
    pages.release(one)
    assert pages.reserve(again, cached + 1)
    assert len(copies) == (cached % SIZE > 0), "nobody else holds the page now: it is written where it lies"


CAPACITY, SINKS = 3 * SIZE - 1, 2


class Outgrowing(World):
    """As a world, of texts that may outgrow their slots: the first two tokens stay, and the newest."""

    def __init__(self, n_pages: int, windows: list[int | None]) -> None:
        super().__init__(n_pages, windows)
        self.full = windows.index(None)
        self.pages = Pages(n_pages, SIZE, windows, self.copy, self)  # type: ignore[arg-type]
        self.left: int | None = None  # changes of pages until Ctrl-C

    def counted(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    def copy(self, group: int, source: int, target: int) -> None:
        self.counted()
        super().copy(group, source, target)

    def kept(self, page: int) -> np.ndarray:
        return self.memory[self.full, page, :SINKS].copy()

    def put(self, kept: np.ndarray, page: int, by: int) -> None:
        self.counted()
        assert by % SIZE == 0 < by
        self.memory[self.full, page, :SINKS] = kept

    def new(self) -> None:
        table = self.pages.table(CAPACITY)
        table.capacity = CAPACITY
        self.texts.append((table, []))

    def feed(self, at: int, n: int) -> None:
        table, text = self.texts[at]
        text += range(self.fresh, self.fresh + n)
        self.fresh += n
        while table.cached < len(text):
            end = min(len(text), table.until(table.cached))
            if not self.pages.reserve(table, end):
                return  # the rest waits
            for token in range(table.cached, end):
                slot = token - table.gap
                assert 0 <= slot < CAPACITY
                for g in range(len(self.windows)):
                    self.memory[g, table.numbers[g, slot // SIZE], slot % SIZE] = text[token]
            table.cached = end
            self.pages.forget_unseen(table)

    def check(self) -> None:
        for table, text in self.texts:
            filled = table.cached - table.gap
            assert (table.gap == 0) or (table.cached > CAPACITY - SIZE)
            for g, window in enumerate(self.windows):
                first = 0 if window is None else max(0, filled - window + 1)
                got = [self.memory[g, table.numbers[g, s // SIZE], s % SIZE] for s in range(first, filled)]
                wanted = text[table.gap + first : table.cached]
                if window is None and table.gap:
                    wanted[:SINKS] = text[:SINKS]
                assert got == wanted
        assert {id(t) for t in self.pages.holding()} == {id(t) for t in self.pages.tables if t.n_pages}
        for g in range(len(self.windows)):
            held = {int(t.numbers[g, i]) for t, _ in self.texts for i in range(t.low[g], t.high[g])}
            assert self.pages.n_free[g] + len(held) == self.pages.n_pages


@given(CALLS, st.sampled_from([[None], [None, 5], [1, None, 9]]), st.integers(1, 12), st.sampled_from([0, 1]))
def test_texts_that_outgrow_their_slots_keep_the_first_and_the_newest(
    calls: list[tuple[str, int, int]], windows: list[int | None], n: int, counts: object
) -> None:
    world = Outgrowing(n, windows)
    for call, which, size in calls:
        if call == "n" or not world.texts:
            world.new()
            continue
        at = which % len(world.texts)
        if call == "f":
            world.feed(at, size)
        elif call == "c":
            world.fork(at)
        elif call == "t":
            world.cut(at, size + len(world.texts[at][1]) // 2)
        else:
            world.drop(at, wholly=call == "D")
        if counts:
            free = list(world.pages.n_free)
            world.pages.recount()
            assert world.pages.n_free == free
        world.check()
    for table, _ in world.texts:
        world.pages.release(table)
    assert world.pages.n_free == [n] * len(windows)


@pytest.mark.parametrize("left", [0, 1])
def test_who_is_interrupted_while_it_leaves_tokens_out_loses_its_pages_alone(left: int) -> None:
    """Where it copies a page that another holds, and where it writes the sinks."""
    world = Outgrowing(7, [None, 5])
    world.new()
    world.feed(0, CAPACITY)
    world.fork(0)
    world.left = left
    with pytest.raises(KeyboardInterrupt):
        world.feed(1, 3)
    world.left = None
    world.feed(0, 9)
    world.feed(1, 2)
    world.check()
    assert [table.cached for table, _ in world.texts] == [len(text) for _, text in world.texts]
