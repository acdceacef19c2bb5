"""`miaotui.testing`: what it publishes, and that it finds what it is for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime.sampling import Sampler, SamplingParams, uniform
from miaotui.testing import assert_close, bound, kernel, reference, samplers, strategies, tolerance

ROOT = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------- reference


@given(st.data())
def test_arrays_of_any_float_and_lists_will_do(data: st.DataObject) -> None:
    x = data.draw(strategies.matrices(3, 5))
    w = np.arange(5.0)
    wanted = reference.rms_norm(x, w)
    assert wanted.dtype == np.float64
    assert np.array_equal(reference.rms_norm(x.tolist(), w.astype(np.float32)), wanted)
    assert np.array_equal(reference.rms_norm(x.reshape(3, 1, 5), w), wanted.reshape(3, 1, 5))


@given(strategies.ropes())
def test_rope_keeps_lengths_and_goes_back(problem: Any) -> None:
    x, positions, how = problem
    turned = reference.rope(x, positions, **how)
    assert np.allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1))
    assert np.allclose(reference.rope(turned, -positions, **how), x)


def test_the_trap_of_float32_frequencies() -> None:
    x = np.ones((1, 1, 128))
    exact, engines = (reference.rope(x, [32_000], theta=1e4, frequencies=f) for f in ("float64", "float32"))
    assert 2e-4 < np.abs(exact - engines).max() < 2e-3


@given(strategies.attention_problems(plain=True))
def test_attention_is_an_average(problem: Any) -> None:
    q, k, v, how = problem.q, problem.k, problem.v, problem.how
    got = reference.attention(q, k, v, **how)
    assert got.min() >= v.min() - 1e-9
    assert got.max() <= v.max() + 1e-9
    assert np.allclose(reference.attention(q, k, np.ones_like(v), **how), 1)
    shifted = reference.attention(q, k, v, bias=np.full((1, 1, len(k)), 7.0), **how)
    assert np.allclose(shifted, got)
    if how["causal"]:
        alone = reference.attention(q[-1:], k, v, **how)
        assert np.allclose(alone, got[-1:])


@given(st.data())
def test_what_is_quantized_is_near(data: st.DataObject) -> None:
    x, kind = (
        data.draw(strategies.matrices(3, data.draw(strategies.sizes(65)))),
        data.draw(st.sampled_from(["int8", "int4", "int4a"])),
    )
    q, scale, low = reference.quantize(x, kind)
    assert (q.shape, scale.shape) == (x.shape, (3, -(-x.shape[1] // 32)))
    got = reference.dequantize(q, scale, low)
    step = np.repeat(np.abs(scale), 32, axis=1)[:, : x.shape[1]]
    lows = np.repeat(np.abs(low), 32, axis=1)[:, : x.shape[1]]
    assert np.all(np.abs(got - x) <= 2.6 * step + 2.0**-11 * lows + 2.0**-24)  # low is a float16


@given(strategies.floats(most=np.inf))
def test_bf16_is_rounded_once(x: float) -> None:
    """To the nearer of its neighbours, of two the even one."""
    got = float(reference.round_bf16([x])[0])
    bits = int(np.float32(got).view(np.uint32))
    assert bits & 0xFFFF == 0 or np.isinf(got)
    assert got == reference.round_bf16(reference.round_bf16([x]))[0]
    if np.isfinite(got):
        for step in (-1, 1):
            near = float(np.uint32(max(bits + step * 0x10000, 0) & 0x7FFFFFFF).view(np.float32)) * (-1 if x < 0 else 1)
            apart, other = abs(got - x), abs(near - x)
            assert apart < other or not np.isfinite(near) or (apart == other and not bits >> 16 & 1) or near == got


def test_bf16_of_float64_is_not_rounded_twice() -> None:
    got = reference.round_bf16(
        [1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, np.nan, np.inf, -3.4e38, -0.0, 2.0**-134, 3 * 2.0**-135]
    )
    assert got[0] == 1 + 2.0**-7
    assert got[1] == 1
    assert np.isnan(got[2])
    assert got[3:].tolist() == [np.inf, -np.inf, 0.0, 0.0, 2.0**-133]
    assert np.signbit(got[5])


def test_routes() -> None:
    ids, weights = reference.moe_route([[1.0, 3.0, 3.0, 0.0]], 2)
    assert ids.tolist() == [[1, 2]]
    assert weights.tolist() == [[0.5, 0.5]]
    ids, weights = reference.moe_route([[1.0, 3.0, 2.0, 0.0]], 1, bias=[9.0, 0, 0, 0], normalized=False)
    assert (ids.tolist(), weights[0, 0]) == ([[0]], pytest.approx(reference.softmax([1.0, 3.0, 2.0, 0.0])[0]))


@given(st.data())
def test_mixtures_low_ranks_caps_and_xielu(data: st.DataObject) -> None:
    """By other ways to the same; and their kernels."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    t, d, ff, n = (data.draw(strategies.sizes(17)) for _ in range(4))
    x, gates, ups = rng.standard_normal((t, d)), *rng.standard_normal((2, n, ff, d))
    downs = rng.standard_normal((n, d, ff))
    ids, weights = reference.moe_route(rng.standard_normal((t, n)), data.draw(st.integers(1, n)))
    every = np.stack([reference.gated(x, *of) for of in zip(gates, ups, downs, strict=True)])  # [n, t, d]
    shares = np.zeros((n, t))
    shares[ids.T, np.arange(t)] = weights.T
    got = reference.moe(x, ids, weights, gates, ups, downs)
    assert np.allclose(got, np.einsum("nt,ntd->td", shares, every))
    near = kernel("moe", threads=2)(x, ids, weights, gates, ups, downs)
    assert_close(near, got, 1e-4 * (1 + np.abs(got).max()))
    a, b = rng.standard_normal((2, d)), rng.standard_normal((ff, 2))
    assert np.allclose(reference.lora(x, gates[0], a, b, 0.5), reference.linear(x, gates[0] + 0.5 * b @ a))
    capped = reference.soft_cap(50 * x, 30.0)
    assert np.abs(capped).max() < 30
    assert_close(kernel("soft_cap")(50 * x, 30.0), capped, 1e-4)
    curve = reference.xielu(x, 0.8, 0.9, 0.5)
    assert np.allclose(curve, np.where(x > 0, 0.8 * x * x, 0.9 * (np.expm1(np.minimum(x, -1e-6)) - x)) + 0.5 * x)
    assert_close(kernel("xielu")(x, 0.8, 0.9, 0.5), curve, 1e-4 * (1 + np.abs(curve)))


