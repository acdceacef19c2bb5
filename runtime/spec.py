"""The records that describe a model: `Config` says what is computed, `Weights` with what. Free of any file's spelling.

A model is one stack of layers or two (an encoder, and a decoder that reads it). A layer is a tuple of sublayers, each
`Attention` or `FeedForward`, and its weights are a tuple of `Sublayer` of the same length. What a model lacks, or lost
to pruning, is not in the tuple: layers may differ in everything.

Glossary of dimensions, used everywhere:

| name        | meaning                                            |
|-------------|----------------------------------------------------|
| `T`         | tokens in this step                                |
| `d_model`   | width of the residual stream                       |
| `n_layers`  | Transformer blocks                                 |
| `n_heads`   | query heads                                        |
| `n_kv_heads`| key/value heads (grouped-query attention)          |
| `d_head`    | width of one head                                  |
| `d_rotary`  | how much of a head RoPE rotates                    |
| `d_ff`      | width of the feed-forward's hidden layer           |
| `n_vocab`   | entries of the vocabulary                          |
| `n_context` | positions the model was made for                   |

The records hold more than the kernels compute; `forward.supported` refuses the rest by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, is_dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from ..dataclass import dataclass
from .weight import DTYPES, Spaced, Weight, weight_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "DTYPES",
    "SIMILARITIES",
    "Act",
    "Activation",
    "Adapter",
    "Attention",
    "Buckets",
    "Config",
    "Convolution",
    "Decoding",
    "Dense",
    "Distances",
    "Experts",
    "FeedForward",
    "Head",
    "HeadKind",
    "Linear",
    "Norm",
    "NormKind",
    "Rope",
    "Similarity",
    "Sinusoids",
    "Slopes",
    "Spaced",
    "Stack",
    "StackWeights",
    "Sublayer",
    "Weight",
    "Weights",
    "weight_bytes",
    "weights_in",
]

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "tanh", "relu2"]
#: What a text's vector, or its scores, may go through.
Act = Literal["identity", "tanh", "sigmoid", "relu", "silu"]
#: How two texts' vectors are compared.
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)
NormKind = Literal["rms", "layer"]
#: What a head over an encoder's tokens gives: for each token logits of the vocabulary, of labels, of an answer's start
#: and end, of its having been replaced; for a text, from its first token, logits of labels, or one score.
HeadKind = Literal["masked_lm", "token_classes", "classes", "spans", "choice", "replaced"]
#: DeBERTa's two terms of a score besides q.k: content to position, position to content (He et al. 2021, eq. 4).
RelativeTerm = Literal["c2p", "p2c"]


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), pairs (i, i + d_rotary/2), or (2i, 2i + 1).

    `kind` names the change of frequencies: "default", "linear", "dynamic", "llama3", "yarn" or "longrope".
    """

    theta: float
    d_rotary: int  # the first dimensions of every head; the others stay as they are
    kind: Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"] = "default"
    factor: float = 1.0
    original_context: int = 0  # the positions trained on before scaling
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: round the correction range to whole dimensions
    attention_factor: float = 1.0  # yarn, longrope: multiplies cos and sin
    short_factors: tuple[float, ...] = ()  # longrope: what divides each pair's frequency
    long_factors: tuple[float, ...] = ()  # longrope: the same, of every token of a text beyond `original_context`
    interleaved: bool = False  # pairs (2i, 2i + 1): GPT-J, Cohere


@dataclass(frozen=True)
class Buckets:
    """Distances of query and key, in `n` classes: exact near by, logarithmic up to `longest` (Raffel et al. 2019)."""

    n: int
    longest: int
    both_ways: bool  # keys after the query have classes of their own


@dataclass(frozen=True)
class Distances:
    """Rows of a table for query - key, `n` on each side of 0 (He et al. 2021, arXiv:2006.03654, eq. 3 and 4).

    `longest`: distances beyond n / 2 share rows, logarithmically up to this one; None: each has a row of its own.
    `normed`: the table's rows are normed; `shared`: keys and queries are made of them with the layers' own matrices.
    """

    n: int
    longest: int | None = None
    normed: bool = False
    shared: bool = False


