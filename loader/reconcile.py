"""Sizes in config.json that the tensors contradict: where the headers agree among themselves, they are the truth.

Tools that prune often save smaller tensors and leave config.json as it was. What shapes alone can tell, given the
width of a head, is put right before anything else looks at the config, and every correction is told:

| size                 | is read from                       | and must agree                                          |
|----------------------|------------------------------------|---------------------------------------------------------|
| n_layers             | the numbers in the tensors' names  | 0, 1, ... without a gap, fewer than said, each complete |
| n_heads, by layer    | rows of q, in heads of d_head      | columns of o, the bias                                  |
| n_kv_heads, by layer | rows of k, in heads of d_head      | rows of v, the biases; divides n_heads                  |
| d_ff, by layer       | rows of gate                       | rows of up, columns of down, the biases                 |
| n_vocab              | rows of the embedding              | rows of the head                                        |

What stays an error: tensors that contradict each other; a tensor that is missing, or a layer between others; more
layers than config.json says (transformers leaves them out without an error, so that both readings are meant by
somebody); fewer layers where the config tells them apart, since which are left is not known; another width, which says
that tensors and config are of two models. A file that was cut short never comes so far: `header` refuses it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigError
from .checkpoint import again
from .config import resolve_config
from .families import FAMILIES, piece_name
from .pieces import equal_pieces
from .prune.layer_sizes import PRUNED_HEADS
from .ranges import show
from .roles import AXES, ROLES
from .sizes import axis_size, d_head, every_size, has_sublayer, lacks_vocabulary, model_sizes, sizes_of, with_sizes
from .source import PREQUANTIZED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ..runtime.spec import Config
    from .families import Part, Resolved
    from .header import TensorInfo
    from .sizes import LayerSizes

__all__ = ["reconciled"]

#: What lies along an axis, for messages.
NAMES = {"heads": "query dimensions", "kv_heads": "key/value dimensions", "ffn": "neurons", "vocab": "token ids"}


def reconciled(
    raw: dict[str, Any], resolved: Resolved, tensors: Mapping[str, TensorInfo], directory: Path
) -> tuple[dict[str, Any], Resolved, tuple[str, ...]]:
    """config.json with the sizes that the tensors have, what it resolves to, and a line for each that was another.

    `resolved` is what `raw` resolves to; both themselves where no size was another. Raises `CheckpointError` for
    tensors that contradict each other, or make no model.
    """
    if resolved.config.seq2seq:  # tensors that differ from its config.json are an error
        return raw, resolved, ()
    before, after = resolved.config, _Headers(resolved, tensors).config()
    if after == before:
        return raw, resolved, ()
    told = _told(before, after)
    out = _spelled(raw, before, after)
    try:
        resolved = resolve_config(out, str(directory / "config.json"))
        says = "" if resolved.config == after else f"a {after.family} config.json has no words for them"
    except ConfigError as e:
        says = str(e)
    if says:
        msg = f"{directory}: {'; '.join(told)}. These sizes make no model that can be read: {says}"
        raise CheckpointError(msg)
    return out, resolved, tuple(f"{line}: the size of the tensors is used" for line in told)


class _Headers:
    """What the headers say of every size of the model that config.json describes."""

    def __init__(self, resolved: Resolved, tensors: Mapping[str, TensorInfo]) -> None:
        self.before, self.biases, self.tensors = resolved.config, resolved.biases, tensors
        self.family, self.numbers = FAMILIES[self.before.family], resolved.numbers
        self.parts = resolved.placed(self.family.parts(self.before))
        self.layer = resolved.placed(self.family.layer)
        self.prefix = self.family.prefix_in(tensors)

    def config(self) -> Config:
        """The config with every size on which the headers agree; one that they do not tell stays."""
        if not self._same_width():  # they are of two models, which `model_tensors` says: no size here tells anything
            return self.before
        c, n = self.before, self._layers()
        c = replace(c, n_vocab=self._agreed("vocab", 0) or c.n_vocab)
        c = c.with_stack(replace(c.stack, layers=c.stack.layers[:n]))
        # A layer that is not there tells nothing: an absurd count costs no more than a sane one.
        said = enumerate(every_size(c))
        return with_sizes(c, [self._sizes(i) if i < len(self.tensors) else size for i, size in said])

    def _same_width(self) -> bool:
        """Whether the last norm, which nothing cuts but the width, is as wide as config.json says; or the embedding."""
        part = self.parts.get("norm")
        if part is None:
            table = self._info("embed", self.parts["embed"], 0)
            return table is not None and table.shape[-1:] == (self.before.d_embed or self.before.d_model,)
        norm = self._info("norm", part, 0)
        return norm is not None and norm.shape == (self.before.d_model,)

    def _layers(self) -> int:
        """The layers that are there, where they are whole, fewer than the config says, and the rest of the model is."""
        c = self.before
        if self.numbers is not None:  # layers share their tensors, which tell no count
            return c.n_layers
        start = self.prefix + next(iter(self.layer.values())).name.partition("{i}")[0]
        numbers = {name[len(start) :].partition(".")[0] for name in self.tensors if name.startswith(start)}
        n = len(numbers)
        if not 0 < n < c.n_layers or numbers != {str(i) for i in range(n)}:
            return c.n_layers
        whole = all(self._info(role, part, 0) for role, part in self.parts.items() if self._has(role, 0))
        if not whole or not all(self._info(r, p, i) for i in range(n) for r, p in self._roles(i)):
            return c.n_layers
        if len(set(c.stack.layers)) > 1:
            msg = (
                f"{next(iter(self.tensors.values())).file}: holds layers 0 to {n - 1}; config.json describes "
                f"{c.n_layers} that are not alike, and which of them these were is not known. Correct config.json"
            )
            raise CheckpointError(msg)
        return n

    def _sizes(self, layer: int) -> LayerSizes:
        """One layer's sizes; a half that the config leaves out stays out."""
        sizes = sizes_of(self.before, layer)
        if sizes.n_heads:
            heads, kv_heads = self._heads("heads", layer), self._heads("kv_heads", layer)
            sizes = replace(sizes, n_heads=heads or sizes.n_heads, n_kv_heads=kv_heads or sizes.n_kv_heads)
            if sizes.n_heads % sizes.n_kv_heads:
                q, k = (next(self._sized(axis, layer))[1] for axis in ("heads", "kv_heads"))
                msg = (
                    f"{q.file}: tensors {q.name} {list(q.shape)} and {k.name} {list(k.shape)} make {sizes.n_heads} "
                    f"query heads and {sizes.n_kv_heads} key/value heads of {d_head(self.before)}; expected a multiple "
                    "of the latter, equally many queries for each"
                )
                raise CheckpointError(msg)
        if sizes.d_ff:
            sizes = replace(sizes, d_ff=self._agreed("ffn", layer) or sizes.d_ff)
        return sizes

    def _heads(self, axis: str, layer: int) -> int | None:
        """Whole heads along an axis."""
        size, each = self._agreed(axis, layer), d_head(self.before)
        if size is not None and size % each:
            info = next(self._sized(axis, layer))[1]
            msg = (
                f"{info.file}: tensor {info.name} {list(info.shape)} has {size} {NAMES[axis]}; expected a multiple of "
                f"{each}, the width that config.json gives a head. Heads can only go whole"
            )
            raise CheckpointError(msg)
        return None if size is None else size // each

    def _agreed(self, axis: str, layer: int) -> int | None:
        """The size along an axis on which every tensor agrees; None where none tells."""
        seen = list(self._sized(axis, layer))
        if not seen:
            return None
        said = axis_size(self.before, axis, layer)
        first, other = next((one for one in seen if one[0] == said), seen[0])
        for size, info in seen:
            if size != first:
                msg = (
                    f"{info.file}: tensor {info.name} has shape {list(info.shape)}, {size} {NAMES[axis]}, but "
                    f"{other.name} {list(other.shape)} has {first}{', as config.json says' if first == said else ''}. "
                    f"One was cut without the other, or they do not belong together: {again(info.file)}"
                )
                raise CheckpointError(msg)
        if not first:
            msg = f"{other.file}: tensor {other.name} {list(other.shape)} has no {NAMES[axis]}; expected at least one"
            raise CheckpointError(msg)
        return first

    def _sized(self, axis: str, layer: int) -> Iterator[tuple[int, TensorInfo]]:
        """Every tensor that lies along an axis, and its size there.

        One of another rank, quantised or of unequal pieces tells nothing.
        """
        roles = self.parts.items() if axis == "vocab" else self._roles(layer)
        for role, part in roles:
            info = self._info(role, part, layer) if axis in AXES[role] and self._has(role, layer) else None
            if info is None or info.dtype == PREQUANTIZED or len(info.shape) != len(AXES[role]):
                continue
            shape = info.shape[::-1] if part.transposed and not info.name.endswith(f".{role}") else info.shape
            count = 1 if part.stacked or info.name.endswith(f".{role}") else len(part.pieces) or 1
            if AXES[role][0] == axis and count > 1 and not equal_pieces(self.before, part, layer):
                continue
            size = shape[AXES[role].index(axis)]
            if AXES[role][0] == axis and size % count:
                msg = f"{info.file}: tensor {info.name} {list(info.shape)}: {size} are no {count} equal parts"
                raise CheckpointError(msg)
            yield size // count if AXES[role][0] == axis else size, info

    def _roles(self, layer: int) -> Iterator[tuple[str, Part]]:
        return ((role, part) for role, part in self.layer.items() if self._has(role, layer))

    def _has(self, role: str, layer: int) -> bool:
        """Whether the config's model has this role: in this layer, for a layer's."""
        if not has_sublayer(self.before, role, layer) or not self.family.starts(role, layer):
            return False
        if role.startswith("embed_project") and self.before.d_embed is None:
            return False
        if role in self.family.told and not self.family.told[role](self.before):
            return False
        if role == "head":
            return not self.before.tied and not lacks_vocabulary(self.before)
        return role in self.biases if ROLES[role].kind == "bias" else True

    def _info(self, role: str, part: Part, layer: int) -> TensorInfo | None:
        """The tensor that a role is made from, or a piece of it that stands alone; None where it is not there."""
        number = layer if self.numbers is None else self.numbers[layer]
        name = part.tensor(self.prefix, number, self.tensors, tied=self.before.tied)  # of experts, the first one's
        info = self.tensors.get(piece_name(name, role)) or self.tensors.get(name)
        if info is None and role == "embed" and self.before.tied:
            return self.tensors.get(self.parts["head"].name)
        return info


