"""Write requirements/*.lock: every package pinned, every file's hash listed.

`make lock` runs this. Pins that still satisfy pyproject.toml stay as they are; with UPGRADE=1 all move to the
newest allowed version. One lock serves Python 3.11 to 3.13 (environment markers), with one version a package
wherever that is possible, so that results from two interpreters stay comparable.

torch comes in two builds with one version. On Linux the registry's wheel is the CUDA build, which drags
several GB of NVIDIA libraries along; the CPU build is known by its local version `+cpu`. So there are three:

- train.lock has everything both builds need. Its torch line lists the hashes of both.
- torch-cuda.lock has torch with the registry's hashes alone, so that no `+cpu` wheel can satisfy it, and the
  NVIDIA libraries.
- torch-cpu.lock asks for the CPU build by its name, so that pip fails at once where it sees none instead of
  fetching the other. Its hashes come from torch-cpu.sha256, in `sha256sum` format.

scripts/setup.sh installs one of the last two and then the first. The image with the CUDA build adds
generate.lock, which has vLLM and what only vLLM needs.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
CPU_WHEELS = "torch-cpu.sha256"


class Lock(NamedTuple):
    """What one lock file is for."""

    title: str
    extras: list[str]
    """Extras of pyproject.toml it resolves on top of the base list. The build backend is in every lock that
    makes an environment: it puts the checkout into it without a network."""
    below: list[str]
    """Locks whose pins bind this one."""


LOCKS = {
    "base": Lock("runtime and build backend", ["build"], []),
    "dev": Lock(
        "runtime, build backend, tests, linters and the lock tool",
        ["build", "test", "lint", "lock"],
        ["base"],
    ),
    "train": Lock(
        "runtime, build backend, training and evaluation, with either build of torch",
        ["build", "train", "eval", "plot"],
        ["base"],
    ),
    "generate": Lock(
        "what generation with vLLM needs on top of torch-cuda.lock and train.lock",
        ["build", "train", "eval", "plot", "generate"],
        ["dev", "train", "torch-cuda"],
    ),
    "image": Lock("what examines the image, on top of dev.lock", ["image"], ["dev"]),
    "peers": Lock(
        "what only the tests need on top of train.lock and dev.lock",
        ["train", "plot", "peers"],
        ["dev", "train"],
    ),
}
# These list only what the named locks lack.
ON_TOP_OF = {"generate": ("train", "torch-cuda"), "image": ("dev",), "peers": ("dev", "train", "torch-cuda")}
COMPILE = [
    "pip",
    "compile",
    "pyproject.toml",
    "--universal",
    "--python-version=3.11",
    "--constraint=requirements/constraints.txt",
    "--fork-strategy=fewest",
    "--generate-hashes",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--quiet",
]
# What only the CUDA build of torch needs. nvidia-ml-py is the meter's and brings no library.
CUDA_ONLY = re.compile(r"(nvidia-(?!ml-py$)|cuda-|triton$)")
Blocks = dict[str, str]
"""The text of each pin with its hashes and comments, by package, in the order of the file."""


def find_uv() -> str:
    """The uv beside this interpreter (pinned in dev.lock), else the one on PATH.

    Raises:
        SystemExit: There is none.
    """
    beside = Path(sysconfig.get_path("scripts")) / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        sys.exit("lock: uv not found; run `make setup-dev`, which installs the pinned one into .venv")
    return found


def read_blocks(text: str) -> Blocks:
    """Split a lock into its pins; comment lines before the first are left out."""
    blocks: Blocks = {}
    for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE):
        if name := re.match(r"[a-z0-9][\w.-]*(?===)", block):
            blocks[name[0]] = block
    return blocks


def stored(name: str) -> Blocks:
    """The pins of a lock as it lies on disk; none if there is no such file."""
    path = REQUIREMENTS / f"{name}.lock"
    return read_blocks(path.read_text(encoding="utf-8")) if path.exists() else {}


def resolve(uv: str, name: str, *, upgrade: bool) -> Blocks:
    """Let uv resolve one lock.

    Args:
        uv: Path of the uv executable.
        name: Key of `LOCKS`.
        upgrade: Ignore the present pins.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{name}.lock"
        present = stored(name) | (stored("torch-cuda") if name == "train" else {})
        for other in ON_TOP_OF.get(name, ()):
            present |= stored(other)
        # uv keeps the pins that it finds in the output file.
        output.write_text("".join(present[package] for package in sorted(present)), encoding="utf-8")
        command = [uv, *COMPILE, *(f"--extra={extra}" for extra in LOCKS[name].extras), "-o", str(output)]
        for below in LOCKS[name].below:
            command += ["--constraint", f"requirements/{below}.lock"]
        if upgrade:
            command.append("--upgrade")
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return read_blocks(output.read_text(encoding="utf-8"))


