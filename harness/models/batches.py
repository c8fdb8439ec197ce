"""Micro-batches from a tokenised data set: which examples share a row, in which order, as tensors.

The plan of an epoch is a function of (seed, epoch) and of the examples' lengths, nothing else. So training
that resumes at batch k of epoch e sees what it would have seen without the interruption; no state is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from harness.errors import KitError
from harness.models.dataset import TokenDataset

IGNORED = -100
Mode = Literal["packed", "bucketed"]
EpochPlan = list[list[list[int]]]


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B rows and S positions.

    Attributes:
        input_ids: int64 [B, S]; padding holds the pad id.
        labels: int64 [B, S], aligned with input_ids (the shift happens in the loss); -100 where no label.
        position_ids: int64 [B, S], starting at 0 in every segment.
        segment_ids: int64 [B, S]: 1, 2, ... for the examples of a row, 0 for padding.
        example_rows: (example index, label count) in the order in which the labels appear, row by row.
        positions: B x S.
        real_tokens: Positions that are not padding.
        label_tokens: Labels.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    segment_ids: torch.Tensor
    example_rows: list[tuple[int, int]]
    positions: int
    real_tokens: int
    label_tokens: int

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        if torch.device(device).type == "cpu":
            return self
        names = ("input_ids", "labels", "position_ids", "segment_ids")
        moved = {name: getattr(self, name).pin_memory().to(device, non_blocking=True) for name in names}
        return replace(self, **moved)

    def attention_mask(self) -> torch.Tensor:
        """Who may see whom, bool [B, 1, S, S]: causal, within a segment: a model's `attention_mask`.

        Padding sees itself only, so that no row of the softmax is empty.
        """
        segments = self.segment_ids
        size = segments.shape[1]
        same = segments[:, :, None] == segments[:, None, :]
        real = segments[:, :, None] > 0
        causal = torch.ones(size, size, dtype=torch.bool, device=segments.device).tril()
        itself = torch.eye(size, dtype=torch.bool, device=segments.device)
        return ((same & real & causal) | itself)[:, None]


class Batcher:
    """Epochs of micro-batches over a split, every example exactly once in each.

    Args:
        dataset: The split.
        seq_len: Positions of a packed row; no example may be longer.
        micro_batch: Rows of a batch; the last of a step (and none other) may have fewer.
        seed: Decides every epoch's order together with the epoch's number.
        mode: "packed": several examples a row, separated by segments, all rows seq_len wide. "bucketed": one
            example a row, rows of like length together, as wide as the longest of the batch.
        window: Examples among which partners of like or fitting length are sought; larger wastes fewer
            positions and shuffles no less, since the batches are shuffled over the whole epoch.
        pad_id: Token in the padding; never a label, never seen by a real token.
        indices: Use only these examples.
        effective_batch: Examples of an optimizer step, whatever `mode` and `micro_batch`; the last of an
            epoch may have fewer. None: each batch is a step, and "packed" fills rows across the whole window.

    Raises:
        KitError: An example does not fit seq_len, or there is none.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        *,
        seq_len: int,
        micro_batch: int,
        seed: int,
        mode: Mode = "packed",
        window: int = 2048,
        pad_id: int = 0,
        indices: Sequence[int] | None = None,
        effective_batch: int | None = None,
    ) -> None:
        if mode not in ("packed", "bucketed"):
            raise KitError(f"batch mode {mode!r}", expected="packed or bucketed")
        self._dataset = dataset
        self._indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, dtype=np.int64)
        where = f"{dataset.directory.name}/{dataset.split}"
        if len(self._indices) == 0:
            raise KitError("holds no example to make a batch of", where=where)
        longest = int(dataset.lengths[self._indices].max())
        if longest > seq_len:
            raise KitError(
                f"an example of {longest} tokens does not fit seq_len {seq_len}",
                where=where,
                fix="preprocess with this seq_len; cutting here would break the alignment with a logit cache",
            )
        self.seq_len = seq_len
        self.micro_batch = micro_batch
        self.seed = seed
        self.mode = mode
        self._effective = effective_batch
        unit = effective_batch or micro_batch
        self._window = max(1, window // unit) * unit
        self._pad_id = pad_id
        self._plans: dict[int, EpochPlan] = {}

    def plan(self, epoch: int) -> EpochPlan:
        """Batches of an epoch, each a list of rows, each a list of example indices."""
        if epoch not in self._plans:
            # Keep two: the one in use and its successor at an epoch's end.
            self._plans = {number: plan for number, plan in self._plans.items() if number == epoch - 1}
            self._plans[epoch] = self._make_plan(epoch)
        return self._plans[epoch]

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of batches of an epoch; may differ a little between epochs in packed mode."""
        return len(self.plan(epoch))

    def steps(self, epoch: int) -> list[range]:
        """The batches of each optimizer step of an epoch."""
        batches = self.plan(epoch)
        if self._effective is None:
            return [range(k, k + 1) for k in range(len(batches))]
        found, first, examples = [], 0, 0
        for k, rows in enumerate(batches, start=1):
            examples += sum(map(len, rows))
            if examples >= self._effective or k == len(batches):
                found.append(range(first, k))
                first, examples = k, 0
        return found

    def batch(self, epoch: int, k: int) -> Batch:
        """Batch k of an epoch."""
        rows = self.plan(epoch)[k]
        return collate(
            self._dataset, rows, width=self.seq_len if self.mode == "packed" else None, pad_id=self._pad_id
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches start, start + 1, ... of an epoch."""
        return (self.batch(epoch, k) for k in range(start, self.batches_per_epoch(epoch)))

    def _make_plan(self, epoch: int) -> EpochPlan:
        random = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
        order = self._indices[_shuffled(random, len(self._indices))]
        lengths = self._dataset.lengths
        if self._effective is not None:
            return self._steps_of_examples(order, random, self._effective)
        rows: list[list[int]] = []
        for start in range(0, len(order), self._window):
            part = order[start : start + self._window]
            if self.mode == "packed":
                rows += [part[row].tolist() for row in pack(lengths[part], self.seq_len)]
            else:
                rows += [[index] for index in part[np.argsort(-lengths[part], kind="stable")].tolist()]
        if self.mode == "packed":
            rows = [rows[i] for i in _shuffled(random, len(rows))]
        batches = [rows[i : i + self.micro_batch] for i in range(0, len(rows), self.micro_batch)]
        if self.mode == "bucketed":
            # The short batch stays last: optimizer steps of whole batches come out equal in every epoch.
            whole = len(rows) // self.micro_batch
            batches = [batches[i] for i in _shuffled(random, whole)] + batches[whole:]
        return batches

    def _steps_of_examples(
        self, order: npt.NDArray[np.int64], random: np.random.PCG64, size: int
    ) -> EpochPlan:
        """Groups of `size` examples, each split into batches by itself: how many rows share a batch or
        examples a row changes no group, and so no gradient.
        """
        lengths = self._dataset.lengths
        if self.mode == "bucketed":
            windows = [order[start : start + self._window] for start in range(0, len(order), self._window)]
            order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in windows])
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        if self.mode == "bucketed":
            whole = len(order) // size
            groups = [groups[i] for i in _shuffled(random, whole)] + groups[whole:]
        batches = []
        for group in groups:
            if self.mode == "packed":
                rows = [group[row].tolist() for row in pack(lengths[group], self.seq_len)]
            else:
                rows = [[index] for index in group.tolist()]
            batches += [rows[i : i + self.micro_batch] for i in range(0, len(rows), self.micro_batch)]
        return batches


