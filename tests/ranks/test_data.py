"""Data over real ranks: loaders that make parts, and those whose batches are each rank's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from nntrain import Engine, Learner
from nntrain.data import DataLoaders, ResidentLoader, per_rank
from nntrain.data.divided import Divided
from nntrain.ranks.world import launched_world
from tests.ranks.launching import launch

SHARDS = ((3, 3, 2), (1,))
"""The rows of each rank's batches."""


class Shard(IterableDataset[tuple[Tensor, Tensor]]):
    """What `datasets.distributed.split_dataset_by_node` gives: this rank's rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.rows)
        return ((torch.randn(4, generator=generator), torch.tensor(row % 2)) for row in range(self.rows))


def shard(rank: int) -> DataLoader[Any]:
    return DataLoader(Shard(sum(SHARDS[rank])), batch_size=3)


def learner(dls: Any, *, parallel: bool) -> Learner[Any, Any]:
    torch.manual_seed(2)
    engine = Engine(parallel="data" if parallel else None)
    return Learner(nn.Linear(4, 2), dls, nn.functional.cross_entropy, {}, torch.optim.SGD, 0.1, engine=engine)


def resident() -> ResidentLoader:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (22, 1, 2, 2), dtype=torch.uint8, generator=generator)
    return ResidentLoader(images, torch.arange(22) % 2, 6, shuffle=True)


def trained_on_both() -> dict[str, Any]:
    found = {}
    loaders: dict[str, Any] = {"own": per_rank(shard(launched_world().rank)), "resident": resident()}
    for name, loader in loaders.items():
        made = learner(DataLoaders(loader, None), parallel=True)
        state = made.fit(2, print_stats=False).state
        stream = made.machine.streams["train"].loader
        assert isinstance(stream, Divided)
        found[name] = {
            "weight": state.params["weight"],
            "losses": [one.loss for one in state.history],
            "samples": [one.samples for one in state.history],
            "batches": [one.batches for one in state.history],
            "parts": stream.description["parts"],
        }
    return found


@pytest.mark.sweep
def test_each_rank_reads_its_own_and_each_sample_counts_once() -> None:
    first, second = launch(trained_on_both, 2)
    for name, alone in (("own", together()), ("resident", resident())):
        assert first[name]["parts"] == "made apart"
        assert torch.equal(first[name]["weight"], second[name]["weight"])
        assert first[name]["losses"] == second[name]["losses"]
        expected = learner(DataLoaders(alone, None), parallel=False).fit(2, print_stats=False).state
        assert first[name]["samples"] == [one.samples for one in expected.history]
        assert first[name]["batches"] == [one.batches for one in expected.history]
        assert first[name]["losses"] == pytest.approx([one.loss for one in expected.history], rel=1e-5)
        torch.testing.assert_close(first[name]["weight"], expected.params["weight"])


def together() -> list[tuple[Tensor, Tensor]]:
    """Return what the batches of all ranks are together: one process trains on these."""
    of_ranks = [[*shard(rank)] for rank in range(len(SHARDS))]
    there = [[of[at] for of in of_ranks if at < len(of)] for at in range(max(map(len, of_ranks)))]
    return [(torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])) for found in there]
