"""Resuming a log reads it from its end: the same run, line number and history as from its beginning."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nntrain import fit_step
from nntrain.log import HistoryReplaced, JsonLog, Line, read, replay
from nntrain.log.last_run import last_run
from nntrain.log.reading import LogReadError
from nntrain.log.rendering import rendered
from nntrain.values.record import evolved
from tests.checkpoint.test_sink import fitted, learner_of
from tests.log.samples import scripted

RUNS = st.lists(
    st.builds(
        lambda epochs, every, ends, rank: (epochs, every, ends, rank),
        st.integers(1, 3),
        st.sampled_from([None, 1, 7]),
        st.sampled_from(["completed", "cancelled", "failed", "running"]),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=3,
)


def lines_of(runs: list[Any], *, mixed: int | None) -> list[Line]:
    """Give the lines of runs, one after the other or mixed as by processes that log at once."""
    each = [
        [evolved(line, rank=rank) for line in scripted(number, epochs=epochs, every=every, ends=ends)]
        for number, (epochs, every, ends, rank) in enumerate(runs)
    ]
    if mixed is None:
        return [line for lines in each for line in lines]
    turns = [number for number, lines in enumerate(each) for _ in lines]
    random.Random(mixed).shuffle(turns)
    return [each[number].pop(0) for number in turns]


@given(
    runs=RUNS, mixed=st.none() | st.integers(0, 9), torn=st.integers(0, 40), block=st.sampled_from([100, 5000, 1 << 20])
)
@settings(max_examples=25, deadline=None)
def test_it_is_what_is_read_from_the_beginning(runs: list[Any], mixed: int | None, torn: int, block: int) -> None:
    lines = lines_of(runs, mixed=mixed)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("nntrain.log.last_run._BLOCK", block)
        path = Path(folder, "run.jsonl")
        path.write_bytes(b"".join(map(rendered, lines)) + rendered(lines[0])[:torn])
        for rank in (0, 1):
            mine = [line for line in lines if line.rank == rank]
            for run_id in (None, *{line.run_id for line in lines}, "0199b9a1-0000-7000-8000-999999999999"):
                expected = next((line for line in reversed(mine) if run_id in {None, line.run_id}), None)
                found = last_run(path, run_id, rank)
                if expected is None:
                    assert found is None
                else:
                    (run,) = replay(line for line in mine if line.run_id == expected.run_id)
                    assert found == (expected, run.history)


def test_a_long_log_is_not_read_to_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history that is too far away is written again, as a whole."""
    path = tmp_path / "run.jsonl"
    with JsonLog(path, every="all") as log:
        state = fitted(log, epochs=9)
    taken: list[int] = []
    plain = os.pread

    def pread(file: int, size: int, offset: int) -> bytes:
        taken.append(size)
        return plain(file, size, offset)

    monkeypatch.setattr("nntrain.log.last_run.os.pread", pread)
    for name, value in (("_BLOCK", 500), ("_FAR", 3000)):
        monkeypatch.setattr(f"nntrain.log.last_run.{name}", value)
    found = last_run(path, None, 0)
    assert sum(taken) < 6000 < path.stat().st_size / 2
    assert found is not None
    assert found.history is None
    with JsonLog(path, resume=True) as log:
        done = fit_step(learner_of(log), state, 1).state
    replaced = [line.event for line in read(path) if isinstance(line.event, HistoryReplaced)]
    assert [(event.kept, len(event.history)) for event in replaced] == [(0, 18)]
    (run,) = replay(read(path))
    assert (run.history, run.missing) == (done.history, 0)


def test_many_phases_are_not_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(map(rendered, scripted(epochs=9))))
    monkeypatch.setattr("nntrain.log.last_run._MANY", 10)
    found = last_run(path, None, 0)
    assert found is not None
    assert (found.last.seq, found.history) == (len(scripted(epochs=9)) - 1, None)


@pytest.mark.parametrize("wrong", [b"not a line", b'{"event":"run_finished"}', b'{"event', b"\0", b""])
def test_a_line_that_is_none_is_told_with_its_place(tmp_path: Path, wrong: bytes) -> None:
    whole = [rendered(line) for line in scripted(epochs=1)]
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join([*whole[:3], wrong + b"\n", *whole[3:]]))
    with pytest.raises(LogReadError) as caught:
        JsonLog(path, resume=True)
    assert (caught.value.line, caught.value.offset) == (4, len(b"".join(whole[:3])))
    with pytest.raises(LogReadError) as also:
        list(read(path))
    assert str(caught.value) == str(also.value)
