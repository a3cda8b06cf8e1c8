"""`check_loader`: a loader's batches are a function of (key, epoch, start)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

from nntrain.data.loaders import Loader
from nntrain.errors import ConfigError
from nntrain.testing.copies import copy_parts
from nntrain.testing.examples import check_examples, expect_callable, st
from nntrain.testing.laws import LawBrokenError
from nntrain.testing.plans import Batch
from nntrain.testing.purity import changed_parts, process_state
from nntrain.values.bits import same_bits
from nntrain.values.key import Key


def check_loader(make: Callable[[], Loader[Batch]], *, most_batches: int = 64, examples: int = 20) -> None:
    """Check what resuming needs: batch k of a loader's epoch is a function of (key, epoch, k), and of nothing else.

    `make` returns a new loader of the same data each time. The first `most_batches` of an epoch are compared; use a
    small part of your data.

    Raises `LawBrokenError`: an epoch differs when it is read again, by another loader, or from its middle
    ("determinism", "resume"); two readers affect each other ("branch"); global state of the process is changed
    ("manners"); there is no batch ("answers").
    """
    expect_callable(make, "make", "what makes a new loader each time: a class, or a lambda")
    made: object = make()
    if not callable(getattr(made, "batches", None)):
        raise ConfigError(
            f"make gave {made!r:.80}; expected a Loader, which has batches(key, epoch, start). Lists and torch's "
            f"DataLoaders are made into one by the learner, and need no check."
        )
    drawn = st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, most_batches))
    check_examples(lambda one: _check(make, most_batches, *one), drawn, examples)


def _check(make: Callable[[], Loader[Batch]], most: int, seed: int, epoch: int, start: int) -> None:
    loader = make()
    name, key = type(loader).__name__, Key(seed=seed)
    run = f"Key(seed={seed}), epoch {epoch}"

    def read(loader: Loader[Batch], epoch: int = epoch, start: int = 0) -> list[Any]:
        return [copy_parts(one) for one in islice(loader.batches(key, epoch, start), most - start)]

    before, drawn = process_state(), torch.get_rng_state()
    whole = read(loader)
    moved = changed_parts(before, process_state())
    if not torch.equal(drawn, torch.get_rng_state()):
        moved.append("torch's global generator")
    if moved:
        said = f"it changed {' and '.join(moved)}. Draw from torch.Generator().manual_seed(key.fold_in(epoch).bits)"
        raise LawBrokenError("manners", name, said, run=run)
    if not whole:
        raise LawBrokenError("answers", name, "it gave no batch", run=run)
    read(loader, epoch + 1)
    for again, said in ((loader, "read again after another epoch"), (make(), "read by another loader")):
        index = _first_difference(whole, read(again))
        if index is not None:
            raise LawBrokenError("determinism", name, f"batch {index} is another one when {said}", run=run)
    start %= len(whole)
    index = _first_difference(whole[start:], read(make(), start=start))
    if index is not None:
        said = f"begun at batch {start}, batch {start + index} is another one than in an epoch read from its beginning"
        raise LawBrokenError("resume", name, f"{said}: resumed runs differ", run=run)
    one, other = (iter(loader.batches(key, number, 0)) for number in (epoch, epoch + 1))
    index = _first_difference(whole, list(_interleave(one, other, most)))
    if index is not None:
        said = f"batch {index} is another one when the next epoch is read beside it: two readers share a memory"
        raise LawBrokenError("branch", name, said, run=run)


def _interleave(one: Iterator[Any], other: Iterator[Any], most: int) -> Iterator[Any]:
    for batch in islice(one, most):
        yield copy_parts(batch)
        next(other, None)


def _first_difference(one: list[Any], other: list[Any]) -> int | None:
    """Return the index of the first batch that differs or is missing; None where none does."""
    for index, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if not same_bits(mine, theirs):
            return index
    return None if len(one) == len(other) else min(len(one), len(other))
