"""What `precision` means: how the input of a product is rounded, by the kind of its matrix (docs/precision.md).

| word  | F32, F16, BF16                     | int8, int4, int4a                                                |
|-------|------------------------------------|------------------------------------------------------------------|
| exact | not at all                         | to 15 bits and a sign, a scale for each 32: two planes of bytes  |
| int8  | -                                  | to 7 bits and a sign, a scale for each 32: one plane             |
| bf16  | BF16 alone: to BF16                | -                                                                |
| fast  | BF16: as bf16, where that is fast  | as int8                                                          |

"bf16" and "fast" also say how a CPU's attention takes its queries and weights, where its cache is of BF16.

Without a word floats are taken as by "exact", integers as by "int8". A word that a matrix cannot take is an error, but
for "exact" and "fast", which every matrix takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..errors import InputError
from .ops import FAST, PLANES

if TYPE_CHECKING:
    from .weight import Weight

__all__ = ["WORDS", "Precision", "product_of", "takes_pairs", "word_of"]

Precision = Literal["exact", "int8", "bf16", "fast"]
WORDS: tuple[Precision, ...] = ("exact", "int8", "bf16", "fast")
#: Variants of products, and the op that rounds their input; of others none does.
ROUNDS = {**dict.fromkeys(PLANES, "quantize"), **dict.fromkeys(PLANES.values(), "quantize_planes"), FAST: "round_bf16"}


def product_of(precision: Precision | None, w: Weight, *, expert: bool = False) -> tuple[str, str]:
    """The variant of `linear`, or of an `expert_linear`, that multiplies by `w`, and the op that rounds its input.

    "": none does. Errors: `InputError`: the matrix cannot take the word.
    """
    variants = _variants(w.dtype, expert=expert)
    usual: Precision = "int8" if w.quantized else "exact"
    variant = variants.get(precision or usual)
    if variant is None:
        kind = f"{w.dtype}, of experts" if expert else w.dtype
        takes = ", ".join(map(repr, variants))
        msg = f"precision={precision!r}: {w.name} is {kind}, and its products take {takes}; or leave precision out"
        raise InputError(msg)
    return variant, ROUNDS.get(variant, "")


def takes_pairs(precision: Precision | None, kv_cache: str) -> bool:
    """Whether a decoder on a CPU rounds attention's queries and weights to BF16, as its cache is, and adds by pairs."""
    return kv_cache == "bf16" and precision in {"bf16", "fast"}


def _variants(dtype: str, *, expert: bool) -> dict[Precision, str]:
    """The words that a matrix takes, in order."""
    if dtype in PLANES:
        return {"exact": PLANES[dtype], "int8": dtype, "fast": dtype}
    if dtype == "bf16" and not expert:
        return {"exact": dtype, "bf16": FAST, "fast": FAST}
    return {"exact": dtype, "fast": dtype}


def word_of(variant: str) -> Precision:
    """What was done to the input of this variant of a product."""
    rounds: dict[str, Precision] = {"quantize": "int8", "round_bf16": "bf16"}
    return rounds.get(ROUNDS.get(variant, ""), "exact")
