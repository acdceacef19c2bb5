"""`miaotui prune`: a checkpoint in, the part of it that a plan keeps out, as a checkpoint of its own.

OUT is a Hugging Face directory: config.json with the new sizes, the tokenizer's files untouched, one safetensors file.
Where every layer is alike, `transformers` loads it like any other. Where layers differ, config.json says so in
transformers' `per_layer_config` (`loader/uneven.py`), and miaotui loads it. A cut vocabulary is written with
kept_vocab.json, which says which of the tokenizer's ids the rows are (`loader/vocabulary.py`): miaotui maps ids by it,
other programs must do it themselves. The plan goes along as prune_plan.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .arguments import add_prune, prune_of, shown_bytes

if TYPE_CHECKING:
    import argparse

    from ..loader.receipt import Receipt
    from ..loader.wishes import Prune

__all__ = ["add_arguments", "main", "prune"]

PLAN = "prune_plan.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", metavar="IN", help="a Hugging Face directory, or a hub name such as org/name")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to make; it must not be there yet")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub name")
    add_prune(parser)


def main(args: argparse.Namespace) -> int:
    """Write OUT, and say what became of IN; 0."""
    from ..loader.hub import resolve  # noqa: PLC0415 - help must not wait for it

    wish = prune_of(args)
    if wish is None:
        msg = "nothing to cut was named; give --prune PLAN.json, or for instance --keep-layers 0-2 or --ffn 0.75"
        raise InputError(msg)
    receipt, written, note = prune(resolve(args.path, revision=args.revision), args.out, wish)
    print(f"{receipt.plan}\n{args.out}: {shown_bytes(written)} of weights, from {shown_bytes(receipt.file_bytes)}")
    for text in (*receipt.notes, *([note] if note else [])):
        print(f"note: {text}")
    return 0


def prune(path: Path, out: Path, wish: Prune) -> tuple[Receipt, int, str | None]:
    """Write what `wish` keeps of `path` to the new directory `out`.

    The receipt, the bytes of tensors written, and why transformers will refuse it, if it will. Errors: `InputError`
    where `out` is there, `PlanError` for a plan that does not fit or cannot be written, and loading's own.
    """
    from ..loader import leave, wishes  # noqa: PLC0415 - help must not wait for these
    from ..loader.checkpoint import open_checkpoint  # noqa: PLC0415
    from ..loader.config import parse_config  # noqa: PLC0415
    from ..loader.plan import make_plan  # noqa: PLC0415
    from ..loader.receipt import make_receipt  # noqa: PLC0415
    from ..loader.vocabulary import FILE, kept_ids, kept_text  # noqa: PLC0415
    from .export import copy_along, new_directory, write_json, write_safetensors  # noqa: PLC0415

    with open_checkpoint(path) as checkpoint, new_directory(out) as made:
        config = parse_config(checkpoint.config, str(path / "config.json"), checkpoint.generation)
        pruned = wishes.resolve(wish, checkpoint, config)
        plan = make_plan(checkpoint, config, prune=pruned)
        left = leave.left_config(checkpoint.config, plan)
        copy_along(path, made)
        write_json(made / "config.json", left)
        if checkpoint.generation is not None:
            write_json(made / "generation_config.json", leave.left_generation(checkpoint.generation, plan))
        kept, cut = kept_ids(path), plan.cut.vocab
        if kept is not None or cut is not None:
            rows = cut if kept is None else kept if cut is None else tuple(kept[i] for i in cut)
            (made / FILE).write_text(kept_text(rows or ()), encoding="utf-8")
        if pruned is not None:
            pruned.save(made / PLAN)
        written = write_safetensors(made / "model.safetensors", leave.left_tensors(plan, checkpoint), "pt")
        return make_receipt(plan, checkpoint, pruned), written, leave.refused_by_transformers(left, plan.config)
