"""Control flow that emitters write around lanes: loops, choices, and functions that kernels share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils

from . import target

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

I64 = ir.IntType(64)

Builder = Any
Value = Any


def c64(v: int) -> Value:
    """int64 constant."""
    return ir.Constant(I64, v)


def ir_while(b: Builder, state: Sequence[Value], going: Callable[[list[Value]], Value],
             body: Callable[[list[Value]], list[Value]]) -> list[Value]:  # fmt: skip
    """`while going(state): state = body(state)`; the final state."""
    f, before = b.function, b.block
    head, blk, end = (f.append_basic_block(s) for s in ("head", "body", "end"))
    b.branch(head)
    b.position_at_end(head)
    phis = [b.phi(v.type) for v in state]
    for p, v in zip(phis, state, strict=True):
        p.add_incoming(v, before)
    b.cbranch(going(phis), blk, end)
    b.position_at_end(blk)
    new = body(phis)
    for p, v in zip(phis, new, strict=True):
        p.add_incoming(v, b.block)
    b.branch(head)
    b.position_at_end(end)
    return phis


def ir_loop(b: Builder, start: Value, stop: Value, step: int, accs: Sequence[Value],
            body: Callable[[Value, list[Value]], list[Value]]) -> list[Value]:  # fmt: skip
    """`for k in range(start, stop, step): accs = body(k, accs)`; the final accs."""

    def going(state: list[Value]) -> Value:
        return b.icmp_signed("<", state[0], stop)

    def turn(state: list[Value]) -> list[Value]:
        new = body(state[0], state[1:])
        return [b.add(state[0], c64(step)), *new]

    return ir_while(b, [start, *accs], going, turn)[1:]


def ir_choose(b: Builder, condition: Value, yes: Callable[[], list[Value]],
              no: Callable[[], list[Value]]) -> list[Value]:  # fmt: skip
    """`yes() if condition else no()`: as many values, of the same types."""
    f = b.function
    blocks, end, ways = [f.append_basic_block(s) for s in ("yes", "no")], f.append_basic_block("end"), []
    b.cbranch(condition, *blocks)
    for block, emit in zip(blocks, (yes, no), strict=True):
        b.position_at_end(block)
        ways.append((emit(), b.block))
        b.branch(end)
    b.position_at_end(end)
    phis = [b.phi(v.type) for v in ways[0][0]]
    for values, block in ways:
        for phi, v in zip(phis, values, strict=True):
            phi.add_incoming(v, block)
    return phis


def ir_apart(
    b: Builder, name: str, f: Callable[..., Any], *args: Value, returns: Any = None, by: Collection[str] = ()
) -> Value:
    """Call what `f` emits as a function of its own; its result is of the type `returns`, or there is none.

    Where kernels are compiled ahead they share it. `by`: features (`target.FEATURES`) that change what `f` emits: a
    twin that has one of them shares it only with twins that have it too.
    """
    return b.call(ir_function(b, name, f, [a.type for a in args], returns=returns, by=by), args)


def ir_function(
    b: Builder, name: str, f: Callable[..., Any], kinds: Sequence[Any], *, returns: Any = None, by: Collection[str] = ()
) -> Value:
    """As `ir_apart`, of arguments of these types: the function itself."""
    name, linkage, here = target.apart(name, by)
    kind = ir.FunctionType(ir.VoidType() if returns is None else returns, list(kinds))
    fn = cgutils.get_or_insert_function(b.module, kind, name)
    if fn.is_declaration and here:
        fn.linkage = linkage
        fn.attributes.add("noinline")
        inner = ir.IRBuilder(fn.append_basic_block())
        made = f(inner, *fn.args)
        if returns is None:
            inner.ret_void()
        else:
            inner.ret(made)
    return fn
