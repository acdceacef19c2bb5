"""From a request to the engine and back: what is asked, in the engine's words, and the pieces of its answers.

A wire format makes an `Ask` (in a thread: it renders and tokenises), and dresses the pieces that `Answering` yields.
What a model writes may be more than text (calls of tools, reasoning): an `Ask` may bring its own `Reader` for each
answer, which turns the text's pieces into deltas.
"""

from __future__ import annotations

import time
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from ...dataclass import dataclass
from ...runtime.asynchronous import merged
from ...runtime.generate import retold
from .errors import RequestError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from ...runtime.generate import Token
    from ...runtime.logprobs import Logprob
    from ...runtime.parameters import GenerateKwargs
    from .metrics import Metrics
    from .served import Entry

__all__ = ["Answer", "Answering", "Ask", "Delta", "Finish", "Piece", "Plain", "Prompt", "Reader", "Usage"]

#: Why an answer ended, in OpenAI's words.
Finish = Literal["stop", "length", "content_filter", "tool_calls"]
_FINISHES: dict[str, Finish] = {
    "eos": "stop", "stop": "stop", "length": "length", "context": "length", "filter": "content_filter",
}  # fmt: skip


@dataclass(frozen=True)
class Delta:
    """What a piece adds to an answer: text, reasoning, or parts of calls (as OpenAI's deltas have them)."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()


class Reader(Protocol):
    """Reads one answer's text as it comes, and tells what it is. The text may be cut anywhere."""

    def feed(self, text: str) -> Sequence[Delta]:
        """What is known after another piece."""

    def end(self, *, cut: bool = False) -> Sequence[Delta]:
        """What was held back; `cut`: a limit ended the answer, and not the model."""

    @property
    def called(self) -> bool:
        """Whether there was a call."""


class Plain:
    """All of it is text."""

    called = False

    def feed(self, text: str) -> Sequence[Delta]:
        """The same text."""
        return (Delta(text),) if text else ()

    def end(self, *, cut: bool = False) -> Sequence[Delta]:  # noqa: ARG002 - a `Reader`'s
        """Nothing is held back."""
        return ()


@dataclass(frozen=True)
class Prompt:
    """Ids that are read, and their text where it is known and shown (`echo`)."""

    ids: list[int]
    text: str = ""


@dataclass(frozen=True)
class Ask:
    """One request: prompts, the parameters of `generate`, and how many answers to each.

    `reader`: makes what reads the text of answer number `index`; `more`: what else the wire format has to remember.
    """

    entry: Entry
    prompts: tuple[Prompt, ...]
    parameters: GenerateKwargs
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    reader: Callable[[int], Reader] = lambda _: Plain()
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def n_answers(self) -> int:
        """Answers of all prompts together."""
        return self.n * len(self.prompts)

    @property
    def beams(self) -> int:
        """Texts that a search goes on with; 1: there is none."""
        return self.parameters.get("num_beams") or 1  # type: ignore[return-value]  # it was checked

    @property
    def greedy(self) -> bool:
        """Whether all answers to one prompt are the same."""
        return self.beams == 1 and not self.parameters.get("temperature") and not self.parameters.get("do_sample")

    def salted(self, salt: str | None) -> Ask:
        """The same, for a key whose texts reuse nothing of others'; its own salts tell them apart further."""
        if salt is None:
            return self
        own = self.parameters.get("cache_salt")
        return replace(self, parameters={**self.parameters, "cache_salt": salt if own is None else f"{salt} {own}"})

    @property
    def n_tokens(self) -> int:
        """Tokens of prompts and answers, at most."""
        n_context = self.entry.model.n_context
        new = self.parameters.get("max_new_tokens")
        each = (min(n_context, len(p.ids) + (n_context if new is None else int(new))) for p in self.prompts)
        return sum(each) * (self.beams if self.beams > 1 else 1 if self.greedy else self.n)


