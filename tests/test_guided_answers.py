"""Guidance, watermarks, beams of files, numbers that are none: by their definitions, and as transformers does them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint
from generation_models import write_writer
from hypothesis import given
from hypothesis import strategies as st
from life import DEMO
from miaotui.errors import InputError
from miaotui.runtime.engine.wants import Guided
from miaotui.runtime.guidance import guided, log_probs
from miaotui.runtime.kvcache import PAGE
from miaotui.runtime.watermark import Greened, GreenLists, green_from, permuted
from pruning import seven
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IDS = [1, 9, 30, 2, 14]
FEW: dict[str, Any] = {"max_new_tokens": 7, "ignore_eos": True}
RANDPERM = [9, 4, 2, 11, 5, 8, 3, 7, 0, 6, 10, 1], [46941, 15942, 7786, 40386, 22013, 42477, 34674, 21179]


def written(directory: Path, said: dict[str, Any] | None = None) -> Path:
    write_checkpoint(directory, Drawn({**seven(16), "num_hidden_layers": 1}))
    if said is not None:
        (directory / "generation_config.json").write_text(json.dumps(said))
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[miaotui.Model]:
    with miaotui.load(write_writer(tmp_path_factory.mktemp("m") / "llama", "llama"), cache_tokens=2048) as loaded:
        yield loaded


# ---------------------------------------------------------------------------------------------- guidance
def by_hand(model: miaotui.Model, prompt: list[int], scale: float, n: int) -> list[int]:
    """The definition: two texts, the second without all but the prompt's last id."""
    new: list[int] = []
    for _ in range(n):
        rows = [model.logits([*text, *new])[-1].astype(np.float64) for text in (prompt, prompt[-1:])]
        p, q = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in rows)
        new.append(int((scale * (p - q) + q).argmax()))
    return new


@pytest.mark.parametrize("scale", [2.5, 0.0, -1.0, 1.5])
def test_guidance_is_its_definition(model: miaotui.Model, scale: float) -> None:
    wanted = by_hand(model, IDS, scale, 7)
    assert model.generate(IDS, guidance_scale=scale, **FEW).ids == wanted
    assert wanted != model.generate(IDS, **FEW).ids


