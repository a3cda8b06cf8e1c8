"""Train a convolutional network on a folder of images, one sub-folder for each class: resized, augmented, weighed.

    uv run python docs/examples/image_folder.py
    uv run nntrain fit docs/examples/image_folder.py:learner --epochs 12

Without a folder of your own (`--set folder=PATH` on the command line) it writes the embedded digits as image files
into a temporary one, of several sizes and fewer of the odd digits, as real folders are. Classes that are rarer count
for more in the loss, so that each class counts alike.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch
from datasets import Image
from PIL.Image import Image as Picture
from torch import Tensor, nn
from torchvision.transforms import v2  # type: ignore[import-untyped]  # it has no py.typed

from nntrain import DataLoaders, Learner, accuracy
from nntrain.data import RandomCrop, load_digits, load_image_folder, transformed
from nntrain.metrics import Confusion
from nntrain.schedules import one_cycle

Batch = tuple[Tensor, Tensor]
EPOCHS = 12
SIZE = 16


def write_digits(folder: Path, count: int) -> None:
    """Write `count` digits as PNG files of several sizes, half of the odd ones left out."""
    rows = load_digits().cast_column("image", Image())["train"].select(range(count))
    for number, (picture, label) in enumerate(zip(rows["image"], rows["label"], strict=True)):
        if label % 2 and number % 2:
            continue
        within = folder / str(label)
        within.mkdir(exist_ok=True)
        side = 12 + number % 3 * 4
        picture.resize((side, side)).save(within / f"{number:04d}.png")


def resized(rows: dict[str, list[Picture]], size: int) -> dict[str, list[Picture]]:
    """Resize the images of some rows, so that a batch can hold them."""
    return {**rows, "image": [one.resize((size, size)) for one in rows["image"]]}


def network(classes: int, width: int) -> nn.Module:
    """Return the network: three convolutions, of which two halve the image, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def learner(
    epochs: int = EPOCHS, folder: Path | None = None, width: int = 16, count: int = 1000
) -> Learner[Batch, Tensor]:
    """Return the learner of a folder, for a cycle of so many epochs; without a folder of some digits."""
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="digits-"))
        write_digits(folder, count)
    images = load_image_folder(folder)
    labels = torch.tensor(images["train"]["label"])
    classes = images["train"].features["label"].num_classes
    counts = labels.bincount(minlength=classes)
    weights = len(labels) / (classes * counts)
    images = images.map(partial(resized, size=SIZE), batched=True)
    dls = DataLoaders.from_hf_dd(images, batch_size=64, flatten=False)
    train = transformed(dls.train, RandomCrop(padding=2), v2.RandomAffine(degrees=[-8.0, 8.0]))
    loss = nn.CrossEntropyLoss(weight=weights, label_smoothing=0.05)
    return Learner(
        network(classes, width),
        DataLoaders(train, dls.valid),
        loss,
        {"accuracy": accuracy, "balanced": Confusion(classes)},
        partial(torch.optim.AdamW, weight_decay=0.05),
        one_cycle(0.01, steps=epochs * len(dls.train)),
    )


def main(epochs: int = EPOCHS, count: int = 1000) -> None:
    """Train, and say how well each class is found on average."""
    torch.manual_seed(0)
    state = learner(epochs, count=count).fit(epochs).state
    print(f"a balanced accuracy of {state.history[-1].metrics['balanced']:.3f}")


if __name__ == "__main__":
    main()
