"""`kit audit`: options, folders, refusals, and what it looks like."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.audit.kit_process import KIT, NOTICED, Kit, pipeline, stage_rows
from tests.audit.terminal import Terminal

TWO = pipeline(
    "{name: a, kind: x-a, command: 'echo \"$WORD\" > ${outputs.o}', outputs: {o: '${run_dir}/a.txt'}}",
    "{name: b, kind: x-b, command: 'cat ${inputs.i} >> b.txt', inputs: {i: '${stages.a.o}'}}",
    head="labels: [pocket]\nenv: {WORD: '${env.SAID:-plain}'}\n",
)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path)
    kit.write("p.yaml", TWO)
    return kit


def names(kit: Kit, folder: str = "runs/p") -> list[str]:
    return [row["name"] for row in stage_rows(kit.bundle(folder))]


def test_folders_are_numbered_and_stages_chosen(kit: Kit) -> None:
    kit.env["SAID"] = "pocket"
    out, _ = kit.run("audit", "p.yaml", "--cpu", "none", "--only", "a")
    del kit.env["SAID"]
    assert re.search(r"^ a ", out, re.M) and "total" in out
    assert names(kit) == ["a"] and kit.bundle().manifest["labels"] == ["no_gpu", "pocket"]
    (kit.cwd / "runs/p-2").mkdir()
    (kit.cwd / "runs/p-2/mine.txt").write_text("not the kit's")
    kit.audit("p.yaml")
    assert names(kit, "runs/p-3") == ["a", "b"]
    assert [path.name for path in (kit.cwd / "runs/p-2").iterdir()] == ["mine.txt"]

    # The newest run is the one to go on with; it is whole, so there is nothing to do.
    assert "nothing to do" in kit.audit("p.yaml", "--resume")
    error = kit.run("audit", "p.yaml", "--from", "b", code=2)[1]
    assert "written by stage 'a'" in error and not (kit.cwd / "runs/p-4").exists()
    kit.env["SAID"] = "pocket"
    kit.audit("p.yaml", "--from", "b", "--resume", "--out", "runs/p")
    assert names(kit) == ["a", "b"] and (kit.cwd / "b.txt").read_text() == "plain\npocket\n"
    assert not (kit.cwd / "runs/p-4").exists()


def test_a_part_of_a_pipeline_in_a_new_folder_is_pointed_to_the_run_there_is(kit: Kit) -> None:
    first = kit.run("audit", "p.yaml", "--cpu", "none", "--only", "a")
    assert "--resume" not in "".join(first)
    again = kit.run("audit", "p.yaml", "--cpu", "none", "--only", "a")
    assert "a new run begins in runs/p-2; to go on with runs/p add --resume" in "".join(again)
    error = kit.run("audit", "p.yaml", "--from", "b", code=2)[1]
    assert "or go on with a run that has it: --resume" in " ".join(error.split())
    assert "a new run" not in "".join(kit.run("audit", "p.yaml", "--cpu", "none"))


def test_a_dry_run_shows_the_plan_and_makes_nothing(kit: Kit) -> None:
    before = sorted(kit.cwd.iterdir())
    out, err = kit.run("audit", "p.yaml", "--dry-run")
    assert max(len(line) for line in out.splitlines()) < 200
    assert err == "" and sorted(kit.cwd.iterdir()) == before
    assert 'run   echo "$WORD" > ${run_dir}/a.txt' in out and "read ${run_dir}/a.txt (from a)" in out
    terminal = Terminal([*KIT, "audit", "p.yaml", "--dry-run"], kit.cwd, kit.env, columns=60)
    assert terminal.wait() == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.shown.decode())
    assert max(len(line.rstrip("\r")) for line in shown.split("\n")) <= 60
    assert "cat ${run_dir}/a.txt >> b.txt" in shown


def test_what_cannot_be_used_is_refused_with_a_way_out(kit: Kit) -> None:
    kit.write("file", "")
    kit.write("unreadable.yaml", "stages: [")

    def refused(*args: str) -> str:
        error = kit.run("audit", *args, code=2)[1]
        assert "fault of the kit" not in error and len(error) < 1500
        return error

    assert "nothing.yaml" in refused("nothing.yaml")
    assert "unreadable.yaml:" in refused("unreadable.yaml")
    for out in ("file", "file/run", "/proc/run"):
        error = refused("p.yaml", "--out", out)
        assert "cannot be written" in error and "fix: choose another folder" in error
    error = refused("p.yaml", "--out", ".")
    assert "holds other things" in error and "fix: --out" in error
    assert "no such stage" in refused("p.yaml", "--only", "c")
    assert "Invalid value for '--cpu'" in refused("p.yaml", "--cpu", "guess")
    kit.write("gpu.yaml", TWO.replace("stages:", "devices: [0]\nstages:"))
    error = refused("gpu.yaml", "--cpu", "none", "--out", "gpu")
    assert "NVML fails" in error and "kit doctor" in error
    # A meter that could not start has left no run behind: the same folder can be used at once.
    kit.audit("p.yaml", "--out", "gpu")


def test_a_run_on_a_terminal_fits_it_and_shows_live_output(kit: Kit) -> None:
    script = (
        NOTICED + "echo '{\"tokens_trained\": 1234}' >> $KIT_EVENTS; echo to out; echo to err >&2\n"
        "noticed '\"tokens_trained\":1234'; sleep 1; printf e"
    )
    long = "a-stage-with-quite-a-long-name"
    kit.write("t.sh", script)
    kit.write(
        "t.yaml",
        pipeline(
            f"{{name: {long}, kind: student_train, command: [sh, t.sh], tokens: {{positions: 5}}}}",
            "{name: b, kind: x-b, command: 'exit 3'}",
        ),
    )
    terminal = Terminal([*KIT, "audit", "t.yaml", "--cpu", "none", "-v"], kit.cwd, kit.env, columns=72)
    assert terminal.wait() == 1
    raw = terminal.shown.decode()
    assert "\x1b[32m✓" in raw and "\x1b[31m✗" in raw
    assert re.search(r"\d\.\d s  1,234 tokens trained", raw), "no figures while the stage ran"
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw).replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= 72
    shown = [line.strip() for line in lines]
    for words in ("to out", "to err", "e"):
        assert words in shown

    piped = kit.audit("t.yaml", code=1, env={**kit.env, "COLUMNS": "40"})
    assert "\x1b" not in piped and "\r" not in piped
    assert re.search(rf"^  ✓  1 {long}  \d\.\d s  ", piped, re.M) and "to out" not in piped
    assert "go on: kit audit t.yaml --cpu none --out runs/p-2 --resume" in piped

    plain = Terminal(
        [*KIT, "audit", "t.yaml", "--cpu", "none"], kit.cwd, kit.env | {"NO_COLOR": "1", "TERM": "dumb"}
    )
    assert plain.wait() == 1
    assert not re.search(r"\x1b\[[0-9;]*m", plain.shown.decode())
    latin = kit.audit(
        "t.yaml", code=1, env={**kit.env, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    )
    assert latin.isascii() and "\\u" not in latin and f"  +  1 {long}" in latin


def test_a_reader_that_goes_away_stops_nothing(kit: Kit) -> None:
    """`kit audit ... 2>&1 | head -1`."""
    kit.write(
        "s.yaml",
        pipeline("{name: a, kind: x-a, command: sleep 0.5}", "{name: b, kind: x-a, command: touch ran}"),
    )
    process = kit.start("audit", "s.yaml", "--cpu", "none", stderr=subprocess.PIPE)
    assert process.stderr is not None and process.stdout is not None
    assert "p: 2 stages" in process.stderr.readline()
    process.stderr.close()
    process.stdout.close()
    assert process.wait(30) in (0, 141)
    assert (kit.cwd / "ran").exists() and kit.bundle().manifest["status"] == "complete"


def test_nothing_private_reaches_the_bundle(kit: Kit) -> None:
    user, host, secret = "jdoe42", "gpu-box-17", "hf_abcdefghijklmnopqrstuv"
    home = kit.cwd / "home" / user
    home.mkdir(parents=True)
    (home / "data.txt").write_text("x")
    (home / f"{user}.txt").write_text("y")
    kit.env |= {"HOME": str(home), "USER": user, "LOGNAME": user, "HF_TOKEN": secret}
    kit.write(
        "private.yaml",
        pipeline(
            f"{{name: a, kind: x-a, command: [sh, a.sh, {home}/data.txt, --token, {secret}],"
            f" env: {{DATA: {home}, HF_TOKEN: {secret}}}, inputs: ['{home}/data.txt', '{home}/{user}.txt'],"
            " outputs: {o: '${run_dir}/o'}, retries: 1}",
            head=f"region: NO\nenv: {{WHO: {user}}}\n",
        ),
    )
    report = {"event": "saved", "path": f"{home}/ckpt", "host": host, "by": f"{user}@{host}.example.org"}
    kit.write(
        "a.sh",
        f"echo '{json.dumps(report)}' >> $KIT_EVENTS\necho '{{\"{home}\": 1}}' >> $KIT_EVENTS\n"
        f"echo reading {home}/data.txt on {host} as {user} with {secret} >&2\n"
        "id -un; hostname; pwd; env | head -50\n[ -e tried ] || { touch tried; exit 1; }\n"
        "echo o > $KIT_RUN_DIR/o\n",
    )
    command = [*KIT, "audit", "private.yaml", "--cpu", "none"]
    renamed = ["unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "-", *command]
    if (
        shutil.which("unshare")
        and subprocess.run([*renamed[:4], f"hostname {host}"], check=False).returncode == 0
    ):
        command = renamed
    else:
        host = os.uname().nodename
    done = subprocess.run(command, cwd=kit.cwd, env=kit.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    private = [user, secret, str(kit.cwd), str(kit.cwd.parent), *([host] if len(host) > 3 else [])]
    bundle = kit.cwd / "runs/p"
    texts = {"manifest.json": (bundle / "manifest.json").read_text()}
    for path in bundle.glob("*.parquet"):
        table = pq.read_table(path)
        texts[path.name] = json.dumps(
            {k.decode(): v.decode() for k, v in (pq.read_schema(path).metadata or {}).items()}
        )
        for column in table.column_names:
            kind = table.schema.field(column).type
            if pa.types.is_string(kind) or pa.types.is_list(kind) or pa.types.is_dictionary(kind):
                texts[path.name] += json.dumps(table[column].to_pylist())
    assert "stage_output_tail" in texts["events.parquet"] and "saved" in texts["events.parquet"]
    found = [(name, word) for name, text in texts.items() for word in private if word in text]
    assert not found
    assert kit.bundle().manifest["status"] == "complete"
