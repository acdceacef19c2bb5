"""What is guessed, how much of it pays, and passes that check it, with a table for a model."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.runtime.engine.costs import BUDGET, Acceptance, Costs, Credit
from miaotui.runtime.engine.drafts import SIZES, NgramDrafter
from miaotui.runtime.engine.speculative import MOST, Speculation
from miaotui.runtime.engine.wants import Want
from test_engine import CHUNK, CONTEXT, SIZE, Model, alone, follows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from test_engine import Text

# what is guessed


def looked_up(before: list[int], ids: list[int], most: int) -> tuple[int, list[int]] | None:
    """By the definition: what followed the last place of the longest run that stood before."""
    text = before + ids
    for n in SIZES:
        for end in range(len(text) - 1, 0, -1):
            whole = len(ids) >= n and (end >= len(before) + n or n <= end < len(before))  # no run is of both
            if whole and text[end - n : end] == text[-n:]:
                if end < len(before):
                    return n, before[end:][:most]
                drafted = text[end : end + most]
                period = len(drafted)
                while len(drafted) < most:
                    drafted.append(drafted[-period])
                return n, drafted
    return None


@given(before=st.lists(st.integers(0, 2), max_size=12), ids=st.lists(st.integers(0, 2), min_size=1, max_size=30),
       cuts=st.sets(st.integers(1, 30)), most=st.integers(1, 6))  # fmt: skip
def test_what_followed_the_last_ids_before(before: list[int], ids: list[int], cuts: set[int], most: int) -> None:
    """However the text grows between two questions."""
    drafter = NgramDrafter(before)
    for n in sorted({cut for cut in cuts if cut < len(ids)} | {len(ids)}):
        text = ids[:n]
        wanted, kind = looked_up(before, text, most), drafter.kind(text)
        assert kind == (None if wanted is None else wanted[0])
        if wanted is not None:
            assert drafter.draft(text, most) == wanted[1]


def test_a_text_that_repeats_itself_goes_on_in_its_period() -> None:
    drafter = NgramDrafter()
    assert drafter.kind([1]) is None
    assert drafter.kind([1, 1, 1]) == 2
    assert drafter.draft([1, 1, 1], 4) == [1, 1, 1, 1]
    assert drafter.kind([4, 5, 6, 4, 5, 6, 4]) == 3
    drafter = NgramDrafter()
    assert drafter.kind([4, 5, 6, 4, 5, 6, 4]) == 3
    assert drafter.draft([4, 5, 6, 4, 5, 6, 4], 5) == [5, 6, 4, 5, 6]


# how much of it pays


class Table:
    """A drafter whose ids are 1, of a model that goes on with 1 as often as it is told."""

    computes = False
    read_s = 0.0

    def __init__(self, draft_s: float = 0.0) -> None:
        self.draft_s = draft_s

    def cost(self, n_texts: int, unit: float) -> float:
        return n_texts * self.draft_s / unit

    def missing(self, ids: Sequence[int]) -> int:  # noqa: ARG002 - as of all drafters
        return 0

    def kind(self, ids: Sequence[int]) -> int:  # noqa: ARG002 - as of all drafters
        return 0

    def draft(self, ids: Sequence[int], most: int) -> list[int]:  # noqa: ARG002 - as of all drafters
        return [1] * most


def costs(more: float) -> Costs:
    """A pass takes this much more for each token after the first, as a share of one token's time."""
    known = Costs()
    for n in range(1, 80):
        for _ in range(9):
            known.add(n, 1.0 + more * (n - 1))
    return known


def run(speculation: Speculation, known: Costs, right: Sequence[bool], n_texts: int = 1) -> float:
    """Seconds for a text whose drafted ids are right where they are told to be, of `n_texts` that go on alike."""
    at, took, ids = 0, 0.0, [1]
    while at < len(right):
        drafted = speculation.drafted(ids, len(right) - at - 1, n_texts)
        took += known.seconds(n_texts * (1 + len(drafted)))
        n_right = next((i for i in range(len(drafted)) if not right[at + i]), len(drafted))
        if drafted:
            speculation.learn(len(drafted), n_right)
        at += n_right + 1
    return took


