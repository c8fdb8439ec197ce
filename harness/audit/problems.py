"""Complaints about a pipeline file: where, which value, what is allowed, the nearest guess."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import KitError

MAX_SHOWN = 50
"""Problems listed in one message; a file with more is wrong in one place that repeats."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class PipelineProblem:
    """One thing wrong with a pipeline file.

    Args:
        mark: Where the offending value (or, for a wrong name, its key) stands.
        path: The field as in `stages[1].kind`; empty for the file as a whole.
        message: The offending value, what is allowed and the nearest guess, in one or more sentences.
    """

    mark: Place
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.text}"

    @property
    def text(self) -> str:
        """The problem without its place."""
        return f"{self.path}: {self.message}" if self.path else self.message


class PipelineError(KitError):
    """Everything found wrong with a pipeline file, in file order, one line a problem.

    Args:
        problems: At least one; what is reported twice (through several runs of a matrix stage) is kept once.
    """

    def __init__(self, problems: Sequence[PipelineProblem]) -> None:
        once: dict[tuple[Place, str], PipelineProblem] = {}
        for problem in problems:
            once.setdefault((problem.mark, problem.message), problem)
        self.problems = tuple(sorted(once.values(), key=lambda problem: problem.mark))
        lines = [self.problems[0].text, *(str(problem) for problem in self.problems[1:MAX_SHOWN])]
        if len(self.problems) > MAX_SHOWN:
            lines.append(f"... and {len(self.problems) - MAX_SHOWN} more problems")
        super().__init__("\n".join(lines), where=str(self.problems[0].mark))


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option a person who typed `word` most likely meant, or None."""
    known = {_plain(option): option for option in options}
    wanted = _plain(word)
    if wanted in known:
        return known[wanted]
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.6)
    if close:
        return known[close[0]]
    if len(wanted) < 3:
        return None
    return next((known[key] for key in known if wanted in key or (len(key) > 2 and key in wanted)), None)


def guess(word: str, options: Iterable[str], form: str = "{}") -> str:
    """` Did you mean 'x'?`, or nothing; `form` dresses the word up, as in `${{{}}}`."""
    found = nearest(word, options)
    return f" Did you mean '{form.format(found)}'?" if found else ""


def show(value: object, limit: int = 60) -> str:
    """A value as an error quotes it: short, and with the type visible."""
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return getattr(value, "text", None) or str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= limit else value[: limit - 3] + "...")
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else type(value).__name__


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_").replace(" ", "_")
