"""The program that runs the cases: the stages' own code on models with random weights, a child process.

Run by an interpreter that has torch and the train packages: `python -m harness.gpucheck.stage_program
cuda|cpu`. Orders come as JSON lines on standard input, each is answered by one line when the device has
finished: `{"op": "build", "case": {...}}`, `{"op": "run", "steps": n}`, `{"op": "drop"}`.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.gpucheck.load import Obey, serve
from harness.models.quick_start import skip_unused_imports
from harness.models.shapes import ModelShape
from harness.planning.cases import Case


@dataclass
class Built:
    """A case with its model in memory.

    Attributes:
        model: The model.
        steps: Does so many steps; returns when they are queued on the device.
        optimizer: Its state stays between steps; None where nothing is trained.
    """

    model: Any
    steps: Callable[[int], None]
    optimizer: Any = None

    def state_bytes(self) -> int:
        """Bytes of tensors that stay between steps, weights left out."""
        states = [] if self.optimizer is None else self.optimizer.state.values()
        return sum(tensor.nbytes for state in states for key, tensor in state.items() if key != "step")


def olmo2_config(shape: ModelShape, positions: int, **more: Any) -> Any:
    """The configuration of an OLMo-2 of a shape."""
    from transformers import Olmo2Config

    return Olmo2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=positions,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        **more,
    )


def build(case: Case, device: str) -> Built:
    """Make a case's model on the device, with random weights in bf16."""
    import torch
    from transformers import AutoModelForCausalLM

    settings = olmo2_config(case.shape, case.seq_len + case.new_tokens)
    torch.manual_seed(0)
    with torch.device(device):  # made where they stay: the host need not have room for them
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16, attn_implementation="sdpa")
    if case.stage == "student_train":
        return _training(case, model)
    if case.stage == "teacher_logits":
        return _logits(case, model)
    return _generation(case, model)


def random_batch(case: Case, seed: int) -> Any:
    """A micro-batch of random tokens, every position but each row's first a label."""
    import torch

    from harness.models.batches import IGNORED, Batch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(case.shape.vocabulary, (case.rows, case.seq_len), generator=generator)
    labels = ids.clone()
    labels[:, 0] = IGNORED
    return Batch(
        input_ids=ids,
        labels=labels,
        position_ids=torch.arange(case.seq_len).repeat(case.rows, 1),
        segment_ids=torch.ones_like(ids),
        example_rows=[(row, case.seq_len - 1) for row in range(case.rows)],
        positions=ids.numel(),
        real_tokens=ids.numel(),
        label_tokens=case.label_tokens,
    )


def _training(case: Case, model: Any) -> Built:
    """Stage student_train: its trainer, with SFT's loss, Adafactor and gradient checkpointing."""
    from harness.distill.adafactor import Adafactor
    from harness.distill.train_options import TrainOptions
    from harness.distill.trainer import Trainer
    from harness.models.support import prepare

    class Unsaved(Trainer):
        """Keeps no checkpoint: the weights are random."""

        def _keep(self) -> None:
            return

    optimizer = Adafactor(model.parameters(), lr=1e-5, scale_parameter=False)
    prepared = prepare(model, seq_len=case.seq_len)
    batches: Any = SimpleNamespace(  # an endless epoch
        batch=lambda epoch, k: random_batch(case, k),
        steps=lambda epoch: (range(k, k + 1) for k in itertools.count()),
    )

    def steps(count: int) -> None:
        options = TrainOptions(
            lr=1e-5,
            warmup_steps=0,
            max_epochs=1,
            max_steps=count,
            gradient_checkpointing=case.checkpointing,
            state_every_steps=-1,
        )
        with tempfile.TemporaryDirectory(prefix="kit-gpu-check-") as folder:
            Unsaved(prepared, optimizer, batches, None, None, options, Path(folder), Path(folder)).run()

    return Built(model, steps, optimizer)


