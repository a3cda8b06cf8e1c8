"""Segment images: batches are mappings, and the IoU is that of all pixels of the phase, not a mean of batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, Metric, StepOutput, TrainState, supervised
from nntrain.update import optimizer
from tests.jobs import check_job

Batch = dict[str, Tensor]
RANDOM = torch.Generator().manual_seed(0)


class UNet(nn.Module):
    """One level down, and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        high = self.into(image)
        logits: Tensor = self.out(torch.cat([high, self.up(self.down(high))], 1))
        return logits


def batch(count: int) -> Batch:
    image = torch.rand(count, 3, 8, 8, generator=RANDOM)
    return {"image": image, "mask": (image.mean(1) > 0.55).long()}


TRAIN, VALID = [batch(8) for _ in range(4)], [batch(8), batch(8), batch(3)]


def unet() -> UNet:
    torch.manual_seed(0)
    return UNet()


def plain(epochs: int = 3) -> tuple[nn.Module, list[float]]:
    model = unet()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    told = []
    for _ in range(epochs):
        model.train()
        for batch in TRAIN:
            loss = cross_entropy(model(batch["image"]), batch["mask"])
            adam.zero_grad()
            loss.backward()
            adam.step()
        model.eval()
        both, either = 0, 0
        with torch.no_grad():
            for batch in VALID:
                pred, mask = model(batch["image"]).argmax(1), batch["mask"]
                both += int((pred & mask).sum())
                either += int((pred | mask).sum())
        told.append(both / either)
    return model, told


def ours(epochs: int = 3) -> tuple[TrainState, list[float]]:
    class IoU(Metric[Tensor]):
        def init(self) -> Tensor:
            return torch.zeros(2, dtype=torch.float64)

        def update(self, memory: Tensor, output: StepOutput[Tensor], /) -> Tensor:
            pred, mask = output.preds.argmax(1), output.target
            assert isinstance(mask, Tensor)
            return memory + torch.stack([(pred & mask).sum(), (pred | mask).sum()])

        def merge(self, one: Tensor, other: Tensor, /) -> Tensor:
            return one + other

        def compute(self, memory: Tensor, /) -> Tensor:
            return memory[0] / memory[1]

    adam = optimizer(torch.optim.Adam, lr=1e-2)
    task = supervised(cross_entropy)
    learner = Learner.of(unet(), DataLoaders(TRAIN, VALID), task, adam, metrics={"iou": IoU()})
    state = learner.fit(epochs, print_stats=False).state
    return state, [stats.metrics["iou"] for stats in state.history if stats.phase == "eval"]


def test_the_same_bits_as_the_plain_loop() -> None:
    check_job(plain, ours)
