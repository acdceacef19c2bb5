"""`Model.encode`: texts to vectors, as sentence-transformers takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError, is_iterable, numbered, shown
from .loader.text.pieces import Cutting
from .runtime.encoding import Whole, encoded, fed, scored
from .runtime.floats import usual_floats
from .runtime.memory import float_rows
from .runtime.parameters import whole_number
from .runtime.stream import VectorStream
from .runtime.tasks.dense import activated, dense
from .runtime.tasks.pooling import normalized, pool

if TYPE_CHECKING:
    from collections.abc import Generator
    from collections.abc import Sequence as Ids

    from numpy.typing import NDArray

    from .loader.sentence import Sentence
    from .loader.text.tokenizer import Tokenizer
    from .runtime.session import Session
    from .runtime.spec import Act, Config

__all__ = ["Pairs", "Vectors"]


class Vectors:
    """What `Model.encode` needs of a model: its passes, its tokenizer, and how its directory pools.

    `width`: of a vector, if nobody asks for less or more; `max_tokens`: of a text, which is cut there.
    """

    def __init__(self, session: Session, tokenizer: Tokenizer, sentence: Sentence) -> None:
        """`sentence`: of `loader.sentence`."""
        self._session, self._tokenizer, self.how = session, tokenizer, sentence
        self.width = min(sentence.width, sentence.truncate_dim or sentence.width)
        self.max_tokens = min(sentence.max_tokens or tokenizer.max_tokens or session.n_context, session.n_context)

    def of(  # noqa: PLR0913 - keywords
        self,
        texts: object,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        adapter: int = 0,
    ) -> NDArray[np.float32] | Iterator[NDArray[np.float32]]:
        """As `Model.encode`; `adapter`: its number."""
        width = self._width(truncate_dim)
        before = self._prompt(prompt, prompt_name)
        if normalize is not None and not isinstance(normalize, bool):
            msg = f"normalize={shown(normalize)}: expected True, False, or None for what the directory says"
            raise InputError(msg)
        each = partial(self._each, before=before, width=width, norm=normalize, adapter=adapter)
        if isinstance(texts, str):
            return next(each([texts], several=False))
        if isinstance(texts, Iterator):
            return VectorStream(each(texts))
        if not is_iterable(texts) or isinstance(texts, bytes | Mapping):
            msg = f"texts: {shown(texts)} found, expected a text, several texts, or an iterator of them"
            raise InputError(msg)
        listed: list[Any] = list(texts)
        out = float_rows(len(listed), width, "vectors")
        for row, vector in zip(out, each(listed), strict=True):
            row[:] = vector
        return out

    def framed(self, text: str, prompt_name: str | None = None, *, cut: bool = True) -> list[int]:
        """A text's ids as they are read: after the prompt, framed, and `cut` to `max_tokens`. Errors: as `of`."""
        read = self._as_read(self._prompt(None, prompt_name) + text)
        return self._tokenizer.framed(read, self.max_tokens if cut else None)[0]

    def of_ids(
        self,
        sequences: Iterable[Ids[int]],
        *,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        adapter: int = 0,
    ) -> NDArray[np.float32]:
        """As `of`, of checked ids as they are read: nothing is put around them, and nothing cut.

        `prompt_name`: which prompt they begin with, so that its tokens are left out where the directory says so.
        """
        listed, width = list(sequences), self._width(truncate_dim)
        skipped = 0 if self.how.include_prompt else self._length(self._prompt(None, prompt_name))
        out = float_rows(len(listed), width, "vectors")
        wholes = (Whole(ids, adapter=adapter) for ids in listed)
        for row, vector in zip(out, self._pooled(wholes, skipped, width, norm=normalize), strict=True):
            row[:] = vector
        return out

    def tokens(self, texts: Iterable[Any], prompt: str = "") -> Iterator[NDArray[np.float32]]:
        """What leaves the last layer for each text after a prompt, float32 [its tokens, d_model], in order."""
        wholes = (self._whole(prompt, text, n, 0) for n, text in enumerate(texts))
        if self._session.program.encoding is None:
            return fed(self._session, wholes, np.copy, last=False)
        return encoded(self._session, wholes, np.copy)

    def _width(self, wanted: int | None) -> int:
        if wanted is None:
            return self.width
        return whole_number("truncate_dim", wanted, most=self.how.width)

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        """What stands before every text."""
        if prompt is not None and not isinstance(prompt, str):
            msg = f"prompt={shown(prompt)}: expected a text"
            raise InputError(msg)
        if prompt is not None:
            return prompt
        name = self.how.default_prompt if name is None else name
        if name is not None and (not isinstance(name, str) or name not in self.how.prompts):
            known = shown(list(self.how.prompts)) if self.how.prompts else "none; leave it out"
            msg = f"prompt_name={shown(name)}: expected one of this model's prompts: {known}"
            raise InputError(msg)
        return "" if name is None else self.how.prompts[name]

    def _each(  # noqa: PLR0913 - keywords
        self,
        texts: Iterable[Any],
        before: str,
        width: int,
        *,
        norm: bool | None,
        adapter: int,
        several: bool = True,
    ) -> Generator[NDArray[np.float32], None, None]:
        """A vector for each text, in order; texts are taken as passes need them."""
        skipped = 0 if self.how.include_prompt else self._length(before)
        wholes = (self._whole(before, text, n if several else None, adapter) for n, text in enumerate(texts))
        return self._pooled(wholes, skipped, width, norm=norm)

    def _pooled(
        self, wholes: Iterable[Whole], skipped: int, width: int, *, norm: bool | None
    ) -> Generator[NDArray[np.float32], None, None]:
        """`skipped`: tokens of each that are not pooled."""
        steps = list(self.how.steps)
        while norm is False and steps and steps[-1] is None:
            steps.pop()

        @usual_floats()
        def vector(rows: NDArray[np.float32]) -> NDArray[np.float32]:
            pooled = pool(rows, self.how.modes, min(skipped, len(rows) - 1))
            for step in steps:
                pooled = normalized(pooled) if step is None else dense(pooled, step)
            return normalized(pooled[:width]) if norm else pooled[:width]

        if self._session.program.encoding is None:
            return fed(self._session, wholes, vector, last=self.how.modes == ("lasttoken",))
        return encoded(self._session, wholes, vector)

    def _whole(self, before: str, text: object, number: int | None, adapter: int) -> Whole:
        """Of a text, or of that `number` of several."""
        with numbered(number, "text {} of the input"):
            if not isinstance(text, str):
                pair = "; a pair of them is framed by tokenizer.framed(a, pair=b), for logits or hidden"
                msg = f"texts: {shown(text)} found, expected texts{pair if isinstance(text, list | tuple) else ''}"
                raise InputError(msg)
            return Whole(*self._tokenizer.framed(self._as_read(before + text), self.max_tokens), adapter=adapter)

    def _as_read(self, text: str) -> str:
        """A text after its prompt as sentence-transformers reads it: no spaces around it, perhaps in lower case."""
        bare = text.strip()
        return bare.lower() if self.how.lower else bare

    def _length(self, before: str) -> int:
        """Tokens of a prompt, what frames a text before it among them."""
        return self._tokenizer.opening(self._as_read(before)) if before else 0


