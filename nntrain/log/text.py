"""Text and numbers as a report shows them: no character of a log can hide, reorder or break the text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

LONGEST: Final = 20_000
"""The most characters of a text that the page shows; of a longer text it shows the beginning, and the length."""

_RANGES: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_HIDDEN: Final = re.compile(f"[{_RANGES}\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]")
"""Control characters except tab and newline, those without a width or that change the text's direction, surrogates."""


def visible(text: str) -> str:
    """Return text with control characters and other invisible ones escaped (`\\x1b`). Tab and newline stay."""
    return _HIDDEN.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def one_line(text: str, longest: int = 80) -> str:
    """Return text on one line; its end is cut off if it is too long."""
    line = visible(text[: longest + 1]).replace("\n", "\\n").replace("\t", "\\t")
    return line if len(text) <= longest and len(line) <= longest else line[: longest - 1] + "…"


def number(value: float | None) -> str:
    """Return a number with six digits, `nan` and `inf` as such, and a dash for None."""
    if value is None:
        return "–"
    return f"{value:.6g}" if math.isfinite(value) else str(value)


def whole(value: int) -> str:
    """Return a whole number with thousands separators; a very large one as a power of ten."""
    return f"{value:,}" if abs(value) < 10**15 else f"about 10^{int(value.bit_length() * math.log10(2))}"


def seconds(value: float | None) -> str:
    """Return a duration in seconds, minutes or hours."""
    if value is None or not math.isfinite(value):
        return number(value)
    if abs(value) < 120:
        return f"{value:.3g} s"
    if abs(value) < 7200:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    return f"{int(value // 3600):,} h {int(value % 3600 // 60):02d} min" if abs(value) < 1e12 else f"{value:.3g} s"


def size(count: float) -> str:
    """Return a count of bytes in the unit that fits."""
    count = as_float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def word(value: object) -> str:
    """Return a value of a config or event as text, much like JSON, but a string alone has no quotes."""
    return value if isinstance(value, str) else _nested(value, 0)


def _nested(value: object, depth: int) -> str:
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
        return "{" + ", ".join(f"{name}: {_nested(item, depth + 1)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_nested(item, depth + 1) for item in value) + "]"
    return repr(value)


def as_float(value: float) -> float:
    """Return a number as a float; an integer that is too large is limited to 2**53."""
    return float(min(max(value, -(2**53)), 2**53)) if isinstance(value, int) else value
