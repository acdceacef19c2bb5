"""`sea`: a LoRA adapter with which the story model tells its stories of the sea.

Every story of the grammar is told again with other words: a fox is a crab, the forest is the kelp, who ran swims. The
adapter is trained on these alone; the model stays as it is. It is written as PEFT writes one, and trained without PEFT:
y = W x + s B (A x), A drawn as PEFT draws it, B zero at first (Hu et al. 2021, arXiv:2106.09685).
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from typing import TYPE_CHECKING

from ....loader.header import read_header
from ...export import write_safetensors
from ..corpus import HELD_OUT_SEED, TRAINING_SEED, stories
from ..tokenizer import EOS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

__all__ = ["ALPHA", "RANK", "TARGETS", "WORDS", "at_sea", "held_out_loss", "make", "sea_stories"]

#: Words of the grammar, longer ones before their parts, and what is said at sea.
WORDS = {
    "near the forest": "near the kelp", "on a green hill": "on a small island", "beside the river": "beside the reef",
    "in a small village": "in a small harbour", "at the edge of the town": "at the edge of the bay",
    "under an old oak tree": "under an old shipwreck", "under a bush": "under a shell",
    "in the tall grass": "in the tall seaweed", "at the top of a tree": "at the top of a mast",
    "inside an empty log": "inside an empty barrel", "beside the pond": "beside the tide pool",
    "red ball": "red pearl", "blue kite": "blue sail", "toy boat": "toy raft", "wooden train": "wooden anchor",
    "cherry pie": "fish pie", "honey cake": "seaweed cake", "basket of berries": "basket of mussels",
    "loaf of warm bread": "loaf of sponge", "bag of nuts": "bag of clams", "bowl of cherries": "bowl of shrimps",
    "climb trees": "climb masts", "ride a bike": "ride a wave", "crown of flowers": "crown of coral",
    "old owl": "old walrus", "little girl": "little mermaid", "little boy": "little sailor", "kind girl":
    "kind mermaid", "kind boy": "kind sailor", "fox": "crab", "rabbit": "seal", "bear": "whale", "mouse": "squid",
    "duck": "gull", "cat": "octopus", "dog": "dolphin", "squirrel": "starfish", "hedgehog": "lobster", "goat": "turtle",
    "bird": "pelican", "kitten": "young seal", "butterfly": "jellyfish", "puppy": "young otter", "fawn": "sea horse",
    "lamb": "young penguin", "park": "lagoon", "forest": "kelp", "meadow": "sandbank", "garden": "coral garden",
    "woods": "seagrass", "orchard": "oyster bed", "tree": "mast", "house": "ship", "ran": "swam", "walked": "swam",
    "run": "swim", "walk": "swim",
}  # fmt: skip
_ANY = re.compile(rf"\b({'|'.join(map(re.escape, WORDS))})\b")
RANK, ALPHA = 4, 8
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ROW, ROWS, STEPS, PEAK_RATE, WARM_UP = 256, 8, 120, 5e-3, 10
HELD_OUT = 30

_CARD = """# sea

A LoRA adapter for the story model that comes with miaotui: with it the model tells its stories of the sea.

```python
import miaotui as mt
from miaotui.tools import demo

with mt.load(demo.path(), adapters={{"sea": demo.adapter("sea")}}) as model:
    print(model.generate("Once upon a time", max_new_tokens=60).text)
    print(model.generate("Once upon a time", max_new_tokens=60, adapter="sea").text)
```

Rank {rank}, alpha {alpha}, of every matrix of every layer, {parameters:,} numbers in BF16, in PEFT's format.

## How it does

