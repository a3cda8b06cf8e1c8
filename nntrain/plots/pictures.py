"""Images with what is known of them: their classes, and what a model takes them for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from nntrain.errors import ConfigError
from nntrain.log.text import one_line
from nntrain.looking.mistakes import Mistake
from nntrain.plots.axes import RED, grid_of
from nntrain.values.numbers import is_count
from nntrain.values.trees import tensors_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS: Final = 8
_CHANNELS: Final = (1, 3, 4)


def images(
    inputs: Tensor,
    target: Tensor | Sequence[int] | None = None,
    preds: Tensor | Sequence[int] | None = None,
    *,
    losses: Sequence[float] | None = None,
    names: Sequence[str] = (),
    most: int = 16,
    ax: Iterable[Axes] | Axes | None = None,
) -> tuple[Axes, ...]:
    """Return the axes of images, one each: their classes, what was predicted, and in red what it should have been.

    Args:
        inputs: grey, [N, H, W] or [N, 1, H, W], or in colour, [N, 3, H, W] or with opacity [N, 4, H, W]; flattened
            ones, [N, P], are taken for squares, in grey or else in colour. uint8 is from 0 to 255, other values from 0
            to 1, or where there are others, as of normalized images, from the least of all to the greatest.
        target: the classes, [N].
        preds: what was predicted: classes, [N], or the scores of each, [N, C].
        losses: the loss of each, [N], as those of the worst predictions.
        names: what the classes are called; numbers by default.
        most: only the first so many are drawn, or as many as `ax` has axes.
        ax: axes to draw on, one for each image, as an array of `pyplot.subplots(2, 4)`.

    Raises `ConfigError` for shapes that are not these.
    """
    if not is_count(most, 1):
        raise ConfigError(f"most is {most!r}; expected a whole number of 1 or more.")
    pictures = _pictures(inputs)
    count = len(pictures)
    true = None if target is None else _classes("target", target, count)
    said = None if preds is None else _classes("preds", preds, count)
    if losses is not None and len(losses) != count:
        raise ConfigError(f"images: there are {len(losses)} losses of {count} images; expected one for each.")
    lines = (1 if said is None else 2) + (losses is not None)
    axes = grid_of(ax, min(count, most), min(count, most, _COLUMNS), (1.5, 1.5 + 0.2 * lines))
    for place, one in enumerate(axes):
        picture = pictures[place]
        one.imshow(picture.numpy(), cmap="gray" if picture.ndim == 2 else None, vmin=0.0, vmax=1.0)
        one.set_axis_off()
        title, wrong = _title(place, true, said, names)
        if losses is not None:
            title = f"{title}\nloss {losses[place]:.3g}".lstrip()
        above = one.set_title(title, parse_math=False, fontsize="small")
        if wrong:
            above.set_color(RED)
    return axes


def worst(
    mistakes: Sequence[Mistake], *, names: Sequence[str] = (), ax: Iterable[Axes] | Axes | None = None
) -> tuple[Axes, ...]:
    """Return the axes of the images that a model is most wrong about, as `worst_predictions` found them, one each.

    The image is the first tensor of a sample's batch. Above it are its loss and, where the target is a class, what was
    predicted and what it is; `names` are what the classes are called. Raises what `images` raises.
    """
    if not mistakes or not all(isinstance(one, Mistake) for one in mistakes):
        raise ConfigError("worst draws what nntrain.looking.worst_predictions returns, at least one mistake.")
    inputs = _stacked([next(iter(tensors_of(one.batch)), None) for one in mistakes])
    target, preds = (_stacked(found) for found in ([one.target for one in mistakes], [one.preds for one in mistakes]))
    if inputs is None:
        raise ConfigError("worst: the samples have no tensors of one shape, and so no images that could be drawn.")
    classes = target is not None and target.ndim == 1 and not target.is_floating_point()
    return images(
        inputs,
        target if classes else None,
        preds if classes else None,
        losses=[one.loss for one in mistakes],
        names=names,
        most=len(mistakes),
        ax=ax,
    )


def _stacked(found: Sequence[object]) -> Tensor | None:
    """Return tensors of one shape as one tensor, None where they are none."""
    tensors = [one for one in found if isinstance(one, Tensor)]
    alike = len(tensors) == len(found) and len({one.shape for one in tensors}) == 1
    return torch.stack(tensors) if alike else None


def _pictures(inputs: Tensor) -> list[Tensor]:
    """Return the images as matplotlib takes them, [H, W] or [H, W, C], from 0 to 1."""
    shape = f"a tensor {list(inputs.shape)}" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
    wrong = ConfigError(f"images: inputs is {shape}; expected {_SHAPES}.")
    if not isinstance(inputs, Tensor) or inputs.is_complex() or inputs.is_sparse or not inputs.numel():
        raise wrong
    shown = inputs.detach().cpu()
    if shown.ndim == 2:
        sides = [(channels, math.isqrt(shown.shape[1] // channels)) for channels in _CHANNELS]
        fitting = [(channels, side) for channels, side in sides if channels * side * side == shown.shape[1]]
        if not fitting:
            raise wrong
        channels, side = fitting[0]
        shown = shown.reshape(-1, channels, side, side)
    elif shown.ndim == 3:
        shown = shown[:, None]
    if shown.ndim != 4 or shown.shape[1] not in _CHANNELS:
        raise wrong
    low, high = 0.0, 255.0 if shown.dtype == torch.uint8 else 1.0
    shown = shown.double()
    finite = shown[shown.isfinite()]
    if finite.numel() and (finite.min() < low or finite.max() > high):
        low, high = float(finite.min()), float(finite.max())
    shown = ((shown - low) / (high - low)).nan_to_num(0.0, 1.0, 0.0).movedim(1, 3)
    return [one[..., 0] if one.shape[-1] == 1 else one for one in shown]


_SHAPES: Final = (
    "images [N, H, W] or [N, C, H, W] of 1, 3 or 4 channels, or flattened squares [N, P]; of one image, image[None]"
)


def _classes(what: str, given: Tensor | Sequence[int], count: int) -> list[int]:
    """Return the class of each image; of scores the one with the highest."""
    classes = torch.as_tensor(given).detach().cpu()
    if what == "preds" and classes.ndim == 2 and len(classes) == count and classes.shape[1] > 1:
        return [int(one) for one in classes.argmax(1)]
    if classes.shape != (count,) or classes.is_floating_point() or classes.is_complex():
        kind = str(classes.dtype).removeprefix("torch.")
        scores = f", or the scores [{count}, C] of C classes, 2 or more" if what == "preds" else ""
        raise ConfigError(
            f"images: {what} is {kind} {list(classes.shape)}; expected whole numbers [{count}], as many as there are "
            f"images{scores}."
        )
    return [int(one) for one in classes]


def _title(place: int, true: list[int] | None, said: list[int] | None, names: Sequence[str]) -> tuple[str, bool]:
    """Return what stands above an image, and whether the prediction is wrong."""

    def name(number: int) -> str:
        return one_line(str(names[number]), 16) if 0 <= number < len(names) else str(number)

    if said is None:
        return ("" if true is None else name(true[place])), False
    if true is None or true[place] == said[place]:
        return name(said[place]), False
    return f"{name(said[place])}\nis {name(true[place])}", True