@given(strategies.attention_problems(plain=True), st.integers(1, 5))
def test_attention_with_distances_is_a_bias(problem: Any, n: int) -> None:
    """Products that depend on the row alone are added to each score before it is scaled."""
    t = min(len(problem.q), len(problem.k))
    q, k, v = (x[:t] for x in (problem.q, problem.k, problem.v))
    rng = np.random.default_rng(n)
    row = rng.integers(0, n, (t, t))
    c2p, p2c = rng.standard_normal((t, q.shape[1], n)), rng.standard_normal((t, k.shape[1], n))
    i, j = np.indices((t, t))
    bias = c2p[i, :, row] + np.repeat(p2c, q.shape[1] // k.shape[1], axis=1)[j, :, row]
    want = reference.attention(q, k, v, causal=False, scale=0.3, bias=0.3 * bias.transpose(2, 0, 1))
    assert np.allclose(reference.attention_relative(q, k, v, row, c2p=c2p, p2c=p2c, scale=0.3), want)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("linear", {"x": np.ones((2, 3)), "w": np.ones((2, 4))}, r"w's columns: 4; expected 3, as x's last axis"),
    ("linear", {"x": np.ones((2, 3)), "w": np.ones(3)}, r"w: has shape \(3,\); expected 2 dimensions"),
    ("rms_norm", {"x": "a", "w": [1]}, "x: 'a' is no array of numbers"),
    ("rms_norm", {"x": np.ones((2, 6)), "w": np.ones(6), "groups": 4}, "groups=4: expected a divisor of 6"),
    ("softmax", {"x": np.ones((2, 0))}, "its last axis is empty"),
    ("activation", {"x": [1.0], "kind": "swish"}, "kind='swish': expected one of silu"),
    ("embed", {"ids": [3], "table": np.ones((3, 2))}, "expected whole numbers from 0 to 2"),
    ("rope", {"x": np.ones((2, 1, 5)), "positions": [0, 1]}, "d_rotary=5: expected an even number, at most 5"),
    ("rope", {"x": np.ones((2, 1, 4)), "positions": [0]}, "positions: 1; expected 2, as x's rows"),
    ("rope", {"x": np.ones((1, 1, 4)), "positions": [0], "frequencies": "f16"}, "expected one of float64, float32"),
    ("attention", {"q": np.ones((1, 3, 2)), "k": np.ones((1, 2, 2)), "v": np.ones((1, 2, 2))}, "q has 3 heads, k 2"),
    (
        "attention",
        {"q": np.ones((1, 1, 2)), "k": np.ones((1, 1, 2)), "v": np.ones((1, 1, 2)), "window": 0},
        "window=0: expected a whole number",
    ),
    ("moe_route", {"x": np.ones((1, 2)), "chosen": 3}, "chosen=3: expected 1 to 2"),
    ("rms_norm", {"x": np.ones((2, 6)), "w": None}, "w: "),
    ("rms_norm", {"x": np.ones((2, 6)), "w": np.ones(6), "groups": 2.0}, "groups=2.0: expected a whole number"),
    ("linear", {"x": np.ones((2, 3)) * 1j, "w": np.ones((2, 3))}, "x: is complex"),
    ("attention", {"q": np.ones((1, 1, 2)), "k": np.ones((0, 1, 2)), "v": np.ones((0, 1, 2))}, "expected a key"),
    (
        "attention",
        {"q": np.ones((1, 1, 2)), "k": np.ones((1, 1, 2)), "v": np.ones((1, 1, 2)), "window": 1.5},
        "window=1.5",
    ),
    (
        "attention",
        {"q": np.ones((1, 1, 2)), "k": np.ones((1, 1, 2)), "v": np.ones((1, 1, 2)), "soft_cap": 0},
        "soft_cap=0",
    ),
    (
        "attention",
        {"q": np.ones((1, 1, 2)), "k": np.ones((1, 1, 2)), "v": np.ones((1, 1, 2)), "bias": np.ones(3)},
        "bias: has",
    ),
    ("rope_frequencies", {"d_rotary": 4, "theta": 0.0}, "theta=0.0: expected a finite number above 0"),
    ("moe_route", {"x": np.ones((1, 2)), "chosen": None}, "chosen=None: expected a whole number"),
    ("dequantize", {"q": np.ones((2, 33)), "scale": np.ones((1, 2))}, "scale's rows: 1; expected 2"),
    ("dequantize", {"q": np.ones((1, 33)), "scale": np.ones((1, 2)), "low": np.ones((1, 3))}, "low's shape"),
    (
        "moe",
        {
            "x": np.ones((1, 2)),
            "ids": [[2]],
            "weights": [[1.0]],
            "gates": np.ones((2, 3, 2)),
            "ups": np.ones((2, 3, 2)),
            "downs": np.ones((2, 2, 3)),
        },
        "ids: .*from 0 to 1, the experts",
    ),
    ("xielu", {"x": [1.0], "p": np.nan, "n": 1.0}, "p=nan: expected a finite number"),
    ("soft_cap", {"x": [1.0], "cap": -1.0}, "cap=-1.0: expected a finite number above 0"),
    (
        "attention_relative",
        {"q": np.ones((2, 1, 2)), "k": np.ones((2, 1, 2)), "v": np.ones((2, 1, 2)), "row": [[0]]},
        "row's shape",
    ),
    ("quantize", {"x": np.full((1, 32), np.inf)}, "holds NaN, infinity"),
    ("quantize", {"x": np.ones((1, 32)), "kind": "int5"}, "kind='int5'"),
    ("dequantize", {"q": np.ones((1, 33)), "scale": np.ones((1, 1))}, "scale's columns: 1; expected 2"),
]


