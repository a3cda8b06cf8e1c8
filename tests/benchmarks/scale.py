"""What nntrain's own work costs as ranks, parameters and subscribers grow: `python -m tests.benchmarks scale`.

Three tables, and what they come to for a thousand ranks. `gloo`: what the ranks say to one another, on 1, 2 and 4
processes of this machine. `fake`: the same on torch's fake process group, which sends nothing and claims any number of
ranks: so it is the work of one rank on what all the others have sent. `step`: processor time of a batch, with a
process group of so many ranks, so many parameter tensors and subscribers, beyond a loop by hand with the same group.
"""

from __future__ import annotations

import argparse
import copy
import io
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nntrain import DataLoaders, Engine, Learner, Subscriber, epoch_step
from nntrain.live import over_ranks
from nntrain.log import JsonLog
from nntrain.machine.agreement import agreed
from nntrain.machine.shares import Sharing, of_all_ranks
from nntrain.metrics.phase import PhaseMetrics
from nntrain.ranks.ranks import Ranks
from nntrain.ranks.world import current_world
from nntrain.subscribers.asking import Published
from nntrain.values.record import evolved
from nntrain.values.state import TrainState
from nntrain.values.sums import Sums, WeightedSums
from tests.benchmarks.report import heading, table
from tests.benchmarks.setting import Batches

RANKS: Final = (1, 2, 4)
FAKED: Final = (2, 16, 128, 1024)
HOP: Final = 20e-6
"""Seconds that a small message takes from one machine to the next, as assumed: a usual figure of data centres."""
TENSORS: Final = 723
"""Parameter tensors of a decoder of 70e9 parameters: 80 layers of 9, and 3."""

Work = Callable[[], object]


class Listens(Subscriber[Any]):
    """Answers the state that it is shown after each batch."""

    def after_batch(self, state: TrainState, batch: object, output: object) -> TrainState:
        return state


class Counts:
    """A metric with a memory: what each rank remembers is gathered as an object."""

    def init(self) -> dict[str, torch.Tensor]:
        return {"counts": torch.zeros(10)}

    def update(self, memory: Any, preds: Any, target: Any) -> Any:
        return {"counts": memory["counts"] + 1}

    def merge(self, memory: Any, other: Any) -> Any:
        return {"counts": memory["counts"] + other["counts"]}

    def compute(self, memory: Any) -> float:
        return float(memory["counts"].sum())


def shared_work() -> dict[str, Work]:
    """Return what the ranks of this process's group do together, by when they do it."""
    ranks = Ranks(current_world(), torch.device("cpu"), 60.0)
    state = Learner(
        nn.Linear(2, 2),
        DataLoaders([(torch.rand(2, 2), torch.tensor([0, 1]))], None),
        nn.functional.cross_entropy,
        {},
        torch.optim.SGD,
        0.1,
    ).init()
    counts = Counts()
    metrics = PhaseMetrics({"counts": counts})
    plain = Sums(weighted=WeightedSums([1.0, 2.0], ("accuracy",)), samples=64, batches=1, seconds=1.0)
    memory = Sums(weighted=WeightedSums([1.0], (), {"counts": counts.init()}), samples=64, batches=1, seconds=1.0)
    amid = evolved(state, sums=plain)
    sharing = Sharing(ranks, PhaseMetrics({}), alone=False)
    return {
        "a batch with a listener: what was answered": lambda: agreed(
            ranks, "after_batch", state, lambda: Published(state)
        ),
        "every half second: signals and the clock": lambda: ranks.greatest([0.0, 0.0]),
        "a phase's end: sums": lambda: of_all_ranks(ranks, plain, PhaseMetrics({})),
        "a phase's end: a metric's memory": lambda: of_all_ranks(ranks, memory, metrics),
        "a checkpoint amid a phase": lambda: sharing.whole(amid),
    }


def shortest(work: Work, times: int) -> float:
    """Return the least microseconds that it took."""
    found = []
    for _ in range(times + 2):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found[2:]) * 1e6


def over_gloo(times: int) -> dict[str, float]:
    """Return the microseconds of each work; run on each rank."""
    dist.init_process_group("gloo")
    return {name: shortest(work, times) for name, work in shared_work().items()}


class Silent(DistributedDataParallel):
    """torch's, with gradients that are taken for summed: of the fake group it would have none."""

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__(module, **options)
        self.register_comm_hook(None, given_back)


