"""The tokenizer's parameters that a call passes on: `truncation`, `max_length`, and those without effect here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError, shown
from ...loader.text.pieces import Cutting
from ...runtime.parameters import check_names, switch, whole_number

if TYPE_CHECKING:
    from ...loader.text.pieces import Strategy
    from .base import EncoderPipeline, Options
    from .generation import GenerationPipeline

__all__ = ["TOKENIZER", "cutting", "tokenizer_options"]

#: Defaults; texts are never padded, so `padding` has no effect.
TOKENIZER = {"truncation": False, "max_length": None, "padding": False, "add_special_tokens": True}
STRATEGIES: dict[str, Strategy] = {
    "longest_first": "longest_first", "only_first": "only_first", "only_second": "only_second",
}  # fmt: skip


def cutting(pipe: EncoderPipeline | GenerationPipeline, options: Options) -> Cutting | None:
    """Where a text is cut that is too long; None: nowhere. Errors: `InputError`."""
    wanted, most = options["truncation"], options["max_length"]
    if most is not None:
        most = whole_number("max_length", most, of="tokens")
    if wanted is None or (isinstance(wanted, bool | np.bool_) and not wanted):
        return None
    wanted = "longest_first" if isinstance(wanted, bool | np.bool_) else wanted
    if isinstance(wanted, str) and wanted == "do_not_truncate":
        return None
    strategy = STRATEGIES.get(wanted) if isinstance(wanted, str) else None
    if strategy is None:
        msg = f"truncation={shown(wanted)}: expected True, False, {', '.join(STRATEGIES)}"
        raise InputError(msg)
    tokens = pipe.max_tokens if most is None else most
    return Cutting(tokens, strategy, side=pipe.model.tokenizer.cut_side)


def tokenizer_options(name: str, given: object) -> dict[str, Any]:
    """What a parameter called `name` says to the tokenizer. Errors: `InputError`."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        msg = f"{name}={shown(given)}: expected names and values"
        raise InputError(msg)
    check_names(map(str, given), TOKENIZER, f"key of {name}")
    told = {key: value for key, value in given.items() if value is not None}
    if "add_special_tokens" in told:
        told["add_special_tokens"] = switch("add_special_tokens", told["add_special_tokens"])
    return told
