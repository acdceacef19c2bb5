"""Parameters of a draw, checked: `SamplingParams`, and which stages (`stages.py`) they ask for in which order."""

from __future__ import annotations

import math
import os
from dataclasses import fields
from functools import cached_property
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError, is_iterable, shown

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ASK_TO_SAMPLE", "ORDER", "SAMPLING", "SamplingParams", "fresh_seed", "integer", "real", "refusal"]

_F32 = np.finfo(np.float32)
#: The stages, in the order that they have unless `sampler_order` says another: transformers' for those that it has.
ORDER = (
    "temperature", "top_n_sigma", "top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "xtc", "mirostat",
)  # fmt: skip
#: Stages that the short way through a draw has, in the order that it has them in.
_PLAIN = ("temperature", "top_k", "top_p", "min_p")
#: Any of them asks for sampling.
ASK_TO_SAMPLE = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma", "top_h",
    "mirostat", "dynatemp_range", "adaptive", "xtc_probability",
)  # fmt: skip
#: Parameter -> (an integer?, may it be?, what is expected).
_RANGES: dict[str, tuple[bool, Callable[[float], bool], str]] = {
    "temperature": (False, lambda t: t >= 0, "a finite number >= 0 (0 is greedy)"),
    "top_k": (True, lambda k: k >= 0, "an integer >= 0 (0 is off)"),
    "top_p": (False, lambda p: 0 < p <= 1, "a number in (0, 1] (1 is off)"),
    "min_p": (False, lambda p: 0 <= p <= 1, "a number in [0, 1] (0 is off)"),
    "repetition_penalty": (
        False,
        lambda p: float(_F32.tiny) <= p <= float(_F32.max),
        "a number > 0 that float32 can hold (1 is off)",
    ),
    "seed": (True, lambda _: True, "an integer, or None (drawn afresh)"),
    "typical_p": (False, lambda p: 0 < p <= 1, "a number in (0, 1] (1 is off)"),
    "epsilon_cutoff": (False, lambda p: 0 <= p < 1, "a number in [0, 1) (0 is off)"),
    "eta_cutoff": (False, lambda p: 0 <= p < 1, "a number in [0, 1) (0 is off)"),
    "top_n_sigma": (False, lambda n: n >= 0, "a finite number >= 0 (0 is off)"),
    "top_h": (False, lambda h: 0 <= h <= 1, "a number in [0, 1] (0 is off)"),
    "mirostat": (True, lambda n: n in {0, 2}, "0 (off) or 2, its second version"),
    "mirostat_tau": (False, lambda t: t > 0, "a finite number > 0: the surprise that is aimed at, in bits"),
    "mirostat_eta": (False, lambda e: e > 0, "a finite number > 0: how fast it is followed"),
    "dynatemp_range": (False, lambda r: r >= 0, "a finite number >= 0 (0 is off)"),
    "dynatemp_exponent": (False, lambda e: e > 0, "a finite number > 0"),
    "adaptive": (False, lambda h: h >= 0, "a finite number >= 0: an entropy, in nats (0 is off)"),
    "xtc_probability": (False, lambda p: 0 <= p <= 1, "a number in [0, 1] (0 is off)"),
    "xtc_threshold": (False, lambda p: 0 < p <= 1, "a number in (0, 1]; above 0.5 nothing is taken out"),
}


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen, with defaults that do nothing. docs/sampling.md says what each parameter means.

    Greedy (the first of the largest logits) unless `do_sample`; `temperature=0` is greedy too. `top_k=0` is off.
    `seed` is any integer, taken modulo 2**64. None draws one afresh where sampling needs one: it can be read back, and
    the same parameters with it give the same text. Errors: `InputError` names the parameter, the value and the range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    do_sample: bool = False
    seed: int | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    top_n_sigma: float = 0.0
    top_h: float = 0.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    adaptive: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    sampler_order: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check every value, and store plain Python numbers; draw the seed that is not given."""
        if not isinstance(self.do_sample, bool | np.bool_):
            what = "do_sample"
            raise refusal(what, self.do_sample, "True or False")
        object.__setattr__(self, "do_sample", bool(self.do_sample))
        for name, (integral, allowed, wanted) in _RANGES.items():
            value = getattr(self, name)
            if name == "seed" and value is None:
                continue
            number = integer(value) if integral else real(value)
            if number is None or not allowed(number):
                raise refusal(name, value, wanted)
            object.__setattr__(self, name, number)
        if self.sampler_order is not None:
            object.__setattr__(self, "sampler_order", _order(self.sampler_order))
        if self.adaptive and self.dynatemp_range:
            msg = f"adaptive={self.adaptive}: dynatemp_range sets the temperature by the entropy too; leave one out"
            raise InputError(msg)
        self._check_listed()
        if self.seed is None and not self.greedy:
            object.__setattr__(self, "seed", fresh_seed())

    def _check_listed(self) -> None:
        for name in self._asked:
            if self.sampler_order is not None and name not in self.sampler_order:
                given = next(field for field, stage in _GIVEN.items() if stage == name and self._differs(field))
                msg = f"sampler_order: lacks {name!r}, which {given}={getattr(self, given)} asks for; add it, or "
                msg += f"switch it off with {given}={_DEFAULTS[given]}"
                raise InputError(msg)

    def _differs(self, name: str) -> bool:
        return bool(getattr(self, name) != _DEFAULTS[name])

    @cached_property
    def _asked(self) -> frozenset[str]:
        return frozenset(stage for name, stage in _GIVEN.items() if self._differs(name))

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """What is done with a row before an id is drawn from it, in order; empty: what the short way does, or less."""
        if self.greedy:
            return ()
        wanted = self.every_stage
        short = wanted == tuple(name for name in _PLAIN if name in wanted)
        return () if short and not self.adaptive and not self.dynatemp_range else wanted

    @cached_property
    def every_stage(self) -> tuple[str, ...]:
        """As `stages`, those of the short way too."""
        return tuple(name for name in self.sampler_order or ORDER if name in self._asked)

    @property
    def drawn_by(self) -> int | None:
        """The seed that the text depends on; None where it is greedy, and depends on none."""
        return None if self.greedy else self.seed

    @property
    def greedy(self) -> bool:
        """Whether the largest logit wins, with no randomness."""
        return not self.do_sample or self.temperature == 0

    @property
    def plain(self) -> bool:
        """Greedy on the logits as they are: the id is their argmax."""
        return self.greedy and self.repetition_penalty == 1


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(SamplingParams)}
#: Its names.
SAMPLING = tuple(_DEFAULTS)
#: Parameter -> the stage that it asks for, where it is not as it is by default.
_GIVEN = {name: name for name in ORDER[:-2]} | {
    "dynatemp_range": "temperature",
    "adaptive": "temperature",
    "xtc_probability": "xtc",
    "mirostat": "mirostat",
}


def _order(value: object) -> tuple[str, ...]:
    """Stages, each once, mirostat the last. Errors: `InputError`."""
    known = ", ".join(ORDER)
    if not is_iterable(value) or isinstance(value, str | bytes):
        what = "sampler_order"
        raise refusal(what, value, f"a list of some of {known}")
    names = tuple(value)
    for name in names:
        if not isinstance(name, str) or name not in ORDER:
            msg = f"sampler_order={shown(value)}: {shown(name)} is no stage; expected a list of some of {known}"
            raise InputError(msg)
        if names.count(name) > 1:
            msg = f"sampler_order={shown(value)}: {name} comes twice; each stage has one place"
            raise InputError(msg)
    if "mirostat" in names[:-1]:
        msg = f"sampler_order={shown(value)}: mirostat is the last stage, or none; put it at the end"
        raise InputError(msg)
    return tuple(str(name) for name in names)


def fresh_seed() -> int:
    """63 random bits of the operating system's: one that no earlier answer had, as good as surely."""
    return int.from_bytes(os.urandom(8)) >> 1  # a seed that any language's int64 holds


def real(value: object) -> float | None:
    """Return a finite float, or None where `value` is none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def integer(value: object) -> int | None:
    """Return an integer as Python's, or None where `value` is none."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool | np.bool_) else None


def refusal(name: str, value: object, wanted: str) -> InputError:
    """What to raise where a parameter is not what it may be."""
    return InputError(f"{name}={shown(value, 60)}: expected {wanted}")
