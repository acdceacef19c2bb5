"""The benchmark of many sequences: its sides compute what they say, and its figures are of that; none is asserted."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import math
import shlex
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import BackendError, InputError
from miaotui.tools.bench import compare, engine, engine_parts, run_all, shapes
from miaotui.tools.bench import engine_load as load
from miaotui.tools.bench.engine_side import Ours
from miaotui.tools.bench.peers import gguf as peer_gguf
from miaotui.tools.bench.peers import llamacpp_batch, llamaserver
from miaotui.tools.bench.peers import worker as peer_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

TEXT = """\
 = Heading =

 One sentence of six words . And another one .
 Here is a second paragraph ! It has two .
 Too short
 Short ? No : nothing ends within this one
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.make_checkpoint(tmp_path_factory.mktemp("shapes") / "tiny", "tiny", "bf16")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "PAUSE", 0.0)


# --- our side ---------------------------------------------------------------------------------------------------------


def words(texts: Sequence[Sequence[int]]) -> str:
    return " -1 ".join(" ".join(map(str, text)) for text in texts)


def test_sequences_in_one_pass_go_on_as_each_alone(tiny: Path) -> None:
    texts = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14]]
    side = Ours(tiny, 1, 128, 1024, kv_cache="bf16")
    peer_worker.answer(side, f"fill {words(texts)}")
    first = peer_worker.answer(side, "together 5 0 3")
    again = peer_worker.answer(side, "together 4 0 3")
    single = peer_worker.answer(side, "together 9 3 1")
    assert all(said["seconds"][0] > 0 for said in (first, again, single))
    with miaotui.load(tiny, threads=1, max_context=128, kv_cache="bf16") as model:
        alone = [model.generate(text, max_new_tokens=9, ignore_eos=True).ids for text in texts]
    assert [a + b for a, b in zip(first["ids"], again["ids"], strict=True)] == alone[:3]
    assert single["ids"] == alone[3:]


def test_drawn_ones_are_drawn(tiny: Path) -> None:
    side = Ours(tiny, 1, 128, 1024, kv_cache="bf16")
    peer_worker.answer(side, "fill 5 6 7 -1 5 6 7")
    [drawn] = peer_worker.answer(side, "drawn 12 0 1 80 95")["ids"]
    [greedy] = peer_worker.answer(side, "together 12 1 1")["ids"]
    with miaotui.load(tiny, threads=1, max_context=128, kv_cache="bf16") as model:
        how = {"temperature": 0.8, "top_p": 0.95, "seed": 1}
        assert drawn == model.generate([5, 6, 7], max_new_tokens=12, ignore_eos=True, **how).ids
    assert drawn != greedy


def test_the_next_turn_finds_the_text_in_the_cache_and_steps_begin_after_it(tiny: Path) -> None:
    side = Ours(tiny, 1, 128, 1024)
    peer_worker.answer(side, "begin 70")
    for _ in range(20):  # more than the cache holds: older turns give their pages up, the text stays
        assert peer_worker.answer(side, "turn 9")["reused"] >= 70
        assert peer_worker.answer(side, "stepped 9")["token"] >= 0


