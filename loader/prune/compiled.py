"""A plan compared with a model and compiled: the config of what is left, and what is kept along every axis.

A cut is a set of ranges for each axis of `roles`; a plan is for `Config.stack`, and names a layer's attention and
feed-forward by its number alone. What it says of an encoder that a decoder reads is a plan for `Config.encoding`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...errors import PlanError
from ...runtime.spec import Attention, Buckets, Decoding, FeedForward
from ..families import FAMILIES
from ..files import quote
from ..ranges import as_ranges, last_named, show, spread
from ..roles import AXES, CROSS, LINEAR, ROLES
from ..sizes import (
    LayerSizes,
    axis_size,
    cross_heads,
    d_head,
    has_padding_row,
    head_reads_width,
    model_sizes,
    sizes_of,
    with_sizes,
)
from .compose import OF_ENCODER, of_encoder
from .plan import PrunePlan
from .sparsity import Pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...runtime.spec import Config
    from ..checkpoint import Checkpoint
    from ..ranges import Ranges
    from .plan import Indices

__all__ = ["MAX_LAYERS", "Cut", "check_named", "compile_plan", "fingerprint", "with_shares"]

WIDTH = "width"
#: That of a padding token which was cut.
NO_ID = -1
#: Axes of which a layer keeps what a plan says of it.
OF_LAYER = ("heads", "kv_heads", "cross_heads", "cross_kv_heads", "ffn", "biased", "experts")
#: Layers that a plan may have run: as many as a config.json may say.
MAX_LAYERS = 2**16


@dataclass(frozen=True)
class Cut:
    """`before`: the file's model; `config`: what is left. `layers`: the file's numbers of those that run, in order.

    Heads, key/value heads, neurons, experts: kept ones by the file's layer number, where not all are. `sparsity`: the
    plan's.
    """

    before: Config
    config: Config
    layers: Indices
    heads: Mapping[int, Indices]
    kv_heads: Mapping[int, Indices]
    ffn: Mapping[int, Indices]
    vocab: Indices | None
    width: Indices | None
    sparsity: Mapping[str, str] = field(default_factory=dict)
    vocab_fallback: int | str | None = None
    cross_heads: Mapping[int, Indices] = field(default_factory=dict)
    cross_kv_heads: Mapping[int, Indices] = field(default_factory=dict)
    #: Heads whose lines of a table of distances stay, where not all do: of a layer's own, or under 0 of the stack's.
    biased: Mapping[int, Indices] = field(default_factory=dict)
    #: Of the encoder that a decoder reads.
    encoder: Cut | None = None
    experts: Mapping[int, Indices] = field(default_factory=dict)

    @property
    def cuts(self) -> bool:
        """Whether anything of the file's model is left out."""
        mine = self.config != self.before or self.layers != tuple(range(self.before.n_layers))
        return mine or (self.encoder is not None and self.encoder.cuts)

    def same(self, layer: int) -> tuple[Indices | None, ...]:
        """Equal for layers of which the same is kept."""
        return tuple(getattr(self, axis).get(layer) for axis in OF_LAYER)

    def tokens(self, kept: Indices | None) -> Indices:
        """The tokenizer's id of every row that is left; `kept`: of every row of the file's model, if not its number."""
        rows = tuple(range(self.before.n_vocab)) if self.vocab is None else self.vocab
        return rows if kept is None else tuple(kept[row] for row in rows)

    def fallback(self, kept: Indices | None, before: int | str | None) -> int | str | None:
        """What stands for a token that is gone, as the tokenizer's id; `before`: what the file says."""
        if not isinstance(self.vocab_fallback, int):
            return before if self.vocab_fallback is None else self.vocab_fallback
        return self.vocab_fallback if kept is None else kept[self.vocab_fallback]

    def kept(self, axis: str, layer: int) -> Ranges:
        """Kept elements along an axis of one of the file's layers."""
        if axis == "taps":
            taps = self.before.stack.convolution.taps if self.before.stack.convolution else 1
            return spread(self.kept("width", layer), taps)
        indices: Indices | None = None
        if axis in ("vocab", "width", "source"):
            indices = getattr(self, WIDTH if axis == "source" else axis)
        elif axis in OF_LAYER:
            indices = getattr(self, axis).get(layer)
        if indices is None:
            return ((0, axis_size(self.before, axis, layer)),)
        return spread(as_ranges(indices), d_head(self.before) if axis.endswith("heads") else 1)

    def zeros(self, role: str, layer: int = 0) -> Pattern | None:
        """Zeros in a role of one of the file's layers, where any are asked for: q's are those of both attentions."""
        role = role.removeprefix("cross_")
        text = self.sparsity.get(f"{layer}.{role}", self.sparsity.get(role))
        return None if text in (None, "dense") else Pattern.parse(text)


