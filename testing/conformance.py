"""Every op against somebody else's implementation.

    pytest -p miaotui.testing.plugin --pyargs miaotui.testing.conformance --runner my_module:run

`run(op, **inputs)` is given the name of a function of `reference` and its arguments, arrays as float32, and returns its
result; `NotImplementedError` passes an op over, or a problem that it cannot take: how many, the end of the run says.
Each is compared with the reference within the error that rounding to float32 allows (`tolerance`). `MIAOTUI_RUNNER`
names a runner, too.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import reference
from .strategies import attention_problems, matrices, ropes, sizes
from .tolerance import U, assert_close, bound

try:
    import pytest
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
except ImportError as e:
    from ..errors import BackendError

    msg = "miaotui.testing.conformance needs pytest and Hypothesis: pip install 'miaotui[testing]'"
    raise BackendError(msg) from e

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DataObject

    Run = Callable[..., Any]

__all__ = ["check", "numpy_runner"]

#: Where the runner is named.
VARIABLE = "MIAOTUI_RUNNER"


class Answers:
    """Of an op: how many problems a runner took, how many not, and why not the last of these."""

    def __init__(self) -> None:
        """None yet."""
        self.given, self.passed_over, self.why = 0, 0, ""


def told(why: str) -> str:
    """In brackets, where there is something to say."""
    return f" ({why})" if why else ""


#: Of each op that was asked for.
ANSWERS: dict[str, Answers] = {}


def numpy_runner(op: str, **inputs: Any) -> Any:  # noqa: ANN401 - an op's arguments, and its result
    """The reference itself, rounded to float32: what passes."""
    result = getattr(reference, op)(**inputs)
    return tuple(map(_single, result)) if isinstance(result, tuple) else _single(result)


def _single(x: Any) -> Any:  # noqa: ANN401 - of floats or of ids
    return x.astype(np.float32) if x.dtype.kind == "f" else x


def check(run: Run, op: str, allowed: Any, **inputs: Any) -> None:  # noqa: ANN401 - of any op
    """AssertionError where a runner's result is further from the reference's than `allowed`."""
    want = getattr(reference, op)(**inputs)
    counts = ANSWERS.setdefault(op, Answers())
    try:
        got = run(op, **inputs)
    except NotImplementedError as e:
        counts.passed_over, counts.why = counts.passed_over + 1, "" if str(e) == op else str(e)
        return
    counts.given += 1
    if isinstance(want, np.ndarray) and not isinstance(got, np.ndarray | np.generic):
        msg = f"{op}: {type(got).__name__} came; expected an array"
        raise AssertionError(msg)  # noqa: TRY004 - the runner's answer is wrong
    if isinstance(want, tuple):  # ids and weights: of equal weights any order
        _same_choice(op, got, want, allowed, inputs)
        return
    assert_close(got, want, allowed, op)


def _same_choice(op: str, got: Any, want: Any, allowed: Any, inputs: dict[str, Any]) -> None:  # noqa: ANN401 - as above
    """Ids and weights, in any order; of equal weights any id."""
    if not isinstance(got, tuple) or len(got) != 2:  # noqa: PLR2004 - as the reference
        msg = f"{op}: {type(got).__name__} came; expected ids and weights"
        raise AssertionError(msg)
    ids, weights = (np.asarray(part) for part in got)
    assert_close(np.sort(weights, -1), np.sort(want[1], -1), allowed, op)
    every = reference.moe_route(**inputs | {"chosen": inputs["x"].shape[1], "normalized": False})
    scores = np.take_along_axis(every[1], np.argsort(every[0], -1), -1)  # of each expert, by its number
    known = ids.shape == weights.shape and ids.dtype.kind in "iu" and set(ids.flat) <= set(range(scores.shape[1]))
    if not known or any(len(set(row)) < len(row) for row in ids.tolist()):
        msg = f"{op}: ids {ids.tolist()}: expected for each token other experts, from 0 to {scores.shape[1] - 1}"
        raise AssertionError(msg)
    own = np.take_along_axis(scores, ids, -1)
    own = own / own.sum(-1, keepdims=True) if inputs["normalized"] else own
    assert_close(weights, own, 2 * allowed, f"{op}, weights of the ids that were chosen")


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Run:
    """The runner that was named. The plugin hears what it answers."""
    plugin = request.config.pluginmanager.get_plugin("miaotui.testing.plugin")
    if plugin is not None:
        plugin.ANSWERS = ANSWERS
    name = request.config.getoption("--runner", default=None) or os.environ.get(VARIABLE)
    return _found(str(name or ""))


def _found(name: str) -> Run:
    """Of a module of the current directory, too. Nothing can go on without it."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        pytest.exit(f"--runner {name or '(none)'}: expected MODULE:FUNCTION, such as my_module:run", returncode=4)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Run = getattr(importlib.import_module(module), attribute)
    except Exception as e:  # noqa: BLE001 - whatever their module does
        pytest.exit(f"--runner {name}: {type(e).__name__}: {e}", returncode=4)
    if not callable(found):
        pytest.exit(f"--runner {name}: is {type(found).__name__}; expected a function", returncode=4)
    return found