def write(name: str, title: str, blocks: Blocks) -> None:
    """Write a lock under its header and say how many pins it has."""
    path = REQUIREMENTS / f"{name}.lock"
    body = "".join(blocks.values())
    check_clean(path, body)
    title = title[0].upper() + title[1:]
    path.write_text(f"# {title}; for Python 3.11 to 3.13. Written by `make lock`.\n{body}", encoding="utf-8")
    print(f"lock: requirements/{name}.lock has {len(blocks)} pins", flush=True)


def check_clean(path: Path, body: str) -> None:
    """Refuse a lock that names a host or a path of the machine it was made on.

    Raises:
        SystemExit: It does; the line is quoted.
    """
    for number, line in enumerate(body.splitlines(), start=1):
        if "://" in line or str(ROOT) in line or re.search(r"(?<![\w.])/\w", line) or line.startswith("-"):
            sys.exit(f"lock: {path.name}:{number} names a place instead of a package: {line.strip()}")


def split_torch(blocks: Blocks) -> tuple[Blocks, Blocks, Blocks]:
    """Part what uv resolved with the registry's torch into the pins of train, torch-cuda and torch-cpu.

    Raises:
        SystemExit: Something besides torch wants a CUDA library, so that the CPU build would lack it.
    """
    cuda = {name: block for name, block in blocks.items() if CUDA_ONLY.match(name)}
    for name, block in cuda.items():
        wanted_by = set(re.findall(r"^    #(?: via|  ) ([a-z0-9-]+)", block, flags=re.MULTILINE)) - {"-c"}
        if foreign := wanted_by - {"torch"} - set(cuda):
            sys.exit(f"lock: {name} is left out for the CPU build of torch, but {foreign} wants it")
    torch = blocks["torch"]
    [version] = re.findall(r"^torch==([\w.]+)", torch)
    cpu_hashes = [f"    --hash=sha256:{digest}" for digest in cpu_wheel_hashes(version)]
    hashes = re.findall(r"^ +--hash=\S+", torch, flags=re.MULTILINE)
    pin, comments = torch.split(hashes[0])[0], torch.split(hashes[-1])[1]
    both = pin + " \\\n".join(sorted(hashes + cpu_hashes)) + comments
    rest = {name: block for name, block in blocks.items() if name not in cuda}
    cpu = {"torch": " \\\n".join([f"torch=={version}+cpu", *cpu_hashes]) + "\n"}
    return rest | {"torch": both}, {"torch": torch} | cuda, cpu


def cpu_wheel_hashes(version: str) -> list[str]:
    """Hashes of the CPU wheels of this torch; a version not yet listed is looked for where pip looks.

    Raises:
        SystemExit: None is listed and pip sees none.
    """
    path = REQUIREMENTS / CPU_WHEELS
    prefix = f"torch-{version}+cpu-"
    listed = [line.split() for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    current = [(digest, name) for digest, name in listed if name.startswith(prefix)]
    if not current:
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            if subprocess.run([*pip, "--dest", folder, f"torch=={version}+cpu"], check=False).returncode != 0:
                sys.exit(
                    f"lock: {CPU_WHEELS} lists no CPU wheel of torch {version} and pip sees none\n"
                    "  fix: let pip see one (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL), or add the lines by hand"
                )
            [wheel] = Path(folder).glob("*.whl")
            current = [(hashlib.sha256(wheel.read_bytes()).hexdigest(), wheel.name)]
        path.write_text("".join(f"{digest}  {name}\n" for digest, name in current), encoding="utf-8")
        print(f"lock: {CPU_WHEELS} now has {current[0][1]} alone; add the wheels of other Pythons by hand")
    return sorted(digest for digest, _ in current)


def main() -> None:
    """Write every lock, the base first: its pins bind the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--upgrade", action="store_true", help="move every pin to the newest allowed version")
    upgrade: bool = parser.parse_args().upgrade
    uv = find_uv()
    for name, lock in LOCKS.items():
        blocks = resolve(uv, name, upgrade=upgrade)
        if name == "train":
            blocks, cuda, cpu = split_torch(blocks)
            write(
                "torch-cuda", "the CUDA build of torch and its libraries, installed before train.lock", cuda
            )
            write("torch-cpu", "the CPU build of torch, installed before train.lock", cpu)
        if name in ON_TOP_OF:
            known = {pin for other in ON_TOP_OF[name] for pin in stored(other)}
            blocks = {pin: block for pin, block in blocks.items() if pin not in known}
        write(name, lock.title, blocks)


if __name__ == "__main__":
    main()
