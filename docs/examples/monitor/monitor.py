"""A monitor of finance headlines: sentiment by topic over a sliding window, and an alarm when bad news surges.

See README.md. Each row of the chart is a topic, each column a moment: the share of bad news among the topic's last
headlines.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import miaotui as mt
from miaotui.errors import MiaotuiError
from miaotui.tools.demo.recipes import headlines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TOPICS = ("Norvale", "Silverline", "Tarn Motors", "Westgate Bank")
BARS = "▁▂▃▄▅▆▇█"
COLUMNS = 60
#: A surge: so large a share of the window is bad news, and so much larger than before the window.
SHARE, MORE = 0.65, 0.25


class Topic:
    """The last labels of a topic, and the share of bad news among them now and before."""

    def __init__(self, window: int) -> None:
        """`window`: how many headlines count."""
        self._last: deque[bool] = deque(maxlen=window)
        self._before = [0, 0]  # headlines that the window has left, and bad ones among them
        self._surges = False
        self.share = 0.0
        self.history: list[float] = []  # at each moment of the stream

    def add(self, label: str) -> bool:
        """Take a headline's label; whether a surge begins with it."""
        if len(self._last) == self._last.maxlen:
            self._before = [self._before[0] + 1, self._before[1] + self._last[0]]
        self._last.append(label == "negative")
        self.share, (n, bad) = sum(self._last) / len(self._last), self._before
        was, self._surges = self._surges, n > 0 and self.share >= SHARE and self.share >= bad / n + MORE
        return self._surges and not was

    def chart(self) -> str:
        """Shares over time, each column the mean of a few moments."""
        step = -(-len(self.history) // COLUMNS) or 1
        parts = (self.history[i : i + step] for i in range(0, len(self.history), step))
        return "".join(BARS[round(sum(part) / len(part) * (len(BARS) - 1))] for part in parts)


def watch(
    texts: Iterable[str], topics: Mapping[str, Topic], model: str | None = None
) -> Iterator[tuple[str, str, list[str]]]:
    """Each headline with its label and the topics whose alarm it raises, as it comes: nothing is read ahead."""
    with mt.pipeline("text-classification", model, truncation=True) as classify:
        for text in texts:
            label = classify(text)[0]["label"].lower()
            yield text, label, [name for name, topic in topics.items() if name in text and topic.add(label)]


def stream(n: int, surge: str, seed: int = 5) -> list[str]:
    """`n` headlines of the topics, by the grammar; in the last third, most that name `surge` are bad news."""
    rng = random.Random(seed)  # noqa: S311 - headlines, not secrets
    source, texts = headlines.training(seed), list[str]()
    while len(texts) < n:
        text, label = next(source)
        late = len(texts) > n * 2 // 3 and surge in text
        if any(topic in text for topic in TOPICS) and (not late or label == "negative" or rng.random() < 1 / 10):
            texts.append(text)
    return texts


def lines(source: str | None) -> Iterator[str]:
    """Lines of a file, or of the standard input, without empty ones; None: headlines that are made up."""
    if source is None:
        yield from stream(400, TOPICS[2])
        return
    with nullcontext(sys.stdin) if source == "-" else Path(source).open(encoding="utf-8") as file:
        yield from filter(None, map(str.strip, file))


def main(argv: list[str] | None = None) -> int:
    """Read headlines, print alarms as they come and the chart at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input", metavar="FILE", help="a headline a line, - for standard input (default: 400 made up)"
    )
    parser.add_argument("--topics", nargs="+", default=TOPICS, metavar="NAME", help="names to watch")
    parser.add_argument("--window", type=int, default=20, metavar="N", help="headlines of a topic that count")
    parser.add_argument("--model", help="a directory or hub name, one of whose labels is negative (default: included)")
    args = parser.parse_args(argv)
    if args.window < 1:
        parser.error(f"--window {args.window}: expected at least 1")
    topics = {name: Topic(args.window) for name in args.topics}
    counts: dict[str, int] = {}
    try:
        for n, (text, label, alarms) in enumerate(watch(lines(args.input), topics, args.model), 1):
            counts[label] = counts.get(label, 0) + 1
            for topic in topics.values():
                topic.history.append(topic.share)
            for name in alarms:
                share = f"{topics[name].share:.0%} of the last {args.window}"
                print(f"headline {n}: bad news of {name} surges, {share}: {text}", flush=True)
    except (MiaotuiError, OSError) as error:
        print(f"monitor: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"{counts[label]} {label}" for label in sorted(counts)) or "no headlines")
    for name, topic in topics.items():
        print(f"{name:>{max(map(len, topics))}} {topic.chart()} {topic.share:.0%} bad")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
