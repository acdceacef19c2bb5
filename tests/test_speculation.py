"""Speculation changes nothing: ids, text, reasons and every row of logits are those of the plain run, bit for bit."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import ByTheLast
from miaotui.errors import BackendError, InputError, MemoryLimitError, PlanError
from miaotui.loader.prune.plan import PrunePlan
from miaotui.runtime.draft_model import ModelDrafter
from miaotui.runtime.engine.speculative import Speculation
from miaotui.runtime.kvcache import PAGE
from miaotui.runtime.logprobs import LogProbs
from miaotui.tools import cli, demo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

N_VOCAB, CONTEXT = 53, 2 * PAGE
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": N_VOCAB, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": CONTEXT, "eos_token_id": 3,
}  # fmt: skip
ROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.25, 2.0, 3.0], "long_factor": [1.5, 4.0, 9.0, 2.0],
        "original_max_position_embeddings": 40}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": LLAMA,
    "window": LLAMA | {"model_type": "mistral", "sliding_window": 20},
    "turning": LLAMA | {"rope_scaling": ROPE},
    "gpt2": {"model_type": "gpt2", "vocab_size": N_VOCAB, "n_positions": CONTEXT, "n_embd": 12, "n_layer": 2,
             "n_head": 2},
}  # fmt: skip
DRAWN = {"temperature": 1.2, "seed": 5}
HOWS: list[dict[str, Any]] = [
    {}, DRAWN, DRAWN | {"top_p": 0.8, "repetition_penalty": 1.3}, {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 2}, DRAWN | {"bad_words_ids": [[5], [7, 9]], "min_new_tokens": 9},
    DRAWN | {"typical_p": 0.9, "xtc_probability": 0.5, "frequency_penalty": 0.5, "sequence_bias": [[[4, 5], 2.0]]},
    {"dry_multiplier": 2.0, "presence_penalty": 0.5, "no_repeat_ngram_size": 3},
    {"schema": ByTheLast(), "repetition_penalty": 1.1},
    DRAWN | {"schema": ByTheLast(), "frequency_penalty": 0.5, "bad_words_ids": [[5], [7, 9]]},
    {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.5, "seed": 5},  # of which nothing is drafted
]  # fmt: skip


class Wrong:
    """Drafts that never come: of all rows but the first, nothing is taken."""

    computes = False
    read_s = 0.0

    def missing(self, ids: Sequence[int]) -> int:  # noqa: ARG002 - as of all drafters
        return 0

    def cost(self, n_texts: int, unit: float) -> float:  # noqa: ARG002 - as of all drafters
        return 0.0

    def kind(self, ids: Sequence[int]) -> int:  # noqa: ARG002 - as of all drafters
        return 0

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        return [(ids[-1] + 17 + i) % N_VOCAB for i in range(most)]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for kind, config in CONFIGS.items():
        write_checkpoint(root / kind, Drawn(config, "F32", 3))
    return {kind: root / kind for kind in CONFIGS}


@pytest.fixture(scope="module")
def models(directories: dict[str, Path]) -> Iterator[Any]:
    """By kind and draft; "wrong" drafts what never comes. Loaded when first asked for."""
    opened: list[miaotui.Model] = []

    @cache
    def model(kind: str, draft: str | None = None) -> miaotui.Model:
        of = {"itself": str(directories[kind]), "wrong": None}.get(draft or "", draft)
        made = miaotui.load(directories[kind], threads=2, draft=of, cache_tokens=6 * PAGE, prefill_chunk=40)
        if draft == "wrong":
            made.session.drafting.default = ("wrong", lambda _: Wrong())
        opened.append(made)
        return made

    yield model
    for each in opened:
        each.close()


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Its only number is how many ids are drafted each time, whatever pays."""
    n = [4]
    monkeypatch.setattr(Speculation, "_length", lambda _, _seen, most, _texts: (max(0, min(most, n[0])), 2.0))
    monkeypatch.setattr(Speculation, "_pays", lambda *_: True)
    return n


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every row of logits that an id was drawn from and accepted, where `logprobs` are asked for."""
    seen: list[bytes] = []

    class Watched(LogProbs):
        def __init__(self, row: np.ndarray, position: int, *so: str) -> None:
            seen.append(position.to_bytes(4, "big") + row.tobytes())
            super().__init__(row, position, *so)

    monkeypatch.setattr("miaotui.runtime.sequence.LogProbs", Watched)
    return seen


def prompt_of(seed: int, n: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(4, N_VOCAB, n)]


def plain(model: miaotui.Model, prompt: Any, **how: Any) -> miaotui.Generation:
    return model.generate(prompt, draft=False, **how)


def same(got: miaotui.Generation, wanted: miaotui.Generation) -> None:
    for name in ("ids", "text", "finish_reason", "seed", "logprobs"):
        assert getattr(got, name) == getattr(wanted, name), name


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    "draft",
    ["ngram", "wrong", "itself", pytest.param("keep-layers=0-1", marks=pytest.mark.ci)],  # 4 s
)
def test_every_row_of_logits_is_the_plain_runs(
    models: Any, forced: list[int], rows: list[bytes], kind: str, draft: str
) -> None:
    """Drafts by what the text repeats, by a part of the model, by all of it, and such as never come; 1 to 8 ids."""
    model, seen = models(kind, draft), [0, 0]

    @settings(max_examples=12, deadline=None)
    @given(seed=st.integers(0, 9), n=st.integers(1, 60), length=st.integers(1, 8), how=st.sampled_from(HOWS),
           new=st.integers(1, 40))  # fmt: skip
    def equal(seed: int, n: int, length: int, how: dict[str, Any], new: int) -> None:
        asked = how | {"max_new_tokens": new, "ignore_eos": True, "logprobs": True}
        forced[0], prompt = length, prompt_of(seed, n)
        rows.clear()
        wanted, by_itself = plain(model, prompt, **asked), rows.copy()
        rows.clear()
        got = model.generate(prompt, **asked)
        same(got, wanted)
        assert rows == by_itself
        assert 0 <= got.timings.n_accepted <= got.timings.n_drafted
        if how in HOWS[:2]:  # a model that drafts for itself knows no penalties and rules
            seen[0] += got.timings.n_drafted
            seen[1] += got.timings.n_accepted

    equal()
    assert seen[0] > 0, "nothing was drafted"
    if draft == "itself":
        assert seen[1] == seen[0], "the same draws of the same logits"
    if draft == "wrong":
        assert seen[1] < 0.2 * seen[0]


@pytest.mark.parametrize("length", [1, 3, 8])
def test_an_end_inside_a_block_ends_there(models: Any, forced: list[int], length: int) -> None:
    """Every id of a greedy answer declared an end; every number of new tokens; the context's end."""
    model, forced[0] = models("plain", "itself"), length
    prompt = prompt_of(1, 12)
    ids = plain(model, prompt, max_new_tokens=20, ignore_eos=True).ids
    for at in range(1, len(ids)):
        got = model.generate(prompt, max_new_tokens=20, eos_token_id=ids[at])
        same(got, plain(model, prompt, max_new_tokens=20, eos_token_id=ids[at]))
        assert got.ids == ids[: ids.index(ids[at]) + 1]
    for n in range(12):
        same(model.generate(prompt, max_new_tokens=n), plain(model, prompt, max_new_tokens=n))
    for left in (1, 2, 5, 9):
        long = prompt_of(2, CONTEXT - left)
        got = model.generate(long, max_new_tokens=None, ignore_eos=True)
        assert (got.finish_reason, len(got.ids)) == ("context", left + 1)
        same(got, plain(model, long, max_new_tokens=None, ignore_eos=True))


