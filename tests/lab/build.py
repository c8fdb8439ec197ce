"""Compiles the lab's C sources with gcc, and reads what they leave behind."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

_HERE = Path(__file__).parent
_NVML_SOURCES = ("fake_nvml.c", "inventory.c", "sensor.c", "config.c", "waveform.c")
_FLAGS = ("-std=gnu11", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror")
_CALL_COUNT = struct.Struct("56sQ")
LIBRARY = "libnvidia-ml.so.1"


def build_fake_nvml(directory: Path) -> Path:
    """Build `libnvidia-ml.so.1` in `directory` unless one of the same sources is there already.

    Put `directory` on LD_LIBRARY_PATH (`LabConfig.env` does) and pynvml loads it. Skips the test without gcc.
    """
    return _build(directory / LIBRARY, _NVML_SOURCES, ("-fvisibility=hidden", f"-Wl,-soname,{LIBRARY}"))


def clock_step_env(directory: Path, steps_us: Iterable[tuple[int, int]]) -> dict[str, str]:
    """Environment additions that step a child's wall clock: from each CLOCK_MONOTONIC time on, by so much.

    Steps add up: `[(at, 3_600_000_000), (later, -3_600_000_000)]` is an hour ahead and back again.
    """
    shim = _build(directory / "clock_step.so", ("clock_step.c",))
    return {"LD_PRELOAD": str(shim), "KIT_LAB_CLOCK": ",".join(f"{at}:{step}" for at, step in steps_us)}


def read_calls(path: Path) -> dict[str, int]:
    """Calls of each NVML function by all processes so far, from the file named by `LabConfig.calls_path`."""
    counts = _CALL_COUNT.iter_unpack(path.read_bytes())
    return {name.rstrip(b"\0").decode(): calls for name, calls in counts if calls}


def _build(target: Path, sources: tuple[str, ...], flags: tuple[str, ...] = ()) -> Path:
    stamp = target.with_name(target.name + ".sha256")
    inputs = sorted([*_HERE.glob("*.h"), *(_HERE / name for name in sources)])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    if target.exists() and stamp.exists() and stamp.read_text() == digest:
        return target
    if shutil.which("gcc") is None:
        import pytest

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
