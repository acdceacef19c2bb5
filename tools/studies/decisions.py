"""How options are best compared by a model that writes, and what a further question costs. JSON.

    python -m miaotui.tools.studies.decisions [--questions N] [--model PATH] [--out FILE]

First, held-out questions of the included chat model, each with its answer and three others about the same person: how
often the right one is likeliest by the sum and by the mean of its log-probabilities, by how much the paragraph adds to
the sum, and by the letters of options that are listed in the prompt. Then, with --model, the seconds of a request of
one question and of eight about a state of some 400 tokens; medians of five, by turns.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ...model import load
from .. import demo
from ..bench.roofline import machine, versions
from ..bench.shared import public_command
from ..decisions.prompting import Prompting
from ..decisions.prompts import lettered
from ..decisions.questions import Question, questions_of
from ..decisions.reading import reader_of
from ..demo.recipes import talks

if TYPE_CHECKING:
    from ...model import Model

OTHERS, LETTERS, ROUNDS, MANY, STATE, FEWEST = 3, "ABCD", 5, 8, 400, 50


def ways(model: Model, n: int) -> dict[str, float]:
    """The share of questions whose right answer is likeliest, by each way."""
    asked, values_of = [talk for talk in talks.held_out(n) if talk.kind != "who"], dict[str, set[str]]()
    for talk in asked:
        values_of.setdefault(talk.kind, set()).add(talk.answer.partition(" ")[2])
    told = [talk for talk in asked if len(values_of[talk.kind]) > OTHERS]
    rng, prompting = random.Random(0), Prompting(model)  # noqa: S311 - an order, not secrets
    right = dict.fromkeys(("sum", "mean", "what the paragraph adds", "letters"), 0)
    for talk in told:
        name, _, value = talk.answer.partition(" ")
        answers = [*rng.sample(sorted(values_of[talk.kind] - {value}), OTHERS), value]
        rng.shuffle(answers)
        at, question = answers.index(value), talk.sheet.question
        options = [model.tokenizer.encode(f" {name} {each}", add_special_tokens=False) for each in answers]
        made = model.score(prompting.prompt(f"{talk.sheet.text} {question}")[0], options)
        before = model.score(prompting.prompt(question)[0], options)
        listed = Question("choice", question, tuple(f"{name} {each}" for each in answers), ("",) * len(answers))
        prompt = lettered(talk.sheet.text, listed, LETTERS, range(len(answers)))
        letters = [model.tokenizer.encode(f" {letter}", add_special_tokens=False) for letter in LETTERS]
        by = {
            "sum": [score.sum for score in made],
            "mean": [score.mean for score in made],
            "what the paragraph adds": [a.sum - b.sum for a, b in zip(made, before, strict=True)],
            "letters": [score.sum for score in model.score(prompting.prompt(prompt)[0], letters)],
        }
        for way, likely in by.items():
            right[way] += likely.index(max(likely)) == at
    return {"questions": len(told)} | {way: round(count / len(told), 3) for way, count in right.items()}


def seconds(model: Model) -> dict[str, float]:
    """Of a request of one question, and of eight."""
    reader, rng, taken = reader_of(model), random.Random(0), {1: list[float](), MANY: list[float]()}  # noqa: S311 - as above
    for _ in range(ROUNDS):
        for n, times in taken.items():
            state = "".join(rng.choice("abcdefghij ") for _ in range(STATE))
            asked = {f"q{i}": {"type": "noul", "instructions": f"Does it say {rng.random()}?"} for i in range(n)}
            questions = questions_of(asked).values()
            began = time.perf_counter()
            for question in questions:
                reader.read(state, question)
            times.append(time.perf_counter() - began)
    one, many = (statistics.median(times) for times in taken.values())
    return {"one": round(one, 3), "eight": round(many, 3), "ratio": round(many / one, 2)}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.studies.decisions")
    parser.add_argument("--questions", type=int, default=200, metavar="N", help="held-out questions (default: 200)")
    parser.add_argument("--model", metavar="PATH", help="whose seconds are measured")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the record here too")
    args = parser.parse_args()
    if args.questions < FEWEST:
        parser.error(
            f"--questions {args.questions}: expected {FEWEST} at least, so that each kind has others to choose from"
        )
    with load(demo.path("chat"), cache_tokens=4096) as model:
        command = public_command("python -m miaotui.tools.studies.decisions", sys.argv)
        told: dict[str, object] = {"command": command, "machine": machine(), "versions": versions()}
        told["right"] = ways(model, args.questions)
    if args.model:
        with load(args.model, max_context=2048, cache_tokens=8192) as model:
            told["seconds"] = seconds(model)
    print(json.dumps(told, indent=1))
    if args.out:
        args.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
