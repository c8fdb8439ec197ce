"""One shard of a logit cache as a memory map, and rows of it by example."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.distill.cache_folder import ShardRecord, damage
from harness.distill.cache_format import CacheSpec, map_shard
from harness.errors import KitError


class ShardView:
    """Views on one shard; the file is mapped when first asked."""

    def __init__(self, path: Path, record: ShardRecord, spec: CacheSpec) -> None:
        self._path, self._record, self._spec = path, record, spec

    @cached_property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every array of the file, read-only."""
        return map_shard(self._path, self._spec)

    @cached_property
    def _entry_start(self) -> npt.NDArray[np.int64]:
        ends = np.cumsum(self.arrays["row_len"], dtype=np.int64)
        return np.concatenate([[0], ends])

    def check(self) -> None:
        """Raise KitError unless the file's header fits the manifest."""
        arrays, record = self.arrays, self._record
        found = (len(arrays["target"]), len(arrays["example_key"]), arrays["ids_lo"].size)
        if found != (record.rows, record.last - record.first, record.entries):
            raise KitError(f"holds {found} rows, examples and ids", where=record.name, expected=str(record))

    def spans(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First row and number of rows of each of these examples."""
        offsets, local = self.arrays["offsets"], indices - self._record.first
        starts = offsets[local]
        return starts, offsets[local + 1] - starts

    @cached_property
    def _whole(self) -> bool:
        """Every byte is as written: looked at once, when rows are first asked for.

        Raises:
            KitError: It is not.
        """
        if what := damage(self._path.parent, self._record, full=True):
            raise KitError(
                f"{self._record.name} {what}",
                where=self._path.parent.name,
                expected="the bytes that teacher_logits wrote",
                fix="run teacher_logits again: it makes damaged shards again",
            )
        return True

    def take(
        self, starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> dict[str, npt.NDArray[Any]]:
        """Copies of these runs of rows, as mode topk stores them: [rows, K], unused places logp -inf."""
        assert self._whole
        rows = expand(starts, counts)
        arrays = self.arrays
        names = [name for name in arrays if name not in ("offsets", "example_key")]
        if not self._spec.ragged:
            return {name: arrays[name].take(rows, axis=0) for name in names} | self._no_a_t(len(rows))
        flat = ("ids_lo", "ids_hi", "logp", "counts")
        result = {name: arrays[name].take(rows, axis=0) for name in names if name not in flat}
        lengths = result["row_len"].astype(np.int64)
        entries = expand(self._entry_start[rows], lengths)
        used = np.arange(self._spec.k) < lengths[:, None]
        unused: dict[str, float] = {"ids_lo": 0, "logp": -np.inf, "counts": 0}
        for name in flat:
            if name in unused and name in arrays:
                result[name] = np.full(used.shape, unused[name], dtype=arrays[name].dtype)
                result[name][used] = arrays[name].take(entries)
        if self._spec.high_bits:
            result["ids_hi"] = self._high(entries, used)
        return result | self._no_a_t(len(rows))

    def _high(self, entries: npt.NDArray[np.int64], used: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """The flat bit-planes as rows of packed planes, as mode topk stores them."""
        planes = []
        for plane in np.split(self.arrays["ids_hi"], self._spec.high_bits):
            bits = np.zeros(used.shape, dtype=np.uint8)
            bits[used] = (plane.take(entries >> 3) >> (7 - (entries & 7)).astype(np.uint8)) & 1
            planes.append(np.packbits(bits, axis=1))
        return np.concatenate(planes, axis=1)

    def _no_a_t(self, rows: int) -> dict[str, npt.NDArray[Any]]:
        return {} if self._spec.temperatures else {"a_t": np.empty((rows, 0), dtype=np.float32)}


def expand(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers start, start + 1, ... of every run, one run after the other."""
    before = np.cumsum(counts) - counts
    rows: npt.NDArray[np.int64] = np.repeat(starts - before, counts)
    rows += np.arange(len(rows))
    return rows
