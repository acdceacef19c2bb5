"""Every figure of the CUDA path, in one command.

    python -m miaotui.tools.bench.cuda --peer-python TORCH/bin/python --out docs/benchmarks

Copy and read bandwidth of the GPU's memory and the cost of a launch (`cuda_roofline`); decode of a random checkpoint
in each way in which a session runs a step, greedy and drawn, as a share of the copy bandwidth; prefill, fast and exact;
products against torch's.
Decode goes by turns: in each round every side answers a prompt, who goes first alternates, and a reading of the
bandwidth follows; a share is the median over rounds. Peers (`transformers`, `torch.compile`) are processes of their
own; one that cannot be had is left out, with its reason. Writes cuda-NAME.json, named after the GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...dataclass import dataclass
from ...errors import BackendError, InputError
from ...runtime.cuda.interpreter import WAYS
from ...runtime.sequence import Sequence
from .compare import Worker, pythons, worker_command
from .cuda_product import PRODUCTS, products
from .cuda_roofline import DeviceMemory, cuda_versions, gpu
from .roofline import machine
from .shapes import DTYPES, SHAPES, make_checkpoint
from .shared import GB, bytes_per_step, paired, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Sequence as Words

    from ...model import Model

__all__ = ["Plan", "decode", "main", "prefill"]

#: The environment's word for the way of a step, read when a session is made.
WAY = "MIAOTUI_CUDA_STEP"
#: How ids are drawn where they are.
DRAWN: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 0}
DECODERS = ("transformers", "torch.compile")
PREFILLS = (128, 512, 2048)


@dataclass(frozen=True)
class Plan:
    """What is decoded: a prompt, how many ids after it, and how often; and how the cache is kept."""

    prompt: list[int]
    new: int
    rounds: int
    kv_cache: str = "bf16"

    @property
    def context(self) -> int:
        """Positions, in whole 64s."""
        return -(-(len(self.prompt) + self.new) // 64) * 64


@dataclass
class Turns:
    """Seconds of one side, of each round: a token as its user sees it; of ours, a drawn one too, and the GPU's work."""

    tokens: list[float] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


class Ours:
    """A model on the GPU whose steps are launched in one way."""

    def __init__(self, path: Path, way: str, plan: Plan) -> None:
        """Load it. Errors: `BackendError`."""
        with _environment(WAY, way):
            self.model = _load(path, plan.context, kv_cache=plan.kv_cache)
        self.name, self._plan = way, plan
        for drawn in (False, True):
            self._answer(min(plan.new, 3), drawn=drawn)  # loads kernels, records the graph

    def _answer(self, n: int, *, drawn: bool = False) -> float:
        """Seconds a token."""
        how = DRAWN if drawn else {}
        with Sequence(self.model.session) as sequence:
            answer = sequence.generate(self._plan.prompt, max_new_tokens=n, ignore_eos=True, **how)
        return 1 / answer.timings.decode_tps

    def turn(self, into: Turns) -> None:
        """Answer the prompt as `generate` does; then the same steps, timed on the GPU."""
        session, begun = self.model.session, len(self._plan.prompt)
        into.tokens.append(self._answer(self._plan.new))
        into.drawn.append(self._answer(self._plan.new, drawn=True))
        device = session.backend.machine.device  # type: ignore[attr-defined] # a CudaBackend
        steps = [device.seconds(lambda at=at: session.step([1], at)) for at in range(begun, begun + self._plan.new - 1)]
        into.steps.append(statistics.median(steps))

    def logits(self) -> Any:  # noqa: ANN401 - an array
        """Of the prompt's last token."""
        self.model.session.step(self._plan.prompt, 0)
        return self.model.session.logits[-1]

    def close(self) -> None:
        """Give the GPU's memory back."""
        self.model.close()


class Peer:
    """The same protocol, by a process of its own."""

    def __init__(self, name: str, python: str, path: Path, dtype: str, plan: Plan) -> None:
        """Load, and warm up. BackendError: it cannot, with its reason."""
        words = ("serve", name, path.resolve(), dtype, 1, plan.context)
        self.name, self._plan, self._worker = name, plan, Worker(worker_command(python, *words))
        self.about = self._worker.about
        try:
            self._worker.ask("prefill", plan.prompt)
            self._worker.ask("decode", [1] * min(plan.new, 8))  # compiles
        except BaseException:
            self.close()
            raise

    def turn(self, into: Turns) -> None:
        """Feed the prompt, then ids one by one."""
        self._worker.ask("prefill", self._plan.prompt)
        into.tokens.append(statistics.median(self._worker.seconds("decode", [1] * (self._plan.new - 1))))

    def logits(self) -> Any:  # noqa: ANN401 - an array
        """Of the prompt's last token."""
        self._worker.ask("prefill", self._plan.prompt)
        return self._worker.logits()

    def close(self) -> None:
        """End the process."""
        self._worker.close()


