"""A model's config as `miaotui inspect` tells it: as values for JSON, where layers that are alike share an entry."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from ...loader.ranges import read_indices, show
from ...loader.sizes import cross_heads, d_head, largest, sizes_of, uneven
from ...runtime.spec import Attention
from ...sizes import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...loader.sizes import LayerSizes
    from ...runtime.spec import Config, FeedForward, Stack

__all__ = ["config_facts", "shape_lines"]


def config_facts(config: Config, *, normed: bool) -> dict[str, Any]:
    """Plain values: the config's own, sizes as config.json counts them (the largest of any layer), and the stacks.

    A stack's "layers" is a list of {"layers": "0-5", "sublayers": [...]}, what is at its default left out. Of an
    encoder-decoder the sizes outside are the decoder's, and each stack has its own besides. `normed`: queries and keys
    have norms.
    """
    facts = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ("decoder", "encoder", "ropes")}
    facts |= {name: asdict(of) for name in ("head", "decoding") if (of := facts[name]) is not None}
    facts |= _sizes(config)
    facts |= {"qk_norm": normed, "ropes": [asdict(rope) for rope in config.ropes]}
    for name, stack in (("decoder", config.decoder), ("encoder", config.encoder)):
        if stack is not None:
            facts[name] = _stack(stack)
    if config.seq2seq:
        facts["decoder"] |= _sizes(config) | {"crossing": [cross_heads(config, i)[0] for i in range(config.n_layers)]}
        facts["encoder"] |= _sizes(config.encoding)
    return facts


def _sizes(config: Config) -> dict[str, Any]:
    """Of `config.stack`, as config.json counts them; those of every layer where they differ."""
    sizes = {
        "n_layers": config.n_layers,
        "d_model": config.d_model,
        "d_head": d_head(config),
        **_counts(largest(config)),
    }
    return sizes | (
        {"uneven": [_counts(sizes_of(config, i)) for i in range(config.n_layers)]} if uneven(config) else {}
    )


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
    """What `config_facts` tells, for people: the model's sizes and kinds, stack by stack where there are two."""
    stacks = [name for name in ("encoder", "decoder") if name in c]
    vocabulary = f"vocabulary {c['n_vocab']}" + (" (head tied to the embedding)" if c["tied"] else "")
    vocabulary += f", the encoder's {c['n_source']}" if c["n_source"] else ""
    if len(stacks) == 1:
        told = _stack_lines(c, c[stacks[0]])
        lines = [f"{told[0]}, {vocabulary}, made for {c['n_context']} positions", *told[1:]]
    else:
        lines = [f"{vocabulary}, made for {c['n_context']} positions"]
        lines += [f"{name}: {line}" for name in stacks for line in _stack_lines(c[name] | {"of": c}, c[name])]
    if c["head"] is not None:
        labels = f": {', '.join(c['labels'][:8])}{', ...' if len(c['labels']) > 8 else ''}" if c["labels"] else ""  # noqa: PLR2004 - what a line holds
        return [*lines, f"head: {c['head']['kind'].replace('_', ' ')}, {counted(c['head']['n_out'], 'result')}{labels}"]
    if "decoder" not in c:
        return [*lines, "no head"]
    ends = " or ".join(map(str, c["eos_ids"]))
    return [*lines, f"ends at token {ends}" if ends else "has no end-of-sequence token"]


def _stack_lines(c: Mapping[str, Any], stack: Mapping[str, Any]) -> list[str]:
    """A stack's sizes, its attention and its feed-forward; layers that differ. `c` has the sizes."""
    sublayers = [s | {"n": _count(group["layers"])} for group in stack["layers"] for s in group["sublayers"]]
    windows: Counter[int] = Counter()
    for s in sublayers:
        if "window" in s:
            windows[s["window"]] += s["n"]
    halves = [s for s in sublayers if s["kind"] == "feed_forward"]
    ffn = next((s for s in halves if "experts" in s), halves[0] if halves else None)
    norm = f"{'RMSNorm' if stack['norm'] == 'rms' else 'LayerNorm'}, eps {stack['eps']:g}"
    width = "none" if ffn is None else f"{c['d_ff']} {'gated ' if ffn['gated'] else ''}{ffn['activation']}"
    if ffn is not None and "experts" in ffn:
        experts, n = ffn["experts"], sum(s["n"] for s in halves if "experts" in s)
        width = (
            f"{counted(c['n_experts'], 'expert')} of {width} in {counted(n, 'layer')}, {experts['per_token']} a token"
        )
        width += f", one of {experts['d_shared']} for all" if experts["d_shared"] else ""
    crossing = c.get("crossing", [])
    return [
        f"{counted(c['n_layers'], 'layer')} of width {c['d_model']}",
        f"attention: {counted(c['n_heads'], 'head')} of {c['d_head']}, {counted(c['n_kv_heads'], 'key/value head')}, "
        + _positions(c.get("of", c), stack)
        + (", QK norm" if c.get("of", c)["qk_norm"] else "")
        + "".join(f", window {w} in {counted(n, 'layer')}" for w, n in windows.items()),
        *([f"attention to the encoder: {_alike(crossing)}"] if crossing else []),
        f"feed-forward: {width}; {norm}",
        *(
            f"layer {i}: {counted(s['n_heads'] or 'no', 'head')} on {s['n_kv_heads']}, "
            f"feed-forward {s['d_ff'] or 'none'}"
            + (f" x {counted(s['n_experts'], 'expert')}" if s.get("n_experts") else "")
            for i, s in enumerate(c.get("uneven", ()))
        ),
    ]


def _alike(sizes: list[int]) -> str:
    """Heads: one number, or each layer's."""
    return counted(sizes[0], "head") if len(set(sizes)) == 1 else f"{', '.join(map(str, sizes))} heads (layer by layer)"


def _positions(c: Mapping[str, Any], stack: Mapping[str, Any]) -> str:
    """How the stack knows of places."""
    ropes = " and ".join(f"RoPE {rope['kind']}, theta {rope['theta']:g}" for rope in c["ropes"])
    if ropes:
        return ropes
    if stack["biases"]:
        return "slopes by distance (ALiBi)" if "of_heads" in stack["biases"][0] else "biases by distance"
    if stack["sinusoids"]:
        return "sinusoids"
    return "no positions" if c["positions"] is None else "learned positions"


def _count(layers: str) -> int:
    """How many "0-2,5" names."""
    return len(read_indices(layers, "layers"))
