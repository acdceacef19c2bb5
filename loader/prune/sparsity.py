"""Which weights of a matrix may be other than zero: `Pattern`, and a plan's `sparsity`, which names them by role.

| text      | of a matrix [n, k], as it is left by every other cut                                              |
|-----------|---------------------------------------------------------------------------------------------------|
| `2:4`     | of every 4 columns side by side, the 2 largest stay                                               |
| `0.5`     | of every row, this share goes: floor(0.5 k) of its smallest                                       |
| `0.5/4x8` | of every 4 rows, this share of their blocks of 8 columns goes: those of the least sum of squares  |
| `stored`  | what is zero in the file goes, and nothing else: no number changes                                |
| `dense`   | nothing goes                                                                                      |

Large is by magnitude; of equals, those further left stay. `sparsity` is one such text for every matrix of every layer
(`roles.LINEAR`), or an object: a key is a role, "LAYERS" such as "0-2", or "LAYERS.ROLE"; "all" is every
role. The narrower key wins. "head", where it is not the embedding, is named by itself. As text: "2:4,down=0.5". In a
layer of experts gate, up and down are those of each, and of the one that all tokens pass; routers keep all numbers.

Choosing within a row, and not over the matrix (Han et al. 2015, arXiv:1506.02626), reads each row once and leaves all
equally long, so that threads share the work evenly. N:M: Mishra et al. 2021, arXiv:2104.08378. Blocks: Narang et al.
2017, arXiv:1711.02782.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

from ...dataclass import dataclass
from ...errors import PlanError
from ..files import quote
from ..ranges import count_named, read_indices, show
from ..roles import LINEAR

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Pattern", "as_json", "joined", "read_sparsity", "show_sparsity"]

MOST, MOST_LAYERS = 2**20, 10_000  # of a pattern's sizes; above any model
#: Matrices that all keys together may name: each of 10,000 layers' seven seven times over.
MOST_CELLS = 2**19
NARROWEST = 3
_NM = re.compile(r"([0-9]{1,7}):([0-9]{1,7})")
_SHARE = re.compile(r"((?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:e-?[0-9]{1,3})?)(?:/([0-9]{1,7})x([0-9]{1,7}))?")
EXPECTED = "expected N:M such as 2:4, a share from 0 to below 1 such as 0.5, blocks such as 0.5/4x4, stored or dense"


@dataclass(frozen=True)
class Pattern:
    """One row of the table above. `n` of `m` stay; or the share `ratio` goes, in blocks of `rows` x `columns`."""

    kind: str  # "n:m", "ratio", "stored" or "dense"
    n: int = 0
    m: int = 0
    ratio: float = 0.0
    rows: int = 1
    columns: int = 1

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.kind == "n:m":
            return f"{self.n}:{self.m}"
        if self.kind == "ratio":
            return repr(self.ratio) + (f"/{self.rows}x{self.columns}" if self.block else "")
        return self.kind

    @property
    def block(self) -> bool:
        """Whether rows are chosen together, or columns."""
        return self.rows * self.columns > 1

    @property
    def chooses(self) -> bool:
        """Whether it makes zeros, rather than taking what there is."""
        return self.kind in ("n:m", "ratio")

    def kept(self, shape: tuple[int, ...]) -> int | None:
        """Numbers that stay of a matrix [n, k]: exact, whatever it holds; None for "stored", where it must be read."""
        n, k = shape
        if self.kind == "stored":
            return None
        if self.kind == "dense":
            return n * k
        if self.kind == "n:m":
            return n * (k // self.m) * self.n
        return n * self.per_row(k // self.columns) * self.columns

    def per_row(self, there: int) -> int:
        """Blocks, or numbers, that a share leaves of this many."""
        return there - int(there * self.ratio)

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Why a matrix [n, k] cannot have it, or None."""
        n, k = shape
        if self.kind == "n:m" and k % self.m:
            return f"its {k} columns are no multiple of {self.m}"
        if n % self.rows:
            return f"its {n} rows are no multiple of {self.rows}"
        return f"its {k} columns are no multiple of {self.columns}" if k % self.columns else None

    @classmethod
    def parse(cls, value: object, where: str = "sparsity") -> Self:
        """Read a text, a share, or {"block": [rows, columns], "ratio": share}. Errors: `PlanError`."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return cls._share(value, 1, 1, value, where)
        if isinstance(value, dict) and value.keys() == {"block", "ratio"}:
            block, ratio = value["block"], value["ratio"]
            sizes = isinstance(block, list | tuple) and len(block) == 2  # noqa: PLR2004 - rows and columns
            if sizes and all(type(size) is int for size in block) and type(ratio) in (int, float):
                return cls._share(ratio, block[0], block[1], value, where)
        text = value.strip() if isinstance(value, str) else ""
        if text in ("stored", "dense"):
            return cls(text)
        if match := _NM.fullmatch(text):
            n, m = int(match[1]), int(match[2])
            if 1 <= n <= m <= MOST:
                return cls("n:m", n, m)
        elif match := _SHARE.fullmatch(text):
            return cls._share(float(match[1]), int(match[2] or 1), int(match[3] or 1), value, where)
        msg = f"{where}: found {quote(value)}; {EXPECTED}"
        raise PlanError(msg)

    @classmethod
    def _share(cls, ratio: float, rows: int, columns: int, value: object, where: str) -> Self:
        if not (0 <= ratio < 1 and 1 <= rows <= MOST and 1 <= columns <= MOST):
            msg = f"{where}: found {quote(value)}; {EXPECTED}"
            raise PlanError(msg)
        return cls("ratio", ratio=float(ratio), rows=rows, columns=columns)


def read_sparsity(value: object) -> dict[str, str]:
    """A plan's `sparsity` -> "ROLE" and "LAYER.ROLE" to a pattern's text, each as narrow as it was meant.

    Errors: `PlanError` for a pattern that is none, and for a role that is no matrix which is multiplied.
    """
    words = _words(value)
    named = sum(count_named(layers) * (len(LINEAR) if role == "all" else 1) for layers, role in map(_parts, words))
    if named > MOST_CELLS:
        msg = f"sparsity: its {len(words)} keys name {named} matrices; expected at most {MOST_CELLS}"
        raise PlanError(msg)
    cells: dict[str, str] = {}
    for width in range(NARROWEST + 1):  # the narrower key wins
        here: dict[str, str] = {}
        for key in words:
            if _narrow(key) != width:
                continue
            text = str(Pattern.parse(words[key], "sparsity" if key == "all" else f"sparsity of {quote(key)}"))
            for cell in _cells(key):
                if here.setdefault(cell, text) != text:
                    msg = f"sparsity of {cell}: found {here[cell]} and {text}; name each matrix once"
                    raise PlanError(msg)
        cells |= here
    return {cell: cells[cell] for cell in sorted(cells, key=_order) if _says(cell, cells)}


def _says(cell: str, cells: Mapping[str, str]) -> bool:
    """Whether a cell says more than the role's own does, or than nothing."""
    role = cell.rpartition(".")[2]
    return cells[cell] != (cells.get(role, "dense") if cell != role else "dense")


