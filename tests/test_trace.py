"""`Model.trace`, `Model.exact_logits`, `miaotui trace` and `miaotui compare`: what a model computes, by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import miaotui
import numpy as np
import pytest
from helpers import open_weights, oracle
from miaotui.errors import CheckpointError, InputError
from miaotui.loader.activations import read_activations
from miaotui.loader.checkpoint import open_checkpoint
from miaotui.testing.checkpoints import families, tiny
from miaotui.tools import cli, demo
from miaotui.tools.trace_page import page
from miaotui.tracing import Difference, differences
from safetensors.numpy import save_file
from test_given import IDS, MODULES


@pytest.fixture(scope="module")
def model() -> Any:
    with miaotui.load(demo.path()) as model:
        yield model


def test_exact_logits_are_the_oracle_s(model: Any) -> None:
    """But for the cache, which is not rounded here; and what kernels compute is near."""
    wanted = oracle(*open_weights(demo.path()), IDS)
    got = model.exact_logits(IDS)
    assert (got.dtype, got.shape) == (np.float64, (len(IDS), model.config.n_vocab))
    assert np.abs(got - wanted).max() < 1e-5
    assert np.abs(got - model.logits(IDS)).max() < 1e-3


def test_names_are_those_of_modules(model: Any) -> None:
    trace = model.trace(IDS)
    names = list(trace)
    assert names[0] == "model.embed_tokens"
    assert names[-2:] == ["model.norm", "logits"]
    for name, width in (("self_attn.q_proj", 128), ("mlp.down_proj", 128), ("input_layernorm", 128)):
        assert trace[f"model.layers.3.{name}"].shape == (len(IDS), width)
    weights = trace["model.layers.5:attention"]
    assert np.allclose(weights.sum(-1), 1)
    assert not np.triu(weights[0], 1).any()
    last, o, down = (trace[f"model.layers.0{part}"] for part in ("", ".self_attn.o_proj", ".mlp.down_proj"))
    assert np.allclose(last, trace["model.embed_tokens"] + o + down)
    assert trace.ids == tuple(IDS)


def test_two_traces_are_equal_where_every_number_is(model: Any) -> None:
    one, other = model.trace(IDS), model.trace(IDS)
    assert one == other
    assert repr(one) == f"<miaotui.Trace: {len(IDS)} ids, {len(one)} arrays>"
    other.arrays["logits"][0, 0] += 1
    assert one != other
    assert one != model.trace(IDS[:-1])
    assert one != model.trace(IDS, kernels=True)
    assert one != dict(one)
    one.arrays["logits"][0, 0] = other.arrays["logits"][0, 0] = np.nan
    assert one == other


def test_what_is_cut_keeps_its_own_names() -> None:
    with miaotui.load(demo.path(), prune="keep-layers=1,4") as model:
        names = set(model.trace(IDS))
    assert {"model.layers.1", "model.layers.4", "model.layers.4.mlp.up_proj"} <= names
    assert not any(".0." in name or ".2." in name for name in names)


@pytest.mark.parametrize("name", MODULES)
def test_every_step_is_what_hooks_on_the_modules_see(name: str) -> None:
    """transformers computes its angles, some softmaxes and norms in float32."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config, kind, sizes = MODULES[name]
    torch.manual_seed(0)
    module = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).double().eval()
    module.set_attn_implementation("eager")
    if "moe" in name:
        module.set_experts_implementation("eager")
    seen: dict[str, Any] = {}
    for called, part in module.named_modules():

        def keep(_module: object, _given: object, out: Any, called: str = called) -> None:
            out = out[0] if isinstance(out, tuple) else out
            if torch.is_tensor(out):
                seen.setdefault(called, out.detach().numpy())

        part.register_forward_hook(keep)
    after: dict[str, Any] = {"decoder_ids": [0, 3]} if name == "t5" else {}
    with torch.no_grad():
        given = {"decoder_input_ids": torch.tensor([[0, 3]])} if after else {}
        logits = module(torch.tensor([IDS]) % 96, **given).logits[0].numpy()
    ids = [i % 96 for i in IDS]
    with miaotui.load(tensors=module) as model:
        trace = model.trace(ids, **after)
        assert np.abs(model.exact_logits(ids, **after) - logits).max() < 1e-6
    found = differences(trace, seen)
    assert len(found) >= 15
    assert {f"{layer}" for layer in seen if layer.rpartition(".")[2].isdigit() and "block.0.layer" not in layer} & {
        d.name for d in found
    }
    assert max(found, key=lambda d: d.relative).relative < 2e-6, [str(d) for d in found if d.relative >= 2e-6]


