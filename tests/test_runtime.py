"""The contracts of the interpreter: the oracle, bit-identity, the arena, allocation, threads."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
import tracemalloc
from itertools import product
from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
import soak
from checkpoints import Drawn, write_checkpoint
from helpers import open_weights, oracle, poison, run
from miaotui.errors import InputError, MemoryLimitError
from miaotui.runtime.cpu.backend import cpu_session
from miaotui.runtime.kvcache import KV_BYTES, cache_bytes, padded_context
from miaotui.runtime.ops import HEADER
from miaotui.tools import demo
from tolerance import bound

if TYPE_CHECKING:
    from pathlib import Path

    from miaotui.runtime.program import Instruction

IDS = [1, 5, 9, 2, 7, 3, 8, 4, 6, 0, *(n ^ 1 for n in range(10, 32)), 33, 5, 5, 7, 2]


def llama(path: Path, **changes: object) -> Path:
    """A small Llama with awkward sizes."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 37, "hidden_size": 36,
        "intermediate_size": 50, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 10, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": True, **changes,
    }  # fmt: skip
    write_checkpoint(path, Drawn(config, "F32", 7))
    return path


def digest(logits: np.ndarray) -> str:
    """SHA-256 of the bits."""
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("mistral"), model_type="mistral", sliding_window=5, attention_bias=None)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_logits_equal_the_float64_oracle(tmp_path: Path, dtype: str) -> None:
    config = json.loads((llama(tmp_path) / "config.json").read_text())
    write_checkpoint(tmp_path, Drawn(config, dtype, 3))
    cfg, weights = open_weights(tmp_path)
    wanted = oracle(cfg, weights, IDS)
    with miaotui.load(tmp_path) as model:
        got = model.logits(IDS)
    assert np.abs(got - wanted).max() <= bound("model", "f32", cfg.n_layers, np.abs(wanted).max())