def _drawn(test: Callable[..., None]) -> Callable[..., None]:
    """Forty problems; skipped where the runner takes none of them."""
    drawn = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])(test)

    @wraps(drawn)
    def tested(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the test's
        before = {op: counts.given for op, counts in ANSWERS.items()}
        drawn(*args, **kwargs)
        op = next(op for op in reversed(reference.__all__) if test.__name__ == f"test_{op}")
        if ANSWERS[op].given == before.get(op, 0):
            pytest.skip(f"{op}: the runner has none{told(ANSWERS[op].why)}")

    return tested


@_drawn
@given(data=st.data())
def test_linear(run: Run, data: DataObject) -> None:
    """A product with a bias: |x| |w|ᵀ says how large its terms are."""
    t, n, k = (data.draw(sizes(65)) for _ in range(3))
    x, w, b = data.draw(matrices(t, k)), data.draw(matrices(n, k)), data.draw(matrices(1, n))[0]
    size = np.abs(x.astype(float)) @ np.abs(w.astype(float)).T + np.abs(b)
    check(run, "linear", (k + 4) * U * size + 1e-30, x=x, w=w, b=b)


@_drawn
@given(data=st.data())
def test_embed(run: Run, data: DataObject) -> None:
    """Rows as they are, whatever is asked for first, last or twice."""
    n, d = data.draw(sizes(65)), data.draw(sizes(33))
    ids = data.draw(st.lists(st.sampled_from([0, n // 2, n - 1]), min_size=1, max_size=9))
    check(run, "embed", 0, ids=np.array(ids), table=data.draw(matrices(n, d)))


@_drawn
@given(data=st.data())
def test_gated(run: Run, data: DataObject) -> None:
    """Three products and an activation, each of which reads what the last one rounded."""
    t, d, ff = data.draw(sizes(17)), data.draw(sizes(33)), data.draw(sizes(65))
    x, kind = data.draw(matrices(t, d)), data.draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"]))
    gate, up, down = (data.draw(matrices(*shape, most=1.0)) for shape in ((ff, d), (ff, d), (d, ff)))
    sums = [np.abs(x).astype(float) @ np.abs(w.astype(float)).T for w in (gate, up)]
    hidden = sums[0] * sums[1] * ((2 * d + 8) * 2 * U + bound("act", "f32", 1))
    size = sums[0] * sums[1] @ np.abs(down.astype(float)).T
    allowed = 1.2 * (hidden @ np.abs(down.astype(float)).T + (ff + 4) * U * size)
    check(run, "gated", allowed + 1e-30, x=x, gate=gate, up=up, down=down, kind=kind)


@_drawn
@given(data=st.data())
def test_rms_norm(run: Run, data: DataObject) -> None:
    """Rows of every size, and eps that counts."""
    t, d = data.draw(sizes(17)), data.draw(sizes())
    x, w = data.draw(matrices(t, d)), data.draw(matrices(1, d))[0]
    eps = data.draw(st.sampled_from([1e-6, 1e-5, 0.1]))
    want = reference.rms_norm(x, w, eps)
    check(run, "rms_norm", bound("norm", "f32", d) * np.abs(want) + 1e-30, x=x, w=w, eps=eps)


@_drawn
@given(data=st.data())
def test_layer_norm(run: Run, data: DataObject) -> None:
    """Of rows whose mean is not large: what is lost there is lost in x."""
    t, d = data.draw(sizes(17)), data.draw(sizes())
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = (random.standard_normal((t, d)) + data.draw(st.sampled_from([0.0, 3.0]))).astype(np.float32)
    w, b = random.standard_normal((2, d)).astype(np.float32)
    eps = data.draw(st.sampled_from([1e-5, 0.1]))
    spread = 1 / np.sqrt(x.astype(float).var(-1, keepdims=True) + eps)
    allowed = bound("norm", "f32", d) * (np.abs(x).max(-1, keepdims=True) * spread * np.abs(w) + np.abs(b)) * 4 + 1e-30
    check(run, "layer_norm", allowed, x=x, w=w, b=b, eps=eps)


@_drawn
@given(data=st.data())
def test_softmax(run: Run, data: DataObject) -> None:
    """Up to scores that overflow exp without the largest taken away."""
    t, d = data.draw(sizes(17)), data.draw(sizes())
    x = data.draw(matrices(t, d)) * np.float32(data.draw(st.sampled_from([1.0, 20.0])))
    spread = float(np.abs(x).max(initial=0))
    want = reference.softmax(x)
    check(run, "softmax", (bound("exp", "f32", d) + 4 * U * spread) * want + 1e-30, x=x)


@pytest.mark.parametrize("kind", reference.ACTIVATIONS)
@_drawn
@given(data=st.data())
def test_activation(run: Run, data: DataObject, kind: str) -> None:
    """Each; far from zero too."""
    x = data.draw(matrices(data.draw(sizes(17)), data.draw(sizes(33))))
    check(run, "activation", bound("act", "f32", 1) * np.maximum(np.abs(x), 1e-3), x=x, kind=kind)


@_drawn
@given(problem=ropes())
def test_rope(run: Run, problem: tuple[Any, Any, dict[str, Any]]) -> None:
    """With frequencies that are rounded to float32, as engines have them, and angles that may be."""
    x, positions, how = problem
    how = how | {"frequencies": "float32"}
    angle = float(positions.max()) * 2 * U + 8 * U
    size = np.abs(x).max(-1, keepdims=True)
    check(run, "rope", 2 * angle * size + 1e-30, x=x, positions=positions, **how)


@_drawn
@given(problem=attention_problems())
def test_attention(run: Run, problem: Any) -> None:  # noqa: ANN401 - of `strategies`
    """Grouped, windowed, capped, biased; behind a past."""
    q, k, v, how = problem.q, problem.k, problem.v, problem.how
    d, scale = q.shape[2], how["scale"] or 1 / math.sqrt(q.shape[2])
    scores = float(np.abs(q).sum(-1).max() * np.abs(k).max() * scale)
    biased = float(np.abs(how.get("bias", 0.0)).max())
    error = bound("attention", "f32", len(k)) + 4 * U * ((d + 4) * scores + 2 * biased)
    check(run, "attention", error * float(np.abs(v).max()) + 1e-30, q=q, k=k, v=v, **how)


@_drawn
@given(data=st.data())
def test_moe_route(run: Run, data: DataObject) -> None:
    """Weights of the chosen, by either function."""
    t, n = data.draw(sizes(17)), data.draw(sizes(33))
    x = data.draw(matrices(t, n))
    chosen = data.draw(st.integers(1, n))
    how: dict[str, Any] = {"sigmoid": data.draw(st.booleans()), "normalized": data.draw(st.booleans())}
    if data.draw(st.booleans()):  # far apart, so that no rounding changes the choice
        how["bias"] = 100 * np.random.default_rng(n).permutation(n).astype(np.float32)
    check(run, "moe_route", 64 * U * (1 + float(np.abs(x).max())), x=x, chosen=chosen, **how)
