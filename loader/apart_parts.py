"""What a PEFT adapter has of each product of a model, where it is kept apart; and what of it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError, shown
from ..runtime.spec import Attention
from .adapted import tied_names
from .merge import Whole, cut_alike, row_norms
from .places import Target, places_of
from .roles import MATRICES, ROLES, expert_of, role_of
from .source import narrowed, read, stored
from .underflow import widened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .adapter import Adapter
    from .checkpoint import Checkpoint
    from .load_plan import LoadPlan
    from .merge import Change, LowRank, TokenRows
    from .model_tensors import ModelTensors
    from .open import Opened
    from .source import Source

__all__ = ["Part", "Product", "Room", "part_of", "products_of", "replaced_by"]

#: Numbers of a matrix that are read at a time, where its rows are measured, or compared.
PIECE = 2**20
#: Roles of which a text may have a whole matrix.
WHOLE = ("embed", "head", "head_dense", "classifier")
#: Of DeBERTa, what rows of a table of distances are multiplied with.
MEETS_DISTANCES = ("q", "k", "pos_q", "pos_k")
#: Term of a score -> of these the product of the table alone, and that of the text, where there is no other.
_MEETS = {"c2p": ("pos_k", "k"), "p2c": ("pos_q", "q")}
#: Roles of products.
PRODUCTS = tuple(role for role in MATRICES if role not in ("embed", "convolution"))


class Room(NamedTuple):
    """Of a product, what an adapter may have that comes later: a rank of at most this; a bias."""

    rank: int
    biased: bool


@dataclass(frozen=True, eq=False)
class Part:
    """What one adapter has of one product, or of the embedding: A and B, or whole rows, or neither; and a bias.

    `bias`, `whole`: the source of the product's own bias or matrix, with what the adapter has in its place. `rows`:
    where `tokens` stand among the rows that are kept, ascending, and which of `tokens` each is. `room`: nothing yet.
    """

    low: LowRank | None = None
    bias: Source | None = None
    whole: Source | None = None
    room: Room | None = None
    tokens: TokenRows | None = None
    rows: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def shapes(self, n: int, k: int) -> dict[str, tuple[int, ...]]:
        """Of its arrays, by what they are; the product's matrix is [n, k]."""
        if self.whole is not None or self.rows is not None:
            found = n if self.rows is None else len(self.rows[0])
            out: dict[str, tuple[int, ...]] = {"down": (found, k), "ids": (found,)}
        else:
            rank = self.room.rank if self.room is not None else 0 if self.low is None else self.low.rank
            out = {"down": (rank, k), "up": (n, rank)}
        if self.room is not None:
            return out | {"ratio": (n,)} | ({"bias": (n,)} if self.room.biased else {})
        out |= {"ratio": (n,)} if self.low is not None and self.low.magnitudes is not None else {}
        return out | ({} if self.bias is None else {"bias": (n,)})

    def values(self, what: str, source: Source, checkpoint: Checkpoint) -> NDArray[np.float32]:
        """The numbers of one of them. Errors: `CheckpointError`."""
        if what == "ids" and self.rows is None:
            return np.arange(source.shape[0], dtype=np.float32)
        changed = self.bias if what == "bias" else self.whole
        if changed is not None:
            return widened(narrowed(changed, read(changed, stored(changed, checkpoint))), _stored(changed))
        if self.rows is not None:
            assert self.tokens is not None  # noqa: S101 - as above
            if what == "ids":
                return self.rows[0].astype(np.float32)
            values = self.tokens.numbers.read(self.rows[1])
            return values if source.column_indices is None else values[:, source.column_indices]
        if self.low is None:
            return np.zeros(0, np.float32)
        return self.low.a if what == "down" else self.low.b if what == "up" else _ratio(self.low, source, checkpoint)


