"""What generation_config.json asks for: what answers follow, and, by name, what they do not.

Every processor of that file is applied where the caller says nothing else, and what it says of sampling where
`do_sample=True` asks for that; the rest is named, so that no answer differs from transformers' unsaid. Sources:
transformers 5, `GenerationConfig` (names, values that change nothing) and `GenerationMixin._get_logits_processor`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from .files import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["OF_DECODERS", "OF_SAMPLING", "generation_defaults", "not_applied", "renumbered"]

#: Keys that change which token comes, greedy answers too -> values that change nothing, besides null and empty ones.
CHANGES: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (1,), "encoder_repetition_penalty": (1,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "suppress_tokens": (), "begin_suppress_tokens": (), "bad_words_ids": (),
    "force_words_ids": (), "constraints": (), "sequence_bias": (), "forced_bos_token_id": (),
    "forced_eos_token_id": (), "forced_decoder_ids": (), "min_length": (0,), "min_new_tokens": (0,),
    "exponential_decay_length_penalty": (), "guidance_scale": (1,), "watermarking_config": (),
    "remove_invalid_values": (False,), "renormalize_logits": (False,), "token_healing": (False,), "stop_strings": (),
    "num_beams": (1,),
    "num_beam_groups": (1,), "diversity_penalty": (0,), "penalty_alpha": (0,), "dola_layers": (),
}  # fmt: skip
#: Keys that mean something next to these alone.
WITH_BEAMS: dict[str, tuple[object, ...]] = {"length_penalty": (1,), "early_stopping": (False,)}
WITH_SAMPLING: dict[str, tuple[object, ...]] = {
    "temperature": (1,), "top_k": (0,), "top_p": (1,), "min_p": (0,), "top_h": (), "typical_p": (1,),
    "epsilon_cutoff": (0,), "eta_cutoff": (0,),
}  # fmt: skip

#: Finite float64s are below it; JSON has larger whole numbers, and a NaN, which is on neither side.
_LARGEST = 2**1023


def _number(least: float, most: float = math.inf, *, least_too: bool = True) -> Callable[[object], bool]:
    def fits(value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or not -_LARGEST < value < _LARGEST:
            return False  # as NaN is
        return least < value <= most or (least_too and value == least)

    return fits


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _ids(value: object) -> bool:
    return all(_count(i) for i in (value if isinstance(value, list) else [value]))


def _run(value: object) -> bool:
    return isinstance(value, list) and bool(value) and _ids(value)


def _runs(value: object) -> bool:
    return isinstance(value, list) and all(_run(each) for each in value)


def _pairs(first: Callable[[object], bool], second: Callable[[object], bool]) -> Callable[[object], bool]:
    def fits(value: object) -> bool:
        return isinstance(value, list) and all(
            isinstance(pair, list) and len(pair) == 2 and first(pair[0]) and second(pair[1])  # noqa: PLR2004 - pairs
            for pair in value
        )

    return fits


def _decay(value: object) -> bool:
    return _pairs(_count, _number(0, 1e30, least_too=False))([value])


def _texts(value: object) -> bool:
    return all(isinstance(t, str) and t for t in (value if isinstance(value, list) else [value]))


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _beams(value: object) -> bool:
    return type(value) is int and 1 <= value <= MOST_BEAMS


def _early(value: object) -> bool:
    return isinstance(value, bool) or value == "never"


def _runs_with_numbers(value: object) -> bool:
    """The form of a list, or that of a dict as transformers writes its tuples: {"(5, 9)": -2.0}."""
    if isinstance(value, dict):
        return all(_RUN.fullmatch(key) for key in value) and _runs_with_numbers(_listed(value))
    return _pairs(_run, _number(-1e30, 1e30))(value)


def _listed(value: Any) -> Any:  # noqa: ANN401 - as it stands in a file
    if not isinstance(value, dict):
        return value
    return [[[int(i) for i in _ID.findall(key)], by] for key, by in value.items()]


def _watermark(value: object) -> bool:
    """As `watermark_from` takes it: green lists, or SynthID's."""
    if not isinstance(value, dict):
        return False
    synthid = "ngram_len" in value and "keys" in value
    fields = _OF_SYNTHID if synthid else _OF_WATERMARK
    return all(name in fields and fields[name](v) for name, v in value.items())


def _within(least: int, most: int) -> Callable[[object], bool]:
    return lambda v: type(v) is int and least <= v <= most


def _keys(value: object) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= MOST_KEYS and all(map(_within(-(2**63), 2**63 - 1), value))


