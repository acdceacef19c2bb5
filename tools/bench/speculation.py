"""Exact speculation: decoding with drafts against decoding without, in turns, on a trained model.

    python -m miaotui.tools.bench.speculation --model GEMMA --out docs/benchmarks/speculation-gemma3-270m.json

Each pair decodes the same prompt greedily with and without a draft, on one loaded model; both must give the same ids.
What counts is the median over the pairs of the ratio of the seconds after the first token: over 1, the draft is faster.

    code, summary   what repeats itself: a class that follows another, an article's sentences again
    prose           a story, which repeats little
    wrong           drafts that never come, offered for every token: what looking for some costs

Drafts by the model's own first layers (`--depths`), or by any plan (`--plans keep-layers=0-6,16-17`), are stated with
what was accepted, and next to each what the same layers are by themselves, unchecked (an early exit): their speed, how
far their distribution is from the whole model's, the mean KL divergence over a prompt's positions in nats, and of how
many ids of the whole model's answer they say the same (`agrees`): the most that could be accepted of one guess a token.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...model import load
from .roofline import machine, versions
from .shared import paired, print_out, public_command
from .speculation_prompts import PROMPTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...model import Model
    from ...runtime.generate import Generation

__all__ = ["Wrong", "main", "measured"]

#: What n-gram drafts are asked to do, and what they may cost where nothing is accepted.
BARS = {"code": 1.4, "summary": 1.4, "wrong": 0.97}
#: Positions of a prompt over which distributions are compared.
POSITIONS = 48


class Wrong:
    """A drafter whose ids never come: the text's own, moved by one."""

    computes = False
    read_s = 0.0

    def __init__(self, n_vocab: int) -> None:
        """Of a model with such a vocabulary."""
        self._n_vocab = n_vocab

    def missing(self, ids: Sequence[int]) -> int:  # noqa: ARG002 - as of all drafters
        """None."""
        return 0

    def cost(self, n_texts: int, unit: float) -> float:  # noqa: ARG002 - as of all drafters
        """None."""
        return 0.0

    def kind(self, ids: Sequence[int]) -> int:  # noqa: ARG002 - as of all drafters
        """One alone."""
        return 0

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        """Unlikely ids."""
        return [(ids[-1 - i % len(ids)] + 1) % self._n_vocab for i in range(most)]


def compared(model: Model, prompt: str, new: int, rounds: int) -> dict[str, Any]:
    """Pairs of answers to a prompt. Errors: `InputError`: the ids differ, which no draft may cause."""
    how: dict[str, Any] = {"max_new_tokens": new, "ignore_eos": True}
    drafted: list[Generation] = []
    plain: list[Generation] = []
    model.generate(prompt, **how)  # the prompt's pages are there, and what passes take is known
    for i in range(rounds):
        for is_plain in (i % 2 == 0, i % 2 == 1):
            (plain if is_plain else drafted).append(model.generate(prompt, draft=False if is_plain else None, **how))
        if plain[-1].ids != drafted[-1].ids:
            msg = f"{prompt[:40]!r}: the answer with a draft is another; this is a fault of miaotui, please report it"
            raise InputError(msg)
    ratio = paired([g.timings.decode_s for g in drafted], [g.timings.decode_s for g in plain])
    checked = [(g.timings.n_drafted, g.timings.n_accepted) for g in drafted]
    tokens = new * rounds
    return {
        "faster": ratio,
        "tokens_per_s": {
            "plain": float(np.median([g.timings.decode_tps for g in plain])),
            "drafted": float(np.median([g.timings.decode_tps for g in drafted])),
        },
        "drafted_per_token": sum(n for n, _ in checked) / tokens,
        "accepted_per_token": sum(n for _, n in checked) / tokens,
    }


def divergence(model: Model, other: Model, prompt: str) -> float:
    """Mean KL divergence of the other's distribution from the model's, in nats, over a prompt's first positions."""
    ids = model.tokenizer.encode(prompt)[:POSITIONS]
    log_p, log_q = (_log_softmax(each.logits(ids)) for each in (model, other))
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


