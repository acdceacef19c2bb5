"""`load(adapters={"name": directory})`: a text gets PEFT's output, and that of a model with the sum W + s B A."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import miaotui
import numpy as np
import pytest
from adapters_apart import merged, write_adapter
from checkpoints import small, write_checkpoint
from helpers import complaint
from miaotui.errors import BackendError, InputError, MemoryLimitError, MiaotuiError, SequenceFileError
from miaotui.limits import Request
from miaotui.loader.open import open_model
from miaotui.loader.prune.plan import PrunePlan
from miaotui.prepare import prepare
from miaotui.runtime.engine.speculative import Begun
from miaotui.runtime.sampling import SamplingParams
from miaotui.tools import demo
from miaotui.tools.cli import main
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.conversation import Conversation
from safetensors.numpy import load_file, save_file
from tolerance import bound

IDS = [1, 5, 9, 2, 7, 3, 8, 4, 6, 0, 10, 5, 5, 7, 2, 1, 3]
#: Of tests' models, which PEFT would take by itself.
TARGETS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen2": ("q_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
}


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
        ({"a": "/nowhere"}, MiaotuiError, r"^adapters: 'a': .*/nowhere.*: no such directory"),
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
    path = write_adapter(tmp_path / "saved", base, "q_proj", modules_to_save=["norm", "v_proj"])
    more(path, {"model.norm.weight": np.ones(12), "model.layers.1.self_attn.v_proj.weight": np.ones((4, 12))})
    own = r"model\.layers\.1\.self_attn\.v_proj\.weight, model\.norm\.weight"
    why = rf"adapters: 'a', .*saved: has weights in place.*: {own}, which cannot.*load\(adapter='.*saved'\)"
    with pytest.raises(InputError, match=why):
        miaotui.load(base, adapters={"a": path})
    path = write_adapter(tmp_path / "both", base, "q_proj", trainable_token_indices={"lm_head": [1, 2]})
    (path / "adapter_config.json").write_text(
        (path / "adapter_config.json").read_text().replace('["q_proj"]', '["q_proj", "lm_head"]')
    )
    more(path, {"lm_head.token_adapter.trainable_tokens_delta": np.ones((2, 12)), "lm_head.lora_A.weight":
                np.ones((4, 12)), "lm_head.lora_B.weight": np.ones((11, 4))})  # fmt: skip
    with pytest.raises(InputError, match=r"has A and B next to rows of the same matrix, head, which"):
        miaotui.load(base, adapters={"a": path})


def more(adapter: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write further tensors into an adapter's file."""
    file = adapter / "adapter_model.safetensors"
    added = {f"base_model.model.{name}": array.astype(np.float32) for name, array in tensors.items()}
    save_file(load_file(file) | added, file)


def test_rows_of_a_pruned_vocabulary(tmp_path: Path) -> None:
    """Of ids that go, rows go too; a text of another adapter, and of none, keeps the model's."""
    base = tmp_path / "base"
    drawn = small("llama")
    drawn.config.update(tie_word_embeddings=True)
    write_checkpoint(base, drawn)
    path = write_adapter(tmp_path / "rows", base, "q_proj", trainable_token_indices=[9, 2, 5])
    rng, name = np.random.default_rng(5), "model.embed_tokens"
    more(path, {f"{name}.token_adapter.trainable_tokens_delta": rng.standard_normal((3, 12))})
    plain = write_adapter(tmp_path / "plain", base, "v_proj")
    plan, ids = PrunePlan(vocab=(0, 1, 2, 3, 5, 6, 7), width=tuple(range(1, 11))), [1, 2, 4, 0, 5, 4]
    with (
        miaotui.load(base, adapters={"rows": path, "plain": plain}, prune=plan) as model,
        miaotui.load(base, adapter=path, prune=plan) as merged_model,
        miaotui.load(base, adapters={"plain": plain}, prune=plan) as other,
    ):
        wanted = merged_model.logits(ids)
        assert np.abs(model.logits(ids, adapter="rows") - wanted).max() <= near(2, wanted)
        assert np.abs(model.logits(ids, adapter="rows") - model.logits(ids)).max() > 100 * near(2, wanted)
        assert model.logits(ids, adapter="plain").tobytes() == other.logits(ids, adapter="plain").tobytes()


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


def of_deberta(base: Path, *terms: str, shared: bool) -> None:
    from test_classifiers import made, transformers

    config = transformers.CONFIG_MAPPING["deberta-v2"](
        vocab_size=53, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20,
        max_position_embeddings=64, relative_attention=True, pos_att_type=list(terms), share_att_key=shared,
        position_biased_input=False, pad_token_id=0,
    )  # fmt: skip
    made(config, base)


