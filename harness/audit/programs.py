"""Which programs the commands of a run find: the shell of a command given as text, and `python`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from harness.bundle.privacy import scrub
from harness.meter.client import Visibility, visibility

_PLAIN = ("/bin/sh", "-c")
_STRICT = ("-o", "pipefail", "-c")
_SHOWN = re.compile(r"""(?<!\w)CUDA_VISIBLE_DEVICES=((?:"[^"]*"|'[^']*'|[^\s"';&|()<>])*)""")
_UNSHOWN = re.compile(
    r"\bunset\b[^;&|\n]*\bCUDA_VISIBLE_DEVICES\b|(?<!\w)(?:-u|--unset)[ =\n]*CUDA_VISIBLE_DEVICES\b"
    r"|\benv[ \n]+(?:-i|-|--ignore-environment)(?=\s)"
)
_ORDER = re.compile(r"""(?<!\w)CUDA_DEVICE_ORDER=["']?(\w+)""")
_AS_IT_IS = re.compile(r"\$(?:CUDA_VISIBLE_DEVICES|\{CUDA_VISIBLE_DEVICES(?::?-[^}$`]*)?\})")
HIDES = (
    "the command sets CUDA_VISIBLE_DEVICES to what only its shell knows: a GPU that is hidden here is not "
    "metered. Unset CUDA_VISIBLE_DEVICES here and all are"
)
_PYTHON = re.compile(r"(?<![\w./-])python[0-9.]*(?![\w./-])")
_ASK_TIMEOUT_S = 20.0

# Without these traps the shell would end of a signal that is meant for the program it waits for.
_PASS_SIGNALS = "trap : USR1 USR2; "
# A program whose reader has read enough ends of SIGPIPE, code 141 (`yes | head -1`). That is no failure.
_PIPES = (
    """trap '_kit=($? "${PIPESTATUS[@]}"); _kit_ended="^141( (0|141))+ 0$"; """
    """[[ $- != *e* && "${_kit[*]}" =~ $_kit_ended ]] && exit 0' EXIT; """
)


@cache
def shell() -> tuple[str, ...]:
    """The words before a command's text: bash, where a pipeline fails with any of its members, else sh."""
    bash = "/bin/bash" if Path("/bin/bash").exists() else shutil.which("bash")
    return (bash, *_STRICT) if bash else _PLAIN


def text_of(argv: Sequence[str]) -> str | None:
    """The text of a command that a shell runs, None of a list of words."""
    return argv[-1] if tuple(argv[:-1]) == shell() else None


def shell_words() -> str:
    """For a plan: what runs a command given as text."""
    if shell() == _PLAIN:
        return "text by /bin/sh without pipefail: without bash, a pipeline fails by its last member only"
    return f"text by {shell()[0]} with pipefail"


def lacks_pipefail(argv: Sequence[str]) -> bool:
    """Whether a pipeline in this command may fail unseen, for want of bash."""
    return shell() == _PLAIN and "|" in (text_of(argv) or "")


def to_exec(argv: Sequence[str]) -> tuple[str, ...]:
    """The words to start a command with: those of the plan, a shell's text with our traps before it.

    In a list (`a | b && c`) the shell has left out what follows a member that ended with 141, so there the
    stage fails with it.
    """
    text = text_of(argv)
    if text is None:
        return tuple(argv)
    pipes = _PIPES if shell() != _PLAIN and "&&" not in text else ""
    return (*argv[:-1], pipes + _PASS_SIGNALS + text)


def devices_seen(argv: Sequence[str], env: Mapping[str, str]) -> list[Visibility]:
    """What decides which GPUs a command can use: its environment, and what its own words set or unset there.

    An assignment of what only the shell knows (`CUDA_VISIBLE_DEVICES=$i`) is left out (`hides_devices`).
    """
    visible, order = visibility(env)
    words = _words(argv)
    seen = [visible, *([None] if _UNSHOWN.search(words) else [])]
    seen += [value for value in _shown(words) if not _of_the_shell(value)]
    if told := _ORDER.search(words):
        order = told[1]
    return [(one, order) for one in dict.fromkeys(seen)]


def hides_devices(argv: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a command may use GPUs that its environment does not show, and nobody can say which."""
    return visibility(env)[0] is not None and any(map(_of_the_shell, _shown(_words(argv))))


def _words(argv: Sequence[str]) -> str:
    return "\n".join(argv).replace("\\", "")  # quotes of a shell inside a shell


def _shown(words: str) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is set to, without quotes; not where it is set to what it is."""
    values = [found[1].replace('"', "").replace("'", "") for found in _SHOWN.finditer(words)]
    return [value for value in values if not _AS_IT_IS.fullmatch(value)]


def _of_the_shell(value: str) -> bool:
    return bool(set("$`") & set(value))


class Interpreter(NamedTuple):
    """A `python` that commands name without its folder."""

    name: str
    path: str | None
    version: str | None

    def __str__(self) -> str:
        if self.path is None:
            return f"{self.name}: not on PATH"
        return f"{self.name}: {self.path} ({self.version or 'it does not say its version'})"

    def detail(self) -> dict[str, Any]:
        """For an event: no private path."""
        return {"name": self.name, "path": self.path and scrub(self.path), "version": self.version}


def find_python(commands: Iterable[tuple[Sequence[str], str | None]]) -> Interpreter | None:
    """The first `python` that commands name, asked for its version; None if they name none.

    Args:
        commands: Words of each, and the PATH that its programs are looked for on.
    """
    for argv, path in commands:
        text = text_of(argv)
        found = _PYTHON.match(argv[0]) if text is None else _PYTHON.search(text)
        if found is None or (text is None and found.group() != argv[0]):
            continue
        place = shutil.which(found.group(), path=path)
        return Interpreter(found.group(), place, None if place is None else _version(place))
    return None


def _version(python: str) -> str | None:
    try:
        asked = subprocess.run(
            [python, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = (asked.stdout or asked.stderr).split()
    return words[-1][:40] if asked.returncode == 0 and words else None
