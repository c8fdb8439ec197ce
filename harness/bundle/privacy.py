"""Takes out of texts what names a person, a machine or a secret (7), before they enter a bundle."""

from __future__ import annotations

import getpass
import ipaddress
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

# Names that many machines share say nothing about anybody, and replacing them would garble plain words.
_GENERIC_USERS = frozenset(
    ("root", "user", "admin", "ubuntu", "debian", "runner", "worker", "nobody", "jovyan", "app", "test")
)
_GENERIC_HOSTS = frozenset(("localhost", "host", "node", "docker", "main", "master", "worker"))

# Each pattern takes time in proportion to the text, whatever that holds: a word is tried from its begin
# alone, or is consumed whether or not it matches, or has a most length.
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
)
_SECRET = re.compile(
    r"""(?<![A-Za-z0-9_])(?:
        hf_[A-Za-z0-9]{16,} | sk-[A-Za-z0-9_-]{16,}
      | gh[oprsu]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,} | glpat-[A-Za-z0-9_-]{16,}
      | xox[abeoprs]-[A-Za-z0-9-]{10,} | (?:AKIA|ASIA)[A-Z0-9]{16}
      | AIza[A-Za-z0-9_-]{30,} | npm_[A-Za-z0-9]{30,} | pypi-[A-Za-z0-9_-]{30,}
      | eyJ[A-Za-z0-9_-]{8,500}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}
    )""",
    re.X,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9+/._~=-]{8,}", re.I)
# `token` alone is a word of the trade (pad_token, tokens_processed): it names a secret only with one of these
# words before it, or with a value of 16 characters and more.
_SECRET_NAME = (
    r"[A-Za-z0-9_-]{0,100}(?:passw(?:or)?d|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key|credential"
    r"|(?:auth|access|api|hub|hf|session|refresh|bearer|github|gitlab)[_-]?token)[A-Za-z0-9_-]{0,100}"
)
_VALUE = r"""("[^"]*"|'[^']*'|[^\s"',;&}\]]+)"""
_ASSIGNED = re.compile(rf"""(?<![A-Za-z0-9_-])({_SECRET_NAME}["']?\s*[=:]\s*){_VALUE}""", re.I)
_FLAG = re.compile(rf"""(?<![\w.<>/-])(--?{_SECRET_NAME}(?:\s+|["']\s*,\s*["']))(?!-){_VALUE}""", re.I)
_TOKEN = re.compile(
    r"""(?<![A-Za-z0-9_])((?:--)?token["']?(?:\s*[=:]\s*|\s+)["']?)[A-Za-z0-9_.~+/=-]{16,}""", re.I
)
_SECRET_KEY = re.compile(_SECRET_NAME, re.I)
# Options whose last word is one of these, `-p VALUE`, `-u NAME:PASSWORD`, and variables as a shell sets them.
_BEFORE = r"(?<![\w.<>/-])"
_GAP = r"""(?:\s+|=|["']\s*,\s*["'])"""  # the last: neighbours of a list in JSON
_OPTION = re.compile(
    rf"{_BEFORE}(--?(?:[A-Za-z0-9]+[_-])*(?:pw|pwd|pass|key|secret|auth|creds?){_GAP})(?![-<]){_VALUE}", re.I
)
_SHORT_OPTION = re.compile(rf"""{_BEFORE}(-p(?:\s+|["']\s*,\s*["']))(?![-<]){_VALUE}""")
_LOGIN = re.compile(rf"""{_BEFORE}((?:-u|-U|--(?:proxy-)?user){_GAP})([^\s:<"']{{1,100}}:[^\s"']+)""")
_VARIABLE = re.compile(
    rf"(?<![A-Za-z0-9_])([A-Z0-9_]{{0,100}}(?:PASS|PW|PWD|KEY|SECRET|CRED|AUTH|TOKEN(?!IZ|S))[A-Z0-9_]{{0,100}}=)(?!<){_VALUE}"
)
_JOB = re.compile(
    r"\b((?:SLURM|PBS|LSB|SGE|COBALT|FLUX)\w{0,40}_?JOB_?ID\w{0,40}[\"']?\s*[=:]\s*[\"']?)(?!<)[\w.-]+", re.I
)

