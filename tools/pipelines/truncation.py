"""The tokenizer's parameters that a call passes on: `truncation`, `max_length`, and those without effect here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import InputError, shown
from ...loader.text.pieces import Cutting
from ...runtime.parameters import check_names

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
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        msg = f"max_length={shown(most)}: expected a whole number of tokens, at least 1"
        raise InputError(msg)
    if wanted is None or wanted is False or wanted == "do_not_truncate":
        return None
    strategy = STRATEGIES.get("longest_first" if wanted is True else str(wanted))
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
    check_names(given, TOKENIZER, f"key of {name}")
    return dict(given)
