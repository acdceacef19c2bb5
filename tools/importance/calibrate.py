"""Statistics of what flows into every matrix while a model reads a calibration text.

The program of the model runs an instruction at a time (`Session.watched_step`), and every input of a product is added
up in float64, one window of the text after the other. Five places of a layer are watched:

| place      | what flows there                                | matrices that read it |
|------------|-------------------------------------------------|-----------------------|
| `attn_in`  | the residual stream after the attention's norm | q, k, v               |
| `attn_out` | the heads' outputs, side by side                | o                     |
| `ffn_in`   | the residual stream after the other norm       | up, gate              |
| `ffn_out`  | the neurons                                     | down                  |
| `cross_in` | the same after the norm of the attention to an encoder | cross_q          |
| `cross_out`| that attention's heads                          | cross_o               |
| `source`   | what the encoder gives                          | cross_k, cross_v      |
| `shared`   | the neurons of the expert that all tokens pass  | shared_down           |
| (layer)    | the residual stream that enters it              |                       |

and, for a basis of the residual stream, what every norm puts out without its gains. Of experts `ffn_in` is what all
tokens bring; what those bring that go to one, and its neurons, are kept under "layers.LAYER.experts.EXPERT.PLACE".

An encoder reads each line of the text, framed, as a text of its own, and every token counts. Of an encoder-decoder a
line is what its encoder reads, a tab, and what its decoder writes; each stack has statistics of its own, taken while
it reads.

Sums and sums of squares go over the tokens in their order, column by column: the same on every machine. The Hessian
X^T X is a product by NumPy's BLAS: the same on one machine, but perhaps not in the last bit on another.
"""

from __future__ import annotations

import hashlib
from dataclasses import field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.files import quote
from ...loader.roles import LINEAR, PLACES, READS, ROLES, role_of
from ...runtime.arena import Tensor
from ...runtime.encoding import Whole
from ...runtime.experts import ExpertTable
from ...runtime.spec import Weight
from .progress import progress
from .store import read_arrays, write_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ...model import Model
    from ...runtime.program import Instruction

    F64 = NDArray[np.float64]
    #: Is given what leaves the last layer, [tokens, d_model], to add to the statistics.
    Leaving = Callable[["Statistics", F64], None]

__all__ = [
    "Statistics",
    "add_input",
    "add_routed",
    "add_sums",
    "calibrate",
    "finite",
    "first_asked",
    "mark_of",
    "n_tokens",
    "read_statistics",
    "seen_as",
    "windows_of",
]

#: The one of a place's matrices that every model has, and that is watched -> the place; the others read the same
#: tensor. The router's is what experts read, before they are chosen.
WATCHED = {
    **{next(r for r in LINEAR if PLACES[r] == place and ROLES[r].always): place for place in map(PLACES.get, LINEAR)},
    **{role: PLACES[role] for role in ("cross_q", "cross_o", "shared_down")},
    "router": "ffn_in",
}
#: What an encoder gives to those that read it.
SOURCE = "source"
#: Of an expert's matrices those that are watched.
ROUTED = ("expert_up", "expert_down")
#: Norms of a layer that matrices read.
NORMS = tuple(dict.fromkeys(norm for norm in READS.values() if ROLES[norm].sublayer))
#: The first of these in a layer reads the stream that enters it: a norm, or in a model without one a matrix.
ENTRIES = (*NORMS, *(role for role in LINEAR if role in READS))


@dataclass
class Statistics:
    """Sums over `n` tokens. Keys of `total`, `squares` and `hessian` are "layers.LAYER.PLACE" (`seen_as`).

    `total` float64 [k]: sum of x. `squares` float64 [k]: sum of x^2. `hessian` float64 [k, k]: sum of x x^T, where it
    was asked for. `stream`, too: under "all" float64 [d, d], the sum over all norms of z z^T, z what a norm puts out
    without its gains. `routed`, under "layers.LAYER", float64 [experts]: how many tokens went to each. `cosine` float64
    [layers]: sum over the tokens of the cosine between the residual stream that enters a layer and what leaves it.
    """

    cosine: F64
    n: int = 0
    total: dict[str, F64] = field(default_factory=dict)
    squares: dict[str, F64] = field(default_factory=dict)
    hessian: dict[str, F64] = field(default_factory=dict)
    stream: dict[str, F64] = field(default_factory=dict)
    routed: dict[str, F64] = field(default_factory=dict)
    encoder: Statistics | None = None  # of the encoder that a decoder reads

    def norm(self, layer: int, place: str) -> F64:
        """||x_j||_2 of every column over all tokens: float64 [k]."""
        return np.sqrt(self.squares[f"layers.{layer}.{place}"])

    def mean(self, layer: int, place: str) -> F64:
        """Mean of every column: float64 [k]."""
        return self.total[f"layers.{layer}.{place}"] / self.n

    def variance(self, layer: int, place: str) -> F64:
        """Unbiased variance of every column: float64 [k]. A column that hardly moves: rounding below zero is zero."""
        name = f"layers.{layer}.{place}"
        spread = self.squares[name] - self.total[name] ** 2 / self.n
        return np.maximum(spread, 0) / max(1, self.n - 1)


