"""Compiles the lab's C sources with gcc."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_NVML_SOURCES = ("fake_nvml.c", "inventory.c", "sensor.c", "config.c", "waveform.c")
_FLAGS = ("-std=gnu11", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror")
LIBRARY = "libnvidia-ml.so.1"


def build_fake_nvml(directory: Path) -> Path:
    """Build `libnvidia-ml.so.1` in `directory` unless one of the same sources is there already.

    Put `directory` on LD_LIBRARY_PATH (`LabConfig.env` does) and pynvml loads it. Skips the test without gcc.
    """
    return _build(directory / LIBRARY, _NVML_SOURCES, ("-fvisibility=hidden", f"-Wl,-soname,{LIBRARY}"))


def _build(target: Path, sources: tuple[str, ...], flags: tuple[str, ...] = ()) -> Path:
    stamp = target.with_name(target.name + ".sha256")
    inputs = sorted([*_HERE.glob("*.h"), *(_HERE / name for name in sources)])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    if target.exists() and stamp.exists() and stamp.read_text() == digest:
        return target
    if shutil.which("gcc") is None:
        pytest.skip("the lab needs gcc, which is not on PATH (apt-get install gcc libc6-dev)")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}")
    files = [str(_HERE / name) for name in sources]
    command = ["gcc", *_FLAGS, *flags, "-o", str(part), *files, "-lm", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"gcc could not build {target.name}:\n{done.stderr}")
    part.replace(target)
    stamp.write_text(digest)
    return target
