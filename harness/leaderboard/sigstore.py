"""Signatures by Sigstore: a login (an e-mail address, a workflow) in place of a key; the user's own program.

`sigstore` (PyPI) signs after a login, over a network, and enters it in a public log. It verifies offline, by
the roots that it brings along. `allowed_identities` lies beside `allowed_signers` and holds a line
`LAB IDENTITY ISSUER` for each login that may sign.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from harness.errors import KitError
from harness.files import read_bytes

PROGRAM = "sigstore"
IDENTITIES = "allowed_identities"
_MOST_BYTES = 1 << 20
_KEPT = ("PATH", "HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
"""Of the environment: SIGSTORE_... could name another instance, whose roots are anybody's."""


def bundle_of(path: Path) -> Path:
    """Where a file's signature lies: the name that `sigstore sign` gives by itself."""
    return path.with_name(f"{path.name}.sigstore.json")


def sign(path: Path) -> Path:
    """Sign a file: the program asks for a login in a browser, or takes the workflow's that it runs in.

    Raises:
        KitError: There is no such program, or it could not sign.
    """
    bundle = bundle_of(path)
    bundle.unlink(missing_ok=True)
    done = subprocess.run([_program(), "sign", "--bundle", str(bundle), str(path)], stdout=2)  # to be seen
    if done.returncode or not bundle.is_file():
        raise KitError(
            f"cannot sign: it ended with {done.returncode}, and says above why",
            where=PROGRAM,
            expected="a network and a login (a browser, a workflow, or SIGSTORE_IDENTITY_TOKEN)",
            fix="sign with a key of ssh, which works offline: --sign KEY",
        )
    return bundle


def identities(allowed: Path, lab: str) -> list[list[str]]:
    """Identity and issuer of every line of `allowed` that is of this laboratory.

    Raises:
        KitError: It cannot be read, or a line is something else.
    """
    if not allowed.is_file():
        raise KitError(f"there is no {IDENTITIES}")
    found = []
    text = read_bytes(allowed, _MOST_BYTES).decode("utf-8-sig", errors="replace")
    for number, line in enumerate(text.replace("\t", " ").split("\n"), 1):
        words = line.removesuffix("\r").split(" ")
        words = [word for word in words if word]
        if not words or words[0].startswith("#"):
            continue
        # A form feed or a blank of another kind would make two lines of what is read as one.
        if len(words) != 3 or not all(word.isprintable() and word.isascii() for word in words):
            raise KitError(f"line {number} is not LAB IDENTITY ISSUER, in ASCII", where=IDENTITIES)
        if words[0] == lab:
            found.append(words[1:])
    return found


def problem(path: Path, lab: str, allowed: Path) -> str | None:
    """Why a file's signature does not prove that `lab` signed it; None if it does.

    Raises:
        KitError: It could not be verified: there is no program or no list.
    """
    known, program, why = identities(allowed, lab), _program(), f"no identity of {lab} in {IDENTITIES}"
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"COLUMNS": "1000", "NO_COLOR": "1"}  # it breaks lines for a screen
    for identity, issuer in known:
        arguments = ["verify", "identity", "--offline", "--bundle", str(bundle_of(path))]
        arguments += [f"--cert-identity={identity}", f"--cert-oidc-issuer={issuer}", str(path)]
        try:
            done = subprocess.run(
                [program, *arguments], capture_output=True, env=environment, timeout=60, errors="replace"
            )
        except subprocess.TimeoutExpired:
            raise KitError("did not end within 60 s", where=PROGRAM) from None
        if done.returncode == 0:
            return None
        said = re.findall(r"ERROR +(.*?)(?: +\w+\.py:\d+)? *$", done.stderr, re.MULTILINE)
        said = said or done.stderr.strip().splitlines() or [f"{PROGRAM} ended with {done.returncode}"]
        why = said[-1][:160]
    return why


def _program() -> str:
    program = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    if program is None:
        raise KitError(f"the program {PROGRAM} is missing", fix="pip install sigstore")
    return program
