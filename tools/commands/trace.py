"""`miaotui trace`: what a model computes for a text, step by step, in float64 (`tracing.py`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...loader.write import new_file
from ..trace_page import page
from .arguments import add_limits, add_model, given_path, load_model

if TYPE_CHECKING:
    import argparse

    from ...model import Model
    from ...tracing import Trace

__all__ = ["add_arguments", "add_text", "main", "read"]

#: Of an id.
MOST_DIGITS = 18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what the model reads")
    add_text(parser)
    add_model(parser)
    parser.add_argument("--save", type=given_path, metavar="FILE", help="write the numbers as safetensors, F64")
    parser.add_argument("--html", type=given_path, metavar="FILE", help="write one page with steps, attention, program")
    add_limits(parser)
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="what the kernels compute, in float32 and rounded as --precision and --kv-cache say (a decoder's)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_text(parser: argparse.ArgumentParser) -> None:
    """Declare what may stand in a text's place, and what comes with it."""
    parser.add_argument("--ids", metavar="IDS", help='token ids in place of a text: "1 5 9"')
    parser.add_argument("--decoder-ids", metavar="IDS", help="of an encoder-decoder: what its decoder reads")


def main(args: argparse.Namespace) -> int:
    """Print the steps of a text; 0."""
    if args.save is not None and args.save == args.html:
        msg = f"--save and --html {args.html}: one would replace the other; give each a file"
        raise InputError(msg)
    with load_model(args) as model:
        trace = read(model, args.text, args.ids, args.decoder_ids, kernels=args.kernels)
        if args.save is not None:
            trace.save(args.save)
        if args.html is not None:
            with new_file(args.html) as f:
                f.write(page(model, trace).encode())
        if args.json:
            print(json.dumps(trace.as_dict(), indent=1))
        else:
            print(*trace.lines(), sep="\n")
    return 0


def read(model: Model, text: str | None, ids: str | None, decoder_ids: str | None, *, kernels: bool = False) -> Trace:
    """A model's trace of what was given. Errors: `InputError`."""
    if (text is None) == (ids is None):
        msg = "give a text or --ids, one of the two" if text is None else f"--ids {ids}: a text is given too; give one"
        raise InputError(msg)
    read: Any = model.tokenizer.encode(text) if text is not None else _numbers("--ids", str(ids))
    after = None if decoder_ids is None else _numbers("--decoder-ids", decoder_ids)
    if after is None and model.config.decoding is not None and model.config.head is None:
        after = [model.config.decoding.start]
    return model.trace(read, decoder_ids=after, kernels=kernels)


def _numbers(option: str, text: str) -> list[int]:
    words = text.replace(",", " ").split()
    if not words or not all(word.isascii() and word.isdigit() for word in words):
        msg = f'{option} {text}: expected whole numbers, as in {option} "1 5 9"'
        raise InputError(msg)
    if any(len(word) > MOST_DIGITS for word in words):
        msg = f"{option}: an id of more than {MOST_DIGITS} digits; no vocabulary has it"
        raise InputError(msg)
    return [int(word) for word in words]
