"""`miaotui prune`: a checkpoint in, the part of it that a plan keeps out, as a checkpoint of its own.

OUT is a Hugging Face directory: config.json with the new sizes, the tokenizer's files untouched, one safetensors file.
Where every layer is alike, `transformers` loads it like any other. Where layers differ, config.json says so in
transformers' `per_layer_config` (`loader/prune/layer_sizes.py`), and miaotui loads it. A cut vocabulary is written with
kept_vocab.json, which says which of the tokenizer's ids the rows are (`loader/text/vocabulary.py`): miaotui maps ids by
it, other programs must do it themselves. The plan goes along as prune_plan.json.

With `--adapter` a PEFT adapter is merged first; alone, OUT is the whole model with the adapter in it.
With `--method` a published method says what to cut (`importance/methods.py`); `--sweep` compares them
(`prune_sweep.py`).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...errors import InputError
from ...sizes import format_bytes
from .arguments import add_adapter, add_prune, given_model, given_path, new_place, prune_of, size
from .reading import READING, add_reading, text_of
from .unheard import refuse_given

if TYPE_CHECKING:
    from pathlib import Path

    from ...loader.prune.options import Prune
    from ...loader.prune.plan import PrunePlan
    from ..importance.methods import Text, Wish
    from ..importance.rewrite import Rewrite

__all__ = ["add_arguments", "main"]

#: How a plan that cuts nothing is told.
EVERYTHING = "keep everything"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    where = "a Hugging Face directory, or a hub name such as org/name"
    parser.add_argument("path", type=given_model, metavar="IN", help=where)
    parser.add_argument(
        "out", metavar="OUT", type=given_path, nargs="?", help="directory to make; it must not be there yet"
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub name")
    add_adapter(parser)
    add_prune(parser)
    group = parser.add_argument_group(
        "what to cut, found by a method",
        "Layers: block-influence, greedy, first (--keep). Neurons and heads: activation, wanda-sp, flap (--ffn, "
        "--heads). Width: activation, slicegpt (--width SHARE). Experts: routed (--experts). Zeros in place: "
        "magnitude, wanda, sparsegpt (--sparsity: a share such as 0.5, or N:M). All but magnitude and first need a "
        "calibration text (--text): of an encoder each line is a text, of an encoder-decoder what its encoder reads, a "
        "tab, and the answer. "
        "With --method, the options --ffn, --sparsity and a share of --width are the method's.",
    )
    group.add_argument("--method", metavar="METHOD", help="one of those above")
    group.add_argument("--keep", type=int, metavar="N", help="layers to keep")
    group.add_argument("--heads", type=float, metavar="SHARE", help="share of the key/value heads to keep")
    group.add_argument("--experts", type=float, metavar="SHARE", help="share of every layer's experts to keep")
    group.add_argument("--uniform", action="store_true", help="flap: the same share of every layer")
    group.add_argument("--no-compensation", action="store_true", help="flap: leave the biases as they are")
    group.add_argument("--one-pass", action="store_true", help="wanda, sparsegpt: statistics of the whole model, once")
    add_reading(group)
    after = group.add_argument(
        "--after", "--behind", dest="behind", metavar="TOKEN", help="judge only what follows this token in each line"
    )
    after.option_strings = ["--after"]  # the help does not name the former one, which is still understood
    sweep_arguments(parser)


def sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `--sweep` takes."""
    group = parser.add_argument_group(
        "comparing cuts", "With --sweep no checkpoint is written, only a table, a picture and the plans."
    )
    group.add_argument("--sweep", action="store_true", help="try methods and ratios, and measure what is left")
    group.add_argument(
        "--out", dest="folder", type=given_path, metavar="FOLDER", help="directory for sweep.json and the plans"
    )
    group.add_argument(
        "--judge", type=given_path, metavar="FILE", help="text to measure with (default: the end of --text)"
    )
    group.add_argument("--methods", nargs="+", metavar="METHOD", help="only these methods")
    group.add_argument("--max-memory", type=size, metavar="SIZE", help="budget: weights, arena and cache together")
    group.add_argument("--min-speedup", type=float, metavar="X", help="budget: decode speed, times the original's")
    group.add_argument(
        "--max-perplexity-ratio", type=float, metavar="X", help="budget: perplexity, times the original's"
    )


def main(args: argparse.Namespace) -> int:
    """Write OUT, and say what became of IN; 0."""
    from ...loader.hub import locate  # noqa: PLC0415 - help must not wait for it

    if args.sweep:
        return _sweep(args)
    _refuse_unheard(args)
    if args.out is None:
        msg = "OUT: none was given; expected a directory to make, or --sweep"
        raise InputError(msg)
    new_place(args.out)  # before minutes are spent
    rewrite, method = None, None
    wish: Prune | None = prune_of(args)
    if args.method is None:
        if wish is None and args.adapter is None:
            msg = (
                "IN: nothing says what to cut of it; give --prune PLAN.json, a short form such as --keep-layers 0-2 or "
                "--ffn 0.75, a method such as --method wanda --sparsity 0.5 --text FILE, or --adapter PATH to merge"
            )
            raise InputError(msg)
        path = locate(args.path, revision=args.revision)
    else:
        method = _method(args)  # before anything is read
        text = None if args.text is None else text_of(args, behind=args.behind)
        path = locate(args.path, revision=args.revision)
        wish, rewrite = _found(path, method, text, prune_of(_without_shares(args)))
    from ..prune import prune  # noqa: PLC0415 - as above

    receipt, written, note = prune(path, args.out, wish, rewrite, adapter=args.adapter)
    for told in [] if (method is not None or wish is None) and receipt.plan == EVERYTHING else [receipt.plan]:
        print(told)
    if method is not None and method.rewrites:
        print(f"{method}: {method.rewrites}")
    print(f"{args.out}: {format_bytes(written)} of weights, from {format_bytes(receipt.file_bytes)}")
    for text_line in (*receipt.notes, *([note] if note else [])):
        print(f"note: {text_line}")
    return 0


