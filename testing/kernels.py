"""The shipped kernels on plain arrays: each as `reference` has it, in float32 and by the code that models run.

A call records a program of that one op, allocates its arena and runs it, as `load` does with a model's. The reference
is computed first: it refuses what does not fit, so that no kernel reads where nothing is.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, shown
from ..loader.quantize import pack_rows
from ..runtime.cpu.alone import run_alone, written
from ..runtime.kvcache import KV_BYTES
from ..runtime.precision import WORDS
from ..runtime.quantized import QUANTIZED, quantized_shape
from ..runtime.recorder.alone import alone
from ..runtime.recorder.record import Recorder
from ..runtime.rope import LONGEST, RopeTable
from ..runtime.spec import Rope
from ..runtime.step import T_LAST, T_POSITION, Batch
from ..runtime.weight import DTYPES, Weight
from . import reference
from .checked import one_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from ..runtime.arena import Tensor
    from ..runtime.precision import Precision

    Single = NDArray[np.float32]
    #: Records the op, given where its inputs will lie.
    Build = Callable[..., Tensor]

__all__ = ["kernel", "run"]


def kernel(op: str, dtype: str = "f32", *, precision: Precision | None = None, threads: int = 1) -> Callable[..., Any]:
    """The shipped kernel of an op, as a function: the arguments of `reference`'s, float32 results.

    `op`: "linear", "embed", "rms_norm", "layer_norm", "activation", "gated", "rope", "attention", "moe", "moe_route",
    "round_bf16", "soft_cap" or "xielu". `dtype`: how a matrix is stored, f32, bf16, f16, int8, int4 or int4a; of
    attention the KV cache, f32, bf16 or int8. `precision`: as in `load`. `threads`: the result has the same bits for
    any number. Arrays are rounded to float32 first. Errors: `InputError` for what the reference refuses and for what no
    kernel does: rope with frequencies of float64, or of positions that are no whole numbers from 0 to 2^20 - 1.
    """
    one_of("op", op, tuple(_OPS))
    if not isinstance(threads, int) or threads < 1:
        msg = f"threads={shown(threads)}: expected a whole number, 1 or more"
        raise InputError(msg)
    known = tuple(KV_BYTES) if op == "attention" else (*DTYPES, *QUANTIZED) if op in _STORED else ("f32",)
    one_of("dtype", dtype, known)
    if precision is not None:
        one_of("precision", precision, WORDS)
        if op not in _STORED:
            msg = f"precision={precision!r}: is of ops with matrices, {', '.join(_STORED)}; leave it out of {op}"
            raise InputError(msg)
    how = _How(dtype, precision, threads)

    def call(*args: Any, **inputs: Any) -> Any:  # noqa: ANN401 - an op's arguments, and its result
        meant = getattr(reference, op)
        try:
            wanted = meant(*args, **inputs)
        except TypeError as e:
            msg = f"{op}: {e}; its arguments are those of miaotui.testing.reference.{op}"
            raise InputError(msg) from e
        return _OPS[op](how, wanted, *args, **inputs)

    call.__name__, call.__doc__ = op, f"The kernel of `reference.{op}`."
    return call


def run(op: str, **inputs: Any) -> Any:  # noqa: ANN401 - an op's arguments, and its result
    """Every kernel as a runner of `conformance`."""
    if op not in _OPS:
        raise NotImplementedError(op)
    return kernel(op)(**inputs)


class _How:
    """How an op is stored and run, and the one pass that runs it."""

    def __init__(self, dtype: str, precision: Precision | None, threads: int) -> None:
        self.dtype, self.precision, self.threads = dtype, precision, threads

    def weight(self, name: str, x: ArrayLike, dtype: str | None = None) -> Weight:
        """As a kernel reads it. Errors: `InputError`: no integer kind holds it."""
        dtype, numbers = dtype or self.dtype, single(x)
        stored: NDArray[Any] = numbers
        if dtype == "bf16":
            stored = (reference.round_bf16(numbers.reshape(-1)).astype(np.float32).view(np.uint32) >> 16).astype(
                np.uint16
            )
        elif dtype == "f16":
            with np.errstate(over="ignore"):
                stored = numbers.astype(np.float16)
        elif dtype in QUANTIZED:
            stored = np.empty(quantized_shape(dtype, numbers.shape), np.uint8)
            if not pack_rows(numbers, "F32", dtype, stored):
                msg = f"{name}: holds NaN, infinity, or numbers too large for a float16 scale; {dtype} cannot"
                raise InputError(msg)
        return Weight(name, dtype, numbers.shape, np.ascontiguousarray(stored), mapped=False)

    def biases(self, name: str, x: ArrayLike | None) -> Weight | None:
        """Vectors are float32 in every kind of model."""
        return None if x is None else self.weight(name, x, "f32")

    def __call__(
        self,
        build: Build,
        *inputs: Single,
        n_tokens: int,
        ids: NDArray[np.int64] | None = None,
        positions: NDArray[np.int64] | None = None,
        sees_all: bool = False,
    ) -> NDArray[np.uint8]:
        """The bytes of each row that the op computes. `inputs`: [T, width] each."""
        ops = Recorder(
            n_context=n_tokens, chunk=n_tokens, n_logits=1, threads=self.threads, precision=self.precision,
            kv_cache=self.dtype if self.dtype in KV_BYTES else "f32",
        )  # fmt: skip
        given = [ops.given(x.shape[1]) for x in inputs]
        program = alone(ops, build(ops, *given))

        def fill(tables: int) -> Batch:
            batch = Batch(n_tokens, 1)
            batch.add(np.zeros(n_tokens, np.int64) if ids is None else ids, 0, tables, 0)
            if positions is not None:
                batch.tokens[:, T_POSITION] = positions
            if sees_all:
                batch.tokens[:, T_LAST] = n_tokens - 1
            return batch

        return written(run_alone(program, fill, zip(given, inputs, strict=True)), program.hidden, n_tokens)

    def floats(self, build: Build, *inputs: Single, n_tokens: int, **more: Any) -> Single:  # noqa: ANN401 - as a call's
        """The same of float32, [T, width]."""
        return self(build, *inputs, n_tokens=n_tokens, **more).view(np.float32)

    def rows(self, build: Build, wanted: NDArray[Any], *inputs: ArrayLike) -> Single:
        """Of an op of rows, for any axes before the last; where there are none, nothing runs."""
        flat = [x.reshape(-1, x.shape[-1]) for x in map(single, inputs)]
        if not wanted.size or not all(x.size for x in flat):
            return wanted.astype(np.float32)
        return self.floats(build, *flat, n_tokens=len(flat[0])).reshape(wanted.shape)


def single(x: ArrayLike) -> Single:
    """Contiguous float32; what is too large is infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x, np.float32)


