"""Equality by bits: NaN equals the same NaN, and -0.0 is not 0.0.

Two trainings are the same when their bits are; `==` of floats and of tensors says less (NaN) and more (zeros).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel


def same_bits(one: object, other: object) -> bool:
    """Compare two trees of records, mappings, sequences, numbers and tensors bit by bit."""
    if one is other:
        return True
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return same_tensor(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, BaseModel) and isinstance(other, BaseModel):
        if type(one).__eq__ is not BaseModel.__eq__:
            return one == other
        return same_bits(one.__dict__, other.__dict__)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return _same_items(one, other)
    return bool(one == other)


def _same_items(one: Sequence[object], other: Sequence[object]) -> bool:
    return len(one) == len(other) and all(map(same_bits, one, other))


def same_tensor(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare shape, dtype and every bit; devices and strides are no part of a tensor's value."""
    if one.shape != other.shape or one.dtype != other.dtype or one.layout != other.layout:
        return False
    one, other = one.detach(), other.detach()
    if one.layout != torch.strided:
        return same_tensor(one.to_dense(), other.to_dense())
    if other.device != one.device:
        other = other.to(one.device)
    return bool(torch.equal(as_bytes(one), as_bytes(other)))


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return a strided tensor's elements, in their order, as bytes: its own memory where it is contiguous."""
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
