"""Feed-forwards of experts: both layouts of a file, the same bits however they come, what a step reads, and plans.

Against `transformers`: tests/test_decoders.py. The ops: tests/test_ops.py.
"""

from __future__ import annotations

import json
import mmap
import sys
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import CheckpointError, ConfigError, PlanError
from miaotui.limits import Request
from miaotui.loader.config import parse_config
from miaotui.loader.families import Part
from miaotui.loader.open import open_model
from miaotui.loader.pieces import rows_in_tensor
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.roles import expert_key
from miaotui.loader.sizes import sizes_of
from miaotui.loader.source import spans_by_file
from miaotui.prepare import prepare
from miaotui.runtime.arena import Tensor
from miaotui.runtime.experts import ExpertTable
from miaotui.tools.cli import main
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.importance.calibrate import calibrate
from miaotui.tools.prune import prune
from test_decoders import IDS, MOE, made, near, oracle, small, theirs
from test_pages_read import PAGE, let_go, resident

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EVERY = [f if f == "qwen2_moe" else pytest.param(f, marks=pytest.mark.ci) for f in MOE]
#: The layer of tests' models that has no experts, by family.
DENSE_LAYER = {"qwen2_moe": 3}


def stacked(directory: Path, out: Path) -> Path:
    """The same model as transformers' modules hold it: a tensor for the experts of a layer."""
    dtype = torch.float32 if "float32" in (directory / "config.json").read_text() else torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model.save_pretrained(out, save_original_format=False)
    return out


def bits(path: Path, **options: Any) -> bytes:
    """Those of every token's logits."""
    with miaotui.load(path, **options) as model:
        return model.logits(IDS).tobytes()


@pytest.mark.parametrize("family", EVERY)
def test_a_stack_of_experts_has_the_bits_of_experts_apart(family: str, tmp_path: Path) -> None:
    made(small(family), tmp_path / "apart", dtype=torch.bfloat16)
    other = stacked(tmp_path / "apart", tmp_path / "stacked")
    with open_model(other) as opened:
        names = opened.checkpoint.tensors
        assert any(len(t.shape) == 3 for t in names.values())
        assert not any(".experts.0." in name for name in names)
        plan = prepare(opened, Request()).plan
        assert all(len(source.shape) == 1 for source in plan if source.offset is not None)
        assert sum("experts.{e}" in line or "x18" in line for line in plan.lines()) < 12
    assert bits(other) == bits(tmp_path / "apart")
    how = "int8,expert_down=int4a,head=none"
    wanted = bits(tmp_path / "apart", quantize=how)
    assert bits(other, quantize=how) == wanted != bits(other)
    for path in (tmp_path / "apart", other):
        quantize(path, tmp_path / f"{path.name}-8", how)
        assert bits(tmp_path / f"{path.name}-8") == wanted
    plan = {"experts": {"0": "1-4", "2": "0,5"}, "ffn": {"0": "3-20"}}
    cut = {"format": "miaotui-prune", "version": 1, **plan}
    wanted = bits(tmp_path / "apart", prune=cut)
    assert bits(other, prune=cut) == wanted
    uniform = PrunePlan(experts={i: (0, 2, 5) for i in range(4) if i != DENSE_LAYER.get(family)})
    prune(other, tmp_path / "cut", uniform)
    assert bits(tmp_path / "cut") == bits(tmp_path / "apart", prune=uniform)
    exact = theirs(again := oracle(tmp_path / "cut"), IDS)
    with miaotui.load(tmp_path / "cut") as model:
        assert np.abs(model.logits(IDS) - exact).max() <= near(again, IDS, exact)


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("quantized", [None, *(pytest.param(q, marks=pytest.mark.ci) for q in ("int8", "int4a"))])
def test_bits_do_not_depend_on_threads_chunks_and_company(family: str, quantized: str | None, tmp_path: Path) -> None:
    made(small(family, hidden_size=48, num_experts_per_tok=3, intermediate_size=35), tmp_path)
    options: dict[str, Any] = {"quantize": quantized} if quantized else {}
    wanted = bits(tmp_path, threads=1, **options)
    for threads, chunk in ((2, 128), (3, 7), (1, 1), (2, 13)):
        assert bits(tmp_path, threads=threads, prefill_chunk=chunk, **options) == wanted
    with miaotui.load(tmp_path, threads=2, **options) as model:
        texts = [IDS[:3], IDS, IDS[5:12], IDS[:1]]
        for text, row in zip(texts, model.session.last_logits(texts), strict=True):
            assert row.tobytes() == model.logits(text)[-1].tobytes()


