"""Where lines are written: a file, a stream, an application's own logger, or any other `Target`."""

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
from typing import IO, ClassVar, Final

from structlog.typing import BindableLogger

from nntrain.errors import ConfigError, LogError, LogWarning
from nntrain.log.line import LINE_START, Line, LineError, parse_line
from nntrain.log.rank_files import rank_file
from nntrain.log.rendering import rendered
from nntrain.log.syncing import Syncing

_WAIT_S: Final = 1.0
"""Seconds to wait for a stream that accepts nothing at the moment."""
_CHECKS: Final = 5
_CHECK_S: Final = 0.01
"""How often, and after how many seconds, to check again a file that another process may be about to change."""


class Target(ABC):
    """Receives lines. If it raises, the line is lost and counted, and the training goes on."""

    of_first_rank: ClassVar[bool] = False
    """Whether it takes the lines of rank 0 only, where several processes log the same training."""

    @abstractmethod
    def write(self, line: Line, /) -> None:
        """Write a line."""

    def flush(self) -> None:  # noqa: B027 - many have nothing to do
        """Make the lines so far visible to others. Called after each group of lines."""

    def sync(self) -> None:  # noqa: B027 - as above
        """Start to bring the lines so far to the disk, without waiting. The log's `sync` says when this is called."""

    def settle(self) -> None:  # noqa: B027 - as above
        """Wait until what `sync` started is done. Called if the log's `sync` is `"line"`."""

    def close(self) -> None:  # noqa: B027 - as above
        """Release what the target holds. No line follows."""


class FileTarget(Target):
    """A file to which lines are appended, each by one write with `O_APPEND`.

    Other tools may rotate the file: if it was renamed, deleted or replaced, the next lines go to a new file at the
    path, or on to the renamed file if none can be opened there. A torn line at the end of the file, which a crash left,
    is cut off when the file is opened. A file that was created here and is still empty is removed when it is closed.

    Raises `LogError` at once if `path` cannot be opened for writing, or ends in something that is not a log.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self._process = os.getpid()
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None
        self._after_torn = False
        self._checked = False
        self._renamed = False
        self._syncing = Syncing()
        try:
            self._name = os.path.abspath(path)  # noqa: PTH100 - used often, and a Path takes three times as long
            self._created = not self.path.exists()
            self._open()
            self._repair_last_line()
        except (OSError, ValueError) as error:
            self._release()
            if isinstance(error, LogError):
                raise
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise LogError.unwritable(self.path, reason) from error

    def _open(self) -> None:
        there = Path(self._name)
        flags = os.O_WRONLY if there.exists() and not there.is_file() else os.O_RDWR  # a device may be for writing only
        self._file = os.open(self._name, flags | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        found = os.fstat(self._file)
        self._identity = (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None

    def _repair_last_line(self) -> None:
        """Add the newline that the file's last line lacks, or cut the line off if it is torn."""
        if self._file is None or self._identity is None:
            return
        end, tail = _unfinished_line(self._file)
        for _ in range(_CHECKS):
            if not tail:
                return
            time.sleep(_CHECK_S)
            with suppress(OSError):
                os.utime(self._file)  # waits until a write in progress is done
            before = end, tail
            end, tail = _unfinished_line(self._file)
            if (end, tail) == before:
                break
        else:
            return  # another process is writing, and will add the newline
        try:
            parse_line(tail.decode("utf-8"))
        except (LineError, UnicodeDecodeError):
            start = LINE_START.encode()
            if not (tail.startswith(start) or start.startswith(tail) or not tail.strip(b"\0")):
                raise LogError(
                    f"The log {self.path} cannot be written: it ends in {tail[-40:]!r}, which is no line of a log. "
                    f"Give the path of a log, or of a file that does not exist yet."
                ) from None
            os.ftruncate(self._file, end - len(tail))
            warnings.warn(f"the log {self.path} ended in a torn line; its {len(tail)} bytes are cut off", LogWarning, 2)
        else:
            os.write(self._file, b"\n")

    def write(self, line: Line, /) -> None:
        """Append a line. Raises `OSError` if not all of it was written."""
        if self._file is None:
            raise OSError("the log is closed")
        if not self._checked:
            self._check_path()
        content = b"\n" + rendered(line) if self._after_torn else rendered(line)
        written = os.write(self._file, content) if self._identity else _write(self._file, content)
        if written == len(content):
            self._created = self._after_torn = False
            return
        if written and not self._undo(written):
            self._after_torn = not content[:written].endswith(b"\n")
        raise OSError(f"only {written} of {len(content)} bytes fitted")

    def _check_path(self) -> None:
        """Switch to the file at the path, if it is another one. Called once for each group of lines."""
        before, identity = self._file, self._identity
        if before is None or identity is None or self._at_path() == identity:
            self._checked = True
            return
        left = os.fstat(before)
        for _ in range(_CHECKS if left.st_nlink and not self._renamed else 0):
            if self._at_path() is not None:
                break
            time.sleep(_CHECK_S)  # whoever renamed it may be about to create a new one
        try:
            self._open()
            self._repair_last_line()
        except OSError:
            if self._file != before:
                self._release()
            self._file, self._identity = before, identity
            if left.st_nlink == 0:
                raise
            self._checked = self._renamed = True  # only renamed: go on in the same file
            return
        os.close(before)
        self._checked = True
        self._renamed = self._after_torn = False
        if left.st_nlink == 0 and left.st_size:
            warnings.warn(
                f"the log {self.path} was deleted, and the lines in it with it; the log goes on in a new file",
                LogWarning,
                stacklevel=2,
            )

    def _at_path(self) -> tuple[int, int] | None:
        """Return the identity of the file at the path."""
        try:
            found = os.stat(self._name)  # noqa: PTH116 - as above
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _undo(self, written: int) -> bool:
        """Return whether the written part of a line could be cut off: not if another process has written after it."""
        if self._file is None or self._identity is None:
            return False
        with suppress(OSError):
            end = os.lseek(self._file, 0, os.SEEK_CUR)
            if os.fstat(self._file).st_size == end:
                os.ftruncate(self._file, end - written)
                return True
        return False

    def flush(self) -> None:
        """Check again, before the next line, which file is at the path."""
        self._checked = False

    def sync(self) -> None:
        """Start to sync the file to the disk, in a thread."""
        if self._file is not None and self._identity is not None:
            self._syncing.start(self._file)

    def settle(self) -> None:
        """Wait until the syncs are done."""
        self._syncing.wait()

    def close(self) -> None:
        """Wait for the syncs, and close the file. Lines after this are lost."""
        if self._file is None:
            return
        try:
            self._syncing.close()
        finally:
            found, identity = os.fstat(self._file), self._at_path()
            self._release()
            if self._created and self._process == os.getpid() and not found.st_size and identity == self._identity:
                with suppress(OSError):
                    Path(self._name).unlink()

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __reduce__(self) -> tuple[type[FileTarget], tuple[Path]]:
        return FileTarget, (Path(self._name),)


