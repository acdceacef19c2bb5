"""What the records can say and no family of ours says yet: run against float64 and transformers, or refused by name."""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import oracle, run
from miaotui.errors import BackendError
from miaotui.loader import roles
from miaotui.loader.families import FAMILIES
from miaotui.runtime.cpu.backend import cpu_session
from miaotui.runtime.forward.ops import Ops
from miaotui.runtime.ops import OPS
from miaotui.runtime.recorder.record import record
from miaotui.runtime.spec import (
    Attention,
    Buckets,
    Config,
    Convolution,
    Distances,
    Experts,
    FeedForward,
    Linear,
    Norm,
    Rope,
    Slopes,
    Stack,
    StackWeights,
    Sublayer,
    Weight,
    Weights,
)
from tolerance import bound

ROOT = Path(__file__).resolve().parent.parent
D, VOCAB, CONTEXT = 24, 61, 48
A = Attention(4, 2, 6, 6**-0.5, rope=0)
F = FeedForward(40, "silu", gated=True)
IDS = [5, 1, 40, 33, 7, 60, 2, 2, 19, 0, 11, 59, 8]


class Drawn:
    """Random weights for a config's records; `whole`: norms of q and k over all heads side by side."""

    def __init__(self, seed: int = 0) -> None:
        self.rng, self.numbers = np.random.default_rng(seed), count()

    def weight(self, *shape: int) -> Weight:
        x = self.rng.standard_normal(shape)
        x = 1 + 0.2 * x if len(shape) == 1 else x / np.sqrt(shape[1])
        return given(f"w{next(self.numbers)}", x)

    def norm(self, c: Stack, width: int = D) -> Norm:
        return Norm(self.weight(width), self.weight(width) if c.norm == "layer" else None)

    def linear(self, n: int, k: int, *, bias: bool = False) -> Linear:
        return Linear(self.weight(n, k), self.weight(n) if bias else None)

    def sublayer(self, c: Stack, s: Attention | FeedForward, places: tuple[str, ...], qk: str = "") -> Sublayer:
        norms: dict[str, Any] = {place: self.norm(c) for place in places}
        if isinstance(s, FeedForward):
            shapes = {"gate": (s.d_ff, D), "up": (s.d_ff, D), "down": (D, s.d_ff)}
            names = shapes if s.gated else ("up", "down")
            numbers = {} if s.activation else {name: self.weight(1) for name in ("p", "n", "beta", "eps")}
            return Sublayer({name: self.linear(*shapes[name], bias=True) for name in names}, numbers=numbers, **norms)
        q, kv = s.n_heads * s.d_head, s.n_kv_heads * s.d_head
        shapes = {"q": (q, D), "k": (kv, D), "v": (kv, D), "o": (D, q)}
        widths = {"head": (s.d_head, s.d_head), "whole": (q, kv)}
        if qk:
            norms |= {f"norm_{x}": self.norm(c, width) for x, width in zip("qk", widths[qk], strict=True)}
        return Sublayer({name: self.linear(*shape, bias=True) for name, shape in shapes.items()}, **norms)

    def weights(self, config: Config, places: tuple[str, ...] = ("norm_in",), qk: str = "", **more: Any) -> Weights:
        c = config.stack
        layers = tuple(tuple(self.sublayer(c, s, places, qk) for s in layer) for layer in c.layers)
        own = StackWeights(self.weight(VOCAB, D), layers, self.norm(c))
        return Weights(decoder=replace(own, **more), head=self.linear(VOCAB, D))


def given(name: str, x: Any) -> Weight:
    array = np.ascontiguousarray(x, np.float32)
    return Weight(name, "f32", array.shape, array, mapped=False)


OF_STACK = ("parallel", "embed_scale", "residual_scale", "biases", "relative", "convolution")


def config(*layers: tuple[Attention | FeedForward, ...], norm: str = "rms", **more: Any) -> Config:
    own = {name: more.pop(name) for name in OF_STACK if name in more}
    stack = Stack(D, norm, 1e-5, layers or ((A, F),) * 3, **own)
    return Config("records", VOCAB, CONTEXT, decoder=stack, **({"ropes": (Rope(10000.0, 6),)} | more))


