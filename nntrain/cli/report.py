"""`nntrain report`: runs side by side on one HTML page."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nntrain.cli.commands import Command, option
from nntrain.cli.exits import Exit
from nntrain.cli.output import UnwritableError, say

if TYPE_CHECKING:
    from nntrain.log.line import Line

_LOG: Final = "*.jsonl"
"""What the logs in a folder are called."""


@click.command(
    cls=Command,
    short_help="Make one HTML page of runs, side by side.",
    examples=(
        "nntrain report run/log.jsonl",
        'nntrain report slow.jsonl fast.jsonl --title "Two learning rates"',
        "nntrain report *.jsonl -o - > page.html",
    ),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True), metavar="FILE|FOLDER...")
@option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="A name for the runs of a FILE; once for each FILE, in order. By default the name of the FILE.",
)
@option(
    "-o",
    "--out",
    type=click.Path(allow_dash=True),
    default="report.html",
    show_default=True,
    metavar="PAGE",
    help="Where to write; - is the standard output. An earlier page is replaced when the new one is complete.",
)
@option("--title", default="nntrain report", show_default=True, help="The page's title.")
def report(files: tuple[str, ...], names: tuple[str, ...], out: str, title: str) -> None:
    """Show the runs of all FILEs side by side, on one HTML page that needs no network.

    A FOLDER stands for all logs in it and below it: each *.jsonl file that is a log. The page has the curves of the
    runs, with verdicts, checkpoints and failures marked on them, the differences of their settings, and their timings.
    If a FILE cannot be read, nothing is written. A last line that a crash left incomplete is skipped.
    """
    from nntrain.log.replay import replay
    from nntrain.log.report.document import page
    from nntrain.log.report.names import file_names

    paths = _logs(files)
    _check(paths, out)
    if names and len(names) != len(paths):
        raise click.BadParameter(
            f"there are {len(names)} names and {len(paths)} logs; give a name for each log.", param_hint="--name"
        )
    lines, called = _read(paths, names or file_names(paths))
    runs = replay(lines)
    content = page(runs, title=title, names=[called[run.run_id] for run in runs]).encode()
    if out == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        _put(Path(out), content)
    except OSError as error:
        raise UnwritableError(out, error) from error
    click.echo(f"report: {out} ({len(runs)} run{'s' * (len(runs) != 1)}, {len(content) / 1e6:.1f} MB)")


def _logs(files: Sequence[str]) -> list[str]:
    """Return the paths of the logs: a file as it is, of a folder all that are in it or below it and are logs.

    A file that comes again, by another path too, is left out. A folder without any ends the command.
    """
    found: dict[str, str] = {}
    for file in files:
        if not Path(file).is_dir():
            found.setdefault(os.path.realpath(file) if file != "-" else file, file)
            continue
        inside = [str(path) for path in sorted(Path(file).rglob(_LOG)) if path.is_file() and _is_log(path)]
        if not inside:
            say(f"Error: there is no log ({_LOG}) in the folder {file} or below it.", err=True)
            sys.exit(Exit.NOTHING)
        for path in inside:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _is_log(path: Path) -> bool:
    """Return whether a file begins as a log does; data of other programs may have the same suffix.

    One that cannot be read counts as a log, so that it is reported when it is read.
    """
    from nntrain.log.line import LINE_START

    try:
        with path.open("rb") as file:
            return file.read(len(LINE_START)) == LINE_START.encode()
    except OSError:
        return True


def _read(paths: Sequence[str], names: Sequence[str]) -> tuple[list[Line], dict[str, str]]:
    """Return the lines of all logs, and the name of each run: that of the log in which it comes first."""
    from nntrain.cli.reading import read_or_exit

    lines: list[Line] = []
    called: dict[str, str] = {}
    for path, name in zip(paths, names, strict=True):
        found = read_or_exit([path])
        for line in found:
            called.setdefault(line.run_id, name)
        lines += found
    return lines, called


def _check(files: Sequence[str], out: str) -> None:
    """Refuse a page that would replace a log, or cannot be written, before anything is read."""
    if out == "-":
        return
    path = Path(out)
    if path.is_dir():
        raise click.BadParameter(f"{out} is a folder; give the path of a file, like report.html.", param_hint="-o")
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}; make it first.", param_hint="-o")
    for file in files:
        with suppress(OSError):  # a missing log is reported when it is read
            if file != "-" and path.samefile(file):
                raise click.BadParameter(f"{out} is one of the logs; give another path.", param_hint="-o")


def _put(path: Path, content: bytes) -> None:
    """Write a file so that it is always the old one or the whole new one."""
    path = path.resolve()  # follows a link
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # a pipe or device must not be replaced
        return
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
