"""What a batch hands to the next: a part of the state, begun anew with each phase."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import (
    CancelBatch,
    DataLoaders,
    Engine,
    Learner,
    Objective,
    StepOutput,
    Subscriber,
    TrainState,
    advance,
    batch_step,
    carry,
    epoch_step,
    evaluate,
    fit_step,
    lr_find,
    predict,
    update_bn,
)
from nntrain.checkpoint import load, save
from nntrain.data import segments
from nntrain.errors import ConfigError, LossError, MisfitError, StateError
from nntrain.subscribers.protocol import AnswerBatch
from nntrain.update import accumulate, chain, optimizer
from tests.laws.test_law_09_no_waste import WEIGHT, CountCopies

Batch = tuple[Tensor, Tensor]
Hidden = tuple[Tensor, Tensor]


class Net(nn.Module):
    """An LSTM with dropout, so that noise is compared too, and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 5, batch_first=True)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor, hidden: Hidden | None) -> tuple[Tensor, Hidden]:
        out, last = self.rnn(x, hidden)
        out = self.norm(out.transpose(1, 2)).transpose(1, 2)
        return self.head(nn.functional.dropout(out, 0.1, self.training)), last


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def windows(rows: int, seed: int = 0, count: int = 5) -> list[Batch]:
    walk = torch.randn(rows, 4 * count, 3, generator=torch.Generator().manual_seed(seed)).cumsum(1)
    return [(walk[:, at : at + 4], walk.roll(-1, 1)[:, at : at + 4]) for at in range(0, 4 * count, 4)]


TRAIN, VALID = windows(4), windows(2, 1)


def goes_on(model: Net, batch: Batch, hidden: Hidden | None) -> tuple[StepOutput[Tensor], Hidden]:
    x, y = batch
    preds, last = model(x, hidden)
    return StepOutput(mse_loss(preds, y), preds, y), last


def of(task: Any = None, train: Any = TRAIN, rule: Any = None, valid: Any = VALID, **named: Any) -> Learner[Any, Any]:
    rule = optimizer(torch.optim.Adam, lr=0.01) if rule is None else rule
    return Learner.of(net(), DataLoaders(train, valid), carry(goes_on) if task is None else task, rule, **named)


def test_saved_and_loaded_at_any_transition_it_ends_as_if_there_had_been_no_stop(tmp_path: Path) -> None:
    learner = of(train=TRAIN[:3], valid=VALID[:3])
    state = learner.init(0, epochs=2)
    end = learner.fit(2, print_stats=False).state
    kept: list[tuple[TrainState, TrainState]] = []
    while state.progress.at != "finished":
        kept.append((state, copy.deepcopy(state)))
        state = advance(learner, state).state
    assert state == end
    assert all(one == before for one, before in kept)  # law 1: no step wrote to what was handed on before
    carried = [one.sums.carried["task"][0] for one, _ in kept if one.sums.carried]
    assert len(carried) == 2 * (3 + 3) + 4  # after each batch, and at the ends of the four phases
    assert not any(one.requires_grad for one in carried)
    other = of(train=TRAIN[:3], valid=VALID[:3])
    for one, _ in kept[2:14:2]:
        save(one, tmp_path / "state.safetensors")
        back = load(tmp_path / "state.safetensors", other)
        assert back == one
        assert fit_step(other, back).state == end


def test_two_branches_do_not_see_each_other_and_a_diff_shows_what_they_carry() -> None:
    learner = of()
    first = batch_step(learner, learner.init(0, epochs=1), TRAIN[0]).state
    one, other = (batch_step(learner, first, TRAIN[at]).state for at in (1, 2))
    assert one == batch_step(learner, first, TRAIN[1]).state
    assert "carried" in str(one.diff(other))


def test_a_batch_that_is_cancelled_hands_nothing_on_and_the_next_goes_on_from_the_one_before() -> None:
    class Skips(Subscriber[Batch]):
        def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
            return CancelBatch(reason="third") if state.progress.batch == 2 else state

    skipping, without = of(subs=[Skips()]), of(train=[one for at, one in enumerate(TRAIN) if at != 2])
    assert (
        skipping.fit(1, print_stats=False)
        .state.params["head.weight"]
        .equal(without.fit(1, print_stats=False).state.params["head.weight"])
    )


