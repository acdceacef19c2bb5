"""What becomes of attention's scores: classes of distances, slopes, soft caps, windows on both sides."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from helpers import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, ConfigError, PlanError
from miaotui.loader.families.alibi import halved_slopes, interleaved_slopes
from miaotui.runtime.bias import Bias, BiasTable, buckets_of
from miaotui.runtime.cpu.backend import cpu_session
from miaotui.runtime.encoding import Whole, encoded
from miaotui.runtime.forward.supported import check_backend
from miaotui.runtime.recorder.record import record
from miaotui.runtime.spec import Attention, Buckets, Slopes
from miaotui.tools.prune import prune
from test_records import CONTEXT, IDS, SLOPED, Drawn, F, config
from test_records import given as weight_of
from tolerance import bound

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SETTINGS = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize(("n", "longest"), [(32, 128), (16, 40), (8, 9), (64, 1000), (4, 3), (32, 17)])
def test_classes_of_distances_are_those_of_transformers(
    n: int,
    longest: int,
    both_ways: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-3000, 3001 if both_ways else 1)
    if longest <= n // (4 if both_ways else 2):
        pytest.skip("no model has these: the logarithm of a distance would divide by nothing")
    wanted = T5Attention._relative_position_bucket(torch.tensor(distance), both_ways, n, longest).numpy()
    assert np.array_equal(buckets_of(Buckets(n, longest, both_ways), distance), wanted)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 8, 12, 16, 25, 71, 112])
def test_slopes_are_those_of_transformers(n_heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor as bloom
    from transformers.models.falcon.modeling_falcon import build_alibi_tensor as falcon
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor as mpt

    n, at, ones = 2100, np.arange(2100), torch.ones(1, 2100, dtype=torch.int64)
    halved = halved_slopes(n_heads)
    by_key = bloom(ones, n_heads, torch.float64)[:, 0].numpy()
    ours = Bias(Slopes(halved)).exact(at)
    assert np.abs(ours - by_key).max() <= 1e-6 * n * max(halved)
    rounded = falcon(ones, n_heads, torch.float64)[:, 0].numpy()
    different = (Bias(Slopes(halved, rounded=True)).exact(at) != rounded).mean()
    assert different <= 1e-3  # where the slope itself lies between two of bfloat16
    by_distance = mpt(n_heads, n)[:, 0].numpy()
    ours = Bias(Slopes(interleaved_slopes(n_heads))).exact(at - n + 1)
    assert np.abs(ours - by_distance).max() <= 1e-6 * n


def test_a_line_has_every_distance_and_room_around() -> None:
    drawn = Drawn()
    for sizes in (Buckets(8, 20, both_ways=True), Slopes((0.5, 0.25)), Slopes((0.3, 0.2), rounded=True)):
        bias = Bias(sizes, drawn.weight(8, 2) if isinstance(sizes, Buckets) else None)
        table = BiasTable(bias, 2, 37)
        line, zero = table.weight.array, table.before
        assert line.shape == (2, table.length)
        assert table.nbytes == line.nbytes
        first = 0 if bias.by_key else -36
        inside = line[:, zero + first : zero + 37]
        assert np.array_equal(inside, bias.exact(np.arange(first, 37)).astype(np.float32))
        assert zero + first >= 16
        assert table.length - zero - 37 >= 31
        assert not line[:, zero + 37 :].any()


# ---------------------------------------------------------------- bits

SCORED: dict[str, Any] = {
    "capped": config((replace(SLOPED, bias=None, soft_cap=1.5), F), (replace(SLOPED, bias=None, rope=0), F)),
    "slopes": config((SLOPED, F), (replace(SLOPED, window=5), F), biases=(Slopes((0.3, 0.7, 0.11, 0.013)),)),
    "by key": config((SLOPED, F), biases=(Slopes((0.3, 0.7, 0.11, 0.013), rounded=True, scale=0.4),)),
    "classes": config((SLOPED, F), biases=(Buckets(16, 30, both_ways=False),)),
}


def session_of(name: str, **how: Any) -> Any:
    c, drawn = SCORED[name], Drawn()
    tables = tuple(drawn.weight(b.n, 4) if isinstance(b, Buckets) else None for b in c.stack.biases)
    return cpu_session(c, drawn.weights(c, biases=tables), n_context=CONTEXT, n_logits=CONTEXT, **how)


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("name", SCORED)
def test_bits_do_not_depend_on_chunks_threads_or_neighbours(name: str, kv_cache: str) -> None:
    rng = np.random.default_rng(3)
    texts = [rng.integers(0, 61, n).tolist() for n in (40, 1, 17, 33, 2)]
    how = {"kv_cache": kv_cache, "n_pages": 8}
    with_one = session_of(name, chunk=CONTEXT, threads=1, **how)
    alone = [run(with_one, ids, [len(ids)]) for ids in texts]
    for threads in (2, 3):
        session = session_of(name, chunk=CONTEXT * 3, threads=threads, **how)
        for ids, wanted in zip(texts, alone, strict=True):
            n = len(ids)
            assert run(session, ids, [1] * n).tobytes() == wanted.tobytes()
            assert run(session, ids, [7] * (n // 7) + [n % 7] * (n % 7 > 0)).tobytes() == wanted.tobytes()
        together = session.last_logits(texts)
        assert all(row.tobytes() == rows[-1].tobytes() for row, rows in zip(together, alone, strict=True))
        session.close()
    with_one.close()


@pytest.mark.parametrize("name", SCORED)
def test_nan_stays_nan(name: str) -> None:
    """A key of NaN makes NaN of every query that sees it, whatever is done to its score, and of none before it."""
    c, drawn = SCORED[name], Drawn()
    tables = tuple(drawn.weight(b.n, 4) if isinstance(b, Buckets) else None for b in c.stack.biases)
    w = drawn.weights(c, biases=tables)
    embed = w.decoder.embed.array.copy()
    embed[IDS[4]] = np.nan
    w = replace(w, decoder=replace(w.decoder, embed=weight_of("embed", embed)))
    session = cpu_session(c, w, n_context=CONTEXT, chunk=CONTEXT, n_logits=CONTEXT, threads=2)
    rows = run(session, IDS, [len(IDS)])
    session.close()
    bad = np.isnan(rows).all(axis=1)
    assert not np.isnan(rows[:4]).any()
    assert bad[4:6].all()
    if all(s.window is None for layer in c.stack.layers for s in layer if hasattr(s, "window")):
        assert bad[4:].all()


# ---------------------------------------------------------------- texts that come whole


def random_model(kind: str, directory: Path, config: str = "", **said: Any) -> Any:
    """A random model with gains and tables that are not small."""
    torch.manual_seed(0)
    base = kind.removesuffix("EncoderModel").removesuffix("ForCausalLM").removesuffix("Model")
    model = getattr(transformers, kind)(getattr(transformers, config or f"{base}Config")(**said))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
    model.save_pretrained(directory)
    return model.double().eval()


T5_SIZES = {"vocab_size": 53, "d_model": 24, "d_kv": 7, "d_ff": 29, "num_layers": 3, "num_heads": 3}
T5_SIZES |= {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 40}
BERT_SIZES = {"vocab_size": 53, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
BERT_SIZES |= {"intermediate_size": 37, "max_position_embeddings": 90, "pad_token_id": 1}
IDS_OF = {"bos_token_id": 0, "eos_token_id": 0, "cls_token_id": 0, "sep_token_id": 0}
GEMMA = {"vocab_size": 53, "hidden_size": 24, "intermediate_size": 29, "num_hidden_layers": 3, "head_dim": 10}
GEMMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 90}
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "T5": ("T5EncoderModel", T5_SIZES),
    "T5 v1.1": ("T5EncoderModel", T5_SIZES | {"feed_forward_proj": "gated-gelu"}),
    "mT5": ("MT5EncoderModel", T5_SIZES),
    "UMT5": ("UMT5EncoderModel", T5_SIZES),
    "MPNet": ("MPNetModel", BERT_SIZES),
    "ModernBERT": ("ModernBertModel", BERT_SIZES | IDS_OF | {"local_attention": 10, "global_attn_every_n_layers": 2}),
    "EmbeddingGemma": (
        "Gemma3TextModel",
        GEMMA | {"sliding_window": 9, "sliding_window_pattern": 2, "use_bidirectional_attention": True},
    ),
}


@pytest.fixture(scope="module", params=WHOLE)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory and the model in float64."""
    kind, said = WHOLE[request.param]
    directory = tmp_path_factory.mktemp("whole")
    return directory, random_model(kind, directory, **said)