def windows_of(  # noqa: PLR0913 - keywords
    model: Model, text: str, *, window: int, tokens: int | None = None, lines: bool = False, name: str = "the text"
) -> list[list[int]]:
    """A text's ids in pieces of `window` + 1 that share one id with the next, as `miaotui perplexity` cuts it.

    `lines`: each line by itself, for models that see one record at a time. At most `tokens` predictions; errors call
    the text `name`. Errors: `InputError` for fewer than two tokens or a window over the context.
    """
    if model.config.encoder is not None:
        return texts_of(model, text, window=window, tokens=tokens)
    if not 1 <= window <= model.n_context:
        msg = f"window={window}: expected 1 to {model.n_context}, the context"
        raise InputError(msg)
    if lines:
        windows: list[list[int]] = []
        for number, line in enumerate(text.splitlines(), 1):
            left = None if tokens is None else tokens - sum(len(w) - 1 for w in windows)
            if line and left != 0:
                windows += windows_of(model, line, window=window, tokens=left, name=f"{name}, line {number}")
        if not windows:
            msg = f"{name}: holds no line to read"
            raise InputError(msg)
        return windows
    ids = model.tokenizer.encode(text)
    ids = ids if tokens is None else ids[: tokens + 1]
    if len(ids) < 2:  # noqa: PLR2004 - one to start from, one to predict
        msg = f"{name}: too short: {len(ids)} of at least 2 tokens, one to start from and one to predict"
        raise InputError(msg)
    return [ids[at : at + window + 1] for at in range(0, len(ids) - 1, window)]


def texts_of(model: Model, text: str, *, window: int, tokens: int | None = None) -> list[Any]:
    """Of an encoder: the ids of each line, framed, at most `window` of them. Of an encoder-decoder: pairs of such ids.

    Lines until `tokens` ids are there. Errors: `InputError` for no line, and for one that is no pair.
    """
    texts: list[Any] = []
    n, decoding = 0, model.config.decoding
    for number, line in enumerate(text.splitlines(), 1):
        if not line or (tokens is not None and n >= tokens):
            continue
        source, tab, target = line.partition("\t")
        if decoding is None:
            texts.append(model.tokenizer.framed(line, min(window, model.n_context))[0])
        elif tab and target:
            ids = [decoding.start, *model.tokenizer.encode(target)]
            texts.append((model.tokenizer.encode(source)[: model.n_context], ids[: min(window + 1, model.n_context)]))
        else:
            msg = (
                f"line {number} of the text: found no tab; of an encoder-decoder, expected what the encoder reads, a "
                "tab, and what the decoder is to write"
            )
            raise InputError(msg)
        n += n_tokens(model, texts[-1])
    if not texts:
        msg = "the text has no line; an encoder reads each line as a text"
        raise InputError(msg)
    return texts


def n_tokens(model: Model, window: Any) -> int:  # noqa: ANN401 - ids, or a pair of them
    """Tokens that are fed of a window: of a decoder all but the last, which is only predicted."""
    if model.config.seq2seq:
        return len(window[1]) - 1
    return len(window) - (model.config.decoder is not None)


def first_asked(model: Model, windows: Sequence[Any], behind: str | None) -> list[int]:
    """Of every window, the first prediction that counts: that of what follows the token `behind`; 0 without one.

    Errors: `InputError` where the vocabulary, or a window, has no such token.
    """
    windows = [w[1] for w in windows] if model.config.seq2seq else windows
    token = None if behind is None else model.tokenizer.token_to_id(behind)
    without = next((i for i, w in enumerate(windows) if token not in w[:-1]), None)
    if behind is not None and (token is None or without is not None):
        where = "the vocabulary" if token is None else f"window {without}"
        msg = f"--after {behind}: {where} has no such token before its last; expected it in every line"
        raise InputError(msg)
    return [0 if token is None else list(w).index(token) + (model.config.decoder is None) for w in windows]


