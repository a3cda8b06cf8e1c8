"""What was seen within phases is drawn: rates and gradients by group, activations by layer, throughput, memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, TrainState, advance, fit_step, supervised
from nntrain.log import JsonLog, Line, read, replay
from nntrain.log.export.curves import Curves
from nntrain.log.report import page
from nntrain.log.sentences import sentence
from nntrain.looking import ActivationStats
from nntrain.update import chain, gradient_norms, optimizer
from nntrain.values.looks import Activations, LayerActivations, Throughput
from tests.log.pages import Structure, titled
from tests.log.samples import Script, scripted
from tests.looking.setting import DATA, make_model


def trained(path: Path) -> Learner[Any]:
    update = chain(
        gradient_norms("body.*", "head.*"),
        optimizer(torch.optim.SGD, lr=0.1, groups={"body.*": {"lr": 0.01}, "head.*": {"lr": 0.2}}),
    )
    return Learner.of(
        make_model(),
        DataLoaders(DATA, DATA[:2]),
        supervised(cross_entropy),
        update,
        subs=[ActivationStats(every=2, layers=["between", "head"])],
        sinks=[JsonLog(path, every="all")],
    )


def test_groups_and_layers_of_a_real_training_are_a_curve_each(tmp_path: Path) -> None:
    trained(tmp_path / "log.jsonl").fit(1, print_stats=False)
    (run,) = replay(read(tmp_path / "log.jsonl"))
    assert [line.batch for line in run.looks] == [1, 3, 5]
    figures = titled(page([run]))
    shown = {title: [curve["name"] for curve in one["curves"]] for title, one in figures.items()}
    assert shown["learning rates by group"] == shown["gradient norms by group"] == ["body.*", "head.*"]
    for stat in ("mean", "standard deviation", "share of dead units", "share near zero"):
        assert shown[f"activations: {stat} by layer"] == ["between", "head"]
    assert "grad_norm by batch" in shown
    assert not any("grad_norm/" in title for title in shown)
    body, head = figures["gradient norms by group"]["curves"]
    logged = [line.event.metrics["grad_norm/head.*"] for line in run.batches if line.phase == "train"]  # type: ignore[attr-defined] # BatchFinished
    assert head["y"] == pytest.approx(logged, rel=1e-5)
    assert (body["strength"], head["strength"]) == (0.675, 1.0)
    between, _ = figures["activations: mean by layer"]["curves"]
    events = [line.event for line in run.looks]
    assert between["y"] == pytest.approx([event.layers[0].mean for event in events], rel=1e-5)  # type: ignore[attr-defined] # Activations
    assert between["x"] == [0.0, 0.4, 0.8]
    assert between["at"] == [0, 1, 1, 0, 3, 3, 0, 5, 5]
    assert "custom event" not in page([run])
    assert sentence(run.looks[0]) == "activations of 2 layers"


def test_a_training_that_went_back_has_no_looks_after_the_place_it_went_back_to(tmp_path: Path) -> None:
    learner = trained(tmp_path / "log.jsonl")
    kept: list[TrainState] = [learner.init(epochs=1)]
    while kept[-1].progress.at != "finished":
        kept.append(advance(learner, kept[-1]).state)
    fit_step(learner, next(one for one in kept if one.progress.step == 1))
    (run,) = replay(read(tmp_path / "log.jsonl"))
    assert [line.batch for line in run.looks] == [1, 3, 5]


def test_other_tools_get_a_curve_of_each_layer() -> None:
    curves_ = Curves()
    points = [point for line in with_looks(look(2)) for point in curves_.points(line)]
    named = {one.curve: (one.value, one.x) for one in points if one.curve.startswith("activations")}
    assert len(named) == 6
    assert sorted(named.values()) == [(0.0, 10), (0.0, 10), (0.5, 10), (0.5, 10), (1.0, 10), (1.0, 10)]


def look(layers: int, mean: float = 0.5) -> Activations:
    seen = (
        LayerActivations(layer=f"<b>{at}</b>", kind="ReLU", shape=(1,), mean=mean, std=1.0, dead=0.0, histogram=(1, 2))
        for at in range(layers)
    )
    return Activations(high=10.0, layers=tuple(seen))


def with_looks(*events: Activations | Throughput) -> list[Line]:
    script = Script()
    script.lines = scripted(0)[:-2]
    for event in events:
        script.say(event, epoch=0, phase="train", batch=10, step=10, samples=10)
    return script.lines


def test_many_layers_are_left_out_and_said_so_and_names_are_no_markup() -> None:
    content = page(replay(with_looks(look(41), look(41, float("nan")))))
    figure = titled(content)["activations: mean by layer"]
    assert len(figure["curves"]) == 40
    assert "Of 41 curves of a run the first 40 are drawn." in content
    assert "\\u003cb\\u003e0\\u003c/b\\u003e" in content  # in JSON
    assert figure["curves"][0]["name"] == "<b>0</b>"
    assert figure["curves"][0]["y"] == [0.5, None]


def test_throughput_and_memory_are_drawn() -> None:
    told = Throughput(samples_per_s=100.0, batches_per_s=2.0, device_bytes=2**20, process_peak_bytes=2**22)
    figures = titled(page(replay(with_looks(told))))
    (speed,) = figures["throughput, samples per second"]["curves"]
    assert (speed["y"], speed["x"]) == ([100], [0.45])
    assert [(one["name"], one["y"]) for one in figures["memory, MiB"]["curves"]] == [
        ("device", [1]),
        ("process, at most", [4]),
    ]


def test_the_histograms_of_a_layer_are_a_column_for_each_look() -> None:
    content = page(replay(with_looks(look(2), look(2, 0.1))))
    data = json.loads(Structure(content).scripts[1])
    assert data["histograms"] == [["mz", "mz"]] * 2  # log(1 + 1) and log(1 + 2) of log(1 + 2): 22 and 35 of 35
    assert content.count("<canvas ") == 2
    assert "&lt;b&gt;1&lt;/b&gt;" in content
    assert "to 10, 2 looks" in content
    many = json.loads(Structure(page(replay(with_looks(*[look(30)] * 1000)))).scripts[1])["histograms"]
    assert [len(columns) for columns in many] == [59] * 24
    assert page(replay(scripted())).count("<canvas ") == 0
