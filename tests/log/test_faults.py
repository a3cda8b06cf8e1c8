"""Faults, each for real: a kill, a full disk, a reader that goes away, a deleted file, a clock that is set back.

None of them ends a training, none passes in silence, and none tears a line but the last.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from nntrain import Completed, advance, fit_step
from nntrain.errors import LogWarning, SinkWarning
from nntrain.log import JsonLog, Line, Target, live_run, read, replay, targets
from nntrain.log.line import parse_line
from tests.log.trained import (
    BATCHES,
    END,
    EPOCH,
    FIT,
    At,
    Pads,
    by_run,
    counts,
    learner_of,
    lines_of,
    names,
    strictly,
)
from tests.log.warm import Warm

SEQ: Final = struct.Struct("<q")

# -- a kill -----------------------------------------------------------------------------------------------------------


class Acknowledges(Target):
    """Says of each line that the target before it has flushed: it is to be there whatever comes."""

    def write(self, line: Line, /) -> None:
        os.write(1, SEQ.pack(line.seq))


KILLS: Final = 200


def trains_until_it_is_killed(path: str) -> None:
    with JsonLog(path, Acknowledges(), every="all") as log:
        learner_of(log, batches=BATCHES * 40, subs=[Pads(200_000)]).fit(10**6, print_stats=False)


def a_while(path: Path, number: int, draw: random.Random) -> None:
    """Wait: a third from the process's beginning, a third from the first line, a third from a later one."""
    wanted = {0: None, 1: b"run_started", 2: b"epoch_finished" if number % 9 == 2 else b"batch_finished"}[number % 3]
    deadline = time.monotonic() + 30
    while wanted is not None and not (path.exists() and wanted in path.read_bytes()):
        assert time.monotonic() < deadline, f"{wanted!r} was waited for"
        time.sleep(0.0005)
    time.sleep(draw.uniform(0.0, (0.05, 0.005, 0.03)[number % 3]))


