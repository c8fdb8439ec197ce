"""The program that runs the cases: the stages' own code on models with random weights, a child process.

Run by an interpreter that has torch and the train packages: `python -m harness.gpucheck.models.program
cuda|cpu`. Orders come as JSON lines on standard input, each is answered by one line when the device has
finished: `{"op": "build", "case": {...}}`, `{"op": "run", "steps": n}`, `{"op": "drop"}`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

from harness.models.quick_start import skip_unused_imports
from harness.planning.cases import Case


class Built(Protocol):
    """A case with its model in memory."""

    model: Any

    def steps(self, count: int) -> None:
        """Do so many steps; returns when they are queued on the device."""

    def state_bytes(self) -> int:
        """Bytes of tensors that stay between steps, weights left out."""


def build(case: Case, device: str) -> Built:
    """Make a case's model on the device, with random weights in bf16."""
    import torch
    from transformers import AutoModelForCausalLM, Olmo2Config

    shape = case.shape
    settings = Olmo2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=case.seq_len + case.new_tokens,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    with torch.device(device):  # made where they stay: the host need not have room for them
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16, attn_implementation="sdpa")
    if case.stage == "student_train":
        return _Training(case, model)
    if case.stage == "teacher_logits":
        return _Logits(case, model, device)
    return _Generation(case, model)


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


class _RandomBatches:
    """An endless epoch of random micro-batches."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def batch(self, epoch: int, k: int) -> Any:
        return random_batch(self._case, k)

    def batches_per_epoch(self, epoch: int) -> int:
        return 1 << 30


class _Training:
    """Stage student_train: its trainer, with SFT's loss, Adafactor and gradient checkpointing."""

    def __init__(self, case: Case, model: Any) -> None:
        from harness.distill.adafactor import Adafactor

        self.model = model
        self._case = case
        self._optimizer = Adafactor(model.parameters(), lr=1e-5, scale_parameter=False)

    def steps(self, count: int) -> None:
        from harness.distill.train_options import TrainOptions
        from harness.distill.trainer import Trainer

        class Unsaved(Trainer):
            """Keeps no checkpoint: the weights are random."""

            def _keep(self) -> None:
                return

        options = TrainOptions(
            lr=1e-5,
            warmup_steps=0,
            max_epochs=1,
            max_steps=count,
            gradient_checkpointing=True,
            state_every_steps=-1,
        )
        with tempfile.TemporaryDirectory(prefix="kit-gpu-check-") as folder:
            batches = _RandomBatches(self._case)
            Unsaved(
                self.model, self._optimizer, batches, None, None, options, Path(folder), Path(folder)
            ).run()

    def state_bytes(self) -> int:
        states: list[dict[str, Any]] = list(self._optimizer.state.values())
        return sum(tensor.nbytes for state in states for key, tensor in state.items() if key != "step")


class _Logits:
    """Stage teacher_logits: forward, and the rows of the cache on the host; nothing is written."""

    def __init__(self, case: Case, model: Any, device: str) -> None:
        from harness.distill.cache_format import CacheSpec
        from harness.distill.teacher_logits_model import Teacher

        self.model = model
        self._case = case
        self._spec = CacheSpec(vocab_size=case.shape.vocabulary, k=case.k)
        self._teacher = Teacher(model, device)

    def steps(self, count: int) -> None:
        waiting = None
        for step in range(count):
            rows = self._teacher.rows(random_batch(self._case, step), self._spec, chunk=self._case.chunk)
            # As in the stage: a batch is fetched while the next one is computed.
            if waiting is not None:
                waiting()
            waiting = rows
        if waiting is not None:
            waiting()

    def state_bytes(self) -> int:
        return 0


class _Generation:
    """Stage teacher_generate with the engine transformers: every answer has all its tokens."""

    def __init__(self, case: Case, model: Any) -> None:
        self.model = model.eval()
        self._case = case

    def steps(self, count: int) -> None:
        import torch

        from harness.models.generation import Sampling
        from harness.models.generation_transformers import decode

        case = self._case
        sampling = Sampling(max_new_tokens=case.new_tokens, temperature=1.0, top_p=0.95)
        for step in range(count):
            generator = torch.Generator().manual_seed(step)
            prompts = torch.randint(
                case.shape.vocabulary, (case.rows, case.seq_len), generator=generator
            ).tolist()
            points = torch.rand(case.rows, case.new_tokens, dtype=torch.float64, generator=generator)
            answers, work = decode(self.model, prompts, sampling, ends=(-1,), points=points)
            if work.generated != case.rows * case.new_tokens or len(answers) != case.rows:
                raise RuntimeError(f"{work.generated} tokens generated")

    def state_bytes(self) -> int:
        return 0


