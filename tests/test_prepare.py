"""One load, said once: how often config, plan and program are made, and that `inspect` says what `load` does."""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, small, write_checkpoint
from hypothesis import HealthCheck, given, settings
from miaotui.errors import BackendError, InputError, MemoryLimitError, PlanError
from miaotui.limits import Request
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import planned
from miaotui.loader.prune.compiled import compile_plan
from miaotui.loader.prune.options import select
from miaotui.loader.prune.plan import PrunePlan
from miaotui.prepare import prepare
from miaotui.runtime import cores
from miaotui.runtime.recorder.record import record
from miaotui.runtime.spec import Weight
from miaotui.tools.commands.inspect import facts
from miaotui.tools.prune import prune
from pruning import plans, seven

COUNTED = {
    "resolve": ("loader.config", "resolve_config"),
    "compile": ("loader.prune.compiled", "compile_plan"),
    "plan": ("loader.load_plan", "make_load_plan"),
    "record": ("runtime.recorder.record", "record"),
    "check": ("loader.model_tensors", "ModelTensors"),
}


@pytest.fixture
def counts(monkeypatch):
    """How often each of `COUNTED` is called, whoever imported it."""
    seen = Counter()
    for late in ("rank_ffn", "rank_width"):  # they are imported where a share is ranked
        importlib.import_module(f"miaotui.loader.prune.{late}")

    def counting(name, real):
        def call(*args, **kwargs):
            seen[name] += 1
            return real(*args, **kwargs)

        return call

    for name, (module, function) in COUNTED.items():
        real = getattr(sys.modules[f"miaotui.{module}"], function)
        wrapped, users = counting(name, real), 0
        for other in list(sys.modules.values()):
            if other.__name__.startswith("miaotui") and vars(other).get(function) is real:
                monkeypatch.setattr(other, function, wrapped)
                users += 1
        assert users > 1, f"nobody imports {function}"
    return seen


#: What a load asks for -> compiled plans, load plans and recorded programs. A share needs three load plans: what ranks
#: it, as many indices as it will leave (their memory is compared with the limit before anything is read), and the ones
#: that were ranked; a second share, ranked by what the first leaves, one more. Forms after a plan's file number what it
#: leaves, so that is compiled too. Counted zeros are another dtype, and so another program.
TIMES = {
    None: (1, 1, 1),
    "keep-layers=0-2; drop-heads=1:0,2": (1, 1, 1),
    "sparsity=2:4": (1, 1, 1),
    "keep-layers=0-2; ffn=0.75": (1, 3, 1),
    "ffn=0.75; sparsity=2:4": (1, 3, 1),
    "width=0.75; ffn=0.75": (1, 4, 1),
    "sparsity=stored": (1, 1, 2),
    "plan={plan}": (1, 1, 1),
    "plan={plan}; keep-layers=0; ffn=0.75": (2, 3, 1),
}


@pytest.mark.parametrize("wish", TIMES, ids=str)
def test_a_load_says_everything_once(tmp_path, counts, wish):
    write_checkpoint(tmp_path / "whole", Drawn(seven()))
    prune(tmp_path / "whole", tmp_path / "m", "sparsity=0.75")  # zeros in the file
    PrunePlan("0-3").save(tmp_path / "plan.json")
    text = wish and wish.format(plan=tmp_path / "plan.json")
    compiled, plans, programs = TIMES[wish]
    wanted = {"resolve": 1, "check": 1, "compile": compiled, "plan": plans, "record": programs}
    counts.clear()
    with miaotui.load(tmp_path / "m", prune=text, threads=1) as model:
        assert counts == wanted
    counts.clear()
    known = facts(tmp_path / "m", Request(prune=text, threads=1))
    assert counts == wanted
    assert known["memory"].items() >= model.memory.items()


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("wish", [None, "ffn=0.75; width=0.75; sparsity=2:4", "sparsity=stored", "drop-ffn=0"], ids=str)
def test_a_bound_program_is_the_one_that_real_weights_record(tmp_path, wish, quantize):
    write_checkpoint(tmp_path / "whole", Drawn(seven()))
    prune(tmp_path / "whole", tmp_path / "m", "sparsity=0.75")
    with miaotui.load(tmp_path / "m", prune=wish, quantize=quantize, threads=2) as model:
        session, program = model.session, model.program()
        how = {
            name: getattr(program, name) for name in ("n_context", "chunk", "n_logits", "threads", "kv_cache", "ropes")
        }
        again = record(model.config, session.weights, **how)
        assert program.listing() == again.listing()
        assert np.array_equal(program.encode(len), again.encode(len))
        # every address is a weight's: none was left as planned
        held = {id(w) for w in session.weights}
        assert all(id(v) in held for i in program.code for v in i.values.values() if isinstance(v, Weight))


