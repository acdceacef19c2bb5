"""What all pipelines share: parameters by name, forms of input, and the encoder's passes.

`Pipeline` is a model and a task; a call takes one thing, a list, an iterator or a file, and gives back the same form in
the same order. An iterator is read as results are asked for, a pass ahead at most, so that memory stays bounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError, is_iterable, numbered, shown
from ...runtime.encoding import Whole, scored
from ...runtime.memory import memory_named
from ...runtime.parameters import check_names, switch
from ...runtime.sampling import damaged
from ..held import Holder
from .inputs import barred, file_items

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from ...loader.text.pieces import Pieces
    from ...model import Model
    from ...runtime.spec import HeadKind

    Rows = NDArray[np.float32]

__all__ = ["EncoderPipeline", "Options", "Pipeline", "Prepared", "placed"]

Options = dict[str, Any]
#: transformers' parameters that have no effect here: passes are packed by tokens, without padding.
NO_EFFECT = ("batch_size", "num_workers")
#: Parameters of every pipeline: the name of the adapter, of `load(adapters=...)`, that reads and writes the text.
EVERY: Options = {"adapter": None}


class Pipeline(Holder, ABC):
    """A model that does a task: `pipe(inputs, **parameters)`. `task` is its name, `model` what it runs.

    A subclass says its `parameters` and their defaults, checks its model in `check`, and gives a result for each item
    in `stream`. Closing it closes a model that it has loaded itself.
    """

    #: Call parameters by name, with their defaults; both the constructor and a call take them.
    parameters: ClassVar[Mapping[str, object]] = {}
    #: Those that are True or False; None stands for the default.
    switches: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, model: Model, task: str, given: Mapping[str, object] | None = None, *, owned: bool = False
    ) -> None:
        """`given`: parameters in place of the defaults; `owned`: the model is closed with the pipeline.

        Errors: `InputError` for a model that cannot do the task, and for parameters that it does not have.
        """
        super().__init__(model, owned=owned)
        self.task = task
        self._settings: Options = dict(self.parameters)
        self.check()
        self._settings = self.options(given or {})

    @abstractmethod
    def check(self) -> None:
        """Errors: `InputError` for a model that cannot do the task."""

    @abstractmethod
    def stream(self, items: Iterator[Any], options: Options, *, numbered: bool) -> Iterator[Any]:
        """A result for each item, in order, taken from `items` as they are needed.

        `numbered`: an error about an item says which (`placed`); otherwise there is only one.
        """

    def single(self, inputs: object, options: Options) -> bool:  # noqa: ARG002 - tasks that take a list as one
        """Whether `inputs` is one item, not several."""
        return isinstance(inputs, str | Mapping)

    def options(self, given: Mapping[str, object]) -> Options:
        """The parameters of a call: `given`, else the constructor's, else the defaults. Errors: `InputError`."""
        check_names(given, [*self.parameters, *EVERY, *NO_EFFECT], f"parameter of {self.task}")
        options = EVERY | self._settings | {key: value for key, value in given.items() if key not in NO_EFFECT}
        self.model.session.adapters.number(options["adapter"], self.task)
        for name in self.switches:
            value = options[name]
            options[name] = self.parameters[name] if value is None else switch(name, value)
        return options

    def __call__(self, inputs: object, **parameters: object) -> Any:  # noqa: ANN401 - a form for each task
        """One item gives its result, a list a list; an iterator, or a file's `Path`, an iterator. `InputError`."""
        return self.run(inputs, self.options(parameters))

    def run(self, inputs: object, options: Options) -> Any:  # noqa: ANN401 - as above
        """As a call, with all parameters resolved."""
        if self.single(inputs, options):
            with memory_named(self.task):
                return next(iter(self.stream(iter([inputs]), options, numbered=False)))
        if isinstance(inputs, list | tuple):
            with memory_named(self.task):
                return list(barred(self.stream(iter(inputs), options, numbered=True), len(inputs), self.task))
        if isinstance(inputs, Path):
            return self.stream(file_items(inputs), options, numbered=True)
        if is_iterable(inputs) and not isinstance(inputs, bytes):
            return self.stream(iter(inputs), options, numbered=True)
        msg = f"{self.task}: {shown(inputs)} found, expected a text, a list, an iterator, or a file as a pathlib.Path"
        raise InputError(msg)

    def __repr__(self) -> str:
        """Task and model."""
        return f"<miaotui {self.task} pipeline of {self.model!r}>"


