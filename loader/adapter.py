"""A PEFT LoRA adapter: adapter_config.json and adapter_model.safetensors, by what each tensor is to the base model.

| key in the file, after base_model.model. | shape | it is |
|---|---|---|
| MODULE.lora_A.weight, MODULE.lora_B.weight | [r, in], [out, r] | of a matrix, whichever way its file has it |
| MODULE.lora_embedding_A, .lora_embedding_B | [r, rows], [width, r] | of an embedding: turned, B and A of its rows |
| MODULE.lora_magnitude_vector | [out] | of a DoRA adapter: the length of every output's row |
| MODULE.lora_B.bias | [out] | added to the matrix's bias, scaled as B A is |
| MODULE.weight, MODULE.bias | as the base's | in place of the base's (`modules_to_save`, `bias`, embeddings) |
| MODULE.base_layer.weight, .bias | as the base's | the same, of a module that has A and B too |
| MODULE.token_adapter.trainable_tokens_delta | [ids, width] | rows of an embedding (`trainable_token_indices`) |

MODULE is a path in transformers' class: a tensor's name without its ".weight", under any prefix that files of the
family have. A fused module is several roles; each has its own rows of B. Nothing but the header is read here; data are
mapped when they are used, and are checked for NaN then. Format: https://huggingface.co/docs/peft, version 0.21.2.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from ..dataclass import dataclass
from ..errors import CheckpointError
from .adapter_config import ADAPTER_CONFIG, read_adapter_config
from .adapter_keys import Keys
from .checkpoint import Checkpoint
from .files import quote
from .header import read_header
from .merge import Whole, cut_alike
from .paths import as_path, is_there, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from .adapter_config import AdapterConfig
    from .header import TensorInfo
    from .merge import BiasTerm, Change, LowRank, TokenRows
    from .model_tensors import ModelTensors
    from .places import Target
    from .prune.cut import Cut

__all__ = ["ADAPTER_WEIGHTS", "Adapter", "read_adapter"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An open adapter of one base model. `close` it, or use `with`.

    `low`: A and B by what they are to the model before any cut (`cut_alike`). `whole`: tensors in place of the base's,
    by the base's names. `bias_terms`: by the bias's place. `tokens`: by the embedding's tensor. `unties`: the head is
    the embedding in the base model, and is not with this adapter. `skipped`: keys for parts that are not computed.
    """

    config: AdapterConfig
    files: Checkpoint
    low: Mapping[Target, LowRank]
    whole: Mapping[str, TensorInfo] = field(default_factory=dict)
    bias_terms: Mapping[Target, BiasTerm] = field(default_factory=dict)
    tokens: Mapping[str, TokenRows] = field(default_factory=dict)
    unties: bool = False
    skipped: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self.files.directory

    def __str__(self) -> str:
        """What it is, in one line."""
        modules = len({low.module for low in self.low.values()})
        ranks = sorted({low.rank for low in self.low.values()})
        parts = [f"{'DoRA' if self.config.dora else 'LoRA'} of {_counted(modules, 'module')}, rank {_list(ranks)}"]
        parts += [f"{_counted(len(self.whole), 'tensor')} in place of the base model's"] if self.whole else []
        parts += [f"{sum(len(t.ids) for t in self.tokens.values())} tokens' rows"] if self.tokens else []
        parts += ["the head is no longer the embedding"] if self.unties else []
        parts += (
            [f"{_counted(len(self.skipped), 'tensor')} skipped, for parts that are not computed"]
            if self.skipped
            else []
        )
        return f"{self.directory.name}: {', '.join(parts)}, {self.files.file_bytes:,} bytes"

    def changes(self, target: Target, tensor: TensorInfo, of: ModelTensors, cut: Cut) -> tuple[Change, ...]:
        """What becomes of a weight that is made from `tensor`, in order: of the part that a cut keeps."""
        return tuple(self._changes(target, tensor, of, cut))

    def _changes(self, target: Target, tensor: TensorInfo, of: ModelTensors, cut: Cut) -> Iterator[Change]:
        whole = self.whole.get(tensor.name)
        if whole is not None and whole.dtype != tensor.dtype:  # else it stands in the checkpoint's table
            yield Whole(self.files, whole)
        if tensor.name in self.tokens:
            yield self.tokens[tensor.name]
        if target in self.low:
            yield cut_alike(self.low[target], of, cut, target)
        if target in self.bias_terms:
            yield cut_alike(self.bias_terms[target], of, cut, target)

    def close(self) -> None:
        """Release the file. Harmless when done twice."""
        self.files.close()

    def __enter__(self) -> Self:
        """`with read_adapter(...) as adapter:` closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def read_adapter(path: str | Path, base: ModelTensors) -> Adapter:
    """The adapter in a directory, compared with its base model: nothing is cut of that yet.

    Errors: `ConfigError` for what adapter_config.json asks for and is not computed, `CheckpointError` for a directory
    that holds no adapter, and for a tensor that is no part of the model, misses another, or has another shape.
    """
    directory = as_path(path, "adapter", CheckpointError)
    _check_directory(directory)
    config = read_adapter_config(directory / ADAPTER_CONFIG)
    files = Checkpoint(directory, {}, None, {ADAPTER_WEIGHTS: read_header(directory / ADAPTER_WEIGHTS)})
    try:
        keys = Keys(config, files, base)
    except BaseException:
        files.close()
        raise
    return Adapter(config, files, keys.low, keys.whole, keys.bias_terms, keys.tokens, keys.unties, tuple(keys.skipped))


def _check_directory(directory: Path) -> None:
    """It holds an adapter whose weights are safetensors: CheckpointError, with what to give instead."""
    if not (is_there(directory) and directory.is_dir()):
        wanted = f"give one with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}"
        msg = f"adapter={quote(str(directory), 300)}: no such directory; {wanted}"
        raise CheckpointError(msg)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if is_there(directory / name):
            continue
        why = f"expected a PEFT adapter, a directory with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}"
        if "adapter_model.bin" in listed(directory):
            why = (
                "adapter_model.bin is pickled, and pickled files are never opened, as that runs their code; save the "
                "adapter with PEFT's save_pretrained(directory, safe_serialization=True)"
            )
        msg = f"adapter={quote(str(directory), 300)}: no {name}; {why}"
        raise CheckpointError(msg)
