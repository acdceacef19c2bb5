"""What families of decoders share: records of another family with a few fields changed, windows by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Attention
from ..files import quote
from .base import Part, layer_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .base import Resolved
    from .heads import Read

__all__ = ["as_encoder", "layer_windows", "remade", "renamed", "spell_types", "weight_and_bias"]

Fields = dict[str, Any]


def remade(
    resolved: Resolved,
    *,
    stack: Fields | None = None,
    attention: Fields | Callable[[int, Attention], Fields] | None = None,
    ffn: Fields | None = None,
    **config: object,
) -> Resolved:
    """The same with these fields: of the stack, of every attention (also as a function of its layer), and so on."""
    old = resolved.config.stack
    of = attention if callable(attention) else (lambda _i, _s: attention or {})
    layers = tuple(
        tuple(replace(s, **(of(i, s) if isinstance(s, Attention) else ffn or {})) for s in layer)
        for i, layer in enumerate(old.layers)
    )
    new = replace(old, layers=layers, **(stack or {}))
    fields: Fields = config
    return replace(resolved, config=replace(resolved.config.with_stack(new), **fields))


def as_encoder(resolved: Resolved, head: Read) -> Resolved:
    """The same layers over texts that come whole, every token of which sees all others (or a window on both sides)."""
    seen = remade(resolved, attention={"causal": False})
    config = replace(
        seen.config,
        decoder=None,
        encoder=seen.config.stack,
        head=head.head,
        labels=head.labels,
        tied=head.tied,
        bos_ids=(),
        eos_ids=(),
    )
    return replace(seen, config=config)


def renamed(v: Mapping[str, Any], names: Mapping[str, str], **more: object) -> dict[str, Any]:
    """Checked values under the names that another family's function knows."""
    return {names.get(key, key): value for key, value in v.items()} | more


def weight_and_bias(role: str, name: str, *, outside: bool = False) -> dict[str, Part]:
    """NAME.weight and NAME.bias; a bias is looked for only where the config asks for it."""
    kinds = ((role, "weight"), (f"{role}_bias", "bias"))
    return {r: Part(f"{name}.{kind}", outside=outside) for r, kind in kinds}


def layer_windows(v: Mapping[str, Any], where: str, default: Callable[[int], bool]) -> list[int | None]:
    """Each layer's window: as `layer_types` says, or where `default` of its number is true. Errors: `ConfigError`."""
    n, window, types = v["num_hidden_layers"], v["sliding_window"], v["layer_types"]
    if types is None:
        types = [layer_type(window if default(i) else None) for i in range(n)]
    known = ("full_attention",) if window is None else ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != n or any(kind not in known for kind in types):
        msg = (
            f"{where}: layer_types is {quote(types)}; expected a list of {n} times {' or '.join(known)} "
            f"(sliding_window is {window})"
        )
        raise ConfigError(msg)
    return [window if kind == "sliding_attention" else None for kind in types]


def spell_types(attentions: Sequence[Attention]) -> dict[str, Any]:
    """`layer_types`, said always: a family's default depends on the layers' numbers."""
    return {"layer_types": [layer_type(s.window) for s in attentions]}
