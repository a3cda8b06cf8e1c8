"""Randomness that is borrowed and given back: global generators, seeded for a step or a batch and then as they were.

Of torch a seed takes 1.1 µs and reading or setting the CPU generator's state under 1 µs, so every step can do it. With
those of Python and NumPy, which random transforms draw from, it is 90 µs: that is done where somebody else's code makes
a batch, and not for batches that are there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch


def generators(device: torch.device | None = None) -> list[torch.Generator]:
    """Return torch's global generators that a step on `device` may draw from."""
    found = [torch.default_generator]
    if device is not None and device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call] # torch leaves it untyped
        index = device.index if device.index is not None else torch.cuda.current_device()
        found.append(torch.cuda.default_generators[index])
    return found


def seed_all(sources: list[torch.Generator], bits: int) -> None:
    """Seed each generator with `bits`."""
    for source in sources:
        source.manual_seed(bits)


@contextmanager
def restoring_rng(sources: list[torch.Generator]) -> Iterator[None]:
    """Put the generators back at the end of the block as they were at its beginning."""
    states = [source.get_state() for source in sources]
    try:
        yield
    finally:
        for source, state in zip(sources, states, strict=True):
            source.set_state(state)


@contextmanager
def seeded(bits: int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block under generators seeded with `bits`, and put them back after it."""
    sources = generators(device)
    with restoring_rng(sources):
        seed_all(sources, bits)
        yield


def seed_for_transforms(bits: int) -> None:
    """Seed what a transform may draw from: torch's CPU generator, Python's and NumPy's global ones."""
    torch.default_generator.manual_seed(bits)
    random.seed(bits)
    numpy = _numpy_random()
    if numpy is not None:
        numpy.seed(bits & 0xFFFFFFFF)


@contextmanager
def kept_outside_torch() -> Iterator[None]:
    """Put Python's and NumPy's global generators back at the end of the block as they were at its beginning."""
    numpy = _numpy_random()
    python_state = random.getstate()
    numpy_state = numpy.get_state() if numpy is not None else None
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.set_state(numpy_state)


@contextmanager
def transforming(bits: int) -> Iterator[None]:
    """Run a block in which a batch is made by somebody else's code, seeded with `bits`; put the generators back."""
    with kept_outside_torch(), restoring_rng([torch.default_generator]):
        seed_for_transforms(bits)
        yield


def drawn_so_far() -> tuple[object, ...]:
    """Return where the global generators of torch (on the CPU), Python and NumPy stand; equal where none was drawn."""
    numpy = _numpy_random()
    of_numpy: tuple[object, ...] = ()
    if numpy is not None:
        kind, words, *rest = numpy.get_state()
        of_numpy = kind, words.tobytes(), *rest
    return bytes(torch.default_generator.get_state().numpy()), random.getstate(), of_numpy


@lru_cache(maxsize=1)
def _numpy_random() -> Any:
    """Return NumPy's global generator, None where there is no NumPy."""
    try:
        return import_module("numpy").random
    except ImportError:
        return None
