"""What a notebook shows of states, outcomes, histories, loaders and differences: HTML in which all text stays text."""

from __future__ import annotations

import gc
import math
import weakref
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from nntrain import (
    CancelFit,
    Cancelled,
    Completed,
    DataLoaders,
    EpochStats,
    Key,
    Learner,
    Record,
    Slot,
    TrainState,
    batch_step,
    fit_step,
)
from nntrain.values.history import History
from nntrain.values.notebook import html_table
from nntrain.values.record import FrozenMapping, evolved
from nntrain.values.tensors import Tensors
from tests.log.trained import BATCHES, learner_of

HOSTILE = "</td><script>alert(1)</script>&amp;\"'\x1b[31m\u202e"
SAID = "</td><script>alert(1)</script>&amp;\"'\\x1b[31m\\u202e"
TAGS = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary"}


def tree(html: str) -> ET.Element:
    """Give the HTML as a tree, of which nothing is markup but our own."""
    found = ET.fromstring(f"<div>{html}</div>")
    for one in found.iter():
        assert one.tag in TAGS
        assert set(one.attrib) <= {"style", "colspan"}
    return found


def shown(value: Any) -> list[list[list[str]]]:
    """Give the tables that a notebook shows of a value, as rows of cells."""
    tables = tree(value._repr_html_()).iter("table")
    return [[["".join(cell.itertext()) for cell in row] for row in one.iter("tr")] for one in tables]


def captions(value: Any) -> list[str]:
    return ["".join(one.itertext()) for one in tree(value._repr_html_()).iter("caption")]


@pytest.fixture(scope="module")
def trained() -> tuple[Learner[Any], TrainState]:
    learner = learner_of()
    return learner, learner.fit(4, print_stats=False).state


class Notes(Record, frozen=True):
    count: int = 0


# -- the table ---------------------------------------------------------------------------------------------------------


@given(st.text(max_size=200), st.text(max_size=20))
def test_any_text_is_one_cell(text: str, name: str) -> None:
    (row,) = tree(html_table(text, [(name, text)], (name, "what"))).iter("tbody")
    said = ["".join(cell.itertext()) for cell in row[0]]
    assert len(said) == 2
    assert all(one.isprintable() and len(one) <= 80 for one in said)
    if text.isprintable() and len(text) <= 80:
        assert said[1] == text


def test_numbers_are_short_and_none_is_a_dash() -> None:
    (row,) = tree(html_table("", [(1234567, 0.123456789, math.nan, None)])).iter("tr")
    assert ["".join(cell.itertext()) for cell in row] == ["1,234,567", "0.123457", "nan", "–"]


def test_of_many_rows_the_first_and_the_last_are_shown() -> None:
    rows = [[cell.text for cell in row] for row in tree(html_table("", [(at, at) for at in range(1000)])).iter("tr")]
    assert rows[:2] == [["0", "0"], ["1", "1"]]
    assert rows[20] == ["… 960 more …"]
    assert rows[-1] == ["999", "999"]
    assert len(rows) == 41


# -- the values --------------------------------------------------------------------------------------------------------


def test_a_state_shows_its_place_its_last_phases_and_its_tensors(trained: tuple[Learner[Any], TrainState]) -> None:
    _, state = trained
    place, phases, tensors = shown(state.scale_lr(0.5).put(Slot("tests.own", Notes, Notes()), Notes()))
    assert place == [
        ["at", "finished"],
        ["epoch", "4 of 4"],
        ["phase", "train"],
        ["batch", "0"],
        ["step", "12"],
        ["lr_scale", "0.5"],
        ["seed", "0"],
        ["slots", "tests.own"],
        ["parameters", "8"],
        ["device", "cpu"],
    ]
    assert captions(state)[1] == "the last 6 of 8 finished phases"
    assert phases[0] == ["epoch", "phase", "loss", "metric", "samples", "seconds"]
    assert [row[:3] for row in phases[1:]] == [
        [str(one.epoch), one.phase, f"{one.loss:.6g}"] for one in state.history[-6:]
    ]
    assert tensors[1:] == [["weight", "parameter", "[2, 3]", "float32"], ["bias", "parameter", "[2]", "float32"]]


def test_a_state_amid_a_phase_shows_the_loss_so_far_and_one_with_a_goal_in_steps_shows_it() -> None:
    learner = learner_of()
    state = batch_step(learner, learner.init(), BATCHES[0]).state
    place = dict(shown(state)[0])
    assert place["loss so far"] == f"{state.sums.means()[0]:.6g}"
    assert len(shown(state)) == 2  # no phase is finished
    assert dict(shown(fit_step(learner, learner.init(), steps=5).state)[0])["step"] == "5 of 5"


def test_outcomes_show_how_they_came_about(trained: tuple[Learner[Any], TrainState]) -> None:
    _, state = trained
    completed = Completed(state=state, sink_failures=FrozenMapping({"JsonLog": 1200}))
    assert captions(completed)[:2] == ["Completed", "TrainState"]
    assert shown(completed)[0] == [["failed", "JsonLog, 1,200 times"]]
    assert shown(completed)[1:] == shown(state)
    cancelled = Cancelled(state=state, verdict=CancelFit(reason="enough"), by="Stop", event="after_epoch")
    assert shown(cancelled)[0] == [
        ["verdict", "CancelFit"],
        ["reason", "enough"],
        ["by", "Stop"],
        ["event", "after_epoch"],
    ]