class Pairs:
    """What `Model.predict` needs of a model: its passes, its tokenizer, and what its logits go through."""

    def __init__(self, session: Session, tokenizer: Tokenizer, config: Config, act: Act) -> None:
        """`config`: of a classifier of texts."""
        self._session, self._tokenizer, self._config, self._act = session, tokenizer, config, act

    def of(
        self, pairs: object, *, act: Act | None = None, max_tokens: int | None = None, adapter: int = 0
    ) -> NDArray[np.float32] | Iterator[NDArray[np.float32]]:
        """As `Model.predict`; `act` in place of what config.json names, and longer pairs cut to `max_tokens`.

        `adapter`: its number.
        """
        if isinstance(pairs, Iterator):
            return VectorStream(self._each(pairs, act, max_tokens, adapter))
        if not is_iterable(pairs) or isinstance(pairs, str | bytes):
            msg = f"pairs: {shown(pairs)} found, expected several pairs of texts, or an iterator of them"
            raise InputError(msg)
        listed: list[Any] = list(pairs)
        out = float_rows(len(listed), len(self._config.labels), "scores")
        for row, scores in zip(out, self._each(listed, act, max_tokens, adapter), strict=True):
            row[:] = scores
        return out[:, 0] if out.shape[1] == 1 else out

    def _each(
        self, pairs: Iterable[Any], act: Act | None, max_tokens: int | None, adapter: int
    ) -> Generator[NDArray[np.float32], None, None]:
        through = usual_floats()(partial(activated, act=self._act if act is None else act))
        wholes = (replace(self._whole(pair, max_tokens, n), adapter=adapter) for n, pair in enumerate(pairs))
        yield from map(through, scored(self._session, self._config, wholes))

    def _whole(self, pair: object, max_tokens: int | None, number: int) -> Whole:
        with numbered(number, "pair {} of the input"):
            if not isinstance(pair, list | tuple) or [type(text) for text in pair] != [str, str]:
                msg = f"pairs: {shown(pair)} found, expected pairs of texts"
                raise InputError(msg)
            a, b = pair[0].strip(), pair[1].strip()
            if max_tokens is None:
                return self._framed(*self._tokenizer.framed(a, pair=b))
            [cut] = self._tokenizer.windows(a, b, cutting=Cutting(max_tokens, side=self._tokenizer.cut_side))
            return self._framed(cut.ids, cut.types)

    def _framed(self, ids: list[int], types: list[int]) -> Whole:
        """A family without token types takes none, as its tokenizer gives them all the same."""
        return Whole(ids, types if self._config.n_types > 1 else None)
