"""Run the benchmarks: `python -m tests.benchmarks` runs all, `python -m tests.benchmarks NAME [OPTIONS]` one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

BENCHMARKS: Final = {
    "loop": "loop",
    "toolkit": "toolkit",
    "rules": "rules",
    "parallel": "parallel",
    "scale": "scale",
    "profile": "profile",
    "data": "data",
    "resume": "resume",
    "import": "imports",
    "memory": "memory",
    "log": "log",
    "checkpoint": "checkpoint",
}
"""The names, and the modules, each of which has `main(argv)`. They are imported when they are run."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one benchmark with the options that follow its name, or all, each with its defaults."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "name", nargs="?", choices=tuple(BENCHMARKS), help="all if left out; NAME --help has its options"
    )
    parser.parse_args(arguments[:1])
    if arguments:
        _run(arguments[0], arguments[1:])
        return
    for number, name in enumerate(BENCHMARKS):
        print(f"{'' if number == 0 else chr(10)}## {name}", flush=True)
        _run(name, [])


def _run(name: str, options: Sequence[str]) -> None:
    import_module(f"tests.benchmarks.{BENCHMARKS[name]}").main(options)


if __name__ == "__main__":
    main()
