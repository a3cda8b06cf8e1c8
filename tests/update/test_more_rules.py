"""More update rules, each against a loop written by hand, and resumed from every transition."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.swa_utils import AveragedModel
from torch.optim.swa_utils import update_bn as torch_update_bn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from nntrain import (
    BatchOutput,
    DataLoaders,
    Learner,
    Objective,
    StepOutput,
    Subscriber,
    TrainState,
    Transition,
    advance,
    evaluate,
    fit_step,
    predict,
    state_before,
    supervised,
    update_bn,
)
from nntrain.checkpoint import load, save
from nntrain.errors import ConfigError, DataError, StateError
from nntrain.schedules import linear
from nntrain.update import (
    At,
    Gradients,
    UpdateRule,
    accumulate,
    chain,
    clip_norm,
    ema,
    freeze,
    gradient_noise,
    layerwise,
    optimizer,
    skip_nonfinite,
    swa,
)
from nntrain.update.rule import Bound
from nntrain.update.skipping import unscale
from nntrain.values.bits import same_bits
from tests.update.test_rules import ADAMW, DATA, SGD, assert_same, by_hand, fitted, learner_of, make_model

Batch = tuple[Tensor, Tensor]


def assert_resumes(update: UpdateRule, folder: Path) -> TrainState:
    """Check that a fit goes on exactly from each of its states, one of them from a file; return its end."""
    learner = learner_of(update)
    states = [learner.init(epochs=2)]
    while states[-1].progress.at != "finished":
        states.append(advance(learner, states[-1]).state)
    save(states[len(states) // 2], folder / "amid")
    for state in (*states[:-1], load(folder / "amid", learner_of(update))):
        assert fit_step(learner_of(update), state).state == states[-1]
    return states[-1]


# -- skip_nonfinite ------------------------------------------------------------------------------------------------

BAD_STEPS = (1, 2, 6)


class Spoils:
    """Spoils a gradient at some steps."""

    def __init__(self, value: float = math.nan) -> None:
        self.value = value

    def bind(self, params: dict[str, Tensor], /) -> BoundSpoils:
        return BoundSpoils(self.value)


class BoundSpoils:
    def __init__(self, value: float) -> None:
        self.memory: dict[str, object] = {}
        self.value = value

    def loss(self, loss: Tensor, /) -> Tensor:
        return loss

    def write(self, gradients: dict[str, Tensor], at: object, /) -> bool:
        if at.step in BAD_STEPS:  # type: ignore[attr-defined] # At
            gradients["head.bias"][1] = self.value
        return True


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_skip_nonfinite_writes_nothing_of_such_a_batch_and_counts_it(value: float, tmp_path: Path) -> None:
    update = chain(Spoils(value), skip_nonfinite(), clip_norm(0.5), optimizer(ADAMW, lr=0.01, weight_decay=0.1))
    told: list[float] = []

    def note(transition: Transition) -> None:
        if transition.output is not None and transition.progress.phase == "train":
            told.append(float(transition.output.told["skipped"]))

    state = fitted(update, sinks=[note])

    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        if step in BAD_STEPS:
            optim.zero_grad()  # with no gradients nothing is written
        else:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)

    assert_same(state, by_hand(lambda model: ADAMW(model.parameters(), lr=0.01, weight_decay=0.1), before))
    assert told == [float(step in BAD_STEPS) for step in range(10)]
    assert state.tensors.snapshot().optim.rules["skip_nonfinite"] == {"skipped": 3}
    assert state.progress.step == 10
    if math.isnan(value):
        assert assert_resumes(update, tmp_path) == state


def test_skip_nonfinite_changes_no_bit_of_what_is_finite() -> None:
    plain = optimizer(ADAMW, lr=0.01)
    assert_same(fitted(chain(skip_nonfinite(), plain)), fitted(plain).to_module())


def test_skip_nonfinite_leaves_a_batch_or_a_window_out() -> None:
    rates = optimizer(SGD, lr=0.1)
    batches = [(torch.ones(1, 1) * x, torch.zeros(1, 1)) for x in (1.0, math.inf, 2.0, 3.0)]

    def trained(update: UpdateRule, data: list[Batch]) -> TrainState:
        torch.manual_seed(0)
        learner: Learner[Batch] = Learner.of(nn.Linear(1, 1), DataLoaders(data), supervised(mse_loss), update)
        return learner.fit(1, print_stats=False).state

    each = trained(chain(skip_nonfinite(), accumulate(2), rates), batches)
    assert_same(each, trained(chain(accumulate(2), rates), [batches[0], *batches[2:]]).to_module())
    window = trained(chain(accumulate(2), skip_nonfinite(), rates), batches)
    assert_same(window, trained(chain(accumulate(2), rates), batches[2:]).to_module())


def test_gradients_of_every_kind_are_looked_at() -> None:
    one = torch.ones(())
    kinds: tuple[Callable[[float], Tensor], ...] = (
        lambda x: torch.tensor([1.0, x], dtype=torch.float64),
        lambda x: torch.tensor([1.0, x], dtype=torch.bfloat16),
        lambda x: torch.tensor([complex(1.0, x)]),
        lambda x: torch.sparse_coo_tensor(torch.tensor([[1]]), torch.tensor([x]), (3,), check_invariants=True),
    )
    for make in kinds:
        for x in (2.0, math.nan, math.inf):
            assert bool(unscale([torch.ones(3), make(x)], one)) is not math.isfinite(x)
    large = [torch.full((9,), 3e38), torch.zeros(0)]
    assert not unscale(large, one)


# -- swa -----------------------------------------------------------------------------------------------------------

SWA = chain(optimizer(ADAMW, lr=0.05), swa(start=3, every=2))


def averaged_by_hand(
    update_params: Callable[[AveragedModel, nn.Module, int], object],
) -> tuple[AveragedModel, nn.Module]:
    average, step = AveragedModel(make_model()), 0

    def after(model: nn.Module) -> None:
        nonlocal step
        step += 1
        update_params(average, model, step)

    return average, by_hand(lambda model: ADAMW(model.parameters(), lr=0.05), after=after)


def test_swa_is_torch_s_average(tmp_path: Path) -> None:
    def update(average: AveragedModel, model: nn.Module, step: int) -> None:
        if step >= 3 and (step - 3) % 2 == 0:
            average.update_parameters(model)

    average, model = averaged_by_hand(update)
    assert average.n_averaged == 4
    state = fitted(SWA)
    assert_same(state, model)
    for mine, other in zip(state.to_module("swa").parameters(), average.module.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert_same(state.with_averages("swa"), state.to_module("swa"))
    assert state.tensors.snapshot().optim.rules["swa"]["averaged"] == 4
    assert assert_resumes(SWA, tmp_path) == state
    save(state.with_averages("swa"), tmp_path / "averaged")
    assert load(tmp_path / "averaged", learner_of(SWA)) == state.with_averages("swa")


def test_an_average_of_nothing_is_refused() -> None:
    state = fitted(chain(optimizer(SGD, lr=0.1), swa(start=100)))
    learner = learner_of(SWA)
    for ask in (
        state.to_module,
        state.with_averages,
        lambda weights: evaluate(learner, state, weights=weights),
        lambda weights: predict(learner, state, DATA, weights=weights),
    ):
        with pytest.raises(ConfigError, match="weights is 'swa', which has averaged nothing yet"):
            ask("swa")
    with pytest.raises(ConfigError, match="weights is 'ema'; expected the name of an update rule"):
        state.with_averages("ema")


def test_averages_are_evaluated_and_predicted_with() -> None:
    learner = learner_of(SWA)
    state = learner.fit(2, print_stats=False).state
    averaged = state.with_averages("swa")
    stats = evaluate(learner, state, weights="swa")
    assert stats == evaluate(learner, averaged) != evaluate(learner, state)
    module = state.to_module("swa")
    preds = list(predict(learner, state, DATA, weights="swa"))
    with torch.no_grad():
        assert all(torch.equal(one, module(inputs)) for one, (inputs, _) in zip(preds, DATA, strict=True))
    assert averaged.progress == state.progress
    assert fit_step(learner, state, 1).state == fit_step(learner_of(SWA), state, 1).state


@pytest.mark.parametrize("own", [False, True], ids=["train", "loader"])
def test_update_bn_is_torch_s(own: bool) -> None:
    learner = learner_of(SWA)
    state = learner.fit(2, print_stats=False).state
    data = DATA[1:4] if own else DATA
    module = state.to_module("swa", train=True)
    torch_update_bn(data, module)
    before = torch.get_rng_state()
    found = update_bn(learner, state.with_averages("swa"), data if own else None)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(found, state.to_module("swa"))
    for name, buffer in module.named_buffers():
        assert torch.equal(found.buffers[name], buffer), name
    assert not torch.equal(found.buffers["body.1.running_mean"], state.buffers["body.1.running_mean"])
    assert same_bits(found.tensors.snapshot().optim, state.tensors.snapshot().optim)
    assert fit_step(learner, found, 1).state == fit_step(learner_of(SWA), found, 1).state


def test_update_bn_calls_a_task_of_one_s_own_and_refuses_what_has_no_statistics() -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[None]:
        return StepOutput(cross_entropy(model(batch[0]), batch[1]))

    learner: Learner[Batch] = Learner.of(make_model(), DataLoaders(DATA), task, SWA)
    state = learner.fit(1, print_stats=False).state
    assert update_bn(learner, state) == update_bn(learner_of(SWA), state)
    with pytest.raises(DataError, match="the loader has no batch"):
        update_bn(learner, state, iter_of_none())
    plain = learner_of(SWA, model=nn.Linear(4, 3))
    with pytest.raises(ConfigError, match="no BatchNorm layer that keeps statistics"):
        update_bn(plain, plain.init())


def iter_of_none() -> DataLoader[Any]:
    dataset: Dataset[Any] = TensorDataset(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))
    return DataLoader(dataset, batch_size=2, drop_last=True)


# -- in_eval -------------------------------------------------------------------------------------------------------

RATES = optimizer(ADAMW, lr=0.05)


@pytest.mark.parametrize("make", [lambda **more: ema(0.8, **more), lambda **more: swa(start=3, every=2, **more)])
def test_eval_has_the_average_and_training_the_weights(make: Callable[..., UpdateRule], tmp_path: Path) -> None:
    update, plain = chain(RATES, make(in_eval=True)), chain(RATES, make())
    name = update.rules[1].name  # type: ignore[attr-defined] # of the package's own
    learner, other = learner_of(update), learner_of(plain)
    state = other.init(epochs=2)
    expected = []
    while state.progress.at != "finished":
        state = advance(other, state).state
        if state.progress.at == "after_epoch" and state.progress.phase == "eval":
            expected.append(evaluate(other, state, weights=name))
    trained = fit_step(learner, learner.init(), 2).state
    assert_same(trained, state.to_module())
    assert [one for one in trained.history if one.phase == "eval"] == expected
    assert [one for one in state.history if one.phase == "eval"] != expected
    assert evaluate(learner, trained) == trained.history[-1] == evaluate(learner, state)
    assert evaluate(learner, trained.with_averages(name), weights=name) == trained.history[-1]
    for one, mine in zip(predict(learner, trained, DATA), predict(other, state, DATA, weights=name), strict=True):
        assert torch.equal(one, mine)
    assert assert_resumes(update, tmp_path) == trained


def test_eval_has_the_weights_until_there_is_an_average() -> None:
    late = fitted(chain(RATES, swa(start=100, in_eval=True)))
    assert late.history == fitted(chain(RATES, swa(start=100))).history


class Keeps(Subscriber[Batch]):
    """Keeps the states of all batches, with what they are."""

    def __init__(self) -> None:
        self.kept: list[tuple[TrainState, Any]] = []

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        self.kept.append((state, state.tensors.snapshot()))
        return state


def test_states_that_are_kept_in_eval_have_the_weights_that_are_trained() -> None:
    keeps, plain = Keeps(), Keeps()
    fitted(chain(RATES, ema(0.8, in_eval=True)), subs=[keeps])
    fitted(chain(RATES, ema(0.8)), subs=[plain])
    assert len(keeps.kept) == len(plain.kept) == 14
    for (state, was), (other, _) in zip(keeps.kept, plain.kept, strict=True):
        assert same_bits(state.tensors.snapshot(), was)
        assert state.tensors == other.tensors


class CountsCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        found: Tensor = self.inner(inputs)
        return found


def test_a_model_that_writes_in_eval_is_refused() -> None:
    learner = learner_of(chain(RATES, ema(0.8, in_eval=True)), model=CountsCalls())
    with pytest.raises(StateError, match="writes to a buffer or a parameter in eval") as caught:
        learner.fit(1, print_stats=False)
    state = state_before(caught.value)
    assert state is not None
    assert state.progress.phase == "eval"
    assert state.buffers["calls"] == 5
    assert_same(state, fitted(chain(RATES, ema(0.8)), epochs=1, model=CountsCalls()).to_module())


def test_each_objective_says_which_weights_eval_sees() -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[None]:
        return StepOutput(cross_entropy(model(batch[0]), batch[1]))

    def trained(in_eval: bool) -> tuple[Learner[Batch], TrainState]:
        parts = [
            Objective(name, task, chain(optimizer(SGD, lr=0.1, params=f"{name}.*"), ema(0.5, in_eval=in_eval)))
            for name in ("body", "head")
        ]
        learner: Learner[Batch] = Learner.of(make_model(), DataLoaders(DATA, DATA), objectives=parts)
        return learner, learner.fit(1, print_stats=False).state

    (learner, state), (other, plain) = trained(True), trained(False)
    both = plain.with_averages("body.ema").with_params(
        {
            **plain.with_averages("body.ema").params,
            **{name: one for name, one in plain.with_averages("head.ema").params.items() if name.startswith("head")},
        }
    )
    assert state.history[-1] == evaluate(other, both) == evaluate(learner, state)
    assert evaluate(other, plain, weights="ema") == state.history[-1]  # that of each objective
    assert_same(both, plain.to_module(weights="ema"))
    with pytest.raises(ConfigError, match=r"weights is 'swa'.*There are body\.ema, head\.ema"):
        plain.to_module(weights="swa")


# -- freeze --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ADAMW, lambda params, lr: SGD(params, lr, momentum=0.9, weight_decay=0.1)])
def test_what_is_frozen_is_as_without_a_gradient(make: Any, tmp_path: Path) -> None:
    rules = freeze("body.0.*", until=6), freeze(["body.1.*", "*.bias"], until=3), freeze("head.weight", start=8)
    update = chain(*rules, clip_norm(0.05), optimizer(make, lr=0.1))

    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        for name, param in model.named_parameters():
            if (
                (step < 6 and name.startswith("body.0"))
                or (step < 3 and (name.startswith("body.1") or name.endswith("bias")))
                or (step >= 8 and name == "head.weight")
            ):
                param.grad = None
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)

    state = assert_resumes(update, tmp_path)
    assert_same(state, by_hand(lambda model: make(model.parameters(), lr=0.1), before))
    early = fit_step(learner_of(update), learner_of(update).init(), 1).state.tensors.snapshot().optim.state
    assert not any(name.startswith("body.0") for name in early)
    assert "head.bias" in early


def test_windows_and_skipped_batches_go_on_with_what_is_frozen() -> None:
    frozen, rates = freeze("body.*", until=3), optimizer(ADAMW, lr=0.1)
    before = fitted(chain(frozen, accumulate(2), rates))
    assert before == fitted(chain(accumulate(2), frozen, rates))
    assert before != fitted(chain(accumulate(2), rates))
    assert_same(fitted(chain(skip_nonfinite(), frozen, rates)), fitted(chain(frozen, rates)).to_module())


def test_what_freezes_nothing_or_all_is_refused_before_the_first_step() -> None:
    rates = optimizer(SGD, lr=0.1)
    with pytest.raises(ConfigError, match=r"freeze has 'bdy\.\*', which matches no parameter.*body\.\*"):
        learner_of(chain(freeze("bdy.*", until=3), rates)).init()
    both = freeze("body.*", until=9), freeze("head.*", start=5, until=6)
    with pytest.raises(
        ConfigError, match=r"At step 5 all that is trained is frozen, by freeze\(\['body\.\*'\], until=9"
    ):
        learner_of(chain(*both, rates)).init()
    learner_of(chain(freeze("body.*", until=5), both[1], rates)).init()
    with pytest.raises(ConfigError, match="At step 0 all that is trained"):
        learner_of(chain(freeze("head.*"), optimizer(SGD, lr=0.1, params="head.*"))).init()


# -- layerwise -----------------------------------------------------------------------------------------------------


def test_layerwise_makes_the_groups_that_one_would_by_hand() -> None:
    patterns = ["body.0.*", "body.1.*", "head.*"]
    groups = layerwise(patterns, 0.5, 0.5)
    assert groups == {"body.0.*": {"lr": 0.125}, "body.1.*": {"lr": 0.25}, "head.*": {"lr": 0.5}}
    assert list(groups) == patterns
    assert layerwise(make_model(), 0.5, 0.5) == groups
    state = fitted(optimizer(ADAMW, lr=1.0, groups=groups))

    def make(model: nn.Module) -> torch.optim.Optimizer:
        named = dict(model.named_parameters())
        return ADAMW(
            [
                {"params": [one for name, one in named.items() if name.startswith(layer)], "lr": lr}
                for layer, lr in (("body.0", 0.125), ("body.1", 0.25), ("head", 0.5))
            ]
        )

    assert_same(state, by_hand(make))


def test_layerwise_takes_a_schedule_and_is_a_value() -> None:
    rate = linear(0.1, steps=10, start=1.0, end=0.0)
    one, other = (optimizer(SGD, lr=rate, groups=layerwise(make_model(), rate, 0.5)) for _ in range(2))
    assert one == other

    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        for group, share in zip(optim.param_groups, (0.25, 0.5, 1.0), strict=True):
            group["lr"] = rate(step) * share

    def make(model: nn.Module) -> torch.optim.Optimizer:
        named = dict(model.named_parameters())
        layers = ("body.0", "body.1", "head")
        return SGD([{"params": [one for name, one in named.items() if name.startswith(layer)]} for layer in layers])

    assert_same(fitted(one), by_hand(make, before))


def test_the_layers_of_a_module_are_those_with_parameters_in_order() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(2))
            self.embed = nn.Embedding(3, 2)
            self.drop = nn.Dropout()
            self.blocks = nn.ModuleList(
                [nn.Sequential(nn.Linear(2, 2), nn.Tanh()), nn.TransformerEncoderLayer(2, 1, 2)]
            )
            self.head = nn.Linear(2, 1)

    assert list(layerwise(Deep(), 0.1, 0.9)) == ["embed.*", "blocks.0.0.*", "blocks.1.*", "head.*"]


# -- gradient_noise ------------------------------------------------------------------------------------------------


class Draws(Subscriber[Batch]):
    """Draws between the batches, as no rule's noise may depend on."""

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        torch.randn(5)
        return state


