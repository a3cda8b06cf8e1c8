"""How much memory is free: on the machine, and within the limits of this process's cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

UNKNOWN: Final = 4 << 30
"""Bytes that are assumed to be free where the system does not say."""


def free_memory(root: Path = Path("/")) -> int:
    """Return how many bytes can be allocated without swapping or being killed.

    On Linux the least of `MemAvailable` and what is left of the limit of each cgroup that the process is in (a
    container's limit is one); elsewhere half of the built-in memory. `root` is the file system to read it from.
    """
    return min([_machine(root), *_cgroups(root)])


def format_bytes(count: int) -> str:
    """Return a number of bytes as text, like 12.1 GB.

    >>> format_bytes(12_100_000_000), format_bytes(0)
    ('12.1 GB', '0 bytes')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def _machine(root: Path) -> int:
    text = _text(root / "proc" / "meminfo")
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf; others may lack the names
        return UNKNOWN


def _cgroups(root: Path) -> Iterator[int]:
    """Yield the bytes left in each cgroup that has a limit, from our own up."""
    mounted = root / "sys" / "fs" / "cgroup"
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: one tree for all
            base, limit, used = mounted, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            allowed, taken = _text(folder / limit).strip(), _text(folder / used).strip()
            if allowed.isdecimal() and taken.isdecimal():
                yield max(0, int(allowed) - int(taken) + _reclaimable(folder))
            if folder == base:
                break


def _reclaimable(folder: Path) -> int:
    # Cached files count as used, and are dropped when memory is needed.
    for line in _text(folder / "memory.stat").splitlines():
        name, _, count = line.partition(" ")
        if name in {"inactive_file", "total_inactive_file"}:
            return int(count)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