def test_a_history_shows_each_phase_and_a_long_one_the_first_and_the_last() -> None:
    def stats(epoch: int, **more: Any) -> EpochStats:
        return EpochStats(epoch=epoch, phase="eval", loss=1.0, samples=2000, batches=1, seconds=0.25, **more)

    history = History([stats(0, data="near"), stats(0, data="far", has_loss=False, metrics={"f1": 0.5})])
    assert shown(history) == [
        [
            ["epoch", "phase", "loss", "f1", "samples", "seconds"],
            ["0", "near", "1", "–", "2,000", "0.25"],
            ["0", "far", "–", "0.5", "2,000", "0.25"],
        ]
    ]
    assert captions(history) == ["2 finished phases"]
    assert len(History(map(stats, range(10_000)))._repr_html_()) < 30_000
    assert shown(History()) == [[["epoch", "phase", "loss", "samples", "seconds"]]]


def test_a_difference_shows_values_and_tensors(trained: tuple[Learner[Any], TrainState]) -> None:
    learner, state = trained
    other = learner.fit(4, seed=1, print_stats=False).state
    values, tensors, _ = shown(state.diff(other))
    assert values[0] == ["value", "first", "second"]
    assert ["key/seed", "0", "1"] in values
    assert [row[0] for row in tensors] == ["tensor", "params/weight", "params/bias"]
    assert tensors[1][1].startswith("6 of 6 elements differ, by at most ")
    assert captions(state.diff(state)) == ["nothing differs; 2 tensors have equal bits"]


class Odd:
    """A loader that knows nothing of its length, and must not be read."""

    description: Mapping[str, object] = {"kind": HOSTILE, "why": 3}

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        raise AssertionError("it was read")


class Unreadable(list[int]):
    def __iter__(self) -> Iterator[int]:
        raise AssertionError("it was read")


def test_loaders_show_their_sizes_and_none_is_read() -> None:
    items: Any = Unreadable([1, 2, 3])
    workers: Any = DataLoader(items, 2, num_workers=2)
    kept: Any = DataLoader(items, 2, num_workers=2, persistent_workers=True)
    dls = DataLoaders[Any](workers, {"<b>near": Odd(), "far": [1, 2], "kept": kept})
    assert captions(dls) == ["DataLoaders"]
    (rows,) = shown(dls)
    assert rows[0] == ["set", "batches", "batch size", "samples", "what"]
    assert rows[1][:4] == ["train", "2", "2", "3"]
    assert rows[1][4].startswith("DataLoader")
    assert rows[2] == ["<b>near", "–", "–", "–", f"{SAID}, why: 3"]
    assert rows[3] == ["far", "2", "–", "–", "list, start: by index"]
    assert "keeps its workers from epoch to epoch" in rows[4][4]
    assert [row[0] for row in shown(DataLoaders([1], [2]))[0]] == ["set", "train", "valid"]
    assert [row[0] for row in shown(DataLoaders([1]))[0]] == ["set", "train"]


# -- what must not happen ----------------------------------------------------------------------------------------------


def test_nothing_hostile_in_a_name_is_markup(trained: tuple[Learner[Any], TrainState]) -> None:
    _, state = trained
    stats = state.history[-1].model_copy(update={"data": HOSTILE, "metrics": FrozenMapping({HOSTILE: 1.0})})
    odd = evolved(
        state,
        slots=FrozenMapping({HOSTILE: Notes()}),  # as from a file
        history=History([stats]),
        progress=state.progress.model_copy(update={"data": HOSTILE, "phase": "eval"}),
    )
    values = (
        odd,
        odd.history,
        odd.diff(state),
        Completed(state=odd, sink_failures=FrozenMapping({HOSTILE: 1})),
        Cancelled(state=odd, verdict=CancelFit(reason=HOSTILE), by=HOSTILE, event="after_epoch"),
    )
    for value in values:
        said = [cell for table in shown(value) for row in table for cell in row]
        assert any(SAID[:40] in cell for cell in said), type(value)
        assert all(cell.isprintable() for cell in said)


def test_a_state_of_a_thousand_tensors_is_shown_at_once_and_none_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({f"layer {at}": nn.Linear(1, 1) for at in range(500)})
    state = Learner(model, DataLoaders(BATCHES), cross_entropy, {}, torch.optim.SGD, 0.1).init()
    for name in ("read", "lend", "snapshot", "whole"):
        monkeypatch.setattr(Tensors, name, lambda *_: pytest.fail("a tensor was read"))
    html = state._repr_html_()
    assert len(html) < 10_000
    assert "1,000 tensors" in html
    assert "… 960 more …" in html


def test_what_is_shown_does_not_keep_the_state() -> None:
    state = learner_of().init()
    gone = weakref.ref(state.tensors)
    html = state._repr_html_()
    del state
    gc.collect()
    assert html
    assert gone() is None


def test_ipython_takes_it() -> None:
    formatters: Any = pytest.importorskip("IPython.core.formatters")
    state = learner_of().init()
    assert formatters.HTMLFormatter()(state) == state._repr_html_()
