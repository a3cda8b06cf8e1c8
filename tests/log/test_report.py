"""The report's page: what it draws, and what it tells."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import plotly.graph_objects
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nntrain.log import CancelledEvent, CheckpointSaved, EpochFinished, Line, RunStarted, replay
from nntrain.log.report import document, page
from nntrain.log.report.notable import Mark, marks, merge, notable_events
from nntrain.log.report.series import Point, Series, by_batch, loss, thin_out
from nntrain.log.text import number
from nntrain.values.record import FrozenMapping
from tests.log.pages import HOSTILE, Structure, curves, drawn, hostile, marked
from tests.log.samples import CONFIG, Script, scripted


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Put a stand-in into the pages of these tests: plotly.js has no part in them but its five million characters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "plotly_js", lambda: "window.Plotly = {};")
        yield


# What is drawn


def test_a_run_is_a_curve_of_train_and_one_of_eval_in_one_colour() -> None:
    content = page(replay([*scripted(0, every=1), *scripted(1, every=1)]))
    figures = drawn(content)
    titles = re.findall(r'<h3 id="title-\d+">(.*?)</h3>', content)
    assert titles == [
        "loss by epoch",
        "metric by epoch",
        "loss by batch",
        "metric by batch",
        "learning rate",
        "seconds by epoch",
        "samples per second by epoch",
        "samples per second by batch",
    ]
    for title, figure in zip(titles, figures, strict=True):
        lines = [(trace["line"]["color"], trace["line"]["dash"]) for trace in curves(figure)]
        one, other = "#2f7ed8", "#d9622b"
        both = [(one, "dot"), (one, "solid"), (other, "dot"), (other, "solid")]
        assert lines == (both if title != "learning rate" else [(one, "dot"), (other, "dot")])
        assert len(figure["runs"]) == len(figure["data"])


def test_the_curves_have_the_values_of_the_history_at_the_ends_of_the_epochs() -> None:
    (run,) = replay(scripted(epochs=3))
    train, _ = curves(drawn(page([run]))[0])
    assert train["x"] == [1.0, 2.0, 3.0]
    assert train["y"] == pytest.approx([stats.loss for stats in run.history if stats.phase == "train"], rel=1e-6)
    assert [at for (at,) in train["customdata"]] == [0, 1, 2]


def test_batches_lie_between_the_ends_of_their_epochs() -> None:
    (run,) = replay(scripted(epochs=2, every=5))
    train, evaluated = by_batch(run, loss, 100)
    assert [point.x for point in train.points] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert [point.x for point in evaluated.points] == [1.0, 2.0]
    assert train.points[-1].at == (1, 20, 40)


@pytest.mark.parametrize(
    ("ends", "symbols"),
    [
        ("completed", ["triangle-up", "square"]),
        ("cancelled", ["triangle-up", "square", "diamond"]),
        ("failed", ["triangle-up", "square", "x"]),
        ("running", ["triangle-up", "square"]),
    ],
)
def test_what_happened_is_marked_on_loss_and_metrics(ends: Any, symbols: list[str]) -> None:
    content = page(replay(scripted(ends=ends, text="it <is> so")))
    figures = drawn(content)
    assert marked(figures[0]) == marked(figures[1]) == symbols
    assert all(not marked(figure) for figure in figures[2:])
    told = [one for trace in figures[0]["data"] if trace["mode"] == "markers" for one in trace["text"]]
    assert "capture.device: it &lt;is&gt; so" in told[0]
    assert Structure(content).text().count("it <is> so") == (
        1 if ends in {"completed", "running"} else 2 + (ends == "failed")
    )


def test_a_mark_lies_on_the_eval_curve() -> None:
    series = Series.of("eval", [Point(1.0, 4.0, ()), Point(2.0, math.nan, ()), Point(3.0, 2.0, ())], 100)
    assert [series.near(x) for x in (0.0, 1.0, 1.5, 2.0, 3.0, 9.0)] == [4.0, 4.0, 3.5, 3.0, 2.0, 2.0]
    assert Series.of("eval", [Point(1.0, math.inf, ())], 9).near(1.0) is None


def test_a_loss_that_is_no_number_is_a_gap_and_a_mark() -> None:
    content = page(replay(scripted(nan_at=20, epochs=3)))
    (figure, *_) = drawn(content)
    train, _ = curves(figure)
    assert train["y"][0] is None
    assert train["connectgaps"] is False
    assert marked(figure).count("circle-x-open") == 2  # in the samples step 20 is the last, and eval's loss is nan too
    texts = [text for trace in figure["data"] for text in trace.get("text", ())]
    assert any("no finite number" in text and "train: nan at 1 epochs" in text for text in texts)
    assert "NaN" not in content.split("</style>")[1]


def test_a_run_without_any_finite_value_has_its_marks_at_the_foot() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping(CONFIG)))
    for epoch, value in enumerate((math.nan, math.inf, -math.inf)):
        event = EpochFinished(loss=value, metrics=FrozenMapping(), batches=1, seconds=1.0)
        script.say(event, epoch=epoch, batch=1, samples=1)
    (figure, *_) = drawn(page(replay(script.lines)))
    (foot,) = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    assert (foot["yaxis"], foot["y"]) == ("y2", [0.05])
    assert "nan, inf, -inf at 1 to 3 (3 values)<br>epochs" in foot["text"][0]


def test_a_point_alone_between_gaps_has_a_symbol() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping(CONFIG)))
    for epoch in range(200):
        value = 1.0 if epoch == 100 or epoch > 150 else math.nan
        event = EpochFinished(loss=value, metrics=FrozenMapping(), batches=1, seconds=1.0)
        script.say(event, epoch=epoch, batch=1, samples=1)
    (curve,) = curves(drawn(page(replay(script.lines)))[0])
    assert [index for index, one in enumerate(curve["marker"]["size"]) if one] == [100]


def test_a_single_epoch_has_symbols() -> None:
    figure = drawn(page(replay(scripted(epochs=1))))[0]
    assert {(trace["mode"], trace["marker"]["size"]) for trace in curves(figure)} == {("lines+markers", 6)}


def test_plotly_knows_every_word_of_the_figures() -> None:
    lines = [*scripted(0, every=1, nan_at=3), *scripted(1, ends="failed"), *hostile(HOSTILE[0])]
    for figure in drawn(page(replay(lines))):
        plotly.graph_objects.Figure({"data": figure["data"], "layout": figure["layout"]})


# Many values


points = st.lists(st.one_of(st.floats(), st.just(math.nan)), min_size=1, max_size=400)


@given(points, st.integers(2, 30))
def test_thinning_keeps_extremes_ends_gaps_and_order(values: list[float], buckets: int) -> None:
    given_ = [Point(float(x), y, (x,)) for x, y in enumerate(values)]
    kept = thin_out(given_, buckets)
    assert len(kept) <= max(2 * buckets, 3 * buckets + 2)
    assert [point.at for point in kept] == sorted({point.at for point in kept})
    assert {point.at for point in kept} <= {point.at for point in given_}
    assert (kept[0].at, kept[-1].at) == (given_[0].at, given_[-1].at)
    finite = [y for y in values if math.isfinite(y)]
    left = [point.y for point in kept if math.isfinite(point.y)]
    assert (min(left, default=None), max(left, default=None)) == (min(finite, default=None), max(finite, default=None))
    assert any(not math.isfinite(point.y) for point in kept) == (len(finite) < len(values))


@pytest.mark.sweep
def test_100_000_batches_are_a_page_of_reasonable_size_that_says_what_it_left_out() -> None:
    lines = scripted(epochs=10, batches={"train": 10_000, "eval": 10}, every=1)
    content = page(replay(lines))
    assert len(content) < 500_000
    assert "Of 100,100 values 1,502 are drawn: the least and the greatest of each" in Structure(content).text()


def test_marks_in_one_place_or_close_together_are_one() -> None:
    same = [Mark("verdict", 1.0, (f"batch {index}",)) for index in range(7)]
    (one,) = merge(same)
    assert (one.count, one.texts) == (7, tuple(f"batch {index}" for index in range(5)))
    many = merge([Mark("verdict", float(index), (str(index),)) for index in range(100_000)])
    assert len(many) <= 201
    assert sum(mark.count for mark in many) == 100_000


def test_a_kind_that_comes_often_is_told_for_its_first_and_counted() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping(CONFIG)))
    for batch in range(1000):
        script.say(CancelledEvent(scope="batch", reason="skip", subscriber="Skip", at="before_batch"), batch=batch)
    content = Structure(page(replay(script.lines))).text()
    assert content.count("Skip cancelled the batch at before_batch: skip") == 200
    assert "and 800 more of this kind; the log has all" in content


def test_more_metrics_than_anybody_reads_are_counted() -> None:
    content = page(replay(scripted(metrics=tuple(f"metric {index}" for index in range(100)))))
    assert "Of 100 metrics the first 40 are drawn." in Structure(content).text()
    assert len(drawn(content)) == 1 + 40 + 2


# What is told


def test_the_tables_tell_what_came_out_without_a_script() -> None:
    lines = [*scripted(0), *scripted(1, ends="cancelled", config={"lr": 0.01}), *scripted(2, ends="running")]
    del lines[5]
    content = page(replay(lines), title="Three")
    text = Structure(content).text()
    (run, other, running) = replay(lines)
    assert content.startswith('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Cont')
    assert "<title>Three</title>" in content
    for one in (run, other, running):
        for stats in one.history:
            assert number(stats.loss) in text
    for said in ("✓ completed", "■ cancelled", "… running", "3 of 3", "2026-01-01 12:00:00 UTC"):
        assert said in text
    assert "<td><strong>1</strong></td>" in content  # the lost line
    assert "EarlyStopping cancelled the fit at before_epoch: no better" in text
    assert "saved runs/0.ckpt (12.3 kB, 0.01 s)" in text


def test_what_differs_comes_first_and_is_marked_in_the_whole() -> None:
    runs = replay([*scripted(0), *scripted(1, config={"lr": 0.01, "data": {"train": {"kind": "arrow"}}})])
    content = page(runs)
    differing, rest = content.split('id="curves"')
    assert re.findall(r'<span class="text">(data[\w.]+|lr)</span>', differing) == [
        *("lr", "data.train.kind", "data.train.start", "data.eval.kind", "data.eval.start")
    ]
    assert rest.count('<tr class="differs">') == 5
    assert "optimizer" not in Structure(differing).text().split("What differs")[1].split("Learner(")[0]
    assert 'class="apart">lr=0.01 · data.train.kind=arrow</span>' in rest
    assert "What differs" not in Structure(page(runs[:1])).text()
    assert "No setting differs." in Structure(page(replay([*scripted(0), *scripted(1)]))).text()


def test_what_happened_is_told_with_custom_events_and_resumptions() -> None:
    (run,) = replay(hostile("plain"))
    kinds = [one.kind for one in notable_events(run)]
    expected = [
        "resumption",
        "warning",
        "verdict",
        "other",
        "checkpoint",
        "resumption",
        "resumption",
        "resumption",
        "failure",
    ]
    assert kinds == expected
    assert notable_events(run)[3].text == 'acme.plain: zplain=plain, deep=[["plain"]]'
    assert {mark.kind for mark in marks(run, notable_events(run))} == set(expected) - {"other"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "There is no run in these logs."),
        (scripted()[:1], "No phase is finished yet, and the log has no batches: there is nothing to draw."),
        (scripted(epochs=1)[:4], "0 finished phases"),
        ([line for line in scripted() if line.phase == "train"], "best eval loss"),
        (scripted()[4:], "3 of 0"),
        ([*scripted(0, metrics=("a",)), *scripted(1, metrics=("b", "c"))], "b by epoch"),
        ([*scripted(0), *scripted(3)], "2 runs"),
    ],
    ids=["no run", "only begun", "no phase", "no eval", "no beginning", "other metrics", "two runs"],
)
def test_every_log_is_a_page(lines: Sequence[Line], said: str) -> None:
    content = page(replay(lines))
    assert said in Structure(content).text()
    for figure in drawn(content):
        plotly.graph_objects.Figure({"data": figure["data"], "layout": figure["layout"]})


def test_numbers_that_nobody_expects_break_nothing() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping({**CONFIG, "seed": 10**400, "train_batches": 10**400, "lr": -1e-308})))
    for epoch in (0, 10**300, 10**400):
        event = EpochFinished(loss=1e308, metrics=FrozenMapping({"m": -1.7e308}), batches=10**400, seconds=-1e308)
        script.say(event, epoch=epoch, samples=10**400, batch=10**400, step=10**400)
        script.say(CheckpointSaved(path="p", bytes=10**400, seconds=math.nan, waited_seconds=0.0, digest="d"))
    content = page(replay(script.lines))
    assert "about 10^400" in Structure(content).text()
    assert drawn(content)[0]["data"][0]["x"][0] == 1.0


def test_ids_of_one_minute_are_told_apart_by_their_ends() -> None:
    names = re.findall(
        r"<label[^>]*><input[^>]* data-run=.*?</svg><span>(.*?)</span>", page(replay([*scripted(0), *scripted(1)]))
    )
    assert names == ["00000000", "00000001"]


def test_a_page_is_a_function_of_its_runs() -> None:
    lines = [*scripted(0, every=1), *scripted(1)]
    assert page(replay(lines)) == page(replay(lines))
