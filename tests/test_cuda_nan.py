"""NaN goes through every kernel of the (emulated) GPU as through the reference, whatever the tile: as `test_nan.py`."""

from __future__ import annotations

from dataclasses import replace

import miaotui
import numpy as np
import pytest
import soak
from checkpoints import Drawn, small, write_checkpoint
from emulation import SCHEDULES, EmulatedDevice, emulate
from miaotui.errors import InputError
from miaotui.runtime.cuda import driver
from miaotui.runtime.cuda.interpreter import WAYS
from miaotui.runtime.cuda.kernels import KERNELS, SPECIAL
from miaotui.runtime.cuda.kernels.flash import KEYS
from miaotui.runtime.kvcache import KV_BYTES
from miaotui.runtime.ops import ACT_BACKENDS, ACTS, FAST, OPS
from miaotui.runtime.quantized import QUANTIZED
from miaotui.runtime.sampling import Sampler, SamplingParams
from miaotui.runtime.sparse import SPARSE
from miaotui.runtime.sparse_int8 import SPARSE_INT8
from miaotui.runtime.spec import Weight
from test_nan import (
    BUILD,
    CHOICES,
    CONTEXT,
    DAMAGED,
    HEADS,
    LAST_NAN,
    TOKENS,
    WEIGHTLESS,
    WIDTH,
    attended_case,
    holds,
    random,
    row_alone,
    says_where,
    weightless_case,
    written,
)
from test_ops import Case, exactly, quantized, run_kernels, run_reference, sparse

pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]

FIRST_NAN = np.array(0x7F800001, np.uint32).view(np.float32)[()]  # its bits are all below those of a TF32
BADS = {"nan": np.nan, "-nan": -np.nan, "first": FIRST_NAN, "last": LAST_NAN}


def both(
    case: Case, launched: list[str] | None = None, architecture: str = "", skip: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's result and the reference's; `skip` as of `emulate`."""
    ids = [np.zeros(len(p[0]), np.int64) for p in case.passes]
    got, _ = emulate(case, ids, "drawn", launched, skip, architecture)
    expected, _ = run_reference(case, ids)
    assert got is not None
    assert expected is not None
    return got, expected


def same_places(
    case: Case, clean: np.ndarray | None, launched: list[str] | None = None, architecture: str = ""
) -> None:
    """NaN is where the reference has it, and every other number is `clean`'s."""
    got, expected = both(case, launched, architecture)
    assert np.isnan(expected).any()
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    assert clean is None or np.array_equal(got[~np.isnan(got)], clean[~np.isnan(got)])


@pytest.mark.parametrize("name", [name for name in BUILD if not name.endswith("_planes")])
def test_it_is_where_the_reference_has_it(name):
    x = random(TOKENS, WIDTH)
    case = Case(BUILD[name], [[x]], exactly, rows=TOKENS, fast=FAST in name)
    clean, _ = both(case)
    for at, bad in zip(DAMAGED, BADS.values(), strict=True):
        damaged = x.copy()
        damaged[at] = bad
        case.passes = [[damaged]]
        same_places(case, clean)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [*SPARSE, SPARSE_INT8])
