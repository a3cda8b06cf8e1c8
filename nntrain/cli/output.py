"""Printing for commands: escaped lines, and a quiet end when the reader of the output is gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import click

UNWRITABLE: Final = 10
"""The exit code where the output cannot be written, as on a full disk."""
READER_GONE: Final = 141
"""The exit code where the reader of the output has gone: a shell's code for a process that SIGPIPE ends."""
_MAX_CHARS: Final = 1000


def say(text: str, *, err: bool = False, longest: int = _MAX_CHARS) -> None:
    """Print text on one line, with control characters, and those that the encoding does not have, escaped."""
    from nntrain.log.terminal.words import line

    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(line(text, longest).encode(encoding, "backslashreplace").decode(encoding), err=err)


@contextmanager
def printing() -> Iterator[None]:
    """Exit quietly when the reader of the output has gone, and with an error where it cannot be written."""
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
    """Discard buffered output, which Python would fail to write when it exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
