"""Every optimizer that torch exports: the hand-written loop's bits, and values kept, copied and gone back to."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from nntrain import DataLoaders, Learner, accuracy, advance, epoch_step, fit_step
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError
from tests.sampled import one_in

CLASSES = sorted(
    (
        one
        for one in vars(torch.optim).values()
        if isinstance(one, type) and issubclass(one, torch.optim.Optimizer) and one is not torch.optim.Optimizer
    ),
    key=lambda one: one.__name__,
)
SOURCE = torch.Generator().manual_seed(0)
WORDS = [
    (torch.randint(0, 9, (n, 3), generator=SOURCE), torch.randint(0, 3, (n,), generator=SOURCE)) for n in (8, 8, 5)
]


class Words(nn.Module):
    """An embedding and a linear layer without bias: every parameter has two dimensions."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4, sparse=sparse)
        self.head = nn.Linear(4, 3, bias=False)
        if sparse:
            self.head.requires_grad_(False)

    def forward(self, words: Tensor) -> Tensor:
        scores: Tensor = self.head(self.embed(words).mean(1))
        return scores


def made(optim_class: type[torch.optim.Optimizer]) -> tuple[nn.Module, Callable[..., torch.optim.Optimizer]]:
    """Make a model that the optimizer can train, and the optimizer's factory."""
    sparse = optim_class is torch.optim.SparseAdam
    torch.manual_seed(0)

    def make(params: Any, *, lr: float) -> torch.optim.Optimizer:
        trained = [one for one in params if one.requires_grad]
        options: dict[str, Any] = {"momentum": 0.9} if optim_class is torch.optim.SGD else {}
        return optim_class(trained, lr=lr, **options)  # type: ignore[call-arg] # every class takes lr

    return Words(sparse), make


def learner_of(optim_class: type[torch.optim.Optimizer]) -> Learner[tuple[Tensor, Tensor]]:
    model, make = made(optim_class)
    return Learner(model, DataLoaders(WORDS, WORDS[:1]), nn.functional.cross_entropy, accuracy, make, 0.05)


def test_there_are_the_classes_we_know() -> None:
    assert {"SGD", "AdamW", "LBFGS", "SparseAdam", "Rprop"} <= {one.__name__ for one in CLASSES}


@pytest.mark.parametrize("optim_class", CLASSES, ids=lambda one: one.__name__)
def test_it_ends_with_the_bits_of_the_hand_written_loop(optim_class: type[torch.optim.Optimizer]) -> None:
    model, make = made(optim_class)
    learner = learner_of(optim_class)
    optimizer = make(list(model.parameters()), lr=0.05)
    for _ in range(3):
        for words, target in WORDS:

            def closure(words: Tensor = words, target: Tensor = target) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(words), target)
                loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
                return loss

            if optim_class is torch.optim.LBFGS:
                optimizer.step(closure)  # type: ignore[arg-type] # torch's own documentation returns the tensor
            else:
                closure()
                optimizer.step()
    trained = learner.fit(3, print_stats=False).state
    for name, param in model.named_parameters():
        assert torch.equal(trained.params[name], param.detach()), name
        assert param.requires_grad is not torch.equal(trained.params[name], learner.init().params[name])


@pytest.mark.parametrize("optim_class", one_in(3, CLASSES), ids=lambda one: one.__name__)
def test_a_kept_state_can_be_gone_on_from_anywhere(optim_class: type[torch.optim.Optimizer]) -> None:
    learner = learner_of(optim_class)
    straight = learner.fit(2, print_stats=False).state
    kept = learner.init(epochs=2)
    fresh = copy.deepcopy(kept)
    while kept.progress.step < 2:
        kept = advance(learner, kept).state
    twin = copy.deepcopy(kept)
    assert fit_step(learner, kept).state == straight
    assert fit_step(learner_of(optim_class), twin).state == straight
    assert kept == twin
    # Back to before the first step: no moments are left over.
    assert fit_step(learner, fresh, 2).state == straight


