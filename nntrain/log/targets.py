"""Where lines go: a file, a stream, an application's own logger; and whatever else is a `Target`."""

from __future__ import annotations

import io
import os
import selectors
import stat
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, Protocol

from nntrain.errors import ConfigError, LogError, LogWarning
from nntrain.log.line import BEGINNING, Line, LineError, parsed
from nntrain.log.rendering import event_logger
from nntrain.log.syncing import Syncing

_WAIT_S: Final = 1.0
"""Seconds that a stream which takes nothing at the moment is waited for."""
_LOOKS: Final = 5
_LOOK_S: Final = 0.01
"""How often, and how many seconds apart, a file is looked at that another process may be about to change."""


class Target(ABC):
    """What takes lines. Whatever it raises costs the line, which is counted, and never ends a training."""

    @abstractmethod
    def write(self, line: Line, /) -> None:
        """Take a line."""

    def flush(self) -> None:  # noqa: B027 - many have nothing to do
        """Let what was taken be seen by others. Called after each group of lines."""

    def sync(self) -> None:  # noqa: B027 - as above
        """Let what was taken outlast the machine, without waiting. Called as the log's `sync` says."""

    def settle(self) -> None:  # noqa: B027 - as above
        """Wait until what `sync` asked for is done. Called where the log's `sync` is `"line"`."""

    def close(self) -> None:  # noqa: B027 - as above
        """End."""


class FileTarget(Target):
    """A file that lines are appended to, each by one write with `O_APPEND`.

    Rotation is left to the tools that do it: where another file, or none, has come to be at the path, the lines go on
    there; or where they were, if none can be opened there and the file was only renamed. A torn line at the end of the
    file, which a crash left, is cut off when it is opened. A file that was made here, and that nothing was written to,
    is removed when it is closed.

    Raises `LogError` at once where `path` cannot be opened for writing, or ends in something that is no log.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self._process = os.getpid()
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None
        self._behind_torn = False
        self._followed = False
        self._astray = False
        self._content = b""
        self._logger = event_logger(self)
        self._syncing = Syncing()
        try:
            self._name = os.path.abspath(path)  # noqa: PTH100 - for each line, and a Path takes three times as long
            self._made = not self.path.exists()
            self._open()
            self._mend()
        except (OSError, ValueError) as error:
            self._release()
            if isinstance(error, LogError):
                raise
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise LogError(
                f"The log {self.path} cannot be written: {reason}. Give the path of a file in a folder that exists "
                f"and that you may write to."
            ) from error

    def _open(self) -> None:
        there = Path(self._name)
        flags = os.O_WRONLY if there.exists() and not there.is_file() else os.O_RDWR  # a device may be for writing only
        self._file = os.open(self._name, flags | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        found = os.fstat(self._file)
        self._identity = (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None

    def _mend(self) -> None:
        """End the last line of the file, or cut it off where it is torn."""
        if self._file is None or self._identity is None:
            return
        end, tail = _unended(self._file)
        for _ in range(_LOOKS):
            if not tail:
                return
            time.sleep(_LOOK_S)
            with suppress(OSError):
                os.utime(self._file)  # waits for a write that is under way
            before = end, tail
            end, tail = _unended(self._file)
            if (end, tail) == before:
                break
        else:
            return  # another process writes, and ends its lines itself
        try:
            parsed(tail.decode("utf-8"))
        except (LineError, UnicodeDecodeError):
            begins = BEGINNING.encode()
            if not (tail.startswith(begins) or begins.startswith(tail) or not tail.strip(b"\0")):
                raise LogError(
                    f"The log {self.path} cannot be written: it ends in {tail[-40:]!r}, which is no line of a log. "
                    f"Give the path of a log, or of a file that does not exist yet."
                ) from None
            os.ftruncate(self._file, end - len(tail))
            warnings.warn(f"the log {self.path} ended in a torn line; its {len(tail)} bytes are cut off", LogWarning, 2)
        else:
            os.write(self._file, b"\n")

    def write(self, line: Line, /) -> None:
        """Append a line. Raises `OSError` where it does not get through whole."""
        if self._file is None:
            raise OSError("the log is closed")
        if not self._followed:
            self._follow()
        self._logger.line(line)
        content = self._content
        if self._behind_torn:
            content = b"\n" + content
        written = os.write(self._file, content) if self._identity else _write(self._file, content, wait=True)
        if written == len(content):
            self._made = self._behind_torn = False
            return
        if written and not self._taken_back(written):
            self._behind_torn = not content[:written].endswith(b"\n")
        raise OSError(f"only {written} of {len(content)} bytes fitted")

    def msg(self, content: bytes) -> None:
        """Take what structlog rendered."""
        self._content = content

    def _follow(self) -> None:
        """Go on in the file that is at the path, if it is another one. Once for each group of lines."""
        before, identity = self._file, self._identity
        if before is None or identity is None or self._found() == identity:
            self._followed = True
            return
        left = os.fstat(before)
        for _ in range(_LOOKS if left.st_nlink and not self._astray else 0):
            if self._found() is not None:
                break
            time.sleep(_LOOK_S)  # what renamed it may be about to make a new one
        try:
            self._open()
            self._mend()
        except OSError:
            if self._file != before:
                self._release()
            self._file, self._identity = before, identity
            if left.st_nlink == 0:
                raise
            self._followed = self._astray = True  # only renamed: the lines go where they went
            return
        os.close(before)
        self._followed = True
        self._astray = self._behind_torn = False
        if left.st_nlink == 0 and left.st_size:
            warnings.warn(
                f"the log {self.path} was deleted, and the lines in it with it; the log goes on in a new file",
                LogWarning,
                stacklevel=2,
            )

    def _found(self) -> tuple[int, int] | None:
        """Give the identity of the file that is at the path."""
        try:
            found = os.stat(self._name)  # noqa: PTH116 - as above
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _taken_back(self, written: int) -> bool:
        """Cut off the part of a line that fitted, unless another process has written behind it."""
        if self._file is None or self._identity is None:
            return False
        with suppress(OSError):
            end = os.lseek(self._file, 0, os.SEEK_CUR)
            if os.fstat(self._file).st_size == end:
                os.ftruncate(self._file, end - written)
                return True
        return False

    def flush(self) -> None:
        """Look anew, before the next line, which file is at the path."""
        self._followed = False

    def sync(self) -> None:
        """Have what was written brought to the disk, beside the training."""
        if self._file is not None and self._identity is not None:
            self._syncing.ask(self._file)

    def settle(self) -> None:
        """Wait until what was to be brought to the disk is there."""
        self._syncing.wait()

    def close(self) -> None:
        """Wait for the disk, and close the file. Lines after this are lost."""
        if self._file is None:
            return
        try:
            self._syncing.close()
        finally:
            self._close()

    def _close(self) -> None:
        if self._file is None:
            return
        found, identity = os.fstat(self._file), self._found()
        self._release()
        if self._made and self._process == os.getpid() and not found.st_size and identity == self._identity:
            with suppress(OSError):
                Path(self._name).unlink()

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __reduce__(self) -> tuple[type[FileTarget], tuple[Path]]:
        return FileTarget, (Path(self._name),)


class StreamTarget(Target):
    """An open stream, such as `sys.stdout`: what was printed to it before comes before. It is not closed."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self._logger = event_logger(self)
        self._content = b""
        self._behind_torn = False

    def write(self, line: Line, /) -> None:
        """Write a line. Raises `OSError` where it does not get through whole."""
        self._logger.line(line)
        content = b"\n" + self._content if self._behind_torn else self._content
        self.stream.flush()
        file = _descriptor(self.stream)
        if file is None:
            self.stream.write(content.decode())
            self.stream.flush()
            return
        written = _write(file, content, wait=True)
        if written:
            self._behind_torn = not content[:written].endswith(b"\n")
        if written < len(content):
            raise OSError(f"only {written} of {len(content)} bytes went through")

    def msg(self, content: bytes) -> None:
        """Take what structlog rendered."""
        self._content = content

    def flush(self) -> None:
        """Nothing is held back."""

    def __reduce__(self) -> tuple[Callable[[str], StreamTarget], tuple[str]]:
        for name in ("stdout", "stderr"):
            if self.stream in {getattr(sys, name), getattr(sys, f"__{name}__")}:
                return _standard, (name,)
        raise TypeError(f"a log to {self.stream!r:.80} cannot be pickled; one to a path, or to sys.stdout, can be.")


