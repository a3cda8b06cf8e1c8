"""What is inside a model: what its layers give, and the gradients of its parameters."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nntrain.errors import ConfigError
from nntrain.log.events import BatchFinished
from nntrain.log.line import Line
from nntrain.log.replay import Run
from nntrain.log.report.run_view import colour
from nntrain.log.report.series import by_name
from nntrain.log.report.within import norms_of
from nntrain.log.text import one_line
from nntrain.plots.axes import (
    RED,
    axes_of,
    colours_of,
    draw_line,
    grid_of,
    legend,
    name_rows,
    some_of,
)
from nntrain.plots.runs import POINTS, named_runs
from nntrain.values.looks import Activations, GradientFlow, LayerActivations

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Looks = Activations | Sequence[Activations] | Run | str | os.PathLike[str]
"""One look at a model's activations, several, or the log of a run that has them, by its path or read."""

_MEASURES: Final[Mapping[str, Callable[[LayerActivations], float]]] = {
    "mean": lambda layer: layer.mean,
    "standard deviation": lambda layer: layer.std,
    "share of dead units": lambda layer: layer.dead,
}


class _Look(NamedTuple):
    """A look, and where it was taken: at which step, or as which of several."""

    x: float
    seen: Activations


def activations(looks: Looks, *, ax: Iterable[Axes] | None = None) -> tuple[Axes, ...]:
    """Return three axes with what the layers give: their means, standard deviations, and shares of dead units.

    Of one look each layer is a row, the first at the top. Of several, as a log of `ActivationStats` has them, each is a
    line over the steps. `ax` are three axes.

    Raises `ConfigError` for what has no activations, and `LogReadError` for a log that cannot be read.
    """
    taken, unit = _looks(looks)
    alone = len(taken) == 1
    layers = _layers(taken)
    axes = grid_of(ax, 3, 3 if alone else 1, (3.5, _height(len(layers))) if alone else (6.4, 2.4))
    if len(axes) < 3:
        raise ConfigError(f"activations draws on three axes; got {len(axes)}.")
    for one, (said, value) in zip(axes, _MEASURES.items(), strict=True):
        values = {name: [value(layer) for _, layer in seen] for name, seen in layers.items()}
        if alone:
            one.barh(range(len(layers)), [only for (only,) in values.values()], color=colour(0))
            name_rows(one, [*layers])
            one.tick_params(labelleft=one is axes[0])
            one.set_xlabel(said)
        else:
            entries: list[tuple[Artist, str]] = [
                (draw_line(one, [x for x, _ in layers[name]], values[name], color, thin=True), name)
                for name, color in zip(layers, colours_of(len(layers)), strict=True)
            ]
            one.set_ylabel(said)
            if one is axes[0]:
                shown = [entries[place] for place in some_of(len(entries))]
                legend(one, shown, f"{len(shown)} of {len(entries)} layers" if len(shown) < len(entries) else None)
    if alone:
        axes[2].set_xlim(0.0, 1.0)
    else:
        axes[2].set(ylim=(-0.03, 1.03), xlabel=unit)
    return axes


def activation_histograms(looks: Looks, *, most: int = 12, ax: Iterable[Axes] | Axes | None = None) -> tuple[Axes, ...]:
    """Return axes with the histograms of what the layers give, as absolute values: the lighter, the more of them.

    Of one look it is one axes, on which each layer is a row. Of several there is one for each of the first `most`
    layers, on which each look is a column: training goes well where they are smooth, and the lowest bin is not all.

    Raises `ConfigError` for what has no activations, and `LogReadError` for a log that cannot be read.
    """
    taken, unit = _looks(looks)
    layers = _layers(taken)
    high, bins = taken[-1].seen.high, len(next(iter(layers.values()))[0][1].histogram)
    if any(one.seen.high != high or any(len(layer.histogram) != bins for layer in one.seen.layers) for one in taken):
        raise ConfigError("The looks have histograms of different bins; draw those of one ActivationStats.")
    edges = np.linspace(0.0, high, bins + 1)
    if len(taken) == 1:
        axes = grid_of(ax, 1, 1, (6.4, _height(len(layers))))
        counts = np.array([layer.histogram for ((_, layer),) in layers.values()])
        axes[0].pcolormesh(edges, np.arange(len(layers) + 1) - 0.5, np.log1p(counts), rasterized=True)
        name_rows(axes[0], [*layers])
        axes[0].set_xlabel("absolute value")
        return axes
    shown = [*layers][:most]
    axes = grid_of(ax, len(shown), min(3, len(shown)), (3.2, 2.2))
    for one, name in zip(axes, shown, strict=False):
        counts = np.array([layer.histogram for _, layer in layers[name]]).T
        one.pcolormesh(_edges([x for x, _ in layers[name]]), edges, np.log1p(counts), rasterized=True)
        one.set_title(one_line(name, 32), parse_math=False, fontsize="small")
        one.set_xlabel(unit)
    return axes


def _looks(looks: Looks) -> tuple[list[_Look], str]:
    """Return the looks, and what they are counted in."""
    if isinstance(looks, Activations):
        looks = [looks]
    if isinstance(looks, Sequence) and not isinstance(looks, str):
        taken, unit = [_Look(float(place), one) for place, one in enumerate(looks)], "look"
        if not all(isinstance(one.seen, Activations) for one in taken):
            raise ConfigError("Each look is an Activations, as activation_stats returns it; got another value.")
    else:
        seen = [(line.step, line.event) for line in _run(looks).looks]
        taken, unit = [_Look(float(step), event) for step, event in seen if isinstance(event, Activations)], "step"
    if not any(one.seen.layers for one in taken):
        raise ConfigError(
            "There are no activations to draw: expected what activation_stats returns, or the log of a training with "
            "the subscriber ActivationStats."
        )
    return taken, unit


