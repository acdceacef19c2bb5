"""A worker that waits for one-line commands and times what it is told to do.

Runs in the interpreter of the peer that it drives, alone: it needs NumPy and what the peer's module of this folder
names as PACKAGES, and nothing of miaotui. Its ways:

    python -P worker.py convert PEER MODEL OUT DTYPE          write what the engine loads, unless the very same is there
    python -P worker.py dress PEER BASE MODEL OUT             write BASE, a file of the peer's, with MODEL's matrices
    python -P worker.py matrices PEER FILE                    say how large each matrix in a file of the peer's is
    python -P worker.py serve PEER OUT DTYPE THREADS CONTEXT  load it and obey

Each side of a comparison is such a process: it does its round, answers with a line of JSON, and sleeps in a read until
the next line, so that nobody computes while the other is timed.

    prefill ID ID …   clear the cache, feed the ids from position 0        -> {"seconds": […]}
    decode ID ID …    feed the ids one step at a time, after what was fed  -> {"seconds": [… a token]}
    logits            of the last token fed, float32 in base64             -> {"logits": "…"}

An encoder (`Encoder`) and an encoder-decoder (`Answerer`) obey these instead:

    encode ID … -1 ID …  several texts at once, each ended by -1 but the last  -> {"seconds": […]}
    hidden               of the last texts' tokens, float32 in base64          -> {"logits": "…"}
    answer N ID …        greedily N ids after the start, for one text          -> {"seconds": […], "ids": […]}

An engine that has commands of its own lists them in `own`, as `Batched` does:

    fill ID … -1 ID …           forget all; a sequence in the cache for each of these texts    -> {"seconds": […]}
    together N FIRST HOW_MANY   N ids more, greedily, of this many sequences from number FIRST on, a pass for all of
                                them at a time                                        -> {"seconds": […], "ids": […]}

    quit              or the end of input
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

HERE = Path(__file__).parent


class Engine(Protocol):
    """What is measured: one sequence in a cache."""

    def about(self) -> dict[str, Any]:
        """Facts for the record: name, version, seconds of loading …."""
        ...

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget what was fed; feed `ids`; compute the logits of the last."""
        ...

    def step(self, token: int) -> None:
        """Feed one token after what was fed; compute its logits."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] of the last token fed."""
        ...


class Encoder(Protocol):
    """What is measured of an encoder."""

    def about(self) -> dict[str, Any]:
        """As `Engine`'s."""
        ...

    def encode(self, texts: Sequence[Sequence[int]]) -> None:
        """Compute the last layer's rows of every text; padding is the engine's own affair."""
        ...

    def hidden(self) -> NDArray[np.float32]:
        """[tokens of all texts, d_model], without padding."""
        ...


class Answerer(Protocol):
    """What is measured of an encoder-decoder."""

    def about(self) -> dict[str, Any]:
        """As `Engine`'s."""
        ...

    def answer(self, ids: Sequence[int], n: int) -> list[int]:
        """Greedily n ids after the one that starts an answer, whatever ends it."""
        ...


class Batched(Protocol):
    """What is measured of an engine that reads its weights once for several sequences."""

    own: Mapping[str, Callable[[Sequence[int]], dict[str, Any]]]
    """`fill` and `together`, and what else it can; each is given the numbers of its line."""

    def about(self) -> dict[str, Any]:
        """As `Engine`'s."""
        ...


def texts_of(ids: Sequence[int]) -> list[list[int]]:
    """Texts parted by -1."""
    texts: list[list[int]] = [[]]
    for i in ids:
        if i < 0:
            texts.append([])
        else:
            texts[-1].append(i)
    return texts


