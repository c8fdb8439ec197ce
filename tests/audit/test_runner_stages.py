"""Stages as real processes: what they make, report and leave running, and how they fail."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.audit.kit_process import NOTICED, Kit, alive, events, pipeline, stage_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipeline_file.md"


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def test_the_shell_example_of_the_page_tells_its_counts(kit: Kit) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [text] = [block for block in blocks if "KIT_EVENTS" in block]
    kit.write("p.yaml", text)
    kit.audit("p.yaml")
    bundle = kit.bundle("runs/shell-events")
    [row] = stage_rows(bundle)
    assert (row["status"], row["tokens_processed"]) == ("completed", 3)
    [told] = [row["detail"] for row in events(bundle, "stage_event")]
    assert told["event"] == "written" and '"lines": 2' in json.dumps(told)


def test_three_stages_with_artifacts_tokens_and_events(kit: Kit) -> None:
    kit.write("noticed.sh", NOTICED)
    kit.write(
        "train.py",
        "import os, sys\n"
        "from harness import Meter\n"
        "with Meter(out='elsewhere') as meter:\n"
        "    with meter.stage('student_train') as stage:\n"
        "        stage.add_tokens(trained=7, processed=10, positions=11)\n"
        "        stage.add_tokens(trained=3)\n"
        "        stage.event('checkpoint', step=1)\n"
        "        stage.event('own', loss=float('nan'))\n"
        "os.mkdir(sys.argv[2])\n"
        "open(sys.argv[2] + '/w.txt', 'w').write(open(sys.argv[1]).read())\n",
    )
    kit.write(
        "p.yaml",
        """\
protocol: "1.0"
name: p
method: sft
labels: [pocket]
reference_tokens: 1000
region: NO
pue: 1.2
stages:
  - name: make
    kind: preprocess
    command: |
      . ./noticed.sh; echo '{"tokens_processed": 5}' >> "$KIT_EVENTS"
      echo '{"event": "half"}' >> "$KIT_EVENTS"; noticed '"half"'; sleep 0.6
      printf '{"tokens_processed": 6}' >> "$KIT_EVENTS"; echo hello > "${outputs.out}"
    outputs: {out: "${run_dir}/data.txt"}
    tokens: {processed: 99, trained: 4}
  - name: train
    kind: student_train
    command: [python, train.py, "${inputs.data}", "${outputs.out}"]
    inputs: {data: "${stages.make.out}"}
    outputs: {out: "${run_dir}/model"}
  - name: evaluate
    kind: evaluate
    command: |
      test "$KIT_STAGE" = evaluate && cat "${inputs.m}/w.txt" "${inputs.d}" > "$KIT_RUN_DIR/scores.json"
    inputs: {m: "${stages.train.out}", d: "${stages.make.out}"}
    outputs: ["${run_dir}/scores.json"]
    tokens: {denominator: 77}
