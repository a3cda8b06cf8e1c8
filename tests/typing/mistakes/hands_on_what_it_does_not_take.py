"""A task that carries is given what it handed on: the two are of one type."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from nntrain import DataLoaders, Learner, StepOutput, carry
from nntrain.update import optimizer
from tests.typing.setting import PAIRS, Batch


def goes_on(model: nn.Module, batch: Batch, hidden: Tensor | None) -> tuple[StepOutput[Tensor], list[Tensor]]:
    preds = model(batch[0])
    return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1]), [preds]


Learner.of(nn.Linear(2, 2), DataLoaders(PAIRS), carry(goes_on), optimizer(SGD, lr=0.1))  # E: Cannot infer value of type parameter "Kept" of "carry"  [misc]
