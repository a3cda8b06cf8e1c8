"""Terminals that are not there."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    def frames(self) -> list[str]:
        """Return what was drawn on a line, each time."""
        return [one.strip() for line in self.getvalue().split("\n") for one in line.split("\r") if one.strip()]

    def bars(self) -> list[str]:
        """Return the bars among them."""
        return [frame for frame in self.frames() if "%|" in frame or "batches/s]" in frame or "batches/s," in frame]

    def screen(self) -> list[str]:
        """Return the lines that a person sees at the end."""
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        assert lines.pop() == ""  # where the next thing is written
        return lines
