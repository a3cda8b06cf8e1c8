"""`nntrain fit`: train a learner of one's own, or an image classifier with one hidden layer."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

import click
from click.core import ParameterSource

from nntrain.cli.commands import Command, option
from nntrain.cli.exits import Exit
from nntrain.cli.output import launched_rank, printing_later, say
from nntrain.errors import LogError, escape_untrusted

if TYPE_CHECKING:
    import torch
    from datasets.dataset_dict import DatasetDict

    from nntrain.cli.places import Places
    from nntrain.cli.settings import FitConfig, Options
    from nntrain.cli.target import Data
    from nntrain.data import ImageLoaders
    from nntrain.live.engine import Engine
    from nntrain.machine.learner import Learner
    from nntrain.subscribers.protocol import Subscriber
    from nntrain.values.state import TrainState
    from nntrain.values.verdicts import Outcome


_OF_THE_CLASSIFIER: Final = ("batch_size", "lr", "hidden")
"""The options that say what to train, and are no use with a learner of one's own."""
_OF_ENGINE: Final = ("parallel", "oom", "deterministic")
"""Those that a learner's engine has by the same names."""
_OF_DATA: Final = ("data_dir", "sources")
"""Those that say more of what `--data` names."""
_DATA: Final = "Data"
_TRAINING: Final = "Training"
_KEPT: Final = "What is kept and shown"
_SETTINGS: Final = "Settings and extensions"


