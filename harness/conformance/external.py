"""Another implementation as a process: a JSON object in each line of its standard input and output."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterable

from harness.conformance.operations import Answer, Implementation
from harness.conformance.vectors import Vector
from harness.errors import KitError

_KINDS = ("output", "error", "unsupported")


def external(command: str, vectors: Iterable[Vector], timeout_s: float = 300.0) -> Implementation:
    """Put all questions to a command and hold its answers, by id.

    A question without a proper answer counts as broken, with the first thing that went wrong: a line that is
    no answer, the command's death, or the end of the time.

    Args:
        command: as typed in a shell; run without one.
        vectors: what it is asked.
        timeout_s: longest wait for all answers.

    Raises:
        KitError: the command cannot be started, or gave no proper answer at all.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise KitError(f"cannot be split into words: {error}", where="--cmd") from None
    if not words:
        raise KitError("is empty", where="--cmd", fix='kit conformance --cmd "./my_implementation"')
    asked = [json.dumps({name: vector[name] for name in ("id", "op", "input")}) for vector in vectors]
    try:
        done = subprocess.run(
            words,
            input=("\n".join(asked) + "\n").encode(),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        said, fault = done.stdout, _end(done)
    except subprocess.TimeoutExpired as late:
        said, fault = late.stdout or b"", f"did not answer all within {timeout_s:g} s"
    except OSError as error:
        raise KitError(
            f"cannot be started: {error.strerror or error}",
            where=words[0],
            expected="a program that reads JSON lines and answers each with one line",
            fix="README.md beside the vectors shows one in a page",
        ) from None
    answers: dict[str, Answer] = {}
    for line in reversed(said.decode("utf-8", "replace").splitlines()):
        found = _read(line)
        if isinstance(found, str):
            fault = found
        else:
            answers[found[0]] = found[1]
    if asked and not answers:
        raise KitError(
            f"the command {fault}",
            where=command,
            expected='a line such as {"id": "...", "output": {...}} for each line it reads',
            fix="print nothing but answers on standard output",
        )
    nothing = Answer(broken=f"no answer: the command {fault}")
    return lambda identifier, op, given: answers.get(identifier, nothing)


def _read(line: str) -> tuple[str, Answer] | str:
    """A line's id and answer, or why it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return f"answered with a line that is no JSON: {line.strip()[:100]!r}"
    if not isinstance(found, dict) or sum(kind in found for kind in _KINDS) != 1:
        return f"answered without one of {', '.join(_KINDS)}: {line.strip()[:100]!r}"
    identifier = str(found.get("id"))
    if "unsupported" in found:
        return identifier, Answer(unsupported=True)
    if "error" in found:
        return identifier, Answer(refused=str(found["error"]))
    if not isinstance(found["output"], dict):
        return f"its output is no JSON object: {line.strip()[:100]!r}"
    return identifier, Answer(output=found["output"])


def _end(done: subprocess.CompletedProcess[bytes]) -> str:
    """How a command ended, with the last it said."""
    code = done.returncode
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    return ": ".join([how, *(text[:200] for text in last)])
