"""The command line, `nntrain`: one module for each command."""

import sys

import click

from nntrain.cli.checkpoint import checkpoint
from nntrain.cli.config import config
from nntrain.cli.evaluate import evaluate
from nntrain.cli.fit import fit
from nntrain.cli.log import log
from nntrain.cli.output import printing
from nntrain.cli.plugins import plugins
from nntrain.cli.predict import predict
from nntrain.cli.report import report
from nntrain.cli.schema import schema


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nntrain")
def nntrain() -> None:
    """Train neural networks as values."""


for _command in (checkpoint, config, evaluate, fit, log, plugins, predict, report, schema):
    nntrain.add_command(_command)


def main() -> None:
    """Run the command line; bad input ends with exit code 2, Ctrl-C with 130, and `printing` has its own codes."""
    from nntrain.errors import NNTrainError

    with printing():
        try:
            nntrain.main(standalone_mode=False)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except NNTrainError as error:
            if _is_told(error):
                click.echo(f"Error: {error}", err=True)
            sys.exit(2)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            sys.exit(130)


def _is_told(error: Exception) -> bool:
    """Return whether this process tells of an error: what ended all ranks is told by one."""
    from nntrain.errors import RankError

    if not isinstance(error, RankError):
        return True
    from nntrain.ranks.console import tells

    return tells(error)
