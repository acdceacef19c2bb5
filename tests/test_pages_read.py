"""What a plan cuts away is not read from the disk: which of a file's pages are in memory after a cold load."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

import miaotui as mt
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint
from miaotui.loader.source import spans_by_file

PAGE = 4096
EVERY_SECOND = list(range(0, 128, 2))


def let_go(file):
    """No page of a file stays in the page cache; where the file system keeps some, the test is skipped."""
    with file.open("rb+") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if before := resident(file):
        pytest.skip(f"this file system keeps {len(before)} pages of a file that is let go of")


def resident(file):
    """Pages of a file that the kernel holds."""
    size = file.stat().st_size
    with file.open("rb") as f, mmap.mmap(f.fileno(), size, prot=mmap.PROT_READ) as mapped:
        held = (ctypes.c_ubyte * -(-size // PAGE))()
        view = np.frombuffer(mapped, np.uint8)
        address = ctypes.c_void_p(view.ctypes.data)
        assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(size), held) == 0
        del view
    return {page for page, is_held in enumerate(held) if is_held & 1}


@pytest.mark.skipif(sys.platform != "linux" or mmap.PAGESIZE != PAGE, reason="counts Linux's pages of 4096 bytes")
@pytest.mark.parametrize(
    "cut", [{}, {"ffn": {"0": EVERY_SECOND}}, {"heads": {"0": [0, 2]}}, {"vocab": EVERY_SECOND[:32]}]
)
def test_cut_columns_are_not_read_where_rows_are_scattered_too(tmp_path, cut):
    config = {"model_type": "llama", "vocab_size": 64, "hidden_size": 4096, "intermediate_size": 128,
              "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
              "max_position_embeddings": 32, "tie_word_embeddings": True, "eos_token_id": None}  # fmt: skip
    write_checkpoint(tmp_path, Drawn(config))
    file = tmp_path / "model.safetensors"
    let_go(file)
    plan = {"format": "miaotui-prune", "version": 1, "width": "0-511", **cut}
    with mt.load(tmp_path, prune=plan, threads=1) as model:
        spans = [span for some in spans_by_file(model._plan.touched).values() for span in some]
        held = resident(file)
    header = -(-(int.from_bytes(file.read_bytes()[:8], "little") + 8) // PAGE)
    told = {page for first, stop in spans for page in range(first // PAGE, -(-stop // PAGE))}
    assert held <= told | set(range(header))
    assert held
