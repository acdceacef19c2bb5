"""`miaotui warm`: compiles kernels for this processor ahead of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .arguments import add_limits, add_model, load_model

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model(parser)
    add_limits(parser)


def main(args: argparse.Namespace) -> int:
    """Compile what is missing and say how long it took; 0."""
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
