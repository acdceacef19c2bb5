"""NaN goes through every kernel as through the reference, and ends a generation with an error that says where."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, random_tensors, small, write_checkpoint, write_safetensors
from miaotui.errors import CheckpointError, InputError
from miaotui.loader.prune.plan import PrunePlan
from miaotui.runtime.ops import ACTS, FAST
from miaotui.runtime.quantized import QUANTIZED
from miaotui.runtime.rope import RopeTable
from miaotui.runtime.spec import Rope, Weight
from test_ops import Case, exactly, quantized, run_kernels, run_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from miaotui.runtime.spec import Activation

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

TOKENS, WIDTH = 5, 72  # two whole groups of 32 and a tail
DAMAGED = [(0, 0), (3, 15), (1, 33), (4, WIDTH - 1)]  # token, column
LAST_NAN = np.array(0x7FFFFFFF, np.uint32).view(np.float32)[()]  # rounded as a number is, it would become -0


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def plain(*shape: int, dtype: str = "f32") -> Weight:
    x = random(*shape)
    if dtype == "bf16":
        return Weight("w", dtype, shape, (x.view(np.uint32) >> 16).astype(np.uint16), mapped=False)
    return quantized(x, dtype) if dtype in QUANTIZED else Weight("w", dtype, shape, x, mapped=False)


def both(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's result and the reference's."""
    ids = [np.zeros(len(case.passes[0][0]), np.int64)]
    got, expected = run_kernels(case, ids, 2)[0], run_reference(case, ids)[0]
    assert got is not None
    assert expected is not None
    return got, expected


