"""`transformed`: the batches of a loader, changed at random: batch k of epoch e is a function of (key, e, k) still."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from itertools import count
from typing import Any, Final, Generic, Never, Protocol, TypeVar, cast, overload

import torch
from torch import Tensor, nn

from nntrain.data.loaders import Batch, Loader, as_loader, description_of, length_of, on_device, rows_of
from nntrain.data.per_sample import PerSample
from nntrain.errors import ConfigError, DataError, add_note
from nntrain.values.calls import call_problem, class_of_calls, function_name
from nntrain.values.key import Key
from nntrain.values.numbers import is_number
from nntrain.values.randomness import kept_outside_torch, seed_for_transforms, seeded
from nntrain.values.trees import described, tensors_of, to_device

Given = TypeVar("Given")
Transform = Callable[[Any], Any]
"""A function of a batch to the batch that is taken in its place."""

_TRANSFORMS: Final = 0x7472
"""What the key is folded with for the transforms: a loader's own use of the key is another."""


class Transformed(Generic[Batch]):
    """What `transformed` returns."""

    def __init__(
        self, loader: Loader[Any], transforms: tuple[Transform, ...], device: torch.device | None, length: int | None
    ) -> None:
        self.loader = loader
        self.transforms = transforms
        self.device = device
        """Where batches are changed; None is where the loader makes them."""
        self._length = length
        self._depth = _depth(loader)
        self._draws_beside_torch = not all(isinstance(one, PerSample) for one in transforms)
        """Whether a transform may draw from Python's or NumPy's generator: somebody else's may."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Batch]:
        """Iterate over an epoch's batches from number `start` on, each changed under a seed of its own."""
        return self._changed(self.loader.batches(key, epoch, start), key.stream(_TRANSFORMS, self._depth, epoch), start)

    def _changed(self, batches: Iterator[object], bits_of: Callable[[int], int], start: int) -> Iterator[Batch]:
        for index, batch in zip(count(start), batches):
            yield self.change(batch, index, bits_of(index))

    def change(self, batch: object, index: int, bits: int) -> Batch:
        """Return batch `index` of the loader, moved to the device and changed under a seed of `bits`."""
        given = batch if self.device is None else to_device(batch, self.device)
        beside = kept_outside_torch() if self._draws_beside_torch else nullcontext()
        with seeded(bits, self.device), beside:
            if self._draws_beside_torch:
                seed_for_transforms(bits)
            return self._apply(given, index)

    def _apply(self, batch: object, index: int) -> Batch:
        versions = [(tensor, tensor._version) for tensor in tensors_of(batch) if not tensor.is_inference()]
        changed = batch
        for transform in self.transforms:
            before = changed
            if type(transform).__module__.startswith("torchvision."):
                _check_images(before, function_name(transform))
            try:
                changed = transform(before)
            except Exception as error:
                where = f"transform {function_name(transform)} of batch {index}"
                add_note(error, f"nntrain: raised by {where}; it was given {described(before):.300}")
                raise
            if changed is None:
                raise DataError(f"transform {function_name(transform)} returned None; expected the changed batch.")
        if any(tensor._version != version for tensor, version in versions):
            names = ", ".join(map(function_name, self.transforms))
            raise DataError(
                f"{names}: a transform writes to the tensors of the batch, which the loader may give again: it would "
                f"be changed twice. Return new tensors (inplace=False, and x.add(1) for x.add_(1))."
            )
        return cast(Batch, changed)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over epoch 0 of `Key(seed=0)`, to look at."""
        return self.batches(Key(seed=0), 0, 0)

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError(f"{type(self.loader).__name__} does not say how many batches it has")
        return self._length

    def __repr__(self) -> str:
        return f"transformed({type(self.loader).__name__}, {', '.join(map(_in_words, self.transforms))})"

    def to(self, device: torch.device) -> Transformed[Batch]:
        """Return a loader of the same batches that changes them on `device`."""
        return Transformed(on_device(self.loader, device), self.transforms, device, self._length)

    @property
    def description(self) -> Mapping[str, object]:
        """The transforms, and the loader whose batches they change."""
        by = [_in_words(one) for one in self.transforms]
        return {"kind": "transformed", "by": by, "of": dict(description_of(self.loader))}

    @property
    def batch_size(self) -> int | None:
        """How many rows each batch has, where that is known."""
        rows = rows_of(self.loader)
        return None if rows is None else rows.batch_size

    @property
    def samples(self) -> int | None:
        """How many rows an epoch has, where that is known."""
        rows = rows_of(self.loader)
        return None if rows is None else rows.samples


@overload
def transformed(
    loader: Iterable[Given] | Loader[Given], transform: Callable[[Given], Batch], /
) -> Transformed[Batch]: ...
@overload
def transformed(
    loader: Iterable[Batch] | Loader[Batch], /, *transforms: Callable[[Batch], Batch]
) -> Transformed[Batch]: ...
def transformed(loader: Iterable[Any] | Loader[Any], /, *transforms: Callable[[Never], object]) -> Transformed[Any]:
    """Return a loader of the same batches, changed by each of the transforms in order.

    A transform is a function of a batch to the batch in its place: one of `nntrain.data` (`RandomCrop`,
    `RandomHorizontalFlip`, `RandomErasing`), one of `torchvision.transforms.v2` (`MixUp`, `CutMix`, a `Compose`), or
    your own. It is called on the learner's device, after the batch was moved there.

    What it draws from torch's global generators, Python's and NumPy's is a function of the key, the epoch and the
    batch: a training that is resumed in the middle draws what the straight run draws. The generators are afterwards as
    they were. It may have no other memory, and must not write to the batch that it is given.

    Only the loader that is wrapped has changed batches: wrap `dls.train`, and what is evaluated or predicted is as it
    was. Around `segments` it is the epoch and the batch of the segment that count.

    Raises:
        ConfigError: the loader can be read only once, there is no transform, or one cannot be called with a batch, or
            is for fewer classes than the loader has.
        DataError: while it is read: a transform returned None, or wrote to the batch; or one of torchvision's is given
            a batch whose first tensor, which it would change, has no images.

    >>> from nntrain import Key
    >>> [*transformed([1, 2, 3], lambda number: 10 * number).batches(Key(seed=0), epoch=0, start=1)]
    [20, 30]
    """
    inner = as_loader(loader, "transformed: the loader")
    if not transforms:
        raise ConfigError("transformed: there is no transform; expected transformed(loader, RandomCrop(padding=4)).")
    for one in transforms:
        _check_transform(one, loader)
    return Transformed(inner, transforms, None, length_of(loader))


def _depth(loader: object) -> int:
    """Return how many `transformed` there are within a loader: each draws numbers of its own."""
    inner = getattr(loader, "loader", None)
    return 0 if inner is None else isinstance(loader, Transformed) + _depth(inner)


def _check_transform(given: object, loader: object) -> None:
    expected = "transformed: expected a function of the batch that returns a batch"
    kind = class_of_calls(given)
    if kind is not None:
        raise ConfigError(f"{expected}, not the class {kind.__name__}. Pass an instance: {kind.__name__}(...).")
    problem = call_problem(given, None)
    if problem is not None:
        raise ConfigError(f"{expected}; {given!r:.80} is none: {problem}.")
    _check_mixing(given, getattr(loader, "classes", None))


def _check_mixing(given: object, there: object) -> None:
    """Raise `ConfigError` where a transform, or a part of one, mixes with no share, or for too few classes."""
    for mixing in mixing_parts(given):
        name, classes, alpha = type(mixing).__name__, mixing.num_classes, mixing.alpha
        # Where anything was compiled, torch does not look at it, and the shares are NaN.
        if not is_number(alpha) or alpha <= 0:
            raise ConfigError(f"transformed: {name} has alpha={alpha!r}; expected a number above 0.")
        if isinstance(there, int) and isinstance(classes, int) and classes < there:
            raise ConfigError(f"transformed: {name} is for num_classes={classes}, and the loader has {there} classes.")


class _Mixing(Protocol):
    alpha: object
    num_classes: object


def mixing_parts(transform: object) -> Iterator[_Mixing]:
    """Yield what mixes the samples of a batch, as torchvision's MixUp and CutMix do: a transform, or parts of it."""
    if hasattr(transform, "num_classes") and hasattr(transform, "alpha"):
        yield cast(_Mixing, transform)
    for part in getattr(transform, "transforms", ()):  # of torchvision's Compose and RandomChoice
        yield from mixing_parts(part)


def _check_images(batch: object, who: str) -> None:
    """Raise `DataError` where torchvision would change what are no images: it takes the first plain tensor for them."""
    tensors = [*tensors_of(batch)]
    if tensors and tensors[0].ndim < 3 and all(type(one) is Tensor for one in tensors):
        raise DataError(
            f"transform {who}: torchvision takes the first tensor of a batch for its images; here that is "
            f"{described(tensors[0])}, of {described(batch):.200}. Expected [B, C, H, W], as from_hf_dd gives with "
            f"flatten=False. Where other tensors come first, call it in a function that picks the images."
        )


def _in_words(transform: object) -> str:
    """Return a transform as a log has it: without addresses, in one line."""
    if isinstance(transform, (nn.Module, PerSample)):
        return " ".join(repr(transform).split())
    return function_name(transform)
