"""The generation loop over a small table model: ends, texts, timings, interruptions, refusals."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import miaotui.runtime.generate
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime.generate import (
    Drawn,
    GenerateParams,
    Timings,
    check_ids,
    check_prompt,
    collect,
    params_from,
    steps,
    tokens,
)
from miaotui.runtime.sampling import SamplingParams, sample

N_VOCAB = 30
EOS = 0
LETTERS = ["", *"abcdefghijklmnopqrstuvwxyz ", "é", "世"]  # an id's text; the last two are real tokens as well


def decode(ids):
    return "".join(LETTERS[i] for i in ids)


class Table:
    """A session whose logits depend on the whole sequence: by default the next id is the last plus one."""

    def __init__(self, n_context=64, interrupt_at=None, rule=None):
        """Follow `rule`; raise Ctrl-C once when `interrupt_at` ids were fed."""
        self.n_context, self.n_vocab = n_context, N_VOCAB
        self.logits = np.full((1, N_VOCAB), np.nan, np.float32)
        self.fed = []
        self.calls = []
        self.reads = 0
        self.interrupt_at = interrupt_at
        self.rule = rule or (lambda ids: (ids[-1] + 1) % N_VOCAB)

    def step(self, ids, start, n_logits=1):
        """Record the call, and make logits from all ids so far."""
        assert n_logits == 1
        assert start <= len(self.fed), "a position was skipped"
        assert start + len(ids) <= self.n_context, "over the context"
        self.calls.append((len(ids), start))
        self.fed[start:] = list(ids)
        if self.interrupt_at is not None and len(self.fed) >= self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt
        noise = np.random.default_rng(self.fed).standard_normal(N_VOCAB)
        self.logits[0] = noise
        self.logits[0, self.rule(self.fed)] += 4

    @property
    def argmax(self):
        """Return the largest logit's id, and count the reading."""
        self.reads += 1
        return self.logits[-1].argmax()


class Text:
    """A sequence over a `Table`: what `tokens` asks of one, and no more."""

    def __init__(self, session):
        self.session, self.ids, self.cached = session, [], 0
        self.n_context, self.n_vocab = session.n_context, session.n_vocab

    def __len__(self):
        return len(self.ids)

    def append(self, ids):
        self.ids += ids

    def drawn(self, draw):
        """Compute what is pending, and draw the next."""
        assert draw.left > 0
        assert all(0 <= i < self.n_vocab for i in draw.ends)
        if self.cached < len(self.ids):
            self.session.step(self.ids[self.cached :], self.cached)
            self.cached = len(self.ids)
        at, sampler = time.perf_counter(), draw.sampler
        drawn = sampler.draw(self.session.logits[-1], len(self.ids)) if sampler else int(self.session.argmax)
        self.ids.append(drawn)
        return Drawn(drawn, at)


def stream(session, prompt, params, decode=None, **how):
    text = Text(session)
    checked = check_prompt(text, prompt, params, decodes=decode is not None)
    return tokens(text, steps(text, checked, params, decode, **how))


def run(prompt, session=None, eos_ids=(), **kwargs):
    return collect(stream(session or Table(), prompt, params_from(eos_ids=eos_ids, **kwargs), decode))


# --- ends ----------------------------------------------------------------------------------------------------------


def test_length():
    out = run([1, 2], max_new_tokens=5)
    assert (out.ids, out.text, out.finish_reason) == ([3, 4, 5, 6, 7], "cdefg", "length")


def test_zero_new_tokens_does_no_work():
    session = Table()
    steps = list(stream(session, [1], GenerateParams(max_new_tokens=0), decode))
    assert [(s.id, s.text, s.finish_reason) for s in steps] == [(None, "", "length")]
    assert session.calls == []
    assert collect(steps).timings == Timings(n_prompt=1)


