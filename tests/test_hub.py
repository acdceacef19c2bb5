"""Hub names, against a server on 127.0.0.1 that answers as the hub does. Nothing leaves this machine.

`huggingface_hub` reads its environment when it is imported, so every case runs in a process of its own.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from broken import CONFIG, write_good
from miaotui.errors import CheckpointError, HubError, InputError
from miaotui.loader import hub

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = "org/tiny"
COMMITS = {"main": "a" * 40, "v2": "b" * 40}


@dataclass
class Hub:
    """A repository of two revisions; `asked` lists the requests, `broken` makes every answer a 500."""

    endpoint: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> name -> bytes
    asked: list[str] = field(default_factory=list)
    broken: bool = False

    def downloads(self) -> list[str]:
        """Return the files that were fetched, in full paths, and forget all requests."""
        got = [a.split()[1] for a in self.asked if a.startswith("GET") and "/resolve/" in a]
        self.asked.clear()
        return sorted(got)


class Handler(BaseHTTPRequestHandler):
    """The three endpoints that a snapshot download asks: revision, tree, resolve."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        """Answer with a body."""
        self.answer(body=True)

    def do_HEAD(self) -> None:
        """Answer without one."""
        self.answer(body=False)

    def answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if self.hub.broken:
            self.reply(500, b"down", body=body)
        elif parts[:2] == ["api", "models"]:
            self.reply(*self.api("/".join(parts[2:4]), parts[4:]), body=body)
        elif "/".join(parts[:2]) == REPO and parts[2] == "resolve":
            commit = COMMITS.get(parts[3], parts[3])
            data = self.hub.files.get(commit, {}).get("/".join(parts[4:]))
            if data is None:
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
            else:
                self.reply(200, data, {"X-Repo-Commit": commit, "ETag": f'"{digest(data)}"'}, body=body)
        else:
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound"}, body=body)

    def api(self, repo: str, rest: list[str]) -> tuple[int, bytes, dict[str, str]]:
        if repo == "org/gated":
            return 403, b"{}", {"X-Error-Code": "GatedRepo"}
        if repo != REPO:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        kind, name = (rest or ["revision"])[0], rest[1] if len(rest) > 1 else "main"
        commit = COMMITS.get(name, name)
        files = self.hub.files.get(commit)
        if files is None:
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
        if kind == "tree":
            tree = [{"type": "file", "path": n, "size": len(d), "oid": digest(d)} for n, d in files.items()]
            return 200, json.dumps(tree).encode(), {}
        siblings = [{"rfilename": n} for n in files]
        return 200, json.dumps({"id": repo, "sha": commit, "siblings": siblings, "tags": []}).encode(), {}

    def reply(self, status: int, data: bytes, headers: dict[str, str] | None = None, *, body: bool) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def digest(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    good = write_good(tmp_path / "source")
    files = {f.name: f.read_bytes() for f in good.iterdir()}
    others = {"pytorch_model.bin": b"pickle", "original/model.safetensors": b"no", "README.md": b"#", "x.py": b""}
    second = {**files, "config.json": json.dumps(CONFIG | {"rope_theta": 5.0}).encode()}
    state = Hub(files={COMMITS["main"]: files | others, COMMITS["v2"]: second})
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"hub": state}))
    state.endpoint = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


SCRIPT = """
import json, sys, traceback
from miaotui.errors import MiaotuiError
from miaotui.loader.hub import locate
from miaotui.loader.checkpoint import open_checkpoint
try:
    path = locate(sys.argv[1], revision=sys.argv[2] or None)
    with open_checkpoint(path) as c:
        answer = {"path": str(path), "files": sorted(p.name for p in path.rglob("*")), "theta": c.config["rope_theta"]}
        answer["norm"] = c.array("model.norm.weight").tolist()
except MiaotuiError as e:
    answer = {"error": type(e).__name__, "text": str(e), "cause": type(e.__cause__).__name__}
    answer["traceback"] = "".join(traceback.format_exception(e))
