"""Kill so many runs and compare each with the one that nobody killed: `python -m tests.faults 200`.

`python -m tests.faults ranks 50` kills so many ranks of trainings that torchrun has started, and
`ranks sharded 50` of those that shard their weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.faults.killing import Killer
from tests.faults.ranks import RankKiller
from tests.log.warm import Warm


def main() -> None:
    """Run it, and tell what was done; the first difference ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("what", nargs="*", default=["200"], help="how many killed runs, or ranks and how many kills")
    parser.add_argument("--seed", type=int, default=0, help="of when they are killed (default: 0)")
    options = parser.parse_args()
    *of, count = options.what
    if of not in ([], ["ranks"], ["ranks", "sharded"]) or not count.isdecimal():
        parser.error(f"got {' '.join(options.what)}; expected a number, or ranks, perhaps sharded, and a number")
    began = time.monotonic()
    if of:
        _kill_ranks(int(count), options.seed, began, *[f"--{one}" for one in of[1:]])
        return
    with tempfile.TemporaryDirectory() as folder:
        warm = Warm()
        killer = Killer(Path(folder), options.seed, warm)
        try:
            while killer.tally.runs < int(count):
                killer.run()
                print(f"\r{killer.tally}, {time.monotonic() - began:.0f} s", end="", flush=True)
        finally:
            warm.end()
    print("; each ended with the bits of the run that nobody killed")


def _kill_ranks(count: int, seed: int, began: float, *words: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        killer = RankKiller(Path(folder), seed, *words)

        def tell() -> None:
            print(f"\r{killer.tally}, {time.monotonic() - began:.0f} s", end="", flush=True)

        while killer.tally.killed < count:
            killer.run(count, tell)
            tell()
    print("; each launch ended with the bits of the one that nobody killed")


if __name__ == "__main__":
    main()
