"""Metrics of a run for TensorBoard (tensorboardX, the extra `tensorboard`).

Every run adds a file of events to the directory; its step is the number of runs there before it, so that a metric is a
line over runs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .measured import lacking

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .measured import Measured

__all__ = ["log"]


def log(directory: Path, task: str, measured: Measured, options: Mapping[str, Any]) -> int:
    """Add a run; its step. Metrics are `task/metric`, of a class `task/metric/class`; the options are a text."""
    try:
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - an extra
    except ImportError as e:
        raise lacking(library="tensorboardX", what="--log tensorboard", extra="tensorboard") from e
    step = len(list(directory.glob("events.out.tfevents.*"))) if directory.is_dir() else 0
    try:
        with SummaryWriter(str(directory), filename_suffix=f".{step:06d}") as writer:
            for name, value in measured.metrics.items():
                writer.add_scalar(f"{task}/{name}", value, step)
            for kind, row in measured.classes.items():
                for name, value in row.items():
                    writer.add_scalar(f"{task}/{name}/{kind}", value, step)
            writer.add_text(f"{task}/options", json.dumps(dict(options), ensure_ascii=False), step)
    except OSError as e:
        msg = f"--log tensorboard {directory}: cannot be written ({e.strerror or e})"
        raise InputError(msg) from e
    return step
