"""A batch of sequences over a paged cache: each has the bits that it has alone, one token after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

import miaotui
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.runtime.arena import place
from miaotui.runtime.cpu import link
from miaotui.runtime.kvcache import KV_BYTES, PAGE, pages_of
from miaotui.runtime.program import Program, place_waits
from miaotui.runtime.recorder.record import Recorder
from miaotui.runtime.step import T_ROW, Batch
from miaotui.tools import demo
from test_ops import SIZES, THREADS

CONTEXT = 3 * PAGE
LENGTHS = st.sampled_from([1, 2, 3, 15, 16, 17, 31, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE - 1, 2 * PAGE + 3])
WINDOWS = st.sampled_from([None, 1, 5, 16, 17, PAGE - 1, PAGE, PAGE + 1])
CHUNK = 2 * CONTEXT


@dataclass
class Shape:
    """Of attention: of each layer its window."""

    kv_heads: int = 1
    group: int = 1
    d_head: int = 16
    windows: tuple[int | None, ...] = (None,)
    kv_cache: str = "f32"

    @property
    def widths(self) -> tuple[int, int, int]:
        """Of a token's queries, keys and values."""
        return self.kv_heads * self.group * self.d_head, self.kv_heads * self.d_head, self.kv_heads * self.d_head


SHAPES = st.builds(
    Shape, st.integers(1, 3), st.sampled_from([1, 2, 3, 5]), st.sampled_from([2, 15, 16, 17, 64, 80]),
    st.tuples(WINDOWS, WINDOWS), st.sampled_from(sorted(KV_BYTES)),
)  # fmt: skip


@dataclass
class Text:
    """A sequence: what its tokens bring, its page tables, and how much of it was fed."""

    inputs: list[np.ndarray]
    tables: np.ndarray  # int32 [groups, pages of a sequence]
    fed: int = 0
    got: list[np.ndarray] = field(default_factory=list)