@dataclass(frozen=True)
class Convolution:
    """act(w * x + b) over each token and its neighbours, (taps - 1) / 2 on each side, zeros outside of the text.

    It stands next to the first layer: of what enters that, added to what leaves it, and the sum is normed (DeBERTa v2).
    """

    taps: int  # odd
    activation: Activation


@dataclass(frozen=True)
class Slopes:
    """ALiBi (Press et al. 2021, arXiv:2108.12409): each head's slope times (key - query) is added to its scores.

    `rounded`: slope, position of the key and their product are rounded to bfloat16 each, as Falcon has it; `scale`:
    what is added is multiplied by it.
    """

    of_heads: tuple[float, ...]
    rounded: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Attention:
    """softmax(q k^T * scale) v over the keys that a query may see, and the product that returns to the stream."""

    n_heads: int
    n_kv_heads: int
    d_head: int
    scale: float  # factor on q.k
    causal: bool = True  # no key after the query
    window: int | None = None  # keys that a query may see, itself included, on each side of it; None: all
    rope: int | None = None  # which of `Config.ropes`; None: this layer rotates nothing
    bias: int | None = None  # which of the stack's `biases` is added to the scores
    bias_heads: tuple[int, ...] | None = None  # whose lines of it, in a layer that lost heads; None: all
    relative: tuple[RelativeTerm, ...] = ()  # products with the stack's `relative` table that are added to the scores
    cross: bool = False  # keys and values come from the encoder
    norm_rotated: bool = False  # norms of queries and keys come after their rotation, not before
    norm_heads: bool = False  # they are of each head by itself also where every head has gains of its own
    clip: float | None = None  # c: queries, keys and values are cut to [-c, c]
    soft_cap: float | None = None  # c: scores become c tanh(score / c)


@dataclass(frozen=True)
class Experts:
    """A feed-forward of `n` experts, of which a router gives each token `per_token` (Shazeer et al. 2017)."""

    n: int
    per_token: int
    normalized: bool = True  # the weights of those chosen sum to one
    sigmoid: bool = False  # a score is the sigmoid of a router's number, not its share of a softmax
    d_shared: int = 0  # width of an expert that every token passes
    shared_mixed: bool = False  # a product of its own says by how much (Qwen2-MoE)


@dataclass(frozen=True)
class FeedForward:
    """down(act(gate x) * up x) where `gated`, else down(act(up x)); with `experts`, each is one of width `d_ff`.

    `activation` None: xIELU, whose numbers are weights (`Sublayer.numbers`).
    """

    d_ff: int
    activation: Activation | None
    gated: bool
    experts: Experts | None = None


@dataclass(frozen=True)
class Sinusoids:
    """sin(p f_i), then cos(p f_i), at f_i = 10000^(-i / steps) (Vaswani et al. 2017, 3.5, not interleaved).

    `first`: p of position 0; `steps`: half the width, or one less in what descends from tensor2tensor (M2M100), whose
    frequencies and angles are float32 (`single`). `blank`: before the row of position 0 stands one of zeros, which
    `Config.padding` takes.
    """

    first: int
    steps: float
    single: bool = False
    blank: bool = False


