"""A shop's assistant: the nearest entry of its list of answered questions (FAQ), or a person. See README.md."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import miaotui as mt
import numpy as np
from miaotui.errors import InputError, MiaotuiError
from miaotui.tools import demo
from miaotui.tools.demo.corpus import stories
from miaotui.tools.demo.recipes import questions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    #: What finds the words that answer in a text, as `mt.pipeline("question-answering")` does.
    Reader = Callable[..., dict[str, object]]

ASKED = (
    "my parcl has still not arrived",
    "I would like to send the jacket back, how?",
    "Do you deliver to Iceland?",
    "the code of my voucher is refused",
    "how many years of warranty does the toaster have?",
    "Bluewater shares slide after weak winter sales",
    "who won the football match last night?",
)
THRESHOLD = 0.75  # cosine
SURE = 0.98  # score of a reader's words, from which on they are shown
HELD_OUT = 300


@dataclass(frozen=True)
class Reply:
    """The nearest entry, how near it is (a cosine), its answer and the words of it that matter.

    Without an answer a person takes over.
    """

    entry: str
    nearness: float
    answer: str | None
    words: str = ""


class Assistant:
    """Answers from a list of questions and answers."""

    def __init__(
        self,
        encoder: mt.Model,
        faq: Sequence[tuple[str, str]],
        threshold: float = THRESHOLD,
        reader: Reader | None = None,
    ) -> None:
        """`encoder`: gives texts their vectors; `reader`: marks the words of an answer that matter."""
        self._encoder, self._faq, self._threshold, self._reader = encoder, faq, threshold, reader
        self._listed = np.asarray(encoder.encode([question for question, _ in faq], normalize=True))

    def replies(self, asked: Sequence[str]) -> list[Reply]:
        """The answers of the nearest entries that are near enough; all questions in one pass."""
        cosines = np.asarray(self._encoder.encode(asked, normalize=True)) @ self._listed.T
        return [self._reply(question, row) for question, row in zip(asked, cosines, strict=True)]

    def _reply(self, question: str, cosines: np.ndarray) -> Reply:
        best = int(cosines.argmax())
        entry, answer = self._faq[best]
        nearness = float(cosines[best])
        if nearness < self._threshold:
            return Reply(entry, nearness, None)
        if self._reader is None:
            return Reply(entry, nearness, answer)
        said = self._reader(question=question, context=answer)
        return Reply(entry, nearness, answer, str(said["answer"]) if float(str(said["score"])) >= SURE else "")


def read_faq(path: Path) -> list[tuple[str, str]]:
    """A list of answered questions: JSON, `[{"question": …, "answer": …}, …]`. Errors: `InputError`."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        faq = [(entry["question"], entry["answer"]) for entry in entries]
    except OSError as error:
        msg = f"--faq {path}: cannot be read ({error.strerror})"
        raise InputError(msg) from error
    except (ValueError, KeyError, TypeError) as error:
        msg = f'--faq {path}: {error!r}; expected a JSON file, [{{"question": "…", "answer": "…"}}, …]'
        raise InputError(msg) from error
    if not faq or not all(isinstance(text, str) and text for entry in faq for text in entry):
        msg = f"--faq {path}: expected one entry at least, each with a question and an answer that are texts"
        raise InputError(msg)
    return faq


def located(model: str) -> str | Path:
    """A directory or hub name as it is; of an included model, where it lies."""
    return demo.path(model) if model in demo.NAMES and not Path(model).exists() else model


def report(assistant: Assistant, n: int = HELD_OUT) -> str:
    """How it does with the demo shop's list on `n` questions in words that training lacks, and on stories."""
    texts, entries = zip(*questions.held_out(n), strict=True)
    wanted = [questions.FAQ[entry][1] for entry in entries]
    answers = [reply.answer for reply in assistant.replies(texts)]
    right = sum(answer == want for answer, want in zip(answers, wanted, strict=True))
    passed = answers.count(None)
    told = [story.split(". ")[1] for story in itertools.islice(stories(1), n)]
    strange = [reply.answer for reply in assistant.replies(told)]
    return (
        f"{n} questions in new words: {right} answered right, {n - right - passed} wrong, {passed} passed on to a "
        f"person\n{n} sentences of stories: {strange.count(None)} passed on\n"
    )


def shown(question: str, reply: Reply) -> str:
    """A question with its reply, as it is printed."""
    bar = "█" * round(10 * max(reply.nearness, 0))
    lines = [f"> {question}", f"  {bar:░<10} {reply.nearness:.2f}  {reply.entry}"]
    lines += [f"  ! {reply.words}"] if reply.words else []
    return "\n".join([*lines, f"  {reply.answer or '→ I do not know that. I pass you on to a colleague.'}", ""])


def main(argv: list[str] | None = None) -> int:
    """Answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="what a customer asks (default: a few)")
    parser.add_argument("--faq", type=Path, metavar="FILE", help="another list of answered questions, JSON")
    parser.add_argument("--model", default="encoder", help="what gives vectors (default: encoder, which is included)")
    parser.add_argument(
        "--reader",
        metavar="MODEL",
        help="a question-answering model, which marks the words that matter; `answers` is the included one",
    )
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help=f"least cosine (default: {THRESHOLD})")
    args = parser.parse_args(argv)
    try:
        if not all(text.strip() for text in args.questions):
            msg = "QUESTION: a text without a word; ask something"
            raise InputError(msg)
        faq = read_faq(args.faq) if args.faq else list(questions.FAQ.values())
        with ExitStack() as opened:
            reader = mt.pipeline("question-answering", located(args.reader)) if args.reader else None
            if reader is not None:
                opened.enter_context(reader)
            encoder = opened.enter_context(mt.load(located(args.model)))
            assistant = Assistant(encoder, faq, args.threshold, reader)
            asked = args.questions or ASKED
            for question, reply in zip(asked, assistant.replies(asked), strict=True):
                print(shown(question, reply))
            if not args.questions and not args.faq:
                print(report(assistant), end="")
    except MiaotuiError as error:
        print(f"assistant: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
