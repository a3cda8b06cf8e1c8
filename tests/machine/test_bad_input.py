"""Bad input: a clear error that says what was given and what to do, before any work is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Completed,
    DataLoaders,
    EarlyStopping,
    Interest,
    Learner,
    NNTrainError,
    PrintStats,
    Slot,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    batch_step,
    epoch_step,
    fit_step,
    on,
    state_before,
)
from nntrain.checkpoint import load, resume, save
from nntrain.errors import BusyError, ConfigError, DataError, SinkWarning, StateError, SubscriberError, VerdictError
from nntrain.values.record import Record

SOURCE = torch.Generator().manual_seed(0)
DATA = [(torch.randn(4, 3, generator=SOURCE), torch.randint(0, 2, (4,), generator=SOURCE)) for _ in range(3)]


def learner_of(**changes: Any) -> Learner[tuple[Tensor, Tensor]]:
    arguments: dict[str, Any] = {
        "model": nn.Linear(3, 2),
        "dls": DataLoaders(DATA, DATA),
        "loss_fn": cross_entropy,
        "metric_fn": accuracy,
        "optim_class": torch.optim.SGD,
        "lr": 0.1,
    }
    return Learner(**{**arguments, **changes})


def frozen() -> nn.Module:
    return nn.Linear(3, 2).requires_grad_(False)


class TwoArguments(Subscriber[object]):
    def after_epoch(self, state: TrainState, stats: object) -> TrainState:  # type: ignore[override] # the mistake
        return state


class Forgets(Subscriber[object]):
    def before_epoch(self, state: TrainState) -> TrainState:  # type: ignore[empty-body] # the mistake
        pass


class WrongScope(Subscriber[object]):
    def before_epoch(self, state: TrainState) -> CancelBatch:  # type: ignore[override] # the mistake
        return CancelBatch(reason="which?")


class WrongFit(Subscriber[object]):
    def after_fit(self, state: TrainState) -> CancelEpoch:  # type: ignore[override] # the mistake
        return CancelEpoch()


class Later(Subscriber[object]):
    async def after_epoch(self, state: TrainState) -> TrainState:  # type: ignore[override] # the mistake
        return state


class Nobody:
    """Listens to nothing."""


def no_scalar(preds: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(preds, target, reduction="none")


def no_gradient(preds: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(preds.detach(), target)


def a_float(preds: Tensor, target: Tensor) -> float:
    return cross_entropy(preds, target).item()


class Collects:
    """As torchmetrics' objects are: it remembers what it is called with."""

    def __call__(self, preds: Tensor, target: Tensor) -> Tensor:
        return preds.mean()

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Collect."""

    def compute(self) -> float:
        return 0.0

    def reset(self) -> None:
        """Forget."""


class Elsewhere:
    """A subscriber of another library, which listens to one of our events, too."""

    order = 0

    def after_epoch(self, state: TrainState) -> TrainState:
        return state

    def on_train_batch_start(self, state: TrainState) -> TrainState:
        return state


class Unheard(Subscriber[object]):
    def helper(self, state: TrainState) -> TrainState:
        return state


class Reads(Subscriber[object]):
    monitors = ("loss", "metric", "f1")

    def after_epoch(self, state: TrainState) -> TrainState:
        return state


class WatchesF1:
    interest = Interest(monitors={"f1"})

    def __call__(self, transition: Transition) -> None:
        """Take note of nothing."""


def scheduler(**options: Any) -> torch.optim.lr_scheduler.StepLR:
    return torch.optim.lr_scheduler.StepLR(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), 3, **options)


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("model's class", {"model": nn.Linear}, ConfigError, r"Pass Linear\(...\), or lambda: Linear\(...\)"),
    ("factory of one argument", {"model": lambda size: nn.Linear(3, size)}, ConfigError, "missing a required argument"),
    ("loss's class", {"loss_fn": nn.CrossEntropyLoss}, ConfigError, r"Pass an instance: CrossEntropyLoss\(...\)"),
    ("partial of it", {"loss_fn": partial(nn.MSELoss, reduction="sum")}, ConfigError, "is the class MSELoss"),
    ("optimizer as loss", {"loss_fn": torch.optim.SGD}, ConfigError, "loss_fn is the class SGD"),
    ("loss of one", {"loss_fn": lambda preds: preds.mean()}, ConfigError, "cannot be called with .preds, target"),
    ("loss of three", {"loss_fn": nn.TripletMarginLoss()}, ConfigError, "missing a required argument: 'negative'"),
    ("loss that collects", {"loss_fn": Collects()}, ConfigError, "loss_fn Collects collects"),
    ("no metrics", {"metric_fn": None}, ConfigError, "For no metrics pass {}"),
    ("list of metrics", {"metric_fn": [accuracy]}, ConfigError, 'functions: {"accuracy": accuracy}'),
    ("two metrics", {"metric_fn": (accuracy, cross_entropy)}, ConfigError, '"cross_entropy": cross_entropy}'),
    ("unnamed ones", {"metric_fn": [lambda preds, target: 0]}, ConfigError, 'functions: {"accuracy": accuracy}'),
    ("metric's name", {"metric_fn": "f1"}, ConfigError, 'functions: {"f1": f1}'),
    ("metric's class", {"metric_fn": {"loss2": nn.MSELoss}}, ConfigError, "metric loss2 is the class MSELoss"),
    ("metric that collects", {"metric_fn": {"f1": Collects()}}, ConfigError, "metric f1 is Collects, which collects"),
    ("its class", {"metric_fn": Collects}, ConfigError, "metric metric is Collects, which collects"),
    ("its method", {"metric_fn": Collects().__call__}, ConfigError, "which collects"),
    ("metric of one", {"metric_fn": {"f1": lambda preds: 0}}, ConfigError, "metric f1 .* cannot be called"),
    (
        "loss as optimizer",
        {"optim_class": cross_entropy},
        ConfigError,
        "cross_entropy cannot be called with .params, lr",
    ),
    ("scheduler as it", {"optim_class": torch.optim.lr_scheduler.StepLR}, ConfigError, "StepLR cannot be called"),
    ("optimizer without lr", {"optim_class": lambda params: None}, ConfigError, "unexpected keyword argument 'lr'"),
    ("optimizer's name", {"optim_class": "sgd"}, ConfigError, "expected a class like torch.optim.SGD"),
    ("scheduler", {"lr": scheduler()}, ConfigError, "lr is a StepLR, which sets the rates of an optimizer"),
    ("scheduler's class", {"lr": torch.optim.lr_scheduler.StepLR}, ConfigError, "lr=lambda step"),
    ("partial scheduler", {"lr": partial(torch.optim.lr_scheduler.StepLR, step_size=3)}, ConfigError, "is a StepLR"),
    ("schedule's class", {"lr": Nobody}, ConfigError, "lr is the class Nobody"),
    ("schedule of two", {"lr": lambda epoch, step: 0.1}, ConfigError, "missing a required argument: 'step'"),
    ("lr as a tensor", {"lr": torch.tensor(0.1)}, ConfigError, r"Make it a Python number by float\(...\)"),
    ("unpack", {"unpack": lambda: ()}, ConfigError, "unpack is .*; expected a function of the batch"),
    ("sub listens to none", {"subs": [Unheard()]}, SubscriberError, "Unheard listens to no event. It has helper"),
    ("sub of another library", {"subs": [Elsewhere()]}, SubscriberError, "Did you mean before_batch"),
    ("sink as sub", {"subs": [PrintStats()]}, SubscriberError, r"A sink goes into sinks=\[...\]"),
    ("sub as sink", {"sinks": [EarlyStopping()]}, ConfigError, r"Subscribers go into subs=\[...\]"),
    ("sink of none", {"sinks": [lambda: None]}, ConfigError, r"cannot be called with \(transition\)"),
    ("monitor", {"subs": [EarlyStopping("acc")]}, ConfigError, 'Name the metric: metric_fn={"acc": accuracy}'),
    ("misspelt", {"subs": [EarlyStopping("val_loss")]}, ConfigError, "monitors 'val_loss'.* Did you mean 'loss'"),
    ("own monitor", {"subs": [Reads()]}, ConfigError, "Reads monitors 'f1'; there are loss, metric"),
    ("sink's monitor", {"sinks": [WatchesF1()]}, ConfigError, "WatchesF1 monitors 'f1'"),
]
"""What is told as soon as the learner is made."""


@pytest.mark.parametrize(("name", "changes", "kind", "said"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_it_is_told_when_the_learner_is_made(
    name: str, changes: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        learner_of(**changes)


def test_what_can_be_called_is_called() -> None:
    """Functions of other shapes, and decorators which say that they take what the function within takes."""

    @wraps(nn.functional.mse_loss)
    def decorated(preds: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(preds, target, torch.ones(2))

    @wraps(lambda: None)
    def metric(*both: Tensor) -> Tensor:
        return accuracy(*both)

    def rate(step: int, *, slow: bool = True) -> float:
        return 0.1 if slow else 1.0

    seen: list[Transition] = []
    for loss_fn in (decorated, nn.CrossEntropyLoss(), partial(cross_entropy, weight=torch.ones(2))):
        learner = learner_of(
            model=partial(nn.Linear, 3, out_features=2),
            loss_fn=loss_fn,
            metric_fn={"mine": metric},
            optim_class=partial(torch.optim.SGD, momentum=0.9),
            lr=rate,
            subs=[EarlyStopping("mine", "max")],
            sinks=[seen.append],
        )
        assert isinstance(learner.fit(1, print_stats=False), Completed)


CASES: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("model", {"model": "resnet"}, ConfigError, "expected a torch.nn.Module"),
    ("models", {"model": [nn.Sequential(nn.Linear(3, 2))]}, ConfigError, r"^model is \[Sequential\( \(0\): Linear\("),
    ("model class", {"model": nn.Linear}, ConfigError, "expected a torch.nn.Module"),
    ("lazy", {"model": nn.LazyLinear(2)}, ConfigError, "uninitialised lazy parameters: weight, bias"),
    ("lazy factory", {"model": lambda: nn.LazyLinear(2)}, ConfigError, "uninitialised lazy parameters"),
    ("no factory", {"model": lambda: 3}, ConfigError, "factory returned int"),
    (
        "meta",
        {"model": nn.Linear(3, 2, device="meta")},
        ConfigError,
        "without memory: weight, bias",
    ),
    ("meta buffer", {"model": lambda: nn.BatchNorm1d(3).to("meta")}, ConfigError, "to_empty"),
    ("meta device", {"device": "meta"}, ConfigError, "has no memory to train in"),
    ("all frozen", {"model": frozen()}, ConfigError, "nothing to train"),
    ("no loaders", {"dls": DATA}, ConfigError, "list without .train"),
    ("lr nan", {"lr": float("nan")}, ConfigError, "lr is nan"),
    ("lr negative", {"lr": -0.1}, ConfigError, "lr is -0.1"),
    ("lr text", {"lr": "fast"}, ConfigError, "lr is 'fast'"),
    ("schedule", {"lr": lambda step: None}, ConfigError, r"lr\(0\) is None"),
    ("loss", {"loss_fn": None}, ConfigError, "loss_fn is None"),
    ("metric", {"metric_fn": {"acc": 3}}, ConfigError, "metric acc is 3"),
    ("no optimizer", {"optim_class": lambda params, lr: None}, ConfigError, "optim_class made NoneType"),
    (
        "optimizer made already",
        {"optim_class": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)},
        ConfigError,
        r"functools\.partial\(SGD",
    ),
    ("subs no list", {"subs": Forgets()}, ConfigError, "expected a list"),
    ("sub class", {"subs": [Forgets]}, SubscriberError, r"pass an instance: Forgets\(\)"),
    ("sub nobody", {"subs": [Nobody()]}, SubscriberError, "listens to no event"),
    ("signature", {"subs": [TwoArguments()]}, SubscriberError, r"Expected after_epoch\(self, state\)"),
    ("async", {"subs": [Later()]}, SubscriberError, "is async"),
    ("returns None", {"subs": [Forgets()]}, SubscriberError, "is `return state` missing"),
    ("wrong scope", {"subs": [WrongScope()]}, VerdictError, "no batch runs at before_epoch"),
    ("wrong scope at the end", {"subs": [WrongFit()]}, VerdictError, "no epoch runs at after_fit"),
    ("sink", {"sinks": [3]}, ConfigError, "called with a Transition"),
    ("device", {"device": "tpu9"}, ConfigError, "device is 'tpu9'"),
    ("vector loss", {"loss_fn": no_scalar}, NNTrainError, r"no_scalar returned float32\[4\]"),
    ("detached loss", {"loss_fn": no_gradient}, NNTrainError, "no_gradient returned a loss without a gradient"),
    ("float loss", {"loss_fn": a_float}, NNTrainError, r"a_float returned \d"),
    ("metric vector", {"metric_fn": lambda p, t: p}, NNTrainError, r"metric metric returned float32\[4, 2\]"),
    ("metric text", {"metric_fn": {"acc": lambda p, t: "good"}}, NNTrainError, "metric acc returned 'good'"),
    ("one tensor", {"dls": DataLoaders([torch.ones(4, 3)], DATA)}, NNTrainError, "unpack="),
    ("one-tuple", {"dls": DataLoaders([(torch.ones(4, 3),)], DATA)}, NNTrainError, "needs inputs and a target"),
    ("no samples", {"dls": DataLoaders([(torch.ones(0, 3), torch.ones(0))], DATA)}, DataError, "no samples"),
]
if not torch.cuda.is_available():
    CASES.append(("cuda", {"device": "cuda"}, ConfigError, "torch sees no CUDA device"))


@pytest.mark.parametrize(("name", "changes", "kind", "said"), CASES, ids=[name for name, *_ in CASES])
def test_it_is_told_before_anything_is_trained(
    name: str, changes: dict[str, Any], kind: type[Exception], said: str
) -> None:
    seen: list[Transition] = []
    with pytest.raises(kind, match=said) as caught:
        learner_of(**{"sinks": [seen.append], **changes}).fit(1, print_stats=False)
    assert isinstance(caught.value, NNTrainError)
    if "after_fit" not in said:  # that event comes when all is trained; the state before it is whole all the same
        assert all(transition.state.progress.step == 0 for transition in seen)


@pytest.mark.parametrize("epochs", [-1, 1.5, True, "3"])
def test_epochs(epochs: Any) -> None:
    learner = learner_of()
    with pytest.raises(ConfigError, match="expected a whole number of 0 or more"):
        learner.fit(epochs)
    with pytest.raises(ConfigError, match="expected a whole number of 0 or more"):
        fit_step(learner, learner.init(), epochs)


def test_goals_and_places() -> None:
    learner = learner_of()
    with pytest.raises(ConfigError, match="fresh state needs a goal"):
        fit_step(learner, learner.init())
    with pytest.raises(ConfigError, match="has no goal"):
        advance(learner, learner.init())
    done = learner.fit(1, print_stats=False)
    with pytest.raises(ConfigError, match="finished state needs a goal"):
        fit_step(learner, done.state)
    for step in (advance, epoch_step):
        with pytest.raises(ConfigError, match=r"is finished.*fit_step\(learner, state, epochs"):
            step(learner, done.state)
    with pytest.raises(ConfigError, match=r"Got a Completed; a step takes its state: outcome\.state"):
        fit_step(learner, done, 1)  # type: ignore[arg-type] # the mistake
    with pytest.raises(ConfigError, match="seed is -1"):
        learner.init(-1)
    with pytest.raises(ConfigError, match="no loss"):
        learner.replace(loss=3)  # type: ignore[call-arg] # what untyped callers may write


def test_a_model_whose_output_does_not_fit_says_both_shapes() -> None:
    with pytest.raises(RuntimeError) as caught:
        learner_of(model=nn.Linear(3, 2), loss_fn=lambda p, t: nn.functional.mse_loss(p, t.float()[:3])).fit(1)
    assert any("preds are float32[4, 2], the target is int64[4]" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("befor_batch", "before_batch"),
        ("after_epcoh", "after_epoch"),
        ("afterEpoch", "after_epoch"),
        ("epoch_after", "after_epoch"),
        ("after_train", "after_fit"),
        ("on_epoch_end", "after_epoch"),
        ("on_train_epoch_end", "after_epoch"),
        ("on_train_batch_start", "before_batch"),
        ("on_train_begin", "before_fit"),
        ("on_fit_end", "after_fit"),
        ("on_validation_start", "before_epoch"),
        ("on_step_end", "after_batch"),
        ("begin_fit", "before_fit"),
        ("epochFinished", "after_epoch"),
        ("on_batch", "before_batch or after_batch"),
    ],
)
def test_a_misspelt_event_is_told_when_the_class_is_made(name: str, meant: str) -> None:
    with pytest.raises(SubscriberError, match=rf"Did you mean {meant}\?"):
        type("Typo", (Subscriber,), {name: lambda self, *given: given[0]})


def test_names_of_ones_own_that_are_no_events_stay() -> None:
    own = {"train_step": len, "start_epoch": 3, "end": len, "on_improvement": len, "epoch": len, "next_batch": len}
    made = type("Own", (Subscriber,), {**own, "after_epoch": lambda self, state: state})
    learner_of(subs=[made()])


def test_an_event_of_another_library_is_answered_with_ours() -> None:
    with pytest.raises(SubscriberError, match="Did you mean after_epoch"):
        on("on_epoch_end")  # type: ignore[call-overload] # the mistake


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.sweep)])
def test_a_shape_that_does_not_fit_the_model_is_told_with_the_inputs(compiled: bool) -> None:
    with pytest.raises(Exception, match=r"shapes|reduction dim") as caught:
        learner_of(model=nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), compile=compiled).fit(1, print_stats=False)
    assert any("float32[4, 3]" in note for note in caught.value.__notes__)


def test_inputs_by_name_are_told_by_name() -> None:
    batches = [{"pixels": inputs, "mask": target, "label": target} for inputs, target in DATA]
    with pytest.raises(TypeError, match="pixels") as caught:
        learner_of(dls=DataLoaders(batches, batches)).fit(1, print_stats=False)
    note = "nntrain: raised by the model; its inputs are (pixels=float32[4, 3], mask=int64[4])"
    assert note in caught.value.__notes__


def test_batches_of_numpy_are_told_with_the_remedy() -> None:
    batches = [(inputs.numpy(), target.numpy()) for inputs, target in DATA]
    with pytest.raises(DataError, match=r"ndarray.*torch\.as_tensor"):
        learner_of(dls=DataLoaders(batches, batches)).fit(1, print_stats=False)


def test_a_schedule_that_ends_too_soon_is_told_as_what_it_is() -> None:
    with pytest.raises(IndexError) as caught:
        learner_of(lr=lambda step: [0.1, 0.2][step]).fit(1, print_stats=False)
    assert "nntrain: raised by lr at step 2" in caught.value.__notes__
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.step == 2


@pytest.mark.parametrize("given", [nn.Linear(3, 2), "path", None, Learner], ids=["module", "path", "None", "class"])
def test_what_is_no_learner_is_told(given: Any, tmp_path: Path) -> None:
    state = learner_of().init(epochs=1)
    save(state, tmp_path / "state.safetensors")
    calls: list[Callable[[], object]] = [
        lambda: load(tmp_path / "state.safetensors", given),
        lambda: resume(tmp_path, given),
        lambda: resume(tmp_path / "none", given),
        lambda: fit_step(given, state),
        lambda: advance(given, state),
        lambda: batch_step(given, state, DATA[0]),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"where a Learner is expected: Learner\(model, dls"):
            call()


def test_a_learner_whose_model_s_code_fails_says_what_it_says() -> None:
    def factory() -> nn.Module:
        raise AttributeError("mine")

    with pytest.raises(AttributeError, match="mine"):
        advance(learner_of(model=factory), learner_of().init(epochs=1))


def test_what_a_subscriber_raises_passes_on_with_its_name() -> None:
    @on("after_batch")
    def angry(state: TrainState, batch: object, output: object) -> TrainState:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        learner_of(subs=[angry]).fit(1, print_stats=False)
    notes = caught.value.__notes__
    assert "raised by subscriber angry at after_batch" in notes[0]
    assert "in train of epoch 0, at batch 0" in notes[1]


def test_two_threads_and_steps_inside_steps() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(preds: Tensor, target: Tensor) -> Tensor:
        entered.set()
        leave.wait(20)
        return cross_entropy(preds, target)

    learner = learner_of(loss_fn=slow)
    thread = threading.Thread(target=lambda: learner.fit(1, print_stats=False))
    thread.start()
    assert entered.wait(20)
    with pytest.raises(BusyError, match="Two threads step one learner"):
        learner.fit(1)
    leave.set()
    thread.join()

    @on("before_epoch")
    def nested(state: TrainState) -> TrainState:
        return batch_step(inner[0], state, DATA[0]).state

    inner = [learner_of(subs=[nested])]
    with pytest.raises(BusyError, match="from inside its own step"):
        inner[0].fit(1, print_stats=False)


def test_sinks_that_fail_are_reported_once_and_counted_and_strict_ones_end_it() -> None:
    class Broken:
        interest = Interest()

        def __call__(self, transition: Transition) -> None:
            raise OSError("no space")

    sink = Broken()
    with pytest.warns(SinkWarning, match="no space") as warned:
        outcome = learner_of(sinks=[sink]).fit(1, print_stats=False)
    assert len(warned) == 1
    assert outcome.state.progress.at == "finished"
    assert outcome.sink_failures == {"Broken": 14}
    sink.interest = Interest(strict=True)
    with pytest.raises(OSError, match="no space"):
        learner_of(sinks=[sink]).fit(1, print_stats=False)


def test_a_phase_without_a_batch_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    @on("before_batch")
    def skip(state: TrainState, batch: object) -> TrainState | CancelBatch:
        return CancelBatch() if state.progress.phase == "eval" else state

    outcome = learner_of(subs=[skip]).fit(1)
    assert [stats.phase for stats in outcome.state.history] == ["train"]
    assert capsys.readouterr().out.count("\n") == 1
    with pytest.raises(DataError, match=r"dls\.train gave no batch"):
        learner_of(dls=DataLoaders(Empty(), DATA)).fit(1)


class Empty:
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize("make", [lambda: iter(DATA), lambda: (one for one in DATA)])
def test_an_iterator_cannot_be_read_twice(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="list"):
        DataLoaders(make(), DATA)


class Note(Record, frozen=True):
    text: str = ""


class Open(BaseModel):
    text: str = ""


def test_slots() -> None:
    state = learner_of().init()
    slot = Slot("tests.note", Note, default=Note())
    assert state.get(slot) == Note()
    assert state.put(slot, Note(text="a")).get(slot).text == "a"
    assert state.get(slot) == Note()
    with pytest.raises(ConfigError, match="keeps a Note"):
        state.put(slot, "a")  # type: ignore[misc] # the mistake
    with pytest.raises(ConfigError, match="two subscribers use one name"):
        state.put(slot, Note()).get(Slot("tests.note", Other, default=Other()))
    with pytest.raises(ConfigError, match="dotted"):
        Slot("note", Note, default=Note())
    with pytest.raises(ConfigError, match="default of Note"):
        Slot("tests.note", Other, default=Note())
    with pytest.raises(ConfigError, match="frozen pydantic model"):
        Slot("tests.note", dict, default={})  # type: ignore[type-var] # the mistake


class Other(Record, frozen=True):
    number: int = 0


def test_a_later_fit_counts_on_and_an_unfinished_one_goes_on() -> None:
    learner = learner_of()
    first = learner.fit(2, print_stats=False).state
    second = fit_step(learner, first, 1).state
    assert [stats.epoch for stats in second.history] == [0, 0, 1, 1, 2, 2]
    assert (second.progress.epochs, second.progress.at) == (3, "finished")
    state = learner.init(epochs=2)
    while state.progress.epoch < 1:
        state = advance(learner, state).state
    assert fit_step(learner, state).state == first
    assert fit_step(learner, state, 3).state.history == second.history


def test_metrics_are_named_apart_and_stay_the_same_amid_a_phase() -> None:
    with pytest.raises(ConfigError, match="'loss', which is taken"):
        learner_of(metric_fn={"loss": accuracy})
    learner = learner_of()
    state = learner.init(epochs=1)
    for _ in range(3):
        state = advance(learner, state).state
    for metrics in ({"acc": accuracy}, {}, {"metric": accuracy, "more": accuracy}):
        with pytest.raises(StateError, match="sums are of the metrics metric"):
            fit_step(learner.replace(metric_fn=metrics), state)
    assert fit_step(learner.replace(metric_fn={"metric": accuracy}), state).state == fit_step(learner, state).state


def test_a_verdict_with_a_state_of_another_model_is_refused() -> None:
    other = learner_of(model=nn.Linear(3, 7)).init()

    class Strange(Subscriber[object]):
        def after_epoch(self, state: TrainState) -> CancelFit:
            return CancelFit(state=other)

    with pytest.raises(StateError, match=r"weight is \[7, 3\]"):
        learner_of(subs=[Strange()]).fit(1, print_stats=False)


def test_unpack_that_gives_no_three_things() -> None:
    with pytest.raises(DataError, match=r"unpack pair returned tuple\(.*expected a tuple of three"):
        learner_of(unpack=pair).fit(1)


def pair(batch: tuple[Tensor, Tensor]) -> Any:
    return batch


def test_methods_with_an_underscore_are_ones_own() -> None:
    class Mine(Subscriber[object]):
        def _before_batch(self) -> None: ...

    assert Mine().order == 0


class ClosedError(Exception):
    """Takes no attribute, so no note."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "__traceback__":  # contextlib's own
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_an_exception_that_takes_no_note_passes_as_it_is() -> None:
    def broken(preds: Tensor, target: Tensor) -> Tensor:
        raise ClosedError

    with pytest.raises(ClosedError) as caught:
        learner_of(loss_fn=broken).fit(1)
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.batch == 0


