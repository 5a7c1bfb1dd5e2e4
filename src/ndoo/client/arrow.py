"""Arrow columns without an Arrow library: numpy looks at the buffers where they lie.

Every Arrow producer (pyarrow, polars, DuckDB, arro3, nanoarrow, ...) hands its columns over through
the Arrow PyCapsule interface: https://arrow.apache.org/docs/format/CDataInterface.html. The
structures below are that page's, field by field.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ndoo import nhs_number
from ndoo.client.pieces import Piece, from_array, from_decimals, wrong_kind
from ndoo.nhs_number import NOT_A_NUMBER, Numbers

_VIEW_BYTES = 16
_INLINE_BYTES_MAX = 12  # a longer text lies elsewhere, and is no NHS number
_INTEGERS = {"c": "i1", "C": "u1", "s": "i2", "S": "u2", "i": "i4", "I": "u4", "l": "i8", "L": "u8"}
_NUMERIC = {"l": "i8", "L": "u8", "g": "f8"}
_OFFSETS = {"u": "i4", "z": "i4", "U": "i8", "Z": "i8"}


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_SchemaPointer, _ArrayPointer = ctypes.POINTER(_Schema), ctypes.POINTER(_Array)
_StreamPointer = ctypes.POINTER(_Stream)

_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_void_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.c_void_p),
    ("dictionary", _SchemaPointer),
    ("release", ctypes.CFUNCTYPE(None, _SchemaPointer)),
    ("private_data", ctypes.c_void_p),
]
_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.c_void_p),
    ("dictionary", _ArrayPointer),
    ("release", ctypes.CFUNCTYPE(None, _ArrayPointer)),
    ("private_data", ctypes.c_void_p),
]
_Stream._fields_ = [
    ("get_schema", ctypes.CFUNCTYPE(ctypes.c_int, _StreamPointer, _SchemaPointer)),
    ("get_next", ctypes.CFUNCTYPE(ctypes.c_int, _StreamPointer, _ArrayPointer)),
    ("get_last_error", ctypes.CFUNCTYPE(ctypes.c_char_p, _StreamPointer)),
    ("release", ctypes.CFUNCTYPE(None, _StreamPointer)),
    ("private_data", ctypes.c_void_p),
]

_pointer_in = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_in.restype = ctypes.c_void_p
_pointer_in.argtypes = [ctypes.py_object, ctypes.c_char_p]


def pieces_of(column: Any) -> list[Piece]:
    """The pieces of an Arrow *column*. Raises TypeError if its type cannot hold NHS numbers."""
    if hasattr(column, "__arrow_c_stream__"):
        return list(_pieces_of_stream(column.__arrow_c_stream__()))
    schema_capsule, array_capsule = column.__arrow_c_array__()
    schema = _struct_in(_Schema, schema_capsule, b"arrow_schema")
    array = _struct_in(_Array, array_capsule, b"arrow_array")
    return [_piece(schema, array, array_capsule)]


def _struct_in(kind: type[Any], capsule: object, name: bytes) -> Any:
    return kind.from_address(_pointer_in(capsule, name))


class _Owned:
    """A structure that was handed to us, and is released with the last reference to this."""

    def __init__(self, struct: Any) -> None:
        self.struct = struct

    def __del__(self) -> None:
        if self.struct.release:
            self.struct.release(ctypes.byref(self.struct))


def _pieces_of_stream(capsule: object) -> Iterator[Piece]:
    stream = _struct_in(_Stream, capsule, b"arrow_array_stream")
    schema = _Owned(_Schema())
    _demand(stream.get_schema(ctypes.byref(stream), ctypes.byref(schema.struct)))
    while True:
        array = _Owned(_Array())
        _demand(stream.get_next(ctypes.byref(stream), ctypes.byref(array.struct)))
        if not array.struct.release:
            return
        yield _piece(schema.struct, array.struct, array)


def _demand(status: int) -> None:
    """What the producer says about its own failure could hold values, and is not passed on."""
    if status != 0:
        raise ValueError("the Arrow column could not be read from whoever made it")


def _piece(schema: Any, array: Any, owner: object) -> Piece:
    """One array; *owner* keeps its buffers alive."""
    read, offset = _reader(schema, array), array.offset
    if array.null_count != 0 and array.n_buffers and array.buffers[0]:
        read = _with_nulls(read, array)
    return Piece(array.length, lambda start, stop: read(start + offset, stop + offset), owner=owner)


def _reader(schema: Any, array: Any) -> Callable[[int, int], Numbers]:
    """What reads the values between two places, counted from where the buffers begin."""
    kind = schema.format.decode()
    if schema.dictionary:
        return _dictionary_reader(kind, schema, array)
    if kind == "n":
        return lambda start, stop: np.full(stop - start, NOT_A_NUMBER, dtype=np.uint64)
    if kind in _NUMERIC:
        return lambda start, stop: from_array(_values(array, _NUMERIC[kind], start, stop))
    if kind in _OFFSETS:
        return lambda start, stop: _read_texts(array, _OFFSETS[kind], start, stop)
    if kind in {"vu", "vz"}:
        return lambda start, stop: _read_text_views(array, start, stop)
    if kind.startswith("d:") and kind.split(",")[1:] in (["0"], ["0", "128"]):
        return lambda start, stop: from_decimals(_values(array, "u8", 2 * start, 2 * stop))
    raise wrong_kind(f"an Arrow column of format '{kind}'")


def _dictionary_reader(kind: str, schema: Any, array: Any) -> Callable[[int, int], Numbers]:
    if kind not in _INTEGERS:
        raise wrong_kind(f"an Arrow dictionary with indices of format '{kind}'")
    entries = _piece(schema.dictionary.contents, array.dictionary.contents, None)
    numbers = _NOTHING
    if entries.length:
        numbers = np.append(entries.read(0, entries.length), _NOTHING)
    last = np.uint64(entries.length)

    def read(start: int, stop: int) -> Numbers:
        # An index outside the dictionary, as that of a null may be, takes the last.
        indices = _values(array, _INTEGERS[kind], start, stop).astype(np.uint64)
        return numbers[np.minimum(indices, last).astype(np.int64)]

    return read


_NOTHING = np.array([NOT_A_NUMBER], dtype=np.uint64)


def _with_nulls(read: Callable[[int, int], Numbers], array: Any) -> Callable[[int, int], Numbers]:
    def read_with_nulls(start: int, stop: int) -> Numbers:
        numbers = read(start, stop)
        first = start // 8
        bits = _bytes_at(array.buffers[0] + first, (stop + 7) // 8 - first)
        is_there = np.unpackbits(bits, bitorder="little")[start % 8 :][: stop - start]
        numbers[is_there == 0] = NOT_A_NUMBER
        return numbers

    return read_with_nulls


def _read_texts(array: Any, offset_type: str, start: int, stop: int) -> Numbers:
    offsets = _values(array, offset_type, start, stop + 1).astype(np.int64)
    first, last = (int(offsets[0]), int(offsets[-1])) if stop > start else (0, 0)
    text = _bytes_at((array.buffers[2] or 0) + first, last - first)
    return nhs_number.from_fields(text, offsets[:-1] - first, np.diff(offsets))


def _read_text_views(array: Any, start: int, stop: int) -> Numbers:
    views = _values(array, "u8", 2 * start, 2 * stop).view(np.uint8)
    lengths = views.view("<i4")[:: _VIEW_BYTES // 4].astype(np.int64)
    lengths[lengths > _INLINE_BYTES_MAX] = 0
    starts = np.arange(4, 4 + len(views), _VIEW_BYTES, dtype=np.int64)
    return nhs_number.from_fields(views, starts, lengths)


def _values(array: Any, kind: str, start: int, stop: int) -> npt.NDArray[Any]:
    size = np.dtype(kind).itemsize
    raw = _bytes_at((array.buffers[1] or 0) + start * size, (stop - start) * size)
    return np.frombuffer(raw, dtype=kind)


def _bytes_at(address: int, size: int) -> npt.NDArray[np.uint8]:
    if size == 0:
        return np.empty(0, dtype=np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
