"""Draw what an application prints: `python docs/examples/picture.py FILE.svg SCRIPT ...` (pip install rich)."""

import argparse
import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 118


def main() -> None:
    """Run the script, and write its output as a terminal shows it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path, help="SVG file to write")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="script to run, with its arguments")
    args = parser.parse_args()
    ran = subprocess.run([sys.executable, *args.script], capture_output=True, check=True)  # noqa: S603 - as named by you
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text.from_ansi(ran.stdout.decode("utf-8").rstrip()))
    console.save_svg(str(args.picture), title=" ".join(["python", *args.script]))


if __name__ == "__main__":
    main()
