"""The Hugging Face client behind three calls, with its errors in words a person can act on.

The client takes up a dropped download where it stopped; it lists a repository at a commit; it says what the
head of `main` is. Every digest compared here comes from the hub's own listing of a commit that no one can
change. `hf_hub_download` file by file, not `snapshot_download`: an error then names its file, a spoilt file
is fetched again by itself, and Ctrl-C ends the downloads.

Needs the train extra; nothing else in this package does.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from itertools import count
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors

from harness import __version__
from harness.errors import KitError
from harness.fetch.lockfile import Asset, LockedFile

if TYPE_CHECKING:
    from harness.fetch.prefetch import FetchProgress

ATTEMPTS = 5
PAUSE_S = 1.0
REACHABLE_S = 5.0
# Several files at once fill a fast line; each keeps a connection and at most one unfinished file on the disk.
WORKERS = 4
ENDPOINT = constants.ENDPOINT
CLIENT = f"huggingface_hub {huggingface_hub.__version__}"
_LIBRARY = {"library_name": "distill-energy-kit", "library_version": __version__}
_T = TypeVar("_T")


class Mismatch(Exception):
    """A file whose size or content is not what the hub lists."""


class _StoppedError(Exception):
    """The fetch has failed or was interrupted elsewhere."""


class _DropsNotResets(httpx2.SyncByteStream):
    """A body whose connection resets look like the early ends that the client resumes from.

    huggingface_hub 2.4 resumes after an early end of the body and begins the file again after a reset.
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


def check_reachable() -> None:
    """Ask the hub once whether it is there, before anything is tried again and again.

    Raises:
        KitError: Nothing answers within a few seconds.
    """
    prepare_client()
    try:
        httpx2.head(ENDPOINT, timeout=REACHABLE_S)
    except httpx2.HTTPError as error:
        raise KitError(
            f"does not answer within {REACHABLE_S:.0f} s ({_reason(error)})",
            where=ENDPOINT,
            expected="a network to the hub, or to a mirror named by HF_ENDPOINT",
            fix="check the network; or fetch on another machine and copy its cache folder (KIT_CACHE)",
            exit_code=1,
        ) from None


def list_files(asset: Asset) -> list[LockedFile]:
    """The wanted files of an asset at its commit, sorted by path, with the hub's digests.

    Raises:
        KitError: The hub has no such repository or commit, or cannot be reached.
    """
    prepare_client()
    tree = huggingface_hub.HfApi(endpoint=ENDPOINT, **_LIBRARY).list_repo_tree
    revision, kind = asset.revision, asset.type
    entries = _retry(
        asset, lambda: list(tree(asset.repository, recursive=True, revision=revision, repo_type=kind))
    )
    files = [e for e in entries if isinstance(e, huggingface_hub.RepoFile) and asset.wants(e.path)]
    if not files:
        raise KitError(
            "no file of the repository is wanted", where=asset.repository, fix="correct `include` in the lock"
        )
    return [
        LockedFile(path=file.path, size=file.size, sha256=file.lfs.sha256)
        if file.lfs
        else LockedFile(path=file.path, size=file.size, git_sha1=file.blob_id)
        for file in sorted(files, key=lambda file: file.path)
    ]


def head(asset: Asset) -> str:
    """Commit at the head of the repository's main branch.

    Raises:
        KitError: The hub has no such repository, or cannot be reached.
    """
    prepare_client()
    info = huggingface_hub.HfApi(endpoint=ENDPOINT, **_LIBRARY).repo_info
    return str(_retry(asset, lambda: info(asset.repository, revision="main", repo_type=asset.type)).sha)


