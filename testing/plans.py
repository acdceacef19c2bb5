"""Pruning plans that fit a model, drawn: `strategies.prune_plans`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from ..loader.prune.plan import PrunePlan

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

    from ..runtime.spec import Config

__all__ = ["CUTS", "prune_plans", "some"]

#: Kinds of cut: whole layers, heads, neurons, one of a layer's two halves, entries of the vocabulary, columns.
CUTS = ("layers", "heads", "ffn", "halves", "vocab", "width")


def some(n: int) -> SearchStrategy[tuple[int, ...]]:
    """At least one of 0 .. n - 1, ascending."""
    return st.sets(st.integers(0, n - 1), min_size=1).map(lambda got: tuple(sorted(got)))


@st.composite
def prune_plans(draw: DrawFn, config: Config, cuts: frozenset[str] | None = None) -> PrunePlan:
    """A plan that fits `Model.config` of a decoder; `cuts`: of these kinds of `CUTS`, drawn where None."""
    cuts = draw(st.frozensets(st.sampled_from(CUTS))) if cuts is None else cuts
    layers = draw(some(config.n_layers)) if "layers" in cuts else None
    heads: dict[int, tuple[int, ...]] = {}
    ffn: dict[int, tuple[int, ...]] = {}
    for i in range(config.n_layers) if layers is None else layers:
        n_heads, n_kv_heads, d_ff = (_largest(config, i, size) for size in ("n_heads", "n_kv_heads", "d_ff"))
        if "heads" in cuts and n_heads and draw(st.booleans()):
            each = n_heads // n_kv_heads
            groups, count = draw(some(n_kv_heads)), draw(st.integers(1, each))
            queries = [draw(st.permutations(range(each)))[:count] for _ in groups]
            heads[i] = tuple(sorted(g * each + q for g, kept in zip(groups, queries, strict=True) for q in kept))
        if "ffn" in cuts and d_ff and draw(st.booleans()):
            ffn[i] = draw(some(d_ff))
        if "halves" in cuts and n_heads and d_ff:
            lost = draw(st.sampled_from([None, heads, ffn]))
            if lost is not None:
                lost[i] = ()
    return PrunePlan(
        layers,
        heads,
        ffn,
        vocab=draw(some(config.n_vocab)) if "vocab" in cuts else None,
        width=draw(some(config.d_model)) if "width" in cuts else None,
    )


def _largest(config: Config, layer: int, size: str) -> int:
    """Of a layer's sublayers; 0 where it lacks one."""
    return max((getattr(s, size, 0) for s in config.stack.layers[layer]), default=0)