# What torch wraps around a step is left out only while nobody uses it.


class Doubled(torch.optim.SGD):
    """A subclass with a step of its own."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # torch's overloads do not matter here
        super().step(closure)
        super().step(closure)


def learner_with(make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD, batches: int = 3) -> Learner[Any]:
    batch = (torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
    dls = DataLoaders([batch] * batches, [batch])
    return Learner(nn.Linear(2, 2), dls, nn.functional.cross_entropy, accuracy, make, 0.05)


def train(learner: Learner[Any]) -> None:
    epoch_step(learner, learner.init(epochs=1))


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_of_one_optimizer_see_each_step(when: str) -> None:
    seen: list[object] = []

    def make(params: Any, *, lr: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(params, lr=lr)
        register: Any = optimizer.register_step_pre_hook if when == "before" else optimizer.register_step_post_hook
        register(lambda *given: seen.append(given[0]))
        return optimizer

    train(learner_with(make))
    assert len(seen) == 3


@pytest.mark.parametrize("register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook])
def test_hooks_of_all_optimizers_see_each_step_until_they_are_removed(register: Callable[..., Any]) -> None:
    seen: list[object] = []
    learner = learner_with()
    handle = register(lambda *given: seen.append(given[0]))
    try:
        train(learner)
    finally:
        handle.remove()
    train(learner)
    assert len(seen) == 3


def test_the_profiler_sees_each_step() -> None:
    learner = learner_with()
    profile = torch.autograd.profiler.profile()
    with profile:
        train(learner)
    (row,) = [
        row
        for row in profile.key_averages()  # type: ignore[no-untyped-call] # torch leaves it untyped
        if row.key == "Optimizer.step#SGD.step"
    ]
    assert row.count == 3


def test_a_step_replaced_on_the_optimizer_is_the_one_taken() -> None:
    made: list[torch.optim.Optimizer] = []
    taken: list[int] = []

    def make(params: Any, *, lr: float) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(params, lr=lr))
        return made[-1]

    learner = learner_with(make)
    train(learner)
    plain = made[0].step

    def counted() -> None:
        taken.append(1)
        plain()

    vars(made[0])["step"] = counted  # as torch's schedulers do
    train(learner)
    assert len(taken) == 3


def test_a_subclass_takes_its_own_step() -> None:
    torch.manual_seed(0)
    plain = learner_with(batches=1)
    doubled = replace(plain, optim_class=Doubled)
    before, once, twice = (
        state.params["bias"]
        for state in (plain.init(), *(epoch_step(one, one.init(epochs=1)).state for one in (plain, doubled)))
    )
    assert torch.allclose(twice - before, 2 * (once - before))
    assert not torch.equal(once, before)


like_torch: Any = functools.wraps(torch.optim.SGD.step)


class Clipped(torch.optim.SGD):
    """Looks like torch's own wrapping, and is not."""

    @like_torch  # type: ignore[untyped-decorator] # so that no type of torch's step is copied
    def step(self, *args: Any, **kwargs: Any) -> Any:
        for param in self.param_groups[0]["params"]:
            param.grad.zero_()
        return super().step(*args, **kwargs)


