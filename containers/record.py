"""Part of the image's build: writes down what the image is made of, for `kit health` and for manifests.

/opt/kit/image.json has the digest of the installed locks and the revision the image was built from;
/work/.revision.json has the revision for runs of the baked examples, which lie in no repository.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path

KIT = Path("/opt/kit")
WORK = Path("/work")


def main() -> None:
    """Write both files; refuse a lock digest that is not the one of the installed locks."""
    order = (KIT / "locks" / "order").read_text(encoding="utf-8").split()
    texts = [(KIT / "locks" / f"{name}.lock").read_bytes() for name in order]
    digest = hashlib.sha256(b"".join(texts)).hexdigest()
    told = os.environ["LOCK_SHA256"]
    if told not in ("", digest):
        sys.exit(f"record: LOCK_SHA256 is {told}, but the installed locks have {digest}")
    commit = os.environ["GIT_COMMIT"] or None
    if commit is not None and not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):
        sys.exit(f"record: GIT_COMMIT is {commit!r}, expected a full commit id")
    dirty = {"": None, "true": True, "false": False}[os.environ["GIT_DIRTY"]] if commit else None
    revision = {"git_commit": commit, "git_dirty": dirty}
    image = {"torch": os.environ["TORCH"], "locks": order, "lock_sha256": digest, **revision}
    (KIT / "image.json").write_text(json.dumps(image, indent=2) + "\n", encoding="utf-8")
    (WORK / ".revision.json").write_text(json.dumps(revision) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
