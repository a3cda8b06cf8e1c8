"""The kit's checks of sinks, metrics, loaders and schedules, on what breaks them and what does not."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain import (
    CancelBatch,
    DataLoaders,
    EarlyStopping,
    Interest,
    Key,
    Metric,
    NanGuard,
    Rollback,
    StepOutput,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    on,
)
from nntrain.data import load_digits
from nntrain.errors import ConfigError
from nntrain.metrics import from_torchmetrics
from nntrain.subscribers.protocol import AnswerBatch
from nntrain.testing import LawBrokenError, check_loader, check_metric, check_schedule, check_sink, clashes
from nntrain.values.record import evolved
from tests.laws.strategies import KeyedLoader
from tests.metrics.own import CLASSES, F1, OWN


class KeepsAll:
    def __init__(self) -> None:
        self.told: list[Transition] = []

    def __call__(self, transition: Transition, /) -> None:
        self.told.append(transition)


class KeepsStates:
    interest = Interest(every_batch=False)

    def __init__(self) -> None:
        self.states: list[TrainState] = []

    def __call__(self, transition: Transition, /) -> None:
        if transition.stats is not None:
            self.states.append(transition.state)


def expects_stats(transition: Transition, /) -> None:
    assert transition.stats is not None


def expects_success(transition: Transition, /) -> None:
    if transition.error is not None:
        raise transition.error


def draws(transition: Transition, /) -> None:
    random.random()


def sets_threads(transition: Transition, /) -> None:
    torch.set_grad_enabled(True)


def writes_preds(transition: Transition, /) -> None:
    if transition.output is not None and isinstance(transition.output.preds, Tensor):
        transition.output.preds.zero_()


def writes_borrowed(transition: Transition, /) -> None:
    with transition.state.borrow() as tensors:
        tensors["0.weight"].mul_(2)


def writes_weights(transition: Transition, /) -> None:
    def write(snapshot: Any) -> None:
        snapshot.params["0.weight"].detach().mul_(2)

    transition.state.tensors.read(write)


class Groups:
    def __init__(self) -> None:
        self.interest = Interest(batches=self.batches)

    def __call__(self, transition: Transition, /) -> None:
        pass

    def batches(self, run: object, ran: Any, /) -> None:
        for one in ran:
            one.metrics["f1"]


BROKEN_SINKS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "keeps all": (KeepsAll, "no waste", "it keeps 3 states"),
    "keeps states": (KeepsStates, "no waste", "each of which costs a copy of the weights"),
    "expects statistics": (lambda: expects_stats, "observers", "at before_fit of epoch 0, train, batch 0 it failed"),
    "expects success": (lambda: expects_success, "observers", "it failed: _TroubleError: an error at its batch 0"),
    "groups": (Groups, "observers", "given batches in a group it failed: KeyError"),
    "draws": (lambda: draws, "manners", "changed Python's global generator"),
    "sets the grad mode": (lambda: sets_threads, "manners", "changed grad mode"),
    "writes predictions": (lambda: writes_preds, "immutability", "wrote to the output"),
    "writes what it borrows": (lambda: writes_borrowed, "immutability", "wrote to a borrowed tensor"),
    "writes the weights": (lambda: writes_weights, "immutability", "wrote to the tensors of the state"),
}


@pytest.mark.parametrize(("make", "law", "said"), BROKEN_SINKS.values(), ids=BROKEN_SINKS)
def test_sinks_that_break_a_law_are_told(make: Callable[[], Any], law: str, said: str) -> None:
    mode = torch.is_grad_enabled()
    try:
        with pytest.raises(LawBrokenError, match=said) as caught:
            check_sink(make)
    finally:
        torch.set_grad_enabled(mode)
    assert caught.value.law == law
    assert "The smallest run that shows it: epochs=" in str(caught.value)


# -- metrics -----------------------------------------------------------------------------------------------------------


def error_of(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).abs().mean()


def pairs(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 2, generator=source), torch.randn(count, 2, generator=source)


@pytest.mark.parametrize(
    "metric", [accuracy, nn.functional.cross_entropy, nn.CrossEntropyLoss()], ids=["accuracy", "function", "module"]
)
def test_means_over_samples_pass(metric: Any, device: torch.device) -> None:
    check_metric(metric, device=device)


def test_samples_are_ones_own() -> None:
    check_metric(error_of, samples=pairs)
    with pytest.raises(RuntimeError):
        check_metric(error_of)  # of class numbers it cannot be taken


class Recalls:
    """Keeps count, as metric objects of other libraries do."""

    def __init__(self) -> None:
        self.seen = 0.0

    def __call__(self, preds: Tensor, target: Tensor) -> Tensor:
        self.seen += 1
        return torch.tensor(self.seen)


BROKEN_METRICS: dict[str, tuple[Any, str, str]] = {
    "a float": (lambda p, t: 0.5, "answers", r"it gave 0.5 \(float\)"),
    "one a sample": (lambda p, t: p.argmax(1) == t, "answers", "expected one real number, as a 0-dim tensor"),
    "a sum": (lambda p, t: (p.argmax(1) == t).sum(), "means", "is no mean over the samples"),
    "a square": (lambda p, t: accuracy(p, t) ** 2, "means", "is no mean over the samples"),
    "the first": (lambda p, t: p[0, 0] * len(p) / len(p) ** 2, "order", "depends on the order of the samples"),
    "the last": (lambda p, t: (p[-1] * p[0]).sum() * 0 + p[-1, 0] - p[0, 0], "order", "depends on the order"),
    "in place": (lambda p, t: p.softmax(1).mean() + p.mul_(2).mean(), "immutability", "wrote to its arguments"),
    "of the target": (lambda p, t: t.clamp_(max=0).float().mean(), "immutability", "wrote to its arguments"),
    "a memory": (Recalls(), "determinism", "for the same"),
    "chance": (lambda p, t: torch.rand(()), "determinism", "for the same"),
    "a print": (lambda p, t: print("x") or accuracy(p, t), "effects", "prints"),
}


@pytest.mark.parametrize(("metric", "law", "said"), BROKEN_METRICS.values(), ids=BROKEN_METRICS)
def test_metrics_that_break_a_law_are_told(metric: Any, law: str, said: str) -> None:
    with pytest.raises(LawBrokenError, match=said) as caught:
        check_metric(metric)
    assert caught.value.law == law


class Wrong(F1):
    """A metric of the whole phase; which of its methods is wrong is given by name."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self.methods = methods

    def __getattribute__(self, name: str) -> Any:
        methods = object.__getattribute__(self, "__dict__").get("methods", {})
        return methods[name] if name in methods else object.__getattribute__(self, name)


