"""docs/deploy: what the files say fits the server; the Dockerfile's steps and the limits of memory, as a soak.

`apt install bubblewrap systemd`, and `./dev soak deploy --minutes 0`. The soak builds a wheel: minutes.
"""

from __future__ import annotations

import configparser
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import miaotui.machine
import pytest
from containers import Stage, exec_form, instructions, left_out, stages
from miaotui.tools import cli, demo

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from miaotui.tools.commands import serve
from miaotui.tools.server.notify import notify
from miaotui.tools.server.running import LAST_WORDS
from miaotui.tools.server.settings import Settings
from serve_processes import serving
from test_packaging import PACKAGES, ROOT, SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = ROOT / "docs" / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
#: The time that the server takes to end, at most.
ENDS = Settings.grace + LAST_WORDS


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd tells cases apart
    parser.read(DEPLOY / "miaotui.service", encoding="utf-8")
    return parser


def test_the_unit_fits_the_server() -> None:
    service = unit()["Service"]
    assert float(service["TimeoutStopSec"]) > ENDS
    assert int(service["RestartPreventExitStatus"]) == cli.USAGE
    text = (DEPLOY / "miaotui.service").read_text(encoding="utf-8")
    [example] = re.findall(r'^# OPTIONS="(.*)"$', text, re.MULTILINE)
    program, *words = service["ExecStart"].replace("$OPTIONS", example).split()
    assert Path(program).name == "miaotui"
    args, _ = cli._parse(words)
    assert (args.command, args.host, args.max_context) == ("serve", "127.0.0.1", 4096)


def test_the_dockerfile_fits_the_server() -> None:
    told = dict(instructions(DOCKERFILE))
    assert told["STOPSIGNAL"] == "SIGTERM"
    assert int(told["USER"].partition(":")[0]) > 0
    program, *words = exec_form(told["ENTRYPOINT"])
    args, _ = cli._parse(words)
    assert (program, args.command, str(args.port)) == ("miaotui", "serve", told["EXPOSE"])
    assert f":{args.port}/health'" in exec_form(told["HEALTHCHECK"])[-1]
    compose = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    [seconds] = re.findall(r"stop_grace_period: (\d+)s", compose)
    assert int(seconds) > ENDS
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    seconds, again = re.findall(r"--stop-timeout (\d+)", page)
    assert again == seconds
    assert int(seconds) > ENDS


def test_the_image_s_context_has_the_package_and_no_more() -> None:
    patterns = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    names = [str(path.relative_to(ROOT)) for path in SOURCES]
    assert len(names) > len(PACKAGES)
    names += [
        "runtime/cpu/compiled/manifest.json",
        "pyproject.toml",
        "setup.py",
        "LICENSE",
        "README.md",
        "tools/server/page/page.js",
    ]
    names += [str(path.relative_to(ROOT)) for path in (ROOT / "tools" / "demo").rglob("*.json")]
    assert [name for name in names if left_out(patterns, name)] == []
    for name in (".git/HEAD", "build/x", "tests/conftest.py", "tools/__pycache__/a.pyc"):
        assert left_out(patterns, name), name


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    name = f"@miaotui-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify("READY=1")  # nobody listens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0"))
        listener.settimeout(30)
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def group_that_leaves(n_bytes: int, at: Path) -> Path:
    """A root with a control group in it."""
    files = {"proc/self/cgroup": "0::/x\n", "sys/fs/cgroup/x/memory.max": f"{n_bytes + 1000}\n",
             "sys/fs/cgroup/x/memory.current": "1000\n"}  # fmt: skip
    for name, text in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(text)
    return at