""",
    )
    shown = kit.audit("p.yaml")
    bundle = kit.bundle()
    make, train, inside, evaluate = stage_rows(bundle)
    assert [row["status"] for row in (make, train, evaluate)] == ["completed"] * 3
    assert [row["attempt"] for row in (make, train, evaluate)] == [1, 1, 1]
    assert [row["stage"] for row in (make, train, evaluate)] == ["preprocess", "student_train", "evaluate"]

    # Counts reported are added up; those in the file stand in where nothing was reported.
    assert (make["tokens_processed"], make["tokens_trained"], make["tokens_positions"]) == (11, 4, None)
    assert [train[f"tokens_{name}"] for name in ("trained", "processed", "positions")] == [10, 10, 11]
    assert [row["token_denominator"] for row in (make, train, evaluate)] == [1000, 1000, 77]

    assert make["mono_end_us"] - make["mono_start_us"] > 600_000
    assert make["mono_end_us"] <= train["mono_start_us"] and train["mono_end_us"] <= evaluate["mono_start_us"]

    # The digest of a file is that of its bytes, so the same artifact is known again where it is consumed.
    data = "sha256:" + hashlib.sha256(b"hello\n").hexdigest()
    listing = json.dumps([["w.txt", data.removeprefix("sha256:")]], separators=(",", ":"))
    model = "sha256:" + hashlib.sha256(listing.encode()).hexdigest()
    scores = "sha256:" + hashlib.sha256(b"hello\nhello\n").hexdigest()
    assert (make["produces"], make["consumes"]) == ([data], [])
    assert (train["produces"], train["consumes"]) == ([model], [data])
    assert (evaluate["produces"], evaluate["consumes"]) == ([scores], sorted([model, data]))
    artifacts = bundle.table("artifacts").to_pylist()
    rows = {(row["name"], row["role"], row["stage_uid"]): row for row in artifacts}
    assert rows[("model", "produced", train["stage_uid"])]["kind"] == "folder"
    assert rows[("model", "consumed", evaluate["stage_uid"])]["bytes"] == 6
    assert rows[("data.txt", "consumed", train["stage_uid"])]["artifact_id"] == data
    assert len(rows) == 6

    # `Meter` inside a stage reports to the run that measures it, and measures nothing itself.
    assert (inside["parent_uid"], inside["name"]) == (train["stage_uid"], "student_train")
    assert (inside["tokens_trained"], inside["status"]) == (10, "completed")
    assert train["mono_start_us"] <= inside["mono_start_us"] <= inside["mono_end_us"] <= train["mono_end_us"]
    assert not (kit.cwd / "elsewhere").exists()
    (checkpoint,) = events(bundle, "checkpoint")
    assert (checkpoint["stage_uid"], checkpoint["detail"]) == (train["stage_uid"], {"report": {"step": 1}})
    own = [row for row in events(bundle, "stage_event") if row["detail"].get("event") == "own"]
    assert own[0]["detail"]["report"] == {"loss": None}
    (half,) = [row for row in events(bundle, "stage_event") if row["detail"].get("event") == "half"]
    # It was noticed while the stage ran, not at its end.
    assert half["mono_us"] < make["mono_end_us"] - 100_000

    manifest = bundle.manifest
    assert (manifest["status"], manifest["name"], manifest["method"]) == ("complete", "p", "sft")
    assert manifest["labels"] == ["no_gpu", "pocket"]
    assert manifest["factors"] == {"pue": 1.2, "region": "NO"}
    assert manifest["boundary"] == {"gpu": "absent", "cpu": "absent", "dram": "absent"}
    assert [stage["name"] for stage in manifest["pipeline"]["stages"]] == ["make", "train", "evaluate"]
    assert [row["command_sha256"] for row in (make, train)] == [
        stage["fingerprint"] for stage in manifest["pipeline"]["stages"][:2]
    ]
    folders = sorted(path.name for path in (kit.cwd / "runs/p").iterdir() if path.is_dir())
    assert folders == ["cache", "logs", "work"]
    assert "10 tokens trained" in shown and "11 tokens processed" in shown
    assert kit.left_in_tmp() == []


def test_a_failing_stage_keeps_its_energy_and_last_lines_and_ends_the_run(kit: Kit) -> None:
    kit.env |= {"HOME": "/home/jdoe", "USER": "jdoe", "LOGNAME": "jdoe"}
    kit.write(
        "p.yaml",
        pipeline(
            "{name: good, kind: preprocess, command: 'echo x > ${outputs.o}', outputs: {o: '${run_dir}/x'}}",
            "{name: bad, kind: student_train, command: [sh, bad.sh], retries: 1}",
            "{name: later, kind: evaluate, command: touch ran}",
        ),
    )
    kit.write(
        "bad.sh",
        "for i in $(seq 30); do echo line $i; done\n"
        "echo 'cannot read /home/jdoe/secret/data: jdoe has no right' >&2\n"
        "printf '\\033[31mred\\033[0m 10%%\\r 20%%\\r 100%%\\n\\001\\377\\000 no line break' >&2\n"
        "exit 3\n",
    )
    shown = kit.audit("p.yaml", code=1)
    bundle = kit.bundle()
    good, *bad = stage_rows(bundle)
    assert good["status"] == "completed"
    assert [(row["name"], row["attempt"], row["status"], row["exit_code"]) for row in bad] == [
        ("bad", 1, "failed", 3),
        ("bad", 2, "failed", 3),
    ]
    assert not (kit.cwd / "ran").exists()
    assert bundle.manifest["status"] == "partial"
    first, second = events(bundle, "stage_output_tail")
    assert [first["stage_uid"], second["stage_uid"]] == [row["stage_uid"] for row in bad]
    lines = first["detail"]["lines"]
    assert lines[-3:] == [
        "cannot read <home>: <user> has no right",
        " 100%",
        "\ufffd\ufffd\ufffd no line break",
    ]
    assert lines[-4] == "line 30" and len(lines) <= 20
    # On the terminal of the one who ran it nothing is hidden, but nothing moves its cursor either.
    assert "/home/jdoe/secret/data" in shown and "exit code 3" in shown and "trying again" in shown
    assert "\x1b" not in shown and "\r" not in shown and "\x01" not in shown
    assert shown.count("line 30") == 2
    assert "kit audit p.yaml --cpu none --out runs/p --resume" in shown


def test_attempts_are_numbered_and_every_way_to_fail_is_told_apart(kit: Kit) -> None:
    # One stage that does something else at each attempt: no program, no output, too slow, killed, then well.
    kit.write(
        "try.sh",
        """\
        n=$(cat count 2>/dev/null || echo 0); n=$((n + 1)); echo $n > count
        case $n in
          1) exit 127;;
          2) ;;
          3) sleep 60;;
          4) kill -SEGV $$;;
          5) exit 200;;
          6) mkfifo "$1";;
          7) rm -f "$1"; echo done > "$1";;
        esac
        """,
    )
    kit.write(
        "p.yaml",
        pipeline(
            "{name: hard, kind: x-hard, command: [sh, try.sh, '${outputs.o}'], outputs: {o: '${run_dir}/o'},"
            " retries: 9, timeout: 4}"
        ),
    )
    shown = kit.audit("p.yaml")
    rows = stage_rows(kit.bundle())
    assert [(row["attempt"], row["status"], row["exit_code"]) for row in rows] == [
        (1, "failed", 127),
        (2, "failed", 0),
        (3, "failed", 143),
        (4, "failed", 139),
        (5, "failed", 200),
        (6, "failed", 0),
        (7, "completed", 0),
    ]
    assert [row["flags"] for row in rows][2] == ["timeout"]
    slow = rows[2]
    assert 4e6 < slow["mono_end_us"] - slow["mono_start_us"] < 14e6
    for words in ("did not write its output o", "timeout of 4 s", "SIGSEGV", "exit code 200"):
        assert words in shown
    reasons = [row["detail"]["reason"] for row in events(kit.bundle(), "stage_output_tail")]
    assert len(reasons) == 6 and reasons[3] == "exit code 139 (ended by SIGSEGV)"


def test_a_command_that_cannot_start_fails_its_stage(kit: Kit) -> None:
    kit.write("p.yaml", pipeline("{name: a, kind: x-a, command: [no-such-program, a]}"))
    shown = kit.audit("p.yaml", code=1)
    (row,) = stage_rows(kit.bundle())
    assert (row["status"], row["exit_code"]) == ("failed", 127)
    assert "no-such-program" in shown and "stage a failed" in shown


def test_what_a_stage_leaves_running_is_ended_and_flagged(kit: Kit) -> None:
    kit.write(
        "daemon.py",
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.closerange(0, 256)\n"
        "        with open('daemon.pid', 'w') as f: f.write(str(os.getpid()))\n"
        "        time.sleep(300)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "while not os.path.exists('daemon.pid') or not os.path.getsize('daemon.pid'): time.sleep(0.01)\n",
    )
    kit.write(
        "p.yaml",
        pipeline(
            "{name: clean, kind: x-a, command: 'sleep 0.05 & exit 0'}",
            "{name: background, kind: x-a, command: 'trap \"\" TERM; sleep 300 & echo $! > background.pid'}",
            "{name: daemon, kind: x-a, command: [python, daemon.py]}",
        ),
    )
    shown = kit.audit("p.yaml")
    clean, background, daemon = stage_rows(kit.bundle())
    # What ends by itself in a moment, as a language's helpers do, is not held against the stage.
    assert clean["flags"] == []
    assert background["flags"] == daemon["flags"] == ["left_processes"]
    assert [row["status"] for row in (clean, background, daemon)] == ["completed"] * 3
    # None of that time is the stage's: it ended when its command did, a second and more before its helper.
    found = {row["stage_uid"]: row["mono_us"] for row in events(kit.bundle(), "x-left_processes")}
    assert found[background["stage_uid"]] - background["mono_end_us"] >= 1_000_000
    for name in ("background.pid", "daemon.pid"):
        assert not alive(int((kit.cwd / name).read_text()))
    assert shown.count("left a process running") == 2


_LOUD = r"""
import os, sys
for _ in range(100):
    sys.stdout.buffer.write(bytes(range(256)) * 4096)
