"""`state.diff(other)`: nothing where the states are the same, and each value and tensor that is not."""

from __future__ import annotations

import copy
import enum
import math
import struct
from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from torch import Tensor

from nntrain import Learner, Slot, TrainState, advance
from nntrain.errors import ConfigError
from nntrain.values.differences import Difference
from nntrain.values.history import EpochStats, History
from nntrain.values.log_event import WarningEvent
from nntrain.values.record import evolved
from nntrain.values.slots import Unread
from nntrain.values.sums import Sums, WeightedSums
from nntrain.values.tensors import Snapshot, Tensors
from tests.laws.strategies import OPTIMIZERS, Rolls, Setup, finish, setups


class Anything(BaseModel, frozen=True, arbitrary_types_allowed=True):
    """Keeps whatever it is given, as it is."""

    value: Any = None


class Alike(Anything, frozen=True):
    """Has the same fields."""


class Nothing(BaseModel, frozen=True):
    """Has none."""


class Colour(enum.StrEnum):
    RED = "red"


ANYTHING: Final = Slot("tests.differences", Anything, default=Anything())
NOTHING: Final = Slot("tests.differences_nothing", Nothing, default=Nothing())


def nan(bits: int) -> float:
    """Give the NaN of some payload bits."""
    return float(struct.unpack(">d", (0x7FF8 << 48 | bits).to_bytes(8, "big"))[0])


def trained(setup: Setup = Setup(), batches: int = 2, seed: int = 0) -> TrainState:  # noqa: B008 - a value
    learner: Learner[Any] = setup.learner()
    state = learner.init(seed, epochs=1)
    while state.progress.batch < batches:
        state = advance(learner, state).state
    return copy.deepcopy(state)


STATE: Final = trained()


def keeping(value: object) -> TrainState:
    return STATE.put(ANYTHING, Anything(value=value))


def with_weight(state: TrainState, name: str, change: Any) -> TrainState:
    """Give a state in which one parameter is another tensor."""
    snapshot = state.tensors.snapshot()
    params = {**snapshot.params, name: change(snapshot.params[name].clone())}
    tensors = Tensors(state.tensors.spec, state.tensors.template, None, Snapshot(params, {}, snapshot.optim))
    return evolved(state, tensors=tensors)


def names(found: Difference) -> list[str]:
    return [*(one.name for one in found.values), *(one.name for one in found.tensors)]


# -- nothing where they are the same, and only there ----------------------------------------------------------------

SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([1 << 80, -(1 << 80)]),
    st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan, nan(1)]),
    st.sampled_from(["", "a", "1", "null", "(absent)", "ä\ud800"]),
    st.sampled_from([b"", b"a"]),
    st.just(Colour.RED),
    st.builds(torch.tensor, st.sampled_from([0.0, -0.0, math.nan, 1.0])),
    st.builds(torch.zeros, st.integers(0, 2)),
    st.builds(lambda size: torch.zeros(size, dtype=torch.float64), st.integers(0, 2)),
)
VALUES: Final = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b", "a/b", "1", ""]), inner, max_size=2),
        st.dictionaries(st.sampled_from([1, 2, "a"]), inner, max_size=2),
        st.builds(Anything, value=inner),
        st.builds(Alike, value=inner),
        st.frozensets(st.integers(0, 2), max_size=2),
    ),
    max_leaves=5,
)


@given(one=VALUES, other=VALUES)
def test_slots_differ_where_they_are_not_equal(one: object, other: object) -> None:
    first, second = keeping(one), keeping(other)
    found = first.diff(second)
    assert bool(found) == (first != second), str(found)
    assert bool(second.diff(first)) == bool(found)
    assert not first.diff(copy.deepcopy(first))
    if found:
        assert all(name.startswith("slots/tests.differences") for name in names(found))


