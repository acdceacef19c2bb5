"""What the layers of a pruned model are called in its config.json: read again, they are those layers."""

from __future__ import annotations

from typing import Any

import pytest
from miaotui.loader.config import parse_config
from miaotui.loader.families import FAMILIES
from miaotui.loader.sizes import every_size
from miaotui.runtime.spec import Attention, Config

#: What makes layers of a family differ.
DIFFERING: dict[str, dict[str, Any]] = {
    "smollm3": {"no_rope_layers": [1, 0, 1, 1, 0, 1], "layer_types": None},
    "gpt_neo": {"attention_types": [[["global", "local", "local"], 2]]},
    "gemma2": {"sliding_window": 5},
    "gemma3_text": {"sliding_window": 5, "sliding_window_pattern": 3},
    "cohere2": {"sliding_window": 5, "sliding_window_pattern": 3},
    "olmo3": {"sliding_window": 5},
    "exaone4": {"sliding_window": 5, "sliding_window_pattern": 3},
}
ORDERS = [slice(None), slice(None, None, -1), slice(1, None, 2), slice(0, 1)]


def attentions(config: Config) -> list[Attention]:
    return [s for layer in config.stack.layers for s in layer if isinstance(s, Attention)]


@pytest.mark.parametrize("family", sorted(name for name, of in FAMILIES.items() if of.spell_layers))
@pytest.mark.parametrize("order", range(len(ORDERS)))
def test_attention(family: str, order: int) -> None:
    count = FAMILIES[family].spelling["n_layers"]
    raw = {"model_type": family, count: 6, **DIFFERING[family]}
    every = attentions(parse_config(raw, "config.json"))
    assert len({(s.window, s.rope) for s in every}) > 1
    layers = every[ORDERS[order]]
    spell = FAMILIES[family].spell_layers
    assert spell is not None
    again = parse_config({**raw, count: len(layers), **spell(layers)}, "config.json")
    assert [(s.window, s.rope) for s in attentions(again)] == [(s.window, s.rope) for s in layers]


@pytest.mark.parametrize("family", sorted(name for name, of in FAMILIES.items() if of.spell_experts))
@pytest.mark.parametrize("dense", [[], [0], [1, 3], [0, 1, 2]])
def test_experts(family: str, dense: list[int]) -> None:
    spell = FAMILIES[family].spell_experts
    assert spell is not None
    has = [i not in dense for i in range(4)]
    raw = {"model_type": family, "num_hidden_layers": 4, "decoder_sparse_step": 3, **spell(has)}
    assert [bool(sizes.n_experts) for sizes in every_size(parse_config(raw, "config.json"))] == has