@dataclass
class Usage:
    """Tokens of prompts, of these those that were in the cache, and of answers."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.completion


@dataclass(frozen=True)
class Piece:
    """A part of answer number `index`: what it adds, the ids that it is made of, and at the end why it ended.

    `logprobs` are those of the ids, and before the first id those of the prompt's (`echo`). `seed`: of a drawn answer,
    with its end; `score`: of one that a search found.
    """

    index: int
    deltas: tuple[Delta, ...]
    ids: tuple[int, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    finish: Finish | None = None
    seed: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    index: int
    content: str
    reasoning: str
    tool_calls: list[dict[str, Any]]
    ids: list[int]
    logprobs: list[Logprob]
    finish: Finish
    seed: int | None
    score: float | None


class Answering:
    """The answers to an `Ask`, as they come. `usage` is complete when they are."""

    def __init__(self, ask: Ask, metrics: Metrics, began: float, searches: asyncio.Semaphore) -> None:
        """Nothing is computed yet. `began`: when the request came (`time.monotonic`); `searches`: of beams at once."""
        self.ask, self.usage, self._metrics, self._began, self._searches = ask, Usage(), metrics, began, searches
        self._made: AsyncGenerator[tuple[int, tuple[int, Token]], None] | None = None
        self._copies = ask.n if ask.greedy and ask.n > 1 else 1
        self._readers = [ask.reader(i) for i in range(ask.n_answers)]
        self._scores = dict[int, float | None]()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces of all answers, in the order in which they come. Errors: those of `generate`."""
        ask, begun = self.ask, False
        self._made = merged([self._one(prompt, i * ask.n) for i, prompt in enumerate(ask.prompts)])
        async for i, (number, token) in self._made:
            if not begun:
                begun = True
                self._metrics.began(ask.entry.name, time.monotonic() - self._began)
            self._count(token, number)
            for copy in range(self._copies):
                yield self._piece(i * ask.n + number + copy, token)

    async def aclose(self) -> None:
        """Compute nothing more, wherever the reader of the pieces is; and count the tokens."""
        if self._made is not None:
            await self._made.aclose()
        self._metrics.used(self.ask.entry.name, self.usage)

    def _one(self, prompt: Prompt, first: int) -> AsyncGenerator[tuple[int, Token], None]:
        """The answers to a prompt, by their numbers among them; `first`: that of the first among all."""
        ask = self.ask
        more: GenerateKwargs = {"n": 1 if ask.greedy else ask.n, "adapter": ask.entry.adapter}
        parameters = cast("GenerateKwargs", {**more, **ask.parameters})
        if ask.beams > 1:
            return self._found(prompt, parameters, first)
        return ask.entry.model.achoices(prompt.ids, **parameters)

    async def _found(
        self, prompt: Prompt, parameters: GenerateKwargs, first: int
    ) -> AsyncGenerator[tuple[int, Token], None]:
        """The best answers of a search, whole."""
        async with self._searches:
            made = await self.ask.entry.model.agenerate(prompt.ids, **parameters)
        for number, answer in enumerate((made, *made.alternatives)):
            self._scores[first + number] = answer.score
            for token in retold(answer):
                yield number, token

    def _count(self, token: Token, number: int) -> None:
        if token.timings is None:
            return
        if number == 0:
            self.usage.prompt += token.timings.n_prompt
            self.usage.cached += token.timings.n_reused
        self.usage.completion += token.timings.n_new * self._copies

    def _piece(self, index: int, token: Token) -> Piece:
        reader = self._readers[index]
        deltas = tuple(reader.feed(token.text))
        ids = () if token.id is None else (token.id,)
        if token.finish_reason is None:
            return Piece(index, deltas, ids, token.logprobs)
        finish = _FINISHES[token.finish_reason]
        deltas += tuple(reader.end(cut=finish == "length"))
        if reader.called and finish == "stop":
            finish = "tool_calls"
        return Piece(index, deltas, ids, token.logprobs, finish, token.seed, self._scores.get(index))

    async def whole(self) -> list[Answer]:
        """All answers, in order. Errors: those of `generate`."""
        parts: list[list[Piece]] = [[] for _ in range(self.ask.n_answers)]
        async for piece in self.pieces():
            parts[piece.index].append(piece)
        made = [_joined(i, pieces) for i, pieces in enumerate(parts)]
        return [self._with_echo(answer, made) for answer in made]

    def _with_echo(self, answer: Answer, made: list[Answer]) -> Answer:
        """The prompt's log-probabilities are told with the first of its answers; all have them."""
        if not self.ask.parameters.get("echo") or answer.index % self.ask.n == 0 or self._copies > 1:
            return answer
        first = made[answer.index - answer.index % self.ask.n]
        return replace(answer, logprobs=first.logprobs[: len(first.logprobs) - len(first.ids)] + answer.logprobs)


def _joined(index: int, pieces: list[Piece]) -> Answer:
    if not pieces or (finish := pieces[-1].finish) is None:
        msg = "the answer ended before its time"
        raise RequestError(msg, status=500, code="internal")
    deltas = [delta for piece in pieces for delta in piece.deltas]
    calls: dict[int, dict[str, Any]] = {}
    for call in (call for delta in deltas for call in delta.tool_calls):
        _add_call(calls, call)
    return Answer(
        index,
        "".join(delta.content for delta in deltas),
        "".join(delta.reasoning for delta in deltas),
        [calls[i] for i in sorted(calls)],
        [i for piece in pieces for i in piece.ids],
        [told for piece in pieces for told in piece.logprobs],
        finish,
        pieces[-1].seed,
        pieces[-1].score,
    )


def _add_call(calls: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    """Join the parts of a call: its id and name come first, its arguments in pieces."""
    call = calls.setdefault(part["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call["id"] = part.get("id", call["id"])
    function = part.get("function", {})
    call["function"]["name"] += function.get("name", "")
    call["function"]["arguments"] += function.get("arguments", "")
