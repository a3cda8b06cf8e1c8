"""`nntrain schema`: the JSON Schema of the event log."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import click

from nntrain.cli.commands import Command, option


@click.command(
    cls=Command,
    short_help="Print the JSON Schema of a line of the log.",
    examples=(
        "nntrain schema",
        "nntrain schema > event.schema.json",
        "nntrain schema --with acme.events > event.schema.json",
    ),
)
@option(
    "--with",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Import a module, such as acme.events, and describe its events in full. May be repeated.",
)
def schema(modules: tuple[str, ...]) -> None:
    """Print the JSON Schema of a line of the event log."""
    from nntrain.log.schema import event_schema

    sys.path.insert(0, "")
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise click.BadParameter(f"{module!r} cannot be imported ({error}).", param_hint="--with") from error
    click.echo(json.dumps(event_schema(registered=bool(modules)), indent=2, ensure_ascii=False))
