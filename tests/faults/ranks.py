"""Trainings of two ranks under torchrun, one of which is killed at a random moment, again and again, up to the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nntrain.checkpoint import diff, latest, verify

LIMIT: Final = 120.0
"""Seconds after which a launch, or a start of its ranks, is taken for hung, on a machine that has much else to do."""
_AT_MOST: Final = 5
"""How often the ranks of one launch are killed before it may end."""
_SPARE: Final = 4
"""Further starts: where the ranks do not find each other at once, torchrun starts them again, too."""
_TRAINS: Final = 2.0
"""Seconds after the ranks have begun to train within which one is killed: about as long as they train."""


@dataclass
class Launched:
    """torchrun with its ranks, which write into a folder where they are."""

    process: subprocess.Popen[bytes]
    folder: Path
    output: Path

    def wait(self, limit: float = LIMIT) -> int:
        """Return how it ended. Raises `TimeoutExpired`."""
        return self.process.wait(limit)

    def said(self) -> str:
        """Return what all have printed."""
        return self.output.read_text(errors="replace")

    def ranks(self, start: int, size: int, what: str = "trains") -> list[int] | None:
        """Wait for all ranks of a start to come somewhere, and return their process ids; None where it ended first."""
        paths = [self.folder / f"{what}-{start}-{rank}" for rank in range(size)]
        until = time.monotonic() + LIMIT
        while not all(path.exists() for path in paths):
            if self.process.poll() is not None:
                return None
            if time.monotonic() > until:
                raise TimeoutError(f"The ranks did not come to {what}-{start}:\n{self.said()}")
            time.sleep(0.02)
        return [int(path.read_text()) for path in paths]

    def waits_for(self, name: str, text: str = "") -> None:
        """Wait for a file that a rank writes, and a text in it."""
        until, path = time.monotonic() + LIMIT, self.folder / name
        while not (path.exists() and text in path.read_text()):
            if time.monotonic() > until:
                raise TimeoutError(f"There is no {name} with {text}:\n{self.said()}")
            time.sleep(0.02)


@contextmanager
def launched(
    folder: Path, *words: str, size: int = 2, restarts: int = 0, where: Sequence[str] = ("--standalone",)
) -> Iterator[Launched]:
    """Run torchrun for a block: `python -m tests.faults.rank_training`, or other `words`. All are killed at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "output.txt"
    command = [sys.executable, "-m", "torch.distributed.run", *where, "--nproc-per-node", str(size)]
    command += ["--max-restarts", str(restarts), "--monitor-interval", "0.1"]
    command += ["-m", "tests.faults.rank_training", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with output.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    found = Launched(process, folder, output)
    try:
        yield found
    finally:
        _end(found)


def _end(found: Launched) -> None:
    """Kill what is left: torchrun gives its ranks sessions of their own."""
    alive = found.process.poll() is None
    if alive:
        found.process.kill()
        found.process.wait()
        for path in found.folder.glob("begun-*-[0-9]"):
            kill(int(path.read_text()))


def kill(process: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; returns whether the process was there."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


@dataclass
class RankTally:
    """What was done: how many launches ended, and which rank was killed how often."""

    launches: int = 0
    kills: dict[int, int] = field(default_factory=dict)
    apart: int = 0
    """How often a rank did not find the others when they were started again."""

    @property
    def killed(self) -> int:
        """How many kills there were."""
        return sum(self.kills.values())

    def __str__(self) -> str:
        which = ", ".join(f"{count} of rank {rank}" for rank, count in sorted(self.kills.items()))
        apart = f", {self.apart} times a rank did not find the others" if self.apart else ""
        return f"{self.launches} launches, {self.killed} kills: {which}{apart}"


class RankKiller:
    """Launches trainings, kills their ranks, and compares how they end with the one that nobody killed."""

    def __init__(self, folder: Path, seed: int, *words: str) -> None:
        self.tally = RankTally()
        self._folder = folder
        self._words = words
        self._random = random.Random(seed)
        self._straight = folder / "straight"
        with launched(self._straight, *words) as one:
            assert one.wait() == 0, one.said()

    def run(self, upto: int, tell: Callable[[], None] = lambda: None) -> None:
        """Launch a training once, and kill its ranks until there were `upto` kills in all, at most five in this one."""
        folder = self._folder / f"launch_{self.tally.launches}"
        with launched(folder, *self._words, restarts=_AT_MOST + _SPARE) as one:
            for start in range(min(_AT_MOST, upto - self.tally.killed)):
                what = "begun" if self._random.random() < 0.2 else "trains"
                processes = one.ranks(start, 2, what)
                if processes is None:
                    break
                time.sleep(self._random.uniform(0.0, _TRAINS))
                rank = self._random.randrange(2)
                if not kill(processes[rank]):
                    break
                self.tally.kills[rank] = self.tally.kills.get(rank, 0) + 1
                for path in folder.glob("run/checkpoint-*"):
                    _is_whole(path)
                tell()
            assert one.wait() == 0, one.said()
        self.tally.apart += one.said().count("could not join")
        self.tally.launches += 1
        found = diff(self.end(), self.end(folder))
        assert not found, f"{folder}: {found}"

    def end(self, folder: Path | None = None) -> Path:
        """Return the last checkpoint of a folder; of the training that nobody killed, where none is given."""
        found = latest((folder or self._straight) / "run").path
        assert found is not None
        return found


def _is_whole(path: Path) -> None:
    """Check a file that is still there: an older one is removed by those who go on."""
    if path.exists():
        try:
            verify(path)
        except OSError:
            if path.exists():
                raise
