"""How well a model predicts a text: of decoders (`miaotui.perplexity`), encoder-decoders and encoders."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..perplexity import check_predicts, losses, measured, row_losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..model import Model

__all__ = [
    "answer_losses",
    "check_predicts",
    "losses",
    "mask_of",
    "masked_losses",
    "masked_of",
    "measure",
    "row_losses",
]

#: What stands for a token that an encoder is asked for, by tokenizers' names.
MASKS = ("[MASK]", "<mask>")
#: One token of this many is masked: about the share that encoders are trained with (Devlin et al. 2018, 3.1).
EVERY = 7


def measure(
    model: Model, text: str, *, window: int = 256, tokens: int | None = None, name: str = "the text"
) -> dict[str, Any]:
    """The fields of `measured`, as a dict."""
    return asdict(measured(model, text, window=window, tokens=tokens, name=name))


def answer_losses(model: Model, pair: tuple[Sequence[int], Sequence[int]]) -> NDArray[np.float64]:
    """-log p of an encoder-decoder's answer but its first id, given those before it and what the encoder reads.

    [S] and [T] ids -> float64 [T - 1]. Errors: `InputError` where the logits are no numbers.
    """
    source, answer = pair
    return row_losses(model.logits(source, decoder_ids=answer[:-1]), answer[1:])


def mask_of(model: Model, what: str) -> int:
    """The id that stands for a token that an encoder is asked for, which `what` needs.

    Errors: `InputError` for a model that cannot be asked.
    """
    mask = next((i for name in MASKS if (i := model.tokenizer.token_to_id(name)) is not None), None)
    headless = model.config.head is None or model.config.head.kind != "masked_lm"
    if headless or mask is None:
        lacks = "it has no masked-LM head" if headless else f"its tokenizer has none of {', '.join(MASKS)}"
        msg = f"{what}: {model.config.family} is {model.config.kind}, which is asked for masked tokens, but {lacks}"
        raise InputError(msg)
    return mask


def masked_of(ids: Sequence[int]) -> range:
    """Which of [T] ids an encoder is asked for."""
    return range(EVERY // 2, len(ids), EVERY)


def masked_losses(model: Model, ids: Sequence[int]) -> NDArray[np.float64]:
    """-log p of every seventh of [T] ids, all of which are masked at once: float64 [T], 0 for the others.

    Errors: `InputError` for a model that cannot be asked, and where the logits are no numbers.
    """
    mask, asked = mask_of(model, "masked tokens"), masked_of(ids)
    logits = model.logits([mask if i in asked else token for i, token in enumerate(ids)])
    out = np.zeros(len(ids))
    out[list(asked)] = row_losses(logits[list(asked)], [ids[i] for i in asked])
    return out