@pytest.mark.parametrize("more", [0.02, 0.1, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("n_texts", [1, 4])
def test_where_nothing_is_accepted_it_costs_next_to_nothing(more: float, n_texts: int) -> None:
    """Under 3 % of an answer of 200 ids; hardly anything of the next one, as what was seen is remembered."""
    known, expected, n = costs(more), dict[int, float](), 200
    plain, slow = n * known.seconds(n_texts), []
    for _ in range(40):
        speculation = Speculation(Table(), known, expected, 32)
        slow.append(run(speculation, known, [False] * n, n_texts) / plain)
        assert speculation.n_accepted == 0
    assert slow[0] < 1.03, slow[0]
    assert max(slow[20:]) < 1.02


@pytest.mark.parametrize("more", [0.02, 0.1, 0.3])
def test_where_all_is_accepted_it_pays(more: float) -> None:
    known = costs(more)
    speculation = Speculation(Table(), known, {}, 32)
    took = run(speculation, known, [True] * 300)
    assert took < 300 * (1 + more * MOST) / (MOST + 1) * 1.4
    assert speculation.n_accepted == speculation.n_drafted > 200


def test_it_tries_again_and_finds_that_it_pays_now() -> None:
    known = costs(0.2)
    speculation = Speculation(Table(), known, {}, 32)
    run(speculation, known, [False] * 400)
    n = speculation.n_drafted
    took = run(speculation, known, [True] * 400)
    assert speculation.n_drafted > n
    assert took < 300


@settings(max_examples=60, deadline=None)
@given(
    more=st.floats(0, 2), drafts=st.floats(0, 1.5), n_texts=st.integers(1, 4),
    answers=st.lists(st.tuples(st.lists(st.floats(0, 1), max_size=6), st.integers(0, 2**20)), min_size=1, max_size=5),
)  # fmt: skip
def test_whatever_is_right_little_is_lost(
    more: float, drafts: float, n_texts: int, answers: list[tuple[list[float], int]]
) -> None:
    """Answers that share a budget; how often guesses are right changes every thirty ids."""
    known, expected, credit, took, plain = costs(more), dict[int, float](), Credit(), 0.0, 0.0
    unit = known.seconds(n_texts)
    for shares, seed in answers:
        rng, n = random.Random(seed), 30 * len(shares)  # noqa: S311 - which are right
        right = [rng.random() < share for share in shares for _ in range(30)]
        speculation, at = Speculation(Table(drafts * unit / n_texts), known, expected, 64, credit), 0
        while at < n:
            k = len(speculation.drafted([1], n - at - 1, n_texts))
            n_right = next((i for i in range(k) if not right[at + i]), k)
            took += known.seconds(n_texts * (1 + k)) / unit + k * drafts
            if k:
                speculation.learn(k, n_right)
            at += n_right + 1
        plain += n
        assert took <= plain * (1 + BUDGET) + Credit.FIRST * n_texts + 1e-6  # each of the texts has its share


def test_many_texts_draft_less() -> None:
    """A pass of many tokens is no longer almost free."""
    known, lengths = Costs(), list[int]()
    for n in range(1, 80):
        known.add(n, max(1.0, n / 8))
    for n_texts in (1, 2, 4, 8, 16):
        speculation = Speculation(Table(), known, {0: 0.6}, 512)
        lengths.append(len(speculation.drafted([1], 20, n_texts)))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 2 > lengths[-1]


def test_a_drafter_that_takes_long_drafts_less() -> None:
    known = costs(0.05)
    lengths = [len(Speculation(Table(s), known, {0: 0.7}, 32).drafted([1], 20)) for s in (0.0, 0.1, 0.3, 0.9)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[2] > 0 == lengths[3]


def test_one_slow_pass_decides_nothing() -> None:
    known = costs(0.1)
    before = known.of(6, 1)
    known.add(6, 50.0)
    assert known.of(6, 1) == before
    new = Costs()
    new.add(1, 1.0)
    guess = new.of(4, 1)
    new.add(4, 50.0)
    assert new.of(4, 1) == guess
    assert Costs().of(3, 3) == 1


def test_newer_observations_weigh_more() -> None:
    seen = Acceptance(0.5)
    for _ in range(9):
        seen.saw(4, 4)
    assert seen.rate > 0.95
    for _ in range(9):
        seen.saw(4, 0)
    assert seen.rate < 0.3


# passes that check it


def asks(text: Text, drafted: list[int]) -> Want:
    """The next id, and those after drafted ones that are right."""
    model, ids = text.model, text.ids

    def check(row: int, read: Sequence[int]) -> list[int]:
        made: list[int] = []
        n = len(read)
        for i in range(n + 1):
            assert model.rows[row + i] == ids + drafted[:i], "a row of another text"
            made.append(follows([*ids, *drafted[:i]]))
            if i < n and drafted[i] != made[i]:
                break
        model.pages.truncate(text.table, len(ids) + len(made) - 1)
        text.table.unsure = 0
        return made

    text.want = Want(text.table, ids, lambda _: None, drafted=drafted, check=check)
    return text.want


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5), n_pages=st.integers(7, 14),
    seen=st.none() | st.integers(1, 40), drafts=st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1),
)  # fmt: skip
def test_texts_that_draft_share_passes_and_pages(
    sizes: list[int], n_pages: int, seen: int | None, drafts: list[tuple[int, bool]]
) -> None:
    """Room that is left goes to drafts, and no more; what was wrong is forgotten, a window's pages are not."""
    model = Model(n_pages, (None, seen))
    texts = [model.text([i] * n) for i, n in enumerate(sizes)]
    wants = {id(text): asks(text, []) for text in texts}
    at = 0
    for _ in range(25):
        model.engine.serve(list(wants.values()))
        for text in texts:
            if text.want is not None and text.want.done:
                made, before = text.want.result(), len(text.ids)
                text.ids += made
                assert text.ids == [*text.ids[:before], *alone(text.ids[:before], len(made))]
                assert text.table.cached <= len(text.ids) - 1 + (not made)
                n, right = drafts[at % len(drafts)]
                at += 1
                n = min(n, CONTEXT - len(text.ids) - 1, CHUNK)
                text.want = None
                if n >= 0:
                    asks(text, alone(text.ids, n) if right else [at % 7] * n)
        wants = {id(text): text.want for text in texts if text.want is not None}
        counted = list(model.pages.n_free)
        model.pages.recount()
        assert model.pages.n_free == counted
        if not wants:
            break
    if seen is not None and sum(-(-(n + 60) // SIZE) for n in sizes) < n_pages:
        assert all(text.table.cached for text in texts), "a window's pages were forgotten"
