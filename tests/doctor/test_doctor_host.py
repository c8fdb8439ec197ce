"""RAPL, CodeCarbon, clocks, scheduling, disk; and the command itself."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.doctor.checks import GROUPS, registered
from harness.doctor.diagnose import judge
from harness.doctor.inventory import GpuFacts, Nvml
from harness.doctor.observe import Clocks, Disk, EstimatorFacts, Machine
from harness.doctor.render import render
from tests.doctor.conftest import ESTIMATE, Examine, find
from tests.lab import Const, FakePowercap, LabConfig, LabDevice, Zone, obey_file_modes
from tests.lab.fixtures import lab_dir, lab_environ  # noqa: F401

ZONES = [
    Zone("package-0", (Const(60.0),)),
    Zone("dram", (Const(10.0),), parent="package-0"),
    Zone("core", (Const(20.0),), parent="package-0"),
    Zone("package-1", (Const(45.0),), offset_uj=7_000_000_000),
    Zone("psys", (Const(150.0),)),
]
PLAIN = Machine(estimator=ESTIMATE, scheduling="fifo", disk=Disk("runs", 10**12, True))


def run_doctor(*arguments: str, env: dict[str, str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "doctor", *arguments],
        env=lab_environ(env),
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def test_readable_rapl(examine: Examine, tmp_path: Path) -> None:
    with FakePowercap(tmp_path / "powercap", ZONES) as powercap:
        found = examine(None, required=("rapl",), **powercap.env())
    assert found.exit_code == 0
    assert found.methods == {"gpu": "absent", "cpu": "rapl", "dram": "rapl"}
    rapl = find(found, "rapl")
    assert rapl.status == "ok" and set(rapl.data["watts"]) == set(rapl.data["zones"])
    assert "package-0, dram-0, core-0" in rapl.observed
    assert "not used" in find(found, "codecarbon").observed


def test_denied_rapl_has_the_command_that_opens_it(tmp_path: Path) -> None:
    with FakePowercap(tmp_path / "powercap", ZONES[:2]) as powercap:
        for zone in ("package-0", "dram"):
            powercap.deny(zone)
        done = run_doctor(
            "--format",
            "json",
            "--require",
            "rapl",
            env=powercap.env(),
            preexec_fn=obey_file_modes,
            cwd=tmp_path,
        )
    answer = json.loads(done.stdout)
    (rapl,) = [check for check in answer["checks"] if check["id"] == "rapl"]
    assert done.returncode == 1 and answer["missing"] == ["rapl"]
    assert rapl["status"] == "missing" and rapl["data"]["denied"] == ["package-0", "dram-0"]
    assert rapl["fix"].startswith("sudo chmod -R a+r /sys/class/powercap/intel-rapl*")
    # The real estimator was started here: it stands in.
    assert answer["methods"]["cpu"] == "codecarbon_process"
    (codecarbon,) = [check for check in answer["checks"] if check["id"] == "codecarbon"]
    assert codecarbon["data"]["tdp_w"] > 0 and "would be used" in codecarbon["observed"]


@pytest.mark.parametrize(
    ("machine", "fix"),
    [
        (replace(PLAIN), "sudo modprobe intel_rapl_msr"),
        (replace(PLAIN, container="docker"), "docker run -v /sys/class/powercap/intel-rapl:/powercap:ro"),
        (replace(PLAIN, container="docker", virtual=True), None),
    ],
)
def test_absent_rapl(machine: Machine, fix: str | None) -> None:
    rapl = find(judge(machine), "rapl")
    assert rapl.status == "missing"
    assert (rapl.fix or "").startswith(fix or "") and (fix is None) == (rapl.fix is None)


@pytest.mark.parametrize(
    ("machine", "status", "fix"),
    [
        (PLAIN, "ok", None),
        (
            replace(PLAIN, scheduling="normal", container="docker"),
            "warn",
            "docker run --cap-add SYS_NICE IMAGE",
        ),
        (replace(PLAIN, scheduling="normal", root=True), "warn", "sysctl -w kernel.sched_rt_runtime_us=-1"),
        (replace(PLAIN, scheduling="nice -10"), "info", "rtprio"),
        (replace(PLAIN, scheduling=None), "info", "rtprio"),
    ],
)
def test_scheduling(machine: Machine, status: str, fix: str | None) -> None:
    check = find(judge(machine), "scheduling")
    assert check.status == status and (fix or "") in (check.fix or "")


@pytest.mark.parametrize(
    ("clocks", "check_id", "status"),
    [
        (Clocks("tsc", ("tsc",), 1.0, 30), "clock_source", "ok"),
        (Clocks("hpet", ("tsc", "hpet"), 1.0, 600), "clock_source", "warn"),
        (Clocks("jiffies", (), 4e6, 4_000_000), "clock_source", "warn"),
        (Clocks(None, (), 1.0, 30), "clock_source", "info"),
        (Clocks("tsc", wall_shift_us=-60_000, watched_s=2.0), "wall_clock", "warn"),
        (Clocks("tsc", wall_shift_us=40, watched_s=2.0), "wall_clock", "ok"),
    ],
)
def test_clocks(clocks: Clocks, check_id: str, status: str) -> None:
    check = find(judge(replace(PLAIN, clocks=clocks)), check_id)
    assert check.status == status
    if "tsc" in clocks.available and status == "warn":
        assert check.fix is not None and check.fix.startswith("echo tsc | sudo tee")


@pytest.mark.parametrize(
    ("disk", "status"),
    [
        (Disk("runs", 10**12, True), "ok"),
        (Disk("runs", 10**8, True), "warn"),
        (Disk("runs", None, True), "info"),
        (Disk("/proc", 0, False), "missing"),
    ],
)
def test_disk(disk: Disk, status: str) -> None:
    assert find(judge(replace(PLAIN, disk=disk)), "disk").status == status


def test_nothing_to_measure_with_is_exit_1() -> None:
    nothing = judge(replace(PLAIN, estimator=EstimatorFacts(error="the package codecarbon is not installed")))
    assert not nothing.measurable and nothing.exit_code == 1
    assert "Nothing can be measured or estimated here." in render(nothing)
    assert (find(nothing, "codecarbon").fix or "").startswith("python3 -m pip install")


def test_a_report_is_readable_at_80_columns_and_without_unicode() -> None:
    gpus = tuple(
        GpuFacts(
            index,
            model="NVIDIA H100 80GB HBM3 with a name longer than any",
            uuid="GPU-7b1dcdaf...",
            methods={"energy": "absent", "instant": "call", "average": "absent"},
            power_limit_mw=300_000,
            default_power_limit_mw=700_000,
            persistence=False,
            foreign_pids=[1000 + index] * 9,
        )
        for index in range(8)
    )
    broken = replace(PLAIN, nvml=Nvml(driver="1", gpus=gpus), container="docker", scheduling="normal")
    for encoding in ("utf-8", "ascii", None):
        lines = render(judge(broken), encoding).splitlines()
        assert max(map(len, lines)) <= 80
        if encoding != "utf-8":
            "\n".join(lines).encode("ascii")
    text = render(judge(broken))
    assert "✗ energy counter         GPU 0-7: not supported" in text
    # A continued command still is one command.
    command = text.split("fix: ")[1].split("\n\n")[0]
    assert all(line.rstrip().endswith("\\") or "\\" not in line for line in command.splitlines())


def test_every_check_says_what_it_is_about() -> None:
    entries = registered()
    assert len({entry.id for entry in entries}) == len(entries) >= 20
    for entry in entries:
        assert entry.group in GROUPS and entry.why.endswith(".") and len(entry.title) <= 22
        assert callable(entry.look) and (entry.subject == "machine" or entry.group == "gpu")


def test_the_command_line(lab_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    with FakePowercap(tmp_path / "powercap", ZONES[:1]) as powercap:
        env = {**LabConfig((LabDevice((Const(250.0),)),)).env(lab_dir), **powercap.env()}
        env["PYTHONIOENCODING"] = "ascii"
        healthy = run_doctor(
            "--require", "gpu", "--require", "counter", "--require", "rapl", env=env, cwd=tmp_path
        )
        assert (healthy.returncode, healthy.stderr) == (0, "")
        assert "measured, by the energy counter" in healthy.stdout and "Traceback" not in healthy.stdout
        answer = json.loads(run_doctor("--format", "json", env=env, cwd=tmp_path).stdout)
        assert answer["methods"] == {"gpu": "counter", "cpu": "rapl", "dram": "absent"}
        assert {"id", "title", "status", "observed", "why_it_matters", "fix"} <= set(answer["checks"][0])
    for wrong in (
        ["--require", "magic"],
        ["--out", "x.json"],
        ["--probe", "--require", "gpu"],
        ["--seconds", "0"],
    ):
        done = run_doctor(*wrong, env={}, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr, wrong
    done = run_doctor("--probe", env={"LD_LIBRARY_PATH": str(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 2 and "there is no GPU to probe" in done.stderr
