"""question-answering: the piece of a context that answers a question, with its place there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError, shown
from ...loader.text.pieces import Cutting
from ...runtime.parameters import whole_number
from ...runtime.tasks.spans import best_answers, best_spans
from ..notes import warn
from .base import EncoderPipeline, Prepared
from .foreign import renewed

if TYPE_CHECKING:
    from ...loader.text.pieces import Pieces
    from ...runtime.tasks.spans import Answer
    from .base import Options, Rows

__all__ = ["QuestionAnswering"]

#: Of defaults: tokens of a window, and tokens that it shares with the one before.
WINDOW, SHARED = 384, 128


@dataclass(frozen=True)
class _Context:
    text: str
    windows: list[Pieces]


class QuestionAnswering(EncoderPipeline):
    """`pipe(question=..., context=...)`: `{"score", "start", "end", "answer"}`; `context[start:end]` is the answer.

    Several questions, with one context or one each, give a list; an item of a list or an iterator is `{"question",
    "context"}`. `top_k` above 1: a list of answers, fewer where there are fewer. A context longer than `max_seq_len`
    tokens with its question (default: the model's, at most 384) is read in windows that share `doc_stride` tokens
    (default: half a window, at most 128). An answer has at most `max_answer_len` tokens, and with `align_to_words`
    whole words. `handle_impossible_answer`: "" may be the answer. `max_question_len`: cut a longer question (default:
    not cut, which is what transformers' fast tokenizers do, whatever it says there). Older names are taken with a
    warning: `topk` of `top_k`, `data` and `X` of the items.
    """

    parameters: ClassVar[Mapping[str, object]] = {
        "top_k": 1, "doc_stride": None, "max_answer_len": 15, "max_seq_len": None, "max_question_len": None,
        "handle_impossible_answer": False, "align_to_words": True, "padding": None, "topk": None,
    }  # fmt: skip
    switches = ("handle_impossible_answer", "align_to_words")
    heads = ("spans",)
    needs = "an encoder that marks an answer's start and end (...ForQuestionAnswering)"
    shorter = "give a smaller max_seq_len"

    def __call__(self, *inputs: object, **parameters: object) -> Any:  # noqa: ANN401 - a form for each kind of input
        """As the class says. One item in a list gives what the item gives, as transformers does."""
        asked: dict[str, object] = {key: parameters.pop(key) for key in ("question", "context") if key in parameters}
        older = [name for name in ("X", "data") if name in parameters]
        given = _items((*inputs, *(parameters.pop(name) for name in older)), asked)
        options = self.options(parameters)
        for name in older:
            warn(f"{name}: an older name of what is read; give question= and context=, or items with both")
        if isinstance(given, list) and len(given) == 1:
            [given] = given
        return self.run(given, options)

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`; what is no parameter's value is an `InputError`."""
        given = {key: value for key, value in given.items() if value is not None}
        options = super().options(renewed(given, "topk", "top_k", whole_number))
        for name, of in {
            "top_k": "answers", "max_answer_len": "tokens", "max_seq_len": "tokens", "max_question_len": "tokens",
        }.items():  # fmt: skip
            if options[name] is not None:
                options[name] = whole_number(name, options[name], of=of)
        if options["doc_stride"] is not None:
            options["doc_stride"] = whole_number("doc_stride", options["doc_stride"], least=0, of="tokens")
        return options

    def prepare(self, item: object, options: Options) -> Prepared:
        """As `EncoderPipeline.prepare`."""
        question, context = _checked(item)
        tokenizer = self.model.tokenizer
        if options["max_question_len"] is not None:
            question = _cut(self, question, options["max_question_len"])
        most = options["max_seq_len"] or min(self.max_tokens, WINDOW)
        stride = options["doc_stride"]
        usual = min(most // 2, SHARED) if stride is None else stride
        if usual > most:
            msg = f"doc_stride={usual}: more than a window's tokens, max_seq_len={most}; give a smaller one"
            raise InputError(msg)
        cutting = Cutting(
            most, "only_second", usual, side=tokenizer.cut_side, shrinks=stride is None, name="doc_stride"
        )
        windows = tokenizer.windows(question, context, cutting=cutting)
        return Prepared([self.whole(pieces) for pieces in windows], _Context(context, windows))

    def finish(self, prepared: Prepared, rows: list[Rows], options: Options) -> Answer | list[Answer]:
        """As `EncoderPipeline.finish`."""
        top_k, aligned = options["top_k"], options["align_to_words"]
        n = 2 * top_k + 10 if aligned else top_k  # several may be one word
        places: list[tuple[int, int, float]] = []
        null = np.inf
        for pieces, logits in zip(prepared.about.windows, rows, strict=True):
            context = np.array([text == 1 for text in pieces.texts])
            best = best_spans(logits, context, n, options["max_answer_len"])
            null = min(null, best.null)
            places += [(*_place(pieces, first, last, words=aligned), score) for first, last, score in best.spans]
        impossible = float(null) if options["handle_impossible_answer"] else None
        answers = best_answers(places, prepared.about.text, top_k, impossible)
        return answers[0] if len(answers) == 1 else answers


def _place(pieces: Pieces, first: int, last: int, *, words: bool) -> tuple[int, int]:
    """Characters of the context from a token to a token; `words`: of the whole words, as far as the window has them."""
    a, b = pieces.words[first], pieces.words[last]
    if not words or a is None or b is None:
        return pieces.offsets[first][0], pieces.offsets[last][1]
    inside = [n for n, text in enumerate(pieces.texts) if text == 1]
    start = next(pieces.offsets[n][0] for n in inside if pieces.words[n] == a)
    end = next(pieces.offsets[n][1] for n in reversed(inside) if pieces.words[n] == b)
    return start, end


def _cut(pipe: QuestionAnswering, question: str, most: int) -> str:
    """The question's first tokens."""
    [pieces] = pipe.model.tokenizer.windows(question, add_special_tokens=False)
    return question if len(pieces.ids) <= most else question[: pieces.offsets[most - 1][1]]


def _items(inputs: tuple[object, ...], asked: dict[str, object]) -> object:
    """What a call gives, as one item, a list of items, or what gives items."""
    if inputs and asked:
        msg = f"question-answering: {' and '.join(asked)} by name and an input by its place; give one of the two"
        raise InputError(msg)
    if len(inputs) == 1:
        return inputs[0]
    if inputs and all(isinstance(each, Mapping) for each in inputs):
        return list(inputs)
    if len(inputs) == 2 and all(isinstance(each, str) for each in inputs):  # noqa: PLR2004 - a question and a context
        asked = dict(zip(("question", "context"), inputs, strict=True))
    question, context = asked.get("question"), asked.get("context")
    if isinstance(question, str) and isinstance(context, str):
        return [asked]
    if isinstance(question, list) and isinstance(context, str):
        return [{"question": each, "context": context} for each in question]
    if isinstance(question, list) and isinstance(context, list):
        if len(question) != len(context):
            msg = f"question-answering: {len(question)} questions and {len(context)} contexts; give a context for each"
            raise InputError(msg)
        return [{"question": q, "context": c} for q, c in zip(question, context, strict=True)]
    msg = "question-answering: give question= and context=, each a text or a list, or items with both"
    raise InputError(msg)


def _checked(item: object) -> tuple[str, str]:
    texts = [item.get(key) for key in ("question", "context")] if isinstance(item, Mapping) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        msg = (
            f'question-answering: {shown(item)} found, expected {{"question": ..., "context": ...}}, two texts of '
            "which none is empty"
        )
        raise InputError(msg)
    return str(texts[0]), str(texts[1])
