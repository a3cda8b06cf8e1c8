"""Laws 3, 12, 13 and 14 over ranks: training data parallel is a hand-written loop, and close to one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nntrain import Engine, Learner
from nntrain.data import DataLoaders
from tests.ranks.launching import launch
from tests.sampled import one_in

ROWS = (16, 16, 16, 16)


def model(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Linear(8, 3))


def batches(rows: tuple[int, ...] = ROWS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in rows]


def by_hand(rows: tuple[int, ...], *, norm: bool) -> dict[str, Tensor]:
    """Return the weights of torch's own loop: each rank takes its rows, and weighs its loss where they are uneven."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    module = model(norm=norm)
    ddp = DistributedDataParallel(module)
    optim = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for x, y in batches(rows):
            first, last = rank * len(x) // size, (rank + 1) * len(x) // size
            optim.zero_grad()
            loss = nn.functional.cross_entropy(ddp(x[first:last]), y[first:last])
            share = (last - first) * size / len(x)
            (loss if share == 1.0 else loss * share).backward()  # type: ignore[no-untyped-call] # torch has no types for it
            optim.step()
    return {name: one.detach().clone() for name, one in module.named_parameters()}


def trained(rows: tuple[int, ...], *, norm: bool, parallel: bool = True) -> dict[str, Any]:
    learner = Learner(
        model(norm=norm),
        DataLoaders(batches(rows), batches(rows)),
        nn.functional.cross_entropy,
        {"mean": lambda preds, target: (preds.argmax(1) == target).float().mean()},
        lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
        0.1,
        engine=Engine(parallel="data" if parallel else None),
    )
    outcome = learner.fit(2, print_stats=False)
    state = outcome.state
    return {
        "params": dict(state.params),
        "buffers": dict(state.buffers),
        "history": [(one.phase, one.loss, one.metrics["mean"], one.samples, one.batches) for one in state.history],
        "progress": state.progress,
    }


@pytest.mark.parametrize("rows", one_in(2, [(16, 11, 9), ROWS]))
@pytest.mark.parametrize("size", one_in(2, [2, 4]))
def test_it_is_the_hand_written_loop_and_close_to_one_process(size: int, rows: tuple[int, ...]) -> None:
    theirs = launch(by_hand_both, size, rows)
    ours = launch(trained_both, size, rows)
    for norm in (False, True):
        first, hand = ours[0][norm], theirs[0][norm]
        for one in ours:
            found = one[norm]
            assert all(torch.equal(found["params"][name], hand[name]) for name in hand)
            assert found["history"] == first["history"]
            assert found["progress"] == first["progress"]
            assert all(torch.equal(buffer, found["buffers"][name]) for name, buffer in first["buffers"].items())
    alone = trained(rows, norm=False, parallel=False)
    found = ours[0][False]
    for name, one in alone["params"].items():
        torch.testing.assert_close(found["params"][name], one, rtol=1e-5, atol=1e-6)
    assert found["progress"] == alone["progress"]
    for mine, one in zip(found["history"], alone["history"], strict=True):
        assert mine[3:] == one[3:]
        assert mine[1:3] == pytest.approx(one[1:3], rel=1e-5)


def by_hand_both(rows: tuple[int, ...]) -> dict[bool, dict[str, Tensor]]:
    found = {False: by_hand(rows, norm=False)}
    dist.destroy_process_group()
    import os

    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    return {**found, True: by_hand(rows, norm=True)}


def trained_both(rows: tuple[int, ...]) -> dict[bool, dict[str, Any]]:
    return {norm: trained(rows, norm=norm) for norm in (False, True)}
