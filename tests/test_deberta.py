"""DeBERTa v2 and v3: rows of distances, what is computed once, bits of packed texts, what is cut, what is refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, ConfigError, PlanError
from miaotui.loader.config import resolve_config
from miaotui.runtime.encoding import Whole, encoded
from miaotui.runtime.relative import DistanceTable, row_of
from miaotui.runtime.spec import Distances
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.prune import prune
from test_encoders import SETTINGS, ids_of, made, near, theirs

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
modeling = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")

#: microsoft/deberta-v3-base, as published.
PUBLISHED: dict[str, Any] = {
    "model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 512,
    "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": "p2c|c2p", "layer_norm_eps": 1e-7, "max_relative_positions": -1, "position_biased_input": False,
    "num_attention_heads": 12, "num_hidden_layers": 12, "type_vocab_size": 0, "vocab_size": 128100,
}  # fmt: skip


def test_the_config_as_published() -> None:
    resolved = resolve_config(PUBLISHED, "config.json")
    stack = resolved.config.encoder
    assert stack is not None
    assert (resolved.config.positions, resolved.config.n_types, resolved.config.n_context) == (None, 0, 512)
    assert stack.relative == Distances(256, 512, normed=True, shared=True)
    attention = stack.attention(0)
    assert attention is not None
    assert attention.relative == ("c2p", "p2c")
    assert attention.scale == pytest.approx((64 * 3) ** -0.5)


def their_rows(sizes: Distances, reach: int) -> np.ndarray:
    """Of distances -reach to reach, as transformers has them."""
    distance = torch.arange(-reach, reach + 1)
    if sizes.longest is not None:
        distance = modeling.make_log_bucket_position(distance, sizes.n, sizes.longest).to(torch.long)
    return torch.clamp(distance + sizes.n, 0, 2 * sizes.n - 1).numpy()


@given(n=st.integers(2, 600), more=st.integers(0, 3000), logarithmic=st.booleans())
@settings(max_examples=60, deadline=None)
def test_rows_are_those_of_transformers(*, n: int, more: int, logarithmic: bool) -> None:
    longest = n // 2 + 2 + more if logarithmic else None
    sizes, reach = Distances(n, longest), 2 * n + more
    ours, wanted = row_of(sizes, np.arange(-reach, reach + 1)), their_rows(sizes, reach)
    # a logarithm that is off by a bit may fall on the other side of a whole number: one row further, no more
    assert np.abs(ours - wanted).max() <= 1
    assert (ours != wanted).mean() <= 0.01


@pytest.mark.parametrize(("n", "longest"), [(256, 512), (256, 1024), (128, 512), (512, 2048), (32, 128)])
def test_rows_of_sizes_in_use_are_exactly_those_of_transformers(n: int, longest: int) -> None:
    sizes = Distances(n, longest)
    assert np.array_equal(row_of(sizes, np.arange(-longest, longest + 1)), their_rows(sizes, longest))
    table = DistanceTable(sizes, longest)
    held = table.weight.array
    assert held is not None
    assert table.nbytes == held.nbytes
    assert np.array_equal(held.view(np.int32), their_rows(sizes, longest - 1))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, three heads, 8 rows on each side of texts of up to 40 tokens."""
    directory = tmp_path_factory.mktemp("deberta")
    made(transformers.DebertaV2Config(**SMALL), directory)
    return directory


SMALL: dict[str, Any] = {
    "vocab_size": 53, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 37,
    "max_position_embeddings": 40, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8,
    "norm_rel_ebd": "layer_norm", "share_att_key": False, "position_biased_input": False,
}  # fmt: skip