def show_sparsity(sparsity: Mapping[str, str]) -> str:
    """Tell it in a few words: "2:4", "2:4 in q, k, v; 0.5 in down"."""
    if whole := _whole(sparsity):
        return whole
    by_text: dict[str, dict[str, list[int]]] = {}
    for cell, text in sparsity.items():
        layer, _, role = cell.rpartition(".")
        by_text.setdefault(text, {}).setdefault(role, []).extend([int(layer)] if layer else [])
    return "; ".join(
        f"{text} in " + ", ".join(role + (f" of {show(at)}" if at else "") for role, at in roles.items())
        for text, roles in by_text.items()
    )


def _whole(sparsity: Mapping[str, str]) -> str | None:
    """The one pattern of every matrix of every layer, where it is one and nothing else is named."""
    texts = set(sparsity.values())
    return texts.pop() if len(texts) == 1 and tuple(sparsity) == LINEAR else None


def as_json(sparsity: Mapping[str, str]) -> object:
    """What stands in a plan's file."""
    return _whole(sparsity) or dict(sparsity)


def joined(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """One `sparsity` for both, in this order and of the same layers' numbers.

    Zeros chosen once stay: "stored" and "dense" change nothing of them. Errors: `PlanError` where both choose, and
    otherwise than each other.
    """
    out: dict[str, str] = {}
    for cell in sorted({*first, *second}, key=_order):
        role = cell.rpartition(".")[2]
        a, b = (of.get(cell, of.get(role)) for of in (first, second))
        text = a if b is None else b if a is None else _after(cell, a, b)
        if text is not None:
            out[cell] = text
    return read_sparsity(out)


def _after(cell: str, a: str, b: str) -> str:
    if a == b or not Pattern.parse(b).chooses:
        return a if Pattern.parse(a).chooses else b
    if not Pattern.parse(a).chooses:
        return b
    msg = f"sparsity of {cell}: the first plan makes zeros by {a}, and the second by {b} of what is left; name one"
    raise PlanError(msg)


def _words(value: object) -> dict[str, Any]:
    """Key -> pattern, not read yet."""
    if isinstance(value, dict) and "block" not in value:
        if any(not isinstance(key, str) for key in value):
            msg = f"sparsity: found {quote(value)}; expected texts for keys: a role, layers, or both as 0-2.down"
            raise PlanError(msg)
        return dict(value)
    if not isinstance(value, str) or not re.search("[,=]", value):
        return {"all": value}
    words: dict[str, Any] = {}
    for word in value.split(","):
        key, _, pattern = word.strip().rpartition("=")
        if (key or "all") in words:
            msg = f"sparsity: {quote(key or 'all')} is named twice in {quote(value)}"
            raise PlanError(msg)
        words[key or "all"] = pattern
    return words


def _cells(key: str) -> tuple[str, ...]:
    """What a key names: "ROLE" or "LAYER.ROLE", each."""
    layers, role = _parts(key)
    roles = LINEAR if role == "all" else (role,)
    if role not in (*LINEAR, "head", "all") or (role == "head" and layers):
        why = " (its rows are looked up, not multiplied)" if role in ("embed", "positions") else ""
        msg = f"sparsity: {quote(key)} is no matrix that can be sparse{why}; expected some of {', '.join(LINEAR)}, head"
        raise PlanError(msg)
    if not layers:
        return roles
    indices = read_indices(layers, f"sparsity of {quote(key)}")
    if not indices or indices[-1] >= MOST_LAYERS:
        msg = f"sparsity: {quote(key)} names no layer; expected for instance 3.down or 0-2.down"
        raise PlanError(msg)
    return tuple(f"{i}.{r}" for i in indices for r in roles)


def _parts(key: str) -> tuple[str, str]:
    """A key's layers, "" where it names none, and its role."""
    layers, dot, role = key.rpartition(".")
    return (key, "all") if not dot and key[:1].isdecimal() else (layers, role)


def _narrow(key: str) -> int:
    """How narrow a key is: all, a role, layers, a role of layers."""
    return 0 if key == "all" else 2 + ("." in key) if key[:1].isdecimal() else 1


def _order(cell: str) -> tuple[int, int]:
    """Roles first, then layer by layer."""
    layer, _, role = cell.rpartition(".")
    return int(layer) if layer else -1, (*LINEAR, "head").index(role)
