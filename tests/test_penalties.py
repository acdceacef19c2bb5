"""What penalties do to scores: known answers, transformers' processors, and the kernel next to the definition."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import miaotui
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, TokenizerError
from miaotui.loader.text.tokenizer import Tokenizer
from miaotui.runtime.generate import params_from
from miaotui.runtime.penalties import Changes, Dry, Penalties
from miaotui.runtime.penalty_params import penalties_from
from miaotui.runtime.rules import Ruled, Rules
from miaotui.runtime.sampling import Sampler, SamplingParams
from miaotui.tools import demo
from test_draws import drawn, logits_of

N = 40


def changed(row, prompt: list[int], answer: list[int], ends=(), source=None, **how: Any) -> list[float]:
    """A row of logits after the penalties, of a greedy sampler."""
    changes = Changes(len(row), penalties_from(how), ends, source)
    sampler = Sampler(len(row), SamplingParams(), changes=changes)
    sampler.observe(prompt, answer=False)
    sampler.observe(answer)
    scores, _ = sampler._changed(np.array(row, np.float32), 1)
    return scores.tolist()


def test_known_answers():
    row = [2.0, -1.0, 0.5, 0.0]
    assert changed(row, [3], [0, 1, 0], frequency_penalty=0.5) == [1.0, -1.5, 0.5, 0.0]  # the prompt's do not count
    assert changed(row, [3], [0, 1, 0], presence_penalty=0.25) == [1.75, -1.25, 0.5, 0.0]
    assert changed(row, [], [0, 0], frequency_penalty=-1, presence_penalty=0.5) == [3.5, -1.0, 0.5, 0.0]
    assert changed(row, [], [], logit_bias={"1": 3, 2: -0.5}) == [2.0, 2.0, 0.0, 0.0]
    assert changed(row, [3, 0], [1], sequence_bias=[[[0, 1, 2], 4.0], [[1, 3], 1.0], [[2, 0], 9.0], [[0], -1]]) == [
        1.0, -1.0, 4.5, 1.0,
    ]  # fmt: skip
    assert changed(row, [0, 1], [2], encoder_repetition_penalty=2) == [4.0, -0.5, 0.5, 0.0]
    assert changed(row, [3], [2], source=[0, 99], encoder_repetition_penalty=2) == [4.0, -1.0, 0.5, 0.0]
    grown = changed(row, [3, 3], [2] * 5, ends=(0, 1, 77), exponential_decay_length_penalty=(3, 1.5))
    assert grown == [2 + 2 * 1.25, -1 + 1.25, 0.5, 0.0]  # two ids beyond: 1.5^2 - 1 of the size on top
    assert changed(row, [3, 3], [2] * 3, ends=(0,), exponential_decay_length_penalty=(3, 1.5)) == row


def test_dry_by_hand():
    """After 0 1 2 0 1 the id 2 has come with two before it, and 3 after one only."""
    row = [0.0] * 5

    def taken(text, **how):
        return changed(row, text, [], dry_multiplier=0.5, dry_base=2, **how)

    assert taken([0, 1, 2, 0, 1]) == [0, 0, -0.5, 0, 0]  # 0.5 * 2^(2 - 2)
    assert taken([4, 0, 1, 2, 4, 0, 1]) == [0, 0, -1.0, 0, 0]
    assert taken([1, 3, 0, 1, 2, 0, 1], dry_allowed_length=1) == [0, 0, -1.0, -0.5, 0]
    assert taken([1, 2, 0, 1]) == row  # one alone is allowed
    assert taken([0, 1, 2, 0, 1], dry_penalty_last_n=4) == row  # the first 0 is out of sight
    assert taken([0, 1, 2, 0, 1], dry_penalty_last_n=5) == [0, 0, -0.5, 0, 0]
    assert taken([0, 1, 2, 0, 1], dry_penalty_last_n=0) == row
    assert taken([0, 1, 2, 0, 1], dry_sequence_breakers=[0]) == row
    assert taken([0, 1, 2, 0, 1], dry_sequence_breakers=[1]) == row
    assert taken([0, 1, 2, 0, 1], dry_sequence_breakers=[4]) == [0, 0, -0.5, 0, 0]
    assert taken([]) == row
    assert taken([3] * 6) == [0, 0, 0, -4.0, 0]  # five before the last are those before it


@given(
    text=st.lists(st.integers(0, 3), max_size=40),
    allowed=st.integers(1, 4),
    last_n=st.sampled_from([-1, 3, 10]),
    breakers=st.sets(st.integers(0, 3), max_size=1),
    cut=st.integers(0, 40),
)
def test_dry_is_its_definition(text, allowed, last_n, breakers, cut):
    """Every earlier place is compared with the end, id by id."""
    seen = text[max(0, len(text) - last_n) :] if last_n >= 0 else text
    wanted = np.zeros(4)
    for at in range(1, len(seen)):
        n = 0
        while n < at and seen[at - 1 - n] == seen[-1 - n] and seen[-1 - n] not in breakers:
            n += 1
        if n >= allowed:
            wanted[seen[at]] = min(wanted[seen[at]], -0.5 * 1.5 ** (n - allowed))
    how = Penalties(dry=Dry(0.5, 1.5, allowed, last_n, tuple(breakers)))
    changes = Changes(4, how)
    changes.observe(text[:cut], answer=False)
    changes.observe(text[cut:], answer=True)
    ids, amounts = changes.lists().repeated
    got = np.zeros(4)
    got[ids] = amounts
    assert got == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_transformers_has_the_same_scores(seed):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    row, prompt, answer = logits_of(seed, (N,)), rng.integers(0, N, 9).tolist(), rng.integers(0, N, 7).tolist()
    ids = torch.tensor([prompt + answer])
    biases = [[[answer[-1], 3], 1.5], [[prompt[-1], answer[0], 4], 2.0], [[5], -3.0]]
    for how, processor in (
        ({"sequence_bias": biases}, transformers.SequenceBiasLogitsProcessor(biases)),
        (
            {"encoder_repetition_penalty": 1.3},
            transformers.EncoderRepetitionPenaltyLogitsProcessor(1.3, torch.tensor([prompt])),
        ),
        (
            {"exponential_decay_length_penalty": (4, 1.2)},
            transformers.generation.ExponentialDecayLengthPenalty((4, 1.2), torch.tensor([1, 3]), len(prompt)),
        ),
    ):
        wanted = processor(ids, torch.from_numpy(row.copy())[None])[0].numpy()
        assert changed(row, prompt, answer, ends=(1, 3), **how) == pytest.approx(wanted.tolist(), rel=1e-6)
    for name, value, processor in (
        ("suppress_tokens", [3, 7], transformers.SuppressTokensLogitsProcessor([3, 7])),
        ("begin_suppress_tokens", [3, 7], transformers.SuppressTokensAtBeginLogitsProcessor([3, 7], len(prompt))),
        ("min_length", 17, transformers.MinLengthLogitsProcessor(17, torch.tensor([1, 3]))),
        ("min_length", 16, transformers.MinLengthLogitsProcessor(16, torch.tensor([1, 3]))),
    ):
        rules = params_from(n_vocab=N, eos_ids=(1, 3), **{name: value}).rules
        for given_ids in (prompt, prompt + answer):
            scores = row.copy()
            Rules(**{**vars(rules), "ends": (1, 3)}).apply(scores, given_ids, len(given_ids) - len(prompt), last=False)
            wanted = processor(torch.tensor([given_ids]), torch.from_numpy(row.copy())[None])[0].numpy()
            assert np.array_equal(scores, wanted), name


HOW = {
    "frequency_penalty": 0.7, "presence_penalty": 0.3, "logit_bias": {3: 2.5, 5: -1.0},
    "sequence_bias": [[[1, 2], 3.0], [[0, 1], -2.0]], "encoder_repetition_penalty": 1.2,
    "exponential_decay_length_penalty": (1, 1.3), "dry_multiplier": 0.8, "dry_allowed_length": 1,
}  # fmt: skip


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    names=st.sets(st.sampled_from(sorted(HOW))),
    ruled=st.booleans(),
    forced=st.booleans(),
    penalty=st.sampled_from([1.0, 1.3]),
    do_sample=st.booleans(),
)
def test_the_kernel_draws_what_the_definition_draws(seed, names, ruled, forced, penalty, do_sample):
    rng = np.random.default_rng(seed)
    how = penalties_from({name: HOW[name] for name in names}, N)
    params = SamplingParams(0.7, top_p=0.95, repetition_penalty=penalty, do_sample=do_sample, seed=seed)
    prompt, samplers = rng.integers(0, 6, 8).tolist(), []
    for _ in range(2):
        changes = Changes(N, how, (2, 3, 900))
        if ruled:
            rules = Rules(2, ((4,),), ends=(2, 3), forced_eos=(9, 4) if forced else (), suppressed=(7, 8))
            samplers.append(Ruled(N, params, rules, ids=prompt, limit=6, changes=changes))
        else:
            samplers.append(Sampler(N, params, changes=changes))
            samplers[-1].observe(prompt, answer=False)
    ours, theirs = samplers
    for position in range(8, 14):
        row = logits_of(seed + position, (N,), grid=4)
        token = ours.draw(row, position)
        assert drawn(row[None], [theirs], position) == [token]
        again = int(rng.integers(0, 6))  # texts that repeat themselves
        ahead = theirs.ahead([again])
        for each in samplers:
            each.observe([again])
        assert drawn(row[None], [ahead], position + 1) == drawn(row[None], [theirs], position + 1)
    twin = theirs.ahead([1, 2])
    assert drawn(row[None], [theirs], 20) == [ours.draw(row, 20)]  # which the twin has not changed
    for each in samplers:
        each.observe([1, 2])
    assert twin.draw(row, 22) == ours.draw(row, 22)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"frequency_penalty": math.inf}, "frequency_penalty=inf: expected a finite number"),
        ({"presence_penalty": True}, "presence_penalty=True: expected"),
        ({"logit_bias": [3]}, r"logit_bias=\[3\]: expected a dict"),
        ({"logit_bias": {40: 1}}, r"logit_bias: 40 is no id of a token: expected a token id from 0 to 39"),
        ({"logit_bias": {"x": 1}}, r"logit_bias: 'x' is no id of a token: expected a token id"),
        ({"logit_bias": {3: "x"}}, r"logit_bias\[3\]='x': expected a finite number"),
        ({"sequence_bias": [[3, 1.0]]}, r"sequence_bias\[0\]=.*: expected a run"),
        ({"sequence_bias": {(3, 40): 1.0}}, r"sequence_bias\[0\]=\[3, 40\]: expected token ids from 0 to 39"),
        ({"encoder_repetition_penalty": 0}, "encoder_repetition_penalty=0: expected a number > 0"),
        ({"exponential_decay_length_penalty": (-1, 1.1)}, r"exponential_decay_length_penalty=\(-1, 1.1\): expected"),
        ({"exponential_decay_length_penalty": (4, None)}, r"exponential_decay_length_penalty=\(4, None\): expected"),
        ({"exponential_decay_length_penalty": (4, 0)}, r"exponential_decay_length_penalty=\(4, 0\): expected"),
        ({"exponential_decay_length_penalty": 3}, r"exponential_decay_length_penalty=3: expected .* such as \(50, 1"),
        ({"dry_base": 0.5}, "dry_base=0.5: expected a finite number >= 1"),
        ({"dry_allowed_length": 0}, "dry_allowed_length=0: expected an integer >= 1"),
        ({"dry_multiplier": 1, "dry_sequence_breakers": ["x"]}, "'x' is a text, and this model has no tokenizer"),
        ({"suppress_tokens": [40]}, "suppress_tokens=.*outside the vocabulary"),
        ({"min_length": -1}, "min_length=-1: expected an integer >= 0"),
        ({"forced_decoder_ids": [3]}, r"forced_decoder_ids=\[3\]: expected a list of pairs"),
    ],
)
def test_what_cannot_be_is_refused(how, words):
    with pytest.raises(InputError, match=words):
        params_from(n_vocab=N, **how)


def test_dry_of_a_model_with_texts_is_refused_in_the_caller_s_words():
    with miaotui.load(demo.path(), threads=1) as model:
        for how, error, words in (
            (
                {"dry_multiplier": np.array([1, 2])},
                InputError,
                r"dry_multiplier=array\(\[1, 2\]\): expected a finite number >= 0",
            ),
            (
                {"dry_multiplier": 1, "dry_sequence_breakers": ["\ud800"]},
                TokenizerError,
                "dry_sequence_breakers=.*: .* lone surrogate",
            ),
        ):
            with pytest.raises(error, match=words):
                model.generate("Once", max_new_tokens=2, **how)


@pytest.mark.parametrize(
    ("how", "whose"),
    [
        ({"logit_bias": {3: 1e39}}, "penalties and biases"),
        ({"logit_bias": dict.fromkeys(range(N), -1e39), "temperature": 1.0}, "penalties and biases"),
        ({"logit_bias": {3: 1e39}, "dry_multiplier": 1e300, "dry_allowed_length": 1}, "penalties and biases"),
        ({"repetition_penalty": 1.2e-38}, "repetition_penalty=1.2e-38"),
    ],
)
def test_what_makes_infinite_scores_of_finite_logits_is_named(how, whose):
    """The model's weights are not what is wrong; not where biases and penalties cancel to NaN either."""
    params = params_from(n_vocab=N, **how)
    changes = None if params.penalties.off else Changes(N, params.penalties)
    sampler = Sampler(N, params.sampling, changes=changes)
    sampler.observe([5, 3, 5, 3, 5], answer=False)
    row = np.linspace(20, 90, N, dtype=np.float32)
    assert drawn(row[None], [sampler], 5) == [-1]
    with pytest.raises(InputError, match=f"after position 4: {whose} make numbers .* use smaller ones") as said:
        sampler.draw(row, 5)
    assert "damaged" not in str(said.value)


