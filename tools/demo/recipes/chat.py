"""The story model, tuned to answer questions about a paragraph, in turns: a Llama with a chat template."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from .. import path
from ..corpus import TRAINING_SEED, stories
from ..tokenizer import BOS, EOS
from . import talks
from .encoders import Fit, even, fit, write_model
from .lookup import Lookup
from .scores import Recipe, Scores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

    from ....model import Model
    from .encoders import Batch
    from .talks import Talk

__all__ = ["RECIPE", "TEMPLATE", "asked", "compared", "learnt", "right", "train"]

ABOUT = (
    "The story model, tuned to answer questions about a paragraph that comes with the first question: who is what, "
    "lives where, has, eats, wants or fears what, in which color. "
    "What is asked of *who* is often answered wrongly. It has a chat template (users and assistants by turns, no "
    "system message), and its matrices are int8."
)
HOW = Fit(steps=2133, rows=8, rate=1.5e-3, decay=800)
HELD_OUT = 200
BAG = 2000  # training paragraphs that the bag of words reads
UNLEARNT = -100
STORY = 16  # conversations for each story
SORTED = 8  # batches that are cut from rows in the order of their length
MOST_TOKENS = 24  # of an answer
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}User: {{ message['content'] | trim }}\n"
    "{% elif message['role'] == 'assistant' %}Assistant: {{ message['content'] | trim }}{{ eos_token }}"
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

    def loss_of(batch: Batch) -> torch.Tensor:
        """Of the tokens that are learnt; the head computes no others. In BF16, which takes two thirds of the time."""
        wanted = batch["labels"][:, 1:]
        kept = wanted != UNLEARNT
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[:, :-1][kept])
        return torch.nn.functional.cross_entropy(logits.float(), wanted[kept])

    fit(list(model.parameters()), loss_of, _batches(tokenizer, how.rows), how)
    write_model(model, directory)
    shutil.copyfile(path() / "tokenizer.json", directory / "tokenizer.json")
    config = json.loads((path() / "tokenizer_config.json").read_text(encoding="utf-8")) | {"chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def asked(talk: Talk) -> str:
    """What the user says: the paragraph, then the question."""
    return f"{talk.sheet.text} {talk.sheet.question}"


def _batches(tokenizer: Tokenizer, rows: int) -> Iterator[Batch]:
    """Rows of about the same length; nothing after a row's end is learnt, and what comes before it cannot see it."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    rng = random.Random(1)  # noqa: S311 - an order, not secrets
    source, eos = _rows(tokenizer), int(tokenizer.token_to_id(EOS) or 0)
    while True:
        some = sorted(itertools.islice(source, rows * SORTED), key=lambda row: len(row[0]))
        batches = [some[i : i + rows] for i in range(0, len(some), rows)]
        rng.shuffle(batches)
        for batch in batches:
            ids, labels = zip(*batch, strict=True)
            yield {
                "input_ids": torch.tensor(even(list(ids), eos)),
                "labels": torch.tensor(even(list(labels), UNLEARNT)),
            }


def _rows(tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels: conversations, and now and then a story, all of which is learnt."""
    eos = int(tokenizer.token_to_id(EOS) or 0)
    told = stories(TRAINING_SEED)
    for n, turns in enumerate(talks.conversations(1)):
        yield learnt(tokenizer, turns)
        if n % STORY == 0:
            story = [*tokenizer.encode(next(told)).ids, eos]
            yield story, story


def learnt(tokenizer: Tokenizer, turns: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Ids of a conversation, as the template renders it, and labels: only what the assistant says is learnt."""
    bos, eos = (int(tokenizer.token_to_id(token) or 0) for token in (BOS, EOS))
    ids, labels = [bos], [UNLEARNT]
    for said, answer in turns:
        before = tokenizer.encode(f"User: {said}\nAssistant:", add_special_tokens=False).ids
        after = [*tokenizer.encode(f" {answer}", add_special_tokens=False).ids, eos]
        ids += [*before, *after]
        labels += [*[UNLEARNT] * len(before), *after]
    return ids, labels


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
