"""Images are drawn as they are, each with its class, and in red where it was taken for another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from nntrain import plots
from nntrain.errors import ConfigError
from nntrain.looking import Mistake
from nntrain.plots.axes import RED
from tests.plots.drawn import render

NAMES = ["shirt", "dress", "coat"]


def axes_for(count: int) -> list[Axes]:
    return [*Figure().subplots(1, count, squeeze=False).flat]


def shown(axes: Axes) -> Tensor:
    (image,) = axes.images
    assert image.get_clim() == (0, 1)
    return torch.as_tensor(image.get_array())


def titles(axes: tuple[Axes, ...]) -> list[str]:
    return [one.get_title() for one in axes]


GREY = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
COLOUR = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    "inputs",
    [GREY, GREY[:, None], GREY.reshape(3, 16), (GREY * 2 - 1) / (2 * GREY.max() - 1)],
    ids=["[N, H, W]", "[N, 1, H, W]", "flat", "normalized"],
)
def test_grey_images_are_drawn_as_they_are(inputs: Tensor) -> None:
    axes = plots.images(inputs, ax=axes_for(3))
    expected = GREY if inputs.min() >= 0 else (GREY - GREY.min()) / (GREY.max() - GREY.min())
    for one, picture in zip(axes, expected, strict=True):
        torch.testing.assert_close(shown(one), picture)
        assert not one.axison


@pytest.mark.parametrize("inputs", [COLOUR, COLOUR.reshape(3, 48)], ids=["[N, 3, H, W]", "flat"])
def test_images_in_colour_have_their_channels_last(inputs: Tensor) -> None:
    for one, picture in zip(plots.images(inputs, ax=axes_for(3)), COLOUR, strict=True):
        torch.testing.assert_close(shown(one), picture.movedim(0, 2))


def test_bytes_are_from_0_to_255() -> None:
    inputs = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    (axes,) = plots.images(inputs, ax=axes_for(1))
    torch.testing.assert_close(shown(axes), inputs[0] / 255.0, check_dtype=False)


def test_images_of_one_value_and_of_nan_are_drawn() -> None:
    for inputs in (torch.full((1, 2, 2), 7.0), torch.full((1, 3, 2, 2), torch.nan), torch.zeros(1, 2, 2)):
        (axes,) = plots.images(inputs, ax=axes_for(1))
        assert shown(axes).isfinite().all()
        render(axes)


@pytest.mark.parametrize("preds", [[0, 2, 1], torch.tensor([0, 2, 1]), torch.eye(3)[[0, 2, 1]]], ids=str)
def test_what_a_wrong_one_is_stands_in_red(preds: Any) -> None:
    axes = plots.images(GREY, torch.tensor([0, 2, 2]), preds, names=NAMES, ax=axes_for(3))
    assert titles(axes) == ["shirt", "coat", "dress\nis coat"]
    assert [to_hex(one.title.get_color()) == RED for one in axes] == [False, False, True]


def test_there_may_be_classes_alone_or_predictions_alone_and_no_names() -> None:
    assert titles(plots.images(GREY, ax=axes_for(3))) == ["", "", ""]
    assert titles(plots.images(GREY, [0, 1, 7], names=NAMES, ax=axes_for(3))) == ["shirt", "dress", "7"]
    assert titles(plots.images(GREY, preds=[0, 1, -1], ax=axes_for(3))) == ["0", "1", "-1"]
    (axes, *_) = plots.images(GREY, [0, 0, 0], names=["$\\frac$ " + "x" * 100], ax=axes_for(3))
    assert axes.get_title() == "$\\frac$ xxxxxxx…"
    render(axes)


def test_losses_stand_below() -> None:
    axes = plots.images(GREY, [0, 1, 2], [0, 1, 1], losses=[0.5, 1.23456, 10.0], names=NAMES, ax=axes_for(3))
    assert titles(axes) == ["shirt\nloss 0.5", "dress\nloss 1.23", "dress\nis coat\nloss 10"]
    assert titles(plots.images(GREY[:1], losses=[2.0], ax=axes_for(1))) == ["loss 2"]


def test_without_axes_there_is_one_for_each_image_on_one_figure_of_pyplot_s() -> None:
    pyplot.close("all")
    axes = plots.images(torch.rand(40, 4, 4), most=10)
    assert (len(axes), len(pyplot.get_fignums())) == (10, 1)
    assert len(pyplot.gcf().axes) == 10
    assert len(plots.images(torch.rand(40, 4, 4))) == 16
    pyplot.close("all")


def test_on_given_axes_as_many_as_there_are_and_the_spare_ones_are_off() -> None:
    pyplot.close("all")
    grid = Figure().subplots(2, 2)
    assert plots.images(GREY, ax=grid) == (grid[0, 0], grid[0, 1], grid[1, 0])
    assert not grid[1, 1].axison
    assert not grid[1, 1].images
    alone = Figure().subplots()
    assert plots.images(GREY, ax=alone) == (alone,)
    assert not pyplot.get_fignums()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"inputs": torch.rand(4)}, r"inputs is a tensor \[4\]; expected images \[N, H, W\]"),
        ({"inputs": torch.rand(2, 5, 4, 4)}, r"inputs is a tensor \[2, 5, 4, 4\]"),
        ({"inputs": torch.rand(2, 15)}, r"inputs is a tensor \[2, 15\]"),
        ({"inputs": torch.rand(0, 4, 4)}, r"inputs is a tensor \[0, 4, 4\]"),
        ({"inputs": "images"}, "inputs is a str"),
        ({"target": [0, 1]}, r"target is int64 \[2\]; expected whole numbers \[3\]"),
        ({"target": torch.eye(3)}, r"target is float32 \[3, 3\]; expected whole numbers \[3\]"),
        ({"preds": torch.rand(3)}, r"preds is float32 \[3\]; .*or the scores \[3, C\]"),
        ({"preds": torch.rand(3, 1)}, r"preds is float32 \[3, 1\]"),
        ({"losses": [1.0]}, "there are 1 losses of 3 images"),
        ({"most": 0}, "most is 0; expected a whole number of 1 or more"),
        ({"ax": [None]}, "ax is a NoneType; expected an Axes"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plots.images(**{"inputs": GREY, "ax": axes_for(3), **given})


# -- the worst predictions ---------------------------------------------------------------------------------------------


def mistake(index: int, target: Any, preds: Any, batch: Any = None) -> Mistake:
    given = (GREY[index], torch.tensor(0)) if batch is None else batch
    return Mistake(index=index, loss=3.0 - index, preds=preds, target=target, batch=given)


def test_the_worst_are_drawn_with_what_they_are_and_their_losses() -> None:
    found = [mistake(0, torch.tensor(1), torch.tensor([0.1, 0.2, 0.7])), mistake(1, torch.tensor(2), torch.eye(3)[2])]
    axes = plots.worst(found, names=NAMES, ax=axes_for(2))
    assert titles(axes) == ["coat\nis dress\nloss 3", "coat\nloss 2"]
    torch.testing.assert_close(shown(axes[1]), GREY[1])


def test_where_the_target_is_no_class_the_loss_stands_alone() -> None:
    for target in (torch.tensor(0.5), torch.tensor([1, 2]), {"boxes": torch.tensor([1])}, None):
        assert titles(plots.worst([mistake(0, target, torch.rand(3))], ax=axes_for(1))) == ["loss 3"]


def test_all_of_them_are_drawn() -> None:
    found = [mistake(at % 3, torch.tensor(0), torch.tensor(1)) for at in range(20)]
    assert len(plots.worst(found, ax=axes_for(20))) == 20


def test_what_has_no_image_is_refused() -> None:
    for given in ([], [3.0]):
        wrong: Any = given
        with pytest.raises(ConfigError, match=r"worst draws what nntrain.looking.worst_predictions returns"):
            plots.worst(wrong, ax=axes_for(1))
    sizes = [mistake(0, None, None, torch.rand(4, 4)), mistake(1, None, None, torch.rand(4, 5))]
    for batches in (sizes, [mistake(0, None, None, "text")]):
        with pytest.raises(ConfigError, match="no tensors of one shape"):
            plots.worst(batches, ax=axes_for(2))
