"""A checkpoint in, the part of it that a plan keeps out, as a checkpoint of its own: what `miaotui prune` writes."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from ..loader.config import resolve_config
from ..loader.load_plan import make_load_plan
from ..loader.open import open_model
from ..loader.prune import export
from ..loader.prune.options import select
from ..loader.prune.receipt import make_receipt
from ..loader.text.vocabulary import FILE, kept_fallback, kept_ids, kept_text
from .export import copy_along, new_directory, write_json, write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from ..loader.prune.options import Prune
    from ..loader.prune.receipt import Receipt
    from .importance.rewrite import Rewrite

__all__ = ["PLAN", "prune"]

#: The plan, in the directory that is written.
PLAN = "prune_plan.json"


def prune(
    path: str | Path,
    out: str | Path,
    wish: Prune | None,
    rewrite: Rewrite | None = None,
    *,
    adapter: str | Path | None = None,
) -> tuple[Receipt, int, str | None]:
    """Write what `wish` keeps of `path` to the new directory `out`, with `adapter` merged in, as `rewrite` says.

    The receipt, the bytes of tensors written, and why transformers will refuse it, if it will. Errors: `InputError`
    where `out` is there, `PlanError` for a plan that does not fit or cannot be written, and loading's own.
    """
    with open_model(path, adapter=adapter) as opened, new_directory(out) as made:
        chosen, checkpoint = select(wish, opened).ranked(opened), opened.checkpoint
        plan = make_load_plan(opened, cut=chosen.cut)
        left = export.left_config(opened.raw, plan) | (rewrite.config(plan) if rewrite else {})
        copy_along(opened.directory, made)
        if plan.config.decoder is None:  # which generates nothing
            (made / "generation_config.json").unlink(missing_ok=True)
        write_json(made / "config.json", left)
        if checkpoint.generation is not None and plan.config.decoder is not None:
            write_json(made / "generation_config.json", export.left_generation(checkpoint.generation, plan))
        kept = kept_ids(opened.directory)
        if kept is not None or plan.cut.vocab is not None:
            told = kept_text(plan.cut.tokens(kept), plan.cut.fallback(kept, kept_fallback(opened.directory)))
            (made / FILE).write_text(told, encoding="utf-8")
        if wish is not None:
            chosen.plan.save(made / PLAN)
        how = (rewrite.change, rewrite.shape) if rewrite else ()
        tensors = export.left_tensors(plan, checkpoint, *how)
        more = rewrite.added(plan, checkpoint, left) if rewrite else ()
        written = write_safetensors(made / "model.safetensors", chain(tensors, more), "pt")
        after = resolve_config(left, f"{out}/config.json").config
        return make_receipt(plan, opened, chosen.plan), written, export.refused_by_transformers(left, after)
