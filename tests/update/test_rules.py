"""Update rules: what each does to the bits, what they remember, and what is refused before anything is lost."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nntrain import (
    BatchOutput,
    CancelEpoch,
    Checkpoint,
    DataLoaders,
    Interest,
    Learner,
    NNTrainError,
    Phase,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    fit_step,
    state_before,
)
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError, MisfitError
from nntrain.live import workspace
from nntrain.log import JsonLog
from nntrain.subscribers.rollback import first_not_finite
from nntrain.update import (
    At,
    BoundRule,
    Gradients,
    UpdateRule,
    accumulate,
    chain,
    clip_norm,
    clip_value,
    ema,
    optimizer,
)
from nntrain.update.accumulating import Accumulate
from nntrain.values.tensors import Snapshot, copied_snapshot
from tests.laws.strategies import learner_with

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 4, generator=SOURCE), torch.randint(0, 3, (4,), generator=SOURCE)) for _ in range(5)]
SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW


def make_model(*, noisy: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5 if noisy else 0.0), nn.Tanh())
        return Net(body, nn.Linear(6, 3))


class Net(nn.Module):
    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs))
        return found


def learner_of(update: UpdateRule, subs: Sequence[Subscriber[Batch]] = (), **more: Any) -> Learner[Batch]:
    more = {"model": make_model(), **more}
    model = more.pop("model")
    return learner_with(update, model, DataLoaders(DATA, DATA[:2]), cross_entropy, accuracy, SGD, 0.1, subs, **more)


def fitted(update: UpdateRule, epochs: int = 2, **more: Any) -> TrainState:
    return learner_of(update, **more).fit(epochs, print_stats=False).state


def by_hand(
    make: Callable[[nn.Module], torch.optim.Optimizer],
    before: Callable[[nn.Module, torch.optim.Optimizer, int], object] = lambda model, optim, step: None,
    after: Callable[[nn.Module], object] = lambda model: None,
) -> nn.Module:
    model, step = make_model().train(), 0
    optim = make(model)
    for _ in range(2):
        for inputs, target in DATA:
            optim.zero_grad()
            cross_entropy(model(inputs), target).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            before(model, optim, step)
            optim.step()
            after(model)
            step += 1
    return model


def assert_same(state: TrainState, model: nn.Module) -> None:
    for name, param in model.named_parameters():
        assert torch.equal(state.params[name], param), name


# -- the bits ------------------------------------------------------------------------------------------------------


def test_an_optimizer_alone_is_the_learner_s_own() -> None:
    plain = Learner(make_model(), DataLoaders(DATA, DATA[:2]), cross_entropy, accuracy, ADAMW, 0.01)
    assert fitted(optimizer(ADAMW, lr=0.01)) == plain.fit(2, print_stats=False).state


@pytest.mark.parametrize("most", [0.05, 100.0])
def test_clip_norm_and_clip_value_have_torch_s_bits(most: float) -> None:
    state = fitted(chain(clip_norm(most), optimizer(ADAMW, lr=0.01)))
    assert_same(
        state,
        by_hand(
            lambda model: ADAMW(model.parameters(), lr=0.01),
            lambda model, *_: nn.utils.clip_grad_norm_(model.parameters(), most),
        ),
    )
    state = fitted(chain(clip_value(most / 10), optimizer(ADAMW, lr=0.01)))
    assert_same(
        state,
        by_hand(
            lambda model: ADAMW(model.parameters(), lr=0.01),
            lambda model, *_: nn.utils.clip_grad_value_(model.parameters(), most / 10),
        ),
    )


def test_ema_is_torch_s_average_and_goes_out_as_a_module() -> None:
    averages: list[AveragedModel] = []

    def after(model: nn.Module) -> None:
        if not averages:
            average = get_ema_multi_avg_fn(0.9)  # type: ignore[no-untyped-call] # torch leaves it untyped
            averages.append(AveragedModel(model, multi_avg_fn=average))
        averages[0].update_parameters(model)

    state = fitted(chain(optimizer(ADAMW, lr=0.01), ema(0.9)))
    model = by_hand(lambda model: ADAMW(model.parameters(), lr=0.01), after=after)
    assert_same(state, model)
    for mine, other in zip(state.to_module("ema").parameters(), averages[0].module.parameters(), strict=True):
        assert torch.equal(mine, other)
    for ours, theirs in zip(state.to_module(weights="ema").buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    begun = learner_of(chain(optimizer(ADAMW, lr=0.01), ema(0.9))).init()
    assert torch.equal(begun.to_module("ema").get_parameter("head.bias"), begun.params["head.bias"])


def test_any_hyperparameter_may_be_a_schedule() -> None:
    def lr(step: int) -> float:
        return 0.01 / (1 + step)

    def decay(step: int) -> float:
        return 0.1 * step

    def betas(step: int) -> tuple[float, float]:
        return 0.5 + step / 100, 0.9

    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        optim.param_groups[0].update(lr=lr(step), weight_decay=decay(step), betas=betas(step))

    update = optimizer(ADAMW, lr=lr, weight_decay=decay, betas=betas)
    assert_same(fitted(update), by_hand(lambda model: ADAMW(model.parameters()), before))
    learner = learner_of(update)
    states = [learner.init(epochs=1)]
    while states[-1].progress.at != "finished":
        states.append(advance(learner, states[-1]).state)
    for state in states:  # what a schedule says is no memory
        assert all(not group for group in state.tensors.snapshot().optim.groups)
    for state in states[:-1]:
        assert fit_step(learner_of(update), copy.deepcopy(state)).state == states[-1]


def test_groups_and_params_are_chosen_by_name() -> None:
    update = optimizer(
        SGD,
        lr=0.1,
        momentum=0.9,
        groups={"body.*": {"lr": 0.01}, "head.bias": {"lr": lambda step: 0.5**step, "weight_decay": 0.1}},
    )

    def make(model: nn.Module) -> torch.optim.Optimizer:
        named = dict(model.named_parameters())
        groups: list[dict[str, Any]] = [
            {"params": [named["head.weight"]]},
            {"params": [one for name, one in named.items() if name.startswith("body")], "lr": 0.01},
            {"params": [named["head.bias"]], "lr": 1.0, "weight_decay": 0.1},
        ]
        return SGD(groups, lr=0.1, momentum=0.9)

    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        optim.param_groups[2]["lr"] = 0.5**step

    assert_same(fitted(update), by_hand(make, before))
    halved = learner_of(update)
    state = halved.init().scale_lr(0.5)
    half = fit_step(halved, state, 2).state

    def before_half(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        for group, lr in zip(optim.param_groups, (0.1, 0.01, 0.5**step), strict=True):
            group["lr"] = lr * 0.5

    assert_same(half, by_hand(make, before_half))


def test_only_the_parameters_that_match_are_trained_and_seen_by_the_rules() -> None:
    state = fitted(chain(clip_norm(0.05), optimizer(ADAMW, lr=0.1, params=["head.*", "body.1.bias"]), ema(0.5)))

    def chosen(model: nn.Module) -> list[nn.Parameter]:
        return [one for name, one in model.named_parameters() if name.startswith("head.") or name == "body.1.bias"]

    model = by_hand(
        lambda model: ADAMW(chosen(model), lr=0.1), lambda model, *_: nn.utils.clip_grad_norm_(chosen(model), 0.05)
    )
    assert_same(state, model)
    assert set(state.tensors.snapshot().optim.rules["ema"]["weights"]) == {"head.weight", "head.bias", "body.1.bias"}


def test_a_factory_s_own_values_are_not_scheduled() -> None:
    def make(params: Any, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        first, *others = params
        return SGD(
            [{"params": [first], "lr": lr / 10, "weight_decay": 0.0}, {"params": others}],
            lr=lr,
            weight_decay=weight_decay,
        )

    update = optimizer(make, lr=lambda step: 0.1 / (1 + step), weight_decay=lambda step: 0.1 + step)

    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        lr = 0.1 / (1 + step)
        optim.param_groups[0]["lr"] = lr * 0.1
        optim.param_groups[1].update(lr=lr, weight_decay=0.1 + step)

    model = by_hand(lambda model: make(list(model.parameters()), 0.1, 0.1), before)
    for name, param in model.named_parameters():
        torch.testing.assert_close(fitted(update).params[name], param)


def test_lbfgs_takes_rules_after_it() -> None:
    state = fitted(chain(optimizer(functools.partial(torch.optim.LBFGS, max_iter=2), lr=0.1), ema(0.9)))
    assert state.tensors.snapshot().optim.rules["ema"]["weights"]
    with pytest.raises(ConfigError, match=r"evaluates the model itself.*clip_norm\(1\.0\) cannot stand before it"):
        fitted(chain(clip_norm(1.0), optimizer(torch.optim.LBFGS)))


# -- accumulate: steps, noise, sinks -------------------------------------------------------------------------------


def test_weights_on_a_device_come_to_what_numbers_do() -> None:
    params = {"a": torch.zeros(3, dtype=torch.float64)}
    gradients = [torch.randn(3, dtype=torch.float64, generator=SOURCE) for _ in range(4)]
    weights = [0.0, 3.0, 1.5, 7.0]
    found = []
    for kind in (float, lambda one: torch.tensor(one, dtype=torch.float64)):
        rule = Accumulate(4).bind(params)
        last: Gradients = {}
        done = False
        for gradient, weight in zip(gradients, weights, strict=True):
            last = {"a": gradient.clone() if weight else torch.full_like(gradient, torch.nan)}
            done = rule.write(last, At(0, kind(weight)))
        assert done
        found.append(last["a"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)
    mean = sum(one * weight for one, weight in zip(gradients, weights, strict=True)) / sum(weights)
    torch.testing.assert_close(found[0], mean, rtol=1e-12, atol=1e-15)


def test_halves_are_summed_in_float32() -> None:
    rule = Accumulate(2).bind({"a": torch.zeros(1, dtype=torch.float16)})
    gradients = {"a": torch.tensor([60000.0], dtype=torch.float16)}
    rule.write(gradients, At(0, 4))
    rule.write(gradients, At(0, 4))
    assert gradients["a"].dtype == torch.float16
    assert gradients["a"].item() == 60000.0


def test_a_parameter_without_a_gradient_in_the_last_batch_has_that_of_the_others() -> None:
    rule = Accumulate(2).bind({"a": torch.zeros(1), "b": torch.zeros(1)})
    rule.write({"a": torch.tensor([2.0])}, At(0, 1))
    last = {"b": torch.tensor([4.0])}
    rule.write(last, At(0, 1))
    assert {name: float(one) for name, one in last.items()} == {"a": 1.0, "b": 2.0}


class Notes:
    """Notes the steps that it is asked about, and those of which it is told."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.told: list[int] = []

    @property
    def interest(self) -> Interest:
        return Interest(every_batch=False, wants=self.wants, strict=True)

    def wants(self, phase: Phase, step: int, /) -> bool:
        if phase == "train":
            self.asked.append(step)
        return phase == "train"

    def __call__(self, transition: Transition, /) -> None:
        if transition.event == "after_batch" and transition.progress.phase == "train":
            self.told.append(transition.state.progress.step)


