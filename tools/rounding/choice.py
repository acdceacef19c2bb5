"""Which matrices are rounded to what, under a budget: from what each costs by itself.

A group is a role of a layer ("3.down"), or a matrix of the model's own ("embed"). What it costs in each form is the
divergence KL(exact, rounded) of the model in which it alone is rounded, over a text's first tokens; those of several
groups are taken to add up (they nearly do while they are small). Forms of a group that cost more than others of its
bytes, or more than what lies between two others, are left out; then the step that saves most divergence for its bytes
is taken, again and again, from the smallest model on, until the budget is spent.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import InputError, PlanError
from ...loader.files import read_json_object
from ...loader.quantize import parse_quantize

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["FORMS", "Budget", "Choice", "Group", "choose", "read_choice", "show"]

#: What a group may be: as it is stored, or quantised.
FORMS = ("none", "int8", "int4a", "int4")
#: Of a plan's file.
VERSION = 1


@dataclass(frozen=True)
class Group:
    """Matrices that are rounded alike: numbers in them, and by form their bytes and what they cost."""

    key: str
    numbers: int
    nbytes: dict[str, int]
    kl: dict[str, float]


@dataclass(frozen=True)
class Budget:
    """One of these: bits of a weight on average, scales included; bytes of the groups; a sum of divergences."""

    bits: float | None = None
    nbytes: int | None = None
    kl: float | None = None


@dataclass(frozen=True)
class Choice:
    """A form for each group by its key, and what that comes to. `told`: what is known of how it was found."""

    forms: dict[str, str]
    groups: tuple[Group, ...]
    told: dict[str, Any]

    @property
    def bits(self) -> float:
        """Of a weight, on average."""
        return 8 * self.nbytes / sum(group.numbers for group in self.groups)

    @property
    def nbytes(self) -> int:
        """Of all groups."""
        return sum(group.nbytes[self.forms[group.key]] for group in self.groups)

    @property
    def kl(self) -> float:
        """What was measured of each, added up."""
        return sum(group.kl[self.forms[group.key]] for group in self.groups)

    @property
    def quantize(self) -> str:
        """As `load(quantize=...)` and `--quantize` take it."""
        return show(self.forms)

    def save(self, file: Path) -> None:
        """Write it, for people and for `read_choice`."""
        rows = [asdict(group) | {"form": self.forms[group.key]} for group in self.groups]
        made = {"version": VERSION, "quantize": self.quantize, "bits": round(self.bits, 4), "kl": self.kl}
        file.write_text(json.dumps(made | self.told | {"groups": rows}, indent=1) + "\n", encoding="utf-8")

    def lines(self) -> list[str]:
        """A table: roles across, layers down, alike ones together."""
        roles = list(dict.fromkeys(key.rpartition(".")[2] for key in self.forms if "." in key))
        layers = list(dict.fromkeys(key.rpartition(".")[0] for key in self.forms if "." in key))
        cells = [["layer", *roles]]
        cells += [[layer, *(self.forms.get(f"{layer}.{role}", "") for role in roles)] for layer in layers]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        own = [f"{key}: {form}" for key, form in self.forms.items() if "." not in key]
        table = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        whole = f"{self.bits:.2f} bits a weight; a divergence of about {self.kl:.3g}, rounded to nearest"
        return [*own, *(table if layers else []), whole]


def choose(groups: Sequence[Group], budget: Budget, **told: Any) -> Choice:  # noqa: ANN401 - for people
    """The forms with the least divergence within the budget. Errors: `InputError` where the smallest are above it."""
    hulls = {group.key: _hull(group) for group in groups}
    at = dict.fromkeys(hulls, 0)
    numbers = sum(group.numbers for group in groups)
    spent = sum(hull[0][0] for hull in hulls.values())
    kl = sum(hull[0][1] for hull in hulls.values())
    most = None if budget.bits is None else int(budget.bits * numbers / 8)
    most = budget.nbytes if budget.nbytes is not None else most
    if most is not None and spent > most:
        msg = f"the smallest forms take {spent} bytes; found a budget of {most}. Ask for more, or cut the model first"
        raise InputError(msg)
    steps = [
        ((hull[i][1] - hull[i + 1][1]) / (hull[i + 1][0] - hull[i][0]), key, i)
        for key, hull in hulls.items()
        for i in range(len(hull) - 1)
    ]
    for _, key, i in sorted(steps, key=lambda step: (-step[0], step[1], step[2])):
        (old, lost, _), (new, less, _) = hulls[key][i : i + 2]
        if budget.kl is not None and kl <= budget.kl:
            break
        if at[key] != i or (most is not None and spent + new - old > most):
            continue  # a larger step did not fit, or one after it
        at[key], spent, kl = i + 1, spent + new - old, kl - lost + less
    forms = {key: hull[at[key]][2] for key, hull in hulls.items()}
    return Choice(forms, tuple(groups), told)


def _hull(group: Group) -> list[tuple[int, float, str]]:
    """(bytes, divergence, form) from the smallest on: each step saves less for its bytes than the one before."""
    every = sorted((group.nbytes[form], group.kl[form], form) for form in group.nbytes)
    hull: list[tuple[int, float, str]] = []
    for size, kl, form in every:
        if hull and kl >= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], (size, kl, form)):
            hull.pop()
        hull.append((size, kl, form))
    return hull


def _slope(a: tuple[int, float, str], b: tuple[int, float, str]) -> float:
    """Divergence that a byte saves."""
    return (a[1] - b[1]) / (b[0] - a[0])


def show(forms: Mapping[str, str]) -> str:
    """The shortest words of `quantize=`: what is usual, roles that are mostly otherwise, layers that are."""
    usual = _usual(forms.values())
    words, by_role = [usual], dict[str, dict[str, str]]()
    for key, form in forms.items():
        layer, _, role = key.rpartition(".")
        by_role.setdefault(role, {})[layer] = form
    for role, at in by_role.items():
        mostly = _usual(at.values())
        words += [f"{role}={mostly}"] if mostly != usual else []
        for first, last, form in _runs({layer: form for layer, form in at.items() if form != mostly}):
            words.append(f"{first}{f'-{last}' if last else ''}.{role}={form}")
    return ",".join(words)


def _usual(forms: Iterable[str]) -> str:
    """What there is most of; of equals the first of `FORMS`."""
    counts = Counter(forms)
    return max(FORMS, key=lambda form: (counts[form], -FORMS.index(form)))


def _runs(at: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Layers side by side of the same form: first, last ("" where it is the first), form."""
    runs: list[tuple[str, str, str]] = []
    for layer, form in at.items():
        number = int(re.sub(r".*\.", "", layer))
        before = layer.removesuffix(str(number))
        end = int(runs[-1][1] or runs[-1][0].rpartition(".")[2]) if runs else -2
        if runs and runs[-1][2] == form and end == number - 1 and runs[-1][0].startswith(before):
            runs[-1] = (runs[-1][0], str(number), form)
        else:
            runs.append((layer, "", form))
    return runs


def read_choice(file: Path) -> str:
    """The words of `quantize=` that a plan's file says. Errors: `InputError`, and `PlanError` for its words."""
    read = read_json_object(file, 2**26, InputError)
    if read.get("version") != VERSION or not isinstance(read.get("quantize"), str):
        msg = (
            f"{file}: no plan of `miaotui quantize`; expected version {VERSION} and quantize, as quantize_plan.json has"
        )
        raise InputError(msg)
    try:
        parse_quantize(read["quantize"])
    except PlanError as e:
        msg = f"{file}: {e}"
        raise PlanError(msg) from e
    return str(read["quantize"])
