"""Out of memory: the error says what was there, the state before is whole, and `oom="halve"` tries again in parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    BatchOutput,
    DataLoaders,
    Engine,
    Learner,
    Objective,
    StepOutput,
    TrainState,
    Transition,
    accuracy,
    advance,
    carry,
    evaluate,
    on,
    state_before,
    supervised,
)
from nntrain.errors import ConfigError, ConfigWarning
from nntrain.live import halving
from nntrain.live.resident import out_of_memory
from nntrain.metrics import Metric
from nntrain.update import accumulate, chain, clip_norm, loss_scale, optimizer
from nntrain.values.trees import joined_rows, rows_between

Batch = tuple[Tensor, Tensor]


def data(sizes: tuple[int, ...] = (8, 8, 5), seed: int = 0) -> list[Batch]:
    source = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 4, generator=source, dtype=torch.float64), torch.randint(0, 3, (size,), generator=source))
        for size in sizes
    ]


class _Runs(torch.autograd.Function):
    """Runs out of memory in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if grads[0].shape[0] > Small.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return grads[0]


class Small(nn.Module):
    """Has memory for so many rows, in the forward or the backward pass."""

    rows: ClassVar[int] = 1000
    where: ClassVar[str] = "forward"
    seen: ClassVar[list[int]] = []

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 5), norm or nn.Tanh(), nn.Linear(5, 3)).double()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        if self.where == "forward" and len(x) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        self.seen.append(len(x))
        found: Tensor = self.layers(x)
        return _Runs.apply(found) if self.where == "backward" and self.training else found


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    def set_to(rows: int, where: str = "forward") -> None:
        monkeypatch.setattr(Small, "rows", rows)
        monkeypatch.setattr(Small, "where", where)
        monkeypatch.setattr(Small, "seen", [])

    set_to(1000)
    return set_to


def learner_of(batches: Any = None, oom: Any = "halve", update: Any = None, **more: Any) -> Learner[Any]:
    batches = data() if batches is None else batches
    given: dict[str, Any] = {"metrics": {"accuracy": accuracy}, "engine": Engine(oom=oom), **more}
    return Learner.of(
        given.pop("model", None) or Small(),
        DataLoaders(batches, batches[:2]),
        given.pop("task", None) or supervised(cross_entropy),
        update or optimizer(torch.optim.AdamW, lr=0.1),
        **given,
    )


def weights(state: TrainState) -> dict[str, Tensor]:
    return dict(state.params)


def assert_close(one: TrainState, other: TrainState) -> None:
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, other.params[name], rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(one.history, other.history, strict=True):
        assert (mine.samples, mine.batches, mine.phase) == (theirs.samples, theirs.batches, theirs.phase)
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-9)
        assert mine.metrics == pytest.approx(dict(theirs.metrics), rel=1e-6)


# -- the error ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_an_error_says_what_was_in_memory_and_the_state_before_goes_on(small: Any, where: str) -> None:
    learner = learner_of(oom="raise")
    straight = learner.replace().fit(1, print_stats=False).state
    kept: list[TrainState] = []
    state = learner.init(epochs=1)
    while state.progress.step < 1:
        kept.append(state)
        state = advance(learner, state).state
    small(6, where)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        advance(learner, state)
    (note,) = [note for note in caught.value.__notes__ if "in memory were" in note]
    assert f"parameters {43 * 8} B" in note
    assert "buffers 4 B" in note
    assert f"the optimizer's memory {2 * 43 * 8 + 4 * 4} B" in note
    assert "copies of 1 kept state 348 B" in note
    assert f"this batch (tuple(float64[8, 4], int64[8])) {8 * 4 * 8 + 8 * 8} B" in note
    small(1000)
    before = state_before(caught.value)
    assert before is not None
    assert before == state
    while before.progress.at != "finished":
        before = advance(learner, before).state
    assert before == straight


class Fails(torch.optim.AdamW):
    """Runs out of memory in its first step, after so many tensors of its memory."""

    made: ClassVar[int] = 0

    def _init_group(self, group: Any, *lists: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] # whatever lists torch has
        if Fails.made:
            for param in group["params"][: Fails.made]:
                self.state[param] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(param)}
            Fails.made = 0
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return super()._init_group(group, *lists)  # type: ignore[no-untyped-call] # torch leaves it untyped


def test_of_an_optimizer_s_first_step_the_state_before_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(update=optimizer(Fails, lr=0.1))
    straight = learner.replace().fit(1, print_stats=False).state
    monkeypatch.setattr(Fails, "made", 2)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        learner.fit(1, print_stats=False)
    assert any("in memory were parameters 344 B" in note for note in caught.value.__notes__)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.step == 0
    while before.progress.at != "finished":
        before = advance(learner, before).state
    assert before == straight