def test_sinks_are_asked_about_each_step_once_and_told_the_right_one() -> None:
    notes = Notes()
    fitted(chain(accumulate(2), optimizer(SGD, lr=0.1)), sinks=[notes])
    # Steps 3 and 6 are written at the phases' ends, and are no batch's.
    assert notes.asked == [1, 2, 3, 4, 5, 6]
    assert notes.told == [1, 2, 4, 5]


def test_a_checkpoint_every_step_saves_each_once(tmp_path: Path) -> None:
    sink = Checkpoint(tmp_path, every_steps=1, keep_last=100, background=False)
    state = fitted(chain(accumulate(2), optimizer(SGD, lr=0.1)), sinks=[sink])
    names = sorted(path.name.partition("step-")[2][:8] for path in tmp_path.iterdir())
    assert [int(name) for name in names if int(name) != state.progress.step] == [1, 2, 3, 4, 5]


def test_batches_of_a_window_draw_noise_of_their_own() -> None:
    seen: list[Tensor] = []

    class Sees(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                seen.append(torch.rand(3))
            return inputs

    model = nn.Sequential(Sees(), make_model())
    learner_of(chain(accumulate(3), optimizer(SGD, lr=0.1)), model=model).fit(2, print_stats=False)
    assert len({tuple(one.tolist()) for one in seen}) == len(seen) == 10
    alone = fitted(chain(accumulate(1), optimizer(SGD, lr=0.1)), model=make_model(noisy=True))
    assert alone == fitted(optimizer(SGD, lr=0.1), model=make_model(noisy=True))


class Leaves(Subscriber[Batch]):
    """Cancels the first train phase after its third batch."""

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState | CancelEpoch:
        place = state.progress
        if (place.phase, place.epoch, place.batch) == ("train", 0, 3):
            return CancelEpoch(reason="enough", state=state)
        return state


def test_a_cancelled_phase_leaves_its_window_to_the_next() -> None:
    learner = learner_of(chain(accumulate(4), optimizer(SGD, lr=0.1)), [Leaves()])
    state = learner.init(epochs=2)
    while (state.progress.epoch, state.progress.at) != (1, "before_epoch"):
        state = advance(learner, state).state
    assert state.progress.step == 0
    assert state.tensors.snapshot().optim.rules["accumulate"]["batches"] == 3
    assert fit_step(learner, state).state.progress.step == 2  # with the first of the second epoch, and its last four


class ReadsAndKeeps(Subscriber[Batch]):
    """Keeps states, and reads them before they are written."""

    def __init__(self) -> None:
        self.kept: list[tuple[TrainState, TrainState]] = []

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        self.kept.append((state, copy.deepcopy(state)))
        return state


def test_states_kept_amid_windows_stay_what_they_are() -> None:
    keeps = ReadsAndKeeps()
    update = chain(accumulate(2), optimizer(ADAMW, lr=0.1), ema(0.9))
    state = fitted(update, subs=[keeps])
    assert all(one == twin for one, twin in keeps.kept)
    assert state == fitted(update)
    assert len({one.progress.step for one, _ in keeps.kept}) == 7  # 0 to 6, of eval phases too


class Norms:
    """Notes the gradients' norms that it is told, batch by batch."""

    interest = Interest(strict=True)

    def __init__(self) -> None:
        self.told: list[float | None] = []

    def __call__(self, transition: Transition, /) -> None:
        if transition.output is not None:
            norm = transition.output.told.get("grad_norm")
            self.told.append(None if norm is None else float(norm))


@pytest.mark.parametrize("subs", [[], [ReadsAndKeeps()]], ids=["unseen", "read early"])
def test_the_norm_is_told_to_sinks_and_logged(subs: list[Subscriber[Batch]], tmp_path: Path) -> None:
    norms, path = Norms(), tmp_path / "run.jsonl"
    whole: list[float] = []

    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        whole.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.05)))

    by_hand(lambda model: SGD(model.parameters(), lr=0.1), before)
    fitted(chain(clip_norm(0.05), optimizer(SGD, lr=0.1)), subs=subs, sinks=[norms, JsonLog(path, every="all")])
    assert norms.told == [*whole[:5], None, None, *whole[5:], None, None]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    logged = [line["metrics"].get("grad_norm") for line in lines if line["event"] == "batch_finished"]
    assert logged == norms.told
    waits = Norms()
    fitted(chain(accumulate(2), clip_norm(0.05), optimizer(SGD, lr=0.1)), epochs=1, subs=subs, sinks=[waits])
    assert [one is None for one in waits.told] == [True, False, True, False, True, True, True]


