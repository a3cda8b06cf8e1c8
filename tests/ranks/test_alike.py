"""Where ranks disagree, all of them say so, by name; and of what all would print, rank 0 prints."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from nntrain import CancelFit, Engine, Subscriber, TrainState
from nntrain.errors import DataWarning, RankError
from nntrain.log import CancelledEvent, JsonLog, read, replay
from nntrain.log.events import RunStarted
from nntrain.ranks.comparing import check_same, digest, disagreement
from nntrain.ranks.console import by_rank, silent_but_first, tell_errors_once, tells, warn_once
from nntrain.sinks import PrintStats
from nntrain.testing import check_ranks
from nntrain.testing.ranks import named_digests
from tests.log.trained import learner_of
from tests.ranks.launching import launch

ALIKE = {"weight": "a", "lr": "0.1"}


def test_ranks_that_are_alike_do_not_disagree() -> None:
    assert disagreement([ALIKE, ALIKE, ALIKE]) is None
    check_same(ALIKE)


def test_what_differs_is_said_by_name_and_rank() -> None:
    error = disagreement([ALIKE, ALIKE, {**ALIKE, "lr": "0.2"}, {"weight": "a"}])
    assert error is not None
    assert error.rank == 3
    assert "lr: ranks 0, 1 have 0.1; rank 2 has 0.2; rank 3 has nothing" in str(error)
    assert "weight" not in str(error).split("Give")[0]


def test_many_differences_are_counted() -> None:
    error = disagreement([{}, {f"n{i}": "x" for i in range(30)}])
    assert "and 10 more" in str(error)


def test_a_digest_tells_bits_shapes_and_types_apart() -> None:
    one = torch.tensor([0.0, 1.0])
    different = [one, -one, one.double(), one.reshape(2, 1), [one], (one, one), {"a": one}, torch.zeros(0)]
    assert len({digest(each) for each in different}) == len(different)
    assert digest({"a": (one, 3)}) == digest({"a": (one.clone(), 3)})


def test_what_is_compared_of_a_learner() -> None:
    learner = learner_of()
    state = learner.init(3)
    assert named_digests(learner, state) == named_digests(learner, learner.init(3))
    other = named_digests(learner.replace(lr=0.2), learner.init(4))
    differing = {name for name, text in named_digests(learner, state).items() if other[name] != text}
    assert {"key", "setting lr"} <= differing
    assert not {name for name in differing if name.startswith("code")}
    check_ranks(learner, state)


# -- one console ---------------------------------------------------------------------------------------------------


def be_rank(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    for name, value in {"RANK": rank, "WORLD_SIZE": 4, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("rank", [0, 2])
def test_rank_0_prints_and_warns_of_what_all_know(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    be_rank(monkeypatch, rank)
    printed, own = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learner_of(PrintStats(printed)).fit(1, print_stats=False)
        warn_once("all know it", DataWarning)
        with silent_but_first(own):
            sys.stdout.write("said")
    there = rank == 0
    assert bool(printed.getvalue()) == there
    assert own.getvalue() == ("said" if there else "")
    assert [str(one.message) for one in caught] == ["all know it"] * there
    assert by_rank("it failed") == f"rank {rank}: it failed"


def test_an_error_of_all_ranks_is_told_by_the_one_that_failed_and_one_other(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    for failed in (0, 2):
        for rank in range(4):
            be_rank(monkeypatch, rank)
            told[failed, rank] = tells(RankError("x", failed))
    assert [pair for pair, one in told.items() if one] == [(0, 0), (0, 1), (2, 0), (2, 2)]


def test_an_uncaught_error_of_another_rank_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: seen.append(error))
    tell_errors_once()
    hook = sys.excepthook
    tell_errors_once()
    assert sys.excepthook is hook
    ours, theirs, other = RankError("mine", 1), RankError("of 2", 2), ValueError("a")
    for rank in (0, 1):
        be_rank(monkeypatch, rank)
        for error in (theirs, other):
            hook(type(error), error, None)
    hook(RankError, ours, None)
    assert seen == [other, other, ours]
    assert capsys.readouterr().err == "RankError: of 2\n"


# -- with processes ------------------------------------------------------------------------------------------------


class Stops(Subscriber[Any]):
    """Stops the fit on rank 1 after its first epoch."""

    def after_epoch(self, state: TrainState) -> TrainState | CancelFit:
        stop = dist.get_rank() == 1 and state.progress.phase == "eval"
        return CancelFit(reason="enough") if stop else state


def together(folder: str) -> dict[str, Any]:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    printed = io.StringIO()
    with JsonLog(Path(folder) / "run.jsonl", every="all") as log, contextlib.redirect_stdout(printed):
        learner = learner_of(log, PrintStats(), subs=[Stops()], engine=Engine(parallel="data"))
        state = learner.init(1)
        check_ranks(learner, state)
        outcome = learner.fit(2, print_stats=False)
    found = {"printed": printed.getvalue(), "failures": outcome.sink_failures, "error": ""}
    try:
        check_same({"lr": str(rank)})
    except RankError as error:
        found["error"] = str(error)
    return found


@pytest.mark.sweep
def test_two_processes_have_one_story(tmp_path: Path) -> None:
    first, second = launch(together, 2, str(tmp_path))
    assert (len(first["printed"].splitlines()), second["printed"]) == (2, "")
    assert not first["failures"]
    assert not second["failures"]
    assert first["error"] == second["error"]
    assert "lr: rank 0 has 0; rank 1 has 1" in first["error"]
    lines = list(read(tmp_path / "run.jsonl"))
    assert len({line.run_id for line in lines}) == 1
    assert [line.event.world_size for line in lines if isinstance(line.event, RunStarted)] == [2, 2]
    assert [line.event.by_rank for line in lines if isinstance(line.event, CancelledEvent)] == [1, 1]
    [run] = replay(lines)
    assert [one.rank for one in run.ranks] == [0, 1]
    assert run.ranks[0].history == run.ranks[1].history
    assert [line.event for line in run.ranks[0].batches] != [line.event for line in run.ranks[1].batches]
