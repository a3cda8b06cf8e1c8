"""Printing for commands: escaped lines, and what happens when the output cannot be written."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final, TextIO

import click

from nntrain.cli.exits import Exit

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MAX_CHARS: Final = 1000


def say(text: str, *, err: bool = False, longest: int = _MAX_CHARS) -> None:
    """Print text on one line, with control characters, and those that the encoding does not have, escaped."""
    from nntrain.log.terminal.words import line

    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(line(text, longest).encode(encoding, "backslashreplace").decode(encoding), err=err)


def launched_rank() -> str:
    """Return which of the processes that a launcher started this is; "0" for one by itself.

    It is read off the launcher's variable: torch, by which the world is known, may not be imported yet.
    """
    return os.environ.get("RANK", "0")


class UnwritableError(click.ClickException):
    """A file that a command is to make, and that cannot be written."""

    exit_code: ClassVar[int] = Exit.UNWRITABLE

    def __init__(self, path: object, failure: OSError) -> None:
        super().__init__(f"{path} cannot be written: {failure.strerror or failure}. Give a place you may write to.")


class OutputError(Exception):
    """Standard output that cannot be written. Not an `OSError`, which click would take for its own."""

    def __init__(self, failure: OSError) -> None:
        super().__init__(f"the output cannot be written ({failure.strerror or failure})")
        self.reader_gone: bool = isinstance(failure, BrokenPipeError)


class _Output(io.FileIO):
    """Standard output or error. What cannot be written raises `OutputError`, or without `raises` is dropped."""

    def __init__(self, number: int, *, raises: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.raises = raises
        self.failure: OSError | None = None

    def write(self, content: Buffer, /) -> int:
        """Write, or after a failure drop, the content; returns how many bytes that were."""
        if self.failure is None:
            try:
                return super().write(content)
            except OSError as error:
                self.failure = error
        if self.raises:
            raise OutputError(self.failure) from self.failure
        return memoryview(content).nbytes


def _opened(stream: TextIO | None, *, raises: bool) -> TextIO | None:
    """Return a stream as `stream`, over an `_Output`; itself where it is no file's, as a Windows console."""
    if not (isinstance(stream, io.TextIOWrapper) and isinstance(_raw(stream), io.FileIO)):
        return stream
    output = io.BufferedWriter(_Output(stream.fileno(), raises=raises))
    return io.TextIOWrapper(
        output,
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw(stream: TextIO | None) -> object:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


@contextmanager
def printing() -> Iterator[None]:
    """Run a command: exit quietly when the reader of its output has gone, and with a line where it cannot be written.

    What it says on stderr is dropped where that cannot be written.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _opened(sys.stdout, raises=True), _opened(sys.stderr, raises=False)
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OutputError as error:
        if error.reader_gone:
            sys.exit(Exit.READER_GONE)  # a shell's code for a process that SIGPIPE ends
        click.echo(f"Error: {error}.", err=True)
        sys.exit(Exit.UNWRITABLE)
    finally:
        output = _raw(sys.stdout)
        if isinstance(output, _Output):
            output.raises = False  # what is left is flushed when nobody can take the error
        sys.stdout, sys.stderr = before


@contextmanager
def printing_later() -> Iterator[None]:
    """Raise `OutputError` at the end of the block only, so that output which cannot be written ends no training."""
    output = _raw(sys.stdout)
    if not isinstance(output, _Output):
        yield
        return
    output.raises = False
    yield
    sys.stdout.flush()
    output.raises = True
    if output.failure is not None:
        raise OutputError(output.failure)
