"""Train a small ResNet on images: SGD with momentum, the accuracy of each epoch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.models.resnet import BasicBlock  # type: ignore[import-untyped] # it has no py.typed
from torchvision.transforms import v2  # type: ignore[import-untyped] # it has no py.typed

from nntrain import DataLoaders, Learner, TrainState, accuracy
from tests.jobs import check_job

SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-4)
AUGMENTED = v2.Compose([v2.RandomCrop(16), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
CENTRED = v2.Compose([v2.CenterCrop(16), v2.ToDtype(torch.float32, scale=True)])


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Random bytes as pictures of 20 by 20 of 5 classes."""

    def __init__(self, count: int, transform: v2.Compose = CENTRED) -> None:
        random = torch.Generator().manual_seed(count)
        self.images = torch.randint(0, 256, (count, 3, 20, 20), generator=random, dtype=torch.uint8)
        self.labels = torch.randint(0, 5, (count,), generator=random)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


TRAIN, VALID = DataLoader(Images(28), 8), DataLoader(Images(12), 8)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*stem, BasicBlock(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def plain(epochs: int = 2) -> tuple[nn.Module, list[tuple[float, float, float]]]:
    model = resnet()
    optimizer = SGD(model.parameters(), lr=0.01)
    told = []
    for _ in range(epochs):
        model.train()
        train_loss, count = 0.0, 0
        for x, y in TRAIN:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            train_loss += loss.item() * len(y)
            count += len(y)
        model.eval()
        valid_loss, right, seen = 0.0, 0, 0
        with torch.no_grad():
            for x, y in VALID:
                preds = model(x)
                valid_loss += cross_entropy(preds, y).item() * len(y)
                right += int((preds.argmax(1) == y).sum())
                seen += len(y)
        told.append((train_loss / count, valid_loss / seen, right / seen))
    return model, told


def ours(epochs: int = 2) -> tuple[TrainState, list[tuple[float, float, float]]]:
    learner = Learner(resnet(), DataLoaders(TRAIN, VALID), cross_entropy, {"accuracy": accuracy}, SGD, 0.01)
    state = learner.fit(epochs, print_stats=False).state
    phases = zip(state.history[::2], state.history[1::2], strict=True)
    return state, [(train.loss, valid.loss, valid.metrics["accuracy"]) for train, valid in phases]


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)


def augmented(workers: int) -> TrainState:
    train = DataLoader(Images(16, AUGMENTED), 8, shuffle=True, num_workers=workers)
    learner = Learner(resnet(), DataLoaders(train, VALID), cross_entropy, {"accuracy": accuracy}, SGD, 0.01)
    return learner.fit(1, print_stats=False).state


def test_augmentation_is_a_function_of_the_seed() -> None:
    first = augmented(workers=0)
    torch.manual_seed(99)
    assert augmented(workers=0) == first


@pytest.mark.sweep
def test_augmentation_is_the_same_with_workers() -> None:
    assert augmented(workers=2) == augmented(workers=0)
