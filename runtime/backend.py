"""What runs a program: the CPU, a GPU, or the emulator of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .arena import Tensor
    from .program import Program
    from .sampling import Sampler
    from .spec import Weights
    from .step import Batch

__all__ = ["Backend"]


class Backend(Protocol):
    """A machine with one program, its weights and its arena.

    `paged`: sequences hold pages of the cache, and a batch may have tokens of several. Otherwise the cache belongs to
    one sequence at a time, and a batch of several, each from its first token on, takes the whole of it.
    `survives_fork`: it works in a forked child too. `works_ahead`: it can draw ids by itself, so that the host need not
    be waited for.
    """

    name: str  # "cpu", "cuda": as in the op table's `backends`
    paged: bool
    works_ahead: bool
    survives_fork: bool
    threads: int

    def bind(self, program: Program, weights: Weights) -> None:
        """Take a program; every weight that it names has its data. Called once. Errors: `BackendError`."""

    def threads_for(self, tokens: int, logits: int, keys: int) -> int:
        """Of `threads`, those that a step uses whose last token sees so many keys."""

    def run(self, batch: Batch, part: int | range | None = None) -> None:
        """Run the program, or one instruction of it, or those of a range. Errors: `BackendError`."""

    def run_early(self, batch: Batch) -> None:
        """Run `Program.early`, and the draws of the batch. Errors: `BackendError`: not by this backend."""

    def read(self, tensor: Tensor, rows: int) -> NDArray[np.float32]:
        """The first rows of a tensor, [rows, width]: perhaps a view, which the next run overwrites."""

    def argmax(self, batch: Batch) -> int:
        """Greedy id of the batch's last row of logits, the first of equals; -1 where there is none."""

    def pools(self, group: int) -> list[NDArray[np.uint8]]:
        """Keys and values of each layer of a group, [n_kv_heads, n_pages, bytes of a page], which may be written.

        Errors: `BackendError`: its cache has no pages, or they do not lie in the host's memory.
        """

    def copy_page(self, group: int, source: int, target: int) -> None:
        """Copy a page's keys and values, in every layer of a group."""

    def ahead(
        self, token: int, start: int, n: int, ends: Sequence[int], sampler: Sampler | None
    ) -> Iterator[int] | None:
        """The ids that follow `token` at slot `start`: n, or up to one of `ends`; None: not by this backend.

        Greedy ones, or those that `sampler` would draw. Any other run ends it.
        """

    def seconds(self, batch: Batch) -> NDArray[np.float64]:
        """Run a batch an instruction at a time: seconds of each."""

    def rest(self) -> None:
        """Between runs: have no thread look for work. The next run starts them again."""

    def close(self) -> None:
        """Stop threads, give memory back. Harmless when done twice."""
