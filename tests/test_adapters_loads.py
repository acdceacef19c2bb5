"""An adapter in a load together with everything else: shares that are ranked, exports, plans, memory, commands."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from adapter_outputs import CASES, DECODER_IDS, IDS, SEQ2SEQ, write_base
from adapters import Written, merged, write_adapter
from checkpoints import Drawn, decode, encode, small, write_checkpoint, write_safetensors
from miaotui.errors import SequenceFileError
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack
from miaotui.tools.cli import main
from miaotui.tools.prune import prune
from task_models import write_model

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA = Path(__file__).parent / "data" / "adapters"
WIDE = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3, "num_key_value_heads": 1}


def exact_adapter(tensors: Mapping[str, np.ndarray], *, dora: bool = False, whole: tuple[str, ...] = ()) -> Written:
    """Of every matrix of the layers, in numbers that sums keep exactly."""
    rng = np.random.default_rng(3)
    said = {"r": 2, "lora_alpha": 4, "use_dora": dora, "target_modules": r".*layers\..*_proj"}
    adapter = Written(said)
    for name, array in tensors.items():
        if "_proj.weight" in name:
            module, (n_out, n_in) = name.removesuffix(".weight"), array.shape
            parts = {"lora_A.weight": (2, n_in), "lora_B.weight": (n_out, 2)}
            parts |= {"lora_magnitude_vector": (n_out,)} if dora else {}
            for end, shape in parts.items():
                adapter.tensors[f"{module}.{end}"] = np.array(rng.integers(1, 9, shape) / 8, np.float32)
    for name in whole:
        like = tensors.get(name, tensors["model.embed_tokens.weight"])
        adapter.tensors[name] = np.array(rng.integers(-8, 9, like.shape) / 8, np.float32)
    return adapter


def three(folder: Path, drawn: Drawn, **how: Any) -> tuple[Path, Path, Path]:
    """A base, an adapter, and the base with the adapter in it."""
    tensors = write_checkpoint(folder / "base", drawn)
    adapter = exact_adapter(tensors, **how)
    left, config = merged(tensors, drawn.config, adapter, drawn.dtype)
    (folder / "merged").mkdir()
    (folder / "merged" / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "merged" / "model.safetensors", left, dtype=drawn.dtype)
    return folder / "base", write_adapter(folder / "adapter", adapter), folder / "merged"


@pytest.mark.parametrize("dora", [False, True])
def test_shares_are_ranked_by_the_merged_weights(dora: bool, tmp_path: Path) -> None:  # noqa: FBT001 - parametrised
    drawn = small("llama")
    drawn = replace(drawn, config={**drawn.config, **WIDE}, dtype="BF16")
    base, adapter, whole = three(tmp_path, drawn, dora=dora, whole=("lm_head.weight",))
    for prune_ in ("ffn=0.5; width=0.5", "sparsity=2:4,down=0.5", "sparsity=stored", "keep-layers=1; drop-heads=1:0"):
        for quantize in (None, "int8"):
            with (
                miaotui.load(base, adapter=adapter, prune=prune_, quantize=quantize) as ours,
                miaotui.load(whole, prune=prune_, quantize=quantize) as theirs,
            ):
                assert ours.receipt.plan == theirs.receipt.plan
                assert np.array_equal(ours.logits([1, 2, 3]), theirs.logits([1, 2, 3]))
                assert ours.memory["weights_resident"] >= theirs.memory["weights_resident"]


def test_a_plan_that_was_made_for_the_base_fits_it_with_an_adapter(tmp_path: Path) -> None:
    base, adapter, whole = three(tmp_path, small("llama"), whole=("lm_head.weight",))
    prune(base, tmp_path / "cut", "keep-layers=1; ffn=0.5")
    plan = tmp_path / "cut" / "prune_plan.json"
    assert "layout" in plan.read_text()
    with open_model(base, adapter=adapter) as opened:
        prepared = miaotui.load(base, adapter=adapter, prune=plan)
        assert prepared.config.n_layers == 1
        assert opened.checkpoint.layout == json.loads(plan.read_text())["model"]["layout"]
    prepared.close()
    assert whole.exists()


@pytest.mark.ci  # 3 s
@pytest.mark.parametrize("name", ["embedding-tied", "gpt2-dora", "tokens-tied", "bloom", "lora-bias", "t5", "albert"])
def test_what_prune_writes_with_an_adapter_has_the_bits_of_the_load(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    case = CASES[name]
    write_base(case, tmp_path / "base")
    _, _, why = prune(tmp_path / "base", tmp_path / "out", None, adapter=DATA / name)
    assert why is None
    assert not (tmp_path / "out" / "prune_plan.json").exists()
    more = {"decoder_ids": DECODER_IDS} if case.auto == SEQ2SEQ else {}
    with (
        miaotui.load(tmp_path / "base", adapter=DATA / name) as ours,
        miaotui.load(tmp_path / "out") as theirs,
    ):
        ask = "hidden" if case.auto == "AutoModel" else "logits"
        assert np.array_equal(getattr(ours, ask)(IDS, **more), getattr(theirs, ask)(IDS, **more))
        assert ours.config.tied == theirs.config.tied


@pytest.mark.ci  # 1 s
def test_a_merged_export_is_read_by_transformers(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    write_base(CASES["embedding-tied"], tmp_path / "base")
    assert (
        main(["prune", str(tmp_path / "base"), str(tmp_path / "out"), "--adapter", str(DATA / "embedding-tied")]) == 0
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        theirs = model(torch.tensor([IDS])).logits[0].numpy()
    wanted = np.array(json.loads((DATA / "outputs.json").read_text())["embedding-tied"])
    assert np.abs(theirs - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_memory_is_what_was_predicted_and_never_a_float32_copy(tmp_path: Path) -> None:
    """8 MiB of BF16: merged a few rows at a time, and by two threads no more than twice that."""
    drawn = small("llama")
    sizes = {"hidden_size": 768, "intermediate_size": 1024, "num_attention_heads": 6, "num_hidden_layers": 1}
    drawn = replace(drawn, config={**drawn.config, **sizes, "num_key_value_heads": 6}, dtype="BF16")
    base, adapter, _ = three(tmp_path, drawn)
    with open_model(base, adapter=adapter) as opened:
        plan = make_load_plan(opened)
        largest = max(source.nbytes for source in plan)
        pack(plan, opened.checkpoint, threads=2)  # what is imported late is there now
        tracemalloc.start()
        pack(plan, opened.checkpoint, threads=2)  # the block is mapped, and not counted
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert largest > 1.5e6
    assert peak < 2 * largest  # in float32 one matrix would be twice as many bytes, with the sum and a term six times
    with miaotui.load(base, adapter=adapter) as model:
        assert model.memory["weights_resident"] == plan.resident_bytes
        assert sum("LoRA of rank 2 added" in entry.action for entry in model.receipt.entries) == 7


def test_bits_do_not_depend_on_threads_or_on_what_else_is_kept(tmp_path: Path) -> None:
    drawn = replace(small("llama"), config={**small("llama").config, "hidden_size": 300, "num_attention_heads": 3})
    tensors = write_checkpoint(tmp_path / "base", drawn)
    adapter = exact_adapter(tensors, dora=True)
    rng = np.random.default_rng(5)
    adapter.tensors = {name: rng.standard_normal(x.shape).astype(np.float32) for name, x in adapter.tensors.items()}
    path = write_adapter(tmp_path / "adapter", adapter)

    def weights(threads: int) -> dict[str, bytes]:
        with open_model(tmp_path / "base", adapter=path) as opened:
            made = pack(make_load_plan(opened), opened.checkpoint, threads=threads)
            return {w.name: np.ascontiguousarray(w.array).tobytes() for w in made}

    assert weights(1) == weights(3)
    with open_model(tmp_path / "base", adapter=path) as opened:
        source = next(s for s in make_load_plan(opened) if s.name == "layers.1.down")
        low = source.changes[0]
        reading = opened.checkpoint.array(source.tensor.name)
        from miaotui.loader.source import read

        all_rows = read(source, reading)
        one_by_one = np.concatenate([read(source, reading, slice(i, i + 1)) for i in range(source.shape[0])])
        assert low.needs_inputs
        assert np.array_equal(all_rows, one_by_one)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_whole_tensors_of_another_dtype_are_rounded_to_the_base_s(dtype: str, tmp_path: Path) -> None:
    drawn = replace(small("llama"), dtype=dtype)
    tensors = write_checkpoint(tmp_path / "base", drawn)
    adapter = exact_adapter(tensors, whole=("lm_head.weight", "model.norm.weight"))
    exact = np.random.default_rng(1).standard_normal(adapter.tensors["lm_head.weight"].shape).astype(np.float32)
    adapter.tensors["lm_head.weight"] = exact
    with open_model(tmp_path / "base", adapter=write_adapter(tmp_path / "a", adapter)) as opened:
        plan = make_load_plan(opened)
        head = plan.model["head"]
        assert not plan.config.tied
        assert (head.offset is None) == (dtype == "F32")  # mapped from the adapter's file, where that has the dtype
        made = next(w for w in pack(plan, opened.checkpoint) if w.name == "head")
        assert made.array is not None
        wide = made.array.astype(np.uint32) << 16 if dtype == "BF16" else made.array
        wide = wide.view(np.float32) if dtype == "BF16" else wide
    assert np.array_equal(wide, decode(encode(exact, dtype), dtype, exact.shape))


def test_a_text_that_the_base_saved_is_none_of_the_merged_model_s(tmp_path: Path) -> None:
    base, adapter, whole = three(tmp_path, small("llama"))
    with miaotui.load(base) as model, model.sequence() as text:
        text.feed([1, 2, 3])
        text.save(tmp_path / "base.session")
    with miaotui.load(base, adapter=adapter) as model:
        with pytest.raises(SequenceFileError, match="other weights"):
            model.load_sequence(tmp_path / "base.session")
        with model.sequence() as text:
            text.feed([1, 2, 3])
            text.save(tmp_path / "merged.session")
    with miaotui.load(whole) as model, model.load_sequence(tmp_path / "merged.session") as text:
        assert text.ids == [1, 2, 3]


def test_a_run_goes_on_with_the_same_adapter_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "model", "bert", "classes", labels=("no", "yes"))
    with open_model(model) as opened:
        modules = [name for name in opened.checkpoint.tensors if name.endswith("self.query.weight")]
        shapes = {name.removesuffix(".weight"): opened.checkpoint.tensors[name].shape for name in modules}
    adapter = Written({"r": 1, "lora_alpha": 1, "target_modules": ["query"]})
    for name, (n_out, n_in) in shapes.items():
        adapter.tensors |= {f"{name}.lora_A.weight": np.ones((1, n_in)), f"{name}.lora_B.weight": np.ones((n_out, 1))}
    for folder in ("one", "two"):
        write_adapter(tmp_path / folder, adapter)
        adapter.config["lora_alpha"] = 2
    Path("in.txt").write_text("a\nb\n")
    words = ["run", "text-classification", "--model", str(model), "--input", "in.txt", "--output", "out.jsonl"]
    assert main([*words, "--adapter", "one"]) == 0
    assert main([*words, "--adapter", "one"]) == 0
    for other in (["--adapter", "two"], []):
        assert main([*words, *other]) == 2
        assert "--adapter" in capsys.readouterr().err


def test_one_that_is_merged_and_others_that_are_kept_apart(tmp_path: Path) -> None:
    """As if the merged checkpoint were loaded with the others."""
    base, adapter, whole = three(tmp_path, small("llama"), dora=True)
    tensors = write_checkpoint(tmp_path / "again", small("llama"))
    other = write_adapter(tmp_path / "other", exact_adapter(tensors, dora=True))
    with (
        miaotui.load(base, adapter=adapter, adapters={"other": other}) as ours,
        miaotui.load(whole, adapters={"other": other}) as theirs,
    ):
        for name in (None, "other"):
            assert np.array_equal(ours.logits([1, 2, 3], adapter=name), theirs.logits([1, 2, 3], adapter=name))
        assert not np.array_equal(ours.logits([1, 2, 3]), ours.logits([1, 2, 3], adapter="other"))


@pytest.mark.ci  # 1 s
@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_the_text_part_of_a_model_that_sees_takes_adapters(prefix: str, tmp_path: Path) -> None:
    """Of Gemma 3 as it is published: names as transformers 5 and 4 have them; the part that sees is skipped."""
    pytest.importorskip("torch")
    case, name = CASES["gemma3_text"], "gemma3_text"
    write_base(case, tmp_path / "base")
    said = json.loads((DATA / name / "adapter_config.json").read_text())
    with open_model(tmp_path / "base", adapter=DATA / name) as opened:
        assert opened.adapter is not None
        files = opened.adapter.files
        keys = {key.removeprefix("base_model.model."): np.array(files.array(key)) for key in files.tensors}
    renamed = {key.replace("model.", prefix, 1): array for key, array in keys.items()}
    seeing = {f"model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_{x}.weight": np.ones((2, 2)) for x in "AB"}
    path = write_adapter(tmp_path / "adapter", Written(said, renamed | seeing))
    with miaotui.load(tmp_path / "base", adapter=path) as model:
        wanted = np.array(json.loads((DATA / "outputs.json").read_text())[name])
        assert np.abs(model.logits(IDS) - wanted).max() < 1e-5 * np.abs(wanted).max()
        assert any("2 tensors skipped" in note for note in model.receipt.notes)
