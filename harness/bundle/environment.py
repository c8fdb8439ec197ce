"""Facts about machine and software for the manifest: nothing that names a host, a user or a path."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.container import image_digest, image_record, revision_of
from harness.errors import KitError
from harness.files import package_version
from harness.meter.identity import machine_scale_id


def machine_facts() -> dict[str, Any]:
    """CPU model, logical processors, memory, and the name of its scale; None where unknown."""
    model = _cpu_model()
    return {
        "cpu_model": model,
        "cpu_count": os.cpu_count(),
        "mem_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "scale_id": machine_scale_id(model),
    }


def software_facts() -> dict[str, Any]:
    """Versions and revisions; None where unknown.

    In the image the lock's digest is that of the locks it was made from (`harness.container`), in a checkout
    that of the lock in the tree; KIT_LOCK_SHA256 overrides both. The image's digest is told in
    KIT_IMAGE_DIGEST. The commit is that of the folder the run was started in.
    """
    commit, dirty = _git_state(Path.cwd())
    if commit is None:
        commit, dirty = revision_of(Path.cwd())
    image, digest = _image_facts()
    return {
        "python": platform.python_version(),
        "torch": _installed_version("torch"),
        "git_commit": commit,
        "git_dirty": dirty,
        "lock_sha256": os.environ.get("KIT_LOCK_SHA256") or image.get("lock_sha256") or _lock_digest(),
        "image_digest": digest,
    }


def _image_facts() -> tuple[dict[str, Any], str | None]:
    """The image's record and digest; nothing where they are unreadable: what was measured must be sealed."""
    try:
        return image_record() or {}, image_digest()
    except KitError:
        return {}, None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip() or None
    return platform.processor() or None


def _installed_version(distribution: str) -> str | None:
    """Version of a package, without importing it."""
    loaded = sys.modules.get(distribution)
    if loaded is not None:
        return str(getattr(loaded, "__version__", "")) or None
    found = package_version(distribution)
    if found is not None or find_spec(distribution) is None:
        return found
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    words = ("git", "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    commit, dirty = None, False
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        if line.startswith("# branch.oid "):
            commit = line.split()[2]
        dirty |= not line.startswith("#")
    return (None, None) if commit in (None, "(initial)") else (commit, dirty)


def _lock_digest() -> str | None:
    lock = Path(__file__).resolve().parents[2] / "requirements" / "base.lock"
    try:
        return hashlib.sha256(lock.read_bytes()).hexdigest()
    except OSError:
        return None
