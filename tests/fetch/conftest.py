"""A hub with a model and a data set, the lock that names them, and the real client on the loopback."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.fetch.lockfile import SCHEMA, Asset, AssetsLock, LockedFile
from harness.fetch.store import Store
from tests.fetch.hub import LARGE, Hub, Repo, etag

OLD, NEW = "1" * 40, "2" * 40
NEEDS = "huggingface_hub is not installed: make setup-test"


def content_of(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


MODEL = {
    "config.json": b'{"model_type": "olmo2"}',
    "model-00001-of-00002.safetensors": content_of(1, 300_000),
    "model-00002-of-00002.safetensors": content_of(2, 120_001),
    "tokenizer.json": content_of(3, 5_000),
}
DATA = {"README.md": b"rows", "data/train-00000-of-00001.parquet": content_of(4, 50_000)}


class Listener:
    """Progress that is only remembered."""

    def __init__(self) -> None:
        self.bytes = 0
        self.notes: list[str] = []
        self.ended: list[str] = []

    def begin(self, name: str, total: int) -> None:
        self.bytes = 0

    def advance(self, step: int) -> None:
        self.bytes += step

    def note(self, text: str) -> None:
        self.notes.append(text)

    def end(self, name: str) -> None:
        self.ended.append(name)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub", reason=NEEDS)
    from harness.fetch import hub

    newer = {**MODEL, "config.json": b'{"model_type": "olmo3"}', "extra.bin": content_of(5, 10_000)}
    repos = {
        "models/lab/student": Repo({OLD: dict(MODEL), NEW: newer}),
        "datasets/lab/mixture": Repo({OLD: dict(DATA)}),
    }
    with Hub(repos) as running:
        monkeypatch.setattr(hub, "ENDPOINT", running.endpoint)
        yield running


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The client may use the network of this process, has no pauses and no cache of the user's."""
    pytest.importorskip("huggingface_hub", reason=NEEDS)
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from harness.fetch import hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    impatient = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr(file_download, "time", impatient)
    monkeypatch.setattr(_http, "time", impatient)
    monkeypatch.setattr(hub, "PAUSE_S", 0.0)
    # It writes in pieces of 10 MB and loses what it has of the last one; our files are much smaller.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)


def asset_of(content: dict[str, bytes], **changes: object) -> Asset:
    fields: dict[str, object] = {
        "role": "student",
        "type": "model",
        "repository": "lab/student",
        "revision": OLD,
        "observed": "2026-07-30",
        "bytes": sum(map(len, content.values())),
    }
    return Asset.model_validate(fields | changes)


def locked_files(files: dict[str, bytes]) -> list[LockedFile]:
    return [
        LockedFile.model_validate(
            {"path": path, "size": len(body), ("sha256" if len(body) > LARGE else "git_sha1"): etag(body)}
        )
        for path, body in sorted(files.items())
    ]


@pytest.fixture
def lock() -> AssetsLock:
    data = asset_of(DATA, role="data", type="dataset", repository="lab/mixture")
    return AssetsLock.model_validate(
        {
            "schema": SCHEMA,
            "profiles": ["paper"],
            "generated_profiles": ["pocket"],
            "targets": {"table2": ["student", "mixture"], "sweeps": ["student"]},
            "assets": {"student": asset_of(MODEL), "mixture": data},
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")