class Machine:
    """kv_write and attention of some layers, each of the same inputs; the result is every layer's, side by side."""

    def __init__(self, shape: Shape, n_pages: int, threads: int) -> None:
        self.shape = shape
        ops = Recorder(n_context=CONTEXT, chunk=CHUNK, n_logits=1, threads=threads, kv_cache=shape.kv_cache,
                       n_pages=n_pages)  # fmt: skip
        self.inputs = [ops._tensor("in", "T", width, keep=True) for width in shape.widths]
        q, k, v = self.inputs
        self.results = []
        for layer, window in enumerate(shape.windows):
            ops.kv_write(layer, k, v, shape.kv_heads)
            heads = shape.kv_heads * shape.group
            self.results.append(ops.attention(layer, q, heads, shape.kv_heads, window=window, scale=0.3))
            self.results[-1].keep = True
        self.groups = tuple(ops.groups)
        size = place(ops.tensors, len(ops.code))
        place_waits(ops.code)
        program = Program(ops.code, ops.tensors, q, q, CONTEXT, CHUNK, 1, threads, size, 0)
        self.code = program.encode(link.addresses(i.kernel for i in ops.code).__getitem__)
        block = np.full(size + 64, 0xFF, np.uint8)
        self.arena = block[-block.ctypes.data % 64 :][:size]
        self.batch, self.executor = Batch(CHUNK, 1), link.executor(threads)
        self.executor.bind(self.code.ctypes.data, len(self.code), self.arena.ctypes.data, self.batch.address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.executor.close()

    def run(self, parts: list[tuple[Text, int]]) -> None:
        """One pass: the next tokens of each text, this many."""
        self.batch.clear()
        for text, n in parts:
            self.batch.add([0] * n, text.fed, text.tables.ctypes.data, 0)
        for t, all_rows in zip(self.inputs, zip(*(text.inputs for text, _ in parts), strict=True), strict=True):
            x = np.concatenate([rows[text.fed : text.fed + n] for rows, (text, n) in zip(all_rows, parts, strict=True)])
            self.arena[t.offset : t.offset + x.nbytes] = np.frombuffer(x.tobytes(), np.uint8)
        self.executor.step()
        at, total = 0, self.batch.n_tokens
        views = [self.arena[t.offset : t.offset + 4 * total * t.width].view(np.float32) for t in self.results]
        y = np.concatenate([v.reshape(total, -1) for v in views], 1)
        for text, n in parts:
            text.got.append(y[at : at + n].copy())
            text.fed, at = text.fed + n, at + n


def numbers(rng: np.random.Generator, shape: Shape, n: int) -> list[np.ndarray]:
    """Queries, keys and values of n tokens."""
    return [rng.standard_normal((n, width)).astype(np.float32) for width in shape.widths]


def alone(shape: Shape, inputs: list[np.ndarray]) -> bytes:
    """The results of a sequence that has the pool to itself, in order, by one thread, one token at a time."""
    pages = pages_of(CONTEXT)
    with Machine(shape, pages, 1) as machine:
        text = Text(inputs, np.tile(np.arange(pages, dtype=np.int32), (len(shape.windows), 1)))
        for _ in range(len(inputs[0])):
            machine.run([(text, 1)])
    return np.concatenate(text.got).tobytes()


@given(st.data(), SHAPES, st.lists(LENGTHS, min_size=1, max_size=4), THREADS)
@settings(max_examples=60)
def test_a_sequence_has_its_bits_in_any_batch_and_any_pages(data, shape, lengths, threads):
    """Passes mix prompts and single tokens of several sequences, whose pages lie where a draw says."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    each, spare = pages_of(CONTEXT), data.draw(st.integers(0, 2))
    with Machine(shape, each * len(lengths) + spare, threads) as machine:
        deals = np.array([rng.permutation(each * len(lengths) + spare) for _ in shape.windows], np.int32)
        texts = [
            Text(numbers(rng, shape, n), deals[:, i * each : (i + 1) * each].copy()) for i, n in enumerate(lengths)
        ]
        while left := [text for text in texts if text.fed < len(text.inputs[0])]:
            order = rng.permutation(len(left))[: rng.integers(1, len(left) + 1)]
            sizes = (min(int(rng.choice([1, 1, 3, 16, 33, 200])), len(left[i].inputs[0]) - left[i].fed) for i in order)
            parts, room = [], CHUNK
            for i, size in zip(order, sizes, strict=True):
                if size <= room:
                    parts.append((left[i], size))
                    room -= size
            machine.run(parts)
    for text in texts:
        assert np.concatenate(text.got).tobytes() == alone(shape, text.inputs)


@given(SHAPES, st.sampled_from([1, 17, PAGE - 1, PAGE]), st.sampled_from([1, PAGE + 1]), THREADS, st.integers(0, 99))
@settings(max_examples=20)
def test_sequences_that_begin_alike_share_pages(shape, one, other, threads, seed):
    """The second has the first's whole page in its table, and pages of its own after it."""
    rng, pages = np.random.default_rng(seed), pages_of(CONTEXT)
    with Machine(shape, 2 * pages, threads) as machine:
        begun = numbers(rng, shape, PAGE)
        tails = [numbers(rng, shape, n) for n in (one, other)]
        texts = [Text([np.concatenate(x) for x in zip(begun, tail, strict=True)], np.empty((2, pages), np.int32))
                 for tail in tails]  # fmt: skip
        texts[0].tables[:] = np.arange(pages)
        texts[1].tables[:] = np.arange(pages, 2 * pages)
        texts[1].tables[:, 0] = 0
        machine.run([(texts[0], PAGE)])
        texts[1].fed = PAGE
        machine.run([(texts[0], one), (texts[1], other)])
    for text, first in zip(texts, (0, PAGE), strict=True):
        got, width = np.concatenate(text.got), sum(r.width for r in machine.results)
        wanted = np.frombuffer(alone(shape, text.inputs), np.float32).reshape(-1, width)
        assert got.tobytes() == wanted[first:].tobytes()


@given(st.sampled_from(sorted(KV_BYTES)), st.sampled_from([1, 16, 17, PAGE]), THREADS)
@settings(max_examples=12)
def test_pages_that_a_window_has_left_may_be_anything(kv_cache, window, threads):
    """Their numbers too: a table's entry that no key of the window needs is not looked at."""
    shape, pages = Shape(2, 2, 16, (window,), kv_cache), pages_of(CONTEXT)
    inputs = numbers(np.random.default_rng(window), shape, CONTEXT)
    with Machine(shape, pages, threads) as machine:
        text = Text(inputs, np.arange(pages, dtype=np.int32)[None].copy())
        for size in (PAGE, PAGE, 1, PAGE - 1):
            machine.run([(text, size)])
            text.tables[:, : max(0, (text.fed + 1 - window) // PAGE)] = 2**31 - 1
    assert np.concatenate(text.got).tobytes() == alone(shape, inputs)


def test_groups_are_numbered_by_window_in_their_order():
    shape = Shape(windows=(None, 5, CONTEXT, 7, 5))  # a window of the whole context is none
    with Machine(shape, 3, 1) as machine:
        assert machine.groups == (None, 5, 7)
        assert [int(line[-1 - list(line[::-1]).index(5)]) for line in machine.code[3:4]] == [5]


@given(st.data(), SIZES, st.sampled_from([1, 2, 7, 16, 33]), THREADS)
@settings(max_examples=30)
def test_rows_go_where_their_tokens_say_and_each_has_its_id(data, width, tokens, threads):
    """Also in no order; a row of NaN has none, equals have the first."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = data.draw(st.integers(1, tokens))
    ops = Recorder(n_context=tokens, chunk=tokens, n_logits=rows + 1, threads=threads)
    given_tensor = ops._tensor("in", "T", width, keep=True)
    y = ops.take_rows(given_tensor)
    ops.argmax(y)
    y.keep = True
    size = place(ops.tensors, len(ops.code))
    place_waits(ops.code)
    program = Program(ops.code, ops.tensors, y, y, tokens, tokens, rows + 1, threads, size, 0)
    code = program.encode(link.addresses(i.kernel for i in ops.code).__getitem__)
    block = np.full(size + 64, 0xFF, np.uint8)
    arena = block[-block.ctypes.data % 64 :][:size]
    x = rng.integers(-2, 3, (tokens, width)).astype(np.float32)
    x[rng.random(tokens) < 0.3] = np.nan
    arena[given_tensor.offset :][: x.nbytes] = np.frombuffer(x.tobytes(), np.uint8)
    batch, executor = Batch(tokens, rows + 1), link.executor(threads)
    batch.add([0] * tokens, 0, 0, rows)
    chosen = rng.permutation(tokens)[:rows]
    batch.tokens[:, T_ROW] = -1
    batch.tokens[chosen, T_ROW] = np.arange(rows)
    batch.results[:] = -7
    executor.bind(code.ctypes.data, len(code), arena.ctypes.data, batch.address)
    executor.step()
    executor.close()
    got = arena[y.offset :][: 4 * (rows + 1) * width].view(np.float32).reshape(rows + 1, width)
    assert got[:rows].tobytes() == x[chosen].tobytes()
    assert np.all(got[rows:].view(np.uint32) == 0xFFFFFFFF)
    assert batch.results.tolist() == [-1 if np.isnan(row).any() else int(row.argmax()) for row in x[chosen]] + [-7]


@pytest.mark.parametrize("how", [{}, {"quantize": "int8", "kv_cache": "int8"}, {"precision": "fast", "threads": 2}])
def test_last_logits_are_those_of_each_alone_in_as_few_passes_as_can_be(how, monkeypatch):
    rng = np.random.default_rng(0)
    lengths = [1, 1, 3, PAGE + 1, 7, 60, 16, 2, 1]
    with miaotui.load(demo.path(), max_context=4 * PAGE, prefill_chunk=PAGE, **how) as model:
        session, passes = model.session, []
        sequences = [rng.integers(0, session.n_vocab, n).tolist() for n in lengths]
        run = session.backend.run
        monkeypatch.setattr(
            session.backend, "run", lambda batch, *how: (passes.append(batch.n_sequences), run(batch, *how))
        )
        got = model.last_logits(sequences)
        assert passes == [3, 1, 1, 4, 1]  # by pages, which are four; the long one takes two passes
        for row, s in zip(got, sequences, strict=True):
            session.step(s, 0)
            assert row.tobytes() == session.logits[0].tobytes()


@pytest.mark.parametrize("n_logits", [0, 1, 3])
def test_a_batch_is_what_was_added(n_logits):
    batch = Batch(8, 4)
    batch.add([5], 9, 1000, 1)
    batch.add([6, 7, 8], 2, 2000, n_logits)
    assert (batch.n_tokens, batch.n_sequences, batch.n_logits) == (4, 2, 1 + n_logits)
    assert batch.words[:3].tolist() == [4, 1 + n_logits, 2]
    rows = [-1] * (3 - n_logits) + list(range(1, 1 + n_logits))
    assert batch.tokens[:4].tolist() == [
        [5, 0, 9, 9, 0, 9, 0, 0],
        *([6 + i, 1, 2 + i, 2 + i, 0, 2 + i, 0, rows[i]] for i in range(3)),
    ]
    assert batch.sequences[:2, :3].tolist() == [[0, 1, 1000], [1, 3, 2000]]
    batch.clear()
    assert batch.words[:3].tolist() == [0, 0, 0]
