"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, small, write_checkpoint
from helpers import slow_kernels
from miaotui.runtime.cpu import link, shipped
from miaotui.sizes import format_bytes
from miaotui.tools import cli, demo
from miaotui.tools.commands.arguments import size
from miaotui.tools.demo.corpus import held_out
from miaotui.tools.perplexity import losses, measure
from real_files import real

BEGINNING = "Once upon a time"
COMMAND = (sys.executable, "-m", "miaotui")


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def miao(capsys):
    """Run the command in this process."""

    def run(*arguments: object) -> Ran:
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as e:
            code = e.code
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


def piped(*arguments: str, text: str = "", **environment: str) -> Ran:
    """Run the command in a process of its own, `text` on its standard input."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=text.encode(),
        capture_output=True,
        check=False,
        timeout=120,
        env=os.environ | environment,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def one_line_error(ran: Ran) -> str:
    """Check the shape of an error and return its text. One of the command line begins with what was typed, and is 2."""
    assert ran.out == ""
    assert ran.err.startswith("miaotui: error: ")
    assert ran.err.count("\n") == 1
    text = ran.err.removeprefix("miaotui: error: ")
    assert ran.code == (2 if re.match("--|IN: |OUT: |PROMPT: |FILE: ", text) else 1)
    return text


# Help and usage


def test_help_names_every_command(miao):
    ran = miao("--help")
    assert ran.code == 0
    for name, command in cli.COMMANDS.items():
        assert f"    {name}" in ran.out
        assert command.summary.split()[0] in ran.out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_with_examples_that_parse(miao, name):
    ran = miao(name, "--help")
    assert ran.code == 0
    assert "examples:" in ran.out
    for example in cli.COMMANDS[name].examples:
        assert f"\n  {example}" in ran.out
        words = example.split(" < ", maxsplit=1)[0].replace('"', "").split()
        assert words[:2] == ["miaotui", name]
        options = [w for w in words if w.startswith("--")]
        assert all(option in ran.out for option in options)


def test_version(miao):
    ran = miao("--version")
    assert (ran.code, ran.out) == (0, f"miaotui {miaotui.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["generate", "--what"],
        ["generate", "--top-k", "many"],
        ["generate", "--sample", "--greedy"],
        ["generate", "--memory-limit", "2 parsecs"],
        ["inspect"],
        ["perplexity"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(miao, arguments):
    ran = miao(*arguments)
    assert ran.code == 2
    assert "usage: miaotui" in ran.err


def test_several_texts_are_sampled(miao):
    ran = miao(
        "generate",
        "Once",
        "--num-return-sequences",
        2,
        "--temperature",
        1,
        "--seed",
        3,
        "--max-new-tokens",
        4,
        "--stats",
    )
    with miaotui.load(demo.path()) as model:
        one = model.generate("Once", n=2, temperature=1.0, seed=3, max_new_tokens=4)
    assert (ran.code, ran.out) == (0, f"Once{one.text}\nOnce{one.alternatives[0].text}\n")
    assert "score" not in ran.err


def test_the_help_s_usage_is_short(miao):
    assert miao("run", "--help").out.startswith("usage: miaotui run [OPTION ...] --input FILE --output FILE TASK\n\n")
    assert miao("--help").out.startswith("usage: miaotui [-h] [--version] [--debug] COMMAND ...\n\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1048576", 2**20), ("500MB", 500_000_000), ("2GiB", 2**31), ("1.5 GiB", 3 * 2**29), ("7B", 7)],
)
def test_sizes(text, expected):
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "2G", "GiB", "1e9", "nan", "1 2", "٣"])
def test_no_sizes(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        size(text)


@pytest.mark.parametrize(("n", "expected"), [(0, "0 B"), (999, "999 B"), (1024, "1.0 KiB"), (3 * 2**29, "1.5 GiB")])
def test_shown_bytes(n, expected):
    assert format_bytes(n) == expected


# generate


def test_generate_prints_the_model_s_text(miao):
    ran = miao("generate", BEGINNING, "--max-new-tokens", "24")
    with miaotui.load(demo.path()) as model:
        answer = model.generate(BEGINNING, max_new_tokens=24)
    assert ran.code == 0
    assert ran.out.removesuffix("\n") == (BEGINNING + answer.text).removesuffix("\n")


def test_generate_without_anything_tells_a_story():
    ran = piped("generate", "--max-new-tokens", "16")
    assert ran.code == 0
    assert ran.out.startswith(BEGINNING)
    assert len(ran.out) > len(BEGINNING) + 16
    assert ran.out.endswith("\n")


def test_generate_reads_standard_input():
    by_argument = piped("generate", BEGINNING, "--max-new-tokens", "8", "--no-prompt")
    by_input = piped("generate", "--max-new-tokens", "8", "--no-prompt", text=BEGINNING + "\n")
    by_dash = piped("generate", "-", "--max-new-tokens", "8", "--no-prompt", text=BEGINNING)
    assert by_argument.code == 0
    assert by_argument.out == by_input.out == by_dash.out
    assert not by_input.out.startswith(BEGINNING)


def test_generate_refuses_input_that_is_no_text():
    done = subprocess.run([*COMMAND, "generate", "-"], input=b"caf\xe9", capture_output=True, check=False)
    assert done.returncode == 2
    assert b"PROMPT: byte 3 of standard input is not UTF-8" in done.stderr


def test_generate_samples_by_seed(miao):
    def text(*more: str) -> str:
        return miao("generate", BEGINNING, "--max-new-tokens", "40", *more).out

    greedy = text()
    assert text("--temperature", "0") == greedy
    assert text("--greedy", "--top-k", "40") == greedy
    drawn = [text("--temperature", "1.5", "--seed", str(seed)) for seed in range(3)]
    assert len({greedy, *drawn}) > 2
    assert text("--temperature", "1.5", "--seed", "2", "--threads", "1") == drawn[2]
    assert text("--sample", "--temperature", "1.5", "--seed", "0") == drawn[0]


def test_generate_guides_marks_and_repairs(miao):
    with miaotui.load(demo.path()) as model:
        for words, own in (
            (("--guidance-scale", "2.5"), {"guidance_scale": 2.5}),
            (("--watermarking-config", '{"bias": 6, "greenlist_ratio": 0.5}'),
             {"watermarking_config": {"bias": 6, "greenlist_ratio": 0.5}}),
            (("--watermarking-config", "{}"), {"watermarking_config": {}}),
            (("--watermarking-config", '{"ngram_len": 3, "keys": [5, 7]}'),
             {"watermarking_config": {"ngram_len": 3, "keys": [5, 7]}}),
            (("--watermarking-config", "false", "--remove-invalid-values"), {}),
            (("--num-beams", "2", "--renormalize-logits"), {"num_beams": 2, "renormalize_logits": True}),
        ):  # fmt: skip
            wanted = model.generate(BEGINNING, max_new_tokens=16, **own).text
            assert miao("generate", BEGINNING, "--max-new-tokens", "16", *words).out == f"{BEGINNING}{wanted}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--guidance-scale", "nan"), "--guidance-scale nan: expected a number from -10000 to 10000"),
        (("--watermarking-config", '{"bais": 1}'), "--watermarking-config: unknown field 'bais'; known are"),
        (("--watermarking-config", '{"keys": [1]}'), "--watermarking-config: SynthID's watermark needs 'ngram_len'"),
        (("--watermarking-config", "[1]"), "expected a JSON object such as"),
        (("--watermarking-config", "["), "expected a JSON object such as"),
        (("--watermarking-config", "true"), "expected a JSON object such as"),
        (("--renormalize-logits",), "--renormalize-logits: only with --num-beams of 2 or more"),
    ],
)
def test_generate_says_what_is_wrong_with_a_mark_or_guidance(miao, words, told):
    done = miao("generate", BEGINNING, *words)
    assert done.code == 2
    assert told in done.err


def test_generate_says_which_seed_it_drew(miao):
    def ran(*more: str) -> tuple[str, list[str]]:
        done = miao("generate", BEGINNING, "--max-new-tokens", "40", "--ignore-eos", "--stats", *more)
        return done.out, [line.split()[1] for line in done.err.splitlines() if line.startswith("seed ")]

    (one, (seed,)), (other, _) = ran("--temperature", "3"), ran("--temperature", "3")
    assert one != other
    assert ran("--temperature", "3", "--seed", seed) == (one, [seed])
    assert ran()[1] == []


def test_generate_stops_before_a_stop_string(miao):
    whole = miao("generate", BEGINNING, "--no-prompt", "--max-new-tokens", "40").out
    stop = whole.split()[3]
    ran = miao("generate", BEGINNING, "--no-prompt", "--max-new-tokens", "40", "--stop", "~~", "--stop", stop)
    assert ran.out.removesuffix("\n") == whole[: whole.index(stop)]


def test_generate_stats_go_to_standard_error(miao):
    ran = miao("generate", BEGINNING, "--max-new-tokens", "5", "--ignore-eos", "--stats", "--threads", "1")
    assert "1 thread," in ran.err
    assert "5 tokens" in ran.err
    assert "ended by: length" in ran.err
    assert "tokens/s" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "nan"], ["temperature", "nan"]),
        (["--top-p", "0"], ["--top-p 0"]),
        (["--max-new-tokens", "-1"], ["--max-new-tokens -1: expected"]),
        (["--threads", "0"], ["--threads 0: expected"]),
        (["--max-context", "0"], ["--max-context 0: expected"]),
        (["--memory-limit", "1kB"], ["over --memory-limit 1kB"]),
        (["--model", "./nowhere"], ["nowhere", "no such directory"]),
        (["--stop", ""], ["stop"]),
    ],
    ids=" ".join,
)
def test_generate_refuses_in_one_line(miao, arguments, words):
    text = one_line_error(miao("generate", "x", *arguments))
    for word in words:
        assert word in text


def test_debug_shows_the_traceback(miao):
    for arguments in (["--debug", "generate", "x"], ["generate", "x", "--debug"]):
        ran = miao(*arguments, "--model", "./nowhere")
        assert ran.code == 1
        assert "Traceback" in ran.err
        assert "CheckpointError" in ran.err


def test_a_mistake_of_ours_is_one_line_too(miao, monkeypatch):
    def broken(args: argparse.Namespace) -> int:
        raise KeyError(args.path)

    monkeypatch.setattr("miaotui.tools.commands.inspect.main", broken)
    assert "KeyError" in one_line_error(miao("inspect", "x"))


def test_a_reader_that_leaves_ends_it():
    with subprocess.Popen(
        [*COMMAND, "generate", BEGINNING, "--ignore-eos", "--max-new-tokens", "400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read().decode()
        assert process.wait(timeout=120) in {0, 141}  # 0: all was in the pipe before the reader left
    assert "Traceback" not in err
    assert "Error" not in err


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name != "posix", reason="interrupts are POSIX signals here")
def test_ctrl_c_ends_it_with_130():
    code = (
        "import signal, sys, miaotui.model as m\n"
        "from miaotui.tools.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs start with it ignored
        "slow = m.Model.tokens\n"
        "def steps(self, *a, **k):\n"
        "    import time\n"
        "    for step in slow(self, *a, **k):\n"
        "        time.sleep(0.05)\n"
        "        yield step\n"
        "m.Model.tokens = steps\n"
        f"sys.exit(main(['generate', {BEGINNING!r}, '--ignore-eos', '--max-new-tokens', '200']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(len(BEGINNING) + 2)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert time.monotonic() - began < 5
    assert out.endswith(b"\n")
    assert b"Traceback" not in err


# inspect


def test_inspect_tells_the_demo(miao):
    ran = miao("inspect", demo.path(), "--context", "64", "--program")
    assert ran.code == 0
    for words in ("llama", "parameters", "plan", "context of 64", "KV cache", "mapped", "rms_norm"):
        assert words in ran.out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("threads", [1, 2])
def test_inspect_predicts_what_loading_allocates(miao, tmp_path, family, threads):
    write_checkpoint(tmp_path / family, small(family))
    ran = miao("inspect", tmp_path / family, "--context", "24", "--threads", str(threads), "--json")
    got = json.loads(ran.out)
    with miaotui.load(tmp_path / family, max_context=24, threads=threads) as model:
        assert got["config"]["family"] == family
        assert {k: v for k, v in got["memory"].items() if k != "total"} == model.memory
        assert got["memory"]["total"] == model.memory["allocated"] + model.memory["weights_mapped"]


def test_inspect_reads_no_tensor_data(miao, tmp_path):
    """The same file with its data cut out, a hole in its place, tells the same."""
    source = Path(demo.path())
    for path in source.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (source / "model.safetensors").read_bytes()
    data = 8 + int.from_bytes(whole[:8], "little")
    with (tmp_path / "model.safetensors").open("wb") as f:
        f.write(whole[:data])
        f.truncate(len(whole))
    got, expected = (json.loads(miao("inspect", p, "--json").out) for p in (tmp_path, source))
    assert got | {"name": ""} == expected | {"name": ""}


REFUSED = [["--max-context", "0"], ["--max-context", "9999999"], ["--threads", "0"], ["--quantize", "int9"]]


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_inspect_refuses_in_one_line(miao, arguments):
    assert arguments[0] in one_line_error(miao("inspect", demo.path(), *arguments))


# prune


CUTS = ["--keep-layers", "0-3", "--drop-heads", "1:0,2", "--drop-ffn", "2", "--ffn", "0.5"]


@pytest.mark.parametrize("how", [[], ["--quantize", "int8"]], ids=["floats", "int8"])
def test_inspect_predicts_what_a_pruned_load_takes(miao, how):
    got = json.loads(miao("inspect", demo.path(), *CUTS, *how, "--context", "24", "--json", "--receipt").out)
    wish = {"keep_layers": "0-3", "drop_heads": "1:0,2", "drop_ffn": "2", "ffn": 0.5}
    with miaotui.load(demo.path(), max_context=24, prune=wish, quantize=how[1] if how else None) as model:
        assert {k: v for k, v in got["memory"].items() if k != "total"} == model.memory
        assert got["receipt"] == json.loads(json.dumps(model.receipt.as_dict()))
        assert got["kept"] == model.receipt.plan
        assert [layer["d_ff"] for layer in got["config"]["uneven"]] == [176, 176, 0, 176]
    text = miao("inspect", demo.path(), *CUTS, *how, "--receipt", "--hash").out
    for words in ("pruned: keep layers 0-3", "layer 1: 2 heads on 2, feed-forward 176", "no feed-forward", "untouched"):
        assert words in text


def test_every_command_that_loads_takes_cuts(miao, tmp_path):
    (tmp_path / "text.txt").write_text("Once upon a time, there was a fox.")
    ran = miao("generate", BEGINNING, "--max-new-tokens", "8", *CUTS, "--stats")
    assert ran.code == 0
    ran = miao("perplexity", tmp_path / "text.txt", *CUTS, "--json")
    assert json.loads(ran.out)["ppl"] > 1
    ran = miao("generate", BEGINNING, "--keep-layers", "9")
    assert one_line_error(ran).startswith("--keep-layers 9: there is no layer 9; the model has 6 (0 to 5)")


@pytest.mark.parametrize("zeros", ["2:4", "0.5", "0.5/4x4", "4:8,down=0.75,3=dense"])
def test_sparsity_is_one_word_everywhere(miao, tmp_path, zeros):
    """Made while reading, or written and read as stored: one text, and the memory that inspect says."""
    wish = ["--sparsity", zeros]
    got = json.loads(miao("inspect", demo.path(), *wish, "--context", "24", "--json", "--receipt").out)
    with miaotui.load(demo.path(), max_context=24, prune={"sparsity": zeros}) as model:
        assert {k: v for k, v in got["memory"].items() if k != "total"} == model.memory
        assert got["receipt"] == json.loads(json.dumps(model.receipt.as_dict()))
        assert model.memory["weights_mapped"] + model.memory["weights_resident"] < model.receipt.file_bytes
    assert "held sparse" in miao("inspect", demo.path(), *wish).out
    ran = miao("prune", demo.path(), tmp_path / "out", *wish)
    assert (ran.code, "zeros: " in ran.out) == (0, True)
    texts = [
        miao("generate", BEGINNING, "--max-new-tokens", "12", "--model", *how).out
        for how in ((demo.path(), *wish), (tmp_path / "out",), (tmp_path / "out", "--sparsity", "stored"))
    ]
    assert len(set(texts)) == 1
    stored = json.loads(miao("inspect", tmp_path / "out", "--sparsity", "stored", "--context", "24", "--json").out)
    # blocks and shares may keep numbers that are zero already, so stored ones are at most as many
    assert stored["memory"]["weights_resident"] <= got["memory"]["weights_resident"]


def test_with_a_method_sparsity_is_the_methods(miao, tmp_path):
    ran = miao("prune", demo.path(), tmp_path / "out", "--method", "magnitude", "--sparsity", "2:4")
    assert "note: --method magnitude --sparsity 2:4" in ran.out
    assert "zeros: " not in ran.out
    with (
        miaotui.load(tmp_path / "out", prune="sparsity=stored") as one,
        miaotui.load(demo.path(), prune="sparsity=2:4") as other,
    ):
        ids = [1, 2, 3]
        assert np.array_equal(one.logits(ids), other.logits(ids))  # 2:4 is the same by either way
    ran = miao("prune", demo.path(), tmp_path / "other", "--method", "magnitude", "--sparsity", "stored")
    assert "expected a share between 0 and 1" in one_line_error(ran)
    ran = miao("generate", BEGINNING, "--sparsity", "3:5")
    assert "q of layer 0: 3:5 does not fit [128, 128]" in one_line_error(ran)


def test_prune_writes_what_the_cuts_leave(miao, tmp_path):
    ran = miao("prune", demo.path(), tmp_path / "out", *CUTS)
    assert ran.code == 0
    assert "keep layers 0-3" in ran.out
    assert "note: its layers differ" in ran.out
    pruned = miao("generate", BEGINNING, "--max-new-tokens", "8", *CUTS)
    written = miao("generate", BEGINNING, "--max-new-tokens", "8", "--model", tmp_path / "out")
    assert pruned.out == written.out
    again = miao("generate", BEGINNING, "--max-new-tokens", "8", "--prune", tmp_path / "out" / "prune_plan.json")
    assert again.out == pruned.out
    assert "exists" in one_line_error(miao("prune", demo.path(), tmp_path / "out", *CUTS))
    assert "nothing says what to cut" in one_line_error(miao("prune", demo.path(), tmp_path / "other"))
    assert not (tmp_path / "other").exists()


# perplexity


def test_perplexity_of_real_text(miao, tmp_path):
    directory = real("models", "stories260K-hf")
    for case in json.loads((directory / "expected.json").read_text(encoding="utf-8"))["perplexity"]:
        if "text" in case:
            (file := tmp_path / case["name"]).write_text(case["text"], encoding="utf-8")
        else:
            file = real("text", case["name"])
        ran = miao("perplexity", file, "--model", directory, "--tokens", case["n_tokens"], "--json")
        got = json.loads(ran.out)
        assert (got["n_tokens"], got["window"]) == (case["n_tokens"], case["window"])
        assert got["ppl"] == pytest.approx(case["ppl"], rel=1e-4)
        assert got["bits_per_byte"] == pytest.approx(case["bits_per_byte"], rel=1e-4)


def test_every_token_but_the_first_is_predicted_once():
    (text,) = held_out(1)
    with miaotui.load(demo.path()) as model:
        ids = model.tokenizer.encode(text)
        got = {w: measure(model, text, window=w) for w in (1, 7, len(ids) - 1, 512)}
        assert {f["n_tokens"] for f in got.values()} == {len(ids) - 1}
        assert got[len(ids) - 1]["ppl"] == got[512]["ppl"] < got[1]["ppl"]
        total = losses(model, ids).sum()
        assert got[512]["nll_per_token"] == pytest.approx(total / (len(ids) - 1), rel=1e-12)
        assert np.all(losses(model, ids) > 0)


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (b"", [], "text.txt: too short: 1 of at least 2 tokens"),
        (b"\xff\xfe", [], "byte 0 is not UTF-8"),
        (b"a cat", ["--window", "0"], "--window 0"),
        (b"a cat", ["--window", "8", "--max-context", "4"], "more than the context of 4"),
        (None, [], "FILE: '"),
    ],
)
def test_perplexity_refuses_in_one_line(miao, tmp_path, content, arguments, words):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    ran = miao("perplexity", file, *arguments)
    assert words in one_line_error(ran)
    assert ran.code == (2 if content is None or arguments else 1)


def test_perplexity_in_words(miao, tmp_path):
    (tmp_path / "text.txt").write_text("Once upon a time there was a cat.", encoding="utf-8")
    ran = miao("perplexity", tmp_path / "text.txt", "--tokens", "4")
    assert ran.code == 0
    assert ran.out.startswith("perplexity ")
    assert "4 predictions" in ran.out


# warm


def test_warm_says_how_long(miao):
    ran = miao("warm", "--model", demo.path())
    assert ran.code == 0
    assert "kernels are ready after" in ran.out
    using = shipped.chosen()
    assert ran.out.endswith(f", in {link.cache_directory()}\n" if using is None else f", compiled for {using.name}\n")


def test_the_second_start_compiles_nothing_and_keeps_its_code_in_one_place(tmp_path):
    here = {"MIAOTUI_CACHE_DIR": str(slow_kernels(tmp_path / "ours")), "NUMBA_CACHE_DIR": str(tmp_path / "not-ours")}
    here |= {"MIAOTUI_QUIET": "", "MIAOTUI_CPU": "jit"}
    first, second = (piped("generate", BEGINNING, "--max-new-tokens", "3", **here) for _ in range(2))
    assert first.out == second.out
    assert "compiling for this CPU, once" in first.err
    assert re.search(r"compiled \d+ kernels in", first.err)
    assert second.err == ""
    assert not (tmp_path / "not-ours").exists()


def unbroken(prompt, n):
    """What a text that outgrows a context of 256 goes on with, in two steps."""
    with miaotui.load(demo.path(), max_context=256) as model, model.sequence(overflow="window") as text:
        return [text.generate(prompt, max_new_tokens=n).text, text.generate(max_new_tokens=n).text]


def test_a_text_longer_than_its_context(miao, tmp_path):
    """On the command line as in Python; the included model, in a short context."""
    prompt, how = " ".join([BEGINNING] * 80), {"max_new_tokens": 40, "seed": 3, "temperature": 1.0}
    options = ("--max-context", 256, "--max-new-tokens", 40, "--seed", 3, "--temperature", 1, "--no-prompt")
    with miaotui.load(demo.path(), max_context=256) as model:
        assert len(model.tokenizer.encode(prompt)) > model.n_context
        for overflow in ("window", "truncate-left"):
            ran = miao("generate", prompt, *options, "--overflow", overflow)
            assert (ran.code, ran.out.removesuffix("\n")) == (0, model.generate(prompt, overflow=overflow, **how).text)
    assert "or see --overflow" in miao("generate", prompt, *options).err
    session = ("--session", tmp_path / "text.session", "--max-context", 256, "--no-prompt", "--max-new-tokens", 20)
    first = miao("generate", prompt, "--overflow", "window", *session)
    assert first.out + miao("generate", "", *session).out == "".join(
        f"{text}\n" for text in unbroken(prompt, 20)
    )  # what was saved goes on as it was made, without being told
