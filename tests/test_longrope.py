"""LongRoPE (Phi 3 and 4): every token of a text beyond the original context is rotated by the long factors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, ConfigError
from miaotui.limits import Request
from miaotui.loader.config import parse_config
from miaotui.loader.open import open_model
from miaotui.prepare import prepare
from miaotui.runtime.rope import RopeTable
from miaotui.tools.importance.calibrate import calibrate
from test_decoders import made, near, theirs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miaotui import Model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ORIGINAL, CONTEXT = 16, 64
ROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 1000.0, "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.25, 2.0], "long_factor": [1.5, 4.0, 9.0],
}  # fmt: skip


def config(**more: Any) -> Any:
    said = {
        "vocab_size": 53, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "original_max_position_embeddings": ORIGINAL,
        "rope_parameters": dict(ROPE), "bos_token_id": 0, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    return transformers.Phi3Config(**said | more)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("longrope")
    made(config(), path)
    return path


@pytest.fixture(scope="module")
def exact(directory: Path) -> Any:
    kind = transformers.Phi3ForCausalLM
    return kind.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def model(directory: Path) -> Iterator[Model]:
    with miaotui.load(directory, prefill_chunk=7, threads=2, cache_tokens=1024) as loaded:
        yield loaded


def ids_of(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 53, n).tolist()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40, 64])
def test_logits_are_those_of_transformers(n: int, model: Model, exact: Any) -> None:
    ids = ids_of(n, n)
    wanted = theirs(exact, ids)
    assert np.abs(model.logits(ids) - wanted).max() <= near(exact, ids, wanted)
    assert np.abs(model.last_logits([ids])[0] - wanted[-1]).max() <= near(exact, ids, wanted)


def test_both_factors_matter(model: Model, exact: Any) -> None:
    """Or the tests above could not fail: of the same tokens, the first's logits differ by what follows them."""
    ids = ids_of(17)
    rows = model.logits(ids)[:16]
    assert np.abs(rows - model.logits(ids[:16])).max() > 100 * near(exact, ids, theirs(exact, ids))
    assert model.config.ropes[0].attention_factor == pytest.approx((1 + np.log(4) / np.log(16)) ** 0.5)


@pytest.mark.parametrize(("beams", "n"), [*((1, n) for n in (5, 12, 15, 16, 17, 30)), (3, 12), (3, 16)])
def test_generated_ids_are_those_of_transformers(beams: int, n: int, model: Model, exact: Any) -> None:
    """Where a text grows beyond the original context, all of its keys are computed again."""
    prompt = ids_of(n, 100 + n)
    with torch.no_grad():
        told = exact.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, num_beams=beams)
    got = model.generate(prompt, max_new_tokens=20, do_sample=False, num_beams=beams)
    assert got.ids == told[0, n:].tolist()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.sampled_from([1, 5, 64]), st.data())
def test_bits_do_not_depend_on_how_a_text_came(
    directory: Path, sizes: list[int], chunk: int, data: st.DataObject
) -> None:
    """Fed in pieces, cut and gone on with, forked, next to other texts in one pass."""
    sizes = sizes[: next((i for i in range(len(sizes), 0, -1) if sum(sizes[:i]) <= CONTEXT), 1)]
    ids = ids_of(sum(sizes), sum(sizes))
    with miaotui.load(directory, prefill_chunk=chunk, threads=1) as one, one.sequence() as sequence:
        at = 0
        for size in sizes:
            got = sequence.feed(ids[at : at + size])
            at += size
            wanted = one.last_logits([ids[:at]])[0]
            assert got.tobytes() == wanted.tobytes()
        cut = data.draw(st.integers(1, len(ids)))
        with sequence.fork() as twin:
            twin.truncate(cut - 1)
            assert twin.feed(ids[cut - 1 : cut]).tobytes() == one.last_logits([ids[:cut]])[0].tobytes()
        many = [ids_of(n, n) for n in (3, 17, 16, 20)]
        together = one.last_logits(many)
        assert all(
            row.tobytes() == one.last_logits([text])[0].tobytes() for row, text in zip(together, many, strict=True)
        )