def test_a_subscriber_that_goes_back_takes_what_was_carried_back() -> None:
    class Back(Subscriber[Batch]):
        def after_batch(self, state: TrainState, batch: Batch, output: object) -> AnswerBatch:
            return CancelBatch(reason="back", state=earlier[0]) if state.progress.batch == 4 and earlier else state

    plain = of()
    state = plain.init(0, epochs=1)
    for _ in range(4):
        state = advance(plain, state).state
    assert state.progress.batch == 2
    earlier = [state]
    learner = of(subs=[Back()])
    there = state
    for _ in range(2):
        there = advance(learner, there).state
    assert there == state


def test_evaluate_and_predict_begin_anew_and_leave_the_training_as_it_is() -> None:
    learner = of()
    state = learner.fit(2, print_stats=False).state
    middle = advance(learner, advance(learner, advance(learner, learner.init(0, epochs=1)).state).state).state
    expected = fit_step(of(), copy.deepcopy(middle)).state
    assert evaluate(learner, state) == state.history[-1]
    model, hidden, preds = state.to_module(), None, []
    with torch.no_grad():
        for x, _ in VALID:
            out, hidden = model(x, hidden)
            preds.append(out)
    assert all(map(torch.equal, predict(learner, state, VALID), preds))
    lr_find(learner, middle, steps=5)
    assert fit_step(learner, middle).state == expected
    with pytest.raises(ConfigError, match="unpack calls the model alone, but task goes_on hands on"):
        predict(learner, state, VALID, unpack=lambda batch: ((batch[0], None), {}, None))


def test_batch_norm_is_taken_anew_over_what_goes_on() -> None:
    state = of().init(0)
    model, hidden = net(), None

    class Runs(nn.Module):
        def forward(self, x: Tensor) -> None:
            nonlocal hidden
            _, hidden = model(x, hidden)

    runs = Runs()
    runs.norm = model.norm
    torch.optim.swa_utils.update_bn([[x] for x, _ in TRAIN], runs)
    told = update_bn(of(), state).buffers["norm.running_mean"]
    assert torch.equal(told, model.get_buffer("norm.running_mean"))


def test_several_objectives_each_carry_their_own() -> None:
    def half(name: str) -> Any:
        def task(model: Any, batch: Batch, hidden: Hidden | None) -> tuple[StepOutput[Tensor], Hidden]:
            return goes_on(model[name], batch, hidden)

        return Objective(name, carry(task), optimizer(torch.optim.SGD, lr=0.1, params=f"{name}.*"))

    def both() -> nn.Module:
        return nn.ModuleDict({"one": net(), "other": net()})

    def alone(model: Any, batch: Batch) -> StepOutput[Tensor]:
        loss = mse_loss(model["other"](batch[0], None)[0], batch[1])
        return StepOutput(loss, batch[0], batch[1])

    learner = Learner.of(both(), DataLoaders(TRAIN, VALID), objectives=[half("one"), half("other")])
    state = learner.init(0, epochs=1)
    for _ in range(4):
        state = advance(learner, state).state
    assert set(state.sums.carried) == {"one", "other"}
    state = fit_step(learner, state).state
    preds = list(predict(learner, state, VALID))
    mixed = Learner.of(
        both(),
        DataLoaders(TRAIN, VALID),
        objectives=[half("one"), Objective("other", alone, optimizer(torch.optim.SGD, lr=0.1, params="other.*"))],
    )
    again = mixed.fit(1, print_stats=False).state
    assert again.params["one.head.weight"].equal(state.params["one.head.weight"])
    assert not again.params["other.head.weight"].equal(state.params["other.head.weight"])
    model, hidden = state.to_module(), None
    with torch.no_grad():  # with a gradient an LSTM has other kernels on some processors, and other last bits
        for (x, _), found in zip(VALID, preds, strict=True):
            out, hidden = model.get_submodule("one")(x, hidden)
            assert torch.equal(found["one"], out)


