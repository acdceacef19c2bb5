"""Heads and neurons that a method keeps of a stack, and the biases that take up what goes.

Neurons of a layer of experts are cut alike: neuron j is the j-th of each, its score the sum of theirs over the tokens
that go to them (`loader/prune/rank_ffn.py` does so with weights alone). No bias can take up what goes there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import PlanError
from ...loader.prune.plan import PrunePlan
from ...loader.roles import AXES, WRITERS, expert_key
from ...loader.sizes import sizes_of
from . import structured
from .calibrate import finite, seen_as
from .rewrite import can_compensate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...model import Model
    from ...runtime.spec import Config
    from .calibrate import Statistics
    from .methods import Wish

    F64 = NDArray[np.float64]

__all__ = ["cut_units", "shares_layers"]

#: Units kept of a layer (columns of a matrix) -> that matrix, the bias that may take up what goes.
UNITS = {AXES[role][1]: (role, f"{role}_bias") for role in WRITERS}
#: A matrix of a layer -> that of each expert.
OF_EXPERTS = {"down": "expert_down"}


def cut_units(
    wish: Wish, model: Model, config: Config, statistics: Statistics, before: str = ""
) -> tuple[PrunePlan, dict[str, F64]]:
    """A plan of heads, by key/value head, and neurons of `config.stack`; and what to add to biases, by their names.

    `before`: what the names of the stack's weights begin with. Errors: `PlanError` for a model without such parts, and
    for biases that its checkpoint cannot have.
    """
    cuts: dict[str, dict[int, list[int]]] = {"heads": {}, "ffn": {}}
    biases: dict[str, F64] = {}
    weights = {w.name.removeprefix(before): w for w in model.session.weights if w.name.startswith(before)}
    ranked = structured.everywhere if wish.method == "flap" and not wish.uniform else structured.by_layer
    compensates = wish.method == "flap" and wish.compensate
    for half, (role, bias) in UNITS.items():
        share = getattr(wish, half)
        there = {
            i: names for i in range(config.n_layers) if (names := _matrices(role, i, config)) and names[0] in weights
        }
        if share is None or not there:
            continue
        layers = list(there)
        counts = {i: getattr(sizes_of(config, i), "n_kv_heads" if half == "heads" else "d_ff") for i in layers}
        matrices = {i: [finite(weights[name].f64(), name) for name in there[i]] for i in layers}
        scores = [
            np.sum([
                structured.units(_columns(wish.method, w, statistics, name), counts[i])
                for name, w in zip(there[i], matrices[i], strict=True)
            ], axis=0)
            for i in layers
        ]  # fmt: skip
        kept = ranked(scores, share)
        if compensates:
            _can_compensate(
                config, bias, [len(there[i]) for i in layers], there=f"layers.{layers[0]}.{bias}" in weights
            )
        for i, units in zip(layers, kept, strict=True):
            w, each = matrices[i][0], matrices[i][0].shape[1] // counts[i]
            if compensates:
                columns = [u * each + j for u in units for j in range(each)]
                mean = statistics.total[seen_as(there[i][0])] / statistics.n
                biases[f"{before}layers.{i}.{bias}"] = structured.compensation(w, mean, columns)
            queries = sizes_of(config, i).n_heads // counts[i] if half == "heads" else 1
            cuts[half][i] = [u * queries + j for u in units for j in range(queries)]
    if not any(cuts.values()) and wish.width is None:
        msg = f"{wish}: the model has no such part"
        raise PlanError(msg)
    cuts = {half: _of_shared(model, of) for half, of in cuts.items()}
    told = "biases take up what goes: only the checkpoint that `miaotui prune` writes has them"
    heads, ffn = ({i: tuple(kept) for i, kept in cuts[half].items()} for half in UNITS)
    return PrunePlan(heads=heads, ffn=ffn, notes=(told,) if biases else ()), biases


def _matrices(role: str, layer: int, config: Config) -> list[str]:
    """The names of a layer's matrices of a role: one, or each expert's."""
    n = sizes_of(config, layer).n_experts if role in OF_EXPERTS else 0
    keys = [expert_key(OF_EXPERTS[role], e) for e in range(n)] or [role]
    return [f"layers.{layer}.{key}" for key in keys]


def _can_compensate(config: Config, bias: str, matrices: list[int], *, there: bool) -> None:
    """PlanError: no bias can take up what is cut."""
    if max(matrices) > 1:
        msg = "flap adds what it cuts to a bias, which experts lack; --no-compensation cuts without it"
        raise PlanError(msg)
    can_compensate(config.family, bias, there=there)


def _columns(method: str, w: F64, statistics: Statistics, name: str) -> F64:
    """The method's score of every column; of an expert to which no token went, none."""
    seen = seen_as(name)
    if seen not in statistics.squares:
        return np.zeros(w.shape[1])
    _, layer, place = seen.split(".", 2)
    if method == "activation":
        return structured.activation(statistics.squares[seen])
    if method == "wanda-sp":
        return structured.wanda_sp(w, statistics.norm(int(layer), place))
    return structured.flap(w, statistics.variance(int(layer), place))


def shares_layers(model: Model) -> bool:
    """Whether layers share their weights."""
    layers = model.session.weights.stack.layers
    return len({id(layer) for layer in layers}) < len(layers)


def _of_shared(model: Model, cut: dict[int, list[int]]) -> dict[int, list[int]]:
    """A cut of every layer that has the weights of one that is cut."""
    if not shares_layers(model):
        return cut
    layers = model.session.weights.stack.layers
    firsts = {id(layer): i for i, layer in reversed(list(enumerate(layers)))}
    return {i: cut[firsts[id(layer)]] for i, layer in enumerate(layers) if firsts[id(layer)] in cut}
