"""Laws 1, 2, 3, 5 and 14 over sharded parameters: a hand-written FSDP2 loop, bit for bit, and close to one process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from nntrain import (
    Engine,
    Learner,
    NanGuard,
    Objective,
    Rollback,
    Sharded,
    StepOutput,
    Subscriber,
    TrainState,
    evaluate,
    fit_step,
    overfit_one_batch,
    predict,
    state_before,
    summary,
)
from nntrain.data import DataLoaders
from nntrain.errors import BorrowError, ConfigError, RankError, SubscriberError
from nntrain.task.supervised import supervised
from nntrain.update import (
    UpdateRule,
    accumulate,
    chain,
    clip_norm,
    clip_value,
    ema,
    freeze,
    gradient_noise,
    gradient_norms,
    loss_scale,
    optimizer,
    sam,
    schedule_free,
    skip_nonfinite,
    swa,
)
from nntrain.values.record import evolved
from tests.ranks.launching import launch

ROWS = (16, 7, 1, 6)
LOSS = nn.functional.cross_entropy
adamw: Callable[..., UpdateRule] = partial(optimizer, torch.optim.AdamW, lr=1e-2)
Batches = list[tuple[Tensor, Tensor]]


class Net(nn.Module):
    """Parts that are units, parts of the rest, a parameter smaller than the ranks, and a buffer that forward writes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Linear(6, 5)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.ones(1))
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        found = self.embed(inputs)
        for block in self.blocks:
            found = block(found)
        out: Tensor = self.head(found) * self.scale
        return out

    def encode(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed(inputs))
        return out


def batches(rows: Sequence[int] = ROWS) -> Batches:
    source = torch.Generator().manual_seed(5)
    return [(torch.randn(n, 6, generator=source), torch.randint(0, 3, (n,), generator=source)) for n in rows]


def learner(update: UpdateRule, parallel: Any = "sharded", model: Any = None, **changes: Any) -> Learner[Any, Any]:
    found = batches(changes.pop("rows", ROWS))
    task = changes.pop("task", supervised(LOSS))
    return Learner.of(
        model or Net(), DataLoaders(found, found), task, update, engine=Engine(parallel=parallel), **changes
    )


def fitted(found: Learner[Any, Any], epochs: int = 2) -> TrainState:
    return found.fit(epochs, print_stats=False).state


def apart(one: TrainState, other: TrainState) -> float:
    """Return how far the parameters of two states are apart at most."""
    theirs = other.params
    return max(float((value - theirs[name]).abs().max()) for name, value in one.params.items())


def by_hand(weights: dict[str, Tensor], options: Sharded) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of torch's own loop, and their moving average."""
    rank, size = dist.get_rank(), dist.get_world_size()
    net = Net()
    net.load_state_dict({**weights, "seen": torch.zeros(())})
    mesh = init_device_mesh("cpu", (size,))
    policy = MixedPrecisionPolicy(param_dtype=options.param_dtype, reduce_dtype=options.reduce_dtype)
    for block in net.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(net, mesh=mesh, mp_policy=policy)
    optim = torch.optim.AdamW(net.parameters(), lr=1e-2)
    average: list[Any] = []
    for x, y in batches((16, 7, 4, 6)) * 2:
        first, last = rank * len(x) // size, (rank + 1) * len(x) // size
        optim.zero_grad()
        share = (last - first) * size / len(x)
        loss: Any = LOSS(net(x[first:last]), y[first:last])
        (loss if share == 1.0 else loss * share).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.3)
        optim.step()
        now: list[Any] = [param.detach() for param in net.parameters()]
        if average:
            torch._foreach_lerp_(average, now, 0.1)  # pyright: ignore[reportPrivateImportUsage] # as `ema` has it
        else:
            average = [one.clone() for one in now]
    named: dict[str, Any] = dict(net.named_parameters())
    averages = {name: one.full_tensor() for name, one in zip(named, average, strict=True)}
    return {name: one.detach().full_tensor() for name, one in named.items()}, averages


def both(options: Sharded) -> None:
    ours = learner(chain(clip_norm(0.3), adamw(), ema(0.9)), options, rows=(16, 7, 4, 6))
    weights = dict(ours.init(0).params)
    state = fitted(ours)
    theirs, averages = by_hand(weights, options)
    for name, one in state.params.items():
        assert torch.equal(one, theirs[name]), name
    for name, one in state.to_module(weights="ema").named_parameters():
        assert torch.equal(one, averages[name]), name
    assert state.buffers["seen"] == 8
    if options.param_dtype is None:
        alone = learner(chain(clip_norm(0.3), adamw(), ema(0.9)), None, rows=(16, 7, 4, 6))
        assert apart(state, fitted(alone)) < 1e-6


