"""What .ci/run makes of the image test's end, with a stand-in for make."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERDICT = "===== 3 passed in 1.25s ====="
MAKE = f"""#!/bin/sh
case "$1" in
  test) echo "{VERDICT}"; echo "test: passed" ;;
  image-test) printf '%s\\n' "$IMAGE_SAYS"; exit "$IMAGE_CODE" ;;
esac
"""
BUILT = "image-test: built in 200 s\n"


@pytest.mark.parametrize(
    ("says", "code", "expected"),
    [
        (BUILT + "image-test: ok hardened (1.0 s)", 0, 0),
        ("image-test: skipped: no container engine runs here", 0, 0),
        ("image-test: building localhost/kit-test:cpu", 124, 0),
        ("image-test: building localhost/kit-test:cpu", 137, 0),
        (BUILT + "image-test: FAILED hardened: AssertionError: x", 124, 124),
        (BUILT + "image-test: ok hardened (1.0 s)", 137, 137),
        ("image-test: FAILED build: no space", 124, 124),
        ("image-test: the image is broken: hardened (4.0 min)", 2, 2),
    ],
)
def test_only_a_build_that_was_cut_off_is_a_skip(says: str, code: int, expected: int, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in (("make", MAKE), ("gcc", "#!/bin/sh\n"), ("apt-get", "#!/bin/sh\nexit 1\n")):
        program = tmp_path / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path / "bin"),
        "IMAGE_SAYS": says,
        "IMAGE_CODE": str(code),
    }
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == expected, done.stdout + done.stderr
    assert lines[-1] == VERDICT
    assert set(says.splitlines()) <= set(lines)
    skipped = any(line.startswith("ci: image test skipped") for line in lines)
    assert skipped == (code in (124, 137) and expected == 0)
    assert {path.name for path in (tmp_path / "bin").iterdir()} == {"make", "gcc", "apt-get"}
