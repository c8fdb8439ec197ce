"""What `make image-test` demands of a running container; each check is a function that raises when it fails.

They run the image as its users do: commands, mounts, users and restrictions of docs/containers.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_engine import Engine

HARDENED = (
    *("--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--memory", "6g", "--pids-limit", "512"),
)
USER = "12345:12345"
"""A user the image knows nothing of."""
GPU_WATTS = (200.0, 75.0)
PIPELINE = """protocol: "1.0"
name: tiny
method: sft
labels: [pocket]
stages:
  - name: train
    kind: student_train
    command: [python, burn.py, "{seconds}", "${{run_dir}}/out.txt"]
    outputs: ["${{run_dir}}/out.txt"]
"""
BURN = """import json, os, sys, time
end, count = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    count += sum(1 for _ in range(1000))
    time.sleep(0.005)
open(sys.argv[2], "w").write(str(count))
open(os.environ["KIT_EVENTS"], "a").write(json.dumps({"tokens_trained": count}) + "\\n")
"""


@dataclass
class Bench:
    """What the checks work with.

    Attributes:
        engine: A running engine.
        tag: Name of the image under test.
        base: Name of its base image.
        work: Folder of this test.
        lab: Folder with the fake NVML.
        torch: cpu or cuda.
        python: Python version of the base.
        arguments: What the build was told.
    """

    engine: Engine
    tag: str
    base: str
    work: Path
    lab: Path
    torch: str
    python: str
    arguments: dict[str, str]

    def run(
        self,
        *words: str,
        options: tuple[str, ...] = HARDENED,
        code: int = 0,
        timeout: float = 300,
    ) -> str:
        """Run the image and return what it printed.

        Raises:
            AssertionError: It ended with another code.
        """
        command = ["run", "--rm", *self.engine.run_options, *options, self.tag, *words]
        done = self.engine(*command, check=False, timeout=timeout)
        assert done.returncode == code, (
            f"`{' '.join(words)}` ended with {done.returncode}, not {code}:\n{done.stdout}"
        )
        return done.stdout

    def folder(self, name: str, *, seconds: float = 2, owner: str = USER) -> Path:
        """A folder of a user with the pipeline of the checks in it."""
        path = self.work / name
        path.mkdir()
        (path / "my_pipeline.yaml").write_text(PIPELINE.format(seconds=seconds), encoding="utf-8")
        (path / "burn.py").write_text(BURN, encoding="utf-8")
        user, group = map(int, owner.split(":"))
        for entry in (path, *path.iterdir()):
            os.chown(entry, user, group)
        return path

    def gpu_options(self) -> tuple[tuple[str, ...], Any]:
        """Options that let the lab's two GPUs in, and the lab's truth about them."""
        from tests.lab import Const, LabConfig, LabDevice

        config = LabConfig(tuple(LabDevice((Const(watts),)) for watts in GPU_WATTS))
        config.write(self.lab / "lab.conf")
        mount = ("--volume", f"{self.lab}:/lab:ro", "--env", "KIT_LAB_NVML=/lab/lab.conf")
        return (*self.engine.gpus, *mount), config

    def inspect(self) -> dict[str, Any]:
        """What the engine says of the image."""
        [found] = json.loads(self.engine("image", "inspect", self.tag).stdout)
        return dict(found)

    @property
    def digest(self) -> str:
        """The image's digest."""
        return "sha256:" + str(self.inspect()["Id"]).removeprefix("sha256:")


def rows(run: Path, table: str) -> list[dict[str, Any]]:
    """Rows of a table of a run, read without the kit."""
    import pyarrow.parquet as pq

    return list(pq.read_table(run / f"{table}.parquet").to_pylist())


def manifest(run: Path) -> dict[str, Any]:
    """Manifest of a run."""
    return dict(json.loads((run / "manifest.json").read_text(encoding="utf-8")))


def health_and_packages(bench: Bench) -> None:
    """`kit health` is fine, also for a user without a name, and every package is as locked."""
    assert bench.run("health").startswith("ok")
    told = bench.run("health", "--packages", options=(*HARDENED, "--user", USER))
    assert "pins as locked" in told and f"torch {bench.torch}" in told, told
    assert bench.run("--version").startswith("kit ")
    assert "Measure:" in bench.run()


def engine_health_check(bench: Bench) -> None:
    """The engine's own health check calls a container healthy."""
    name = "kit-health"
    words = ["run", "--detach", "--name", name, "--health-interval", "1s", "--health-start-period", "0s"]
    bench.engine(*words, *HARDENED, bench.tag, "run", "--", "sleep", "60")
    try:
        if bench.engine.name == "podman":
            bench.engine("healthcheck", "run", name)
            return
        state = ""
        for _ in range(60):
            state = bench.engine("inspect", "--format", "{{.State.Health.Status}}", name).stdout.strip()
            if state == "healthy":
                return
            time.sleep(0.5)
        raise AssertionError(f"the container is {state}, not healthy")
    finally:
        bench.engine("rm", "--force", name, check=False)


