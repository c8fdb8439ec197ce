"""The Hugging Face client behind three calls, with its errors in words a person can act on.

The client takes up a dropped download where it stopped; it lists a repository at a commit; it says what the
head of `main` is. Every digest compared here comes from the hub's own listing of a commit that no one can
change.

Needs the train extra; nothing else in this package does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors

from harness import __version__
from harness.errors import KitError
from harness.fetch.lockfile import Asset, LockedFile

ATTEMPTS = 5
PAUSE_S = 1.0
_T = TypeVar("_T")
_LIBRARY = {"library_name": "distill-energy-kit", "library_version": __version__}


class Mismatch(Exception):
    """A file whose size or content is not what the hub lists."""


class _DropsNotResets(httpx2.SyncByteStream):
    """A body whose connection resets look like the early ends that the client resumes from.

    huggingface_hub 2.4 resumes after an early end of the body and begins the file anew after a reset.
    """

    def __init__(self, body: httpx2.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except httpx2.ReadError as error:
            raise httpx2.RemoteProtocolError(str(error) or "connection reset") from error

    def close(self) -> None:
        self._body.close()


@cache
def prepare_client() -> None:
    """Set the client up for long downloads, once in a process.

    Raises:
        KitError: The environment forbids the network.
    """
    if constants.HF_HUB_OFFLINE:
        raise KitError(
            "HF_HUB_OFFLINE forbids the network",
            expected="it unset or 0",
            fix="HF_HUB_OFFLINE=0 kit fetch ...",
        )

    def wrap(response: httpx2.Response) -> None:
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _DropsNotResets(response.stream)

    session = huggingface_hub.get_session()
    hooks = session.event_hooks
    session.event_hooks = {**hooks, "response": [*hooks.get("response", []), wrap]}
    # Its warnings of dropped connections are ours to tell, with the file's name.
    huggingface_hub.logging.set_verbosity_error()


def client_version() -> str:
    """Name and version of the client, for receipts."""
    return f"huggingface_hub {huggingface_hub.__version__}"


def list_files(asset: Asset, endpoint: str | None = None) -> list[LockedFile]:
    """The wanted files of an asset at its commit, sorted by path, with the hub's digests.

    Args:
        asset: Which repository, commit and patterns.
        endpoint: The hub; $HF_ENDPOINT if None.

    Raises:
        KitError: The hub has no such repository or commit, or cannot be reached.
    """
    prepare_client()
    api = huggingface_hub.HfApi(endpoint=endpoint, **_LIBRARY)
    with translated(asset):
        entries = retry(
            lambda: list(
                api.list_repo_tree(
                    asset.repository, recursive=True, revision=asset.revision, repo_type=asset.type
                )
            )
        )
    files = [
        entry for entry in entries if isinstance(entry, huggingface_hub.RepoFile) and asset.wants(entry.path)
    ]
    if not files:
        raise KitError(
            "no file of the repository is wanted", where=asset.repository, fix="correct `include` in the lock"
        )
    return [
        LockedFile(
            path=file.path,
            size=file.size,
            sha256=file.lfs.sha256 if file.lfs else None,
            git_sha1=None if file.lfs else file.blob_id,
        )
        for file in sorted(files, key=lambda file: file.path)
    ]


def head(asset: Asset, endpoint: str | None = None) -> str:
    """Commit at the head of the repository's main branch.

    Raises:
        KitError: The hub has no such repository, or cannot be reached.
    """
    prepare_client()
    api = huggingface_hub.HfApi(endpoint=endpoint, **_LIBRARY)
    with translated(asset):
        info = retry(lambda: api.repo_info(asset.repository, revision="main", repo_type=asset.type))
    return str(info.sha)


def download(
    asset: Asset,
    file: LockedFile,
    folder: Path,
    *,
    advance: Callable[[int], None],
    note: Callable[[str], None],
    endpoint: str | None = None,
) -> LockedFile:
    """Put one file into a folder and verify it. A file that is there already is verified all the same.

    Args:
        asset: What it belongs to.
        file: The file.
        folder: Root of the repository's files.
        advance: Told the bytes that arrived; negative when some had to be given up.
        note: Told what went wrong and is being tried again.
        endpoint: The hub; $HF_ENDPOINT if None.

    Returns:
        The file with the SHA-256 of its content.

    Raises:
        KitError: The hub does not deliver it, or delivers something else; then it is not kept.
    """
    prepare_client()
    target = folder / file.path
    arrived = 0

    def count(step: int) -> None:
        nonlocal arrived
        arrived += step
        advance(step)

    def fetch() -> LockedFile:
        try:
            huggingface_hub.hf_hub_download(
                asset.repository,
                file.path,
                repo_type=asset.type,
                revision=asset.revision,
                local_dir=folder,
                endpoint=endpoint,
                tqdm_class=_bar(count),
                **_LIBRARY,
            )
            found = verify(target, file)
        except Exception as error:
            count(-arrived)
            if isinstance(error, Mismatch):
                # The client would take a file that is there for the right one.
                target.unlink()
            raise
        count(file.size - arrived)
        return found

    with translated(asset, file.path):
        return retry(fetch, lambda error: note(f"{file.path}: {_reason(error)}; trying again"))


def verify(path: Path, file: LockedFile) -> LockedFile:
    """Compare a file on disk with what the hub lists.

    Returns:
        The file with the SHA-256 of its content.

    Raises:
        Mismatch: Size or digest differ.
    """
    size = path.stat().st_size
    if size != file.size:
        raise Mismatch(f"has {size:,} bytes, the hub lists {file.size:,}")
    content, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            content.update(chunk)
            if file.git_sha1:
                blob.update(chunk)
    if file.sha256 and content.hexdigest() != file.sha256:
        raise Mismatch(f"has SHA-256 {content.hexdigest()}, the hub lists {file.sha256}")
    if file.git_sha1 and blob.hexdigest() != file.git_sha1:
        raise Mismatch(f"has git blob {blob.hexdigest()}, the hub lists {file.git_sha1}")
    return file.model_copy(update={"sha256": content.hexdigest()})


def retry(call: Callable[[], _T], on_error: Callable[[Exception], None] = lambda error: None) -> _T:
    """Call until it works or trying again makes no sense.

    A dropped network gets `ATTEMPTS` attempts with growing pauses, a wrong file one more: a bad link may have
    spoilt it, but what is wrong twice will stay so.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            if attempt == (2 if isinstance(error, Mismatch) else ATTEMPTS) or not _may_pass(error):
                raise
            on_error(error)
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns or raises")


