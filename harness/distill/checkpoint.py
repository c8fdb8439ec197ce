"""Model folders and training states on disk, replaced whole or not at all.

OUT/checkpoint/     the best model so far: a Hugging Face folder (safetensors, config, tokenizer)
OUT/state/          what training needs to go on bit for bit; the last one only
    latest.json         names the folder in use; replaced atomically
    step-00000120/      model*.safetensors optimizer.safetensors trainer.json

Where a state has the weights of the checkpoint just written, its model*.safetensors are hard links to that
one's: weights of 27 GB are written once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from harness.errors import KitError
from harness.files import sync_folder, sync_tree, write_json
from harness.models.chat import TOKENIZER_FILES


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder so that after a kill at any point its old or its new content is there, whole.

    Args:
        folder: The folder to replace.
        write: Fills the empty folder it is given.
    """
    recover_folder(folder)
    new, old = _beside(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    write(new)
    sync_tree(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(folder.parent)


def recover_folder(folder: Path) -> None:
    """Finish what a kill in `replace_folder` left undone."""
    _, old = _beside(folder)
    if old.exists():
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)


class Writer:
    """Writes beside the training, one thing after another; what it writes must be the caller's no more."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._jobs: list[Future[None]] = []

    def submit(self, write: Callable[[], None]) -> None:
        """Write after everything that was given before."""
        self._jobs.append(self._pool.submit(write))

    def wait(self) -> None:
        """Until everything is on the disk; what failed there is raised here."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.result()


def host_copy(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in the host's memory, which later steps do not change; shared memory stays shared."""
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    result = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in copies or not tensor.numel():
            copies[place] = tensor.detach().to("cpu", copy=True)
        result[name] = copies[place]
    return result


def save_model(
    model: Any, folder: Path, tokenizer: Path, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write a model with its tokenizer as a Hugging Face folder.

    Args:
        model: A transformers model.
        folder: Replaced whole.
        tokenizer: Folder whose tokenizer files go along.
        weights: Instead of the model's present ones.
    """

    def write(new: Path) -> None:
        # The dictionary is emptied as it is written.
        model.save_pretrained(new, state_dict=None if weights is None else dict(weights))
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, new / name)

    replace_folder(folder, write)


@dataclass(frozen=True)
class State:
    """Where training stands after an optimizer step.

    Attributes:
        model: Weights by name.
        optimizer: `Adafactor.export`, with `torch_rng` (and `cuda_rng`) beside it.
        trainer: Counters and the early stop's memory, JSON values.
    """

    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    trainer: dict[str, Any]


class StateFolder:
    """The state folder of one run.

    Args:
        folder: OUT/state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._latest = folder / "latest.json"

    def save(self, step: int, state: State, weights: Path | None = None) -> None:
        """Write a state, make it the one in use, and remove its predecessors.

        Args:
            step: Names it.
            state: The state.
            weights: Folder of a checkpoint with the same weights, which is linked to.
        """
        name = f"step-{step:08d}"
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if weights is None:
            save_file(_own(state.model), target / "model.safetensors")
        else:
            for path in weights.glob("model*.safetensors"):
                (target / path.name).hardlink_to(path)
        save_file(_own(state.optimizer), target / "optimizer.safetensors")
        (target / "trainer.json").write_text(json.dumps(state.trainer), encoding="utf-8")
        sync_tree(target)
        sync_folder(self.folder)
        write_json(self._latest, {"folder": name})
        sync_folder(self.folder)
        for other in self.folder.glob("step-*"):
            if other.name != name:
                shutil.rmtree(other)

    def load(self) -> State | None:
        """The state in use, on the CPU; None before the first.

        Raises:
            KitError: The folder was changed by hand or its disk is damaged.
        """
        if not self._latest.exists():
            return None
        try:
            folder = self.folder / json.loads(self._latest.read_text(encoding="utf-8"))["folder"]
            weights = sorted(folder.glob("model*.safetensors"))
            if not weights:
                raise FileNotFoundError("no model*.safetensors")
            return State(
                {name: tensor for path in weights for name, tensor in load_file(path).items()},
                load_file(folder / "optimizer.safetensors"),
                json.loads((folder / "trainer.json").read_text(encoding="utf-8")),
            )
        except Exception as error:
            raise KitError(
                f"the training state cannot be read: {error}",
                where=str(self.folder),
                fix="remove the folder to train from the start",
            ) from None

    def clear(self) -> None:
        """Remove every state: training is over."""
        self._latest.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors without shared memory, as safetensors wants them; tied weights are kept once."""
    result: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        result[name] = tensor.contiguous()
    return result


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
