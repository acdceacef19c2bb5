"""`miaotui warm`: compiles kernels for this processor ahead of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...errors import BackendError
from .arguments import add_limits, add_model, load_model
from .unheard import refuse_given

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model(parser, "none: all kernels for the CPU")
    add_limits(parser)


def main(args: argparse.Namespace) -> int:
    """Compile what is missing and say how long it took; 0. InputError: an option that needs `--model`, without it."""
    if args.model is None:
        why = "only with --model; without it all kernels for the CPU are compiled, for every option"
        refuse_given(args, add_arguments, vars(args), why)
    began = time.perf_counter()
    from ...runtime.cpu import link  # noqa: PLC0415 - its imports are part of what is timed
    from ...runtime.cpu.cache import CACHE, no_directory, read  # noqa: PLC0415 - as above

    if args.model is None:
        names = list(link.KERNELS)
        link.addresses(names)
    else:
        with load_model(args) as model:
            model.logits([0])
            names = list(model.program().counts())
    directory = link.cache_directory()
    lost = [name for name in names if directory is None or (name in link.KERNELS and read(directory, name) is None)]
    if lost and args.device == "cpu":
        why = f"{directory} cannot be written; set {CACHE} to a directory that can" if directory else no_directory()
        msg = f"{len(lost)} of {len(names)} kernels were compiled, and are not kept: {why}"
        raise BackendError(msg)
    print(f"{len(names)} kernels are ready after {time.perf_counter() - began:.1f} s, in {directory}")
    return 0
