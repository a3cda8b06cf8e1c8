"""Writes that torch, or the model's author, does not speak of: no kept state sees them."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy

from nntrain import (
    BatchOutput,
    DataLoaders,
    Learner,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    batch_step,
    fit_step,
    state_before,
)
from nntrain.errors import ConfigError, NNTrainError, StateError
from nntrain.values.bits import same_tensor
from tests.laws.strategies import Kept
from tests.sampled import one_in

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 4, generator=SOURCE), torch.randint(0, 3, (4,), generator=SOURCE)) for _ in range(3)]
WORDS = [(torch.randint(0, 9, (4, 1), generator=SOURCE), torch.randint(0, 3, (4,), generator=SOURCE)) for _ in range(3)]


def learner_of(model: Callable[[], nn.Module], **changes: Any) -> Learner[Batch]:
    torch.manual_seed(0)
    made = model()
    data = WORDS if isinstance(made, nn.Sequential) and isinstance(made[0], nn.Embedding) else DATA
    arguments: dict[str, Any] = {
        "model": made,
        "dls": DataLoaders(data, data),
        "loss_fn": cross_entropy,
        "metric_fn": accuracy,
        "optim_class": torch.optim.SGD,
        "lr": 2.0,
        **changes,
    }
    return Learner(**arguments)


class WithBuffers(nn.Module):
    """A linear layer and two buffers; subclasses say what the forward pass does to them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.one: Tensor
        self.two: Tensor
        self.register_buffer("one", torch.zeros(4))
        self.register_buffer("two", torch.ones(4))

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.linear(self.changed(inputs))
        return scores

    def changed(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError


class OwnNorm(WithBuffers):
    """Writes without a version counter noticing: torch does not mark batch_norm's statistics as written."""

    def changed(self, inputs: Tensor) -> Tensor:
        return batch_norm(inputs, self.one, self.two, training=True)


class ByData(WithBuffers):
    """Writes past the version counter."""

    def changed(self, inputs: Tensor) -> Tensor:
        self.one.data += inputs.detach().mean(0)
        return inputs - self.one.clone()


class Lag(WithBuffers):
    """One buffer takes the other's tensor."""

    def changed(self, inputs: Tensor) -> Tensor:
        self.two = self.one
        self.one = inputs.detach().mean(0)
        return inputs + self.two


class Swap(WithBuffers):
    """The buffers change places."""

    def changed(self, inputs: Tensor) -> Tensor:
        self.one, self.two = self.two, self.one
        return inputs + self.one


class Clamped(nn.Module):
    """Writes to its parameter before it uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            self.linear.weight.clamp_(-0.1, 0.1)
        scores: Tensor = self.linear(inputs)
        return scores


class Expanded(WithBuffers):
    """A buffer whose elements share their memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.zeros(1).expand(4))

    def changed(self, inputs: Tensor) -> Tensor:
        return inputs + self.one


class FunctionalNorm(nn.Module):
    """Batch norm without a counter of batches, so that nothing tells of the writes; in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("var", torch.ones(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return batch_norm(self.linear(inputs), self.mean, self.var, training=self.training)


class Graph(nn.Module):
    """A sparse buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.adjacency: Tensor
        self.register_buffer("adjacency", torch.eye(4).to_sparse())

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.linear(torch.sparse.mm(self.adjacency, inputs))
        return scores


def short_words() -> nn.Module:
    """Make an embedding whose rows grow past their norm only later."""
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(0.2)
    return model


class Teacher(nn.Module):
    """Moves a teacher after its student in the forward pass, in training only, as BYOL and mean teachers do."""

    def __init__(self, how: str, own_start: bool = False) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.how = how
        if own_start:
            self.teacher = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            for one, other in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
                if self.how == "counted":
                    with torch.no_grad():
                        other.lerp_(one, 0.1)
                elif self.how == "by data":
                    other.data.mul_(0.9).add_(one.data, alpha=0.1)
                else:
                    other.data = other.data * 0.9 + one.data * 0.1
        scores: Tensor = self.student(inputs) + self.teacher(inputs)
        return scores


