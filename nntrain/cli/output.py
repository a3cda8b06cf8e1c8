"""What a command prints: lines in which nothing is obeyed, and an end without noise where nobody reads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import click

UNWRITABLE: Final = 10
"""What a command ends with whose output cannot be written, as on a full disk."""
READER_GONE: Final = 141
"""What a command ends with whose reader has gone away: as a shell has it for one that SIGPIPE ends."""
_LONGEST: Final = 1000


def say(text: str, *, err: bool = False, longest: int = _LONGEST) -> None:
    """Print text on one line, with all that a terminal would obey written out, or that its encoding does not have."""
    from nntrain.log.terminal.words import line

    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(line(text, longest).encode(encoding, "backslashreplace").decode(encoding), err=err)


@contextmanager
def printing() -> Iterator[None]:
    """End a command quietly when the reader of its output has gone, and with a line where that cannot be written."""
    from nntrain.errors import NNTrainError

    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard()
        sys.exit(READER_GONE)
    except OSError as error:
        if isinstance(error, NNTrainError):
            raise
        _discard()
        click.echo(f"Error: the output cannot be written ({error.strerror or error}).", err=True)
        sys.exit(UNWRITABLE)


def _discard() -> None:
    """Let what is still held back go nowhere: Python would complain about it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