@given(setup=setups(), seeds=st.tuples(st.integers(0, 1), st.integers(0, 1)), data=st.data())
@pytest.mark.sweep
def test_states_of_runs_differ_where_they_are_not_equal(
    setup: Setup, seeds: tuple[int, int], data: st.DataObject
) -> None:
    courses: list[list[TrainState]] = []
    for seed in seeds:
        learner = setup.learner([Rolls()])
        courses.append(finish(learner, learner.init(seed, epochs=1)))
    index = data.draw(st.integers(0, min(map(len, courses)) - 1))
    near = data.draw(st.integers(max(0, index - 1), min(len(courses[1]) - 1, index + 1)))
    one, other = courses[0][index], courses[1][near]
    found = one.diff(other)
    assert bool(found) == (one != other), str(found)
    assert (seeds[0] == seeds[1] and index == near) == (one == other)
    assert Difference.model_validate_json(found.model_dump_json()) == found
    assert found.same_tensors + len(found.tensors) >= len(one.params) + len(one.buffers)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ((), [], "slots/tests.differences/value: an empty tuple and an empty list"),
        ((1,), [1], "slots/tests.differences/value: a tuple and a list"),
        ({"0": 1}, [1], "slots/tests.differences/value: a mapping and a list"),
        ({}, None, "slots/tests.differences/value: an empty mapping and null"),
        ({"a": {}}, {}, "slots/tests.differences/value/a: an empty mapping and (absent)"),
        ({1: 2}, {"1": 2}, "slots/tests.differences/value/1: 2 and (absent)"),
        ({"a/b": 1, "a": {"b": 2}}, {"a/b": 2, "a": {"b": 1}}, "slots/tests.differences/value/a/b: 1 and 2"),
        (1, 1.0, "slots/tests.differences/value: 1 and 1.0"),
        (1, True, "slots/tests.differences/value: 1 and true"),
        (0.0, -0.0, "slots/tests.differences/value: 0.0 and -0.0"),
        (math.inf, -math.inf, "inf (bits 7ff0000000000000) and -inf (bits fff0000000000000)"),
        (nan(1), nan(2), "nan (bits 7ff8000000000001) and nan (bits 7ff8000000000002)"),
        ("(absent)", None, 'slots/tests.differences/value: "(absent)" and null'),
        (Anything(), Alike(), "value=Anything(value=None)"),
        (Colour.RED, "red", "slots/tests.differences: Anything(value=<Colour.RED: 'red'>) and Anything(value='red')"),
        (frozenset({1}), (1,), "slots/tests.differences/value: a frozenset and a tuple"),
    ],
)
def test_each_kind_of_difference_is_said(one: object, other: object, said: str) -> None:
    found = keeping(one).diff(keeping(other))
    assert said in str(found)


def test_a_slot_that_one_of_them_lacks_is_said_though_it_is_empty() -> None:
    found = STATE.diff(STATE.put(NOTHING, Nothing()))
    assert str(found.values[0]) == "slots/tests.differences_nothing: (absent) and an empty record"
    assert names(keeping(3).diff(STATE)) == ["slots/tests.differences/value"]
    unread = evolved(STATE, slots=STATE.slots.put(ANYTHING.name, Unread.model_validate({"fields": {"value": 3}})))
    assert keeping(3) != unread
    assert names(keeping(3).diff(unread)) == ["slots/tests.differences"]


# -- what it says ---------------------------------------------------------------------------------------------------


def test_of_two_equal_states_it_says_how_many_tensors_are_equal() -> None:
    found = STATE.diff(copy.deepcopy(STATE))
    assert not found
    assert found == Difference(same_tensors=8)  # four parameters, and a momentum for each
    assert str(found) == "8 tensors have equal bits"


def test_a_tensor_s_bits_are_counted_and_the_largest_difference_said() -> None:
    def changed(weight: Tensor) -> Tensor:
        weight[0, 0] += 0.5
        weight[1, 1] -= 0.25
        return weight

    found = STATE.diff(with_weight(STATE, "0.weight", changed))
    (one,) = found.tensors
    assert (one.name, one.what, one.elements, one.of) == ("params/0.weight", "bits", 2, 20)
    assert one.largest == pytest.approx(0.5)
    assert str(found) == "params/0.weight: 2 of 20 elements differ, by at most 0.5\n7 tensors have equal bits"
    assert not found.values


@pytest.mark.parametrize(
    ("one", "other", "largest", "said"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 0.5, "1 of 2 elements differ, by at most 0.5"),
        (torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]), 0.0, "1 of 2 elements differ, by at most 0"),
        (torch.tensor([nan(0)]), torch.tensor([1.0]), None, "1 of 1 elements differ, in no number"),
        (torch.tensor([math.inf]), torch.tensor([1.0]), math.inf, "1 of 1 elements differ, by at most inf"),
        (torch.tensor([True]), torch.tensor([False]), 1.0, "1 of 1 elements differ, by at most 1"),
        (torch.tensor([3 + 4j]), torch.tensor([0j]), 5.0, "1 of 1 elements differ, by at most 5"),
        (torch.tensor(7), torch.tensor(4), 3.0, "1 of 1 elements differ, by at most 3"),
        (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16), 1.0, "2 of 2 elements"),
        (torch.ones(2).to(torch.float8_e5m2), torch.zeros(2).to(torch.float8_e5m2), 1.0, "2 of 2 elements"),
        (
            torch.ones(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            None,
            "2 of 2 elements differ, in no number",
        ),
    ],
)
def test_the_largest_difference_of_any_dtype(one: Tensor, other: Tensor, largest: float | None, said: str) -> None:
    (found,) = keeping(one).diff(keeping(other)).tensors
    assert found.largest == largest
    assert said in str(found)


def test_the_bits_of_a_nan_differ_though_it_is_none() -> None:
    one = torch.tensor([0x7FC00000, 0], dtype=torch.int32).view(torch.float32)
    other = torch.tensor([0x7FC00001, 0], dtype=torch.int32).view(torch.float32)
    found = keeping(one).diff(keeping(other))
    assert [(tensor.elements, tensor.largest) for tensor in found.tensors] == [(1, 0.0)]
    assert not keeping(one).diff(keeping(one.clone()))


