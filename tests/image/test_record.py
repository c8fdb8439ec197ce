"""What an image tells about itself reaches the manifest, and its messages name what helps in a container."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.audit.folders import prepare
from harness.audit.plan import load_plan
from harness.audit.text_file import read_text
from harness.bundle.environment import software_facts
from harness.cli.health import differences, pins_of
from harness.cli.main import cli
from harness.errors import KitError

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "sha256:" + "5a" * 32


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder /opt/kit of an image, made by the build's own program; the process is in its /work."""
    kit, work = tmp_path / "kit", tmp_path / "work"
    (kit / "locks").mkdir(parents=True)
    work.mkdir()
    for name in ("torch-cpu", "base"):
        (kit / "locks" / f"{name}.lock").write_bytes((ROOT / "requirements" / f"{name}.lock").read_bytes())
    (kit / "locks" / "order").write_text("torch-cpu\nbase\n")
    record(monkeypatch, kit, work, lock_sha256="", commit=COMMIT, dirty="true")
    monkeypatch.setenv("KIT_IMAGE", str(kit / "image.json"))
    monkeypatch.chdir(work)
    return kit


def record(
    monkeypatch: pytest.MonkeyPatch, kit: Path, work: Path, *, lock_sha256: str, commit: str, dirty: str
) -> None:
    told = {"LOCK_SHA256": lock_sha256, "GIT_COMMIT": commit, "GIT_DIRTY": dirty, "TORCH": "cpu"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    main = runpy.run_path(str(ROOT / "containers" / "record.py"))["main"]
    main.__globals__.update(KIT=kit, WORK=work)
    main()


def expected_digest() -> str:
    locks = [ROOT / "requirements" / f"{name}.lock" for name in ("torch-cpu", "base")]
    return hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()


def test_manifest_facts_come_from_the_image(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_IMAGE_DIGEST", f"registry/kit@{DIGEST}")
    facts = software_facts()
    assert facts["lock_sha256"] == expected_digest()
    assert (facts["git_commit"], facts["git_dirty"]) == (COMMIT, True)
    assert facts["image_digest"] == DIGEST
    monkeypatch.setenv("KIT_IMAGE_DIGEST", "")
    assert software_facts()["image_digest"] is None


def test_a_mounted_repository_wins_over_the_revision_of_the_image(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "mine"
    repository.mkdir()
    monkeypatch.chdir(repository)
    assert software_facts()["git_commit"] is None  # a folder that is neither baked in nor a repository
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    facts = software_facts()
    assert (facts["git_commit"], facts["git_dirty"]) == (head.stdout.strip(), False)


@pytest.mark.parametrize("told", ["kit:latest", "sha256:12", DIGEST + "0", f"{DIGEST} x"])
def test_a_wrong_digest_stops_a_run_before_it_begins_but_not_its_sealing(
    told: str, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_IMAGE_DIGEST", told)
    Path("p.yaml").write_text(
        'protocol: "1.0"\nname: p\nmethod: other\nstages: [{name: a, kind: x-other, command: "true"}]\n'
    )
    plan = load_plan(Path("p.yaml"), run_dir=Path("run"))
    with pytest.raises(KitError, match="KIT_IMAGE_DIGEST is") as caught:
        prepare(plan)
    assert "docker image inspect" in str(caught.value)
    assert not Path("run").exists()
    assert software_facts()["image_digest"] is None


def test_the_build_refuses_what_it_was_told_wrongly(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Path.cwd()
    record(monkeypatch, image, work, lock_sha256=expected_digest(), commit="", dirty="")
    assert json.loads((work / ".revision.json").read_text()) == {"git_commit": None, "git_dirty": None}
    with pytest.raises(SystemExit, match=f"installed locks have {expected_digest()}"):
        record(monkeypatch, image, work, lock_sha256="00" * 32, commit=COMMIT, dirty="false")
    with pytest.raises(SystemExit, match="expected a full commit id"):
        record(monkeypatch, image, work, lock_sha256="", commit="0123456", dirty="false")


def test_a_missing_pipeline_file_in_the_image_is_explained_by_the_mount(image: Path) -> None:
    with pytest.raises(KitError) as caught:
        read_text(Path("my_pipeline.yaml"), "my_pipeline.yaml")
    assert '-v "$PWD:/work" kit audit my_pipeline.yaml' in str(caught.value)
    assert '--user "$(id -u):$(id -g)"' in str(caught.value)


def test_a_missing_pipeline_file_below_a_mount_is_not(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda self: True)
    with pytest.raises(KitError) as caught:
        read_text(Path("my_pipeline.yaml"), "my_pipeline.yaml")
    assert "docker run" not in str(caught.value) and "the folder you mounted" in str(caught.value)


def test_outside_of_the_image_nothing_speaks_of_containers(tmp_path: Path) -> None:
    with pytest.raises(KitError) as caught:
        read_text(tmp_path / "my_pipeline.yaml", "my_pipeline.yaml")
    assert "docker" not in str(caught.value)


def test_an_unwritable_run_folder_in_the_image_names_the_user_option(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("p.yaml").write_text(
        'protocol: "1.0"\nname: p\nmethod: other\nstages: [{name: a, kind: x-other, command: "true"}]\n'
    )
    plan = load_plan(Path("p.yaml"), run_dir=Path("runs/p"))

    def refuse(number: int) -> None:
        def mkdir(self: Path, *args: object, **more: object) -> None:
            raise OSError(number, os.strerror(number), str(self))

        monkeypatch.setattr(Path, "mkdir", mkdir)

    refuse(13)
    with pytest.raises(KitError, match=r'--user "\$\(id -u\):\$\(id -g\)"'):
        prepare(plan)
    refuse(30)
    with pytest.raises(KitError, match="--out /runs/p, which is a volume"):
        prepare(plan)


def test_health_says_ok_and_names_what_it_read(image: Path) -> None:
    done = CliRunner().invoke(cli, ["health"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("ok: kit ")
    assert expected_digest()[:12] in done.output


def test_health_fails_where_a_part_of_the_image_is_missing(image: Path) -> None:
    for lock in (image / "locks").glob("*.lock"):
        lock.unlink()
    with pytest.raises(KitError, match="lacks its locks"):
        CliRunner().invoke(cli, ["health"], catch_exceptions=False)
    (image / "image.json").write_text("[]")
    with pytest.raises(KitError, match="own record cannot be read"):
        CliRunner().invoke(cli, ["health"], catch_exceptions=False)


@pytest.mark.parametrize("options", [[], ["--packages"]])
def test_health_refuses_locks_that_are_not_the_recorded_ones(image: Path, options: list[str]) -> None:
    for text in ("", (image / "locks" / "base.lock").read_text() + "# a comment\n"):
        (image / "locks" / "base.lock").write_text(text)
        with pytest.raises(KitError, match="locks were changed") as caught:
            CliRunner().invoke(cli, ["health", *options], catch_exceptions=False)
        assert expected_digest() in str(caught.value)


def lock_again(monkeypatch: pytest.MonkeyPatch, image: Path, text: str) -> None:
    """An image that was built with this one lock."""
    (image / "locks" / "base.lock").write_text(text)
    (image / "locks" / "order").write_text("base\n")
    record(monkeypatch, image, Path.cwd(), lock_sha256="", commit=COMMIT, dirty="true")


def test_health_compares_installed_packages_with_the_lock(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (image / "locks" / "base.lock").read_text()
    lock_again(monkeypatch, image, text)
    done = CliRunner().invoke(cli, ["health", "--packages"])
    assert done.exit_code == 0, done.output
    changed = text.replace(f"click=={version('click')}", "click==0.0.1") + "no-such-thing==1\n"
    lock_again(monkeypatch, image, changed)
    with pytest.raises(KitError) as caught:
        CliRunner().invoke(cli, ["health", "--packages"], catch_exceptions=False)
    assert caught.value.exit_code == 1
    assert f"click is {version('click')}, locked 0.0.1; no-such-thing is missing" in str(caught.value)
    lock_again(monkeypatch, image, "# nothing\n")
    with pytest.raises(KitError, match="the lock pins nothing"):
        CliRunner().invoke(cli, ["health", "--packages"], catch_exceptions=False)


def test_pins_with_markers_and_local_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.13.0+cpu", "a": "1", "b": "2"}

    def lookup(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("importlib.metadata.version", lookup)
    text = (
        "# header\ntorch==2.13.0+cpu \\\n    --hash=1\n    # via x==3\ntorch==2.13.0 \\\n    --hash=1\n"
        "a==1 ; python_version < '3.12' \\\n    --hash=1\na==2 ; python_version >= '3.12' \\\n    --hash=1\n"
        "gone==1 ; sys_platform == 'win32' \\\n    --hash=1\nb==1 \\\n    --hash=1\n"
    )
    assert pins_of(text)[0] == ("torch", "2.13.0+cpu", False)
    assert differences(pins_of(text)) == ["b is 2, locked 1"]
