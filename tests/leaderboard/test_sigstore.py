"""Signatures by Sigstore: the real program where it is installed, and one that knows what the kit asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import KitError
from harness.leaderboard import sigstore
from tests.leaderboard.runs import edit_entry, ids, kit, only
from tests.leaderboard.sigstore_instance import Instance

WHO, WHERE = "lab@example.org", "https://login.example.org"
REAL = shutil.which("sigstore")


def warned(folder: Path) -> set[str]:
    return {f.observed for f in only(folder).findings if f.id == "W518"}


def signed(folder: Path) -> bool:
    row = only(folder).row
    assert row is not None
    return bool(row["signed"])


def program(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program called sigstore, the first on PATH."""
    folder.mkdir()
    (folder / "sigstore").write_text(text)
    (folder / "sigstore").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(REAL is None, reason="the program sigstore is not installed: pip install sigstore")
def test_the_real_program_verifies_and_refuses(
    one: Path, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = Instance()
    (tmp_path / "trust.json").write_text(instance.trust())
    entry, bundle = one / "submission.json", one / "submission.json.sigstore.json"
    allowed = board / "allowed_identities"
    allowed.write_text(f"# who may sign\nacme {WHO} {WHERE}\nzeta zeta@example.org {WHERE}\n")
    bundle.write_text(instance.sign(entry.read_bytes(), WHO, WHERE))
    assert ids(only(one)) == {"E510"}, "the public instance does not know this authority"
    trusting = f'#!/bin/sh\nexec "{REAL}" --trust-config "{tmp_path}/trust.json" "$@"\n'
    program(tmp_path / "bin", trusting, monkeypatch)
    monkeypatch.setenv("SIGSTORE_STAGING", "1")  # nobody's environment chooses another instance
    assert ids(only(one)) == set() and signed(one)

    def refused() -> bool:
        return ids(only(one)) == {"E510"} and not signed(one)

    for identity, issuer in ((WHO, "https://other.example.org"), ("zeta@example.org", WHERE)):
        bundle.write_text(instance.sign(entry.read_bytes(), identity, issuer))
        assert refused(), (identity, issuer)
    bundle.write_text(Instance().sign(entry.read_bytes(), WHO, WHERE))
    assert refused(), "an authority of somebody else"
    bundle.write_text("{}")
    assert refused()
    bundle.write_text(instance.sign(entry.read_bytes(), WHO, WHERE))
    edit_entry(one, lambda value: value.update(title="changed after signing"))
    assert refused()


STAND_IN = f"""#!{sys.executable}
import hashlib, json, pathlib, sys
words = sys.argv[1:]
*_, file = words
digest = hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()
bundle = pathlib.Path(words[words.index("--bundle") + 1])
who = ["--cert-identity={WHO}", "--cert-oidc-issuer={WHERE}"]
if words[0] == "sign":
    bundle.write_text(json.dumps(digest))
    print("logged in")
elif words[:3] != ["verify", "identity", "--offline"]:
    sys.exit(2)
elif [w for w in words if w.startswith("--cert-")] != who or json.loads(bundle.read_text()) != digest:
    print("[00:00:00] ERROR    FAIL: a file    _cli.py:1159", file=sys.stderr)
    sys.exit("           ERROR    not its digest    errors.py:42")
"""
"""What of the real program's command line the kit uses; a bundle is a digest."""


def test_a_run_is_signed_by_a_login_and_verified(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program(tmp_path / "bin", STAND_IN, monkeypatch)
    into = tmp_path / "into"
    words = ["submit", str(runs[0]), "--lab", "acme", "--into", str(into), "--sign", "sigstore"]
    words += ["--report", str(tmp_path / "report")]
    assert kit(*words, "--dry-run") == 0 and "logged in" not in capfd.readouterr().err
    assert kit(*words, "--embargo") == 2 and "for ever and in public" in capfd.readouterr().err
    assert kit(*words) == 0
    out, err = capfd.readouterr()
    assert "logged in" in err and "logged in" not in out
    (one,) = (into / "submissions" / "acme").iterdir()
    assert warned(one) == {"not verified: there is no allowed_identities"} and not signed(one)
    allowed = into / "submissions" / "allowed_identities"
    allowed.write_text(f"acme lab@elsewhere.org {WHERE}\nacme {WHO} {WHERE}\n")
    assert ids(only(one)) == set() and warned(one) == set() and signed(one)
    allowed.write_text(f"zeta {WHO} {WHERE}\n")
    assert ids(only(one)) == {"E510"} and not signed(one)
    allowed.write_text(f"acme {WHO}\n")
    assert warned(one) == {"not verified: allowed_identities line 1 is not LAB IDENTITY ISSUER, in ASCII"}
    allowed.write_text(f"acme {WHO} {WHERE}\n")
    edit_entry(one, lambda value: value.update(title="changed after signing"))
    (finding,) = (f for f in only(one).findings if f.id == "E510")
    assert finding.observed == "not its digest" and not signed(one)


@pytest.mark.parametrize(
    "line", ["b x y\facme evil i", "b x y\u2028acme evil i", "acme\u00a0e i j", "acme e\0 i"]
)
def test_a_line_of_the_list_is_what_is_seen_of_it(line: str, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed_identities"
    allowed.write_text(f"# who may sign\n{line}\n", encoding="utf-8")
    with pytest.raises(KitError, match="line 2 is not LAB IDENTITY ISSUER"):
        sigstore.identities(allowed, "acme")
    allowed.write_text("\ufeffacme\tada@example.org  https://i\r\n", encoding="utf-8")
    assert sigstore.identities(allowed, "acme") == [["ada@example.org", "https://i"]]


def test_a_login_beside_a_key_must_hold_too(
    one: Path, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.leaderboard.signing import sign

    program(tmp_path / "bin", STAND_IN, monkeypatch)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (board / "allowed_signers").write_text(f"acme {key.with_suffix('.pub').read_text()}")
    sign(one / "submission.json", key)
    sigstore.sign(one / "submission.json")
    assert warned(one) == set() and signed(one), "the key is enough where no login can be verified"
    (board / "allowed_identities").write_text(f"acme {WHO} {WHERE}\n")
    assert ids(only(one)) == set() and signed(one)
    (one / "submission.json.sigstore.json").write_text('"0"')
    assert ids(only(one)) == {"E510"}


@pytest.mark.parametrize("ends", [3, 0], ids=["fails", "writes nothing"])
def test_what_cannot_be_signed_or_verified_is_told(
    ends: int,
    one: Path,
    board: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runs: list[Path],
) -> None:
    program(tmp_path / "bin", f"#!/bin/sh\nexit {ends}\n", monkeypatch)
    words = ["submit", str(runs[0]), "--lab", "acme", "--into", str(tmp_path / "into"), "--sign", "sigstore"]
    words += ["--report", str(tmp_path / "report")]
    assert kit(*words) == 2 and f"cannot sign: it ended with {ends}" in capsys.readouterr().err
    assert not (tmp_path / "into").exists()
    (one / "submission.json.sigstore.json").write_text("{}")
    (board / "allowed_identities").write_text(f"acme {WHO} {WHERE}\n")
    missing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    monkeypatch.setattr(sigstore.shutil, "which", missing)
    assert kit(*words) == 2 and "pip install sigstore" in capsys.readouterr().err
    assert warned(one) == {"not verified: the program sigstore is missing"} and not signed(one)
