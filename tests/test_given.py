"""`load(config=…, tensors=…)`: a model that is in memory is the model that its files would be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import (
    BackendError,
    CheckpointError,
    ConfigError,
    InputError,
    MemoryLimitError,
    MiaotuiError,
    TokenizerError,
)
from miaotui.loader.checkpoint import open_checkpoint
from miaotui.tools import demo

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

IDS = [1, 5, 9, 200]


def held() -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The included model's config, and its tensors as arrays of their own, widened: NumPy has no BF16."""
    path = demo.path()
    with open_checkpoint(path) as files:
        arrays = {name: files.array(name) for name in files.tensors}
        wide = {name: (np.asarray(a).astype(np.uint32) << 16).view(np.float32) for name, a in arrays.items()}
    return json.loads((path / "config.json").read_text()), wide


class Lender:
    """An array of a library of its own: DLPack is all that it knows."""

    def __init__(self, array: NDArray[Any], device: int = 1) -> None:
        self.array, self.device = array, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self) -> object:
        return self.array.__dlpack__()


def logits(*args: Any, **how: Any) -> NDArray[np.float32]:
    with miaotui.load(*args, **how) as model:
        return model.logits(IDS)


@pytest.fixture(scope="module")
def exact() -> NDArray[np.float32]:
    return logits(demo.path())


@pytest.mark.parametrize("given_as", ["numpy", "dlpack", "turned", "big-endian", "float64", "every other"])
def test_arrays_have_the_bits_of_their_file(exact: NDArray[np.float32], given_as: str) -> None:
    config, tensors = held()
    make: Any = {
        "numpy": lambda a: a,
        "dlpack": Lender,
        "turned": np.asfortranarray,
        "big-endian": lambda a: a.astype(">f4"),
        "float64": lambda a: a.astype(np.float64),
        "every other": lambda a: Lender(np.repeat(a, 2, axis=-1)[..., ::2]),
    }[given_as]
    got = logits(config=config, tensors={name: make(a) for name, a in tensors.items()})
    assert np.array_equal(got, exact)


def test_they_are_read_where_they_lie() -> None:
    config, tensors = held()
    lent = {name: Lender(a) if i % 2 else a for i, (name, a) in enumerate(tensors.items())}
    with miaotui.load(config=config, tensors=lent) as model:
        for weight in model.session.weights:
            if weight.mapped:
                assert weight.array is not None
                assert any(np.shares_memory(weight.array, a) for a in tensors.values())
                assert not weight.array.flags.writeable
        assert model.memory["weights_resident"] < model.memory["weights_mapped"] / 10
        assert model.generate(IDS, max_new_tokens=3, ignore_eos=True).ids
        tensors.clear()  # the model holds them
        assert model.generate(IDS, max_new_tokens=3, ignore_eos=True).ids


def test_a_directory_brings_config_and_tokenizer(exact: NDArray[np.float32]) -> None:
    _, tensors = held()
    with miaotui.load(demo.path()) as model:
        wanted = model.generate("Once upon", max_new_tokens=8).text
    with miaotui.load(demo.path(), tensors=tensors, draft="keep-layers=0-1") as model:
        assert model.generate("Once upon", max_new_tokens=8).text == wanted
        assert np.array_equal(model.logits(IDS), exact)


@pytest.mark.parametrize("how", [{"quantize": "int4"}, {"prune": "keep-layers=0,2,5; ffn=0.5"}, {"auto": True}])
def test_options_mean_what_they_mean_of_files(how: dict[str, Any]) -> None:
    config, tensors = held()
    assert np.array_equal(logits(config=config, tensors=tensors, **how), logits(demo.path(), **how))


def test_a_text_goes_on_in_the_other(tmp_path: Path) -> None:
    """What a model of files saved is loaded by one from memory: they are the same, to the bytes."""
    from safetensors.numpy import save_file

    config, tensors = held()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with miaotui.load(tmp_path / "m") as one, miaotui.load(config=config, tensors=tensors) as other:
        with one.sequence() as sequence:
            sequence.append(IDS)
            sequence.save(tmp_path / "s.safetensors")
            wanted = sequence.generate(max_new_tokens=5, ignore_eos=True).ids
        with other.load_sequence(tmp_path / "s.safetensors") as sequence:
            assert sequence.generate(max_new_tokens=5, ignore_eos=True).ids == wanted


