"""A model that is in memory already: a config, and arrays by name, in the place of a directory's files.

Arrays are NumPy's, or of anything that lends its memory by DLPack (https://dmlc.github.io/dlpack/latest/): PyTorch,
JAX, TensorFlow. They are read where they lie, unless their layout or byte order is another than a file's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..dataclass import dataclass
from ..errors import CheckpointError, ConfigError, InputError, shown
from .checkpoint import ADAPTER, CONFIG, GENERATION, MAX_CONFIG, MEMORY, Checkpoint
from .dlpack import Lent, borrowed
from .files import quote, read_json_object
from .header import DTYPES, TensorInfo
from .paths import is_there

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Given", "given"]

#: NumPy's names of dtypes -> safetensors'; those that NumPy lacks are of the package ml_dtypes.
NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0", "complex64": "C64", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
#: dtypes that NumPy has no type for -> what holds their bits.
BITS = {"BF16": np.uint16, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F8_E8M0": np.uint8}


@dataclass(frozen=True)
class _Held:
    """safetensors' dtype, the numbers, and whether they are a copy."""

    dtype: str
    array: NDArray[Any]
    copied: bool


class Given(Checkpoint):
    """As a checkpoint's files, but held: nothing is mapped, nothing is fetched, nothing can be let go."""

    on_disk: ClassVar[bool] = False

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        generation: dict[str, Any] | None,
        arrays: Mapping[str, _Held],
    ) -> None:
        """`directory`: where its tokenizer is; `arrays`: by name."""
        super().__init__(directory, config, generation, {})
        at = 0
        for name, held in arrays.items():
            n = held.array.nbytes
            self.tensors[name] = TensorInfo(name, held.dtype, held.array.shape, at, at + n, MEMORY)
            at += n
        self.copied = sum(held.array.nbytes for held in arrays.values() if held.copied)
        self._arrays = {name: held.array for name, held in arrays.items()}
        self.file_bytes, self.fetched = at, True

    def expect(self, spans: Mapping[Path, Sequence[tuple[int, int]]]) -> None:
        """Of an adapter's files alone."""
        super().expect({file: wanted for file, wanted in spans.items() if file != MEMORY})

    def close(self) -> None:
        """Let go of the arrays, too."""
        super().close()
        self._arrays = {}

    def _view(self, tensor: TensorInfo) -> NDArray[np.generic]:
        if tensor.file != MEMORY:
            return super()._view(tensor)
        if self._closed:
            msg = f"{self.directory}: the model's arrays were let go; load it again"
            raise CheckpointError(msg)
        return self._arrays[tensor.name]

    def _release(self, tensor: TensorInfo, first: int, stop: int | None) -> None:
        if tensor.file != MEMORY:
            super()._release(tensor, first, stop)


def given(directory: Path | None, config: object, tensors: object) -> Given:
    """A checkpoint of what the caller of `load` has.

    `tensors`: arrays by name, or a module that has `state_dict`, and then perhaps a `config` of its own. `config`: a
    dict as config.json holds, or an object with `to_dict`; None: the module's, or that of `directory`, whose tokenizer
    is the model's in any case. Errors: `InputError` for what is none of these; `ConfigError`.
    """
    tensors = getattr(tensors, "_orig_mod", tensors)  # what torch.compile wraps
    module = tensors if callable(getattr(tensors, "state_dict", None)) else None
    named = tensors if module is None else _called("tensors", module, "state_dict")
    if not isinstance(named, Mapping):
        msg = f"tensors={shown(tensors)}: expected a dict of arrays by name, or a module with state_dict()"
        raise InputError(msg)
    said = getattr(module, "config", None) if config is None else config
    if said is None and directory is None:
        msg = "tensors: without a config they are no model; add config=..., or the directory that has its config.json"
        raise InputError(msg)
    if said is not None:
        known = _as_dict("config", said)
    else:
        assert directory is not None  # noqa: S101 - refused above
        known = read_json_object(directory / CONFIG, MAX_CONFIG, ConfigError)
    if module is not None and (own := _architecture(module, known)):
        known |= {"architectures": [own]}
    return Given(directory or MEMORY, known, _generation(directory, module), _arrays(named))