def fingerprint(config: Config, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """What a plan says of the model that it is for: family and sizes, and with a checkpoint its tensors' layout."""
    facts: dict[str, Any] = {"family": config.family, **model_sizes(config)}
    if checkpoint is not None:
        facts["layout"] = checkpoint.layout
    return facts


def compile_plan(plan: PrunePlan | None, config: Config, checkpoint: Checkpoint | None = None) -> Cut:
    """Compare a plan with the model of `config` and compile it; no tensor is read.

    Raises `PlanError` for a plan for another model, for indices that the model lacks, for a layer or a model that
    would be empty, for KV groups torn apart, for a ratio that is not resolved (`options.parse_prune`), and for zeros
    whose pattern does not fit what is left of a matrix.
    """
    plan = plan or PrunePlan()
    _check_model(plan, config, checkpoint)
    if plan.ratio is not None:
        msg = f"{plan.ratio} is not resolved to indices yet; give the plan to load, or resolve it first"
        raise PlanError(msg)
    if plan.vocab_fallback == "unk":
        msg = "vocab_fallback 'unk' is not resolved to an id yet; give the plan to load, or resolve it first"
        raise PlanError(msg)
    _check_indices(plan, config)
    _check_stacks(plan, config)
    encoder = _encoder(plan, config) if config.seq2seq else None
    layers = tuple(range(config.n_layers)) if plan.run is None else plan.run
    own = {layer: sizes_of(config, layer) for layer in plan.heads}
    kv_heads = {i: _kv_heads("heads", plan.heads[i], of.n_heads, of.n_kv_heads, i) for i, of in own.items()}
    cross = {i: _kv_heads("cross_heads", of, *cross_heads(config, i), i) for i, of in plan.cross_heads.items()}
    biased = _biased(plan, config, layers)
    left = _left(plan, config, layers, kv_heads, encoder, biased)
    parts = (plan.heads, kv_heads, plan.ffn, plan.vocab, plan.width, plan.sparsity, plan.vocab_fallback)
    cut = Cut(config, left, layers, *parts, plan.cross_heads, cross, biased, encoder, plan.experts)
    _check_zeros(cut)
    return cut


def _check_stacks(plan: PrunePlan, config: Config) -> None:
    """Errors: `PlanError` where it speaks of an encoder that is not there, or of what two stacks cannot lose."""
    if plan.encoder is not None and not config.seq2seq:
        msg = f"encoder: {config.family} is no encoder-decoder; name its layers and what they keep outside of it"
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
    _check_set("sparsity", layers, cut.before.n_layers, "layer", empty=True)
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
        left = replace(left, n_vocab=len(new), bos_ids=bos, eos_ids=eos, decoding=_renumbered(left.decoding, new))
        if left.head is not None and left.head.kind == "masked_lm":
            left = replace(left, head=replace(left.head, n_out=len(new)))
    return left


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


def _check_model(plan: PrunePlan, config: Config, checkpoint: Checkpoint | None) -> None:
    """Every part of the plan's fingerprint must be this model's."""
    mine = fingerprint(config, checkpoint)
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
    _check_model(PrunePlan(model=raw.get("model", {})), config, checkpoint)
    for name, (size, each) in _sizes_of_sets(config).items():
        _check_set(name, _last(raw.get(name)), size, each, empty=True)
    for name, each in _OF_LAYERS.items():
        for key, kept in raw[name].items() if isinstance(raw.get(name), dict) else ():
            layer = _last(key)
            _check_set(name, layer, config.n_layers, "layer", empty=True)
            for i in layer:
                _check_set(f"{name} of layer {i}", _last(kept), _count(config, name, i), each, empty=True)
    for key in raw["sparsity"] if isinstance(raw.get("sparsity"), dict) else ():
        layers = key.rpartition(".")[0] or key if isinstance(key, str) else None
        _check_set("sparsity", _last(layers), config.n_layers, "layer", empty=True)
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


def _check_indices(plan: PrunePlan, config: Config) -> None:
    """Every index is one that the model has, and what must not be empty is not."""
    if plan.order is not None:
        _check_set("order", tuple(sorted(set(plan.order))), config.n_layers, "layer")
        if len(plan.order) > MAX_LAYERS:
            msg = f"order: {len(plan.order)} layers; expected at most {MAX_LAYERS}"
            raise PlanError(msg)
    for name, (size, each) in _sizes_of_sets(config).items():
        if name != "order" and getattr(plan, name) is not None:
            _check_set(name, getattr(plan, name), size, each)
    if isinstance(plan.vocab_fallback, int):
        _check_set("vocab_fallback", (plan.vocab_fallback,), config.n_vocab, "token")
        if plan.vocab is not None and plan.vocab_fallback not in plan.vocab:
            msg = f"vocab_fallback: token {plan.vocab_fallback} stands for those that are gone, but is cut; keep it"
            raise PlanError(msg)
    for name, each in _OF_LAYERS.items():
        of = getattr(plan, name)
        _check_set(name, tuple(of), config.n_layers, "layer", empty=True)
        for layer, kept in of.items():
            _check_set(f"{name} of layer {layer}", kept, _count(config, name, layer), each, empty=True)
    _check_experts(plan, config)


def _check_experts(plan: PrunePlan, config: Config) -> None:
    """As many as a token goes to, at least."""
    for layer, kept in plan.experts.items():
        ffn = config.stack.feed_forward(layer)
        least = ffn.experts.per_token if ffn is not None and ffn.experts is not None else 0
        if len(kept) < least:
            msg = f"experts of layer {layer}: {len(kept)} kept, but a token goes to {least}; keep at least as many"
            raise PlanError(msg)


def _check_set(what: str, kept: Indices, size: int, each: str, *, empty: bool = False) -> None:
    if not kept and not empty:
        msg = f"{what}: nothing is kept; a model needs at least one"
        raise PlanError(msg)
    if kept and kept[-1] >= size:
        it = "it" if " of layer " in what else "the model"
        msg = f"{what}: there is no {each} {kept[-1]}; {it} has {f'{size} (0 to {size - 1})' if size else 'none'}"
        raise PlanError(msg)


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