def routed(model: Any, ids: list[int]) -> dict[int, set[int]]:
    """Layer -> the experts that a step's tokens go to, from a step that is watched."""
    got: dict[int, set[int]] = {}

    def watch(instruction: Any, view: Any) -> None:
        table, routes = instruction.values.get("table"), instruction.values.get("routes")
        if isinstance(table, ExpertTable) and isinstance(routes, Tensor):
            layer = int(table.weights[0].name.split(".")[1])
            got[layer] = set(view(routes)[:, : routes.width // 2].astype(int).ravel().tolist())

    model.session.watched_step(ids, 0, watch)
    return got


@pytest.mark.skipif(sys.platform != "linux" or mmap.PAGESIZE != PAGE, reason="counts Linux's pages of 4096 bytes")
@pytest.mark.parametrize("layout", ["apart", *(pytest.param(x, marks=pytest.mark.ci) for x in ("stacked", "int8"))])
def test_a_step_reads_the_experts_that_its_tokens_go_to(tmp_path: Path, layout: str) -> None:
    """By the kernel's own account: of every expert's pages those alone that a token went to, and one more each."""
    made(small("mixtral", hidden_size=256, intermediate_size=384, num_hidden_layers=2), tmp_path / "apart")
    path = tmp_path / layout
    if layout == "stacked":
        stacked(tmp_path / "apart", path)
    elif layout == "int8":
        quantize(tmp_path / "apart", path, "int8")
    file = path / "model.safetensors"
    let_go(file)
    with miaotui.load(path, threads=1) as model:
        chosen = [routed(model, [7])]
        held = [resident(file)]
        chosen.append(routed(model, [7, 9, 30]))
        held.append(resident(file))
        sources = [s for s in model._plan if s.expert is not None]
        others = spans_by_file(s for s in model._plan if s.expert is None)
    assert all(len(experts) == 2 for experts in chosen[0].values())
    free = {p for spans in others.values() for a, b in spans for p in range(a // PAGE, -(-b // PAGE))}
    for experts, pages in zip(chosen, held, strict=True):
        going = {(layer, e) for layer, some in experts.items() for e in some}
        allowed, needed = set(), set()
        for source in sources:
            (a, b), layer = source.spans[0], int(source.name.split(".")[1])
            inside = set(range(-(-a // PAGE), b // PAGE))
            assert len(inside) > 5
            if (layer, source.expert) in going:
                needed |= inside
                allowed |= set(range(a // PAGE, -(-b // PAGE)))
        told = {p for s in sources for p in range(s.spans[0][0] // PAGE, -(-s.spans[0][1] // PAGE))}
        assert needed <= pages
        assert pages & told <= allowed | free
        size = sum(s.spans[0][1] - s.spans[0][0] for s in sources if (int(s.name.split(".")[1]), s.expert) in going)
        count = sum((int(s.name.split(".")[1]), s.expert) in going for s in sources)
        assert PAGE * len(pages & told - free) <= size + PAGE * count


@pytest.mark.parametrize("family", EVERY)
def test_experts_that_go_are_experts_that_no_token_is_given(family: str, tmp_path: Path) -> None:
    """Against transformers' own module with the same rows and matrices taken out of it."""
    model = made(small(family, norm_topk_prob=True), tmp_path / "whole")
    kept = {i: (0, 2, 5) for i in range(4) if i != DENSE_LAYER.get(family)}
    with torch.no_grad():
        for layer, some in kept.items():
            block = model.model.layers[layer].mlp
            for module, name in (
                (block.gate, "weight"),
                (block.experts, "gate_up_proj"),
                (block.experts, "down_proj"),
            ):
                setattr(module, name, torch.nn.Parameter(getattr(module, name)[list(some)]))
                module.num_experts = len(some)
    exact = theirs(model, IDS)
    text = f"drop-experts={'+'.join(f'{i}:1,3,4' for i in kept)}"
    plan = PrunePlan(experts=kept)
    with miaotui.load(tmp_path / "whole", prune=text) as short, miaotui.load(tmp_path / "whole", prune=plan) as cut:
        got = cut.logits(IDS)
        assert np.abs(got - exact).max() <= near(model, IDS, exact)
        assert short.logits(IDS).tobytes() == got.tobytes()
        assert cut.config.stack.feed_forward(0).experts.n == 3
        assert "experts 0,2,5" in cut.receipt.plan
        sources = [s for s in cut._plan if s.expert is not None]
        assert cut.memory["weights_mapped"] == sum(s.nbytes for s in cut._plan if s.offset is None)
        assert len(sources) == 9 * len(kept)
    _, _, refused = prune(tmp_path / "whole", tmp_path / "cut", plan)
    assert refused is None
    assert bits(tmp_path / "cut") == got.tobytes()
    exact = theirs(again := oracle(tmp_path / "cut"), IDS)
    assert np.abs(got - exact).max() <= near(again, IDS, exact)
    raw = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert raw.get("num_experts", raw.get("num_local_experts")) == 3
    # what is left is cut again, and both plans are one
    second = PrunePlan(experts={0: (1, 2)}, layers=(0, 2, 3))
    wanted = bits(tmp_path / "cut", prune=second)
    assert bits(tmp_path / "whole", prune=plan.then(second)) == wanted
    assert plan.then(second).experts[0] == (2, 5)
    assert PrunePlan.from_dict(json.loads(plan.to_json())) == plan
    _, _, refused = prune(tmp_path / "cut", tmp_path / "uneven", second)
    assert "its layers differ" in refused
    assert bits(tmp_path / "uneven") == wanted


@pytest.mark.ci  # 6 s
def test_layers_without_experts_keep_their_width(tmp_path: Path) -> None:
    """Qwen2-MoE has two widths: layers without experts are cut, moved and written with their own."""
    made(small("qwen2_moe", mlp_only_layers=[1, 3], intermediate_size=40), tmp_path / "whole")
    plan = PrunePlan(ffn={1: tuple(range(30)), 3: tuple(range(5, 35)), 0: tuple(range(20))}, layers=(0, 1, 3))
    wanted = bits(tmp_path / "whole", prune=plan)
    _, _, refused = prune(tmp_path / "whole", tmp_path / "cut", plan)
    assert refused is None
    raw = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert (raw["moe_intermediate_size"], raw["intermediate_size"]) == (20, 30)
    assert raw["mlp_only_layers"] == [1, 2]
    assert bits(tmp_path / "cut") == wanted
    exact = theirs(again := oracle(tmp_path / "cut"), IDS)
    with miaotui.load(tmp_path / "cut") as model:
        assert np.abs(model.logits(IDS) - exact).max() <= near(again, IDS, exact)
    uneven = PrunePlan(ffn={1: tuple(range(30)), 2: tuple(range(20))})
    prune(tmp_path / "whole", tmp_path / "uneven", uneven)
    assert bits(tmp_path / "uneven") == bits(tmp_path / "whole", prune=uneven)


@pytest.mark.ci  # 6 s
@pytest.mark.parametrize("prune_by", ["ffn=0.5", "width=0.5", "ffn=0.75; width=0.5; drop-experts=1:0+2:1,3"])
def test_shares_of_neurons_and_width_take_experts_along(prune_by: str, tmp_path: Path) -> None:
    made(small("mixtral"), tmp_path / "whole")
    with open_model(tmp_path / "whole") as opened:
        predicted = prepare(opened, Request(prune=prune_by)).memory
    with miaotui.load(tmp_path / "whole", prune=prune_by) as model:
        wanted, memory = model.logits(IDS), model.memory
        assert model.config.d_model == (16 if "width" in prune_by else 32)
    assert memory == predicted
    prune(tmp_path / "whole", tmp_path / "cut", prune_by)
    assert bits(tmp_path / "cut") == wanted.tobytes()


@pytest.mark.ci  # 6 s
def test_the_least_routed_experts_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(small("qwen3_moe"), tmp_path / "whole")
    words = {"type": "WordLevel", "vocab": {str(i): i for i in range(53)}, "unk_token": "0"}
    told = {"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"}, "added_tokens": [], "model": words}
    (tmp_path / "whole" / "tokenizer.json").write_text(json.dumps(told))
    windows = [IDS, IDS[::-1]]
    with miaotui.load(tmp_path / "whole") as model:
        statistics = calibrate(model, windows)
        seen = [routed(model, w[:-1]) for w in windows]
    for layer in range(4):
        counts = statistics.routed[f"layers.{layer}"]
        assert counts.sum() == 2 * 2 * (len(IDS) - 1)
        assert {e for e in range(6) if counts[e]} == seen[0][layer] | seen[1][layer]
    text = tmp_path / "text"
    text.write_text(" ".join(str(i * i % 53) for i in range(60)))
    command = ["prune", str(tmp_path / "whole"), str(tmp_path / "cut"), "--method", "routed", "--text", str(text)]
    assert main([*command, "--experts", "0.5"]) == 0
    plan = PrunePlan.load(tmp_path / "cut" / "prune_plan.json")
    assert {len(kept) for kept in plan.experts.values()} == {3}
    with miaotui.load(tmp_path / "whole") as model:
        ids = model.tokenizer.encode(text.read_text())
        counts = calibrate(model, [ids]).routed
    for layer, kept in plan.experts.items():
        n = counts[f"layers.{layer}"]
        assert min(n[list(kept)]) >= max(n[e] for e in range(6) if e not in kept)
    capsys.readouterr()
    assert main([*command[:2], str(tmp_path / "no"), *command[3:], "--ffn", "0.5"]) == 2
    assert "expected --experts" in capsys.readouterr().err


def test_plans_that_do_not_fit(tmp_path: Path) -> None:
    made(small("qwen2_moe"), tmp_path)
    for plan, says in (
        ({"experts": {"0": "0"}}, "experts of layer 0: 1 kept, but a token goes to 2"),
        ({"experts": {"0": "0-6"}}, "experts of layer 0: there is no expert 6; it has 6"),
        ({"experts": {"3": "0-1"}}, "experts of layer 3: there is no expert 1; it has none"),
        ({"experts": {"4": "0-1"}}, "experts: there is no layer 4"),
    ):
        with pytest.raises(PlanError, match=says):
            miaotui.load(tmp_path, prune={"format": "miaotui-prune", "version": 1, **plan})
    for text, says in (
        ("drop-experts=0:6", "there is no expert 6 in layer 0; it has 6"),
        ("drop-experts=3:0", "there is no expert 0 in layer 3; it has no experts"),
        ("drop-experts=0", "expected LAYER:EXPERTS such as 3:0,1"),
        ("drop-experts=0:0-4", "a token goes to 2; keep at least as many"),
    ):
        with pytest.raises(PlanError, match=says):
            miaotui.load(tmp_path, prune=text)


@pytest.mark.parametrize(
    ("family", "keys", "says"),
    [
        ("mixtral", {"num_experts_per_tok": 7}, "num_experts_per_tok is 7; there are 6 experts"),
        ("mixtral", {"num_experts": 5}, "num_experts is 5, num_local_experts 6; keep one"),
        ("mixtral", {"num_local_experts": 0}, "num_local_experts is 0; expected an integer from 1"),
        ("qwen2_moe", {"mlp_only_layers": "0"}, "mlp_only_layers is '0'; expected a list of layers"),
        ("qwen2_moe", {"mlp_only_layers": [[0]]}, "mlp_only_layers"),
        ("qwen3_moe", {"num_local_experts": 2**16, "moe_intermediate_size": 2**31 - 1}, "expected at most 2"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv"),
    ],
)
def test_configs_that_are_refused(family: str, keys: dict[str, Any], says: str, tmp_path: Path) -> None:
    made(small(family), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | keys))
    with pytest.raises(ConfigError, match=says):
        miaotui.load(tmp_path)


def test_files_that_contradict_their_config(tmp_path: Path) -> None:
    made(small("mixtral"), tmp_path / "apart")
    other = stacked(tmp_path / "apart", tmp_path / "stacked")
    for path, says in ((tmp_path / "apart", "experts.6"), (other, r"has shape \[6, 32\]; config.json makes it \[7")):
        raw = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(raw | {"num_local_experts": 7}))
        with pytest.raises(CheckpointError, match=says):
            miaotui.load(path)
        (path / "config.json").write_text(json.dumps(raw | {"num_local_experts": 2**16}))
        with pytest.raises(CheckpointError):
            miaotui.load(path)


def test_numbers_that_are_none_reach_the_answer(tmp_path: Path) -> None:
    """A router's NaN makes the token's logits NaN, and touches no expert that is not there."""
    model = made(small("mixtral"), tmp_path)
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight[3, :] = float("nan")
    model.to(torch.float32).save_pretrained(tmp_path)
    with miaotui.load(tmp_path) as ours:
        assert np.isnan(ours.logits(IDS)).all()


def test_rows_of_an_expert_in_a_stack_of_all() -> None:
    """One tensor [experts * rows], alone or after the gates of each."""
    config = parse_config(small("mixtral").to_dict(), "config.json")
    width, inner = config.d_model, sizes_of(config, 0).d_ff
    for part, role, each, first in (
        (Part("down", stacked="down"), "expert_down", width, 0),
        (Part("both", ("expert_gate", "expert_up"), stacked="both"), "expert_gate", 2 * inner, 0),
        (Part("both", ("expert_gate", "expert_up"), stacked="both"), "expert_up", 2 * inner, inner),
    ):
        for expert in range(3):
            rows = rows_in_tensor(config, part, expert_key(role, expert), 0, [(1, 4)])
            start = expert * each + first
            assert list(rows) == [(start + 1, start + 4)]