def answer(engine: Any, line: str) -> dict[str, Any]:  # noqa: ANN401 - one of the four protocols
    """Do what one line says. ValueError: no such command."""
    command, *rest = line.split()
    ids = [int(word) for word in rest]
    own, seconds = getattr(engine, "own", {}), []
    if command in own:
        done: dict[str, Any] = own[command](ids)
        return done
    if command in {"logits", "hidden"}:
        return {"logits": base64.b64encode(np.asarray(getattr(engine, command)(), np.float32).tobytes()).decode()}
    if command == "encode":
        texts, start = texts_of(ids), time.perf_counter()
        engine.encode(texts)
        return {"seconds": [time.perf_counter() - start]}
    if command == "answer":
        start = time.perf_counter()
        new = engine.answer(ids[1:], ids[0])
        return {"seconds": [time.perf_counter() - start], "ids": new}
    if command == "prefill":
        start = time.perf_counter()
        engine.prefill(ids)
        seconds.append(time.perf_counter() - start)
    elif command == "decode":
        for token in ids:
            start = time.perf_counter()
            engine.step(token)
            seconds.append(time.perf_counter() - start)
    else:
        known = ("prefill", "decode", "logits", "encode", "hidden", "answer", *own)
        msg = f"command {command!r}: expected {', '.join(known)} or quit"
        raise ValueError(msg)
    return {"seconds": seconds}


def serve(engine: Any) -> None:  # noqa: ANN401 - one of the four protocols
    """Say what the engine is, then obey standard input until `quit`."""
    _say(engine.about())
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        _say(answer(engine, line))


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def driver(name: str) -> Any:  # noqa: ANN401 - a module: PACKAGES, DTYPES, Engine, and convert unless it loads MODEL itself
    """Import the peer's module of this folder, as a package of its own. ImportError names a package that is missing."""
    spec = importlib.util.spec_from_file_location("peers", HERE / "__init__.py", submodule_search_locations=[str(HERE)])
    if spec is None or spec.loader is None:
        msg = "the folder of the peers has no __init__.py"
        raise ImportError(msg)
    package = sys.modules["peers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    modules = package.EVERY
    module = importlib.import_module(f"peers.{modules[name]}")
    missing = [p for p in module.PACKAGES if importlib.util.find_spec(p) is None]
    if missing:
        msg = f"its interpreter has no {', '.join(missing)}"
        raise ImportError(msg)
    return module


def convert(name: str, model: Path, out: Path, dtype: str) -> None:
    """Write `out`, a file or a folder, under another name first; a mark next to it says what it was made from."""
    module = driver(name)
    if not hasattr(module, "convert"):  # it loads the directory itself; its packages are there
        return
    mark, text = out.with_name(out.name + ".made"), _recipe(module, model, dtype)
    if mark.exists() and out.exists() and mark.read_text(encoding="utf-8") == text:
        return
    part = out.with_name(out.name + ".part")
    for old in (mark, out, part):
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    module.convert(model, part, dtype)
    part.rename(out)
    mark.write_text(text, encoding="utf-8")  # last: it says that the rest is whole


def _recipe(module: Any, model: Path, dtype: str) -> str:  # noqa: ANN401 - a module
    """Say what a conversion depends on: dtype, model, the modules that write it, the packages' versions."""
    sources = sorted({Path(module.__file__), HERE / "gguf.py"})
    inputs = [model / "config.json", *sources, *(f for f in [model / "recipe.json"] if f.exists())]
    names = importlib.metadata.packages_distributions()
    packages = {p: importlib.metadata.version(names[p.partition(".")[0]][0]) for p in module.PACKAGES}
    hashes = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in inputs}
    size = (model / "model.safetensors").stat().st_size
    return json.dumps({"dtype": dtype, "bytes": size, "hashes": hashes, "packages": packages})


def main() -> None:
    """Do what the command line says, as above."""
    mode, name, *rest = sys.argv[1:]
    if mode == "dress":
        driver(name).write_as(*map(Path, rest))
        return
    if mode == "matrices":
        _say(driver(name).matrices(Path(*rest)))
        return
    if mode == "convert":
        model, out, dtype = rest
        convert(name, Path(model), Path(out), dtype)
        return
    path, dtype, threads, context = rest
    serve(driver(name).Engine(Path(path), dtype, int(threads), int(context)))


if __name__ == "__main__":
    main()
