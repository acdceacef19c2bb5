"""text-classification (sentiment-analysis): labels of a text, or of two, with their scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InputError, shown
from ...runtime.parameters import one_of, switch, whole_number
from ...runtime.tasks.labels import ranked, scores_of
from ..notes import warn
from .base import EncoderPipeline, Prepared
from .truncation import TOKENIZER, cutting

if TYPE_CHECKING:
    from ...runtime.tasks.labels import Function
    from .base import Options, Rows

__all__ = ["TextClassification"]

FUNCTIONS: tuple[Function, ...] = ("softmax", "sigmoid", "none")


class TextClassification(EncoderPipeline):
    """`pipe(text)`: `[{"label", "score"}]`, of a list a list of such objects.

    An item is a text, or `{"text", "text_pair"}`. `top_k`: how many labels, None for all, and an item's result is then
    a list; without it, the first. `function_to_apply`: "softmax", "sigmoid" or "none" for logits; by default none for
    a regression, the logistic function for one label or several that hold at once, else softmax.
    `return_all_scores`: an older form of `top_k`; all labels in the model's order, or (False) the first.
    """

    #: top_k="": the form of the result when nobody asks for a number of labels.
    parameters: ClassVar[Mapping[str, object]] = {
        "top_k": "", "function_to_apply": None, "return_all_scores": None, **TOKENIZER,
    }  # fmt: skip
    switches = ("add_special_tokens",)
    heads = ("classes",)
    needs = "a model that gives a text classes (...ForSequenceClassification)"

    def __call__(self, inputs: object, **parameters: object) -> Any:  # noqa: ANN401 - a form for each kind of input
        """As `Pipeline.__call__`; one text without `top_k` in the call gives a list, as transformers does."""
        result = super().__call__(inputs, **parameters)
        return [result] if isinstance(inputs, str) and "top_k" not in parameters else result

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`; what is no parameter's value is an `InputError`."""
        unsaid = {name for name in ("function_to_apply", "return_all_scores") if given.get(name) is None}
        unsaid |= {"top_k"} if isinstance(top_k := given.get("top_k", ""), str) and not top_k else set()
        given = {name: value for name, value in given.items() if name not in unsaid}
        options = super().options(given)
        top_k, function, listed = options["top_k"], options["function_to_apply"], options.get("listed", False)
        if "top_k" in given:
            listed = True
            top_k = None if top_k is None else whole_number("top_k", top_k, of="labels (None: all)")
        elif "return_all_scores" in given:
            top_k = None if switch("return_all_scores", given["return_all_scores"]) else 1
            warn(f"return_all_scores: an older form of top_k={top_k}; give that")
        if function is not None:
            function = one_of(
                "function_to_apply", function.lower() if isinstance(function, str) else function, FUNCTIONS
            )
        cutting(self, options)  # refuses what is no length, before a text is read
        return options | {"top_k": top_k, "function_to_apply": function, "listed": listed}

    def prepare(self, item: object, options: Options) -> Prepared:
        """As `EncoderPipeline.prepare`."""
        text, pair = _texts(item)
        [pieces] = self.model.tokenizer.windows(
            text, pair, cutting=cutting(self, options), add_special_tokens=bool(options["add_special_tokens"])
        )
        return Prepared([self.whole(pieces)])

    def finish(self, prepared: Prepared, rows: list[Rows], options: Options) -> object:  # noqa: ARG002 - as others
        """As `EncoderPipeline.finish`."""
        scores = scores_of(rows[0], options["function_to_apply"] or self._usual())
        top_k, listed, labels = options["top_k"], options["listed"], self.model.config.labels
        one = not listed and top_k is not None
        order = ranked(scores, 1 if one else top_k) if one or listed else range(len(labels))
        out = [{"label": labels[i], "score": float(scores[i])} for i in order]
        return out[0] if one else out

    def _usual(self) -> Function:
        kind = self.model.config_json.get("problem_type")
        if kind == "regression":
            return "none"
        return "sigmoid" if kind == "multi_label_classification" or len(self.model.config.labels) == 1 else "softmax"


def _texts(item: object) -> tuple[str, str | None]:
    """A text and perhaps a second: of `{"text", "text_pair"}`, or of [[text, text_pair]]."""
    if isinstance(item, Mapping) and set(item) <= {"text", "text_pair"} and isinstance(item.get("text"), str):
        pair = item.get("text_pair")
        if pair is None or isinstance(pair, str):
            return item["text"], pair
    if isinstance(item, list) and len(item) == 1 and isinstance(item[0], list | tuple):
        both = list(item[0])
        if [type(text) for text in both] == [str, str]:
            return both[0], both[1]
    if isinstance(item, str):
        return item, None
    msg = f'text-classification: {shown(item)} found, expected a text, or {{"text": ..., "text_pair": ...}} for two'
    raise InputError(msg)
