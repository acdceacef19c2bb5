"""What several tests share: opening a checkpoint as a session, and running the oracle on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack
from miaotui.loader.prune.compiled import compile_plan
from miaotui.runtime.forward.decoder import decoder
from miaotui.runtime.reference import Reference
from miaotui.runtime.rope import RopeTable

if TYPE_CHECKING:
    from pathlib import Path

    from miaotui.loader.prune.plan import PrunePlan
    from miaotui.runtime.session import Session
    from miaotui.runtime.spec import Config, Weights


def open_weights(path: Path, quantize: str | None = None, prune: PrunePlan | None = None) -> tuple[Config, Weights]:
    """Config and weights of a directory, of what `prune` keeps."""
    opened = open_model(path)
    plan = make_load_plan(opened, quantize, compile_plan(prune, opened.config, opened.checkpoint))
    return plan.config, pack(plan, opened.checkpoint)


def oracle(config: Config, weights: Weights, ids: list[int]) -> np.ndarray:
    """float64 logits of every position, by the dynamic graph."""
    heads = [config.layer(i).n_kv_heads for i in range(config.n_layers)]
    caches = [(np.zeros((0, n, config.d_head)),) * 2 for n in heads]
    ops = Reference(np.array(ids), 0, caches, len(ids))
    logits: np.ndarray = decoder(ops, config, weights, RopeTable(config, len(ids)))[1]
    return logits


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
    session.arena[:] = 0xFF
