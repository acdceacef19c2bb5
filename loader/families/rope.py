"""Rotary position embedding as Hugging Face spells it -> `Rope`.

Two spellings: `rope_theta` next to `rope_scaling {type or rope_type, ...}` (to transformers 4), or everything in
`rope_parameters` (from 5). Where both are filled, `rope_scaling` wins, as there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Rope
from ..files import quote
from .values import MAX_SIZE, Key, Unfit, anything, checked, flag, number, optional, read, size

__all__ = ["PARTIAL", "ROPE_KEYS", "THETA", "layer_kinds", "read_rope", "read_ropes"]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Below 1 a frequency would be above one radian a position, and in the end infinite.
THETA = number(1, 1e15)
#: Far below any model's; what is much smaller makes frequencies infinite in float32.
FACTOR_LIMITS = number(0.01, 1e6)
FACTOR = Key(None, FACTOR_LIMITS)
#: Turns of a pair over the original context, which tell yarn's dimensions; 0 means the default, as in transformers.
TURNS = number(1e-6, 1e6)
ORIGINAL = Key(None, optional(size()))
#: More than any head has.
MAX_PAIRS = 2**15


def _turns(value: object) -> float:
    """Pass 0, or turns of which the logarithm is finite."""
    return 0.0 if type(value) in (int, float) and value == 0 else TURNS(value)


def _factors(value: object) -> tuple[float, ...]:
    """Pass a list of numbers, one for each pair."""
    if not isinstance(value, list) or len(value) > MAX_PAIRS:
        msg = "a list of numbers"
        raise Unfit(msg)
    return tuple(FACTOR_LIMITS(factor) for factor in value)


#: The keys of `config.json` that `read_rope` needs.
ROPE_KEYS = {
    "rope_theta": Key(10000.0, THETA),
    "rope_scaling": Key(None, anything),
    "rope_parameters": Key(None, anything),
    "original_max_position_embeddings": ORIGINAL,
    "partial_rotary_factor": Key(1.0, optional(number(1, 1))),
}

COMMON = {
    "rope_theta": Key(None, THETA),
    "rope_type": Key(None, anything),
    "type": Key(None, anything),
    "partial_rotary_factor": Key(1.0, optional(number(1, 1))),
}
#: Of a family that may rotate a part of each head: the part, where config.json says it.
PARTIAL = {"partial_rotary_factor": Key(None, optional(number(0, 1, above=True)))}

#: kind -> its own keys; any other key in the dict is refused by name.
KINDS: dict[str, dict[str, Key]] = {
    "default": {},
    "linear": {"factor": FACTOR},
    "dynamic": {"factor": Key(None, number(1, 1e6)), "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        "factor": FACTOR,
        "low_freq_factor": FACTOR,
        "high_freq_factor": FACTOR,
        "original_max_position_embeddings": ORIGINAL,
    },
    "longrope": {
        "short_factor": Key(None, _factors),
        "long_factor": Key(None, _factors),
        "factor": Key(None, optional(FACTOR_LIMITS)),
        "original_max_position_embeddings": ORIGINAL,
        "attention_factor": Key(None, optional(number(0, 1e6))),
    },
    "yarn": {
        "factor": Key(None, optional(FACTOR_LIMITS)),
        "original_max_position_embeddings": ORIGINAL,
        "attention_factor": Key(None, optional(number(0, 1e6))),
        "beta_fast": Key(None, optional(_turns)),
        "beta_slow": Key(None, optional(_turns)),
        "mscale": Key(None, optional(number(0, 1e6))),
        "mscale_all_dim": Key(None, optional(number(0, 1e6))),
        "truncate": Key(default=True, check=flag),
        # Told the authors' code how training began; in no formula of arXiv:2309.00071, and transformers ignores it.
        "finetuned": Key(None, optional(flag)),
    },
}
REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}


def read_rope(
    v: dict[str, Any], where: str, n_context: int, d_head: int, part: float | None = None
) -> tuple[Rope, int]:
    """Return the `Rope`, and the positions that it reaches: more than `n_context` for yarn and dynamic.

    `part`: of each head, where the file does not say it; None: of a family that rotates whole heads.
    """
    name = "rope_scaling" if v["rope_scaling"] else "rope_parameters"
    scaling = v[name] or {}
    if not isinstance(scaling, dict):
        msg = f"{where}: {name} is {quote(scaling)}; expected an object or null"
        raise ConfigError(msg)
    kind = _kind(scaling, f"{where}: {name}")
    table = {**COMMON, **KINDS[kind], **({} if part is None else PARTIAL)}
    unknown = [key for key in scaling if key not in table]
    if unknown:
        msg = f"{where}: {name} holds the key {quote(unknown[0])}, unknown for kind {kind!r}; it is refused"
        raise ConfigError(msg)
    missing = [key for key in REQUIRED.get(kind, ()) if key not in scaling]
    if missing:
        msg = f"{where}: {name} of kind {kind!r} has no {missing[0]!r}, which it needs"
        raise ConfigError(msg)
    r = read(scaling, table, f"{where}: {name}")
    theta = v["rope_theta"] if r["rope_theta"] is None else r["rope_theta"]
    if part is not None:
        d_head = _width_of(r["partial_rotary_factor"] or v["partial_rotary_factor"] or part, where, d_head)
    # The key outside wins over the one inside, as in transformers.
    original = v["original_max_position_embeddings"] or r.get("original_max_position_embeddings") or n_context
    where = f"{where}: {name}"
    if kind == "yarn":
        rope = _yarn(r, where, theta, (original, n_context), d_head)
        return rope, min(max(n_context, int(rope.factor * original)), MAX_SIZE)
    if kind == "dynamic":
        _check_dynamic(where, original, n_context, d_head)
        return Rope(theta, d_head, "dynamic", r["factor"], n_context), min(int(r["factor"] * n_context), MAX_SIZE)
    if kind == "longrope":
        return _longrope(r, where, theta, (original, n_context), d_head), n_context
    if kind == "llama3":
        return _llama3(r, where, theta, original, d_head), n_context
    return Rope(theta, d_head, "linear", r["factor"]) if kind == "linear" else Rope(theta, d_head), n_context


def read_ropes(
    v: dict[str, Any], where: str, n_context: int, d_head: int, thetas: Mapping[str, float]
) -> tuple[tuple[Rope, ...], int]:
    """A rotary embedding for each kind of layer of `thetas`, which has its theta where nothing else says one.

    `rope_parameters` holds one object for each kind (transformers 5); before, all had those of `rope_scaling`.
    """
    given = v["rope_parameters"] or {}
    if not isinstance(given, dict) or any(kind not in thetas for kind in given):
        msg = f"{where}: rope_parameters is {quote(given)}; expected an object with {' and '.join(thetas)}"
        raise ConfigError(msg)
    read = [
        read_rope(v | {"rope_parameters": given.get(kind), "rope_theta": theta}, where, n_context, d_head)
        for kind, theta in thetas.items()
    ]
    return tuple(rope for rope, _ in read), max(n for _, n in read)


def layer_kinds(v: dict[str, Any], where: str, default: Sequence[str]) -> list[str]:
    """Each layer's kind, "full_attention" or "sliding_attention", by `layer_types`."""
    kinds = list(default) if v["layer_types"] is None else v["layer_types"]
    n, known = len(default), ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != n or any(kind not in known for kind in kinds):
        msg = f"{where}: layer_types is {quote(kinds)}; expected a list of {n} times {' or '.join(known)}"
        raise ConfigError(msg)
    return kinds


