"""Where the output goes: a rich console, which gets text that it takes for no markup and that it can encode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_LABEL: Final = 10
_NARROWEST: Final = 20
_STAND_INS: Final = str.maketrans({"…": "...", "–": "-", "·": "-"})


class Screen:
    """A console, and the forms in which it is written to."""

    def __init__(self, console: Console | None = None) -> None:
        self.console: Console | _StandardOutput = console or _StandardOutput()

    @property
    def width(self) -> int:
        """The cells of a line."""
        return self.console.width

    @property
    def live(self) -> bool:
        """Whether what was written can be redrawn."""
        return self.console.is_interactive

    def say(self, what: RenderableType = "") -> None:
        """Write something: a `Text`, or what has texts in it; no str but one of our own."""
        self.console.print(self.encodable(what), highlight=False, markup=False, emoji=False)

    def row(self, text: Text) -> None:
        """Write lines that stay as they are: what is wider than the console is cut off."""
        text.no_wrap = True
        text.overflow = "ellipsis"
        self.say(text)

    def entry(self, label: Text, text: Text) -> None:
        """Write a text behind its label; its further lines hang below it."""
        margin = max(_LABEL, label.cell_len) + 1
        begun = label + Text(" " * (margin - label.cell_len))
        for part in text.wrap(self.console, max(_NARROWEST, self.width - margin), overflow="fold"):
            part.rstrip()
            self.row(begun + part)
            begun = Text(" " * margin)

    def block(self, text: Text) -> None:
        """Write a text of many lines below an entry; what is wider than the console goes on in the next line."""
        rows = text.wrap(self.console, max(_NARROWEST, self.width - 2), overflow="fold")
        self.row(Text("\n").join(Text("  ") + part for part in rows))

    def encodable(self, what: RenderableType) -> RenderableType:
        """Give something as the console's encoding can have it."""
        return what if self.console.encoding.startswith("utf") else _Encodable(what)


class _StandardOutput(Console):
    """The console of stdout.

    rich takes `FORCE_COLOR` to mean that what was written can be redrawn, which in a pipe it cannot; and where the
    reader of a pipe has gone away it ends the process.
    """

    def __init__(self) -> None:
        terminal = sys.stdout is not None and sys.stdout.isatty()
        super().__init__(highlight=False, force_interactive=None if terminal else False)

    def on_broken_pipe(self) -> NoReturn:
        """Let the `BrokenPipeError` that is being handled pass on."""
        raise  # noqa: PLE0704 - rich calls this where it has caught it


class _Encodable:
    """Something of which those characters are written out that an encoding does not have."""

    def __init__(self, what: RenderableType) -> None:
        self._what = what

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._what, options):
            if segment.control:
                yield segment
                continue
            text = segment.text.translate(_STAND_INS)
            encoding = console.encoding
            yield Segment(text.encode(encoding, "backslashreplace").decode(encoding), segment.style)
