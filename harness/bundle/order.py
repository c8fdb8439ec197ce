"""Order and uniqueness of keys, over a stream of batches. Ascending, nulls first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness.bundle.arrays import LOWEST, numbers, validity

_Codes = npt.NDArray[np.int64]


class KeyOrder:
    """Watches that rows come in strictly ascending key order.

    Attributes:
        rows: Rows seen.
        problem: `(row, kind)` of the first violation, kind being `unsorted` or `duplicate`; else None.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.rows = 0
        self.problem: tuple[int, str] | None = None
        self._last: tuple[Any, ...] | None = None

    def update(self, batch: pa.Table | pa.RecordBatch) -> None:
        """Look at the next rows."""
        size = batch.num_rows
        if not size:
            return
        arrays = [_one_array(batch.column(name)) for name in self.columns]
        if self._last is not None:
            first = tuple(array[0].as_py() for array in arrays)
            self._judge_edge(self._last, first)
        if self.problem is None and size > 1:
            self._judge_inside(arrays)
        self._last = tuple(array[-1].as_py() for array in arrays)
        self.rows += size

    def _judge_edge(self, before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
        if self.problem is not None:
            return
        keys = [tuple(_sortable(value) for value in key) for key in (before, after)]
        if keys[0] >= keys[1]:
            self.problem = (self.rows, "duplicate" if keys[0] == keys[1] else "unsorted")

    def _judge_inside(self, arrays: list[pa.Array]) -> None:
        equal: npt.NDArray[np.bool_] | None = None
        wrong: npt.NDArray[np.bool_] | None = None
        for array in arrays:
            codes = _codes(array)
            if codes is None:
                continue
            falls, same = codes[1:] < codes[:-1], codes[1:] == codes[:-1]
            if equal is None or wrong is None:
                equal, wrong = same, falls
            else:
                wrong |= equal & falls
                equal &= same
        if equal is None or wrong is None:
            self.problem = (self.rows + 1, "duplicate")
            return
        bad = wrong | equal
        if bad.any():
            row = int(np.argmax(bad))
            self.problem = (self.rows + row + 1, "unsorted" if wrong[row] else "duplicate")


def _sortable(value: Any) -> tuple[int, Any]:
    """Nulls lowest; text by its bytes, as _codes ranks it."""
    if value is None:
        return 0, 0
    return 1, value.encode() if isinstance(value, str) else value


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.unify_dictionaries().combine_chunks()


def _codes(array: pa.Array) -> _Codes | None:
    """Integers that sort as the values do, nulls lowest; None when all rows are equal."""
    if pa.types.is_string(array.type) or pa.types.is_dictionary(array.type):
        encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        words = [word.encode() for word in encoded.dictionary.to_pylist()]
        if len(words) == 1 and not array.null_count:
            return None
        ranks = np.empty(len(words) + 1, np.int64)
        rank_of = {word: rank for rank, word in enumerate(sorted(set(words)))}
        ranks[:-1] = [rank_of[word] for word in words]
        ranks[-1] = -1  # index -1, where a null points
        codes: _Codes = ranks[numbers(encoded.indices, validity(encoded), -1)]
        return codes
    values: _Codes = numbers(array, validity(array), LOWEST)
    return None if values[0] == values[-1] and (values == values[0]).all() else values


def sorted_rows(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """A table in the order that KeyOrder wants: ascending, nulls first, text by its bytes; stable."""
    if not table.num_rows:
        return table
    codes = [_codes(_one_array(table.column(name))) for name in reversed(columns)]
    keys = [code for code in codes if code is not None]
    return table.take(pa.array(np.lexsort(keys))) if keys else table
