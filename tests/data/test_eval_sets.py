"""`DataLoaders(train, valid)` with several sets by name, or none: what is told of them, and what cannot be meant."""

from __future__ import annotations

import copy
import csv
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from nntrain import (
    Cancelled,
    DataLoaders,
    EarlyStopping,
    EpochStats,
    Learner,
    StepOutput,
    TrainState,
    advance,
    epoch_step,
    fit_step,
)
from nntrain.checkpoint import Checkpoint, load, resume, save
from nntrain.cli import nntrain
from nntrain.data.loaders import SequenceLoader, eval_sets
from nntrain.errors import ConfigError, DataError, MisfitError, NNTrainError, StateError
from nntrain.log import JsonLog, read, replay
from nntrain.log.export import Csv, export
from nntrain.log.export.curves import Curves
from nntrain.log.report import page
from nntrain.log.terminal.gauge import Gauge
from nntrain.update import optimizer
from nntrain.values.log_event import WarningEvent

Batch = tuple[Tensor, Tensor]


def batches(count: int, seed: int = 0) -> list[Batch]:
    source = torch.Generator().manual_seed(seed)
    return [(torch.randn(2, 1, generator=source), torch.randn(2, 1, generator=source)) for _ in range(count)]


NEAR, FAR = batches(2, 1), batches(3, 2)


def learner_of(valid: Any = None, **arguments: Any) -> Learner[Batch]:
    """Make a learner that evaluates two sets, or those given."""
    torch.manual_seed(0)
    dls = DataLoaders(batches(3), {"near": NEAR, "far": FAR} if valid is None else valid)
    return Learner(nn.Linear(1, 1), dls, mse_loss, {"off": l1_loss}, torch.optim.SGD, 0.1, **arguments)


def without_eval(**arguments: Any) -> Learner[Batch]:
    return learner_of().replace(dls=DataLoaders(batches(3), None), **arguments)


def phases(state: TrainState) -> list[tuple[int, str, str, int]]:
    return [(one.epoch, one.phase, one.data, one.batches) for one in state.history]


def test_an_epoch_evaluates_each_set_in_order() -> None:
    printed = io.StringIO()
    with redirect_stdout(printed):
        state = learner_of().fit(2).state
    assert phases(state) == [
        (epoch, *phase) for epoch in (0, 1) for phase in (("train", "", 3), ("eval", "near", 2), ("eval", "far", 3))
    ]
    lines = printed.getvalue().splitlines()
    assert [line.partition(" | loss=")[0] for line in lines[:3]] == [
        "epoch=00 | train",
        "epoch=00 | near ",
        "epoch=00 | far  ",
    ]


def values(stats: EpochStats) -> tuple[Any, ...]:
    return stats.loss, dict(stats.metrics), stats.samples, stats.batches


def test_the_numbers_of_a_set_are_those_that_it_has_alone() -> None:
    both = learner_of().fit(2, print_stats=False).state
    for name, data in (("near", NEAR), ("far", FAR)):
        alone = learner_of(data).fit(2, print_stats=False).state
        assert alone.tensors == both.tensors
        mine = [values(one) for one in both.history if one.data == name]
        assert mine == [values(one) for one in alone.history if one.phase == "eval"]


def test_without_eval_an_epoch_is_its_train_phase() -> None:
    state = without_eval().fit(2, print_stats=False).state
    assert phases(state) == [(0, "train", "", 3), (1, "train", "", 3)]
    assert state.progress.epoch == 2
    assert state.tensors == learner_of().fit(2, print_stats=False).state.tensors


def test_changing_the_mapping_later_changes_nothing() -> None:
    sets = {"near": NEAR}
    dls = DataLoaders(batches(3), sets)
    sets["far"] = FAR
    assert list(eval_sets(dls.valid)) == ["near"]