def test_context_fills():
    out = run([1, 2], Table(n_context=6))
    # The last id is drawn from the last position and never fed.
    assert (out.ids, out.finish_reason) == ([3, 4, 5, 6, 7], "context")
    assert run([1, 2], Table(n_context=6), max_new_tokens=4).finish_reason == "length"
    assert run([1, 2], Table(n_context=6), max_new_tokens=10**30).finish_reason == "context"
    full = run([1, 2], Table(n_context=2))
    assert (full.ids, full.text, full.finish_reason) == ([3], "c", "context")


@pytest.mark.parametrize("eos", [5, [9, 5], np.array([5]), {5, 6}])
def test_eos_is_in_ids_and_not_in_text(eos):
    out = run([1, 2], eos_token_id=eos)
    assert (out.ids, out.text, out.finish_reason) == ([3, 4, 5], "cd", "eos")


def test_models_own_eos_and_ignoring_it():
    assert run([1], eos_ids=[4]).ids == [2, 3, 4]
    assert run([1], eos_ids=[4], eos_token_id=3).ids == [2, 3]
    out = run([1], eos_ids=[4], ignore_eos=True, max_new_tokens=5)
    assert (out.text, out.finish_reason) == ("bcdef", "length")
    assert run([1], eos_ids=[4], max_new_tokens=3).finish_reason == "eos"  # both at once: the answer was finished


@pytest.mark.parametrize("name", ["stop", "stop_strings"])
def test_stop_strings_are_cut(name):
    out = run([1, 2], **{name: ["gh", "zzz"]})
    assert (out.ids, out.text, out.finish_reason) == ([3, 4, 5, 6, 7, 8], "cdef", "stop")


def test_what_was_held_comes_out_at_the_end():
    assert run([1, 2], stop_strings="fgX", max_new_tokens=5).text == "cdefg"
    assert run([1, 2], stop_strings="efX", eos_token_id=7).text == "cdef"


def test_stop_string_in_the_prompt_does_not_count():
    assert run([1, 2], stop_strings="bc", max_new_tokens=2).text == "cd"


def test_character_spread_over_tokens():
    parts = {1: b"x", 2: b"\xe4", 3: b"\xbd", 4: b"\xa0", 5: b"y"}

    def spread(ids):
        return b"".join(parts.get(i, b"") for i in ids).decode(errors="replace")

    steps = list(stream(Table(), [1], GenerateParams(max_new_tokens=4), spread))
    assert [s.text for s in steps] == ["", "", "你", "y"]
    cut = list(stream(Table(), [1], GenerateParams(max_new_tokens=2), spread))
    assert "".join(s.text for s in cut) == "\ufffd"


def test_without_a_tokenizer():
    out = collect(stream(Table(), [1], GenerateParams(max_new_tokens=3)))
    assert (out.ids, out.text) == ([2, 3, 4], "")
    with pytest.raises(InputError, match="stop_strings"):
        stream(Table(), [1], GenerateParams(stop=("x",)))


# --- steps ---------------------------------------------------------------------------------------------------------


def test_one_prefill_then_one_token_a_step_and_none_after_the_last():
    session = Table()
    run([1, 2, 3], session, max_new_tokens=4)
    assert session.calls == [(3, 0), (1, 3), (1, 4), (1, 5)]
    assert session.reads == 4  # greedy reads the argmax alone


def test_sampling_is_the_sampler_at_each_position():
    session = Table()
    params = params_from(temperature=1.3, top_k=20, repetition_penalty=1.2, seed=5, max_new_tokens=12)
    got = collect(stream(session, [1, 2], params, decode, number=3)).ids
    twin, ids, want = Table(), [1, 2], []
    twin.step(ids, 0)
    for _ in range(12):
        want.append(sample(twin.logits[-1], ids, params.sampling, position=len(ids), sequence=3))
        ids = [*ids, want[-1]]
        twin.step(want[-1:], len(ids) - 1)
    assert got == want


def test_greedy_with_a_penalty():
    out = run([1, 2], Table(rule=lambda _: 7), repetition_penalty=50.0, max_new_tokens=6)
    assert out.ids[0] == 7
    assert out.ids[1] != 7