@pytest.mark.parametrize("kind", ["plain", "window"])
def test_a_sequence_goes_on_from_what_was_asked_for(models: Any, forced: list[int], kind: str) -> None:
    """A stream that is left in the middle of a block: what came after is no part of the text, and of no other."""
    model, forced[0], prompt = models(kind, "itself"), 7, prompt_of(3, 30)
    wanted = plain(model, prompt, max_new_tokens=24, ignore_eos=True).ids
    for n in range(1, 20):
        with model.sequence() as text:
            got = [t.id for t in islice(text.tokens(prompt, max_new_tokens=24, ignore_eos=True), n)]
            assert got == wanted[:n]
            assert text.ids == prompt + got
            how, more = n % 5, prompt_of(n, 5)
            ids = text.ids
            if how == 0:
                twin = text.fork()
                assert twin.generate(more, max_new_tokens=6, ignore_eos=True).ids == plain(
                    model, ids + more, max_new_tokens=6, ignore_eos=True
                ).ids  # fmt: skip
                twin.close()
            elif how == 1:
                text.truncate(len(ids) - 1)
                ids = ids[:-1]
            elif how == 2:
                ids = ids + text.generate(max_new_tokens=3, ignore_eos=True).ids
                assert ids == prompt + wanted[: n + 3]
            assert text.feed(more).tobytes() == model.logits(ids + more)[-1].tobytes()
            assert text.ids == ids + more
    with model.sequence() as text:
        text.feed(prompt + wanted[:1] + [9] * 30)  # who begins like it shares what is right of it alone
        assert text.feed([4]).tobytes() == model.logits([*prompt, *wanted[:1], *[9] * 30, 4])[-1].tobytes()


