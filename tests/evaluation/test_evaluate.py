"""`evaluate` and `predict`: the eval phase's numbers and predictions, from any state, with nothing changed by it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from nntrain import (
    BatchOutput,
    DataLoaders,
    EpochStats,
    Learner,
    StepOutput,
    Subscriber,
    TrainState,
    Transition,
    advance,
    evaluate,
    fit_step,
    predict,
    state_before,
)
from nntrain.checkpoint import load, save
from nntrain.errors import BusyError, ConfigError, DataError, LossError, StateError
from nntrain.update import optimizer
from nntrain.values.bits import same_bits
from tests.laws.strategies import KeyedLoader, KeyedLoaders, Setup, setups

Batch = tuple[Tensor, Tensor]


class Draws(nn.Module):
    """A model that is random in eval too, and counts its passes in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.passes: Tensor
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Count, and add noise that the count scales."""
        self.passes += 1
        found: Tensor = self.linear(inputs)
        return found + self.passes * torch.randn_like(found)


class Listens(Subscriber[Batch]):
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def before_epoch(self, state: TrainState) -> TrainState:
        self.asked += 1
        return state

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        self.asked += 1
        return state

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        self.asked += 1
        return state


def rows(count: int = 7) -> Batch:
    source = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, generator=source), torch.randint(0, 3, (count,), generator=source)


def shuffled() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*rows()), 3, shuffle=True)


def drawing(**arguments: Any) -> Learner[Any]:
    """Make a learner whose model is random, of data that are in another order in each epoch."""
    torch.manual_seed(0)
    return Learner(Draws(), DataLoaders(shuffled(), shuffled()), cross_entropy, {}, torch.optim.Adam, 0.1, **arguments)


@given(setup=setups(), seed=st.integers(0, 3), keyed=st.booleans())
@settings(max_examples=8)
def test_it_is_the_eval_phase_bit_for_bit(device: torch.device, setup: Setup, seed: int, keyed: bool) -> None:
    learner = setup.on(device).learner()
    if keyed:
        loaders = KeyedLoaders(KeyedLoader(setup.batches("train")), KeyedLoader(setup.batches("eval")))
        learner = learner.replace(dls=loaders)
    state = fit_step(learner, learner.init(seed), 2).state
    assert evaluate(learner, state) == state.history[-1]
    data: Any = learner.dls.valid
    assert evaluate(learner.replace(), copy.deepcopy(state), data) == state.history[-1]


def test_a_state_from_anywhere_gives_what_the_fit_had_there(tmp_path: Path) -> None:
    """After each train phase, from each later place with these weights: live, kept, loaded, of another learner."""
    states: list[TrainState] = []
    learner = drawing(sinks=[lambda one: states.append(one.state)])
    final = fit_step(learner, learner.init(), 2).state
    expected = [stats for stats in final.history if stats.phase == "eval"]
    found = 0
    for state in states:
        place = state.progress
        trained = len([one for one in state.history if one.phase == "train"])
        if place.phase == "train" and place.batch and place.at != "after_epoch":
            continue  # amid a train phase
        if not trained or (place.phase == "eval" and place.batch):
            continue  # the model has counted since
        if place.phase == "train" and place.batch == 0:
            continue
        assert evaluate(learner, state) == expected[trained - 1], state
        save(state, tmp_path / "state.safetensors")
        other = drawing()
        assert evaluate(other, load(tmp_path / "state.safetensors", other)) == expected[trained - 1]
        assert evaluate(drawing(), state) == expected[trained - 1]
        found += 1
    assert found == 6


def kept(state: TrainState) -> tuple[Any, ...]:
    return {**state.params}, {**state.buffers}, copy.deepcopy(state)


@pytest.mark.parametrize("of", ["live", "earlier", "another learner's"])
def test_nothing_is_changed_by_it(of: str) -> None:
    told: list[Transition] = []
    subscriber = Listens()
    learner = drawing(subs=[subscriber], sinks=[told.append])
    state = learner.init(epochs=3)
    earlier = state
    while state.progress.step < 4:
        if state.progress.step == 2:
            earlier = state
        state = advance(learner, state).state
    straight = fit_step(drawing(), copy.deepcopy(state))
    asked, seen, training = subscriber.asked, len(told), learner.machine.workspace.module.training
    given = {"live": state, "earlier": earlier, "another learner's": drawing().init(3)}[of]
    before = kept(given), kept(state)
    inputs = [rows()[0], rows()[0].clone()]
    for call in (lambda: evaluate(learner, given), lambda: list(predict(learner, given, inputs))):
        with torch.enable_grad():
            call()
            assert torch.is_grad_enabled()
        assert same_bits((kept(given), kept(state)), before)
    assert training
    assert same_bits(inputs, [rows()[0], rows()[0]])
    assert (subscriber.asked, len(told)) == (asked, seen)
    assert fit_step(learner, state).state == straight.state


def test_the_callers_generators_are_as_they_were() -> None:
    learner = drawing()
    state = learner.init()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluate(learner, state)
    found = [torch.rand(())]
    predictions = predict(learner, state, [rows()[0], rows()[0]])
    next(predictions)
    found.append(torch.rand(()))
    next(predictions)
    found.append(torch.rand(()))
    assert torch.equal(torch.stack(found), expected)


def test_predictions_are_lazy_in_order_and_of_the_state_whatever_the_learner_does_meanwhile() -> None:
    asked: list[int] = []

    class Told:
        def __iter__(self) -> Iterator[Tensor]:
            for index in range(4):
                asked.append(index)
                yield rows()[0][index : index + 1]

    learner = drawing()
    state = fit_step(learner, learner.init(), 1).state
    alone = list(predict(learner, state, Told()))
    asked.clear()
    found: list[Tensor] = []
    now = state
    for number, preds in enumerate(predict(learner, state, Told())):
        assert asked == list(range(number + 1))
        found.append(preds)
        now = fit_step(learner, now, 1).state
    assert same_bits(found, alone)
    assert not any(one.requires_grad for one in found)
    for one in found:  # memory of their own
        one.zero_()
    assert same_bits(list(predict(learner, state, Told())), alone)


class Same(nn.Module):
    """A model that gives its input, its weight and a buffer that it uses again back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.out = torch.zeros(1)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Give what is not its own."""
        self.out.fill_(inputs.sum().item())
        inputs.add_(1)
        return {"input": inputs, "weight": self.weight, "out": self.out}


def test_predictions_are_in_memory_of_their_own() -> None:
    learner: Learner[Any] = Learner(Same(), DataLoaders([rows()], [rows()]), cross_entropy, {}, torch.optim.SGD, 0.1)
    state = learner.init()
    data = [torch.zeros(1, 4), torch.ones(1, 4)]
    first, second = predict(learner, state, data)
    assert (first["out"].item(), second["out"].item()) == (0.0, 4.0)
    for one in (first, second):
        one["weight"].zero_()
        one["input"].zero_()
    assert state.params["weight"].sum() == 4
    assert data[0].sum() == 0
    assert data[1].sum() == 4


class Two(nn.Module):
    """A model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Add them."""
        found: Tensor = self.linear(image + mask)
        return found


class Optional(nn.Module):
    """A model with an input that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Add them."""
        found: Tensor = self.linear(image if mask is None else image + mask)
        return found


class Named(NamedTuple):
    """Inputs without a target."""

    image: Tensor
    mask: Tensor


X, Y = rows()
M = torch.full_like(X, 2.0)


@pytest.mark.parametrize(
    ("model", "batch", "inputs"),
    [
        (nn.Linear(4, 3), X, (X,)),
        (nn.Linear(4, 3), (X, Y), (X,)),
        (nn.Linear(4, 3), [X, Y], (X,)),
        (nn.Linear(4, 3), (X,), (X,)),
        (nn.Linear(4, 3), [X], (X,)),
        (nn.Linear(4, 3), {"image": X}, (X,)),
        (nn.Linear(4, 3), {"image": X, "label": Y}, (X,)),
        (nn.Linear(4, 3), {"image": X, "digit": Y}, (X,)),
        (Two(), (X, M, Y), (X, M)),
        (Two(), (X, M), (X, M)),
        (Two(), {"mask": M, "image": X}, (X, M)),
        (Two(), {"mask": M, "image": X, "y": Y}, (X, M)),
        (Two(), Named(X, M), (X, M)),
        (Optional(), {"image": X, "mask": M}, (X, M)),
        (Optional(), (X, Y), (X,)),
    ],
)
def test_what_the_inputs_of_a_batch_are(model: nn.Module, batch: Any, inputs: tuple[Tensor, ...]) -> None:
    learner: Learner[Any] = Learner(model, DataLoaders([1], [1]), cross_entropy, {}, torch.optim.SGD, 0.1)
    (preds,) = predict(learner, learner.init(), [batch])
    with torch.no_grad():
        assert torch.equal(preds, model(*inputs))


def test_unpack_says_otherwise() -> None:
    learner: Learner[Any] = Learner(
        nn.Linear(4, 3),
        DataLoaders([1], [1]),
        cross_entropy,
        {},
        torch.optim.SGD,
        0.1,
        unpack=lambda batch: ((batch["x"],), {}, batch["y"]),
    )
    state = learner.init()
    expected = next(predict(learner, state, [X]))
    assert torch.equal(next(predict(learner, state, [{"x": X, "y": Y, "z": 1}])), expected)
    of_another = predict(learner, state, [(Y, X)], unpack=lambda batch: ((batch[1],), {}, None))
    assert torch.equal(next(of_another), expected)
    with pytest.raises(ConfigError, match="predict: unpack is 7; expected a function of the batch"):
        predict(learner, state, [X], unpack=7)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(DataError, match="expected a tuple of three"):
        next(predict(learner, state, [(X, Y)], unpack=lambda batch: batch))


def test_a_task_of_ones_own_gives_its_preds() -> None:
    def task(model: nn.Module, batch: Tensor) -> StepOutput[Tensor]:
        return StepOutput(None, model(batch))

    def silent(model: nn.Module, batch: Tensor) -> StepOutput[Any]:
        return StepOutput(model(batch).mean())

    model = nn.Linear(4, 3)
    own, mute = (
        Learner.of(model, DataLoaders([X], None), one, optimizer(torch.optim.SGD, lr=0.1)) for one in (task, silent)
    )
    learner = own
    (preds,) = predict(own, learner.init(), [X])
    assert torch.equal(preds, model(X).detach())
    with pytest.raises(LossError, match="task silent returned no preds; predict needs them"):
        next(predict(mute, learner.init(), [X]))


def two_sets(**arguments: Any) -> Learner[Any]:
    sets = {"near": [rows()], "far": [rows(3)]}
    return Learner(nn.Linear(4, 3), DataLoaders([rows()], sets), cross_entropy, {}, torch.optim.SGD, 0.1, **arguments)


def test_which_data_it_is_of() -> None:
    learner = two_sets()
    state = learner.fit(1, print_stats=False).state
    assert [evaluate(learner, state, name) for name in ("near", "far")] == list(state.history[1:])
    own = evaluate(learner, state, [rows(3)])
    assert (own.data, own.loss, own.phase, own.epoch) == ("", state.history[2].loss, "eval", 0)
    with pytest.raises(ConfigError, match=r"dls.valid has near, far; say what to evaluate on: evaluate\(learner, sta"):
        evaluate(learner, state)
    with pytest.raises(ConfigError, match=r"there is no set 'fra' in dls.valid, which has near, far"):
        evaluate(learner, state, "fra")
    none = learner.replace(dls=DataLoaders([rows()], None))
    with pytest.raises(ConfigError, match=r"evaluate: dls.valid is None; say what to evaluate on"):
        evaluate(none, state)
    with pytest.raises(ConfigError, match="evaluate: the loader is list_iterator, which cannot be read once per epoch"):
        evaluate(learner, state, iter([rows()]))
    with pytest.raises(DataError, match="evaluate: the loader gave no batch"):
        evaluate(learner, state, [])
    with pytest.raises(ConfigError, match=r"evaluate: the loader is a dict; .* Of several by name, give one"):
        evaluate(learner, state, {"near": [rows()]})
    with pytest.raises(ConfigError, match="predict: the loader is a str"):
        predict(learner, state, "near")
    with pytest.raises(ConfigError, match="predict: the loader is int, which cannot be read"):
        predict(learner, state, 7)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(ConfigError, match="Got a Completed; a step takes its state"):
        predict(learner, learner.fit(1, print_stats=False), [X])  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize("call", [evaluate, lambda learner, state: next(predict(learner, state, [X]))])
def test_amid_a_step_another_learner_is_needed(call: Any) -> None:
    found: list[EpochStats | Tensor] = []

    class Asks(Subscriber[Any]):
        own = True

        def after_epoch(self, state: TrainState) -> TrainState:
            found.append(call(learner if self.own else other, state))
            return state

    asks = Asks()
    data = DataLoaders([rows()], [rows()])
    learner: Learner[Any] = Learner(nn.Linear(4, 3), data, cross_entropy, {}, torch.optim.SGD, 0.1, [asks])
    other = learner.replace(subs=())
    with pytest.raises(BusyError, match="Use another learner there"):
        learner.fit(1, print_stats=False)
    asks.own = False
    state = learner.fit(1, print_stats=False).state
    assert len(found) == 2
    assert found[-1] == state.history[-1] if isinstance(found[-1], EpochStats) else found[-1].shape == (7, 3)


def test_an_error_leads_back_to_the_state() -> None:
    def fails(preds: Tensor, target: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            raise ZeroDivisionError("here")
        return cross_entropy(preds, target)

    data = DataLoaders([rows()], [rows()])
    learner = Learner(nn.Linear(4, 3), data, fails, {}, torch.optim.SGD, 0.1)
    state = learner.init()
    with pytest.raises(ZeroDivisionError) as caught:
        evaluate(learner, state)
    assert state_before(caught.value) is state
    with pytest.raises(RuntimeError, match="mat1 and mat2") as failed:
        list(predict(learner, state, [X, X[:, :2]]))
    assert any("raised by the model; its inputs are" in note for note in failed.value.__notes__)
    assert torch.equal(next(predict(learner, state, [X])), next(predict(learner.replace(), state, [X])))
    other = Learner(nn.Linear(4, 2), data, mse_loss, {}, torch.optim.SGD, 0.1)
    with pytest.raises(StateError, match="do not fit the learner's model"):
        evaluate(other, state)


@pytest.mark.parametrize("batches", [1, 3])
def test_the_noise_of_eval_is_of_its_epoch_and_batch(batches: int) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, inputs: Tensor) -> Tensor:
            drawn.append(torch.rand(()).item())  # torch's generator of the CPU sees 32 bits of a seed
            return self.weight * inputs

    drawn: list[float] = []
    data = [(torch.ones(1), torch.ones(1))] * batches
    learner = Learner(Noisy(), DataLoaders(data, data), mse_loss, {}, torch.optim.SGD, 0.0)
    state = learner.fit(2, print_stats=False).state
    assert len(set(drawn)) == 4 * batches  # of each batch of train and eval, in each epoch
    last = drawn[-batches:]
    drawn.clear()
    evaluate(learner, state)
    assert list(predict(learner, state, data))
    assert drawn == [*last, *last]
