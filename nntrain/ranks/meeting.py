"""How the processes of a start find each other: over a store that may have what earlier starts left in it.

Under torchrun the store is the launcher's, and stays when it starts its processes again; torch itself would read the
addresses of those that are gone. No count tells starts apart on all machines, so that the processes introduce
themselves: each says a word of its own, rank 0 answers each with its word and a name for the start, and each says that
name back. What lies in the store from before has other words.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from typing import Any, Final, NoReturn

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined] # torch exports them, unsaid

from nntrain.errors import RankError

_AT_LEAST: Final = 300.0
"""Seconds that processes wait for each other at the start, at least: some read their data first."""
_LOOK: Final = 0.02


def launcher_has_store() -> bool:
    """Return whether the launcher holds the store, and not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def meet(rank: int, size: int, timeout: float) -> Any:
    """Return a store that the processes of this start alone share, once all of them are there.

    It is at MASTER_ADDR and MASTER_PORT. Raises `RankError` where they do not come within `timeout` seconds, or 300 if
    that is more.
    """
    timeout = max(timeout, _AT_LEAST)
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    until = time.monotonic() + timeout
    try:
        store: Any = TCPStore(
            host,
            int(port),
            is_master=rank == 0 and not launcher_has_store(),
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            multi_tenant=True,
        )
        name = _name_the_start(store, size, until) if rank == 0 else _introduce(store, rank, until)
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, RankError):
            raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise RankError(
            f"Rank {rank} could not meet the others of {size} processes at {host}:{port} (MASTER_ADDR, MASTER_PORT): "
            f"{said[0].rstrip('.')}. Start all of them at about the same time, where each can reach that address."
        ) from error
    return PrefixStore(f"nntrain/{name}", store)


def _name_the_start(store: Any, size: int, until: float) -> str:
    """Answer the others until each has said the name of this start; return it."""
    name, missing, answered = uuid.uuid4().hex, set(range(1, size)), dict[int, str]()
    while missing:
        for rank in tuple(missing):
            word = _read(store, f"nntrain/hello/{rank}")
            if word and answered.get(rank) != word:
                answered[rank] = word
                store.set(f"nntrain/welcome/{rank}", f"{word} {name}")
            if _read(store, f"nntrain/here/{rank}") == name:
                missing.remove(rank)
        _wait(until, sorted(missing))
    return name


def _introduce(store: Any, rank: int, until: float) -> str:
    """Say a word of one's own until rank 0 answers with it; return the name of the start."""
    word = uuid.uuid4().hex
    store.set(f"nntrain/hello/{rank}", word)
    while True:
        answer = _read(store, f"nntrain/welcome/{rank}").split()
        if answer[:1] == [word]:
            store.set(f"nntrain/here/{rank}", answer[1])
            return answer[1]
        _wait(until, [0])


def _read(store: Any, key: str) -> str:
    return bytes(store.get(key)).decode() if store.check([key]) else ""


def _wait(until: float, missing: list[int]) -> None:
    if missing and time.monotonic() > until:
        _not_there(missing)
    time.sleep(_LOOK if missing else 0.0)


def _not_there(missing: list[int]) -> NoReturn:
    names = ", ".join(map(str, missing))
    raise RankError(
        f"Rank {names} did not come to the start of the training: it has not been started, failed before, or cannot "
        f"reach MASTER_ADDR. See its own output; all ranks make the same learner with parallel=...",
        missing[0],
    )
