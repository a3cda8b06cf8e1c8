"""Train a generative adversarial network on the embedded digits, and draw what it makes of noise.

    uv run python docs/examples/digits_gan.py
    uv run nntrain fit docs/examples/digits_gan.py:learner --epochs 200

Two objectives take turns in each batch. It writes `digits_gan.png` beside itself: 20 digits of the test split, and
below them what the average of the maker's weights makes. Goodfellow and others, "Generative Adversarial Nets", 2014.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torchvision.utils import save_image  # type: ignore[import-untyped]  # it has no py.typed

from nntrain import DataLoaders, Learner, Objective, StepOutput
from nntrain.data import load_digits
from nntrain.update import chain, ema, optimizer

Batch = tuple[Tensor, Tensor]
EPOCHS = 200
NOISE = 16
PICTURE = Path(__file__).with_suffix(".png")


class Gan(nn.Module):
    """One network makes images of noise, and one judges them: more than 0 means that it takes one for real."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maker = nn.Sequential(
            nn.Linear(NOISE, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, 64), nn.Sigmoid(),
        )  # fmt: skip
        self.judge = nn.Sequential(
            nn.Linear(64, width), nn.LeakyReLU(0.2), nn.Dropout(0.3),
            nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Dropout(0.3),
            nn.Linear(width, 1),
        )  # fmt: skip


def made(model: Gan, batch: Batch) -> Tensor:
    """Return as many images as a batch has."""
    images: Tensor = model.maker(torch.randn(len(batch[0]), NOISE, device=batch[0].device))
    return images


def judge(model: Gan, batch: Batch) -> StepOutput[None]:
    """Return the loss of the one that judges, over real images and images that are made."""
    real, fake = model.judge(batch[0]), model.judge(made(model, batch).detach())
    right, wrong = softplus(-real).mean(), softplus(fake).mean()
    return StepOutput(right + wrong, parts={"real": right, "made": wrong})


def make(model: Gan, batch: Batch) -> StepOutput[None]:
    """Return the loss of the one that makes: how well its images are seen through."""
    return StepOutput(softplus(-model.judge(made(model, batch))).mean())


def learner(lr: float = 5e-4, width: int = 256) -> Learner[Batch]:
    """Return the learner."""
    dls = DataLoaders.from_hf_dd(load_digits(), batch_size=64)
    judging, making = (
        optimizer(torch.optim.Adam, lr=lr, betas=(0.5, 0.999), params=f"{one}.*") for one in ("judge", "maker")
    )
    objectives = [Objective("judge", judge, judging), Objective("maker", make, chain(making, ema(0.995)))]
    return Learner.of(Gan(width), DataLoaders(dls.train), objectives=objectives)


def main(epochs: int = EPOCHS, picture: Path = PICTURE) -> None:
    """Train, and draw."""
    torch.manual_seed(0)
    model = learner().fit(epochs).state.to_module(weights="ema")
    assert isinstance(model, Gan)
    real, _ = next(iter(DataLoaders.from_hf_dd(load_digits(), batch_size=20).valid))
    with torch.no_grad():
        images = torch.cat([real, model.maker(torch.randn(80, NOISE))])
    save_image(images.view(-1, 1, 8, 8), picture, nrow=20, padding=1, pad_value=0.5)


if __name__ == "__main__":
    main()
