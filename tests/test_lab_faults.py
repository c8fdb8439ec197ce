"""What goes wrong in the fake NVML goes wrong when, where and how the config says, and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab import (
    Const,
    LabConfig,
    LabDevice,
    Mig,
    clock_step_env,
    counter_reset,
    counter_stuck,
    error_burst,
    fails,
    gpu_lost,
    mono_us,
    not_supported,
    override,
    process,
    read_calls,
    stall,
    zero_power,
)
from tests.lab.fixtures import RunInLab, lab_dir, lab_environ, nvml_child  # noqa: F401

# Reads everything as fast as 5 ms apart for a second and says when it saw what.
WATCH = """
def attempt(call, *args):
    try:
        return call(*args)
    except nvml.NVMLError as error:
        return -error.value
rows = []
begin, end = map(int, sys.argv[1:])
time.sleep(max(0, begin - time.monotonic_ns() // 1000) / 1e6)
while time.monotonic_ns() // 1000 < end:
    before = time.monotonic_ns() // 1000
    fields = attempt(nvml.nvmlDeviceGetFieldValues, handles[0], [83, 185, 186])
    if not isinstance(fields, int):
        fields = [-f.nvmlReturn or f.value.ullVal for f in fields]
    row = [fields, attempt(nvml.nvmlDeviceGetTotalEnergyConsumption, handles[0]),
           attempt(nvml.nvmlDeviceGetPowerUsage, handles[0]), attempt(nvml.nvmlDeviceGetUUID, handles[0])]
    rows.append([before, time.monotonic_ns() // 1000, *row])
    time.sleep(0.005)
print(json.dumps(rows))
"""
SECOND = 1_000_000
A, B = 1_500_000, 2_000_000


def watch(run: RunInLab, device: LabDevice) -> tuple[LabConfig, dict[str, list[list]]]:
    """Rows read wholly before, inside and after the window [A, B).

    It begins half a second from now, or later where a busy machine needs longer to start the child. Nothing
    is read before the lab's origin.
    """
    parts: dict[str, list[list]] = {}
    for lead_us in (SECOND // 2, 3 * SECOND, 12 * SECOND):
        config = LabConfig((device,), t0_us=mono_us() + lead_us - A)
        rows = json.loads(run(config, WATCH, str(config.t0_us), str(config.t0_us + B + 300_000)))
        a, b = config.t0_us + A, config.t0_us + B
        parts = {
            "before": [row for row in rows if row[1] < a],
            "inside": [row for row in rows if a <= row[0] and row[1] < b],
            "after": [row for row in rows if b <= row[0]],
        }
        if all(len(part) >= 3 for part in parts.values()):
            return config, parts
    raise AssertionError({name: len(part) for name, part in parts.items()})


HEALTHY = LabDevice((Const(300.0),), counter_offset_mj=5_000_000)


def test_a_burst_of_errors_has_two_ends(nvml_child: RunInLab) -> None:  # noqa: F811
    _, parts = watch(nvml_child, replace(HEALTHY, faults=(error_burst(A, B),)))
    for _, _, fields, energy, usage, uuid in parts["inside"]:
        assert (fields, energy, usage, uuid) == (-999, -999, -999, -999)
    for _, _, fields, energy, usage, _ in parts["before"] + parts["after"]:
        assert fields[1:] == [300_000, 300_000] and usage == 300_000 and energy >= 5_000_000


def test_a_lost_gpu_stays_lost_and_the_others_go_on(nvml_child: RunInLab) -> None:  # noqa: F811
    config = LabConfig((replace(HEALTHY, faults=(gpu_lost(0),)), HEALTHY))
    code = """
try:
    nvml.nvmlDeviceGetPowerUsage(handles[0])
except nvml.NVMLError_GpuIsLost as error:
    print(error, nvml.nvmlDeviceGetPowerUsage(handles[1]), nvml.nvmlDeviceGetCount())
"""
    assert nvml_child(config, code).strip() == "GPU is lost 300000 2"


def test_fields_and_functions_fail_one_by_one(nvml_child: RunInLab) -> None:  # noqa: F811
    faults = (
        not_supported("field:83", A, B),
        fails("field:186", 4, A, B),
        not_supported("nvmlDeviceGetPowerUsage", A, B),
    )
    _, parts = watch(nvml_child, replace(HEALTHY, faults=faults))
    for _, _, fields, energy, usage, _ in parts["inside"]:
        assert fields == [-3, 300_000, -4] and usage == -3 and energy > 5_000_000
    assert all(
        min(fields) > 0 and usage > 0 for _, _, fields, _, usage, _ in parts["before"] + parts["after"]
    )


def test_a_reset_counter_restarts_from_zero(nvml_child: RunInLab) -> None:  # noqa: F811
    config, parts = watch(nvml_child, replace(HEALTHY, faults=(counter_reset(A),)))
    assert all(energy >= 5_000_000 for *_, energy, _, _ in parts["before"])
    for before, after, fields, energy, _, _ in parts["inside"] + parts["after"]:
        since = [0, *(at - config.t0_us - A for at in config.tick_times(0, config.t0_us + A, after))]
        seen = [mj for mj in (300 * s // 1000 for s in since) if mj == energy]
        assert seen and energy <= 300 * (after - config.t0_us - A) // 1000 and before > 0
        assert fields[0] <= energy
    assert parts["inside"][0][3] < 35_000


def test_a_stuck_counter_stands_and_catches_up(nvml_child: RunInLab) -> None:  # noqa: F811
    config, parts = watch(nvml_child, replace(HEALTHY, faults=(counter_stuck(A, B),)))
    stood = 5_000_000 + 300 * A // 1000
    assert {row[3] for row in parts["inside"]} == {row[2][0] for row in parts["inside"]} == {stood}
    assert parts["after"][0][3] == 5_000_000 + 300 * B // 1000
    assert config.true_energy_j(0, config.t0_us + A, config.t0_us + B) == 150.0


def test_zero_power_is_read_where_it_is_asked_for(nvml_child: RunInLab) -> None:  # noqa: F811
    faults = (zero_power(A, B, "field:186"), zero_power(A, B, "nvmlDeviceGetPowerUsage"))
    _, parts = watch(nvml_child, replace(HEALTHY, faults=faults))
    assert {(*fields[1:], usage) for _, _, fields, _, usage, _ in parts["inside"]} == {(300_000, 0, 0)}
    rest = parts["before"] + parts["after"]
    assert {(*fields[1:], usage) for _, _, fields, _, usage, _ in rest} == {(300_000, 300_000, 300_000)}


def test_a_stall_takes_its_time_and_answers_for_its_middle(nvml_child: RunInLab) -> None:  # noqa: F811
    config = LabConfig((LabDevice(faults=(stall(0, 1000 * SECOND, 400_000, "nvmlDeviceGetFieldValues"),)),))
    code = """
start = time.monotonic_ns()
mj = nvml.nvmlDeviceGetFieldValues(handles[0], [83])[0].value.ullVal
stalled = time.monotonic_ns() - start
prompt = []
for _ in range(5):
    before = time.monotonic_ns()
    nvml.nvmlDeviceGetPowerUsage(handles[0])
    prompt.append(time.monotonic_ns() - before)
print(start // 1000, stalled // 1000, min(prompt) // 1000, mj)
"""
    start, stalled, prompt, mj = map(int, nvml_child(config, code).split())
    assert stalled >= 400_000 and prompt < 100_000
    tick = config.tick_times(0, start, start + 200_000)[-1]
    late = (stalled - 400_000) // 100_000  # refreshes that the processor was lost for
    assert mj in [600_000_000 + 300 * (tick - config.t0_us + k * 100_000) // 1000 for k in range(2 + late)]


def test_latency_is_paid_by_every_call(nvml_child: RunInLab) -> None:  # noqa: F811
    code = """
start = time.perf_counter()
for _ in range(100): nvml.nvmlDeviceGetPowerUsage(handles[0])
print((time.perf_counter() - start) / 100 * 1e6)
"""
    assert float(nvml_child(LabConfig((LabDevice(latency_us=1500),)), code)) >= 1500


def test_processes_come_from_the_config_and_from_a_file(nvml_child: RunInLab, tmp_path: Path) -> None:  # noqa: F811
    listing = tmp_path / "pids"
    listing.write_text("41\n42\n")
    faults = (process(7, mib=300), process(8, kind="graphics"), process(9, start_us=10**12))
    config = LabConfig((LabDevice(faults=faults, process_file=str(listing)), LabDevice()))
    code = """
print(json.dumps([[[p.pid, p.usedGpuMemory >> 20] for p in f(h)] for h in handles for f in (
    nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses)]))
"""
    assert json.loads(nvml_child(config, code)) == [[[7, 300], [41, 1024], [42, 1024]], [[8, 1024]], [], []]


def test_gauges_follow_their_overrides(nvml_child: RunInLab) -> None:  # noqa: F811
    gauges = {"temp_c": 88, "sm_clock_mhz": 345, "throttle_bits": 0x40, "power_limit_mw": 400_000}
    values = {**gauges, "mem_used_mib": 70_000, "util_pct": 3}
    faults = tuple(override(name, value, 0) for name, value in values.items())
    config = LabConfig((LabDevice(), LabDevice(faults=faults)))
    code = """
T = nvml.NVML_TEMPERATURE_GPU
for h in handles:
    m, m2 = nvml.nvmlDeviceGetMemoryInfo(h), nvml.nvmlDeviceGetMemoryInfo(h, nvml.nvmlMemory_v2)
    assert (m.total, m.used, m.free) == (m2.total, m2.used, m2.free) and m.used + m.free == m.total
    assert nvml.nvmlDeviceGetTemperature(h, T) == nvml.nvmlDeviceGetTemperatureV(h, T)
    reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(h)
    assert reasons == nvml.nvmlDeviceGetCurrentClocksThrottleReasons(h)
    limit = nvml.nvmlDeviceGetPowerManagementLimit(h)
    assert limit == nvml.nvmlDeviceGetEnforcedPowerLimit(h)
    print(json.dumps([nvml.nvmlDeviceGetTemperature(h, T), nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM),
                      reasons, limit, m.used >> 20, nvml.nvmlDeviceGetUtilizationRates(h).gpu]))
"""
    plain, changed = map(json.loads, nvml_child(config, code).split("\n")[:2])
    assert plain == [45, 1980, 0, 700_000, 1024, 42]
    assert changed == [*gauges.values(), 70_000, 3]


def test_the_inventory(nvml_child: RunInLab) -> None:  # noqa: F811
    config = LabConfig((LabDevice(), LabDevice(name="NVIDIA A100", architecture=7, pci_bus=0xC1, ecc=0)))
    code = """
h = handles[1]
pci = nvml.nvmlDeviceGetPciInfo(h)
by_bus = nvml.nvmlDeviceGetHandleByPciBusId(pci.busId)
by_uuid = nvml.nvmlDeviceGetHandleByUUID(nvml.nvmlDeviceGetUUID(h))
print(json.dumps([
    nvml.nvmlSystemGetDriverVersion(), nvml.nvmlSystemGetNVMLVersion(),
    nvml.nvmlSystemGetCudaDriverVersion(), nvml.nvmlSystemGetCudaDriverVersion_v2(),
    nvml.nvmlDeviceGetName(by_bus), nvml.nvmlDeviceGetIndex(by_uuid), pci.busId, pci.busIdLegacy,
    nvml.nvmlDeviceGetMinorNumber(h), nvml.nvmlDeviceGetArchitecture(h),
    nvml.nvmlDeviceGetCudaComputeCapability(h), nvml.nvmlDeviceGetPersistenceMode(h),
    nvml.nvmlDeviceGetEccMode(h), nvml.nvmlDeviceGetMaxClockInfo(h, nvml.NVML_CLOCK_SM),
    nvml.nvmlDeviceGetPowerManagementDefaultLimit(h),
    nvml.nvmlDeviceGetPowerManagementLimitConstraints(h), nvml.nvmlDeviceGetMigMode(h),
    nvml.nvmlDeviceGetComputeMode(h), nvml.nvmlDeviceGetPowerManagementMode(h)]))
for ask in (lambda: nvml.nvmlDeviceGetHandleByUUID("GPU-none"), lambda: nvml.nvmlDeviceGetHandleByIndex(2)):
    try:
        ask()
    except nvml.NVMLError as error:
        print(type(error).__name__)
"""
    known, *refused = nvml_child(config, code).splitlines()
    versions = ["550.54.15", "12.550.54.15", 12040, 12040]
    place = ["NVIDIA A100", 1, "00000000:C1:00.0", "0000:C1:00.0", 1]
    rest = [7, [9, 0], 1, [0, 0], 1980, 700_000, [200_000, 700_000], [0, 0], 0, 1]
    assert json.loads(known) == [*versions, *place, *rest]
    assert refused == ["NVMLError_NotFound", "NVMLError_InvalidArgument"]


def test_mig_instances_have_handles_but_no_power(nvml_child: RunInLab) -> None:  # noqa: F811
    instances = (
        Mig("MIG-11111111-0000-0000-0000-000000000000"),
        Mig("MIG-2", gpu_instance=8, memory_mib=19_968),
    )
    config = LabConfig((LabDevice(mig_mode=1, mig=instances), LabDevice()))
    code = """
h = handles[0]
mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(h, 1)
assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByUUID("MIG-2")) == nvml.nvmlDeviceGetUUID(mig)
parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)
def refused(call, *args):
    try:
        return call(*args)
    except nvml.NVMLError as error:
        return error.value
print(json.dumps([
    nvml.nvmlDeviceGetMigMode(h), nvml.nvmlDeviceGetMaxMigDeviceCount(h), nvml.nvmlDeviceGetName(mig),
    nvml.nvmlDeviceGetGpuInstanceId(mig), nvml.nvmlDeviceGetUUID(parent) == nvml.nvmlDeviceGetUUID(h),
    refused(nvml.nvmlDeviceGetPowerUsage, mig), refused(nvml.nvmlDeviceGetTotalEnergyConsumption, mig),
    [f.nvmlReturn for f in nvml.nvmlDeviceGetFieldValues(mig, [83, 186])],
    refused(nvml.nvmlDeviceGetPowerUsage, h),
    refused(nvml.nvmlDeviceGetUtilizationRates, h), refused(nvml.nvmlDeviceGetMigDeviceHandleByIndex, h, 2),
    refused(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handles[1], 0),
    nvml.nvmlDeviceIsMigDeviceHandle(mig).value, nvml.nvmlDeviceIsMigDeviceHandle(h).value]))
"""
    name = "NVIDIA H100 80GB HBM3 MIG 1g.19gb"
    expected = [[1, 1], 7, name, 8, True, 3, 3, [3, 3], 300_000, 3, 6, 3, 1, 0]
    assert json.loads(nvml_child(config, code)) == expected


def test_the_module_scope_answers_only_where_there_is_a_module(nvml_child: RunInLab) -> None:  # noqa: F811
    config = LabConfig((LabDevice(), LabDevice(module_extra_w=150.0)))
    code = """
for h in handles:
    fields = nvml.nvmlDeviceGetFieldValues(h, [(186, 0), (186, 1)])
    print(json.dumps([[f.nvmlReturn, f.value.uiVal] for f in fields]))
"""
    alone, module = map(json.loads, nvml_child(config, code).splitlines())
    assert alone[0] == [0, 300_000] and alone[1][0] == 3
    assert module == [[0, 300_000], [0, 450_000]]


def test_calls_of_all_processes_are_counted(nvml_child: RunInLab, tmp_path: Path) -> None:  # noqa: F811
    config = LabConfig(calls_path=str(tmp_path / "calls"))
    for _ in range(2):
        nvml_child(config, "for _ in range(10): nvml.nvmlDeviceGetFieldValues(handles[0], [83])")
    calls = read_calls(tmp_path / "calls")
    assert calls["nvmlDeviceGetFieldValues"] == 20 and calls["nvmlInitWithFlags"] == 2
    assert "nvmlDeviceGetPowerUsage" not in calls


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("init_error 9", "Driver Not Loaded"),
        ("device\nwave wobble 3", "cannot understand 'wave'"),
        ("t0_us x", "t0_us"),
    ],
)
def test_init_fails_as_told_and_on_nonsense(lab_dir: Path, tmp_path: Path, change: str, reason: str) -> None:  # noqa: F811
    path = tmp_path / "broken.conf"
    path.write_text(f"{change}\n")
    environ = lab_environ(LabConfig().env(lab_dir), {"KIT_LAB_NVML": str(path)})
    done = subprocess.run(
        [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"],
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and reason in done.stderr


def test_the_wall_clock_can_be_stepped(lab_dir: Path) -> None:  # noqa: F811
    code = """
import sys, time
def show():
    # The largest of a few: whoever loses the processor between the two reads sees less.
    print(max(time.time_ns() - time.monotonic_ns() for _ in range(9)) // 1000, time.monotonic_ns() // 1000)
show()
while time.monotonic_ns() // 1000 <= int(sys.argv[1]):
    time.sleep(0.01)
show()
"""
    for lead_us in (SECOND, 5 * SECOND, 25 * SECOND):
        step_us = mono_us() + lead_us
        steps = clock_step_env(lab_dir, [(0, 3_600_000_000), (step_us, -7_200_500_000)])
        command = [sys.executable, "-c", code, str(step_us)]
        shown = subprocess.check_output(command, env={**os.environ, **steps}, text=True)
        (before_us, at_us), (after_us, _) = (map(int, line.split()) for line in shown.splitlines())
        if at_us < step_us:  # else a busy machine started the child too late
            break
    offset_us = max(time.time_ns() - time.monotonic_ns() for _ in range(9)) // 1000
    assert at_us < step_us
    assert before_us - offset_us == pytest.approx(3_600_000_000, abs=100_000)
    assert after_us - offset_us == pytest.approx(-3_600_500_000, abs=100_000)
