"""The tensors of a checkpoint that others quantised -> a `Coded` for each matrix, checked from the headers alone.

| tensors of a module NAME                                | are                                         |
|---------------------------------------------------------|---------------------------------------------|
| qweight [in / 8, out], qzeros, scales, perhaps g_idx    | GPTQ; of 8 bits [in / 4, out]               |
| qweight [in, out / 8], qzeros, scales                   | AWQ, "gemm"                                 |
| qweight [out, in / 8], qzeros, scales                   | AWQ, "gemv"                                 |
| weight F8_E4M3, weight_scale_inv or weight_scale        | 8-bit floats, with a scale for each block   |
| weight_packed [out, in / 8], weight_scale, weight_shape | compressed-tensors' "pack-quantized"        |
| weight I8, weight_scale, perhaps weight_zero_point      | its "int-quantized" and "naive-quantized"   |

Each becomes NAME.weight. What is not one of these stays a tensor like any other.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import CheckpointError
from ..families import FAMILIES
from ..formats import missing_scale
from .coded import Coded, Layout
from .config import METHODS, scheme_of
from .scheme import Scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ..checkpoint import Checkpoint
    from ..header import TensorInfo
    from .scheme import Sharing

__all__ = ["KEY", "with_coded"]

KEY = "quantization_config"
WORD = 32
_AGAIN = "download the checkpoint again"
FLOATS = ("F16", "BF16", "F32")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
#: By what a stored zero point lacks.
_GPTQ = tuple(Layout(outputs_first=False, codes="inputs", zeros="outputs", plus=plus) for plus in (0, 1))
_AWQ = Layout(outputs_first=False, codes="outputs", zeros="outputs", order=AWQ_ORDER)
_AWQ_BY_INPUT = Layout(outputs_first=True, codes="inputs", zeros="groups")
_ROWS = Layout(outputs_first=True, codes="inputs", zeros="outputs")
_BYTES = Layout(outputs_first=True, codes="bytes", signed=True)
_FLOATS = Layout(outputs_first=True, codes="bytes", floats=True)


def with_coded(checkpoint: Checkpoint) -> dict[str, Any]:
    """Put what others quantised into the checkpoint's table; its config.json without the words about it.

    Errors: `CheckpointError` for tensors that do not fit together.
    """
    config, said = checkpoint.config, checkpoint.config.get(KEY)
    if not isinstance(said, dict) or said.get("quant_method") not in METHODS:
        return config
    scheme = scheme_of(said)
    assert isinstance(scheme, Scheme)  # noqa: S101 - `formats` has refused others
    made = {info.name: info for info in _Finder(checkpoint, scheme, _turned(config)).found()}
    if not made:
        whys = (missing_scale(info.name, info.dtype) for info in checkpoint.tensors.values())
        if (why := next((why for why in whys if why is not None), None)) is not None:
            msg = f"{checkpoint.directory}: {why}"
            raise CheckpointError(msg)
        msg = (
            f"{checkpoint.directory}: config.json says that matrices are quantised ({KEY}), and no tensor is. If the "
            "numbers are the original ones, remove it from config.json; else fetch the checkpoint again"
        )
        raise CheckpointError(msg)
    checkpoint.present(made)
    return {key: value for key, value in config.items() if key != KEY}


def _turned(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a family's files have the matrix of this name as [in, out]."""
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    parts = [] if family is None else [part for part in family.layer.values() if part.transposed]
    ends = [re.escape(part.name).replace(r"\{i\}", "[0-9]+") for part in parts]
    pattern = re.compile(f"(?:^|.*\\.)(?:{'|'.join(ends)})") if ends else None
    return lambda name: pattern is not None and pattern.fullmatch(name) is not None