ODD = [
    ({}, "dls.valid is an empty mapping; expected loaders by name, or None to evaluate on nothing."),
    ({"": NEAR}, "dls.valid names a set ''; expected a text of one line without '/', other than 'train'."),
    ({"a/b": NEAR}, "dls.valid names a set 'a/b'; expected"),
    ({"train": NEAR}, "dls.valid names a set 'train'; expected"),
    ({" far": NEAR}, "dls.valid names a set ' far'; expected"),
    ({"a\nb": NEAR}, "dls.valid names a set 'a\\nb'; expected"),
    ({"\x1b[31m": NEAR}, "dls.valid names a set '\\x1b[31m'; expected"),
    ({3: NEAR}, "dls.valid names a set 3; expected"),
    ({None: NEAR}, "dls.valid names a set None; expected"),
]


@pytest.mark.parametrize(("valid", "message"), ODD)
def test_odd_names_are_refused_before_anything_runs(valid: Any, message: str) -> None:
    class Own:
        train = batches(1)

    own: Any = Own()
    own.valid = valid
    for make in (lambda: DataLoaders(batches(1), valid), lambda: learner_of().replace(dls=own)):
        with pytest.raises(ConfigError) as caught:
            make()
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "DataLoaders: valid['far'] is a list of no batches; expected at least one."),
        (iter([]), "DataLoaders: valid['far'] is a list_iterator, which can be read only once"),
        (7, "DataLoaders: valid['far'] is a int; expected something that gives batches"),
        (None, "DataLoaders: valid['far'] is a NoneType; expected something that gives batches"),
    ],
)
def test_a_set_is_a_loader(loader: Any, message: str) -> None:
    with pytest.raises(NNTrainError) as caught:
        DataLoaders(batches(1), {"near": NEAR, "far": loader})
    assert str(caught.value).startswith(message)


def test_of_ones_own_data_too() -> None:
    class Own:
        train = batches(3)
        valid = {"near": NEAR, "far": list[Batch]()}  # noqa: RUF012 - as users write it

    with pytest.raises(DataError, match=r"dls.valid\['far'\] has no batch; expected at least one"):
        learner_of().replace(dls=Own())

    class Empty:
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(DataError, match=r"dls.valid\['far'\] gave no batch; expected at least one"):
        learner_of({"near": NEAR, "far": Empty()}).fit(1, print_stats=False)
    assert isinstance(learner_of({"near": SequenceLoader(NEAR)}).fit(1, print_stats=False).state, TrainState)


# -- monitors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", ["near/loss", "far/loss", "far/off", "train/loss", "train/off"])
def test_early_stopping_reads_the_value_that_it_names(monitor: str) -> None:
    stopping = EarlyStopping(monitor, patience=1, min_delta=100.0)
    outcome = learner_of(subs=[stopping]).fit(5, print_stats=False)
    label, _, name = monitor.partition("/")
    assert isinstance(outcome, Cancelled)
    found = [one for one in outcome.state.history if one.label == label]
    assert len(found) == 2  # the second is not better by 100
    first = found[0]
    best = first.loss if name == "loss" else first.metrics[name]
    assert outcome.verdict.reason == f"{monitor} has not got better than {best} for 1 epochs"
    assert outcome.state.history[-1].label == label
    assert outcome.state.get(stopping.slot).best == best


