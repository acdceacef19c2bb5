"""What `load(auto=True)` picks: by predicted bytes, cores and free memory alone."""

from __future__ import annotations

import hypothesis.strategies as st
import miaotui
import pytest
from hypothesis import given, settings
from miaotui import machine
from miaotui.errors import InputError, MemoryLimitError, MiaotuiWarning
from miaotui.limits import Request
from miaotui.loader.open import open_model
from miaotui.picking import LADDER, SHARE, pick
from miaotui.prepare import prepare
from miaotui.tools import cli, demo


@pytest.fixture(scope="module")
def opened():
    with open_model(demo.path()) as found:
        yield found


def takes(opened, request):
    memory = prepare(opened, request).memory
    return memory["allocated"] + memory["weights_mapped"]


@pytest.fixture(scope="module")
def sizes(opened):
    return [takes(opened, Request(quantize=q, kv_cache=kv)) for q, kv in LADDER]


@settings(max_examples=20)
@given(st.integers(1, 8 * 2**20))
def test_the_first_rung_that_fits_is_picked(opened, sizes, free):
    fits = [rung for rung, size in zip(LADDER, sizes, strict=True) if size <= int(free * SHARE)]
    if fits:
        request, picked = pick(opened, Request(), (), free)
        assert (request.quantize, request.kv_cache) == fits[0]
        assert picked.options == {"quantize": fits[0][0], "kv_cache": fits[0][1]}
    else:
        with pytest.warns(MiaotuiWarning, match="at the least, more than"):
            request, _ = pick(opened, Request(), (), free)
        assert takes(opened, request) <= min(sizes)


def test_what_is_given_stays(opened):
    request = Request(threads=3, quantize="int8", kv_cache="f32")
    same, picked = pick(opened, request, ("quantize", "kv_cache"), 2**40)
    assert same == request
    assert picked.options == {}
    assert "nothing to pick" in str(picked)
    with pytest.warns(MiaotuiWarning, match="at the least"):
        same, _ = pick(opened, request, ("quantize", "kv_cache"), 1)
    assert same == request
    tight, picked = pick(opened, Request(kv_cache="f32"), ("kv_cache",), 4 * 2**20)
    assert (tight.kv_cache, "kv_cache" in picked.options) == ("f32", False)


def test_a_memory_limit_is_kept_or_refused(opened):
    whole = prepare(opened, Request()).memory["allocated"]
    least = min(prepare(opened, Request(quantize=q, kv_cache=kv)).memory["allocated"] for q, kv in LADDER)
    assert least < whole
    request, _ = pick(opened, Request(memory_limit=least), (), None)
    assert prepare(opened, request).memory["allocated"] <= least
    with pytest.raises(MemoryLimitError, match=r"auto=True: the least that it needs is .* over memory_limit="):
        pick(opened, Request(memory_limit=1000), (), None)


def test_load_and_the_command_say_what_was_picked(capsys):
    with miaotui.load(demo.path(), auto=True, max_context=32, kv_cache="int8") as model:
        assert model.picked is not None
        assert set(model.picked.options) == {"quantize"}
        assert str(model.picked) in model.receipt.notes
        assert model.session.program.kv_cache == "int8"
    with miaotui.load(demo.path(), max_context=32) as model:
        assert model.picked is None
    assert cli.main(["generate", "x", "--auto", "--max-new-tokens", "1", "--quantize", "int8"]) == 0
    assert "note: auto: kv_cache=" in capsys.readouterr().err
    with pytest.raises(InputError, match="auto='yes': expected True or False"):
        miaotui.load(demo.path(), auto="yes")
    some = miaotui.Profile(dict.fromkeys(("name", "family", "config", "tensors"), ""), {})
    with pytest.raises(InputError, match="auto=True: a profile is given too"):
        miaotui.load(demo.path(), auto=True, profile=some)


def test_free_memory_is_the_least_of_the_system_s_and_of_the_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.free_memory() is None
    files = {
        "proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 40 kB\n",
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/memory.max": "20480\n",
        "sys/fs/cgroup/a/memory.current": "10240\n",
        "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 1024\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.free_memory() == 20480 - 10240 + 1024
    (tmp_path / "sys/fs/cgroup/a/memory.max").write_text("9999999\n")
    assert machine.free_memory() == 40 * 1024
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,memory:/c\n")
    (tmp_path / "sys/fs/cgroup/memory/c").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory/c/memory.limit_in_bytes").write_text("3000\n")
    (tmp_path / "sys/fs/cgroup/memory/c/memory.usage_in_bytes").write_text("4000\n")
    assert machine.free_memory() == 0
