"""What the pages of a Parquet column say they decode to, read from their headers alone.

A decoder allocates what a page header claims, whatever the footer says. The header is a Thrift struct in the
compact protocol (thrift-compact-protocol.md of Apache Thrift); its fields are those of PageHeader in
parquet.thrift.
"""

from __future__ import annotations

from typing import BinaryIO

_BOOL, _BYTE, _INTS, _DOUBLE, _BINARY, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, 12
_UNCOMPRESSED, _COMPRESSED, _DATA_V1, _DICTIONARY, _DATA_V2, _NUM_VALUES = 2, 3, 5, 7, 8, 1
_HEADER = 1 << 14
"""Bytes read to find a header in; statistics of long strings make it long."""


def page_totals(file: BinaryIO, start: int, length: int, size: int) -> tuple[int, int]:
    """Bytes and values that the pages of a column chunk decode to.

    Raises:
        ValueError: A header is none, or the chunk leads out of the file.
    """
    if start < 0 or length < 0 or start + length > size:
        raise ValueError(f"a column chunk at {start} of {length} bytes lies outside the file")
    decoded = values = 0
    place = start
    while place < start + length:
        file.seek(place)
        try:
            fields, header = _struct(file.read(min(_HEADER, start + length - place)), 0)
        except IndexError:
            raise ValueError("a page header is cut short or too long") from None
        uncompressed, compressed = fields.get(_UNCOMPRESSED), fields.get(_COMPRESSED)
        if not isinstance(uncompressed, int) or not isinstance(compressed, int):
            raise ValueError(f"no page header at byte {place}")
        if uncompressed < 0 or compressed < 0:
            raise ValueError(f"the page at byte {place} has a negative size")
        decoded += uncompressed
        for kind in (_DATA_V1, _DATA_V2, _DICTIONARY):
            inner = fields.get(kind)
            count = inner.get(_NUM_VALUES) if isinstance(inner, dict) else None
            values += count if isinstance(count, int) and kind != _DICTIONARY else 0
        place += header + compressed
    return decoded, values


def _struct(data: bytes, place: int, depth: int = 0) -> tuple[dict[int, object], int]:
    """Field id -> integer or struct of a Thrift struct in the compact protocol, and the place behind it.

    All else is passed over. An IndexError says that it is cut short or too long.
    """
    if depth > 8:
        raise ValueError("a page header is nested too deeply")
    fields: dict[int, object] = {}
    number = 0
    while byte := data[place]:
        place += 1
        if byte >> 4:
            number += byte >> 4
        else:
            number, place = _zigzag(data, place)
        kind = byte & 15
        value: object = None
        if kind in _INTS:
            value, place = data[place], place + 1
            if value > 127:  # most are one byte
                value, place = _varint(data, place - 1)
            value = (value >> 1) ^ -(value & 1)
        elif kind == _STRUCT:
            value, place = _struct(data, place, depth + 1)
        elif kind == _BINARY:
            length, place = _varint(data, place)
            place += length
        elif kind == _BYTE:
            value = data[place]
            place += 1
        elif kind == _DOUBLE:
            place += 8
        elif kind not in _BOOL:
            raise ValueError(f"a page header holds a field of type {kind}")
        fields[number] = value
    return fields, place + 1


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = data[place]
    if value < 128:
        return value, place + 1
    value &= 127
    for shift in range(7, 70, 7):
        place += 1
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
    raise ValueError("a page header holds an endless number")


def _zigzag(data: bytes, place: int) -> tuple[int, int]:
    value, place = _varint(data, place)
    return (value >> 1) ^ -(value & 1), place