def _run(log: Run | str | os.PathLike[str]) -> Run:
    """Return the run of a log. Raises `ConfigError` where there are several, and for what is none."""
    runs = [named.run for named in named_runs(log) if isinstance(named.run, Run)]
    if len(runs) != 1:
        there = f"a log of {len(runs)} runs" if runs else f"a {type(log).__name__}"
        raise ConfigError(f"Expected one run of a log, its path or replay(read(path))[0]; got {there}.")
    return runs[0]


def _layers(taken: Sequence[_Look]) -> dict[str, list[tuple[float, LayerActivations]]]:
    """Return what was seen of each layer, and where."""
    layers: dict[str, list[tuple[float, LayerActivations]]] = {}
    for x, seen in taken:
        for layer in seen.layers:
            layers.setdefault(layer.layer, []).append((x, layer))
    return layers


def _edges(x: Sequence[float]) -> Sequence[float]:
    """Return the edges of columns around these places."""
    between = [(before + after) / 2 for before, after in pairwise(x)]
    half = (x[-1] - x[0]) / max(1, len(x) - 1) / 2 or 0.5
    return [x[0] - half, *between, x[-1] + half]


def _height(rows: int) -> float:
    """Return the height in inches of axes with so many named rows."""
    return min(12.0, 1.0 + 0.22 * rows)


def gradient_flow(flow: GradientFlow, *, ax: Axes | None = None) -> Axes:
    """Return the axes with the gradient of each parameter: the mean and the greatest of its absolute values.

    Each parameter is a row, the first at the top. A parameter that got no gradient, or zeros alone, has a red cross at
    the left, and so has one whose gradient is not finite.

    Raises `ConfigError` for what is no `GradientFlow`, or has no parameters.
    """
    if not isinstance(flow, GradientFlow):
        raise ConfigError(
            f"gradient_flow draws what nntrain.looking.gradient_flow returns; got a {type(flow).__name__}."
        )
    names = [*(one.name for one in flow.params), *flow.without]
    if not names:
        raise ConfigError("There are no gradients to draw: no parameter requires one.")
    axes = axes_of(ax, (6.4, _height(len(names))))
    entries: list[tuple[Artist, str]] = []
    seen = [(row, one) for row, one in enumerate(flow.params) if 0 < one.mean <= one.largest < math.inf]
    if seen:
        rows = [row for row, _ in seen]
        means, largest = [one.mean for _, one in seen], [one.largest for _, one in seen]
        axes.hlines(rows, means, largest, color=colour(0), linewidth=1.0)
        for values, marker, said in ((means, "o", "mean |gradient|"), (largest, "|", "greatest |gradient|")):
            (dots,) = axes.plot(values, rows, marker, color=colour(0))
            entries.append((dots, said))
        low, high = math.floor(math.log10(min(means))), math.floor(math.log10(max(largest))) + 1
        axes.set(xscale="log", xlim=(10.0 ** min(low, high - 2), 10.0**high))  # two decades have room for their labels
    odd = {
        "no gradient": range(len(flow.params), len(names)),
        "all zero": [row for row, one in enumerate(flow.params) if one.largest == 0],
        "not finite": [row for row, one in enumerate(flow.params) if not one.largest < math.inf],
    }
    for (said, rows_of_kind), marker in zip(odd.items(), ("x", "s", "v"), strict=True):
        if rows_of_kind:
            at = [0.02] * len(rows_of_kind)
            (marks,) = axes.plot(at, rows_of_kind, marker, color=RED, transform=axes.get_yaxis_transform())
            entries.append((marks, said))
    name_rows(axes, names)
    axes.set_xlabel("absolute value of the gradient")
    legend(axes, entries, inside=0)
    return axes


def gradient_norms(log: Run | str | os.PathLike[str], *, ax: Axes | None = None) -> Axes:
    """Return the axes with the norms of the gradients of each layer or group over a training, one line each.

    They are what the update rule `gradient_norms` told for each batch that the log of the run has.

    Raises `ConfigError` for a log that has none, or several runs, and `LogReadError` for one that cannot be read.
    """
    run = _run(log)
    curves = [*by_name(run, run.batches, _norms, POINTS)]
    if not curves:
        raise ConfigError(
            "The log has no gradient norms of layers or groups: expected one of JsonLog(path, every=1), of a training "
            "with nntrain.update.gradient_norms in its update rule."
        )
    axes = axes_of(ax)
    entries: list[tuple[Artist, str]] = []
    for one, color in zip(curves, colours_of(len(curves)), strict=True):
        x, y = [point.x for point in one.points], [point.y for point in one.points]
        entries.append((draw_line(axes, x, y, color, thin=True), one.phase))
    axes.set(yscale="log", xlabel="epochs trained", ylabel="gradient norm")
    shown = [entries[place] for place in some_of(len(entries))]
    legend(axes, shown, f"{len(shown)} of {len(entries)} groups" if len(shown) < len(entries) else None)
    return axes


def _norms(line: Line) -> Mapping[str, float]:
    """Return the norms of groups by their names."""
    return norms_of(line.event) if isinstance(line.event, BatchFinished) else {}
