"""Reading a text file that a person wrote, and saying precisely why it cannot be read."""

from __future__ import annotations

import stat
from pathlib import Path

from harness.audit.problems import guess
from harness.container import fix_for_missing_file
from harness.errors import KitError

MAX_BYTES = 256 * 1024


def read_text(path: Path, name: str) -> str:
    """The text of a file.

    Raises:
        KitError: It is missing, not a regular file, unreadable, too large, or not UTF-8.
    """
    where = f"{name}:1:1"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise KitError(f"this is {kind}", where=where, expected="a YAML file", fix="name the file itself")
        if status.st_size > MAX_BYTES:
            raise KitError(
                f"the file has {status.st_size} bytes",
                where=where,
                expected=f"at most {MAX_BYTES} bytes",
                fix="keep data in files of their own and name them as inputs",
            )
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise KitError(
            f"there is no such file.{similar_file(path)}",
            where=where,
            expected="an existing YAML file",
            fix=fix_for_missing_file(name)
            or "check the path; a relative one starts at the current directory",
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise KitError(
            f"cannot be read: {reason}", where=where, expected="a readable YAML file", fix=f"ls -l {name!r}"
        ) from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise KitError(
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            where=f"{name}:{line}:{column}",
            expected="UTF-8 text",
            fix=f"save it as UTF-8, for instance: iconv -f latin1 -t utf-8 {name!r}",
        ) from None


def similar_file(path: Path) -> str:
    """A guess at the YAML file that was meant by a path that does not exist, or nothing."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        return ""
    return guess(path.name, names[:1000])
