"""Launches a function on several processes, as torchrun does, and takes what each returned; or fails in time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.ranks.preloaded"])


GRACE = 6.0
"""Seconds that the others have after one has failed."""


class LaunchError(AssertionError):
    """A rank failed, or did not end in time."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def launch(function: Callable[..., Any], size: int, *arguments: Any, limit: float = 120.0) -> list[Any]:
    """Return what `function(*arguments)` returned on each of `size` processes, with what torchrun tells them.

    The results come by pickle. Raises `LaunchError`, with their tracebacks, where one raised, died or was not done
    within `limit` seconds; then all are killed.
    """
    port = free_port()
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        process = CONTEXT.Process(target=_run, args=(theirs, environment, function, arguments), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    until = time.monotonic() + limit
    found: list[Any] = []
    try:
        for rank, pipe in enumerate(pipes):
            found.append(_received(pipe, until) or ("failed", f"rank {rank} did not end within {limit:g} seconds"))
            if found[-1][0] == "failed":  # as a launcher, which lets the others say something, and ends them
                until = min(until, time.monotonic() + GRACE)
    finally:
        for process in processes:
            process.join(max(0.0, until - time.monotonic()) if len(found) == size else 0.0)
            process.kill()
    failures = [f"rank {rank}: {said}" for rank, (what, said) in enumerate(found) if what == "failed"]
    if failures:
        raise LaunchError("\n".join(failures))
    return [value for _, value in found]


def _received(pipe: Connection, until: float) -> Any:
    try:
        return pickle.loads(pipe.recv_bytes()) if pipe.poll(max(0.0, until - time.monotonic())) else None
    except EOFError:
        return "failed", "it died"


def _run(
    pipe: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch

    for name in [name for name in os.environ if name.startswith("TORCHELASTIC_")]:
        del os.environ[name]  # of a launcher of the tests themselves, or of the test that started the server
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        pipe.send_bytes(pickle.dumps(("done", function(*arguments))))
    except BaseException:  # noqa: BLE001 - whatever it is, the test is told
        pipe.send_bytes(pickle.dumps(("failed", traceback.format_exc())))
    pipe.close()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