def test_threads_answer_each(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = Ours(tiny, 1, 128, 1024)
    assert peer_worker.answer(side, "threads 3 8 5")["seconds"][0] > 0
    monkeypatch.setattr(side._model, "generate", lambda *_, **__: miaotui.Generation("", [1], "eos", None))
    with pytest.raises(BackendError, match=r"2 threads got \[1, 1\] ids, expected 5 each"):
        peer_worker.answer(side, "threads 2 8 5")


def test_a_load_is_answered_as_it_comes(tiny: Path) -> None:
    side = Ours(tiny, 1, 128, 1024)
    requests = [load.Request(0.0, [5, 6, 7], 4), load.Request(0.05, [5, 6, 8, 9], 6)]
    times = peer_worker.answer(side, f"load {words([request.words for request in requests])}")["times"]
    assert [len(came) for came in times] == [4, 6]
    assert all(a <= b for came in times for a, b in itertools.pairwise(came))
    assert times[1][0] > 0.05


# --- the load ---------------------------------------------------------------------------------------------------------


def test_lengths_are_those_of_a_text() -> None:
    assert load.lengths(TEXT) == [(10, 10), (10, 9)]
    assert load.lengths(TEXT, 6, 4) == [(6, 4), (6, 4)]
    with pytest.raises(InputError, match="--text: 1 paragraphs of 4 words or more, expected 2"):
        load.lengths("= a heading of five words =\none line only, with words\ntoo short")


def test_arrivals_are_as_many_as_asked_for_and_the_same_every_time() -> None:
    how: dict[str, Any] = {"rate": 5.0, "seconds": 200.0, "n_vocab": 300, "common": 7}
    requests = load.arrivals([(3, 2), (9, 4)], **how)
    assert requests == load.arrivals([(3, 2), (9, 4)], **how)
    assert requests != load.arrivals([(3, 2), (9, 4)], **how, seed=4)
    gaps = np.diff([request.at for request in requests])
    assert abs(len(requests) - 1000) < 4 * math.sqrt(1000)
    assert abs(gaps.std() / gaps.mean() - 1) < 0.15  # exponential: as wide as it is long
    assert {(len(request.prompt), request.new) for request in requests} == {(10, 2), (16, 4)}
    assert len({tuple(request.prompt[:7]) for request in requests}) == 1
    assert len({tuple(request.prompt[7:]) for request in requests}) > 900
    assert [load.Request.of(request.words).prompt for request in requests] == [r.prompt for r in requests]
    assert all(abs(load.Request.of(r.words).at - r.at) < 1e-6 for r in requests)


def test_what_callers_see() -> None:
    requests = [load.Request(1.0, [1], 3), load.Request(2.0, [1], 2)]
    got = load.seen(requests, [[1.5, 1.6, 2.0], [2.1, 4.0]])
    assert (got["requests"], got["tokens"], got["seconds"], got["tokens_per_s"]) == (2, 5, 4.0, 1.25)
    assert got["first_ms"]["p50"] == pytest.approx(300)
    assert got["between_ms"]["p50"] == pytest.approx(400)
    assert got["between_ms"]["p99"] == pytest.approx(1870)
    with pytest.raises(InputError, match="request 1 got 1 ids, expected 2"):
        load.seen(requests, [[1.5, 1.6, 2.0], [2.1]])


def test_a_load_waits_for_nobody() -> None:
    """The second comes while the first is being answered."""
    began: list[int] = []

    async def stream(prompt: Sequence[int], new: int) -> AsyncIterator[int]:
        began.append(prompt[0])
        for _ in range(new):
            await asyncio.sleep(0.02 if prompt[0] == 1 else 0)
            yield 1

    requests = [load.Request(0.0, [1], 10), load.Request(0.03, [2], 2)]
    slow, quick = asyncio.run(load.driven(requests, stream))
    assert began == [1, 2]
    assert quick[-1] < slow[-1]


# --- the peers --------------------------------------------------------------------------------------------------------

EVENTS = [
    {"content": "", "stop": False, "tokens_predicted": 0},
    {"content": "a", "stop": False, "tokens_predicted": 1},
    {"content": "éé", "stop": False, "tokens_predicted": 3},
    {"content": "", "stop": True, "tokens_predicted": 4},
]


async def asked_of_a_server(new: int, status: str = "200 OK") -> tuple[list[int], dict[str, Any]]:
    """What the client sees of a server that sends `EVENTS`, and what it asked."""
    asked: dict[str, Any] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
        asked.update(json.loads(await reader.readexactly(length)), head=head.partition("\r\n")[0])
        writer.write(f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for event in EVENTS:
            data = f"data: {json.dumps(event)}\n\n".encode()
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, llamaserver.HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return [n async for n in llamaserver.stream(port, [1, 2, 3], new)], asked


def test_events_of_a_server_are_counted() -> None:
    came, asked = asyncio.run(asked_of_a_server(4))
    assert came == [1, 2, 1]
    assert asked["head"] == "POST /completion HTTP/1.1"
    assert (asked["prompt"], asked["n_predict"], asked["top_k"], asked["ignore_eos"]) == ([1, 2, 3], 4, 1, True)


@pytest.mark.parametrize(("new", "status"), [(5, "200 OK"), (3, "503 Service Unavailable")])
def test_a_server_that_answers_less_is_an_error(new: int, status: str) -> None:
    with pytest.raises(RuntimeError, match=rf"llama-server answered \d ids \(HTTP/1.1 {status}\), expected {new}"):
        asyncio.run(asked_of_a_server(new, status))


def test_a_server_that_is_not_there_or_ends_says_so(tmp_path: Path) -> None:
    how = {"slots": 2, "context": 64, "threads": 1}
    with pytest.raises(RuntimeError, match="cannot be run"):
        llamaserver.Server(str(tmp_path / "none"), tmp_path / "m.gguf", **how)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho no such luck\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(RuntimeError, match="no such luck"):
        llamaserver.Server(str(program), tmp_path / "m.gguf", **how)


N_VOCAB = 50


class RawBatch(ctypes.Structure):
    """As much of `llama_batch` as is used."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class Llama:
    """Stands in for the module `llama_cpp`: a row of logits is 1 at a sum over its sequence's ids and positions."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []  # sequences and layout of each context
        self.texts: list[dict[int, int]] = []
        self.rows = np.zeros((0, N_VOCAB), np.float32)

    def __getattr__(self, name: str) -> Any:
        return {"llama_vocab_n_tokens": lambda _: N_VOCAB}.get(name, lambda *_: 1)  # what else is called does nothing

    def llama_context_default_params(self) -> SimpleNamespace:
        return SimpleNamespace()

    def llama_init_from_model(self, _: object, params: SimpleNamespace) -> object:
        n = getattr(params, "n_seq_max", 1)
        if n > 1:
            assert params.n_ctx == n * 32
            self.asked.append((n, params.kv_unified))
            self.texts = [{} for _ in range(n)]
        return self

    def llama_batch_init(self, n: int, _embd: int, n_sequences: int) -> RawBatch:
        assert n_sequences == 1
        own = [(ctypes.c_int32 * 1)() for _ in range(n)]
        pointers = [ctypes.cast(each, ctypes.POINTER(ctypes.c_int32)) for each in own]
        words = [(ctypes.c_int32 * n)() for _ in range(3)]
        return RawBatch(0, *words, (ctypes.POINTER(ctypes.c_int32) * n)(*pointers), (ctypes.c_int8 * n)())

    def llama_decode(self, _: object, batch: RawBatch) -> int:
        rows = []
        for i in range(batch.n_tokens):
            assert batch.n_seq_id[i] == 1
            text = self.texts[batch.seq_id[i][0]]
            assert batch.pos[i] == len(text)  # each comes in its place
            text[batch.pos[i]] = batch.token[i]
            if batch.logits[i]:
                rows.append(np.eye(N_VOCAB, dtype=np.float32)[following(list(text.values()))])
        self.rows = np.array(rows, np.float32)
        return 0

    def llama_memory_seq_rm(self, _: object, sequence: int, first: int, last: int) -> bool:
        assert last == -1
        self.texts[sequence] = {at: token for at, token in self.texts[sequence].items() if at < first}
        return True

    def llama_get_logits(self, _: object) -> Any:
        return self.rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def following(ids: list[int]) -> int:
    return sum((i + 1) * id_ for i, id_ in enumerate(ids)) % N_VOCAB


@pytest.mark.parametrize("layout", ["unified", "a part for each"])
def test_the_peers_batches_hold_each_sequence_in_its_place(
    layout: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The faster layout is taken: by this clock each interval is longer than the one before, or shorter."""
    lib, clock, unified = Llama(), itertools.accumulate(itertools.count()), layout == "unified"
    monkeypatch.setattr(llamacpp_batch.time, "perf_counter", lambda: next(clock) * (1 if unified else -1))
    loaded = SimpleNamespace(lib=lib, model=1, about=lambda: {"name": "llama.cpp"})
    monkeypatch.setattr(llamacpp_batch.llamacpp, "Engine", lambda *_: loaded)
    engine = llamacpp_batch.Engine(tmp_path / "m.gguf", "int8", 1, 32)
    texts = [[1, 2, 3], [4], [5, 6]]
    peer_worker.answer(engine, f"fill {words(texts)}")
    assert peer_worker.answer(engine, "layout") == {"layout": layout}
    assert lib.asked == [(3, True), (3, False)] + ([(3, True)] if unified else [])
    ids = [peer_worker.answer(engine, f"together {order}")["ids"] for order in ("2 0 3", "3 1 2", "3 0 1")]
    want = [list(text) for text in texts]
    for text in want:
        for _ in range(5):
            text.append(following(text))
    assert [*ids[2][0]] == want[0][5:]
    assert [a + b for a, b in zip(ids[0][1:], ids[1], strict=True)] == [want[1][1:], want[2][2:]]
    assert ids[0][0] == want[0][3:5]


def test_a_file_for_the_server_has_its_tokens(tiny: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    peer_gguf.write_gguf(tiny, tmp_path / "m.gguf", tokenizer=True)
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"]
    assert len(tokens.data) == shapes.SHAPES["tiny"]["vocab_size"]
    assert bytes(tokens.parts[tokens.data[0]]).decode() == "<|endoftext|>"


# --- the whole --------------------------------------------------------------------------------------------------------


def test_turns_alternate_and_the_first_does_not_count() -> None:
    order: list[str] = []
    counts = itertools.count()

    def turn(name: str) -> float:
        order.append(name)
        return float(next(counts))

    seconds = engine_parts.by_rounds({name: lambda name=name: turn(name) for name in "abc"}, 2)
    assert "".join(order) == "abc" + "cba" + "abc"
    assert seconds == {"a": [5.0, 6.0], "b": [4.0, 7.0], "c": [3.0, 8.0]}


@pytest.mark.ci  # 20 s
def test_every_part_is_measured_and_a_missing_peer_left_out(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    out = tmp_path / "deep" / "out.json"
    common = ["--quick", "--rounds", "2", "--load-rounds", "1", "--threads", "1", "--work", str(tmp_path / "work")]
    common += ["--dtype", "int8", "--peer-python", str(tmp_path / "none"), "--out", str(out)]
    assert engine.main([*common, "--text", str(tmp_path / "text"), "--only", "together", "threads", "draws"]) == 0
    assert engine.main([*common, "--text", str(tmp_path / "text"), "--only", "turn", "load"]) == 0
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["together", "threads", "draws", "turn", "load"]
    assert str(tmp_path) not in json.dumps(parts)
    rows = {name: [row for row in part["results"] if len(row) > 2] for name, part in parts.items()}
    [together] = rows["together"]
    assert (together["sequences"], together["single"]["pairs"], "peer" in together) == (3, 2, False)
    assert set(together["tokens_per_s"]) == {"ours", "single"}
    assert [(row["n_vocab"], row["logits"]) for row in rows["draws"]] == [
        (n, how) for n in (307, 3070) for how in ("flat", "peaked")
    ]
    assert rows["threads"][0]["single"]["median"] > 0
    assert rows["turn"][0]["step"]["median"] > 0
    [mixed] = rows["load"]
    assert mixed["rounds"]["ours"][0]["tokens"] > 0
    assert "--peer-python" in parts["together"]["skipped"][0]["reason"]
    assert "--server" in parts["load"]["skipped"][0]["reason"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rounds", "0"], "at least 1"),
        (["--counts", "2", "0"], "at least 1"),
        (["--rates", "0"], "more than 0"),
        (["--only", "load", "--quick"], "--text FILE"),
        (["--only", "load", "--quick", "--text", "/none"], "--text /none: No such file"),
    ],
)
def test_what_cannot_be_measured_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine.main(argv)


def test_run_all_makes_the_file_with_the_peers_interpreter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--work", str(tmp_path), "--out", str(tmp_path / "out"), "--only", "engine-*", "--list"]
    assert run_all.main([*where, "--peer-python", "other", "llama.cpp=LLAMA"]) == 0
    [line, _] = capsys.readouterr().out.splitlines()
    words = shlex.split(line.partition(": ")[2])
    args = engine._parser().parse_args(words[3:])
    assert (args.peer_python, args.out.name) == ("LLAMA", "engine-smollm2-135m.json")
    assert set(args.only) == set(engine_parts.PARTS) - {"load"}


def test_ratios_of_a_load_are_over_one_where_ours_is_better() -> None:
    better = {"tokens_per_s": 20.0, "first_ms": {"p50": 1.0, "p99": 5.0}, "between_ms": {"p50": 2.0, "p99": 3.0}}
    worse = {"tokens_per_s": 10.0, "first_ms": {"p50": 4.0, "p99": 10.0}, "between_ms": {"p50": 4.0, "p99": 9.0}}
    got = {name: ratio["median"] for name, ratio in load.ratios([better], [worse]).items()}
    want = {"tokens_per_s": 2, "first_ms_p50": 4, "first_ms_p99": 2, "between_ms_p50": 2, "between_ms_p99": 3}
    assert got == want