def calibrate(  # noqa: PLR0913 - keywords
    model: Model,
    windows: Sequence[Sequence[int]],
    *,
    hessian: bool = False,
    stream: bool = False,
    experts: bool = False,
    leaving: Leaving | None = None,
    file: Path | None = None,
    batch: int = 8,
    quiet: bool = True,
) -> Statistics:
    """Feed every window's ids (the last one of each is only predicted) and add up.

    `experts`: what each expert reads is added up, too. `leaving` is given what leaves the last layer of a decoder, or
    what an encoder gives, to add to. `file`: what has been added up is written there after every
    `batch` windows, and picked up by the next run of the same model, windows and sums. Errors: `InputError` for a file
    of another run, for NaN or infinity, and for a model whose matrices are quantised or rounded: those need their
    input in another form.
    """
    weights = model.session.weights
    if any(w.quantized for w in weights):
        msg = "calibration needs the matrices as floats; leave quantize out, and quantise what is left"
        raise InputError(msg)
    mark = mark_of(model, windows, hessian, stream, experts, *([] if leaving is None else ["leaving"]))
    statistics, done = Statistics(np.zeros(model.config.n_layers)), 0
    if model.config.seq2seq:
        if file is not None:
            msg = f"--statistics {file}: of an encoder-decoder none are kept; leave it out"
            raise InputError(msg)
        statistics.encoder = Statistics(np.zeros(model.config.encoding.n_layers))
    if file is not None and file.exists():
        statistics, done = read_statistics(file, mark)
    with progress(len(windows), done, "calibrating", quiet=quiet) as bar:
        for i in range(done, len(windows)):
            _add(statistics, model, windows[i], leaving, hessian=hessian, stream=stream, experts=experts)
            bar(1)
            if file is not None and ((i + 1) % batch == 0 or i + 1 == len(windows)):
                _write(file, statistics, i + 1, mark)
    return statistics


def _add(statistics: Statistics, model: Model, ids: Any, leaving: Leaving | None, **how: bool) -> None:  # noqa: ANN401 - ids, or a pair of them
    """Add one window."""
    if model.config.encoder is None:
        _add_decoder(statistics, model, ids, None, leaving, **how)
    elif model.config.decoder is None:
        given = _add_encoder(statistics, model, ids, hessian=how["hessian"])
        if leaving is not None:
            leaving(statistics, given)
    else:
        source, target = ids
        assert statistics.encoder is not None  # noqa: S101 - made with it
        given = _add_encoder(statistics.encoder, model, source, hessian=how["hessian"])
        add_sums(statistics, SOURCE, given, hessian=how["hessian"])
        _add_decoder(statistics, model, target, source, leaving, **how)


def _add_encoder(statistics: Statistics, model: Model, ids: Sequence[int], *, hessian: bool) -> F64:
    """Add a text that an encoder reads whole, and return what it gives [T, d_model].

    Layers that share their weights add to one place.
    """
    config, weights = model.config.encoding, model.session.weights.encoder
    assert weights is not None  # noqa: S101 - of a model with an encoder
    shared = len({id(layer) for layer in weights.layers}) < config.n_layers
    streams: list[F64] = []
    first = ""

    def watch(instruction: Instruction, view: Callable[[Tensor], NDArray[np.float32]]) -> None:
        nonlocal first
        weight = instruction.values.get("w")
        _, layer, role = (f"..{weight.name}" if isinstance(weight, Weight) else "..").rsplit(".", 2)
        enters = layer.isdecimal() and role in ENTRIES
        first = first or (role if enters else "")
        last = role == "norm" and len(streams) == config.n_layers
        if last or (enters and (int(layer) == len(streams) or (shared and role == first))):
            streams.append(finite(view(instruction.tensors("i")[0]), f"what enters layer {len(streams)}"))
        add_input(statistics, instruction, view, hessian=hessian)

    def run() -> F64:
        hidden = finite(model.session.whole.watched([Whole(ids)], watch), "what leaves the last layer")
        if len(streams) == config.n_layers:  # no norm after the last layer
            streams.append(hidden)
        return hidden

    given: F64 = model.session.turn(run)
    statistics.cosine += [float(_column_sums(_cosine(a, b)[:, None])[0]) for a, b in pairwise(streams)]
    statistics.n += len(ids)
    return given