@pytest.mark.sweep
def test_it_is_the_hand_written_loop_and_close_to_one_process() -> None:
    launch(both, 2, Sharded())


class BrokenError(Exception):
    """What a test raises in a pass."""


class Breaking(Net):
    """Fails where `at` says, once its buffer is written."""

    at = ""

    def forward(self, inputs: Tensor) -> Tensor:
        out = super().forward(inputs)
        if Breaking.at == "forward":
            raise BrokenError
        if Breaking.at == "backward":
            out.register_hook(_break)  # type: ignore[no-untyped-call] # torch leaves it untyped
        return out


class Inner(nn.Module):
    """A unit that fails in the middle of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        if Breaking.at == "unit":
            raise BrokenError
        out: Tensor = self.inner(inputs)
        if Breaking.at == "unit's backward":
            out.register_hook(_break)  # type: ignore[no-untyped-call] # torch leaves it untyped
        return out


def _break(gradient: Tensor) -> Tensor:
    raise BrokenError


def values() -> None:
    torch.manual_seed(dist.get_rank() if dist.is_initialized() else 0)
    net = Breaking()
    net.blocks.append(Inner())
    with torch.no_grad():
        net.head.bias.fill_(float(torch.rand(())))  # other weights on each rank: those of rank 0 count
    ours = learner(chain(clip_norm(0.3), adamw(), ema(0.9)), model=net, subs=[NanGuard(), Rollback()])
    start = ours.init(0)
    bias = start.params["head.bias"]
    assert type(bias) is Tensor
    assert bias.shape == (3,)
    of_first = bias.clone()
    dist.broadcast(of_first, 0)
    assert torch.equal(of_first, bias)
    # kept, branched and compared
    one = fit_step(ours, start, 1).state
    kept, twin = dict(one.params), copy.deepcopy(one)
    two = fit_step(ours, one, 1).state
    again = fit_step(ours, twin, 1).state
    assert two == again
    assert not two.diff(again)
    assert one == twin
    assert one != two
    assert "params/head.bias" in str(one.diff(two))
    assert all(torch.equal(value, kept[name]) for name, value in one.params.items())
    # broken off
    for at in ("forward", "unit", "unit's backward", "backward"):
        Breaking.at = at
        with pytest.raises(BrokenError) as caught:
            fit_step(ours, one, 1)
        Breaking.at = ""
        before = state_before(caught.value)
        assert before is not None
        assert before.tensors == one.tensors
        assert all(torch.equal(value, kept[name]) for name, value in one.params.items())
        assert fit_step(ours, one, 1).state == two, at
    # lent, given and handed out
    with two.borrow() as lent:
        weight = lent["embed.weight"]
        assert torch.equal(weight, two.params["embed.weight"])
        with pytest.raises(BorrowError, match="would write to"):
            weight[0].add_(1)
        assert list(lent) == [*two.params, "seen"]
    with pytest.raises(BorrowError, match="after its block"):
        weight + 1
    other = two.with_params({name: value + 1 for name, value in two.params.items()})
    assert all(torch.equal(value, two.params[name] + 1) for name, value in other.params.items())
    assert other.tensors != two.tensors
    assert fit_step(ours, other, 1).state.progress.step == other.progress.step + len(ROWS)
    module = two.to_module()
    assert all(type(param) is nn.Parameter for param in module.parameters())
    # between learners that shard otherwise, or not at all
    alone = learner(chain(clip_norm(0.3), adamw(), ema(0.9)), None, model=like(net))
    assert apart(fit_step(alone, one, 1).state, two) < 1e-6
    whole = fit_step(alone, alone.init(0), 1).state
    assert apart(fit_step(ours, whole, 1).state, fit_step(alone, whole, 1).state) < 1e-6


def like(net: nn.Module) -> nn.Module:
    found = Breaking()
    found.blocks.append(Inner())
    weights = net.state_dict()
    bias = weights["head.bias"].clone()
    dist.broadcast(bias, 0)
    found.load_state_dict({**weights, "head.bias": bias})
    return found


RULES: dict[str, UpdateRule] = {
    "accumulate": chain(accumulate(3), clip_norm(0.3), adamw()),
    "swa": chain(adamw(), swa(start=2, every=2)),
    "ema in eval": chain(adamw(), ema(0.5, in_eval=True)),
    "schedule_free": schedule_free(optimizer(torch.optim.SGD, lr=0.1)),
    "sam": chain(sam(0.05), adamw()),
    "adaptive sam": chain(sam(0.05, adaptive=True), adamw()),
    "gradient_noise": chain(gradient_noise(0.01), adamw()),
    "skip_nonfinite": chain(skip_nonfinite(), adamw()),
    "loss_scale": chain(loss_scale(), gradient_norms("blocks.*", "head.*"), adamw()),
    "clip_value": chain(gradient_norms(), clip_value(0.01), adamw()),
    "freeze": chain(freeze("embed.*", until=4), adamw()),
    "groups": optimizer(torch.optim.SGD, lr=0.1, momentum=0.9, groups={"head.*": {"lr": 0.5}}),
}


OPTIMIZERS: dict[str, UpdateRule] = {
    name: optimizer(getattr(torch.optim, name), lr=1e-3)
    for name in ("Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "ASGD")
}


def rules(options: Sharded, names: Sequence[str]) -> None:
    for name in names:
        rule = RULES[name]
        sharded, alone = learner(rule, options), learner(rule, None)
        ours, theirs = fitted(sharded), fitted(alone)
        assert apart(ours, theirs) < 2e-6, name
        for kept in theirs.tensors.read(lambda one: list(one.optim.rules)):
            if kept in {"ema", "swa", "schedule_free"}:
                assert apart(ours.with_averages(kept), theirs.with_averages(kept)) < 2e-6, name
        # what it remembers goes along: kept, and handed to a learner that shards, or does not
        half = fit_step(sharded, sharded.init(0), 1).state
        twin = copy.deepcopy(half)
        assert fit_step(sharded, half, 1).state == ours, name
        assert fit_step(sharded, twin, 1).state == ours, name
        assert apart(fit_step(alone, half, 1).state, theirs) < 2e-6, name
        assert apart(fit_step(sharded, fit_step(alone, alone.init(0), 1).state, 1).state, ours) < 2e-6, name


def optimizers() -> None:
    for name, rule in OPTIMIZERS.items():
        assert apart(fitted(learner(rule), 1), fitted(learner(rule, None), 1)) < 2e-6, name


def every_rule() -> None:
    rules(Sharded(), [*RULES])
    optimizers()


@pytest.mark.sweep
def test_every_rule_is_that_of_one_process() -> None:
    launch(every_rule, 2, limit=180.0)


@pytest.mark.sweep
def test_copies_of_the_shards_train_as_one_process() -> None:
    launch(rules, 4, Sharded(replicate=2), ["accumulate"], limit=180.0)


class Gan(nn.Module):
    """Two parts, each called by itself, and trained by an objective of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.maker = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        self.judge = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))


