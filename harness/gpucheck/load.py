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
from collections.abc import Callable
from typing import Any

_MATMUL_BYTES = 3 * 2 * 8192 * 8192
_BATCH_S = 0.02

Obey = Callable[[dict[str, Any]], dict[str, Any]]


def serve(start: Callable[[], tuple[dict[str, Any], Obey]]) -> int:
    """Obey orders until standard input closes; whatever else is printed goes to standard error.

    Args:
        start: Returns the greeting, and the function that carries out one order and returns its answer.

    Returns:
        The exit code: 2 without a start, 1 after an order that failed.
    """
    answers = os.dup(1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")

    try:
        greeting, obey = start()
    except Exception as error:  # whatever a library raises, the one who asked must hear of it
        say({"error": (str(error).splitlines() or [type(error).__name__])[0]})
        return 2
    say({"ready": greeting})
    for line in sys.stdin:
        try:
            done = obey(json.loads(line))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"})
            return 1
        say({"done": done})
    return 0


class TorchWork:
    """Work on every CUDA device that torch shows."""

    def __init__(self) -> None:
        self.torch: Any = importlib.import_module("torch")
        if not self.torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device")
        self.devices = range(self.torch.cuda.device_count())
        self.name = f"torch {self.torch.__version__}"
        self._tensors: list[tuple[Any, ...]] = []

    def open(self) -> None:
        """Make contexts and tensors, and run everything once."""
        torch = self.torch
        for number in self.devices:
            device = f"cuda:{number}"
            free, _ = torch.cuda.mem_get_info(number)
            side = 8192 if free > 8 * _MATMUL_BYTES else 2048
            dtype = torch.bfloat16 if torch.cuda.get_device_capability(number)[0] >= 8 else torch.float16
            left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
            source = torch.zeros(min(1 << 28, free // 16), dtype=torch.float32, device=device)
            self._tensors.append((left, right, torch.empty_like(left), source, torch.empty_like(source)))
        for kind in ("matmul", "memory"):
            self.step(kind)
        self.finish()

    def step(self, kind: str) -> None:
        """Queue one short piece of work on each device."""
        if not self._tensors:
            raise RuntimeError("no tensors: the order `open` comes first")
        for left, right, product, source, target in self._tensors:
            if kind == "matmul":
                self.torch.matmul(left, right, out=product)
            else:
                target.copy_(source)

    def release(self) -> None:
        """Give the tensors' memory back."""
        self._tensors.clear()
        self.torch.cuda.empty_cache()

    def finish(self) -> None:
        """Wait until all devices are done."""
        for number in self.devices:
            self.torch.cuda.synchronize(number)


class NumpyWork:
    """The same orders obeyed by the CPU: shows that a program works, says nothing of a GPU."""

    def __init__(self) -> None:
        numpy: Any = importlib.import_module("numpy")
        self.name = f"numpy {numpy.__version__}"
        self._matrix = numpy.ones((192, 192))
        self._vector = numpy.ones(1 << 20)

    def step(self, kind: str) -> None:
        """Do one short piece of work."""
        if kind == "matmul":
            self._matrix @ self._matrix
        else:
            self._vector.copy()

    def open(self) -> None:
        """No device's memory is taken."""

    release = finish = open


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


def start() -> tuple[dict[str, Any], Obey]:
    """Make the backend that the command line names."""
    backend = TorchWork() if sys.argv[1] == "torch" else NumpyWork()

    def obey(order: dict[str, Any]) -> dict[str, Any]:
        begun = time.monotonic_ns() // 1000
        pieces = 0
        if order["op"] != "work":
            backend.open() if order["op"] == "open" else backend.release()
        elif order["kind"] == "square":
            pieces = square(backend, order["high_s"], order["low_s"], order["seconds"])
        else:
            pieces = work(backend, order["kind"], order["seconds"])
        return {"start_us": begun, "end_us": time.monotonic_ns() // 1000, "pieces": pieces}

    return {"backend": backend.name}, obey


if __name__ == "__main__":
    sys.exit(serve(start))