@dataclass(frozen=True)
class Stack:
    """Layers one after the other. `parallel`: every sublayer of a layer reads what entered it (GPT-J, Falcon, Phi)."""

    d_model: int
    norm: NormKind
    eps: float
    layers: tuple[tuple[Attention | FeedForward, ...], ...]
    parallel: bool = False
    gains: bool = True  # norms have some; else every norm is of ones (OLMo 1)
    embed_scale: float = 1.0
    residual_scale: float = 1.0  # of what a sublayer adds to the stream
    biases: tuple[Buckets | Slopes, ...] = ()  # what depends on the places of key and query alone
    relative: Distances | None = None  # of the table `StackWeights.relative`
    convolution: Convolution | None = None  # next to the first layer
    sinusoids: Sinusoids | None = None  # positions from a formula, where `StackWeights.positions` is none
    norm_first: bool = False  # the embedding's norm stands before positions are added (Blenderbot-small's decoder)
    project_first: bool = False  # and so does the product that takes it to `d_model` (OPT-350M)

    @property
    def n_layers(self) -> int:
        """How many."""
        return len(self.layers)

    @property
    def causal(self) -> bool:
        """Whether its tokens see none after them, in any layer alike."""
        return any(s.causal for layer in self.layers for s in layer if isinstance(s, Attention) and not s.cross)

    def attention(self, i: int) -> Attention | None:
        """Layer `i`'s attention to its own tokens, if it has one."""
        return next((s for s in self.layers[i] if isinstance(s, Attention) and not s.cross), None)

    def cross(self, i: int) -> Attention | None:
        """Layer `i`'s attention to the encoder, if it has one."""
        return next((s for s in self.layers[i] if isinstance(s, Attention) and s.cross), None)

    def feed_forward(self, i: int) -> FeedForward | None:
        """Layer `i`'s feed-forward, if it has one."""
        return next((s for s in self.layers[i] if isinstance(s, FeedForward)), None)


@dataclass(frozen=True)
class Shifted:
    """How an encoder-decoder reads a text to say something of it: its decoder gets the text's ids one place later.

    The head reads the decoder's row at the place of the text's last `end`. `wraps`: the decoder begins with the text's
    last id that is not padding, as the language is there (mBART); else with `Decoding.start`.
    """

    end: int
    wraps: bool = False


@dataclass(frozen=True)
class Head:
    """out(norm(act(dense x))) of a whole text's tokens; without `activation` there is no dense product before it.

    `width`: of the dense product, and of what `out` reads; `n_out`: of its results. `pooling`, of one that reads a
    text: from its first token, or from its last that is not `padding`; or from the mean over its tokens: of what the
    head reads, or ("late") of act(dense x).
    """

    kind: HeadKind
    n_out: int
    width: int
    activation: Activation | None = None
    pooling: Literal["first", "last", "mean", "late"] = "first"
    padding: int | None = None  # an id; None: every token counts
    shifted: Shifted | None = None  # of an encoder-decoder

    @property
    def pooled(self) -> bool:
        """Whether it gives a text, not each token, something."""
        return self.kind in ("classes", "choice")


@dataclass(frozen=True, eq=False)
class Dense:
    """act(w x + b) of a text's vector: `w` float32 [n, k], `b` [n]."""

    w: NDArray[np.float32]
    b: NDArray[np.float32] | None
    act: Act

    @property
    def width(self) -> int:
        """Of its result."""
        return len(self.w)


@dataclass(frozen=True)
class Decoding:
    """How an encoder-decoder's answers begin and end, as its files say."""

    start: int  # what its decoder reads first; no part of the answer
    forced_bos: int | None = None  # the answer's first id
    forced_eos: tuple[int, ...] = ()  # the last that fits
    never: tuple[tuple[int, ...], ...] = ()  # what never comes: `bad_words_ids`


