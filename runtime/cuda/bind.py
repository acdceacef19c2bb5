"""Giving a kernel a binding: the same code, with a binding's functions in the place of the facade's names."""

from __future__ import annotations

from types import CellType, FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any

from .primitives import Primitive

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["bind"]

#: Whose functions kernels may call: this package, and of the one around it what is plain arithmetic.
_OURS = f"{__package__.rpartition('.')[0]}."


def bind(
    function: Callable[..., Any],
    binding: Mapping[str, Any],
    helper: Callable[[Callable[..., Any]], Any] = lambda f: f,
    done: dict[int, Any] | None = None,
    own: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[..., Any]:
    """A copy of `function` in which primitives are the binding's, and so in every function of ours that it calls.

    `helper`: what is made of those functions (a compiler wants them marked). `own`: what stands in for Python's builtin
    functions. Nothing else is changed.
    """
    done = {} if done is None else done

    def bound(value: Any) -> Any:
        if isinstance(value, Primitive):
            return binding[value.name]
        if not isinstance(value, FunctionType) or not value.__module__.startswith(_OURS):
            return value
        if id(value) not in done:
            done[id(value)] = helper(bind(value, binding, helper, done, own))
        return done[id(value)]

    names = _names(function.__code__)
    scope = {k: bound(v) if k in names else v for k, v in function.__globals__.items()}
    scope |= {k: v for k, v in own.items() if k in names}
    cells = tuple(CellType(bound(cell.cell_contents)) for cell in function.__closure__ or ())
    copy = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, cells)
    copy.__module__, copy.__doc__, copy.__qualname__ = function.__module__, function.__doc__, function.__qualname__
    return copy


def _names(code: Any) -> set[str]:
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if hasattr(c, "co_names")))
