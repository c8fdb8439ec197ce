"""An image that an engine saved becomes an OCI archive whose every blob is what its name says."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from harness.spec import protocol_digest
from tests.lab.fixtures import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import image
import image_bundle
import image_examine


def layer(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def saved_image(path: Path, *, wrong: bool = False) -> str:
    """As docker before version 25 saves: two layers, the first twice, by a link. Returns the image's id."""
    first, second = layer("a"), layer("b")
    ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (first, second, first)]
    config = json.dumps({"config": {}, "rootfs": {"type": "layers", "diff_ids": ids}}).encode()
    config_id = hashlib.sha256(config).hexdigest()
    names = [f"{number * 8}/layer.tar" for number in "123"]
    described = [{"Config": f"{config_id}.json", "RepoTags": ["kit:cpu"], "Layers": names}]
    files = {
        f"{config_id}.json": config,
        names[0]: first,
        names[1]: second + b"!" if wrong else second,
        "manifest.json": json.dumps(described).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo(names[2])
        link.type, link.linkname = tarfile.SYMTYPE, f"../{names[0]}"
        tar.addfile(link)
    return f"sha256:{config_id}"


def test_every_blob_is_what_its_name_says_and_docker_finds_the_same_layers(tmp_path: Path) -> None:
    image_id = saved_image(tmp_path / "saved.tar")
    digests = image_bundle.to_oci(tmp_path / "saved.tar", tmp_path / "out.tar", "kit:cpu")
    assert digests["image_id"] == image_id
    with tarfile.open(tmp_path / "out.tar") as tar:
        data = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}  # type: ignore[union-attr]
    blobs = {name: text for name, text in data.items() if name.startswith("blobs/")}
    assert len(blobs) == 4
    for name, text in blobs.items():
        assert name == f"blobs/sha256/{hashlib.sha256(text).hexdigest()}"
    [entry] = json.loads(data["index.json"])["manifests"]
    assert entry["digest"] == digests["manifest_digest"]
    manifest = json.loads(blobs["blobs/sha256/" + entry["digest"].removeprefix("sha256:")])
    for part in (manifest["config"], *manifest["layers"]):
        assert len(blobs["blobs/sha256/" + part["digest"].removeprefix("sha256:")]) == part["size"]
    assert [part["digest"] for part in manifest["layers"]].count(manifest["layers"][0]["digest"]) == 2
    [old] = json.loads(data["manifest.json"])
    assert old["RepoTags"] == ["kit:cpu"] and len(old["Layers"]) == 3 and set(old["Layers"]) <= set(blobs)

    image_bundle.to_oci(tmp_path / "saved.tar", tmp_path / "again.tar", "kit:cpu")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "out.tar").read_bytes()


def test_a_changed_layer_and_an_archive_of_something_else_are_refused(tmp_path: Path) -> None:
    saved_image(tmp_path / "saved.tar", wrong=True)
    with pytest.raises(image.BuildError, match=r"layer 22222222/layer\.tar has digest"):
        image_bundle.to_oci(tmp_path / "saved.tar", tmp_path / "out.tar", "kit:cpu")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("readme"))
    with pytest.raises(image.BuildError, match="no archive with one saved image"):
        image_bundle.to_oci(tmp_path / "other.tar", tmp_path / "out.tar", "kit:cpu")


def test_the_description_names_locks_and_protocol() -> None:
    told = image_bundle.describe("cpu", "kit:cpu", {"image_id": "sha256:0"})
    assert told["protocol_sha256"] == protocol_digest()
    assert told["lock_sha256"] == image.lock_digest("cpu")
    assert list(told["locks"]) == [f"{name}.lock" for name in image.LOCKS["cpu"]]


def test_what_a_build_pulls_is_said_with_size_and_licence() -> None:
    cuda, cpu = ("\n".join(image.outlook(torch, None)) for torch in ("cuda", "cpu"))
    for text in (cuda, cpu):
        assert "nvidia/cuda:" in text and "@sha256:" in text and " GB" in text
        assert "NVIDIA Deep Learning Container License" in text
    assert "proprietary licence" in cuda and "proprietary licence" not in cpu
    assert "pulls base:local\n" in "\n".join(image.outlook("cpu", "base:local")) + "\n"


def test_the_pages_recipe_names_the_files_of_a_bundle() -> None:
    for variant in ("cpu", "cuda"):
        told = image_bundle.recipe(variant)
        assert f"docker load --input {image_bundle.stem_of(variant)}.oci.tar" in told
        assert re.search(rf"docker run .*(?:\\\n.*)* kit:{variant} audit my_pipeline.yaml", told)
        assert told.startswith("sha256sum -c SHA256SUMS\n")


def test_steps_of_workflows_and_commands_of_pages_are_shell() -> None:
    texts = image_examine.shell_texts()
    assert any("#SBATCH" in text for text in texts) and any("docker push" in text for text in texts)
    for text in texts:
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), text
