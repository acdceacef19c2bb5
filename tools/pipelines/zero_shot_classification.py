"""zero-shot-classification: labels that the model never learnt, by inference.

For each label the model reads the text with a sentence about the label, and says whether the first implies the second.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InputError, shown
from ...loader.text.pieces import Cutting
from ...runtime.parameters import switch
from ...runtime.tasks.labels import entailed
from ..notes import warn
from .base import EncoderPipeline, Prepared
from .foreign import named_input, renewed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import Options, Rows

__all__ = ["ZeroShotClassification"]

NAME = "entail"  # the label's name begins so
#: A field that would fill the memory.
_WIDE = re.compile(r"\{[^}]*:[^}]*\d{5}")


class ZeroShotClassification(EncoderPipeline):
    """`pipe(text, candidate_labels)`: `{"sequence", "labels", "scores"}`, the likeliest first; of a list a list.

    `candidate_labels`: a list, or one text with commas. `hypothesis_template`: the sentence that a label is put into,
    in place of {}. `multi_label`: several may hold, each with its own score; otherwise scores sum to 1. A text that is
    too long is cut, its hypothesis is not. `multi_class` is an older name of `multi_label`.
    """

    parameters: ClassVar[Mapping[str, object]] = {
        "candidate_labels": None, "hypothesis_template": "This example is {}.", "multi_label": False,
        "multi_class": None,
    }  # fmt: skip
    switches = ("multi_label",)
    heads = ("classes",)
    needs = "a model trained on inference (...ForSequenceClassification, one of whose labels is called entailment)"

    def check(self) -> None:
        """As `EncoderPipeline.check`; there are two labels at least."""
        super().check()
        labels = self.model.config.labels
        if len(labels) < 2:  # noqa: PLR2004 - entailment and contradiction
            msg = f"{self.task}: this model has {len(labels)} label; expected entailment, and what is against it"
            raise InputError(msg)
        self._entailment = next((i for i, label in enumerate(labels) if label.lower().startswith(NAME)), -1)
        if self._entailment < 0:
            warn(f"{self.task}: no label of this model is called entailment ({', '.join(labels)}); the last one counts")

    def __call__(self, inputs: object = None, *labels: object, **parameters: object) -> Any:  # noqa: ANN401 - as the input
        """As the class says; labels may be the second argument, and texts given as `sequences`."""
        inputs = named_input(inputs, "sequences", parameters)
        if labels:
            if len(labels) > 1 or "candidate_labels" in parameters:
                msg = f"{self.task}: candidate_labels are given twice, or {len(labels)} more arguments than one text"
                raise InputError(msg)
            parameters["candidate_labels"] = labels[0]
        return super().__call__(inputs, **parameters)

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`; labels as a list. Errors: `InputError`."""
        options = super().options(renewed(given, "multi_class", "multi_label", switch))
        labels, template = options["candidate_labels"], options["hypothesis_template"]
        if isinstance(labels, str):
            labels = [label.strip() for label in labels.split(",") if label.strip()]
        if labels is None:
            return options
        if not isinstance(labels, list | tuple) or not labels or not all(isinstance(label, str) for label in labels):
            said = shown(options["candidate_labels"])
            msg = f"candidate_labels={said}: expected one label at least: a list, or a text with commas"
            raise InputError(msg)
        return options | {"candidate_labels": list(labels), "hypotheses": [_put(template, label) for label in labels]}

    def run(self, inputs: object, options: Options) -> Any:  # noqa: ANN401 - a form for each kind of input
        """As `Pipeline.run`. Errors: `InputError` without labels."""
        if options["candidate_labels"] is None:
            msg = f"{self.task}: candidate_labels are not given; give a list, or a text with commas"
            raise InputError(msg)
        return super().run(inputs, options)

    def prepare(self, item: object, options: Options) -> Prepared:
        """As `EncoderPipeline.prepare`: the text with each hypothesis."""
        if not isinstance(item, str) or not item:
            msg = f"{self.task}: {shown(item)} found, expected a text that is not empty"
            raise InputError(msg)
        tokenizer = self.model.tokenizer
        cutting = Cutting(self.max_tokens, "only_first", side=tokenizer.cut_side)
        pairs = [tokenizer.windows(item, hypothesis, cutting=cutting)[0] for hypothesis in options["hypotheses"]]
        return Prepared([self.whole(pieces) for pieces in pairs], item)

    def finish(self, prepared: Prepared, rows: list[Rows], options: Options) -> dict[str, Any]:
        """As `EncoderPipeline.finish`."""
        entailment, labels = self._entailment, options["candidate_labels"]
        several = bool(options["multi_label"]) or len(labels) == 1
        scores = entailed(rows, entailment, -1 if entailment == 0 else 0, multi_label=several)
        order = np.argsort(scores, kind="stable")[::-1].tolist()
        return {
            "sequence": prepared.about,
            "labels": [labels[i] for i in order],
            "scores": [float(scores[i]) for i in order],
        }


def _put(template: object, label: str) -> str:
    """A label in its sentence."""
    if isinstance(template, str) and _WIDE.search(template):
        msg = f"hypothesis_template={shown(template)}: asks for a width of more than four digits; expected a sentence"
        raise InputError(msg)
    try:
        filled = isinstance(template, str) and any(field is not None for _, field, _, _ in Formatter().parse(template))
        text = template.format(label) if filled and isinstance(template, str) else None
    except (LookupError, TypeError, ValueError, AttributeError) as e:
        msg = f"hypothesis_template={shown(template)}: cannot be filled with a label ({e}); expected a text with {{}}"
        raise InputError(msg) from e
    if text is None:
        msg = f"hypothesis_template={shown(template)}: expected a text with {{}} where the label goes"
        raise InputError(msg)
    return text
