"""What the system or a library refuses comes out as an error of ours: arguments, paths, disks, memory, statistics."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import miaotui as mt
import numpy as np
import pytest
from checkpoints import random_tensors, small, write_checkpoint, write_safetensors
from miaotui.errors import CheckpointError, ConfigError, InputError, MiaotuiError
from miaotui.loader.formats import other_format
from miaotui.loader.paths import is_there
from miaotui.loader.write import new_file, write_whole
from miaotui.runtime.cpu import shipped
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.demo import path as demo_path
from miaotui.tools.importance.store import read_arrays, write_arrays
from miaotui.tools.prune import prune

BIG = 10**5000  # has no repr: Python writes at most 4300 digits


class BytesPath:
    """A path as Python allows it, and we do not."""

    def __fspath__(self) -> bytes:
        return b"/nowhere"


class Unshown:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise OSError


ODD = (None, BIG, -BIG, 10**400, 1e400, float("nan"), b"x", "\0", "", "x" * 70000, [], [[1]], {}, {1: 2}, set(), object,
       np.array(3), np.array([1.5]), np.arange(2), np.array(["a", "b"]), Path(),
       BytesPath(), Unshown(), True)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("odd") / "m"
    write_checkpoint(directory, small("llama"))
    return directory


def child(code: str, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, env=os.environ | (env or {})
    )


def typed_or_fine(call: Any) -> None:
    """Nothing but a `MiaotuiError` comes out."""
    said, got = "no error", None
    try:
        got = call()
    except MiaotuiError as e:
        said = str(e)
    assert 0 < len(said) < 2000
    if isinstance(got, mt.Model):
        got.close()


@pytest.mark.parametrize("name", ["threads", "max_context", "memory_limit", "prefill_chunk", "quantize", "kv_cache",
                                  "cache_tokens", "precision", "device", "revision", "prune"])  # fmt: skip
def test_odd_options_of_load(tiny: Path, name: str) -> None:
    for value in ODD:
        typed_or_fine(lambda value=value: mt.load(tiny, **{name: value}))
        if name == "prune":
            for form in ("plan", "vocab", "vocab_fallback", "width", "ffn", "sparsity", "keep_layers", "drop_heads"):
                typed_or_fine(lambda value=value, form=form: mt.load(tiny, prune={form: value}))


def test_odd_paths(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for value in ODD:
        typed_or_fine(lambda value=value: mt.load(value))
        typed_or_fine(lambda value=value: mt.PrunePlan.load(value))
        if not isinstance(value, Path):
            with pytest.raises(MiaotuiError):
                mt.PrunePlan().save(value)
            with pytest.raises(MiaotuiError):
                quantize(tiny, value, "int8")
    with pytest.raises(InputError, match="empty path"):
        mt.load("")


def test_odd_arguments_of_a_model(tiny: Path) -> None:
    shutil.copy(demo_path() / "tokenizer.json", tiny)
    try:
        with mt.load(demo_path(), threads=1, max_context=32) as model:
            names = ("top_k", "temperature", "top_p", "min_p", "repetition_penalty", "seed", "eos_token_id", "stop",
                     "ignore_eos", "do_sample", "max_new_tokens")  # fmt: skip
            for value in ODD:
                for method in (model.logits, model.hidden, model.last_logits, model.tokenizer.decode, model.generate,
                               model.tokenizer.encode, model.tokenizer.token_to_id,
                               model.tokenizer.id_to_token):  # fmt: skip
                    typed_or_fine(lambda value=value, method=method: method(value))
                for name in names:
                    given = {"max_new_tokens": 1} | {name: value}
                    typed_or_fine(lambda given=given: model.generate("a", **given))
    finally:
        (tiny / "tokenizer.json").unlink()


@pytest.mark.parametrize("field", ["layers", "heads", "ffn", "ffn_ratio", "vocab", "width", "width_ratio", "sparsity",
                                   "model", "notes", "order", "vocab_fallback"])  # fmt: skip
def test_odd_fields_of_a_plan(field: str) -> None:
    for value in (*ODD, [-BIG], [BIG], {0: [-BIG]}, {"block": [1, 1], "ratio": 10**400}, {BIG: [1]}):
        typed_or_fine(lambda value=value: mt.PrunePlan(**{field: value}))


# ------------------------------------------------------------------------------------------------------ paths


def test_a_link_to_nothing_is_said(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        directory = tmp_path / name
        write_checkpoint(directory, small("llama"))
        (directory / name).unlink()
        (directory / name).symlink_to("../../blobs/gone")
        with pytest.raises(CheckpointError, match=r"is a link to '../../blobs/gone', which is not there") as e:
            mt.load(directory)
        assert "rename" not in str(e.value)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError, match="cannot be looked at"):
        is_there(tmp_path / "loop")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone can become nobody")
def test_directories_that_may_not_be_entered_or_listed() -> None:
    top = Path("/tmp") / f"miaotui-permissions-{os.getpid()}"  # noqa: S108 - every directory above must let nobody in
    top.mkdir(mode=0o755)
    try:
        for name, mode in (("enter", 0o744), ("list", 0o711), ("none", 0o700)):
            write_checkpoint(top / name, small("llama"))
            (top / name).chmod(mode)
        write_checkpoint(top / "bare", small("llama"))
        (top / "bare" / "model.safetensors").unlink()
        (top / "bare").chmod(0o711)
        code = """
