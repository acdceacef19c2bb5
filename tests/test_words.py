"""Errors name what the caller typed, as it was typed, and the exit code says whose fault it is."""

from __future__ import annotations

import inspect
import json
import sys
from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
import soak
from checkpoints import small, write_checkpoint
from helpers import complaint
from miaotui.errors import InputError, MiaotuiError, PlanError
from miaotui.loader.hub import locate
from miaotui.tools import cli, demo
from miaotui.tools.importance.methods import METHODS
from miaotui.tools.importance.progress import progress
from mutation_families import small_config, write_fitting
from mutation_tokenizers import tokenizer_makes

if TYPE_CHECKING:
    from pathlib import Path

#: On the demo model: six layers of four heads, 128 dimensions.
TYPED = [
    ("--keep-layers 0-9", ": there is no layer 9; the model has 6 (0 to 5)"),
    ("--drop-layers 77", ": there is no layer 77; the model has 6 (0 to 5)"),
    ("--drop-heads 0:99", ": there is no head 99 in layer 0; it has 4 (0 to 3)"),
    ("--drop-heads 0:1 --drop-heads 9:0", ": there is no layer 9; the model has 6 (0 to 5)"),
    ("--drop-attention 6", ": there is no layer 6; the model has 6 (0 to 5)"),
    ("--drop-attention 0 --drop-ffn 0", ": layer 0 would keep neither attention nor feed-forward"),
    ("--ffn 2", ": expected a number above 0 and at most 1"),
    ("--ffn most", ": expected a share above 0 and at most 1, such as 0.75"),
    ("--width 0-999", ": there is no dimension 999; the model has 128 (0 to 127)"),
    ("--width 1.5", ": expected a number above 0 and at most 1"),
    ("--sparsity 5:7", ": sparsity of q of layer 0: 5:7 does not fit [128, 128]"),
    ("--sparsity x", ": expected N:M such as 2:4"),
    ("--vocab /nowhere.txt", ": cannot be read"),
    ("--vocab-fallback word", ": expected 'unk', 'bytes', or a token's id"),
    ("--prune /nowhere.json", ": cannot be read"),
    ("--stop a --stop ", "--stop '': expected a string of at least one character"),
    ("--threads 0", ": expected a whole number of at least 1"),
    ("--threads 5000", ": expected at most 1024"),
    ("--top-p 7", ": expected a number in (0, 1]"),
    ("--kv-cache f8", ": expected one of f32, bf16, int8"),
    ("--revision main", ": the demo model has no revisions"),
    ("--bad-words-ids 5,9999", ": token id 9999 is outside the vocabulary 0 .. 1023"),
    ("--forced-eos-token-id 9999", ": token id 9999 is outside the vocabulary 0 .. 1023"),
    ("--length-penalty 2", ": only with --num-beams of 2 or more"),
    ("--num-beams 1 --early-stopping true", "--early-stopping: only with --num-beams of 2 or more"),
    ("--forced-bos-token-id 5", "--forced-bos-token-id: of encoder-decoders only; leave it out, or end the prompt"),
    ("--quantize int8,int4", ": all matrices named twice"),
    ("--quantize int8,q=int4,q=none", ": 'q' named twice"),
    ("--quantize =int8", ": '=int8' is not understood; expected int8"),
    ("--encoder-ffn 0.5", ": llama is not an encoder-decoder; use the same form without encoder-"),
    ("--drop-cross-attention 0", ": llama is not an encoder-decoder, and has no attention to an encoder"),
    ("--keep-layers ", "--keep-layers '': nothing is kept; a model needs at least one"),
    ("--plan ", "--plan '': expected a path"),
]


def test_advice_is_in_the_command_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoll").mkdir()
    (tmp_path / "smoll" / "config.json").write_text("{}")
    assert cli.main(["inspect", "smol"]) == 1
    assert "say so with --revision main" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "says"), TYPED, ids=[options for options, _ in TYPED])
