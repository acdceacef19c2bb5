"""The op table: every operation of the forward pass, once.

A row names the op's operands in the order in which they stand in an instruction, says which dimensions it sums over,
what it costs, and where the formula comes from. Read by the recorder (shape checks, slots), the kernels (slots), the
listing, the cost model and the tests (each row must have a reference and a kernel).

Rows of a tensor are `T` (the step's tokens) or `R` (the tokens whose logits are wanted). What a step says of a token
(its id, position, slot, row of logits) stands in `step.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..dataclass import dataclass
from .kvcache import KV_BYTES
from .quantized import QUANTIZED
from .sparse import SPARSE
from .sparse_int8 import SPARSE_INT8

__all__ = ["ACTS", "ACT_BACKENDS", "FAST", "HEADER", "OPS", "PLANES", "SLOTS", "Op", "slots"]

#: The first slots of every instruction: kernel address, wait before it (0/1), rows (0: T, 1: R).
HEADER = ("op", "wait", "rows")
#: int64 slots of an instruction.
SLOTS = 24

Cost = Callable[[dict[str, int]], int]


@dataclass(frozen=True)
class Op:
    """One row. `fields`, kind:name, are an instruction's slots: o(utput), i(nput), w(eight), n (int), f(loat)."""

    name: str
    signature: str
    formula: str
    fields: tuple[str, ...]
    sums_over: str  # the contracted dimension, or ""
    flop: Cost  # per row of the output; dims by name
    source: str
    in_place: bool = False  # the output may take the place of the first input
    variants: tuple[str, ...] = ()  # kernels: name_variant; none: name alone
    backends: tuple[str, ...] = ("cpu", "cuda")  # those that have all of its kernels
    cpu_variants: tuple[str, ...] = ()  # more variants, that the CPU alone has

    @property
    def names(self) -> tuple[str, ...]:
        """Slot names after the header."""
        return tuple(f[2:] for f in self.fields)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that each of its backends has."""
        return tuple(f"{self.name}_{v}" for v in self.variants) or (self.name,)

    def kernels_of(self, backend: str) -> tuple[str, ...]:
        """Names of all kernels that a backend has."""
        if backend not in self.backends:
            return ()
        return (*self.kernels, *(f"{self.name}_{v}" for v in self.cpu_variants if backend == "cpu"))


DTYPE_VARIANTS = ("f32", "bf16", "f16")
WEIGHT_VARIANTS = (*DTYPE_VARIANTS, *QUANTIZED)
#: The product of BF16 weights with an input rounded to BF16 (`precision="bf16"`): on CPUs as `bf16_dot.py` has it.
FAST = "bf16_dot"
#: Dtypes of integer matrices, and the variants that take their input in two planes of bytes (`precision="exact"`).
PLANES = {dtype: f"{dtype}_planes" for dtype in (*QUANTIZED, SPARSE_INT8)}
#: What `linear` may apply, by its number in the instruction; 0 is none.
ACTS = ("silu", "gelu", "gelu_tanh", "relu", "tanh", "relu2")
#: Those that are applied on these backends alone, however many have the product.
ACT_BACKENDS = {"tanh": ("cpu",), "relu2": ("cpu",)}
VASWANI = "Vaswani et al. 2017, arXiv:1706.03762"
_HE = "He et al. 2021, arXiv:2006.03654, 3.1 (disentangled attention)"
#: Fields of every kind of attention; the kernels share their numbers.
_ATTENTION = (
    "o:y",
    "o:scratch",
    "i:q",
    "i:k_cache",
    "i:v_cache",
    "n:heads",
    "n:kv_heads",
    "n:d_head",
    "n:context",
    "n:pages",
    "n:group",
    "n:window",
    "f:scale",
)

#: Numbers of a product with experts: rows and columns of a matrix, how many there are, how many a token has.
_EXPERTS = ("n:n", "n:k", "n:experts", "n:chosen", "n:apart", "n:act")

_ROWS = (
    Op(
        "embed",
        "(v,d),T->(T,d)",
        "y[t] = w[id[t]]",
        ("o:y", "w:w", "n:d"),
        "",
        lambda _: 0,
        f"{VASWANI}, 3.4",
        variants=WEIGHT_VARIANTS,
    ),
    Op(
        "embed_positions",
        "(c,d),T->(T,d)",
        "y[t] = w[position[t]]",
        ("o:y", "w:w", "n:d"),
        "",
        lambda _: 0,
        "Radford et al. 2019 (GPT-2)",
        variants=DTYPE_VARIANTS,
    ),
    Op(
        "embed_types",
        "(s,d),T->(T,d)",
        "y[t] = w[type[t]]",
        ("o:y", "w:w", "n:d"),
        "",
        lambda _: 0,
        "Devlin et al. 2018, arXiv:1810.04805, 3 (segments)",
        variants=DTYPE_VARIANTS,
        backends=("cpu",),
    ),
    Op(
        "linear",
        "(t,k),(n,k),(n),(t,n),(t,n)->(t,n)",
        "y = act(x w^T + b) * times + residual",
        ("o:y", "o:scratch", "i:x", "w:w", "w:b", "i:times", "i:residual", "n:n", "n:k", "n:act"),
        "k",
        lambda d: 2 * d["n"] * d["k"] + (10 * d["n"] if d["act"] else 0),
        f"{VASWANI}, 3.2; gated: Shazeer 2020, arXiv:2002.05202",
        variants=(*WEIGHT_VARIANTS, *SPARSE, SPARSE_INT8, FAST),
        cpu_variants=tuple(PLANES.values()),
    ),
    Op(
        "lora_embed",
        "(T,d),a*(v,r),a*(r,d)->(T,d)",
        "y[t] = x[t] + scale up[id[t]] down, of t's adapter, or the row that it has in place of x[t]; x[t] without one",
        ("o:y", "i:x", "w:table", "n:d"),
        "",
        lambda d: 2 * d["d"],
        "Hu et al. 2021, arXiv:2106.09685",
        in_place=True,
        backends=("cpu",),
    ),
    Op(
        "lora_down",
        "(t,k),a*(r,k)->(t,r)",
        "h[t] = down x[t], down that of the adapter of t's sequence; of others nothing is written",
        ("o:y", "i:x", "w:table", "n:rank", "n:k"),
        "k",
        lambda d: 2 * d["rank"] * d["k"],
        "Hu et al. 2021, arXiv:2106.09685",
        backends=("cpu",),
    ),
    Op(
        "lora_up",
        "(t,n),(t,r),a*(n,r),(n),(t,n),(t,n)->(t,n)",
        "y = act((x + scale up h) * ratio + b) * times + residual, b its own; x + b in brackets without an adapter",
        ("o:y", "i:x", "i:h", "w:table", "w:b", "i:times", "i:residual", "n:n", "n:rank", "n:act"),
        "rank",
        lambda d: 2 * d["n"] * d["rank"] + (10 * d["n"] if d["act"] else 0),
        "Hu et al. 2021, arXiv:2106.09685; ratio: Liu et al. 2024, arXiv:2402.09353",
        in_place=True,
        backends=("cpu",),
    ),
    Op(
        "pick",
        "(t,u*s),(n)->(t,n)",
        "y[t, u each + j] = x[t, u stride + base + j] + b, j < each: one of a fused product's parts",
        ("o:y", "i:x", "w:b", "n:units", "n:each", "n:stride", "n:base"),
        "",
        lambda d: d["units"] * d["each"],
        "Black et al. 2022, arXiv:2204.06745 (their layout of q, k, v)",
        backends=("cpu",),
    ),
    Op(
        "unfold",
        "(t,d)->(t,d*k)",
        "y[t, i k + j] = x[t + j - (k-1)/2, i], 0 outside of t's text: a product with it is a convolution",
        ("o:y", "i:x", "n:d", "n:k"),
        "",
        lambda _: 0,
        "Chellapilla et al. 2006 (convolution as a product)",
        backends=("cpu",),
    ),
    Op(
        "round_bf16",
        "(t,k)->(t,16k/32)",
        "y = bf16(x), to nearest even; whole 32s of a row, filled up with zeros",
        ("o:y", "i:x", "n:k"),
        "",
        lambda _: 0,
        "Kalamkar et al. 2019, arXiv:1905.12322",
    ),
    Op(
        "quantize",
        "(t,k)->(t,10k/32)",
        "q = rint(x 127 / max|x|), scale = max|x| / 127, over each 32",
        ("o:y", "i:x", "n:k"),
        "",
        lambda d: 4 * d["k"],
        "Dettmers et al. 2022, arXiv:2110.02861 (block-wise)",
    ),
    Op(
        "quantize_planes",
        "(t,c*k)->(t,c*18k/32)",
        "q = rint(x 32639 / max|x|) = 256 high + low, scale = max|x| / 32639, over each 32 of each part of a row",
        ("o:y", "i:x", "n:k", "n:parts"),
        "",
        lambda d: 6 * d["k"] * d["parts"],
        "Dettmers et al. 2022, arXiv:2110.02861 (block-wise); two bytes a number",
        backends=("cpu",),
    ),
    Op(
        "rms_norm",
        "(t,g*d),(d)->(t,g*d)",
        "y = x / sqrt(mean(x^2) + eps) * w, over each d",
        ("o:y", "i:x", "w:w", "n:d", "n:groups", "f:eps"),
        "d",
        lambda d: 4 * d["d"] * d["groups"],
        "Zhang and Sennrich 2019, arXiv:1910.07467",
        in_place=True,
    ),
    Op(
        "layer_norm",
        "(t,d),(d),(d)->(t,d)",
        "y = (x - mean(x)) / sqrt(var(x) + eps) * w + b",
        ("o:y", "i:x", "w:w", "w:b", "n:d", "f:eps"),
        "d",
        lambda d: 8 * d["d"],
        "Ba et al. 2016, arXiv:1607.06450",
        in_place=True,
    ),
    Op(
        "layer_norm_heads",
        "(t,g*d),(u*d),(u*d)->(t,g*d)",
        "layer_norm over each d; gains and biases of its own for each (u = g), or the same for all (u = 1)",
        ("o:y", "i:x", "w:w", "w:b", "n:d", "n:groups", "n:own", "f:eps"),
        "d",
        lambda d: 8 * d["d"] * d["groups"],
        "Dehghani et al. 2023, arXiv:2302.05442 (of queries and keys)",
        in_place=True,
        backends=("cpu",),
    ),
    Op(
        "rope",
        "(t,h*d),(c,d/2,2)->(t,h*d)",
        "(a, b) = (x[i], x[i+d/2]) -> (a cos - b sin, b cos + a sin)",
        ("o:y", "i:x", "w:table", "n:heads", "n:d_head"),
        "",
        lambda d: 3 * d["heads"] * d["d_head"],
        "Su et al. 2021, arXiv:2104.09864",
        in_place=True,
    ),
    Op(
        "rope_part",
        "(t,h*d),(c,r/2,2)->(t,h*d)",
        "rope on the first r of each head's d, in pairs (i, i+r/2) or (2i, 2i+1); the others stay",
        ("o:y", "i:x", "w:table", "n:heads", "n:d_head", "n:d_rotary", "n:interleaved"),
        "",
        lambda d: 3 * d["heads"] * d["d_rotary"],
        "Black et al. 2022, arXiv:2204.06745 (a part); Wang and Komatsuzaki 2021, GPT-J (interleaved)",
        in_place=True,
        backends=("cpu",),
    ),
    Op(
        "kv_write",
        "(t,h*d),(t,h*d)->cache,cache",
        "k_cache[head, slot[t]] = k[t, head]; the same for v",
        ("o:k_cache", "o:v_cache", "i:k", "i:v", "n:heads", "n:d_head", "n:context", "n:pages", "n:group"),
        "",
        lambda _: 0,
        "KV cache; Shazeer 2019, arXiv:1911.02150; rounded as in `kvcache.py`",
        variants=tuple(KV_BYTES),
    ),
    Op(
        "attention",
        "(t,h*d),cache,cache->(t,h*d)",
        "softmax(q k^T * scale) v; first <= key <= last, last - window < key",
        _ATTENTION,
        "d_head, then keys",
        lambda d: 4 * d["heads"] * d["d_head"] * d["context"],
        f"{VASWANI}, 3.2.1; grouped: Ainslie et al. 2023, arXiv:2305.13245",
        variants=tuple(KV_BYTES),
        cpu_variants=(FAST,),
    ),
    Op(
        "attention_biased",
        "(t,h*d),cache,cache,(h,2c)->(t,h*d)",
        "softmax(cap(q k^T * scale) + bias[key - query]) v, cap(s) = c tanh(s / c); |key - query| < window",
        (*_ATTENTION, "f:cap", "w:table", "n:length", "n:before", "n:by_key"),
        "d_head, then keys",
        lambda d: 4 * d["heads"] * d["d_head"] * d["context"],
        "Raffel et al. 2019, arXiv:1910.10683; Press et al. 2021, arXiv:2108.12409; Gemma Team 2024, arXiv:2408.00118",
        variants=tuple(KV_BYTES),
        backends=("cpu",),
    ),
    Op(
        "head_products",
        "(t,h*d),(n,h*d)->(t,h*n)",
        "y[t, h, i] = x[t, h] . table[i, h]",
        ("o:y", "i:x", "i:table", "n:heads", "n:d_head", "n:n"),
        "d_head",
        lambda d: 2 * d["heads"] * d["d_head"] * d["n"],
        _HE,
        backends=("cpu",),
    ),
    Op(
        "attention_relative",
        "(t,h*d),cache,cache,(t,h*n),(t,h*n),(2c-1)->(t,h*d)",
        "softmax((q k^T + c2p[query, i] + p2c[key, i]) * scale) v, i = row[query - key], of a text that came whole",
        (*_ATTENTION, "i:c2p", "i:p2c", "w:table", "n:before", "n:n"),
        "d_head, then keys",
        lambda d: 4 * d["heads"] * d["d_head"] * d["context"],
        _HE,
        variants=tuple(KV_BYTES),
        backends=("cpu",),
    ),
    Op(
        "cross_write",
        "(t,h*d),(t,h*d)->cache,cache",
        "k_cache[head, position[t]] = k[t, head] of the encoder's text; the same for v",
        ("o:k_cache", "o:v_cache", "i:k", "i:v", "n:heads", "n:d_head", "n:context", "n:pages", "n:group"),
        "",
        lambda _: 0,
        f"{VASWANI}, 3.2.3; as `kv_write`",
        variants=tuple(KV_BYTES),
        backends=("cpu",),
    ),
    Op(
        "cross_attention",
        "(t,h*d),cache,cache->(t,h*d)",
        "softmax(q k^T * scale) v over every key of the encoder's text",
        _ATTENTION,
        "d_head, then keys",
        lambda d: 4 * d["heads"] * d["d_head"] * d["context"],
        f"{VASWANI}, 3.2.3",
        variants=tuple(KV_BYTES),
        backends=("cpu",),
    ),
    Op(
        "route",
        "(t,e),(e)->(t,2c)",
        "the c experts of the largest scores (+ b), in falling order, then their scores; softmax or sigmoid",
        ("o:y", "o:scratch", "i:x", "w:b", "n:experts", "n:chosen", "n:sigmoid", "n:normalized"),
        "experts",
        lambda d: 12 * d["experts"],
        "Shazeer et al. 2017, arXiv:1701.06538; b, sigmoid: DeepSeek-AI 2024, arXiv:2412.19437",
        backends=("cpu",),
    ),
    Op(
        "expert_linear",
        "(t,k),(t,2c),e*(n,k),(t,c*n)->(t,c*n)",
        "y[t, j] = act(x[t] w[expert j of t]^T) * times; apart: x[t, j]",
        (*("o:y", "o:scratch", "i:x", "i:routes", "w:table", "i:times"), *_EXPERTS),
        "k",
        lambda d: d["chosen"] * (2 * d["n"] * d["k"] + (10 * d["n"] if d["act"] else 0)),
        "Jiang et al. 2024, arXiv:2401.04088 (Mixtral)",
        variants=WEIGHT_VARIANTS,
        backends=("cpu",),
        cpu_variants=tuple(PLANES[dtype] for dtype in QUANTIZED),
    ),
    Op(
        "expert_sum",
        "(t,c*d),(t,2c),(t,d),(t,1),(t,d)->(t,d)",
        "y[t] = sum_j weight[t, j] x[t, j] + sigmoid(mix) shared + residual",
        ("o:y", "i:x", "i:routes", "i:shared", "i:mix", "i:residual", "n:d", "n:chosen"),
        "chosen",
        lambda d: (2 * d["chosen"] + 2) * d["d"],
        "Jiang et al. 2024, arXiv:2401.04088; shared: Dai et al. 2024, arXiv:2401.06066",
        backends=("cpu",),
    ),
    Op(
        "quantize_parts",
        "(t,c*k)->(t,c*10k/32)",
        "as quantize, of each part of a row by itself",
        ("o:y", "i:x", "n:k", "n:parts"),
        "",
        lambda d: 4 * d["k"] * d["parts"],
        "Dettmers et al. 2022, arXiv:2110.02861 (block-wise)",
        backends=("cpu",),
    ),
    Op(
        "add",
        "(t,d),(t,d)->(t,d)",
        "y = a + b",
        ("o:y", "i:a", "i:b", "n:d"),
        "",
        lambda d: d["d"],
        "He et al. 2015, arXiv:1512.03385",
        in_place=True,
    ),
    Op(
        "scale",
        "(t,d)->(t,d)",
        "y = factor x",
        ("o:y", "i:x", "n:d", "f:factor"),
        "",
        lambda d: d["d"],
        f"{VASWANI}, 3.4 (of the embedding)",
        in_place=True,
        backends=("cpu",),
    ),
    Op(
        "soft_cap",
        "(t,d)->(t,d)",
        "y = cap tanh(x / cap)",
        ("o:y", "i:x", "n:d", "f:cap"),
        "",
        lambda d: 12 * d["d"],
        "Bello et al. 2016, arXiv:1611.09940; of logits: Gemma Team 2024, arXiv:2408.00118",
        in_place=True,
        backends=("cpu",),
    ),
    Op(
        "clip",
        "(t,d)->(t,d)",
        "y = min(max(x, -limit), limit)",
        ("o:y", "i:x", "n:d", "f:limit"),
        "",
        lambda d: 2 * d["d"],
        "MosaicML 2023, MPT; Groeneveld et al. 2024, arXiv:2402.00838 (of queries, keys and values)",
        in_place=True,
        backends=("cpu",),
    ),
    Op(
        "xielu",
        "(t,d),(1),(1),(1),(1)->(t,d)",
        "y = p x^2 + beta x for x > 0, else (n + beta) (exp(min(x, eps)) - 1 - x) + beta x",
        ("o:y", "i:x", "w:p", "w:n", "w:beta", "w:eps", "n:d"),
        "",
        lambda d: 16 * d["d"],
        "Huang 2024, arXiv:2411.13010",
        in_place=True,
        backends=("cpu",),
    ),
    Op("take_rows", "(T,d)->(R,d)", "y[row[t]] = x[t]", ("o:y", "i:x", "n:d"), "", lambda _: 0, "-"),
    Op(
        "mean_rows",
        "(T,d)->(R,d)",
        "y[row[t]] = mean of x over t's text",
        ("o:y", "i:x", "n:d"),
        "T, in order",
        lambda d: d["d"],
        "Reimers and Gurevych 2019, arXiv:1908.10084",
        backends=("cpu",),
    ),
    Op(
        "argmax",
        "(t,n)->(t)",
        "result[t] = argmax(x[t]), the first of equals; -1 where one is NaN",
        ("i:x", "n:n"),
        "",
        lambda d: d["n"],
        "-",
    ),
)

OPS: dict[str, Op] = {op.name: op for op in _ROWS}


def slots(name: str) -> tuple[int, ...]:
    """Slot numbers of an op's fields, in their order: kernels unpack these, the recorder fills them."""
    return tuple(range(len(HEADER), len(HEADER) + len(OPS[name].fields)))
