"""The methods by name: from a wish and a calibration text to a plan, or to new weights.

| method                         | needs                | returns                                                   |
|--------------------------------|----------------------|-----------------------------------------------------------|
| block-influence, greedy, first | `keep`               | a plan of layers                                          |
| activation, wanda-sp           | `ffn`, `heads`       | a plan of neurons and heads, as many of every layer       |
| activation                     | `width`              | a plan of dimensions of the residual stream               |
| flap                           | `ffn`, `heads`       | a plan and biases; layers uneven, unless `uniform`        |
| routed                         | `experts`            | a plan of experts: those to which most tokens went        |
| slicegpt                       | `width`              | all weights in a smaller basis of the residual stream     |
| magnitude, wanda, sparsegpt    | `sparsity`           | zeros in place, in every matrix of every layer            |

Wanda and SparseGPT go layer by layer, as their own programs do: a layer sees what the cut ones before it put out
(`zeros.py`; not with `one_pass`). All other statistics are those of the whole model, taken once.

Of an encoder, each line of the text is a text; greedy asks its masked-LM head for tokens that are masked. Of an
encoder-decoder, both stacks are cut, by what each sees (`calibrate.py`); greedy asks it for the answers, and leaves out
layers of either. What is not computed of them is refused.
"""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError, PlanError, spelled_like
from ...loader.open import open_model
from ...loader.prune.plan import PrunePlan
from ...loader.prune.rank_width import best_dimensions, dimensions
from ...loader.prune.sparsity import Pattern, show_sparsity
from ...model import load
from ..perplexity import EVERY, answer_losses, losses, mask_of, masked_losses, masked_of
from . import depth, slicegpt, structured
from .calibrate import calibrate, first_asked, n_tokens, windows_of
from .progress import progress
from .rewrite import Rewrite
from .units import cut_units, shares_layers
from .zeros import layer_by_layer, zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ...model import Model
    from ...runtime.spec import Config
    from .calibrate import Statistics
    from .masks import Sparsity

    F64 = NDArray[np.float64]

__all__ = ["BASIS", "DEPTH", "EXPERTS", "METHODS", "WIDTH", "ZEROS", "Found", "Text", "Wish", "find", "load_for"]

DEPTH = ("block-influence", "greedy", "first")
WIDTH = ("activation", "wanda-sp", "flap")
ZEROS = ("magnitude", "wanda", "sparsegpt")
BASIS = ("slicegpt",)
EXPERTS = ("routed",)
METHODS = DEPTH + WIDTH + ZEROS + BASIS + EXPERTS
WITHOUT_TEXT = ("magnitude", "first")
#: `quantize` of every load: floats, also of what others quantised.
FLOATS = "none"
#: How much can be said of each method's cut, and all there is to say.
TAKES = {
    **dict.fromkeys(DEPTH, ("keep",)),
    **dict.fromkeys(WIDTH, ("ffn", "heads")),
    "activation": ("ffn", "heads", "width"),
    **dict.fromkeys(ZEROS, ("sparsity",)),
    **dict.fromkeys(BASIS, ("width",)),
    **dict.fromkeys(EXPERTS, ("experts",)),
}
AMOUNTS = ("keep", "ffn", "heads", "width", "sparsity", "experts")


