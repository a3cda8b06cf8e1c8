"""The workspace: what modules do with their tensors, faults at any batch, lending, and handing states on."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import (
    BatchOutput,
    CancelBatch,
    DataLoaders,
    Learner,
    Subscriber,
    TrainState,
    accuracy,
    advance,
    batch_step,
    fit_step,
    on,
    state_before,
)
from nntrain.errors import BorrowError, NNTrainError, StateError
from tests.sampled import one_in

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(1)
DATA = [(torch.randn(n, 4, generator=SOURCE), torch.randint(0, 3, (n,), generator=SOURCE)) for n in (6, 6, 3)]


class Counting(nn.Module):
    """Puts another tensor in a buffer's place in each forward pass, in eval too; keeps a None and a hidden buffer."""

    seen: Tensor
    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen = self.seen + len(inputs)
        self.hidden.mul_(0.5)
        scores: Tensor = self.head(inputs)
        return scores


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.one.weight
        self.head = nn.Linear(4, 3)
        self.head.bias.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.other(self.one(inputs).relu()))
        return scores


class Odd(nn.Module):
    """A 0-dim parameter, and one that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.weight = nn.Parameter(torch.randn(3, 4).t())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * (inputs.to(self.weight.dtype) @ self.weight)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 3),
    "batchnorm": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)),
    "buffers": Counting,
    "tied": Tied,
    "odd": Odd,
    "bf16": lambda: Odd().to(torch.bfloat16),
    "float64": lambda: Odd().double(),
}


def learner_of(model: str = "batchnorm", subs: list[Subscriber[Batch]] | None = None, **more: Any) -> Learner[Batch]:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"loss_fn": nn.functional.cross_entropy, "optim_class": torch.optim.Adam, "lr": 0.05}
    arguments.update(more)
    return Learner(
        MODELS[model](),
        DataLoaders(DATA, DATA[1:]),
        arguments["loss_fn"],
        arguments.get("metric_fn", accuracy),
        arguments["optim_class"],
        arguments["lr"],
        subs or [],
    )


@pytest.mark.parametrize("name", MODELS)
def test_any_module_kept_anywhere_continues_to_the_same_bits(name: str) -> None:
    learner = learner_of(name)
    straight = learner.fit(2, print_stats=False).state
    state, kept = learner.init(epochs=2), []
    while state.progress.at != "finished":
        kept.append((state, copy.deepcopy(state)))
        state = advance(learner, state).state
    assert state == straight
    other = learner_of(name)
    for one, twin in kept:
        assert one == twin
        assert fit_step(other, twin).state == straight
    assert all(one == twin for one, twin in kept)


@pytest.mark.parametrize("name", MODELS)
def test_to_module_gives_the_state_as_a_module_of_its_own(name: str) -> None:
    state = learner_of(name).fit(1, print_stats=False).state
    twin = copy.deepcopy(state)
    module = state.to_module()
    assert {key for key, _ in module.named_parameters()} == set(state.params)
    for key, param in module.named_parameters():
        assert torch.equal(param, state.params[key])
        assert param.grad is None
    for key, buffer in module.named_buffers():
        assert torch.equal(buffer, state.buffers[key])
    with torch.no_grad():
        for param in module.parameters():
            param.zero_()
    assert state == twin


def test_buffers_that_the_model_replaces_are_counted_in_both_phases() -> None:
    state = learner_of("buffers").fit(1, print_stats=False).state
    assert state.buffers["seen"] == 15 + 9
    assert state.buffers["hidden"].tolist() == [0.5**5] * 2


def test_tied_weights_stay_tied_and_frozen_ones_stay() -> None:
    learner = learner_of("tied")
    state = learner.fit(2, print_stats=False).state
    module = state.to_module()
    assert isinstance(module, Tied)
    assert module.one.weight is module.other.weight
    assert torch.equal(state.params["head.bias"], learner.init().params["head.bias"])
    assert not torch.equal(state.params["one.weight"], learner.init().params["one.weight"])


def test_dropout_comes_from_the_key() -> None:
    learner = learner_of("dropout")
    assert learner.fit(1, 3, print_stats=False).state == learner.fit(1, 3, print_stats=False).state
    one, other = (learner.fit(1, seed, print_stats=False).state.params["0.weight"] for seed in (3, 4))
    assert not torch.equal(one, other)


def groups(params: Any, *, lr: float) -> torch.optim.Optimizer:
    first, *rest = params
    return torch.optim.SGD([{"params": [first], "lr": lr * 0.1}, {"params": rest}], lr=lr)


@pytest.mark.parametrize("warmup", [False, True])
def test_a_schedule_scales_every_group(warmup: bool) -> None:
    def schedule(step: int) -> float:
        return 0.1 * step if warmup else 0.1 / (step + 1)

    learner = learner_of("linear", optim_class=groups, lr=schedule)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    for step, (inputs, target) in enumerate(DATA):
        optimizer = groups(list(model.parameters()), lr=schedule(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), target).backward()  # type: ignore[no-untyped-call] # torch's
        optimizer.step()
    state = learner.fit(1, print_stats=False).state
    torch.testing.assert_close(state.params["weight"], model.weight.detach())
    torch.testing.assert_close(state.params["bias"], model.bias.detach())


class Fuse:
    """Raises at its call number `at`, once."""

    def __init__(self, at: int) -> None:
        self.left = at

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError("blown")


class Faulty(Subscriber[Batch]):
    def __init__(self, event: str, fuse: Fuse) -> None:
        self.event, self.fuse = event, fuse

    def before_epoch(self, state: TrainState) -> TrainState:
        return self._meet("before_epoch", state)

    def after_epoch(self, state: TrainState) -> TrainState:
        return self._meet("after_epoch", state)

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
        return self._meet("before_batch", state)

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        if self.event == "after reading":
            assert state.params
        return self._meet("after_batch" if self.event != "after reading" else self.event, state)

    def _meet(self, event: str, state: TrainState) -> TrainState:
        if event == self.event:
            self.fuse.burn()
        return state


def faulty_adam(fuse: Fuse) -> Callable[..., torch.optim.Optimizer]:
    """Give what makes an Adam whose step fails before it writes."""

    def make(params: Any, *, lr: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(params, lr=lr)
        optimizer.register_step_pre_hook(lambda *_: fuse.burn())
        return optimizer

    return make


PLACES = ["model", "loss", "metric", "optimizer", "lr", "before_epoch", "after_epoch", "before_batch", "after_batch"]


@pytest.mark.parametrize("at", one_in(3, [2, 1, 4]))
@pytest.mark.parametrize("place", [*PLACES, "after reading"])
@pytest.mark.parametrize("optim_class", one_in(2, [torch.optim.Adam, torch.optim.LBFGS]))
def test_a_fault_anywhere_leaves_the_state_before_whole(place: str, at: int, optim_class: type) -> None:
    if optim_class is torch.optim.LBFGS and place == "optimizer":
        optim_class = torch.optim.Adam
    fuse = Fuse(at)
    sound = learner_of(optim_class=optim_class)
    more: dict[str, Any] = {"optim_class": optim_class}
    subs: list[Subscriber[Batch]] = []

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        if place == "loss":
            fuse.burn()
        return nn.functional.cross_entropy(preds, target)

    def metric_fn(preds: Tensor, target: Tensor) -> Tensor:
        if place == "metric":
            fuse.burn()
        return accuracy(preds, target)

    def lr(step: int) -> float:
        if step and place == "lr":
            fuse.burn()
        return 0.05

    if place == "optimizer":
        more["optim_class"] = faulty_adam(fuse)
    elif place.startswith(("before", "after")):
        subs = [Faulty(place, fuse)]
    elif place == "lr":
        more["lr"] = lr
    learner = learner_of(subs=subs, loss_fn=loss_fn, metric_fn=metric_fn, **more)
    if place == "model":
        learner.machine.workspace.module.register_forward_pre_hook(lambda *_: fuse.burn())
    with pytest.raises(OSError, match="blown") as caught:
        learner.fit(2, print_stats=False)
    assert "nntrain: in " in caught.value.__notes__[-1]
    before = state_before(caught.value)
    assert before is not None
    twin = copy.deepcopy(before)
    straight = sound.fit(2, print_stats=False).state
    gone_on = fit_step(learner, before).state
    assert before == twin
    assert {name: value.tolist() for name, value in gone_on.params.items()} == {
        name: value.tolist() for name, value in straight.params.items()
    }
    assert gone_on.history == straight.history


def test_an_optimizer_that_fails_while_writing_says_that_the_value_is_lost_and_kept_states_are_whole() -> None:
    class Torn(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            raise MemoryError("in the middle")

    learner = learner_of(optim_class=Torn)
    kept = learner.init()
    twin = copy.deepcopy(kept)
    with pytest.raises(MemoryError):
        fit_step(learner, kept, 1)
    assert kept == twin
    with pytest.raises(MemoryError) as caught:
        learner.fit(1, print_stats=False)
    assert state_before(caught.value) is None
    assert learner.init() == twin


def test_an_interrupt_waits_for_the_end_of_the_step(handler: Callable[..., Any]) -> None:
    learner = learner_of()
    calls = Fuse(3)

    def press(*_: object) -> None:
        calls.left -= 1
        if calls.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    hook = learner.machine.workspace.module.register_forward_pre_hook(press)
    with pytest.raises(KeyboardInterrupt) as caught:
        learner.fit(2, print_stats=False)
    hook.remove()
    assert signal.getsignal(signal.SIGINT) is handler
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.step == 3
    assert fit_step(learner, before).state == learner_of().fit(2, print_stats=False).state


def test_an_interrupt_in_a_step_that_fails_is_no_less_an_interrupt(handler: Callable[..., Any]) -> None:
    calls = Fuse(2)

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        calls.left -= 1
        if calls.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("at the same time")
        return nn.functional.cross_entropy(preds, target)

    with pytest.raises(KeyboardInterrupt) as caught:
        learner_of(loss_fn=loss_fn).fit(2, print_stats=False)
    assert isinstance(caught.value.__cause__, ValueError)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.step == 1


def test_two_threads_may_compare_two_live_states_in_any_order() -> None:
    one, other = learner_of("linear"), learner_of("linear")
    states = one.init(), other.init()

    def compare(left: TrainState, right: TrainState) -> None:
        for _ in range(2000):
            assert left == right

    threads = [threading.Thread(target=compare, args=pair, daemon=True) for pair in (states, states[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)


class Reader(Subscriber[Batch]):
    def __init__(self) -> None:
        self.seen: list[tuple[TrainState, Tensor]] = []

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        self.seen.append((state, state.params["0.weight"]))
        return state


def test_after_batch_reads_the_new_weights_and_may_keep_the_state() -> None:
    reader = Reader()
    learner = learner_of(subs=[reader])
    outcome = learner.fit(1, print_stats=False)
    assert outcome.state == learner_of().fit(1, print_stats=False).state
    state = learner_of().init(epochs=1)
    steps = learner_of()
    state = advance(steps, advance(steps, state).state).state
    for kept, weight in reader.seen[:3]:
        state = advance(steps, state).state
        assert torch.equal(weight, state.params["0.weight"])
        assert kept == state


class BackTo(Subscriber[Batch]):
    """Goes back to the state before the first batch, once, at batch 2."""

    def __init__(self, how: str) -> None:
        self.how, self.first, self.done = how, list[TrainState](), False

    def before_batch(self, state: TrainState, batch: Batch) -> TrainState | CancelBatch:
        if state.progress.phase == "train" and not self.first:
            self.first.append(state)
        if self.how == "after" or self.done or state.progress.batch != 2:
            return state
        self.done = True
        return self.first[0] if self.how == "before" else CancelBatch(state=self.first[0])

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        if self.how != "after" or self.done or state.progress.batch != 2:
            return state
        self.done = True
        return self.first[0]


@pytest.mark.parametrize(("how", "batches"), [("before", [2, 1, 2]), ("after", [0, 1, 2]), ("cancel", [1, 2])])
def test_an_answer_may_go_back_to_an_older_state(how: str, batches: list[int]) -> None:
    outcome = learner_of(subs=[BackTo(how)]).fit(1, print_stats=False)
    plain = learner_of()
    state = plain.init()
    for index in batches:
        state = batch_step(plain, state, DATA[index]).state
    assert torch.equal(outcome.state.params["0.weight"], state.params["0.weight"])


WRITES: dict[str, Callable[[Mapping[str, Tensor]], object]] = {
    "in place": lambda lent: lent["0.weight"].add_(1),
    "copy": lambda lent: lent["0.weight"].copy_(torch.zeros(5, 4)),
    "out": lambda lent: torch.add(torch.zeros(5, 4), 1, out=lent["0.weight"]),
    "item": lambda lent: lent["0.weight"].__setitem__(0, 1.0),
    "view": lambda lent: lent["0.weight"].view(-1)[3:5].zero_(),
    "detached": lambda lent: lent["0.weight"].detach().mul_(2),
    "buffer": lambda lent: lent["1.running_mean"].fill_(1),
    "foreach": lambda lent: torch._foreach_add_([lent["0.weight"]], 1.0),  # pyright: ignore[reportPrivateImportUsage] # torch's
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("live", [True, False])
def test_a_write_to_lent_tensors_is_refused_before_it_happens(how: str, live: bool) -> None:
    learner = learner_of()
    state = learner.init()
    twin = copy.deepcopy(state)
    lender = state if live else twin
    with pytest.raises(BorrowError, match=r"state\.borrow\(\) lent for reading"), lender.borrow() as lent:
        WRITES[how](lent)
    assert state == twin
    with state.borrow() as lent:
        assert (lent["0.weight"] * 2).add_(1).shape == (5, 4)
    assert fit_step(learner, state, 1).state == learner_of().fit(1, print_stats=False).state


def test_a_write_after_the_block_is_told_at_the_next_step() -> None:
    learner = learner_of()
    state = learner.init()
    kept = copy.deepcopy(state)
    with state.borrow() as lent:
        escaped = lent["0.weight"][:1]
    escaped.zero_()
    with pytest.raises(BorrowError, match=r"after state\.borrow\(\) had taken them back"):
        batch_step(learner, state, DATA[0])
    with pytest.raises(StateError, match="lost"):
        state.to_module()
    assert batch_step(learner, kept, DATA[0]).state == batch_step(learner_of(), learner_of().init(), DATA[0]).state


def test_a_state_goes_to_any_learner_that_it_fits() -> None:
    one, other = learner_of("linear"), learner_of("linear", optim_class=torch.optim.SGD, lr=0.5)
    state = one.fit(1, print_stats=False).state
    twin = copy.deepcopy(state)
    assert not torch.equal(fit_step(other, state, 1).state.params["weight"], state.params["weight"])
    assert state == twin
    torch.manual_seed(0)
    wide = learner_of("linear").replace(model=nn.Linear(4, 5, bias=False))
    with pytest.raises(StateError) as caught:
        fit_step(wide, state, 1)
    assert "unexpected parameter bias [3] float32" in str(caught.value)
    assert "parameter weight is [3, 4] float32, expected [5, 4] float32" in str(caught.value)
    with pytest.raises(StateError, match=r"missing parameter bias \[3\] float32"):
        fit_step(one, wide.init(), 1)


def test_a_state_is_shown_and_copied_and_never_pickled() -> None:
    state = learner_of().init()
    assert "\n" not in repr(state)
    for said in ("at=before_fit", "epoch=0", "batch=0", "step=0", "parameters=53", "device=cpu"):
        assert said in repr(state)
    record = json.loads(state.model_dump_json())
    assert record["tensors"]["params"]["0.weight"] == {"shape": [5, 4], "dtype": "float32"}
    assert copy.deepcopy(state) == state
    with pytest.raises(pickle.PicklingError, match="runs code"):
        pickle.dumps(state)


def test_what_is_handed_out_is_the_callers_own() -> None:
    state = learner_of().init()
    twin = copy.deepcopy(state)
    state.params["0.weight"].zero_()
    state.buffers["1.running_mean"].fill_(7)
    assert state == twin
    with pytest.raises(KeyError, match=r"are 0\.weight"):
        state.params["nope"]


def test_two_threads_may_hand_each_others_states_around() -> None:
    learners = [learner_of("linear"), learner_of("linear")]
    states = [learner.init(epochs=1) for learner in learners]
    twin = copy.deepcopy(states[0])
    ends: list[list[TrainState]] = [[], []]

    def step(mine: int) -> None:
        for _ in range(40):
            ends[mine].append(fit_step(learners[mine], states[1 - mine]).state)
            assert ends[mine][-1] != states[1 - mine]
            states[mine] = learners[mine].init(epochs=1)

    threads = [threading.Thread(target=step, args=(mine,), daemon=True) for mine in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    straight = fit_step(learner_of("linear"), twin).state
    assert len(ends[0]) == len(ends[1]) == 40
    assert all(state == straight for state in ends[0] + ends[1])


# -- handles that outlive their weak reference, and reads amid a write ------------------------------------------------


class Last:
    """Keeps a state when it is let go, and is part of a cycle, as trackers are."""

    def __init__(self, state: TrainState, box: list[TrainState]) -> None:
        self.state, self.box, self.me = state, box, self

    def __del__(self) -> None:
        self.box.append(self.state)


def small() -> Learner[Any]:
    torch.manual_seed(0)
    batches = [(torch.randn(4, 4), torch.randint(0, 3, (4,))) for _ in range(3)]
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    return Learner(model, DataLoaders(batches, batches), nn.functional.cross_entropy, accuracy, torch.optim.Adam, 0.1)


def resurrected(learner: Learner[Any]) -> tuple[TrainState, TrainState]:
    """Return a state that came back to life, and a copy of it from before."""
    box: list[TrainState] = []
    state = fit_step(learner, learner.init(), 1).state
    twin = copy.deepcopy(state)
    Last(state, box)
    del state
    gc.collect()
    return box[0], twin


def test_law_a_state_that_comes_back_to_life_is_what_it_was_or_says_that_it_is_lost() -> None:
    learner = small()
    state, twin = resurrected(learner)
    assert state == twin
    fit_step(learner, learner.init(), 1)
    for read in (
        lambda: state == twin,
        lambda: state.params["0.weight"],
        state.to_module,
        lambda: fit_step(learner, state, 2),
    ):
        with pytest.raises(StateError, match="it was let go, and kept again by a __del__"):
            read()
    assert fit_step(learner, learner.init(), 1).state == twin


def test_law_a_state_that_comes_back_to_life_and_is_gone_on_from_is_kept() -> None:
    learner = small()
    state, twin = resurrected(learner)
    further = fit_step(learner, state, 2).state
    assert state == twin
    assert further == fit_step(learner, twin, 2).state


@pytest.mark.parametrize("when", ["before", "after"])
def test_law_a_state_that_is_read_amid_its_write_says_so(when: str) -> None:
    kept: list[TrainState] = []
    said: list[str] = []

    @on("after_batch")
    def keep(state: TrainState, batch: object, output: object) -> TrainState:
        kept.append(state)
        return state

    def make(params: Any, lr: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(params, lr=lr)

        def read(*given: object) -> None:
            try:
                kept[-1].params["0.weight"]
            except StateError as error:
                said.append(str(error))

        register: Any = optimizer.register_step_pre_hook if when == "before" else optimizer.register_step_post_hook
        register(read)
        return optimizer

    learner = small().replace(optim_class=make, subs=[keep])
    state = fit_step(learner, learner.init(), 1).state
    assert len(said) == 3
    assert all("amid writing it; read it after the step" in one for one in said)
    assert state == fit_step(learner.replace(subs=[]), learner.init(), 1).state
    assert all(one.params["0.weight"].isfinite().all() for one in kept)


@pytest.mark.parametrize("live", [True, False])
def test_the_statistics_that_a_batch_norm_is_lent_are_not_written(live: bool) -> None:
    learner = learner_of()
    state = learner.init()
    twin = copy.deepcopy(state)
    lender, other = (state, twin) if live else (twin, state)
    inputs = torch.randn(8, 5)
    with lender.borrow() as lent:
        mean, var = lent["1.running_mean"], lent["1.running_var"]
        with pytest.raises(BorrowError, match=r"would write to '1\.running_mean'"):
            torch.nn.functional.batch_norm(inputs, mean, var, training=True)
        torch.nn.functional.batch_norm(inputs, mean, var, training=False)
    assert lender == other


@pytest.mark.parametrize("live", [True, False])
def test_a_lent_tensor_that_is_used_after_its_block_says_so(live: bool) -> None:
    state = learner_of().init()
    lender = state if live else copy.deepcopy(state)
    with lender.borrow() as lent:
        kept = dict(lent)
    uses: list[Callable[[Tensor], object]] = [
        lambda one: one.sum(),
        lambda one: one * 2,
        lambda one: torch.zeros(3) + one,
        lambda one: one.zero_(),
        lambda one: one.shape,
        lambda one: one.clone(),
        lambda one: one.tolist(),
        lambda one: one[0],
    ]
    for use in uses:
        with pytest.raises(BorrowError, match="used after its block"):
            use(kept["0.weight"])
    assert "taken back" in repr(kept["0.weight"])
    assert state == copy.deepcopy(lender)


@pytest.mark.parametrize("when", ["after the block", "in a thread"])
@pytest.mark.parametrize("live", [True, False])
def test_a_value_that_was_written_past_the_guard_is_lost_and_says_so(when: str, live: bool) -> None:
    state = learner_of().init()
    lender = state if live else copy.deepcopy(state)
    if when == "after the block":
        with lender.borrow() as lent:
            row = lent["0.weight"][0]
        row.zero_()
    else:

        def written(lent: Mapping[str, Tensor]) -> None:
            writer = threading.Thread(target=lent["0.weight"].zero_)
            writer.start()
            writer.join()

        with pytest.raises(BorrowError, match=r"written to: 0\.weight"), lender.borrow() as lent:
            written(lent)
    for _ in range(2):
        with pytest.raises(NNTrainError, match="lost"):
            lender.params["0.weight"]
