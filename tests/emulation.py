"""A case of test_ops on the emulated GPU: the same calls, recorded, encoded and launched there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from miaotui.runtime.arena import place
from miaotui.runtime.cuda.interpreter import Interpreter
from miaotui.runtime.program import Program
from miaotui.runtime.recorder.record import Recorder

pytest.importorskip("greenlet", reason="the emulated GPU needs greenlet, of the test extra")
from miaotui.runtime.cuda.emulator.device import SCHEDULES, EmulatedDevice, Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miaotui.runtime.arena import Tensor
    from miaotui.runtime.cuda.device import Device
    from miaotui.runtime.cuda.kernels import Kernel
    from test_ops import Case

__all__ = ["SCHEDULES", "EmulatedDevice", "Fault", "ListingDevice", "emulate", "run_on"]

UNTOUCHED = 0xFF
SMALL = 4


def recorded(case: Case, ids: list[np.ndarray]) -> tuple[Program, list[Tensor]]:
    """The program of a case and the tensors that its inputs go to."""
    longest = max(map(len, ids))
    ops = Recorder(n_context=sum(map(len, ids)), chunk=longest + 2, n_logits=case.rows + 1, threads=1,
                   kv_cache=case.kv_cache, precision=case.precision)  # fmt: skip
    inputs = [ops._tensor("in", "T", x.shape[1], keep=True) for x in case.passes[0]]
    y = case.build(ops, *inputs)
    if y is not None:
        y.keep = True
    size = place(ops.tensors, len(ops.code))
    shape = ops.n_context, longest + 2, case.rows + 1, 1, size, 0, case.kv_cache, case.precision
    return Program(ops.code, ops.tensors, y, y, *shape), inputs


class ListingDevice(EmulatedDevice):
    """Writes down the names of what it launches."""

    def __init__(self, schedule: str, names: list[str], skip: str, architecture: str) -> None:
        super().__init__(schedule, architecture=architecture)
        self.names, self.skip = names, skip

    def launch(self, kernel: Kernel, blocks: int, shared: int, arguments: Sequence[Any]) -> None:
        self.names.append(kernel.name)
        if not self.skip or not kernel.name.startswith(self.skip) or blocks <= SMALL:
            super().launch(kernel, blocks, shared, arguments)


def emulate(
    case: Case,
    ids: list[np.ndarray],
    schedule: str,
    names: list[str] | None = None,
    skip: str = "",
    architecture: str = "",
) -> tuple[np.ndarray | None, int]:
    """As `run_on`, in the emulator; `names` gets those of the kernels launched.

    `skip`: kernels whose names begin so are left out of steps of many blocks, whose results nobody wants.
    """
    return run_on(ListingDevice(schedule, [] if names is None else names, skip, architecture), case, ids)


def run_on(device: Device, case: Case, ids: list[np.ndarray]) -> tuple[np.ndarray | None, int]:
    """Result of the last pass, and the step's id; closes the device. What is not the result's must be as it was."""
    program, inputs = recorded(case, ids)
    machine = Interpreter(device, program)
    machine.device.write(machine.arena, np.full(program.arena_bytes, UNTOUCHED, np.uint8))
    try:
        return _run(machine, program, inputs, case, ids)
    finally:
        device.close()


def _run(
    machine: Interpreter, program: Program, inputs: list[Tensor], case: Case, ids: list[np.ndarray]
) -> tuple[np.ndarray | None, int]:
    start = 0
    for part, given in zip(ids, case.passes, strict=True):
        for t, x in zip(inputs, given, strict=True):
            machine.device.write(machine.arena + t.offset, x)
        machine.step(part, start, min(case.rows, len(part)))
        start += len(part)
    arena, longest = machine.device.read(machine.arena, program.arena_bytes), max(map(len, ids))
    mine = np.zeros(len(arena), bool)
    for t in program.tensors:
        rows = {"T": longest, "R": min(case.rows, longest)}.get(t.rows)
        mine[t.offset : t.offset + (t.nbytes if rows is None else 4 * t.width * rows)] = True
    assert np.all(arena[~mine] == UNTOUCHED), "something was written outside of the tensors' rows"
    for t, x in zip(inputs, case.passes[-1], strict=True):
        assert machine.tensor(t, len(x)).tobytes() == x.tobytes(), "an input was changed"
    if program.logits is None:
        return None, machine.result
    n = len(ids[-1])
    return machine.tensor(program.logits, min(case.rows, n) if program.logits.rows == "R" else n), machine.result
