"""A valid bundle passes; every way to spoil one fires the rule that is named for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from harness.spec import load_protocol
from harness.validate import validate
from harness.validate.registry import CHECKS, load_rules
from tests.accounting.synthetic import EPOCH_US, S, Stage, join, make_run
from tests.validate.tamper import edit_manifest, edit_rows, rewrite, set_column

STAGES = (
    Stage("prepare", "preprocess", 2.0, 12.0, 120.0),
    Stage("cache", "teacher_logits", 12.0, 32.0, 650.0, tokens=2_000_000),
    Stage("train", "student_train", 35.3, 75.3, 600.0, tokens=1_000_000),
)


def small_run(**options):
    return make_run(STAGES, end_s=80.0, **{"rapl": True, **options})


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return small_run().write(tmp_path_factory.mktemp("pristine") / "run")


@pytest.fixture
def bundle(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def fired(folder, **options):
    return {f.id for f in validate(folder, **options).findings}


def one(folder, rule_id):
    found = [f for f in validate(folder).findings if f.id == rule_id]
    assert found, f"{rule_id} did not fire: {fired(folder)}"
    return found[0]


def row(rows, name):
    return next(r for r in rows if r["name"] == name)


def test_a_good_bundle_passes_every_level(bundle):
    report = validate(bundle)
    assert report.findings == ()
    assert report.levels == {0: "passed", 1: "passed", 2: "passed"}
    assert report.exit_code == 0
    assert report.rows == sum(e["rows"] for e in json.loads((bundle / "manifest.json").read_bytes())["files"])


@pytest.mark.parametrize(
    "options", [{"devices": 0, "rapl": False, "codecarbon": True}, {"devices": 1, "rapl": False}]
)
def test_other_machines_pass(tmp_path, options):
    assert validate(small_run(**options).write(tmp_path / "run")).findings == ()


def test_two_sessions_pass(tmp_path):
    second = make_run((Stage("again", "evaluate", 2, 12, 300),), end_s=20, session=1, mono0=5 * S, rapl=True)
    assert validate(join(small_run(), second).write(tmp_path / "run")).findings == ()


def test_every_rule_has_words_and_a_function():
    rules = load_rules()
    clauses = load_protocol().clauses
    assert set(rules) - set(CHECKS) == {"E299"}
    assert set(CHECKS) <= set(rules)
    for entry in rules.values():
        assert entry.clause in clauses, entry
        assert entry.severity in ("error", "warning")
        assert entry.id[0] == entry.severity[0].upper()
        assert entry.level == int(entry.id[1])
        assert entry.title and entry.why and entry.fix


# Level 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"files": 3}', b"\xff\xfe", b"[" * 100_000])
def test_unreadable_manifest_is_exit_code_2(bundle, content):
    (bundle / "manifest.json").write_bytes(content)
    report = validate(bundle)
    assert [f.id for f in report.findings] == ["E001"]
    assert report.exit_code == 2


def test_no_bundle_at_all(tmp_path):
    assert validate(tmp_path / "nowhere").exit_code == 2
    assert validate(tmp_path).exit_code == 2
    (tmp_path / "file").write_text("x")
    assert validate(tmp_path / "file").exit_code == 2


def test_missing_file(bundle):
    (bundle / "power.parquet").unlink()
    report = validate(bundle)
    assert [f.id for f in report.findings] == ["E002"]
    assert report.levels[2].startswith("not checked")
    assert report.exit_code == 1


def test_flipped_byte(bundle):
    data = bytearray((bundle / "power.parquet").read_bytes())
    data[len(data) // 3] ^= 0xFF
    (bundle / "power.parquet").write_bytes(data)
    assert "E003" in fired(bundle)


def test_unexpected_files_but_not_the_folders_beside(bundle):
    for name in ("work", "logs", "cache"):
        (bundle / name / "deep").mkdir(parents=True)
        (bundle / name / "deep" / "x").write_text("x")
    assert fired(bundle) == set()
    (bundle / "notes").mkdir()
    (bundle / "notes" / "a.txt").write_text("x")
    (bundle / "b.txt").write_text("x")
    found = [f for f in validate(bundle).findings if f.id == "E004"]
    assert {f.file for f in found} == {"notes/a.txt", "b.txt"}


def test_links(bundle, tmp_path):
    (bundle / "power.parquet").rename(tmp_path / "elsewhere.parquet")
    (bundle / "power.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    assert "E005" in fired(bundle)


@pytest.mark.parametrize(
    "path", ["../stages.parquet", "/etc/passwd", "power/../stages.parquet", "a\\b", "x\0y", ""]
)
def test_paths_outside(bundle, path):
    edit_manifest(bundle, lambda m: m["files"].append({**m["files"][0], "path": path}))
    assert {"E005", "E103"} <= fired(bundle)


@pytest.mark.parametrize("size", [0, 3, 11, 200, -9, -1])
def test_cut_files(bundle, size):
    path = bundle / "counters.parquet"
    path.write_bytes(path.read_bytes()[:size])
    report = validate(bundle)
    assert {"E003", "E006", "E007"} <= {f.id for f in report.findings}
    assert report.exit_code == 1


def test_row_count(bundle):
    edit_manifest(bundle, lambda m: m["files"][0].update(rows=m["files"][0]["rows"] + 1))
    assert fired(bundle) == {"E007"}


def test_table_not_listed(bundle):
    (bundle / "events.parquet").unlink()
    edit_manifest(bundle, lambda m: m.update(files=[e for e in m["files"] if e["path"] != "events.parquet"]))
    assert fired(bundle) == {"E008"}


def test_journal_left(bundle):
    (bundle / "journal").mkdir()
    (bundle / "journal" / "sampler.0.jnl").write_bytes(b"x")
    assert fired(bundle) == {"W009"}
    assert validate(bundle).exit_code == 0


def test_pretty_manifest(bundle):
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=2))
    assert fired(bundle) == {"W010"}


# Level 1


@pytest.mark.parametrize("version", ["2.0.0", "1.0", None, 1, "1.0.0-rc1", "x.y.z", "\u0663.\u0660.\u0660"])
def test_unknown_protocol(bundle, version):
    edit_manifest(bundle, lambda m: m.update(protocol_version=version))
    report = validate(bundle)
    assert [f.id for f in report.findings] == ["E101"]
    assert report.exit_code == 2


def test_newer_minor(bundle):
    edit_manifest(bundle, lambda m: m.update(protocol_version="1.7.0"))
    assert fired(bundle) == {"W102", "E104"}


def test_manifest_fields(bundle):
    edit_manifest(bundle, lambda m: (m.pop("name"), m.update(method="magic", hostname="node7")))
    found = one(bundle, "E103")
    assert found.count == 3


@pytest.mark.parametrize("field", ["hardware", "sampling", "labels", "boundary", "status", "files"])
@pytest.mark.parametrize("value", [None, 3, [], {}, "x", [None], [{"path": 3}]])
def test_any_manifest_ends_in_findings(bundle, field, value):
    edit_manifest(bundle, lambda m: m.update({field: value}))
    assert validate(bundle).exit_code in (1, 2) or value == []


def test_footer(bundle):
    rewrite(bundle, "events", lambda t: t, run_id="0" * 26, writer=None)
    assert one(bundle, "E104").count == 2


def test_missing_column(bundle):
    rewrite(bundle, "stages", lambda t: t.drop_columns(["flags"]))
    assert "E105" in fired(bundle)
    rewrite(bundle, "power", lambda t: t.drop_columns(["session"]))
    assert "E105" in fired(bundle)


def test_wrong_type(bundle):
    rewrite(bundle, "power", set_column("power_mw", lambda t: t.column("power_mw").cast(pa.float64())))
    report = validate(bundle)
    assert "E106" in {f.id for f in report.findings}
    assert report.levels[2].startswith("not checked")


def test_extra_columns(bundle):
    rewrite(bundle, "events", lambda t: t.append_column("x-mine", pa.array([1] * t.num_rows)))
    assert fired(bundle) == set()
    rewrite(bundle, "events", lambda t: t.append_column("mine", pa.array([1] * t.num_rows)))
    assert fired(bundle) == {"W107"}


def test_null_where_none_may_be(bundle):
    def drop(table):
        keep = np.arange(table.num_rows) != 7
        return pc.if_else(pa.array(keep), table.column("t_us"), None)

    rewrite(bundle, "power", lambda t: pa.table(set_column("t_us", drop)(t).columns, names=t.schema.names))
    found = one(bundle, "E108")
    assert (found.rows, found.count) == ((7,), 1)


def test_unknown_word(bundle):
    edit_rows(bundle, "stages", lambda rows: rows[1].update(stage="teacher_forcing"))
    found = one(bundle, "E109")
    assert found.rows == (1,)
    assert "teacher_logits" in found.expected
    edit_rows(bundle, "stages", lambda rows: rows[1].update(stage="x-mine"))
    assert "E109" not in fired(bundle)


def test_row_twice(bundle):
    edit_rows(bundle, "counters", lambda rows: [*rows, rows[-1]])
    assert "E110" in fired(bundle)


def test_unsorted(bundle):
    rewrite(bundle, "power", lambda t: t.take(pa.array([1, 0, *range(2, t.num_rows)])))
    found = one(bundle, "E111")
    assert found.rows == (1,)


def test_logical_digest(bundle):
    edit_manifest(bundle, lambda m: m["files"][0].update(logical_sha256="a" * 64))
    assert fired(bundle) == {"E104", "E112"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(bundle, value):
    edit_rows(bundle, "stages", lambda rows: rows[0].update(gpu_energy_j=value))
    assert "E113" in fired(bundle)


# Level 2: the raw rows


def test_changed_power_sample(bundle):
    def change(rows):
        rows[100]["power_mw"] += 1

    edit_rows(bundle, "power", change)
    assert fired(bundle) == {"E203"}
    assert "gpu_energy_integral_j" in one(bundle, "E203").observed


def test_changed_boundary_counter(bundle):
    def change(rows):
        marked = [r for r in rows if r["source"] == "nvml" and r["boundary"] is not None]
        marked[2]["value"] += 5

    edit_rows(bundle, "counters", change)
    assert "E203" in fired(bundle)


def test_counter_that_falls(bundle):
    def change(rows):
        mine = [r for r in rows if r["device_id"] == 1 and r["mono_us"] > 1040 * S]
        for item in mine:
            item["energy_counter_mj"] -= 10_000_000

    edit_rows(bundle, "power", change)
    found = {f.id for f in validate(bundle).findings}
    assert {"E209", "E203"} <= found
    mark = {
        "event_id": 1,
        "session": 0,
        "t_us": 0,
        "mono_us": 0,
        "kind": "counter_reset",
        "stage_uid": None,
        "device_id": 1,
        "severity": "warning",
        "detail": None,
    }
    edit_rows(bundle, "events", lambda rows: [*rows, mark])
    assert "E209" not in fired(bundle)


@pytest.mark.parametrize(("step", "ids"), [(60_000, {"W205"}), (-600_000, {"E206"}), (30_000, set())])
def test_clock_step(tmp_path, step, ids):
    run = small_run()
    late = run.power["mono_us"] > 1078 * S
    run.power["t_us"][late] += step
    folder = run.write(tmp_path / "run")
    assert fired(folder) == ids
    run.events.append(
        {
            "event_id": 1,
            "session": 0,
            "t_us": EPOCH_US,
            "mono_us": 1078 * S,
            "kind": "clock_step",
            "stage_uid": None,
            "device_id": None,
            "severity": "warning",
            "detail": None,
        }
    )
    assert fired(run.write(tmp_path / "run2")) == ids - {"W205"}


def test_samples_that_end_early(tmp_path):
    run = small_run()
    keep = run.power["mono_us"] < 1060 * S
    run.power = {name: values[keep] for name, values in run.power.items()}
    report = validate(run.write(tmp_path / "run"))
    assert {f.id for f in report.findings} == {"W221"}
    assert report.findings[0].count == 2


def test_window_moved_away_from_its_boundary(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(device_end_us=[1075 * S, 1075 * S]))
    assert "E220" in fired(bundle)
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(t_end_us=EPOCH_US + 1076 * S))
    assert one(bundle, "E220").count >= 1


def test_boundary_number_that_does_not_exist(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(boundary_end=77))
    assert "E212" in fired(bundle)


# Level 2: derived columns


DERIVED = [c for c in load_protocol().tables["stages"].columns if c.derived]


@pytest.mark.parametrize("column", DERIVED, ids=lambda c: c.name)
def test_every_derived_column_is_recomputed(bundle, column):
    def change(rows):
        target = row(rows, "train")
        value = target[column.name]
        if column.type == "string":
            target[column.name] = next(w for w in column.enum if w not in (value, "imported"))
        elif column.type == "list<string>":
            target[column.name] = [*value, "gap"]
        elif column.type == "list<float64>":
            target[column.name] = [value[0] + 1e-3, value[1] - 1e-3]
        else:
            target[column.name] = (value or 0) + (1 if column.type == "int64" else 1e-3)

    edit_rows(bundle, "stages", change)
    found = one(bundle, "E203")
    assert column.name in found.observed + "".join(found.examples)


def test_joules_at_stake(bundle):
    edit_rows(
        bundle,
        "stages",
        lambda rows: row(rows, "train").update(gpu_energy_j=20_000.0, gpu_energy_j_low=19_999.0),
    )
    found = one(bundle, "E203")
    assert found.joules_at_stake == pytest.approx(40 * 1210 - 20_000, abs=0.1)
    assert "train" in found.observed


def test_deleted_hole(bundle):
    edit_rows(
        bundle,
        "stages",
        lambda rows: [r for r in rows if r["stage"] != "unattributed" or r["boundary_start"] != 3],
    )
    ids = fired(bundle)
    assert {"E204", "E211"} <= ids
    assert one(bundle, "E204").joules_at_stake > 3 * 150


def test_invented_hole(bundle):
    def change(rows):
        extra = {**rows[-1], "stage_uid": rows[-1]["stage_uid"] + 1, "boundary_start": 1, "boundary_end": 2}
        return [*rows, extra]

    edit_rows(bundle, "stages", change)
    assert {"E204", "E211", "E214"} <= fired(bundle)


def test_closure(bundle):
    edit_rows(
        bundle,
        "stages",
        lambda rows: row(rows, "train").update(
            device_energy_j=[e + 0.001 for e in row(rows, "train")["device_energy_j"]]
        ),
    )
    assert "E211" in fired(bundle)


def test_interval_order(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j_low=1e6))
    assert "E207" in fired(bundle)
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j_low=None))
    assert "E207" in fired(bundle)


def test_negative_energy(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j=-299_400.0))
    found = one(bundle, "E208")
    assert found.joules_at_stake == 299_400.0


def test_imported_figures_need_the_label(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_method="imported"))
    assert "E217" in fired(bundle)


# Level 2: structure


def test_negative_tokens(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(tokens_trained=-1))
    assert fired(bundle) == {"E201"}


def test_unknown_tokens_are_fine(bundle):
    edit_rows(
        bundle, "stages", lambda rows: row(rows, "train").update(tokens_trained=None, tokens_processed=0)
    )
    assert fired(bundle) == set()


def test_reversed_work_window(bundle):
    edit_rows(
        bundle,
        "stages",
        lambda rows: row(rows, "train").update(work_start_us=row(rows, "train")["work_end_us"] + 1),
    )
    assert fired(bundle) == {"E202"}


def test_overlap_names_the_joules(tmp_path):
    stages = (*STAGES, Stage("eval", "evaluate", 70.3, 78.0, 400.0))
    folder = make_run(stages, end_s=80.0).write(tmp_path / "run")
    found = one(folder, "E214")
    assert found.count == 2
    assert found.joules_at_stake == pytest.approx(5 * (400 + 410), rel=0.01)
    edit_rows(folder, "stages", lambda rows: row(rows, "eval").update(parent_uid=2))
    assert "E214" not in fired(folder)


@pytest.mark.parametrize(
    ("attempts", "bad"), [((1, 2), False), ((2, 1), True), ((1, 1), True), ((1, 3), True)]
)
def test_attempts(tmp_path, attempts, bad):
    run = make_run(
        (Stage("a", "evaluate", 2, 12, 300, status="failed"), Stage("a", "evaluate", 12, 22, 300)), end_s=30
    )
    run.manifest["method"] = "sft"
    for item, attempt in zip(run.stages, attempts, strict=True):
        item["attempt"] = attempt
    assert ("E210" in fired(run.write(tmp_path / "run"))) == bad


def test_device_lists(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(device_ids=[0, 7]))
    assert "E213" in fired(bundle)


def test_teacher_must_be_paid(tmp_path):
    run = make_run((STAGES[0], STAGES[2]), end_s=80.0)
    run.stages[1]["consumes"] = ["sha256:ab"]
    run.artifacts.append(
        {
            "artifact_id": "sha256:ab",
            "name": "cache",
            "kind": "folder",
            "bytes": 1,
            "stage_uid": 1,
            "role": "consumed",
            "origin_run_id": None,
            "origin_energy_j": None,
        }
    )
    assert fired(run.write(tmp_path / "a")) == {"E215"}
    run.artifacts[0]["origin_run_id"] = "01J00000000000000000000000"
    assert fired(run.write(tmp_path / "b")) == set()
    run.artifacts.clear()
    run.stages[1]["consumes"] = []
    run.manifest["method"] = "sft"
    assert fired(run.write(tmp_path / "c")) == set()


def test_artifact_edges(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(produces=["sha256:cd"]))
    assert fired(bundle) == {"E216"}


def test_parents(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(parent_uid=99))
    assert "E218" in fired(bundle)
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(parent_uid=0))
    assert "E218" in fired(bundle)
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(parent_uid=2))
    assert "E218" in fired(bundle)


def test_event_of_no_stage(bundle):
    edit_rows(bundle, "events", lambda rows: rows[0].update(stage_uid=55))
    assert fired(bundle) == {"E219"}


def test_status(bundle):
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(status="interrupted"))
    assert fired(bundle) == {"W222"}


def test_boundary_set(bundle):
    edit_manifest(bundle, lambda m: m["boundary"].update(cpu="absent"))
    assert fired(bundle) == {"W223"}


# Whatever happens


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


@pytest.mark.parametrize("name", ["power", "stages", "counters", "events", "artifacts"])
def test_random_damage_never_raises(pristine, tmp_path, name):
    rng = np.random.default_rng(len(name))
    for trial in range(25):
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


@pytest.mark.parametrize("table", ["stages", "counters", "power"])
def test_values_out_of_all_reason_never_raise(pristine, tmp_path, table):
    for column in load_protocol().tables[table].columns:
        folder = Path(shutil.copytree(pristine, tmp_path / column.name))
        high = {k: (-v - 1 if isinstance(v, int) and v < 0 else v) for k, v in EXTREMES.items()}
        for value in [EXTREMES[column.type]] + [high[column.type]] * (
            high[column.type] != EXTREMES[column.type]
        ):
            edit_rows(folder, table, lambda rows, v=value, c=column.name: [{**r, c: v} for r in rows])
            report = validate(folder)
            assert report.exit_code in (0, 1)
            assert json.dumps(report.as_dict())
            shutil.copytree(pristine, folder, dirs_exist_ok=True)


def test_empty_tables(bundle):
    for name in ("power", "counters", "events", "artifacts", "stages"):
        edit_rows(bundle, name, lambda rows: [])
        assert validate(bundle).exit_code in (0, 1)


def test_command(bundle):
    from click.testing import CliRunner

    from harness.cli.validate import cmd

    good = CliRunner().invoke(cmd, [str(bundle)])
    assert good.exit_code == 0
    assert "holds" in good.output
    edit_rows(bundle, "stages", lambda rows: row(rows, "train").update(gpu_energy_j=1.0))
    bad = CliRunner().invoke(cmd, [str(bundle)])
    assert bad.exit_code == 1
    assert "E203 derived-differs" in bad.output
    assert "at stake: 48.40 kJ" in bad.output
    assert "Fix:" in bad.output
    machine = CliRunner().invoke(cmd, [str(bundle), "--format", "json"])
    data = json.loads(machine.output)
    assert data["valid"] is False
    assert data["findings"][0]["joules_at_stake_j"] == pytest.approx(48_399, abs=1)
    assert CliRunner().invoke(cmd, [str(bundle / "no")]).exit_code == 2
    assert CliRunner().invoke(cmd, [str(bundle), "--level", "1"]).exit_code == 0


def test_parts(tmp_path):
    """A table in several parts and row groups gives the same verdict."""
    protocol = load_protocol()
    container = protocol.container.model_copy(update={"row_group_rows": 37, "part_rows": 100})
    folder = small_run().write(tmp_path / "run", protocol.model_copy(update={"container": container}))
    assert len(list((folder / "power").iterdir())) > 2
    assert pq.ParquetFile(folder / "power" / "part-00000.parquet").metadata.num_row_groups > 1
    assert validate(folder).findings == ()
