"""A rule: what is looked for, and what becomes of it. Built from what a user wrote, and checked there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from ...dataclass import dataclass
from ...errors import InputError, is_iterable, shown
from ..parameters import check_names, one_of, switch, whole_number
from .automaton import Automaton, Threads
from .folding import FORMS, Folded, Form, fold
from .patterns import parse, width
from .words import Words, WordThreads

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ACTIONS", "Action", "FilterRule", "Finding", "Search", "rules_from"]

#: "mask": something else is shown in its place; "block": the answer ends, its `finish_reason` is "filter"; "stop": it
#: ends as at a stop string.
Action = Literal["mask", "block", "stop"]
ACTIONS: tuple[Action, ...] = get_args(Action)

#: What a mask shows.
MASK = "***"
#: Of an expression whose matches could be longer: where no `max_length` is given, and at most.
USUAL_LENGTH, MOST_LENGTH = 256, 4096
#: Most characters of an expression, most rules.
MOST_PATTERN, MOST_RULES = 10_000, 1000


@dataclass(frozen=True)
class Finding:
    """What a rule has met: `start` and `end` count code points of the answer as the model wrote it."""

    rule: str
    kind: str
    action: Action
    start: int
    end: int


class _Threads(Protocol):
    """A rule's matches in one (folded) text."""

    matches: list[tuple[int, int]]
    lags: bool

    @property
    def live(self) -> int: ...

    def push(self, c: str) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class FilterRule:
    """`words`, or a `regex`, and an `action`.

    Words are looked for as whole words (`whole_words`), without case (`ignore_case`) and in the form `normalize`
    ("NFKC" also overlooks characters that are not seen); a regex as it stands, in the text as it is. Matches of a regex
    have at most `max_length` characters (default: its own longest; 256 where it has none). `replacement`: what a mask
    shows in place of a match (default: ***), or a block at the answer's end (default: nothing).
    """

    name: str = ""
    words: tuple[str, ...] = ()
    regex: str | None = None
    action: Action = "mask"
    replacement: str | None = None
    whole_words: bool | None = None
    ignore_case: bool | None = None
    normalize: Form | Literal["none"] | None = None
    max_length: int | None = None
    _compiled: Automaton | Words = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every value, and compile. Errors: `InputError`."""
        for name in ("name", "replacement", "regex"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                msg = f"{name}={shown(value)}: expected a text"
                raise InputError(msg)
        one_of("action", self.action, ACTIONS)
        object.__setattr__(self, "words", _word_list(self.words))
        if bool(self.words) == (self.regex is not None):
            msg = f"{'both' if self.words else 'neither'} words and regex found; a rule has one of them"
            raise InputError(msg if self.words else msg.replace(" and ", " nor "))
        self._defaults(is_words=bool(self.words))
        if self.replacement is not None and self.action == "stop":
            msg = "replacement: of mask and block; the answer of a stop ends as at a stop string"
            raise InputError(msg)
        if self.replacement == "" and self.action == "mask":
            msg = (
                "replacement='': what stands on both sides would join, perhaps to what another rule hides; give a text"
            )
            raise InputError(msg)
        object.__setattr__(self, "_compiled", self._compiled_words() if self.words else self._compiled_regex())

    def _defaults(self, *, is_words: bool) -> None:
        for name in ("whole_words", "ignore_case"):
            given = getattr(self, name)
            object.__setattr__(self, name, is_words if given is None else switch(name, given))
        if self.normalize is None:
            object.__setattr__(self, "normalize", "NFKC" if is_words else "none")
        one_of("normalize", self.normalize, (*FORMS, "none"))
        if self.max_length is not None:
            whole_number("max_length", self.max_length, most=MOST_LENGTH, of="characters")
        if is_words and self.max_length is not None:
            msg = "max_length: of a regex; a word is as long as it is"
            raise InputError(msg)
        if not is_words and self.whole_words:
            msg = r"whole_words: of words; write \b in a regex"
            raise InputError(msg)
        if not self.name:
            object.__setattr__(self, "name", "words" if is_words else self.regex)

    @property
    def kind(self) -> str:
        """What is looked for."""
        return "words" if self.words else "regex"

    @property
    def form(self) -> Form | None:
        """The Unicode form that the text is brought to."""
        return None if self.normalize in {None, "none"} else self.normalize  # type: ignore[return-value]

    @property
    def shown_for_it(self) -> str:
        """What is shown in place of a match, or at the answer's end."""
        return self.replacement if self.replacement is not None else MASK if self.action == "mask" else ""

    def _compiled_words(self) -> Words:
        folded = []
        for i, word in enumerate(self.words):
            folded.append(fold(word, self.form, ignore_case=bool(self.ignore_case)).strip())
            if not folded[-1]:
                msg = f"words[{i}]={shown(word)}: nothing is left of it to look for"
                raise InputError(msg)
        try:
            return Words(folded, whole=bool(self.whole_words))
        except InputError as e:
            msg = f"words: the list {e}"
            raise InputError(msg) from None

    def _compiled_regex(self) -> Automaton:
        regex = self.regex or ""
        where = f"regex={shown(regex, 80)}"
        if len(regex) > MOST_PATTERN:
            msg = f"{where}: has {len(regex)} characters, expected at most {MOST_PATTERN}"
            raise InputError(msg)
        try:
            tree = parse(regex, ignore_case=bool(self.ignore_case))
            least, most = width(tree)
            longest = self.max_length or min(most or USUAL_LENGTH, MOST_LENGTH)
            automaton = Automaton(tree, longest)
        except InputError as e:
            msg = f"{where}: {e}"
            raise InputError(msg) from None
        except RecursionError:
            msg = f"{where}: is nested too deeply"
            raise InputError(msg) from None
        if least == 0:
            msg = f"{where}: it matches the empty text, so it would match everywhere; let it match at least a character"
            raise InputError(msg)
        if longest < least:
            msg = f"max_length={longest}: the shortest match of {where} has {least} characters"
            raise InputError(msg)
        object.__setattr__(self, "max_length", longest)
        return automaton

    @cached_property
    def described(self) -> dict[str, Any]:
        """Everything that a decision depends on, as JSON has it."""
        return {name: getattr(self, name) for name in _FIELDS}

    def threads(self) -> _Threads:
        """For one text."""
        return WordThreads(self._compiled) if isinstance(self._compiled, Words) else Threads(self._compiled)


