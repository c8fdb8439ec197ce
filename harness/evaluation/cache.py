"""What a model answered, kept by content: asked again, it is read, not computed.

A record's key is the digest of everything that decides the answer: the model, its type, the sampling, the
prompt. Records are appended and flushed batch by batch, so that a killed evaluation goes on where it was.
Batches are cut before the cache is looked at: a model sees the same batches whatever was known before, and
gives the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import KitError
from harness.spec.canonical import canonical_json


class AnswerCache:
    """Answers by content.

    Args:
        path: JSON lines, created where there are none; None keeps answers in memory only.
        identity: What decides every answer: the model's digest, type, engine.

    Attributes:
        reused: Answers that were read.
        computed: Answers that were not known.

    Raises:
        KitError: The file cannot be read or written.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.reused = 0
        self.computed = 0
        self._identity = dict(identity)
        self._path = path
        self._known: dict[str, Any] = {}
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._known = _read(path)
            except OSError as error:
                raise KitError(f"cannot be used: {error.strerror}", where=str(path)) from None

    def key(self, request: Mapping[str, Any]) -> str:
        """Digest of a request and of who is asked."""
        return hashlib.sha256(canonical_json({**self._identity, "request": dict(request)})).hexdigest()

    def in_batches(
        self,
        requests: Sequence[Mapping[str, Any]],
        order: Sequence[int],
        batch_size: int,
        compute: Callable[[list[int]], Sequence[Any]],
    ) -> list[Any]:
        """Answers to requests, in their order.

        Args:
            requests: JSON values.
            order: Indices of requests, in the order in which batches are cut.
            batch_size: Requests a batch.
            compute: Gets a batch's indices; returns an answer for each, a JSON value.
        """
        keys = [self.key(request) for request in requests]
        for start in range(0, len(order), batch_size):
            batch = list(order[start : start + batch_size])
            missing = [index for index in batch if keys[index] not in self._known]
            self.reused += len(batch) - len(missing)
            if not missing:
                continue
            self.computed += len(missing)
            answers = dict(zip(batch, compute(batch), strict=True))
            self._store({keys[index]: answers[index] for index in missing})
        return [self._known[key] for key in keys]

    def _store(self, answers: Mapping[str, Any]) -> None:
        self._known.update(answers)
        if self._path is None:
            return
        lines = [json.dumps({"key": key, "answer": answer}) + "\n" for key, answer in answers.items()]
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write("".join(lines))
        except OSError as error:
            raise KitError(f"cannot be written: {error.strerror}", where=str(self._path)) from None


def _read(path: Path) -> dict[str, Any]:
    """Records of a file; a last line that a kill tore is cut off, so that the next one begins a line."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
    try:
        records = [json.loads(line) for line in whole.splitlines()]
        return {str(record["key"]): record["answer"] for record in records}
    except (ValueError, KeyError, TypeError) as error:
        raise KitError(
            f"holds no answers ({error})", where=str(path), fix="remove it: its answers are computed again"
        ) from None
