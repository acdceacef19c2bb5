"""How well documents answer a query, by whatever a model is.

| a model that | a document's score |
|---|---|
| is a classifier of one label (a cross-encoder) | what `Model.predict` gives the pair, the longer text cut |
| gives texts vectors | how alike the two vectors are, as the directory says; mostly the cosine |
| writes text | how likely the query is after the document: e^(log p of a token on average) |

Source of the last: Sachan et al. 2022, "Improving Passage Retrieval with Zero-Shot Question Generation".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import InputError, shown
from ..loader.text.pieces import Cutting
from ..runtime.exact import exp_of
from ..runtime.sampling import damaged
from ..runtime.spec import SIMILARITIES
from ..runtime.tasks.similarity import similarity
from .decisions.prompting import Prompting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model import Model

__all__ = ["Ranker", "ranked", "ranker_of"]

#: Prompts of a document, the first that the directory has; of a query there is one name.
_DOCUMENT, _QUERY = ("document", "passage", "corpus"), "query"


class Ranker(Protocol):
    """Scores documents by one model."""

    def scores(
        self, query: str, documents: Sequence[str], adapter: str | None = None, salt: str | None = None
    ) -> tuple[list[float], int]:
        """A score for each, more is better, and how many tokens were read; `salt`: `cache_salt` of `Model.score`.

        Errors: `InputError`.
        """


def ranker_of(model: Model) -> Ranker:
    """Errors: `InputError` for a model that cannot."""
    head = model.config.head
    if head is not None and head.kind == "classes":
        return _Crossed(model)
    try:
        model.vectors  # noqa: B018 - whether it has them
    except InputError:
        if not model.config.writes or model.config.decoding is not None:
            raise
        return _Likely(model)
    return _Alike(model)


def ranked(scores: Sequence[float], most: int | None = None) -> list[int]:
    """Numbers of the best documents, the best first, of equal ones the first. Errors: `InputError` for NaN."""
    if not np.isfinite(scores).all():
        what = "documents: the scores are not numbers (NaN), so they have no order"
        raise damaged(what)
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:most]


class _Crossed:
    def __init__(self, model: Model) -> None:
        self._model, labels = model, model.config.labels
        if len(labels) != 1:
            msg = f"model: its head has the labels {shown(list(labels))}, none of which is a score; name a reranker"
            raise InputError(msg)
        n = model.n_context
        self._cutting = Cutting(min(model.tokenizer.max_tokens or n, n), side=model.tokenizer.cut_side)

    def scores(
        self,
        query: str,
        documents: Sequence[str],
        adapter: str | None = None,
        salt: str | None = None,  # noqa: ARG002 - it leaves nothing in the cache that others may have
    ) -> tuple[list[float], int]:
        number = self._model.adapter_number(adapter, "rerank")
        pairs = [(query, document) for document in documents]
        made = self._model.pairs.of(pairs, max_tokens=self._cutting.max_tokens, adapter=number)
        return [float(x) for x in made], sum(self._length(*pair) for pair in pairs)

    def _length(self, query: str, document: str) -> int:
        [cut] = self._model.tokenizer.windows(query.strip(), document.strip(), cutting=self._cutting)
        return len(cut.ids)


class _Alike:
    def __init__(self, model: Model) -> None:
        self._model, self._vectors = model, model.vectors
        how = self._vectors.how
        kind = next((kind for kind in SIMILARITIES if kind == how.similarity), None)
        if kind is None:
            msg = f"model: its directory compares vectors by {shown(how.similarity)}, which is not computed"
            raise InputError(msg)
        self._kind = kind
        self._query = _QUERY if _QUERY in how.prompts else None
        self._document = next((name for name in _DOCUMENT if name in how.prompts), None)

    def scores(
        self,
        query: str,
        documents: Sequence[str],
        adapter: str | None = None,
        salt: str | None = None,  # noqa: ARG002 - it leaves nothing in the cache that others may have
    ) -> tuple[list[float], int]:
        number, vectors = self._model.adapter_number(adapter, "rerank"), self._vectors
        asked = [vectors.framed(query, self._query)]
        read = [vectors.framed(document, self._document) for document in documents]
        a = vectors.of_ids(asked, prompt_name=self._query, adapter=number)
        b = vectors.of_ids(read, prompt_name=self._document, adapter=number)
        return [float(x) for x in similarity(a, b, self._kind)[0]], sum(map(len, [*asked, *read]))


class _Likely:
    def __init__(self, model: Model) -> None:
        self._model, self._prompting = model, Prompting(model)

    def scores(
        self, query: str, documents: Sequence[str], adapter: str | None = None, salt: str | None = None
    ) -> tuple[list[float], int]:
        control, made, n = self._prompting.control, list[float](), 0
        for document in documents:
            ids, before = self._prompting.prompt(f"Passage: {document}\nPlease write a question based on this passage.")
            asked = control.encode(control.marked(f"{before}{query}"))
            [score] = self._model.score(ids, [asked], adapter=adapter, cache_salt=salt)
            made.append(exp_of(score.mean))
            n += len(ids) + len(asked)
        return made, n
