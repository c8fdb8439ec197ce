"""Waiting for work that was queued on devices, so that it is billed to the stage that queued it."""

from __future__ import annotations

import sys


def synchronize_devices(quiet: bool = False) -> None:
    """Wait for queued device work, if torch is loaded and has used a device; never loads torch itself.

    Args:
        quiet: Whether an error of the device is swallowed: at the end of a stage that failed anyway, its own
            error is the one to see.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return
    try:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                # Synchronising a device that was never used would create a context on it, which costs power.
                if device == torch.cuda.current_device() or torch.cuda.memory_reserved(device) > 0:
                    torch.cuda.synchronize(device)
        for backend in ("mps", "xpu"):
            module = getattr(torch, backend, None)
            if module is not None and module.is_available():
                module.synchronize()
    except RuntimeError:
        if not quiet:
            raise
