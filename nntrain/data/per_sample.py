"""Random changes of a batch of images, drawn for each of its samples, on whatever device they are.

They have torchvision's names and arguments. Those of `torchvision.transforms.v2` draw once for all that they are given,
so that all images of a batch are cut alike: they are for one sample at a time. Here each image of the batch has a draw
of its own, made in a few operations over the whole batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from nntrain.errors import ConfigError, DataError
from nntrain.values.numbers import is_count, is_number
from nntrain.values.trees import described, tensors_of, tree_map

Batch = TypeVar("Batch")


class PerSample(ABC):
    """Changes the images of a batch: its one tensor of three dimensions or more, [B, ..., H, W].

    It draws from torch's global generator of the device where the images are, and from no other.
    """

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with other images. Raises `DataError` where it is not clear which tensor these are."""
        images = _images_of(batch, type(self).__name__)
        changed: Batch = tree_map(batch, lambda tensor: self.change(tensor) if tensor is images else tensor)
        return changed

    @abstractmethod
    def change(self, images: Tensor) -> Tensor:
        """Return new images, of the shape and dtype of those given."""


@dataclass(frozen=True)
class RandomCrop(PerSample):
    """Shift each image by up to `padding` pixels in both directions: pad it, and cut its own size out of that.

    What comes in at the edges is `fill`.
    """

    padding: int
    fill: float = 0.0

    def __post_init__(self) -> None:
        """Raise `ConfigError` for arguments that cannot be meant."""
        if not is_count(self.padding, 1):
            raise ConfigError(f"RandomCrop: padding is {self.padding!r}; expected a whole number of pixels, 1 or more.")
        if not is_number(self.fill):
            raise ConfigError(f"RandomCrop: fill is {self.fill!r}; expected a number, in the units of the images.")

    def change(self, images: Tensor) -> Tensor:
        """Return the shifted images."""
        samples, (height, width), device = len(images), images.shape[-2:], images.device
        padded = pad(images.reshape(samples, -1, height, width), [self.padding] * 4, value=self.fill)
        cuts = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: [B, C, top, left, H, W]
        top, left = torch.randint(2 * self.padding + 1, (2, samples), device=device)
        return cuts[torch.arange(samples, device=device), :, top, left].view(images.shape)


@dataclass(frozen=True)
class RandomHorizontalFlip(PerSample):
    """Mirror each image left to right, with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        """Raise `ConfigError` for what is no probability."""
        _check_probability("RandomHorizontalFlip", self.p)

    def change(self, images: Tensor) -> Tensor:
        """Return the images, some of them mirrored."""
        chosen = torch.rand(len(images), device=images.device) < self.p
        return torch.where(_over_all(chosen, images), images.flip(-1), images)


@dataclass(frozen=True)
class RandomErasing(PerSample):
    """Fill a rectangle of each image with `value`, with probability `p`.

    The rectangle has a share of the area within `scale`, and a ratio of height to width within `ratio`; one that does
    not fit is drawn anew, ten times at most, as torchvision does. Zhong et al., arXiv:1708.04896.
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float = 0.0

    def __post_init__(self) -> None:
        """Raise `ConfigError` for arguments that cannot be meant."""
        _check_probability("RandomErasing", self.p)
        for name, given, most in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            good = isinstance(given, (tuple, list)) and len(given) == 2 and all(map(is_number, given))
            if not good or not 0 < given[0] <= given[1] <= most:
                raise ConfigError(f"RandomErasing: {name} is {given!r}; expected (least, most), above 0 and in order.")
            object.__setattr__(self, name, tuple(given))
        if not is_number(self.value):
            raise ConfigError(f"RandomErasing: value is {self.value!r}; expected a number, in the units of the images.")

    def change(self, images: Tensor) -> Tensor:
        """Return the images, some of them with a rectangle in one value."""
        samples, (height, width), device = len(images), images.shape[-2:], images.device
        chosen, top, left = torch.rand(3, samples, device=device)
        areas, ratios = torch.rand(2, _TRIES, samples, device=device)
        areas = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * areas)
        least, most = map(math.log, self.ratio)
        ratios = (least + (most - least) * ratios).exp()
        heights, widths = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
        fits = (heights < height) & (widths < width)
        first = fits.int().argmax(0, keepdim=True)
        tall, wide, fit = (one.gather(0, first)[0] for one in (heights, widths, fits))
        within = _between(top, tall, height).unsqueeze(2) & _between(left, wide, width).unsqueeze(1)
        within &= (fit & (chosen < self.p)).view(-1, 1, 1)
        over_all = within.view(samples, *[1] * (images.ndim - 3), height, width)
        return torch.where(over_all, images.new_full((), self.value), images)


_TRIES = 10


def _between(share: Tensor, length: Tensor, whole: int) -> Tensor:
    """Return which of `whole` places lie in a stretch of `length`, whose begin is a share of where it can be."""
    begin = (share * (whole - length + 1)).floor().unsqueeze(1)
    places = torch.arange(whole, device=share.device)
    return (places >= begin) & (places < begin + length.unsqueeze(1))


def _over_all(per_sample: Tensor, images: Tensor) -> Tensor:
    return per_sample.view(-1, *[1] * (images.ndim - 1))


def _images_of(batch: object, who: str) -> Tensor:
    """Return the one tensor of a batch that has images. Raises `DataError`."""
    found = [tensor for tensor in tensors_of(batch) if tensor.ndim >= 3]
    if len({id(tensor) for tensor in found}) == 1:
        return found[0]
    if not found:
        raise DataError(
            f"{who}: the batch ({described(batch):.200}) has no images; expected a tensor [B, ..., H, W]. "
            f"DataLoaders.from_hf_dd gives such with flatten=False."
        )
    raise DataError(
        f"{who}: the batch ({described(batch):.200}) has {len(found)} tensors that may be images, and which is to be "
        f"changed is not clear. Write a transform of your own, which changes what belongs together alike."
    )


def _check_probability(who: str, given: object) -> None:
    if not is_number(given) or not 0 <= given <= 1:
        raise ConfigError(f"{who}: p is {given!r}; expected a probability, from 0 to 1.")