def test_a_model_that_a_control_group_has_no_room_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it is loaded; not the second model's share either; --memory-limit is believed instead."""
    two = ["serve", "--port", "0", "--model", f"{demo.path()}=one", "--model", f"{demo.path('chat')}=two"]
    monkeypatch.setattr(miaotui.machine, "ROOT", group_that_leaves(serve.SPARE + 20_000_000, tmp_path))
    assert cli.main(two) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"chat: needs 13,\d{3},\d{3} bytes besides the mapped files, 7,\d{3},\d{3} over the 6,\d{3},\d{3} that this "
        r"process's control group leaves; a smaller --max-context .*; so does a smaller --cache-tokens \(now 4,096\); "
        r"128 MiB of the group's limit are kept for requests, unless --memory-limit is given\n$", said,
    ), said  # fmt: skip
    assert "traceback" not in said.lower()
    for more in (["--memory-limit", "20MB"], ["--cache-tokens", "512"]):
        args, _ = cli._parse([*two, *more])
        with ExitStack() as opened:
            assert [entry.name for entry in serve._served(args, opened)] == ["one", "two"]


# The soak


@pytest.mark.soak("deploy")
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit_and_finds_it_tight(tmp_path: Path) -> None:
    text = (DEPLOY / "miaotui.service").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    [edited] = re.findall(r"^```ini\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    file = tmp_path / "miaotui.service"
    file.write_text((text + edited).replace("/opt/miaotui/bin/miaotui", shutil.which("true") or "/bin/true"))
    analyze = shutil.which("systemd-analyze")
    verified = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    words = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", file]
    tight = subprocess.run(words, capture_output=True, text=True, check=False)
    assert tight.returncode == 0, tight.stdout
    assert "Overall exposure level" in tight.stdout


def allowed(group: str) -> set[str]:
    """System calls of a group, as systemd names them."""
    words = [shutil.which("systemd-analyze"), "syscall-filter", group]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")[1:]
    names = {line.strip() for line in listed if line.strip() and not line.strip().startswith("#")}
    return {call for name in names for call in (allowed(name) if name.startswith("@") else {name})}


@pytest.mark.soak("deploy")
@pytest.mark.skipif(not shutil.which("strace") or not shutil.which("systemd-analyze"), reason="strace is not installed")
def test_the_server_needs_no_system_call_that_the_unit_forbids(tmp_path: Path) -> None:
    text = (DEPLOY / "miaotui.service").read_text(encoding="utf-8")
    may, may_not = re.findall(r"^SystemCallFilter=(~?@[\w-]+)$", text, re.MULTILINE)
    calls = tmp_path / "calls"
    with serving(within=["strace", "-f", "-qq", "-c", "-U", "name", "-o", str(calls)]) as (process, port):
        for more in ({"stream": True}, {"response_format": {"type": "json_object"}, "max_tokens": 8}):
            body = json.dumps({"messages": [{"role": "user", "content": "What did Tom have?"}], **more})
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
                assert connection.getresponse().read()
        [server] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        os.kill(int(server), signal.SIGTERM)
        assert process.wait(60) == 0
    used = set(calls.read_text(encoding="utf-8").split()) - {"syscall", "total"} - {"-" * 16}
    assert {"execve", "mmap", "futex", "accept4"} <= used
    assert {call for call in used if call.strip("-")} <= allowed(may) - allowed(may_not[1:])


#: Runs in the container: the entry point, the health check, a question, attempts to write, the end.
INSIDE = r"""
import ctypes, json, os, signal, subprocess, sys, urllib.request
no_exec = ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, of Linux 6.3: nothing that is written is executed
entry, check, stop = json.loads(sys.argv[1])
with subprocess.Popen(entry, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
    told = {"no_exec": no_exec, "line": server.stdout.readline(), "user": os.getuid(), "variables": sorted(os.environ)}
    told["check"] = [subprocess.run(check).returncode]
    body = {"messages": [{"role": "user", "content": "Tom had a red ball. What did Tom have?"}], "temperature": 0}
    asked = urllib.request.Request("http://127.0.0.1:8000/v1/chat/completions", json.dumps(body).encode(),
                                   {"content-type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        told["answer"] = json.load(answer)["choices"][0]["message"]["content"]
    told["written"] = []
    for folder in (os.getcwd(), sys.prefix, "/", "/tmp", "/var/tmp", "/models/chat", "/root"):
        try:
            with open(os.path.join(folder, "x"), "w"): told["written"].append(folder)
        except OSError: told.setdefault("kept", []).append(folder)
    server.send_signal(stop)
    told["end"] = server.wait(60)
    told["check"].append(subprocess.run(check, stderr=subprocess.DEVNULL).returncode)
    told["log"] = server.stderr.read()
print(json.dumps(told))
"""


@pytest.mark.soak("deploy")
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_the_dockerfile_s_steps_make_a_server_that_writes_nowhere(tmp_path: Path) -> None:
    build, image = stages(DOCKERFILE, ROOT, tmp_path)
    assert build.base == image.base
    compilers = list(image.environment.glob("lib/python3*/site-packages/numba"))
    assert compilers == []
    told = _inside(image)
    assert told["no_exec"] in {0, -1}  # -1: an older kernel
    assert told["line"] == "chat: http://0.0.0.0:8000/v1\n"
    assert told["answer"] == " Tom has a red ball."
    assert told["user"] == 65532
    assert "HOME" not in told["variables"]
    assert told["written"] == []
    assert told["check"] == [0, 1]  # while it runs, and after its end
    assert told["end"] == 0
    assert "note" not in told["log"]
    assert "rror" not in told["log"]


def _inside(image: Stage) -> dict[str, object]:
    entry = [*exec_form(image.words["ENTRYPOINT"]), "--model", "/models/chat"]
    given = json.dumps([entry, exec_form(image.words["HEALTHCHECK"]), 15])
    words = image.command(["python", "-c", INSIDE, given], {"/models/chat": demo.path("chat")}, final=True)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


GROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A real one, with a limit of memory: v1 or v2."""
    v1 = GROUPS / "memory"
    group = (v1 if v1.is_dir() else GROUPS) / f"miaotui-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text(str(limit))
    except OSError as e:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"this process may make no control group ({e})")
    try:
        yield group
    finally:
        group.rmdir()


def within(group: Path | None = None, address_space: str = "unlimited") -> list[str]:
    """Words of a command that runs another, limited."""
    enter = f"echo $$ > {group}/cgroup.procs; " if group else ""
    return ["sh", "-c", f'{enter}ulimit -v {address_space}; exec "$@"', "sh"]


def refused(limited: list[str], *options: str) -> str:
    """What `miaotui serve` says, which ends by itself."""
    words = [*limited, sys.executable, "-m", "miaotui", "serve", "--port", "0", *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.mark.soak("deploy")
def test_a_real_group_s_limit_is_an_error_and_no_kill() -> None:
    """A cache that would grow over the limit as texts come is refused when the server starts."""
    with control_group(512 << 20) as group:
        said = refused(within(group), "--cache-tokens", "1000000")
    assert re.search(r"error: chat: needs 3,\d{3},\d{3},\d{3} bytes .* that this process's control group", said), said


@pytest.mark.soak("deploy")
def test_what_a_real_group_s_limit_has_room_for_is_never_killed() -> None:
    """The cache is filled to its last page, and more comes."""
    n_tokens, draw = 50_000, Random(7)  # noqa: S311 - ids
    options = ["--model", f"{demo.path()}=story", "--cache-tokens", str(n_tokens)]
    with (
        control_group(384 << 20) as group,
        serving(*options, within=within(group)) as (process, port),
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection,
    ):
        for _ in range(n_tokens // 500 + 10):
            ids = [draw.randrange(10, 500) for _ in range(500)]
            body = json.dumps({"prompt": ids, "max_tokens": 2, "temperature": 0})
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            with connection.getresponse() as response:
                assert response.status == 200
                response.read()
        assert process.poll() is None
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10
        assert peak > n_tokens * 3072, "the cache is full"
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.soak("deploy")
def test_little_address_space_is_an_error_and_no_kill() -> None:
    said = refused(within(address_space=str(3 << 20)), "--cache-tokens", "1000000")
    assert re.search(r"error: .*memory", said), said
    assert "not foreseen" not in said
