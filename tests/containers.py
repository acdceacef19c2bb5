"""docs/deploy/Dockerfile where there is no Docker: its instructions, in a sandbox of bubblewrap's.

A stage is a virtual environment of this Python, in the place of the image's, and a folder for each folder that the file
names. What a RUN sees is the system, read-only, with these in it. What is not understood here is an AssertionError.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Stage", "exec_form", "instructions", "left_out", "stages"]

#: Of the system's root, what a sandbox gets by other means or has no use for.
OWN = ("dev", "proc", "run", "sys", "tmp", "work")
#: What a RUN takes from another stage.
MOUNT = re.compile(r"--mount=type=bind,from=(?P<stage>\w+),source=(?P<source>\S+),target=(?P<target>\S+)\s+")
#: How this machine reaches an index of packages, which Docker is told by build arguments and mounts.
REACHES = re.compile(r"PIP_|SSL_CERT|REQUESTS_CA|(https?|no)_proxy$", re.IGNORECASE)
#: What `python:…-slim` sets that matters here.
IMAGE = {"LANG": "C.UTF-8"}


def instructions(file: Path) -> list[tuple[str, str]]:
    """Words and what follows, with lines joined, without comments. Source: docs.docker.com/reference/dockerfile."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def left_out(patterns: str, path: str) -> bool:
    """Whether a .dockerignore leaves out a path: a pattern matches it or a folder above it; `**/` is any folders."""
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    for pattern in (line.strip() for line in patterns.splitlines()):
        if not pattern or pattern[0] == "#":
            continue
        anywhere = pattern.startswith("**/")
        for name in above:
            same_depth = pattern.count("/") == name.count("/")
            if anywhere and fnmatch.fnmatchcase(name.rpartition("/")[2], pattern[3:]):
                return True
            if not anywhere and same_depth and fnmatch.fnmatchcase(name, pattern):
                return True
    return False


@dataclass
class Stage:
    """One FROM: `environment` and `folders` are its file system, `words` the instructions that are no step."""

    at: Path
    base: str
    name: str
    arguments: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    folder: str = "/"

    @property
    def environment(self) -> Path:
        """The virtual environment."""
        return self.at / "environment"

    def place(self, name: str) -> Path:
        """Where a folder of the stage lies."""
        self.folders.setdefault(name, self.at / name.strip("/").replace("/", "-")).mkdir(parents=True, exist_ok=True)
        return self.folders[name]

    def command(self, words: list[str], mounted: Mapping[str, Path], *, final: bool = False) -> list[str]:
        """Of bubblewrap. `final`: as the image runs: nothing to write, no network but its own, the user of USER."""
        bind = "--ro-bind" if final else "--bind"
        options = ["bwrap", "--die-with-parent", "--clearenv", "--setenv", "PATH",
                   f"{self.environment / 'bin'}:/usr/bin:/bin"]  # fmt: skip
        given = {} if final else self.arguments | {k: v for k, v in os.environ.items() if REACHES.match(k)}
        for name, value in (IMAGE | self.variables | given).items():
            options += ["--setenv", name, value]
        for path in sorted(Path("/").iterdir()):
            if path.is_symlink():
                options += ["--symlink", str(path.readlink()), str(path)]
            elif path.is_dir() and path.name not in OWN:
                options += ["--ro-bind", str(path), str(path)]
        options += [] if final else ["--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
        options += ["--proc", "/proc", "--dev", "/dev", bind, str(self.environment), str(self.environment)]
        for name, path in self.folders.items():
            options += [bind, str(path), name]
        for name, path in mounted.items():
            options += ["--ro-bind", str(path), name]
        if final:
            user, _, group = self.words["USER"].partition(":")
            options += ["--unshare-all", "--uid", user, "--gid", group, "--remount-ro", "/"]
        return [*options, "--chdir", self.folder, *words]

    def run(self, text: str, mounted: Mapping[str, Path]) -> None:
        """A step by the shell."""
        done = subprocess.run(
            self.command(["sh", "-c", text], mounted), capture_output=True, text=True, check=False, timeout=1200
        )
        assert done.returncode == 0, f"RUN {text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def stages(file: Path, context: Path, at: Path) -> list[Stage]:
    """Every stage, built. `context`: the clone, with what git does not ignore, and kernels that were compiled."""
    made: list[Stage] = []
    steps = instructions(file)
    taken = [MOUNT.match(rest) for word, rest in steps if word == "RUN"]
    for word, rest in steps:
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            made.append(Stage(at / f"stage{len(made)}", base, name))
            subprocess.run([sys.executable, "-m", "venv", made[-1].environment], check=True)
            for mount in taken:
                if mount is not None and mount["stage"] == name:
                    made[-1].place(mount["source"])
            continue
        stage = made[-1]
        if word == "WORKDIR":
            stage.place(rest)
            stage.folder = rest
        elif word == "COPY":
            source, target = rest.split()
            assert (source, target) == (".", "."), rest
            _copy(file, context, stage.place(stage.folder))
        elif word == "RUN":
            mount = MOUNT.match(rest)
            mounted = {}
            if mount is not None:
                [other] = [each for each in made if each.name == mount["stage"]]
                mounted[mount["target"]] = other.folders[mount["source"]]
            command = rest[mount.end() :] if mount else rest
            assert not command.startswith("--"), rest
            stage.run(command, mounted)
        elif word in {"ARG", "ENV"}:
            name, equals, value = rest.partition("=")
            assert equals, rest
            (stage.arguments if word == "ARG" else stage.variables)[name] = value
        else:
            assert word in {"USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}, word
            stage.words[word] = rest
    return made


def _copy(file: Path, context: Path, to: Path) -> None:
    patterns = file.with_name(f"{file.name}.dockerignore").read_text(encoding="utf-8")
    for name in _tree(context):
        if not left_out(patterns, name):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context / name, to / name)


def _tree(context: Path) -> Iterator[str]:
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(words, cwd=context, capture_output=True, check=True).stdout.decode().split("\0")
    listed += [str(path.relative_to(context)) for path in context.glob("runtime/cpu/compiled/*")]  # by ./dev kernels
    return (name for name in listed if name and (context / name).is_file())


def exec_form(text: str) -> list[str]:
    """The words of `["a", "b"]`, after options."""
    words: list[str] = json.loads(text[text.index("[") :])
    return words
