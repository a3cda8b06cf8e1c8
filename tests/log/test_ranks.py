"""The log of several processes: a file for each, one id for the run, and one story when they are read."""

from __future__ import annotations

import io
import json
import random
import re
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nntrain.cli import nntrain
from nntrain.cli.reading import read_or_exit
from nntrain.errors import ConfigError
from nntrain.log import JsonLog, Line, follow, read, replay, terminal
from nntrain.log.events import CancelledEvent, RunFailed, RunStarted
from nntrain.log.export import Csv
from nntrain.log.rank_files import log_files, rank_file
from nntrain.log.reading import LogReadError, merged
from nntrain.log.rendering import rendered
from nntrain.log.replay import of_other_ranks, seconds_in_batches
from nntrain.log.report import page
from nntrain.log.sentences import sentence
from nntrain.machine.steps import fit_step
from nntrain.values.log_event import WarningEvent
from nntrain.values.record import evolved
from tests.log.samples import scripted
from tests.log.trained import learner_of


def be_rank(monkeypatch: pytest.MonkeyPatch, rank: int, size: int = 4) -> None:
    """Be launched as torchrun launches a rank, without a group."""
    for name, value in {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))


def write(path: Path, lines: list[Line]) -> None:
    path.write_bytes(b"".join(map(rendered, lines)))


def as_rank(lines: list[Line], rank: int, *, later: float = 0.0) -> list[Line]:
    """Return lines as another rank logs them, its clock ahead by `later` seconds."""
    return [evolved(line, rank=rank, timestamp=line.timestamp + timedelta(seconds=later)) for line in lines]


def of_two(ends: str = "completed") -> tuple[list[Line], list[Line]]:
    first = scripted(every=1, ends=ends)  # type: ignore[arg-type] # one of its words
    begun = first[0].event
    assert isinstance(begun, RunStarted)
    first[0] = evolved(first[0], event=evolved(begun, world_size=2))
    return first, as_rank(first, 1, later=0.002)


# -- writing -------------------------------------------------------------------------------------------------------


