"""`ThroughputLog` tells what a clock says between its looks, and the memory that is used."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nntrain.errors import ConfigError
from nntrain.log import JsonLog, read
from nntrain.sinks import ThroughputLog, throughput
from nntrain.testing import check_sink
from nntrain.values.looks import Throughput
from tests.looking.setting import learner_of


def test_rates_are_those_since_the_phase_began_or_the_last_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = count(0, 2)
    clock = SimpleNamespace(perf_counter=lambda: float(next(seconds)))
    monkeypatch.setattr("nntrain.sinks.throughput.time", clock)  # the sink's alone
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner_of(sinks=[ThroughputLog(every=2), log]).fit(1, print_stats=False)
    monkeypatch.undo()
    told = [line for line in read(tmp_path / "log.jsonl") if isinstance(line.event, Throughput)]
    assert [(line.phase, line.batch) for line in told] == [("train", 2), ("train", 4), ("eval", 2)]
    for line in told:
        assert isinstance(line.event, Throughput)
        assert (line.event.samples_per_s, line.event.batches_per_s) == (6.0, 1.0)  # two batches of 6 in two seconds
        assert line.event.device_bytes is None
        assert (line.event.process_peak_bytes or 0) > 10_000_000


def test_on_a_device_its_memory_is_told(device: torch.device) -> None:
    found = throughput._memory(device)
    assert ("device_bytes" in found) == (device.type == "cuda")


def test_it_is_a_sink_by_the_laws() -> None:
    check_sink(lambda: ThroughputLog(every=1), examples=3)


@pytest.mark.parametrize("every", [0, -1, True, 2.5, None])
def test_what_is_no_number_of_batches_is_refused(every: Any) -> None:
    with pytest.raises(ConfigError, match="every is"):
        ThroughputLog(every)
