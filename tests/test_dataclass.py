"""`miaotui.dataclass`: whatever is asked of a class, it answers as one of `dataclasses`."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
import sys
import threading
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import miaotui
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.dataclass import dataclass

ROOT = Path(miaotui.__file__).parent

CLASSES = """
from __future__ import annotations
from dataclasses import field
@dataclass(**options)
class Plain:
    '''Two numbers and what there is besides.'''
    a: int
    b: float = 2.0
    items: list[int] = field(default_factory=list)
    hidden: int = field(default=3, repr=False)
    apart: int = field(default=4, compare=False)
    kind: str = field(default="k", hash=False)
    late: int = field(init=False, default=5)
    made: dict[str, int] = field(init=False, default_factory=dict)
@dataclass(**options)
class Child(Plain):
    '''With more.'''
    c: tuple[int, ...] = ()
    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError("a is negative")
class Loose(Plain):
    '''Inherits, and is not decorated.'''
@dataclass(**options)
class Empty:
    '''Has no field.'''
@dataclass(**options)
class Named:
    '''One field.'''
    only: object
@dataclass(**options)
class Own:
    '''Says itself what it looks like and what equals it.'''
    a: int
    def __repr__(self) -> str:
        return "own"
    def __eq__(self, other: object) -> bool:
        return False
    def __hash__(self) -> int:
        return 7