def decorated(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def zeroed(self: Any, *args: Any, **kwargs: Any) -> Any:
        for param in self.param_groups[0]["params"]:
            param.grad.zero_()
        return step(self, *args, **kwargs)

    return zeroed


class Decorated(torch.optim.SGD):
    """Has a decorator of its own around its step."""

    @decorated
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("compiled", one_in(2, [False, True]))
@pytest.mark.parametrize("optim_class", [Clipped, Decorated])
def test_only_torch_s_own_wrapping_is_left_out(optim_class: Any, compiled: bool) -> None:
    learner = learner_with(optim_class).replace(compile={"backend": "eager"} if compiled else False)
    before, after = learner.init().params["bias"], epoch_step(learner, learner.init(epochs=1)).state.params["bias"]
    assert torch.equal(before, after)


def test_a_step_replaced_on_the_class_is_the_one_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    learner = learner_with()
    train(learner)
    plain = torch.optim.SGD.step

    @functools.wraps(plain)
    def counted(self: Any, *args: Any) -> Any:
        taken.append(1)
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    train(learner)
    assert len(taken) == 3


class Counting(torch.optim.SGD):
    """Adds a key to its group, and takes another away, when it steps for the first time."""

    def step(self, closure: Any = None) -> Any:
        (group,) = self.param_groups
        group["steps"] = group.get("steps", 0) + 1
        if group["steps"] > 3:
            group["lr"] = 0.0
        return super().step(closure)


def test_keys_that_an_optimizer_adds_to_its_groups_are_those_of_the_state() -> None:
    learner, other = learner_with(Counting), learner_with(Counting)
    start = learner.init(epochs=2)
    straight = fit_step(learner, start).state
    assert fit_step(learner, start).state == straight  # nothing of the other fit is left in the optimizer
    kept = epoch_step(learner, start).state
    assert kept.tensors.snapshot().optim.groups == ({"steps": 3},)
    assert fit_step(other, copy.deepcopy(kept)).state == fit_step(learner, kept).state == straight


class Attributes(torch.optim.SGD):
    """Counts in attributes of its own, some of which it makes at its first step."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.steps = 0
        self.norms: list[Tensor] = []

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        self.last = {"norm": self.param_groups[0]["params"][0].grad.norm(), "kind": "l2"}
        self.norms.append(self.last["norm"])
        for param in self.param_groups[0]["params"]:
            param.grad.mul_(self.steps / (1 + sum(self.norms)))
        return super().step(closure)


class Sharing(torch.optim.Optimizer):
    """Around another, and keeps nothing elsewhere."""

    def __init__(self, inner: torch.optim.Optimizer, *, shares: bool) -> None:
        super().__init__([param for group in inner.param_groups for param in group["params"]], inner.defaults)
        self.inner = inner
        if shares:
            self.state, self.param_groups = inner.state, inner.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def sharing(params: Any, lr: float) -> torch.optim.Optimizer:
    return Sharing(torch.optim.Adam(params, lr=lr), shares=True)


def counting_hook(params: Any, lr: float) -> torch.optim.Optimizer:
    optimizer: Any = torch.optim.SGD(params, lr=lr)
    optimizer.taken = 0

    def count(*given: object) -> None:
        optimizer.taken += 1
        optimizer.param_groups[0]["lr"] = lr / (1 + optimizer.taken)

    optimizer.register_step_post_hook(count)
    made: torch.optim.Optimizer = optimizer
    return made


@pytest.mark.parametrize("make", [Attributes, sharing, counting_hook], ids=lambda one: one.__name__)
def test_law_what_an_optimizer_keeps_in_its_attributes_is_part_of_the_state(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    learner = learner_with(make)
    start = learner.init(epochs=2)
    straight = fit_step(learner, start).state
    assert fit_step(learner, start).state == straight
    kept = start
    while kept.progress.step < 4:
        kept = advance(learner, kept).state
    twin = copy.deepcopy(kept)
    assert kept == twin
    save(kept, tmp_path / "kept.safetensors")
    back = load(tmp_path / "kept.safetensors", learner_with(make))
    assert back == twin
    assert fit_step(learner_with(make), back).state == fit_step(learner_with(make), twin).state == straight
    assert fit_step(learner, kept).state == straight
    assert fit_step(learner, start).state == straight


def with_scheduler(params: Any, lr: float) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(params, lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    optimizer.register_step_post_hook(lambda *given: scheduler.step())
    return optimizer


def around_another(params: Any, lr: float) -> torch.optim.Optimizer:
    return Sharing(torch.optim.Adam(params, lr=lr), shares=False)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (with_scheduler, r"has a scheduler, CosineAnnealingLR .*lr=lambda step"),
        (around_another, r"holds another, Adam \(inner\), with a memory of its own"),
    ],
)
def test_a_memory_elsewhere_is_told_before_the_first_step(make: Callable[..., Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        learner_with(make).init()