def _standard(name: str) -> StreamTarget:
    return StreamTarget(getattr(sys, name))


class BoundLogger(Protocol):
    """What an application's structlog logger can do."""

    def bind(self, **fields: Any) -> Any:
        """Bind fields. It tells a structlog logger from one of `logging`."""
        ...


class LoggerTarget(Target):
    """An application's own structlog logger: it sees the events as it sees its own, in its own format.

    Each line becomes a call of the method of its level, with the name of the event, and the fields as keywords.
    """

    def __init__(self, logger: BoundLogger) -> None:
        self.logger = logger

    def write(self, line: Line, /) -> None:
        """Log a line."""
        fields = line.fields()
        name, level = fields.pop("event"), str(fields.pop("level"))
        log: Callable[..., object] = getattr(self.logger, level)
        log(name, **fields)


def target_of(given: object) -> Target:
    """Give the target that something stands for. Raises `ConfigError` for what stands for none."""
    if isinstance(given, Target):
        return given
    if isinstance(given, (str, os.PathLike)):
        return FileTarget(given)
    if callable(getattr(given, "bind", None)) and callable(getattr(given, "info", None)):
        return LoggerTarget(given)  # type: ignore[arg-type] # a proxy of structlog's, told by what it can do
    if callable(getattr(given, "write", None)) and callable(getattr(given, "flush", None)):
        return StreamTarget(given)  # type: ignore[arg-type] # a stream, told by what it can do
    raise ConfigError(
        f"A log cannot go to {given!r:.80} ({type(given).__name__}); expected a path, an open text stream like "
        f"sys.stdout, a structlog logger (for one of logging: structlog.stdlib.get_logger(name)), or a Target."
    )


def _unended(file: int) -> tuple[int, bytes]:
    """Give where a file ends, and what is behind its last newline."""
    end = begin = os.fstat(file).st_size
    tail = b""
    while begin > 0 and b"\n" not in tail:
        begin, last = max(0, begin - 65536), begin
        tail = os.pread(file, last - begin, begin) + tail
    return end, tail[tail.rfind(b"\n") + 1 :]


def _descriptor(stream: IO[str]) -> int | None:
    """Give the file that a stream is written to, where it is one and what is written goes there as it is."""
    buffer = getattr(stream, "buffer", stream)
    if not isinstance(getattr(buffer, "raw", buffer), io.FileIO):  # in memory, a notebook's, or gzip's
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _ready(file: int) -> bool:
    """Wait until something can be written. Tells whether it can."""
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_WRITE)
        return bool(selector.select(_WAIT_S))


def _write(file: int, content: bytes, *, wait: bool) -> int:
    """Write, and give how many bytes fitted; what has room again later is waited for, if `wait` says so."""
    written = 0
    while written < len(content):
        try:
            count = os.write(file, content[written:])
        except BlockingIOError:
            if not wait or not _ready(file):
                return written
            continue
        except OSError:
            if not written:
                raise
            return written
        written += count
        if not wait or not count:
            return written
    return written
