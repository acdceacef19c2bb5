"""`miaotui run text-classification` against the same by hand through onnxruntime: real sentences, MiniLM with a head.

    python -m miaotui.tools.bench.lines --model MINILM --text wiki.test.raw --peer-python PEER/bin/python --out FILE

The model is a MiniLM's files (its tokenizer and weights) with a classifier of three labels, whose weights are random;
the texts are the first 2,000 sentences of four words or more. Both sides read a file of texts and write a line of JSON
for each, with the same threads; the peer pads each batch of 32 to its longest, in the order of the file. What counts is
seconds from the first line read to the last line written (ours: as the run's journal has them), loading and compiling
not among them; before anything is timed both run once and their labels are compared. Sides take turns, and each sleeps
while the other works.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError, InputError
from ...loader.files import read_text
from ..batch.journal import read_journal
from .peers import classify_ort
from .roofline import machine, versions
from .shared import paired, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "sentences", "with_head"]

LABELS = ("negative", "neutral", "positive")
PAUSE = 0.5
WORDS = 4


def sentences(text: str, n: int) -> list[str]:
    """The first `n` of a text: headings (of WikiText) are none. `InputError` where there are fewer."""
    lines = (line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("="))
    every = [s for line in lines for s in re.split(r"(?<=[.!?]) +", line) if len(s.split()) >= WORDS][:n]
    if len(every) < n:
        msg = f"--text: {len(every)} sentences, expected {n}"
        raise InputError(msg)
    return every


def with_head(model: Path, out: Path) -> Path:
    """A copy of a BERT without a head, with a random classifier of `LABELS`."""
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415 - help must not wait for it

    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    labels = {str(i): label for i, label in enumerate(LABELS)}
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": labels}
    config |= {"label2id": {label: int(i) for i, label in labels.items()}}
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    width, rng = config["hidden_size"], np.random.default_rng(0)
    tensors = {
        name if name.startswith("bert.") else f"bert.{name}": tensor
        for name, tensor in load_file(model / "model.safetensors").items()
        if "position_ids" not in name
    }
    for name, shape in (("bert.pooler.dense.weight", (width, width)), ("bert.pooler.dense.bias", (width,))):
        if name not in tensors:
            tensors[name] = (rng.standard_normal(shape) / width**0.5).astype(np.float32)
    tensors["classifier.weight"] = (rng.standard_normal((len(LABELS), width)) * 0.2).astype(np.float32)
    tensors["classifier.bias"] = np.zeros(len(LABELS), np.float32)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((model / name).read_bytes())
    return out


class Peer:
    """onnxruntime's process, which waits for files."""

    def __init__(self, python: str, graph: Path, model: Path, threads: int, batch: int) -> None:
        """Export the model, and start. `BackendError` where the interpreter lacks what it needs."""
        script = [python, "-P", str(Path(classify_ort.__file__))]
        done = subprocess.run([*script, "convert", model, graph], capture_output=True, text=True, check=False)  # noqa: S603 - our own script
        if done.returncode:
            msg = f"--peer-python {python}: the export failed: {done.stderr.strip()[-300:]}"
            raise BackendError(msg)
        words = [*script, "run", str(graph), str(model), str(threads), str(batch)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - as above
        self.about: dict[str, Any] = self._answer()

    def _answer(self) -> dict[str, Any]:
        line = _pipe(self._process.stdout).readline()
        if not line:
            msg = "onnxruntime's process ended; its words are above"
            raise BackendError(msg)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def seconds(self, source: Path, out: Path) -> float:
        """Of a file of texts."""
        stdin = _pipe(self._process.stdin)
        stdin.write(f"{source} {out}\n")
        stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End it."""
        _pipe(self._process.stdin).close()
        self._process.wait()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # noqa: S101 - it was asked for
    return stream


def ours(model: Path, source: Path, out: Path, threads: int) -> float:
    """Seconds of the command, as its journal says them."""
    words = ["run", "text-classification", "--model", model, "--input", source, "--output", out, "--restart"]
    command = [sys.executable, "-m", "miaotui", *map(str, words), "--threads", str(threads)]
    command += ["--set", "truncation=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    read = read_journal(out.with_name(f"{out.name}.journal")) if done.returncode == 0 else None
    if read is None:
        raise BackendError(done.stderr.strip())
    return read[1].seconds


def agreement(mine: Path, its: Path) -> dict[str, Any]:
    """How many labels are the same, and how far scores lie apart."""
    both = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in (mine, its)]
    pairs = [(a["output"], b["output"]) for a, b in zip(*both, strict=True)]
    return {
        "texts": len(pairs),
        "same_label": sum(a["label"] == b["label"] for a, b in pairs),
        "max_abs_difference": max(abs(a["score"] - b["score"]) for a, b in pairs if a["label"] == b["label"]),
    }


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both, by turns."""
    model = with_head(args.model, folder / "model")
    source, mine, its = (folder / name for name in ("texts.txt", "ours.jsonl", "peer.jsonl"))
    texts = sentences(read_text(args.text, InputError), args.n)
    source.write_text("\n".join(texts) + "\n", encoding="utf-8")
    peer = Peer(args.peer_python, folder / "graph", model, args.threads, args.batch)
    try:
        ours(model, source, mine, args.threads)
        peer.seconds(source, its)
        agreed = agreement(mine, its)
        seconds: list[list[float]] = [[], []]
        for n in range(args.rounds):
            for side in (0, 1) if n % 2 == 0 else (1, 0):
                time.sleep(PAUSE)
                seconds[side].append(peer.seconds(source, its) if side else ours(model, source, mine, args.threads))
    finally:
        peer.close()
    result = {"ours_s": statistics.median(seconds[0]), "peer_s": statistics.median(seconds[1])}
    return {"about": peer.about, "agreement": agreed, **result, "ratio": paired(*seconds), "seconds": seconds}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miaotui.tools.bench.lines", description="a file of texts, labelled"
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="a BERT encoder's directory, such as all-MiniLM-L6-v2"
    )
    parser.add_argument("--text", type=Path, required=True, help="a text whose sentences are labelled")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peer's packages")
    parser.add_argument("--n", type=int, default=2000, help="sentences (default: 2000)")
    parser.add_argument("--batch", type=int, default=32, help="the peer's (default: 32)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison, and print it."""
    args = _parser().parse_args(argv)
    if min(args.n, args.batch, args.threads, args.rounds) < 1:
        msg = "--n, --batch, --threads, --rounds: expected at least 1 each"
        raise InputError(msg)
    record: dict[str, Any] = {
        "command": public_command("python -m miaotui.tools.bench.lines", sys.argv if argv is None else ["", *argv]),
        "machine": machine(), "versions": versions(), "threads": args.threads, "rounds": args.rounds, "texts": args.n,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        record |= measure(args, Path(folder))
    ratio = record["ratio"]["median"]
    print_out(f"{args.n} texts: {record['ours_s']:.2f} s, onnxruntime {record['peer_s']:.2f} s ({ratio:.2f}x)")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
