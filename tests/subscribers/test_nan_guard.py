"""`NanGuard`: where it looks, what it names, and that nothing else comes of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils._python_dispatch import TorchDispatchMode

from nntrain import (
    CancelBatch,
    CancelFit,
    Cancelled,
    Completed,
    DataLoaders,
    Learner,
    TrainState,
    Transition,
    advance,
    fit_step,
    on,
)
from nntrain.errors import ConfigError
from nntrain.live.eager import Eager
from nntrain.subscribers import NanGuard, nan_guard
from nntrain.subscribers.protocol import Subscriber
from nntrain.values.output import BatchOutput
from nntrain.values.tensors import Tensors
from tests.sampled import one_in

Batch = tuple[Tensor, Tensor]


def batches(count: int = 6) -> list[Batch]:
    source = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, generator=source), torch.randn(4, 1, generator=source)) for _ in range(count)]


def spoilt(count: int, bad: int, value: float = math.nan) -> list[Batch]:
    """Make batches of which the one that is number `bad`, counted from 1, has one bad value."""
    made = batches(count)
    made[bad - 1][0][1, 2] = value
    return made


def error_of(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).abs().mean()


def learner_of(
    subs: Sequence[Subscriber[Any]],
    train: Sequence[Any] | None = None,
    valid: Sequence[Any] | None = None,
    model: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(3, 1)),
    **changes: Any,
) -> Learner[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = model()
    dls = DataLoaders(batches() if train is None else train, batches(3) if valid is None else valid)
    arguments: dict[str, Any] = {"loss_fn": mse_loss, "metric_fn": error_of, "optim_class": torch.optim.SGD, "lr": 0.01}
    learner: Learner[Any] = Learner(made, dls, subs=subs, **{**arguments, **changes})
    if nan_guard.waits_for_device(torch.zeros(())):
        engine = learner.machine.engine
        assert isinstance(engine, Eager)
        engine._sums_device = torch.device("cpu")  # the sums stay tensors, as on a device
    return learner


def stopped(learner: Learner[Any], epochs: int = 1) -> Cancelled:
    outcome = learner.fit(epochs, print_stats=False)
    assert isinstance(outcome, Cancelled)
    assert outcome.by == "NanGuard"
    assert isinstance(outcome.verdict, CancelFit)
    return outcome


def reason(learner: Learner[Any], epochs: int = 1) -> str:
    return stopped(learner, epochs).verdict.reason


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU stand in for a device that reading waits for."""
    monkeypatch.setattr(nan_guard, "waits_for_device", lambda loss: True)


@pytest.fixture(params=["cpu", "device"])
def either(request: pytest.FixtureRequest) -> str:
    if request.param == "device":
        request.getfixturevalue("stand_in")
    return str(request.param)


# -- a CPU: every batch's loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_value_of_the_batch_is_named_at_that_batch(value: float) -> None:
    assert reason(learner_of([NanGuard()], spoilt(6, 4, value)), 2) == (
        f"the loss is {value} at batch 4 of train, epoch 0, step 4; "
        f"first bad tensor: batch[0], 1 of 12 values not finite ({value})"
    )


def test_a_bad_target_is_of_the_batch_too() -> None:
    train = batches()
    train[1][1][2] = -math.inf
    assert "first bad tensor: batch[1], 1 of 4 values not finite (-inf)" in reason(learner_of([NanGuard()], train))


@dataclass
class Named:
    pixels: Tensor
    label: Tensor


class Pair(NamedTuple):
    pixels: Tensor
    label: Tensor


def test_batches_of_all_kinds_are_looked_through() -> None:
    inputs, target = spoilt(1, 1)[0]
    for batch, name in (
        ({"pixels": inputs, "label": target}, "batch['pixels']"),
        (Named(inputs, target), "batch.pixels"),
        (Pair(inputs, target), "batch.pixels"),
        ([inputs, target], "batch[0]"),
    ):
        assert f"first bad tensor: {name}, 1 of 12" in reason(learner_of([NanGuard()], [batch]))


def sparse_with_one_place_twice() -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([math.inf, -math.inf]), check_invariants=True)


