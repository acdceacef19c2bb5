"""A text's way through a model: every intermediate in float64, by the names that hooks on its modules would have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .dataclass import dataclass
from .errors import InputError
from .loader.write import new_file
from .runtime.naming import LOGITS
from .runtime.traced import traced

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator
    from collections.abc import Sequence as Ids

    from numpy.typing import NDArray

    from .loader.prune.receipt import Receipt
    from .runtime.program import Program
    from .runtime.spec import Config, Weights

    Array = NDArray[np.float64]

__all__ = ["Difference", "Trace", "differences", "finite", "hooks_of", "trace", "trace_of_kernels"]


@dataclass(frozen=True, eq=False)
class Trace(Mapping[str, "Array"]):
    """Name -> array, in the order in which they are computed.

    `model.layers.0.self_attn.q_proj` is the product with its bias, [T, n]; `model.layers.0` what leaves the layer,
    [T, d_model]; `model.layers.0:attention` what each query gave each key, [n_heads, T, S]; `logits`, [T, n_vocab],
    what comes out. A name that is computed again has a number behind it, `#2`.
    """

    ids: tuple[int, ...]
    arrays: dict[str, Array]

    def __eq__(self, other: object) -> bool:
        """Whether ids, names in order and every number are the same; NaN is NaN."""
        if not isinstance(other, Trace) or self.ids != other.ids or list(self) != list(other):
            return False
        return all(np.array_equal(x, other[name], equal_nan=True) for name, x in self.items())

    __hash__ = None  # type: ignore[assignment]  # as of every mapping

    def __repr__(self) -> str:
        """In brief: its numbers are many."""
        return f"<miaotui.Trace: {len(self.ids)} ids, {len(self.arrays)} arrays>"

    def __getitem__(self, name: str) -> Array:
        """One of them. Errors: KeyError."""
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Names in order."""
        return iter(self.arrays)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.arrays)

    @property
    def logits(self) -> Array:
        """What comes out. Errors: `InputError` for a model that has no head."""
        if LOGITS not in self.arrays:
            msg = "logits: this model has no head; its last layer is in the trace"
            raise InputError(msg)
        return self.arrays[LOGITS]

    def lines(self) -> Iterator[str]:
        """A line for each: name, shape, root mean square, largest magnitude."""
        width = max(map(len, self.arrays), default=0)
        for name, x in self.arrays.items():
            shape = " x ".join(map(str, x.shape))
            yield f"{name:{width}s}  {shape:>16s}   rms {_rms(x):<10.4g} max {np.abs(x).max(initial=0):.4g}"

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold: the ids, and of each array its shape, root mean square and largest magnitude.

        The mean is of numbers that are finite; the largest is None where it is NaN or infinite.
        """
        of = {
            name: {"shape": list(x.shape), "rms": _rms(x), "max": finite(np.abs(x).max(initial=0))}
            for name, x in self.arrays.items()
        }
        return {"ids": list(self.ids), "arrays": of}

    def save(self, path: str | os.PathLike[str]) -> None:
        """All of it as a safetensors file, in F64. Errors: `InputError` where the system refuses."""
        from safetensors.numpy import save  # noqa: PLC0415 - few need it

        data = save({name: np.ascontiguousarray(x) for name, x in self.arrays.items()})
        with new_file(path) as f:
            f.write(data)


@dataclass(frozen=True)
class Difference:
    """How far two arrays of one name are apart: the largest difference over the second's root mean square, and where.

    `relative` is infinite where the shapes differ, which `shapes` then are.
    """

    name: str
    relative: float
    at: tuple[int, ...] = ()
    values: tuple[float, float] = (0.0, 0.0)
    shapes: tuple[tuple[int, ...], ...] = ()

    def __str__(self) -> str:
        """A line."""
        if self.shapes:
            return f"{self.name}: other shapes: {self.shapes[0]} and {self.shapes[1]}"
        if self.relative == 0:
            return f"{self.name}: equal"
        at, (one, other) = ", ".join(map(str, self.at)), self.values
        return f"{self.name}: {self.relative:.3g} of its rms, at [{at}]: {one:.9g} and {other:.9g}"


def finite(x: float) -> float | None:
    """None for what JSON cannot hold."""
    return float(x) if np.isfinite(x) else None


def differences(one: Mapping[str, Array], other: Mapping[str, Array]) -> list[Difference]:
    """Of every name that both have, in the order of the first."""
    return [_difference(name, np.asarray(x, np.float64), other[name]) for name, x in one.items() if name in other]


def _difference(name: str, x: Array, y: Array) -> Difference:
    y = np.asarray(y, np.float64)
    found = [_apart(name, x, same) for same in _as_ours(x, y)]
    return min(found, key=lambda d: d.relative, default=Difference(name, np.inf, shapes=(x.shape, y.shape)))


def _as_ours(x: Array, y: Array) -> Iterator[Array]:
    """Another program's array in our shape: without a batch of one, and heads side by side, whichever axis they are."""
    if x.shape == y.shape:
        yield y
        return
    if x.size != y.size:
        return
    y = y[0] if y.ndim > x.ndim and len(y) == 1 else y
    if x.size == 1 or len(x) == 1 or len(y) == len(x):  # of one row every order is the same
        yield y.reshape(x.shape)
    if y.ndim == 3 and y.shape[1] == len(x):  # noqa: PLR2004 - [n_heads, T, d_head]
        yield y.swapaxes(0, 1).reshape(x.shape)


