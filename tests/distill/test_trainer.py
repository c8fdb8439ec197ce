"""The loop: what a step's gradient is, that the regimes differ in the loss only, and where it stops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from training_lab import SEQ_LEN, DenseTeacher, batcher, make_dataset, make_model, make_trainer

from harness.distill import trainer as trainer_module
from harness.distill.adafactor import Adafactor, clip_gradients
from harness.distill.early_stop import EarlyStop
from harness.distill.schedule import cosine_with_warmup
from harness.errors import KitError
from harness.models.batches import Batcher, collate
from harness.models.dataset import TokenDataset
from harness.models.forward import label_states, use_attention
from harness.models.losses import sft_loss
from harness.models.support import prepare


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "set")


def metrics(out: Path, kind: str | None = None) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("tokens_per_s")
    return [line for line in lines if kind is None or kind in line]


def weights(trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer._model.parameters()]


EXAMPLES = 8
"""Of an optimizer step."""


def step_gradients(dataset, micro_batch, mode="packed"):
    """Gradients of the first optimizer step, as the optimizer sees them."""
    model, seen = make_model(), {}

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            seen.update({name: p.grad.clone() for name, p in model.named_parameters()})

    trainer = make_trainer(
        dataset,
        dataset.parent / f"g-{micro_batch}-{mode}",
        model=model,
        micro_batch=micro_batch,
        effective_batch=EXAMPLES,
        max_steps=1,
        validation=False,
        clip_norm=0.0,
        mode=mode,
        optimizer=Recorder(model.parameters(), lr=0.0),
    )
    result = trainer.run()
    return seen, result


def examples_of(batches, epoch=0):
    """The examples of each step of an epoch."""
    plan = batches.plan(epoch)
    return [[i for k in numbers for row in plan[k] for i in row] for numbers in batches.steps(epoch)]


@pytest.mark.parametrize("mode", ["packed", "bucketed"])
def test_the_micro_batch_decides_memory_alone(dataset, mode):
    """One row at a time, three, or all at once: the same examples, one gradient, in every mode."""
    one, first = step_gradients(dataset, 1, mode)
    for micro_batch in (3, 8):
        more, second = step_gradients(dataset, micro_batch, mode)
        assert first.counters.label_tokens == second.counters.label_tokens
        assert first.total_steps == second.total_steps
        assert first.final_loss == pytest.approx(second.final_loss, rel=1e-6)
        for name in one:
            torch.testing.assert_close(one[name], more[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["packed", "bucketed"])
def test_a_step_has_so_many_examples_however_they_are_packed(dataset, mode):
    split = TokenDataset.open(dataset, "train")
    steps = {
        size: examples_of(batcher(dataset, micro_batch=size, mode=mode, effective_batch=EXAMPLES))
        for size in (1, 2, 5)
    }
    assert {len(step) for step in steps[1][:-1]} == {EXAMPLES} and 0 < len(steps[1][-1]) <= EXAMPLES
    assert sorted(i for step in steps[1] for i in step) == list(range(len(split)))
    assert steps[1] == steps[2] == steps[5]


@pytest.mark.parametrize("mode", ["packed", "bucketed"])
def test_a_step_is_the_mean_over_its_label_tokens(dataset, mode):
    """Not the mean of the micro-batches' means: checked against one dense computation over the examples."""
    gradients, result = step_gradients(dataset, 2, mode)
    chosen = examples_of(batcher(dataset, micro_batch=2, mode=mode, effective_batch=EXAMPLES))[0]
    split = TokenDataset.open(dataset, "train")
    model = make_model()
    total, count = torch.zeros(()), 0
    for index in chosen:
        example = split.example(index)
        ids = torch.from_numpy(example.input_ids.astype("int64"))[None]
        mask = torch.from_numpy(example.label_mask.copy())
        logits = model(input_ids=ids).logits[0, :-1][mask[1:]]
        total = total + torch.nn.functional.cross_entropy(logits, ids[0, mask], reduction="sum")
        count += int(mask.sum())
    (total / count).backward()
    assert result.counters.label_tokens == count and result.final_loss == pytest.approx(total.item() / count)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention", ["block", "varlen"])
