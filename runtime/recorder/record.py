"""`record` runs the forward once with symbols and writes a `Program`: the static graph."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..arena import place
from ..drawing import scratch_bytes
from ..forward.decoder import decoder
from ..forward.encoder import cross_caches, encoder, head
from ..forward.supported import bounded, check_supported
from ..kvcache import padded_context, pages_of
from ..precision import takes_pairs
from ..program import Early, Encoding, Program, place_waits
from ..rope import rope_tables
from ..sinusoids import with_sinusoids
from .attention import Attending
from .products import Products
from .rows import Rows

if TYPE_CHECKING:
    from ..arena import Tensor
    from ..precision import Precision
    from ..program import Instruction
    from ..rope import RopeTable
    from ..spec import Config, Weights

__all__ = ["Recorder", "record"]

#: The arena is whole pages of the machine's memory.
MEMORY_PAGE = 4096
#: Of the machine's caches.
LINE = 64
#: Why a GPU's texts cannot outgrow their context.
ONE_PIECE = "a GPU's cache holds one text, in one piece; load with device='cpu'"
#: Slots for keys in a pass of whole texts, each of which begins at a block of sixteen: enough for eight tokens each.
SLOTS_PER_TOKEN = 2


class Recorder(Rows, Products, Attending):
    """The op table as symbols: every call appends an instruction and returns where its result will lie."""


def record(  # noqa: PLR0913 - keywords
    config: Config,
    weights: Weights,
    *,
    n_context: int,
    chunk: int = 128,
    n_logits: int = 32,
    threads: int = 1,
    kv_cache: str = "f32",
    precision: Precision | None = None,
    n_pages: int | None = None,
    n_encoded_pages: int | None = None,
    ropes: tuple[RopeTable, ...] | None = None,
    paged: bool = True,
    early: int = 0,
) -> Program:
    """The program of a decoder, of an encoder, or of both; works on planned weights, reads none.

    `n_context`: positions of the longest text. An encoder's fits a pass: its `chunk` is no smaller. `n_encoded_pages`:
    of the pools of an encoder's texts (default: one text's). `paged`: as the backend is: texts may then outgrow
    it, the arena ends with scratch for ids that are drawn, and a decoder's attention is as `takes_pairs` says. `early`:
    layers of a decoder's early exit; 0: none.
    """
    # texts of an encoder's pass begin at any block of sixteen, and pairs are of two
    by_pairs = paged and config.encoder is None and takes_pairs(precision, kv_cache)
    chunk = max(1, n_context, chunk) if config.decoder is None else max(1, min(chunk, n_context))
    n_logits = max(1, min(n_logits, chunk))
    new = partial(Recorder, n_context=n_context, chunk=chunk, n_logits=n_logits, threads=threads, kv_cache=kv_cache,
                  precision=precision, by_pairs=by_pairs, n_pages=n_pages, n_positions=n_context)  # fmt: skip
    ops = new()
    ops.encoded = (ops.n_context, pages_of(n_context) if n_encoded_pages is None else n_encoded_pages)
    why_bounded = bounded(config, n_context) or ("" if paged else ONE_PIECE)
    ropes = rope_tables(config, n_context, 0 if why_bounded else chunk) if ropes is None else ropes
    weights, constants = with_sinusoids(config, weights, n_context)
    encoding = None
    check_supported(config, weights)
    if config.encoder is not None:
        encoding = _record_encoder(ops, config, weights, ropes, chunk if config.decoder is None else n_context)
    begins, logits = len(ops.code), None
    if config.decoder is not None:
        hidden, logits = decoder(ops, config, weights, ropes)
    elif encoding is not None:
        hidden = encoding.hidden
        logits = head(ops, config, config.head, weights, hidden) if config.head is not None else None
    for result in (hidden, logits):
        if result is not None:
            result.keep = True
    size, draw_at, shorter = place(ops.tensors, len(ops.code)), None, None
    place_waits(ops.code)
    if paged and config.decoder is not None and logits is not None:
        drawing = scratch_bytes(config.n_vocab, threads, n_logits)
        if early:
            code, needed = _record_early(
                ops, new(chunk=n_logits), _first(config, weights, early), ropes, (hidden, logits)
            )
            more = _arena(max(size, needed), drawing) - _arena(size, drawing)
            size, shorter = max(size, needed), Early(early, code, more)
        draw_at = -(-size // LINE) * LINE
        size = draw_at + drawing
    return Program(
        code=ops.code,
        tensors=ops.tensors,
        hidden=hidden,
        logits=logits,
        n_context=n_context,
        chunk=chunk,
        n_logits=n_logits,
        threads=threads,
        arena_bytes=_arena(size),
        constant_bytes=sum(table.nbytes for table in ropes)
        + sum(table.nbytes for table in ops.biases.values())
        + sum(table.nbytes for table in ops.distances.values())
        + sum(table.nbytes for table in ops.experts.values())
        + sum(table.nbytes for table in ops.adapters.values())
        + sum(table.nbytes for table in constants),
        kv_cache=kv_cache,
        precision=precision,
        ropes=tuple(ropes),
        n_pages=ops.n_pages,
        groups=tuple(ops.groups),
        n_vocab=config.n_vocab,
        n_types=config.n_types,
        padding=config.padding,
        begins=begins,
        n_once=ops.n_once,
        once_rows=ops.once_rows,
        encoding=encoding,
        constants=constants,
        draw_at=draw_at,
        adapters=weights.adapters,
        bounded=why_bounded,
        early=shorter,
    )


def _arena(size: int, drawing: int = 0) -> int:
    """Whole pages of so many bytes, and of scratch for draws after them."""
    size = -(-size // LINE) * LINE + drawing if drawing else size
    return -(-size // MEMORY_PAGE) * MEMORY_PAGE


def _record_encoder(
    ops: Recorder, config: Config, weights: Weights, ropes: tuple[RopeTable, ...], chunk: int
) -> Encoding:
    """The encoder's part: whole texts, of at most `chunk` tokens together; it ends by writing what a decoder reads."""
    context, pages, own_chunk = ops.n_context, ops.n_pages, ops.capacity["T"]
    n_slots = SLOTS_PER_TOKEN * chunk
    ops.n_context, ops.n_pages, ops.capacity["T"] = padded_context(n_slots), pages_of(n_slots), chunk
    ops.whole, own = True, config.encoding if config.seq2seq else config
    hidden = encoder(ops, own, weights.encoding, ropes)
    ops.whole, kept, groups = False, ops.encoded[1], len(ops.groups)
    part = Encoding(chunk, own.n_vocab, ops.n_pages, hidden, len(ops.code), kept, groups, own.stack.causal)
    if config.seq2seq:
        cross_caches(ops, config, weights, hidden)
        hidden.dies = max(hidden.dies, len(ops.code))  # it is read from outside before the decoder's part begins
        ops.n_context, ops.n_pages, ops.capacity["T"], ops.groups = context, pages, own_chunk, []
    return part


