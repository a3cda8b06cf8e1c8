"""The loop beside the hand-written one and the original's: `python -m tests.benchmarks.loop`.

Each round runs every loop once, in turn, on the same in-memory batches and from the same weights; the table gives the
median over the rounds of each loop's time divided by the hand-written loop's in the same round.
"""

from __future__ import annotations

import argparse
import copy
import io
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nntrain import DataLoaders, Learner, Subscriber, TrainState, accuracy
from nntrain.events import BatchOutput
from tests import seed_loop

Batches = list[tuple[Tensor, Tensor]]


class PassThrough(Subscriber[tuple[Tensor, Tensor]]):
    """Answers the state it is shown, at both batch events."""

    def before_batch(self, state: TrainState, batch: tuple[Tensor, Tensor]) -> TrainState:
        return state

    def after_batch(self, state: TrainState, batch: tuple[Tensor, Tensor], output: BatchOutput) -> TrainState:
        return state


def model_of(kind: str) -> nn.Module:
    """Make the model: an MLP 784-50-10, or a small convolutional network with BatchNorm."""
    if kind == "mlp":
        return nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 6 * 6, 10),
    )


def batches_of(count: int, batch_size: int) -> Batches:
    """Make batches of noise: inputs [B, 784] in [0, 1), targets [B] in 0..9."""
    source = torch.Generator().manual_seed(0)
    return [
        (torch.rand(batch_size, 784, generator=source), torch.randint(0, 10, (batch_size,), generator=source))
        for _ in range(count)
    ]


def hand_written(model: nn.Module, train: Batches, valid: Batches) -> None:
    """Train and evaluate one epoch as one would write it by hand, reporting loss and accuracy once a phase."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for phase, batches in (("train", train), ("eval", valid)):
        model.train(phase == "train")
        loss_sum = accuracy_sum = 0.0
        samples = 0
        with torch.set_grad_enabled(phase == "train"):
            for inputs, target in batches:
                preds = model(inputs)
                loss = nn.functional.cross_entropy(preds, target)
                if phase == "train":
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
                    optimizer.step()
                loss_sum += loss.item() * len(inputs)
                accuracy_sum += accuracy(preds.detach(), target).item() * len(inputs)
                samples += len(inputs)
        assert loss_sum / samples > 0
        assert accuracy_sum / samples >= 0


def original(model: nn.Module, train: Batches, valid: Batches) -> None:
    """Train and evaluate one epoch by the transcription of the original loop."""
    seed_loop.Learner(
        copy.deepcopy(model),
        train,
        valid,
        loss_fn=nn.functional.cross_entropy,
        metric_fn=accuracy,
        optim_class=torch.optim.SGD,
        lr=0.01,
        subs=[],
        file=io.StringIO(),
    ).fit(1)


def by_nntrain(subs: int) -> Callable[[nn.Module, Batches, Batches], None]:
    """Train and evaluate one epoch by nntrain, with so many pass-through subscribers on both batch events."""

    def run(model: nn.Module, train: Batches, valid: Batches) -> None:
        learner = Learner(
            model,
            DataLoaders(train, valid),
            nn.functional.cross_entropy,
            accuracy,
            torch.optim.SGD,
            0.01,
            [PassThrough() for _ in range(subs)],
        )
        learner.fit(1, print_stats=False)

    return run


LOOPS: dict[str, Callable[[nn.Module, Batches, Batches], None]] = {
    "hand-written": hand_written,
    "the original's": original,
    "nntrain": by_nntrain(0),
    "nntrain, 3 subscribers": by_nntrain(3),
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--model", choices=("mlp", "cnn"), default="mlp")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = model_of(options.model)
    train, valid = batches_of(options.batches, options.batch_size), batches_of(options.batches // 6, options.batch_size)
    ratios: dict[str, list[float]] = {name: [] for name in LOOPS}
    for loop in LOOPS.values():
        loop(model, train[:10], valid[:2])
    for _ in range(options.rounds):
        seconds = {}
        for name, loop in LOOPS.items():
            began = time.perf_counter()
            loop(model, train, valid)
            seconds[name] = time.perf_counter() - began
        for name, spent in seconds.items():
            ratios[name].append(spent / seconds["hand-written"])
    print(
        f"{options.model}, batch {options.batch_size}, {options.batches} batches, {options.rounds} rounds, one thread, "
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}"
    )
    print(f"{'loop':<24} | ratio | lowest | highest")
    for name, found in ratios.items():
        print(f"{name:<24} | {statistics.median(found):5.3f} | {min(found):6.3f} | {max(found):7.3f}")


if __name__ == "__main__":
    main()
