"""Container engines for `make image-test`: dockerd started here, or podman and buildah without a daemon.

Either keeps all it stores below one folder of the test and leaves nothing behind: no images, no network, no
rule of a packet filter, no file elsewhere. `--gpus all` is answered by stand-ins for NVIDIA's container
toolkit that put the lab's fake NVML library where the toolkit puts the driver's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

LIBRARY_IN_CONTAINER = "usr/lib/{}-linux-gnu/libnvidia-ml.so.1"
NAMESPACE = "kit-image-test"
HOOK = '''#!/usr/bin/python3
"""Stand-in for the hook that `docker run --gpus` calls: binds one library into the container."""
import json, os, subprocess, sys
state = json.load(sys.stdin)
spec = json.load(open(os.path.join(state["bundle"], "config.json")))
env = dict(entry.split("=", 1) for entry in spec["process"]["env"] if "=" in entry)
if env.get("NVIDIA_VISIBLE_DEVICES", "void") in ("", "void", "none"):
    sys.exit(0)
target = os.path.join(state["bundle"], spec["root"]["path"], os.environ["LAB_TARGET"])
enter = ["nsenter", "--mount=/proc/%d/ns/mnt" % state["pid"]]
subprocess.check_call([*enter, "touch", target])
subprocess.check_call([*enter, "mount", "--bind", "-o", "ro", os.environ["LAB_NVML"], target])
'''
CDI = """cdiVersion: "0.5.0"
kind: nvidia.com/gpu
devices:
  - name: all
    containerEdits:
      env: ["NVIDIA_VISIBLE_DEVICES=void"]
containerEdits:
  mounts:
    - hostPath: {library}
      containerPath: /{target}
      options: ["ro", "nosuid", "nodev", "bind"]
