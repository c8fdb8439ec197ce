"""What a run finds when it begins, or is told while it goes on: cards that are not there, useless reports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.lab import LabConfig, LabDevice, fails
from tests.lab.fixtures import ROOT
from tests.meter.runs import Sealed, environment, kit, run_program, write_pipeline

GARBAGE = r"""
import os
path = os.environ["KIT_EVENTS"]
with open(path, "ab") as stream:
    stream.write(b'{"tokens_processed": 1000}\n')
    stream.write(b'\xff\xfe\x00garbage\n{"tokens_processed": -5}\n{"tokens_processed": 1e400}\n[1, 2]\n')
    stream.write(b'{"tokens_processed": "many"}\n{"event": 7}\n' + b'[' * 5000)
    stream.write(b'\n{"tokens_processed": NaN}\n')
    stream.write(b'{"tokens_trained": ' + b'9' * 400 + b'}\n{"unknown": 1}\n\n')
    stream.write(b'{"event": "checkpoint", "step": 3}\n{"tokens_processed": 24}')
"""


def test_garbage_in_the_report_file_is_flagged_and_the_rest_counted(lab_dir: Path, tmp_path: Path) -> None:
    config = LabConfig()
    pipeline = write_pipeline(tmp_path, [{"command": ["python", "-c", GARBAGE]}])
    env = environment(config, lab_dir)
    done = kit("audit", pipeline, "--out", tmp_path / "run", "--cpu", "none", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Sealed(tmp_path / "run")
    row = run.stages[0]
    assert row["tokens_processed"] == 1024
    assert row["tokens_trained"] is None
    assert "bad_report" in row["flags"]
    assert run.events("x-bad_report")
    assert run.events("checkpoint")[0]["detail"]["report"] == {"step": 3}


def test_a_machine_without_nvml_meters_no_gpu_and_says_so(tmp_path: Path) -> None:
    env = environment(None, tmp_path)
    out = tmp_path / "run"
    code = """
    import sys
    from harness import Meter
    with Meter(out=sys.argv[1], cpu="none") as meter, meter.stage("evaluate"):
        pass
    """
    run = run_program(out, code, env=env)
    assert "no_gpu" in run.manifest["labels"]
    assert run.stages[0]["gpu_energy_j"] is None
    assert run.stages[0]["gpu_energy_method"] == run.stages[0]["cpu_energy_method"] == "absent"


NOTHING = """
import sys
from harness import Meter
with Meter(out=sys.argv[1]) as meter, meter.stage("evaluate"):
    pass
"""


def without_codecarbon(folder: Path) -> dict[str, str]:
    """Of a process for which CodeCarbon cannot be imported, on a machine without RAPL."""
    package = folder / "broken" / "codecarbon"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('codecarbon is broken here')\n")
    path = f"{package.parent}{os.pathsep}{ROOT}"
    return {"PYTHONPATH": path, "KIT_POWERCAP_ROOT": str(folder / "none")}


def test_a_source_that_does_not_start_is_said_everywhere(lab_dir: Path, tmp_path: Path) -> None:
    env = environment(LabConfig(), lab_dir, without_codecarbon(tmp_path))
    out = tmp_path / "run"
    done = kit("run", "--out", out, "--", "sleep", "0.6", env=env)
    said = "codecarbon did not start, what it measures is missing: codecarbon is broken here"
    assert done.returncode == 0 and said in done.stderr, done.stderr
    (event,) = Sealed(out).events("source_absent")
    assert event["detail"] == {"source": "codecarbon", "reason": "codecarbon is broken here"}
    assert "codecarbon did not start" in kit("report", out, env=env).stdout
    assert "W315" in kit("validate", out, env=env).stdout


def test_a_driver_that_fails_is_said_and_a_machine_without_one_is_not(lab_dir: Path, tmp_path: Path) -> None:
    for name, config, count in (("broken", LabConfig(init_error=18), 1), ("none", None, 0)):
        env = environment(config, lab_dir, without_codecarbon(tmp_path / name))
        out = tmp_path / name / "run"
        run = run_program(out, NOTHING.replace("(out", "(cpu='none', out"), env=env)
        assert len(run.events("source_absent")) == count


def test_nothing_measured_is_no_success_unless_it_was_asked_for(tmp_path: Path) -> None:
    env = environment(None, tmp_path, without_codecarbon(tmp_path))
    pipeline = write_pipeline(tmp_path, [{"command": "true"}])
    asked = write_pipeline(tmp_path / "asked", [{"command": "true"}], devices="none")
    runs = [
        kit("run", "--out", tmp_path / "one", "--", "true", env=env),
        kit("audit", pipeline, "--out", tmp_path / "two", env=env),
        kit("run", "--cpu", "none", "--", "true", env=env),
        kit("audit", asked, "--out", tmp_path / "three", env=env),
    ]
    assert [run.returncode for run in runs] == [1, 1, 0, 0], [run.stderr for run in runs]
    assert ["nothing is measured" in run.stderr for run in runs] == [True, True, False, False]
    assert kit("run", "--", "sh", "-c", "exit 7", env=env).returncode == 7
    done = subprocess.run(
        [sys.executable, "-c", NOTHING, str(tmp_path / "four")],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "kit: nothing is measured" in done.stderr


STDERR_GONE = """
import sys
import psutil
from pathlib import Path
from harness import Meter