import os, sys, miaotui as mt
from miaotui.loader.open import open_model
from miaotui.tools.commands.quantize import quantize
os.setgid(65534); os.setuid(65534)
top = sys.argv[1]
names = ("enter", "list", "none", "none/x", "bare")
calls = {name: lambda name=name: open_model(f"{top}/{name}").close() for name in names}
calls["plan"] = lambda: mt.PrunePlan.load(f"{top}/none/p.json")
calls["save"] = lambda: mt.PrunePlan().save(f"{top}/list/p.json")
calls["out"] = lambda: quantize(f"{top}/list", f"{top}/list/q", "int8")
for name, call in calls.items():
    try:
        call()
        print(name, "fine")
    except Exception as e:
        print(name, type(e).__name__)
"""
        done = child(code, str(top))
        said = dict(line.split() for line in done.stdout.splitlines())
        assert said == {
            "enter": "CheckpointError", "list": "fine", "none": "CheckpointError", "none/x": "CheckpointError",
            "bare": "CheckpointError", "plan": "PlanError", "save": "PlanError", "out": "InputError",
        }, done.stderr  # fmt: skip
    finally:
        shutil.rmtree(top)


@pytest.mark.parametrize(("start", "word"), [
    (b"GGUF\x03", "GGUF"), (b"tjgg\x01", "GGML"), (b"PK\x03\x04", "PyTorch"), (b"\x89HDF\r\n", "HDF5"),
    (b"{}", "is a file; give the directory"), (bytes(8), "is a file; give the directory"),
])  # fmt: skip
def test_a_file_without_an_ending_is_told_by_its_first_bytes(tmp_path: Path, start: bytes, word: str) -> None:
    (tmp_path / "sha256-0a1b").write_bytes(start + bytes(64))  # as Ollama keeps them
    with pytest.raises(CheckpointError, match=f"sha256-0a1b: .*{word}"):
        mt.load(tmp_path / "sha256-0a1b")


@pytest.mark.parametrize(
    ("name", "word"),
    [("model.gguf", "GGUF"), ("pytorch_model.bin", "pickled"), ("x.pt", "pickled"), ("tf_model.h5", "TensorFlow"),
     ("flax_model.msgpack", "Flax"), ("ggml-model.bin", "GGML"), ("llama.ggmlv3.q4_0.bin", "GGML"),
     ("weights.npz", "MLX"), ("model.onnx", "ONNX")],
)  # fmt: skip
def test_other_files_of_weights_are_named(tmp_path: Path, name: str, word: str) -> None:
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "training_args.bin").write_bytes(b"x")
    (tmp_path / name).write_bytes(b"x")
    for path in (tmp_path, tmp_path / name):  # without a config.json, and the file itself
        with pytest.raises(CheckpointError, match=f"{name} is .*{word}"):
            mt.load(path)
    (tmp_path / "config.json").write_text(json.dumps(small("llama").config))
    with pytest.raises(CheckpointError, match=f"{name} is .*{word}"):
        mt.load(tmp_path)
    assert other_format(["README.md", "training_args.bin", "config.json"]) is None


@pytest.mark.parametrize(
    ("config", "word"),
    [({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "GPTQ"),
     ({"quantization_config": {"quant_method": "awq"}}, "AWQ"),
     ({"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}, "FP8"),
     ({"quantization_config": {"quant_method": "fbgemm_fp8"}}, "FP8"),
     ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
     ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
     ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
     ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
     ({"quantization_config": {"quant_method": "new"}}, "method 'new'"),
     ({"quantization": {"group_size": 64, "bits": 4}}, "MLX")],
)  # fmt: skip
def test_other_quantizations_are_named(tmp_path: Path, config: dict[str, Any], word: str) -> None:
    write_checkpoint(tmp_path, small("llama"))
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | config))
    with pytest.raises(ConfigError, match=f"is quantised by {word}.*get the original checkpoint"):
        mt.load(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "word"),
    [("q_proj.qweight", "GPTQ or AWQ"), ("q_proj.g_idx", "GPTQ or AWQ"), ("q_proj.weight_packed", "compressed-tensors"),
     ("q_proj.weight_scale", "compressed-tensors"), ("q_proj.weight_scale_inv", "FP8"), ("q_proj.SCB", "bitsandbytes"),
     ("q_proj.weight.absmax", "bitsandbytes"), ("q_proj.scales", "MLX")],
)  # fmt: skip
def test_other_quantizations_are_named_by_their_tensors(tmp_path: Path, tensor: str, word: str) -> None:
    """Where config.json does not say it."""
    drawn = small("llama")
    write_checkpoint(tmp_path, drawn)
    more = {f"model.layers.0.self_attn.{tensor}": np.zeros((2, 2), np.float32)}
    write_safetensors(tmp_path / "model.safetensors", random_tensors(drawn.config, 0) | more)
    for given in (tmp_path, str(tmp_path)):
        with pytest.raises(ConfigError, match=f"is quantised by {word} .*get the original checkpoint"):
            mt.load(given)


def test_a_mistyped_path_is_said_before_the_hub_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "small-model", small("llama"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("miaotui.loader.hub._download", lambda *_: pytest.fail("the hub was asked"))
    for typed, parent in (("smal-model", "."), ("./small-mode", "."), ("models/small", "models")):
        (tmp_path / "models").mkdir(exist_ok=True)
        with pytest.raises(CheckpointError, match=r"did you mean small-model\?" if parent == "." else "in models"):
            mt.load(typed)
    monkeypatch.setattr("miaotui.loader.hub._download", lambda *_: tmp_path / "small-model")
    mt.load("smal-model", revision="main").close()


# ------------------------------------------------------------------------------------------------------ disks


def test_a_plan_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    mt.PrunePlan(layers="0-2").save(file)
    code = """
