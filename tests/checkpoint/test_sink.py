"""`Checkpoint`: when it saves, what it keeps, what it costs the training, and that only a strict one ever ends it."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import (
    CancelFit,
    Checkpoint,
    Completed,
    DataLoaders,
    Interest,
    Learner,
    RunInfo,
    TrainState,
    Transition,
    advance,
    epoch_step,
    fit_step,
    on,
    state_before,
)
from nntrain.checkpoint import inspect, latest, load, resume, saving, sink
from nntrain.checkpoint.saving import UNFINISHED
from nntrain.errors import CheckpointError, ConfigError, SinkWarning
from nntrain.log import JsonLog, read
from nntrain.task.supervised import supervised
from nntrain.update import accumulate, chain, optimizer
from nntrain.values.bits import same_bits
from nntrain.values.log_event import CheckpointSaved, WarningEvent
from tests.laws.test_law_09_no_waste import WEIGHT, CountCopies

Batch = tuple[Tensor, Tensor]
STEPS: Final = 5
"""Of an epoch."""


def batches(count: int) -> list[Batch]:
    source = torch.Generator().manual_seed(count)
    inputs = [torch.randn(4, 3, generator=source) for _ in range(count)]
    return [(one, one.sum(1, keepdim=True)) for one in inputs]


def error_of(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).abs().mean()


def learner_of(*sinks: Any, **changes: Any) -> Learner[Batch]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    arguments: dict[str, Any] = {
        "model": model,
        "dls": DataLoaders(batches(STEPS), batches(2)),
        "loss_fn": mse_loss,
        "metric_fn": error_of,
        "optim_class": torch.optim.Adam,
        "lr": 0.01,
        "sinks": sinks,
    }
    return Learner(**{**arguments, **changes})


def fitted(*sinks: Any, epochs: int = 2, **changes: Any) -> TrainState:
    outcome = learner_of(*sinks, **changes).fit(epochs, print_stats=False)
    assert isinstance(outcome, Completed)
    return outcome.state


def files(folder: Path) -> list[Path]:
    """Give the checkpoints in a folder, the oldest first; nothing else is to be there."""
    found = sorted(folder.iterdir())
    assert all(path.suffix == ".safetensors" for path in found), found
    return found


def steps(folder: Path) -> list[int]:
    """Give the steps that the files in a folder are of, as they say themselves."""
    found = [inspect(path).progress.step for path in files(folder)]
    assert found == [int(path.stem.rsplit("-", 1)[1]) for path in files(folder)]
    return found


def waiting_for(saves: Checkpoint) -> Callable[[Transition], None]:
    """Give a sink that waits, after each transition, until what is being saved is."""

    def waits(transition: Transition) -> None:
        saves.wait()

    return waits


keeping_all = partial(Checkpoint, keep_last=99, background=False)

# -- when -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "expected"),
    [(1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10]), (3, [3, 6, 9, 10]), (5, [5, 10, 10]), (99, [10])],
)
def test_every_so_many_steps_and_at_the_end(tmp_path: Path, every: int, expected: list[int]) -> None:
    fitted(keeping_all(tmp_path / "run", every_steps=every))
    assert steps(tmp_path / "run") == expected
    assert [inspect(path).progress.at for path in files(tmp_path / "run")][-1] == "finished"


def test_steps_are_those_since_the_beginning_wherever_a_run_goes_on(tmp_path: Path) -> None:
    state = fitted(epochs=1)
    learner = learner_of(keeping_all(tmp_path / "run", every_steps=4))
    fit_step(learner, state, 2)
    assert steps(tmp_path / "run") == [8, 12, 15]


@pytest.mark.parametrize(("every", "expected"), [(1, [5, 10, 15, 20]), (2, [10, 20]), (3, [15, 20]), (9, [20])])
def test_every_so_many_epochs_and_at_the_end(tmp_path: Path, every: int, expected: list[int]) -> None:
    fitted(keeping_all(tmp_path / "run", every_epochs=every), epochs=4)
    assert steps(tmp_path / "run") == expected  # the end of the last epoch is the fit's: once
    places = [inspect(path).progress for path in files(tmp_path / "run")]
    assert [one.at for one in places] == ["before_epoch"] * (len(expected) - 1) + ["finished"]
    assert all(one.phase == "train" and one.batch == 0 for one in places)


def test_every_so_many_minutes_at_the_end_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("nntrain.checkpoint.sink.time.monotonic", lambda: now[0])
    told: list[int] = []

    def clock(transition: Transition) -> None:
        if transition.event == "after_batch" and transition.progress.phase == "train":
            now[0] += 25.0
            told.append(transition.state.progress.step)

    fitted(keeping_all(tmp_path / "run", every_minutes=1), clock, epochs=2)
    assert told == list(range(1, 11))
    # Seen after 75 s, and again so long after each save: at the third batch after it, or an eval batch before that.
    assert steps(tmp_path / "run") == [4, 7, 10, 10]


def test_a_batch_that_makes_no_step_is_not_saved_whoever_is_told_of_it(tmp_path: Path) -> None:
    """A rank where something else comes up would save by itself, and wait for the others."""
    folder = tmp_path / "run"
    runs: list[RunInfo] = []

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        for run in runs:
            run.tell(WarningEvent(code="here", text="it came up amid a batch, as in a thread"))
        return mse_loss(preds, target)

    learner = Learner.of(
        nn.Linear(3, 1),
        DataLoaders(batches(STEPS), batches(2)),
        supervised(loss_fn),
        chain(accumulate(3), optimizer(torch.optim.SGD, lr=0.1)),
        sinks=[keeping_all(folder, every_minutes=1e-9), FirstRun(runs)],
    )
    learner.fit(1, print_stats=False)
    trained = [one for one in map(inspect, sorted(folder.iterdir())) if one.progress.phase == "train"]
    assert [one.progress.batch for one in trained if one.progress.at == "batch"] == [3]


class FirstRun:
    """Takes what a run gives its sinks, at its beginning."""

    interest = Interest(every_batch=False, tells=True)

    def __init__(self, runs: list[RunInfo]) -> None:
        self._runs = runs

    def __call__(self, transition: Transition, /) -> None:
        if not self._runs:
            self._runs.append(transition.run)


def test_a_training_that_is_advanced_by_hand_is_saved_too(tmp_path: Path) -> None:
    learner = learner_of(keeping_all(tmp_path / "run", every_steps=4))
    state = learner.init(epochs=1)
    while state.progress.at != "finished":
        state = advance(learner, state).state
    assert steps(tmp_path / "run") == [4, 5]
    assert load(files(tmp_path / "run")[-1], learner) == state


def test_without_anything_asked_for_the_last_is_saved(tmp_path: Path) -> None:
    saves = Checkpoint(tmp_path / "run")
    assert list(tmp_path.iterdir()) == [saves.folder]
    state = fitted(saves)
    (only,) = files(tmp_path / "run")
    assert saves.newest == only
    assert saves.folder == tmp_path / "run"
    assert load(only, learner_of()) == state


def test_a_fit_that_a_verdict_ends_is_saved_at_its_end(tmp_path: Path) -> None:
    @on("after_batch")
    def stops(state: TrainState, batch: Batch, output: object) -> TrainState | CancelFit:
        return CancelFit(reason="enough") if state.progress.step == 7 else state

    outcome = learner_of(Checkpoint(tmp_path / "run"), subs=[stops]).fit(3, print_stats=False)
    (only,) = files(tmp_path / "run")
    assert inspect(only).progress.step == 7
    assert load(only, learner_of()) == outcome.state


def test_a_second_fit_goes_on_with_the_same_sink(tmp_path: Path) -> None:
    learner = learner_of(keeping_all(tmp_path / "run", every_steps=4))
    first = fit_step(learner, learner.init(), 1).state
    fit_step(learner, first, 1)
    assert steps(tmp_path / "run") == [4, 5, 8, 10]


# -- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "expected"), [(1, [10]), (2, [9, 10]), (3, [6, 9, 10]), (9, [3, 6, 9, 10])])
def test_the_newest_are_kept(tmp_path: Path, keep: int, expected: list[int]) -> None:
    fitted(Checkpoint(tmp_path / "run", every_steps=3, keep_last=keep, background=False))
    assert steps(tmp_path / "run") == expected


def losses(*values: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Give a loss that is, in eval phases, the next of the values; two batches of one are the same."""
    left = iter([value for value in values for _ in range(2)])

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        return mse_loss(preds, target) if torch.is_grad_enabled() else torch.tensor(next(left))

    return loss_fn


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [3.0, 1.0, 2.0, 4.0], 2),
        ("max", [3.0, 1.0, 2.0, 4.0], 4),
        ("max", [3.0, 1.0, 2.0, 0.0], 1),
        ("min", [math.nan, 2.0, math.nan, 3.0], 2),
        ("min", [1.0, 1.0, 1.0, 1.0], 1),
        ("min", [math.inf, math.inf, 5.0, math.inf], 3),
        ("max", [-1.0, -2.0, -3.0, -4.0], 1),
    ],
)
def test_the_best_is_saved_when_it_comes_up_and_kept(tmp_path: Path, mode: Any, values: list[float], best: int) -> None:
    saves = Checkpoint(tmp_path / "run", keep_last=1, keep_best="loss", mode=mode)
    fitted(saves, loss_fn=losses(*values), epochs=4)
    kept = files(tmp_path / "run")
    assert len(kept) == (1 if best == 4 else 2)  # that of the last epoch is the fit's
    assert inspect(kept[0]).progress.epoch == best
    assert inspect(kept[0]).history[-1].loss == values[best - 1]
    assert inspect(kept[-1]).progress.at == "finished"


