"""What every benchmark prints: one line that says when, on what and with which versions, and tables in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import torch

import nntrain
from tests.benchmarks.rounds import Ratio

_CPUINFO: Final = Path("/proc/cpuinfo")


def heading(versions: Sequence[str] = (), *, threads: int | None = None) -> str:
    """Give the date, the machine's kind, the threads and the versions, of others too if given ("lightning 2.6").

    `threads` are torch's in this process, unless it is others that are measured.
    """
    where = f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores"
    known = (f"nntrain {nntrain.__version__}", f"torch {torch.__version__}", f"Python {platform.python_version()}")
    threads = threads or torch.get_num_threads()
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {where}; {threads} thread{'s' if threads > 1 else ''}; "
        f"{', '.join((*known, *versions))}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give a Markdown table with its columns aligned, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def cells(ratio: Ratio) -> list[str]:
    """Give the cells of a ratio: the median, the lowest, the highest."""
    return [f"{value:.3f}" for value in ratio]


def _processor() -> str:
    """Give the processor's model as the system calls it."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
