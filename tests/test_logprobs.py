"""Log-probabilities, processors of logits, scores of continuations: against NumPy's float64 of `model.logits`."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint
from generation_models import write_writer
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, TokenizerError
from miaotui.runtime.asynchronous import merged
from miaotui.runtime.kvcache import PAGE
from miaotui.runtime.logprobs import LogProbs
from miaotui.tools import demo
from miaotui.tools.perplexity import measure
from task_models import write_model
from test_shared_passes import CONFIG, CONTEXT, N_VOCAB, counted, ids_of, in_threads

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

HOW: list[dict[str, Any]] = [{}, {"temperature": 1.3, "seed": 5, "repetition_penalty": 1.2}]


@pytest.fixture(scope="module", params=[None, PAGE // 2])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_checkpoint(path, Drawn({**CONFIG, "sliding_window": request.param}, "F32", 11))
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> Iterator[miaotui.Model]:
    with miaotui.load(directory, threads=2, prefill_chunk=40, cache_tokens=5 * PAGE) as model:
        yield model


@pytest.fixture(scope="module")
def lone(directory: Path) -> Iterator[miaotui.Model]:
    with miaotui.load(directory, threads=1) as model:
        yield model


def exact(model: miaotui.Model, ids: list[int]) -> np.ndarray:
    """float64 [ids, n_vocab]: log-softmax of the logits, by NumPy."""
    z = model.logits(ids).astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def check(told: list[miaotui.Logprob], ids: list[int], log_p: np.ndarray, n_top: int, first: int) -> None:
    """Of the ids from `first` on."""
    assert [each.id for each in told] == ids[first:]
    for at, each in enumerate(told, first):
        if at == 0:
            assert (each.logprob, each.top_logprobs) == (None, ())
            continue
        row = log_p[at - 1]
        assert each.logprob == pytest.approx(row[each.id], abs=1e-12)
        assert [i for i, _ in each.top_logprobs] == np.argsort(-row, kind="stable")[:n_top].tolist()
        assert [p for _, p in each.top_logprobs] == pytest.approx(sorted(row, reverse=True)[:n_top], abs=1e-12)


# ---------------------------------------------------------------- one row


@given(st.lists(st.floats(-800, 800, width=32) | st.just(-math.inf), min_size=1, max_size=40), st.randoms())
def test_a_row_is_numpy_s_log_softmax_and_its_order_changes_no_bit(row: list[float], shuffled: random.Random) -> None:
    z = np.array([*row, 0.0], np.float32)
    wanted = z.astype(np.float64) - np.float64(z.max())
    wanted -= np.log(np.exp(wanted).sum())
    got = [LogProbs(z, 3).of(i) for i in range(z.size)]
    assert got == pytest.approx(wanted.tolist(), rel=1e-14, abs=1e-14)
    order = list(range(z.size))
    shuffled.shuffle(order)
    assert [LogProbs(z[order], 3).of(order.index(i)) for i in range(z.size)] == got
    top = LogProbs(z, 3).told(0, z.size).top_logprobs
    assert [i for i, _ in top] == np.argsort(-z, kind="stable").tolist()


def test_many_small_terms_are_all_counted() -> None:
    """The largest vocabulary that there is, of equal logits; and one in which all but the first are small together."""
    assert LogProbs(np.zeros(2**18, np.float32), 0).of(7) == pytest.approx(-18 * math.log(2), rel=1e-15)
    row = np.full(2**18, -30.0, np.float32)
    row[0] = 0
    assert LogProbs(row, 0).of(0) == pytest.approx(-math.log1p((2**18 - 1) * math.exp(-30)), rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_has_no_logarithm(bad: float) -> None:
    with pytest.raises(InputError, match=r"after position 4 are not numbers .* no id has a log-probability"):
        LogProbs(np.array([0, bad, 1], np.float32), 4)


# ---------------------------------------------------------------- generate


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(1, CONTEXT - 30), min_size=1, max_size=5),
    how=st.sampled_from(HOW),
    n_top=st.integers(0, 5),
    echo=st.booleans(),
    n=st.integers(0, 12),
)
def test_logprobs_are_those_of_the_logits(
    model: miaotui.Model, lone: miaotui.Model, sizes: list[int], how: dict[str, Any], n_top: int, *, echo: bool, n: int
) -> None:  # fmt: skip
    """In a list, whatever is cached; `echo` tells of the prompt too; the same ids are drawn as without them."""
    prompts = [ids_of(3, size) for size in sizes]
    asked = {"logprobs": True, "top_logprobs": n_top, "echo": echo, "max_new_tokens": n, "ignore_eos": True}
    for prompt, out in zip(prompts, model.generate(prompts, **asked, **how), strict=True):
        text = prompt + out.ids
        check(out.logprobs or [], text, exact(lone, text[:CONTEXT]), n_top, 0 if echo else len(prompt))
        assert out.ids == lone.generate(prompt, max_new_tokens=n, ignore_eos=True, **how).ids
        one = lone.generate(prompt, **asked, **how)
        assert one.logprobs == out.logprobs, "neighbours or threads changed a bit"


def test_steps_have_them_in_threads_tasks_and_sequences(model: miaotui.Model) -> None:
    prompt = ids_of(4, 70)
    asked: dict[str, Any] = {"top_logprobs": 2, "echo": True, "max_new_tokens": 6, "ignore_eos": True}
    wanted = model.generate(prompt, **asked)
    assert len(wanted.logprobs or []) == 76
    steps = [step.logprobs for step in model.tokens(prompt, **asked)]
    assert [len(step) for step in steps] == [71, 1, 1, 1, 1, 1]
    assert [each for step in steps for each in step] == wanted.logprobs
    got: dict[int, Any] = {}
    in_threads(lambda i: got.update({i: model.generate(prompt, **asked).logprobs}), 3)
    assert got == dict.fromkeys(range(3), wanted.logprobs)
    assert asyncio.run(model.agenerate(prompt, **asked)).logprobs == wanted.logprobs
    drawn = model.generate(prompt, n=2, temperature=1.0, seed=1, **asked)
    assert drawn.logprobs != drawn.alternatives[0].logprobs
    assert (drawn.logprobs or [])[:70] == (wanted.logprobs or [])[:70]
    with model.sequence() as text:
        text.feed(prompt[:40])
        later = text.generate(prompt[40:], **asked)
        assert later.logprobs == (wanted.logprobs or [])[40:], "the first of what is added follows what is there"
    assert model.generate(prompt, max_new_tokens=2).logprobs is None


def test_a_backend_without_an_engine_has_the_same_bits(directory: Path, lone: miaotui.Model) -> None:
    """A GPU's sequences are computed one at a time; here the CPU's are."""
    prompt, asked = ids_of(8, 70), {"top_logprobs": 3, "echo": True, "max_new_tokens": 5, "ignore_eos": True}
    candidates = [ids_of(9 + i, 1 + 20 * i) for i in range(4)]
    with miaotui.load(directory) as model:
        model.session.engine = None
        assert model.generate(prompt, **asked).logprobs == lone.generate(prompt, **asked).logprobs
        assert model.score(prompt, candidates) == lone.score(prompt, candidates)
        seen: list[int] = []
        model.generate(prompt, logits_processor=lambda ids, _: seen.append(len(ids)), max_new_tokens=3, ignore_eos=True)
        assert seen == [70, 71, 72]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"logprobs": 5}, "logprobs=5: expected True or False; top_logprobs=5 tells"),
    ({"top_logprobs": -1}, f"top_logprobs=-1: expected an integer from 0 to {N_VOCAB}"),
    ({"top_logprobs": N_VOCAB + 1}, "the vocabulary"),
    ({"top_logprobs": True}, "top_logprobs=True"),
    ({"echo": "yes"}, "echo='yes': expected True or False"),
    ({"logprobs": False, "echo": True}, "logprobs=False: echo=True asks"),
    ({"num_beams": 2, "logprobs": True}, r"num_beams=2: logprobs \(top_logprobs, echo\) and beams do not go together"),
    ({"num_beams": 2, "logits_processor": print}, "num_beams=2: logits_processor and beams"),
    ({"logits_processor": 3}, r"logits_processor=3: expected a function f\(ids, row\)"),
    ({"logits_processor": [print, "x"]}, r"logits_processor\[1\]='x'"),
]


@pytest.mark.parametrize(("parameters", "said"), REFUSED)
def test_what_is_refused(lone: miaotui.Model, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        lone.generate([1, 2], **parameters)


# ---------------------------------------------------------------- processors


def test_a_processor_sees_the_whole_text_and_the_raw_row(model: miaotui.Model, lone: miaotui.Model) -> None:
    prompt, seen = ids_of(7, 20), []

    def never_even(ids: list[int], row: np.ndarray) -> None:
        seen.append((list(ids), row.copy()))
        ids.clear()  # a copy of ours
        row[::2] = -np.inf

    def doubled(_: list[int], row: np.ndarray) -> np.ndarray:
        assert np.isneginf(row[::2]).all(), "they run in their order"
        return 2 * row

    how: dict[str, Any] = {"logits_processor": [never_even, doubled], "max_new_tokens": 8, "ignore_eos": True}
    out = model.generate(prompt, logprobs=True, **how)
    text = prompt + out.ids
    assert all(i % 2 for i in out.ids)
    assert [ids for ids, _ in seen] == [text[: 20 + i] for i in range(8)]
    assert np.array_equal([row for _, row in seen], lone.logits(text)[19:-1])
    wanted = []
    for _ in range(8):
        row = lone.logits(prompt + wanted)[-1]
        row[::2] = -np.inf
        wanted.append(int(row.argmax()))
    assert out.ids == wanted
    check(out.logprobs or [], text, exact(lone, text), 0, 20)  # of the raw logits all the same
    assert [t.id for t in model.tokens(prompt, **how)] == out.ids
    assert asyncio.run(model.agenerate(prompt, **how)).ids == out.ids
    forbidden = model.generate(prompt, bad_words_ids=[[out.ids[0]]], **how)
    assert forbidden.ids[0] != out.ids[0], "rules hold whatever a processor does"
    drawn = model.generate(prompt, temperature=2.0, seed=3, **how)
    halved = {**how, "logits_processor": [never_even]}
    assert drawn.ids == model.generate(prompt, temperature=1.0, seed=3, **halved).ids, "before the temperature"


def test_what_a_processor_raises_ends_its_text_alone(model: miaotui.Model, lone: miaotui.Model) -> None:
    prompts, how = [ids_of(80 + i, 5) for i in range(3)], {"max_new_tokens": 6, "ignore_eos": True}

    def fails(ids: list[int], _: np.ndarray) -> None:
        if ids[:5] == prompts[1]:
            raise LookupError(len(ids))

    with counted(model) as sizes, pytest.raises(LookupError, match="5"):
        model.generate(prompts, logits_processor=fails, **how)
    assert sizes == [15, 2, 2, 2, 2, 2], "the others come to their end"
    answers, raised = dict[int, list[int]](), []

    def ask(i: int) -> None:
        try:
            answers[i] = model.generate(prompts[i], logits_processor=fails, **how).ids
        except LookupError as e:
            raised.append(e)

    in_threads(ask, 3)
    assert answers == {i: lone.generate(prompts[i], **how).ids for i in (0, 2)}
    assert len(raised) == 1
    assert not list(model.session.engine._wants)


class MineError(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MineError])
@pytest.mark.parametrize("at", [0, 3])
def test_what_is_no_exception_ends_its_text_alone_too(
    model: miaotui.Model, lone: miaotui.Model, kind: type[BaseException], at: int
) -> None:
    """Whoever takes the pass: a thread that shares it, the same call, a task of another text."""
    prompts: list[list[int]] = [ids_of(90 + i, 5) for i in range(3)]
    how: dict[str, Any] = {"max_new_tokens": 6, "ignore_eos": True}
    wanted = [lone.generate(prompt, **how).ids for prompt in prompts]

    def fails(ids: list[int], _: np.ndarray) -> None:
        if ids[:5] == prompts[1] and len(ids) == 5 + at:
            raise kind(at)

    with counted(model) as sizes, pytest.raises(kind, match=str(at)):
        model.generate(prompts, logits_processor=fails, **how)
    assert len(sizes) == 6, "the others come to their end"
    got: dict[int, object] = {}

    def ask(i: int) -> None:
        try:
            got[i] = model.generate(prompts[i], logits_processor=fails, **how).ids
        except BaseException as e:  # noqa: BLE001 - compared below
            got[i] = type(e)

    in_threads(ask, 3)
    assert got == {0: wanted[0], 1: kind, 2: wanted[2]}
    if kind is MineError:  # of a task, asyncio lets the two others end its loop

        async def tasks() -> list[Any]:
            asked = (model.agenerate(prompt, logits_processor=fails, **how) for prompt in prompts)
            return await asyncio.gather(*asked, return_exceptions=True)

        first, error, last = asyncio.run(tasks())
        assert (first.ids, type(error), last.ids) == (wanted[0], kind, wanted[2])
    assert not list(model.session.engine._wants)


def test_several_generators_end_with_what_one_of_them_raises() -> None:
    """Whatever it is: nobody waits for the others' next."""

    async def numbers(error: type[BaseException] | None) -> AsyncGenerator[int, None]:
        yield 1
        if error is not None:
            raise error
        await asyncio.Event().wait()

    async def read(error: type[BaseException]) -> None:
        async for _ in merged([numbers(None), numbers(error)]):
            pass

    for kind in (LookupError, MineError):
        with pytest.raises(kind):
            asyncio.run(asyncio.wait_for(read(kind), 60))


