"""Sums of stages, joules per token, what a reader applies to joules, energy above idle."""

from __future__ import annotations

from typing import Any

from tests.oracle.family import Family, dec, maybe, numbered, reference

Json = dict[str, Any]


def row(
    kind: str, gpu: str | None = None, cpu: str | None = None, dram: str | None = None, **more: Any
) -> Json:
    """A row of `stages` with decimal energies."""
    parts = {"gpu_energy_j": gpu, "cpu_energy_j": cpu, "dram_energy_j": dram}
    return {"stage": kind} | {name: dec(text) for name, text in parts.items() if text is not None} | more


def _train(gpu: str | None = None, cpu: str | None = None, **more: Any) -> Json:
    return row("student_train", gpu, cpu, **more)


def totals() -> Family:
    """Sums."""
    doc = "A run is the sum of its stages without a parent, unattributed included."
    family = Family("totals", doc, "totals", "4")
    for name, text, stages, *flags in (
        ("one", "One stage.", [_train("1234.567")]),
        ("components", "GPU, CPU and DRAM add up.", [row("student_train", "1000.5", "200.25", "10.125")]),
        ("kinds", "Sums by kind.",
         [row("preprocess", "10.001"), row("teacher_logits", "500.002"), _train("300.003"),
          row("evaluate", "20.004"), _train("1.1")]),
        ("teacher", "Logits and generation are the teacher's.",
         [row("teacher_logits", "11.5"), row("teacher_generate", "10.25"), _train("5.5")]),
        ("unattributed", "Time that belongs to no stage is in the sum.",
         [row("preprocess", "5"), _train("50"), row("unattributed", "7.5")], "HolesLost"),
        ("failed", "An attempt that failed is in the sum.",
         [_train("40", status="failed"), _train("60", status="completed"),
          row("evaluate", "3", status="partial")],
         "FailedDropped"),
        ("child", "A child is not.", [_train("100"), row("evaluate", "20", parent_uid=0)], "ParentSummed"),
        ("null-gpu", "A stage whose GPU energy is unknown adds what is known of it.",
         [_train("100", "10"), row("evaluate", None, "2")]),
        ("nothing-known", "Nothing measured anywhere: unknown, not zero.",
         [row("preprocess"), _train()], "UnknownAsZero"),
        ("cpu-only", "A machine without a GPU.",
         [_train(None, "900.5"), row("evaluate", None, "99.5")], "UnknownAsZero"),
        ("cents", "Ten times 0.1 is 1.", [_train("0.1")] * 10),
        ("many", "A thousand and one millijoules, one by one.", [row("x-step", "0.001")] * 101),
        ("x-kind", "A kind of one's own is a kind like any other.", [row("x-quantize", "12.5"), _train("1")]),
    ):  # fmt: skip
        given = {"stages": numbered(stages)}
        found = reference("totals", given) or {}
        known = [key for key, value in found.items() if value is not None]
        family.add(name, text, given, *(flags or [""]), found if flags == ["UnknownAsZero"] else known)
    return family


def tokens() -> Family:
    """Joules per token."""
    family = Family("tokens", "Joules per token: which tokens, and whose.", "joules_per_token", "4.5")
    counts = {"tokens_trained": 800_000, "tokens_processed": 1_000_000, "tokens_positions": 1_310_720}
    evaluation = row("evaluate", "20", tokens_processed=50_000, tokens_generated=12_345)
    run = [row("teacher_logits", "500.5", tokens_processed=2_000_000), _train("300.25", **counts), evaluation]
    done = _train("120", tokens_trained=100_000)
    crash, cut = (_train("80", status=status, tokens_trained=60_000) for status in ("failed", "interrupted"))
    declared = {"reference_tokens": 1_500_000}
    for name, text, denominator, stages, *more in (
        ("trained", "Unique label tokens of the student.", "trained", run),
        ("processed", "Real tokens through the student: the teacher's are not its own.",
         "processed", run, "StageTokens"),
        ("positions", "Padding included.", "positions", run),
        ("reference", "The declared count, the same for every pipeline compared.",
         "reference", run, "", declared),
        ("named-not-declared", "A declared count does not replace the one asked for.",
         "trained", run, "NominalTokens", declared),
        ("reference-undeclared", "None declared: no figure.", "reference", run),
        ("not-counted", "Nobody counted: no figure.", "generated", run, "StageTokens"),
        ("null-tokens", "A student's stage that counted nothing: the figure is unknown.", "trained",
         [_train("100", tokens_trained=None), _train("100", tokens_trained=4_000)],
         "UncountedSkipped StageTokens"),
        ("changed-command", "A command was changed and run again: its last tokens, the energy of both.",
         "trained", [_train("100", name="train", attempt=k, command_sha256=f"{k}" * 64, tokens_trained=count)
                     for k, count in ((1, 5_000), (2, 4_000))], "SupersededTokens"),
        ("one-name-twice", "Two blocks of a program may have one name: both count.", "trained",
         [_train("100", name="train", attempt=k, tokens_trained=4_000) for k in (1, 2)]),
        ("run-again", "So do the last ones of a command run again as it was, wherever its row stands.",
         "trained", [_train("100", name="train", attempt=k, command_sha256="a" * 64, tokens_trained=count)
                     for k, count in ((2, 4_000), (1, 5_000))], "SupersededTokens"),
        ("zero-tokens", "No tokens: no figure, and no division by zero.", "trained",
         [_train("100", tokens_trained=0)]),
        ("failed-attempt",
         "Tokens of a failed attempt are trained again by the next: its energy stays, its tokens do not.",
         "trained", [crash, done], "FailedTokens FailedDropped"),
        ("interrupted-attempts", "Nor those of attempts that were interrupted or whose end was not seen.",
         "trained", [cut, _train("50", status="partial", tokens_trained=20_000), done],
         "FailedTokens FailedDropped"),
        ("child-tokens", "Tokens of a child are its parent's.", "trained",
         [_train("100", tokens_trained=10_000), _train("30", parent_uid=0, tokens_trained=3_000)],
         "ParentSummed"),
        ("unattributed-joules", "Waiting is paid by the tokens too.", "trained",
         [_train("100", tokens_trained=10_000), row("unattributed", "25")], "HolesLost"),
        ("unknown-energy", "Unknown energy: no figure.", "trained",
         [_train(tokens_trained=10_000)], "UnknownAsZero"),
    ):  # fmt: skip
        flags, reference_tokens = (*more, *("", {})[len(more) :])
        given = {"denominator": denominator, "stages": numbered(stages), **reference_tokens}
        family.add(name, text, given, flags)
    text = "A denominator that the protocol does not name."
    family.refuse("no-such-count", text, {"denominator": "words", "stages": run})
    return family