@pytest.mark.parametrize(("op", "inputs", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_shapes_that_do_not_fit_are_named(op: str, inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        getattr(reference, op)(**inputs)


# ---------------------------------------------------------------- samplers


@given(
    seed=st.integers(0, 2**32 - 1),
    n=strategies.sizes(),
    how=st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.5, 1.0, 1.5]),
            "top_k": st.sampled_from([0, 1, 5, 1000]),
            "top_p": st.sampled_from([0.1, 0.5, 0.9, 1.0]),
            "min_p": st.sampled_from([0.0, 0.05, 0.5]),
            "typical_p": st.sampled_from([0.2, 0.9, 1.0]),
        }
    ),
    penalty=st.sampled_from([0.8, 1.0, 1.3]),
)
def test_the_sampler_draws_what_these_leave(seed: int, n: int, how: dict[str, Any], penalty: float) -> None:
    """The same ids at the same probabilities, and the same draw, where no border is within rounding."""
    rng = np.random.default_rng(seed)
    logits, seen = (rng.standard_normal(n) * 3).astype(np.float32), rng.integers(0, n, 3)
    x = samplers.repetition_penalty(logits, seen, penalty)
    x = samplers.temperature(x, how["temperature"])
    x = samplers.top_k(x, how["top_k"]) if how["top_k"] else x
    for name in ("top_p", "min_p", "typical_p"):
        if name != "typical_p" or how[name] < 1:
            assume(near_no_border(name, x, how[name]))
        x = getattr(samplers, name)(x, how[name]) if how[name] not in {0, 1} else x
    sampler = Sampler(n, SamplingParams(**how, repetition_penalty=penalty, do_sample=True, seed=seed))
    sampler.observe(seen.tolist(), answer=False)
    ids, weights = sampler.candidates(logits, 0)
    order = np.argsort(ids)
    left = reference.softmax(x)
    some = np.flatnonzero(left > 2.0 ** -(sampler.unit - 2) * left.max())
    assert set(some) <= set(ids.tolist()) <= set(np.flatnonzero(left > 0).tolist())
    assert np.allclose(weights[order] / weights.sum(), left[ids[order]], rtol=1e-5, atol=1e-9)
    reached = np.cumsum(left[ids])
    u = uniform(sampler.seed, 0, 7)
    if how["top_p"] == 1 and how["typical_p"] == 1 and np.abs(reached - u).min() > 1e-6:  # then they lie by id
        assert sampler.draw(logits, 7) == samplers.draw(x, u)


