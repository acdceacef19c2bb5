"""The compile gate: every CUDA kernel to machine code for every architecture, within its budget. No GPU is needed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import cubins
import numpy as np
import pytest
import soak
from miaotui.errors import BackendError
from miaotui.runtime.cuda import build
from miaotui.runtime.cuda.kernels import KERNELS, SPECIAL, Kernel, walker
from miaotui.runtime.cuda.primitives import PRIMITIVES, larger_size, ld_f32, st_f32

#: Registers that another version of the assembler may take more.
SLACK = 8


def installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


compiles = pytest.mark.skipif(
    not (installed("numba.cuda.dispatcher") and installed("cuda.bindings") and cubins.nvdisasm()),
    reason="compiling for CUDA needs the extras cuda and cuda-test",
)


@pytest.fixture(scope="module")
def budgets():
    return json.loads(cubins.BUDGETS.read_text(encoding="utf-8"))


def test_every_kernel_has_a_budget_and_no_other(budgets):
    assert set(budgets) == set(cubins.ALL)


#: All but those that put a whole program's kernels into one: of these, one.
IN_CI = [*sorted({*cubins.ALL} - {f"walk_{name}" for name in cubins.WALKERS}), "walk_llama_f32"]


@pytest.mark.ci  # 100 s: every kernel, for every architecture
@compiles
@pytest.mark.parametrize("name", soak.rest("cuda", sorted(cubins.ALL), IN_CI))
def test_a_kernel_compiles_within_its_budget(name, budgets):
    kernel, ptx = cubins.ALL[name], build.to_ptx(cubins.ALL[name])
    assert (".f64" in ptx) == kernel.double
    for architecture in cubins.architectures(kernel):
        got = cubins.measured(ptx, architecture)
        assert got.spilled == 0, architecture
        assert not got.serialized, architecture
        assert got.registers <= budgets[name]["registers"] + SLACK, architecture
        if architecture in cubins.LISTED:
            assert bool(got.double) == kernel.double, architecture
            assert got.wide_loads >= budgets[name]["wide_loads"], architecture
            for kind in cubins.KINDS:
                assert getattr(got, kind) >= budgets[name][kind], (architecture, kind)


def test_two_blocks_of_every_walker_run_on_a_processor(budgets):
    walkers = {n: b for n, b in budgets.items() if n.startswith("walk_")}
    assert len(walkers) == len(cubins.WALKERS)
    assert all(b["registers"] <= 65536 // (2 * walker.THREADS) for b in walkers.values())


def test_only_what_draws_an_id_computes_in_float64():
    got = {name for name, k in cubins.ALL.items() if k.double}
    assert got == {"draw_weights", "draw_sums", "walk_llama_bf16_drawn"}


def test_what_turing_cannot_run_is_refused_by_name():
    lacking = {name for name, k in cubins.ALL.items() if build.least(k) != build.LEAST}
    assert {"kv_write_bf16", "round_bf16"} <= lacking
    expected = {n for n, k in cubins.ALL.items() if k.fast or k.ampere or "_bf16" in n or n.startswith("walk_")}
    assert lacking <= expected
    for name in lacking:
        with pytest.raises(BackendError, match=f"{name} needs Ampere.*precision='exact'"):
            build.cubin(cubins.ALL[name], build.TURING)
        build.check(cubins.ALL[name], "sm_80")


def test_products_load_sixteen_bytes_at_a_time(budgets):
    for kind in ("f32", "bf16", "f16", "bf16_dot"):
        assert budgets[f"linear_{kind}"]["wide_loads"] >= 4


def test_tiled_kernels_use_the_tensor_core(budgets):
    fast = [k for several in SPECIAL.values() for k in several if k.fast]
    assert {k.only for k in fast} == {"", "sm_90a"}
    for k in fast:
        assert budgets[k.name]["tensor"] >= (4 if k.only else 16)  # of Hopper's, one is 64 x 16 times 16 x 256
        assert budgets[k.name]["matrices"] >= (0 if k.only else 8)
        assert budgets[k.name]["copies"] >= (8 if "bf16" in k.name else 0)
    for k in (k for several in SPECIAL.values() for k in several if k.ampere):
        got = budgets[k.name]
        assert min(got["tensor"], 2 * got["matrices"], got["copies"]) >= 4  # of a group; a loop goes over these


@compiles
def test_every_primitive_has_its_intrinsic():
    from miaotui.runtime.cuda.whole_ptx import BINDING

    assert set(BINDING) == set(PRIMITIVES)


@compiles
def test_comparisons_of_floats_are_those_that_the_emulator_has():
    """`max` and `min` lose a NaN; exp and the activations have none of them, and nobody makes one of a comparison."""

    def k(arena, step, rows):
        out = arena + step + rows
        st_f32(out, max(min(ld_f32(out), np.float32(2)), np.float32(1)))
        st_f32(out + 4, larger_size(ld_f32(out + 4), ld_f32(out + 8)))

    ptx = build.to_ptx(Kernel("k", k, 32, lambda *_: 1, lambda _: 0, ()))
    assert ptx.count("max.f32") == ptx.count("min.f32") == ptx.count("max.u32") == 1
    assert ".NaN" not in ptx
    for name in ("linear_f32", "linear_f16_tiled64", "linear_int8"):
        ptx = build.to_ptx(cubins.ALL[name])
        assert "ex2" not in ptx
        assert not {"max.f32", "min.f32"} & set(ptx.split()), name


@compiles
def test_cubins_are_kept_and_damaged_ones_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MIAOTUI_CACHE_DIR", str(tmp_path))
    first = build.cubin(KERNELS["add"], "sm_80")
    (kept,) = tmp_path.rglob("*.code")
    monkeypatch.setattr(build, "to_ptx", lambda _: pytest.fail("built again"))
    assert build.cubin(KERNELS["add"], "sm_80") == first
    monkeypatch.undo()
    monkeypatch.setenv("MIAOTUI_CACHE_DIR", str(tmp_path))
    data = np.fromfile(kept, np.uint8)
    data[len(data) // 2] ^= 1
    data.tofile(kept)
    again = build.cubin(KERNELS["add"], "sm_80")
    assert again[:4] == b"\x7fELF"
    assert kept.read_bytes()[32:] == again


def test_without_the_extra_the_error_names_it(monkeypatch):
    for name in [n for n in sys.modules if n.endswith("cuda.intrinsics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba.cuda", None)
    monkeypatch.setitem(sys.modules, "numba.cuda.dispatcher", None)
    with pytest.raises(BackendError, match=r"miaotui\[cuda\]"):
        build.to_ptx(KERNELS["add"])


def test_nothing_of_cuda_is_imported_for_the_cpu():
    code = (
        "import sys, miaotui; from miaotui.tools.demo import path\n"
        "with miaotui.load(path()) as m: m.logits([1, 2])\n"
        "rooms = 'numba.cuda', 'numba_cuda', 'cuda', 'miaotui.runtime.cuda'\n"
        "found = [n for n in sys.modules if n.startswith(rooms)]\n"
        "print(*found)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=os.environ | {"MIAOTUI_QUIET": "1"},
    )  # fmt: skip
    assert not done.stderr
    assert not done.stdout.strip()
    assert done.returncode == 0
