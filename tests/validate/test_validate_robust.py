"""Whatever lies in the folder, validation ends in findings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.errors import KitError
from harness.report.model import build
from harness.spec import load_protocol
from harness.validate import validate
from tests.accounting.synthetic import Stage, make_run
from tests.validate.runs import fired, row
from tests.validate.tamper import edit_manifest, edit_rows


def test_levels_can_be_chosen(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j=1.0))
    assert fired(bundle, levels=(0, 1)) == set()
    assert validate(bundle, levels=(2,)).levels == {2: "failed"}


def test_nothing_is_touched(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j=1.0))
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(bundle.rglob("*")) if p.is_file()}
    validate(bundle)
    assert before == {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(bundle.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("name", ["power", "stages", "counters", "events"])
def test_random_damage_never_raises(pristine, tmp_path, name):
    rng = np.random.default_rng(len(name))
    for trial in range(8):
        folder = Path(shutil.copytree(pristine, tmp_path / str(trial)))
        path = folder / f"{name}.parquet"
        data = bytearray(path.read_bytes())
        for _ in range(int(rng.integers(1, 8))):
            spot = int(rng.integers(0, len(data)))
            if rng.random() < 0.2:
                del data[spot:]
                break
            data[spot] = int(rng.integers(0, 256))
        path.write_bytes(data)
        report = validate(folder)
        assert report.exit_code in (0, 1)
        assert json.dumps(report.as_dict())


EXTREMES = {
    "int8": -(2**7),
    "int16": -(2**15),
    "int32": -(2**31),
    "int64": -(2**63),
    "uint8": 255,
    "uint16": 2**16 - 1,
    "uint64": 2**64 - 1,
    "float64": -1e308,
    "string": "\x1b[31m\u202e",
    "list<int16>": [-5, -5],
    "list<int64>": [],
    "list<float64>": [],
    "list<string>": ["\x00"],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """As little as has every table: these tests write it a hundred times."""
    teacher = Stage("cache", "teacher_logits", 2, 5, 600, tokens=9)
    stages = (teacher, Stage("train", "student_train", 5, 8, 500))
    return make_run(stages, devices=1, end_s=9.0, rapl=True).write(tmp_path_factory.mktemp("tiny") / "run")


@pytest.mark.parametrize("table", ["stages", "counters", "power"])
def test_values_out_of_all_reason_never_raise(tiny, tmp_path, table):
    columns = load_protocol().tables[table].columns
    for number in range(0, len(columns), 2):
        folder = Path(shutil.copytree(tiny, tmp_path / str(number)))
        changed = {}
        for column in columns[number : number + 2]:
            value = EXTREMES[column.type]
            # The other end of the range for every other pair.
            changed[column.name] = (
                -value - 1 if number % 4 and isinstance(value, int) and value < 0 else value
            )
        edit_rows(folder, table, lambda rows, new=changed: [{**r, **new} for r in rows])
        report = validate(folder, threads=1)
        assert report.exit_code in (0, 1)
        assert json.dumps(report.as_dict())
        shutil.rmtree(folder)


def test_empty_tables(bundle):
    for name in ("power", "counters", "events", "artifacts", "stages"):
        edit_rows(bundle, name, lambda rows: [])
        assert validate(bundle).exit_code in (0, 1)


@pytest.mark.parametrize("name", ["boundary", "labels", "factors"])
def test_a_report_says_which_field_is_no_object_or_list(bundle: Path, name: str) -> None:
    edit_manifest(bundle, lambda m: m.update({name: "text"}))
    with pytest.raises(KitError, match=f"{name} is 'text'"):
        build(bundle)
