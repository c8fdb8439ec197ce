"""Names by which two bundles know that they measured on one device or machine, and nobody else does.

A name is an HMAC-SHA-256 of the device's UUID, or of the machine's id, under a secret that stays in the
laboratory's cache folder. Bundles with one name share a scale (4.4); without a secret or an id there is no
name, and nothing is shared.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from harness.files import cache_folder, sync_folder

_SECRET_BYTES = 32
_MACHINE = (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id"))


def scale_id(*facts: str) -> str | None:
    """Name of what these facts describe, 32 hex digits; None where a fact or the secret is missing."""
    secret = _secret() if facts and all(facts) else None
    if secret is None:
        return None
    return hmac.new(secret, "\0".join(facts).encode(), "sha256").hexdigest()[:32]


def machine_scale_id(cpu_model: str | None) -> str | None:
    """Name of this machine; where it has no id, of this machine until it restarts."""
    for path in _MACHINE:
        try:
            found = path.read_text().strip()
        except OSError:
            continue
        if found:
            return scale_id("machine", found, cpu_model or "unknown")
    return None


def _secret() -> bytes | None:
    """The secret, made where there is none; None where it can be neither read nor made."""
    try:
        path = cache_folder() / "scale.key"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            made = path.with_name(f".scale.key.{os.getpid()}")
            made.touch(mode=0o600)
            made.write_bytes(os.urandom(_SECRET_BYTES))
            try:
                os.link(made, path)  # the first one wins, whole
            except FileExistsError:
                pass
            finally:
                made.unlink()
            sync_folder(path.parent)
        found = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    return found if len(found) == _SECRET_BYTES else None
