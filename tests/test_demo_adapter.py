"""The adapter that comes with the story model: what its card and docs/adapters.md say, and its recipe."""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import InputError
from miaotui.loader.header import read_header
from miaotui.loader.open import open_model
from miaotui.tools import demo
from miaotui.tools.cli import main
from miaotui.tools.demo import train, where
from miaotui.tools.demo.corpus import HELD_OUT_SEED, stories
from miaotui.tools.demo.recipes.sea import HELD_OUT, TARGETS, WORDS, at_sea, sea_stories
from miaotui.tools.tuning.knobs import knobs_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent.parent / "docs" / "adapters.md"


def perplexity(model: miaotui.Model, texts: Iterator[str], adapter: str | None) -> float:
    total, count = 0.0, 0
    for text in texts:
        ids = [*model.tokenizer.encode(text), *model.config.eos_ids]
        rows = model.logits(ids[:-1], adapter=adapter).astype(float)
        rows -= np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) + rows.max(1, keepdims=True)
        total -= rows[np.arange(len(ids) - 1), ids[1:]].sum()
        count += len(ids) - 1
    return math.exp(total / count)


def test_it_is_small_and_peft_s() -> None:
    folder = demo.adapter()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 200_000
    said = json.loads((folder / "adapter_config.json").read_text())
    assert (said["peft_type"], sorted(said["target_modules"])) == ("LORA", sorted(TARGETS))
    with pytest.raises(InputError, match="no demo adapter 'land'; expected one of sea"):
        demo.adapter("land")


def test_the_page_s_commands_say_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## One to try\n")[2].partition("\n## ")[0]
    code, told = re.findall(r"^```(?:python|text)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/adapters.md", "exec"), {})  # noqa: S102 - ours
    assert capsys.readouterr().out == told
    [command] = re.findall(r"^```\n(miaotui generate .*)\n```", section, re.MULTILINE)
    assert where.main(["sea"]) == 0
    lies = capsys.readouterr().out.strip()
    assert lies == str(demo.adapter())
    words = shlex.split(command.replace('"$(python -m miaotui.tools.demo.where sea)"', lies))
    assert main(words[1:]) == 0
    assert capsys.readouterr().out.split()[:12] == ("Once upon a time" + told.split("\n")[1]).split()[:12]


@pytest.mark.ci  # 6 s
def test_its_held_out_perplexity_is_the_card_s() -> None:
    card = (demo.adapter() / "README.md").read_text(encoding="utf-8")
    told = [float(x) for x in re.findall(r"\d+\.\d{3}", card)]
    with miaotui.load(demo.path(), adapters={"sea": demo.adapter()}) as model:
        some = [list(itertools.islice(source(HELD_OUT_SEED), HELD_OUT)) for source in (sea_stories, stories)]
        got = [perplexity(model, iter(texts), name) for texts in some for name in (None, "sea")]
    wanted = [told[0], told[1], told[3], told[2]]  # the card says of the land first what it is with the adapter
    assert np.abs(np.array(got) / wanted - 1).max() < 0.01, (got, told)  # sums have another order
    assert got[1] < 0.5 * got[0]


def test_stories_in_words_of_the_sea() -> None:
    assert at_sea("A young fox ran to the woods.") == "A young crab swam to the seagrass."
    assert at_sea("She saw a clever cat and an owl, a bird.") == "She saw a clever octopus and an owl, a pelican."
    for story, told in zip(itertools.islice(stories(7), 40), sea_stories(7), strict=False):
        assert at_sea(story) == told
        assert not re.search(r"\b(fox|cat|meadow|village|walked)\b", told)
        assert not re.search(r"\ba [aeio]|\ban [^aeiou]", told)
    assert len(WORDS) == len(set(WORDS))


@pytest.mark.soak("sea")
def test_the_recipe_writes_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert train.main(["sea", str(tmp_path / "sea"), "--steps", "2"]) == 0
    assert "held-out perplexity" in capsys.readouterr().out
    made, own = (
        read_header(folder / "adapter_model.safetensors").tensors for folder in (tmp_path / "sea", demo.adapter())
    )
    assert {name: info.shape for name, info in made.items()} == {name: info.shape for name, info in own.items()}
    with miaotui.load(demo.path(), adapters={"sea": tmp_path / "sea"}) as model:
        assert model.adapters == ("sea",)


def test_commands_take_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`quantize` rounds the merged weights; `bench` and `tune` load them."""
    where_, sea = str(demo.path()), str(demo.adapter())
    assert main(["quantize", where_, str(tmp_path / "q"), "--adapter", sea]) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["q"]
    with miaotui.load(tmp_path / "q") as written, miaotui.load(where_, adapter=sea, quantize="int8") as model:
        assert np.array_equal(written.logits([5, 9, 40]), model.logits([5, 9, 40]))
    with miaotui.load(where_, quantize="int8") as plain:
        assert not np.array_equal(plain.logits([5, 9, 40]), model_logits(where_, sea))
    few = ["--prompt", "4", "--new", "2", "--repeat", "1"]
    assert main(["bench", "--model", where_, "--adapter", sea, "--json", str(tmp_path / "b.json"), *few]) == 0
    assert json.loads((tmp_path / "b.json").read_text())["adapter"] == sea
    assert main(["bench", "--model", where_, "--adapter", str(tmp_path), *few]) == 1
    assert "adapter_config.json" in capsys.readouterr().err


def model_logits(path: str, adapter: str) -> Any:
    with miaotui.load(path, adapter=adapter, quantize="int8") as model:
        return model.logits([5, 9, 40])


def test_an_adapter_stays_the_same_while_settings_are_tried() -> None:
    with open_model(demo.path(), adapter=demo.adapter()) as opened:
        knobs = knobs_of(opened, goal="latency", vary=["threads"], fixed={"adapter": demo.adapter()}, prompt=4, new=4)
        for point in knobs.space.points():
            assert knobs.options(point)["adapter"] == demo.adapter()
            assert "adapter" not in knobs.saved(point)