# -- memory --------------------------------------------------------------------------------------------------------


def amid(learner: Learner[Batch]) -> TrainState:
    """Return a state in the middle of a window."""
    state = learner.init(epochs=2)
    while state.progress.batch < 3:
        state = advance(learner, state).state
    return state


WHOLE = chain(accumulate(2), clip_norm(0.5), optimizer(ADAMW, lr=0.1), ema(0.9), ema(0.5))


def test_the_memory_of_rules_is_saved_and_differences_name_it(tmp_path: Path) -> None:
    learner = learner_of(WHOLE)
    state = amid(learner)
    assert list(state.tensors.snapshot().optim.rules) == ["accumulate", "ema", "ema.1"]
    path = tmp_path / "one.safetensors"
    save(state, path)
    back = load(path, learner_of(WHOLE))
    assert back == state
    assert not back.diff(state)
    assert fit_step(learner_of(WHOLE), back).state == fit_step(learner, state).state
    later = advance(learner, state).state
    names = {one.name for one in state.diff(later).tensors}
    assert "rules/ema.1/weights/head.bias" in names
    assert any(one.name == "rules/accumulate/batches" for one in state.diff(later).values)


def test_files_and_states_of_other_rules(tmp_path: Path) -> None:
    plain, path = learner_of(optimizer(ADAMW, lr=0.1)), tmp_path / "one.safetensors"
    save(amid(plain), path)
    begun = load(path, learner_of(WHOLE))  # rules that the file knows nothing of begin anew
    ended = fit_step(learner_of(WHOLE), begun).state
    assert set(ended.tensors.snapshot().optim.rules) == {"accumulate", "ema", "ema.1"}
    save(ended, path := tmp_path / "two.safetensors")
    with pytest.raises(
        MisfitError, match=r"the update rules accumulate, ema, ema\.1 remember, the learner's rules are none"
    ):
        load(path, plain)
    taken = fit_step(plain, ended, 1).state  # a state goes on in any learner of the model
    assert not taken.tensors.snapshot().optim.rules


