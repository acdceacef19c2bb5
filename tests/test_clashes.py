"""`tools/clashes.py`: objects that have one name for two functions are never linked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import llvmlite.binding as llvm
import pytest
from miaotui.errors import BackendError
from miaotui.tools import kernels
from miaotui.tools.clashes import check_clashes, definitions

if TYPE_CHECKING:
    from pathlib import Path

#: A kernel, and two functions that it shares with others: one works with a constant, one calls.
TEXT = """
declare i64 @outside(i64)
define void @miaotui_{name}(i64 %x) {{
  %1 = call <4 x float> @twice(<4 x float> zeroinitializer)
  %2 = call i64 @again(i64 {other})
  ret void
}}
$twice = comdat any
define linkonce_odr hidden <4 x float> @twice(<4 x float> %x) noinline comdat {{
  %y = fmul <4 x float> %x, <float {factor}, float 2.0, float 3.0, float 4.0>
  ret <4 x float> %y
}}
define weak hidden i64 @again(i64 %x) noinline {{
  %y = call i64 @{callee}(i64 %x)
  %z = add i64 %y, {more}
  ret i64 %z
}}
define i64 @alone_{name}(i64 %x) noinline {{
  %y = mul i64 %x, {other}
  ret i64 %y
}}
"""
PLAIN = {"name": "a", "factor": "2.0", "callee": "outside", "more": "7", "other": "1"}


@pytest.fixture(scope="module", params=["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"])
def machine(request: pytest.FixtureRequest) -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(request.param).create_target_machine(opt=2, reloc="pic", codemodel="small")


def written(machine: llvm.TargetMachine, folder: Path, **words: str) -> Path:
    text = TEXT.format(**PLAIN | words).replace("@outside(i64)\n", "@outside(i64)\ndeclare i64 @elsewhere(i64)\n", 1)
    module = llvm.parse_assembly(f'target triple = "{machine.triple}"\n{text}')
    file = folder / f"{words['name']}.o"
    file.write_bytes(machine.emit_object(module))
    return file


def test_the_same_function_in_two_objects_is_none(machine: llvm.TargetMachine, tmp_path: Path) -> None:
    """Though other code and other constants stand before it."""
    files = [written(machine, tmp_path, name=name, other=other) for name, other in (("a", "1"), ("b", "123456789"))]
    check_clashes("some", files)
    one, two = (definitions(file.read_bytes()) for file in files)
    assert set(one) - set(two) == {"miaotui_a", "alone_a"}
    assert one["twice"] == two["twice"]
    assert one["alone_a"] != two["alone_b"]


@pytest.mark.parametrize(
    ("what", "symbol"),
    [({"factor": "2.5"}, "twice"), ({"callee": "elsewhere"}, "again"), ({"more": "8"}, "again")],
    ids=str,
)
def test_other_code_under_one_name_is_refused(
    machine: llvm.TargetMachine, tmp_path: Path, what: dict[str, str], symbol: str
) -> None:
    """A constant, a call, and code of the same length that differ."""
    files = [written(machine, tmp_path, name="a"), written(machine, tmp_path, name="b", **what)]
    with pytest.raises(BackendError, match=rf"^some: a\.o and b\.o both define {symbol}, and not with the same code"):
        check_clashes("some", files)


#: Two functions that work with a constant of 64 bytes, one of a kernel's own between them, and a table of jumps.
WIDE = """
define weak hidden void @again(ptr %p) noinline #0 {{
  %x = load <16 x float>, ptr %p
  %y = fmul <16 x float> %x, <{factors}>
  store <16 x float> %y, ptr %p
  ret void
}}
define void @miaotui_{name}(ptr %p) #0 {{
  %x = load <16 x float>, ptr %p
  %y = fmul <16 x float> %x, <{other}>
  store <16 x float> %y, ptr %p
  ret void
}}
define weak hidden i16 @compared(ptr %p) noinline #0 {{
  %x = load <16 x float>, ptr %p
  %y = fcmp olt <16 x float> %x, <{bounds}>
  %z = bitcast <16 x i1> %y to i16
  ret i16 %z
}}
declare i64 @outside(i64)
define weak hidden i64 @jumps(i64 %i) noinline {{
  switch i64 %i, label %d [i64 0, label %a
    i64 1, label %{first}
    i64 2, label %{second}
    i64 3, label %c
    i64 4, label %e]
a:
  %w = call i64 @outside(i64 5)
  ret i64 %w
b:
  %x = call i64 @outside(i64 7)
  %xx = call i64 @outside(i64 %x)
  ret i64 %xx
c:
  ret i64 %i
d:
  ret i64 99
e:
  %y = call i64 @outside(i64 9)
  %z = mul i64 %y, %i
  ret i64 %z
}}
attributes #0 = {{ "prefer-vector-width"="512" "min-legal-vector-width"="512" }}
"""


def vector(**of: float) -> str:
    """1 to 16, but for some numbers by their places."""
    return ", ".join(f"float {of.get(f'_{i}', 1.0 + i)}" for i in range(16))


def wide(folder: Path, triple: str, name: str, **words: str) -> Path:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    cpu = "skylake-avx512" if triple.startswith("x86") else ""
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=2, reloc="pic", codemodel="small")
    plain = {"other": vector(_15=8.0), "factors": vector(), "bounds": vector(_0=7.0), "first": "a", "second": "b"}
    file = folder / f"{name}.o"
    text = WIDE.format(name=name, **plain | words)
    file.write_bytes(machine.emit_object(llvm.parse_assembly(f'target triple = "{triple}"\n{text}')))
    return file


@pytest.mark.parametrize("triple", ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"])
@pytest.mark.parametrize(
    ("what", "symbol"),
    [
        ({"factors": vector(_0=2.0)}, "again"),
        ({"factors": vector(_15=-16.0)}, "again"),
        ({"bounds": vector(_0=7.5)}, "compared"),
        ({"bounds": vector(_0=7.0, _15=-16.0)}, "compared"),
        ({"first": "b", "second": "a"}, "jumps"),
        ({"other": vector(_15=9.0)}, None),
        ({"other": vector(_15=-8.0)}, None),
    ],
    ids=["first", "last", "first compared", "last compared", "jumps", "another's", "another's last byte"],
)
def test_constants_of_64_bytes_count_by_their_values(
    tmp_path: Path, triple: str, what: dict[str, str], symbol: str | None
) -> None:
    """They lie among tables of jumps, after each other; an instruction that compares has a byte after its place."""
    files = [wide(tmp_path, triple, "a"), wide(tmp_path, triple, "b", **what)]
    if symbol is None:
        check_clashes("some", files)
        return
    with pytest.raises(BackendError, match=rf"^some: a\.o and b\.o both define {symbol}, and not with the same code"):
        check_clashes("some", files)


def test_a_library_with_such_objects_is_not_linked(tmp_path: Path) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(reloc="pic")
    files = [written(machine, tmp_path, name="a"), written(machine, tmp_path, name="b", more="8")]
    with pytest.raises(BackendError, match=re.escape("some: a.o and b.o both define again")):
        kernels._linked(["no-such-linker"], "some", files, tmp_path)
    assert not list(tmp_path.glob("*.so"))


def test_what_is_no_object_is_said() -> None:
    with pytest.raises(ValueError, match="no ELF object of 64 bits"):
        definitions(b"\x7fELF\x01\x01" + bytes(60))