_URL_USER = re.compile(r"(?<=://)[^/\s\"'<>]*@")
_URL_QUERY = re.compile(r"(\w://[^\s\"'?#<>]*+(?:<[a-z]+>[^\s\"'?#<>]*+)*+)(\?[^\s\"'<>]+)?")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,100}@(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))")
_GPU = re.compile(r"\b(?:MIG-)?(?:GPU|MIG)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?:/\d+/\d+)?")
_MAC = re.compile(r"(?<![0-9A-Fa-f:-])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:-])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:)[0-9A-Fa-f:]{7,39}(?![\w:.])")

_PART = r"""[^\s/\\"'`<>|;,:()\[\]{}*?]+"""
_TAIL = rf"(?:/{_PART})*/?"
_POSIX = re.compile(
    rf"(?:(?<![\w.<>/~$}}\]\\-])|(?<=(?<!\w)-[A-Za-z]))(?:file://)?(?:/(?=[^\s/]{{2}}|[^\s/]/){_PART}{_TAIL})"
)
_TILDE = re.compile(rf"(?<![\w/.-])~[A-Za-z0-9._-]*/{_PART}{_TAIL}")
_WINDOWS = re.compile(r"""(?<![\w/.-])(?:[A-Za-z]:[\\/](?!/)|\\\\(?=\w))[^\s"'`<>|;,*?]+""")


@dataclass(frozen=True)
class Scrubber:
    """Replaces private parts of a text by `<home>`, `<cwd>`, `<path>`, `<user>`, `<host>` and the like.

    An absolute path keeps its last part only when that is a file name with an extension; a path below the
    working directory keeps what is relative to it. Scrubbing a scrubbed text changes nothing.

    Attributes:
        home: Home folder; None or "/" when there is none.
        cwd: Working directory.
        user: User name; names that every machine has are left alone.
        hosts: Names of this machine, with and without a domain.
        jobs: Ids of the batch job that this is.
    """

    home: str | None = None
    cwd: str | None = None
    user: str | None = None
    hosts: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()

    @classmethod
    def of_this_machine(cls) -> Scrubber:
        """What this process knows about its own user and machine."""
        hosts: dict[str, None] = {}
        for name in (socket.gethostname(), os.uname().nodename, *_other_names(socket.gethostname())):
            hosts.update(dict.fromkeys((name, name.split(".")[0])))
        try:
            user: str | None = getpass.getuser()
        except (KeyError, OSError):  # a container may run under a user id without a name
            user = None
        try:
            cwd: str | None = str(Path.cwd())
        except FileNotFoundError:
            cwd = None
        return cls(home=os.environ.get("HOME"), cwd=cwd, user=user, hosts=tuple(hosts), jobs=_own_jobs())

    def scrub(self, text: str) -> str:
        """The text without its private parts."""
        for replace in self._steps:
            text = replace(text)
        return text

    def scrub_value(self, value: object) -> object:
        """A JSON value with every string scrubbed, keys too; text under a secret's name is dropped."""
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, list | tuple):
            words = [None, *value][: len(value)]
            return [self._after(word, item) for word, item in zip(words, value, strict=True)]
        if isinstance(value, dict):
            return {
                self.scrub(str(key)): "<secret>"
                if isinstance(item, str) and item and _SECRET_KEY.fullmatch(str(key))
                else self.scrub_value(item)
                for key, item in value.items()
            }
        return value

    def _after(self, word: object, item: object) -> object:
        """An item of a list, which may be the words of a command: a secret follows the name of its option."""
        if isinstance(word, str) and isinstance(item, str) and word.startswith("-") and item:
            one_word = re.sub(r"[^\w:@.<+-]", "x", item)
            if self.scrub(f"{word} {one_word}") == f"{word} <secret>":
                return "<secret>"
        return self.scrub_value(item)

    @cached_property
    def _steps(self) -> list[Callable[[str], str]]:
        def fixed(pattern: re.Pattern[str], replacement: str) -> Callable[[str], str]:
            return lambda text: pattern.sub(replacement, text)

        steps = [
            fixed(_PRIVATE_KEY, "<secret>"),
            fixed(_SECRET, "<secret>"),
            fixed(_BEARER, r"\1 <secret>"),
            lambda text: _ASSIGNED.sub(_hide, text),
            lambda text: _FLAG.sub(_hide, text),
            fixed(_TOKEN, r"\1<secret>"),
            lambda text: _OPTION.sub(_hide, text),
            lambda text: _SHORT_OPTION.sub(_hide, text),
            fixed(_LOGIN, r"\1<secret>"),
            lambda text: _VARIABLE.sub(_hide, text),
            fixed(_JOB, r"\1<job>"),
            fixed(_URL_USER, "<secret>@"),
            lambda text: _URL_QUERY.sub(lambda url: url[1] + ("?<secret>" if url[2] else ""), text),
            fixed(_EMAIL, "<email>"),
            fixed(_GPU, "<gpu>"),
            fixed(_MAC, "<mac>"),
        ]
        if self.cwd and self.cwd != "/":
            steps.append(
                fixed(re.compile(rf"(?<![\w/]){re.escape(self.cwd.rstrip('/'))}(?![\w.-])"), "<cwd>")
            )
        if self.home and self.home != "/":
            home = rf"(?<![\w/]){re.escape(self.home.rstrip('/'))}(?![\w.-]){_TAIL}"
            steps.append(_path_step(re.compile(home), "<home>"))
        for pattern in (_WINDOWS, _POSIX, _TILDE):
            steps.append(_path_step(pattern, "<path>"))
        for host in sorted(self.hosts, key=len, reverse=True):
            if len(host) > 1 and host.lower() not in _GENERIC_HOSTS:
                # A whole word; a short one as it is written, since `GB` is no machine called gb.
                case = re.I if len(host) > 3 else re.NOFLAG
                steps.append(
                    fixed(re.compile(rf"(?<![\w<-]){re.escape(host)}(?:\.[\w-]+)*(?![\w>-])", case), "<host>")
                )
        for job in self.jobs:
            steps.append(fixed(re.compile(rf"(?<![\w.]){re.escape(job)}(?!\w)"), "<job>"))
        if self.user and len(self.user) > 1 and self.user not in _GENERIC_USERS:
            steps.append(
                fixed(re.compile(rf"(?<![A-Za-z0-9]){re.escape(self.user)}(?![A-Za-z0-9])"), "<user>")
            )
        steps += [lambda text: _IPV4.sub(_address, text), lambda text: _IPV6.sub(_address, text)]
        return steps


