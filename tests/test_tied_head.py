"""A head that is stored next to a tied embedding: the same numbers in any dtype are one, as transformers ties them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
import torch
from checkpoints import small, write_checkpoint
from miaotui.errors import CheckpointError
from miaotui.loader.pack import _rounded
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def stored(directory: Path, embed: str, head: str, off: float = 0.0) -> Path:
    """A tied model with both tensors: numbers that every dtype holds alike, one of the head's off by a share."""
    write_checkpoint(directory, small("llama"))
    file = directory / "model.safetensors"
    tensors = load_file(file)
    numbers = tensors[EMBED].bfloat16().half().float()
    other = numbers.clone()
    other[3, 4] *= 1 + off
    save_file(tensors | {EMBED: numbers.to(DTYPES[embed]), HEAD: other.to(DTYPES[head]).clone()}, file)
    return directory


@pytest.mark.parametrize("head", DTYPES)
@pytest.mark.parametrize("embed", DTYPES)
def test_equal_numbers_are_tied_whatever_their_dtypes(tmp_path, embed, head):
    both = stored(tmp_path / "both", embed, head)
    alone = stored(tmp_path / "alone", embed, head)
    tensors = load_file(alone / "model.safetensors")
    del tensors[HEAD]
    save_file(tensors, alone / "model.safetensors")
    with miaotui.load(both) as a, miaotui.load(alone) as b:
        np.testing.assert_array_equal(a.logits([1, 2, 3]), b.logits([1, 2, 3]))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        miaotui.load(stored(tmp_path / "off", embed, head, off=0.1))


def test_what_was_rounded_when_it_was_saved_is_tied(tmp_path):
    directory = stored(tmp_path, "F32", "F32")
    tensors = load_file(directory / "model.safetensors")
    tensors[EMBED] = torch.randn(tensors[EMBED].shape, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16):
        save_file(tensors | {HEAD: tensors[EMBED].to(dtype)}, directory / "model.safetensors")
        miaotui.load(directory).close()


def test_rounding_is_that_of_the_dtype():
    x = (np.random.default_rng(0).standard_normal(5000) * 10.0 ** np.arange(-30, 20).repeat(100)).astype(np.float32)
    x[:3] = [0.0, -0.0, np.inf]
    for name in ("BF16", "F16", "F32"):
        right = torch.from_numpy(x).to(DTYPES[name]).float().numpy()
        np.testing.assert_array_equal(_rounded(x, name), right)
