"""What a matrix becomes that others quantised: by what was asked for, and by what holds it exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..header import TensorInfo
    from ..ranges import Ranges
    from .packed import Packed

__all__ = ["Choice", "Wanted"]


class Wanted(NamedTuple):
    """The outputs and inputs (None: all) of a matrix that are read."""

    info: TensorInfo
    rows: Ranges
    columns: Ranges | None


class Choice:
    """What `quantize=` says of every role: rounded to `quantize`'s, or left as floats."""

    def __init__(
        self, array: Callable[[str], NDArray[np.generic]], quantize: Mapping[str, str], plain: frozenset[str]
    ) -> None:
        """`array`: as `Checkpoint.array`."""
        self.quantize, self.plain = quantize, plain
        self._array = array
        self._forms: dict[tuple[Wanted, ...], str | None] = {}

    def of_coded(self, role: str, wanted: Wanted, alike: Callable[[], Sequence[Wanted]]) -> tuple[str, bool]:
        """The dtype of a matrix that others quantised, and whether their whole numbers stay in it.

        `alike`: all that must have one dtype, itself among them. Errors: `CheckpointError`.
        """
        from .forms import holds  # noqa: PLC0415 - few have any

        floats = {"F32": "f32", "BF16": "bf16"}[wanted.info.dtype]
        asked = floats if role in self.plain else self.quantize.get(role) or self._form(tuple(alike())) or floats
        return asked, asked != floats and holds(self._packed(wanted), asked, wanted.rows, wanted.columns)

    def _form(self, every: tuple[Wanted, ...]) -> str | None:
        """The smallest format that holds all of these exactly; None: none does."""
        from .forms import FORMS, best  # noqa: PLC0415 - as above

        if every not in self._forms:
            found = [best(self._packed(one), one.rows, one.columns) if one.info.coded else None for one in every]
            last = None if None in found else max(FORMS.index(form) for form in found if form is not None)
            self._forms[every] = None if last is None else FORMS[last]
        return self._forms[every]

    def _packed(self, wanted: Wanted) -> Packed:
        return cast("Packed", self._array(wanted.info.name))
