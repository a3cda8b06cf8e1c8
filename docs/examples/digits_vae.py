"""Train a variational autoencoder on the embedded digits, and draw what it makes of them, and of nothing.

    uv run python docs/examples/digits_vae.py
    uv run nntrain fit docs/examples/digits_vae.py:learner --epochs 100

It writes `digits_vae.png` beside itself: digits of the test split, each with its reconstruction below, and digits that
are made of noise. Kingma and Welling, "Auto-Encoding Variational Bayes", 2013.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.utils import save_image  # type: ignore[import-untyped]  # it has no py.typed

from nntrain import DataLoaders, Learner, StepOutput
from nntrain.data import load_digits
from nntrain.schedules import one_cycle
from nntrain.update import optimizer

Batch = tuple[Tensor, Tensor]
EPOCHS = 100
CODE = 8
PICTURE = Path(__file__).with_suffix(".png")


class Autoencoder(nn.Module):
    """An encoder to the mean and the log variance of a code, and a decoder to logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * CODE)
        )
        self.decoder = nn.Sequential(
            nn.Linear(CODE, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64)
        )


def rebuild(model: Autoencoder, batch: Batch) -> StepOutput[Tensor]:
    """Return what a batch costs, in nats an image: to rebuild it from a code, and to say the code."""
    images, _ = batch
    mean, logvar = model.encoder(images).chunk(2, 1)
    logits = model.decoder(mean + torch.randn_like(mean) * (logvar / 2).exp())
    rebuilt = binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
    code = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(images)
    return StepOutput(rebuilt + code, logits, images, parts={"rebuilt": rebuilt, "code": code})


def learner(epochs: int = EPOCHS, lr: float = 3e-3, width: int = 256) -> Learner[Batch, Tensor]:
    """Return the learner, for a cycle of so many epochs."""
    dls = DataLoaders.from_hf_dd(load_digits(), batch_size=64)
    rate = one_cycle(lr, steps=epochs * len(dls.train))
    return Learner.of(Autoencoder(width), dls, rebuild, optimizer(torch.optim.Adam, lr=rate))


def main(epochs: int = EPOCHS, picture: Path = PICTURE) -> None:
    """Train, and draw."""
    torch.manual_seed(0)
    state = learner(epochs).fit(epochs).state
    print(f"{state.history[-1].loss:.2f} nats an image of the test split")
    model = state.to_module()
    assert isinstance(model, Autoencoder)
    images, _ = next(iter(DataLoaders.from_hf_dd(load_digits(), batch_size=20).valid))
    with torch.no_grad():
        rebuilt = model.decoder(model.encoder(images)[:, :CODE]).sigmoid()
        made = model.decoder(torch.randn(60, CODE)).sigmoid()
    save_image(torch.cat([images, rebuilt, made]).view(-1, 1, 8, 8), picture, nrow=20, padding=1, pad_value=0.5)


if __name__ == "__main__":
    main()
