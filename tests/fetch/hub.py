"""A small stand-in for the Hugging Face hub on the loopback: what the real client asks for, with faults.

Serves the API's revision and tree calls and `resolve` with the hub's headers: ETag and X-Repo-Commit, ranges,
and for files in large-file storage a redirect with X-Linked-ETag and X-Linked-Size.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

# The hub keeps larger files in large-file storage. Real ones start at 10 MB.
LARGE = 4096


@dataclass
class Repo:
    """A repository: its commits, oldest first; `main` is the last."""

    commits: dict[str, dict[str, bytes]]

    @property
    def head(self) -> str:
        return list(self.commits)[-1]


@dataclass
class Faults:
    """What goes wrong, by path of a file. Lists are used up from the front, an entry for each request."""

    drop: dict[str, list[int]] = field(default_factory=dict)
    """Close the connection after so many bytes of the answer; reset it instead if the number is negative."""
    content: dict[str, bytes] = field(default_factory=dict)
    """Send this instead, always."""
    content_once: dict[str, list[bytes]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    """Listed in the tree but not there."""
    status: dict[str, list[int]] = field(default_factory=dict)
    """Answer with this status; the key may also be `tree` or `revision`."""
    hold: threading.Event | None = None
    """Content is sent up to its middle; the rest waits for the event."""


class Hub:
    """Server in a thread: `with Hub({...}) as hub: hub.endpoint`."""

    def __init__(self, repos: dict[str, Repo]) -> None:
        self.repos = repos
        self.faults = Faults()
        self.requests: Counter[str] = Counter()
        self.ranges: list[tuple[str, int]] = []
        """Path and first byte of every request for content that asked for a range."""
        self.sent: Counter[str] = Counter()
        """Bytes of content sent, by path."""
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.faults.hold is not None:
            self.faults.hold.set()
        self._server.shutdown()
        self._server.server_close()


def git_sha1(content: bytes) -> str:
    """Name of a git blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(content: bytes) -> str:
    """The hub's ETag: the SHA-256 of a large file, the git blob of a small one."""
    return hashlib.sha256(content).hexdigest() if len(content) > LARGE else git_sha1(content)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        kind, _, rest = path.removeprefix("/api/").partition("/")
        if path.startswith("/api/") and (
            found := re.fullmatch(r"([^/]+/[^/]+)/(revision|tree)/([^/]+)", rest)
        ):
            self._api(kind, *found.groups())
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            prefix, name, revision, file = found.groups()
            self._resolve(("datasets" if prefix else "models") + "/" + name, revision, file)
        elif found := re.fullmatch(r"/storage/([^/]+/[^/]+/[^/]+)/([^/]+)/(.+)", path):
            repo, commit, file = found.groups()
            self._content(file, self.hub.repos[repo].commits[commit][file], commit)
        else:
            self._error(404, None)

    def _commit(self, repo: str, revision: str) -> str | None:
        """The commit that a revision means; None after an answer that there is none."""
        if repo not in self.hub.repos:
            self._error(404, "RepoNotFound")
            return None
        commit = self.hub.repos[repo].head if revision == "main" else revision
        if commit not in self.hub.repos[repo].commits:
            self._error(404, "RevisionNotFound")
            return None
        return commit

    def _fails(self, key: str) -> bool:
        with self.hub.lock:
            waiting = self.hub.faults.status.get(key)
            status = waiting.pop(0) if waiting else None
        if status is not None:
            self._error(status, None)
        return status is not None

    def _api(self, kind: str, name: str, call: str, revision: str) -> None:
        self.hub.requests[call] += 1
        commit = self._commit(f"{kind}/{name}", revision)
        if commit is None or self._fails(call):
            return
        if call == "revision":
            self._json({"_id": "0", "id": name, "sha": commit, "siblings": [], "tags": [], "private": False})
            return
        listing: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "data"}]
        for path, content in self.hub.repos[f"{kind}/{name}"].commits[commit].items():
            entry: dict[str, Any] = {
                "type": "file",
                "oid": git_sha1(content),
                "size": len(content),
                "path": path,
            }
            if len(content) > LARGE:
                entry["lfs"] = {"oid": etag(content), "size": len(content), "pointerSize": 134}
            listing.append(entry)
        self._json(listing)

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        self.hub.requests[f"{self.command} {file}"] += 1
        commit = self._commit(repo, revision)
        if commit is None or self._fails(file):
            return
        content = self.hub.repos[repo].commits[commit].get(file)
        if content is None or file in self.hub.faults.missing:
            self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        elif len(content) > LARGE:
            self.send_response(302)
            self.send_header("Location", f"{self.hub.endpoint}/storage/{repo}/{commit}/{file}")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("X-Linked-ETag", f'"{etag(content)}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._content(file, content, commit)

    def _content(self, file: str, content: bytes, commit: str) -> None:
        faults = self.hub.faults
        tag = etag(content)
        drop: int | None = None
        if self.command == "GET":
            self.hub.requests[f"content {file}"] += 1
            with self.hub.lock:
                once = faults.content_once.get(file)
                content = once.pop(0) if once else faults.content.get(file, content)
                drops = faults.drop.get(file)
                drop = drops.pop(0) if drops else None
        first = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(asked[1])
            self.hub.ranges.append((file, first))
        body = content[first:]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self._send_body(file, body, drop)

    def _send_body(self, file: str, body: bytes, drop: int | None) -> None:
        part = body if drop is None else body[: abs(drop)]
        middle = len(part) // 2 if self.hub.faults.hold is not None else len(part)
        try:
            self.wfile.write(part[:middle])
            self.wfile.flush()
            if self.hub.faults.hold is not None:
                self.hub.faults.hold.wait(300)
            self.wfile.write(part[middle:])
            self.wfile.flush()
        except OSError:
            self.close_connection = True
            return
        self.hub.sent[file] += len(part)
        if drop is not None:
            self.close_connection = True
            if drop < 0:
                # A reset instead of an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _json(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str | None, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
