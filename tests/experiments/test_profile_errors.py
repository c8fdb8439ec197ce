"""What is wrong with a profile file is said with its line, what is allowed and the nearest guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import KitError
from harness.experiments.profile import load_profile, profile_names

BASE = "base: paper\n"


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("teachr: x\n", "2:1", "Did you mean 'teacher'?"),
        ("students: x\n", "2:11", "a mapping"),
        ("students: {Big: x}\n", "2:12", "small letters"),
        ("data: 5\n", "2:7", "JSON lines"),
        ("grid: {regimes: [kdd]}\n", "2:18", "Did you mean 'kd'?"),
        ("grid: {defaults: {promts: 3}}\n", "2:19", "Did you mean 'prompts'?"),
        ("grid: {defaults: {prompts: 3.5}}\n", "2:28", "grid.defaults.prompts"),
        ("grid: {repeat_seed: [3]}\n", "2:8", "Did you mean 'repeat_seeds'?"),
        ("budget: {positions: 0}\n", "2:21", "greater than 0"),
        ("grid: {seeds: [1, 2]}\n", "2:15", "the seeds are 1, 2. Allowed: 0"),
        ("grid: {regimes: []}\n", "2:17", "at least one"),
        ("grid: {repeat_seeds: []}\n", "2:22", "at least one"),
        ("stages: {preprocess: {sources: x}}\n", "2:32", "a list of mappings"),
        ("stages: {preprocess_synthetic: {sources: [{kind: hub}, 5]}}\n", "2:42", "a list of mappings"),
        ("stages:\n  studnt_train: {lr: 1}\n", "3:3", "Did you mean 'student_train'?"),
        ("stages: {preprocess: 4}\ndata: x\n", "2:22", "a mapping"),
        ("stages: 4\ndata: x\n", "2:9", "a mapping"),
        ("students: {a: [\n", "3:1", "not YAML"),
    ],
)
def test_an_error_has_its_line_and_a_guess(text: str, place: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BASE + text, encoding="utf-8")
    with pytest.raises(KitError) as caught:
        load_profile(path)
    assert caught.value.where == f"{path}:{place}"
    assert said in str(caught.value) and "Extra inputs" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: pocket\nteacher: pocket-32\n", "teacher: 'pocket-32' is no pocket model. Did you mean"),
        ("base: pocket\nstudents: {1b: my-model}\n", "students.1b: 'my-model' is no pocket model"),
        ("base: pocket\nbudget: {positions: 3}\n", "a budget of 3 positions holds no step of student 1b"),
        ("base: pocket\nbudget: {positions: 9999}\nstages: {student_train: {seq_len: x}}\n", "seq_len 'x'"),
        ("base: pocket\nbudget: {positions: 9999}\nstages: {student_train: {seq_len: 0}}\n", "seq_len 0"),
        (
            "{summary: x, kind: generated, teacher: t, students: {a: b}, stages: {}, estimate: null, "
            "deviations: []}",
            "names no suite",
        ),
    ],
)
def test_what_would_stop_a_student_is_said_before_anything_runs(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KitError) as caught:
        load_profile(path)
    assert said in str(caught.value)


def test_every_slip_is_listed_and_that_of_a_base_is_placed_there(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text(BASE + "\nbudgt: {positions: 5}\n", encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text("base: below\ngrid: {sedes: [1]}\n", encoding="utf-8")
    with pytest.raises(KitError) as caught:
        load_profile(path)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path}/below.yaml:3:1: ") and "'budget'" in first
    assert second.startswith(f"{path}:2:8: grid: ") and "'seeds'" in second


def test_a_base_that_is_none_is_placed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: papr\n", encoding="utf-8")
    with pytest.raises(KitError, match="Did you mean 'paper'") as caught:
        load_profile(path)
    assert caught.value.where == f"{path}:1:7"


@pytest.mark.parametrize("name", ["nope.yaml", "dir/nope", "dir/nope.yaml"])
def test_a_path_that_leads_nowhere_is_no_unknown_profile(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match="no such file") as caught:
        load_profile(name)
    assert caught.value.where == name and str(tmp_path / name) in (caught.value.expected or "")
    assert all(known in (caught.value.expected or "") for known in profile_names())


def test_a_name_without_its_ending_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(BASE, encoding="utf-8")
    with pytest.raises(KitError, match=r"no profile 'mine'\. Did you mean 'mine\.yaml'"):
        load_profile("mine")


def test_values_are_those_that_the_places_speak_of(tmp_path: Path) -> None:
    """YAML 1.2 both ways: `no` is a text, 010 is not eight, 1e-4 is a number."""
    path = tmp_path / "mine.yaml"
    path.write_text(BASE + "summary: no\nperiod_ms: 010\nstages: {student_train: {lr: 1e-4}}\n", "utf-8")
    profile = load_profile(path)
    assert profile.summary == "no" and profile.period_ms == 10
    assert profile.settings("student_train")["lr"] == 1e-4


def test_a_base_may_lie_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "below.yaml").write_text(BASE + "summary: below\n", encoding="utf-8")
    for base in ("../below", "../below.yaml"):
        path = tmp_path / "inner" / "mine.yaml"
        path.write_text(f"base: {base}\n", encoding="utf-8")
        assert load_profile(path).summary == "below"


@pytest.mark.parametrize("base", ["../papr", "a/b", "x" * 300, "[paper]", "5", "null/"])
def test_a_base_that_no_file_has_is_an_error_with_its_line(base: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {base}\n", encoding="utf-8")
    with pytest.raises(KitError, match="no profile") as caught:
        load_profile(path)
    assert caught.value.where == f"{path}:1:7"


def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path) -> None:
    for name in ("x" * 300 + ".yaml", "x" * 300, "a\0b.yaml", "a\0b"):
        with pytest.raises(KitError, match=r"no such file|no profile"):
            load_profile(name)


def test_a_profile_of_itself_ends(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: mine\n", encoding="utf-8")
    with pytest.raises(KitError, match="based on too many"):
        load_profile(path)
