"""`transformed`: batches are changed at random, and are still a function of (key, epoch, batch)."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision.transforms import v2  # type: ignore[import-untyped]  # it has no py.typed

from nntrain import (
    DataLoaders,
    Engine,
    Key,
    Learner,
    Objective,
    StepOutput,
    TrainState,
    Transition,
    accuracy,
    evaluate,
    fit_step,
    predict,
    supervised,
)
from nntrain.data import (
    ImageLoaders,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    load_digits,
    segments,
    transformed,
)
from nntrain.data.loaders import as_loader, rows_of, sizes_of
from nntrain.errors import ConfigError, DataError, MetricError
from nntrain.log import JsonLog
from nntrain.testing import check_loader
from nntrain.update import accumulate, chain, optimizer
from nntrain.values.bits import same_bits
from nntrain.values.randomness import seeded

Pair = tuple[Tensor, Tensor]

IMAGES: Final = torch.rand(26, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS: Final = torch.arange(26) % 3
CHANGES: Final = (RandomCrop(padding=1), RandomHorizontalFlip(), RandomErasing())


def python_and_numpy(batch: Pair) -> Pair:
    """Draw from all three generators."""
    return batch[0] * random.random() + float(np.random.rand()) + torch.rand(()), batch[1]


TRANSFORMS: Final[dict[str, tuple[Callable[[Any], Any], ...]]] = {
    "per sample": CHANGES,
    "v2": (v2.Compose([v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4)]),),
    "MixUp": (v2.MixUp(alpha=0.4, num_classes=3),),
    "CutMix": (*CHANGES, v2.CutMix(num_classes=3)),
    "a choice": (v2.RandomChoice([v2.MixUp(num_classes=3), v2.CutMix(num_classes=3)]),),
    "own": (python_and_numpy,),
}


class Endless(IterableDataset[Pair]):
    """Rows of an iterable data set, which has no length."""

    def __iter__(self) -> Iterator[Pair]:
        yield from zip(IMAGES, LABELS, strict=True)


def listed() -> list[Pair]:
    return [*zip(torch.split(IMAGES, 5), torch.split(LABELS, 5), strict=True)]


def shuffled() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(IMAGES, LABELS), 5, shuffle=True)


LOADERS: Final[dict[str, Callable[[], Any]]] = {
    "list": listed,
    "torch": shuffled,
    "iterable": lambda: DataLoader(Endless(), 5),
    "segments": lambda: segments(shuffled(), batches=4),
}


def pairs_to_check() -> list[Any]:
    """Give each loader and each transform: with one of the other kind, and with all others in the sweep."""

    def marks(inner: str, name: str) -> tuple[Any, ...]:
        some = name == "own" or (inner == "list" and name != "a choice")
        return () if some else (pytest.mark.sweep,)

    return [pytest.param(inner, name, marks=marks(inner, name)) for inner in LOADERS for name in TRANSFORMS]


@pytest.mark.parametrize(("inner", "name"), pairs_to_check())
def test_a_batch_is_a_function_of_key_epoch_and_number(inner: str, name: str) -> None:
    check_loader(lambda: transformed(LOADERS[inner](), *TRANSFORMS[name]), examples=2)


def test_segments_of_transformed_are_a_function_of_these_too() -> None:
    check_loader(lambda: segments(transformed(shuffled(), *CHANGES), batches=4), examples=2)


@pytest.mark.parametrize("between", [lambda loader: loader, lambda loader: segments(loader, batches=6)])
def test_one_within_another_draws_other_numbers(between: Callable[[Any], Any]) -> None:
    def drawn(batch: tuple[float, ...]) -> tuple[float, ...]:
        return (*batch, torch.rand(()).item(), random.random())

    start: list[tuple[float, ...]] = [()] * 6
    for numbers in transformed(between(transformed(between(transformed(start, drawn)), drawn, drawn)), drawn):
        assert len(set(numbers)) == len(numbers) == 8


def plain_loop(key: Key, batches: Callable[[int], Any], epochs: int, transform: Callable[[Any], Any]) -> nn.Module:
    """Train by hand, with a seed for each batch."""
    model = make_model()
    optim = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        for index, batch in enumerate(batches(epoch)):
            with seeded(key.fold_in(0).derived(0x7472, 0, epoch, index)):
                inputs, target = transform(batch)
            loss: Any = cross_entropy(model(inputs), target)
            loss.backward()
            optim.step()
            optim.zero_grad()
    return model


def make_model() -> nn.Module:
    with seeded(1):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def in_order(batch: Any, names: str = "per sample") -> Any:
    for one in TRANSFORMS[names]:
        batch = one(batch)
    return batch


@pytest.mark.parametrize("names", ["per sample", "v2", "MixUp", "CutMix"])
def test_the_fit_is_the_hand_written_loop(names: str) -> None:
    train = transformed(listed(), *TRANSFORMS[names])
    learner = learner_of(train)
    state = learner.fit(2, seed=3, print_stats=False).state
    by_hand = plain_loop(Key(seed=3), lambda epoch: listed(), 2, lambda batch: in_order(batch, names))
    assert same_bits(dict(state.params), dict(by_hand.named_parameters()))
    plain = learner_of(listed()).fit(2, seed=3, print_stats=False).state
    assert not same_bits(dict(state.params), dict(plain.params))


def learner_of(train: Any, valid: Any = None, **named: Any) -> Learner[Any]:
    dls = DataLoaders(train, listed()[:2] if valid is None else valid)
    return Learner(make_model(), dls, cross_entropy, {"accuracy": accuracy}, torch.optim.SGD, 0.1, **named)


def of_task(train: Any) -> Learner[Any]:
    dls = DataLoaders(train, listed()[:2])
    return Learner.of(make_model(), dls, supervised(cross_entropy), optimizer(torch.optim.SGD, lr=0.1))


def accumulating(train: Any) -> Learner[Any]:
    update = chain(accumulate(2), optimizer(torch.optim.SGD, lr=0.1))
    return Learner.of(make_model(), DataLoaders(train, listed()[:2]), supervised(cross_entropy), update)


def with_objectives(train: Any) -> Learner[Any]:
    def task(model: nn.Module, batch: Any) -> StepOutput[Tensor]:
        preds = model(batch[0])
        return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1])

    one = Objective("one", task, optimizer(torch.optim.SGD, lr=0.1))
    return Learner.of(make_model(), DataLoaders(train, listed()[:2]), objectives=[one])


LEARNERS: Final[dict[str, Callable[[Any], Learner[Any]]]] = {
    "Learner": learner_of,
    "Learner.of": of_task,
    "accumulate": accumulating,
    "objectives": with_objectives,
    "bf16": lambda train: learner_of(train, engine=Engine(precision="bf16")),
    "compiled": lambda train: learner_of(train, engine=Engine(compile={"backend": "eager"})),
    "recorded": lambda train: learner_of(train, engine=Engine(capture=True)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.sweep) if one == "compiled" else one for one in LEARNERS]
)
def test_every_place_can_be_gone_on_from(tapes: None, name: str) -> None:
    def learner() -> Learner[Any]:
        inner = shuffled() if name == "compiled" else segments(shuffled(), batches=4)
        return LEARNERS[name](transformed(inner, *TRANSFORMS["CutMix"]))

    told: list[TrainState] = []

    def keep(transition: Transition) -> None:
        if transition.at == "batch" and transition.progress.phase == "train":
            told.append(copy.deepcopy(transition.state))

    straight = fit_step(learner().replace(sinks=[keep]), learner().init(2), 2).state
    assert straight.history[0].loss > 0
    for state in told[1::5]:
        assert fit_step(learner(), state).state == straight


def test_what_is_evaluated_and_predicted_is_as_it_was() -> None:
    learner = learner_of(transformed(listed(), *TRANSFORMS["MixUp"]))
    state = learner.fit(1, print_stats=False).state
    assert evaluate(learner, state) == evaluate(learner_of(listed()), state) == state.history[-1]
    of_train = evaluate(learner, state, listed())
    assert of_train == evaluate(learner_of(listed()), state, listed())
    preds = [*predict(learner, state, listed())]
    assert same_bits(preds, [*predict(learner_of(listed()), state, listed())])


def test_the_metric_of_mixed_batches_is_of_the_label_with_the_larger_share() -> None:
    mixed = [*transformed(listed(), v2.MixUp(num_classes=3)).batches(Key(seed=0).fold_in(0), 0, 0)]
    learner = learner_of(transformed(listed(), v2.MixUp(num_classes=3))).replace(lr=0.0)
    stats = learner.fit(1, seed=0, print_stats=False).state.history[0]
    model = make_model()
    with torch.no_grad():
        right = sum(int((model(one).argmax(1) == soft.argmax(1)).sum()) for one, soft in mixed)
        losses = sum(len(one) * cross_entropy(model(one), soft).item() for one, soft in mixed)
    assert stats.metrics["accuracy"] == pytest.approx(right / 26)
    assert stats.loss == pytest.approx(losses / 26, rel=1e-5)


def test_it_is_on_the_device_where_batches_are_made_or_moved_to() -> None:
    meta = torch.device("meta")
    seen: list[str] = []

    def look(batch: Pair) -> Pair:
        seen.extend(one.device.type for one in batch)
        return batch

    moved = transformed(shuffled(), look).to(meta)
    next(iter(moved))
    assert seen == ["meta", "meta"]
    digits = transformed(_digits().train, look)
    next(iter(digits.to(torch.device("cpu"))))
    assert seen[2:] == ["cpu", "cpu"]


@cache
def _digits() -> ImageLoaders:
    return DataLoaders.from_hf_dd(load_digits(), batch_size=64, flatten=False)


def test_resident_images_are_changed_and_its_rows_are_known() -> None:
    dls = _digits()
    train = transformed(dls.train, *CHANGES)
    assert len(train) == len(dls.train)
    assert rows_of(as_loader(train, "train")) == rows_of(dls.train)
    assert sizes_of(train, "train") == sizes_of(dls.train, "train")
    assert repr(train).startswith("transformed(ResidentLoader, RandomCrop(padding=1, fill=0.0), RandomHorizontalFlip(")
    said = train.description
    assert said["kind"] == "transformed"
    assert said["of"] == dls.train.description
    one, other = next(iter(train)), next(iter(dls.train))
    assert one[0].shape == other[0].shape
    assert not torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    with pytest.raises(TypeError):
        len(transformed(DataLoader(Endless(), 5), *CHANGES))


def test_what_cannot_be_meant_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"there is no transform; expected transformed\(loader, RandomCrop"):
        transformed(listed())
    with pytest.raises(ConfigError, match=r"not the class RandomErasing. Pass an instance: RandomErasing\(...\)"):
        transformed(listed(), RandomErasing)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(ConfigError, match="expected a function of the batch"):
        transformed(listed(), 3)  # type: ignore[call-overload]  # what is refused
    with pytest.raises(ConfigError, match=r"expected a function of the batch that returns a batch; .* missing"):
        transformed(listed(), cross_entropy)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(ConfigError, match=r"transformed: the loader is .*, which cannot be read once per epoch"):
        transformed(iter(listed()), *CHANGES)
    with pytest.raises(ConfigError, match=r"MixUp is for num_classes=9, and the loader has 10 classes"):
        transformed(_digits().train, v2.Compose([v2.MixUp(num_classes=9)]))


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_share_that_cannot_be_is_refused(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses it when the transform is made, but not where anything was compiled before."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    with pytest.raises(ConfigError, match=rf"MixUp has alpha={alpha}; expected a number above 0"):
        transformed(listed(), v2.Compose([v2.MixUp(alpha=alpha, num_classes=3)]))
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    with pytest.raises(ValueError, match="concentration"):
        v2.MixUp(alpha=alpha, num_classes=3)


@pytest.mark.parametrize(
    ("batches", "transform", "error", "said"),
    [
        ([(IMAGES[:, 0], LABELS)], v2.MixUp(num_classes=3), ValueError, "4 dims, but got 3"),
        ([(IMAGES, LABELS[:5])], v2.CutMix(num_classes=3), ValueError, "batch size of the image or video does not"),
        ([(IMAGES, LABELS)], v2.MixUp(num_classes=2), RuntimeError, "smaller than num_classes"),
        ([(IMAGES, LABELS)], v2.MixUp(), ValueError, "num_classes must be passed"),
        ([(IMAGES, LABELS.float())], v2.MixUp(num_classes=3), RuntimeError, "index tensor"),
        ([(IMAGES.flatten(1), LABELS)], RandomCrop(1), DataError, "flatten=False"),
    ],
    ids=["shape", "lengths", "classes", "no classes", "float", "crop"],
)
def test_a_batch_that_does_not_fit_ends_the_fit_before_anything_is_trained(
    batches: Any, transform: Callable[[Any], Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        learner_of(transformed(batches, transform)).fit(1, print_stats=False)
    notes = "\n".join(raised.value.__notes__)
    assert "raised by transform" in notes
    assert "it was given tuple(float32[26," in notes


@pytest.mark.parametrize("batch", [(IMAGES.flatten(1), LABELS), {"label": LABELS, "image": IMAGES}])
def test_torchvision_is_not_let_change_what_are_no_images(batch: Any) -> None:
    """It would turn the rows of a flattened image about, or the labels."""
    for one in (v2.RandomHorizontalFlip(p=1.0), v2.Compose([v2.RandomCrop(4)])):
        with pytest.raises(DataError, match=r"torchvision takes the first tensor of a batch.* flatten=False"):
            next(iter(transformed([batch], one)))


def test_smoothing_of_labels_is_torchs_loss_in_both_phases_and_takes_mixed_targets() -> None:
    smooth = nn.CrossEntropyLoss(label_smoothing=0.2)
    learner = learner_of(transformed(listed(), v2.MixUp(num_classes=3))).replace(loss_fn=smooth, lr=0.0)
    train, valid = learner.fit(1, print_stats=False).state.history
    model = make_model()
    mixed = [*transformed(listed(), v2.MixUp(num_classes=3)).batches(Key(seed=0).fold_in(0), 0, 0)]

    def by_hand(inputs: Tensor, soft: Tensor) -> float:
        return -float((model(inputs).log_softmax(1) * (0.8 * soft + 0.2 / 3)).sum())

    with torch.no_grad():
        assert train.loss == pytest.approx(sum(by_hand(*one) for one in mixed) / 26, rel=1e-5)
        hard = [(inputs, nn.functional.one_hot(labels, 3).float()) for inputs, labels in listed()[:2]]
        assert valid.loss == pytest.approx(sum(by_hand(*one) for one in hard) / 10, rel=1e-5)


@pytest.mark.parametrize("name", ["Learner.of", "recorded"])
def test_the_same_batches_are_trained_on_by_any_learner(tapes: None, name: str) -> None:
    def fitted(name: str) -> TrainState:
        train = transformed(listed(), *TRANSFORMS["CutMix"])
        return LEARNERS[name](train).fit(2, print_stats=False).state

    assert same_bits(dict(fitted(name).params), dict(fitted("Learner").params))


def test_the_log_says_what_changes_the_batches() -> None:
    stream = io.StringIO()
    learner_of(transformed(_digits().train, *TRANSFORMS["v2"], python_and_numpy)).replace(
        model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), sinks=[JsonLog(stream)]
    ).fit(steps=1, print_stats=False)
    said = json.loads(stream.getvalue().splitlines()[0])["config"]
    assert said["data"]["train"]["by"][1] == "python_and_numpy"
    assert said["data"]["train"]["by"][0].startswith("Compose( RandomCrop(size=(8, 8)")
    assert said["data"]["train"]["of"]["kind"] == "resident"
    assert (said["train_batches"], said["train_batch_size"], said["train_samples"]) == (23, 64, 1433)


def test_soft_targets_of_too_many_classes_do_not_fit_the_model() -> None:
    with pytest.raises(RuntimeError) as raised:
        learner_of(transformed(listed(), v2.MixUp(num_classes=4))).fit(1, print_stats=False)
    assert "preds are float32[5, 3], the target is float32[5, 4]" in "\n".join(raised.value.__notes__)


def test_a_transform_that_returns_nothing_or_writes_to_the_batch_is_refused() -> None:
    def forgets(batch: Pair) -> None: ...

    def writes(batch: Pair) -> Pair:
        batch[0].add_(1)
        return batch

    with pytest.raises(DataError, match="transform forgets returned None; expected the changed batch"):
        next(iter(transformed(listed(), forgets)))
    with pytest.raises(DataError, match="writes: a transform writes to the tensors of the batch"):
        next(iter(transformed([(IMAGES.clone(), LABELS)], writes)))
    erasing = v2.RandomErasing(p=1.0, inplace=True)
    next(iter(transformed(listed(), RandomCrop(1), erasing)))  # what it writes to is new


def test_accuracy_takes_probabilities_and_refuses_what_is_neither() -> None:
    preds = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    soft = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.8, 0.1]])
    assert accuracy(preds, soft) == 0.5
    assert accuracy(preds, soft.half()) == 0.5
    assert accuracy(preds.unsqueeze(2), soft.unsqueeze(2)) == 0.5
    assert accuracy(preds, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).isnan()  # two labels for one
    for target in (torch.tensor([[0], [2]]), torch.eye(3)[:2].long(), torch.tensor(0)):
        with pytest.raises(MetricError, match=r"scores are float32\[2, 3\], .*expected class numbers \[2\], or"):
            accuracy(preds, target)
