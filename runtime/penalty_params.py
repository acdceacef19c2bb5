"""Parameters of `penalties.py` as callers and files give them, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, is_iterable, shown
from .penalties import Dry, Penalties
from .sampling_params import integer, real, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["DRY_BREAKERS", "PENALTIES", "penalties_from"]

#: Texts at which DRY's matches end, where a caller names none (p-e-w's).
DRY_BREAKERS = ("\n", ":", '"', "*")
_F32 = np.finfo(np.float32)
_FINITE = "a finite number"
#: Number -> (its field, may it be?, what is expected).
_NUMBERS: dict[str, tuple[str, Callable[[float], bool], str]] = {
    "frequency_penalty": ("frequency", lambda _: True, f"{_FINITE} (0 is off; above 0 against repetition)"),
    "presence_penalty": ("presence", lambda _: True, f"{_FINITE} (0 is off; above 0 against repetition)"),
    "encoder_repetition_penalty": (
        "source_penalty",
        lambda p: float(_F32.tiny) <= p <= 1 / float(_F32.tiny),
        "a number > 0 that float32 can hold, and its inverse (1 is off)",
    ),
    "dry_multiplier": ("multiplier", lambda m: m >= 0, f"{_FINITE} >= 0 (0 is off)"),
    "dry_base": ("base", lambda b: b >= 1, f"{_FINITE} >= 1"),
}
_WHOLE = {
    "dry_allowed_length": ("allowed", lambda n: n >= 1, "an integer >= 1"),
    "dry_penalty_last_n": ("last_n", lambda n: n >= -1, "an integer >= 0, or -1 (the whole text)"),
}
PENALTIES = (
    *_NUMBERS, *_WHOLE, "logit_bias", "sequence_bias", "exponential_decay_length_penalty", "dry_sequence_breakers",
)  # fmt: skip


def penalties_from(given: Mapping[str, Any], n_vocab: int | None = None) -> Penalties:
    """From the parameters `PENALTIES`. Errors: `InputError`."""
    fields: dict[str, Any] = {}
    for table, number in ((_NUMBERS, real), (_WHOLE, integer)):
        for name, (field, allowed, wanted) in table.items():
            if name in given:
                value = number(given[name])
                if value is None or not allowed(value):
                    raise refusal(name, given[name], wanted)
                fields[field] = value
    if "dry_sequence_breakers" in given:
        fields["breakers"] = _breakers(given["dry_sequence_breakers"])
    dry = Dry(**{name: fields.pop(name) for name in Dry.__dataclass_fields__ if name in fields})
    biases = (*_logit_bias(given.get("logit_bias"), n_vocab), *_sequence_bias(given.get("sequence_bias"), n_vocab))
    decay = _decay(given.get("exponential_decay_length_penalty"))
    return replace(Penalties(dry=dry, biases=biases, decay=decay), **fields)


def _logit_bias(value: object, n_vocab: int | None) -> Iterable[tuple[tuple[int, ...], float]]:
    name = "logit_bias"
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise refusal(name, value, "a dict from token ids to numbers, such as {17: -5.0}")
    for key, number in value.items():
        token = int(key) if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 20 else key  # noqa: PLR2004 - an int64's digits
        run, most = _whole_run((token,), n_vocab), None if n_vocab is None else n_vocab - 1
        if run is None:
            where = "a token id" if most is None else f"a token id from 0 to {most}"
            msg = f"{name}: {shown(key)} is no id of a token: expected {where}"
            raise InputError(msg)
        yield run, _amount(f"{name}[{shown(key)}]", number)


def _sequence_bias(value: object, n_vocab: int | None) -> Iterable[tuple[tuple[int, ...], float]]:
    """transformers' forms: {(5, 9): -2.0}, or [[[5, 9], -2.0]]."""
    if value is None:
        return
    pairs = list(value.items()) if isinstance(value, Mapping) else list(value) if is_iterable(value) else [value]
    for at, pair in enumerate(pairs):
        name = f"sequence_bias[{at}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not is_iterable(pair[0]) or isinstance(pair[0], str):  # noqa: PLR2004 - a pair
            raise refusal(name, pair, "a run of token ids and a number, such as [[5, 9], -2.0]")
        yield _run(name, tuple(pair[0]), n_vocab), _amount(name, pair[1])


def _whole_run(ids: tuple[object, ...], n_vocab: int | None) -> tuple[int, ...] | None:
    """Ids of the vocabulary, one at least; None: they are none."""
    run = tuple(-1 if (i := integer(each)) is None else i for each in ids)
    return None if not run or min(run) < 0 or (n_vocab is not None and max(run) >= n_vocab) else run


def _run(name: str, ids: tuple[object, ...], n_vocab: int | None) -> tuple[int, ...]:
    run = _whole_run(ids, n_vocab)
    if run is None:
        where = "token ids" if n_vocab is None else f"token ids from 0 to {n_vocab - 1}"
        raise refusal(name, ids[0] if len(ids) == 1 else list(ids), where)
    return run


def _amount(name: str, value: object) -> float:
    number = real(value)
    if number is None:
        raise refusal(name, value, f"{_FINITE}, which is added to the logit")
    return number


def _decay(value: object) -> tuple[int, float] | None:
    name = "exponential_decay_length_penalty"
    if value is None:
        return None
    pair = list(value) if is_iterable(value) and not isinstance(value, str | bytes | Mapping) else []
    start, factor = (integer(pair[0]), real(pair[1])) if len(pair) == 2 else (None, None)  # noqa: PLR2004 - a pair
    if start is None or factor is None or start < 0 or factor <= 0:
        raise refusal(name, value, "an id's number and a factor > 0, such as (50, 1.05)")
    return start, factor


def _breakers(value: object) -> tuple[int, ...]:
    name = "dry_sequence_breakers"
    ids = list(value) if is_iterable(value) and not isinstance(value, str | bytes) else [value]
    for i in ids:
        if isinstance(i, str):
            msg = (
                f"dry_sequence_breakers={shown(value)}: {shown(i)} is a text, and this model has no tokenizer; give ids"
            )
            raise InputError(msg)
    run = tuple(-1 if (i := integer(each)) is None else i for each in ids)
    if min(run, default=0) < 0:
        raise refusal(name, value, "texts, or token ids")
    return run
