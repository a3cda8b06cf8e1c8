"""Training on several processes beside the hand-written loop on as many: `python -m tests.benchmarks parallel`.

Gloo on this machine, one thread a process. All loops live in the same processes and train in turn: many short rounds,
each begun together, and the shortest of each compared, since what else the machine does only adds time. A round takes
as long as on the slowest rank. `processor` is the time that all ranks took of processors, the shortest round of each:
on a machine with fewer free cores than ranks the other columns tell of waiting too. The hand-written loop has its own
part of each batch at hand, as from a loader that reads no other; nntrain is given whole batches and takes its part.
Both say the loss and the accuracy over all ranks.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nntrain import DataLoaders, Engine, Learner, TrainState, accuracy, epoch_step
from nntrain.data.dividing import part_of
from nntrain.ranks.world import World, current_world
from nntrain.values.shards import whole
from tests.benchmarks import peers
from tests.benchmarks.own import epoch_by_hand
from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import cells, heading, table
from tests.benchmarks.rounds import Rounds, interleaved
from tests.benchmarks.setting import LR, Batches, Loop, ModelName, Prepared, Reported, batches_of, model_of

HAND: Final = "hand-written"


class Case(NamedTuple):
    """What is compared: a model, and how many samples of a batch each rank has."""

    model: ModelName
    batch_size: int


CASES: Final = tuple(Case(model, size) for size in (64, 512) for model in ("mlp", "cnn"))


def own_part(batches: Batches, world: World) -> Batches:
    """Return this rank's part of each batch, as a loader of its own would give it."""
    parts = {id(batch): part_of(batch, world).batch for batch in batches}
    return [parts[id(batch)] for batch in batches]


def by_hand(model: nn.Module, train: Batches, valid: Batches, *, sharded: bool = False) -> Prepared:
    """Prepare the loop that all are measured by: `DistributedDataParallel` as it comes, and one sum a phase.

    With `sharded` it is `fully_shard`, over each layer by itself, as nntrain has it by default; and buffers are those
    of rank 0 on all, as `DistributedDataParallel` has them, or the ranks would evaluate different models.
    """
    world = current_world()
    module = copy.deepcopy(model)
    live = fully_sharded(module) if sharded else DistributedDataParallel(module)
    optimizer = torch.optim.SGD(live.parameters(), lr=LR)
    own = own_part(train, world), own_part(valid, world)
    figures: list[float] = []

    def fit() -> None:
        found = torch.tensor(epoch_by_hand(live, optimizer, *own), dtype=torch.float64)
        dist.all_reduce(found)  # the parts are of one size
        figures[:] = (found / world.size).flatten().tolist()

    return Prepared(fit, lambda: Reported({name: whole(one) for name, one in module.state_dict().items()}, *figures))


def fully_sharded(module: nn.Module) -> nn.Module:
    """Shard a module, each of its layers by itself."""
    from torch.distributed.fsdp import fully_shard

    for layer in module.children():
        if next(layer.parameters(), None) is not None:
            fully_shard(layer)
    fully_shard(module)
    buffers = [*module.buffers()]
    kinds = [[one for one in buffers if one.dtype == kind] for kind in {one.dtype for one in buffers}]
    everyone: Any = dist.group.WORLD
    copies: Any = dist._broadcast_coalesced  # type: ignore[attr-defined] # torch's stubs lack it
    trained = False

    def copied(module: nn.Module, _: object) -> None:
        nonlocal trained
        for same in kinds if trained else ():
            copies(everyone, same, 25 << 20, 0)
        trained = module.training

    module.register_forward_pre_hook(copied)
    return module


def by_nntrain(
    model: nn.Module, train: Batches, valid: Batches, *, parallel: Literal["data", "sharded"] = "data"
) -> Prepared:
    """Prepare nntrain on the whole batches: phase by phase from the state before, as the loop by hand goes on."""
    learner = Learner(
        copy.deepcopy(model),
        DataLoaders(train, valid),
        nn.functional.cross_entropy,
        accuracy,
        torch.optim.SGD,
        LR,
        engine=Engine(parallel=parallel),
    )
    states: list[TrainState] = [learner.init()]

    def fit() -> None:
        for _ in ("train", "eval"):
            states.append(epoch_step(learner, states.pop()).state)

    def report() -> Reported:
        before, after = states[0].history[-2:]
        weights = states[0].to_module().state_dict()
        return Reported(weights, before.loss, before.metrics["metric"], after.loss, after.metrics["metric"])

    return Prepared(fit, report)


OWN: Final[Mapping[str, Loop]] = {HAND: by_hand, "nntrain": by_nntrain}
"""With the model on every rank."""
SHARDED: Final[Mapping[str, Loop]] = {
    HAND: partial(by_hand, sharded=True),
    "nntrain": partial(by_nntrain, parallel="sharded"),
}
"""With a part of it on each."""


