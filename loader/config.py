"""`config.json` -> a frozen `Config`, every default resolved as transformers resolves it.

Two stages: the family's tables check the file's keys one by one (`families`), then its short function says what they
mean. A key that could change the result and that we do not know is refused by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .families import FAMILIES, KINDS, OTHERS, Family, Resolved, as_classifier, resolve_with, taken_out
from .families.decoding import with_generation
from .families.values import checked, token_ids
from .files import quote
from .prune import layer_sizes
from .sizes import d_head, dense_width, largest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..runtime.spec import Config

__all__ = [
    "QUANT_FORMAT",
    "QUANT_METHOD",
    "of_text",
    "parse_config",
    "resolve_config",
    "resolve_outside",
    "with_token_ids",
]

#: What `miaotui quantize` writes into config.json: quantization_config.quant_method and .format.
QUANT_METHOD, QUANT_FORMAT = "miaotui", 1

#: Keys of a model that sees or hears.
SENSES = ("vision_config", "audio_config")
#: Elements of one matrix, and of a model: far above any that fits in memory, far below 64-bit overflow.
MAX_MATRIX, MAX_MODEL = 2**40, 2**46


def parse_config(raw: object, where: str, generation: object = None) -> Config:
    """Resolve the parsed `config.json` at `where`; `generation` is the parsed `generation_config.json`, if any."""
    return with_token_ids(resolve_config(raw, where).config, where, generation)


def with_token_ids(config: Config, where: str, generation: object = None) -> Config:
    """The config with the token ids of the parsed `generation_config.json`, if any, next to the file `where`.

    Its `bos_token_id` and `eos_token_id` win over the config's. Ids outside the vocabulary are dropped: they can
    neither be fed nor come out. Raises `ConfigError`.
    """
    ids = {"bos_token_id": config.bos_ids, "eos_token_id": config.eos_ids}
    if generation is not None:
        if not isinstance(generation, dict):
            msg = f"generation_config.json next to {where} holds {quote(generation)}; expected an object"
            raise ConfigError(msg)
        place = f"generation_config.json next to {where}"
        ids |= {
            name: checked(name, generation[name], token_ids, place) for name in ids if generation.get(name) is not None
        }
    bos, eos = (tuple(dict.fromkeys(i for i in some if 0 <= i < config.n_vocab)) for some in ids.values())
    if config.decoding is not None:
        config = replace(config, decoding=with_generation(config.decoding, config.n_vocab, where, generation))
    return replace(config, bos_ids=bos, eos_ids=eos)


def resolve_config(raw: object, where: str) -> Resolved:
    """Resolve the file's own keys: the `Config`, and which optional weights it asks for. Raises `ConfigError`."""
    keys, family = _family(raw, where)
    resolved = _outside(keys, family, where)
    _check_sizes(resolved.config, where)  # before anything is made of them
    config = layer_sizes.with_layer_sizes(keys, resolved.config, family, where)
    if config is not resolved.config:
        resolved = replace(resolved, config=config)
        _check_sizes(resolved.config, where)
    return resolved


def resolve_outside(raw: object, where: str) -> Config:
    """As `resolve_config`, but what config.json says of single layers is left out: every layer is whole."""
    return _outside(*_family(raw, where), where).config


def _outside(raw: dict[str, Any], family: Family, where: str) -> Resolved:
    own = {key: value for key, value in raw.items() if key not in layer_sizes.KEYS}
    return as_classifier(resolve_with(family, own, where), own, where)


def _family(raw: object, where: str) -> tuple[dict[str, Any], Family]:
    """The file's keys without our own, and the family that they are of."""
    if not isinstance(raw, dict):
        msg = f"{where} holds {quote(raw)}; expected an object"
        raise ConfigError(msg)
    raw = _without_our_own(of_text(raw, where), where)
    kind = raw.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ConfigError(_unknown(raw, where))
    return raw, family


def of_text(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """config.json of the one model that is read, where the checkpoint holds others too. Errors: `ConfigError`."""
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind in FAMILIES:
        return raw
    family = next((f for f in FAMILIES.values() if f.around is not None and f.around.name == kind), None)
    return raw if family is None or family.around is None else taken_out(raw, family.around, family.name, where)


def _unknown(raw: Mapping[str, Any], where: str) -> str:
    """What to say of a model of no family that we know."""
    kind = raw.get("model_type")
    names = {of: [*known, *_around(known)] for of, known in KINDS.items()}
    reads = "; ".join(f"{name}: {', '.join(sorted(of))}" for name, of in names.items())
    if not isinstance(kind, str):
        what = f"model_type is {quote(kind)}" if "model_type" in raw else "model_type is missing"
        return f"{where}: {what}; expected the name of a family that miaotui reads: {reads}"
    if kind in OTHERS:
        return f"{where}: model_type is {quote(kind)}, {OTHERS[kind]}. It reads {reads}"
    plain = kind.lower().replace("-", "_")
    spelled = next((name for of in names.values() for name in of if name.replace("-", "_") == plain), None)
    maybe = "" if spelled is None else f" (did you mean {spelled}?)"
    also = next((f", with {key}: a model of more than text" for key in SENSES if isinstance(raw.get(key), dict)), "")
    return (
        f"{where}: model_type is {quote(kind)}{maybe}{also}, a family that miaotui does not read. It reads {reads}. "
        'To add a family, see "Add a family" in CONTRIBUTING.md'
    )


def _around(names: Iterable[str]) -> list[str]:
    """Names of checkpoints of which one of these families is read."""
    return [f"{around.name} (its text)" for around in (FAMILIES[name].around for name in names) if around is not None]


def _without_our_own(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """Take away what `miaotui quantize` wrote; any other quantization_config is refused with the unknown keys."""
    ours = raw.get("quantization_config")
    if not isinstance(ours, dict) or ours.get("quant_method") != QUANT_METHOD:
        return raw
    if ours.get("format") != QUANT_FORMAT:
        msg = (
            f"{where}: quantization_config.format is {quote(ours.get('format'))}; this version reads {QUANT_FORMAT}. "
            "Quantise the original again, or update miaotui"
        )
        raise ConfigError(msg)
    return {key: value for key, value in raw.items() if key != "quantization_config"}


def _check_sizes(c: Config, where: str) -> None:
    """Refuse products that no machine holds before anything is allocated or multiplied in 64 bits."""
    most = largest(c)
    heads = most.n_heads * d_head(c)
    matrices: Mapping[str, int] = {
        "vocabulary x width": c.n_vocab * c.d_model,
        "heads x head width x width": heads * c.d_model,
        "feed-forward x width": max(most.d_ff, dense_width(c)) * c.d_model,
        "experts x feed-forward x width": most.n_experts * most.d_ff * c.d_model,
        "positions x width": 0 if c.positions is None else c.n_context * c.d_model,
    }
    for what, elements in matrices.items():
        if elements > MAX_MATRIX:
            msg = f"{where}: {what} makes {elements} elements; expected at most 2**40"
            raise ConfigError(msg)
    if c.seq2seq:
        _check_sizes(c.encoding, where)
    total = c.n_layers * sum(matrices.values())
    if total > MAX_MODEL:
        msg = f"{where}: {c.n_layers} layers of these sizes make about {total} elements; expected at most 2**46"
        raise ConfigError(msg)
