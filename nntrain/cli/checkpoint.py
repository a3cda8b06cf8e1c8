"""`nntrain checkpoint`: show a checkpoint, verify it, compare two, find the newest, and convert one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from nntrain.cli.commands import Group, option
from nntrain.cli.exits import Exit
from nntrain.cli.output import say
from nntrain.errors import escape_untrusted

if TYPE_CHECKING:
    from nntrain.checkpoint import Inspection
    from nntrain.errors import CheckpointError, CheckpointProblem

EXIT_CODES: Final[Mapping[CheckpointProblem, Exit]] = {
    "unreadable": Exit.UNREADABLE,
    "damaged": Exit.DAMAGED,
    "foreign": Exit.FOREIGN,
    "version": Exit.VERSION,
    "unwritable": Exit.UNWRITABLE,
}
"""The exit code for each kind of bad checkpoint."""
_MAX_CHARS: Final = 4000

_file = click.argument("file", type=click.Path())


@click.group(
    cls=Group,
    examples=(
        "nntrain checkpoint latest run",
        'nntrain checkpoint show "$(nntrain checkpoint latest run)"',
        "nntrain checkpoint verify run/*.safetensors",
    ),
)
def checkpoint() -> None:
    """Show, check, compare and convert checkpoints. Reading one runs no code.

    Each kind of bad checkpoint has an exit code of its own: `nntrain --help` lists them.
    """


@checkpoint.command(
    examples=(
        "nntrain checkpoint show best.safetensors",
        "nntrain checkpoint show best.safetensors --json | jq .history",
        'nntrain checkpoint show "$(nntrain checkpoint latest run)"',
    )
)
@_file
@option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def show(file: str, *, as_json: bool) -> None:
    """Show what is in FILE: its place in the training, history, settings, slots and tensors.

    The record is checked. The tensors are not read; `verify` checks them.
    """
    from nntrain.checkpoint import inspect

    with exit_on_problem():
        seen = inspect(file)
    if as_json:
        click.echo(_json(seen), nl=False)
        return
    for line in _lines(seen):
        say(line, longest=_MAX_CHARS)


@checkpoint.command(
    examples=(
        "nntrain checkpoint verify best.safetensors",
        "nntrain checkpoint verify run/*.safetensors",
        "nntrain checkpoint verify run/*.safetensors && rsync -a run backup",
    )
)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
def verify(files: tuple[str, ...]) -> None:
    """Check every bit of every FILE.

    All files are checked; the exit code is that of the first problem.
    """
    from nntrain.checkpoint import CheckpointError
    from nntrain.checkpoint import verify as verified

    code = 0
    for file in files:
        try:
            seen = verified(file)
        except CheckpointError as error:
            its_code = _report(error)
            code = code or its_code
        else:
            say(f"{file}: ok, {_count(len(seen.tensors), 'tensor')}, {seen.bytes:,} bytes", longest=_MAX_CHARS)
    sys.exit(code)


@checkpoint.command(
    examples=(
        "nntrain checkpoint diff one.safetensors other.safetensors",
        'nntrain checkpoint diff best.safetensors "$(nntrain checkpoint latest run)"',
        "nntrain checkpoint diff one.safetensors other.safetensors > changes.txt",
    )
)
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
def diff(first: str, second: str) -> None:
    """Print how the states of FIRST and SECOND differ: each value, and each tensor by its bits.

    The exit code is 0 if everything is equal, and 1 if anything differs. Durations, and the time when a file was
    saved, are not compared.
    """
    from nntrain.checkpoint import diff as difference

    with exit_on_problem():
        found = difference(first, second)
    for one in (*found.values, *found.tensors):
        say(str(one), longest=_MAX_CHARS)
    say(f"{_count(found.same_tensors, 'tensor')} of equal bits")
    sys.exit(Exit.WRONG if found else Exit.DONE)


@checkpoint.command(
    examples=(
        "nntrain checkpoint latest run",
        'nntrain checkpoint verify "$(nntrain checkpoint latest run)"',
        'cp "$(nntrain checkpoint latest run)" best.safetensors',
    )
)
@click.argument("folder", metavar="DIR", type=click.Path())
def latest(folder: str) -> None:
    """Print the path of the newest undamaged checkpoint in DIR.

    All of it is read and checked. Newer files that are damaged or incomplete are listed on stderr, each with the
    reason.
    """
    from nntrain.checkpoint import latest as newest

    if not os.path.lexists(folder):
        say(f"Error: {folder} does not exist.", err=True, longest=_MAX_CHARS)
        sys.exit(Exit.UNREADABLE)
    with exit_on_problem():
        found = newest(folder)
    print_skipped(found.skipped)
    if found.path is None:
        say(f"Error: {folder} has no whole checkpoint.", err=True, longest=_MAX_CHARS)
        sys.exit(Exit.NOTHING)
    click.echo(os.fsencode(found.path))


@checkpoint.command(
    examples=(
        "nntrain checkpoint convert best.sharded best.safetensors",
        "nntrain checkpoint convert best.safetensors best.sharded",
        'nntrain checkpoint convert "$(nntrain checkpoint latest run)" best.safetensors',
    )
)
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
def convert(source: str, target: str) -> None:
    """Convert a sharded checkpoint to one file, or one file to a sharded checkpoint.

    A sharded checkpoint is a folder that several processes saved. All of SOURCE is read and checked. An earlier TARGET
    is replaced.
    """
    from nntrain.checkpoint import convert as converted

    with exit_on_problem():
        saved = converted(source, target)
    say(f"{saved.path}: {saved.bytes:,} bytes", longest=_MAX_CHARS)


def print_skipped(skipped: tuple[tuple[os.PathLike[str], str], ...]) -> None:
    """Print which files were skipped, and why, to stderr."""
    for path, reason in skipped:
        say(f"skipped {os.fspath(path)}: {reason}", err=True, longest=_MAX_CHARS)


@contextmanager
def exit_on_problem() -> Iterator[None]:
    """Print a `CheckpointError` on one line, and exit with its code."""
    from nntrain.errors import CheckpointError

    try:
        yield
    except CheckpointError as error:
        sys.exit(_report(error))


def _report(error: CheckpointError) -> int:
    say(f"Error: {error}", err=True, longest=_MAX_CHARS)
    return EXIT_CODES[error.problem]


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _lines(seen: Inspection) -> Iterator[str]:
    """Yield the lines that `show` prints of a checkpoint."""
    from nntrain.sinks.print_stats import stats_line

    size = sum(one.bytes for one in seen.tensors.values())
    yield f"{seen.path}: {seen.format}, {seen.bytes:,} bytes"
    versions = ", ".join(f"{name} {version}" for name, version in seen.versions.items())
    yield f"saved      {seen.saved_at:%Y-%m-%d %H:%M:%S} UTC, by {versions}"
    yield f"digest     {seen.digest}"
    yield f"place      {place_of(seen)}"
    folds = "".join(f", folded with {fold}" for fold in seen.key.folds)
    yield f"key        seed {seen.key.seed}{folds}"
    scale = "as it is" if seen.lr_scale == 1 else f"times {seen.lr_scale:g}"
    yield f"optimizer  {seen.optimizer}, its learning rate {scale}"
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
    """Return in words where in its training a checkpoint was saved."""
    now = seen.progress
    epochs, steps = ("", f" of {now.until:,}") if now.until is not None else (f" of {now.epochs:,}", "")
    if now.at == "finished":
        where = f"finished, after {_count(now.epoch, 'epoch')}{epochs}"
    else:
        phase = f"{now.phase} ({escape_untrusted(now.data)})" if now.data else now.phase
        where = f"epoch {now.epoch:,}{epochs}, {phase}, batch {now.batch:,} ({now.at})"
    return f"{where}; step {now.step:,}{steps}"


def _json(seen: Inspection) -> bytes:
    """Return a checkpoint's description as one line of JSON; what is not finite is null, and in `nonfinite`."""
    from nntrain.log.rendering import json_object

    return json_object({**seen.model_dump(exclude={"saved_at"}), "saved_at": seen.saved_at.isoformat()})
