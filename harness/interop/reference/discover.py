"""Finds the logs of the authors' harness below a path, whatever the path is.

A stage folder, a flat `stages/<id>.json`, a `stages` folder, a run folder or a folder with many runs: each
file is recognised by content, and grouped by run directory (the parent of `stages`) and stage folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import KitError
from harness.interop.reference import read_csv, read_json
from harness.interop.reference.records import (
    Emission,
    Environment,
    LogTree,
    PowerLog,
    ReferenceStage,
    RunConfig,
    StageFolder,
)

_EMISSIONS_NAME = re.compile(r"emissions\w*\.csv(_\d+)?(\.bak)?")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def discover(root: Path) -> LogTree:
    """Read every log file below `root`.

    Raises:
        KitError: `root` does not exist or holds no log of the harness, or one of the files is malformed.
    """
    if not root.exists():
        raise KitError(
            "no such file or folder",
            where=str(root),
            expected="a log folder of the authors' harness",
            fix="give the run directory: the folder that holds `stages`",
        )
    found = _Found()
    for path in _files(root):
        found.add(path)
    found.add_codecarbon_beside(root)
    folders = found.folders()
    emissions = tuple(found.emissions)
    if not folders and not emissions:
        raise KitError(
            "no log of the authors' harness found",
            where=str(root),
            expected="stage JSON, power_log.csv, experiment_summary.json or emissions.csv, at any depth",
            fix="give the run directory: the folder that holds `stages`",
        )
    return LogTree(root=root, folders=folders, emissions=emissions, ignored=found.ignored)


@dataclass
class _Folder:
    records: list[ReferenceStage] = field(default_factory=list)
    power_log: PowerLog | None = None
    environments: list[Environment] = field(default_factory=list)
    configs: list[RunConfig] = field(default_factory=list)


class _Found:
    """Files seen so far, grouped by (run directory, stage folder name)."""

    def __init__(self) -> None:
        self.emissions: list[tuple[Path, Emission]] = []
        self.ignored = 0
        self._folders: dict[tuple[Path, str], _Folder] = {}
        self._summaries: list[tuple[Path, ReferenceStage]] = []
        self._emission_files: set[Path] = set()

    def add(self, path: Path) -> None:
        name = path.name
        if name == "power_log.csv":
            self._folder(path.parent).power_log = read_csv.read_power_log(path)
        elif _EMISSIONS_NAME.fullmatch(name):
            self._add_emissions(path)
        elif name.endswith(".json"):
            self._add_json(path)
        else:
            self.ignored += 1

    def add_codecarbon_beside(self, root: Path) -> None:
        """For a stage or `stages` folder: the run's CodeCarbon file lies outside it, and says which
        CodeCarbon it was.

        Only rows of stages that were found are kept.
        """
        start = root if root.is_dir() else root.parent
        if start.name != "stages" and start.parent.name != "stages":
            return
        run_dir = _run_dir(start)
        wanted = {record.stage_id for folder in self._folders.values() for record in folder.records}
        wanted |= {name for _, name in self._folders}
        known = len(self.emissions)
        for path in sorted((run_dir / "codecarbon").glob("emissions*")):
            if _EMISSIONS_NAME.fullmatch(path.name):
                self._add_emissions(path)
        self.emissions[known:] = [item for item in self.emissions[known:] if item[1].project in wanted]

    def folders(self) -> tuple[StageFolder, ...]:
        """Stage folders in a stable order; entries of a run's summary join the folder of their stage."""
        for directory, record in self._summaries:
            # The harness copies one summary into the run directory and into every stage folder.
            own = (_run_dir(directory), directory.name)
            in_stage_folder = own in self._folders or directory.parent.name == "stages"
            key = own if in_stage_folder else self._key_of_id(directory, record.stage_id)
            self._folders.setdefault(key, _Folder()).records.append(record)
        built = []
        for (run_dir, name), folder in sorted(
            self._folders.items(), key=lambda item: (str(item[0][0]), item[0][1])
        ):
            if not folder.records and folder.power_log is None:
                # A stage that was started and left nothing behind (killed before its first sample).
                self.ignored += len(folder.configs) + len(folder.environments)
                continue
            built.append(
                StageFolder(
                    run_dir=run_dir,
                    name=name,
                    records=tuple(folder.records),
                    power_log=folder.power_log,
                    environment=folder.environments[-1] if folder.environments else None,
                    config=folder.configs[-1] if folder.configs else None,
                )
            )
        return tuple(built)

    def _add_emissions(self, path: Path) -> None:
        resolved = path.resolve()
        if resolved in self._emission_files:
            return
        self._emission_files.add(resolved)
        parent = path.parent
        run_dir = parent.parent if parent.name == "codecarbon" else parent
        self.emissions.extend((run_dir, emission) for emission in read_csv.read_emissions(path))

    def _add_json(self, path: Path) -> None:
        name, folder = path.name, path.parent
        if folder.name == "prerun" or name in ("package.json", "benchmark_summary.json"):
            self.ignored += 1
            return
        value = read_json.load_object(path)
        if name.startswith("environment_") and "gpus" in value:
            self._folder(folder).environments.append(read_json.parse_environment(value, path))
        elif name.startswith("config_") and "config" in value:
            self._folder(folder).configs.append(read_json.parse_config(value, path))
        elif read_json.is_summary(value):
            self._summaries.extend((folder, record) for record in read_json.parse_summary(value, path))
        elif read_json.is_stage_record(value):
            record = read_json.parse_stage(value, path)
            if folder.name == "stages":
                key = self._key_of_id(folder.parent, record.stage_id)
                self._folders.setdefault(key, _Folder()).records.append(record)
            else:
                self._folder(folder).records.append(record)
        else:
            self.ignored += 1

    def _folder(self, directory: Path) -> _Folder:
        return self._folders.setdefault((_run_dir(directory), directory.name), _Folder())

    def _key_of_id(self, run_dir: Path, stage_id: str) -> tuple[Path, str]:
        """The folder of a stage id: of the same name, else one whose records carry that id."""
        safe = _UNSAFE.sub("_", stage_id).strip("_.")
        for (known_dir, name), folder in self._folders.items():
            same_id = any(record.stage_id == stage_id for record in folder.records)
            if known_dir == run_dir and (name == safe or same_id):
                return known_dir, name
        return run_dir, safe or "stage"


def _run_dir(stage_folder: Path) -> Path:
    """The run directory of a stage folder: what lies above `stages`, or above a folder copied on its own."""
    if stage_folder.name == "stages":
        return stage_folder.parent
    parent = stage_folder.parent
    return parent.parent if parent.name == "stages" else parent


def _files(root: Path) -> Iterator[Path]:
    """Regular files below `root` in a stable order; links are not followed, a link to a folder could loop."""
    if root.is_file():
        yield root
        return

    def unreadable(error: OSError) -> None:
        raise KitError(
            f"cannot be listed ({error.strerror})",
            where=str(error.filename),
            fix="check the folder's permissions",
        ) from error

    for directory, names, files in os.walk(root, onerror=unreadable):
        names.sort()
        for name in sorted(files):
            path = Path(directory) / name
            if path.is_file():
                yield path
