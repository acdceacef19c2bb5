"""How well a model predicts a text: its perplexity.

ppl = exp(-1/N sum_i log p(id_i | window so far)). The ids are cut into windows of W predictions: window j feeds ids
[jW, jW + W) and is asked for ids [jW + 1, jW + W]; neighbours share one id, so that every id but the first is predicted
once. Nothing before a window is seen: one number, the same for every machine and thread count, but greater than with
an overlapping stride. Bits per byte are the same sum in bits over the bytes of the text predicted.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from .dataclass import dataclass
from .errors import InputError, shown
from .runtime.floats import usual_floats
from .runtime.logprobs import LogProbs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .arrays import Arrays
    from .runtime.spec import Config

__all__ = ["Perplexity", "check_predicts", "losses", "measured", "row_losses"]


@dataclass(frozen=True)
class Perplexity:
    """How well a text is predicted, in windows of `window` predictions; `n_tokens` of them in all.

    `ppl`: exp of `nll_per_token` (nats); `bits_per_byte`: of the text predicted.
    """

    n_tokens: int
    window: int
    nll_per_token: float
    ppl: float
    bits_per_byte: float


def check_predicts(config: Config, what: str) -> None:
    """InputError where a model predicts no next token of a text by itself, which `what` needs."""
    if config.decoder is None or config.seq2seq:
        kind = "an encoder-decoder" if config.seq2seq else "an encoder"
        msg = f"{what}: {config.family} is {kind}, which predicts no next token of a text; expected a decoder"
        raise InputError(msg)


def measured(
    model: Arrays, text: str, *, window: int = 256, tokens: int | None = None, name: str = "the text"
) -> Perplexity:
    """Measure a text.

    At most `tokens` predictions; errors call the text `name`. Errors: `InputError` for a text of fewer than two tokens,
    a window over the context, or logits that are no numbers.
    """
    check_predicts(model.config, "perplexity")
    if isinstance(window, bool | np.bool_) or not isinstance(window, Integral) or window < 1:
        msg = f"window={shown(window)}: expected an integer >= 1, predictions in a window"
        raise InputError(msg)
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
    return Perplexity(
        n_tokens=n,
        window=window,
        nll_per_token=mean,
        ppl=math.exp(mean) if mean < 700 else math.inf,  # noqa: PLR2004 - where float64's exp ends
        bits_per_byte=total / math.log(2) / size if size else math.nan,
    )


def losses(model: Arrays, ids: Sequence[int]) -> NDArray[np.float64]:
    """-log p of ids[1:], each given those before it. [T] ids -> float64 [T - 1]; vocabulary sums are exact.

    Errors: `InputError` where the logits are no numbers.
    """
    return row_losses(model.logits(ids[:-1]), ids[1:])


@usual_floats()
def row_losses(logits: NDArray[np.float32], wanted_ids: Sequence[int]) -> NDArray[np.float64]:
    """-log p of an id by each of [T, n_vocab] rows of logits: float64 [T]. Errors: as `losses`."""
    rows = enumerate(zip(logits, wanted_ids, strict=True))
    return np.array([-LogProbs(row, i, "nothing can be measured").of(wanted) for i, (row, wanted) in rows], np.float64)