def _apart(name: str, x: Array, y: Array) -> Difference:
    if not x.size:
        return Difference(name, 0.0, (0,))
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.abs(x - y)
    away[np.isnan(x) & np.isnan(y) | (x == y)] = 0
    flat = int(np.where(np.isnan(away), np.inf, away).argmax())
    at = tuple(map(int, np.unravel_index(flat, x.shape)))
    size = _rms(y)
    most = float(away[at])
    relative = 0.0 if most == 0 else most / size if size else np.inf
    return Difference(name, np.inf if np.isnan(relative) else relative, at, (float(x[at]), float(y[at])))


def _rms(x: Array) -> float:
    """Of the numbers that are finite, by the largest: no square overflows."""
    x = x[np.isfinite(x)]
    most = float(np.abs(x).max(initial=0))
    return most * float(np.sqrt(np.mean((x / most) ** 2))) if most else 0.0


def hooks_of(receipt: Receipt) -> dict[str, str]:
    """Of each weight, the module's name: its tensor's less the last part; of several in one tensor, and which."""
    tensors = {e.weight: e.tensor for e in receipt.entries}
    together = _repeated(tensors.values())
    names = {}
    for weight, tensor in tensors.items():
        base, dot, last = tensor.rpartition(".")
        name = base if dot and last in {"weight", "qweight", "weight_packed"} else tensor
        names[weight] = f"{name}.{weight.rpartition('.')[2]}" if tensor in together else name
    return names


def _repeated(names: Iterable[str]) -> set[str]:
    seen, twice = set[str](), set[str]()
    for name in names:
        (twice if name in seen else seen).add(name)
    return twice


def trace(  # noqa: PLR0913 - what a text is
    config: Config,
    weights: Weights,
    receipt: Receipt,
    ids: Ids[int],
    *,
    decoder_ids: Ids[int] | None = None,
    types: Ids[int] | None = None,
) -> Trace:
    """Of a text's ids; an encoder-decoder's decoder reads `decoder_ids`."""
    arrays = traced(config, weights, hooks_of(receipt), ids, decoder_ids=decoder_ids, types=types)
    return Trace(tuple(ids), arrays)


def trace_of_kernels(  # noqa: PLR0913, PLR0917 - what a pass is
    config: Config, weights: Weights, receipt: Receipt, ids: Ids[int], program: Program, threads: int
) -> Trace:
    """What a decoder's kernels compute of the same, rounded as `program` has it: float32."""
    from .runtime.cpu.kernel_trace import kernel_trace  # noqa: PLC0415 - few need it

    arrays: Any = kernel_trace(
        config, weights, hooks_of(receipt), ids, threads=threads, kv_cache=program.kv_cache, precision=program.precision
    )
    return Trace(tuple(ids), arrays)
