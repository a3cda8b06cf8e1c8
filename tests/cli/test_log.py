"""`nntrain log`: check, show, follow and replay, with an exit code for each kind of bad log."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner, Result

from nntrain.cli import nntrain
from nntrain.log import Line, OtherEvent, following
from nntrain.log.rendering import rendered
from tests.log.samples import Script, scripted, written

LINES: Final = scripted(epochs=2, every=10, nan_at=10, text="größer\n\x1b[31m")
WHOLE: Final = b"".join(map(rendered, LINES))
VERSION: Final = rendered(LINES[0]).replace(b"nntrain.event/1", b"nntrain.event/2")
TORN: Final = rendered(LINES[1])[:60] + rendered(LINES[2])
WRONG: Final = rendered(LINES[1]).replace(b'"epochs":2', b'"epochs":"two"')


def called(*arguments: str, text: bytes | None = None) -> Result:
    return CliRunner().invoke(nntrain, ["log", *arguments], input=text)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
    """Start a command, which Ctrl-C reaches also where the tests are a shell's background job, which ignores it."""
    command = [sys.executable, "-m", "nntrain", "log", *arguments]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_whole_log_is_checked_and_counted() -> None:
    Path("run.jsonl").write_bytes(WHOLE)
    done = called("check", "run.jsonl")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert done.stdout == (
        f"run.jsonl: ok, {len(LINES)} events of 1 run, 4 batch_finished, 1 checkpoint_saved, 4 epoch_finished, "
        f"4 epoch_started, 1 fit_finished, 1 fit_started, 1 run_finished, 1 run_started, 1 warning\n"
    )


BAD: Final[dict[str, tuple[bytes, int, str]]] = {
    "breaks the schema": (WHOLE + WRONG, 1, f"line {len(LINES) + 1} (byte offset {len(WHOLE)}): fit_started.epochs: "),
    "empty": (b"", 4, "run.jsonl: it "),
    "binary": (bytes(range(256)) * 20, 5, "line 1 (byte offset 0): "),
    "no UTF-8": (b"\xff\xfe{}\n", 5, "line 1 (byte offset 0): this is no UTF-8"),
    "text": (b"once upon a time\n", 6, "line 1 (byte offset 0): the line is no JSON"),
    "foreign JSON": (b'{"event": "login", "level": "info"}\n', 6, "line 1 (byte offset 0): the line is JSON, but no"),
    "a JSON array": (b"[1, 2]\n", 6, "line 1 (byte offset 0): the line is JSON, but no"),
    "an empty line": (rendered(LINES[0]) + b"\n", 6, "line 2 "),
    "another version": (VERSION, 7, "line 1 (byte offset 0): schema is 'nntrain.event/2'"),
    "torn in the middle": (
        rendered(LINES[0]) + TORN,
        8,
        f"line 2 (byte offset {len(rendered(LINES[0]))}): the line is",
    ),
    "NaN": (rendered(LINES[0]) + rendered(LINES[4]).replace(b'"loss":', b'"loss":NaN,"x":'), 1, "NaN is no JSON"),
}


@pytest.mark.parametrize("command", ["check", "show", "follow", "replay"])
@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_bad_log_has_an_exit_code_and_says_where(command: str, kind: str) -> None:
    content, code, said = BAD[kind]
    if command == "follow" and kind == "empty":
        pytest.skip("an empty file is waited for")
    Path("run.jsonl").write_bytes(content)
    done = called(command, "run.jsonl")
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.output
    if command in {"show", "replay"}:
        assert done.stdout == "", "nothing half-done"
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["check", "show", "replay"])
@pytest.mark.parametrize("path", ["missing.jsonl", "."])
def test_what_cannot_be_read(command: str, path: str) -> None:
    done = called(command, path)
    assert (done.exit_code, done.stdout) == (3, "")
    said = "there is no *.jsonl" if path == "." and command != "check" else "it cannot be read"
    assert done.stderr.startswith(f"Error: {path}: {said}")


def test_bad_usage() -> None:
    assert called("check").exit_code == 2
    assert called("nothing").exit_code == 2


@pytest.mark.parametrize("command", ["check", "show", "replay"])
def test_a_torn_last_line_is_skipped_and_said(command: str) -> None:
    Path("run.jsonl").write_bytes(WHOLE + WHOLE[:30])
    done = called(command, "run.jsonl")
    assert done.exit_code == 0
    assert (
        done.stderr == f"run.jsonl, line {len(LINES) + 1} (byte offset {len(WHOLE)}): torn; its 30 bytes are skipped\n"
    )


