"""`miaotui perplexity`: how well a model predicts a text (`tools/perplexity.py`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ...errors import InputError
from ...loader.files import read_text
from ...sizes import counted
from ..perplexity import check_predicts, measure
from ..streams import as_text
from .arguments import add_limits, add_model, config_of, given_path, load_model

if TYPE_CHECKING:
    import argparse


__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=given_path, metavar="FILE", help="a text file, UTF-8")
    add_model(parser)
    parser.add_argument("--window", type=int, default=256, metavar="N", help="predictions in a window (default: 256)")
    parser.add_argument("--tokens", type=int, metavar="N", help="stop after N predictions (default: the whole file)")
    add_limits(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """Print the perplexity of a file; 0."""
    for name in ("window", "tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            msg = f"--{name} {value}: expected at least 1"
            raise InputError(msg)
    check_predicts(config_of(args), f"--model {args.model}")
    text = read_text(args.file, InputError)
    if args.max_context is None:
        args.max_context = args.window
        args.spelled = getattr(args, "spelled", {}) | {
            "--max-context": "--window"
        }  # for errors: what was typed, or the default
    with load_model(args) as model:
        measured = measure(model, text, window=args.window, tokens=args.tokens, name=str(args.file))
        report = {"file": as_text(args.file.name), **measured}
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print(
            f"perplexity {report['ppl']:.4f}   ({report['nll_per_token']:.5f} nats a token, "
            f"{report['bits_per_byte']:.4f} bits a byte; {counted(report['n_tokens'], 'prediction')} "
            f"in windows of {args.window})"
        )
    return 0