@click.command(
    cls=Command,
    short_help="Train a learner of yours, or a small image classifier.",
    examples=(
        "nntrain fit",
        "nntrain fit --data photos --patience 3     # with a folder for each class",
        "nntrain fit train.py:make --set lr=0.1 --checkpoint-dir run --resume",
    ),
)
@click.argument("target", required=False)
@option(
    "--data",
    default="digits",
    show_default=True,
    metavar="NAME|DIR",
    group=_DATA,
    elsewhere=("dataset", "train-data", "input"),
    help="digits, fashion-mnist, or image folder.",
)
@option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    group=_DATA,
    rare=True,
    help="The folder of Fashion-MNIST's four idx files. By default they come from the Hugging Face hub.",
)
@option(
    "--epochs",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    group=_TRAINING,
    elsewhere=("max-epochs", "num-epochs", "num-train-epochs", "n-epochs"),
    help="Passes over the data.",
)
@option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    group=_TRAINING,
    elsewhere=("max-steps", "num-steps", "iterations", "max-iters"),
    help="Train N optimizer steps instead of --epochs.",
)
@option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    group=_TRAINING,
    elsewhere=("batch", "bs", "train-batch-size"),
    help="Images per step; not with a TARGET.",
)
@option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    default=0.2,
    show_default=True,
    metavar="RATE",
    group=_TRAINING,
    elsewhere=("learning-rate", "rate"),
    help="Learning rate; not with a TARGET.",
)
@option(
    "--hidden",
    type=click.IntRange(min=1, max=1 << 20),
    default=50,
    show_default=True,
    metavar="N",
    group=_TRAINING,
    rare=True,
    elsewhere=("width", "hidden-size"),
    help="Width of the hidden layer; not with a TARGET.",
)
@option(
    "--patience",
    type=click.IntRange(min=1),
    metavar="N",
    group=_TRAINING,
    elsewhere=("early-stopping",),
    help="Stop after N epochs without a better eval loss.",
)
@option(
    "--seed",
    type=click.IntRange(min=0, max=2**63 - 1),
    default=0,
    show_default=True,
    metavar="N",
    group=_TRAINING,
    elsewhere=("random-seed", "random-state"),
    help="Seed of weights, data order and splits.",
)
@option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    group=_TRAINING,
    elsewhere=("gpu", "gpus", "cuda", "cpu", "accelerator"),
    help="auto: CUDA if there is one.",
)
@option(
    "--parallel",
    type=click.Choice(["data", "sharded"]),
    group=_TRAINING,
    elsewhere=("strategy", "ddp", "distributed"),
    help="Under torchrun: share batches, or weights too.",
)
@option(
    "--oom",
    type=click.Choice(["raise", "halve"]),
    default="raise",
    group=_TRAINING,
    rare=True,
    help="When memory runs out: raise, or split the batch.",
)
@option(
    "--deterministic",
    is_flag=True,
    group=_TRAINING,
    rare=True,
    help="Give the same bits in each run.",
)
@option(
    "--log",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    group=_KEPT,
    help="Write the event log here; - is stdout.",
)
@option(
    "--log-every",
    default="1s",
    show_default=True,
    metavar="1s|N|all|none",
    group=_KEPT,
    help="Log a batch per second, or every Nth.",
)
@option(
    "--checkpoint-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    group=_KEPT,
    elsewhere=("output", "output-dir", "out", "save", "save-dir", "checkpoint", "checkpoints"),
    help="Save at the end, into DIR; log to DIR/log.jsonl.",
)
@option(
    "--save-every",
    type=click.IntRange(min=1),
    metavar="N",
    group=_KEPT,
    elsewhere=("save-steps", "checkpoint-every"),
    help="Also save after every N steps.",
)
@option(
    "--resume",
    is_flag=True,
    group=_KEPT,
    elsewhere=("continue", "resume-from-checkpoint", "restart"),
    help="Go on from the newest checkpoint in DIR.",
)
@option(
    "--quiet",
    is_flag=True,
    group=_KEPT,
    elsewhere=("silent", "no-progress", "no-bar"),
    help="Print no statistics, and draw no bar.",
)
@option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    group=_SETTINGS,
    help="Read options from a TOML file; flags override it.",
)
@option(
    "--set",
    multiple=True,
    metavar="NAME=VALUE",
    group=_SETTINGS,
    elsewhere=("param", "override", "optimizer", "momentum", "weight-decay", "model"),
    help="Set a parameter of TARGET, or any option.",
)
@option(
    "--subscriber",
    multiple=True,
    metavar="NAME",
    group=_SETTINGS,
    rare=True,
    help="Add a subscriber of `nntrain plugins`; set its options by --set subscribers.NAME.OPTION=VALUE.",
)
@option("--sink", multiple=True, metavar="NAME", group=_SETTINGS, rare=True, help="Add a sink of `nntrain plugins`.")
@click.pass_context
def fit(context: click.Context, /, **_: object) -> None:
    """Train TARGET. Without a TARGET, train a small image classifier.

    TARGET is FILE.py:NAME or package.module:NAME: a learner, or a function that makes one.
    """
    tell = _teller(quiet=context.params["quiet"])
    tell(f"nntrain {version('nntrain')}: reads the settings, then imports torch, which takes seconds ...")
    _read_and_fit(context)


def _teller(*, quiet: bool) -> Callable[[str], None]:
    """Return what prints a line to stderr at once: what is done now, and takes long.

    It prints nothing with `quiet`, and on any rank but 0.
    """
    says = not quiet and launched_rank() == "0"

    def tell(text: str) -> None:
        if says:
            click.echo(escape_untrusted(text), err=True)

    return tell


def _read_and_fit(context: click.Context) -> None:
    """Train as configured. Raises `UsageError` for a configuration that is none."""
    from nntrain.cli.settings import read_places
    from nntrain.errors import ConfigError

    try:
        config, places = read_places(context.params["config"], _flags(context))
        with printing_later():
            _fit(context.params["target"], config, places)
    except ConfigError as error:
        raise click.UsageError(str(error), context) from error


def _flags(context: click.Context) -> dict[str, Any]:
    """Return the options that were given on the command line, without defaults."""
    from nntrain.cli.plugins import KINDS
    from nntrain.cli.settings import FitConfig, parse_settings, read_settings

    given = context.params
    settings = parse_settings(given["set"])
    parameters = (
        {} if given["target"] is None else {name: settings.pop(name) for name in [*settings] if name not in KINDS}
    )
    flags: dict[str, Any] = read_settings(settings)
    if parameters:
        flags["parameters"] = parameters
    for kind in ("subscriber", "sink"):
        for name in given[kind]:
            flags.setdefault(f"{kind}s", {}).setdefault(name, {})
    for name in FitConfig.model_fields:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flags[name] = given[name]
    return flags


