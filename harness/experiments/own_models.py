"""Models and data that a profile names itself: a folder, or the id of a repository in the hub's own cache.

What the lock of assets names is fetched with `kit fetch`. Everything else is the user's own: nothing here
uses a network, and what is not on the disk is refused with the command that gets it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

from harness.audit.fields import refuse
from harness.audit.problems import show
from harness.errors import KitError

if TYPE_CHECKING:
    from harness.experiments.profile import Profile

Values = dict[str, Any]
Role = Literal["model", "dataset"]

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_SIZE = re.compile(r"[a-z0-9][a-z0-9_-]*")


def _size_name(value: Any) -> Any:
    """Refuse a student's name that no file could be called by."""
    if isinstance(value, str) and not _SIZE.fullmatch(value):
        raise refuse(
            f"a student is called {show(value)}. Allowed: small letters, digits, - and _, such as 1b."
        )
    return value


SizeName = Annotated[str, BeforeValidator(_size_name)]


def anchored(values: Values, folder: Path, where: str) -> Values:
    """A profile file's own names of models and data with paths made absolute, and `data` as sources.

    A name that exists beside the file is a path. Base settings that belong to other models or data are
    replaced: tokenizer, judge, denominator, amounts and estimate.

    Args:
        values: What the file holds.
        folder: Where it lies.
        where: Place of `data` in it.

    Raises:
        KitError: `data` is neither a name, a mapping nor a list of them.
    """
    found = dict(values)
    for key in ("teacher", "tokenizer", "judge"):
        if isinstance(found.get(key), str):
            found[key] = _path(found[key], folder)
    template = found.get("chat_template")
    if isinstance(template, str) and template not in ("tokenizer", "teacher", "plain"):
        found["chat_template"] = str((folder / template).expanduser().absolute())
    if isinstance(found.get("students"), dict):
        found["students"] = {size: _path(name, folder) for size, name in found["students"].items()}
    if "data" in found:
        given = found.pop("data")
        sources = [_source(entry, folder, where) for entry in (given if isinstance(given, list) else [given])]
        stages = dict(found.get("stages") or {})
        stages["preprocess"] = {**stages.get("preprocess", {}), "sources": sources}
        found["stages"] = stages
    elif isinstance(found.get("stages"), dict):
        found["stages"] = {name: _stage(stage, folder) for name, stage in found["stages"].items()}
    return found


def without_others(base: Values, own: Values) -> Values:
    """A base without what belongs to models or data that a file replaces by its own."""
    result = dict(base)
    ours: set[str] = {key for key in ("teacher", "students") if key in own}
    if "sources" in own.get("stages", {}).get("preprocess", {}):
        ours.add("data")
    if ours:
        # They say how much there is of other data, and how long other models take.
        result |= {"amounts": None, "estimate": None}
    if "teacher" in ours:
        result |= {"tokenizer": None, "judge": None, "chat_template": "tokenizer"}
    if "data" in ours:
        result["reference_tokens"] = None
    if "students" in ours:
        result["students"] = {}
    return result


def own_names(profile: Profile, locked: Collection[str]) -> dict[str, Role]:
    """Models and data sets of a profile that the lock does not name.

    Args:
        profile: A profile of kind assets.
        locked: Names in the lock of assets.
    """
    models = [profile.teacher, profile.tokenizer, *profile.students.values()]
    named: dict[str, Role] = {name: "model" for name in models if name is not None}
    for stage in ("preprocess", "preprocess_synthetic"):
        for source in profile.settings(stage).get("sources", ()):
            if source.get("asset"):
                named[str(source["asset"])] = "dataset"
    if profile.judge is not None and _is_place(profile.judge):
        named[profile.judge] = "model"
    return {name: role for name, role in named.items() if name not in locked}


def own_folders(names: Mapping[str, Role]) -> dict[str, Path]:
    """Where own models and data lie.

    Raises:
        KitError: Some are not there; the message names all of them and how to get them.
    """
    found: dict[str, Path] = {}
    missing: list[str] = []
    commands: list[str] = []
    for name, role in names.items():
        place = own_folder(name, role)
        if place is not None:
            found[name] = place
            continue
        missing.append(name)
        if not name.startswith("/") and _HUB_ID.fullmatch(name):
            commands.append(f"hf download {name}" + (" --repo-type dataset" if role == "dataset" else ""))
    if missing:
        raise KitError(
            f"not found: {', '.join(missing)}",
            where="profile",
            expected="a folder, a name in the lock of assets, or a repository in the hub's cache",
            fix="; ".join(commands) or "correct the path: it counts from the profile's file",
        )
    return found


def own_folder(name: str, role: Role) -> Path | None:
    """The folder of one name; None where nothing is there."""
    path = Path(name)
    if path.is_absolute():
        return path if path.exists() else None
    if not _HUB_ID.fullmatch(name):
        return None
    from harness.fetch.hub import in_cache

    return in_cache(name, role)


def revision_of(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache; None for any other folder, which is named by its content."""
    commit = re.fullmatch(r"[0-9a-f]{40}", folder.name)
    return folder.name if commit and folder.parent.name == "snapshots" else None


def _is_place(name: str) -> bool:
    return name.startswith("/") or _HUB_ID.fullmatch(name) is not None


def _path(name: Any, folder: Path) -> Any:
    """A name as an absolute path where it is one."""
    if not isinstance(name, str):
        return name
    path = Path(name).expanduser()
    if path.is_absolute() or name.startswith(("./", "../")) or (folder / path).exists():
        return str((folder / path).absolute())
    return name


def _source(entry: Any, folder: Path, where: str) -> Values:
    if isinstance(entry, str):
        entry = {"path": entry}
    if not isinstance(entry, dict):
        raise KitError(
            f"data: {entry!r}",
            where=where,
            expected="a folder, a file of JSON lines with `messages`, a hub id, or a mapping with `path`",
        )
    named = dict(entry)
    if "path" not in named:
        return named
    place = _path(named["path"], folder)
    if str(place).startswith("/"):
        return {"kind": "examples", **named, "path": place}
    named.pop("path")
    return {"kind": "hub", **named, "asset": place}


def _stage(stage: Any, folder: Path) -> Any:
    if not isinstance(stage, dict) or not isinstance(stage.get("sources"), list):
        return stage
    sources = [
        {**source, "path": _path(source["path"], folder)}
        if isinstance(source, dict) and isinstance(source.get("path"), str)
        else source
        for source in stage["sources"]
    ]
    return {**stage, "sources": sources}
