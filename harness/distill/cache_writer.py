"""Writing a logit cache while the teacher runs: a thread that packs, hashes and writes, and resume.

A shard appears under its name whole or not at all (temporary name, fsync, rename), then gets its manifest
line. What was killed leaves a temporary file, which the next run overwrites. An exception in the thread stops
the run at its next call; nothing waits for a thread that is gone.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.distill.cache_folder import (
    Shard,
    claim,
    damage,
    locked,
    read_manifest,
    record_shard,
)
from harness.distill.cache_format import CacheSpec, RowBlock
from harness.distill.cache_writer_shard import Arrays, ShardBuffer, allocate
from harness.errors import KitError

Order = tuple[Callable[..., None], tuple[Any, ...]]

_QUEUED_BLOCKS = 4
_LOOK_S = 0.2


class CacheWriter:
    """One worker's writer.

        with CacheWriter(out, spec, plan, fingerprint, ...) as writer:
            for shard in writer.pending(worker, workers):
                writer.begin(shard)
                ...writer.put(rows, example_rows)...
                writer.finish()

    Leaving the block without an exception waits until everything is on disk.

    Args:
        directory: The cache, made if need be.
        spec: What a row holds.
        plan: Every shard, this worker's or not.
        fingerprint: What the cache is a cache of; `spec` and the number of shards are added.
        label_counts: Label positions of every example of the split.
        keys: Keys of the examples [first, last).

    Raises:
        KitError: The folder holds another cache; names the field that differs.
    """

    def __init__(
        self,
        directory: Path,
        spec: CacheSpec,
        plan: Sequence[Shard],
        fingerprint: Mapping[str, Any],
        *,
        label_counts: npt.NDArray[np.int64],
        keys: Callable[[int, int], npt.NDArray[np.uint64]],
    ) -> None:
        claim(directory, {**fingerprint, "spec": spec.as_json(), "shards": len(plan)})
        self._directory = directory
        self._spec = spec
        self._plan = plan
        self._label_counts = label_counts
        self._keys = keys
        self._queue: queue.Queue[Order | None] = queue.Queue(_QUEUED_BLOCKS)
        self._error: BaseException | None = None
        self._claims: dict[Shard, ExitStack] = {}
        self._current: Shard | None = None
        self._buffer: ShardBuffer | None = None
        self._room: Arrays | None = None
        self._thread = threading.Thread(target=self._run, name="cache-writer", daemon=True)
        self._thread.start()

    def pending(self, worker: int = 0, workers: int = 1) -> list[Shard]:
        """This worker's shards (every `workers`-th) that are not on disk with the manifest's digest."""
        records = read_manifest(self._directory)
        return [
            shard
            for shard in self._plan[worker::workers]
            if shard.name not in records or damage(self._directory, records[shard.name], full=True)
        ]

    def begin(self, shard: Shard) -> None:
        """Start a shard.

        Raises:
            KitError: Another process is writing it.
        """
        held = ExitStack()
        try:
            # The lock lies on the temporary file, which becomes the shard: nothing is left over.
            held.enter_context(locked(self._temporary(shard), wait=False))
        except BlockingIOError:
            raise KitError(
                "another process is writing this shard",
                where=shard.name,
                fix="give every worker its own number: --worker 0 --workers 2, --worker 1 --workers 2",
            ) from None
        self._claims[shard] = held
        self._send(self._begin, shard)

    def put(self, rows: RowBlock | Callable[[], RowBlock], example_rows: Sequence[tuple[int, int]]) -> None:
        """Hand over rows of examples of the current shard; see `ShardBuffer.put`.

        Args:
            rows: The rows, or what to call for them in the writer's thread (to wait for a copy from a GPU).
            example_rows: (example index, number of rows) in the rows' order.
        """
        self._send(self._put, rows, list(example_rows))

    def finish(self) -> None:
        """End the current shard, which has all its rows; it is written while the caller goes on."""
        self._send(self._finish)

    def close(self) -> None:
        """Wait until everything handed over is on disk.

        Raises:
            BaseException: What stopped the writer.
        """
        self._stop()
        self._raise()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # The caller's error is the one to see: drop what was handed over, and let the unfinished shard go.
        self._error = self._error or error
        self._stop()

    def _stop(self) -> None:
        self._offer(None)
        self._thread.join()
        for held in self._claims.values():
            held.close()
        self._claims.clear()

    def _temporary(self, shard: Shard) -> Path:
        return self._directory / f".{shard.name}.tmp"

    def _send(self, action: Callable[..., None], *arguments: Any) -> None:
        self._raise()
        self._offer((action, arguments))
        self._raise()

    def _offer(self, item: Order | None) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(item, timeout=_LOOK_S)
                return
            except queue.Full:
                continue

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            action, arguments = item
            if self._error is not None:
                continue
            try:
                action(*arguments)
            except OSError as error:
                name = self._current.name if self._current else self._directory.name
                self._error = KitError(f"cannot be written: {error.strerror or error}", where=name)
            except BaseException as error:
                self._error = error

    def _begin(self, shard: Shard) -> None:
        self._current = shard
        if self._room is None:
            self._room = allocate(self._spec, max(shard.rows for shard in self._plan))
        counts = self._label_counts[shard.first : shard.last]
        self._buffer = ShardBuffer(self._spec, shard, counts, self._keys(shard.first, shard.last), self._room)

    def _put(self, rows: RowBlock | Callable[[], RowBlock], example_rows: list[tuple[int, int]]) -> None:
        assert self._buffer is not None
        self._buffer.put(rows() if callable(rows) else rows, example_rows)

    def _finish(self) -> None:
        shard, buffer = self._current, self._buffer
        assert shard is not None and buffer is not None
        self._buffer = None
        note = {"mode": self._spec.mode, "shard": str(shard.index)}
        record = buffer.write(self._temporary(shard), self._directory / shard.name, note)
        record_shard(self._directory, record)
        self._claims.pop(shard).close()