def test_shape_and_dtype_and_what_is_in_one_only() -> None:
    a, b = torch.zeros(2), torch.zeros(3)
    said = [
        str(keeping({"a": one}).diff(keeping({"a": other} if other is not None else {})).tensors[0])
        for one, other in ((a, b), (a, a.double()), (a, None), (a, 5))
    ]
    assert said == [
        "slots/tests.differences/value/a: [2] float32 and [3] float32",
        "slots/tests.differences/value/a: [2] float32 and [2] float64",
        "slots/tests.differences/value/a: only in the first, [2] float32",
        "slots/tests.differences/value/a: only in the first, [2] float32",
    ]
    (other_way,) = keeping({}).diff(keeping({"a": a})).tensors
    assert str(other_way) == "slots/tests.differences/value/a: only in the second, [2] float32"
    assert (other_way.first, other_way.second) == ("(absent)", "[2] float32")


def test_states_of_two_models_and_optimizers_are_compared_name_by_name() -> None:
    assert set(OPTIMIZERS) >= {"adam", "sgd"}
    found = trained(Setup(optimizer="adam")).diff(trained(Setup(model="linear", optimizer="sgd")))
    said = str(found).splitlines()
    assert "params/0.weight: only in the first, [5, 4] float32" in said
    assert "params/weight: only in the second, [3, 4] float32" in said
    assert "optim/0.weight/exp_avg: only in the first, [5, 4] float32" in said
    assert 'kind: "torch.optim.adam.Adam" and "torch.optim.sgd.SGD"' in said


def test_what_the_clock_said_is_left_out_wherever_it_stands() -> None:
    stats = EpochStats(epoch=0, phase="train", loss=1.0, samples=4, batches=1, seconds=1.0)
    sums = Sums(samples=4, batches=1, seconds=1.0)

    def state(seconds: float) -> TrainState:
        kept = keeping((evolved(stats, seconds=seconds), evolved(sums, seconds=seconds), STATE))
        inner = evolved(STATE, history=History([evolved(stats, seconds=seconds)]))
        return evolved(
            kept,
            sums=evolved(STATE.sums, seconds=seconds),
            history=History([evolved(stats, seconds=seconds)]),
            slots=kept.slots.put("tests.differences_inner", Anything(value=inner)),
        )

    assert state(1.0) == state(2.0)
    assert not state(1.0).diff(state(2.0))
    # What a subscriber calls so is no clock of ours.
    assert names(keeping({"seconds": 1.0}).diff(keeping({"seconds": 2.0}))) == ["slots/tests.differences/value/seconds"]
    other = evolved(state(1.0), history=History([evolved(stats, loss=2.0, seconds=3.0)]))
    assert names(state(1.0).diff(other)) == ["history/0/loss"]


def test_each_field_of_a_state_is_compared() -> None:
    stats = EpochStats(epoch=0, phase="train", loss=math.nan, samples=4, batches=1)
    others = {
        "progress/step": evolved(STATE, progress=evolved(STATE.progress, step=99)),
        "key/folds": evolved(STATE, key=STATE.key.fold_in(3)),
        "lr_scale": STATE.scale_lr(0.5),
        "sums/samples": evolved(STATE, sums=evolved(STATE.sums, samples=99)),
        "sums/totals/values": evolved(STATE, sums=evolved(STATE.sums, weighted=WeightedSums([1.0, 2.0], ("metric",)))),
        "history": evolved(STATE, history=History([stats])),
        "slots/tests.differences": keeping(1),
        "params/0.weight": with_weight(STATE, "0.weight", torch.neg),
        "optim/0.weight/momentum_buffer": evolved(STATE, tensors=trained(replace(Setup(), optimizer="sgd")).tensors),
        "logged": STATE.log(WarningEvent(code="a", text="b")),
    }
    for name, other in others.items():
        assert other != STATE
        found = names(STATE.diff(other))
        assert any(one == name or one.startswith(f"{name}/") for one in found), (name, found)


def test_sums_on_a_device_are_compared_as_numbers() -> None:
    def state(values: Any) -> TrainState:
        return evolved(STATE, sums=evolved(STATE.sums, weighted=WeightedSums(values, ("metric",))))

    tensor = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert state([1.0, 2.0]) == state(tensor)
    assert not state([1.0, 2.0]).diff(state(tensor))
    (found,) = state([1.0, math.nan]).diff(state(tensor)).values
    assert str(found) == "sums/totals/values/1: nan (bits 7ff8000000000000) and 2.0"


def test_what_the_optimizer_was_made_with_is_no_part_of_a_state() -> None:
    one, other = (copy.deepcopy(Setup(lr=lr).learner().init()) for lr in (0.5, 0.01))
    assert one.tensors.snapshot().optim.options != other.tensors.snapshot().optim.options
    assert one == other
    assert not one.diff(other)


def test_only_states_are_compared() -> None:
    with pytest.raises(ConfigError, match="another TrainState; got str"):
        STATE.diff("a")  # type: ignore[arg-type] # the mistake
