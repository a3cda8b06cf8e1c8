"""Images decoded once beside the original's path: `python -m tests.benchmarks.data [--data-dir FOLDER]`.

Both train the same network, MLP with 50 hidden units in batches of 1024, on Fashion-MNIST as PNG: the original's
learner on torch DataLoaders that collate with `hf_ds_collate_fn` and so decode each image in each epoch, and nntrain's
on what `DataLoaders.from_hf_dd` gives. They take turns, once a round. Of the original's path, in which all epochs are
alike, one epoch a round is measured; of nntrain's the decoding and a whole run. The ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from nntrain import DataLoaders, Learner, accuracy, hf_ds_collate_fn
from nntrain.data import load_digits, load_fashion_mnist
from tests import seed_loop
from tests.benchmarks.figures import REAL
from tests.benchmarks.report import heading, table
from tests.benchmarks.rounds import Ratio

if TYPE_CHECKING:
    from datasets.dataset_dict import DatasetDict

EPOCHS: Final = 5
BATCH_SIZE: Final = 1024
Batch = tuple[Tensor, Tensor]


class Seconds(NamedTuple):
    """What one way takes: before the first epoch, the first epoch, and each after it (training and evaluation)."""

    before: float
    first: float
    epoch: float

    def run(self) -> float:
        """Give the seconds of a run of `EPOCHS` epochs."""
        return self.before + self.first + (EPOCHS - 1) * self.epoch


class Rows(Sequence[Batch]):
    """A torch DataLoader as a sequence of batches, which is what the original's learner takes."""

    def __init__(self, loader: DataLoader[Batch]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __getitem__(self, index: Any) -> Any:
        return next(itertools.islice(self._loader, index, None))

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)


def model_of(pixels: int) -> nn.Module:
    """Make the network, with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(pixels, 50), nn.ReLU(), nn.Linear(50, 10))


def original(dd: DatasetDict, pixels: int) -> Seconds:
    """Measure one epoch of the original's path."""
    train, valid = (
        Rows(
            DataLoader(
                cast("MapDataset[Any]", dd[name]),
                batch_size=BATCH_SIZE,
                shuffle=name == "train",
                collate_fn=hf_ds_collate_fn,
            )
        )
        for name in ("train", "test")
    )
    learner = seed_loop.Learner(
        model_of(pixels),
        train,
        valid,
        loss_fn=nn.functional.cross_entropy,
        metric_fn=accuracy,
        optim_class=torch.optim.SGD,
        lr=0.01,
        subs=[],
        file=io.StringIO(),
    )
    epoch = spent(lambda: learner.fit(1))
    return Seconds(0.0, epoch, epoch)


def decoded_once(dd: DatasetDict, pixels: int) -> Seconds:
    """Measure the decoding, a run of one epoch and a run of `EPOCHS` by nntrain."""
    began = time.perf_counter()
    dls = DataLoaders.from_hf_dd(dd, BATCH_SIZE)
    before = time.perf_counter() - began
    learner = Learner(model_of(pixels), dls, nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.01)
    first = spent(lambda: learner.fit(1, print_stats=False))
    whole = spent(lambda: learner.fit(EPOCHS, print_stats=False))
    return Seconds(before, first, (whole - first) / (EPOCHS - 1))


def spent(work: Callable[[], object]) -> float:
    """Give the seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compared(rounds: Sequence[tuple[Seconds, Seconds]]) -> str:
    """Give the table of both ways, (the original's, nntrain's) a round, and how many times faster the second is."""
    values: dict[str, Callable[[Seconds], float]] = {
        "decoding": lambda one: one.before,
        "an epoch after the first": lambda one: one.epoch,
        f"{EPOCHS} epochs, decoding included": Seconds.run,
    }
    rows = []
    for name, value in values.items():
        theirs, ours = ([value(one) for one in way] for way in zip(*rounds, strict=True))
        ratio = [f"{one:.1f}" for one in Ratio.of(theirs, ours)] if any(theirs) else [""] * 3
        rows.append([name, f"{statistics.median(theirs):.3f}", f"{statistics.median(ours):.3f}", *ratio])
    return table(["seconds of", "the original", "nntrain", "times faster", "lowest", "highest"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=REAL, help="the folder of Fashion-MNIST's four idx files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.data_dir.is_dir():
        dd, name = load_fashion_mnist(options.data_dir), "Fashion-MNIST"
    else:
        print(f"{options.data_dir} is not there: the embedded digits are used, and their ratios are no measure.")
        dd, name = load_digits(), "digits"
    width, height = dd["train"][0]["image"].size
    small = type(dd)({split: rows.select(range(BATCH_SIZE // 4)) for split, rows in dd.items()})
    for way in (original, decoded_once):
        way(small, width * height)  # imports, and whatever else happens once in a process
    rounds = [(original(dd, width * height), decoded_once(dd, width * height)) for _ in range(options.rounds)]
    print(heading())
    print(f"{name} as PNG, MLP with 50 hidden units, batches of {BATCH_SIZE}, {options.rounds} rounds")
    print(compared(rounds))


if __name__ == "__main__":
    main()
