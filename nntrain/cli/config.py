"""`nntrain config`: the configuration of `nntrain fit`."""

from __future__ import annotations

import json

import click


@click.group()
def config() -> None:
    """Describe the configuration of `nntrain fit`."""


@config.command()
def schema() -> None:
    """Print the JSON Schema of `nntrain fit --config FILE`, for editors to complete it."""
    from nntrain.cli.settings import schema_of_all

    click.echo(json.dumps(schema_of_all(), indent=2, ensure_ascii=False))
