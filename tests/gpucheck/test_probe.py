"""The probe through the real pynvml: instruments set in the lab are found again, one run for all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.stand_in import write_torch
from tests.lab import Const, LabConfig, LabDevice, Refresh, Square, not_supported
from tests.lab.fixtures import lab_dir, lab_environ  # noqa: F401

LOADED = (Square(100.0, 500.0, 4_140_000, 0.56),)
DEVICES = (
    LabDevice(LOADED, counter=Refresh(100_000, 50_000), noise_mw=800),
    LabDevice((Const(71.25),), counter=Refresh(37_000, 11_000), sensor=Refresh(20_000, 7_000)),
    LabDevice(LOADED, counter=Refresh(20_000, 3_000), sensor=Refresh(37_000, 5_000), counter_extra_w=150.0),
    LabDevice(LOADED, counter_extra_w=150.0, module_extra_w=150.0, average_us=600_000, noise_mw=500),
    LabDevice(
        LOADED,
        faults=(not_supported("field:185"), not_supported("field:186"), not_supported("field:83")),
        usage_is_instant=1,
        sensor=Refresh(20_000),
    ),
)


@pytest.fixture(scope="module")
def probed(lab_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:  # noqa: F811
    out = tmp_path_factory.mktemp("probe") / "figures" / "probe.json"
    command = [sys.executable, "-m", "harness.cli.main", "doctor", "--probe", "--seconds", "14", "--no-load"]
    done = subprocess.run(
        [*command, "--out", str(out)],
        env=lab_environ(LabConfig(DEVICES).env(lab_dir)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def value(probed: tuple[dict[str, Any], str], device: int, key: str) -> float:
    figure = probed[0]["devices"][device]["figures"][key]
    assert figure["value"] is not None, figure["how"]
    return float(figure["value"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "key", "truth_ms"),
    [
        (0, "counter_refresh_ms", 100.0),
        (1, "counter_refresh_ms", 37.0),
        (2, "counter_refresh_ms", 20.0),
        (4, "counter_refresh_ms", 100.0),
        (0, "instant_refresh_ms", 100.0),
        (0, "average_refresh_ms", 100.0),
        (2, "average_refresh_ms", 37.0),
        (3, "usage_refresh_ms", 100.0),
    ],
)
def test_refresh_periods(probed: tuple[dict[str, Any], str], device: int, key: str, truth_ms: float) -> None:
    assert value(probed, device, key) == pytest.approx(truth_ms, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "key", "truth_s"),
    [
        (0, "average_lag_s", 0.5),
        (0, "usage_lag_s", 0.5),
        (2, "average_lag_s", 0.5),
        (3, "average_lag_s", 0.3),
    ],
)
def test_averaging_lags(probed: tuple[dict[str, Any], str], device: int, key: str, truth_s: float) -> None:
    assert value(probed, device, key) == pytest.approx(truth_s, rel=0.1)


@pytest.mark.slow
def test_scopes_are_told_apart(probed: tuple[dict[str, Any], str]) -> None:
    data, text = probed
    scopes = [device["counter_scope"] for device in data["devices"]]
    assert scopes == ["gpu", "gpu", "wider", "module", "gpu"]
    assert value(probed, 2, "counter_offset_w") == pytest.approx(150.0, abs=5.0)
    assert value(probed, 3, "counter_vs_module_ratio") == pytest.approx(1.0, abs=0.01)
    assert "! GPU 3: the counter agrees with the module's power" in text


@pytest.mark.slow
def test_idle_power_is_exact(probed: tuple[dict[str, Any], str]) -> None:
    assert value(probed, 1, "idle_power_w") == 71.25
    assert value(probed, 1, "idle_power_sd_w") == 0.0
    assert value(probed, 1, "idle_counter_power_w") == pytest.approx(71.25, rel=0.002)
    remarks = [device["remarks"] for device in probed[0]["devices"]]
    assert remarks[1] == [] and "not steady" in remarks[0][0]


@pytest.mark.slow
def test_what_could_not_be_measured_says_why(probed: tuple[dict[str, Any], str]) -> None:
    data, text = probed
    steady, old = data["devices"][1]["figures"], data["devices"][4]["figures"]
    assert steady["average_lag_s"]["value"] is None
    assert "did not change enough" in steady["average_lag_s"]["how"]
    assert "no load was made" in steady["average_lag_s"]["how"]
    assert old["average_refresh_ms"]["how"] == "not measured: the card does not give this reading"
    assert old["instant_lag_s"]["value"] is None
    assert data["load"] is None and data["no_load_reason"] == "not asked for (--no-load)"
    assert "Nothing a program can read proves" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.slow
def test_every_figure_says_how_it_was_measured_and_nothing_names_the_machine(
    probed: tuple[dict[str, Any], str],
) -> None:
    data, text = probed
    units = ("_ms", "_us", "_s", "_w", "_ratio")
    for device in data["devices"]:
        for key, figure in device["figures"].items():
            assert key.endswith(units) and figure["how"] and figure["n"] >= 0
    for secret in ("GPU-", str(Path.home()), str(Path.cwd())):
        assert secret not in json.dumps(data) and secret not in text


@pytest.mark.slow
def test_with_torch_a_load_is_made(lab_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    write_torch(tmp_path)
    config = LabConfig((LabDevice((Const(90.0),)),))
    environ = lab_environ(config.env(lab_dir))
    environ["PYTHONPATH"] += f":{tmp_path}"
    command = [sys.executable, "-m", "harness.cli.main", "doctor", "--probe", "--seconds", "4"]
    done = subprocess.run(
        [*command, "--format", "json"], env=environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["load"], result["no_load_reason"]) == ("torch 0.0-stand-in", None)
    assert result["devices"][0]["figures"]["context_power_w"]["value"] == 90.0
    assert "under a square-wave load" in done.stderr
