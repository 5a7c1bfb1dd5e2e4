"""A column of NHS numbers, from whatever library: read part by part, so that memory is bounded.

Nothing here raises because of a value. A null, NaN, fraction, negative or unreadable text is a
number that is not valid, in its place; only a column whose *type* cannot hold NHS numbers is
refused. pandas is known by what its columns offer, and is not imported.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ndoo.client import arrow
from ndoo.client.pieces import Piece, from_array, from_objects, number_of, wrong_kind
from ndoo.nhs_number import NOT_A_NUMBER, NUMBER_MAX, Numbers

_KINDS = {"i": (np.int64, -1), "u": (np.uint64, NOT_A_NUMBER), "f": (np.float64, np.nan)}
_PLAIN = {"string_view": "large_string", "binary_view": "large_binary"}
V = TypeVar("V")


class Column:
    """Values in order. May be read by several threads at once."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = [piece for piece in pieces if piece.length]
        self._starts = [0, *accumulate(piece.length for piece in self.pieces)]

    @classmethod
    def of(cls, values: Any) -> Column:
        """The column *values*: see the top of `ndoo.client` for what it may be.

        Raises TypeError if values of its type cannot be NHS numbers.
        """
        return cls(_pieces_of(values))

    @classmethod
    def joined(cls, columns: Sequence[Column]) -> Column:
        """One column of all the values of *columns*."""
        return cls([piece for column in columns for piece in column.pieces])

    def __len__(self) -> int:
        return self._starts[-1]

    def numbers(self, start: int, stop: int) -> Numbers:
        """The values from *start* up to *stop* as numbers, whatever is none being not valid.

        Raises TypeError if there is a boolean among Python objects.
        """
        parts = list(self._parts(start, min(stop, len(self))))
        return parts[0] if len(parts) == 1 else np.concatenate([_EMPTY, *parts])

    def _parts(self, start: int, stop: int) -> Iterator[Numbers]:
        place = bisect_right(self._starts, start) - 1
        while start < stop:
            first, end = self._starts[place], min(stop, self._starts[place + 1])
            yield self.pieces[place].read(start - first, end - first)
            start, place = end, place + 1


_EMPTY = np.empty(0, dtype=np.uint64)


def one_number(value: object) -> int:
    """A single value as a number, NOT_A_NUMBER if it is none. Raises TypeError if it is many."""
    if type(value) is int:
        return value if 0 <= value <= NUMBER_MAX else NOT_A_NUMBER
    if hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        raise TypeError("check takes one NHS number; for many there is check_many")
    return number_of(value)


def select(values: V, mask: npt.NDArray[np.bool_]) -> V:
    """Those of the column *values* where *mask* is set, as a column of the same type."""
    column = cast("Any", values)
    if isinstance(values, (list, tuple)):
        kept = [value for value, is_kept in zip(values, mask.tolist()) if is_kept]
        return cast("V", type(values)(kept))
    if isinstance(values, np.ndarray) or is_of("pandas", values):
        return cast("V", column[mask])
    if (view := str(getattr(values, "type", ""))) in _PLAIN:  # filters of pyarrow know no views
        return cast("V", column.cast(_PLAIN[view]).filter(mask).cast(column.type))
    if hasattr(values, "filter"):
        return cast("V", column.filter(mask))
    return cast("V", column.take(np.flatnonzero(mask)))


def _pieces_of(values: Any) -> list[Piece]:
    if isinstance(values, (list, tuple)):
        return [Piece(len(values), lambda start, stop: from_objects(values[start:stop]))]
    if isinstance(values, np.ndarray):
        return _pieces_of_array(values)
    if is_of("pandas", values):
        return _pieces_of_pandas(values)
    if hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__"):
        return arrow.pieces_of(values)
    raise wrong_kind(f"a {type(values).__name__}")


def _pieces_of_array(array: npt.NDArray[Any]) -> list[Piece]:
    if array.ndim != 1:
        raise wrong_kind(f"an array of {array.ndim} dimensions")
    from_array(array[:0])  # refuses the type before anything is asked
    if isinstance(array, np.ma.MaskedArray):
        return [Piece(len(array), lambda start, stop: _from_masked(array[start:stop]))]
    return [Piece(len(array), lambda start, stop: from_array(array[start:stop]))]


def _from_masked(array: np.ma.MaskedArray[Any, Any]) -> Numbers:
    numbers = from_array(array.data)
    numbers[np.ma.getmaskarray(array)] = NOT_A_NUMBER
    return numbers


def is_of(library: str, values: object) -> bool:
    """Whether *values* is of a class of *library*, or of one derived from it."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(values).__mro__)


def _pieces_of_pandas(values: Any) -> list[Piece]:
    """A Series, Index or array of pandas, by what it is made of."""
    array, dtype = getattr(values, "array", values), getattr(values, "dtype", None)
    if dtype is None:
        raise wrong_kind(f"a {type(values).__name__} of pandas; name one of its columns")
    if isinstance(dtype, np.dtype):
        return _pieces_of_array(np.asarray(array))
    if hasattr(array, "__arrow_array__") and _is_arrow(dtype):
        return arrow.pieces_of(array.__arrow_array__())
    if hasattr(array, "categories"):
        return _pieces_of_categories(array)
    from_array(array[:0].to_numpy())  # refuses the type before anything is asked
    kind = getattr(dtype, "kind", "O")
    return [Piece(len(array), lambda start, stop: _from_nullable(array[start:stop], kind))]


def _is_arrow(dtype: Any) -> bool:
    return hasattr(dtype, "pyarrow_dtype") or getattr(dtype, "storage", "") == "pyarrow"


def _from_nullable(array: Any, kind: str) -> Numbers:
    if kind in _KINDS:
        as_kind, null = _KINDS[kind]
        return from_array(array.to_numpy(dtype=as_kind, na_value=null))
    return from_array(np.asarray(array, dtype=object))


def _pieces_of_categories(array: Any) -> list[Piece]:
    categories = Column.of(array.categories)
    # The code of a null is -1, and so takes the last.
    numbers = np.append(categories.numbers(0, len(categories)), np.uint64(NOT_A_NUMBER))
    codes = np.asarray(array.codes)
    return [Piece(len(codes), lambda start, stop: numbers[codes[start:stop]])]
