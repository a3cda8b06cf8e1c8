"""Many processes and one log: no line is torn, and each process tells of runs of its own."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from torch.utils.data import DataLoader, Dataset

from nntrain import DataLoaders
from nntrain.log import FileTarget, JsonLog, Line, Target, read, replay
from nntrain.values.record import evolved
from tests.log.samples import scripted
from tests.log.trained import (
    BATCHES,
    END,
    FIT,
    At,
    Batch,
    Padding,
    Pads,
    by_run,
    counts,
    learner_of,
    lines_of,
    names,
)
from tests.log.warm import Child, Warm

# -- two processes ----------------------------------------------------------------------------------------------------


def when_all_are_there(go: str) -> None:
    """Wait for the file that says so."""
    while not Path(go).exists():
        time.sleep(0.0005)


def trains_500_batches_an_epoch(path: str, go: str, seed: int, epochs: int) -> None:
    with JsonLog(path, every="all", sync="never") as log:
        learner = learner_of(log, batches=BATCHES[:1] * 500)
        when_all_are_there(go)
        learner.fit(epochs, seed=seed, print_stats=False)


def started(warm: Warm, tmp_path: Path, function: Callable[..., None], path: Path, *more: int) -> list[Child]:
    """Start two processes at once."""
    children = [warm.start(function, tmp_path / str(n), str(path), str(tmp_path / "go"), n, *more) for n in range(2)]
    (tmp_path / "go").touch()
    return children


def turns(lines: list[dict[str, Any]]) -> int:
    """Count how often one run's line comes behind another's."""
    return sum(one["run_id"] != other["run_id"] for one, other in pairwise(lines))


@pytest.mark.sweep
@pytest.mark.parametrize("epochs", [4, 20], ids=["two thousand", "ten thousand"])
def test_two_processes_write_thousands_of_lines_each_into_one_file_and_none_is_torn(
    tmp_path: Path, warm: Warm, epochs: int
) -> None:
    path = tmp_path / "run.jsonl"
    for child in started(warm, tmp_path, trains_500_batches_an_epoch, path, epochs):
        assert child.wait() == 0, child.stderr.read_text()
        assert child.stderr.read_text() == ""
    lines = lines_of(path)
    runs = by_run(lines)
    assert len(runs) == 2
    for run in runs.values():
        assert counts(run) == list(range(epochs * (500 + 2 + 4) + 4))
        assert sum(line["event"] == "batch_finished" and line["phase"] == "train" for line in run) == epochs * 500
    assert turns(lines) > 2 * epochs, "they wrote at the same time"


LENGTHS: Final = (100, 5_000, 70_000, 400_000, 3_000)


def writes_long_lines(path: str, go: str, seed: int) -> None:
    with JsonLog(path, sync="never") as log:
        when_all_are_there(go)
        for _ in range(4):
            learner_of(log, subs=[Pads(length) for length in LENGTHS]).fit(5, seed=seed, print_stats=False)


def test_long_lines_of_two_processes_are_not_torn(tmp_path: Path, warm: Warm) -> None:
    path = tmp_path / "run.jsonl"
    for child in started(warm, tmp_path, writes_long_lines, path):
        assert child.wait() == 0, child.stderr.read_text()
        assert child.stderr.read_text() == ""
    lines = lines_of(path)
    assert [counts(run) for run in by_run(lines).values()] == [list(range(4 + 10 * (2 + len(LENGTHS))))] * 8
    assert {len(line["text"]) * 2 for line in lines if line["event"] == "tests.padding"} == set(LENGTHS)
    assert turns(lines) > 8


def writes_very_long_lines(path: str) -> None:
    """Write so that at most moments a part of a line is in the file."""
    line = scripted()[0]
    target = FileTarget(path)
    for number in range(30):
        target.write(evolved(line, seq=number, event=Padding(text="x" * 4_000_000)))
    target.close()


def test_a_line_that_is_being_written_is_not_taken_for_a_torn_one(tmp_path: Path, warm: Warm) -> None:
    """Whoever opens the log meanwhile looks at its end, where part of a line may be, and cuts nothing off."""
    path = tmp_path / "run.jsonl"
    path.touch()
    child = warm.start(writes_very_long_lines, tmp_path, str(path))
    opened, end = 0, time.monotonic() + 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while path.stat().st_size < 30 * 4_000_000 and time.monotonic() < end:
            JsonLog(path).close()
            opened += 1
    assert child.wait() == 0, child.stderr.read_text()
    assert opened > 10
    assert counts(lines_of(path)) == list(range(30))


def test_a_log_that_made_the_file_and_said_nothing_leaves_what_another_wrote(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    idle = JsonLog(path)
    with JsonLog(path) as log:
        learner_of(log).fit(1, print_stats=False)
        idle.close()
    assert len(lines_of(path)) == 8


# -- workers of a DataLoader ------------------------------------------------------------------------------------------


class Samples(Dataset[Batch]):
    """Samples that refer to nothing of the log."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return BATCHES[0][0][index % 4], BATCHES[0][1][index % 4]


class TellingSamples(Samples):
    """Samples that hold the log, and train a learner of their own with it: whoever does, has a run of its own."""

    def __init__(self, log: JsonLog) -> None:
        self.log = log

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            learner_of(self.log).fit(1, seed=7, print_stats=False)
        return super().__getitem__(index)


