"""The calibration text that `miaotui prune` and `miaotui quantize` take, and the options that say how it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .arguments import given_path

if TYPE_CHECKING:
    import argparse

    from ..importance.methods import Text

__all__ = ["READING", "add_reading", "text_of"]

#: Options that say how a text is read.
READING = ("window", "tokens", "lines", "statistics")


def add_reading(group: argparse._ArgumentGroup) -> None:
    """Declare `--text` and `READING`."""
    group.add_argument("--text", type=given_path, metavar="FILE", help="calibration text, UTF-8")
    group.add_argument("--window", type=int, default=256, metavar="N", help="tokens fed at a time (default: 256)")
    group.add_argument("--tokens", type=int, default=16384, metavar="N", help="feed at most N tokens (default: 16384)")
    group.add_argument("--lines", action="store_true", help="feed each line of the text by itself")
    group.add_argument(
        "--statistics",
        type=given_path,
        metavar="FILE.npz",
        help="save statistics here, and go on from those that are there",
    )


def text_of(args: argparse.Namespace, **more: Any) -> Text:  # noqa: ANN401 - of a text
    """The calibration text that was asked for. Errors: `InputError`."""
    from ...loader.files import read_text  # noqa: PLC0415 - help must not wait for these
    from ..importance.methods import Text  # noqa: PLC0415 - as above

    for name in ("window", "tokens"):
        if getattr(args, name) < 1:
            msg = f"--{name} {getattr(args, name)}: expected at least 1"
            raise InputError(msg)
    file = args.statistics
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        what = "is a directory" if file.is_dir() else "its directory is not there"
        msg = f"--statistics {file}: {what}; name a file that may be written"
        raise InputError(msg)
    read = read_text(args.text, InputError)
    how = {"lines": args.lines, "quiet": False, **more}
    return Text(read.removeprefix("\ufeff"), args.text.name, args.window, args.tokens, args.statistics, **how)
