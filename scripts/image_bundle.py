"""`make image-bundle`: an image as one file to keep, check and load without a registry or a network.

    python scripts/image_bundle.py cpu|cuda [--tag NAME] [--out FOLDER]

Writes into dist/image-VARIANT: the archive, its bill of materials, a JSON file with the digests of image,
locks and protocol, and SHA256SUMS. The archive is an OCI layout that old docker loads as well: docker load,
podman load, skopeo and apptainer (oci-archive:) take it. The image's id, which a run's manifest names, stays.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any

import image
import image_examine
from image_checks import Bench

sys.path.insert(0, str(image.ROOT))

from harness.files import file_digest
from harness.spec import protocol_digest

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
BLOCK = 1 << 20
NO_ROUTE = 'test -z "$(tail -n +2 /proc/net/route)"'
"""Of a shell: nothing can be reached from here."""


def _read(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    # Links are followed: docker before 25 links a layer that stands in the archive twice.
    file = tar.extractfile(name)
    if file is None:
        raise image.BuildError(f"the saved image has no file {name}")
    return file


def _digest(file: IO[bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while block := file.read(BLOCK):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def _add(out: tarfile.TarFile, name: str, size: int, file: IO[bytes]) -> None:
    # Neither times nor owners: equal images make equal archives.
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    out.addfile(entry, file)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def to_oci(saved: Path, archive: Path, tag: str) -> dict[str, str]:
    """Turn what `docker save` or `podman save` wrote into an OCI archive that docker of any age loads too.

    Args:
        saved: The saved image, one image in it.
        archive: Where the archive goes.
        tag: Name that the image gets when it is loaded.

    Returns:
        `image_id` (digest of the configuration) and `manifest_digest`, each `sha256:...`.

    Raises:
        BuildError: It holds no image, or a layer is not the one that the configuration names.
    """
    with tarfile.open(saved) as source, tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as out:
        try:
            [described] = json.load(_read(source, "manifest.json"))
            config = _read(source, described["Config"]).read()
            wanted = json.loads(config)["rootfs"]["diff_ids"]
        except (KeyError, ValueError, TypeError) as error:
            raise image.BuildError(f"{saved.name} is no archive with one saved image: {error}") from None
        layers, written = [], set()
        for name, diff_id in zip(described["Layers"], wanted, strict=True):
            digest, size = _digest(_read(source, name))
            if diff_id != f"sha256:{digest}":
                raise image.BuildError(f"layer {name} has digest {digest}, its image names {diff_id}")
            layers.append({"mediaType": LAYER, "digest": diff_id, "size": size})
            if digest not in written:
                _add(out, f"blobs/sha256/{digest}", size, _read(source, name))
            written.add(digest)
        image_id = hashlib.sha256(config).hexdigest()
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": f"sha256:{image_id}", "size": len(config)},
                "layers": layers,
            }
        )
        manifest_id = hashlib.sha256(manifest).hexdigest()
        named = {"org.opencontainers.image.ref.name": tag.partition(":")[2], "io.containerd.image.name": tag}
        entry = {"mediaType": MANIFEST, "digest": f"sha256:{manifest_id}", "size": len(manifest)}
        paths = [f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}" for layer in layers]
        files = {
            f"blobs/sha256/{image_id}": config,
            f"blobs/sha256/{manifest_id}": manifest,
            "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
            "index.json": _json({"schemaVersion": 2, "manifests": [entry | {"annotations": named}]}),
            "manifest.json": _json(
                [{"Config": f"blobs/sha256/{image_id}", "RepoTags": [tag], "Layers": paths}]
            ),
        }
        for name, text in files.items():
            _add(out, name, len(text), io.BytesIO(text))
    return {"image_id": f"sha256:{image_id}", "manifest_digest": f"sha256:{manifest_id}"}


def describe(variant: str, tag: str, digests: dict[str, str]) -> dict[str, Any]:
    """bundle.json: what the archive is made of."""
    arguments = image.build_arguments(variant, None)
    return {
        "image": tag,
        **digests,
        "kit_version": arguments["KIT_VERSION"],
        "protocol_version": arguments["PROTOCOL_VERSION"],
        "protocol_sha256": protocol_digest(),
        "git_commit": arguments.get("GIT_COMMIT"),
        "git_dirty": arguments.get("GIT_DIRTY") == "true" if "GIT_COMMIT" in arguments else None,
        "lock_sha256": arguments["LOCK_SHA256"],
        "locks": {
            f"{name}.lock": file_digest(image.REQUIREMENTS / f"{name}.lock") for name in image.LOCKS[variant]
        },
    }


def bundle(client: list[str], variant: str, tag: str, out: Path) -> list[Path]:
    """Write archive, bill of materials, bundle.json and SHA256SUMS; returns their paths.

    Args:
        client: Command of docker or podman, as far as before `save`.
        variant: cuda or cpu.
        tag: The image, which was built before.
        out: Folder of the files.

    Raises:
        BuildError: The image is not there, or a program failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    archive, bill, about = (out / f"{stem_of(variant)}{end}" for end in (".oci.tar", ".cdx.json", ".json"))
    with tempfile.TemporaryDirectory(dir=out) as folder:
        saved = Path(folder) / "saved.tar"
        done = subprocess.run([*client, "save", "--output", str(saved), tag], check=False)
        if done.returncode != 0:
            target = "make image" if variant == "cuda" else "make image-cpu"
            raise image.BuildError(f"image {tag} cannot be saved\n  fix: {target}, then make image-bundle")
        digests = to_oci(saved, archive, tag)
        image_examine.install_tools()
        image_examine.scan(saved, bill)
    about.write_text(json.dumps(describe(variant, tag, digests), indent=2) + "\n", encoding="utf-8")
    files = [archive, bill, about]
    return [*files, write_sums(files)]