def trains_with_workers(path: str, method: str) -> None:
    with JsonLog(path, every="all") as log:
        train, valid = (
            DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context=context)
            for dataset, context in ((TellingSamples(log), method), (Samples(), "fork"))
        )
        outcome = learner_of(log, dls=DataLoaders(train, valid)).fit(1, print_stats=False)
        print(dict(outcome.sink_failures), log.lost)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.sweep
def test_workers_of_a_data_loader_leave_the_log_alone_or_have_runs_of_their_own(
    tmp_path: Path, warm: Warm, method: str
) -> None:
    path = tmp_path / "run.jsonl"
    child = warm.start(trains_with_workers, tmp_path, str(path), method)
    assert child.wait() == 0, child.stderr.read_text()
    assert child.stderr.read_text() == ""
    assert child.stdout.read_text() == "{} 0\n"
    mine, workers = sorted(by_run(lines_of(path)).values(), key=len, reverse=True)
    assert counts(mine) == list(range(4 + 4 + 4 + 4))
    assert counts(workers) == list(range(4 + 4 + 5)), "the log of the worker is told of batches as well"
    for run in (mine, workers):
        assert names(run)[:2] == FIT
        assert names(run)[-2:] == END


# -- a child of one's own ---------------------------------------------------------------------------------------------


class LosesTwo(Target):
    """Loses the second and the third line."""

    def __init__(self, path: str) -> None:
        self.file = FileTarget(path)
        self.count = 0

    def write(self, line: Line, /) -> None:
        self.count += 1
        if self.count in {2, 3}:
            raise OSError("lost")
        self.file.write(line)


def forks_amid_a_fit(path: str) -> None:
    """A child that is forked amid a fit trains with the log it has inherited, and ends it."""
    log = JsonLog(path, LosesTwo(path + ".lossy"), every="all")

    def child() -> None:
        print("lost", log.lost, flush=True)
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            return
        with log:
            outcome = learner_of(log).fit(1, print_stats=False)
        print("the child's", log.lost, dict(outcome.sink_failures), flush=True)
        os._exit(0)

    with log:
        outcome = learner_of(log, subs=[At(epoch_1=child)]).fit(3, print_stats=False)
    print("the parent's", log.lost, dict(outcome.sink_failures))


def test_a_child_that_is_forked_amid_a_fit_has_a_run_of_its_own_and_leaves_its_parents_whole(
    tmp_path: Path, warm: Warm
) -> None:
    path = tmp_path / "run.jsonl"
    child = warm.start(forks_amid_a_fit, tmp_path, str(path))
    assert child.wait() == 0, child.stderr.read_text()
    assert child.stdout.read_text().splitlines() == [
        "lost 2",
        "the child's 0 {}",
        "the parent's 2 {'JsonLog': 2}",
    ]
    parents, childs = by_run(lines_of(path)).values()
    assert counts(parents) == list(range(4 + 3 * 9 + 1)), "one says again what lies behind, after those that were lost"
    assert counts(childs) == list(range(4 + 9))
    assert childs[0]["event"] == "run_started"
    assert childs[0]["elapsed_s"] < parents[-1]["elapsed_s"]
    lossy, told = by_run(lines_of(Path(f"{path}.lossy"))).values()
    assert [line.get("lost_lines") for line in (*lossy, *told) if "lost_lines" in line] == [2]
    assert [run.outcome for run in replay(read(path))] == ["completed", "completed"]


def forks_before_anything_is_told(path: str) -> None:
    log = JsonLog(path)
    if (pid := os.fork()) == 0:
        log.close()
        os._exit(0)
    os.waitpid(pid, 0)
    print(Path(path).exists())
    learner_of(log).fit(1, print_stats=False)
    log.close()


def test_a_child_that_ends_its_copy_of_a_log_does_not_remove_its_parents_file(tmp_path: Path, warm: Warm) -> None:
    child = warm.start(forks_before_anything_is_told, tmp_path, str(tmp_path / "run.jsonl"))
    assert child.wait() == 0, child.stderr.read_text()
    assert child.stdout.read_text() == "True\n"
    assert child.stderr.read_text() == ""
    assert len(lines_of(tmp_path / "run.jsonl")) == 8


# -- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [lambda log: pickle.loads(pickle.dumps(log)), copy.deepcopy])
def test_a_copy_of_a_log_writes_runs_of_its_own_into_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: Callable[[JsonLog], JsonLog]
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[JsonLog] = []

    def copies() -> None:
        monkeypatch.chdir("/")
        made.append(copied(log))

    with JsonLog("run.jsonl", every="all", rank=3) as log:
        learner_of(log, subs=[At(epoch_1=copies)]).fit(2, print_stats=False)
    with made[0] as other:
        learner_of(other).fit(1, print_stats=False)
    lines = lines_of(tmp_path / "run.jsonl")
    assert [counts(run) for run in by_run(lines).values()] == [list(range(4 + 18)), list(range(4 + 9))]
    assert {line["rank"] for line in lines} == {3}


def test_a_log_to_a_standard_stream_can_be_copied_and_one_to_another_says_why_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for stream in (sys.stdout, sys.stderr):
        with pickle.loads(pickle.dumps(JsonLog(stream))) as log:
            learner_of(log).fit(1, print_stats=False)
    for said in capsys.readouterr():
        assert len([json.loads(line) for line in said.splitlines()]) == 8
    with (tmp_path / "run.jsonl").open("w") as file, pytest.raises(TypeError, match="one to a path"):
        pickle.dumps(JsonLog(file))
