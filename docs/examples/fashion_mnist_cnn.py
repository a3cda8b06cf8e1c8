"""Classify Fashion-MNIST with a small residual network, on two cores.

    uv run python docs/examples/fashion_mnist_cnn.py
    uv run nntrain fit docs/examples/fashion_mnist_cnn.py:learner --epochs 10

Augmentation, one cycle of AdamW, an average of the weights, smoothed labels, bfloat16 and channels last. The data are
those of Debian's package `dataset-fashion-mnist`, or else the hub's.
"""

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Engine, Learner, StepOutput, accuracy
from nntrain.data import RandomCrop, RandomErasing, RandomHorizontalFlip, load_fashion_mnist, transformed
from nntrain.schedules import one_cycle, one_cycle_momentum, tuple_of
from nntrain.update import chain, ema, optimizer

Batch = tuple[Tensor, Tensor]
EPOCHS = 10
FAST_BF16 = torch.backends.cpu.get_cpu_capability() == "AVX512"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
DATA_DIR = DEBIAN if DEBIAN.is_dir() else None


def conv(inputs: int, outputs: int, *pool: nn.Module) -> nn.Sequential:
    """Return a convolution of 3 by 3; pooling, if any, comes before what is computed of each pixel."""
    kernel = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(kernel, *pool, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two convolutions, and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv(width, width), conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, and what the convolutions make of it."""
        return x.add(self.convs(x))


def network(width: int) -> nn.Sequential:
    """Return the network: [B, 1, 28, 28] to [B, 10]."""
    return nn.Sequential(
        nn.PixelUnshuffle(2),  # 2 by 2 pixels become 4 channels of one: a quarter of the work
        conv(4, width),
        conv(width, 3 * width, nn.MaxPool2d(2)),
        Residual(3 * width),
        conv(3 * width, 6 * width, nn.MaxPool2d(2)),
        Residual(6 * width),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(6 * width, 10),
    )


def classify(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
    """Return the loss of a batch, whose labels are smoothed in training."""
    images, labels = batch
    preds = model(images)
    loss = cross_entropy(preds, labels, label_smoothing=0.1 if model.training else 0.0)
    return StepOutput(loss, preds, labels)


def learner(
    epochs: int = EPOCHS,
    lr: float = 5e-3,
    width: int = 32,
    batch_size: int = 256,
    data_dir: Path | None = DATA_DIR,
) -> Learner[Batch, Tensor]:
    """Return the learner, for a cycle of so many epochs."""
    dls = DataLoaders.from_hf_dd(load_fashion_mnist(data_dir), batch_size=batch_size, flatten=False)
    train = transformed(dls.train, RandomCrop(padding=2), RandomHorizontalFlip(), RandomErasing(scale=(0.02, 0.2)))
    steps = epochs * len(train)
    adamw = optimizer(
        torch.optim.AdamW,
        lr=one_cycle(lr, steps=steps),
        betas=tuple_of(one_cycle_momentum(steps=steps), 0.99),
        weight_decay=0.05,
    )
    return Learner.of(
        network(width).to(memory_format=torch.channels_last),
        DataLoaders(train, dls.valid),
        classify,
        chain(adamw, ema(0.99, in_eval=True)),
        metrics={"accuracy": accuracy},
        engine=Engine(precision="bf16" if FAST_BF16 else "fp32"),
    )


def main(epochs: int = EPOCHS, data_dir: Path | None = DATA_DIR) -> None:
    """Train, and say how well."""
    torch.manual_seed(0)
    began = time.perf_counter()
    state = learner(epochs, data_dir=data_dir).fit(epochs).state
    minutes = (time.perf_counter() - began) / 60
    print(f"{state.history[-1].metrics['accuracy']:.4f} of the test images, after {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
