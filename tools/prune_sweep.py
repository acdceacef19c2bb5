"""`miaotui prune IN --sweep`: methods and ratios side by side, and the best of them within a budget.

Each row is one cut, measured against the whole model: perplexity and mean KL(whole || cut) in nats over the judged
text, decode speed by turns with the whole model (median of the pairs), the bytes of weights that a decode step reads,
and all memory (weights, arena, cache). The judged text is that of `--judge`, or else the last fifth of `--text`, which
then is not calibrated with. A method's zeros are held sparse, as `--sparsity stored` does.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError, PlanError, spelled_like
from ..loader.files import quote, reason
from ..loader.sizes import largest
from ..loader.write import write_whole
from ..model import load
from ..sizes import format_bytes
from .bench.quality import compare, log_softmax
from .bench.roofline import machine, versions
from .bench.shared import bytes_per_step, public_command
from .importance.calibrate import first_asked
from .importance.masks import parse_sparsity
from .importance.methods import BASIS, DEPTH, EXPERTS, METHODS, WIDTH, ZEROS, Wish, find
from .perplexity import check_predicts
from .prune import prune
from .prune_plot import draw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..model import Model
    from .importance.methods import Found, Text

__all__ = [
    "Judged",
    "best",
    "check_budget",
    "check_methods",
    "compare_cuts",
    "split_judged",
    "sweep",
    "table",
    "wishes",
]

STEPS, ROUNDS = 48, 5
#: Seconds between turns: threads of the side that is done first spin, then leave.
PAUSE = 0.4
TAIL = 5  # one part in this many is judged, where there is no --judge


def wishes(n_layers: int, methods: Sequence[str], *, heads: bool = False) -> list[Wish]:
    """Depth: three quarters, half and three sevenths of the layers; neurons, width: 0.75, 0.5; zeros: 0.5, 2:4."""
    keeps = sorted({max(1, round(n_layers * share)) for share in (3 / 7, 0.5, 0.75)} - {n_layers}, reverse=True)
    out = []
    for method in methods:
        if method in DEPTH:
            out += [Wish(method, keep=n) for n in keeps]
        elif method in WIDTH:
            out += [Wish(method, ffn=share) for share in (0.75, 0.5)]
            out += [Wish(method, ffn=share, uniform=True) for share in (0.75, 0.5) if method == "flap"]
            out += [Wish(method, heads=0.5)] if heads else []
            out += [Wish(method, width=share) for share in (0.75, 0.5) if method == "activation"]
        elif method in BASIS:
            out += [Wish(method, width=share) for share in (0.75, 0.5)]
        elif method in EXPERTS:
            out += [Wish(method, experts=share) for share in (0.75, 0.5)]
        elif method in ZEROS:
            patterns = [parse_sparsity(s) for s in ("0.5", "2:4")]
            out += [Wish(method, sparsity=s) for s in patterns]
            out += [Wish(method, sparsity=s, one_pass=True) for s in patterns if method != "magnitude"]
    return out


def check_methods(methods: Sequence[str]) -> None:
    """InputError: one of them is no method."""
    for method in methods:
        if method not in METHODS:
            near = spelled_like(method, METHODS, 1)
            perhaps = f" (did you mean {near[0]}?)" if near else ""
            msg = f"--methods {method}: no such method{perhaps}; expected some of {', '.join(METHODS)}"
            raise InputError(msg)


def check_budget(**budget: float | None) -> None:
    """InputError: a limit of `best` is none."""
    for name, limit in budget.items():
        if limit is not None and not 0 < limit < math.inf:
            msg = f"{name}={limit!r}: expected a number above 0"
            raise InputError(msg)


def compare_cuts(
    path: Path,
    text: Text,
    judged: Judged,
    folder: Path,
    *,
    methods: Sequence[str] = (),
    **budget: Any,  # noqa: ANN401 - as `best` takes it
) -> None:
    """Make the table, print it, and write it with the plans and a picture to `folder`. Errors: `InputError`."""
    check_methods(methods)
    check_budget(**budget)
    try:
        (folder / "plans").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        msg = f"{quote(str(folder), 300)}: cannot be made ({reason(e)}); check the disk and the directory's permissions"
        raise InputError(msg) from e
    record: dict[str, Any] = {
        "command": public_command("miaotui", sys.argv),
        "machine": machine(),
        "versions": versions(),
        "model": path.name,
        "calibration": {"file": text.name, "tokens": text.tokens, "window": text.window},
        "judged": {"file": judged.name, "window": text.window}
        | ({"lines": True} if text.lines else {})
        | ({"behind": text.behind} if text.behind else {}),
    }
    chosen = None
    for cut in sweep(path, replace(text, quiet=True), judged, methods or METHODS, folder / "plans"):
        record |= cut
        chosen = best(record["results"], **budget)
        record["budget"], record["best"] = budget, chosen and chosen["cut"]
        write_whole(folder / "sweep.json", json.dumps(record, indent=1) + "\n")  # so a stopped sweep keeps its rows
        write_whole(folder / "sweep.md", table(record))
    print(f"best within the budget: {chosen['cut'] if chosen else 'none of these'}")
    try:
        draw([record], folder / "sweep.svg")
    except InputError as e:
        print(f"no picture: {e}")


@dataclass(frozen=True)
class Judged:
    """The text that cuts are measured with, and what to call it."""

    text: str
    name: str


def split_judged(text: Text) -> tuple[Text, Judged]:
    """Calibration without the last fifth, and that: at a line's end where there is one."""
    at = len(text.text) * (TAIL - 1) // TAIL
    at = text.text.find("\n", at) + 1 or at if text.lines else at
    return replace(text, text=text.text[:at]), Judged(text.text[at:], f"the last fifth of {text.name}")


