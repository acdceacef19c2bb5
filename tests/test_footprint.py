"""What a model takes is what the plan says: pages of the file that were rounded do not remain."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import Drawn, small, write_checkpoint
from miaotui.errors import BackendError
from miaotui.loader.prune.plan import PrunePlan
from miaotui.runtime.memory import zeroed
from miaotui.tools.bench import footprint

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is held")
#: What differs between two processes besides the model: allocators keep pages, threads have stacks.
SLACK = 14 * 2**20
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE_PAGES = THP.read_text(encoding="utf-8") if THP.exists() else ""


def held() -> int:
    """Bytes of memory of its own that this process has."""
    told = re.search(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert told is not None
    return int(told[1]) * 1024


@pytest.mark.skipif("[always]" in HUGE_PAGES, reason="the system gives huge pages to who does not ask for any")
def test_little_memory_takes_what_is_touched():
    """The first touch of a huge page takes 2 MiB, of which a small arena needs little."""
    before = held()
    block = zeroed(2**22 - 1)
    block[2**21] = 1
    assert held() - before < 2**20


@pytest.mark.parametrize("quantize", ["int8", "int4,embed=int8"])
def test_the_peak_is_near_the_quantised_weights_and_the_arena(tmp_path, quantize):
    config = small("llama").config | {"vocab_size": 100_000, "hidden_size": 126, "intermediate_size": 2048}
    write_checkpoint(tmp_path, Drawn(config | {"head_dim": 42, "max_position_embeddings": 128}))
    file = (tmp_path / "model.safetensors").stat().st_size
    got = footprint.footprint(tmp_path, quantize, context=64, new=8)
    planned = got["weights_bytes"] + got["arena_bytes"]
    assert got["beyond_baseline_bytes"] <= 1.15 * planned + SLACK < planned + 0.5 * file
    assert got["ratio"] == got["beyond_baseline_bytes"] / planned


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_pages_of_gathered_rows_are_let_go_of_as_they_are_read(tmp_path, quantize):
    config = small("llama").config | {"vocab_size": 200_000, "hidden_size": 126, "intermediate_size": 64}
    write_checkpoint(tmp_path, Drawn(config | {"head_dim": 42, "max_position_embeddings": 128}))
    file = (tmp_path / "model.safetensors").stat().st_size
    plan = tmp_path / "plan.json"
    PrunePlan(vocab=range(0, 200_000, 8)).save(plan)
    # The system maps neighbours of pages as it likes, more of them on a busy machine: the least of three is ours.
    three = [footprint.footprint(tmp_path, quantize, context=64, new=8, prune=plan) for _ in range(3)]
    got = min(three, key=lambda each: each["beyond_baseline_bytes"])
    planned = got["weights_bytes"] + got["arena_bytes"]
    assert got["beyond_baseline_bytes"] <= planned + SLACK < planned + 0.5 * file


ROPE = """
import re, sys, miaotui
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
with miaotui.load(sys.argv[1], threads=2, max_context=64) as model:
    model.logits([1, 2])
before = peak()
with miaotui.load(sys.argv[1], threads=2, max_context=131072) as model:
    parts = model.memory
    after = peak()
print(parts["constants"], parts["weights_resident"], parts["activations"], after - before)
"""


def test_the_peak_has_room_for_one_table_of_rotary_angles(tmp_path):
    """b_10: it was kept twice, and took ten times its size while it was made. By the system's account (VmHWM)."""
    config = small("llama").config | {"hidden_size": 128, "num_attention_heads": 1, "head_dim": 128}
    write_checkpoint(tmp_path, Drawn(config | {"max_position_embeddings": 131072}))
    words = [sys.executable, "-c", ROPE, str(tmp_path)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
    constants, resident, activations, grown = map(int, done.stdout.split())
    assert constants == (131072 + 128) * 128 * 4  # a row for each token of a pass that lies beyond it, too
    assert constants <= grown + SLACK  # it is there
    assert grown <= constants + resident + activations + SLACK < 2 * (constants + activations)


def test_the_command_says_it_and_writes_it(tmp_path, capsys):
    write_checkpoint(tmp_path / "m", small("llama"))
    out = tmp_path / "f.json"
    words = ["--model", str(tmp_path / "m"), "--quantize", "int8", "--context", "32", "--new", "4", "--out", str(out)]
    assert footprint.main(words) == 0
    assert re.search(r"m, int8: peak [\d.]+ MiB", capsys.readouterr().out)
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["peak_bytes"] > record["arena_bytes"] > 0
    assert str(tmp_path) not in record["command"]


def test_a_child_that_fails_says_why(tmp_path):
    with pytest.raises(BackendError, match="no such directory"):
        footprint.footprint(tmp_path / "nothing", None, context=32, new=1)


def test_the_table_of_rope_takes_what_is_predicted_and_no_more(tmp_path):
    """64 MiB of it, in a process whose peak the system tells: nothing of its size on the way, no second copy."""
    config = small("llama").config | {"hidden_size": 128, "head_dim": 128, "num_attention_heads": 1}
    config |= {"num_key_value_heads": 1, "max_position_embeddings": 131072, "num_hidden_layers": 1}
    write_checkpoint(tmp_path, Drawn(config))
    code = """
import json, sys, miaotui as mt
from miaotui.tools.bench.shared import peak_memory
mt.load(sys.argv[1], threads=1, max_context=64).logits([1])
before = peak_memory()
model = mt.load(sys.argv[1], threads=1, max_context=131072)
print(json.dumps([model.memory["constants"], peak_memory() - before]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    predicted, grown = json.loads(done.stdout)
    assert predicted == 2**26 + 128 * 512  # a row for each token of a pass that lies beyond it, too
    assert grown <= predicted + SLACK
