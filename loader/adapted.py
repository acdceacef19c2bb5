"""A base model with an adapter: what `open_model` opens where it is given one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import CheckpointError, HubError, InputError
from .adapter import ADAPTER_WEIGHTS, read_adapter
from .adapter_config import ADAPTER_CONFIG
from .files import quote
from .hub import locate

if TYPE_CHECKING:
    from pathlib import Path

    from .header import TensorInfo
    from .open import Opened

__all__ = ["tied_names", "with_adapter"]

TIED = "tie_word_embeddings"


def with_adapter(opened: Opened, path: str | Path) -> Opened:
    """The model that an adapter makes of an opened base; closing it closes both.

    What the adapter has whole stands in the checkpoint's table in place of the base's, mapped from the adapter's file
    where that has the base's dtype; everything else is done while reading (`Source.changes`).
    Errors: `CheckpointError`, `ConfigError`, `HubError`; of a path or name, with the option before it.
    """
    try:
        directory = locate(path, files=f"{ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
    except (CheckpointError, HubError, InputError) as e:
        msg = f"adapter={quote(str(path), 300)}: {e}"
        raise type(e)(msg) from e
    adapter = read_adapter(directory, opened.model_tensors)
    checkpoint, config, raw = opened.checkpoint, opened.config, opened.raw
    adopted: dict[str, TensorInfo] = {}
    if adapter.unties:
        head, embed = tied_names(opened)
        adopted[head] = checkpoint.tensors[embed]
        config, raw = replace(config, tied=False), raw | {TIED: False}
    for name, info in adapter.whole.items():
        base = adopted.get(name) or checkpoint.tensors[name]
        if info.dtype == base.dtype:
            adopted[name] = info
    checkpoint.adopt(adopted, {info.file: adapter.files.file_bytes for info in adapter.whole.values()})
    return replace(opened, config=config, raw=raw, adapter=adapter)


def tied_names(opened: Opened) -> tuple[str, str]:
    """What a head of its own is called, and the embedding that it is in the base."""
    tensors = opened.model_tensors
    head, embed = tensors.parts["head"], tensors.parts["embed"]
    return head.tensor(tensors.prefix, 0, (), tied=False), tensors.name("embed", embed, 0)
