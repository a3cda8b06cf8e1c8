"""`nntrain report`: runs side by side on one HTML page."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import click

from nntrain.cli.commands import Command, option
from nntrain.cli.output import UnwritableError


@click.command(
    cls=Command,
    short_help="Make one HTML page of runs, side by side.",
    examples=(
        "nntrain report run/log.jsonl",
        'nntrain report slow.jsonl fast.jsonl --title "Two learning rates"',
        "nntrain report *.jsonl -o - > page.html",
    ),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True), metavar="FILE...")
@option(
    "-o",
    "--out",
    type=click.Path(allow_dash=True),
    default="report.html",
    show_default=True,
    metavar="PAGE",
    help="Where to; - for the standard output. What was there is replaced once the page is whole.",
)
@option("--title", default="nntrain report", show_default=True, help="The page's title.")
def report(files: tuple[str, ...], out: str, title: str) -> None:
    """Show the runs of all FILEs side by side, on one HTML page that needs no network.

    It has their curves, with verdicts, checkpoints and failures marked on them, what differs in their configs, and
    their timings. Nothing is written where a FILE cannot be read. A last line that a crash has torn is skipped.
    """
    from nntrain.cli.reading import read_or_exit
    from nntrain.log.replay import replay
    from nntrain.log.report.document import page
    from nntrain.log.report.scripts import plotly_js

    _check(files, out)
    plotly_js()  # a missing package is reported before long logs are read
    runs = replay(read_or_exit(list(dict.fromkeys(files))))
    content = page(runs, title=title).encode()
    if out == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        _put(Path(out), content)
    except OSError as error:
        raise UnwritableError(out, error) from error
    click.echo(f"report: {out} ({len(runs)} run{'s' * (len(runs) != 1)}, {len(content) / 1e6:.1f} MB)")


def _check(files: tuple[str, ...], out: str) -> None:
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