@dataclass(frozen=True)
class Wish:
    """A method, and how much: layers to keep, shares of the neurons, heads and dimensions to keep, or zeros."""

    method: str
    keep: int | None = None
    ffn: float | None = None
    heads: float | None = None
    sparsity: Sparsity | None = None
    compensate: bool = True
    uniform: bool = False
    width: float | None = None
    one_pass: bool = False
    experts: float | None = None

    def __post_init__(self) -> None:
        """Refuse what the method does not take, and what it lacks: InputError."""
        if self.method not in METHODS:
            near = spelled_like(self.method, METHODS, 1)
            perhaps = f" (did you mean {near[0]}?)" if near else ""
            msg = f"--method {self.method}: no such method{perhaps}; expected one of {', '.join(METHODS)}"
            raise InputError(msg)
        takes = TAKES[self.method]
        given = [n for n in AMOUNTS if getattr(self, n) is not None]
        wrong = [n for n in given if n not in takes]
        if wrong or not given:
            wants = " or ".join(f"--{n}" for n in takes)
            extra = ", ".join(f"--{n}" for n in wrong)
            what = f"found {extra}; expected {wants}" if wrong else f"nothing says how much to cut; give {wants}"
            msg = f"--method {self.method}: {what}"
            raise InputError(msg)
        if self.method != "flap" and (self.uniform or not self.compensate):
            msg = f"--method {self.method}: --uniform and --no-compensation are flap's"
            raise InputError(msg)
        if self.one_pass and self.method not in ("wanda", "sparsegpt"):
            msg = f"--method {self.method}: --one-pass is wanda's and sparsegpt's"
            raise InputError(msg)
        for name in ("ffn", "heads", "width", "experts"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                msg = f"--{name} {share}: expected a share above 0 and at most 1"
                raise InputError(msg)

    @property
    def layer_by_layer(self) -> bool:
        """Whether each layer is to see what the cut ones before it put out."""
        return self.method in ("wanda", "sparsegpt") and not self.one_pass

    @property
    def rewrites(self) -> str | None:
        """What is new in the weights, in words; None where the method only cuts."""
        if self.method in BASIS:
            return "every weight is new, in a smaller basis of the residual stream"
        if self.method in ZEROS:
            values = "and new values" if self.method == "sparsegpt" else "the others unchanged"
            return f"zeros in every matrix of every layer ({self.sparsity}), {values}"
        return None

    def __str__(self) -> str:
        """As on the command line."""
        given = [f"--{n} {getattr(self, n)}" for n in AMOUNTS if getattr(self, n) is not None]
        bare = [] if self.compensate else ["--no-compensation"]
        bare += ["--uniform"] if self.uniform else []
        bare += ["--one-pass"] if self.one_pass else []
        return " ".join([f"--method {self.method}", *given, *bare])


@dataclass(frozen=True)
class Text:
    """A calibration text, how it is cut, and where its statistics are kept on the way.

    `lines`: every line by itself; `behind`: a token that a record has before what is asked of the model.
    """

    text: str
    name: str = "the text"
    window: int = 256
    tokens: int | None = 16384
    file: Path | None = None
    quiet: bool = True
    lines: bool = False
    behind: str | None = None

    def windows(self, model: Model, text: str | None = None, name: str = "the text") -> list[list[int]]:
        """Ids of the text, or of another, called `name`, that is cut as it is; of this one at most `tokens`."""
        text, tokens, name = (self.text, self.tokens, self.name) if text is None else (text, None, name)
        return windows_of(model, text, window=self.window, tokens=tokens, lines=self.lines, name=name)


@dataclass(frozen=True)
class Found:
    """What a method found: `plan` for the model as it is in the file, and what is written otherwise."""

    plan: PrunePlan
    rewrite: Rewrite = field(default_factory=Rewrite)
    scores: dict[str, Any] = field(default_factory=dict)


def find(path: Path, wish: Wish, text: Text | None, base: PrunePlan | None = None) -> Found:
    """Ask a method what to cut of what `base` leaves. Errors: `InputError`, `PlanError`, and loading's own."""
    if base is not None and base.repeats:
        msg = f"{wish}: the plan runs layer after layer with the same weights; write it first, and cut what was written"
        raise PlanError(msg)
    if (
        base is not None
        and wish.method in (*BASIS, "sparsegpt")
        and any(Pattern.parse(zeros).chooses for zeros in base.sparsity.values())
    ):
        msg = (
            f"--method {wish.method} makes new weights, where the plan's zeros ({show_sparsity(base.sparsity)}) would "
            "be none: leave them out of it, write the checkpoint, and cut that one with --sparsity"
        )
        raise PlanError(msg)
    if text is None and wish.method not in WITHOUT_TEXT:
        msg = f"--method {wish.method} looks at what the model does: give a text, --text FILE"
        raise InputError(msg)
    with load_for(path, text, base) as model:
        if any(w.quantized for w in model.session.weights):
            msg = f"{path}: its matrices are quantised; prune the original checkpoint, and quantise what is left"
            raise InputError(msg)
        _check_kind(wish, model)
        windows = None if text is None else text.windows(model)
        result = _find(path, wish, text, base, model, windows or [])
        count = sum(n_tokens(model, w) for w in windows or [])
    seen = "" if text is None or wish.method in WITHOUT_TEXT else (
        f"; {count} tokens of {text.name} in windows of {text.window}"
    )  # fmt: skip
    plan = replace(result.plan, notes=(*result.plan.notes, f"{wish}{seen}"))
    return replace(result, plan=plan if base is None else base.then(plan))


def load_for(path: Path, text: Text | None, prune: PrunePlan | None = None, *, quantize: str = FLOATS) -> Model:
    """The model that is to read a calibration text: its context is the text's window. Errors: loading's own."""
    with open_model(path) as opened:
        whole = opened.config.encoder is not None  # its texts are lines, whatever the window
    shape: dict[str, Any] = {}
    if text is not None and not whole:
        shape = {"max_context": text.window, "prefill_chunk": text.window}
    try:
        return load(path, prune=prune, quantize=quantize, **shape)
    except InputError as e:  # the context is the window, which is what was typed
        raise InputError(str(e).replace("max_context=", "window=")) from e


def _check_kind(wish: Wish, model: Model) -> None:
    """Errors: `PlanError` for what is not computed of an encoder, or of an encoder-decoder."""
    config = model.config
    why = ""
    if config.encoder is not None:
        if wish.method in BASIS:
            why = (
                "which has no such basis: its stream is normed otherwise, or is of two stacks. Its dimensions as they "
                "are can be cut: --width, without --method or with activation"
            )
        elif wish.layer_by_layer:
            why = "which is not gone through layer by layer: add --one-pass"
        elif shares_layers(model) and wish.method == "flap" and wish.compensate:
            why = "whose layers share their weights: what is constant in one is not in another; add --no-compensation"
    if why:
        kind = "an encoder-decoder" if config.seq2seq else "an encoder"
        msg = f"--method {wish.method}: {config.family} is {kind}, {why}"
        raise PlanError(msg)


def _find(  # noqa: PLR0913, PLR0917 - what a method sees
    path: Path, wish: Wish, text: Text | None, base: PrunePlan | None, model: Model, windows: Sequence[Sequence[int]]
) -> Found:
    statistics = None
    if wish.method in BASIS:
        slicegpt.can_turn(model.config)
    if wish.method in EXPERTS and not _per_token(model.config):
        msg = f"{wish}: the model has no experts"
        raise PlanError(msg)
    if text is not None and wish.method not in (*WITHOUT_TEXT, "greedy") and not wish.layer_by_layer:
        more: dict[str, Any] = {
            "hessian": wish.method == "sparsegpt",
            "stream": wish.method in BASIS,
            "experts": wish.method in (*ZEROS, *WIDTH),
        }
        statistics = calibrate(model, windows, **more, file=text.file, quiet=text.quiet)
    if wish.method == "greedy":
        return _greedy(path, wish, text, base, model, windows)
    if wish.method == "first":
        return _of_both(model, lambda config, _: Found(PrunePlan(layers=_firsts(config, wish.keep or 0))))
    if wish.method in ZEROS:
        return _zeros(wish, text, model, windows, statistics)
    assert statistics is not None  # noqa: S101 - `find` has seen that there is a text
    if wish.method in (*BASIS, *EXPERTS):
        cut = _basis if wish.method in BASIS else _experts
        return cut(wish, model, statistics)
    seen = statistics

    def stack(config: Config, before: str) -> Found:
        mine = seen.encoder if before and seen.encoder is not None else seen
        return _units(wish, model, config, mine, before) if wish.method in WIDTH else _influence(wish, mine)

    both = _of_both(model, stack)
    return both if wish.width is None else _with_width(both, wish.width, model.config, seen)


def _of_both(model: Model, stack: Callable[[Config, str], Found]) -> Found:
    """What is found of a model's stack; of an encoder-decoder of both, the encoder's as a part of the plan.

    `stack`: of a config, and what its weights' names begin with.
    """
    found = stack(model.config, "")
    if not model.config.seq2seq:
        return found
    of = stack(model.config.encoding, "encoder.")
    scores = found.scores | {f"encoder.{name}": value for name, value in of.scores.items()}
    rewrite = replace(found.rewrite, biases={**found.rewrite.biases, **of.rewrite.biases})
    notes = found.plan.notes or of.plan.notes
    plan = replace(found.plan, encoder=replace(of.plan, notes=()), notes=notes)
    return replace(found, plan=plan, rewrite=rewrite, scores=scores)


def _influence(wish: Wish, statistics: Statistics) -> Found:
    """Layers by block influence."""
    scores = depth.block_influence(statistics)
    kept = depth.most_influential(scores, wish.keep or 0)
    return Found(PrunePlan(layers=kept), scores={"layers": scores.tolist()})


def _firsts(config: Config, count: int) -> tuple[int, ...]:
    """The first layers."""
    return depth.most_influential(-np.arange(config.n_layers, dtype=np.float64), count)


def _zeros(
    wish: Wish, text: Text | None, model: Model, windows: Sequence[Sequence[int]], statistics: Statistics | None
) -> Found:
    """New matrices of the same shapes."""
    assert wish.sparsity is not None  # noqa: S101 - a wish for zeros has one
    if wish.layer_by_layer:
        assert text is not None  # noqa: S101 - as above
        how: dict[str, Any] = {"file": text.file, "quiet": text.quiet}
        matrix = layer_by_layer(model, windows, wish.method, wish.sparsity, **how)
    else:
        matrix = zeros(wish.method, wish.sparsity, statistics)
    routed = text is not None and wish.method not in WITHOUT_TEXT and bool(_per_token(model.config))
    notes = ("an expert to which no token of the text went has its zeros by magnitude",) if routed else ()
    return Found(PrunePlan(notes=notes), Rewrite(matrix))


def _greedy(  # noqa: PLR0913, PLR0917 - as `_find`
    path: Path, wish: Wish, text: Text | None, base: PrunePlan | None, model: Model, windows: Sequence[Any]
) -> Found:
    assert text is not None  # noqa: S101 - as above
    config, keep = model.config, wish.keep or 0
    sizes = (config.n_layers, *((config.encoding.n_layers,) if config.seq2seq else ()))
    for n in sizes:
        depth.check_count(n, keep)  # before a progress bar is drawn
    tried: dict[depth.Kept, float] = {}
    asked = first_asked(model, windows, text.behind)
    count = sum(n_tokens(model, w) for w in windows) - sum(asked)
    lost: Callable[[Model, Any], F64] = losses
    context = text.window
    if config.encoder is not None:  # its positions are the model's, and texts are cut to the window
        lost, context = (answer_losses if config.seq2seq else masked_losses), model.n_context
    if lost is masked_losses:
        mask_of(model, str(wish))
        count = sum(i >= a for w, a in zip(windows, asked, strict=True) for i in masked_of(w))
        if not count:
            msg = (
                f"{wish}: {text.name} has no masked token to ask for; expected a line, and --window, of at least "
                f"{EVERY // 2 + 1} tokens"
            )
            raise InputError(msg)

    def plan_of(kept: depth.Kept) -> PrunePlan:
        return PrunePlan(layers=kept[0], encoder=PrunePlan(layers=kept[1]) if config.seq2seq else None)

    def loss(kept: depth.Kept) -> float:
        plan = plan_of(kept)
        what = plan if base is None else base.then(plan)
        with load(path, prune=what, quantize=FLOATS, max_context=context) as cut:
            tried[kept] = math.fsum(float(lost(cut, w)[a:].sum()) for w, a in zip(windows, asked, strict=True))
        bar(1)
        return tried[kept]

    left = [n for n in sizes if n > keep]  # a step tries every layer of these; two stacks are done early, or not
    most = sum(range(len(left) * (keep + 1), sum(left) + 1)) + (keep + 1 if len(left) > 1 else 0)
    with progress(most, 0, "greedy", quiet=text.quiet) as bar:
        steps = depth.greedy(sizes, keep, loss)
    path_of = [{"kept": list(s[0]), "nll": tried[s] / count} for s in steps if s in tried]
    for told, step in zip(path_of, steps, strict=False) if config.seq2seq else ():
        told["encoder"] = list(step[1])
    return Found(plan_of(steps[-1]), scores={"steps": path_of})


def _per_token(config: Config) -> dict[int, int]:
    """To how many experts a token goes, in every layer that has some."""
    halves = ((i, config.stack.feed_forward(i)) for i in range(config.n_layers))
    return {i: s.experts.per_token for i, s in halves if s is not None and s.experts is not None}


def _experts(wish: Wish, model: Model, statistics: Statistics) -> Found:
    """Of every layer that has experts, those to which most tokens went."""
    per_token = _per_token(model.config)
    counts = {i: statistics.routed[f"layers.{i}"] for i in per_token}
    kept = {i: structured.most_routed(counts[i], wish.experts or 1.0, least) for i, least in per_token.items()}
    return Found(PrunePlan(experts=kept), scores={"routed": {i: n.tolist() for i, n in counts.items()}})


def _units(wish: Wish, model: Model, config: Config, statistics: Statistics, before: str) -> Found:
    """Neurons and heads of a stack, and biases that take up what goes."""
    plan, biases = cut_units(wish, model, config, statistics, before)
    return Found(plan, Rewrite(biases=biases))


def _with_width(found: Found, share: float, config: Config, statistics: Statistics) -> Found:
    """With dimensions by activation: sum over all norms of layers, of both stacks where there are two."""
    stacks = [statistics] if statistics.encoder is None else [statistics, statistics.encoder]
    norms = [x for of in stacks for name, x in of.squares.items() if name.endswith("_in") and ".experts." not in name]
    scores = np.sum([structured.activation(x) for x in norms], axis=0)
    return replace(found, plan=replace(found.plan, width=tuple(best_dimensions(scores, share, config))))


def _basis(wish: Wish, model: Model, statistics: Statistics) -> Found:
    """All weights in the basis of the directions that carry most."""
    config, covariance = model.config, statistics.stream["all"]
    q = slicegpt.basis(covariance, dimensions(wish.width or 1.0, config))
    share = slicegpt.explained(covariance, q)
    note = (
        f"a basis of {q.shape[1]} directions of the {config.d_model}, with {share:.4f} of what the norms put out: no "
        "bytes of the file are left as they are, and only the checkpoint that `miaotui prune` writes has it"
    )
    rewrite = Rewrite(basis=slicegpt.Basis(q, slicegpt.gains_of(model.session.weights)))
    return Found(PrunePlan(notes=(note,)), rewrite, scores={"explained": share})
