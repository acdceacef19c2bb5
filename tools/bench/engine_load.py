"""Mixed load: requests that arrive by chance, with the lengths of a real text, and what their callers see of it."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError
from .shared import paired

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    #: From a prompt and how many new ids to the ids as they come: how many came each time.
    Answers = Callable[[Sequence[int], int], AsyncIterator[int]]

__all__ = [
    "COMMON",
    "MOST_NEW",
    "MOST_PROMPT",
    "Request",
    "arrivals",
    "driven",
    "lengths",
    "percentiles",
    "ratios",
    "read_text",
    "seen",
]

COMMON = 64  # ids that every prompt begins with, as a system prompt
MOST_PROMPT, MOST_NEW = 512, 256
LEAST = 4


@dataclass(frozen=True)
class Request:
    """Somebody who comes `at` so many seconds, with a prompt, for an answer of `new` ids."""

    at: float
    prompt: list[int]
    new: int

    @property
    def words(self) -> list[int]:
        """Whole numbers, for a worker: microseconds, new ids, the prompt."""
        return [round(self.at * 1e6), self.new, *self.prompt]

    @staticmethod
    def of(words: Sequence[int]) -> Request:
        """As `words`."""
        at, new, *prompt = words
        return Request(at / 1e6, prompt, new)


def lengths(text: str, most_prompt: int = MOST_PROMPT, most_new: int = MOST_NEW) -> list[tuple[int, int]]:
    """Lengths of prompts and answers: words of each paragraph of a text, and of the one that follows it.

    Headings (of WikiText) are no paragraphs, nor is what has under four words; what is longer than the most is cut.
    Errors: `InputError` where there are no two paragraphs.
    """
    lines = (line.strip() for line in text.splitlines())
    words = [n for line in lines if not line.startswith("=") and (n := len(line.split())) >= LEAST]
    if len(words) < 2:  # noqa: PLR2004 - a pair
        msg = f"--text: {len(words)} paragraphs of {LEAST} words or more, expected 2 at least; name a longer text"
        raise InputError(msg)
    return [(min(one, most_prompt), min(other, most_new)) for one, other in pairwise(words)]


def arrivals(  # noqa: PLR0913 - keywords
    pairs: Sequence[tuple[int, int]], *, rate: float, seconds: float, n_vocab: int, common: int = COMMON, seed: int = 3
) -> list[Request]:
    """Requests of `seconds`, `rate` a second on average, a Poisson process; ids at random after `common` of all.

    Their lengths are drawn from `pairs`. At least one request comes.
    """
    rng = np.random.default_rng(seed)
    system, requests, at = rng.integers(1, n_vocab, common).tolist(), list[Request](), 0.0
    while at < seconds or not requests:
        n_prompt, new = pairs[int(rng.integers(len(pairs)))]
        requests.append(Request(at, system + rng.integers(1, n_vocab, n_prompt).tolist(), new))
        at += float(rng.exponential(1 / rate))
    return requests


async def driven(requests: Sequence[Request], stream: Answers) -> list[list[float]]:
    """Ask at each one's time, whatever became of the others: when its ids came, in seconds after the first request."""
    start = time.perf_counter()

    async def one(request: Request) -> list[float]:
        await asyncio.sleep(max(0.0, start + request.at - time.perf_counter()))
        times: list[float] = []
        async for n in stream(request.prompt, request.new):
            times += [time.perf_counter() - start] * n
        return times

    return await asyncio.gather(*map(one, requests))


def seen(requests: Sequence[Request], times: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Tokens a second until the last came; p50 and p99 of the time to the first id, and between two, in ms.

    Errors: `InputError` where somebody got fewer ids than he asked for.
    """
    for i, (request, came) in enumerate(zip(requests, times, strict=True)):
        if len(came) != request.new:
            msg = f"request {i} got {len(came)} ids, expected {request.new}"
            raise InputError(msg)
    firsts = [came[0] - request.at for request, came in zip(requests, times, strict=True)]
    between = np.concatenate([np.diff(came) for came in times])
    end = max(came[-1] for came in times)
    return {
        "requests": len(requests),
        "tokens": sum(map(len, times)),
        "seconds": end,
        "tokens_per_s": sum(map(len, times)) / end,
        "first_ms": percentiles(firsts),
        "between_ms": percentiles(between),
    }


def percentiles(seconds: Any) -> dict[str, float]:  # noqa: ANN401 - what NumPy takes
    """p50 and p99 in milliseconds."""
    p50, p99 = np.quantile(seconds, (0.5, 0.99))
    return {"p50": 1e3 * float(p50), "p99": 1e3 * float(p99)}


#: What is compared of a load: the figure, and the percentile where there are two.
_COMPARED = {
    "tokens_per_s": ("tokens_per_s", ""),
    **{f"{what}_{p}": (what, p) for what in ("first_ms", "between_ms") for p in ("p50", "p99")},
}


def ratios(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `seen` says of each round, compared; over 1 means that ours was better: more tokens, or less time."""
    compared = {}
    for name, (what, p) in _COMPARED.items():
        a, b = ([row[what][p] if p else row[what] for row in rows] for rows in (ours, theirs))
        compared[name] = paired(a, b) if p else paired(b, a)
    return compared


def read_text(path: Path) -> str:
    """What --text names. Errors: `InputError`."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"--text {path}: {error.strerror if isinstance(error, OSError) else 'no UTF-8'}; expected a text file"
        raise InputError(msg) from error