def judging(model: Any, batch: Any) -> StepOutput[Any]:
    real, made = model.judge(batch[0]), model.judge(model.maker(batch[0]).detach())
    loss = nn.functional.softplus(-real).mean() + nn.functional.softplus(made).mean()
    return StepOutput(loss, real, weight=len(batch[0]))


def making(model: Any, batch: Any) -> StepOutput[Any]:
    found = model.judge(model.maker(batch[0]))
    return StepOutput(nn.functional.softplus(-found).mean(), found, weight=len(batch[0]))


class Tied(nn.Module):
    """Weights in two places, a frozen one, and a teacher that the forward pass writes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first = nn.Linear(6, 6)
        self.student = nn.Sequential(nn.Linear(6, 6))
        self.teacher = nn.Sequential(nn.Linear(6, 6)).requires_grad_(False)
        self.last = nn.Linear(6, 6)
        self.last.weight = self.first.weight
        self.first.bias.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                for mine, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                    mine.lerp_(theirs, 0.5)
        found = self.first(inputs)
        out: Tensor = self.last(self.student(found) + self.teacher(found))
        return out


class Writing(Net):
    """Writes to a parameter in the forward pass."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            self.scale.add_(1)
        return super().forward(inputs)


def encoded(model: Any, batch: Any) -> StepOutput[Any]:
    found = model.encode(batch[0])
    return StepOutput(LOSS(found, batch[1]), found)


def masked(model: Any, batch: Any) -> StepOutput[Any]:
    """Return a mean over the rows that count, which is NaN where a rank has none of them."""
    inputs, target, counts = batch
    preds = model(inputs)
    each = nn.functional.cross_entropy(preds, target, reduction="none")
    return StepOutput((each * counts).sum() / counts.sum(), preds, weight=counts.sum())