def test_a_session_steps_over_the_turn(model: Model) -> None:
    ids, session = ids_of(30), model.session
    session.step(ids[:10], 0)
    session.step(ids[10:16], 10)
    session.step(ids[16:20], 16, 2)
    got = session.logits.copy()
    session.step(ids[:20], 0, 2)
    assert got.tobytes() == session.logits.tobytes()
    session.step(ids[5:8], 5)
    assert session.logits[-1].tobytes() == model.last_logits([ids[:8]])[0].tobytes()


def test_statistics_see_a_text_as_it_is(model: Model, directory: Path) -> None:
    """A text of 31 tokens in passes of 7, all by the long factors, as in one pass."""
    seen = calibrate(model, [ids_of(32)])
    with miaotui.load(directory, prefill_chunk=64) as whole:
        other = calibrate(whole, [ids_of(32)])
    for name in other.squares:
        np.testing.assert_allclose(seen.squares[name], other.squares[name], rtol=1e-5)


def test_a_context_within_the_original_has_no_long_rows(directory: Path) -> None:
    ids = ids_of(ORIGINAL)
    with miaotui.load(directory, max_context=ORIGINAL) as short, miaotui.load(directory) as long:
        assert short.logits(ids).tobytes() == long.logits(ids).tobytes()
        assert long.memory["constants"] == (CONTEXT + ORIGINAL) / ORIGINAL * short.memory["constants"]


def test_a_gpu_runs_it_within_the_original_context_alone(tmp_path: Path) -> None:
    rope = ROPE | {"partial_rotary_factor": 1.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    made(config(rope_parameters=rope), tmp_path)
    with open_model(tmp_path) as opened:
        assert prepare(opened, Request(device="cuda", max_context=ORIGINAL), free=2**40).program.turning == 0
        with pytest.raises(BackendError, match=r"longrope.*max_context=16"):
            prepare(opened, Request(device="cuda"), free=2**40)


def test_the_table_has_a_row_for_each_way(model: Model) -> None:
    table = RopeTable(model.config.ropes[0], CONTEXT)
    assert table.shape == (CONTEXT + ORIGINAL, 3, 2)
    assert np.array_equal(table.exact(0, 80)[10:30], table.exact(10, 30))
    assert np.array_equal(table.exact(0, 1), table.exact(ORIGINAL, ORIGINAL + 1))  # position 0 has no angle
    assert np.array_equal(table.weight.array, table.exact(0, 80).astype(np.float32))


OLD = {"type": "su", "short_factor": ROPE["short_factor"], "long_factor": ROPE["long_factor"]}


@pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
def test_names_of_older_files_are_read(kind: str) -> None:
    """microsoft/Phi-3-mini-128k-instruct said "su" at first."""
    raw = config().to_dict() | {"rope_scaling": OLD | {"type": kind}, "partial_rotary_factor": 0.75}
    del raw["rope_parameters"]
    assert parse_config(raw | {"rope_theta": 1000.0}, "c") == parse_config(config().to_dict(), "c")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"short_factor": [1.0, 2.0]}, "short_factor has 2 numbers; expected 3"),
        ({"long_factor": 2.0}, "long_factor is 2.0; expected a list of numbers"),
        ({"long_factor": [1.0, 2.0, "3"]}, "long_factor"),
        ({"long_factor": [1.0, 2.0, 0]}, "long_factor"),
        ({"beta_fast": 32}, "beta_fast"),
    ],
)
def test_factors_that_make_no_sense(keys: dict[str, Any], says: str) -> None:
    raw = json.loads(json.dumps(config().to_dict()))
    raw["rope_parameters"] |= keys
    with pytest.raises(ConfigError, match=says):
        parse_config(raw, "c")
    del raw["rope_parameters"]["long_factor"]
    with pytest.raises(ConfigError, match=r"long_factor|beta_fast"):
        parse_config(raw, "c")
