"""Activations and gradients are drawn as they were seen, of one look or of a whole log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, plots, supervised
from nntrain.errors import ConfigError
from nntrain.log import BatchFinished, JsonLog, read, replay
from nntrain.looking import ActivationStats
from nntrain.plots.axes import RED
from nntrain.update import chain, gradient_norms, optimizer
from nntrain.values.looks import Activations, GradientFlow, LayerActivations, ParameterGradients
from tests.log.trained import BATCHES, learner_of
from tests.plots.drawn import colour, crosses, curves, legend, own_axes, points, render


def layer(name: str, mean: float = 0.5, dead: float = 0.25, histogram: Sequence[int] = (4, 3, 0)) -> LayerActivations:
    return LayerActivations(
        layer=name, kind="Linear", shape=(4, 2), mean=mean, std=2 * mean, dead=dead, histogram=tuple(histogram)
    )


def look(*layers: LayerActivations, high: float = 6.0) -> Activations:
    return Activations(high=high, layers=layers)


def three() -> list[Axes]:
    return [*Figure().subplots(1, 3)]


def row_names(axes: Axes) -> list[str]:
    return [one.get_text() for one in axes.get_yticklabels()]


def bars(axes: Axes) -> list[float]:
    return [one.get_width() for one in axes.patches if isinstance(one, Rectangle)]


def mesh(axes: Axes) -> Any:
    (found,) = (one for one in axes.collections if isinstance(one, QuadMesh))
    counts = found.get_array()
    assert counts is not None
    return np.expm1(counts), found.get_coordinates()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "log.jsonl"
    learner_of(JsonLog(path), subs=[ActivationStats(every=1, bins=5, high=2.0)]).fit(2, print_stats=False)
    return path


# -- activations -------------------------------------------------------------------------------------------------------


def test_one_look_has_a_row_for_each_layer() -> None:
    axes = plots.activations(look(layer("body.0", 0.5), layer("_b$x", -1.5, dead=1.0)), ax=three())
    assert [bars(one) for one in axes] == [[0.5, -1.5], [1.0, -3.0], [0.25, 1.0]]
    assert [one.get_xlabel() for one in axes] == ["mean", "standard deviation", "share of dead units"]
    assert row_names(axes[0]) == ["body.0", "_b$x"]
    assert axes[0].get_ylim() == (1.5, -0.5)  # the first at the top
    assert axes[2].get_xlim() == (0, 1)


def test_several_looks_have_a_line_for_each_layer() -> None:
    looks = [look(layer("one", 1.0), layer("two", 2.0)), look(layer("one", 3.0)), look(layer("two", math.nan))]
    axes = plots.activations(looks, ax=three())
    one, two = curves(axes[0])
    assert points(one) == [(0, 1), (1, 3)]
    assert [x for x, _ in points(two)] == [0, 2]
    assert crosses(axes[0]) == [2]
    assert [y for _, y in points(curves(axes[1])[0])] == [2, 6]
    assert [y for _, y in points(curves(axes[2])[0])] == [0.25, 0.25]
    assert legend(axes[0]) == ["one", "two", "not finite"]
    assert axes[2].get_xlabel() == "look"


def test_a_log_is_drawn_over_its_steps(log: Path) -> None:
    (run,) = replay(read(log))
    for given in (log, str(log), run):
        axes = plots.activations(given, ax=three())
        told = [(line.step, line.event) for line in run.looks if isinstance(line.event, Activations)]
        assert points(curves(axes[0])[0]) == [(step, seen.layers[0].mean) for step, seen in told]
        assert len(told) == 6
        assert axes[2].get_xlabel() == "step"


def test_of_many_layers_the_legend_has_some() -> None:
    layers = [layer(f"layer {at}") for at in range(45)]
    axes = plots.activations([look(*layers)] * 2, ax=three())
    assert len(curves(axes[0])) == 45
    assert legend(axes[0]) == [f"layer {at}" for at in (0, 8, 17, 26, 35, 44)]
    rows = row_names(plots.activations(look(*layers), ax=three())[0])
    assert rows == [f"layer {at}" for at in range(0, 45, 2)]


# -- histograms --------------------------------------------------------------------------------------------------------


def test_the_histograms_of_one_look_are_rows() -> None:
    seen = look(layer("one", histogram=[4, 3, 0]), layer("two", histogram=[0, 0, 7]))
    (axes,) = plots.activation_histograms(seen, ax=own_axes())
    counts, edges = mesh(axes)
    np.testing.assert_allclose(counts, [[4, 3, 0], [0, 0, 7]])
    np.testing.assert_allclose(edges[0, :, 0], [0, 2, 4, 6])
    assert row_names(axes) == ["one", "two"]


def test_the_histograms_of_several_looks_are_columns_of_an_axes_for_each_layer() -> None:
    looks = [look(*(layer(name, histogram=[at, 1, 2]) for name in ("one", "$\\frac$"))) for at in range(4)]
    axes = plots.activation_histograms(looks, ax=three())
    assert [one.get_title() for one in axes] == ["one", "$\\frac$"]
    render(axes[1])
    counts, edges = mesh(axes[0])
    np.testing.assert_allclose(counts, [[0, 1, 2, 3], [1, 1, 1, 1], [2, 2, 2, 2]])
    np.testing.assert_allclose(edges[0, :, 0], [-0.5, 0.5, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(edges[:, 0, 1], [0, 2, 4, 6])
    assert len(plots.activation_histograms(looks, most=1, ax=three())) == 1


def test_a_log_has_histograms(log: Path) -> None:
    (axes,) = plots.activation_histograms(log, ax=own_axes())
    assert mesh(axes)[0].shape == (5, 6)
    assert mesh(axes)[0].sum() == 6 * 8  # of each look, four samples of two units


def test_histograms_of_different_bins_are_refused() -> None:
    for other in (look(layer("one", histogram=[1, 2])), look(layer("one"), high=7.0)):
        with pytest.raises(ConfigError, match="histograms of different bins"):
            plots.activation_histograms([look(layer("one")), other], ax=three())


# -- gradients ---------------------------------------------------------------------------------------------------------


def gradient(name: str, mean: float, largest: float) -> ParameterGradients:
    return ParameterGradients(name=name, shape=(2,), norm=largest, mean=mean, largest=largest)


def test_a_gradient_is_its_mean_and_its_greatest_on_a_row() -> None:
    flow = GradientFlow(loss=1.0, params=(gradient("0.weight", 0.01, 0.1), gradient("$\\frac$", 0.02, 0.3)))
    axes = plots.gradient_flow(flow, ax=own_axes())
    means, largest = axes.lines
    assert points(means) == [(0.01, 0), (0.02, 1)]
    assert points(largest) == [(0.1, 0), (0.3, 1)]
    assert row_names(axes) == ["0.weight", "$\\frac$"]
    render(axes)
    assert axes.get_xscale() == "log"
    assert legend(axes) == ["mean |gradient|", "greatest |gradient|"]
    assert sum(isinstance(one, LineCollection) for one in axes.collections) == 1


def test_what_has_no_gradient_only_zeros_or_none_that_is_finite_is_red_at_the_left() -> None:
    params = (
        gradient("fine", 0.1, 1.0),
        gradient("zero", 0.0, 0.0),
        gradient("nan", math.nan, math.nan),
        gradient("inf", math.inf, math.inf),
    )
    axes = plots.gradient_flow(GradientFlow(loss=1.0, params=params, without=("unused",)), ax=own_axes())
    assert row_names(axes) == ["fine", "zero", "nan", "inf", "unused"]
    red = {name: [y for _, y in points(line)] for name, line in zip(legend(axes)[2:], axes.lines[2:], strict=True)}
    assert red == {"no gradient": [4], "all zero": [1], "not finite": [2, 3]}
    assert {colour(line) for line in axes.lines[2:]} == {RED}
    render(axes)


def test_a_model_without_any_gradient_is_drawn() -> None:
    axes = plots.gradient_flow(GradientFlow(loss=1.0, params=(), without=("one", "two")), ax=own_axes())
    assert legend(axes) == ["no gradient"]
    render(axes)


def test_gradient_norms_are_drawn_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rule = chain(gradient_norms(), optimizer(torch.optim.SGD, lr=0.1))
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    learner = Learner.of(model, DataLoaders(BATCHES), supervised(cross_entropy), rule, sinks=[JsonLog(path, every=1)])
    learner.fit(2, print_stats=False)
    axes = plots.gradient_norms(path, ax=own_axes())
    (run,) = replay(read(path))
    assert legend(axes) == ["0", "1"]
    for line, name in zip(curves(axes), ("grad_norm/0", "grad_norm/1"), strict=True):
        told = [one.event.metrics[name] for one in run.batches if isinstance(one.event, BatchFinished)]
        assert [y for _, y in points(line)] == told
        assert [x for x, _ in points(line)] == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])
    assert axes.get_yscale() == "log"


def test_a_log_without_gradient_norms_is_refused(log: Path) -> None:
    with pytest.raises(ConfigError, match=r"The log has no gradient norms .* nntrain.update.gradient_norms"):
        plots.gradient_norms(log, ax=own_axes())


# -- where it is drawn, and what cannot be -----------------------------------------------------------------------------


def test_without_axes_each_is_one_figure_of_pyplot_s() -> None:
    pyplot.close("all")
    plots.activations(look(layer("one")))
    plots.activations([look(layer("one"))] * 2)
    plots.activation_histograms([look(layer("one"), layer("two"))] * 2)
    plots.gradient_flow(GradientFlow(loss=1.0, params=(), without=("one",)))
    assert [len(pyplot.figure(number).axes) for number in pyplot.get_fignums()] == [3, 3, 2, 1]
    pyplot.close("all")


def test_what_has_no_activations_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    learner_of(JsonLog(path)).fit(1, print_stats=False)
    for given in (path, [], look(), [look()]):
        with pytest.raises(ConfigError, match=r"There are no activations to draw: .* ActivationStats"):
            plots.activations(given, ax=three())
    wrong: list[Any] = [3.0]
    with pytest.raises(ConfigError, match="Each look is an Activations"):
        plots.activations(wrong, ax=three())
    with pytest.raises(ConfigError, match="A int is no run"):
        plots.activations(wrong.__len__(), ax=three())  # type: ignore[arg-type] # what is wrong is the point
    learner_of(JsonLog(path)).fit(1, print_stats=False)
    for draw in (plots.activations, plots.gradient_norms):
        with pytest.raises(ConfigError, match=r"Expected one run of a log, .*; got a log of 2 runs"):
            draw(path)
        with pytest.raises(ConfigError, match=r"Expected one run of a log, .*; got a TrainState"):
            draw(learner_of().init())  # type: ignore[arg-type] # what is wrong is the point


def test_too_few_axes_and_no_gradients_are_refused() -> None:
    with pytest.raises(ConfigError, match="activations draws on three axes; got 2"):
        plots.activations(look(layer("one")), ax=three()[:2])
    with pytest.raises(ConfigError, match="There are no gradients to draw"):
        plots.gradient_flow(GradientFlow(loss=1.0, params=()), ax=own_axes())
    wrong: Any = [1.0]
    with pytest.raises(ConfigError, match=r"draws what nntrain.looking.gradient_flow returns; got a list"):
        plots.gradient_flow(wrong, ax=own_axes())
