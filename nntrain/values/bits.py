"""Equality by bits: NaN equals the same NaN, and -0.0 is not 0.0.

Two trainings are the same when their bits are; `==` of floats and of tensors says less (NaN) and more (zeros).
"""

from __future__ import annotations

import dataclasses
import struct
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import torch
from pydantic import BaseModel

from nntrain.values.shards import is_sharded, laid_out_as, own_part

_EXACT: Final = frozenset({int, str, bool, bytes, type(None)})
"""Types of which `==` says whether the bits are the same."""
_AS_WHOLE: Final = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.int64: torch.int64,
    torch.int32: torch.int32,
    torch.uint8: torch.uint8,
    torch.bool: torch.uint8,
}
"""The whole numbers as which a tensor's elements can be compared where they lie; of other types their bytes are."""


def same_bits(one: object, other: object) -> bool:
    """Compare two trees of records, mappings, sequences, numbers and tensors bit by bit."""
    if one is other:
        return True
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return same_tensor(one, other)
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _EXACT:
        return bool(one == other)
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, BaseModel) and isinstance(other, BaseModel):
        if type(one).__eq__ is not BaseModel.__eq__:
            return one == other
        return same_bits(fields_of(one), fields_of(other)) and same_bits(
            one.__pydantic_private__, other.__pydantic_private__
        )
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple, deque)) and isinstance(other, (list, tuple, deque)):
        longest = getattr(one, "maxlen", None) == getattr(other, "maxlen", None)
        return longest and len(one) == len(other) and all(map(same_bits, one, other))
    if isinstance(one, datetime) and isinstance(other, datetime):
        return _shown_by_clock(one) == _shown_by_clock(other)
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        return all(
            same_bits(getattr(one, field.name, None), getattr(other, field.name, None))
            for field in dataclasses.fields(one)
        )
    return bool(one == other)


def fields_of(record: BaseModel) -> dict[str, object]:
    """Return a record's fields, extra ones too. What else it carries (a `cached_property`) is computed of these."""
    kept = {name: record.__dict__[name] for name in type(record).model_fields if name in record.__dict__}
    return {**kept, **(record.__pydantic_extra__ or {})}


def _shown_by_clock(moment: datetime) -> object:
    """Return what a moment is beside an instant: what the clock on the wall shows, and where that hangs."""
    zone = getattr(moment.tzinfo, "key", None)  # the name of a `ZoneInfo`; others differ by their offset only
    return moment.replace(tzinfo=None, fold=0), moment.utcoffset(), zone, zone and moment.fold


def same_tensor(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare shape, dtype and every bit; devices and strides are no part of a tensor's value.

    Of sharded tensors this rank's parts are compared.
    """
    if one.shape != other.shape or one.dtype != other.dtype or one.layout != other.layout:
        return False
    one = one.detach() if one.requires_grad else one
    other = other.detach() if other.requires_grad else other
    if is_sharded(one):
        one, other = own_part(one), own_part(laid_out_as(other, one))
    elif is_sharded(other):
        return same_tensor(other, one)
    if one.layout != torch.strided:
        return same_tensor(one.to_dense(), other.to_dense())
    if other.device != one.device:
        other = other.to(one.device)
    whole = _AS_WHOLE.get(one.dtype)
    if whole is not None and not (one.is_neg() or other.is_neg()):
        return torch.equal(one.view(whole), other.view(whole))
    return torch.equal(as_bytes(one), as_bytes(other))


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return a strided tensor's elements, in their order, as bytes: its own memory where it is contiguous."""
    flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # of one element, which is contiguous whatever its stride is
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)
