"""How the KV cache lies in the arena: what the recorder reserves and the attention kernels walk.

Positions lie in pages of `PAGE`. A layer has two pools of pages of one size, keys and values, each
[kv_head][page][bytes of a page], so that pages with neighbouring numbers are neighbours in memory and a head of a
sequence in consecutive pages is one stream. Which page holds positions i * PAGE and on of a sequence its page tables
say, int32 [groups][pages of a sequence]: a group is the layers with one window, and a page's number is good for all of
its layers. `d` is d_head rounded up to 16 (absent dimensions are zero), a block is sixteen keys.

| pool | a page's numbers | so that |
|---|---|---|
| keys | [block][`PAIRS`][d/16][2][16 keys] | sixteen scores are sixteen lanes: no sum crosses a register |
| values | [key mod 16][block][d] | the keys of one lane of the order lie in one unbroken run |

Dimension 16 i + c and 16 i + c + 8 stand side by side under c, which counts as `PAIRS` does: so the tree of the one
order adds what lies side by side, and the keys are read from front to back.

int8 has [PAGE] float32 scales after a page's numbers, one for each key: max |x| / 127 of that key's d_head numbers.
"""

from __future__ import annotations

__all__ = [
    "DIMS",
    "KEYS",
    "KV_BYTES",
    "PAGE",
    "PAIRS",
    "QUERIES",
    "SINKS",
    "cache_bytes",
    "key_order",
    "padded",
    "padded_context",
    "pages_of",
    "scratch_floats",
]

#: dtype -> bytes of a number.
KV_BYTES = {"f32": 4, "bf16": 2, "int8": 1}
KEYS = 16
#: Positions of a page, a multiple of `KEYS`; measured in docs/benchmarks/kv-pages.json.
PAGE = 128
#: Lanes c (and c + 8) in the order in which keys lie: the tree adds c and c + 4, then + 2, then + 1.
PAIRS = (0, 4, 2, 6, 1, 5, 3, 7)
#: First tokens that stay where a text outgrows its context: four are enough (Xiao et al. 2023, arXiv:2309.17453).
SINKS = 4
#: Queries that a thread takes at once, at most, and dimensions of their results that it sums at once.
QUERIES, DIMS = 32, 64


def padded(d_head: int) -> int:
    """d_head, rounded up to whole vectors."""
    return -(-d_head // KEYS) * KEYS


def key_order(d_head: int) -> list[int]:
    """Where among a key's numbers each of its dimensions lies."""
    each = padded(d_head) // 8
    return [PAIRS.index(j & 7) * each + (j >> 4) * 2 + (j >> 3 & 1) for j in range(d_head)]


def pages_of(positions: int) -> int:
    """Pages that hold this many positions of one sequence."""
    return -(-positions // PAGE)


def padded_context(n_context: int) -> int:
    """Positions of the pages of a sequence that fills its context."""
    return pages_of(n_context) * PAGE


def cache_bytes(dtype: str, kv_heads: int, positions: int, d_head: int) -> int:
    """Bytes of one layer's keys, or of its values, at this many positions."""
    per_key = padded(d_head) * KV_BYTES[dtype] + (4 if dtype == "int8" else 0)
    return kv_heads * positions * per_key


def scratch_floats(context: int, d_head: int) -> int:
    """What a thread needs for each query: it, its scores, sixteen partial results, its bounds, sums.

    `context`: padded positions of one sequence.
    """
    return QUERIES * (context + padded(d_head) + KEYS * DIMS + 8 + 4 * KEYS)