def test_of_one_set_by_name_the_name_may_be_left_out() -> None:
    for monitor in ("loss", "near/loss"):
        outcome = learner_of({"near": NEAR}, subs=[EarlyStopping(monitor, patience=1, min_delta=100.0)]).fit(
            5, print_stats=False
        )
        assert len(outcome.state.history) == 4
    outcome = learner_of(NEAR, subs=[EarlyStopping("eval/loss", patience=1, min_delta=100.0)]).fit(5, print_stats=False)
    assert len(outcome.state.history) == 4


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (
            "loss",
            "EarlyStopping monitors 'loss'; there are train/loss, train/off, near/loss, near/off, far/loss, far/off.",
        ),
        ("off", "EarlyStopping monitors 'off'; there are train/loss,"),
        ("fra/loss", "EarlyStopping monitors 'fra/loss'; there are .* Did you mean 'far/loss'?"),
        ("far/loss/", "EarlyStopping monitors 'far/loss/'"),
        ("eval/loss", "EarlyStopping monitors 'eval/loss'"),
    ],
)
def test_a_monitor_must_say_of_which_set(monitor: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        learner_of(subs=[EarlyStopping(monitor)])
    with pytest.raises(ConfigError, match=message.replace("EarlyStopping", "Checkpoint").replace("?", r"\?")):
        learner_of(sinks=[Checkpoint(tmp_path, keep_best=monitor)])


def test_a_monitor_of_a_task_of_ones_own_must_say_of_which_set() -> None:
    """Its parts are known when it has run, but not of which of several sets a value would be."""

    def task(model: nn.Module, batch: Batch) -> StepOutput[None]:
        loss = mse_loss(model(batch[0]), batch[1])
        return StepOutput(loss, parts={"twice": 2 * loss})

    def made(valid: Any, monitor: str) -> Learner[Batch, Any]:
        dls: DataLoaders[Batch] = DataLoaders(batches(3), valid)
        stopping = EarlyStopping(monitor, patience=1, min_delta=100.0)
        return Learner.of(nn.Linear(1, 1), dls, task, optimizer(torch.optim.SGD, lr=0.1), subs=[stopping])

    sets = {"near": NEAR, "far": FAR}
    with pytest.raises(ConfigError, match="monitors 'twice'; say of which phase: train/twice, near/twice, far/twice"):
        made(sets, "twice")
    with pytest.raises(ConfigError, match="monitors 'twice'; say of which phase: train/twice"):
        made(None, "twice")
    assert len(made(sets, "far/twice").fit(5, print_stats=False).state.history) == 6
    assert len(made(NEAR, "twice").fit(5, print_stats=False).state.history) == 4
    assert len(made(None, "train/twice").fit(5, print_stats=False).state.history) == 2


def test_without_eval_only_the_train_phase_can_be_monitored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"monitors 'loss'; there are train/loss, train/off."):
        without_eval(subs=[EarlyStopping()])
    for stopping in (EarlyStopping("train/loss", patience=1, min_delta=9.0), EarlyStopping(phase="train", patience=1)):
        assert without_eval(subs=[stopping]).fit(2, print_stats=False).state.history
    sink = Checkpoint(tmp_path, keep_best="train/loss", keep_last=1)
    without_eval(sinks=[sink]).fit(2, print_stats=False)


def test_a_metric_that_is_named_as_one_of_a_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="A metric is named 'far/off', as if it were one of the set 'far'"):
        learner_of().replace(metric_fn={"far/off": l1_loss})