def _add_decoder(  # noqa: PLR0913 - what is fed, and what is added up
    statistics: Statistics,
    model: Model,
    ids: Sequence[int],
    source: Sequence[int] | None,
    leaving: Leaving | None,
    *,
    hessian: bool,
    stream: bool,
    experts: bool,
) -> None:
    streams: list[F64] = []

    def watch(instruction: Instruction, view: Callable[[Tensor], NDArray[np.float32]]) -> None:
        weight = instruction.values.get("w")
        _, layer, role = (f"..{weight.name}" if isinstance(weight, Weight) else "..").rsplit(".", 2)
        if instruction.op == "take_rows" or (role in ENTRIES and layer and int(layer) == len(streams)):
            where = "what leaves the last layer" if instruction.op == "take_rows" else f"what enters layer {layer}"
            streams.append(finite(view(instruction.tensors("i")[0]), where))
        if instruction.op == "take_rows" and leaving is not None:
            leaving(statistics, streams[-1])
        if stream and (instruction.op == "take_rows" or role in NORMS):
            z = _normal(view(instruction.tensors("i")[0]).astype(np.float64), model.config.stack.eps)
            statistics.stream["all"] = statistics.stream.get("all", np.zeros((z.shape[1],) * 2)) + z.T @ z
        add_input(statistics, instruction, view, hessian=hessian)
        _count_routed(statistics, instruction, view)
        if experts:
            add_routed(statistics, instruction, view, hessian=hessian)

    for at in range(0, len(ids) - 1, model.session.chunk):
        streams.clear()
        part = ids[at : min(at + model.session.chunk, len(ids) - 1)]
        model.session.watched_step(part, at, watch, len(ids) - 1, source=source)
        statistics.cosine += [float(_column_sums(_cosine(a, b)[:, None])[0]) for a, b in zip(streams, streams[1:])]  # noqa: B905, RUF007
    statistics.n += len(ids) - 1


def _routed(
    instruction: Instruction, view: Callable[[Tensor], NDArray[np.float32]]
) -> tuple[ExpertTable, NDArray[np.int64]] | None:
    """The experts' matrices that an instruction multiplies with, and which of them its tokens go to: [T, per_token]."""
    table, routes = instruction.values.get("table"), instruction.values.get("routes")
    if not isinstance(table, ExpertTable) or not isinstance(routes, Tensor):
        return None
    return table, view(routes)[:, : routes.width // 2].astype(np.int64)


def _count_routed(
    statistics: Statistics, instruction: Instruction, view: Callable[[Tensor], NDArray[np.float32]]
) -> None:
    """Count the experts to which tokens are about to go."""
    routed = _routed(instruction, view)
    if routed is None or role_of(routed[0].weights[0].name) != ROUTED[0]:
        return
    table, ids = routed
    layer, n = table.weights[0].name.split(".")[1], len(table.weights)
    counts = np.bincount(ids.reshape(-1), minlength=n).astype(np.float64)
    statistics.routed[f"layers.{layer}"] = statistics.routed.get(f"layers.{layer}", np.zeros(n)) + counts


def add_routed(
    statistics: Statistics, instruction: Instruction, view: Callable[[Tensor], NDArray[np.float32]], *, hessian: bool
) -> None:
    """Add what each expert is about to read of the tokens that go to it, where the instruction is watched."""
    routed = _routed(instruction, view)
    if routed is None or role_of(routed[0].weights[0].name) not in ROUTED:
        return
    table, ids = routed
    x = finite(view(instruction.tensors("i")[0]), f"the input of {table.name}")
    x = x.reshape(ids.size, -1) if instruction.values["apart"] else x.repeat(ids.shape[1], 0)  # one row for each pair
    for expert in np.unique(ids):
        rows = x[ids.reshape(-1) == expert]
        add_sums(statistics, seen_as(table.weights[expert].name), rows, hessian=hessian)


def add_input(
    statistics: Statistics, instruction: Instruction, view: Callable[[Tensor], NDArray[np.float32]], *, hessian: bool
) -> None:
    """Add what a layer's product is about to read, where it is the one of its place that is watched."""
    weight = instruction.values.get("w")
    _, layer, role = (f"..{weight.name}" if isinstance(weight, Weight) else "..").rsplit(".", 2)
    if instruction.op != "linear" or role not in WATCHED or not layer.isdecimal():
        return
    x = finite(view(instruction.tensors("i")[0]), f"the input of {role}, layer {layer}")
    add_sums(statistics, f"layers.{layer}.{WATCHED[role]}", x, hessian=hessian)


def seen_as(name: str) -> str:
    """Where the sums of what a matrix reads are kept, by the matrix's name: "layers.3.up" -> "layers.3.ffn_in"."""
    before, _, role = name.rpartition(".")
    return SOURCE if PLACES[role] == SOURCE else f"{before}.{PLACES[role]}"


def add_sums(statistics: Statistics, name: str, x: F64, *, hessian: bool) -> None:
    """Add rows [tokens, k] of what flows in one place."""
    for sums, value in ((statistics.total, x), (statistics.squares, x * x)):
        sums[name] = sums.get(name, np.zeros(x.shape[1])) + _column_sums(value)
    if hessian:
        statistics.hessian[name] = statistics.hessian.get(name, np.zeros((x.shape[1],) * 2)) + x.T @ x


def finite(x: NDArray[np.floating[Any]], what: str) -> F64:
    """In float64. `InputError` for NaN and infinity: nothing that they touch can be ranked."""
    if not np.isfinite(x).all():
        msg = (
            f"{what}: found NaN or infinity, by which nothing can be ranked: the checkpoint is damaged, or its numbers "
            "overflow. Compare the file with its publisher's checksum"
        )
        raise InputError(msg)
    return np.asarray(x, np.float64)


def _normal(x: F64, eps: float) -> F64:
    """x / sqrt(mean(x^2) + eps) of every row."""
    z: F64 = x / np.sqrt(_column_sums((x * x).T) / x.shape[1] + eps)[:, None]
    return z


def _column_sums(x: F64) -> F64:
    """Row after row: NumPy's own sum of one column may be pairwise, and of several is not."""
    out = np.zeros(x.shape[1])
    for row in x:
        out += row
    return out


def _cosine(a: F64, b: F64) -> F64:
    """Cosine of every pair of rows; of a row of zeros, 0."""
    dot, aa, bb = (_column_sums((x * y).T) for x, y in ((a, b), (a, a), (b, b)))
    norm = np.sqrt(aa * bb)
    return np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0)