def download(
    asset: Asset, files: list[LockedFile], folder: Path, progress: FetchProgress
) -> list[LockedFile]:
    """Put files into a folder and verify them. A file that is there already is verified all the same.

    Args:
        asset: What they belong to.
        files: The files.
        folder: Root of the repository's files.
        progress: Told the bytes that arrive, negative when some are given up, and what is tried again.

    Returns:
        The files by path, with the SHA-256 of their content.

    Raises:
        KitError: The hub does not deliver one, or delivers something else; then it is not kept.
    """
    prepare_client()
    failed, interrupted = Event(), Event()

    def get(file: LockedFile) -> LockedFile:
        arrived = 0

        def advance(step: int) -> None:
            # The only place where a download can be left: the client calls it for every piece that arrives.
            if interrupted.is_set():
                raise _StoppedError
            nonlocal arrived
            arrived += step
            progress.advance(step)

        def fetch() -> LockedFile:
            nonlocal arrived
            try:
                huggingface_hub.hf_hub_download(
                    asset.repository,
                    file.path,
                    repo_type=asset.type,
                    revision=asset.revision,
                    local_dir=folder,
                    endpoint=ENDPOINT,
                    tqdm_class=_bar(advance),
                    **_LIBRARY,
                )
                found = verify(folder / file.path, file)
            except Exception as error:
                progress.advance(-arrived)
                arrived = 0
                if isinstance(error, Mismatch):
                    # The client would take a file that is there for the right one.
                    (folder / file.path).unlink()
                raise
            progress.advance(file.size - arrived)
            return found

        if failed.is_set():
            raise _StoppedError
        return _retry(asset, fetch, file.path, progress.note)

    with ThreadPoolExecutor(WORKERS) as pool:
        # Large files first: the last one to end is then a small one.
        futures = [pool.submit(get, file) for file in sorted(files, key=lambda file: -file.size)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            interrupted.set()
            raise
        finally:
            # Files on their way may arrive: they are kept for the next try. No other is begun.
            failed.set()
    faults = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(faults, key=lambda error: isinstance(error, _StoppedError)):
        raise error
    return sorted((future.result() for future in futures), key=lambda file: file.path)


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


def _retry(
    asset: Asset, call: Callable[[], _T], path: str | None = None, note: Callable[[str], None] | None = None
) -> _T:
    """Call until it works or trying again makes no sense.

    A dropped network gets `ATTEMPTS` attempts with growing pauses, a wrong file one more: a bad link may have
    spoilt it, but what is wrong twice will stay so.

    Raises:
        KitError: Something is not there, not allowed, not reachable or not right.
    """
    for attempt in count(1):
        try:
            return call()
        except (OSError, httpx2.HTTPError, Mismatch) as error:
            if attempt == (2 if isinstance(error, Mismatch) else ATTEMPTS) or not _may_pass(error):
                raise _in_words(error, asset, path) from error
            if note is not None:
                note(f"{path}: {_reason(error)}; trying again")
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


_RELOCK = "kit lock --write"
_WORDS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        errors.GatedRepoError,
        "the hub gives it only to those who accepted its terms",
        "accept them on the repository's page, then run with HF_TOKEN set (or after `hf auth login`)",
    ),
    (
        errors.RepositoryNotFoundError,
        "the hub has no such {asset.type}, or not for you",
        "correct `repository` in the lock, or set HF_TOKEN",
    ),
    (errors.RevisionNotFoundError, "the hub has no revision {asset.revision}", _RELOCK),
    (errors.RemoteEntryNotFoundError, "the hub has no such file at {asset.revision:.12}", _RELOCK),
    (
        Mismatch,
        "{error}. It was refused twice and not kept",
        "look for a proxy or mirror that alters files (HF_ENDPOINT), then run the same command again",
    ),
)
"""Error of the client, what it means, what to do; the first that fits counts."""


def _in_words(error: Exception, asset: Asset, path: str | None) -> KitError:
    where = asset.repository if path is None else f"{asset.repository}: {path}"
    for kind, message, fix in _WORDS:
        if isinstance(error, kind):
            return KitError(message.format(error=error, asset=asset), where=where, fix=fix, exit_code=1)
    message = _reason(error)
    if (
        isinstance(error, OSError)
        and error.errno is not None
        and not isinstance(error, errors.HfHubHTTPError)
    ):
        message, where = str(error.strerror), str(error.filename or where)
    again = "check the network, then run the same command again; it goes on where it stopped"
    return KitError(message, where=where, fix=again, exit_code=1)


def _reason(error: Exception) -> str:
    """An error in one line, the innermost where the client wrapped it."""
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (next(iter(str(error).splitlines()), "") or type(error).__name__)[:300]


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


def in_cache(repository: str, repo_type: str) -> Path | None:
    """The newest snapshot of a repository in the hub's cache; None without one. Nothing is fetched."""
    try:
        return Path(huggingface_hub.snapshot_download(repository, repo_type=repo_type, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
