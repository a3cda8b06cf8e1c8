"""What the benchmarks over ranks compare does the same work; how long anything takes is no test's business."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.benchmarks import parallel, scale
from tests.benchmarks.setting import batches_of, model_of
from tests.ranks.launching import launch


def reported() -> dict[tuple[str, str], Any]:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    found: dict[tuple[str, str], Any] = {}
    for model in ("mlp", "cnn"):
        made = model_of(model)
        loops = {**parallel.OWN, **{f"sharded {name}": loop for name, loop in parallel.SHARDED.items()}}
        for name, loop in loops.items():
            prepared = loop(made, batches_of(6, 16), batches_of(2, 16))
            prepared.fit()
            report = prepared.report()
            found[model, name] = {key: one.detach().clone() for key, one in report.weights.items()}, report[1:]
    return found


@pytest.mark.sweep
def test_both_loops_end_with_the_same_bits_and_figures() -> None:
    for found in launch(reported, 2):
        for model, kind in product(("mlp", "cnn"), ("", "sharded ")):
            (ours, figures), (hand, theirs) = found[model, f"{kind}nntrain"], found[model, kind + parallel.HAND]
            assert ours.keys() == hand.keys()
            assert all(torch.equal(one, hand[name]) for name, one in ours.items())
            assert figures == pytest.approx(theirs, rel=1e-5)


@pytest.mark.sweep
def test_the_work_over_ranks_can_be_done_with_any_number_claimed() -> None:
    for size in (2, 64):
        assert all(one > 0 for one in scale.over_fake(size, 1).values())