def test_one_exception_raised_twice_leads_to_the_later_state() -> None:
    error, calls = RuntimeError("again"), [0]

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] in {2, 4}:
            raise error
        return cross_entropy(preds, target)

    learner = learner_of(loss_fn=loss_fn)
    with pytest.raises(RuntimeError):
        learner.fit(1)
    before = state_before(error)
    assert before is not None
    assert before.progress.batch == 1
    with pytest.raises(RuntimeError):
        fit_step(learner, before)
    later = state_before(error)
    assert later is not None
    assert later.progress.batch == 2


def test_a_sink_may_have_another_thread_read_the_state() -> None:
    read: list[bool] = []

    def sink(transition: Transition) -> None:
        thread = threading.Thread(target=lambda: read.append("weight" in dict(transition.state.params)), daemon=True)
        thread.start()
        thread.join(timeout=20)

    learner_of(sinks=[sink]).fit(1, print_stats=False)
    assert len(read) == 14
    assert all(read)


@pytest.mark.filterwarnings("error")
def test_warnings_as_errors_do_not_hide_the_error_itself() -> None:
    def broken(preds: Tensor, target: Tensor) -> Tensor:
        raise KeyError("real")

    def sink(transition: Transition) -> None:
        if transition.error is not None:
            raise ValueError("sink")

    with pytest.raises(KeyError, match="real"):
        learner_of(loss_fn=broken, sinks=[sink]).fit(1)