def test_every_problem_is_told_up_to_twenty() -> None:
    Path("run.jsonl").write_bytes(WRONG * 25 + WHOLE)
    done = called("check", "run.jsonl")
    assert done.exit_code == 1
    *problems, more = done.stderr.splitlines()
    assert len(problems) == 20
    assert more == "run.jsonl: 5 more problems"
    assert done.stdout.startswith(f"run.jsonl: 25 problems, {len(LINES)} events of 1 run")


def without(*numbers: int) -> list[Line]:
    return [line for number, line in enumerate(LINES) if number not in numbers]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (without(5), "1 line is missing before seq 6 of run"),
        (without(5, 6), "2 lines are missing before seq 7 of run"),
        ([*LINES[:5], LINES[4], *LINES[5:]], "seq 4 of run"),
        (
            [*LINES[:5], LINES[7].model_copy(update={"lost_lines": 2}), *LINES[8:]],
            "2 lines are missing before seq 7 of run 0199b9a1-0000-7000-8000-000000000000 (the log says so)",
        ),
    ],
)
def test_lines_that_are_missing_or_repeated(lines: list[Line], said: str) -> None:
    written(Path("run.jsonl"), lines)
    done = called("check", "run.jsonl")
    assert done.exit_code == 9
    assert said in done.stderr
    assert done.stderr.startswith("run.jsonl, line 6: ")


def test_a_rotated_log_is_one_sequence() -> None:
    written(Path("run.jsonl.1"), LINES[:10])
    written(Path("run.jsonl"), LINES[10:])
    assert called("check", "run.jsonl.1", "run.jsonl").exit_code == 0
    assert called("check", "run.jsonl").exit_code == 0, "what is behind a rotated file is not missing in it"
    assert called("check", "run.jsonl", "run.jsonl.1").exit_code == 9
    (run,) = [json.loads(line) for line in called("replay", "run.jsonl.1", "run.jsonl").stdout.splitlines()]
    assert len(run["history"]) == 4


@pytest.mark.parametrize("order", [("bad.jsonl", "none.jsonl"), ("none.jsonl", "bad.jsonl")])
def test_check_goes_on_behind_what_cannot_be_read_and_has_the_code_of_the_first(order: tuple[str, str]) -> None:
    Path("bad.jsonl").write_bytes(VERSION)
    Path("run.jsonl").write_bytes(WHOLE)
    done = called("check", *order, "run.jsonl")
    assert done.exit_code == {"bad.jsonl": 7, "none.jsonl": 3}[order[0]]
    assert "Error: none.jsonl: it cannot be read" in done.stderr
    assert "schema is 'nntrain.event/2'" in done.stderr
    assert "\nrun.jsonl: ok, " in done.stdout


HOSTILE: Final = "\x1b[31mred\x1b]8;;http://a.example\x07\u202e\x9b2J\x85\u2028\n\r\0"


def with_field(text: str) -> bytes:
    """A line that breaks the schema, and says so in a text of its own."""
    return json.dumps(LINES[-1].fields() | {text: 1}).encode() + b"\n"


@pytest.mark.parametrize("command", ["check", "show", "follow", "replay"])
def test_no_text_of_a_bad_log_is_obeyed(command: str) -> None:
    Path("run.jsonl").write_bytes(WHOLE + with_field(HOSTILE))
    done = called(command, "run.jsonl")
    assert done.exit_code == 1
    (told,) = done.stderr.splitlines()
    assert "\\x1b[31mred\\x1b]8;;http://a.example\\x07\\u202e\\x9b2J\\x85\\u2028\\n\\x0d\\x00: Extra inputs" in told
    assert told.isprintable()
    Path("run.jsonl").write_bytes(WHOLE + with_field("x" * 1_000_000))
    assert len(called(command, "run.jsonl").stderr) < 1500


