"""Our F32 matrix product against OpenBLAS (NumPy), and against what the FMA units give, by turns in one command.

    python -m miaotui.tools.bench.gemm --threads 1 2 --out docs/benchmarks/gemm.json

y [m, n] = x [m, k] w [n, k]^T. Ours is the kernel `linear_f32` in a program of one instruction, run as a step runs it;
whatever it packs, it packs inside of the timing. OpenBLAS is `np.dot(x, w.T, out=y)` and, as a second try, `w` stored
[k, n] beforehand: the faster of the two counts. Each is a process of its own, because OpenBLAS's threads spin for a
while after each product and would take our cores; the turns are `compare`'. The peak is measured in our process in
the same turns: chains of fused multiply-adds in registers, as many as the kernel's tile has accumulators.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...runtime.arena import place
from ...runtime.program import Program
from ...runtime.recorder.record import Recorder
from ...runtime.spec import Weight
from .compare import Worker
from .peers.worker import serve
from .roofline import machine, versions
from .shared import paired, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["SHAPES", "main", "peak_kernel", "table"]

#: m, n, k: SmolLM2's and Qwen2.5-0.5B's feed-forward, a cube, and a large layer
SHAPES = {
    "128x1536x576": (128, 1536, 576),
    "512x4864x896": (512, 4864, 896),
    "1024x1024x1024": (1024, 1024, 1024),
    "512x8192x2048": (512, 8192, 2048),
}
LANES = 16
PEAK_STEPS = 2_000_000  # rounds of the chains: some tens of milliseconds
SLEEP = 0.2  # seconds until OpenBLAS's threads, which spin, are asleep
HOLD_BACK = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # they hold a current NumPy back


def operands(m: int, n: int, k: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x [m, k] and w [n, k], the same on both sides."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32)


class Ours:
    """One instruction, and the chains: a side of the protocol of `peers.worker`. ids: m, n, k, or 0 for the chains."""

    def __init__(self, threads: int) -> None:
        """Nothing is loaded before the first shape is named."""
        self._threads = threads
        self._executor: Any = None

    def about(self) -> dict[str, Any]:
        """Name and version."""
        return {"name": "miaotui", "version": versions()["miaotui"], "threads": self._threads, "load_s": 0.0}

    def prefill(self, ids: Sequence[int]) -> None:
        """Take a shape and compute it once, or get ready for the chains."""
        self.close()
        if len(ids) == 1:
            self._chains = Chains(self._threads)
            self._run: Callable[[], object] = self._chains.run
        else:
            self._single(*ids)
            self._run = self._executor.step
        self._run()

    def step(self, _token: int) -> None:
        """Compute once."""
        self._run()

    def logits(self) -> NDArray[np.float32]:
        """y, flat."""
        return self._y.copy()

    def close(self) -> None:
        """End the threads of the last shape."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def _single(self, m: int, n: int, k: int) -> None:
        from ...runtime.cpu import link  # noqa: PLC0415 - numba, only on this side

        x, w = operands(m, n, k)
        ops = Recorder(n_context=m, chunk=m, n_logits=1, threads=self._threads)
        given = ops._tensor("in", "T", k, keep=True)  # noqa: SLF001 - a program without a model
        y = ops.linear(given, Weight("w", "f32", w.shape, w, mapped=False))
        y.keep = True
        size = place(ops.tensors, len(ops.code))
        program = Program(ops.code, ops.tensors, y, y, ops.n_context, m, 1, self._threads, size, 0)
        code = program.encode(link.addresses(i.kernel for i in ops.code).__getitem__)
        block = np.zeros(size + 64, np.uint8)
        arena = block[-block.ctypes.data % 64 :][:size]
        arena[given.offset : given.offset + x.nbytes] = np.frombuffer(x.tobytes(), np.uint8)
        words = np.zeros(16, np.int64)
        words[0] = m
        self._kept = code, arena, words, w  # the executor has their addresses only
        self._y = arena[y.offset : y.offset + 4 * m * n].view(np.float32)
        self._executor = link.executor(self._threads)
        self._executor.bind(code.ctypes.data, len(code), arena.ctypes.data, words.ctypes.data)