@pytest.mark.parametrize(("size", "begun"), [(2, [0, 2, 4, 6, 8]), (10, [0])])
def test_each_segment_is_a_phase_and_goes_on_over_the_end_of_the_data(size: int, begun: list[int]) -> None:
    seen: list[bool] = []

    def noting(model: Net, batch: Batch, hidden: Hidden | None) -> tuple[StepOutput[Tensor], Hidden]:
        if model.training:
            seen.append(hidden is None)
        return goes_on(model, batch, hidden)

    of(carry(noting), segments(TRAIN, batches=size)).fit(10 // size, print_stats=False)
    assert [at for at, first in enumerate(seen) if first] == begun


def test_a_short_last_batch_is_cut_by_the_task_and_the_models_own_error_says_what_was_handed_on() -> None:
    data = [*TRAIN[:2], tuple(one[:3] for one in TRAIN[2])]
    with pytest.raises(RuntimeError, match="Expected hidden") as raised:
        of(train=data).fit(1, print_stats=False)
    assert any("handed on tuple(float32[1, 4, 5], float32[1, 4, 5])" in note for note in raised.value.__notes__)

    def cut(model: Net, batch: Batch, hidden: Hidden | None) -> tuple[StepOutput[Tensor], Hidden]:
        rows = len(batch[0])
        return goes_on(model, batch, None if hidden is None else (hidden[0][:, :rows], hidden[1][:, :rows]))

    assert of(carry(cut), data).fit(1, print_stats=False).state.progress.step == 3


def test_what_is_handed_on_is_the_tasks_own_to_write_to_and_holds_nothing_of_the_batch() -> None:
    def writing(model: nn.Module, batch: Tensor, total: dict[str, Any] | None) -> tuple[StepOutput[Tensor], Any]:
        total = {"sum": torch.zeros(2), "batches": 0, "last": batch} if total is None else total
        total["sum"] += batch.sum(0)
        total["batches"] += 1
        loss = model(batch).mean() + 0 * total["last"].sum()
        return StepOutput(loss, batch), {**total, "last": batch[0]}

    data = [torch.full((2, 2), float(at)) for at in range(4)]
    learner = Learner.of(nn.Linear(2, 1), DataLoaders(data, None), carry(writing), optimizer(torch.optim.SGD, lr=0.1))
    state = learner.init(0, epochs=1)
    states = []
    for _ in range(6):
        state = advance(learner, state).state
        states.append(state)
    data[2].fill_(9.0)  # whoever made a batch may use its memory again
    carried = [one.sums.carried["task"] for one in states if one.sums.carried]
    assert [(one["batches"], float(one["sum"][0]), float(one["last"][0])) for one in carried] == [
        (1, 0.0, 0.0),
        (2, 2.0, 1.0),
        (3, 6.0, 2.0),
        (4, 12.0, 3.0),
    ]
    carried[0]["sum"].fill_(7.0)
    assert float(states[2].sums.carried["task"]["sum"][0]) == 0.0


def test_a_first_state_that_is_learned_gets_its_gradient() -> None:
    class Learned(Net):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.zeros(1, 1, 5))

    def task(model: Learned, batch: Batch, hidden: Hidden | None) -> tuple[StepOutput[Tensor], Hidden]:
        begun = model.first.expand(1, len(batch[0]), 5).contiguous()
        return goes_on(model, batch, (begun, begun) if hidden is None else hidden)

    torch.manual_seed(0)
    learner = Learner.of(Learned(), DataLoaders(TRAIN, VALID), carry(task), optimizer(torch.optim.SGD, lr=0.1))
    state = learner.fit(1, print_stats=False).state
    assert float(state.params["first"].abs().sum()) > 0


@pytest.mark.parametrize(
    "named",
    [
        {"rule": chain(accumulate(2), optimizer(torch.optim.SGD, lr=0.1))},
        pytest.param(
            {"engine": Engine(precision="bf16")},
            marks=pytest.mark.skipif(
                not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no LSTM in bf16 on this processor"
            ),
        ),
    ],
)
def test_with_accumulation_and_in_half_precision(named: dict[str, Any]) -> None:
    learner = of(**named)
    state = learner.fit(1, print_stats=False).state
    assert state == of(**named).fit(1, print_stats=False).state
    assert evaluate(learner, state) == state.history[-1]