class Sides:
    """Everybody who decodes; those who cannot are in `skipped`, with their reasons."""

    def __init__(self, path: Path, dtype: str, plan: Plan, python: str | None) -> None:
        """Start them. BackendError: of ours the first way cannot."""
        self.skipped: list[dict[str, str]] = []
        self.ours = [Ours(path, WAYS[0], plan)]
        self.peers: list[Peer] = []
        for way in WAYS[1:]:
            with self._without(way):
                self.ours.append(Ours(path, way, plan))
        for name in DECODERS:
            with self._without(name):
                self.peers.append(Peer(name, _interpreter(python), path, dtype, plan))

    @contextlib.contextmanager
    def _without(self, name: str) -> Iterator[None]:
        try:
            yield
        except BackendError as e:
            self.skipped.append({"name": name, "reason": str(e)})
            print_out(f"{name}: skipped: {e}")

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all."""
        for ours in self.ours:
            ours.close()
        for peer in self.peers:
            peer.close()


def decode(path: Path, dtype: str, plan: Plan, memory: DeviceMemory, python: str | None = None) -> dict[str, Any]:
    """Every way of ours and every peer by turns: seconds a token, and the share of the copy bandwidth."""
    with Sides(path, dtype, plan, python) as sides:
        everyone: list[Ours | Peer] = [*sides.ours, *sides.peers]
        first = sides.ours[0]
        size, cache = bytes_per_step(
            first.model.config, first.model.session.weights, len(plan.prompt) + plan.new // 2, plan.kv_cache
        )
        wanted = first.logits()
        agreement = {s.name: float(np.abs(s.logits() - wanted).max()) for s in everyone[1:]}
        turns, copies = {s.name: Turns() for s in everyone}, []
        for _ in range(plan.rounds):
            everyone.reverse()
            for side in everyone:
                side.turn(turns[side.name])
            copies.append(memory.copy())
        return {
            "prompt": len(plan.prompt),
            "new": plan.new,
            "rounds": plan.rounds,
            "kv_cache": plan.kv_cache,
            "weight_bytes_per_step": size,
            "kv_bytes_per_step": cache,
            "copy_gbs": statistics.median(copies) / GB,
            "max_abs_logit": float(np.abs(wanted).max()),
            "max_abs_difference": agreement,
            "sides": {name: _figures(t, size, copies) for name, t in turns.items()},
            "ratios": {
                f"{way.name} to {peer.name}": paired(turns[way.name].tokens, turns[peer.name].tokens)
                for way in sides.ours
                for peer in sides.peers
            },
            "about": {peer.name: peer.about for peer in sides.peers},
            "skipped": sides.skipped,
        }


def _figures(turns: Turns, size: int, copies: Words[float]) -> dict[str, float]:
    """Of one side: tokens a second, microseconds, and shares of the copy bandwidth, taken round by round."""
    token = statistics.median(turns.tokens)
    figures = {"decode_tps": 1 / token, "token_us": token * 1e6}
    shares = [size / s / c for s, c in zip(turns.tokens, copies, strict=True)]
    figures["copy_share"] = statistics.median(shares)
    if turns.drawn:
        figures["drawn_us"] = statistics.median(turns.drawn) * 1e6
    if turns.steps:
        figures["step_us"] = statistics.median(turns.steps) * 1e6
        figures["step_copy_share"] = statistics.median(size / s / c for s, c in zip(turns.steps, copies, strict=True))
    return figures


def prefill(path: Path, sizes: Words[int], rounds: int, precision: str) -> dict[str, Any]:
    """Milliseconds of the GPU for prompts of this many tokens in one pass, the head on the last: medians, by turns."""
    longest = max(sizes)
    with _load(path, longest, precision=precision, prefill_chunk=longest) as model:
        session = model.session
        device = session.backend.machine.device  # type: ignore[attr-defined] # a CudaBackend
        seconds: dict[int, list[float]] = {n: [] for n in sizes}
        ids = _ids(session.n_vocab, longest)
        for n in sizes:
            session.step(ids[:n], 0)  # loads kernels
        for _ in range(rounds):
            for n in sizes:
                seconds[n].append(device.seconds(lambda n=n: session.step(ids[:n], 0)))
    ms = {str(n): statistics.median(s) * 1e3 for n, s in seconds.items()}
    return {"precision": precision, "rounds": rounds, "ms": ms}


def _load(path: Path, context: int, **how: Any) -> Model:  # noqa: ANN401 - for `load`
    from ...model import load  # noqa: PLC0415 - the command's help must not wait for numba

    return load(path, device="cuda", max_context=context, **how)


def _ids(n_vocab: int, n: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(1).integers(0, n_vocab, n)]


def _interpreter(python: str | None) -> str:
    return pythons([python] if python else [])[""]


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _summary_line(record: dict[str, Any]) -> str:
    d, b, launch = record["decode"], record["bandwidth"], record["launch_us"]
    lines = [
        f"copies {b['copy_gbs']:.0f} GB/s, reads {b['read_gbs']:.0f} GB/s",
        f"a launch {launch['launch']:.1f} us, {launch['in_graph']:.1f} us in a graph",
        f"decode of {record['shape']}, {d['new']} tokens after {d['prompt']}:",
    ]
    for name, f in d["sides"].items():
        gpu_part = f"; the GPU's part {f['step_us']:.0f} us, {f['step_copy_share']:.0%}" if "step_us" in f else ""
        gpu_part += f"; drawn, {f['drawn_us']:.0f} us" if "drawn_us" in f else ""
        share = f"{f['copy_share']:.0%} of the copy bandwidth"
        lines.append(f"  {name}: {f['decode_tps']:.0f} tokens/s, {f['token_us']:.0f} us, {share}{gpu_part}")
    lines += [f"  {pair}: {r['median']:.2f}x" for pair, r in d["ratios"].items()]
    for p in record["prefill"]:
        lines += [f"prefill of {n} tokens, {p['precision']}: {ms:.2f} ms" for n, ms in p["ms"].items()]
    for p in record["products"]["results"]:
        torch = f", torch's {p['torch_tflops']:.0f}: {p['ratio']['median']:.2f}x" if "ratio" in p else ""
        lines.append(f"product {p['m']} x {p['n']} x {p['k']} by {p['kernel']}: {p['tflops']:.1f} TFLOP/s{torch}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.cuda", description="all figures of the GPU")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--peer-python", metavar="PYTHON", help="interpreter with torch (CUDA) and transformers")
    parser.add_argument("--prompt", type=int, default=384)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--prefill", type=int, nargs="+", default=list(PREFILLS), metavar="N")
    parser.add_argument("--product", nargs="+", metavar="MxNxK", default=list(PRODUCTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, help="keep the checkpoint here (default: a temporary directory)")
    parser.add_argument("--out", type=Path, metavar="DIRECTORY", help="write the figures as JSON")
    return parser


def _check(args: argparse.Namespace) -> None:
    if min(args.prompt, args.rounds, *args.prefill) < 1 or args.new < 2:  # noqa: PLR2004 - a step after the first
        msg = "--prompt, --rounds, --prefill: expected at least 1 each, and 2 of --new"
        raise InputError(msg)


def measured(args: argparse.Namespace, directory: Path, command: str) -> dict[str, Any]:
    """Take every figure. Errors: `BackendError` where there is no GPU."""
    facts = gpu()
    print_out(f"{facts['name']}; {args.shape}, {args.dtype}")
    path = make_checkpoint(directory / f"{args.shape}-{args.dtype}", args.shape, args.dtype)
    plan = Plan(_ids(SHAPES[args.shape]["vocab_size"], args.prompt), args.new, args.rounds)
    record: dict[str, Any] = {"command": command, "gpu": facts, "machine": machine(), "versions": cuda_versions()}
    record |= {"shape": args.shape, "dtype": args.dtype}
    with DeviceMemory() as memory:
        for _ in range(3):
            memory.copy()
        bandwidth = {n: [f() for _ in range(args.rounds)] for n, f in (("copy", memory.copy), ("read", memory.read))}
        record["bandwidth"] = {f"{n}_gbs": statistics.median(samples) / GB for n, samples in bandwidth.items()}
        record["launch_us"] = memory.launch_us()
        record["decode"] = decode(path, args.dtype, plan, memory, args.peer_python)
    record["prefill"] = [prefill(path, args.prefill, args.rounds, precision) for precision in ("fast", "exact")]
    record["products"] = products(args.product, args.rounds, _interpreter(args.peer_python))
    return record


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write; 1 with one line where it cannot be done."""
    args = _parser().parse_args(argv)
    try:
        _check(args)
        command = public_command("python -m miaotui.tools.bench.cuda", sys.argv if argv is None else ["", *argv])
        with tempfile.TemporaryDirectory() as temporary:
            record = measured(args, args.work or Path(temporary), command)
    except (BackendError, InputError) as e:
        print(f"miaotui.tools.bench.cuda: error: {e}", file=sys.stderr)
        return 1
    print_out(_summary_line(record))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", record["gpu"]["name"].lower()).strip("-")
        text = json.dumps(record, indent=1) + "\n"
        (args.out / f"cuda-{name}.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
