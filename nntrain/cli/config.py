"""`nntrain config`: the configuration of `nntrain fit`."""

from __future__ import annotations

import json

import click

from nntrain.cli.commands import Group


@click.group(
    cls=Group,
    examples=(
        "nntrain config schema > fit.schema.json",
        "nntrain config schema | jq .properties.subscribers",
        "nntrain fit --config run.toml",
    ),
)
def config() -> None:
    """Describe the configuration of `nntrain fit`."""


@config.command(
    examples=(
        "nntrain config schema",
        "nntrain config schema > fit.schema.json",
        "nntrain config schema | jq .properties.subscribers",
    )
)
def schema() -> None:
    """Print the JSON Schema of `nntrain fit --config FILE`, for completion in editors."""
    from nntrain.cli.settings import schema_of_all

    click.echo(json.dumps(schema_of_all(), indent=2, ensure_ascii=False))
