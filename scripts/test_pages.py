"""Makes pages of known logs and opens them in a real Chromium: `make test-pages`.

    python scripts/test_pages.py [--keep DIR] [--short]

First the built code is compared with what web/ gives. Then a page of one run and one of a set, a hostile log
whose every name is markup, and nine hours of eight GPUs are opened.
Without Node, the packages of web/ or Chromium nothing can be opened; that is said, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEB = ROOT / "web"
sys.path.insert(0, str(ROOT))

LIMIT_BYTES = 1_500_000
CODE_BYTES = 300_000
HOSTILE = "</script><img src=x onerror='stolen=1'>\u2028<!--<script>"


def missing() -> str | None:
    """What keeps a page from being opened here; None if nothing does."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Node with npm is not installed"
    if not any(Path(f"/usr/bin/{name}").exists() for name in ("chromium", "chromium-browser")):
        return "Chromium is not installed (Debian: apt-get install chromium)"
    if not (WEB / "node_modules/playwright-core").is_dir():
        fetched = subprocess.run(["npm", "ci", "--ignore-scripts", "--silent"], cwd=WEB)
        if fetched.returncode:
            return "the packages of web/ cannot be had (npm ci)"
    return None


def make_pages(folder: Path, *, long: bool) -> None:
    """Write the pages that the tests open, and check what they weigh."""
    from harness.cli.report import cmd as report
    from tests.accounting.synthetic import make_run
    from tests.bundle.large import make_bundle
    from tests.report.pages import hostile_run, study

    def page(name: str, *runs: Path) -> None:
        report.main([*map(str, runs), "--html", str(folder / f"{name}.html")], standalone_mode=False)

    page("run", make_run(rapl=True).write(folder / "one"))
    page("set", *study(folder / "study"))
    page("hostile", hostile_run(folder / "hostile", HOSTILE))
    if long:
        make_bundle(folder / "long", days=0.375, gpus=8)
        page("long", folder / "long")
    code = sum(path.stat().st_size for path in (ROOT / "harness/report/assets").iterdir())
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.html")}
    if code > CODE_BYTES or max(sizes.values()) > LIMIT_BYTES:
        raise SystemExit(f"test-pages: too large: code {code} bytes, pages {sizes}")
    print(f"test-pages: code {code / 1e3:.0f} kB, largest page {max(sizes.values()) / 1e6:.2f} MB")


def make_site(folder: Path) -> None:
    """A leaderboard with three ranked rows and eighty reported ones whose titles are markup."""
    from harness.leaderboard.check import check
    from harness.leaderboard.site import build
    from tests.leaderboard.runs import ranked_run, reported, submitted

    board = folder / "board" / "submissions"
    for seed, lab, method in ((1, "acme", "kd"), (2, "acme", "sft"), (3, "zeta", "kd")):
        run = ranked_run(folder / "board" / str(seed), seed, method=method)
        submitted(run, board.parent, lab, student="small", teacher="large")
    for number in range(80):
        title = f"<img src=x onerror=hit=1> {number}"
        reported(board, number, title=title, stages_kwh={"student_train": 5.0 + number})
    build(check([board], cache=False), folder / "site")


def crowd(site: Path, count: int = 1000) -> None:
    """A second site beside the first: its index holds `count` made-up ranked rows of one class."""
    from harness.report.page import embedded

    large = site.parent / "large"
    shutil.copytree(site, large, dirs_exist_ok=True)
    index = json.loads((site / "index.json").read_bytes())
    ranked = [row for row in index["rows"] if row["rank"] is not None]
    index["rows"] = []
    for number in range(count):
        row = json.loads(json.dumps(ranked[number % len(ranked)]))
        factor = 1 + (number * 7919 % count) / count * 4
        for energy in (
            row["energy"],
            *row["boundaries"]["all"].values(),
            row["boundaries"].get("gpu", {}).get("own"),
        ):
            if energy is not None:
                energy[:] = [None if end is None else end * factor for end in energy]
        row["q"] = [q * (0.7 + 0.3 * (number * 104729 % count) / count) for q in row["q"]]
        row |= {
            "key": f"lab-{number % 50}/row-{number}",
            "lab": f"lab-{number % 50}",
            "title": f"row {number}",
        }
        row |= {"rank": number + 1, "rank_to": number + 1, "of": count}
        index["rows"].append(row)
    (large / "index.js").write_text(f"window.KIT_INDEX={embedded(index)};\n", encoding="utf-8")


def main() -> int:
    """Exit code of the tests; 0 with a reason where nothing can be opened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="folder to leave the pages in")
    parser.add_argument("--short", action="store_true", help="without nine hours of eight GPUs")
    options = parser.parse_args()
    reason = missing()
    if reason is not None:
        print(f"test-pages: skipped: {reason}")
        return 0
    if subprocess.run(["node", "build.js", "--check"], cwd=WEB).returncode:
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_pages(folder, long=not options.short)
        make_site(folder)
        crowd(folder / "site")
        tests = [f"tests/{name}.test.js" for name in ("pages", "leaderboard")]
        environment = {**os.environ, "KIT_PAGES": str(folder), "KIT_SITE": str(folder / "site")}
        environment["KIT_LARGE"] = str(folder / "large")
        command = ["node", "--test", "--test-reporter=spec", *tests]
        return subprocess.run(command, cwd=WEB, env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(main())
