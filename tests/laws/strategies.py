"""What the laws are tried on: generated models, optimizers and data, and what is kept of a state to compare with.

A `Setup` is a configuration as a value: it makes the same model, the same batches and an equal learner whenever it is
asked, so that a law can compare two trainings that share nothing in memory.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import torch
from hypothesis import strategies as st
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import BatchOutput, Learner, Sink, Slot, Subscriber, TrainState, accuracy, advance
from nntrain.update import UpdateRule, accumulate, chain, clip_norm, ema, optimizer
from nntrain.values.bits import same_bits
from nntrain.values.key import Key

Batch = tuple[Tensor, Tensor]
CLASSES: Final = 3
CPU: Final = torch.device("cpu")


class Loaders(NamedTuple):
    """The smallest thing that a learner takes for its data."""

    train: Sequence[Batch]
    valid: Sequence[Batch] | Mapping[str, Sequence[Batch]] | None


Sets = Literal["one", "named", "none"]
"""What is evaluated: one set, two by name, or nothing."""
ALL_SETS: Final[tuple[Sets, ...]] = ("one", "named", "none")


class KeyedLoaders(NamedTuple):
    """The same with loaders of one's own."""

    train: KeyedLoader
    valid: KeyedLoader


class KeyedLoader:
    """A loader of one's own: the order, and the noise on the inputs, are functions of (key, epoch)."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = tuple(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Give the batches of an epoch, from the one numbered `start`."""
        source = torch.Generator().manual_seed(key.fold_in(epoch).bits)
        order = torch.randperm(len(self._batches), generator=source).tolist()
        for index in order[start:]:
            inputs, target = self._batches[index]
            noise = torch.Generator().manual_seed(key.fold_in(epoch, index).bits)
            yield inputs + torch.randn(inputs.shape, generator=noise), target


class Tied(nn.Module):
    """Two names for one weight, and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.inner.weight
        self.out = nn.Linear(4, CLASSES)
        self.out.bias.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Use the tied weight twice."""
        hidden: Tensor = self.again(torch.tanh(self.inner(inputs)))
        logits: Tensor = self.out(hidden)
        return logits


def _linear() -> nn.Module:
    return nn.Linear(4, CLASSES)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, CLASSES))


def _batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, CLASSES))


def _dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, CLASSES), nn.Dropout(0.1))


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 2, 2, padding=1, bias=False),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(18, CLASSES),
    )


MODELS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "linear": _linear,
    "mlp": _mlp,
    "tied": Tied,
    "batch_norm": _batch_norm,
    "conv": _conv,
    "dropout": _dropout,
}
WITHOUT_NOISE: Final = ("linear", "mlp", "tied", "batch_norm", "conv")