BAD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "half": (lambda: torch.tensor([1, math.inf, math.nan]).half(), "2 of 3 values not finite (nan, inf)"),
    "complex": (lambda: torch.tensor([1j, complex(0, -math.inf)]), "1 of 2 values not finite (-inf)"),
    "conjugate": (lambda: torch.tensor([1j, complex(0, -math.inf)]).conj(), "1 of 2 values not finite (inf)"),
    "coo": (lambda: torch.tensor([[0.0, math.nan], [0.0, 2.0]]).to_sparse(), "1 of 2 values not finite (nan)"),
    "csr": (lambda: torch.tensor([[0.0, math.nan], [0.0, 2.0]]).to_sparse_csr(), "1 of 2 values not finite (nan)"),
    "sum": (sparse_with_one_place_twice, "1 of 1 values not finite (nan)"),
    "nested": (lambda: torch.nested.as_nested_tensor([torch.ones(2), torch.tensor([math.nan])]), "1 of 3 values"),
    "large": (lambda: torch.full((50, 40), math.nan), "2,000 of 2,000 values not finite (nan)"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("name", BAD)
def test_tensors_of_all_kinds_are_looked_at_and_integers_are_never_bad(name: str) -> None:
    make, said = BAD[name]
    inputs, target = batches(1)[0]
    batch = {"ids": torch.full((4,), -1), "mask": torch.ones(4, dtype=torch.bool), name: [target, make()], "x": inputs}
    learner = learner_of(
        [NanGuard()],
        [batch],
        loss_fn=lambda preds, target: mse_loss(preds, target) * math.nan,
        unpack=lambda batch: ((batch["x"],), {}, batch[name][0]),
    )
    assert f"first bad tensor: batch['{name}'][1], {said}" in reason(learner)


class Root(nn.Module):
    """Makes a NaN of a negative input, in training or in eval."""

    def __init__(self, *, train: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.train_too = train

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.linear(inputs if self.training and not self.train_too else inputs.sqrt())
        return found


def test_what_the_model_makes_of_a_good_batch_is_named() -> None:
    learner = learner_of([NanGuard()], model=lambda: Root(train=True))
    assert reason(learner) == (
        "the loss is nan at batch 1 of train, epoch 0, step 1; "
        "first bad tensor: preds, 4 of 4 values not finite (nan); none seen in the batch, and "
        "what parameters and buffers were before step 1 cannot be seen after it"
    )


def test_a_tree_of_predictions_is_looked_through() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            found: Tensor = self.linear(inputs)
            return {"good": found, "root": inputs.sqrt()}

    def loss(preds: dict[str, Tensor], target: Tensor) -> Tensor:
        return mse_loss(preds["good"], target) + preds["root"].mean()

    learner = learner_of([NanGuard()], model=Twice, loss_fn=loss, metric_fn=lambda preds, target: 0.0)
    assert "first bad tensor: preds['root'], " in reason(learner)


def test_weights_that_overflow_show_in_the_predictions() -> None:
    said = reason(learner_of([NanGuard()], lr=3e38), 5)
    assert said.startswith(
        "the loss is nan at batch 2 of train, epoch 0, step 2; first bad tensor: preds, 4 of 4 values not finite (nan"
    )
    assert "params" not in said, "all are bad after this step, and none of them need have been before it"


def spoil(preds: Tensor, target: Tensor) -> Tensor:
    return mse_loss(preds, target) * math.nan


def test_a_bad_loss_of_good_predictions_is_named_itself_and_what_its_step_left() -> None:
    assert reason(learner_of([NanGuard()], loss_fn=spoil)) == (
        "the loss is nan at batch 1 of train, epoch 0, step 1; first bad tensor: the loss itself; "
        "none seen in batch or preds; after step 1: params/0.weight, 3 of 3 values not finite (nan)"
    )


def test_a_step_of_a_bad_loss_may_leave_good_weights() -> None:
    assert reason(learner_of([NanGuard()], loss_fn=lambda preds, target: mse_loss(preds, target) + math.inf)) == (
        "the loss is inf at batch 1 of train, epoch 0, step 1; first bad tensor: the loss itself; "
        "none seen in batch or preds, nor after step 1 in parameters or buffers"
    )


def in_eval(preds: Tensor, target: Tensor) -> Tensor:
    return mse_loss(preds, target) if preds.requires_grad else spoil(preds, target)


def test_a_bad_value_in_eval_alone_is_named() -> None:
    assert reason(learner_of([NanGuard()], valid=spoilt(3, 2))) == (
        "the loss is nan at batch 2 of eval, epoch 0, step 6; "
        "first bad tensor: batch[0], 1 of 12 values not finite (nan)"
    )


def test_in_eval_predictions_of_a_good_model_are_said_to_be_so() -> None:
    assert reason(learner_of([NanGuard()], model=lambda: Root(train=False))) == (
        "the loss is nan at batch 1 of eval, epoch 0, step 6; first bad tensor: preds, 4 of 4 values not finite (nan); "
        "none seen in batch, parameters or buffers"
    )


def test_in_eval_nothing_but_the_loss_may_be_bad() -> None:
    assert reason(learner_of([NanGuard()], loss_fn=in_eval)) == (
        "the loss is nan at batch 1 of eval, epoch 0, step 6; first bad tensor: the loss itself; "
        "none seen in batch, preds, parameters or buffers"
    )


def test_weights_that_the_last_train_batch_spoilt_are_named_in_eval() -> None:
    learner = learner_of([NanGuard()], batches(1), lr=3e38)
    said = reason(learner)
    assert said.startswith("the loss is nan at batch 1 of eval, epoch 0, step 1; first bad tensor: preds, 4 of 4 ")
    assert "), made with params/0.weight, " in said
    assert said.endswith("; none seen in the batch")


class Numb(nn.Module):
    """Gives finite numbers, whatever its weights and its buffer are."""

    def __init__(self, buffer: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.mask: Tensor
        self.register_buffer("mask", torch.tensor([buffer, 0.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.linear(inputs)
        return found.nan_to_num(0, 0, 0)


def test_in_eval_bad_weights_and_buffers_are_named_in_their_order_where_batch_and_predictions_are_good() -> None:
    spoilt_weights = learner_of([NanGuard()], batches(1), model=lambda: Numb(-math.inf), loss_fn=in_eval, lr=3e38)
    said = reason(spoilt_weights)
    assert "first bad tensor: params/linear.weight, " in said
    assert said.endswith("; none seen in batch or preds")
    meant = learner_of([NanGuard()], batches(1), model=lambda: Numb(-math.inf), loss_fn=in_eval)
    assert "first bad tensor: buffers/mask, 1 of 2 values not finite (-inf); none seen" in reason(meant)


def test_a_batch_that_another_cancelled_is_found_at_the_end_of_the_phase() -> None:
    @on("after_batch", order=-1)
    def skip(state: TrainState, batch: object, output: BatchOutput) -> TrainState | CancelBatch:
        return state if math.isfinite(output.loss) else CancelBatch(reason="bad")

    learner = learner_of([NanGuard(), skip], valid=spoilt(3, 2))
    outcome = stopped(learner)
    assert outcome.event == "after_epoch"
    assert outcome.verdict.reason == (
        "the mean loss is nan at the end, batch 3 of eval, epoch 0, step 6; first bad tensor: the loss of one of its "
        "batches, whose other tensors are gone; none seen in parameters or buffers"
    )


def test_a_mean_of_another_phase_is_none_of_this_one() -> None:
    @on("before_batch")
    def skip(state: TrainState, batch: object) -> CancelBatch:
        return CancelBatch(reason="none wanted")

    spoilt_before = learner_of([], valid=spoilt(3, 2)).fit(1, print_stats=False)
    assert math.isnan(spoilt_before.state.history[-1].loss)
    assert isinstance(fit_step(learner_of([NanGuard(), skip]), spoilt_before.state, 1), Completed)
    assert isinstance(fit_step(learner_of([NanGuard(), skip]), learner_of([]).init(epochs=1)), Completed)


def test_weights_are_looked_at_without_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensors: Tensors) -> dict[str, Tensor]:
        raise AssertionError("copied")

    monkeypatch.setattr(Tensors, "params", refuse)
    monkeypatch.setattr(Tensors, "buffers", refuse)
    assert "params/0.weight, " in reason(learner_of([NanGuard()], loss_fn=spoil))


# -- a device: the running sums -----------------------------------------------------------------------------------


def test_reading_waits_for_what_is_not_on_the_cpu() -> None:
    assert not nan_guard.waits_for_device(torch.zeros(()))
    assert nan_guard.waits_for_device(torch.zeros((), device="meta"))


@pytest.mark.usefixtures("stand_in")
def test_a_device_is_looked_at_every_so_many_batches() -> None:
    said = reason(learner_of([NanGuard(4)], spoilt(20, 10)))
    assert said == (
        "the mean loss so far is nan at batch 12 of train, epoch 0, step 12; "
        "first bad tensor: preds, 4 of 4 values not finite (nan); none seen in the batch, and what parameters and "
        "buffers were before step 12 cannot be seen after it; looked at every 4 batches, so an earlier one may have "
        "begun it"
    )
    assert " at batch 8 of train" in reason(learner_of([NanGuard(4)], spoilt(20, 8))), "in time is in time"


@pytest.mark.usefixtures("stand_in")
def test_a_device_that_is_looked_at_in_every_batch_has_no_earlier_one() -> None:
    assert reason(learner_of([NanGuard(1)], spoilt(20, 10))) == (
        "the mean loss so far is nan at batch 10 of train, epoch 0, step 10; "
        "first bad tensor: batch[0], 1 of 12 values not finite (nan)"
    )


@pytest.mark.usefixtures("stand_in")
def test_a_good_batch_is_not_accused_of_a_bad_one_before_it() -> None:
    assert reason(learner_of([NanGuard(4)], valid=spoilt(9, 2))) == (
        "the mean loss so far is nan at batch 4 of eval, epoch 0, step 6; first bad tensor: the loss of a batch before "
        "batch 4, whose other tensors are gone; none seen in parameters or buffers"
    )


@pytest.mark.usefixtures("stand_in")
def test_the_last_batch_of_a_phase_is_found_at_its_end() -> None:
    for bad in (6, 7):
        outcome = stopped(learner_of([NanGuard()], spoilt(7, bad)))
        assert outcome.event == "after_epoch"
        assert outcome.verdict.reason == (
            "the mean loss is nan at the end, batch 7 of train, epoch 0, step 7; first bad tensor: the loss of one of "
            "its batches, whose other tensors are gone; after step 7: params/0.weight, 3 of 3 values not finite (nan)"
        )


@pytest.mark.usefixtures("stand_in")
def test_weights_that_the_last_train_batch_spoilt_are_named_at_the_end_of_eval() -> None:
    said = reason(learner_of([NanGuard()], batches(1), lr=3e38))
    assert said.startswith(
        "the mean loss is nan at the end, batch 3 of eval, epoch 0, step 1; first bad tensor seen: params/0.weight, "
    )
    assert said.endswith("; the tensors of the batch with the bad loss are gone")


class Reads(TorchDispatchMode):
    """Counts the numbers, truths and indices that are read out of tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        read = (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero, torch.ops.aten.nonzero)
        self.count += func.overloadpacket in read
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    found, plain = Reads(), Tensor.tolist

    def tolist(tensor: Tensor) -> Any:
        found.count += 1
        return plain(tensor)

    monkeypatch.setattr(Tensor, "tolist", tolist)
    with found:
        yield found


@pytest.mark.usefixtures("stand_in")
def test_a_device_is_read_once_where_it_is_time_and_never_between(reads: Reads) -> None:
    def walked(subs: Sequence[Subscriber[Any]]) -> list[tuple[str, str, int, int]]:
        learner = learner_of(subs, batches(10), batches(9), metric_fn=lambda preds, target: 0.0)
        found: list[tuple[str, str, int, int]] = []
        state = learner.init(epochs=2)
        while state.progress.at != "finished":
            before, place = reads.count, state.progress
            state = advance(learner, state).state
            ran = state.progress.batch if state.progress.at == place.at == "batch" else 0
            found.append((place.at, place.phase, ran, reads.count - before))
        return found

    alone, guarded = walked([]), walked([NanGuard(4)])
    assert [one[:3] for one in alone] == [one[:3] for one in guarded]
    for (at, phase, ran, without), (*_, count) in zip(alone, guarded, strict=True):
        due = at == "batch" and ran in {4, 8}
        assert count - without == due, (at, phase, ran)
    assert sum(count for *_, count in guarded) == 2 * (2 + 2) + 2 * 2, "and the means, which the machine reads"


# -- either -------------------------------------------------------------------------------------------------------


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("optim_class", [torch.optim.SGD, torch.optim.Adam])
def test_it_changes_no_bit_and_keeps_nothing(optim_class: type[torch.optim.Optimizer]) -> None:
    guard = NanGuard(2, order=3)
    before = dict(vars(guard))
    alone = learner_of([], model=layers, optim_class=optim_class).fit(2, print_stats=False)
    guarded = learner_of([guard], model=layers, optim_class=optim_class).fit(2, print_stats=False)
    assert guarded == alone
    assert isinstance(guarded, Completed)
    assert not guarded.state.slots
    assert vars(guard) == before == {"every": 2, "order": 3}


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("spoilt_by", ["batch", "loss"])
def test_the_state_that_it_stops_with_is_the_one_after_the_batch(spoilt_by: str) -> None:
    """Looking at the weights makes the workspace write them early: to the bits that it would have written."""
    train = spoilt(6, 4)
    changes: dict[str, Any] = {}
    if spoilt_by == "loss":
        train = batches()
        changes["loss_fn"] = lambda preds, target: (
            mse_loss(preds, target) + (math.inf if torch.equal(target, train[3][1]) else 0.0)
        )
    told: list[Transition] = []
    outcome = stopped(learner_of([NanGuard(2)], train, model=layers, sinks=[told.append], **changes))
    assert outcome.event == "after_batch"
    alone = learner_of([], train, model=layers, **changes)
    state = alone.init(epochs=1)
    while state.progress.step < 4:
        state = advance(alone, state).state
    assert outcome.state.progress.step == 4
    assert outcome.state.tensors == state.tensors
    assert outcome.state.sums == state.sums
    assert told[-2].state.progress.step == 3, "and the one before it is as it was"
    assert all(tensor.isfinite().all() for tensor in told[-2].state.params.values())


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("where", one_in(3, ["train", "eval", "end"]))
def test_it_stops_in_the_same_words_from_wherever_it_goes_on(where: str) -> None:
    train, valid = spoilt(7, 5 if where == "train" else 7), batches(5)
    if where == "eval":
        train, valid = batches(7), spoilt(5, 3)
    told: list[Transition] = []
    straight = stopped(learner_of([NanGuard(3)], train, valid, model=layers, sinks=[told.append]), 2)
    assert len(told) > 5
    for one in told[:-1]:
        assert fit_step(learner_of([NanGuard(3)], train, valid, model=layers), copy.deepcopy(one.state)) == straight


@pytest.mark.parametrize("every", [0, -1, True, 1.5, "2", None])
def test_what_cannot_be_meant_is_refused(every: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        NanGuard(every)
    assert str(raised.value) == f"every is {every!r}; expected a whole number of batches, 1 or more."


# -- CUDA ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_no_batch_between_waits_for_a_cuda_device() -> None:
    train = [(inputs.pin_memory(), target.pin_memory()) for inputs, target in batches(6)]
    learner = learner_of([NanGuard(4)], train, train, device="cuda")
    state = learner.init(epochs=2)
    while state.progress.epoch == 0:  # the first passes are compared with what was before
        state = advance(learner, state).state
    ran = {False: 0, True: 0}
    while state.progress.at != "finished":
        inside = state.progress.at == "batch" and state.progress.batch < len(train)
        due = inside and (state.progress.batch + 1) % 4 == 0
        torch.cuda.set_sync_debug_mode("error" if inside and not due else "default")
        try:
            state = advance(learner, state).state
        finally:
            torch.cuda.set_sync_debug_mode("default")
        ran[due] += inside
    assert ran == {False: 2 * 5, True: 2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_cuda_device_is_looked_at_every_so_many_batches() -> None:
    assert " at batch 12 of train" in reason(learner_of([NanGuard(4)], spoilt(20, 10), device="cuda"))
    assert stopped(learner_of([NanGuard(4)], spoilt(7, 7), device="cuda")).event == "after_epoch"