def units() -> Family:
    """Units."""
    doc = "1 kWh = 3.6e6 J, exactly; 1 lb = 453.59237 g; a unit that is not known is an error."
    family = Family("units", doc, "convert", "1.4")
    for name, text, value, unit, to, *flags in (
        ("kwh-to-j", "The paper's constant.", "1", "kWh", "J", "KwhTruncated"),
        ("j-to-kwh", "Back.", "3600000", "J", "kWh", "KwhTruncated"),
        ("mj-to-j", "A GPU counter.", "3000234", "mJ", "J"),
        ("uj-to-j", "A RAPL zone.", "262143328850", "uJ", "J"),
        ("wh-to-kwh", "Per cent of a joule hide in a Wh.", "1234.5", "Wh", "kWh"),
        ("mwh-to-wh", "A data centre's unit.", "0.0169", "MWh", "Wh"),
        ("kwh-to-mj", "To megajoules.", "16.90", "kWh", "MJ", "KwhTruncated"),
        ("j-to-j", "The same unit.", "0.1", "J", "J"),
        ("lb-per-mwh", "eGRID prints lb/MWh: 823.1 lb/MWh are 373.35 g/kWh, not 823.1.",
         "823.1", "lb/MWh", "g/kWh", "PoundAsKilogram"),
        ("kg-per-mwh", "kg/MWh and g/kWh are the same number.", "373.4", "kg/MWh", "g/kWh"),
        ("g-per-mj", "Per megajoule.", "100", "g/MJ", "g/kWh"),
        ("g-to-lb", "And back to pounds.", "373.35", "g/kWh", "lb/MWh", "PoundAsKilogram"),
        ("t-per-gwh", "Tonnes per gigawatt-hour.", "56.4", "t/GWh", "g/kWh"),
    ):  # fmt: skip
        family.add(name, text, {"value": dec(value), "from": unit, "to": to}, *flags)
    for name, text, value, unit, to in (
        ("unknown-unit", "A unit that is not in the table.", 5.0, "kWhr", "J"),
        ("no-unit", "No unit at all.", 5.0, "", "J"),
        ("case-matters", "mj is not mJ, and neither is MJ.", 5.0, "MJ", "mj"),
        ("other-quantity", "Energy is no intensity.", 5.0, "kWh", "g/kWh"),
        ("power-is-not-energy", "Watts are no joules without a time.", 300.0, "W", "J"),
    ):
        family.refuse(name, text, {"value": value, "from": unit, "to": to}, "UnknownUnitGuessed")
    return family


