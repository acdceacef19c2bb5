"""What a generation_config.json may say: both sides of every limit, and what may not be there at all."""

from __future__ import annotations

import math
from typing import Any

import pytest
from miaotui.loader.generation import APPLIED, MOST_BEAMS, MOST_KEYS, OF_SAMPLING, generation_defaults

LARGE = 1e30
NEXT = math.nextafter(LARGE, math.inf)
LEAST = math.ulp(0.0)
ONE = math.nextafter(1.0, 2.0)
#: Key -> values that are followed, values that are not.
NUMBERS: dict[str, tuple[list[Any], list[Any]]] = {
    "temperature": ([LEAST, LARGE], [0, -LEAST, NEXT]),
    "top_p": ([LEAST, 0.5], [0, -LEAST, ONE]),
    "min_p": ([LEAST, 1], [-LEAST, ONE]),
    "top_h": ([LEAST, 0.5, 1], [0, -LEAST, ONE]),
    "typical_p": ([LEAST, 0.5], [0, -LEAST, ONE]),
    "epsilon_cutoff": ([LEAST, 0.999], [-LEAST, math.nextafter(0.999, 1)]),
    "eta_cutoff": ([LEAST, 0.999], [-LEAST, math.nextafter(0.999, 1)]),
    **dict.fromkeys(
        ("repetition_penalty", "encoder_repetition_penalty"),
        ([1e-30, 0.5, LARGE], [0, -1, math.nextafter(1e-30, 0), NEXT]),
    ),
    **dict.fromkeys(("guidance_scale", "length_penalty"), ([-LARGE, 0.5, LARGE], [-NEXT, NEXT])),
    "num_beams": ([2, MOST_BEAMS], [0, -1, 33, 2.0]),
}
COUNTS = ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens", "top_k")
GREEN: dict[str, Any] = {"greenlist_ratio": 0.25, "bias": 2.0, "hashing_key": 3, "context_width": 1}
SYNTHID: dict[str, Any] = {
    "ngram_len": 5, "keys": [3, 4], "context_history_size": 9, "sampling_table_seed": 0, "sampling_table_size": 8,
}  # fmt: skip
IN_GREEN: dict[str, tuple[list[Any], list[Any]]] = {
    "greenlist_ratio": ([LEAST, math.nextafter(1.0, 0)], [0, 1, True]), "bias": ([-LARGE, 0, LARGE], [-NEXT, NEXT]),
    "hashing_key": ([0, 2**63 - 1], [-1, 2**63, 1.0, True]), "context_width": ([1, 2**31 - 1], [0, 2**31, 1.0]),
    "seeding_scheme": (["lefthash", "selfhash"], ["", None, "hash"]), "other": ([], [1]),
}  # fmt: skip
IN_SYNTHID: dict[str, tuple[list[Any], list[Any]]] = {
    "ngram_len": ([1, 1024], [0, 1025, 1.0, True]),
    "keys": ([[-(2**63)], [2**63 - 1], [0] * MOST_KEYS], [[], [0] * 257, [2**63], [-(2**63) - 1], [1.0], 3]),
    "context_history_size": ([0, 2**63 - 1], [-1, 2**63]), "sampling_table_seed": ([0, 2**63 - 1], [-1, 2**63]),
    "sampling_table_size": ([1, 2**20], [0, 2**20 + 1]),
    "skip_first_ngram_calls": ([True, False], [0, 1, None]), "debug_mode": ([True, False], [0, 1]), "bias": ([], [1.0]),
}  # fmt: skip


def followed(key: str, value: object) -> bool:
    return key in generation_defaults({key: value}, {})


@pytest.mark.parametrize("key", sorted(NUMBERS))
def test_numbers(key: str) -> None:
    good, bad = NUMBERS[key]
    assert [x for x in good if not followed(key, x)] == []
    assert [x for x in (*bad, math.nan, math.inf, -math.inf, True, "1", [1]) if followed(key, x)] == []


@pytest.mark.parametrize("key", COUNTS)
def test_counts(key: str) -> None:
    assert followed(key, 1)
    assert followed(key, 2**31 - 1)
    assert [x for x in (-1, 2**31, 1.0, True, "1", None, [1]) if followed(key, x)] == []


@pytest.mark.parametrize(
    ("whole", "name", "good", "bad"),
    [
        *[pytest.param(GREEN, name, *values, id=f"green-{name}") for name, values in IN_GREEN.items()],
        *[pytest.param(SYNTHID, name, *values, id=f"synthid-{name}") for name, values in IN_SYNTHID.items()],
    ],
)
def test_watermarks(whole: dict[str, Any], name: str, good: list[Any], bad: list[Any]) -> None:
    assert followed("watermarking_config", whole)
    assert [x for x in good if not followed("watermarking_config", whole | {name: x})] == []
    assert [x for x in bad if followed("watermarking_config", whole | {name: x})] == []


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("suppress_tokens", [[0], [5, 9]], [[-1], [1.0], [True], ["5"], {}]),
        ("bad_words_ids", [[[0]], [[5], [5, 9]]], [[5], [[]], [[-1]], [[5], []], [["5"]], {}]),
        ("forced_decoder_ids", [[[1, 0]], [[1, 5], [2, 6]]], [[[1]], [[1, 2, 3]], [[-1, 5]], [[1, -5]], [5], [(1, 5)]]),
        ("exponential_decay_length_penalty", [[0, LEAST], [9, LARGE]], [[0, 0], [-1, 1.5], [0, NEXT], [1], [1, 2, 3]]),
        ("stop_strings", ["a", ["a", "b"]], ["", [""], ["a", 3], 3]),
        (
            "sequence_bias",
            [[[[5], -LARGE]], [[[5, 9], LARGE]], {"(5,)": 2.0}, {"(5, 9)": -1.0}],
            [[[[5], NEXT]], [[[], 1.0]], [[[5]]], {"5 9": 1.0}, {"": 1.0}, {"(-5,)": 1.0}, {"(5,)": "1"}],
        ),
        ("remove_invalid_values", [True], [1, "true"]),
        ("renormalize_logits", [True], [1, "true"]),
        ("early_stopping", [True, "never"], [1, "always"]),
    ],
)
def test_lists_and_words(key: str, good: list[Any], bad: list[Any]) -> None:
    assert [x for x in good if not followed(key, x)] == []
    assert [x for x in bad if followed(key, x)] == []


def test_what_changes_nothing_is_not_followed() -> None:
    neutral = {
        **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "guidance_scale", "length_penalty"), 1),
        **dict.fromkeys(("temperature", "top_p", "typical_p", "num_beams"), 1), **dict.fromkeys(COUNTS, 0),
        **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff"), 0),
        **dict.fromkeys(("remove_invalid_values", "renormalize_logits", "early_stopping"), False),
    }  # fmt: skip
    assert generation_defaults(neutral, {}) == {}
    for empty in (None, [], ""):
        assert generation_defaults(dict.fromkeys((*APPLIED, *OF_SAMPLING), empty), {}) == {}


def test_every_key_is_looked_at() -> None:
    alike = {"begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "watermarking_config"}
    lists = {
        "suppress_tokens", "bad_words_ids", "forced_decoder_ids", "exponential_decay_length_penalty", "stop_strings",
        "sequence_bias", "remove_invalid_values", "renormalize_logits", "early_stopping",
    }  # fmt: skip
    assert {*APPLIED, *OF_SAMPLING} == {*NUMBERS, *COUNTS, *lists, *alike}
    assert (MOST_BEAMS, MOST_KEYS) == (32, 256)