def _fit(target: str | None, config: FitConfig, places: Places) -> None:
    """Train as configured."""
    from nntrain.cli.settings import make_plugins

    # Bad options are reported before datasets is imported, which takes seconds.
    checkpoint_dir = config.checkpoint_dir
    _check_target(target, config, places)
    check_data(config.data, config.data_dir)
    every, every_s = _every(config.log_every)
    _check_saving(checkpoint_dir, config.save_every, resuming=config.resume)
    path = config.log or (
        checkpoint_dir / "log.jsonl"
        if checkpoint_dir is not None
        else Path(time.strftime("nntrain-%Y%m%d-%H%M%S.jsonl"))
    )
    piped = str(path) == "-"
    tell = _teller(quiet=config.quiet)
    if not piped:
        _check_log(path, checkpoint_dir)
    named_subs = make_plugins("subscribers", config.subscribers, places)
    named_sinks = make_plugins("sinks", config.sinks, places)
    if not piped:
        tell(f"log: {path}; to watch it from another terminal: nntrain follow {shlex.quote(str(path))}")

    from nntrain.checkpoint import Checkpoint
    from nntrain.errors import Terminated
    from nntrain.log import JsonLog
    from nntrain.ranks.console import is_spokesman, silent_but_first
    from nntrain.sinks import PrintStats, ProgressBar
    from nntrain.sinks.interest import Sink
    from nntrain.subscribers import EarlyStopping

    saving = Checkpoint(checkpoint_dir, every_steps=config.save_every) if checkpoint_dir is not None else None
    lines, said_to = sys.stdout, sys.stderr if piped else sys.stdout
    with (
        silent_but_first(said_to) as said,  # what a learner prints would tear a log there
        JsonLog(lines if piped else path, every=every, every_s=every_s, resume=config.resume and not piped) as log,
        _learner(target, config, places, tell) as own,
    ):
        stopping = [] if config.patience is None else [EarlyStopping(patience=config.patience)]
        subs: list[Subscriber[object]] = [*stopping, *named_subs]
        printing: list[Sink] = [] if config.quiet else [PrintStats(said)]
        # Where the log is written to the terminal, a bar would be torn by its lines.
        drawing: list[Sink] = [] if config.quiet or (piped and lines.isatty()) else [ProgressBar()]
        sinks = [*drawing, *printing, *([saving] if saving is not None else []), *named_sinks, log]
        kept = [sink for sink in own.sinks if not (isinstance(sink, (PrintStats, ProgressBar)) and sink.file is None)]
        learner = own.replace(subs=[*own.subs, *subs], sinks=[*kept, *sinks])
        resumed = [
            _resume(checkpoint_dir, learner, config.seed, said)
            if config.resume and checkpoint_dir is not None
            else None
        ]
        goal = (config.epochs, None) if config.steps is None else (None, config.steps)
        try:
            outcome = _train(learner, [resumed.pop() or learner.init(config.seed)], *goal)
        except (KeyboardInterrupt, Terminated) as interrupt:
            ended = "interrupted" if isinstance(interrupt, KeyboardInterrupt) else "terminated"
            last = f"; checkpoint: {saving.newest or 'none could be saved'}" if saving is not None else ""
            if is_spokesman():
                click.echo(f"{ended}; log: {path}{last}", err=True)
            raise SystemExit(Exit.INTERRUPTED if ended == "interrupted" else Exit.TERMINATED) from None
    with silent_but_first(said_to) as said:
        upto = f"--epochs {config.epochs}" if config.steps is None else f"--steps {config.steps}"
        _print_end(outcome, upto, said)
        if saving is not None:
            click.echo(f"checkpoint: {saving.newest or 'none could be saved'}", file=said)
        if not piped or log.lost:
            click.echo(f"log: {path}" + (f" ({log.lost} lines lost)" if log.lost else ""), file=said)