def test_a_classifier_that_is_an_encoder_decoder() -> None:
    """Its decoder reads the text, to its last end."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in
             (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))}  # fmt: skip
    config = transformers.BartConfig(d_model=32, vocab_size=96, max_position_embeddings=64, num_labels=3, **sizes)
    torch.manual_seed(0)
    module = transformers.BartForSequenceClassification(config).double().eval()
    ids = [0, 5, 9, 20, 2]
    with torch.no_grad(), miaotui.load(tensors=module) as model:
        assert np.abs(model.exact_logits(ids) - module(torch.tensor([ids])).logits[0].numpy()).max() < 1e-6
        assert list(model.trace(ids))[-2:] == ["classification_head.out_proj", "logits"]
        with pytest.raises(InputError, match="the text lacks the id 2"):
            model.trace([0, 5])
        with pytest.raises(InputError, match="decoder_ids: bart is a classifier, whose decoder reads ids"):
            model.trace(ids, decoder_ids=[2])


def test_a_difference_says_how_much_and_where() -> None:
    x = np.ones((2, 3))
    y = x.copy()
    y[1, 2] = 1.5
    (found,) = differences({"a": x, "b": x}, {"a": y, "c": y})
    assert (found.name, found.at, found.values) == ("a", (1, 2), (1.0, 1.5))
    assert found.relative == pytest.approx(0.5 / np.sqrt((5 + 2.25) / 6))
    assert str(found).startswith("a: 0.455 of its rms, at [1, 2]: 1 and 1.5")
    assert differences({"a": x}, {"a": y[:1]}) == [Difference("a", np.inf, shapes=((2, 3), (1, 3)))]
    assert differences({"a": x}, {"a": x[None]})[0].relative == 0
    heads = np.arange(12.0).reshape(2, 6)
    assert differences({"a": heads}, {"a": heads.reshape(2, 3, 2).swapaxes(0, 1)[None]})[0].relative == 0
    nan = np.full((1, 1), np.nan)
    assert differences({"a": nan}, {"a": nan})[0].relative == 0
    assert differences({"a": nan}, {"a": np.ones((1, 1))})[0].relative == np.inf
    assert str(differences({"a": x}, {"a": y[:1]})[0]) == "a: other shapes: (2, 3) and (1, 3)"
    loud, other = x * 1e200, x * np.array([1e200, 1e200, -1e200])  # whose squares overflow
    assert differences({"a": loud}, {"a": other})[0].relative == pytest.approx(2)
    endless = np.array([[np.inf, 1.0, 2.0]])
    assert differences({"a": endless}, {"a": np.array([[np.inf, 1.0, 3.0]])})[0].relative == pytest.approx(5**-0.5)
    assert differences({"a": np.ones((1, 6))}, {"a": np.ones((1, 3, 2))})[0].relative == 0  # heads of one token
    assert differences({"a": np.ones((1, 1))}, {"a": np.float64(2.0)})[0].relative == 0.5


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "t.safetensors"
    code, out, _ = run(capsys, "trace", "--ids", "1 5 9", "--save", saved)
    assert code == 0
    assert out.splitlines()[0].startswith("model.embed_tokens")
    assert "3 x 128   rms " in out
    told = json.loads(run(capsys, "trace", "--ids", "1,5,9", "--json")[1])
    assert told["ids"] == [1, 5, 9]
    assert told["arrays"]["logits"]["shape"] == [3, 1024]
    assert set(read_activations(saved)) == set(told["arrays"])
    code, out, _ = run(capsys, "compare", demo.path(), saved, "--ids", "1 5 9")
    assert (code, "nothing differs by more than 0.0001" in out) == (0, True)
    assert out.startswith("model.embed_tokens: equal\n")
    save_file({"model.norm": np.ones((3, 128)), "norm": np.ones(3)}, tmp_path / "few.safetensors")
    code, out, _ = run(capsys, "compare", demo.path(), tmp_path / "few.safetensors", "--ids", "1 5 9")
    assert code == 1
    assert re.search(
        r"^only .*model has model.embed_tokens, .* and 62 more\nonly .*few.safetensors has norm\n1 of 69",
        out,
        re.MULTILINE,
    )
    code, out, _ = run(capsys, "compare", demo.path(), "--text", "Once upon", "--quantize", "int4,embed=none")
    assert (code, "; the first that differs: model.layers.0.self_attn.q_proj: " in out) == (1, True)
    code, out, _ = run(capsys, "compare", demo.path(), "--text", "Once", "--prune", "keep-layers=0-3", "--json")
    assert (code, json.loads(out)["first"]) == (1, "model.norm")


def test_the_page_needs_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Any) -> None:
    """It loads nothing, runs nothing, and a token is text."""
    file = tmp_path / "t.html"
    assert run(capsys, "trace", 'Once <b>"upon"</b>', "--html", file)[0] == 0
    html = file.read_text(encoding="utf-8")
    assert not re.findall(r"<script|<link|src=\"(?!data:)|href=|url\(|<b>", html)
    assert html.count("<img ") == 6 * 4  # layers and heads
    assert html.count("<rect ") >= len(model.program().tensors)
    assert "model.layers.5.mlp.down_proj" in html
    said = model.layer_ids(model.trace(IDS))
    assert list(said) == [f"model.layers.{i}" for i in range(6)]
    assert said["model.layers.5"] == model.exact_logits(IDS).argmax(-1).tolist()
    with miaotui.load(demo.path("encoder")) as encoder:
        assert "What each layer" not in page(encoder, encoder.trace([2, 5, 3]))
        with pytest.raises(InputError, match="expected a decoder with a head for tokens"):
            encoder.layer_ids(encoder.trace([2, 5, 3]))


WRONG = [
    (["trace"], "give a text or --ids, one of the two"),
    (["trace", "Once", "--ids", "1"], "--ids 1: a text is given too"),
    (["trace", "--ids", "1 x"], '--ids 1 x: expected whole numbers, as in --ids "1 5 9"'),
    (["trace", "--ids", "9999"], "9999"),
    (["trace", "--ids", "9" * 5000], "--ids: an id of more than 18 digits"),
    (["trace", "Once", "--save", "x", "--html", "x"], "one would replace the other"),
    (["compare", demo.path(), "--kernels", "--ids", "9999"], re.escape(str(demo.path())) + ": .*9999"),
    (["trace", "Once", "--decoder-ids", "1"], "--decoder-ids: llama is not an encoder-decoder"),
    (["compare", demo.path(), "--text", "a"], "A alone is equal to itself: give B too, or --quantize"),
    (["compare", demo.path(), "--text", "a", "--tolerance", "nan"], "--tolerance nan: expected a number"),
    (["compare", demo.path(), "none.safetensors", "--text", "a"], "none.safetensors"),
    (
        ["compare", demo.path(), "OTHER", "--text", "a"],
        "none of its 1 names, such as x, is one of .*, such as model.embed_tokens",
    ),
    (["compare", demo.path(), "OTHER", "--text", "a", "--quantize", "int8"], "--quantize: .* holds activations"),
    (["compare", demo.path(), "OTHER", "--text", "a", "--kernels"], "--kernels: .* holds activations"),
    (["compare", demo.path(), "WHOLE", "--text", "a"], "holds no floats"),
]


@pytest.mark.parametrize(("words", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[Any], says: str) -> None:
    save_file({"x": np.ones(3, np.float32)}, tmp_path / "other.safetensors")
    save_file({"x": np.ones(3, np.int32)}, tmp_path / "whole.safetensors")
    names = {"OTHER": tmp_path / "other.safetensors", "WHOLE": tmp_path / "whole.safetensors"}
    code, out, err = run(capsys, *(names.get(str(word), word) for word in words))
    assert (code != 0, out) == (True, "")
    assert re.search(says, err), err


def test_errors_in_python(model: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="token_types"):
        model.trace(IDS, token_types=[0, 0, 0, 0])
    config = json.loads((demo.path("encoder") / "config.json").read_text()) | {"architectures": ["BertModel"]}
    with (
        open_checkpoint(demo.path("encoder")) as files,
        miaotui.load(
            config=config,
            tensors={
                n: (files.array(n).astype(np.uint32) << 16).view(np.float32) for n in files.tensors if "cls." not in n
            },
        ) as encoder,
        pytest.raises(InputError, match="no head"),
    ):
        encoder.exact_logits([1, 2])
    (tmp_path / "x.safetensors").write_bytes(b"1234567890")
    with pytest.raises(CheckpointError):
        read_activations(tmp_path / "x.safetensors")


def test_a_closed_model_and_another_s_trace(model: Any) -> None:
    with miaotui.load(demo.path()) as other:
        pass
    for call in (lambda: other.trace(IDS), lambda: other.exact_logits(IDS), lambda: other.layer_ids({})):
        with pytest.raises(InputError, match="was closed"):
            call()
    with pytest.raises(InputError, match="expected what trace"):
        model.layer_ids(None)
    with pytest.raises(InputError, match=r"layers.0 has shape \(2, 5\); expected \[T, 128\]"):
        model.layer_ids({"model.layers.0": np.ones((2, 5)), "model.layers.0.x": np.ones(1)})


def test_json_holds_no_number_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of a model with an infinite number."""
    directory = tmp_path / "m"
    shutil.copytree(demo.path(), directory)
    file = next(directory.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    first, _ = header["model.layers.1.mlp.up_proj.weight"]["data_offsets"]
    at = 8 + int.from_bytes(data[:8], "little") + first
    data[at : at + 2] = b"\x80\x7f"  # infinity, in BF16
    file.write_bytes(data)

    def strict(text: str) -> Any:
        return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))

    arrays = strict(run(capsys, "trace", "--model", directory, "--ids", "1 5", "--json")[1])["arrays"]
    assert arrays["model.layers.1.mlp.up_proj"]["max"] is None
    assert arrays["model.layers.0"]["max"] > 0
    code, out, _ = run(capsys, "compare", directory, demo.path(), "--ids", "1 5", "--json")
    assert (code, strict(out)["first"]) == (1, "model.layers.1.mlp.up_proj")