def test_ctrl_c_in_another_s_processor_is_the_thread_s_that_takes_the_pass(
    model: miaotui.Model, lone: miaotui.Model
) -> None:
    """It reaches the main thread, whose text has no processor; the other's is drawn again, by its own thread."""
    mine, others = ids_of(95, 5), ids_of(96, 5)
    how: dict[str, Any] = {"max_new_tokens": 40, "ignore_eos": True}
    main, struck, answers, begun = threading.get_ident(), list[int](), list[list[int]](), threading.Event()

    def strikes(ids: list[int], _: np.ndarray) -> None:
        begun.set()
        if threading.get_ident() == main and not struck:
            struck.append(len(ids))
            signal.raise_signal(signal.SIGINT)

    def ask() -> None:
        while not struck:
            answers.append(model.generate(others, logits_processor=strikes, **how).ids)

    def go_on() -> None:
        for _ in range(1000):
            model.generate(mine, **how)

    before, thread = signal.signal(signal.SIGINT, signal.default_int_handler), threading.Thread(target=ask)
    try:
        thread.start()
        assert begun.wait(60)
        with pytest.raises(KeyboardInterrupt):
            go_on()
    finally:
        struck.append(0)
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert struck[0]
    assert set(map(tuple, answers)) == {tuple(lone.generate(others, **how).ids)}
    assert model.generate(mine, **how).ids == lone.generate(mine, **how).ids


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            lambda row: row[:-1],
            rf"logits_processor 0 \(f\) returned float32 of shape \({N_VOCAB - 1},\); expected None",
        ),
        (lambda row: row.astype(np.float64), "returned float64 of shape"),
        (lambda row: row.tolist(), "returned list"),
        (lambda row: row * np.float32(np.nan), "left NaN in its row after position 1"),
        (lambda row: row - np.float32(np.inf), "left -inf alone"),
        (lambda row: row + np.float32(np.inf), r"left \+inf"),
        (lambda row: row.resize(5, refcheck=False), r"left float32 of shape \(5,\); expected None"),
    ],
)
def test_what_a_processor_may_not_return(lone: miaotui.Model, made: Any, said: str) -> None:
    def f(_: list[int], row: np.ndarray) -> Any:
        return made(row)

    with pytest.raises(InputError, match=said):
        lone.generate([1, 2], logits_processor=f, max_new_tokens=2)


