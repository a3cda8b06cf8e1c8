"""The command line, `nntrain`: one module for each command."""

import sys
import time
from typing import Final

import click

from nntrain.cli.checkpoint import checkpoint
from nntrain.cli.commands import Group, write_lines
from nntrain.cli.config import config
from nntrain.cli.evaluate import evaluate
from nntrain.cli.exits import Exit, in_two_columns
from nntrain.cli.fit import fit
from nntrain.cli.log import follow, log
from nntrain.cli.new import new
from nntrain.cli.output import launched_rank, printing
from nntrain.cli.plugins import plugins
from nntrain.cli.predict import predict
from nntrain.cli.report import report
from nntrain.cli.schema import schema

_SECONDS: Final = 5.0
"""How long other ranks leave it to rank 0 to say what is wrong with the usage: launchers end them when it has ended."""

GROUPS: Final = {
    "Train": (new, fit, follow),
    "Evaluate and inspect": (evaluate, predict, report, log, checkpoint),
    "Set up": (plugins, config, schema),
}
"""The commands, as the help has them."""


class _Front(Group):
    """The command line itself: its help has the commands in groups, and the exit codes of all of them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the commands in their groups."""
        for title, commands in GROUPS.items():
            with formatter.section(title):
                room = formatter.width - 14
                formatter.write_dl([(f"{one.name:<10}", one.get_short_help_str(room)) for one in commands])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the exit codes."""
        with formatter.section("Exit codes"):
            write_lines(formatter, in_two_columns())


@click.group(
    cls=_Front,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=(
        "nntrain fit                    # trains on the digits that come with nntrain",
        "nntrain new mine               # writes a small project with tests",
        "nntrain follow run/log.jsonl   # shows a training while it runs",
    ),
)
@click.version_option(package_name="nntrain")
def nntrain() -> None:
    """Train PyTorch models, and look at their logs and checkpoints. Each command has its own --help."""


for _commands in GROUPS.values():
    for _command in _commands:
        nntrain.add_command(_command)


def main() -> None:
    """Run the command line; bad input ends with exit code 2, Ctrl-C with 130, and `printing` has its own codes."""
    from nntrain.errors import NNTrainError

    with printing():
        try:
            nntrain.main(standalone_mode=False)
        except click.ClickException as error:
            if isinstance(error, click.UsageError):
                _leave_it_to_first()
            error.show()
            sys.exit(error.exit_code)
        except NNTrainError as error:
            if _is_told(error):
                click.echo(f"Error: {error}", err=True)
            sys.exit(Exit.USAGE)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            sys.exit(Exit.INTERRUPTED)


def _leave_it_to_first() -> None:
    """Return at once on rank 0; on others after a while, with the rank, since what is wrong is wrong there alone."""
    rank = launched_rank()
    if rank != "0":
        time.sleep(_SECONDS)
        click.echo(f"rank {rank}:", err=True)


def _is_told(error: Exception) -> bool:
    """Return whether this process tells of an error: what ended all ranks is told by one."""
    from nntrain.errors import RankError

    if not isinstance(error, RankError):
        return True
    from nntrain.ranks.console import tells

    return tells(error)
