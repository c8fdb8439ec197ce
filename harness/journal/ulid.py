"""ULIDs: run ids that sort by time and say nothing about the machine."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_ulid(t_us: int | None = None) -> str:
    """A fresh ULID: 48 bits of UTC milliseconds, then 80 random bits, in Crockford base 32.

    Args:
        t_us: UTC in microseconds; now by default.
    """
    return ulid_of(time.time_ns() // 1000 if t_us is None else t_us, secrets.token_bytes(10))


def ulid_of(t_us: int, tail: bytes) -> str:
    """The ULID of a time, UTC in microseconds, and 10 bytes."""
    number = (t_us // 1000 & (2**48 - 1)) << 80 | int.from_bytes(tail, "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