class StreamTarget(Target):
    """An open stream, such as `sys.stdout`. Lines come after what was printed before them. The stream is not closed."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self._after_torn = False

    def write(self, line: Line, /) -> None:
        """Write a line. Raises `OSError` if not all of it was written."""
        content = b"\n" + rendered(line) if self._after_torn else rendered(line)
        self.stream.flush()
        file = _descriptor(self.stream)
        if file is None:
            self.stream.write(content.decode())
            self.stream.flush()
            return
        written = _write(file, content)
        if written:
            self._after_torn = not content[:written].endswith(b"\n")
        if written < len(content):
            raise OSError(f"only {written} of {len(content)} bytes went through")

    def __reduce__(self) -> tuple[Callable[[str], StreamTarget], tuple[str]]:
        for name in ("stdout", "stderr"):
            if self.stream in {getattr(sys, name), getattr(sys, f"__{name}__")}:
                return _standard_stream, (name,)
        raise TypeError(f"a log to {self.stream!r:.80} cannot be pickled; one to a path, or to sys.stdout, can be.")


def _standard_stream(name: str) -> StreamTarget:
    return StreamTarget(getattr(sys, name))


class LoggerTarget(Target):
    """An application's own structlog logger: it logs the events like the application's own, in the same format.

    Each line becomes a call of the method named by its level, with the event's name, and the fields as keywords.
    """

    def __init__(self, logger: BindableLogger) -> None:
        self.logger = logger

    def write(self, line: Line, /) -> None:
        """Log a line."""
        fields = line.fields()
        name, level = fields.pop("event"), str(fields.pop("level"))
        log: Callable[..., object] = getattr(self.logger, level)
        log(name, **fields)


def target_of(given: object, rank: int = 0) -> Target:
    """Return the target for a path, a stream or a logger; of a path the file of that rank.

    Raises `ConfigError` for anything else.
    """
    if isinstance(given, Target):
        return given
    if isinstance(given, (str, os.PathLike)):
        return FileTarget(rank_file(given, rank))
    if callable(getattr(given, "bind", None)) and callable(getattr(given, "info", None)):
        return LoggerTarget(given)  # type: ignore[arg-type] # a structlog proxy, known by its methods
    if callable(getattr(given, "write", None)) and callable(getattr(given, "flush", None)):
        return StreamTarget(given)  # type: ignore[arg-type] # a stream, known by its methods
    raise ConfigError(
        f"A log cannot go to {given!r:.80} ({type(given).__name__}); expected a path, an open text stream like "
        f"sys.stdout, a structlog logger (for one of logging: structlog.stdlib.get_logger(name)), or a Target."
    )


def _unfinished_line(file: int) -> tuple[int, bytes]:
    """Return where a file ends, and the bytes after its last newline."""
    end = begin = os.fstat(file).st_size
    tail = b""
    while begin > 0 and b"\n" not in tail:
        begin, last = max(0, begin - 65536), begin
        tail = os.pread(file, last - begin, begin) + tail
    return end, tail[tail.rfind(b"\n") + 1 :]


def _descriptor(stream: IO[str]) -> int | None:
    """Return the descriptor of a stream's file; None if the stream has no file, or changes what is written to it."""
    buffer = getattr(stream, "buffer", stream)
    if not isinstance(getattr(buffer, "raw", buffer), io.FileIO):  # in memory, a notebook's, or gzip's
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _wait_writable(file: int) -> bool:
    """Wait until something can be written. Returns whether it can."""
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_WRITE)
        return bool(selector.select(_WAIT_S))


def _write(file: int, content: bytes) -> int:
    """Write, and return how many bytes were written. Waits for a stream that is full at the moment."""
    written = 0
    while written < len(content):
        try:
            count = os.write(file, content[written:])
        except BlockingIOError:
            if not _wait_writable(file):
                break
            continue
        except OSError:
            if not written:
                raise
            break
        written += count
        if not count:
            break
    return written
