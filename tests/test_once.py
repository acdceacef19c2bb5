"""Values that are computed at first use: threads that meet there all get the same one."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st
from miaotui.once import once


class Late:
    """Its value is made by each of `n` threads before any of them keeps it."""

    def __init__(self, n: int) -> None:
        self.all_made = threading.Barrier(n)

    @once
    def value(self) -> object:
        self.all_made.wait(10)
        return object()


@given(st.integers(1, 5))
def test_threads_that_meet_get_one_value(n: int) -> None:
    late, got = Late(n), list[object]()
    threads = [threading.Thread(target=lambda: got.append(late.value)) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(got) == n
    assert {id(each) for each in [*got, late.value]} == {id(late.value)}
