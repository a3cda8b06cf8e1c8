"""`Profiler` has torch's profiler watch the steps that it is told to, and no others."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from nntrain import Sink, Transition, on
from nntrain.errors import ConfigError
from nntrain.log import JsonLog, read
from nntrain.sinks import Profiler
from nntrain.testing import check_sink
from nntrain.values.looks import Profiled
from tests.looking.setting import learner_of


def profiled(folder: Path, sink: Sink, epochs: int = 2, **more: Any) -> list[Profiled]:
    with JsonLog(folder / "log.jsonl") as log:
        learner_of(sinks=[sink, log], **more).fit(epochs, print_stats=False)
    return [line.event for line in read(folder / "log.jsonl") if isinstance(line.event, Profiled)]


@pytest.mark.parametrize(("start", "steps", "there"), [(0, 2, (0, 1)), (1, 3, (1, 3)), (3, 9, (3, 4)), (5, 2, (5, 6))])
def test_it_profiles_the_steps_it_is_told_to(start: int, steps: int, there: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "new" / "trace.json"
    (found,) = profiled(tmp_path, Profiler(path, start=start, steps=steps))
    assert (found.first, found.last, found.path) == (*there, str(path))
    names = [event.get("name", "") for event in json.loads(path.read_text())["traceEvents"]]
    count = there[1] - there[0] + 1
    assert names.count("Optimizer.step#Adam.step") == count
    convolutions = [one for one in found.slowest if one.name == "aten::convolution"]
    assert not convolutions or convolutions[0].calls == count
    assert found.slowest[0].seconds >= found.slowest[-1].seconds > 0


def test_a_fit_that_ends_before_has_its_trace_and_one_that_never_gets_there_none(tmp_path: Path) -> None:
    @on("before_batch")
    def fails(state: Any, batch: Any) -> Any:
        if state.progress.step == 3:
            raise ValueError("as told")
        return state

    sink = Profiler(tmp_path / "trace.json.gz", start=1, steps=100)
    with JsonLog(tmp_path / "log.jsonl") as log, pytest.raises(ValueError, match="as told"):
        learner_of(subs=[fails], sinks=[sink, log]).fit(1, print_stats=False)
    (found,) = [line.event for line in read(tmp_path / "log.jsonl") if isinstance(line.event, Profiled)]
    assert (found.first, found.last) == (1, 2)
    assert json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
    (tmp_path / "other").mkdir()
    assert profiled(tmp_path / "other", Profiler(tmp_path / "other" / "trace.json", start=1000)) == []


def test_nothing_is_watched_but_the_ends_of_the_range(tmp_path: Path) -> None:
    told: list[Transition] = []

    class Counted(Profiler):
        def __call__(self, transition: Transition, /) -> None:
            told.append(transition)
            super().__call__(transition)

    learner_of(sinks=[Counted(tmp_path / "trace.json", start=1, steps=2)]).fit(1, print_stats=False)
    batches = [one.state.progress.batch for one in told if one.output is not None and one.progress.phase == "train"]
    assert batches == [1, 3]


def test_options_go_to_torch_and_the_training_keeps_its_bits(tmp_path: Path) -> None:
    sink = Profiler(tmp_path / "trace.json", start=0, steps=1, record_shapes=True)
    state = learner_of(sinks=[sink]).fit(1, print_stats=False).state
    assert state == learner_of().fit(1, print_stats=False).state
    assert "Input Dims" in (tmp_path / "trace.json").read_text()


def test_it_is_a_sink_by_the_laws(tmp_path: Path) -> None:
    check_sink(lambda: Profiler(tmp_path / "trace.json", start=0, steps=1), examples=2)


@pytest.mark.parametrize("given", [{"start": -1}, {"start": True}, {"steps": 0}, {"steps": 1.5}])
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a whole number of"):
        Profiler(tmp_path / "trace.json", **given)
    with pytest.raises(ConfigError, match="is a folder"):
        Profiler(tmp_path)
