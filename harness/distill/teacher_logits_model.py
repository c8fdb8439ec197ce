"""The teacher of stage teacher_logits: its identity, its weights, and rows of the cache from a batch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.distill.cache_format import CacheSpec, RowBlock
from harness.distill.distributions import distribution_rows
from harness.errors import KitError
from harness.files import file_digest
from harness.models.batches import IGNORED, Batch
from harness.models.generation_transformers import load_causal_model

_HUB_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TeacherIdentity:
    """Which teacher.

    Attributes:
        digest: Of configuration and weights; with a revision, of that instead of the weights' content.
        revision: Commit of the weights, where given.
        vocab_size: Of the configuration.
    """

    digest: str
    revision: str | None
    vocab_size: int

    def describe(self, dtype: str) -> dict[str, str | None]:
        """Which weights compute in which type, as a recipe or a fingerprint says it."""
        return {"digest": self.digest, "revision": self.revision, "dtype": dtype}


def teacher_identity(directory: Path, revision: str | None) -> TeacherIdentity:
    """Identify a model folder.

    Files of a hub cache carry their sha256 as the name of the blob they link to: those are not read again.

    Raises:
        KitError: The folder holds no model.
    """
    try:
        vocab_size = int(json.loads((directory / "config.json").read_text(encoding="utf-8"))["vocab_size"])
        weights = sorted(directory.glob("*.safetensors"))
        if not weights:
            raise FileNotFoundError("no *.safetensors")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(
            f"holds no teacher ({error})", where=str(directory), expected="config.json and *.safetensors"
        ) from None
    digest = hashlib.sha256()
    for path in (directory / "config.json", *weights):
        blob = path.resolve()
        if revision is not None and path in weights:
            content = f"{revision} {path.stat().st_size}"
        elif blob.parent.name == "blobs" and _HUB_BLOB.fullmatch(blob.name):
            content = blob.name
        else:
            content = file_digest(path)
        digest.update(f"{path.name} {content}\n".encode())
    return TeacherIdentity(digest.hexdigest(), revision, vocab_size)


class LogitTeacher:
    """A causal language model in eval mode, split into its trunk and its output matrix.

    Args:
        model: From transformers, on the device.
        device: Where it is.
    """

    def __init__(self, model: Any, device: str) -> None:
        self._model = model.eval()
        self._device = torch.device(device)
        self._head = _Head(model.get_output_embeddings())
        # torch's own annotations miss the streams.
        self._cuda: Any = torch.cuda
        self._stream = self._cuda.Stream(self._device) if self._device.type == "cuda" else None

    @classmethod
    def load(cls, directory: Path, *, dtype: str, device: str) -> LogitTeacher:
        """Load weights straight to the device.

        Raises:
            KitError: transformers cannot load the folder.
        """
        if device.startswith("cuda"):
            # cuBLAS reads this at its first call; without it two streams give other bits.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        return cls(load_causal_model(directory, dtype=dtype, device=device), device)

    @torch.inference_mode()
    def check(self, vocab_size: int) -> None:
        """Compare trunk and output matrix with the model's own logits on a few tokens.

        Raises:
            KitError: They differ: the model does more between its last hidden state and its logits (scaling,
                soft-capping) than one matrix.
        """
        if self._head.vocab_size != vocab_size:
            raise KitError(
                f"an output matrix of {self._head.vocab_size} rows", expected=f"vocab_size {vocab_size}"
            )
        ids = torch.arange(min(8, vocab_size), device=self._device)[None]
        own = self._model(input_ids=ids, use_cache=False).logits[0].float()
        ours = self._head(self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
        if not bool(own.isfinite().all()):
            raise KitError("the teacher gives no finite distribution", fix="check that its weights are whole")
        if not torch.allclose(ours, own, rtol=0.03, atol=0.03 * float(own.abs().max())):
            raise KitError(
                "the teacher's logits are not its last hidden state times its output matrix",
                where=type(self._model).__name__,
                expected="a model such as OLMo-2, Llama, Qwen: no scaling or capping of logits",
            )

    @torch.inference_mode()
    def rows(
        self, batch: Batch, spec: CacheSpec, *, chunk: int, uniforms: torch.Tensor | None = None
    ) -> Callable[[], RowBlock]:
        """Rows of the cache for the labels of a batch, in their order.

        Args:
            batch: On the CPU.
            spec: What a row holds.
            chunk: Label positions a pass through the output matrix.
            uniforms: float64 [labels, k] for mode sample.

        Returns:
            A function that waits for the copy from the device and gives the rows.
        """
        batch = batch.to(self._device)
        hidden = self._model.base_model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask(),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        row, column = (batch.labels != IGNORED).nonzero(as_tuple=True)
        # A label at t is predicted from t - 1; position 0 of an example never is a label.
        hidden, target = hidden[row, column - 1], batch.labels[row, column]
        parts = []
        for start in range(0, len(target), chunk):
            some = slice(start, start + chunk)
            rows = distribution_rows(
                self._head(hidden[some]), target[some], spec, None if uniforms is None else uniforms[some]
            )
            parts.append(rows.for_storage())
        return self._to_host({name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def _to_host(self, tensors: dict[str, torch.Tensor]) -> Callable[[], RowBlock]:
        if self._stream is None:
            block = _block(tensors)
            return lambda: block
        self._stream.wait_stream(self._cuda.current_stream(self._device))
        host: dict[str, torch.Tensor] = {}
        with self._cuda.stream(self._stream):
            for name, tensor in tensors.items():
                host[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                host[name].copy_(tensor, non_blocking=True)
                # The allocator must not hand the memory out again before the copy has read it.
                tensor.record_stream(self._stream)
            copied = self._cuda.Event()
            copied.record(self._stream)

        def wait() -> RowBlock:
            copied.synchronize()
            return _block(host)

        return wait


def _block(tensors: dict[str, torch.Tensor]) -> RowBlock:
    return RowBlock(**{name: tensor.numpy() for name, tensor in tensors.items()})


class _Head:
    """The output matrix: hidden states [R, d] to float32 logits [R, V], accumulated in float32."""

    def __init__(self, layer: Any) -> None:
        self._weight: torch.Tensor = layer.weight.detach()
        bias = getattr(layer, "bias", None)
        self._bias: torch.Tensor | None = None if bias is None else bias.detach().float()
        # Products of bfloat16 numbers are exact in float32, so a bfloat16 matmul that accumulates and answers
        # in float32 is as good as one of float32 copies, and ten times faster on tensor cores.
        self._mixed = self._weight.dtype != torch.float32 and self._weight.is_cuda and _mixed_matmul()
        if self._weight.dtype != torch.float32 and not self._mixed:
            self._weight = self._weight.float()

    @property
    def vocab_size(self) -> int:
        return int(self._weight.shape[0])

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._mixed:
            logits = torch.mm(hidden, self._weight.t(), out_dtype=torch.float32)
        else:
            logits = hidden.float() @ self._weight.t()
        return logits if self._bias is None else logits.add_(self._bias)


def _mixed_matmul() -> bool:
    """Whether this torch has a matmul of bfloat16 that answers in float32 (from 2.8, on CUDA)."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return (major, minor) >= (2, 8)
