"""Which cards a run is billed for: cards in doubt, cards that nothing ran on, cards that are reserved."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.validate import validate
from tests.lab import Const, LabConfig, LabDevice
from tests.meter.runs import Sealed, environment, kit, write_pipeline

WORKS = LabDevice((Const(300.0),), util_pct=97)
IDLE = LabDevice((Const(60.0),), util_pct=0)
TWO_MODELS = LabConfig((LabDevice(), LabDevice((Const(60.0),), name="NVIDIA L4")))
ORDER = "CUDA_DEVICE_ORDER"


def labels(folder: Path) -> set[str]:
    found = validate(folder, threads=1).comparability
    assert found is not None
    return {label.id for label in found.labels}


@pytest.mark.parametrize(
    ("own", "doubt"),
    [
        ({}, True),
        ({ORDER: "PCI_BUS_ID"}, False),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, False),  # all cards, whatever the numbers mean
        ({"CUDA_VISIBLE_DEVICES": TWO_MODELS.uuid(1)}, False),
    ],
)
def test_a_number_that_may_mean_another_card_is_a_label_of_the_run(
    lab_dir: Path, tmp_path: Path, own: dict[str, str], doubt: bool
) -> None:
    env = environment(TWO_MODELS, lab_dir)
    pipeline = write_pipeline(
        tmp_path, [{"command": "sleep 0.3", "env": {"CUDA_VISIBLE_DEVICES": "0", **own}}]
    )
    out = tmp_path / "run"
    done = kit("audit", pipeline, "--out", out, "--cpu", "none", env=env)
    assert done.returncode == 0, done.stderr
    assert ("device_order_ambiguous" in Sealed(out).manifest["labels"]) == doubt
    assert ("C414" in labels(out)) == doubt
    report = kit("report", out, env=env).stdout
    assert ("may not be those that were used" in " ".join(report.split())) == doubt
    assert ("CUDA_DEVICE_ORDER=PCI_BUS_ID" in report) == doubt


@pytest.mark.parametrize(
    ("devices", "billed", "found"),
    [("auto", 8, True), ("all", 8, False), ([3], 1, False), ([0, 3, 4], 3, True)],
)
def test_cards_that_nothing_ran_on_are_named_with_their_joules(
    lab_dir: Path, tmp_path: Path, devices: str | list[int], billed: int, found: bool
) -> None:
    env = environment(LabConfig([IDLE] * 3 + [WORKS] + [IDLE] * 4), lab_dir)
    pipeline = write_pipeline(
        tmp_path, [{"command": "sleep 1.5"}], devices=devices, sampling={"period_ms": 100}
    )
    out = tmp_path / "run"
    done = kit("audit", pipeline, "--out", out, "--cpu", "none", env=env)
    assert done.returncode == 0, done.stderr
    run = Sealed(out)
    assert len(run.stages[0]["device_ids"]) == billed
    report = " ".join(kit("report", out, env=env).stdout.split())
    findings = [f for f in validate(out, threads=1).findings if f.id == "W316"]
    assert bool(findings) == found
    if found:
        idle = sum(
            energy
            for row in run.all_stages
            for device, energy in zip(row["device_ids"], row["device_energy_j"], strict=True)
            if device != 3
        )
        (finding,) = findings
        assert finding.count == billed - 1
        assert finding.joules_at_stake == pytest.approx(idle, rel=1e-6)
        assert "devices: [3] in the pipeline file, or CUDA_VISIBLE_DEVICES=3" in report
        assert "no kernel ran there" in report
    assert ("reserved and paid for (devices: all)" in report) == (devices == "all")


def test_of_a_card_that_says_no_utilisation_nothing_is_said(lab_dir: Path, tmp_path: Path) -> None:
    from tests.lab import not_supported

    silent = LabDevice((Const(60.0),), faults=(not_supported("nvmlDeviceGetUtilizationRates"),))
    env = environment(LabConfig((WORKS, silent)), lab_dir)
    pipeline = write_pipeline(tmp_path, [{"command": "sleep 1.5"}], sampling={"period_ms": 100})
    out = tmp_path / "run"
    assert kit("audit", pipeline, "--out", out, "--cpu", "none", env=env).returncode == 0
    assert "W316" not in {finding.id for finding in validate(out, threads=1).findings}
