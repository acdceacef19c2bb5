"""How the small encoders are trained, and what they are made of."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

from ....dataclass import dataclass
from .wordpiece import CLS, MASK, PAD, SEP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch
    from tokenizers import Encoding, Tokenizer
    from transformers import BertConfig, PreTrainedModel

    Batch = dict[str, torch.Tensor]

__all__ = ["Fit", "bert", "even", "fit", "hidden_words", "padded", "write_model"]

T = TypeVar("T")

WARM_UP = 50  # steps
SAID = 100  # steps between lines of the log


@dataclass(frozen=True)
class Fit:
    """`steps` batches of `rows` texts, by AdamW with a linear warm-up to `rate` and a cosine to nothing.

    `horizon`: where the cosine comes to nothing, if training stops before it (default: after `steps`).
    `decay`: or a rate that is constant, and falls to nothing in the last steps, which are this many.
    `dropout`: share of the numbers between layers that is left out (none where no text comes twice).
    """

    steps: int
    rows: int
    rate: float = 7e-4
    horizon: int | None = None
    decay: int | None = None
    dropout: float = 0.0


def bert(
    tokenizer: Tokenizer,
    labels: tuple[str, ...] = (),
    *,
    n_context: int = 128,
    layers: int = 3,
    dropout: float = 0.0,
) -> BertConfig:
    """The sizes of all of them: 225 thousand parameters."""
    from transformers import BertConfig  # noqa: PLC0415 - of the extra `dev`

    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=n_context,
        initializer_range=0.07,  # as 0.02 of a width of 768: what a product adds does not depend on the width
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.token_to_id(PAD),
        **(named if labels else {}),
    )


def padded(tokenizer: Tokenizer, encodings: list[Encoding]) -> Batch:
    """Ids, mask and types [texts, longest]."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    return {
        "input_ids": torch.tensor(even([e.ids for e in encodings], tokenizer.token_to_id(PAD) or 0)),
        "attention_mask": torch.tensor(even([[1] * len(e) for e in encodings], 0)),
        "token_type_ids": torch.tensor(even([e.type_ids for e in encodings], 0)),
    }


def even(rows: list[list[int]], filler: int) -> list[list[int]]:
    """Rows of ids, each filled to the longest."""
    longest = max(map(len, rows))
    return [[*row, *[filler] * (longest - len(row))] for row in rows]


def fit(parameters: list[Any], loss_of: Callable[[T], torch.Tensor], batches: Iterator[T], how: Fit) -> None:
    """Train `parameters`; the log is the loss, on the standard output.

    One thread: the same machine and the same version of torch give the same weights.
    """
    import torch  # noqa: PLC0415 - of the extra `dev`

    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(parameters, lr=how.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = _schedule(optimizer, how)
    began = time.perf_counter()
    for step in range(1, how.steps + 1):
        loss = loss_of(next(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % SAID == 0 or step == how.steps:
            sys.stdout.write(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s\n")
            sys.stdout.flush()


def _schedule(optimizer: torch.optim.Optimizer, how: Fit) -> torch.optim.lr_scheduler.LambdaLR:
    from torch.optim.lr_scheduler import LambdaLR  # noqa: PLC0415 - of the extra `dev`
    from transformers import get_cosine_schedule_with_warmup  # noqa: PLC0415 - of the extra `dev`

    decay = how.decay
    if decay is None:
        return get_cosine_schedule_with_warmup(optimizer, WARM_UP, how.horizon or how.steps)
    return LambdaLR(optimizer, lambda step: min(1.0, step / WARM_UP, (how.steps - step) / decay))


def hidden_words(tokenizer: Tokenizer, batch: Batch, share: float) -> torch.Tensor:
    """Put [MASK] in place of a share of the tokens that frame nothing; ids before it, -100 where nothing was hidden."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    ids = batch["input_ids"]
    frame = torch.tensor([tokenizer.token_to_id(token) for token in (PAD, CLS, SEP, MASK)])
    hidden = (torch.rand(ids.shape) < share) & ~torch.isin(ids, frame)
    before = torch.where(hidden, ids, torch.tensor(-100))
    batch["input_ids"] = torch.where(hidden, torch.tensor(tokenizer.token_to_id(MASK)), ids)
    return before


def write_model(model: PreTrainedModel, directory: Path) -> None:
    """Write config.json and model.safetensors in BF16."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    model.eval().to(torch.bfloat16).save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # as other files of a package
