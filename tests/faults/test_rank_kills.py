"""Faults of ranks under a real torchrun: a kill, a signal to the launcher, a rank that hangs, fewer that go on.

`python -m tests.faults ranks 50` kills 50 of them.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Final

import pytest

from nntrain.checkpoint import diff, inspect, latest
from nntrain.log import read
from nntrain.values.log_event import WarningEvent
from tests.faults.rank_training import AMID
from tests.faults.ranks import RankKiller, kill, launched
from tests.ranks.launching import free_port

pytestmark = [
    pytest.mark.faults,
    pytest.mark.sweep,
    pytest.mark.skipif(os.name != "posix", reason="processes are killed as on POSIX"),
]

KILLS: Final = 5


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> RankKiller:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # which pytest shows if it fails
    return RankKiller(tmp_path_factory.mktemp("ranks"), seed)


def test_what_torchrun_starts_again_ends_as_what_nobody_killed(killer: RankKiller) -> None:
    while killer.tally.killed < KILLS:
        killer.run(KILLS)
    print(killer.tally)


def test_a_signal_to_the_launcher_leaves_the_step_at_which_all_stopped(killer: RankKiller, tmp_path: Path) -> None:
    with launched(tmp_path, "--epochs", "100000", "--every", "1000000") as one:
        ranks = one.ranks(0, 2, "amid")
        assert ranks is not None, one.said()
        assert not list(tmp_path.glob("run/*.safetensors"))
        for process in (one.process.pid, *ranks):  # SLURM sends it to all of a step, and torchrun hands it on
            kill(process, signal.SIGTERM)
        assert one.wait() != 0
        for rank in range(2):
            assert (tmp_path / f"said-{rank}").read_text().startswith("Terminated"), one.said()
    path = latest(tmp_path / "run").path
    assert path is not None
    assert inspect(path).progress.step >= AMID
    with launched(tmp_path) as one:
        assert one.wait() == 0, one.said()
    found = diff(killer.end(), killer.end(tmp_path))
    assert not found, found


def test_a_rank_that_hangs_is_named_by_the_others(tmp_path: Path) -> None:
    with launched(tmp_path, "--hangs", "--timeout", "4") as one:
        assert one.ranks(0, 2, "amid") is not None, one.said()
        one.waits_for("said-0")
        said = (tmp_path / "said-0").read_text()
    assert said.startswith("RankError 1 Rank 1 did not come to ")
    assert "within 4 seconds" in said
    assert one.said().count("Traceback") < 10


def test_one_process_goes_on_where_two_were_and_the_log_says_so(tmp_path: Path) -> None:
    with launched(tmp_path, "--epochs", "100000") as one:
        processes = one.ranks(0, 2, "amid")
        assert processes is not None, one.said()
        kill(processes[1])
        assert one.wait() != 0
        said = (tmp_path / "said-0").read_text()
    assert said.startswith("RankError 1 Rank 1 has ended")
    with launched(tmp_path, size=1) as one:
        assert one.wait() == 0, one.said()
    changed = [one.event.text for one in read(tmp_path / "log.jsonl") if isinstance(one.event, WarningEvent)]
    assert any("world_size was 2, and is 1" in text for text in changed), changed
    path = latest(tmp_path / "run").path
    assert path is not None
    assert inspect(path).progress.at == "finished"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="who a process's parent is, is read from /proc")
def test_one_of_two_machines_goes_on_without_the_other(tmp_path: Path) -> None:
    """Each machine is a torchrun of one rank; with `--nnodes 1:2` one of them is enough."""
    where = ["--nnodes", "1:2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    where += ["--rdzv-id", "two", "--rdzv-conf"]
    meets = "last_call_timeout=10,keep_alive_interval=1,keep_alive_max_attempt=3,is_host="  # which holds the store
    given = ("--epochs", "100000")
    with launched(tmp_path, *given, size=1, restarts=5, where=[*where, f"{meets}true"]) as one:
        with launched(tmp_path, *given, size=1, restarts=5, where=[*where, f"{meets}false"]) as other:
            processes = one.ranks(0, 2, "amid")
            assert processes is not None, one.said()
            # Which of the two has rank 0 is decided as they meet: the other's rank is the child of its torchrun.
            mine = [process for process in processes if parent_of(process) == other.process.pid]
            kill(other.process.pid)
            for process in mine:
                kill(process)
        one.waits_for("log.jsonl", "world_size was 2, and is 1")


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
