"""Text and numbers made safe for a terminal: control characters are escaped, and long text is shortened."""

from __future__ import annotations

import math
from typing import Final

from nntrain.log.text import visible
from nntrain.log.text import whole as whole_number

_LONGEST: Final = 200
"""Characters of the longest text in a line."""
_LONGEST_BLOCK: Final = 4000
"""Characters of the longest text of several lines."""


def line(text: str, longest: int = _LONGEST) -> str:
    """Return text on one line, with control characters escaped. Of a long text the start, and how much is left out."""
    shown = visible(text[:longest]).replace("\n", "\\n").replace("\t", "\\t")
    return shown if len(text) <= longest else f"{shown}… {len(text) - longest:,} more characters"


def block(text: str) -> str:
    """Return text that keeps its newlines. Of a long text the start, the end, and how much is left out between them."""
    if len(text) <= _LONGEST_BLOCK:
        return visible(text).replace("\t", "\\t").strip("\n")
    half = _LONGEST_BLOCK // 2
    left_out = f"… {len(text) - 2 * half:,} more characters …"
    return f"{block(text[:half])}\n{left_out}\n{block(text[-half:])}"


def number(value: float) -> str:
    """Return a number to four decimal places, or in scientific notation; `nan` and `inf` by name."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def whole(value: float, places: int = 0) -> str:
    """Return a count or a rate with commas between the thousands, and with decimal places if asked for."""
    if isinstance(value, int):
        return whole_number(value)
    return f"{value:,.{places}f}" if not abs(value) >= 1e15 else f"{value:.1e}"


def duration(value: float, places: int = 2) -> str:
    """Return a duration like `0.25 s`, `12 s`, `4:09` or `1:30:00`."""
    if not math.isfinite(value):
        return str(value)
    if value < 60:
        return f"{value:.{places if value < 10 else 0}f} s"
    minutes, seconds = divmod(int(min(value, 1e12)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def counted(count: int, thing: str) -> str:
    """Return a count with its noun, in the plural if it needs one."""
    return f"{whole(count)} {thing}{'' if count == 1 else 's'}"