import resource, sys, miaotui as mt
plan = mt.PrunePlan(ffn={0: list(range(0, 20000, 2))})
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    plan.save(sys.argv[1])
except mt.errors.PlanError as e:
    print("typed", e)
"""
    assert child(code, str(file)).stdout.startswith("typed")
    assert mt.PrunePlan.load(file) == mt.PrunePlan(layers="0-2")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_a_new_file_keeps_links_and_modes(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    with pytest.raises(KeyError), new_file(tmp_path / "real") as f:
        f.write(b"half" + {}[0])
    assert (tmp_path / "real").read_text() == "new"
    for bad in (tmp_path, tmp_path / "real" / "x", tmp_path / "no" / "x", tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match="cannot be written"):
            write_whole(bad, "x")
    write_whole("/dev/null", "x")


def test_exports_say_what_stands_in_the_way(tmp_path: Path, tiny: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    (source / "tokenizer_old").mkdir()
    (source / "additional_chat_templates").mkdir()
    for name in ("chat_template.jinja", "additional_chat_templates/rag.jinja", "tekken.json", "LICENSE"):
        (source / name).write_text("x")
    prune(str(source), str(tmp_path / "pruned"), "keep-layers=0")
    there = {str(p.relative_to(tmp_path / "pruned")) for p in (tmp_path / "pruned").rglob("*")}
    assert {"chat_template.jinja", "additional_chat_templates/rag.jinja", "tekken.json", "LICENSE"} < there
    assert "tokenizer_old" not in there
    quantize(str(source), tmp_path / ("n" * 250), "int8")
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "q", tmp_path / "a\0b", tmp_path / ("n" * 256)):
        with pytest.raises(InputError):
            quantize(source, out, "int8")
    (source / "vocab.json").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="is a link to 'nowhere'"):
        quantize(source, tmp_path / "dangling", "int8")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path, tiny: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from miaotui.tools.export import new_directory
with new_directory(sys.argv[1]) as made:
    (made / "half").write_text("x")
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("ready", flush=True)
    sys.stdin.read()
"""
    out = tmp_path / "out"
    child(code, str(out), "die")
    assert [p.name.startswith(".out-") for p in tmp_path.iterdir()] == [True]
    with subprocess.Popen([sys.executable, "-c", code, str(out), "wait"], stdin=-1, stdout=-1) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == b"ready\n"
        assert len(list(tmp_path.iterdir())) == 1  # the other's own
        prune(tiny, tmp_path / "out2", "keep-layers=0")
        quantize(tiny, out, "int8")
        assert len([p for p in tmp_path.iterdir() if p.name.startswith(".out-")]) == 1  # that still lives
        other.stdin.close()
        other.wait()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out2"]


