"""Does FLAP's bias help? What it can take up, and what it does to the perplexity: all of it, a part, elsewhere.

    python -m miaotui.tools.studies.flap_bias MODEL --text CALIBRATION --judge TEXT [--ffn 0.5] --out FILE

Neurons are cut as `--method flap --ffn S --uniform` cuts them, and biases b = W_gone mean(x_gone) written into the
checkpoint, times a factor: 0 is `--no-compensation`, 1 is FLAP. Besides it:

- `constant_share`, by layer: |b|^2 / E|W_gone x_gone|^2. No constant can take up more of what goes; the rest moves.
- `without_first`: the mean over all tokens but a window's first, whose activations are said to be outsized.
- `random`: biases of the same lengths in random directions: how much a constant of that size disturbs.
- `one_layer`: only one layer cut, without and with its bias.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...loader.files import read_text
from ...model import load
from ..bench.shared import print_out, public_command
from ..importance.calibrate import calibrate
from ..importance.methods import Text, Wish, find
from ..importance.rewrite import Rewrite
from ..importance.structured import compensation
from ..perplexity import measure
from ..prune import prune

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ...loader.prune.plan import PrunePlan

    F64 = NDArray[np.float64]
    Biases = Mapping[str, F64]

__all__ = ["constant_share", "main", "study"]

FACTORS = (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0)
RANDOM = 4


def constant_share(w: F64, mean: F64, moment: F64, kept: Sequence[int]) -> float:
    """|W_gone mean|^2 / E|W_gone x|^2, E over the tokens; `moment` float64 [k, k] is E[x x^T]."""
    gone = np.setdiff1d(np.arange(w.shape[1]), kept)
    lost = w[:, gone]
    energy = np.einsum("oi,ij,oj->", lost, moment[np.ix_(gone, gone)], lost)
    return float((compensation(w, mean, kept) ** 2).sum() / energy)


def study(path: Path, text: Text, judged: str, share: float) -> dict[str, Any]:
    """Every figure of the module's docstring. Errors: those of `find`, and of loading."""
    result = find(path, Wish("flap", ffn=share, uniform=True), text)
    plan, biases = result.plan, result.rewrite.biases

    def ppl(plan: PrunePlan, biases: Biases) -> float:
        with tempfile.TemporaryDirectory() as folder:
            prune(path, Path(folder) / "cut", plan, Rewrite(biases=biases))
            with load(Path(folder) / "cut", max_context=text.window) as model:
                return float(measure(model, judged, window=text.window)["ppl"])

    with load(path, max_context=text.window, prefill_chunk=text.window) as model:
        whole = measure(model, judged, window=text.window)
        windows = text.windows(model)
        every, firsts = calibrate(model, windows, hessian=True), calibrate(model, [w[:2] for w in windows])
        shares, later, weights = {}, {}, {w.name: w for w in model.session.weights}
        for layer, kept in plan.ffn.items():
            w, name = weights[f"layers.{layer}.down"].f64(), f"layers.{layer}.ffn_out"
            shares[layer] = constant_share(w, every.mean(layer, "ffn_out"), every.hessian[name] / every.n, kept)
            mean = (every.total[name] - firsts.total[name]) / (every.n - firsts.n)
            later[f"layers.{layer}.down_bias"] = compensation(w, mean, kept)
    rng = np.random.default_rng(0)
    drawn = [{key: _turned(b, rng) for key, b in biases.items()} for _ in range(RANDOM)]
    alone = [replace(plan, ffn={layer: kept}) for layer, kept in plan.ffn.items()]
    only = [{key: b for key, b in biases.items() if int(key.split(".")[1]) in one.ffn} for one in alone]
    return {
        "judged": {"tokens": whole["n_tokens"], "window": text.window, "ppl": whole["ppl"]},
        "factors": {str(f): ppl(plan, {key: f * b for key, b in biases.items()}) for f in FACTORS},
        "without_first": ppl(plan, later),
        "random": [ppl(plan, of) for of in drawn],
        "constant_share": list(shares.values()),
        "one_layer": [
            {"without": ppl(one, {key: 0 * b for key, b in of.items()}), "with": ppl(one, of)}
            for one, of in zip(alone, only, strict=True)
        ],
    }


def _turned(b: F64, rng: np.random.Generator) -> F64:
    """Another vector of the same length."""
    drawn = rng.standard_normal(b.shape)
    turned: F64 = drawn * (np.linalg.norm(b) / np.linalg.norm(drawn))
    return turned


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; 0."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.studies.flap_bias", description="FLAP's bias")
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="calibration text")
    parser.add_argument("--judge", type=Path, required=True, metavar="FILE", help="text to measure with")
    parser.add_argument("--ffn", type=float, nargs="+", default=[0.5, 0.75], metavar="S", help="shares to keep")
    parser.add_argument("--window", type=int, default=256, metavar="N")
    parser.add_argument("--tokens", type=int, default=8192, metavar="N")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    text = Text(read_text(args.text, InputError), args.text.name, args.window, args.tokens)
    studies = {str(share): study(args.model, text, read_text(args.judge, InputError), share) for share in args.ffn}
    record = {"command": public_command("python -m miaotui.tools.studies.flap_bias", sys.argv), "ffn": studies}
    args.out.write_text(json.dumps({"model": args.model.name, **record}, indent=1) + "\n", encoding="utf-8")
    print_out(json.dumps(studies, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