def test_hidden_states_of_whole_texts(whole: tuple[Path, Any]) -> None:
    directory, model = whole
    with miaotui.load(directory) as ours:
        for n in (1, 2, 5, 16, 17, 40, 70):
            ids = np.random.default_rng(n).integers(2, 53, n).tolist()
            with torch.no_grad():
                wanted = model(torch.tensor([ids]))[0][0].numpy()
            scale = float(np.abs(wanted).max())
            assert np.abs(ours.hidden(ids) - wanted).max() <= 4 * bound("model", "f32", 5, scale=scale)


def test_packed_texts_have_the_bits_of_each_alone(whole: tuple[Path, Any]) -> None:
    directory, _ = whole

    @settings(SETTINGS, max_examples=4)
    @given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.sampled_from([1, 64, 512]), st.integers(2, 3))
    def holds(lengths: list[int], chunk: int, threads: int) -> None:
        rng = np.random.default_rng(sum(lengths))
        texts = [Whole(rng.integers(2, 53, n).tolist()) for n in lengths]
        with miaotui.load(directory, threads=threads, prefill_chunk=chunk) as many:
            together = list(encoded(many.session, texts, np.copy))
        with miaotui.load(directory, threads=1) as one:
            for text, rows in zip(texts, together, strict=True):
                assert rows.tobytes() == one.hidden(text.ids).tobytes()

    holds()