def acknowledged(path: Path) -> list[int]:
    content = path.read_bytes() if path.exists() else b""
    return [number for (number,) in SEQ.iter_unpack(content[: len(content) // SEQ.size * SEQ.size])]


@pytest.mark.sweep
def test_a_kill_at_any_moment_tears_at_most_the_last_line_and_loses_none_that_was_flushed(
    tmp_path: Path, warm: Warm
) -> None:
    kinds: Counter[str] = Counter()
    seen: set[str] = set()
    draw = random.Random(20260101)
    files: list[Path] = []
    for number in range(KILLS):
        folder = tmp_path / str(number)
        path = folder / "run.jsonl"
        child = warm.start(trains_until_it_is_killed, folder, str(path))
        a_while(path, number, draw)
        assert child.kill() == -signal.SIGKILL, child.stderr.read_text()
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        lines = strictly(whole)
        assert counts(lines) == list(range(len(lines)))
        flushed = acknowledged(child.stdout)
        assert flushed == list(range(len(flushed)))
        assert len(lines) >= len(flushed), "a line was lost that was flushed"
        kinds["torn"] += whole != content
        kinds[lines[-1]["event"] if lines else "nothing"] += 1
        seen |= set(names(lines))
        if path.exists():
            files.append(path)
    assert kinds["nothing"] <= KILLS // 3 + 1, "the others were killed behind a line"
    print(f"killed at: {dict(kinds)}")
    assert {"nothing", "tests.padding", "batch_finished"} <= set(kinds), kinds
    assert "epoch_finished" in seen
    assert go_on(files, draw) >= KILLS // 40


def go_on(files: list[Path], draw: random.Random) -> int:
    """Go on with killed runs: some of them, some of these cut off as by a machine's crash, and all that are torn.

    Gives how many had begun, and so went on.
    """
    learner = learner_of()
    state = learner.init(epochs=2)
    while state.progress.step < 4:
        state = advance(learner, state).state
    continued = 0
    for number, path in enumerate(files):
        content = path.read_bytes()
        if number % 20 == 0 and content:
            content = content[: -draw.randint(1, min(60, len(content)))]
            path.write_bytes(content)
        begun, torn = content.count(b"\n"), not content.endswith(b"\n") and content != b""
        if number % 10 > 1 and not torn:
            continue
        cut: list[object] = []
        assert len(list(read(path, on_torn=cut.append))) == begun
        assert len(cut) == torn
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with JsonLog(path, resume=True) as log:
                outcome = fit_step(learner_of(log), state)
        assert [one.category for one in warned] == [LogWarning] * torn
        assert outcome.sink_failures == {}
        ((_, lines),) = by_run(lines_of(path)).items()
        assert counts(lines) == list(range(len(lines)))
        assert [line["elapsed_s"] for line in lines] == sorted(line["elapsed_s"] for line in lines)
        if begun:
            assert names(lines)[begun] == "fit_started", "the run is gone on with"
            assert lines[begun]["resumed"]
            continued += 1
        (run,) = replay(read(path))
        assert (run.missing, run.outcome) == (0, "completed")
        assert run.history == outcome.state.history
    return continued


# -- a full disk ------------------------------------------------------------------------------------------------------


def fills_a_limit(path: str, back_at: int) -> None:
    """Train with a file that may not grow beyond a limit, until the limit is raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_011, hard))

    def raised() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    with JsonLog(path, every="all") as log:
        outcome = learner_of(log, subs=[At(**{f"epoch_{back_at}": raised})]).fit(30, print_stats=False)
    completed = isinstance(outcome, Completed)
    print(json.dumps({"completed": completed, "failures": outcome.sink_failures["JsonLog"], "lost": log.lost}))


def gaps(lines: list[dict[str, Any]]) -> list[int]:
    """Give how many lines are lost where some are, as the numbers say, which is to be what the lines say."""
    found = [now["seq"] - before["seq"] - 1 for before, now in pairwise(lines)]
    assert [line.get("lost_lines", 0) for line in lines[1:]] == found
    return [gap for gap in found if gap]


def test_a_file_that_may_not_grow_costs_lines_that_are_counted_until_it_may(tmp_path: Path, warm: Warm) -> None:
    child = warm.start(fills_a_limit, tmp_path, str(tmp_path / "run.jsonl"), 20)
    assert child.wait() == 0, child.stderr.read_text()
    said = json.loads(child.stdout.read_text())
    lines = lines_of(tmp_path / "run.jsonl")
    assert gaps(lines) == [said["lost"]]
    assert said["completed"]
    assert said["failures"] == said["lost"] > 50
    warned = child.stderr.read_text()
    assert warned.count("Warning: ") == 1
    assert "SinkWarning: sink JsonLog failed and the training goes on" in warned
    assert "bytes fitted" in warned, "the line that the limit cut"
    (run,) = replay(read(tmp_path / "run.jsonl"))
    assert [(past.epoch, past.phase) for past in run.history] == [(e, p) for e in range(30) for p in ("train", "eval")]
    assert (run.outcome, run.missing) == ("completed", said["lost"])


def test_a_file_that_may_never_grow_again_ends_in_a_whole_line(tmp_path: Path, warm: Warm) -> None:
    child = warm.start(fills_a_limit, tmp_path, str(tmp_path / "run.jsonl"), 99)
    assert child.wait() == 0, child.stderr.read_text()
    said = json.loads(child.stdout.read_text())
    content = (tmp_path / "run.jsonl").read_bytes()
    assert 19_000 < len(content) < 20_011
    assert said["failures"] == said["lost"] == 2 + 30 * (4 + 5) + 2 - len(strictly(content))
    assert child.stderr.read_text().count("Warning: ") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 96 KiB, where this process may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k,mode=0700", "tmpfs", str(place)]
    tried = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if tried is None or tried.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {tried.stderr.strip() if tried else 'no mount'}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_costs_lines_that_are_counted_until_there_is_room(small_disk: Path) -> None:
    path, other = small_disk / "run.jsonl", small_disk / "other"
    other.write_bytes(bytes(60_000))
    with JsonLog(path, every="all") as log:
        learner = learner_of(log, subs=[Pads(1111), At(epoch_20=other.unlink)])
        with pytest.warns(SinkWarning) as warned:
            outcome = learner.fit(25, print_stats=False)
    assert len(warned) == 1
    assert isinstance(outcome, Completed)
    assert outcome.sink_failures["JsonLog"] == log.lost > 20
    lines = lines_of(path)
    assert gaps(lines)[0] > 20
    assert sum(gaps(lines)) == log.lost
    (run,) = replay(read(path))
    assert run.history == outcome.state.history


def test_what_cannot_be_taken_back_is_ended_by_the_next_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process wrote behind the part that fitted, that part stays: the lines after it are whole."""
    path = tmp_path / "run.jsonl"
    write = os.write
    torn: list[bytes] = []

    def scarce(file: int, content: bytes) -> int:
        if len(content) > 50 and 4 <= len(torn) + len(seen) <= 6:
            part = content[: [9, 1, 30][len(torn)]]
            torn.append(part)
            write(file, part)
            return len(part)
        seen.append(content)
        return write(file, content)

    seen: list[bytes] = []

    def kept(file: int, length: int) -> None:
        raise OSError(errno.EIO, "cannot be cut")

    with JsonLog(path) as log:
        monkeypatch.setattr(os, "write", scarce)
        monkeypatch.setattr(os, "ftruncate", kept)
        with pytest.warns(SinkWarning):
            outcome = learner_of(log).fit(3, print_stats=False)
        monkeypatch.undo()
    assert len(torn) == 3
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    good: list[Line] = []
    bad: list[bytes] = []
    for line in lines:
        try:
            good.append(parse_line(line.decode()))
        except ValueError:
            bad.append(line)
    assert bad == [torn[0], torn[2]], "the second part was the newline alone, which is not said twice"
    assert good[-1].event.event == "run_finished"
    assert sum(line.lost_lines or 0 for line in good) == log.lost == outcome.sink_failures["JsonLog"] == 3


# -- a reader that goes away, or is slow -------------------------------------------------------------------------------


@pytest.mark.sweep
def test_head_takes_the_first_line_of_a_training_and_the_training_goes_on(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m nntrain fit --epochs 3 --log - --log-every all --quiet | head -1; "
    done = subprocess.run(
        ["bash", "-c", command + 'exit "${PIPESTATUS[0]}"'],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    said = done.stderr.decode()
    assert done.returncode == 0, said
    (line,) = strictly(done.stdout)
    assert line["event"] == "run_started"
    assert said.count("Warning: ") == 1
    assert "Broken pipe" in said
    assert int(said.rsplit("(", 1)[1].split(" lines lost)")[0]) > 100
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_a_reader_that_closes_the_pipe_costs_its_lines_and_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        log = JsonLog(stream, path)
        learner = learner_of(log, subs=[At(epoch_1=lambda: os.close(reading))])
        with log, pytest.warns(SinkWarning, match="Broken pipe") as warned:
            outcome = learner.fit(3, print_stats=False)
    assert isinstance(outcome, Completed)
    assert len(warned) == 1
    lines = lines_of(path)
    assert names(lines) == [*FIT, *EPOCH * 6, *END]
    assert outcome.sink_failures["JsonLog"] == log.lost == len(lines) - 6
    assert gaps(lines) == [], "the file's lines are none of those that were lost"


def slow_reader(reading: int, taken: list[bytes], pause: float) -> threading.Thread:
    """Read little, and then rest."""

    def reads() -> None:
        while content := os.read(reading, 50_000):
            taken.append(content)
            time.sleep(pause)

    thread = threading.Thread(target=reads)
    thread.start()
    return thread


@pytest.mark.parametrize("blocking", [True, False])
def test_a_slow_reader_of_a_small_pipe_gets_lines_of_a_megabyte_whole(tmp_path: Path, blocking: bool) -> None:
    path = tmp_path / "run.jsonl"
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, blocking)
    taken: list[bytes] = []
    reader = slow_reader(reading, taken, 0.0005)
    with os.fdopen(writing, "w", encoding="utf-8") as stream, JsonLog(stream, path) as log:
        outcome = learner_of(log, subs=[Pads(1_000_000)]).fit(1, print_stats=False)
    reader.join()
    os.close(reading)
    assert outcome.sink_failures == {}
    assert len(path.read_bytes()) > 2_000_000
    assert b"".join(taken) == path.read_bytes()


def test_a_full_pipe_that_must_not_be_waited_for_costs_lines_and_the_next_ones_are_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file's number is a high one, which not every way of waiting can take."""
    monkeypatch.setattr(targets, "_WAIT_S", 0.01)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft < 1500:
        pytest.skip(f"no more than {soft} files can be open here")
    reading, low = os.pipe()
    writing = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1200)
    os.close(low)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    taken: list[bytes] = []
    readers: list[threading.Thread] = []

    def wakes() -> None:
        monkeypatch.setattr(targets, "_WAIT_S", 5.0)
        readers.append(slow_reader(reading, taken, 0.0))

    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        log = JsonLog(stream)
        learner = learner_of(log, subs=[Pads(6000), At(epoch_10=wakes)])
        with log, pytest.warns(SinkWarning, match="bytes went through") as warned:
            outcome = learner.fit(15, print_stats=False)
    readers[0].join()
    os.close(reading)
    assert len(warned) == 1
    assert isinstance(outcome, Completed)
    *lines, end = b"".join(taken).split(b"\n")
    assert end == b""
    good: list[Line] = []
    bad: list[bytes] = []
    for line in lines:
        try:
            good.append(parse_line(line.decode()))
        except ValueError:
            bad.append(line)
    assert len(bad) == 1
    assert bad[0].startswith(b'{"event":"tests.padding",')
    assert sum(line.lost_lines or 0 for line in good) == log.lost
    assert outcome.sink_failures["JsonLog"] == log.lost > 10
    assert good[-1].event.event == "run_finished"


# -- a file, or a folder, that is deleted ------------------------------------------------------------------------------


def test_a_file_that_is_deleted_is_followed_by_a_new_one_and_a_warning_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JsonLog(path) as log, pytest.warns(LogWarning, match=r"run\.jsonl was deleted, .* goes on in a new") as warned:
        outcome = learner_of(log, subs=[At(epoch_2=path.unlink)]).fit(4, print_stats=False)
    assert len(warned) == 1
    assert outcome.sink_failures == {}
    lines = lines_of(path)
    assert counts(lines) == list(range(10, 20))
    assert names(lines) == [*EPOCH * 4, *END]


def test_a_file_that_is_deleted_before_anything_was_in_it_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with JsonLog(path) as log:
            path.unlink()
            outcome = learner_of(log).fit(1, print_stats=False)
    assert outcome.sink_failures == {}
    assert len(lines_of(path)) == 8


@pytest.mark.parametrize("back_at", [4, 99])
def test_while_its_folder_is_gone_lines_are_lost_and_counted(tmp_path: Path, back_at: int) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    deeds: dict[str, Callable[[], object]] = {
        "epoch_2": lambda: shutil.rmtree(folder),
        f"epoch_{back_at}": folder.mkdir,
    }
    with JsonLog(folder / "run.jsonl") as log, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        outcome = learner_of(log, subs=[At(**deeds)]).fit(6, print_stats=False)
    assert isinstance(outcome, Completed)
    failed = [str(one.message) for one in warned if one.category is SinkWarning]
    assert len(failed) == 1
    assert "No such file or directory" in failed[0]
    deleted = [str(one.message) for one in warned if one.category is LogWarning]
    assert outcome.sink_failures["JsonLog"] == log.lost
    if back_at == 99:
        assert log.lost == 4 * 4 + 2, "the last two are told at once, and there is nowhere to write either"
        assert deleted == []
        assert not folder.exists()
        return
    assert log.lost == 8
    assert len(deleted) == 1
    lines = lines_of(folder / "run.jsonl")
    assert lines[0]["seq"] == 18
    assert lines[0]["lost_lines"] == 8
    assert counts(lines) == list(range(18, 18 + len(lines)))
    (run,) = replay(read(folder / "run.jsonl"))
    assert run.history == outcome.state.history, "what lies behind is told anew"


def test_a_folder_that_is_renamed_takes_its_file_along(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    with JsonLog(folder / "run.jsonl") as log, warnings.catch_warnings():
        warnings.simplefilter("error")
        deed = At(epoch_1=lambda: folder.rename(tmp_path / "kept"))
        outcome = learner_of(log, subs=[deed]).fit(3, print_stats=False)
    assert outcome.sink_failures == {}
    assert counts(lines_of(tmp_path / "kept" / "run.jsonl")) == list(range(16))


def test_something_else_that_is_put_in_its_place_is_not_written_to(tmp_path: Path) -> None:
    path, other = tmp_path / "run.jsonl", tmp_path / "thesis.tex"
    other.write_text("no log, and no newline at its end")
    with JsonLog(path) as log, pytest.warns(SinkWarning, match="no line of a log"):
        outcome = learner_of(log, subs=[At(epoch_1=lambda: other.replace(path))]).fit(2, print_stats=False)
    assert path.read_text() == "no log, and no newline at its end"
    assert outcome.sink_failures["JsonLog"] == log.lost == 6


def test_a_change_of_folder_does_not_move_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with JsonLog("run.jsonl") as log:
        deed = At(epoch_1=lambda: os.chdir(tmp_path / "elsewhere"))
        learner_of(log, subs=[deed]).fit(2, print_stats=False)
    assert len(lines_of(tmp_path / "run.jsonl")) == 12
    assert list((tmp_path / "elsewhere").iterdir()) == []


# -- a clock that is set back ------------------------------------------------------------------------------------------


class SetBack(datetime):
    """A clock that is set back by an hour, again and again."""

    reads = 0

    @classmethod
    def _off(cls) -> timedelta:
        SetBack.reads += 1
        return timedelta(hours=SetBack.reads % 3)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) - cls._off()


@pytest.mark.parametrize("every", [None, "all"])
def test_a_clock_that_is_set_back_moves_timestamps_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: Literal["all"] | None
) -> None:
    path = tmp_path / "run.jsonl"
    real = time.time
    with JsonLog(path, every=every) as log:
        monkeypatch.setattr(live_run, "datetime", SetBack)
        monkeypatch.setattr(time, "time", lambda: real() - SetBack._off().total_seconds())
        learner_of(log).fit(5, print_stats=False)
        monkeypatch.undo()
    lines = list(read(path))
    stamps = [line.timestamp for line in lines]
    assert stamps != sorted(stamps)
    assert datetime.now(UTC) - timedelta(hours=3) < min(stamps) < max(stamps) <= datetime.now(UTC)
    elapsed = [line.elapsed_s for line in lines]
    assert elapsed == sorted(elapsed)
    assert 0 <= elapsed[-1] < 60
    assert [line.seq for line in lines] == list(range(len(lines)))
    (run,) = replay(lines)
    assert all(0 <= past.seconds < 60 for past in run.history)
