"""The confusion matrix and the reliability diagram of a report, as one picture (matplotlib, the extra `plot`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .measured import BINS, lacking

if TYPE_CHECKING:
    from pathlib import Path

    from .measured import Bin, Confusion, Measured

__all__ = ["draw"]

#: Classes whose counts are written into their cells.
WRITTEN = 20


def draw(measured: Measured, out: Path) -> None:
    """Write the picture; its suffix says in which format. Errors: `InputError` where there is nothing to draw."""
    parts = [*([_confusion] if measured.confusion else []), *([_reliability] if measured.reliability else [])]
    if not parts:
        msg = f"--plot {out}: a confusion matrix and a reliability diagram are of classes, which this task has not"
        raise InputError(msg)
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as e:
        raise lacking(library="matplotlib", what="--plot", extra="plot") from e
    rules = {"svg.hashsalt": "miaotui", "svg.fonttype": "none"}  # the same bytes each time
    with mpl.rc_context(rules | {"text.parse_math": False}):  # a class's name may have dollar signs
        figure = Figure(figsize=(5.2 * len(parts), 4.6), layout="constrained")
        for part, axes in zip(parts, figure.subplots(1, len(parts), squeeze=False)[0], strict=True):
            part(figure, axes, measured)
        try:
            figure.savefig(out, dpi=110, metadata={"Date": None} if out.suffix == ".svg" else None)
        except (OSError, ValueError) as e:
            msg = f"--plot {out}: {e}"
            raise InputError(msg) from e


def _confusion(figure: Any, axes: Any, measured: Measured) -> None:  # noqa: ANN401 - matplotlib comes late
    confusion: Confusion | None = measured.confusion
    if confusion is None:
        return
    shares = [[n / max(sum(row), 1) for n in row] for row in confusion.counts]
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the class")
    n = len(confusion.labels)
    axes.set_xticks(range(n), confusion.labels, rotation=45 if n > 3 else 0, ha="right" if n > 3 else "center")  # noqa: PLR2004 - names that fit next to each other
    axes.set_yticks(range(n), confusion.labels)
    axes.set_xlabel("answer")
    axes.set_ylabel("class in the file")
    axes.set_title("Confusion matrix")
    if n <= WRITTEN:
        for i, row in enumerate(confusion.counts):
            for j, count in enumerate(row):
                colour = "white" if shares[i][j] > 0.5 else "black"  # noqa: PLR2004 - on dark blue
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=8)


def _reliability(_: Any, axes: Any, measured: Measured) -> None:  # noqa: ANN401 - as above
    bins: list[Bin] = measured.reliability
    most = max(b.count for b in bins)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="perfectly calibrated")
    places = [min(int(b.confidence * BINS), BINS - 1) / BINS for b in bins]
    axes.bar(
        places, [b.accuracy for b in bins], width=1 / BINS, align="edge", color="#0072B2", alpha=0.55, edgecolor="white"
    )
    axes.scatter(
        [b.confidence for b in bins], [b.accuracy for b in bins], s=[12 + 90 * b.count / most for b in bins],
        color="#D55E00", zorder=3, label="examples, by their number",
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share that is right")
    axes.set_title(f"Reliability (error {measured.metrics.get('calibration_error', 0):.3f})")
    axes.legend(loc="upper left", fontsize=8, frameon=False)
