"""The report in a real browser, Debian's Chromium: what is drawn, at two widths, and what hostile text can do there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nntrain.log import BatchFinished, Line, Run, replay
from nntrain.log.report import page
from nntrain.log.report.notable import notable_events
from tests.log.browser import CHROMIUM, Browser
from tests.log.pages import HOSTILE, hostile
from tests.log.samples import scripted

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium"),
    pytest.mark.sweep,
]

SETTINGS = {"seed": 1, "optimizer": "Adam"}
LINES: Sequence[Line] = (
    *scripted(0, epochs=4, every=1, metrics=("accuracy", "f1")),
    *scripted(1, epochs=4, every=4, metrics=("accuracy",), nan_at=40, ends="cancelled", config=SETTINGS),
    *scripted(2, epochs=2, ends="failed", text=HOSTILE[0], config={"learner": HOSTILE[1], "lr": 0.01}),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("pages"), page(replay(LINES), title="Three runs"))


def saved(folder: Path, content: str) -> Path:
    path = folder / "report.html"
    path.write_text(content, encoding="utf-8")
    return path


def shown(browser: Browser) -> list[dict[str, Any]]:
    """Give what the canvases were last told to draw: of each figure its title, its curves and its marks."""
    found: list[dict[str, Any]] = browser.value("""[...document.querySelectorAll("figure")].map((figure) => {
        const { chart, drawn } = figure.querySelector("[data-figure]").chart;
        const { curves } = figure.querySelector("[data-figure]").chart;
        return {
            title: figure.querySelector("h3").textContent,
            curves: drawn.curves,
            runs: curves.map((one) => one.run),
            dotted: curves.filter((one) => one.dotted).length,
            marks: drawn.marks,
            width: figure.querySelector("canvas").getBoundingClientRect().width,
            height: chart.height,
        };
    })""")
    return found


def phases(run: Run, metric: str | None = None, *, batches: bool = False) -> set[str]:
    """Give the phases of which a run has a curve."""
    if not batches:
        return {one.phase for one in run.history if metric is None or metric in one.metrics}
    events = [(line.phase, line.event) for line in run.batches if isinstance(line.event, BatchFinished)]
    return {phase for phase, event in events if metric is None or metric in event.metrics}


def test_every_curve_and_every_mark_of_the_runs_is_drawn(browser: Browser, three: Path) -> None:
    runs = replay(LINES)
    browser.open(three)
    found = {one["title"]: one for one in shown(browser)}
    for metric in (None, "accuracy", "f1"):
        for batches in (False, True):
            one = found[f"{metric or 'loss'} by {'batch' if batches else 'epoch'}"]
            curves = [phases(run, metric, batches=batches) for run in runs]
            assert one["curves"] == sum(map(len, curves)), one
            assert one["dotted"] == sum("train" in some for some in curves)
            # no two of the samples' events are of one kind and in one place
            marks = sum(len(notable_events(run)) for run, some in zip(runs, curves, strict=True) if some)
            gaps = len(curves[1])  # run 1 is nan at step 40, and in the eval after it
            assert one["marks"] == marks + gaps, one
    assert {"learning rate", "seconds by epoch", "samples per second by epoch"} <= set(found)
    assert set(found["loss by epoch"]["runs"]) == {0, 1, 2}
    assert set(found["f1 by epoch"]["runs"]) == {0}
    assert all(found[f"loss by {one}"]["height"] > found["learning rate"]["height"] for one in ("epoch", "batch"))


def test_nothing_is_asked_for_and_nothing_is_complained_of(browser: Browser, three: Path) -> None:
    browser.open(three)
    browser.hover(300, 700)
    assert browser.complaints() == []
    assert browser.requested() == []
    assert browser.value("performance.getEntriesByType('resource').length") == 0
    assert browser.value("[document.doctype.name, document.compatMode].join()") == "html,CSS1Compat"


def test_the_policy_lets_no_other_script_run_and_nothing_be_loaded(browser: Browser, three: Path) -> None:
    browser.open(three)
    browser.value("""(() => {
        const script = document.createElement("script");
        script.textContent = "window.pwned = 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src=https://example.org/x.png onerror='window.pwned=1'>");
    })()""")
    assert browser.value("fetch('https://example.org/').then(() => 'got', () => 'refused')") == "refused"
    assert browser.value("window.pwned === undefined")
    assert len([one for one in browser.complaints() if "Content Security Policy" in one]) >= 3


@pytest.mark.parametrize("text", [HOSTILE[1], "".join(HOSTILE[:-2])], ids=["a script", "all at once"])
def test_hostile_text_is_read_and_does_nothing(browser: Browser, tmp_path: Path, text: str) -> None:
    (run,) = replay(hostile(text))
    path = saved(tmp_path, page([run.model_copy(update={"run_id": text})], title=text))
    browser.open(path)
    assert browser.value("window.pwned === undefined")
    assert browser.value("document.scripts.length") == 3
    assert browser.value("document.querySelectorAll('img, iframe, a, object, embed, link, base, form').length") == 0
    assert browser.value("document.title").startswith(text[:20])
    assert browser.value("document.querySelector('h1').textContent").startswith(text[:20])
    assert browser.complaints() == []
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    hovered = told_at_a_mark(browser)
    assert text[:20] in hovered
    assert browser.value("document.querySelectorAll('.tip *').length") == browser.value(
        "document.querySelector('.tip').children.length"
    )


def told_at_a_mark(browser: Browser) -> str:
    """Point at the first mark of the first figure, and give what is told there."""
    x, y = browser.value("""(() => {
        const { chart } = document.querySelector("[data-figure]");
        chart.plot.scrollIntoView({ block: "center" });
        const box = chart.chart.over.getBoundingClientRect();
        const [mark] = chart.marks;
        const [x, y] = chart.placeOf(mark, false);
        return [box.x + x, box.y + y];
    })()""")
    browser.hover(x, y)
    browser.wait("!document.querySelector('.tip').hidden")
    text: str = browser.value("[...document.querySelector('.tip').children].map((one) => one.textContent).join('\\n')")
    return text


def test_a_mark_tells_what_happened_where_one_points_at_it(browser: Browser, three: Path) -> None:
    browser.open(three)
    assert re.fullmatch(r"warning · 0000000\d\ncapture.device: no better", told_at_a_mark(browser))


def test_a_point_of_a_curve_tells_its_value_and_an_edge_cuts_nothing_off(browser: Browser, three: Path) -> None:
    for width in (400, 1600):
        browser.open(three, width=width)
        browser.click("#marks")
        x, y = browser.value("""(() => {
            const { chart } = document.querySelectorAll("[data-figure]")[1];
            chart.plot.scrollIntoView({ block: "center" });
            const box = chart.chart.over.getBoundingClientRect();
            const curve = chart.curves[0];
            const [x, y] = chart.place(curve.x.at(-1), curve.y.at(-1), false);
            return [box.x + x, box.y + y];
        })()""")
        browser.hover(x, y)
        browser.wait("!document.querySelector('.tip').hidden")
        told = browser.value("document.querySelector('.tip').innerText")
        assert re.search(r"epoch 3, batch \d+, step \d+\nloss -?\d", told), told
        box = browser.value("document.querySelector('.tip').getBoundingClientRect().toJSON()")
        assert 0 <= box["left"] < box["right"] <= width, box


@pytest.mark.parametrize("width", [1600, 800, 400])
def test_it_reads_well_at_three_widths(browser: Browser, three: Path, tmp_path: Path, width: int) -> None:
    browser.open(three, width=width)
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(
        "[...document.querySelectorAll('body *')].every((one) => one.closest('.scroll, .unseen, svg, "
        "#legend') || one.getBoundingClientRect().right <= innerWidth)"
    )
    figures = shown(browser)
    assert all(width * 0.28 < one["width"] < width for one in figures), figures
    assert all(one["width"] > width * 0.8 for one in figures[:2]), figures
    assert browser.value(
        "getComputedStyle(document.querySelector('.figures:not(.large)')).gridTemplateColumns.split(' ').length"
    ) == (3 if width == 1600 else 1)
    assert overlapping(browser) == []
    picture = Image.open(browser.shot(tmp_path / f"{width}.png")).convert("RGB")
    assert picture.width == width
    assert picture.height > 3000
    colours = picture.getcolors(1 << 20)
    assert colours is not None
    seen = {colour for count, colour in colours if count > 50}
    assert {(0x2F, 0x7E, 0xD8), (0xD9, 0x62, 0x2B), (0x2A, 0x9D, 0x6B)} <= seen


def overlapping(browser: Browser) -> list[str]:
    """Give the labels of axes that touch the one beside them, or are cut off."""
    found: list[str] = browser.value("""[...document.querySelectorAll("[data-figure]")].flatMap(({ chart }) => {
        const ruler = document.createElement("canvas").getContext("2d");
        const bad = [];
        for (const [at, axis] of chart.chart.axes.entries()) {
            ruler.font = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
            const texts = (axis._values ?? []).map((text, index) => ({ text, value: axis._splits[index] }));
            const places = texts.filter(({ text }) => text).map(({ text, value }) => ({
                text, at: chart.chart.valToPos(value, "xy"[at]), long: at === 0 ? ruler.measureText(text).width : 12,
            })).sort((one, other) => one.at - other.at);
            places.forEach((one, index) => {
                const after = places[index + 1];
                const end = one.at + one.long / 2 + 2;
                if (after && end > after.at - after.long / 2) bad.push(`${one.text} ${after.text}`);
                if (at === 1 && ruler.measureText(one.text).width + 9 > axis._size) bad.push(`cut: ${one.text}`);
            });
            if (at === 0 && places.some(({ text }) => !/^\\d+$/.test(text))) bad.push("a tick between epochs");
            if (places.length === 0) bad.push("no tick");
        }
        return bad;
    })""")
    return found


def test_runs_and_marks_can_be_hidden_and_the_scale_and_smoothing_changed(browser: Browser, three: Path) -> None:
    browser.open(three)
    before = shown(browser)[0]
    browser.click("[data-run='1']")
    browser.wait("document.querySelector('[data-figure]').chart.drawn.curves == 4")
    without = shown(browser)[0]
    assert before["curves"] - without["curves"] == 2
    assert 0 < without["marks"] < before["marks"]
    browser.click("#marks")
    browser.wait("document.querySelector('[data-figure]').chart.drawn.marks == 0")
    browser.click("#logarithmic")
    browser.wait("document.querySelector('[data-figure]').chart.chart.scales.y.distr == 3")
    smoothed = "document.querySelector('[data-figure]').chart.curves[0]"
    browser.value("Object.assign(smoothing, { value: 0.5 }).dispatchEvent(new Event('input'))")
    raw, mean = browser.value(f"[{smoothed}.y, {smoothed}.smooth]")
    assert mean[:2] == pytest.approx([raw[0], (0.25 * raw[0] + 0.5 * raw[1]) / 0.75])
    assert browser.complaints() == []


def test_a_table_is_sorted_by_a_click_and_runs_are_filtered_by_name_and_setting(browser: Browser, three: Path) -> None:
    browser.open(three)
    lrs = "[...document.querySelectorAll('.differing tbody tr')].map((row) => row.cells[COLUMN].textContent)"
    heads = browser.value("[...document.querySelectorAll('.differing thead th')].map((one) => one.textContent)")
    column = heads.index("lr")
    order = {}
    for click in range(2):
        browser.click(f".differing thead th:nth-child({column + 1}) button")
        order[click] = browser.value(lrs.replace("COLUMN", str(column)))
    assert order == {0: ["0.01", "0.1", "0.1"], 1: ["0.1", "0.1", "0.01"]}
    browser.value(
        "Object.assign(filter, { value: 'LR=0.01' }).dispatchEvent(new Event('input'))".replace(
            "filter,", "document.getElementById('filter'),"
        )
    )
    seen = "[...document.querySelectorAll('.summary tbody tr')].filter((row) => row.checkVisibility()).length"
    assert browser.value(seen) == 1
    assert set(shown(browser)[0]["runs"]) == {2}


def test_a_figure_is_zoomed_by_dragging_and_whole_again_after_two_clicks(browser: Browser, three: Path) -> None:
    browser.open(three)
    chart = "document.querySelectorAll('[data-figure]')[1].chart"
    whole = browser.value(f"{chart}.ranges")
    browser.value(
        f"{chart}.chart.setSelect({{ left: 100, top: 0, width: 200, height: {chart}.chart.over.clientHeight }})"
    )
    zoomed = browser.value(f"{chart}.ranges")
    assert whole["x"][0] < zoomed["x"][0] < zoomed["x"][1] < whole["x"][1]
    browser.value(f"{chart}.chart.over.dispatchEvent(new MouseEvent('dblclick', {{ bubbles: true }}))")
    assert browser.value(f"{chart}.ranges") == whole


def test_without_scripts_all_tables_are_there_and_no_empty_figure(browser: Browser, three: Path) -> None:
    browser.open(three, script=False)
    assert browser.value("document.documentElement.dataset.drawn") is None
    assert browser.value("document.querySelector('noscript').textContent").startswith(
        "The curves are drawn by a script"
    )
    assert browser.value("document.querySelector('.figures').checkVisibility()") is False
    assert browser.value("document.querySelector('.controls').checkVisibility()") is False
    rows = browser.value("document.querySelectorAll('details.phases tbody tr').length")
    assert rows == sum(len(run.history) for run in replay(LINES))
    assert browser.value("document.querySelector('details.phases summary').checkVisibility()")


def test_the_dark_scheme_is_dark_and_paper_is_not(browser: Browser, three: Path, tmp_path: Path) -> None:
    browser.open(three, dark=True)
    picture = Image.open(browser.shot(tmp_path / "dark.png", whole=False)).convert("L")
    assert sum(picture.resize((1, 1)).tobytes()) < 60
    tick = "document.querySelector('[data-figure]').chart.chart.axes[0].stroke()"
    assert browser.value(tick) == "#c9d1d9"
    assert browser.printed(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    browser.wait(f"{tick} == '#c9d1d9'")
    assert browser.complaints() == []


@pytest.mark.sweep
def test_100_000_batches_are_drawn(browser: Browser, tmp_path: Path) -> None:
    content = page(replay(scripted(epochs=10, batches={"train": 10_000, "eval": 10}, every=1)))
    assert len(content) < 1_500_000
    browser.open(saved(tmp_path, content))
    assert [one["curves"] for one in shown(browser)] == [2, 2, 2, 2, 1, 2, 2, 2]
    assert browser.complaints() == []
