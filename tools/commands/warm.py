"""`miaotui warm`: compiles kernels for this processor ahead of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...errors import BackendError
from .arguments import add_limits, add_model, load_model, request_of
from .unheard import refuse_given

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ...model import Model

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
    from ...runtime.cpu import link, shipped  # noqa: PLC0415 - its imports are part of what is timed
    from ...runtime.cpu.cache import no_directory, read, unwritable, writable  # noqa: PLC0415 - as above

    names = list(link.KERNELS) if args.model is None else _names(args)
    if args.device == "cpu" and (using := shipped.chosen()) is not None:
        _link(args, names)
        print(f"{_ready(names, began)}: they came with the package, compiled for {using.name}")
        return 0
    directory = link.cache_directory()

    def lost(names: Sequence[str]) -> list[str]:
        return [name for name in names if directory is None or (name in link.KERNELS and read(directory, name) is None)]

    why = unwritable(directory) if directory else no_directory()
    if args.device == "cpu" and lost(names) and (directory is None or not writable(directory)):
        msg = f"nothing is compiled, as it could not be kept: {why}"  # which takes a minute and more
        raise BackendError(msg)
    _link(args, names)
    if args.device == "cpu" and (gone := lost(names)):
        msg = f"{len(gone)} of {len(names)} kernels were compiled, and are not kept: {why}"
        raise BackendError(msg)
    print(f"{_ready(names, began)}, in {directory}")
    return 0


def _ready(names: Sequence[str], began: float) -> str:
    return f"{len(names)} kernels are ready after {time.perf_counter() - began:.1f} s"


def _link(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Find the code of these kernels, or make it: a model's by one pass of it."""
    from ...runtime.cpu import link  # noqa: PLC0415 - help must not wait for it

    if args.model is None:
        link.addresses(names)
    else:
        with load_model(args) as model:
            _one_pass(model)


def _names(args: argparse.Namespace) -> list[str]:
    """Kernels of the model that is asked for, from its config and headers alone."""
    from ...loader.open import open_model  # noqa: PLC0415 - help must not wait for it
    from ...prepare import prepare  # noqa: PLC0415 - as above
    from ...runtime.drawing import DRAW  # noqa: PLC0415 - as above

    with open_model(args.model, revision=args.revision, adapter=args.adapter) as opened:
        program = prepare(opened, request_of(args)).program
        return [*program.counts(), *(() if program.draw_at is None else (DRAW,))]


def _one_pass(model: Model) -> None:
    """Whatever kind it is: kernels are linked by the first pass at the latest."""
    if model.config.seq2seq:
        model.logits([0], decoder_ids=[0])
    elif model.config.decoder is None:
        model.hidden([0])
    else:
        model.logits([0])
