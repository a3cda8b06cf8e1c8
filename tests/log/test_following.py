"""A log read while it is written: by another process, through rotation, and with half a line at its end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from nntrain.errors import ConfigError, LogWarning
from nntrain.log import FileTarget, Line, LogReadError, TornLine, follow
from nntrain.log.following import Waiting, watch
from nntrain.log.rendering import rendered
from tests.log.samples import scripted, written

WRITES = """
import sys, time
source, target = sys.argv[1:]
with open(target, "ab", buffering=0) as file:
    for line in open(source, "rb"):
        file.write(line[:20])
        time.sleep(0.002)
        file.write(line[20:])
"""


class Follower:
    """Follows in a thread, and holds what came."""

    def __init__(self, path: Path) -> None:
        self.lines: list[Line] = []
        self.error: Exception | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._follow, args=(path,), daemon=True)
        self._thread.start()

    def _follow(self, path: Path) -> None:
        try:
            for line in follow(path, poll_s=0.01, stop=lambda: self._stopped):
                self.lines.append(line)
        except LogReadError as error:
            self.error = error

    def wait_for(self, count: int) -> None:
        """Wait until so many lines have come."""
        until(lambda: len(self.lines) >= count)

    def ended(self) -> bool:
        """Wait until it has ended by itself."""
        self._thread.join(5)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End it."""
        self._stopped = True
        assert self.ended()


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline, "waited for ten seconds"
        time.sleep(0.005)


def append(path: Path, lines: list[Line]) -> None:
    with path.open("ab", buffering=0) as file:
        for line in lines:
            file.write(rendered(line))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


@pytest.fixture
def followers(path: Path) -> Iterator[Callable[[], Follower]]:
    made: list[Follower] = []

    def make() -> Follower:
        made.append(Follower(path))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_it_follows_another_process_from_before_the_file_is_there_to_the_end_of_the_run(
    path: Path, followers: Callable[[], Follower], tmp_path: Path
) -> None:
    lines = scripted(every=5, nan_at=3, text="größer\n")
    follower = followers()
    source = written(tmp_path / "source.jsonl", lines)
    subprocess.run([sys.executable, "-c", WRITES, str(source), str(path)], check=True)
    assert follower.ended()
    assert [line.fields() for line in follower.lines] == [line.fields() for line in lines]


def test_half_a_line_is_held_back(path: Path, followers: Callable[[], Follower]) -> None:
    lines = scripted()
    follower = followers()
    append(path, lines[:3])
    whole = rendered(lines[3])
    with path.open("ab", buffering=0) as file:
        file.write(whole[:50])
        follower.wait_for(3)
        time.sleep(0.1)
        assert len(follower.lines) == 3
        file.write(whole[50:])
    follower.wait_for(4)
    assert follower.lines == lines[:4]


@pytest.mark.parametrize("how", ["rename", "delete", "cut"])
def test_it_goes_on_where_another_file_comes_to_be(path: Path, followers: Callable[[], Follower], how: str) -> None:
    lines = scripted()
    follower = followers()
    append(path, lines[:5])
    follower.wait_for(5)
    if how == "rename":
        old = path.with_suffix(".jsonl.1")
        subprocess.run(["mv", path, old], check=True)
        append(old, lines[5:7])  # what the writer had open still goes to the old file
    elif how == "delete":
        path.unlink()
        follower_saw_it_go(follower)
    else:
        with path.open("r+b") as file:
            file.truncate()
        follower_saw_it_go(follower)
    begin = 7 if how == "rename" else 5
    append(path, lines[begin:])
    assert follower.ended()
    assert follower.lines == lines


def follower_saw_it_go(follower: Follower) -> None:
    time.sleep(0.1)
    assert follower.error is None


def test_a_file_that_was_cut_and_has_grown_beyond_is_read_from_its_beginning(path: Path) -> None:
    lines = scripted()
    append(path, lines[:5])
    followed = follow(path, poll_s=0.01)
    found = [next(followed) for _ in range(5)]
    before = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate()
    append(path, lines[5:])
    assert path.stat().st_size > before
    assert [*found, *followed] == lines


def test_who_has_the_old_file_open_may_write_to_it_for_a_while(path: Path) -> None:
    """As `logrotate` does with `create`: a new file is there before the writer has looked."""
    lines = scripted()
    append(path, lines[:5])
    old = path.with_suffix(".jsonl.1")
    waits = 0

    def stop() -> bool:
        nonlocal waits
        waits += 1
        if waits == 6:  # asked after five lines, and then before each wait
            path.rename(old)
            append(path, lines[7:])
        elif waits == 7:
            append(old, lines[5:7])
        return waits > 1000

    assert list(follow(path, poll_s=0.01, stop=stop)) == lines


