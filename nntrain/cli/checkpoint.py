"""`nntrain checkpoint`: what is in a checkpoint, whether it is whole, how two differ, and which is the newest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import click

from nntrain.cli.output import printing, say

if TYPE_CHECKING:
    from nntrain.checkpoint import Inspection
    from nntrain.errors import CheckpointError, CheckpointProblem

DIFFERENT: Final = 1
"""What `diff` ends with where the states differ."""
NONE: Final = 4
"""What `latest` ends with where there is no whole checkpoint."""
EXIT_CODES: Final[Mapping[CheckpointProblem, int]] = MappingProxyType(
    {
        "unreadable": 3,
        "damaged": 5,
        "foreign": 6,
        "version": 7,
    }
)
"""What each kind of bad checkpoint ends a command with. 2 is for bad usage."""
_LONGEST: Final = 4000

_file = click.argument("file", type=click.Path())


@click.group()
def checkpoint() -> None:
    """Look into checkpoints. No code in them is run.

    A bad one ends a command with an exit code of its own: 3 cannot be read, 5 damaged, 6 no checkpoint of nntrain's, 7
    of a newer version. 1 is for two that differ, 2 for bad usage, 4 for a folder without a whole one, 10 for output
    that cannot be written.
    """


@checkpoint.command()
@_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@printing()
def show(file: str, *, as_json: bool) -> None:
    """Tell what FILE has: its place in the training, history, settings, slots and tensors.

    Its record is checked, its tensors are not read: that is for verify.
    """
    from nntrain.checkpoint import inspect

    with _problems():
        seen = inspect(file)
    if as_json:
        click.echo(_json(seen), nl=False)
        return
    for line in _lines(seen):
        say(line, longest=_LONGEST)


@checkpoint.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@printing()
def verify(files: tuple[str, ...]) -> None:
    """Check every bit of every FILE.

    Goes on to the last; the exit code is that of the first problem.
    """
    from nntrain.checkpoint import CheckpointError
    from nntrain.checkpoint import verify as verified

    code = 0
    for file in files:
        try:
            seen = verified(file)
        except CheckpointError as error:
            its_code = _told(error)
            code = code or its_code
        else:
            say(f"{file}: ok, {_count(len(seen.tensors), 'tensor')}, {seen.bytes:,} bytes", longest=_LONGEST)
    sys.exit(code)


@checkpoint.command()
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@printing()
def diff(first: str, second: str) -> None:
    """Tell how the states of FIRST and SECOND differ: each value, and each tensor by its bits.

    Ends with 0 only where all is equal, and with 1 where anything differs. When they were saved is no difference, nor
    is what only the clock said.
    """
    from nntrain.checkpoint import diff as difference

    with _problems():
        found = difference(first, second)
    for one in (*found.values, *found.tensors):
        say(str(one), longest=_LONGEST)
    say(f"{_count(found.same_tensors, 'tensor')} of equal bits")
    sys.exit(DIFFERENT if found else 0)


@checkpoint.command()
@click.argument("folder", metavar="DIR", type=click.Path())
@printing()
def latest(folder: str) -> None:
    """Print the path of the newest checkpoint in DIR that is whole: all of it is read and checked.

    Newer ones that are not are told on stderr, each with what is wrong.
    """
    from nntrain.checkpoint import latest as newest

    with _problems():
        found = newest(folder)
    tell_skipped(found.skipped)
    if found.path is None:
        say(f"Error: {folder} has no whole checkpoint.", err=True, longest=_LONGEST)
        sys.exit(NONE)
    click.echo(os.fsencode(found.path))


def tell_skipped(skipped: tuple[tuple[os.PathLike[str], str], ...]) -> None:
    """Say which files were passed over, and why."""
    for path, reason in skipped:
        say(f"skipped {os.fspath(path)}: {reason}", err=True, longest=_LONGEST)


@contextmanager
def _problems() -> Iterator[None]:
    """End a command with one line and the exit code of what is wrong with a checkpoint."""
    from nntrain.errors import CheckpointError

    try:
        yield
    except CheckpointError as error:
        sys.exit(_told(error))


def _told(error: CheckpointError) -> int:
    say(f"Error: {error}", err=True, longest=_LONGEST)
    return EXIT_CODES[error.problem]


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _lines(seen: Inspection) -> Iterator[str]:
    """Give what a checkpoint says of itself, for a person."""
    from nntrain.sinks.print_stats import stats_line

    size = sum(one.bytes for one in seen.tensors.values())
    yield f"{seen.path}: {seen.format}, {seen.bytes:,} bytes"
    versions = ", ".join(f"{name} {version}" for name, version in seen.versions.items())
    yield f"saved      {seen.saved_at:%Y-%m-%d %H:%M:%S} UTC, by {versions}"
    yield f"digest     {seen.digest}"
    yield f"place      {place_of(seen)}"
    folds = "".join(f", folded with {fold}" for fold in seen.key.folds)
    yield f"key        seed {seen.key.seed}{folds}"
    yield f"optimizer  {seen.optimizer}, {_scale(seen)}"
    for name, value in (seen.run or {}).items():
        yield f"run        {name}: {value}"
    for stats in seen.history:
        yield f"history    {stats_line(stats)}"
    for name, kept in seen.slots.items():
        yield f"slot       {name}: {kept}"
    yield f"tensors    {len(seen.tensors):,}, {size:,} bytes"
    width = min(60, max(map(len, seen.tensors), default=0))
    for name, one in seen.tensors.items():
        yield f"  {name:<{width}}  {one.dtype:<9} {list(one.shape)!s:<16} {one.digest[:12]}"


def place_of(seen: Inspection) -> str:
    """Say where in its training a checkpoint was saved."""
    now = seen.progress
    if now.at == "finished":
        where = f"finished, after {_count(now.epoch, 'epoch')} of {now.epochs:,}"
    else:
        where = f"epoch {now.epoch:,} of {now.epochs:,}, {now.phase}, batch {now.batch:,} ({now.at})"
    return f"{where}; step {now.step:,}"


def _scale(seen: Inspection) -> str:
    return "its learning rate as it is" if seen.lr_scale == 1 else f"its learning rate times {seen.lr_scale:g}"


def _json(seen: Inspection) -> bytes:
    """Give the same as one line of JSON: what is not finite is null, and `nonfinite` says what it is."""
    from nntrain.log.line import plain
    from nntrain.log.rendering import json_line

    nonfinite: dict[str, str] = {}
    fields = {name: plain(value, name, nonfinite) for name, value in seen.model_dump().items() if name != "saved_at"}
    fields["saved_at"] = seen.saved_at.isoformat()
    return json_line(fields | ({"nonfinite": nonfinite} if nonfinite else {}))
