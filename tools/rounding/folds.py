"""Where a matrix's inputs can be scaled and nothing else changes: W diag(s), and what makes the input is divided by s.

| place      | matrices that read it  | what is divided                                             |
|------------|------------------------|-------------------------------------------------------------|
| `attn_in`  | q, k, v                | the norm before them, weight and bias                       |
| `ffn_in`   | gate, up               | the norm before them                                        |
| `cross_in` | cross_q                | the norm before it                                          |
| `attn_out` | o                      | rows of v and its bias: a sum of values, weighted           |
| `cross_out`| cross_o                | rows of cross_v                                             |
| `ffn_out`  | down, an expert's too  | rows of up: a gate multiplies them, or ReLU follows         |
| the head   | head                   | the last norm                                               |

Two halves that read one norm are scaled alike. A place is left as it is where no norm stands before it, or one without
gains; where another activation stands between, or a clipping; where a matrix that would be changed is not quantised,
since its dtype rounds; and where others read the same (a router, an encoder's output, an embedding that is the head).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...dataclass import dataclass
from ...loader.roles import role_of
from ...runtime.spec import Attention, FeedForward
from ..importance.calibrate import seen_as

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ...loader.load_plan import LoadPlan
    from ...loader.source import Source

    Sources = Mapping[str, Source]

__all__ = ["Fold", "folds_of"]


@dataclass(frozen=True)
class Fold:
    """`readers`: matrices whose columns are multiplied by s; `vectors`, and the rows of `rows`, are divided by it.

    All by name. `each`: of `rows`, how many columns of the reader in a row stand for one of its rows, `d` rows a head:
    queries that share a value. `place`: where the statistics of what the readers read are kept.
    """

    place: str
    readers: tuple[str, ...]
    vectors: tuple[str, ...]
    rows: str | None = None
    each: int = 1
    d: int = 1

    def columns(self, k: int) -> NDArray[np.int64]:
        """Of each of the k columns, which number of s is its own."""
        j = np.arange(k)
        return j // (self.d * self.each) * self.d + j % self.d


def folds_of(plan: LoadPlan) -> tuple[list[Fold], list[str]]:
    """Every place that can be scaled; and those that cannot as "layers.3.ffn_out", "head"."""
    found: dict[str, Fold | None] = {}
    for part in (plan, *(() if plan.encoder is None else (plan.encoder,))):
        seen = set[int]()
        for sizes, sources in zip(part.config.stack.layers, part.layers, strict=True):
            if id(sources) not in seen:  # a layer that runs twice is one
                seen.add(id(sources))
                found |= _of_layer(sizes, sources)
    found |= _of_head(plan)
    return [fold for fold in found.values() if fold is not None], [at for at, fold in found.items() if fold is None]


#: A half's norm -> the matrices that read it.
READ = {"attn_norm": ("q", "k", "v"), "cross_norm": ("cross_q",), "ffn_norm": ("gate", "up")}


def _of_layer(sizes: tuple[Attention | FeedForward, ...], sources: Sources) -> dict[str, Fold | None]:
    found: dict[str, Fold | None] = {}
    routed = any(isinstance(s, FeedForward) and s.experts is not None for s in sizes)
    norms: dict[str, list[str]] = {}  # by the tensor that they are
    for norm, readers in READ.items():
        there = [sources[r].name for r in readers if r in sources]
        if norm in sources:
            norms.setdefault(sources[norm].tensor.name, []).append(norm)
        elif there:
            found[seen_as(there[0])] = None
    for roles in norms.values():
        found |= _normed(roles, sources, fits=not (routed and "ffn_norm" in roles))
    for s in sizes:
        if isinstance(s, Attention):
            v, o = (f"cross_{r}" if s.cross else r for r in "vo")
            fits = s.clip is None
            found |= _made(v, o, sources, fits=fits, each=s.n_heads // s.n_kv_heads, d=s.d_head)
            continue
        fits = s.gated or s.activation == "relu"
        for down in (key for key in sources if role_of(key) in ("down", "expert_down", "shared_down")):
            found |= _made(down.removesuffix("down") + "up", down, sources, fits=fits)
    return found


def _normed(roles: list[str], sources: Sources, *, fits: bool) -> dict[str, Fold | None]:
    """What reads one norm, under its one or two roles."""
    readers = [sources[r] for norm in roles for r in READ[norm] if r in sources]
    if not readers:
        return {} if fits else {sources[roles[0]].name.rpartition(".")[0] + ".ffn_in": None}
    place = seen_as(readers[0].name)
    if not fits or not all(reader.quantizes for reader in readers):
        return {place: None}
    vectors = [sources[key].name for norm in roles for key in (norm, f"{norm}_bias") if key in sources]
    return {place: Fold(_kept(place), tuple(reader.name for reader in readers), tuple(vectors))}


def _made(  # noqa: PLR0913 - keywords
    of: str, by: str, sources: Sources, *, fits: bool, each: int = 1, d: int = 1
) -> dict[str, Fold | None]:
    """Matrix `by` reads what the rows of `of` make."""
    if by not in sources:
        return {}
    place = seen_as(sources[by].name)
    if not fits or of not in sources or not (sources[by].quantizes and sources[of].quantizes):
        return {place: None}
    bias = [sources[f"{of}_bias"].name] if f"{of}_bias" in sources else []
    return {place: Fold(_kept(place), (sources[by].name,), tuple(bias), sources[of].name, each, d)}


def _kept(place: str) -> str:
    """Where a stack's own statistics have it: "encoder.layers.0.attn_in" -> "layers.0.attn_in"."""
    return place[place.index("layers.") :]


def _of_head(plan: LoadPlan) -> dict[str, Fold | None]:
    """A decoder's product with the vocabulary."""
    head, norm = plan.model.get("head"), plan.model.get("norm")
    if plan.config.decoder is None or plan.config.head is not None or not plan.config.lm_head:
        return {}
    if head is None or norm is None or not head.quantizes or "head_dense" in plan.model:
        return {"head": None}
    vectors = [plan.model[key].name for key in ("norm", "norm_bias") if key in plan.model]
    return {"head": Fold("head", (head.name,), tuple(vectors))}
