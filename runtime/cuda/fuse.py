"""Lines of a step of one token, some of them as one call: where blocks would meet for what each can do for itself.

| lines | calls |
|---|---|
| a norm, and products (or the rounding for them) that read it | the norm in every block's shared memory, and these |
| rounding of such a norm, and products that read no other | that in every block's shared memory too, and these |
| up, and gate times up | one product: a warp takes a row of each, or half a block a panel |
| rope of q, rope of k, kv_write | one call |
| take_rows | none: the only row is the last |
| argmax | each block's part, and the largest of these |

Every call gives the bits of its lines. A rewriting is left out where another line reads what it would no longer write,
or where its calls would have to wait for each other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ..arena import spans_overlap, waits
from .kernels import ADVANCE, DRAWS, KERNELS
from .kernels.fused import HERE, KINDS
from .kernels.rounded import FUSED, INSIDE, ROUNDED, rounded_bytes
from .script import DRAW_BLOCK, STEP_BLOCK, Call, Script, calls_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..arena import Tensor
    from ..program import Instruction, Program
    from .kernels import Kernel

__all__ = ["MOST_BLOCKS", "PARTS_BYTES", "Source", "fused", "script_of"]

FLOAT = 4
#: Matrices of products that have kernels for one token.
PLAIN = (*KINDS, *ROUNDED)
#: Of a walker; and the memory that it takes for a part of each.
MOST_BLOCKS = 4096
PARTS_BYTES = 16 * MOST_BLOCKS


@dataclass(frozen=True)
class Source:
    """An instruction as the device has it: its kernel, its slots by name."""

    ins: Instruction
    kernel: Kernel
    values: Mapping[str, int]

    def is_(self, op: str, **operands: object) -> bool:
        """Whether it is this op with these operands."""
        return self.ins.op == op and all(self.ins.values[k] is v for k, v in operands.items())

    @property
    def y(self) -> Tensor:
        """What it writes."""
        return self.ins.tensors("o")[0]


def script_of(
    program: Program,
    values: Sequence[Mapping[str, int]],
    parts: int,
    run_block: int,
    *,
    together: bool,
    drawn: Mapping[str, int] | None = None,
) -> Script:
    """A step of one token of a program whose instructions have these slots; then its id begins the next.

    `drawn`: slots of what draws the id, where it is not the greedy one.
    """
    sources = [Source(i, KERNELS[i.kernel], v) for i, v in zip(program.code, values, strict=True)]
    calls = fused([s for s in sources if drawn is None or s.ins.op != "argmax"], parts)
    if drawn is not None and program.logits is not None:
        touched = [program.logits.span, DRAW_BLOCK], [DRAW_BLOCK, STEP_BLOCK]
        calls += [Call(kernel, True, drawn, *touched) for kernel in DRAWS]
    last = Call(ADVANCE, False, {"run": run_block}, [STEP_BLOCK], [STEP_BLOCK])
    return Script([*calls, last], together=together)


def fused(lines: Sequence[Source], parts: int) -> list[Call]:
    """The calls of a step; `parts`: address of `PARTS_BYTES`."""
    return _Fuser(_without_take_rows(lines), parts).calls


def _without_take_rows(lines: Sequence[Source]) -> list[Source]:
    """What reads its rows reads the step's only row itself; only where that comes next, before another lies there."""
    out: list[Source] = []
    for source in lines:
        last = out[-1] if out else None
        if last is not None and last.ins.op == "take_rows" and not last.y.keep:
            x = last.ins.values["x"]
            readers = [s for s in lines if last.y in s.ins.tensors("i")]
            if readers == [source] and source.ins.values.get("x") is last.y:
                out[-1] = replace(
                    source, ins=replace(source.ins, values={**source.ins.values, "x": x}),
                    values={**source.values, "x": last.values["x"]},
                )  # fmt: skip
                continue
        out.append(source)
    return out


