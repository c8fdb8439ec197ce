"""From files to joules and back: the generated bundle closes, through the readers that everybody uses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from harness.accounting.series import NO_BOUNDARY
from harness.bundle import Bundle, BundleWriter, KeyOrder
from harness.bundle.derive import derive_bundle, device_limits, sampling_rules
from harness.bundle.series import ACCOUNTED, POWER_KEY, counter_series, power_series
from tests.bundle.large import make_bundle
from tests.bundle.make import digest_files, manifest, power_rows


@pytest.mark.parametrize("rapl", [False, True])
def test_a_generated_bundle_closes(tmp_path: Path, rapl: bool) -> None:
    rows = make_bundle(tmp_path, days=0.2, gpus=2, rapl=rapl)
    bundle = Bundle.open(tmp_path)
    assert rows == bundle.rows("power") == 2 * (int(0.2 * 86_400 * 2) + 3)
    stages = bundle.table("stages").to_pylist()
    assert [row["stage"] for row in stages].count("unattributed") == 3 and len(stages) == 14
    names = bundle.table("stages").schema.names
    assert [{n: row.get(n) for n in names} for row in derive_bundle(bundle).stages] == stages
    for row in stages:
        assert row["gpu_energy_method"] == "counter_tick"
        assert row["missed_samples"] == 0 and row["gap_us"] == 0
        assert abs(row["gpu_counter_vs_integral"]) < 1e-6
        assert row["gpu_energy_j_low"] <= row["gpu_energy_j"] <= row["gpu_energy_j_high"]
        if rapl:
            seconds = (row["mono_end_us"] - row["mono_start_us"]) / 1e6
            assert row["cpu_energy_method"] == "rapl"
            assert math.isclose(row["cpu_energy_j"], 180 * seconds, rel_tol=1e-3)
    # the stages tile: their energies add up to the counter's rise from the first to the last boundary
    counters = bundle.table("counters", ["source", "device_id", "value"]).to_pylist()
    rise = 0
    for device in range(2):
        values = [c["value"] for c in counters if c["source"] == "nvml" and c["device_id"] == device]
        rise += values[-1] - values[0]
    assert math.isclose(math.fsum(row["gpu_energy_j"] for row in stages), rise / 1000, rel_tol=1e-12)
    for name, spec in bundle.protocol.tables.items():
        order = KeyOrder(spec.sort)
        for batch in bundle.iter_batches(name, encoded=True):
            order.update(batch)
        assert order.problem is None and order.rows == bundle.rows(name)
        for path in bundle.files(name):
            digest = digest_files([path], bundle.protocol.arrow_schema(name))
            assert digest == bundle.footer(path)["logical_sha256"]


def test_series_carry_what_is_unknown_as_unknown(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path)
    common = {"node_id": "node-00", "session": 0, "t_us": 7, "uncertainty_us": 3}
    gpu = common | {"source": "nvml", "device_id": 1, "unit": "mJ", "method": "tick"}
    zone = common | {"source": "rapl", "zone": "psys", "unit": "uJ", "range": 99, "method": "poll"}
    writer.write_table(
        "counters",
        [
            gpu | {"mono_us": 1, "value": 10, "boundary": 0, "power_mw": 5},
            gpu | {"mono_us": 2, "value": None, "boundary": 1},
            gpu | {"mono_us": 1, "value": 4, "boundary": 0, "session": 1},
            zone | {"mono_us": 1, "value": 3},
            zone | {"mono_us": 2, "value": 4, "boundary": 4, "method": "immediate"},
            zone | {"mono_us": 1, "value": 3, "zone": "dram-0"},
        ],
    )
    writer.write_table("power", [*power_rows(0, 0, 30).to_pylist(), *power_rows(1, 0, 20).to_pylist()])
    writer.write_manifest(manifest())
    bundle = Bundle.open(tmp_path)
    found = counter_series(bundle.table("counters"))
    assert [(s.source, s.device_id, s.zone, s.session, len(s.mono_us)) for s in found] == [
        ("nvml", 1, None, 0, 2), ("nvml", 1, None, 1, 1), ("rapl", None, "dram-0", 0, 1),
        ("rapl", None, "psys", 0, 2),
    ]  # fmt: skip
    first, last = found[0], found[-1]
    assert (first.valid.tolist(), first.boundary.tolist()) == ([True, False], [0, 1])
    assert (first.power_mw.tolist(), first.wrap_range, first.unit) == ([5, -1], None, "mJ")
    assert last.boundary.tolist() == [NO_BOUNDARY, 4] and list(last.method) == ["poll", "immediate"]
    assert list(last.method[1:]) == ["immediate"] and len(first.method) == 2
    for batches in (
        bundle.iter_batches("counters", encoded=True),
        (b.slice(row, 1) for b in bundle.iter_batches("counters") for row in range(b.num_rows)),
    ):
        for one, other in zip(counter_series(batches), found, strict=True):
            for name, value in vars(one).items():
                assert np.array_equal(value, getattr(other, name)), name
    assert (last.wrap_range, last.uncertainty_us.tolist(), last.t_us.tolist()) == (99, [3, 3], [7, 7])
    batches = bundle.iter_batches("power", [*POWER_KEY, *ACCOUNTED])
    series = [rows.series() for rows in power_series(batches)]
    assert [(s.device_id, len(s.mono_us)) for s in series] == [(0, 30), (1, 20)]
    expected = power_rows(0, 0, 30).column("power_mw").to_pylist()
    shown = zip(series[0].power_mw.tolist(), series[0].power_valid.tolist(), strict=True)
    assert [value if valid else None for value, valid in shown] == expected
    assert device_limits(bundle.manifest)[0].max_mw == 1000
    assert sampling_rules(bundle.protocol, bundle.manifest).gap_us == 1_000_000
    assert counter_series(bundle.table("counters").slice(0, 0)) == []
