"""A text for capp-gpt2, whose own texts are not at hand: drawn parts, and what the model itself answers.

    python -m miaotui.tools.studies.process_plans MODEL [COUNT] [--seed N] > plans.txt

A part is six attributes (geometry, holes, threads, finish, tolerance, batch), each drawn at random from the
vocabulary's; after <SOS> the model's plan for it is sampled at temperature 1 up to <EOS>. Tokens are spelled as the
vocabulary spells them, with | between, a part a line: the tokenizer gives the same ids back. As the text is the model's
own, a cut is not to be expected to be better at it than the model is: it tells cuts apart, not how good the model is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ...model import load
from ..bench.shared import print_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...model import Model

__all__ = ["ATTRIBUTES", "main", "plans"]

ATTRIBUTES = ("geometry_", "holes_", "external_threads_", "surface_finish_", "tolerance_", "batch_size_")
SOS, LONGEST = "<SOS>", 48


def plans(model: Model, count: int, seed: int = 0) -> Iterator[str]:
    """Spell `count` parts with their plans. Errors: `InputError` for another model's tokenizer."""
    t, rng = model.tokenizer, np.random.default_rng(seed)
    words = [t.id_to_token(i) or "" for i in range(model.config.n_vocab)]
    kinds = [[i for i, word in enumerate(words) if word.startswith(kind)] for kind in ATTRIBUTES]
    start = t.token_to_id(SOS)
    if start is None or not all(kinds):
        msg = f"the tokenizer has no {SOS} or lacks some of {', '.join(ATTRIBUTES)}; expected capp-gpt2's"
        raise InputError(msg)
    for n in range(count):
        part = [int(rng.choice(kind)) for kind in kinds] + [start]
        plan = model.generate(part, max_new_tokens=LONGEST, temperature=1.0, seed=seed * count + n).ids
        yield "|".join(words[i] for i in (*part, *plan))


def main(argv: Sequence[str] | None = None) -> int:
    """Print them, a part and its plan a line; 0."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.studies.process_plans", description="plans")
    parser.add_argument("model", type=Path, metavar="MODEL", help="capp-gpt2's directory")
    parser.add_argument("count", type=int, nargs="?", default=300, metavar="COUNT")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args(argv)
    with load(args.model) as model:
        print_out("\n".join(plans(model, args.count, args.seed)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
