"""Weights outside the state: what would not be trained, or never change, is told before anything is written."""

from __future__ import annotations

import copy
import functools
import gc
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, StepOutput, accuracy, fit_step
from nntrain.errors import ConfigError
from nntrain.update import optimizer

BATCHES = [(torch.randn(4, 4), torch.randint(0, 3, (4,))) for _ in range(3)]


def learner_of(model: Any, loss_fn: Any = cross_entropy, metric_fn: Any = accuracy, **more: Any) -> Learner[Any]:
    return Learner(model, DataLoaders(BATCHES, BATCHES[:2]), loss_fn, metric_fn, torch.optim.SGD, 0.1, **more)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


# -- the caller's module ----------------------------------------------------------------------------------------------

MODEL = mlp()


def bare(model: nn.Module) -> dict[str, Any]:
    """Return what one gives for a penalty, a metric or a hook that uses `model`, each as a learner that it breaks."""

    def norm() -> Tensor:
        return torch.stack([param.square().sum() for param in model.parameters()]).sum()

    class Held:
        def __init__(self) -> None:
            self.model = model

        def loss(self, preds: Tensor, target: Tensor) -> Tensor:
            return cross_entropy(preds, target) + norm()

    return {
        "a penalty": learner_of(model, lambda preds, target: cross_entropy(preds, target) + norm()),
        "a penalty that is a method": learner_of(model, Held().loss),
        "a penalty without a gradient": learner_of(
            model, lambda preds, target: cross_entropy(preds, target) + norm().detach()
        ),
        "a loss that evaluates the module again": learner_of(
            model, lambda preds, target: cross_entropy(model(BATCHES[0][0]), target) + 0 * preds.sum()
        ),
        "a metric": learner_of(model, metric_fn=lambda preds, target: norm().detach()),
        "a metric by data": learner_of(model, metric_fn=lambda preds, target: next(model.parameters()).data.sum()),
        "a compiled metric": learner_of(
            model, metric_fn=lambda preds, target: norm().detach(), compile={"backend": "eager"}
        ),
    }


@pytest.mark.parametrize("what", list(bare(mlp())))
def test_what_uses_the_caller_s_module_is_told_before_anything_is_written(what: str) -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    learner = bare(model)[what]
    start = learner.init()
    twin = copy.deepcopy(start)
    with pytest.raises(ConfigError, match="of the very module that was given as model"):
        fit_step(learner, start, 1)
    assert start == twin
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())