def two(*before: UpdateRule, most: float = 0.5) -> UpdateRule:
    """Clipped together, two optimizers with momenta, one with a schedule, and an average of both."""
    body = optimizer(torch.optim.SGD, params="body.*", lr=0.1, momentum=0.9)
    head = optimizer(torch.optim.AdamW, params="head.*", lr=lambda step: 0.01 * 0.9**step)
    return chain(*before, clip_norm(most), body, head, ema(0.9))


@pytest.mark.parametrize("n", [1, 2])
def test_several_optimizers_write_what_one_pass_came_to(n: int) -> None:
    state = fitted(two(accumulate(n)))
    torch.manual_seed(0)
    model = make_model()
    sgd = torch.optim.SGD([one for name, one in model.named_parameters() if name.startswith("body")], 0.1, 0.9)
    adam = torch.optim.AdamW([one for name, one in model.named_parameters() if name.startswith("head")], 0.01)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call] # torch's
    step = 0
    for _ in range(2):
        for first in range(0, len(DATA), n):
            model.zero_grad()
            window = DATA[first : first + n]  # the last may be short
            for x, y in window:
                (cross_entropy(model(x), y) / len(window)).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            adam.param_groups[0]["lr"] = 0.01 * 0.9**step
            sgd.step()
            adam.step()
            average.update_parameters(model)
            step += 1
    assert_same(state, model)
    weights = state.tensors.snapshot().optim.rules["ema"]["weights"]
    for name, param in average.module.named_parameters():
        assert torch.equal(weights[name], param)