def _spelled(raw: Mapping[str, Any], before: Config, after: Config) -> dict[str, Any]:
    """config.json of the sizes that were found; which heads of a GPT-2 went is not known: the last are named."""
    from .prune.export import resized  # noqa: PLC0415 - few files contradict themselves

    out = resized(raw, before, after)
    if isinstance(raw.get("layer_types"), list):
        out["layer_types"] = raw["layer_types"][: after.n_layers]
    spelling = FAMILIES[after.family].spelled(after)
    old, new = ([sizes_of(c, i).n_heads for i in range(after.n_layers)] for c in (before, after))
    if "d_head" not in spelling and new != old:
        whole = after.d_model // d_head(after)
        gone = {str(i): list(range(n or whole, whole)) for i, n in enumerate(new)}
        out[PRUNED_HEADS] = {i: heads for i, heads in gone.items() if heads}
    return out


def _told(before: Config, after: Config) -> list[str]:
    """Every size that differs: what the file says, and what is there."""
    spelling = FAMILIES[after.family].spelled(after)
    old, new = model_sizes(before), model_sizes(after)
    lines = [
        f"config.json says {spelling[name]} {old[name]}, the tensors {new[name]}"
        for name in ("n_layers", "n_vocab")
        if old[name] != new[name]
    ]
    for name in ("n_heads", "n_kv_heads", "d_ff"):
        sizes = [tuple(getattr(sizes_of(c, i), name) for c in (before, after)) for i in range(after.n_layers)]
        there: dict[int, list[int]] = {}
        for i, (a, b) in enumerate(sizes):
            if a != b:
                there.setdefault(b, []).append(i)
        olds = dict.fromkeys(str(a) for a, b in sizes if a != b)
        if there and name in spelling:
            everywhere = len(there) == 1 and len(next(iter(there.values()))) == after.n_layers
            each = [f"{n}" if everywhere else f"{n} in layers {show(at)}" for n, at in there.items()]
            lines.append(f"config.json says {spelling[name]} {' or '.join(olds)}, the tensors {', '.join(each)}")
    return lines