def test_an_error_begins_with_the_option_as_typed_and_is_2(
    capsys: pytest.CaptureFixture[str], options: str, says: str
) -> None:
    assert cli.main(["generate", "x", *options.split(" ")]) == 2
    expected = says if says.startswith("--") else options + says
    assert complaint(capsys.readouterr().err).startswith(f"miaotui: error: {expected}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["inspect", "{demo}", "--context=0"], "--context 0: expected a whole number"),
        (["inspect", "{demo}", "--max-context", "0"], "--max-context 0: expected a whole number"),
        (["inspect", "{demo}", "--plan", "/nowhere.json"], "--plan /nowhere.json: cannot be read"),
        (["inspect", "{demo}", "--revision", ""], "--revision '': expected a branch, a tag or a commit"),
        (["quantize", "{demo}", "{text}"], "OUT: {text} exists; name a directory that is not there yet"),
        (["quantize", "{demo}", "out", "--revision", ""], "--revision '': expected a branch, a tag or a commit"),
        (["inspect", "{demo}", "--vocab-fallback", "-1"], "--vocab-fallback -1: expected 'unk', 'bytes'"),
        (["perplexity", "{text}", "--window", "2000000"], "--window 2000000: the model was made for 512"),
        (
            ["prune", "{demo}", "out", "--method", "flap", "--ffn", "0.5", "--text", "{text}", "--window", "2000000"],
            "--window 2000000: the model was made for 512",
        ),
        (["generate", "x", "--stop", "\udcff"], "--stop: '\\udcff' is not UTF-8"),
        (["generate", "\udcff"], "PROMPT: '\\udcff' is not UTF-8"),
    ],
)
def test_of_two_names_the_one_that_was_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    (tmp_path / "text").write_text("Once upon a time")
    places = {"demo": demo.path(), "text": tmp_path / "text"}
    assert cli.main([argument.format(**places) for argument in arguments]) == 2
    assert complaint(capsys.readouterr().err).startswith(f"miaotui: error: {says.format(**places)}")


@pytest.mark.parametrize("arguments", [
    ["quantize", "x", ""], ["perplexity", ""], ["prune", "x", ""], ["inspect", ""], ["quantize", "", "x"],
    ["prune", ""], ["generate", "x", "--model", ""], ["bench", "--model="],
])  # fmt: skip
def test_an_empty_path_is_not_the_working_directory(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "found an empty path" in capsys.readouterr().err


def test_a_refusal_of_the_model_is_1_and_names_options_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "x", "--memory-limit", "1kB"]) == 1
    err = capsys.readouterr().err
    assert "over --memory-limit 1kB; a smaller --max-context (now 512)" in err
    assert cli.main(["generate", "x", "--model", "./nowhere"]) == 1


def test_an_error_of_a_plan_names_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    for field, says in {
        "layers": "there is no layer 9",
        "order": "there is no layer 9",
        "depth": "unknown key",
    }.items():
        plan.write_text(json.dumps({"format": "miaotui-prune", "version": 1, field: "9"}))
        assert cli.main(["generate", "x", "--prune", str(plan)]) == 2
        err = capsys.readouterr().err
        assert complaint(err).startswith(f"miaotui: error: --prune {plan}: ")
        assert says in err
        with pytest.raises(PlanError) as error:
            miaotui.load(demo.path(), prune=plan)
        assert str(error.value).startswith(f'prune="{plan}": ')


