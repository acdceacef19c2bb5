"""An assistant of a shop: the nearest entry of its list of answered questions, or a person.

    python docs/examples/customer_service.py                          # a few questions, with their answers
    python docs/examples/customer_service.py "Where is my parcel?"     # your own
    python docs/examples/customer_service.py --faq FILE "…"           # your list: JSON, [{"question", "answer"}, …]

A question's vector is compared with those of the list's questions. Below `--threshold` no answer is good enough, and
the question is handed over.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import miaotui as mt
import numpy as np
from miaotui.tools import demo
from miaotui.tools.demo.recipes import questions

ASKED = (
    "my parcl has still not arrived",
    "I would like to send the jacket back, how?",
    "Do you deliver to Iceland?",
    "the code of my voucher is refused",
    "Who won the football match last night?",
    "please recommend a good book about whales",
)
THRESHOLD = 0.6


@dataclass(frozen=True)
class Reply:
    """The nearest entry and how near it is (a cosine); without an answer, a person takes over."""

    entry: str
    nearness: float
    answer: str | None


class Assistant:
    """Answers from a list of questions and answers. Errors: those of `miaotui.load`."""

    def __init__(self, model: mt.Model, faq: list[tuple[str, str]], threshold: float = THRESHOLD) -> None:
        """`model`: gives texts their vectors."""
        self._model, self._faq, self._threshold = model, faq, threshold
        self._listed = np.asarray(model.encode([question for question, _ in faq], normalize=True))

    def reply(self, question: str) -> Reply:
        """The nearest entry's answer, if it is near enough."""
        cosines = self._listed @ np.asarray(self._model.encode(question, normalize=True))
        best = int(cosines.argmax())
        entry, answer = self._faq[best]
        return Reply(entry, float(cosines[best]), answer if cosines[best] >= self._threshold else None)


def main(argv: list[str] | None = None) -> int:
    """Answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="what a customer asks")
    parser.add_argument("--faq", type=Path, metavar="FILE", help="another list than the demo shop's")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help=f"cosine (default: {THRESHOLD})")
    args = parser.parse_args(argv)
    faq = list(questions.FAQ.values())
    if args.faq:
        faq = [(each["question"], each["answer"]) for each in json.loads(args.faq.read_text(encoding="utf-8"))]
    with mt.load(demo.path("encoder")) as model:
        assistant = Assistant(model, faq, args.threshold)
        for question in args.questions or ASKED:
            reply = assistant.reply(question)
            print(f"> {question}\n  [{reply.nearness:.2f}, {reply.entry}]")
            print(f"  {reply.answer or 'I do not know that. I pass you on to a colleague.'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
