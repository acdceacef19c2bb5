"""Who waits for a sequence's ids is there for as long as his block goes on, however it ends and whoever keeps it."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from miaotui.runtime.table import Caller

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class StruckError(Exception):
    """What a handler raises, at any instruction."""


def block(caller: Caller, seen: list[bool]) -> str:
    with caller.going():
        seen.append(caller.here())
        return "value"


def struck_at(moment: int) -> tuple[Caller, StruckError | None]:
    """A caller whose block was struck as its call came to this instruction; what kept its frames, if it was."""
    caller, left = Caller(), [moment]

    def instruction(frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            if not left[0]:
                sys.settrace(None)
                raise StruckError
            left[0] -= 1
        return instruction

    own = (block.__code__, Caller.going.__code__)
    sys.settrace(lambda frame, event, arg: instruction(frame, event, arg) if frame.f_code in own else None)
    try:
        block(caller, [])
    except StruckError as struck:
        return caller, struck
    finally:
        sys.settrace(None)
    return caller, None


def moments() -> Iterator[tuple[Caller, StruckError]]:
    """Each instruction of the call, in order."""
    moment = 0
    while (found := struck_at(moment))[1] is not None:
        moment += 1
        yield found[0], found[1]


def test_nobody_is_there_whose_block_was_struck() -> None:
    kept = list(moments())
    assert len(kept) > 20, "instructions of the block and of what makes its lock"
    assert not any(caller.here() for caller, _ in kept)


def test_who_waits_is_seen_by_other_threads_until_he_is_done() -> None:
    caller, seen = Caller(), list[bool]()
    with caller.going():
        thread = threading.Thread(target=lambda: seen.append(caller.here()))
        thread.start()
        thread.join()
    assert seen == [True]
    assert not caller.here()
    assert block(caller, seen) == "value"
    assert seen == [True, True]
    assert not caller.here()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("whose", ["forks", "other"])
def test_in_a_forked_child_only_who_forked_goes_on(whose: str) -> None:
    """What a thread of the parent's had is never let go there."""
    caller, done, answer = Caller(), threading.Event(), [-1]

    def forks() -> None:
        child = os.fork()
        if child == 0:
            os._exit(int(caller.here()))
        answer[0] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def holds() -> None:
        caller.thread = threading.get_ident()
        with caller.going():
            if whose == "forks":
                forks()
            ready.set()
            done.wait()

    ready = threading.Event()
    thread = threading.Thread(target=holds)
    thread.start()
    ready.wait()
    if whose == "other":
        forks()
    done.set()
    thread.join()
    assert answer == [int(whose == "forks")]
