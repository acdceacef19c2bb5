"""What a model is measured with: a text or a task's examples, for what it loses, and for the time that it takes.

`seconds` is of one answer (latency: one at a time), or of one new token, or one example, where several are answered
together (throughput). Each turn has prompts of its own: what the cache holds of earlier ones would cost nothing.
"""

from __future__ import annotations

import time
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError
from ...runtime.floats import usual_floats
from ...runtime.sampling_params import ASK_TO_SAMPLE
from ..bench.quality import log_softmax
from ..perplexity import check_predicts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ...model import Model
    from ..evaluate.evaluation import Predict
    from ..evaluate.examples import Example
    from ..evaluate.tasks import Settings

__all__ = ["Goal", "Subject", "TaskSubject", "TextSubject"]

Goal = Literal["latency", "throughput"]

#: Numbers of logits that are kept of the whole model, about: 64 MiB.
KEPT = 2**24
#: Tokens of the text whose logits are compared, at least and at most, and in a window.
LEAST, TOKENS, WINDOW = 128, 2048, 256
#: Rows of logits that are compared at a time: float64 of so few stay in a cache.
ROWS = 16


class Subject(Protocol):
    """What is asked of every model. `how`: parameters of `generate` besides those that all have."""

    @property
    def unit(self) -> str:
        """What `seconds` are of."""

    @property
    def loses(self) -> str:
        """What `loss` is, for tables."""

    def whole(self, model: Model) -> None:
        """Keep what the reference answers."""

    def loss(self, model: Model, how: Mapping[str, Any]) -> float:
        """What this one loses against it; 0: nothing. InputError where they cannot be compared."""

    def warm(self, model: Model, how: Mapping[str, Any]) -> None:
        """Have everything compiled and read once."""

    def wake(self, model: Model) -> None:
        """Have the model's threads started."""

    def seconds(self, model: Model, turn: int, batch: int, how: Mapping[str, Any]) -> float:
        """Wall time a unit."""


