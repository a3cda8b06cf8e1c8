"""The page: one HTML document that loads nothing else, and shows all text of a log as text, never as markup."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from importlib.resources import files

from nntrain.log.replay import Run
from nntrain.log.report import tables
from nntrain.log.report.config import Setting, settings
from nntrain.log.report.figures import MOST_METRICS, Figure, drawn_metrics, figures
from nntrain.log.report.markup import Child, script, style, tag, to_html
from nntrain.log.report.notable import SYMBOLS, label
from nntrain.log.report.run_view import RunView, run_views
from nntrain.log.report.scripts import plotly_js, policy, script_json
from nntrain.log.report.symbols import stroke, swatch, symbol


def page(runs: Sequence[Run], *, title: str = "nntrain report") -> str:
    """Return an HTML page about runs: their curves side by side, what happened, their configs and timings.

    It is one document that loads nothing: it contains plotly.js, and its Content-Security-Policy forbids other scripts
    and anything from elsewhere. All text of the runs is shown as text. Without scripts, all numbers by epoch are in
    tables.

    Raises `MissingExtraError` if plotly is not installed.
    """
    library = plotly_js()
    found, left_out = settings(runs)
    views = run_views(runs, found)
    drawn = figures(views)
    draw = _resource("draw.js")
    scripts = [script(library), script(script_json([one.json() for one in drawn]), type="application/json", id="drawn")]
    scripts.append(script(draw))
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", _counts(runs), class_="note")),
        tag("main", *_sections(views, found, left_out, drawn)),
        *scripts,
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
        style(_resource("page.css")),
    )
    return to_html(tag("html", head, body, lang="en"))


def _counts(runs: Sequence[Run]) -> str:
    batches = sum(len(run.batches) for run in runs)
    phases = sum(len(run.history) for run in runs)
    return f"{len(runs):,} run{'s' * (len(runs) != 1)}, {phases:,} finished phases, {batches:,} batches in the log"


def _sections(
    runs: Sequence[RunView], found: Sequence[Setting], left_out: int, drawn: Sequence[Figure]
) -> Iterator[Child]:
    if not runs:
        yield tag("p", "There is no run in these logs.")
        return
    differing = [one for one in found if one.differs]
    yield _section("What came out", tables.summary(runs))
    if len(runs) > 1:
        what = tables.config(differing, runs, "What differs") if differing else tag("p", "No setting differs.")
        yield _section("What differs", what)
    yield _section("Curves", *_curves(runs, drawn))
    listed = any(one.notable for one in runs)
    yield _section("What happened", tables.notable(runs) if listed else tag("p", "Nothing out of line."))
    yield _section("Timings", tables.timings(runs))
    more = tag("p", f"{left_out:,} more settings are left out; the log has all.", class_="note") if left_out else None
    if any(one.run.ranks for one in runs):
        yield _section("Ranks", tables.ranks(runs))
    yield _section("Config", tables.config(found, runs, "All settings"), more)
    yield _section("Every finished phase", *map(tables.phases, runs))


def _section(title: str, *children: Child) -> ET.Element:
    name = title.lower().replace(" ", "-")
    return tag("section", tag("h2", title, id=name), *children, aria_labelledby=name)


def _curves(runs: Sequence[RunView], drawn: Sequence[Figure]) -> Iterator[Child]:
    if not drawn:
        yield tag("p", "No phase is finished yet, and the log has no batches: there is nothing to draw.")
        return
    yield tag("noscript", tag("p", "The curves are drawn by a script. Every number of them by epoch is in the tables."))
    yield tag("div", tag("div", *_legend(runs), class_="runs"), tag("div", *_key(), class_="key"), id="legend")
    if (count := len(drawn_metrics([one.run for one in runs]))) > MOST_METRICS:
        yield tag("p", f"Of {count:,} metrics the first {MOST_METRICS} are drawn.", class_="note")
    yield tag("div", *(_figure(index, one) for index, one in enumerate(drawn)), class_="figures")


def _legend(runs: Sequence[RunView]) -> Iterator[Child]:
    for index, one in enumerate(runs):
        box = tag("input", type="checkbox", checked=True, data_run=str(index))
        apart = tag("span", " · ".join(one.differences), class_="apart") if one.differences else None
        yield tag(
            "label", box, swatch(one.colour), tag("span", one.name), apart, class_="run", title=one.run.run_id[:200]
        )


def _key() -> Iterator[Child]:
    yield tag("span", stroke(dotted=True), "train")
    yield tag("span", stroke(dotted=False), "eval")
    for kind in SYMBOLS:
        yield tag("span", symbol(kind), label(kind))
    yield tag("label", tag("input", type="checkbox", checked=True, id="marks"), "marks")
    yield tag("label", tag("input", type="checkbox", id="logarithmic"), "logarithmic")


def _figure(index: int, figure: Figure) -> ET.Element:
    notes = [tag("p", note, class_="note") for note in figure.notes]
    title = f"title-{index}"
    plot = tag("div", class_="plot", data_figure=str(index), role="img", aria_labelledby=title)
    return tag("figure", tag("h3", figure.title, id=title), plot, tag("figcaption", *notes) if notes else None)


def _resource(name: str) -> str:
    return files("nntrain.log.report").joinpath(name).read_text(encoding="utf-8")