def test_a_saved_sequence_holds_what_was_asked_for(models: Any, forced: list[int], tmp_path: Path) -> None:
    model, forced[0], prompt = models("plain", "itself"), 7, prompt_of(3, 30)
    with model.sequence() as text:
        got = [t.id for t in islice(text.tokens(prompt, max_new_tokens=24, ignore_eos=True), 3)]
        text.save(tmp_path / "text")
        with model.load_sequence(tmp_path / "text") as again:
            assert again.ids == text.ids == prompt + got
            assert again.feed([5]).tobytes() == model.logits([*prompt, *got, 5])[-1].tobytes()


@pytest.mark.parametrize("draft", [pytest.param("ngram", marks=pytest.mark.ci), "keep-layers=0-1"])  # 3 s
def test_lists_threads_tasks_and_streams_get_what_each_gets_alone(models: Any, forced: list[int], draft: str) -> None:
    model, forced[0], n_drafted = models("plain", draft), 3, 0
    prompts = [prompt_of(i, 5 + 4 * i) * 2 for i in range(4)]
    for how in HOWS:
        asked = how | {"max_new_tokens": 20, "ignore_eos": True}
        wanted = [plain(model, prompt, **asked).ids for prompt in prompts]
        got = model.generate(prompts, **asked)
        assert [out.ids for out in got] == wanted
        n_drafted += sum(out.timings.n_drafted for out in got)

        async def tasks(asked: dict[str, Any]) -> list[list[int]]:
            return [out.ids for out in await asyncio.gather(*(model.agenerate(p, **asked) for p in prompts))]

        assert asyncio.run(tasks(asked)) == wanted
        made: dict[int, list[int]] = {}

        def stream(i: int, made: dict[int, list[int]], asked: dict[str, Any]) -> None:
            made[i] = [t.id for t in model.tokens(prompts[i], **asked)]

        threads = [threading.Thread(target=stream, args=(i, made, asked)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [made[i] for i in range(4)] == wanted
    assert n_drafted > 0
    drawn = model.generate(prompts[0], n=3, max_new_tokens=18, ignore_eos=True, **DRAWN)
    wanted_n = plain(model, prompts[0], n=3, max_new_tokens=18, ignore_eos=True, **DRAWN)
    assert [each.ids for each in drawn.alternatives] == [each.ids for each in wanted_n.alternatives]


@pytest.mark.parametrize("what", ["greedy", "truncated", "run_pass", "learn", "draft"])
def test_struck_anywhere_a_text_goes_on(
    models: Any, forced: list[int], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Ctrl-C before, in and after a pass that checks a block: the ids that there are, and what follows, are right."""
    model, forced[0], prompt = models("window", "itself"), 4, prompt_of(7, 25)
    session, wanted = model.session, plain(model, prompt, max_new_tokens=16, ignore_eos=True).ids
    where: dict[str, tuple[Any, str]] = {
        "greedy": (type(session), "greedy"), "truncated": (type(session.pages), "truncate"),
        "run_pass": (type(session), "run_pass"), "learn": (Speculation, "learn"), "draft": (ModelDrafter, "draft"),
    }  # fmt: skip
    owner, name = where[what]
    act, strikes = getattr(owner, name), 0
    for n in range(12):
        left = [n]

        def struck(self: Any, *args: Any, left: list[int] = left, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == -1 and what != "greedy":
                act(self, *args, **kwargs)
            if left[0] == -1:
                raise KeyboardInterrupt
            return act(self, *args, **kwargs)

        with model.sequence() as text:
            monkeypatch.setattr(owner, name, struck)
            try:
                text.generate(prompt, max_new_tokens=16, ignore_eos=True)
            except KeyboardInterrupt:
                strikes += 1
            monkeypatch.setattr(owner, name, act)
            assert text.ids == (prompt + wanted)[: len(text)]
            ids = text.ids
            assert text.feed([5, 6]).tobytes() == model.logits([*ids, 5, 6])[-1].tobytes()
        session.turn(session.collect)
        before = list(session.pages.n_free)
        session.pages.recount()
        assert session.pages.n_free == before or session.pages.torn
    assert strikes > 2


@pytest.mark.parametrize("draft", [False, "ngram", None])
def test_a_stream_whose_text_was_emptied_says_so(models: Any, forced: list[int], draft: Any) -> None:
    """There is no last id whose logits could be drawn from; drafted ones do not stand in for it."""
    model, forced[0], prompt = models("plain", "itself"), 4, prompt_of(9, 12)
    with model.sequence() as text:
        made = text.tokens(prompt, max_new_tokens=12, ignore_eos=True, draft=draft)
        ids = [t.id for t in islice(made, 3)]
        text.truncate(1)
        assert next(made).id is not None
        text.truncate(0)
        with pytest.raises(InputError, match="truncated to no ids; call generate again, with a prompt"):
            next(made)
        assert text.generate(prompt, max_new_tokens=3, ignore_eos=True).ids == ids


def test_a_call_takes_another_draft(models: Any, forced: list[int]) -> None:
    model, forced[0], prompt = models("plain", "keep-layers=0-1"), 3, prompt_of(8, 12) * 3
    wanted = plain(model, prompt, max_new_tokens=30, ignore_eos=True)
    for draft in ("ngram", True, None):
        got = model.generate(prompt, max_new_tokens=30, ignore_eos=True, draft=draft)
        same(got, wanted)
        assert got.timings.n_drafted > 0


def test_functions_of_the_callers_see_every_text_once(models: Any, forced: list[int]) -> None:
    model, forced[0], prompt = models("plain", "itself"), 5, prompt_of(4, 9)
    texts: list[list[int]] = []

    def watches(ids: list[int], row: np.ndarray) -> None:
        texts.append(ids)
        row[ids[-1]] = -np.inf

    asked = {"max_new_tokens": 9, "ignore_eos": True, "logits_processor": watches}
    wanted = plain(model, prompt, **asked).ids
    assert wanted == [ids[-1] for ids in texts[1:]] + wanted[-1:]
    n = len(texts)
    assert model.generate(prompt, **asked).ids == wanted
    assert texts[:n] == texts[n:]


def test_a_text_that_outgrows_its_context(models: Any, forced: list[int]) -> None:
    """Tokens are left out where the plain run leaves them out, a block before or after."""
    model, prompt = models("plain", "itself"), prompt_of(5, CONTEXT - 9)
    asked = {"max_new_tokens": PAGE + 30, "ignore_eos": True, "overflow": "window"}
    wanted = plain(model, prompt, **asked)
    for forced[0] in (1, 4, 8):
        same(model.generate(prompt, **asked), wanted)
        same(models("plain", "wrong").generate(prompt, **asked), wanted)


def test_the_first_drafted_id_is_checked_as_well(models: Any, forced: list[int]) -> None:
    model = models("plain", "ngram")
    for forced[0] in (1, 2, 8):
        for prompt in ([1, 1, 1], [1, 1], [1], [6, 8] * 9):
            same(model.generate(prompt, max_new_tokens=30, ignore_eos=True),
                 plain(model, prompt, max_new_tokens=30, ignore_eos=True))  # fmt: skip


@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.ci), 5])  # 5 s
def test_texts_and_stop_strings(forced: list[int], length: int) -> None:
    """The included model's texts: each word of an answer as what ends it."""
    forced[0] = length
    with miaotui.load(demo.path(), draft="drop-layers=4") as model:
        whole = plain(model, "Once upon a time", max_new_tokens=40)
        got = model.generate("Once upon a time", max_new_tokens=40)
        same(got, whole)
        assert got.timings.n_accepted > 0
        for word in [*whole.text.split(), ".", whole.text[7:14]]:
            for kind in ({}, DRAWN):
                asked = {"max_new_tokens": 40, "stop": word, **kind}
                wanted = plain(model, "Once upon a time", **asked)
                same(model.generate("Once upon a time", **asked), wanted)
                assert "".join(model.stream("Once upon a time", **asked)) == wanted.text


HELD: list[dict[str, Any]] = [
    {"regex": "((The (cat|dog|bird) (sat|ran) (on the mat|home), )+ )+"},
    {"schema": {"type": "array", "items": {"type": "object", "properties": {"name": {"enum": ["Tom", "Tim", "Lily"]},
     "age": {"type": "integer", "maximum": 12}}, "required": ["name", "age"]}, "minItems": 9}},
    {"choices": [f"{a} and {a} and {b} and {a} and {b}" for a in ("Tom", "Tim") for b in ("Tom", "Lily", "Tim")]},
]  # fmt: skip


def test_what_an_answer_is_held_to_holds_drafts_too(forced: list[int]) -> None:
    """Ids that must come stand between others, some of the same pass; each row has the mask of its place."""
    pytest.importorskip("llguidance")
    with miaotui.load(demo.path(), draft="ngram", max_context=256) as model:
        n, prompt = 0, "Tom and Lily and Tim"
        for held in HELD:
            kept = {name: model.constraint(**{name: value}) for name, value in held.items()}
            for how in ({}, DRAWN | {"repetition_penalty": 1.2}, {"logprobs": True}):
                for forced[0] in (2, 9):
                    asked = {"max_new_tokens": 60, **how, **kept}
                    got = model.generate(prompt, **asked)
                    same(got, plain(model, prompt, **asked))
                    n += got.timings.n_accepted
            assert "".join(model.stream(prompt, max_new_tokens=60, **kept)) == plain(
                model, prompt, max_new_tokens=60, **kept
            ).text  # fmt: skip
        assert n > 50


def test_an_encoder_decoder(tmp_path: Path, forced: list[int]) -> None:
    """What the encoder read is looked in too; a part of the model reads it as well."""
    seq2seq = pytest.importorskip("test_seq2seq", reason="transformers writes the checkpoint", exc_type=ImportError)
    seq2seq.made(seq2seq.small_config(), tmp_path)
    source = prompt_of(6, 20)
    for draft in ("ngram", "keep-layers=0"):
        with miaotui.load(tmp_path, draft=draft) as model:
            for forced[0] in (1, 6):
                for how in HOWS[:5]:
                    asked = how | {"max_new_tokens": 25, "ignore_eos": True}
                    same(model.generate(source, **asked), plain(model, source, **asked))


# what is asked for, and what is wrong


def test_what_is_loaded_is_in_the_predicted_memory(directories: dict[str, Path]) -> None:
    path = directories["plain"]
    with miaotui.load(path) as alone, miaotui.load(path, draft=PrunePlan(layers=(1,))) as model:
        needed, more = alone.memory["allocated"], model.memory["draft"]
        assert model.memory["allocated"] == needed + more
        assert 0 < more < needed
        drafts = model._drafts
        assert drafts is not None
        assert drafts.config.n_layers == 1
    assert drafts._closed
    with miaotui.load(path, draft="keep-layers=1", memory_limit=needed + more):
        pass
    with pytest.raises(MemoryLimitError, match=r"draft='keep-layers=1': .* 1 over memory_limit"):
        miaotui.load(path, draft="keep-layers=1", memory_limit=needed + more - 1)
    with pytest.raises(MemoryLimitError, match="leaves no room for a draft under memory_limit"):
        miaotui.load(path, draft="keep-layers=1", memory_limit=needed)
    with miaotui.load(path, draft="ngram", memory_limit=needed):
        pass


# the first layers, in the model's own cache


@pytest.mark.parametrize("draft", ["keep-layers=0", "drop-layers=2", PrunePlan(layers=(0, 1, 2))])
def test_first_layers_take_no_memory(directories: dict[str, Path], draft: Any) -> None:
    """Their weights, pages and results are the model's; the arena is as large as it was."""
    path = directories["plain"]
    with miaotui.load(path) as alone, miaotui.load(path, draft=draft) as model:
        program = model.program()
        assert program.early is not None
        assert model._drafts is None
        assert model.memory == alone.memory | {"draft": 0}
        assert model.session.backend.arena.nbytes == alone.session.backend.arena.nbytes == program.arena_bytes
        assert program.listing()[-1].startswith("draft: ")
        caches = {t for ins in program.code for t in ins.tensors("o") if t.part == "kv_cache"}
        assert {t for ins in program.early.code for t in ins.tensors("o") if t.part == "kv_cache"} <= caches
    for other in ("keep-layers=1", "keep-layers=0; ffn=0.5", "keep-layers=0; drop-heads=0:0"):
        with miaotui.load(path, draft=other) as model:
            assert model.program().early is None
            assert model._drafts is not None
    with miaotui.load(path, prune="drop-layers=1", draft="keep-layers=0,2") as model:  # of the file's, those are first
        assert model.program().early is not None


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_first_layers_say_is_what_they_say_alone(
    models: Any, directories: dict[str, Path], forced: list[int], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Bit for bit the pruned model's rows, of texts that share passes; no pass reads more than an id of each."""
    model, forced[0] = models(kind, "keep-layers=0"), 3
    prompts, shared = [prompt_of(i, 30 + 9 * i) for i in range(3)], set[int]()
    session, texts, rows = model.session, dict[int, list[int]](), dict[bytes, list[int]]()
    run = session.run_early

    def watched(parts: Any, draws: Any) -> None:
        run(parts, draws)
        shared.add(len(parts))
        for (table, ids, at, n), row in zip(parts, session.logits, strict=True):
            assert n == len(ids) == 1
            text = list(table.ids) if at == len(table.ids) - 1 else [*texts[id(table)], *ids]
            assert len(text) == at + 1
            texts[id(table)] = rows[row.tobytes()] = text

    monkeypatch.setattr(session, "run_early", watched)
    got = model.generate(prompts, max_new_tokens=12, ignore_eos=True)
    assert [out.ids for out in got] == [plain(model, p, max_new_tokens=12, ignore_eos=True).ids for p in prompts]
    assert shared >= {3}, "they did not share a pass"
    assert len(rows) >= max(out.timings.n_drafted for out in got) > 0
    with miaotui.load(directories[kind], prune="keep-layers=0") as early:
        for row, text in rows.items():
            assert early.logits(text)[-1].tobytes() == row


def test_a_draft_model_reads_what_its_text_became(models: Any, forced: list[int]) -> None:
    """A text that was cut and went on otherwise between two ids of a stream: the draft's is cut as well."""
    model, forced[0], prompt = models("plain", "itself"), 3, prompt_of(9, 12)
    with model.sequence() as text:
        made = text.tokens(prompt, max_new_tokens=24, ignore_eos=True)
        for _ in range(4):
            next(made)
        text.truncate(3)
        text.feed(prompt_of(5, 20))
        n, speculation = len(text), text._speculation
        before = [t.id for t in islice(made, 12)]
        assert text.ids[n:] == before == plain(model, text.ids[:n], max_new_tokens=12, ignore_eos=True).ids
        assert speculation is None
        assert text._speculation is not None
        assert text._speculation.n_accepted == text._speculation.n_drafted > 0


def test_a_model_of_other_tokens_is_refused(tmp_path: Path, forced: list[int]) -> None:
    """As many of them, two in each other's places; the same ones in another file are no matter."""
    shutil.copytree(demo.path(), tmp_path / "same")
    shutil.copytree(demo.path(), tmp_path / "other")
    for name in ("same", "other"):
        file = tmp_path / name / "tokenizer.json"
        said = json.loads(file.read_text(encoding="utf-8"))
        vocab = said["model"]["vocab"]
        if name == "other":
            a, b = (next(token for token, i in vocab.items() if i == n) for n in (500, 501))
            vocab[a], vocab[b] = 501, 500
        file.write_text(json.dumps(said, indent=3), encoding="utf-8")
    forced[0] = 2  # a model as large as the other does not pay
    with miaotui.load(demo.path(), draft=tmp_path / "same") as model:
        assert model.generate("Once", max_new_tokens=9).timings.n_accepted > 0
    with pytest.raises(
        InputError, match=r"draft=.*other'\): its token 500 is .*, the model's is .*; expected the same"
    ):
        miaotui.load(demo.path(), draft=tmp_path / "other")


def test_what_is_no_draft_is_refused(directories: dict[str, Path], models: Any, tmp_path: Path) -> None:
    path = directories["plain"]
    write_checkpoint(tmp_path / "other", Drawn(LLAMA | {"vocab_size": N_VOCAB + 2}, "F32", 3))
    for draft, error, said in (
        (tmp_path / "other", InputError, "its vocabulary has 55 entries, the model's 53; expected the same"),
        ("keep-layers=9", PlanError, "draft='keep-layers=9': .*there is no layer 9"),
        ("keep-layers=0;x=1", PlanError, """^(?!.*prune=)draft='keep-layers=0;x=1': .*"x=1": 'x' is not understood"""),
        (3, InputError, "draft=3: expected 'ngram', short forms"),
        (True, InputError, "draft=True: expected 'ngram', short forms"),
        ("", InputError, "draft='': expected"),
        ("n-grams", InputError, "draft='n-grams': there is no such directory; did you mean ngram"),
        ("keep-layer=0", PlanError, "did you mean keep-layers.*; expected some of keep-layers, drop-layers"),
    ):
        with pytest.raises(error, match=said):
            miaotui.load(path, draft=draft)  # type: ignore[arg-type]  # wrong ones
    with pytest.raises(InputError, match=r"draft='ngram': .* writes no text; there is nothing to draft"):
        miaotui.load(demo.path("encoder"), draft="ngram")
    with pytest.raises(BackendError, match="draft='ngram': on a GPU every id is drawn by itself; use device='cpu'"):
        miaotui.load(path, draft="ngram", device="cuda")
    model = models("plain")
    for draft, said in (
        (True, "draft=True: the model was loaded without a draft; use draft='ngram'"),
        ("keep-layers=0", r"other drafts are loaded with the model: load\(..., draft='keep-layers=0'\)"),
        (7, "draft=7: expected False"),
    ):
        with pytest.raises(InputError, match=said):
            model.generate([1, 2], draft=draft)
    with pytest.raises(InputError, match="num_beams=2: draft and beams do not go together"):
        model.generate([1, 2], draft="ngram", num_beams=2)
    assert models("plain", "ngram").generate([1, 2], num_beams=2, max_new_tokens=3).ids
    assert model.generate([1, 2], max_new_tokens=9).timings.n_drafted == 0


# docs/speculation.md


def test_the_page_s_python_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "speculation.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    [(python, said)] = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    exec(compile(python, "docs/speculation.md", "exec"), names)  # noqa: S102 - it is our own page
    assert capsys.readouterr().out == said
    names["model"].close()


def test_on_the_command_line(capsys: pytest.CaptureFixture[str], forced: list[int]) -> None:
    words = ["generate", "Once upon a time", "--max-new-tokens", "20", "--no-prompt"]
    assert cli.main(words) == 0
    plain, forced[0] = capsys.readouterr().out, 2
    for draft in ("ngram", "keep-layers=0-4", str(demo.path())):
        assert cli.main([*words, "--draft", draft, "--stats"]) == 0
        out = capsys.readouterr()
        assert out.out == plain
        assert re.search(
            r"^draft +(\d+ tokens? guessed, \d+ of them right|no token guessed: .*)$", out.err, re.MULTILINE
        )
        if draft == str(demo.path()):
            assert re.search(r"^draft +\d+ tokens guessed, \d+ of them right$", out.err, re.MULTILINE)
    for more, said in (
        (["--draft", "keep-layers=9"], "--draft keep-layers=9: .*there is no layer 9"),
        (["--draft", "ngram", "--num-beams", "2"], "--draft ngram: beams draft nothing"),
    ):
        assert cli.main([*words, *more]) != 0
        assert re.search(said, capsys.readouterr().err)