def test_layers_and_heads_go(whole: tuple[Path, Any]) -> None:
    """A head that is cut is one that adds nothing, and those that stay keep their lines of a table."""
    directory, model = whole
    ids = list(range(2, 30))
    with miaotui.load(directory, prune={"keep_layers": [0, 2]}) as two:
        assert two.hidden(ids).shape == (28, 24)
        heads, d_head = two.config.stack.attention(0).n_heads, two.config.stack.attention(0).d_head
        group = heads // two.config.stack.attention(0).n_kv_heads
    with miaotui.load(directory, prune={"drop_heads": {0: list(range(group)), 2: list(range(group))}}) as cut:
        got = cut.hidden(ids)
    outputs = [m for name, m in model.named_modules() if name.endswith((".o", ".Wo", ".o_proj")) and "mlp" not in name]
    kept = [m.weight.detach().clone() for m in outputs]
    with torch.no_grad():
        for i in (0, 2):
            outputs[i].weight[:, : group * d_head] = 0
        wanted = model(torch.tensor([ids]))[0][0].numpy()
        for m, old in zip(outputs, kept, strict=True):
            m.weight.copy_(old)
    scale = float(np.abs(wanted).max())
    assert np.abs(got - wanted).max() <= 4 * bound("model", "f32", 5, scale=scale)


def test_a_table_that_lost_heads_is_written_with_its_other_lines(tmp_path: Path) -> None:
    """UMT5's layers have a table each; T5's share one, whose lines are for heads of the same numbers."""
    ids = list(range(1, 30))
    for kind, gone in (("UMT5EncoderModel", (0, 1, 0)), ("T5EncoderModel", (1, 1, 1))):
        whole, left = tmp_path / kind, tmp_path / f"{kind} left"
        plan = {"drop_heads": {i: [h] for i, h in enumerate(gone)}}
        random_model(kind, whole, **T5_SIZES)
        prune(whole, left, plan)
        model = getattr(transformers, kind).from_pretrained(left, dtype=torch.float64)
        with torch.no_grad():
            wanted = model(torch.tensor([ids]))[0][0].numpy()
        with miaotui.load(whole, prune=plan) as cut, miaotui.load(left) as written:
            got = cut.hidden(ids)
            assert got.tobytes() == written.hidden(ids).tobytes()
        assert np.abs(got - wanted).max() <= 4 * bound("model", "f32", 5, scale=float(np.abs(wanted).max()))


def test_a_table_whose_lines_are_lost_unevenly_has_no_words_in_a_file(tmp_path: Path) -> None:
    for kind, plan, why in (
        ("T5EncoderModel", {0: [0], 1: [1], 2: [0]}, "are for all of a file's heads: heads cannot be cut"),
        ("T5EncoderModel", {0: [0]}, "num_heads is one number for all of the layers: cut each of them alike"),
    ):
        random_model(kind, tmp_path / kind, **T5_SIZES)
        with pytest.raises(PlanError, match=f"cannot be written as a t5 checkpoint: .*{why}"):
            prune(tmp_path / kind, tmp_path / "left", {"drop_heads": plan})
        assert not (tmp_path / "left").exists()