def test_each_rank_writes_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.jsonl"
    for rank in range(3):
        be_rank(monkeypatch, rank)
        with JsonLog(path) as log:
            fit_step(learner_of(log), learner_of().init(), 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.jsonl", "run.rank1.jsonl", "run.rank2.jsonl"]
    for rank in range(3):
        found = [json.loads(line) for line in rank_file(path, rank).read_text().splitlines()]
        assert {line["rank"] for line in found} == {rank}
        assert [line["seq"] for line in found] == [*range(len(found))]


def test_a_given_rank_writes_where_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be_rank(monkeypatch, 2)
    with JsonLog(tmp_path / "mine.jsonl", rank=2) as log:
        fit_step(learner_of(log), learner_of().init(), 1)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.jsonl"]


def test_a_pipe_has_no_file_of_a_rank_beside_it() -> None:
    assert rank_file("/dev/null", 2) == Path("/dev/null")


def test_an_exporter_takes_what_rank_0_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be_rank(monkeypatch, 1)
    (tmp_path / "epochs.csv").write_text("of rank 0")
    with JsonLog(tmp_path / "run.jsonl", Csv(tmp_path)) as log:
        fit_step(learner_of(log), learner_of().init(), 1)
    assert log.lost == 0
    assert (tmp_path / "epochs.csv").read_text() == "of rank 0"
    assert len(list(read(tmp_path / "run.rank1.jsonl"))) > 4


def test_one_process_logs_nothing_of_ranks(tmp_path: Path) -> None:
    with JsonLog(tmp_path / "run.jsonl") as log:
        fit_step(learner_of(log), learner_of().init(), 1)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert not any({"world_size", "by_rank"} & line.keys() for line in lines)
    [run] = replay(read(tmp_path / "run.jsonl"))
    assert (run.world_size, run.ranks) == (1, ())


def test_a_log_made_before_the_group_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nntrain.ranks.world import World

    learner = learner_of(JsonLog(tmp_path / "run.jsonl"))
    state = learner.init()
    monkeypatch.setattr("nntrain.log.json_log.current_world", lambda: World(1, 2))
    with pytest.raises(ConfigError, match=r"rank 0 of 1; it is rank 1 of 2.*init_process_group, or start .* torchrun"):
        fit_step(learner, state, 1)
    assert not (tmp_path / "run.jsonl").read_text()


def test_a_rank_goes_on_with_the_run_of_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 had no part in it, as where more processes go on than began; its own file has an older run."""
    path = tmp_path / "run.jsonl"
    learner = learner_of()
    be_rank(monkeypatch, 1, 2)
    with JsonLog(path) as log:
        fit_step(learner.replace(sinks=[log]), learner.init(), 1)
    be_rank(monkeypatch, 0, 2)
    with JsonLog(path) as log:
        state = fit_step(learner.replace(sinks=[log]), learner.init(), 1).state
    [theirs] = {line.run_id for line in read(path) if line.rank == 0}
    be_rank(monkeypatch, 1, 2)
    with JsonLog(path, resume=True) as log:
        fit_step(learner.replace(sinks=[log]), state, 1)
    mine = [line for line in read(rank_file(path, 1)) if line.run_id == theirs]
    assert [line.seq for line in mine] == [*range(len(mine))]
    [run] = [one for one in replay(mine) if one.run_id == theirs]
    assert len(run.history) == 4


# -- reading -------------------------------------------------------------------------------------------------------


def test_files_of_a_log(tmp_path: Path) -> None:
    names = ["run.jsonl", "run.rank1.jsonl", "run.rank2.jsonl", "run.rank10.jsonl", "other.jsonl", "run.jsonl.1"]
    for name in (*names, "run.rank0.jsonl", "run.rankx.jsonl", "run.rank1.txt"):
        (tmp_path / name).touch()
    assert [one.name for one in log_files(tmp_path / "run.jsonl")] == names[:4]
    assert [one.name for one in log_files(tmp_path / "run.rank2.jsonl")] == ["run.rank2.jsonl"]
    assert [one.name for one in log_files(tmp_path)] == [
        "other.jsonl", *names[:4], "run.rank0.jsonl", "run.rankx.jsonl",
    ]  # fmt: skip
    assert log_files(tmp_path / "none" / "x.jsonl") == [tmp_path / "none" / "x.jsonl"]


def test_a_log_and_its_folder_are_read_merged(tmp_path: Path) -> None:
    first, second = of_two()
    write(tmp_path / "run.jsonl", first)
    write(tmp_path / "run.rank1.jsonl", second)
    found = list(read(tmp_path / "run.jsonl"))
    assert found == list(read(tmp_path))
    assert [line for line in found if line.rank == 0] == first
    assert [line for line in found if line.rank == 1] == second
    assert [line.timestamp for line in found] == sorted(line.timestamp for line in found)
    assert list(read(tmp_path / "run.rank1.jsonl")) == second
    assert list(follow(tmp_path / "run.jsonl", poll_s=0.001)) == first + second


def test_an_empty_folder_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(LogReadError, match=r"there is no \*\.jsonl in this folder"):
        list(read(tmp_path))


@given(st.randoms(use_true_random=False), st.lists(st.floats(-2.0, 2.0), min_size=4, max_size=4))
def test_the_order_is_a_function_of_the_events(shuffled: random.Random, clocks: list[float]) -> None:
    logs = [as_rank(scripted(every=2, epochs=2), rank, later=later) for rank, later in enumerate(clocks)]
    expected = list(merged([iter(log) for log in logs]))
    shuffled.shuffle(logs)
    found = list(merged([iter(log) for log in logs]))
    assert found == expected
    for log in logs:
        assert [line for line in found if line.rank == log[0].rank] == log


def test_a_file_that_comes_later_is_followed_too(tmp_path: Path) -> None:
    first, second = of_two()
    write(tmp_path / "run.jsonl", first[:3])
    lines = follow(tmp_path / "run.jsonl", poll_s=0.001)
    assert [next(lines) for _ in range(3)] == first[:3]
    write(tmp_path / "run.rank1.jsonl", second)
    assert [next(lines) for _ in second] == second
    with (tmp_path / "run.jsonl").open("ab") as file:
        file.write(b"".join(map(rendered, first[3:])))
    assert list(lines) == first[3:]


# -- replaying and showing -----------------------------------------------------------------------------------------


def test_a_run_has_what_each_rank_logged() -> None:
    first, second = of_two()
    [alone] = replay(first)
    [run] = replay(merged([iter(first), iter(second)]))
    assert [one.rank for one in run.ranks] == [0, 1]
    assert (run.world_size, run.history, run.batches) == (2, alone.history, alone.batches)
    assert [line.rank for line in run.ranks[1].batches] == [1] * len(run.batches)
    assert seconds_in_batches(run.ranks[0]) == pytest.approx(seconds_in_batches(run))
    assert seconds_in_batches(run) > 0


def failed_on_rank_1() -> list[Line]:
    first, _ = of_two("running")
    second = as_rank(first, 1, later=0.001)
    warned = WarningEvent(code="data.memory", text="only rank 1 has it")
    theirs = RunFailed(error_type="ValueError", error_message="bad row", where="batch", traceback="its own")
    second += [
        evolved(second[-1], event=warned, seq=second[-1].seq + 1),
        evolved(second[-1], event=theirs, seq=second[-1].seq + 2),
    ]
    echo = RunFailed(error_type="RankError", error_message="Rank 1 failed", where="batch", traceback="")
    return [*merged([iter([*first, evolved(first[-1], event=echo, seq=first[-1].seq + 1)]), iter(second)])]


def test_who_failed_and_what_a_rank_alone_has_seen() -> None:
    [run] = replay(failed_on_rank_1())
    assert run.outcome == "failed"
    assert [(line.rank, line.event.event) for line in of_other_ranks(run)] == [(1, "warning"), (1, "run_failed")]


def test_a_verdict_says_whose_it_was() -> None:
    line = scripted()[0]
    cancelled = CancelledEvent(scope="fit", reason="no better", subscriber="EarlyStopping", at="after_epoch", by_rank=3)
    assert sentence(evolved(line, event=cancelled)) == (
        "EarlyStopping of rank 3 cancelled the fit at after_epoch: no better"
    )


def test_show_follow_and_report_say_which_rank() -> None:
    lines = failed_on_rank_1()
    for told in (terminal.show, lambda lines, console: terminal.follow(iter(lines), console=console)):
        console = Console(record=True, width=160, file=io.StringIO())
        told(lines, console=console)
        said = console.export_text()
        assert re.search(r"rank 1 +failure +ValueError in batch: bad row", said)
        assert "its own" in said, "the traceback"
    console = Console(record=True, width=160, file=io.StringIO())
    terminal.show(lines, console=console)
    said = console.export_text()
    assert re.search(r"rank 0 +failed, \d+ steps.*the slowest", said)
    assert re.search(r"warning .*only rank 1 has it", said)
    shown = page(replay(lines))
    assert "rank 1: ValueError in batch: bad row" in shown
    assert "1 of 2" in shown


def test_a_rank_without_a_log_is_missed_and_of_one_process_no_rank_is_said() -> None:
    first, _ = of_two()
    for lines, missed in ((first, True), (scripted(), False)):
        console = Console(record=True, width=160, file=io.StringIO())
        terminal.show(lines, console=console)
        said = console.export_text()
        assert ("1 of 2 have no log here" in said) == missed
        assert ("rank" in said) == missed
        assert (">Ranks<" in page(replay(lines))) == missed


def test_the_commands_take_a_folder_and_no_file_twice(tmp_path: Path) -> None:
    first, second = of_two()
    write(tmp_path / "run.jsonl", first)
    write(tmp_path / "run.rank1.jsonl", second)
    checked = CliRunner().invoke(nntrain, ["log", "check", str(tmp_path)])
    assert checked.exit_code == 0
    assert checked.output.count(": ok, ") == 2
    both = [str(tmp_path / "run.jsonl"), str(tmp_path / "run.rank1.jsonl")]
    for files in (both, both[::-1], [str(tmp_path)]):
        assert len(read_or_exit(files)) == len(first) + len(second)


@pytest.mark.sweep
def test_fit_is_silent_but_on_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        import_module("nntrain.cli.fit"), "_check_shared", lambda engine: None
    )  # each trains by itself here
    for rank in (0, 1):
        be_rank(monkeypatch, rank, 2)
        done = CliRunner().invoke(nntrain, ["fit", "--steps", "1", "--device", "cpu", "--log", "run.jsonl"])
        assert done.exit_code == 0, done.output
        assert ("epoch=00" in done.output) == ("log: run.jsonl" in done.output) == (rank == 0)
        assert rank == 0 or not done.output
    assert {line.rank for line in read("run.jsonl")} == {0, 1}
