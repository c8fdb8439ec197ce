"""scripts/gpu_check.py from end to end over the lab, and its refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.doctor.inventory import Nvml
from harness.gpucheck.check import Bench, SectionResult, predicted_row, run_check
from harness.gpucheck.engine import engine
from harness.gpucheck.loader import Load
from harness.gpucheck.sections import synchronise
from tests.doctor.stand_in import write_torch
from tests.lab import Const, LabConfig, LabDevice, Refresh
from tests.lab.fixtures import lab_dir, lab_environ  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.py"


def run(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=lab_environ(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


@pytest.mark.slow
def test_a_rehearsal_runs_every_section(lab_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    config = LabConfig((LabDevice((Const(300.0),), counter=Refresh(100_000, 30_000), noise_mw=500),))
    out = tmp_path / "out"
    # As on a machine with torch alone: the check does without pydantic.
    (tmp_path / "without" / "pydantic").mkdir(parents=True)
    (tmp_path / "without" / "pydantic" / "__init__.py").write_text("raise ImportError('not installed')\n")
    env = {**config.env(lab_dir), "PYTHONPATH": f"{tmp_path / 'without'}:{ROOT}"}
    done = run("--cpu-rehearsal", "--scale", "0.03", "--out", str(out), env=env, cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr  # a busy machine may miss a bar that is about time
    (data_file,), (text_file,) = out.glob("*.json"), out.glob("*.md")
    assert data_file.name == "rehearsal-nvidia-h100-80gb-hbm3-550.54.15.json"
    text, result = text_file.read_text(), json.loads(data_file.read_text())
    assert result["rehearsal"] is True and "REHEARSAL" in text and "REHEARSAL" in done.stdout
    assert not (tmp_path / "artifacts").exists()
    sections = {section["name"]: section for section in result["sections"]}
    assert list(sections) == ["probe", "stages", "synchronise", "models", "engine"]
    verdicts = {e["id"]: e["verdict"] for section in sections.values() for e in section["expectations"]}
    assert not [name for name in verdicts if name.endswith("_ran")], done.stdout
    for certain in ("counter_refresh", "counter_scope", "counter_used", "closure", "counter_vs_integral"):
        assert verdicts[certain] == "pass", (certain, done.stdout)
    assert verdicts["repeatability"] == "pass", done.stdout
    assert verdicts["average_lag"] == verdicts["synchronise"] == verdicts["engine"] == "not run"
    if sections["models"]["data"].get("cases"):
        assert verdicts["models_complete"] == "pass" and "student_train_13b" in text
    else:  # without the train packages
        assert verdicts["models_complete"] == "not run"
    stages = sections["stages"]["data"]["stages"]
    assert len(stages) == 14
    for stage in stages:
        true_j = config.true_energy_j(0, stage["mono_start_us"], stage["mono_end_us"])
        assert stage["gpu_energy_j"] == pytest.approx(true_j, rel=0.005)
        assert stage["name"] in text
    for secret in (str(tmp_path), str(ROOT), "GPU-"):
        assert secret not in text and secret not in data_file.read_text()


def test_without_vllm_the_engine_is_left_out_by_name(lab_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    """Not a rehearsal: the stand-in for torch, in an interpreter without vLLM.

    The device's memory is full: a section that makes no load puts nothing there.
    """
    write_torch(tmp_path, broken=True)
    env = {**LabConfig().env(lab_dir), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    out = tmp_path / "out"
    done = run("--only", "engine", "--scale", "0.4", "--out", str(out), env=env, cwd=tmp_path)
    assert done.returncode == 0 and "vLLM is not installed" in done.stdout, done.stdout + done.stderr
    (section,) = json.loads(next(out.glob("*.json")).read_text())["sections"]
    assert section["expectations"][0]["verdict"] == "not run"


def test_an_engine_that_has_no_time_left_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter that has vLLM, seven minutes and a half into the eight."""
    (tmp_path / "vllm.py").write_text("raise SystemExit('begun all the same')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Load(sys.executable, "numpy") as load:
        bench = Bench(tmp_path, load, rehearsal=False, scale=1.0, say=print, begun=time.monotonic() - 450)
        (expectation,) = engine(bench).expectations
    assert expectation.verdict == "not run" and "s of the check's time were left" in expectation.observed


def test_without_a_gpu_it_says_so(lab_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    empty = {"LD_LIBRARY_PATH": str(tmp_path)}
    for arguments in ([], ["--cpu-rehearsal"]):
        done = run(*arguments, env=empty, cwd=tmp_path)
        assert done.returncode == 2 and "there is no GPU to check" in done.stderr
        assert "kit doctor" in done.stderr and "Traceback" not in done.stderr
    done = run("--load-python", sys.executable, env=LabConfig().env(lab_dir), cwd=tmp_path)
    assert done.returncode == 2 and "no load can be made" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_never_becomes_evidence(lab_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    env = LabConfig().env(lab_dir)
    done = run("--cpu-rehearsal", "--out", str(ROOT / "artifacts" / "gpu-check"), env=env, cwd=tmp_path)
    assert done.returncode == 2 and "a rehearsal is no evidence" in done.stderr
    for wrong in (["--scale", "0"], ["--only", "magic", "--scale", "0.02"]):
        done = run("--cpu-rehearsal", *wrong, env=env, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not (tmp_path / "artifacts").exists()


def test_an_interpreter_without_the_kits_packages_says_what_to_do(tmp_path: Path) -> None:
    """A copy of the checkout without .venv, run by an interpreter that sees no packages at all."""
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / "scripts")
    done = subprocess.run(
        [sys.executable, "-I", "-S", script, "--cpu-rehearsal"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "lacks numpy, pyarrow" in done.stderr and "make setup" in done.stderr


def test_a_failure_of_many_lines_is_one_row_and_the_report_ends_with_one_table(
    lab_dir: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(bench: Bench) -> SectionResult:
        raise RuntimeError("CUDA error: x | y\nof /srv/alice/libtorch.so")

    def first(bench: Bench) -> SectionResult:
        return SectionResult(predicted=[predicted_row("one", (2.0, 3.0), (4.0, None), (1.0, 1.0))])

    def second(bench: Bench) -> SectionResult:
        return SectionResult(predicted=[predicted_row("two", (2.0, 1.0))])

    said: list[str] = []
    with Load(sys.executable, "numpy") as load:
        bench = Bench(tmp_path, load, rehearsal=True, scale=1.0, say=said.append)
        sections = {"broken": ("Broken", broken), "first": ("First", first), "second": ("Second", second)}
        assert run_check(bench, Nvml(driver="1", cuda="2"), sections, (), tmp_path / "out") == ["broken_ran"]
    (report,) = (tmp_path / "out").glob("*.md")
    lines = report.read_text().splitlines()
    (row,) = [line for line in lines if "CUDA error" in line]
    assert row.endswith("x \\| y of <path>/libtorch.so | **does not hold** |")
    assert "alice" not in "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert lines[-2:] == [
        "| one | 2.000 | 3.000 | +50% | 4.000 | unknown | unknown | 1.000 | 1.000 | +0% |",
        "| two | 2.000 | 1.000 | -50% | - | - | - | - | - | - |",
    ]
    assert sum(line.startswith("| case |") for line in lines) == 1
    assert [line.split()[0] for line in said[-3:-1]] == ["one", "two"]


def test_a_stage_holds_work_that_was_only_queued(
    lab_dir: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not a rehearsal: the stand-in for torch queues work as a device does, in this very program."""
    write_torch(tmp_path)
    env = LabConfig().env(lab_dir)
    out = tmp_path / "out"
    environ = {**env, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    arguments = ["--only", "synchronise", "--scale", "0.4", "--out", str(out)]
    done = run(*arguments, env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (data_file,) = out.glob("*.json")
    assert data_file.name == "nvidia-h100-80gb-hbm3-550.54.15.json"
    (section,) = json.loads(data_file.read_text())["sections"]
    assert section["data"]["device_s"] > 0.3 and section["expectations"][0]["verdict"] == "pass"
    assert "REHEARSAL" not in done.stdout

    write_torch(tmp_path, available=False)  # as with torch for the CPU in the kit's environment
    with Load(sys.executable, "numpy") as load:
        bench = Bench(tmp_path, load, rehearsal=False, scale=0.4, say=print)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        (expectation,) = synchronise(bench).expectations
    assert expectation.verdict == "not run" and "sees a CUDA device" in expectation.observed


@pytest.mark.slow
def test_the_audit_on_torch_takes_the_cards_memory_and_gives_it_back(lab_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    write_torch(tmp_path)
    env = {**LabConfig().env(lab_dir), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    out = tmp_path / "out"
    done = run("--only", "stages", "--scale", "0.02", "--out", str(out), env=env, cwd=tmp_path)
    (section,) = json.loads(next(out.glob("*.json")).read_text())["sections"]
    verdicts = {one["id"]: one["verdict"] for one in section["expectations"]}
    assert verdicts["counter_used"] == verdicts["closure"] == "pass", done.stdout + done.stderr