def near_no_border(name: str, x: Any, p: float) -> bool:
    """Whether no probability, or sum of them, is so near to the border that rounding decides."""
    q = np.sort(reference.softmax(x))[::-1]
    if name == "min_p":
        return bool(p == 0 or np.abs(q / q[0] - p).min() > 1e-6)
    if name == "typical_p":
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(q)
            away = np.abs(surprise - np.nansum(q * surprise))
        q = q[np.argsort(away, kind="stable")]
        if np.diff(np.sort(away[np.isfinite(away)])).min(initial=1) < 1e-6:
            return False
    return bool(np.abs(np.cumsum(q) - p).min() > 1e-6)


def test_filters_at_their_edges() -> None:
    row = [0.0, 2.0, 2.0, -np.inf]
    assert samplers.top_k(row, 1).tolist() == [-np.inf, 2.0, 2.0, -np.inf]
    assert samplers.top_k(row, 9).tolist() == row
    assert samplers.top_p(row, 1e-9).tolist() == [-np.inf, 2.0, -np.inf, -np.inf]
    assert samplers.top_p(row, 1.0).tolist() == row
    assert samplers.min_p(row, 1.0).tolist() == [-np.inf, 2.0, 2.0, -np.inf]
    assert samplers.repetition_penalty([2.0, -2.0, 1.0], [0, 1, 1], 2.0).tolist() == [1.0, -4.0, 1.0]
    assert samplers.draw([row, row], [0.0, 1 - 2.0**-53]).tolist() == [0, 2]
    assert samplers.draw([-np.inf, 1.0, -np.inf], 0.999).tolist() == 1
    for op, inputs, says in (
        ("top_p", {"p": 0}, "p=0: expected a finite number above 0"),
        ("top_p", {"p": 1.5}, "p=1.5: expected at most 1"),
        ("top_k", {"k": 0}, "k=0"),
        ("temperature", {"t": 0}, "t=0"),
        ("draw", {"u": 1.0}, "u=1.0: expected for each row"),
        ("repetition_penalty", {"ids": [4], "penalty": 1.0}, "ids: .*of one row's 4"),
    ):
        with pytest.raises(InputError, match=says):
            getattr(samplers, op)(row, **inputs)
    with pytest.raises(InputError, match="one that is finite"):
        samplers.top_k([-np.inf], 1)


