"""Make a demo model for a task: train it, store it, score what was stored, and write its card."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from ....model import load
from ...export import new_directory
from . import answers, chat, dates, encoder, entities, every, sentiment
from .wordpiece import train_wordpiece

if TYPE_CHECKING:
    from collections.abc import Callable

    from .scores import Scores

__all__ = ["RECIPES", "make", "scores", "write_card"]

_CARD = """# {name}

{about}

## Held-out scores

{table}
Of the stored model, by our runtime, on {n} texts that are held out as said below. The baselines read the first texts of
the same training. The recipe was settled with these scores in view, so other texts may fare a little worse.

## What it was trained on

{corpus}

All of it is made by a grammar of our own: there is nothing in it to license, nobody in it to offend, and the model
knows nothing else.

## Make it again

```
pip install -e '.[dev]'        # torch and transformers
python -m miaotui.tools.demo.train {name}
```
"""


RECIPES = {
    "sentiment": sentiment.RECIPE,
    "entities": entities.RECIPE,
    "answers": answers.RECIPE,
    "encoder": encoder.RECIPE,
    "dates": dates.RECIPE,
    "chat": chat.RECIPE,
}


#: How the matrices of a model are rounded that does not ship in BF16.
QUANTIZED = {"chat": "int8"}


def scores(name: str, directory: Path) -> Scores:
    """Of a stored model."""
    with load(directory) as model:
        return RECIPES[name].compared(model, Tokenizer.from_file(str(directory / "tokenizer.json")))


def make(name: str, out: Path, steps: int | None, quantize: Callable[[Path, Path, str], object]) -> str:
    """Write a model and its card; the table of its scores. `steps`: batches, if not as many as the shipped one had.

    `quantize`: what rounds the matrices of a directory, for models that ship rounded (`QUANTIZED`).
    """
    of = RECIPES[name]
    how = of.how if steps is None else replace(of.how, steps=steps)
    with new_directory(out) as made, TemporaryDirectory() as scratch:
        trained, rounded = Path(scratch) / "trained", Path(scratch) / "rounded"
        trained.mkdir()
        of.train(train_wordpiece(every.texts()), trained, how)
        if name in QUANTIZED:
            quantize(trained, rounded, QUANTIZED[name])
        shutil.copytree(rounded if name in QUANTIZED else trained, made, dirs_exist_ok=True)
        return write_card(name, made, scores(name, made))


def write_card(name: str, directory: Path, got: Scores) -> str:
    """Write README.md of a stored model; its table of scores."""
    of, table = RECIPES[name], got.table()
    corpus = (of.corpus.__doc__ or "").strip()
    card = _CARD.format(name=name, about=of.about, table=table, n=of.held_out, corpus=corpus)
    (directory / "README.md").write_text(card, encoding="utf-8")
    return table