def test_a_row_is_the_processor_s_own(lone: miaotui.Model) -> None:
    """It may keep it, lock it, and write into it later: no answer knows of it."""
    prompt, how = ids_of(85, 9), {"max_new_tokens": 6, "ignore_eos": True, "temperature": 1.5, "seed": 2}
    kept: list[np.ndarray] = []

    def keeps(_: list[int], row: np.ndarray) -> None:
        kept.append(row)
        row.setflags(write=False)

    def spoils(_: list[int], row: np.ndarray) -> None:
        for old in kept:
            old.fill(np.nan)
        kept.append(row)

    out = lone.generate(prompt, **how)
    assert lone.generate(prompt, logits_processor=keeps, repetition_penalty=1.0, **how).ids == out.ids
    assert np.array_equal(kept, lone.logits(prompt + out.ids)[8:-1])
    kept.clear()
    assert lone.generate(prompt, logits_processor=spoils, **how).ids == out.ids


def test_a_processor_that_asks_its_own_model_is_told(lone: miaotui.Model) -> None:
    with pytest.raises(InputError, match="computing with the model already"):
        lone.generate([1], logits_processor=lambda ids, _: lone.generate(ids), max_new_tokens=1)


# ---------------------------------------------------------------- score, choose, perplexity


@settings(max_examples=8, deadline=None)
@given(
    n=st.integers(1, CONTEXT - 60),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=9),
    seed=st.integers(0, 9),
)
def test_scores_are_those_of_the_logits(
    model: miaotui.Model, lone: miaotui.Model, n: int, sizes: list[int], seed: int
) -> None:
    """Candidates longer than a pass has rows are cut; neighbours, threads and the cache change no bit."""
    prompt, candidates = ids_of(seed, n), [ids_of(100 + seed + i, size) for i, size in enumerate(sizes)]
    got = model.score(prompt, candidates)
    for ids, score in zip(candidates, got, strict=True):
        log_p = exact(lone, prompt + ids[:-1])[n - 1 :]
        assert score.ids == ids
        assert score.logprobs == pytest.approx([row[i] for row, i in zip(log_p, ids, strict=True)], abs=1e-12)
        assert score.sum == math.fsum(score.logprobs)
        assert score.mean == score.sum / len(ids)
        assert score.greedy == (log_p.argmax(-1) == ids).all()
        assert lone.score(prompt, [ids]) == [score]
    assert lone.score(prompt, candidates[::-1]) == got[::-1]
    assert not list(model.session.engine._wants)