def test_packed_rows_are_the_unpacked_ones(dataset, attention):
    """Losses of packed examples, each apart, equal those of the examples alone; so do both attentions."""
    split = TokenDataset.open(dataset, "train")
    row = [0, 1, 2]
    packed = collate(split, [row, [3]], width=SEQ_LEN + 8)
    model = make_model().eval()
    prepared = prepare(model, attention=attention, seq_len=SEQ_LEN)
    weight = model.get_output_embeddings().weight
    hidden, labels = prepared.states(packed)
    assert labels.tolist() == packed.labels[packed.labels >= 0].tolist()
    start = 0
    for index, count in packed.example_rows:
        got = sft_loss(hidden[start : start + count], weight, labels[start : start + count]).ce
        ids = torch.from_numpy(split.example(index).input_ids.astype("int64"))[None]
        mask = torch.from_numpy(split.example(index).label_mask.copy())
        use_attention(model, "sdpa")
        logits = model(input_ids=ids).logits[0, :-1][mask[1:]]
        want = torch.nn.functional.cross_entropy(logits, ids[0, mask], reduction="sum")
        torch.testing.assert_close(got.float(), want.detach(), rtol=1e-5, atol=1e-5)
        start += count


def test_another_examples_tokens_do_not_matter(dataset):
    split = TokenDataset.open(dataset, "train")
    model = make_model().eval()
    losses = []
    for neighbour in (1, 2):
        batch = collate(split, [[neighbour, 0]], width=SEQ_LEN)
        hidden, _ = label_states(model, batch)
        losses.append(hidden[-split.label_count(0) :])
    assert torch.equal(*losses) or (losses[0] - losses[1]).abs().max() < 1e-6


def test_sft_is_kd_with_alpha_one_bit_for_bit(dataset, tmp_path):
    """The whole run: same lines, same weights. And KD with less is another run."""
    teacher = DenseTeacher(TokenDataset.open(dataset, "train"))
    runs = {
        "sft": make_trainer(dataset, tmp_path / "sft", eval_every_steps=3),
        "kd1": make_trainer(
            dataset, tmp_path / "kd1", eval_every_steps=3, teacher=teacher, alpha=1.0, temperature=2.0
        ),
        "kd": make_trainer(dataset, tmp_path / "kd", eval_every_steps=3, teacher=teacher, alpha=0.5),
    }
    for trainer in runs.values():
        trainer.run()
    assert metrics(tmp_path / "sft") == metrics(tmp_path / "kd1")
    pairs = zip(weights(runs["sft"]), weights(runs["kd1"]), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    sft, kd = metrics(tmp_path / "sft", "lr"), metrics(tmp_path / "kd", "lr")
    assert [line["kl"] for line in sft] == [None] * len(sft) and all(line["kl"] > 0 for line in kd)
    same = ("step", "epoch", "label_tokens", "real_tokens", "positions", "lr")
    assert [[line[k] for k in same] for line in sft] == [[line[k] for k in same] for line in kd]
    assert sft[0]["ce"] == pytest.approx(kd[0]["ce"], rel=1e-6) and sft[-1]["ce"] != kd[-1]["ce"]
    # Evaluations come at the same steps and measure the same thing.
    assert [line["step"] for line in metrics(tmp_path / "sft", "eval_loss")] == [
        line["step"] for line in metrics(tmp_path / "kd", "eval_loss")
    ]


def test_kd_follows_the_teacher(dataset, tmp_path):
    """Trained on a teacher that knows nothing, KL falls and the loss is alpha CE + (1-alpha) T^2 KL."""
    teacher = DenseTeacher(TokenDataset.open(dataset, "train"))
    trainer = make_trainer(
        dataset, tmp_path, teacher=teacher, alpha=0.25, temperature=2.0, max_epochs=6, validation=False
    )
    trainer.run()
    lines = metrics(tmp_path, "lr")
    for line in lines:
        assert line["loss"] == pytest.approx(0.25 * line["ce"] + 0.75 * 4 * line["kl"], rel=1e-6)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]


