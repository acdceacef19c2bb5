"""Ids that the CPU's threads draw as part of a pass: those that `Sampler`, the definition, draws of the same logits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from checkpoints import small, write_checkpoint
from hypothesis import example, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.model import load
from miaotui.runtime import drawing
from miaotui.runtime.cpu import link
from miaotui.runtime.cpu.draw import draw_lines
from miaotui.runtime.cpu.draw_lanes import NEARLY, POWERS
from miaotui.runtime.cpu.target import debugging
from miaotui.runtime.cpu.team import aligned
from miaotui.runtime.drawing import DRAW, PART, SAMPLE, SAMPLED, SHARED, row_words, scratch_bytes, scratch_slots
from miaotui.runtime.rules import Ruled, Rules
from miaotui.runtime.sampling import Sampler, SamplingParams, mask_words
from miaotui.runtime.step import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: After the scratch: nothing writes there.
GUARD, POISON = 4096, 0xA5
HOT = [5e-324, 1e-300, 1e-3, 0.5, 1.0, 3.0, 1e300]


def drawn(rows: NDArray[np.float32], samplers: Sequence[Sampler], position: int, threads: int = 1) -> list[int]:
    """What the kernel draws at a position, by sampler; sampler i has row i. -1: nothing can be drawn."""
    count, n = rows.shape
    x, size = 64, scratch_bytes(n, threads, count)
    scratch = -(-(x + rows.nbytes) // 64) * 64
    arena = aligned(scratch + size + GUARD)
    arena[:] = POISON
    arena[x : x + rows.nbytes] = rows.view(np.uint8).ravel()
    lines = draw_lines(link.addresses([DRAW])[DRAW], x, n, scratch, scratch_slots(threads, count))
    batch = Batch(1, count)
    batch.clear()
    batch.n_logits = count
    batch.results[:] = np.where(np.isnan(rows).any(axis=1), -1, rows.argmax(axis=1))  # as `argmax` leaves them
    for row in reversed(range(len(samplers))):  # the order says nothing
        words = row_words(samplers[row], position)
        assert words is not None
        batch.draw(row, words)
    team = link.executor(threads)
    team.bind(lines.ctypes.data, len(lines), int(arena.ctypes.data), batch.address)
    team.step()
    team.close()
    assert np.all(arena[scratch + size :] == POISON)
    assert np.array_equal(arena[x : x + rows.nbytes].view(np.float32), rows.ravel(), equal_nan=True)
    return [int(i) for i in batch.drawn[: len(samplers)]]


def logits_of(seed: int, shape: tuple[int, ...], grid: int = 2**20, scale: float = 3.0) -> NDArray[np.float32]:
    numbers: NDArray[np.float64] = np.random.default_rng(seed).standard_normal(shape) * scale
    return (np.round(numbers * grid) / grid).astype(np.float32)


def same(rows: NDArray[np.float32], samplers: Sequence[Sampler], position: int, threads: int = 1) -> None:
    wanted = [sampler.draw(row, position) for sampler, row in zip(samplers, rows, strict=True)]
    assert drawn(rows, samplers, position, threads) == wanted


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**64 - 1),
    n=st.sampled_from([1, 2, 15, 16, 17, 300, PART - 1, PART, PART + 1, 5000]),
    count=st.integers(1, 5),
    threads=st.integers(1, 3),
    temperature=st.sampled_from([0.0, *HOT]),
    top_k=st.sampled_from([0, 1, 2, 40, 4999, 10_000]),
    top_p=st.sampled_from([5e-324, 0.1, 0.5, 0.95, float(np.nextafter(1, 0)), 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    penalty=st.sampled_from([1.0, 0.8, 1.3]),
    grid=st.sampled_from([1, 4, 2**20]),  # many ties, some, none
    hidden=st.sampled_from([0.0, 0.5]),  # the share of -inf
    do_sample=st.sampled_from([True, True, True, False]),
    position=st.sampled_from([1, 77, 2**33 + 5]),
)
def test_the_kernel_draws_what_the_definition_draws(
    seed, n, count, threads, temperature, top_k, top_p, min_p, penalty, grid, hidden, do_sample, position
):  # fmt: skip
    rng = np.random.default_rng(seed)
    rows = logits_of(seed, (count, n), grid)
    rows[rng.random(rows.shape) < hidden] = -np.inf
    rows[:, rng.integers(n)] = -0.0
    samplers = []
    for i in range(count):
        params = SamplingParams(temperature, top_k, top_p, min_p, penalty, do_sample=do_sample, seed=seed + i)
        samplers.append(Sampler(n, params, sequence=seed ^ i))
        samplers[-1].observe(rng.integers(0, n, 5).tolist())
    same(rows, samplers, position, threads)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**64 - 1),
    n=st.sampled_from([SHARED - 1, SHARED, SHARED + 1, SHARED + PART + 3]),
    threads=st.integers(2, 4),
    temperature=st.sampled_from(HOT),
    top_k=st.sampled_from([0, 0, 1, 40, SHARED - 2]),
    top_p=st.sampled_from([5e-324, 0.1, 0.5, 0.95, float(np.nextafter(1, 0)), 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    penalty=st.sampled_from([1.0, 1.3]),
    grid=st.sampled_from([1, 4, 2**20]),
    hidden=st.sampled_from([0.0, 0.5]),
)
def test_threads_share_a_row_that_is_drawn_alone(
    seed, n, threads, temperature, top_k, top_p, min_p, penalty, grid, hidden
):  # fmt: skip
    """There are more rows, so that each has scratch, and none but one is drawn from."""
    rng = np.random.default_rng(seed)
    rows = logits_of(seed, (4, n), grid)
    rows[rng.random(rows.shape) < hidden] = -np.inf
    rows[:, rng.integers(n)] = -0.0
    sampler = Sampler(n, SamplingParams(temperature, top_k, top_p, min_p, penalty, do_sample=True, seed=seed))
    sampler.observe(rng.integers(0, n, 5).tolist())
    assert drawn(rows, [sampler], 7, threads) == [sampler.draw(rows[0], 7)]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**64 - 1),
    n=st.sampled_from([SAMPLED - 1, SAMPLED, SAMPLED + 1, SAMPLED + PART + 3]),
    threads=st.integers(1, 2),
    temperature=st.sampled_from([0.1, 0.8, 3.0]),
    top_k=st.sampled_from([0, 0, 0, SAMPLED // 2]),
    top_p=st.sampled_from([0.02, 0.5, 0.95, 0.999]),
    min_p=st.sampled_from([0.0, 0.0, 0.05]),
    scale=st.sampled_from([0.0, 0.5, 3.0]),
    grid=st.sampled_from([4, 2**20]),
    unlike=st.sampled_from([0.0, 0.0, 1.0, -1.0, -np.inf]),  # how the sample differs from the rest
)
def test_a_sample_that_says_where_a_nucleus_ends_may_be_wrong(
    seed, n, threads, temperature, top_k, top_p, min_p, scale, grid, unlike
):  # fmt: skip
    rows, stride = logits_of(seed, (2, n), grid, scale), n // PART // SAMPLE * PART
    for i in range(SAMPLE):
        rows[:, i * stride : i * stride + PART] += np.float32(unlike)
    sampler = Sampler(n, SamplingParams(temperature, top_k, top_p, min_p, do_sample=True, seed=seed))
    assert drawn(rows, [sampler], 7, threads) == [sampler.draw(rows[0], 7)]


@pytest.mark.parametrize("n", [49_151, 49_152, 262_144])
@pytest.mark.parametrize(
    "how", [{}, {"top_p": 0.95}, {"top_k": 50, "top_p": 0.9}, {"min_p": 0.02}, {"top_p": 0.3, "min_p": 0.5}], ids=str
)
def test_large_vocabularies(n, how):
    rows = np.concatenate([logits_of(n, (2, n)), logits_of(n, (2, n), grid=2), np.zeros((1, n), np.float32)])
    samplers = [Sampler(n, SamplingParams(0.8, do_sample=True, seed=i, **how)) for i in range(len(rows))]
    for position in (5, 6):
        same(rows, samplers, position, threads=2)
    assert drawn(rows, samplers[:1], 7, threads=2) == [samplers[0].draw(rows[0], 7)]


@pytest.mark.parametrize("top_p", [0.5, float(np.nextafter(0.5, 1)), 255 / 256])
def test_where_a_nucleus_ends_among_equals(top_p):
    """Of equals the lower ids are in: as many as reach it, and the last of them is drawn sometimes."""
    n, times = 256, 2000
    rows = np.ones((times, n), np.float32)
    samplers = [Sampler(n, SamplingParams(top_p=top_p, do_sample=True, seed=3), sequence=i) for i in range(times)]
    got = drawn(rows, samplers, 9)
    assert got == [sampler.draw(row, 9) for sampler, row in zip(samplers, rows, strict=True)]
    assert max(got) == int(np.ceil(top_p * n)) - 1


@pytest.mark.parametrize("temperature", HOT)
def test_a_few_that_are_far_above_or_below_the_rest(temperature):
    """Levels of score span what there is; where nearly all lie on one level, its digits tell them apart."""
    n = 3000
    rows = np.tile(logits_of(1, (n,), scale=1e-3), (4, 1))
    rows[1, 7] = 1e30
    rows[2, 8] = -1e30
    rows[3, :5] = np.finfo(np.float32).max, np.finfo(np.float32).min, -np.inf, 1e-45, -1e-45
    for top_k, top_p in ((0, 0.7), (20, 1.0), (2999, 0.99)):
        params = SamplingParams(temperature, top_k, top_p, do_sample=True, seed=5)
        same(rows, [Sampler(n, params, sequence=i) for i in range(4)], 3, threads=3)


def test_powers_are_as_near_as_their_users_think():
    r = np.linspace(-0.5, 0.5, 1_000_001)
    off = np.abs(np.polyval(POWERS, r) / np.exp2(r) - 1)
    assert off.max() < 0.96 * 2.0**-NEARLY  # the rest for what is rounded: of the exponent, 64 at most


def test_where_nothing_can_be_drawn_the_definition_says_why():
    n = 40
    params = [SamplingParams(do_sample=True, seed=1), SamplingParams(repetition_penalty=1.5)]
    params.append(SamplingParams(do_sample=True, seed=1, top_h=0.5))
    for bad, rest in ((np.nan, 0.0), (-np.nan, -np.inf), (np.inf, 0.0), (-np.inf, -np.inf)):
        for at in (0, 16, n - 1):
            row = np.full(n, rest, np.float32)
            row[at] = bad
            for each in params:
                sampler = Sampler(n, each)
                sampler.observe([3])
                assert drawn(row[None], [sampler], 4) == [-1]
                with pytest.raises(InputError, match="after position 3"):
                    sampler.draw(row, 4)
        alone = np.full((3, SHARED), rest, np.float32)
        alone[0, SHARED - 1] = bad
        assert drawn(alone, [Sampler(SHARED, params[0])], 4, threads=2) == [-1]
    low = Sampler(2, SamplingParams(do_sample=True, seed=1, repetition_penalty=1e-30))  # the penalty makes it infinite
    low.observe([0])
    assert drawn(np.full((1, 2), 1e30, np.float32), [low], 4) == [-1]


@example(at_least=3, no_repeat=0, forced=True, penalty=1.0, do_sample=True, seed=0)
@given(
    at_least=st.integers(0, 3),
    no_repeat=st.integers(0, 3),
    forced=st.booleans(),
    penalty=st.sampled_from([1.0, 1.4]),
    do_sample=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_rules_are_edits_before_the_draw(at_least, no_repeat, forced, penalty, do_sample, seed):
    n = 30
    text = np.random.default_rng(seed).integers(0, 4, 12).tolist()
    rules = Rules(no_repeat, ((5,), (text[-1], 6)), at_least, ends=(2, 3, 1000), forced_eos=(9, 4) if forced else ())
    params = SamplingParams(0.7, top_p=0.9, repetition_penalty=penalty, do_sample=do_sample, seed=seed)
    sampler = Ruled(n, params, rules, ids=text, limit=2)
    for position in (12, 13):  # the second is the last that there is room for
        row = logits_of(seed + position, (n,))
        token = sampler.draw(row, position)
        assert drawn(row[None], [sampler], position) == [token]
        sampler.observe([token])


def mask_of(allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
    padded = np.zeros(mask_words(allowed.size) * 32, np.bool_)
    padded[: allowed.size] = allowed
    return np.packbits(padded, bitorder="little").view(np.uint32)


@given(
    seed=st.integers(0, 2**32),
    n=st.sampled_from([1, 16, 31, 32, 33, 300, PART + 1]),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    ruled=st.booleans(),
    penalty=st.sampled_from([1.0, 1.4]),
    do_sample=st.booleans(),
)
def test_a_mask_comes_before_everything_else(seed, n, share, ruled, penalty, do_sample):
    """What is drawn under a mask is what is drawn of logits that are -inf where it has no bit."""
    rng = np.random.default_rng(seed)
    may, text = rng.random(n) < share, rng.integers(0, n, 5).tolist()
    may[rng.integers(n)] = True
    params = SamplingParams(0.9, top_p=0.9, repetition_penalty=penalty, do_sample=do_sample, seed=seed)
    samplers = []
    for _ in range(2):
        if ruled:
            samplers.append(Ruled(n, params, Rules(forced_eos=(n - 1, 0)), ids=text, limit=2))
        else:
            samplers.append(Sampler(n, params))
            samplers[-1].observe(text)
    masked, plain = samplers
    masked.mask = mask_of(may)
    for position in (5, 6):  # at the second an id is forced, if the mask lets one come
        row = logits_of(seed + position, (n,))
        token = masked.draw(row, position)
        assert may[token]
        assert drawn(row[None], [masked], position) == [token]
        if not ruled or position == 5:
            assert token == plain.draw(np.where(may, row, np.float32(-np.inf)), position)
        elif may[n - 1] or may[0]:
            assert token in {n - 1, 0}
        for sampler in samplers:
            sampler.observe([token])


def test_a_mask_that_leaves_nothing_is_refused():
    for sampler in (Sampler(40, SamplingParams()), Sampler(40, SamplingParams(do_sample=True, seed=1))):
        sampler.mask = mask_of(np.arange(40) == 7)
        row = np.zeros(40, np.float32)
        assert drawn(row[None], [sampler], 4) == [7] == [sampler.draw(row, 4)]
        row[7] = -np.inf
        assert drawn(row[None], [sampler], 4) == [-1]
        with pytest.raises(InputError, match="no id may come after position 3: the mask of allowed ids"):
            sampler.draw(row, 4)
        sampler.mask = np.zeros(3, np.uint32)
        with pytest.raises(InputError, match=r"mask: uint32 \[3\] found, expected uint32 \[2\]"):
            row_words(sampler, 4)


def test_an_id_of_a_rule_outside_the_vocabulary_is_refused_and_nothing_is_written():
    sampler = Ruled(8, SamplingParams(do_sample=True, seed=1), Rules(never=((9,),)), ids=[1], limit=3)
    with pytest.raises(InputError, match=r"token id 9 is outside the vocabulary 0 \.\. 7"):
        row_words(sampler, 1)


def test_a_callers_functions_run_in_python():
    sampler = Ruled(8, SamplingParams(do_sample=True, seed=1), Rules(), ids=[1], limit=3, processors=[lambda *_: None])
    assert row_words(sampler, 1) is None


# ---------------------------------------------------------------------------------------------- of a model
HOWS = [
    {"temperature": 0.8, "top_p": 0.95},
    {"temperature": 1.3, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.3},
    {"repetition_penalty": 1.2},
    {"temperature": 0.9, "no_repeat_ngram_size": 2, "bad_words_ids": [[3]], "min_new_tokens": 4},
    {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.5, "typical_p": 0.95},
    {"adaptive": 2.0, "xtc_probability": 0.5, "top_h": 0.8, "sampler_order": ["xtc", "top_h", "temperature"]},
    {"frequency_penalty": 0.8, "dry_multiplier": 1.0, "dry_allowed_length": 1, "logit_bias": {3: 2.0}},
    {"presence_penalty": 0.8, "dynatemp_range": 0.5, "suppress_tokens": [3], "sequence_bias": {(4, 5): 1.0}},
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("draws")
    write_checkpoint(where, small("llama"))
    return where


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("how", HOWS, ids=str)
def test_a_pass_draws_and_python_does_not(path, threads, how, monkeypatch):
    prompts = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [1, 2, 3]]
    how = {"max_new_tokens": 12, "seed": 11, "ignore_eos": True, "logprobs": True, **how}
    with load(path, threads=threads) as model:
        with monkeypatch.context() as patched:
            patched.setattr("miaotui.runtime.sequence.row_words", lambda *_: None)
            wanted = model.generate(prompts, **how)
        with monkeypatch.context() as patched:
            patched.setattr(Sampler, "draw", None)
            got = model.generate(prompts, **how)
            alone = [model.generate(prompt, **how) for prompt in prompts]
    assert [each.ids for each in got] == [each.ids for each in wanted] == [each.ids for each in alone]
    assert [each.logprobs for each in got] == [each.logprobs for each in wanted]


def test_a_callers_function_changes_its_own_row_alone(path):
    def never(_: list[int], row: NDArray[np.float32]) -> None:
        row[:5] = -np.inf

    how = {"max_new_tokens": 8, "seed": 3, "temperature": 1.0, "ignore_eos": True}
    with load(path, threads=2) as model:
        plain, changed = model.generate([1, 2, 3], **how), model.generate([1, 2, 3], logits_processor=never, **how)
        assert min(changed.ids) >= 5
        assert plain.ids == model.generate([[1, 2, 3]] * 2, **how)[1].ids


def test_the_scratch_is_part_of_the_arena(path):
    with load(path, threads=2) as model:
        program = model.session.program
        size = scratch_bytes(program.n_vocab, 2, program.n_logits)
        assert program.draw_at + size <= program.arena_bytes
        assert max(t.offset + t.nbytes for t in program.tensors) <= program.draw_at
        assert drawing.slot_bytes(program.n_vocab) % 64 == 0


def test_an_error_of_a_draw_ends_its_text_alone(path):
    """Rules leave one text nothing; the other one of its pass gets what it gets alone."""
    how = {"max_new_tokens": 6, "temperature": 0.8, "seed": 1, "ignore_eos": True}
    with load(path, threads=2) as model:
        wanted = model.generate([4, 5], **how).ids
        well, ill = model.sequence(), model.sequence()
        good = well.tokens([4, 5], **how)
        bad = ill.tokens([1, 2, 3], bad_words_ids=[[i] for i in range(model.config.n_vocab)], **how)
        got = [next(good).id]
        with pytest.raises(InputError, match="no id may come after position 2: bad_words_ids"):
            next(bad)
        assert got + [each.id for each in good] == wanted


def checked(spoil: bool, n: int = 1100, threads: int = 1) -> list[int]:  # noqa: FBT001
    """Ids drawn while every access is watched (MIAOTUI_DEBUG); `spoil`: the history names an id after the last.

    Several threads draw one row after the other, which they share.
    """
    from miaotui.runtime.cpu.bounds import Checked

    count = 4
    rows, size = logits_of(4, (count, n), grid=4), scratch_bytes(n, threads, count)
    arena = aligned(rows.nbytes + size + 128)
    arena[: rows.nbytes] = rows.view(np.uint8).ravel()
    scratch = -(-rows.nbytes // 64) * 64
    lines = draw_lines(link.addresses([DRAW])[DRAW], 0, n, scratch, threads)
    batch, text = Batch(1, count), [3, 5, 3]
    params = SamplingParams(0.7, 40, 0.9, 0.01, 1.2, do_sample=True, seed=2)
    ruled = Ruled(n, params, Rules(2, ends=(1,), at_least=9), ids=text, limit=20)
    masked = Sampler(n, params)
    masked.mask = mask_of(np.arange(n) % 3 > 0)
    samplers = [Sampler(n, SamplingParams(do_sample=True, seed=1, top_p=0.8)), ruled, Sampler(n, params), masked]
    watched = Checked(link.executor(threads), [None] * len(lines), lines, batch)
    watched.bind(lines.ctypes.data, len(lines), int(arena.ctypes.data), batch.address)
    got = []
    for some in [[i] for i in range(count)] if threads > 1 else [list(range(count))]:
        batch.clear()
        batch.n_logits, batch.results[:] = count, rows.argmax(axis=1)
        for row in some:
            words = row_words(samplers[row], 3)
            assert words is not None
            batch.draw(row, words)
        if spoil:
            ruled.history[0] = 10**7
        watched.step()
        got += [int(batch.drawn[row]) for row in some]
    watched.close()
    assert got == [s.draw(row, 3) for s, row in zip(samplers, rows, strict=True)]
    return got


@pytest.mark.ci  # 10 s: compiles it with checks
@pytest.mark.skipif(debugging(), reason="the whole run has MIAOTUI_DEBUG")
def test_every_access_of_a_draw_is_among_its_operands():
    program = (
        "import test_draws as t\nfrom miaotui.errors import BackendError\n"
        "print(t.checked(False))\nprint(t.checked(False, 17000, 3))\n"
        "for how in (), (17000, 3):\n"
        "    try: t.checked(True, *how)\n"
        "    except BackendError as e: print(e)\n"
    )
    here = os.environ | {"MIAOTUI_DEBUG": "1", "MIAOTUI_QUIET": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, env=here,
                          capture_output=True, text=True, check=False, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stderr
    ids, one_by_one, late, early = done.stdout.splitlines()
    assert len(json.loads(ids)) == len(json.loads(one_by_one)) == 4
    for error, at in ((late, 2), (early, 0)):  # where a row is shared, its scores are made first
        assert re.match(rf"instruction {at}, draw: 4 bytes at .* lie in none of its operands", error)
