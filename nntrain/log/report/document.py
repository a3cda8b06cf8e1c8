"""The page: one HTML document that needs nothing else, and lets no text of a log become anything but text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Final

from nntrain.log.replay import Run
from nntrain.log.report import tables
from nntrain.log.report.config import Setting, settings
from nntrain.log.report.figures import MOST_METRICS, Figure, figures
from nntrain.log.report.happenings import Kind
from nntrain.log.report.markup import Child, script, style, tag, written
from nntrain.log.report.scripts import in_a_script, plotly_js, policy
from nntrain.log.report.series import metrics_of
from nntrain.log.report.shown import Shown, shown
from nntrain.log.report.symbols import stroke, swatch, symbol

_KEY: Final[tuple[tuple[Kind, str], ...]] = (
    ("verdict", "verdict"),
    ("checkpoint", "checkpoint"),
    ("resumption", "resumption"),
    ("warning", "warning"),
    ("failure", "failure"),
    ("nonfinite", "no finite number"),
)


def page(runs: Sequence[Run], *, title: str = "nntrain report") -> str:
    """Give an HTML page about runs: their curves side by side, what happened, their configs and timings.

    It is one document without anything from elsewhere: plotly.js is in it, and its own Content-Security-Policy lets
    no other script run and nothing be loaded. Whatever text the runs have is shown as text. All numbers by epoch are
    in tables too, for readers without scripts.

    Raises `MissingExtraError` where plotly is not installed.
    """
    library = plotly_js()
    found, left_out = settings(runs)
    all_shown = shown(runs, found)
    drawn = figures(all_shown)
    draw = _own("draw.js")
    scripts = [script(library), script(in_a_script([one.json() for one in drawn]), type="application/json", id="drawn")]
    scripts.append(script(draw))
    body = tag(
        "body",
        tag(
            "header",
            tag("h1", title),
            tag("p", _counted(runs), class_="note"),
        ),
        tag("main", *_sections(all_shown, found, left_out, drawn)),
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
        style(_own("page.css")),
    )
    return written(tag("html", head, body, lang="en"))


def _counted(runs: Sequence[Run]) -> str:
    batches = sum(len(run.batches) for run in runs)
    phases = sum(len(run.history) for run in runs)
    return f"{len(runs):,} run{'s' * (len(runs) != 1)}, {phases:,} finished phases, {batches:,} batches in the log"


def _sections(
    runs: Sequence[Shown], found: Sequence[Setting], left_out: int, drawn: Sequence[Figure]
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
    listed = any(one.happenings for one in runs)
    yield _section("What happened", tables.happened(runs) if listed else tag("p", "Nothing out of line."))
    yield _section("Timings", tables.timings(runs))
    more = tag("p", f"{left_out:,} more settings are left out; the log has all.", class_="note") if left_out else None
    yield _section("Config", tables.config(found, runs, "All settings"), more)
    yield _section(
        "Every finished phase",
        *(one for shown_run in runs for one in tables.phases(shown_run)),
    )


def _section(title: str, *children: Child) -> ET.Element:
    name = title.lower().replace(" ", "-")
    return tag("section", tag("h2", title, id=name), *children, aria_labelledby=name)


def _curves(runs: Sequence[Shown], drawn: Sequence[Figure]) -> Iterator[Child]:
    if not drawn:
        yield tag("p", "No phase is finished yet, and the log has no batches: there is nothing to draw.")
        return
    yield tag("noscript", tag("p", "The curves are drawn by a script. Every number of them by epoch is in the tables."))
    yield tag("div", tag("div", *_legend(runs), class_="runs"), tag("div", *_key(), class_="key"), id="legend")
    if (count := len(metrics_of([one.run for one in runs]))) > MOST_METRICS:
        yield tag("p", f"Of {count:,} metrics the first {MOST_METRICS} are drawn.", class_="note")
    yield tag("div", *(_figure(index, one) for index, one in enumerate(drawn)), class_="figures")


def _legend(runs: Sequence[Shown]) -> Iterator[Child]:
    for index, one in enumerate(runs):
        box = tag("input", type="checkbox", checked=True, data_run=str(index))
        apart = tag("span", " · ".join(one.apart), class_="apart") if one.apart else None
        yield tag(
            "label", box, swatch(one.colour), tag("span", one.name), apart, class_="run", title=one.run.run_id[:200]
        )


def _key() -> Iterator[Child]:
    yield tag("span", stroke(dotted=True), "train")
    yield tag("span", stroke(dotted=False), "eval")
    for kind, said in _KEY:
        yield tag("span", symbol(kind), said)
    yield tag("label", tag("input", type="checkbox", checked=True, id="marks"), "marks")
    yield tag("label", tag("input", type="checkbox", id="logarithmic"), "logarithmic")


def _figure(index: int, figure: Figure) -> ET.Element:
    notes = [tag("p", note, class_="note") for note in figure.notes]
    title = f"title-{index}"
    plot = tag("div", class_="plot", data_figure=str(index), role="img", aria_labelledby=title)
    return tag("figure", tag("h3", figure.title, id=title), plot, tag("figcaption", *notes) if notes else None)


def _own(name: str) -> str:
    return files("nntrain.log.report").joinpath(name).read_text(encoding="utf-8")
