"""Prompts packed into passes: each has the logits and the ids that it has alone (../shared/faults/next.md, case 12).

huggingface/transformers#30378, ndif-team/nnsight#673, unslothai/unsloth#4078, ml-explore/mlx-lm#1116.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, random_tensors, write_checkpoint, write_safetensors
from miaotui.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miaotui.runtime.pages import Table

CONTEXT = 352
LENGTHS = (1, 5, 17, 300)
ENDS = (40, 2, 9, 40)  # ids that each draws
SIZES = {
    "vocab_size": 53, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "eos_token_id": None,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "learned positions": {"model_type": "gpt2", "vocab_size": 53, "n_positions": CONTEXT, "n_embd": 24, "n_layer": 2,
                          "n_head": 3, "n_inner": 20, "eos_token_id": None},
    "llama": {"model_type": "llama", **SIZES},
    "a window of 7": {"model_type": "mistral", "sliding_window": 7, **SIZES},
}  # fmt: skip
PROMPTS = [[int(i) for i in np.random.default_rng(n).integers(1, 53, n)] for n in LENGTHS]


@pytest.fixture(scope="module", params=MODELS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("packed")
    write_checkpoint(path, Drawn(MODELS[request.param], "F32", 5))
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> Iterator[miaotui.Model]:
    with miaotui.load(directory, threads=2, max_context=CONTEXT, cache_tokens=8 * 128, prefill_chunk=400) as model:
        yield model


@dataclass
class Row:
    """A prompt in a batch: its part of the cache, what it drew, and the logits of each draw."""

    prompt: list[int]
    left: int
    table: Table | None = None
    ids: list[int] = field(default_factory=list)
    logits: list[bytes] = field(default_factory=list)

    def next(self) -> tuple[list[int], int]:
        """What a pass is fed, and the slot of the first."""
        return (self.ids[-1:], len(self.prompt) + len(self.ids) - 1) if self.ids else (self.prompt, 0)

    def draw(self, logits: np.ndarray, token: int) -> None:
        """Take the greedy id."""
        self.logits.append(logits.tobytes())
        self.ids.append(token)
        self.left -= 1


def step(session: Any, rows: list[Row]) -> None:
    """A pass of all rows, each from where it is."""

    def together() -> None:
        parts = []
        for row in rows:
            row.table = row.table or session.admit(None)
            ids, start = row.next()
            parts.append((row.table, ids, start, 1))
        session.run_pass(parts)
        for row, logits, token in zip(rows, session.logits, session._batch.results, strict=False):
            row.draw(logits, int(token))

    session.turn(together)


def alone(model: miaotui.Model, prompt: list[int], n: int) -> tuple[list[int], list[bytes]]:
    """Ids and the logits that each was drawn from, of a prompt that has the model to itself."""
    ids = model.generate(prompt, max_new_tokens=n, ignore_eos=True).ids
    rows = model.logits(prompt + ids[:-1])[len(prompt) - 1 :]
    return ids, [row.tobytes() for row in rows]


def test_rows_of_a_batch_are_what_they_are_alone(model: miaotui.Model) -> None:
    """Three begin, one joins at step 3; they end one by one, and who has ended is fed no more."""
    fed: list[int] = []
    run = model.session.backend.run
    wanted = [alone(model, p, n) for p, n in zip(PROMPTS, ENDS, strict=True)]
    for first in range(len(PROMPTS)):
        order = [*range(first, len(PROMPTS)), *range(first)]
        rows = [Row(PROMPTS[i], ENDS[i]) for i in order]
        going, late = rows[:-1], rows[-1:]
        fed.clear()
        model.session.backend.run = lambda batch, part=None: (fed.append(batch.n_sequences), run(batch, part))  # type: ignore[method-assign]
        try:
            for n in range(1, 100):
                going += late if n == 3 else []
                late = [] if n == 3 else late
                if not going:
                    break
                step(model.session, going)
                going = [row for row in going if row.left]
        finally:
            model.session.backend.run = run  # type: ignore[method-assign]
        assert sum(fed) == sum(ENDS)  # a token for each id that is drawn, and none after
        for row, i in zip(rows, order, strict=True):
            assert (row.ids, row.logits) == wanted[i], i
            model.session.left.append(row.table)


def test_the_order_of_prompts_changes_no_bit(model: miaotui.Model) -> None:
    wanted = [model.logits(p)[-1].tobytes() for p in PROMPTS]
    for order in permutations(range(len(PROMPTS))):
        rows = model.last_logits([PROMPTS[i] for i in order])
        assert [row.tobytes() for row in rows] == [wanted[i] for i in order], order


def test_position_0_is_each_prompts_own_first_token(model: miaotui.Model) -> None:
    """A prompt after another is what it is at the front: nothing counts on from the one before it."""
    [one] = model.last_logits([[7]])
    for before in range(1, 30):
        rows = model.last_logits([[9] * before, [7], [7] * 2])
        assert rows[1].tobytes() == one.tobytes(), before


def test_numbers_that_are_none_stay_in_their_row(directory: Path, tmp_path: Path) -> None:
    """Id 0 has an embedding of NaN: whoever reads it has no logits, and no id; all others have theirs."""
    drawn = Drawn(json.loads((directory / "config.json").read_text()), "F32", 5)
    tensors = random_tensors(drawn.config, drawn.seed)
    tied = {name: x for name, x in tensors.items() if "embed_tokens" in name or "wte" in name}
    head = {} if "lm_head.weight" in tensors else {"lm_head.weight": next(iter(tied.values())).copy()}
    for x in tied.values():
        x[0] = np.nan
    (tmp_path / "config.json").write_text(json.dumps(drawn.config | {"tie_word_embeddings": False}))
    write_safetensors(tmp_path / "model.safetensors", tensors | head)
    with miaotui.load(tmp_path, max_context=CONTEXT, cache_tokens=8 * 128, prefill_chunk=400) as model:
        texts = [PROMPTS[1], [4, 0, 6], PROMPTS[2], [0]]
        wanted = [alone(model, text, 4) if 0 not in text else None for text in texts]
        rows = [Row(text, 4) for text in texts]
        step(model.session, rows)
        assert [row.ids[0] == -1 for row in rows] == [False, True, False, True]
        going = [row for row in rows if row.ids[0] >= 0]
        while going[0].left:
            step(model.session, going)
        for row, right in zip(rows, wanted, strict=True):
            if right is not None:
                assert (row.ids, row.logits) == right
            model.session.left.append(row.table)
        last = model.last_logits(texts)
        assert np.isnan(last).all(1).tolist() == [False, True, False, True]


def test_a_row_over_the_context_is_refused_by_its_number(model: miaotui.Model) -> None:
    ran: list[int] = []
    run = model.session.backend.run
    model.session.backend.run = lambda *a: (ran.append(1), run(*a))  # type: ignore[method-assign]
    try:
        with pytest.raises(InputError, match=f"sequence 2: {CONTEXT + 1} tokens, 1 more than the context of {CONTEXT}"):
            model.last_logits([PROMPTS[0], PROMPTS[1], [3] * (CONTEXT + 1), PROMPTS[2]])
    finally:
        model.session.backend.run = run  # type: ignore[method-assign]
    assert ran == []
