"""Threads that the address space has no stacks for are refused when the model is loaded, and not at its first step."""

from __future__ import annotations

import subprocess
import sys

import pytest
from checkpoints import small, write_checkpoint

pytest.importorskip("resource")
CODE = """
import resource, sys, miaotui
directory, threads, more = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with miaotui.load(directory, threads=1) as model:
    model.logits([1, 2])
resource.setrlimit(resource.RLIMIT_STACK, (2**23, resource.RLIM_INFINITY))
taken = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (taken + more, resource.RLIM_INFINITY))
try:
    model = miaotui.load(directory, threads=threads)
except miaotui.MiaotuiError as e:
    print(type(e).__name__, e)
else:
    model.logits([1, 2])
    print("ran")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("threads", "more", "says"),
    [
        (1000, 2**30, "BackendError threads=1000: the address space is limited to "),
        (3, 2**30, "ran"),
        (1, 2**28, "ran"),
    ],
)
def test_the_load_says_it(tmp_path, threads: int, more: int, says: str):
    write_checkpoint(tmp_path, small("llama"))
    words = [sys.executable, "-c", CODE, str(tmp_path), str(threads), str(more)]
    out = subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout
    assert out.startswith(says)
