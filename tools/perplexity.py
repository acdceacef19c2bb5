"""How well a model predicts a text: its perplexity.

ppl = exp(-1/N sum_i log p(id_i | window so far)). The ids are cut into windows of W predictions: window j feeds ids
[jW, jW + W) and is asked for ids [jW + 1, jW + W]; neighbours share one id, so that every id but the first is predicted
once. Nothing before a window is seen: one number, the same for every machine and thread count, but greater than with
an overlapping stride. Bits per byte are the same sum in bits over the bytes of the text predicted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..runtime.sampling import not_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..model import Model
    from ..runtime.spec import Config

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


def check_predicts(config: Config, what: str) -> None:
    """InputError where a model predicts no next token of a text by itself, which `what` needs."""
    if config.decoder is None or config.seq2seq:
        kind = "an encoder-decoder" if config.seq2seq else "an encoder"
        msg = f"{what}: {config.family} is {kind}, which predicts no next token of a text; expected a decoder"
        raise InputError(msg)


def measure(
    model: Model, text: str, *, window: int = 256, tokens: int | None = None, name: str = "the text"
) -> dict[str, Any]:
    """Measure a text: `n_tokens`, `window`, `nll_per_token` (nats), `ppl`, `bits_per_byte`.

    At most `tokens` predictions; errors call the text `name`. Errors: `InputError` for a text of fewer than two tokens,
    a window over the context, or logits that are no numbers.
    """
    check_predicts(model.config, "perplexity")
    if window > model.n_context:
        msg = f"window={window}: more than the context of {model.n_context}; use a smaller one"
        raise InputError(msg)
    ids = model.tokenizer.encode(text)
    size = len(text.encode())
    if tokens is not None and tokens + 1 < len(ids):
        ids = ids[: tokens + 1]
        size = len(model.tokenizer.decode(ids[1:]).encode())
    if len(ids) < 2:  # noqa: PLR2004 - one to start from, one to predict
        msg = f"{name}: too short: {len(ids)} of at least 2 tokens, one to start from and one to predict"
        raise InputError(msg)
    total = math.fsum(
        float(x) for at in range(0, len(ids) - 1, window) for x in losses(model, ids[at : at + window + 1])
    )
    n = len(ids) - 1
    mean = total / n
    return {
        "n_tokens": n,
        "window": window,
        "nll_per_token": mean,
        "ppl": math.exp(mean) if mean < 700 else math.inf,  # noqa: PLR2004 - where float64's exp ends
        "bits_per_byte": total / math.log(2) / size if size else math.nan,
    }


def losses(model: Model, ids: Sequence[int]) -> NDArray[np.float64]:
    """-log p of ids[1:], each given those before it. [T] ids -> float64 [T - 1]; vocabulary sums in float64.

    Errors: `InputError` where the logits are no numbers.
    """
    return row_losses(model.logits(ids[:-1]), ids[1:])


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


def row_losses(logits: NDArray[np.float32], wanted_ids: Sequence[int]) -> NDArray[np.float64]:
    """-log p of an id by each of [T, n_vocab] rows of logits: float64 [T]. Errors: as `losses`."""
    out = np.empty(len(logits))
    for i, (row, wanted) in enumerate(zip(logits, wanted_ids, strict=True)):
        z = row.astype(np.float64)
        largest = z.max()
        if not np.isfinite(largest):  # NaN, or infinity less infinity
            raise not_numbers(i, "nothing can be measured")
        out[i] = largest + np.log(np.exp(z - largest).sum()) - z[wanted]
    return out
