"""`load(adapters={"name": directory})`: a text gets PEFT's output, and that of a model with the sum W + s B A."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import small, write_checkpoint
from miaotui.errors import BackendError, InputError, MemoryLimitError, MiaotuiError, SequenceFileError
from miaotui.limits import Request
from miaotui.loader.open import open_model
from miaotui.loader.prune.plan import PrunePlan
from miaotui.prepare import prepare
from safetensors.numpy import load_file, save_file
from tolerance import bound

if TYPE_CHECKING:
    from pathlib import Path

IDS = [1, 5, 9, 2, 7, 3, 8, 4, 6, 0, 10, 5, 5, 7, 2, 1, 3]
#: Of tests' models, which PEFT would take by itself.
TARGETS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen2": ("q_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
}


def write_adapter(directory: Path, base: Path, *targets: str, r: int = 4, seed: int = 0, **said: Any) -> Path:
    """A and B for every module of a checkpoint whose name ends like a target's, as PEFT writes them."""
    rng, tensors = np.random.default_rng(seed), {}
    turned = json.loads((base / "config.json").read_text())["model_type"] == "gpt2"
    for name, w in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if not name.endswith(".weight") or module.rpartition(".")[2] not in targets:
            continue
        n, k = w.shape[::-1] if turned else w.shape
        module = module if not turned or module.startswith("transformer.") else f"transformer.{module}"
        before = f"base_model.model.{module}"
        tensors[f"{before}.lora_A.weight"] = (rng.standard_normal((r, k)) * k**-0.5).astype(np.float32)
        tensors[f"{before}.lora_B.weight"] = (rng.standard_normal((n, r)) * 0.3).astype(np.float32)
        if said.get("use_dora"):
            tensors[f"{before}.lora_magnitude_vector"] = (rng.random(n) + 0.5).astype(np.float32)
    assert tensors
    directory.mkdir(parents=True)
    known = {"peft_type": "LORA", "r": r, "lora_alpha": 6, "target_modules": list(targets), **said}
    (directory / "adapter_config.json").write_text(json.dumps(known))
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def merged(target: Path, base: Path, adapter: Path) -> Path:
    """The checkpoint of W + s B A, or m (W + s B A) / |W + s B A|, made in float64."""
    target.mkdir(parents=True)
    said = json.loads((adapter / "adapter_config.json").read_text())
    (target / "config.json").write_bytes((base / "config.json").read_bytes())
    turned = json.loads((base / "config.json").read_text())["model_type"] == "gpt2"
    tensors, added = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    scale = said["lora_alpha"] / (said["r"] ** 0.5 if said.get("use_rslora") else said["r"])
    for key in [key for key in added if key.endswith(".lora_A.weight")]:
        a, b = (added[key.replace("lora_A", f"lora_{i}")].astype(float) for i in "AB")
        name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        name = name if name in tensors else name.removeprefix("transformer.")
        w = tensors[name].astype(float)
        w = (w.T if turned else w) + scale * b @ a
        m = added.get(key.replace("lora_A.weight", "lora_magnitude_vector"))
        w = w if m is None else m[:, None] * w / np.linalg.norm(w, axis=1, keepdims=True)
        tensors[name] = np.ascontiguousarray((w.T if turned else w).astype(np.float32))
    save_file(tensors, target / "model.safetensors")
    return target


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    write_checkpoint(path, small(request.param))
    return path


def three(base: Path, where: Path) -> dict[str, Path]:
    """Adapters of other ranks and other modules, one of them DoRA."""
    targets = TARGETS[json.loads((base / "config.json").read_text())["model_type"]]
    return {
        "all": write_adapter(where / "all", base, *targets, r=4),
        "some": write_adapter(where / "some", base, *targets[1:], r=9, seed=1, use_rslora=True),
        "DoRA": write_adapter(where / "dora", base, *targets[:2], r=2, seed=2, use_dora=True),
    }


def near(layers: int, wanted: np.ndarray) -> float:
    """Sums of both have their own order; W + s B A is rounded to float32 in one of them alone."""
    return 2 * bound("model", "f32", layers, np.abs(wanted).max())


def test_each_adapter_has_the_logits_of_the_merged_model(base: Path, tmp_path: Path) -> None:
    paths = three(base, tmp_path)
    with miaotui.load(base, adapters=paths, threads=2) as model, miaotui.load(base, threads=1) as plain:
        assert model.adapters == ("all", "some", "DoRA")
        assert model.logits(IDS).tobytes() == plain.logits(IDS).tobytes()
        seen = [plain.logits(IDS)]
        for name, path in paths.items():
            with miaotui.load(merged(tmp_path / f"{name}.merged", base, path)) as other:
                wanted = other.logits(IDS)
                assert np.abs(model.logits(IDS, adapter=name) - wanted).max() <= near(2, wanted)
                assert np.abs(model.hidden(IDS, adapter=name) - other.hidden(IDS)).max() <= near(2, other.hidden(IDS))
            assert all(np.abs(wanted - other).max() > 100 * near(2, wanted) for other in seen), "it changes nothing"
            seen.append(wanted)