def test_layers_after_a_plan_are_those_that_it_leaves(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format": "miaotui-prune", "version": 1, "layers": "0-2"}))
    with pytest.raises(PlanError, match=r"there is no layer 4; what the plan leaves has 3 \(0 to 2\)"):
        miaotui.load(demo.path(), prune={"plan": str(plan), "drop_layers": "4"})


@pytest.mark.parametrize(
    ("prune", "begins"),
    [
        ("keep-layers=0-9", 'prune="keep-layers=0-9": there is no layer 9; the model has 2 (0 to 1)'),
        ("ffn=0.5; keep-layers=0-9", 'prune="keep-layers=0-9": there is no layer 9'),
        ({"keep_layers": [9]}, "prune={'keep_layers': [9]}: there is no layer 9"),
        ({"ffn": 2}, "prune={'ffn': 2}: expected a number"),
        ({"depth": 2}, "prune={'depth': 2}: 'depth' is not understood"),
        ("keep_layer=0", "prune=\"keep-layer=0\": 'keep_layer' is not understood (did you mean keep-layers?)"),
    ],
    ids=str,
)
def test_in_python_the_argument_is_named(tmp_path: Path, prune: object, begins: str) -> None:
    write_checkpoint(tmp_path, small("llama"))
    with pytest.raises(MiaotuiError) as error:
        miaotui.load(tmp_path, prune=prune)  # type: ignore[arg-type]
    assert str(error.value).startswith(begins)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "--temprature", "1"], "did you mean --temperature?"),
        (["genrate"], "did you mean generate?"),
        (["inspect", "x", "--contxt=3"], "did you mean --context?"),
    ],
    ids=str,
)
def test_a_misspelt_word_is_recognised(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    err = capsys.readouterr().err
    assert (stop.value.code, says in err) == (2, True)
    assert words[0] == "genrate" or f"usage: miaotui {words[0]}" in err  # the command's own usage
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (["generate", "--temprature", "1", "x"], "unknown option: --temprature; did you mean --temperature?"),
        (["generate", "Once", "upon", "a"], "unrecognized arguments: upon a; a text of several words needs quotation"),
        (["inspect", "a", "b"], "unrecognized arguments: b (usage: miaotui inspect [OPTION ...] PATH_OR_HUB;"),
        (["generate", "--temperature", "x"], "--temperature: invalid float value: 'x' (usage: miaotui generate"),
        (["generate", "--threads", "x"], "--threads: expected a whole number of at least 1, or auto, not 'x' ("),
        (["inspect", "x", "--context=y"], "--context: invalid int value: 'y' (usage: miaotui inspect"),
        (["inspect", "x", "--max-context", "y"], "--max-context: invalid int value: 'y' (usage: miaotui inspect"),
        (["inspect", "x", "--contex", "y"], "--contex: invalid int value: 'y' (usage: miaotui inspect"),
        (["generate", "x", "--plan"], "--plan: expected one argument (usage: miaotui generate"),
        (["genrate"], "COMMAND: invalid choice: 'genrate'"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_line_that_begins_with_what_is_wrong(
    capsys: pytest.CaptureFixture[str], words: list[str], begins: str
) -> None:
    with pytest.raises(SystemExit):
        cli.main(words)
    err = capsys.readouterr().err
    assert complaint(err).startswith(f"miaotui: error: {begins}")
    assert err.count("\n") == 1


def test_advice_names_no_keyword_that_the_command_line_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--memory-limit", "1MiB", "x"]) == 1
    err = capsys.readouterr().err
    assert "a smaller --max-context (now 512) needs less" in err
    assert "prefill_chunk" not in err


def test_a_value_to_give_instead_is_an_option_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fitting(tmp_path, small_config("t5"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_makes()["wordpiece"]))
    assert cli.main(["generate", "a b a b a b a b", "--model", str(tmp_path), "--max-context", "3"]) == 1
    assert "give fewer, or load with --max-context " in capsys.readouterr().err
    said = cli._as_typed("leave it, quantize='int8,q=none', or kv_cache='f32'", {"quantize": "int8", "kv_cache": 1})
    assert said == "leave it, --quantize int8,q=none, or --kv-cache f32"


FLAP = ("--method", "flap", "--ffn", "0.5")
GREEDY = ("--method", "greedy", "--keep", "3", "--text", __file__)
SWEEP = ("--sweep", "--text", __file__, "--out", "/proc/nowhere")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["warm", "--threads", "2"], "--threads 2: only with --model"),
        (["warm", "--memory-limit", "1GiB"], "--memory-limit 1GiB: only with --model"),
        (["warm", "--keep-layers", "0"], "--keep-layers 0: only with --model"),
        (["prune", "nowhere", "out", "--method", "sparsgpt"], "--method sparsgpt: no such method (did you mean sparse"),
        (["prune", "nowhere", "out", "--method", "wanda"], "--method wanda: nothing says how much to cut"),
        (["prune", "nowhere", "out", "--method", "wanda", "--sparsity", "9"], "--sparsity 9: expected a share"),
        (["prune", "nowhere", "--keep-layers", "0"], "OUT: none was given"),
        (["prune", "nowhere", "out"], "IN: nothing says what to cut"),
        (["prune", "nowhere", "out", "--keep-layers", "0", "--keep", "3"], "--keep 3: only with --method"),
        (["prune", "nowhere", "out", "--keep-layers", "0", "--uniform"], "--uniform: only with --method"),
        (["prune", "nowhere", "out", "--keep-layers", "0", "--out", "x"], "--out x: only with --sweep"),
        (["prune", "nowhere", "out", "--keep-layers", "0", "--methods", "a", "b"], "--methods a b: only with --sweep"),
        (
            ["prune", "nowhere", "out", *FLAP, "--text", __file__, "--after", "x"],
            "--after x: --method flap weighs every",
        ),
        (["prune", "nowhere", "out", *FLAP, "--text", __file__, "--behind", "x"], "--behind x: --method flap weighs"),
        (["prune", "nowhere", "out", *FLAP, "--window", "3"], "--window 3: says how a text is read; give one, --text"),
        (["prune", "nowhere", "out", *GREEDY, "--statistics", "s"], "--statistics s: --method greedy takes none"),
        (["prune", "nowhere", *SWEEP, "--keep", "3"], "--keep 3: --sweep tries every method"),
        (["prune", "nowhere", *SWEEP, "--statistics", "s"], "--statistics s: --sweep tries every method"),
        (["prune", "nowhere", *SWEEP, "--methods", "first", "frist"], "--methods frist: no such method (did you mean "),
        (["prune", "nowhere", *SWEEP, "--min-speedup", "nan"], "--min-speedup nan: expected a number above 0"),
        (["prune", "nowhere", *SWEEP, "--max-perplexity-ratio", "-1"], "--max-perplexity-ratio -1: expected a number"),
        (["prune", "nowhere", *SWEEP, "--max-memory", "0KiB"], "--max-memory 0KiB: expected a number above 0"),
        (["bench", "--trace", "x"], "--trace x: only with --profile"),
        (["bench", "--device", "cuda", "--threads", "1", "2"], "--threads 1 2: a GPU is measured once"),
        (["bench", "--threads", "1", "9999"], "--threads 9999: expected at most 1024"),
        (["bench", "--prompt", "99999999"], "--prompt 99999999 --new 64: the model was made for 512, expected at most"),
        (["bench", "--new", "9" * 20], f"--prompt 128 --new {'9' * 20}: expected at most"),
        (["perplexity", __file__, "--window", "5", "--max-context", "3"], "--window 5: more than the context of 3"),
        (["generate", "x", "--max-new-tokens", "-1"], "--max-new-tokens -1: expected an integer >= 0\n"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_commands_refuse_what_they_would_ignore(
    capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert cli.main(words) == 2
    assert complaint(capsys.readouterr().err).startswith(f"miaotui: error: {says}")


@pytest.mark.parametrize(("family", "kind"), [("bert", "an encoder"), ("t5", "an encoder-decoder")])
def test_what_predicts_no_next_token_is_not_measured_as_if_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, family: str, kind: str
) -> None:
    """A BERT's scores of masked tokens were a perplexity."""
    monkeypatch.chdir(tmp_path)
    masked = {"architectures": ["BertForMaskedLM"]} if family == "bert" else {}
    write_fitting(tmp_path / "m", small_config(family) | masked)
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(tokenizer_makes()["wordpiece"]))
    (tmp_path / "t.txt").write_text("a b a b b a")
    cut = ["--text", "t.txt", "--window", "2"]
    none = "which predicts no next token of a text"
    greedy = "which is asked for masked tokens, but its tokenizer has none of [MASK], <mask>"
    wanda = "which is not gone through layer by layer: add --one-pass"
    keep = ["prune", "m", "out", "--method", "greedy", "--keep", "1", *cut]
    if masked:
        for more in ([], ["--max-context", "99999999"], ["--num-beams", "2"]):
            assert cli.main(["generate", "a", "--model", "m", *more]) == 2
            said = complaint(capsys.readouterr().err)
            assert said.startswith(
                "miaotui: error: --model m: bert is an encoder, which writes no text; expected a dec"
            )
    for words, what, why in (
        (["perplexity", "t.txt", "--model", "m"], "--model m", none),
        (["perplexity", "t.txt", "--model", "m", "--window", "99999999"], "--model m", none),
        (["bench", "--model", "m", "--prompt", "2", "--new", "2"], "--model m", none),
        (["prune", "m", "--sweep", "--out", "sweep", *cut], "--sweep", none),
        *([(keep, "--method greedy --keep 1", greedy)] if masked else []),
        (["prune", "m", "out", "--method", "wanda", "--sparsity", "0.5", *cut], "--method wanda", wanda),
    ):
        assert cli.main(words) == 2
        assert complaint(capsys.readouterr().err).startswith(f"miaotui: error: {what}: {family} is {kind}, {why}")
    # what a model does to a text, whatever it predicts, is seen: an encoder-decoder's lines are pairs
    (tmp_path / "t.txt").write_text("a b\ta b b a" if family == "t5" else "a b a b b a")
    assert cli.main(["prune", "m", "less", "--method", "activation", "--ffn", "0.5", *cut]) == 0
    capsys.readouterr()
    assert cli.main(["warm", "--model", "m", "--threads", "1"]) == 0
    assert cli.main(["prune", "m", "out", "--method", "magnitude", "--sparsity", "0.5"]) == 0
    assert masked or cli.main([*keep[:2], "fewer", *keep[3:]]) == 0
    if masked:
        capsys.readouterr()
        for width, why in (
            ("0-3", "hidden_size 4 is no multiple of num"),
            ("0-2", "a head's width is the model's div"),
        ):
            assert cli.main(["prune", "m", "thin", "--width", width]) == 1
            said = complaint(capsys.readouterr().err)
            assert said.startswith(f"miaotui: error: this plan cannot be written as a bert checkpoint: {why}")
            assert said.endswith("It can be used while loading\n")


def test_a_call_that_an_encoder_has_no_answer_to_is_named(tmp_path: Path) -> None:
    """`sequence` and `stream` of one were called "generate"."""
    write_fitting(tmp_path, small_config("bert") | {"architectures": ["BertForMaskedLM"]})
    with miaotui.load(tmp_path, threads=1) as model:
        for call, refused in {
            "sequence": model.sequence, "stream": lambda: model.stream("a"),
            "tokens": lambda: model.tokens("a"), "generate": lambda: model.generate("a"),
            "generate_all": lambda: model.generate_all(["a"]), "last_logits": lambda: model.last_logits([[1]]),
        }.items():  # fmt: skip
            with pytest.raises(InputError, match=f"^{call}: bert is an encoder, which writes no text; use encode, hid"):
                refused()


def test_an_array_of_no_dimensions_is_called_one() -> None:
    with miaotui.load(demo.path(), threads=1) as model:
        with pytest.raises(InputError, match="sequences: an array of no dimensions found, expected several sequences"):
            model.last_logits(np.array(3))
        with pytest.raises(InputError, match="forced_bos_token_id: of encoder-decoders only"):
            model.generate("a", forced_bos_token_id=5)


def test_one_of_a_thing_is_no_plural(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    write_fitting(tmp_path, small_config("llama") | one | {"head_dim": 4, "sliding_window": None})
    assert cli.main(["inspect", str(tmp_path), "--threads", "1", "--max-context", "1"]) == 0
    out = capsys.readouterr().out
    assert "  1 layer of width 12, vocabulary" in out
    assert "attention: 1 head of 4, 1 key/value head, RoPE" in out
    assert "memory for a context of 1 token\n" in out


def test_what_was_read_to_rank_neurons_is_said_in_words_of_every_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A T5's file has wi and wo, a GPT-2's c_fc and c_proj."""
    for family in ("t5", "gpt2"):
        write_fitting(tmp_path / family, small_config(family))
        assert cli.main(["inspect", str(tmp_path / family), "--ffn", "0.5", "--receipt"]) == 0
        assert "the feed-forward's matrices of every kept layer were read to rank them" in capsys.readouterr().out


@pytest.mark.parametrize(("how", "says"), [
    (["--sweep", "--out", "file/x"], "'file/x': cannot be made (Not a directory)"),
    (["file/x", *FLAP], "OUT: 'file/x': cannot be written ("),
    (["there", *FLAP], "OUT: there exists; name a directory that is not there yet"),
    (["out", *FLAP, "--text", "empty"], "empty: too short: "),
    (["out", *FLAP, "--text", "lines", "--lines"], "lines: holds no line to read"),
    (["out", *FLAP, "--window", "9999999"], "--window 9999999: the model was made for 512, expected at most"),
    (["--sweep", "--out", "there", "--window", "9999"], "--window 9999: expected 1 to 512, the context"),
])  # fmt: skip
def test_a_text_or_a_place_that_will_not_do_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: list[str], says: str
) -> None:
    """Before a checkpoint is written, and by its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    texts = {"file": "Once upon a time", "empty": "", "lines": "\n\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    text = [] if "--text" in how else ["--text", "file"]
    assert cli.main(["prune", str(demo.path()), *how, *text]) in {1, 2}
    assert says in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "lines", "there"]


def test_no_such_method_lists_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prune", "nowhere", "out", "--method", "nosuch"]) == 2
    assert capsys.readouterr().err.endswith(f"expected one of {', '.join(METHODS)}\n")


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("--method magnitude --sparsity 2:4", "zeros in every matrix of every layer (2:4), the others unchanged"),
        ("--method slicegpt --width 0.5", "every weight is new, in a smaller basis"),
    ],
)
def test_a_method_that_rewrites_says_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, says: str
) -> None:
    more = []
    if "slicegpt" in method:
        (tmp_path / "text.txt").write_text("Once upon a time there was a cat. " * 4)
        more = ["--text", str(tmp_path / "text.txt"), "--window", "8"]
    assert cli.main(["prune", str(demo.path()), str(tmp_path / "out"), *method.split(), *more]) == 0
    out = capsys.readouterr().out
    assert "keep everything" not in out
    assert f"{method}: {says}" in out