class Notes:
    """Notes the bits that rules are given."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def bind(self, params: dict[str, Tensor], /) -> BoundNotes:
        return BoundNotes(self.bits)


class BoundNotes(Bound):
    def __init__(self, bits: list[int]) -> None:
        super().__init__()
        self.bits = bits

    def write(self, gradients: Gradients, at: At, /) -> bool:
        self.bits.append(at.bits)
        return True


def deviation(step: int) -> float:
    return 0.5 / (1 + step)


def test_gradient_noise_is_of_the_key_and_the_batch_alone(tmp_path: Path) -> None:
    update, notes = chain(gradient_noise(deviation), optimizer(ADAMW, lr=0.05)), Notes()
    state = fitted(chain(notes, update))
    assert len({*notes.bits}) == 10
    own = zlib.crc32(",".join(state.params).encode()) ^ 0x6E6F697365

    def before(model: nn.Module, optim: torch.optim.Optimizer, step: int) -> None:
        source = torch.Generator().manual_seed(notes.bits[step] ^ own)
        for param in model.parameters():
            assert param.grad is not None
            param.grad.add_(torch.randn(param.shape, generator=source), alpha=deviation(step))

    assert_same(state, by_hand(lambda model: ADAMW(model.parameters(), lr=0.05), before))
    assert_same(fitted(update, subs=[Draws()]), state.to_module())
    assert_same(assert_resumes(update, tmp_path), state.to_module())
    other = learner_of(update)
    assert not same_bits(fit_step(other, other.init(seed=1), 2).state.params["head.bias"], state.params["head.bias"])


def test_noise_is_drawn_for_each_batch_or_once_a_window() -> None:
    for before, drawn in ((True, 10), (False, 6)):
        notes = Notes()
        rules: list[UpdateRule] = (
            [notes, gradient_noise(0.1), accumulate(2)] if before else [accumulate(2), notes, gradient_noise(0.1)]
        )
        fitted(chain(*rules, optimizer(SGD, lr=0.1)))
        assert len(notes.bits) == len({*notes.bits}) == drawn


# -- what cannot be meant ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: swa(start=0), "swa: start is 0; expected a whole number of steps from 1"),
        (lambda: swa(start=2, every=1.5), "swa: every is 1.5"),  # type: ignore[arg-type] # a mistake
        (lambda: chain(swa(start=1), optimizer(SGD)), r"swa\(start=1, every=1\) stands before the optimizer"),
        (lambda: freeze("a", until=-1), "freeze: until is -1; expected a step, a whole number from 0"),
        (lambda: freeze("a", start=True), "freeze: start is True"),
        (lambda: freeze("a", until=3, start=3), "freeze: until is 3, and start 3; expected a step after it"),
        (lambda: freeze([]), r"freeze takes a pattern of names like 'body\.\*', or a list of them; got \[\]"),
        (lambda: chain(optimizer(SGD), freeze("a", until=1)), r"freeze\(\['a'\], until=1\) stands after the optimizer"),
        (lambda: layerwise(["a.*"], -0.1, 0.5), "lr is -0.1; expected a finite number of 0 or more"),
        (lambda: layerwise(["a.*"], 0.1, 0.0), "layerwise: decay is 0.0; expected a number above 0 and 1 at most"),
        (lambda: layerwise("a.*", 0.1, 0.5), r"layerwise: layers is 'a\.\*'; expected a module, or a list"),
        (lambda: layerwise(["a.*", "a.*"], 0.1, 0.5), "some twice; expected patterns of names, each once"),
        (lambda: layerwise(nn.Linear(1, 1), 0.1, 0.5), "layerwise: layers is Linear, without any"),
        (lambda: chain(optimizer(SGD), ema(0.5, in_eval=True), swa(in_eval=True)), "Eval has the average of one rule"),
        (lambda: gradient_noise(-1.0), "gradient_noise: std is -1.0; expected a finite number of 0 or more"),
        (lambda: gradient_noise(lambda step: -0.5), "gradient_noise: std is -0.5"),
        (lambda: chain(gradient_noise(1), gradient_noise(2), optimizer(SGD)), "one gradient_noise at most"),
        (lambda: chain(optimizer(SGD), skip_nonfinite()), r"skip_nonfinite\(\) stands after the optimizer"),
    ],
)
def test_what_cannot_be_meant_is_told_when_the_rule_is_made(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
