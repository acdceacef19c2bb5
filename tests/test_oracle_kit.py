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
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.testing import assert_close, bound, reference, strategies, tolerance

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


def test_routes() -> None:
    ids, weights = reference.moe_route([[1.0, 3.0, 3.0, 0.0]], 2)
    assert ids.tolist() == [[1, 2]]
    assert weights.tolist() == [[0.5, 0.5]]
    ids, weights = reference.moe_route([[1.0, 3.0, 2.0, 0.0]], 1, bias=[9.0, 0, 0, 0], normalized=False)
    assert (ids.tolist(), weights[0, 0]) == ([[0]], pytest.approx(reference.softmax([1.0, 3.0, 2.0, 0.0])[0]))


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
    ("rope", {"x": np.ones((1, 1, 4)), "positions": [0], "frequencies": "f16"}, "expected float64 or float32"),
    ("attention", {"q": np.ones((1, 3, 2)), "k": np.ones((1, 2, 2)), "v": np.ones((1, 2, 2))}, "q has 3 heads, k 2"),
    ("attention", {"q": np.ones((1, 1, 2)), "k": np.ones((1, 1, 2)), "v": np.ones((1, 1, 2)), "window": 0}, "window=0"),
    ("moe_route", {"x": np.ones((1, 2)), "chosen": 3}, "chosen=3: expected 1 to 2"),
    ("quantize", {"x": np.full((1, 32), np.inf)}, "holds NaN, infinity"),
    ("quantize", {"x": np.ones((1, 32)), "kind": "int5"}, "kind='int5'"),
    ("dequantize", {"q": np.ones((1, 33)), "scale": np.ones((1, 1))}, "scale's columns: 1; expected 2"),
]


@pytest.mark.parametrize(("op", "inputs", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_shapes_that_do_not_fit_are_named(op: str, inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        getattr(reference, op)(**inputs)


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
    with pytest.raises(InputError, match=r"shape \(2,\); expected \(3,\)"):
        assert_close([1, 2], [1, 2, 3], 0)
    with pytest.raises(InputError, match="bound="):
        assert_close([1, 2], [1, 2], [1, 2, 3])


@pytest.mark.parametrize("op", ["linear", *tolerance.STEPS])
def test_every_bound_has_its_reason(op: str) -> None:
    assert 0 < bound(op, "f32", 64) < bound(op, "f32", 64, 100.0)
    assert op == "flash" or bound(op, "f32", 64) < bound(op, "f32", 4096)
    assert len(tolerance.reason(op, 64)) > 20
    with pytest.raises(ValueError, match="no tolerance for f8"):
        bound(op, "f8", 64)


# ---------------------------------------------------------------- conformance


def conform(mistake: str, runner: str = "planted:run", *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "miaotui.testing.plugin"]
    command += ["--pyargs", "miaotui.testing.conformance", "--runner", runner, *more]
    env = os.environ | {"PLANTED": mistake, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd="/", timeout=300)


def test_a_right_runner_passes() -> None:
    done = conform("")
    assert re.search(r"^12 passed, 1 skipped", done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.mark.ci  # 15 s
@pytest.mark.parametrize("mistake", planted.MISTAKES)
def test_every_planted_mistake_is_found(mistake: str) -> None:
    """In its op, and in no other."""
    done = conform(mistake, "planted:run", "-k", "not moe_route")
    failed = re.findall(r"^FAILED \S+::test_(\w+)", done.stdout, re.MULTILINE)
    assert set(failed) == {planted.MISTAKES[mistake]}, done.stdout + done.stderr
    assert re.search(r"are too far; the worst", done.stdout)


def test_a_runner_that_is_none() -> None:
    assert "expected MODULE:FUNCTION" in conform("", "planted").stdout


def test_the_first_ten_minutes(tmp_path: Path) -> None:
    """The page's own test fails, and says where and by how much."""
    code = (ROOT / "docs" / "oracle.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) < 25
    (tmp_path / "test_mine.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == 1, done.stdout
    assert re.search(r"my_rope: \d+ of \d+ are too far; the worst at \[", done.stdout), done.stdout
