"""Bulk copies and their barriers in the emulator: what comes, when it may be touched, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from emulation import SCHEDULES, EmulatedDevice, Fault
from miaotui.runtime.cuda.kernels.base import Kernel
from miaotui.runtime.cuda.kernels.hopper import descriptor
from miaotui.runtime.cuda.primitives import (
    barrier,
    registers,
    sld_i32,
    sst_i32,
    st_i32,
    thread,
    warp_barrier,
)
from miaotui.runtime.cuda.tensor import (
    copy_box,
    fence_async,
    map_acquire,
    mbarrier_arrive,
    mbarrier_expect,
    mbarrier_init,
    mbarrier_wait,
    wgmma_bf16,
    wgmma_close,
    wgmma_fence,
    wgmma_finish,
    wgmma_wait,
)
from miaotui.runtime.cuda.tensor_map import MAP_BYTES, TensorMap

ROWS, COLUMNS, BOX, NBYTES = 20, 72, 8, 1024
FULL, EMPTY, SHARED = 8192, 8200, 8208


def run(function, n_threads=64, *, schedule="forward", seed=0, shared=SHARED, **options):
    """Launch f(out, map) on a matrix of the numbers 1 and on; the words at `out`, of 4 KiB."""
    device = EmulatedDevice(schedule, seed)
    x = np.arange(1, ROWS * 80 + 1, dtype=np.uint16).reshape(ROWS, 80)  # rows of 160 bytes
    at, out = device.allocate(x.nbytes), device.allocate(4096)
    device.write(at, x)
    place = device.allocate(MAP_BYTES)
    how = {"address": at, "rows": ROWS, "columns": COLUMNS, "stride": 160, "box_rows": BOX} | options
    device.tensor_map(TensorMap(**how), place)
    device.launch(Kernel("k", function, n_threads, lambda *_: 1, lambda _: shared, ()), 1, shared, (out, place))
    return device.read(out, 4096).view(np.uint32), x


def helper(f):
    """One that kernels call: bound as they are, as those of the package's."""
    f.__module__ = Kernel.__module__
    return f


@helper
def begin(full=1, empty=1, fence=1, meet=1):
    """Two barriers of the block, made by thread 0."""
    if thread() == 0:
        mbarrier_init(FULL, full)
        mbarrier_init(EMPTY, empty)
        if fence:
            fence_async()
    if meet:
        barrier()


@helper
def fetch(place, column=0, row=0, to=0, nbytes=NBYTES):
    """One box, by one thread."""
    map_acquire(place)
    mbarrier_expect(FULL, nbytes)
    copy_box(to, place, column, row, FULL)


@helper
def show(out, words=256):
    """A copy of shared memory, by 64 threads."""
    for i in range(thread(), words, 64):
        st_i32(out + 4 * i, sld_i32(4 * i))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("column", "row"), [(0, 0), (64, 8), (8, 16), (0, 19), (-3, -2), (72, 0), (0, 20)])
def test_a_box_lies_in_its_pattern_with_zeros_around(column, row, schedule):
    def k(out, place):
        begin()
        if thread() == 0:
            fetch(place, column, row)
        mbarrier_wait(FULL, 0)
        show(out)

    words, x = run(k, schedule=schedule)
    around = np.zeros((ROWS + 40, 300), np.uint16)
    around[20 : 20 + ROWS, 100 : 100 + COLUMNS] = x[:, :COLUMNS]
    box = around[20 + row :, 100 + column :]
    got = words[:256].view(np.uint16).reshape(8, 8, 8)  # rows, places, numbers
    for r in range(8):
        for c in range(8):
            np.testing.assert_array_equal(got[r, c ^ r], box[r, 8 * c : 8 * c + 8])


@helper
def feed(place, boxes, stages, nbytes, behind):
    """Boxes 0 and on of column 0, by one thread; each waits for the stage's barrier `behind`."""
    map_acquire(place)
    for i in range(boxes):
        s, odd = i % stages, i // stages & 1
        mbarrier_wait(behind + 16 * s, odd ^ 1)
        mbarrier_expect(FULL + 16 * s, nbytes)
        copy_box(s * nbytes, place, 0, i, FULL + 16 * s)


def loop(*, boxes=5, stages=2, forget=""):
    """Boxes 0 and on of column 0 through two stages, a thread of the first warp fetches, the second warp reads.

    `forget`: what is left out: to wait for readers before a copy, or for a copy before it is read, the meeting of
    readers before one of them arrives, or that.
    """

    def k(out, place):
        if thread() == 0:
            for s in range(stages):
                mbarrier_init(FULL + 16 * s, 1)
                mbarrier_init(EMPTY + 16 * s, 1)
            fence_async()
        barrier()
        if thread() == 0:
            feed(place, boxes, stages, NBYTES, FULL if forget == "empty" else EMPTY)
        elif thread() >= 32:
            for i in range(boxes):
                s, odd = i % stages, i // stages & 1
                if forget != "full" or i < stages:
                    mbarrier_wait(FULL + 16 * s, odd)
                st_i32(out + 4 * (32 * i + thread() - 32), sld_i32(s * NBYTES + 4 * (thread() - 32)))
                if forget != "meet":
                    warp_barrier()
                if thread() == 32 and forget != "arrive":
                    mbarrier_arrive(EMPTY + 16 * s)

    return k


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stages_are_filled_again_and_again(schedule):
    for seed in range(3):
        words, x = run(loop(), schedule=schedule, seed=seed, shared=SHARED + 32)
        got = words[: 5 * 32].reshape(5, 32).view(np.uint16)
        np.testing.assert_array_equal(got, [x[i, :64] for i in range(5)])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("forget", "words"),
    [
        ("empty", "for whose phase it did not wait|copies over what another reads"),  # who came first
        ("full", "for whose phase it did not wait|copies over what another reads"),
        ("meet", "copies over what another reads"),  # one thread arrives, and others may still be reading
        ("arrive", r"33 threads wait for ever, at the mbarrier at 81\d\d, the mbarrier at 82\d\d"),
    ],
)
def test_who_forgets_is_told(forget, words, schedule):
    with pytest.raises(Fault, match=words):
        run(loop(forget=forget), schedule=schedule, shared=SHARED + 32)