class Search:
    """A rule's matches in one text that grows, in places of that text."""

    def __init__(self, rule: FilterRule) -> None:
        """At its beginning."""
        self._folded = Folded(rule.form, ignore_case=bool(rule.words) and bool(rule.ignore_case))
        self._threads = rule.threads()
        self._ended = False

    def push(self, text: str) -> list[tuple[int, int]]:
        """Matches that more text makes certain, by their ends."""
        for c in self._folded.push(text):
            self._threads.push(c)
        return self._taken()

    def end(self) -> list[tuple[int, int]]:
        """Those that the end of the text makes certain."""
        for c in self._folded.end():
            self._threads.push(c)
        self._threads.end()
        self._ended = True
        return self._taken()

    def _taken(self) -> list[tuple[int, int]]:
        folded, threads = self._folded, self._threads
        taken = [(folded.start(a), folded.stop(b)) for a, b in threads.matches]
        threads.matches.clear()
        folded.forget(threads.live)
        return taken

    @property
    def live(self) -> int | None:
        """Matches to come begin here or later. None: there are none."""
        return None if self._ended else self._folded.start(self._threads.live)

    @property
    def floor(self) -> int | None:
        """Matches to come end here or later. None: there are none."""
        return None if self._ended else self._folded.seen if self._threads.lags else self._folded.done + 1


def _word_list(words: object) -> tuple[str, ...]:
    if words is None:
        return ()
    if isinstance(words, str | bytes) or not is_iterable(words):
        msg = f"words={shown(words)}: expected a list of texts"
        raise InputError(msg)
    out = tuple(words)
    for i, word in enumerate(out):
        if not isinstance(word, str) or not word:
            msg = f"words[{i}]={shown(word)}: expected a text of at least one character"
            raise InputError(msg)
    return out


_FIELDS = tuple(f.name for f in fields(FilterRule) if not f.name.startswith("_"))


def rules_from(given: object) -> tuple[FilterRule, ...]:
    """Rules, or dicts with their fields, as records. Errors: `InputError` with the rule's number and name."""
    if isinstance(given, str | bytes | Mapping) or not is_iterable(given):
        msg = f"rules={shown(given)}: expected a list of rules, such as [{{'words': ['foo'], 'action': 'mask'}}]"
        raise InputError(msg)
    several: Iterable[Any] = list(islice(given, MOST_RULES + 1))
    rules: list[FilterRule] = []
    for i, each in enumerate(several):
        name = each.get("name") if isinstance(each, Mapping) else None
        where = f"rules[{i}]" + (f" ({shown(name, 40)})" if isinstance(name, str) else "")
        try:
            rules.append(_rule_from(each))
        except InputError as e:
            msg = f"{where}: {e}"
            raise InputError(msg) from None
    if not rules or len(rules) > MOST_RULES:
        msg = f"rules: {len(rules) if not rules else 'more'} found, expected 1 to {MOST_RULES}"
        raise InputError(msg)
    return tuple(rules)


def _rule_from(given: object) -> FilterRule:
    if isinstance(given, FilterRule):
        return given
    if not isinstance(given, Mapping):
        msg = f"{shown(given)} found, expected a dict with words or regex, or a FilterRule"
        raise InputError(msg)
    check_names(map(str, given), _FIELDS, "field")
    return FilterRule(**given)