def test_the_memories_of_several_optimizers_go_on_from_a_file(tmp_path: Path) -> None:
    straight = fitted(two(accumulate(2)), epochs=1)
    state = amid(learner_of(two(accumulate(2))))
    save(state, path := tmp_path / "state.safetensors")
    new = learner_of(two(accumulate(2)))
    assert load(path, new) == state
    assert fit_step(new, load(path, new), 1).state == straight
    kinds = straight.tensors.snapshot().optim.kind
    assert kinds == "0: torch.optim.sgd.SGD, 1: torch.optim.adamw.AdamW"
    assert not straight.diff(fit_step(learner_of(two(accumulate(2))), state, 1).state)


def test_several_optimizers_have_parameters_of_their_own() -> None:
    twice = chain(optimizer(torch.optim.SGD, lr=0.1), optimizer(torch.optim.AdamW, params="head.*"))
    with pytest.raises(
        ConfigError, match=r"The parameter head\.\w+ is trained by two optimizers, optimizer\(SGD, lr=0\.1\) and optim"
    ):
        fitted(twice)
    lbfgs = chain(optimizer(torch.optim.LBFGS, params="head.*"), optimizer(torch.optim.SGD, params="body.*", lr=0.1))
    with pytest.raises(ConfigError, match=r"LBFGS evaluates the model itself.*it is the only optimizer of its chain"):
        fitted(lbfgs)


def test_rollback_sees_an_average_that_is_not_finite() -> None:
    snapshot = fitted(WHOLE).tensors.snapshot()
    assert first_not_finite(snapshot) is None
    snapshot.optim.rules["ema"]["weights"]["head.bias"].fill_(torch.nan)
    assert first_not_finite(snapshot) == "rules/ema/weights/head.bias"


def test_nothing_is_copied_where_nobody_keeps_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, copies = learner_of(WHOLE), list[Snapshot]()

    def copied(snapshot: Snapshot) -> Snapshot:
        copies.append(snapshot)
        return copied_snapshot(snapshot)

    monkeypatch.setattr(workspace, "copied_snapshot", copied)
    learner.fit(2, print_stats=False)
    assert not copies
    state = amid(learner)
    copies.clear()
    advance(learner, state)
    assert len(copies) == 1  # for the one that is kept


def test_recorded_passes_take_the_steps_of_a_chain_plainly(tapes: None) -> None:
    notes: dict[str, str] = {}

    def sink(transition: Transition) -> None:
        notes.update({note.code: note.text for note in transition.notes})

    state = fitted(WHOLE, epochs=3, capture=True, sinks=[sink])
    assert state == fitted(WHOLE, epochs=3)
    assert "the rules around it (accumulate, clip_norm, ema, ema.1) run in Python" in notes["capture.optimizer"]
    scaled = chain(Halves(), optimizer(SGD, lr=0.1))
    assert fitted(scaled, capture=True, sinks=[sink]) == fitted(scaled)
    assert "changes the loss in Python" in notes["capture.optimizer"]


def test_compiled_steps_take_schedules_too() -> None:
    update = chain(clip_norm(1.0), optimizer(SGD, lr=lambda step: 0.1 / (1 + step), momentum=lambda step: step / 100))
    assert fitted(update, compile={"backend": "eager"}) == fitted(update)


# -- rules of one's own --------------------------------------------------------------------------------------------