class _Device:
    """Where the work runs: waits for it, and says what memory it took."""

    def __init__(self, kind: str) -> None:
        import torch

        self.kind = kind
        self._torch: Any = torch
        if kind == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device")
        torch.use_deterministic_algorithms(True, warn_only=True)  # as the stages do
        self._free_at_start = self.free_bytes()

    def describe(self) -> dict[str, Any]:
        """The device for the greeting; `uuid` and `free_bytes` None on a CPU."""
        if self.kind == "cpu":
            return {"model": "cpu", "uuid": None, "free_bytes": None}
        properties = self._torch.cuda.get_device_properties(0)
        uuid = getattr(properties, "uuid", None)
        return {
            "model": properties.name,
            "uuid": None if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}",
            "free_bytes": self._free_at_start,
        }

    def free_bytes(self) -> int | None:
        """Free memory of the card."""
        return None if self.kind == "cpu" else int(self._torch.cuda.mem_get_info(0)[0])

    def finish(self) -> None:
        """Wait for what was queued."""
        if self.kind == "cuda":
            self._torch.cuda.synchronize()

    def forget_peak(self) -> None:
        """Count the peak from here on."""
        if self.kind == "cuda":
            self._torch.cuda.reset_peak_memory_stats()

    def memory(self) -> dict[str, int | None]:
        """The allocator's peak, and what the card had to give up for it."""
        if self._free_at_start is None:
            return {"allocated_peak_bytes": None, "reserved_peak_bytes": None, "card_bytes": None}
        cuda = self._torch.cuda
        free = self.free_bytes()
        assert free is not None
        return {
            "allocated_peak_bytes": cuda.max_memory_allocated(),
            "reserved_peak_bytes": cuda.max_memory_reserved(),
            "card_bytes": self._free_at_start - free,
        }

    def release(self) -> None:
        """Give back what nobody holds any more."""
        gc.collect()
        if self.kind == "cuda":
            self._torch.cuda.empty_cache()


class Bench:
    """Obeys the orders.

    Args:
        kind: "cuda" or "cpu".

    Raises:
        RuntimeError: There is no such device.
    """

    def __init__(self, kind: str) -> None:
        self.device = _Device(kind)
        self._built: Built | None = None

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what an order says."""
        if order["op"] == "build":
            return self._build(Case.from_json(order["case"]))
        if order["op"] == "run":
            return self._run(int(order["steps"]))
        self._built = None
        self.device.release()
        return {}

    def _build(self, case: Case) -> dict[str, Any]:
        self._built = build(case, self.device.kind)
        parameters = list(self._built.model.parameters())
        self.device.finish()
        return {
            "parameters": sum(parameter.numel() for parameter in parameters),
            "weight_bytes": sum(parameter.nbytes for parameter in parameters),
        }

    def _run(self, steps: int) -> dict[str, Any]:
        if self._built is None:
            raise RuntimeError("nothing is built")
        self.device.finish()
        self.device.forget_peak()
        begun = time.monotonic()
        self._built.steps(steps)
        self.device.finish()
        seconds = time.monotonic() - begun
        state = self._built.state_bytes()
        return {"seconds": seconds, "steps": steps, "state_bytes": state, **self.device.memory()}


def main() -> int:
    """Obey orders until standard input closes."""
    answers = os.dup(1)
    os.dup2(2, 1)
    # As the stages set them; both are read when CUDA is first used.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def say(message: dict[str, Any]) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")

    try:
        bench = Bench(sys.argv[1])
        skip_unused_imports()
        import safetensors
        import torch
        import transformers

        del safetensors
    except (ImportError, RuntimeError, OSError) as error:
        say({"error": str(error).splitlines()[0] if str(error) else type(error).__name__})
        return 2
    name = f"torch {torch.__version__}, transformers {transformers.__version__}"
    say({"ready": {"backend": name, "devices": 1, **bench.device.describe()}})
    for line in sys.stdin:
        try:
            done = bench.obey(json.loads(line))
        except Exception as error:  # whatever a library raises, the one who asked must hear of it
            say({"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})
            return 1
        say({"done": done})
    return 0


if __name__ == "__main__":
    sys.exit(main())