def table(record: dict[str, Any]) -> str:
    """Markdown, a row for each cut, without speeds: what docs/pruning.md quotes."""
    lines = ["| cut | perplexity | times the whole's | KL | weights a step |", "|---|--:|--:|--:|--:|"]
    for r in (record["original"] | {"ppl_ratio": 1.0}, *record["results"]):
        cut, size = r["cut"].removeprefix("--method "), format_bytes(r["bytes_per_step"])
        lines.append(f"| `{cut}` | {r['ppl']:.3f} | {r['ppl_ratio']:.2f} | {r['kl']:.3g} | {size} |")
    return "\n".join(lines) + "\n"


def sweep(
    path: Path, text: Text, judged: Judged, methods: Sequence[str], plans: Path | None = None
) -> Iterator[dict[str, Any]]:
    """`original` and the `results` so far, after each cut; printed as they come. Plans are written to `plans`."""
    results: list[dict[str, Any]] = []
    with load(path) as whole:
        check_predicts(whole.config, "--sweep")
        windows = text.windows(whole, judged.text, judged.name)
        asked = first_asked(whole, windows, text.behind)
        wanted = [w[a:] for w, a in zip(windows, asked, strict=True)]

        def judge(model: Model) -> list[NDArray[np.float64]]:
            return [log_softmax(model.logits(w[:-1])[a:]) for w, a in zip(windows, asked, strict=True)]

        exact = judge(whole)
        original = {"cut": "nothing", **_sizes(whole), **compare(exact, exact, wanted)}
        n = original["n_tokens"]
        print(f"perplexity and KL over {n} tokens in windows of {text.window}")
        _print(original | {"ppl_ratio": 1.0, "speed": 1.0})
        each = largest(whole.config).n_kv_heads
        for wish in wishes(whole.config.n_layers, methods, heads=each > 1):
            try:
                cut = find(path, wish, text)
            except PlanError as e:  # a family that the method has no way with
                print(f"{str(wish).removeprefix('--method '):32s} left out: {e}", flush=True)
                continue
            if plans is not None:
                cut.plan.save(plans / f"{_name(wish)}.json")
            with _cut(path, cut, None if wish.sparsity is None else {"sparsity": "stored"}) as model:
                result = {"cut": str(wish), "plan": str(cut.plan), **cut.scores, **_sizes(model)}
                result |= compare(exact, judge(model), wanted)
                result["speed"] = _speed(model, whole)
            result["ppl_ratio"] = result["ppl"] / original["ppl"]
            results.append(result)
            _print(result)
            yield {"original": original, "results": results}
    if not results:
        msg = f"{path}: none of {', '.join(methods)} can cut this model; expected some of {', '.join(METHODS)}"
        raise InputError(msg)


def best(
    results: Sequence[dict[str, Any]],
    *,
    max_memory: int | None = None,
    min_speedup: float | None = None,
    max_perplexity_ratio: float | None = None,
) -> dict[str, Any] | None:
    """Of the cuts within the budget: the fewest bytes a step where the loss is limited, else the least perplexity."""
    fits = [
        r
        for r in results
        if r["memory"] <= (max_memory or math.inf)
        and r["speed"] >= (min_speedup or 0)
        and r["ppl_ratio"] <= (max_perplexity_ratio or math.inf)
    ]
    keys = ("bytes_per_step", "ppl") if max_perplexity_ratio else ("ppl", "bytes_per_step")
    return min(fits, key=lambda r: tuple(r[k] for k in keys), default=None)


@contextmanager
def _cut(path: Path, cut: Found, held: dict[str, str] | None = None) -> Iterator[Model]:
    """Load what was found, by way of a checkpoint on disk where tensors change, which is then loaded as `held` says."""
    if not cut.rewrite.changes:
        with load(path, prune=cut.plan) as model:
            yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cut"
        prune(path, out, cut.plan, cut.rewrite)
        with load(out, prune=held) as model:
            yield model


def _sizes(model: Model) -> dict[str, int]:
    memory = model.memory["allocated"] + model.memory["weights_mapped"]
    weights = list(model.session.weights)
    others = sum(w.kept if w.dtype.endswith("_sparse") else int(np.count_nonzero(w.array)) for w in weights
                 if w.array is not None)  # fmt: skip
    return {
        "parameters": sum(math.prod(w.shape) for w in weights),
        "zeros": sum(math.prod(w.shape) for w in weights) - others,
        "bytes_per_step": bytes_per_step(model.config, model.session.weights, 1)[0],
        "memory": memory,
    }


def _speed(model: Model, whole: Model) -> float:
    """Decode, times the whole model's: by turns, the median of the pairs of median steps."""
    ratios = []
    for _ in range(ROUNDS):
        took = []
        for one in (model, whole):
            time.sleep(PAUSE)
            one.session.step([0], 0)
            seconds = []
            for at in range(min(STEPS, whole.n_context)):
                began = time.perf_counter()
                one.session.step([0], at)
                seconds.append(time.perf_counter() - began)
            took.append(np.median(seconds))
        ratios.append(took[1] / took[0])
    return float(np.median(ratios))


def _name(wish: Wish) -> str:
    return str(wish).removeprefix("--method ").replace(" --", "-").replace(" ", "").replace(":", "of")


def _print(r: dict[str, Any]) -> None:
    print(
        f"{r['cut'].removeprefix('--method '):32s} perplexity {r['ppl']:9.4f} ({r['ppl_ratio']:7.3f}x)   "
        f"KL {r['kl']:.3e}   decode {r['speed']:.2f}x   {format_bytes(r['bytes_per_step'])} a step",
        flush=True,
    )
