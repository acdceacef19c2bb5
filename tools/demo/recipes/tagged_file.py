"""The architecture of the entities model, trained by its recipe on a file of words and tags.

Two things differ: the tokenizer is trained on the file's texts, and there is dropout, as these texts come again.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from ....errors import InputError
from ...evaluate.examples import Tagged
from ...evaluate.readers import read
from ...export import new_directory
from . import entities, messages
from .pattern import Span, with_strange_words
from .wordpiece import LETTERS, train_wordpiece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    #: A text and its names.
    Text = tuple[str, list[Span]]

__all__ = ["make"]

DROPOUT = 0.1
_CARD = """# entities, trained on {file}

Finds {kinds}: a BIO tag for each token, of which a word's first counts. The architecture and the recipe are those of
miaotui's demo model `entities`.

Trained on the {n} texts of {file} (SHA-256 {sha256}), {steps} batches of {rows}:

```
python -m miaotui.tools.demo.train entities OUT --data {file}{told}
```

How well it does on a file of other texts:

```
miaotui evaluate token-classification --data FILE --model OUT
```
"""


def make(data: Path, out: Path, steps: int | None = None) -> None:
    """Write a model that is trained on a file as `miaotui evaluate token-classification` reads it, and its card.

    `steps`: batches, if not as many as the demo model had. Errors: `InputError`, with the file and the line.
    """
    held = read(data, "token-classification")
    texts = [_text(example) for example in held.examples if isinstance(example, Tagged)]
    kinds = sorted({span.slot for _, spans in texts for span in spans})
    if not kinds:
        msg = f"--data {data}: no word of it has another tag than O, so there is nothing to learn"
        raise InputError(msg)
    labels = ("O", *(f"{bio}-{kind}" for kind in kinds for bio in "BI"))
    how = replace(entities.HOW, steps=steps or entities.HOW.steps, dropout=DROPOUT)
    sys.stdout.write(f"{data}: {len(texts)} texts, {sum(len(spans) for _, spans in texts)} names\n")
    with new_directory(out) as made:
        letters = {*LETTERS, *(letter for text, _ in texts for letter in text if not letter.isspace())}
        tokenizer = train_wordpiece([iter([text for text, _ in texts])], sorted(letters))
        entities.train_on(_again_and_again(texts), labels, tokenizer, made, how)
        told = {"told": f" --steps {steps}" if steps else "", "steps": how.steps, "rows": how.rows}
        card = _CARD.format(file=data.name, kinds=", ".join(kinds), n=len(texts), sha256=held.sha256, **told)
        (made / "README.md").write_text(card, encoding="utf-8")


def _text(example: Tagged) -> Text:
    places = example.offsets()
    entities = sorted(example.entities, key=lambda entity: entity[1])
    return example.text, [Span(kind, places[i][0], places[j][1]) for kind, i, j in entities]


def _again_and_again(texts: Sequence[Text]) -> Iterator[Text]:
    """All of them, each time in another order, with other strange words in the share that the recipe says."""
    rng = random.Random(0)  # noqa: S311 - an order, not secrets
    while True:
        for text, spans in rng.sample(texts, len(texts)):
            strange = rng.random() < messages.STRANGE
            varied = {"added": messages.ADDED, "replaced": messages.REPLACED} if strange else {}
            yield with_strange_words(text, spans, rng, **varied)