print(json.dumps(answer))
"""


def ask(home: Path, endpoint: str, name: str = REPO, revision: str = "", **env: str) -> dict[str, object]:
    """Resolve and open a name in a fresh process that knows only this endpoint and this cache."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, revision],
        env=clean | settings | env,
        cwd=home.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    got: dict[str, object] = json.loads(run.stdout.splitlines()[-1]) | {"stderr": run.stderr}
    return got


def test_download_cache_revision_offline(server: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = ask(home, server.endpoint)
    wanted = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert first["files"] == wanted, first
    assert first["theta"] == CONFIG["rope_theta"]
    assert "Fetching" in str(first["stderr"])  # the progress bar is huggingface_hub's own
    assert len(server.downloads()) == len(wanted)

    assert ask(home, server.endpoint)["path"] == first["path"]
    assert server.downloads() == []

    second = ask(home, server.endpoint, revision="v2")
    assert second["theta"] == 5.0, second
    assert str(second["path"]).endswith(COMMITS["v2"])
    assert [d.rsplit("/", 1)[1] for d in server.downloads()] == ["config.json"]  # the rest is the same

    server.broken = True
    for revision in ("", "main", "v2"):
        offline = ask(home, server.endpoint, revision=revision, HF_HUB_OFFLINE="1")
        assert offline["path"] == (second if revision == "v2" else first)["path"], offline
    assert server.asked == []
    assert ask(home, server.endpoint)["path"] == first["path"]  # the hub is down, the cache is whole


@pytest.mark.parametrize(
    ("asked", "env", "words"),
    [
        (("org/none", ""), {}, ("org/none", "check the name")),
        (("tiny", ""), {}, ("'tiny'", "no such directory here")),
        ((REPO, "v9"), {}, (REPO, "'v9'", "no such revision")),
        (("org/gated", ""), {}, ("org/gated", "terms")),
        ((REPO, ""), {"HF_HUB_OFFLINE": "1"}, (REPO, "cache", "HF_HUB_OFFLINE")),
        ((REPO, ""), {"HF_ENDPOINT": "http://127.0.0.1:9"}, (REPO, "reached", "HF_ENDPOINT")),
        (("a--b", ""), {}, ("a--b",)),
    ],
)
def test_what_goes_wrong(
    server: Hub, tmp_path: Path, asked: tuple[str, str], env: dict[str, str], words: tuple[str, ...]
) -> None:
    got = ask(tmp_path / "home", server.endpoint, *asked, **env)
    assert got.get("error") == "HubError", got
    assert got["cause"] != "NoneType"
    for word in words:
        assert word in str(got["text"]), got["text"]
    assert "\n" not in str(got["text"])
    assert len(str(got["text"])) < 400
    assert str(got["traceback"]).count("\n") < 30, got["traceback"]  # not of every library on the way


def test_the_hub_is_down(server: Hub, tmp_path: Path) -> None:
    server.broken = True
    got = ask(tmp_path / "home", server.endpoint)
    assert (got["error"], "cannot be reached" in str(got["text"])) == ("HubError", True), got


def test_a_damaged_download_is_a_checkpoint_error(server: Hub, tmp_path: Path) -> None:
    server.files[COMMITS["main"]]["model.safetensors"] = b"<html>sorry</html>"
    got = ask(tmp_path / "home", server.endpoint)
    assert got["error"] == "CheckpointError"
    assert "HTML" in str(got["text"])


def test_a_directory_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write_good(tmp_path / "org" / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_download", None)  # a look-up would be a TypeError
    assert hub.locate("org/tiny").samefile(good)
    assert hub.locate(good) == good
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.locate("~/org/tiny") == good


PATHS = ["./x", "/no/such/x", "~/no-such-x", "../x", "a/b/c", "x.safetensors", "a b", "x\0y", "~nobody9/x", "org/"]


@pytest.mark.parametrize("path", [*PATHS, "."])
def test_a_path_is_never_looked_up(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_download", None)
    if path == ".":  # the current directory
        assert hub.locate(path) == Path()
        return
    with pytest.raises(CheckpointError, match="no such directory"):
        hub.locate(path)


def test_a_path_object_is_never_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_download", None)
    with pytest.raises(CheckpointError, match="no such directory"):
        hub.locate(tmp_path / "x")


@pytest.mark.parametrize("bad", [None, 3, ["org/tiny"], b"org/tiny"])
def test_a_name_is_a_text(bad: object) -> None:
    with pytest.raises(InputError, match="str or a Path"):
        hub.locate(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["", 3])
def test_a_revision_is_a_text(bad: str) -> None:
    with pytest.raises(InputError, match="revision"):
        hub.locate("org/none-such", revision=bad)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match="pip install huggingface_hub"):
        hub.locate("org/none-such")


@pytest.mark.parametrize(("said", "word"), [
    ({"quantization_config": {"quant_method": "gptq", "bits": 2}}, "GPTQ"),
    ({"quantization_config": {"quant_method": "awq"}}, "AWQ"),
    ({"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}, "FP8"),
    ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
])  # fmt: skip
def test_a_repository_that_others_quantised_is_refused_before_its_weights_are_fetched(
    server: Hub, tmp_path: Path, said: dict[str, object], word: str
) -> None:
    files = server.files[COMMITS["main"]]
    files["config.json"] = json.dumps(CONFIG | said).encode()
    got = ask(tmp_path / "home", server.endpoint)
    assert got["error"] == "ConfigError", got
    assert f"is quantised by {word} (" in str(got["text"])
    assert "original checkpoint" in str(got["text"])
    assert not any(name.endswith(".safetensors") for name in server.downloads())


@pytest.mark.parametrize(("name", "says"), [
    ("org/name/llama-2.Q4_K_M.gguf", "GGUF file of llama.cpp"),
    ("org/model.gguf", "GGUF file"),
    ("model.gguf", "GGUF file"),
    ("org/ggml-model.bin", "GGML file of llama.cpp or whisper.cpp"),
    ("org/name/pytorch_model.bin", "pickled PyTorch"),
    ("tf_model.h5", "TensorFlow"),
    ("flax_model.msgpack", "Flax"),
    ("weights.npz", "MLX"),
    ("https://huggingface.co/org/tiny", "give the hub name alone: org/tiny"),
    ("huggingface.co/org/tiny/tree/main", "give the hub name alone: org/tiny"),
    ("hf.co/org/tiny?x=1", "give the hub name alone: org/tiny"),
])  # fmt: skip
def test_a_file_of_the_hub_or_a_page_s_address_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_download", None)  # a look-up would be a TypeError
    with pytest.raises(CheckpointError) as e:
        hub.locate(name)
    assert str(e.value).startswith(repr(name))
    assert says in str(e.value)


@pytest.mark.parametrize(
    ("name", "word"), [("ggml-model-q4_0.bin", "GGML"), ("flax_model.msgpack", "Flax"), ("model.npz", "MLX"),
                       ("pytorch_model.bin", "pickled"), ("model-q4.gguf", "GGUF"), ("tf_model.h5", "TensorFlow")]
)  # fmt: skip
def test_a_repository_without_safetensors_says_what_it_holds(server: Hub, tmp_path: Path, name: str, word: str) -> None:
    files = server.files[COMMITS["main"]]
    server.files[COMMITS["main"]] = {"config.json": files["config.json"], name: b"x"}
    got = ask(tmp_path / "home", server.endpoint)
    assert got["error"] == "CheckpointError", got
    assert f"{name} is " in str(got)
    assert word in str(got)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "no space"), r"could not be stored or read \(.*no space.*check the disk and HF_HOME"),
        (OSError("odd"), r"the download failed \(odd\): check the network"),
        (ValueError(""), r"the download failed \(ValueError\): check the network"),
        *[
            (type(name, (Exception,), {})("why"), words)
            for name, words in {
                "GatedRepoError": "access must be granted first", "RevisionNotFoundError": "no such revision",
                "RepositoryNotFoundError": "no such repository there", "OfflineModeIsEnabled": "HF_HUB_OFFLINE forbids",
                "IncompleteSnapshotError": "not wholly in the cache", "LocalEntryNotFoundError": "cannot be reached",
            }.items()
        ],
    ],
)  # fmt: skip
def test_every_error_has_its_advice(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert re.search(words, hub._advice(error))