def test_ids_are_forced_where_they_stand():
    rules = params_from(n_vocab=N, forced_decoder_ids=[[2, 7], [3, 8]]).rules
    sampler = Ruled(N, SamplingParams(), rules, ids=[1], limit=9)
    got = []
    for position in range(1, 5):
        row = np.zeros(N, np.float32)
        row[position] = 1
        got.append(sampler.draw(row, position))
        assert drawn(row[None], [sampler], position) == got[-1:]
        sampler.observe(got[-1:])
    assert got == [1, 7, 8, 4]


def test_a_breaker_that_the_tokenizer_drops_is_no_letter():
    """WordPiece, as T5's, has no token for a newline: "a" and a newline are spelled as "a"."""
    words = Tokenizer.from_directory(demo.path("answers"))
    letter, colon = (words.encode(text, add_special_tokens=False) for text in ("a", ":"))
    with miaotui.load(demo.path(), threads=1, max_context=128) as model:
        text = replace(model._text, codec=lambda: words)
    breakers = text.with_ids({"dry_multiplier": 1.0})["dry_sequence_breakers"]
    assert words.encode("a\n", add_special_tokens=False) == letter
    assert not set(letter) & set(breakers)
    assert set(colon) < set(breakers)
    with pytest.raises(InputError, match=r"dry_sequence_breakers: the tokenizer has no token for '\\n'; leave it out"):
        text.with_ids({"dry_multiplier": 1.0, "dry_sequence_breakers": "\n"})
    for asked in (["\n"], "\n"):  # DRY is off, and nothing is said that is not so
        with pytest.raises(InputError, match=r"the tokenizer has no token for '\\n'; leave it out"):
            text.with_ids({"dry_sequence_breakers": asked})
    assert text.with_ids({"dry_sequence_breakers": [":"]})["dry_sequence_breakers"] == colon
