"""Where the outputs of a weight lie in a tensor that holds several, side by side or head by head."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from miaotui.loader.pieces import _spaced
from miaotui.loader.ranges import as_ranges


@given(st.sets(st.integers(0, 40)), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_elements_that_stand_some_at_a_time(kept: set[int], each: int, more: int, base: int) -> None:
    """Element i is i % each of its unit, and ranges that meet are one."""
    stride = each + more
    found = _spaced(as_ranges(sorted(kept)), each, stride, base)
    assert found == as_ranges(sorted(i // each * stride + i % each + base for i in kept))
