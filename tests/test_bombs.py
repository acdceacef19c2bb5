"""Small files that ask for much: refused at once, before what they name is written out."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from checkpoints import small, write_checkpoint
from miaotui.errors import ConfigError, MiaotuiError, PlanError
from miaotui.loader import ranges
from miaotui.loader.prune import plan as prune_plan
from miaotui.loader.prune.layer_sizes import surviving_heads
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.ranges import as_ranges, count_named, last_named, read_indices, read_ranges
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Bytes, beyond what is held before, and seconds that refusing may take: far below what any bomb here asks for.
MOST_BYTES, MOST_SECONDS = 64 * 2**20, 5


def refused(call: Callable[[], Any]) -> MiaotuiError:
    """The typed error of a call that is quick and small."""
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(MiaotuiError) as caught:
            call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES
    assert time.process_time() - began < MOST_SECONDS
    return caught.value


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, seven neurons, eleven ids."""
    directory = tmp_path_factory.mktemp("llama")
    write_checkpoint(directory, small("llama"))
    return directory


def plan(**fields: Any) -> dict[str, Any]:
    return {"format": "miaotui-prune", "version": 1, **fields}


#: What config.json says -> a part of the error.
CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a tuple of all heads": (
        "gpt2",
        {"n_embd": 2**31 - 1, "n_head": 2**31 - 1, "pruned_heads": {"0": [0]}},
        "expected at most 2**40",
    ),
    "heads looked up in a tuple": (
        "gpt2",
        {"n_embd": 300_000, "n_head": 300_000, "pruned_heads": {"0": "0-299998"}},
        "config.json makes it [11, 300000]",
    ),
    "heads of many layers": (
        "gpt2",
        {"n_embd": 2**19, "n_head": 2**19, "n_layer": 30, "pruned_heads": {str(i): "0-524286" for i in range(30)}},
        "",
    ),
    "the largest size, once a layer": (
        "llama",
        {"num_hidden_layers": 2**16, "per_layer_config": {"0": {"intermediate_size": 5}}},
        "layers",
    ),
    "heads that the tensors lack, named": (
        "gpt2",
        {"n_embd": 2**20, "n_head": 2**20, "n_layer": 8},
        "missing",
    ),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_is_compared_before_it_is_expanded(tmp_path: Path, what: str):
    family, changes, text = CONFIGS[what]
    write_checkpoint(tmp_path, small(family))
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert text in str(refused(lambda: miaotui.load(tmp_path)))


#: A plan -> a part of the error, in the model of `llama`.
PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "neurons": ({"ffn": {"0": "0-4194302"}}, "ffn of layer 0: there is no neuron 4194302; it has 7 (0 to 6)"),
    "neurons of many layers": (
        {"ffn": {str(i): "0-4194302" for i in range(200)}},
        "ffn of layer 0: there is no neuron 4194302",
    ),
    "neurons of layers that are not there": ({"ffn": {"7": "0-4194302"}}, "ffn: there is no layer 7"),
    "heads": ({"heads": {"1": "1,3-4000000"}}, "heads of layer 1: there is no head 4000000; it has 3 (0 to 2)"),
    "tokens": ({"vocab": "0-4000000"}, "vocab: there is no token 4000000; the model has 11 (0 to 10)"),
    "dimensions": ({"width": "0-4000000"}, "width: there is no dimension 4000000; the model has 12 (0 to 11)"),
    "layers": ({"layers": "0-4000000"}, "layers: there is no layer 4000000; the model has 2 (0 to 1)"),
    "an order": ({"order": "0-4000000"}, "order: there is no layer 4000000; the model has 2 (0 to 1)"),
    "an order of those that are there": ({"order": ",".join(["0-1"] * 10**5)}, "200000 layers; expected at most 65536"),
    "zeros of layers": ({"sparsity": {"0-9999.q": 0.5}}, "sparsity: there is no layer 9999; the model has 2 (0 to 1)"),
    "zeros, again and again": (
        {"sparsity": {f"{i}-9999.q": "0.5" for i in range(2000)}},
        "sparsity: there is no layer 9999; the model has 2 (0 to 1)",
    ),
    "zeros of all roles": ({"sparsity": {"0-9999": "0.5"}}, "sparsity: there is no layer 9999"),
}


@pytest.mark.parametrize("what", PLANS)
@pytest.mark.parametrize("way", ["file", "dict"])
def test_a_plan_is_compared_before_it_is_expanded(llama: Path, tmp_path: Path, what: str, way: str):
    fields, text = PLANS[what]
    (tmp_path / "plan.json").write_text(json.dumps(plan(**fields)))
    prune = tmp_path / "plan.json" if way == "file" else plan(**fields)
    error = refused(lambda: miaotui.load(llama, prune=prune))
    assert isinstance(error, PlanError)
    assert text in str(error)


def test_a_plan_before_other_forms_is_compared_too(llama: Path, tmp_path: Path):
    (tmp_path / "plan.json").write_text(json.dumps(plan(ffn={str(i): "0-4194302" for i in range(200)})))
    error = refused(lambda: miaotui.load(llama, prune=f"plan={tmp_path}/plan.json; keep-layers=0"))
    assert "ffn of layer 0: there is no neuron 4194302" in str(error)