class Gone:
    def write(self, text):
        if "nothing is measured" in text:
            raise BrokenPipeError

    def flush(self):
        pass

sys.stderr = Gone()
try:
    Meter(out=sys.argv[1]).start()
except BrokenPipeError:
    print(psutil.Process().children(), list(Path(sys.argv[1], "journal").iterdir()))
"""


def test_a_meter_that_cannot_say_what_it_must_leaves_no_sampler_and_no_journal(tmp_path: Path) -> None:
    env = environment(None, tmp_path, without_codecarbon(tmp_path))
    command = [sys.executable, "-c", STDERR_GONE, str(tmp_path / "run")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_devices_that_were_asked_for_must_be_there(lab_dir: Path, tmp_path: Path) -> None:
    code = """
    import sys
    from harness import Meter
    from harness.errors import KitError
    try:
        with Meter(out=sys.argv[1], cpu="none", devices=[5]):
            pass
    except KitError as error:
        print("refused:", error)
        sys.exit(9)
    """
    run_program(tmp_path / "run", code, env=environment(LabConfig(init_error=9), lab_dir), code_wanted=9)
    run_program(tmp_path / "two", code, env=environment(LabConfig(), lab_dir), code_wanted=9)
    assert not list((tmp_path / "run" / "journal").glob("*"))


def test_a_lost_gpu_at_the_start_is_not_metered(lab_dir: Path, tmp_path: Path) -> None:
    config = LabConfig((LabDevice(faults=(fails("*", 15),)), LabDevice()))
    code = """
    import sys, time
    from harness import Meter
    with Meter(out=sys.argv[1], cpu="none") as meter, meter.stage("evaluate"):
        time.sleep(0.3)
    """
    run = run_program(tmp_path / "run", code, env=environment(config, lab_dir))
    assert run.stages[0]["device_ids"] == [1]


def test_a_card_that_cannot_be_told_apart_is_left_out_and_named(lab_dir: Path, tmp_path: Path) -> None:
    nameless = (fails("nvmlDeviceGetUUID", 999), fails("nvmlDeviceGetPciInfo", 999))
    config = LabConfig((LabDevice(faults=nameless), LabDevice(), LabDevice(faults=nameless[:1])))
    code = """
    import sys, time
    from harness import Meter
    with Meter(out=sys.argv[1], cpu="none") as meter, meter.stage("evaluate"):
        time.sleep(0.3)
    """
    run = run_program(tmp_path / "run", code, env=environment(config, lab_dir))
    assert run.stages[0]["device_ids"] == [1, 2]  # the third has its PCI id
    (event,) = run.events("nvml_error")
    assert (event["device_id"], event["severity"]) == (0, "error")
    assert event["detail"] == {"at_start": True, "quantity": "identity"}
    assert run.events("sampler_start")[0]["detail"]["doubts"] == ["gpu_unidentified"]


def test_a_number_means_the_same_card_after_another_is_lost(lab_dir: Path, tmp_path: Path) -> None:
    config = LabConfig((LabDevice(faults=(fails("*", 15),)), LabDevice(), LabDevice()))
    code = """
    import sys
    from harness import Meter
    from harness.errors import KitError
    with Meter(out=sys.argv[1], cpu="none", devices=[1]) as meter, meter.stage("evaluate"):
        pass
    try:
        Meter(out=sys.argv[1] + "-lost", cpu="none", devices=[0]).start()
    except KitError as error:
        sys.exit(9 if "device '0'" in str(error) else 1)
    """
    run = run_program(tmp_path / "run", code, env=environment(config, lab_dir), code_wanted=9)
    assert run.stages[0]["device_ids"] == [1]


def test_a_report_too_large_for_the_log_is_refused_and_the_run_goes_on(lab_dir: Path, tmp_path: Path) -> None:
    code = """
    import sys
    from harness import Meter
    from harness.errors import KitError
    with Meter(out=sys.argv[1], cpu="none") as meter, meter.stage("evaluate") as stage:
        try:
            stage.event("weights", values="x" * (17 << 20))
        except KitError:
            stage.event("checkpoint", step=1)
    """
    run = run_program(tmp_path / "run", code, env=environment(LabConfig(), lab_dir))
    assert run.stages[0]["status"] == "completed" and not run.events("stage_event")
    assert run.events("checkpoint")[0]["detail"]["report"] == {"step": 1}
    assert not run.events("journal_error")
