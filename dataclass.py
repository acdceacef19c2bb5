"""`dataclass` like the standard library's, whose methods are made when they are first needed.

`dataclasses` writes each method of a class as text and compiles it: half a millisecond for a frozen class, and a story
imports a hundred of them, of which it makes a few. Here one function serves every class for each method but `__init__`,
which is compiled when somebody first makes an instance or looks at it.

As in `dataclasses`: what `field` takes, `KW_ONLY`, `ClassVar`, `fields`, `replace`, `asdict`, matching, pickling,
signatures, which methods a class keeps or inherits, and errors, at the class or at the call. Frozen classes and others
never inherit from each other, as in Python 3.12.

Not as there:
- `InitVar` is refused; order and slots are not offered.
- A frozen class made here and one made by `dataclasses` do not inherit from each other.
- `__dataclass_params__` does not name the options; a class without a docstring gets one that lists no fields.
- Fields are compared as tuples are; Python 3.13 compares one by one.
- `Parent.__eq__(child, other)` compares the child's fields, where the child has an `__eq__` made here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, FrozenInstanceError, fields
from functools import cache
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass

__all__ = ["dataclass"]

T = TypeVar("T")


class _Factory:
    def __repr__(self) -> str:
        return "<factory>"


#: The default of a parameter whose value is made for each instance.
FACTORY = _Factory()


class _Initializer:
    """`__init__` of a class until somebody asks for it: then the compiled one takes its place."""

    def __init__(self, owner: type, *, frozen: bool) -> None:
        self.owner, self.frozen = owner, frozen

    def __get__(self, instance: object, owner: type | None = None) -> Any:  # noqa: ANN401 - a function, or a method
        """Threads that meet may each compile it; one is as good as the other."""
        made = _compiled(self.owner, frozen=self.frozen)
        self.owner.__init__ = made  # type: ignore[misc]  # that is the point
        return made.__get__(instance, owner)


def _compiled(cls: type, *, frozen: bool) -> Callable[..., None]:
    """def __init__(self, …) of a class, from its fields."""
    names: dict[str, Any] = {"__dataclass_put__": object.__setattr__, "__dataclass_factory__": FACTORY}
    this = "__dataclass_self__" if any(f.name == "self" for f in fields(cls)) else "self"
    plain, by_name, lines = [this], list[str](), list[str]()
    for f in fields(cls):
        default, value, its = "", f.name, f"__dataclass_default_{f.name}__"
        if f.default_factory is not MISSING:
            names[its] = f.default_factory
            default, value = " = __dataclass_factory__", f"{its}()"
            value += f" if {f.name} is __dataclass_factory__ else {f.name}" if f.init else ""
        elif f.default is not MISSING:
            names[its] = f.default
            default = f" = {its}"
        if f.init:
            (by_name if f.kw_only else plain).append(f.name + default)
        if f.init or f.default_factory is not MISSING:
            lines.append(f"__dataclass_put__({this}, {f.name!r}, {value})" if frozen else f"{this}.{f.name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append(f"{this}.__post_init__()")
    given = ", ".join([*plain, *(["*", *by_name] if by_name else [])])
    exec("\n ".join([f"def __init__({given}):", *(lines or ["pass"])]), names)  # noqa: S102 - words of ours, and fields
    made: Callable[..., None] = names["__init__"]
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    made.__annotations__ = {f.name: f.type for f in fields(cls) if f.init} | {"return": None}
    return made


def _owner(cls: type, name: str, method: Callable[..., object]) -> Any:  # noqa: ANN401 - a class that was decorated
    """Whose fields one of the functions below is about: the nearest class that does not inherit it."""
    return next(c for c in cls.__mro__ if vars(c).get(name) is method)


@cache
def _compared(cls: type) -> Callable[[object], Any]:
    """From an instance to the values that say whether two are equal."""
    names = [f.name for f in fields(_owner(cls, "__eq__", _eq)) if f.compare]
    return attrgetter(*names) if names else lambda _: ()


@cache
def _hashed(cls: type) -> Callable[[object], Any]:
    names = [f.name for f in fields(_owner(cls, "__hash__", _hash)) if (f.compare if f.hash is None else f.hash)]
    return attrgetter(*names) if names else lambda _: ()


def _eq(self: Any, other: Any) -> bool:  # noqa: ANN401 - of any class that is decorated
    if other.__class__ is not self.__class__:
        return NotImplemented  # type: ignore[no-any-return]  # Python asks the other one then
    of = _compared(self.__class__)
    return bool((of(self),) == (of(other),))  # in a tuple what is the same object is equal, as there


def _hash(self: Any) -> int:  # noqa: ANN401 - as above
    return hash((_hashed(self.__class__)(self),))


@recursive_repr()
def _repr(self: Any) -> str:  # noqa: ANN401 - as above
    shown = fields(_owner(type(self), "__repr__", _repr))
    told = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in shown if f.repr)
    return f"{self.__class__.__qualname__}({told})"


def _setattr(self: Any, name: str, value: object) -> None:  # noqa: ANN401 - as above
    _check_free(self, name, "assign to")
    object.__setattr__(self, name, value)


def _delattr(self: Any, name: str) -> None:  # noqa: ANN401 - as above
    _check_free(self, name, "delete")
    object.__delattr__(self, name)


def _check_free(record: Any, name: str, what: str) -> None:  # noqa: ANN401 - as above
    """A class that inherits from a frozen one, and is not decorated, may have more attributes."""
    if "__dataclass_fields__" in vars(type(record)) or name in record.__dataclass_fields__:
        msg = f"cannot {what} field {name!r}"
        raise FrozenInstanceError(msg)


def _check(cls: Any, *, frozen: bool) -> None:  # noqa: ANN401 - a class whose fields are found
    """What `dataclasses` checks while it writes methods. Errors: `TypeError`, in its words but for `InitVar`."""
    for base in cls.__mro__[1:]:
        if "__dataclass_fields__" in vars(base) and (vars(base).get("__setattr__") is _setattr) != frozen:
            one, other = ("frozen", "non-frozen") if frozen else ("non-frozen", "frozen")
            msg = f"cannot inherit {one} dataclass from a {other} one"
            raise TypeError(msg)
    first = None
    for name, f in cls.__dataclass_fields__.items():
        kind = f._field_type.name  # noqa: SLF001 - nothing else says so
        if kind == "_FIELD_INITVAR":
            msg = f"{cls.__name__}.{name}: InitVar is not supported; make it a field, or use `dataclasses`"
            raise TypeError(msg)
        if kind == "_FIELD" and f.init and not f.kw_only:
            if f.default is not MISSING or f.default_factory is not MISSING:
                first = first or name
            elif first:
                msg = f"non-default argument {name!r} follows default argument {first!r}"
                raise TypeError(msg)


def _decorated(cls: type[T], *, frozen: bool, eq: bool, kw_only: bool) -> type[T]:
    own: dict[str, Any] = {"__init__": _Initializer(cls, frozen=frozen), "__repr__": _repr}
    if eq:
        own |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
    taken = vars(cls)
    # Python itself puts `__hash__ = None` into a class that has an `__eq__`
    unsaid = "__hash__" if "__eq__" in taken and taken.get("__hash__") is None else ""
    dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls)
    _check(cls, frozen=frozen)
    if frozen:
        if found := [name for name in ("__setattr__", "__delattr__") if name in taken]:
            msg = f"Cannot overwrite attribute {found[0]} in class {cls.__name__}"
            raise TypeError(msg)
        own |= {"__setattr__": _setattr, "__delattr__": _delattr}
    for name, value in own.items():
        if name == unsaid or name not in taken:
            setattr(cls, name, value)
    return cls


if not TYPE_CHECKING:  # to a type checker it is the standard library's

    def dataclass(
        cls: type[T] | None = None, /, *, frozen: bool = False, eq: bool = True, kw_only: bool = False
    ) -> Any:  # noqa: ANN401 - a class, or what decorates one
        """As `dataclasses.dataclass`."""
        if cls is None:
            return lambda c: _decorated(c, frozen=frozen, eq=eq, kw_only=kw_only)
        return _decorated(cls, frozen=frozen, eq=eq, kw_only=kw_only)