@dataclass(frozen=True)
class Config:
    """A model with every default resolved; what the forward may depend on, and nothing else."""

    family: str
    n_vocab: int
    n_context: int
    decoder: Stack | None = None
    encoder: Stack | None = None
    ropes: tuple[Rope, ...] = ()
    head: Head | None = None  # of texts that come whole; a decoder's is the product with the vocabulary
    labels: tuple[str, ...] = ()  # what a head's results are called
    n_source: int | None = None  # entries of the encoder's vocabulary, where it is another than the decoder's
    d_embed: int | None = None  # width of the embedding, where a product takes it to `d_model`
    positions: int | None = None  # learned positions are added to the embedding: the row of position 0; None: not
    n_types: int = 0  # token types (BERT's segments), whose rows are added; 0: none
    padding: int | None = None  # the id that takes the row of position 0; others count from 1, without it
    tied: bool = False  # the head is the embedding
    lm_head: bool = True  # a decoder has a product with the vocabulary
    logit_scale: float = 1.0
    logit_soft_cap: float | None = None
    bos_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    decoding: Decoding | None = None  # of an encoder-decoder

    @property
    def seq2seq(self) -> bool:
        """Whether a decoder reads an encoder."""
        return self.encoder is not None and self.decoder is not None

    @property
    def kind(self) -> str:
        """What it is, in words. A classifier: with a decoder's layers, but a head that says something of a text."""
        if self.head is not None and self.stack.causal:
            return "a classifier"
        if self.seq2seq:
            return "an encoder-decoder"
        return "an encoder" if self.decoder is None else "a decoder"

    @property
    def writes(self) -> bool:
        """Whether it can go on with a text, or answer one."""
        return self.decoder is not None and self.head is None

    @property
    def encoding(self) -> Config:
        """The encoder alone, as a model without a head."""
        n_vocab = self.n_source or self.n_vocab
        return replace(self, n_vocab=n_vocab, n_source=None, decoder=None, head=None, decoding=None)

    @property
    def stack(self) -> Stack:
        """The stack whose outputs are the model's: the decoder, or an encoder alone. A plan's layers are its layers."""
        stack = self.decoder or self.encoder
        if stack is None:
            msg = "a config without a stack"
            raise ValueError(msg)
        return stack

    def with_stack(self, stack: Stack) -> Config:
        """The same model with another `stack`."""
        return replace(self, encoder=stack) if self.decoder is None else replace(self, decoder=stack)

    @property
    def n_layers(self) -> int:
        """Layers of `stack`."""
        return self.stack.n_layers

    @property
    def d_model(self) -> int:
        """Width of `stack`."""
        return self.stack.d_model


@dataclass(frozen=True, eq=False)
class Norm:
    """Gains, and the bias of a LayerNorm that has one: f32 vectors."""

    w: Weight
    b: Weight | None = None


@dataclass(frozen=True, eq=False)
class Adapter:
    """A low-rank addition to a product: (y + scale * up(down x)) * ratio (Hu et al. 2021, arXiv:2106.09685).

    `down` f32 [rank, in], `up` f32 [out, rank]; `ratio` f32 [out], of DoRA (Liu et al. 2024, arXiv:2402.09353): each
    row's magnitude over the norm of what the adapter makes of it. `bias` f32 [out]: in place of the product's own.
    Without `up`, `ids` f32 [rank], ascending: rows of `down` stand in place of these rows of the matrix. Of an
    embedding `up` is [n_vocab, rank] and `down` [rank, d]: a token's row becomes w[id] + scale * up[id] down. One that
    is `free` is a place for another, of this rank at most, that may come later.
    """

    down: Weight
    up: Weight | None
    scale: float
    ratio: Weight | None = None
    bias: Weight | None = None
    ids: Weight | None = None
    free: bool = False


@dataclass(frozen=True, eq=False)
class Linear:
    """x w^T + b, w [out, in], b an f32 vector.

    `adapters`: one for each of `Weights.adapters`, None where that leaves this product as it is; or none at all. The
    bias is added after them.
    """

    w: Weight
    b: Weight | None = None
    adapters: tuple[Adapter | None, ...] = ()