def test_a_program_is_not_bound_to_other_weights(tmp_path):
    for name, drawn in (("a", Drawn(seven())), ("b", Drawn(seven(48)))):
        write_checkpoint(tmp_path / name, drawn)
    prepared = prepare(open_model(tmp_path / "a"), Request())
    weights = {name: planned(make_load_plan(open_model(tmp_path / name))) for name in "ab"}
    assert prepared.program.bound(weights["a"]).listing() == prepared.program.listing()
    with pytest.raises(PlanError, match=r"weight embed: recorded as f32 \[\d+, 64\], found f32 \[\d+, 48\]"):
        prepared.program.bound(weights["b"])
    fewer = prepare(open_model(tmp_path / "a"), Request(prune="keep-layers=0"))
    with pytest.raises(PlanError, match=r"weight layers\.1\.attn_norm: recorded as .*, found none"):
        prepared.program.bound(planned(fewer.plan))
    with pytest.raises(PlanError, match=r"weight embed: recorded as f32 .*, found int8"):
        prepared.program.bound(planned(make_load_plan(open_model(tmp_path / "a"), "int8")))


SHARES = [{"ffn_ratio": 0.5}, {"width_ratio": 0.5}, {"ffn_ratio": 0.7, "width_ratio": 0.3}]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.sampled_from(FAMILIES))
def test_shares_put_into_a_cut_are_the_plan_compiled_with_them(tmp_path_factory, data, family):
    path = tmp_path_factory.mktemp("s")
    write_checkpoint(path, data.draw(models(family)))
    with open_model(path) as opened:
        plan = data.draw(plans(opened.config))
        shares = data.draw(st.sampled_from(SHARES))
        sizes = st.sampled_from([{}, {"sparsity": "0.5"}])
        chosen = select(PrunePlan(**{**vars(plan), **shares, **data.draw(sizes)}), opened)
        ranked = chosen.ranked(opened)
        assert ranked.cut == compile_plan(ranked.plan, opened.config, opened.checkpoint)
        assert ranked.cut.config == chosen.cut.config  # so that the program is the same
        whole, assumed = (list(planned(make_load_plan(opened, cut=of.cut))) for of in (ranked, chosen))
        for a, b in zip(whole, assumed, strict=True):
            assert (a.name, a.dtype, a.shape, a.kept) == (b.name, b.dtype, b.shape, b.kept)