@pytest.mark.ci  # transformers
def test_the_page_s_hooks(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/trace.md says to do with PyTorch gives a file that compares equal."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config, kind, sizes = MODULES["llama"]
    torch.manual_seed(0)
    module = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()
    module.save_pretrained(tmp_path / "saved")
    page_text = (Path(__file__).parents[1] / "docs" / "trace.md").read_text(encoding="utf-8")
    code = page_text.split("With PyTorch:\n\n```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    from safetensors.torch import save_file

    with torch.no_grad():
        exec(code, {"torch": torch, "model": module, "save_file": save_file})  # noqa: S102 - the page's
    told = run(capsys, "compare", tmp_path / "saved", "activations.safetensors", "--ids", "1 5 9")
    assert (told[0], "nothing differs by more than 0.0001" in told[1]) == (0, True), told


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"quantize": "int8", "threads": 2},
        {"quantize": "int4", "precision": "exact"},
        {"precision": "bf16", "kv_cache": "bf16"},
        {"prune": "keep-layers=0,3", "kv_cache": "int8"},
    ],
)
def test_the_kernels_own_numbers(how: dict[str, Any]) -> None:
    """Their logits are the model's, to the bit; every name is one of the oracle's, and not far from it."""
    with miaotui.load(demo.path(), **how) as model:
        exact, got = model.trace(IDS), model.trace(IDS, kernels=True)
        assert np.array_equal(got.logits, model.logits(IDS))
        assert got["model.norm"].dtype == np.float32
        assert set(got) < set(exact)
        found = differences(exact, got)
        assert len(found) == len(got) >= 15
        worst = max(d.relative for d in found)
        assert 0 < worst < (1e-5 if not how else 0.5)