def test_students_learn(dataset, tmp_path):
    result = make_trainer(dataset, tmp_path, lr=1e-2, max_epochs=12, eval_every_steps=10, patience=0).run()
    assert result.best_eval_loss < 2.6 < math.log(48) - 1
    assert result.stopped == "horizon" and result.counters.step == result.total_steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_checkpointing_changes_nothing(dataset, tmp_path, dtype):
    results = []
    for on in (False, True):
        trainer = make_trainer(
            dataset,
            tmp_path / str(on),
            model=make_model(dtype=dtype),
            max_steps=4,
            eval_every_steps=2,
            gradient_checkpointing=on,
        )
        trainer.run()
        results.append((metrics(tmp_path / str(on)), weights(trainer)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_counts(dataset, tmp_path, monkeypatch):
    """Trained: each label once. Processed and positions: every pass, evaluation included."""
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("KIT_EVENTS", str(events))
    result = make_trainer(dataset, tmp_path / "run", max_epochs=3, eval_every_steps=100).run()
    counters = result.counters
    split, held_out = (TokenDataset.open(dataset, name) for name in ("train", "validation"))
    labels, tokens = int(split.label_counts.sum()), int(split.lengths.sum())
    assert counters.trained == labels and counters.processed == 3 * tokens
    assert counters.positions % SEQ_LEN == 0 and counters.positions >= counters.processed
    assert counters.evaluations == 1 and counters.eval_label_tokens == int(held_out.label_counts.sum())
    assert counters.eval_processed == int(held_out.lengths.sum())
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    sums = {
        key: sum(line.get(key, 0) for line in lines if "event" not in line)
        for key in ("tokens_trained", "tokens_processed", "tokens_positions")
    }
    assert sums == {
        "tokens_trained": labels,
        "tokens_processed": 3 * tokens + counters.eval_processed,
        "tokens_positions": counters.positions + counters.eval_positions,
    }
    (evaluation,) = [line for line in lines if line.get("event") == "evaluation"]
    assert evaluation["real_tokens"] == counters.eval_processed and evaluation["best"] is True


def test_no_step_crosses_an_epoch_and_none_is_lost(dataset, tmp_path):
    split = TokenDataset.open(dataset, "train")
    size = len(split) - 3  # leaves a short step at each end
    result = make_trainer(dataset, tmp_path, effective_batch=size, max_epochs=2, validation=False).run()
    lines = metrics(tmp_path, "lr")
    assert result.total_steps == len(lines) == 4
    for epoch in (0, 1):
        assert sum(line["label_tokens"] for line in lines if line["epoch"] == epoch) == int(
            split.label_counts.sum()
        )


def test_learning_rate_covers_the_true_horizon(dataset, tmp_path):
    result = make_trainer(
        dataset, tmp_path, lr=1e-3, warmup_steps=3, effective_batch=6, validation=False
    ).run()
    rates = [line["lr"] for line in metrics(tmp_path, "lr")]
    total = result.total_steps
    assert len(rates) == total
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    for step in range(3, total):
        assert rates[step] == pytest.approx(5e-4 * (1 + math.cos(math.pi * (step - 3) / (total - 3))))
    assert 0 < rates[-1] < 0.5e-3


def test_schedule_edges():
    assert cosine_with_warmup(0, total=10, warmup=0) == 1.0
    assert cosine_with_warmup(4, total=5, warmup=10) == 0.5
    assert cosine_with_warmup(10, total=10, warmup=2) == 0.0


def test_early_stop_rule():
    stop = EarlyStop(eps=2e-3, patience=3)
    bests = [stop.update(loss, step) for step, loss in enumerate([1.0, 0.9, 0.899, 0.8985, math.nan])]
    assert bests == [True, True, True, True, False]  # lower by less than eps is kept, but does not count
    assert stop.stop and stop.best == 0.8985 and stop.best_step == 3
    creeping = EarlyStop(eps=2e-3, patience=3)  # steps of 0.75 eps add up against the last good one
    for step in range(20):
        creeping.update(1.0 - 1.5e-3 * step, step)
        assert not creeping.stop
    never = EarlyStop(eps=1.0, patience=0)
    for step in range(9):
        never.update(1.0, step)
    assert not never.stop


def test_training_stops_early_and_keeps_the_best(dataset, tmp_path):
    """A rate that ruins the model: the checkpoint is the best one's, not the last one's."""
    from safetensors.torch import load_file

    trainer = make_trainer(
        dataset,
        tmp_path,
        lr=0.5,
        warmup_steps=0,
        max_epochs=30,
        eval_every_steps=1,
        patience=2,
        early_stop_eps=5.0,
    )
    result = trainer.run()
    losses = {line["step"]: line["eval_loss"] for line in metrics(tmp_path, "eval_loss")}
    assert result.stopped == "early" and result.counters.step == 3 < result.total_steps
    assert losses[result.best_step] == min(losses.values()) == result.best_eval_loss
    kept = load_file(tmp_path / "checkpoint" / "model.safetensors")
    now = trainer._model.state_dict()
    same = all(torch.equal(kept[name], now[name]) for name in kept)
    assert same == (result.best_step == 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_clipping_scales_the_step_and_leaves_the_gradients(dtype):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(3, 4, dtype=dtype)), torch.nn.Parameter(torch.zeros(4))]
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)
    before = [weight.grad.clone() for weight in weights]
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in before))
    optimizer = Adafactor(weights, lr=0.1, scale_parameter=False)
    for bound, factor in ((0.0, None), (norm * 2, 1.0), (norm / 8, 1 / 8)):
        assert clip_gradients(optimizer, bound).item() == pytest.approx(norm, rel=1e-6)
        found = optimizer.param_groups[0].get("gradient_factor")
        assert found is None if factor is None else found.item() == pytest.approx(factor, rel=1e-5)
    optimizer.step()
    for weight, gradient in zip(weights, before, strict=True):
        assert torch.equal(weight.grad, gradient)
    # The second moments are those of the scaled gradients, which no 16 bits have rounded.
    rows = (before[0].double() / 8).square().mean(-1)
    torch.testing.assert_close(optimizer.state[weights[0]]["row"].double(), rows, rtol=1e-4, atol=0)


