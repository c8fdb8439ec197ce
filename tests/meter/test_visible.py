"""CUDA_VISIBLE_DEVICES in every form, and explicit lists of devices."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import KitError
from harness.meter.visible import GpuIdentity, Selection, select_listed, select_visible
from tests.lab import Const, LabConfig, LabDevice, Mig
from tests.lab.fixtures import RunInLab
from tests.meter.runs import Sealed, environment, kit, write_pipeline

H100 = "NVIDIA H100 80GB HBM3"


def gpu(index: int, bus: int, model: str = H100, mig: tuple[str, ...] = ()) -> GpuIdentity:
    uuid = f"GPU-{'ab'[index % 2]}{index}000000-1111-4222-8333-{index:012x}"
    return GpuIdentity(index, uuid, f"00000000:{bus:02X}:00.0", model, mig)


ALL = [gpu(0, 0x1B), gpu(1, 0x2C), gpu(2, 0xAB), gpu(3, 0xC4, mig=("MIG-aa11", "MIG-aa22", "MIG-bb33"))]
SWAPPED = [gpu(0, 0xC4), gpu(1, 0x1B)]


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [
        (None, (0, 1, 2, 3)),
        ("0", (0,)),
        ("2,0", (2, 0)),
        (" 1 , 3 ", (1, 3)),
        ("0,1,2,3", (0, 1, 2, 3)),
        ("", ()),
        (" ", ()),
        ("-1", ()),
        ("0,-1,1", (0,)),
        ("1,9,0", (1,)),
        ("4", ()),
        ("NoDevFiles", ()),
        ("none", ()),
        ("0,abc,1", (0,)),
        ("1,,0", (1,)),
        ("1,", (1,)),
        ("0,0", ()),
        (ALL[1].uuid, (1,)),
        (f"{ALL[2].uuid},{ALL[0].uuid}", (2, 0)),
        ("GPU-b1", (1,)),
        ("GPU-a2000000", (2,)),
        ("GPU-a", ()),  # two devices begin like this
        ("GPU-", ()),
        ("GPU-ffff", ()),
        (f"{ALL[1].uuid},GPU-ffff,{ALL[0].uuid}", (1,)),
        (ALL[1].uuid.removeprefix("GPU-"), ()),
        (f"MIG-{ALL[3].uuid}/1/0", (3,)),
        ("MIG-aa11", (3,)),
        ("MIG-aa", ()),  # two instances begin like this
        ("MIG-aa11,MIG-bb33", (3,)),
        ("MIG-zz", ()),
        ("²", ()),  # a digit to str.isdigit, no number to int
        ("0x1", ()),
        ("1.0", ()),
    ],
)
def test_the_rules_of_cuda(visible: str | None, chosen: tuple[int, ...]) -> None:
    assert select_visible(ALL, visible, None).indices == chosen


@pytest.mark.parametrize("visible", ["MIG-aa11", "MIG-bb33,MIG-aa22", f"MIG-{ALL[3].uuid}/1/0"])
def test_a_mig_form_chooses_the_whole_card_and_says_so(visible: str) -> None:
    assert select_visible(ALL, visible, None) == Selection((3,), (3,), ())


def test_a_device_named_twice_hides_all() -> None:
    assert select_visible(ALL, "1,1", None).doubts == ("duplicate_visible_device",)
    assert select_visible(ALL, f"0,{ALL[0].uuid}", None).indices == ()
    assert select_visible(ALL, "MIG-aa11,MIG-aa11", None).indices == ()


def test_numbers_count_in_pci_order_not_in_nvml_order() -> None:
    assert select_visible(SWAPPED, "0", None).indices == (1,)
    assert select_visible(SWAPPED, None, "PCI_BUS_ID").indices == (1, 0)
    assert select_listed(SWAPPED, ["0"]).indices == (0,), "an explicit list counts as NVML does"


def test_numbers_are_doubtful_where_cuda_sorts_by_speed() -> None:
    mixed = [gpu(0, 0x1B), gpu(1, 0x2C, "NVIDIA L4")]
    assert select_visible(mixed, "0", None).doubts == ("device_order_ambiguous",)
    assert select_visible(mixed, "0", "FASTEST_FIRST").doubts == ("device_order_ambiguous",)
    assert select_visible(mixed, "0", "PCI_BUS_ID").doubts == ()
    assert select_visible(mixed, mixed[1].uuid, None).doubts == ()
    assert select_visible(mixed, None, None).doubts == ()


@given(st.text(max_size=30))
def test_no_value_is_an_error(visible: str) -> None:
    indices = select_visible(ALL, visible, None).indices
    assert len(set(indices)) == len(indices)
    assert set(indices) <= {0, 1, 2, 3}


@given(st.lists(st.text(max_size=12), max_size=3))
def test_listed_devices_are_found_or_refused_with_words(wanted: list[str]) -> None:
    try:
        assert set(select_listed(ALL, wanted).indices) <= {0, 1, 2, 3}
    except KitError as error:
        assert "kit doctor" in str(error)


def test_no_gpu_at_all() -> None:
    assert select_visible([], None, None).indices == ()
    assert select_visible([], "0", None).indices == ()
    with pytest.raises(KitError):
        select_listed([], ["0"])


MIG_UUID = "MIG-11111111-2222-4333-8444-555555555555"
CODE = """
import os
from harness.meter.sources.nvml import choose_gpus
found = []
for value in json.loads(sys.argv[1]):
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if value is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = value
    found.append(choose_gpus(None).indices)
