"""What the mistakes of `tests/typing/mistakes` are made with. Checked and run with each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Interest, Learner, LogEvent, Record, Slot, Transition, accuracy
from nntrain.subscribers.protocol import Listening

Batch = tuple[Tensor, Tensor]
PAIRS: list[Batch] = [(torch.ones(2, 2), torch.tensor([0, 1]))]


class Seen(Record, frozen=True):
    """A record of one's own."""

    batches: int = 0


SEEN = Slot("mistakes.seen", Seen, default=Seen())


class Mixup(LogEvent, frozen=True):
    """An event of one's own."""

    event: Literal["mistakes.mixup"] = "mistakes.mixup"
    alpha: float


def learner(subs: Sequence[Listening[Batch]]) -> Learner[Batch]:
    """Make a learner with subscribers."""
    return Learner(nn.Linear(2, 2), DataLoaders(PAIRS, PAIRS), cross_entropy, accuracy, SGD, 0.1, subs)


class Strict:
    """A sink whose failure ends the training."""

    interest = Interest(strict=True)

    def __init__(self, tell: Callable[[Transition], None]) -> None:
        self._tell = tell

    def __call__(self, transition: Transition, /) -> None:
        """Tell."""
        self._tell(transition)


def strictly(tell: Callable[[Transition], None]) -> Strict:
    """Make a sink's failure end the training."""
    return Strict(tell)