def _width_of(part: float, where: str, d_head: int) -> int:
    """The dimensions that are rotated. transformers cuts to whole ones too; an odd number of them makes no pairs."""
    width = int(part * d_head)
    if width % 2 or not width:
        msg = f"{where}: {part:g} of a head's {d_head} dimensions are {width} to rotate; expected pairs of them"
        raise ConfigError(msg)
    return width


def _kind(scaling: dict[str, Any], where: str) -> str:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(kind, str) or kind not in KINDS or scaling.get("type", kind) != kind:
        seen = {key: scaling[key] for key in ("rope_type", "type") if key in scaling}
        msg = f"{where}: the kind of scaling is {quote(seen)}; expected one of {', '.join(KINDS)}"
        raise ConfigError(msg)
    return kind


def _llama3(r: dict[str, Any], where: str, theta: float, original: int, d_head: int) -> Rope:
    low, high = r["low_freq_factor"], r["high_freq_factor"]
    if high <= low:
        msg = f"{where}: high_freq_factor is {high:g}; expected more than low_freq_factor, {low:g}"
        raise ConfigError(msg)
    return Rope(theta, d_head, "llama3", r["factor"], original, low_freq_factor=low, high_freq_factor=high)


def _check_dynamic(where: str, original: int, n_context: int, d_head: int) -> None:
    if original != n_context:
        msg = (
            f"{where}: original_max_position_embeddings is {original} and max_position_embeddings {n_context}; dynamic "
            "scaling starts from the latter, and releases of transformers differ on the former: make them equal"
        )
        raise ConfigError(msg)
    if d_head == 2:  # noqa: PLR2004 - the formula's own number
        msg = f"{where}: dynamic scaling needs heads wider than 2, for its exponent is d_head / (d_head - 2)"
        raise ConfigError(msg)


def _yarn(r: dict[str, Any], where: str, theta: float, contexts: tuple[int, int], d_head: int) -> Rope:
    original, n_context = contexts
    checked("rope_theta", theta, number(1, 1e15, above=True), where)  # its logarithm divides
    factor = n_context / original if r["factor"] is None else r["factor"]
    attention = r["attention_factor"]
    if attention is None:
        both = r["mscale"] and r["mscale_all_dim"]
        attention = _mscale(factor, r["mscale"]) / _mscale(factor, r["mscale_all_dim"]) if both else _mscale(factor, 1)
    return Rope(
        theta,
        d_head,
        "yarn",
        factor,
        original,
        beta_fast=r["beta_fast"] or 32.0,
        beta_slow=r["beta_slow"] or 1.0,
        truncate=r["truncate"],
        attention_factor=attention,
    )


def _longrope(r: dict[str, Any], where: str, theta: float, contexts: tuple[int, int], d_head: int) -> Rope:
    original, n_context = contexts
    short, long = r["short_factor"], r["long_factor"]
    for name, factors in (("short_factor", short), ("long_factor", long)):
        if len(factors) != d_head // 2:
            msg = f"{where}: {name} has {len(factors)} numbers; expected {d_head // 2}, one for each pair"
            raise ConfigError(msg)
    factor, attention = r["factor"] or n_context / original, r["attention_factor"]
    if attention is None:
        checked("original_max_position_embeddings", original, size(low=2), where)  # its logarithm divides
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return Rope(theta, d_head, "longrope", original_context=original, attention_factor=attention, short_factors=short,
                long_factors=long)  # fmt: skip


def _mscale(factor: float, mscale: float) -> float:
    """0.1 mscale ln(factor) + 1 (YaRN, arXiv:2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
