"""A failure at any line of a step: what was kept is whole, and what is left leads to the training as it would be.

A second Ctrl-C, a handler of SIGALRM that raises, a lack of memory or of stack come wherever Python is. So each kind is
raised here at each line of the rooms that take a step, one line at a time: in training and in eval, with a model that
writes its buffers, subscribers that are asked, optimizers with memory, and states that somebody keeps.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import nntrain
from nntrain import BatchOutput, DataLoaders, Learner, Subscriber, TrainState, accuracy, advance, fit_step, state_before
from nntrain.update import accumulate, chain, clip_norm, ema, optimizer
from tests.laws.strategies import learner_with
from tests.sampled import TRIES

Batch = tuple[Tensor, Tensor]
PACKAGE: Final = Path(nntrain.__file__).parent
ROOMS: Final = tuple(str(PACKAGE / room) for room in ("machine", "live", "update", "subscribers", "sinks", "values"))
NOT_OURS: Final = ("interrupts.py", "turn.py")
"""What holds signals back and takes turns undoes itself by `with` blocks; Python itself may be interrupted there."""
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 3, generator=SOURCE), torch.randint(0, 2, (4,), generator=SOURCE)) for _ in range(3)]


class Passes(Subscriber[Batch]):
    """Is asked about each batch."""

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        return state

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        return state


class Reads(Passes):
    """Has the optimizer write early."""

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        assert state.params["0.weight"].isfinite().all()
        return state


OPTIMIZERS: Final[dict[str, Any]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "lbfgs": functools.partial(torch.optim.LBFGS, max_iter=2),
}

RULES: Final = chain(
    clip_norm(0.5),
    accumulate(2),
    optimizer(torch.optim.Adam, lr=lambda step: 0.05 / (1 + step)),
    ema(0.9),
)
BATCHES: Final = {"chain": 1, "chain, a batch that waits": 0, "chain, the rest": 3}
"""Before which batch of three the state stands; by default the second. After the third the rest is written."""


def learner_of(optimizer: str, subs: Sequence[Subscriber[Batch]], sinks: Sequence[Any]) -> Learner[Batch]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 2))
    dls = DataLoaders(DATA, DATA[:2])
    optim_class, update = OPTIMIZERS.get(optimizer, torch.optim.Adam), None if optimizer in OPTIMIZERS else RULES
    return learner_with(update, model, dls, cross_entropy, accuracy, optim_class, 0.05, list(subs), sinks=list(sinks))


class AtLine:
    """Raises `kind` at the line of number `at` that Python comes to in the rooms, once; counts them all."""

    def __init__(self, at: int, kind: type[BaseException]) -> None:
        self.kind = kind
        self.left = at
        self.seen = 0
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        name = frame.f_code.co_filename
        return self.line if name.startswith(ROOMS) and not name.endswith(NOT_OURS) else None

    def line(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        if event == "line":
            self.seen += 1
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
                raise self.kind(self.where)
        return self.line


def stepped(learner: Learner[Batch], cell: list[TrainState], tracer: AtLine) -> TrainState | BaseException:
    """Take the state's next transition under the tracer. The cell is emptied, so that nobody else keeps the state."""
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        return advance(learner, cell.pop()).state
    except tracer.kind as error:
        return error
    finally:
        sys.settrace(before)


def at_batch(learner: Learner[Batch], phase: str, batch: int) -> TrainState:
    """Return the state before a batch of a phase."""
    state = learner.init(epochs=1)
    while (state.progress.at, state.progress.phase, state.progress.batch) != ("batch", phase, batch):
        state = advance(learner, state).state
    return state


