"""A Dense module of sentence-transformers: config.json and model.safetensors in a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, ConfigError
from ..runtime.spec import Dense
from .files import quote, read_json_object
from .header import read_header
from .paths import is_there
from .underflow import widened

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ..runtime.spec import Act
    from .header import TensorInfo

__all__ = ["ACTS", "act_of", "read_dense"]

MAX_FILE = 1_000_000
#: Classes of torch -> what they compute.
ACTS: dict[str, Act] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
}
WEIGHTS, BIAS, MATRIX = "model.safetensors", "linear.bias", "linear.weight"
#: dtype of a file -> NumPy's, of its bits.
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def act_of(name: object, key: str, file: Path | str) -> Act:
    """What a class of torch computes. Errors: `ConfigError` for one that is none of `ACTS`; nothing is imported."""
    if not isinstance(name, str) or name not in ACTS:
        msg = f"{file}: {key} is {quote(name)}; expected one of {', '.join(ACTS)}"
        raise ConfigError(msg)
    return ACTS[name]


def read_dense(folder: Path, width: int) -> Dense:
    """Of vectors of this width. Errors: `ConfigError`, `CheckpointError` for files that contradict each other."""
    file = folder / "config.json"
    said = read_json_object(file, MAX_FILE, ConfigError)
    sizes = {key: said.get(key) for key in ("in_features", "out_features")}
    for key, value in sizes.items():
        if type(value) is not int or value < 1:
            msg = f"{file}: {key} is {quote(value)}; expected a whole number of at least 1"
            raise ConfigError(msg)
    if sizes["in_features"] != width:
        msg = f"{file}: in_features is {sizes['in_features']}, but the step before gives {width} numbers"
        raise ConfigError(msg)
    for key in ("module_input_name", "module_output_name"):
        if said.get(key) not in (None, "sentence_embedding"):
            msg = f"{file}: {key} is {quote(said[key])}; only sentence_embedding, a text's vector, is computed"
            raise ConfigError(msg)
    biased = said.get("bias", True)
    if not isinstance(biased, bool):
        msg = f"{file}: bias is {quote(biased)}; expected true or false"
        raise ConfigError(msg)
    act = act_of(said.get("activation_function", "torch.nn.modules.activation.Tanh"), "activation_function", file)
    n, k = (int(sizes[key] or 0) for key in ("out_features", "in_features"))
    shapes: dict[str, tuple[int, ...]] = {MATRIX: (n, k)} | ({BIAS: (n,)} if biased else {})
    tensors = _tensors(folder / WEIGHTS, shapes)
    return Dense(tensors[MATRIX], tensors.get(BIAS), act)


def _tensors(file: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Those of these names and shapes, which are all that the file may hold."""
    if not is_there(file, CheckpointError):
        msg = f"{file}: is not there; modules.json has a Dense step here. Weights in pytorch_model.bin are not read"
        raise CheckpointError(msg)
    there = read_header(file).tensors
    if {name: tuple(info.shape) for name, info in there.items()} != shapes or any(
        info.dtype not in STORED for info in there.values()
    ):
        kinds = ", ".join(f"{info.name} {info.dtype} {list(info.shape)}" for info in there.values())
        wanted = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        msg = f"{file}: holds {kinds or 'nothing'}; config.json next to it makes it {wanted}, in F32, F16, BF16 or F64"
        raise CheckpointError(msg)
    return {name: _numbers(file, info) for name, info in there.items()}


def _numbers(file: Path, info: TensorInfo) -> NDArray[np.float32]:
    """Mapped where they are float32, else widened or rounded to it."""
    dtype: Any = STORED[info.dtype]
    try:
        held = np.memmap(file, dtype, "r", info.start, tuple(info.shape))
    except OSError as e:
        msg = f"{file}: cannot be read ({e.strerror})"
        raise CheckpointError(msg) from e
    numbers: NDArray[np.float32] = held if info.dtype == "F32" else widened(np.array(held), info.dtype)
    return numbers.astype(np.float32, copy=False)