OPTIMIZERS: Final[Mapping[str, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": torch.optim.Adam,
    "adamw": functools.partial(torch.optim.AdamW, weight_decay=0.1, amsgrad=True),
    "lbfgs": functools.partial(torch.optim.LBFGS, max_iter=3, history_size=2),
}
CHAIN: Final = "chain"
"""The optimizer of a setup that trains by a chain of rules around AdamW: every second batch is a step."""
PLAIN_OPTIMIZERS: Final = ("sgd", "momentum", "adam", "adamw")


@dataclass(frozen=True)
class Setup:
    """A configuration by value. `train` and `valid` are batch sizes; no size is 1, which BatchNorm refuses."""

    model: str = "mlp"
    optimizer: str = "momentum"
    lr: float = 0.05
    train: tuple[int, ...] = (4, 4, 2)
    valid: tuple[int, ...] = (5, 2)
    data_seed: int = 0
    device: torch.device = CPU
    capture: bool = False
    sets: Sets = "one"

    def on(self, device: torch.device) -> Setup:
        """Give the same on another device."""
        return replace(self, device=device)

    def make_model(self) -> nn.Module:
        """Make the model, with the same weights each time, and leave torch's generator as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.data_seed)
            return MODELS[self.model]()

    def make_optimizer(self) -> Callable[..., torch.optim.Optimizer]:
        """Give what makes the optimizer."""
        return OPTIMIZERS.get(self.optimizer, torch.optim.AdamW)

    def make_update(self, make: Callable[..., torch.optim.Optimizer]) -> UpdateRule | None:
        """Give the chain around the optimizer, None where it is alone."""
        if self.optimizer != CHAIN:
            return None
        return chain(
            accumulate(2),
            clip_norm(0.5),
            optimizer(make, lr=self.lr, weight_decay=lambda step: 0.1 / (1 + step)),
            ema(0.9),
        )

    def batches(self, phase: str) -> list[Batch]:
        """Make the batches of a phase, the same each time."""
        source = torch.Generator().manual_seed(self.data_seed + (1 if phase == "train" else 2))
        return [
            (
                torch.randn(size, 4, generator=source),
                torch.randint(0, CLASSES, (size,), generator=source),
            )
            for size in (self.train if phase == "train" else self.valid)
        ]

    def samples(self) -> Batch:
        """Give all training samples in one batch, for loaders that cut their own."""
        batches = self.batches("train")
        return torch.cat([inputs for inputs, _ in batches]), torch.cat([target for _, target in batches])

    def loaders(self) -> Loaders:
        """Make lists of batches."""
        valid = self.batches("valid")
        sets = {"one": valid, "named": {"near": valid, "far": [*valid, *valid[:1]]}, "none": None}
        return Loaders(self.batches("train"), sets[self.sets])

    @property
    def monitor(self) -> str:
        """A loss to monitor."""
        return {"one": "loss", "named": "far/loss", "none": "train/loss"}[self.sets]

    def learner(
        self, subs: Sequence[Subscriber[Batch]] = (), sinks: Sequence[Sink] = (), device: torch.device | None = None
    ) -> Learner[Batch]:
        """Make a learner that shares no memory with any other."""
        return Learner(
            self.make_model(),
            self.loaders(),
            cross_entropy,
            accuracy,
            self.make_optimizer(),
            self.lr,
            subs,
            sinks=sinks,
            device=self.device if device is None else device,
            capture=self.capture,
            update=self.make_update(self.make_optimizer()),
        )


def setups(
    models: Sequence[str] = tuple(MODELS),
    optimizers: Sequence[str] = (*OPTIMIZERS, CHAIN),
    sets: Sequence[Sets] = ("one",),
) -> st.SearchStrategy[Setup]:
    """Draw configurations: the last batch may be shorter."""
    full = st.integers(2, 6)

    def sizes(size: int) -> st.SearchStrategy[tuple[int, ...]]:
        return st.builds(lambda count, last: (*(size,) * count, min(size, last)), st.integers(0, 3), st.integers(2, 6))

    return st.builds(
        Setup,
        model=st.sampled_from(list(models)),
        optimizer=st.sampled_from(list(optimizers)),
        lr=st.sampled_from([0.5, 0.05, 0.01]),
        train=full.flatmap(sizes),
        valid=full.flatmap(sizes),
        data_seed=st.integers(0, 1000),
        capture=st.booleans(),
        sets=st.sampled_from(list(sets)),
    )


class Rolled(BaseModel, frozen=True):
    """The sum of what was drawn."""

    total: float = 0.0


ROLLED: Final = Slot("laws.rolled", Rolled, default=Rolled())


class Rolls(Subscriber[Batch]):
    """Draws a number from torch's generator at each event, and keeps the sum: pure, since the state's key rules it."""

    def _roll(self, state: TrainState) -> TrainState:
        return state.put(ROLLED, Rolled(total=2 * state.get(ROLLED).total + torch.rand(()).item()))

    def before_fit(self, state: TrainState) -> TrainState:
        """Draw."""
        return self._roll(state)

    def after_fit(self, state: TrainState) -> TrainState:
        """Draw."""
        return self._roll(state)

    def before_epoch(self, state: TrainState) -> TrainState:
        """Draw."""
        return self._roll(state)

    def after_epoch(self, state: TrainState) -> TrainState:
        """Draw."""
        return self._roll(state)

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        """Draw."""
        return self._roll(state)

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        """Draw."""
        return self._roll(state)


class Kept:
    """A state, and what it was when it was returned: copies of its tensors, and a twin that shares nothing with it."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.params = {name: tensor.clone() for name, tensor in state.params.items()}
        self.buffers = {name: tensor.clone() for name, tensor in state.buffers.items()}
        self.twin = copy.deepcopy(state)
        self.record = state.model_dump_json()

    def check(self) -> None:
        """Fail if the state is no longer what it was, in any bit."""
        assert same_bits(dict(self.state.params), self.params)
        assert same_bits(dict(self.state.buffers), self.buffers)
        assert self.state == self.twin
        assert self.state.model_dump_json() == self.record


def finish(learner: Learner[Batch], state: TrainState) -> list[TrainState]:
    """Fold `advance` until the machine stands at its end; give a copy of every state on the way."""
    states: list[TrainState] = []
    while state.progress.at != "finished":
        state = advance(learner, state).state
        states.append(copy.deepcopy(state))
        assert len(states) < 1000, f"the machine does not come to an end: {state!r}"
    return states
