"""Advice on the published table, whose answers are known, and on made-up choices with intervals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.accounting import Interval
from harness.advice.advise import Answer, Question, advise
from harness.advice.choices import Choice, Choices, measured_choices, published_choices
from harness.advice.rules import UNDECIDED, Sentence, sentences
from harness.advice.text import answer_lines, as_json
from harness.errors import KitError
from tests.accounting.synthetic import Stage, make_run

KWH = 3.6e6
PUBLISHED = published_choices()


def said(given: Choices, rule: str, name: str = "") -> list[Sentence]:
    return [s for s in sentences(given) if s.rule == rule and name in s.text]


def beaten(answer: Answer) -> dict[str, tuple[str, ...]]:
    return {s.name: s.dominated_by for s in answer.standings}


def test_used_once_direct_training_of_7b_and_13b_beats_every_other_cell_that_has_data() -> None:
    found = beaten(advise(PUBLISHED, Question()))
    assert found.pop("SFT 7B") == found.pop("SFT 13B") == ()
    big = {name: by for name, by in found.items() if name.endswith(("7B", "13B"))}
    assert big.keys() == {"Logit KD 13B", "Synthetic SFT 13B"}
    assert all({"SFT 7B", "SFT 13B"} <= set(by) for by in big.values())


def test_a_hundredth_of_q_keeps_kd_1b_on_the_frontier() -> None:
    answer = advise(PUBLISHED, Question())
    assert beaten(answer)["Logit KD 1B"] == ()
    [sentence] = said(PUBLISHED, "one-off", "Logit KD 1B")
    assert "2.41 times" in sentence.text and "+0.01 of Q: neither beats the other" in sentence.text


def test_three_uses_under_20_kwh_is_direct_training_of_7b() -> None:
    question = Question(reuses=3, budget_j=20 * KWH)
    answer = advise(PUBLISHED, question)
    assert answer.best is not None and answer.best.name == "SFT 7B"
    assert [c.name for c in answer.undecided] == ["Logit KD 7B", "Synthetic SFT 1B", "Synthetic SFT 7B"]
    costs = {option.name: option.absolute.best / KWH for option in answer.options}
    assert costs["Logit KD 1B"] == pytest.approx(0.37 + 11 / 3 + 5.2 + 0.33)
    assert [o.name for o in answer.options if o.fit == "over"] == [
        "Synthetic SFT 13B",
        "SFT 13B",
        "Logit KD 13B",
    ]
    text = "\n".join(answer_lines(PUBLISHED, question, answer, sentences(PUBLISHED)))
    assert "neither ruled out nor in: Logit KD 7B" in text.replace("\n", " ")
    # A rule is what the figures are held against, not what they say.
    assert "rule alpha: Tune alpha before temperature. Here:\n  the data cannot decide" in text
    assert max(map(len, text.splitlines())) <= 100


def test_cells_without_data_are_never_decided() -> None:
    for rule in ("one-off", "reuse"):
        [sentence] = said(PUBLISHED, rule, "Synthetic SFT 7B")
        assert UNDECIDED in sentence.text and not sentence.decided
    assert not any(s.decided for rule in ("alpha", "prompts", "development") for s in said(PUBLISHED, rule))


def test_a_teacher_is_paid_once_for_all_sizes_that_are_needed() -> None:
    answer = advise(PUBLISHED, Question(need=("1b", "13b")))
    costs = {option.name: option.absolute.best / KWH for option in answer.options}
    both = "Logit KD 1B + Logit KD 13B"
    assert costs[both] == pytest.approx(11 + (0.37 + 5.2 + 0.33) + (0.37 + 30.05 + 1.08))
    # Two teachers, each in full.
    assert costs["Logit KD 1B + Synthetic SFT 13B"] == pytest.approx(16.9 + 40.7)
    shared = advise(PUBLISHED, Question(reuses=4, need=("1b", "13b")))
    assert {o.name: o.absolute.best / KWH for o in shared.options}[both] == pytest.approx(costs[both] - 5.5)


def test_a_smaller_teacher_is_planned_and_says_so() -> None:
    found = said(PUBLISHED, "smaller-teacher")
    assert len(found) == 4
    assert all("planned, not measured" in s.text and not s.decided for s in found)


def student(name: str, joules: float, q: tuple[float, float, float], *, machine: str = "cpu") -> Choice:
    energy = {(machine,): Interval.exact(joules)}
    return Choice(name, "sft", name, energy, {}, energy, Interval(q[1], q[0], q[2]), "estimated")


WIDE = {"cpu": (0.0, 2.0)}


def made_up(*choices: Choice) -> Choices:
    return Choices("made up", choices, WIDE, None, "J")


def test_what_is_common_cancels_between_choices_and_not_against_a_budget() -> None:
    given = made_up(student("a", 100, (0.5, 0.5, 0.5)), student("b", 200, (0.4, 0.4, 0.4)))
    answer = advise(given, Question(budget_j=150))
    assert beaten(answer) == {
        "a": (),
        "b": ("a",),
    }  # b takes twice as much, whatever it is
    assert [option.fit for option in answer.options] == ["may be over", "over"]


def test_a_sensors_gain_stands_against_a_budget_and_not_in_the_interval_shown() -> None:
    given = replace(
        made_up(student("a", 100, (0.5, 0.5, 0.5), machine="gain gpu")), scales={"gain gpu": (0.95, 1.05)}
    )
    answer = advise(given, Question(budget_j=103))
    (option,) = answer.options
    assert (option.stated.low, option.stated.high) == (100, 100)
    assert (option.absolute.low, option.absolute.high, option.fit) == (95, 105, "may be over")
    text = " ".join(answer_lines(given, Question(budget_j=103), answer, []))
    assert "up to 105.0 J, more than the budget" in text and "(95" not in text


def test_a_narrow_terminal_loses_nothing() -> None:
    answer = advise(PUBLISHED, Question(budget_j=20 * KWH))
    wide, narrow = (
        answer_lines(PUBLISHED, Question(budget_j=20 * KWH), answer, sentences(PUBLISHED), width)
        for width in (80, 50)
    )
    assert max(map(len, narrow)) <= 50 < max(map(len, wide)) <= 80
    assert sorted(" ".join(wide).split()) == sorted(" ".join(narrow).split())


def test_a_tie_in_q_names_the_cheaper() -> None:
    given = made_up(student("a", 100, (0.4, 0.5, 0.6)), student("b", 200, (0.45, 0.55, 0.65)))
    answer = advise(given, Question())
    assert answer.best is not None and answer.best.name == "b"
    text = " ".join(answer_lines(given, Question(), answer, []))
    assert "the cheapest of them is a" in text and "estimated, not measured" in text


def test_both_ends_of_an_interval_have_their_units() -> None:
    given = made_up(student("a", 900, (0.5, 0.5, 0.5)))
    assert "900 J (0 J to 1.80 kJ)" in " ".join(
        answer_lines(given, Question(), advise(given, Question()), [])
    )


def test_what_students_share_was_paid_once_and_an_unknown_part_gives_no_share(tmp_path: Path) -> None:
    shared = make_run((Stage("cache", "teacher_logits", 2, 12, 600, status="failed"),), end_s=14, devices=1)
    student = make_run((Stage("train", "student_train", 2, 12, 300),), end_s=14, devices=1)
    runs = [(shared.write(tmp_path / "shared"), False)]
    runs += [(student.write(tmp_path / name), name == "sweep") for name in ("kd-1b", "sweep")]
    # 3 s of idle at 80 W in each: 6.24 kJ, and 3.24 kJ twice.
    [sentence] = said(replace(made_up(), runs=runs), "development")
    assert sentence.decided and "of 12.72 kJ in these runs, sweeps and repeats took 25%" in sentence.text
    assert "attempts that failed 47%" in sentence.text
    student.power["power_mw_valid"][:] = student.power["energy_counter_mj_valid"][:] = False
    student.counters = []
    runs[1] = (student.write(tmp_path / "unmetered"), False)
    [sentence] = said(replace(made_up(), runs=runs), "development")
    assert UNDECIDED in sentence.text and not sentence.decided


def test_a_repeat_for_the_spread_is_counted_as_one() -> None:
    given = measured_choices(Path(__file__).parents[2] / "artifacts" / "runs" / "pocket")
    extra = {path.name for path, tried in given.runs if tried}
    assert "sft-1b-again1" in extra and len(given.runs) == 20
    assert extra == {path.name for path, _ in given.runs if "-again" in path.name or "-seed" in path.name}
    (sentence,) = said(given, "development")
    assert sentence.decided and "sweeps and repeats took 0%" not in sentence.text


def test_a_budget_has_a_column_only_where_one_was_given() -> None:
    given = made_up(student("a", 100, (0.5, 0.5, 0.5)), student("b", 200, (0.4, 0.4, 0.4)))
    for question, asked in ((Question(), False), (Question(budget_j=150), True)):
        said = answer_lines(given, question, advise(given, question), [])
        assert any(line.startswith("option") and "budget" in line for line in said) is asked


def swept(alpha: float, temperature: float, q: float, half: float) -> Choice:
    default = (alpha, temperature) == (0.5, 1.0)
    base = student("1b", 100 + alpha, (q - half, q, q + half))
    setting = {"alpha": alpha, "temperature": temperature}
    return replace(base, regime="kd", setting=setting, is_default=default, name=f"{alpha} {temperature}")


@pytest.mark.parametrize(("half", "decided"), [(0.01, True), (0.3, False)])
def test_which_setting_moves_q_more_is_said_only_beyond_its_doubt(half: float, decided: bool) -> None:
    cells = [swept(0.5, 1, 0.6, half), swept(0.3, 1, 0.4, half), swept(0.8, 1, 0.7, half)]
    cells += [swept(0.5, 2, 0.61, half), swept(0.8, 4, 0.1, half)]  # the corner belongs to neither line
    [sentence] = said(made_up(*cells), "alpha")
    assert "alpha moves Q by 0.300" in sentence.text and "temperature moves Q by 0.010" in sentence.text
    assert sentence.decided is decided and (UNDECIDED in sentence.text) is not decided


def test_a_size_that_was_not_swept_hides_no_other() -> None:
    cells = [replace(swept(0.5, t, 0.5, 0.01), size="7b") for t in (1, 2)]
    cells += [swept(0.5, 1, 0.6, 0.01), swept(0.3, 1, 0.4, 0.01), swept(0.5, 2, 0.61, 0.01)]
    first, second = said(made_up(*cells), "alpha")
    assert "alpha was not swept" in first.text and "alpha moves Q by 0.200" in second.text


def test_nothing_to_choose_from_is_an_error() -> None:
    with pytest.raises(KitError, match="no student of size '3b'"):
        advise(PUBLISHED, Question(sizes=("3b",)))
    lacking = [c for c in PUBLISHED.choices if c.unknown]
    with pytest.raises(KitError, match="no choice has both"):
        advise(replace(PUBLISHED, choices=lacking), Question())


def test_the_record_holds_every_option_and_rule() -> None:
    answer = advise(PUBLISHED, Question())
    record = json.loads(json.dumps(as_json(PUBLISHED, Question(), answer, sentences(PUBLISHED))))
    assert len(record["options"]) == 6 and record["best"] == "SFT 13B"
    assert {rule["rule"] for rule in record["rules"]} >= {"one-off", "reuse", "alpha", "prompts"}
