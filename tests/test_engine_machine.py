"""The engine as a state machine: whatever is asked of one model at once, and whatever becomes of it, bits are the same.

Tasks and threads arrive, end, are cancelled, raise; streams are left and dropped; sequences grow, fork, are cut, saved
and loaded again; on a cache that is too small for them. Every answer is compared with that of a model of one thread
that has seen nothing else, and after each step every page is somebody's or free. The machine runs in a process of its
own, one for each executor (MIAOTUI_EXECUTOR): a step that hangs ends it with a traceback of every thread.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import gc
import json
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
import soak
from adapters_apart import write_adapter
from checkpoints import Drawn, write_checkpoint
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from masks import ByTheLast
from miaotui.errors import InputError, SequenceFileError
from miaotui.runtime.engine.speculative import Speculation
from miaotui.runtime.kvcache import PAGE
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miaotui.runtime.pages import Table

    Ids = tuple[int, ...]

N_VOCAB, CONTEXT, DEADLINE = 53, 2 * PAGE, 60
LLAMA = {
    "model_type": "llama", "vocab_size": N_VOCAB, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": CONTEXT,
}  # fmt: skip
CONFIGS = {
    "plain": LLAMA,
    "window": LLAMA | {"model_type": "mistral", "sliding_window": 20},
    "gpt2": {"model_type": "gpt2", "vocab_size": N_VOCAB, "n_positions": CONTEXT, "n_embd": 12, "n_layer": 2,
             "n_head": 2},
    "adapters": LLAMA,
}  # fmt: skip
#: Of the kind "adapters", each next to the model alone; and those that come to it and go, into one place.
NAMES, GUESTS = ("first", "second"), ("third", "fourth")
DRAWN = {"temperature": 1.3, "seed": 5, "top_p": 0.9}
#: What remembers the draws before: a bound on the surprise, counts, matches.
STEERED = {
    "mirostat": 2,
    "mirostat_tau": 2.0,
    "mirostat_eta": 0.5,
    "seed": 5,
    "frequency_penalty": 0.5,
    "dry_multiplier": 1,
}
#: Words of answers that are not shown; ids are what they are without.
MASKED = miaotui.Filters(
    [{"words": ["w7", "w11"]}, {"regex": r"w\d*3( w\d+)? w\d*1", "max_length": 12}], hold=lambda _: "release"
)
BLOCKED = miaotui.Filters([{"words": ["w9", "w3", "w30"], "action": "block"}, {"words": ["w5"]}])
#: What tokens spell, next to words: what fills in a middle, JSON, and brackets that end a block.
PIECES = (
    "<fim_prefix>", "<fim_suffix>", "<fim_middle>", '{"a":', "1}", "2,", '"b":', "4}", "true}", "}", ")",
)  # fmt: skip
WORDS = tuple(f" w{i}" for i in range(N_VOCAB - len(PIECES))) + PIECES
JSON = {
    "type": "object",
    "properties": {"a": {"type": ["integer", "boolean"]}, "b": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
#: A word's beginning is a token, too, and may end there: no token is a dead end.
REGEX, GRAMMAR = r"( w[13]\d?){2,5}", "start: pair pair? pair?\npair: / w[1-4][0-9]?/ / w[5-9]/"
#: Ids that end an answer, but not at once, and likelier as it grows.
ENDING = {
    "ignore_eos": False,
    "eos_token_id": [*range(0, N_VOCAB, 3)],
    "min_new_tokens": 3,
    "exponential_decay_length_penalty": (4, 1.3),
}
#: Of answers that may end before they are as long as they may be.
SHORT: list[dict[str, Any]] = [
    {"schema": JSON},
    {"schema": JSON, **DRAWN},
    {"choices": [" w1 w2 w3", " w1 w4", " w9", "".join(WORDS[10:20])], **DRAWN},
    {"stop_at": "block", **DRAWN},
    {"filters": BLOCKED, **DRAWN},
    {"regex": REGEX, **DRAWN},
    {"grammar": GRAMMAR, **DRAWN},
    {**ENDING, **DRAWN},
]
#: Stages of a draw, in the usual order and in another, and what changes logits before them.
STAGED: list[dict[str, Any]] = [
    {"top_h": 0.9, "typical_p": 0.8, "epsilon_cutoff": 0.004, "eta_cutoff": 0.01, "presence_penalty": 0.7, **DRAWN},
    {
        "sampler_order": ["min_p", "xtc", "top_k", "temperature", "top_n_sigma"],
        "min_p": 0.02,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.04,
        "top_k": 30,
        "temperature": 1.6,
        "top_n_sigma": 1.4,
        "seed": 5,
    },
    {"dynatemp_range": 0.9, "dynatemp_exponent": 1.5, "logit_bias": {3: 2.5, 9: -4}, **DRAWN},
    {"adaptive": 3.5, "suppress_tokens": [1, 2, 3], "sequence_bias": {(5, 9): 3.0, (6,): -2.0}, **DRAWN},
]
#: Ids that never come, and that come at their places in a text, and at its end.
FORCED: dict[str, Any] = {
    "bad_words_ids": [[7], [11, 12], [30, 31, 32]],
    "begin_suppress_tokens": [4, 8],
    "forced_decoder_ids": [(i, 3 * i % N_VOCAB) for i in range(0, CONTEXT, 7)],
    "forced_eos_token_id": 13,
    "encoder_repetition_penalty": 1.4,
}
MARK = {"bias": 3.0, "greenlist_ratio": 0.5}
#: These read a second text, for which there may be no room.
GUIDED: list[dict[str, Any]] = [
    {"guidance_scale": 1.7, **DRAWN},
    {"guidance_scale": 0.4, "watermarking_config": {}, "no_repeat_ngram_size": 2},
]
HOWS: list[dict[str, Any]] = [
    {},
    DRAWN,
    {"no_repeat_ngram_size": 2},
    {"schema": ByTheLast(), **DRAWN},
    STEERED,
    {"filters": MASKED, **DRAWN},
    {"draft": False},
    {"draft": "ngram", **DRAWN},
    *SHORT,
    *STAGED,
    FORCED,
    {"watermarking_config": MARK, **DRAWN},
    *GUIDED,
    {"n": 2, **DRAWN},
    {"num_beams": 2, "num_return_sequences": 2},
]
#: These give two answers, and cannot be streamed.
N_STREAMS = len(HOWS) - 2
LAST, BEAMS = len(HOWS) - 1, len(HOWS) - 1
DONE: Counter[str] = Counter()  # operations, and what came of them
PLACE: list[Path] = []  # of the checkpoints and the saved texts
LENGTH = [1]  # ids that are drafted for a pass


def may_lack_room(how: int) -> bool:
    """Of answers that need room for two texts."""
    return how == BEAMS or HOWS[how] in GUIDED


def assert_too_small(error: InputError, how: int, n: int, pages: int) -> None:
    """Two beams of `n` tokens, or one and what guides it, find no room in a cache of so many pages."""
    assert ("larger cache_tokens" if how == BEAMS else "a second text is read with the answer") in str(error), error
    assert (2 * -(-n // PAGE) if how == BEAMS else -(-n // PAGE) + 1) > pages, (error, n, pages)


def as_many(_: Speculation, _seen: object, most: int, _texts: int) -> tuple[int, float]:
    """In the place of `Speculation._length`."""
    return max(0, min(most, LENGTH[0])), 2.0


class MineError(Exception):
    """What a caller's own function raises."""


