"""The text of an answer, as it comes, to content, reasoning and calls.

A call is told once it is whole: a client never sees half of one that the model did not finish. What begins like a call
and is none stays content, as it was written. An answer that was cut off in the middle of a call loses that part: its
text is no sentence to anybody, and completing it would call what the model never asked for.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ....dataclass import dataclass
from .deltas import Call, Content, Delta, Reasoning
from .reading import BLANKS, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

__all__ = ["Format", "Parser"]

_ID_DIGITS = 24


@dataclass(frozen=True)
class Format:
    """How a model writes calls.

    `openers`: what begins a call in the middle of a text; `bare`: the character that may begin one where nothing was
    said before. `read`: from a parser whose reading stands after an opener, or before `bare`, to the place from which
    on what it read is content, or None where all of it was calls. `think`: what reasoning stands between, in pairs.
    `tidy`: white space around calls and reasoning is no part of the content. `breaks_off`: whether a call, of which
    `begins` comes after its opener, may end reasoning. `special`: spellings of tokens that the text must show.
    `short_ids`: a call's id has nine characters, as its templates demand.
    """

    name: str
    openers: tuple[str, ...]
    read: Callable[[Parser], Generator[None, None, int | None]]
    bare: str = ""
    think: tuple[tuple[str, str], ...] = (("<think>", "</think>"),)
    tidy: bool = True
    breaks_off: str = ""
    special: tuple[str, ...] = ()
    short_ids: bool = False


class Parser:
    """One answer's. `tools`: parameters' schemas by function; `key`: what ids of calls are made of.

    `thinks`: the prompt ended inside of reasoning, with this opener.
    """

    def __init__(
        self, form: Format, tools: Mapping[str, Mapping[str, Any]], key: str = "", *, thinks: str | None = None
    ) -> None:
        """Nothing was read yet."""
        self.form, self.tools, self.reading = form, tools, Reading()
        self._key, self._n_calls, self._cut, self._deltas = key, 0, False, list[Delta]()
        self._held = ""  # white space, of which it is not known yet whether it is said
        self._said = self._called = False  # something; a call, and nothing since
        self.thinking = False  # it is in the middle of reasoning
        self._running = self._answer(thinks)

    def feed(self, piece: str) -> list[Delta]:
        """What this piece of text makes certain."""
        self.reading.add(piece)
        return self._go_on()

    def end(self, *, cut: bool = False) -> list[Delta]:
        """What is left at the end; `cut`: a limit ended the answer, and not the model."""
        self.reading.ended, self._cut = True, cut
        return self._go_on()

    def _go_on(self) -> list[Delta]:
        next(self._running, None)
        made, self._deltas = self._deltas, []
        return made

    def call(self, name: str, arguments: str) -> None:
        """A whole call."""
        if self._said and not self.form.tidy:
            self._say(self._held)
        self._held, self._called = "", True
        digest = hashlib.sha256(f"{self._key}:{self._n_calls}".encode()).hexdigest()
        made_id = digest[:9] if self.form.short_ids else f"call_{digest[:_ID_DIGITS]}"
        self._deltas.append(Call(self._n_calls, made_id, name, arguments))
        self._n_calls += 1

    def _say(self, text: str) -> None:
        last = self._deltas[-1] if self._deltas else None
        if isinstance(last, Content):
            self._deltas[-1] = Content(last.text + text)
        elif text:
            self._deltas.append(Content(text))

    def _think(self, text: str) -> None:
        last = self._deltas[-1] if self._deltas else None
        if isinstance(last, Reasoning):
            self._deltas[-1] = Reasoning(last.text + text)
        elif text:
            self._deltas.append(Reasoning(text))

    def _answer(self, thinks: str | None) -> Generator[None, None, None]:
        opener = thinks
        if opener is None:
            blanks = yield from self.reading.blanks_ahead()
            opener = yield from self.reading.ahead(tuple(word for word, _ in self.form.think), blanks)
            if opener:
                self.reading.at += blanks + len(opener)
        if opener:
            self.thinking = True
            yield from self._reasoning(dict(self.form.think)[opener])
            self.thinking = False
            if self.form.tidy:
                yield from self.reading.skip_blanks()
        yield from self._content()

    def _reasoning(self, closer: str) -> Generator[None, None, None]:
        """Read reasoning and what closes it. White space around it is none."""
        reading, held = self.reading, ""
        yield from reading.skip_blanks()
        words = (closer, *(self.form.openers if self.form.breaks_off else ()))
        starts = {word[0] for word in words}
        while c := (yield from reading.peek()):
            word = (yield from reading.ahead(words)) if c in starts else ""
            if word == closer:
                reading.at += len(word)
                return
            if word and (yield from self._breaks_off(word)):
                return
            held += c
            if c not in BLANKS:
                self._think(held)
                held = ""
            reading.at += 1
            reading.forget()

    def _breaks_off(self, opener: str) -> Generator[None, None, bool]:
        """Whether a call comes here, though reasoning did not end."""
        if opener == self.form.breaks_off:
            return True
        blanks = yield from self.reading.blanks_ahead(len(opener))
        found = yield from self.reading.ahead((self.form.breaks_off,), len(opener) + blanks)
        return bool(found)

    def _content(self) -> Generator[None, None, None]:
        """Read content, and the calls in it."""
        reading = self.reading
        starts = {word[0] for word in self.form.openers}
        while c := (yield from reading.peek()):
            word = (yield from reading.ahead(self.form.openers)) if c in starts else ""
            if word or (c == self.form.bare and not self._said):
                yield from self._calls(word)
            else:
                self._held += c
                reading.at += 1
                if c not in BLANKS:
                    self._speak("")
            reading.forget()
        if not self._called:
            self._say(self._held)

    def _calls(self, opener: str) -> Generator[None, None, None]:
        """Read calls, or what only begins like them."""
        reading, before = self.reading, self._n_calls
        start = reading.at
        reading.at += len(opener)
        content_from = yield from self.form.read(self)
        if self._n_calls > before:
            start = reading.at if content_from is None else content_from
        if self._cut and reading.ended and reading.at >= len(reading.text):
            self._held, self._called = "", True
        elif reading.at > start:
            self._speak(reading.text[start : reading.at])

    def _speak(self, text: str) -> None:
        """Say what was held, and this."""
        self._say(self._held + text)
        self._held, self._said, self._called = "", True, False