def test_results_go_back_by_dlpack(exact: NDArray[np.float32]) -> None:
    assert np.array_equal(np.from_dlpack(exact), exact)


CONFIG, TENSORS = held()
FIRST = next(iter(TENSORS))
WRONG: list[tuple[dict[str, Any], type[MiaotuiError], str]] = [
    ({}, InputError, "path: there is none; give a directory or a hub name, or a config and tensors"),
    ({"config": CONFIG}, InputError, "config: it describes no tensors"),
    ({"tensors": TENSORS}, InputError, "tensors: without a config they are no model"),
    ({"tensors": 7, "config": CONFIG}, InputError, r"tensors=7: expected a dict of arrays by name, or a module"),
    ({"tensors": {}, "config": CONFIG}, InputError, "tensors: there are none"),
    ({"tensors": {3: TENSORS[FIRST]}, "config": CONFIG}, InputError, "the name 3: expected text"),
    ({"tensors": TENSORS, "config": 3}, InputError, "config=3: expected a dict as config.json holds"),
    ({"tensors": TENSORS, "config": {"x": {1j: 2}}}, InputError, "config: is not what JSON can hold"),
    ({"tensors": TENSORS, "config": {}}, ConfigError, "model_type"),
    ({"tensors": TENSORS | {FIRST: [1.0]}, "config": CONFIG}, InputError, r"is \[1.0\]: expected an array of NumPy's"),
    ({"tensors": TENSORS | {FIRST: np.array(["a"])}, "config": CONFIG}, InputError, "has dtype str32; expected one of"),
    ({"tensors": TENSORS | {FIRST: np.zeros(3, "M8[s]")}, "config": CONFIG}, InputError, "has dtype datetime64"),
    ({"tensors": TENSORS | {FIRST: Lender(TENSORS[FIRST], 2)}, "config": CONFIG}, InputError, "of another device"),
    ({"tensors": TENSORS | {FIRST: np.zeros((2, 3), "f4")}, "config": CONFIG}, MiaotuiError, FIRST),
    ({"tensors": {n: a for n, a in TENSORS.items() if n != FIRST}, "config": CONFIG}, CheckpointError, "<memory>"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "kind", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_what_is_no_model_is_refused(how: dict[str, Any], kind: type[MiaotuiError], says: str) -> None:
    with pytest.raises(kind, match=says):
        miaotui.load(**how)


def test_without_a_directory_there_is_no_tokenizer() -> None:
    with miaotui.load(config=CONFIG, tensors=TENSORS) as model, pytest.raises(TokenizerError, match="loaded from memo"):
        model.generate("Once")
    with pytest.raises(CheckpointError, match="no such directory"):
        miaotui.load("/none/there", tensors=TENSORS)


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96, "intermediate_size": 48}
MODULES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**TINY, "num_key_value_heads": 2}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**TINY, "num_key_value_heads": 1, "head_dim": 8}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {**TINY, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
         "moe_intermediate_size": 16},
    ),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {**TINY, "pad_token_id": 1}),
    "albert": ("AlbertConfig", "AlbertForMaskedLM", {**TINY, "embedding_size": 16}),
    "bert": ("BertConfig", "BertForSequenceClassification", TINY),
    "t5": ("T5Config", "T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
                                                       "num_heads": 4, "vocab_size": 96}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_module_of_transformers_in_one_line(name: str, dtype: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config, kind, sizes = MODULES[name]
    torch.manual_seed(0)
    module = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).to(getattr(torch, dtype)).eval()
    module.save_pretrained(tmp_path / "saved")
    ids = [1, 5, 9, 20]
    with miaotui.load(tensors=module) as model, miaotui.load(tmp_path / "saved") as saved:
        call: Any = {"bert": lambda m: m.hidden(ids), "t5": lambda m: m.logits(ids, decoder_ids=[0, 3])}
        ask = call.get(name, lambda m: m.logits(ids))
        got = ask(model)
        assert np.array_equal(got, ask(saved))
        back = torch.from_dlpack(got)
    if name in {"llama", "gpt2", "gemma3", "qwen3-moe"} and dtype == "float32":
        with torch.no_grad():
            assert torch.allclose(back, module(torch.tensor([ids])).logits[0], atol=1e-4)