def models() -> None:
    first_half = [(x, y, (torch.arange(len(x)) < len(x) / 2).float()) for x, y in batches((8, 6, 4))]
    of_some = [
        fitted(Learner.of(Net(), DataLoaders(first_half, first_half), masked, adamw(), engine=Engine(parallel=one)))
        for one in ("sharded", None)
    ]
    assert apart(*of_some) < 1e-6
    both = [Objective("judge", judging, adamw(params="judge.*")), Objective("maker", making, adamw(params="maker.*"))]
    found = batches()
    gan = partial(Learner.of, Gan(), DataLoaders(found, found), objectives=both)
    assert apart(fitted(gan(engine=Engine(parallel="sharded"))), fitted(gan())) < 1e-6
    assert apart(fitted(learner(adamw(), model=Tied())), fitted(learner(adamw(), None, model=Tied()))) < 1e-6
    named = Sharded(methods=["encode"])
    assert apart(fitted(learner(adamw(), named, task=encoded)), fitted(learner(adamw(), None, task=encoded))) < 1e-6
    one = fitted(learner(adamw(), Sharded(reshard_after_forward=False)))
    assert one == fitted(learner(adamw(), Sharded(wrap=["blocks.*", "head"])))
    scalar = Net()
    scalar.scale = nn.Parameter(torch.ones(()))
    untidy = Net()
    untidy.embed.half()
    refused: list[tuple[str, Callable[[], Any]]] = [
        ("scale are 0-dim", lambda: learner(adamw(), model=scalar).init()),
        ("uniform original parameter dtype", lambda: learner(adamw(), model=untidy).init()),
        ("shared with a parameter already managed", lambda: learner(adamw(), Sharded(wrap="*"), model=Tied()).init()),
        ("writes to its parameters scale", lambda: fitted(learner(adamw(), model=Writing()))),
        ("LBFGS looks at more than one element", lambda: learner(optimizer(torch.optim.LBFGS, lr=1.0)).init()),
        ("replicate is 3, which does not divide the 2", lambda: learner(adamw(), Sharded(replicate=3)).init()),
        ("'nope.*', which matches the name of no module", lambda: learner(adamw(), Sharded(wrap="nope.*")).init()),
        ("methods has 'nope'", lambda: learner(adamw(), Sharded(methods=["nope"])).init()),
        ("Leave compile out", lambda: Engine(compile=True, parallel="sharded")),
        ("wrap is 3", lambda: Sharded(wrap=3)),  # type: ignore[arg-type] # on purpose
        ("param_dtype is torch.int8", lambda: Sharded(param_dtype=torch.int8)),
        ("replicate is 0", lambda: Sharded(replicate=0)),
        ("methods is 'encode'", lambda: Sharded(methods="encode")),
    ]
    for said, make in refused:
        with pytest.raises(ConfigError) as caught:
            make()
        assert said in str(caught.value)


class Back(Subscriber[Any]):
    """Answers, on rank 1 alone, the state that the epoch began with."""

    def after_epoch(self, state: TrainState) -> TrainState:
        return state if dist.get_rank() == 0 else evolved(state, tensors=self.kept)

    def before_epoch(self, state: TrainState) -> TrainState:
        self.kept = copy.copy(state).tensors
        return state


def one_answers() -> None:
    """Answer a state on one rank alone: it has but its part of the weights."""
    with pytest.raises(SubscriberError if dist.get_rank() else RankError, match="answer it on all ranks"):
        fitted(learner(adamw(), subs=[Back()]))


def looked() -> None:
    """Evaluate, predict and look at a model beside the training, as on one process."""
    rule = chain(adamw(), ema(0.9))
    sharded, data, alone = learner(rule), learner(rule, "data"), learner(rule, None)
    ours, theirs = fitted(sharded, 1), fitted(alone, 1)
    for weights in (None, "ema"):
        assert evaluate(sharded, ours, weights=weights).loss == pytest.approx(
            evaluate(alone, theirs, weights=weights).loss, rel=1e-5
        )
        preds = predict(sharded, ours, batches(), weights=weights), predict(alone, theirs, batches(), weights=weights)
        for one, other in zip(*preds, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    said = str(summary(alone, theirs))
    assert str(summary(data, theirs)) == said
    assert str(summary(sharded, ours)) == said
    losses = overfit_one_batch(alone, theirs, steps=3).losses
    for found in (overfit_one_batch(sharded, ours, steps=3), overfit_one_batch(data, theirs, steps=3)):
        assert found.losses == pytest.approx(losses, rel=1e-4)


def more_laws() -> None:
    both(Sharded(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    values()
    models()
    looked()
    one_answers()


@pytest.mark.sweep
def test_states_are_values_and_models_of_many_kinds_train_or_are_refused() -> None:
    launch(more_laws, 2, limit=180.0)
