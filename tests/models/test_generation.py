"""The transformers engine: answers against a plain loop without cache, batch or padding; and its counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.errors import KitError
from harness.models.generation import Prompt, TokenSampling, TokenWork, end_tokens, prompt_seed, uniforms
from harness.models.generation_transformers import TransformersGenerator, decode, pick
from tests.distill import generation_lab as lab
from tests.distill import pocket_fixtures

torch.set_num_threads(1)
CAP = 12
NUCLEUS = TokenSampling(CAP, temperature=0.7, top_p=0.9)


def plain(model: torch.nn.Module, prompt: Prompt, sampling: TokenSampling) -> list[int]:
    """One prompt, the whole sequence through the model at every step, and a nucleus by its definition."""
    ids, points = list(prompt.token_ids), uniforms(prompt.seed, sampling.max_new_tokens)
    for step in range(sampling.max_new_tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        if sampling.temperature == 0:
            token = int(logits.argmax())
        else:
            chances = torch.softmax(logits / sampling.temperature, dim=0).numpy()
            order = np.argsort(-chances, kind="stable")
            size = int(np.searchsorted(np.cumsum(chances[order]), sampling.top_p)) + 1
            kept = np.sort(order[:size])
            mass = np.cumsum(chances[kept])
            token = int(kept[np.searchsorted(mass, points[step] * mass[-1], side="right")])
        ids.append(token)
        if token == 0:
            break
    return ids[len(prompt.token_ids) :]


@pytest.mark.parametrize("sampling", [TokenSampling(CAP, temperature=0), NUCLEUS, TokenSampling(CAP)])
def test_answers_are_those_of_a_plain_loop_in_batches_of_any_size(sampling: TokenSampling) -> None:
    # In float64 the arithmetic of a batch is too fine to show: what is left is the logic.
    model = lab.tiny_model(end_bias=6.0).double()
    asked = lab.prompts(6)
    assert len({len(prompt.token_ids) for prompt in asked}) > 5
    expected = [plain(model, prompt, sampling) for prompt in asked]
    lengths = {len(answer) for answer in expected}
    assert len(lengths) > 1, "the test wants answers of unequal lengths"
    for batch_size in (1, 5, 18):
        generator = TransformersGenerator(model, pocket_fixtures.tokenizer(), batch_size=batch_size)
        answers = generator.generate(asked, sampling)
        assert [list(answer.token_ids) for answer in answers] == expected
        for answer in answers:
            ended = answer.token_ids[-1] == 0
            assert answer.finish_reason == ("stop" if ended else "length")
            assert 0 not in answer.token_ids[:-1] and "<|endoftext|>" not in answer.text
            assert answer.n_tokens == len(answer.token_ids) <= CAP


def test_an_answer_depends_on_its_own_seed_alone() -> None:
    generator = TransformersGenerator(lab.tiny_model(), pocket_fixtures.tokenizer(), batch_size=8)
    asked = lab.prompts(3)
    first = generator.generate(asked, NUCLEUS)
    again = generator.generate(list(reversed(asked)), NUCLEUS)
    assert first == list(reversed(again))
    reseeded = [Prompt(asked[0].id, asked[0].token_ids, asked[0].seed + 1), *asked[1:]]
    other = generator.generate(reseeded, NUCLEUS)
    assert other[0] != first[0] and other[1:] == first[1:]
    # The same question twice in one batch, with two seeds.
    twice = [Prompt("a", asked[0].token_ids, 1), Prompt("b", asked[0].token_ids, 2)]
    pair = generator.generate(twice, TokenSampling(CAP))
    assert pair[0].token_ids != pair[1].token_ids


def test_counts_leave_out_padding_and_what_follows_the_end() -> None:
    model = lab.tiny_model(end_bias=6.0)
    asked = lab.prompts(4)
    generator = TransformersGenerator(model, pocket_fixtures.tokenizer(), batch_size=5)
    answers = generator.generate(asked, NUCLEUS)
    work = generator.work
    assert work.generated == sum(answer.n_tokens for answer in answers) <= CAP * len(asked)
    assert any(answer.n_tokens < CAP for answer in answers)
    assert work.processed == sum(
        len(p.token_ids) + a.n_tokens - 1 for p, a in zip(asked, answers, strict=True)
    )
    alone = TransformersGenerator(model, pocket_fixtures.tokenizer(), batch_size=1)
    alone.generate(asked, NUCLEUS)
    # One by one there is no padding and no finished row to carry along.
    assert alone.work == TokenWork(work.processed, work.processed, work.generated)
    assert work.positions > work.processed


def test_rows_that_end_leave_the_batch() -> None:
    model = lab.tiny_model(end_bias=6.0)
    rows = [prompt.token_ids for prompt in lab.prompts(6)]
    points = torch.from_numpy(np.stack([uniforms(i, 40) for i in range(len(rows))]))
    answers, work = decode(model, rows, TokenSampling(40, 0.7), ends=[0], points=points)
    steps = max(len(answer) for answer in answers)
    prefill = len(rows) * max(len(row) for row in rows)
    assert work.positions - prefill < len(rows) * (steps - 1) * 0.8


def test_a_stop_rule_ends_a_row_and_no_other() -> None:
    model = lab.tiny_model()
    rows = [prompt.token_ids for prompt in lab.prompts(2)]
    free, _ = decode(model, rows, TokenSampling(8, 0), ends=[0])
    target = free[2][3]
    cut, _ = decode(model, rows, TokenSampling(8, 0), ends=[0], stop=lambda said: said[-1] == target)
    for before, after in zip(free, cut, strict=True):
        wanted = before[: before.index(target) + 1] if target in before else before
        assert after == wanted


def test_the_nucleus_and_the_shares_within_it() -> None:
    chances = torch.tensor([0.05, 0.4, 0.15, 0.3, 0.1], dtype=torch.float64)
    many = 20_000
    logits = chances.log().expand(many, -1)
    points = (torch.arange(many, dtype=torch.float64) + 0.5) / many
    for top_p, kept in ((1.0, [0, 1, 2, 3, 4]), (0.8, [1, 2, 3]), (0.39, [1]), (0.41, [1, 3]), (0.001, [1])):
        counts = (
            torch.bincount(pick(logits, TokenSampling(1, 1.0, top_p), points), minlength=5).double() / many
        )
        expected = torch.zeros(5, dtype=torch.float64)
        expected[kept] = chances[kept] / chances[kept].sum()
        assert torch.allclose(counts, expected, atol=1e-3), top_p
    cold = pick(logits, TokenSampling(1, 0.05), points)
    assert float((cold == 1).double().mean()) > 0.99


def test_a_point_next_to_one_never_picks_a_token_without_mass() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]]).expand(64, -1)
    points = torch.full((64,), 1 - 2.0**-53, dtype=torch.float64)
    assert pick(logits, TokenSampling(1), points).tolist() == [1] * 64


def test_seeds_and_random_numbers_are_fixed_for_good() -> None:
    # Recorded: a change here would silently change every synthetic set.
    assert prompt_seed(0, "a") == 4791112978206432646
    assert uniforms(5, 2).tolist() == [0.7337459554446363, 0.5905206445727093]
    assert prompt_seed(0, "a") != prompt_seed(1, "a") != prompt_seed(0, "b")
    assert np.array_equal(uniforms(5, 10)[:4], uniforms(5, 4))
    assert uniforms(5, 10_000).min() >= 0 and uniforms(5, 10_000).max() < 1
    assert abs(float(uniforms(5, 10_000).mean()) - 0.5) < 0.01


def test_refusals() -> None:
    for values in ((0, 1.0, 1.0), (1, -1.0, 1.0), (1, 1.0, 0.0), (1, 1.0, 1.1)):
        with pytest.raises(KitError, match="cannot sample"):
            TokenSampling(*values)
    with pytest.raises(KitError, match="without tokens"):
        decode(lab.tiny_model(), [()], TokenSampling(1, 0), ends=[0])
    with pytest.raises(KitError, match="end token"):
        end_tokens(type("Tokenizer", (), {"eos_token_id": None}), None)


def test_a_batch_that_does_not_fit_is_halved_and_the_answers_stay_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from harness.models import generation_transformers as module

    asked, sizes = lab.prompts(4), []
    real = module.decode

    def crowded(model, prompts, *rest, **named):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, prompts, *rest, **named)

    model, tokenizer = lab.tiny_model(end_bias=6.0), lab.encoder().tokenizer
    whole = TransformersGenerator(model, tokenizer, batch_size=2).generate(asked, NUCLEUS)
    monkeypatch.setattr(module, "decode", crowded)
    made = TransformersGenerator(model, tokenizer, rows_that_fit=lambda model, prompt, new: 9)
    assert made.generate(asked, NUCLEUS) == whole
    # Nine fitted by the sums; four and two were tried, and no batch was larger afterwards.
    assert sizes[:3] == [9, 4, 2] and set(sizes[3:]) <= {1, 2}
    monkeypatch.setattr(module, "decode", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(KitError, match="no memory for one prompt"):
        made.generate(asked, NUCLEUS)