BATCH: Final = {
    "Machine._batch",
    "Machine._write_rest",
    "Machine._ask_before",
    "Machine._ask_after",
    "Machine._publish",
    "Eager.run",
    "Workspace.begin",
    "Workspace.compute",
    "Workspace._backward",
    "Workspace.pending",
    "Workspace.commit",
    "Workspace._write",
    "Workspace._detach",
    "Workspace._give_copy",
    "LiveOptimizer._written",
    "WeightedSums.add",
    "Position.after",
    "publish",
}
"""What a batch goes through. Interrupted in any of it, the error leads to a whole state, from before or after it."""
CASES: Final = [
    pytest.param("adam", "train", [Passes()], [], True, id="adam, asked, kept", marks=pytest.mark.sweep),
    pytest.param("sgd", "eval", [Passes()], [lambda transition: None], True, id="eval, asked, told, kept"),
    pytest.param("sgd", "train", [], [], False, id="sgd", marks=pytest.mark.sweep),
    pytest.param("lbfgs", "train", [], [], False, id="lbfgs", marks=pytest.mark.sweep),
    pytest.param("chain", "train", [], [], False, id="chain", marks=pytest.mark.sweep),
    pytest.param("chain, a batch that waits", "train", [Reads()], [], False, id="chain waits", marks=pytest.mark.sweep),
    pytest.param("chain, the rest", "train", [], [], False, id="chain, the rest", marks=pytest.mark.sweep),
    pytest.param(
        "adam", "train", [Reads()], [lambda transition: None], False, id="read early", marks=pytest.mark.sweep
    ),
]


SHARES: Final = {KeyboardInterrupt: 2, MemoryError: 3}


def lines_of(optimizer: str, kind: type[BaseException], seen: int) -> range:
    """Return at which lines a failure comes: with --hypothesis-profile=sweep at each of them.

    To save time it is else each second or third, of which the cases begin with others: most lines are those of all.
    """
    if TRIES > 50:
        return range(1, seen + 1)
    share = SHARES[kind]
    return range(1 + [*OPTIMIZERS, *BATCHES].index(optimizer) % share, seen + 1, share)


@pytest.mark.parametrize(
    "kind",
    [KeyboardInterrupt, pytest.param(MemoryError, marks=pytest.mark.sweep)],  # what is no Exception, and what is one
)
@pytest.mark.parametrize(("optimizer", "phase", "subs", "sinks", "keeps"), CASES)
def test_a_failure_at_any_line_leaves_a_whole_state(
    optimizer: str,
    phase: str,
    subs: list[Subscriber[Batch]],
    sinks: list[Any],
    keeps: bool,
    kind: type[BaseException],
) -> None:
    learner = learner_of(optimizer, subs, sinks)
    start = copy.deepcopy(at_batch(learner, phase, BATCHES.get(optimizer, 1)))
    straight = fit_step(learner, start).state
    first = copy.deepcopy(advance(learner, start).state)
    count = AtLine(-1, kind)
    for _ in range(2):  # the first time other memory is there than later
        count = AtLine(-1, kind)
        learner.init()
        assert isinstance(stepped(learner, [copy.deepcopy(start)], count), TrainState)
        fit_step(learner, start)
    assert count.seen > 90
    lost: list[str] = []
    been: set[str] = set()
    reached = 0
    for line in lines_of(optimizer, kind, count.seen):
        tracer = AtLine(line, kind)
        learner.init()  # other values are in the live tensors
        state = copy.deepcopy(start)
        kept = [state] if keeps else []
        cell = [state]
        del state
        found = stepped(learner, cell, tracer)
        assert all(one == start for one in kept), f"a kept state has changed: {tracer.where}"
        if isinstance(found, TrainState):
            assert found == first
            continue
        been.add(tracer.where.split()[-1])
        left = state_before(found)
        if left is None:
            lost.append(tracer.where)
        else:
            reached += left == first
            written = left.progress.step == first.progress.step and left.tensors == first.tensors
            assert written or left in (start, first), f"a state that never was: {tracer.where}"
        after = fit_step(learner, left if left is not None else start).state
        assert after == straight, f"the training is another one afterwards: {tracer.where}"
    assert not {where.split()[-1] for where in lost} & BATCH, lost
    assert {"Machine._batch", "Workspace.commit"} <= been
    assert ("Machine._write_rest" if start.progress.batch == len(DATA) else "Eager.run") in been
    assert reached, "none came after the write"