class InEval(nn.Module):
    """Writes a frozen parameter in eval alone, past its counter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.mean = nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            self.mean.data.lerp_(inputs.mean(0), 0.1)
        scores: Tensor = self.linear(inputs - self.mean.clone())
        return scores


class Observer(WithBuffers):
    """Begins with what its first batch has, as an observer of quantisation does that was run before."""

    def __init__(self) -> None:
        super().__init__()
        self.one.copy_(DATA[0][0].amax(0))

    def changed(self, inputs: Tensor) -> Tensor:
        self.one.data.copy_(torch.maximum(self.one, inputs.detach().amax(0)))
        return inputs / self.one.clone()


class Counting(nn.Linear):
    """Counts in a frozen parameter, by a hook of the backward pass."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.passes = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.register_full_backward_hook(self.count)

    @staticmethod
    def count(module: nn.Module, *_: object) -> None:
        assert isinstance(module, Counting)
        module.passes.data.add_(1.0)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / (1.0 + self.passes.clone())


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "in backward": Counting,
    "teacher": lambda: Teacher("counted", own_start=True),
    "teacher, a copy": lambda: Teacher("counted"),
    "teacher, a copy, by data": lambda: Teacher("by data"),
    "teacher, a copy, replaced": lambda: Teacher("replaced"),
    "in eval": InEval,
    "observer": Observer,
    "max_norm": lambda: nn.Sequential(nn.Embedding(9, 4, max_norm=0.5), nn.Flatten(), nn.Linear(4, 3)),
    "clamped": Clamped,
    "own norm": OwnNorm,
    "by data": ByData,
    "lag": Lag,
    "swap": Swap,
    "expanded": Expanded,
    "functional norm": FunctionalNorm,
    "sparse": Graph,
    "short words": short_words,
}


def by_hand(model: nn.Module, data: list[Batch], epochs: int) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD([param for param in model.parameters() if param.requires_grad], lr=2.0)
    for _ in range(epochs):
        for train in (True, False):
            model.train(train)
            for inputs, target in data:
                with torch.set_grad_enabled(train):
                    loss = cross_entropy(model(inputs), target)
                if train:
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
                    optimizer.step()
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@pytest.mark.parametrize("capture", one_in(2, [False, True]))
@pytest.mark.parametrize("name", one_in(2, MODELS))
def test_every_kept_state_stays_and_goes_on_to_the_hand_written_loops_bits(
    tapes: None, name: str, capture: bool
) -> None:
    learner = learner_of(MODELS[name]).replace(capture=capture)
    torch.manual_seed(0)
    train = learner.dls.train
    assert isinstance(train, list)
    expected = by_hand(MODELS[name](), train, 2)
    state = learner.init(epochs=2)
    kept: list[Kept] = []
    while state.progress.at != "finished":
        kept.append(Kept(state))
        state = advance(learner, state).state
        for one in kept:
            one.check()
    for name_, tensor in {**state.params, **state.buffers}.items():
        assert same_tensor(tensor, expected[name_]), name_
    for one in kept:
        assert fit_step(learner, one.state).state == state
        one.check()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("at", one_in(5, [2, 1, 4, 8, 11]))
def test_a_failing_step_puts_back_what_the_forward_pass_wrote(name: str, at: int) -> None:
    calls = [0]

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == at:
            raise OSError("once")
        return cross_entropy(preds, target)

    learner = learner_of(MODELS[name], loss_fn=loss_fn)
    with pytest.raises(OSError, match="once") as caught:
        learner.fit(2, print_stats=False)
    before = state_before(caught.value)
    assert before is not None
    assert fit_step(learner, before).state == learner_of(MODELS[name]).fit(2, print_stats=False).state