def test_the_best_by_a_metric_survives_another_process(tmp_path: Path) -> None:
    """What the folder has is read from its files."""
    learner = learner_of(Checkpoint(tmp_path / "run", keep_last=1, keep_best="metric"))
    state = fit_step(learner, learner.init(), 3).state
    best = min((one.metrics["metric"], one.epoch) for one in state.history if one.phase == "eval")
    (first, *_) = files(tmp_path / "run")
    assert inspect(first).history[-1].metrics["metric"] == best[0]
    worse = learner_of(Checkpoint(tmp_path / "run", keep_last=1, keep_best="metric"), lr=10.0)
    fit_step(worse, state, 2)
    assert files(tmp_path / "run")[0] == first
    assert len(files(tmp_path / "run")) == 2


def test_what_cannot_be_kept_the_best_by_is_told_when_the_learner_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Checkpoint monitors 'accuracy'; there are loss, metric"):
        learner_of(Checkpoint(tmp_path / "run", keep_best="accuracy"))


def test_other_files_stay_and_numbers_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    state = fitted(Checkpoint(folder), epochs=1)
    for name in (
        "notes.txt",
        "mine.safetensors",
        "checkpoint-000009-step-00000001.safetensors",
        "checkpoint-x.safetensors",
    ):
        (folder / name).write_bytes(b"mine")
    fit_step(learner_of(Checkpoint(folder, every_steps=3, keep_last=1)), state, 1)
    names = sorted(path.name for path in folder.iterdir())
    assert names[-2:] == ["mine.safetensors", "notes.txt"]
    assert "checkpoint-000009-step-00000001.safetensors" in names
    assert "checkpoint-x.safetensors" in names
    found = latest(folder).path
    assert found is not None
    assert int(found.name.split("-")[1]) > 9
    assert len(names) == 5


