"""What each group of matrices costs when it alone is rounded: KL(exact, rounded) over a text's first tokens.

A group is measured as int4 and as int8; int4a lies between them, by the groups' weighted errors. Every measurement is a
load of the checkpoint with one word of `quantize`, so it is what a user would get.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...loader.load_plan import make_load_plan
from ...loader.open import open_model
from ...loader.roles import role_of
from ...loader.source import STORED, Rows
from ...loader.underflow import widened
from ...model import quantizer
from ...runtime.quantized import quantized_shape, unpack
from ...runtime.spec import weight_bytes
from ..importance.calibrate import mark_of
from ..importance.methods import load_for
from ..importance.progress import progress
from ..importance.store import read_arrays, write_arrays
from .choice import Group
from .scales import rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ...loader.checkpoint import Checkpoint
    from ...loader.load_plan import LoadPlan
    from ...loader.quantize import PackRows
    from ...loader.source import Source
    from ...model import Model
    from ..importance.methods import Text

    F64 = NDArray[np.float64]

__all__ = ["refuse_quantized", "sensitivities"]

#: Forms that a group is rounded to.
MEASURED = ("int4", "int4a", "int8")
#: Tokens that are compared, and numbers of logits that are held for that.
TOKENS, HELD = 512, 2**27
#: Rows of logits at a time.
PIECE = 64
#: Rows of a matrix by which int4a is placed, and rows that are tried at a time.
ROWS, AT_ONCE = 256, 1024


def sensitivities(path: Path, text: Text, file: Path | None = None) -> list[Group]:
    """Every group of the checkpoint at `path`. `file`: kept after each one, and read by the next run.

    Errors: `InputError` for a model without logits, one that is quantised, a file of another run; and loading's own.
    """
    with load_for(path, text) as model:
        config = model.config
        if config.head is None and (config.decoder is None or not config.lm_head):
            msg = f"{path}: a model without a head has no logits, by which roundings are compared; give --quantize"
            raise InputError(msg)
        windows = _few(model, text)
        mark = mark_of(model, windows, "sensitivities")
        exact = [_logits(model, window) for window in windows]
    with open_model(path) as opened:
        refuse_quantized(path, make_load_plan(opened, None))
        plans = {form: make_load_plan(opened, form) for form in MEASURED}
        groups = {form: _groups(plan) for form, plan in plans.items()}
        packs = {form: quantizer(plan) for form, plan in plans.items()}
        fits = {form: _fitting(groups[form], opened.checkpoint, packs[form]) for form in MEASURED}
        lost = {form: _lost(groups[form], opened.checkpoint, packs[form]) for form in MEASURED}
    kept = read_arrays(file, mark) if file is not None and file.exists() else {}
    words = [f"{key}={form}" for key in groups["int8"] for form in ("int4", "int8") if key in fits[form]]
    with progress(len(words), len(kept), "sensitivities", quiet=text.quiet) as bar:
        for word in words:
            if word not in kept:
                kept[word] = np.array(_divergence(path, text, f"none,{word}", windows, exact))
                bar(1)
                if file is not None:
                    write_arrays(file, mark, **kept)
    made: list[Group] = []
    for key, sources in groups["int8"].items():
        kl = {"none": 0.0} | {form: float(kept[f"{key}={form}"]) for form in ("int8", "int4") if key in fits[form]}
        if "int8" in kl and "int4" in kl and key in fits["int4a"]:
            e4, e4a, e8 = (lost[form][key] for form in ("int4", "int4a", "int8"))
            share = min(1.0, max(0.0, (e4a - e8) / (e4 - e8))) if e4 > e8 else 1.0
            kl["int4a"] = kl["int8"] + share * (kl["int4"] - kl["int8"])
        numbers = sum(math.prod(source.shape) for source in sources)
        nbytes = {form: sum(source.nbytes for source in groups[form][key]) for form in MEASURED if form in kl}
        nbytes["none"] = sum(weight_bytes(STORED[s.tensor.dtype], s.shape) for s in sources)
        made.append(Group(key, numbers, nbytes, kl))
    return made


def refuse_quantized(path: Path, plan: LoadPlan) -> None:
    """Pass a checkpoint of floats. Errors: `InputError`."""
    if any(source.prequantized for source in plan):
        msg = f"{path}: has quantised matrices already; begin from the original checkpoint"
        raise InputError(msg)


def _fitting(groups: dict[str, list[Source]], checkpoint: Checkpoint, pack: PackRows) -> set[str]:
    """The groups whose every number the form holds."""
    return {
        key
        for key, sources in groups.items()
        if all(_holds(source, Rows(source, checkpoint.array(source.tensor.name)), pack) for source in sources)
    }


def _holds(source: Source, rows: Rows, pack: PackRows) -> bool:
    n, k = source.shape
    for at in range(0, n, AT_ONCE):
        w = widened(rows[at : min(n, at + AT_ONCE)], source.tensor.dtype)
        if not pack(w, "F32", source.dtype, np.zeros(quantized_shape(source.dtype, (len(w), k)), np.uint8)):
            return False
    return True


def _lost(groups: dict[str, list[Source]], checkpoint: Checkpoint, pack: PackRows) -> dict[str, float]:
    """Of each group the squared error of rounding, of some rows."""
    total = dict.fromkeys(groups, 0.0)
    for key, sources in groups.items():
        for source in sources:
            w = np.concatenate(list(rows_of(source, checkpoint, ROWS)))
            out = np.zeros(quantized_shape(source.dtype, w.shape), np.uint8)
            if pack(w, "F32", source.dtype, out):
                total[key] += float(((unpack(out, source.dtype, w.shape) - w) ** 2).sum()) * source.shape[0] / len(w)
    return total


def _divergence(path: Path, text: Text, word: str, windows: list[Any], exact: list[NDArray[np.float32]]) -> float:
    """Mean over the tokens of KL(exact, rounded as `word` says)."""
    total, n = 0.0, 0
    with load_for(path, text, quantize=word) as model:
        for window, wanted in zip(windows, exact, strict=True):
            got = _logits(model, window)
            for at in range(0, len(got), PIECE):
                p, q = (_log_softmax(x[at : at + PIECE]) for x in (wanted, got))
                total += float((np.exp(p) * (p - q)).sum())
            n += len(got)
    return total / n


def _logits(model: Model, window: Any) -> NDArray[np.float32]:  # noqa: ANN401 - ids, or a pair of them
    """[T, numbers of a distribution]."""
    if model.config.seq2seq and model.config.writes:
        return model.logits(window[0], decoder_ids=window[1][:-1])
    x = model.logits(window if model.config.encoder is not None else window[:-1])
    spans = model.config.head is not None and model.config.head.kind == "spans"  # over the tokens, for start and end
    return np.atleast_2d(x.T if spans else x)


def _log_softmax(x: NDArray[np.float32]) -> F64:
    z = x.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    z -= np.log(np.exp(z).sum(-1, keepdims=True))
    return z


def _groups(plan: LoadPlan) -> dict[str, list[Source]]:
    """Matrices that can be quantised, by what `quantize` calls them."""
    groups: dict[str, list[Source]] = {}
    for source in plan:
        if source.quantizes:
            before, layers, key = source.name.rpartition("layers.")
            role = role_of(source.name)
            key = f"{before}{key.partition('.')[0]}.{role}" if layers else role
            groups.setdefault(key, []).append(source)
    return groups


def _few(model: Model, text: Text) -> list[Any]:
    """The first windows of a text, of about `TOKENS` tokens."""
    most = max(1, min(TOKENS, HELD // max(1, model.config.n_vocab)))
    few: list[Any] = []
    n = 0
    for window in text.windows(model):
        if n >= most:
            break
        few.append(window if model.config.seq2seq else window[: most - n + (model.config.encoder is None)])
        n += len(few[-1][1] if model.config.seq2seq else few[-1])
    return few
