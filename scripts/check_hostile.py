"""Hostile submissions: none may crash the check, be ranked with a moved figure, or reach the page as markup.

    python scripts/check_hostile.py [--count 500] [--seed 1]

Each is a rankable submission with one change: an edit by a forger who gets every digest right and may derive
every column again, flipped bytes in a file, a foreign file, or hostile text in submission.json. What is still
ranked in its class must give the figures it gave before. Exit code 1 if one does not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.bundle import Bundle
from harness.errors import KitError
from harness.leaderboard.check import Checked
from harness.leaderboard.examine import examine
from harness.leaderboard.pack import pack
from harness.leaderboard.site import build
from harness.leaderboard.standing import stand
from tests.leaderboard.runs import edit_entry, ranked_run
from tests.validate.forgery import Forger, difference, figures

TEXTS = (
    "</script><script>hit=1</script>",
    "<img src=x onerror=hit=1>",
    "javascript:hit=1",
    "](javascript:hit=1)",
    "::error file=x::y",
    "=HYPERLINK(1)",
    "../../../etc/passwd",
    "{{7*7}}",
    "' onload='hit=1",
    "\u202egnp.exe",
)


def main() -> int:
    """Make them, check them, and say what became of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    outcomes: Counter[str] = Counter()
    escaped = []
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary:
        root = Path(temporary)
        run = ranked_run(root / "run")
        good = pack(run, root / "good", {"lab": "good"}, None, None)
        place = stand([entry := examine(good)])[0]
        assert place["unranked"] == [], entry.findings
        forgers = [Forger(run, root / f"forged-{r}", rederive=bool(r)) for r in (0, 1)]
        board = root / "submissions"
        for number in range(options.count):
            lab = f"lab-{number}"
            shutil.rmtree(board / lab, ignore_errors=True)
            moved = ""
            if number % 2 == 0:
                forger = forgers[number // 2 % 2]
                targets = forger.targets()
                while (edit := forger.edit(rng, targets[int(rng.integers(len(targets)))])) is None:
                    pass
                words, forged = str(edit), forger.forge(edit)
                try:
                    moved = difference(forger.figures, figures(forged))
                except Exception as error:
                    moved = f"no report: {type(error).__name__}"
                try:
                    folder = pack(forged, board, {"lab": lab}, None, None)
                except KitError as error:
                    outcomes["not packed"] += 1
                    assert str(error)
                    continue
            else:
                folder = Path(shutil.copytree(good, board / lab / good.name))
                words = spoil(folder, rng, lab)
            entry = examine(folder, threads=1)
            row = next(iter(stand([entry])), None)
            if entry.errors:
                outcomes["refused"] += 1
            elif row is None or row["unranked"]:
                outcomes["not ranked"] += 1
            elif row["class"] != place["class"]:
                outcomes["in another class"] += 1
            elif moved:
                outcomes["ESCAPED"] += 1
                escaped.append(f"{words}: moved {moved}")
            else:
                outcomes["ranked, no figure moved"] += 1
            if not entry.errors and row is not None:
                build(Checked([entry], [entry], [row]), root / "site")
                for path in (root / "site").rglob("*"):
                    if path.suffix in (".js", ".html", ".svg") and path.parent.name != "assets":
                        data = path.read_bytes()
                        if b"<img src=x" in data or b"<script>hit" in data:
                            escaped.append(f"{words}: markup in {path.name}")
    for words in escaped:
        print(f"escaped: {words}")
    print(", ".join(f"{count} {what}" for what, count in outcomes.most_common()))
    return 1 if escaped else 0


def spoil(folder: Path, rng: np.random.Generator, lab: str) -> str:
    """One change that is no edit of rows."""
    kind = int(rng.integers(3))
    if kind == 0:
        text = str(rng.choice(TEXTS))
        name = str(rng.choice(["title", "student", "conflict", "source", "reason", "method", "hardware"]))
        edit_entry(folder, lambda value: value.update({"lab": lab, name: text}))
        return f"{name}: {text!r}"
    edit_entry(folder, lambda value: value.update(lab=lab))
    if kind == 1:
        names = [p for p in folder.rglob("*") if p.is_file()]
        path = names[int(rng.integers(len(names)))]
        data = bytearray(path.read_bytes())
        for _ in range(int(rng.integers(1, 8))):
            data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(data))
        if path.name != "submission.json" and rng.random() < 0.7:
            edit_entry(folder, lambda value: None, relist=True)
        return f"bytes of {path.name}"
    name = str(
        rng.choice(["setup.py", "conftest.py", ".git/hooks/post-checkout", "bundle/x.parquet", "a\nb"])
    )
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("raise SystemExit('run')")
    assert Bundle.open(folder / "bundle")
    return f"a file {name!r}"


if __name__ == "__main__":
    sys.exit(main())