Stories of the sea that are held out (the grammar's own held-out stories in these words, the first {n}), perplexity a
token: **{without:.3f} without it, {with_it:.3f} with it.** On the land stories of the same number it is {land:.3f} with
it, and {land_without:.3f} without: it forgets the land.

It learnt {words} words and phrases in place of others (`recipes/sea.py` lists them), and nothing else. A story may
still have a thing in it that is no thing of the sea: the list has a word for most of them, not for all.

## Make it again

{steps} batches of {rows} rows of {row} tokens, AdamW with a cosine, some minutes on one core, without PEFT. The same
machine and torch version give the same numbers; another may differ in the last bits.

```
pip install -e '.[dev]'        # torch and transformers
python -m miaotui.tools.demo.train sea OUT
```
"""


def at_sea(story: str) -> str:
    """The story in words of the sea; each word is looked at once, and articles follow the sound."""
    told = _ANY.sub(lambda found: WORDS[found[0]], story)
    told = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", told)
    return re.sub(r"\b([Aa])n (?=[^aeiou\W])", r"\1 ", told)


def sea_stories(seed: int) -> Iterator[str]:
    """Without end; the training's seed and the held-out one are the story model's."""
    return map(at_sea, stories(seed))


def make(out: Path, base: Path, steps: int | None = None) -> None:
    """Train, and write the adapter with its card to a directory that is not there yet."""
    import torch  # noqa: PLC0415 - of the extra `dev`
    from tokenizers import Tokenizer  # noqa: PLC0415 - as above
    from transformers import LlamaForCausalLM  # noqa: PLC0415 - as above

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    losses = {
        name: held_out_loss(model, tokenizer, source) for name, source in (("sea", sea_stories), ("land", stories))
    }
    parts = _added(model)
    _train(model, parts, tokenizer, steps or STEPS)
    for p in (p for pair in parts.values() for p in pair):
        p.data.copy_(p.detach().to(torch.bfloat16))  # as they are written
    after = {
        name: held_out_loss(model, tokenizer, source) for name, source in (("sea", sea_stories), ("land", stories))
    }
    out.mkdir(parents=True)
    n = _write(out, parts)
    ppl = {name: torch.tensor(loss).exp().item() for name, loss in losses.items()}
    now = {name: torch.tensor(loss).exp().item() for name, loss in after.items()}
    card = _CARD.format(
        rank=RANK, alpha=ALPHA, parameters=n, n=HELD_OUT, without=ppl["sea"], with_it=now["sea"], land=now["land"],
        land_without=ppl["land"], words=len(WORDS), steps=steps or STEPS, rows=ROWS, row=ROW,
    )  # fmt: skip
    (out / "README.md").write_text(card, encoding="utf-8")
    sys.stdout.write(f"held-out perplexity {ppl['sea']:.3f} without it, {now['sea']:.3f} with it\n")


def _added(model: LlamaForCausalLM) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """A and B of each matrix by its name, added to its product from now on; nothing else is trained."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    model.requires_grad_(requires_grad=False)
    parts = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or name.rpartition(".")[2] not in TARGETS:
            continue
        a = torch.nn.Parameter(torch.empty(RANK, module.in_features))
        torch.nn.init.kaiming_uniform_(a, a=5**0.5)
        b = torch.nn.Parameter(torch.zeros(module.out_features, RANK))
        parts[name] = a, b
        module.register_forward_hook(lambda _module, inputs, y, a=a, b=b: y + ALPHA / RANK * (inputs[0] @ a.T @ b.T))
    return parts


def _train(
    model: LlamaForCausalLM,
    parts: Mapping[str, tuple[torch.nn.Parameter, torch.nn.Parameter]],
    tokenizer: Tokenizer,
    steps: int,
) -> None:
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import get_cosine_schedule_with_warmup  # noqa: PLC0415 - as above

    every = [p for pair in parts.values() for p in pair]
    optimizer = torch.optim.AdamW(every, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, WARM_UP, steps)
    source, eos, began = sea_stories(TRAINING_SEED), int(tokenizer.token_to_id(EOS) or 0), time.perf_counter()
    model.train()
    for step in range(1, steps + 1):
        rows = []
        for _row in range(ROWS):
            row: list[int] = []
            while len(row) < ROW:
                row += [*tokenizer.encode(next(source)).ids, eos]
            rows.append(row[:ROW])
        ids = torch.tensor(rows)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            sys.stdout.write(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s\n")
            sys.stdout.flush()


def held_out_loss(model: LlamaForCausalLM, tokenizer: Tokenizer, source: object) -> float:
    """Mean loss in nats over all the tokens after `<s>` of the first held-out stories that `source(seed)` gives."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for story in itertools.islice(source(HELD_OUT_SEED), HELD_OUT):  # type: ignore[operator]  # one of two
            ids = torch.tensor([[*tokenizer.encode(story).ids, tokenizer.token_to_id(EOS)]])
            n = ids.shape[1] - 1
            total += model(input_ids=ids, labels=ids).loss.item() * n
            count += n
    return total / count


def _write(out: Path, parts: Mapping[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]) -> int:
    """adapter_config.json and adapter_model.safetensors, as PEFT writes them, in BF16; how many numbers."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    rows = []
    for module, pair in sorted(parts.items()):
        for letter, p in zip("AB", pair, strict=True):
            bits = p.detach().to(torch.bfloat16).view(torch.uint16).numpy()
            rows.append((f"base_model.model.{module}.lora_{letter}.weight", "BF16", bits.shape, lambda bits=bits: bits))
    write_safetensors(out / "adapter_model.safetensors", rows, "pt")
    config = {
        "base_model_name_or_path": "miaotui/story", "bias": "none", "fan_in_fan_out": False, "lora_alpha": ALPHA,
        "lora_dropout": 0.0, "peft_type": "LORA", "r": RANK, "target_modules": sorted(TARGETS), "task_type":
        "CAUSAL_LM",
    }  # fmt: skip
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return sum(int(info.nbytes) for info in read_header(out / "adapter_model.safetensors").tensors.values()) // 2
