"""What stands on an encoder's last layer, as config.json's `architectures` says; and what its results are called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ...errors import ConfigError
from ...runtime.spec import Head
from ..files import quote
from .values import Key, anything, flag, names, optional, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...runtime.spec import HeadKind

__all__ = ["ARCHITECTURES", "HEAD_KEYS", "Read", "read_head"]

#: Ending of a class's name -> the kind of its head; none after a plain model.
KINDS: dict[str, HeadKind] = {
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "classes",
    "ForTokenClassification": "token_classes",
    "ForQuestionAnswering": "spans",
    "ForMultipleChoice": "choice",
}
ARCHITECTURES = ("Model", *KINDS)
#: Labels beyond this are no labels.
MAX_LABELS = 2**20

HEAD_KEYS = {
    "architectures": Key((), names),
    "id2label": Key(None, anything),
    "num_labels": Key(None, optional(size(MAX_LABELS))),
    "tie_word_embeddings": Key(default=True, check=flag),
}


@dataclass(frozen=True)
class Read:
    """The head, the labels of its results, and whether its product is the embedding."""

    head: Head | None = None
    labels: tuple[str, ...] = ()
    tied: bool = False


def read_head(  # noqa: PLR0913 - keywords
    v: Mapping[str, Any],
    where: str,
    *,
    widths: Mapping[str, int],
    acts: Mapping[str, Any],
    pretraining: HeadKind = "masked_lm",
    poolings: Mapping[str, Literal["first", "mean", "late"]] | None = None,
) -> Read:
    """`widths`: what the last product reads, by kind: those that the family has. `acts`: after a product before it.

    `pretraining`: what a class ...ForPreTraining has. `poolings`: of what `classifier_pooling` may say, where a family
    has that key, what a head that gives a text something reads. Errors: `ConfigError`.
    """
    kinds = KINDS | {"ForPreTraining": pretraining}
    kind = next((k for n in v["architectures"] for ending, k in kinds.items() if n.endswith(ending)), None)
    if kind is None:
        return Read()
    if kind not in widths:
        said = quote(list(v["architectures"]))
        msg = f"{where}: architectures is {said}; this family is computed with {', '.join(widths)}"
        raise ConfigError(msg)
    labels = _labels(v, where) if kind in ("classes", "token_classes") else ()
    n_out = {"masked_lm": v["vocab_size"], "spans": 2, "choice": 1, "replaced": 1}.get(kind, len(labels))
    head = Head(kind, n_out, widths[kind], acts.get(kind))
    if head.pooled and poolings is not None:
        said = v["classifier_pooling"]
        if not isinstance(said, str) or said not in poolings:
            msg = f"{where}: classifier_pooling is {quote(said)}; expected one of {', '.join(poolings)}"
            raise ConfigError(msg)
        head = replace(head, pooling=poolings[said])
    return Read(head, labels, kind == "masked_lm" and v["tie_word_embeddings"])


def _labels(v: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Names of the classes, by number; without any, as transformers names them."""
    said = v["id2label"]
    if said is None:
        return tuple(f"LABEL_{i}" for i in range(v["num_labels"] or 2))
    names = list(said.values()) if isinstance(said, dict) and len(said) <= MAX_LABELS else []
    numbers = {str(i) for i in range(len(names))}
    if not names or set(said) != numbers or not all(isinstance(n, str) for n in names):
        msg = f"{where}: id2label is {quote(said)}; expected a name for each of the numbers from 0 on"
        raise ConfigError(msg)
    if v["num_labels"] not in (None, len(names)):
        msg = f"{where}: num_labels is {v['num_labels']}, but id2label names {len(names)}"
        raise ConfigError(msg)
    return tuple(said[str(i)] for i in range(len(names)))
