"""`Scheme`: how the matrices of a checkpoint were quantised, and the words for a key that is not read."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Literal

from ...dataclass import dataclass
from ..files import quote

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["FLOAT_WORDS", "Method", "Scheme", "Sharing", "is_block", "is_one_of", "is_size", "other", "strange"]

Method = Literal["gptq", "awq", "fp8", "compressed-tensors"]
#: Scales of these are read.
FLOAT_WORDS = (None, *(f"{torch}{name}" for torch in ("torch.", "") for name in ("float16", "bfloat16", "float32")))
#: What a key that is not known may say.
_UNSAID: tuple[Any, ...] = (None, False, {}, [])
#: The longest name and the most repetitions for which a pattern of a file is tried: it could take for ever.
_LONGEST, _REPEATED = 200, 3


@dataclass(frozen=True)
class Sharing:
    """Which numbers share a scale, as one of compressed-tensors' `config_groups` says.

    `kind`: None is "tensor" or "channel", as the file has it. `size`: inputs of a "group". `targets`: whose it is.
    """

    where: str
    kind: Literal["tensor", "channel", "group"] | None
    size: int = -1
    targets: tuple[str, ...] = ()

    def block(self, shape: tuple[int, ...], matrix: tuple[int, int]) -> tuple[int, int] | None:
        """Outputs and inputs of each scale, where the scales of `matrix` have this shape; None: they are others."""
        n, k = matrix
        one = math.prod(shape) == 1 and len(shape) <= 2  # noqa: PLR2004 - a matrix of scales
        each = shape in {(n,), (n, 1)} or (one and n == 1)
        if self.kind == "group":
            groups = -(-k // self.size)
            fits = shape == (n, groups) or (groups == 1 and each)
            return (1, min(self.size, k)) if fits else None
        if one and self.kind != "channel":
            return n, k
        return (1, k) if each and self.kind != "tensor" else None

    @property
    def told(self) -> str:
        """In words."""
        if self.kind == "group":
            return f"each group of {self.size} inputs"
        return {"tensor": "the whole", "channel": "each output", None: "each output, or one for all,"}[self.kind]

    def rank(self, module: str) -> int | None:
        """3: it names the module, 2: by a pattern, 1: as a "Linear", 0: not at all; None: that is not known."""
        if module in self.targets:
            return 3
        patterns = [target.removeprefix("re:") for target in self.targets if target.startswith("re:")]
        known = [_matches(pattern, module) for pattern in patterns]
        if True in known:
            return 2
        return None if None in known else int("Linear" in self.targets)


def _matches(pattern: str, name: str) -> bool | None:
    """Whether a pattern of a file matches; None: it would not be tried."""
    if len(name) > _LONGEST or len(re.findall(r"[*+{]", pattern)) > _REPEATED or re.search(r"\)[*+{]", pattern):
        return None
    try:
        return re.match(pattern, name) is not None
    except (re.error, OverflowError, RecursionError):
        return None


@dataclass(frozen=True)
class Scheme:
    """`group`: inputs that share a scale, -1: all of them; `block`: outputs and inputs, of 8-bit floats.

    `plus`: what a stored zero point lacks; `by_act`: a group's inputs may stand apart, as g_idx says; `by_input`: AWQ's
    "gemv". `sharing`: of FP8 and compressed-tensors; `has_zeros`: every matrix has zero points.
    """

    method: Method
    bits: int = 8
    group: int = -1
    plus: int = 0
    by_act: bool = False
    has_zeros: bool = False
    floats: bool = False
    by_input: bool = False
    block: tuple[int, int] | None = None
    sharing: tuple[Sharing, ...] = (Sharing("", None),)


def strange(
    said: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]], harmless: Collection[str], where: str = ""
) -> str | None:
    """The first key that may change numbers, in words. `known`: key -> what it may say; `harmless`: any value."""
    for key, value in said.items():
        if key in known and not is_one_of(value, known[key]):
            return other(f"{where}.{key}" if where else key, value, *known[key][1:] or (None,))
        if key not in known and key not in harmless and not is_one_of(value, _UNSAID):
            inside = f" in {where}" if where else ""
            return f"{quote(key)} ({quote(value)}){inside} is not known here, and may change what is computed"
    return None


def other(key: str, value: object, *expected: object) -> str:
    """Words for a value that is not read."""
    words = [e if isinstance(e, str) else json.dumps(e) for e in expected]
    return f"{key} is {quote(value)}; expected {' or '.join(words)}"


def is_one_of(value: object, allowed: tuple[Any, ...]) -> bool:
    """As `in`, but 1 is not True."""
    return any(type(value) is type(one) and value == one for one in allowed)


def is_size(value: object) -> bool:
    """A number of inputs, or -1 for all."""
    return type(value) is int and (value == -1 or 0 < value < 2**31)  # `type`: True is no number


def is_block(block: object) -> bool:
    """[outputs, inputs]."""
    return isinstance(block, list) and len(block) == 2 and all(is_size(n) and n > 0 for n in block)  # noqa: PLR2004
