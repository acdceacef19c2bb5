"""Held-out perplexity of the demo model by our own forward pass: `python -m miaotui.tools.demo.held_out`."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from ...model import load
from ..perplexity import losses
from . import path
from .corpus import held_out

if TYPE_CHECKING:
    from ...model import Model

__all__ = ["main", "perplexity"]

STORIES = 200


def perplexity(model: Model, stories: list[str]) -> tuple[float, int]:
    """exp of the mean loss over every token after `<s>`, the `</s>` after each story among them; and how many."""
    total, count = 0.0, 0
    for story in stories:
        ids = [*model.tokenizer.encode(story), *model.config.eos_ids[:1]]
        total += float(losses(model, ids).sum())
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
