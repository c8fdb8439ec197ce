"""Plans that can be moved: `${run_dir}` and `${pipeline_dir}` in place of the folders of this machine."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any


class Portable:
    """Writes paths and commands of one run without the folders it happens to lie in."""

    def __init__(self, run_dir: Path, pipeline_dir: Path) -> None:
        folders = [(str(run_dir), "${run_dir}"), (str(pipeline_dir), "${pipeline_dir}")]
        # The longer one first: it may lie inside the other. Whole names only: /data is not part of /database.
        self._patterns = [
            (re.compile(rf"(?<![\w.-]){re.escape(folder)}(?![\w.-])"), name)
            for folder, name in sorted(folders, key=lambda pair: -len(pair[0]))
            if folder != "/"
        ]

    def text(self, value: object) -> str:
        """A path or a word of a command."""
        text = str(value)
        for pattern, name in self._patterns:
            text = pattern.sub(name, text)
        return text

    def digest(self, content: dict[str, Any]) -> str:
        """sha256 (hex) of JSON content, independent of where the run lies."""
        text = json.dumps(self._all(content), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _all(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._all(child) for key, child in value.items()}
        if isinstance(value, list | tuple):
            return [self._all(child) for child in value]
        return self.text(value) if isinstance(value, str) else value
