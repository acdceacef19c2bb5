"""What is left of a pruned model, as a Hugging Face checkpoint: its config.json, and its tensors as the file has them.

The config is the old one with new sizes; where layers differ it says so as `layer_sizes` describes. Before anything is
written it is read back and compared (`export_check`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import PlanError
from ...runtime.spec import Attention
from ..config import resolve_config, resolve_outside
from ..families import FAMILIES, layer_type, shared_numbers
from ..pieces import folded_shape
from ..sizes import d_head, largest, model_sizes, sizes_of
from ..source import read_masked
from .export_check import check_same
from .layer_sizes import ENCODER_PER_LAYER, PER_LAYER, PRUNED_HEADS, outer_sizes, spell, surviving_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from ...runtime.spec import Config
    from ..checkpoint import Checkpoint
    from ..families import Family
    from ..load_plan import LoadPlan
    from ..source import Source
    from .cut import Cut

    Change = Callable[[list[Source], NDArray[np.generic]], NDArray[np.generic]]
    Reshape = Callable[[list[Source], tuple[int, ...]], tuple[int, ...]]

__all__ = ["Left", "left_config", "left_generation", "left_tensors", "refused_by_transformers", "resized"]

ID_KEYS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
WORDS = "bad_words_ids"  # lists of ids
#: What transformers takes for the encoder's layers, too, where an encoder-decoder's config.json has it.
OTHER_LAYERS = "num_hidden_layers"


def left_config(raw: Mapping[str, Any], plan: LoadPlan) -> dict[str, Any]:
    """config.json of what the plan leaves. Raises `PlanError` where it could not say the same."""
    config, before = plan.config, plan.cut.before
    out = resized(raw, before, config) | _alone(plan)
    outside, own_words = resolve_outside(raw, "config.json"), FAMILIES[config.family].spell_layers
    attentions = [s for layer in outside.stack.layers for s in layer if isinstance(s, Attention)]
    if raw.get("layer_types") or len({s.window for s in attentions}) > 1 or own_words:
        kept = [attentions[i] for i in plan.cut.layers]
        out |= own_words(kept) if own_words else {"layer_types": [layer_type(s.window) for s in kept]}
    if FAMILIES[config.family].groups:
        out |= _groups(plan)
    spell_experts = FAMILIES[config.family].spell_experts
    if spell_experts is not None:
        out |= spell_experts([bool(sizes_of(before, i).n_experts) for i in plan.cut.layers])
    if "d_head" not in FAMILIES[config.family].spelled(config):
        gone = _pruned_heads(raw, plan.cut)
        gone |= {} if plan.encoder is None else _pruned_heads(raw, plan.encoder.cut)
        if gone and not FAMILIES[config.family].names_pruned_heads:
            why = "the width divided by the heads is a head's width in this family: heads cannot go"
            msg = f"this plan cannot be written as a {config.family} checkpoint: {why}. It can be used while loading"
            raise PlanError(msg)
        out |= gone
    if plan.cut.vocab is not None:
        known = resolve_config(raw, "config.json").config
        ids = {"bos_token_id": known.bos_ids, "eos_token_id": known.eos_ids}
        out |= _new_ids({**raw, **{key: list(of) for key, of in ids.items()}}, plan.cut)
    _check_starts(plan)
    check_same(out, config)
    return out


def _alone(plan: LoadPlan) -> dict[str, Any]:
    """Keys that say which stack of an encoder-decoder the file holds. PlanError: transformers has no class for it."""
    name = FAMILIES[plan.config.family].encoder_alone
    if plan.cut.only is not None and not name:
        msg = (
            f"this plan cannot be written as a {plan.config.family} checkpoint: transformers has no class for its "
            f"{plan.cut.only} alone. It can be used while loading"
        )
        raise PlanError(msg)
    return {} if plan.cut.only is None else {"architectures": [name], "is_encoder_decoder": False}


def resized(raw: Mapping[str, Any], before: Config, config: Config) -> dict[str, Any]:
    """config.json with the sizes of `config` in place of those of `before`, which it says; heads of a GPT-2 apart."""
    family, own = FAMILIES[config.family], FAMILIES[raw["model_type"]]
    out = {key: value for key, value in raw.items() if key not in (PER_LAYER, ENCODER_PER_LAYER)}
    if own.written_as:
        old = model_sizes(before)
        out |= {**own.written_as, **{family.spelling[name]: old[name] for name in ("n_kv_heads", "d_ff")}}
        out = {key: value for key, value in out.items() if key not in own.written_as or value is not None}
    out = {family.synonyms.get(key, key): value for key, value in out.items()}
    if config.seq2seq:
        out |= _of_stack(before.encoding, config.encoding, family, ENCODER_PER_LAYER)
        layers = family.spelled(config.encoding)["n_layers"]
        if layers in out and raw.get(family.spelling["n_layers"]) is None:  # T5's are as many as the encoder's, unsaid
            out[family.spelling["n_layers"]] = before.n_layers
        if layers in out and OTHER_LAYERS in out:
            out[OTHER_LAYERS] = out[layers]
    return out | _of_stack(before, config, family, PER_LAYER)


def _of_stack(before: Config, config: Config, family: Family, per_layer: str) -> dict[str, Any]:
    """Keys that say the sizes of `config.stack`, where they are not those of `before`; layers that differ."""
    spelling, out = family.spelled(config), {}
    old, new = model_sizes(before), model_sizes(config)
    names = ("n_layers", "n_vocab", "d_model", "d_ff", "n_experts", "d_dense")
    changed = [name for name in names if name in new and new[name] != old.get(name)]
    if "d_head" in spelling and any(new[name] != old[name] for name in ("n_heads", "n_kv_heads", "d_model")):
        changed += ["n_heads", "n_kv_heads", "d_head"]
    new |= vars(outer_sizes(config)) | {"d_head": d_head(config) or d_head(before)}
    for name in changed:
        if new[name] and name in spelling:  # 0 where no layer has that sublayer, whose key stays as it is
            out[spelling[name]] = new[name]
    differs = spell(config, family)
    return out | ({per_layer: {str(i): of for i, of in differs.items()}} if differs else {})


def left_generation(raw: Mapping[str, Any], plan: LoadPlan) -> dict[str, Any]:
    """generation_config.json of what the plan leaves: token ids are rows now."""
    return dict(raw) if plan.cut.vocab is None else dict(raw) | _new_ids(raw, plan.cut)


def refused_by_transformers(left: Mapping[str, Any], config: Config) -> str | None:
    """Why transformers will not build this model, or None: what its config classes check, as of 5.24."""
    if PER_LAYER in left:
        return f"its layers differ ({PER_LAYER}), which transformers up to 5.24 reads but builds no such model from"
    if ENCODER_PER_LAYER in left:
        return f"its encoder's layers differ ({ENCODER_PER_LAYER}), for which transformers has no words"
    if left.get(PRUNED_HEADS):
        return f"heads were cut from a GPT-2 ({PRUNED_HEADS}), which transformers reads up to version 4 only"
    n_heads = largest(config).n_heads
    if n_heads and config.d_model % n_heads and FAMILIES[config.family].heads_divide_width:
        return f"transformers wants a width, {config.d_model}, that its {n_heads} heads divide"
    return None


Left = tuple[str, str, tuple[int, ...], "Callable[[], NDArray[np.generic]]"]


def left_tensors(
    plan: LoadPlan, checkpoint: Checkpoint, change: Change | None = None, reshape: Reshape | None = None
) -> Iterator[Left]:
    """Name, dtype and shape of every tensor to write, and a call that gives it: gathered only then.

    Oriented and fused as the file has them, under the new layers' numbers; a tied model's second head is left out.
    `change` is handed every tensor that is not quantised, outputs first and pieces joined, with its sources, and gives
    what is to be written: same dtype, and the shape that `reshape` gives for theirs, or the same.
    """
    shares = FAMILIES[plan.config.family].groups
    distinct = tuple({id(layer): layer for layer in plan.layers}.values()) if shares else plan.layers
    stacks = [(plan.model, *distinct)]
    stacks += [] if plan.encoder is None else [(plan.encoder.model, *plan.encoder.layers)]
    around, own = FAMILIES[plan.config.family].around, FAMILIES[plan.config.family].prefixes[0]
    written: set[str] = set()
    for i, sources in chain.from_iterable(enumerate(stack, -1) for stack in stacks):
        tensors: dict[str, list[Source]] = {}
        for source in sources.values():
            name = source.pattern.replace("{i}", str(i)).replace("{e}", str(source.expert))
            parts = tensors.setdefault(name, [])
            if all(part.rows != source.rows for part in parts):  # a norm that two halves share is one tensor
                parts.append(source)
        tensors = {name: parts for name, parts in tensors.items() if name not in written}  # one embedding of two stacks
        written.update(tensors)
        for there, parts in tensors.items():
            first, name = parts[0], there if around is None else around.own_name(there, own)
            if first.prequantized:
                yield name, first.tensor.dtype, first.tensor.shape, _whole(checkpoint, first)
                continue
            if first.several:
                yield from _each_head(checkpoint, first, name)
                continue
            shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
            shape = shape if reshape is None else reshape(parts, shape)
            stored = shape[::-1] if first.transposed else shape
            stored = folded_shape(first.folded, shape, plan.config) if first.folded else stored
            if first.stack:
                n = len({part.expert for part in parts})
                stored = (n, shape[0] // n, *shape[1:])
            yield name, first.tensor.dtype, stored, _gather(checkpoint, parts, change, stored)
    if (unread := _unread_embedding(plan, checkpoint, written)) is not None:
        yield unread.pattern, unread.tensor.dtype, unread.shape, _gather(checkpoint, [unread], None, unread.shape)


def _unread_embedding(plan: LoadPlan, checkpoint: Checkpoint, written: set[str]) -> Source | None:
    """An embedding of neither stack, which transformers misses in a file where each stack has one of its own (BART)."""
    family, embed = FAMILIES[plan.config.family], plan.model["embed"]
    part = family.parts(plan.config)["embed"]
    info = checkpoint.tensors.get(family.prefix_in(checkpoint.tensors) + part.name)
    if not part.untied or info is None or info.name in written or info.shape != embed.tensor.shape:
        return None
    return replace(embed, tensor=info, pattern=info.name)


def _whole(checkpoint: Checkpoint, source: Source) -> Callable[[], NDArray[np.generic]]:
    return lambda: checkpoint.array(source.tensor.name)


def _each_head(checkpoint: Checkpoint, source: Source, name: str) -> Iterator[Left]:
    """The kept heads' parts of a vector, each a tensor, under new numbers."""
    for h, info in enumerate(source.tensors):
        yield name.replace("{h}", str(h)), info.dtype, info.shape, partial(checkpoint.array, info.name)