"""
OPTIONS = [{}, {"frozen": True}, {"eq": False}, {"frozen": True, "eq": False}, {"frozen": True, "kw_only": True}]
#: Of the classes above, those that records are drawn of.
ORDINARY = ("Plain", "Child", "Loose")
both = pytest.mark.parametrize("options", OPTIONS, ids=str)


@cache
def classes(made: Any, name: str = "drawn", **options: bool) -> ModuleType:
    return fresh(made, name, **options)


def fresh(made: Any, name: str = "drawn", **options: bool) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(dataclass=made, options=options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)  # dataclasses look there
        exec(CLASSES, module.__dict__)  # noqa: S102 - the text above
    return module


def told(what: Any, *args: Any, **kwargs: Any) -> Any:
    """What a call returns, or raises."""
    try:
        return what(*args, **kwargs)
    except (TypeError, ValueError, AttributeError) as e:
        return repr(e)


NAMES = ("a", "b", "items", "hidden", "apart", "kind", "c", "late", "nothing")
VALUES = st.dictionaries(st.sampled_from(NAMES), st.integers(-1, 1), max_size=6)


@both
@given(positional=st.lists(st.integers(-1, 1), max_size=3), first=VALUES, second=VALUES, name=st.sampled_from(ORDINARY))
def test_every_answer_is_that_of_dataclasses(options, positional, first, second, name) -> None:
    """Made, compared, hashed, printed, replaced, taken apart; or the same error."""
    ours, theirs = (getattr(classes(made, **options), name) for made in (dataclass, dataclasses.dataclass))
    assert answers(ours, positional, first, second) == answers(theirs, positional, first, second)


def answers(of: type, positional: list[int], first: dict[str, int], second: dict[str, int]) -> list[Any]:
    one, two = told(of, *positional, **first), told(of, **second)
    if not isinstance(one, of) or not isinstance(two, of):
        return [str(one), str(two)]
    hashes = [told(hash, record) for record in (one, copy.copy(one), two)]
    seen = [type(h) for h in hashes] + [hashes[0] == hashes[1]] * (of.__hash__ is not object.__hash__)
    seen += [repr(one), repr(two), one == two, one != two, one == 1, one == copy.copy(one)]
    seen += [dataclasses.asdict(one), vars(two), str(told(dataclasses.replace, one, **second))]
    for field in ("a", "apart", "other"):
        seen += [str(told(setattr, two, field, 9)), str(told(delattr, two, field))]
    return seen


@both
def test_it_looks_the_same_from_outside(options) -> None:
    ours, theirs = (classes(made, **options) for made in (dataclass, dataclasses.dataclass))
    for name in ("Plain", "Child", "Loose", "Empty", "Named", "Own"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert str(inspect.signature(a)) == str(inspect.signature(b))
        assert [(f.name, f.type, f.kw_only) for f in dataclasses.fields(a)] == [
            (f.name, f.type, f.kw_only) for f in dataclasses.fields(b)
        ]
        assert a.__match_args__ == b.__match_args__
        assert a.__doc__ == b.__doc__
        assert dataclasses.is_dataclass(a)
        assert (a.__hash__ is None) == (b.__hash__ is None)
    assert repr(ours.Empty()) == repr(theirs.Empty())
    assert (ours.Empty() == ours.Empty()) == (theirs.Empty() == theirs.Empty())
    assert repr(ours.Own(a=1)) == "own"
    assert ours.Own(a=1) != ours.Own(a=1)
    assert hash(ours.Own(a=1)) == 7
    same = float("nan")
    equal = options.get("eq", True)  # as tuples are, which Python 3.13 no longer makes of them
    assert (ours.Named(only=same) == ours.Named(only=same)) == equal
    assert ours.Named(only=same) != ours.Named(only=float("nan"))
    assert ours.Empty() != theirs.Empty()


#: Classes that cannot be made, or whose names and parents are unusual.
ODD = {
    "order": "class A:\n a: int = 1\n b: int",
    "order of a parent": "class P:\n a: int = 1\n@dataclass\nclass A(P):\n b: int",
    "order by name": "class A:\n a: int = 1\n b: int = field(kw_only=True)\n c: int = field(init=False, default=4)",
    "marked": "class A:\n a: int = 1\n _: KW_ONLY\n b: int\n c: ClassVar[int] = 3",
    "mutable": "class A:\n a: list = field(default=[])",
    "untyped": "class A:\n a = field(default=1)",
    "frozen after": "class P:\n a: int = 1\n@dataclass(frozen=True)\nclass A(P):\n b: int = 2",
    "frozen before": "class P:\n a: int = 1\nclass Q(P):\n pass\n@dataclass\nclass A(Q):\n b: int = 2",
    "both": "class P:\n a: int = 1\n@dataclass(frozen=True)\nclass Q:\n b: int = 2\n@dataclass\nclass A(P, Q):\n pass",
    "own setattr": "class A:\n a: int = 1\n def __setattr__(self, n, v): pass",
    "frozen own setattr": "class A:\n a: int = 1\n def __setattr__(self, n, v): pass",
    "self": "class A:\n self: int = 1\n def __post_init__(self): assert self.self",
    "frozen self": "class A:\n self: int = 1\n _put: int = 2\n _factory: int = 3\n"
    " f: list = field(default_factory=list)",
    "frozen eq of a parent": "class P:\n a: int\n@dataclass(frozen=True, eq=False)\nclass A(P):\n b: int = 2",
    "eq of a parent": "class P:\n a: int\n@dataclass(eq=False)\nclass A(P):\n b: int = 2",
    "super": "class P:\n a: int\n@dataclass\nclass A(P):\n b: int = 2\n"
    " def __eq__(self, o): return super().__eq__(o)\n def __repr__(self): return 'A' + super().__repr__()",
}


@pytest.mark.parametrize("what", ODD)
def test_what_cannot_be_made_is_refused_at_the_class_and_the_rest_is_the_same(what) -> None:
    ours, theirs = (odd(made, what) for made in (dataclass, dataclasses.dataclass))
    assert ours[0] == theirs[0]
    assert str(ours[1]).startswith(str(theirs[1]))  # later versions of Python say more


def odd(made: Any, what: str) -> tuple[Any, Any]:
    """The error with its text; or None, and what some instances say."""
    words = {"dataclass": made, "field": dataclasses.field, "KW_ONLY": dataclasses.KW_ONLY, "ClassVar": ClassVar}
    try:
        exec(f"@dataclass(frozen={what.startswith('frozen') and what != 'frozen after'})\n{ODD[what]}", words)  # noqa: S102 - ours
    except (TypeError, ValueError) as e:
        return type(e), e
    of: Any = words["A"]
    some = [told(of), told(of, 1), told(of, 1, 2), told(of, 1, 3), told(of, 1, b=2)]
    hashes = [told(hash, one) for one in some if isinstance(one, of)]
    return None, [
        str(inspect.signature(of)), [str(one) for one in some], [a == b for a in some for b in some],
        [a == b for a in hashes for b in hashes],
    ]  # fmt: skip


def test_an_initvar_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^A\.b: InitVar is not supported; make it a field"):

        @dataclass
        class A:
            a: int
            b: dataclasses.InitVar[int] = 3


def test_one_that_holds_itself_can_be_printed() -> None:
    ours = classes(dataclass)
    ring = ours.Named(only=None)
    ring.only = ring
    assert repr(ring) == "Named(only=...)"


def test_a_record_is_pickled_and_read_where_none_was_made(monkeypatch) -> None:
    first = fresh(dataclass, "pickled", frozen=True)
    monkeypatch.setitem(sys.modules, "pickled", first)
    data = pickle.dumps(first.Child(1, c=(2,)))
    second = fresh(dataclass, "pickled", frozen=True)
    monkeypatch.setitem(sys.modules, "pickled", second)
    read = pickle.loads(data)  # noqa: S301 - ours
    assert isinstance(vars(second.Child)["__init__"], type(vars(second.Plain)["__init__"]))  # nothing is compiled yet
    assert repr(read) == repr(second.Child(1, c=(2,)))
    assert read == second.Child(1, c=(2,))
    read = second.Named(only=1)
    assert hash(read) == hash(second.Named(only=1))
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'only'"):
        read.only = 2


def test_threads_that_meet_at_the_first_instance_all_get_one() -> None:
    made = []
    for _ in range(20):
        of, start = fresh(dataclass, frozen=True).Child, threading.Barrier(4)

        def make(of=of, start=start) -> None:
            start.wait()
            made.append(of(1, c=(3,)) == of(1, c=(3,)))

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert made == [True] * 80


def test_importing_a_class_compiles_nothing() -> None:
    ours = fresh(dataclass, frozen=True)
    before = vars(ours.Plain)["__init__"]
    assert not inspect.isfunction(before)
    assert ours.Plain(1).a == 1
    assert inspect.isfunction(vars(ours.Plain)["__init__"])
    assert ours.Plain.__init__ is vars(ours.Plain)["__init__"]


def test_the_package_has_its_records_from_here() -> None:
    """But those with slots, which `dataclasses` makes."""
    others = [
        file.relative_to(ROOT).as_posix()
        for folder in ("", "loader", "runtime", "tools")
        for file in (ROOT.glob("*.py") if not folder else (ROOT / folder).rglob("*.py"))
        if re.search(r"^from dataclasses import .*\bdataclass\b", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert sorted(others) == ["loader/foreign/coded.py", "loader/header.py"]