def test_a_state_is_saved_between_evaluations(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "STATE_EVERY_S", -1.0)
    trainer = make_trainer(dataset, tmp_path, eval_every_steps=0, max_epochs=1)
    saved = []
    monkeypatch.setattr(trainer._states, "save", lambda step, state, kept: saved.append(step))
    total = trainer.total_steps
    trainer.run()
    assert total > 3 and saved[0] == 1 and total not in saved


def test_a_loss_that_is_no_number_stops_the_run(dataset, tmp_path):
    model = make_model()
    trainer = make_trainer(dataset, tmp_path / "run", model=model)
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(KitError, match="the loss is nan at step 1"):
        trainer.run()
    with pytest.raises(KitError, match="no finite distribution"):
        make_trainer(dataset, tmp_path / "loaded", model=model)


def test_kd_without_a_teacher_is_refused(dataset, tmp_path):
    with pytest.raises(KitError, match="needs a logit cache"):
        make_trainer(dataset, tmp_path, alpha=0.5).run()


def test_bucketed_batches_train_too(dataset, tmp_path):
    assert isinstance(batcher(dataset, mode="bucketed"), Batcher)
    result = make_trainer(dataset, tmp_path, mode="bucketed", max_epochs=1).run()
    assert result.counters.trained == int(TokenDataset.open(dataset, "train").label_counts.sum())