def _ratio(low: LowRank, source: Source, checkpoint: Checkpoint) -> NDArray[np.float32]:
    """m / |W + scale B A|, float32 [kept rows]: a row's length is that of the file's whole row."""
    tensor, whole, plain = stored(source, checkpoint), replace(source, columns=None), replace(low, magnitudes=None)
    step = max(1, PIECE // low.of_inputs.shape[1])
    norms = np.empty(source.shape[0], np.float32)
    for at in range(0, len(norms), step):
        span = slice(at, at + step)
        rows = widened(narrowed(whole, read(whole, tensor, span)), _stored(source))
        norms[span] = row_norms(replace(plain, columns=None).merged(rows, span))
    if not norms.all():
        low.merged(widened(narrowed(whole, read(whole, tensor, slice(None))), _stored(source)), slice(None))
    m = low.magnitude
    assert m is not None  # noqa: S101 - asked of DoRA alone
    ratio: NDArray[np.float32] = m / norms
    return ratio


def _stored(source: Source) -> str:
    """The dtype of what `narrowed` returns."""
    return "F32" if source.tensor.dtype == "F64" else source.tensor.dtype


class Product(NamedTuple):
    """A product that is left, or the embedding: its name, what it is in the file, its sources, and its stack."""

    name: str
    target: Target
    source: Source
    bias: Source | None
    of: ModelTensors
    plan: LoadPlan

    def room(self, rank: int) -> Room | None:
        """For adapters that come later; None: of what is no matrix of a layer, or meets a table of distances too."""
        role = role_of(self.target.role)
        if role not in PRODUCTS or not ROLES[role].sublayer or expert_of(self.target.role) is not None:
            return None
        if role in MEETS_DISTANCES and self.plan.config.stack.relative is not None:
            return None
        return Room(rank, self.bias is not None)


def products_of(opened: Opened, plan: LoadPlan) -> Iterator[Product]:
    """Every one that is left."""
    file, only = opened.model_tensors, plan.cut.only is not None  # of an encoder-decoder its encoder
    stacks = [] if only else [("", file, plan)]
    encoder = plan if only else plan.encoder
    if file.encoder is not None and encoder is not None:
        stacks.append(("encoder.", file.encoder, encoder))
    for stack, of, part in stacks:
        for new, old in enumerate(part.cut.layers):
            for key, source in part.layers[new].items():
                bias = part.layers[new].get(f"{key}_bias")
                yield Product(source.name, Target(stack, old, key), source, bias, of, part)
        for role, source in part.model.items():
            yield Product(source.name, Target(stack, 0, role), source, part.model.get(f"{role}_bias"), of, part)
        if "head" not in part.model and "embed" in part.model:  # which is the embedding
            bias = part.model.get("head_bias")
            yield Product("head", Target(stack, 0, "head"), part.model["embed"], bias, of, part)


def part_of(adapter: Adapter, replaced: frozenset[str], product: Product, opened: Opened) -> Part | None:
    """What an adapter has of a product; None: nothing. `replaced`: tensors in place of the model's own."""
    _, target, source, bias, of, plan = product
    low, tokens = adapter.low.get(target), adapter.tokens.get(source.tensor.name)
    changes: list[Change] = []
    tied = product.name == "head" and "head" in of.parts and "head" not in plan.model
    own = tied_names(opened)[0] if tied else source.tensor.name
    whole = None
    if own in replaced and target.role in WHOLE:
        whole = replace(source, changes=(Whole(adapter.files, adapter.whole[own]),))
    if bias is not None:
        at = target._replace(role=f"{target.role}_bias")
        changes += [Whole(adapter.files, adapter.whole[n]) for n in {bias.tensor.name} & replaced]
        term = adapter.bias_terms.get(at)
        changes += [] if term is None else [cut_alike(term, of, plan.cut, at)]
    changed = replace(bias, changes=tuple(changes)) if bias is not None and changes else None
    if all(part is None for part in (low, tokens, changed, whole)):
        return None
    rows = None
    if tokens is not None:
        ids = np.array(tokens.ids, np.int64)
        order = np.argsort(ids)
        here = np.searchsorted(source.row_indices, ids[order])
        here = np.minimum(here, len(source.row_indices) - 1)
        stays = source.row_indices[here] == ids[order]
        rows = here[stays], order[stays]
    kept = None if low is None else cut_alike(low, of, plan.cut, target)
    return Part(kept, changed, whole, tokens=tokens, rows=rows)


def replaced_by(call: str, name: str, adapter: Adapter, opened: Opened) -> frozenset[str]:
    """What an adapter has whole in place of the model's, by name. InputError for what cannot be kept apart.

    PEFT writes the model's own head and embedding, too, where A and B are for one of them (`save_embedding_layers`).
    """
    other = frozenset(_differing(adapter, opened))
    targets: dict[str, set[str]] = {}
    for place in (p for places in places_of(opened.model_tensors).values() for p in places):
        targets.setdefault(place.tensor, set()).add(place.target.role)
    fine = {tensor for tensor, roles in targets.items() if all(map(_may_be_whole, roles))}
    tables = {tensor for tensor, roles in targets.items() if roles <= {"embed", "head"}}
    lows = {role_of(t.role) for t in adapter.low}
    rows = {role for tensor in {*other, *adapter.tokens} for role in targets.get(tensor, ())}
    touched = lows | {role_of(r).removesuffix("_bias") for r in (*rows, *(t.role for t in adapter.bias_terms))}
    meets = sorted(touched & _meet_distances(opened, {role_of(r) for roles in targets.values() for r in roles}))
    both = next((t.role for t in adapter.low if t.role in rows and t.role in WHOLE), None)
    what = (
        (any(tensor not in tables for tensor in adapter.tokens), "rows of a table that is not the embedding"),
        (opened.config.seq2seq and adapter.tokens, "rows of an encoder-decoder's embedding (trainable_token_indices)"),
        (both, f"A and B next to rows of the same matrix, {both}"),
        (other & {*adapter.tokens}, "rows of an embedding (trainable_token_indices) next to all of it"),
        (lows & {"positions", "token_types"}, "a table of positions or types among its modules"),
        (any(expert_of(t.role) is not None for t in adapter.low), "experts among its modules"),
        (meets, f"{' and '.join(meets)} among its modules, with which rows of a table of distances are multiplied too"),
        (other - fine, "weights in place of the model's own (modules_to_save, bias): "
                       + ", ".join(sorted(other - fine)[:3])),
    )  # fmt: skip
    why = next((words for held, words in what if held), None)
    if why is not None:
        msg = f"{call}: {shown(name)}, {adapter.directory}: has {why}, which cannot be kept apart from the model; "
        msg += f"load(adapter={shown(str(adapter.directory))}) merges it"
        raise InputError(msg)
    return other


def _meet_distances(opened: Opened, there: set[str]) -> set[str]:
    """Roles that rows of a table of distances are multiplied with: once, and for no text's adapter."""
    sublayers = (s for layer in opened.config.stack.layers for s in layer if isinstance(s, Attention))
    pairs = {_MEETS[term] for s in sublayers for term in s.relative}
    return {own if own in there else shared for own, shared in pairs}


def _may_be_whole(role: str) -> bool:
    """Whether a text may have another one: of biases, what is added after products that may have adapters."""
    base = role_of(role)
    if role in WHOLE:
        return True
    return base.endswith("_bias") and base.removesuffix("_bias") in PRODUCTS and expert_of(role) is None


def _differing(adapter: Adapter, opened: Opened) -> Iterator[str]:
    """Whole tensors of the adapter's that are others than the model's, by the model's names."""
    file, checkpoint = opened.model_tensors, opened.checkpoint
    for name, info in adapter.whole.items():
        own = name if name in checkpoint.tensors else file.name("embed", file.parts["embed"], 0)  # a tied head
        if (info.dtype, info.shape) != (checkpoint.tensors[own].dtype, checkpoint.tensors[own].shape):
            yield name
            continue
        mine, theirs = checkpoint.array(own), adapter.files.array(info.name)
        step = max(1, PIECE // max(1, *info.shape[1:], 1))
        if not all(mine[i : i + step].tobytes() == theirs[i : i + step].tobytes() for i in range(0, len(mine), step)):
            yield name