def _linear(how: _How, wanted: NDArray[Any], x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None) -> Single:
    matrix, bias = partial(how.weight, "w", w), how.biases("b", b)
    return how.rows(lambda ops, x: ops.linear(x, matrix(), bias), wanted, x)


def _embed(how: _How, wanted: NDArray[Any], ids: ArrayLike, table: ArrayLike) -> Single:
    if not wanted.size:
        return wanted.astype(np.float32)
    w, at = how.weight("table", table), np.asarray(ids, np.int64).reshape(-1)
    return how.floats(lambda ops: ops.embed(w), n_tokens=len(at), ids=at).reshape(wanted.shape)


def _rms_norm(  # noqa: PLR0913, PLR0917 - as the reference
    how: _How, wanted: NDArray[Any], x: ArrayLike, w: ArrayLike, eps: float = 1e-6, groups: int = 1
) -> Single:
    gains = single(w).reshape(groups, -1)
    if not (gains == gains[:1]).all():
        msg = "w: the kernel has the same gains for each group"
        raise InputError(msg)
    of_group = how.weight("w", gains[0], "f32")
    return how.rows(lambda ops, x: ops.rms_norm(x, of_group, eps, groups), wanted, x)


def _layer_norm(  # noqa: PLR0913, PLR0917 - as the reference
    how: _How, wanted: NDArray[Any], x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None, eps: float = 1e-5
) -> Single:
    gains, bias = how.weight("w", w, "f32"), how.biases("b", b)
    return how.rows(lambda ops, x: ops.layer_norm(x, gains, bias, eps), wanted, x)


