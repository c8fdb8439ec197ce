"""Signatures of submissions and reviews by `ssh-keygen -Y`, which works offline and needs no package.

A laboratory signs submission.json, which lists every other file by its digest. `allowed_signers` (format of
ssh-keygen(1)) names the keys that the leaderboard knows; the principal is the laboratory's name, of a
maintainer `maintainer:NAME`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from harness.errors import KitError

NAMESPACE = "submission@distill-energy"
REVIEW_NAMESPACE = "review@distill-energy"
ALLOWED = "allowed_signers"


def sign(path: Path, key: Path, namespace: str = NAMESPACE) -> Path:
    """Sign a file; the signature lies beside it as NAME.sig.

    Raises:
        KitError: ssh-keygen is missing, or cannot sign with this key.
    """
    signature = path.with_name(f"{path.name}.sig")
    signature.unlink(missing_ok=True)
    done = _keygen("sign", "-f", str(key), "-n", namespace, str(path))
    if done.returncode or not signature.exists():
        raise KitError(
            f"cannot sign: {_said(done)}",
            where=str(key),
            expected="a private key of ssh, or a key in the agent",
        )
    return signature


def problem(path: Path, principal: str, allowed: Path, namespace: str = NAMESPACE) -> str | None:
    """Why a file's signature does not prove that `principal` signed it; None if it does.

    Without a list of allowed signers only the signature's own form can be checked, and who signed is unknown.
    """
    signature = path.with_name(f"{path.name}.sig")
    if allowed.is_file():
        arguments = ["verify", "-f", str(allowed), "-I", principal, "-n", namespace, "-s", str(signature)]
    else:
        arguments = ["check-novalidate", "-n", namespace, "-s", str(signature)]
    done = _keygen(*arguments, stdin=path.read_bytes())
    return None if done.returncode == 0 else _said(done)


def _keygen(action: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise KitError(
            "ssh-keygen is missing", expected="OpenSSH 8.2 or newer", fix="apt install openssh-client"
        )
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "SSH_AUTH_SOCK") if name in os.environ}
    return subprocess.run(
        [program, "-Y", action, *arguments], input=stdin, capture_output=True, env=environment, timeout=60
    )


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1][:160] if lines else f"ssh-keygen ended with {done.returncode}"