def test_an_eval_batch_that_writes_makes_a_new_value() -> None:
    learner = learner_of(OwnNorm)
    state = learner.init(epochs=1)
    while state.progress.phase == "train" or state.progress.at != "batch":
        state = advance(learner, state).state
    kept = Kept(state)
    after = batch_step(learner, state, DATA[0]).state
    kept.check()
    assert not torch.equal(after.buffers["one"], kept.state.buffers["one"])


def test_a_buffer_made_in_the_forward_pass_is_refused() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.mean: Tensor | None
            self.register_buffer("mean", None)

        def forward(self, inputs: Tensor) -> Tensor:
            if self.mean is None:
                self.mean = inputs.mean(0).detach()
            scores: Tensor = self.linear(inputs - self.mean)
            return scores

    learner = learner_of(Lazy)
    state = learner.init()
    for _ in range(2):
        with pytest.raises(StateError, match="made its buffer mean, registered as None"):
            batch_step(learner, state, DATA[0])


class Seldom(nn.Module):
    """Does something to its frozen parameter in the passes of these numbers."""

    def __init__(self, write: Callable[[Seldom], None], *passes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)
        self.write, self.passes, self.number = write, passes, 0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.number in self.passes:
            self.write(self)
        self.number += 1
        scores: Tensor = self.linear(inputs) * self.scale.clone()
        return scores


def halve(model: Seldom) -> None:
    with torch.no_grad():
        model.scale.mul_(0.5)


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_later_pass_is_the_first_to_write_is_lost_with_an_error_for_who_keeps_it(fails: bool) -> None:
    batches = DATA * 5
    dls = DataLoaders(batches, DATA)

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        if fails and state.progress.batch == 10 and torch.is_grad_enabled():
            raise OSError("mine")
        return cross_entropy(preds, target)

    learner = learner_of(lambda: Seldom(halve, 10, 12), dls=dls, loss_fn=loss_fn)
    state = learner.init(epochs=1)
    for _ in range(12):
        state = advance(learner, state).state
    kept = state
    assert kept.progress.batch == 10
    if fails:
        with pytest.raises(OSError, match="mine"):
            advance(learner, kept)
    else:
        state = advance(learner, kept).state
        assert torch.equal(state.params["scale"], torch.full((3,), 0.5))
        for _ in range(2):
            before, state = Kept(state), advance(learner, state).state
            before.check()
        assert torch.equal(state.params["scale"], torch.full((3,), 0.25))
    with pytest.raises(StateError, match="wrote to scale, for the first time after many"):
        kept.params["linear.weight"]