@settings(SETTINGS, max_examples=6)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 99), st.sampled_from([1, 64, 512]))
def test_a_packed_text_has_the_bits_of_the_text_alone(small: Path, lengths: list[int], seed: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [Whole(ids_of(rng, 53, n)) for n in lengths]
    with miaotui.load(small, threads=3, prefill_chunk=chunk) as many, miaotui.load(small, threads=1) as one:
        for text, rows in zip(texts, list(encoded(many.session, texts, np.copy)), strict=True):
            assert rows.tobytes() == one.hidden(text.ids).tobytes()


def test_what_is_made_of_weights_alone_is_computed_once(small: Path) -> None:
    with miaotui.load(small) as model:
        program = model.program()
        once = [i.op for i in program.code[: program.n_once]]
        assert once == ["embed", "layer_norm", *["linear"] * 4]  # the table's keys and queries, of two layers
        assert program.own.start == program.n_once
        assert program.once_rows == 16
        first = model.hidden([1, 2, 3])
        model.hidden(list(range(1, 40)))
        assert model.hidden([1, 2, 3]).tobytes() == first.tobytes()


@pytest.mark.ci  # 10 s
def test_a_text_beyond_the_rows_that_each_have_one_distance(tmp_path: Path) -> None:
    """The buckets of deberta-v3 and 300 tokens: distances of several rows, and rows of several distances."""
    said = SMALL | {"max_position_embeddings": 512, "position_buckets": 256, "num_hidden_layers": 1}
    model = made(transformers.DebertaV2Config(**said), tmp_path)
    ids = ids_of(np.random.default_rng(0), 53, 300)
    with miaotui.load(tmp_path, threads=2) as ours:
        wanted = theirs(model, ids)
        assert np.abs(ours.hidden(ids) - wanted).max() <= near(model.config, wanted)


@pytest.mark.parametrize("options", [{"quantize": "int8"}, {"kv_cache": "bf16"}, {"kv_cache": "int8"}])
def test_fewer_bits(small: Path, options: dict[str, str]) -> None:
    ids = list(range(1, 40))
    with miaotui.load(small) as model:
        exact = model.hidden(ids)
    with miaotui.load(small, **options) as model:
        rough = model.hidden(ids)
    assert 0 < np.abs(rough - exact).mean() < 0.05 * float(np.abs(exact).mean())


def test_heads_that_are_cut_take_their_rows_of_every_product_along(small: Path) -> None:
    """A model without head 1 is the whole one whose head 1 gives zeros."""
    from safetensors.numpy import load_file, save_file

    ids = list(range(1, 40))
    with miaotui.load(small, prune="drop-heads=0:1+1:1") as model:
        assert [a.n_heads for a in model.config.stack.layers[0][:1]] == [2]
        cut = model.hidden(ids)
    zeroed = small.parent / f"{small.name}-zeroed"
    shutil.copytree(small, zeroed, dirs_exist_ok=True)
    tensors = load_file(zeroed / "model.safetensors")
    for name in [name for name in tensors if name.endswith("attention.output.dense.weight")]:
        tensors[name][:, 8:16] = 0
    save_file(tensors, zeroed / "model.safetensors")
    with miaotui.load(zeroed) as model:
        assert np.abs(model.hidden(ids) - cut).max() <= 1e-5


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"conv_kernel_size": 4}, "conv_kernel_size is 4"),
        ({"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups is 2"),
        ({"conv_kernel_size": 3, "conv_act": "mish"}, "conv_act is 'mish'"),
        ({"pos_att_type": "p2p|c2p"}, "pos_att_type"),
        ({"pos_att_type": 3}, "pos_att_type"),
        ({"position_buckets": 1}, "position_buckets is 1"),
        ({"position_buckets": 256, "max_relative_positions": 129}, "position_buckets is 256"),
        ({"embedding_size": 128}, "embedding_size is 128"),
        ({"attention_head_size": 32}, "attention_head_size is 32"),
        ({"pooler_hidden_size": 32}, "pooler_hidden_size is 32"),
        ({"model_type": "deberta"}, "first version"),
    ],
)
def test_what_is_not_computed_is_named(said: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve_config(PUBLISHED | said, "config.json")


@pytest.mark.parametrize(("taps", "act", "width"), [(1, "tanh", 15), (3, "gelu", 24), (5, "silu", 51)])
def test_a_convolution_is_that_of_transformers(taps: int, act: str, width: int, tmp_path: Path) -> None:
    said = SMALL | {"conv_kernel_size": taps, "conv_act": act, "hidden_size": width}
    model = made(transformers.DebertaV2Config(**said), tmp_path)
    assert model.encoder.conv is not None
    rng = np.random.default_rng(taps)
    with miaotui.load(tmp_path, threads=2) as ours:
        lies = ours.session.weights.stack.convolution
        assert lies is not None
        assert lies.w.shape == (width, width * taps)
        assert lies.w.mapped  # no copy
        for n in (1, 2, 3, 40):
            ids = ids_of(rng, 53, n)
            wanted = theirs(model, ids)
            assert np.abs(ours.hidden(ids) - wanted).max() <= near(model.config, wanted)


@pytest.fixture(scope="module")
def convolved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `small`, with a convolution of five taps, as a masked language model."""
    directory = tmp_path_factory.mktemp("convolved")
    said = SMALL | {"conv_kernel_size": 5, "conv_act": "gelu"}
    made(transformers.DebertaV2Config(**said), directory, kind="MaskedLM")
    return directory


@settings(SETTINGS, max_examples=6)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 99), st.sampled_from([1, 64, 512]))
def test_a_convolution_sees_no_other_text(convolved: Path, lengths: list[int], seed: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [Whole(ids_of(rng, 53, n)) for n in lengths]
    with miaotui.load(convolved, threads=3, prefill_chunk=chunk) as many, miaotui.load(convolved, threads=1) as one:
        for text, rows in zip(texts, list(encoded(many.session, texts, np.copy)), strict=True):
            assert rows.tobytes() == one.hidden(text.ids).tobytes()


@pytest.mark.parametrize("plan", ["keep-layers=1", "ffn=0.5"])
def test_a_convolution_stays_where_layers_and_neurons_go(convolved: Path, plan: str, tmp_path: Path) -> None:
    """Next to the first layer that is left: the export gives the plan's bits, and transformers the same numbers."""
    ids = list(range(4, 30))
    with miaotui.load(convolved, prune=plan) as model:
        wanted = model.logits(ids)
    prune(convolved, tmp_path / "cut", plan)
    with miaotui.load(tmp_path / "cut") as model:
        assert model.logits(ids).tobytes() == wanted.tobytes()
    again, info = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "cut", dtype=torch.float64, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert np.abs(theirs(again.eval(), ids) - wanted).max() < 1e-4


def test_a_convolution_loses_the_dimensions_that_the_stream_loses(convolved: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    there = load_file(convolved / "model.safetensors")["deberta.encoder.conv.conv.weight"]
    kept = [*range(7), *range(9, 23)]
    with miaotui.load(convolved, prune="width=0-6,9-22") as model:
        left = model.session.weights.stack.convolution
        assert left is not None
        assert np.array_equal(left.w.f64(), there[kept][:, kept].reshape(21, -1))
        assert left.b is not None
        assert left.b.shape == (21,)
        assert np.isfinite(model.hidden([1, 2, 3])).all()
    with pytest.raises(PlanError, match="cannot be written"):
        prune(convolved, tmp_path / "cut", "width=0-6,9-22")


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_convolution_is_quantised_as_other_products_are(convolved: Path, dtype: str, tmp_path: Path) -> None:
    ids = list(range(1, 40))
    with miaotui.load(convolved) as model:
        exact = model.hidden(ids)
    with miaotui.load(convolved, quantize=dtype) as model:
        assert model.session.weights.stack.convolution.w.dtype == dtype
        rough = model.hidden(ids)
    assert 0 < np.abs(rough - exact).mean() < (0.05 if dtype == "int8" else 0.5) * float(np.abs(exact).mean())
    quantize(convolved, tmp_path / "small", dtype)
    with miaotui.load(tmp_path / "small") as model:
        assert model.hidden(ids).tobytes() == rough.tobytes()


def test_a_convolution_of_another_width_is_named(convolved: Path, tmp_path: Path) -> None:
    shutil.copytree(convolved, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    other = r"conv\.conv\.weight.*\[24, 24, 5\].*\[24, 24, 3\]"
    for taps, says in ((3, other), (0, r"encoder\.conv\..* is no part of")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"conv_kernel_size": taps}))
        with pytest.raises(miaotui.errors.CheckpointError, match=says):
            miaotui.load(tmp_path)


def test_no_gpu_runs_it(small: Path) -> None:
    from miaotui.limits import Request
    from miaotui.loader.open import open_model
    from miaotui.prepare import prepare

    with open_model(small) as opened, pytest.raises(BackendError, match="deberta-v2 is an encoder"):
        prepare(opened, Request(device="cuda"))


def test_a_table_that_the_file_lacks_is_named(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"position_buckets": 9}))
    with pytest.raises(miaotui.errors.CheckpointError, match=r"rel_embeddings.*\[16, 24\].*\[18, 24\]"):
        miaotui.load(tmp_path)
