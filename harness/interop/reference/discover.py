"""Finds the logs of the authors' harness below a path, whatever the path is.

A stage folder, a flat `stages/<id>.json`, a `stages` folder, a run folder or a folder with many runs: each
file is recognised by content, and grouped by run directory (the parent of `stages`) and stage folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import KitError
from harness.interop.codecarbon import EMISSIONS_NAME, read_emissions
from harness.interop.log_files import load_json, walk
from harness.interop.reference import read_json
from harness.interop.reference.power_log import read_power_log
from harness.interop.reference.records import LogTree, ReferenceStage, StageFolder

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_FIX = "give the run directory: the folder that holds `stages`"


def discover(root: Path) -> LogTree:
    """Read every log file below `root`.

    Raises:
        KitError: `root` does not exist or holds no log of the harness, or one of the files is malformed.
    """
    if not root.exists():
        expected = "a log folder of the authors' harness"
        raise KitError("no such file or folder", where=str(root), expected=expected, fix=_FIX)
    found = _Found(root)
    for path in walk(root):
        found.add(path)
    found.add_codecarbon_beside()
    tree = found.finish()
    if not tree.folders and not tree.emissions:
        raise KitError(
            "no log of the authors' harness found",
            where=str(root),
            expected="stage JSON, power_log.csv, experiment_summary.json or emissions.csv, at any depth",
            fix=_FIX,
        )
    return tree


class _Found:
    """Files seen so far, grouped by (run directory, stage folder name)."""

    def __init__(self, root: Path) -> None:
        self._tree = LogTree(root)
        self._folders: dict[tuple[Path, str], StageFolder] = {}
        self._summaries: list[tuple[Path, ReferenceStage]] = []
        self._emission_files: set[Path] = set()

    def add(self, path: Path) -> None:
        """Read one file, or count it as no log of the harness."""
        name, parent = path.name, path.parent
        if name == "power_log.csv":
            self._folder(parent).power_log = read_power_log(path)
        elif EMISSIONS_NAME.fullmatch(name):
            self._add_emissions(path)
        elif not (
            name.endswith(".json")
            and parent.name != "prerun"
            and name not in ("package.json", "benchmark_summary.json")
            and self._add_json(path)
        ):
            self._tree.ignored += 1

    def add_codecarbon_beside(self) -> None:
        """For a stage or `stages` folder: the run's CodeCarbon file lies outside it, and says which
        CodeCarbon it was.

        Only rows of stages that were found are kept.
        """
        root, emissions = self._tree.root, self._tree.emissions
        start = root if root.is_dir() else root.parent
        if start.name != "stages" and start.parent.name != "stages":
            return
        wanted = {record.stage_id for folder in self._folders.values() for record in folder.records}
        wanted |= {name for _, name in self._folders}
        known = len(emissions)
        for path in sorted((_run_dir(start) / "codecarbon").glob("emissions*")):
            if EMISSIONS_NAME.fullmatch(path.name):
                self._add_emissions(path)
        emissions[known:] = [item for item in emissions[known:] if item[1].project in wanted]

    def finish(self) -> LogTree:
        """The tree, with stage folders in a stable order and the entries of summaries in their folders."""
        for directory, record in self._summaries:
            # The harness copies one summary into the run directory and into every stage folder.
            own = (_run_dir(directory), directory.name)
            if own in self._folders or directory.parent.name == "stages":
                folder = self._folder(directory)
            else:
                folder = self._folder_of_id(directory, record.stage_id)
            folder.records += (record,)
        for _, folder in sorted(self._folders.items(), key=lambda item: (str(item[0][0]), item[0][1])):
            if folder.records or folder.power_log is not None:
                self._tree.folders.append(folder)
            else:
                # A stage that was started and left nothing behind (killed before its first sample).
                self._tree.ignored += folder.side_files
        return self._tree

    def _add_emissions(self, path: Path) -> None:
        if (resolved := path.resolve()) in self._emission_files:
            return
        self._emission_files.add(resolved)
        run_dir = path.parent.parent if path.parent.name == "codecarbon" else path.parent
        self._tree.emissions += [(run_dir, emission) for emission in read_emissions(path)]

    def _add_json(self, path: Path) -> bool:
        """Read a JSON file; False if it is no log of the harness."""
        name, parent = path.name, path.parent
        value = load_json(path)
        if name.startswith("environment_") and "gpus" in value:
            self._folder(parent).environment = read_json.parse_environment(value, path)
            self._folder(parent).side_files += 1
        elif name.startswith("config_") and "config" in value:
            self._folder(parent).config = read_json.parse_config(value, path)
            self._folder(parent).side_files += 1
        elif read_json.is_summary(value):
            self._summaries += [(parent, record) for record in read_json.parse_summary(value, path)]
        elif read_json.is_stage_record(value):
            record = read_json.parse_stage(value, path)
            flat = parent.name == "stages"
            folder = self._folder_of_id(parent.parent, record.stage_id) if flat else self._folder(parent)
            folder.records += (record,)
        else:
            return False
        return True

    def _folder(self, directory: Path) -> StageFolder:
        return self._named(_run_dir(directory), directory.name)

    def _folder_of_id(self, run_dir: Path, stage_id: str) -> StageFolder:
        """The folder of a stage id: of the same name, else one whose records carry that id."""
        safe = _UNSAFE.sub("_", stage_id).strip("_.")
        for (known_dir, name), folder in self._folders.items():
            same_id = any(record.stage_id == stage_id for record in folder.records)
            if known_dir == run_dir and (name == safe or same_id):
                return folder
        return self._named(run_dir, safe or "stage")

    def _named(self, run_dir: Path, name: str) -> StageFolder:
        return self._folders.setdefault((run_dir, name), StageFolder(run_dir, name))


def _run_dir(stage_folder: Path) -> Path:
    """The run directory of a stage folder: what lies above `stages`, or above a folder copied on its own."""
    if stage_folder.name == "stages":
        return stage_folder.parent
    parent = stage_folder.parent
    return parent.parent if parent.name == "stages" else parent
