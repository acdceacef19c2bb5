"""New training texts from a few: words replaced by a masked LM, labels checked by a classifier. See README.md."""

from __future__ import annotations

import argparse
import itertools
import random
import re
import sys
from typing import TYPE_CHECKING

import miaotui as mt
from miaotui.errors import InputError, MiaotuiError
from miaotui.tools import demo
from miaotui.tools.demo.recipes import headlines
from miaotui.tools.demo.recipes.bag import Bag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miaotui.tools.pipelines.fill_mask import FillMask
    from miaotui.tools.pipelines.text_classification import TextClassification

    Labelled = list[tuple[str, str]]

WORD = re.compile(r"[A-Za-z]+")
SHORTEST = 3  # letters of a word that is put in: shorter tokens are rather beginnings of words
SHOWN = ("Bluewater profits fall after weak winter sales", "negative")
TOP = 8  # words that may stand in a hidden one's place
REDRAWN = 0.5  # share of words that a paraphrase draws again
SEEDS = 5
HELD_OUT = 400


class Augmenter:
    """Texts like others, with the same labels. `fill`: guesses hidden words; `judge`: says what a text's label is."""

    def __init__(self, fill: FillMask, judge: TextClassification, seed: int = 0) -> None:
        """`seed`: of what is drawn."""
        self._fill, self._judge, self._rng = fill, judge, random.Random(seed)  # noqa: S311 - words, not secrets

    def substituted(self, texts: Sequence[str]) -> list[str]:
        """One word of each text is hidden, and another that fits is drawn in its place."""
        return self._redrawn(texts, [self._rng.choice(_words(text)) for text in texts])

    def paraphrased(self, texts: Sequence[str]) -> list[str]:
        """Words from left to right, each in view of those that are new: Gibbs sampling (Wang and Cho 2019)."""
        for n in range(max(len(_words(text)) for text in texts)):
            chosen = [i for i, text in enumerate(texts) if n < len(_words(text)) and self._rng.random() < REDRAWN]
            new = self._redrawn([texts[i] for i in chosen], [_words(texts[i])[n] for i in chosen])
            redrawn = dict(zip(chosen, new, strict=True))
            texts = [redrawn.get(i, text) for i, text in enumerate(texts)]
        return list(texts)

    def _redrawn(self, texts: Sequence[str], words: Sequence[re.Match[str]]) -> list[str]:
        """Each text with another word in the place of one; as likely as the model says, and never the same."""
        hidden = (
            f"{text[: word.start()]}{self._fill.mask_token}{text[word.end() :]}"
            for text, word in zip(texts, words, strict=True)
        )
        new = []
        for text, word, guesses in zip(texts, words, self._fill(hidden, top_k=TOP), strict=True):
            others = [g for g in guesses if _is_word(g["token_str"]) and g["token_str"] != word[0]]
            [drawn] = self._rng.choices(others, [g["score"] for g in others]) if others else [{"token_str": word[0]}]
            new.append(f"{text[: word.start()]}{drawn['token_str']}{text[word.end() :]}")
        return new

    def kept(self, labelled: Labelled, new: Sequence[str]) -> Labelled:
        """Those new texts that the classifier gives the label of the text that they come from; none twice."""
        said = self._judge(iter(new))
        same = {text: want for (_, want), text, got in zip(labelled, new, said, strict=True) if got["label"] == want}
        return [(text, label) for text, label in same.items() if text not in dict(labelled)]

    def grown(self, labelled: Labelled, rounds: int) -> Labelled:
        """The labelled texts, and what `rounds` substitutions and as many paraphrases of each add."""
        texts = [text for text, _ in labelled]
        added: dict[str, str] = {}
        for _ in range(rounds):
            for new in (self.substituted(texts), self.paraphrased(texts)):
                added |= dict(self.kept(labelled, new))
        return [*labelled, *added.items()]


def _is_word(token: str) -> bool:
    return len(token) >= SHORTEST and WORD.fullmatch(token) is not None


def _words(text: str) -> list[re.Match[str]]:
    return list(WORD.finditer(text))


def accuracy(labelled: Labelled) -> float:
    """Of a logistic regression on words, trained on `labelled`, for headlines in words that training lacks."""
    bag = Bag([Bag.words(text) for text, _ in labelled], [label for _, label in labelled])
    wanted = headlines.held_out(HELD_OUT)
    said = bag.predict([Bag.words(text) for text, _ in wanted])
    return sum(s == label for s, (_, label) in zip(said, wanted, strict=True)) / HELD_OUT


def sample(n: int, seed: int) -> Labelled:
    """`n` headlines with their labels."""
    source = itertools.islice(headlines.training(seed, 0), headlines.FIRST, None)
    return [each for each in itertools.islice(source, 4 * n) if _words(each[0])][:n]


def main(argv: list[str] | None = None) -> int:
    """Show what is made of one headline, and what it is worth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=40, metavar="N", help="labelled headlines to begin with (40)")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="new texts of each kind from each (8)")
    args = parser.parse_args(argv)
    encoder, sentiment = demo.path("encoder"), demo.path("sentiment")
    try:
        if min(args.texts, args.rounds) < 1:
            msg = f"--texts {args.texts} --rounds {args.rounds}: expected whole numbers of at least 1"
            raise InputError(msg)
        with mt.pipeline("fill-mask", encoder) as fill, mt.pipeline("text-classification", sentiment) as judge:
            show(Augmenter(fill, judge), SHOWN)
            compare(fill, judge, args.texts, args.rounds)
    except MiaotuiError as error:
        print(f"augmenter: {error}", file=sys.stderr)
        return 1
    return 0


def show(augmenter: Augmenter, labelled: tuple[str, str], n: int = 4) -> None:
    """Print a headline and a few made from it, those that the classifier refuses marked."""
    text, label = labelled
    print(f"{text}  [{label}]")
    for name, make in (("substituted", augmenter.substituted), ("paraphrased", augmenter.paraphrased)):
        print(f"  {name}")
        new = make([text] * n)
        kept = dict(augmenter.kept([labelled] * n, new))
        print("".join(f"    {'✓' if each in kept else '✗'} {each}\n" for each in dict.fromkeys(new)), end="")


def compare(fill: FillMask, judge: TextClassification, n: int, rounds: int) -> None:
    """Print a small classifier's held-out accuracy before and after, for several samples."""
    print(f"\nA classifier trained on {n} headlines, and on those with what was added:")
    before, after = [], []
    for seed in range(1, SEEDS + 1):
        labelled = sample(n, seed)
        grown = Augmenter(fill, judge, seed).grown(labelled, rounds)
        before.append(accuracy(labelled))
        after.append(accuracy(grown))
        print(f"  sample {seed}: {before[-1]:.3f} → {after[-1]:.3f}  (+{len(grown) - n} texts)")
    for name, scores in (("without", before), ("with", after)):
        mean = sum(scores) / SEEDS
        print(f"  {name:>8} {'█' * round(40 * mean):<40} {mean:.3f}")


if __name__ == "__main__":
    raise SystemExit(main())
