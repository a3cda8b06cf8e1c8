"""Text and numbers as a terminal gets them: nothing that stood in a log is obeyed, and all of it stays in its line."""

from __future__ import annotations

import math
from typing import Final

from nntrain.log.text import visible, word
from nntrain.log.text import whole as whole_number

LONGEST: Final = 200
"""Characters of the longest text in a line; the rest is counted."""
LONGEST_BLOCK: Final = 4000
"""Characters of the longest text of many lines; what lies in the middle is counted."""


def line(text: str, longest: int = LONGEST) -> str:
    """Give text on one line, with all that a terminal would obey written out; the rest of a long one is counted."""
    shown = visible(text[:longest]).replace("\n", "\\n").replace("\t", "\\t")
    return shown if len(text) <= longest else f"{shown}… {len(text) - longest:,} more characters"


def name(text: str, longest: int = 24) -> str:
    """Give a name that keeps to its column: of a long one the beginning."""
    shown = line(text[: longest + 1], longest + 1)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def block(text: str, longest: int = LONGEST_BLOCK) -> str:
    """Give text that keeps its newlines and nothing else; of a long one the beginning and the end."""
    if len(text) <= longest:
        return visible(text).replace("\t", "\\t").strip("\n")
    half = longest // 2
    left_out = f"… {len(text) - 2 * half:,} more characters …"
    return f"{block(text[:half])}\n{left_out}\n{block(text[-half:])}"


def setting(value: object) -> str:
    """Give a value of a config on one line."""
    return line(word(value))


def number(value: float) -> str:
    """Give a number to four places, or digits where that says more; `nan` and `inf` by name."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def whole(value: float) -> str:
    """Give a count or a rate with its thousands apart."""
    if isinstance(value, int):
        return whole_number(value)
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.1e}"


def seconds(value: float) -> str:
    """Give seconds as a column of them has it."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.2f}" if abs(value) < 1000 else whole(value)


def duration(value: float, places: int = 2) -> str:
    """Give a duration as a clock has it, or in seconds where it is short."""
    if not math.isfinite(value):
        return str(value)
    if value < 60:
        return f"{value:.{places}f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(int(min(value, 1e12)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counted(count: int, thing: str) -> str:
    """Give a count and what is counted."""
    return f"{whole(count)} {thing}{'' if count == 1 else 's'}"