def test_a_damaged_statistics_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "s.npz"
    arrays = {"a": np.arange(1000), "b": np.ones((3, 4)), "n": np.int64(7)}
    write_arrays(file, "mark", **arrays)
    good, r, refused = file.read_bytes(), random.Random(1), 0  # noqa: S311 - damage, no secret
    cut = [good[:n] for n in range(0, len(good), 97)]
    changed = []
    for _ in range(600):
        b = bytearray(good)
        for _ in range(r.choice([1, 2, 8])):
            b[r.randrange(len(b))] = r.randrange(256)
        changed.append(bytes(b))
    for data in (b"", b"x", b"\x93NUMPY", *cut, *changed):
        file.write_bytes(data)
        try:
            got = read_arrays(file, "mark")
        except InputError:
            refused += 1
        else:  # where nothing that matters was changed
            assert got.keys() == arrays.keys()
            assert all(np.array_equal(got[k], arrays[k]) for k in arrays)
    assert refused > 500
    file.write_bytes(good)
    with pytest.raises(InputError, match="another model"):
        read_arrays(file, "other")
    with pytest.raises(InputError, match="regular file"):
        read_arrays(tmp_path, "mark")


# ------------------------------------------------------------------------------------------------------ memory


def test_memory_that_the_system_refuses() -> None:
    code = """
import os, resource, sys, miaotui as mt
from miaotui.tools.demo import path
mt.load(path(), threads=1, max_context=64).close()
vm = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (vm + 2**30, resource.RLIM_INFINITY))
for options in ({"max_context": 2**20}, {"max_context": 2**20, "quantize": "int8"}, {"cache_tokens": 10**12},
                {"quantize": "int8", "threads": 1000, "max_context": 64}):
    try:
        mt.load(path(), **({"threads": 2} | options)).close()
        print("fine")
    except mt.MiaotuiError as e:
        print(type(e).__name__, "bytes of memory" in str(e))
sys.stdout.flush(); os._exit(0)
"""
    done = child(code)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["MemoryLimitError True"] * 3, done.stderr
    assert lines[3:] in (["fine"], ["BackendError False"], ["MemoryLimitError True"]), done.stderr


@pytest.mark.parametrize(("room", "cpu"), [*((room, "jit") for room in (40, 60, 90, 120, 160, 200)), (200, "")])
def test_address_space_too_small_for_the_libraries(room: int, cpu: str) -> None:
    """NumPy's import fails with pages of advice, or OpenBLAS ends the process; then tokenizers, then LLVM's library.

    The last is not needed where kernels are compiled ahead.
    """
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) * 10**6, resource.RLIM_INFINITY))
import miaotui
try:
    miaotui.load(sys.argv[2], threads=1, max_context=64)
    print("fine")
except miaotui.MiaotuiError as e:
    print(str(e).count("\\n"), e)
