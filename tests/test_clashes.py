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