NAMED = PrunePlan(heads={0: (1, 2)}, ffn={1: (2, 4, 5)}, vocab=tuple(range(11)))


@pytest.mark.parametrize("cut", ["keep-layers=1", "ffn=0.5", "width=0.5", NAMED], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_pruned_model_takes_adapters_of_the_unpruned(family: str, cut: str | PrunePlan, tmp_path: Path) -> None:
    base = tmp_path / "base"
    heads = {"num_attention_heads": 3, "num_key_value_heads": 3} if family == "llama" else {}
    drawn = small(family)
    drawn.config.update(heads)
    write_checkpoint(base, drawn)
    paths = three(base, tmp_path)
    with open_model(base) as opened:  # shares are ranked by the numbers of one model: its plan names what stays
        plan = prepare(opened, Request(prune=cut)).prune
    for name, path in paths.items():
        whole = merged(tmp_path / f"{name}.merged", base, path)
        with miaotui.load(base, prune=plan, adapters=paths) as model, miaotui.load(whole, prune=plan) as other:
            wanted = other.logits(IDS)
            assert np.abs(model.logits(IDS, adapter=name) - wanted).max() <= near(2, wanted)


def test_every_call_takes_a_name_and_a_batch_of_all_equals_each_alone(base: Path, tmp_path: Path) -> None:
    paths = three(base, tmp_path)
    how: dict[str, Any] = {"max_new_tokens": 6, "ignore_eos": True}
    texts, names = [IDS, IDS[:7], IDS[3:], IDS], [None, "all", "DoRA", "some"]
    with miaotui.load(base, adapters=paths, threads=2, cache_tokens=4096) as model:
        alone = [model.generate(ids, adapter=name, **how).ids for ids, name in zip(texts, names, strict=True)]
        sampled = model.generate(IDS, adapter="all", temperature=2.0, seed=3, n=3, **how)
        beams = model.generate(IDS, adapter="all", num_beams=3, **how)
        rows = [model.logits(ids, adapter=name)[-1] for ids, name in zip(texts, names, strict=True)]

        async def together() -> list[miaotui.Generation]:
            calls = (model.agenerate(ids, adapter=name, **how) for ids, name in zip(texts, names, strict=True))
            return await asyncio.gather(*calls)

        model.session.kept.clear()
        assert [out.ids for out in asyncio.run(together())] == alone
        assert [t.id for t in model.tokens(IDS, adapter="some", **how)] == alone[3]
        assert model.generate([IDS, IDS], adapter="some", **how)[1].ids == alone[3]
        for ids, name, row in zip(texts, names, rows, strict=True):
            assert model.last_logits([ids, ids[:3]], adapter=name)[0].tobytes() == row.tobytes()
            assert model.last_logits([ids], adapter=name)[0].tobytes() == row.tobytes()
            with model.sequence(adapter=name) as text:
                assert text.adapter == name
                assert text.feed(ids).tobytes() == row.tobytes()
            [first, _] = model.score(ids, [[3, 4], [5]], adapter=name)
            with miaotui.load(base, adapters=paths, threads=1) as other:
                assert other.score(ids, [[3, 4]], adapter=name) == [first]
        again = model.generate(IDS, adapter="all", temperature=2.0, seed=3, n=3, **how)
        assert [g.ids for g in again.alternatives] == [g.ids for g in sampled.alternatives]
        assert model.generate(IDS, adapter="all", num_beams=3, **how).ids == beams.ids
        for call in (model.generate, model.logits, model.hidden, lambda ids, **k: model.score(ids, [[1]], **k)):
            with pytest.raises(InputError, match=r"adapter='none': the model has no such adapter; it has 'all'"):
                call(IDS, adapter="none")


def test_what_is_allocated_is_predicted_and_told(base: Path, tmp_path: Path) -> None:
    paths = three(base, tmp_path)
    with miaotui.load(base) as plain, miaotui.load(base, adapters=paths) as model:
        weights = {w.name: w for w in model.session.weights if ".adapter" in w.name}
        size = sum(-(-w.nbytes // 64) * 64 for w in weights.values())
        assert "adapters" not in plain.memory
        assert model.memory["adapters"] == size
        assert len({w.array.base is not None for w in weights.values()}) == 1
        lines = [line for line in model.receipt.notes if line.startswith("adapter")]
        assert len(lines) == 3
        assert lines[2].startswith("adapter 'DoRA', kept apart: dora: DoRA of")
        limit = model.memory["allocated"]
    miaotui.load(base, adapters=paths, memory_limit=limit).close()
    with pytest.raises(MemoryLimitError, match="1 over memory_limit"):
        miaotui.load(base, adapters=paths, memory_limit=limit - 1)
    with open_model(base) as opened:
        assert prepare(opened, Request(adapters=paths)).memory["adapters"] == size


@pytest.mark.parametrize(
    ("adapters", "error", "says"),
    [
        ("a", InputError, r"adapters='a': expected a dict of names and directories"),
        ([("a", "b")], InputError, "expected a dict"),
        ({3: "a"}, InputError, "adapters: the name 3: expected a text"),
        ({"": "a"}, InputError, "adapters: the name '': expected a text"),
        ({"a": 3}, InputError, "adapters: 'a': 3 found, expected the path of a directory"),
        ({"a": "/nowhere"}, MiaotuiError, "adapter: '/nowhere': no such directory"),
    ],
)
def test_bad_names_and_paths_are_told(adapters: Any, error: type[Exception], says: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, small("llama"))
    with pytest.raises(error, match=says):
        miaotui.load(tmp_path, adapters=adapters)


def test_none_and_an_empty_dict_are_no_adapters(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, small("llama"))
    for none in (None, {}):
        with miaotui.load(tmp_path, adapters=none) as model:
            assert model.adapters == ()
            with pytest.raises(InputError, match=r"the model has no such adapter; it was loaded without any"):
                model.generate(IDS, adapter="a")


def test_a_gpu_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"adapters: the CUDA path has no kernel .* use device='cpu'"):
        miaotui.load(tmp_path, adapters={"a": tmp_path}, device="cuda")


def test_what_cannot_be_kept_apart_is_refused_by_name(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_checkpoint(base, small("llama"))
    path = write_adapter(tmp_path / "saved", base, "q_proj", modules_to_save=["lm_head"])
    file = path / "adapter_model.safetensors"
    head = np.ones((11, 12), np.float32)
    save_file(load_file(file) | {"base_model.model.lm_head.weight": head}, file)
    with pytest.raises(InputError, match=r"adapters: 'a', .*saved: has weights in place.*load\(adapter='.*saved'\)"):
        miaotui.load(base, adapters={"a": path})
    path = write_adapter(tmp_path / "rows", base, "q_proj", trainable_token_indices=[1, 2])
    file = path / "adapter_model.safetensors"
    rows = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones((2, 12), np.float32)}
    save_file(load_file(file) | rows, file)
    with pytest.raises(InputError, match=r"rows of an embedding \(trainable_token_indices\)"):
        miaotui.load(base, adapters={"a": path})


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    for name, width in (("base", 12), ("other", 24)):
        drawn = small("llama")
        drawn.config.update(hidden_size=width)
        write_checkpoint(tmp_path / name, drawn)
    path = write_adapter(tmp_path / "adapter", tmp_path / "other", "q_proj")
    with pytest.raises(MiaotuiError, match=r"lora_A\.weight.* has shape"):
        miaotui.load(tmp_path / "base", adapters={"a": path})


def test_a_saved_text_goes_on_with_its_adapter(tmp_path: Path) -> None:
    base, file = tmp_path / "base", tmp_path / "text"
    write_checkpoint(base, small("llama"))
    paths = three(base, tmp_path)
    with miaotui.load(base, adapters=paths) as model, model.sequence(adapter="some") as text:
        text.feed(IDS)
        text.save(file)
        wanted = text.feed([3]).tobytes()
        with model.load_sequence(file) as again:
            assert again.adapter == "some"
            assert again.table.cached == len(IDS)
            assert again.feed([3]).tobytes() == wanted
        with model.sequence() as plain:
            plain.feed(IDS)
            plain.save(tmp_path / "plain")
            row = plain.feed([3]).tobytes()
    with miaotui.load(base) as model:  # a text without one is the model's alone
        with model.load_sequence(tmp_path / "plain") as again:
            assert again.feed([3]).tobytes() == row
        with pytest.raises(SequenceFileError, match="has the adapter 'some', and base as loaded has none of this name"):
            model.load_sequence(file)
    with miaotui.load(base, adapters={"some": paths["some"]}) as model, model.load_sequence(file) as again:
        assert again.feed([3]).tobytes() == wanted
    with (
        miaotui.load(base, adapters={"some": paths["all"]}) as model,
        pytest.raises(SequenceFileError, match="has another one of this name"),
    ):
        model.load_sequence(file)