def on_parts(loop: Callable[..., Prepared], **options: object) -> Loop:
    """Return another library's loop on this rank's part of each batch."""

    def prepare(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
        world = current_world()
        return loop(model, own_part(train, world), own_part(valid, world), **options)

    return prepare


def loops(size: int, *, with_peers: bool, sharded: bool = False) -> dict[str, Loop]:
    """Return what is compared: nntrain, the hand-written loop, and the peers that are installed."""
    if sharded:
        return dict(SHARDED)
    by_others: dict[str, Loop] = {
        "accelerate": on_parts(peers.accelerate),
        "lightning": on_parts(peers.lightning, devices=size, strategy="ddp", use_distributed_sampler=False),
        "transformers": on_parts(peers.transformers, ddp_backend="gloo"),
    }
    there = {name: loop for name, loop in by_others.items() if with_peers and PEERS[name].installed}
    return {**OWN, **there}


class Took(NamedTuple):
    """The seconds of each round of each loop on one rank: by the clock, and of processors."""

    clock: dict[str, list[float]]
    processor: dict[str, list[float]]


def measured(options: argparse.Namespace, case: Case) -> Took:
    """Return how long each loop took in each round; run on each rank."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    size = dist.get_world_size()
    torch.manual_seed(0)
    model = model_of(case.model)
    train, valid = (
        batches_of(count, case.batch_size * size, distinct=40)
        for count in (options.batches, max(1, options.batches // 6))
    )
    processor: dict[str, list[float]] = {}

    def together(name: str, loop: Loop, prepared: Prepared | None) -> float:
        ready = prepared or loop(model, train, valid)
        dist.barrier()
        began, used = time.perf_counter(), time.process_time()
        ready.fit()
        processor.setdefault(name, []).append(time.process_time() - used)
        return time.perf_counter() - began

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn of workers and of deprecations
        timed: dict[str, Callable[[], float]] = {}
        for name, loop in loops(size, with_peers=options.peers, sharded=options.sharded).items():
            # A peer's trainer fits once, and is made ready anew each round, outside the time.
            timed[name] = partial(together, name, loop, loop(model, train, valid) if name in OWN else None)
        interleaved(timed, 1)
        clock = interleaved(timed, options.rounds).seconds
    return Took(clock, {name: used[1:] for name, used in processor.items()})


def slowest(of_ranks: Sequence[Took]) -> Rounds[str]:
    """Return the seconds of each round on the rank that took longest."""
    names = of_ranks[0].clock
    return Rounds(
        {name: [max(one) for one in zip(*(of.clock[name] for of in of_ranks), strict=True)] for name in names}
    )


def of_all(of_ranks: Sequence[Took]) -> Rounds[str]:
    """Return the seconds of processors of each round, of all ranks together."""
    names = of_ranks[0].processor
    return Rounds(
        {name: [sum(one) for one in zip(*(of.processor[name] for of in of_ranks), strict=True)] for name in names}
    )


def compared(options: argparse.Namespace, case: Case) -> str:
    """Measure one case on processes of its own. Gives the table."""
    from tests.ranks.launching import launch

    took = launch(measured, options.ranks, options, case, limit=options.limit)
    rounds, used = slowest(took), of_all(took)
    batches = options.batches + max(1, options.batches // 6)
    hand = min(rounds.seconds[HAND])
    rows = [
        [
            name,
            f"{rounds.best(name, HAND):.3f}",
            f"{used.best(name, HAND):.3f}",
            *cells(rounds.ratio(name, HAND)),
            f"{min(seconds) * 1e6 / batches:.0f}",
            f"{(min(seconds) - hand) * 1e6 / batches:+.1f}",
        ]
        for name, seconds in rounds.seconds.items()
    ]
    head = [f"{case.model}, {case.batch_size} a rank", "best", "processor", "median", "lowest", "highest", "µs a batch"]
    return table([*head, "more"], rows)


def case_of(text: str) -> Case:
    """Return the case that "mlp:64" stands for."""
    model, _, size = text.partition(":")
    found = [case for case in CASES if case.model == model]
    if not found or not size.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; expected mlp:SIZE or cnn:SIZE")
    return found[0]._replace(batch_size=int(size))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.parallel", description=__doc__)
    parser.add_argument("--ranks", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--rounds", type=int, default=60, help="how often each loop is timed (default 60)")
    parser.add_argument("--batches", type=int, default=100, help="of a round; a sixth more to evaluate (default 100)")
    parser.add_argument("--cases", type=case_of, nargs="+", default=CASES, metavar="MODEL:SIZE", help="samples a rank")
    parser.add_argument("--no-peers", action="store_false", dest="peers", help="leave out the other libraries")
    parser.add_argument("--sharded", action="store_true", help="FSDP2 in the place of DDP, without the other libraries")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds that a case may take (default 900)")
    options = parser.parse_args(argv)
    there = [name for name in loops(options.ranks, with_peers=options.peers, sharded=options.sharded) if name in PEERS]
    distributions = [PEERS[name].distribution for name in there]
    print(heading([f"{name} {version(name)}" for name in distributions], threads=1))
    print(f"{options.ranks} processes, gloo, {options.batches} batches a round, {options.rounds} rounds")
    for case in options.cases:
        print(compared(options, case), flush=True)


if __name__ == "__main__":
    main()
