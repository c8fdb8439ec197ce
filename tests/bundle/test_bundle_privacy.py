"""What a log may hold of the person and the machine: nothing; and plain words stay as they are."""

from __future__ import annotations

import getpass
import json
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bundle import Scrubber, scrub, scrub_value

ALICE = Scrubber(
    home="/home/alice",
    cwd="/home/alice/proj",
    user="alice",
    hosts=("gpu7.lab.example.org", "gpu7", "n1"),
    jobs=("991234",),
)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("python /home/alice/proj/src/train.py", "python <cwd>/src/train.py"),
        ("cd /home/alice/proj", "cd <cwd>"),
        ("/home/alice/project2/x.py", "<home>/x.py"),
        ("--data=/data/bob/x.parquet", "--data=<path>/x.parquet"),
        ("-I/usr/include -v /data/a:/b/c", "-I<path> -v <path>:<path>"),
        ("PYTHONPATH=/x/y:/z/w.egg", "PYTHONPATH=<path>:<path>/w.egg"),
        ("~/notes/a.txt ~bob/b", "<path>/a.txt <path>"),
        ('{"path":"/q/r"} (/opt/x)', '{"path":"<path>"} (<path>)'),
        ("file:///a/b/c.txt", "<path>/c.txt"),
        (r"C:\Users\bob\x.txt \\server\share", "<path>/x.txt <path>"),
        ('File "/srv/x/y.py", line 3, in f', 'File "<path>/y.py", line 3, in f'),
        ("alice@gpu7:/scratch", "<email>:<path>"),
        ("mail a.b+c@uni.example.org now", "mail <email> now"),
        ("GPU7 died; gpu7.other.net too", "<host> died; <host> too"),
        ("by alice, alice_2 and ALICE", "by <user>, <user>_2 and ALICE"),
        ("GPU-0a1b2c3d-1111-2222-3333-444455556666", "<gpu>"),
        ("MIG-0a1b2c3d-1111-2222-3333-444455556666!", "<gpu>!"),
        ("10.1.2.3:8000 fe80::1ff:fe23:4567:890a", "<ip>:8000 <ip>"),
        ("00:1a:2b:3c:4d:5e", "<mac>"),
        ("WANDB_API_KEY=abc123 x", "WANDB_API_KEY=<secret> x"),
        ("--password hunter2 --verbose", "--password <secret> --verbose"),
        ('"secret": "x y", "b": 1', '"secret": "<secret>", "b": 1'),
        ("hf_abcdefghijklmnopqrst ghp_abcdefghijklmnopqrstuv", "<secret> <secret>"),
        ("Authorization: Bearer abcdefghijk", "Authorization: Bearer <secret>"),
        ("--token abcdefghijklmnopqrst", "--token <secret>"),
        ("https://me:pw@host.example.org/a", "https://<secret>@host.example.org/a"),
        ("curl https://x.example.org/a?token=abc&b=1 -o f", "curl https://x.example.org/a?<secret> -o f"),
        ("git clone https://me:p@ss@x.example.org/a", "git clone https://<secret>@x.example.org/a"),
        ("mysql -p hunter2 --pw hunter2 --verbose", "mysql -p <secret> --pw <secret> --verbose"),
        ("train --wandb_key=abc --lr 1e-4", "train --wandb_key=<secret> --lr 1e-4"),
        ("MYPASS=abc 'DB_PW=x y' ./a", "MYPASS=<secret> 'DB_PW=<secret> y' ./a"),
        ("curl -u a:b --user=c:d http://x", "curl -u <secret> --user=<secret> http://x"),
        (
            '{"a":["mysql","-p","abc","-u","x:y"],"b":"--pw z"}',
            '{"a":["mysql","-p","<secret>","-u","<secret>"],"b":"--pw <secret>"}',
        ),
        ("SLURM_JOB_ID=4711 job 991234", "SLURM_JOB_ID=<job> job <job>"),
        ("on n1, n1.lab.example.org, N1 and n12", "on <host>, <host>, N1 and n12"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "<secret>"),
    ],
)
def test_private_parts_go(text: str, clean: str) -> None:
    assert ALICE.scrub(text) == clean
    assert ALICE.scrub(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "J/token, tokens/s and/or 12:34:56 at 25 /s",
        "https://example.org/a/b",
        "${run_dir}/out/x.bin ${stages.cache.out}/y ../rel/path ./a/b src/train.py",
        "tokens_processed=1024 max_tokens: 3 pad_token=<pad> token=5 eos_token='</s>'",
        "driver 13.615.71 python 3.11.7 localhost 127.0.0.1 ::1",
        "std::vector malice gpu70 gpu-7 a @ b x@y org/model@main",
        "sha256:0123456789abcdef secretary 3/4 1e-9 [a-z]/[b] 2026-11-22T10:00:00Z",
        "",
    ],
)
def test_plain_words_stay(text: str) -> None:
    assert ALICE.scrub(text) == text