@given(st.integers(), st.integers(1, 20))
def test_a_shorter_answer_is_a_prefix(seed, n):
    longer = run([1], temperature=2.0, seed=seed, max_new_tokens=20)
    assert run([1], temperature=2.0, seed=seed, max_new_tokens=n).ids == longer.ids[:n]


@pytest.mark.parametrize("how", [{"temperature": 9.0}, {"do_sample": True}, {"top_k": 25, "seed": None}])
def test_a_seed_that_is_not_given_is_drawn_and_returned(how):
    flat = {"temperature": 9.0, "max_new_tokens": 40} | how
    first, second = run([1], **flat), run([1], **flat)
    assert first.seed != second.seed
    assert first.ids != second.ids  # 40 draws from near 25 ids: alike once in 10^50
    for out in (first, second):
        again = run([1], **flat | {"seed": out.seed})
        assert (again.ids, again.text, again.seed) == (out.ids, out.text, out.seed)


def test_the_seed_is_told_with_the_last_step_where_one_was_used():
    for seed in (0, -5, 2**70):
        steps = list(stream(Table(), [1], params_from(temperature=1.0, seed=seed, max_new_tokens=3), decode))
        assert [s.seed for s in steps] == [None, None, seed]
        assert run([1], temperature=1.0, seed=seed, max_new_tokens=0).seed == seed
    for how in ({}, {"seed": 3}, {"temperature": 0, "seed": 3}, {"repetition_penalty": 2.0}, {"max_new_tokens": 0}):
        assert run([1], **{"max_new_tokens": 3} | how).seed is None


def test_numpy_prompts():
    for prompt in (np.array([1, 2]), np.array([1, 2], np.uint8), (1, 2), [np.int32(1), 2], range(1, 3)):
        assert run(prompt, max_new_tokens=2).ids == [3, 4]


# --- interruptions -------------------------------------------------------------------------------------------------


def test_keyboard_interrupt_ends_the_stream_and_leaves_the_session_usable():
    session = Table(interrupt_at=5)
    steps = stream(session, [1, 2], GenerateParams(max_new_tokens=10), decode)
    got = []

    def read():
        got.extend(step.text for step in steps)

    with pytest.raises(KeyboardInterrupt):
        read()
    assert got == ["c", "d", "e"]  # all that came before
    assert next(steps, None) is None
    assert run([1, 2], session, max_new_tokens=10).ids == run([1, 2], max_new_tokens=10).ids


def test_closing_a_stream():
    session = Table()
    steps = stream(session, [1, 2], GenerateParams(), decode)
    next(steps)
    steps.close()
    assert next(steps, None) is None
    assert run([1], session, max_new_tokens=2).ids == [2, 3]


def test_collecting_a_stream_that_was_read():
    steps = stream(Table(), [1], GenerateParams(max_new_tokens=1), decode)
    list(steps)
    with pytest.raises(InputError, match="last step"):
        collect(steps)


# --- timings -------------------------------------------------------------------------------------------------------


def test_timings_leave_out_the_consumer():
    pieces = []
    for step in stream(Table(), [1, 2], GenerateParams(max_new_tokens=4), decode, load_s=1.5):
        time.sleep(0.02)
        pieces.append(step)
    timings = pieces[-1].timings
    assert [s.timings for s in pieces[:-1]] == [None] * 3
    assert (timings.load_s, timings.n_prompt, timings.n_new) == (1.5, 2, 4)
    assert 0 < timings.prefill_s <= timings.first_token_s
    assert 0 < timings.decode_s < 0.06
    assert timings.prefill_tps == 2 / timings.prefill_s
    assert timings.decode_tps == 3 / timings.decode_s


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_decoding_takes_every_turn_of_the_loop_and_no_time_between(n: int, monkeypatch: pytest.MonkeyPatch):
    """By a clock that goes one second each time it is read, and a thousand while the consumer has an id."""
    clock = [0.0]

    def read() -> float:
        clock[0] += 1
        return clock[0]

    monkeypatch.setattr(miaotui.runtime.generate, "time", SimpleNamespace(perf_counter=read))
    timings = None
    for step in stream(Table(), [1, 2], GenerateParams(max_new_tokens=n), decode):
        clock[0] += 1000
        timings = step.timings
    assert (timings.decode_s, timings.n_new) == (n if n > 1 else 0, n)


