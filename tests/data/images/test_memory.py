from __future__ import annotations

import os
from pathlib import Path

import pytest

from nntrain.data.images import memory
from nntrain.data.images.memory import free_memory

MEMINFO = "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   8000000 kB\n"
MACHINE = 8000000 << 10


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = "sys/fs/cgroup/a/b"
V1 = "sys/fs/cgroup/memory/a"


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, MACHINE),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/memory.max": "max\n", f"{V2}/memory.current": "5\n"}, MACHINE),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/memory.max": "1000\n", f"{V2}/memory.current": "300\n"}, 700),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/memory.max": "1000\n",
                f"{V2}/memory.current": "300\n",
                f"{V2}/memory.stat": "anon 7\ninactive_file 200\n",
            },
            900,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/memory.max": "1000\n",
                f"{V2}/memory.current": "300\n",
                "sys/fs/cgroup/a/memory.max": "500\n",
                "sys/fs/cgroup/a/memory.current": "400\n",
            },
            100,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "9\n", "sys/fs/cgroup/memory.current": "10\n"}, 0),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a\n",
                f"{V1}/memory.limit_in_bytes": "1000\n",
                f"{V1}/memory.usage_in_bytes": "600\n",
                f"{V1}/memory.stat": "total_inactive_file 50\n",
            },
            450,
        ),
    ],
    ids=["no groups", "no limit", "limit", "files are dropped", "an outer limit", "over the limit", "version 1"],
)
def test_the_least_of_the_machine_and_the_groups(tmp_path: Path, files: dict[str, str], free: int) -> None:
    assert free_memory(write(tmp_path, {"proc/meminfo": MEMINFO, **files})) == free


def test_elsewhere_half_of_what_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert free_memory(tmp_path) == 1000 * 4096 // 2
    monkeypatch.delattr(os, "sysconf")
    assert free_memory(tmp_path) == memory.UNKNOWN


def test_here() -> None:
    assert 1 << 20 < free_memory() < 1 << 50
