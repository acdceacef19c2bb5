"""The words of `precision`: what each does to the inputs of products, where it is told, and who cannot take it.

The ops against their references: tests/test_ops.py.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import miaotui
import numpy as np
import pytest
from checkpoints import small, write_checkpoint
from helpers import empty_caches
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, InputError, SequenceFileError
from miaotui.limits import Request
from miaotui.loader.open import open_model
from miaotui.prepare import prepare
from miaotui.profiles import Profile, identity, read_profile
from miaotui.runtime.cpu.target import bf16_dot
from miaotui.runtime.forward.decoder import decoder
from miaotui.runtime.ops import FAST, PLANES
from miaotui.runtime.precision import WORDS, Precision, product_of, word_of
from miaotui.runtime.quantized import GROUP, HEAD_BYTES, PANEL
from miaotui.runtime.reference import Reference
from miaotui.runtime.rope import rope_tables
from miaotui.runtime.spec import Weight
from miaotui.tools.bench import precision as bench
from miaotui.tools.bench import quality
from miaotui.tools.cli import main
from miaotui.tools.commands.arguments import add_precision
from test_ops import Case, Draw, exactly, quantized, run_kernels
from tolerance import U

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS = sorted(PLANES)
#: Of two planes: the largest number of a group, and what is taken for 0.
MOST, LEAST = 32639, 2.0**-111
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


def product(x: np.ndarray, w: Weight, threads: int = 1) -> np.ndarray:
    case = Case(lambda ops, x: ops.linear(x, w), [[x]], exactly, planes=True)
    got, _ = run_kernels(case, [np.zeros(len(x), np.int64)], threads)
    assert got is not None
    return got


def sizes(w: Weight) -> np.ndarray:
    """What an input's number is multiplied by at most, of each weight: of int4a two parts, which may cancel out."""
    if w.dtype != "int4a":
        return np.abs(w.f64())
    assert w.array is not None
    heads = w.array[..., : HEAD_BYTES["int4a"]].copy().view(np.float16).astype(float)  # [P, G, 32]
    scale, low = heads[..., :PANEL], heads[..., PANEL:]
    most = (15 * np.abs(scale) + np.abs(low)).transpose(0, 2, 1)  # [P, 16, G]
    n, k = w.shape
    return np.repeat(most.reshape(-1, most.shape[-1]), GROUP, 1)[:n, :k]


