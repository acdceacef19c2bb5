"""`miaotui compare`: where two models part, by what each step of a text gives in float64 (`tracing.py`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...loader.activations import read_activations
from ...model import load
from ...tracing import differences, finite
from .arguments import add_precision, add_quantize, given_model
from .trace import add_text, read

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ...model import Model
    from ...tracing import Trace

__all__ = ["add_arguments", "main"]

#: Of a step's root mean square: less is what another order of float32 sums may make.
TOLERANCE = 1e-4

#: Names that only one of two has.
SHOWN = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("one", type=given_model, metavar="A", help="a Hugging Face directory, or a hub name")
    parser.add_argument(
        "other",
        type=given_model,
        nargs="?",
        metavar="B",
        help="another, or a .safetensors file of activations by the names of modules (default: A)",
    )
    parser.add_argument("--text", metavar="TEXT", help="what both read")
    add_text(parser)
    add_quantize(parser)
    parser.add_argument("--prune", metavar="PLAN", help="what to keep of B: a plan's file, or its short forms")
    add_precision(parser)
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="of B, what its kernels compute, in float32 (a decoder's); so it is with --precision and --kv-cache",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help=f"a step differs where it is further apart, as a share of its root mean square (default: {TOLERANCE})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """Print every step's difference, and the first that is too large; 1 if there is one."""
    if args.tolerance < 0 or args.tolerance != args.tolerance:
        msg = f"--tolerance {args.tolerance}: expected a number, at least 0"
        raise InputError(msg)
    options = ("quantize", "prune", "precision", "kv_cache")
    changed = {name: value for name in options if (value := getattr(args, name)) not in {None, "f32"}}
    by_kernels = args.kernels or "precision" in changed or "kv_cache" in changed
    if args.other is None and not (changed or by_kernels):
        msg = "A alone is equal to itself: give B too, or --quantize, --prune, --precision, --kv-cache or --kernels"
        raise InputError(msg)
    given = args.one if args.other is None else args.other
    saved = str(given).endswith(".safetensors") and not Path(given).is_dir()
    if saved and (changed or by_kernels):
        option = next(iter(changed), "kernels").replace("_", "-")
        msg = f"--{option}: {given} holds activations, which have been made"
        raise InputError(msg)
    with load(args.one) as model:
        one = _read(args, args.one, model)
    other: Mapping[str, Any]
    if saved:
        other = read_activations(given)
    else:
        with load(given, **changed) as model:
            other = _read(args, given, model, kernels=by_kernels)
    every = differences(one, other)
    if not every:
        mine, theirs = next(iter(one)), next(iter(other))
        msg = f"{given}: none of its {len(other)} names, such as {theirs}, is one of {args.one}'s, such as {mine}"
        raise InputError(msg)
    first = next((d for d in every if d.relative > args.tolerance), None)
    if args.json:
        steps = [
            {"name": d.name, "relative": finite(d.relative), "at": list(d.at), "values": list(map(finite, d.values))}
            for d in every
        ]
        print(json.dumps({"first": None if first is None else first.name, "steps": steps}, indent=1))
        return int(first is not None)
    print(*every, sep="\n")
    apart = f"the first that differs: {first}" if first else f"nothing differs by more than {args.tolerance:g}"
    sides: list[tuple[object, Mapping[str, Any], Mapping[str, Any]]] = [(args.one, one, other), (given, other, one)]
    for where, own, others in sides:
        only = [step for step in own if step not in others]
        if only and not by_kernels:
            more = f" and {len(only) - SHOWN} more" if len(only) > SHOWN else ""
            print(f"only {where} has {', '.join(only[:SHOWN])}{more}")
    print(f"{len(every)} of {len(one)} and {len(other)} steps compared; {apart}")
    return int(first is not None)


def _read(args: argparse.Namespace, name: object, model: Model, *, kernels: bool = False) -> Trace:
    """A model's trace. Errors: `InputError`, which says whose."""
    try:
        return read(model, args.text, args.ids, args.decoder_ids, kernels=kernels)
    except InputError as e:
        msg = f"{name}: {e}"
        raise InputError(msg) from e