class OpenBlas:
    """NumPy's product: the other side. ids: m, n, k."""

    def __init__(self, threads: int) -> None:
        """The library takes its threads from the environment, when it is loaded."""
        self._threads = threads

    def about(self) -> dict[str, Any]:
        """Name, version and the kernels that it chose for this CPU."""
        return {"name": "OpenBLAS", "threads": self._threads, "load_s": 0.0, **openblas()}

    def prefill(self, ids: Sequence[int]) -> None:
        """Take a shape; find which order of w is faster."""
        x, w = operands(*ids)
        self._y = np.empty((ids[0], ids[1]), np.float32)
        ways = [functools.partial(np.dot, x, b, out=self._y) for b in (w.T, np.ascontiguousarray(w.T))]
        self._run = min(ways, key=_seconds)

    def step(self, _token: int) -> None:
        """Compute once."""
        self._run()

    def logits(self) -> NDArray[np.float32]:
        """y, flat."""
        return self._y.ravel()


def _seconds(run: Callable[[], object]) -> float:
    """Least of three, after one that warms up."""
    samples = []
    for _ in range(4):
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    return min(samples[1:])


def openblas() -> dict[str, str]:
    """Config and core name of the OpenBLAS that NumPy loaded, from the library itself; empty where there is none."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []
    paths = sorted({line.split(maxsplit=5)[5] for line in lines if "openblas" in line})
    facts = {"version": np.__version__}
    for path in paths:
        lib = ctypes.CDLL(path)
        for what in ("corename", "config"):
            for name in (f"{p}openblas_get_{what}{s}" for p in ("scipy_", "") for s in ("64_", "")):
                if hasattr(lib, name):
                    function = getattr(lib, name)
                    function.restype = ctypes.c_char_p
                    facts[what] = function().decode()
    return facts


@functools.cache
def peak_kernel() -> tuple[Callable[[int], float], int]:
    """A function of a number of rounds, and the FLOP of one round: one FMA in each of many independent chains."""
    from llvmlite import ir  # noqa: PLC0415 - numba's, only on our side
    from numba import njit  # noqa: PLC0415 - as above

    from ...runtime.cpu import emitters as e  # noqa: PLC0415 - as above
    from ...runtime.cpu.flow import c64, ir_loop  # noqa: PLC0415 - as above
    from ...runtime.cpu.lanes import f32, i64, op  # noqa: PLC0415 - as above
    from ...runtime.cpu.target import tile_shape  # noqa: PLC0415 - as above

    rows, tokens = tile_shape()
    count = rows * tokens

    @op(f32, i64, f32)
    def chains(b: Any, rounds: Any, seed: Any) -> Any:  # noqa: ANN401 - LLVM's builder and values
        x, y = e.ir_splat(b, seed), e.ir_splat(b, b.fmul(seed, seed))
        acc = ir_loop(b, c64(0), rounds, 1, [e.ZERO] * count, lambda _k, a: [e.ir_fma(b, x, v, y) for v in a])
        total = acc[0]
        for v in acc[1:]:  # every chain is used, so none can be left out
            total = b.fadd(total, v)
        return b.extract_element(total, ir.Constant(e.I32, 0))

    @njit("float32(int64)", nogil=True)  # type: ignore[untyped-decorator]
    def run(rounds: Any) -> Any:  # noqa: ANN401 - Numba compiles it
        return chains(rounds, np.float32(0.5))

    return run, 2 * LANES * count


class Chains:
    """The chains on several threads at once."""

    def __init__(self, threads: int) -> None:
        """Compile."""
        self._kernel, self.flop = peak_kernel()
        self._threads = threads

    def run(self) -> None:
        """Every thread does all rounds; the caller's is one of them."""
        others = [threading.Thread(target=self._kernel, args=(PEAK_STEPS,)) for _ in range(self._threads - 1)]
        for thread in others:
            thread.start()
        self._kernel(PEAK_STEPS)
        for thread in others:
            thread.join()


