"""`Model.encode`: texts to vectors, as sentence-transformers takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .errors import InputError, shown
from .runtime.encoding import Whole, encoded
from .runtime.memory import float_rows
from .runtime.tasks.pooling import normalized, pool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .loader.sentence import Sentence
    from .loader.text.tokenizer import Tokenizer
    from .runtime.session import Session

__all__ = ["Vectors"]


class Vectors:
    """What `Model.encode` needs of a model: its passes, its tokenizer, and how its directory pools."""

    def __init__(self, session: Session, tokenizer: Tokenizer, sentence: Sentence, d_model: int) -> None:
        """`sentence`: of `loader.sentence`."""
        self._session, self._tokenizer, self._how = session, tokenizer, sentence
        self.width = len(sentence.modes) * d_model
        self.max_tokens = min(sentence.max_tokens or session.n_context, session.n_context)

    def of(
        self,
        texts: object,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
    ) -> NDArray[np.float32] | Iterator[NDArray[np.float32]]:
        """As `Model.encode`."""
        width = self._width(truncate_dim)
        before = self._prompt(prompt, prompt_name)
        norm = self._how.normalize if normalize is None else normalize
        if isinstance(texts, str):
            return next(self._each([texts], before, width, norm=norm))
        if isinstance(texts, Iterator):
            return self._each(texts, before, width, norm=norm)
        if not isinstance(texts, Iterable) or isinstance(texts, bytes):
            msg = f"texts: {shown(texts)} found, expected a text, several texts, or an iterator of them"
            raise InputError(msg)
        listed: list[Any] = list(texts)
        out = float_rows(len(listed), width, "vectors")
        for row, vector in zip(out, self._each(listed, before, width, norm=norm), strict=True):
            row[:] = vector
        return out

    def _width(self, wanted: int | None) -> int:
        if wanted is None:
            return self.width
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= self.width:
            msg = f"truncate_dim={shown(wanted)}: expected a whole number from 1 to {self.width}"
            raise InputError(msg)
        return wanted

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        """What stands before every text."""
        if prompt is not None and not isinstance(prompt, str):
            msg = f"prompt={shown(prompt)}: expected a text"
            raise InputError(msg)
        if prompt is not None:
            return prompt
        name = self._how.default_prompt if name is None else name
        if name is not None and name not in self._how.prompts:
            names = ", ".join(self._how.prompts) or "none"
            msg = f"prompt_name={shown(name)}: this model's prompts are: {names}"
            raise InputError(msg)
        return "" if name is None else self._how.prompts[name]

    def _each(self, texts: Iterable[Any], before: str, width: int, *, norm: bool) -> Iterator[NDArray[np.float32]]:
        """A vector for each text, in order; texts are taken as passes need them."""
        skipped = 0 if self._how.include_prompt else self._length(before)

        def vector(rows: NDArray[np.float32]) -> NDArray[np.float32]:
            pooled = pool(rows, self._how.modes, min(skipped, len(rows) - 1))[:width]
            return normalized(pooled) if norm else pooled

        return encoded(self._session, (self._whole(before, text) for text in texts), vector)

    def _whole(self, before: str, text: object) -> Whole:
        if not isinstance(text, str):
            pair = "; a pair of them is framed by tokenizer.framed(a, pair=b), for logits or hidden"
            msg = f"texts: {shown(text)} found, expected texts{pair if isinstance(text, list | tuple) else ''}"
            raise InputError(msg)
        return Whole(*self._tokenizer.framed(before + text, self.max_tokens))

    def _length(self, before: str) -> int:
        """Tokens of a prompt, what frames a text before it among them."""
        return self._tokenizer.opening(before) if before else 0
