"""What saving a state costs, beside what others write of the same tensors: `python -m tests.benchmarks checkpoint`.

A model with Adam, 100 MB of parameters and moments by default. Each writes the same tensors to a new file on the same
disk, and has it there (`fsync`) before it counts as done. Then what the loop waits for a save in the background, beside
one copy of the tensors; and reading, each bit of it checked, beside safetensors' own reading, which checks none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, TrainState, Transition, accuracy, fit_step
from nntrain.checkpoint import Checkpoint, load, save
from tests.benchmarks.report import cells, heading, table
from tests.benchmarks.rounds import Rounds, Timed, interleaved
from tests.benchmarks.setting import Batch, batches_of

LAYERS = 16


def learner_of(megabytes: float) -> Learner[Batch]:
    """Make a learner whose state, with Adam's moments, has so many megabytes."""
    width = int((megabytes * 1e6 / 4 / 3 / LAYERS) ** 0.5)
    layers = [nn.Linear(width, width) for _ in range(LAYERS)]
    model = nn.Sequential(nn.Linear(784, width), *layers, nn.Linear(width, 10))
    batches = batches_of(1, 16)
    return Learner(model, DataLoaders(batches, batches), cross_entropy, accuracy, torch.optim.Adam, 1e-3)


def named(state: TrainState) -> dict[str, Tensor]:
    """Give the same tensors under plain names, as the others take them."""
    snapshot = state.tensors.snapshot()
    memory = {
        f"optim/{name}/{kind}": value
        for name, kept in snapshot.optim.state.items()
        for kind, value in kept.items()
        if isinstance(value, Tensor)
    }
    return {**{f"params/{name}": value.detach() for name, value in snapshot.params.items()}, **memory}


def timed(folder: Path, write: Callable[[Path], object], *, synced: bool) -> Timed:
    """Give what writes into an empty folder, and has it on the disk unless the writer does that itself."""

    def once() -> float:
        place = Path(tempfile.mkdtemp(dir=folder))
        os.sync()  # what others wrote is not to be waited for
        began = time.perf_counter()
        write(place)
        if not synced:
            for path in place.iterdir():
                file = os.open(path, os.O_RDONLY)
                os.fsync(file)
                os.close(file)
        spent = time.perf_counter() - began
        shutil.rmtree(place)
        return spent

    return once


def writers(state: TrainState, folder: Path) -> dict[str, Timed]:
    """Give who writes."""
    tensors = named(state)

    def distributed(place: Path) -> None:
        save_distributed(dict(tensors), checkpoint_id=place / "dcp", no_dist=True)

    return {
        "safetensors.torch.save_file, fsync": timed(
            folder, lambda place: save_file(tensors, place / "x.safetensors"), synced=False
        ),
        "nntrain.checkpoint.save": timed(folder, lambda place: save(state, place / "x.safetensors"), synced=True),
        "torch.save, fsync": timed(folder, lambda place: torch.save(tensors, place / "x.pt"), synced=False),
        "torch.distributed.checkpoint.save": timed(folder, distributed, synced=True),
    }


def waits(state: TrainState, folder: Path, transition: Transition) -> dict[str, Timed]:
    """Give what the loop waits for: a copy of the tensors, and the sink that saves in the background."""

    def copied() -> float:
        began = time.perf_counter()
        kept = state.tensors.snapshot()
        spent = time.perf_counter() - began
        del kept
        return spent

    def told() -> float:
        place = Path(tempfile.mkdtemp(dir=folder))
        sink = Checkpoint(place, every_epochs=1)
        began = time.perf_counter()
        sink(transition)
        spent = time.perf_counter() - began
        sink.wait()
        shutil.rmtree(place)
        return spent

    return {"one copy of the tensors": copied, "the loop, for a save in the background": told}


def readers(learner: Learner[Batch], state: TrainState, folder: Path) -> dict[str, Timed]:
    """Give who reads."""
    path, plain = folder / "read.safetensors", folder / "plain.safetensors"
    save(state, path)
    save_file(named(state), plain)

    def reading(read: Callable[[], object]) -> Timed:
        def once() -> float:
            began = time.perf_counter()
            found = read()
            spent = time.perf_counter() - began
            del found
            return spent

        return once

    def all_read() -> dict[str, Tensor]:
        # Its tensors lie in a mapped file: reading is done when they are looked at.
        return {name: tensor.clone() for name, tensor in load_file(plain).items()}

    return {
        "safetensors.torch.load_file, copied": reading(all_read),
        "nntrain.checkpoint.load": reading(lambda: load(path, learner)),
    }


def show(title: str, rounds: Rounds[str], reference: str) -> None:
    """Print a table."""
    print(f"\n{title}\n")
    rows = [
        [name, f"{rounds.microseconds(name) / 1e3:.1f}", *cells(rounds.ratio(name, reference))]
        for name in rounds.seconds
    ]
    print(table(["", "ms", "ratio", "lowest", "highest"], rows))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.checkpoint", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed (default 15)")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of parameters and moments (default 100)")
    parser.add_argument("--folder", default=".", help="where to write: on the disk that is meant (default here)")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore", module="torch.distributed")
    learner = learner_of(options.megabytes)
    told: list[Transition] = []
    state = fit_step(learner, learner.init(epochs=1)).state
    learner.replace(sinks=[told.append]).fit(2, print_stats=False)
    ended = next(one for one in told if one.state.progress.epoch > one.progress.epoch)
    told.clear()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        print(heading())
        size = sum(tensor.nbytes for tensor in named(state).values()) / 1e6
        print(f"a state of {size:.1f} MB, median of {options.rounds} rounds in one run")
        tables: list[tuple[str, dict[str, Any], str]] = [
            ("saving, on the disk", writers(state, folder), "safetensors.torch.save_file, fsync"),
            ("waiting", waits(ended.state, folder, ended), "one copy of the tensors"),
            ("loading", readers(learner, state, folder), "safetensors.torch.load_file, copied"),
        ]
        for title, found, reference in tables:
            for one in found.values():
                one()  # what is done once only
            show(title, interleaved(found, options.rounds), reference)


if __name__ == "__main__":
    main()
