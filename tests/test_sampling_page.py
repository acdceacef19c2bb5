"""docs/sampling.md: its Python prints what it says, and it has every parameter with its default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.runtime.penalties import Dry
from miaotui.runtime.penalty_params import PENALTIES
from miaotui.runtime.rules import RULES
from miaotui.runtime.sampling_params import ORDER, SAMPLING, SamplingParams
from miaotui.tools.cli import main

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "sampling.md").read_text(encoding="utf-8")


def test_the_page_s_python_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", PAGE, re.DOTALL | re.MULTILINE)
    assert sum(bool(said) for _, said in blocks) == 2
    for python, said in blocks:
        exec(compile(python, "docs/sampling.md", "exec"), names)  # noqa: S102 - it is our own page
        assert capsys.readouterr().out == said


def test_every_parameter_is_on_the_page_with_its_default() -> None:
    assert re.findall(r"^\| `(\w+)` \| `\w+` ", PAGE, re.MULTILINE) == list(ORDER)
    defaults = {name: SamplingParams.__dataclass_fields__[name].default for name in SAMPLING}
    defaults |= {"dry_base": Dry.base, "dry_allowed_length": Dry.allowed, "dry_penalty_last_n": Dry.last_n}
    for name in {*SAMPLING, *PENALTIES, *RULES} - {"do_sample", "seed", "sampler_order"}:
        assert f"`{name}`" in PAGE, name
    for name in (
        "mirostat_tau",
        "mirostat_eta",
        "xtc_threshold",
        "dynatemp_exponent",
        "dry_allowed_length",
        "dry_base",
    ):
        said = re.search(rf"`{name}` \(default ([\d.]+)\)", PAGE)
        assert said is not None, name
        assert float(said[1]) == defaults[name], name
    off = dict(re.findall(r"\| `(\w+)` ([\d.]+) \|", PAGE))
    off |= dict(re.findall(r"^\| `(\w+)` \| (-?[\d.]+) \|", PAGE, re.MULTILINE))
    assert len(off) > 15
    for name, value in off.items():
        if name in defaults:
            assert float(value) == defaults[name], name


def test_options_are_the_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    """The command's text is the call's, and what it cannot read is refused by the option's name."""
    import miaotui as mt
    from miaotui.tools import demo

    options = [
        *("--max-new-tokens", "12", "--seed", "3", "--typical-p", "0.7", "--frequency-penalty", "0.4"),
        *("--logit-bias", "300=2", "--logit-bias", "17=-1.5", "--sequence-bias", "5,9=-2", "--dry-multiplier", "0.8"),
        *("--dry-sequence-breaker", ".", "--suppress-tokens", "5,9", "--forced-decoder-ids", "8=300"),
        *("--xtc-probability", "0.5", "--sampler-order", "temperature,top_h,xtc,typical_p", "--min-length", "3"),
        *("--exponential-decay-length-penalty", "4,1.2", "--xtc-threshold", "0.05", "--top-h", "0.9"),
    ]
    assert main(["generate", "Once upon a time", *options, "--no-prompt"]) == 0
    with mt.load(demo.path()) as model:
        wanted = model.generate(
            "Once upon a time", max_new_tokens=12, seed=3, typical_p=0.7, frequency_penalty=0.4,
            logit_bias={300: 2.0, 17: -1.5}, sequence_bias=[([5, 9], -2.0)], dry_multiplier=0.8,
            dry_sequence_breakers=["."], suppress_tokens=[5, 9], forced_decoder_ids=[(8, 300)], xtc_probability=0.5,
            sampler_order=["temperature", "top_h", "xtc", "typical_p"], min_length=3, xtc_threshold=0.05,
            exponential_decay_length_penalty=(4, 1.2), top_h=0.9,
        )  # fmt: skip
    assert capsys.readouterr().out.rstrip("\n") == wanted.text.rstrip("\n")
    for option, value, said in (
        ("--logit-bias", "x", "expected token ids and a number such as 17=-2"),
        ("--logit-bias", "1,2=3", "--sequence-bias takes runs"),
        ("--forced-decoder-ids", "3", "expected a place and a token id such as 3=17"),
        ("--exponential-decay-length-penalty", "3", "expected a number of tokens and a factor such as 50,1.05"),
        ("--mirostat", "1", "--mirostat 1: expected 0 (off) or 2"),
        ("--sampler-order", "top-k,foo", "error: --sampler-order: 'foo' is no stage; expected a list of some of temp"),
        ("--sampler-order", "top_k,top_n_sigma,top_k", "--sampler-order: top_k comes twice"),
        ("--mirostat-tau", "3", "--mirostat-tau 3: only with --mirostat"),
        ("--dry-sequence-breaker", ".", "--dry-sequence-breaker .: only with --dry-multiplier"),
    ):
        try:
            code = main(["generate", "Once", option, value])
        except SystemExit as e:
            code = int(str(e.code))
        assert code == 2, option
        assert said in capsys.readouterr().err
