"""The report's page: what it draws, and what it tells."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nntrain.errors import ConfigError
from nntrain.log import CancelledEvent, CheckpointSaved, EpochFinished, Line, RunStarted, replay
from nntrain.log.report import page
from nntrain.log.report.notable import Mark, marks, merge, notable_events
from nntrain.log.report.series import Point, Series, by_batch, loss, thin_out
from nntrain.log.text import number
from nntrain.values.looks import ConfusionMatrix
from nntrain.values.record import FrozenMapping
from tests.log.pages import Structure, drawn, hostile, marked, titled
from tests.log.samples import CONFIG, Script, scripted

# What is drawn


def test_a_run_is_a_curve_of_train_and_one_of_eval_in_one_colour() -> None:
    content = page(replay([*scripted(0, every=1), *scripted(1, every=1)]))
    figures = titled(content)
    assert re.findall(r'<h3 id="title-\d+">(.*?)</h3>', content) == [*figures]
    assert [*figures] == [
        "loss by epoch",
        "loss by batch",
        "metric by epoch",
        "metric by batch",
        "learning rate",
        "seconds by epoch",
        "samples per second by epoch",
        "samples per second by batch",
    ]
    for title, figure in figures.items():
        lines = [(curve["run"], curve["name"], curve["dotted"]) for curve in figure["curves"]]
        both = [(0, "train", True), (0, "eval", False), (1, "train", True), (1, "eval", False)]
        assert lines == (both if title != "learning rate" else both[::2])
    assert len(set(re.findall(r'<circle cx="8" cy="8" r="6" fill="(.*?)"', content))) == 2
    large, small = content.split('id="what-came-out"')
    assert re.findall(r"<h3 [^>]*>(.*?)</h3>", large) == ["loss by epoch", "loss by batch"]
    assert "loss" not in re.findall(r"<h3 [^>]*>(.*?)</h3>", small)[0]


def test_the_curves_have_the_values_of_the_history_at_the_numbers_of_the_epochs() -> None:
    (run,) = replay(scripted(epochs=3))
    train, _ = drawn(page([run]))[0]["curves"]
    assert train["x"] == [0, 1, 2]
    assert train["y"] == pytest.approx([stats.loss for stats in run.history if stats.phase == "train"], rel=1e-5)


def test_batches_lie_within_their_epochs_whose_number_is_the_whole_part_of_the_place() -> None:
    (run,) = replay(scripted(epochs=2, every=5))
    train, evaluated = by_batch(run, loss, 100)
    assert [point.x for point in train.points] == [0.2, 0.45, 0.7, 0.95, 1.2, 1.45, 1.7, 1.95]
    assert [point.x for point in evaluated.points] == [0.8, 1.8]
    for point in (*train.points, *evaluated.points):
        assert math.floor(point.x) == point.at[0]
    assert train.points[-1].at == (1, 20, 40)


@pytest.mark.parametrize(
    ("ends", "symbols"),
    [
        ("completed", ["warning", "checkpoint"]),
        ("cancelled", ["warning", "checkpoint", "verdict"]),
        ("failed", ["warning", "checkpoint", "failure"]),
        ("running", ["warning", "checkpoint"]),
    ],
)
def test_what_happened_is_marked_on_loss_and_metrics(ends: Any, symbols: list[str]) -> None:
    content = page(replay(scripted(ends=ends, text="it <is> so")))
    figures = drawn(content)
    assert marked(figures[0]) == marked(figures[1]) == symbols
    assert all(not marked(figure) for figure in figures[2:])
    assert [one["y"] is None for one in figures[0]["marks"]] == [one == "checkpoint" for one in symbols]  # at the foot
    assert figures[0]["marks"][0]["text"] == "capture.device: it <is> so"
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
    train, _ = figure["curves"]
    assert train["y"][0] is None
    # in the samples step 20 is the last one of an epoch, and eval's loss is nan as well
    gaps = [(one["label"], one["x"], one["text"]) for one in figure["marks"] if one["kind"] == "nonfinite"]
    assert gaps == [("no finite number", 0, f"{phase}: nan at epoch 0") for phase in ("train", "eval")]
    assert "NaN" not in Structure(content).scripts[1]


def test_a_run_without_any_finite_value_has_its_marks_at_the_foot() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping(CONFIG)))
    for epoch, value in enumerate((math.nan, math.inf, -math.inf)):
        event = EpochFinished(loss=value, metrics=FrozenMapping(), batches=1, seconds=1.0)
        script.say(event, epoch=epoch, batch=1, samples=1)
    (figure, *_) = drawn(page(replay(script.lines)))
    (foot,) = figure["marks"]
    assert foot["y"] is None
    assert foot["text"] == "train: nan, inf, -inf at epoch 0 to 2 (3 values)"


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
    assert len(content) < 700_000
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


def test_fifty_runs_with_a_thousand_batches_each_are_a_small_page() -> None:
    one = scripted(epochs=10, batches={"train": 100, "eval": 5}, every=5)
    (run,) = replay(one)
    runs = [run.model_copy(update={"run_id": f"run {at}"}) for at in range(50)]
    content = page(runs, names=[f"sweep/{at}" for at in range(50)])
    assert len(content.encode()) < 1_500_000
    assert all(len(figure["curves"]) in {50, 100} for figure in drawn(content))
    assert "are drawn: the least and the greatest of each" in Structure(content).text()


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
    before, rest = content.split('id="curves"')
    assert re.findall(r'scope="col">([\w.]+)<', before.split('id="what-differs"')[1]) == [
        *("run", "lr", "data.train.kind", "data.train.start", "data.eval.kind", "data.eval.start")
    ]
    assert rest.count('<tr class="differs">') == 5
    assert 'class="apart">lr=0.01 · data.train.kind=arrow</span>' in before
    assert "What differs" not in Structure(page(runs[:1])).text()
    assert "No setting differs." in Structure(page(replay([*scripted(0), *scripted(1)]))).text()


def test_only_settings_differ_and_no_fact_of_where_or_how_long() -> None:
    data = {"train": {"kind": "list", "seconds": 0.7, "bytes": 9}}
    facts = {"learner": "another", "host": {"cpus": 9}, "versions": {"torch": "3"}, "sinks": [], "parameters": 1}
    runs = replay([*scripted(0), *scripted(1, config=facts), *scripted(2, config={"data": data})])
    shown = page(runs).split('id="what-differs"')[1].split("<section")[0]
    differing = ["run", "data.train.start", "data.eval.kind", "data.eval.start"]
    assert re.findall(r'scope="col">([\w.]+)<', shown) == differing
    both = page(runs[:2])
    assert "No setting differs." in both
    for fact in ("learner", "host.cpus", "versions.torch", "sinks", "parameters"):  # the whole config tells them
        assert f'<span title="not the same in all runs">≠ </span><span class="text">{fact}<' in both


def test_checkpoints_are_one_row_that_opens() -> None:
    script = Script()
    script.lines = scripted(0)[:-2]
    for at in range(1, 5):
        event = CheckpointSaved(path=f"runs/{at}.ckpt", bytes=10, seconds=0.1, waited_seconds=0.0, digest="d")
        script.say(event, epoch=2, phase="eval", batch=5, step=60)
    happened = page(replay(script.lines)).split('id="what-happened"')[1].split("<section")[0]
    assert happened.count("<tr ") == 2  # the warning and the checkpoints
    assert "5 checkpoints; the last: saved runs/4.ckpt (10 bytes, 0.1 s)" in happened
    assert all(f"runs/{at}.ckpt" in happened for at in range(5))


def test_the_last_confusion_matrix_of_a_run_is_a_table() -> None:
    script = Script()
    script.lines = scripted(0)[:-2]
    for right in (1, 9):
        event = ConfusionMatrix(labels=("cat", "<b>dog</b>"), counts=((right, 1), (0, 3)))
        script.say(event, epoch=2, phase="eval", batch=5, step=60)
    shown = page(replay(script.lines)).split('id="what-was-taken-for-what"')[1].split("<section")[0]
    assert shown.count("<table") == 1
    assert "eval, epoch 2 · 92.3077 % right" in shown
    assert '<td class="tenths-9">9</td><td class="tenths-1">1</td>' in shown
    assert '<th scope="row">&lt;b&gt;dog&lt;/b&gt;</th><td>0</td><td class="tenths-10">3</td>' in shown


def test_names_are_for_each_run() -> None:
    runs = replay([*scripted(0), *scripted(1)])
    assert 'data-run="1">' in page(runs, names=["slow", "fast"])
    assert "slow (1)" in page(runs, names=["slow", "slow"])
    with pytest.raises(ConfigError, match="There are 1 names and 2 runs; expected a name for each run"):
        page(runs, names=["slow"])


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
        (scripted()[:1], "No phase is finished yet, and the log has no batches: there is no loss to draw."),
        (scripted(epochs=1)[:4], "0 finished phases"),
        ([line for line in scripted() if line.phase == "train"], "best eval loss"),
        (scripted()[4:], "3 of 0"),
        ([*scripted(0, metrics=("a",)), *scripted(1, metrics=("b", "c"))], "b by epoch"),
        ([*scripted(0), *scripted(3)], "2 runs"),
    ],
    ids=["no run", "only begun", "no phase", "no eval", "no beginning", "other metrics", "two runs"],
)
def test_every_log_is_a_page(lines: Sequence[Line], said: str) -> None:
    assert said in Structure(page(replay(lines))).text()


def test_numbers_that_nobody_expects_break_nothing() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping({**CONFIG, "seed": 10**400, "train_batches": 10**400, "lr": -1e-308})))
    for epoch in (0, 10**300, 10**400):
        event = EpochFinished(loss=1e308, metrics=FrozenMapping({"m": -1.7e308}), batches=10**400, seconds=-1e308)
        script.say(event, epoch=epoch, samples=10**400, batch=10**400, step=10**400)
        script.say(CheckpointSaved(path="p", bytes=10**400, seconds=math.nan, waited_seconds=0.0, digest="d"))
    content = page(replay(script.lines))
    assert "about 10^400" in Structure(content).text()
    assert drawn(content)[0]["curves"][0]["x"][0] == 0


def test_ids_of_one_minute_are_told_apart_by_their_ends() -> None:
    names = re.findall(
        r"<label[^>]*><input[^>]* data-run=.*?</svg><span>(.*?)</span>", page(replay([*scripted(0), *scripted(1)]))
    )
    assert names == ["00000000", "00000001"]


def test_a_page_is_a_function_of_its_runs() -> None:
    lines = [*scripted(0, every=1), *scripted(1)]
    assert page(replay(lines)) == page(replay(lines))
