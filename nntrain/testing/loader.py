"""`check_loader`: a loader's batches are a function of (key, epoch, start)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

from nntrain.data.loaders import Loader
from nntrain.errors import ConfigError
from nntrain.testing.broken import LawBrokenError
from nntrain.testing.plans import Batch
from nntrain.testing.purity import changed, world
from nntrain.testing.shown import copied
from nntrain.testing.trying import expect_callable, st, tried
from nntrain.values.bits import same_bits
from nntrain.values.key import Key


def check_loader(make: Callable[[], Loader[Batch]], *, most_batches: int = 64, examples: int = 20) -> None:
    """Hold a loader to what resuming needs: batch k of an epoch is a function of (key, epoch, k), and of nothing else.

    `make` gives a new loader of the same data each time. Of an epoch the first `most_batches` are looked at; make it
    over a small piece of your data.

    Raises `LawBrokenError`: an epoch that is another one when it is read again, by another loader, or from its middle
    on ("determinism", "resume"); two readers that are in each other's way ("branch"); a process that is not as it was
    ("manners"); no batch at all ("answers").
    """
    expect_callable(make, "make", "what makes a new loader each time: a class, or a lambda")
    made: object = make()
    if not callable(getattr(made, "batches", None)):
        raise ConfigError(
            f"make gave {made!r:.80}; expected a Loader, which has batches(key, epoch, start). Lists and torch's "
            f"DataLoaders are made into one by the learner, and need no check."
        )
    drawn = st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, most_batches))
    tried(lambda one: _check(make, most_batches, *one), drawn, examples)


def _check(make: Callable[[], Loader[Batch]], most: int, seed: int, epoch: int, start: int) -> None:
    loader = make()
    name, key = type(loader).__name__, Key(seed=seed)
    run = f"Key(seed={seed}), epoch {epoch}"

    def read(loader: Loader[Batch], epoch: int = epoch, start: int = 0) -> list[Any]:
        return [copied(one) for one in islice(loader.batches(key, epoch, start), most - start)]

    before, drawn = world(), torch.get_rng_state()
    whole = read(loader)
    moved = changed(before, world())
    if not torch.equal(drawn, torch.get_rng_state()):
        moved.append("torch's global generator")
    if moved:
        said = f"it changed {' and '.join(moved)}. Draw from torch.Generator().manual_seed(key.fold_in(epoch).bits)"
        raise LawBrokenError("manners", name, said, run=run)
    if not whole:
        raise LawBrokenError("answers", name, "it gave no batch", run=run)
    read(loader, epoch + 1)
    for again, said in (
        (loader, "read again after another epoch"),
        (make(), "read by another loader"),
    ):
        index = _parted(whole, read(again))
        if index is not None:
            raise LawBrokenError("determinism", name, f"batch {index} is another one when {said}", run=run)
    start %= len(whole)
    index = _parted(whole[start:], read(make(), start=start))
    if index is not None:
        said = f"begun at batch {start}, batch {start + index} is another one than in an epoch read from its beginning"
        raise LawBrokenError("resume", name, f"{said}: resumed runs differ", run=run)
    one, other = (iter(loader.batches(key, number, 0)) for number in (epoch, epoch + 1))
    index = _parted(whole, list(_in_turns(one, other, most)))
    if index is not None:
        said = f"batch {index} is another one when the next epoch is read beside it: two readers share a memory"
        raise LawBrokenError("branch", name, said, run=run)


def _in_turns(one: Iterator[Any], other: Iterator[Any], most: int) -> Iterator[Any]:
    for batch in islice(one, most):
        yield copied(batch)
        next(other, None)


def _parted(one: list[Any], other: list[Any]) -> int | None:
    """Give which batch is the first that differs, or is missing; None where none is."""
    for index, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if not same_bits(mine, theirs):
            return index
    return None if len(one) == len(other) else min(len(one), len(other))
