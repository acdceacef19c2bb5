"""What tests of pruning share: drawing plans, and cutting loaded weights with NumPy, spelled apart from the loader."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from miaotui.loader.prune import PrunePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miaotui.runtime.spec import Config


def some(n: int) -> st.SearchStrategy[tuple[int, ...]]:
    """At least one of 0 .. n - 1, ascending."""
    return st.sets(st.integers(0, n - 1), min_size=1).map(lambda found: tuple(sorted(found)))


@st.composite
def plans(draw: st.DrawFn, config: Config, cuts: frozenset[str] | None = None) -> PrunePlan:
    """Draw a plan that fits; `cuts` names the kinds of cut, drawn where None."""
    every = ("layers", "heads", "ffn", "halves", "vocab", "width")
    cuts = draw(st.frozensets(st.sampled_from(every))) if cuts is None else cuts
    layers = draw(some(config.n_layers)) if "layers" in cuts else None
    heads: dict[int, tuple[int, ...]] = {}
    ffn: dict[int, tuple[int, ...]] = {}
    for i in range(config.n_layers) if layers is None else layers:
        sizes = config.layer(i)
        if "heads" in cuts and sizes.n_heads and draw(st.booleans()):
            each = sizes.n_heads // sizes.n_kv_heads
            groups, count = draw(some(sizes.n_kv_heads)), draw(st.integers(1, each))
            queries = [draw(st.permutations(range(each)))[:count] for _ in groups]
            heads[i] = tuple(sorted(g * each + q for g, kept in zip(groups, queries, strict=True) for q in kept))
        if "ffn" in cuts and sizes.d_ff and draw(st.booleans()):
            ffn[i] = draw(some(sizes.d_ff))
        if "halves" in cuts and sizes.n_heads and sizes.d_ff:
            lost = draw(st.sampled_from([None, heads, ffn]))
            if lost is not None:
                lost[i] = ()
    return PrunePlan(
        layers,
        heads,
        ffn,
        vocab=draw(some(config.n_vocab)) if "vocab" in cuts else None,
        width=draw(some(config.d_model)) if "width" in cuts else None,
    )


def sliced(values: Mapping[str, Any], config: Config, plan: PrunePlan) -> dict[str, Any]:
    """Values of a whole model by our roles -> those of what the plan keeps, by NumPy's indexing alone."""
    d, every = config.d_head, slice(None)
    vocab, width = (every if kept is None else list(kept) for kept in (plan.vocab, plan.width))
    found = {}
    for name in ("embed", "head"):
        found[name] = values[name][vocab][:, width]
    if "positions" in values:
        found["positions"] = values["positions"][:, width]
    found |= {name: values[name][width] for name in ("norm", "norm_bias") if name in values}
    for new, old in enumerate(range(config.n_layers) if plan.layers is None else plan.layers):
        sizes = config.layer(old)
        heads = plan.heads.get(old, tuple(range(sizes.n_heads)))
        each = sizes.n_heads // sizes.n_kv_heads if sizes.n_kv_heads else 1
        kv = sorted({h // each for h in heads})
        q, k = ([h * d + j for h in some for j in range(d)] for some in (heads, kv))
        neurons = list(plan.ffn.get(old, tuple(range(sizes.d_ff))))
        rows = {"q": q, "k": k, "v": k, "gate": neurons, "up": neurons, "q_norm": every, "k_norm": every}
        columns = {"o": q, "down": neurons}
        for name, value in values.items():
            layer, _, role = name.removeprefix("layers.").partition(".")
            if not name.startswith(f"layers.{old}."):
                continue
            attention = role.split("_")[0] in {"attn", "q", "k", "v", "o"}
            if not (heads if attention else neurons):
                continue
            cut = value[rows.get(role.removesuffix("_bias"), width)]
            if cut.ndim == 2:
                cut = cut[:, columns.get(role, width)]
            assert layer == str(old)
            found[f"layers.{new}.{role}"] = cut
    return found


def seven(width: int = 64) -> dict[str, Any]:
    """config.json of a random model of seven layers."""
    return {
        "model_type": "llama",
        "vocab_size": 96,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "eos_token_id": None,
    }


def as_file(plan: PrunePlan) -> dict[str, Any]:
    """The plan as its file holds it."""
    return dict(json.loads(plan.to_json()))


def masked(tensors: Mapping[str, Any], config: Config, plan: PrunePlan) -> dict[str, Any]:
    """A file's tensors with zeros where the plan cuts layers, halves, heads and neurons: the whole model's maths."""
    gpt2 = config.family == "gpt2"
    out = {name: value.copy() for name, value in tensors.items()}
    for i in range(config.n_layers):
        gone = plan.layers is not None and i not in plan.layers
        heads = () if gone else plan.heads.get(i, tuple(range(config.n_heads)))
        neurons = () if gone else plan.ffn.get(i, tuple(range(config.d_ff)))
        base = f"transformer.h.{i}." if gpt2 else f"model.layers.{i}."
        names = ("attn.c_proj", "mlp.c_proj") if gpt2 else ("self_attn.o_proj", "mlp.down_proj")
        sizes = (config.n_heads * config.d_head, config.d_ff)
        inputs = ([h * config.d_head + j for h in heads for j in range(config.d_head)], list(neurons))
        for name, size, kept in zip(names, sizes, inputs, strict=True):
            lost = [j for j in range(size) if j not in set(kept)]
            out[f"{base}{name}.weight"][(lost,) if gpt2 else (slice(None), lost)] = 0
            if not kept and f"{base}{name}.bias" in out:
                out[f"{base}{name}.bias"][:] = 0
    return out