def _first(config: Config, weights: Weights, n: int) -> tuple[Config, Weights]:
    """A model of the decoder's first layers, with all else that it has."""
    stack, layers = config.stack, weights.stack.layers[:n]
    left = replace(weights, decoder=replace(weights.stack, layers=layers))
    return config.with_stack(replace(stack, layers=stack.layers[:n])), left


def _record_early(
    whole: Recorder,
    ops: Recorder,
    first: tuple[Config, Weights],
    ropes: tuple[RopeTable, ...],
    results: tuple[Tensor, Tensor],
) -> tuple[list[Instruction], int]:
    """Its code, and where its tensors end in the arena of the whole: in caches and results they are the same."""
    ops.theirs, ops.crosses, ops.groups = whole.caches, whole.crosses, list(whole.groups)
    ops.biases, ops.distances, ops.experts, ops.adapters = whole.biases, whole.distances, whole.experts, whole.adapters
    made = decoder(ops, *first, ropes)
    for mine, theirs in zip(made, results, strict=True):
        if mine is not None:
            mine.keep, mine.offset = True, theirs.offset
    own = [t for t in ops.tensors if t not in made]
    size = place(own, len(ops.code), max(t.end for t in whole.tensors if t.keep))
    place_waits(ops.code)
    return ops.code, size
