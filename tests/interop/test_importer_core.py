"""The core that importers share, used by a format made up here: samples and a total become a valid bundle."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from harness.bundle import Bundle
from harness.errors import KitError
from harness.interop import bounds
from harness.interop.imported import (
    UNCLASSIFIED,
    ImportedRun,
    ImportedStage,
    LoggedGpu,
    Machines,
    Samples,
    guess_kind,
    seconds_to_us,
    warning,
    with_overlaps,
)
from harness.interop.log_files import Fields
from harness.interop.write import refuse_used, sampling_of, write_bundle
from harness.spec import load_protocol
from tests.interop.reference_checks import assert_valid, events

CORE = Path(bounds.__file__).parent
T0 = 1_769_400_000.0


def test_the_core_knows_no_format() -> None:
    for path in CORE.glob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert not [node.module for node in imports if "interop.reference" in (node.module or "")], path.name


def test_samples_and_totals_of_any_format_become_a_valid_bundle(tmp_path: Path) -> None:
    """Two cards at 200 W and 100 W for 100 s, then a stated total of 5 kJ in 50 s on another node."""
    machines = Machines()
    gpus = [LoggedGpu(0, "NVIDIA X", 1000, 300.0), LoggedGpu(1, "NVIDIA X", 1000, 300.0)]
    node, devices = machines.place("a", gpus, (1, 0))
    assert [device.device_id for device in devices] == [0, 1]
    times = np.array([seconds_to_us(T0 + s) for s in range(101)])
    sampled = ImportedStage(
        name="kd",
        kind=guess_kind(["mine", "kd_1b"])[0],
        status="completed",
        node_id=node,
        devices=devices,
        start_us=int(times[0]),
        end_us=int(times[-1]),
        samples=Samples((1, 0), times, np.tile([200.0, 100.0], (101, 1))),
        tokens={"tokens_trained": 7},
        doubts=(warning("wall_clock", clock="host"),),
    )
    node, devices = machines.place("b", [])
    stated = ImportedStage(
        name="total",
        kind=guess_kind(["nothing telling"])[0],
        status="partial",
        node_id=node,
        devices=devices,
        start_us=sampled.end_us,
        end_us=sampled.end_us + 50_000_000,
        gpu=bounds.bound_codecarbon_total(5000.0, 50.0),
        cpu=bounds.bound_estimate(100.0),
        doubts=(warning("wall_clock", clock="host"),),
    )
    run = ImportedRun(
        source="made up",
        sampler="none",
        scheduling="none",
        method="other",
        stages=[sampled, stated],
        devices=machines.devices,
        unplaced=(warning("record_without_time", joules=3.0),),
        ignored_files=2,
    )
    protocol = load_protocol()
    result = write_bundle(run, tmp_path / "b", "mine", sampling_of(protocol, [1.0, 1.0, None]), protocol)
    assert_valid(result)
    first, second = result.stages
    assert first["device_energy_j"] == pytest.approx([20_000.0, 10_000.0])
    assert (first["stage"], first["tokens_trained"], first["tokens_processed"]) == ("student_train", 7, None)
    assert (second["stage"], second["gpu_energy_j"], second["cpu_energy_j_high"]) == (
        UNCLASSIFIED,
        5000.0,
        200.0,
    )
    assert second["gpu_energy_j_low"] == pytest.approx(5000 - 250 - 400)
    assert events(result, "x-record_without_time") == [{"joules": 3.0}]
    assert events(result, "x-import")[0]["other_files"] == 2
    manifest = Bundle.open(result.folder).manifest
    assert (manifest["sampling"]["nominal_period_us"], manifest["status"]) == (1_000_000, "partial")
    assert "several_nodes" in manifest["labels"]
    with pytest.raises(KitError, match="is not empty"):
        refuse_used(result.folder)


def test_two_meters_of_one_card_overlap_though_only_one_log_describes_it() -> None:
    machines = Machines()
    stages = []
    for gpus in ([], [LoggedGpu(0, "NVIDIA X", 1000, 300.0)]):
        node, devices = machines.place("a", gpus, (0,))
        stages.append(ImportedStage("s", "evaluate", "completed", node, devices, 0, 10_000_000))
    assert stages[0].devices != stages[1].devices
    assert [[doubt.flag for doubt in stage.doubts] for stage in with_overlaps(stages)] == [
        ["overlaps_another"]
    ] * 2


def test_fields_are_typed_and_an_empty_one_is_not_given() -> None:
    fields = Fields({"a": " ", "b": "1.5", "c": True, "d": [1, "x"], "e": 1e16}, "log.csv:7")
    assert (fields.number("a"), fields.number("b"), fields.number("absent")) == (None, 1.5, None)
    assert (fields.count("b"), fields.flag("c"), fields.flag("b")) == (2, True, None)
    for key, read in (
        ("c", fields.number),
        ("d", fields.numbers),
        ("e", fields.number),
        ("b", fields.section),
    ):
        with pytest.raises(KitError, match=key) as caught:
            read(key)
        assert caught.value.where == "log.csv:7"
