"""`tta`: means over predictions of a batch as it is and as it is changed, with nothing changed by it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2  # type: ignore[import-untyped]  # it has no py.typed

from nntrain import DataLoaders, Learner, StepOutput, TrainState, carry, fit_step, predict, tta
from nntrain.data import RandomCrop, RandomHorizontalFlip, transformed
from nntrain.errors import ConfigError, DataError
from nntrain.update import ema, optimizer
from nntrain.update.chaining import chain
from nntrain.values.bits import same_bits

Pair = tuple[Tensor, Tensor]

IMAGES: Final = torch.rand(14, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS: Final = torch.arange(14) % 3
VALID: Final[list[Pair]] = [*zip(torch.split(IMAGES, 5), torch.split(LABELS, 5), strict=True)]
CHANGES: Final = (RandomCrop(padding=2), RandomHorizontalFlip())
SOFTMAX: Final = nn.Softmax(dim=1)


def learner_of(**named: Any) -> Learner[Pair, Any]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    return Learner(model, DataLoaders(VALID, VALID), cross_entropy, {}, torch.optim.SGD, 0.1, **named)


@pytest.fixture
def trained() -> tuple[Learner[Pair, Any], TrainState]:
    learner = learner_of()
    return learner, learner.fit(1, print_stats=False).state


Trained = tuple[Learner[Pair, Any], TrainState]


def close(found: Any, wanted: list[Tensor]) -> None:
    found = [*found]
    assert len(found) == len(wanted)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, wanted, strict=True))


def test_the_plain_prediction_alone_is_that_of_predict(trained: Trained) -> None:
    assert same_bits([*tta(*trained, VALID, *CHANGES, beta=1.0)], [*predict(*trained, VALID)])


def test_it_is_the_mean_over_the_passes_with_a_share_of_the_plain_one(trained: Trained) -> None:
    seen: list[Tensor] = []

    def look(batch: Pair) -> Pair:
        seen.append(batch[0])
        return batch

    found = [*tta(*trained, VALID, *CHANGES, look, passes=3, beta=0.4)]
    module = trained[1].to_module()
    assert len(seen) == 9
    assert len({tuple(one.flatten().tolist()) for one in seen}) == 9
    with torch.no_grad():
        wanted = [
            0.4 * module(inputs) + 0.6 * torch.stack([module(one) for one in seen[3 * k : 3 * k + 3]]).mean(0)
            for k, (inputs, _) in enumerate(VALID)
        ]
        close(found, wanted)
        without = [torch.stack([module(one) for one in seen[3 * k : 3 * k + 3]]).mean(0) for k in range(3)]
        close(tta(*trained, VALID, *CHANGES, passes=3, beta=0.0), without)
        shares = [torch.stack([SOFTMAX(module(one)) for one in seen[3 * k : 3 * k + 3]]).mean(0) for k in range(3)]
        close(tta(*trained, VALID, *CHANGES, passes=3, beta=0.0, activation=SOFTMAX), shares)


def test_it_is_seeded_and_leaves_everything_as_it_was(trained: Trained) -> None:
    learner, state = trained
    change = v2.RandomAffine((-20, 20), (0.2, 0.2))
    kept, drawn = copy.deepcopy(state), torch.get_rng_state()
    found = [*tta(learner, state, VALID, change)]
    assert torch.equal(drawn, torch.get_rng_state())
    assert state == kept
    assert same_bits(found, [*tta(learner_of(), copy.deepcopy(kept), VALID, change)])
    assert fit_step(learner, state, 1) == fit_step(learner_of(), kept, 1)
    other = learner.fit(1, seed=1, print_stats=False).state.with_params(dict(state.params))
    assert not same_bits(found, [*tta(learner, other, VALID, change)])


def test_each_pass_of_each_batch_draws_other_numbers(trained: Trained) -> None:
    drawn: list[float] = []

    def draw(batch: Pair) -> Pair:
        drawn.append(torch.rand(()).item())
        return batch

    assert len([*tta(*trained, VALID, draw)]) == 3
    assert len(set(drawn)) == len(drawn) == 12


def test_it_is_lazy_and_the_learner_may_train_meanwhile(trained: Trained) -> None:
    learner, state = trained
    calls: list[int] = []

    def count(batch: Pair) -> Pair:
        calls.append(1)
        return batch

    whole = [*tta(learner, state, VALID, *CHANGES)]
    found = tta(learner, state, VALID, *CHANGES, count)
    assert not calls
    assert same_bits(next(found), whole[0])
    assert len(calls) == 4
    fit_step(learner, state, 1)
    assert same_bits([*found], whole[1:])


def test_any_input_of_predict_will_do(trained: Trained) -> None:
    wanted = [*tta(*trained, VALID, *CHANGES)]
    images = DataLoader(TensorDataset(IMAGES), 5)
    assert same_bits([*tta(*trained, images, *CHANGES)], wanted)
    assert same_bits([*tta(*trained, [*torch.split(IMAGES, 5)], *CHANGES)], wanted)
    turned = [(labels, inputs) for inputs, labels in VALID]
    unpacked = tta(*trained, turned, *CHANGES, unpack=lambda batch: ((batch[1],), {}, batch[0]))
    assert same_bits([*unpacked], wanted)
    of_train = learner_of().replace(dls=DataLoaders(transformed(VALID, *CHANGES), None))
    assert same_bits([*tta(of_train, trained[1], VALID, *CHANGES)], wanted)


def test_weights_and_trees_of_predictions() -> None:
    def task(model: nn.Module, batch: Pair) -> StepOutput[dict[str, Tensor]]:
        preds = model(batch[0].flatten(1))
        return StepOutput(cross_entropy(preds, batch[1]), {"scores": preds, "twice": 2 * preds})

    update = chain(optimizer(torch.optim.SGD, lr=0.5), ema(0.5))
    learner = Learner.of(nn.Linear(36, 3), DataLoaders(VALID, None), task, update)
    state = learner.fit(2, print_stats=False).state
    found = [*tta(learner, state, VALID, *CHANGES, weights="ema")]
    assert all(torch.allclose(one["twice"], 2 * one["scores"]) for one in found)
    averaged = state.with_averages("ema")
    assert same_bits(found, [*tta(learner, averaged, VALID, *CHANGES)])
    assert not same_bits(found, [*tta(learner, state, VALID, *CHANGES)])


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"passes": 0}, r"passes is 0; expected a whole number of 1 or more"),
        ({"passes": True}, r"passes is True"),
        ({"beta": 1.5}, r"beta is 1\.5; expected the share of the plain prediction, from 0 to 1"),
        ({"beta": float("nan")}, r"beta is nan"),
        ({"activation": 3}, r"activation is 3; expected a function of the predictions"),
        ({"weights": "ema"}, r"ema"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(trained: Trained, named: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tta(*trained, VALID, *CHANGES, **named)


def test_transforms_that_cannot_be_meant_are_refused_at_once(trained: Trained) -> None:
    with pytest.raises(ConfigError, match="there is no transform"):
        tta(*trained, VALID)
    with pytest.raises(ConfigError, match="CutMix mixes the samples of a batch"):
        tta(*trained, VALID, v2.Compose([v2.CutMix(num_classes=3)]))
    with pytest.raises(ConfigError, match="cannot be read once per epoch"):
        tta(*trained, iter(VALID), *CHANGES)


@pytest.mark.parametrize(
    ("activation", "said"),
    [
        (lambda preds: preds.argmax(1), r"int64\[5\]; expected tensors of floats"),
        (lambda preds: "none", r"are str; expected tensors of floats"),
        (lambda preds: preds[: torch.randint(1, 5, ())], r"float32\[\d, 3\], and of another pass float32\[\d, 3\]"),
    ],
)
def test_predictions_without_a_mean_are_refused(trained: Trained, activation: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        next(tta(*trained, VALID, *CHANGES, passes=9, activation=activation))


def test_a_task_that_carries_is_refused(trained: Trained) -> None:
    def task(model: nn.Module, batch: Pair, kept: int | None) -> tuple[StepOutput[Tensor], int]:
        preds: Tensor = model(batch[0])
        return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1]), (kept or 0) + 1

    learner, state = trained
    carries = Learner.of(learner.model, learner.dls, carry(task), optimizer(torch.optim.SGD, lr=0.1))
    with pytest.raises(ConfigError, match=r"tta: task .*task hands on from batch to batch"):
        tta(carries, state, VALID, *CHANGES)