with open(os.environ["KIT_EVENTS"], "a") as f:
    for i in range(30000):
        f.write('{"tokens_trained": 1}\n{"event": "step", "i": %d}\n' % i)
    for i in range(50):
        f.write("nonsense\n")
    f.write("[" * 50000 + "\n")
    f.write('{"event": "odd", "a": NaN, "b": 1e999, "c": "\\ud800", "d": 12345678901234567890}\n')
    f.write('{"tokens_trained": -1}\n{"tokens_trained": 1.5}\n{"tokens_trained": null}\n{"x": 1}\n')
    f.write('{"tokens_processed": 9007199254740991}\n{"tokens_processed": 1}\n')
    f.write("x" * 3_000_000 + '\n{"tokens_trained": 2.0}')
os.remove(os.environ["KIT_EVENTS"])
"""
_CUT = f"""
{NOTICED}
for i in 1 2 3; do
  echo "{{\\"tokens_trained\\": $i, \\"event\\": \\"cut$i\\"}}" > "$KIT_EVENTS"; noticed "\\"cut$i\\""
done
"""


def test_output_without_end_and_odd_reports_do_not_hurt_the_log(kit: Kit) -> None:
    kit.write("loud.py", _LOUD)
    kit.write("cut.sh", _CUT)
    kit.write(
        "p.yaml",
        pipeline(
            "{name: loud, kind: x-loud, command: [python, loud.py]}",
            "{name: cut, kind: x-cut, command: [sh, cut.sh]}",
        ),
    )
    shown = kit.audit("p.yaml")
    bundle = kit.bundle()
    loud, cut = stage_rows(bundle)
    assert loud["tokens_trained"] == 30_002 and loud["tokens_processed"] == (1 << 53) - 1
    assert loud["flags"] == cut["flags"] == ["bad_report"]
    assert cut["tokens_trained"] == 6
    reported = [row for row in events(bundle, "stage_event") if row["stage_uid"] == loud["stage_uid"]]
    assert [row["detail"]["report"]["i"] for row in reported[:-1]] == list(range(30_000))
    assert reported[-1]["detail"]["report"] == {"a": None, "b": None, "c": "?", "d": "12345678901234567890"}
    bad = [row for row in events(bundle, "x-bad_report") if row["stage_uid"] == loud["stage_uid"]]
    problems = [row["detail"] for row in bad]
    # 20 one by one, and the number of the others: 50 + deep + 4 wrong members + too many + too long, less 20.
    assert len(problems) == 21 and problems[-1] == {"further_lines": 50 + 1 + 4 + 1 + 1 - 20}
    assert "54 more report lines could not be used" in shown and "append to it instead" in shown
    # 64 MB of the log are kept, and where the rest was is said in the log, in the events and on the screen.
    kept = (kit.cwd / "runs/p/logs/loud.1.out").stat().st_size
    assert 63_900_000 < kept <= 64_000_100
    (event,) = events(bundle, "x-log_cut")
    assert event["stage_uid"] == loud["stage_uid"] and event["detail"]["log"] == "loud.1.out"
    assert abs(kept + event["detail"]["bytes_cut"] - (100 << 20)) < 100
    assert "logs/loud.1.out: 40.9 MB in the middle were cut (log_mb: 64)" in shown
    # Reading the reports is not the stage's time; what was reported in time stands inside it.
    assert bad[-1]["mono_us"] > loud["mono_end_us"] >= max(row["mono_us"] for row in reported)
