"""Keep a finished reproduction as artifacts/runs/NAME: its logs, and the small products that figures need.

    make demo ARGS="--repeats 2" && make record                # into artifacts/runs/pocket
    python scripts/record_runs.py FOLDER --profile mine.yaml --out artifacts/runs/mine

Weights, data, answers, caches and what stages printed stay behind. Paths in settings are scrubbed. A profile
that is none of the kit's is kept beside the runs.
Then: python scripts/verify_claims.py --write
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.bundle import Bundle
from harness.bundle.privacy import scrub_value
from harness.errors import KitError
from harness.experiments.grid import Target
from harness.experiments.grid import target as target_named
from harness.experiments.pipelines import SHARED, scored
from harness.experiments.profile import load_profile
from harness.experiments.reproduce import CLAIM, Request, completed_runs

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "artifacts" / "runs" / "pocket"


def target_of(name: str, folder: Path) -> Target:
    """A target as a folder has its runs: its grid as often as `kit reproduce --repeats` was told."""
    target = target_named(name)
    seeds = [path.name.rpartition("-seed")[2] for path in (folder / "runs").glob("*-seed*")]
    if target.sweeps or not seeds:
        return target
    return target.model_copy(update={"grid_repeats": 1 + max(map(int, seeds))})


def wanted(demo: Path, target: str, profile_name: str) -> list[str]:
    """Paths below the folder that are kept: what `collect` reads, the tables of the target, the claim.

    Raises:
        KitError: A run of the target is missing or incomplete.
    """
    profile = load_profile(profile_name)
    request = Request(target, target_of(target, demo), profile, demo)
    runs = [SHARED, *(cell.name for cell in request.runs)]
    if missing := sorted(set(runs) - completed_runs(request)):
        raise KitError(
            f"lacks complete runs: {', '.join(missing)}", where=str(demo), fix=f"make demo DEMO={demo}"
        )
    found = [CLAIM]
    for run in runs:
        manifest = Bundle.open(demo / "runs" / run).manifest
        found += [f"runs/{run}/{name}" for name in ("manifest.json", *_tables(manifest))]
    found += [
        f"runs/{SHARED}/work/{scored(profile, SHARED)}/results.json",
        f"runs/{SHARED}/work/dataset/meta.json",
    ]
    for cell in request.runs:
        products = ["student/summary.json", "student/config.json"]
        products += [] if cell.again else [f"{scored(profile, cell.name)}/results.json"]
        found += [f"runs/{cell.name}/work/{name}" for name in products]
    return found + [f"tables/{name}.{end}" for name in request.target.tables for end in ("json", "csv", "md")]


def _tables(manifest: dict[str, object]) -> list[str]:
    files = manifest["files"]
    if not isinstance(files, list):
        raise KitError("lists no files", where="manifest.json")
    return [str(entry["path"]) for entry in files]


def record(demo: Path, out: Path, target: str = "table2", profile: str = "pocket") -> int:
    """Copy what is kept into a folder that is written anew; returns its bytes.

    Raises:
        KitError: As `wanted`; a file is missing; the folder holds something else.
    """
    names = wanted(demo, target, profile)
    for name in names:
        if not (demo / name).is_file():
            raise KitError("is missing", where=str(demo / name), fix=f"make demo DEMO={demo}")
    if out.exists():
        if not (out / CLAIM).exists():
            raise KitError(
                "holds no recorded runs, so it is not replaced", where=str(out), fix="name another --out"
            )
        shutil.rmtree(out)
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("student/config.json"):
            settings = scrub_value(json.loads((demo / name).read_text(encoding="utf-8")))
            (out / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(demo / name, out / name)
    if Path(profile).is_file():
        shutil.copyfile(profile, out / Path(profile).name)
    return sum((out / name).stat().st_size for name in names)


def main() -> int:
    """Record, and say how large it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("demo", type=Path, help="output folder of make demo or kit reproduce")
    parser.add_argument("--out", type=Path, default=OUT, help="default: artifacts/runs/pocket")
    parser.add_argument("--target", default="table2", help="target it was made for (%(default)s)")
    parser.add_argument("--profile", default="pocket", help="its profile, or that one's file (%(default)s)")
    given = parser.parse_args()
    try:
        size = record(given.demo, given.out, given.target, given.profile)
    except KitError as error:
        print(f"record: {error}", file=sys.stderr)
        return error.exit_code
    print(f"record: {given.out}, {size / 1e6:.1f} MB. Next: python scripts/verify_claims.py --write")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
