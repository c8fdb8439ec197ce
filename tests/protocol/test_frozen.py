"""Protocol 1.0 is frozen: its files are those that protocol/1.0.sha256 lists, and every log names them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.spec import available_versions, frozen_list, protocol_digest
from tests.lab.fixtures import ROOT

PROTOCOL = ROOT / "protocol"
ON_PURPOSE = (
    "differs from protocol/{0}.sha256, which is frozen. Words may change as a patch (CHANGELOG.md, first "
    "section): raise `version` in protocol.yaml, say it there, then: make schemas ARGS=--freeze. "
    "Anything else is a new version: copy protocol/{0} to a new folder and change that."
)


def lines(text: str) -> dict[str, str]:
    return {path: digest for digest, path in (line.split("  ") for line in text.splitlines())}


@pytest.mark.parametrize("version", available_versions())
def test_the_protocol_is_as_it_was_frozen(version: str) -> None:
    frozen = lines((PROTOCOL / f"{version}.sha256").read_text(encoding="utf-8"))
    here = lines(frozen_list(PROTOCOL / version))
    differ = sorted(name for name in frozen.keys() | here.keys() if frozen.get(name) != here.get(name))
    assert differ == [], f"{', '.join(differ)} {ON_PURPOSE.format(version)}"
    assert {f"{version}/protocol.yaml", f"{version}/vectors/counter.json"} <= here.keys()


def test_the_list_is_one_that_sha256sum_checks(tmp_path: Path) -> None:
    shutil.copytree(PROTOCOL, tmp_path / "protocol")
    command = ["sha256sum", "-c", "--quiet", "1.0.sha256"]
    assert subprocess.run(command, cwd=tmp_path / "protocol", check=False).returncode == 0
    with (tmp_path / "protocol/1.0/rules.yaml").open("a") as file:
        file.write("# more\n")
    done = subprocess.run(command, cwd=tmp_path / "protocol", capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == "1.0/rules.yaml: FAILED\n"


def test_the_command_names_the_digest_of_what_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = hashlib.sha256((PROTOCOL / "1.0.sha256").read_bytes()).hexdigest()
    assert protocol_digest("1.0") == listed
    assert main(["--version"]) == 0
    assert f"(sha256 {listed[:16]})" in capsys.readouterr().out
    shutil.copytree(PROTOCOL / "1.0", tmp_path / "1.0")
    with (tmp_path / "1.0/gpus.yaml").open("a") as file:
        file.write("# another card\n")
    monkeypatch.setenv("KIT_PROTOCOL_ROOT", str(tmp_path))
    assert main(["--version"]) == 0
    assert listed[:16] not in capsys.readouterr().out
