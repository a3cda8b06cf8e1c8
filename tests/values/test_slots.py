"""Records in slots are values: what is no part of one does not count, all that is does, and none changes later."""

from __future__ import annotations

import copy
from collections import deque
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, PrivateAttr
from torch import nn

from nntrain import DataLoaders, Learner, Record, Slot, accuracy
from nntrain.values.bits import same_bits

BATCHES = [(torch.eye(3), torch.tensor([0, 1, 0]))] * 2
STATE = Learner(
    nn.Linear(3, 2), DataLoaders(BATCHES, BATCHES), nn.functional.cross_entropy, accuracy, torch.optim.SGD, 0.1
).init()


class Computed(Record, frozen=True):
    values: tuple[float, ...] = ()

    @cached_property
    def total(self) -> float:
        return sum(self.values)


class Extra(BaseModel, frozen=True, extra="allow"):
    one: int = 0


class Private(BaseModel, frozen=True):
    one: int = 0
    _two: int = PrivateAttr(default=0)


class Anything(Record, frozen=True):
    value: Any = None


ANYTHING = Slot("tests.slots", Anything, default=Anything(value=[0]))


def test_what_a_record_computes_is_no_part_of_it() -> None:
    one, other = Computed(values=(1.0, 2.0)), Computed(values=(1.0, 2.0))
    assert one.total == 3.0
    assert same_bits(one, other)
    assert not same_bits(one, Computed(values=(1.0, 3.0)))


def test_extra_fields_and_private_attributes_are_parts_of_a_record() -> None:
    assert same_bits(Extra(two=1), Extra(two=1))  # type: ignore[call-arg] # an extra field
    assert not same_bits(Extra(two=1), Extra(two=2))  # type: ignore[call-arg] # an extra field
    one, other = Private(), Private()
    assert same_bits(one, other)
    (other.__pydantic_private__ or {})["_two"] = 1
    assert not same_bits(one, other)


def test_moments_are_the_same_where_the_clock_on_the_wall_and_its_zone_are() -> None:
    berlin = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    assert same_bits(berlin, datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")))
    for other in (ZoneInfo("Europe/Paris"), ZoneInfo("UTC"), timezone(timedelta(hours=2))):
        assert berlin == berlin.astimezone(other)
        assert not same_bits(berlin, berlin.astimezone(other))


MUTABLE = st.recursive(
    st.integers(0, 2),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2).map(tuple),
        st.lists(inner, max_size=2).map(deque),
        st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
        st.sets(st.integers(0, 2)),
        st.builds(Anything, value=inner),
    ),
    max_leaves=5,
)


def spoil(value: object) -> None:
    """Change all that can be changed within a value."""
    if isinstance(value, Anything):
        spoil(value.value)
    elif isinstance(value, dict):
        for part in value.values():
            spoil(part)
        value["spoilt"] = 1
    elif isinstance(value, set):
        value.add(99)
    elif isinstance(value, (list, tuple, deque)):
        for part in value:
            spoil(part)
        if not isinstance(value, tuple):
            value.append(99)


@given(value=MUTABLE)
def test_no_list_dict_or_set_changes_a_state_that_keeps_it(value: object) -> None:
    record = Anything(value=value)
    state = STATE.put(ANYTHING, record)
    twin = copy.deepcopy(state)
    spoil(record)
    assert state == twin
    spoil(state.get(ANYTHING))
    assert state == twin


def test_a_default_stays_what_it_is() -> None:
    spoil(STATE.get(ANYTHING))
    assert STATE.get(ANYTHING) == Anything(value=[0])


def test_a_record_of_what_cannot_change_is_not_copied() -> None:
    record = Anything(value=(1, "a", Computed(values=(1.0,)), torch.ones(2), STATE))
    assert STATE.put(ANYTHING, record).get(ANYTHING) is record


class Holder(BaseModel):
    value: int = 0


def test_a_record_in_a_record_that_is_not_frozen_is_copied() -> None:
    state = STATE.put(ANYTHING, Anything(value=Holder()))
    state.get(ANYTHING).value.value = 3
    assert state.get(ANYTHING).value.value == 0


@pytest.mark.parametrize("value", [deque([1, 2], 3), torch.Size([2])])
def test_sequences_of_other_classes_are_compared_with_their_class(value: Any) -> None:
    assert same_bits(value, copy.copy(value))
    assert not same_bits(value, tuple(value))
    assert not same_bits(deque([1, 2], 3), deque([1, 2], 4))


def test_a_view_of_one_element_has_bits_too() -> None:
    """It is contiguous for torch whatever its stride is, and torch then refuses to show its bytes."""
    column = torch.randn(5, 3)[:1, 1]
    assert column.stride() == (3,)
    assert same_bits(column, column.clone(memory_format=torch.contiguous_format))
    assert not same_bits(column, column + 1)
