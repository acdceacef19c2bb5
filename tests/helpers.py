"""What several tests share: opening a checkpoint as a session, and running the oracle on it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack
from miaotui.loader.prune.compiled import compile_plan
from miaotui.runtime.cpu import link
from miaotui.runtime.cpu.build import build
from miaotui.runtime.cpu.cache import read, write
from miaotui.runtime.forward.decoder import decoder
from miaotui.runtime.reference import Reference
from miaotui.runtime.rope import rope_tables
from miaotui.runtime.spec import Attention, FeedForward

if TYPE_CHECKING:
    from pathlib import Path

    from miaotui.loader.prune.plan import PrunePlan
    from miaotui.runtime.session import Session
    from miaotui.runtime.spec import Config, Weight, Weights


def open_weights(path: Path, quantize: str | None = None, prune: PrunePlan | None = None) -> tuple[Config, Weights]:
    """Config and weights of a directory, of what `prune` keeps."""
    opened = open_model(path)
    plan = make_load_plan(opened, quantize, compile_plan(prune, opened.config, opened.checkpoint))
    return plan.config, pack(plan, opened.checkpoint)


def oracle(config: Config, weights: Weights, ids: list[int], adapter: int = 0) -> np.ndarray:
    """float64 logits of every position, by the dynamic graph; `adapter`: the number of the text's."""
    ops = Reference(np.array(ids), 0, empty_caches(config), len(ids), adapter=adapter)
    logits = decoder(ops, config, weights, rope_tables(config, len(ids)))[1]
    assert logits is not None
    return logits


def empty_caches(config: Config) -> list[tuple[np.ndarray, np.ndarray]]:
    """The reference's caches of every layer, with nothing in them."""
    every = [sizes(config, i) for i in range(config.n_layers)]
    return [(np.zeros((0, s.n_kv_heads, s.d_head)),) * 2 for s in every]


def sizes(config: Config, layer: int | None = None) -> SimpleNamespace:
    """Heads, key/value heads, a head's width and neurons of a layer, 0 for what it lacks; or the largest of any."""
    layers = config.stack.layers if layer is None else config.stack.layers[layer : layer + 1]
    every, names = [s for each in layers for s in each], ("n_heads", "n_kv_heads", "d_head", "d_ff")
    return SimpleNamespace(**{name: max((getattr(s, name, 0) for s in every), default=0) for name in names})


def every_layer(config: Config) -> list[SimpleNamespace]:
    """`sizes` of each."""
    return [sizes(config, i) for i in range(config.n_layers)]


def attentions(config: Config) -> list[Attention]:
    """Every layer's, where it has one."""
    return [s for layer in config.stack.layers for s in layer if isinstance(s, Attention)]


def feed_forwards(config: Config) -> list[FeedForward]:
    """Every layer's, where it has one."""
    return [s for layer in config.stack.layers for s in layer if isinstance(s, FeedForward)]


def by_name(weights: Weights) -> dict[str, Weight]:
    """Every weight by its name, a tied head too."""
    return {weight.name: weight for weight in weights} | ({} if weights.head is None else {"head": weights.head.w})


def run(session: Session, ids: list[int], sizes: list[int]) -> np.ndarray:
    """Logits of every position, the ids cut into pieces of the given sizes."""
    rows, at = [], 0
    for size in sizes:
        session.step(ids[at : at + size], at, size)
        rows.append(session.logits.copy())
        at += size
    assert at == len(ids)
    return np.concatenate(rows)


def poison(session: Session) -> None:
    """NaN and garbage everywhere: nothing may survive from an earlier step."""
    arena: np.ndarray = session.backend.arena  # type: ignore[attr-defined]  # the CPU's
    arena[:] = 0xFF


def slow_kernels(cache: Path) -> Path:
    """Give a cache (as in MIAOTUI_CACHE_DIR) those kernels of the included model that take long to compile."""
    slow = ["attention_f32", "draw", "linear_bf16"]
    ours = link.cache_directory()
    assert ours is not None
    if lacking := [name for name in slow if read(ours, name) is None]:
        build(lacking, ours)  # whatever came compiled ahead
    to = cache / "miaotui" / ours.name
    to.mkdir(parents=True)
    for name in slow:
        if (data := read(ours, name)) is not None:
            write(to, name, data)
    return cache


def complaint(err: str) -> str:
    """What a command said on stderr, less its word on what it compiled: a cache may be cold."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("miaotui: compil"))