def product(*, wait=4, end=True, arrive=4):
    """A box is copied, multiplied by itself, and copied over.

    Of the warpgroup `wait` warps wait for the box, all for the product if `end`, else for the second box; `arrive` say
    that the first is read.
    """

    def k(_, place):
        if thread() == 128:
            mbarrier_init(FULL, 1)
            mbarrier_init(EMPTY, arrive)
            fence_async()
        barrier()
        if thread() == 128:
            feed(place, 2, 1, 8 * NBYTES, EMPTY)
            mbarrier_wait(FULL, 1)
        elif thread() < 128:
            if thread() // 32 < wait:
                mbarrier_wait(FULL, 0)
            acc = registers(8)
            for i in range(8):
                acc[i] = np.float32(0)
            wgmma_fence()
            wgmma_bf16(acc, 8, descriptor(0), descriptor(0))
            wgmma_close()
            if end:
                wgmma_wait(0)
            if thread() % 32 == 0 and thread() // 32 < arrive:
                mbarrier_arrive(EMPTY)
            if not end:
                mbarrier_wait(FULL, 1)
            wgmma_finish(acc, 8)

    return k


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_products_read_what_came_with_no_fence(schedule):
    run(product(), 160, schedule=schedule, box_rows=64)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wait": 3}, "for whose phase it did not wait"),
        ({"end": False}, "which a product reads: it is under way"),
        ({"arrive": 3}, "which a product reads: it knows of no mbarrier after it"),
    ],
    ids=str,
)
def test_products_keep_what_they_read(options, words, schedule):
    with pytest.raises(Fault, match=words):
        run(product(**options), 160, schedule=schedule, box_rows=64)


def one(*, at=FULL, count=1, meet=True, fence=True, acquire=True, to=0, nbytes=NBYTES, extra=0, off=0):
    """A copy in which everything may be wrong."""

    def k(_, place):
        begin(count, 1, fence, meet)
        if thread() == 32:
            if acquire:
                map_acquire(place + off)
            mbarrier_expect(at, nbytes)
            for _ in range(extra):
                mbarrier_arrive(at)
            copy_box(to, place, 0, 0, at)

    return k


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at": EMPTY + 8}, "no mbarrier at 8208"),
        ({"count": 0}, "an mbarrier of 0 arrivals"),
        ({"count": 1 << 20}, "an mbarrier of 1048576 arrivals"),
        ({"meet": False}, "with no barrier between"),
        ({"fence": False}, "without a fence_async"),
        ({"acquire": False}, "no map_acquire"),
        ({"off": 64}, "no map at"),
        ({"to": 512}, "multiples of 1024"),
        ({"to": 7168 + 1024}, "race|shared memory at"),
        ({"to": -1024}, "shared memory at -1024"),
        ({"nbytes": 1023}, "1024 bytes come to the mbarrier at 8192, which expects 1023"),
        ({"nbytes": 1 << 20}, "1048576 bytes expected, of at most 1048575"),
        ({"extra": 1}, "an arrival more than its 1"),
        ({}, "all threads have left while 1 copies are under way"),
        ({"nbytes": 2 * NBYTES}, "all threads have left while 1 copies"),
    ],
    ids=str,
)
def test_what_the_hardware_does_not_take_is_refused(options, words):
    with pytest.raises(Fault, match=words):
        run(one(**options))


def test_words_of_threads_want_their_fence_and_a_barrier():
    def k(*, fence=True, meet=True):
        def f(_, place):
            begin()
            if thread() == 0:
                sst_i32(4, 1)
                if fence:
                    fence_async()
            if meet:
                barrier()
            if thread() == 32:
                fetch(place)
                mbarrier_wait(FULL, 0)

        return f

    run(k())
    with pytest.raises(Fault, match="written outside the threads; thread 0 wrote it without a fence_async"):
        run(k(fence=False))
    with pytest.raises(Fault, match="copies over what another wrote"):
        run(k(meet=False))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_one_waited_for_others_read_behind_a_barrier(schedule):
    def k(*, meet):
        def f(out, place):
            begin()
            if thread() == 63:
                fetch(place)
                mbarrier_wait(FULL, 0)
            if meet:
                barrier()
            show(out)

        return f

    words, x = run(k(meet=True), schedule=schedule)
    np.testing.assert_array_equal(words[:32].view(np.uint16), x[0, :64])
    with pytest.raises(Fault, match=r"for whose phase it did not wait|copies over what another reads"):
        run(k(meet=False), schedule=schedule)


def test_a_barrier_that_was_written_over_is_none():
    def k(_, place):
        begin()
        if thread() == 0:
            sst_i32(FULL, 5)
            fetch(place)

    with pytest.raises(Fault, match="no mbarrier at 8192"):
        run(k)


def test_blocks_that_wait_for_each_other_take_no_bulk_copies():
    device = EmulatedDevice()
    at = device.allocate(1024)
    place = device.allocate(MAP_BYTES)
    device.tensor_map(TensorMap(at, 8, 64, 128, BOX), place)

    def k(place):
        begin()
        if thread() == 0:
            fetch(place)

    with pytest.raises(Fault, match="wait for each other"):
        device.launch(Kernel("k", k, 64, lambda *_: 1, lambda _: SHARED, (), together=True), 1, SHARED, (place,))
