"""`nntrain log`: look at event logs."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nntrain.cli.commands import Group, option
from nntrain.cli.exits import Exit
from nntrain.cli.export import export
from nntrain.cli.output import say
from nntrain.cli.reading import EXIT_CODES, read_or_exit, report_error, warn_torn

if TYPE_CHECKING:
    from nntrain.log.line import Line

MAX_SHOWN: Final = 20
"""How many problems of a file are shown; the rest are counted."""
_NAMES_SHOWN: Final = 20
"""How many names of other packages' events are shown; the rest are counted."""

_files = click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True), metavar="FILE...")


@click.group(
    cls=Group,
    examples=(
        "nntrain log follow run/log.jsonl",
        "nntrain log show run/log.jsonl",
        "nntrain log export run/log.jsonl --to csv -o tables",
    ),
)
def log() -> None:
    """Check, show, follow, replay and export event logs.

    Each kind of bad log has an exit code of its own: `nntrain --help` lists them.
    """


log.add_command(export)


@log.command(
    examples=(
        "nntrain log check run/log.jsonl",
        "nntrain log check log.jsonl.1 log.jsonl",
        "ssh host cat log.jsonl | nntrain log check -",
    )
)
@_files
def check(files: tuple[str, ...]) -> None:
    """Check every line of every FILE, and that none is missing.

    FILEs are read as one sequence: give those of a rotated log in order, the oldest first. - is the standard input.
    In a folder, each *.jsonl is checked. Each problem is printed to stderr, with its line and byte offset.
    """
    from nntrain.log.rank_files import log_files

    first: int | None = None
    following: dict[tuple[str, int], int] = {}
    for file in files:
        within = [*map(str, log_files(file))] if file != "-" and Path(file).is_dir() else []
        for one in within or (file,):
            code = _check_file(one, following)
            first = first if first is not None else code
    sys.exit(first or Exit.DONE)


def _sequence_problem(line: Line, following: dict[tuple[str, int], int]) -> str | None:
    """Return what is wrong with a line's `seq`; None where it is the one in `following`, which is kept up."""
    run = line.run_id, line.rank
    expected = following.get(run, line.seq)
    following[run] = line.seq + 1
    if line.seq == expected:
        return None
    who = f"run {line.run_id}" + (f", rank {line.rank}" if line.rank else "")
    if line.seq > expected:
        missing = line.seq - expected
        said = " (the log says so)" if line.lost_lines == missing else ""
        return f"{missing} line{'s are' if missing > 1 else ' is'} missing before seq {line.seq} of {who}{said}"
    return f"seq {line.seq} of {who} comes after {expected - 1}"


def _check_file(file: str, following: dict[tuple[str, int], int]) -> int | None:
    """Check a file; return the exit code of its first problem, None where it has none."""
    from nntrain.log.line import Line
    from nntrain.log.reading import BadLine, LogReadError, scan

    code: int | None = None
    problems = 0
    events: Counter[str] = Counter()
    runs: dict[str, None] = {}

    def tell(what: str, its_code: int) -> None:
        nonlocal code, problems
        code = code if code is not None else its_code
        problems += 1
        if problems <= MAX_SHOWN:
            say(what, err=True, longest=len(file) + 1000)

    number = 0
    try:
        for number, one in enumerate(scan(file), 1):
            if isinstance(one, Line):
                events[one.event.event] += 1
                runs[one.run_id] = None
                gap = _sequence_problem(one, following)
                if gap is not None:
                    tell(f"{file}, line {number}: {gap}", Exit.GAP)
            elif isinstance(one, BadLine):
                tell(f"{file}, line {one.line} (byte offset {one.offset}): {one.reason}", EXIT_CODES[one.problem])
            else:
                warn_torn(file, one)
    except LogReadError as error:
        its_code = report_error(error)
        return code if code is not None else its_code
    if not number:
        tell(f"{file}: it is empty", EXIT_CODES["empty"])
    if problems > MAX_SHOWN:
        say(f"{file}: {problems - MAX_SHOWN} more problems", err=True, longest=len(file) + 1000)
    whole = sum(events.values())
    found = "ok" if not problems else f"{problems} problem{'s' * (problems > 1)}"
    counts = f"{whole} events of {len(runs)} run{'s' * (len(runs) != 1)}"
    say(f"{file}: {found}, {counts}{_count_by_name(events)}", longest=len(file) + 10_000)
    return code


def _count_by_name(events: Counter[str]) -> str:
    """Return in words how many events there are of each name: nntrain's own first, then those of others."""
    from nntrain.log.text import one_line

    names = sorted(events, key=lambda name: ("." in name, name))
    others = [name for name in names if "." in name]
    said = [f"{events[name]} {one_line(name, 60)}" for name in names[: len(names) - len(others) + _NAMES_SHOWN]]
    if len(others) > _NAMES_SHOWN:
        said.append(f"{len(others) - _NAMES_SHOWN} more names")
    return "".join(f", {one}" for one in said)


@log.command(
    examples=(
        "nntrain log show run/log.jsonl",
        "nntrain log show log.jsonl.1 log.jsonl",
        "nntrain log show run/log.jsonl | less",
    )
)
@_files
def show(files: tuple[str, ...]) -> None:
    """Show FILEs readably in a terminal."""
    from nntrain.log import terminal

    terminal.show(read_or_exit(files))


@log.command(
    short_help="Show a log while it is written.",
    examples=(
        "nntrain follow run/log.jsonl",
        "nntrain follow run/log.jsonl --forever",
        "ssh host tail -n +1 -F log.jsonl | nntrain follow -",
    ),
)
@click.argument("file", type=click.Path(allow_dash=True))
@option("--forever", is_flag=True, help="Go on after every run in FILE has ended.")
def follow(file: str, *, forever: bool) -> None:
    """Show FILE while it is written: a progress bar, with the rate and the time left, and the losses.

    If FILE does not exist yet, the command waits for it. If no line comes for a long time, it says so, and what that
    may mean. - is the standard input, which is read to its end.
    """
    from nntrain.log import terminal
    from nntrain.log.following import watch
    from nntrain.log.reading import LogReadError
    from nntrain.values.calls import probably_meant

    if file != "-" and not (path := Path(file)).exists():
        meant = probably_meant(path.name, [one.name for one in path.parent.glob("*.jsonl")])
        click.echo(f"{file} is not there yet.{meant} Ctrl-C ends the wait.", err=True)
    try:
        terminal.follow(watch(file, until_finished=not forever, on_torn=partial(warn_torn, file)))
    except LogReadError as error:
        sys.exit(report_error(error))


@log.command(
    examples=(
        "nntrain log replay run/log.jsonl",
        "nntrain log replay log.jsonl.1 log.jsonl",
        "nntrain log replay run/log.jsonl | jq .outcome",
    )
)
@_files
def replay(files: tuple[str, ...]) -> None:
    """Print the runs in FILEs, one JSON object a line: outcome, goal, and the history of the state.

    FILEs are read as one sequence: give those of a rotated log in order, the oldest first.
    """
    from nntrain.log.rendering import json_object
    from nntrain.log.replay import replay as replayed

    for run in replayed(read_or_exit(files)):
        fields: dict[str, object] = {
            "run_id": run.run_id,
            "outcome": run.outcome,
            "epochs": run.epochs,
            "until": run.until,
            "elapsed_s": run.elapsed_s,
            "missing_lines": run.missing,
            "history": run.history,
        }
        click.echo(json_object(fields), nl=False)
