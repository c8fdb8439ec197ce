"""scripts/gpu_check.py from end to end over the lab, and its refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    """Not a rehearsal: the stand-in for torch, in an interpreter without vLLM."""
    write_torch(tmp_path)
    env = {**LabConfig().env(lab_dir), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    out = tmp_path / "out"
    done = run("--only", "engine", "--scale", "0.4", "--out", str(out), env=env, cwd=tmp_path)
    assert done.returncode == 0 and "vLLM is not installed" in done.stdout, done.stdout + done.stderr
    (section,) = json.loads(next(out.glob("*.json")).read_text())["sections"]
    assert section["expectations"][0]["verdict"] == "not run"


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


def test_a_stage_holds_work_that_was_only_queued(lab_dir: Path, tmp_path: Path) -> None:  # noqa: F811
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