def _activation(how: _How, wanted: NDArray[Any], x: ArrayLike, kind: str) -> Single:
    """What follows a product: here one with 1, which rounds nothing."""
    one = how.weight("1", np.ones((1, 1)), "f32")
    y = how.rows(lambda ops, x: ops.linear(x, one, act=kind), wanted.reshape(-1, 1), single(x).reshape(-1, 1))
    return y.reshape(wanted.shape)


def _gated(  # noqa: PLR0913, PLR0917 - as the reference
    how: _How, wanted: NDArray[Any], x: ArrayLike, gate: ArrayLike, up: ArrayLike, down: ArrayLike, kind: str = "silu"
) -> Single:
    def build(ops: Recorder, x: Tensor) -> Tensor:
        g, u, d = (how.weight(*named) for named in (("gate", gate), ("up", up), ("down", down)))
        return ops.linear(ops.linear(x, g, act=kind, times=ops.linear(x, u)), d)  # type: ignore[arg-type]  # it was checked

    return how.rows(build, wanted, x) if single(gate).size else wanted.astype(np.float32)


def _soft_cap(how: _How, wanted: NDArray[Any], x: ArrayLike, cap: float) -> Single:
    return how.rows(lambda ops, x: ops.soft_cap(x, cap), wanted, x)


def _xielu(  # noqa: PLR0913, PLR0917 - as the reference
    how: _How, wanted: NDArray[Any], x: ArrayLike, p: float, n: float, beta: float = 0.5, eps: float = -1e-6
) -> Single:
    numbers = [how.weight(str(i), [v], "f32") for i, v in enumerate((p, n - beta, beta, eps))]
    return how.rows(lambda ops, x: ops.xielu(x, *numbers), wanted, x)


def _moe(  # noqa: PLR0913, PLR0917 - as the reference
    how: _How,
    wanted: NDArray[Any],
    x: ArrayLike,
    ids: ArrayLike,
    weights: ArrayLike,
    gates: ArrayLike,
    ups: ArrayLike,
    downs: ArrayLike,
    kind: str = "silu",
) -> Single:
    if not wanted.size or not np.size(ids) or not np.size(gates):
        return wanted.astype(np.float32)
    routes = np.concatenate([single(ids), single(weights)], -1)

    def build(ops: Recorder, x: Tensor, routes: Tensor) -> Tensor:
        g, u, d = (
            tuple(how.weight(f"{name}.{e}", w) for e, w in enumerate(single(every)))
            for name, every in (("gate", gates), ("up", ups), ("down", downs))
        )
        h = ops.expert_linear(x, routes, g, act=kind, times=ops.expert_linear(x, routes, u))  # type: ignore[arg-type]  # it was checked
        return ops.expert_sum(ops.expert_linear(h, routes, d), routes, None, None, None)

    return how.floats(build, single(x), routes, n_tokens=len(wanted))


def _rope(  # noqa: PLR0913 - as the reference
    how: _How,
    wanted: NDArray[Any],
    x: ArrayLike,
    positions: ArrayLike,
    *,
    theta: float = 10_000.0,
    d_rotary: int | None = None,
    interleaved: bool = False,
    frequencies: ArrayLike | str = "float64",
) -> Single:
    if not isinstance(frequencies, str) or frequencies != "float32":
        msg = "frequencies: kernels turn by theirs, rounded to float32; pass frequencies='float32'"
        raise InputError(msg)
    at = np.asarray(positions, np.float64)
    if at.size and not (0 <= at.min() <= at.max() < LONGEST and (at == np.rint(at)).all()):
        msg = f"positions: expected whole numbers from 0 to {LONGEST - 1}"
        raise InputError(msg)
    heads, d_head = wanted.shape[1:]
    r = d_head if d_rotary is None else d_rotary
    if not wanted.size or not r:
        return single(x)
    table = RopeTable(Rope(theta, r, interleaved=interleaved), int(at.max()) + 1)

    def build(ops: Recorder, x: Tensor) -> Tensor:
        return ops.rope(x, table, heads) if r == d_head and not interleaved else ops.rope_part(x, table, heads)

    flat = single(x).reshape(len(at), -1)
    return how.floats(build, flat, n_tokens=len(at), positions=at.astype(np.int64)).reshape(wanted.shape)


