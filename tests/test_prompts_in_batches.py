"""Prompts of all lengths in one batch, which end and join at different steps: each has the bits that it has alone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint, write_safetensors
from miaotui.errors import InputError
from miaotui.runtime.kvcache import PAGE
from test_shared_passes import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

N_VOCAB, CONTEXT, POISON, POSITION = 53, 3 * PAGE, 7, 250
SIZES = {"vocab_size": N_VOCAB, "max_position_embeddings": CONTEXT, "tie_word_embeddings": False}
LLAMA = SIZES | {
    "model_type": "llama", "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
MODELS = {
    "gpt2": {"model_type": "gpt2", "vocab_size": N_VOCAB, "n_positions": CONTEXT, "n_embd": 24, "n_layer": 2,
             "n_head": 3, "n_inner": 20},
    "llama": LLAMA,
    "window of 7": LLAMA | {"model_type": "mistral", "sliding_window": 7},
}  # fmt: skip
#: Tokens of each prompt, and of its answer.
LENGTHS, ENDS = (1, 5, 17, 300), (40, 2, 9, 40)


def ids_of(seed: int, n: int) -> list[int]:
    """Ids, none of them POISON."""
    ids = np.random.default_rng(seed).integers(0, N_VOCAB - 1, n)
    return [int(i + (i >= POISON)) for i in ids]


PROMPTS = [ids_of(i, n) for i, n in enumerate(LENGTHS)]


@dataclass
class Asked:
    """A prompt, how many ids are asked for, what came: ids, and every row of logits that one was drawn from."""

    prompt: list[int]
    n: int
    ids: list[int] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)

    def how(self) -> dict[str, Any]:
        return {"max_new_tokens": self.n, "ignore_eos": True, "logits_processor": self.seen}

    def seen(self, ids: list[int], row: np.ndarray) -> None:
        assert ids[: len(self.prompt)] == self.prompt
        self.rows.append(row.tobytes())


@pytest.fixture(scope="module", params=MODELS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_checkpoint(path, Drawn(MODELS[request.param], "F32", 5))
    return path


@pytest.fixture(scope="module", params=[1, 3])
def model(request: pytest.FixtureRequest, directory: Path) -> Iterator[miaotui.Model]:
    with miaotui.load(directory, threads=request.param, cache_tokens=12 * PAGE, prefill_chunk=64) as model:
        yield model


@pytest.fixture(scope="module")
def wanted(directory: Path) -> list[Asked]:
    """What each gets alone, in a model that has seen nothing else."""
    got = []
    for prompt, n in zip(PROMPTS, ENDS, strict=True):
        with miaotui.load(directory, threads=1, prefill_chunk=CONTEXT) as lone:
            asked = Asked(prompt, n)
            asked.ids = lone.generate(prompt, **asked.how()).ids
            assert asked.rows[0] == lone.logits(prompt)[-1].tobytes()
            assert len(asked.ids) == n
        got.append(asked)
    return got


def same(got: list[Asked], wanted: list[Asked], order: tuple[int, ...]) -> None:
    for asked, i in zip(got, order, strict=True):
        assert asked.ids == wanted[i].ids
        assert asked.rows == wanted[i].rows


def test_whatever_joins_and_ends_each_has_its_bits(
    model: miaotui.Model, wanted: list[Asked], request: pytest.FixtureRequest
) -> None:
    """In any order; the last joins after three passes; who has ended is not fed again.

    By one thread and by three every order is seen: a third of them by each model.
    """
    drawn = request.node.callspec.params
    third = (list(MODELS).index(drawn["directory"]) + drawn["model"]) % 3
    for order in list(permutations(range(4)))[third::3]:
        model.session.turn(model.session.collect)
        model.session.kept.clear()  # none finds its beginning there
        got = [Asked(PROMPTS[i], ENDS[i]) for i in order]

        async def answer(asked: Asked) -> None:
            asked.ids = (await model.agenerate(asked.prompt, **asked.how())).ids

        async def late(asked: Asked, sizes: list[int]) -> None:
            while len(sizes) < 3:  # noqa: ASYNC110 - another thread counts them
                await asyncio.sleep(0)
            await answer(asked)

        async def every(got: list[Asked], sizes: list[int]) -> None:
            await asyncio.gather(*map(answer, got[:3]), late(got[3], sizes))

        with counted(model) as sizes:
            asyncio.run(every(got, sizes))
        same(got, wanted, order)
        assert sum(sizes) == sum(LENGTHS) + sum(ENDS) - len(ENDS), "an id was fed twice, or a text that had ended"


def test_a_list_whose_answers_end_at_their_own_times(model: miaotui.Model, wanted: list[Asked]) -> None:
    """By an end-of-sequence id: that of each prompt's second, ninth and fortieth new id."""
    stops = [wanted[i].ids[n - 1] for i, n in enumerate(ENDS)]
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)):
        got = model.generate([PROMPTS[i] for i in order], max_new_tokens=40, eos_token_id=stops)
        for out, i in zip(got, order, strict=True):
            end = next(at for at, token in enumerate(wanted[i].ids, 1) if token in stops)
            assert out.ids == wanted[i].ids[:end]
            assert out.finish_reason == "eos"


