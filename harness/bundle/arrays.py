"""Arrow arrays as NumPy sees them: for a few hundred rows a kernel of Arrow costs more than all the rest."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Valid: TypeAlias = npt.NDArray[np.bool_] | None
"""(n,) false where an array is null; None where nothing is."""

LOWEST = np.int64(np.iinfo(np.int64).min)
"""Stands for null where numbers are put in order."""


def validity(array: pa.Array) -> Valid:
    """Where an array is not null."""
    if not array.null_count:
        return None
    first, skipped = divmod(array.offset, 8)
    bits = np.frombuffer(array.buffers()[0], np.uint8, offset=first)
    valid = np.unpackbits(bits, count=skipped + len(array), bitorder="little")
    return valid[skipped:].view(np.bool_)


def numbers(array: pa.Array, valid: Valid, null: int | np.int64 = 0) -> npt.NDArray[Any]:
    """(n,) values of an array of numbers, with `null` in place of nulls; a view where there are none.

    Args:
        array: Numbers.
        valid: Their `validity`.
        null: A number of their type, or one that takes them all.
    """
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if valid is None:
        plain: npt.NDArray[Any] = array.to_numpy()
        return plain
    kind = np.dtype(array.type.to_pandas_dtype())
    values = np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)
    return np.where(valid, values, null)
