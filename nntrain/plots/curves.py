"""Losses and metrics of one run or of many, by epoch or by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from nntrain.log.report.run_view import colour
from nntrain.log.text import one_line
from nntrain.plots.axes import DISTINCT, GREY, axes_of, colours_of, draw_line, legend, note, some_of
from nntrain.plots.runs import By, Named, Runs, curves_of, named_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import LineStyleType

_DASHES: Final[tuple[LineStyleType, ...]] = ("-", "--", "-.", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)))
"""Of the sets that are evaluated, by epoch."""


def losses(runs: Runs, *, by: By = "epoch", ax: Axes | None = None) -> Axes:
    """Return the axes with the losses of one run or of many: `metric(runs, "loss")`, which says more."""
    return metric(runs, "loss", by=by, ax=ax)


def metric(runs: Runs, name: str, *, by: By = "epoch", ax: Axes | None = None) -> Axes:
    """Return the axes with a number of one run or of many: a metric, "loss" or "seconds", of train and of each set.

    A run is a state, an outcome, a history, the path of a log, or a `nntrain.log.Run`; a mapping names several. By
    epoch, the end of the first is at 1. By batch the runs are logs, which also have "lr" ("lr/head.*" is a group's),
    "samples_per_s" and what update rules tell, like "grad_norm"; of a very long curve the least and the greatest of
    each few batches in a row are drawn. Where a value is not finite there is a cross at the bottom.

    Raises `ConfigError` for what is no run, a name that none of them has though they have others, and by batch for a
    run that is no log; `LogReadError` for a log that cannot be read.
    """
    from matplotlib.ticker import MaxNLocator

    named = named_runs(runs)
    curves = curves_of(named, name, by)
    axes = axes_of(ax)
    labels = [*dict.fromkeys(curve.label for curve in curves)]
    alone, thin = len(named) == 1, by == "batch" or len(named) > DISTINCT
    dashes, colours = _dashes(labels, by), colours_of(len(named))
    drawn = [
        draw_line(axes, curve.x, curve.y, colour(labels.index(curve.label)), thin=thin)
        if alone
        else draw_line(axes, curve.x, curve.y, colours[curve.of], dashes[curve.label], thin=thin)
        for curve in curves
    ]
    axes.set_xlabel("epochs trained")
    axes.set_ylabel(one_line(name, 40), parse_math=False)
    if alone:
        legend(axes, [(line, curve.label) for line, curve in zip(drawn, curves, strict=True)])
    else:
        _legend_of_many(axes, named, colours, dashes)
    if by == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    if not curves:
        note(axes, f"no {'finished phase' if by == 'epoch' else 'batch'} yet")
    return axes


def _dashes(labels: Sequence[str], by: By) -> Mapping[str, LineStyleType]:
    """Return how each phase is dashed: batches of train go up and down too much for dots."""
    dashes = _DASHES if by == "epoch" else (*_DASHES[1:], _DASHES[0])
    found: dict[str, LineStyleType] = {"train": ":" if by == "epoch" else "-"} if "train" in labels else {}
    for place, label in enumerate(label for label in labels if label != "train"):
        found[label] = dashes[place % len(dashes)]
    return found


def _legend_of_many(
    axes: Axes, named: Sequence[Named], colours: Sequence[str], dashes: Mapping[str, LineStyleType]
) -> None:
    from matplotlib.lines import Line2D

    shown = some_of(len(named))
    entries = [(Line2D([], [], color=colours[place]), named[place].name) for place in shown]
    entries += [(Line2D([], [], color=GREY, linestyle=dash), label) for label, dash in dashes.items()]
    legend(axes, entries, f"{len(shown)} of {len(named)} runs" if len(shown) < len(named) else None)
