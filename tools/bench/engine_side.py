"""Our side of `tools.bench.engine`: several sequences of one model, in a process that obeys `peers.worker`."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError
from ...runtime.searching import answers
from .engine_load import Request, driven
from .peers.worker import texts_of
from .roofline import versions
from .shared import open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    from ...runtime.parameters import GenerateKwargs
    from ...runtime.sequence import Sequence as Text

__all__ = ["PERCENT", "Ours"]

PERCENT = 100  # temperatures and shares travel as whole hundredths


class Ours:
    """A model and its open sequences."""

    def __init__(self, path: Path, threads: int, context: int, tokens: int, **options: str) -> None:
        """Load it: `context` positions of a text, `tokens` of all texts together; `options` as `load` takes them."""
        start = time.perf_counter()
        self._model, self._session = open_session(path, threads, context, cache_tokens=tokens, **options)
        self._load, self._options = time.perf_counter() - start, options
        self._texts: list[Text] = []
        self._rng = np.random.default_rng(2)
        self.own: Mapping[str, Callable[[Sequence[int]], dict[str, Any]]] = {
            "fill": self.fill,
            "together": self.together,
            "drawn": self.drawn,
            "threads": self.threads,
            "begin": self.begin,
            "turn": self.turn,
            "stepped": self.stepped,
            "load": self.load,
        }

    def about(self) -> dict[str, Any]:
        """Name, version, and how it was set."""
        s = self._session
        return {
            "name": "miaotui", "version": versions()["miaotui"], "threads": s.threads, "context": s.n_context,
            "cache_tokens": s.pages.n_pages * s.pages.size, "rows_of_a_pass": s.n_logits, "chunk": s.chunk,
            "options": self._options, "load_s": self._load,
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------- in one pass

    def fill(self, words: Sequence[int]) -> dict[str, Any]:
        """As `peers.worker.Batched`."""
        start = time.perf_counter()
        for text in self._texts:
            text.close()
        self._texts = [self._model.sequence() for _ in texts_of(words)]
        for text, ids in zip(self._texts, texts_of(words), strict=True):
            text.feed(ids)
        return {"seconds": [time.perf_counter() - start]}

    def together(self, words: Sequence[int]) -> dict[str, Any]:
        """N, FIRST, HOW_MANY. As `generate` of a list goes on, but for the ids' spelling, which peers leave out too."""
        n, first, count = words
        return self._going_on(first, count, max_new_tokens=n, ignore_eos=True)

    def drawn(self, words: Sequence[int]) -> dict[str, Any]:
        """N, FIRST, HOW_MANY, temperature and top_p in hundredths."""
        n, first, count, temperature, top_p = words
        share = top_p / PERCENT
        return self._going_on(
            first, count, max_new_tokens=n, ignore_eos=True, temperature=temperature / PERCENT, top_p=share, seed=1
        )

    def _going_on(self, first: int, count: int, **how: Unpack[GenerateKwargs]) -> dict[str, Any]:
        chosen, start = self._texts[first : first + count], time.perf_counter()
        asked = [text.asked(None, how) for text in chosen]
        made = answers(self._session, [replace(each, spelling=None) for each in asked])
        return {"seconds": [time.perf_counter() - start], "ids": [each.ids for each in made]}

    # ---------------------------------------------------------------------------------------- several threads

    def threads(self, words: Sequence[int]) -> dict[str, Any]:
        """HOW_MANY threads, each of which calls `generate`: PROMPT ids that are new every time, NEW more."""
        count, n_prompt, new = words
        prompts = [self._ids(n_prompt) for _ in range(count)]
        lengths, ready = [0] * count, threading.Barrier(count + 1)

        def one(i: int) -> None:
            ready.wait()
            lengths[i] = len(self._model.generate(prompts[i], max_new_tokens=new, ignore_eos=True).ids)

        team = [threading.Thread(target=one, args=(i,)) for i in range(count)]
        for thread in team:
            thread.start()
        ready.wait()
        start = time.perf_counter()
        for thread in team:
            thread.join()
        seconds = time.perf_counter() - start
        if lengths != [new] * count:
            msg = f"{count} threads got {lengths} ids, expected {new} each"
            raise BackendError(msg)
        return {"seconds": [seconds]}

    def _ids(self, n: int) -> list[int]:
        return [int(i) for i in self._rng.integers(1, self._session.n_vocab, n)]

    # ------------------------------------------------------------------------------------------- a second turn

    def begin(self, words: Sequence[int]) -> dict[str, Any]:
        """N: a text of so many ids, once by a call of `generate`, and once as the session's own (`step`)."""
        [n] = words
        start, self._text = time.perf_counter(), self._ids(n)
        self._model.generate(self._text, max_new_tokens=1, ignore_eos=True)
        self._session.step(self._text, 0)
        return {"seconds": [time.perf_counter() - start]}

    def turn(self, words: Sequence[int]) -> dict[str, Any]:
        """N: one id by a call of `generate` whose prompt is that text and so many new ids."""
        [n] = words
        prompt, start = self._text + self._ids(n), time.perf_counter()
        made = self._model.generate(prompt, max_new_tokens=1, ignore_eos=True)
        return {"seconds": [time.perf_counter() - start], "reused": made.timings.n_reused}

    def stepped(self, words: Sequence[int]) -> dict[str, Any]:
        """N: so many new ids by `step`, after the text that is there."""
        [n] = words
        ids, start = self._ids(n), time.perf_counter()
        self._session.step(ids, len(self._text))
        token = self._session.argmax
        return {"seconds": [time.perf_counter() - start], "token": token}

    # --------------------------------------------------------------------------------------------- mixed load

    def load(self, words: Sequence[int]) -> dict[str, Any]:
        """Requests as `Request.words` has them, parted by -1 -> "times", of each the seconds when its ids came."""
        return {"times": asyncio.run(driven([Request.of(text) for text in texts_of(words)], self._stream))}

    async def _stream(self, prompt: Sequence[int], new: int) -> AsyncIterator[int]:
        async for _ in self._model.atokens(prompt, max_new_tokens=new, ignore_eos=True):
            yield 1