def placed(number: int | None) -> AbstractContextManager[None]:
    """An error from inside says which item of several it is about; None: there is one."""
    return numbered(number, "item {} of the input")


@dataclass(frozen=True)
class Prepared:
    """An item as the encoder reads it: one or more texts of tokens, and what is needed to read their results."""

    wholes: list[Whole]
    about: Any = None


class EncoderPipeline(Pipeline):
    """Of an encoder with a head: items become texts of tokens, which passes take as they fit, and its rows results.

    A subclass says which heads can do its task, and gives `prepare` and `finish`.
    """

    heads: ClassVar[tuple[HeadKind, ...]] = ()
    #: What a config.json names that has such a head, in errors.
    needs: ClassVar[str] = ""

    @abstractmethod
    def prepare(self, item: object, options: Options) -> Prepared:
        """Errors: `InputError` for an item that the task does not take, or the model has no room for."""

    @abstractmethod
    def finish(self, prepared: Prepared, rows: list[Rows], options: Options) -> object:
        """The result of an item, from the head's results for each of its texts."""

    def check(self) -> None:
        """Errors: `InputError` for a decoder, an encoder-decoder or another head; `TokenizerError`."""
        config = self.model.config
        if config.head is not None and config.head.kind in self.heads:
            self.model.tokenizer  # noqa: B018 - reads it: TokenizerError where there is none
            return
        kind = config.kind
        head = f" whose head is for {config.head.kind}" if config.head is not None else ""
        head = " without a head (architectures in config.json)" if kind == "an encoder" and not head else head
        msg = f"{self.task}: this {config.family} model is {kind}{head}; expected {self.needs}"
        raise InputError(msg)

    def stream(self, items: Iterator[Any], options: Options, *, numbered: bool) -> Iterator[Any]:
        """As `Pipeline.stream`."""
        waiting: deque[tuple[int | None, Prepared]] = deque()
        adapter = self.model.session.adapters.number(options["adapter"], self.task)

        def wholes() -> Iterator[Whole]:
            for n, item in enumerate(items):
                number = n if numbered else None
                with placed(number):
                    prepared = self.prepare(item, options)
                waiting.append((number, prepared))
                yield from (replace(whole, adapter=adapter) for whole in prepared.wholes)

        def finished(rows: list[Rows]) -> object:
            number, prepared = waiting.popleft()
            with placed(number):
                self.check_numbers(rows)
            return self.finish(prepared, rows, options)

        got: list[Rows] = []
        for row in self.rows(wholes()):
            while not waiting[0][1].wholes:
                yield finished([])
            got.append(row)
            if len(got) == len(waiting[0][1].wholes):
                yield finished(got)
                got = []
        while waiting:
            yield finished([])

    def check_numbers(self, rows: list[Rows]) -> None:
        """Errors: `InputError` for a head's results that are NaN or infinite: any label would pass for an answer."""
        if self.heads and not all((row < np.inf).all() for row in rows):
            what = f"{self.task}: the model's results are not numbers (NaN), so there is no answer"
            raise damaged(what)

    def rows(self, wholes: Iterator[Whole]) -> Iterator[Rows]:
        """The model's results for each text of tokens."""
        return scored(self.model.session, self.model.config, wholes)

    def whole(self, pieces: Pieces) -> Whole:
        """What the encoder reads of tokens. Errors: `InputError` for more than it has positions."""
        n, most = len(pieces.ids), self.model.n_context
        if n > most:
            over = f"load with max_context={n}, or " if n <= self.model.config.n_context else ""
            msg = f"{self.task}: {n} tokens, this model takes {most}; {over}{self.shorter}"
            raise InputError(msg)
        return Whole(pieces.ids, pieces.types if self.model.config.n_types > 1 else None)

    #: What to do about a text that is too long.
    shorter: ClassVar[str] = "give a shorter text, or truncation=True"

    @property
    def max_tokens(self) -> int:
        """Tokens of a text, the frame among them: what tokenizer_config.json says, at most the model's positions."""
        said = self.model.tokenizer.max_tokens
        return self.model.n_context if said is None else min(said, self.model.n_context)
