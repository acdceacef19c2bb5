"""Our BF16 product on the GPU against torch's, by turns: y [m, n] = x [m, k] w [n, k]^T, as a step runs it.

x is rounded to BF16 before, outside of the timing, as torch's is; both sides wait for the GPU at the end of each
product. Before anything is timed a row of the result is compared with float64.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError, InputError
from ...runtime.arena import place
from ...runtime.cuda import driver
from ...runtime.cuda.interpreter import Interpreter
from ...runtime.program import Program
from ...runtime.recorder.record import Recorder
from ...runtime.spec import Weight
from .compare import Worker, worker_command
from .shapes import to_bf16
from .shared import paired, print_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["PRODUCTS", "Product", "products"]

#: m, n, k: the cube that libraries are judged by, and Llama-3.2-1B's feed-forward for 2048, 512 and 128 tokens.
PRODUCTS = ("8192x8192x8192", "2048x8192x2048", "2048x2048x8192", "512x8192x2048", "128x8192x2048")
TOLERANCE = 2e-2  # of the largest: sums of k products of BF16 numbers in float32


class Product:
    """One product on a GPU of its own."""

    def __init__(self, m: int, n: int, k: int) -> None:
        """Upload random operands and compute once. BackendError: no room, or the result is wrong."""
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((m, k), np.float32), to_bf16(rng.standard_normal((n, k), np.float32))
        ops = Recorder(n_context=m, chunk=m, n_logits=1, threads=1, precision="fast")
        given = ops._tensor("in", "T", k, keep=True)  # noqa: SLF001 - a program without a model
        y = ops.linear(given, Weight("w", "bf16", w.shape, w, mapped=False))
        y.keep = True
        program = Program(ops.code, ops.tensors, y, y, ops.n_context, m, 1, 1, place(ops.tensors, len(ops.code)), 0,
                          precision="fast")  # fmt: skip
        self.device, self._y, self._m = driver.CudaDevice(), y, m
        try:
            self._machine = Interpreter(self.device, program)
            self.device.write(self._machine.arena + given.offset, x)
            self._machine.begin([0] * m, 0, 0)
            for line in self._machine.lines[:-1]:  # rounds x
                self._machine.run(line, m, 0)
            self._line = self._machine.lines[-1]
            self.kernel = self._machine.chosen(self._line, m).name
            self.step()
            self.error = self._checked(x, w)
        except BaseException:
            self.device.close()
            raise

    def _checked(self, x: NDArray[np.float32], w: NDArray[np.uint16]) -> float:
        """Largest error of the last row, of its largest number."""
        wide = (to_bf16(x[-1:]).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        wanted = np.concatenate(
            [
                wide @ (part.astype(np.uint32) << 16).view(np.float32).astype(np.float64).T
                for part in np.array_split(w, max(1, len(w) // 512))
            ],
            axis=1,
        )[0]
        row = self._machine.tensor(self._y, self._m)[-1]
        error = float(np.abs(row - wanted).max() / np.abs(wanted).max())
        if not error < TOLERANCE:
            msg = f"{self.kernel}: off by {error:.2g} of the largest; expected under {TOLERANCE}: nothing was timed"
            raise BackendError(msg)
        return error

    def step(self) -> None:
        """Compute once, to the end."""
        self._machine.run(self._line, self._m, 0)
        self.device.synchronize()

    def seconds(self, count: int) -> list[float]:
        """Of each of `count` products."""
        samples = []
        for _ in range(count):
            began = time.perf_counter()
            self.step()
            samples.append(time.perf_counter() - began)
        return samples

    def close(self) -> None:
        """Give the memory back."""
        self.device.close()


def products(sizes: Sequence[str], rounds: int, python: str) -> dict[str, Any]:
    """Every size; torch's next to them where it is to be had, else the reason. InputError: no such size."""
    wanted = [_sizes(text) for text in sizes]
    results: list[dict[str, Any]] = []
    torch: Worker | None = None
    record: dict[str, Any] = {"rounds": rounds, "results": results, "skipped": []}
    try:
        torch = Worker(worker_command(python, "serve", "torch.matmul", ".", "bf16", 1, 1))
    except BackendError as e:
        record["skipped"].append({"name": "torch", "reason": str(e)})
        print_out(f"torch: skipped: {e}")
    try:
        if torch is not None:
            record["torch"] = torch.about
        results += [_compared(size, rounds, torch) for size in wanted]
    finally:
        if torch is not None:
            torch.close()
    return record


def _compared(size: tuple[int, int, int], rounds: int, torch: Worker | None) -> dict[str, Any]:
    m, n, k = size
    flop = 2 * m * n * k
    ours: list[float] = []
    theirs: list[float] = []
    each = min(50, max(3, int(2e12 / flop)))  # products a turn
    product = Product(m, n, k)
    try:
        if torch is not None:
            torch.ask("prefill", size)
        for _ in range(rounds):
            ours.append(statistics.median(product.seconds(each)))
            if torch is not None:
                theirs.append(statistics.median(torch.seconds("decode", [0] * each)))
    finally:
        product.close()
    result = {"m": m, "n": n, "k": k, "kernel": product.kernel, "max_relative_error": product.error}
    result["tflops"] = flop / statistics.median(ours) / 1e12
    if theirs:
        result |= {"torch_tflops": flop / statistics.median(theirs) / 1e12, "ratio": paired(ours, theirs)}
    return result


def _sizes(text: str) -> tuple[int, int, int]:
    words = text.split("x")
    if len(words) != 3 or not all(w.isdecimal() and int(w) > 0 for w in words):  # noqa: PLR2004 - m, n and k
        msg = f"--product {text}: expected three sizes, for instance 8192x8192x8192"
        raise InputError(msg)
    m, n, k = map(int, words)
    return m, n, k
