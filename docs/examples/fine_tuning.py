"""Fine-tune a network to another task: its body frozen at first, then trained slowly, lower layers slower still.

    uv run python docs/examples/fine_tuning.py
    uv run nntrain fit docs/examples/fine_tuning.py:learner --epochs 30

The body learns to name the embedded digits. Then the network gets another head, which is to say whether a digit is odd,
and but a few samples of that. The head is trained alone for a while, with the body frozen; after that all of it, each
layer with a rate of its own. J. Howard and S. Ruder, "Universal Language Model Fine-tuning for Text Classification",
2018.
"""

import torch
from datasets.dataset_dict import DatasetDict
from datasets.features.features import ClassLabel
from torch import Tensor, nn

from nntrain import DataLoaders, Learner, accuracy, supervised
from nntrain.data import load_digits
from nntrain.update import chain, freeze, layerwise, optimizer

Batch = tuple[Tensor, Tensor]
EPOCHS = 30
SAMPLES = 40
LAYERS = ("0.0.*", "0.2.*", "1.*")


def odd_digits(samples: int) -> DatasetDict:
    """Return digits whose label says whether they are odd; so many of them to train on."""
    digits = load_digits()
    digits["train"] = digits["train"].select(range(samples))
    labelled = digits.map(lambda label: {"label": label % 2}, input_columns="label")
    return labelled.cast_column("label", ClassLabel(names=["even", "odd"]))


def network(width: int, classes: int) -> nn.Sequential:
    """Return the network: a body of two layers, and a head."""
    body = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(body, nn.Linear(width, classes))


def pretrained(width: int, epochs: int) -> nn.Module:
    """Return the body of a network that names digits."""
    dls = DataLoaders.from_hf_dd(load_digits(), batch_size=64)
    loss = nn.functional.cross_entropy
    first = Learner(network(width, 10), dls, loss, {"accuracy": accuracy}, torch.optim.Adam, 3e-3)
    return first.fit(epochs, print_stats=False).state.to_module().get_submodule("0")


def learner(width: int = 64, lr: float = 0.003, samples: int = SAMPLES, before: int = 20) -> Learner[Batch, Tensor]:
    """Return the learner of odd and even, whose body has learned to name digits for `before` epochs."""
    body = pretrained(width, before)
    model = network(width, 2)
    model.get_submodule("0").load_state_dict(body.state_dict())
    dls = DataLoaders.from_hf_dd(odd_digits(samples), batch_size=8)
    of_ten_epochs = 10 * len(dls.train)
    rates = optimizer(torch.optim.Adam, lr=lr, groups=layerwise(LAYERS, lr, 0.3))
    rule = chain(freeze("0.*", until=of_ten_epochs), rates)
    return Learner.of(model, dls, supervised(nn.functional.cross_entropy, {"accuracy": accuracy}), rule)


def main(epochs: int = EPOCHS, samples: int = SAMPLES, before: int = 20) -> None:
    """Fine-tune, and train the same network from nothing on the same samples, to compare."""
    torch.manual_seed(0)
    tuned = learner(samples=samples, before=before)
    accuracies = {"fine-tuned": tuned.fit(epochs).state.history[-1].metrics["accuracy"]}
    fresh = tuned.replace(model=network(64, 2), update=optimizer(torch.optim.Adam, lr=0.003))
    accuracies["from nothing"] = fresh.fit(epochs, print_stats=False).state.history[-1].metrics["accuracy"]
    print(f"with {samples} samples: {', '.join(f'{name} {one:.3f}' for name, one in accuracies.items())}")


if __name__ == "__main__":
    main()