def compare(ours: Worker, blas: Worker, peak: Worker, shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """One shape by turns: ours, OpenBLAS, the chains. FLOP/s by the median of the seconds, the peak by the least."""
    flop = 2 * shape[0] * shape[1] * shape[2]
    each = min(200, max(2, int(4e9 / flop)))  # products a turn
    for side in (ours, blas):
        side.ask("prefill", shape)
    a, b = ours.logits(), blas.logits()
    seconds: dict[str, list[float]] = {"ours": [], "openblas": [], "peak": []}
    sides = [("ours", ours), ("openblas", blas)]
    for _ in range(rounds):
        sides.reverse()
        for name, side in sides:
            time.sleep(SLEEP)
            seconds[name].append(statistics.median(side.seconds("decode", [0] * each)))
        time.sleep(SLEEP)
        seconds["peak"].append(min(peak.seconds("decode", [0] * 2)))
    threads = ours.about["threads"]
    peak_rate = peak_kernel()[1] * PEAK_STEPS * threads / min(seconds["peak"])  # a ceiling: the best reading is it
    rate = flop / statistics.median(seconds["ours"])
    return {
        "m": shape[0],
        "n": shape[1],
        "k": shape[2],
        "threads": threads,
        "max_abs_difference": float(np.abs(a - b).max()),
        "max_abs": float(np.abs(a).max()),
        "gflops": rate / 1e9,
        "openblas_gflops": flop / statistics.median(seconds["openblas"]) / 1e9,
        "peak_gflops": peak_rate / 1e9,
        "peak_fraction": rate / peak_rate,
        "ratio": paired(seconds["ours"], seconds["openblas"]),
    }


def table(report: dict[str, Any]) -> str:
    """Markdown: GFLOP/s of both, the median ratio of the pairs, and the share of the FMA peak."""
    lines = ["| F32, m x n x k | ours | OpenBLAS | | of the FMA peak |", "|---|--:|--:|--:|--:|"]
    for r in report["results"]:
        threads = f"{r['threads']} thread{'s' if r['threads'] > 1 else ''}"
        lines.append(
            f"| {r['m']} x {r['n']} x {r['k']}, {threads} | {r['gflops']:.0f} | {r['openblas_gflops']:.0f} "
            f"| **{r['ratio']['median']:.2f}x** | {r['peak_fraction']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.gemm", description="ours against OpenBLAS")
    parser.add_argument("--shape", nargs="+", metavar="MxNxK", default=list(SHAPES), help="default: four of them")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--serve", choices=["ours", "openblas"], help=argparse.SUPPRESS)
    return parser


def _sizes(text: str) -> tuple[int, int, int]:
    words = text.split("x")
    if len(words) != 3 or not all(w.isdecimal() and int(w) > 0 for w in words):  # noqa: PLR2004 - m, n and k
        msg = f"--shape {text}: expected three sizes, for instance 128x1536x576"
        raise InputError(msg)
    m, n, k = map(int, words)
    return m, n, k


def _start(side: str, threads: int) -> Worker:
    """Start one side; OpenBLAS without the settings that hold it back."""
    environment = {"OPENBLAS_NUM_THREADS": str(threads)} if side == "openblas" else {}
    command = [sys.executable, "-m", "miaotui.tools.bench.gemm", "--serve", side, "--threads", str(threads)]
    return Worker(command, environment, leave_out=HOLD_BACK)


def main(argv: list[str] | None = None) -> int:
    """Measure every shape with every thread count, or, with --serve, be one side."""
    args = _parser().parse_args(argv)
    if args.serve:
        serve((Ours if args.serve == "ours" else OpenBlas)(args.threads[0]))
        return 0
    shapes = [_sizes(text) for text in args.shape]
    if min(args.rounds, *args.threads) < 1:
        msg = "--rounds, --threads: expected at least 1 each"
        raise InputError(msg)
    record: dict[str, Any] = {
        "command": public_command("python -m miaotui.tools.bench.gemm", argv if argv is not None else sys.argv),
        "machine": machine(),
        "versions": versions(),
        "rounds": args.rounds,
        "results": [],
    }
    for threads in args.threads:
        ours, blas, peak = _start("ours", threads), _start("openblas", threads), _start("ours", threads)
        peak.ask("prefill", [0])
        record["openblas"] = {k: v for k, v in blas.about.items() if k in {"version", "corename", "config"}}
        record["results"] += [compare(ours, blas, peak, shape, args.rounds) for shape in shapes]
        for side in (ours, blas, peak):
            side.close()
    print_out(table(record) + f"OpenBLAS's kernels: {record['openblas'].get('corename', 'unknown')}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