@functools.cache
def lone(kind: str) -> miaotui.Model:
    """One thread, one chunk: a model for what a text gets alone."""
    return miaotui.load(
        PLACE[0] / kind, threads=1, prefill_chunk=CONTEXT, adapters=adapters(kind, *GUESTS), cache_tokens=8 * PAGE
    )


def adapters(kind: str, *more: str) -> dict[str, Path] | None:
    """Those that a model is loaded with."""
    return {name: PLACE[0] / name for name in (*NAMES, *more)} if kind == "adapters" else None


def asked_of(model: miaotui.Model, prompt: Ids, words: dict[str, Any], *, infill: bool) -> miaotui.Generation:
    """What goes on after a prompt, or stands between its halves."""
    if not infill:
        return model.generate(prompt, **words)
    halves = ("".join(WORDS[i] for i in half) for half in (prompt[: len(prompt) // 2], prompt[len(prompt) // 2 :]))
    return model.infill(*halves, **words | {"ignore_eos": False})


@functools.lru_cache(maxsize=20_000)
def alone(
    kind: str, prompt: Ids, how: int, n: int, adapter: str | None = None, *, infill: bool = False
) -> list[list[int]]:
    """Every answer's ids."""
    lone(kind).session.kept.clear()
    words = {"max_new_tokens": n, "ignore_eos": True, "adapter": adapter, **HOWS[how]}
    return ids_of_all(asked_of(lone(kind), prompt, words, infill=infill), how)


@functools.lru_cache(maxsize=20_000)
def logits(kind: str, ids: Ids, adapter: str | None) -> bytes:
    """After the last id."""
    row: bytes = lone(kind).logits(ids, adapter=adapter)[-1].tobytes()
    return row


@functools.lru_cache(maxsize=20_000)
def scored(kind: str, prompt: Ids, candidates: tuple[Ids, ...], adapter: str | None) -> list[Any]:
    lone(kind).session.kept.clear()
    return lone(kind).score(prompt, candidates, adapter=adapter)


def write_words(directory: Path) -> None:
    """A tokenizer whose token i is WORDS[i]: filters and forms read a text."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    words.pre_tokenizer = Split(Regex("|".join([r" w\d+", *map(re.escape, PIECES)])), "isolated")
    words.decoder = Fuse()
    words.save(str(directory / "tokenizer.json"))


def ids_of_all(out: miaotui.Generation, how: int) -> list[list[int]]:
    asked, whole = HOWS[how], out.finish_reason in {"stop", "eos"}
    if out.filtered is not None:
        text = out.ids[:-1] if out.finish_reason == "eos" else out.ids
        assert out.filtered.unfiltered == "".join(WORDS[i] for i in text)
        assert out.text == asked["filters"].apply(out.filtered.unfiltered).text
        hidden = {"w7", "w11"} if asked["filters"] is MASKED else {"w9", "w3", "w30", "w5"}
        assert not hidden & set(re.findall(r"\w+", out.text))
    if asked.get("schema") is JSON and whole:
        assert isinstance(json.loads(out.text)["a"], int)
    if "regex" in asked and whole:
        assert re.fullmatch(REGEX, out.text)
    if "grammar" in asked and whole:
        assert re.fullmatch(r"( w[1-4]\d? w[5-9])+", out.text)
    if "choices" in asked and whole:
        assert out.text in asked["choices"]
    if "min_new_tokens" in asked and whole:
        assert len(out.ids) > asked["min_new_tokens"]
        assert out.ids[-1] in asked["eos_token_id"]
    return [each.ids for each in (out, *out.alternatives)]


@functools.cache
def prompt_of(which: int, n: int) -> Ids:
    """Prompts of one number begin alike."""
    return tuple(int(i) for i in np.random.default_rng(which).integers(0, N_VOCAB, CONTEXT)[:n])


class Raises:
    """A logits_processor that raises at its call number `at`, counted from 0."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, _ids: list[int], _row: np.ndarray) -> None:
        self.left -= 1
        if self.left < 0:
            raise MineError


@dataclass(frozen=True)
class Call:
    """One answer that is asked for: its prompt, how long it is, how it arrives and what becomes of it.

    `arrives`, `at`: passes from the step's beginning, and from its own.
    """

    which: int
    size: int
    n: int
    how: int
    priority: int
    fate: str
    by: str
    arrives: int
    at: int
    adapter: int = 0

    @property
    def prompt(self) -> Ids:
        return prompt_of(self.which, self.size)

    @property
    def way(self) -> int:
        """Which of HOWS; a stream has one answer."""
        return self.how % N_STREAMS if self.by == "stream" else self.how

    @property
    def raises(self) -> bool:
        """Beams take no functions."""
        return self.fate == "raises" and self.way != BEAMS

    def words(self) -> dict[str, Any]:
        how = {"max_new_tokens": self.n, "ignore_eos": True, **HOWS[self.way]}
        how |= {} if self.way == BEAMS else {"priority": self.priority}
        return how | ({"logits_processor": Raises(self.at % self.n)} if self.raises else {})

    def check(self, kind: str, adapter: str | None, got: object, pages: int) -> None:
        """That what came is what it gets alone, or what its fate is. `pages`: of the cache."""
        infill = self.by == "infill"
        wanted: Any = alone(kind, self.prompt, self.way, self.n, adapter, infill=infill)
        if may_lack_room(self.way) and isinstance(got, InputError):
            assert_too_small(got, self.way, self.size + self.n + (3 if infill else 0), pages)
            return
        if self.raises and (not (infill or HOWS[self.way] in SHORT) or isinstance(got, MineError)):
            assert isinstance(got, MineError), got
        elif self.fate == "cancelled" and self.by in {"task", "stream"} and isinstance(got, asyncio.CancelledError):
            pass
        elif self.by == "stream":
            wanted = wanted[0]
            wanted = wanted[: self.at % self.n + 1] if self.fate == "dropped" else wanted
            assert got == wanted, (self, got, wanted)
        else:
            assert got == wanted, (self, got, wanted)
        ended = isinstance(got, BaseException) or (self.fate == "dropped" and self.by == "stream")
        what = self.fate if ended else "right"
        DONE[f"{self.by}s: {what}"] += 1


ENDS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), max_size=5)
NUMBERS, SIZES = st.integers(0, 9), st.one_of(st.integers(1, 30), st.integers(1, 240), st.sampled_from([127, 128, 129]))
PRIORITIES = st.sampled_from([0, 0, 0, 1, 5, -2])
FATES = st.sampled_from(["ends", "ends", "ends", "cancelled", "raises", "dropped"])
CALLS = st.builds(
    Call, st.integers(0, 4), SIZES, st.integers(1, 12), st.integers(0, LAST), PRIORITIES, FATES,
    st.sampled_from(["task", "task", "stream", "thread", "infill"]), st.integers(0, 12), st.integers(0, 20),
    st.integers(0, 9),
)  # fmt: skip


@dataclass
class Clock:
    """Passes of a model, and how many tasks go on."""

    n: int = 0
    going: int = 0

    async def until(self, n: int) -> None:
        """Wait for this many passes, or until nobody takes one."""
        end = self.n + n
        while self.n < end and self.going:  # noqa: ASYNC110 - another thread counts them
            await asyncio.sleep(0)


@dataclass
class Guests:
    """An adapter goes after some passes, if there is one, and another comes. `inside`: in the event loop's thread."""

    model: miaotui.Model
    goes: int
    comes: int
    which: str
    inside: bool

    def __post_init__(self) -> None:
        self.before = [name for name in self.model.adapters if name in GUESTS]

    async def move(self, clock: Clock) -> None:
        await clock.until(self.goes)
        for name in self.before:
            await self.do(functools.partial(self.model.remove_adapter, name))
        await clock.until(self.comes)
        await self.do(self.come)

    async def do(self, what: Callable[[], object]) -> None:
        if self.inside:
            what()
        else:
            await asyncio.to_thread(what)

    def come(self) -> bool:
        """Whether there is room for it."""
        try:
            self.model.add_adapter(self.which, PLACE[0] / self.which)
        except InputError as e:
            assert "1 places for adapters, all taken; texts that began with" in str(e), e  # noqa: PT017 - one of two ends
            return False
        return True


@dataclass
class Open:
    """A stream, with what it will return and what it has."""

    made: Iterator[Any]
    wanted: list[int]
    guided: bool
    adapter: str | None
    got: list[int] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """What is asked of one model. Numbers choose among what is there."""

    @initialize(
        kind=st.sampled_from(sorted(CONFIGS)), threads=st.integers(1, 3), pages=st.integers(2, 6),
        chunk=st.sampled_from([16, 40, 128]), length=st.integers(1, 8),
        draft=st.sampled_from([None, "ngram", "keep-layers=0", "keep-layers=1", "keep-layers=0-1", "a model"]),
    )  # fmt: skip
    def load(self, kind: str, threads: int, pages: int, chunk: int, draft: str | None, length: int) -> None:
        """With a draft, as many ids are drafted each time: what pays is another question."""
        DONE[f"drafts: {draft}"] += 1
        LENGTH[0] = length
        self.kind, self.clock = kind, Clock()
        self.texts: list[miaotui.Sequence] = []
        self.streams: list[Open] = []
        self.saved: list[tuple[Path, list[int], str | None]] = []
        self.left: weakref.WeakSet[miaotui.Sequence] = weakref.WeakSet()  # whose adapter's name is gone
        self.model = miaotui.load(
            PLACE[0] / kind,
            threads=threads,
            prefill_chunk=chunk,
            cache_tokens=pages * PAGE,
            adapters=adapters(kind),
            adapter_slots=1 if kind == "adapters" else 0,
            adapter_rank=6,
            draft=str(PLACE[0] / "draft") if draft == "a model" else draft,
        )
        run = self.model.session.backend.run

        def counted(*part: Any) -> None:
            self.clock.n += 1
            run(*part)

        self.model.session.backend.run = counted  # type: ignore[method-assign]

    # ---------------------------------------------------------------------------------------------- calls at once

    def adapter(self, which: int) -> str | None:
        """One of those that are there now."""
        there = (None, *self.model.adapters)
        return there[which % len(there)]

    @rule(calls=st.lists(CALLS, min_size=1, max_size=7))
    def ask(self, calls: list[Call]) -> None:
        """Tasks of one event loop and threads, at the same time."""
        names = [self.adapter(call.adapter) for call in calls]
        got = self.asked_at_once(list(zip(calls, names, strict=True)), None)
        for call, name, each in zip(calls, names, got, strict=True):
            call.check(self.kind, name, each, self.model.session.pages.n_pages)

    def asked_at_once(self, calls: list[tuple[Call, str | None]], guests: Guests | None) -> list[object]:
        """What came of each, while adapters come and go."""
        got: dict[int, object] = {}
        threads = [threading.Thread(target=self.in_thread, args=(*call, i, got)) for i, call in enumerate(calls)
                   if call[0].by in {"thread", "infill"}]  # fmt: skip
        for thread in threads:
            thread.start()
        tasks = {i: call for i, call in enumerate(calls) if call[0].by in {"task", "stream"}}
        got |= asyncio.run(self.tasks(tasks, guests))
        for thread in threads:
            thread.join()
        DONE["operations"] += len(calls) - 1
        return [got[i] for i in range(len(calls))]

    @rule(calls=st.lists(CALLS, min_size=3, max_size=7))
    def ask_again(self, calls: list[Call]) -> None:
        """What meets most of the others is drawn more often."""
        self.ask(calls)

    @rule(calls=st.lists(CALLS, min_size=2, max_size=7), goes=st.integers(0, 9), comes=st.integers(0, 9),
          inside=st.booleans(), which=st.sampled_from(GUESTS))  # fmt: skip
    def adapters_come_and_go(self, calls: list[Call], goes: int, comes: int, inside: bool, which: str) -> None:  # noqa: FBT001 - drawn
        """The guest that is there goes while others write, some with it, and another comes as soon as there is room."""
        if self.kind != "adapters":
            self.ask(calls)
            return
        guests = Guests(self.model, goes, comes, which, inside=inside)
        names = [(None, *NAMES, *GUESTS)[call.adapter % 5] for call in calls]
        got = self.asked_at_once(list(zip(calls, names, strict=True)), guests)
        for call, name, each in zip(calls, names, got, strict=True):
            if name in GUESTS and isinstance(each, InputError) and "the model has no such adapter" in str(each):
                DONE["guests: not there"] += 1
            else:
                brought = name not in GUESTS or name in (*guests.before, which)
                assert brought or isinstance(each, asyncio.CancelledError), (call, name, each)
                call.check(self.kind, name, each, self.model.session.pages.n_pages)
                DONE[f"guests: {'others' if name not in GUESTS else 'right'}"] += 1
        del got, each
        self.left.update(text for text in self.texts if text.adapter in GUESTS)
        if which not in self.model.adapters and not any(
            each.adapter in GUESTS for each in (*self.texts, *self.streams)
        ):
            assert guests.come(), "nobody holds its place"
        DONE[f"guests: {'comes' if which in self.model.adapters else 'no place'}"] += 1

    def in_thread(self, call: Call, adapter: str | None, i: int, got: dict[int, object]) -> None:
        try:
            words = call.words() | {"adapter": adapter}
            got[i] = ids_of_all(asked_of(self.model, call.prompt, words, infill=call.by == "infill"), call.way)
        except BaseException as e:  # noqa: BLE001 - `check` says whether it is right
            got[i] = e

    async def tasks(self, calls: dict[int, tuple[Call, str | None]], guests: Guests | None) -> dict[int, object]:
        tasks = [asyncio.create_task(self.task(*call)) for call in calls.values()]
        ends = [asyncio.create_task(self.cancel(task, call.arrives + call.at))
                for task, (call, _) in zip(tasks, calls.values(), strict=True) if call.fate == "cancelled"]  # fmt: skip
        ends += [] if guests is None else [asyncio.create_task(guests.move(self.clock))]
        got = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*ends)
        return dict(zip(calls, got, strict=True))

    async def cancel(self, task: asyncio.Task[Any], n: int) -> None:
        await self.clock.until(n)
        task.cancel()

    async def task(self, call: Call, adapter: str | None) -> object:
        words = call.words() | {"adapter": adapter}
        await self.clock.until(call.arrives)
        self.clock.going += 1
        try:
            if call.by != "stream":
                return ids_of_all(await self.model.agenerate(call.prompt, **words), call.way)
            got, stream = [], self.model.atokens(call.prompt, **words)
            async for token in stream:
                got.append(token.id)
                if call.fate == "dropped" and len(got) > call.at % call.n:
                    break
            await stream.aclose()
            return got
        finally:
            self.clock.going -= 1

    @rule(
        calls=st.lists(st.tuples(st.integers(0, 4), SIZES), max_size=6), how=st.integers(0, LAST), n=st.integers(1, 8),
        which=NUMBERS,
    )  # fmt: skip
    def ask_a_list(self, calls: list[tuple[int, int]], how: int, n: int, which: int) -> None:
        prompts, adapter = [prompt_of(*call) for call in calls], self.adapter(which)
        words = {"max_new_tokens": n, "ignore_eos": True, "adapter": adapter, **HOWS[how]}
        try:
            got = self.model.generate_all(prompts, **words)
        except InputError as e:
            if not may_lack_room(how):
                raise
            assert_too_small(e, how, max(size for _, size in calls) + n, self.model.session.pages.n_pages)
            return
        wanted = [alone(self.kind, prompt, how, n, adapter) for prompt in prompts]
        assert [ids_of_all(out, how) for out in got] == wanted
        DONE["lists"] += 1

    @rule(which=st.integers(0, 4), size=SIZES, ends=ENDS)
    def score(self, which: int, size: int, ends: list[tuple[int, int]]) -> None:
        prompt, candidates = prompt_of(which, size), tuple(prompt_of(w + 5, n) for w, n in ends)
        adapter = self.adapter(which)
        got = self.model.score(prompt, candidates, adapter=adapter)
        assert got == scored(self.kind, prompt, candidates, adapter)
        DONE["scores"] += 1

    # ---------------------------------------------------------------------------------------------- streams

    @rule(which=st.integers(0, 4), size=SIZES, how=st.integers(0, N_STREAMS - 1), priority=PRIORITIES)
    def stream(self, which: int, size: int, how: int, priority: int) -> None:
        prompt, adapter = prompt_of(which, size), self.adapter(size)
        words = {"max_new_tokens": 12, "ignore_eos": True, "priority": priority, "adapter": adapter, **HOWS[how]}
        try:
            made = self.model.tokens(prompt, **words)
        except InputError as e:
            if not may_lack_room(how):
                raise
            assert_too_small(e, how, size + 12, self.model.session.pages.n_pages)
            return
        wanted = alone(self.kind, prompt, how, 12, adapter)[0]
        self.streams.append(Open(made, wanted, HOWS[how] in GUIDED, adapter))
        del self.streams[:-4]

    @rule(i=NUMBERS, n=st.integers(1, 13))
    def read(self, i: int, n: int) -> None:
        if self.streams:
            stream = self.streams[i % len(self.streams)]
            stream.got += [token.id for token in islice(stream.made, n)]
            assert stream.got == stream.wanted[: len(stream.got)]
            DONE["reads of what ends early"] += len(stream.wanted) < 12
            DONE["reads"] += 1

    @rule(i=NUMBERS, kindly=st.booleans())
    def leave(self, i: int, kindly: bool) -> None:  # noqa: FBT001 - drawn
        if self.streams:
            stream = self.streams.pop(i % len(self.streams))
            if kindly:
                stream.made.close()  # type: ignore[attr-defined]  # a `Stream`

    # ---------------------------------------------------------------------------------------------- sequences

    def text(self, i: int) -> miaotui.Sequence:
        """One of those that are open, or a new one."""
        if not self.texts:
            self.texts.append(self.model.sequence())
        return self.texts[i % len(self.texts)]

    def keep(self, text: miaotui.Sequence) -> None:
        self.texts.append(text)
        del self.texts[:-5]

    @rule(which=NUMBERS)
    def begin(self, which: int) -> None:
        self.keep(self.model.sequence(adapter=self.adapter(which)))

    @rule(i=NUMBERS, which=st.integers(0, 4), size=st.one_of(st.integers(1, 20), st.integers(1, 130)))
    def feed(self, i: int, which: int, size: int) -> None:
        text, ids = self.text(i), prompt_of(which, size)
        if len(text) + size > CONTEXT:
            text.truncate(len(text) % 50)
        whole = (*text.ids, *ids)
        assert text.feed(ids).tobytes() == logits(self.kind, whole, text.adapter)
        assert text.ids == list(whole)
        DONE["feeds"] += 1

    @rule(i=NUMBERS, which=st.integers(0, 4), size=st.integers(1, 40), call=CALLS)
    def go_on(self, i: int, which: int, size: int, call: Call) -> None:
        text, ids = self.text(i), prompt_of(which, size)
        if len(text) + size + call.n > CONTEXT:
            text.truncate(len(text) % 50)
        whole = (*text.ids, *ids)
        try:
            got = ids_of_all(text.generate(ids, **call.words()), call.way)
        except InputError as e:
            if not may_lack_room(call.way):
                raise
            assert_too_small(e, call.way, len(whole) + call.n, self.model.session.pages.n_pages)
            assert tuple(text.ids) == whole[: len(text)]
            return
        except MineError:
            assert call.raises
            assert tuple(text.ids[: len(whole)]) == whole, "it goes on from what was drawn"
            assert text.ids[len(whole) :] == self.after(text, whole, call)[0][: len(text) - len(whole)]
            DONE["sequences: raises"] += 1
            return
        assert not call.raises or HOWS[call.way] in SHORT
        assert got == self.after(text, whole, call)
        assert text.ids == [*whole, *got[0]]
        DONE["sequences: right"] += 1

    def after(self, text: miaotui.Sequence, whole: Ids, call: Call) -> list[list[int]]:
        """What the text's adapter answers."""
        return alone(self.kind, whole, call.way, call.n, text.adapter)

    @rule(i=NUMBERS)
    def fork(self, i: int) -> None:
        text = self.text(i)
        twin = text.fork()
        assert twin.ids == text.ids
        if text in self.left:
            self.left.add(twin)
        self.keep(twin)

    @rule(i=NUMBERS, n=st.integers(0, CONTEXT))
    def truncate(self, i: int, n: int) -> None:
        text = self.text(i)
        text.truncate(n % (len(text) + 1))

    @rule(i=NUMBERS)
    def save(self, i: int) -> None:
        text, path = self.text(i), PLACE[0] / f"text{len(self.saved) % 3}"
        if text in self.left:
            with pytest.raises(InputError, match=rf"save: the adapter '{text.adapter}' of this sequence was removed"):
                text.save(path)
            return
        text.save(path)
        self.saved = [each for each in self.saved if each[0] != path] + [(path, text.ids, text.adapter)]
        DONE["saves"] += 1

    @rule(i=NUMBERS, which=st.integers(0, 4))
    def load_again(self, i: int, which: int) -> None:
        if self.saved:
            path, ids, adapter = self.saved[i % len(self.saved)]
            if adapter not in (None, *self.model.adapters):
                with pytest.raises(SequenceFileError, match=f"has the adapter '{adapter}', and .* has none of this na"):
                    self.model.load_sequence(path)
                DONE["loads: refused"] += 1
                return
            self.keep(self.model.load_sequence(path))
            assert self.texts[-1].ids == ids
            DONE["loads"] += 1
            self.feed(len(self.texts) - 1, which, 3)

    @rule(i=NUMBERS, kindly=st.booleans())
    def end(self, i: int, kindly: bool) -> None:  # noqa: FBT001 - drawn
        if self.texts:
            text = self.texts.pop(i % len(self.texts))
            if kindly:
                text.close()

    # ---------------------------------------------------------------------------------------------- what holds

    def check_invariants(self, *args: Any, **kwargs: Any) -> None:
        """Count an operation, and look what holds; the next has its time from here."""
        DONE["operations"] += 1
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        super().check_invariants(*args, **kwargs)

    @invariant()
    def every_page_is_free_or_of_what_is_open(self) -> None:
        session = self.model.session
        assert session.engine is not None
        assert not session.engine._waiting()
        session.turn(session.collect)
        pages = session.pages
        assert {id(t) for t in pages.holding()} == {id(t) for t in pages.tables if t.n_pages}
        if not pages.torn:
            before = list(pages.n_free)
            pages.recount()
            assert pages.n_free == before
        most = len(self.texts) + len(self.streams) + sum(stream.guided for stream in self.streams)
        if len(self.holders()) > most:
            gc.collect()  # an exception and its traceback keep a sequence, as long as nobody needs its pages
            session.turn(session.collect)
            assert len(self.holders()) <= most, "what is gone holds pages"
        assert not any(t.awaited for t in pages.tables), "somebody is thought to wait"

    def holders(self) -> list[Table]:
        """Tables with pages, but for those that are kept for texts that begin alike."""
        session = self.model.session
        spare = (session._own, *session.kept)
        return [t for t in session.pages.tables if t.n_pages and t not in spare]

    def teardown(self) -> None:
        """Nothing is open any more: every page is free, once what is kept for others is let go."""
        if not hasattr(self, "model"):
            return
        self.streams.clear()
        self.texts.clear()
        gc.collect()
        session = self.model.session
        session.turn(session.collect)
        for table in (session._own, *session.kept):
            session.pages.release(table)
        assert session.pages.n_free == [session.pages.n_pages] * len(session.pages.windows)
        self.model.close()