class Halves:
    """A rule of a user's: halves the gradients, counts, and scales the loss back and forth."""

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at

    def bind(self, params: dict[str, Tensor], /) -> BoundRule:
        return BoundHalves(self.fails_at)


class BoundHalves:
    def __init__(self, fails_at: int) -> None:
        self.memory: dict[str, Any] = {"count": 0, "last": {}}
        self.fails_at = fails_at

    def loss(self, loss: Tensor, /) -> Tensor:
        return loss * 1024.0

    def write(self, gradients: Gradients, at: At, /) -> bool:
        self.memory["count"] += 1
        if at.step == self.fails_at:
            raise OSError("a failure")
        for name, gradient in gradients.items():
            gradient.div_(2048.0)
            self.memory["last"][name] = gradient.clone()
        return at.step != 3


def test_a_rule_of_one_s_own() -> None:
    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        for param in model.parameters():
            assert param.grad is not None
            param.grad.div_(2.0)
            if step == 3:
                param.grad.zero_()

    update = chain(Halves(), optimizer(SGD, lr=0.1))
    state = fitted(update)
    assert_same(state, by_hand(lambda model: SGD(model.parameters(), lr=0.1), before))
    assert state.tensors.snapshot().optim.rules["Halves"]["count"] == 10
    assert state.history[0].loss < 10  # the loss is told as it was


class Answers(BoundHalves):
    """Returns something else."""

    def __init__(self, loss: Any = None, *, writes: Any = True) -> None:
        super().__init__(-1)
        self.changed = loss
        self.writes = writes

    def loss(self, loss: Tensor, /) -> Tensor:
        changed: Tensor = loss if self.changed is None else self.changed(loss)
        return changed

    def write(self, gradients: Gradients, at: At, /) -> bool:
        writes: bool = self.writes
        return writes


@pytest.mark.parametrize(
    ("bound", "match"),
    [
        (lambda: Answers(writes=None), "write of the update rule Answers returned None; expected True, or False"),
        (
            lambda: Answers(lambda loss: 3),
            r"loss\(...\) of the update rule Answers returned int; expected a 0-dim",
        ),
        (
            lambda: Answers(Tensor.detach),
            r"loss\(...\) of the update rule Answers returned float32\[\]; expected .* grad",
        ),
        (lambda: Answers(lambda loss: loss.expand(2)), r"Answers returned float32\[2\]; expected a 0-dim tensor"),
    ],
)
def test_a_rule_of_one_s_own_that_returns_something_else(bound: Callable[[], Any], match: str) -> None:
    learner = learner_of(chain(Unbound(bound), optimizer(SGD, lr=0.1)))
    start = learner.init(epochs=1)
    with pytest.raises(NNTrainError, match=match):
        fit_step(learner, start)
    assert start == learner.init(epochs=1)


def test_a_rule_that_fails_before_anything_is_written_leaves_the_state_before() -> None:
    learner = learner_of(chain(accumulate(1), Halves(fails_at=4), optimizer(ADAMW, lr=0.1), ema(0.9)))
    with pytest.raises(OSError, match="a failure") as caught:
        learner.fit(1, print_stats=False)
    assert any("raised by the update rule BoundHalves at step 4" in note for note in caught.value.__notes__)
    left = state_before(caught.value)
    assert left is not None
    assert left.progress.step == 4
    assert left.tensors.snapshot().optim.rules["Halves"]["count"] == 4
    sound = learner_of(chain(accumulate(1), Halves(), optimizer(ADAMW, lr=0.1), ema(0.9)))
    assert fit_step(sound, left).state == sound.fit(1, print_stats=False).state


def test_a_schedule_that_fails_at_a_window_s_end_leaves_the_window() -> None:
    def lr(step: int) -> float:
        if step == 1:
            raise OSError("no rate")
        return 0.1

    learner = learner_of(chain(accumulate(2), optimizer(SGD, lr=lr)))
    with pytest.raises(OSError, match="no rate") as caught:
        learner.fit(1, print_stats=False)
    left = state_before(caught.value)
    assert left is not None
    sound = learner_of(chain(accumulate(2), optimizer(SGD, lr=lambda step: 0.1)))
    assert fit_step(sound, left).state == sound.fit(1, print_stats=False).state


# -- weights in and out --------------------------------------------------------------------------------------------


