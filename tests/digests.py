"""What included models compute, as hashes: run by itself, a process for each CPU level, and compared.

`python tests/digests.py [few]` prints JSON: a case's name and the SHA-256 of its numbers and ids; `levels`: what ran.
`few`: only what takes few kernels, for where these are compiled first.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
from checkpoints import small, write_checkpoint
from miaotui.runtime.cpu import backend, shipped
from miaotui.tools import demo
from real_files import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["digests"]

PROMPT = "Once upon a time there was a young fox named Tim. He"
DRAWN: dict[str, Any] = {"max_new_tokens": 24, "seed": 7, "temperature": 1.1, "top_p": 0.95, "ignore_eos": True}
STAGED: dict[str, Any] = {
    **DRAWN, "min_p": 0.02, "typical_p": 0.9, "eta_cutoff": 1e-4, "dry_multiplier": 0.8, "xtc_probability": 0.5,
    "frequency_penalty": 0.3, "no_repeat_ngram_size": 3,
}  # fmt: skip
#: Options of `load` for the included story model.
HOW: tuple[dict[str, Any], ...] = (
    {}, {"quantize": "int8"}, {"quantize": "int4"}, {"quantize": "int4a"}, {"kv_cache": "bf16"}, {"kv_cache": "int8"},
    {"prune": "keep-layers=0-2; ffn=0.75"}, {"prune": "sparsity=0.5"}, {"prune": "sparsity=0.5", "quantize": "int8"},
    *({"quantize": dtype, "precision": "exact"} for dtype in ("int8", "int4", "int4a")),
    {"prune": "sparsity=0.5", "quantize": "int8", "precision": "exact"},
)  # fmt: skip

#: Trained models of `real_files`, and where in their expected.json ids are.
GOLDENS: dict[str, Callable[[dict[str, Any]], list[list[int]]]] = {
    "stories260K-hf": lambda stored: [[*case["prompt_ids"], *case["new_ids"]] for case in stored["greedy"]],
    "capp-gpt2-hf": lambda stored: [[*case["prompt_ids"], *case["new_ids"]] for case in stored["greedy"][:5]],
    "nano-gpt-sort-hf": lambda stored: stored["reference_idx"],
    "rxnmapper-albert-hf": lambda stored: [case["ids"] for case in stored["cases"]],
}
ROUNDED = (None, "int8", "int4", "int4a")


def hashed(*arrays: Any) -> str:
    h = hashlib.sha256()
    for a in arrays:
        h.update(np.ascontiguousarray(a).tobytes())
    return h.hexdigest()


def of_decoder(path: Path | str, threads: int, **how: Any) -> str:
    with miaotui.load(path, threads=threads, **how) as model:
        ids = model.tokenizer.encode(PROMPT)
        answers = [model.generate(ids, **asked).ids for asked in ({"max_new_tokens": 24}, DRAWN, STAGED)]
        many = model.generate([ids, ids[:3], ids[2:]], max_new_tokens=9)
        return hashed(model.logits(ids), *(np.array(a) for a in answers), *(np.array(g.ids) for g in many))


def of_encoder(name: str, threads: int, **how: Any) -> str:
    with miaotui.load(demo.path(name), threads=threads, **how) as model:
        return hashed(model.hidden(model.tokenizer.encode(PROMPT)))


def of_goldens(threads: int) -> Iterator[tuple[str, str]]:
    """Every golden there is here, by every rounding."""
    for name, read in GOLDENS.items() if (SHARED / "models").is_dir() else ():
        path = SHARED / "models" / name
        texts = read(json.loads((path / "expected.json").read_text(encoding="utf-8")))
        for quantize in ROUNDED:
            with miaotui.load(path, threads=threads, quantize=quantize) as model:
                ask = model.hidden if name.startswith("rxn") else model.logits
                yield f"{name} {quantize} {threads}", hashed(*map(ask, texts))


def cases(threads: int, folder: Path, *, few: bool) -> Iterator[tuple[str, str]]:
    for how in HOW[:2] if few else HOW:
        yield f"story {how} {threads}", of_decoder(demo.path("story"), threads, **how)
    if few:
        return
    yield from of_goldens(threads)
    for family in ("llama", "gpt2"):
        for dtype in ("F32", "BF16", "F16"):
            place = folder / f"{family}-{dtype}-{threads}"
            write_checkpoint(place, replace(small(family), dtype=dtype))
            ways: list[dict[str, Any]] = [{}, {"prune": "sparsity=0.5"}]
            for how in [*ways, {"precision": "bf16"}] if dtype == "BF16" else ways:
                with miaotui.load(place, threads=threads, **how) as model:
                    ids = [1, 5, 9, 2, 7]
                    made = model.generate(ids, max_new_tokens=5, ignore_eos=True).ids
                    yield f"{family} {dtype} {how} {threads}", hashed(model.logits(ids), np.array(made))
    for name in ("encoder", "sentiment", "entities", "answers"):
        for how in ({}, {"quantize": "int8"}):
            yield f"{name} {how} {threads}", of_encoder(name, threads, **how)
    with miaotui.load(demo.path("dates"), threads=threads) as model:
        answer = model.generate("12 May 1997", max_new_tokens=12, num_beams=2)
        yield f"dates {threads}", hashed(np.array(answer.ids))


def digests(*, few: bool) -> dict[str, str]:
    """Every case, with one to three threads."""
    with TemporaryDirectory() as folder:
        return dict(case for threads in (1, 2, 3) for case in cases(threads, Path(folder), few=few))


if __name__ == "__main__":
    backend.LONG = 8  # these texts are short: threads share the attention of their tokens all the same
    chosen = shipped.chosen()
    told = {"level": chosen and chosen.name, "numba": "numba" in sys.modules, "digests": digests(few="few" in sys.argv)}
    sys.stdout.write(json.dumps(told) + "\n")