def test_a_prompt_is_read_once_and_candidates_share_passes(directory: Path) -> None:
    prompt, candidates = ids_of(90, 100), [ids_of(91 + i, 5) for i in range(8)]
    with miaotui.load(directory, cache_tokens=12 * PAGE) as model:
        with counted(model) as sizes:
            first = model.score(prompt, candidates)
        assert sizes[0] == 100
        assert sizes[1:] == [32], "8 candidates of 4 ids that are read"
        with counted(model) as sizes:
            assert model.score(prompt, candidates) == first
        assert sum(sizes) <= 1 + 32 if model.session.program.groups == (None,) else 100 + 32
        assert model.score(prompt, []) == []


def test_scores_next_to_answers_where_the_cache_is_full(model: miaotui.Model, lone: miaotui.Model) -> None:
    prompt, got = ids_of(95, CONTEXT - 20), dict[int, Any]()
    candidates = [ids_of(96 + i, 12 + i) for i in range(6)]

    def ask(i: int) -> None:
        if i % 2:
            got[i] = model.score(prompt, candidates)
        else:
            got[i] = model.generate(ids_of(i, 2 * PAGE), max_new_tokens=30, ignore_eos=True).ids

    in_threads(ask, 4)
    wanted = lone.score(prompt, candidates)
    assert got[1] == got[3] == wanted
    for i in (0, 2):
        assert got[i] == lone.generate(ids_of(i, 2 * PAGE), max_new_tokens=30, ignore_eos=True).ids