def pack(lengths: npt.NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Items into bins by first-fit decreasing: at most 11/9 of the best number of bins, plus one.

    Args:
        lengths: Size of every item, each at most `capacity`.
        capacity: Size of a bin.

    Returns:
        The items' positions in `lengths`, bin by bin.
    """
    bins: list[list[int]] = []
    room = np.zeros(len(lengths), dtype=np.int64)
    first = 0
    for item in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[item])
        # Bins before `first` are full to the last position.
        fits = room[first : len(bins)] >= size
        found = int(fits.argmax()) if fits.size else 0
        if fits.size and fits[found]:
            place = first + found
            bins[place].append(item)
            room[place] -= size
        else:
            place = len(bins)
            bins.append([item])
            room[place] = capacity - size
        while first < len(bins) and room[first] == 0:
            first += 1
    return bins


def collate(
    dataset: TokenDataset, rows: Sequence[Sequence[int]], *, width: int | None = None, pad_id: int = 0
) -> Batch:
    """Build a batch from the examples of its rows.

    Args:
        dataset: Where the examples are.
        rows: Example indices of each row, in order.
        width: Positions of a row; as many as the longest row needs by default.
        pad_id: Token in the padding.
    """
    lengths = dataset.lengths
    if width is None:
        width = max(int(sum(lengths[index] for index in row)) for row in rows)
    shape = (len(rows), width)
    tokens = np.full(shape, pad_id, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    places = np.empty(shape, dtype=np.int64)
    segments = np.zeros(shape, dtype=np.int64)
    counting = np.arange(width, dtype=np.int64)
    example_rows: list[tuple[int, int]] = []
    real = 0
    for number, row in enumerate(rows):
        start = 0
        for segment, index in enumerate(row, start=1):
            ids, mask = dataset.arrays(index)
            end = start + len(ids)
            tokens[number, start:end] = ids
            labels[number, start:end][mask] = ids[mask]
            places[number, start:end] = counting[: len(ids)]
            segments[number, start:end] = segment
            example_rows.append((int(index), int(np.count_nonzero(mask))))
            start = end
        places[number, start:] = counting[: width - start]
        real += start
    return Batch(
        input_ids=torch.from_numpy(tokens),
        labels=torch.from_numpy(labels),
        position_ids=torch.from_numpy(places),
        segment_ids=torch.from_numpy(segments),
        example_rows=example_rows,
        positions=len(rows) * width,
        real_tokens=real,
        label_tokens=sum(count for _, count in example_rows),
    )


def _shuffled(random: np.random.PCG64, count: int) -> npt.NDArray[np.int64]:
    """A permutation from the generator's raw stream, which numpy keeps stable across versions."""
    return np.argsort(random.random_raw(count), kind="stable")
