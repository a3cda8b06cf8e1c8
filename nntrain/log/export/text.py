"""Text and values of a log in a form that every format accepts, and a line as a short text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pydantic import BaseModel

from nntrain.log.line import Line
from nntrain.log.sentences import sentence

LONGEST: Final = 1 << 16
"""The most characters of a text that is exported; the rest is cut off, and the length added."""

INT64: Final = 2**63 - 1
"""The largest integer that the formats can hold; a larger one is replaced by it."""

Scalar = str | int | float | bool

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def safe(text: str, longest: int = LONGEST) -> str:
    """Return text that every format can hold, without characters that a terminal would act on.

    Control characters except tab and newline, and lone surrogates, are escaped (`\\x1b`); a long text is cut.
    """
    cut = text[:longest]
    if not cut.isascii():
        cut = cut.encode("utf-8", "backslashreplace").decode("utf-8")
    cut = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), cut)
    if len(text) <= longest and len(cut) <= longest:
        return cut
    note = f"… ({len(text)} characters)"
    return cut[: max(0, longest - len(note))] + note[:longest]


def flat(value: object, path: str = "") -> Iterator[tuple[str, Scalar | list[Scalar]]]:
    """Yield the values of nested mappings, each with its dotted path.

    A list of texts, or of numbers of one type, stays a list; any other list becomes JSON. None is left out.
    """
    if isinstance(value, BaseModel):
        value = value.__dict__
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flat(item, f"{path}.{safe(str(name))}" if path else safe(str(name)))
    elif isinstance(value, (list, tuple)):
        items = [scalar(item) for item in value if isinstance(item, (str, int, float))]
        alike = len(items) == len(value) and len({type(item) for item in items}) <= 1
        yield path, items if alike else safe(in_json(value))
    elif value is not None:
        yield path, scalar(value)


def scalar(value: object) -> Scalar:
    """Return a text, number or bool in its exported form, and anything else as text."""
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -INT64 <= value <= INT64 else str(value)
    return safe(value if isinstance(value, str) else repr(value))


def in_json(value: object, indent: int | None = None) -> str:
    """Return a value as JSON text."""
    return json.dumps(plain(value), ensure_ascii=False, indent=indent)


def plain(value: object) -> object:
    """Return a value as JSON values; numbers that are not finite become texts."""
    if isinstance(value, BaseModel):
        value = value.__dict__
    if isinstance(value, Mapping):
        return {safe(str(name)): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None else scalar(value)


def safe_sentence(line: Line) -> str:
    """Return a line as a short, safe text."""
    return safe(sentence(line), 500)


def flat_text(value: Sequence[Scalar] | Scalar) -> str:
    """Return a value of `flat` as one text."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