def agree(c: Config, w: Weights, wanted: np.ndarray | None = None) -> None:
    """The program's logits are the oracle's, and the bits are those of the same tokens fed one by one."""
    exact = oracle(c, w, IDS)
    session = cpu_session(c, w, n_context=CONTEXT, chunk=CONTEXT, n_logits=CONTEXT, threads=2)
    got = run(session, IDS, [len(IDS)])
    assert np.array_equal(run(session, IDS, [1] * len(IDS)), got)
    session.close()
    scale = float(np.abs(exact).max())
    assert np.abs(got - exact).max() <= bound("model", "f32", c.n_layers, scale)
    if wanted is not None:  # theirs are float64 all through, and so is the oracle, but for float32 rotary tables
        assert np.abs(exact - wanted).max() <= bound("model", "f32", c.n_layers, scale)


PLAIN, POST = ("norm_in",), ("norm_sum",)
T5 = Buckets(32, 128, both_ways=False)
ALIBI = Slopes((0.3, 0.7, 0.11, 0.013))
SLOPED = replace(A, rope=None, bias=0)
CURVED = FeedForward(40, None, gated=False)
NOPE, SLOW = replace(A, rope=None), replace(A, rope=1, window=5)
RUNS: dict[str, tuple[Config, dict[str, Any]]] = {
    "two norms before parallel halves": (config(parallel=True), {}),
    "parallel halves, LayerNorm": (config(parallel=True, norm="layer"), {}),
    "norms of what a sublayer returns": (config(), {"places": ("norm_out",)}),
    "norms before and after": (config(), {"places": ("norm_in", "norm_out")}),
    "norms of the sum": (config(norm="layer"), {"places": POST, "norm": None}),
    "norms in all three places": (config(), {"places": ("norm_in", "norm_out", "norm_sum")}),
    "no norm before the first": (config((A,), (F,), (A, F)), {"places": ()}),
    "queries and keys normed by head": (config(), {"qk": "head"}),
    "queries and keys normed whole": (config(), {"qk": "whole"}),
    "queries and keys by LayerNorm, each head": (config(norm="layer"), {"qk": "head"}),
    "queries and keys by LayerNorm, each head with its gains": (
        config(*((replace(A, norm_heads=True), F),) * 2, norm="layer"),
        {"qk": "whole"},
    ),
    "queries, keys and values that are cut": (config((replace(A, clip=0.2), F), (replace(NOPE, clip=1.0), F)), {}),
    "an activation with numbers of its own": (config(*((A, CURVED),) * 2), {}),
    "rotation on some layers": (config((A, F), (NOPE, F), (A, F)), {}),
    "a rotary table for windows": (config((A, F), (SLOW, F), ropes=(Rope(1e6, 6), Rope(1e4, 6, "linear", 2.0))), {}),
    "heads of two widths": (
        config((A, F), (Attention(3, 1, 10, 0.3, rope=1), F), ropes=(Rope(9.0, 6), Rope(9.0, 10))),
        {},
    ),
    "feed-forward first, and twice": (config((F, A), (A, F, FeedForward(7, "relu", gated=False))), {}),
    "learned positions and rotation": (config(positions=0), {"positions": (CONTEXT, D)}),
    "a norm of the embedding": (config(), {"embed_norm": True}),
    "scores that are capped": (config((replace(A, soft_cap=0.7), F), (replace(SLOW, rope=0, soft_cap=50.0), F)), {}),
    "T5's classes of distances": (
        config((replace(NOPE, bias=0), F), (A, F), (replace(NOPE, bias=0), F), biases=(T5,)),
        {"biases": (32, 4)},
    ),
    "slopes, a window and a cap": (config((replace(SLOPED, window=5, soft_cap=2.0), F), biases=(ALIBI,)), {}),
    "slopes rounded by key": (config((SLOPED, F), biases=(replace(ALIBI, rounded=True, scale=0.4),)), {}),
    "scaled embedding": (config(embed_scale=D**0.5), {}),
    "scaled additions": (config(residual_scale=0.22), {}),
    "scaled additions, normed": (config(residual_scale=0.22), {"places": ("norm_out",)}),
    "soft cap of logits": (config(logit_soft_cap=3.0), {}),
    "scaled logits, capped": (config(logit_scale=0.0625, logit_soft_cap=0.1), {}),
    "part of a head": (config((A, F), (replace(A, rope=1), F), ropes=(Rope(9.0, 6), Rope(9.0, 4))), {}),
    "interleaved pairs": (config(ropes=(Rope(9.0, 6, interleaved=True),)), {}),
    "part of a head, interleaved": (config(ropes=(Rope(9.0, 2, interleaved=True),)), {}),
    "squared relu": (config((A, FeedForward(40, "relu2", gated=False)), (A, replace(F, activation="relu2"))), {}),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_runs_is_the_oracle(name: str) -> None:
    c, how = RUNS[name]
    drawn, how = Drawn(), dict(how)
    if "positions" in how:
        how["positions"] = drawn.weight(*how["positions"])
    if c.stack.biases:
        how["biases"] = tuple(drawn.weight(*how["biases"]) if "biases" in how else None for _ in c.stack.biases)
    if "embed_norm" in how:
        how["embed_norm"] = drawn.norm(c.stack)
    agree(c, drawn.weights(c, **how))


@pytest.mark.parametrize("qk", ["head", "whole"])
def test_norms_of_queries_and_keys_differ(qk: str) -> None:
    """With one gain for all, a norm of each head is none of the whole row: the gains' width decides."""
    c = config((A,))
    plain = Drawn().weights(c)
    with_norms = Drawn().weights(c, qk=qk)
    [[attention]] = with_norms.decoder.layers
    x = np.random.default_rng(3).standard_normal((5, 24))
    groups = {"head": 4, "whole": 1}[qk]
    pieces = x.reshape(5, groups, -1)
    normed = (pieces / np.sqrt((pieces**2).mean(-1, keepdims=True) + 1e-5)).reshape(5, -1)
    [listed] = [i for i in record(c, with_norms, n_context=8).code if i.values.get("w") is attention.norm_q.w]
    assert (listed.values["groups"], listed.values["d"]) == (groups, 24 // groups)
    assert not np.allclose(normed, x)
    assert not np.array_equal(oracle(c, plain, IDS), oracle(c, with_norms, IDS))


def test_a_layer_held_once_runs_as_often_as_it_stands_there() -> None:
    """ALBERT: one layer's weights, a cache for each run; bits as of as many layers with equal weights."""
    one, many = Drawn(), config(*((A, F),) * 4)
    [layer] = one.weights(config((A, F))).decoder.layers
    w = Drawn(1).weights(many)
    shared = replace(w, decoder=replace(w.decoder, layers=(layer,) * 4))
    copies = tuple(tuple(replace(s) for s in layer) for _ in range(4))
    apart = replace(w, decoder=replace(w.decoder, layers=copies))
    agree(many, shared)
    assert np.array_equal(oracle(many, shared, IDS), oracle(many, apart, IDS))
    assert len(list(shared)) == len(list(one.weights(config((A, F)))))
    caches = [t for t in record(many, shared, n_context=8).tensors if t.part == "kv_cache"]
    assert len(caches) == 8


REFUSED: dict[str, tuple[Config, str]] = {
    "both ways": (config((replace(A, causal=False), F)), "attention to later tokens"),
    "cross": (config((A, replace(A, cross=True), F)), "attention to an encoder that is not there"),
    "cross alone": (config((replace(A, cross=True, rope=None), F)), "attention to an encoder that is not there"),
    "T5's bias without its table": (config((replace(A, bias=0), F), biases=(T5,)), "tables of relative positions"),
    "a bias that is not there": (config((replace(A, bias=0), F)), "a bias by relative position without its table"),
    "DeBERTa's terms": (config((replace(A, relative=("c2p", "p2c")), F)), "terms by relative position, c2p and p2c"),
    "DeBERTa's table": (config(relative=Distances(256, 512)), "a table of distances that is not there"),
    "a convolution": (config(convolution=Convolution(3, "gelu")), "a convolution without weights"),
    "gains by head of RMSNorm": (config((replace(A, norm_heads=True), F)), "RMSNorm of each head with gains of its"),
    "gated xIELU": (config((A, replace(F, activation=None))), "an activation with numbers of its own, gated"),
    "two rotations, one by length": (
        config(ropes=(Rope(9.0, 2, "longrope", short_factors=(1.0,), long_factors=(2.0,)), Rope(9.0, 6))),
        "by the length of a text",
    ),
    "experts": (config((A, replace(F, experts=Experts(8, 2)))), "2 of 8 experts, of which 0 have weights"),
    "an encoder": (replace(config(), encoder=config().decoder), "an encoder of which there are no weights"),
    "an encoder's layers": (Config("records", VOCAB, CONTEXT, ropes=(Rope(9.0, 6),),
                                   encoder=config((A, F), (replace(A, causal=False), F)).decoder),
                            "attention to later tokens in some layers alone"),
    "a rotation by length of whole texts": (
        Config("records", VOCAB, CONTEXT, encoder=config((A, F)).decoder,
               ropes=(Rope(9.0, 6, "longrope", short_factors=(1.0,) * 3, long_factors=(2.0,) * 3),)),
        "longrope.* for texts that come whole",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_kernel_computes_is_refused_by_name(name: str) -> None:
    c, says = REFUSED[name]
    w = Drawn().weights(c)
    with pytest.raises(BackendError, match=says):
        record(c, w, n_context=8)
    with pytest.raises(BackendError, match=says):  # the reference leaves nothing out either
        oracle(c, w, IDS)


def test_weights_that_nothing_reads_are_refused_by_name() -> None:
    c, drawn = config((A, F)), Drawn()
    w = drawn.weights(c)
    changed = {
        "tables of relative positions": {"biases": (drawn.weight(32, 4),)},
        "a table of distances .* that the config does not know": {"relative": drawn.weight(64, D)},
        "a convolution .* that the config does not know": {"convolution": Linear(drawn.weight(D, 3 * D))},
        "RMSNorm with a bias": {"norm": Norm(drawn.weight(D), drawn.weight(D))},
    }
    for says, more in changed.items():
        with pytest.raises(BackendError, match=says):
            record(c, replace(w, decoder=replace(w.decoder, **more)), n_context=8)
    apart = {"convolution": Linear(drawn.weight(D, 4 * D))}
    for taps, says in ((3, "a convolution over texts that come in parts"), (4, "a convolution over texts")):
        with pytest.raises(BackendError, match=says):
            record(config((A, F), convolution=Convolution(taps, "gelu")),
                   replace(w, decoder=replace(w.decoder, **apart)), n_context=8)  # fmt: skip
    with pytest.raises(BackendError, match="a decoder without a head"):
        record(c, replace(w, head=None), n_context=8)


# --- families that we do not read yet, by transformers ---------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> Any:
    """A model's class and config -> its tensors and its logits, in float64."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

    def make(kind: str, **keys: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
        torch.manual_seed(0)
        made = getattr(transformers, f"{kind}Config")(
            vocab_size=VOCAB, hidden_size=D, num_hidden_layers=3, num_attention_heads=4, attn_implementation="eager",
            max_position_embeddings=CONTEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
            **keys,
        )  # fmt: skip
        model = getattr(transformers, f"{kind}ForCausalLM")(made).double().eval()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_((torch.randn_like(p) * 0.3 + (p.ndim == 1)).float())
            logits = model(torch.tensor([IDS])).logits[0].numpy()
        return {name: x.numpy() for name, x in model.state_dict().items()}, logits

    return make


def linear(t: dict[str, np.ndarray], name: str) -> Linear:
    b = t.get(f"{name}.bias")
    return Linear(given(name, t[f"{name}.weight"]), None if b is None else given(f"{name}.bias", b))


def gains(t: dict[str, np.ndarray], name: str) -> Norm:
    return Norm(*(linear(t, name).w, linear(t, name).b))


def decoder_of(t: dict[str, np.ndarray], embed: str, norm: str, layers: list[tuple[Sublayer, ...]]) -> Weights:
    own = StackWeights(given("embed", t[f"{embed}.weight"]), tuple(layers), gains(t, norm))
    return Weights(decoder=own, head=linear(t, "lm_head"))


GATED = ("gate", "up", "down")


def test_olmo2(theirs: Any) -> None:
    """Norms of what each sublayer returns, and over the whole of queries and keys."""
    t, logits = theirs("Olmo2", intermediate_size=40, num_key_value_heads=2, rms_norm_eps=1e-5)
    layers = []
    for i in range(3):
        at = f"model.layers.{i}."
        norms = {f"norm_{x}": gains(t, f"{at}self_attn.{x}_norm") for x in "qk"}
        norms["norm_out"] = gains(t, f"{at}post_attention_layernorm")
        attention = Sublayer({x: linear(t, f"{at}self_attn.{x}_proj") for x in "qkvo"}, **norms)
        ffn = {x: linear(t, f"{at}mlp.{x}_proj") for x in GATED}
        layers.append((attention, Sublayer(ffn, norm_out=gains(t, f"{at}post_feedforward_layernorm"))))
    c = config(ropes=(Rope(10000.0, 6),))
    agree(c, decoder_of(t, "model.embed_tokens", "model.norm", layers), logits)


def test_phi(theirs: Any) -> None:
    """Parallel halves that share one norm, and a head with a bias."""
    t, logits = theirs("Phi", intermediate_size=40, num_key_value_heads=2, partial_rotary_factor=1.0, hidden_act="relu")
    layers = []
    for i in range(3):
        at, o = f"model.layers.{i}.", {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "dense"}
        one = gains(t, f"{at}input_layernorm")
        attention = Sublayer({x: linear(t, f"{at}self_attn.{name}") for x, name in o.items()}, norm_in=one)
        ffn = {"up": linear(t, f"{at}mlp.fc1"), "down": linear(t, f"{at}mlp.fc2")}
        layers.append((attention, Sublayer(ffn, norm_in=one)))
    c = config(*((A, FeedForward(40, "relu", gated=False)),) * 3, norm="layer", parallel=True)
    agree(c, decoder_of(t, "model.embed_tokens", "model.final_layernorm", layers), logits)


def test_falcon(theirs: Any) -> None:
    """Two norms before parallel halves; queries lie with their keys and values in one matrix, group by group."""
    keys = {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": False, "alibi": False, "ffn_hidden_size": 40}
    t, logits = theirs("Falcon", parallel_attn=True, **keys)
    layers = []
    for i in range(3):
        at = f"transformer.h.{i}."
        groups = t[f"{at}self_attention.query_key_value.weight"].reshape(2, 4, 6, D)  # [kv, queries + k + v, d_head, D]
        parts = {"q": groups[:, :2], "k": groups[:, 2], "v": groups[:, 3]}
        attention = {name: Linear(given(f"{at}{name}", part.reshape(-1, D))) for name, part in parts.items()}
        attention["o"] = linear(t, f"{at}self_attention.dense")
        ffn = {"up": linear(t, f"{at}mlp.dense_h_to_4h"), "down": linear(t, f"{at}mlp.dense_4h_to_h")}
        norms = (gains(t, f"{at}ln_attn"), gains(t, f"{at}ln_mlp"))
        layers.append(tuple(Sublayer(w, norm_in=n) for w, n in zip((attention, ffn), norms, strict=True)))
    c = config(*((A, FeedForward(40, "gelu", gated=False)),) * 3, norm="layer", parallel=True)
    agree(c, decoder_of(t, "transformer.word_embeddings", "transformer.ln_f", layers), logits)


def test_smollm3(theirs: Any) -> None:
    """Layers without rotation."""
    t, logits = theirs("SmolLM3", intermediate_size=40, num_key_value_heads=2, no_rope_layers=[1, 0, 1],
                       rms_norm_eps=1e-5, rope_theta=10000.0)  # fmt: skip
    layers = []
    for i in range(3):
        at = f"model.layers.{i}."
        attention = {x: linear(t, f"{at}self_attn.{x}_proj") for x in "qkvo"}
        ffn = {x: linear(t, f"{at}mlp.{x}_proj") for x in GATED}
        norms = (gains(t, f"{at}input_layernorm"), gains(t, f"{at}post_attention_layernorm"))
        layers.append(tuple(Sublayer(w, norm_in=n) for w, n in zip((attention, ffn), norms, strict=True)))
    agree(config((A, F), (NOPE, F), (A, F)), decoder_of(t, "model.embed_tokens", "model.norm", layers), logits)


#: What rounds the input of a product.
ROUNDING = {"round_bf16", "quantize", "quantize_parts", "quantize_planes"}


# --- what holds of the tree ------------------------------------------------------------------------------------------


def test_the_forward_asks_for_what_the_op_table_has() -> None:
    """But for roundings and parts of a fused product, which a reader puts in where a weight wants them.

    Besides it asks for some of it to be computed once, of a table's rows.
    """
    asked = {name for name, value in vars(Ops).items() if callable(value) and not name.startswith("_")}
    assert asked - {"once", "embed_all", "kept"} == set(OPS) - ROUNDING - {"pick"}


def test_the_forward_fits_a_screen_and_argues_with_no_rule() -> None:
    for name, lines in (("stack", 95), ("decoder", 35)):
        text = (ROOT / "runtime" / "forward" / f"{name}.py").read_text(encoding="utf-8")
        assert "noqa" not in text
        assert len(text.splitlines()) <= lines


def test_roles_are_one_table() -> None:
    """Spelled out here once more: each list is a comprehension over the table, and none may drift."""
    assert roles.LINEAR == ("q", "k", "v", "o", "gate", "up", "down")
    own, cross = roles.LINEAR, ("cross_q", "cross_k", "cross_v", "cross_o")  # which plans of version 1 do not name
    places = "pos_k", "pos_q"  # through which no token of a step flows
    experts = tuple(f"{kind}_{name}" for kind in ("expert", "shared") for name in ("gate", "up", "down"))
    model = "embed", "head", "head_dense", "classifier", "embed_project", "convolution"
    assert (*model, *own[:4], *places, *cross, *own[4:], *experts) == roles.MATRICES
    assert experts[:3] == roles.EACH
    assert roles.WRITERS == ("o", "down")
    readers = {"attn_norm": "qkv", "ffn_norm": ("gate", "up"), "norm": ("head",)}
    assert {role: norm for norm, some in readers.items() for role in some} == roles.READS
    places_of = {
        "attn_in": "qkv", "attn_out": "o", "ffn_out": ("down", "expert_down"), "shared": ("shared_down",),
        "ffn_in": ("gate", "up", "expert_gate", "expert_up", "shared_gate", "shared_up"),
        "cross_in": ("cross_q",), "source": ("cross_k", "cross_v"), "cross_out": ("cross_o",),
    }  # fmt: skip
    assert {role: place for place, some in places_of.items() for role in some} == roles.PLACES
    named = {
        "expert_up": "up",
        "shared_down": "down",
        "cross_q": "q",
        "gate": "gate",
        "router": "router",
        "q_bias": "q_bias",
    }
    assert {role: roles.in_plans(role) for role in named} == named
    assert roles.in_plans("experts.11.expert_gate") == "gate"
    assert roles.in_plans("classifier") == "classifier"
    for family in FAMILIES.values():
        assert all(not roles.ROLES[name].sublayer for name in family.model)
        assert all(roles.ROLES[name].sublayer for name in family.layer)
        half = roles.EXPERTS if "router" in family.layer else roles.FEED_FORWARD
        kinds = ("", roles.ATTENTION, half)
        always = {role.name for role in roles.ROLES.values() if role.always and role.sublayer in kinds}
        assert always <= {*family.model, *family.layer}
        if family.encoder:
            assert always <= {*family.encoder, *family.encoder_layer}
            assert set(cross) <= set(family.layer)
        assert all(not roles.ROLES[name].sublayer for table in family.heads.values() for name in table)


def test_no_family_is_named_outside_its_folder() -> None:
    """A fact of one family is a field of `Family`. Benchmarks and recipes write config.json themselves, as tests do."""
    named = []
    for folder in ("runtime", "loader", "tools", "."):
        for path in (ROOT / folder).glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py"):
            where = path.relative_to(ROOT).as_posix()
            names = {"llama", "mistral", "qwen", "nemotron", *FAMILIES}
            if where.startswith("runtime/cpu/"):
                names -= {"phi"}  # an instruction of LLVM's
            if where.startswith("tools/server/tool_calls/"):
                names -= {"mistral"}  # a format of calls, by the name that other servers have for it
            if where.startswith(("loader/families/", "tools/bench/", "tools/demo/")):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = (
                    node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", getattr(node, "value", None))
                )
                if isinstance(name, str) and name.lower() in names:
                    named.append(f"{where}:{node.lineno} {name}")
                if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2] in FAMILIES:
                    named.append(f"{where}:{node.lineno} imports {node.module}")
    assert not named