@pytest.mark.parametrize(
    ("terms", "key", "refused"),
    [
        (("c2p", "p2c"), "shared", {"query_proj": "q", "key_proj": "k"}),
        (("c2p",), "shared", {"key_proj": "k"}),
        (("c2p", "p2c"), "its own", {"pos_key_proj": "pos_k", "pos_query_proj": "pos_q"}),
    ],
)
def test_what_a_table_of_distances_is_multiplied_with_too_is_merged_alone(
    tmp_path: Path, terms: tuple[str, ...], key: str, refused: dict[str, str]
) -> None:
    """DeBERTa: such keys and queries are made once, of no text's adapter; all others are kept apart."""
    pytest.importorskip("torch")
    base = tmp_path / "base"
    of_deberta(base, *terms, shared=key == "shared")
    names = {"query_proj", "key_proj", "value_proj", *refused}
    for name in sorted(names):
        path = write_adapter(tmp_path / name, base, name)
        with miaotui.load(base) as plain, miaotui.load(base, adapter=path) as merged:
            alone, wanted = plain.logits(IDS), merged.logits(IDS)
        assert np.abs(wanted - alone).max() > 0.01
        if name in refused:
            told = rf"^adapters: 'a', .*{name}: has {refused[name]} among its modules, with which rows of a table of "
            told += r"distances are multiplied too, which cannot be kept apart from the model; load\(adapter=.*merges"
            with pytest.raises(InputError, match=told):
                miaotui.load(base, adapters={"a": path})
            continue
        with miaotui.load(base, adapters={"a": path}) as model:
            assert model.logits(IDS).tobytes() == alone.tobytes()
            ours = model.logits(IDS, adapter="a")
            assert np.abs(ours - wanted).max() <= bound("model", "f32", 1, float(np.abs(wanted).max()))


def test_experts_are_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from test_decoders import made
    from test_decoders import small as of_family

    base = tmp_path / "base"
    made(of_family("mixtral"), base)
    miaotui.load(base, adapters={"a": write_adapter(tmp_path / "q", base, "q_proj")}).close()
    with pytest.raises(InputError, match="has experts among its modules, which cannot be kept apart"):
        miaotui.load(base, adapters={"a": write_adapter(tmp_path / "experts", base, "w1")})


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """What a command line returns and says."""
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, complaint(err)


def test_the_commands_take_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {
        name: write_adapter(tmp_path / name, demo.path(), *TARGETS["llama"], seed=i) for i, name in enumerate("ab")
    }
    given = [word for name, path in paths.items() for word in ("--adapters", f"{name}={path}")]
    how = ["--max-new-tokens", "8", "--no-prompt"]
    with miaotui.load(demo.path(), adapters=paths) as model:
        wanted = {name: model.generate("Once upon", max_new_tokens=8, adapter=name).text for name in (None, *paths)}
    assert len(set(wanted.values())) == len(wanted)
    for name, more in (("a", []), ("a", ["--adapter-name", "a"]), ("b", ["--adapter-name", "b"])):
        code, out, _ = run(["generate", "Once upon", *how, *given, *more], capsys)
        assert (code, out.removesuffix("\n")) == (0, wanted[name].removesuffix("\n"))
    code, out, _ = run(["inspect", str(demo.path()), *given], capsys)
    assert code == 0
    assert "adapter 'b', kept apart: b: LoRA of" in out
    assert "adapters, kept apart" in out
    for more, says in (
        (["--adapter-name", "c", *given], "--adapter-name c: there is no such adapter; expected one of a, b"),
        (["--adapter-name", "c"], "--adapter-name c: there is no such adapter; give --adapters NAME=PATH, too"),
        ([*given, *given], "--adapters a=...: this name is given twice"),
    ):
        code, _, err = run(["generate", "Once upon", *how, *more], capsys)
        assert code == 2
        assert err.startswith(f"miaotui: error: {says}")
    with pytest.raises(SystemExit):
        main(["generate", "Once upon", "--adapters", "a"])
    assert "expected NAME=PATH, found 'a'" in capsys.readouterr().err