"""
    done = child(code, str(room), str(demo_path()), env={"MIAOTUI_CPU": cpu})
    line = f"ulimit -v {room * 1000} && exec '{sys.executable}' -m miaotui generate x --max-new-tokens 1"
    here = os.environ | {"MIAOTUI_CPU": cpu}
    shown = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False, env=here)
    if cpu != "jit" and shipped.chosen() is not None:
        assert done.stdout == "fine\n", done.stderr
        assert (shown.returncode, shown.stderr) == (0, "")
        return
    assert done.stdout.startswith("0 "), done.stderr
    assert "ulimit -v" in done.stdout
    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1), shown.stderr
    assert "ulimit -v" in shown.stderr


def test_locked_memory_is_no_obstacle() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY and os.geteuid():
        pytest.skip("this user may not lock memory")
    assert libc is not None
    code = """
import ctypes, miaotui as mt
from miaotui.tools.demo import path
assert ctypes.CDLL(None).mlockall(1) == 0
for options in ({}, {"quantize": "int8"}, {"prune": "ffn=0.5"}, {"prune": {"sparsity": "2:4"}}):
    with mt.load(path(), threads=1, max_context=64, **options) as model:
        model.logits([1, 2])
print("fine")
"""
    done = child(code)
    assert done.stdout == "fine\n", done.stderr


def test_a_process_without_temporary_directory_compiles_in_memory() -> None:
    code = """
import tempfile, miaotui as mt
from miaotui.runtime.cpu import build
def none(*_, **__): raise FileNotFoundError(2, "No usable temporary directory found")
tempfile.TemporaryDirectory = none
assert set(build.build(["take_rows", "argmax"], None)) == {"take_rows", "argmax"}
print("fine")
"""
    done = child(code, env={"MIAOTUI_CACHE_DIR": "/proc/nowhere", "MIAOTUI_QUIET": ""})
    assert done.stdout == "fine\n", done.stderr
    assert "MIAOTUI_CACHE_DIR" in done.stderr or "no home directory" in done.stderr


def test_numba_that_must_not_compile_is_said(tmp_path: Path) -> None:
    code = """
import miaotui as mt
from miaotui.tools.demo import path
try:
    mt.load(path()).close()
except mt.errors.BackendError as e:
    print(str(e))
"""
    for more in ({"MIAOTUI_CACHE_DIR": str(tmp_path / "empty")}, {"MIAOTUI_EXECUTOR": "prange"}):
        said = child(code, env={"NUMBA_DISABLE_JIT": "1", "MIAOTUI_CPU": "jit"} | more).stdout
        assert said.startswith("NUMBA_DISABLE_JIT is set")
        assert said.count("\n") == 1


#: llvmlite's library that cannot be mapped: `OSError` from an import, as under `ulimit -v`; or not there at all.
NO_LLVM = """
import sys
import miaotui as mt
from miaotui.tools import demo
kind = {"OSError": OSError, "ImportError": ImportError}[sys.argv[1]]
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name == "llvmlite.binding":
            raise kind("cannot map libllvmlite.so")
sys.meta_path.insert(0, Refusing())
try:
    mt.load(demo.path(), max_context=64, threads=1)
except mt.errors.BackendError as e:
    print(e)
"""


@pytest.mark.parametrize("kind", ["OSError", "ImportError"])
def test_an_llvm_that_cannot_be_loaded_is_typed(kind: str) -> None:
    done = child(NO_LLVM, kind, env={"MIAOTUI_CPU": "jit"})
    assert done.stdout.startswith("llvmlite, which loads compiled code, cannot be loaded (cannot map"), done.stderr
    assert "ulimit -v" in done.stdout


def test_counts_and_plans_of_other_kinds_are_typed() -> None:
    with pytest.raises(InputError, match=r"stop_strings\[0\]=0: expected a string"):
        mt.GenerateParams(stop=range(10**12))  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InputError, match=r"eos_token_id=range\(0, 1000000000000\): expected at most"):
        mt.GenerateParams(eos_ids=range(10**12))  # type: ignore[arg-type]  # as above
    for other in (None, 5, "plan.json", {"layers": "0"}):
        for plan in (mt.PrunePlan(), mt.PrunePlan(layers="0-1")):
            with pytest.raises(mt.errors.PlanError, match="expected a PrunePlan"):
                plan.then(other)  # type: ignore[arg-type]  # as above
    with pytest.raises(InputError) as error:
        mt.load(demo_path(), **{"x" * 70_000: 1})  # type: ignore[arg-type]  # as above
    assert len(str(error.value)) < 500