def test_a_revision_of_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="revision='main': only hub names"):
        locate(tmp_path, revision="main")


def test_more_threads_than_cores_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miaotui.runtime.cores.available_threads", lambda: 2)
    assert cli.main(["generate", "x", "--max-new-tokens", "1", "--threads", "3"]) == 0
    assert "note: --threads 3: this process may use 2 cores" in capsys.readouterr().err


def test_an_error_stands_on_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")

    def work() -> None:
        with progress(4, 0, "calibrating") as bar:
            bar(1)
            msg = "broken"
            raise InputError(msg)

    with pytest.raises(InputError):
        work()
    print("miaotui: error: broken", file=sys.stderr)  # noqa: T201 - as the command does
    assert "\nmiaotui: error: broken\n" in capsys.readouterr().err


def test_the_program_comes_with_a_legend(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(demo.path()), "--program"]) == 0
    assert "| where threads wait for each other" in capsys.readouterr().out


def test_soak_lists_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        soak.main([])
    assert f"name one of {soak.names()[0]}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=f"expected one of .*chunking.*{soak.EXAMPLES}"):
        soak.selection("nosuch")


def test_help_of_a_sequence_has_no_internals_of_python() -> None:
    signature = str(inspect.signature(miaotui.Sequence))
    assert "lambda" not in signature
    assert "0x" not in signature
