"""The emulator refuses what a GPU would not survive, or would do differently each time."""

from __future__ import annotations

import numpy as np
import pytest
from emulation import SCHEDULES, EmulatedDevice, Fault
from miaotui.runtime.cuda.emulator.binding import binding
from miaotui.runtime.cuda.kernels.base import Kernel, block_sum
from miaotui.runtime.cuda.primitives import (
    PRIMITIVES,
    barrier,
    block,
    larger_size,
    ld_f32,
    sld_f32,
    sst_f32,
    st_f32,
    thread,
    threads,
    to_int,
    warp_barrier,
    warp_before_i,
    warp_max,
    warp_max_size,
    warp_sum,
    weights4,
)


def run(function, nbytes=256, n_threads=64, n_blocks=1, shared=1024, schedule="forward"):
    """Launch f(address of this many bytes); what they hold afterwards, as float32."""
    device = EmulatedDevice(schedule)
    at = device.allocate(nbytes)
    kernel = Kernel("k", function, n_threads, lambda *_: n_blocks, lambda _: shared, ())
    device.launch(kernel, n_blocks, shared, (at,))
    return device.read(at, nbytes).view(np.float32)


def test_every_primitive_is_emulated():
    grid = type("Grid", (), {"memory": EmulatedDevice().memory, "races": None})()
    assert set(binding(grid)) == set(PRIMITIVES)
    with pytest.raises(TypeError, match="bind the kernel"):
        thread()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_threads_meet_and_sum(schedule):
    def k(out):
        st_f32(out + 4 * (block() * threads() + thread()), block_sum(np.float32(thread())))

    assert np.all(run(k, 512, n_blocks=2, schedule=schedule) == 64 * 63 / 2)


def test_sums_of_those_before():
    def k(out):
        st_f32(out + 4 * thread(), np.float32(warp_before_i(thread())))

    assert run(k, 128, 32).tolist() == [i * (i - 1) / 2 for i in range(32)]


def test_of_two_floats_a_nan_loses_as_on_the_hardware():
    """Python's own would return the first. Sizes are compared by their bits, and there it wins."""
    nan, one = np.float32(np.nan), np.float32(1)

    def k(out):
        pairs = (
            max(nan, one),
            max(one, nan),
            min(nan, one),
            min(one, nan),
            larger_size(one, nan),
            larger_size(nan, one),
        )
        if thread() == 0:
            for i, value in enumerate(pairs):
                st_f32(out + 4 * i, value)
            st_f32(out + 24, np.float32(max(3, 4) + to_int(np.float32(3e38)) % 2))
        mixed = nan if thread() == 7 else np.float32(thread())
        st_f32(out + 128 + 4 * thread(), warp_max(mixed))
        st_f32(out + 256 + 4 * thread(), warp_max_size(mixed))

    got = run(k, 384, 32)
    assert got[:4].tolist() == [1] * 4
    assert np.isnan(got[4:6]).all()
    assert got[6] == 5  # the largest integer is odd
    assert set(got[32:64].tolist()) == {31}
    assert np.isnan(got[64:]).all()


def test_what_was_never_written_is_nan():
    assert np.isnan(run(lambda _: None)).all()


@pytest.mark.parametrize(
    ("address", "words"), [(-4, "in no allocation"), (256, "in no allocation"), (2, "a load of 4 bytes")]
)
def test_bounds_and_alignment(address, words):
    with pytest.raises(Fault, match=words):
        run(lambda out: ld_f32(out + address))


def test_sixteen_bytes_want_their_alignment():
    with pytest.raises(Fault, match="a load of 16 bytes"):
        run(lambda out: weights4(out + 8))


def test_shared_memory_has_an_end():
    with pytest.raises(Fault, match="shared memory at 1024"):
        run(lambda _: sst_f32(1024, np.float32(1)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_race_in_shared_memory_is_found_in_every_order(schedule):
    def k(_):
        sst_f32(4 * thread(), np.float32(1))
        warp_barrier()  # enough within a warp, and not beyond it
        sld_f32(4 * ((thread() + 32) % threads()))

    with pytest.raises(Fault, match="race"):
        run(k, schedule=schedule)


def test_a_barrier_orders_and_readers_may_meet():
    def k(_):
        sst_f32(4 * thread(), np.float32(1))
        barrier()
        sld_f32(0)
        barrier()
        sst_f32(4 * (threads() - 1 - thread()), np.float32(2))

    run(k)


def test_a_write_under_readers_is_a_race():
    def k(_):
        if thread() == 0:
            sst_f32(0, np.float32(1))
        barrier()
        sld_f32(0)
        if thread() == threads() - 1:
            sst_f32(0, np.float32(2))

    with pytest.raises(Fault, match="race"):
        run(k)


def test_warps_must_come_to_the_same_thing():
    def k(_):
        warp_barrier() if thread() < 16 else warp_sum(np.float32(1))

    with pytest.raises(Fault, match="comes to"):
        run(k)


def test_nobody_may_leave_before_a_meeting():
    def k(_):
        if thread() != 5:
            barrier()

    with pytest.raises(Fault, match=r"leave|left"):
        run(k)
