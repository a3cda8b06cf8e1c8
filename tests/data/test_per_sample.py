"""Random changes of images, drawn for each sample of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2  # type: ignore[import-untyped]  # it has no py.typed

from nntrain.data import RandomCrop, RandomErasing, RandomHorizontalFlip
from nntrain.data.per_sample import PerSample
from nntrain.errors import ConfigError, DataError

ALL: Final[tuple[PerSample, ...]] = (RandomCrop(padding=2), RandomHorizontalFlip(), RandomErasing(p=0.7))


def images(samples: int = 40, *rest: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Give images of which no two pixels are alike, as far as the dtype has so many values."""
    shape = (samples, *(rest or (2, 6, 5)))
    return torch.arange(1, 1 + torch.Size(shape).numel()).view(shape).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
@given(padding=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_a_crop_is_torchvisions_with_an_offset_for_each_sample(dtype: torch.dtype, padding: int, seed: int) -> None:
    given = images(dtype=dtype)
    torch.manual_seed(seed)
    found = RandomCrop(padding, fill=7)(given)
    torch.manual_seed(seed)
    tops, lefts = torch.randint(2 * padding + 1, (2, 40)).tolist()
    wanted = [
        v2.functional.crop(v2.functional.pad(one, [padding], fill=7), top, left, 6, 5)
        for one, top, left in zip(given, tops, lefts, strict=True)
    ]
    assert found.dtype is dtype
    assert torch.equal(found, torch.stack(wanted))
    assert len({*zip(tops, lefts, strict=True)}) > 4  # so not all alike


@given(seed=st.integers(0, 99))
@settings(max_examples=10)
def test_a_flip_is_of_some_samples(seed: int) -> None:
    given = images()
    torch.manual_seed(seed)
    found = RandomHorizontalFlip(p=0.3)(given)
    torch.manual_seed(seed)
    chosen = torch.rand(40) < 0.3
    assert torch.equal(found[chosen], given[chosen].flip(-1))
    assert torch.equal(found[~chosen], given[~chosen])
    assert 0 < chosen.sum() < 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_an_erased_part_is_a_rectangle_within_the_limits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = torch.zeros(2000, 3, 30, 20, dtype=dtype)
    found = RandomErasing(p=0.7, scale=(0.1, 0.3), ratio=(0.5, 2.0), value=9)(given)
    assert found.dtype is dtype
    erased = found[:, 0] == 9
    assert torch.equal(found, (erased * 9).unsqueeze(1).expand(-1, 3, -1, -1).to(dtype))
    any_row, any_column = erased.any(2), erased.any(1)
    heights, widths = any_row.sum(1), any_column.sum(1)
    assert torch.equal(erased, any_row.unsqueeze(2) & any_column.unsqueeze(1))
    for lines in (any_row, any_column):
        assert int((lines.int().diff(dim=1) == 1).sum(1).max()) <= 1  # in one piece
    hit = heights > 0
    assert abs(hit.float().mean().item() - 0.7) < 0.04
    shares = (heights * widths)[hit] / 600
    assert shares.min() > 0.08
    assert shares.max() < 0.33
    ratios = heights[hit] / widths[hit]
    assert ratios.min() > 0.4
    assert ratios.max() < 2.5
    # Rectangles are anywhere: each pixel is erased in some image.
    assert erased.any(0).all()


def test_what_does_not_fit_is_drawn_anew() -> None:
    torch.manual_seed(0)
    erasing = RandomErasing(p=1.0, scale=(0.2, 0.3), ratio=(0.1, 10.0))
    assert (erasing(torch.ones(1000, 1, 8, 8)) == 0).flatten(1).any(1).float().mean() > 0.99


def test_erasing_has_torchvisions_distribution() -> None:
    torch.manual_seed(0)
    ours = (RandomErasing(p=1.0)(torch.ones(4000, 1, 12, 16)) == 0).float().mean(0)[0]
    theirs = torch.stack([v2.RandomErasing(p=1.0)(torch.ones(1, 12, 16))[0] for _ in range(1000)])
    assert torch.allclose(ours, (theirs == 0).float().mean(0), atol=0.08)


@pytest.mark.parametrize("transform", ALL, ids=lambda one: type(one).__name__)
def test_it_changes_the_images_of_any_batch_and_nothing_else(transform: PerSample) -> None:
    pixels, labels = images(), torch.arange(40)
    old = pixels.clone()

    def drawn(batch: Any) -> Any:
        torch.manual_seed(1)
        return transform(batch)

    wanted = drawn(pixels)
    assert torch.equal(pixels, old)
    assert not torch.equal(wanted, old)
    assert type(drawn([pixels, labels])) is list
    pair = drawn((pixels, labels))
    assert torch.equal(pair[0], wanted)
    assert pair[1] is labels
    assert torch.equal(drawn({"label": labels, "image": pixels})["image"], wanted)
    grey, video = images(40, 6, 5), images(40, 2, 3, 6, 5)
    assert drawn(grey).shape == grey.shape
    assert drawn(video).shape == video.shape
    whole = drawn(video.transpose(1, 2))
    assert torch.equal(whole, drawn(video).transpose(1, 2))  # all of a sample is changed alike


@pytest.mark.parametrize("transform", ALL, ids=lambda one: type(one).__name__)
def test_unclear_batches_are_refused(transform: PerSample) -> None:
    with pytest.raises(DataError, match=r"float32\[4, 9\].*has no images; expected a tensor \[B, .*flatten=False"):
        transform((torch.zeros(4, 9), torch.zeros(4)))
    with pytest.raises(DataError, match="has 2 tensors that may be images"):
        transform((images(), images()))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RandomCrop(0), r"padding is 0; expected a whole number of pixels, 1 or more"),
        (lambda: RandomCrop(2.5), r"padding is 2\.5"),  # type: ignore[arg-type]  # what is refused
        (lambda: RandomCrop(2, fill=float("nan")), r"fill is nan; expected a number"),
        (lambda: RandomHorizontalFlip(1.5), r"RandomHorizontalFlip: p is 1\.5; expected a probability, from 0 to 1"),
        (lambda: RandomErasing(-0.1), r"RandomErasing: p is -0\.1"),
        (lambda: RandomErasing(scale=(0.4, 0.2)), r"scale is \(0\.4, 0\.2\); expected \(least, most\)"),
        (lambda: RandomErasing(scale=(0.4, 1.2)), r"scale is"),
        (lambda: RandomErasing(ratio=(0.0, 2.0)), r"ratio is"),
        (lambda: RandomErasing(value="random"), r"value is 'random'; expected a number"),  # type: ignore[arg-type]  # what is refused
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
