"""Make a demo model again: `python -m miaotui.tools.demo.train NAME` (takes the extra `dev`; README.md says more)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...errors import MiaotuiError
from ..export import check_new
from . import ADAPTERS, NAMES, path, story


def main(argv: list[str] | None = None) -> int:
    """Train, write the checkpoint directory, say how well it does on what is held out."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.demo.train", description=__doc__)
    parser.add_argument(
        "name", metavar="NAME", choices=(*NAMES, *ADAPTERS), help=f"one of {', '.join((*NAMES, *ADAPTERS))}"
    )
    parser.add_argument(
        "out", nargs="?", type=Path, help="directory to make, which must not be there yet (default: NAME)"
    )
    parser.add_argument("--steps", type=int, help="batches to train on (default: as many as the shipped model had)")
    parser.add_argument("--layers", type=int, default=6, help="layers of the story model (default: 6)")
    parser.add_argument("--width", type=int, default=128, help="its width, a multiple of 8 (default: 128)")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="train the architecture of `entities` on this file of words and tags "
        "(CoNLL, or what else `miaotui evaluate token-classification` reads), with a tokenizer of its own",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.data is not None and args.name != "entities":
        parser.error(f"--data {args.data}: only entities is trained on a file; {args.name} makes its texts itself")
    out = check_new(args.out or Path(args.name))
    if args.name == "story":
        out.mkdir(parents=True)
        story.make(out, args.steps or 3000, args.layers, args.width)
        return 0
    if args.name in ADAPTERS:
        from .recipes import sea  # noqa: PLC0415 - as below

        sea.make(out, path(), args.steps)
        return 0
    if args.data is not None:
        from .recipes import tagged_file  # noqa: PLC0415 - as below

        tagged_file.make(args.data, out, args.steps)
        return 0
    from ..commands.quantize import quantize  # noqa: PLC0415 - the story model needs none of it
    from .recipes.card import make  # noqa: PLC0415 - as above

    sys.stdout.write(make(args.name, out, args.steps, quantize))
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except MiaotuiError as e:
        sys.stderr.write(f"train: error: {e}\n")
        code = 1
    raise SystemExit(code)
