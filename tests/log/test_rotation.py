"""Rotation by the tool that does it: a training goes on writing while `logrotate` takes its file away."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from nntrain import CancelFit, Subscriber, TrainState
from nntrain.log import BadLine, FileTarget, JsonLog, Line, scan
from nntrain.subscribers.protocol import AnswerEpoch
from tests.log.samples import scripted
from tests.log.trained import Batch, Pads, counts, learner_of, lines_of, names

LOGROTATE: Final = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin:/sbin")
TIMES: Final = 12


class Ends(Subscriber[Batch]):
    """Ends the fit when it is told to."""

    def __init__(self) -> None:
        self.now = threading.Event()

    def before_epoch(self, state: TrainState) -> AnswerEpoch:
        return CancelFit(reason="enough") if self.now.is_set() else state


@contextmanager
def training(log: JsonLog) -> Iterator[dict[str, object]]:
    """Train in a thread for as long as the block runs; afterwards there are the failures of its sinks."""
    ends, failures = Ends(), dict[str, object]()

    def trains() -> None:
        failures.update(learner_of(log, subs=[ends, Pads(3000)]).fit(10**6, print_stats=False).sink_failures)

    thread = threading.Thread(target=trains)
    thread.start()
    try:
        yield failures
    finally:
        ends.now.set()
        thread.join()


def rotated(path: Path, directives: str) -> None:
    """Have `logrotate` rotate, really."""
    if LOGROTATE is None:
        pytest.skip("no logrotate on this machine")
    config = path.parent / "logrotate.conf"
    config.write_text(f'"{path}" {{\n  rotate 1000\n  missingok\n  nomail\n  {directives}\n}}\n')
    config.chmod(0o600)
    command = [LOGROTATE, "--force", "--state", str(path.parent / "state"), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "already exists, renaming" in done.stderr, done.stderr


def files_of(path: Path) -> list[Path]:
    """Give the files that a log was written to, the oldest first."""
    numbers = sorted((int(one.suffix[1:]) for one in path.parent.glob(f"{path.name}.*")), reverse=True)
    return [*(path.with_name(f"{path.name}.{number}") for number in numbers), path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that logrotate takes to be a safe one."""
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.mark.parametrize("mode", ["create 0640", "nocreate"])
def test_no_line_is_lost_or_doubled_when_logrotate_renames_the_file(folder: Path, mode: str) -> None:
    path = folder / "run.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with JsonLog(path, every="all") as log, training(log) as failures:
            for _ in range(TIMES):
                before = time.monotonic()
                while not (path.exists() and path.stat().st_size) and time.monotonic() - before < 10:
                    time.sleep(0.002)
                time.sleep(0.02)
                rotated(path, mode)
            time.sleep(0.1)
    assert failures == {}
    assert log.lost == 0
    files = files_of(path)
    assert len(files) == TIMES + 1
    assert not list(folder.glob("*.backup")), "logrotate found a file where it was about to make one"
    parts = [lines_of(file) for file in files]
    assert all(parts), "each was written to"
    lines = [line for part in parts for line in part]
    assert counts(lines) == list(range(len(lines)))
    assert len({line["run_id"] for line in lines}) == 1
    assert names(lines)[-2:] == ["fit_finished", "run_finished"]
    if mode.startswith("create"):
        assert path.stat().st_mode & 0o777 == 0o640, "the file is the one that logrotate made"


def test_nothing_is_torn_when_logrotate_copies_the_file_and_empties_it(folder: Path) -> None:
    """Lines between the copy and the emptying are lost by it, and a copy may end in the middle of a line."""
    path = folder / "run.jsonl"
    with JsonLog(path, every="all") as log, training(log) as failures:
        for _ in range(TIMES):
            time.sleep(0.05)
            rotated(path, "copytruncate")
        time.sleep(0.1)
    assert failures == {}
    files = files_of(path)
    assert len(files) == TIMES + 1
    last = -1
    for file in files:
        found = list(scan(file))
        assert not [one for one in found if isinstance(one, BadLine)]
        seqs = [one.seq for one in found if isinstance(one, Line)]
        assert seqs
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        assert seqs[0] > last
        last = seqs[-1]
    assert b"\0" not in path.read_bytes(), (
        "what comes next is written at the beginning, and not where it would have been"
    )
    assert names(lines_of(path))[-1] == "run_finished"


def test_a_file_that_is_made_a_moment_after_the_rename_is_the_one_that_is_gone_on_in(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    target = FileTarget(path)
    lines = scripted()
    target.write(lines[0])
    target.flush()
    path.rename(tmp_path / "run.jsonl.1")
    made: list[int] = []

    def makes() -> None:
        time.sleep(0.015)
        made.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    thread = threading.Thread(target=makes)
    thread.start()
    target.write(lines[1])
    thread.join()
    target.close()
    assert os.fstat(made[0]).st_size > 0
    os.close(made[0])
    assert [len(lines_of(file)) for file in files_of(path)] == [1, 1]


def test_where_no_file_can_be_made_after_the_rename_the_lines_go_on_in_the_renamed_one(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    target = FileTarget(path)
    one, two, three, four = scripted()[:4]
    target.write(one)
    target.flush()
    path.rename(tmp_path / "run.jsonl.1")
    path.mkdir()
    target.write(two)
    target.write(three)
    target.flush()
    path.rmdir()
    target.write(four)
    target.close()
    assert [len(lines_of(file)) for file in files_of(path)] == [3, 1]
