"""`Filters`: rules, and who decides on an answer. `apply` is the definition; `Filtering` is the same for a stream."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ...dataclass import dataclass
from ...digest import sha256
from ...errors import InputError, shown
from ..parameters import switch
from .rules import Finding, rules_from
from .stages import Ending, Masking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Decision", "Filtered", "Filtering", "Filters", "filters_of"]

#: What a person, or a function, may say of a whole answer; or another text.
Decision = Literal["release", "refuse"]
#: What an audit may say of it.
_DECIDED = ("release", "refuse", "replace", "abandoned")


@dataclass(frozen=True)
class Filtered:
    """An answer after the filters: `text` is shown, `unfiltered` is what the model wrote.

    `findings`: by their places. `ended`: the one that ended the answer. `decision`: what `hold` said: "release",
    "refuse" or "replace"; "abandoned": its reader went away before its end; None: nobody was asked.
    """

    text: str
    unfiltered: str
    findings: tuple[Finding, ...] = ()
    ended: Finding | None = None
    decision: Literal["release", "refuse", "replace", "abandoned"] | None = None

    @property
    def finish_reason(self) -> Literal["filter", "stop"] | None:
        """Why the answer ended, if the filters ended it."""
        if self.decision in {"refuse", "replace"}:
            return "filter"
        return _reason(self.ended)


class Filters:
    """Rules for `generate(filters=)`; used for any number of answers, from any number of threads.

    `rules`: `FilterRule`s, or dicts with their fields. `hold`: a function f(filtered) that is given each whole
    answer before anything of it is shown, and returns "release", "refuse" (nothing is shown), or a text to show
    instead; for async calls it may be a coroutine function. `audit`: a function that is given a dict for each answer,
    as JSON has it: which rules met what, and where; `audit_text`: with the unfiltered text, so that `replay` can do it
    again. Errors: `InputError`.
    """

    def __init__(
        self,
        rules: object,
        *,
        hold: Callable[[Filtered], str | Awaitable[str]] | None = None,
        audit: Callable[[dict[str, Any]], object] | None = None,
        audit_text: bool = False,
    ) -> None:
        """Check and compile."""
        self.rules = rules_from(rules)
        for name, value in (("hold", hold), ("audit", audit)):
            if value is not None and not callable(value):
                msg = f"{name}={shown(value)}: expected a function"
                raise InputError(msg)
        self.hold, self.audit, self.audit_text = hold, audit, switch("audit_text", audit_text)
        for text, i in {rule.shown_for_it: i for i, rule in reversed(list(enumerate(self.rules)))}.items():
            if hit := self.apply(text).findings:
                where = f"rules[{i}] ({shown(self.rules[i].name, 40)}): replacement={shown(text)}"
                msg = f"{where} is itself found by {shown(hit[0].rule, 40)}; give one that no rule finds"
                raise InputError(msg)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rules, as hexadecimal digits: equal rules decide alike."""
        text = json.dumps([rule.described for rule in self.rules], sort_keys=True, ensure_ascii=False)
        return _sha256(text)

    def apply(self, text: str) -> Filtered:
        """A whole text, filtered. `hold` is not asked, and `audit` not told. Errors: `InputError`."""
        if not isinstance(text, str):
            msg = f"apply: {shown(text)} found, expected a text"
            raise InputError(msg)
        filtering = self.filtering()
        filtering.push(text)
        filtering.end()
        return filtering.filtered()

    def filtering(self) -> Filtering:
        """For one text that streams."""
        return Filtering(self)

    def decided(self, filtered: Filtered) -> Filtered:
        """What `hold` says of an answer; nothing changes without one. Errors: what it raises; `InputError`."""
        if self.hold is None:
            return filtered
        said: object = self.hold(filtered)
        if inspect.iscoroutine(said):
            said.close()
            msg = "hold: a coroutine function decides on answers of async calls (agenerate, astream); give another here"
            raise InputError(msg)
        return self.judged(filtered, said)

    def judged(self, filtered: Filtered, said: object) -> Filtered:
        """An answer of which `hold` has said this. Errors: `InputError`."""
        if said == "release":
            return replace(filtered, decision="release")
        if said == "refuse":
            return replace(filtered, text="", decision="refuse")
        if isinstance(said, str):
            return replace(filtered, text=said, decision="replace")
        msg = f'hold: the function returned {shown(said)}; expected "release", "refuse", or the text to show instead'
        raise InputError(msg)

    def tell(self, filtered: Filtered, **about: Any) -> None:  # noqa: ANN401 - JSON's
        """Give `audit`, if there is one, the record of an answer. Errors: what it raises."""
        if self.audit is not None:
            self.audit(self.record(filtered, **about))

    def record(self, filtered: Filtered, **about: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON's
        """What is told to `audit` of an answer. `about`: what else is known of it."""
        told: dict[str, Any] = {
            **about,
            "filters": self.digest,
            "characters": len(filtered.unfiltered),
            "unfiltered_sha256": _sha256(filtered.unfiltered),
            "shown_sha256": _sha256(filtered.text),
            "findings": [asdict(finding) for finding in filtered.findings],
            "ended_by": None if filtered.ended is None else filtered.ended.rule,
            "decision": filtered.decision,
            "held": self.hold is not None,
        }
        return told | ({"unfiltered": filtered.unfiltered} if self.audit_text else {})

    def replay(self, record: Mapping[str, Any], text: str | None = None) -> list[str]:
        """Filter an audited answer again; return what differs from its record, nothing if it is all the same.

        `text`: the unfiltered one, where the record lacks it (`audit_text`). Errors: `InputError`: there is none, or
        this is no record.
        """
        if not isinstance(record, Mapping):
            msg = f"record: {shown(record)} found, expected a line that an audit wrote, as a dict"
            raise InputError(msg)
        text = record.get("unfiltered") if text is None else text
        if not isinstance(text, str) or not isinstance(record.get("findings"), list):
            what = "no unfiltered text; give it as text=" if "findings" in record else "no findings"
            msg = f"record: has {what}, expected a line that an audit wrote, with audit_text=True for its text"
            raise InputError(msg)
        decision, filtering = record.get("decision"), self.filtering()
        if decision is not None and decision not in _DECIDED:
            msg = f"record: decision={shown(decision)}: expected one of {', '.join(_DECIDED)}, or null"
            raise InputError(msg)
        filtering.push(text)
        if decision != "abandoned":
            filtering.end()
        now = self.record(replace(filtering.filtered(), decision=decision))  # of a person: not asked again
        names = ["filters", "characters", "unfiltered_sha256", "findings", "ended_by"]
        if decision in {None, "release"} or (decision == "abandoned" and not record.get("held")):
            names.append("shown_sha256")
        return [f"{n}: recorded {shown(record.get(n))}, now {shown(now[n])}" for n in names if record.get(n) != now[n]]


class Filtering:
    """Filters on one text that streams. With `hold` nothing is shown before its end (`settled`)."""

    def __init__(self, filters: Filters) -> None:
        """At its beginning."""
        self._filters = filters
        self._ending = Ending([rule for rule in filters.rules if rule.action != "mask"])
        self._masking = Masking([rule for rule in filters.rules if rule.action == "mask"])
        self._unfiltered: list[str] = []
        self._shown: list[str] = []
        self._over = self._told = False

    @property
    def finish_reason(self) -> Literal["filter", "stop"] | None:
        """Why the text ended before its end, if it did."""
        return _reason(self._ending.ended)

    def push(self, piece: str) -> str:
        """Text that is safe to show; once it `ended`, `end` has the rest."""
        if self._ending.ended is not None or self._over:
            return ""
        self._unfiltered.append(piece)
        return self._show(self._masking.push(self._ending.push(piece)))

    def end(self) -> str:
        """The rest, at the end of the text. Nothing if it is done twice."""
        if self._over:
            return ""
        self._over = True
        rest = self._masking.push(self._ending.end())
        return self._show(rest + self._masking.end() + self._ending.replacement)

    def _show(self, text: str) -> str:
        self._shown.append(text)
        return "" if self._filters.hold is not None else text

    def filtered(self) -> Filtered:
        """So far."""
        ended = self._ending.ended
        findings = (*self._masking.findings, *(() if ended is None else (ended,)))
        return Filtered("".join(self._shown), "".join(self._unfiltered), findings, ended)

    def abandoned(self) -> Filtered:
        """So far, where nobody reads on."""
        so_far = self.filtered()
        return replace(so_far, text=so_far.text if self._filters.hold is None else "", decision="abandoned")


def _reason(ended: Finding | None) -> Literal["filter", "stop"] | None:
    return None if ended is None else "stop" if ended.action == "stop" else "filter"


def filters_of(value: object) -> Filters | None:
    """`filters` as a caller gave it. Errors: `InputError`."""
    if value is not None and not isinstance(value, Filters):
        msg = f"filters={shown(value)}: expected Filters; Filters(rules) or Filters.from_file(path) makes them"
        raise InputError(msg)
    return value


def _sha256(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