@given(
    name=st.one_of(
        st.sampled_from(["checkpoint-best", "best", "checkpoint-000001-step-00000010-keep", "checkpoint-000001"]),
        st.from_regex(r"(checkpoint-)?[0-9a-c-]{0,12}(-step-)?[0-9a-z .]{1,12}", fullmatch=True),
        st.builds("checkpoint-{:d}-step-{:d}".format, st.integers(0, 10**7), st.integers(0, 10**9)),
        st.builds("checkpoint-{:07d}-step-{:08d}".format, st.integers(0, 9), st.integers(0, 9)),
    )
)
@example("checkpoint-٠٠٠٠٠١-step-٠٠٠٠٠٠١٠")
@example("checkpoint-000001-step-00000010\n")
@settings(max_examples=30, deadline=None)
def test_only_names_that_the_sink_itself_gives_are_its_own(name: str) -> None:
    given_by_sink = re.fullmatch(r"checkpoint-([0-9]{6}|[1-9][0-9]{6,})-step-([0-9]{8}|[1-9][0-9]{8,})", name)
    assert (sink._number_of(Path(f"{name}.safetensors")) is not None) == (given_by_sink is not None)


def test_copies_that_the_user_made_stay_whatever_they_are_called(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = learner_of(Checkpoint(folder, every_epochs=1, keep_last=3))
    state = first.fit(3, print_stats=False).state
    names = ["checkpoint-best", "checkpoint-000001-step-00000005-keep", "checkpoint-000001-step-00000005 (1)", "best"]
    oldest = files(folder)[0].read_bytes()
    for name in names:
        (folder / f"{name}.safetensors").write_bytes(oldest)
    again = Checkpoint(folder, every_epochs=1, keep_last=1, keep_best="loss")
    assert again.newest == folder / "checkpoint-000003-step-00000015.safetensors"
    worse = learner_of(again, lr=10.0)
    fit_step(worse, state, 3)
    assert all((folder / f"{name}.safetensors").read_bytes() == oldest for name in names)
    own = {path.stem for path in files(folder)} - set(names)
    assert own == {"checkpoint-000003-step-00000015", "checkpoint-000006-step-00000030"}  # the best, and the last


def test_a_file_that_somebody_put_there_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    saves = Checkpoint(tmp_path / "run", keep_last=9)
    (tmp_path / "run" / "checkpoint-000001-step-00000010.safetensors").write_bytes(b"mine")
    fitted(saves)
    mine, ours = files(tmp_path / "run")
    assert (mine.read_bytes(), ours.name) == (b"mine", "checkpoint-000002-step-00000010.safetensors")


# -- whose folder it is -----------------------------------------------------------------------------------------------


def refused(learner: Learner[Batch], folder: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=rf"has checkpoints of another training, like {name}\. .*resume\("):
        learner.fit(1, print_stats=False)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_training_that_begins_is_refused_a_folder_with_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    same = learner_of(Checkpoint(folder))
    state = same.fit(1, print_stats=False).state
    name = "checkpoint-000001-step-00000005.safetensors"
    for learner in (same, learner_of(Checkpoint(folder)), learner_of(Checkpoint(folder, strict=True))):
        refused(learner, folder, name)
    begins = learner_of(Checkpoint(folder))
    for step in (advance, epoch_step):
        with pytest.raises(ConfigError, match="checkpoints of another training"):
            step(begins, begins.init(epochs=1))
    fit_step(begins, state, 1)  # what goes on is of that run
    assert steps(folder) == [5, 10]


def test_what_is_gone_on_from_at_the_first_step_is_not_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    learner = learner_of(Checkpoint(folder), loss_fn=broken_at(0, RuntimeError("ray")))
    with pytest.raises(RuntimeError, match="ray") as caught:
        learner.fit(1, print_stats=False)
    assert steps(folder) == [0]
    before = state_before(caught.value)
    assert before is not None
    with pytest.raises(RuntimeError, match="ray"):
        fit_step(learner, before)
    by_hand = learner_of(Checkpoint(folder))
    state = resume(folder, by_hand).state
    assert state is not None
    while state.progress.at != "finished":
        state = advance(by_hand, state).state
    assert state == fitted(epochs=1)


def test_a_folder_with_nothing_whole_is_nobody_s(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fitted(Checkpoint(folder), epochs=1)
    (only,) = files(folder)
    (folder / "model.safetensors").write_bytes(only.read_bytes())  # the user's, and no reason
    content = bytearray(only.read_bytes())
    content[-1] ^= 1
    only.write_bytes(content)
    fitted(Checkpoint(folder), epochs=1)
    assert sorted(path.name for path in files(folder))[:2] == [
        "checkpoint-000001-step-00000005.safetensors",
        "checkpoint-000002-step-00000005.safetensors",
    ]


def test_a_folder_that_goes_is_made_again_and_told(tmp_path: Path) -> None:
    told: list[Any] = []
    saves = keeping_all(tmp_path / "deep" / "run", every_steps=2, keep_best="loss")

    def removes(transition: Transition) -> None:
        told.extend(transition.logged)
        if (transition.event, transition.progress.phase, transition.state.progress.step) == ("after_batch", "train", 5):
            shutil.rmtree(tmp_path / "deep")
            assert saves.newest is None

    learner = learner_of(saves, removes)
    outcome = learner.fit(2, print_stats=False)
    assert outcome.state == fitted()
    assert not outcome.sink_failures
    assert steps(saves.folder) == [5, 6, 8, 10, 10]
    assert [one.code for one in told if isinstance(one, WarningEvent)] == ["checkpoint_folder_gone"]


def test_a_change_of_folder_does_not_move_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saves = Checkpoint("run", every_epochs=1)

    @on("after_epoch")
    def goes(state: TrainState) -> TrainState:
        monkeypatch.chdir("/")
        return state

    fitted(saves, subs=[goes])
    assert steps(tmp_path / "run") == [5, 10]
    assert saves.newest == Path("run", "checkpoint-000002-step-00000010.safetensors")


def test_the_last_that_was_saved_is_the_newest_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        now_: datetime = datetime(2030, 1, 1, tzinfo=UTC)

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            cls.now_ -= timedelta(hours=1)
            return cls.now_

    monkeypatch.setattr(sink, "datetime", Clock)
    state = fitted(keeping_all(tmp_path / "run", every_steps=3))
    assert latest(tmp_path / "run").path == files(tmp_path / "run")[-1]
    fit_step(learner_of(keeping_all(tmp_path / "run", every_steps=3)), state, 2)  # and another process
    assert latest(tmp_path / "run").path == files(tmp_path / "run")[-1]
    assert steps(tmp_path / "run") == [3, 6, 9, 10, 12, 15, 18, 20]


# -- beside the training --------------------------------------------------------------------------------------------


class Slow:
    """Holds saves up until they may go on, and notes what they were of."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.may = threading.Event()
        self.begun: list[int] = []
        self.threads: list[str] = []
        self.at_once = 0
        """How many went on at the same time, at most."""
        self._going = 0
        self._plain = saving.save_flattened
        patch.setattr(sink, "save_flattened", self._save)

    @staticmethod
    def writers() -> list[threading.Thread]:
        """The threads that write now."""
        return [one for one in threading.enumerate() if one.name == "nntrain-checkpoint"]

    def _save(self, content: Any, path: Path, **named: Any) -> Any:
        self.begun.append(int(path.stem.rsplit("-", 1)[1]))
        self.threads.append(threading.current_thread().name)
        self._going += 1
        self.at_once = max(self.at_once, self._going)
        assert self.may.wait(60)
        saved = self._plain(content, path, **named)
        self._going -= 1
        return saved


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """Slow saves."""
    made = Slow(monkeypatch)
    yield made
    made.may.set()


def test_the_training_goes_on_while_a_state_is_saved_that_stays_what_it_was(
    tmp_path: Path, slow: Slow, device: torch.device
) -> None:
    kept: dict[int, TrainState] = {}

    def keeps(transition: Transition) -> None:
        step = transition.state.progress.step
        if transition.event == "after_batch" and transition.progress.phase == "train":
            kept[step] = transition.state
            if step == 7:
                writers = slow.writers()
                assert len(writers) == 1  # still
                slow.may.set()
                writers[0].join(60)
                assert (tmp_path / "run" / "checkpoint-000001-step-00000002.safetensors").exists()

    straight = fitted(device=device)
    state = fitted(Checkpoint(tmp_path / "run", every_steps=2, keep_last=9), keeps, device=device)
    assert state == straight
    assert slow.begun[:2] == [2, 8]  # 4 and 6 were put off: the first was being written
    assert set(slow.threads[:2]) == {"nntrain-checkpoint"}
    for path in files(tmp_path / "run")[:2]:
        back = load(path, learner_of(device=device))
        assert back == kept[back.progress.step]


def test_what_is_saved_at_an_epoch_s_end_waits_for_the_one_before(tmp_path: Path, slow: Slow) -> None:
    timer = threading.Timer(0.3, slow.may.set)
    timer.start()
    fitted(Checkpoint(tmp_path / "run", every_steps=2, every_epochs=1, keep_last=9))
    timer.join()
    assert slow.begun[:2] == [2, 5]
    assert slow.at_once == 1
    assert steps(tmp_path / "run")[0] == 2


def test_a_save_beside_the_training_costs_one_copy_and_one_that_is_waited_for_none(tmp_path: Path, slow: Slow) -> None:
    """Of each tensor: the weight, and Adam's two of it."""
    inputs, outputs = WEIGHT[1], WEIGHT[0]
    train = [(torch.ones(2, inputs), torch.ones(2, outputs))] * STEPS

    def copies(*sinks: Any) -> int:
        learner = learner_of(*sinks, model=nn.Linear(inputs, outputs), dls=DataLoaders(train, train[:1]))
        state = learner.init(epochs=1)
        while state.progress.step < 1:  # the first step makes Adam's memory
            state = advance(learner, state).state
        cell = [state]
        del state
        counted = CountCopies()
        with counted:
            fit_step(learner, cell.pop())
        return counted.count

    def releases(transition: Transition) -> None:
        if transition.progress.phase == "eval":
            slow.may.set()

    straight = copies()
    # While it is being written, over the steps that come meanwhile, too.
    assert copies(Checkpoint(tmp_path / "slow", every_steps=2), releases) == straight + 3
    assert slow.begun[0] == 2
    assert copies(Checkpoint(tmp_path / "waited", every_steps=2, background=False)) == straight
    saves = Checkpoint(tmp_path / "beside", every_steps=2)
    assert copies(saves, waiting_for(saves)) == straight + 3 * 2
    assert steps(tmp_path / "beside") == [2, 4, 5]  # the last is waited for


def saved_of(path: Path) -> list[tuple[int, CheckpointSaved]]:
    """Give what a log tells of saves, with the step of the line before each."""
    found: list[tuple[int, CheckpointSaved]] = []
    for line in read(path):
        if isinstance(line.event, CheckpointSaved):
            assert line.step is not None
            found.append((line.step, line.event))
    return found


@pytest.mark.parametrize("log_first", [True, False])
@pytest.mark.parametrize("background", [True, False])
def test_each_save_is_told_of_in_the_log(tmp_path: Path, background: bool, log_first: bool) -> None:
    saves = Checkpoint(tmp_path / "run", every_steps=3, keep_last=9, background=background)
    with JsonLog(tmp_path / "log.jsonl", every="all") as log:
        fitted(*((log, saves) if log_first else (saves, log)))
    told = saved_of(tmp_path / "log.jsonl")
    assert [event.path for _, event in told] == [str(path) for path in files(tmp_path / "run")]
    for step, event in told:
        seen = inspect(event.path)
        assert seen.digest == event.digest
        assert seen.bytes == event.bytes == Path(event.path).stat().st_size
        assert event.seconds > 0
        assert event.waited_seconds > 0
        assert step >= seen.progress.step
        assert seen.run is not None
        assert str(seen.run["learner"]).startswith("Learner(Sequential, mse_loss, Adam")
    if not background:
        assert all(event.waited_seconds >= event.seconds for _, event in told)
    lines = [line.event.event for line in read(tmp_path / "log.jsonl")]
    assert lines[-2:] == ["fit_finished", "run_finished"]
    assert "checkpoint_saved" in lines[-5:-2]  # the last is told within the fit


@pytest.mark.sweep
def test_the_process_ends_when_what_is_being_saved_is(tmp_path: Path) -> None:
    code = f"""
import time, torch
from nntrain import Checkpoint, DataLoaders, Learner, advance
from nntrain.checkpoint import sink
plain = sink.save_flattened
sink.save_flattened = lambda *given, **named: (time.sleep(1.0), plain(*given, **named))[1]
batches = [(torch.ones(2, 3), torch.ones(2, 1))] * 9
loss = torch.nn.functional.mse_loss
learner = Learner(torch.nn.Linear(3, 1), DataLoaders(batches, batches), loss, loss, torch.optim.SGD, 0.1,
                  sinks=[Checkpoint({str(tmp_path / "run")!r}, every_steps=1)])
state = learner.init(epochs=1)
while state.progress.step < 1:
    state = advance(learner, state).state
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
    assert done.returncode == 0
    assert steps(tmp_path / "run") == [1]


def test_it_changes_no_bit(tmp_path: Path, device: torch.device) -> None:
    straight = fitted(epochs=3, device=device)
    for background in (True, False):
        saves = Checkpoint(tmp_path / str(background), every_steps=1, keep_best="loss", background=background)
        assert fitted(saves, epochs=3, device=device) == straight


# -- what fails -----------------------------------------------------------------------------------------------------


class FullDisk:
    """A disk that is full from some step on, until another."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.full = False
        plain = os.write

        def write(file: int, content: Any) -> int:
            if self.full and threading.current_thread().name.startswith(("nntrain-checkpoint", "MainThread")):
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain(file, content)

        patch.setattr("nntrain.checkpoint.container.os.write", write)

    def between(self, first: int, last: int) -> Callable[[Transition], None]:
        """Give a sink that has it full between two steps."""

        def sink_of_disk(transition: Transition) -> None:
            self.full = first <= transition.state.progress.step < last

        return sink_of_disk


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_ends_nothing_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    disk = FullDisk(monkeypatch)
    saves = Checkpoint(tmp_path / "run", every_steps=2, keep_last=9, background=background)
    told: list[Any] = []

    def tells(transition: Transition) -> None:
        told.extend(transition.logged)
        saves.wait()

    straight = fitted()
    learner = learner_of(disk.between(3, 7), saves, tells)
    with pytest.warns(SinkWarning, match="No space left on device"):
        outcome = learner.fit(2, print_stats=False)
    assert isinstance(outcome, Completed)
    assert outcome.state == straight
    assert dict(outcome.sink_failures) == {"Checkpoint": 2}
    assert steps(tmp_path / "run") == [2, 8, 10, 10]
    warnings = [one for one in told if isinstance(one, WarningEvent)]
    assert [one.code for one in warnings] == ["checkpoint_failed"] * 2
    assert all("No space left on device" in one.text and "stay" in one.text for one in warnings)
    saved = [Path(one.path).name.rsplit("-", 1)[1] for one in told if isinstance(one, CheckpointSaved)]
    assert [int(name.removesuffix(".safetensors")) for name in saved[:2]] == [2, 8]
    assert not list((tmp_path / "run").glob(f".*{UNFINISHED}"))


def test_on_a_disk_that_stays_full_the_older_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    saves = Checkpoint(tmp_path / "run", every_steps=2, keep_last=1)

    with pytest.warns(SinkWarning):
        learner_of(disk.between(5, 999), saves, waiting_for(saves)).fit(2, print_stats=False)
    disk.full = False
    assert steps(tmp_path / "run") == [4]
    found = resume(tmp_path / "run", learner_of())
    assert found.state is not None
    assert fit_step(learner_of(), found.state).state == fitted()


@pytest.mark.parametrize("background", [True, False])
def test_a_strict_one_ends_the_training_and_the_state_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    disk = FullDisk(monkeypatch)
    saves = Checkpoint(tmp_path / "run", every_steps=2, background=background, strict=True)
    with (
        pytest.warns(SinkWarning, match="No space left on device"),  # of the last save, after the error
        pytest.raises(CheckpointError, match="No space left on device") as caught,
    ):
        learner_of(disk.between(3, 999), saves, waiting_for(saves)).fit(2, print_stats=False)
    assert caught.value.problem == "unwritable"
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.step >= 4
    disk.full = False
    assert fit_step(learner_of(), before).state == fitted()
    assert steps(tmp_path / "run") == [2]


def test_a_folder_that_cannot_be_made_again_is_told_and_ends_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def removes(transition: Transition) -> None:
        if transition.state.progress.step == 5 and folder.is_dir():
            shutil.rmtree(folder)
            folder.touch()

    learner = learner_of(Checkpoint(folder, every_steps=2, background=False), removes)
    with pytest.warns(SinkWarning, match="run: it is a file; expected a folder"):
        assert learner.fit(2, print_stats=False).state == fitted()


def broken_at(step: int, error: BaseException) -> Callable[[Tensor, Tensor], Tensor]:
    """Give a loss that raises in the train batch after `step` of them."""
    count = [0]

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            if count[0] == step:
                raise error
            count[0] += 1
        return mse_loss(preds, target)

    return loss_fn


@pytest.mark.parametrize("error", [RuntimeError("a cosmic ray"), MemoryError()], ids=["error", "memory"])
@pytest.mark.parametrize("background", [True, False])
def test_the_last_state_is_saved_before_an_error_leaves(tmp_path: Path, error: Exception, background: bool) -> None:
    learner = learner_of(Checkpoint(tmp_path / "run", background=background), loss_fn=broken_at(7, error))
    with pytest.raises(type(error)) as caught:
        learner.fit(3, print_stats=False)
    (only,) = files(tmp_path / "run")
    assert inspect(only).progress.step == 7
    back = load(only, learner_of())
    assert back == state_before(caught.value)
    assert fit_step(learner_of(), back).state == fitted(epochs=3)


def test_what_is_saved_already_is_not_saved_again(tmp_path: Path) -> None:
    learner = learner_of(keeping_all(tmp_path / "run", every_steps=7), loss_fn=broken_at(7, RuntimeError("ray")))
    with pytest.raises(RuntimeError, match="ray"):
        learner.fit(3, print_stats=False)
    assert steps(tmp_path / "run") == [7]


def test_a_last_save_that_takes_too_long_is_given_up(tmp_path: Path, slow: Slow) -> None:
    saves = Checkpoint(tmp_path / "run", grace_seconds=0.2)
    learner = learner_of(saves, loss_fn=broken_at(2, RuntimeError("ray")))
    began = time.monotonic()
    with (
        pytest.warns(SinkWarning, match=r"the last state was not saved within 0\.2 seconds"),
        pytest.raises(RuntimeError, match="ray"),
    ):
        learner.fit(3, print_stats=False)
    assert 0.2 <= time.monotonic() - began < 5
    slow.may.set()
    assert saves.wait(60)
    assert files(tmp_path / "run") == []  # its time was up


def test_an_error_while_another_state_is_being_saved_waits_for_both(tmp_path: Path, slow: Slow) -> None:
    timer = threading.Timer(0.3, slow.may.set)
    timer.start()
    saves = Checkpoint(tmp_path / "run", every_steps=2, keep_last=9)
    learner = learner_of(saves, loss_fn=broken_at(4, RuntimeError("ray")))
    with pytest.raises(RuntimeError, match="ray"):
        learner.fit(3, print_stats=False)
    timer.join()
    assert slow.begun == [2, 4]
    assert slow.at_once == 1
    assert steps(tmp_path / "run") == [2, 4]


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path, slow: Slow) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    left = folder / f".checkpoint-000007-step-00000001.safetensors.00{UNFINISHED}"
    left.write_bytes(b"half")
    learner = learner_of(Checkpoint(folder, every_steps=2))
    assert not left.exists()
    slow.may.set()
    entered, leave = threading.Event(), threading.Event()
    plain = os.fsync

    def fsync(file: int) -> None:
        entered.set()
        leave.wait(60)
        plain(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nntrain.checkpoint.container.os.fsync", fsync)
        state = learner.init(epochs=1)
        while state.progress.step < 2:
            state = advance(learner, state).state
        assert entered.wait(60)
        (written,) = folder.iterdir()
        Checkpoint(folder)  # of another learner, in this process
        assert written.exists()
        leave.set()
        assert isinstance(learner.sinks[0], Checkpoint)
        assert learner.sinks[0].wait(60)
    assert steps(folder) == [2]


# -- what cannot be meant -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"every_steps": 0}, "every_steps is 0; expected a whole number from 1 up"),
        ({"every_steps": 1.5}, "every_steps is 1.5; expected a whole number"),
        ({"every_steps": True}, "every_steps is True; expected a whole number"),
        ({"every_epochs": -1}, "every_epochs is -1; expected a whole number from 1 up"),
        ({"keep_last": 0}, "keep_last is 0; expected a whole number from 1 up"),
        ({"every_minutes": 0}, "every_minutes is 0; expected a finite number greater than 0"),
        ({"every_minutes": math.inf}, "every_minutes is inf; expected a finite number"),
        ({"every_minutes": math.nan}, "every_minutes is nan; expected a finite number"),
        ({"grace_seconds": "1"}, "grace_seconds is '1'; expected a finite number"),
        ({"mode": "best"}, "mode is 'best'; expected 'min'"),
        ({"keep_best": ""}, "keep_best is ''; expected 'loss', a metric's name, or None"),
        ({"keep_best": True}, "keep_best is True; expected 'loss', a metric's name, or None"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Checkpoint(tmp_path / "run", **arguments)
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "run").exists()


def test_where_there_can_be_no_folder_it_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "away")
    cases = {
        "file": "it is a file; expected a folder",
        "file/run": "there can be no such folder",
        "link": "it is a link to .*away, which is not there",
    }
    for folder, said in cases.items():
        with pytest.raises(CheckpointError, match=said) as caught:
            Checkpoint(tmp_path / folder)
        assert caught.value.problem == "unwritable"


def test_sums_and_dropout_go_on_amid_an_epoch(tmp_path: Path) -> None:
    """From each file of a run: the printed statistics and the last bit."""
    straight = fitted(epochs=2)
    fitted(keeping_all(tmp_path / "run", every_steps=1))
    for path in files(tmp_path / "run")[:-1]:
        back = load(path, learner_of())
        done = fit_step(learner_of(), back).state
        assert done == straight, path
        assert same_bits(dict(done.params), dict(straight.params))
