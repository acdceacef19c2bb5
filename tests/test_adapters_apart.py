"""Adapters that are kept apart from the matrices: each text chooses one, and texts of all share passes.

What a text gets does not depend on the adapters of others, on threads, or on how it is cut; without an adapter it gets
the bits of a model that was loaded without any.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, small, write_checkpoint
from helpers import by_name, open_weights, oracle, poison
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, PlanError
from miaotui.runtime.adapters import Adapters
from miaotui.runtime.cpu.backend import cpu_session
from miaotui.runtime.lora import with_adapters
from miaotui.runtime.recorder.record import record
from miaotui.runtime.sequence import Sequence
from miaotui.runtime.spec import Adapter, Weight, Weights
from tolerance import bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miaotui.runtime.session import Session
    from miaotui.runtime.spec import Config

NAMES = ("first", "second", "third")
MATRICES = {"q", "k", "v", "o", "gate", "up", "down", "head"}


def drawn_adapters(weights: Weights, seed: int, share: float = 0.7) -> dict[str, tuple[Adapter | None, ...]]:
    """Of a share of the products, each with ranks of its own; the third one has factors of rows."""
    rng, numbers = np.random.default_rng(seed), count()

    def weight(*shape: int, scale: float, mean: float = 0.0) -> Weight:
        array = (rng.standard_normal(shape) * scale + mean).astype(np.float32)
        return Weight(f"drawn.{next(numbers)}", "f32", shape, array, mapped=False)

    parts: dict[str, tuple[Adapter | None, ...]] = {}
    for name, w in by_name(weights).items():
        if name.rpartition(".")[2] in MATRICES and rng.random() < share:
            (n, k), r = w.shape, int(rng.choice([1, 4, 8, 17]))
            each = [
                None
                if rng.random() < 0.2
                else Adapter(weight(r + i, k, scale=k**-0.5), weight(n, r + i, scale=0.3), 0.5 + i,
                             weight(n, scale=0.1, mean=1.0) if i == 2 else None)
                for i in range(len(NAMES))
            ]  # fmt: skip
            if any(each):
                parts[name] = tuple(each)
    return parts


def adapted(path: Path, seed: int = 0, quantize: str | None = None) -> tuple[Config, Weights, Weights]:
    """Config, the weights of a directory, and these with adapters."""
    config, plain = open_weights(path, quantize)
    return config, plain, with_adapters(plain, NAMES, drawn_adapters(plain, seed))


def alone(session: Session, ids: list[int], adapter: int) -> np.ndarray:
    """Logits of every position."""
    table = session.admit(None)
    table.adapter = adapter
    session.turn(lambda: session.compute(table, ids, len(ids)))
    return session.logits.copy()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.sampled_from(FAMILIES).flatmap(models), seed=st.integers(0, 2**16), data=st.data())
def test_each_adapter_is_its_reference_and_none_is_the_model_alone(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn, seed: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("drawn")
    write_checkpoint(path, drawn)
    config, plain, weights = adapted(path, seed, data.draw(st.sampled_from([None, None, "int8"])))
    n = data.draw(st.integers(1, min(drawn.longest, 40)))
    ids = [int(i) for i in np.random.default_rng(seed).integers(0, config.n_vocab, n)]
    how: dict[str, Any] = {"n_context": n, "chunk": n, "n_logits": n, "threads": data.draw(st.integers(1, 3))}
    session = cpu_session(config, weights, **how)
    without = cpu_session(config, plain, **how)
    poison(session)
    for adapter in (3, 0, 1, 2):
        got = alone(session, ids, adapter)
        wanted = oracle(config, weights, ids, adapter)
        if all(not w.quantized for w in plain):  # which rounds its input: a number next to a tie falls to either side
            scale = max(np.abs(wanted).max(), np.abs(oracle(config, plain, ids)).max())
            assert np.abs(got - wanted).max() <= bound("model", "f32", config.n_layers, scale)
        if adapter == 0:
            assert got.tobytes() == alone(without, ids, 0).tobytes()
    session.close()
    without.close()


@pytest.fixture(scope="module", params=["llama", "gpt2", "int8"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Weights, Weights]:
    path = tmp_path_factory.mktemp("model")
    write_checkpoint(path, small("llama" if request.param == "int8" else request.param))
    return adapted(path, 5, "int8" if request.param == "int8" else None)


TEXTS = [[int(i) for i in np.random.default_rng(n).integers(0, 11, n)] for n in (1, 20, 7, 13, 2, 16, 3)]


def mixed(session: Session, adapters: list[int]) -> Iterator[np.ndarray]:
    """The last logits of every text, all of which are in one pass; then those of a token more of each, in another."""
    tables = [session.admit(None) for _ in TEXTS]
    for table, adapter in zip(tables, adapters, strict=True):
        table.adapter = adapter
    for parts in ([(t, ids, 0, 1) for t, ids in zip(tables, TEXTS, strict=True)],
                  [(t, [3], len(ids), 1) for t, ids in zip(tables, TEXTS, strict=True)]):  # fmt: skip
        session.turn(lambda parts=parts: session.run_pass(parts))  # type: ignore[misc]  # run at once
        yield session.logits.copy()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_mixed_batch_equals_each_alone(model: tuple[Config, Weights, Weights], threads: int) -> None:
    config, _, weights = model
    lone = cpu_session(config, weights, n_context=64, chunk=64, n_logits=64)
    session = cpu_session(config, weights, n_context=64, chunk=64, n_logits=32, threads=threads, n_pages=16)
    for turn in range(4):
        adapters = [(i + turn) % 4 for i in range(len(TEXTS))]
        wanted = [alone(lone, [*ids, 3], a)[-2:] for ids, a in zip(TEXTS, adapters, strict=True)]
        assert len({w.tobytes() for w in wanted}) == len(TEXTS)
        poison(session)
        for which, rows in enumerate(mixed(session, adapters)):
            for row, each in zip(rows, wanted, strict=True):
                assert row.tobytes() == each[which].tobytes()
    session.close()
    lone.close()


def test_bits_do_not_depend_on_how_a_text_is_cut(model: tuple[Config, Weights, Weights]) -> None:
    config, _, weights = model
    ids = TEXTS[1]
    lone = cpu_session(config, weights, n_context=64, chunk=64, n_logits=64)
    for adapter in range(4):
        whole = alone(lone, ids, adapter)
        for chunk in (1, 3, 16, 17):
            session = cpu_session(config, weights, n_context=64, chunk=chunk, n_logits=chunk, threads=2)
            assert alone_row(session, ids, adapter).tobytes() == whole[-1].tobytes()
            session.close()
    lone.close()


def alone_row(session: Session, ids: list[int], adapter: int) -> np.ndarray:
    """The last row of logits."""
    table = session.admit(None)
    table.adapter = adapter
    session.turn(lambda: session.compute(table, ids, 1))
    return session.logits[-1].copy()


def test_pages_are_shared_between_texts_of_one_adapter_alone(model: tuple[Config, Weights, Weights]) -> None:
    config, _, weights = model
    session = cpu_session(config, weights, n_context=64, chunk=64, n_logits=8, n_pages=64)
    ids = TEXTS[1]
    answers: dict[int, list[int]] = {}
    for adapter in (0, 1, 2, 1, 0):
        with Sequence(session, adapter=adapter) as text:
            out = text.generate(ids, max_new_tokens=4, ignore_eos=True)
            twin = text.fork()
            assert twin.adapter == text.adapter == (None if not adapter else NAMES[adapter - 1])
            assert twin.feed([1]).tobytes() == alone_row(session, [*text.ids, 1], adapter).tobytes()
            twin.close()
        if adapter in answers:
            assert out.ids == answers[adapter]
            assert out.timings.n_reused >= 16
        else:
            assert out.timings.n_reused == 0, "its keys are another adapter's"
        answers[adapter] = out.ids
    session.close()


def test_a_sequence_keeps_its_adapter(model: tuple[Config, Weights, Weights]) -> None:
    config, _, weights = model
    session = cpu_session(config, weights, n_context=64, chunk=64, n_logits=8)
    with Sequence(session, adapter=2) as text:
        named = text.generate(TEXTS[2], max_new_tokens=2, ignore_eos=True, adapter="second")
        assert named.ids
        with pytest.raises(InputError, match=r"adapter='first': this sequence has adapter 'second'.*model.sequence"):
            text.generate([1], adapter="first")
        with pytest.raises(InputError, match=r"adapter='fourth'.*it has 'first', 'second', 'third'"):
            text.generate([1], adapter="fourth")
    with Sequence(session) as text, pytest.raises(InputError, match="this sequence has no adapter"):
        text.generate([1], adapter="first")
    session.close()


@pytest.mark.parametrize("name", [3, "", "Alice", b"a", ["a"]])
def test_an_unknown_name_is_told_with_the_known_ones(name: object) -> None:
    def named(*names: str) -> Adapters:
        return Adapters(SimpleNamespace(code=[], adapters=names), Weights())  # type: ignore[arg-type]  # as it asks

    with pytest.raises(InputError, match=r"generate: adapter=.*the model has no such adapter; it has 'a', 'b'"):
        named("a", "b").number(name, "generate")
    with pytest.raises(InputError, match=r"loaded without any: load\(adapters="):
        named().number(name, "generate")
    assert named("a", "b").number(None, "generate") == 0


def test_a_model_without_adapters_has_no_instruction_for_them(model: tuple[Config, Weights, Weights]) -> None:
    config, plain, weights = model
    how: dict[str, Any] = {"n_context": 64, "chunk": 16, "threads": 2}
    ops = [i.op for i in record(config, plain, **how).code]
    more = [i.op for i in record(config, weights, **how).code]
    assert not {"lora_up", "lora_down"} & set(ops)
    assert [op for op in more if not op.startswith("lora")] == ops
    parts = sum(
        bool(linear.adapters) for layer in weights.decoder.layers for s in layer for linear in s.linear.values()
    )
    assert more.count("lora_up") == more.count("lora_down") == parts + bool(weights.head.adapters)


def test_what_is_not_there_is_refused(model: tuple[Config, Weights, Weights]) -> None:
    _, plain, _ = model
    parts = drawn_adapters(plain, 1)
    with pytest.raises(PlanError, match=r"adapters of layers\.9\.q"):
        with_adapters(plain, NAMES, parts | {"layers.9.q": next(iter(parts.values()))})


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_adapters_apart import adapted, mixed, cpu_session
config, _, weights = adapted(Path(sys.argv[1]), 5)
session = cpu_session(config, weights, n_context=64, chunk=64, n_logits=32, threads=2, n_pages=16)
print([rows.tobytes().hex() for rows in mixed(session, [0, 1, 2, 3, 0, 1, 2])])
"""


def test_the_other_executor_and_checked_accesses_give_the_same_bits(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, small("llama"))
    here = str(Path(__file__).parent)

    def run(**env: str) -> str:
        command = [sys.executable, "-c", CHILD, str(tmp_path), here]
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run() == run(MIAOTUI_EXECUTOR="prange")
