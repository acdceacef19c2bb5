"""A model's config as `miaotui inspect` tells it: as values for JSON, where layers that are alike share an entry."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from ...loader.ranges import read_indices, show
from ...loader.sizes import d_head, largest, sizes_of, uneven
from ...runtime.spec import Attention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...loader.sizes import LayerSizes
    from ...runtime.spec import Config, FeedForward, Stack

__all__ = ["config_facts", "shape_lines"]


def config_facts(config: Config, *, normed: bool) -> dict[str, Any]:
    """Plain values: the config's own, sizes as config.json counts them (the largest of any layer), and the stacks.

    A stack's "layers" is a list of {"layers": "0-5", "sublayers": [...]}, what is at its default left out. `normed`:
    queries and keys have norms.
    """
    facts = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ("decoder", "encoder", "ropes")}
    most = largest(config)
    facts |= {"n_layers": config.n_layers, "d_model": config.d_model, "d_head": d_head(config), **_counts(most)}
    facts |= {"qk_norm": normed, "ropes": [asdict(rope) for rope in config.ropes]}
    if uneven(config):
        facts["uneven"] = [_counts(sizes_of(config, i)) for i in range(config.n_layers)]
    for name, stack in (("decoder", config.decoder), ("encoder", config.encoder)):
        if stack is not None:
            facts[name] = _stack(stack)
    return facts


def _counts(sizes: LayerSizes) -> dict[str, int]:
    """A layer's sizes; no experts are not told."""
    return {name: n for name, n in asdict(sizes).items() if n or name != "n_experts"}


def _stack(stack: Stack) -> dict[str, Any]:
    alike: dict[tuple[Attention | FeedForward, ...], list[int]] = {}
    for i, layer in enumerate(stack.layers):
        alike.setdefault(layer, []).append(i)
    told = [{"layers": show(at), "sublayers": [_sublayer(s) for s in layer]} for layer, at in alike.items()]
    return asdict(replace(stack, layers=())) | {"layers": told}


def _sublayer(s: Attention | FeedForward) -> dict[str, Any]:
    kind = "attention" if isinstance(s, Attention) else "feed_forward"
    told = {f.name for f in fields(s) if getattr(s, f.name) != f.default}
    return {"kind": kind} | {name: value for name, value in asdict(s).items() if name in told}


def shape_lines(c: Mapping[str, Any]) -> list[str]:
    """What `config_facts` tells, for people: the model's sizes and kinds."""
    stack = c.get("decoder") or c["encoder"]
    sublayers = [s | {"n": _count(group["layers"])} for group in stack["layers"] for s in group["sublayers"]]
    windows: Counter[int] = Counter()
    for s in sublayers:
        if "window" in s:
            windows[s["window"]] += s["n"]
    halves = [s for s in sublayers if s["kind"] == "feed_forward"]
    ffn = next((s for s in halves if "experts" in s), halves[0] if halves else None)
    where = " and ".join(f"RoPE {rope['kind']}, theta {rope['theta']:g}" for rope in c["ropes"])
    where = where or ("no positions" if c["positions"] is None else "learned positions")
    vocabulary = f"vocabulary {c['n_vocab']}" + (" (head tied to the embedding)" if c["tied"] else "")
    norm = f"{'RMSNorm' if stack['norm'] == 'rms' else 'LayerNorm'}, eps {stack['eps']:g}"
    width = "none" if ffn is None else f"{c['d_ff']} {'gated ' if ffn['gated'] else ''}{ffn['activation']}"
    if ffn is not None and "experts" in ffn:
        experts, n = ffn["experts"], sum(s["n"] for s in halves if "experts" in s)
        width = f"{c['n_experts']} experts of {width} in {n} layers, {experts['per_token']} a token"
        width += f", one of {experts['d_shared']} for all" if experts["d_shared"] else ""
    return [
        f"{c['n_layers']} layers of width {c['d_model']}, {vocabulary}, made for {c['n_context']} positions",
        f"attention: {c['n_heads']} heads of {c['d_head']}, {c['n_kv_heads']} key/value heads, {where}"
        + (", QK norm" if c["qk_norm"] else "")
        + "".join(f", window {w} in {n} layers" for w, n in windows.items()),
        f"feed-forward: {width}; {norm}",
        *(
            f"layer {i}: {s['n_heads'] or 'no'} heads on {s['n_kv_heads']}, feed-forward {s['d_ff'] or 'none'}"
            + (f" x {s['n_experts']} experts" if s.get("n_experts") else "")
            for i, s in enumerate(c.get("uneven", ()))
        ),
        f"ends at token {' or '.join(map(str, c['eos_ids']))}" if c["eos_ids"] else "has no end-of-sequence token",
    ]


def _count(layers: str) -> int:
    """How many "0-2,5" names."""
    return len(read_indices(layers, "layers"))