def no_mount_is_explained(bench: Bench) -> None:
    """A pipeline file that is not mounted: exit code 2 and the mount option in the message."""
    told = bench.run("audit", "my_pipeline.yaml", code=2)
    assert '-v "$PWD:/work" kit audit my_pipeline.yaml' in told, told
    assert "Traceback" not in told


def bare_example(bench: Bench) -> None:
    """`docker run kit audit examples/minimal.yaml`, nothing mounted; its log has the image's revision."""
    name = "kit-bare"
    words = ["run", "--name", name, *bench.engine.run_options, bench.tag, "audit", "examples/minimal.yaml"]
    try:
        told = bench.engine(*words, timeout=600).stdout
        assert "absent, not zero" in told, told
        bench.engine("cp", f"{name}:/work/runs/minimal", str(bench.work / "minimal"))
    finally:
        bench.engine("rm", "--force", "--volumes", name, check=False)
    found = manifest(bench.work / "minimal")
    software = found["software"]
    assert software["lock_sha256"] == bench.arguments["LOCK_SHA256"], software
    assert software["git_commit"] == bench.arguments.get("GIT_COMMIT"), software
    assert software["image_digest"] is None, "nobody told the digest"
    assert found["status"] == "complete"
    assert {row["gpu_energy_j"] for row in rows(bench.work / "minimal", "stages")} == {None}
    bench.run(
        *("validate", "/data"),
        options=(*HARDENED, "--volume", f"{bench.work / 'minimal'}:/data:ro"),
        timeout=120,
    )


def gpu_audit(bench: Bench) -> None:
    """The documented command on two known GPUs, hardened, as an unknown user: exact joules, all facts."""
    folder = bench.folder("gpu")
    gpus, truth = bench.gpu_options()
    mounted = (*HARDENED, "--user", USER, "--volume", f"{folder}:/work")
    told = (*mounted, *gpus, "--env", f"KIT_IMAGE_DIGEST={bench.digest}")
    bench.run("audit", "my_pipeline.yaml", options=told)
    run = folder / "runs" / "tiny"
    assert run.stat().st_uid == int(USER.split(":")[0])
    [stage] = [row for row in rows(run, "stages") if row["name"] == "train"]
    assert stage["status"] == "completed" and stage["tokens_trained"] > 0
    for device, watts in enumerate(GPU_WATTS):
        start, end = stage["device_start_us"][device], stage["device_end_us"][device]
        expected = truth.true_energy_j(device, start, end)
        assert end - start > 1_500_000
        assert abs(stage["device_energy_j"][device] / expected - 1) < 0.001, (watts, stage, expected)
    found = manifest(run)
    software = found["software"]
    assert software["image_digest"] == bench.digest
    assert software["lock_sha256"] == bench.arguments["LOCK_SHA256"]
    assert software["torch"] and software["driver"] and software["cuda"] and software["python"], software
    assert len(found["hardware"]["devices"]) == len(GPU_WATTS)
    bench.run("validate", "runs/tiny", options=mounted)
    document = json.loads(bench.run("report", "runs/tiny", "--format", "json", options=mounted))
    assert document
    assert "J/token" in bench.run("report", "runs/tiny", options=mounted)
    bench.run("doctor", "--require", "gpu", options=told)


def without_gpu(bench: Bench) -> None:
    """The same command without a GPU: absent, never zero; results in a volume, sources mounted read-only."""
    folder = bench.folder("plain")
    volume = "kit-test-runs"
    mounts = ("--volume", f"{folder}:/work:ro", "--volume", f"{volume}:/runs")
    try:
        told = bench.run("audit", "my_pipeline.yaml", "--out", "/runs/a", options=(*HARDENED, *mounts))
        assert "GPU energy is absent, not zero" in told, told
        # The volume keeps the run and is open to any user.
        other = (*HARDENED, *mounts, "--user", "54321:54321")
        bench.run("validate", "/runs/a", options=other)
        bench.run("audit", "my_pipeline.yaml", "--out", "/runs/b", options=other)
    finally:
        bench.engine("volume", "rm", "--force", volume, check=False)


def unwritable_folder_is_explained(bench: Bench) -> None:
    """A mounted folder of somebody else: exit code 2 and the --user option in the message."""
    folder = bench.folder("foreign", owner="0:0")
    told = bench.run("audit", "my_pipeline.yaml", options=(*HARDENED, "--volume", f"{folder}:/work"), code=2)
    assert '--user "$(id -u):$(id -g)"' in told, told
    told = bench.run(
        "audit", "my_pipeline.yaml", options=(*HARDENED, "--volume", f"{folder}:/work:ro"), code=2
    )
    assert "--out /runs/tiny" in told, told