@pytest.mark.parametrize("kind", KINDS)
def test_two_planes_are_as_near_to_the_exact_product_as_their_steps_are_fine(kind: str) -> None:
    """The bound is derived: half a step for each number, and a rounding for each float that is made on the way.

    A number is rounded by x (M / m) in float32: 2 units of its last place, of at most 2^15, are 2^-8 of a step more.
    A group's dot, its scale and its place in the sum are three roundings; int4a has two such sums for each.
    """

    @settings(max_examples=20, deadline=None)
    @given(st.data(), st.sampled_from([1e-38, 1e-32, 1e-9, 1.0, 1e9]), st.sampled_from([1, 2, 3]))
    def holds(data: st.DataObject, scale: float, threads: int) -> None:
        d = Draw(data.draw)
        n, k = d.size(), d.size()
        w, x = d.weight(kind, n, k), d.array(d.t, k, scale=scale)
        groups = -(-k // GROUP)
        padded = np.pad(np.abs(x.astype(float)), ((0, 0), (0, groups * GROUP - k))).reshape(d.t, groups, GROUP)
        largest = np.repeat(padded.max(-1), GROUP, 1)[:, :k]
        step = np.where(largest > LEAST, (0.5 + 2.0**-8 + U) * largest / MOST, largest)
        off = (step + U * np.abs(x)) @ np.abs(w.f64()).T
        off += (2 * groups + 4) * U * (np.abs(x) + step) @ sizes(w).T
        smallest = groups * 2.0**-148  # where a product is no normal number
        assert np.all(np.abs(product(x, w, threads) - x.astype(float) @ w.f64().T) <= off + smallest)

    holds()


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_has_the_bits_that_it_has_alone(kind: str) -> None:
    @settings(max_examples=12, deadline=None)
    @given(st.data(), st.sampled_from([2, 4, 5, 9, 13]), st.sampled_from([1, 2, 3]))
    def holds(data: st.DataObject, t: int, threads: int) -> None:
        d = Draw(data.draw)
        w = d.weight(kind, data.draw(st.sampled_from([1, 16, 47, 64, 131])), d.size())
        x = d.array(t, w.shape[1])
        whole = product(x, w, threads)
        for i in range(t):
            assert whole[i].tobytes() == product(x[i : i + 1], w)[0].tobytes()

    holds()


@pytest.mark.parametrize(("kind", "end"), [("int8", 127), ("int4", 7)])
def test_a_dot_of_the_largest_numbers_is_rounded_once(kind: str, end: int) -> None:
    """More than a float32 counts in ones, and less than an int32 holds."""
    x, rows = np.full((1, GROUP), np.float32(MOST)), np.full((16, GROUP), np.float32(end))
    rows[:, 0] -= np.arange(16)
    w = quantized(rows, kind)
    assert np.array_equal(w.f64()[0], rows[0])
    dots = w.f64() @ x[0].astype(float)
    scale = np.abs(w.f64()).max(1) / np.abs(rows).max(1)
    got = product(x, w)[0]
    assert np.array_equal(got[0], np.float32(dots[0]))
    assert np.all(np.abs(got - dots) <= 2 * U * np.abs(dots) * np.maximum(scale, 1))
    assert dots[0] < 2**31


def test_words_are_said_once() -> None:
    parser = argparse.ArgumentParser()
    add_precision(parser)
    (action,) = (a for a in parser._actions if a.dest == "precision")
    assert tuple(action.choices or ()) == WORDS == get_args(Precision)
    assert action.default is None is Request().precision


@pytest.mark.parametrize("word", [None, *WORDS])
def test_every_kind_takes_a_word_or_says_which_it_takes(word: Precision | None) -> None:
    takes: dict[str, dict[str | None, str]] = {
        **{k: {None: k, "exact": PLANES[k], "int8": k, "fast": k} for k in KINDS},
        "bf16": {None: "bf16", "exact": "bf16", "bf16": FAST, "fast": FAST},
        **{k: dict.fromkeys((None, "exact", "fast"), k) for k in ("f32", "f16", "f32_sparse", "bf16_sparse")},
    }
    for dtype, variants in takes.items():
        w = Weight("layers.0.q", dtype, (16, 32), None, mapped=False)
        if word in variants:
            assert product_of(word, w)[0] == variants[word]
            continue
        with pytest.raises(
            InputError, match=rf"^precision='{word}': layers.0.q is {dtype}, and its products take"
        ) as e:
            product_of(word, w)
        assert all(repr(name) in str(e.value) for name in variants if name is not None)
    if word == "bf16":
        with pytest.raises(InputError, match="bf16, of experts"):
            product_of(word, Weight("w", "bf16", (16, 32), None, mapped=False), expert=True)
    assert {word_of(v) for v in (*PLANES.values(), "f32", "bf16")} == {"exact"}
    assert (word_of("int4"), word_of(FAST)) == ("int8", "bf16")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def directory(dtype: str) -> Path:
        path = tmp_path_factory.getbasetemp() / f"precision-{dtype}"
        if not path.exists():
            write_checkpoint(path, replace(small("llama"), dtype=dtype))
        return path

    return directory


def told(path: Path, **options: Any) -> dict[str, int]:
    with open_model(path) as opened:
        return dict(prepare(opened, Request(**options)).receipt.precision)


def test_the_receipt_names_what_was_done(written: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = written("BF16")
    (n,) = told(path).values()
    mixed = "int8,embed=none,head=none"
    assert told(path) == told(path, precision="exact") == {"exact": n}
    assert told(path, quantize="int8") == told(path, quantize="int8", precision="int8") == {"int8": n}
    assert told(path, quantize="int8", precision="fast") == {"int8": n}
    assert told(path, quantize="int8", precision="exact") == {"exact": n}
    assert told(path, quantize=mixed) == {"int8": n - 1, "exact": 1}
    assert told(path, quantize=mixed, precision="fast") == {"int8": n - 1, ("bf16" if bf16_dot() else "exact"): 1}
    asked = ["inspect", str(path), "--quantize", "int8", "--receipt"]
    assert main([*asked, "--precision", "exact"]) == 0
    assert f"precision of products: exact in {n}" in capsys.readouterr().out
    assert main([*asked, "--precision", "int8"]) == 0
    assert f"precision of products: int8 in {n}" in capsys.readouterr().out
    assert main([*asked, "--precision", "bf16"]) == 2
    assert "--precision bf16: layers.0." in capsys.readouterr().err


def test_who_cannot_take_a_word_is_named(written: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=r"precision='int8': layers.0.* is f32, and its products take 'exact', 'fast'"):
        miaotui.load(written("F32"), precision="int8")
    bf16 = written("BF16")
    with pytest.raises(InputError, match="is bf16, and its products take 'exact', 'bf16', 'fast'; or leave"):
        miaotui.load(bf16, precision="int8", quantize="int8,embed=none,head=none")
    with pytest.raises(BackendError, match="precision='bf16': a GPU adds in an order of its own"):
        Request(device="cuda", precision="bf16")
    with open_model(bf16) as opened, pytest.raises(BackendError, match="int8 matrices to two planes, which cuda lacks"):
        prepare(opened, Request(device="cuda", quantize="int8", precision="exact"))


def test_bf16_is_a_word_of_bf16_matrices(written: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="is f32, and its products take"):
        miaotui.load(written("F32"), precision="bf16")
    path = written("BF16")
    with miaotui.load(path, precision="bf16") as model:
        assert set(model.receipt.precision) == {"bf16"}
        rounded = model.logits(IDS).tobytes()
    with miaotui.load(path) as model:
        exact = model.logits(IDS).tobytes()
    assert exact != rounded
    with miaotui.load(path, precision="fast") as model:
        assert model.logits(IDS).tobytes() == (rounded if bf16_dot() else exact)
        assert any("precision=fast: products of BF16 matrices" in note for note in model.receipt.notes)


class Unrounded(Reference):
    """Rounded weights, and inputs as they are."""

    def quantize(self, x: np.ndarray) -> np.ndarray:
        return x


@pytest.mark.parametrize("quantize", ["int8", "int4", "int4a"])
def test_a_model_in_two_planes_is_nearer_to_its_weights_and_has_the_same_bits_however_it_is_fed(
    written: Callable[[str], Path], quantize: str
) -> None:
    path, how = written("F32"), {"quantize": quantize, "precision": "exact"}
    with miaotui.load(path, threads=1, **how) as model:
        wanted = model.logits(IDS)
        ops = Unrounded(np.array(IDS), 0, empty_caches(model.config), len(IDS))
        exact = decoder(ops, model.config, model.session.weights, rope_tables(model.config, len(IDS)))[1]
        with model.sequence() as text:
            text.feed(IDS[:4])
            text.feed(IDS[4:5])
            with text.fork() as other:
                assert (
                    other.generate(IDS[5:], max_new_tokens=3, ignore_eos=True).ids
                    == model.generate(IDS, max_new_tokens=3, ignore_eos=True).ids
                )
    for threads, chunk in ((2, 1), (3, 4), (2, 64)):
        with miaotui.load(path, threads=threads, prefill_chunk=chunk, **how) as model:
            assert model.logits(IDS).tobytes() == wanted.tobytes()
    with miaotui.load(path, quantize=quantize) as model:
        usual = model.logits(IDS)
    assert 20 * np.abs(wanted - exact).max() < np.abs(usual - exact).max()


def test_a_saved_text_goes_on_where_its_numbers_were_made_alike(written: Callable[[str], Path], tmp_path: Path) -> None:
    path = written("F32")

    def save(name: str, **how: Any) -> Path:
        with miaotui.load(path, **how) as model, model.sequence() as text:
            text.feed(IDS)
            text.save(tmp_path / name)
        return tmp_path / name

    for usual, other in (("int8", "exact"), ("exact", "int8")):
        file = save(usual, quantize="int8", precision=usual)
        with miaotui.load(path, quantize="int8", precision=usual) as model, model.load_sequence(file) as text:
            assert text.ids == IDS
        refused = pytest.raises(SequenceFileError, match="made in another way: see precision")
        with miaotui.load(path, quantize="int8", precision=other) as model, refused:
            model.load_sequence(file)
    plain = save("plain")
    with miaotui.load(path, precision="exact") as model, model.load_sequence(plain) as text:
        assert text.ids == IDS
    with miaotui.load(path, quantize="int8") as model, model.load_sequence(tmp_path / "int8") as text:
        assert text.ids == IDS


def test_a_profile_of_version_1_computes_as_it_did(written: Callable[[str], Path], tmp_path: Path) -> None:
    """Its "exact" was one plane."""
    path = written("F32")
    with open_model(path) as opened:
        profile = Profile(model=identity(opened), load={"quantize": "int8", "precision": "exact"})
    profile.save(tmp_path / "new.json")
    old = json.loads(profile.to_json()) | {"version": 1}
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert read_profile(tmp_path / "old.json").load == {"quantize": "int8"}
    for name, word in (("new", "exact"), ("old", "int8")):
        with miaotui.load(path, profile=tmp_path / f"{name}.json") as model:
            assert set(model.receipt.precision) == {word}
    (tmp_path / "fast.json").write_text(json.dumps(old | {"load": {"precision": "fast"}}))
    assert read_profile(tmp_path / "fast.json").load == {"precision": "fast"}


def test_a_smaller_model_drafts_in_its_own_way(written: Callable[[str], Path]) -> None:
    """A word of integers is none for its floats; answers do not depend on what drafts."""
    path = written("F32")
    with miaotui.load(path, quantize="int8", precision="int8") as model:
        wanted = model.generate(IDS, max_new_tokens=6, ignore_eos=True).ids
    with miaotui.load(path, quantize="int8", precision="int8", draft=str(path)) as model:
        assert model.generate(IDS, max_new_tokens=6, ignore_eos=True).ids == wanted


def test_what_rounding_costs_is_told_for_each_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "q.json"
    asked = ["--stories", "1", "--how", "int8", "none", "--precision", "exact", "int8", "--out", str(out)]
    assert quality.main(asked) == 0
    of = {r["weights"]: r for r in json.loads(out.read_text())["results"]}
    assert list(of) == ["as stored", "int8 exact", "int8 int8", "as stored exact"]
    assert of["as stored exact"]["kl"] == 0 < of["int8 exact"]["kl"] < of["int8 int8"]["kl"]
    assert "left out: as stored int8: precision='int8': layers.0" in capsys.readouterr().out


def test_the_time_of_a_word_is_compared_with_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.json"
    asked = ["--shape", "tiny", "--quantize", "int8", "--prompt", "3", "--threads", "1", "--pairs", "1"]
    assert bench.main([*asked, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert [(r["prompt"], r["ratio"]["pairs"]) for r in record["results"]] == [(0, 1), (3, 1)]
    assert record["word"] == "exact"
    assert "1 threads, decode" in capsys.readouterr().out
    with pytest.raises(InputError, match="--pairs 0"):
        bench.main(["--pairs", "0"])
