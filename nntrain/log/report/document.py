"""The page: one HTML document that loads nothing else, and shows all text of a log as text, never as markup."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from typing import Final

from nntrain.log.replay import Run
from nntrain.log.report import tables
from nntrain.log.report.config import Setting, differing, settings
from nntrain.log.report.figures import MOST_METRICS, Figure, Json, drawn_metrics, figures
from nntrain.log.report.histograms import Histograms, histograms
from nntrain.log.report.markup import Child, script, style, tag, to_html
from nntrain.log.report.matrices import confusion_matrices
from nntrain.log.report.notable import MARKED, label
from nntrain.log.report.run_view import RunView, run_views
from nntrain.log.report.scripts import policy, resource, script_json
from nntrain.log.report.symbols import paths, stroke, swatch, symbol

_FEW_RUNS: Final = 12
"""Up to so many runs are listed above the curves; more of them are listed at a click."""


def page(runs: Sequence[Run], *, title: str = "nntrain report", names: Sequence[str] | None = None) -> str:
    """Return an HTML page about runs: their curves side by side, what happened, their configs and timings.

    It is one document that loads nothing: it contains uPlot, which draws, and its Content-Security-Policy forbids other
    scripts and anything from elsewhere. All text of the runs is shown as text. Without scripts, all numbers by epoch
    are in tables. `names` are what the runs are called, one for each; by default they are called by their ids.

    Raises `ConfigError` if there is not a name for each run.
    """
    found, left_out = settings(runs)
    views = run_views(runs, found, names)
    drawn = figures(views)
    pictures = histograms(views)
    library, draw = resource("uplot/uPlot.iife.min.js"), resource("draw.js")
    named: list[Json] = [{"name": one.name, "colour": one.colour} for one in views]
    shapes: dict[str, Json] = {**paths()}
    data: dict[str, Json] = {
        "runs": named,
        "figures": [one.json() for one in drawn],
        "histograms": [list(one.columns) for one in pictures],
        "shapes": shapes,
    }
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", _counts(runs), class_="note")),
        tag("main", *_sections(views, found, left_out, drawn, pictures)),
        script(library),
        script(script_json(data), type="application/json", id="drawn"),
        script(draw),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy(library, draw)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="generator", content="nntrain report"),
        tag("title", title),
        style(resource("uplot/uPlot.min.css") + "\n" + resource("page.css")),
    )
    return to_html(tag("html", head, body, lang="en"))


def _counts(runs: Sequence[Run]) -> str:
    batches = sum(len(run.batches) for run in runs)
    phases = sum(len(run.history) for run in runs)
    return f"{len(runs):,} run{'s' * (len(runs) != 1)}, {phases:,} finished phases, {batches:,} batches in the log"


def _sections(
    runs: Sequence[RunView],
    found: Sequence[Setting],
    left_out: int,
    drawn: Sequence[Figure],
    pictures: Sequence[Histograms],
) -> Iterator[Child]:
    if not runs:
        yield tag("p", "There is no run in these logs.")
        return
    yield _controls(runs, drawn)
    yield _section("Losses", *_figures(runs, drawn, large=True))
    yield _section("What came out", tables.summary(runs))
    if len(runs) > 1:
        rows = differing(found)
        yield _section("What differs", tables.differing(rows, runs) if rows else tag("p", "No setting differs."))
    if any(not one.large for one in drawn):
        yield _section("Curves", *_figures(runs, drawn, large=False))
    if pictures:
        yield _section("Activations", *_histograms(runs, pictures))
    if matrices := confusion_matrices(runs):
        yield _section("What was taken for what", *matrices)
    listed = any(one.notable for one in runs)
    yield _section("What happened", tables.notable(runs) if listed else tag("p", "Nothing out of line."))
    yield _section("Timings", tables.timings(runs))
    more = tag("p", f"{left_out:,} more settings are left out; the log has all.", class_="note") if left_out else None
    if any(one.run.ranks for one in runs):
        yield _section("Ranks", tables.ranks(runs))
    yield _section("Config", tables.config(found, runs, "All settings"), more)
    yield _section("Every finished phase", *tables.all_phases(runs))


def _section(title: str, *children: Child) -> ET.Element:
    name = title.lower().replace(" ", "-")
    return tag("section", tag("h2", title, id=name), *children, aria_labelledby=name)


def _figures(runs: Sequence[RunView], drawn: Sequence[Figure], *, large: bool) -> Iterator[Child]:
    if large and not any(one.large for one in drawn):
        yield tag("p", "No phase is finished yet, and the log has no batches: there is no loss to draw.")
        return
    if large:
        message = "The curves are drawn by a script. Every number of them by epoch is in the tables."
        yield tag("noscript", tag("p", message))
    elif (count := len(drawn_metrics([one.run for one in runs]))) > MOST_METRICS:
        yield tag("p", f"Of {count:,} metrics the first {MOST_METRICS} are drawn.", class_="note")
    shown = (_figure(index, one) for index, one in enumerate(drawn) if one.large == large)
    yield tag("div", *shown, class_="figures large" if large else "figures")


def _controls(runs: Sequence[RunView], drawn: Sequence[Figure]) -> ET.Element:
    """Return the list of runs, what the lines and symbols mean, and what changes the figures."""
    few = len(runs) <= _FEW_RUNS
    listed = tag("div", *(_run(one) for one in runs), class_="runs")
    if not few:
        listed = tag("details", tag("summary", f"{len(runs):,} runs: show and hide"), listed)
    search = tag("input", type="search", id="filter", placeholder="name or setting", size="16")
    slider = tag("input", type="range", id="smoothing", min="0", max="0.99", step="0.01", value="0")
    controls = [
        tag("label", "filter runs", search) if len(runs) > 1 else None,
        tag("label", "smoothing", slider, tag("output", "0", id="smoothed")),
        tag("label", tag("input", type="checkbox", id="logarithmic"), "log scale"),
        tag("label", tag("input", type="checkbox", checked=True, id="marks"), "marks"),
    ]
    key = [tag("span", stroke(dotted=True), "train"), tag("span", stroke(dotted=False), "eval")]
    key += [tag("span", symbol(kind), label(kind)) for kind in MARKED]
    hidden = None if drawn else True
    return tag(
        "div",
        listed,
        tag("div", *controls, class_="controls", hidden=hidden),
        tag("div", *key, class_="key", hidden=hidden),
        id="legend",
    )


def _run(one: RunView) -> ET.Element:
    box = tag("input", type="checkbox", checked=True, data_run=str(one.index))
    apart = tag("span", " · ".join(one.differences), class_="apart") if one.differences else None
    inside = (box, swatch(one.colour), tag("span", one.name), apart)
    return tag("label", *inside, class_="run", title=one.run.run_id[:200], data_of=str(one.index))


def _figure(index: int, figure: Figure) -> ET.Element:
    notes = [tag("p", note, class_="note") for note in figure.notes]
    title = f"title-{index}"
    plot = tag("div", class_="plot", data_figure=str(index), role="img", aria_labelledby=title)
    return tag("figure", tag("h3", figure.title, id=title), plot, tag("figcaption", *notes) if notes else None)


def _histograms(runs: Sequence[RunView], pictures: Sequence[Histograms]) -> Iterator[Child]:
    note = (
        "How many activations have which absolute value: a column for each look, from the first to the last, with 0 at "
        "the foot. The darker, the more, by the logarithm; the uppermost bin has all greater values, too."
    )
    yield tag("p", note, class_="note")
    made = []
    for index, one in enumerate(pictures):
        title = tag("h3", swatch(runs[one.run].colour), f" {runs[one.run].name} · {one.layer}")
        picture = tag("canvas", data_histograms=str(index), role="img", aria_label=f"activations of {one.layer}")
        top = tag("span", f"to {one.high}, {len(one.columns)} looks", class_="note")
        made.append(tag("figure", title, picture, top, data_of=str(one.run)))
    yield tag("div", *made, class_="figures histograms")
