"""A name becomes a directory: one on disk, or one that `huggingface_hub` downloads into its cache.

`huggingface_hub` is asked for the safetensors, JSON and Jinja files of a repository, nothing else; its cache,
progress bar, credentials, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` work as it documents them.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, HubError, InputError, MiaotuiError, spelled_like
from ..handlers import raised_in_handler
from .checkpoint import CONFIG, MAX_CONFIG
from .config import QUANT_METHOD
from .files import printable, quote, read_json_object
from .formats import other_format, other_quantization
from .paths import as_path, is_there

__all__ = ["locate"]

_SMALL = ["*.json", "*.jinja"]
_ALLOW = ["*.safetensors", *_SMALL]
_IGNORE = ["*/*.safetensors", "consolidated*.safetensors"]  # the same weights again, in other formats
MODEL_FILES = "config.json and model.safetensors"
#: A repository's page.
_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", re.ASCII)
#: "name" or "org/name", as the hub allows them.
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)


def locate(name_or_path: str | Path, *, revision: str | None = None, files: str = MODEL_FILES) -> Path:
    """Find the checkpoint: a path that exists wins; otherwise "name" or "org/name" is looked up on the hub.

    `files`: what its directory should hold, in words.
    Errors: `CheckpointError` for a path that does not exist, `InputError` for a revision of one that does, `HubError`
    for a name that cannot be had, with its cause.
    """
    if isinstance(name_or_path, str | Path) and "\0" in str(name_or_path):
        msg = f"{quote(str(name_or_path), 300)}: no such directory; a name cannot hold a NUL byte"
        raise CheckpointError(msg)
    path = as_path(name_or_path, "the checkpoint's path or hub name")
    text = str(name_or_path)
    if revision is not None and (not isinstance(revision, str) or not revision):
        msg = f"revision={quote(revision)}: expected a branch, a tag or a commit"
        raise InputError(msg)
    with suppress(RuntimeError):  # no such user
        path = path.expanduser()
    if is_there(path):
        if revision is not None:
            of = quote(text, 300)
            msg = f"revision={quote(revision)}: only hub names have revisions, and {of} is a path; leave it out"
            raise InputError(msg)
        return path
    if not isinstance(name_or_path, str) or _looks_like_path(text):
        msg = f"{quote(text, 300)}: {_absent(text, files)}{_nearest(path)}"
        raise CheckpointError(msg)
    if revision is None and (what := _mistyped(path)):
        msg = f"{text}: {what}; where the hub's repository of this name is meant, say so with revision='main'"
        raise CheckpointError(msg)
    return _download(text, revision)


def _absent(text: str, files: str) -> str:
    """What to say of a path that is not there, and is no name either: it may be a page's address, or a file's there."""
    page = _PAGE.match(text)
    if page is not None:
        return f"is the address of a page; give the hub name alone: {page[1]}"
    expected = f"give one that holds {files}, or a hub name such as org/name"
    what = other_format([text])
    return f"no such directory; {expected}" if what is None else f"no such file here, and by its name {what}"


def _mistyped(path: Path) -> str:
    """Why a name is rather a path that was mistyped than a repository's; or ""."""
    if len(path.parts) > 1 and is_there(path.parent):
        return f"no such directory in {path.parent}, which is a directory here{_nearest(path)}"
    near = _nearest(path)
    return f"no such directory here{near}" if near else ""


def _nearest(path: Path) -> str:
    """The checkpoint next to a path that is not there whose name is nearly its own, as a question; or ""."""
    try:
        folders = [p.name for p in path.parent.iterdir() if (p / "config.json").is_file()]
    except (OSError, ValueError):  # nothing to be seen there: no advice
        return ""
    near = spelled_like(path.name, folders, 1, 0.75)
    return f" (did you mean {path.with_name(near[0])}?)" if near else ""


def _looks_like_path(text: str) -> bool:
    """Whether no hub name could be meant: "./x", "/x", "~/x", "a/b/c", "x.safetensors", or a file."""
    return (
        _NAME.fullmatch(text) is None
        or text.endswith((".safetensors", ".json"))
        or other_format([text]) is not None
        or ".." in text
    )


