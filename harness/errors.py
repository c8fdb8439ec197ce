"""Errors a person can act on. Every command prints them without a traceback."""

from __future__ import annotations


class KitError(Exception):
    """Something the user can put right.

    Args:
        message: What was found.
        where: File, line, row or device it concerns.
        expected: What would have been accepted.
        fix: The one thing to do next, as a command where there is one.
        exit_code: 2 for input that cannot be read or wrong usage, 1 for findings.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
        exit_code: int = 2,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.expected = expected
        self.fix = fix
        self.exit_code = exit_code

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.message}" if self.where else self.message]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)
