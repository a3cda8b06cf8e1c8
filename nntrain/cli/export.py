"""`nntrain log export`: write logs in other tools' formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from nntrain.cli.commands import Command, option
from nntrain.cli.output import UnwritableError

FORMATS: Final = ("tensorboard", "csv", "parquet", "mlflow", "wandb")


@click.command(
    cls=Command,
    short_help="Write logs for TensorBoard, MLflow, W&B, as CSV or Parquet.",
    examples=(
        "nntrain log export run/log.jsonl --to csv -o tables",
        "nntrain log export *.jsonl --to tensorboard -o runs",
        "nntrain log export run/log.jsonl --to mlflow -o runs",
    ),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True), metavar="FILE...")
@option("--to", type=click.Choice(FORMATS), required=True, help="The format.")
@option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where to write; it is made if it does not exist.",
)
def export(files: tuple[str, ...], to: str, out: Path) -> None:
    """Export all runs of all FILEs to the format of another tool.

    FOLDER gets, for tensorboard, a folder of event files for each run; for csv and parquet, the files epochs and
    batches, which replace earlier ones; for mlflow, the database mlflow.db, to which the runs are added; for wandb,
    a folder wandb/offline-run-... for each run, which `wandb sync` uploads. Nothing goes over the network.

    If a FILE cannot be read, nothing is written. A last line that a crash left incomplete is skipped.
    """
    from nntrain.cli.reading import read_or_exit
    from nntrain.errors import LogError
    from nntrain.log.export import Csv, Exporter, MLflow, Parquet, TensorBoard, WeightsAndBiases
    from nntrain.log.export import export as write

    tools: tuple[Callable[[Path], Exporter], ...] = (TensorBoard, Csv, Parquet, MLflow, WeightsAndBiases)
    exporters: dict[str, Callable[[Path], Exporter]] = dict(zip(FORMATS, tools, strict=True))
    lines = read_or_exit(files)
    try:
        count = write(lines, exporters[to](out))
    except LogError:
        raise
    except OSError as error:
        raise UnwritableError(out, error) from error
    runs = len({line.run_id for line in lines})
    click.echo(f"{count} lines of {runs} run{'' if runs == 1 else 's'} exported to {out}")