@pytest.mark.parametrize("name", families("decoders"))
def test_kernels_of_every_decoder(name: str) -> None:
    made = tiny(name)
    with miaotui.load(config=made.config, tensors=made.tensors()) as model:
        ids = [i % 64 for i in IDS]
        got = model.trace(ids, kernels=True)
        assert np.array_equal(got.logits, model.logits(ids))
        found = differences(model.trace(ids), got)
        assert len(found) == len(got)
        assert max(found, key=lambda d: d.relative).relative < 1e-3


def test_who_has_no_kernels_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    with miaotui.load(demo.path("encoder")) as encoder, pytest.raises(InputError, match=r"kernels: .* is an encoder"):
        encoder.trace([2, 5], kernels=True)
    code, out, _ = run(capsys, "compare", demo.path(), "--text", "Once", "--kernels")
    assert (code, "nothing differs by more than 0.0001" in out) == (0, True)
    code, out, _ = run(capsys, "trace", "Once", "--kernels", "--precision", "bf16", "--json")
    assert (code, "model.layers.0.self_attn.q_proj" in json.loads(out)["arrays"]) == (0, True)
    with miaotui.load(demo.path()) as model:
        assert "In float32, by the kernels." in page(model, model.trace(IDS, kernels=True))
    code, out, _ = run(capsys, "compare", demo.path(), "--text", "Once", "--precision", "bf16", "--json")
    assert (code, json.loads(out)["first"]) == (1, "model.layers.0.self_attn.q_proj")