@contextmanager
def _learner(
    target: str | None, config: FitConfig, places: Places, tell: Callable[[str], None]
) -> Iterator[Learner[Any]]:
    """Give the learner to a block: that of `target`, or the classifier. What takes long is told."""
    if target is None:
        tell(f"reads and decodes the data: {config.data} ...")
        yield classifier(config, tell)
        return
    from nntrain.cli.target import learner_of
    from nntrain.live.engine import Engine

    tell(f"makes the learner: {target} ...")
    device = device_of(config.device) if "device" in config.model_fields_set else None
    data = data_of(config, _seed(config)) if "data" in config.model_fields_set else None
    goal = {"epochs": config.epochs} if config.steps is None else {"steps": config.steps}
    with learner_of(target, config.parameters, _seed(config), places, data=data, goal=goal) as own:
        learner = own
        if device is not None:
            learner = learner.replace(device=device)
        of_engine = {name: getattr(config, name) for name in _OF_ENGINE if name in config.model_fields_set}
        if of_engine:
            learner = learner.replace(engine=replace(learner.engine or Engine(), **of_engine))
        _check_shared(learner.engine)
        yield learner


def _seed(config: FitConfig) -> int:
    """Return the seed that a learner is made with: as it was when the training began that is gone on with."""
    if not config.resume or config.checkpoint_dir is None:
        return config.seed
    from nntrain.checkpoint import inspect
    from nntrain.checkpoint.finding import newest_whole

    found, _ = newest_whole(config.checkpoint_dir, inspect)
    return config.seed if found is None else found[1].key.seed


def classifier(config: FitConfig, tell: Callable[[str], None]) -> Learner[Any]:
    """Return a learner of a network with one hidden layer; what its data and its metric are is told."""
    import torch

    from nntrain.data import DataLoaders
    from nntrain.live.engine import Engine
    from nntrain.machine.learner import Learner
    from nntrain.metrics.functions import accuracy

    engine = Engine(device=device_of(config.device), **{name: getattr(config, name) for name in _OF_ENGINE})
    dls = DataLoaders.from_hf_dd(data_of(config, _seed(config)).read(), batch_size=config.batch_size)
    _check_sizes(dls, config.data)
    tell(f"{_splits(dls)}; metric is the accuracy")
    return Learner(
        _model(dls, config.hidden, config.seed),
        dls,
        torch.nn.functional.cross_entropy,
        accuracy,
        torch.optim.SGD,
        config.lr,
        engine=engine,
    )


def _check_shared(engine: Engine | None) -> None:
    """Raise `BadParameter` where a launcher has started several processes, and each would train by itself."""
    from nntrain.ranks.world import launched_world

    size = launched_world().size
    if size > 1 and (engine is None or engine.parallel is None):
        raise click.BadParameter(
            f"{size} processes were started, and each would do the whole training by itself. Add --parallel data, and "
            f"they share each batch, or --parallel sharded, and they share the weights too.",
            param_hint="--parallel",
        )


