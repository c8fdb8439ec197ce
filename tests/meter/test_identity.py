"""A device has one name in a laboratory, another one elsewhere, and none without a secret."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from harness.bundle.environment import machine_facts
from harness.meter.identity import machine_scale_id, scale_id

UUID = "GPU-5f9c2f2a-0000-1111-2222-333344445555"


def test_one_name_in_one_laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "one"))
    name = scale_id("gpu", UUID)
    assert name is not None and re.fullmatch("[0-9a-f]{32}", name) and "5f9c2f2a" not in name
    assert scale_id("gpu", UUID) == name != scale_id("gpu", UUID[:-1] + "6")
    key = tmp_path / "one" / "scale.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and [p.name for p in key.parent.iterdir()] == [
        "scale.key"
    ]
    assert machine_facts()["scale_id"] == machine_scale_id(machine_facts()["cpu_model"])
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "two"))
    assert scale_id("gpu", UUID) not in (None, name)


def test_no_name_without_a_secret_or_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    assert scale_id("gpu", "") is None and scale_id() is None
    (tmp_path / "scale.key").write_bytes(b"short")
    assert scale_id("gpu", UUID) is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "file"))
    assert scale_id("gpu", UUID) is None
