"""Which of our packed formats holds a matrix that others quantised, and putting it there: its whole numbers stay.

| format | w =            | holds (q - zero) * scale exactly                                                  |
|--------|----------------|-----------------------------------------------------------------------------------|
| int4   | q * scale      | of 4 bits whose zero points are all 8: symmetric ones                             |
| int8   | q * scale      | of 4 bits; of 8 whose zero points are all 128                                     |
| int4a  | q * scale + low| of 4 bits; low = -zero * scale is rounded to float16: exact for zeros 0, 1, 2, 4, 8 |

In all of them 32 inputs that stand together share a scale, which is float16. So theirs must be: groups of a multiple of
32 whose inputs stand together, and scales that float16 holds. What a cut leaves is looked at, and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import CheckpointError
from ...runtime.quantized import GROUP, PANEL
from ..grid import lay
from ..quantize import BLOCK_ROWS
from ..ranges import as_indices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from ..ranges import Ranges
    from .packed import Packed

    Indices = NDArray[np.int64]

__all__ = ["FORMS", "best", "holds", "repack"]

#: The exact ones, the smallest first.
FORMS = ("int4", "int8")
#: Format -> by bits the zero point that it needs, where it needs one.
_NEEDS = {"int4": {4: 8}, "int8": {8: 128}, "int4a": {}}
_TAKES = {"int4": (4,), "int8": (4, 8), "int4a": (4,)}


def best(packed: Packed, rows: Ranges, columns: Ranges | None) -> str | None:
    """The smallest format that holds these outputs and inputs exactly; None: none does."""
    return next((form for form in FORMS if holds(packed, form, rows, columns)), None)


def holds(packed: Packed, form: str, rows: Ranges, columns: Ranges | None) -> bool:
    """Whether a format holds the whole numbers and scales as they are, and int4's and int8's zero points.

    Reads zero points, the order of inputs, and scales that are not F16: hundredths of the matrix. Errors:
    `CheckpointError`, also for such a scale that is NaN or infinite.
    """
    info = packed.info
    if info.layout.floats or info.bits not in _TAKES[form]:
        return False
    groups = packed.groups if columns is None else packed.groups[as_indices(columns)]
    first = groups[::GROUP]
    if not np.array_equal(np.repeat(first, GROUP)[: len(groups)], groups):
        return False
    used, outputs = np.unique(first), as_indices(rows)
    zero = _NEEDS[form].get(info.bits)
    if zero is not None and info.zeros is not None and not (_picked(packed.zeros(outputs), used) == zero).all():
        return False
    if info.scales.dtype == "F16":
        return True
    stored = packed.scales(outputs)
    packed.check_scales(stored, outputs, used)
    scales = _picked(stored, used)
    with np.errstate(over="ignore"):
        return bool((scales.astype(np.float16).astype(np.float32) == scales).all())


def repack(  # noqa: PLR0913 - what and how
    packed: Packed,
    form: str,
    rows: Indices,
    columns: Indices | None,
    out: NDArray[np.uint8],
    *,
    pool: Executor | None = None,
    done: Callable[[slice], None],
) -> None:
    """Write these outputs and inputs to `out`, uint8 `quantized_shape`, as a format that `holds` them.

    Errors: `CheckpointError` where a scale is no number, or int4a's smallest number is too large.
    """
    packed.check_sizes()

    def work(first: int) -> None:
        span = slice(first, min(len(rows), first + BLOCK_ROWS))
        _repack(packed, form, rows[span], columns, out[first // PANEL : -(-span.stop // PANEL)])
        done(span)

    for _ in (map if pool is None else pool.map)(work, range(0, len(rows), BLOCK_ROWS)):
        pass


def _repack(packed: Packed, form: str, rows: Indices, columns: Indices | None, out: NDArray[np.uint8]) -> None:
    """One block of rows."""
    panels, groups, _ = out.shape
    codes = packed.codes(rows, columns)
    of = (packed.groups if columns is None else packed.groups[columns])[::GROUP]
    n, k = codes.shape
    zero = np.broadcast_to(_picked(packed.zeros(rows), of), (n, groups))
    scale = np.broadcast_to(_picked(packed.scales(rows), of), (n, groups))
    numbers = np.zeros((panels * PANEL, groups * GROUP), np.int16)
    numbers[:n, :k] = codes
    head = [_filled(scale, panels)]
    if form == "int4a":
        with np.errstate(over="ignore"):  # told below
            head.append(_filled(-zero.astype(np.float32) * scale, panels))
    else:
        numbers[:n] -= np.repeat(zero, GROUP, axis=1)
        numbers[:n, k:] = 0
    if not all(np.isfinite(part).all() for part in head):
        _refuse(packed, form, rows, head)
    # [rows, groups * 32] -> [32, rows, groups]
    lay(numbers.reshape(panels * PANEL, groups, GROUP).transpose(2, 0, 1), head, form, out)


def _picked(by_group: NDArray[np.generic], groups: Indices) -> NDArray[np.generic]:
    """[rows, groups] -> of these groups; what all share stays one."""
    return by_group if by_group.shape[1] == 1 else by_group[:, groups]


def _filled(part: NDArray[np.floating], panels: int) -> NDArray[np.float16]:
    """[rows, groups] -> whole panels, of zeros what is not there."""
    out = np.zeros((panels * PANEL, part.shape[1]), np.float16)
    out[: len(part)] = part
    return out


def _refuse(packed: Packed, form: str, rows: Indices, head: Sequence[NDArray[np.float16]]) -> None:
    """CheckpointError: what is not finite."""
    info = packed.info.scales
    row = next(int(rows[np.argwhere(~np.isfinite(part))[0, 0]]) for part in head if not np.isfinite(part).all())
    why = "is damaged: compare it with its publisher's checksum"
    if np.isfinite(head[0]).all():
        why = "has a zero point times a scale that float16 cannot hold: load it without quantize='int4a'"
    msg = f"{info.file}: tensor {info.name}, output {row}: {form} needs finite numbers, and the file {why}"
    raise CheckpointError(msg)
