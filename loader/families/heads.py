"""What reads the last layer of whole texts, as config.json's `architectures` says; and what its results are called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ...dataclass import dataclass
from ...errors import ConfigError
from ...runtime.spec import Head
from ..files import quote
from .base import SCORED
from .values import Key, anything, flag, names, optional, read, size, token_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...runtime.spec import HeadKind
    from .base import Resolved

__all__ = ["ARCHITECTURES", "HEAD_KEYS", "Read", "as_classifier", "read_head"]

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
#: What a decoder's class with a head says of it.
SCORE_KEYS = {name: HEAD_KEYS[name] for name in ("architectures", "id2label", "num_labels")}
SCORE_KEYS |= {"pad_token_id": Key((), token_ids)}


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


def as_classifier(resolved: Resolved, raw: Mapping[str, Any], where: str) -> Resolved:
    """The same where its class puts no head on a decoder; else its layers, and that head, over texts that come whole.

    Of a text it reads the last token that is not `pad_token_id`. `raw`: config.json. Errors: `ConfigError`.
    """
    config, said = resolved.config, raw.get("architectures")
    names = [name for name in said if isinstance(name, str)] if isinstance(said, list) else []
    endings = [ending for name in names for ending in SCORED if name.endswith(ending)]
    if config.seq2seq or config.head is not None or not endings:
        return resolved
    if config.d_embed is not None:
        msg = (
            f"{where}: architectures is {quote(said)}, with embeddings of width {config.d_embed} in layers of "
            f"{config.d_model}; a head on such a {config.family} model is not computed"
        )
        raise ConfigError(msg)
    v, kind = read(raw, SCORE_KEYS, where), KINDS[endings[0]]
    labels, padding = _labels(v, where), v["pad_token_id"]
    pad = padding[0] if padding else None
    head = Head(kind, len(labels), config.d_model, pooling="last", padding=pad)
    whole = replace(config, decoder=None, encoder=config.stack, head=head, labels=labels)
    config = replace(whole, tied=False, logit_scale=1.0, logit_soft_cap=None, bos_ids=(), eos_ids=())
    biases = resolved.biases - {"head_bias"} | ({"classifier_bias"} if kind == "token_classes" else set())
    return replace(resolved, config=config, biases=biases)


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
