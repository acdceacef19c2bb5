"""Two plans, one after the other, as one: what `PrunePlan.then` gives.

The second is for the model that the first leaves: its numbers are looked up in the first's sets.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import PlanError
from ..files import quote
from ..roles import AXES
from .sparsity import Pattern, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .plan import Indices, PrunePlan

__all__ = ["BY_LAYER", "OF_ENCODER", "RATIOS", "composed", "of_encoder"]

#: Fields of a plan that are a set of indices for each layer.
BY_LAYER = ("heads", "cross_heads", "ffn", "experts")
#: Shares that are turned into indices by reading the checkpoint (`rank_ffn`, `rank_width`).
RATIOS = ("ffn_ratio", "width_ratio")
#: What the part of a plan that is an encoder's may say.
OF_ENCODER = ("layers", "order", "heads", "ffn", "ffn_ratio", "sparsity")


def composed(first: PrunePlan, second: PrunePlan) -> dict[str, Any]:
    """The fields of one plan for both, the first with no ratio unresolved. Errors: `PlanError`, as `PrunePlan.then`."""
    _check_follows(first, second)
    second = second if first.only is None else _of_the_encoder(second)
    layer_of = _Picker("layers", first.run)
    return dict(
        order=first.run if second.run is None else layer_of(second.run),
        **{name: _by_layer_then(name, first, second, layer_of) for name in BY_LAYER},
        **{name: getattr(first if getattr(second, name) is None else second, name) for name in RATIOS},
        vocab=first.vocab if second.vocab is None else _Picker("vocab", first.vocab)(second.vocab),
        vocab_fallback=_fallback_then(first, second),
        width=first.width if second.width is None else _Picker("width", first.width)(second.width),
        sparsity=_sparsity_then(first, second, layer_of),
        encoder=_encoder_then(first, second),
        only=first.only or second.only,
        model=first.model,
        notes=(*first.notes, *second.notes),
    )


def _of_the_encoder(second: PrunePlan) -> PrunePlan:
    """A plan for an encoder that was left alone, as one for what it is the encoder of. PlanError: it names another."""
    if second.encoder is not None or second.cross_heads:
        msg = "encoder: the first plan leaves the encoder alone; the second names its layers outside of it"
        raise PlanError(msg)
    nothing = type(second)()
    own = replace(nothing, **{name: getattr(second, name) for name in OF_ENCODER})
    return replace(second, **{name: getattr(nothing, name) for name in OF_ENCODER}, encoder=own)


def _encoder_then(first: PrunePlan, second: PrunePlan) -> PrunePlan | None:
    """The encoder's part of both, whose width is the plan's."""
    if first.encoder is None and second.encoder is None:
        return None
    nothing = type(first)()
    mine, theirs = (replace(p.encoder or nothing, width=p.width, width_ratio=p.width_ratio) for p in (first, second))
    try:
        both = mine.then(theirs)
    except PlanError as e:
        raise PlanError(of_encoder(e)) from None
    return replace(both, width=None, width_ratio=None)


def of_encoder(error: PlanError) -> str:
    """What an error of the encoder's part of a plan says, with a field named as in the file."""
    text = str(error)
    return f"encoder.{text}" if re.match(r"\w+( of (layer )?\S+)*: ", text) else f"encoder: {text}"


def _by_layer_then(name: str, first: PrunePlan, second: PrunePlan, layer_of: _Picker) -> dict[int, Indices]:
    mine: Mapping[int, Indices] = getattr(first, name)
    theirs: Mapping[int, Indices] = getattr(second, name)
    joined = dict(mine)
    for new, old, ran in _runs(first, second, layer_of, tuple(theirs)):
        if theirs.get(ran) != theirs.get(new):
            raise PlanError(_twice(name, old, ran, new))
        if new in theirs:
            joined[old] = _Picker(f"{name} of layer {new}", mine.get(old))(theirs[new])
    run = first.run if second.run is None else layer_of(second.run)
    left = frozenset(run or ())
    return {layer: kept for layer, kept in joined.items() if run is None or layer in left}


