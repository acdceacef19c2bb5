"""Held-out perplexity of the demo model by our own forward pass: `python -m miaotui.tools.demo.held_out`."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import numpy as np

from ...model import load
from . import path
from .corpus import held_out

if TYPE_CHECKING:
    from ...model import Model

__all__ = ["main", "perplexity"]

STORIES = 200


def perplexity(model: Model, stories: list[str]) -> tuple[float, int]:
    """exp of the mean loss over every token after `<s>`, the `</s>` behind each story among them; and how many."""
    total, count = 0.0, 0
    for story in stories:
        ids = [*model.tokenizer.encode(story), *model.config.eos_ids[:1]]
        logits = model.logits(ids[:-1]).astype(np.float64)  # [T - 1, n_vocab]
        top = logits.max(-1, keepdims=True)
        norm = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
        total += float((norm - logits[np.arange(len(ids) - 1), ids[1:]]).sum())
        count += len(ids) - 1
    return math.exp(total / count), count


def main() -> int:
    """Print it."""
    with load(path()) as model:
        value, count = perplexity(model, held_out(STORIES))
    sys.stdout.write(f"perplexity {value:.4f} over {count} tokens of {STORIES} held-out stories\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
