"""A plan compared with a model and compiled: the config of what is left, and what is kept along every axis.

A plan is for `Config.stack`, and names a layer's attention and feed-forward by its number alone. What it says of an
encoder that a decoder reads is a plan for `Config.encoding`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import PlanError
from ...runtime.spec import Attention, Buckets, Decoding, FeedForward
from ..families import FAMILIES
from ..ranges import show
from ..roles import AXES, CROSS, LINEAR, ROLES
from ..sizes import (
    LayerSizes,
    axis_size,
    cross_heads,
    has_padding_row,
    head_reads_width,
    sizes_of,
    with_sizes,
)
from .compose import of_encoder
from .cut import Cut
from .named import check_indices, check_model, check_set
from .plan import PrunePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...runtime.spec import Config, Head
    from ..checkpoint import Checkpoint
    from .plan import Indices

__all__ = ["compile_plan", "with_shares"]

#: That of a padding token which was cut.
NO_ID = -1


def compile_plan(plan: PrunePlan | None, config: Config, checkpoint: Checkpoint | None = None) -> Cut:
    """Compare a plan with the model of `config` and compile it; no tensor is read.

    Raises `PlanError` for a plan for another model, for indices that the model lacks, for a layer or a model that
    would be empty, for KV groups torn apart, for a ratio that is not resolved (`options.parse_prune`), and for zeros
    whose pattern does not fit what is left of a matrix.
    """
    plan = plan or PrunePlan()
    check_model(plan, config, checkpoint)
    if plan.ratio is not None:
        msg = f"{plan.ratio} is not resolved to indices yet; give the plan to load, or resolve it first"
        raise PlanError(msg)
    if plan.vocab_fallback == "unk":
        msg = "vocab_fallback 'unk' is not resolved to an id yet; give the plan to load, or resolve it first"
        raise PlanError(msg)
    check_indices(plan, config)
    _check_stacks(plan, config)
    encoder = _encoder(plan, config) if config.seq2seq else None
    layers = tuple(range(config.n_layers)) if plan.run is None else plan.run
    own = {layer: sizes_of(config, layer) for layer in plan.heads}
    kv_heads = {i: _kv_heads("heads", plan.heads[i], of.n_heads, of.n_kv_heads, i) for i, of in own.items()}
    cross = {i: _kv_heads("cross_heads", of, *cross_heads(config, i), i) for i, of in plan.cross_heads.items()}
    biased = _biased(plan, config, layers)
    left = _left(plan, config, layers, kv_heads, encoder, biased)
    parts = (plan.heads, kv_heads, plan.ffn, plan.vocab, plan.width, plan.sparsity, plan.vocab_fallback)
    cut = Cut(config, left, layers, *parts, plan.cross_heads, cross, biased, encoder, plan.experts, plan.only)
    _check_zeros(cut)
    return cut


def _check_stacks(plan: PrunePlan, config: Config) -> None:
    """Errors: `PlanError` where it speaks of an encoder that is not there, or of what two stacks cannot lose."""
    if plan.encoder is not None and not config.seq2seq:
        msg = f'encoder: {config.family} is not an encoder-decoder; say what to keep outside of "encoder"'
        raise PlanError(msg)
    if plan.only is not None and not config.seq2seq:
        msg = f"only: {config.family} is no encoder-decoder, of which one stack could stay; leave it out"
        raise PlanError(msg)
    of_decoder = ("layers", "order", "heads", "cross_heads", "ffn", "ffn_ratio", "experts", "sparsity")
    nothing = PrunePlan()
    named = [name for name in of_decoder if getattr(plan, name) != getattr(nothing, name)]
    if plan.only is not None and named:
        msg = f"only: the {plan.only} alone is kept, and {named[0]} is of the decoder; name it in {plan.only}"
        raise PlanError(msg)
    if config.n_source is not None and plan.vocab is not None:
        msg = "vocab: this model's encoder has a vocabulary of its own, whose ids a plan cannot name; leave vocab out"
        raise PlanError(msg)
    stacks = (stack for stack in (config.decoder, config.encoder) if stack is not None)
    if plan.width is not None and any(stack.sinusoids is not None for stack in stacks):
        msg = (
            f"width: positions of this {config.family} model are a formula of its whole width (sinusoids), of which no "
            "part can be kept; leave it out"
        )
        raise PlanError(msg)


def _encoder(plan: PrunePlan, config: Config, shares: Cut | None = None) -> Cut:
    """What is left of the encoder that a decoder reads: ids and width are of both. `shares`: as in `with_shares`."""
    of = replace(plan.encoder or PrunePlan(), vocab=plan.vocab, width=plan.width)
    try:
        return compile_plan(of, config.encoding) if shares is None else with_shares(shares, of)
    except PlanError as e:
        raise PlanError(of_encoder(e)) from None


def _biased(plan: PrunePlan, config: Config, layers: Indices) -> dict[int, Indices]:
    """Whose lines of tables of distances stay: of each layer's own table, or of the stack's, where layers agree."""
    tables = any(isinstance(bias, Buckets) for bias in config.stack.biases)
    if not tables or not plan.heads:
        return {}
    if "own_bias" in FAMILIES[config.family].layers(config):
        return {layer: kept for layer, kept in plan.heads.items() if kept}
    biased = [i for i in layers if (s := config.stack.attention(i)) is not None and s.bias is not None]
    kept = {plan.heads.get(i) for i in biased} - {()}
    [one] = kept if len(kept) == 1 else {None}
    return {} if one is None else {0: one}


def with_shares(cut: Cut, plan: PrunePlan) -> Cut:
    """What `compile_plan(plan)` gives, from `cut`: the same plan compiled without its shares and its sparsity.

    `plan` has the shares as indices, which are not checked again. Errors: `PlanError` for zeros that do not fit.
    """
    _check_stacks(plan, cut.before)
    encoder = None if cut.encoder is None else _encoder(plan, cut.before, cut.encoder)
    left = _left(plan, cut.before, cut.layers, cut.kv_heads, encoder, cut.biased)
    out = replace(cut, config=left, ffn=plan.ffn, width=plan.width, sparsity=plan.sparsity, encoder=encoder)
    _check_zeros(out)
    return out


def _check_zeros(cut: Cut) -> None:
    """Every pattern fits the matrices that are left, and names some that the model has."""
    named = {cell.rpartition(".")[2] for cell in cut.sparsity}
    layers = tuple(sorted({int(cell.partition(".")[0]) for cell in cut.sparsity if "." in cell}))
    check_set("sparsity", layers, cut.before.n_layers, "layer", empty=True)
    if "head" in named and cut.before.tied:
        msg = "sparsity of head: it is the embedding here, whose rows are looked up; leave it out"
        raise PlanError(msg)
    gated = any(isinstance(s, FeedForward) and s.gated for layer in cut.before.stack.layers for s in layer)
    if named == {"gate"} and not gated:
        msg = "sparsity of gate: this model's feed-forward has none; expected some of q, k, v, o, up, down"
        raise PlanError(msg)
    roles = [role for role in LINEAR if role != "gate" or gated]
    if cut.config.seq2seq:
        roles += [role.name for role in ROLES.values() if role.sublayer == CROSS and role.kind == "matrix"]
    roles += [role.name for role in ROLES.values() if "shared" in role.axes and role.place]
    matrices = [("head", 0, 0), *((role, new, old) for new, old in enumerate(cut.layers) for role in roles)]
    for role, new, old in matrices if cut.sparsity else ():
        pattern, shape = cut.zeros(role, old), tuple(axis_size(cut.config, axis, new) for axis in AXES[role])
        if pattern is not None and (why := pattern.misfit(shape)):
            where = role if role == "head" else f"{role} of layer {old}"
            msg = f"sparsity of {where}: {pattern} does not fit {list(shape)}: {why}. Name the roles that it is for"
            raise PlanError(msg)


def _left(  # noqa: PLR0913, PLR0917 - a plan, what it is for, and what was made of its parts
    plan: PrunePlan,
    config: Config,
    layers: Indices,
    kv_heads: Mapping[int, Indices],
    encoder: Cut | None,
    biased: Mapping[int, Indices],
) -> Config:
    """The config of what is left."""
    stack = config.stack
    d_model = stack.d_model if plan.width is None else len(plan.width)
    run = tuple(
        _crossing(_lines_left(stack.layers[i], None if biased else plan.heads.get(i)), plan.cross_heads.get(i))
        for i in layers
    )
    left = config.with_stack(replace(stack, d_model=d_model, layers=run))
    left = with_sizes(left, [_sizes(plan, sizes_of(config, i), i, kv_heads) for i in layers])
    if encoder is not None:
        left = replace(left, encoder=encoder.config.stack)
    if left.head is not None and head_reads_width(config, left.head):
        left = replace(left, head=replace(left.head, width=left.head.width + d_model - stack.d_model))
    if plan.vocab is not None:
        new = {old: i for i, old in enumerate(plan.vocab)}
        bos, eos = (tuple(new[i] for i in ids if i in new) for ids in (config.bos_ids, config.eos_ids))
        if has_padding_row(config):
            left = replace(left, padding=new.get(config.padding or 0, NO_ID))
        elif config.padding is not None and new.get(config.padding) != config.padding:
            msg = f"vocab: positions count from the padding token's id, {config.padding}; keep the tokens up to that"
            raise PlanError(msg)
        left = replace(left, n_vocab=len(new), bos_ids=bos, eos_ids=eos)
        left = replace(left, decoding=None if plan.only is not None else _renumbered(left.decoding, new))
        left = replace(left, head=None if left.head is None else _head_of(left.head, new))
    return left


def _head_of(head: Head, new: Mapping[int, int]) -> Head:
    """With the rows of the ids that are left. PlanError: the one that says where it reads is not."""
    n_out, shifted = len(new) if head.kind == "masked_lm" else head.n_out, head.shifted
    if shifted is not None:
        if shifted.end not in new:
            msg = f"vocab: token {shifted.end} ends the texts of which the head says something, but is cut; keep it"
            raise PlanError(msg)
        shifted = replace(shifted, end=new[shifted.end])
    padding = None if head.padding is None else new.get(head.padding)
    return replace(head, n_out=n_out, padding=padding, shifted=shifted)


def _lines_left(
    layer: tuple[Attention | FeedForward, ...], heads: Indices | None
) -> tuple[Attention | FeedForward, ...]:
    """A layer that adds to its scores, with the lines of the heads that it keeps."""
    if heads is None:
        return layer
    return tuple(replace(s, bias_heads=heads) if isinstance(s, Attention) and s.bias is not None else s for s in layer)


def _crossing(layer: tuple[Attention | FeedForward, ...], heads: Indices | None) -> tuple[Attention | FeedForward, ...]:
    """A layer with these heads of its attention to the encoder; none: it reads no encoder."""
    if heads is None:
        return layer
    some = [s for s in layer if heads or not (isinstance(s, Attention) and s.cross)]
    return tuple(_with_heads(s, len(heads)) if isinstance(s, Attention) and s.cross else s for s in some)


def _with_heads(s: Attention, n: int) -> Attention:
    """With fewer query heads, and as many key/value heads less."""
    return replace(s, n_heads=n, n_kv_heads=n * s.n_kv_heads // s.n_heads)


def _renumbered(decoding: Decoding | None, new: Mapping[int, int]) -> Decoding | None:
    """With the rows of the ids that are left. PlanError: what a decoder reads first is not."""
    if decoding is None:
        return None
    if decoding.start not in new:
        msg = f"vocab: token {decoding.start} is what the decoder reads first, but is cut; keep it"
        raise PlanError(msg)
    return Decoding(
        new[decoding.start],
        None if decoding.forced_bos is None else new.get(decoding.forced_bos),
        tuple(new[i] for i in decoding.forced_eos if i in new),
        tuple(tuple(new[i] for i in word) for word in decoding.never if all(i in new for i in word)),
    )


def _kv_heads(what: str, kept: Indices, n_heads: int, n_kv_heads: int, layer: int) -> Indices:
    """The KV heads that kept query heads need: query head h reads KV head h * n_kv_heads // n_heads.

    Kernels, and every other program that reads such a file, find it by that formula again: equally many for each.
    """
    counts: dict[int, int] = {}
    for h in kept:
        group = h * n_kv_heads // n_heads
        counts[group] = counts.get(group, 0) + 1
    if len(set(counts.values())) > 1:
        size = n_heads // n_kv_heads
        have = ", ".join(f"KV head {g} keeps {n} of {size}" for g, n in counts.items())
        msg = (
            f"{what} of layer {layer}: keeping {show(kept)} leaves KV groups torn apart: {have}. Every KV head that "
            "stays must keep equally many query heads"
        )
        raise PlanError(msg)
    return tuple(counts)


def _sizes(plan: PrunePlan, before: LayerSizes, layer: int, kv_heads: Mapping[int, Indices]) -> LayerSizes:
    """Sizes of one kept layer."""
    left = LayerSizes(
        len(plan.heads.get(layer, range(before.n_heads))),
        len(kv_heads.get(layer, range(before.n_kv_heads))),
        len(plan.ffn.get(layer, range(before.d_ff))),
        len(plan.experts.get(layer, range(before.n_experts))),
    )
    if not left.n_heads and not left.d_ff:
        msg = f"layer {layer} would keep neither attention nor feed-forward; leave it out of the layers instead"
        raise PlanError(msg)
    return left
