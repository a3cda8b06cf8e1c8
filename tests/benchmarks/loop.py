"""The loop beside the hand-written one, the original's and other libraries': `python -m tests.benchmarks.loop`.

Each round runs every loop once, in turn, on the same in-memory batches and from the same weights; the table gives the
median over the rounds of each loop's time divided by the hand-written loop's in the same round. The time is a fit's
of one epoch, its beginning and end included; `--batches` makes the epoch longer. `best` is of many short rounds, the
shortest of each loop compared: on a machine that does other things too, medians of long rounds say little.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Final

import torch

from tests.benchmarks.growth import growth
from tests.benchmarks.own import ON_A_DEVICE, OWN
from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import cells, heading, table
from tests.benchmarks.rounds import interleaved
from tests.benchmarks.setting import Loop, again, batches_of, model_of, timed

HAND: Final = "hand-written"


def compared(loops: Mapping[str, Loop], options: argparse.Namespace) -> str:
    """Measure the loops side by side. Gives the table, and a line for each peer that failed."""
    device = torch.device(options.device)
    model = model_of(options.model).to(device)
    train, valid = (
        batches_of(count, options.batch_size, device=device)
        for count in (options.batches, max(1, options.batches // 6))
    )
    warm = interleaved({name: timed(loop, model, train[:10], valid[:2]) for name, loop in loops.items()}, 1, PEERS)
    ready = {name: timed(loops[name], model, train, valid) for name in warm.seconds}
    rounds = interleaved(ready, options.rounds, PEERS)
    batches = len(train) + len(valid)
    few = train[: options.short_batches], valid[: max(1, options.short_batches // 6)]
    short = {name: again(loops[name], model, *few) for name in rounds.seconds if name not in PEERS}
    many = interleaved(short, options.short_rounds)
    rows = [
        [
            name,
            f"{many.best(name, HAND):.3f}" if name in short and options.short_rounds else "",
            *cells(rounds.ratio(name, HAND)),
            f"{rounds.microseconds(name, HAND) / batches:+.1f}",
        ]
        for name in rounds.seconds
    ]
    lines = [table(["loop", "best", "ratio", "lowest", "highest", "µs more a batch"], rows)]
    for name, error in {**warm.failures, **rounds.failures}.items():
        said = str(error).splitlines() or [""]
        lines.append(f"{name} failed: {type(error).__name__}: {said[0]}")
    return "\n".join(lines)


def chosen(only: Sequence[str] | None, *, peers: bool, device: str) -> tuple[dict[str, Loop], list[str]]:
    """Give the loops to run, the hand-written one always, and the peers that would be, but are not installed.

    On a device other than the CPU there are compiled and captured steps, and no peers.
    """
    own = OWN if device == "cpu" else ON_A_DEVICE
    peers = peers and device == "cpu"
    wanted = {name for name in (*own, *PEERS) if not only or name in only or name == HAND}
    loops = {name: loop for name, loop in own.items() if name in wanted}
    absent = []
    for name, peer in PEERS.items():
        if name not in wanted or not peers:
            continue
        if peer.installed:
            loops[name] = peer.loop
        else:
            absent.append(name)
    return loops, absent


def _named(device: str) -> str:
    return "CPU" if device == "cpu" else torch.cuda.get_device_name()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.loop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often each loop is timed (default 9)")
    parser.add_argument("--batches", type=int, default=300, help="of an epoch; a sixth more to evaluate (default 300)")
    parser.add_argument("--short-rounds", type=int, default=100, help="how many for the column `best` (default 100)")
    parser.add_argument("--short-batches", type=int, default=100, help="of an epoch of these (default 100)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--model", choices=("mlp", "cnn"), default="mlp")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    names = (*ON_A_DEVICE, *PEERS)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--no-peers", action="store_true", help="leave out the other libraries")
    parser.add_argument("--growth", action="store_true", help="how nntrain's cost a batch grows, instead of the loops")
    options = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if options.growth:
            print(heading())
            print(f"nntrain beside the hand-written loop, batch {options.batch_size}, {options.rounds} rounds")
            print(growth(options.rounds, options.batch_size, options.batches))
            return
        loops, absent = chosen(options.only, peers=not options.no_peers, device=options.device)
        distributions = [PEERS[name].distribution for name in loops if name in PEERS]
        print(heading([f"{name} {version(name)}" for name in distributions]))
        trained, evaluated = options.batches, max(1, options.batches // 6)
        print(
            f"{options.model} on {_named(options.device)}, batch {options.batch_size}, {trained} batches to train on "
            f"and {evaluated} to evaluate, {options.rounds} rounds"
        )
        if absent:
            print(f"not installed: {', '.join(absent)} (the dependency group `peers` of pyproject.toml)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peers warn of workers and of deprecations
            print(compared(loops, options))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
