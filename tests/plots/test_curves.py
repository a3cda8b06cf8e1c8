"""Losses and metrics: what is drawn is what the runs have, whatever they are given as, and however many they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import get_backend, pyplot, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy

from nntrain import CancelFit, DataLoaders, Learner, TrainState, accuracy, on, plots
from nntrain.errors import ConfigError, LogError
from nntrain.log import BatchFinished, JsonLog, read, replay
from nntrain.log.report.run_view import colour as colour_of
from nntrain.task.supervised import supervised
from nntrain.update import chain, clip_norm, optimizer
from nntrain.values.history import History
from nntrain.values.record import FrozenMapping
from tests.log.trained import BATCHES, learner_of
from tests.plots.drawn import colour, crosses, curves, finite, history, legend, own_axes, points, render

EPOCHS = 3


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "first.jsonl"
    learner_of(JsonLog(path, every=1)).fit(EPOCHS, print_stats=False)
    return path


@pytest.fixture(scope="module")
def state() -> TrainState:
    return learner_of().fit(EPOCHS, print_stats=False).state


def drawn(axes: Axes) -> list[list[tuple[float, float]]]:
    return [points(line) for line in curves(axes)]


def expected(state: TrainState, phase: str, value: Callable[[Any], float]) -> list[tuple[float, float]]:
    return [(stats.epoch + 1.0, value(stats)) for stats in state.history if stats.phase == phase]


def test_the_losses_of_a_run_are_those_of_its_history(state: TrainState) -> None:
    axes = plots.losses(state, ax=own_axes())
    assert drawn(axes) == [expected(state, phase, lambda stats: stats.loss) for phase in ("train", "eval")]
    assert legend(axes) == ["train", "eval"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epochs trained", "loss")
    assert [colour(line) for line in curves(axes)] == [colour_of(0), colour_of(1)]


def test_a_metric_is_drawn_by_its_name(state: TrainState) -> None:
    axes = plots.metric(state, "metric", ax=own_axes())
    assert drawn(axes) == [expected(state, phase, lambda stats: stats.metrics["metric"]) for phase in ("train", "eval")]
    assert axes.get_ylabel() == "metric"
    assert drawn(plots.metric(history([1.0]), "seconds", ax=own_axes())) == [[(1.0, 0.5)]] * 2


def test_a_run_may_be_a_state_an_outcome_a_history_a_log_or_a_run(state: TrainState, log: Path) -> None:
    @on("after_epoch")
    def cancel(state: TrainState) -> CancelFit | TrainState:
        return CancelFit(reason="enough") if len(state.history) == 2 * EPOCHS else state

    outcome = learner_of(subs=[cancel]).fit(EPOCHS + 5, print_stats=False)
    (run,) = replay(read(log))
    for given in (outcome, state.history, log, str(log), run):
        assert drawn(plots.losses(given, ax=own_axes())) == drawn(plots.losses(state, ax=own_axes())), type(given)


def test_each_of_several_runs_has_a_colour_and_each_phase_a_dash() -> None:
    axes = plots.losses({"low": history([2.0, 1.0]), "high": history([4.0, 3.0, 2.5])}, ax=own_axes())
    assert drawn(axes) == [
        [(1, 2), (2, 1)],
        [(1, 3), (2, 2)],
        [(1, 4), (2, 3), (3, 2.5)],
        [(1, 5), (2, 4), (3, 3.5)],
    ]
    assert [colour(line) for line in curves(axes)] == [colour_of(0)] * 2 + [colour_of(1)] * 2
    assert [line.get_linestyle() for line in curves(axes)] == [":", "-"] * 2
    assert legend(axes) == ["low", "high", "train", "eval"]


def test_sets_that_are_evaluated_have_lines_of_their_own() -> None:
    two = history([1.0, 2.0], sets=("near", "far"))
    assert legend(plots.losses(two, ax=own_axes())) == ["train", "near", "far"]
    axes = plots.losses([two, two], ax=own_axes())
    assert legend(axes) == ["run 1", "run 2", "train", "near", "far"]
    assert len({line.get_linestyle() for line in curves(axes)}) == 3


def test_fifty_runs_are_a_scale_of_colours_with_some_in_the_legend() -> None:
    axes = plots.losses([history([float(run)] * 5) for run in range(50)], ax=own_axes())
    assert [y for line in curves(axes)[::2] for y in {y for _, y in points(line)}] == [*map(float, range(50))]
    assert len({colour(line) for line in curves(axes)}) == 50
    assert legend(axes) == [*(f"run {run}" for run in (1, 10, 20, 30, 40, 50)), "train", "eval"]
    made = axes.get_legend()
    assert made is not None
    assert made.get_title().get_text() == "6 of 50 runs"


# -- what is not there -------------------------------------------------------------------------------------------------


def test_what_is_not_finite_is_a_gap_and_a_cross() -> None:
    axes = plots.losses(history([3.0, math.nan, 2.0, math.inf, math.nan, 1.0]), ax=own_axes())
    train = curves(axes)[0]
    assert finite(train) == [(1, 3), (3, 2), (6, 1)]
    assert [x for x, _ in points(train)] == [1, 2, 3, 4, 5, 6]
    assert crosses(axes) == [2, 4, 5] * 2
    assert legend(axes) == ["train", "eval", "not finite"]
    assert axes.get_ylim()[1] < 5


def test_a_run_of_nothing_but_nan_is_drawn() -> None:
    axes = plots.losses(history([math.nan] * 3), ax=own_axes())
    assert crosses(axes) == [1, 2, 3] * 2
    render(axes)


def test_points_without_a_neighbour_have_a_symbol() -> None:
    long = [1.0] * 40
    long[9] = long[11] = math.nan
    axes = plots.losses(history(long), ax=own_axes())
    assert curves(axes)[0].get_markevery() == [10]
    assert curves(plots.losses(history([1.0] * 40), ax=own_axes()))[0].get_marker() == ""
    single = curves(plots.losses(history([1.0]), ax=own_axes()))[0]
    assert (single.get_markevery(), single.get_marker()) == ([0], "o")


def test_the_axis_of_a_single_epoch_has_its_number_alone() -> None:
    axes = plots.losses(history([1.0]), ax=own_axes())
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize("runs", [history([]), [history([])] * 3], ids=["one", "three"])
def test_before_the_first_phase_the_axes_say_so(runs: Any) -> None:
    for axes in (plots.losses(runs, ax=own_axes()), plots.metric(runs, "accuracy", ax=own_axes())):
        assert not axes.lines
        assert [text.get_text() for text in axes.texts] == ["no finished phase yet"]


def test_a_run_that_has_not_begun_stands_in_the_legend_of_the_others() -> None:
    axes = plots.losses({"old": history([1.0]), "new": history([])}, ax=own_axes())
    assert legend(axes) == ["old", "new", "train", "eval"]
    assert not axes.texts


def test_an_eval_without_a_loss_has_no_curve() -> None:
    without = [one.model_copy(update={"has_loss": one.phase == "train"}) for one in history([1.0, 2.0])]
    axes = plots.losses(History(without), ax=own_axes())
    assert legend(axes) == ["train"]
    assert not crosses(axes)


# -- by batch ----------------------------------------------------------------------------------------------------------


def test_by_batch_a_log_has_each_of_them(log: Path) -> None:
    axes = plots.losses(log, by="batch", ax=own_axes())
    (run,) = replay(read(log))
    for line, phase in zip(curves(axes), ("train", "eval"), strict=True):
        told = [one for one in run.batches if one.phase == phase]
        assert [y for _, y in points(line)] == [one.event.loss for one in told if isinstance(one.event, BatchFinished)]
        of = {"train": 3, "eval": 2}[phase]
        assert [x for x, _ in points(line)] == pytest.approx([one.epoch + (one.batch - 1) / of for one in told])
    assert len(points(curves(axes)[0])) == 3 * EPOCHS


def test_by_batch_there_are_rates_and_what_update_rules_tell(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rule = chain(clip_norm(1.0), optimizer(torch.optim.SGD, lr=0.1, groups={"bias": {"lr": 0.2}}))
    dls = DataLoaders(BATCHES, None)
    task = supervised(cross_entropy, {"accuracy": accuracy})
    Learner.of(nn.Linear(3, 2), dls, task, rule, sinks=[JsonLog(path, every=1)]).fit(1, print_stats=False)
    assert {y for _, y in points(curves(plots.metric(path, "lr", by="batch", ax=own_axes()))[0])} == {0.1}
    assert {y for _, y in points(curves(plots.metric(path, "lr/bias", by="batch", ax=own_axes()))[0])} == {0.2}
    assert all(y > 0 for _, y in points(curves(plots.metric(path, "grad_norm", by="batch", ax=own_axes()))[0]))


def test_a_state_has_no_batches(state: TrainState) -> None:
    with pytest.raises(ConfigError, match=r"run has no numbers by batch: .* JsonLog"):
        plots.losses(state, by="batch", ax=own_axes())


# -- names -------------------------------------------------------------------------------------------------------------


def test_logs_are_named_by_their_files_and_their_runs_where_there_are_several(log: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.jsonl"
    for _ in range(2):
        learner_of(JsonLog(both)).fit(1, print_stats=False)
    ids = [run.run_id[-8:] for run in replay(read(both))]
    said = legend(plots.losses([log, both, str(log)], ax=own_axes()))
    assert said[:4] == ["first (1)", f"both: {ids[0]}", f"both: {ids[1]}", "first (4)"]
    assert legend(plots.losses(replay(read(both)), ax=own_axes()))[:2] == ids
    assert legend(plots.losses({"mine": log, "theirs": both}, ax=own_axes()))[:2] == ["mine", f"theirs: both: {ids[0]}"]


def test_names_are_text_and_no_mathematics_and_none_is_left_out() -> None:
    names = ["_hidden", "$\\frac$", "a\nb\x1b[31m", "x" * 200]
    axes = plots.losses({name: history([1.0]) for name in names}, ax=own_axes())
    assert legend(axes)[:3] == ["_hidden", "$\\frac$", "a\\nb\\x1b[31m"]
    assert len(legend(axes)[3]) == 60
    render(axes)  # mathematics that is none would raise
    named = [one.model_copy(update={"metrics": FrozenMapping({"$\\frac$": 1.0})}) for one in history([1.0])]
    assert plots.metric(History(named), "$\\frac$", ax=axes).get_ylabel() == "$\\frac$"
    render(axes)


# -- where it is drawn -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_figures() -> Any:
    pyplot.close("all")
    yield
    pyplot.close("all")


@pytest.mark.usefixtures("no_figures")
def test_on_given_axes_pyplot_is_left_alone_and_no_setting_changes() -> None:
    pyplot.figure()
    before = dict(rcParams), get_backend(), pyplot.get_fignums(), pyplot.gcf()
    axes = own_axes()
    assert plots.losses([history([1.0, 2.0])] * 12, ax=axes) is axes
    assert (dict(rcParams), get_backend(), pyplot.get_fignums(), pyplot.gcf()) == before


@pytest.mark.usefixtures("no_figures")
def test_without_axes_there_is_a_new_figure_of_pyplot_s() -> None:
    settings = dict(rcParams), get_backend()
    first, second = plots.losses(history([1.0])), plots.losses(history([1.0]))
    assert len(pyplot.get_fignums()) == 2
    assert first.figure is not second.figure
    assert pyplot.gca() is second
    assert (dict(rcParams), get_backend()) == settings


@pytest.mark.usefixtures("no_figures")
def test_a_long_legend_covers_no_data_where_the_figure_makes_room() -> None:
    for names in (range(8), [f"a long name of a run, number {run}" for run in range(5)]):
        axes = plots.losses({str(name): history([1.0, 2.0]) for name in names})
        render(axes)
        made = axes.get_legend()
        assert made is not None
        box, data = made.get_window_extent(), axes.get_window_extent()
        assert box.x0 >= data.x1 or box.y0 >= data.y1
        figure = axes.get_figure(root=True)
        assert figure is not None
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
        assert data.width > 0.5 * figure.bbox.width


def test_two_plots_may_be_on_one_axes() -> None:
    axes = own_axes()
    plots.losses(history([1.0]), ax=axes)
    plots.metric(history([1.0]), "accuracy", ax=axes)
    assert len(curves(axes)) == 4


# -- what cannot be meant ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([], "There are no runs to draw"),
        ({}, "There are no runs to draw"),
        (3, "A int is no run; expected a state"),
        ([history([1.0])[0]], "A EpochStats is no run"),
        ({"one": None}, "A NoneType is no run"),
    ],
)
def test_what_is_no_run_is_refused(runs: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plots.losses(runs, ax=own_axes())


def test_a_metric_that_no_run_has_is_refused_with_those_there_are(log: Path) -> None:
    with pytest.raises(ConfigError, match="No run has a number 'acuracy' by epoch; there are accuracy, loss, seconds"):
        plots.metric(history([1.0]), "acuracy", ax=own_axes())
    with pytest.raises(ConfigError, match="by batch; there are loss, lr, metric, samples_per_s"):
        plots.metric(log, "acuracy", by="batch", ax=own_axes())


def test_no_figure_is_left_behind_by_an_error() -> None:
    pyplot.close("all")
    with pytest.raises(ConfigError):
        plots.metric(history([1.0]), "acuracy")
    assert not pyplot.get_fignums()


def test_by_is_one_of_two() -> None:
    step: Any = "step"
    with pytest.raises(ConfigError, match="by is 'step'; expected 'epoch' or 'batch'"):
        plots.losses(history([1.0]), by=step, ax=own_axes())


def test_a_log_that_cannot_be_read_or_is_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be read"):
        plots.losses(tmp_path / "nothing.jsonl", ax=own_axes())
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ConfigError, match="has no run yet"):
        plots.losses(tmp_path / "empty.jsonl", ax=own_axes())


@pytest.mark.parametrize("ax", [Figure(), Figure().subplots(2, 2), "axes"], ids=lambda one: type(one).__name__)
def test_what_is_no_axes_is_refused(ax: Any) -> None:
    with pytest.raises(ConfigError, match=f"ax is a {type(ax).__name__}; expected an Axes"):
        plots.losses(history([1.0]), ax=ax)
