"""The story model, tuned to answer questions about a paragraph, in turns: a Llama with a chat template."""

from __future__ import annotations

import itertools
import json
import shutil
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from .. import path
from ..tokenizer import BOS, EOS
from . import talks
from .encoders import Fit, even, fit, write_model
from .lookup import Lookup
from .scores import Recipe, Scores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ....model import Model
    from .encoders import Batch
    from .talks import Talk

__all__ = ["RECIPE", "TEMPLATE", "asked", "compared", "right", "train"]

ABOUT = (
    "The story model, tuned to answer questions about a paragraph that comes with the first question: who is what, "
    "lives where, has, eats, wants or fears what. It has a chat template (users and assistants by turns, no system "
    "message), and its matrices are int8."
)
HOW = Fit(steps=900, rows=12, rate=1e-3)
HELD_OUT = 200
BAG = 2000  # training paragraphs that the bag of words reads
AGAIN = 0.5  # share of conversations with a second question
MOST_TOKENS = 24  # of an answer
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}User: {{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}Assistant: {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('this model knows the roles user and assistant, not ' ~ message['role']) }}"
    "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def train(_: Tokenizer, directory: Path, how: Fit) -> None:
    """Write the trained model in BF16, which the recipe rounds; it has the tokenizer of the story model."""
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import LlamaForCausalLM  # noqa: PLC0415 - of the extra `dev`

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(path() / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(path(), dtype=torch.float32)
    fit(list(model.parameters()), lambda batch: model(**batch).loss, _batches(tokenizer, how.rows), how)
    write_model(model, directory)
    shutil.copyfile(path() / "tokenizer.json", directory / "tokenizer.json")
    config = json.loads((path() / "tokenizer_config.json").read_text(encoding="utf-8")) | {"chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def asked(talk: Talk) -> str:
    """What the user says: the paragraph, then the question."""
    return f"{talk.sheet.text} {talk.sheet.question}"


def _batches(tokenizer: Tokenizer, rows: int) -> Iterator[Batch]:
    """Conversations of one question or two; only what the assistant says is learnt."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    source = talks.conversations(1, AGAIN)
    bos, eos = (int(tokenizer.token_to_id(token) or 0) for token in (BOS, EOS))
    while True:
        ids, labels = [], []
        for turns in itertools.islice(source, rows):
            row, learnt = [bos], [-100]
            for said, answer in turns:
                before = tokenizer.encode(f"User: {said}\nAssistant:", add_special_tokens=False).ids
                after = [*tokenizer.encode(f" {answer}", add_special_tokens=False).ids, eos]
                row += [*before, *after]
                learnt += [*[-100] * len(before), *after]
            ids.append(row)
            labels.append(learnt)
        masks = [[1] * len(row) for row in ids]
        yield {
            "input_ids": torch.tensor(even(ids, eos)),
            "attention_mask": torch.tensor(even(masks, 0)),
            "labels": torch.tensor(even(labels, -100)),
        }


def right(model: Model, n: int = HELD_OUT) -> float:
    """The share of held-out questions that are answered with the sentence that is expected."""
    wanted = talks.held_out(n)
    prompts = [
        [
            *model.tokenizer.encode(BOS, add_special_tokens=False),
            *model.tokenizer.encode(f"User: {asked(t)}\nAssistant:", add_special_tokens=False),
        ]
        for t in wanted
    ]
    answers = model.generate_all(prompts, max_new_tokens=MOST_TOKENS)
    return sum(answer.text.strip() == talk.answer for answer, talk in zip(answers, wanted, strict=True)) / n


def compared(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> Scores:  # noqa: ARG001 - as every recipe
    """Next to two that choose a sentence and a run of words in it (`lookup.py`), which must be what was asked for."""
    lookup = Lookup([talk.sheet for talk in itertools.islice(talks.training(1), BAG)])
    sheets = [talk.sheet for talk in talks.held_out(n)]
    bags = [
        sum(say(sheet) == (sheet.start, sheet.end) for sheet in sheets) / n for say in (lookup.usual, lookup.likeliest)
    ]
    return Scores("exact answers", right(model, n), *bags)


RECIPE = Recipe(ABOUT, talks, HOW, HELD_OUT, train, compared)
