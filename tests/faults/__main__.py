"""Kill so many runs and compare each with the one that nobody killed: `python -m tests.faults 200`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.faults.killing import Killer
from tests.log.warm import Warm


def main() -> None:
    """Run it, and tell what was done; the first difference ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=200, help="how many killed runs (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of when they are killed (default: 0)")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        warm = Warm()
        killer = Killer(Path(folder), options.seed, warm)
        try:
            while killer.tally.runs < options.runs:
                killer.run()
                print(f"\r{killer.tally}, {time.monotonic() - began:.0f} s", end="", flush=True)
        finally:
            warm.end()
    print("; each ended with the bits of the run that nobody killed")


if __name__ == "__main__":
    main()
