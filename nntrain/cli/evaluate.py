"""`nntrain evaluate`: the statistics of a learner with the weights of a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nntrain.cli.checkpoint import exit_on_problem, print_skipped
from nntrain.cli.commands import Command, option
from nntrain.cli.exits import Exit
from nntrain.cli.output import say

if TYPE_CHECKING:
    from nntrain.machine.learner import Learner
    from nntrain.values.state import TrainState

NETWORK: Final = "the network of nntrain fit"
"""What is evaluated without TARGET."""
Decorator = Callable[[Callable[..., None]], Callable[..., None]]
"""Adds an option, or an argument, to what becomes a command."""

target_argument: Final[Decorator] = click.argument("target", required=False)
checkpoint_option: Final[Decorator] = option(
    "--checkpoint",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="Take the weights from FILE, or from the newest undamaged checkpoint in DIR.",
)
set_option: Final[Decorator] = option(
    "--set", multiple=True, metavar="NAME=VALUE", help="Set a parameter of TARGET's function."
)
device_option: Final[Decorator] = option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Use this device instead of the learner's."
)

data_option: Final[Decorator] = option(
    "--data",
    metavar="digits|fashion-mnist|DIR",
    help="Evaluate on these data, as in nntrain fit: the digits, or what TARGET's function has, if left out.",
)
data_dir_option: Final[Decorator] = option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    rare=True,
    help="The folder of Fashion-MNIST's four idx files, as for nntrain fit.",
)


@click.command(
    cls=Command,
    short_help="Evaluate a learner with the weights of a checkpoint.",
    examples=(
        "nntrain evaluate --checkpoint run",
        "nntrain evaluate train.py:make --checkpoint run --set width=64 --json",
        "nntrain evaluate photos.py:classifier --checkpoint run --data new-photos",
    ),
)
@target_argument
@checkpoint_option
@set_option
@data_option
@data_dir_option
@device_option
@option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def evaluate(
    target: str | None,
    checkpoint: Path,
    data: str | None,
    data_dir: Path | None,
    device: str | None,
    *,
    as_json: bool,
    **given: tuple[str, ...],
) -> None:
    """Evaluate the learner TARGET on each of its eval sets, with the weights of a checkpoint.

    TARGET, --set and --data are as for `nntrain fit`; without TARGET it is the network that fit trains then. The
    learner is made with the seed of the checkpoint. So data that your code splits at random are split in the same way.
    """
    from nntrain.data.loaders import eval_sets
    from nntrain.errors import ConfigError
    from nntrain.evaluation.evaluate import evaluate as evaluated
    from nntrain.log.rendering import json_object
    from nntrain.sinks.print_stats import stats_line

    with trained(target, checkpoint, given["set"], device, data, data_dir) as (learner, state):
        sets = eval_sets(learner.dls.valid)
        if not sets:
            raise ConfigError(f"{target or NETWORK} has no data to evaluate on: its dls.valid is None.")
        for name in sets:
            stats = evaluated(learner, state, name or None)
            if as_json:
                click.echo(json_object(stats.model_dump()), nl=False)
            else:
                say(stats_line(stats))


@contextmanager
def trained(  # noqa: PLR0917 - both commands have all of them
    target: str | None,
    checkpoint: Path,
    settings: tuple[str, ...],
    device: str | None,
    data: str | None,
    data_dir: Path | None,
) -> Iterator[tuple[Learner[Any, Any], TrainState]]:
    """Give a learner, and the state of a checkpoint for it, to a block. Ends the command where there is none."""
    from nntrain.checkpoint import inspect, latest, load
    from nntrain.cli.fit import check_data, classifier, data_of, device_of
    from nntrain.cli.settings import FitConfig, parse_settings
    from nntrain.cli.target import learner_of

    if target is None and settings:
        raise click.BadParameter(f"{NETWORK} has no parameters to set; give TARGET first.", param_hint="--set")
    if data is None and (target is None or data_dir is not None):
        data = "digits"
    if data is not None:
        check_data(data, data_dir)
    path = checkpoint
    with exit_on_problem():
        if checkpoint.is_dir():
            found = latest(checkpoint)
            print_skipped(found.skipped)
            if found.path is None:
                say(f"Error: {checkpoint} has no whole checkpoint.", err=True)
                sys.exit(Exit.NOTHING)
            path = found.path
        seen = inspect(path)
    seed = seen.key.seed
    if target is None:
        config = FitConfig.model_validate({"data": data, "data_dir": data_dir, "seed": seed})
        first = seen.tensors.get("params/0.weight")
        if first is not None and first.shape:
            config = config.model_copy(update={"hidden": first.shape[0]})
        made: AbstractContextManager[Learner[Any, Any]] = nullcontext(classifier(config, lambda _: None))
    else:
        meant = None if data is None else data_of(FitConfig(data=data, data_dir=data_dir), seed)
        made = learner_of(target, parse_settings(settings), seed, data=meant)
    with made as own:
        learner = own if device is None else own.replace(device=device_of(device))
        with exit_on_problem():
            state = load(path, learner)
        yield learner, state