def agreement(model: Model, other: Model, prompt: str, new: int) -> float:
    """The share of a greedy answer's ids that the other draws too, each after the same ids."""
    answer = model.generate(prompt, max_new_tokens=new, ignore_eos=True).ids
    ids = model.tokenizer.encode(prompt)
    drawn = other.logits([*ids, *answer[:-1]])[len(ids) - 1 :].argmax(axis=1)
    return float((drawn == np.array(answer)).mean())


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each draft and prompt."""
    how: dict[str, Any] = {"threads": args.threads, "max_context": args.context, "quantize": args.quantize}
    many, few = (args.new, args.rounds), (max(2, args.new // 2), min(3, args.rounds))
    if args.ngram:
        with load(args.model, draft="ngram", **how) as model:
            for name in ("code", "summary", "prose"):
                yield {"draft": "ngram", "prompt": name, **compared(model, PROMPTS[name], *many)}
            wrong = Wrong(model.config.n_vocab)
            model.session.drafting.default = ("wrong", lambda _: wrong)
            yield {"draft": "wrong", "prompt": "prose", **compared(model, PROMPTS["prose"], *many)}
    with load(args.model, **how) as whole:
        n_layers = whole.config.n_layers
        usual = [] if args.plans else sorted({max(1, round(n_layers * part)) for part in (0.5, 0.75, 0.9)})
        for kept in (*(f"keep-layers=0-{depth - 1}" for depth in args.depths or usual), *args.plans):
            with load(args.model, prune=kept, **how) as early:
                answers = [early.generate(PROMPTS["code"], max_new_tokens=24, ignore_eos=True) for _ in range(2)]
                exits = {
                    "tokens_per_s": max(g.timings.decode_tps for g in answers),
                    "kl_nats": divergence(whole, early, PROMPTS["prose"]),
                }
                agrees = {name: agreement(whole, early, PROMPTS[name], few[0]) for name in ("code", "prose")}
            with load(args.model, draft=kept, **how) as model:
                for name in ("code", "prose"):
                    row = {"draft": kept, "of_layers": n_layers, "prompt": name, "bytes": model.memory["draft"]}
                    alone = {"early_exit": exits | {"agrees": agrees[name]}}
                    yield row | compared(model, PROMPTS[name], *few) | alone


def _said(row: dict[str, Any]) -> str:
    """A row as a line."""
    (low, high), speed, early = row["faster"]["quartiles"], row["tokens_per_s"], row.get("early_exit")
    words = [
        f"{row['draft']:18s} {row['prompt']:8s} {row['faster']['median']:.2f}x ({low:.2f} to {high:.2f})",
        f"{speed['plain']:.1f} -> {speed['drafted']:.1f} tokens/s",
        f"{row['drafted_per_token']:.2f} drafted a token, {row['accepted_per_token']:.2f} accepted",
    ]
    if early:
        words.append(f"by itself {early['tokens_per_s']:.1f} tokens/s, KL {early['kl_nats']:.2f}")
        words.append(f"agrees on {early['agrees']:.0%}")
    return ", ".join(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miaotui.tools.bench.speculation", description="decoding with drafts against decoding without"
    )
    parser.add_argument("--model", type=Path, required=True, help="a trained decoder with a tokenizer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantize", help="as of load")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--new", type=int, default=96, help="tokens of each answer; half for the depths")
    parser.add_argument("--rounds", type=int, default=5, help="pairs; at most 3 for the depths")
    parser.add_argument("--depths", type=int, nargs="*", help="layers of drafts by the model itself (default: three)")
    parser.add_argument("--plans", nargs="*", default=[], help="short forms of other drafts by the model itself")
    parser.add_argument("--no-ngram", dest="ngram", action="store_false", help="leave out all but the depths")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each row."""
    args = _parser().parse_args(argv)
    if min(args.rounds, args.new - 1, args.threads, *(args.depths or [1])) < 1:
        msg = "--rounds, --threads, --depths: expected at least 1; --new: at least 2"
        raise InputError(msg)
    command = public_command("python -m miaotui.tools.bench.speculation", sys.argv if argv is None else list(argv))
    about = {"command": command, "machine": machine(), "versions": versions(), "model": args.model.name, "bars": BARS}
    results: list[dict[str, Any]] = []
    for row in measured(args):
        results.append(row)
        print_out(_said(row))
        if args.out:  # what was measured is kept if the rest is stopped
            args.out.write_text(json.dumps(about | {"results": results}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
