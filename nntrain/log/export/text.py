"""Text as every format takes it, whatever stood in the log, and what a line says in a few words."""

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
"""Characters of the longest text that is passed on; the rest is cut off, and its length told."""

INT64: Final = 2**63 - 1
"""The largest integer that the formats hold; a larger one is passed on as this."""

Scalar = str | int | float | bool

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def safe(text: str, longest: int = LONGEST) -> str:
    """Give text that any format holds and no terminal obeys.

    Control characters but tab and newline, and lone surrogates, are written out (`\\x1b`); what is too long is cut.
    """
    cut = text[:longest]
    if not cut.isascii():
        cut = cut.encode("utf-8", "backslashreplace").decode("utf-8")
    cut = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), cut)
    if len(text) <= longest and len(cut) <= longest:
        return cut
    told = f"… ({len(text)} characters)"
    return cut[: max(0, longest - len(told))] + told[:longest]


def flat(value: object, path: str = "") -> Iterator[tuple[str, Scalar | list[Scalar]]]:
    """Yield what is in nested mappings, each by its dotted path.

    A list of texts, or of numbers of one type, stays a list; any other is JSON. What is absent (None) is left out.
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
    """Give a text, number or truth value as it is passed on; anything else as text."""
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -INT64 <= value <= INT64 else str(value)
    return safe(value if isinstance(value, str) else repr(value))


def in_json(value: object, indent: int | None = None) -> str:
    """Give `plain` as JSON text."""
    return json.dumps(plain(value), ensure_ascii=False, indent=indent)


def plain(value: object) -> object:
    """Give a value as JSON holds it; numbers that are not finite are texts in it."""
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
    """Say in a few words what a line tells."""
    return safe(sentence(line), 500)


def listed(value: Sequence[Scalar] | Scalar) -> str:
    """Give a value of `flat` as one text."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
