"""The kit's checks, and what is this distribution's alone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nntrain import DataLoaders, Learner
from nntrain.errors import ConfigError
from nntrain.log import JsonLog
from nntrain.testing import check_loader, check_sink, check_subscriber, clashes, dry_run
from nntrain_plateau import RatesFile, ReduceOnPlateau, stripes

Batch = tuple[Tensor, Tensor]


def test_the_subscriber_keeps_the_laws() -> None:
    check_subscriber(lambda: ReduceOnPlateau(patience=1, factor=0.5))


def test_the_sink_keeps_the_laws(tmp_path: Path) -> None:
    check_sink(lambda: RatesFile(tmp_path / "rates.csv"))


def test_the_data_keep_the_laws() -> None:
    data = stripes(count=40)
    check_loader(lambda: DataLoaders.from_hf_dd(data, batch_size=16).train)


def test_two_of_them_do_not_commute() -> None:
    (clash,) = clashes([lambda: ReduceOnPlateau(patience=1), lambda: ReduceOnPlateau(patience=2)])
    assert clash.first == clash.second == "ReduceOnPlateau"


def test_the_rate_falls_where_the_loss_stands_still(nntrain_learner: Learner[Batch], tmp_path: Path) -> None:
    still = ReduceOnPlateau(patience=2, factor=0.5, min_delta=100.0)
    learner = nntrain_learner.replace(subs=[still], sinks=[RatesFile(tmp_path / "rates.csv")])
    assert learner.fit(6, print_stats=False).state.lr_scale == 0.25
    with (tmp_path / "rates.csv").open(newline="", encoding="utf-8") as file:
        rates = [float(rate) for _, _, rate in csv.reader(file)]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.025])


def test_it_can_be_tuned_on_a_log(nntrain_learner: Learner[Batch], tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log.jsonl") as log:
        nntrain_learner.replace(sinks=[log]).fit(6, print_stats=False)
    found = dry_run(ReduceOnPlateau(patience=2, factor=0.5, min_delta=100.0), tmp_path / "log.jsonl")
    assert [answer.lr_scale for answer in found.answers] == [0.5, 0.25]


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="patience is 0"):
        ReduceOnPlateau(patience=0)
    with pytest.raises(ConfigError, match=r"factor is 1\.5"):
        ReduceOnPlateau(factor=1.5)


def test_stripes_are_told_apart() -> None:
    dls = DataLoaders.from_hf_dd(stripes(count=100), batch_size=20)
    inputs, target = next(iter(dls.train))
    assert inputs.shape == (20, 64)
    images = inputs.reshape(20, 8, 8)
    across = (images == images[:, :, :1]).flatten(1).all(1)
    assert torch.equal(across, target == 0)
