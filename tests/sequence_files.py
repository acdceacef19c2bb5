"""Files of saved texts whose checksum is right, and whose contents are not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from miaotui.runtime.engine.state import SequenceState
from safetensors import safe_open
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import miaotui

    #: Changes tensors and what the file says next to them.
    Change = Callable[[dict[str, Any], dict[str, Any]], None]

__all__ = ["signed", "to"]


def signed(model: miaotui.Model, path: Path, change: Change) -> None:
    """Write a file again, changed, with the checksum of what it holds then."""
    with safe_open(path, "numpy") as f:
        metadata = f.metadata()
    tensors, known = load_file(path), json.loads(metadata["state"])
    change(tensors, known)
    model._files.save(SequenceState(tensors.pop("ids").tolist(), cache=tensors, **known), path)


def to(name: str, value: object) -> Change:
    """Another value of one name, of those that the file says or of its tensors."""
    return lambda tensors, known: (known if name in known else tensors).__setitem__(name, value)