def _logits(case: Case, model: Any) -> Built:
    """Stage teacher_logits: forward, and the rows of the cache on the host; nothing is written."""
    from harness.distill.cache_format import CacheSpec
    from harness.distill.teacher_logits_model import LogitTeacher
    from harness.models.support import prepare

    spec = CacheSpec(vocab_size=case.shape.vocabulary, k=case.k)
    teacher = LogitTeacher(prepare(model, attention="block", seq_len=case.seq_len))

    def steps(count: int) -> None:
        waiting: Any = None
        for step in range(count):
            rows = teacher.rows(random_batch(case, step), spec, chunk=case.chunk)
            # As in the stage: a batch is fetched while the next one is computed.
            if waiting is not None:
                waiting()
            waiting = rows
        if waiting is not None:
            waiting()

    return Built(model, steps)


def _generation(case: Case, model: Any) -> Built:
    """Stage teacher_generate with the engine transformers: every answer has all its tokens."""
    import torch

    from harness.models.generation import TokenSampling
    from harness.models.generation_transformers import decode

    model.eval()
    sampling = TokenSampling(max_new_tokens=case.new_tokens, temperature=1.0, top_p=0.95)

    def steps(count: int) -> None:
        for step in range(count):
            generator = torch.Generator().manual_seed(step)
            prompts = torch.randint(
                case.shape.vocabulary, (case.rows, case.seq_len), generator=generator
            ).tolist()
            points = torch.rand(case.rows, case.new_tokens, dtype=torch.float64, generator=generator)
            answers, work = decode(model, prompts, sampling, ends=(-1,), points=points)
            if work.generated != case.rows * case.new_tokens or len(answers) != case.rows:
                raise RuntimeError(f"{work.generated} tokens generated")

    return Built(model, steps)


def start() -> tuple[dict[str, Any], Obey]:
    """Find the device that the command line names.

    Raises:
        RuntimeError: There is no such device.
    """
    kind = sys.argv[1]
    # As the stages set them; both are read when CUDA is first used.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    skip_unused_imports()
    import safetensors  # noqa: F401
    import torch
    import transformers

    from harness.models.head import _mixed_matmul

    cuda: Any = torch.cuda
    if kind == "cuda" and not cuda.is_available():
        raise RuntimeError("torch sees no CUDA device")
    torch.use_deterministic_algorithms(True, warn_only=True)  # as the stages do
    on_card = kind == "cuda"
    free = int(cuda.mem_get_info(0)[0]) if on_card else 0
    built: Built | None = None

    def obey(order: dict[str, Any]) -> dict[str, Any]:
        nonlocal built
        if order["op"] == "drop":
            built = None
            gc.collect()
            if on_card:
                cuda.empty_cache()
            return {}
        if order["op"] == "build":
            built = build(Case.from_json(order["case"]), kind)
            parameters = list(built.model.parameters())
            return {
                "parameters": sum(parameter.numel() for parameter in parameters),
                "weight_bytes": sum(parameter.nbytes for parameter in parameters),
                "head_copy": not (on_card and _mixed_matmul()),
            }
        assert built is not None
        if on_card:
            cuda.synchronize()
            cuda.reset_peak_memory_stats()
        begun = time.monotonic()
        built.steps(order["steps"])
        if on_card:
            cuda.synchronize()
        return {
            "seconds": time.monotonic() - begun,
            "steps": order["steps"],
            "state_bytes": built.state_bytes(),
            "allocated_peak_bytes": cuda.max_memory_allocated() if on_card else None,
            "card_bytes": free - int(cuda.mem_get_info(0)[0]) if on_card else None,
        }

    greeting: dict[str, Any] = {
        "backend": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "model": "cpu",
        "uuid": None,
        "free_bytes": None,
    }
    if on_card:
        card = cuda.get_device_properties(0)
        uuid = getattr(card, "uuid", None)
        greeting |= {
            "model": card.name,
            "uuid": None if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}",
            "free_bytes": free,
        }
    return greeting, obey


if __name__ == "__main__":
    sys.exit(serve(start))