MATRICES = {dtype: plain(19, WIDTH, dtype=dtype) for dtype in ("f32", "bf16", *QUANTIZED)}
MATRICES |= {FAST: MATRICES["bf16"], **{f"{dtype}_planes": MATRICES[dtype] for dtype in QUANTIZED}}
NORM, TABLE = plain(WIDTH), RopeTable(Rope(10000.0, WIDTH // 2), 8)
BUILD = {
    **{f"linear_{dtype}": lambda ops, x, w=w: ops.linear(x, w) for dtype, w in MATRICES.items()},
    "rms_norm": lambda ops, x: ops.rms_norm(x, NORM, 1e-5),
    "layer_norm": lambda ops, x: ops.layer_norm(x, NORM, None, 1e-5),
    "rope": lambda ops, x: ops.rope(x, TABLE, 2),
    "add": lambda ops, x: ops.add(x, x),
    "take_rows": lambda ops, x: ops.take_rows(x),
}


@pytest.mark.parametrize("bad", [np.nan, -np.nan, LAST_NAN], ids=["nan", "-nan", "last"])
@pytest.mark.parametrize("name", BUILD)
def test_it_is_where_the_reference_has_it(name, bad):
    x = random(TOKENS, WIDTH)
    case = Case(BUILD[name], [[x]], exactly, rows=TOKENS, fast=FAST in name, planes=name.endswith("_planes"))
    clean, _ = both(case)
    for at in DAMAGED:
        damaged = x.copy()
        damaged[at] = bad
        case.passes = [[damaged]]
        got, expected = both(case)
        assert np.isnan(expected).any()
        assert np.array_equal(np.isnan(got), np.isnan(expected))
        assert np.array_equal(got[~np.isnan(got)], clean[~np.isnan(got)])


@pytest.mark.parametrize("dtype", [*QUANTIZED, *(f"{dtype}_planes" for dtype in QUANTIZED)])
def test_bytes_of_infinity_are_not_taken_for_numbers(dtype):
    for infinity in (np.inf, -np.inf):
        x = random(TOKENS, WIDTH)
        x[2, 40] = infinity
        got, expected = both(Case(BUILD[f"linear_{dtype}"], [[x]], exactly, planes=dtype.endswith("_planes")))
        assert np.isnan(expected[2]).all()
        assert np.array_equal(np.isnan(got), np.isnan(expected))


def test_rounding_to_bf16_keeps_it():
    def read(y: np.ndarray) -> np.ndarray:
        return (y.copy().view(np.uint16).astype(np.uint32) << 16).view(np.float32)[:, :WIDTH]

    x = random(TOKENS, WIDTH)
    for at, bad in zip(DAMAGED, (np.nan, -np.nan, LAST_NAN, -LAST_NAN), strict=True):
        x[at] = bad
    got, expected = both(Case(lambda ops, x: ops.round_bf16(x), [[x]], exactly))
    assert np.array_equal(read(got), expected, equal_nan=True)
    assert np.isnan(expected).sum() == len(DAMAGED)


def row_alone(got: np.ndarray, expected: np.ndarray, clean: np.ndarray) -> None:
    """Row 2 is NaN, and every other as it was."""
    assert np.isnan(expected[2]).all()
    assert np.isnan(got[2]).all()
    assert np.array_equal(np.delete(got, 2, 0), np.delete(clean, 2, 0))


@pytest.mark.parametrize("act", ACTS)
def test_activations_keep_it(act: Activation):
    w = plain(19, 1)
    case = Case(lambda ops, x: ops.linear(x, w, act=act), [[random(TOKENS, 1)]], exactly)
    clean, _ = both(case)
    case.passes[0][0][2] = np.nan
    row_alone(*both(case), clean)


HEADS, KV_HEADS, D_HEAD, CONTEXT = 4, 2, 20, 150  # two pages


def attended_case(kv_cache: str, window: int | None, bad: float, at: tuple[int, int, str], count: int) -> Case:
    """One number of key or value `at` (position, KV head, which) is `bad`; the last `count` are a pass of their own."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((CONTEXT, n * D_HEAD)).astype(np.float32) for n in (HEADS, KV_HEADS, KV_HEADS))
    position, head, which = at
    (k if which == "k" else v)[position, head * D_HEAD + 3] = bad

    def build(ops: Any, q: Any, k: Any, v: Any) -> Any:
        ops.kv_write(0, k, v, KV_HEADS)
        return ops.attention(0, q, HEADS, KV_HEADS, window=window, scale=D_HEAD**-0.5)

    cuts = [CONTEXT - count, count] if count else [CONTEXT]
    passes = [[part.copy() for part in each] for each in zip(*(np.split(x, cuts[:-1]) for x in (q, k, v)), strict=True)]
    return Case(build, passes, exactly, n_kv_heads=KV_HEADS, d_head=D_HEAD, kv_cache=kv_cache)


def attended(kv_cache: str, window: int | None, bad: float, at: tuple[int, int, str], count: int) -> Any:
    """Results of the last pass of that case."""
    case = attended_case(kv_cache, window, bad, at, count)
    ids = [np.zeros(len(p[0]), np.int64) for p in case.passes]
    return run_kernels(case, ids, 2)[0].reshape(-1, HEADS, D_HEAD), run_reference(case, ids)[0]


def holds(
    run: Callable[[float, tuple[int, int, str]], tuple[np.ndarray, np.ndarray]],
    kv_cache: str,
    window: int | None,
    positions: Sequence[int],
    *,
    guarded: bool = False,
) -> None:
    """Who sees a damaged key or value is damaged, and nobody else.

    `run(bad, at)`: the kernel's [T, HEADS, d_head] and the reference's results of `attended_case`. `guarded`: where a
    tile is not all seen, a damaged value may damage all of what its key weighs (`flash.guard`).
    """
    clean, _ = run(0.5, (CONTEXT - 1, 1, "k"))
    query = np.arange(CONTEXT - len(clean), CONTEXT)
    for position in positions:
        for which in "kv":
            got, expected = run(np.nan, (position, 1, which))
            sees = (query >= position) & (query < position + (window or CONTEXT))
            wrong = np.zeros(got.shape, bool)
            wrong[sees, HEADS // 2 :, slice(None) if which == "k" or kv_cache == "int8" else 3] = True
            if guarded and which == "v":
                assert np.isnan(got[wrong]).all(), (position, which)
                wrong[sees, HEADS // 2 :] = np.isnan(got[sees, HEADS // 2 :])
            assert np.array_equal(np.isnan(got), wrong), (position, which)
            if which == "k":
                assert np.array_equal(wrong, np.isnan(expected).reshape(wrong.shape))
            right = ~wrong
            right[-1, HEADS // 2 :] = False  # `clean` differs from it in the last position's key
            assert np.array_equal(got[right], clean[right]), (position, which)


@pytest.mark.parametrize("window", [None, 17])
@pytest.mark.parametrize("count", [0, 3, 1], ids=["all", "three", "one"])
@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
def test_a_damaged_key_or_value_damages_who_sees_it_and_nobody_else(kv_cache, count, window):
    def run(bad: float, at: tuple[int, int, str]) -> Any:
        return attended(kv_cache, window, bad, at, count)

    holds(run, kv_cache, window, (0, 5, 15, 16, 63, 127, 128, CONTEXT - 2))


@pytest.mark.parametrize("which", ["k", "v"])
def test_infinity_in_an_int8_cache_is_no_number(which):
    got, _ = attended("int8", None, -np.inf, (20, 1, which), 1)
    assert np.isnan(got[:, HEADS // 2 :]).all()
    assert np.isfinite(got[:, : HEADS // 2]).all()


WEIGHTLESS = 140  # keys


def weightless_case(low: int, high: int, count: int, **how: Any) -> Case:
    """Keys from `low` to `high` have scores of -inf; the last `count` tokens are a pass of their own."""
    n, d = WEIGHTLESS, 16
    rng = np.random.default_rng(3)
    q, keys, v = (rng.standard_normal((n, d)).astype(np.float32) for _ in range(3))
    q[:, 0], keys[:, 0] = 1, 0
    keys[low:high, 0] = -np.inf

    def build(ops: Any, q: Any, k: Any, v: Any) -> Any:
        ops.kv_write(0, k, v, 1)
        return ops.attention(0, q, 1, 1, window=None, scale=0.25)

    passes = [[x[: n - count] for x in (q, keys, v)], [x[n - count :] for x in (q, keys, v)]]
    return Case(build, passes, exactly, n_kv_heads=1, d_head=d, **how)


@pytest.mark.parametrize("count", [1, 2])
def test_scores_of_minus_infinity(count):
    """Keys that weigh nothing, whole blocks and pages of them, change nothing; where all do, there is no result."""
    for low, high in ((0, 70), (0, 128), (128, 130), (0, WEIGHTLESS)):
        case = weightless_case(low, high, count)
        ids = [np.zeros(len(p[0]), np.int64) for p in case.passes]
        got, expected = run_kernels(case, ids, 2)[0], run_reference(case, ids)[0]
        assert np.isnan(expected).all() == (high == WEIGHTLESS)
        assert np.array_equal(np.isnan(got), np.isnan(expected))
        assert high == WEIGHTLESS or np.abs(got - expected).max() < 1e-5


@pytest.mark.parametrize("n", [1, 15, 16, 17, 70])
def test_no_id_is_the_largest_of_a_row_that_holds_it(n):
    for at in {0, n // 2, n - 1}:
        x = random(TOKENS, n)
        x[1, at], x[3] = np.nan, -np.inf
        case = Case(lambda ops, x: ops.argmax(ops.take_rows(x)), [[x]], exactly, rows=TOKENS)
        ids = [np.zeros(TOKENS, np.int64)]
        wanted = [-1 if r == 1 else int(row.argmax()) for r, row in enumerate(x)]
        assert run_reference(case, ids)[1] == wanted
        assert run_kernels(case, ids, 2)[1] == wanted


BAD_ID = 7  # whose embedding is damaged
CHOICES: list[dict[str, Any]] = [{}, {"do_sample": True, "seed": 1}, {"repetition_penalty": 1.5}]


def written(path: Path, name: str, place: tuple[int, ...]) -> Path:
    """A model with one NaN, in tensor `name`."""
    drawn = Drawn(small("llama").config | {"tie_word_embeddings": False})
    write_checkpoint(path, drawn)
    tensors = random_tensors(drawn.config, 0)
    tensors[name][place] = np.nan
    write_safetensors(path / "model.safetensors", tensors)
    return path


def says_where(model: miaotui.Model, choice: dict[str, Any]) -> None:
    """A prompt with the damaged token, first or last, is refused by the position; the sequence goes on."""
    for prompt in ([1, 2, BAD_ID], [BAD_ID, 1, 2]):
        with model.sequence() as sequence:
            with pytest.raises(InputError, match="the logits after position 2 are not numbers"):
                sequence.generate(prompt, max_new_tokens=1, **choice)
            assert sequence.ids == prompt
            sequence.truncate(0)
            assert len(sequence.generate([1, 2], max_new_tokens=1, **choice).ids) == 1


@pytest.mark.parametrize("choice", CHOICES, ids=["greedy", "sampled", "penalised"])
@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
def test_a_generation_that_meets_it_says_where(tmp_path, kv_cache, choice):
    """Also where the damaged token is an earlier one: its key and value are."""
    path = written(tmp_path, "model.embed_tokens.weight", (BAD_ID, 5))
    with miaotui.load(path, threads=1, kv_cache=kv_cache) as model:
        says_where(model, choice)


def test_it_is_met_on_the_way(tmp_path):
    """What was drawn before is handed out."""
    write_checkpoint(tmp_path, Drawn(small("llama").config | {"tie_word_embeddings": False}))
    with miaotui.load(tmp_path, threads=1) as model:
        first = model.generate([1], max_new_tokens=1).ids[0]
    assert first != 1
    written(tmp_path, "model.embed_tokens.weight", (first, 5))
    with miaotui.load(tmp_path, threads=1) as model:
        steps = model.tokens([1], max_new_tokens=3)
        assert next(steps).id == first
        with pytest.raises(InputError, match="the logits after position 1 are not numbers"):
            next(steps)


@pytest.mark.parametrize("quantize", QUANTIZED)
def test_quantised_products_of_a_damaged_embedding_are_no_numbers(tmp_path, quantize):
    path = written(tmp_path, "model.embed_tokens.weight", (1, 5))
    with miaotui.load(path, threads=1, quantize=f"{quantize},embed=none", kv_cache="int8") as model:
        for n in (1, 4):
            with pytest.raises(InputError, match="the logits after position 0 are not numbers"):
                model.generate([1], max_new_tokens=n)


def damaged(path: Path, family: str, name: str, place: tuple[int, ...], bad: float, dtype: str = "F32") -> Path:
    """A model of a family, with one number of tensor `name` damaged."""
    drawn = replace(small(family), dtype=dtype)
    write_checkpoint(path, drawn)
    tensors = random_tensors(drawn.config, 0)
    tensors[name][place] = bad
    write_safetensors(path / "model.safetensors", tensors, dtype=dtype)
    return path


VECTORS = [
    ("llama", "model.norm.weight", 5),
    ("llama", "model.layers.1.input_layernorm.weight", 0),
    ("qwen2", "model.layers.0.self_attn.k_proj.bias", 3),
    ("qwen3", "model.layers.1.self_attn.q_norm.weight", 1),
    ("gpt2", "transformer.ln_f.bias", 7),
    ("gpt2", "transformer.h.0.attn.c_attn.bias", 30),
    ("gpt2", "transformer.h.1.mlp.c_fc.bias", 6),
]


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
@pytest.mark.parametrize(("family", "name", "at"), VECTORS)
def test_a_load_that_quantises_refuses_it_in_a_vector(tmp_path, family, name, at, bad, word):
    """By name and index, whatever it quantises; one that does not takes what is there, and the first logits say so."""
    for dtype in ("F32", "BF16"):
        path = damaged(tmp_path, family, name, (at,), bad, dtype)
        for quantize in ("int8", "int4a", "gate=int8,up=int4,down=int8"):
            with pytest.raises(CheckpointError, match=rf"tensor {re.escape(name)}\[{at}\] is {word}, and quantising"):
                miaotui.load(path, threads=1, quantize=quantize)
        with miaotui.load(path, threads=1) as model:
            if bad != bad:  # noqa: PLR0124 - infinity may leave numbers
                with pytest.raises(InputError, match="the logits after position 1 are not numbers"):
                    model.generate([1, 2], max_new_tokens=1)


@pytest.mark.parametrize(
    ("family", "name", "place"),
    [("llama", "model.layers.0.mlp.up_proj.weight", (3, 2)), ("gpt2", "transformer.h.0.attn.c_attn.weight", (2, 30))],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_so_it_does_in_a_matrix_and_says_where_in_the_file(tmp_path, family, name, place, bad):
    path = damaged(tmp_path, family, name, place, bad)
    with pytest.raises(CheckpointError, match=re.escape(f"tensor {name}[{place[0]}, {place[1]}] is {bad}")):
        miaotui.load(path, threads=2, quantize="int8")


def test_a_number_too_large_for_a_scale_is_another_error(tmp_path):
    path = damaged(tmp_path, "llama", "model.layers.0.mlp.up_proj.weight", (3, 2), 1e30)
    with pytest.raises(CheckpointError, match=r"up_proj\.weight holds numbers that int8 cannot \(too large"):
        miaotui.load(path, threads=1, quantize="int8")


def test_what_is_cut_away_may_be_damaged(tmp_path):
    path = damaged(tmp_path, "gpt2", "transformer.h.0.mlp.c_fc.bias", (6,), np.nan)
    with miaotui.load(path, threads=1, quantize="int8", prune=PrunePlan(ffn={0: "0-5"})) as model:
        assert len(model.generate([1], max_new_tokens=1).ids) == 1
    with pytest.raises(CheckpointError, match=r"c_fc\.bias\[6\] is nan"):  # as the file counts
        miaotui.load(path, threads=1, quantize="int8", prune=PrunePlan(ffn={0: "2-4,6"}))
