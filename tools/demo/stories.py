"""Stories of the demo model's kind as one text: `python -m miaotui.tools.demo.stories N [--seed S] > FILE`.

Each is followed by `</s>` and the next one's `<s>`, which the demo's tokenizer reads as the special tokens: encoded,
the text is what a row of the training was. Seed 2 gives the held-out stories, any other but 1 (the
training's) fresh ones.
"""

from __future__ import annotations

import argparse
import itertools
import sys

from .corpus import HELD_OUT_SEED, stories
from .tokenizer import BOS, EOS

__all__ = ["main", "text"]


def text(n: int, seed: int = HELD_OUT_SEED) -> str:
    """`n` stories, joined as in training."""
    return f"{EOS}{BOS}".join(itertools.islice(stories(seed), n)) + EOS


def main(argv: list[str] | None = None) -> int:
    """Print them."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.demo.stories", description=__doc__)
    parser.add_argument("n", type=int, help="how many")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="default: 2, the held-out stories")
    args = parser.parse_args(argv)
    sys.stdout.write(text(args.n, args.seed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
