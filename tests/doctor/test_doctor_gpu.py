"""What the doctor says of NVML and GPUs, through the real pynvml over the lab's library."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from harness.doctor.checks import _REGISTRY, RegisteredCheck, run_checks
from harness.doctor.inventory import shorten_uuids, take_inventory
from harness.doctor.observe import Machine
from harness.doctor.render import render
from tests.doctor.conftest import Examine, find
from tests.lab import (
    Const,
    Fault,
    LabConfig,
    LabDevice,
    Mig,
    counter_stuck,
    fails,
    gpu_lost,
    not_supported,
    process,
    zero_power,
)
from tests.lab.fixtures import lab_dir  # noqa: F401

HEALTHY = LabDevice((Const(300.0),))
NO_COUNTER = (not_supported("field:83"), not_supported("nvmlDeviceGetTotalEnergyConsumption"))


def test_without_nvml_a_run_is_estimated_and_a_required_gpu_is_missing(examine: Examine) -> None:
    found = examine(None, required=("gpu",))
    nvml = find(found, "nvml")
    assert nvml.status == "missing" and "libnvidia-ml.so.1" in nvml.observed
    assert found.methods == {"gpu": "absent", "cpu": "codecarbon_process", "dram": "codecarbon_process"}
    assert found.measurable and found.missing == ("gpu",) and found.exit_code == 1
    assert examine(None).exit_code == 0
    assert [check.id for check in found.checks if check.group == "gpu"] == ["nvml"]


def test_two_healthy_gpus(examine: Examine) -> None:
    config = LabConfig((HEALTHY, HEALTHY))
    found = examine(config, required=("gpu", "counter"))
    assert found.methods["gpu"] == "counter" and found.exit_code == 0
    per_gpu = [check for check in found.checks if check.group == "gpu"]
    assert {check.status for check in per_gpu} == {"ok", "info"}
    assert find(found, "energy_counter", 1).data["ticks_seen"] == 2
    assert find(found, "instant_power", 0).data["power_mw"] == 300_000
    text = render(found)
    assert "GPU 0-1: works (field 185)" in text
    assert max(map(len, text.splitlines())) <= 80
    assert max(map(len, render(found, width=60).splitlines())) <= 60
    for index in range(2):
        assert config.uuid(index) not in text + json.dumps(found.as_json())
        assert config.uuid(index)[:12] in text


@pytest.mark.parametrize(
    ("change", "check_id", "status", "words", "fix"),
    [
        ({"faults": NO_COUNTER}, "energy_counter", "missing", "not supported", "driver"),
        ({"faults": NO_COUNTER, "architecture": 4}, "energy_counter", "missing", "Volta", None),
        ({"faults": (counter_stuck(0),)}, "energy_counter", "missing", "stood still", "dmesg"),
        ({"faults": (not_supported("field:83"),)}, "energy_counter", "ok", "the older call", None),
        ({"faults": (not_supported("field:186"),)}, "instant_power", "warn", "PowerUsage", "driver"),
        ({"faults": (not_supported("field:185"),)}, "average_power", "warn", "not supported", "driver"),
        ({"power_limit_mw": 350_000}, "power_limit", "warn", "350 W", "sudo nvidia-smi -i 0 -pl 700"),
        ({"persistence": 0}, "persistence", "warn", "off", "sudo nvidia-smi -pm 1"),
        ({"throttle_bits": 0x4}, "throttling", "warn", "software power cap", "PERFORMANCE"),
        ({"module_extra_w": 150.0}, "module_scope", "warn", "module", "kit doctor --probe"),
        ({"mig_mode": 1, "mig": (Mig("MIG-11111111-2222"),)}, "mig", "warn", "on, 1 instance", "-mig 0"),
        ({"faults": (process(1),)}, "foreign_processes", "warn", "1 not started by you", "ps -o"),
        ({"faults": (process(1, kind="graphics"),)}, "foreign_processes", "warn", "pid 1", "ps -o"),
        ({"faults": (gpu_lost(-(10**12)),)}, "gpu", "missing", "GPU is lost", "--gpu-reset -i 0"),
    ],
)
def test_what_is_wrong_with_a_card_is_named_with_its_fix(
    examine: Examine, change: dict[str, object], check_id: str, status: str, words: str, fix: str | None
) -> None:
    check = find(examine(LabConfig((replace(HEALTHY, **change),))), check_id)
    assert (check.status, check.device) == (status, 0)
    assert words in check.observed
    assert (fix is None and check.fix is None) or (fix is not None and fix in (check.fix or ""))
    assert check.why_it_matters


def test_a_power_of_zero_is_no_power(examine: Examine) -> None:
    device = replace(HEALTHY, faults=(zero_power(0, -1, "field:185"),))
    check = find(examine(LabConfig((device,))), "average_power")
    assert check.status == "warn" and check.data["power_mw"] is None and check.fix


def test_without_a_counter_the_run_is_an_integral_and_the_counter_is_missed(examine: Examine) -> None:
    config = LabConfig((HEALTHY, replace(HEALTHY, faults=NO_COUNTER)))
    found = examine(config, required=("counter",))
    assert found.methods["gpu"] == "power_integral"
    assert found.missing == ("counter",) and found.exit_code == 1
    assert "--require counter" in render(found)


def test_a_lost_card_leaves_the_others_to_be_looked_at(examine: Examine) -> None:
    config = LabConfig((HEALTHY, replace(HEALTHY, faults=(gpu_lost(-(10**12)),))))
    found = examine(config, CUDA_VISIBLE_DEVICES=config.uuid(0))
    assert find(found, "gpu", 1).status == "missing"
    assert find(found, "energy_counter", 0).status == "ok"
    assert found.methods["gpu"] == "counter"


def test_another_card_is_offered_when_one_is_taken(examine: Examine) -> None:
    config = LabConfig((replace(HEALTHY, faults=(process(1),)), HEALTHY))
    check = find(examine(config), "foreign_processes", 0)
    assert check.fix is not None and "CUDA_VISIBLE_DEVICES=1" in check.fix


def test_the_selection_by_uuid_is_shown_with_a_short_uuid(examine: Examine) -> None:
    config = LabConfig((HEALTHY, HEALTHY))
    found = examine(config, CUDA_VISIBLE_DEVICES=config.uuid(1))
    selection = find(found, "selection")
    assert selection.data["selected"] == [1] and config.uuid(1) not in json.dumps(found.as_json())
    assert "not selected" in find(found, "gpu", 0).observed


@pytest.mark.parametrize(
    ("env", "devices", "status", "fix"),
    [
        ({"CUDA_VISIBLE_DEVICES": "7"}, (HEALTHY,), "missing", "unset CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, (HEALTHY,), "missing", "unset CUDA_VISIBLE_DEVICES"),
        (
            {"CUDA_VISIBLE_DEVICES": "0"},
            (HEALTHY, replace(HEALTHY, name="NVIDIA A100")),
            "warn",
            "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
        ),
        (
            {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
            (HEALTHY, replace(HEALTHY, name="NVIDIA A100")),
            "ok",
            None,
        ),
    ],
)
def test_doubts_about_the_selection(
    examine: Examine, env: dict[str, str], devices: tuple[LabDevice, ...], status: str, fix: str | None
) -> None:
    selection = find(examine(LabConfig(devices), **env), "selection")
    assert (selection.status, selection.fix) == (status, fix)


def test_a_mig_instance_selects_its_card(examine: Examine) -> None:
    uuid = "MIG-12345678-1234-1234-1234-123456789abc"
    config = LabConfig((HEALTHY, replace(HEALTHY, mig_mode=1, mig=(Mig(uuid),))))
    found = examine(config, CUDA_VISIBLE_DEVICES=uuid)
    assert find(found, "selection").data["selected"] == [1]
    assert "one of them selected" in find(found, "mig", 1).observed
    assert uuid not in json.dumps(found.as_json())


@pytest.mark.parametrize(
    ("code", "container", "hardware", "fix"),
    [
        (9, None, True, "sudo modprobe nvidia"),
        (4, None, True, "sudo chmod a+rw /dev/nvidiactl"),
        (18, None, True, "sudo reboot"),
        (999, None, True, "dmesg"),
        (9, None, False, None),
        (9, "docker", False, "docker run --gpus all"),
        (9, "kubernetes", False, "nvidia.com/gpu"),
    ],
)
def test_each_way_nvml_fails_has_its_own_fix(
    examine: Examine,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    container: str | None,
    hardware: bool,
    fix: str | None,
) -> None:
    from harness.doctor import observe

    monkeypatch.setattr(observe, "_container", lambda: container)
    monkeypatch.setattr(observe, "_nvidia_on_pci", lambda: int(hardware))
    check = find(examine(LabConfig(init_error=code)), "nvml")
    assert check.status == "missing" and check.data["nvml_code"] == code
    assert (fix is None and check.fix is None) or (fix is not None and fix in (check.fix or ""))


def _library(folder: Path, code: str) -> Path:
    source = folder / "broken.c"
    source.write_text(code)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def test_a_library_that_crashes_or_hangs_or_is_none_is_reported(
    lab_dir: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    _library(tmp_path, "#include <stdlib.h>\n__attribute__((constructor)) void f(void) { abort(); }\n")
    assert "crashed" in (take_inventory().error or "") and "SIGABRT" in (take_inventory().error or "")
    _library(tmp_path, "#include <unistd.h>\nint nvmlInitWithFlags(int f) { sleep(60); return f; }\n")
    assert "did not answer within 2 s" in (take_inventory(timeout_s=2.0).error or "")
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    assert take_inventory().code == 12
    _library(tmp_path, "int nvmlInitWithFlags(int f) { return f; }\nint nvmlShutdown(void) { return 0; }\n")
    half = take_inventory()
    assert half.gpus == () and half.error is not None and half.code == 13


@pytest.mark.parametrize(
    "faults",
    [
        (fails("*", 999),),
        (fails("nvmlDeviceGetFieldValues", 4),),
        (fails("nvmlDeviceGetUUID", 4),),
        (fails("nvmlDeviceGetComputeRunningProcesses", 4), fails("nvmlDeviceGetPersistenceMode", 3)),
        (fails("nvmlDeviceGetName", 15),),
        (fails("nvmlDeviceGetMigMode", 999), fails("nvmlDeviceGetPowerManagementLimit", 3)),
    ],
)
def test_nothing_that_a_card_refuses_ends_the_report(examine: Examine, faults: tuple[Fault, ...]) -> None:
    found = examine(LabConfig((replace(HEALTHY, faults=faults),)))
    assert not [check for check in found.checks if "this check itself failed" in check.observed]
    assert render(found)


def test_a_check_that_fails_is_one_line_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(machine: Machine) -> None:
        raise ZeroDivisionError("oh")

    entries = [*_REGISTRY, RegisteredCheck("broken", "broken", "host", "why", broken, "machine")]
    monkeypatch.setattr("harness.doctor.checks._REGISTRY", entries)
    (check,) = [check for check in run_checks(Machine()) if check.id == "broken"]
    assert check.status == "warn" and "ZeroDivisionError: oh" in check.observed


def test_uuids_are_cut_wherever_they_stand() -> None:
    text = "GPU-7b1dcdaf-0000-4000-8000-000000000000,MIG-GPU-7b1dcdaf-0000-4000-8000-000000000000/7/0"
    assert shorten_uuids(text) == "GPU-7b1dcdaf...,MIG-GPU-7b1dcdaf.../7/0"
    assert shorten_uuids("0,1") == "0,1"
