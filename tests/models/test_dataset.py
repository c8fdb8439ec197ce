"""The tokenised data set on disk: what goes in comes out, the digest names the content and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import KitError
from harness.models import dataset as dataset_module
from harness.models.dataset import DatasetWriter, Example, TokenDataset
from tests.distill.token_examples import make_examples, write


def test_rows_come_back_as_written_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "ROWS_PER_BLOCK", 7)
    examples = make_examples(50)
    meta = write(tmp_path, examples[:45], examples[45:], seq_len=40)
    dataset = TokenDataset.open(tmp_path, "train")
    assert len(dataset) == 45
    for index, (expected, found) in enumerate(zip(examples[:45], dataset, strict=True)):
        assert (found.id, found.task, found.answer) == (expected.id, expected.task, expected.answer)
        assert np.array_equal(found.input_ids, expected.input_ids) and found.input_ids.dtype == np.int32
        assert np.array_equal(found.label_mask, expected.label_mask) and found.label_mask.dtype == np.bool_
        assert dataset.label_count(index) == expected.label_mask.sum()
        assert dataset.lengths[index] == len(expected.input_ids)
    assert [example.id for example in TokenDataset.open(tmp_path, "validation")] == [
        f"e-{i}" for i in range(45, 50)
    ]
    assert meta["examples"] == {"train": 45, "validation": 5}
    assert meta["tokens"]["train"] == sum(len(e.input_ids) for e in examples[:45])  # type: ignore[index]
    assert meta["label_tokens"]["train"] == sum(int(e.label_mask.sum()) for e in examples[:45])  # type: ignore[index]
    assert meta["split_digests"]["train"] == dataset.digest()  # type: ignore[index]


def test_the_digest_sees_every_token_and_mask_bit_and_id(tmp_path: Path) -> None:
    base = make_examples(5)
    digests = {str(write(tmp_path / "base", base)["content_digest"])}
    assert write(tmp_path / "again", base)["content_digest"] in digests

    def changed(field: str) -> Example:
        ids, mask, name = base[2].input_ids.copy(), base[2].label_mask.copy(), base[2].id
        if field == "token":
            ids[1] += 1
        elif field == "mask":
            mask[-2 if len(mask) > 2 else -1] ^= True
        elif field == "id":
            name = "other"
        return Example(name, base[2].task, ids, mask, base[2].answer)

    for field in ("token", "mask", "id"):
        digests.add(str(write(tmp_path / field, [*base[:2], changed(field), *base[3:]])["content_digest"]))
    digests.add(str(write(tmp_path / "moved", base[:4], base[4:])["content_digest"]))
    digests.add(str(write(tmp_path / "order", base[::-1])["content_digest"]))
    assert len(digests) == 6


def test_nothing_is_visible_before_publish(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), DatasetWriter(tmp_path) as writer:
        writer.add("train", make_examples(1)[0])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KitError, match="no data set"):
        TokenDataset.open(tmp_path, "train")


def test_a_file_that_does_not_fit_its_meta_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", make_examples(3))
    write(tmp_path / "b", make_examples(4))
    (tmp_path / "b" / "train.arrow").replace(tmp_path / "a" / "train.arrow")
    with pytest.raises(KitError, match=r"4 examples in train\.arrow"):
        TokenDataset.open(tmp_path / "a", "train")
    (tmp_path / "a" / "train.arrow").write_bytes(b"not arrow")
    with pytest.raises(KitError, match="no data set"):
        TokenDataset.open(tmp_path / "a", "train")


@pytest.mark.parametrize("mask", [[False, False], [True, True], [False, True, True]])
def test_the_writer_refuses_masks_no_loss_could_use(tmp_path: Path, mask: list[bool]) -> None:
    example = Example("x", "t", np.array([1, 2], dtype=np.int32), np.array(mask))
    with DatasetWriter(tmp_path) as writer, pytest.raises(ValueError, match="x: "):
        writer.add("train", example)