def test_guided_answers_share_passes_and_keep_their_bits(model: miaotui.Model) -> None:
    """Alone, in a list, in threads, in tasks, as a stream, drawn several at once, and going on from a text."""
    prompts = [IDS, [4], [7, 8, 9]]
    how: dict[str, Any] = {**FEW, "guidance_scale": 2.5, "temperature": 9.0, "seed": 4}
    alone = [model.generate(prompt, **how).ids for prompt in prompts]
    assert [each.ids for each in model.generate(prompts, **how)] == alone
    assert [t.id for t in model.tokens(IDS, **how)] == alone[0]
    made: list[Any] = [None] * 3

    def answer(i: int) -> None:
        made[i] = model.generate(prompts[i], **how).ids

    threads = [threading.Thread(target=answer, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == alone

    async def tasks() -> list[Any]:
        return await asyncio.gather(*(model.agenerate(prompt, **how) for prompt in prompts))

    assert [each.ids for each in asyncio.run(tasks())] == alone
    several = model.generate(IDS, n=2, **how)
    assert several.ids == alone[0]
    assert several.alternatives[0].ids != alone[0]
    with model.sequence() as sequence:
        first = sequence.generate(IDS, guidance_scale=2.5, **FEW).ids
        again = sequence.generate(guidance_scale=2.5, **FEW).ids
        assert again == by_hand(model, IDS + first, 2.5, 7)


def test_guided_texts_make_room_for_each_other_s_second_text(model: miaotui.Model) -> None:
    """Two have all pages, and both rows are there: one gives its own up, so that the other's second text fits."""
    texts = [IDS, [7, 8, 9]]
    wanted = [by_hand(model, ids, 2.5, 7) for ids in texts]
    with miaotui.load(model.directory, cache_tokens=2 * PAGE) as small:
        run, engine, sequences = small.session.backend.run, small.session.engine, [small.sequence() for _ in texts]
        assert engine is not None
        got: dict[int, list[int]] = {}
        for sequence, ids in zip(sequences, texts, strict=True):
            sequence.feed(ids[:-1])

        def once_both_are_there(*part: Any) -> None:
            while len(got) + len(engine._wants) // 2 < 2:
                time.sleep(0.001)
            run(*part)

        small.session.backend.run = once_both_are_there  # type: ignore[method-assign]

        def answer(i: int) -> None:
            got[i] = sequences[i].generate(texts[i][-1:], guidance_scale=2.5, **FEW).ids

        threads = [threading.Thread(target=answer, args=(i,), daemon=True) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [got.get(i) for i in range(2)] == wanted


def test_what_is_no_exception_ends_a_guided_answer_alone(model: miaotui.Model) -> None:
    """Whatever a processor raises, whoever takes the pass: the others come to their end."""
    prompts = [IDS, [4], [7, 8, 9]]
    wanted = [model.generate(prompt, guidance_scale=2.5, **FEW).ids for prompt in prompts]

    def fails(ids: list[int], _: np.ndarray) -> None:
        if ids[:1] == [4] and len(ids) == 3:
            raise SystemExit

    how: dict[str, Any] = {**FEW, "guidance_scale": 2.5, "logits_processor": fails}
    ended: list[list[int]] = []

    def noted(ids: list[int], row: np.ndarray) -> None:
        fails(ids, row)
        ended.append(ids)

    with pytest.raises(SystemExit):
        model.generate(prompts, **{**how, "logits_processor": noted})
    longest = [max((ids for ids in ended if ids[:1] == prompt[:1]), key=len) for prompt in prompts]
    assert longest == [prompts[0] + wanted[0][:-1], [4, wanted[1][0]], prompts[2] + wanted[2][:-1]]
    got: dict[int, object] = {}

    def ask(i: int) -> None:
        try:
            got[i] = model.generate(prompts[i], **how).ids
        except BaseException as e:  # noqa: BLE001 - compared below
            got[i] = type(e)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {0: wanted[0], 1: SystemExit, 2: wanted[2]}


@pytest.mark.parametrize("call", ["generate", "several", "tokens", "agenerate"])
def test_a_kept_exception_keeps_no_second_text(call: str) -> None:
    """It holds the calls that it came through, and what they had: the other text's pages, and an adapter's place."""
    with miaotui.load(DEMO, threads=1, max_context=64, cache_tokens=512) as model:

        def fails(_: list[int], __: np.ndarray) -> None:
            raise KeyError

        how: dict[str, Any] = {**FEW, "guidance_scale": 2.5, "logits_processor": fails}
        calls: dict[str, Callable[[], object]] = {
            "generate": lambda: model.generate(IDS, **how),
            "several": lambda: model.generate(IDS, **how, n=2, temperature=1),
            "tokens": lambda: list(model.tokens(IDS, **how)),
            "agenerate": lambda: asyncio.run(model.agenerate(IDS, **how)),
        }
        with pytest.raises(KeyError) as kept:
            calls[call]()
        session = model.session
        session.turn(session.collect)
        for table in (session._own, *session.kept):
            session.pages.release(table)
        assert session.pages.n_free == [session.pages.n_pages] * len(session.pages.windows)
        assert kept.tb is not None


def test_guidance_takes_one_pass_for_an_id(model: miaotui.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    session, run = model.session, model.session.run_pass

    def counted(parts: Any, **how: Any) -> None:
        passes.append(len(parts))
        run(parts, **how)

    monkeypatch.setattr(session, "run_pass", counted)
    model.generate([5, 3, 8], guidance_scale=3.0, **FEW)
    assert passes == [2] * 7


def test_what_does_not_go_with_guidance(model: miaotui.Model, tmp_path: Path) -> None:
    for how, said in (
        ({"num_beams": 2}, "^num_beams=2: guidance_scale and beams do not go together"),
        ({"overflow": "window"}, "^guidance_scale=2: .*leave out overflow"),
        ({"guidance_scale": "x"}, "^guidance_scale='x': expected a number from -10000 to 10000"),
        ({"guidance_scale": float("nan")}, "^guidance_scale=nan: expected a number"),
        ({"guidance_scale": -10001}, "^guidance_scale=-10001: expected a number"),
    ):
        with pytest.raises(InputError, match=said):
            model.generate(IDS, **{"guidance_scale": 2.0, **how})  # type: ignore[typeddict-item]
    with miaotui.load(written(tmp_path), cache_tokens=64, max_context=64) as small:
        with pytest.raises(InputError, match=r"^guidance_scale=2: .*cache_tokens=256 \(now 128\)"):
            small.generate(IDS, guidance_scale=2, max_new_tokens=50)
        assert small.generate(IDS, guidance_scale=1, max_new_tokens=50).ids
    with miaotui.load(write_writer(tmp_path / "t5", "t5", {"guidance_scale": 2.0})) as other:
        assert "guidance_scale 2.0" in other.corrections[0]
        assert "guidance_scale" not in other.generation_defaults
        with pytest.raises(InputError, match=r"^guidance_scale=2: of decoders only"):
            other.generate([5, 6], guidance_scale=2)


def test_the_rows_of_both_texts_come_in_any_order(model: miaotui.Model) -> None:
    """And what comes of one that is refused, or whose draw fails, is raised."""
    table = model.session.admit(None)
    for order in ((0, 1), (1, 0)):
        want = Guided(table, [1], lambda row: row * 10, lambda a, b: (a, b), (table, [2]))
        both = [want, want.other]
        assert all(each is not None and each.goes_on() for each in both)
        for i in order:
            assert not want.done
            both[i].fulfil(i + 1)  # type: ignore[union-attr]
        assert want.done
        assert want.result() == (10, 20)
    want = Guided(table, [1], int, lambda a, b: a / b, (table, [2]))
    want.fulfil(1)
    assert not want.goes_on()
    assert want.other is not None
    want.other.fulfil(0)
    with pytest.raises(ZeroDivisionError):
        want.result()
    want = Guided(table, [1], int, max, (table, [2]))
    assert want.other is not None
    want.other.refuse(InputError("closed"))
    with pytest.raises(InputError, match="closed"):
        want.result()
    model.session.left.append(table)


def test_who_looks_at_what_is_waited_for_draws_nothing(model: miaotui.Model) -> None:
    """A thread that leaves its passes to another looks in the middle of them: both drew, with one sampler's scratch."""
    engine, table = model.session.engine, model.session.admit(None)
    assert engine is not None
    seen: list[object] = []

    def draw(first: int, second: int) -> tuple[int, int]:
        other = threading.Thread(target=lambda: seen.append(engine._waiting()))
        other.start()
        other.join()
        return first, second

    want = Guided(table, [1], int, draw, (table, [2]))
    assert want.other is not None
    engine.add(want)
    want._row = 1  # who took the pass was struck there
    want.other.done = True
    assert engine._waiting() == seen == []
    want.settle()
    assert (want.done, len(seen)) == (True, 1)
    engine.forget(want)
    model.session.left.append(table)


def test_guided_answers_of_several_threads_are_what_each_gets_alone(model: miaotui.Model) -> None:
    prompts, how = [[1 + i, 9, 30 - i] for i in range(5)], {**FEW, "guidance_scale": 1.7, "temperature": 1.3, "seed": 5}
    wanted, got = [model.generate(prompt, **how).ids for prompt in prompts], dict[int, list[int]]()
    for _ in range(6):
        threads = [
            threading.Thread(target=lambda i: got.update({i: model.generate(prompts[i], **how).ids}), args=(i,))
            for i in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [got.pop(i) for i in range(5)] == wanted


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40), st.floats(-4, 4))
def test_guided_scores_are_near_to_floats_of_any_order(x: list[float], scale: float) -> None:
    row = np.array(x, np.float32)
    wanted = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    assert np.allclose(log_probs(row), wanted, atol=1e-11 * row.size)
    assert np.allclose(guided(row, row, scale), wanted, atol=1e-4)
    assert np.isnan(guided(row, np.full_like(row, np.nan), 2.0)).all()


# ---------------------------------------------------------------------------------------------- watermarks
@given(st.integers(0, 2**80), st.integers(1, 60), st.data())
def test_the_shuffle_is_that_of_fisher_and_yates(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    numbers = np.random.RandomState(seed % (2**64 - 1) % 2**32).randint(0, 2**32, n, np.uint32)
    places = list(range(n))
    for i in range(n - 1):
        j = i + int(numbers[i]) % (n - i)
        places[i], places[j] = places[j], places[i]
    assert permuted(seed, n, k).tolist() == places[:k]


def test_the_shuffle_is_pytorchs() -> None:
    """Numbers of `torch.randperm(n, generator=torch.Generator().manual_seed(seed))`, torch 2.13."""
    assert permuted(11, 12, 12).tolist() == RANDPERM[0]
    assert permuted(15485863 * 77, 49152, 12288)[:8].tolist() == RANDPERM[1]


@pytest.mark.parametrize("how", [{}, {"seeding_scheme": "selfhash", "bias": 4.0}, {"context_width": 3}])
def test_green_ids_come_more_often(model: miaotui.Model, how: dict[str, Any]) -> None:
    """What transformers' detector counts: ids that are green after those before them, here a quarter by chance."""
    n_vocab, mark = model.config.n_vocab, green_from(how, model.config.n_vocab)
    share = []
    for more in ({}, {"watermarking_config": {**how, "bias": 8.0}}):
        ids = model.generate([3], max_new_tokens=40, ignore_eos=True, temperature=20.0, seed=1, **more).ids  # type: ignore[arg-type]
        text, green = [3, *ids], 0
        for i in range(mark.width, len(text)):
            scores = np.zeros(n_vocab, np.float32)
            scores[text[i]] = 9  # "selfhash" asks the likeliest; here the one that came
            green += text[i] in mark.green(text[:i][-mark.width :], scores).tolist()
        share.append(green / len(ids))
    assert share[1] > 0.6 > share[0]


def test_a_watermark_of_a_cut_vocabulary_has_the_whole_ones_green_ids() -> None:
    kept = tuple(range(0, 90, 3))
    zeros = np.zeros(90, np.float32)
    for scheme in ("lefthash", "selfhash"):
        whole, cut = GreenLists(90, scheme=scheme), GreenLists(90, scheme=scheme, kept=kept)
        green = set(whole.green([kept[7]], zeros).tolist())
        ours = {kept[row] for row in cut.green([7], zeros[: len(kept)]).tolist()}
        assert ours == (green & set(kept) if scheme == "lefthash" else ours)
        assert ours
    marking = GreenLists(90, width=3).begin()
    assert isinstance(marking, Greened)
    row = zeros.copy()
    marking.observe([4, 5])
    marking.mark(row)
    assert not row.any()  # too short a text seeds nothing
    other = marking.copy()
    other.observe([6])
    other.mark(row)
    assert np.unique(row).tolist() == [0, 2]
    marking.mark(zeros)
    assert not zeros.any()


def test_bad_watermarks_are_refused(model: miaotui.Model) -> None:
    for value, said in (
        (3, "a dict such as"), ({"x": 1}, "unknown field 'x'; known are greenlist_ratio"),
        ({"greenlist_ratio": 0}, r"\['greenlist_ratio'\]=0: expected a number between 0 and 1"),
        ({"seeding_scheme": 3}, "expected 'lefthash' or 'selfhash'"), ({"context_width": 0}, "an integer from 1"),
        ({"hashing_key": -1}, "an integer from 0"), ({"bias": 1e300}, "expected a number"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^watermarking_config.*{said}"):
            model.generate(IDS, watermarking_config=value)  # type: ignore[arg-type]
    plain = model.generate(IDS, **FEW).ids
    assert model.generate(IDS, watermarking_config=False, **FEW).ids == plain


# ---------------------------------------------------------------------------------------------- numbers that are none
def damaged(directory: Path, value: float, **said: Any) -> Path:
    """A model whose logit 3 is always this."""
    tensors = load_file(written(directory, said) / "model.safetensors")
    name = "lm_head.weight" if "lm_head.weight" in tensors else "model.embed_tokens.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3] = value
    save_file(tensors, directory / "model.safetensors")
    return directory


def test_numbers_that_are_none_are_drawn_from_where_the_file_says_so(tmp_path: Path) -> None:
    """NaN is 0: it comes where all other logits are below."""
    path = damaged(tmp_path, np.nan, remove_invalid_values=True)
    with miaotui.load(path, cache_tokens=1024) as model:
        row = np.nan_to_num(model.logits(IDS)[-1])
        assert model.generate(IDS, max_new_tokens=1).ids == [int(row.argmax())]
        low = {"logit_bias": {i: -1e4 for i in range(model.config.n_vocab) if i != 3}, "max_new_tokens": 3}
        for more in ({}, {"temperature": 1.0, "seed": 3}, {"no_repeat_ngram_size": 4}):
            assert model.generate(IDS, ignore_eos=True, **low, **more).ids[0] == 3  # type: ignore[arg-type]
        assert len(model.generate(IDS, ignore_eos=True, num_beams=2, max_new_tokens=3).ids) == 3
        many = model.generate([IDS, [4]], **low)  # type: ignore[arg-type]
        assert many[0].ids == model.generate(IDS, **low).ids  # type: ignore[arg-type]
        with pytest.raises(InputError, match="not numbers"):
            model.generate(IDS, remove_invalid_values=False)
        with pytest.raises(InputError, match="remove_invalid_values=1: expected True or False"):
            model.generate(IDS, remove_invalid_values=1)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- beams of the files
def test_beams_of_the_file_hold_where_nothing_speaks_against_them(tmp_path: Path) -> None:
    said = {"num_beams": 5, "length_penalty": 2.0, "early_stopping": True, "renormalize_logits": True}
    directory = write_writer(tmp_path / "m", "llama", said)
    with miaotui.load(directory, max_context=256) as model:  # whose cache has room for so many
        assert model.generation_defaults == said
        assert not model.corrections
        few: dict[str, Any] = {"max_new_tokens": 8}
        best = model.generate("Hello", **few)
        assert best.score is not None
        explicit = model.generate("Hello", **few, **said)
        assert (best.ids, best.score) == (explicit.ids, explicit.score)
        assert asyncio.run(model.agenerate("Hello", **few)).ids == best.ids  # type: ignore[union-attr]
        greedy = model.generate("Hello", num_beams=1, **few)
        prompts = [[i] for i in range(3, 40)]
        alike = zip(model.generate(prompts, **few), model.generate(prompts, num_beams=1, **few), strict=True)
        assert any(a.ids != b.ids for a, b in alike)
        assert greedy.score is None
        assert "".join(model.stream("Hello", **few)) == greedy.text
        for more in ({"stop": "\0"}, {"logprobs": True}, {"priority": 1}, {"logits_processor": lambda *_: None}):
            one = model.generate("Hello", **few, **more)  # type: ignore[arg-type]
            assert (one.ids, one.score) == (greedy.ids, None)
        assert model.generate("Hello", temperature=0.5, seed=1, **few).score is None
        assert len(model.generate("Hello", num_return_sequences=3, **few).alternatives) == 2
    (directory / "generation_config.json").write_text(json.dumps({"num_beams": 3, "stop_strings": ["a"]}))
    with miaotui.load(directory, max_context=64) as model:
        assert "num_beams 3" in model.corrections[0]


def test_the_first_id_of_a_decoders_file_comes_after_a_texts_only_one(tmp_path: Path) -> None:
    with miaotui.load(written(tmp_path, {"forced_bos_token_id": 6}), cache_tokens=512) as model:
        assert model.generate([4], max_new_tokens=1).ids == [6]
        assert model.generate([4, 5], max_new_tokens=9, ignore_eos=True).ids != [6] * 9
        assert not model.corrections


# ---------------------------------------------------------------------------------------------- transformers
@pytest.mark.ci  # 15 s
def test_greedy_and_beams_are_those_of_transformers(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
        intermediate_size=37, max_position_embeddings=400, bos_token_id=0, eos_token_id=[2, 9], pad_token_id=1,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
    theirs.save_pretrained(tmp_path)
    theirs = theirs.double().eval()
    cases: list[dict[str, Any]] = [{"guidance_scale": scale} for scale in (1.5, 3.0, 0.3)]
    cases += [{"guidance_scale": 2.0, "repetition_penalty": 1.3}, {"guidance_scale": -1.0, "no_repeat_ngram_size": 2}]
    schemes = {"bias": 5.0, "context_width": 3}, {"seeding_scheme": "selfhash", "context_width": 2, "bias": 3.0}
    for mark in ({}, *schemes):
        how = {"watermarking_config": mark}
        cases += [how, how | {"num_beams": 3}, how | {"num_beams": 3, "renormalize_logits": True}]
        cases += [how | {"repetition_penalty": 1.4, "bad_words_ids": [[5]]}]
    synthid: dict[str, Any] = {"watermarking_config": {"ngram_len": 3, "keys": [654, 400, 836, 123, 340]}}
    cases += [synthid, synthid | {"repetition_penalty": 1.4, "bad_words_ids": [[5]]}]
    cases += [{"num_beams": 3, "renormalize_logits": True, "bad_words_ids": [[5], [21]], "repetition_penalty": 1.5}]
    cases += [{"num_beams": 4, "remove_invalid_values": True, "suppress_tokens": [36]}]
    with miaotui.load(tmp_path, cache_tokens=2048) as ours:
        for how in cases:
            for prompt in ([5, 7, 30, 2, 11], [44])[: 1 + ("guidance_scale" in how)]:
                asked = {k: v for k, v in how.items() if k != "watermarking_config"}
                if (mark := how.get("watermarking_config")) is not None:
                    kind = "SynthIDTextWatermarkingConfig" if "keys" in mark else "WatermarkingConfig"
                    asked["watermarking_config"] = getattr(transformers, kind)(**mark)
                with torch.no_grad():
                    wanted = theirs.generate(
                        torch.tensor([prompt]), do_sample=False, max_new_tokens=8, use_cache=False, **asked
                    )[0, len(prompt) :].tolist()  # fmt: skip
                got = ours.generate(prompt, max_new_tokens=8, **how).ids
                assert got == wanted[: len(got)], (how, prompt)