@pytest.mark.sweep
def test_compiled() -> None:
    plain, compiled = (
        of(rule=optimizer(torch.optim.SGD, lr=0.1), engine=Engine(compile=how)).fit(1, print_stats=False).state
        for how in (False, {"backend": "eager"})
    )
    torch.testing.assert_close(dict(compiled.params), dict(plain.params))


def test_no_copy_of_the_weights_is_made() -> None:
    def task(model: nn.Module, batch: Tensor, last: Tensor | None) -> tuple[StepOutput[Tensor], Tensor]:
        found = model(batch)
        return StepOutput((found - (0 if last is None else last)).pow(2).mean(), found), found

    data = [torch.randn(4, WEIGHT[1]) for _ in range(3)]
    learner = Learner.of(
        nn.Linear(WEIGHT[1], WEIGHT[0]), DataLoaders(data, None), carry(task), optimizer(torch.optim.SGD, lr=0.1)
    )

    def copies(epochs: int) -> int:
        with CountCopies() as found:
            learner.fit(epochs, print_stats=False)
        count: int = found.count
        return count

    copies(4)  # the looks at first passes are over then
    assert copies(3) == copies(1)


def test_a_state_amid_a_phase_fits_a_learner_that_carries_likewise(tmp_path: Path) -> None:
    def alone(model: Net, batch: Batch) -> StepOutput[Tensor]:
        return goes_on(model, batch, None)[0]

    amid = batch_step(of(), of().init(0, epochs=1), TRAIN[0]).state
    with pytest.raises(StateError, match="hand on what task carries; of the learner that is nothing"):
        epoch_step(of(alone), amid)
    save(amid, tmp_path / "state.safetensors")
    with pytest.raises(MisfitError, match="hand on what task carries"):
        load(tmp_path / "state.safetensors", of(alone))
    without = batch_step(of(alone), of(alone).init(0, epochs=1), TRAIN[0]).state
    with pytest.raises(StateError, match="hand on what nothing carries; of the learner that is task"):
        epoch_step(of(), without)


class Pair(NamedTuple):
    one: Tensor


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (lambda model, batch, kept: StepOutput(model(batch[0], None)[0].mean()), "expected a pair of a StepOutput and"),
        (lambda model, batch, kept: (model(batch[0], None)[0].mean(), None), "expected a pair of a StepOutput and"),
        (lambda model, batch, kept: (goes_on(model, batch, None)[0], Pair(batch[0])), "hands on it as Pair; expected"),
        (lambda model, batch, kept: (goes_on(model, batch, None)[0], (1, {2: 3})), "keys other than strings"),
        (lambda model, batch, kept: (goes_on(model, batch, None)[0], batch[0].to_sparse()), "laid out as sparse_coo"),
    ],
)
def test_what_cannot_be_handed_on_is_said_before_anything_is_written(task: Callable[..., Any], said: str) -> None:
    with pytest.raises(LossError, match=said):
        of(carry(task)).fit(1, print_stats=False)


@pytest.mark.parametrize("task", [Net, 3, lambda model, batch: None])
def test_what_is_no_task_that_carries(task: Any) -> None:
    with pytest.raises(ConfigError, match="expected a function of \\(model, batch, kept\\)"):
        carry(task)


class Points:
    """Counts the points of a phase."""

    def init(self) -> int:
        return 0

    def update(self, memory: int, output: StepOutput[Tensor]) -> int:
        return memory + output.preds.shape[1]

    def merge(self, one: int, other: int) -> int:
        return one + other

    def compute(self, memory: int) -> float:
        return float(memory)


def test_beside_a_metric_of_the_whole_phase_and_without_a_loss_in_eval() -> None:
    def quiet(model: Net, batch: Batch, hidden: Hidden | None) -> tuple[StepOutput[Tensor], Hidden]:
        output, hidden = goes_on(model, batch, hidden)
        return (output if model.training else StepOutput(None, output.preds, output.target)), hidden

    learner = of(carry(quiet), metrics={"points": Points()})
    state = learner.fit(1, print_stats=False).state
    assert [stats.metrics["points"] for stats in state.history] == [20, 20]
    assert state.params["head.weight"].equal(of().fit(1, print_stats=False).state.params["head.weight"])
