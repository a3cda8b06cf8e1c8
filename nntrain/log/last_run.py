"""The last run of a log, read from the log's end: however long the log is, it takes a moment and little memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from nntrain.log.events import HistoryReplaced, RunStarted
from nntrain.log.line import LINE_START, Line
from nntrain.log.reading import LONGEST, BadLine, LogReadError, line_of, unreadable
from nntrain.log.replay import RunFold
from nntrain.values.history import EpochStats

_BLOCK: Final = 1 << 20
_FAR: Final = 32 << 20
"""How many bytes before a run's last line its history is looked for."""
_MANY: Final = 2000
"""In how many lines, batches aside, it is looked for."""
_BATCH: Final = f'{LINE_START}:"batch_finished"'.encode()


class LastRun(NamedTuple):
    """A run's last line, and the history that its lines tell; None where that begins too far from the end."""

    last: Line
    history: tuple[EpochStats, ...] | None


def last_run(path: Path, run_id: str | None, rank: int) -> LastRun | None:
    """Return the last run of a rank, or the run `run_id`; None where a log has none.

    Lines of batches are skipped unread, but for the last. Raises `LogReadError` for another invalid line that is met.
    """
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return _last_run(path, file.fileno(), run_id, rank)
    except OSError as error:
        if isinstance(error, LogReadError):
            raise
        raise unreadable(path, error) from error


def _last_run(path: Path, file: int, run_id: str | None, rank: int) -> LastRun | None:
    found: list[Line] = []
    first = 0
    its_id, its_rank = (run_id or "").encode(), f'"rank":{rank},'.encode()
    for offset, content in _backwards(path, file):
        if content.startswith(_BATCH) and (found or its_id not in content or its_rank not in content):
            if found and first - offset > _FAR:
                break
            continue
        line = _parsed(path, file, offset, content)
        if line.rank != rank or line.run_id != (run_id or line.run_id):
            continue
        run_id, first = line.run_id, first or offset
        found.append(line)
        if isinstance(line.event, RunStarted) or (isinstance(line.event, HistoryReplaced) and not line.event.kept):
            fold = RunFold(line, keep_lines=False)
            for one in reversed(found):
                fold.add(one)
            return LastRun(found[0], fold.run().history)
        if len(found) > _MANY:
            break
    return LastRun(found[0], None) if found else None


def _backwards(path: Path, file: int) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of a file, the last first, each with its byte offset and without its newline."""
    begin = os.fstat(file).st_size
    rest, torn = b"", True  # what comes after the last newline is no line yet
    while begin:
        end, begin = begin, max(0, begin - _BLOCK)
        head, *lines = (os.pread(file, end - begin, begin) + rest).split(b"\n")
        place = end + len(rest)
        for content in reversed(lines):
            place -= len(content)
            if not torn:
                yield place, content
            torn = False
            place -= 1
        rest = head
        if len(rest) > LONGEST:
            raise LogReadError(str(path), "binary", f"more than {LONGEST} bytes without a newline: this is no log")
    if not torn:
        yield 0, rest


def _parsed(path: Path, file: int, offset: int, content: bytes) -> Line:
    found = line_of(content + b"\n", 0, offset)
    if isinstance(found, Line):
        return found
    number, place = 1, 0
    while place < offset:
        block = os.pread(file, min(_BLOCK, offset - place), place)
        number, place = number + block.count(b"\n"), place + len(block)
    if isinstance(found, BadLine):
        raise LogReadError(str(path), found.problem, found.reason, number, offset)
    raise LogReadError(str(path), "torn", "the line is torn", number, offset)