@pytest.mark.parametrize(
    ("prompt", "candidates", "said"),
    [
        ([1], [[2], []], "candidate 1: no token ids"),
        ([1], [[2], [N_VOCAB]], f"candidate 1: id {N_VOCAB} at position 0"),
        ([1], [2], "candidate 0: int found"),
        ([1], "abc", "candidates: 'abc' found, expected a list"),
        ([], [[1]], "prompt: no token ids"),
        ([1] * CONTEXT, [[1], [1, 2]], f"candidate 1: 2 tokens after the prompt's {CONTEXT}: 1 more than the context"),
    ],
)
def test_scores_that_are_refused(lone: miaotui.Model, prompt: Any, candidates: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        lone.score(prompt, candidates)


OPTIONS = [" ball.", " because.", " very, very happy.", " girl named Lily."]


@pytest.fixture(scope="module")
def stories() -> Iterator[miaotui.Model]:
    with miaotui.load(demo.path()) as model:
        yield model


@pytest.mark.parametrize("normalize", [None, "tokens"])
def test_options_are_chosen_by_a_softmax_of_their_scores(stories: miaotui.Model, normalize: Any) -> None:
    question = "Tom had a red"
    chosen = stories.choose(question, OPTIONS, normalize=normalize)
    before, logs = stories.tokenizer.encode(question), []
    for option in OPTIONS:
        ids = stories.tokenizer.encode(question + option)
        assert ids[: len(before)] == before
        log_p = exact(stories, ids)
        each = [log_p[at - 1, ids[at]] for at in range(len(before), len(ids))]
        logs.append(sum(each) if normalize is None else sum(each) / len(each))
    powers = np.exp(np.array(logs) - max(logs))
    wanted = dict(zip(OPTIONS, powers / powers.sum(), strict=True))
    assert chosen.probabilities == pytest.approx(wanted, rel=1e-10)
    assert chosen.choice == OPTIONS[int(np.argmax(logs))]
    for turned in (OPTIONS[::-1], OPTIONS[2:] + OPTIONS[:2]):
        assert stories.choose(question, turned, normalize=normalize) == chosen, "their order changed a bit"


def test_a_text_s_tokens_are_what_it_adds_or_its_own(stories: miaotui.Model) -> None:
    encode = stories.tokenizer.encode
    [added] = stories.score("Once upon", [" a time"])
    assert encode("Once upon") + added.ids == encode("Once upon a time")
    [own] = stories.score("Once upo", ["n a time"])
    assert encode("Once upon a time")[: len(encode("Once upo"))] != encode("Once upo"), "a token crosses"
    assert own.ids == encode("n a time", add_special_tokens=False)
    assert stories.score(encode("Once upon"), [added.ids]) == [added]
    with pytest.raises(InputError, match="candidate 1: '' has no tokens"):
        stories.score("Once", [" upon", ""])
    with pytest.raises(TokenizerError, match="candidate 1: the text holds a lone surrogate"):
        stories.score("Once", [" upon", "\ud800"])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"options": []}, "options: no options"),
        ({"options": ["a", "b", "a"]}, "options: 'a' is there twice"),
        ({"options": ["a", 3]}, "option 1: 3 found, expected a text"),
        ({"options": ["a", ""]}, "option 1: '' has no tokens"),
        ({"options": ["a", " b" * 3000]}, "option 1: .* more than the context"),
        ({"options": "ab"}, "options: 'ab' found, expected a list"),
        ({"question": [1], "options": ["a"]}, r"question: \[1\] found, expected a text"),
        ({"options": ["a"], "normalize": ["tokens"]}, r"normalize=\['tokens'\]: expected None, or 'tokens'"),
        ({"options": ["a"], "normalize": "bytes"}, "normalize='bytes': expected None, or 'tokens'"),
    ],
)
def test_choices_that_are_refused(stories: miaotui.Model, how: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        stories.choose(**({"question": "Once"} | how))


def test_heads_for_classes_score_pairs(tmp_path: Path) -> None:
    question, options = "What is the capital of Germany?", ["Berlin", "Paris", "the tea is bad"]
    kinds = {"rank": ("score",), "nli": ("contradiction", "neutral", "entailment"), "two": ("bad", "good")}
    for name, labels in kinds.items():
        write_model(tmp_path / name, "bert", "classes", labels=labels)
    for name in ("rank", "nli"):
        with miaotui.load(tmp_path / name) as model:
            framed = [model.tokenizer.framed(question, pair=option) for option in options]
            logits = [model.logits(ids, token_types=types)[-1].astype(np.float64) for ids, types in framed]
            wanted = np.exp(logits) / np.exp(logits).sum()
            chosen = model.choose(question, options)
            assert list(chosen.probabilities.values()) == pytest.approx(wanted.tolist(), rel=1e-10)
            assert chosen.choice == options[int(np.argmax(wanted))]
            assert model.choose(question, options[::-1]) == chosen
            with pytest.raises(InputError, match="normalize='tokens': of models that write"):
                model.choose(question, options, normalize="tokens")
            with pytest.raises(InputError, match="score: bert is an encoder, which writes no text"):
                model.score(question, options)
    with (
        miaotui.load(tmp_path / "two") as model,
        pytest.raises(InputError, match=r"labels \['bad', 'good'\]; expected one"),
    ):
        model.choose(question, options)


def test_an_encoder_decoder_scores_what_its_decoder_may_write(tmp_path: Path) -> None:
    write_writer(tmp_path, "t5")
    with miaotui.load(tmp_path) as model:
        prompt, candidates = "the city of Berlin", ["Paris", "the tea is bad"]
        decoding = model.config.decoding
        assert decoding is not None
        for text, score in zip(candidates, model.score(prompt, candidates), strict=True):
            assert score.ids == model.tokenizer.encode(text, add_special_tokens=False)
            z = model.logits(model.tokenizer.encode(prompt), decoder_ids=[decoding.start, *score.ids[:-1]])
            log_p = z.astype(np.float64) - np.log(np.exp(z.astype(np.float64)).sum(-1, keepdims=True))
            assert score.logprobs == pytest.approx([row[i] for row, i in zip(log_p, score.ids, strict=True)], abs=1e-9)
        out = model.generate(prompt, logprobs=True, max_new_tokens=3)
        assert [each.id for each in out.logprobs or []] == out.ids
        with pytest.raises(InputError, match="echo: of decoders only"):
            model.generate(prompt, echo=True)


def test_perplexity_is_the_tool_s(stories: miaotui.Model) -> None:
    texts = ["Once upon a time there was a little girl.", "Tom had a red ball. He liked it."]
    got = stories.perplexity(texts, window=5)
    assert got == [stories.perplexity(text, window=5) for text in texts]
    for text, told in zip(texts, got, strict=True):
        ids = stories.tokenizer.encode(text)
        windows = [ids[at : at + 6] for at in range(0, len(ids) - 1, 5)]
        nats = [-exact(stories, w)[i, w[i + 1]] for w in windows for i in range(len(w) - 1)]
        assert told.n_tokens == len(nats) == len(ids) - 1
        assert told.nll_per_token == pytest.approx(np.mean(nats), rel=1e-12)
        assert vars(told) == measure(stories, text, window=5)
    for wrong, said in (([3], "text 0: 3 found"), ("", "the text: too short"), ([""], "text 0: too short")):
        with pytest.raises(InputError, match=said):
            stories.perplexity(wrong)
    with pytest.raises(InputError, match="window=0: expected an integer >= 1"):
        stories.perplexity(texts, window=0)