@pytest.mark.parametrize(
    ("which", "quantize", "kv_cache"),
    [
        *(("small", None, kind) for kind in KV_BYTES),
        *(("windowed", None, kind) for kind in KV_BYTES),
        ("small", "int8", "f32"),
        ("small", "int4,embed=int8", "int8"),
        ("small", "int4a", "bf16"),
    ],
)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_threads_or_on_how_the_prompt_is_cut(
    which: str, quantize: str | None, kv_cache: str, threads: int, request: pytest.FixtureRequest
) -> None:
    config, weights = open_weights(request.getfixturevalue(which), quantize)
    n = len(IDS)
    one = cpu_session(config, weights, n_context=64, chunk=64, n_logits=64, kv_cache=kv_cache)
    whole = run(one, IDS, [n])
    session = cpu_session(config, weights, n_context=64, chunk=64, n_logits=64, threads=threads, kv_cache=kv_cache)
    for cut in range(1, n):
        poison(session)
        assert np.array_equal(run(session, IDS, [cut, n - cut]), whole), cut
    poison(session)
    assert np.array_equal(run(session, IDS, [1] * n), whole)
    for chunk in (1, 3, 16, 17):
        cut = cpu_session(config, weights, n_context=64, chunk=chunk, n_logits=1, threads=threads, kv_cache=kv_cache)
        cut.step(IDS, 0)
        assert np.array_equal(cut.logits[-1], whole[-1]), chunk
        cut.close()
    session.close()
    one.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_fast_products_are_the_same_for_every_cut(tmp_path: Path, threads: int) -> None:
    """They have an order of their own, but one: threads and cuts do not matter, and the exact result is near."""
    config = json.loads((llama(tmp_path) / "config.json").read_text())
    write_checkpoint(tmp_path, Drawn(config, "BF16", 3))
    cfg, weights = open_weights(tmp_path)
    exact = run(cpu_session(cfg, weights, n_context=64, chunk=64, n_logits=64), IDS, [len(IDS)])
    whole = run(cpu_session(cfg, weights, n_context=64, chunk=64, n_logits=64, precision="bf16"), IDS, [len(IDS)])
    session = cpu_session(cfg, weights, n_context=64, chunk=64, n_logits=64, threads=threads, precision="bf16")
    for sizes in ([1] * len(IDS), [3] * (len(IDS) // 3) + [len(IDS) % 3], [17, len(IDS) - 17]):
        poison(session)
        assert np.array_equal(run(session, IDS, [n for n in sizes if n]), whole)
    assert not np.array_equal(whole, exact)
    # An input rounded to 8 bits is off by 2^-9 at most; what a product sums of it is as a rule its root's worth.
    assert np.abs(whole - exact).max() <= 2.0**-9 * 8 * np.abs(exact).max()


def test_cached_and_recomputed_are_equal(small: Path) -> None:
    with miaotui.load(small, threads=2) as model:
        answer = model.generate(IDS[:5], max_new_tokens=20, ignore_eos=True)
        everything = model.logits(IDS[:5] + answer.ids)
        assert answer.ids == [int(row.argmax()) for row in everything[4:-1]]


CHILD = """
import hashlib, json, sys, numpy as np, miaotui
ids, cases = map(json.loads, sys.argv[1:])
for path, how in cases:
    with miaotui.load(path, threads=2, **how) as m:
        print(hashlib.sha256(np.ascontiguousarray(m.logits(ids)).tobytes()).hexdigest())
"""
#: The dtype of a file, and how it is loaded: together every kind of matrix and of cache.
WAYS: tuple[tuple[str, dict[str, str]], ...] = (
    *((dtype, {}) for dtype in ("F32", "BF16", "F16")),
    ("BF16", {"precision": "bf16"}),
    ("BF16", {"quantize": "int8", "kv_cache": "int8"}),
    ("F32", {"quantize": "int4", "kv_cache": "bf16"}),
    ("F16", {"quantize": "int4a"}),
)
CHANGES = [{"MIAOTUI_EXECUTOR": "prange"}]
if platform.machine() == "x86_64":
    CHANGES += [{"NUMBA_CPU_NAME": "haswell"}, {"NUMBA_CPU_NAME": "generic"}]


HASWELL = {"NUMBA_CPU_NAME": "haswell"}


@pytest.mark.ci  # 20 s: compiles for another CPU
@pytest.mark.parametrize(
    "change",
    soak.rest("levels", CHANGES, [c for c in CHANGES if c != HASWELL]),
    ids=lambda change: next(iter(change.values())),
)
def test_bits_do_not_depend_on_the_cpu_or_the_executor(tmp_path: Path, change: dict[str, str]) -> None:
    config = json.loads((llama(tmp_path) / "config.json").read_text())
    cases, wanted = [], []
    for i, (dtype, how) in enumerate(WAYS):
        path = tmp_path / str(i)
        write_checkpoint(path, Drawn(config, dtype, 3))
        with miaotui.load(path, **how) as model:
            wanted.append(digest(model.logits(IDS)))
        cases.append((str(path), how))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(IDS), json.dumps(cases)],
        env=os.environ | change, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(zip(cases, done.stdout.split(), strict=True)) == list(zip(cases, wanted, strict=True))


@pytest.mark.parametrize("quantize", [None, "int8", "int4", "int4a"])
@pytest.mark.parametrize(("threads", "auto"), [(1, False), (2, False), (2, True)])
def test_a_step_allocates_nothing(small: Path, threads: int, quantize: str | None, *, auto: bool) -> None:
    from numba.core.runtime import _nrt_python, rtsys

    config, weights = open_weights(small, quantize)
    _nrt_python.memsys_enable_stats()
    session = cpu_session(config, weights, n_context=128, threads=threads, auto=auto)
    session.step(IDS, 0)
    token = [3]
    for position in range(20, 28):
        session.step(token, position)
    gc.collect()
    gc.disable()
    before = rtsys.get_allocation_stats()
    tracemalloc.start()
    for position in range(28, 36):  # what a step holds until the next one replaces it is counted before, too
        session.step(token, position)
    held = tracemalloc.get_traced_memory()[0]
    for position in range(36, 128):
        session.step(token, position)
    grown = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    after = rtsys.get_allocation_stats()
    gc.enable()
    session.close()
    assert (after.alloc, after.free) == (before.alloc, before.free)
    assert grown < 1024  # the interpreter's own small objects come and go; 92 steps leave nothing


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("quantize", [None, "int8", "int4", "int4a"])
def test_predicted_memory_is_what_is_allocated(small: Path, quantize: str | None, kv_cache: str) -> None:
    with miaotui.load(small, threads=2, quantize=quantize, kv_cache=kv_cache) as model:
        session = model._session
        assert session.backend.arena.nbytes == session.program.arena_bytes
        resident = sum(-(-w.nbytes // 64) * 64 for w in session.weights if not w.mapped)
        assert resident == model.memory["weights_resident"]
        real = session.backend.arena.nbytes + sum(t.weight.nbytes for t in session.program.ropes) + resident
        assert model.memory["allocated"] == real
        layer = cache_bytes(kv_cache, 2, padded_context(64), 10)  # this model's heads, positions, width of a head
        assert model.memory["kv_cache"] == 3 * 2 * layer
        limit = model.memory["allocated"]
    miaotui.load(small, threads=2, memory_limit=limit, quantize=quantize, kv_cache=kv_cache).close()
    with pytest.raises(MemoryLimitError, match="1 over memory_limit"):
        miaotui.load(small, threads=2, memory_limit=limit - 1, quantize=quantize, kv_cache=kv_cache)


def test_every_tensor_lies_inside_the_arena_and_none_alive_overlap(small: Path) -> None:
    config, weights = open_weights(small)
    program = cpu_session(config, weights, n_context=64).program
    alive = [t for t in program.tensors if t.home is None]
    for i, a in enumerate(alive):
        assert 0 <= a.offset <= a.offset + a.nbytes <= program.arena_bytes
        for b in alive[i + 1 :]:
            apart = a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
            assert apart or a.dies < b.born or b.dies < a.born, (a, b)


def test_every_hazard_has_a_wait_and_every_wait_a_hazard(small: Path) -> None:
    """Instructions i < j that touch the same bytes, one of them writing, are parted by a wait in (i, j]."""
    config, weights = open_weights(small)
    session = cpu_session(config, weights, n_context=64, chunk=64, n_logits=64, threads=2)
    code = session.program.code
    session.close()

    def meet(a: Instruction, b: Instruction, kinds: str) -> bool:
        pairs = product(a.tensors(kinds[0]), b.tensors(kinds[1]))
        return any(x.offset < y.offset + y.nbytes and y.offset < x.offset + x.nbytes for x, y in pairs)

    waits = [j for j, ins in enumerate(code) if ins.wait]
    for j, b in enumerate(code):
        last = max((w for w in waits if w <= j), default=0)
        clash = [i for i in range(j) if any(meet(code[i], b, kinds) for kinds in ("oi", "oo", "io"))]
        assert all(i < last for i in clash)
        if b.wait:
            before = max((w for w in waits if w < j), default=0)
            assert any(i >= before for i in clash)


def test_waits_have_teeth(small: Path) -> None:
    """With every wait dropped, two threads are seen to go wrong: the barriers are there for a reason."""
    config, weights = open_weights(small)
    session = cpu_session(config, weights, n_context=64, chunk=64, n_logits=len(IDS), threads=2)
    session.step(IDS, 0, len(IDS))
    wanted = session.logits.copy()
    session.backend.code[:, HEADER.index("wait")] = 0
    for _ in range(2000):
        poison(session)
        session.step(IDS, 0, len(IDS))
        if not np.array_equal(session.logits, wanted):
            break
    else:
        pytest.fail("2000 steps without a barrier, and all of them right")
    session.close()


def test_several_models_and_several_python_threads(small: Path, windowed: Path) -> None:
    with miaotui.load(small, threads=2) as a, miaotui.load(windowed, threads=2) as b:
        wanted = digest(a.logits(IDS)), digest(b.logits(IDS))
        got: list[tuple[str, str]] = []

        def work() -> None:
            got.append((digest(a.logits(IDS)), digest(b.logits(IDS))))

        workers = [threading.Thread(target=work) for _ in range(4)]
        for w in workers:
            w.start()
        for w in workers:
            w.join(timeout=60)
        assert got == [wanted] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_starts_its_own_team(small: Path) -> None:
    script = """
import json, os, sys, numpy as np, miaotui
ids = json.loads(sys.argv[2])
m = miaotui.load(sys.argv[1], threads=2)
a = m.logits(ids)
pid = os.fork()
same = np.array_equal(m.logits(ids), a)
if pid == 0: os._exit(0 if same else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and same
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(small), json.dumps(IDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_team_that_idled_wakes(small: Path) -> None:
    config, weights = open_weights(small)
    session = cpu_session(config, weights, n_context=64, threads=2)
    session.step(IDS, 0)
    wanted = session.logits.copy()
    for pause in (0.01, 0.3, 3.0):
        threading.Event().wait(pause)
        session.step(IDS, 0)
        assert np.array_equal(session.logits, wanted)
    session.close()


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], "no token ids"),
        ([99], "not in the vocabulary"),
        ([-1], "position 0"),
        ([1.5], "integer"),
        ([True], "integer"),
        ("", "empty|no token|tokenizer"),
        (None, "expected"),
        (np.zeros((2, 2), int), "one dimension"),
        ([1] * 65, "1 more than the context"),
    ],
)
def test_bad_ids_get_a_typed_error(small: Path, ids: object, words: str) -> None:
    with miaotui.load(small) as model, pytest.raises(miaotui.MiaotuiError, match=words):
        model.generate(ids, max_new_tokens=1)


def test_the_logits_behind_several_sequences(small: Path) -> None:
    sequences = [[1, 2, 3], np.array([4]), [5] * 64]
    with miaotui.load(small, max_context=64, prefill_chunk=7) as model:
        got = model.last_logits(sequences)
        assert got.shape == (3, 37)
        assert [row.tobytes() for row in got] == [model.logits(s)[-1].tobytes() for s in sequences]
        assert model.last_logits([]).shape == (0, 37)
        for bad, words in (
            (3, "int found"), ("text", "str found"), ([1, 2], "sequence 0: int found"), ([[1], []], "sequence 1: no"),
            ([[1], [37]], "sequence 1: id 37"), ([[1] * 65], "sequence 0: 65 tokens, 1 more"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=words):
                model.last_logits(bad)
    with pytest.raises(InputError, match="closed"):
        model.last_logits(sequences)


def test_an_open_stream_holds_nobody_up(small: Path) -> None:
    with miaotui.load(small) as model:
        wanted = model.generate([1, 2], max_new_tokens=5).ids
        first = model.tokens([1, 2], max_new_tokens=5)
        got = [next(first).id]
        assert model.logits([1]).shape == (1, 37)
        assert got + [t.id for t in first] == wanted
    with pytest.raises(InputError, match="closed"):
        model.logits([1])


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"threads": True},
        {"max_context": 0},
        {"max_context": 10**9},
        {"prefill_chunk": -1},
        {"device": "tpu"},
        {"memory_limit": 0.5},
        {"kv_cache": "f16"},
        {"kv_cache": None},
        {"precision": "faster"},
    ],
)
def test_bad_options_get_a_typed_error(small: Path, options: dict[str, object]) -> None:
    with pytest.raises(miaotui.MiaotuiError):
        miaotui.load(small, **options)


@pytest.mark.parametrize(
    ("ids", "start", "n_logits", "said"),
    [
        ([], 0, 0, "0 tokens at position 0 do not fit a context of 16"),
        ([1], -1, 1, "1 tokens at position -1 do not fit"),
        ([1, 1], 15, 1, "2 tokens at position 15 do not fit"),
        ([1, 1], 0, 3, "logits of 3 tokens asked for; a step returns 0 to"),
        ([1, -1], 0, 1, "token id -1 is outside the vocabulary"),
        ([1, 10**6], 0, 1, "token id 1000000 is outside the vocabulary"),
    ],
)
def test_a_step_that_no_kernel_could_take_is_refused(ids, start, n_logits, said):
    with miaotui.load(demo.path(), threads=1, max_context=16) as model:
        with pytest.raises(InputError, match=said):
            model.session.step(ids, start, n_logits)
        model.session.step([1, 2], 14, 0)
