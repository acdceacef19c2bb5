"""Layers that differ, as config.json spells them: read here, and written here.

`per_layer_config` is transformers' own spelling (5.x, `integrations/heterogeneity`): layer -> what differs from the
keys outside, under the family's names, and `skip`, a list of "attention" and "mlp", for a half that is not there. Up to
5.24 transformers reads it into its config, but no Llama, Mistral, Qwen or GPT-2 is built from it: it refuses them.

`pruned_heads` is what transformers up to 4 wrote for GPT-2: layer -> heads that are gone; `n_head` counts them still,
since it says how wide a head is.

    "per_layer_config": {"1": {"num_attention_heads": 6, "intermediate_size": 1152}, "4": {"skip": ["attention"]}}
    "pruned_heads": {"3": [0, 1]}

transformers has no such word for the encoder of an encoder-decoder, whose `per_layer_config` is its decoder's: ours is
`encoder_per_layer_config`, of the same form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..files import quote
from ..ranges import read_ranges
from ..sizes import LayerSizes, dense_width, every_size, largest, model_sizes, sizes_of, with_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...runtime.spec import Config
    from ..families import Family
    from ..ranges import Ranges

__all__ = [
    "ENCODER_PER_LAYER", "KEYS", "PER_LAYER", "PRUNED_HEADS", "layer_sizes", "outer_sizes", "spell", "surviving_heads",
    "with_layer_sizes",
]  # fmt: skip

PER_LAYER, PRUNED_HEADS = "per_layer_config", "pruned_heads"
ENCODER_PER_LAYER = f"encoder_{PER_LAYER}"
KEYS = (PER_LAYER, PRUNED_HEADS, ENCODER_PER_LAYER)
ATTENTION, FEED_FORWARD = "attention", "mlp"
SIZES = ("n_heads", "n_kv_heads", "d_ff", "n_experts")
#: Those that every family's config has a key for.
EVERYWHERE = ("d_ff", "n_experts")


def with_layer_sizes(raw: Mapping[str, Any], config: Config, family: Family, where: str) -> Config:
    """The model with layers of the sizes that the file says; `config` is what the keys outside say. ConfigError."""
    sizes = layer_sizes(raw, config, family, where)
    config = config if sizes is None else with_sizes(config, sizes)
    if raw.get(ENCODER_PER_LAYER) and not config.seq2seq:
        msg = f"{where}: {ENCODER_PER_LAYER} is of an encoder-decoder's encoder, and this {family.name} model has none"
        raise ConfigError(msg)
    if config.seq2seq:
        sizes = layer_sizes(raw, config.encoding, family, where, ENCODER_PER_LAYER)
        if sizes is not None:
            config = replace(config, encoder=with_sizes(config.encoding, sizes).encoder)
    return config


def layer_sizes(
    raw: Mapping[str, Any], config: Config, family: Family, where: str, key: str = PER_LAYER
) -> list[LayerSizes] | None:
    """Every layer's sizes, where the file says under `key` that they differ; None where it does not.

    Raises `ConfigError` for a layer that is not there, a key that is not a size of ours, and sizes that do not fit.
    """
    overrides = _by_layer(raw, key, config.n_layers, where)
    gone = _by_layer(raw, PRUNED_HEADS, config.n_layers, where) if key == PER_LAYER else {}
    if not overrides and not gone:
        return None
    whole = {name: size for name, size in model_sizes(config).items() if name in SIZES}
    spelling = family.spelled(config)
    sizes = every_size(config)  # as the keys outside have them
    sizes = [_overridden(overrides[i], size, spelling, f"{where}: {key}[{i}]") if i in overrides else size
             for i, size in enumerate(sizes)]  # fmt: skip
    for i, heads in gone.items():
        if not family.names_pruned_heads:
            msg = f"{where}: {PRUNED_HEADS} is not known of a {family.name} model; it may change what is computed"
            raise ConfigError(msg)
        pruned = _pruned(heads, whole["n_heads"], f"{where}: {PRUNED_HEADS}[{i}]")
        n_left = whole["n_heads"] - sum(stop - first for first, stop in pruned)
        if sizes[i].n_heads:
            sizes[i] = replace(sizes[i], n_heads=n_left, n_kv_heads=n_left)
    for i, size in enumerate(sizes):
        if not size.n_heads and not size.d_ff:
            msg = f"{where}: layer {i} has neither attention nor feed-forward; leave it out"
            raise ConfigError(msg)
    return sizes


def surviving_heads(gone: object, n_heads: int, where: str) -> tuple[int, ...]:
    """Numbers of the heads that `pruned_heads` leaves in a layer, counted before any was pruned."""
    edges = (0, *(edge for span in _pruned(gone, n_heads, where) for edge in span), n_heads)
    return tuple(h for first, stop in zip(edges[::2], edges[1::2], strict=True) for h in range(first, stop))


def _pruned(gone: object, n_heads: int, where: str) -> Ranges:
    """Numbers of the heads that are gone, each one that there was."""
    pruned = read_ranges(gone, where, ConfigError)
    if pruned and pruned[-1][1] > n_heads:
        msg = f"{where}: head {pruned[-1][1] - 1}, but there were {n_heads}"
        raise ConfigError(msg)
    return pruned


def outer_sizes(config: Config) -> LayerSizes:
    """What the keys outside say: the largest of each size; where heads do not divide, those of one layer with most."""
    outside = largest(config)
    if outside.n_kv_heads and outside.n_heads % outside.n_kv_heads:
        most = max(every_size(config), key=lambda size: size.n_heads)
        return replace(outside, n_heads=most.n_heads, n_kv_heads=most.n_kv_heads)
    return outside


def spell(config: Config, family: Family) -> dict[int, dict[str, Any]]:
    """`per_layer_config` of a model whose layers differ: what differs from `outer_sizes`. {} where none does.

    Without the heads of a family that has no width of a head in its config (GPT-2): those go to `pruned_heads`.
    """
    spelling = family.spelled(config)
    names = [name for name in SIZES if name in spelling and (name in EVERYWHERE or "d_head" in spelling)]
    outside = outer_sizes(config)
    dense = replace(outside, d_ff=dense_width(config))
    spelled: dict[int, dict[str, Any]] = {}
    for i in range(config.n_layers):
        size = sizes_of(config, i)
        usual = dense if outside.n_experts and not size.n_experts else outside
        differs = {
            _spelled(name, size, spelling): getattr(size, name)
            for name in names
            if getattr(size, name) not in (0, getattr(usual, name))
        }
        skip = [] if size.n_heads else [ATTENTION]
        skip += [] if size.d_ff else [FEED_FORWARD]
        if skip:
            differs["skip"] = skip
        if differs:
            spelled[i] = differs
    return spelled


def _spelled(name: str, size: LayerSizes, spelling: Mapping[str, str]) -> str:
    """A size's key; of a layer without experts, where the family has a width for those."""
    return spelling["d_dense" if name == "d_ff" and not size.n_experts and "d_dense" in spelling else name]


