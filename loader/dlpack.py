"""Memory that another library lends: DLPack's capsule, read by hand, since NumPy takes no BF16 from one."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..dataclass import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Lent", "borrowed"]

#: DLDeviceType: memory that the CPU reads; pinned for a GPU too.
CPU = (1, 3)
#: (DLDataTypeCode, bits) -> the dtype's name, and what NumPy holds it in.
TYPES: dict[tuple[int, int], tuple[str, type[np.generic]]] = {
    **{(0, 8 * n): (f"int{8 * n}", np.dtype(f"i{n}").type) for n in (1, 2, 4, 8)},
    **{(1, 8 * n): (f"uint{8 * n}", np.dtype(f"u{n}").type) for n in (1, 2, 4, 8)},
    **{(2, 8 * n): (f"float{8 * n}", np.dtype(f"f{n}").type) for n in (2, 4, 8)},
    (4, 16): ("bfloat16", np.uint16),
    (5, 64): ("complex64", np.complex64),
    (6, 8): ("bool", np.bool_),
    (10, 8): ("float8_e4m3fn", np.uint8),
    (12, 8): ("float8_e5m2", np.uint8),
    (14, 8): ("float8_e8m0fnu", np.uint8),
}
CAPSULE = b"dltensor"


def _says(value: Any, question: str) -> bool:  # noqa: ANN401 - of any library
    return callable(ask := getattr(value, question, None)) and bool(ask())


def _end(tensor: Any) -> int:  # noqa: ANN401 - PyTorch's
    """The byte of its storage behind a tensor's last number."""
    reach = sum((n - 1) * by for n, by in zip(tensor.shape, tensor.stride(), strict=True))
    return 0 if 0 in tensor.shape else (tensor.storage_offset() + reach + 1) * tensor.element_size()


class _Tensor(ctypes.Structure):
    """DLTensor, with which a DLManagedTensor begins (dlpack.h)."""

    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


@dataclass(frozen=True)
class Lent:
    """An array that another library owns, which stays there as long as this does. `dtype`: its name; bits, if BF16."""

    array: NDArray[Any]
    dtype: str


class _Holder:
    """What NumPy makes an array of, and keeps. A capsule that nobody renames gives its memory back when it is freed."""

    def __init__(self, capsule: object, interface: dict[str, Any]) -> None:
        self.capsule, self.__array_interface__ = capsule, interface


def borrowed(value: Any) -> Lent:  # noqa: ANN401 - of any library
    """What `value.__dlpack__()` lends. Errors: its own; `BufferError` for memory elsewhere, or let go; unknown dtypes.

    Of PyTorch what a capsule does not say is asked for: whether numbers are meant with the other sign, and whether a
    view's memory was let go, as FSDP does between steps.
    """
    if _says(value, "is_neg"):
        value = value.resolve_neg()
    if callable(getattr(value, "untyped_storage", None)) and value.untyped_storage().nbytes() < _end(value):
        msg = "its memory was let go"
        raise BufferError(msg)
    device = value.__dlpack_device__()[0]
    if int(device) not in CPU:
        msg = f"it is in the memory of another device, DLPack's number {int(device)}"
        raise BufferError(msg)
    capsule = value.__dlpack__()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = pointer(capsule, CAPSULE)  # ValueError: it is no such capsule
    tensor = _Tensor.from_address(address)
    if tensor.lanes != 1 or (tensor.code, tensor.bits) not in TYPES:
        msg = f"its dtype is DLPack's ({tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes), which is not read"
        raise BufferError(msg)
    name, kind = TYPES[tensor.code, tensor.bits]
    shape = tuple(tensor.shape[: tensor.ndim])
    if 0 in shape:
        return Lent(np.empty(shape, kind), name)
    size = np.dtype(kind).itemsize
    if not tensor.data:
        msg = "it has no memory"
        raise BufferError(msg)
    strides = tuple(size * n for n in tensor.strides[: tensor.ndim]) if tensor.strides else None
    place = (int(tensor.data) + tensor.byte_offset, True)
    interface = {"version": 3, "shape": shape, "typestr": np.dtype(kind).str, "data": place, "strides": strides}
    return Lent(np.asarray(_Holder(capsule, interface)), name)
