"""The story model: a small Llama, trained on stories without end (`python -m miaotui.tools.demo.train story`)."""

from __future__ import annotations

import itertools
import sys
import time
from typing import TYPE_CHECKING

from .corpus import HELD_OUT_SEED, TRAINING_SEED, stories
from .tokenizer import BOS, EOS, N_VOCAB, train_tokenizer, write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

N_CONTEXT = 512  # tokens; a story has about 170
ROW = 256  # tokens that a row of a training batch holds
ROWS = 16
REHEARSAL = 3, 64, 1000  # rows of a batch, length of what they repeat, steps
PEAK_RATE = 3e-3
WARM_UP = 100  # steps
HELD_OUT = 200  # stories

__all__ = ["make"]


def make(out: Path, steps: int = 3000, layers: int = 6, width: int = 128) -> None:
    """Train, write the checkpoint directory, say the held-out loss. `width`: a multiple of 8."""
    tokenizer = train_tokenizer()
    write_tokenizer(tokenizer, out, N_CONTEXT)
    model = train(tokenizer, steps, layers, width)
    write_model(model, out)
    sys.stdout.write(f"held-out loss {held_out_loss(model, tokenizer):.4f} nats per token\n")


def train(tokenizer: Tokenizer, steps: int, layers: int = 6, width: int = 128) -> LlamaForCausalLM:
    """Train by AdamW with a linear warm-up and a cosine to nothing (Loshchilov and Hutter 2017, 2019)."""
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import LlamaForCausalLM, get_cosine_schedule_with_warmup  # noqa: PLC0415 - of the extra `dev`

    torch.manual_seed(0)
    model = LlamaForCausalLM(_config(tokenizer, layers, width))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, WARM_UP, steps)
    began = time.perf_counter()
    for step, ids in enumerate(itertools.islice(_batches(tokenizer, TRAINING_SEED), steps), 1):
        _rehearse(ids, step)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            sys.stdout.write(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s\n")
            sys.stdout.flush()
    return model.to(torch.bfloat16)


def _config(tokenizer: Tokenizer, layers: int, width: int) -> LlamaConfig:
    from transformers import LlamaConfig  # noqa: PLC0415 - of the extra `dev`

    return LlamaConfig(
        vocab_size=N_VOCAB,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=N_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
    )


def _batches(tokenizer: Tokenizer, seed: int) -> Iterator[torch.Tensor]:
    """Token ids [ROWS, ROW]. A row begins with a story and goes on with others until it is full."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    eos = int(tokenizer.token_to_id(EOS) or 0)
    source = stories(seed)
    while True:
        rows = []
        for _row in range(ROWS):
            row: list[int] = []
            while len(row) < ROW:
                row += [*tokenizer.encode(next(source)).ids, eos]
            rows.append(row[:ROW])
        yield torch.tensor(rows)


def _rehearse(ids: torch.Tensor, step: int) -> None:
    """Early on, some rows say random tokens again and again: attention learns to look back for what followed last time.

    These are the induction heads of Olsson et al. 2022; without them the names in a story change as it goes on.
    """
    import torch  # noqa: PLC0415 - of the extra `dev`

    rows, length, last = REHEARSAL
    if step <= last:
        ids[:rows] = torch.randint(2, N_VOCAB, (rows, length)).repeat(1, ROW // length)


def held_out_loss(model: LlamaForCausalLM, tokenizer: Tokenizer) -> float:
    """Mean loss in nats over all the tokens after `<s>`, `</s>` among them, of the first held-out stories."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    model = model.float().eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for story in itertools.islice(stories(HELD_OUT_SEED), HELD_OUT):
            ids = torch.tensor([[*tokenizer.encode(story).ids, tokenizer.token_to_id(EOS)]])
            n = ids.shape[1] - 1
            total += model(input_ids=ids, labels=ids).loss.item() * n
            count += n
    return total / count


def write_model(model: LlamaForCausalLM, directory: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors (BF16; the tied head is left out)."""
    model.generation_config.max_length = N_CONTEXT
    model.save_pretrained(directory)
