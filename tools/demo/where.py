"""Where an included model or adapter lies: `python -m miaotui.tools.demo.where NAME` prints it, for a command line."""

from __future__ import annotations

import argparse
import sys

from . import ADAPTERS, NAMES, adapter, path

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Print it; 0."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.demo.where", description=__doc__)
    names = (*NAMES, *ADAPTERS)
    parser.add_argument("name", metavar="NAME", choices=names, help=f"one of {', '.join(names)}")
    name = parser.parse_args(argv).name
    sys.stdout.write(f"{adapter(name) if name in ADAPTERS else path(name)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