def _check_target(target: str | None, config: FitConfig, places: Places) -> None:
    """Refuse options that are of no use: of the classifier beside a target, of a target without one, and two goals.

    Processes that would not share the classifier's training, too; of a target only its learner can say that it does.
    """
    if target is not None:
        from nntrain.cli.target import parts_of

        parts_of(target)
    elif config.parallel is None and os.environ.get("WORLD_SIZE", "1") not in {"", "1"}:
        _check_shared(None)
    given = config.model_fields_set
    refused = (*_OF_THE_CLASSIFIER, *(() if "data" in given else _OF_DATA))
    for name in ("parameters",) if target is None else refused:
        if name in given:
            said = f"{_option(name)}{places.of((name,))}"
            raise click.BadParameter(
                f"{said} is for a target, as in nntrain fit train.py:make; there is none."
                if target is None
                else f"{said} is for nntrain fit without a target; {target} has its own. A function that returns a "
                f"learner takes parameters, like --set {name}=...",
                param_hint="TARGET",
            )
    if {"epochs", "steps"} <= given and config.steps is not None:
        raise click.BadParameter(
            f"it is given{places.of(('steps',))} beside --epochs{places.of(('epochs',))}; a fit has one goal.",
            param_hint="--steps",
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _print_end(outcome: Outcome | None, upto: str, said: TextIO) -> None:
    """Print what ended the fit, if it was not its goal."""
    from nntrain.values.verdicts import Cancelled

    if outcome is None:
        click.echo(f"nothing is left to train up to {upto}", file=said)
    if isinstance(outcome, Cancelled):
        click.echo(f"stopped by {outcome.by}: {outcome.verdict.reason}", file=said)


def _check_saving(folder: Path | None, save_every: int | None, *, resuming: bool) -> None:
    """Refuse options that need a folder without one, a file in its place, and a new training where checkpoints are."""
    if folder is None:
        for option, given in (("--save-every", save_every is not None), ("--resume", resuming)):
            if given:
                raise click.BadParameter("it needs a folder: give --checkpoint-dir DIR too.", param_hint=option)
        return
    from nntrain.checkpoint.finding import files_of

    if folder.exists() and not folder.is_dir():
        raise click.BadParameter(f"{folder}: it is a file; expected a folder.", param_hint="--checkpoint-dir")
    found = [] if resuming or not folder.is_dir() else files_of(folder)
    if found:
        raise click.BadParameter(
            f"{folder} has checkpoints, like {found[-1].name}: add --resume to go on from the newest, or give another "
            f"folder.",
            param_hint="--checkpoint-dir",
        )


def _check_log(path: Path, checkpoint_dir: Path | None) -> None:
    """Refuse a log that cannot be written, before it is announced. Nothing is made yet: the log itself sees the rest.

    The folder of the checkpoints may not be there yet, for it is made first.
    """
    folder = path.absolute().parent
    made = () if checkpoint_dir is None else (checkpoint_dir.absolute(), *checkpoint_dir.absolute().parents)
    while folder in made and not folder.exists():
        folder = folder.parent
    if path.is_dir():
        reason = errno.EISDIR
    elif not folder.is_dir():
        reason = errno.ENOTDIR if folder.exists() else errno.ENOENT
    elif not os.access(path if path.exists() else folder, os.W_OK):
        reason = errno.EACCES
    else:
        return
    raise click.BadParameter(
        str(LogError.unwritable(path, os.strerror(reason))),
        param_hint="--log" if checkpoint_dir is None or path.parent != checkpoint_dir else "--checkpoint-dir",
    )


def _resume(folder: Path, learner: Learner[Any], seed: int, said: TextIO) -> TrainState | None:
    """Return the state of the newest whole checkpoint; prints its path, and which settings changed."""
    from nntrain.checkpoint import inspect, resume
    from nntrain.checkpoint.loading import changes
    from nntrain.cli.checkpoint import place_of, print_skipped
    from nntrain.ranks.console import is_spokesman

    found = resume(folder, learner)
    if not is_spokesman():
        return found.state
    print_skipped(found.skipped)
    if found.path is None or found.state is None:
        click.echo(f"no whole checkpoint in {folder}: training from the beginning", file=said)
        return None
    saved = inspect(found.path)
    click.echo(f"going on from {found.path}: {place_of(saved)}", file=said)
    if saved.key.seed != seed:
        say(f"the seed stays {saved.key.seed}, as it was saved; --seed {seed} is for what begins anew", err=True)
    for name, (before, now) in changes(saved.run or {}, learner, found.state).items():
        say(f"{name} was {before} when it was saved, and is {now} from here on", err=True)
    return found.state


def _train(learner: Learner[Any], cell: list[TrainState], epochs: int | None, steps: int | None) -> Outcome | None:
    """Train from the state in `cell`, which is popped, up to `epochs` or `steps` in all. None where none is left."""
    from nntrain.machine.steps import fit_step

    now = cell[0].progress
    if now.at != "finished":
        return fit_step(learner, cell.pop(), epochs, steps=steps)
    if steps is not None:
        if steps <= max(now.step, now.until or 0):  # this includes a fit that a verdict ended
            return None
        return fit_step(learner, cell.pop(), steps=steps - now.step)
    if epochs is None or epochs <= max(now.epoch, now.epochs):
        return None
    return fit_step(learner, cell.pop(), epochs - now.epoch)


def _every(given: str) -> tuple[int | Literal["all"] | None, float | None]:
    """Return of how many batches, and after how many seconds, one is logged."""
    if given == "none":
        return None, None
    if given == "all":
        return "all", None
    return (None, float(given[:-1])) if given.endswith("s") else (int(given), None)


def check_data(data: str, data_dir: Path | None) -> None:
    """Raise `BadParameter` for data that there are not, before anything that takes long is imported."""
    from nntrain.cli.plugins import find_plugins
    from nntrain.values.calls import probably_meant

    if data not in {"digits", "fashion-mnist"} and not Path(data).is_dir():
        sources = find_plugins("sources")
        if data not in sources:
            raise click.BadParameter(
                f"{data!r} is neither 'digits' nor 'fashion-mnist' nor a folder of images, or one written by "
                f"DatasetDict.save_to_disk, nor a data source by name ({', '.join(sources) or 'there are none'})."
                f"{probably_meant(data, ['digits', 'fashion-mnist', *sources])}",
                param_hint="--data",
            )
    if data_dir is not None and data != "fashion-mnist":
        raise click.BadParameter(f"it is for --data fashion-mnist, not for {data!r}.", param_hint="--data-dir")


def data_of(config: FitConfig, seed: int) -> Data:
    """Return what `--data` says, read as configured; what it does not split itself is split by `seed`."""
    from nntrain.cli.target import Data

    return Data(config.data, partial(_load, config.data, config.data_dir, config.sources, seed))


def _load(data: str, data_dir: Path | None, sources: Options, seed: int) -> DatasetDict:
    from datasets.dataset_dict import DatasetDict

    from nntrain.cli.plugins import get_plugin
    from nntrain.data import load_digits, load_fashion_mnist, load_image_folder, load_saved
    from nntrain.data.images.folder import is_image_folder
    from nntrain.errors import ConfigError

    if data == "digits":
        return load_digits()
    if data == "fashion-mnist":
        return load_fashion_mnist(data_dir)
    if Path(data).is_dir():
        folder = Path(data)
        return load_image_folder(folder, seed=seed) if is_image_folder(folder) else load_saved(folder)
    made = get_plugin("sources", data).make(sources.get(data, {}))
    if not isinstance(made, DatasetDict):
        raise ConfigError(f"The data source {data} gave a {type(made).__name__}; expected a datasets.DatasetDict.")
    return made


def _check_sizes(dls: ImageLoaders, data: str) -> None:
    """Raise `ConfigError` for images of several sizes, as far as they were decoded: the classifier has one input."""
    from nntrain.data.images.resident import SEVERAL_SIZES, ResidentLoader
    from nntrain.errors import ConfigError

    splits = (dls.train, dls.valid)
    shapes = {tuple(one.images.shape[1:]) for one in splits if isinstance(one, ResidentLoader)}
    if len(shapes) > 1 or any(one.description.get("reason") == SEVERAL_SIZES for one in splits):
        raise ConfigError(
            f"The images of {data} have several sizes, and the network of nntrain fit takes one. Resize them; or train "
            f"a learner of your own, whose function resizes them: nntrain fit FILE.py:make --data {data}."
        )


def _splits(dls: ImageLoaders) -> str:
    """Return which split is learned from and which is evaluated on: with data of one's own they were found by name."""
    return f"learns from the split {dls.train.split_name!r}, is evaluated on {dls.valid.split_name!r}"


def device_of(device: str) -> str:
    """Return what `--device` says. Raises `BadParameter` for CUDA where there is none."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("torch sees no CUDA device here; use cpu or auto.", param_hint="--device")
    return device


def _model(dls: ImageLoaders, hidden: int, seed: int) -> torch.nn.Module:
    from torch import manual_seed, nn, random

    images, _ = next(iter(dls.train))
    with random.fork_rng(devices=[]):
        manual_seed(seed)
        return nn.Sequential(nn.Linear(images.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, dls.train.classes))
