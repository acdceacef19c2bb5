"""token-classification (ner): a label for every token, or entities: words of one kind, with their place in the text."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError, shown
from ...loader.text.pieces import Cutting
from ...runtime.parameters import one_of, switch, whole_number
from ...runtime.tasks.entities import STRATEGIES, Token, gathered, without_overlaps
from ...runtime.tasks.labels import softmax
from ..notes import warn
from .base import EncoderPipeline, Prepared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...loader.text.pieces import Pieces
    from .base import Options, Rows

__all__ = ["TokenClassification"]


@dataclass(frozen=True)
class _Text:
    """A text, and the tokens of each of its windows with their numbers there."""

    text: str
    windows: list[list[Token]]


class TokenClassification(EncoderPipeline):
    """`pipe(text)`: `[{"entity", "score", "index", "word", "start", "end"}]`, a token each.

    With an `aggregation_strategy` other than "none" entities: `[{"entity_group", "score", "word", "start", "end"}]`.
    start and end count characters (code points): `text[start:end]`. A text longer than the model reads is cut, with a
    warning; with `stride` it is read in windows that share this many tokens. `is_split_into_words`: an item is a list
    of words, which `delimiter` joins. `ignore_labels`: what is left out. `grouped_entities` and `ignore_subwords` are
    older names of the strategies "simple" and "first".
    """

    parameters: ClassVar[Mapping[str, object]] = {
        "aggregation_strategy": "none", "ignore_labels": ("O",), "stride": None, "is_split_into_words": False,
        "delimiter": " ", "grouped_entities": None, "ignore_subwords": None,
    }  # fmt: skip
    switches = ("is_split_into_words",)
    heads = ("token_classes",)
    needs = "a model that gives each token classes (...ForTokenClassification)"

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`; what is no parameter's value is an `InputError`."""
        options = super().options(_named_strategy({key: v for key, v in given.items() if v is not None}))
        strategy, ignored = options["aggregation_strategy"], options["ignore_labels"]
        strategy = strategy.lower() if isinstance(strategy, str) else strategy
        strategy = one_of("aggregation_strategy", strategy, STRATEGIES)
        if isinstance(ignored, str) or not isinstance(ignored, list | tuple | set | frozenset):
            msg = f"ignore_labels={shown(ignored)}: expected a list of labels"
            raise InputError(msg)
        if not isinstance(options["delimiter"], str):
            msg = f"delimiter={shown(options['delimiter'])}: expected a text"
            raise InputError(msg)
        if options["stride"] is not None:
            whole_number("stride", options["stride"], least=0, of="tokens")
            if strategy == "none":
                msg = "stride: windows are joined by their entities; give an aggregation_strategy other than none too"
                raise InputError(msg)
        return options | {"aggregation_strategy": strategy}

    def single(self, inputs: object, options: Options) -> bool:
        """A text; or a list of words, none of which is a list."""
        if options["is_split_into_words"] and isinstance(inputs, list | tuple):
            return not all(isinstance(each, list | tuple) for each in inputs)
        return super().single(inputs, options)

    def __call__(self, inputs: object, **parameters: object) -> Any:  # noqa: ANN401 - a form for each kind of input
        """As `Pipeline.__call__`; the words of one text give a list of one, as transformers does."""
        options = self.options(parameters)
        result = self.run(inputs, options)
        words = options["is_split_into_words"] and isinstance(inputs, list | tuple) and self.single(inputs, options)
        return [result] if words else result

    def prepare(self, item: object, options: Options) -> Prepared:
        """As `EncoderPipeline.prepare`."""
        tokenizer, starts = self.model.tokenizer, [0]
        given: str | list[str]
        if options["is_split_into_words"]:
            given = _words(item)
            text = options["delimiter"].join(given)
            starts = [0, *accumulate(len(word) + len(options["delimiter"]) for word in given)]
        elif isinstance(item, str):
            given = text = item
        else:
            msg = f"{self.task}: {shown(item)} found, expected a text; of words, with is_split_into_words=True, a list"
            raise InputError(msg)
        stride, words = options["stride"], bool(options["is_split_into_words"])
        cutting = Cutting(self.max_tokens, stride=stride or 0, side=tokenizer.cut_side)
        windows = tokenizer.windows(given, cutting=cutting)
        if len(windows) > 1 and stride is None:
            warn(
                f"{self.task}: a text is longer than the {self.max_tokens} tokens that are read, and its end is left "
                "out; with stride= and an aggregation_strategy all of it is read"
            )
            windows = windows[:1]
        tokens = [self._tokens(pieces, text, starts if words else None) for pieces in windows]
        return Prepared([self.whole(pieces) for pieces in windows], _Text(text, tokens))

    def _tokens(self, pieces: Pieces, text: str, starts: list[int] | None) -> list[Token]:
        """Without the frame. `starts`: of each word, where places are those in it."""
        tokenizer, tokens = self.model.tokenizer, []
        for n, (i, (start, end), word) in enumerate(zip(pieces.ids, pieces.offsets, pieces.words, strict=True)):
            if pieces.special[n]:
                continue
            at = 0 if starts is None or word is None else starts[word]
            start, end = start + at, end + at  # noqa: PLW2901 - in the text
            spelled = tokenizer.id_to_token(i) or ""
            if tokenizer.word_aware:
                goes_on = len(spelled) != end - start
            else:  # pieces that know no words: what no space stands before
                goes_on = start > 0 and " " not in text[start - 1 : start + 1]
            unknown = i == tokenizer.unk_id
            tokens.append(Token(n, text[start:end] if unknown else spelled, start, end, goes_on and not unknown))
        return tokens

    def finish(self, prepared: Prepared, rows: list[Rows], options: Options) -> list[dict[str, Any]]:
        """As `EncoderPipeline.finish`."""
        out: list[dict[str, Any]] = []
        labels, ignored = self.model.config.labels, options["ignore_labels"]
        for tokens, logits in zip(prepared.about.windows, rows, strict=True):
            scores = softmax(logits[np.array([token.index for token in tokens], np.int64)])
            entities = gathered(tokens, scores, labels, options["aggregation_strategy"], self.model.tokenizer.joined)
            out += [e for e in entities if e.get("entity") not in ignored and e.get("entity_group") not in ignored]
        return without_overlaps(out) if len(rows) > 1 else out


def _named_strategy(given: Mapping[str, object]) -> Mapping[str, object]:
    """With `aggregation_strategy` in the place of its older names, which win over it, as in transformers 4.57.6."""
    older = [name for name in ("grouped_entities", "ignore_subwords") if name in given]
    if not older:
        return given
    grouped, whole = (
        given.get(name) is not None and switch(name, given[name]) for name in ("grouped_entities", "ignore_subwords")
    )
    strategy = "none" if not grouped else "first" if whole else "simple"
    warn(f"{' and '.join(older)}: an older name of aggregation_strategy={strategy!r}; give that")
    return {key: value for key, value in given.items() if key not in older} | {"aggregation_strategy": strategy}


def _words(item: object) -> list[str]:
    if not isinstance(item, list | tuple) or not all(isinstance(word, str) for word in item):
        msg = f"is_split_into_words: {shown(item)} found, expected a list of words"
        raise InputError(msg)
    return list(item)
