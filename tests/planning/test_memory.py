"""The memory sum against what the allocator hands out while scaled-down models train."""

from __future__ import annotations

import pytest
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from harness.distill.adafactor import Adafactor
from harness.models.batches import Batch
from harness.models.forward import label_states, use_attention
from harness.models.losses import TeacherRows, kd_loss
from harness.models.shapes import OLMO2, ModelShape
from harness.planning.memory import TrainingMemory, training_memory

CARD = 84e9


pytestmark = pytest.mark.models


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def peak_of(work) -> int:
    """Bytes at most above the start, from the allocator's own record of what it gave and took."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    now = top = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


def measure(
    *,
    layers,
    width,
    mlp,
    vocabulary,
    rows=4,
    seq=64,
    kv_heads=4,
    dtype,
    checkpointing,
    chunk,
    temperature=1.0,
) -> tuple[TrainingMemory, dict[str, int]]:
    """The sum and what was measured: a second micro-batch's forward and backward, and an optimizer step."""
    config = Olmo2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=seq,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = Olmo2ForCausalLM(config).to(dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    use_attention(model, "sdpa")
    ids = torch.randint(vocabulary, (rows, seq))
    labels = ids.clone()
    labels[:, 0] = -100
    count = rows * (seq - 1)
    batch = Batch(
        ids, labels, torch.arange(seq).repeat(rows, 1), torch.ones_like(ids), [], ids.numel(), 0, count
    )
    optimizer = Adafactor(model.parameters(), lr=1e-3, scale_parameter=False)
    logp, places = torch.log_softmax(torch.randn(count, vocabulary), 1).topk(4)
    teacher = TeacherRows(places, logp, torch.full((count,), -0.1), {2.0: torch.ones(count)})

    def micro_batch() -> None:
        hidden, targets = label_states(model, batch)
        weight = model.lm_head.weight
        loss = kd_loss(hidden, weight, targets, teacher, alpha=0.5, temperature=temperature, chunk=chunk)
        loss.total.backward()

    micro_batch()
    optimizer.step()
    measured = {"micro_batch": peak_of(micro_batch), "step": peak_of(optimizer.step)}
    tensors = {
        "weights": list(model.parameters()),
        "gradients": [parameter.grad for parameter in model.parameters()],
        "optimizer_state": [
            tensor for state in optimizer.state.values() for key, tensor in state.items() if key != "step"
        ],
    }
    measured |= {name: sum(tensor.nbytes for tensor in group) for name, group in tensors.items()}
    stated = training_memory(
        ModelShape.of(config),
        rows=rows,
        seq_len=seq,
        label_tokens=count,
        weight_bytes=dtype.itemsize,
        checkpointing=checkpointing,
        loss_chunk=chunk,
        temperature=temperature,
    )
    return stated, measured


BASE = {"layers": 4, "width": 128, "mlp": 344, "vocabulary": 512, "chunk": 32}
CASES = {
    "base": {},
    "twice the layers": {"layers": 8},
    "twice the rows": {"rows": 8},
    "twice the width": {"width": 256},
    "wide mlp": {"mlp": 800},
    "grouped queries": {"kv_heads": 2},
    "large vocabulary": {"layers": 2, "vocabulary": 8192, "chunk": 128},
    "large vocabulary at T=2": {"layers": 2, "vocabulary": 8192, "chunk": 128, "temperature": 2.0},
}


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_the_sum_is_what_the_allocator_gives(case, dtype, checkpointing):
    stated, measured = measure(**{**BASE, **CASES[case]}, dtype=dtype, checkpointing=checkpointing)
    for name in ("weights", "gradients", "optimizer_state"):
        assert measured[name] == getattr(stated, name)
    assert measured["micro_batch"] == pytest.approx(max(stated.at_loss, stated.at_backward), rel=0.08)
    assert measured["step"] == pytest.approx(stated.step_temporaries, rel=0.08)


def test_13b_fits_one_card_and_only_with_what_the_docstring_says():
    def peak(name, **options):
        return training_memory(OLMO2[name], rows=4, seq_len=1024, **options).peak

    assert OLMO2["13b"].parameters == 13_716_198_400
    stated = training_memory(OLMO2["13b"], rows=4, seq_len=1024)
    gigabytes = {name: round(value / 1e9, 1) for name, value in vars(stated).items()}
    assert gigabytes["weights"] == gigabytes["gradients"] == 27.4
    assert round(stated.peak / 1e9, 1) == 62.2 and stated.peak < CARD - 21e9
    assert [round(x / 1e9, 1) for x in (stated.at_loss, stated.at_backward, stated.step_temporaries)] == [
        3.8,
        3.5,
        4.3,
    ]
    assert peak("13b", checkpointing=False) > CARD
    assert peak("13b", rounding="master") > CARD
    assert stated.peak + 2 * stated.weights > CARD  # AdamW with bfloat16 moments
    assert max(peak(name, rounding="master") for name in ("1b", "7b")) < CARD


def test_temperature_and_chunk_move_the_loss_only():
    base = training_memory(OLMO2["1b"], rows=4, seq_len=1024)
    warm = training_memory(OLMO2["1b"], rows=4, seq_len=1024, temperature=2.0)
    small = training_memory(OLMO2["1b"], rows=4, seq_len=1024, loss_chunk=128)
    assert warm.loss_chunk == base.loss_chunk * 8 // 6 and small.loss_chunk == 128 * 100_352 * 6
    assert warm.at_backward == small.at_backward == base.at_backward
