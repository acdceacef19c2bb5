"""How matrices are rounded by a text, as it is typed: scaling, rounding, and zeros that are chosen on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...errors import InputError, spelled_like
from ..importance.masks import parse_sparsity

if TYPE_CHECKING:
    from ..importance.masks import Sparsity

__all__ = ["METHODS", "ROUNDING", "SCALING", "Method", "parse_method"]

#: How columns are scaled before rounding, and how numbers are rounded: one of each may be joined.
SCALING, ROUNDING = ("awq", "smooth"), ("weighted", "gptq")
METHODS = (*SCALING, *ROUNDING)


@dataclass(frozen=True)
class Method:
    """Of `SCALING`, or none, and of `ROUNDING`, or none: to nearest, by scales as ever. GPTQ may choose zeros."""

    scaling: str = ""
    rounding: str = ""
    sparsity: Sparsity | None = None

    def __str__(self) -> str:
        """As on the command line."""
        return ",".join(filter(None, (self.scaling, self.rounding)))

    @property
    def typed(self) -> str:
        """With its zeros: what tells one run from another."""
        return str(self) if self.sparsity is None else f"{self} --sparsity {self.sparsity}"

    @property
    def hessian(self) -> bool:
        """Whether it needs sums of products."""
        return "awq" in self.scaling or self.rounding == "gptq"


def parse_method(text: str, sparsity: str | None = None) -> Method:
    """Read "gptq" or "awq,gptq", and "2:4" or "0.5". Errors: `InputError`."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in METHODS:
            near = spelled_like(word, METHODS, 1)
            perhaps = f" (did you mean {near[0]}?)" if near else ""
            msg = f"--method {text}: no such method{perhaps}; expected {', '.join(METHODS)}, or two such as awq,gptq"
            raise InputError(msg)
    chosen = [[word for word in words if word in kind] for kind in (SCALING, ROUNDING)]
    for kind, some in zip((SCALING, ROUNDING), chosen, strict=True):
        if len(some) > 1:
            msg = f"--method {text}: found {' and '.join(some)}; expected one of {' and '.join(kind)} at most"
            raise InputError(msg)
    scaling, rounding = ("".join(some) for some in chosen)
    if sparsity is not None and rounding != "gptq":
        msg = f"--sparsity {sparsity}: gptq alone chooses zeros while it rounds; found --method {text}, expected gptq"
        raise InputError(msg)
    return Method(scaling, rounding, None if sparsity is None else parse_sparsity(sparsity))