def _gather(
    checkpoint: Checkpoint, parts: list[Source], change: Change | None, stored: tuple[int, ...]
) -> Callable[[], NDArray[np.generic]]:
    def make() -> NDArray[np.generic]:
        tensor = checkpoint.array(parts[0].tensor.name)
        pieces = [read_masked(part, tensor) for part in parts]
        joined: NDArray[np.generic] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if change is not None:
            joined = change(parts, joined)
        if len(parts) > 1:  # as they stand in the file, where they may take turns by head
            joined = joined[np.argsort(np.concatenate([part.row_indices for part in parts]), kind="stable")]
        joined = joined.reshape(stored) if parts[0].folded else joined
        return np.ascontiguousarray(joined.T if parts[0].transposed else joined)

    return make


def _groups(plan: LoadPlan) -> dict[str, Any]:
    """How many layers' weights there are. PlanError: layers do not share them evenly, as config.json has it."""
    family = FAMILIES[plan.config.family]
    places: dict[int, int] = {}
    for layer in plan.layers:
        places.setdefault(id(layer), len(places))
    if tuple(places[id(layer)] for layer in plan.layers) != shared_numbers(len(plan.layers), len(places)):
        msg = (
            f"this plan cannot be written as a {family.name} checkpoint: its layers share {len(places)} sets of "
            "weights unevenly, for which config.json has no words. It can be used while loading"
        )
        raise PlanError(msg)
    return {family.groups: len(places)}