def stem_of(variant: str) -> str:
    """Name of a bundle's files without their ends."""
    return f"kit-{image.build_arguments(variant, None)['KIT_VERSION']}-{variant}"


def write_sums(files: list[Path]) -> Path:
    """SHA256SUMS beside the files."""
    sums = files[0].with_name("SHA256SUMS")
    sums.write_text("".join(f"{file_digest(path)}  {path.name}\n" for path in files), encoding="utf-8")
    return sums


def recipe(variant: str) -> str:
    """The commands of docs/containers.md for a machine without a network, for one of the variants."""
    page = (image.ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```sh\n(sha256sum -c .*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return str(block).replace("-cpu.oci", f"-{variant}.oci").replace("kit:cpu", f"kit:{variant}")


def loads_elsewhere(bench: Bench) -> None:
    """A check of `make image-test`: the page's recipe, as it stands there, audits without a network.

    Its engine has no image yet, and engine and shell are each in a network namespace without a route.
    """
    folder = bench.folder("offline", owner="0:0")
    archive = folder / f"{stem_of(bench.torch)}.oci.tar"
    digests = to_oci(image_examine.archive(bench), archive, f"kit:{bench.torch}")
    assert digests["image_id"] == bench.digest, digests
    write_sums([archive])
    engine = type(bench.engine)(bench.work / "offline-engine", bench.engine.library, offline=True)
    try:
        engine.start()
        stand_in = engine.folder / "bin" / "docker"
        stand_in.parent.mkdir()
        stand_in.write_text(f'#!/bin/sh\nexec {shlex.join(engine.cli)} "$@"\n', encoding="utf-8")
        stand_in.chmod(0o755)
        told = recipe(bench.torch)
        if engine.name == "podman":
            told = told.replace("$(docker image", "sha256:$(docker image")
        words = ["unshare", "--net", "bash", "-euo", "pipefail", "-c", f"{NO_ROUTE}\n{told}"]
        environment = os.environ | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        engine.stop()
    archive.unlink()
    found = json.loads((folder / "runs" / "tiny" / "manifest.json").read_text(encoding="utf-8"))
    assert found["status"] == "complete" and found["software"]["image_digest"] == bench.digest, found


def main() -> int:
    """Parse the command line and bundle."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variant", choices=sorted(image.LOCKS))
    parser.add_argument("--tag", help="name of the image (kit:cuda, kit:cpu)")
    parser.add_argument("--out", type=Path, help="folder (dist/image-VARIANT)")
    given = parser.parse_args()
    out = given.out or image.ROOT / "dist" / f"image-{given.variant}"
    try:
        client = [Path(image.builder()[0]).name.replace("buildah", "podman")]
        files = bundle(client, given.variant, given.tag or f"kit:{given.variant}", out)
    except (image.BuildError, RuntimeError, AssertionError, OSError) as error:
        print(f"image-bundle: {error}", file=sys.stderr)
        return 2
    for path in files:
        print(f"image-bundle: {path}, {path.stat().st_size / 1e6:,.1f} MB")
    print("image-bundle: docs/containers.md says how to load it on a machine without a network")
    return 0


if __name__ == "__main__":
    sys.exit(main())