def is_missing(done: dict[str, int]) -> bool:
    """Whether something that each run should do was not done yet. What is drawn changes with any constant of ours."""
    seen = ("tasks: right", "threads: right", "streams: right", "tasks: raises", "sequences: right", "loads", "scores")
    return min(done.get(what, 0) for what in seen) == 0


def main() -> None:
    """Arguments: operations, a seed. What was done is printed as JSON."""
    operations, first = map(int, sys.argv[1:])
    sys.setswitchinterval(1e-4)  # threads meet more often
    Speculation._length = as_many  # type: ignore[method-assign]
    Speculation._pays = lambda *_: True  # type: ignore[method-assign]
    faulthandler.enable()
    with TemporaryDirectory() as folder:
        PLACE[:] = [Path(folder)]
        for kind, config in CONFIGS.items():
            write_checkpoint(PLACE[0] / kind, Drawn(config, "F32", 3))
            write_words(PLACE[0] / kind)
            for i, name in enumerate((*NAMES, *GUESTS) if kind == "adapters" else ()):
                write_adapter(PLACE[0] / name, PLACE[0] / kind, "q_proj", "v_proj", "down_proj", r=3 + i, seed=i)
            alone(kind, (5,), 0, 2)
        write_checkpoint(PLACE[0] / "draft", Drawn(LLAMA | {"num_hidden_layers": 1}, "F32", 3))
        write_words(PLACE[0] / "draft")
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        how = settings(
            max_examples=4, stateful_step_count=40, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck), print_blob=False,
        )  # fmt: skip
        while DONE["operations"] < operations or (is_missing(DONE) and DONE["operations"] < 4 * operations):
            run_state_machine_as_test(seed(first)(Machine), settings=how)
            first += 1
        faulthandler.cancel_dump_traceback_later()
        for kind in CONFIGS:
            lone(kind).close()
    print(json.dumps(DONE))  # noqa: T201


def ran(executor: str, operations: int, first: int, seconds: float) -> None:
    """Run the machine in a process of its own, whose operations are told to a soak's result."""
    env = os.environ | {"MIAOTUI_EXECUTOR": executor, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(operations), str(first)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == 0, f"seed {first}: {done.stdout[-3000:]}{done.stderr[-12000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["operations"] >= operations
    assert not is_missing(told), told
    for what, n in told.items():
        soak.count(f"{executor}: {what}", n)


@pytest.mark.ci  # 20 s, both
@pytest.mark.parametrize(("executor", "operations"), [("team", 300), ("prange", 150)])
def test_whatever_is_asked_at_once_answers_are_right(executor: str, operations: int) -> None:
    ran(executor, operations, 1, 300)


@pytest.mark.soak("engine")
@pytest.mark.parametrize(("executor", "operations"), [("team", 10_000), ("prange", 10_000)])
def test_ten_thousand_operations(pytestconfig: pytest.Config, executor: str, operations: int) -> None:
    ran(executor, operations, int(pytestconfig.getoption("hypothesis_seed") or time.time_ns() % 2**32), 3600)


if __name__ == "__main__":
    main()