class _Lines:
    """What a query adds to its scores by the place of the key, as a `Bias` is to the recorder."""

    sizes = table = heads = None
    by_key = True

    def __init__(self, lines: NDArray[np.float32]) -> None:
        """[n_heads, S]."""
        self.lines = lines

    def exact(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """At positions of keys."""
        return self.lines[:, at].astype(np.float64)


def _attention(  # noqa: PLR0913 - as the reference
    how: _How,
    wanted: NDArray[Any],
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    causal: bool = True,
    window: int | None = None,
    bias: ArrayLike | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    first: int | None = None,
) -> Single:
    """Of all S positions in one pass, the queries among them; a bias is that of one query, so each has its own pass."""
    (t, heads, d), keys, values = wanted.shape, single(k), single(v)
    s, kv_heads = keys.shape[:2]
    at = s - t if first is None else first
    if not 0 <= at <= s - t:
        msg = f"first={at}: the kernel's {t} queries stand among its {s} keys; expected 0 to {s - t}"
        raise InputError(msg)
    if not wanted.size:
        return wanted.astype(np.float32)
    queries = np.zeros((s, heads * d), np.float32)
    queries[at : at + t] = single(q).reshape(t, -1)
    more: dict[str, Any] = {"window": window, "causal": causal, "scale": 1 / math.sqrt(d) if scale is None else scale}

    def build(ops: Recorder, q: Tensor, k: Tensor, v: Tensor, lines: NDArray[np.float32] | None = None) -> Tensor:
        ops.kv_write(0, k, v, kv_heads)
        if lines is None and soft_cap is None and (causal or window is None):
            return ops.attention(0, q, heads, kv_heads, **more)
        line: Any = None if lines is None else _Lines(lines)
        return ops.attention_biased(0, q, heads, kv_heads, soft_cap=soft_cap, bias=line, **more)

    def passed(lines: NDArray[np.float32] | None) -> Single:
        inputs = queries, keys.reshape(s, -1), values.reshape(s, -1)
        y = how.floats(partial(build, lines=lines), *inputs, n_tokens=s, sees_all=not causal)
        return y[at : at + t].reshape(wanted.shape)

    if bias is None:
        return passed(None)
    added = np.broadcast_to(single(bias), (heads, t, s))
    return np.stack([passed(added[:, i])[i] for i in range(t)])


def _moe_route(  # noqa: PLR0913 - as the reference
    how: _How,
    wanted: tuple[NDArray[np.int64], NDArray[Any]],
    x: ArrayLike,
    chosen: int,
    *,
    bias: ArrayLike | None = None,
    sigmoid: bool = False,
    normalized: bool = True,
) -> tuple[NDArray[np.int64], Single]:
    ids, weights = wanted
    if not ids.size:
        return ids, weights.astype(np.float32)
    b = how.biases("bias", bias)
    y = how.floats(
        lambda ops, x: ops.route(x, b, chosen, sigmoid=sigmoid, normalized=normalized), single(x), n_tokens=len(ids)
    )
    return y[:, :chosen].astype(np.int64), y[:, chosen:]


def _round_bf16(how: _How, wanted: NDArray[Any], x: ArrayLike) -> Single:
    numbers = single(x)
    if not wanted.size:
        return numbers
    flat = numbers.reshape(-1, numbers.shape[-1])
    bits = how(lambda ops, x: ops.round_bf16(x), flat, n_tokens=len(flat)).view(np.uint16)[:, : flat.shape[1]]
    return (bits.astype(np.uint32) << 16).view(np.float32).reshape(wanted.shape)


#: Ops whose matrices are stored in any dtype.
_STORED = ("linear", "embed", "gated", "moe")
_OPS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "embed": _embed,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "activation": _activation,
    "gated": _gated,
    "rope": _rope,
    "attention": _attention,
    "moe": _moe,
    "moe_route": _moe_route,
    "round_bf16": _round_bf16,
    "soft_cap": _soft_cap,
    "xielu": _xielu,
}