class _Finder:
    """The matrices of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme, turned: Callable[[str], bool]) -> None:
        self.tensors, self.where = checkpoint.tensors, checkpoint.directory
        self.scheme, self.turned = scheme, turned

    def found(self) -> Iterator[Coded]:
        """Each. Errors: `CheckpointError`."""
        every: Mapping[str, Mapping[str, Callable[[str, TensorInfo], Coded]]] = {
            "gptq": {".qweight": self._gptq},
            "awq": {".qweight": self._awq},
            "fp8": {".weight_scale_inv": self._bytes, ".weight_scale": self._bytes},
            "compressed-tensors": {".weight_packed": self._rows, ".weight_scale": self._bytes},
        }
        ends = every[self.scheme.method]
        for name, info in self.tensors.items():
            for end, make in ends.items():
                module = name.removesuffix(end)
                if name.endswith(end) and (end != ".weight_scale" or f"{module}.weight_packed" not in self.tensors):
                    made = make(module, info)
                    yield replace(made, stop=sum(piece.nbytes for piece in made.pieces))

    def _gptq(self, name: str, codes: TensorInfo) -> Coded:
        each, (words, n) = WORD // self.scheme.bits, self._packed(codes)
        k = words * each
        block = (1, self._group(k))
        groups = -(-k // block[1])
        scales = self._part(f"{name}.scales", FLOATS, (groups, n))
        zeros = self._part(f"{name}.qzeros", ("I32",), (groups, -(-n // each)))
        ordered = self.scheme.by_act or f"{name}.g_idx" in self.tensors
        order = self._part(f"{name}.g_idx", ("I32", "I64"), (k,)) if ordered else None
        told = f"GPTQ {self.scheme.bits}-bit, {_told(block, (n, k))}{', by activation' if self.scheme.by_act else ''}"
        info = self._coded(name, (n, k), told, (codes, scales), block)
        return replace(info, layout=_GPTQ[self.scheme.plus], zeros=zeros, order=order)

    def _awq(self, name: str, codes: TensorInfo) -> Coded:
        each, (a, b) = WORD // self.scheme.bits, self._packed(codes)
        n, k = (a, b * each) if self.scheme.by_input else (b * each, a)
        block = (1, self._group(k))
        groups = -(-k // block[1])
        of_scales, of_zeros = (groups, n), (groups, b)
        if self.scheme.by_input:  # the groups are filled up
            wide = max(-(-groups // each), *self._part(f"{name}.qzeros", ("I32",)).shape[1:], 0)
            of_scales, of_zeros = (n, wide * each), (n, wide)
        scales = self._part(f"{name}.scales", FLOATS, of_scales)
        zeros = self._part(f"{name}.qzeros", ("I32",), of_zeros)
        info = self._coded(name, (n, k), f"AWQ 4-bit, {_told(block, (n, k))}", (codes, scales), block)
        return replace(info, layout=_AWQ_BY_INPUT if self.scheme.by_input else _AWQ, zeros=zeros)

    def _rows(self, name: str, codes: TensorInfo) -> Coded:
        """compressed-tensors, several to a word. Errors: `CheckpointError` where config.json says floats."""
        if self.scheme.floats:
            msg = f"{codes.file}: tensor {codes.name} holds packed whole numbers; config.json ({KEY}) says floats"
            raise CheckpointError(msg)
        each, (n, words) = WORD // self.scheme.bits, self._packed(codes)
        scales, k = self._part(f"{name}.weight_scale", FLOATS), words * each
        block = self._block(scales, n, k)
        told = f"compressed-tensors int{self.scheme.bits}, {_told(block, (n, k))}"
        info = replace(self._coded(name, (n, k), told, (codes, scales), block), layout=_ROWS)
        info = replace(info, sizes=self._part(f"{name}.weight_shape", ("I64", "I32"), (2,)))
        if (zeros := f"{name}.weight_zero_point") in self.tensors or self.scheme.has_zeros:
            info = replace(info, zeros=self._part(zeros, ("I32",), (-(-n // each), info.n_groups)))
        return replace(info, order=self._order(name, k))

    def _bytes(self, name: str, scales: TensorInfo) -> Coded:
        """A byte each: whole numbers, or 8-bit floats."""
        floats = self.scheme.floats
        codes = self._part(f"{name}.weight", ("F8_E4M3" if floats else "I8",))
        (n, k), scales = _matrix(codes), self._part(scales.name, FLOATS)
        block = self._block(scales, n, k)
        before = "" if self.scheme.method == "fp8" else "compressed-tensors "
        told = f"{before}{'FP8' if floats else 'int8'}, {_told(block, (n, k))}"
        info = self._coded(name, (n, k), told, (codes, scales), block)
        if floats:
            return replace(info, layout=_FLOATS, dtype="BF16")
        if (zeros := f"{name}.weight_zero_point") in self.tensors or self.scheme.has_zeros:
            info = replace(info, zeros=self._part(zeros, ("I8",), tuple(scales.shape)))
        return replace(info, layout=_BYTES, bits=8, order=self._order(name, k))

    def _order(self, name: str, k: int) -> TensorInfo | None:
        """compressed-tensors' group of each input."""
        there = self.scheme.by_act or f"{name}.weight_g_idx" in self.tensors
        return self._part(f"{name}.weight_g_idx", ("I32", "I64"), (k,)) if there else None

    def _coded(
        self,
        name: str,
        matrix: tuple[int, int],
        told: str,
        parts: tuple[TensorInfo, TensorInfo],
        block: tuple[int, int],
    ) -> Coded:
        """F32, of these codes and scales; the rest is the kind's own."""
        codes, scales = parts
        name = f"{name}.weight"
        if codes.name != name and name in self.tensors:
            msg = f"{codes.file}: tensors {name} and {codes.name} are one matrix; expected one of them"
            raise CheckpointError(msg)
        turned = self.turned(name)
        shape = matrix[::-1] if turned else matrix
        own: dict[str, Any] = {"told": told, "layout": _BYTES, "bits": self.scheme.bits, "block": block}
        own["turned"] = turned
        return Coded(name, "F32", shape, 0, 0, codes.file, codes=codes, scales=scales, **own)

    def _part(self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None = None) -> TensorInfo:
        """A tensor that must be there, with one of these dtypes and this shape. Errors: `CheckpointError`."""
        info = self.tensors.get(name)
        if info is None:
            msg = f"{self.where}: tensor {name} is missing, and others of this matrix are there; {_AGAIN}"
            raise CheckpointError(msg)
        if info.dtype not in dtypes:
            msg = f"{info.file}: tensor {name} is {info.dtype}; expected {' or '.join(dtypes)}"
            raise CheckpointError(msg)
        if shape is not None and tuple(info.shape) != shape:
            msg = (
                f"{info.file}: tensor {name} has shape {list(info.shape)}; the matrix and config.json "
                f"({KEY}) make it {list(shape)}. The two do not belong together: {_AGAIN}"
            )
            raise CheckpointError(msg)
        return info

    def _packed(self, info: TensorInfo) -> tuple[int, int]:
        """Shape of a matrix of words."""
        return _matrix(self._part(info.name, ("I32",)))

    def _group(self, k: int) -> int:
        return min(self.scheme.group, k) if self.scheme.group > 0 else k

    def _block(self, scales: TensorInfo, n: int, k: int) -> tuple[int, int]:
        """Outputs and inputs that share one of these scales. Errors: `CheckpointError`."""
        shape, module = tuple(scales.shape), scales.name.rpartition(".")[0]
        if self.scheme.block is not None:
            a, b = self.scheme.block
            if shape == (-(-n // a), -(-k // b)):
                return a, b
            expected, where = f"each block of {list(self.scheme.block)}", ""
        else:
            said = self.scheme.sharing
            fits = [(one, block) for one in said if (block := one.block(shape, (n, k))) is not None]
            if len({block for _, block in fits}) > 1:
                fits = _targeted(fits, module)
            if len({block for _, block in fits}) == 1:
                return fits[0][1]
            if fits:
                self._refuse_ambiguous(scales, [one for one, _ in fits])
            expected = " or ".join(dict.fromkeys(one.told for one in said))
            where = ", ".join(one.where for one in said if one.where)
        has = {(n,): ", a scale for each output", (n, 1): ", a scale for each output"}
        found = ", one scale in all" if math.prod(shape) == 1 else has.get(shape, "")
        msg = (
            f"{scales.file}: tensor {scales.name} has shape {list(shape)}{found}; expected a scale for {expected} of "
            f"[{n}, {k}] ({f'{where} of ' if where else ''}{KEY} in config.json). The two do not belong together: "
            f"{_AGAIN}"
        )
        raise CheckpointError(msg)

    def _refuse_ambiguous(self, scales: TensorInfo, fits: Sequence[Sharing]) -> NoReturn:
        """CheckpointError: config.json says two sizes of groups that this could have."""
        every = " and ".join(f"{one.where} ({one.told})" for one in fits)
        msg = (
            f"{scales.file}: tensor {scales.name} has shape {list(scales.shape)}, which fits {every} of {KEY} in "
            "config.json, and their targets do not say which it is. Name this module in the targets of one of them"
        )
        raise CheckpointError(msg)


def _targeted(fits: list[tuple[Sharing, tuple[int, int]]], module: str) -> list[tuple[Sharing, tuple[int, int]]]:
    """Those whose targets name the module most closely; all where that is not known."""
    ranks = [one.rank(module) for one, _ in fits]
    known = [rank for rank in ranks if rank]
    if None in ranks or not known:
        return fits
    return [fit for fit, rank in zip(fits, ranks, strict=True) if rank == max(known)]


def _matrix(info: TensorInfo) -> tuple[int, int]:
    """The shape of a tensor that must be a matrix with something in it."""
    if len(info.shape) != 2 or not all(info.shape):  # noqa: PLR2004 - a matrix
        msg = f"{info.file}: tensor {info.name} has shape {list(info.shape)}; expected a matrix"
        raise CheckpointError(msg)
    return info.shape[0], info.shape[1]


def _told(block: tuple[int, int], matrix: tuple[int, int]) -> str:
    """What shares a scale."""
    if block == matrix:
        return "one scale"
    if block[0] > 1:
        return f"blocks of {block[0]} x {block[1]}"
    return "a scale for each output" if block[1] == matrix[1] else f"groups of {block[1]}"
