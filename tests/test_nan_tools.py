"""A damaged number is told, never ranked, measured or cut away in silence: tools and shares on a NaN in one matrix."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
from miaotui.errors import CheckpointError, InputError
from miaotui.tools import demo, perplexity
from miaotui.tools.importance.masks import parse_sparsity
from miaotui.tools.importance.methods import Text, Wish, find

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "Once upon a time, there lived a young fox named Lucy. One day, her mother gave her a bowl of cherries."
DOWN = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a NaN at [0, 7] of one `down`."""
    made = tmp_path_factory.mktemp("nan") / "demo"
    shutil.copytree(demo.path(), made)
    file = made / "model.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])[DOWN]
    assert header["dtype"] == "BF16"
    at = start + header["data_offsets"][0] + 2 * 7
    data[at : at + 2] = (0x7FC0).to_bytes(2, "little")
    file.write_bytes(data)
    return made


@pytest.mark.parametrize("prune", ["ffn=0.75", "width=0.75"])
def test_a_share_names_the_tensor(damaged: Path, prune: str) -> None:
    with pytest.raises(CheckpointError, match=f"tensor {DOWN} holds NaN or infinity"):
        miaotui.load(damaged, prune=prune, max_context=64, threads=1)


def test_perplexity_is_no_number(damaged: Path) -> None:
    with (
        miaotui.load(damaged, max_context=64, threads=1) as model,
        pytest.raises(InputError, match=r"after position 0 are not numbers .* nothing can be measured"),
    ):
        perplexity.measure(model, TEXT, window=32)


WISHES = {
    "greedy": Wish("greedy", keep=4),
    "block-influence": Wish("block-influence", keep=4),
    "activation": Wish("activation", ffn=0.5),
    "wanda-sp": Wish("wanda-sp", ffn=0.5),
    "flap": Wish("flap", ffn=0.5),
    "slicegpt": Wish("slicegpt", width=0.75),
}


@pytest.mark.parametrize("name", WISHES)
def test_a_method_refuses(damaged: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"what enters layer 3: found NaN|are not numbers"):
        find(damaged, WISHES[name], Text(TEXT, window=32))


def test_zeros_never_replace_it(damaged: Path) -> None:
    w = np.ones((4, 8))
    w[1, 2] = np.nan
    matrix = find(damaged, Wish("magnitude", sparsity=parse_sparsity("2:4")), None).rewrite.matrix
    assert matrix is not None
    with pytest.raises(InputError, match="down of layer 2: found NaN or infinity"):
        matrix("layers.2.down", w)
