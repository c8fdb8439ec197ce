"""The runner's parts by themselves: processes, report lines, output made printable, digests."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from harness.audit import process as process_module
from harness.audit.artifacts import DigestCache
from harness.audit.output import MAX_LINE, Follower, printable, tail
from harness.audit.process import StageProcess, adopting_orphans
from harness.audit.reports import ReportReader, parse_report
from harness.errors import KitError
from tests.audit.kit_process import alive, wait_for


def start(folder: Path, *argv: str, cwd: Path | None = None) -> StageProcess:
    return StageProcess(argv, cwd or folder, os.environ, folder / "out", folder / "err")


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["no-such-program"], 127, "No such file"),
        (["./text"], 126, "Permission denied"),
        (["./script"], 127, "No such file"),
        (["/"], 126, "Permission denied"),
        (["a\0b"], 126, "null byte"),
    ],
)
def test_a_command_that_cannot_start(tmp_path: Path, argv: list[str], code: int, words: str) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    with pytest.raises(KitError, match=words) as error:
        start(tmp_path, *argv)
    assert error.value.exit_code == code


def test_a_working_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="no such working directory") as error:
        start(tmp_path, "true", cwd=tmp_path / "gone")
    assert error.value.where == str(tmp_path / "gone")


def test_a_stage_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "TERM_GRACE_S", 0.5)
    with start(tmp_path, "sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.02; done") as stage:
        wait_for(lambda: (tmp_path / "out").stat().st_size > 0)
        begun = time.monotonic()
        outcome = stage.wait(timeout_s=0.1, interrupted=lambda: None, watch=lambda: None)
    assert (outcome.exit_code, outcome.reason) == (137, "timeout")
    assert 0.6 <= time.monotonic() - begun < 10.0  # the grace as it is without the patch
    assert stage.end_leftovers() == 0


def test_the_end_is_noticed_at_once(tmp_path: Path) -> None:
    late_us = []
    for _ in range(20):  # on a busy machine some of them are late
        (tmp_path / "out").unlink(missing_ok=True)
        with start(
            tmp_path, sys.executable, "-c", "import time; print(time.monotonic_ns() // 1000)"
        ) as stage:
            outcome = stage.wait(timeout_s=None, interrupted=lambda: None, watch=lambda: None)
        late_us.append(outcome.end_us - int((tmp_path / "out").read_text()))
        if late_us[-1] < 200_000:  # the interpreter's own end lies between
            break
    assert 0 < min(late_us) < 200_000


def test_nothing_survives_an_error_of_the_runner(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("the display fell over")

    script = "sleep 300 & setsid sleep 300 & echo $!; wait"
    with adopting_orphans(), pytest.raises(RuntimeError), start(tmp_path, "sh", "-c", script) as stage:
        wait_for(lambda: (tmp_path / "out").stat().st_size > 0)
        stage.wait(timeout_s=None, interrupted=lambda: None, watch=broken)
    assert not alive(stage.pgid)
    assert not alive(int((tmp_path / "out").read_text()))


def test_orphans_that_end_are_reaped(tmp_path: Path) -> None:
    script = "setsid sh -c 'sleep 0.1 & echo $!'; exit 0"
    with adopting_orphans(), start(tmp_path, "sh", "-c", script) as stage:
        stage.wait(timeout_s=None, interrupted=lambda: None, watch=lambda: None)
        assert stage.end_leftovers(linger_s=20.0) == 0
    assert not Path("/proc", (tmp_path / "out").read_text().strip()).exists()  # not even as a zombie


def test_orphans_of_a_long_stage_are_reaped_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_REAP_EVERY_S", 0.1)
    seen: list[int] = []

    def count_zombies() -> None:
        table = process_module._processes().values()
        seen.append(sum(process.dead and process.parent == os.getpid() for process in table))
        if len(seen) > 3 and max(seen) > 0 and seen[-1] == 0:
            (tmp_path / "go").touch()

    script = "for i in 1 2 3 4 5; do (sleep 0.$i &); done; until [ -e go ]; do sleep 0.05; done"
    with adopting_orphans(), start(tmp_path, "sh", "-c", script) as stage:
        outcome = stage.wait(timeout_s=60, interrupted=lambda: None, watch=count_zombies)
    assert outcome.exit_code == 0


def test_a_signal_goes_to_the_whole_group(tmp_path: Path) -> None:
    with start(tmp_path, "sh", "-c", "sleep 300 & echo $!; wait") as stage:
        wait_for(lambda: (tmp_path / "out").stat().st_size > 0)
        outcome = stage.wait(timeout_s=None, interrupted=lambda: signal.SIGTERM, watch=lambda: None)
    assert (outcome.exit_code, outcome.reason) == (143, "interrupted")
    wait_for(lambda: not alive(int((tmp_path / "out").read_text())))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[1;31mred\x1b[0m\x1b]0;title\x07 \x1b(B", "red "),
        ("10%\r 50%\r100%\r\n", "100%"),
        ("a\tb", "a\tb"),
        ("\x00\x07\x9b\ud800\u2028x", "\ufffd" * 5 + "x"),
        ("y" * 501, "y" * (MAX_LINE - 1) + "…"),
    ],
)
def test_printable(line: str, shown: str) -> None:
    assert printable(line) == shown


def test_tail_reads_the_end_of_a_long_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"%d\n\n" % number for number in range(100_000)) + b"\xff last")
    assert tail(log, 3) == ["99998", "99999", "\ufffd last"]
    assert tail(tmp_path / "none", 3) == []
    log.write_bytes(b"z" * 100_000)
    (only,) = tail(log, 3)
    assert len(only) == MAX_LINE


def test_follower_shows_whole_lines_once_and_the_end_of_a_flood(tmp_path: Path) -> None:
    log = tmp_path / "log"
    follower = Follower(log)
    assert follower.lines() == []
    with log.open("ab") as stream:
        for part, seen in ((b"on", []), (b"e\ntwo\nth", ["one", "two"]), (b"", [])):
            stream.write(part)
            stream.flush()
            assert follower.lines() == seen
        stream.write(b"\n" + b"flood\n" * 1_000_000 + b"end")
    shown = follower.lines()
    assert "bytes not shown" in shown[0] and set(shown[1:]) == {"flood"} and len(shown) < 50_000
    assert follower.lines(final=True) == ["end"]
    assert follower.lines(final=True) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"", "not JSON"),
        (b"nonsense \x1b[2J", "not JSON: nonsense"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'"tokens_trained"', "not a JSON object"),
        (b'{"tokens_trained": -1}', "whole number"),
        (b'{"tokens_trained": true}', "whole number"),
        (b'{"tokens_trained": "5"}', "whole number"),
        (b'{"tokens_trained": NaN}', "whole number"),
        (b'{"tokens_trained": 1e30}', "whole number"),
        (b'{"token_trained": 5}', "unknown member token_trained"),
        (b'{"event": 5}', "event must be a name"),
        (b'{"event": " "}', "event must be a name"),
        (b"{}", "neither"),
        (b"[" * 60_000, "not JSON"),
        (b'{"event": "' + b"x" * 70_000 + b'"}', "a line of 70013 bytes"),
    ],
)
def test_a_bad_report_line_says_why(line: bytes, problem: str) -> None:
    report = parse_report(line)
    assert report.problem is not None and problem in report.problem
    assert not report.tokens and report.event is None
    assert "\x1b" not in report.problem and len(report.problem) < 250


def test_good_report_lines() -> None:
    assert parse_report(b'{"tokens_trained": 5, "tokens_positions": 8.0}').tokens == {
        "tokens_trained": 5,
        "tokens_positions": 8,
    }
    assert "twice" in str(parse_report(b'{"tokens_trained": 1, "tokens_trained": 2}').problem)
    both = parse_report(b'{"event": "checkpoint", "tokens_generated": 0, "step": 3, "loss": Infinity}\r')
    assert (both.event, both.tokens) == ("checkpoint", {"tokens_generated": 0})
    assert both.detail == {"step": 3, "loss": None} and both.problem is None


def test_reader_waits_for_line_ends_and_survives_what_happens_to_its_file(tmp_path: Path) -> None:
    path = tmp_path / "events"
    reader = ReportReader(path)

    def read(final: bool = False) -> list[object]:
        return [report.problem or sum(report.tokens.values()) for report in reader.read(final)]

    def add(text: str, mode: str = "a") -> None:
        with path.open(mode) as stream:
            stream.write(text)

    assert read() == []
    add('{"tokens_trained": 1}\n{"tokens_tra')
    assert read() == [1]
    add('ined": 2}\n')
    assert read() == [2]
    writer = path.open("a")
    path.unlink()
    writer.write('{"tokens_trained": 3}\n')
    writer.close()
    assert read() == [3]  # written by one who still held the removed file
    add('{"tokens_trained": 4}')
    replaced, last = read(final=True)
    assert "was replaced" in str(replaced) and last == 4
    add("", "w")
    add('{"tokens_trained": 5}\n')
    assert "was cut" in str(read()[0])
    add("x" * 5_000_000)
    add('\n{"tokens_trained": 6}\n')
    assert [str(item)[:23] for item in read(final=True)] == ["a line of 5000000 bytes", "6"]
    path.unlink()
    os.mkfifo(path)  # to open it would wait for a writer for ever
    assert "is a pipe" in str(read()[0]) and read(final=True) == []
    reader.close()


def test_digests_are_read_once_and_follow_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_text("a")
    (folder / "loop").symlink_to(folder)
    (folder / "gone").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    old = time.time_ns() - 10_000_000_000
    os.utime(folder / "deep" / "a", ns=(old, old))
    cache = DigestCache(tmp_path / "cache" / "digests.json")
    first = cache.artifact(folder)
    assert (first.kind, first.size_bytes) == ("folder", 1)
    cache.save()
    again = DigestCache(tmp_path / "cache" / "digests.json")
    monkeypatch.setattr("hashlib.file_digest", None)  # would fail: nothing may be read a second time
    assert again.artifact(folder) == first
    monkeypatch.undo()
    (folder / "deep" / "a").write_text("b")
    assert again.artifact(folder).artifact_id != first.artifact_id
    with pytest.raises(KitError, match="no such file or folder"):
        again.artifact(tmp_path / "none")
    (tmp_path / "cache" / "digests.json").write_text("[1, 2")
    assert DigestCache(tmp_path / "cache" / "digests.json").artifact(folder).kind == "folder"
