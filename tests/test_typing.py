"""What users' editors and type checkers see, and what the same keywords do at run time."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import miaotui
import numpy as np
import pytest
from miaotui.load_options import LOAD_DEFAULTS, LoadKwargs
from miaotui.loader.prune.plan import PrunePlan
from miaotui.runtime.generate import GenerateParams, params_from
from miaotui.runtime.parameters import DEFAULT_NEW_TOKENS, GenerateKwargs
from miaotui.runtime.sampling import SamplingParams
from miaotui.tools import demo

ROOT = Path(__file__).resolve().parent.parent

#: A user's file, and after each `#` what mypy must say of that line; of the others nothing.
USER = """
import miaotui as mt
import numpy as np

with mt.load("p", threads=np.int64(2), max_context=64, kv_cache="bf16", prune="ffn=0.75") as model:
    reveal_type(model)  # "miaotui.model.Model"
    out = model.generate("x", temperature=0.8, seed=np.uint32(3), max_new_tokens=None, eos_token_id=[1, np.int8(2)])
    reveal_type(out)  # "miaotui.runtime.generate.Generation"
    reveal_type(out.ids)  # list[int]"
    reveal_type(model.stream(np.array([1]), temperature=np.float32(1)))  # Iterator[str]"
    for token in model.tokens([1, 2], stop=["a"]):
        reveal_type(token)  # "miaotui.runtime.generate.Token"
    how: mt.GenerateKwargs = {"top_p": 0.9, "ignore_eos": True}
    model.generate("x", **how)
    params = mt.GenerateParams(max_new_tokens=3, sampling=mt.SamplingParams(seed=1))
    model.generate("x", temprature=1)  # did you mean "temperature"?
    model.stream("x", temprature=1)  # did you mean "temperature"?
    model.tokens("x", temprature=1)  # did you mean "temperature"?
    model.generate("x", temperature="hot")  # No overload variant of "generate"
    model.stream("x", temperature="hot")  # expected "float | SupportsFloat | None"
    model.stream("x", seed=1.5)  # expected "int | SupportsIndex | None"
    reveal_type(model.generate(["x", [1, 2]], n=2))  # list[miaotui.runtime.generate.Generation]"
options: mt.LoadKwargs = {"thread": 2}  # Extra key "thread"
mt.load("p", thread=2)  # did you mean "threads"?
mt.load("p", device="tpu")  # expected "Literal['cpu', 'cuda']"
mt.load("p", max_context="64")  # expected "int | SupportsIndex | None"
"""


def test_a_type_checker_completes_and_refuses(tmp_path: Path) -> None:
    """As in a user's environment: the package installed, no configuration of ours."""
    pytest.importorskip("mypy", reason="mypy is in the dev extra")
    packages = tmp_path / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages / "miaotui").symlink_to(ROOT, target_is_directory=True)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "user.py").write_text(USER)
    python = tmp_path / "venv" / "bin" / "python"
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        python,
        "--cache-dir",
        tmp_path / "cache",
    ]
    done = subprocess.run([*command, "user.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if place := re.match(r"user.py:(\d+): ", line):
            said[int(place[1])] = said.get(int(place[1]), "") + line
    wanted = {n: text.partition("  # ")[2] for n, text in enumerate(USER.splitlines(), 1) if "  # " in text}
    assert said.keys() == wanted.keys(), done.stdout + done.stderr
    for n, words in wanted.items():
        assert words in said[n]


def test_help_and_signature_name_every_keyword() -> None:
    own = inspect.signature(miaotui.load).parameters
    in_memory = {"config": None, "tensors": None}
    assert {name: p.default for name, p in own.items() if name != "path"} == in_memory | LOAD_DEFAULTS
    assert LOAD_DEFAULTS.keys() == LoadKwargs.__annotations__.keys()
    for name in (*in_memory, *LOAD_DEFAULTS):
        assert f"`{name}`" in (miaotui.load.__doc__ or "")
    for function in (miaotui.Model.generate, miaotui.Model.stream, miaotui.Model.tokens):
        parameters = inspect.signature(function).parameters
        assert list(parameters) == ["self", "prompt", *GenerateKwargs.__annotations__]
        given = {name: p.default for name, p in parameters.items() if p.default not in (None, p.empty)}
        assert given == {"max_new_tokens": DEFAULT_NEW_TOKENS}
    for name in GenerateKwargs.__annotations__:
        assert f"`{name}`" in (miaotui.Model.generate.__doc__ or "")


def test_an_unknown_keyword_is_named_with_the_nearest_that_is_known() -> None:
    with pytest.raises(miaotui.errors.InputError, match=r"option of load thread \(did you mean threads\?\); known are"):
        miaotui.load("nowhere", thread=2)
    with pytest.raises(miaotui.errors.InputError, match=r"beems, temprature \(did you mean temperature\?\); known are"):
        params_from(temprature=None, beems=3)
    with miaotui.load(demo.path(), max_context=16) as model:
        for function in (model.generate, model.stream, model.tokens):
            with pytest.raises(miaotui.errors.InputError, match="did you mean temperature"):
                function("x", temprature=1)


def test_numbers_of_numpy_are_numbers() -> None:
    given = {
        "max_new_tokens": np.int64(3), "top_k": np.uint8(4), "seed": np.int32(-5), "eos_token_id": np.uint16(6),
        "temperature": np.float32(0.5), "top_p": np.float64(0.5), "ignore_eos": np.bool_(True),  # noqa: FBT003
        "do_sample": np.bool_(False),  # noqa: FBT003 - it is what is tested
    }  # fmt: skip
    wanted = GenerateParams(3, (), (6,), True, SamplingParams(0.5, 4, 0.5, seed=-5))  # noqa: FBT003
    params = params_from(**given)
    assert params == wanted
    plain = [params.max_new_tokens, *params.eos_ids, params.ignore_eos, params.sampling.top_k, params.sampling.seed]
    assert [type(value) for value in plain] == [int, int, bool, int, int]
    assert params_from(eos_token_id=np.array([1, 2])).eos_ids == (1, 2)
    options = {
        "threads": np.int64(1),
        "max_context": np.uint8(16),
        "prefill_chunk": np.int16(4),
        "memory_limit": np.int64(2**40),
    }
    with miaotui.load(demo.path(), **options) as model, miaotui.load(demo.path(), max_context=16) as other:
        assert (model.n_context, model.threads) == (16, 1)
        assert type(model.n_context) is type(model.threads) is int
        assert np.array_equal(model.logits(np.array([1, 2], np.uint8)), other.logits([1, 2]))


def test_a_plan_of_numpys_numbers_is_written() -> None:
    plan = PrunePlan(np.array([0, 2]), ffn_ratio=np.float32(0.5), vocab=range(9), vocab_fallback=np.int64(3))
    assert plan == PrunePlan((0, 2), ffn_ratio=0.5, vocab=range(9), vocab_fallback=3)
    assert PrunePlan.from_dict(json.loads(plan.to_json())) == plan


def test_an_answer_has_256_new_tokens_unless_told_otherwise() -> None:
    with miaotui.load(demo.path(), max_context=300) as model:
        assert (params_from().max_new_tokens, params_from(max_new_tokens=None).max_new_tokens) == (256, None)
        usual = model.generate([1, 5], ignore_eos=True)
        assert (len(usual.ids), usual.finish_reason) == (256, "length")
        full = model.generate([1, 5], ignore_eos=True, max_new_tokens=None)
        assert (len(full.ids), full.finish_reason) == (299, "context")
        assert full.ids[:256] == usual.ids