def test_a_plan_without_a_model_has_a_bound_in_all():
    error = refused(lambda: PrunePlan(ffn=dict.fromkeys(range(200), "0-4194302")))
    assert "838860600 indices are named in all; expected at most 8388608" in str(error)
    error = refused(lambda: PrunePlan(sparsity={f"{i}-9999.q": "0.5" for i in range(2000)}))
    assert "its 2000 keys name 18001000 matrices; expected at most 524288" in str(error)
    assert len(PrunePlan(ffn={i: range(4000) for i in range(126)}).ffn) == 126


def test_a_plan_may_name_as_many_as_its_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prune_plan, "MAX_NAMED", 12)
    assert len(PrunePlan(ffn={0: "0-9"}, layers="0,1").ffn[0]) == 10
    with pytest.raises(PlanError, match=r"^13 indices are named in all; expected at most 12"):
        PrunePlan(ffn={0: "0-9"}, layers="0-2")
    with pytest.raises(PlanError, match=r"^at least 13 indices are named in all; expected at most 12"):
        PrunePlan(ffn={0: ",".join(map(str, range(14)))})


@pytest.mark.ci  # 6 s
@pytest.mark.parametrize("named", [
    {"layers": ",".join(["1"] * 30_000_000)},
    {"ffn": {str(i): ",".join(["1"] * 2_000_000) for i in range(15)}},
    {"ffn": {"0": ",".join(["0-1"] * 15_000_000)}},
], ids=["one", "many", "ranges"])  # fmt: skip
def test_a_plan_of_sixty_megabytes_is_refused_by_a_look_at_its_bytes(tmp_path: Path, named: dict[str, Any]):
    """25 s, an index at a time."""
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan(**named)))
    began = time.process_time()
    with pytest.raises(PlanError, match=r"at least \d+ indices are named in all; expected at most 8388608"):
        PrunePlan.load(file)
    assert time.process_time() - began < 5  # most of it is JSON's parser


@pytest.mark.ci  # 8 s
def test_as_many_indices_as_a_plan_may_name_take_seconds(tmp_path: Path):
    half = 3_900_000  # in 64 MB
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan(ffn={i: ",".join(map(str, range(i, 2 * half + i, 2))) for i in (0, 1)})))
    began = time.process_time()
    assert PrunePlan.load(file).ffn[1] == tuple(range(1, 2 * half + 1, 2))
    assert time.process_time() - began < 12
    with pytest.raises(PlanError, match=r"ffn of layer 0: names more than 4194304 indices"):
        PrunePlan(ffn={0: ",".join(map(str, range(2**22 + 1)))})


@pytest.mark.parametrize("text", ["3,1,2", "0", "000000007,2", "٣,1", "1,,2", "1,", "1234567890", "1 ,2", "1,2-3", "²"])
def test_indices_and_commas_alone_mean_what_pieces_mean(text: str, monkeypatch: pytest.MonkeyPatch):
    def read() -> object:
        try:
            return read_indices(text, "layers"), count_named(text)
        except PlanError as e:
            return str(e), count_named(text) if text not in ("1,,2", "1,") else None

    fast = read()
    monkeypatch.setattr(ranges, "_plain", lambda _: None)
    assert read() == fast


@pytest.mark.parametrize(
    ("endless", "text"),
    [
        (itertools.count(), "layers: names more than 4194304 indices"),
        (range(2**60), "1152921504606846976 indices are named in all; expected at most 8388608"),
    ],
    ids=["count", "range"],
)
def test_what_never_ends_is_no_set(endless, text):
    with pytest.raises(PlanError, match=text):
        PrunePlan(layers=endless)


def test_a_share_of_a_model_that_is_not_there_counts_nothing(tmp_path: Path):
    write_checkpoint(tmp_path, small("llama"))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]  # or the number of layers would be put right
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4000, "intermediate_size": 2**24}))
    for prune in ("ffn=0.5", "width=0.5", "drop-heads=0:0"):
        assert "missing" in str(refused(lambda prune=prune: miaotui.load(tmp_path, prune=prune)))


def test_a_form_is_compared_before_anything_is_made_of_it(llama: Path):
    for prune in ("keep-layers=0-4000000", "drop-heads=0:0-4000000", "width=0-4000000", "drop-ffn=1-4000000"):
        error = refused(lambda prune=prune: miaotui.load(llama, prune=prune))
        assert "there is no" in str(error)


def test_texts_are_counted_as_they_are_read():
    for text in ("", "0", "3-5", "0-2, 7 ,9-9", "9-3", "x", "1,x,4"):
        try:
            indices = read_indices(text, "what")
        except PlanError:
            continue
        assert count_named(text) == len(indices)
        assert last_named(text) == (indices[-1] if indices else None)
        assert read_ranges(text, "what") == as_ranges(indices)
    assert count_named("0-999999999") == 10**9
    assert last_named("5,0-999999999,3") == 999_999_999
    assert last_named([1, 2]) is None
    assert count_named([1, 2]) == 2


def test_heads_that_are_gone_are_counted_as_ranges():
    assert surviving_heads("0,2-3", 6, "where") == surviving_heads([0, 2, 3], 6, "where") == (1, 4, 5)
    assert surviving_heads("0-5", 6, "where") == ()
    assert surviving_heads([], 3, "where") == (0, 1, 2)
    for gone, text in (("6", "head 6, but there were 6"), ("0-2,2", "2 is named twice"), ("3-1", "no index or range")):
        with pytest.raises(ConfigError, match=text):
            surviving_heads(gone, 6, "where")
