"""What a new family takes: a module of its own and its name in one list; an unknown one is told how."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, random_tensors, small, write_checkpoint, write_safetensors
from miaotui.errors import ConfigError
from miaotui.loader.config import parse_config
from miaotui.loader.families import FAMILIES, KINDS, OTHERS

ROOT = Path(__file__).resolve().parents[1]
#: `loader/families/toy.py`: Llama with names of its own, whose window is a key of its own.
TOY = '''"""A toy: Llama, its tensors under other names, with a window that is called `span`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .base import Resolved
from .llama import KEYS, LAYER, LLAMA, llama_like
from .values import Key, optional, size

__all__ = ["TOY"]


def _resolve(v: dict[str, Any], where: str) -> Resolved:
    return llama_like(v, where, "toy", windows=[v["span"]] * v["num_hidden_layers"])


TOY = replace(
    LLAMA,
    name="toy",
    keys={**KEYS, "span": Key(None, optional(size()))},
    resolve=_resolve,
    layer={role: replace(part, name=part.name.replace("self_attn", "look")) for role, part in LAYER.items()},
    prefixes=("toy.",),
)
'''
#: The other file: what is added to `loader/families/__init__.py`.
LISTED = "_DECODERS = {\n"
RUN = """
import json, sys
import numpy as np
import miaotui
from miaotui.loader.prune.plan import PrunePlan
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.prune import prune

path, out = sys.argv[1:]
with miaotui.load(path) as model:
    assert model.config.family == "toy"
    ids = list(range(4, 10))
    np.save(out + ".npy", model.logits(ids))
    new = model.generate(ids, max_new_tokens=4, do_sample=False).ids
prune(path, out + "-cut", PrunePlan(layers=(1,)))
quantize(path, out + "-int8", "int8")
rest = [miaotui.load(out + end).logits(ids).shape for end in ("-cut", "-int8")]
print(json.dumps({"new": new, "rest": rest, "file": miaotui.__file__}))
"""


def test_a_family_is_a_module_and_a_name_in_a_list(tmp_path: Path) -> None:
    """In a copy of the package two files are touched; the toy then loads, answers, is pruned and quantised.

    Its logits have the bits of the Mistral that it is.
    """
    package = tmp_path / "copy" / "miaotui"
    leave = shutil.ignore_patterns("tests", "build", "docs", ".*", "__pycache__", "node_modules")
    shutil.copytree(ROOT, package, ignore=leave, symlinks=True)
    before = {path: path.read_bytes() for path in package.rglob("*.py")}
    families = package / "loader" / "families"
    (families / "toy.py").write_text(TOY, encoding="utf-8")
    listing = (families / "__init__.py").read_text(encoding="utf-8")
    assert listing.count(LISTED) == 1
    listing = listing.replace(LISTED, f'{LISTED}    "toy": ("toy",),\n')
    (families / "__init__.py").write_text(listing, encoding="utf-8")
    touched = [path for path in package.rglob("*.py") if before.get(path) != path.read_bytes()]
    assert len(touched) == 2

    own = {"hidden_size": 12, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 7}
    twin = Drawn(small("mistral").config | own | {"sliding_window": 3, "eos_token_id": None, "vocab_size": 11})
    write_checkpoint(tmp_path / "twin", twin)
    with miaotui.load(tmp_path / "twin") as model:
        wanted = model.logits(list(range(4, 10)))
        new = model.generate(list(range(4, 10)), max_new_tokens=4, do_sample=False).ids
    raw = {k: v for k, v in twin.config.items() if k != "sliding_window"} | {"model_type": "toy", "span": 3}
    tensors = random_tensors(twin.config, twin.seed)
    named = {name.replace("model.", "toy.").replace("self_attn", "look"): x for name, x in tensors.items()}
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.json").write_text(json.dumps(raw))
    write_safetensors(tmp_path / "toy" / "model.safetensors", named)

    with pytest.raises(ConfigError, match="model_type is 'toy', a family that miaotui does not read"):
        miaotui.load(tmp_path / "toy")
    words = [sys.executable, "-c", RUN, str(tmp_path / "toy"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert Path(told["file"]).parent == package
    assert (told["new"], told["rest"]) == (new, [[6, 11], [6, 11]])
    assert np.load(tmp_path / "out.npy").tobytes() == wanted.tobytes()


def test_contributing_says_which_two_files() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    passage = text.partition("## Add a family")[2].partition("\n## ")[0]
    assert "`loader/families/<name>.py`" in passage
    assert "`loader/families/__init__.py`" in passage
    assert "two files" in passage


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"model_type": "persimmon"}, "model_type is 'persimmon', a family that miaotui does not read. It reads"),
        ({"model_type": "gpt-neox"}, "'gpt-neox' (did you mean gpt_neox?)"),
        ({"model_type": "Qwen2"}, "(did you mean qwen2?)"),
        ({"model_type": "llava", "vision_config": {}}, "'llava', with vision_config: a model of more than text"),
        ({"model_type": None}, "model_type is None; expected the name of a family"),
        ({}, "model_type is missing; expected the name of a family"),
        *(({"model_type": name}, f"{name!r}, {what}") for name, what in OTHERS.items()),
    ],
    ids=str,
)
def test_an_unknown_family_is_told_what_is_read_and_how_to_add_one(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(raw, "config.json")
    message = str(error.value)
    assert says in message
    for kind, families in KINDS.items():  # each name once, in its own kind's list
        listed = message.partition(f"{kind}: ")[2].partition(";")[0].partition(". ")[0].split(", ")
        assert set(families) <= set(listed)
    assert not set(OTHERS) & set(FAMILIES)
    if isinstance(raw.get("model_type"), str) and raw["model_type"] not in OTHERS:
        assert message.endswith('To add a family, see "Add a family" in CONTRIBUTING.md')