def cgroup_tree(root, quotas, group, *, mounted="/"):
    """A /proc and a /sys with one unified hierarchy: quotas by group, and this process in `group`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    line = f"30 23 0:26 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
    (root / "proc/self/mountinfo").write_text(f"22 1 0:5 / / rw - ext4 /dev/x rw\nnonsense\n{line}")
    for name, quota in quotas.items():
        folder = root / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(quota)


@pytest.mark.parametrize(
    ("quotas", "group", "mounted", "wanted"),
    [
        ({"a/b": "300000 100000"}, "/a/b", "/", 3),
        ({"a": "200000 100000", "a/b": "max 100000"}, "/a/b", "/", 2),  # of the group above
        ({"a": "200000 100000", "a/b": "100000 0"}, "/a/b", "/", 2),  # no period is no quota
        ({"a/b": "50000 100000", "other": "100 100000"}, "/a/b", "/", 1),
        ({"": "300000 100000"}, "/docker/1", "/docker/1", 3),  # a container's own group is the mount's root
        ({"": "300000 100000"}, "/../../x", "/", 3),  # in another namespace of groups
        ({}, "/a", "/", 8),
        ({"a": "0 0"}, "/a", "/", 8),
    ],
)
def test_quotas_of_the_own_group_and_of_those_above(tmp_path, monkeypatch, quotas, group, mounted, wanted):
    cgroup_tree(tmp_path, quotas, group, mounted=mounted)
    monkeypatch.setattr(cores, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores.available_threads() == wanted


@pytest.mark.parametrize(
    ("quota", "above", "wanted"), [(-1, -1, 8), (250000, -1, 2), (-1, 100000, 1), (700000, 400000, 4)]
)
def test_quotas_of_version_1(tmp_path, monkeypatch, quota, above, wanted):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/x\n3:cpu,cpuacct:/a/b\n1:name=systemd:/\n0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        "31 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "35 23 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
    for name, value in (("a", above), ("a/b", quota)):
        folder = tmp_path / "sys/fs/cgroup/cpu,cpuacct" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(f"{value}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(cores, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores.available_threads() == wanted


@pytest.mark.parametrize("quota", ["max 100000", "300000 100000", "50000 100000", "nonsense"])
@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
def test_inspect_s_memory_is_load_s_under_a_quota(tmp_path, monkeypatch, quota, kv_cache):
    """Threads have scratch of their own, so the memory depends on how many the process may use."""
    write_checkpoint(tmp_path / "m", Drawn(seven(), "BF16"))
    cgroup_tree(tmp_path / "system", {"": quota}, "/")
    monkeypatch.setattr(cores, "ROOT", tmp_path / "system")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    threads = {"300000 100000": 3, "50000 100000": 1}.get(quota, 4)
    seen = []
    for prune_as in (None, "keep-layers=0,2", "ffn=0.5; sparsity=2:4"):
        for quantize in (None, "int8", "int4,embed=int8"):
            request = Request(prune=prune_as, quantize=quantize, kv_cache=kv_cache)
            known = facts(tmp_path / "m", request)["memory"]
            with miaotui.load(tmp_path / "m", prune=prune_as, quantize=quantize, kv_cache=kv_cache) as model:
                total = {"total": model.memory["allocated"] + model.memory["weights_mapped"]}
                assert known == model.memory | total
                assert model.threads == threads
            seen.append(known["allocated"])
            alone = facts(tmp_path / "m", replace(request, threads=1))["memory"]
            assert (alone["activations"] < known["activations"]) == (threads > 1)
    assert len(set(seen)) > 1


def test_integers_of_numpy_are_integers(tmp_path):
    write_checkpoint(tmp_path, small("llama"))
    counts_as = {"threads": np.int64(2), "max_context": np.uint8(16), "prefill_chunk": np.int32(4)}
    with miaotui.load(tmp_path, **counts_as, memory_limit=np.int64(2**30)) as model:
        assert (model.threads, model.n_context, model.session.chunk) == (2, 16, 4)
    request = Request(**counts_as)
    assert all(type(getattr(request, name)) is int for name in counts_as)
    for name in (*counts_as, "memory_limit"):
        for bad in (0, -1, True, np.True_, 1.0, np.float32(2), [1], np.array([1, 2])):
            with pytest.raises(InputError, match=rf"^{name}=.*whole number of at least 1"):
                Request(**{name: bad})
    with pytest.raises(InputError, match="threads=1025: expected at most 1024"):
        Request(threads=1025)


def test_a_memory_limit_may_be_a_text(tmp_path):
    write_checkpoint(tmp_path, small("llama"))
    for text, nbytes in (("2GiB", 2**31), ("500MB", 500_000_000), ("1048576", 2**20), (" 1.5 KiB", 1536)):
        assert Request(memory_limit=text).limit_bytes == nbytes
    with miaotui.load(tmp_path, memory_limit="1GiB") as model:
        needed = model.memory["allocated"]
    with pytest.raises(MemoryLimitError, match=f"memory_limit={needed - 1:,}"):
        miaotui.load(tmp_path, memory_limit=str(needed - 1))
    for bad in ("2 gigs", "-1", "", "0B", "nan", "\uff11GiB"):
        with pytest.raises(InputError, match=r"^memory_limit='.*'?: expected"):
            Request(memory_limit=bad)


def test_words_that_are_none_are_refused(tmp_path):
    with pytest.raises(BackendError, match="device='tpu': expected 'cpu' or 'cuda'"):
        miaotui.load(tmp_path, device="tpu")
    for name, says in (("kv_cache", "f32, bf16, int8"), ("precision", "exact, int8, bf16, fast")):
        for bad in ("F32", "", 8, ["f32"], *([None] if name == "kv_cache" else [])):
            with pytest.raises(InputError, match=rf"^{name}=.*expected one of {says}"):
                miaotui.load(tmp_path, **{name: bad})


def test_a_context_above_the_model_s_own_is_noted(tmp_path):
    drawn = small("llama")
    write_checkpoint(tmp_path, drawn)
    own = drawn.config["max_position_embeddings"]
    for context, noted in ((None, False), (own, False), (own + 1, True)):
        with miaotui.load(tmp_path, max_context=context) as model:
            assert any(f"max_context={own + 1} is above" in note for note in model.receipt.notes) == noted
            assert len(model.receipt.notes) == noted
        known = facts(tmp_path, Request(max_context=context), receipt="plain")
        assert tuple(known["receipt"]["notes"]) == model.receipt.notes