class Grows(Metric[Any]):
    """A mean of the batches' values: of how they were cut."""

    def init(self) -> Any:
        return torch.zeros(()), 0

    def update(self, memory: Any, output: StepOutput[Any], /) -> Any:
        return memory[0] + output.preds.amax(), memory[1] + 1

    def merge(self, one: Any, other: Any, /) -> Any:
        return one[0] + other[0], one[1] + other[1]

    def compute(self, memory: Any, /) -> Any:
        return memory[0] / max(memory[1], 1)


class Last(Metric[Any]):
    """The score of the last sample: right for one process, and another one for several."""

    def init(self) -> Any:
        return torch.tensor(torch.nan)

    def update(self, memory: Any, output: StepOutput[Any], /) -> Any:
        return output.preds[-1, 0]

    def merge(self, one: Any, other: Any, /) -> Any:
        return torch.where(other.isnan(), one, other)

    def compute(self, memory: Any, /) -> Any:
        return memory


def three_classes(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(count, CLASSES, generator=source), torch.randint(0, CLASSES, (count,), generator=source)


@pytest.mark.parametrize("name", OWN)
def test_metrics_of_a_phase_pass(name: str, device: torch.device) -> None:
    check_metric(OWN[name](), samples=three_classes, examples=8, device=device)


def test_metrics_of_a_phase_pass_with_outputs_of_ones_own() -> None:
    source = torch.Generator().manual_seed(0)
    outputs = [StepOutput(None, *three_classes(count, source), count) for count in (3, 1, 4)]
    check_metric(F1(), outputs, examples=5)
    with pytest.raises(LawBrokenError, match=r"(?s)breaks the law of merge.*the 3 outputs that were given"):
        check_metric(Wrong(merge=lambda one, other: one), outputs, examples=5)


def test_metrics_of_torchmetrics_pass() -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: nntrain[torchmetrics]")
    from torchmetrics.classification import MulticlassF1Score

    check_metric(from_torchmetrics(MulticlassF1Score(CLASSES)), samples=three_classes, examples=5)


def _in_place(memory: Tensor, output: StepOutput[Any]) -> Tensor:
    return memory.add_(len(output.preds))


BROKEN_WHOLE: dict[str, tuple[Any, str, str]] = {
    "no tree": (Wrong(init=object), "answers", "is refused: init of metric metric returned object"),
    "no number": (Wrong(compute=lambda memory: memory), "answers", r"is refused: compute .* returned int64\[3, 3\]"),
    "in place": (Wrong(update=_in_place), "immutability", "is refused: update of metric metric writes to the memory"),
    "of the batch": (
        Wrong(update=lambda m, o: m + o.preds.mul_(2).long().sum()),
        "immutability",
        "what the batch gave",
    ),
    "merge in place": (
        Wrong(merge=lambda one, other: one.add_(other)),
        "immutability",
        "merge of metric metric writes",
    ),
    "batches": (Grows(), "batching", "in several batches"),
    "merge": (Wrong(merge=lambda one, other: one - other), "merge", "where parts, one of them empty, were merged"),
    "order": (Last(), "order", "where the last part came first"),
    "chance": (Wrong(compute=lambda memory: torch.rand(())), "determinism", "for the same"),
    "a print": (Wrong(compute=lambda memory: print("x") or memory.sum()), "effects", "prints"),
}


@pytest.mark.parametrize(("metric", "law", "said"), BROKEN_WHOLE.values(), ids=BROKEN_WHOLE)
def test_metrics_of_a_phase_that_break_a_law_are_told(metric: Any, law: str, said: str) -> None:
    with pytest.raises(LawBrokenError, match=said) as caught:
        check_metric(metric, samples=three_classes, examples=5)
    assert caught.value.law == law


# -- loaders -----------------------------------------------------------------------------------------------------------

BATCHES = [(torch.full((2, 1), float(number)), torch.zeros(2, dtype=torch.long)) for number in range(5)]


def test_loaders_that_break_no_law_pass() -> None:
    digits = load_digits()
    check_loader(lambda: DataLoaders.from_hf_dd(digits, batch_size=128).train, examples=3)
    check_loader(lambda: KeyedLoader(BATCHES))


class Loads:
    """A loader that is right, for others to get wrong."""

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        source = torch.Generator().manual_seed(key.fold_in(epoch).bits)
        for index in torch.randperm(len(BATCHES), generator=source).tolist()[start:]:
            yield BATCHES[index]


class ShufflesGlobally(Loads):
    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        for index in torch.randperm(len(BATCHES)).tolist()[start:]:
            yield BATCHES[index]


class SeedsPython(Loads):
    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        random.seed(key.bits)
        yield from random.sample(BATCHES, len(BATCHES))[start:]


class IgnoresTheStart(Loads):
    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        return super().batches(key, epoch, 0)


class NoiseFromTheStart(Loads):
    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        source = torch.Generator().manual_seed(key.fold_in(epoch).bits)
        for inputs, target in super().batches(key, epoch, start):
            yield inputs + torch.randn(inputs.shape, generator=source), target


class GoesOn(Loads):
    def __init__(self) -> None:
        self.read = 0

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        self.read += 1
        return super().batches(key, epoch + self.read, start)


class KnowsItself(Loads):
    """Its order depends on how many were made before: always alike, where an id would at times give two one order."""

    numbers = count()

    def __init__(self) -> None:
        self.number = next(self.numbers)

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        return super().batches(key.fold_in(self.number), epoch, start)


class SharesAPlace(Loads):
    place = 0

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        self.place = start
        while self.place < len(BATCHES):
            self.place += 1
            yield BATCHES[self.place - 1]


class SharesABuffer(Loads):
    def __init__(self) -> None:
        self.order: list[int] = []

    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        source = torch.Generator().manual_seed(key.fold_in(epoch).bits)
        self.order[:] = torch.randperm(len(BATCHES), generator=source).tolist()
        for place in range(start, len(BATCHES)):
            yield BATCHES[self.order[place]]


class Empty(Loads):
    def batches(self, key: Key, epoch: int, start: int) -> Iterator[Any]:
        return iter(())


BROKEN_LOADERS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "no batch": (Empty, "answers", "gave no batch"),
    "torch's generator": (ShufflesGlobally, "manners", "changed torch's global generator"),
    "Python's generator": (SeedsPython, "manners", "changed Python's global generator"),
    "no start": (IgnoresTheStart, "resume", "another one than in an epoch read from its beginning"),
    "noise in order": (NoiseFromTheStart, "resume", "resumed runs differ"),
    "a memory": (GoesOn, "determinism", "is another one when read again after another epoch"),
    "itself": (KnowsItself, "determinism", "is another one when read by another loader"),
    "a place": (SharesAPlace, "branch", "when the next epoch is read beside it"),
    "a buffer": (SharesABuffer, "branch", "two readers share a memory"),
}


