"""The records: frozen, without unknown fields, compared by bits, shown and written as text."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from nntrain import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Cancelled,
    Completed,
    DataLoaders,
    EpochStats,
    Key,
    Learner,
    NNTrainError,
    Progress,
    Slot,
    TrainState,
    accuracy,
    advance,
)
from nntrain.values.bits import same_bits
from nntrain.values.history import History
from nntrain.values.record import FrozenMapping
from nntrain.values.sums import Sums, WeightedSums


class Count(BaseModel, frozen=True):
    value: float = 0.0


SLOT = Slot("tests.count", Count, default=Count())
BATCHES = [(torch.eye(3), torch.tensor([0, 1, 0]))] * 2


def learner_of(loss: float | None = None) -> Learner[tuple[Tensor, Tensor]]:
    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(preds, target)
        return value if loss is None else value * 0 + loss

    model = nn.Linear(3, 2)
    return Learner(model, DataLoaders(BATCHES, BATCHES), loss_fn, accuracy, torch.optim.SGD, 0.1)


STATE = learner_of().init(epochs=1)
RECORDS: list[tuple[BaseModel, str, object]] = [
    (STATE, "key", Key(seed=1)),
    (STATE.progress, "step", 3),
    (STATE.key, "seed", 3),
    (EpochStats(epoch=0, phase="train", loss=1.0, samples=1, batches=1), "loss", 2.0),
    (CancelBatch(), "reason", "x"),
    (CancelEpoch(), "reason", "x"),
    (CancelFit(), "state", STATE),
    (Completed(state=STATE), "state", STATE),
    (Cancelled(state=STATE, verdict=CancelFit(), by="me", event="before_fit"), "by", "you"),
    (Sums(), "samples", 1),
]


@pytest.mark.parametrize(("record", "field", "value"), RECORDS, ids=[type(one[0]).__name__ for one in RECORDS])
def test_records_are_frozen_and_take_no_unknown_field(record: BaseModel, field: str, value: object) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, field, value)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        type(record)(**{**record.__dict__, "color": "red"})
    assert type(record)(**record.__dict__) == record
    assert hash(type(record)(**record.__dict__)) == hash(record)


@pytest.mark.parametrize(
    "wrong", [{"epoch": -1}, {"step": 1.5}, {"phase": "test"}, {"at": "somewhere"}, {"samples": "many"}]
)
def test_progress_is_validated(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Progress(**wrong)


def test_mappings_in_records_cannot_be_changed() -> None:
    given_metrics = {"acc": 0.5}
    stats = EpochStats(epoch=0, phase="eval", loss=1.0, metrics=given_metrics, samples=1, batches=1)  # type: ignore[arg-type] # a plain dict is taken too
    given_metrics["acc"] = 0.9
    assert dict(stats.metrics) == {"acc": 0.5}
    with pytest.raises(TypeError):
        stats.metrics["acc"] = 0.9  # type: ignore[index] # the mistake
    with pytest.raises(ValidationError):
        EpochStats(epoch=0, phase="eval", loss=1.0, metrics={"acc": "good"}, samples=1, batches=1)  # type: ignore[arg-type] # the mistake


def test_equality_is_by_bits() -> None:
    def stats(loss: float, seconds: float = 0.0) -> EpochStats:
        return EpochStats(epoch=0, phase="train", loss=loss, samples=1, batches=1, seconds=seconds)

    assert stats(math.nan) == stats(math.nan, seconds=3.0)
    assert stats(0.0) != stats(-0.0)
    one, other = learner_of(), learner_of()
    state = one.init()
    assert state == copy.deepcopy(state)
    assert state != other.init()
    assert state != one.init(1)
    assert state != "a state"
    assert state.put(SLOT, Count(value=math.nan)) == state.put(SLOT, Count(value=math.nan))
    assert state.put(SLOT, Count(value=0.0)) != state.put(SLOT, Count(value=-0.0))


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_state_is_written_as_json_and_shown_in_one_line(loss: float | None) -> None:
    learner = learner_of(loss)
    state = learner.init(epochs=1)
    while state.progress.at != "finished":
        record = json.loads(state.put(SLOT, Count(value=3.0)).model_dump_json(), parse_constant=lambda _: 1 / 0)
        assert record["tensors"]["params"] == {
            "weight": {"shape": [2, 3], "dtype": "float32"},
            "bias": {"shape": [2], "dtype": "float32"},
        }
        assert record["progress"]["at"] == state.progress.at
        assert record["slots"] == {"tests.count": {"value": 3.0}}
        assert len(record["history"]) == len(state.history)
        assert repr(state) == str(state)
        assert "\n" not in repr(state)
        if state.progress.samples:
            mean = state.sums.weighted.tolist()[0] / state.sums.samples
            assert f"loss={mean:.4g}" in repr(state)
        state = advance(learner, state).state
    assert len(state.history) == 2


def test_a_state_is_never_pickled() -> None:
    for thing in (STATE, Completed(state=STATE), {"state": STATE}):
        with pytest.raises(pickle.PicklingError, match="runs code") as caught:
            pickle.dumps(thing)
        assert isinstance(caught.value, NNTrainError)


def test_model_copy_shares_the_value() -> None:
    state = learner_of().init(epochs=1)
    other = state.model_copy(update={"key": Key(seed=5)})
    assert isinstance(other, TrainState)
    assert other.key.seed == 5
    assert other.tensors == state.tensors


@given(seed=st.integers(0, 2**63 - 1), folds=st.lists(st.integers(0, 2**40), max_size=4))
def test_a_key_is_a_pure_function_of_seed_and_folds(seed: int, folds: list[int]) -> None:
    key = Key(seed=seed)
    assert key.fold_in(*folds) == Key(seed=seed, folds=tuple(folds))
    assert key.fold_in(*folds).bits == key.derived(*folds)
    assert 0 <= key.bits < 2**63
    assert key.fold_in(*folds, 0).bits != key.fold_in(*folds, 1).bits


def test_keys_do_not_run_into_each_other() -> None:
    found = {
        Key(seed=seed).fold_in(use, number).bits for seed in range(20) for use in range(5) for number in range(100)
    }
    assert len(found) == 20 * 5 * 100


@given(
    batches=st.lists(
        st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(0, 1, width=32), st.integers(1, 2048)), min_size=1
    ),
    where=st.sampled_from(["floats", "device", "moved"]),
)
def test_sums_are_float64_wherever_they_are(batches: list[tuple[float, float, int]], where: str) -> None:
    device = torch.device("cpu") if where == "device" else None
    totals = WeightedSums()
    for number, (loss, metric, samples) in enumerate(batches):
        if where == "moved":  # from a device's sums to floats and back, as where a state changes learners
            device = torch.device("cpu") if number % 3 == 1 else None
        totals = totals.add([torch.tensor(loss), metric], samples, device, ("metric",))
    exact = [math.fsum(batch[which] * batch[2] for batch in batches) for which in (0, 1)]
    for total, wanted in zip(totals.tolist(), exact, strict=True):
        assert total == pytest.approx(wanted, rel=1e-12, abs=1e-6)


@given(
    batches=st.lists(st.tuples(st.floats(width=32), st.floats(width=32), st.integers(1, 2**29)), min_size=1),
)
def test_the_short_way_to_add_a_device_s_means_has_the_bits_of_the_long_one(
    device: torch.device, batches: list[tuple[float, float, int]]
) -> None:
    here = torch.zeros((), device=device).device  # cuda:0 for cuda
    short = long = WeightedSums()
    for loss, metric, samples in batches:
        means = [torch.tensor(mean, device=here) for mean in (loss, metric)]
        short = short.add(means, samples, here, ("metric",))
        long = long.plus(WeightedSums.summed(means, samples, here), ("metric",))
    assert short == long


def test_frozen_mapping_and_history_are_values() -> None:
    one = FrozenMapping({"a": 1})
    assert one.put("b", 2) == {"a": 1, "b": 2}
    assert dict(one) == {"a": 1}
    assert hash(FrozenMapping({"a": 1})) == hash(one)
    assert repr(one) == "{'a': 1}"
    assert History() == ()


class Average(BaseModel, frozen=True, arbitrary_types_allowed=True):
    weights: Tensor
    loss: float = math.nan


def test_a_tensor_in_a_slot_is_compared_copied_and_summarised() -> None:
    slot = Slot("tests.average", Average, default=Average(weights=torch.zeros(2)))
    state = learner_of().init().put(slot, Average(weights=torch.ones(2, 3)))
    assert json.loads(state.model_dump_json())["slots"] == {
        "tests.average": {"weights": {"shape": [2, 3], "dtype": "float32"}, "loss": None}
    }
    assert copy.deepcopy(state) == state
    assert state != state.put(slot, Average(weights=torch.zeros(2, 3)))


def test_sparse_tensors_are_compared_by_their_values() -> None:
    one, other = torch.eye(3).to_sparse(), (2 * torch.eye(3)).to_sparse()
    assert same_bits(one, torch.eye(3).to_sparse())
    assert not same_bits(one, other)


@given(
    batches=st.lists(
        st.tuples(st.sampled_from([int, float, Tensor]), st.integers(0, 5), st.floats(-9, 9, width=32)), min_size=1
    )
)
def test_weights_of_any_kind_come_to_the_same_means_on_a_device_as_in_python(
    batches: list[tuple[type, int, float]],
) -> None:
    here, there, samples = WeightedSums(), WeightedSums(), 0
    for kind, weight, mean in batches:
        means = [torch.tensor(mean if weight else math.nan), torch.tensor(2.0)]
        given_weight: int | float | Tensor = torch.tensor(weight) if kind is Tensor else kind(weight)
        if given_weight == 0:
            given_weight = torch.tensor(0.0)
        here = here.add(means, given_weight, None, ("two",))
        there = there.add(means, given_weight, torch.device("cpu"), ("two",))
        samples += given_weight if isinstance(given_weight, int) else 0
    total = sum(weight for _, weight, _ in batches)
    right = sum(weight * mean for _, weight, mean in batches)
    for weighted in (here, there):
        sums = Sums(weighted=weighted, samples=samples, batches=len(batches))
        assert sums.weight == total
        loss, two = sums.means()
        if total:
            assert loss * total == pytest.approx(right, abs=1e-6)
            assert two == pytest.approx(2.0)
        else:
            assert math.isnan(loss)
