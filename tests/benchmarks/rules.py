"""What update rules and metrics cost beside a loop by hand that does the same: `python -m tests.benchmarks.rules`.

Clipping by norm and AdamW with a cosine, without and with `accumulate(4)`, and the accuracy as a mean over the batches
or of a confusion matrix of the whole phase. Both loops end with the same weights and figures, as a test holds.

What counts is the time from the loss of the second window's first batch to that of the epoch's last batch. Each round
runs both loops once, and the ratio is the median of the rounds' ratios. Both are made anew several times.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, accuracy, supervised
from nntrain.schedules import cosine
from nntrain.update import accumulate, chain, clip_norm, optimizer
from tests.benchmarks.report import heading, table
from tests.benchmarks.rounds import Timed, made_anew
from tests.benchmarks.setting import Batches, batches_of, model_of
from tests.benchmarks.toolkit import HAND, LR, MAX_NORM, Matrix, matrix_of, share_of

WINDOW: Final = 4
OURS: Final = "nntrain"
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


def steady(fit: Fit, stamps: Stamps, window: int) -> Timed:
    """Return what fits, and gives the seconds that a batch took within the epoch."""

    def run() -> float:
        stamps.times.clear()
        fit()
        times = stamps.times[window:]
        return (times[-1] - times[0]) / (len(times) - 1)

    return run


def compared(rules: Rules, batch_size: int, options: argparse.Namespace) -> list[str]:
    """Measure a case with batches of a size. Gives the row of the table."""
    train = batches_of(options.batches, batch_size)

    def made() -> dict[str, Timed]:
        model, timed = model_of("mlp"), dict[str, Timed]()
        for name, make in ((HAND, hand_written), (OURS, by_nntrain)):
            stamps = Stamps()
            timed[name] = steady(make(model, train, rules, stamps), stamps, rules.window)
        return timed

    rounds = made_anew(made, options.times, options.rounds, warm=WARM)
    return [
        str(rules),
        str(batch_size),
        f"{rounds.ratio(OURS, HAND).median:.3f}",
        f"{rounds.best(OURS, HAND):.3f}",
        f"{rounds.microseconds(HAND):.0f}",
        f"{rounds.microseconds(OURS, HAND):+.1f}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rules", description=__doc__)
    parser.add_argument("--times", type=int, default=8, help="how often both loops are made anew (default 8)")
    parser.add_argument("--rounds", type=int, default=25, help="how often each then fits an epoch (default 25)")
    parser.add_argument("--batches", type=int, default=40, help=f"of an epoch, a multiple of {WINDOW} (default 40)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 1024], metavar="SIZE")
    options = parser.parse_args(argv)
    if options.batches % WINDOW or options.batches <= WINDOW:
        parser.error(f"--batches is {options.batches}; expected a multiple of {WINDOW}, and more than that")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        print(heading())
        rounds = f"{options.times} times {options.rounds} rounds"
        print(f"mlp on CPU, AdamW, one thread; {options.batches} batches an epoch, {rounds}")
        rows = [compared(rules, size, options) for size in options.batch_sizes for rules in CASES]
        print(table(["beside the loop by hand", "batch", "ratio", "best", "µs by hand", "µs more a batch"], rows))
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
