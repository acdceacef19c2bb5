"""A plan's indices against a model: every one must be there, and what a model needs must stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import PlanError
from ..files import quote
from ..ranges import last_named
from ..sizes import cross_heads, model_sizes, sizes_of
from .compose import OF_ENCODER, of_encoder
from .plan import PrunePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...runtime.spec import Config
    from ..checkpoint import Checkpoint
    from .plan import Indices

__all__ = ["MAX_LAYERS", "check_indices", "check_model", "check_named", "check_set", "fingerprint"]

#: Layers that a plan may have run: as many as a config.json may say.
MAX_LAYERS = 2**16


def fingerprint(config: Config, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """What a plan says of the model that it is for: family and sizes, and with a checkpoint its tensors' layout."""
    facts: dict[str, Any] = {"family": config.family, **model_sizes(config)}
    if checkpoint is not None:
        facts["layout"] = checkpoint.layout
    return facts


def check_model(plan: PrunePlan, config: Config, checkpoint: Checkpoint | None) -> None:
    """Every part of the plan's fingerprint must be this model's."""
    mine = fingerprint(config, checkpoint) if plan.model else {}  # which reads every name in the file
    for name, value in plan.model.items():
        if name == "layout" and checkpoint is None:
            continue
        if name not in mine:
            msg = f"the plan's model has {quote(name)}, which is no part of a fingerprint ({', '.join(mine)})"
            raise PlanError(msg)
        if mine[name] != value and not (name == "d_head" and not mine[name]):  # a model without attention has no heads
            msg = f"the plan is for another model: its {name} is {quote(value)}, this model's {quote(mine[name])}"
            raise PlanError(msg)


def check_named(raw: Mapping[str, Any], config: Config, checkpoint: Checkpoint | None = None) -> None:
    """Compare the largest index of every text in a plan's object with the model, before any range is written out.

    A few bytes may name billions. `compile_plan` compares everything. Raises `PlanError`.
    """
    check_model(PrunePlan(model=raw.get("model", {})), config, checkpoint)
    for name, (size, each) in _sizes_of_sets(config).items():
        check_set(name, _last(raw.get(name)), size, each, empty=True)
    for name, each in _OF_LAYERS.items():
        for key, kept in raw[name].items() if isinstance(raw.get(name), dict) else ():
            layer = _last(key)
            check_set(name, layer, config.n_layers, "layer", empty=True)
            for i in layer:
                check_set(f"{name} of layer {i}", _last(kept), _count(config, name, i), each, empty=True)
    for key in raw["sparsity"] if isinstance(raw.get("sparsity"), dict) else ():
        layers = key.rpartition(".")[0] or key if isinstance(key, str) else None
        check_set("sparsity", _last(layers), config.n_layers, "layer", empty=True)
    if isinstance(raw.get("encoder"), dict) and config.seq2seq:
        try:
            check_named({name: x for name, x in raw["encoder"].items() if name in OF_ENCODER}, config.encoding)
        except PlanError as e:
            raise PlanError(of_encoder(e)) from None


#: A plan's sets of each layer, and what each element is called.
_OF_LAYERS = {"heads": "head", "cross_heads": "head", "ffn": "neuron", "experts": "expert"}


def _count(config: Config, name: str, layer: int) -> int:
    """How many of these a layer has."""
    own = sizes_of(config, layer)
    return {
        "heads": own.n_heads,
        "cross_heads": cross_heads(config, layer)[0],
        "ffn": own.d_ff,
        "experts": own.n_experts,
    }[name]


def _last(value: object) -> Indices:
    """The largest index of a text, where it is one."""
    last = last_named(value)
    return () if last is None else (last,)


def _sizes_of_sets(config: Config) -> dict[str, tuple[int, str]]:
    """A plan's set -> how many there are of what it names, and what each is called."""
    layers = (config.n_layers, "layer")
    return {
        "order": layers, "layers": layers, "vocab": (config.n_vocab, "token"), "width": (config.d_model, "dimension")
    }  # fmt: skip


def check_indices(plan: PrunePlan, config: Config) -> None:
    """Every index is one that the model has, and what must not be empty is not."""
    if plan.order is not None:
        check_set("order", tuple(sorted(set(plan.order))), config.n_layers, "layer")
        if len(plan.order) > MAX_LAYERS:
            msg = f"order: {len(plan.order)} layers; expected at most {MAX_LAYERS}"
            raise PlanError(msg)
    for name, (size, each) in _sizes_of_sets(config).items():
        if name != "order" and getattr(plan, name) is not None:
            check_set(name, getattr(plan, name), size, each)
    if isinstance(plan.vocab_fallback, int):
        check_set("vocab_fallback", (plan.vocab_fallback,), config.n_vocab, "token")
        if plan.vocab is not None and plan.vocab_fallback not in plan.vocab:
            msg = f"vocab_fallback: token {plan.vocab_fallback} stands for those that are gone, but is cut; keep it"
            raise PlanError(msg)
    for name, each in _OF_LAYERS.items():
        of = getattr(plan, name)
        check_set(name, tuple(of), config.n_layers, "layer", empty=True)
        for layer, kept in of.items():
            check_set(f"{name} of layer {layer}", kept, _count(config, name, layer), each, empty=True)
    _check_experts(plan, config)


def _check_experts(plan: PrunePlan, config: Config) -> None:
    """As many as a token goes to, at least."""
    for layer, kept in plan.experts.items():
        ffn = config.stack.feed_forward(layer)
        least = ffn.experts.per_token if ffn is not None and ffn.experts is not None else 0
        if len(kept) < least:
            msg = f"experts of layer {layer}: {len(kept)} kept, but a token goes to {least}; keep at least as many"
            raise PlanError(msg)


def check_set(what: str, kept: Indices, size: int, each: str, *, empty: bool = False) -> None:
    """Errors: `PlanError` where one of the indices, which ascend, is not below `size`, or nothing is kept."""
    if not kept and not empty:
        msg = f"{what}: nothing is kept; a model needs at least one"
        raise PlanError(msg)
    if kept and kept[-1] >= size:
        it = "it" if " of layer " in what else "the model"
        msg = f"{what}: there is no {each} {kept[-1]}; {it} has {f'{size} (0 to {size - 1})' if size else 'none'}"
        raise PlanError(msg)
