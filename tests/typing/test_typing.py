"""What mypy says of mistakes: the very message that a user reads, at the very line."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[2]
HEAD = """
from typing import Literal
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from nntrain import (
    BatchOutput, CancelBatch, CancelEpoch, CancelFit, Cancelled, Completed, DataLoaders, Learner, LogEvent, Outcome,
    Slot, Subscriber, TrainState, accuracy, batch_step, fit_step, on,
)
from nntrain.records import Record

Batch = tuple[Tensor, Tensor]

def learner(subs: list[Subscriber[Batch]], pairs: list[Batch]) -> Learner[Batch]:
    return Learner(nn.Linear(2, 2), DataLoaders(pairs, pairs), cross_entropy, accuracy, torch.optim.SGD, 0.1, subs)
"""

MISTAKES = {
    "cancels a batch where none runs": (
        """
class Wrong(Subscriber[Batch]):
    def before_epoch(self, state: TrainState) -> CancelBatch:  # here
        return CancelBatch()
""",
        'Return type "CancelBatch" of "before_epoch" incompatible with return type '
        '"TrainState | CancelEpoch | CancelFit" in supertype "nntrain.events.Subscriber"  [override]',
    ),
    "logs what is no event": (
        """
class Wrong(Subscriber[Batch]):
    def before_epoch(self, state: TrainState) -> TrainState:
        return state.log("mixed up")  # here
""",
        'Argument 1 to "log" of "TrainState" has incompatible type "str"; expected "LogEvent"  [arg-type]',
    ),
    "logs an event with a field of another type": (
        """
class Mixup(LogEvent, frozen=True):
    event: Literal["acme.mixup"] = "acme.mixup"
    alpha: float

Mixup(alpha="much")  # here
""",
        'Argument "alpha" to "Mixup" has incompatible type "str"; expected "float"  [arg-type]',
    ),
    "returns nothing": (
        """
class Wrong(Subscriber[Batch]):
    def after_epoch(self, state: TrainState) -> None:  # here
        pass
""",
        'Return type "None" of "after_epoch" incompatible with return type',
    ),
    "forgets the output": (
        """
class Wrong(Subscriber[Batch]):
    def after_batch(self, state: TrainState, batch: Batch) -> TrainState:  # here
        return state
""",
        'Signature of "after_batch" incompatible with supertype "nntrain.events.Subscriber"  [override]',
    ),
    "sees another kind of batch": (
        """
class Wrong(Subscriber[Batch]):
    def before_batch(self, state: TrainState, batch: dict[str, Tensor]) -> TrainState:  # here
        return state
""",
        'Argument 2 of "before_batch" is incompatible with supertype',
    ),
    "listens to another kind of batch": (
        """
class Words(Subscriber[dict[str, Tensor]]):
    pass

learner([Words()], [])  # here
""",
        'List item 0 has incompatible type "Words"; expected "Subscriber[tuple[Tensor, Tensor]]"  [list-item]',
    ),
    "subscribes to a learner of another kind of batch": (
        """
class Words(Subscriber[dict[str, Tensor]]):
    pass

def wrong(learner: Learner[Batch], dls: DataLoaders[Batch]) -> None:
    sgd = torch.optim.SGD
    Learner(nn.Linear(2, 2), dls, cross_entropy, accuracy, sgd, 0.1, [Subscriber[Batch](), Words()])  # here
""",
        'List item 1 has incompatible type "Words"; expected "Listening[tuple[Tensor, Tensor]]"  [list-item]',
    ),
    "decorates a function that answers too much": (
        """
@on("after_fit")  # here
def wrong(state: TrainState) -> TrainState | CancelEpoch:
    return state
""",
        "has incompatible type",
    ),
    "names no event": (
        """
on("after_step")  # here
""",
        'No overload variant of "on" matches argument type "str"  [call-overload]',
    ),
    "changes a state": (
        """
def wrong(state: TrainState) -> None:
    state.progress.epoch = 3  # here
""",
        'Property "epoch" defined in "Progress" is read-only  [misc]',
    ),
    "keeps another record in a slot": (
        """
class One(Record, frozen=True):
    value: int = 0

def wrong(state: TrainState) -> str:
    return state.get(Slot("a.b", One, default=One()))  # here
""",
        'Incompatible return value type (got "One", expected "str")  [return-value]',
    ),
    "steps an outcome": (
        """
def wrong(learner: Learner[Batch], outcome: Outcome) -> None:
    fit_step(learner, outcome, 1)  # here
""",
        'Argument 2 to "fit_step" has incompatible type "Completed | Cancelled"; expected "TrainState"  [arg-type]',
    ),
    "steps another kind of batch": (
        """
def wrong(learner: Learner[Batch], state: TrainState) -> None:
    batch_step(learner, state, "a batch")  # here
""",
        'Cannot infer value of type parameter "Batch" of "batch_step"  [misc]',
    ),
    "forgets a kind of outcome": (
        """
from typing import assert_never

def wrong(outcome: Outcome) -> TrainState:
    match outcome:
        case Completed(state=state):
            return state
        case _:
            assert_never(outcome)  # here
""",
        'Argument 1 to "assert_never" has incompatible type "Cancelled"; expected "Never"  [arg-type]',
    ),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Run mypy once over one file for each mistake; give the lines it says of each."""
    folder = tmp_path_factory.mktemp("mistakes")
    files = {name: folder / f"{name.replace(' ', '_')}.py" for name in MISTAKES}
    for name, path in files.items():
        path.write_text(HEAD + MISTAKES[name][0])
    output, errors, _ = api.run(["--config-file", str(ROOT / "mypy.ini"), *map(str, files.values())])
    assert not errors, errors
    lines = [line for line in output.splitlines() if ": error:" in line]
    return {name: [line for line in lines if path.name in line] for name, path in files.items()}


@pytest.mark.parametrize("name", MISTAKES)
def test_mypy_names_the_mistake_at_its_line(said: dict[str, list[str]], name: str) -> None:
    code, message = MISTAKES[name]
    line = next(number for number, text in enumerate((HEAD + code).splitlines(), 1) if "# here" in text)
    assert len(said[name]) == 1, said[name]
    assert f":{line}: error: " in said[name][0]
    assert message in said[name][0]


def test_what_is_right_is_accepted() -> None:
    said, errors, code = api.run(["--config-file", str(ROOT / "mypy.ini"), str(Path(__file__).parent / "accepted.py")])
    assert code == 0, said + errors