def _pruned_heads(raw: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    """`pruned_heads` of every layer that is left: its old ones, and those that the cut takes from the others."""
    old, gone = raw.get(PRUNED_HEADS) or {}, {}
    family = FAMILIES[cut.before.family]
    key = family.spelled(cut.before)["n_heads"]
    n_heads = raw.get(key, family.keys[key].default)
    for new, layer in enumerate(cut.layers):
        there = surviving_heads(old.get(str(layer), []), n_heads, PRUNED_HEADS)
        kept = [there[h] for h in cut.heads.get(layer, range(len(there)))]
        if kept and len(kept) < n_heads:
            gone[str(new)] = sorted(set(range(n_heads)) - set(kept))
    return {PRUNED_HEADS: gone} if gone or PRUNED_HEADS in raw else {}


def _new_ids(raw: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    """The file's token ids as rows; one that is not kept is null."""
    row = {old: new for new, old in enumerate(cut.vocab or ())}
    changed: dict[str, Any] = {}
    for key in ID_KEYS:
        value = raw.get(key)
        if isinstance(value, list):
            rows = [row[i] for i in value if i in row]
            changed[key] = rows[0] if len(rows) == 1 else rows or None
        elif key in raw:
            changed[key] = row.get(value) if isinstance(value, int) else None
    if isinstance(raw.get(WORDS), list):
        kept = [word for word in raw[WORDS] if all(i in row for i in word)]
        changed[WORDS] = [[row[i] for i in word] for word in kept] or None
    return changed


def _check_starts(plan: LoadPlan) -> None:
    """PlanError: a layer gets a number under which the family's files have other tensors (ModernBERT's first norm)."""
    family = FAMILIES[plan.config.family]
    for new, old in enumerate(plan.cut.layers):
        for role in family.layer:
            if family.starts(role, new) != family.starts(role, old):
                msg = (
                    f"this plan cannot be written as a {family.name} checkpoint: layer {old} would become layer {new}, "
                    f"and only one of the two has a {role}. It can be used while loading"
                )
                raise PlanError(msg)
