"""What tests of pruning share: drawing plans, and cutting loaded weights with NumPy, spelled apart from the loader."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from helpers import feed_forwards, sizes
from hypothesis import strategies as st
from miaotui.loader.prune.compiled import compile_plan
from miaotui.testing import plans as drawn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miaotui.loader.prune.plan import PrunePlan
    from miaotui.runtime.spec import Config


plans, some = drawn.prune_plans, drawn.some


def sliced(values: Mapping[str, Any], config: Config, plan: PrunePlan) -> dict[str, Any]:
    """Values of a whole model by our roles -> those of what the plan keeps, by NumPy's indexing alone."""
    d, every = sizes(config).d_head, slice(None)
    vocab, width = (every if kept is None else list(kept) for kept in (plan.vocab, plan.width))
    got = {}
    for name in ("embed", "head"):
        got[name] = values[name][vocab][:, width]
    if "positions" in values:
        got["positions"] = values["positions"][:, width]
    got |= {name: values[name][width] for name in ("norm", "norm_bias") if name in values}
    for new, old in enumerate(range(config.n_layers) if plan.layers is None else plan.layers):
        own = sizes(config, old)
        heads = plan.heads.get(old, tuple(range(own.n_heads)))
        each = own.n_heads // own.n_kv_heads if own.n_kv_heads else 1
        kv = sorted({h // each for h in heads})
        q, k = ([h * d + j for h in some for j in range(d)] for some in (heads, kv))
        neurons = list(plan.ffn.get(old, tuple(range(own.d_ff))))
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
            got[f"layers.{new}.{role}"] = cut
    return got


MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def shapes_left(config: Config) -> dict[str, list[tuple[int, int]]]:
    """Role -> the shapes of its matrices in every layer, [out, in]; the head's, where it is not the embedding."""
    d = config.d_model
    got: dict[str, list[tuple[int, int]]] = {}
    for i in range(config.n_layers):
        size = sizes(config, i)
        q, kv = size.n_heads * size.d_head, size.n_kv_heads * size.d_head
        each = {"q": (q, d), "k": (kv, d), "v": (kv, d), "o": (d, q), "gate": (size.d_ff, d), "up": (size.d_ff, d)}
        for role, shape in (each | {"down": (d, size.d_ff)}).items():
            if 0 not in shape and (role != "gate" or any(f.gated for f in feed_forwards(config))):
                got.setdefault(role, []).append(shape)
    return got if config.tied else got | {"head": [(config.n_vocab, d)]}


@st.composite
def sparsities(draw: st.DrawFn, config: Config, kinds: str = "nsb") -> dict[str, str]:
    """Draw zeros that fit what is left, by role: N:M (n), shares (s), blocks (b), those in the file (f)."""
    got = {}
    for role, shapes in shapes_left(config).items():
        rows, columns = (math.gcd(*(shape[axis] for shape in shapes)) for axis in (0, 1))
        divisors = [[d for d in range(1, size + 1) if size % d == 0] for size in (rows, columns)]
        kind = draw(st.sampled_from(kinds + "-"))
        if kind == "n":
            m = draw(st.sampled_from(divisors[1]))
            got[role] = f"{draw(st.integers(1, m))}:{m}"
        elif kind in "sb":
            share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.75, 1 - 2**-20]) | st.floats(0, 0.99))
            block = f"/{draw(st.sampled_from(divisors[0]))}x{draw(st.sampled_from(divisors[1]))}"
            got[role] = f"{share!r}" + (block if kind == "b" else "")
        elif kind == "f":
            got[role] = "stored"
    return got


def stays(w: Any, text: str) -> Any:
    """What a pattern keeps of [n, k], spelled apart from the loader: bool [n, k]."""
    n, k = w.shape
    if text == "stored":
        return w != 0
    if pair := re.fullmatch("([0-9]+):([0-9]+)", text):
        count, m = int(pair[1]), int(pair[2])
        groups = [(0, 1, at, at + m) for at in range(0, k, m)]
        rows, columns, gone = 1, 1, m - count
        strips = [(row, first, stop, gone) for row in range(n) for _, _, first, stop in groups]
    else:
        share, _, block = text.partition("/")
        rows, columns = map(int, block.split("x")) if block else (1, 1)
        gone = math.floor(k // columns * float(share))
        strips = [(row, 0, k, gone) for row in range(0, n, rows)]
    mask = np.ones((n, k), bool)
    for row, first, stop, out in strips:
        blocks = [(row, at) for at in range(first, stop, columns)]
        size = [float((w[r : r + rows, at : at + columns].astype(np.float64) ** 2).sum()) for r, at in blocks]
        order = sorted(range(len(blocks)), key=lambda i: (size[i], -i))
        for i in order[:out]:
            r, at = blocks[i]
            mask[r : r + rows, at : at + columns] = False
    return mask


def thinned(values: Mapping[str, Any], plan: PrunePlan, old: Mapping[int, int] | None = None) -> dict[str, Any]:
    """Values by our roles with the plan's zeros in them; `old`: the plan's numbers of the layers, by these."""
    out = dict(values)
    for name, value in values.items():
        *_, layer, role = ("", *name.rsplit(".", 2)) if "." in name else ("", name)
        number = str((old or {}).get(int(layer), layer)) if layer else ""
        text = plan.sparsity.get(f"{number}.{role}", plan.sparsity.get(role, "dense"))
        if text != "dense":
            out[name] = np.where(stays(value, text), value, 0)
    return out


def with_zeros(draw: st.DrawFn, config: Config, plan: PrunePlan, kinds: str = "nsb") -> PrunePlan:
    """The plan with zeros that fit what it leaves."""
    from dataclasses import replace

    return replace(plan, sparsity=draw(sparsities(compile_plan(plan, config).config, kinds)))


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
    gpt2, most = config.family == "gpt2", sizes(config)
    out = {name: value.copy() for name, value in tensors.items()}
    for i in range(config.n_layers):
        gone = plan.layers is not None and i not in plan.layers
        heads = () if gone else plan.heads.get(i, tuple(range(most.n_heads)))
        neurons = () if gone else plan.ffn.get(i, tuple(range(most.d_ff)))
        base = f"transformer.h.{i}." if gpt2 else f"model.layers.{i}."
        names = ("attn.c_proj", "mlp.c_proj") if gpt2 else ("self_attn.o_proj", "mlp.down_proj")
        inputs_of = (most.n_heads * most.d_head, most.d_ff)
        inputs = ([h * most.d_head + j for h in heads for j in range(most.d_head)], list(neurons))
        for name, size, kept in zip(names, inputs_of, inputs, strict=True):
            lost = [j for j in range(size) if j not in set(kept)]
            out[f"{base}{name}.weight"][(lost,) if gpt2 else (slice(None), lost)] = 0
            if not kept and f"{base}{name}.bias" in out:
                out[f"{base}{name}.bias"][:] = 0
    return out
