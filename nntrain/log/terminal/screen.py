"""The output: a rich console that gets only text which is not markup and which its encoding can hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final, NoReturn

from rich.console import Console, ConsoleOptions, OverflowMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_STYLES: Final = {
    "verdict": "bold yellow",
    "warning": "yellow",
    "checkpoint": "blue",
    "resumed": "magenta",
    "failure": "bold red",
    "quiet": "yellow",
    "lost": "red",
    "unfinished": "bold yellow",
    "completed": "bold green",
    "cancelled": "bold yellow",
    "failed": "bold red",
}
"""The styles of labels; others are dim."""
_STAND_INS: Final = str.maketrans({"…": "...", "–": "-", "·": "-"})
_ENDLESS: Final = 1_000_000


class Screen:
    """A console and the ways to write to it. All of them take `Text`: rich would read a str as markup."""

    def __init__(self, console: Console | None = None) -> None:
        self.console: Console = console or _StandardOutput()

    def write(self, what: Text | Table | Padding, *, wrap: bool = True) -> None:
        """Print a text or a table. What is too wide goes on in the next line, or without `wrap` ends with a "…"."""
        self.console.print(Printable(what, wrap=wrap))

    def entry(self, label: str, text: Text, mark: str = "") -> None:
        """Print a text to the right of its label, with the mark of its run in front if there is one."""
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(overflow="fold")
        grid.add_column(overflow="fold")
        grid.add_row(marked(mark, Text(f"{label:<10}", style=_STYLES.get(label, "dim"))), text)
        self.write(grid)


class Printable:
    """What rich draws, without spaces at the ends of the lines, and in characters that the console's encoding has."""

    def __init__(self, what: Text | Table | Padding, *, wrap: bool = True) -> None:
        self._what = what
        self._wrap = wrap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        room = options if self._wrap else options.update(width=_ENDLESS)
        overflow: OverflowMethod = "ellipsis" if console.encoding.startswith("utf") else "crop"
        for line in console.render_lines(self._what, room, pad=False):
            parts = [(_encodable(part.text, console.encoding), part.style or "") for part in line]
            text = Text.assemble(*parts, no_wrap=True, overflow=overflow)
            text.rstrip()
            yield text


def marked(mark: str, text: Text) -> Text:
    """Return a text with the mark of its run in front if there is one."""
    return Text.assemble((f"{mark}  " if mark else "", "cyan"), text)


def _encodable(text: str, encoding: str) -> str:
    """Return text in which the characters that an encoding does not have are written as escapes."""
    if encoding.startswith("utf"):
        return text
    return text.translate(_STAND_INS).encode(encoding, "backslashreplace").decode(encoding)


class _StandardOutput(Console):
    """The console of stdout.

    rich takes `FORCE_COLOR` to mean that lines can be redrawn, which is not possible in a pipe; and it ends the
    process when the reader of a pipe has gone.
    """

    def __init__(self) -> None:
        terminal = sys.stdout is not None and sys.stdout.isatty()
        super().__init__(highlight=False, force_interactive=None if terminal else False)

    def on_broken_pipe(self) -> NoReturn:
        """Raise the `BrokenPipeError` that is being handled again."""
        raise  # noqa: PLE0704 - rich calls this where it has caught it