@dataclass
class TextSubject:
    """A text of ids: the loss is the mean KL(whole || model) in nats over its tokens; its parts are the prompts.

    `judged` False: nothing is compared, the ids are prompts alone. `parameters`: of `generate`, how ids are drawn.
    """

    ids: Sequence[int]
    goal: Goal = "latency"
    prompt: int = 128
    new: int = 32
    judged: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)
    loses: str = "KL"
    exact: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """As `Subject` has it."""
        return "answer" if self.goal == "latency" else "token"

    def windows(self, model: Model) -> list[Sequence[int]]:
        """Ids of the text that are fed together: at most `TOKENS`, and about as many as `KEPT` logits are of."""
        ids = self.ids[: max(LEAST, min(TOKENS, KEPT // model.config.n_vocab))]
        size = min(WINDOW, model.n_context)
        return [ids[at : at + size] for at in range(0, len(ids), size)]

    def whole(self, model: Model) -> None:
        """As `Subject` has it."""
        if self.judged:
            check_predicts(model.config, "--text")
            self.exact = [model.logits(w) for w in self.windows(model)]

    @usual_floats()
    def loss(self, model: Model, how: Mapping[str, Any]) -> float:  # noqa: ARG002 - as `Subject` has it
        """Mean over the tokens of sum p log(p / q), in float64."""
        total, n = 0.0, 0
        for exact, ids in zip(self.exact, self.windows(model), strict=True):
            if max(ids) >= model.config.n_vocab or exact.shape[1] != model.config.n_vocab:
                msg = "the plan cuts the vocabulary, and its logits cannot be compared with the whole model's"
                raise InputError(msg)
            rows = model.logits(ids)
            for at in range(0, len(ids), ROWS):
                p, q = log_softmax(exact[at : at + ROWS]), log_softmax(rows[at : at + ROWS])
                total += float((np.exp(p) * (p - q)).sum())
            n += len(ids)
        return max(0.0, total / n)

    def warm(self, model: Model, how: Mapping[str, Any]) -> None:
        """As `Subject` has it."""
        prompt = self.prompts(model, -1, 1)[0]
        model.generate(prompt, **{"max_new_tokens": 3, "ignore_eos": True, **self.parameters, **how})

    def wake(self, model: Model) -> None:
        """As `Subject` has it."""
        model.generate([1], max_new_tokens=2, ignore_eos=True)

    def seconds(self, model: Model, turn: int, batch: int, how: Mapping[str, Any]) -> float:
        """As `Subject` has it."""
        prompts = self.prompts(model, turn, batch)
        every: dict[str, Any] = {"max_new_tokens": self.new, "ignore_eos": True, **self.parameters, **how}
        began = time.perf_counter()
        if self.goal == "latency":
            model.generate(prompts[0], **every)
            return time.perf_counter() - began
        model.generate_all(prompts, **every)
        return (time.perf_counter() - began) / (batch * self.new)

    def prompts(self, model: Model, turn: int, batch: int) -> list[list[int]]:
        """Parts of the text, from a place of their own; the first id is changed, so that no two begin alike."""
        n_vocab, out = model.config.n_vocab, []
        for number in range(turn * 64 + 1, turn * 64 + 1 + batch):
            at = number * 7919 % len(self.ids)
            part = [self.ids[(at + i) % len(self.ids)] for i in range(self.prompt)]
            out.append([number % n_vocab, *(i if i < n_vocab else 0 for i in part[1:])])
        return out


@dataclass
class TaskSubject:
    """A task's examples: the loss is how much less its first metric is, or of perplexity how much more, relatively.

    `seed`: of answers that are drawn.
    """

    task: str
    examples: Sequence[Example]
    settings: Settings
    goal: Goal = "latency"
    labels: Mapping[str, str] | None = None
    seed: int = 0
    metric: str = ""
    best: float = 0.0

    @property
    def unit(self) -> str:
        """As `Subject` has it."""
        return "example"

    @property
    def loses(self) -> str:
        """As `Subject` has it."""
        return f"{self.metric} lost"

    def whole(self, model: Model) -> None:
        """As `Subject` has it."""
        self.metric, self.best = self._measured(model, {})

    def loss(self, model: Model, how: Mapping[str, Any]) -> float:
        """As `Subject` has it."""
        _, value = self._measured(model, how)
        return max(0.0, value / self.best - 1 if self.task == "perplexity" else self.best - value)

    def warm(self, model: Model, how: Mapping[str, Any]) -> None:
        """As `Subject` has it."""
        examples, predict = self._asked(model, how)
        list(predict(examples[:1]))

    def wake(self, model: Model) -> None:
        """As `Subject` has it."""
        self.warm(model, {})

    def seconds(self, model: Model, turn: int, batch: int, how: Mapping[str, Any]) -> float:  # noqa: ARG002 - as `Subject` has it
        """As `Subject` has it."""
        examples, predict = self._asked(model, how)
        began = time.perf_counter()
        if self.goal == "latency":
            for example in examples:
                list(predict([example]))
        else:
            list(predict(examples))
        return (time.perf_counter() - began) / len(examples)

    def _asked(self, model: Model, how: Mapping[str, Any]) -> tuple[list[Example], Predict]:
        from ..evaluate.answers import fitted, of_model  # noqa: PLC0415 - imports the pipelines

        examples, settings = fitted(self.task, self.examples, model, self._settings(how), self.labels)
        return examples, of_model(self.task, model, settings)

    def _measured(self, model: Model, how: Mapping[str, Any]) -> tuple[str, float]:
        """The metric that the task is judged by."""
        from ..evaluate.answers import fitted, of_model  # noqa: PLC0415 - as above
        from ..evaluate.evaluation import evaluate  # noqa: PLC0415 - as above

        examples, settings = fitted(self.task, self.examples, model, self._settings(how), self.labels)
        metrics = evaluate(self.task, examples, of_model(self.task, model, settings), settings).measured.metrics
        return next(iter(metrics.items()))

    def _settings(self, how: Mapping[str, Any]) -> Settings:
        if not how:
            return self.settings
        asks = any(name in how for name in ASK_TO_SAMPLE)  # as of `generate`; some pipelines search with beams else
        sampled = {"do_sample": True, "num_beams": 1} if asks else {}
        return replace(self.settings, parameters={**self.settings.parameters, "seed": self.seed, **sampled, **how})