def _download(name: str, revision: str | None) -> Path:
    where = f"hub name {name!r}" + (f", revision {quote(revision)}" if revision else "")
    try:
        import huggingface_hub  # noqa: PLC0415 - slow to import, and needed for names only
    except ImportError as e:
        msg = f"{where}: no such directory here, and huggingface_hub is not installed: pip install huggingface_hub"
        raise HubError(msg) from e
    how: dict[str, Any] = {"revision": revision, "ignore_patterns": _IGNORE, "library_name": "miaotui"}
    try:
        _refuse_quantized(Path(str(huggingface_hub.snapshot_download(name, allow_patterns=_SMALL, **how))), where)
        made = Path(str(huggingface_hub.snapshot_download(name, allow_patterns=_ALLOW, **how)))
    except MiaotuiError:
        raise
    except Exception as e:  # noqa: BLE001 - its classes have changed their modules; each is a HubError, as it came
        raised_in_handler(e)
        msg = f"{where}: {_advice(e)}"
        raise HubError(msg) from _bare(e)
    if not any(made.glob("*.safetensors")) and (what := _held_instead(huggingface_hub, name, revision)):
        msg = f"{where}: {what}"
        raise CheckpointError(msg)
    return made


def _refuse_quantized(folder: Path, where: str) -> None:
    """ConfigError, before gigabytes of weights are fetched, where config.json says that others quantised them."""
    file = folder / CONFIG
    if not is_there(file):
        return
    if what := other_quantization(read_json_object(file, MAX_CONFIG, ConfigError), (), QUANT_METHOD):
        msg = f"{where}: {what}"
        raise ConfigError(msg)


def _bare(e: Exception) -> Exception:
    """The exception without those that led to it, and without their tracebacks: pages, for one line that we have."""
    e.__cause__ = e.__context__ = None
    return e.with_traceback(None)


def _held_instead(hub: Any, name: str, revision: str | None) -> str | None:  # noqa: ANN401 - a module
    """What a repository without safetensors weights holds, which was not downloaded; None where it cannot be asked."""
    try:
        return other_format(hub.HfApi(library_name="miaotui").list_repo_files(name, revision=revision))
    except Exception as e:  # noqa: BLE001 - only for the message; what the directory lacks is said anyhow
        raised_in_handler(e)
        return None


def _first(e: BaseException) -> BaseException:
    """What all others were raised for: "connection refused" rather than what became of it."""
    while (before := e.__cause__ or e.__context__) is not None:
        e = before
    return e


def _advice(e: Exception) -> str:  # noqa: PLR0911 - a table of cases
    """One line for huggingface_hub's exception: what it means, what to do. Names of classes outlive their modules."""
    names = {kind.__name__ for kind in type(e).__mro__}
    cause = printable(" ".join(str(_first(e)).split()), 120) or type(e).__name__
    status = getattr(getattr(e, "response", None), "status_code", None)
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if "GatedRepoError" in names:
        return "access must be granted first: accept the terms on the model's page, then run `hf auth login`"
    if "RevisionNotFoundError" in names:
        return "the repository has no such revision; give a branch, a tag or a commit of it"
    if "RepositoryNotFoundError" in names or status in {401, 403, 404}:
        return (
            "no such directory here, and no such repository there or a private one: check the name, or `hf auth login`"
        )
    if offline or "OfflineModeIsEnabled" in names:
        why = "no such directory here, not (wholly) in the cache, and HF_HUB_OFFLINE forbids downloading"
        return f"{why}: unset it once to fetch the files"
    if names & {"IncompleteSnapshotError", "LocalEntryNotFoundError"}:
        why = "no such directory here, not wholly in the cache, and the hub cannot be reached"
        return f"{why}: check the network and HF_ENDPOINT ({cause})"
    if isinstance(e, OSError) and e.errno is not None:
        return f"the download could not be stored or read ({cause}): check the disk and HF_HOME"
    return f"the download failed ({cause}): check the network and HF_ENDPOINT, and try again"
