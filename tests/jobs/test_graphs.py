"""Train on graphs, in batches of a class of their own, as those of torch_geometric are: one big graph of many."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from nntrain import DataLoaders, Learner, StepOutput, TrainState, accuracy
from nntrain.update import optimizer
from tests.jobs import check_job

RANDOM = torch.Generator().manual_seed(0)


class Graphs:
    """Many graphs: all nodes [N, 6], the edges between them [2, E], the graph of each node [N], the classes [B]."""

    def __init__(self, count: int) -> None:
        sizes = torch.randint(4, 9, (count,), generator=RANDOM)
        nodes = int(sizes.sum())
        self.x = torch.randn(nodes, 6, generator=RANDOM)
        self.edges = torch.randint(0, nodes, (2, 3 * nodes), generator=RANDOM)
        self.graph = torch.repeat_interleave(torch.arange(count), sizes)
        self.y = torch.randint(0, 2, (count,), generator=RANDOM)


class Convolution(nn.Module):
    """A mean over neighbours, and a mean over each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(6, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor, count: int) -> Tensor:
        hidden = relu(self.conv(x.index_add(0, edges[1], x[edges[0]])))
        pooled = torch.zeros(count, 16).index_add(0, graph, hidden)
        logits: Tensor = self.head(pooled / graph.bincount(minlength=count)[:, None])
        return logits


TRAIN, VALID = [Graphs(16), Graphs(16), Graphs(5)], [Graphs(16), Graphs(4)]


def net() -> Convolution:
    torch.manual_seed(0)
    return Convolution()


def plain(epochs: int = 3) -> tuple[nn.Module, list[tuple[float, float]]]:
    model = net()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    told = []
    for _ in range(epochs):
        total, count, right, seen = 0.0, 0, 0, 0
        for one in TRAIN:
            loss = cross_entropy(model(one.x, one.edges, one.graph, len(one.y)), one.y)
            adam.zero_grad()
            loss.backward()
            adam.step()
            total, count = total + loss.item() * len(one.y), count + len(one.y)
        with torch.no_grad():
            for one in VALID:
                preds = model(one.x, one.edges, one.graph, len(one.y))
                right, seen = right + int((preds.argmax(1) == one.y).sum()), seen + len(one.y)
        told.append((total / count, right / seen))
    return model, told


def ours(epochs: int = 3) -> tuple[TrainState, list[tuple[float, float]]]:
    def task(model: nn.Module, batch: Graphs) -> StepOutput[Tensor]:
        preds = model(batch.x, batch.edges, batch.graph, len(batch.y))
        return StepOutput(cross_entropy(preds, batch.y), preds, batch.y)

    adam = optimizer(torch.optim.Adam, lr=1e-2)
    learner = Learner.of(net(), DataLoaders(TRAIN, VALID), task, adam, metrics={"accuracy": accuracy})
    state = learner.fit(epochs, print_stats=False).state
    phases = zip(state.history[::2], state.history[1::2], strict=True)
    return state, [(train.loss, valid.metrics["accuracy"]) for train, valid in phases]


def test_the_same_bits_as_the_plain_loop() -> None:
    state = check_job(plain, ours)
    assert state.history[0].samples == 16 + 16 + 5  # graphs, not nodes