print(json.dumps(found))
"""


def test_a_stage_is_measured_on_the_card_that_its_own_environment_shows(
    lab_dir: Path, tmp_path: Path
) -> None:
    watts = (100.0, 200.0, 300.0, 400.0)
    config = LabConfig(tuple(LabDevice(waves=(Const(power),)) for power in watts))
    stages = [
        {"name": "both", "command": "sleep 0.4"},
        {"name": "second", "command": "sleep 0.4", "env": {"CUDA_VISIBLE_DEVICES": "1"}},
        {"name": "none", "command": "sleep 0.4", "env": {"CUDA_VISIBLE_DEVICES": ""}},
        {
            "name": "inline",
            "command": "CUDA_VISIBLE_DEVICES=2 sleep 0.4",
            "env": {"CUDA_VISIBLE_DEVICES": ""},
        },
    ]
    seen = {"CUDA_VISIBLE_DEVICES": "1,0"}
    pipeline = write_pipeline(tmp_path, stages, env=seen)
    env = environment(config, lab_dir)
    done = kit("audit", pipeline, "--cpu", "none", "--out", tmp_path / "run", env=env)
    assert done.returncode == 0, done.stderr
    run = Sealed(tmp_path / "run")
    assert {d["device_id"] for d in run.manifest["hardware"]["devices"]} == {0, 1, 2}, (
        "nobody uses the fourth"
    )
    assert [row["device_ids"] for row in run.stages] == [[0, 1], [1], [], [2]]
    assert run.stage("second")["device_energy_j"] == [pytest.approx(80.0, rel=0.6)]
    for row in run.all_stages:
        for device, start, end, joules in zip(
            *(row[name] for name in ("device_ids", "device_start_us", "device_end_us", "device_energy_j")),
            strict=True,
        ):
            assert joules == pytest.approx(watts[device] * (end - start) / 1e6, abs=0.5)
    for device in (0, 1, 2):
        # What a card draws while a stage runs on another is in no stage, and in the total all the same.
        spans = [
            (row["device_start_us"][place], row["device_end_us"][place])
            for row in run.all_stages
            for place, at in enumerate(row["device_ids"])
            if at == device
        ]
        spans.sort()
        assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert kit("validate", tmp_path / "run", env=env).returncode == 0
    listed = write_pipeline(tmp_path / "listed", stages[1:2], devices=[0])
    kit("audit", listed, "--cpu", "none", "--out", tmp_path / "two", env=env)
    assert Sealed(tmp_path / "two").stages[0]["device_ids"] == [0], "an explicit list is what is metered"


def test_through_pynvml(nvml_child: RunInLab) -> None:
    config = LabConfig(
        (
            LabDevice(pci_bus=0xC4),
            LabDevice(pci_bus=0x1B),
            LabDevice(pci_bus=0x2C, mig_mode=1, mig=(Mig(MIG_UUID),)),
        )
    )
    values = [None, "0", "1,0", "", "-1", config.uuid(0), config.uuid(1)[:9], MIG_UUID, MIG_UUID[:12]]
    found = json.loads(nvml_child(config, CODE, json.dumps(values)))
    assert found == [[1, 2, 0], [1], [2, 1], [], [], [0], found[6], [2], [2]]