@pytest.mark.parametrize(("kind", "sizes"), [("UMT5EncoderModel", T5_SIZES), ("NomicBertModel", BERT_SIZES)])
def test_heads_of_one_layer_are_written_for_ourselves(kind: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    """Neither family has a key for key/value heads, nor a table that layers share."""
    whole, left, plan, ids = tmp_path / "whole", tmp_path / "left", {"drop_heads": {0: [0]}}, list(range(1, 30))
    random_model(kind, whole, **sizes)
    assert prune(whole, left, plan)[2] is not None
    with miaotui.load(whole, prune=plan) as cut, miaotui.load(left) as written:
        layers = written.config.stack.layers
        assert [s.n_heads for layer in layers for s in layer if isinstance(s, Attention)] == [2, 3, 3]
        assert cut.hidden(ids).tobytes() == written.hidden(ids).tobytes()


# ---------------------------------------------------------------- what is refused


def test_what_the_cuda_path_lacks_is_said() -> None:
    for c in SCORED.values():
        drawn = Drawn()
        tables = tuple(drawn.weight(b.n, 4) if isinstance(b, Buckets) else None for b in c.stack.biases)
        program = record(c, drawn.weights(c, biases=tables), n_context=8)
        check_backend(program, "records", "cpu")
        with pytest.raises(BackendError, match="op 'attention_biased'"):
            check_backend(program, "records", "cuda")


REFUSED = {
    "mpt": ({"n_heads": 2, "d_model": 8, "attn_config": {"alibi_bias_max": 16}}, "alibi_bias_max is 16"),
    "t5": ({"relative_attention_max_distance": 8}, "max_distance is 8; expected more than 8"),
    "umt5": ({"feed_forward_proj": "gated-magic"}, "gated-magic"),
    "falcon": ({"multi_query": False, "num_kv_heads": 3}, "num_kv_heads is 3"),
    "bloom": ({"n_head": 8, "num_attention_heads": 4}, "n_head is 8 and num_attention_heads is 4"),
    "gemma3_text": ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    "modernbert": (
        {"architectures": ["ModernBertForSequenceClassification"], "classifier_pooling": "last"},
        "classifier_pooling is 'last'; expected one of cls, mean",
    ),
    "mpnet": ({"relative_attention_num_buckets": 16}, "relative_attention_num_buckets is 16"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_not_computed_is_refused_by_its_key(family: str) -> None:
    from miaotui.loader.config import resolve_config

    said, says = REFUSED[family]
    resolve_config({"model_type": family}, "config.json")
    with pytest.raises(ConfigError, match=says):
        resolve_config({"model_type": family, **said}, "config.json")


# ---------------------------------------------------------------- pruned, quantised, written

SMALL: dict[str, tuple[str, dict[str, Any], str]] = {
    "bloom": ("BloomForCausalLM", {"vocab_size": 53, "hidden_size": 24, "n_head": 3, "n_layer": 4}, ""),
    "mpt": ("MptForCausalLM", {"vocab_size": 53, "d_model": 24, "n_heads": 3, "n_layers": 4, "max_seq_len": 64}, ""),
    "falcon": (
        "FalconForCausalLM",
        {"vocab_size": 53, "hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 4, "bias": True}
        | {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": True, "max_position_embeddings": 64},
        "; ffn=0.5",
    ),
    "gemma2": ("Gemma2ForCausalLM", GEMMA | {"num_hidden_layers": 4, "sliding_window": 5}, "; ffn=0.5"),
    "gemma3": ("Gemma3ForCausalLM", GEMMA | {"num_hidden_layers": 4, "sliding_window": 5}, "; ffn=0.5"),
    "t5": ("T5EncoderModel", T5_SIZES | {"num_layers": 4}, "; ffn=0.5"),
    "umt5": ("UMT5EncoderModel", T5_SIZES | {"num_layers": 4}, "; ffn=0.5"),
}


@pytest.mark.parametrize(
    "name", [n if n in {"falcon", "umt5"} else pytest.param(n, marks=pytest.mark.ci) for n in SMALL]
)
def test_what_a_plan_leaves_is_read_by_transformers(name: str, tmp_path: Path) -> None:
    """Layers, and neurons where transformers has a word for them: the plan's bits, and the same numbers there."""
    kind, said, neurons = SMALL[name]
    random_model(kind, tmp_path / "whole", "Gemma3TextConfig" if name == "gemma3" else "", **said)
    ids, plan = list(range(4, 30)), f"keep-layers=0,2,3{neurons}"

    def numbers(directory: Path, **how: Any) -> np.ndarray:
        with miaotui.load(directory, **how) as model:
            return model.hidden(ids) if "Encoder" in kind else model.logits(ids)

    wanted, whole = numbers(tmp_path / "whole", prune=plan), numbers(tmp_path / "whole")
    prune(tmp_path / "whole", tmp_path / "cut", plan)
    assert numbers(tmp_path / "cut").tobytes() == wanted.tobytes()
    again, info = getattr(transformers, kind).from_pretrained(
        tmp_path / "cut", dtype=torch.float64, output_loading_info=True,
        attn_implementation="sdpa" if name == "falcon" else "eager",
    )  # fmt: skip
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    with torch.no_grad():
        theirs = again.eval()(torch.tensor([ids]))[0][0].numpy()
    assert np.abs(theirs - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())
    near = numbers(tmp_path / "whole", quantize="int8")
    assert 0 < np.abs(near - whole).mean() < 0.2 * np.abs(whole).mean()  # a scale for 24 random numbers, four layers