def poisoned(directory: Path, tmp_path: Path) -> miaotui.Model:
    """A model in which one id, or (of learned positions) one position, is no number."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    learned = config["model_type"] == "gpt2"  # whose head is its embedding: one row of it would be in all logits
    name, at = ("transformer.wpe.weight", POSITION) if learned else ("model.embed_tokens.weight", POISON)
    tensors = write_checkpoint(tmp_path, Drawn(config, "F32", 5))
    tensors[name][at] = np.nan
    write_safetensors(tmp_path / "model.safetensors", tensors)
    return miaotui.load(tmp_path, threads=2, cache_tokens=12 * PAGE, prefill_chunk=64)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_row_that_is_no_number_ends_alone(directory: Path, tmp_path: Path) -> None:
    prompts = [*PROMPTS[:3], [*PROMPTS[3][:298], POISON, 1]]
    never = {"bad_words_ids": [[POISON]]}  # or an answer may draw it

    async def every(model: miaotui.Model) -> list[Any]:
        asked = (model.agenerate(p, max_new_tokens=n, ignore_eos=True, **never)
                 for p, n in zip(prompts, ENDS, strict=True))  # fmt: skip
        return await asyncio.gather(*asked, return_exceptions=True)

    with miaotui.load(directory, threads=1) as lone:
        alone = [lone.generate(p, max_new_tokens=n, ignore_eos=True, **never).ids
                 for p, n in zip(prompts[:3], ENDS, strict=False)]  # fmt: skip
    with poisoned(directory, tmp_path) as model:
        *others, refused = asyncio.run(every(model))
        assert isinstance(refused, InputError)
        assert "not numbers" in str(refused)
        assert [out.ids for out in others] == alone
        with pytest.raises(InputError, match="not numbers"):
            model.generate(prompts, max_new_tokens=2)
        assert model.generate(prompts[1], max_new_tokens=2, ignore_eos=True, **never).ids == alone[1]


def test_a_row_over_the_context_is_named_before_any_is_fed(model: miaotui.Model) -> None:
    long = ids_of(9, CONTEXT + 1)
    for prompts in ([long, *PROMPTS], [*PROMPTS[:2], long, *PROMPTS[2:]], [*PROMPTS, long]):
        n = prompts.index(long)
        said = rf"{CONTEXT + 1} tokens, 1 more than the context of {CONTEXT}.*\(prompt {n} of the list"
        with counted(model) as sizes, pytest.raises(InputError, match=said):
            model.generate(prompts, max_new_tokens=2)
        assert sizes == []
        with counted(model) as sizes, pytest.raises(InputError, match=said):
            asyncio.run(model.agenerate(prompts, max_new_tokens=2))
        assert sizes == []
