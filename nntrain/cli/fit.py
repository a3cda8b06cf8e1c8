"""`nntrain fit`: train an image classifier with one hidden layer."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    import torch
    from datasets.dataset_dict import DatasetDict

    from nntrain.data import DataLoaders
    from nntrain.events import Subscriber


@click.command()
@click.option(
    "--data", default="digits", show_default=True, metavar="digits|fashion-mnist|DIR", help="What to train on."
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="The folder of Fashion-MNIST's four idx files.")
@click.option("--epochs", type=click.IntRange(min=0), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=0.2, show_default=True)
@click.option(
    "--hidden",
    type=click.IntRange(min=1, max=1 << 20),
    default=50,
    show_default=True,
    help="Width of the hidden layer.",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--patience", type=click.IntRange(min=1), help="Stop after so many epochs without a better eval loss.")
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Where to write the event log; - is stdout, and then the statistics go to stderr.",
)
@click.option("--log-every", default="none", show_default=True, metavar="N|all|none", help="Log every Nth batch.")
@click.option("--quiet", is_flag=True, help="Print no statistics.")
def fit(  # noqa: PLR0917 - click calls it by name
    data: str,
    data_dir: Path | None,
    epochs: int,
    batch_size: int,
    lr: float,
    hidden: int,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    patience: int | None,
    log_path: Path | None,
    log_every: str,
    quiet: bool,
) -> None:
    """Train an image classifier: a network with one hidden layer, by SGD.

    Prints the statistics of each phase, and writes an event log of JSON lines.
    """
    # datasets takes seconds to import; bad options are told before that.
    _check_data(data, data_dir)
    every = _every(log_every)
    import torch

    from nntrain.data import DataLoaders
    from nntrain.learner import Learner
    from nntrain.log import JsonLog
    from nntrain.metrics import accuracy
    from nntrain.sinks import PrintStats
    from nntrain.subscribers import EarlyStopping
    from nntrain.transitions import Sink
    from nntrain.verdicts import Cancelled

    where = _device(device)
    path = log_path or Path(time.strftime("nntrain-%Y%m%d-%H%M%S.jsonl"))
    piped = str(path) == "-"
    said = sys.stderr if piped else sys.stdout
    with JsonLog(sys.stdout if piped else path, every=every) as log:
        dls = DataLoaders.from_hf_dd(_load(data, data_dir), batch_size=batch_size)
        subs: list[Subscriber[object]] = [EarlyStopping(patience=patience)] if patience is not None else []
        sinks: list[Sink] = [log] if quiet else [PrintStats(said), log]
        learner = Learner(
            _model(*_sizes(dls), hidden, seed),
            dls,
            torch.nn.functional.cross_entropy,
            accuracy,
            torch.optim.SGD,
            lr,
            subs,
            sinks=sinks,
            device=where,
        )
        try:
            outcome = learner.fit(epochs, seed=seed, print_stats=False)
        except KeyboardInterrupt:
            click.echo(f"interrupted; log: {path}", err=True)
            raise SystemExit(130) from None
    if isinstance(outcome, Cancelled):
        click.echo(f"stopped by {outcome.by}: {outcome.verdict.reason}", file=said)
    if not piped or log.lost:
        click.echo(f"log: {path}" + (f" ({log.lost} lines lost)" if log.lost else ""), file=said)


def _every(given: str) -> int | Literal["all"] | None:
    if given == "none":
        return None
    if given == "all":
        return "all"
    if not given.isdecimal() or int(given) < 1:
        raise click.BadParameter(f"{given!r} is no number from 1 up, nor 'all', nor 'none'.", param_hint="--log-every")
    return int(given)


def _check_data(data: str, data_dir: Path | None) -> None:
    if data not in {"digits", "fashion-mnist"} and not Path(data).is_dir():
        raise click.BadParameter(
            f"{data!r} is neither 'digits' nor 'fashion-mnist' nor a folder written by DatasetDict.save_to_disk.",
            param_hint="--data",
        )
    if data_dir is not None and data != "fashion-mnist":
        raise click.BadParameter(f"it is for --data fashion-mnist, not for {data!r}.", param_hint="--data-dir")


def _load(data: str, data_dir: Path | None) -> DatasetDict:
    from nntrain.data import load_digits, load_fashion_mnist, load_saved

    if data == "digits":
        return load_digits()
    if data == "fashion-mnist":
        return load_fashion_mnist(data_dir)
    return load_saved(Path(data))


def _device(device: Literal["auto", "cpu", "cuda"]) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("torch sees no CUDA device here; use cpu or auto.", param_hint="--device")
    return device


def _sizes(dls: DataLoaders[tuple[torch.Tensor, torch.Tensor]]) -> tuple[int, int]:
    """Give the width of the inputs and the number of classes."""
    from nntrain.data import ImageLoader

    inputs, _ = next(iter(dls.train))
    if not isinstance(dls.train, ImageLoader):
        raise TypeError(type(dls.train).__name__)
    return inputs.shape[1], dls.train.classes


def _model(inputs: int, classes: int, hidden: int, seed: int) -> torch.nn.Module:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes))
