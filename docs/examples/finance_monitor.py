"""A monitor of finance headlines: sentiment by topic over a sliding window, and an alarm when bad news surges.

    python docs/examples/finance_monitor.py                       # headlines that a grammar makes, with a surge in them
    python docs/examples/finance_monitor.py --input FILE          # one headline a line; - is the standard input

A topic is a name of `--topics` that stands in the headline. Each row of the chart is a topic, each column a moment: the
share of bad news among the topic's last `--window` headlines.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import miaotui as mt
from miaotui.tools import demo
from miaotui.tools.demo.recipes import headlines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TOPICS = ("Norvale", "Silverline", "Tarn Motors", "Westgate Bank")
BARS = "▁▂▃▄▅▆▇█"
COLUMNS = 60
#: A surge: so large a share of the window is bad news, and so much more than before the window.
SHARE, MORE = 0.6, 0.2


class Topic:
    """The last labels of a topic, and the shares of bad news so far."""

    def __init__(self, window: int) -> None:
        """`window`: how many headlines count."""
        self._last: deque[bool] = deque(maxlen=window)
        self._before = [0, 0]  # headlines that the window has left, and bad ones among them
        self.shares: list[float] = []
        self._surges = False

    def add(self, label: str) -> bool:
        """Take a headline's label; whether a surge begins with it."""
        if len(self._last) == self._last.maxlen:
            self._before = [self._before[0] + 1, self._before[1] + self._last[0]]
        self._last.append(label == "negative")
        share, (n, bad) = sum(self._last) / len(self._last), self._before
        self.shares.append(share)
        was, self._surges = self._surges, n > 0 and share >= SHARE and share >= bad / n + MORE
        return self._surges and not was

    def chart(self) -> str:
        """Shares over time."""
        step = -(-len(self.shares) // COLUMNS) or 1
        return "".join(BARS[round(share * (len(BARS) - 1))] for share in self.shares[::step])


def watch(texts: Iterable[str], topics: dict[str, Topic]) -> Iterator[tuple[str, str, list[str]]]:
    """Each headline with its label and the topics for which it raises the alarm; headlines are taken one by one."""
    with mt.load(demo.path("sentiment")) as model:
        for text in texts:
            label = model.config.labels[model.logits(model.tokenizer.encode(text)).argmax()]
            yield text, label, [name for name, topic in topics.items() if name in text and topic.add(label)]


def stream(n: int, surge: str, seed: int = 5) -> list[str]:
    """`n` headlines of the topics; in the last third, most that name `surge` are bad news."""
    rng = random.Random(seed)  # noqa: S311 - headlines, not secrets
    source = headlines.training(seed)
    texts: list[str] = []
    while len(texts) < n:
        text, label = next(source)
        late = len(texts) > n * 2 // 3 and surge in text
        if any(topic in text for topic in TOPICS) and (not late or label == "negative" or rng.random() < 1 / 10):
            texts.append(text)
    return texts


def lines(source: str) -> Iterator[str]:
    """The lines of a file, or of the standard input, without empty ones."""
    if source == "-":
        yield from filter(None, map(str.strip, sys.stdin))
        return
    with Path(source).open(encoding="utf-8") as file:
        yield from filter(None, map(str.strip, file))


def main(argv: list[str] | None = None) -> int:
    """Read headlines, print alarms as they come and the chart at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", metavar="FILE", help="a headline a line (default: 400 that are made up)")
    parser.add_argument("--topics", nargs="+", default=TOPICS, help="names to watch")
    parser.add_argument("--window", type=int, default=20, help="headlines of a topic that count (default: 20)")
    args = parser.parse_args(argv)
    topics = {name: Topic(args.window) for name in args.topics}
    counts = dict.fromkeys(headlines.LABELS, 0)
    texts = lines(args.input) if args.input else stream(400, TOPICS[2])
    for n, (text, label, alarms) in enumerate(watch(texts, topics), 1):
        counts[label] += 1
        for name in alarms:
            share = f"{topics[name].shares[-1]:.0%} of the last {args.window}"
            print(f"headline {n}: bad news of {name} surges, {share}: {text}")
    print(", ".join(f"{count} {label}" for label, count in counts.items()))
    for name, topic in topics.items():
        print(f"{name:>14} {topic.chart()} {topic.shares[-1] if topic.shares else 0:.0%} bad")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