_RUN = re.compile(r"\(?\s*\d{1,10}(\s*,\s*\d{1,10})*\s*,?\s*\)?")
_ID = re.compile(r"\d+")
#: Beams that a file may ask for: each is a text of its own.
MOST_BEAMS = 32
_OF_WATERMARK: dict[str, Callable[[object], bool]] = {
    "greenlist_ratio": lambda v: _number(0, 1, least_too=False)(v) and v != 1, "bias": _number(-1e30, 1e30),
    "hashing_key": lambda v: type(v) is int and 0 <= v < 2**63,
    "seeding_scheme": lambda v: v in ("lefthash", "selfhash"),
    "context_width": lambda v: type(v) is int and 1 <= v < 2**31,
}  # fmt: skip
#: Layers that a file may ask for.
MOST_KEYS = 256
_OF_SYNTHID: dict[str, Callable[[object], bool]] = {
    "ngram_len": _within(1, 1024), "keys": _keys, "context_history_size": _within(0, 2**63 - 1),
    "sampling_table_seed": _within(0, 2**63 - 1), "sampling_table_size": _within(1, 2**20),
    "skip_first_ngram_calls": _flag, "debug_mode": _flag,
}  # fmt: skip
_PENALTY = _number(1e-30, 1e30)
#: Keys that answers follow -> whether a value is one that can be.
APPLIED: dict[str, Callable[[object], bool]] = {
    "repetition_penalty": _PENALTY, "encoder_repetition_penalty": _PENALTY, "no_repeat_ngram_size": _count,
    "encoder_no_repeat_ngram_size": _count, "suppress_tokens": _ids, "begin_suppress_tokens": _ids,
    "bad_words_ids": _runs, "sequence_bias": _runs_with_numbers, "forced_bos_token_id": _count,
    "forced_eos_token_id": _ids,
    "forced_decoder_ids": _pairs(_count, _count), "min_length": _count, "min_new_tokens": _count,
    "exponential_decay_length_penalty": _decay, "stop_strings": _texts, "guidance_scale": _number(-1e30, 1e30),
    "watermarking_config": _watermark, "remove_invalid_values": _flag, "renormalize_logits": _flag,
    "num_beams": _beams, "length_penalty": _number(-1e30, 1e30), "early_stopping": _early,
}  # fmt: skip
#: The same, where the caller asks for sampling.
OF_SAMPLING: dict[str, Callable[[object], bool]] = {
    "temperature": _number(0, 1e30, least_too=False), "top_k": _count, "top_p": _number(0, 1, least_too=False),
    "min_p": _number(0, 1), "top_h": _number(0, 1, least_too=False), "typical_p": _number(0, 1, least_too=False),
    "epsilon_cutoff": _number(0, 0.999), "eta_cutoff": _number(0, 0.999),
}  # fmt: skip


#: What beams do not go with: where a file asks for both, one beam follows the rest.
NOT_WITH_BEAMS = ("stop_strings", "guidance_scale")
#: What an encoder-decoder does not follow.
OF_DECODERS = ("guidance_scale",)


def _said(generation: Mapping[str, Any] | None, config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Without a generation_config.json, config.json's keys count."""
    return ("config.json", config) if generation is None else ("generation_config.json", generation)


def generation_defaults(
    generation: Mapping[str, Any] | None, config: Mapping[str, Any], elsewhere: Collection[str] = ()
) -> dict[str, Any]:
    """Parameters of `generate` that the files say, and that change something; ids may be outside the vocabulary.

    `elsewhere`: keys that this model's answers follow in another way, or cannot.
    """
    _, said = _said(generation, config)
    neutral = CHANGES | WITH_SAMPLING | WITH_BEAMS
    made = {
        key: _listed(said[key]) if key == "sequence_bias" else said[key]
        for key, fits in (APPLIED | OF_SAMPLING).items()
        if key not in elsewhere and _changes(said.get(key), neutral[key]) and fits(said[key])
    }
    if not made.keys().isdisjoint(NOT_WITH_BEAMS):
        made.pop("num_beams", None)
    return made


def renumbered(defaults: Mapping[str, Any], n_vocab: int, vocab: Collection[int] | None) -> dict[str, Any]:
    """With the rows of ids; what speaks of ids that are not there is left out: they cannot come. `vocab`: of a cut."""
    left = dict(defaults)
    if not left:
        return left
    row = {old: new for new, old in enumerate(range(n_vocab) if vocab is None else vocab)}
    for key in ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id"):
        if key in left:
            ids = left[key] if isinstance(left[key], list) else [left[key]]
            left[key] = [row[i] for i in ids if i in row]
    if "bad_words_ids" in left:
        left["bad_words_ids"] = [[row[i] for i in run] for run in left["bad_words_ids"] if all(i in row for i in run)]
    if "forced_bos_token_id" in left and (first := row.get(left.pop("forced_bos_token_id"))) is not None:
        left["forced_bos_token_id"] = first
    if "sequence_bias" in left:
        left["sequence_bias"] = [
            ([row[i] for i in run], by) for run, by in left["sequence_bias"] if all(i in row for i in run)
        ]
    if "forced_decoder_ids" in left:
        left["forced_decoder_ids"] = [[at, row[i]] for at, i in left["forced_decoder_ids"] if i in row]
    return {key: value for key, value in left.items() if value != []}


def not_applied(
    generation: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    applied: Collection[str] = (),
    *,
    writes: bool = True,
    cannot: Collection[str] = (),
) -> tuple[str, ...]:
    """A line that names what is not applied, or none.

    `applied`: keys that this model's answers follow; `writes`: it has answers; `cannot`: keys that they do not
    follow.
    """
    where, said = _said(generation, config)
    table = CHANGES | (WITH_BEAMS if _changes(said.get("num_beams"), (1,)) else {})
    table |= {"do_sample": (False,), **WITH_SAMPLING} if said.get("do_sample") is True else {}
    followed = {*applied, *generation_defaults(generation, config, cannot)} if writes else set(applied)
    named = [
        f"{key} {quote(said[key], 60)}"
        for key, neutral in table.items()
        if key not in followed and _changes(said.get(key), neutral)
    ]
    if not named:
        return ()
    return (f"{where} asks for what is not applied: {', '.join(named)}; answers are greedy unless parameters say else",)


def _changes(value: object, neutral: tuple[object, ...]) -> bool:
    empty = value is None or (isinstance(value, list | str) and not value)  # {} is a watermark with its defaults
    return not empty and not any(type(value) in _alike(n) and value == n for n in neutral)


def _alike(neutral: object) -> tuple[type, ...]:
    """Types that may say it: 1.0 is 1, and false is not 0."""
    return (bool,) if isinstance(neutral, bool) else (int, float)
