"""MIAOTUI_DEBUG=1: kernels that stay among their operands run as ever, and one that does not is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import miaotui
import numpy as np
import pytest
from miaotui.errors import BackendError
from miaotui.runtime.cpu.target import code_key, debugging
from miaotui.runtime.ops import HEADER, OPS
from miaotui.runtime.step import T_ID, T_SLOT
from miaotui.tools import demo

IDS = [int(i) for i in np.random.default_rng(5).integers(3, 200, 37)]
WAYS = (
    *({}, {"quantize": "int8", "kv_cache": "int8"}, {"quantize": "int4", "kv_cache": "bf16"}, {"quantize": "int4a"}),
    *({"precision": "bf16"}, {"prune": {"sparsity": "2:4"}}, {"prune": {"sparsity": "2:4"}, "quantize": "int8"}),
    {"quantize": "int8", "precision": "exact"},
)


def said(way):
    """Logits after a prompt of several tiles, then of tokens one by one."""
    with miaotui.load(demo.path(), threads=2, max_context=64, prefill_chunk=23, **way) as model:
        return [model.logits(IDS)[-1].tobytes().hex(), *(int(i) for i in model.generate(IDS, max_new_tokens=5).ids)]


def astray(spoil):
    """What a step ends in whose instructions `spoil` has changed, and whether the next model still speaks."""
    with miaotui.load(demo.path(), max_context=64) as model:
        spoil(model.session)
        with pytest.raises(BackendError) as got:
            model.session.backend.run(model.session._batch)
    return [str(got.value), said({})]


def too_many_rows(session):
    """A product that is told of sixteen more rows than the matrix has."""
    session.step(IDS, 0)
    (i,) = (i for i, ins in enumerate(session.program.code) if ins.op == "linear" and ins.rows == "R")
    n = session.program.code[i].values["n"]
    slot = list(session.backend.code[session.backend._at[i]]).index(n)
    session.backend.code[session.backend._at[i], slot] = n + 16


def no_such_token(session):
    """An id that nobody checked."""
    session.step(IDS, 0)
    session._batch.tokens[3, T_ID] = session.n_vocab


def no_such_page(session):
    """A page table that names a page after the last."""
    session.step(IDS, 0)
    session._own.numbers[0, 0] = session.program.n_pages


def no_such_slot(session):
    """A token after the context."""
    session.step(IDS, 0)
    session._batch.tokens[3, T_SLOT] = 10**6


def pages_of_another_size(session):
    """Heads further apart than the pool has them."""
    session.step(IDS, 0)
    i = next(i for i, ins in enumerate(session.program.code) if ins.op == "attention")
    session.backend.code[session.backend._at[i], len(HEADER) + OPS["attention"].names.index("pages")] += 1


#: What is spoilt, and words of the error that says so.
SPOILT = {
    too_many_rows: ("linear_", "bytes at"),
    no_such_token: (", embed_", "bytes at"),
    no_such_page: ("kv_write_f32: the page table of sequence 0 has [1]; there are 1 pages",),
    no_such_slot: ("kv_write_f32: sequence 0 uses slots 0 to 1000000",),
    pages_of_another_size: ("attention_f32", "_cache+32768"),
}


@pytest.mark.ci  # 36 s: compiles every kernel with checks
@pytest.mark.skipif(debugging(), reason="the whole run has MIAOTUI_DEBUG")
def test_every_access_is_checked_and_changes_no_bit():
    program = (
        "import json, test_bounds as t; print(json.dumps([t.code_key(), [t.said(way) for way in t.WAYS],"
        " [t.astray(spoil) for spoil in t.SPOILT]]))"
    )
    here = os.environ | {"MIAOTUI_DEBUG": "1", "MIAOTUI_QUIET": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, env=here,
                          capture_output=True, text=True, check=False, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stderr
    key, spoken, ends = json.loads(done.stdout)
    assert key != code_key()  # its code is not ours
    assert spoken == [said(way) for way in WAYS]
    for spoil, (error, after) in zip(SPOILT, ends, strict=True):
        assert all(words in error for words in SPOILT[spoil]), error
        assert after == spoken[0]
