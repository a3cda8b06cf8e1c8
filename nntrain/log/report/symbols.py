"""The symbols of marks, the colours of runs and the lines of phases, as small pictures beside text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final

from nntrain.log.report.markup import tag
from nntrain.log.report.notable import Kind

_PATHS: Final[dict[Kind, str]] = {
    "verdict": "M8 1 15 8 8 15 1 8Z",
    "checkpoint": "M7 8H9V15H7Z",
    "failure": "M3 6 6 3 8 5 10 3 13 6 11 8 13 10 10 13 8 11 6 13 3 10 5 8Z",
    "resumption": "M4 2 14 8 4 14Z",
    "warning": "M8 2 15 14H1Z",
}
"""The shapes, in a square of 16, as `draw.js` draws them too; a checkpoint is a tick at the foot of a figure."""


def paths() -> dict[str, str]:
    """Return the shapes of the kinds that have one, which `draw.js` draws on the curves."""
    return {str(kind): path for kind, path in _PATHS.items()}


def symbol(kind: Kind) -> ET.Element | None:
    """Return a picture of the symbol of a kind; None if it has none."""
    if kind == "nonfinite":
        ring = tag("circle", cx="8", cy="8", r="5.5", fill="none", stroke="currentColor")
        return _picture(ring, tag("path", d="M4 4 12 12M12 4 4 12", stroke="currentColor"))
    return _picture(tag("path", d=_PATHS[kind], fill="currentColor")) if kind in _PATHS else None


def swatch(colour: str) -> ET.Element:
    """Return a picture of a run's colour."""
    return _picture(tag("circle", cx="8", cy="8", r="6", fill=colour))


def stroke(*, dotted: bool) -> ET.Element:
    """Return a picture of the line of train (dotted) or of eval."""
    dash = "2 3" if dotted else None
    path = tag("path", d="M1 8H31", stroke="currentColor", stroke_width="2", stroke_dasharray=dash)
    return _picture(path, width=32)


def _picture(*parts: ET.Element, width: int = 16) -> ET.Element:
    return tag("svg", *parts, viewBox=f"0 0 {width} 16", width=str(width), height="16", aria_hidden="true")
