"""`load(draft=…)`: what guesses ids ahead; for a smaller model, loading it, and whether it speaks the same ids."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BackendError, InputError, MemoryLimitError, MiaotuiError, PlanError, shown, spelled_like
from .loader.prune.plan import PrunePlan
from .runtime.engine.speculative import NGRAM, ngrams
from .tokenizing import Tokenizing

if TYPE_CHECKING:
    from collections.abc import Callable

    from .loader.lending import Lender
    from .loader.prune.options import Prune
    from .model import Model
    from .prepare import Prepared
    from .runtime.engine.drafts import Drafter
    from .runtime.engine.speculative import Begun
    from .runtime.session import Session
    from .runtime.spec import Weights

    #: What `load(draft=)` takes.
    Draft = str | os.PathLike[str] | PrunePlan | dict[str, Any]

__all__ = ["check_draft", "draft_model", "draft_part", "drafters"]

#: The draft's name in `Drafting`, whose other is `NGRAM`.
MODEL = "model"


def check_draft(draft: object, device: str) -> None:
    """What can be known before anything is opened. Errors: `InputError`, `BackendError`."""
    if draft is None or draft is False:
        return
    if not isinstance(draft, str | os.PathLike | PrunePlan | dict) or draft == "":
        msg = (
            f"draft={shown(draft)}: expected {NGRAM!r}, short forms of a plan such as 'keep-layers=0-2', or the path "
            "or hub name of a smaller model with the same vocabulary"
        )
        raise InputError(msg)
    if (
        draft != NGRAM
        and isinstance(draft, str)
        and not Path(draft).exists()
        and spelled_like(draft.lower(), [NGRAM], cutoff=0.7)
    ):
        msg = f"draft={shown(draft)}: there is no such directory; did you mean {NGRAM}?"
        raise InputError(msg)
    if device != "cpu":
        msg = f"draft={shown(draft)}: on a GPU every id is drawn by itself; use device='cpu', or leave it out"
        raise BackendError(msg)


def draft_part(draft: Draft | None) -> Prune | None:
    """The plan for the model itself that a draft is; None: it is none."""
    if draft is None or draft == NGRAM:
        return None
    return draft if _is_plan(draft) else None


def drafters(
    draft: object, session: Session, model: Model | None
) -> tuple[str, Callable[[Begun], Drafter]] | None:  # fmt: skip
    """What drafts for a session's answers; `model`: the smaller one, of such a draft."""
    if draft is None or draft is False:
        return None
    n, program = _nbytes(session.weights), session.program
    if model is not None:
        theirs = model.session
        from .runtime.draft_model import ModelDrafter  # noqa: PLC0415 - few need it

        return MODEL, partial(ModelDrafter, theirs, share=min(1.0, _nbytes(theirs.weights) / n))
    if program.early is None or session.engine is None:
        return NGRAM, ngrams
    share = sum(weight.nbytes for weight in program.early.weights) / n
    from .runtime.engine.first_layers import FirstLayers  # noqa: PLC0415 - few need it

    return MODEL, partial(FirstLayers, session.engine.early, min(1.0, share), session.n_vocab)


def _nbytes(weights: Weights) -> int:
    """What a pass reads, or more."""
    return max(1, sum(weight.nbytes for weight in weights))


def draft_model(
    draft: Draft | None, prepared: Prepared, lender: Lender, load: Callable[..., Model]
) -> Model | None:  # fmt: skip
    """The smaller model of a draft, loaded as the model is; None: the draft needs none. Errors: as of `load`.

    A plan's numbers are those of the checkpoint, whatever `prune` says; what both hold alike, the model lends
    (`lender`). Both models together keep the memory limit.
    """
    if draft is None:
        return None
    request, config, said = prepared.request, prepared.config, f"draft={shown(draft)}"
    if not config.writes or not config.lm_head:
        what = "which writes no text" if config.lm_head else "without a head"
        msg = f"{said}: {config.family} is {config.kind}, {what}; there is nothing to draft, so leave it out"
        raise InputError(msg)
    if draft == NGRAM or prepared.program.early is not None:
        return None
    limit, needed = request.limit_bytes, prepared.memory["allocated"]
    left = None if limit is None else limit - needed
    if left is not None and left < 1:
        msg = (
            f"{said}: the model itself needs {needed:,} bytes, which leaves no room for a draft under "
            f"memory_limit={limit:,}; raise it, or use draft={NGRAM!r}, which needs none"
        )
        raise MemoryLimitError(msg)
    options: dict[str, Any] = {
        "threads": request.threads,
        "cache_tokens": request.cache_tokens,
        "prefill_chunk": request.prefill_chunk,
        "kv_cache": request.kv_cache,
        "precision": request.precision if _is_plan(draft) or request.precision == "fast" else None,
        "memory_limit": left,
    }
    try:
        if _is_plan(draft):
            at = prepared.opened.place
            options |= {"quantize": request.quantize, "adapter": request.adapter, "adapters": request.adapters}
            options |= {"prune": draft, "max_context": prepared.program.n_context}
            model = load(at, options, lender)
        else:
            model = load(draft, options | {"max_context": request.max_context})
    except MiaotuiError as e:
        if e is lender.error:
            raise
        of = f" (memory_limit={limit}, of which the model itself takes {needed:,})"
        msg = f"{said}: {_as_draft(e)}{of if isinstance(e, MemoryLimitError) else ''}"
        raise type(e)(msg) from None
    try:
        _check_alike(said, model, prepared)
    except BaseException:
        model.close()
        raise
    return model


def _is_plan(draft: Draft) -> bool:
    """Whether a draft is a plan for the model itself, and not another model."""
    if isinstance(draft, PrunePlan | dict):
        return True
    return isinstance(draft, str) and "=" in draft and not Path(draft).exists()


def _as_draft(error: MiaotuiError) -> str:
    """What was said of the option `prune`, which the caller did not write."""
    text = str(error)
    return text.replace("prune=", "") if isinstance(error, PlanError | InputError) else text


def _check_alike(said: str, model: Model, prepared: Prepared) -> None:
    """InputError where drafts of one are no ids of the other."""
    draft, config = model.config, prepared.config
    if not draft.writes or not draft.lm_head or draft.seq2seq != config.seq2seq:
        wanted = "an encoder-decoder" if config.seq2seq else "a decoder with a head"
        msg = f"{said}: {draft.family} is {draft.kind}; expected {wanted}, as the model is"
        raise InputError(msg)
    if draft.n_vocab != config.n_vocab:
        msg = (
            f"{said}: its vocabulary has {draft.n_vocab} entries, the model's {config.n_vocab}; expected the same "
            f"vocabulary. draft={NGRAM!r} works with any model"
        )
        raise InputError(msg)
    own = Tokenizing(prepared.opened.directory, prepared.plan.cut)
    if (token := model.tokenizing.differs(own)) is not None:
        theirs, ours = (shown(each.tokenizer.id_to_token(token)) for each in (model.tokenizing, own))
        msg = (
            f"{said}: its token {token} is {theirs}, the model's is {ours}; expected the same vocabulary. "
            f"draft={NGRAM!r} works with any model"
        )
        raise InputError(msg)
