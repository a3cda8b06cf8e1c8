"""Train a small network on the embedded digits: the first thing to run, and the least that a training needs.

    uv run python docs/examples/digits.py
    uv run nntrain fit docs/examples/digits.py:learner --epochs 10

Images are 8 x 8 pixels from 0 to 1. They are handwritten digits of the UCI Machine Learning Repository (Alpaydin and
Kaynak, 1998).
"""

import torch
from torch import Tensor, nn

from nntrain import DataLoaders, EarlyStopping, Learner, accuracy
from nntrain.data import ImageLoaders, load_digits

Batch = tuple[Tensor, Tensor]
EPOCHS = 10


def loaders() -> ImageLoaders:
    """Return the digits, to train and to evaluate on."""
    return DataLoaders.from_hf_dd(load_digits(), batch_size=64)


def learner(width: int = 64, lr: float = 0.003) -> Learner[Batch, Tensor]:
    """Return the learner: a model, data, a loss, what is measured, an optimizer, and who may stop it."""
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    dls = loaders()
    stop = EarlyStopping("loss", patience=3)
    return Learner(model, dls, nn.functional.cross_entropy, {"accuracy": accuracy}, torch.optim.Adam, lr, [stop])


def main(epochs: int = EPOCHS) -> None:
    """Train, and name some digits of the test split."""
    torch.manual_seed(0)
    model = learner().fit(epochs).state.to_module()
    images, labels = next(iter(loaders().valid))
    named = model(images[:10]).argmax(1)
    print("the first ten are", labels[:10].tolist(), "and were taken for", named.tolist())


if __name__ == "__main__":
    main()