def mark_of(model: Model, windows: Sequence[Sequence[int]], *more: object) -> str:
    """SHA-256 of what is found out: config, every weight's bytes, the windows, and what else it depends on."""
    digest = hashlib.sha256(repr((model.config, *more, [list(w) for w in windows])).encode())
    for weight in model.session.weights:
        digest.update(weight.name.encode())
        if weight.array is not None:
            digest.update(np.ascontiguousarray(weight.array).view(np.uint8).data)
    return digest.hexdigest()


def _write(file: Path, statistics: Statistics, done: int, mark: str) -> None:
    arrays = {f"{kind}/{name}": x for kind in SUMS for name, x in getattr(statistics, kind).items()}
    write_arrays(file, mark, done=np.int64(done), n=np.int64(statistics.n), cosine=statistics.cosine, **arrays)


#: What adds up, and of how many axes it is.
SUMS = {"total": 1, "squares": 1, "hessian": 2, "stream": 2, "routed": 1}


def read_statistics(file: Path, mark: str) -> tuple[Statistics, int]:
    """Sums, and how many windows are in them. Errors: `InputError`, also for arrays that are no such sums."""
    arrays = read_arrays(file, mark)
    done, n = (arrays.pop(name, np.zeros(0)) for name in ("done", "n"))
    statistics, wrong = Statistics(arrays.pop("cosine", np.zeros((0, 0)))), ""
    if any(x.dtype != np.int64 or x.shape or x < 0 for x in (done, n)):
        wrong = "done and n are no counts"
    elif statistics.cosine.dtype != np.float64 or statistics.cosine.ndim != 1:
        wrong = "cosine is no sum of each layer"
    for key, x in arrays.items():
        kind, _, name = key.partition("/")
        if not name or x.dtype != np.float64 or x.ndim != SUMS.get(kind) or len({*x.shape}) > 1:
            wrong = wrong or f"{quote(key)} is no sum"
        else:
            getattr(statistics, kind)[name] = x
    if wrong:
        msg = f"{file}: no statistics that this version reads ({wrong}); remove it, or name another file"
        raise InputError(msg)
    statistics.n = int(n)
    return statistics, int(done)
