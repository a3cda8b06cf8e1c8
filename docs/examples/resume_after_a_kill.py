"""Kill a training in the middle of an epoch, again and again, and end with the bits of one that was left alone.

    uv run python docs/examples/resume_after_a_kill.py
    uv run nntrain fit docs/examples/resume_after_a_kill.py:learner --epochs 5

The parent starts this script as a child that trains, kills it (SIGKILL: the child is told nothing) at a random moment
and starts it again, until it is through. The child always does the same: go on from the newest checkpoint that is
whole, or begin.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from nntrain import Checkpoint, DataLoaders, Learner, TrainState, accuracy, fit_step
from nntrain.checkpoint import latest, load, resume
from nntrain.data import load_digits

Batch = tuple[Tensor, Tensor]
EPOCHS = 5


def learner(folder: Path | None = None, width: int = 64) -> Learner[Batch, Tensor]:
    """Return the learner; with dropout and momentum, and checkpoints in a folder."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 10))
    dls = DataLoaders.from_hf_dd(load_digits(), batch_size=64)
    sinks = [] if folder is None else [Checkpoint(folder, every_steps=5, background=False)]
    loss = nn.functional.cross_entropy
    return Learner(model, dls, loss, {"accuracy": accuracy}, torch.optim.Adam, 0.003, sinks=sinks)


def train(folder: Path, epochs: int) -> TrainState:
    """Go on from where the folder's checkpoints lead to, or begin."""
    trains = learner(folder)
    state = resume(folder, trains).state or trains.init(epochs=epochs)
    return state if state.progress.at == "finished" else fit_step(trains, state).state


def main(epochs: int = EPOCHS, kills: int = 3) -> None:
    """Train undisturbed, then with kills, and compare."""
    straight = learner().fit(epochs).state
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, str(folder), str(epochs)]
        killed = 0
        while killed < kills:
            child = subprocess.Popen(command)
            behind = latest(folder).path
            while child.poll() is None and latest(folder).path == behind:  # until it has saved something more
                time.sleep(0.01)
            time.sleep(random.random() * 0.1)
            if child.poll() is not None:  # it was through before
                break
            child.kill()
            child.wait()
            killed += 1
            print(f"killed after {behind.name if behind else 'the beginning'}")
        subprocess.run(command, check=True)
        found = latest(folder).path
        assert found is not None
        ended = load(found, learner())
    print(f"{killed} kills, and the state at the end is {'the same, bit for bit' if ended == straight else 'another'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
