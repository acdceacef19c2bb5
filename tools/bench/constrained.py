"""What it costs to hold an answer to something: per token, next to a step of SmolLM2-135M's shape; a million choices.

    python -m miaotui.tools.bench.constrained --text wiki.test.raw --out FILE

The model's weights are random (`shapes.py`); its tokenizer, of 49 152 entries, is a byte-level BPE trained on the
text. Held and free answers of as many tokens, sampled alike, are generated alternately; what counts is the ratio of
their seconds per token, pair by pair. The mask's own cost is measured on the ids that came, in seconds
of CPU (other work does not count): to go on with an id, and to fill the next mask; next to a step's, a thread's share
of it. The names of `--choices` are words of the text, two or three at random: as many as asked for.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from ...errors import InputError
from ...loader.files import read_text
from ...loader.text.choices import Choices
from ...model import load
from .roofline import machine, versions
from .shapes import make_checkpoint
from .shared import paired, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...model import Model
    from ...runtime.constraints import Constraint

__all__ = ["main", "names", "trained"]

ENTRIES = 49_152
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["new", "regular", "former", "unknown"]}, "maxItems": 3},
        "note": {"type": "string"},
    },
    "required": ["name", "age", "tags", "note"],
    "additionalProperties": False,
}
LIST = 'root ::= item+\nitem ::= "- " [a-zA-Z ]+ ": " [0-9]+ ("." [0-9]+)? "\\n"'
HELD: dict[str, dict[str, Any]] = {
    "schema": {"schema": {"type": "array", "items": PERSON, "minItems": 60}},
    "grammar": {"grammar": LIST},
    "regex": {"regex": "([A-Z][a-z]+ ){200,}"},
}


def trained(text: str, directory: Path) -> None:
    """A byte-level BPE of a text as tokenizer.json, filled up with pairs of its tokens, which no text needs."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet, end = tokenizers.pre_tokenizers.ByteLevel.alphabet(), ["<|endoftext|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=ENTRIES, special_tokens=end, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(text.splitlines(), trainer)
    file = json.loads(made.to_str())
    vocab, rng = file["model"]["vocab"], random.Random(0)  # noqa: S311 - tokens, the same each time
    known = [token for token in vocab if token not in end]
    while len(vocab) < ENTRIES:
        vocab.setdefault("".join(rng.choices(known, k=2)), len(vocab))
    (directory / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")


def names(text: str, n: int) -> list[str]:
    """Names, no two alike. `InputError`: the text has too few words."""
    words = sorted({word for word in text.split() if word.isalpha()})
    if len(words) ** 2 < 4 * n:
        msg = f"--text: {len(words)} words, too few for {n} names"
        raise InputError(msg)
    rng, made = random.Random(0), dict[str, None]()  # noqa: S311 - names, the same each time
    while len(made) < n:
        made[" ".join(rng.choices(words, k=rng.randint(2, 3)))] = None
    return list(made)


def mask_cost(constraint: Constraint, model: Model, before: list[int], ids: list[int]) -> dict[str, float]:
    """Microseconds of CPU for each id of an answer: to go on with it, and to fill the next mask."""
    walk, spent, forced = constraint.begin(before, model.config.n_vocab), list[float](), 0
    walk.fill()
    for token in ids:
        began = time.thread_time()
        walk.advance(token)
        mask, may_end = walk.fill()
        spent.append(1e6 * (time.thread_time() - began))
        forced += not may_end and np.bitwise_count(mask).sum() == 1
    low, middle, high = np.quantile(spent, (0.5, 0.9, 0.99))
    return {
        "n": len(spent),
        "forced": forced / max(1, len(spent)),
        "mean": float(np.mean(spent)),
        "median": low,
        "p90": middle,
        "p99": high,
    }


def held(model: Model, constraint: Constraint, n: int, rounds: int) -> dict[str, Any]:
    """Held and free answers by turns. `ratio`: of free's seconds per token to held's; below 1 holding costs."""
    prompt = model.tokenizer.encode(" The game is a")
    seconds: dict[str, list[float]] = {"held": [], "free": []}
    ids, cpu = list[int](), {"held": list[float](), "free": list[float]()}
    for i in range(rounds + 1):
        for side, how in (("held", {constraint.name: constraint}), ("free", {})):
            began = time.process_time()
            parameters: Any = {"temperature": 1.0, "seed": i, "max_new_tokens": n, "ignore_eos": True, **how}
            out = model.generate(prompt, **parameters)
            if i and len(out.ids) > 1:  # the first round is not counted
                seconds[side].append(out.timings.decode_s / (len(out.ids) - 1))
                cpu[side].append((time.process_time() - began) / model.threads / len(out.ids))
            ids = out.ids if side == "held" else ids
    cost = mask_cost(constraint, model, prompt, ids)
    step = float(np.median(cpu["free"]))
    return {
        "ratio": paired(seconds["held"], seconds["free"]),
        "cpu_ratio": paired(cpu["held"], cpu["free"]),
        "step_cpu_us": 1e6 * step,
        "mask_us": cost,
        "mask_share": cost["mean"] / (1e6 * step),
    }


def measured(model: Model, text: str, args: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    made: dict[str, Any] = {"entries": model.tokenizer.n_vocab}
    began = time.perf_counter()
    first = model.constraint(regex="a")
    made["prepare_s"] = time.perf_counter() - began
    print_out(f"vocabulary of {made['entries']} made ready for {first.name} in {made['prepare_s']:.2f} s")
    for name, what in HELD.items():
        began = time.perf_counter()
        constraint = model.constraint(**what)
        compile_s = time.perf_counter() - began
        made[name] = {"compile_s": compile_s, **held(model, constraint, args.tokens, args.rounds)}
        said = made[name]
        print_out(
            f"{name:8} compiled in {1e3 * compile_s:.1f} ms; mask {said['mask_us']['mean']:.0f} us a token (p99 "
            f"{said['mask_us']['p99']:.0f}), {100 * said['mask_share']:.1f} % of a step; "
            f"{100 * said['mask_us']['forced']:.0f} % of ids are forced; held answers run at "
            f"{said['ratio']['median']:.3f} of the free ones' speed ({said['cpu_ratio']['median']:.3f} by CPU time)"
        )
    made["choices"] = chosen(model, names(text, args.choices))
    return made


def chosen(model: Model, texts: list[str]) -> dict[str, Any]:
    """Names as choices: seconds to prepare, bytes, and microseconds a token of random ways through them."""
    began, cpu = time.perf_counter(), time.process_time()
    choices = Choices(texts, model.tokenizer)
    made: dict[str, Any] = {"n": len(choices), "prepare_s": time.perf_counter() - began}
    made |= {"prepare_cpu_s": time.process_time() - cpu, "bytes": choices.nbytes}
    spent, rng = list[float](), random.Random(1)  # noqa: S311 - which names
    for text in rng.sample(texts, 200):
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        cost = mask_cost(choices, model, [1], ids)
        spent.append(cost["mean"])
    made["mask_us"] = float(np.mean(spent))
    print_out(
        f"choices  {made['n']} in {made['prepare_s']:.2f} s ({made['prepare_cpu_s']:.2f} s of CPU), "
        f"{made['bytes'] / 1e6:.0f} MB; mask {made['mask_us']:.0f} us a token"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; 0."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.constrained", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="what the tokenizer is trained on")
    parser.add_argument("--shape", default="smollm2-135m", help="the model's (default: smollm2-135m)")
    parser.add_argument("--dtype", default="bf16", choices=("f32", "bf16"), help="the model's (default: bf16)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--tokens", type=int, default=160, metavar="N", help="of each answer (default: 160)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="pairs of answers (default: 5)")
    parser.add_argument("--choices", type=int, default=1_000_000, metavar="N", help="names (default: a million)")
    parser.add_argument("--only-choices", action="store_true", help="measure these alone")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args(argv)
    text = read_text(args.text, InputError)
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder), args.shape, args.dtype)
        trained(text, Path(folder))
        with load(folder, threads=args.threads, max_context=512) as model:
            if args.only_choices:
                made = {"entries": model.tokenizer.n_vocab, "choices": chosen(model, names(text, args.choices))}
            else:
                made = measured(model, text, args)
    record = {
        "command": public_command(
            "python -m miaotui.tools.bench.constrained", ["", *(sys.argv[1:] if argv is None else argv)]
        ),
        "machine": machine(),
        "versions": versions(),
        "shape": args.shape,
        "dtype": args.dtype,
        "threads": args.threads,
        **made,
    }
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
