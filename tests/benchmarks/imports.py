"""What importing nntrain's names costs beside `import torch`, and what it brings: `python -m tests.benchmarks import`.

Each import is the only thing that a fresh interpreter does; the time is the whole process's, by the wall clock.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from tests.benchmarks.report import cells, heading, table
from tests.benchmarks.rounds import Timed, interleaved

STATEMENTS: Final = {
    "python alone": "pass",
    "import torch": "import torch",
    "from nntrain import Learner": "from nntrain import Learner",
}
PACKAGES: Final = ("datasets", "torchvision", "PIL", "numpy", "pandas", "pyarrow", "structlog", "pydantic")
"""Heavy packages, and nntrain's own dependencies."""


def timed(statement: str, brought: list[str]) -> Timed:
    """Time an interpreter that runs the statement, and note in `brought` which of the packages it then has."""
    said = f"{statement}\nimport sys\nprint(*(name for name in {PACKAGES} if name in sys.modules))"
    command = [sys.executable, "-W", "ignore", "-c", said]

    def once() -> float:
        began = time.perf_counter()
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        spent = time.perf_counter() - began
        brought[:] = printed.split()
        return spent

    return once


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.imports", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is imported (default 7)")
    options = parser.parse_args(argv)
    brought: dict[str, list[str]] = {name: [] for name in STATEMENTS}
    # No round comes before these: this process has imported both, and so they are in the disk's cache.
    rounds = interleaved({name: timed(STATEMENTS[name], brought[name]) for name in STATEMENTS}, options.rounds)
    print(heading())
    print(f"a fresh interpreter that imports one thing, {options.rounds} rounds")
    rows = [
        [name, *cells(rounds.ratio(name, "import torch")), f"{rounds.microseconds(name) / 1e3:,.0f}"]
        for name in STATEMENTS
    ]
    print(table(["process", "ratio", "lowest", "highest", "ms"], rows))
    print()
    statements = ("import torch", "from nntrain import Learner")
    said = [[name, *("yes" if name in brought[one] else "no" for one in statements)] for name in PACKAGES]
    print(table(["imported by", *statements], said))


if __name__ == "__main__":
    main()
