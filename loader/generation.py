"""What generation_config.json asks for and nobody applies: named, so that no answer differs from transformers' unsaid.

Of that file only the token ids are used (`config.py`); parameters are the caller's. Sources: transformers 5,
`GenerationConfig` (names, values that change nothing) and `GenerationMixin._get_logits_processor` (what each does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .files import quote

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["not_applied"]

#: Keys that change which token comes, greedy answers too -> values that change nothing, besides null and empty ones.
CHANGES: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (1,), "encoder_repetition_penalty": (1,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "suppress_tokens": (), "begin_suppress_tokens": (), "bad_words_ids": (),
    "force_words_ids": (), "constraints": (), "sequence_bias": (), "forced_bos_token_id": (),
    "forced_eos_token_id": (), "forced_decoder_ids": (), "min_length": (0,), "min_new_tokens": (0,),
    "exponential_decay_length_penalty": (), "guidance_scale": (1,), "watermarking_config": (),
    "remove_invalid_values": (False,), "token_healing": (False,), "stop_strings": (), "num_beams": (1,),
    "num_beam_groups": (1,), "diversity_penalty": (0,), "penalty_alpha": (0,), "dola_layers": (),
}  # fmt: skip
#: Keys that mean something next to these alone.
WITH_BEAMS: dict[str, tuple[object, ...]] = {"length_penalty": (1,), "early_stopping": (False,)}
WITH_SAMPLING: dict[str, tuple[object, ...]] = {
    "temperature": (1,), "top_k": (0,), "top_p": (1,), "min_p": (0,), "top_h": (), "typical_p": (1,),
    "epsilon_cutoff": (0,), "eta_cutoff": (0,), "renormalize_logits": (False,),
}  # fmt: skip


def not_applied(
    generation: Mapping[str, Any] | None, config: Mapping[str, Any], applied: Collection[str] = ()
) -> tuple[str, ...]:
    """A line that names what is not applied, or none. Without a generation_config.json config.json's keys count.

    `applied`: keys that this model's answers follow.
    """
    where, said = ("config.json", config) if generation is None else ("generation_config.json", generation)
    table = CHANGES | (WITH_BEAMS if _changes(said.get("num_beams"), (1,)) else {})
    table |= {"do_sample": (False,), **WITH_SAMPLING} if said.get("do_sample") is True else {}
    named = [
        f"{key} {quote(said[key], 60)}"
        for key, neutral in table.items()
        if key not in applied and _changes(said.get(key), neutral)
    ]
    if not named:
        return ()
    return (f"{where} asks for what is not applied: {', '.join(named)}; answers are greedy unless parameters say else",)


def _changes(value: object, neutral: tuple[object, ...]) -> bool:
    empty = value is None or (isinstance(value, list | dict | str) and not value)
    return not empty and not any(type(value) in _alike(n) and value == n for n in neutral)


def _alike(neutral: object) -> tuple[type, ...]:
    """Types that may say it: 1.0 is 1, and false is not 0."""
    return (bool,) if isinstance(neutral, bool) else (int, float)