def _sparsity_then(first: PrunePlan, second: PrunePlan, layer_of: _Picker) -> dict[str, str]:
    _check_zeros_stay(first, second)
    theirs, renamed = second.sparsity, {role: text for role, text in second.sparsity.items() if "." not in role}
    cells = [cell.split(".") for cell in theirs if "." in cell]
    roles = dict.fromkeys(role for _, role in cells)
    for new, old, ran in _runs(first, second, layer_of, sorted({int(layer) for layer, _ in cells})):
        for role in roles:
            text, before = (theirs.get(f"{i}.{role}", theirs.get(role, "dense")) for i in (new, ran))
            if text != before:
                raise PlanError(_twice(f"sparsity of {role}", old, ran, new))
            if f"{new}.{role}" in theirs:
                renamed[f"{old}.{role}"] = text
    run = first.run if second.run is None else layer_of(second.run)
    both, left = joined(first.sparsity, renamed), frozenset(run or ())
    return {
        cell: text
        for cell, text in both.items()
        if "." not in cell or run is None or int(cell.partition(".")[0]) in left
    }


def _runs(
    first: PrunePlan, second: PrunePlan, layer_of: _Picker, named: Sequence[int]
) -> Iterator[tuple[int, int, int]]:
    """Every layer that the second plan runs: its number there, in the first plan, and there where it ran first.

    `named`: those of which the second says something; no more are known where neither plan counts them.
    """
    layer_of(tuple(named))  # each is there
    ran: dict[int, int] = {}
    for new in (named if first.run is None else range(len(first.run))) if second.run is None else second.run:
        (old,) = layer_of((new,))
        yield new, old, ran.setdefault(old, new)


def _twice(what: str, layer: int, first: int, second: int) -> str:
    return f"{what}: layer {layer} runs twice, as {first} and {second}; cut both alike, or write it first"


class _Picker:
    """Indices in what a set leaves -> the set's own; everything passes where there is no set."""

    def __init__(self, what: str, kept: Indices | None) -> None:
        self.what, self.kept = what, kept

    def __call__(self, indices: Indices) -> Indices:
        if self.kept is None:
            return indices
        if indices and max(indices) >= len(self.kept):
            msg = f"{self.what}: the second plan keeps {max(indices)}, but the first leaves {len(self.kept)}"
            raise PlanError(msg)
        return tuple(self.kept[i] for i in indices)


def _check_follows(first: PrunePlan, second: PrunePlan) -> None:
    """Where the second plan says for which model it is, it must be the one that the first leaves."""
    sizes = {"n_layers": first.run, "n_vocab": first.vocab, "d_model": first.width}
    leaves: dict[str, Any] = {name: first.model[name] if kept is None else len(kept) for name, kept in sizes.items()
                              if kept is not None or name in first.model}  # fmt: skip
    leaves |= {"family": first.model["family"]} if "family" in first.model else {}
    if first.only is not None:  # its layers are the encoder's
        leaves.pop("n_layers", None)
    for name, value in leaves.items():
        if second.model.get(name, value) != value:
            msg = f"the second plan is for a model with {name} {quote(second.model[name])}, the first leaves {value}"
            raise PlanError(msg)


#: An axis -> the fields of a plan that cut it.
_CUT_BY = {
    "vocab": ("vocab",),
    "width": ("width", "width_ratio"),
    "heads": ("heads", "cross_heads"),
    "kv_heads": ("heads", "cross_heads"),
    "ffn": ("ffn", "ffn_ratio"),
}


def _check_zeros_stay(first: PrunePlan, second: PrunePlan) -> None:
    """Zeros that the first plan chooses are the same whatever rows go after it; not so columns, and blocks' rows."""
    cuts = {name for name in ("vocab", "width", *RATIOS) if getattr(second, name) is not None}
    cuts |= {name for name in BY_LAYER if any(getattr(second, name).values())}  # a half that is gone chooses nothing
    for cell, text in first.sparsity.items():
        pattern, (rows, columns) = Pattern.parse(text), (_CUT_BY[axis] for axis in AXES[cell.rpartition(".")[2]])
        torn = [name for name in (*columns, *(rows if pattern.rows > 1 else ())) if name in cuts]
        if pattern.chooses and torn:
            msg = (
                f"sparsity of {cell}: zeros by {text} are chosen in the first plan, and the second's {torn[0]} cuts "
                "that matrix: others would be chosen. Cut first, and make zeros then"
            )
            raise PlanError(msg)


def _fallback_then(first: PrunePlan, second: PrunePlan) -> int | str | None:
    """What stands for a token that either plan cuts: they must agree where both cut."""
    mine, theirs = first.vocab_fallback, second.vocab_fallback
    if isinstance(theirs, int):
        [theirs] = _Picker("vocab_fallback", first.vocab)((theirs,))
    if second.vocab is None and theirs is None:
        return mine
    if first.vocab is not None and second.vocab is not None and mine != theirs:
        msg = f"vocab_fallback: the first plan says {mine}, the second {theirs}; both cut ids, so let them say the same"
        raise PlanError(msg)
    return theirs