def given_back(_: object, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """Return a bucket's gradients as they are."""
    found: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    found.set_result(bucket.buffer())
    return found


given_back.__annotations__.clear()  # torch looks for classes there, and these are texts


def with_fake(size: int, work: Callable[[], Any]) -> Any:
    """Return what `work` returns amid a process group of so many ranks, which sends nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        with patch.object(over_ranks, "DistributedDataParallel", Silent):
            return work()
    finally:
        dist.destroy_process_group()


def over_fake(size: int, times: int) -> dict[str, float]:
    """Return the microseconds of each work of one rank of so many."""
    found: dict[str, float] = with_fake(
        size, lambda: {name: shortest(work, times) for name, work in shared_work().items()}
    )
    return found


def deep(tensors: int) -> nn.Module:
    """Return a model of so many parameter tensors, each of four numbers."""
    return nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(tensors)])


def step(size: int, tensors: int, subscribers: int, rounds: int, *, log: bool = False) -> float:
    """Return the microseconds of processor that nntrain takes a batch beyond a loop by hand, the shortest of each."""
    torch.manual_seed(0)
    rows = 2 * size
    batches: Batches = [(torch.rand(rows, 2), torch.randint(0, 2, (rows,)))] * 20
    return float(with_fake(size, lambda: _beyond(deep(tensors), batches, subscribers, rounds, log=log)))


def _beyond(model: nn.Module, batches: Batches, subscribers: int, rounds: int, *, log: bool) -> float:
    ddp = Silent(copy.deepcopy(model))
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01)
    own = [(x[:2], y[:2]) for x, y in batches]
    learner = Learner(
        model,
        DataLoaders(batches, None),
        nn.functional.cross_entropy,
        {},
        torch.optim.SGD,
        0.01,
        [Listens() for _ in range(subscribers)],
        sinks=[JsonLog(io.StringIO(), every="all")] if log else [],
        engine=Engine(parallel="data"),
    )
    state = [learner.init()]

    def by_hand() -> None:
        total = 0.0
        ddp.train()  # type: ignore[no-untyped-call] # torch leaves it untyped
        for x, y in own:
            loss = nn.functional.cross_entropy(ddp(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            optimizer.step()
            total += loss.item()

    def by_nntrain() -> None:
        state.append(epoch_step(learner, state.pop()).state)

    def used(work: Work) -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    hand, ours = zip(*((used(by_hand), used(by_nntrain)) for _ in range(rounds)), strict=True)
    more: float = (min(ours) - min(hand)) / len(batches) * 1e6
    return more


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    from tests.ranks.launching import launch

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="how often each is done over gloo (default 200)")
    parser.add_argument("--rounds", type=int, default=40, help="of 20 batches, of each loop (default 40)")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, help="processes over gloo (default 1 2 4)")
    parser.add_argument("--faked", type=int, nargs="+", default=FAKED, help="ranks of the fake group")
    options = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        print(heading(threads=1))
        gloo = {size: launch(over_gloo, size, options.times, limit=300)[0] for size in options.ranks}
        fake = {size: over_fake(size, max(5, options.times // 10)) for size in options.faked}
        most = max(fake)
        head = ["µs", *(f"gloo, {size}" for size in gloo), *(f"fake, {size}" for size in fake), f"{most}, modelled"]
        rows = []
        for name in fake[most]:
            sent = 1 if "batch" in name or "second" in name else 2
            total = fake[most][name] + sent * HOP * 1e6 * math.ceil(math.log2(most))
            cells = [*(of[name] for of in gloo.values()), *(of[name] for of in fake.values()), total]
            rows.append([name, *(f"{one:,.0f}" for one in cells)])
        print(table(head, rows))
        print()
        print_steps(options)
    finally:
        torch.set_num_threads(threads)


def print_steps(options: argparse.Namespace) -> None:
    """Print what a batch costs beyond the loop by hand, and what that comes to."""
    few, many = min(options.faked), max(options.faked)
    base = step(few, 4, 0, options.rounds)
    rows = [
        [f"{few} ranks, 4 parameter tensors", f"{base:+.0f}"],
        [f"{many} ranks", f"{step(many, 4, 0, options.rounds):+.0f}"],
        ["1 subscriber that listens to batches", f"{step(few, 4, 1, options.rounds):+.0f}"],
        ["4 subscribers that listen to batches", f"{step(few, 4, 4, options.rounds):+.0f}"],
        [f"4 subscribers, {many} ranks", f"{step(many, 4, 4, options.rounds):+.0f}"],
        ["a log of every batch", f"{step(few, 4, 0, options.rounds, log=True):+.0f}"],
    ]
    wide = step(few, 204, 0, max(5, options.rounds // 4))
    rows.append(["204 parameter tensors", f"{wide:+.0f}"])
    each = (wide - base) / 200
    rows.append([f"a parameter tensor more; {TENSORS} of them", f"{each:+.2f}; {each * TENSORS:+.0f}"])
    print(table(["µs of processor a batch beyond the loop by hand", ""], rows))


if __name__ == "__main__":
    main()
