"""`PrunePlan`: what of a model to keep. Small JSON files, composable, printable; knows no checkpoint.

Every field says what stays; None, or a layer that is not named, means everything. Layers, heads, neurons, ids and
dimensions are numbered as in the model that the plan is for: a plan that drops layer 0 still calls layer 3 layer 3.

    {"format": "miaotui-prune", "version": 1,
     "model": {"family": "llama", "n_layers": 7, ...},     fingerprint; each part is compared with the model
     "layers": "0-2",                                      layers kept
     "order": "0-3,2-5",                                   or: layers in the order in which they run; one may run twice
     "heads": {"1": "2-8", "2": ""},                       query heads kept, by layer; none: no attention there
     "cross_heads": {"1": "0-3"},                          the same of the attention to an encoder
     "ffn": {"0": "0-99,120"},                             feed-forward neurons kept, by layer; none: no feed-forward
     "experts": {"0": "0-3,6"},                            experts kept, by layer: at least as many as a token has
     "ffn_ratio": 0.75,                                    of those, the share to keep, the weightiest first
     "vocab": "0-4095",                                    token ids kept
     "vocab_fallback": "bytes",                            what stands for one that is gone: "bytes", "unk" or an id
     "width": "0-63",                                      dimensions of the residual stream kept
     "width_ratio": 0.75,                                  of those, the share to keep, the weightiest first
     "sparsity": "2:4",                                    zeros in what is left: `sparsity.py`
     "encoder": {"layers": "0-3", "ffn": {"0": "0-99"}},   of an encoder-decoder's encoder: its layers, heads, neurons,
                                                           zeros; ids and width are of both, and named outside
     "only": "encoder",                                    of an encoder-decoder this stack alone, which is a model
     "notes": ["..."]}                                     how it was found, in words; changes nothing

In a layer of experts neuron j is the j-th of each. A key/value head goes with its queries: it stays while any of them
does, and those that stay must keep equally many. A layer that runs twice has its weights once, and what is cut of them
is cut of both. The layers of an encoder-decoder that have no other name are its decoder's.
"""

from __future__ import annotations

import json
from dataclasses import field, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import PlanError
from ..files import quote, read_json_object
from ..paths import as_path
from ..ranges import MAX_INDEX, count_named, read_indices, read_order, show
from ..write import write_whole
from .compose import BY_LAYER, OF_ENCODER, RATIOS, composed, of_encoder
from .sparsity import as_json, read_sparsity, show_sparsity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

__all__ = ["FORMAT", "VERSION", "Indices", "PrunePlan"]

FORMAT, VERSION = "miaotui-prune", 1
MAX_PLAN = 64_000_000
#: Most indices in a plan: every neuron of 126 layers of 53,248 (Llama 3.1 405B) is 6.7 million.
MAX_NAMED = 2**23
#: Fields that are one set of indices.
SETS = ("layers", "vocab", "width")
#: What `only` may say.
ENCODER = "encoder"

Indices = tuple[int, ...]