# ---------------------------------------------------------------- tolerance


def test_a_failure_says_where_and_by_how_much() -> None:
    want = np.ones((2, 3))
    got = want + np.array([[0, 0, 3e-6], [0, -1e-5, 0]])
    with pytest.raises(AssertionError) as e:
        assert_close(got, want, 1e-6, "mine")
    assert str(e.value) == (
        "mine: 2 of 6 are too far; the worst at [1, 1] is 0.99999 for 1: 1e-05 apart, 84 ulps of float32; "
        "1e-06 is allowed"
    )
    assert_close(got, want, 1e-5)
    assert_close([np.nan, np.inf], [np.nan, np.inf], 0)
    with pytest.raises(AssertionError, match=r"1 of 2 .* at \[1\] is nan"):
        assert_close([0, np.nan], [0, 1], 9)
    with pytest.raises(AssertionError, match=r"shape \(2,\); expected \(3,\)"):
        assert_close([1, 2], [1, 2, 3], 0)
    with pytest.raises(InputError, match="bound="):
        assert_close([1, 2], [1, 2], [1, 2, 3])


def test_scalars_are_compared() -> None:
    assert_close(1.0, 1.0, 0)
    with pytest.raises(AssertionError, match="1 of 1 are too far; the worst is 2 for 1"):
        assert_close(2.0, np.float32(1), 0.5)
    for wrong in (1j, "text", None, [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError, match=r"got: .* expected real numbers"):
            assert_close(wrong, 1.0, 9)
    with pytest.raises(InputError, match="bound=-1"):
        assert_close(1.0, 1.0, -1)
    with pytest.raises(AssertionError, match="is nan for 1: no distance; 1 is allowed"):
        assert_close(np.nan, 1.0, 1)
    with pytest.raises(InputError, match="op='nrom': expected one of sum, linear"):
        bound("nrom", "f32", 3)


@given(st.data())
def test_no_sum_exceeds_the_worst_bound(data: st.DataObject) -> None:
    """One by one, of one sign, whatever the numbers."""
    k = data.draw(st.sampled_from([1, 2, 63, 1000]))
    x = np.abs(data.draw(strategies.matrices(1, k)))[0]
    total = np.float32(0)
    for one in x:
        total += one
    exact = float(x.astype(float).sum())
    assert abs(float(total) - exact) <= bound("sum", "f32", k, exact, worst=True)


@pytest.mark.parametrize("op", [*tolerance.STEPS])
def test_every_bound_has_its_reason(op: str) -> None:
    assert 0 < bound(op, "f32", 64) < bound(op, "f32", 64, 100.0)
    assert op == "flash" or bound(op, "f32", 64) < bound(op, "f32", 4096)
    assert len(tolerance.reason(op, 64)) > 20
    with pytest.raises(ValueError, match="k=-1"):
        bound(op, "f32", -1)
    with pytest.raises(ValueError, match="no tolerance for f8"):
        bound(op, "f8", 64)


# ---------------------------------------------------------------- conformance


def conform(
    mistake: str, runner: str = "planted:run", *more: str, at: str | Path = "/"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "miaotui.testing.plugin"]
    command += ["--pyargs", "miaotui.testing.conformance", "--runner", runner, *more]
    env = os.environ | {"PLANTED": mistake, "PYTHONPATH": os.pathsep.join([str(at), str(ROOT / "tests"), *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=at, timeout=300)


def test_a_right_runner_passes() -> None:
    done = conform("")
    assert re.search(r"^12 passed, 3 skipped", done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.mark.ci  # 15 s
@pytest.mark.parametrize("mistake", planted.MISTAKES)
def test_every_planted_mistake_is_found(mistake: str) -> None:
    """In its op, and in no other."""
    done = conform(mistake, "planted:run", "-k", "not moe_route")
    failed = re.findall(r"^FAILED \S+::test_(\w+)", done.stdout, re.MULTILINE)
    assert set(failed) == {planted.MISTAKES[mistake]}, done.stdout + done.stderr
    assert re.search(r"are too far; the worst", done.stdout)


def page_runners() -> dict[str, str]:
    """The page's modules by name."""
    page = (ROOT / "docs" / "oracle-runners.md").read_text(encoding="utf-8")
    return dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page, re.DOTALL))


@pytest.mark.ci  # 25 s
@pytest.mark.parametrize(
    ("runner", "needs", "says"),
    [
        ("numpy_ops", "numpy", "11 passed, 4 skipped"),
        ("torch_ops", "torch", "15 passed"),
        ("onnx_ops", "onnxruntime", "14 passed, 1 skipped"),
        ("miaotui.testing.kernels", "miaotui", "14 passed, 1 skipped"),
    ],
)
def test_the_page_s_runners(tmp_path: Path, runner: str, needs: str, says: str) -> None:
    """Each answers as the page says."""
    pytest.importorskip(needs)
    for name, code in page_runners().items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    done = conform("", f"{runner}:run", at=tmp_path)
    assert done.stdout.splitlines()[-1].startswith(says), done.stdout + done.stderr
    assert runner != "torch_ops" or re.search(
        r"^attention: \d+ of \d+ problems passed over \(.* no cap\)", done.stdout, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("runner", "says"),
    [
        ("planted", "--runner planted: expected MODULE:FUNCTION, such as my_module:run"),
        ("nowhere:run", "--runner nowhere:run: ModuleNotFoundError: No module named 'nowhere'"),
        ("planted:runs", "--runner planted:runs: AttributeError"),
        ("broken_syntax:run", "--runner broken_syntax:run: SyntaxError"),
        ("nothing:run", "not compared, since the runner has none: "),
    ],
)
def test_a_runner_that_is_none(runner: str, says: str, tmp_path: Path) -> None:
    """One line, and no success; the current directory is looked in."""
    (tmp_path / "broken_syntax.py").write_text("def run(:")
    (tmp_path / "nothing.py").write_text("def run(op, **inputs):\n    raise NotImplementedError(op)\n")
    done = conform("", runner, at=tmp_path)
    assert done.returncode != 0
    assert says in done.stdout + done.stderr


def test_the_first_ten_minutes(tmp_path: Path) -> None:
    """The page's own test fails, and says where and by how much."""
    code = (ROOT / "docs" / "oracle.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) < 25
    (tmp_path / "test_mine.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == 1, done.stdout
    assert re.search(r"my_rope: \d+ of \d+ are too far; the worst at \[", done.stdout), done.stdout


# ---------------------------------------------------------------- kernels


@given(st.data())
def test_a_kernel_is_what_models_run(data: st.DataObject) -> None:
    """However it is stored, within what that rounds; with the same bits for any number of threads."""
    n, k = data.draw(strategies.sizes(33)), data.draw(strategies.sizes(65))
    x, w = data.draw(strategies.matrices(3, k)), data.draw(strategies.matrices(n, k, most=4.0))
    dtype = data.draw(st.sampled_from(["f32", "bf16", "f16", "int8", "int4"]))
    got = kernel("linear", dtype, precision="exact")(x, w)
    step = {"f32": 0, "bf16": 2.0**-8, "f16": 2.0**-10, "int8": 2.0**-7, "int4": 0.3}[dtype]
    allowed = (step * np.abs(w).max() + 2.0**-10) * np.abs(x).sum(-1, keepdims=True) * 1.1
    exact = bound("linear", "f32", k) * np.abs(x).astype(float) @ np.abs(w.astype(float)).T
    assert_close(got, reference.linear(x, w), (exact if dtype == "f32" else allowed + exact) + 1e-30)
    again = kernel("linear", dtype, precision="exact", threads=2)(x, w)
    assert got.tobytes() == again.tobytes()


def test_kernels_of_nothing_and_of_any_axes() -> None:
    x = np.linspace(-1, 1, 24).reshape(2, 3, 4)
    for op, more in (
        ("rms_norm", {"w": np.ones(4)}),
        ("linear", {"w": np.ones((5, 4))}),
        ("activation", {"kind": "silu"}),
    ):
        got = kernel(op)(x, **more)
        assert got.dtype == np.float32
        assert np.allclose(got, getattr(reference, op)(x, **more), atol=1e-6)
        assert kernel(op)(x[:, :0], **more).shape == (2, 0, got.shape[-1])
    empty = np.zeros((0, 2, 4))
    assert kernel("attention")(empty, empty, empty).shape == (0, 2, 4)
    assert kernel("rope")(empty, [], frequencies="float32").shape == (0, 2, 4)
    assert kernel("embed", "bf16")([[1, 0]], [[1.0], [2.0]]).tolist() == [[[2.0], [1.0]]]


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
def test_attention_over_caches_of_every_dtype(kv_cache: str) -> None:
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((21, heads, 16)) for heads in (4, 2, 2))
    error = np.abs(kernel("attention", kv_cache)(q, k, v, window=7) - reference.attention(q, k, v, window=7)).max()
    assert error < {"f32": 1e-5, "bf16": 3e-2, "int8": 5e-2}[kv_cache]
    assert error > 0


NO_KERNEL: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("softmax", {}, {"x": [[1.0]]}, "op='softmax': expected one of linear, embed"),
    ("linear", {"dtype": "int5"}, {}, "dtype='int5': expected one of f32, bf16, f16, int8"),
    ("rms_norm", {"dtype": "int8"}, {}, "dtype='int8': expected one of f32$"),
    ("linear", {"threads": 0}, {}, "threads=0: expected a whole number"),
    ("linear", {}, {"x": np.ones((2, 3)), "w": np.ones((2, 4))}, "w's columns: 4; expected 3"),
    ("linear", {}, {"y": 1}, "linear: .*'y'; its arguments are those of miaotui.testing.reference.linear"),
    ("linear", {"dtype": "int8"}, {"x": np.ones((1, 2)), "w": np.full((1, 2), np.inf)}, "w: holds NaN"),
    ("linear", {"precision": "bf16"}, {"x": np.ones((1, 2)), "w": np.ones((1, 2))}, "precision='bf16': w is f32"),
    ("embed", {}, {"ids": [-1], "table": np.ones((3, 2))}, "expected whole numbers from 0 to 2"),
    ("rope", {}, {"x": np.ones((1, 1, 2)), "positions": [0]}, "pass frequencies='float32'"),
    ("rope", {}, {"x": np.ones((1, 1, 2)), "positions": [-1], "frequencies": "float32"}, "positions: expected whole"),
    ("rope", {}, {"x": np.ones((1, 1, 2)), "positions": [2**20], "frequencies": "float32"}, "from 0 to 1048575"),
    ("rms_norm", {}, {"x": np.ones((1, 4)), "w": [1, 1, 2, 2], "groups": 2}, "the same gains for each group"),
    ("attention", {}, {"q": np.ones((2, 1, 2)), "k": np.ones((1, 1, 2)), "v": np.ones((1, 1, 2))}, "first=-1"),
    ("moe_route", {}, {"x": np.ones((1, 2)), "chosen": 3}, "chosen=3: expected 1 to 2"),
]


@pytest.mark.parametrize(("op", "how", "inputs", "says"), NO_KERNEL, ids=[says for *_, says in NO_KERNEL])
def test_what_no_kernel_takes_is_said(op: str, how: dict[str, Any], inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        kernel(op, **how)(**inputs)


def test_the_page_s_other_lines(tmp_path: Path) -> None:
    """They run as they stand."""
    page = (ROOT / "docs" / "oracle.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "samplers.top_p" in block)
    done = subprocess.run(
        [sys.executable, "-c", f"import numpy as np\n{code}\nprint(row, len(steps))"],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert re.match(r"\[-inf +2\. +1\.\] \d+", done.stdout), done.stdout + done.stderr