#: Options that say which parts of a method's cut there are, and what `--sweep` takes.
AMOUNTS = ("keep", "heads", "uniform", "no_compensation", "one_pass")
SWEEPING = ("folder", "judge", "methods", "max_memory", "min_speedup", "max_perplexity_ratio")
MERGE_FIRST = "methods measure a checkpoint; write the merged one first, `miaotui prune IN MERGED --adapter PATH`"
#: Methods that take no statistics.
WITHOUT_STATISTICS = ("greedy", "magnitude", "first")


def _refuse_unheard(args: argparse.Namespace) -> None:
    """Options that this call would not read: InputError."""
    refuse_given(args, add_arguments, SWEEPING, "only with --sweep")
    if args.method is not None:
        refuse_given(args, add_arguments, ["adapter"], MERGE_FIRST)
    if args.method is None:
        refuse_given(args, add_arguments, ("text", *AMOUNTS, "behind", *READING), "only with --method")
    if args.text is None:
        refuse_given(args, add_arguments, ("behind", *READING), "says how a text is read; give one, --text FILE")
    if args.method != "greedy":
        why = f"--method {args.method} weighs every token; only greedy and --sweep judge what follows one"
        refuse_given(args, add_arguments, ["behind"], why)
    if args.method in WITHOUT_STATISTICS:
        refuse_given(args, add_arguments, ["statistics"], f"--method {args.method} takes none")


def _sweep(args: argparse.Namespace) -> int:
    """Compare cuts (`prune_sweep.py`); 0."""
    from ...loader.files import read_text  # noqa: PLC0415 - help must not wait for these
    from ...loader.hub import locate  # noqa: PLC0415 - as above
    from ..prune_sweep import Judged, check_budget, check_methods, compare_cuts, split_judged  # noqa: PLC0415 - as above

    if args.text is None or args.folder is None or args.out is not None or args.method is not None:
        msg = "--sweep takes --text FILE and --out FOLDER, and neither OUT nor --method"
        raise InputError(msg)
    if prune_of(args) is not None:
        msg = "--sweep compares cuts of the whole model; write the first cut with `miaotui prune`, and sweep that"
        raise InputError(msg)
    refuse_given(args, add_arguments, ["adapter"], MERGE_FIRST)
    refuse_given(args, add_arguments, (*AMOUNTS, "statistics"), "--sweep tries every method with ratios of its own")
    budget = {name: getattr(args, name) for name in ("max_memory", "min_speedup", "max_perplexity_ratio")}
    check_methods(args.methods or ())
    check_budget(**budget)
    text = text_of(args, behind=args.behind)
    if args.judge is None:
        text, judged = split_judged(text)
    else:
        judged = Judged(read_text(args.judge, InputError), args.judge.name)
    path = locate(args.path, revision=args.revision)
    compare_cuts(path, text, judged, args.folder, methods=args.methods or (), **budget)
    return 0


def _method(args: argparse.Namespace) -> Wish:
    from ...loader.prune.options import is_share  # noqa: PLC0415 - help must not wait for it
    from ..importance.masks import parse_sparsity  # noqa: PLC0415 - as above
    from ..importance.methods import Wish  # noqa: PLC0415 - as above

    ffn = _share("ffn", args.ffn)
    width = _share("width", args.width) if is_share(args.width) else None
    sparsity = None if args.sparsity is None else parse_sparsity(args.sparsity)
    how = {"compensate": not args.no_compensation, "uniform": args.uniform, "one_pass": args.one_pass}
    return Wish(args.method, args.keep, ffn, args.heads, sparsity, width=width, experts=args.experts, **how)


def _share(name: str, text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        msg = f"--{name} {text}: expected a share such as 0.75"
        raise InputError(msg) from None


def _without_shares(args: argparse.Namespace) -> argparse.Namespace:
    """With a method, `--ffn` and `--sparsity` are the method's, and a share of `--width`."""
    from ...loader.prune.options import is_share  # noqa: PLC0415 - help must not wait for it

    width = None if is_share(args.width) else args.width
    return argparse.Namespace(**{**vars(args), "ffn": None, "sparsity": None, "width": width})


def _found(path: Path, method: Wish, text: Text | None, forms: Prune | None) -> tuple[PrunePlan, Rewrite]:
    """Ask the method; what the short forms say is cut first."""
    from ...loader.open import open_model  # noqa: PLC0415 - help must not wait for these
    from ...loader.prune.options import parse_prune  # noqa: PLC0415 - as above
    from ..importance.methods import find  # noqa: PLC0415 - as above

    with open_model(path) as opened:
        base = parse_prune(forms, opened)
    cut = find(path, method, text, base)
    return cut.plan, cut.rewrite
