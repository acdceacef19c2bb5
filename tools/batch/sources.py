"""Which files a run reads, and where the results of each go."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ...loader.files import quote, reason
from .divided import Source
from .records import ENDINGS, format_of
from .work import journal_of

if TYPE_CHECKING:
    from .records import Format

__all__ = ["is_folder", "is_several", "sources_of"]

#: What a file of results is called.
ENDING = ".jsonl"


def is_folder(path: Path) -> bool:
    """Whether it is a directory; what the system cannot look up is refused where it is opened."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_several(given: Path) -> bool:
    """Whether an input is a directory or a pattern, not a file."""
    return is_folder(given) or (glob.has_magic(str(given)) and not os.path.lexists(given))


def sources_of(given: Path, asked: Format | None, output: Path, errors: Path | None) -> tuple[list[Source], list[Path]]:
    """The files of a directory or pattern, sorted, and those of a directory that are passed over as no data.

    `asked`: what all hold, or None: as their endings say. `output`, `errors`: directories; a file's results go to the
    same place below them, under its name with the ending .jsonl. Errors: `InputError` for no file, two files with one
    place, an output that would be read.
    """
    top, found = _found(given)
    data = [path for path in found if asked or not given.is_dir() or path.suffix.lower() in ENDINGS]
    if not data:
        what = f"none of its {len(found):,} files has an ending that tells its format ({', '.join(ENDINGS)})"
        msg = f"--input {given}: {what if found else 'there is no such file'}; name the files, or give --format"
        raise InputError(msg)
    _check_apart(given, top, output, errors)
    sources, taken = [], dict[Path, Path]()
    for path in data:
        place = path.relative_to(top).with_suffix(ENDING)
        if place in taken:
            msg = f"--output {output / place}: the results of both {taken[place]} and {path} would go there; rename one"
            raise InputError(msg)
        taken[place] = path
        form = format_of(path, asked)
        bad = None if errors is None else errors / place
        sources.append(Source(path, form, output / place, bad, str(path)))
    _check_free(sources)
    return sources, [path for path in found if path not in set(data)]


def _found(given: Path) -> tuple[Path, list[Path]]:
    """The directory below which the files lie, and them; hidden ones, and journals of runs, are none."""
    try:
        if given.is_dir():
            top, every = given, [Path(at, name) for at, _, names in os.walk(given, onerror=_raised) for name in names]
        else:
            fixed = list(given.parts[:-1])
            while any(map(glob.has_magic, fixed)):
                fixed.pop()
            top = Path(*fixed)
            every = [given] if given.is_file() else list(top.glob(str(given.relative_to(top))))
        found = [path for path in every if path.is_file()]
    except OSError as e:
        msg = f"--input {quote(str(given), 300)[1:-1]}: cannot be read ({reason(e)})"
        raise InputError(msg) from e
    hidden = [path for path in found if any(part.startswith(".") for part in path.relative_to(top).parts)]
    return top, sorted(path for path in found if path not in set(hidden))


def _raised(e: OSError) -> None:
    raise e


def _check_apart(given: Path, top: Path, output: Path, errors: Path | None) -> None:
    """Errors: `InputError` for outputs among the inputs, where the next run would read them."""
    inside, deep = top.resolve(), given.is_dir() or "**" in given.parts
    for option, folder in (("--output", output), ("--errors", errors)):
        if folder is None:
            continue
        if folder.exists() and not folder.is_dir():
            msg = f"{option} {folder}: it is a file; of several inputs expected a directory"
            raise InputError(msg)
        if deep and folder.resolve().is_relative_to(inside):
            msg = f"{option} {folder}: it lies in --input {given}, and would be read the next time; name another"
            raise InputError(msg)
    if errors is not None and errors.resolve() == output.resolve():
        msg = f"--errors {errors}: it is --output too; name another directory"
        raise InputError(msg)


def _check_free(sources: list[Source]) -> None:
    """Errors: `InputError` for an output, or its journal, that is a file of the input."""
    read = {source.path.resolve() for source in sources}
    for source in sources:
        for path in (source.output, journal_of(source.output), source.errors):
            if path is not None and path.resolve() in read:
                msg = f"--output: {path} is one of the files of --input; name another directory"
                raise InputError(msg)
