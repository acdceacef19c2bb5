"""What compressed-tensors' `config_groups` say: a `Scheme`, or why it is not read."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from ..files import printable, quote
from .scheme import FLOAT_WORDS, Scheme, Sharing, is_block, is_one_of, is_size, other, strange

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["FORMATS", "compressed"]

#: `format` -> the weights that are written so.
_WEIGHTS = {
    "pack-quantized": ((4, "int"), (8, "int")),
    "int-quantized": ((4, "int"), (8, "int")),
    "naive-quantized": ((4, "int"), (8, "int"), (8, "float")),
    "float-quantized": ((8, "float"),),
}
#: What `format` may be; "mixed-precision" says that each group has one.
FORMATS = (None, *_WEIGHTS, "mixed-precision")
_GROUP = {"format": (None, *_WEIGHTS)}
_GROUP_HARMLESS = ("targets", "weights", "input_activations", "output_activations")
#: Whose values are looked at below, or that say how scales were found.
_HARMLESS = ("num_bits", "type", "group_size", "block_structure", "observer", "observer_kwargs")
_FLAGS: Mapping[str, tuple[Any, ...]] = {
    "symmetric": (None, True, False),
    "actorder": (None, True, False, "group", "weight", "dynamic", "static"),
    "scale_dtype": FLOAT_WORDS,
}
_KNOWN = {
    **_FLAGS,
    "strategy": (None, "tensor", "channel", "group", "block"),
    "dynamic": (None, False),
    "zp_dtype": (None, "torch.int8", "int8"),
}
#: Scales of inputs are found while running: what else is said of them has no place here.
_INPUTS = {**_FLAGS, "dynamic": (None, True)}
_INPUTS_HARMLESS = (*_HARMLESS, "strategy", "zp_dtype")
_SPARSE = {"format": ("dense", "dense"), "sparsity_structure": (None, "unstructured", "0:0")}
_SPARSE_HARMLESS = ("global_sparsity", "ignore", "targets", "registry_requires_subclass")


class _Weights(NamedTuple):
    """Of one group. `block`: of 8-bit floats."""

    bits: int
    floats: bool
    block: tuple[int, int] | None
    symmetric: bool
    by_act: bool
    sharing: Sharing


def compressed(said: Mapping[str, Any]) -> Scheme | str:
    """Its scheme. Its other keys are known ones."""
    groups = said.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        return other("config_groups", groups, "an object of groups")
    if (why := _sparse(said.get("sparsity_config"))) is not None:
        return why
    every = list[_Weights]()
    for name, group in groups.items():
        one = _group(group, f"config_groups.{printable(name, 40)}", said.get("format"))
        if isinstance(one, str):
            return one
        every.append(one)
    if len({one[:3] for one in every}) > 1:
        return "config_groups differ in their weights' num_bits, type or block_structure; expected one of each"
    bits, floats, block = every[0][:3]
    zeros = not any(one.symmetric for one in every)
    sharing = tuple(one.sharing for one in every)
    scheme = Scheme("compressed-tensors", bits, has_zeros=zeros, floats=floats, block=block, sharing=sharing)
    return replace(scheme, by_act=all(one.by_act for one in every))


def _sparse(said: object) -> str | None:
    """Words for zeros that are left out of the file, or that kernels count on."""
    if said is None or said == {}:
        return None
    if not isinstance(said, dict):
        return other("sparsity_config", said, "an object")
    if "format" not in said:
        return f"sparsity_config ({quote(said)}) has no format; expected dense"
    return strange(said, _SPARSE, _SPARSE_HARMLESS, "sparsity_config")


def _group(group: object, where: str, form: str | None) -> _Weights | str:
    """`form`: of all groups."""
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(group, dict) or not isinstance(weights, dict):
        return other(f"{where}.weights", weights, "an object")
    if (why := next(chain(_faults(group, where), _weights_faults(group, where, form)), None)) is not None:
        return why
    block, symmetric = weights.get("block_structure"), weights.get("symmetric") is not False
    by_act = weights.get("actorder") in (True, "group", "dynamic")
    shape = None if block is None else (block[0], block[1])
    floats = weights.get("type", "int") == "float"
    return _Weights(weights.get("num_bits", 8), floats, shape, symmetric, by_act, _sharing(group, where))


def _faults(group: Mapping[str, Any], where: str) -> Iterator[str]:
    """Words for what is not read of a group, its weights aside. Each is true where none came before it."""
    if (why := strange(group, _GROUP, _GROUP_HARMLESS, where)) is not None:
        yield why
    for key in ("input_activations", "output_activations"):
        if (why := _inputs(group.get(key), f"{where}.{key}")) is not None:
            yield why
    targets = group.get("targets")
    if targets is not None and not (isinstance(targets, list) and all(isinstance(one, str) for one in targets)):
        yield other(f"{where}.targets", targets, "a list of names")


def _inputs(said: object, where: str) -> str | None:
    """Words for inputs (or outputs) that are not rounded while running."""
    if said is None:
        return None
    if not isinstance(said, dict):
        return other(where, said, "null", "an object")
    dynamic = said.get("dynamic")
    if dynamic is None or dynamic is False:
        return f"{where} are rounded with scales that are fixed ahead; expected none, or dynamic ones"
    return strange(said, _INPUTS, _INPUTS_HARMLESS, where)


def _weights_faults(group: Mapping[str, Any], where: str, form: str | None) -> Iterator[str]:
    """As `_faults`, of its weights. What `strategy`, `group_size` and `block_structure` say must agree."""
    weights = group["weights"]
    bits, kind = weights.get("num_bits", 8), weights.get("type", "int")
    if not (is_one_of(bits, (4, 8)) and is_one_of((bits, kind), ((4, "int"), (8, "int"), (8, "float")))):
        yield f"{where}.weights are {quote(bits)}-bit {quote(kind)}; expected 4- or 8-bit int, or 8-bit float"
    for key, word in ((f"{where}.format", group.get("format")), ("format", form)):
        if word in _WEIGHTS and (bits, kind) not in _WEIGHTS[word]:
            yield f"{key} is {quote(word)}, and {where}.weights are {bits}-bit {kind}; the two contradict each other"
    where = f"{where}.weights"
    if (why := strange(weights, _KNOWN, _HARMLESS, where)) is not None:
        yield why
    strategy, size, block = (weights.get(key) for key in ("strategy", "group_size", "block_structure"))
    if size is not None and not is_size(size):
        yield other(f"{where}.group_size", size, "a number of inputs", "-1")
    if block is not None and not is_block(block):
        yield other(f"{where}.block_structure", block, "two numbers, of outputs and inputs")
    grouped = (size or -1) > 0
    if strategy is not None and ((strategy == "group") != grouped or (strategy == "block") != (block is not None)):
        yield (
            f"{where}.strategy is {quote(strategy)}, with group_size {quote(size)} and block_structure "
            f"{quote(block)}; expected strategy group with a group_size, block with a block_structure, or neither"
        )


def _sharing(group: Mapping[str, Any], where: str) -> Sharing:
    """Which weights share a scale."""
    weights, targets = group["weights"], tuple(group.get("targets") or ())
    strategy, size = weights.get("strategy"), weights.get("group_size") or -1
    if size > 0:
        return Sharing(where, "group", size, targets)
    if strategy in ("tensor", "channel"):
        return Sharing(where, strategy, targets=targets)
    return Sharing(where, "channel" if weights.get("group_size") == -1 else None, targets=targets)