def test_rates_of_nothing_are_zero():
    assert Timings().prefill_tps == Timings().decode_tps == 0
    one = run([1], max_new_tokens=1).timings
    assert one.decode_s == one.decode_tps == 0


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], "no token ids.*bos"),
        (np.empty(0, np.int64), "no token ids"),
        ([1, 30], "id 30 at position 1.*0 to 29"),
        ([-1], "id -1 at position 0"),
        ([1, 2, 10**30], "position 2"),
        ([1, True], "True at position 1 is bool"),
        ([1, 2.0], "2.0 at position 1 is float"),
        ([math.nan], "nan at position 0"),
        ([None], "None at position 0"),
        (["1"], "'1' at position 0"),
        ([[1, 2]], "position 0 is list"),
        (np.array([[1, 2]]), r"shape \(1, 2\)"),
        (np.array(3), r"shape \(\)"),
        (np.array([1.0]), "float64"),
        (np.array([True]), "bool"),
        (np.array([2**64 - 1], np.uint64), "position 0"),
        ("abc", "str found"),
        (b"abc", "bytes found"),
        (7, "int found"),
        (None, "NoneType found"),
        ({1: 2}, "dict found"),
        ({1, 2}, "set found"),
    ],
)
def test_refused_ids(ids, words):
    with pytest.raises(InputError, match=words):
        check_ids(ids, N_VOCAB)
    session = Table()
    with pytest.raises(InputError, match=words):
        stream(session, ids, GenerateParams(), decode)  # at once, not at the first step
    assert session.calls == []


def test_prompt_over_the_context():
    with pytest.raises(InputError, match="9 tokens, 5 more than the context of 4"):
        stream(Table(n_context=4), [1] * 9, GenerateParams(), decode)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": -5}, "top_k=-5"),
        ({"eos_token_id": -2}, "eos_token_id"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"eos_token_id": [1, True]}, "True found"),
        ({"eos_token_id": 1.0}, "eos_token_id"),
        ({"stop_strings": ""}, "stop_strings"),
        ({"stop_strings": 3}, "stop_strings"),
        ({"stop": "a", "stop_strings": "b"}, "the same parameter"),
        ({"ignore_eos": 1}, "ignore_eos=1"),
        ({"do_sample": "yes"}, "do_sample='yes'"),
        (
            {"num_beam_groups": 4, "max_length": 3},
            "unknown.*max_length.*num_beam_groups.*; known are .*max_new_tokens, .*seed",
        ),
    ],
)
def test_refused_parameters(kwargs, words):
    with pytest.raises(InputError, match=words):
        params_from(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "greedy"),
    [
        ({}, True),
        ({"seed": 3}, True),
        ({"repetition_penalty": 1.2}, True),
        ({"temperature": None, "top_p": None}, True),
        ({"temperature": 0.8}, False),
        ({"top_k": 5}, False),
        ({"top_p": 0.9}, False),
        ({"min_p": 0.1}, False),
        ({"do_sample": True}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0, "top_k": 5}, True),
        ({"temperature": 0.8, "do_sample": False}, True),
        ({"temperature": 0, "do_sample": True}, True),
    ],
)
def test_when_an_answer_is_sampled(kwargs, greedy):
    assert params_from(**kwargs).sampling.greedy is greedy


def test_defaults():
    assert params_from() == GenerateParams(sampling=SamplingParams())
    assert params_from(stop_strings="x", eos_token_id=2, max_new_tokens=np.int64(3)) == GenerateParams(3, ("x",), (2,))
