"""sentence-similarity: how near sentences are to one, by the angle between their vectors."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InputError, shown
from ...loader.text.tokenizer import check_text
from ...runtime.sampling import damaged
from .base import Pipeline, placed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .base import Options

__all__ = ["SentenceSimilarity"]


class SentenceSimilarity(Pipeline):
    """`pipe({"source_sentence": ..., "sentences": [...]})`: a cosine for each sentence, as the hub's inference API.

    Vectors are those of `Model.encode`, with its `prompt_name`, which cuts a text to the model's length.
    """

    parameters: ClassVar[Mapping[str, object]] = {"prompt_name": None}

    def check(self) -> None:
        """The model gives texts vectors. Errors: `InputError`."""
        self.model.encode([])

    def __call__(self, inputs: object = None, **parameters: object) -> Any:  # noqa: ANN401 - a form for each kind of input
        """As the class says; the two may be given by name too."""
        names = ("source_sentence", "sentences")
        asked = {key: parameters.pop(key) for key in names if key in parameters}
        if inputs is not None and asked:
            msg = f"{self.task}: {' and '.join(asked)} by name and an input by its place; give one of the two"
            raise InputError(msg)
        return super().__call__(asked if inputs is None else inputs, **parameters)

    def stream(self, items: Iterator[Any], options: Options, *, numbered: bool) -> Iterator[list[float]]:
        """As `Pipeline.stream`."""
        waiting: deque[int] = deque()

        def texts() -> Iterator[str]:
            for n, item in enumerate(items):
                with placed(n if numbered else None):
                    source, sentences = _checked(item)
                waiting.append(len(sentences))
                yield source
                yield from sentences

        got: list[Any] = []
        for vector in self.model.encode(texts(), prompt_name=options["prompt_name"], adapter=options["adapter"]):
            got.append(vector.astype(np.float64))
            if len(got) > waiting[0]:
                waiting.popleft()
                yield [_cosine(got[0], other) for other in got[1:]]
                got = []


def _cosine(a: Any, b: Any) -> float:  # noqa: ANN401 - float64 [d]
    lengths = np.sqrt((a * a).sum() * (b * b).sum())
    if not np.isfinite(lengths):
        what = "sentence-similarity: the vectors are not numbers (NaN), so nothing is like anything"
        raise damaged(what)
    return float((a * b).sum() / lengths) if lengths > 0 else 0.0


def _checked(item: object) -> tuple[str, list[str]]:
    source, sentences = (item.get("source_sentence"), item.get("sentences")) if isinstance(item, Mapping) else (0, 0)
    listed = list(sentences) if isinstance(sentences, list | tuple) else [None]
    if not isinstance(source, str) or not all(isinstance(text, str) for text in listed):
        msg = (
            f'sentence-similarity: {shown(item)} found, expected {{"source_sentence": a text, "sentences": a list of '
            "texts}"
        )
        raise InputError(msg)
    texts = [str(text) for text in listed]
    for text in (source, *texts):
        check_text(text)
    return source, texts
