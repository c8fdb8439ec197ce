"""Batches: every example once an epoch, exact counts, no contamination, a plan that is a pure function."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import KitError
from harness.models.batches import IGNORED, Batch, Batcher, Mode, collate, pack
from harness.models.dataset import TokenDataset
from tests.distill.token_examples import make_examples, write

MODES: list[Mode] = ["packed", "bucketed"]


@pytest.fixture
def dataset(tmp_path: Path) -> TokenDataset:
    write(tmp_path, make_examples(137))
    return TokenDataset.open(tmp_path, "train")


def batches_of(batcher: Batcher, epoch: int) -> Iterator[Batch]:
    return batcher.epoch(epoch)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60),
    data_seed=st.integers(0, 5),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 9),
    mode=st.sampled_from(MODES),
    micro_batch=st.integers(1, 7),
    window=st.integers(1, 80),
    spare=st.integers(0, 50),
)
def test_every_example_once_with_its_own_tokens_labels_and_counts(
    count: int, data_seed: int, seed: int, epoch: int, mode: Mode, micro_batch: int, window: int, spare: int
) -> None:
    examples = make_examples(count, data_seed)
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory), examples)
        dataset = TokenDataset.open(directory, "train")
        batcher = Batcher(
            dataset,
            seq_len=40 + spare,
            micro_batch=micro_batch,
            seed=seed,
            mode=mode,
            window=window,
            pad_id=7,
        )
        seen: list[int] = []
        for k, batch in enumerate(batcher.epoch(epoch)):
            last = k == batcher.batches_per_epoch(epoch) - 1
            rows, width = batch.input_ids.shape
            assert rows == micro_batch or (last and rows <= micro_batch)
            assert width == 40 + spare if mode == "packed" else width <= 40
            in_order = iter(batch.example_rows)
            flat_labels: list[int] = []
            for row in range(rows):
                segments = batch.segment_ids[row].numpy()
                used = int((segments > 0).sum())
                assert (segments[used:] == 0).all() and (batch.input_ids[row, used:] == 7).all()
                assert (batch.labels[row, used:] == IGNORED).all()
                for segment in range(1, segments.max() + 1):
                    index, label_count = next(in_order)
                    expected = examples[index]
                    where = segments == segment
                    assert batch.input_ids[row].numpy()[where].tolist() == expected.input_ids.tolist()
                    labels = np.where(expected.label_mask, expected.input_ids, IGNORED).tolist()
                    assert batch.labels[row].numpy()[where].tolist() == labels
                    assert batch.position_ids[row].numpy()[where].tolist() == list(range(len(labels)))
                    assert label_count == expected.label_mask.sum() == dataset.label_count(index)
                    flat_labels += expected.input_ids[expected.label_mask].tolist()
                    seen.append(index)
                # A segment's first token is no label: nothing is predicted across a border.
                starts = np.flatnonzero(np.diff(segments, prepend=0) > 0)
                assert (batch.labels[row].numpy()[starts] == IGNORED).all()
            assert next(in_order, None) is None
            assert batch.labels[batch.labels != IGNORED].tolist() == flat_labels
            assert batch.label_tokens == len(flat_labels)
            assert batch.real_tokens == int((batch.segment_ids > 0).sum())
            assert batch.positions == rows * width
        assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("mode", MODES)
def test_the_plan_is_a_function_of_seed_and_epoch(dataset: TokenDataset, mode: Mode) -> None:
    def batcher(seed: int = 3) -> Batcher:
        return Batcher(dataset, seq_len=64, micro_batch=4, seed=seed, mode=mode, window=64)

    whole = [batch.input_ids for batch in batcher().epoch(1)]
    resumed = [batch.input_ids for batch in batcher().epoch(1, start=5)]
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], resumed, strict=True))
    assert batcher().plan(1) != batcher().plan(2)
    assert batcher(4).plan(1) != batcher().plan(1)
    used = batcher()
    first = used.plan(0)
    used.plan(1), used.plan(2)
    assert used.plan(0) == first


def test_a_subset_is_batched_alone(dataset: TokenDataset) -> None:
    chosen = [5, 9, 100]
    batcher = Batcher(dataset, seq_len=64, micro_batch=2, seed=0, indices=chosen)
    assert sorted(i for batch in batcher.epoch(0) for i, _ in batch.example_rows) == chosen


def test_what_cannot_be_batched_is_refused(dataset: TokenDataset, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="does not fit seq_len 16"):
        Batcher(dataset, seq_len=16, micro_batch=1, seed=0)
    write(tmp_path / "none", make_examples(3))
    with pytest.raises(KitError, match="no example"):
        Batcher(TokenDataset.open(tmp_path / "none", "validation"), seq_len=64, micro_batch=1, seed=0)
    with pytest.raises(KitError, match="batch mode 'padded'"):
        Batcher(dataset, seq_len=64, micro_batch=1, seed=0, mode="padded")  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=80))
def test_packing_is_first_fit_decreasing(lengths: list[int]) -> None:
    array = np.array(lengths, dtype=np.int64)
    bins = pack(array, 30)
    # The textbook algorithm, bin by bin.
    expected: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for candidate in expected:
            if sum(lengths[i] for i in candidate) + lengths[item] <= 30:
                candidate.append(item)
                break
        else:
            expected.append([item])
    assert bins == expected


def test_packing_wastes_little_and_bucketing_pads_little(tmp_path: Path) -> None:
    write(tmp_path, make_examples(3000, longest=100))
    dataset = TokenDataset.open(tmp_path, "train")
    for mode, bar in (("packed", 0.97), ("bucketed", 0.95)):
        batcher = Batcher(dataset, seq_len=128, micro_batch=8, seed=0, mode=mode)  # type: ignore[arg-type]
        positions = real = 0
        for batch in batcher.epoch(0):
            positions, real = positions + batch.positions, real + batch.real_tokens
        assert real / positions > bar, mode


def test_a_packed_row_computes_what_its_examples_compute_alone(dataset: TokenDataset) -> None:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Olmo2ForCausalLM(
        Olmo2Config(
            vocab_size=1000,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=0,
            eos_token_id=0,
        )
    ).eval()
    rows = [[3, 4, 5], [6, 7]]
    packed = collate(dataset, rows, width=160)
    with torch.no_grad():
        together = model(
            input_ids=packed.input_ids,
            attention_mask=packed.attention_mask(),
            position_ids=packed.position_ids,
            use_cache=False,
        ).logits
        for number, row in enumerate(rows):
            for segment, index in enumerate(row, start=1):
                alone = collate(dataset, [[index]])
                logits = model(input_ids=alone.input_ids, use_cache=False).logits[0]
                found = together[number][packed.segment_ids[number] == segment]
                torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(together).all()