def test_a_tensor_elsewhere_is_refused() -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(a) for name, a in TENSORS.items()}
    with pytest.raises(InputError, match=r"such as x\.detach"):
        miaotui.load(config=CONFIG, tensors=tensors | {FIRST: torch.nn.Parameter(tensors[FIRST])})
    with pytest.raises((InputError, BackendError), match=r"such as x\.detach"):
        miaotui.load(config=CONFIG, tensors=tensors | {FIRST: tensors[FIRST].to("meta")})


class Broken:
    """Lends nothing."""

    def __init__(self, **what: Any) -> None:
        self.what = what

    def __dlpack_device__(self) -> Any:
        return self.what.get("device", (1, 0))

    def __dlpack__(self) -> Any:
        raise self.what["error"]

    def to_dict(self) -> Any:
        raise self.what["error"]

    state_dict = to_dict


@pytest.mark.parametrize("what", [{"error": KeyError("k")}, {"error": OSError("o")}, {"device": ()}])
def test_a_lender_that_fails_is_refused(what: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"\(Broken\) cannot be read where it is"):
        miaotui.load(config=CONFIG, tensors=TENSORS | {FIRST: Broken(**what)})


def test_what_another_s_method_raises_is_said() -> None:
    broken = Broken(error=ArithmeticError("of theirs"))
    with pytest.raises(InputError, match=r"config: to_dict\(\) of Broken failed: ArithmeticError: of theirs"):
        miaotui.load(config=broken, tensors=TENSORS)
    with pytest.raises(InputError, match=r"tensors: state_dict\(\) of Broken failed"):
        miaotui.load(config=CONFIG, tensors=broken)
    with pytest.raises(InputError, match="is a class; expected one of its objects"):
        miaotui.load(config=Broken, tensors=TENSORS)
    with pytest.raises(InputError, match="masked"):
        miaotui.load(config=CONFIG, tensors=TENSORS | {FIRST: np.ma.masked_array(TENSORS[FIRST], mask=False)})
    with pytest.raises(InputError, match="revision='x'"):
        miaotui.load(config=CONFIG, tensors=TENSORS, revision="x")


def test_errors_do_not_speak_of_files() -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    others = {n: a for n, a in TENSORS.items() if n != name}
    for tensors in (others, others | {name: TENSORS[name][:-1]}, TENSORS | {"another.weight": TENSORS[name]}):
        with pytest.raises(CheckpointError, match=r"(?i)<memory>.*give the model's own tensors") as e:
            miaotui.load(config=CONFIG, tensors=tensors)
        assert "etch" not in str(e.value)


def test_a_model_in_the_place_of_a_path() -> None:
    for given in (TENSORS, Broken(error=None)):
        with pytest.raises(InputError, match=r"path: \w+ found; a model that is in memory is load\(tensors=...\)"):
            miaotui.load(given)  # type: ignore[arg-type]


def test_numbers_of_numpy_in_a_config(exact: NDArray[np.float32]) -> None:
    config = {k: np.int64(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in CONFIG.items()}
    assert np.array_equal(logits(config=config, tensors=TENSORS), exact)


def test_what_a_capsule_of_pytorch_does_not_say(exact: NDArray[np.float32]) -> None:
    """That numbers are meant with the other sign; that a view's memory was let go."""
    torch = pytest.importorskip("torch")
    turned = torch._neg_view(torch.from_numpy(-TENSORS[FIRST]))
    assert np.array_equal(logits(config=CONFIG, tensors=TENSORS | {FIRST: turned}), exact)
    flat = torch.zeros(64 + TENSORS[FIRST].size)
    view = flat[64:].view(TENSORS[FIRST].shape)
    flat.untyped_storage().resize_(0)
    with pytest.raises(InputError, match="its memory was let go"):
        miaotui.load(config=CONFIG, tensors=TENSORS | {FIRST: view})


def test_what_is_copied_is_counted() -> None:
    """Arrays whose columns lie side by side: they are the model's own then, and within its limit."""
    turned = {name: np.asfortranarray(a) for name, a in TENSORS.items()}
    n = sum(a.nbytes for a in turned.values() if not a.flags.c_contiguous)
    with miaotui.load(config=CONFIG, tensors=TENSORS) as model:
        usual = dict(model.memory)
    with miaotui.load(config=CONFIG, tensors=turned) as model:
        assert model.memory["weights_copied"] == n > 0
        assert model.memory["allocated"] == usual["allocated"] + n
    with pytest.raises(MemoryLimitError):
        miaotui.load(config=CONFIG, tensors=turned, memory_limit=usual["allocated"] + n - 1)
