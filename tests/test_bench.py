"""The measuring tools do what they say; nothing here asserts how fast anything is."""

from __future__ import annotations

import argparse
import base64
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import miaotui
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import BackendError, InputError
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import planned
from miaotui.loader.prune.compiled import compile_plan
from miaotui.loader.text.tokenizer import Tokenizer
from miaotui.machine import FEATURES
from miaotui.tools.bench import compare, gemm, plot, profile, prune, quality, roofline, run_all, shapes, shared, table
from miaotui.tools.bench.peers import PEERS, llama2c
from miaotui.tools.bench.peers import gguf as peer_gguf
from miaotui.tools.bench.peers import worker as peer_worker
from miaotui.tools.commands import bench
from safetensors import safe_open
from tolerance import bound

TOOLS = Path(bench.__file__).parents[1]

# a peer that needs nothing but NumPy: constant logits
FAKE_PEER = """
import sys, numpy as np
sys.path.append(sys.argv[1])
from worker import serve
class Engine:
    def about(self): return {"name": "fake", "load_s": 0.0}
    def prefill(self, ids): pass
    def step(self, token): pass
    def logits(self): return np.arange(int(sys.argv[2]), dtype=np.float32)
print("a banner")
serve(Engine())
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return {d: shapes.make_checkpoint(tmp_path_factory.mktemp("shapes") / d, "tiny", d) for d in ("f32", "bf16", "f16")}


@pytest.fixture
def small_region(monkeypatch):
    monkeypatch.setattr(roofline, "REGION", 1 << 20)
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    monkeypatch.setattr(compare, "PAUSE", 0.0)


# --- roofline ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_read_sum_reads_all_of_its_region(threads):
    with roofline.ReadSum(threads, 1 << 20) as read:
        assert read.round() > 0
        assert read.round() > 0
        assert sum(read._sums) * 8 == read.nbytes <= 1 << 20
    read.close()
    with pytest.raises(InputError, match="closed"):
        read.round()


@pytest.mark.parametrize(("threads", "nbytes"), [(0, 1 << 20), (2, 4096)])
def test_read_sum_refuses(threads, nbytes):
    with pytest.raises(InputError, match="read-sum"):
        roofline.ReadSum(threads, nbytes)


def test_machine_and_versions():
    facts = roofline.machine()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert set(facts["features"]) <= set(FEATURES)
    assert set(roofline.versions()) == {"python", "miaotui", "numpy", "numba", "llvmlite"}


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_checkpoint_is_one_that_others_read(tiny):
    config = json.loads((tiny["f32"] / "config.json").read_text(encoding="utf-8"))
    with safe_open(tiny["f32"] / "model.safetensors", "numpy") as file:
        assert file.get_tensor("model.embed_tokens.weight").shape == (config["vocab_size"], config["hidden_size"])
        assert np.all(file.get_tensor("model.norm.weight") == 1)
        assert abs(file.get_tensor("model.layers.0.mlp.up_proj.weight").std() - shapes.STD) < shapes.STD / 10
    opened = open_model(tiny["f32"])
    assert len(list(make_load_plan(opened))) == len(opened.checkpoint.tensors)
    tokenizer = Tokenizer.from_directory(tiny["f32"])
    assert tokenizer.n_vocab == config["vocab_size"]
    assert tokenizer.decode(tokenizer.encode("héllo, 喵")) == "héllo, 喵"


def test_bf16_is_the_same_draw_rounded(tiny):
    wide, narrow = (peer_gguf.read_tensors(tiny[d] / "model.safetensors") for d in ("f32", "bf16"))
    assert list(wide) == list(narrow)
    assert all(np.array_equal(shapes.to_bf16(wide[name]), narrow[name]) for name in wide)
    half = peer_gguf.read_tensors(tiny["f16"] / "model.safetensors")
    assert all(np.array_equal(wide[name].astype(np.float16), half[name]) for name in wide)
    assert all(np.array_equal(peer_gguf.widened(x), x.astype(np.float32)) for x in half.values())


def test_checkpoint_is_not_made_twice_and_is_the_same_everywhere(tiny, tmp_path):
    file = tiny["f32"] / "model.safetensors"
    before = file.stat().st_mtime_ns
    shapes.make_checkpoint(tiny["f32"], "tiny")
    assert file.stat().st_mtime_ns == before
    assert (shapes.make_checkpoint(tmp_path, "tiny") / "model.safetensors").read_bytes() == file.read_bytes()
    shapes.make_checkpoint(tmp_path, "tiny", seed=1)
    assert (tmp_path / "model.safetensors").read_bytes() != file.read_bytes()


def test_unknown_shape(tmp_path):
    with pytest.raises(InputError, match="smollm2-135m"):
        shapes.make_checkpoint(tmp_path, "huge")


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**126), max_value=2.0**126))
def test_to_bf16_takes_the_nearest_and_of_two_the_even(x):
    got = int(shapes.to_bf16(np.array([x], np.float32))[0])
    below = int(np.array([x], np.float32).view(np.uint32)[0]) >> 16
    gaps = {bits: abs(float(np.array([bits << 16], np.uint32).view(np.float32)[0]) - x) for bits in (below, below + 1)}
    nearest = [bits for bits, gap in gaps.items() if gap == min(gaps.values())]
    assert got in nearest
    assert len(nearest) == 1 or got % 2 == 0


# --- GGUF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_heads", "d_head"), [(1, 2), (3, 8), (9, 64)])
def test_permuted_rows_rotate_alike(n_heads, d_head):
    """Halves rotated and then permuted are the permuted rows rotated by neighbouring pairs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_heads * d_head, 1))
    angle = rng.standard_normal(d_head // 2)[:, None]
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = x.reshape(n_heads, 2, d_head // 2, 1).swapaxes(0, 1)
    halves = np.stack([a * cos - b * sin, a * sin + b * cos], 1).reshape(x.shape)
    even, odd = peer_gguf.permute(x, n_heads).reshape(n_heads, d_head // 2, 2, 1).transpose(2, 0, 1, 3)
    pairs = np.stack([even * cos - odd * sin, even * sin + odd * cos], 2).reshape(x.shape)
    assert np.array_equal(peer_gguf.permute(halves, n_heads), pairs)


def test_gguf_names(tiny):
    names = [peer_gguf.gguf_name(name) for name in peer_gguf.read_tensors(tiny["f32"] / "model.safetensors")]
    assert len(set(names)) == len(names)
    assert {"token_embd.weight", "output_norm.weight", "blk.1.attn_q.weight", "blk.0.ffn_norm.weight"} <= set(names)
    for name in ("model.layers.0.self_attn.o_proj.bias", "transformer.wte.weight"):
        with pytest.raises(ValueError, match="expected"):
            peer_gguf.gguf_name(name)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_gguf_holds_the_same_numbers(tiny, tmp_path, dtype):
    gguf = pytest.importorskip("gguf")
    peer_gguf.write_gguf(tiny[dtype], tmp_path / "m.gguf")
    stored = {t.name: t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    source = peer_gguf.read_tensors(tiny[dtype] / "model.safetensors")
    assert len(stored) == len(source)
    up = stored["blk.1.ffn_up.weight"]
    assert np.array_equal(
        np.frombuffer(up.data.tobytes(), np.uint8), source["model.layers.1.mlp.up_proj.weight"].view(np.uint8).ravel()
    )
    assert stored["output_norm.weight"].data.dtype == np.float32


# --- the protocol and the comparison ----------------------------------------------------------------------------------


class Recorder:
    """An engine that remembers what it was told."""

    def __init__(self):
        self.told = []

    def about(self):
        return {"name": "recorder"}

    def prefill(self, ids):
        self.told.append(list(ids))

    def step(self, token):
        self.told.append(token)

    def logits(self):
        return np.array([1.5, -2.0], np.float32)


def test_protocol():
    engine = Recorder()
    assert len(peer_worker.answer(engine, "prefill 1 2 3\n")["seconds"]) == 1
    assert len(peer_worker.answer(engine, "decode 4 5\n")["seconds"]) == 2
    assert engine.told == [[1, 2, 3], 4, 5]
    got = base64.b64decode(peer_worker.answer(engine, "logits")["logits"])
    assert np.array_equal(np.frombuffer(got, np.float32), engine.logits())
    with pytest.raises(ValueError, match="command 'dance'"):
        peer_worker.answer(engine, "dance")


@pytest.mark.ci  # 9 s
@pytest.mark.usefixtures("small_region")
def test_comparison_by_turns(tiny):
    ours = compare.Worker(
        [sys.executable, "-m", "miaotui.tools.bench.compare", "--serve", tiny["f32"], "--context", "64"]
    )
    peer = compare.Worker([sys.executable, "-P", "-c", FAKE_PEER, TOOLS / "bench" / "peers", "307"])
    with roofline.ReadSum(1) as read:
        got = compare.compare(ours, peer, read, compare.Plan([1, 2, 3, 4, 5], list(range(11)), 2))
        once = compare.compare(ours, peer, read, compare.Plan([1, 2, 3, 4, 5], [1], 2, prefills=1))
    ours.close()
    peer.close()
    assert peer.about["name"] == "fake"
    assert got["agreement"]["max_abs_difference"] > 1  # constant logits are not ours
    assert (got["prefill_ratio"]["pairs"], got["decode_ratio"]["pairs"]) == (4, 4)
    assert (once["prefill_ratio"]["pairs"], once["decode_ratio"]["pairs"]) == (2, 2)
    for side in ("ours", "theirs"):
        assert set(got[side]) == {"prefill_tps", "decode_tps", "read_fraction", "load_s"}
        assert all(value >= 0 for value in got[side].values())
    assert json.loads(json.dumps(got)) == got
    line = compare._summary_line(got | {"peer": "fake", "dtype": "f32", "threads": 1})
    assert line.startswith("fake, f32, threads 1:")


def test_a_worker_that_dies_says_why():
    with pytest.raises(BackendError, match=r"status 3.*no such luck"):
        compare.Worker([sys.executable, "-c", "import sys; print('no such luck', file=sys.stderr); sys.exit(3)"])


def test_paired_is_the_median_of_ratios():
    got = shared.paired([1.0, 2.0, 4.0], [2.0, 2.0, 12.0])
    assert got == {"median": 2.0, "quartiles": [1.5, 2.5], "pairs": 3}
    for pair in (([], []), ([1.0], [])):
        with pytest.raises(InputError, match="pairs"):
            shared.paired(*pair)


# --- bench ------------------------------------------------------------------------------------------------------------


def arguments(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.usefixtures("small_region")
def test_bench_prints_and_writes(tiny, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.json"
    words = ["--model", str(tiny["f32"]), "--threads", "1", "2", "--prompt", "9", "--new", "11", "--repeat", "2"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/miaotui", "bench", *words, f"--json={out}"])
    assert bench.main(arguments(*words, f"--json={out}")) == 0
    text = out.read_text(encoding="utf-8")
    record = json.loads(text)
    assert str(tmp_path) not in text
    assert record["command"].startswith("miaotui bench --model f32 --threads 1 2")
    assert record["command"].endswith("--json=out.json")
    assert set(record) == {
        *("command", "machine", "versions", "device", "prompt", "new", "repeat", "quantize", "prune", "kv_cache"),
        "precision",
        "results",
        *("model", "dtypes", "parameters", "file_bytes", "start_to_first_token_s", "peak_memory_bytes"),
    }
    assert [r["threads"] for r in record["results"]] == [1, 2]
    for r in record["results"]:
        assert set(r) == {
            *("threads", "load_s", "load_to_first_token_s", "time_to_first_token_s", "prefill_tps", "decode_tps"),
            *("weight_bytes_per_step", "kv_bytes_per_step", "decode_gbs", "read_gbs", "read_fraction", "pairs"),
        }
        assert r["pairs"] == 4
        assert r["decode_gbs"] * 1e9 == pytest.approx(r["decode_tps"] * r["weight_bytes_per_step"])
    assert "prefill" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--prompt", "--new", "--repeat"])
def test_bench_refuses_nothing_to_do(tiny, option):
    with pytest.raises(InputError, match=option):
        bench.main(arguments("--model", str(tiny["f32"]), option, "0"))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_bytes_of_a_step(tiny, dtype):
    opened = open_model(tiny[dtype])
    checkpoint, config, weights = opened.checkpoint, opened.config, planned(make_load_plan(opened))
    # vectors (the norms) are read widened to f32
    total = sum(4 * math.prod(i.shape) if len(i.shape) == 1 else i.nbytes for i in checkpoint.tensors.values())
    # tied: the embedding is the head, read whole; 2 layers of 1 KV head of 16, keys and values
    assert shared.bytes_per_step(config, weights, 10) == (total, 10 * 2 * 2 * 16 * 4)


@pytest.mark.parametrize(
    ("argv", "want"),
    [
        (["/usr/bin/miaotui", "bench", "--model", "/data/m/"], "miaotui bench --model m"),
        (["x.py", "--json=/some/where/a.json", "org/name"], "miaotui bench --json=a.json org/name"),
        (["x", "../up/m", "~/m", "docs/m"], "miaotui bench m m docs/m"),
    ],
)
def test_command_names_no_directory(argv, want):
    assert shared.public_command("miaotui bench", argv) == want


def test_readme_s_table_is_the_files():
    root = Path(__file__).resolve().parent.parent
    files = sorted((root / "docs" / "benchmarks").glob("peers-*.json"))
    reports = sorted(table.read_reports(files), key=lambda r: run_all.LARGE.index(r["shape"]))
    summary = table.summary([r for r in reports if r["results"]]).strip()
    assert summary in (root / "docs" / "benchmarks" / "tables.md").read_text(encoding="utf-8")
    told = table.pairs([r for r in reports if r["results"]])
    for file in (root / "README.md", root / "README.zh.md"):
        assert told in file.read_text(encoding="utf-8")


def test_no_figure_names_a_place_of_the_machine():
    root = Path(__file__).resolve().parent.parent
    for file in (root / "docs" / "benchmarks").glob("*.json"):
        assert not re.search(r"[\"= ]/\w", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_profile_accounts_for_every_instruction_and_changes_nothing(tiny, quantize):
    with miaotui.load(tiny["f32"], threads=2, max_context=32, quantize=quantize) as model:
        session = model.session
        session.step([1, 2, 3], 0)
        wanted = session.logits.copy()
        got = profile.profile(session, [1, 2, 3], repeat=3)
        session.step([1, 2, 3], 0)
        assert np.array_equal(session.logits, wanted)
        for parts in got.values():
            assert [p.kernel for p in parts] == [i.kernel for i in session.program.code]
            assert all(p.seconds >= 0 and p.nbytes >= 0 and p.flop >= 0 for p in parts)
        read, _ = shared.bytes_per_step(model.config, session.weights, 0)
        vectors = sum(w.nbytes for w in session.weights if len(w.shape) == 1)
        moved = sum(p.nbytes for p in got["decode"] if p.kernel.startswith("linear"))
        assert moved > read - vectors
        assert "not reading weights" in profile.profile_table(got["decode"], 40.0)


def test_a_trace_is_one(tiny, tmp_path):
    with miaotui.load(tiny["f32"], threads=1, max_context=32) as model:
        profile.write_trace(tmp_path / "trace.json", profile.profile(model.session, [1, 2, 3], repeat=1))
        n = len(model.program().code)
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert sum(e["ph"] == "X" for e in events) == 2 * n
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"prefill", "decode"}


def test_quality_by_hand():
    p, q = np.log([[0.5, 0.5], [0.25, 0.75]]), np.log([[0.25, 0.75], [0.25, 0.75]])
    got = quality.compare([p], [q], [[0, 1, 0]])
    assert got["n_tokens"] == 2
    assert got["kl"] == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)) / 2)
    assert got["ppl"] == pytest.approx(math.exp(-(math.log(0.75) + math.log(0.25)) / 2))
    assert got["top1"] == 0.5
    assert quality.compare([p], [p], [[0, 1, 0]])["kl"] == 0
    assert quality.bits_of([(True, 64, 68), (False, 32, 18), (False, 32, 64)]) == {
        "bits_per_weight": 9.38,
        "bits_embedding": 8.5,
        "bits_layers": 10.25,
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gguf", "x.gguf"], "--gguf: it needs --peer-python.*and --calibration"),
        (["--gguf", "x.gguf", "--peer-python", "/none", "--calibration", "c.txt"], "/none cannot be run"),
        (["--gguf", "x.gguf", "--peer-python", sys.executable, "--calibration", "c.txt"], "no .*llama_cpp.*by hand"),
    ],
)
def test_llama_cpp_s_own_kinds_need_what_makes_them(words, says):
    with pytest.raises((InputError, BackendError), match=says):
        quality.main(["--stories", "1", *words, "--how"])


@pytest.mark.parametrize("window", ["0", "100000"])
def test_quality_in_windows_that_the_model_has(tmp_path, window):
    (tmp_path / "t.txt").write_text("Once upon a time")
    with pytest.raises(InputError, match=rf"--window {window}: expected 1 to 512, the model's positions"):
        quality.main(["--file", str(tmp_path / "t.txt"), "--window", window])


@pytest.mark.ci  # 7 s
def test_quality_of_the_demo(capsys, tmp_path):
    out = tmp_path / "q.json"
    assert quality.main(["--stories", "2", "--out", str(out)]) == 0
    results = {r["weights"]: r for r in json.loads(out.read_text(encoding="utf-8"))["results"]}
    assert 0 < results["int8"]["kl"] < results["int4"]["kl"] < 0.05
    assert "int4,embed=int8" in capsys.readouterr().out


# --- peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_can_be_asked_without_its_packages(name):
    code = (
        f"import sys\nsys.path.append({str(TOOLS / 'bench' / 'peers')!r})\nimport worker\nbefore = set(sys.modules)\n"
        f"import importlib.util\nimportlib.util.find_spec = lambda name: None\n"
        f"try: worker.driver({name!r})\nexcept ImportError as e: print(e)\n"
        f"m = sys.modules['peers.{PEERS[name]}']\n"
        "assert m.Engine and m.PACKAGES and set(m.DTYPES) <= {'f32', 'bf16', 'f16', 'int8', 'int4', 'int4a'}\n"
        "assert not {p.split('.')[0] for p in m.PACKAGES} - {'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "its interpreter has no" in done.stdout


def test_llama2c_s_file_holds_the_same_numbers(tiny, tmp_path):
    llama2c.convert(tiny["bf16"], tmp_path / "m", "f32")
    source = {k: peer_gguf.widened(v) for k, v in peer_gguf.read_tensors(tiny["bf16"] / "model.safetensors").items()}
    data = (tmp_path / "m").read_bytes()
    assert struct.unpack("<7i", data[:28]) == (48, 80, 2, 3, 1, 307, 256)
    floats, embed = np.frombuffer(data[28:], np.float32), source["model.embed_tokens.weight"]
    assert np.array_equal(floats[: embed.size], embed.ravel())
    queries = peer_gguf.permute(source["model.layers.0.self_attn.q_proj.weight"], 3)
    assert np.array_equal(floats[embed.size + 2 * 48 :][: queries.size], queries.ravel())
    angles = 256 * 8
    assert floats.size == sum(x.size for x in source.values()) + 2 * angles
    assert np.array_equal(floats[-2 * angles - 48 : -2 * angles], source["model.norm.weight"])
    config = shapes.make_checkpoint(tmp_path / "q", "tiny-qwen2")
    with pytest.raises(ValueError, match="RoPE base of 10000"):
        llama2c.convert(config, tmp_path / "n", "f32")
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    rounded, scale = llama2c._rounded(x)
    assert np.all(np.abs(rounded * scale[:, None] - x.reshape(-1, 32)) <= 0.501 * scale[:, None])


def compared(tmp_path, *words):
    out = tmp_path / "out.json"
    sizes = ["--prompt", "5", "--new", "3", "--rounds", "1", "--work", str(tmp_path / "work"), "--out", str(out)]
    assert compare.main([*words, *sizes]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("small_region")
@pytest.mark.parametrize("shape", ["tiny", "tiny-qwen2"])
def test_the_same_maths_as_torch(tmp_path, shape):
    pytest.importorskip("transformers")
    report = compared(tmp_path, "--peer", "torch", "--shape", shape, "--dtype", "f32", "int8", "--threads", "2")
    (row,) = report["results"]
    assert row["agreement"]["max_abs_difference"] < 1e-5 * row["agreement"]["max_abs_logit"]
    assert row["about"]["theirs"]["threads"] == row["about"]["ours"]["threads"] == 2
    assert report["skipped"] == [{"peer": "torch", "dtype": "int8", "reason": report["skipped"][0]["reason"]}]
    assert "torch has no int8 here: expected f32, bf16" in report["skipped"][0]["reason"]
    assert table.table(report).startswith(f"| {shape} | decode | torch |")


@pytest.mark.usefixtures("small_region")
def test_a_peer_that_is_not_there_is_skipped_with_its_reason(tmp_path, monkeypatch, capsys):
    absent = tmp_path / "bin" / "python"
    report = compared(
        tmp_path, "--peer", "openvino", "--shape", "tiny", "--dtype", "f32", "--peer-python", f"openvino={absent}"
    )
    assert report["results"] == []
    assert "interpreter cannot be run" in report["skipped"][0]["reason"]
    assert "skipped" in capsys.readouterr().out
    monkeypatch.setitem(PEERS, "nothing", "nothing")
    with pytest.raises(InputError, match="expected one of"):
        compare.pythons(["nobody=python"])
    assert compare.pythons(["a", "torch=b"]) == {"": "a", "torch": "b"}


def test_a_conversion_is_made_once_and_again_when_what_it_is_made_from_changed(tiny, tmp_path, monkeypatch):
    made = []

    class Driver:
        PACKAGES = ("numpy",)
        __file__ = bench.__file__

        @staticmethod
        def convert(model, out, dtype):
            made.append(dtype)
            out.write_text(model.name, encoding="utf-8")

    monkeypatch.setattr(peer_worker, "driver", lambda _: Driver)
    out = tmp_path / "m.peer"
    for dtype in ("f32", "f32", "int8", "int8", "f32"):
        peer_worker.convert("any", tiny["f32"], out, dtype)
    assert made == ["f32", "int8", "f32"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.peer", "m.peer.made"]


def report_of(shape, prompt, rows):
    """A comparison's record; rows: (peer, dtype, decode ratio, prefill ratio)."""
    ours = {"decode_tps": 100.0, "prefill_tps": 1000.0, "read_fraction": 0.9}
    results = []
    for peer, dtype, decode, prefill in rows:
        theirs = {"decode_tps": 100 / decode, "prefill_tps": 1000 / prefill, "read_fraction": 0.5}
        results.append({
            "peer": peer, "dtype": dtype, "threads": 2, "ours": ours, "theirs": theirs,
            "decode_ratio": {"median": decode}, "prefill_ratio": {"median": prefill},
        })  # fmt: skip
    return {"shape": shape, "prompt": prompt, "peers": sorted({r[0] for r in rows}), "results": results}


def test_tables_name_the_best_peer_of_each_cell():
    short = report_of("s", 128, [("a", "f32", 2.0, 1.25), ("b", "f32", 1.5, 4.0), ("a", "int8", 3.0, 3.0)])
    long = report_of("s", 512, [("b", "f32", 1.1, 0.8)])
    assert "| F32, 2 threads | 100 | 67 b | **1.50x** | 90% | 1000 | 800 a | **1.25x** |" in table.table(short)
    lines = table.summary([short, long]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == (
        "| s, F32, 2 threads | 100 | 67 b | **1.50x** | 90% | 1000 | 800 a | **1.25x** | 1000 | 1250 b | **0.80x** |"
    )
    assert lines[3].startswith("| s, INT8, 2 threads | 100 | 33 a | **3.00x** |")


def test_table_refuses_what_is_none(tmp_path):
    for text in ("{", "[]", "{}"):
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"x\.json.*bench.compare"):
            table.main([str(tmp_path / "x.json")])
    with pytest.raises(InputError, match="no file"):
        table.main([])


def test_a_picture_of_several_files(tmp_path, monkeypatch):
    short = report_of("s", 128, [("a", "f32", 2.0, 1.25), ("b", "f32", 1.5, 4.0), ("a", "int4", 3.0, 3.0)])
    got = plot.gather([short, report_of("s", 512, [("b", "f32", 1.1, 0.8)])])
    assert list(got["s"]) == [
        *("decode, tokens/s", "prefill 128, tokens/s", "prefill 512, tokens/s", "decode, of the read bandwidth")
    ]
    assert got["s"]["prefill 512, tokens/s"] == {"miaotui": {"f32": 1000.0}, "b": {"f32": 1250.0}}
    assert got["s"]["decode, tokens/s"]["a"] == {"f32": 50.0, "int4": pytest.approx(100 / 3)}
    with pytest.raises(InputError, match="no results"):
        plot.gather([report_of("s", 128, [])])
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(InputError, match=r"miaotui\[plot\]"):
            plot.draw(got, tmp_path / "x.svg")
    pytest.importorskip("matplotlib")
    (tmp_path / "in.json").write_text(json.dumps(short), encoding="utf-8")
    assert plot.main([str(tmp_path / "in.json"), "--out", str(tmp_path / "x.svg")]) == 0
    assert "<svg" in (tmp_path / "x.svg").read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.nothing"):
        plot.draw(got, tmp_path / "x.nothing")


# --- pruned and dense -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["tiny", "smollm2-135m"])
@pytest.mark.parametrize("name", [n for n, c in prune.CUTS.items() if c.kind == "structured"])
def test_a_structured_cut_keeps_half(name, shape):
    config = shapes.SHAPES[shape]
    plan = prune.CUTS[name].plan(config)
    n, groups, ff = (config[k] for k in ("num_hidden_layers", "num_key_value_heads", "intermediate_size"))
    each = config["num_attention_heads"] // groups
    left = n if plan.layers is None else len(plan.layers)
    assert left == (n if name not in {"layers", "each"} else n // 2)
    if name in {"heads", "each"}:
        sizes = [len(plan.heads.get(i, range(groups * each))) for i in plan.layers or range(n)]
        assert {s % each for s in sizes} == {0}
        assert abs(sum(sizes) - left * groups * each / 2) <= each / 2 * (left if name == "each" else n % 2)
    if name in {"ffn", "each"}:
        assert {len(kept) for kept in plan.ffn.values()} == {ff // 2}
        assert len(plan.ffn) == left
    if name == "width":
        assert plan.width is not None
        assert len(plan.width) == config["hidden_size"] // 2
    if name in {"vocab", "each"}:
        assert plan.vocab is not None
        assert len(plan.vocab) == config["vocab_size"] // 2
    assert plan == prune.CUTS[name].plan(config)


def pruned(tmp_path, *words):
    sizes = ["--shape", "tiny", "--threads", "1", "--prompt", "5", "--new", "3", "--rounds", "1", "--prefills", "2"]
    out = tmp_path / "out.json"
    work = ["--work", str(tmp_path / "work"), "--out", str(out)]
    assert prune.main([*sizes, *work, *words]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.ci  # 9 s
@pytest.mark.usefixtures("small_region")
def test_pruned_and_dense_by_turns_a_row_at_a_time(tiny, tmp_path, capsys):
    pruned(tmp_path, "--dtype", "int8", "--cut", "vocab")
    report = pruned(tmp_path, "--dtype", "int8", "--cut", "layers", "half")
    assert [r["cut"] for r in report["results"]] == ["layers", "vocab", "half"]
    for row in report["results"]:
        plan = prune.CUTS[row["cut"]].plan(shapes.SHAPES["tiny"])
        with open_model(tiny["bf16"]) as opened:
            sides = ("dense", None), ("pruned", plan)
            plans = {side: make_load_plan(opened, "int8", compile_plan(p, opened.config)) for side, p in sides}
        for side, made in plans.items():
            assert row[side]["weight_bytes_per_step"] == shared.bytes_per_step(made.config, planned(made), 0)[0]
            assert row[side]["weights_bytes"] == made.mapped_bytes + made.resident_bytes
        sizes = [row[side]["weight_bytes_per_step"] for side in ("dense", "pruned")]
        assert row["bytes_ratio"] == sizes[0] / sizes[1] > 1
        assert row["gain_share"] == pytest.approx(row["decode_ratio"]["median"] * sizes[1] / sizes[0])
        assert (row["decode_ratio"]["pairs"], row["prefill_ratio"]["pairs"]) == (1, 2)
        missed = prune.short(row)
        assert any(m.startswith("gain") for m in missed) == (row["gain_share"] < (0.8 if row["cut"] == "half" else 0.9))
        assert any(m.startswith("prefill") for m in missed) == (row["prefill_ratio"]["median"] < 1)
        assert str(tmp_path) not in row["command"]
    assert "vocab: a random half of the token ids\n  decode" in capsys.readouterr().out
    lines = prune.table([report]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        *("INT8, every other layer", "INT8, a random half of the token ids", "INT8, half of every row")
    ]
    with pytest.raises(InputError, match=r"out\.json: its dtype is 'int8', this run's 'bf16'"):
        pruned(tmp_path, "--dtype", "bf16")
    with pytest.raises(InputError, match="--rounds"):
        prune.main(["--rounds", "0"])


def test_the_lesson_s_speeds_are_the_files():
    docs = Path(__file__).resolve().parent.parent / "docs"
    files = [docs / "benchmarks" / f"prune-speed-smollm2-135m-{dtype}.json" for dtype in ("bf16", "int8")]
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    assert prune.table(reports) in (docs / "pruning.md").read_text(encoding="utf-8")
    assert all([r["cut"] for r in report["results"]] == list(prune.CUTS) for report in reports)


# --- GEMM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_our_product_is_the_product(threads):
    side = gemm.Ours(threads)
    for m, n, k in [(1, 1, 1), (5, 33, 17), (40, 24, 65)]:
        x, w = gemm.operands(m, n, k)
        for engine in (side, gemm.OpenBlas(threads)):
            engine.prefill([m, n, k])
            engine.step(0)
            want = x.astype(np.float64) @ w.T.astype(np.float64)
            limit = bound("linear", "f32", k) * (np.abs(x).astype(np.float64) @ np.abs(w).T)
            assert np.all(np.abs(engine.logits().reshape(m, n) - want) <= limit)
    side.close()


def test_the_chains_are_all_computed():
    """x = x/2 + 1/4 from 0 comes to 1/2 in each of them."""
    run, flop = gemm.peak_kernel()
    assert run(0) == 0
    assert run(100) == pytest.approx(0.5 * flop / (2 * gemm.LANES))


def test_gemm_in_turns(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gemm, "SLEEP", 0.0)
    out = tmp_path / "gemm.json"
    assert gemm.main(["--shape", "5x33x17", "--threads", "1", "--rounds", "2", "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    (row,) = report["results"]
    assert (row["m"], row["n"], row["k"], row["threads"], row["ratio"]["pairs"]) == (5, 33, 17, 1, 2)
    assert row["max_abs_difference"] < 1e-5 * row["max_abs"] * 17
    assert min(row["gflops"], row["openblas_gflops"], row["peak_gflops"]) > 0
    assert gemm.table(report) in capsys.readouterr().out
    with pytest.raises(InputError, match="5x0x7"):
        gemm.main(["--shape", "5x0x7"])


# --- everything in one command ----------------------------------------------------------------------------------------


def test_quick_jobs_are_the_same_files_with_less_work():
    full, quick = list(run_all.jobs()), list(run_all.jobs(quick=True))
    assert [j.name for j in full] == [j.name for j in quick]
    assert len({j.name for j in full}) == len(full)
    for a, b in zip(full, quick, strict=True):
        changed = [(x, y) for x, y in zip(a.words, b.words, strict=True) if x != y]
        assert all(int(y) < int(x) for x, y in changed)
        assert changed or "1" in a.words


@pytest.mark.usefixtures("small_region")
def test_all_goes_on_where_it_stopped(tmp_path, monkeypatch, capfd):
    def few(*, quick):
        yield run_all.Job("gemm", "miaotui.tools.bench.gemm", ("--shape", "5x3x2", "--rounds", "1"))
        yield run_all.Job("bad", "miaotui.tools.bench.gemm", ("--rounds", "0" if quick else "1"))

    monkeypatch.setattr(run_all, "jobs", few)
    words = ["--work", str(tmp_path / "w"), "--out", str(tmp_path / "o"), "--quick"]
    assert run_all.main([*words, "--list"]) == 0
    assert not list((tmp_path / "o").iterdir())
    assert run_all.main(words) == 1
    before = (tmp_path / "o" / "gemm.json").stat().st_mtime_ns
    assert "not made: bad" in capfd.readouterr().out
    assert run_all.main([*words, "--only", "g*"]) == 0
    assert (tmp_path / "o" / "gemm.json").stat().st_mtime_ns == before
    assert "| 5 x 3 x 2, 1 thread |" in (tmp_path / "o" / "tables.md").read_text(encoding="utf-8")
