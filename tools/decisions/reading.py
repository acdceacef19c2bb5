"""How likely each option of a question is to a model: by its next token, by what it would write, or by its head.

| a model that | reads | and compares |
|---|---|---|
| has a decision.json | `prompts.lettered`, in its chat template | its labels' logits, as transformers does |
| writes text | `prompts.asked`, in its chat template if it has one | log p of each option as the answer |
| has a head with a label "entailment" | state, and question with option, as a pair | logits of entailment |
| has a head with one label (a reranker) | the same | that logit |

log p of an option is the sum over its tokens where options are bare names, and the mean where they are sentences:
levels, and options with descriptions. `Model.choose` has both. A question of more options than decision.json has labels
for is compared so too.

Each question is computed by itself, whatever else is asked: its probabilities have the same bits.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from ...dataclass import dataclass
from ...errors import ConfigError, InputError, shown
from ...loader.decision import FILE, Decision, read_decision
from . import prompts
from .answers import probabilities
from .prompting import Prompting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Event

    from numpy.typing import NDArray

    from ...model import Model
    from .questions import Question

__all__ = ["Call", "Reader", "Reading", "reader_of"]

T = TypeVar("T")

#: Options that are computed before it is asked again whether somebody waits.
SOME = 32


@dataclass(frozen=True)
class Reading:
    """Of one question: the probability of each of its options, and how many tokens were read.

    `n_reused`: of these, what was in the cache, as of a state that an earlier question had read.
    """

    probabilities: list[float]
    n_tokens: int
    n_reused: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Call:
    """How a question is read. `gone`: set when nobody waits for it any more; `salt`: `cache_salt` of `Model.score`."""

    adapter: str | None = None
    gone: Event | None = None
    salt: str | None = None


#: Of who asks one question, and waits for it.
ALONE = Call()


class Reader(Protocol):
    """Reads questions by one model."""

    def read(self, state: str, question: Question, call: Call = ALONE) -> Reading:
        """How likely its options are.

        Errors: `InputError` where the question has no answer by this model, or does not fit its context.
        """


def reader_of(model: Model) -> Reader:
    """How this model is asked. Errors: `InputError` for one that cannot be; those of its files."""
    said, head = read_decision(model.directory), model.config.head
    if head is not None and head.kind == "classes":
        return _Judged(model)
    if not model.config.writes:
        msg = f"model: {model.config.family} with this head decides nothing; name one that writes text, a reranker or "
        msg += "an NLI model"
        raise InputError(msg)
    return _Written(model) if said is None else _Lettered(model, said)


def _some(options: list[T], gone: Event | None) -> Iterator[list[T]]:
    """So many at a time, as long as somebody waits. Errors: `InputError`."""
    for at in range(0, len(options), SOME):
        if gone is not None and gone.is_set():
            msg = "nobody waits for this question any more"
            raise InputError(msg)
        yield options[at : at + SOME]


class _Lettered(Prompting):
    def __init__(self, model: Model, said: Decision) -> None:
        super().__init__(model, chat=True)
        self._said, self._without = said, _Written(model)
        self._tokens = {kind: self._readable(kind, labels) for kind, labels in said.labels.items()}

    def _readable(self, kind: str, labels: tuple[str, ...]) -> list[int]:
        """The labels' tokens, up to the first label that is none, or another's. Errors: `ConfigError` without two."""
        tokens = list[int]()
        for label in labels:
            ids = self.tokenizer.encode(label, add_special_tokens=False)
            if len(ids) != 1 or ids[0] == self.tokenizer.unk_id or ids[0] in tokens:
                break
            tokens += ids
        if len(tokens) < len(prompts.YES_NO):
            msg = (
                f"{self.model.directory / FILE}: labels.{kind}: the label {shown(labels[len(tokens)])} is no token of "
            )
            msg += "this model's; expected labels of one token each"
            raise ConfigError(msg)
        return tokens

    def read(self, state: str, question: Question, call: Call = ALONE) -> Reading:
        labels, tokens, n = self._said.labels[question.kind], self._tokens[question.kind], len(question.options)
        if n > len(tokens):
            return self._without.read(state, question, call)
        order = list(range(n))
        if question.kind == "noul":
            order = [question.options.index(side) for side in self._said.noul_options]
        labels = labels[:n]
        ids, _ = self.prompt(prompts.lettered(state, question, labels, order))
        made = self.model.score(ids, [[token] for token in tokens[:n]], adapter=call.adapter, cache_salt=call.salt)
        likely = dict(zip(order, [each.sum for each in made], strict=True))
        p = probabilities([likely[i] for i in range(n)], self._said.temperature[question.kind])
        return Reading(p, len(ids), made[0].n_reused)


class _Written(Prompting):
    def __init__(self, model: Model) -> None:
        super().__init__(model)

    def read(self, state: str, question: Question, call: Call = ALONE) -> Reading:
        ids, before = self.prompt(prompts.asked(state, question))
        texts = prompts.written(question)
        options = [self.control.encode(self.control.marked(f"{before}{text}")) for text in texts]
        if not all(ids and text.strip() for ids, text in zip(options, texts, strict=True)):
            msg = "criteria: an option is empty; expected texts"
            raise InputError(msg)
        made = [
            each
            for some in _some(options, call.gone)
            for each in self.model.score(ids, some, adapter=call.adapter, cache_salt=call.salt)
        ]
        told = question.kind == "score" or (question.kind == "choice" and any(question.descriptions))
        p = probabilities([each.mean if told else each.sum for each in made])
        return Reading(p, len(ids) + sum(map(len, options)), made[0].n_reused)


class _Judged:
    """By a head for classes."""

    def __init__(self, model: Model) -> None:
        self.model, labels = model, [label.lower() for label in model.config.labels]
        self._entails = next((i for i, label in enumerate(labels) if label.startswith("entail")), None)
        self._denies = next((i for i, label in enumerate(labels) if label.startswith("contradict")), None)
        if self._denies is None and len(labels) == 2:  # noqa: PLR2004 - entailment, and not; a shift of both means nothing
            self._denies = 1 - (self._entails or 0)
        if len(labels) > 1 and self._entails is None:
            msg = f"model: its head has the labels {shown(list(model.config.labels))}; expected one, or one of them "
            msg += "called entailment: name a model that writes text, a reranker or an NLI model"
            raise InputError(msg)

    def read(self, state: str, question: Question, call: Call = ALONE) -> Reading:
        if not state.strip():
            msg = "state: is empty; this model compares it with each option"
            raise InputError(msg)
        said = [f"{question.instructions} {text}".strip() for text in self._options(question)]
        rows, n = self._rows(state, said, call)
        yes = rows[:, self._entails or 0]
        if question.kind != "noul" or len(said) > 1:
            return Reading(probabilities([float(x) for x in yes]), n)
        no = 0.0 if self._denies is None else float(rows[0, self._denies])
        return Reading(probabilities([float(yes[0]), no]), n)

    @staticmethod
    def _options(question: Question) -> list[str]:
        """What is judged: of a noul its true side, and the false one where it is described."""
        if question.kind != "noul":
            return prompts.written(question)
        true, false = question.descriptions
        return [true, false] if false else [true]

    def _rows(self, state: str, said: list[str], call: Call) -> tuple[NDArray[np.float32], int]:
        """Logits [pairs, labels], and tokens."""
        pairs = self.model.pairs
        number = self.model.adapter_number(call.adapter, "decide")
        made = [
            np.asarray(pairs.of([(state, each) for each in some], act="identity", adapter=number))
            for some in _some(said, call.gone)
        ]
        n = sum(len(self.model.tokenizer.framed(state.strip(), pair=each)[0]) for each in said)
        return np.concatenate(made).reshape(len(said), -1), n
