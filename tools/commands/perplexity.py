"""`miaotui perplexity`: how well a model predicts a text.

ppl = exp(-1/N sum_i log p(id_i | window so far)). The ids are cut into windows of W predictions: window j feeds ids
[jW, jW + W) and is asked for ids [jW + 1, jW + W]; neighbours share one id, so that every id but the first is predicted
once. Nothing before a window is seen: one number, the same for every machine and thread count, but greater than with
an overlapping stride. Bits per byte are the same sum in bits over the bytes of the text predicted.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from .arguments import add_limits, add_model, open_model

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...model import Model

__all__ = ["add_arguments", "losses", "main", "measure"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a text file, UTF-8")
    add_model(parser)
    parser.add_argument("--window", type=int, default=256, metavar="N", help="predictions in a window (default: 256)")
    parser.add_argument("--tokens", type=int, metavar="N", help="stop after N predictions (default: the whole file)")
    add_limits(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """Print the perplexity of a file; 0."""
    for name in ("window", "tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            msg = f"--{name} {value}: expected at least 1"
            raise InputError(msg)
    try:
        text = args.file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as e:
        msg = f"{args.file}: byte {e.start} is not UTF-8; expected a text file"
        raise InputError(msg) from e
    if args.max_context is None:
        args.max_context = args.window
    with open_model(args) as model:
        report = {"file": args.file.name, **measure(model, text, window=args.window, tokens=args.tokens)}
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print(
            f"perplexity {report['ppl']:.4f}   ({report['nll_per_token']:.5f} nats a token, "
            f"{report['bits_per_byte']:.4f} bits a byte; {report['n_tokens']} predictions in windows of {args.window})"
        )
    return 0


def measure(model: Model, text: str, *, window: int = 256, tokens: int | None = None) -> dict[str, Any]:
    """Measure a text: `n_tokens`, `window`, `nll_per_token` (nats), `ppl`, `bits_per_byte`.

    At most `tokens` predictions. Errors: `InputError` for a text of fewer than two tokens or a window over the context.
    """
    if window > model.n_context:
        msg = f"a window of {window} tokens is over the context of {model.n_context}; use a smaller --window"
        raise InputError(msg)
    ids = model.tokenizer.encode(text)
    size = len(text.encode())
    if tokens is not None and tokens + 1 < len(ids):
        ids = ids[: tokens + 1]
        size = len(model.tokenizer.decode(ids[1:]).encode())
    if len(ids) < 2:  # noqa: PLR2004 - one to start from, one to predict
        msg = f"the text has {len(ids)} tokens; expected at least 2: one to start from, one to predict"
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
    """-log p of ids[1:], each given those before it. [T] ids -> float64 [T - 1]; vocabulary sums in float64."""
    logits = model.logits(ids[:-1])
    out = np.empty(len(logits))
    for i, (row, wanted) in enumerate(zip(logits, ids[1:], strict=True)):
        z = row.astype(np.float64)
        largest = z.max()
        out[i] = largest + np.log(np.exp(z - largest).sum()) - z[wanted]
    return out