class Halves(torch.autograd.Function):
    """Passes on what it is given, and halves another tensor in the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, halved: Tensor) -> Tensor:
        ctx.halved = halved
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        with torch.no_grad():
            ctx.halved.mul_(0.5)
        return gradients[0], None


def test_a_parameter_that_is_written_in_the_backward_pass_unannounced_is_kept_from_the_second_on() -> None:
    class Hidden(Seldom):
        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = super().forward(inputs)
            halved: Tensor = Halves.apply(scores, self.scale)
            return halved

    learner = learner_of(lambda: Hidden(halve))
    first = learner.init(epochs=1)
    for _ in range(2):
        first = advance(learner, first).state
    state = advance(learner, first).state
    with pytest.raises(StateError, match="wrote to scale"):
        first.params["scale"]
    for _ in range(2):
        before, state = Kept(state), advance(learner, state).state
        before.check()
    assert torch.equal(state.params["scale"], torch.full((3,), 0.125))


@pytest.mark.parametrize(("what", "said"), [("buffer", "registered mean"), ("parameter", "would train a parameter")])
def test_what_is_registered_or_replaced_in_the_forward_pass_is_refused(what: str, said: str) -> None:
    class Makes(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)

        def forward(self, input: Tensor) -> Tensor:
            if what == "buffer" and "mean" not in self._buffers:
                self.register_buffer("mean", input.mean(0))
            elif what == "parameter":
                self.weight = nn.Parameter(self.weight.detach() * 0.9)
            return super().forward(input)

    learner = learner_of(Makes)
    kept = Kept(learner.init(epochs=1))
    for _ in range(2):
        with pytest.raises(NNTrainError, match=said):
            batch_step(learner, kept.state, DATA[0])
        kept.check()


def test_a_buffer_that_gets_another_shape_in_the_forward_pass_is_refused() -> None:
    class Grows(WithBuffers):
        def changed(self, inputs: Tensor) -> Tensor:
            self.one.resize_(8).fill_(1.0)
            return inputs

    learner = learner_of(Grows)
    kept = Kept(learner.init(epochs=1))
    for _ in range(2):
        with pytest.raises(StateError, match=r"changed the shape of its one from \[4\] to \[8\]"):
            batch_step(learner, kept.state, DATA[0])
        kept.check()


class Merges(nn.Module):
    """Adds to its weight in eval what it adds to its output in training, as layers of low rank do."""

    def __init__(self, merges: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4), requires_grad=False)
        self.more = nn.Parameter(torch.ones(3, 4))
        self.merges = merges
        self.merged = False

    def train(self, mode: bool = True) -> Merges:
        super().train(mode)
        if self.merges and self.merged is mode:
            self.weight.data.add_(self.more.data, alpha=-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight if self.merged else self.weight + self.more
        return nn.functional.linear(inputs, weight)


def test_weights_that_are_merged_by_the_change_to_eval_are_refused_and_the_state_before_is_whole() -> None:
    learner = learner_of(lambda: Merges(True))
    with pytest.raises(StateError, match=r"wrote to weight in eval\(\)") as caught:
        learner.fit(1, print_stats=False)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.phase == "eval"
    with pytest.raises(StateError, match="wrote to weight"):
        fit_step(learner, before)
    assert torch.equal(before.params["weight"], torch.ones(3, 4))
    other = learner_of(lambda: Merges(False))
    assert fit_step(other, before).state == other.fit(1, print_stats=False).state


def test_outputs_are_no_piece_of_the_live_weights() -> None:
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.bias.expand(len(inputs), 3)

    seen: list[BatchOutput] = []
    losses: list[float] = []

    class Writes(Subscriber[Batch]):
        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
            losses.append(output.loss.item())
            seen.append(output)
            assert isinstance(output.preds, Tensor)
            output.preds.mul_(0)
            return state

    plain = learner_of(Bias).fit(1, print_stats=False).state
    assert learner_of(Bias, subs=[Writes()]).fit(1, print_stats=False).state == plain
    assert [output.loss.item() for output in seen] == losses

    told: list[tuple[float, Tensor]] = []

    def tell(transition: Transition) -> None:
        if transition.output is not None:
            told.append((transition.output.loss.item(), transition.output.loss))

    learner_of(Bias, loss_fn=lambda preds, target: preds[0, 0], sinks=[tell]).fit(1, print_stats=False)
    assert all(value == loss.item() for value, loss in told)


class Dies(torch.optim.Adam):
    """Writes its moments and fails before the weights."""

    left = 3

    def step(self, closure: Any = None) -> Any:
        Dies.left -= 1
        if Dies.left == 0:
            for memory in self.state.values():
                memory["exp_avg"].mul_(0.5)
            raise MemoryError("in the middle")
        return super().step(closure)


class WritesData(torch.optim.Optimizer):
    """Another package's optimizer: past the version counters, and dies after the first weight."""

    left = 3

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> Any:
        WritesData.left -= 1
        for number, param in enumerate(self.param_groups[0]["params"]):
            if WritesData.left == 0 and number == 1:
                raise MemoryError("in the middle")
            param.data.add_(param.grad.data, alpha=-0.1)


