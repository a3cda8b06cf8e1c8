"""What update rules and metrics cost beside a loop by hand that does the same: `python -m tests.benchmarks.rules`.

Clipping by norm and AdamW with a cosine, without and with `accumulate(4)`, and the accuracy as a mean over the batches
or of a confusion matrix of the whole phase. Both loops end with the same weights and figures, as a test holds.

What counts is the time from one batch's loss to the next one's, within an epoch. Of each place in a window the 5 %
quantile over all rounds is taken, and of these the mean: what else the machine does only ever adds time.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, accuracy, supervised
from nntrain.schedules import cosine
from nntrain.update import accumulate, chain, clip_norm, optimizer
from tests.benchmarks.report import heading, table
from tests.benchmarks.setting import Batches, batches_of, model_of
from tests.benchmarks.toolkit import LR, MAX_NORM, Matrix, matrix_of, share_of

WINDOW: Final = 4
WARM: Final = 3
"""Rounds that do not count, in which memory is first taken."""


class Rules(NamedTuple):
    """What is done beside clipping and the schedule."""

    window: int
    """How many batches make a step."""
    whole: bool
    """Whether the metric is one of the whole phase."""

    def __str__(self) -> str:
        rules = "clipping by norm, a schedule" + (f", accumulate({self.window})" if self.window > 1 else "")
        return f"{rules}; {'a confusion matrix of the phase' if self.whole else 'a mean'}"


CASES: Final = [Rules(window, whole) for window in (1, WINDOW) for whole in (False, True)]


class Trained(NamedTuple):
    """What a fit ends with."""

    weights: dict[str, Tensor]
    loss: float
    accuracy: float


class Stamps:
    """A loss function that notes when it was called."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, preds: Tensor, target: Tensor) -> Tensor:
        self.times.append(time.perf_counter())
        return cross_entropy(preds, target)


Fit = Callable[[], Trained]
"""Trains an epoch, from where the last one ended or anew: its batches take as long."""


def hand_written(model: nn.Module, train: Batches, rules: Rules, loss_fn: Stamps) -> Fit:
    """Return the loop that one would write."""
    model = copy.deepcopy(model).train()
    params = list(model.parameters())
    optim = torch.optim.AdamW(params, lr=LR)
    steps = len(train) // rules.window

    def fit() -> Trained:
        matrix, loss_sum, right, samples = torch.zeros(10, 10, dtype=torch.int64), 0.0, 0.0, 0
        for done, (inputs, target) in enumerate(train, start=1):
            preds = model(inputs)
            loss = loss_fn(preds, target)
            scaled = loss / rules.window if rules.window > 1 else loss
            scaled.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            if done % rules.window == 0:
                nn.utils.clip_grad_norm_(params, MAX_NORM)
                for group in optim.param_groups:
                    group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * (done // rules.window - 1) / steps))
                optim.step()
                optim.zero_grad()
            loss_sum += loss.item() * len(inputs)
            samples += len(inputs)
            if rules.whole:
                matrix = matrix + matrix_of(preds.detach(), target)
            else:
                right += accuracy(preds.detach(), target).item() * len(inputs)
        return Trained(
            dict(model.named_parameters()), loss_sum / samples, share_of(matrix) if rules.whole else right / samples
        )

    return fit


def by_nntrain(model: nn.Module, train: Batches, rules: Rules, loss_fn: Stamps) -> Fit:
    """Return nntrain's fit."""
    rate = cosine(LR, steps=len(train) // rules.window)
    written = (clip_norm(MAX_NORM), optimizer(torch.optim.AdamW, lr=rate))
    learner = Learner.of(
        model,
        DataLoaders(train, None),
        supervised(loss_fn),
        chain(accumulate(rules.window), *written) if rules.window > 1 else chain(*written),
        metrics={"accuracy": Matrix() if rules.whole else accuracy},
    )
    learner.init()  # sets the learner up, as the other is

    def fit() -> Trained:
        state = learner.fit(1, print_stats=False).state
        return Trained(dict(state.params), state.history[0].loss, state.history[0].metrics["accuracy"])

    return fit


def steady(fits: Sequence[tuple[Fit, Stamps]], window: int, rounds: int) -> list[float]:
    """Run all once a round, in turn, and return the seconds that a batch takes in each."""
    seconds: list[list[list[float]]] = [[[] for _ in range(window)] for _ in fits]
    for number in range(WARM + rounds):
        order = range(len(fits)) if number % 2 else reversed(range(len(fits)))
        for index in order:
            fit, stamps = fits[index]
            stamps.times.clear()
            fit()
            for batch, (began, ended) in enumerate(pairwise(stamps.times)):
                if number >= WARM and batch >= window:
                    seconds[index][batch % window].append(ended - began)
    return [sum(sorted(place)[len(place) // 20] for place in places) / window for places in seconds]


def compared(rules: Rules, batch_size: int, batches: int, rounds: int) -> list[str]:
    """Measure a case with batches of a size. Gives the row of the table."""
    model, train = model_of("mlp"), batches_of(batches, batch_size)
    stamps = Stamps(), Stamps()
    fits = [hand_written(model, train, rules, stamps[0]), by_nntrain(model, train, rules, stamps[1])]
    hand, ours = steady([*zip(fits, stamps, strict=True)], rules.window, rounds)
    return [str(rules), str(batch_size), f"{ours / hand:.3f}", f"{hand * 1e6:.0f}", f"{(ours - hand) * 1e6:+.1f}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rules", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="how often each loop fits an epoch (default 100)")
    parser.add_argument("--batches", type=int, default=40, help=f"of an epoch, a multiple of {WINDOW} (default 40)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 1024], metavar="SIZE")
    options = parser.parse_args(argv)
    if options.batches % WINDOW or options.batches <= WINDOW:
        parser.error(f"--batches is {options.batches}; expected a multiple of {WINDOW}, and more than that")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        print(heading())
        print(f"mlp on CPU, AdamW, one thread; {options.batches} batches an epoch, {options.rounds} rounds")
        rows = [
            compared(rules, size, options.batches, options.rounds) for size in options.batch_sizes for rules in CASES
        ]
        print(table(["beside the loop by hand", "batch", "ratio", "µs by hand", "µs more a batch"], rows))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