def test_names_that_everybody_has_are_no_names() -> None:
    scrubber = Scrubber(home="/", cwd="/", user="root", hosts=("localhost", "node"))
    assert scrubber.scrub("root of the tree on node localhost") == "root of the tree on node localhost"
    assert scrubber.scrub("/root/a/b.py") == "<path>/b.py"


def test_values_of_any_shape() -> None:
    value = {"env": {"HF_TOKEN": "abc", "A": "/x/y.z"}, "n": [1, None, True, 2.5, "alice"]}
    assert ALICE.scrub_value(value | {"/home/alice/k": ("alice",)}) == {
        "env": {"HF_TOKEN": "<secret>", "A": "<path>/y.z"},
        "n": [1, None, True, 2.5, "<user>"],
        "<home>": ["<user>"],
    }


def test_this_machine_and_user_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/var/people/carol")
    monkeypatch.setenv("LOGNAME", "carol99")
    monkeypatch.setattr(socket, "gethostname", lambda: "h100-a.lab")
    scrubber = Scrubber.of_this_machine()
    text = f"{tmp_path}/a/b.py /var/people/carol/x {getpass.getuser()}@h100-a.lab: carol99 H100-A H100"
    assert scrubber.scrub(text) == "<cwd>/a/b.py <home> <email>: <user> <host> H100"


def test_the_module_functions_know_this_process() -> None:
    inside = Path.cwd() / "some" / "file.py"
    assert str(Path.cwd()) not in scrub(f"ran {inside}")
    assert scrub_value(["/a/b/c.txt"]) == ["<path>/c.txt"]


PIECES = st.sampled_from(
    ["/home/alice/proj/a.py", "/home/alice/q", "alice", "gpu7", "/data/x/y", "a@b.org", " ", ":", "=", '"',
     "/", "hf_abcdefghijklmnopqrst", "10.0.0.1", "word", "\n", "password=x1", "--token", "C:\\a\\b"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=8).map(" ".join))
def test_nothing_is_left_and_scrubbing_again_changes_nothing(text: str) -> None:
    clean = ALICE.scrub(text)
    for private in ("alice", "gpu7", "/data", "a@b", "hf_abc", "10.0.0.1", "C:\\"):
        assert private not in clean
    assert ALICE.scrub(clean) == clean


@given(st.text(max_size=200))
def test_any_text_survives(text: str) -> None:
    assert isinstance(ALICE.scrub(text), str)
    json.dumps(ALICE.scrub_value({text: [text]}))


def test_words_of_a_command_are_looked_at_in_pairs() -> None:
    words = ["mysql", "-p", "abc", "--password", "d e", "-u", "a:b", "--lr", "1e-4", "--pw"]
    clean = ["mysql", "-p", "<secret>", "--password", "<secret>", "-u", "<secret>", "--lr", "1e-4", "--pw"]
    assert ALICE.scrub_value({"argv": words}) == {"argv": clean}


@pytest.mark.parametrize(
    "word",
    [
        "x",
        "a.",
        "a@",
        "%2f",
        "--",
        "KEY",
        "secret",
        "-secret-",
        "SLURM_JOBID",
        "a://",
        "a://<b>",
        "-u=",
        "-eyJaaaaaaaa",
    ],
)
def test_time_grows_with_the_text_and_not_with_its_square(word: str) -> None:
    scrubber = Scrubber(home="/home/alice", cwd="/home/alice/w", user="alice", hosts=("nodename42",))

    def seconds(letters: int) -> float:
        text = (word * letters)[:letters] + "!"
        begun = time.process_time()
        scrubber.scrub(text)
        return time.process_time() - begun

    # Twenty times the text: twenty times the time, where its square would be four hundred times.
    assert seconds(20_000) < 100 * max(1e-3, *(seconds(1_000) for _ in range(3)))