def _hide(match: re.Match[str]) -> str:
    """The name stays, the value goes, its quotes stay: a line of JSON is still one."""
    quote = match[2][0] if match[2][0] in "\"'" else ""
    return f"{match[1]}{quote}<secret>{quote}"


def _path_step(pattern: re.Pattern[str], word: str) -> Callable[[str], str]:
    return lambda text: pattern.sub(lambda match: word + _file_name(match[0]), text)


def _file_name(path: str) -> str:
    """`/name.ext` of a path, or nothing: the name of a folder may be the name of its owner."""
    name = re.split(r"[/\\]", path)[-1]
    stem, dot, extension = name.rpartition(".")
    return f"/{name}" if stem and dot and re.fullmatch(r"[A-Za-z0-9]{1,8}", extension) else ""


def _address(match: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return match[0]
    return match[0] if address.is_loopback or address.is_unspecified else "<ip>"


def _other_names(host: str) -> list[str]:
    """What else this machine is called, by its hosts file and its batch system; no network is asked."""
    names = [
        os.environ.get(name, "")
        for name in ("HOSTNAME", "SLURMD_NODENAME", "SLURM_SUBMIT_HOST", "PBS_O_HOST")
    ]
    try:
        lines = Path("/etc/hosts").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.partition("#")[0].split()[1:]
        names += words if host in words else []
    return [name for name in names if name]


def _own_jobs() -> tuple[str, ...]:
    """Ids of the batch job this process runs in; short ones are numbers like any other."""
    names = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_ARRAY_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
    found = {os.environ.get(name, "") for name in names}
    return tuple(sorted(job for job in found if len(job) > 3))


@cache
def _own() -> Scrubber:
    return Scrubber.of_this_machine()


def scrub(text: str) -> str:
    """The text without paths, user, host, addresses and secrets, as far as this process knows them."""
    return _own().scrub(text)


def scrub_value(value: object) -> object:
    """A JSON value with every string scrubbed."""
    return _own().scrub_value(value)


_ANYWHERE = Scrubber()
_REMEMBERED = 100
"""Characters of a text up to which the outcome is kept: names of fields come again with every bundle."""


def scrub_anywhere(text: str) -> str:
    """The text without what is private on any machine, whoever's it is."""
    return _scrub_short(text) if len(text) <= _REMEMBERED else _ANYWHERE.scrub(text)


@lru_cache(maxsize=4096)
def _scrub_short(text: str) -> str:
    return _ANYWHERE.scrub(text)