def test_with_params_returns_a_state_with_other_weights() -> None:
    learner = learner_of(WHOLE)
    state = amid(learner)
    twin = copy.deepcopy(state)
    mine = {name: torch.full_like(param, 0.5) for name, param in state.params.items()}
    other = state.with_params(mine)
    mine["head.bias"].fill_(9.0)  # they were copied
    assert state == twin
    assert all(bool((param == 0.5).all()) for param in other.params.values())
    assert other.with_params(state.params) == state
    assert fit_step(learner, other).state == fit_step(learner_of(WHOLE), copy.deepcopy(other)).state


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (lambda own: {}, "missing body.0.weight"),
        (lambda own: {**own, "haed.bias": own["head.bias"]}, "unexpected haed.bias. Probably meant: head.bias"),
        (lambda own: {**own, "head.bias": torch.zeros(4)}, r"float32\[4\] for head.bias; expected float32\[3\]"),
        (
            lambda own: {**own, "head.bias": torch.zeros(3).double()},
            r"float64\[3\] for head.bias; expected float32\[3\]",
        ),
        (lambda own: {**own, "head.bias": [0.0, 0.0, 0.0]}, r"expected float32\[3\]"),
        (lambda own: {**own, "head.bias": torch.full((3,), torch.nan)}, "head.bias that are not finite"),
        (lambda own: list(own), "takes a mapping of names to tensors"),
    ],
)
def test_with_params_refuses_what_does_not_fit(given: Any, match: str) -> None:
    state = learner_of(WHOLE).init()
    with pytest.raises(ConfigError, match=match):
        state.with_params(given(dict(state.params)))


def test_to_module_refuses_weights_that_there_are_not() -> None:
    state = learner_of(WHOLE).init()
    with pytest.raises(ConfigError, match=r"weights is 'emma'.*There are ema, ema\.1\."):
        state.to_module("emma")
    with pytest.raises(ConfigError, match="The learner has no rule that keeps any"):
        learner_of(optimizer(SGD, lr=0.1)).init().to_module(weights="ema")


# -- bad input -----------------------------------------------------------------------------------------------------

MADE = SGD([torch.zeros(1)], lr=0.1)
BAD: list[tuple[str, Callable[[], Any], str]] = [
    (
        "no batches",
        lambda: accumulate(0),
        "accumulate takes how many batches make a step, a whole number from 1; got 0",
    ),
    ("half a batch", lambda: accumulate(1.5), "got 1.5"),  # type: ignore[arg-type] # a mistake
    (
        "negative norm",
        lambda: clip_norm(-1),
        "clip_norm takes the most that is let through, a finite number above 0; got -1",
    ),
    ("no norm", lambda: clip_norm(float("nan")), "got nan"),
    ("value", lambda: clip_value(0), "clip_value takes .* got 0"),
    ("decay", lambda: ema(1.5), "ema takes the decay, a number from 0 to 1, like 0.999; got 1.5"),
    (
        "a class",
        lambda: chain(SGD),  # type: ignore[arg-type] # a mistake
        r"Got the class SGD; expected an update rule.*Pass optimizer\(SGD, lr=\.\.\.\)",
    ),
    (
        "made already",
        lambda: chain(MADE),  # type: ignore[arg-type] # a mistake
        r"an optimizer made already, SGD.*Pass optimizer\(SGD, lr=\.\.\.\)",
    ),
    (
        "a class of rules",
        lambda: chain(Halves),  # type: ignore[arg-type] # a mistake
        "Got the class Halves; .* Pass an instance",
    ),
    (
        "not called",
        lambda: chain(clip_norm, optimizer(SGD, lr=0.1)),  # type: ignore[arg-type] # a mistake
        r"Got <function clip_norm.* Call it first: clip_norm\(\.\.\.\)",
    ),
    ("nothing", chain, r"A chain has an optimizer.*got none in chain\(\)"),
    ("no optimizer", lambda: chain(clip_norm(1.0)), r"got none in chain\(clip_norm\(1\.0\)\)"),
    (
        "between two",
        lambda: chain(optimizer(SGD, params="head.*"), clip_norm(1.0), optimizer(SGD, params="body.*")),
        r"clip_norm\(1\.0\) stands between two optimizers of chain.*put it before the first, or after the last",
    ),
    ("two windows", lambda: chain(accumulate(2), accumulate(3), optimizer(SGD)), "one accumulate at most"),
    (
        "too late",
        lambda: chain(optimizer(SGD), clip_norm(1.0)),
        "stands after the optimizer, which has used the gradients",
    ),
    ("too early", lambda: chain(ema(0.9), optimizer(SGD)), "stands before the optimizer, which is to write first"),
    (
        "a word",
        lambda: optimizer(SGD, lr=0.1, weigth_decay=0.1),
        "SGD takes no weigth_decay. Probably meant: weight_decay",
    ),
    ("rate", lambda: optimizer(SGD, lr=-0.1), "lr is -0.1; expected a finite number of 0 or more"),
    ("schedule's rate", lambda: optimizer(SGD, lr=lambda step: None), r"lr\(0\) is None"),
    ("schedule", lambda: optimizer(SGD, momentum=lambda step: "0.9"), "The momentum schedule returned '0.9' at step 0"),
    (
        "schedule of none",
        lambda: optimizer(SGD, momentum=lambda: 0.9),
        r"momentum <lambda> cannot be called with \(step\)",
    ),
    ("nan", lambda: optimizer(SGD, momentum=float("nan")), "momentum is nan; expected a finite number"),
    ("group's rate", lambda: optimizer(SGD, groups={"head.*": {"lr": "x"}}), r"In groups\['head.\*'\]: lr is 'x'"),
    (
        "groups",
        lambda: optimizer(SGD, groups=["head.*"]),  # type: ignore[arg-type] # a mistake
        "groups is .* expected patterns of names",
    ),
    ("params", lambda: optimizer(SGD, params=[]), "params is .* expected a pattern of names"),
    (
        "no class",
        lambda: optimizer("sgd"),  # type: ignore[arg-type] # a mistake
        "optim_class is 'sgd'; expected a class like torch.optim.SGD",
    ),
]
BAD_OF_A_MODEL: list[tuple[str, Callable[[], Any], str]] = [
    (
        "no match",
        lambda: optimizer(SGD, params="haed.*"),
        r"params has 'haed\.\*', which matches no parameter\. Probably meant: head\.\*",
    ),
    (
        "no match in groups",
        lambda: optimizer(SGD, groups={"bdy.*": {"lr": 0.1}}),
        r"groups has 'bdy\.\*', .* Probably meant: body\.\*",
    ),
    (
        "twice",
        lambda: optimizer(SGD, groups={"head.*": {"lr": 0.1}, "*.bias": {"lr": 0.2}}),
        r"The parameter head\.bias is matched by two patterns of groups: 'head\.\*' and '\*\.bias'",
    ),
    (
        "group's word",
        lambda: optimizer(SGD, groups={"head.*": {"lrr": 0.1}}),
        "sets lrr, which SGD does not take. Probably meant: lr",
    ),
    (
        "no bound rule",
        lambda: chain(Unbound(None), optimizer(SGD)),
        "was bound to a NoneType without memory, loss, write",
    ),
    (
        "memory",
        lambda: chain(Unbound(Remembers([])), optimizer(SGD)),
        r"The memory of the update rule Unbound is \[\]; expected a dict",
    ),
    (
        "a thing in it",
        lambda: chain(Unbound(Remembers({"a": object()})), optimizer(SGD)),
        "expected a dict of names to",
    ),
]


