"""Text and numbers as the page shows them: nothing in a log can hide, reorder or break what is read."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

LONGEST: Final = 20_000
"""Characters of the longest text that the page shows; of a longer one the beginning, and how long it is."""

_SCRIPTS: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_HIDDEN: Final = re.compile(f"[{_SCRIPTS}\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]")
"""Control characters but tab and newline; those without a width or that turn the direction of text; what is no text."""


def visible(text: str) -> str:
    """Give text with its control characters written out: what ends a line, hides or turns text, is seen as what it is.

    Tab and newline stay.
    """
    return _HIDDEN.sub(lambda found: _named(ord(found[0])), text)


def _named(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def in_a_line(text: str, longest: int = 80) -> str:
    """Give text on one line, its end cut off where it is too long."""
    line = visible(text[: longest + 1]).replace("\n", "\\n").replace("\t", "\\t")
    return line if len(text) <= longest and len(line) <= longest else line[: longest - 1] + "…"


def in_a_plot(text: str, longest: int = 80) -> str:
    """Give text for plotly, which takes some tags for markup: as it is, on one line."""
    return html.escape(in_a_line(text, longest), quote=False)


def number(value: float | None) -> str:
    """Give a number to six digits; `nan` and `inf` by name, a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.6g}" if math.isfinite(value) else str(value)


def whole(value: int) -> str:
    """Give a whole number with its thousands apart; one that nobody could read, as a power of ten."""
    return f"{value:,}" if abs(value) < 10**15 else f"about 10^{int(value.bit_length() * math.log10(2))}"


def seconds(value: float | None) -> str:
    """Give a duration as a person says it."""
    if value is None or not math.isfinite(value):
        return number(value)
    if abs(value) < 120:
        return f"{value:.3g} s"
    if abs(value) < 7200:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    return f"{int(value // 3600):,} h {int(value % 3600 // 60):02d} min" if abs(value) < 1e12 else f"{value:.3g} s"


def size(count: float) -> str:
    """Give a count of bytes in the unit that fits."""
    count = as_float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def word(value: object) -> str:
    """Give a value of a config or event as text: what JSON would write, less the quotes of a text on its own."""
    return value if isinstance(value, str) else _inner(value, 0)


def _inner(value: object, depth: int) -> str:
    if depth > 20:
        return "…"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int):
        return str(value) if abs(value) < 10**15 else whole(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_inner(item, depth + 1)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_inner(item, depth + 1) for item in value) + "]"
    return repr(value)


def as_float(value: float) -> float:
    """Give a whole number as a float, which it may be too large for."""
    return float(min(max(value, -(2**53)), 2**53)) if isinstance(value, int) else value
