"""Make the pictures of docs/pictures from what is recorded: `make pictures`.

    python scripts/make_pictures.py [--out FOLDER]

Figures are drawn from artifacts/runs and artifacts/paper. Pictures of pages need Node and Chromium, that of
the imported power log the authors' logs too (KIT_SHARED_DATA/reference_logs). What cannot be made is said,
and the picture that is there stays.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from test_pages import WEB, missing

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

OUT = ROOT / "docs" / "pictures"
RECORDED = ROOT / "artifacts" / "runs"
LOGS = Path(os.environ.get("KIT_SHARED_DATA", ROOT / ".." / "shared" / "data")) / "reference_logs"
FIGURES = ("pareto", "breakdown")
PAGES = {
    "page.png": "header,#compare ul.key",
    "smollm2.png": "#parts",
    "trace.png": "#power",
}
PICTURES = (*(f"{name}.svg" for name in FIGURES), *PAGES)


def students(recorded: str) -> list[Path]:
    """The recorded students, without repeats of equal work."""
    from harness.experiments.pipelines import SHARED

    runs = (RECORDED / recorded / "runs").iterdir()
    return sorted(
        path
        for path in runs
        if path.name != SHARED and "-again" not in path.name and "-seed" not in path.name
    )


def draw_figures(out: Path) -> None:
    """Figures of the recorded grid beside the published values."""
    from harness.experiments.paper import published_entries
    from harness.report.comparison import spreads_beside
    from harness.report.drawing import draw
    from harness.report.figures import figures
    from harness.report.model import build
    from harness.report.study import entries

    runs = students("pocket")
    made, _ = figures(entries([build(path) for path in runs], spreads_beside(runs)) + published_entries())
    with tempfile.TemporaryDirectory() as temporary:
        for figure in made:
            if figure.name in FIGURES:
                draw(figure, Path(temporary))
                shutil.copyfile(Path(temporary) / f"{figure.name}-page.svg", out / f"{figure.name}.svg")


def draw_pages(out: Path) -> list[str]:
    """Pages in Chromium; returns what could not be made, and why."""
    from harness.cli.report import cmd as report
    from harness.interop.reference.importer import import_reference

    reason = missing()
    if reason is not None:
        return [f"{name}: {reason}" for name in PAGES]
    skipped, asked = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = {"page.png": students("pocket"), "smollm2.png": students("smollm2")}
        log = LOGS / "logs" / "stages" / "logit_caching_temp2"
        if log.is_dir():
            runs["trace.png"] = [import_reference(log, folder / "imported").folder]
        else:
            skipped.append("trace.png: the authors' logs are not at hand (KIT_SHARED_DATA)")
        for name, paths in runs.items():
            html = folder / f"{name}.html"
            report.main([*map(str, paths), "--html", str(html)], standalone_mode=False)
            asked += [str(html), PAGES[name], str(out / name)]
        subprocess.run(["node", "pictures.js", *asked], cwd=WEB, check=True)
    return skipped


def main() -> int:
    """Make them, and say how large they are and what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="default: docs/pictures")
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    draw_figures(out)
    for line in draw_pages(out):
        print(f"pictures: skipped: {line}")
    sizes = {name: (out / name).stat().st_size for name in PICTURES if (out / name).exists()}
    print(f"pictures: {out}: {', '.join(f'{n} {s / 1e3:.0f} kB' for n, s in sizes.items())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