@dataclass(frozen=True, eq=False)
class Sublayer:
    """Weights of one sublayer. `linear`: q, k, v, o of an attention; gate, up, down of a feed-forward.

    `pos_k` and `pos_q` of an attention turn rows of `StackWeights.relative` into keys and queries. One of experts has
    gate, up and down of each in `experts`; in `linear` router, shared_gate, shared_up, shared_down, shared_mix.

    A norm that is None is not there. `norm_q` and `norm_k` are as wide as a head (of each head), or as all heads side
    by side (of the whole row).
    """

    linear: Mapping[str, Linear]
    norm_in: Norm | None = None  # of what it reads      (GPT-2, Llama, T5)
    norm_out: Norm | None = None  # of what it returns   (OLMo 2; Gemma 2 has both)
    norm_sum: Norm | None = None  # of the sum           (BERT, BART)
    norm_q: Norm | None = None
    norm_k: Norm | None = None
    bias: Weight | None = None  # a layer's own table of relative positions [buckets, n_heads] (UMT5)
    numbers: Mapping[str, Weight] = field(
        default_factory=dict
    )  # an activation's own, [1] each: p, n, beta, eps (xIELU)
    experts: tuple[Mapping[str, Linear], ...] = ()
    route_bias: Weight | None = None  # added to the experts' scores where they are chosen, f32 [experts] (DeepSeek-V3)


@dataclass(frozen=True, eq=False)
class StackWeights:
    """Embedding [n_vocab, d_model] and layers. A layer that runs more than once is the same object in the tuple."""

    embed: Weight
    layers: tuple[tuple[Sublayer, ...], ...]
    norm: Norm | None = None  # of what leaves the last layer
    positions: Weight | None = None  # learned positions [n_context, d_model]
    token_types: Weight | None = None  # [types, d_model]
    embed_norm: Norm | None = None
    embed_adapters: tuple[Adapter | None, ...] = ()  # as `Linear.adapters`, of the embedding's rows
    embed_project: Linear | None = None  # from the embedding's width to d_model
    biases: tuple[Weight | None, ...] = ()  # of `Stack.biases`: [buckets, n_heads]; None: slopes, or a layer's own
    relative: Weight | None = None  # DeBERTa's table of distances [2 n, d_model]
    relative_norm: Norm | None = None  # of its rows
    convolution: Linear | None = None  # of `Stack.convolution`: [d_model, d_model * taps], a token's taps side by side
    convolution_norm: Norm | None = None  # of the sum with what leaves the first layer

    def __iter__(self) -> Iterator[Weight]:
        """Every weight once."""
        return weights_in(self)


@dataclass(frozen=True, eq=False)
class Weights:
    """A model's weights; a tied head's matrix is the very object `embed`."""

    decoder: StackWeights | None = None
    encoder: StackWeights | None = None
    head: Linear | None = None  # [n_vocab, d_model], or of an encoder's head [n_out, width]
    head_dense: Linear | None = None  # the product before it; of a decoder, to the width of the embedding
    head_norm: Norm | None = None  # of that product's result
    adapters: tuple[str, ...] = ()  # names, in the order of their numbers; "": a place for one

    @property
    def encoding(self) -> Weights:
        """Those of `Config.encoding`."""
        return Weights(encoder=self.encoder, adapters=self.adapters)

    @property
    def stack(self) -> StackWeights:
        """Those of `Config.stack`."""
        stack = self.decoder or self.encoder
        if stack is None:
            msg = "weights without a stack"
            raise ValueError(msg)
        return stack

    def __iter__(self) -> Iterator[Weight]:
        """Every weight once; a tied head is not repeated."""
        return weights_in(self)


def weights_in(part: object) -> Iterator[Weight]:
    """Every weight in a record, or in a tuple of them, once: in the order of its fields."""
    return _once(part, set())


def _once(part: object, seen: set[int]) -> Iterator[Weight]:
    if isinstance(part, Weight):
        if id(part) not in seen:
            seen.add(id(part))
            yield part
        return
    inside: Iterable[object] = ()
    if isinstance(part, Mapping):
        inside = part.values()
    elif isinstance(part, tuple):
        inside = part
    elif is_dataclass(part):
        inside = vars(part).values()
    for each in inside:
        yield from _once(each, seen)
