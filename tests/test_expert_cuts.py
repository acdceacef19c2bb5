"""What methods and plans do to experts: zeros by plan, magnitude, Wanda and SparseGPT; neurons of all of them alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import PlanError
from miaotui.limits import Request
from miaotui.loader.open import open_model
from miaotui.loader.prune.plan import PrunePlan
from miaotui.prepare import prepare
from miaotui.tools.cli import main
from miaotui.tools.importance.masks import parse_sparsity
from miaotui.tools.importance.methods import Text, Wish, find
from miaotui.tools.prune import prune
from test_decoders import IDS, MOE, made, oracle, small
from test_experts import DENSE_LAYER, bits, stacked

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EVERY = [f if f == "qwen2_moe" else pytest.param(f, marks=pytest.mark.ci) for f in MOE]
#: Matrices of transformers' modules that stay as they are.
UNTOUCHED = ("embed_tokens", "lm_head", "norm", "mlp.gate.weight", "shared_expert_gate")


def largest(w: Any, share: float) -> Any:
    """Of the last axis, all but this share of the smallest, which are zero."""
    k = w.shape[-1]
    order = torch.argsort(-w.abs(), dim=-1, stable=True).argsort(dim=-1)
    return torch.where(order < k - int(k * share), w, torch.zeros((), dtype=w.dtype))


def thin(model: Any, how: str) -> None:
    """Zeros by magnitude, within rows, in every matrix of every layer but routers: independent of ours."""
    with torch.no_grad():
        for name, w in model.named_parameters():
            if "layers" not in name or w.dim() < 2 or any(word in name for word in UNTOUCHED):
                continue
            if how == "0.5":
                w.copy_(largest(w, 0.5))
            else:  # 2:4
                w.copy_(largest(w.reshape(*w.shape[:-1], -1, 4), 0.5).reshape(w.shape))


@pytest.mark.parametrize("how", ["0.5", pytest.param("2:4", marks=pytest.mark.ci)])
@pytest.mark.parametrize("family", EVERY)
def test_a_plan_makes_zeros_in_experts(family: str, how: str, tmp_path: Path) -> None:
    model = made(small(family), tmp_path / "whole")
    stacked(tmp_path / "whole", tmp_path / "stacked")
    thin(model, how)
    model.to(torch.float32).save_pretrained(tmp_path / "thin")
    wanted = bits(tmp_path / "thin")
    assert bits(tmp_path / "whole") != wanted
    for path in (tmp_path / "whole", tmp_path / "stacked"):
        assert bits(path, prune={"sparsity": how}) == wanted
    assert bits(tmp_path / "whole", prune={"sparsity": how}, threads=3, prefill_chunk=3) == wanted
    assert bits(tmp_path / "whole", prune={"sparsity": how}, quantize="int8") == bits(
        tmp_path / "thin", quantize="int8"
    )
    with open_model(tmp_path / "whole") as opened:
        prepared = prepare(opened, Request(prune={"sparsity": how}))
        experts = [s for s in prepared.plan if s.expert is not None]
        assert all(s.offset is not None and not s.sparse and "held dense" in s.action for s in experts)
        note = "zeros of experts take bytes, as other numbers do; the experts are copied into memory"
        assert note in prepared.receipt.notes
        predicted = prepared.memory
    with miaotui.load(tmp_path / "whole", prune={"sparsity": how}) as cut:
        assert cut.memory == predicted
    prune(tmp_path / "whole", tmp_path / "cut", {"sparsity": how})
    assert bits(tmp_path / "cut") == wanted
    with miaotui.load(tmp_path / "cut", prune={"sparsity": "stored"}) as again:
        assert again.logits(IDS).tobytes() == wanted
        assert "the experts stay mapped" in "\n".join(again.receipt.notes)
        assert all(s.offset is None for s in again._plan if s.expert is not None)


@pytest.mark.ci  # 5 s
def test_roles_and_layers_are_named_as_elsewhere(tmp_path: Path) -> None:
    model = made(small("qwen2_moe"), tmp_path / "whole")
    with torch.no_grad():
        for i in (0, 2):
            block = model.model.layers[i].mlp
            block.experts.down_proj.copy_(largest(block.experts.down_proj, 0.5))
            block.shared_expert.down_proj.weight.copy_(largest(block.shared_expert.down_proj.weight, 0.5))
    model.to(torch.float32).save_pretrained(tmp_path / "thin")
    assert bits(tmp_path / "whole", prune={"sparsity": {"0.down": "0.5", "2.down": "0.5"}}) == bits(tmp_path / "thin")
    plan = PrunePlan(sparsity={"down": "0.5"}, experts={0: (0, 3, 4)}, ffn={0: tuple(range(8))})
    prune(tmp_path / "whole", tmp_path / "cut", plan)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole", prune=plan)
    with pytest.raises(PlanError, match=r"sparsity of shared_down of layer 0: 3:8 does not fit .*no multiple of 8"):
        miaotui.load(tmp_path / "whole", prune={"sparsity": {"0.down": "3:8"}})


def numbered(directory: Path) -> None:
    """A tokenizer whose tokens are their numbers."""
    words = {"type": "WordLevel", "vocab": {str(i): i for i in range(53)}, "unk_token": "0"}
    told = {"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"}, "added_tokens": [], "model": words}
    (directory / "tokenizer.json").write_text(json.dumps(told))


TEXT = " ".join(str(i * i % 53) for i in range(40))


def what_experts_read(model: Any, ids: list[int]) -> dict[tuple[int, int], Any]:
    """(layer, expert) -> the rows that go to it, by transformers' own modules: float64 [pairs, d_model]."""
    read: dict[tuple[int, int], Any] = {}

    def hook(layer: int) -> Any:
        def see(_: object, inputs: Any) -> None:
            x, chosen = inputs[0].reshape(-1, inputs[0].shape[-1]), inputs[1]
            for expert in chosen.unique().tolist():
                read[layer, expert] = x[(chosen == expert).any(-1)].detach().numpy()

        return see

    for i, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "experts"):
            layer.mlp.experts.register_forward_pre_hook(hook(i))
    with torch.no_grad():
        model(torch.tensor([ids]))
    return read


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("family", EVERY)
def test_methods_judge_an_expert_by_what_goes_to_it(family: str, method: str, tmp_path: Path) -> None:
    model = made(small(family, num_experts_per_tok=1), tmp_path / "whole")
    numbered(tmp_path / "whole")
    asked = ["prune", str(tmp_path / "whole"), str(tmp_path / "cut"), "--method", method, "--sparsity", "0.5"]
    (tmp_path / "text").write_text(TEXT)
    more = [] if method == "magnitude" else ["--one-pass", "--text", str(tmp_path / "text")]
    assert main([*asked, *more]) == 0
    cut, ids = oracle(tmp_path / "cut"), [int(x) for x in TEXT.split()][:-1]
    read, idle = what_experts_read(model, ids), 0
    for i, layer in enumerate(model.model.layers):
        if i == DENSE_LAYER.get(family):
            continue
        d_ff = layer.mlp.experts.down_proj.shape[-1]
        for e in range(6):
            both = [m.model.layers[i].mlp.experts.gate_up_proj[e].detach().numpy() for m in (model, cut)]
            for w, new in zip(*(np.split(x, [d_ff]) for x in both), strict=True):  # gate, up
                if method == "magnitude":
                    kept = np.abs(w) > np.sort(np.abs(w).ravel())[w.size // 2 - 1]
                    np.testing.assert_array_equal(new != 0, kept)
                    continue
                x = read.get((i, e))
                assert (new == 0).mean() == pytest.approx(0.5, abs=0.03)
                if x is None or method == "wanda":
                    score = np.abs(w) * (1 if x is None else np.linalg.norm(x, axis=0))
                    if method == "wanda":
                        kept = score > np.sort(score, 1)[:, [w.shape[1] // 2 - 1]]
                        assert ((new != 0) != kept).mean() < 0.02  # scores that float32 moves past each other
                    np.testing.assert_array_equal(new[new != 0], w[new != 0])
                    idle += x is None
                else:
                    assert ((x @ (w - new).T) ** 2).sum() < ((x @ (w - np.where(new == 0, 0, w)).T) ** 2).sum()
        for name in ("gate_up_proj", "down_proj"):
            assert (getattr(cut.model.layers[i].mlp.experts, name) == 0).double().mean() == pytest.approx(0.5, abs=0.03)
        np.testing.assert_array_equal(*(m.model.layers[i].mlp.gate.weight.detach().numpy() for m in (model, cut)))
    assert method == "magnitude" or idle or len(read) >= 18


@pytest.mark.ci  # 8 s
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_layer_by_layer_sees_what_cut_experts_put_out(method: str, tmp_path: Path) -> None:
    """The first layer as in one pass, later ones not; what a layer sees is what the written model's layer reads."""
    made(small("qwen2_moe"), tmp_path / "whole")
    numbered(tmp_path / "whole")
    half, text = parse_sparsity("0.5"), Text(TEXT, window=12)
    with miaotui.load(tmp_path / "whole") as model:
        weights = {w.name: w.f64() for w in model.session.weights}
    matrices = [find(tmp_path / "whole", Wish(method, sparsity=half, one_pass=p), text).rewrite.matrix for p in (0, 1)]
    experts = [name for name in weights if ".experts." in name or ".shared_down" in name]
    assert len(experts) > 50
    differ = 0
    for name in experts:
        layered, once = (matrix(name, weights[name]) for matrix in matrices if matrix is not None)
        assert (layered == 0).mean() == pytest.approx(0.5, abs=0.03)
        same = np.array_equal(layered, once)
        assert same or not name.startswith("layers.0.") or np.allclose(layered, once, rtol=1e-5)
        differ += not same
    assert differ


def test_the_note_says_how_idle_experts_are_judged(tmp_path: Path) -> None:
    made(small("mixtral"), tmp_path)
    numbered(tmp_path)
    found = find(tmp_path, Wish("wanda", sparsity=parse_sparsity("0.5"), one_pass=True), Text(TEXT))
    assert found.plan.notes[0] == "an expert to which no token of the text went has its zeros by magnitude"


@pytest.mark.parametrize("family", EVERY)
def test_neurons_of_experts_are_judged_by_what_goes_to_them(family: str, tmp_path: Path) -> None:
    """Wanda-sp: the sum over the experts of mean |w_ij| ||x_j||, x what transformers' expert hands to its `down`."""
    model = made(small(family), tmp_path / "whole")
    numbered(tmp_path / "whole")
    ids = [int(x) for x in TEXT.split()][:-1]
    read = what_experts_read(model, ids)
    found = find(tmp_path / "whole", Wish("wanda-sp", ffn=0.5), Text(TEXT))
    act = torch.nn.functional.silu
    for i, layer in enumerate(model.model.layers):
        if i == DENSE_LAYER.get(family):
            assert len(found.plan.ffn[i]) == model.config.intermediate_size / 2
            continue
        score: Any = 0
        for e in (e for at, e in read if at == i):
            experts, x = layer.mlp.experts, torch.tensor(read[i, e])
            gate, up = (x @ experts.gate_up_proj[e].T).chunk(2, -1)
            norms = (act(gate) * up).norm(dim=0)
            score = score + experts.down_proj[e].abs().mean(0) * norms
        assert found.plan.ffn[i] == tuple(sorted(score.argsort(descending=True)[:12].tolist()))
    prune(tmp_path / "whole", tmp_path / "cut", found.plan)
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole", prune=found.plan)
    with pytest.raises(PlanError, match="experts lack; --no-compensation"):
        find(tmp_path / "whole", Wish("flap", ffn=0.5), Text(TEXT))
    flap = find(tmp_path / "whole", Wish("flap", ffn=0.5, compensate=False, uniform=True), Text(TEXT)).plan
    activation = find(tmp_path / "whole", Wish("activation", ffn=0.5, width=0.5), Text(TEXT)).plan
    for plan in (flap, activation):
        assert {len(kept) for i, kept in plan.ffn.items() if i != DENSE_LAYER.get(family)} == {12}