@pytest.mark.parametrize("monitor", ["near/loss", "far/loss", "train/loss"])
def test_the_best_by_a_set_is_kept(monitor: str, tmp_path: Path) -> None:
    states: list[TrainState] = []
    sink = Checkpoint(tmp_path, keep_best=monitor, keep_last=1, every_epochs=1, mode="max", background=False)
    learner = learner_of(sinks=[sink, lambda one: states.append(copy.deepcopy(one.state))])
    learner.fit(4, print_stats=False)
    label = monitor.partition("/")[0]
    scored = [one for one in states[-1].history if one.label == label]
    best = max(scored, key=lambda one: one.loss)
    kept = [load(path, learner_of()) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert any(state.history[-1].epoch == best.epoch for state in kept)


# -- files, logs, and who reads them ------------------------------------------------------------------------------


def test_a_state_amid_a_set_is_for_a_learner_that_has_it(tmp_path: Path) -> None:
    learner = learner_of()
    state = learner.init(epochs=1)
    while not (state.progress.data == "far" and state.progress.batch == 1):
        state = advance(learner, state).state
    assert "phase=eval, data=far, batch=1" in repr(state)
    one = learner_of(NEAR)
    said = (
        "The state stands in the eval phase of far; dls.valid has one without a name. Finish the epoch with a learner"
    )
    with pytest.raises(StateError, match=re.escape(said)):
        fit_step(one, state)
    with pytest.raises(StateError, match=r"dls.valid has nothing to evaluate on"):
        fit_step(without_eval(), state)
    path = tmp_path / "amid.safetensors"
    save(state, path)
    with pytest.raises(MisfitError, match="The state stands in the eval phase of far"):
        load(path, one)
    straight = fit_step(learner, state)
    assert fit_step(learner_of(), load(path, learner_of())) == straight
    assert fit_step(one, epoch_step(learner, state).state, 2).state.progress.epoch == 2  # between epochs any will do
    shown = CliRunner().invoke(nntrain, ["checkpoint", "show", str(path)]).output
    assert "epoch 0 of 1, eval (far), batch 1" in shown


def test_a_set_of_another_size_is_told(tmp_path: Path) -> None:
    learner = learner_of(sinks=[Checkpoint(tmp_path, every_epochs=1)])
    learner.fit(1, print_stats=False)
    state = resume(tmp_path, learner_of({"near": NEAR, "far": FAR[:1]})).state
    assert state is not None
    (changed,) = (event for event in state.loaded if isinstance(event, WarningEvent))
    assert changed.text.endswith("valid/far_batches was 3, and is 1")


def logged(folder: Path, **goal: Any) -> tuple[Path, TrainState]:
    with JsonLog(folder / "log.jsonl", every=1) as log:
        learner = learner_of(sinks=[log])
        state = fit_step(learner, learner.init(), **goal).state
    return folder / "log.jsonl", state


def test_the_log_and_its_readers_know_the_sets(tmp_path: Path) -> None:
    path, state = logged(tmp_path, epochs=2)
    lines = list(read(path))
    (run,) = replay(lines)
    assert run.history == state.history
    assert [line.data for line in run.batches][:8] == ["", "", "", "near", "near", "far", "far", "far"]
    assert run.config["valid/far_batches"] == 3
    curves = Curves()
    drawn = {point.curve for line in lines for point in curves.points(line)}
    assert {"loss/train", "loss/near", "loss/far", "near_batch/loss", "far_batch/off"} <= drawn
    export(lines, Csv(tmp_path))
    rows = list(csv.DictReader((tmp_path / "epochs.csv").read_text().splitlines()))
    assert [row["data"] for row in rows] == ["", "near", "far"] * 2
    shown = CliRunner().invoke(nntrain, ["log", "show", str(path)]).output
    rows_shown = re.findall(r"^ *\d+ +(train|near|far) ", shown, re.MULTILINE)
    assert rows_shown == ["train", "near", "far"] * 2
    assert "lowest near loss" in shown
    assert "final loss, far" in page([run])


def test_a_run_that_goes_back_into_a_set_drops_what_came_after(tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log.jsonl", every=1) as log:
        learner = learner_of(sinks=[log])
        states = [learner.init(epochs=2)]
        while states[-1].progress.at != "finished":
            states.append(advance(learner, states[-1]).state)
        amid = next(one for one in states if (one.progress.data, one.progress.batch) == ("far", 1))
        final = fit_step(learner, amid).state
    (run,) = replay(read(tmp_path / "log.jsonl"))
    assert run.history == final.history
    places = [(line.epoch, line.label, line.batch) for line in run.batches]
    assert len(places) == len(set(places)) == 16


@pytest.mark.parametrize("goal", [{"epochs": 2}, {"steps": 5}])
def test_the_progress_of_a_fit_grows_to_1(goal: dict[str, int], tmp_path: Path) -> None:
    path, _ = logged(tmp_path, **goal)
    gauge, done = Gauge(), list[float]()
    for line in read(path):
        gauge.add(line)
        if line.event.event == "epoch_finished":
            done.append(gauge.done)
    assert gauge.has_goal
    assert done[2] == pytest.approx(0.5 if "epochs" in goal else 0.6)  # the first epoch
    assert done[0] < done[2] or "steps" in goal
    assert done[-1] == 1.0
    assert gauge.left_s is not None
    assert gauge.left_s < 1e-6


def test_without_valid_nothing_is_evaluated() -> None:
    learner = learner_of().replace(dls=DataLoaders(batches(3)))
    assert learner.dls.valid is None
    state = learner.fit(2, print_stats=False).state
    assert [one.phase for one in state.history] == ["train", "train"]
    assert state == learner.replace(dls=DataLoaders(batches(3), None)).fit(2, print_stats=False).state
