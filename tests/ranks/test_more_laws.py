"""Laws 12, 13 and 14 over ranks, and weights that are no rows: what one process makes of whole batches."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nntrain import Engine, Learner, Objective, StepOutput, accuracy, evaluate, supervised
from nntrain.data import DataLoaders
from nntrain.errors import ConfigError
from nntrain.metrics import Confusion
from nntrain.update import accumulate, chain, clip_norm, optimizer, skip_nonfinite
from tests.ranks.launching import launch

Batch = tuple[Tensor, Tensor]
ROWS = (8, 8, 8, 8, 8, 8)


def batches(rows: tuple[int, ...] = ROWS) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in rows]


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def state_told(learner: Learner[Any, Any], epochs: int = 2) -> dict[str, Any]:
    state = learner.fit(epochs, print_stats=False).state
    return {
        "params": dict(state.params),
        "history": [(one.phase, one.loss, dict(one.metrics), one.samples) for one in state.history],
        "step": state.progress.step,
    }


def engine(*, parallel: bool) -> Engine:
    return Engine(parallel="data" if parallel else None)


def check_same(found: dict[str, Any], by_hand: dict[str, Tensor], size: int) -> None:
    """Compare weights: of two ranks bit for bit; of more, gloo adds in an order that hangs on how numbers lie."""
    for name, one in by_hand.items():
        rtol, atol = (0.0, 0.0) if size == 2 else (1e-6, 1e-7)
        torch.testing.assert_close(found["params"][name], one, rtol=rtol, atol=atol)


# -- 12: accumulation synchronises once a write, and is the hand-written loop ------------------------------------------


def accumulated_by_hand() -> dict[str, Tensor]:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    module = model()
    ddp = DistributedDataParallel(module)
    optim = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optim.zero_grad()
        for at, (x, y) in enumerate(batches(), 1):
            first, last = rank * len(x) // size, (rank + 1) * len(x) // size
            with ddp.no_sync() if at % 2 else nullcontext():
                loss: Any = nn.functional.cross_entropy(ddp(x[first:last]), y[first:last]) / 2
                loss.backward()
            if not at % 2:
                nn.utils.clip_grad_norm_(ddp.parameters(), 0.05)
                optim.step()
                optim.zero_grad()
    return {name: one.detach().clone() for name, one in module.named_parameters()}


def accumulated(rows: tuple[int, ...], *, parallel: bool = True) -> dict[str, Any]:
    update = chain(accumulate(2), clip_norm(0.05), optimizer(torch.optim.SGD, lr=0.1, momentum=0.9))
    data = DataLoaders(batches(rows), batches(rows))
    task = supervised(nn.functional.cross_entropy, accuracy)
    return state_told(Learner.of(model(), data, task, update, engine=engine(parallel=parallel)))


@pytest.mark.sweep
@pytest.mark.parametrize("size", [2, 4])
def test_accumulation_over_ranks_is_the_hand_written_loop(size: int) -> None:
    by_hand = launch(accumulated_by_hand, size)
    for found in launch(accumulated, size, ROWS):
        check_same(found, by_hand[0], size)


@pytest.mark.sweep
@pytest.mark.parametrize("size", [2, 4])
def test_accumulation_with_uneven_batches_is_that_of_one_process(size: int) -> None:
    rows = (8, 7, 5, 3, 9)  # of which the last is a short window, and some ranks of four have no row of the fourth
    alone = accumulated(rows, parallel=False)
    for found in launch(accumulated, size, rows):
        assert found["step"] == alone["step"] == 6
        for name, one in alone["params"].items():
            torch.testing.assert_close(found["params"][name], one, rtol=1e-5, atol=1e-6)
        for mine, theirs in zip(found["history"], alone["history"], strict=True):
            assert mine[3] == theirs[3]
            assert mine[1] == pytest.approx(theirs[1], rel=1e-5)
            assert mine[2] == pytest.approx(theirs[2], rel=1e-5)


# -- 13, and weights by tokens ----------------------------------------------------------------------------------------


def by_token(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
    """Weigh a batch by its samples of the classes 1 and 2, as a language model does by its tokens."""
    x, y = batch
    counts = y > 0
    preds = model(x)
    losses = nn.functional.cross_entropy(preds, y, reduction="none")
    weight = counts.sum()
    return StepOutput(torch.where(counts, losses, 0.0).sum() / weight.clamp(min=1), preds, y, weight)


def weighed(*, parallel: bool = True) -> dict[str, Any]:
    rows = (8, 7, 6, 5)
    learner = Learner.of(
        model(),
        DataLoaders(batches(rows), batches(rows)),
        by_token,
        optimizer(torch.optim.SGD, lr=0.1),
        metrics={"balanced": Confusion(3)},
        engine=engine(parallel=parallel),
    )
    found = state_told(learner)
    stats = evaluate(learner, learner.init(), batches((5, 2)))
    return {**found, "evaluated": (stats.loss, dict(stats.metrics), stats.samples)}


@pytest.mark.sweep
@pytest.mark.parametrize("size", [2, 4])
def test_weights_that_are_no_rows_and_metrics_of_a_phase_are_those_of_one_process(size: int) -> None:
    alone = weighed(parallel=False)
    found = launch(weighed_in_parallel, size)
    for one in found:
        assert one["history"] == found[0]["history"]
        for name, tensor in alone["params"].items():
            torch.testing.assert_close(one["params"][name], tensor, rtol=1e-5, atol=1e-6)
        for mine, theirs in zip(one["history"], alone["history"], strict=True):
            assert mine[3] == theirs[3]
            assert mine[1] == pytest.approx(theirs[1], rel=1e-5)
            assert mine[2] == pytest.approx(theirs[2], rel=1e-6)
        assert one["evaluated"][0] == pytest.approx(alone["evaluated"][0], rel=1e-5)
        assert one["evaluated"][1:] == alone["evaluated"][1:]


def weighed_in_parallel() -> dict[str, Any]:
    return weighed()


# -- 14: several objectives -------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(6, 6)
        self.judge = nn.Linear(6, 1)


def judging(model: Two, batch: Batch) -> StepOutput[Any]:
    real, made = model.judge(batch[0]), model.judge(model.maker(batch[0]).detach())
    return StepOutput((made - real).mean() + 0.1 * (real**2).mean())


def making(model: Two, batch: Batch) -> StepOutput[Any]:
    return StepOutput(-model.judge(model.maker(batch[0])).mean())


def objectives(rows: tuple[int, ...], *, parallel: bool = True) -> dict[str, Any]:
    torch.manual_seed(4)
    update = {name: optimizer(torch.optim.SGD, lr=0.05, params=f"{name}.*") for name in ("judge", "maker")}
    learner = Learner.of(
        Two(),
        DataLoaders(batches(rows), batches(rows)),
        objectives=[Objective("judge", judging, update["judge"]), Objective("maker", making, update["maker"])],
        engine=engine(parallel=parallel),
    )
    return state_told(learner)


def objectives_of_both(rows: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    return objectives(ROWS), objectives(rows)


def objectives_by_hand() -> dict[str, Tensor]:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(4)
    module = Two()
    optims = {name: torch.optim.SGD(getattr(module, name).parameters(), lr=0.05) for name in ("judge", "maker")}
    for _ in range(2):
        for batch in batches():
            x, y = batch
            part = x[rank * len(x) // size : (rank + 1) * len(x) // size], y
            for name, task in (("judge", judging), ("maker", making)):
                module.zero_grad()
                loss: Any = task(module, part).loss
                loss.backward()
                for one in getattr(module, name).parameters():
                    dist.all_reduce(one.grad.div_(size))
                optims[name].step()
    return {name: one.detach().clone() for name, one in module.named_parameters()}


@pytest.mark.sweep
@pytest.mark.parametrize("size", [2, 4])
def test_objectives_over_ranks_are_the_hand_written_loop_and_close_to_one_process(size: int) -> None:
    by_hand = launch(objectives_by_hand, size)
    rows = (8, 7, 5, 3)  # of the last of which one of four ranks has none
    alone = objectives(rows, parallel=False)
    for even, found in launch(objectives_of_both, size, rows):
        check_same(even, by_hand[0], size)
        for name, one in alone["params"].items():
            torch.testing.assert_close(found["params"][name], one, rtol=1e-5, atol=1e-6)


# -- rules that see each batch, and what cannot be --------------------------------------------------------------------


def skipping(*, parallel: bool = True) -> dict[str, Any]:
    data = batches()
    data[3] = torch.full_like(data[3][0], torch.inf), data[3][1]
    update = chain(skip_nonfinite(), accumulate(2), optimizer(torch.optim.SGD, lr=0.1))
    task = supervised(nn.functional.cross_entropy)
    return state_told(Learner.of(model(), DataLoaders(data, None), task, update, engine=engine(parallel=parallel)))


@pytest.mark.sweep
def test_a_rule_before_accumulate_sees_the_gradients_of_whole_batches() -> None:
    alone = skipping(parallel=False)
    for found in launch(skipping_in_parallel, 2):
        assert found["step"] == alone["step"]
        for name, one in alone["params"].items():
            torch.testing.assert_close(found["params"][name], one, rtol=1e-5, atol=1e-6)


def skipping_in_parallel() -> dict[str, Any]:
    return skipping()


def test_one_process_without_a_launcher_trains_as_without() -> None:
    found, alone = accumulated(ROWS, parallel=True), accumulated(ROWS, parallel=False)
    assert all(torch.equal(found["params"][name], one) for name, one in alone["params"].items())
    assert found["history"] == alone["history"]


def test_what_cannot_be_meant_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="parallel is 'both'"):
        Engine(parallel="both")  # type: ignore[arg-type] # that is what is tested
    with pytest.raises(ConfigError, match="capture records a batch on one device"):
        Engine(parallel="data", capture=True)