@pytest.mark.parametrize(("make", "law", "said"), BROKEN_LOADERS.values(), ids=BROKEN_LOADERS)
def test_loaders_that_break_a_law_are_told(make: Callable[[], Any], law: str, said: str) -> None:
    with pytest.raises(LawBrokenError, match=said) as caught:
        check_loader(make)
    assert caught.value.law == law


# -- schedules ---------------------------------------------------------------------------------------------------------


class Warms:
    """Counts its calls instead of looking at the step."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return 0.1 / self.calls


class Least:
    """The least that was ever given: it matters who asked before."""

    def __init__(self) -> None:
        self.least = 1.0

    def __call__(self, step: int) -> float:
        self.least = min(self.least, 1 / (1 + step))
        return self.least


BROKEN_SCHEDULES: dict[str, tuple[Any, str, str]] = {
    "negative": (lambda step: 0.1 - step, "answers", "expected a finite number of 0 or more"),
    "at its end": (lambda step: 0.1 if step < 999 else float("nan"), "answers", "it gave nan"),
    "counts": (Warms(), "determinism", "and then"),
    "least": (Least(), "order", "depends on the order of its calls"),
    "chance": (lambda step: random.random(), "determinism", "Python's global generator"),
}


@pytest.mark.parametrize(("schedule", "law", "said"), BROKEN_SCHEDULES.values(), ids=BROKEN_SCHEDULES)
def test_schedules_that_break_a_law_are_told(schedule: Any, law: str, said: str) -> None:
    with pytest.raises(LawBrokenError, match=said) as caught:
        check_schedule(schedule)
    assert caught.value.law == law


@pytest.mark.sweep
def test_schedules_that_break_no_law_pass() -> None:
    check_schedule(lambda step: 0.1 / (1 + step))
    check_schedule(lambda step: 0)


@pytest.mark.sweep
def test_what_the_garbage_collector_runs_is_not_the_schedule_s_doing() -> None:
    def timed(phase: str, _: object) -> None:
        time.perf_counter()

    def litters(step: int) -> float:
        return 0.1 + 0 * len([[] for _ in range(2 * gc.get_threshold()[0])])

    before = gc.get_threshold()
    gc.set_threshold(700)  # mypy, run by other tests in this process, leaves it at 200,000
    gc.callbacks.append(timed)
    try:
        check_schedule(litters)
    finally:
        gc.callbacks.remove(timed)
        gc.set_threshold(*before)
    assert gc.isenabled()


# -- order -------------------------------------------------------------------------------------------------------------


class SkipsOdd(Subscriber[object]):
    def before_batch(self, state: TrainState, batch: object) -> AnswerBatch:
        return CancelBatch(reason="odd") if state.progress.batch % 2 else state


@pytest.mark.sweep
def test_pairs_that_do_not_commute_are_told_and_others_are_not() -> None:
    makes: list[Callable[[], Any]] = [
        lambda: EarlyStopping(patience=1),
        NanGuard,
        lambda: Rollback(every=2, lr_factor=0.5, at_most=1),
        SkipsOdd,
    ]
    found = clashes(makes)
    assert [(one.first, one.second) for one in found] == [("NanGuard", "Rollback"), ("Rollback", "SkipsOdd")]
    assert "asked in this order here, the other way round there" in found[0].said
    assert "The smallest run that shows it" in found[0].said


def test_two_that_share_no_event_commute_by_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nntrain.testing.commutativity.check_examples", lambda *_: pytest.fail("ran"))
    assert clashes([lambda: EarlyStopping(patience=1), SkipsOdd]) == ()


# -- what cannot be meant ----------------------------------------------------------------------------------------------

MEANT: dict[str, tuple[Callable[[], object], str]] = {
    "a number for a metric": (
        lambda: check_metric(untyped(3)),
        r"metric is 3; expected a function of \(preds, target\)",
    ),
    "outputs for a function": (
        lambda: check_metric(accuracy, [StepOutput(None)]),
        r"outputs are for a Metric; a function of \(preds, target\) is given samples",
    ),
    "no outputs": (lambda: check_metric(F1(), []), "outputs is empty; expected what a few batches gave"),
    "a metric's class": (lambda: check_metric(untyped(F1)), "metric metric is the class F1; expected an instance"),
    "a word for a schedule": (
        lambda: check_schedule(untyped("cosine")),
        "schedule is 'cosine'; expected a function of",
    ),
    "a loader itself": (lambda: check_loader(untyped([1, 2])), r"make is \[1, 2\]; expected what makes a new loader"),
    "what makes no loader": (
        lambda: check_loader(untyped(list)),
        r"make gave \[\]; expected a Loader, which has batches",
    ),
    "no sink": (lambda: check_sink(untyped(lambda: None)), "What make gives is None; expected a sink"),
    "a subscriber for its list": (
        lambda: clashes(untyped(NanGuard)),
        r"makes is <class .*; expected a list: clashes\(",
    ),
    "subscribers themselves": (
        lambda: clashes(untyped([NanGuard()])),
        "One of makes is <.*; expected what makes a new",
    ),
}


def untyped(given: object) -> Any:
    """Give it to somebody who does not type-check."""
    return given


@pytest.mark.parametrize(("call", "said"), MEANT.values(), ids=MEANT)
def test_what_cannot_be_meant_is_refused_before_anything_runs(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call()


def test_what_is_found_out_about_two_is_not_warned_of_too(recwarn: pytest.WarningsRecorder) -> None:
    @on("after_epoch")
    def anew(state: TrainState) -> TrainState:
        return evolved(state, key=state.key.fold_in(1))

    @on("after_epoch")
    def again(state: TrainState) -> TrainState:
        return evolved(state, key=state.key.fold_in(2))

    assert clashes([lambda: anew, lambda: again], examples=2)
    assert not recwarn.list