def _architecture(module: object, known: dict[str, Any]) -> str:
    """The class of transformers that a module is of: its config may be another's. Of other modules what is said."""
    theirs = [c.__name__ for c in type(module).__mro__ if c.__module__.startswith("transformers.models.")]
    return theirs[0] if theirs else "" if known.get("architectures") else type(module).__name__


def _generation(directory: Path | None, module: object) -> dict[str, Any] | None:
    """The parameters of answers: the module's, or else the directory's."""
    if (own := getattr(module, "generation_config", None)) is not None:
        return _as_dict("generation_config", own)
    if directory is not None and is_there(directory / GENERATION):
        return read_json_object(directory / GENERATION, MAX_CONFIG, ConfigError)
    return None


def _as_dict(name: str, value: object) -> dict[str, Any]:
    """What JSON would hold of it; a torch dtype, say, is its name there."""
    for method in ("to_dict", "dict"):
        if not isinstance(value, Mapping) and callable(getattr(value, method, None)):
            value = _called(name, value, method)
    if not isinstance(value, Mapping):
        msg = f"{name}={shown(value)}: expected a dict as {CONFIG} holds, or an object with to_dict()"
        raise InputError(msg)
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(value), default=_plain))
    except Exception as e:  # what str() of a value raises, too
        msg = f"{name}: is not what JSON can hold ({e}); expected a dict as {CONFIG} holds"
        raise InputError(msg) from e
    return plain


def _called(name: str, value: object, method: str) -> Any:  # noqa: ANN401 - whatever it returns
    """Errors: `InputError` where another's method fails."""
    if isinstance(value, type):
        msg = f"{name}={shown(value)}: is a class; expected one of its objects"
        raise InputError(msg)
    try:
        return getattr(value, method)()
    except Exception as e:
        msg = f"{name}: {method}() of {type(value).__name__} failed: {type(e).__name__}: {e}"
        raise InputError(msg) from e


def _plain(value: object) -> object:
    """NumPy's numbers are numbers; of all else the words for it."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _arrays(named: Mapping[Any, Any]) -> dict[str, _Held]:
    if not named:
        msg = "tensors: there are none; expected a model's, by name"
        raise InputError(msg)
    arrays = {}
    for name, value in named.items():
        if not isinstance(name, str):
            msg = f"tensors: the name {shown(name)}: expected text"
            raise InputError(msg)
        arrays[name] = _array(name, value)
    if all(".lora_" in name for name in arrays):
        msg = f"tensors: {ADAPTER}"
        raise InputError(msg)
    return arrays


def _array(name: str, value: object) -> _Held:
    """A read-only view of it, or a copy where it does not lie as in a file."""
    if isinstance(value, np.ma.MaskedArray):
        msg = f"tensors: {quote(name)} is masked; expected every number, such as x.filled(0) makes"
        raise InputError(msg)
    if isinstance(value, np.ndarray | np.generic):
        array, dtype = np.asarray(value), np.asarray(value).dtype.name
    elif hasattr(value, "__dlpack__"):
        try:
            lent: Lent = borrowed(value)
        except Exception as e:  # whatever another library raises
            msg = (
                f"tensors: {quote(name)} ({type(value).__name__}) cannot be read where it is ({e}); expected an array "
            )
            msg += "in the memory of the CPU, such as x.detach().cpu() makes"
            raise InputError(msg) from e
        array, dtype = lent.array, lent.dtype
    else:
        msg = f"tensors: {quote(name)} is {shown(value)}: expected an array of NumPy's, or one that DLPack can read"
        raise InputError(msg)
    stored, theirs = NAMES.get(dtype), array
    if stored is None or DTYPES[stored] != array.itemsize:
        msg = f"tensors: {quote(name)} has dtype {dtype}; expected one of {', '.join(NAMES)}"
        raise InputError(msg)
    if stored in BITS:
        array = np.ascontiguousarray(array).view(BITS[stored]) if array.ndim else array.view(BITS[stored])
    else:
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    shape = array.shape
    view = np.ascontiguousarray(array).reshape(shape)[...]
    view.flags.writeable = False
    return _Held(stored, view, copied=view.size > 0 and not np.may_share_memory(view, theirs))
