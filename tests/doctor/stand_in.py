"""A stand-in for torch: a module whose "device" is a queue with a clock, for tests of what drives a load."""

from __future__ import annotations

from pathlib import Path

_SOURCE = """
import time

__version__ = "0.0-stand-in"
float16 = bfloat16 = float32 = "dtype"
_MATMUL_S = 0.002
_free_at = 0.0  # when the device will have done all that is queued

class Event:
    def __init__(self, enable_timing): self.at = None
    def record(self): self.at = max(_free_at, time.monotonic())
    def synchronize(self): time.sleep(max(0.0, self.at - time.monotonic()))
    def elapsed_time(self, other): return 1e3 * (other.at - self.at)

class _Cuda:
    Event = Event
    def is_available(self): return AVAILABLE
    def is_initialized(self): return True
    def current_device(self): return 0
    def memory_reserved(self, device): return 0
    def empty_cache(self): pass
    def device_count(self): return 2
    def mem_get_info(self, device): return (1 << 30, 1 << 31)
    def get_device_capability(self, device): return (9, 0)
    def synchronize(self, device=0): time.sleep(max(0.0, _free_at - time.monotonic()))

cuda = _Cuda()

class Tensor:
    def __init__(self, device): self.device = device
    def copy_(self, other): _queue()

def randn(*shape, dtype, device): return Tensor(device)
def empty_like(other): return Tensor(other.device)
def zeros(length, dtype, device): return Tensor(device)

def _queue():
    global _free_at
    _free_at = max(_free_at, time.monotonic()) + _MATMUL_S

def matmul(left, right, out):
    assert left.device == right.device == out.device
    if BROKEN: raise RuntimeError("CUDA error: out of memory\\nand more")
    _queue()
"""


def write_torch(folder: Path, *, available: bool = True, broken: bool = False) -> None:
    """Put a module `torch` into `folder`; `broken` fails each product as a CUDA error does."""
    (folder / "torch.py").write_text(f"AVAILABLE, BROKEN = {available}, {broken}\n{_SOURCE}")
