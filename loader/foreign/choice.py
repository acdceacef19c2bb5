"""What a matrix becomes that others quantised: by what was asked for, and by what holds it exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ..checkpoint import Checkpoint
    from ..ranges import Ranges
    from .coded import Coded
    from .packed import Packed

__all__ = ["Choice", "Wanted"]


class Wanted(NamedTuple):
    """The outputs and inputs (None: all) of a matrix that are read."""

    info: Coded
    rows: Ranges
    columns: Ranges | None


class Choice:
    """What `quantize=` says of every role: rounded to `quantize`'s, or left as floats (`plain`); of a layer's, too."""

    def __init__(
        self, checkpoint: Checkpoint, quantize: Mapping[str, str], plain: frozenset[str], *, cut: bool
    ) -> None:
        """`cut`: whether a plan leaves anything out."""
        self.quantize, self.plain = quantize, plain
        self._checkpoint, self._cut = checkpoint, cut

    def word(self, role: str, layer: str) -> str | None:
        """What is said of a role, or of a layer's ("3", "encoder.3"; "": the model's own); None: nothing."""
        return self.quantize.get(f"{layer}.{role}") or ("none" if role in self.plain else self.quantize.get(role))

    def of_coded(self, word: str | None, wanted: Wanted, form: Callable[[], str | None]) -> tuple[str, bool]:
        """The dtype of a matrix that others quantised, and whether their whole numbers stay in it.

        `word`: what is said of it. `form`: as the method, of all that must have one dtype. Errors: `CheckpointError`.
        """
        from .forms import holds  # noqa: PLC0415 - few have any

        floats = {"F32": "f32", "BF16": "bf16"}[wanted.info.dtype]
        asked = floats if word == "none" else word or form() or floats
        return asked, asked != floats and holds(self._packed(wanted), asked, wanted.rows, wanted.columns)

    def form(self, every: Sequence[Wanted]) -> str | None:
        """The smallest format that holds all of these exactly; None: none does. Errors: `CheckpointError`."""
        from .forms import FORMS, best  # noqa: PLC0415 - as above

        found = [best(self._packed(one), one.rows, one.columns) if one.info.coded else None for one in every]
        known = [form for form in found if form is not None]
        return max(known, key=FORMS.index) if len(known) == len(found) else None

    def _packed(self, wanted: Wanted) -> Packed:
        """Of a cut model the system is told what is read of scales and zero points, so that it fetches no more."""
        if self._cut:
            spans: dict[Path, list[tuple[int, int]]] = {}
            for info, of in wanted.info.spans(wanted.rows, wanted.columns):
                if info is not wanted.info.codes:
                    spans.setdefault(info.file, []).extend(of)
            self._checkpoint.expect(spans)
        return cast("Packed", self._checkpoint.array(wanted.info.name))
