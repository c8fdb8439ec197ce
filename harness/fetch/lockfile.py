"""The lock of models and data sets: which repository at which commit, how large, and who needs it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from hashlib import sha256
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import KitError
from harness.files import write_bytes

LOCK_PATH = Path(__file__).resolve().parent.parent / "experiments" / "data" / "assets.lock.yaml"
SCHEMA = "assets-lock/1.0"

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


def _stays_inside(path: str) -> str:
    if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path!r} is not a path inside the repository")
    return path


RelativePath = Annotated[str, AfterValidator(_stays_inside)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LockedFile(_Frozen):
    """One file of a repository, with the digest that the hub knows it by."""

    path: RelativePath
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the content; the hub tells it for files in large-file storage."""
    git_sha1: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Of the git blob, for files that lie in the repository itself."""

    @model_validator(mode="after")
    def _has_a_digest(self) -> LockedFile:
        if self.sha256 is None and self.git_sha1 is None:
            raise ValueError(f"{self.path} has neither sha256 nor git_sha1")
        return self


class Asset(_Frozen):
    """One repository at one commit, or some of its files."""

    role: str
    type: Literal["model", "dataset"]
    repository: str = Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    revision: Commit
    observed: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    """Day on which the revision was the head of the repository's main branch."""
    bytes: int = Field(ge=0)
    """Of all selected files together."""
    approximate: bool = False
    """Whether `bytes` is a round figure: the hub's own list at `revision` then says how much it is."""
    include: tuple[str, ...] = ()
    """Patterns of the files that are wanted; all if empty."""
    files: tuple[LockedFile, ...] = ()
    """Empty in a lock made from totals alone: `kit fetch` then takes the list from the hub at `revision`,
    which no one can change, and the sizes must add up to `bytes`."""

    @model_validator(mode="after")
    def _adds_up(self) -> Asset:
        if self.files and sum(file.size for file in self.files) != self.bytes:
            raise ValueError("the sizes of the files do not add up to `bytes`")
        return self

    @property
    def key(self) -> str:
        """Name of the asset's folder in a cache: other content never has the same."""
        parts = [f"{self.type}s", *self.repository.split("/"), self.revision]
        if self.include:
            parts.append(sha256("\n".join(sorted(self.include)).encode()).hexdigest()[:8])
        return "--".join(parts)

    def wants(self, path: str) -> bool:
        """Whether a file of the repository is one of the asset's."""
        return not self.include or any(fnmatchcase(path, pattern) for pattern in self.include)


class AssetsLock(_Frozen):
    """The whole lock."""

    schema_id: Literal["assets-lock/1.0"] = Field(alias="schema")
    profiles: tuple[str, ...]
    """Profiles that train on the assets."""
    generated_profiles: tuple[str, ...]
    """Profiles that make their models and data on the spot and need nothing."""
    targets: dict[str, tuple[str, ...]]
    """Assets that a target of `kit reproduce` needs."""
    assets: dict[str, Asset]

    @model_validator(mode="after")
    def _targets_exist(self) -> AssetsLock:
        for target, names in self.targets.items():
            if missing := set(names) - set(self.assets):
                raise ValueError(f"target {target} needs {sorted(missing)}, not among the assets")
        return self

    def asset(self, name: str) -> Asset:
        """One asset by its name.

        Raises:
            KitError: The lock has none of that name.
        """
        if name not in self.assets:
            raise _unknown("asset", name, self.assets)
        return self.assets[name]

    def needed_by(self, target: str, profile: str) -> dict[str, Asset]:
        """What a target needs under a profile; the name of an asset stands for that asset.

        Raises:
            KitError: There is no such target or profile.
        """
        if profile not in (*self.profiles, *self.generated_profiles):
            raise _unknown("profile", profile, (*self.profiles, *self.generated_profiles))
        if target not in self.targets and target not in self.assets:
            raise _unknown("target", target, (*self.targets, *self.assets))
        if profile in self.generated_profiles:
            return {}
        return {name: self.assets[name] for name in self.targets.get(target, (target,))}


def _unknown(what: str, name: str, known: Iterable[str]) -> KitError:
    names = list(known)
    near = get_close_matches(name, names, n=1)
    guess = f"; did you mean {near[0]}?" if near else ""
    return KitError(f"the assets' lock has no {what} {name!r}{guess}", expected=", ".join(names))


def load_lock(path: Path = LOCK_PATH) -> AssetsLock:
    """Read and check a lock.

    Raises:
        KitError: It cannot be read or is not a lock; the message names the field.
    """
    try:
        return AssetsLock.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise KitError(f"cannot be read: {error.strerror}", where=path.name) from error
    except yaml.YAMLError as error:
        raise KitError(f"is not YAML: {str(error).splitlines()[0]}", where=path.name) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise KitError(f"{place}: {first['msg']}", where=path.name) from error


class _OneLine(dict[str, Any]):
    """A mapping that is written on one line: a file of an asset."""


class _Dumper(yaml.SafeDumper):
    """Block style but for `_OneLine`."""


_Dumper.add_representer(
    _OneLine, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)


def dump_lock(lock: AssetsLock, header: str = "") -> str:
    """The text of a lock file, with comment lines on top."""
    document = lock.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for asset in document["assets"].values():
        if "files" in asset:
            asset["files"] = [_OneLine(file) for file in asset["files"]]
    return header + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000)


def write_lock(path: Path, lock: AssetsLock) -> None:
    """Replace a lock file, keeping the comment on top."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    header = "".join(takewhile(lambda line: line.startswith("#"), lines))
    write_bytes(path, dump_lock(lock, header).encode())