class _Fuser:
    """One pass over the lines, the longest rewriting first."""

    def __init__(self, lines: Sequence[Source], parts: int) -> None:
        self._lines, self._parts = lines, parts
        self._readers: dict[Tensor, int] = {}
        for source in lines:
            for t in source.ins.tensors("i"):
                self._readers[t] = self._readers.get(t, 0) + 1
        self.calls: list[Call] = []
        at = 0
        while at < len(lines):
            calls, taken = self._norm(at) or self._any(at, None)
            self.calls += calls
            at += taken

    def _any(self, at: int, here: Tensor | None) -> tuple[list[Call], int]:
        """The calls of a line and of those that go with it; `here`: what lies in shared memory."""
        source = self._lines[at]
        fused = self._gated(at, here) or self._rope_write(at)
        if fused is not None:
            return fused
        if source.ins.op == "argmax":
            return self._argmax(source), 1
        if source.ins.op == "linear" and source.ins.variant in PLAIN:
            return self._product(source, here), 1
        if source.ins.op == "quantize" and source.ins.values["x"] is here:
            call = calls_of(source.ins, source.kernel, source.values)[0]
            return [self._here(replace(call, kernel=FUSED[f"quantize{HERE}"]), True)], 1
        return calls_of(source.ins, source.kernel, source.values), 1

    @staticmethod
    def _here(call: Call, here: bool, place: int = 0) -> Call:
        """It reads no arena for x, then, but shared memory at `place`."""
        if not here:
            return call
        x = call.values["x"]
        return replace(call, values={**call.values, "x": place}, reads=[s for s in call.reads if s[0] != x])

    def _rounded(self, at: int, here: Tensor) -> tuple[list[Call], int]:
        """The rounding of a norm in shared memory, `here`; with the products of it, where nothing else reads it."""
        source = self._lines[at]
        q, place = source.y, -(-FLOAT * source.values["k"] // 16) * 16
        first = Call(FUSED[INSIDE], source.ins.rows == "R", {"q": place, "x": 0, "k": source.values["k"]}, [], [],
                     stays=place + rounded_bytes(source.values["k"]))  # fmt: skip
        calls, end, reads = [first], at + 1, 0
        while end < len(self._lines):
            then = self._lines[end]
            if not (then.is_("linear", x=q) and then.ins.variant in ROUNDED):
                break
            if any(then.ins.values[k] in (here, q) for k in ("times", "residual")):
                break
            more, taken = self._gated(end, q, place) or (self._product(then, q, place), 1)
            calls += more
            reads += sum(q in s.ins.tensors("i") for s in self._lines[end : end + taken])
            end += taken
        if q.keep or reads < self._readers[q] or any(waits([(c.reads, c.writes) for c in calls])[1:]):
            return self._any(at, here)
        return calls, end - at

    def _product(self, source: Source, here: Tensor | None, place: int = 0) -> list[Call]:
        """A product of its own kernel here."""
        inside = source.ins.values["x"] is here
        call = calls_of(source.ins, source.kernel, source.values)[0]
        call = replace(call, kernel=FUSED[f"{source.kernel.name}{HERE if inside else '_one'}"])
        return [self._here(call, inside, place)]

    def _norm(self, at: int) -> tuple[list[Call], int] | None:
        """A norm of one row and what reads it, the next lines; None where they are not to be had."""
        norm = self._lines[at]
        if norm.ins.op not in ("rms_norm", "layer_norm") or norm.values.get("groups", 1) != 1:
            return None
        here, calls, end, reads = norm.y, [], at + 1, 0
        while end < len(self._lines):
            source = self._lines[end]
            dense = source.ins.op == "linear" and source.ins.variant in KINDS
            if not (dense or source.ins.op == "quantize") or source.ins.values["x"] is not here:
                break
            if any(source.ins.values.get(k) is here for k in ("times", "residual")):
                break
            more, taken = self._any(end, here) if dense else self._rounded(end, here)
            calls += more
            reads += sum(here in s.ins.tensors("i") for s in self._lines[end : end + taken])
            end += taken
        kept = here.keep or reads < self._readers.get(here, 0)
        source_span = [t.span for t in norm.ins.tensors("i")]
        if not calls or (kept and spans_overlap(source_span, [here.span])):
            return None
        first = Call(
            FUSED[f"{norm.ins.op}{HERE}"], norm.ins.rows == "R",
            {**norm.values, "h": 0, "y": norm.values["y"] if kept else -1}, source_span, [here.span] if kept else [],
            stays=FLOAT * norm.values["d"],
        )  # fmt: skip
        if any(waits([(c.reads, c.writes) for c in (first, *calls)])[1:]):
            return None
        return [first, *calls], end - at

    def _gated(self, at: int, here: Tensor | None, place: int = 0) -> tuple[list[Call], int] | None:
        """up = x w^T, and then act(x gate^T) * up."""
        if at + 1 >= len(self._lines):
            return None
        up, gate = self._lines[at : at + 2]
        if not (up.ins.op == gate.ins.op == "linear" and up.ins.variant == gate.ins.variant in PLAIN):
            return None
        x, y = up.ins.values["x"], up.y
        if up.ins.variant in ROUNDED and x is not here:
            return None
        plain = up.values["act"] == 0 and up.ins.values["times"] is up.ins.values["residual"] is None
        alike = all(up.values[k] == gate.values[k] for k in ("n", "k")) and up.ins.rows == gate.ins.rows
        if not (plain and alike and gate.is_("linear", x=x, times=y, residual=None) and self._readers[y] == 1):
            return None
        values = {**gate.values, "w": up.values["w"], "b_up": up.values["b"], "gate": gate.values["w"]}
        call = calls_of(up.ins, up.kernel, up.values)[0]
        call = replace(call, kernel=FUSED[f"gated_{up.ins.variant}{HERE if x is here else '_one'}"],
                       values=values, writes=[gate.y.span])  # fmt: skip
        if x is not here and spans_overlap(call.reads, call.writes):
            return None
        return [self._here(call, x is here, place)], 2

    def _rope_write(self, at: int) -> tuple[list[Call], int] | None:
        """Both rotations and the cache."""
        if at + 2 >= len(self._lines):
            return None
        q, k, write = self._lines[at : at + 3]
        if not (q.ins.op == k.ins.op == "rope" and write.is_("kv_write", k=k.y) and self._readers[k.y] == 1):
            return None
        if q.ins.values["table"] is not k.ins.values["table"] or q.values["d_head"] != k.values["d_head"]:
            return None
        others = [t.span for s in (k, write) for t in s.ins.tensors("i") if t is not k.y]
        if spans_overlap(others, [q.y.span]) or (q.y.offset != q.values["x"] and _overlap(q.y, q.ins.values["x"])):
            return None
        values = {**write.values, "y": q.values["y"], "q": q.values["x"], "k": k.values["x"],
                  "table": q.values["table"], "heads": q.values["heads"], "kv_heads": k.values["heads"]}  # fmt: skip
        reads = [*(t.span for t in q.ins.tensors("i")), *others]
        writes = [q.y.span, *(t.span for t in write.ins.tensors("o"))]
        return [Call(FUSED[f"rope_write_{write.ins.variant}"], False, values, reads, writes)], 3

    def _argmax(self, source: Source) -> list[Call]:
        x = [t.span for t in source.ins.tensors("i")]
        room = (STEP_BLOCK[0] - 2, STEP_BLOCK[0] - 1)  # the parts, as a piece of the arena after nothing
        values = {**source.values, "parts": self._parts}
        return [
            Call(FUSED["argmax_parts"], True, values, x, [room]),
            Call(FUSED["argmax_merge"], True, values, [room], [STEP_BLOCK]),
        ]


def _overlap(a: Tensor, b: object) -> bool:
    return spans_overlap([a.span], [b.span])  # type: ignore[attr-defined] # a tensor
