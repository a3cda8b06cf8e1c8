"""A process of several ends with its own exit status, whatever gloo's threads do at that moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAIRS = 8
SCRIPT = f"""
import os, sys, time

import torch
import torch.distributed as dist

import nntrain.ranks.world
from tests.ranks.launching import free_port

sys.setswitchinterval(10)  # nobody else gets the interpreter's lock while this thread computes
for _ in range({PAIRS}):
    port, pair = free_port(), []
    for rank in range(2):
        pair.append(os.fork())
        if not pair[-1]:
            break
    if not pair[-1]:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{{port}}", rank=rank, world_size=2)
        dist.all_reduce(torch.ones(5))
        works = [dist.all_reduce(torch.ones(5), async_op=True) for _ in range(8)]
        until = time.perf_counter() + 0.2
        while time.perf_counter() < until:  # meanwhile gloo's threads come to need that lock
            pass
        break
    print(*(os.waitpid(child, 0)[1] for child in pair))
"""


@pytest.mark.sweep
def test_a_rank_ends_well_while_a_thread_of_gloo_waits_for_the_interpreter() -> None:
    """Without the pause at the end one process in ten or twenty dies by SIGABRT, with CPython 3.11."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.split("\n") == ["0 0"] * PAIRS + [""], done.stderr
