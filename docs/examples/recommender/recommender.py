"""A recommender by text: titles like those that a customer bought. See README.md."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING

import miaotui as mt
import numpy as np
import shop
from miaotui.errors import MiaotuiError
from miaotui.tools import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

CUSTOMERS, K = 300, 8
#: How much a book's sales count next to its text; chosen with customers of another seed.
BLEND = 0.05
BARS = 40


class Recommender:
    """Ranks texts by how near they are to a history of texts, and perhaps by how often they were bought."""

    def __init__(self, model: mt.Model, texts: Sequence[str], sales: Sequence[int]) -> None:
        """`sales`: how often each text was bought."""
        vectors = np.asarray(model.encode(texts), np.float64)
        vectors -= vectors.mean(0)  # what all texts share tells none of them apart
        whole, scale, _ = np.linalg.svd(vectors, full_matrices=False)
        whole = whole[:, scale > scale[0] / 1000]  # whitened: every direction counts as much
        self._vectors: NDArray[np.float64] = whole / np.linalg.norm(whole, axis=1, keepdims=True)
        self._sales = np.log1p(np.asarray(sales, np.float64))

    def ranked(self, history: Sequence[int], blend: float = 0.0) -> list[int]:
        """Numbers of the texts that the history lacks, the best first: mean cosine + blend * log(1 + sales)."""
        nearness = self._vectors @ self._vectors[list(history)].mean(0)
        order = np.argsort(-(nearness + blend * self._sales), kind="stable").tolist()
        return [i for i in order if i not in history]

    def popular(self, history: Sequence[int]) -> list[int]:
        """The same by sales alone."""
        return [i for i in np.argsort(-self._sales, kind="stable").tolist() if i not in history]


def precision(rank: Callable[[Sequence[int]], list[int]], people: Sequence[shop.Customer], k: int = K) -> float:
    """Precision@k: the share of the first `k` that a customer buys next, in the mean over customers."""
    return fmean(len(set(rank(person.before)[:k]) & set(person.after)) / k for person in people)


def main(argv: list[str] | None = None) -> int:
    """Recommend books to a customer, and say how good that is for all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", help="a directory or hub name of an encoder (default: an included one's first layer)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the customers (default: 1)")
    parser.add_argument("--customer", type=int, default=6, metavar="N", help=f"who is shown, from 0 to {CUSTOMERS - 1}")
    args = parser.parse_args(argv)
    if not 0 <= args.customer < CUSTOMERS:
        parser.error(f"--customer {args.customer}: expected a number from 0 to {CUSTOMERS - 1}")
    books = shop.titles()
    people = shop.customers(books, CUSTOMERS, args.seed)
    sales = Counter(book for person in people for book in person.before)
    texts = [title for title, _ in books]
    # The included encoder finds names: its last layer tells their kinds apart, and its first one words.
    path, prune = (args.model, None) if args.model else (demo.path("entities"), "keep-layers=0")
    try:
        with mt.load(path, prune=prune) as model:
            recommender = Recommender(model, texts, [sales[i] for i in range(len(books))])
    except MiaotuiError as error:
        print(f"recommender: {error}", file=sys.stderr)
        return 1
    shown = people[args.customer]
    print("bought:", *(f"  {texts[i]}" for i in shown.before), sep="\n")
    print("recommended (* is bought next):")
    for i in recommender.ranked(shown.before, BLEND)[:K]:
        print(f"{'*' if i in shown.after else ' '} {texts[i]}")
    print(f"\nprecision@{K} of {CUSTOMERS} customers")
    ways = {
        "most sold": recommender.popular,
        "text": recommender.ranked,
        "text and sales": lambda history: recommender.ranked(history, BLEND),
    }
    for name, rank in ways.items():
        score = precision(rank, people)
        print(f"{name:<15} {score:.3f} {'█' * round(score * BARS / 0.2)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
