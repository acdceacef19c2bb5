"""What every kind of op of the recorder uses: names for results, and instructions that fit the op table."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...errors import PlanError
from ..arena import Tensor
from ..kvcache import padded_context, pages_of
from ..ops import FAST, OPS
from ..program import Instruction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..bias import BiasTable
    from ..experts import ExpertTable
    from ..lora import LoraTable
    from ..precision import Precision
    from ..program import Operand
    from ..relative import DistanceTable
    from ..spec import Distances

__all__ = ["FLOAT", "Recording"]

FLOAT = 4


class Recording:
    """A program while it is recorded: its instructions, its tensors, and the tables that these read."""

    def __init__(  # noqa: PLR0913 - keywords
        self,
        *,
        n_context: int,
        chunk: int,
        n_logits: int,
        threads: int,
        kv_cache: str = "f32",
        precision: Precision | None = None,
        by_pairs: bool = False,
        n_pages: int | None = None,
        n_positions: int | None = None,
    ) -> None:
        """`n_context`: slots of one sequence; `chunk`: most tokens a step; `n_logits`: most rows of logits.

        `kv_cache`: its dtype; `n_pages`: those in its pools (default: one sequence's). `precision`: how inputs of
        products are rounded. `by_pairs`: and of attention, over a cache of BF16. `n_positions`: of the longest text,
        where it is not `n_context`.
        """
        self.n_context, self.kv_cache, self.precision = padded_context(n_context), kv_cache, precision
        self.attention_variant = FAST if by_pairs else kv_cache  # the variant
        self.n_pages = pages_of(n_context) if n_pages is None else n_pages
        self.n_positions = n_context if n_positions is None else n_positions
        self.biases: dict[tuple[object, ...], BiasTable] = {}  # what instructions add to scores
        self.distances: dict[Distances, DistanceTable] = {}  # and which of what is added to them
        self.n_once, self.once_rows = 0, 0  # instructions that run once, and rows of their tensors
        self.experts: dict[tuple[str, ...], ExpertTable] = {}  # addresses of a layer's matrices of one kind
        self.adapters: dict[str, LoraTable] = {}  # of a product, by its first matrix
        self.encoded = (self.n_context, self.n_pages)  # positions of an encoder's text, pages for such texts
        self.whole = False  # texts come whole: their keys are done with once they are read
        self.groups: list[int | None] = []  # of layers that share page tables: their windows, None where all is seen
        self.capacity, self.threads = {"T": chunk, "R": n_logits}, threads
        self.code: list[Instruction] = []
        self.tensors: list[Tensor] = []
        self.caches: dict[int, Instruction] = {}  # of each layer what writes them
        self.theirs: dict[int, Instruction] = {}  # the same, of a program whose caches this one fills
        self.fused: dict[tuple[str, Tensor], Tensor] = {}  # products of fused matrices, of which parts are picked
        self.crosses: dict[int, Instruction] = {}  # and what writes those that it has of an encoder's text
        self.rounded: dict[tuple[str, Tensor], Tensor] = {}  # inputs of products, rounded as these want them

    def _tensor(self, name: str, rows: str, width: int, part: str = "activations", *, keep: bool = False) -> Tensor:
        count = self.capacity[rows] if rows else 1
        t = Tensor(f"{name}{len(self.tensors)}", rows, width, FLOAT * width * count, part, keep)
        self.tensors.append(t)
        return t

    def given(self, width: int) -> Tensor:
        """[T, width], written from outside before a step."""
        return self._tensor("in", "T", width, keep=True)

    def _emit(self, op: str, variant: str, rows: str, **values: Operand) -> None:
        row = OPS[op]
        if set(values) != set(row.names):
            msg = f"op {op}: operands {sorted(values)} do not fit the op table's {sorted(row.names)}"
            raise PlanError(msg)
        variants = (*row.variants, *row.cpu_variants)
        if variants and variant not in variants:
            msg = f"op {op}: no variant {variant!r}; the op table has {', '.join(variants)}"
            raise PlanError(msg)
        i, ins = len(self.code), Instruction(op, variant, rows, values)
        for t in (*ins.tensors("o"), *ins.tensors("i")):
            t.dies, t.born = i, i if t.born < 0 else t.born
        if row.in_place:
            ins.tensors("o")[0].home = ins.tensors("i")[0]
        self.code.append(ins)

    def _width(self, op: str, x: Tensor, want: int, what: str) -> None:
        if x.width != want:
            msg = f"op {op}: {x.name} is {x.width} wide, {what} wants {want}"
            raise PlanError(msg)

    @contextmanager
    def once(self, n: int) -> Iterator[None]:
        """What is recorded inside comes first, and runs once, on `n` rows."""
        if self.code:
            msg = "what is computed once must be recorded first"
            raise PlanError(msg)
        steps, self.capacity["T"] = self.capacity["T"], n
        yield
        self.n_once, self.once_rows, self.capacity["T"] = len(self.code), n, steps

    def kept(self, x: Tensor) -> Tensor:
        """[n, d], from now on one row of all of them, which no step writes again."""
        x.width, x.rows, x.keep = x.width * self.capacity["T"], "", True
        return x
