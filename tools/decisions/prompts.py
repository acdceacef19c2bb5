"""What a model reads: the state, then the question.

The state comes first, so that every question about it begins alike and its tokens are computed once.

`lettered` is transformers' DECISION_PROMPT: options are listed in the order in which they were asked, each with a
label, and the labels are what is compared. `asked` lists nothing but the two sides of a noul: each option is compared
as what would be written next, so that the order in which options come changes no bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...loader.decision import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .questions import Question

__all__ = ["YES_NO", "asked", "lettered", "written"]

YES_NO = ("Yes", "No")
_LETTERS = Decision().labels["choice"]


def lettered(state: str, question: Question, labels: Sequence[str], order: Sequence[int]) -> str:
    """`order`: the options' numbers as they are listed, each with its label."""
    lines = [question.instructions]
    for label, i in zip(labels, order, strict=True):
        option, told = question.options[i], question.descriptions[i]
        if question.kind == "noul":
            said = told or (option if tuple(labels) != YES_NO else "")
            lines.append(f"{label}: {said}" if said else "")
        elif question.kind == "choice":
            lines.append(f"{label}. {option}: {told}" if told else f"{label}. {option}")
        else:
            lines.append(f"{label}. {told}")
    if question.kind == "noul":
        last = f"Answer {labels[0]} or {labels[1]} only."
    else:
        what = "letter" if tuple(labels) == _LETTERS[: len(labels)] else "label"
        of = "option" if question.kind == "choice" else "level"
        last = f"Answer with the {what} of the {of} that fits best ({labels[0]} to {labels[-1]}) only."
    return f"{state}\n\n" + "\n".join(filter(None, lines)) + f"\n{last}"


def asked(state: str, question: Question) -> str:
    """Without the options."""
    sides = zip(YES_NO, question.descriptions, strict=True) if question.kind == "noul" else ()
    told = "\n".join(filter(None, [question.instructions, *(f"{side}: {said}" for side, said in sides if said)]))
    return "\n\n".join(filter(None, [state, told]))


def written(question: Question) -> list[str]:
    """What each option would be written as."""
    if question.kind == "noul":
        return list(YES_NO)
    if question.kind == "score":
        return list(question.descriptions)
    both = zip(question.options, question.descriptions, strict=True)
    return [f"{option}: {told}" if told else option for option, told in both]
