"""A program that makes known work, run as a child by any interpreter that has torch (or numpy).

It stands alone: nothing of the kit is imported, because the interpreter with torch is often not the
kit's. Orders come as JSON lines on standard input (`{"op": "work", "kind": "matmul", "seconds": 2}`),
each is answered by one line when the device has finished. Kinds: "matmul" (compute-bound), "memory"
(bandwidth-bound), "idle", and "square", which alternates matmul and idle by `high_s` and `low_s`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

_MATMUL_BYTES = 3 * 2 * 8192 * 8192
_BATCH_S = 0.02


def mono_us() -> int:
    """CLOCK_MONOTONIC in microseconds."""
    return time.monotonic_ns() // 1000


class TorchWork:
    """Work on every CUDA device that torch shows."""

    def __init__(self) -> None:
        self.torch: Any = importlib.import_module("torch")
        if not self.torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device")
        self.count = int(self.torch.cuda.device_count())
        self.name = f"torch {self.torch.__version__}"
        self._matrices: list[tuple[Any, Any, Any]] = []
        self._streams: list[tuple[Any, Any]] = []

    def open(self) -> None:
        """Make contexts and tensors, and run everything once."""
        torch = self.torch
        for device in range(self.count):
            free, _ = torch.cuda.mem_get_info(device)
            side = 8192 if free > 8 * _MATMUL_BYTES else 2048
            dtype = torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
            left, right = (torch.randn(side, side, dtype=dtype, device=f"cuda:{device}") for _ in range(2))
            self._matrices.append((left, right, torch.empty_like(left)))
            length = min(1 << 28, free // 16)
            source = torch.zeros(length, dtype=torch.float32, device=f"cuda:{device}")
            self._streams.append((source, torch.empty_like(source)))
        for kind in ("matmul", "memory"):
            self.step(kind)
        self.finish()

    def step(self, kind: str) -> None:
        """Queue one short piece of work on each device."""
        for (left, right, product), (source, target) in zip(self._matrices, self._streams, strict=True):
            if kind == "matmul":
                self.torch.matmul(left, right, out=product)
            else:
                target.copy_(source)

    def release(self) -> None:
        """Give the tensors' memory back."""
        self._matrices.clear()
        self._streams.clear()
        self.torch.cuda.empty_cache()

    def finish(self) -> None:
        """Wait until all devices are done."""
        for device in range(self.count):
            self.torch.cuda.synchronize(device)


class NumpyWork:
    """The same orders obeyed by the CPU: shows that a program works, says nothing of a GPU."""

    def __init__(self) -> None:
        self.numpy: Any = importlib.import_module("numpy")
        self.count = 0
        self.name = f"numpy {self.numpy.__version__}"
        self._matrix: Any = None
        self._vector: Any = None

    def open(self) -> None:
        """Make the arrays."""
        self._matrix = self.numpy.ones((192, 192))
        self._vector = self.numpy.ones(1 << 20)

    def step(self, kind: str) -> None:
        """Do one short piece of work."""
        if kind == "matmul":
            self._matrix @ self._matrix
        else:
            self._vector.copy()

    def release(self) -> None:
        """No device's memory is taken."""

    def finish(self) -> None:
        """Nothing is queued."""


def work(backend: TorchWork | NumpyWork, kind: str, seconds: float) -> int:
    """Work for so long; returns the number of pieces done."""
    end = time.monotonic() + seconds
    if kind == "idle":
        time.sleep(seconds)
        return 0
    pieces = 0
    while time.monotonic() < end:
        # Queue a few pieces at a time: the device must neither run dry nor run on after the end.
        begun = time.monotonic()
        batch = 0
        while batch < 4 and time.monotonic() - begun < _BATCH_S:
            backend.step(kind)
            batch += 1
        backend.finish()
        pieces += batch
    return pieces


def square(backend: TorchWork | NumpyWork, high_s: float, low_s: float, seconds: float) -> int:
    """Alternate matmul and idle until `seconds` are over."""
    end = time.monotonic() + seconds
    pieces = 0
    while (left := end - time.monotonic()) > 0:
        pieces += work(backend, "matmul", min(high_s, left))
        left = end - time.monotonic()
        work(backend, "idle", max(0.0, min(low_s, left)))
    return pieces


def main() -> int:
    """Obey orders until standard input closes."""
    answers = os.dup(1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")

    try:
        backend = TorchWork() if sys.argv[1] == "torch" else NumpyWork()
    except (ImportError, RuntimeError, OSError) as error:
        say({"error": str(error).splitlines()[0] if str(error) else type(error).__name__})
        return 2
    say({"ready": {"backend": backend.name, "devices": backend.count}})
    for line in sys.stdin:
        order = json.loads(line)
        start_us = mono_us()
        pieces = 0
        try:
            if order["op"] == "open":
                backend.open()
            elif order["op"] == "release":
                backend.release()
            elif order["kind"] == "square":
                pieces = square(backend, order["high_s"], order["low_s"], order["seconds"])
            else:
                pieces = work(backend, order["kind"], order["seconds"])
        except RuntimeError as error:  # torch's out of memory and CUDA errors
            say({"error": str(error).splitlines()[0]})
            return 1
        say({"done": {"start_us": start_us, "end_us": mono_us(), "pieces": pieces}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
