"""The cache of answers: nothing is computed twice, and what was known before changes no batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import KitError
from harness.evaluation.cache import AnswerCache

REQUESTS = [{"prompt": f"p{n}"} for n in range(7)]
ORDER = [6, 5, 4, 3, 2, 1, 0]


class Killed(Exception):
    """The process ends here."""


def ask(
    path: Path | None, identity: str = "m", stop_after: int = 99
) -> tuple[list[str], list[list[int]], AnswerCache]:
    batches: list[list[int]] = []
    cache = AnswerCache(path, {"model": identity})

    def compute(batch: list[int]) -> list[str]:
        if len(batches) == stop_after:
            raise Killed
        batches.append(batch)
        return [f"a{n}" for n in batch]

    return cache.in_batches(REQUESTS, ORDER, 3, compute), batches, cache


def test_a_killed_run_goes_on_behind_its_last_batch(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    with pytest.raises(Killed):
        ask(path, stop_after=2)
    # Killed while it wrote the third batch.
    with path.open("a") as stream:
        stream.write('{"key": "torn')
    answers, batches, cache = ask(path)
    assert answers == [f"a{n}" for n in range(7)]
    assert batches == [[0]] and (cache.reused, cache.computed) == (6, 1)
    answers, batches, cache = ask(path)
    assert answers[3] == "a3" and batches == [] and cache.computed == 0
    assert ask(path, identity="another model")[1] == [[6, 5, 4], [3, 2, 1], [0]]


def test_a_batch_is_the_same_whatever_of_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    ask(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"a5"' not in line))
    _, batches, cache = ask(path)
    assert batches == [[6, 5, 4]] and cache.computed == 1
    assert ask(None)[1] == [[6, 5, 4], [3, 2, 1], [0]]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    path.write_text("not json\n")
    with pytest.raises(KitError, match="holds no answers"):
        ask(path)
    with pytest.raises(KitError, match="cannot be used"):
        ask(tmp_path / "cache.jsonl" / "below")
