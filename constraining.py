"""What an answer must be, compiled for one model: its tokenizer and vocabulary. Apart from `Model`, as `Tokenizing`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .errors import BackendError, InputError, shown
from .once import once
from .runtime.constraints import Constraint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .loader.text.grammar import Grammars
    from .tokenizing import Tokenizing

__all__ = ["Constraining"]


class Constraining:
    """Of a model: from a parameter's name and value to what holds an answer to it."""

    def __init__(self, tokenizing: Tokenizing, n_vocab: int) -> None:
        """Nothing is read yet. `n_vocab`: rows of logits; the tokenizer may know fewer ids."""
        self._tokenizing, self._n_vocab = tokenizing, n_vocab

    def compiled(self, name: str, value: object) -> Constraint:
        """Errors: `InputError`; `BackendError`: the grammar extra is not installed."""
        from .loader.text.choices import Choices  # noqa: PLC0415 - few need it
        from .loader.text.grammar import Grammar  # noqa: PLC0415 - as above

        tokenizer = self._tokenizing.tokenizer
        if isinstance(value, Choices | Grammar) and value.tokenizer is not tokenizer:
            how = "model.tokenizer" if isinstance(value, Choices) else "model.constraint"
            msg = f"{name}={shown(value)}: prepared with another tokenizer; use this model's, {how}"
            raise InputError(msg)
        if isinstance(value, Constraint) and not isinstance(value, Choices):
            return value
        if name == "choices":
            return value if isinstance(value, Choices) else Choices(cast("Iterable[str]", value), tokenizer)
        try:
            grammars = self._grammars
        except BackendError as e:
            msg = f"{name}: {e}"
            raise BackendError(msg) from e
        return grammars.compiled(name, value)

    @once
    def _grammars(self) -> Grammars:
        from .loader.text.grammar import Grammars  # noqa: PLC0415 - few need it

        return Grammars(self._tokenizing.tokenizer, self._n_vocab)