def facility() -> Family:
    """PUE and grid."""
    doc = "PUE and grid intensity, applied by the reader to IT joules."
    family = Family("facility", doc, "facility", "1.3")

    def given(it: str, pue: str, grams: str | None) -> Json:
        more = {} if grams is None else {"g_co2e_per_kwh": dec(grams)}
        return {"it_energy_j": dec(it), "pue": dec(pue), **more}

    for name, text, it, pue, grams, *flags in (
        ("pue-one", "No overhead.", "60840000", "1", "412.5"),
        ("pue", "A PUE of 1.2 and 100 g/kWh: 16.9 kWh become 20.28 kWh and 2.028 kg.",
         "60840000", "1.2", "100", "PueForgotten"),
        ("without-grid", "Without a grid factor there is no CO2e.", "60840000", "1.58", None),
        ("clean-grid", "A grid of 0 g/kWh.", "3600000", "1.1", "0"),
        ("nothing", "No energy, no emissions.", "0", "1.5", "400"),
        ("small", "One joule.", "1", "1.56", "551.59", "PueForgotten"),
    ):  # fmt: skip
        family.add(name, text, given(it, pue, grams), *flags)
    text = "A building uses at least what its machines use."
    family.refuse("below-one", text, given("100", "0.95", "100"), "PueBelowOne")
    family.refuse("zero-pue", "Nor nothing.", given("100", "0", None), "PueBelowOne")
    return family


def lineage() -> Family:
    """Inherited energy."""
    doc = "An artifact that another run paid for is charged once."
    family = Family("lineage", doc, "inherited_energy", "2.5")
    for name, text, edges, *flags in (
        ("one", "One cache.", [("a", "consumed", "39600000", 0)]),
        ("read-twice", "Read by two stages: paid once.",
         [("a", "consumed", "39600000", 1), ("a", "consumed", "39600000", 2)], "TeacherTwice"),
        ("two", "Two artifacts.", [("a", "consumed", "39600000", 0), ("b", "consumed", "1332000.5", 0)]),
        ("own-product", "What the run made itself is in its own joules.",
         [("a", "produced", "39600000", 0), ("b", "consumed", "1000", 0)]),
        ("unknown", "Nobody knows what it cost: unknown, not free.",
         [("a", "consumed", None, 0)], "UnknownAsZero"),
        ("none", "Nothing inherited.", [], "UnknownAsZero"),
        ("one-unknown", "What one of two cost is unknown: so is the sum.",
         [("a", "consumed", "39600000", 0, "one"), ("b", "consumed", None, 0, "other")], "UnknownAsZero"),
        ("raw-data", "Data that no run made brings no energy along.",
         [("a", "consumed", "39600000", 0, "one"), ("b", "consumed", None, 0)]),
        ("two-outputs", "Two outputs of one stage carry its energy both: paid once.",
         [("a", "consumed", "39600000", 0, "one"), ("b", "consumed", "39600000", 0, "one")], "TeacherTwice"),
        ("two-runs", "Of two runs: paid twice.",
         [("a", "consumed", "39600000", 0, "one"), ("b", "consumed", "39600000", 0, "other")]),
    ):  # fmt: skip
        artifacts = [
            {
                "artifact_id": f"sha256:{mark * 64}",
                "role": role,
                "stage_uid": uid,
                "origin_energy_j": maybe(joules),
                **({"origin_run_id": runs[0]} if runs else {}),
            }
            for mark, role, joules, uid, *runs in edges
        ]
        family.add(name, text, {"artifacts": artifacts}, *flags)
    return family


def idle() -> Family:
    """Above idle."""
    doc = (
        "Energy above idle: energy less mean idle power over the same time. Beside the total, never instead."
    )
    family = Family("idle", doc, "above_idle", "2.6")

    def stage(kind: str, start: int, end: int, joules: str | None, **more: Any) -> Json:
        return row(kind, joules, mono_start_us=start * 10**6, mono_end_us=end * 10**6, **more)

    train = stage("student_train", 60, 160, "50000")
    before, after = stage("idle", 0, 60, "4800"), stage("idle", 170, 290, "13200")
    wait = stage("unattributed", 160, 170, "1500")
    for name, text, stages, *flags in (
        ("both-ends", "80 W before, 110 W after for twice as long: 100 W.",
         [before, train, wait, after], "FirstIdleAlone HolesLost IdleMeanOfMeans"),
        ("same-length", "Two of one length.",
         [before, train, stage("idle", 160, 220, "6000")], "FirstIdleAlone"),
        ("before-only", "One at the start.", [before, train]),
        ("none", "No idle stage: no figure. The lowest sample is no baseline.",
         [train, wait], "UnknownAsZero"),
        ("unmeasured", "An idle stage that was not measured is none.",
         [stage("idle", 0, 60, None), train], "UnknownAsZero"),
        ("stage-unmeasured", "A stage that was not measured adds neither its energy nor its time.",
         [before, train, stage("evaluate", 160, 170, None)], "UnknownAsZero"),
        ("below-idle", "Training that draws less than idle is shown as it is: below 0.",
         [before, stage("student_train", 60, 160, "7000")]),
        ("child", "A child is in its parent.",
         [before, train, stage("evaluate", 70, 80, "4000", parent_uid=1)], "ParentSummed"),
    ):  # fmt: skip
        family.add(name, text, {"stages": numbered(stages)}, *flags)
    return family
