"""Tiny random checkpoints of every family, as Hugging Face directories: names and shapes are those of the loader.

`families()` names them by `model_type`. A checkpoint has a config, and numbers that a seed makes: `tensors()` gives
them as arrays, `write(directory)` as files with a tokenizer. Nothing of it was trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError
from ..loader.config import resolve_config
from ..loader.expected import expected_tensors
from ..loader.families import KINDS
from ..loader.families.tiny import tiny_config
from . import reference
from .checked import one_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["DTYPES", "TinyCheckpoint", "families", "tiny"]

DTYPES = ("F32", "BF16", "F16")
#: What a tiny model's sizes are where no other is drawn.
SIZES = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_head": 8, "d_ff": 24, "n_vocab": 64}


def families(kind: str | None = None) -> tuple[str, ...]:
    """Every `model_type` that is read; `kind`: "decoders", "encoders" or "encoder-decoders" alone."""
    if kind is None:
        return tuple(name for names in KINDS.values() for name in names)
    one_of("kind", kind, tuple(KINDS))
    return KINDS[kind]


@dataclass(frozen=True)
class TinyCheckpoint:
    """A model's config.json, the dtype of its file, and the seed of its numbers."""

    config: dict[str, Any]
    dtype: Literal["F32", "BF16", "F16"] = "F32"
    seed: int = 0

    @property
    def family(self) -> str:
        """Its `model_type`."""
        return str(self.config["model_type"])

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Name -> numbers that the dtype holds exactly, float32: matrices keep lengths, vectors are near one.

        Errors: `ConfigError` for a config that is none.
        """
        random = np.random.default_rng(self.seed)
        made = {}
        for name, shape in expected_tensors(self.config).items():
            x = random.standard_normal(shape)
            x = x / np.sqrt(shape[-1]) if len(shape) > 1 else 1 + x / 8
            made[name] = self._rounded(x.astype(np.float32))
        return made

    def _rounded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.dtype == "BF16":
            return reference.round_bf16(x.reshape(-1)).astype(np.float32).reshape(x.shape)
        return x.astype(np.float16).astype(np.float32) if self.dtype == "F16" else x

    def write(self, directory: str | os.PathLike[str]) -> Path:
        """config.json, model.safetensors and tokenizer.json in a directory, which is made: that directory.

        The tokenizer has a word for each id, "w0", "w1", ... Errors: `InputError` where the system refuses.
        """
        place = Path(directory)
        config = self.config | {"dtype": {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[self.dtype]}
        try:
            place.mkdir(parents=True, exist_ok=True)
            (place / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
            (place / "tokenizer.json").write_text(json.dumps(self._tokenizer()), encoding="utf-8")
            (place / "model.safetensors").write_bytes(self._file())
        except OSError as e:
            msg = f"{place}: {e.strerror or e}; expected a directory that can be written to"
            raise InputError(msg) from e
        return place

    def _file(self) -> bytes:
        """safetensors: a length, a header, the numbers."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        parts, at = [], 0
        for name, x in self.tensors().items():
            stored = {
                "F32": lambda x=x: x,
                "F16": lambda x=x: x.astype(np.float16),
                "BF16": lambda x=x: (x.view(np.uint32) >> 16).astype(np.uint16),
            }[self.dtype]()
            parts.append(stored.astype(stored.dtype.newbyteorder("<")).tobytes())
            header[name] = {"dtype": self.dtype, "shape": list(x.shape), "data_offsets": [at, at + len(parts[-1])]}
            at += len(parts[-1])
        words = json.dumps(header).encode()
        words += b" " * (-len(words) % 8)
        return b"".join([len(words).to_bytes(8, "little"), words, *parts])

    def _tokenizer(self) -> dict[str, Any]:
        n = resolve_config(self.config, "config").config.n_vocab
        return {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(n)}, "unk_token": "w0"},
        }


def tiny(family: str, *, dtype: str = "F32", seed: int = 0, **sizes: int) -> TinyCheckpoint:
    """One small model of a family, of two layers of four heads.

    `sizes`: `n_layers`, `n_heads`, `n_kv_heads`, `d_head`, `d_ff`, `n_vocab` or `n_positions`. Errors: `InputError`.
    """
    one_of("family", family, families())
    one_of("dtype", dtype, DTYPES)
    known: Mapping[str, int] = SIZES | {"n_positions": 64}
    for name in sizes:
        one_of("size", name, tuple(known))
    own = {**known, **sizes}
    n_positions = own.pop("n_positions")
    config = tiny_config(family, own | {"d_model": own["n_heads"] * own["d_head"]}, n_positions)
    return TinyCheckpoint(config, dtype, seed)  # type: ignore[arg-type]  # one of three, just looked up