def mounted_repository(bench: Bench) -> None:
    """The commit of a mounted repository is recorded, though it belongs to another user; so are changes."""
    folder = bench.folder("repository")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "safe.directory=*", "-C", str(folder)]
    for words in (["init", "-q"], ["add", "my_pipeline.yaml", "burn.py"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    with (folder / "burn.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    (folder / "runs").mkdir(mode=0o777)
    (folder / "runs").chmod(0o777)
    bench.run("audit", "my_pipeline.yaml", options=(*HARDENED, "--volume", f"{folder}:/work"))
    software = manifest(folder / "runs" / "tiny")["software"]
    assert (software["git_commit"], software["git_dirty"]) == (head.strip(), True), software


def stop_seals_the_log(bench: Bench) -> None:
    """`docker stop` in the middle of a stage: the run ends as interrupted and its log is whole and valid."""
    folder = bench.folder("stopped", seconds=300)
    gpus, truth = bench.gpu_options()
    options = (*HARDENED, "--user", USER, "--volume", f"{folder}:/work")
    name = "kit-stopped"
    words = ["run", "--detach", "--name", name, *bench.engine.run_options, *options, *gpus]
    bench.engine(*words, bench.tag, "audit", "my_pipeline.yaml")
    try:
        for _ in range(240):
            if "1 train" in bench.engine("logs", name).stdout:
                break
            time.sleep(0.25)
        time.sleep(3)
        bench.engine("stop", "--time", "60", name)
        code = bench.engine("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip()
        assert code == "143", f"exit code {code}, not 128 + SIGTERM:\n{bench.engine('logs', name).stdout}"
    finally:
        bench.engine("rm", "--force", name, check=False)
    run = folder / "runs" / "tiny"
    [stage] = [row for row in rows(run, "stages") if row["name"] == "train"]
    assert stage["status"] == "interrupted", stage
    expected = sum(
        truth.true_energy_j(device, stage["device_start_us"][device], stage["device_end_us"][device])
        for device in range(len(GPU_WATTS))
    )
    assert abs(stage["gpu_energy_j"] / expected - 1) < 0.001, (stage["gpu_energy_j"], expected)
    assert manifest(run)["status"] == "partial"
    bench.run("validate", "runs/tiny", options=options)


def rapl_in_a_container(bench: Bench) -> None:
    """RAPL mounted and readable is measured; closed it is not, and the log says so instead of zero."""
    from tests.lab import Const, FakePowercap, Zone

    folder = bench.folder("rapl")
    tree = bench.work / "powercap"
    mounts = ("--volume", f"{folder}:/work", "--volume", f"{tree}:/powercap:ro")
    options = (*HARDENED, "--user", USER, *mounts, "--env", "KIT_POWERCAP_ROOT=/powercap")
    with FakePowercap(tree, [Zone("package-0", (Const(60.0),))]) as lab:
        bench.run("audit", "my_pipeline.yaml", "--out", "runs/closed", options=options)
        for file in tree.glob("intel-rapl:*/energy_uj"):
            file.chmod(0o444)
        bench.run("audit", "my_pipeline.yaml", "--out", "runs/open", "--cpu", "rapl", options=options)
        bench.run("audit", "my_pipeline.yaml", "--out", "runs/none", "--cpu", "none", options=options)
        [stage] = [row for row in rows(folder / "runs" / "open", "stages") if row["name"] == "train"]
        expected = lab.true_energy_j("package-0", stage["mono_start_us"], stage["mono_end_us"])
    assert stage["cpu_energy_method"] == "rapl", stage["cpu_energy_method"]
    assert abs(stage["cpu_energy_j"] / expected - 1) < 0.02, (stage["cpu_energy_j"], expected)
    [stage] = [row for row in rows(folder / "runs" / "closed", "stages") if row["name"] == "train"]
    assert stage["cpu_energy_method"] == "codecarbon_process", stage["cpu_energy_method"]
    [stage] = [row for row in rows(folder / "runs" / "none", "stages") if row["name"] == "train"]
    assert stage["cpu_energy_j"] is None, "not measured is not zero"


def pocket_table(bench: Bench) -> None:
    """The paper's table 2 at pocket size, hardened and as an unknown user; every log is valid."""
    folder = bench.folder("table2")
    options = (*HARDENED, "--user", USER, "--volume", f"{folder}:/work")
    told = bench.run(*("reproduce", "table2", "--profile", "pocket", "--yes"), options=options, timeout=3600)
    print(told)
    logs = sorted(path.parent for path in (folder / "runs").rglob("manifest.json"))
    assert len(logs) > 3, logs
    for log in logs:
        bench.run("validate", str(log.relative_to(folder)), options=options)


CHECKS: list[Callable[[Bench], None]] = [
    health_and_packages,
    engine_health_check,
    no_mount_is_explained,
    unwritable_folder_is_explained,
    gpu_audit,
    without_gpu,
    mounted_repository,
    stop_seals_the_log,
    rapl_in_a_container,
    bare_example,
]