def _may_pass(error: Exception) -> bool:
    """Whether the same call may work in a moment."""
    if isinstance(error, errors.RemoteEntryNotFoundError | errors.RepositoryNotFoundError):
        return False
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    # The client's word for "less or more than announced" is an OSError without a number; a full disk has one.
    return isinstance(error, Mismatch | httpx2.TransportError | errors.LocalEntryNotFoundError) or (
        isinstance(error, OSError) and error.errno is None
    )


@contextmanager
def translated(asset: Asset, path: str | None = None) -> Iterator[None]:
    """Turn the client's errors into ours.

    Raises:
        KitError: Something is not there, not allowed, not reachable or not right.
    """
    where = asset.repository if path is None else f"{asset.repository}: {path}"
    again = "check the network, then run the same command again; it goes on where it stopped"
    try:
        yield
    except errors.GatedRepoError as error:
        raise KitError(
            "the hub gives it only to those who accepted its terms",
            where=where,
            fix="accept them on the repository's page, then run with HF_TOKEN set (or after `hf auth login`)",
            exit_code=1,
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise KitError(
            f"the hub has no such {asset.type}, or not for you",
            where=where,
            fix="correct `repository` in the lock, or set HF_TOKEN",
            exit_code=1,
        ) from error
    except errors.RevisionNotFoundError as error:
        raise KitError(
            f"the hub has no revision {asset.revision}", where=where, fix="kit lock --write", exit_code=1
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise KitError(
            f"the hub has no such file at {asset.revision[:12]}",
            where=where,
            fix="kit lock --write",
            exit_code=1,
        ) from error
    except Mismatch as error:
        raise KitError(
            f"{error}. It was refused twice and not kept",
            where=where,
            expected=f"the file of revision {asset.revision[:12]}",
            fix="look for a proxy or mirror that alters files (HF_ENDPOINT), then run the same command again",
            exit_code=1,
        ) from error
    except OSError as error:
        if error.errno is not None and not isinstance(error, errors.HfHubHTTPError):
            raise KitError(
                f"{error.strerror}", where=str(error.filename or where), fix=again, exit_code=1
            ) from error
        raise KitError(_reason(error), where=where, fix=again, exit_code=1) from error
    except httpx2.HTTPError as error:
        raise KitError(_reason(error), where=where, fix=again, exit_code=1) from error


def _reason(error: Exception) -> str:
    """An error in one line, the innermost where the client wrapped it."""
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    first_line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return first_line[:300]


def _bar(advance: Callable[[int], None]) -> type[Any]:
    """A progress bar class for the client that shows nothing and tells how many bytes were written."""

    class Silent(huggingface_hub.utils.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes on the wire, told apart from bytes on disk where a repository lies in chunked storage."""

        def set_transfer_postfix_str(self, postfix: str, refresh: bool = False) -> None:
            """The rate on the wire."""

    return Silent
