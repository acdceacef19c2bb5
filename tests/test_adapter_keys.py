"""Keys of adapter_config.json: both sides of every limit, and what a missing one means."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from miaotui.errors import ConfigError
from miaotui.loader.adapter_config import KEYS, read_adapter_config
from miaotui.loader.families.values import Unfit

if TYPE_CHECKING:
    from pathlib import Path

RANKS = ([1, 2**20], [0, -1, 2**20 + 1, 1.0, True, "8", None])
ALPHAS = ([0, 2.0**40], [-math.ulp(0.0), math.nextafter(2.0**40, math.inf), math.nan, True, "8", None])
FLAGS = ([True, False], [0, 1, "true", None])
#: Key -> values that fit, values that do not.
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "r": RANKS, "lora_alpha": ALPHAS,
    "rank_pattern": ([{"q_proj": n} for n in RANKS[0]] + [None, {}], [{"q_proj": n} for n in RANKS[1]] + [3, [3]]),
    "alpha_pattern": ([{"q_proj": n} for n in ALPHAS[0]] + [None, {}], [{"q_proj": n} for n in ALPHAS[1]] + [3, [3]]),
    "trainable_token_indices": ([None, [], [0], [5, 3], {"wte": [0]}], [[-1], [1.0], [True], [3, 3], {"wte": 3}, 3]),
    "bias": (["none", "all", "lora_only"], [None, True, "some"]),
    "init_lora_weights": ([True, False, "gaussian", None], []),
    **dict.fromkeys(
        ("use_rslora", "use_dora", "ensure_weight_tying", "fan_in_fan_out", "lora_bias"), FLAGS
    ),
}  # fmt: skip
#: LoraConfig's own: no token, layer, module or pattern besides, r and lora_alpha of 8.
DEFAULTS = {
    "r": 8, "lora_alpha": 8.0, "use_rslora": False, "use_dora": False, "rank_pattern": (), "alpha_pattern": (),
    "target_modules": None, "exclude_modules": frozenset(), "layers_to_transform": None, "layers_pattern": (),
    "modules_to_save": (), "trainable_token_indices": {}, "ensure_weight_tying": False, "fan_in_fan_out": False,
    "bias": "none", "lora_bias": False, "init_lora_weights": True,
}  # fmt: skip


def fits(key: str, value: object) -> bool:
    try:
        KEYS[key].check(value)
    except Unfit:
        return False
    return True


@pytest.mark.parametrize("key", sorted(VALUES))
def test_values(key: str) -> None:
    good, bad = VALUES[key]
    assert [x for x in good if not fits(key, x)] == []
    assert [x for x in bad if fits(key, x)] == []


def test_defaults(tmp_path: Path) -> None:
    assert {name: key.default for name, key in KEYS.items()} == DEFAULTS
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
    read = read_adapter_config(file)
    assert (read.r, read.alpha, read.rslora, read.dora, read.ties, read.base) == (8, 8.0, False, False, False, "")
    assert (read.ranks, read.alphas, read.layers, read.layer_patterns) == ((), (), None, ())
    assert (read.saved, read.tokens, read.excluded) == ((), {}, frozenset())


@pytest.mark.parametrize("value", [1, True, "x", [1], {"a": 1}, 0.5])
def test_an_unknown_key_may_only_ask_for_nothing(value: object, tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    for nothing in (None, False, [], {}):
        file.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"], "unheard": nothing}))
        read_adapter_config(file)
    file.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"], "unheard": value}))
    with pytest.raises(ConfigError, match="unheard"):
        read_adapter_config(file)
