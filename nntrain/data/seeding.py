"""Items of somebody else's iterables, each made under a seed of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import TypeVar

import torch

from nntrain.values.key import Key
from nntrain.values.randomness import restoring_rng, seed_all, transforming

Item = TypeVar("Item")


def seeded_items(items: Iterable[Item], own: Sequence[torch.Generator], order: Key) -> Iterator[Item]:
    """Yield the items, each made under a seed of its own.

    The generators in `own`, which the user gave to the iterable, are seeded once, and restored after each item.
    """
    sources = list(own)
    states: list[torch.Tensor] = []
    iterator: Iterator[Item] | None = None
    for number in count():
        with restoring_rng(sources), transforming(order.fold_in(number).bits):
            if iterator is None:
                seed_all(sources, order.bits)
                iterator = iter(items)
            else:
                for source, state in zip(own, states, strict=True):
                    source.set_state(state)
            try:
                item = next(iterator)
            except StopIteration:
                return
            states = [source.get_state() for source in own]
        yield item


def generators_of(loader: object) -> list[torch.Generator]:
    """Return the generators that a DataLoader or its samplers were given."""
    found: list[torch.Generator] = []
    sampler = getattr(loader, "sampler", None)
    batch_sampler = getattr(loader, "batch_sampler", None)
    for holder in (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator) and generator not in found:
            found.append(generator)
    return [generator for generator in found if generator is not torch.default_generator]
