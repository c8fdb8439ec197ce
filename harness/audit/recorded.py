"""How a command is recorded (7) where it is not to be whole: its program and a keyed digest of the rest.

A digest alone would give a guessed command or variable away, so it is an HMAC. Its key lies in the run
folder's `cache`, which is no part of the bundle: a run that is moved, or goes on in another container, still
knows its stages.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from harness.errors import KitError

_KEY_BYTES = 32


class CommandDigests:
    """Digests of commands under the key of one run, which is made where there is none.

    Args:
        run_dir: The run's folder; nothing is made before the first digest.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "cache" / "commands.key"

    @cached_property
    def _key(self) -> bytes:
        path = self._path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.stat().st_size != _KEY_BYTES:
                made = path.with_name(f".commands.key.{os.getpid()}")
                made.touch(mode=0o600)
                made.write_bytes(secrets.token_bytes(_KEY_BYTES))
                made.replace(path)
            return path.read_bytes()
        except OSError as error:
            raise KitError(
                f"cannot be written: {error.strerror}", where=str(path), expected="a run folder to write to"
            ) from None

    def of(self, text: str) -> str:
        """HMAC-SHA-256 of a text, 64 hex digits.

        Raises:
            KitError: The key can be neither read nor made.
        """
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()

    def words(self, command: Sequence[str]) -> list[str]:
        """The program, and where words follow it their digest."""
        program, rest = command[0], command[1:]
        return [program, *([f"hmac-sha256:{self.of(chr(0).join(rest))}"] if rest else [])]
