"""`miaotui warm`: compiles kernels for this processor ahead of time."""

from __future__ import annotations

import argparse
import time

from ...errors import InputError
from .arguments import add_limits, add_model, load_model

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model(parser, "none: all kernels for the CPU")
    add_limits(parser)


def main(args: argparse.Namespace) -> int:
    """Compile what is missing and say how long it took; 0. InputError: an option that needs `--model`, without it."""
    if args.model is None:
        _refuse_options(args)
    began = time.perf_counter()
    from ...runtime.cpu import link  # noqa: PLC0415 - its imports are part of what is timed

    if args.model is None:
        names = list(link.KERNELS)
        link.addresses(names)
    else:
        with load_model(args) as model:
            model.logits([0])
            names = list(model.program().counts())
    print(f"{len(names)} kernels are ready after {time.perf_counter() - began:.1f} s, in {link.cache_directory()}")
    return 0


def _refuse_options(args: argparse.Namespace) -> None:
    """What is said of a model, where none is named."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    usual = vars(parser.parse_args([]))
    for name, value in vars(args).items():
        if name in usual and value != usual[name]:
            option = f"--{name.replace('_', '-')} {getattr(value, 'typed', value)}"
            msg = f"{option}: only with --model; without it all kernels for the CPU are compiled, for every option"
            raise InputError(msg)