@dataclass(frozen=True)
class PrunePlan:
    """What to keep. Sets may be given as "0-2,5" or as any iterable of integers; they are stored ascending.

    `order` is None unless layers are moved or repeated: an ascending one is stored as `layers`.

    `model` is the fingerprint of the model that it is for (`named.fingerprint`), or empty: any model that it fits.
    Errors: `PlanError` for values that no model could have; `compiled.compile_plan` compares with a model.
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
    cross_heads: Mapping[int, Indices] = field(default_factory=dict)
    encoder: PrunePlan | None = None
    experts: Mapping[int, Indices] = field(default_factory=dict)
    only: str | None = None

    def __post_init__(self) -> None:
        """Bring every set into one form."""
        self._check_total()
        for name in SETS:
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else read_indices(value, name))
        if self.order is not None:
            self._set_order(read_order(self.order, "order"))
        for name in BY_LAYER:
            object.__setattr__(self, name, _by_layer(name, getattr(self, name)))
        object.__setattr__(self, "vocab_fallback", _fallback(self.vocab_fallback))
        object.__setattr__(self, "encoder", _of_encoder(self.encoder))
        if self.only is not None and self.only != ENCODER:
            msg = f"only: found {quote(self.only)}; expected {ENCODER!r}, or nothing"
            raise PlanError(msg)
        for name in RATIOS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _ratio(name, getattr(self, name)))
        object.__setattr__(self, "sparsity", read_sparsity(self.sparsity))
        if not isinstance(self.model, dict) or any(not isinstance(k, str) for k in self.model):
            msg = f"model: found {quote(self.model)}; expected an object such as {{'family': 'llama'}}"
            raise PlanError(msg)
        if not isinstance(self.notes, list | tuple) or any(not isinstance(note, str) for note in self.notes):
            msg = f"notes: found {quote(self.notes)}; expected a list of texts"
            raise PlanError(msg)
        object.__setattr__(self, "notes", tuple(self.notes))

    def _check_total(self) -> None:
        """Few bytes can name many indices: they are counted before any is written out."""
        sets = [getattr(self, name) for name in (*SETS, "order")]
        for name in BY_LAYER:
            of = getattr(self, name)
            sets += of.values() if isinstance(of, dict) else ()
        total = sum(some.count(",") for some in sets if isinstance(some, str))  # at least: a look at each byte
        at_least = "at least " if total > MAX_NAMED else ""
        total = total if at_least else sum(map(count_named, sets))
        if total > MAX_NAMED:
            msg = f"{at_least}{total} indices are named in all; expected at most {MAX_NAMED}"
            raise PlanError(msg)

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
        mine = next((f"{name} {getattr(self, name):g}" for name in RATIOS if getattr(self, name) is not None), None)
        return mine if mine or self.encoder is None or self.encoder.ratio is None else f"encoder.{self.encoder.ratio}"

    def then(self, other: PrunePlan) -> PrunePlan:
        """One plan for both: `other` is for the model that this one leaves.

        Raises `PlanError` where `other` names what this one cut away, for a ratio here that is not resolved yet, and
        where `other` cuts two runs of one layer differently, or a matrix in which zeros were chosen, so that others
        would be.
        """
        if not isinstance(other, PrunePlan):
            msg = f"then({quote(other)}): expected a PrunePlan; PrunePlan.load reads one from a file"
            raise PlanError(msg)
        if self.keeps_everything:
            return replace(other, model=self.model or other.model, notes=(*self.notes, *other.notes))
        if self.ratio is not None and not other.keeps_everything:
            msg = "a plan with a ratio must be resolved against its checkpoint before another plan follows it"
            raise PlanError(msg)
        return PrunePlan(**composed(self, other))

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
        if self.encoder is not None:
            out["encoder"] = {name: x for name, x in json.loads(self.encoder.to_json()).items() if name in OF_ENCODER}
        if self.only is not None:
            out["only"] = self.only
        if self.notes:
            out["notes"] = list(self.notes)
        return json.dumps(out, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file, in the place of an old one once it is whole. Raises `PlanError` where it cannot be."""
        write_whole(path, self.to_json(), PlanError)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "plan") -> Self:
        """A plan from the file's object. Raises `PlanError`, naming `where`."""
        if raw.get("format") != FORMAT or raw.get("version") != VERSION:
            msg = (
                f"{where}: format {quote(raw.get('format'))}, version {quote(raw.get('version'))}; this version "
                f"of miaotui reads {FORMAT!r}, version {VERSION}"
            )
            raise PlanError(msg)
        names = {f.name for f in fields(cls)}
        values = {name: value for name, value in raw.items() if name not in ("format", "version")}
        unknown = [name for name in values if name not in names]
        if unknown:
            msg = f"{where}: unknown key {quote(unknown[0])}; expected some of {', '.join(sorted(names))}"
            raise PlanError(msg)
        try:
            return cls(**values)
        except PlanError as e:
            msg = f"{where}: {e}"
            raise PlanError(msg) from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote. Raises `PlanError`."""
        return cls.from_dict(read_json_object(as_path(path, "plan", PlanError), MAX_PLAN, PlanError), str(path))

    def __str__(self) -> str:
        """Tell the plan in a few words."""
        said = [] if self.only is None else [f"the {self.only} alone"]
        said += [f"{name} {show(value)}" for name in SETS if (value := getattr(self, name)) is not None]
        said += [f"layers {show(self.order)}, in this order"] if self.order is not None else []
        missing = {"heads": "no attention", "cross_heads": "no attention to the encoder", "ffn": "no feed-forward"}
        for name, none in (missing | {"experts": "no experts"}).items():
            for layer, kept in getattr(self, name).items():
                some = f"{len(kept)} neurons" if name == "ffn" else f"{name.replace('_', ' ')} {show(kept)}"
                said.append(f"layer {layer}: {some if kept else none}")
        said += [] if self.vocab_fallback is None else [f"{self.vocab_fallback} for tokens that are gone"]
        for ratio, what in ((self.ffn_ratio, "neurons"), (self.width_ratio, "width")):
            said += [f"{ratio:g} of the {what}"] if ratio is not None else []
        said += [f"of the encoder {str(self.encoder).removeprefix('keep ')}"] if self.encoder is not None else []
        zeros = f"; zeros: {show_sparsity(self.sparsity)}" if self.sparsity else ""
        return "keep " + ("; ".join(said) or "everything") + zeros


def _of_encoder(value: object) -> PrunePlan | None:
    """A plan, or its file's object; None where it cuts nothing. PlanError: it names what is not the encoder's alone."""
    if value is None:
        return None
    if isinstance(value, dict):
        unknown = [name for name in value if name not in OF_ENCODER]
        try:
            value = PrunePlan() if unknown else PrunePlan(**value)
        except PlanError as e:
            raise PlanError(of_encoder(e)) from None
    elif isinstance(value, PrunePlan):
        names = [f.name for f in fields(value) if f.name not in ("notes", "model")]
        unknown = [n for n in names if n not in OF_ENCODER and getattr(value, n) != getattr(PrunePlan(), n)]
    else:
        msg = f"encoder: found {quote(value)}; expected an object such as {{'layers': '0-3'}}"
        raise PlanError(msg)
    if unknown:
        msg = (
            f"encoder: unknown key {quote(unknown[0])}; expected some of {', '.join(OF_ENCODER)} (ids and width are of "
            "both stacks, and named outside)"
        )
        raise PlanError(msg)
    return None if value.keeps_everything else value


def _by_layer(name: str, value: object) -> dict[int, Indices]:
    if not isinstance(value, dict):
        msg = f"{name}: found {quote(value)}; expected a set of indices for each layer, as {{'0': '0-2,5'}}"
        raise PlanError(msg)
    layers: dict[int, Indices] = {}
    for key, kept in value.items():
        [layer, *more] = read_indices(key, f"{name}: layer") or (-1,)
        if layer < 0 or more or layer in layers:
            msg = f"{name}: {quote(key)} is not one layer, named once"
            raise PlanError(msg)
        layers[layer] = read_indices(kept, f"{name} of layer {layer}")
    return dict(sorted(layers.items()))


def _fallback(value: object) -> int | str | None:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value <= MAX_INDEX:
        return int(value)
    if value is not None and not (isinstance(value, str) and value in ("unk", "bytes")):
        msg = f"vocab_fallback: found {quote(value)}; expected 'unk', 'bytes', or a token's id"
        raise PlanError(msg)
    return value if value is None else str(value)


def _ratio(name: str, value: object) -> float:
    fits = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and 0 < value <= 1
    if not fits:
        msg = f"{name}: found {quote(value)}; expected a number above 0 and at most 1"
        raise PlanError(msg)
    return float(value)  # type: ignore[arg-type]  # `fits` has seen that it is a number
