"""llama.cpp's server: started with a file, and asked for answers as they come.

It is no worker: the measuring process talks HTTP with it, as its users do. A request's prompt is ids; an event of the
answer is a token and its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from . import llamacpp
from .gguf import write_gguf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

PACKAGES, DTYPES = ("gguf",), llamacpp.DTYPES
HOST, WITHIN = "127.0.0.1", 60.0  # seconds to load a model in


def convert(model: Path, out: Path, dtype: str) -> None:
    """Write one GGUF file with a tokenizer: the server spells what it answers."""
    write_gguf(model, out, DTYPES[dtype], tokenizer=True)


class Server:
    """A `llama-server` on this machine, for as long as it is open. Errors: `RuntimeError`, with its last words."""

    def __init__(self, program: str, model: Path, *, slots: int, context: int, threads: int) -> None:
        """Start it and wait until it answers. `context`: positions of each of the `slots`."""
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        how = {"-m": model, "-np": slots, "-c": slots * context, "-t": threads, "-tb": threads, "--port": self.port}
        words = [program, "-cb", "--host", HOST, *(str(w) for option in how.items() for w in option)]
        self.options = [w for w in words[1:] if w not in {str(model), str(self.port), "-m", "--port", "--host", HOST}]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        try:
            self._process = subprocess.Popen(words, stdout=self._said, stderr=subprocess.STDOUT)  # noqa: S603 - its user named it
        except OSError as error:
            self._said.close()
            msg = f"{program} cannot be run ({error.strerror}); expected llama.cpp's llama-server"
            raise RuntimeError(msg) from error
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + WITHIN
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError), self._get("health"):
                return  # while it loads the status is an error's
            time.sleep(0.1)
        self._said.seek(0)
        last = self._said.read().decode(errors="replace").strip().splitlines()[-1:]
        msg = f"llama-server did not answer within {WITHIN:.0f} s, or ended ({' '.join(last)})"
        raise RuntimeError(msg)

    def _get(self, path: str) -> Any:  # noqa: ANN401 - what urllib returns
        return urllib.request.urlopen(f"http://{HOST}:{self.port}/{path}", timeout=5)

    def about(self) -> dict[str, Any]:
        """Its build, and how it was started."""
        with self._get("props") as answer:
            props = json.load(answer)
        return {"name": "llama-server", "build": props.get("build_info"), "options": self.options}

    def stream(self, prompt: Sequence[int], new: int) -> AsyncIterator[int]:
        """The answer of `new` ids, greedily, whatever ends it: as each comes, how many came with it."""
        return stream(self.port, prompt, new)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        self._said.close()


async def stream(port: int, prompt: Sequence[int], new: int) -> AsyncIterator[int]:
    """As `Server.stream`. RuntimeError: it refused, or answered fewer."""
    asked = {
        "prompt": list(prompt), "n_predict": new, "stream": True, "cache_prompt": True, "ignore_eos": True,
        "samplers": ["top_k"], "top_k": 1,
    }  # fmt: skip
    body = json.dumps(asked).encode()
    head = f"POST /completion HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection(HOST, port)
    counted, status = 0, b""
    try:
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        status = await reader.readline()
        while b" 200 " in status and (line := await reader.readline()):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            n = event["tokens_predicted"] - counted  # more than one where some were no whole letter yet
            counted += n
            if n > 0:
                yield n
            if event.get("stop"):
                break
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    if counted != new:
        msg = f"llama-server answered {counted} ids ({status.decode(errors='replace').strip()}), expected {new}"
        raise RuntimeError(msg)
