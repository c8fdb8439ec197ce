"""Reads log files of other tools; an error names file, line and field and says what to do."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import KitError

LARGEST = 1e15
"""No figure of a stage is larger in its own unit (1e15 J: a power plant for days); it fits an int64."""
MIN_UNIX_S, MAX_UNIX_S = 1e9, 4_102_444_800.0
"""2001 .. 2100: a stamp outside lost digits or has another unit."""

FIX_FILE = (
    "copy the file again from the machine that wrote it, or move it out of the folder and import the rest"
)
FIX_ROW = "remove that line (or restore the file) and import again; the joules of one row are then a gap"


def walk(root: Path) -> Iterator[Path]:
    """Regular files below `root` in a stable order; links are not followed, a link to a folder could loop.

    Raises:
        KitError: A folder cannot be listed.
    """
    if root.is_file():
        yield root
        return

    def unreadable(error: OSError) -> None:
        raise KitError(
            f"cannot be listed ({error.strerror})",
            where=str(error.filename),
            fix="check the folder's permissions",
        ) from error

    for directory, names, files in os.walk(root, onerror=unreadable):
        names.sort()
        yield from (path for name in sorted(files) if (path := Path(directory) / name).is_file())


def read_text(path: Path, *, expected: str, fix: str) -> str:
    """The text of a file, with line feeds only and no byte order mark.

    Raises:
        KitError: The file cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        message, fix = f"cannot be read ({error.strerror})", "check the path and the file's permissions"
        raise KitError(message, where=str(path), fix=fix) from error
    except UnicodeDecodeError as error:
        message = f"byte {error.start} is not UTF-8 text"
        raise KitError(message, where=str(path), expected=expected, fix=fix) from error


def load_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object.

    Raises:
        KitError: The file cannot be read, is not UTF-8, not JSON, or not an object; names file, line and
        column.
    """
    text = read_text(path, expected="a JSON file", fix=FIX_FILE)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        raise KitError(
            "the file ends in the middle (truncated JSON)" if cut else f"not JSON: {error.msg}",
            where=f"{path}:{error.lineno}:{error.colno}",
            expected="a complete JSON object",
            fix=FIX_FILE,
        ) from error
    except RecursionError as error:
        raise KitError("nested too deeply", where=str(path), expected="a log", fix=FIX_FILE) from error
    if not isinstance(value, dict):
        found = f"holds a {type(value).__name__}"
        raise KitError(found, where=str(path), expected="a JSON object", fix=FIX_FILE)
    return value


class Fields:
    """Typed access to one JSON object or one row of a CSV; a wrong type is an error that names the field.

    A field that is absent, null or empty gives None.
    """

    def __init__(self, value: Mapping[str, Any], where: str | Path, fix: str = FIX_FILE) -> None:
        self._value, self._where, self._fix = value, str(where), fix

    def text(self, key: str) -> str | None:
        """A text."""
        value = self._value.get(key)
        if value is None or isinstance(value, str):
            return value or None
        raise self._wrong(key, value, "text")

    def number(self, key: str, *, minimum: float | None = None) -> float | None:
        """A finite number, also one written as text."""
        value = self._value.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        number = _as_number(value)
        if number is None:
            raise self._wrong(key, value, f"a number up to {LARGEST:g}, or nothing")
        if minimum is not None and number < minimum:
            raise self._wrong(key, value, f"a number of at least {minimum:g}")
        return number

    def count(self, key: str) -> int | None:
        """A number, rounded to a whole one."""
        value = self.number(key)
        return None if value is None else round(value)

    def flag(self, key: str) -> bool | None:
        """True or false; None for anything else."""
        value = self._value.get(key)
        return value if isinstance(value, bool) else None

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; empty if absent."""
        found = []
        for position, value in enumerate(self._list(key, "a list of numbers")):
            if (number := _as_number(value)) is None:
                raise self._wrong(f"{key}[{position}]", value, f"a number up to {LARGEST:g}")
            found.append(number)
        return tuple(found)

    def section(self, key: str) -> Fields:
        """An object inside the object; empty if absent."""
        value = self._value.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object")
        return Fields(value or {}, self._where, self._fix)

    def objects(self, key: str) -> list[Fields]:
        """A list of objects; empty if absent."""
        values = self._list(key, "a list of objects")
        for value in values:
            if not isinstance(value, Mapping):
                raise self._wrong(key, value, "a list of objects")
        return [Fields(value, self._where, self._fix) for value in values]

    def _list(self, key: str, expected: str) -> list[Any]:
        value = self._value.get(key)
        if value is not None and not isinstance(value, list):
            raise self._wrong(key, value, expected)
        return value or []

    def _wrong(self, key: str, value: object, expected: str) -> KitError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return KitError(
            f"field {key} is {shown}", where=self._where, expected=f"{key}: {expected}", fix=self._fix
        )


def _as_number(value: object) -> float | None:
    """A finite float of possible size; text such as "47680.0" counts, a boolean does not."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= LARGEST else None