@pytest.mark.parametrize(
    ("error", "is_of_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_which_errors_are_of_memory(error: Exception, is_of_memory: bool) -> None:
    assert out_of_memory(error) is is_of_memory


def test_torch_s_own_error_of_the_cpu_is_one() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


# -- in parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_law_12_a_batch_in_parts_is_the_batch(small: Any, where: str, rows: int) -> None:
    seen: list[BatchOutput] = []
    notes: list[str] = []

    @on("after_batch")
    def looks(state: TrainState, batch: object, output: BatchOutput) -> TrainState:
        seen.append(output)
        return state

    def tells(transition: Transition) -> None:
        notes.extend(note.text for note in transition.notes if note.code == "memory.halved")

    learner = learner_of(
        update=chain(clip_norm(0.5), optimizer(torch.optim.AdamW, lr=0.1)), subs=[looks], sinks=[tells]
    )
    whole = learner.fit(2, print_stats=False).state
    outputs, seen = seen[:], []
    assert not notes
    seen.clear()
    small(rows, where)
    parts = learner.replace(subs=[looks]).fit(2, print_stats=False).state
    assert_close(parts, whole)
    assert where == "backward" or max(Small.seen) == {1: 1, 2: 2, 3: 2, 5: 4}[rows]
    for mine, theirs in zip(seen, outputs[: len(seen)], strict=True):
        assert isinstance(mine.preds, Tensor)
        assert isinstance(theirs.preds, Tensor)
        torch.testing.assert_close(mine.preds, theirs.preds, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine.loss, theirs.loss, rtol=1e-9, atol=1e-9)
    divisions = {1: 3, 2: 2, 3: 2, 5: 1}[rows]
    assert len(notes) == divisions * (2 if where == "forward" else 1)  # in training, and in eval
    assert "float64[8, 4]" in notes[0]
    assert f"{2**divisions} parts" in notes[divisions - 1]


def test_the_division_is_kept_and_what_a_failed_part_wrote_is_put_back(small: Any) -> None:
    small(4)
    learner = learner_of(data((8, 8, 8)))
    state = learner.fit(1, print_stats=False).state
    assert Small.seen == [4] * 6 + [4] * 4
    assert state.buffers["calls"] == 6 + 4


def test_accumulated_batches_in_parts_are_the_same_window(small: Any) -> None:
    rule = chain(accumulate(2), clip_norm(0.5), optimizer(torch.optim.SGD, lr=0.1))
    learner = learner_of(data((8, 4, 8)), update=rule)
    whole = learner.replace().fit(2, print_stats=False).state
    small(3)
    parts = learner.fit(2, print_stats=False).state
    assert_close(parts, whole)
    assert parts.progress == whole.progress


def test_a_scaled_loss_is_scaled_in_each_part(small: Any) -> None:
    rule = chain(loss_scale(2.0**10), optimizer(torch.optim.SGD, lr=0.1))
    learner = learner_of(update=rule)
    whole = learner.replace().fit(1, print_stats=False).state
    small(3)
    assert_close(learner.fit(1, print_stats=False).state, whole)


class Count(Metric[int]):
    """Counts the rows of a phase's predictions."""

    def init(self) -> int:
        return 0

    def update(self, memory: int, output: StepOutput[Any]) -> int:
        assert len(output.preds) == len(output.target)
        return memory + len(output.preds) ** 2

    def merge(self, one: int, other: int) -> int:
        return one + other

    def compute(self, memory: int) -> float:
        return float(memory)


def by_tokens(model: nn.Module, batch: Mapping[str, Any]) -> StepOutput[dict[str, Tensor]]:
    """A mean over the rows that count, of which a part of the batch may have none; two terms and names."""
    preds = model(batch["x"])
    each = cross_entropy(preds, batch["y"], reduction="none") * batch["counts"]
    weight = batch["counts"].sum()
    loss = each.sum() / weight
    size = (preds**2).mean()
    return StepOutput(loss + 0 * size, {"scores": preds, "size": size}, batch["names"], weight, {"each": loss})


def test_a_part_of_which_no_row_counts_adds_nothing(small: Any) -> None:
    batches = [
        {
            "x": x,
            "y": y,
            "counts": torch.tensor([1.0, 0, 1, 1, 0, 0, 0, 0][: len(x)]),
            "names": list("abcdefgh"[: len(x)]),
        }
        for x, y in data()
    ]
    seen: list[BatchOutput] = []

    @on("after_batch")
    def looks(state: TrainState, batch: object, output: BatchOutput) -> TrainState:
        seen.append(output)
        return state

    learner = learner_of(batches, task=by_tokens, metrics={}, subs=[looks])
    whole = learner.replace().fit(1, print_stats=False).state
    theirs = seen[0]
    seen.clear()
    small(2)
    assert_close(learner.fit(1, print_stats=False).state, whole)
    mine: Any = seen[0]
    torch.testing.assert_close(mine.preds["scores"], theirs.preds["scores"], rtol=1e-9, atol=1e-9)  # type: ignore[index] # as the task has it
    assert [*mine.preds] == ["scores", "size"]


def test_metrics_of_a_phase_see_whole_batches(small: Any) -> None:
    learner = learner_of(metrics={"rows": Count()})
    small(2)
    state = learner.fit(1, print_stats=False).state
    assert [stats.metrics["rows"] for stats in state.history] == [64 + 64 + 25, 64 + 64]


@pytest.mark.sweep
def test_a_compiled_pass_is_divided_too(small: Any) -> None:
    learner = learner_of(engine=Engine(oom="halve", compile={"backend": "eager"}))
    whole = learner.replace().fit(1, print_stats=False).state
    small(3)
    assert_close(learner.fit(1, print_stats=False).state, whole)


def test_noise_is_drawn_anew_after_a_failure(small: Any) -> None:
    learner = learner_of(model=Small(nn.Dropout(0.5)))
    small(4)
    kept = learner.replace().fit(1, print_stats=False).state
    assert learner.fit(1, print_stats=False).state == kept


def test_evaluate_is_divided_too(small: Any) -> None:
    learner = learner_of()
    state = learner.fit(1, print_stats=False).state
    small(3)
    assert evaluate(learner, state).loss == pytest.approx(state.history[-1].loss, rel=1e-9)


# -- where it ends ----------------------------------------------------------------------------------------------------


def test_a_row_alone_that_runs_out_of_memory_is_raised_with_the_state_before(small: Any) -> None:
    small(0)
    learner = learner_of()
    with pytest.raises(torch.OutOfMemoryError) as caught:
        learner.fit(1, print_stats=False)
    assert any("tried the batch in 8 parts, and cannot divide it further" in note for note in caught.value.__notes__)
    assert any("in memory were" in note for note in caught.value.__notes__)
    before = state_before(caught.value)
    assert before is not None
    assert before.tensors == learner.replace().init().tensors


def test_there_is_a_limit(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halving, "MOST_PARTS", 2)
    small(2)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        learner_of().fit(1, print_stats=False)
    assert any("in 2 parts" in note for note in caught.value.__notes__)


def test_a_batch_that_has_no_rows_to_divide_by_is_named(small: Any) -> None:
    small(2)
    batches = [(x, y, torch.zeros(3)) for x, y in data()]

    def task(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> StepOutput[Tensor]:
        preds = model(batch[0])
        return StepOutput(cross_entropy(preds, batch[1]), preds, batch[1])

    with pytest.raises(torch.OutOfMemoryError) as caught:
        learner_of(batches, task=task).fit(1, print_stats=False)
    assert any(
        "oom='halve' cannot divide the batch: [2] has 3 rows, and the first tensor 8" in note
        for note in caught.value.__notes__
    )


def test_another_error_is_none_of_memory() -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as caught:
        learner_of(task=task).fit(1, print_stats=False)
    assert not any("memory" in note for note in caught.value.__notes__)


def test_batch_norm_is_warned_of_when_a_batch_is_divided(small: Any) -> None:
    learner = learner_of(model=Small(nn.BatchNorm1d(5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.fit(1, print_stats=False)
    small(4)
    with pytest.warns(ConfigWarning, match=r"layers\.1 takes the mean and variance of each part"):
        learner.fit(1, print_stats=False)


def test_what_cannot_be_divided_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="oom is 'half'"):
        Engine(oom="half")  # type: ignore[arg-type] # as somebody may write
    with pytest.raises(ConfigError, match="capture launches"):
        Engine(oom="halve", capture=True)
    with pytest.raises(ConfigError, match="each rank"):
        Engine(oom="halve", parallel="data")
    with pytest.raises(ConfigError, match="LBFGS"):
        learner_of(update=optimizer(torch.optim.LBFGS, lr=0.1)).init()

    @carry
    def carrying(model: nn.Module, batch: Batch, kept: Tensor | None) -> tuple[StepOutput[Tensor], Tensor]:
        raise AssertionError

    with pytest.raises(ConfigError, match="carries something"):
        learner_of(task=carrying).init()
    objective = Objective("one", supervised(cross_entropy), optimizer(torch.optim.SGD, lr=0.1))
    with pytest.raises(ConfigError, match="several objectives"):
        Learner.of(Small(), DataLoaders(data(), data()), objectives=[objective], engine=Engine(oom="halve")).init()


# -- joining ----------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: Tensor
    second: object


TREES: dict[str, Any] = {
    "a tensor": torch.arange(6.0),
    "a tree": {"a": [torch.arange(12.0).reshape(6, 2)], "names": list("abcdef"), "option": "x", "none": None},
    "a named tuple": Pair(torch.arange(6.0), tuple("abcdef")),
    "rows behind": torch.arange(18.0).reshape(3, 6).T,
}


@pytest.mark.parametrize("what", TREES)
def test_what_was_taken_apart_is_joined_again(what: str) -> None:
    tree = TREES[what]
    parts = [rows_between(tree, 0, 2), rows_between(tree, 2, 3), rows_between(tree, 3, 6)]
    found = joined_rows(parts, [2, 1, 3], lambda means: means[0])
    assert type(found) is type(tree)
    torch.testing.assert_close(found, tree) if isinstance(tree, Tensor) else None
    assert repr(found) == repr(tree)
