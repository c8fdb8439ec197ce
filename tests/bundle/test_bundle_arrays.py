"""NumPy's view of Arrow arrays: the same values and nulls, wherever an array begins in its buffers."""

from __future__ import annotations

import pyarrow as pa
import pytest

from harness.bundle.arrays import numbers, validity
from harness.bundle.reader import records

VALUES = [None, 3, None, 5, 0, None, 7, 8, 9, None, 11, None, 13]


@pytest.mark.parametrize("kind", [pa.int16(), pa.int64(), pa.uint8(), pa.float64(), pa.bool_()], ids=str)
@pytest.mark.parametrize(("start", "length"), [(0, 13), (1, 4), (3, 2), (7, 2), (9, 4), (12, 1)])
def test_numbers_and_nulls_of_a_slice(kind: pa.DataType, start: int, length: int) -> None:
    given = [None if v is None else bool(v) if pa.types.is_boolean(kind) else v for v in VALUES]
    array, expected = pa.array(given, kind).slice(start, length), given[start : start + length]
    valid = validity(array)
    assert (valid is None) == (None not in expected)
    there = [True] * length if valid is None else valid.tolist()
    assert there == [v is not None for v in expected]
    assert numbers(array, valid, 1).tolist() == [1 if v is None else v for v in expected]


def test_records_are_rows_whether_text_is_encoded_or_not() -> None:
    words = pa.array(["a", None, "b", "a"])
    lists = pa.array([[1], [], None, [2, 3]])
    plain = pa.record_batch({"word": words, "list": lists})
    encoded = pa.record_batch({"word": words.dictionary_encode(), "list": lists})
    assert records(plain) == records(encoded) == plain.to_pylist()
    assert records(encoded.slice(1, 2)) == plain.slice(1, 2).to_pylist()