class Unbound:
    def __init__(self, bound: Any) -> None:
        self.bound = bound

    def bind(self, params: dict[str, Tensor], /) -> Any:
        return self.bound() if callable(self.bound) else self.bound


class Remembers(BoundHalves):
    def __init__(self, memory: Any) -> None:
        super().__init__(-1)
        self.memory = memory


@pytest.mark.parametrize(("make", "match"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_it_is_told_when_the_rule_is_made(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


@pytest.mark.parametrize(("make", "match"), [pytest.param(*case[1:], id=case[0]) for case in BAD_OF_A_MODEL])
def test_it_is_told_before_the_first_step(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(NNTrainError, match=match):
        learner_of(make()).init()


def test_rules_are_values() -> None:
    one, other = (chain(clip_norm(1.0), chain(accumulate(2), optimizer(SGD, lr=0.1))) for _ in range(2))
    assert one == other
    assert repr(one) == "chain(clip_norm(1.0), accumulate(2), optimizer(SGD, lr=0.1))"
    assert one != chain(clip_norm(2.0), accumulate(2), optimizer(SGD, lr=0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_window_by_itself_gives_the_mean_in_the_place_of_the_last_gradients(dtype: torch.dtype) -> None:
    param = nn.Parameter(torch.zeros(3, dtype=dtype))
    bound = accumulate(4).bind({"a": param})
    gradients: Gradients = {}
    for batch, weight in enumerate((1, 2, 4, 1)):
        gradients = {"a": torch.full((3,), float(batch), dtype=dtype)}
        assert bound.write(gradients, At(0, weight, 0, None)) is (batch == 3)
    assert [*gradients] == ["a"]
    assert gradients["a"].tolist() == [1.625] * 3  # (0 + 2 + 8 + 3) / 8
    assert bound.memory["batches"] == 0
