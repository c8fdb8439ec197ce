"""The teacher of stage teacher_logits: its identity, its weights, and rows of the cache from a batch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.distill.cache_format import CacheSpec, RowBlock
from harness.distill.distributions import distribution_rows
from harness.distill.reporting import report_event
from harness.errors import KitError
from harness.files import file_digest
from harness.models.batches import Batch, Mode
from harness.models.head import LogitPass
from harness.models.loading import load_causal_model
from harness.models.support import Prepared, prepare

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
        said = "no config.json" if isinstance(error, FileNotFoundError) and error.filename else error
        raise KitError(
            f"holds no teacher ({said})", where=str(directory), expected="config.json and *.safetensors"
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
        prepared: The model, on the device.
    """

    def __init__(self, prepared: Prepared) -> None:
        prepared.model.eval()
        self._prepared = prepared
        self._device = prepared.head.weight.device
        self._logits = LogitPass(prepared.head)
        # torch's own annotations miss the streams.
        self._cuda: Any = torch.cuda
        self._stream = self._cuda.Stream(self._device) if self._device.type == "cuda" else None

    @classmethod
    def load(
        cls, directory: Path, *, dtype: str, device: str, batching: Mode, seq_len: int, vocab_size: int
    ) -> LogitTeacher:
        """Load weights straight to the device, and compare what the stage will compute with what the model
        says.

        Args:
            directory: Model folder.
            dtype: Of the weights.
            device: Where to.
            batching: How rows will be made.
            seq_len: Positions of a row.
            vocab_size: Of the configuration.

        Raises:
            KitError: transformers cannot load the folder, or the kit cannot run this model.
        """
        prepared = prepare(
            load_causal_model(directory, dtype=dtype, device=device),
            attention="block",
            batching=batching,
            seq_len=seq_len,
        )
        if prepared.head.vocab_size != vocab_size:
            raise KitError(
                f"an output matrix of {prepared.head.vocab_size} rows", expected=f"vocab_size {vocab_size}"
            )
        report_event("model_checked", **prepared.describe())
        return cls(prepared)

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
        hidden, target = self._prepared.states(batch.to(self._device))
        parts = []
        for start in range(0, len(target), chunk):
            some = slice(start, start + chunk)
            rows = distribution_rows(
                self._logits(hidden[some]), target[some], spec, None if uniforms is None else uniforms[some]
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
