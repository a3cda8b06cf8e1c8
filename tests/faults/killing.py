"""Runs that are killed, go on, are killed again, and end: compared with the run that nobody killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nntrain.checkpoint import diff, inspect, latest, verify
from nntrain.checkpoint.saving import UNFINISHED
from nntrain.errors import LogWarning
from nntrain.log import read, replay
from tests.faults import training
from tests.log.warm import Warm

_AT_MOST: Final = 3
"""How often a run is killed before it may end."""


@dataclass
class Straight:
    """The run that nobody killed: how long it took, and in how many calls it saved."""

    folder: Path
    seconds: float
    calls: int


@dataclass
class Tally:
    """What was done: how many runs were killed, and where."""

    runs: int = 0
    kills: int = 0
    at: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        where = ", ".join(f"{count} {name}" for name, count in sorted(self.at.items()))
        return f"{self.runs} runs, {self.kills} kills: {where}"


class Killer:
    """Starts trainings in real processes, and kills them at random moments."""

    def __init__(self, folder: Path, seed: int, warm: Warm) -> None:
        self.tally = Tally()
        self._folder = folder
        self._random = random.Random(seed)
        self._warm = warm
        self._straight: dict[str, Straight] = {}
        self._begun = 0

    def run(self) -> None:
        """Have one run killed up to three times, and check how it ends. Each run is of the next kind."""
        kinds = list(training.TRAININGS)
        kind = kinds[self._begun % len(kinds)]
        straight = self._straight.get(kind) or self._run_straight(kind)
        self._begun += 1
        folder = self._folder / f"{kind.replace(' ', '_')}_{self._begun}"
        killed = 0
        for _ in range(self._random.randint(1, _AT_MOST)):
            if not self._killed(kind, folder, straight):  # it was done first
                break
            killed += 1
            self._check_killed(folder)
        done_before = is_done(folder)
        child = self._warm.start(training.train_to_the_end, folder, str(folder), kind)
        assert child.wait() == 0, child.stderr.read_text()
        self._check_ended(folder, straight, trained_nothing=done_before)
        self.tally.runs += killed > 0

    def _run_straight(self, kind: str) -> Straight:
        folder = self._folder / f"{kind.replace(' ', '_')}_straight"
        began = time.monotonic()
        child = self._warm.start(training.train_until, folder, str(folder), kind, 0)
        assert child.wait() == 0, child.stderr.read_text()
        straight = Straight(folder, time.monotonic() - began, int((folder / "calls").read_text()))
        assert straight.calls > 100
        self._straight[kind] = straight
        return straight

    def _killed(self, kind: str, folder: Path, straight: Straight) -> bool:
        """Run a training that is killed: at a moment, or amid a save. Gives whether it was."""
        drawn = self._random.random()
        if drawn < 0.6:
            child = self._warm.start(training.train_to_the_end, folder, str(folder), kind)
            time.sleep(self._random.uniform(0.0, straight.seconds))
            number = signal.SIGKILL if drawn < 0.5 else self._random.choice([signal.SIGTERM, signal.SIGINT])
            os.kill(child.pid, number)
            where = f"at a moment, by {number.name}"
        else:
            number = signal.SIGKILL
            child = self._warm.start(
                training.train_until, folder, str(folder), kind, self._random.randint(1, straight.calls)
            )
            where = "amid a save"
        code = child.wait()
        if code == 0:
            return False
        # The other two may raise instead: then they have said so.
        assert code == -number or (number != signal.SIGKILL and code == 1), child.stderr.read_text()
        self.tally.kills += 1
        self.tally.at[where] += 1
        if any(folder.glob(f"run/.*{UNFINISHED}")):
            self.tally.at["with a file begun"] += 1
        if not any(folder.glob("run/*.safetensors")):
            self.tally.at["before the first checkpoint"] += 1
        return True

    def _check_killed(self, folder: Path) -> None:
        """Check that every file is whole that is called as one."""
        for path in folder.glob("run/*.safetensors"):
            verify(path)
        assert not latest(folder / "run").skipped

    def _check_ended(self, folder: Path, straight: Straight, *, trained_nothing: bool) -> None:
        """Check that the run ended as the one that nobody killed: its state, its files, its log."""
        ends = [latest(one / "run") for one in (straight.folder, folder)]
        assert not ends[1].skipped
        first, second = (one.path for one in ends)
        assert first is not None
        assert second is not None
        found = diff(first, second)
        assert not found, f"{folder}: {found}"
        told = [one / "end.json" for one in (straight.folder, folder)]
        if told[0].exists():  # digests that are not taken by nntrain
            assert json.loads(told[0].read_text()) == json.loads(told[1].read_text()), folder
        assert not list(folder.glob(f"run/.*{UNFINISHED}"))
        # Three, the best, and one that was to be removed when the last process but one was killed.
        assert len(list(folder.glob("run/*.safetensors"))) <= 5
        assert all(not one["skipped"] for one in resumed(folder))
        histories = []
        for one in (straight.folder, folder):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LogWarning)  # a line may be torn where its writer was killed
                *begun, run = replay(list(read(one / "log.jsonl")))
            # One that ended before its first step was saved began anew, as another run.
            assert all(earlier.outcome != "completed" for earlier in begun)
            histories.append([(stats.epoch, stats.phase, stats.loss, stats.metrics) for stats in run.history])
            # Or the last but one had saved that it was done, and was killed before it wrote that down.
            assert run.outcome == "completed" or trained_nothing
        assert histories[0] == histories[1]


def is_done(folder: Path) -> bool:
    """Tell whether the newest checkpoint in a folder is of a run that is finished."""
    path = latest(folder / "run").path
    return path is not None and inspect(path).progress.at == "finished"


def resumed(folder: Path) -> Iterator[dict[str, object]]:
    """Give what the processes in a folder said of what they went on from."""
    path = folder / "resumed.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        yield json.loads(line)
