"""`PrunePlan`: what of a model to keep. Small JSON files, composable, printable; knows no checkpoint.

Every field says what stays; None, or a layer that is not named, means everything. Layers, heads, neurons, ids and
dimensions are numbered as in the model that the plan is for: a plan that drops layer 0 still calls layer 3 layer 3.

    {"format": "miaotui-prune", "version": 1,
     "model": {"family": "llama", "n_layers": 7, ...},     fingerprint; each part is compared with the model
     "layers": "0-2",                                      layers kept
     "order": "0-3,2-5",                                   or: layers in the order in which they run; one may run twice
     "heads": {"1": "2-8", "2": ""},                       query heads kept, by layer; none: no attention there
     "ffn": {"0": "0-99,120"},                             feed-forward neurons kept, by layer; none: no feed-forward
     "ffn_ratio": 0.75,                                    of those, the share to keep, the weightiest first
     "vocab": "0-4095",                                    token ids kept
     "vocab_fallback": "bytes",                            what stands for one that is gone: "bytes", "unk" or an id
     "width": "0-63",                                      dimensions of the residual stream kept
     "width_ratio": 0.75,                                  of those, the share to keep, the weightiest first
     "sparsity": "2:4",                                    zeros in what is left: `patterns.py`
     "notes": ["..."]}                                     how it was found, in words; changes nothing

A key/value head goes with its queries: it stays while any of them does, and those that stay must keep equally many.
A layer that runs twice has its weights once, and what is cut of them is cut of both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PlanError
from .checkpoint import read_json_object
from .header import shown
from .patterns import Pattern, as_json, joined, read_sparsity, show_sparsity
from .ranges import read_indices, read_order, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

__all__ = ["FORMAT", "VERSION", "Indices", "PrunePlan"]

FORMAT, VERSION = "miaotui-prune", 1
MAX_PLAN = 64_000_000
#: Fields that are one set of indices, and those that are a set for each layer.
SETS, BY_LAYER = ("layers", "vocab", "width"), ("heads", "ffn")
#: Shares that are turned into indices by reading the checkpoint (`magnitude`, `hidden`).
RATIOS = ("ffn_ratio", "width_ratio")

Indices = tuple[int, ...]


@dataclass(frozen=True)
class PrunePlan:
    """What to keep. Sets may be given as "0-2,5" or as any iterable of integers; they are stored ascending.

    `order` is None unless layers are moved or repeated: an ascending one is stored as `layers`.

    `model` is the fingerprint of the model that it is for (`cut.fingerprint`), or empty: any model that it fits.
    Errors: `PlanError` for values that no model could have; `cut.compile_plan` compares with a model.
    """

    layers: Indices | None = None
    heads: Mapping[int, Indices] = field(default_factory=dict)
    ffn: Mapping[int, Indices] = field(default_factory=dict)
    ffn_ratio: float | None = None
    vocab: Indices | None = None
    width: Indices | None = None
    width_ratio: float | None = None
    sparsity: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)
    order: Indices | None = None
    vocab_fallback: int | str | None = None

    def __post_init__(self) -> None:
        """Bring every set into one form."""
        for name in SETS:
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else read_indices(value, name))
        if self.order is not None:
            self._set_order(read_order(self.order, "order"))
        for name in BY_LAYER:
            object.__setattr__(self, name, _by_layer(name, getattr(self, name)))
        _check_fallback(self.vocab_fallback)
        for name in RATIOS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _ratio(name, getattr(self, name)))
        object.__setattr__(self, "sparsity", read_sparsity(self.sparsity))
        if not isinstance(self.model, dict) or any(not isinstance(k, str) for k in self.model):
            msg = f"model: found {shown(self.model)}; expected an object such as {{'family': 'llama'}}"
            raise PlanError(msg)
        if not isinstance(self.notes, list | tuple) or any(not isinstance(note, str) for note in self.notes):
            msg = f"notes: found {shown(self.notes)}; expected a list of texts"
            raise PlanError(msg)
        object.__setattr__(self, "notes", tuple(self.notes))

    def _set_order(self, order: Indices) -> None:
        if self.layers is not None:
            msg = "layers and order are both given; order alone says which layers stay"
            raise PlanError(msg)
        ascending = all(a < b for a, b in pairwise(order))
        object.__setattr__(self, "layers", order if ascending else None)
        object.__setattr__(self, "order", None if ascending else order)

    @property
    def run(self) -> Indices | None:
        """The layers in the order in which they run; None: all of them, as they are."""
        return self.layers if self.order is None else self.order

    @property
    def repeats(self) -> bool:
        """Whether a layer runs twice."""
        return self.order is not None and len(set(self.order)) < len(self.order)

    @property
    def keeps_everything(self) -> bool:
        """Whether it cuts nothing at all."""
        return replace(self, model={}) == PrunePlan()

    @property
    def ratio(self) -> str | None:
        """The first ratio that is not resolved, as "ffn_ratio 0.75"; None where every index is named."""
        return next((f"{name} {getattr(self, name):g}" for name in RATIOS if getattr(self, name) is not None), None)

    def then(self, other: PrunePlan) -> PrunePlan:
        """One plan for both: `other` is for the model that this one leaves.

        Raises `PlanError` where `other` names what this one cut away, for a ratio here that is not resolved yet, and
        where `other` cuts two runs of one layer differently, or a matrix in which zeros were chosen, so that others
        would be.
        """
        if self.keeps_everything:
            return replace(other, model=self.model or other.model, notes=(*self.notes, *other.notes))
        if self.ratio is not None and not other.keeps_everything:
            msg = "a plan with a ratio must be resolved against its checkpoint before another plan follows it"
            raise PlanError(msg)
        _check_follows(self, other)
        layer_of = _Picker("layers", self.run)
        heads, ffn = (self._by_layer_then(name, other, layer_of) for name in BY_LAYER)
        return PrunePlan(
            order=self.run if other.run is None else layer_of(other.run),
            heads=heads,
            ffn=ffn,
            **{name: getattr(self if getattr(other, name) is None else other, name) for name in RATIOS},
            vocab=self.vocab if other.vocab is None else _Picker("vocab", self.vocab)(other.vocab),
            vocab_fallback=_fallback_then(self, other),
            width=self.width if other.width is None else _Picker("width", self.width)(other.width),
            sparsity=self._sparsity_then(other, layer_of),
            model=self.model,
            notes=(*self.notes, *other.notes),
        )

    def _by_layer_then(self, name: str, other: PrunePlan, layer_of: _Picker) -> dict[int, Indices]:
        mine: Mapping[int, Indices] = getattr(self, name)
        theirs: Mapping[int, Indices] = getattr(other, name)
        joined = dict(mine)
        for new, old, first in self._runs(other, layer_of, tuple(theirs)):
            if theirs.get(first) != theirs.get(new):
                raise PlanError(_twice(name, old, first, new))
            if new in theirs:
                joined[old] = _Picker(f"{name} of layer {new}", mine.get(old))(theirs[new])
        left = self.run if other.run is None else layer_of(other.run)
        return {layer: kept for layer, kept in joined.items() if left is None or layer in left}

    def _sparsity_then(self, other: PrunePlan, layer_of: _Picker) -> dict[str, str]:
        _check_zeros_stay(self, other)
        theirs, renamed = other.sparsity, {role: text for role, text in other.sparsity.items() if "." not in role}
        cells = [cell.split(".") for cell in theirs if "." in cell]
        roles = dict.fromkeys(role for _, role in cells)
        for new, old, first in self._runs(other, layer_of, sorted({int(layer) for layer, _ in cells})):
            for role in roles:
                text, before = (theirs.get(f"{i}.{role}", theirs.get(role, "dense")) for i in (new, first))
                if text != before:
                    raise PlanError(_twice(f"sparsity of {role}", old, first, new))
                if f"{new}.{role}" in theirs:
                    renamed[f"{old}.{role}"] = text
        left = self.run if other.run is None else layer_of(other.run)
        both = joined(self.sparsity, renamed)
        gone = [cell for cell in both if "." in cell and left is not None and int(cell.partition(".")[0]) not in left]
        return {cell: text for cell, text in both.items() if cell not in gone}

    def _runs(self, other: PrunePlan, layer_of: _Picker, named: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """Every layer of what this plan leaves that `other` runs: its number there, here, and there where it ran first.

        `named`: those of which `other` says something; no more are known where neither plan counts them.
        """
        layer_of(tuple(named))  # each is there
        first: dict[int, int] = {}
        for new in (named if self.run is None else range(len(self.run))) if other.run is None else other.run:
            (old,) = layer_of((new,))
            yield new, old, first.setdefault(old, new)

    def to_json(self) -> str:
        """The file's text; what is not cut is left out."""
        out: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        if self.model:
            out["model"] = dict(self.model)
        for name in ("layers", "order", *BY_LAYER, "ffn_ratio", "vocab", "vocab_fallback", "width", "width_ratio"):
            value = getattr(self, name)
            if name in BY_LAYER and value:
                out[name] = {str(layer): show(kept) for layer, kept in value.items()}
            elif name in (*RATIOS, "vocab_fallback") and value is not None:
                out[name] = value
            elif name in (*SETS, "order") and value is not None:
                out[name] = show(value)
        if self.sparsity:
            out["sparsity"] = as_json(self.sparsity)
        if self.notes:
            out["notes"] = list(self.notes)
        return json.dumps(out, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], where: str = "plan") -> Self:
        """A plan from the file's object. Raises `PlanError`, naming `where`."""
        if found.get("format") != FORMAT or found.get("version") != VERSION:
            msg = (
                f"{where}: format {shown(found.get('format'))}, version {shown(found.get('version'))}; this version "
                f"of miaotui reads {FORMAT!r}, version {VERSION}"
            )
            raise PlanError(msg)
        names = {f.name for f in fields(cls)}
        values = {name: value for name, value in found.items() if name not in ("format", "version")}
        unknown = [name for name in values if name not in names]
        if unknown:
            msg = f"{where}: unknown key {shown(unknown[0])}; expected some of {', '.join(sorted(names))}"
            raise PlanError(msg)
        try:
            return cls(**values)
        except PlanError as e:
            msg = f"{where}: {e}"
            raise PlanError(msg) from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote. Raises `PlanError`."""
        return cls.from_dict(read_json_object(Path(path), MAX_PLAN, PlanError), str(path))

    def __str__(self) -> str:
        """Tell the plan in a few words."""
        said = [f"{name} {show(value)}" for name in SETS if (value := getattr(self, name)) is not None]
        said += [f"layers {show(self.order)}, in this order"] if self.order is not None else []
        for name, missing in (("heads", "no attention"), ("ffn", "no feed-forward")):
            for layer, kept in getattr(self, name).items():
                what = missing if not kept else f"{name} {show(kept)}" if name == "heads" else f"{len(kept)} neurons"
                said.append(f"layer {layer}: {what}")
        said += [] if self.vocab_fallback is None else [f"{self.vocab_fallback} for tokens that are gone"]
        for ratio, what in ((self.ffn_ratio, "neurons"), (self.width_ratio, "width")):
            said += [f"{ratio:g} of the {what}"] if ratio is not None else []
        zeros = f"; zeros: {show_sparsity(self.sparsity)}" if self.sparsity else ""
        return "keep " + ("; ".join(said) or "everything") + zeros


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
    for name, value in leaves.items():
        if second.model.get(name, value) != value:
            msg = f"the second plan is for a model with {name} {shown(second.model[name])}, the first leaves {value}"
            raise PlanError(msg)


_NEURONS, _WIDTH = ("ffn", "ffn_ratio"), ("width", "width_ratio")
#: A matrix's role -> the sets of the second plan that cut its rows, and its columns.
_CUT_BY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **dict.fromkeys(("q", "k", "v"), (("heads",), _WIDTH)),
    **dict.fromkeys(("gate", "up"), (_NEURONS, _WIDTH)),
    "o": (_WIDTH, ("heads",)),
    "down": (_WIDTH, _NEURONS),
    "head": (("vocab",), _WIDTH),
}


def _check_zeros_stay(first: PrunePlan, second: PrunePlan) -> None:
    """Zeros that the first plan chooses are the same whatever rows go after it; not so columns, and blocks' rows."""
    cuts = {name for name in ("vocab", "width", *RATIOS) if getattr(second, name) is not None}
    cuts |= {name for name in BY_LAYER if any(getattr(second, name).values())}  # a half that is gone chooses nothing
    for cell, text in first.sparsity.items():
        pattern, (rows, columns) = Pattern.parse(text), _CUT_BY[cell.rpartition(".")[2]]
        found = [name for name in (*columns, *(rows if pattern.rows > 1 else ())) if name in cuts]
        if pattern.chooses and found:
            msg = (
                f"sparsity of {cell}: zeros by {text} are chosen in the first plan, and the second's {found[0]} cuts "
                "that matrix: others would be chosen. Cut first, and make zeros then"
            )
            raise PlanError(msg)


def _by_layer(name: str, value: object) -> dict[int, Indices]:
    if not isinstance(value, dict):
        msg = f"{name}: found {shown(value)}; expected a set of indices for each layer, as {{'0': '0-2,5'}}"
        raise PlanError(msg)
    found: dict[int, Indices] = {}
    for key, kept in value.items():
        [layer, *more] = read_indices(key, f"{name}: layer") or (-1,)
        if layer < 0 or more or layer in found:
            msg = f"{name}: {shown(key)} is not one layer, named once"
            raise PlanError(msg)
        found[layer] = read_indices(kept, f"{name} of layer {layer}")
    return dict(sorted(found.items()))


def _check_fallback(value: object) -> None:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if value is not None and value not in ("unk", "bytes") and not number:
        msg = f"vocab_fallback: found {shown(value)}; expected 'unk', 'bytes', or a token's id"
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


def _ratio(name: str, value: object) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
    if not fits:
        msg = f"{name}: found {shown(value)}; expected a number above 0 and at most 1"
        raise PlanError(msg)
    return float(value)  # type: ignore[arg-type]  # `fits` has seen that it is a number