def test_names_of_events_are_shown_and_not_obeyed() -> None:
    script = Script()
    for number in range(30):
        script.say(OtherEvent(event=f"acme.{number:02d}"))
    script.say(OtherEvent(event="acme." + HOSTILE + "\ud800"))
    script.say(OtherEvent(event="acme." + "x" * 1_000_000))
    with Path("run.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line.fields() | {"event": line.event.event}) + "\n" for line in script.lines)
    done = called("check", "run.jsonl")
    assert done.exit_code == 0
    (told,) = done.stdout.splitlines()
    assert told.isprintable()
    assert len(told) < 1000
    assert told.endswith(", 12 more names")
    assert "1 acme.\\x1b[31mred" in told


@pytest.mark.sweep
def test_a_name_that_is_no_text_is_shown() -> None:
    name = b"r\xe9.jsonl"
    Path(os.fsdecode(name)).write_bytes(WHOLE + WHOLE[:30])
    command: list[str | bytes] = [sys.executable, "-m", "nntrain", "log", "check", name, b"none\x1b[31m"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 3
    assert done.stdout.startswith(rb"r\udce9.jsonl: ok")
    torn, missing = done.stderr.splitlines()
    assert torn.startswith(rb"r\udce9.jsonl, line ")
    assert missing.startswith(rb"Error: none\x1b[31m: it cannot be read")


@pytest.mark.sweep
def test_an_output_that_has_few_characters() -> None:
    script = Script()
    script.say(OtherEvent(event="acme.größe"))
    written(Path("run.jsonl"), script.lines)
    command = [sys.executable, "-m", "nntrain", "log", "check", "run.jsonl"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"1 acme.gr\xf6\xdfe" in done.stdout


def test_standard_input() -> None:
    assert called("check", "-", text=WHOLE).stdout.startswith("-: ok, ")
    for command in ("show", "follow", "replay"):
        Path("run.jsonl").write_bytes(WHOLE)
        assert called(command, "-", text=WHOLE).stdout == called(command, "run.jsonl").stdout != ""


def test_replay_is_strict_json_for_pipelines() -> None:
    lines = [*scripted(0, nan_at=20), *scripted(1, ends="failed"), *scripted(2, ends="cancelled")]
    written(Path("run.jsonl"), lines)
    done = called("replay", "run.jsonl")
    assert done.exit_code == 0

    def refused(constant: str) -> float:
        raise AssertionError(constant)

    runs = [json.loads(line, parse_constant=refused) for line in done.stdout.splitlines()]
    assert [run["outcome"] for run in runs] == ["completed", "failed", "cancelled"]
    assert [len(run["history"]) for run in runs] == [6, 5, 5]
    assert runs[0]["history"][0]["loss"] is None
    assert runs[0]["nonfinite"] | {"history.0.loss": "nan", "history.0.metrics.metric": "nan"} == runs[0]["nonfinite"]
    assert math.isfinite(runs[1]["history"][0]["loss"])
    assert "nonfinite" not in runs[1]


def test_show_shows_what_a_person_asks_for() -> None:
    written(Path("run.jsonl"), scripted(ends="cancelled", text="no better"))
    done = called("show", "run.jsonl")
    assert done.exit_code == 0
    for word in ("0199b9a1", "Sequential", "loss", "metric", "EarlyStopping", "no better", "cancelled"):
        assert word in done.stdout
    assert "\x1b" not in done.stdout


def test_follow_shows_a_run_while_it_is_written() -> None:
    process = start("follow", "run.jsonl")
    time.sleep(0.5)
    with Path("run.jsonl").open("ab", buffering=0) as file:
        for line in LINES:
            file.write(rendered(line))
            time.sleep(0.01)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out.count(b"train") >= 2
    assert b"\x1b" not in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "run.jsonl"),
        pytest.param(("replay", "run.jsonl"), marks=pytest.mark.sweep),
        pytest.param(("follow", "run.jsonl"), marks=pytest.mark.sweep),
    ],
)
def test_a_reader_that_goes_away_ends_it_quietly(arguments: tuple[str, ...]) -> None:
    written(Path("run.jsonl"), [line for number in range(9) for line in scripted(number, epochs=200)])
    process = start(*arguments)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141, "as of a process that SIGPIPE ends, and not that of a bad log"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.sweep
def test_a_full_disk_is_told_in_a_line() -> None:
    Path("run.jsonl").write_bytes(WHOLE)
    command = [sys.executable, "-m", "nntrain", "log", "show", "run.jsonl"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.stderr == b"Error: the output cannot be written (No space left on device).\n"
    assert done.returncode == 10


def test_follow_shows_what_comes_through_a_pipe_as_it_comes() -> None:
    process = start("follow", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"".join(map(rendered, LINES[:8])))
    process.stdin.flush()
    begun = b""
    while b"warning" not in begun:
        begun += os.read(process.stdout.fileno(), 1000)
    assert process.poll() is None
    out, err = process.communicate(b"".join(map(rendered, LINES[8:])) + b'{"event', timeout=60)
    assert process.returncode == 0
    assert err == f"-, line {len(LINES) + 1} (byte offset {len(WHOLE)}): torn; its 7 bytes are skipped\n".encode()
    assert b"completed  2 of 2 epochs" in begun + out


def test_follow_says_which_file_is_not_there_and_which_was_probably_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "watch", lambda *_, **__: iter(()))
    written(Path("run.jsonl"), LINES)
    said = called("follow", "rum.jsonl")
    assert said.stderr == "rum.jsonl is not there yet. Probably meant: run.jsonl. Ctrl-C ends the wait.\n"
    assert called("follow", "run.jsonl").stderr == ""


def test_ctrl_c_ends_follow_quietly() -> None:
    written(Path("run.jsonl"), LINES[:5])
    process = start("follow", "run.jsonl")
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
