"""A model in the place of sentence-transformers' `CrossEncoder`: scores of pairs of texts, and documents ranked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ..errors import InputError, shown
from ..runtime.parameters import switch, whole_number
from ..runtime.sampling import damaged
from ..runtime.spec import Act
from .embedder import as_tensors, listed, refuse_others, tensor
from .held import Holder, held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Unpack

    from ..load_options import LoadKwargs
    from ..model import Model

    Pair = tuple[str, str] | list[str]

__all__ = ["CrossEncoder"]


class CrossEncoder(Holder):
    """Pairs of texts to scores, with the interface of `sentence_transformers.CrossEncoder` (6.2)."""

    def __init__(
        self, model_name_or_path: str | Path | Model, *, max_length: int | None = None, **options: Unpack[LoadKwargs]
    ) -> None:
        """A directory, a hub name (with the options of `load`), or a model that is loaded, which `close` leaves open.

        `max_length`: tokens of a pair, whose longer text is cut (default: as the tokenizer's files say). Errors:
        `InputError`, and `load`'s.
        """
        model, owned = held(model_name_or_path, **options)
        super().__init__(model, owned=owned)
        try:
            self._pairs, self.max_seq_length = self.model.pairs, self._most(max_length)
        except BaseException:
            self.close()
            raise

    def _most(self, asked: int | None) -> int:
        """Tokens of a pair."""
        most = self.model.n_context
        if asked is None:
            return min(self.model.tokenizer.max_tokens or most, most)
        return whole_number("max_length", asked, most=most)

    @property
    def num_labels(self) -> int:
        """Scores of a pair."""
        return len(self.model.config.labels)

    def predict(
        self,
        inputs: Pair | Iterable[Pair] | None = None,
        prompt_name: None = None,
        prompt: None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: str | Callable[..., Any] | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        **others: object,
    ) -> Any:
        """The score of each pair: float32 [pairs], or [pairs, labels] where there are several; of one pair, its own.

        `activation_fn`: a name or torch's module of it, Identity, Sigmoid, Tanh, ReLU or SiLU, in place of what
        config.json names; `apply_softmax`: over the labels. With `convert_to_tensor`, or without `convert_to_numpy`,
        torch's tensors. `batch_size`, `chunk_size` and `show_progress_bar` change nothing.
        Errors: `InputError`, `TokenizerError`.
        """
        del show_progress_bar, chunk_size
        given = others.pop("sentences", None) if inputs is None else inputs  # its older name
        what = {"prompt_name": prompt_name, "prompt": prompt, "device": device, "pool": pool, **others}
        refuse_others("CrossEncoder", self.device, batch_size, what)
        one = isinstance(given, list | tuple) and len(given) == 2 and all(isinstance(text, str) for text in given)  # noqa: PLR2004 - a pair
        pairs = [given] if one else listed(given)
        tensors, soft = as_tensors(convert_to_tensor, convert_to_numpy), switch("apply_softmax", apply_softmax)
        got = self._pairs.of(pairs, act=_act(activation_fn), max_tokens=self.max_seq_length)
        assert isinstance(got, np.ndarray)  # noqa: S101 - of a list
        scores = _softmax(got) if soft and got.ndim > 1 else got
        result = tensor(scores) if tensors else scores
        return result[0] if one else list(result) if tensors and not convert_to_tensor else result

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **more: Any,
    ) -> list[dict[str, Any]]:
        """`{"corpus_id", "score"}` of each document, the best first, with its "text" if `return_documents`.

        `more`: as `predict`. Errors: `InputError`, also for a model of several labels.
        """
        if self.num_labels != 1:
            msg = f"rank: this model has {self.num_labels} labels, and none of them is a score; use predict"
            raise InputError(msg)
        most = None if top_k is None else whole_number("top_k", top_k, of="documents")
        with_text, texts = switch("return_documents", return_documents), listed(documents)
        scores = self.predict([(query, text) for text in texts], **more) if texts else []
        if not all(abs(float(score)) < np.inf for score in scores):
            what = "rank: the scores are not numbers (NaN), so they have no order"
            raise damaged(what)
        ranked = sorted(enumerate(scores), key=lambda each: -float(each[1]))[:most]
        return [
            {"corpus_id": i, "score": float(score)} | ({"text": texts[i]} if with_text else {}) for i, score in ranked
        ]


def _act(asked: object) -> Act | None:
    if asked is None:
        return None
    name = (asked if isinstance(asked, str) else type(asked).__name__).lower()
    act = next((known for known in get_args(Act) if known == name), None)
    if act is None:
        msg = f"activation_fn={shown(asked)}: expected one of {', '.join(get_args(Act))}, or torch's module of it"
        raise InputError(msg)
    return act  # type: ignore[no-any-return]  # get_args knows no type


def _softmax(rows: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    wide = np.exp(rows.astype(np.float64) - rows.max(1, keepdims=True))
    return np.asarray(wide / wide.sum(1, keepdims=True), np.float32)