def _by_layer(raw: Mapping[str, Any], key: str, n_layers: int, where: str) -> dict[int, Any]:
    value = raw.get(key)
    if not value:
        return {}
    if not isinstance(value, dict):
        msg = f"{where}: {key} is {quote(value)}; expected an object with a layer's number for each key"
        raise ConfigError(msg)
    layers: dict[int, Any] = {}
    for name, of in value.items():
        layer = int(name) if name.isdecimal() and len(name) < 8 else -1  # noqa: PLR2004 - far above any model
        if not 0 <= layer < n_layers or layer in layers:
            msg = f"{where}: {key} has the key {quote(name)}; expected a layer, 0 to {n_layers - 1}, each once"
            raise ConfigError(msg)
        layers[layer] = of
    return layers


def _overridden(of: object, whole: LayerSizes, spelling: Mapping[str, str], where: str) -> LayerSizes:
    """One layer's sizes: the `whole` layer's, less what its object overrides and skips."""
    if not isinstance(of, dict):
        msg = f"{where} is {quote(of)}; expected an object"
        raise ConfigError(msg)
    sizes = dict(vars(whole))
    names = [name for name in SIZES if name in spelling and (name != "n_experts" or whole.n_experts)]
    ours = {_spelled(name, whole, spelling): name for name in names}
    if "d_head" not in spelling:
        ours = {key: name for key, name in ours.items() if name in EVERYWHERE}
    for key, value in of.items():
        if key == "skip":
            continue
        if key not in ours:
            msg = f"{where}: unknown key {quote(key)}; expected some of {', '.join([*ours, 'skip'])}"
            raise ConfigError(msg)
        if type(value) is not int or not 1 <= value <= 2**31 - 1:
            msg = f"{where}: {key} is {quote(value)}; expected an integer of at least 1"
            raise ConfigError(msg)
        sizes[ours[key]] = value
    if "n_kv_heads" not in spelling:
        sizes["n_kv_heads"] = sizes["n_heads"]
    if sizes["n_heads"] % sizes["n_kv_heads"]:
        msg = f"{where}: {sizes['n_heads']} heads are no multiple of {sizes['n_kv_heads']} key/value heads"
        raise ConfigError(msg)
    for half in _skipped(of.get("skip", []), where):
        sizes |= {"n_heads": 0, "n_kv_heads": 0} if half == ATTENTION else {"d_ff": 0}
    return LayerSizes(**sizes)


def _skipped(value: object, where: str) -> Sequence[str]:
    if not isinstance(value, list) or any(half not in (ATTENTION, FEED_FORWARD) for half in value):
        msg = f'{where}: skip is {quote(value)}; expected a list of "{ATTENTION}" and "{FEED_FORWARD}"'
        raise ConfigError(msg)
    return value
