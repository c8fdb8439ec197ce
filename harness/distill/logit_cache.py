"""Reading a logit cache into training batches.

    reader = CacheReader.open(out, dataset_meta=dataset.meta, split="train")
    rows = reader.rows_of(batch)            # the teacher's rows in the order of the batch's labels

Shards are memory-mapped: nothing is loaded before it is asked for, and several readers share the pages.
Every read compares the stored label tokens with the caller's, so that a cache of other data, or a shift by
one, is an error and not a bad student.

    python -m harness.distill.logit_cache DIR     # checks every byte of a cache against its manifest
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from harness.distill.cache_folder import (
    ShardRecord,
    check_fingerprint,
    damage,
    read_fingerprint,
    read_manifest,
)
from harness.distill.cache_format import FORMAT, LITTLE_MASS, CacheSpec
from harness.distill.cache_writer import CacheWriter
from harness.distill.logit_cache_shard import ShardView, expand
from harness.distill.reporting import report_event
from harness.errors import KitError

__all__ = ["CacheReader", "CacheRows", "CacheWriter", "check_temperature"]

MORE_MASS = "teacher_logits with a larger k (4.1 bytes an id), or a lower temperature"

Indices = Sequence[int] | npt.NDArray[np.integer[Any]]


class LabelledBatch(Protocol):
    """What `rows_of` needs of a batch; see `harness.models.batches.Batch`."""

    @property
    def labels(self) -> torch.Tensor:
        """int64 [B, S], negative where there is no label."""

    @property
    def example_rows(self) -> list[tuple[int, int]]:
        """(example index, label count) in label order."""


@dataclass(frozen=True)
class CacheRows:
    """The teacher's rows for P label positions, CPU tensors.

    Attributes:
        ids: int32 [P, K], most probable first, distinct; unused places hold 0 with logp -inf.
        logp: float32 [P, K]: log p_1 of the ids. In mode sample see `CacheReader.rows`.
        log_tail: float32 [P], log of the mass outside the ids at T = 1; -inf for none.
        a_t: Temperature to A_T, float32 [P] each.
        target: int64 [P], the label tokens.
        target_logp: float32 [P], log p_1 of the label tokens.
    """

    ids: torch.Tensor
    logp: torch.Tensor
    log_tail: torch.Tensor
    a_t: dict[float, torch.Tensor]
    target: torch.Tensor
    target_logp: torch.Tensor


def check_temperature(temperature: float, tail: str, stored: Sequence[float]) -> None:
    """Refuse a use of truncated rows that would train on the truncation.

    A hundred ids of 100,352 hold about 1 % of the mass at T = 4: what a loss without the tail then sees is
    not the teacher.

    Args:
        temperature: T of the loss.
        tail: "bucket" counts the mass outside the ids; "renormalised" and "partial" ignore it.
        stored: Temperatures other than 1 whose normaliser is in the cache.

    Raises:
        KitError: T > 2 without the tail, or a tail without the normaliser of this T.
    """
    if tail != "bucket" and temperature > 2:
        raise KitError(
            f"T={temperature:g} with tail {tail!r}: the cached ids hold next to none of the mass there",
            expected="T of at most 2, or tail 'bucket'",
            fix="--tail bucket",
        )
    if tail != "renormalised" and temperature != 1 and temperature not in stored:
        known = ", ".join(f"{value:g}" for value in (1.0, *stored))
        raise KitError(
            f"the cache has no normaliser for T={temperature:g}",
            expected=f"one of T = {known}",
            fix=f"run teacher_logits with {temperature:g} among its temperatures",
        )


class CacheReader:
    """A finished cache.

    Attributes:
        directory: Its folder.
        fingerprint: What it is a cache of.
        spec: What its rows hold.
        records: Manifest lines in the order of the examples.
    """

    def __init__(
        self, directory: Path, fingerprint: dict[str, Any], spec: CacheSpec, records: list[ShardRecord]
    ) -> None:
        self.directory = directory
        self.fingerprint = fingerprint
        self.spec = spec
        self.records = records
        self._first = np.array([record.first for record in records] or [0], dtype=np.int64)
        self._shards = [ShardView(directory / record.name, record, spec) for record in records]

    @classmethod
    def open(
        cls,
        directory: Path | str,
        *,
        dataset_meta: Mapping[str, Any] | None = None,
        split: str | None = None,
        expect: Mapping[str, Any] | None = None,
        verify: bool = False,
    ) -> CacheReader:
        """Open a cache, check that it is whole and that it belongs to a data set.

        Args:
            directory: The cache.
            dataset_meta: `meta.json` of the data set it is read for: content digest, tokenizer and template
                must be those the teacher saw.
            split: Split it is read for.
            expect: More fields of the fingerprint to insist on, such as {"teacher": {"digest": ...}}.
            verify: Check every byte now; otherwise sizes and headers, and a shard's bytes at its first use.

        Raises:
            KitError: Not whole, damaged (names the shard), or of something else (names the field).
        """
        directory = Path(directory)
        fingerprint = read_fingerprint(directory)
        wanted: dict[str, Any] = {"format": FORMAT}
        if dataset_meta is not None:
            names = ("content_digest", "tokenizer_sha256", "template_sha256")
            wanted["data"] = {name: dataset_meta[name] for name in names if name in dataset_meta}
        if split is not None:
            wanted["data"] = {**wanted.get("data", {}), "split": split}
        fix = "run teacher_logits for this data set and teacher"
        for part in (wanted, expect or {}):
            check_fingerprint(fingerprint, part, where=directory.name, fix=fix)
        records = sorted(read_manifest(directory).values(), key=lambda record: record.name)
        if len(records) != fingerprint["shards"]:
            raise KitError(
                f"holds {len(records)} of {fingerprint['shards']} shards",
                where=directory.name,
                fix="run teacher_logits again with the same settings: it goes on where it stopped",
            )
        reader = cls(directory, fingerprint, CacheSpec.from_json(fingerprint["spec"]), records)
        reader.verify(full=verify)
        for shard in reader._shards:
            shard.check()
        return reader

    def __len__(self) -> int:
        """Number of examples."""
        return self.records[-1].last if self.records else 0

    @property
    def positions(self) -> int:
        """Number of label positions."""
        return sum(record.rows for record in self.records)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(record.bytes for record in self.records)

    @cached_property
    def kept_mass(self) -> dict[float, float]:
        """Temperature to the teacher's mass on the stored ids, mean over the positions."""
        names = self.records[0].kept_mass if self.records else {}
        return {
            float(name): sum(record.kept_mass[name] * record.rows for record in self.records) / self.positions
            for name in names
        }

    def check_temperature(self, temperature: float, tail: str) -> None:
        """Refuse a temperature and tail mode that this cache cannot serve; see the function of this name."""
        check_temperature(temperature, tail, self.spec.temperatures)

    def check_kept_mass(self, temperature: float, least: float = 0.0) -> float | None:
        """Say how much of the teacher's mass the stored ids hold at a temperature; refuse too little.

        Args:
            temperature: T of the loss.
            least: Smallest share that is accepted.

        Returns:
            The share; None where nobody knows it, and for random draws, which weigh every id without bias.

        Raises:
            KitError: The share is smaller.
        """
        share = self.kept_mass.get(temperature)
        if share is None or self.spec.mode == "sample":
            return None
        report_event("kept_mass", temperature=temperature, share=share, low=share < LITTLE_MASS)
        if share < least:
            raise KitError(
                f"the stored ids hold {share:.1%} of the teacher's mass at T={temperature:g}",
                where=self.directory.name,
                expected=f"at least {least:.1%} (min_kept_mass)",
                fix=MORE_MASS,
            )
        if share < LITTLE_MASS:
            print(
                f"logit cache: LITTLE MASS: the stored ids hold {share:.1%} of the teacher's mass at "
                f"T={temperature:g}; the loss sees the rest as one outcome. To change it: {MORE_MASS}",
                file=sys.stderr,
            )
        return share

    def verify(self, *, full: bool = True) -> None:
        """Compare every shard with the manifest.

        Raises:
            KitError: Names every shard that is missing, cut short or (with `full`) changed in any byte.
        """
        found = [(record.name, damage(self.directory, record, full=full)) for record in self.records]
        if damaged := [f"{name} {what}" for name, what in found if what]:
            raise KitError(
                "; ".join(damaged),
                where=self.directory.name,
                expected="shards as the manifest describes them",
                fix="run teacher_logits again: it makes damaged shards again",
            )

    def rows_of(self, batch: LabelledBatch, *, temperature: float = 1.0) -> CacheRows:
        """Rows for the labels of a batch, in their order; see `rows`."""
        labels = batch.labels.detach().cpu().numpy().reshape(-1)
        indices = np.array([index for index, _ in batch.example_rows], dtype=np.int64)
        return self.rows(indices, labels[labels >= 0], temperature=temperature)

    def rows(
        self,
        example_indices: Indices,
        labels: torch.Tensor | npt.NDArray[Any] | Sequence[int] | None = None,
        *,
        temperature: float = 1.0,
    ) -> CacheRows:
        """Rows of whole examples, one after the other in the order given.

        Args:
            example_indices: Examples; any order, repeats allowed.
            labels: Label tokens of these examples in the same order; compared with the stored ones.
            temperature: T of the loss. Only mode sample looks at it: there `logp` and `a_t[T]` are made such
                that exp(logp/T - a_t[T]) are the weights (count / draws) * p_T / p_1, an unbiased estimate
                of p_T, and `log_tail` is -inf. The rows then serve this T alone.

        Raises:
            IndexError: No such example.
            KitError: A label differs from the stored one; names example and label.
        """
        indices = np.asarray(example_indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"examples {indices.min()}..{indices.max()} of {len(self)}")
        raw = self._gather(indices)
        target = raw["target"].astype(np.int64)
        if labels is not None:
            given = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
            self._check_labels(indices, target, given.reshape(-1))
        ids, logp = self._ids(raw), torch.from_numpy(raw["logp"]).float()
        self._check_distinct(ids.numpy(), logp.numpy(), indices)
        rows = CacheRows(
            ids=ids,
            logp=logp,
            log_tail=torch.from_numpy(raw["log_tail"]),
            a_t={
                value: torch.from_numpy(np.ascontiguousarray(raw["a_t"][:, column]))
                for column, value in enumerate(self.spec.temperatures)
            },
            target=torch.from_numpy(target),
            target_logp=torch.from_numpy(raw["target_logp"]).float(),
        )
        return rows if self.spec.mode != "sample" else self._estimate(rows, raw["counts"], temperature)

    def _gather(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """Stored arrays of the examples, rows padded to one width."""
        shard_of = np.searchsorted(self._first, indices, side="right") - 1
        numbers = np.unique(shard_of)
        if len(numbers) <= 1:
            shard = self._shards[int(numbers[0])] if len(numbers) else self._shards[0]
            return shard.take(*shard.spans(indices))
        spans = [self._shards[number].spans(indices[shard_of == number]) for number in numbers]
        counts = np.empty(len(indices), dtype=np.int64)
        for number, (_, lengths) in zip(numbers, spans, strict=True):
            counts[shard_of == number] = lengths
        starts = np.cumsum(counts) - counts
        result: dict[str, npt.NDArray[Any]] = {}
        for number, (first, lengths) in zip(numbers, spans, strict=True):
            part = self._shards[number].take(first, lengths)
            place = expand(starts[shard_of == number], lengths)
            for name, values in part.items():
                if name not in result:
                    result[name] = np.empty((int(counts.sum()), *values.shape[1:]), dtype=values.dtype)
                result[name][place] = values
        return result

    def _ids(self, raw: Mapping[str, npt.NDArray[Any]]) -> torch.Tensor:
        low, planes = raw["ids_lo"], self.spec.high_bits
        if not planes:
            return torch.from_numpy(low.astype(np.int32))
        # Low and high half of a little-endian int32 side by side: no shifts of wide integers.
        halves = np.empty((*low.shape, 2), dtype="<u2")
        halves[..., 0] = low
        halves[..., 1] = np.unpackbits(raw["ids_hi"][:, : -(-self.spec.k // 8)], axis=1, count=self.spec.k)
        for plane, bits in enumerate(np.split(raw["ids_hi"], planes, axis=1)[1:], start=1):
            halves[..., 1] |= np.unpackbits(bits, axis=1, count=self.spec.k).astype(np.uint16) << plane
        return torch.from_numpy(halves.view("<i4")[..., 0])

    def _check_distinct(
        self, ids: npt.NDArray[np.int32], logp: npt.NDArray[np.float32], indices: npt.NDArray[np.int64]
    ) -> None:
        """An id twice in a row would count its mass twice."""
        unused = -1 - np.arange(ids.shape[1], dtype=np.int32)
        ordered = np.sort(np.where(logp > -np.inf, ids, unused), axis=1)
        twice = (np.diff(ordered, axis=1) == 0).any(axis=1)
        if twice.any():
            at = int(twice.argmax())
            ends = np.cumsum([self.label_count(index) for index in indices.tolist()])
            example = indices[int(np.searchsorted(ends, at, side="right"))]
            raise KitError(
                f"an id twice in a row of example {example}",
                where=self.directory.name,
                expected="distinct ids in each row",
                fix="make the cache again with teacher_logits",
            )

    def _check_labels(
        self, indices: npt.NDArray[np.int64], target: npt.NDArray[np.int64], labels: npt.NDArray[Any]
    ) -> None:
        if len(labels) == len(target) and bool((labels == target).all()):
            return
        if len(labels) != len(target):
            what = f"{len(labels)} labels, the cache has {len(target)} for these examples"
        else:
            at = int((labels != target).argmax())
            ends = np.cumsum([self.label_count(index) for index in indices.tolist()])
            number = int(np.searchsorted(ends, at, side="right"))
            place = at - (int(ends[number - 1]) if number else 0)
            what = f"label {place} of example {indices[number]} is {labels[at]}, the cache has {target[at]}"
        raise KitError(
            what,
            where=self.directory.name,
            expected="the labels the teacher was run on",
            fix="run teacher_logits for this data set; the batch and the cache do not belong together",
        )

    def label_count(self, index: int) -> int:
        """Label positions of an example."""
        shard = self._shards[int(np.searchsorted(self._first, index, side="right")) - 1]
        return int(shard.spans(np.array([index]))[1][0])

    def _estimate(self, rows: CacheRows, counts: npt.NDArray[Any], temperature: float) -> CacheRows:
        weight = torch.from_numpy(counts.astype(np.float32)).log_() - float(np.log(self.spec.k))
        a_t: dict[float, torch.Tensor] = {}
        if temperature != 1.0:
            self.check_temperature(temperature, "bucket")
            # T * log(weight): the loss divides by T again.
            shifted = weight + rows.logp * (1 / temperature - 1) - rows.a_t[temperature][:, None]
            weight = torch.where(weight > -torch.inf, shifted * temperature, weight)
            a_t[temperature] = torch.zeros_like(rows.log_tail)
        tail = torch.full_like(rows.log_tail, -torch.inf)
        return CacheRows(rows.ids, weight, tail, a_t, rows.target, rows.target_logp)


def main(argv: Sequence[str] | None = None) -> int:
    """Check every byte of the caches named on the command line; 1 when one is damaged."""
    directories = list(sys.argv[1:] if argv is None else argv)
    if not directories:
        print("usage: python -m harness.distill.logit_cache DIR ...", file=sys.stderr)
        return 2
    for directory in directories:
        try:
            reader = CacheReader.open(directory, verify=True)
        except KitError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        per_position = reader.bytes / max(1, reader.positions)
        print(f"{directory}: {len(reader.records)} shards, {reader.positions:,} positions, ", end="")
        print(f"{per_position:.1f} bytes a position, every byte as written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
