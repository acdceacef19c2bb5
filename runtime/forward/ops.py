"""`Ops[T]`: the op table (`runtime/ops.py`) as functions, typed by what a reader of the forward calls a tensor.

`Reference` is `Ops[Array]` and computes at once; `Recorder` is `Ops[Tensor]` and writes a program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypedDict, TypeVar, Unpack

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..arena import Tensor
    from ..bias import Bias
    from ..recorder.record import Recorder
    from ..reference import Array, Reference
    from ..rope import RopeTable
    from ..spec import Activation, Adapter, Distances, Weight

    #: Of one product: `Linear.adapters`.
    Adapters = tuple[Adapter | None, ...]

__all__ = ["After", "Ops"]

T = TypeVar("T")


class After(TypedDict, Generic[T], total=False):
    """What may follow a product, in this order: an activation, a factor [t, n], something added [t, n]."""

    act: Activation | None
    times: T | None
    residual: T | None


class Ops(Protocol[T]):
    """What the forward may ask for. A tensor is [rows, width]: the step's tokens T, or the last R of them."""

    def embed(self, w: Weight, /) -> T:
        """[T, d_model]: the row of each token."""

    def lora_embed(self, x: T, adapters: Adapters, /) -> T:
        """[T, d_model]: x + scale up[id] down of each token's adapter, or the row that this has in its place."""

    def embed_positions(self, w: Weight, /) -> T:
        """[T, d_model]: the row of each position."""

    def embed_types(self, w: Weight, /) -> T:
        """[T, d_model]: the row of each token's type."""

    def once(self, n: int, /) -> AbstractContextManager[None]:
        """What is asked for inside is computed once per load, before the first step: products of weights, [n, ...]."""

    def embed_all(self, w: Weight, /) -> T:
        """[n, d], inside `once`: every row of a table."""

    def kept(self, x: T, /) -> T:
        """[n, d], inside `once`: there in every step."""

    def linear(self, x: T, w: Weight, b: Weight | None = None, /, **after: Unpack[After[T]]) -> T:
        """[t, k] -> [t, n]: act(x w^T + b) * times + residual."""

    def lora_down(self, x: T, adapters: Adapters, /) -> T:
        """[t, k] -> [t, largest rank]: of each token's adapter; of a token without one nothing."""

    def lora_up(self, x: T, h: T, adapters: Adapters, b: Weight | None = None, /, **after: Unpack[After[T]]) -> T:
        """[t, n], [t, largest rank] -> [t, n]: act((x + scale up h) * ratio + b) * times + residual."""

    def unfold(self, x: T, k: int, /) -> T:
        """[T, d] -> [T, d * k]: each number with those of its k - 1 neighbours in the text, which came whole."""

    def rms_norm(self, x: T, w: Weight, eps: float, groups: int = 1, /) -> T:
        """Each of `groups` pieces of a row by itself."""

    def layer_norm(self, x: T, w: Weight, b: Weight | None, eps: float, /) -> T:
        """Each row by itself."""

    def layer_norm_heads(self, x: T, w: Weight, b: Weight | None, eps: float, groups: int, /) -> T:
        """Each of `groups` pieces of a row by itself, with gains of its own or those of all."""

    def rope(self, x: T, table: RopeTable, heads: int, /) -> T:
        """Each of `heads` by its position."""

    def rope_part(self, x: T, table: RopeTable, heads: int, /) -> T:
        """As `rope`, of a part of each head, or in interleaved pairs: as the table's `Rope` says."""

    def kv_write(self, layer: int, k: T, v: T, heads: int, /) -> None:
        """Into the layer's cache."""

    def attention(  # noqa: PLR0913 - what a query sees takes this much
        self, layer: int, q: T, heads: int, kv_heads: int, /, *, window: int | None, scale: float, causal: bool
    ) -> T:
        """[T, heads * d_head], of the layer's cache; not `causal`: a token sees those after it too."""

    def attention_biased(  # noqa: PLR0913 - what becomes of a score takes this much
        self,
        layer: int,
        q: T,
        heads: int,
        kv_heads: int,
        /,
        *,
        window: int | None,
        scale: float,
        causal: bool,
        soft_cap: float | None,
        bias: Bias | None,
    ) -> T:
        """As `attention`, with scores that are capped, to which a bias is added, or with windows on both sides."""

    def head_products(self, x: T, table: T, heads: int, n: int, /) -> T:
        """[T, heads * d_head] -> [T, heads * n]: each head's products with the n rows of what is `kept`."""

    def attention_relative(  # noqa: PLR0913 - what becomes of a score takes this much
        self,
        layer: int,
        q: T,
        heads: int,
        kv_heads: int,
        /,
        *,
        scale: float,
        causal: bool,
        sizes: Distances,
        c2p: T | None,
        p2c: T | None,
    ) -> T:
        """As `attention`, of whole texts, to whose scores products with rows of a table of distances are added."""

    def cross_write(self, layer: int, k: T, v: T, heads: int, /) -> None:
        """What the decoder's layer sees of the encoder's text."""

    def cross_attention(self, layer: int, q: T, heads: int, kv_heads: int, /, *, scale: float) -> T:
        """[T, heads * d_head], of every token of the encoder's text."""

    def route(self, x: T, b: Weight | None, chosen: int, /, *, sigmoid: bool, normalized: bool) -> T:
        """[T, experts] -> [T, 2 chosen]: numbers of the experts with the largest scores, then their weights."""

    def expert_linear(
        self,
        x: T,
        routes: T,
        ws: tuple[Weight, ...],
        /,
        *,
        act: Activation | None = None,
        times: T | None = None,
    ) -> T:
        """[T, k] or [T, chosen * k] -> [T, chosen * n]: act(x w^T) * times, w those of each expert chosen."""

    def expert_sum(self, x: T, routes: T, shared: T | None, mix: T | None, residual: T | None, /) -> T:
        """[T, chosen * d] -> [T, d]: by the weights in `routes`; shared sigmoid(mix) and the residual are added."""

    def add(self, a: T, b: T, /) -> T:
        """[t, d]."""

    def scale(self, x: T, factor: float, /) -> T:
        """[t, d]: factor x."""

    def soft_cap(self, x: T, cap: float, /) -> T:
        """[t, d]: cap tanh(x / cap)."""

    def clip(self, x: T, limit: float, /) -> T:
        """[t, d]: cut to [-limit, limit]."""

    def xielu(self, x: T, p: Weight, n: Weight, beta: Weight, eps: Weight, /) -> T:
        """[t, d]: an activation whose slopes are weights, [1] each."""

    def take_rows(self, x: T, /) -> T:
        """[T, d] -> [R, d]: the tokens whose logits are asked for."""

    def mean_rows(self, x: T, /) -> T:
        """[T, d] -> [R, d]: the mean over the texts of the tokens whose rows are asked for."""

    def argmax(self, x: T, /) -> None:
        """The greedy id of the last row, as the step's result."""


if TYPE_CHECKING:

    def _readers(recorder: Recorder, reference: Reference) -> tuple[Ops[Tensor], Ops[Array]]:
        """Mypy compares both readers with the protocol here."""
        return recorder, reference
