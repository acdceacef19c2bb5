"""The decoder-only Transformer in the papers' order: GPT-2, Llama, Mistral, Qwen.

`ops` is the op table in one of its readers: `Reference` computes at once, `Recorder` writes a program. A family is
data in `Config` and which weights are there; nothing below names one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..rope import RopeTable
    from ..spec import Config, LayerWeights, Weight, Weights

__all__ = ["decoder"]


def decoder(ops: Any, cfg: Config, w: Weights, table: RopeTable) -> tuple[Any, Any]:  # noqa: ANN401 (a tensor of the reader's own)
    """Tokens of the step -> (hidden [R, d_model], logits [R, n_vocab]) of its last R tokens."""
    x = ops.embed(w.embed)  # [T, d_model]
    if w.positions is not None:
        x = ops.add(x, ops.embed_positions(w.positions))
    for i, layer in enumerate(w.layers):
        if layer.attn_norm is not None:  # a pruned layer may have lost either half
            h = norm(ops, cfg, x, layer.attn_norm, layer.attn_norm_bias)
            x = attention(ops, cfg, i, layer, table=table, x=h, residual=x)
        if layer.ffn_norm is not None:
            h = norm(ops, cfg, x, layer.ffn_norm, layer.ffn_norm_bias)
            x = feed_forward(ops, cfg, layer, x=h, residual=x)
    h = norm(ops, cfg, ops.take_rows(x), w.norm, w.norm_bias)  # [R, d_model]
    logits = ops.linear(h, w.head)
    ops.argmax(logits)
    return h, logits


def norm(ops: Any, cfg: Config, x: Any, w: Weight, b: Weight | None) -> Any:  # noqa: ANN401
    """RMSNorm or LayerNorm of each row."""
    return ops.rms_norm(x, w, cfg.norm_eps) if cfg.norm == "rms" else ops.layer_norm(x, w, b, cfg.norm_eps)


def attention(  # noqa: PLR0913 - what a half of a block takes
    ops: Any,  # noqa: ANN401
    cfg: Config,
    i: int,
    w: LayerWeights,
    *,
    table: RopeTable,
    x: Any,  # noqa: ANN401
    residual: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """residual + grouped-query attention of x, with a KV cache."""
    heads, kv_heads = cfg.layer(i).n_heads, cfg.layer(i).n_kv_heads
    q, k, v = ops.linear(x, w.q, w.q_bias), ops.linear(x, w.k, w.k_bias), ops.linear(x, w.v, w.v_bias)
    if w.q_norm is not None:
        q = ops.rms_norm(q, w.q_norm, cfg.norm_eps, heads)
    if w.k_norm is not None:
        k = ops.rms_norm(k, w.k_norm, cfg.norm_eps, kv_heads)
    if cfg.rope is not None:
        q, k = ops.rope(q, table, heads), ops.rope(k, table, kv_heads)
    ops.kv_write(i, k, v, kv_heads)
    window, scale = cfg.windows[i], cfg.attention_scales[i]
    a = ops.attention(i, q, heads, kv_heads, window=window, scale=scale)
    return ops.linear(a, w.o, w.o_bias, residual=residual)


def feed_forward(ops: Any, cfg: Config, w: LayerWeights, *, x: Any, residual: Any) -> Any:  # noqa: ANN401
    """residual + down(act(gate x) * up x), or residual + down(act(up x))."""
    if w.gate is not None:
        up = ops.linear(x, w.up, w.up_bias)
        h = ops.linear(x, w.gate, w.gate_bias, act=cfg.activation, times=up)
    else:
        h = ops.linear(x, w.up, w.up_bias, act=cfg.activation)
    return ops.linear(h, w.down, w.down_bias, residual=residual)
