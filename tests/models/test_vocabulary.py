"""Models of one tokenizer with other numbers of padding rows fit; another tokenizer does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.errors import KitError
from harness.models.losses import TeacherRows, kd_loss
from harness.models.vocabulary import check_vocabulary


def folder(place: Path, tokens: list[str], *, bare: bool = False) -> Path:
    place.mkdir(parents=True)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if bare:
        (place / "vocab.json").write_text(json.dumps(vocabulary))
        return place
    described = {"model": {"vocab": vocabulary}, "added_tokens": [{"id": len(tokens), "content": "<end>"}]}
    (place / "tokenizer.json").write_text(json.dumps(described))
    return place


def test_a_model_fits_a_data_set_by_what_its_ids_mean(tmp_path: Path) -> None:
    folder(tmp_path / "data" / "tokenizer", ["a", "b", "c"])
    same = folder(tmp_path / "same", ["a", "b", "c"])
    for rows in (4, 8, 128):  # 4 tokens; what is beyond is padding
        check_vocabulary(same, tmp_path / "data", rows=rows)
    check_vocabulary(folder(tmp_path / "bare", ["a", "b", "c"], bare=True), tmp_path / "data", rows=4)
    check_vocabulary(tmp_path, tmp_path / "data", rows=4)  # no tokenizer beside its weights
    with pytest.raises(KitError, match="3 rows for a tokenizer whose highest id is 3"):
        check_vocabulary(same, tmp_path / "data", rows=3)
    other = folder(tmp_path / "other", ["a", "c", "b"])
    with pytest.raises(KitError, match=r"id 1 is 'c'(?s:.*)'b', as in data/tokenizer"):
        check_vocabulary(other, tmp_path / "data", rows=4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_padding_rows_that_the_student_lacks_join_the_tail(temperature: float) -> None:
    """The loss equals that of a teacher whose rows never held them."""
    generator = torch.Generator().manual_seed(0)
    wide, narrow, k = 40, 32, 12
    logp = torch.log_softmax(torch.randn(6, wide, generator=generator, dtype=torch.float64), dim=1)
    top, ids = logp.topk(k, dim=1)
    assert bool((ids >= narrow).any())
    a_t = {2.0: torch.logsumexp(logp / 2, dim=1)}
    rows = TeacherRows(ids, top, torch.logsumexp(logp.scatter(1, ids, -torch.inf), dim=1), a_t)
    hidden = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(narrow, 5, generator=generator, dtype=torch.float64)
    labels = torch.arange(6)
    got = kd_loss(hidden, weight, labels, rows.within(narrow), alpha=0.0, temperature=temperature).total
    kept = torch.where(ids < narrow, (top / temperature), -torch.inf)
    p = (kept - torch.logsumexp(logp / temperature, dim=1, keepdim=True)).exp()
    log_q = torch.log_softmax(hidden @ weight.t() / temperature, dim=1)
    inside = torch.zeros_like(log_q).scatter_add_(1, ids.clamp(max=narrow - 1), (p > 0).double()) > 0
    q = log_q.gather(1, ids.clamp(max=narrow - 1))
    rest_p, rest_q = 1 - p.sum(1), (log_q.exp() * ~inside).sum(1)
    want = (torch.special.xlogy(p, p) - torch.where(p > 0, p * q, 0.0)).sum(1)
    want = want + rest_p * (rest_p.log() - rest_q.log())
    torch.testing.assert_close(got, temperature**2 * want.sum())
    assert rows.within(wide) is rows
