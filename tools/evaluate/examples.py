"""What one example of a task holds: its texts, what is right, and where it was read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ...dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Choice", "Example", "Labelled", "Question", "Similar", "Tagged", "Target", "Text"]


@dataclass(frozen=True)
class Example:
    """`place`: file and line, for errors."""

    place: str
    #: Fields that hold text: a text, several, or none.
    TEXTS: ClassVar[tuple[str, ...]] = ()

    def swapped(self, swap: Callable[[str], str]) -> Self:
        """The example with `swap` of each of its texts."""

        def of(value: str | tuple[str, ...] | None) -> Any:  # noqa: ANN401 - of the field's type
            return value if value is None else swap(value) if isinstance(value, str) else tuple(map(swap, value))

        return replace(self, **{name: of(getattr(self, name)) for name in self.TEXTS})

    def texts(self) -> tuple[str, ...]:
        """Its texts."""
        values = [getattr(self, name) for name in self.TEXTS]
        return tuple(t for v in values if v is not None for t in ((v,) if isinstance(v, str) else v))


@dataclass(frozen=True)
class Labelled(Example):
    """A text, or a pair, and its class."""

    text: str
    pair: str | None
    label: str
    TEXTS = ("text", "pair")


@dataclass(frozen=True)
class Tagged(Example):
    """Units of a text, joined by `separator` (words, or characters and ""), and its entities."""

    words: tuple[str, ...]
    separator: str
    #: Type, number of the first unit, and of the last.
    entities: frozenset[tuple[str, int, int]]

    @property
    def text(self) -> str:
        """The units joined."""
        return self.separator.join(self.words)

    def offsets(self) -> list[tuple[int, int]]:
        """Where each unit begins and ends in the text, in characters."""
        out, at = [], 0
        for word in self.words:
            out.append((at, at + len(word)))
            at += len(word) + len(self.separator)
        return out

    def texts(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The example with other names of its entities' types."""
        return replace(self, entities=frozenset((names.get(kind, kind), i, j) for kind, i, j in self.entities))

    def swapped(self, swap: Callable[[str], str]) -> Self:
        """The example with `swap` of its text, cut into units again; its entities are those of the old text."""
        text = swap(self.text)
        return replace(self, words=tuple(text.split(self.separator) if self.separator else text))


@dataclass(frozen=True)
class Question(Example):
    """A question about a text; no answers: it cannot be answered."""

    name: str
    question: str
    context: str
    answers: tuple[str, ...]
    TEXTS = ("question", "context")


@dataclass(frozen=True)
class Target(Example):
    """A text, and what may be made of it."""

    source: str
    references: tuple[str, ...]
    TEXTS = ("source",)


@dataclass(frozen=True)
class Similar(Example):
    """Two texts, and how alike they are."""

    first: str
    second: str
    score: float
    TEXTS = ("first", "second")


@dataclass(frozen=True)
class Choice(Example):
    """A question, its choices, and the number of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int
    TEXTS = ("question", "choices")


@dataclass(frozen=True)
class Text(Example):
    """A text to predict."""

    text: str
    TEXTS = ("text",)