"""
CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Skipped(Exception):
    """What cannot be done on this machine: the test is skipped, not failed."""


class Engine(ABC):
    """What the tests want of an engine."""

    name: str
    cli: list[str]
    """The client's command."""
    builder: list[str]
    build_options: tuple[str, ...]
    gpus: tuple[str, ...]
    """Options of `run` that let the GPUs in."""
    run_options: tuple[str, ...] = ()

    def __init__(self, folder: Path, library: Path, *, offline: bool = False) -> None:
        """Keep everything below `folder`; `library` is the fake NVML.

        An engine that is offline runs in a network namespace of its own, which has no route anywhere.
        """
        self.folder = folder
        self.library = library
        self.apart = ["unshare", "--net"] if offline else []
        self.target = LIBRARY_IN_CONTAINER.format(os.uname().machine)
        self.cgroups_before = cgroups()
        self.cli = []

    @abstractmethod
    def start(self) -> None:
        """Make the engine ready.

        Raises:
            Skipped: It does not run here.
        """

    def stop(self) -> None:
        """End what was started, however far it got, and remove what it left; a second call does nothing."""
        for mount in reversed(Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()):
            point = mount.split()[4].encode().decode("unicode_escape")
            if Path(point).is_relative_to(self.folder):
                subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
        for group in cgroups() - self.cgroups_before:
            for inner in sorted((group, *group.rglob("*/")), key=lambda path: -len(path.parts)):
                # Only empty groups can be removed; one that is in use is somebody else's.
                subprocess.run(["rmdir", inner], check=False, capture_output=True)

    def __call__(
        self, *words: str, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Call the client with some words, for so many seconds; stderr comes with stdout.

        Raises:
            AssertionError: It failed; the message has the output.
        """
        done = subprocess.run(
            [*self.cli, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"`{' '.join(words)}` ended with {done.returncode}:\n{done.stdout}")
        return done

    def import_base(self, tar: Path) -> str:
        """Make an image of a root file system; returns its name."""
        name = "localhost/base:local"
        self("import", str(tar), name)
        return name

    def save(self, image: str, path: Path) -> Path:
        """Write an image as an archive in docker's format."""
        self("save", "--output", str(path), image)
        return path


def cgroups() -> set[Path]:
    """Control groups that an engine makes and forgets to remove."""
    root = Path("/sys/fs/cgroup")
    patterns = [f"{above}{name}" for above in ("", "*/") for name in ("docker", "libpod_parent")]
    return {path for pattern in patterns for path in root.glob(pattern)}


class Docker(Engine):
    """A dockerd of our own beside any other: own socket, storage and state, no bridge, no packet filter."""

    name = "docker"
    gpus = ("--gpus", "all")
    build_options = ("--network", "host", "--progress", "plain")

    daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start dockerd and wait until it answers."""
        dockerd = shutil.which("dockerd")
        if dockerd is None:
            raise Skipped("dockerd is not installed")
        client = _client_that_builds()
        hook = self.folder / "hook" / "nvidia-container-runtime-hook"
        hook.parent.mkdir(parents=True)
        hook.write_text(HOOK, encoding="utf-8")
        hook.chmod(0o755)
        socket = f"unix://{self.folder / 'docker.sock'}"
        self.cli = [client, "--host", socket]
        self.builder = [*self.cli, "build"]
        self.log = self.folder / "dockerd.log"
        command = [*self.apart, dockerd, "--bridge=none", "--iptables=false", "--ip-forward=false"]
        command += ["--host", socket]
        for option, name in (("data-root", "data"), ("exec-root", "exec"), ("pidfile", "docker.pid")):
            command += [f"--{option}", str(self.folder / name)]
        # Where Docker is in use already: its configuration is not read, and a containerd that runs, which
        # dockerd joins, keeps our containers apart from those there.
        configuration = self.folder / "daemon.json"
        configuration.write_text("{}\n", encoding="utf-8")
        namespace = f"{NAMESPACE}-offline" if self.apart else NAMESPACE
        command += ["--config-file", str(configuration), "--containerd-namespace", namespace]
        command += ["--containerd-plugins-namespace", f"{namespace}-plugins"]
        environment = os.environ | {
            "PATH": f"{hook.parent}:{os.environ['PATH']}",
            "LAB_NVML": str(self.library),
            "LAB_TARGET": self.target,
        }
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while subprocess.run([*self.cli, "version"], capture_output=True, check=False).returncode != 0:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                last = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
                self.stop()
                raise Skipped("dockerd does not start here: " + " / ".join(last))
            time.sleep(0.2)

    def stop(self) -> None:
        """End the containers and the daemon."""
        if self.daemon is None:
            return
        running = subprocess.run([*self.cli, "ps", "--quiet"], capture_output=True, text=True, check=False)
        for container in running.stdout.split():
            subprocess.run([*self.cli, "kill", container], capture_output=True, check=False)
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        self.daemon = None
        super().stop()


def _client_that_builds() -> str:
    """A docker client with BuildKit: before version 23 it is built in, later it is the plugin buildx.

    Raises:
        Skipped: There is none.
    """
    for client in dict.fromkeys(filter(None, ("/usr/bin/docker", shutil.which("docker")))):
        if not Path(client).exists():
            continue
        told = subprocess.run([client, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"version (\d+)", told)
        plugin = subprocess.run([client, "buildx", "version"], capture_output=True, check=False)
        if version and (int(version[1]) < 23 or plugin.returncode == 0):
            return client
    raise Skipped("no docker client here can build with BuildKit (install docker.io or docker-buildx)")


class Podman(Engine):
    """podman and buildah; the only file outside of the folder is the CDI file, which is removed again."""

    name = "podman"
    gpus = ("--device", "nvidia.com/gpu=all")
    # Their health timers want systemd.
    run_options = ("--no-healthcheck",)
    cdi = Path("/etc/cdi/kit-image-test.yaml")
    made_cdi_folder = False

    def start(self) -> None:
        """Write the configuration; there is no daemon."""
        missing = [name for name in ("podman", "buildah", "runc") if shutil.which(name) is None]
        if missing:
            raise Skipped(f"{', '.join(missing)} not installed")
        # Our own file, left behind by a test that was killed, is written again.
        if any(path != self.cdi and "nvidia" in path.name for path in self.cdi.parent.glob("*")):
            raise Skipped(f"{self.cdi.parent} describes GPUs already, and this test leaves it alone")
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "containers.conf"
        configuration.write_text(CONTAINERS_CONF, encoding="utf-8")
        os.environ["CONTAINERS_CONF"] = str(configuration)
        stores = ["--root", str(self.folder / "store"), "--runroot", str(self.folder / "run")]
        self.cli = [*self.apart, "podman", *stores]
        self.builder = ["buildah", *stores, "bud", "--format", "docker"]
        self.build_options = ("--isolation", "chroot", "--network", "host")
        if not self.apart:
            self.made_cdi_folder = not self.cdi.parent.exists()
            self.cdi.parent.mkdir(parents=True, exist_ok=True)
            self.cdi.write_text(CDI.format(library=self.library, target=self.target), encoding="utf-8")
        done = subprocess.run([*self.cli, "info"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.stop()
            raise Skipped(f"podman does not run here: {done.stderr.strip().splitlines()[-1:]}")

    def stop(self) -> None:
        """Remove containers and the CDI file."""
        if not self.cli:
            return
        subprocess.run([*self.cli, "rm", "--all", "--force"], capture_output=True, check=False)
        if not self.apart:
            self.cdi.unlink(missing_ok=True)
        if self.made_cdi_folder:
            self.cdi.parent.rmdir()
            self.made_cdi_folder = False
        super().stop()


ENGINES: dict[str, Callable[[Path, Path], Engine]] = {"docker": Docker, "podman": Podman}