def test_a_training_that_goes_on_cuts_off_what_a_crash_left_and_nothing_is_told_twice(path: Path) -> None:
    lines = scripted()
    append(path, lines[:5])
    with path.open("ab") as file:
        file.write(rendered(lines[5])[:90])
    followed = follow(path, poll_s=0.01)
    found = [next(followed) for _ in range(5)]

    def goes_on() -> None:
        with pytest.warns(LogWarning, match="its 90 bytes are cut off"):
            target = FileTarget(path)
        for line in lines[5:]:
            target.write(line)
        target.close()

    thread = threading.Timer(0.1, goes_on)
    thread.start()
    found += followed
    thread.join()
    assert found == lines


def test_a_last_line_that_stays_torn_is_told(path: Path) -> None:
    lines = scripted()
    append(path, lines[:5])
    with path.open("ab") as file:
        file.write(rendered(lines[5])[:30])
    offset = path.stat().st_size - 30
    for told in (True, False):
        if not path.exists():
            path.with_suffix(".jsonl.1").rename(path)
        torn: list[TornLine] = []
        followed = follow(path, poll_s=0.01, on_torn=torn.append if told else None)
        found = [next(followed) for _ in range(5)]
        path.rename(path.with_suffix(".jsonl.1"))
        append(path, lines[5:])
        if told:
            found += followed
            assert torn == [TornLine(line=6, offset=offset, bytes=30)]
        else:
            with pytest.warns(LogWarning, match="its 30 bytes are skipped"):
                found += followed
        assert found == lines
        path.unlink()


def test_a_pipe_with_a_name_is_followed(path: Path, followers: Callable[[], Follower]) -> None:
    lines = scripted()
    os.mkfifo(path)
    follower = followers()
    time.sleep(0.05)
    with path.open("wb", buffering=0) as file:
        for line in lines[:5]:
            file.write(rendered(line))
        follower.wait_for(5)
        time.sleep(0.05)  # with nothing in it
        file.write(rendered(lines[5])[:50])
        time.sleep(0.05)
        file.write(rendered(lines[5])[50:])
    time.sleep(0.05)  # with nobody who writes to it
    with path.open("wb", buffering=0) as file:
        file.writelines(rendered(line) for line in lines[6:])
    assert follower.ended()
    assert follower.lines == lines


def test_stop_ends_it_while_lines_come(path: Path) -> None:
    append(path, scripted())
    ends = threading.Event()
    found = []
    for line in follow(path, stop=ends.is_set):
        found.append(line)
        if len(found) == 3:
            ends.set()
    assert len(found) == 3


def test_nothing_busy_waits(path: Path) -> None:
    append(path, scripted()[:5])
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.process_time())
        return len(asked) == 5 + 20

    begun = time.monotonic()
    list(follow(path, poll_s=0.02, stop=stop))
    assert time.monotonic() - begun >= 19 * 0.02
    assert asked[-1] - asked[5] < 0.1, "seconds of the processor, of which waiting takes none"


def test_who_watches_is_told_for_how_long_no_line_came_and_whether_there_is_a_file(path: Path) -> None:
    watched = watch(path, poll_s=0.01)
    first = next(watched)
    assert isinstance(first, Waiting)
    assert not first.there
    later = next(watched)
    assert isinstance(later, Waiting)
    assert later.seconds >= first.seconds + 0.01
    append(path, scripted()[:1])
    line = next(one for one in watched if not (isinstance(one, Waiting) and not one.there))
    assert line == scripted()[0]
    after = next(watched)
    assert isinstance(after, Waiting)
    assert after.there
    waited = [one.seconds for one in islice(watched, 3) if isinstance(one, Waiting)]
    assert waited == sorted(waited), "it counts from the last line"
    append(path, scripted()[1:])
    assert [one for one in watched if isinstance(one, Line)] == scripted()[1:]


def test_it_ends_with_the_last_run_that_is_open(path: Path, followers: Callable[[], Follower]) -> None:
    one, other = scripted(0), scripted(1)
    append(path, [*one[:4], *other[:4], *one[4:]])
    follower = followers()
    follower.wait_for(len(one) + 4)
    time.sleep(0.05)
    append(path, other[4:])
    assert follower.ended()
    assert len(follower.lines) == len(one) + len(other)


def test_a_line_that_is_none_is_an_error_that_says_where(path: Path, followers: Callable[[], Follower]) -> None:
    lines = scripted()
    append(path, lines[:2])
    follower = followers()
    follower.wait_for(2)
    offset = path.stat().st_size
    with path.open("ab") as file:
        file.write(rendered(lines[2])[:40] + rendered(lines[3]))
    assert follower.ended()
    assert isinstance(follower.error, LogReadError)
    assert (follower.error.problem, follower.error.line, follower.error.offset) == ("torn", 3, offset)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(LogReadError, match="it cannot be read") as caught:
        list(follow(tmp_path / ("x" * 300)))
    assert caught.value.problem == "unreadable"
    (tmp_path / "page.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(LogReadError, match="NUL byte") as caught:
        list(follow(tmp_path / "page.png"))
    assert caught.value.problem == "binary", "and no newline is waited for"
    with pytest.raises(ConfigError, match="poll_s is 0"):
        next(follow(tmp_path / "run.jsonl", poll_s=0))