class Counting(nn.Module):
    """Counts in a hook: one that a copy takes along, or one that closes over the module."""

    count: Tensor

    def __init__(self, closes: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("count", torch.zeros(()))
        hook = (lambda module, given: self.counted(module, given)) if closes else self.counted
        self.linear.register_forward_pre_hook(hook)

    def counted(self, module: nn.Module, given: object) -> None:
        self.count.add_(1)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.linear(inputs)
        return scores


def test_a_hook_that_closes_over_the_module_is_told() -> None:
    model = Counting(closes=True)
    with pytest.raises(ConfigError, match=r"uses count of the very module .* Learner\(lambda: make_model"):
        learner_of(model).fit(1, print_stats=False)
    assert model.count == 0
    for given in (Counting(closes=False), lambda: Counting(closes=True)):
        assert learner_of(given).fit(1, print_stats=False).state.buffers["count"] == 5


def test_shapes_and_devices_of_the_caller_s_module_may_be_asked_for() -> None:
    model = mlp()

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        first = next(model.parameters())
        assert first.shape[1] == first.size(1) == 4
        return cross_entropy(preds.to(first.device), target) * first.dtype.itemsize / first.element_size()

    assert (
        learner_of(model, loss_fn).fit(1, print_stats=False).state == learner_of(mlp()).fit(1, print_stats=False).state
    )


def test_a_reference_of_one_s_own_may_be_used() -> None:
    model = mlp()
    start = copy.deepcopy(model).requires_grad_(False)

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(preds, target) + sum(param.square().sum() for param in start.parameters())

    learner_of(model, loss_fn).fit(1, print_stats=False)


@pytest.mark.parametrize("own", [False, True])
def test_a_later_backward_pass_that_reaches_such_weights_is_told_then(own: bool) -> None:
    model = mlp()
    used = copy.deepcopy(model) if own else model
    seen: list[int] = []

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        seen.append(1)
        loss = cross_entropy(preds, target)
        return loss + sum(param.square().sum() for param in used.parameters()) if len(seen) == 3 else loss

    learner = learner_of(model, loss_fn)
    match = "would train used.* of loss_fn" if own else "of the very module"
    with pytest.raises(ConfigError, match=match):
        learner.fit(1, print_stats=False)
    assert len(seen) == 3
    assert all(param.grad is None for param in used.parameters())
    sum(param.square().sum() for param in used.parameters()).backward()  # type: ignore[union-attr] # no step is under way
    assert all(param.grad is not None for param in used.parameters())


# -- parameters of their own ------------------------------------------------------------------------------------------


class Proxy(nn.Module):
    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("centre", torch.zeros(3))

    def forward(self, preds: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(preds @ self.weight.T - self.centre, target)


class Unregistered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.others = [nn.Linear(4, 3)]

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.others[0](self.first(inputs))
        return scores


def test_a_loss_with_parameters_of_its_own_is_refused_when_the_learner_is_made() -> None:
    with pytest.raises(ConfigError, match=r"loss_fn Proxy has parameters of its own: weight\. A learner trains"):
        learner_of(mlp(), Proxy())
    learner_of(mlp(), Proxy().requires_grad_(False)).fit(1, print_stats=False)


@pytest.mark.parametrize("how", ["closure", "partial", "registry"])
def test_parameters_that_a_loss_reaches_are_told_at_the_first_backward_pass(how: str) -> None:
    proxy = Proxy()
    REGISTRY.clear()
    REGISTRY.append(proxy)
    losses: dict[str, Callable[..., Tensor]] = {
        "closure": lambda preds, target: proxy(preds, target),
        "partial": functools.partial(lambda preds, target, of: of(preds, target), of=proxy),
        "registry": lambda preds, target: globals()["REGISTRY"][0](preds, target),
    }
    learner = learner_of(mlp(), losses[how])
    start = learner.init()
    twin = copy.deepcopy(start)
    words = "a parameter [3, 3]" if how == "registry" else "weight of loss_fn"
    with pytest.raises(ConfigError, match=f"would train .*{re.escape(words)}, which is no parameter of the model"):
        fit_step(learner, start, 1)
    assert start == twin
    assert proxy.weight.grad is None


REGISTRY: list[Proxy] = []


def test_another_model_s_parameters_are_called_as_torch_calls_them() -> None:
    other = mlp()

    def task(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        preds = other(batch[0]) + model(batch[0])
        return StepOutput(cross_entropy(preds, batch[1]), preds)

    learner = Learner.of(mlp(), DataLoaders(BATCHES), task, optimizer(torch.optim.SGD, lr=0.1))
    with pytest.raises(ConfigError, match=r"would train other\.[02]\.(weight|bias) of the task"):
        learner.fit(1, print_stats=False)


def test_parameters_that_the_model_does_not_register_are_told() -> None:
    with pytest.raises(ConfigError, match=r"would train a parameter \[(3, 4|3)\], which is no parameter of the model"):
        learner_of(Unregistered()).fit(1, print_stats=False)


def test_a_loss_that_writes_to_a_tensor_of_its_own_is_told() -> None:
    class Centred(Proxy):
        def forward(self, preds: Tensor, target: Tensor) -> Tensor:
            self.centre.lerp_(preds.detach().mean(0), 0.1)
            return super().forward(preds, target)

    with pytest.raises(ConfigError, match=r"writes to .*centre of loss_fn, which is no part of the state"):
        learner_of(mlp(), Centred().requires_grad_(False)).fit(1, print_stats=False)


def test_leaves_that_a_pass_makes_itself_are_nobody_s_weights() -> None:
    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        noise = torch.zeros(3, requires_grad=True)
        return cross_entropy(preds + noise, target)

    assert (
        learner_of(mlp(), loss_fn).fit(1, print_stats=False).state == learner_of(mlp()).fit(1, print_stats=False).state
    )


def test_the_watch_keeps_nothing_alive() -> None:
    model, proxy = mlp(), Proxy().requires_grad_(False)
    learner = learner_of(model, lambda preds, target: proxy(preds, target))
    learner.fit(1, print_stats=False)
    gone = weakref.ref(learner.machine.workspace)
    gc.disable()
    try:
        del learner
        assert gone() is None
    finally:
        gc.enable()


# -- factories --------------------------------------------------------------------------------------------------------


@functools.cache
def cached() -> nn.Module:
    return mlp()


@functools.lru_cache(maxsize=1)
def last() -> nn.Module:
    return mlp()


def remembered() -> nn.Module:
    made: nn.Module | None = getattr(remembered, "made", None)
    if made is None:
        made = mlp()
        remembered.made = made  # type: ignore[attr-defined] # as is done
    return made


class Maker:
    def __init__(self) -> None:
        self.model = mlp()

    def make(self) -> nn.Module:
        return self.model

    def __call__(self) -> nn.Module:
        return self.model


def global_one() -> nn.Module:
    return MODEL


def identity(model: nn.Module) -> nn.Module:
    return model


def giving(model: nn.Module) -> Callable[[], nn.Module]:
    return lambda: model


KEPT = mlp()
OLD: dict[str, Callable[[], nn.Module]] = {
    "a closure": giving(KEPT),
    "a global": global_one,
    "a partial": functools.partial(identity, KEPT),
    "a method": Maker().make,
    "an object": Maker(),
    "a cache": cached,
    "a bounded cache": last,
    "an attribute": remembered,
    "a part": lambda: nn.Sequential(KEPT, nn.Linear(3, 3)),
}


@pytest.mark.parametrize("what", OLD)
def test_a_factory_that_gives_what_it_holds_is_refused_before_it_is_trained(what: str) -> None:
    before = copy.deepcopy(OLD[what]().state_dict())
    learner = learner_of(OLD[what])
    with pytest.raises(ConfigError, match=r"factory returned a module that is not its own: .* which is copied"):
        learner.fit(1, print_stats=False)
    if what != "a part":
        assert all(torch.equal(tensor, before[name]) for name, tensor in OLD[what]().state_dict().items())


def test_a_factory_that_gives_the_module_in_training_again_is_refused() -> None:
    MADE.append(mlp())
    learner = learner_of(lambda: globals()["MADE"][0])
    learner.init()
    with pytest.raises(ConfigError, match="returned the module that it had returned before"):
        learner.init()


MADE: list[nn.Module] = []


def test_a_factory_that_makes_modules_of_what_it_holds_is_taken() -> None:
    start, width = mlp(), torch.tensor(5)

    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, int(width)), nn.ReLU(), nn.Linear(5, 3))
        model.load_state_dict(start.state_dict())
        return model

    assert learner_of(make).fit(1, print_stats=False).state == learner_of(start).fit(1, print_stats=False).state
    assert learner_of(lambda: copy.deepcopy(start)).init() == learner_of(start).init()
