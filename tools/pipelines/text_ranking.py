"""text-ranking (rerank): documents in the order of how well they answer a query, by a cross-encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InputError, shown
from ...loader.sentence import pair_activation
from ...runtime.parameters import whole_number
from ...runtime.tasks.dense import activated
from ...runtime.tasks.labels import ranked
from .base import EncoderPipeline, Prepared
from .truncation import TOKENIZER, cutting

if TYPE_CHECKING:
    from .base import Options, Rows

__all__ = ["TextRanking"]


class TextRanking(EncoderPipeline):
    """`pipe(query, documents)`: `[{"corpus_id", "score"}]`, the best first, as `CrossEncoder.rank`.

    An item of a list or an iterator is `{"query", "documents"}`. `top_k`: the first ones alone; `return_documents`:
    with each its "text". Scores are those of `Model.predict`. `truncation`: cut pairs that are too long.
    """

    parameters: ClassVar[Mapping[str, object]] = {
        "top_k": None, "return_documents": False, "truncation": False, "max_length": None,
    }  # fmt: skip
    switches = ("return_documents",)
    heads = ("classes",)
    needs = "a cross-encoder (...ForSequenceClassification with one label)"
    shorter = "give a shorter document, or truncation=True"

    def check(self) -> None:
        """As `EncoderPipeline.check`; there is one label."""
        super().check()
        labels = self.model.config.labels
        if len(labels) != 1:
            msg = f"{self.task}: this model has {len(labels)} labels; expected {self.needs}"
            raise InputError(msg)
        self._act = pair_activation(self.model.config_json, "config.json", 1)

    def __call__(self, *inputs: object, **parameters: object) -> Any:  # noqa: ANN401 - a form for each kind of input
        """As the class says; query and documents may be given by name."""
        names = ("query", "documents")
        asked = {key: parameters.pop(key) for key in names if key in parameters}
        if len(inputs) == 1 and not asked:
            return super().__call__(inputs[0], **parameters)
        left = [name for name in names if name not in asked]
        if len(inputs) > len(left):
            more = f" next to {' and '.join(asked)} by name" if asked else ""
            msg = f"{self.task}: {len(inputs)} arguments by their place{more}; give a query and a list of documents"
            raise InputError(msg)
        asked |= dict(zip(left, inputs, strict=False))
        return super().__call__(asked, **parameters)

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`; what is no parameter's value is an `InputError`."""
        options = super().options(given)
        if options["top_k"] is not None:
            whole_number("top_k", options["top_k"], of="documents")
        return options

    def prepare(self, item: object, options: Options) -> Prepared:
        """As `EncoderPipeline.prepare`: the query with each document."""
        query, documents = (item.get("query"), item.get("documents")) if isinstance(item, Mapping) else (None, None)
        listed = list(documents) if isinstance(documents, list | tuple) else [None]
        if not isinstance(query, str) or not all(isinstance(text, str) for text in listed):
            msg = f'{self.task}: {shown(item)} found, expected {{"query": a text, "documents": a list of texts}}'
            raise InputError(msg)
        cut = cutting(self, TOKENIZER | options)
        windows = (self.model.tokenizer.windows(query.strip(), str(text).strip(), cutting=cut) for text in listed)
        return Prepared([self.whole(pieces) for [pieces] in windows], listed)

    def finish(self, prepared: Prepared, rows: list[Rows], options: Options) -> list[dict[str, Any]]:
        """As `EncoderPipeline.finish`."""
        scores = np.array([float(activated(row, self._act)[0]) for row in rows])
        with_text = options["return_documents"]
        return [
            {"corpus_id": i, "score": float(scores[i])} | ({"text": prepared.about[i]} if with_text else {})
            for i in ranked(scores, options["top_k"])
        ]