class DerivedWritesData(torch.optim.SGD):
    """Derived from torch's, with a step of its own."""

    left = 3

    def step(self, closure: Any = None) -> Any:
        DerivedWritesData.left -= 1
        for param in self.param_groups[0]["params"]:
            param.data.add_(param.grad, alpha=-0.1)
            if DerivedWritesData.left == 0:
                raise MemoryError("in the middle")


@pytest.mark.parametrize("optim_class", [Dies, WritesData, DerivedWritesData])
def test_a_value_that_an_optimizer_half_wrote_is_lost_and_the_sinks_are_told(optim_class: Any) -> None:
    optim_class.left = 3
    told: list[Transition] = []
    learner = learner_of(lambda: nn.Linear(4, 3), optim_class=optim_class)

    def tell(transition: Transition) -> None:
        if transition.error is not None:
            told.append(transition)

    with pytest.raises(MemoryError) as caught:
        learner.replace(sinks=[tell]).fit(2, print_stats=False)
    assert state_before(caught.value) is None
    assert "the state before it is lost" in caught.value.__notes__[-1]
    (failed,) = told
    assert failed.error is caught.value
    with pytest.raises(StateError, match="lost"):
        failed.state.to_module()


def test_what_an_optimizer_changes_in_its_groups_and_keeps_in_containers_is_the_states() -> None:
    class Halves(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for group in self.param_groups:
                group["lr"] *= 0.5
                for param in group["params"]:
                    self.state[param].setdefault("norms", deque(maxlen=4)).append(param.grad.norm().item())

    learner = learner_of(lambda: nn.Linear(4, 3), optim_class=Halves)
    state = batch_step(learner, learner.init(), DATA[0]).state
    kept = Kept(state)
    one = batch_step(learner, state, DATA[1]).state
    batch_step(learner, one, DATA[2])
    assert batch_step(learner, state, DATA[1]).state == one
    kept.check()
    assert learner.init().tensors.snapshot().optim.groups[0] == {}


def test_state_under_no_parameter_is_refused() -> None:
    class Strange(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            self.state["calls"] = {"count": 1}  # type: ignore[index] # the mistake

    with pytest.raises(ConfigError, match="keeps state under 'calls'"):
        learner_of(lambda: nn.Linear(4, 3), optim_class=Strange).fit(1, print_stats=False)


@pytest.mark.parametrize(("optim_class", "option"), [(torch.optim.Adam, "amsgrad"), (torch.optim.RMSprop, "centered")])
def test_a_memory_that_lacks_what_other_options_need_is_not_carried_over(optim_class: Any, option: str) -> None:
    def make(params: Any, lr: float) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = optim_class(params, lr=lr, **{option: True})
        return made

    plain = learner_of(lambda: nn.Linear(4, 3), optim_class=optim_class).fit(1, print_stats=False).state
    other = learner_of(lambda: nn.Linear(4, 3), optim_class=make)
    twin = copy.deepcopy(plain)
    one = fit_step(other, plain, 1).state
    assert one.progress.step == 6
    assert fit_step(other, plain, 1).state == one
    assert plain == twin


def test_a_key_error_of_the_optimizers_own_passes_on() -> None:
    class Looks(torch.optim.SGD):
        broken = False

        def step(self, closure: Any = None) -> Any:
            if Looks.broken:
                Looks.broken = False
                raise KeyError("lookup")
            return super().step(closure)

    def make(params: Any, lr: float) -> torch.optim.Optimizer:
        return Looks(params, lr=lr, momentum=0.9)

    learner = learner_of(lambda: nn.Linear(4, 3), optim_class=make)
    state = learner.fit(1, print_stats=False).state
    twin = copy.deepcopy(state)
    straight = fit_step(learner, state, 1).state
    Looks.broken = True
    with pytest.raises(KeyError, match="lookup"):
        fit_step(learner, twin, 1)
    assert fit_step(learner, twin, 1).state == straight