@pytest.mark.parametrize("k", [68, 67])
def test_zeros_that_a_sparse_matrix_leaves_out_are_factors_too(k, dtype, bad):
    numbers = random(19, k)
    w = sparse(numbers, np.random.default_rng(1).random(numbers.shape) < 0.5, dtype)
    for t in (1, 3, 9):
        x = random(t, k)
        case = Case(lambda ops, x: ops.linear(x, w), [[x]], exactly)
        clean, _ = both(case)
        for row, column in ((0, 0), (t - 1, k - 1), (t // 2, 40)):
            case.passes[0][0] = x.copy()
            case.passes[0][0][row, column] = bad
            got, expected = both(case)
            assert not np.isfinite(expected[row]).any()
            assert np.isnan(got[row]).all()  # of infinity too, as of a quantised one
            assert np.array_equal(np.delete(got, row, 0), np.delete(clean, row, 0))


def dense(numbers: np.ndarray, dtype: str) -> Weight:
    """A matrix of this dtype."""
    if dtype in QUANTIZED:
        return quantized(numbers, dtype)
    if dtype in ("bf16", FAST):
        return Weight("w", "bf16", numbers.shape, (numbers.view(np.uint32) >> 16).astype(np.uint16), mapped=False)
    stored = numbers.astype({"f16": np.float16, "f32": np.float32}[dtype])
    return Weight("w", dtype, numbers.shape, stored, mapped=False)


#: Kernels of `SPECIAL` for products, and their own names.
LINEAR = {k.name: (name, k) for name, several in SPECIAL.items() for k in several if name.startswith("linear")}


@pytest.mark.ci  # 40 s
@pytest.mark.parametrize("special", LINEAR)
def test_whatever_the_tile(special, monkeypatch):
    """Tiles of the tensor core, of registers, of sparse rows: a damaged token damages itself, and all of itself."""
    name, kernel = LINEAR[special]
    monkeypatch.setitem(SPECIAL, name, (replace(kernel, fits=lambda *_: True),))
    dtype, n, k, t = name.split("_", 1)[1], 19, 64, 18
    numbers = random(n, k)
    w = sparse(numbers, numbers > 0, dtype) if "sparse" in dtype else dense(numbers, dtype)
    x, launched = random(t, k), []
    case = Case(lambda ops, x: ops.linear(x, w), [[x]], exactly, fast=kernel.fast)
    clean, _ = both(case, launched, kernel.only)
    assert special in launched
    for (row, column), bad in zip(((0, 0), (17, 63), (9, 33), (16, 8)), BADS.values(), strict=True):
        case.passes[0][0] = damaged = x.copy()
        damaged[row, column] = bad
        got, _ = both(case, architecture=kernel.only)
        assert np.isnan(got[row]).all()
        assert np.array_equal(np.delete(got, row, 0), np.delete(clean, row, 0))


@pytest.mark.parametrize("kind", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("fast", [False, True])
def test_in_a_weight_it_damages_its_output(kind, fast):
    for t in (1, 9, 17):
        numbers, x = random(19, 64), random(t, 64)
        numbers[3, 40], numbers[7, 0], numbers[18, 63] = np.nan, np.inf, LAST_NAN
        w = dense(numbers, kind)
        case = Case(lambda ops, x, w=w: ops.linear(x, w), [[x]], exactly, fast=fast)
        got, _ = both(case)
        assert np.isnan(got[:, [3, 18]]).all()
        assert not np.isfinite(got[:, 7]).any()
        assert np.isfinite(np.delete(got, [3, 7, 18], 1)).all()


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
@pytest.mark.parametrize("dtype", QUANTIZED)
@pytest.mark.parametrize("t", [1, 9])
def test_bytes_of_infinity_are_not_taken_for_numbers(t, dtype, infinity):
    x = random(t, WIDTH)
    x[t // 2, 40] = infinity
    got, expected = both(Case(BUILD[f"linear_{dtype}"], [[x]], exactly))
    assert np.isnan(expected[t // 2]).all()
    assert np.array_equal(np.isnan(got), np.isnan(expected))


def test_rounding_to_bf16_keeps_it():
    x = random(TOKENS, WIDTH)
    for at, bad in zip(DAMAGED, BADS.values(), strict=True):
        x[at] = bad
    got, expected = both(Case(lambda ops, x: ops.round_bf16(x), [[x]], exactly))
    wide = (got.copy().view(np.uint16).astype(np.uint32) << 16).view(np.float32)[:, :WIDTH]
    assert np.array_equal(wide, expected, equal_nan=True)
    assert np.isnan(expected).sum() == len(DAMAGED)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("act", [act for act in ACTS if act not in ACT_BACKENDS])
def test_activations_keep_it(act, fast):
    """In the tensor core's tiles (`activated_fast`) too."""
    w = Weight("w", "f16", (3, 8), np.eye(3, 8, dtype=np.float16), mapped=False)
    x = random(16, 8)
    case = Case(lambda ops, x: ops.linear(x, w, act=act), [[x]], exactly, fast=fast)
    launched: list[str] = []
    clean, _ = both(case, launched)
    assert ("linear_f16_tiled64" in launched) == fast
    case.passes[0][0] = x.copy()
    case.passes[0][0][2] = np.nan
    row_alone(*both(case), clean)


@pytest.mark.parametrize("x", [0.0, -0.0, np.inf, -np.inf, 1e30, -1e30, 88.0, -104.0, 1e-40])
@pytest.mark.parametrize("act", [act for act in ACTS if act not in ACT_BACKENDS])
def test_activations_at_the_ends_are_the_cpus(act, x):
    one = Weight("w", "f32", (1, 1), np.ones((1, 1), np.float32), mapped=False)
    case = Case(lambda ops, x: ops.linear(x, one, act=act), [[np.full((1, 1), x, np.float32)]], exactly)
    got, _ = both(case)
    wanted, _ = run_kernels(case, [np.zeros(1, np.int64)], 1)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-38)


# ---------------------------------------------------------------------------------------------- attention
def attended(kv_cache: str, window: int | None, bad: float, at: tuple[int, int, str], count: int, *, fast: bool = False,
             launched: list[str] | None = None) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """As `test_nan.attended`, on the GPU; what is not the last pass's need not be computed."""
    case = replace(attended_case(kv_cache, window, bad, at, count), fast=fast)
    ids = [np.zeros(len(p[0]), np.int64) for p in case.passes]
    got, _ = emulate(case, ids, "drawn", launched, skip="attention" if count else "")
    assert got is not None
    return got.reshape(len(got), HEADS, -1), run_reference(case, ids)[0]


def holds_in(
    kernel: str, kv_cache: str, window: int | None, count: int, positions: tuple[int, ...], *, fast: bool
) -> None:
    """As `test_nan.holds`, in this kernel."""

    def run(bad: float, at: tuple[int, int, str]) -> tuple[np.ndarray, np.ndarray]:
        launched: list[str] = []
        results = attended(kv_cache, window, bad, at, count, fast=fast, launched=launched)
        assert kernel in launched, launched
        return results

    holds(run, kv_cache, window, positions, guarded=fast)


@pytest.mark.ci  # 30 s
@pytest.mark.parametrize("window", [None, 17])
@pytest.mark.parametrize(("count", "kernel"), [(3, ""), (1, "_split")])
@pytest.mark.parametrize("kv_cache", soak.rest("cuda", KV_BYTES, ["int8"]))
def test_a_damaged_key_or_value_damages_who_sees_it_and_nobody_else(kv_cache, count, kernel, window):
    positions = (0, 31, 127, 128, CONTEXT - 17, CONTEXT - 2)
    holds_in(f"attention_{kv_cache}{kernel}", kv_cache, window, count, positions, fast=False)


@pytest.mark.ci  # 12 s
@pytest.mark.parametrize("window", soak.rest("cuda", [None, 17], [17]))
@pytest.mark.parametrize("kv_cache", soak.rest("cuda", KV_BYTES, ["int8"]))
def test_so_it_is_in_the_tensor_cores_tiles(kv_cache, window):
    """Keys of whole tiles, of the one that the first query begins in, and of the last, which no query sees all of."""
    positions = (0, KEYS - 1, CONTEXT - 40, CONTEXT - 22, CONTEXT - 2)
    holds_in(f"attention_{kv_cache}_flash64", kv_cache, window, 22, positions, fast=True)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("which", ["k", "v"])
def test_infinity_in_an_int8_cache_is_no_number(which, fast):
    got, _ = attended("int8", None, -np.inf, (20, 1, which), 16 if fast else 1, fast=fast)
    assert np.isnan(got[:, HEADS // 2 :]).all()
    assert np.isfinite(got[:, : HEADS // 2]).all()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_scores_of_minus_infinity(split, fast):
    """Keys that weigh nothing, a warp's and a chunk's all of them, change nothing; where all do, there is no result."""
    count = 16 if fast else (1 if split else 2)

    def result(low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        case = weightless_case(low, high, count, kv_cache="bf16" if fast else "f32", fast=fast)
        launched: list[str] = []
        got = both(case, launched, skip="attention")  # but for its keys, the first pass is nobody's
        launched = launched[max(i for i, name in enumerate(launched) if name.startswith("kv_write")) :]
        assert any("flash" in name for name in launched) == fast
        assert any("split" in name for name in launched) == (split and not fast)
        return got

    for low, high in ((0, 70), (0, 128), (128, 130)):
        got, expected = result(low, high)
        assert np.isfinite(expected[-1]).all()
        assert np.array_equal(np.isnan(got), np.isnan(expected))  # a query before position 128 sees no other key
        assert np.nanmax(np.abs(got - expected)) < (0.03 if fast else 1e-5)
    got, expected = result(0, WEIGHTLESS)
    assert np.isnan(got).all()
    assert np.isnan(expected).all()


# ---------------------------------------------------------------------------------------------- ids
def largest_of(x: np.ndarray) -> int:
    case = Case(lambda ops, x: ops.argmax(ops.take_rows(x)), [[x]], exactly, rows=1)
    ids = [np.zeros(len(x), np.int64)]
    got = {emulate(case, ids, schedule)[1] for schedule in SCHEDULES}
    assert got == set(run_reference(case, ids)[1])
    return got.pop()


@pytest.mark.parametrize("n", [1, 31, 33, 1024, 1500])
def test_no_id_is_the_largest_of_a_row_that_holds_it(n):
    for at in {0, n // 2, n - 1}:
        for bad in (np.nan, -np.nan):
            x = random(1, n)
            x[0, at] = bad
            assert largest_of(x) == -1
            x[0] = -np.inf
            x[0, at] = bad
            assert largest_of(x) == -1
            x[0] = np.inf
            x[0, at] = bad
            assert largest_of(x) == -1


@pytest.mark.parametrize("n", [1, 33, 1500])
def test_the_first_of_equals_is_the_largest(n):
    for value in (-np.inf, np.inf, 0.0, -0.0, 3.0):
        assert largest_of(np.full((1, n), value, np.float32)) == 0
    x = np.full((1, n), -1, np.float32)
    x[0, n // 2 :] = -0.0
    x[0, n - 1 :] = 0.0
    assert largest_of(x) == n // 2


# ---------------------------------------------------------------------------------------------- whole answers
BAD_ID = 7


def use(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("MIAOTUI_CUDA_STEP", way)
    monkeypatch.setattr(driver, "CudaDevice", EmulatedDevice)


@pytest.mark.ci  # 15 s
@pytest.mark.parametrize("choice", CHOICES, ids=["greedy", "sampled", "penalised"])
@pytest.mark.parametrize("kv_cache", soak.rest("cuda", KV_BYTES, ["bf16"]))
def test_a_generation_that_meets_it_says_where(tmp_path, monkeypatch, kv_cache, choice):
    path = written(tmp_path, "model.embed_tokens.weight", (BAD_ID, 5))
    use(monkeypatch, "graph")
    with miaotui.load(path, device="cuda", max_context=8, kv_cache=kv_cache) as model:
        says_where(model, choice)


@pytest.mark.ci  # 15 s
@pytest.mark.parametrize("way", soak.rest("cuda", WAYS, ["persistent"]))
@pytest.mark.parametrize("choice", CHOICES, ids=["greedy", "sampled", "penalised"])
def test_steps_ahead_meet_it_where_the_cpu_does(tmp_path, monkeypatch, way, choice):
    """After the same ids, in the same words, position included, whatever draws them."""
    write_checkpoint(tmp_path, Drawn(small("llama").config | {"tie_word_embeddings": False}))
    asked = {"max_new_tokens": 6, "ignore_eos": True, **choice}
    with miaotui.load(tmp_path, max_context=8) as model:
        ids = model.generate([1], **asked).ids
    at = next(i for i, token in enumerate(ids[:-1]) if i and token not in {1, *ids[:i]})
    path, said = written(tmp_path, "model.embed_tokens.weight", (ids[at], 5)), []
    for device in ("cpu", "cuda"):
        use(monkeypatch, way)
        with miaotui.load(path, max_context=8, device=device) as model:
            steps = model.tokens([1], **asked)
            got = [next(steps).id for _ in range(at + 1)]
            with pytest.raises(InputError, match=f"the logits after position {at + 1} are not numbers") as failed:
                next(steps)
            said.append((got, str(failed.value)))
    assert said[0] == said[1]
    assert said[0][0] == ids[: at + 1]


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_logits_are_named_with_their_position(tmp_path, monkeypatch, bad):
    write_checkpoint(tmp_path, small("llama"))
    use(monkeypatch, "graph")
    with miaotui.load(tmp_path, max_context=8, device="cuda") as model:
        sampler, backend = Sampler(model.config.n_vocab, SamplingParams(do_sample=True, seed=1)), model.session.backend
        model.session.step([3], 0)
        monkeypatch.setattr(backend, "read", lambda *_: np.full((1, model.config.n_vocab), bad, np.float32))
        what = r"hold \+inf" if bad > 0 else "are all -inf"
        with pytest.raises(InputError, match=f"the logits after position 4 {what}, so no token"):
            backend._undrawn(sampler, 5)


def test_every_kernel_of_the_table_is_met_here():
    """Products, attention, norms, rotations, rounding, sums, ids; an embedding has it from its matrix."""
    met = {"linear", "rms_norm", "layer_norm", "rope", "add", "take_rows", "attention", "kv_write", "argmax",
           "quantize", "round_bf16", "embed", "embed_positions"}  # fmt: skip
    assert {op.name for op in OPS.values() if any(k in KERNELS for k in op.kernels)} == met