def test_a_conversation_changes_its_adapter(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a", demo.path(), *TARGETS["llama"])
    how: dict[str, Any] = {"max_new_tokens": 6}
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with miaotui.load(demo.path(), adapters={"a": path}) as model:
        said = [{"role": "user", "content": "Once upon"}]
        alone = [model.chat(said, adapter=name, chat_template=template, **how).ids for name in (None, "a")]
        assert alone[0] != alone[1]
        talk = Conversation(model, chat_template=template)
        for name, wanted in ((None, alone[0]), ("a", alone[1]), (None, alone[0])):
            talk.use(name)
            talk.reset()
            assert [t.id for t in talk.reply("Once upon", **how)] == wanted
        with pytest.raises(InputError, match="adapter='b': the model has no such adapter"):
            talk.use("b")
        talk.close()


def test_a_quantised_model_takes_adapters(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_checkpoint(base, small("llama"))
    paths = three(base, tmp_path)
    quantize(base, tmp_path / "int8", "int8")
    floats = {name: paths[name] for name in ("all", "some")}
    with (
        miaotui.load(base, adapters=paths) as exact,
        miaotui.load(base, quantize="int8", adapters=paths, threads=2) as model,
        miaotui.load(tmp_path / "int8", adapters=floats) as other,
    ):
        rounding = np.abs(model.logits(IDS) - exact.logits(IDS)).max()
        for name in paths:
            got = model.logits(IDS, adapter=name)
            assert np.abs(got - exact.logits(IDS, adapter=name)).max() <= 4 * rounding, "that of the matrices alone"
            assert name not in floats or got.tobytes() == other.logits(IDS, adapter=name).tobytes()
    with pytest.raises(InputError, match=r"'DoRA': .*q_proj: use_dora needs the model's own numbers.*quantize='int8'"):
        miaotui.load(tmp_path / "int8", adapters=paths)


def test_the_page_s_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "adapters.md").read_text(encoding="utf-8")
    parts = (
        page[page.index(title) :].partition("\n## ")[0] for title in ("## Several at once", "## Adapters that come")
    )
    code = "\n".join(
        block for part in parts for block in re.findall(r"^```python\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
    )
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("formal", "brief")):
        write_adapter(tmp_path / "adapters" / name, demo.path(), *TARGETS["llama"], seed=i)
    names: dict[str, Any] = {}
    exec(compile(code.replace("path/or/hub-name", str(demo.path())), "docs/adapters.md", "exec"), names)  # noqa: S102 - ours
    told = capsys.readouterr().out.splitlines()
    assert len(set(told)) >= 3
    assert told[-1] == told[0], "of an adapter that came later"
    assert names["model"].adapters == ()
    names["model"].close()


def test_an_adapter_may_lie_over_a_merged_one(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_checkpoint(base, small("llama"))
    paths = three(base, tmp_path)
    whole = merged(tmp_path / "merged", base, paths["all"])
    with (
        miaotui.load(base, adapter=paths["all"], adapters={"some": paths["some"]}) as model,
        miaotui.load(whole, adapters={"some": paths["some"]}) as other,
    ):
        wanted = other.logits(IDS, adapter="some")
        assert np.abs(model.logits(IDS, adapter="some") - wanted).max() <= near(2, wanted)


def test_an_adapter_of_what_is_cut_away_changes_nothing(tmp_path: Path) -> None:
    base = tmp_path / "base"
    write_checkpoint(base, small("llama"))
    path = write_adapter(tmp_path / "a", base, "down_proj", "up_proj", "gate_proj")
    with miaotui.load(base, prune="drop-ffn=0-1", adapters={"a": path}) as model:
        assert model.adapters == ("a",)
        assert model.logits(IDS, adapter="a").tobytes() == model.logits(IDS).tobytes()
        assert model.memory["allocated"] == miaotui_allocated(base, "drop-ffn=0-1")


def miaotui_allocated(base: Path, cut: str) -> int:
    """Of a model without adapters."""
    with miaotui.load(base, prune=cut) as model:
        return model.memory["allocated"]


@pytest.mark.parametrize("draft", ["ngram", "keep-layers=0", "keep-layers=1", "other"])
def test_what_is_drafted_is_the_same_text(draft: str, tmp_path: Path) -> None:
    """A draft that is the model's own, cut, drafts with the text's adapter; another model without one."""
    base = tmp_path / "base"
    write_checkpoint(base, small("llama"))
    write_checkpoint(tmp_path / "other", small("qwen2"))
    paths = three(base, tmp_path)
    given = tmp_path / "other" if draft == "other" else draft
    with miaotui.load(base, adapters=paths) as plain, miaotui.load(base, adapters=paths, draft=given) as model:
        for name in (None, *paths):
            for how in ({}, {"temperature": 1.5, "seed": 3}):
                got, wanted = (m.generate(IDS, max_new_tokens=30, ignore_eos=True, adapter=name, **how).ids
                               for m in (model, plain))  # fmt: skip
                assert got == wanted
        name, made = model.session.drafting.default
        if draft == "keep-layers=0":
            assert model.program().early is not None  # of which every pass is one of the text's own
        elif name == "model":
            drafter = made(Begun(None, (), SamplingParams(), 0, "some"))
            assert drafter._text.adapter == ("some" if draft != "other" else None)
