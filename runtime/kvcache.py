"""How the KV cache lies in the arena: what the recorder reserves and the attention kernels walk.

A layer has two caches of one size, keys and values, each [kv_head][bytes of a head]. `d` is d_head rounded up to 16
(absent dimensions are zero), a block is sixteen keys.

| cache | a head's numbers | so that |
|---|---|---|
| keys | [block][`PAIRS`][d/16][2][16 keys] | sixteen scores are sixteen lanes: no sum crosses a register |
| values | [key mod 16][block][d] | the keys of one lane of the order lie in one unbroken run |

Dimension 16 i + c and 16 i + c + 8 stand side by side under c, which counts as `PAIRS` does: so the tree of the one
order adds what lies beside each other, and the keys are read from front to back.

int8 has [context] float32 scales behind a head's numbers, one for each key: max |x| / 127 of that key's d_head numbers.
"""

from __future__ import annotations

__all__ = ["DIMS", "KEYS", "KV_BYTES", "PAIRS", "QUERIES", "cache_bytes", "padded", "padded_context", "scratch_floats"]

#: dtype -> bytes of a number.
KV_BYTES = {"f32": 4, "bf16": 2, "int8": 1}
KEYS = 16
#: Lanes c (and c + 8) in the order in which keys lie: the tree adds c and c + 4, then + 2, then + 1.
PAIRS = (0, 4, 2, 6, 1, 5, 3, 7)
#: Queries that a thread takes at once, at most, and dimensions of their results that it sums at once.
QUERIES, DIMS = 32, 64


def padded(d_head: int) -> int:
    """d_head, rounded up to whole vectors."""
    return -(-d_head // KEYS) * KEYS


def padded_context(n_context: int) -> int:
    """Positions reserved: whole blocks."""
    return -(-n_context // KEYS) * KEYS


def cache_bytes(dtype: str, kv_heads: int, context: int, d_head: int) -> int:
    """Bytes of one layer's keys, or of its values; `context` is padded."""
    per_key = padded(d_head) * KV_BYTES[dtype] + (4 if dtype == "int8" else 0)
    return kv_heads * context * per_key


def scratch_floats(context: int, d_head: int) -> int:
    """What a thread needs for each query: it, its scores, sixteen partial results, its bounds, sums."""
    return QUERIES * (context + padded(d_head) + KEYS * DIMS + 8 + 4 * KEYS)
