"""Builds the image: `make image` with the CUDA build of torch, `make image-cpu` with the CPU build.

Uses docker where a daemon answers, else buildah. What the image knows of itself (revision, versions, the
digest of its locks) is worked out here, so that `docker build .` by hand gives the same image without labels.

The CPU build of torch is not in the registry that the build sees. Its wheel comes in through the folder
wheelhouse/, fetched from wherever this machine's pip finds it; the build checks its hash like any other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
WHEELHOUSE = ROOT / "wheelhouse"
LOCKS = {"cuda": ("torch-cuda", "train", "generate", "punkt"), "cpu": ("torch-cpu", "train", "punkt")}
"""As containers/install.sh installs them; their order is the order of the digest."""
SIZES = {"cuda": "10 GB, several GB of it downloaded", "cpu": "2 GB"}
BASE_FACTS = "0.1 GB by public notes, under the NVIDIA Deep Learning Container License"
BASE_PYTHON = "3.12"
"""Of the base image that the Dockerfile names (Ubuntu 24.04)."""
CONTEXT = (
    *("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml"),
    *("artifacts/paper", "artifacts/pocket_teacher"),
    *("containers", "examples", "harness", "protocol", "requirements"),
)


class BuildError(Exception):
    """What keeps the image from being built, with the remedy."""


def lock_digest(torch: str) -> str:
    """Digest of the installed locks, one after another."""
    texts = [(REQUIREMENTS / f"{name}.lock").read_bytes() for name in LOCKS[torch]]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def build_arguments(torch: str, base: str | None) -> dict[str, str]:
    """Build arguments; what is unknown is left out, and the label stays empty."""
    version = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    protocols = sorted((ROOT / "protocol").glob("*/protocol.yaml"))
    protocol = re.search(r'^version: "?([\d.]+)"?', protocols[-1].read_text("utf-8"), re.MULTILINE)
    if version is None or protocol is None:
        raise BuildError("the versions of kit and protocol cannot be found in pyproject.toml and protocol/")
    arguments = {
        "TORCH": torch,
        "LOCK_SHA256": lock_digest(torch),
        "KIT_VERSION": version[1],
        "PROTOCOL_VERSION": protocol[1],
    }
    if base is not None:
        arguments["BASE_IMAGE"] = base
    if (commit := _git("rev-parse", "HEAD")) is not None:
        changes = _git("status", "--porcelain", "--", *CONTEXT)
        arguments |= {"GIT_COMMIT": commit, "GIT_DIRTY": "true" if changes else "false"}
    return arguments


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def fetch_cpu_wheel(python: str) -> Path:
    """Put the CPU build of torch for a Python version into wheelhouse/, unless it is there, hash checked.

    Raises:
        BuildError: This machine's pip sees none.
    """
    tag = f"cp{python.replace('.', '')}"
    machine = platform.machine()
    lines = (REQUIREMENTS / "torch-cpu.sha256").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    names = [name for name in listed if f"-{tag}-" in name and machine in name]
    if not names:
        raise BuildError(f"requirements/torch-cpu.sha256 lists no CPU build of torch for {tag} on {machine}")
    wheel = WHEELHOUSE / names[0]
    if not wheel.exists() or _sha256(wheel) != listed[wheel.name]:
        WHEELHOUSE.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", python]
        command += ["--platform", wheel.stem.split("-")[-1], "--dest", str(WHEELHOUSE)]
        done = subprocess.run([*command, "-r", str(REQUIREMENTS / "torch-cpu.lock")], check=False)
        if done.returncode != 0:
            raise BuildError(
                f"pip on this machine sees no CPU build of torch for Python {python}\n"
                f"  fix: put {wheel.name} into wheelhouse/, or let pip see it: PIP_FIND_LINKS=<folder> or\n"
                "       PIP_EXTRA_INDEX_URL=<index>; the install page of pytorch.org names the index for CPU"
            )
    return wheel


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def builder() -> list[str]:
    """The command that builds: docker with a daemon behind it, else buildah.

    Raises:
        BuildError: There is neither.
    """
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "build"]
    if buildah := shutil.which("buildah"):
        # Health checks are a thing of docker's format alone.
        return [buildah, "bud", "--format", "docker"]
    raise BuildError(
        "nothing here builds images: no docker daemon answers and buildah is not installed\n"
        "  fix: start docker, or: apt-get install -y buildah podman\n"
        "  to build and try the image with an engine of its own: make image-test (root, Debian or Ubuntu)"
    )


def build(
    command: list[str],
    torch: str,
    tags: list[str],
    *,
    base: str | None = None,
    python: str = BASE_PYTHON,
    options: tuple[str, ...] = (),
    output: IO[str] | None = None,
) -> dict[str, str]:
    """Build the image.

    Args:
        command: The builder, from `builder` or an engine of the tests.
        torch: cuda or cpu.
        tags: Names of the image.
        base: Base image instead of the Dockerfile's.
        python: Python version of the base.
        options: More options of the builder.
        output: Where the builder's lines go; to the terminal if None.

    Returns:
        The build arguments.

    Raises:
        BuildError: It failed; the builder has said why.
    """
    if torch == "cpu":
        fetch_cpu_wheel(python)
    words = [*command, *options]
    arguments = build_arguments(torch, base)
    for name, value in arguments.items():
        words += ["--build-arg", f"{name}={value}"]
    for tag in tags:
        words += ["--tag", tag]
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    done = subprocess.run([*words, str(ROOT)], env=environment, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        raise BuildError("the image could not be built; the lines above say why")
    return arguments


def outlook(torch: str, base: str | None) -> list[str]:
    """What a build pulls, how much that is and under which licences, in lines for people."""
    named = re.search(r"^ARG BASE_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    texts = [(REQUIREMENTS / f"{name}.lock").read_text("utf-8") for name in LOCKS[torch]]
    pins = {name for text in texts for name in re.findall(r"^([a-z0-9][\w.-]*)==", text, re.MULTILINE)}
    nvidia = sum(name.startswith(("nvidia-", "cuda-")) and name != "nvidia-ml-py" for name in pins)
    image_base = base or (named[1] if named else "the base of the Dockerfile")
    lines = [f"pulls {image_base}" + ("" if base else f", {BASE_FACTS}")]
    lines.append(
        "pulls Debian or Ubuntu packages that the base lacks (Python, git, certificates), their licences"
    )
    wheels = f"pulls {len(pins)} wheels that the locks pin by hash, most under Apache, BSD and MIT licences"
    lines.append(wheels + (f"; {nvidia} of NVIDIA's, under NVIDIA's proprietary licence" if nvidia else ""))
    lines.append(f"makes an image of {SIZES[torch]}; nothing is sent anywhere")
    return lines


def main() -> int:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("torch", choices=sorted(LOCKS))
    parser.add_argument("--base", metavar="IMAGE", help="base image instead of the one in the Dockerfile")
    parser.add_argument("--python", default=BASE_PYTHON, help="Python version of the base (%(default)s)")
    parser.add_argument(
        "--tag", action="append", default=[], help="name of the image (kit:cpu, kit:cuda, kit)"
    )
    given = parser.parse_args()
    for line in outlook(given.torch, given.base):
        print(f"image: {line}", flush=True)
    tags = given.tag or (["kit:cpu"] if given.torch == "cpu" else ["kit:cuda", "kit:latest"])
    try:
        build(builder(), given.torch, tags, base=given.base, python=given.python)
    except BuildError as error:
        print(f"image: {error}", file=sys.stderr)
        return 2
    print(f"image: built {', '.join(tags)}. Next: docs/containers.md says how to run it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
