"""Metrics of a whole phase: their memory is a value, everybody sees their numbers, and wrong ones are told."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    BatchOutput,
    BatchRan,
    Checkpoint,
    DataLoaders,
    EarlyStopping,
    Learner,
    Metric,
    MetricFn,
    StepOutput,
    Subscriber,
    TrainState,
    accuracy,
    advance,
    evaluate,
    fit_step,
    state_before,
)
from nntrain.checkpoint import load
from nntrain.errors import ConfigError, LossError, MetricError, NNTrainError, StateError
from nntrain.log import JsonLog, read, replay
from nntrain.metrics.measured import named_metrics
from nntrain.metrics.monitors import check_monitors
from nntrain.update import optimizer
from tests.metrics.own import CLASSES, F1, Auroc, Range

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(3)
BATCHES = [(torch.randn(n, 4, generator=SOURCE), torch.randint(0, CLASSES, (n,), generator=SOURCE)) for n in (6, 5, 3)]


def learner_of(metrics: Any, subs: Any = (), **others: Any) -> Learner[Batch]:
    torch.manual_seed(1)
    others = {"dls": DataLoaders(BATCHES, BATCHES[:2])} | others
    model, dls = nn.Linear(4, CLASSES), others.pop("dls")
    return Learner(model, dls, cross_entropy, metrics, torch.optim.SGD, 0.1, subs, **others)


def _nothing() -> Any:
    return {"n": torch.zeros(())}


def _counted(memory: Any, output: StepOutput[Any]) -> Any:
    assert isinstance(output.target, Tensor)
    return {"n": memory["n"] + len(output.target)}


def _number(memory: Any) -> Any:
    return memory["n"]


class Counts(Metric[Any]):
    """Counts samples; what it does otherwise is given by name."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self._methods: dict[str, Callable[..., Any]] = {"init": _nothing, "update": _counted, "compute": _number}
        self._methods |= methods

    def init(self) -> Any:
        return self._methods["init"]()

    def update(self, memory: Any, output: StepOutput[Any], /) -> Any:
        return self._methods["update"](memory, output)

    def merge(self, one: Any, other: Any, /) -> Any:
        return {"n": one["n"] + other["n"]}

    def compute(self, memory: Any, /) -> Any:
        return self._methods["compute"](memory)


def test_everybody_sees_the_same_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[float] = []

    class Sees(Subscriber[Batch]):
        monitors = ("auroc", "range/high")

        def after_epoch(self, state: TrainState) -> TrainState:
            told.append(state.history[-1].metrics["auroc"])
            return state

    stopping = EarlyStopping("auroc", "max", patience=1)
    with JsonLog(tmp_path / "log.jsonl", every=1) as log:
        sinks = [log, Checkpoint(tmp_path / "kept", keep_last=1, keep_best="auroc", mode="max")]
        metrics = {"range": Range(), "accuracy": accuracy, "auroc": Auroc()}
        outcome = learner_of(metrics, [Sees(), stopping], sinks=sinks).fit(3)
    history = outcome.state.history
    names = ["range/low", "range/high", "range/samples", "accuracy", "auroc"]
    assert [list(one.metrics) for one in history] == [names] * len(history)
    assert told == [one.metrics["auroc"] for one in history]
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("auroc=")[2] for line in lines] == [f"{one:.3f}" for one in told]
    assert "| range/low=" in lines[0]
    (run,) = replay(read(tmp_path / "log.jsonl"))
    assert tuple(run.history) == tuple(history)
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    batches = [one["metrics"] for one in events if one["event"] == "batch_finished"]
    assert len(batches) >= 5
    assert all(one.keys() == {"accuracy"} for one in batches)  # a metric of the phase has no value of a batch
    best = max(one.metrics["auroc"] for one in history if one.phase == "eval")
    kept = [load(path, learner_of(metrics)) for path in (tmp_path / "kept").iterdir()]
    assert best in [one.history[-1].metrics["auroc"] for one in kept if one.history[-1].phase == "eval"]


def test_a_batch_has_no_value_of_a_phase() -> None:
    seen: list[Mapping[str, object]] = []

    class Sees(Subscriber[Batch]):
        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
            seen.append(output.metrics)
            return state

    def told(ran: BatchRan) -> None:
        seen.append(ran.metrics)

    learner_of({"f1": F1(), "accuracy": accuracy}, [Sees()]).fit(1, print_stats=False)
    assert seen
    assert all(one.keys() == {"accuracy"} for one in seen)


def test_one_alone_is_called_metric() -> None:
    outcome = learner_of(F1()).fit(1, print_stats=False)
    assert outcome.state.history[-1].metrics.keys() == {"metric"}


def test_what_the_batch_is_made_of_may_be_used_again() -> None:
    """A loader that fills the same memory for each batch, and a model that gives its input back."""

    class Reuses:
        def __init__(self) -> None:
            self.batch = torch.zeros(3, CLASSES), torch.zeros(3, dtype=torch.int64)

        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            for index in range(3):
                self.batch[0].copy_(torch.eye(3).roll(index, 0))
                self.batch[1].fill_(index)
                yield self.batch

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs + 0 * self.scale if self.training else inputs

    keeps = Counts(
        init=tuple,
        update=lambda memory, output: (*memory, (output.preds, output.target)),
        compute=lambda memory: sum(
            (preds[0].argmax() + target[0]) * 10**at for at, (preds, target) in enumerate(memory)
        ),
    )
    learner = Learner(Same(), DataLoaders(Reuses(), Reuses()), cross_entropy, {"k": keeps}, torch.optim.SGD, 0.1)
    wanted = sum((torch.eye(3).roll(at, 0)[0].argmax().item() + at) * 10**at for at in range(3))
    assert [one.metrics["k"] for one in learner.fit(1, print_stats=False).state.history] == [wanted, wanted]


def test_the_containers_that_a_metric_gets_are_its_own() -> None:
    """To append to the list that was given is no write to a state: the state has another."""

    def append(memory: list[Tensor], output: StepOutput[Any]) -> list[Tensor]:
        memory.append(output.preds)
        return memory

    class Keeps(Subscriber[Batch]):
        def __init__(self) -> None:
            self.kept: list[tuple[TrainState, TrainState]] = []

        def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
            self.kept.append((state, copy.deepcopy(state)))
            return state

    keeps = Keeps()
    metric = Counts(init=list, update=append, compute=lambda memory: len(torch.cat(memory)))
    history = learner_of({"n": metric}, [keeps]).fit(1, print_stats=False).state.history
    assert [one.metrics["n"] for one in history] == [14, 11]
    assert all(state == twin for state, twin in keeps.kept)


def add_in_place(memory: Any, output: StepOutput[Any]) -> Any:
    memory["n"] += 1
    return memory


def write_to_an_element(memory: Any, output: StepOutput[Any]) -> Any:
    after = {"n": memory["n"] + 1}
    memory["n"].view(1)[0] = 7
    return after


def halve(memory: Any) -> Any:
    return memory["n"].div_(2)


@dataclass
class Own:
    n: Tensor


class Late(Metric[Any]):
    """Puts a record where `init` has none, so that no file can bring it back."""

    def init(self) -> Any:
        return []

    def update(self, memory: Any, output: StepOutput[Any], /) -> Any:
        return [*memory, Own(output.preds)]

    def merge(self, one: Any, other: Any, /) -> Any:
        return one + other

    def compute(self, memory: Any, /) -> float:
        return 0.0


class Clashes(Counts):
    names = ("a", "b")


WRONG_RUNS: dict[str, tuple[Any, type[Exception], str]] = {
    "in place": (Counts(update=add_in_place), MetricError, r"update of metric m writes to the memory.*memory \+ new"),
    "an element": (Counts(update=write_to_an_element), MetricError, "update of metric m writes to the memory"),
    "in compute": (Counts(compute=halve), MetricError, "compute of metric m writes to the memory"),
    "None": (
        Counts(update=lambda memory, output: None),
        MetricError,
        "update of metric m returned None; expected its mem",
    ),
    "text": (Counts(init=lambda: {"n": "no"}), MetricError, "init of metric m returned .*: n is of type str"),
    "an object": (Counts(init=object), MetricError, "init of metric m .*tensors and numbers: it is of type object"),
    "a set": (Counts(init=lambda: [{1}]), MetricError, "init of metric m .*: 0 is of type set"),
    "keys": (Counts(init=lambda: {1: 2.0}), MetricError, "init of metric m .*: a key of it is of type int"),
    "a late record": (Late(), MetricError, r"update of metric m .*: 0 is of type Own where init\(\) has none"),
    "a sparse tensor": (
        Counts(update=lambda memory, output: {"n": output.preds.to_sparse()}),
        MetricError,
        "metric m remembers a tensor that is laid out as sparse_coo",
    ),
    "no number": (
        Counts(compute=lambda memory: None),
        MetricError,
        "compute of metric m returned None; expected a number",
    ),
    "a vector": (
        Counts(compute=lambda memory: memory["n"].expand(2)),
        MetricError,
        r"m returned float32\[2\]; expected a",
    ),
    "a name": (Counts(compute=lambda memory: {1: 2.0}), MetricError, "compute of metric m named a number 1; expected"),
    "no number by name": (Counts(compute=lambda memory: {"x": "y"}), MetricError, "compute of metric m/x returned 'y'"),
    "other names": (Clashes(compute=lambda memory: {"a": 1}), MetricError, r"m returned a; its names are \('a', 'b'\)"),
    "no names": (Clashes(), MetricError, r"m returned tensor\(14\.\); expected a mapping of \('a', 'b'\)"),
    "own error": (Counts(update=lambda memory, output: 1 / 0), ZeroDivisionError, "update of metric m; preds float32"),
    "own error at the end": (Counts(compute=lambda memory: 1 / 0), ZeroDivisionError, "raised by compute of metric m"),
    "own error at the beginning": (Counts(init=lambda: 1 / 0), ZeroDivisionError, "raised by init of metric m"),
}


@pytest.mark.parametrize(("metric", "kind", "said"), WRONG_RUNS.values(), ids=WRONG_RUNS)
def test_what_is_told_of_a_run_with_a_wrong_metric(metric: Any, kind: type[Exception], said: str) -> None:
    learner = learner_of({"m": metric})
    with pytest.raises(kind) as caught:
        learner.fit(1, print_stats=False)
    text = "\n".join([str(caught.value), *caught.value.__notes__])
    assert re.search(said, text), text
    before = state_before(caught.value)
    assert before is not None
    assert before.progress.batch in {0, 3}


@pytest.mark.parametrize("methods", [{"update": add_in_place}, {"update": write_to_an_element}, {"compute": halve}])
def test_the_state_before_a_write_is_as_it_was(methods: Any) -> None:
    """The write was to a copy: the first time in a phase's first batch, or amid one that another learner began."""
    learner, seen = learner_of({"m": Counts()}), list[TrainState]()
    state = learner.init(0, 1)
    while state.progress.at != "after_epoch":
        seen.append(state)
        state = advance(learner, state).state
    copies = copy.deepcopy(seen)
    for before in seen:
        with pytest.raises(MetricError, match="writes to the memory"):
            fit_step(learner_of({"m": Counts(**methods)}), before)
    assert seen == copies


def test_two_values_of_one_name() -> None:
    metrics = {"a": Counts(compute=lambda memory: {"b": 1}), "a/b": accuracy}
    with pytest.raises(MetricError, match="gave a value named 'a/b', as another does"):
        learner_of(metrics).fit(1, print_stats=False)
    with pytest.raises(ConfigError, match="Two metrics give a value named 'a/b'"):
        learner_of({"a": Clashes(), "a/b": accuracy})


class NoMerge:
    def init(self) -> Tensor:
        return torch.zeros(())

    def update(self, memory: Tensor, output: StepOutput[Any]) -> Tensor:
        return memory

    def compute(self, memory: Tensor) -> Tensor:
        return memory


class TakesPreds(F1):
    def update(self, memory: Tensor, preds: Tensor, target: Tensor) -> Tensor:  # type: ignore[override] # the mistake
        return memory


class Unnamed(Counts):
    names = "ab"


WRONG: dict[str, tuple[Any, str]] = {
    "a class": ({"f1": F1}, r"metric f1 is the class F1; expected an instance: F1\(\.\.\.\)"),
    "no merge": ({"f1": NoMerge()}, r"metric f1 \(NoMerge\) has no merge; expected a Metric, with init\(\), update"),
    "other arguments": (
        {"f1": TakesPreds()},
        r"update of metric f1 \(TakesPreds\) cannot be called with \(memory, out",
    ),
    "names": ({"f1": Unnamed()}, "names of metric f1 .* is 'ab'; expected a tuple of strings"),
    "called loss": ({"loss": F1()}, "named 'loss'; expected a string other than 'loss'"),
    "no metric": ({"f1": 3}, r"metric f1 is 3; expected a function of \(preds, target\), or a Metric"),
}


@pytest.mark.parametrize(("metrics", "said"), WRONG.values(), ids=WRONG)
def test_what_is_told_of_what_is_no_metric(metrics: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        learner_of(metrics)


def test_a_subclass_without_a_method_is_refused_by_python() -> None:
    class Half(Metric[Tensor]):
        def init(self) -> Tensor:
            return torch.zeros(())

    with pytest.raises(TypeError, match="abstract methods"):
        Half()  # type: ignore[abstract] # the mistake


def test_monitors_of_named_numbers() -> None:
    metrics: dict[str, MetricFn | Metric[Any]] = {"range": Range(), "open": Counts(), "accuracy": accuracy}
    check_monitors([("one", name) for name in ("range/low", "open", "open/whatever", "accuracy", "loss")], metrics)
    for missing in ("range", "range/medium", "accuracy/x", "opened"):
        with pytest.raises(ConfigError, match=f"one monitors '{missing}'; there are loss, range/low"):
            check_monitors([("one", missing)], metrics)
    assert list(named_metrics(metrics)) == ["range", "open", "accuracy"]


def test_a_phase_goes_on_with_the_metrics_that_it_was_begun_with() -> None:
    class Keeps(Subscriber[Batch]):
        def __init__(self) -> None:
            self.kept: list[TrainState] = []

        def before_batch(self, state: TrainState, batch: Batch) -> TrainState:
            self.kept.append(copy.deepcopy(state))
            return state

    keeps = Keeps()
    learner_of({"f1": F1()}, [keeps]).fit(1, print_stats=False)
    for metrics in ({}, {"auroc": Auroc()}, {"f1": accuracy, "more": F1()}):
        with pytest.raises(StateError, match="sums are of the metrics f1"):
            fit_step(learner_of(metrics), keeps.kept[1])


def test_weights_outside_the_state_are_refused_in_an_update() -> None:
    model = nn.Linear(4, CLASSES)
    metric = Counts(update=lambda memory, output: {"n": memory["n"] + model.weight.sum()})
    learner = Learner(model, DataLoaders(BATCHES, BATCHES), cross_entropy, {"m": metric}, torch.optim.SGD, 0.1)
    with pytest.raises(NNTrainError, match="of the very module that was given as model"):
        learner.fit(1, print_stats=False)


def test_what_needs_a_gradient_is_remembered_without() -> None:
    weight = torch.ones((), requires_grad=True)
    grown: list[TrainState] = []

    class Keeps(Subscriber[Batch]):
        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
            grown.append(state)
            return state

    def update(memory: Any, output: StepOutput[Any]) -> Any:
        with torch.enable_grad():
            return {"n": memory["n"] + weight}

    learner_of({"m": Counts(update=update)}, [Keeps()]).fit(1, print_stats=False)
    assert [one.sums.memory["m"]["n"].requires_grad for one in grown] == [False] * 5
    assert [one.sums.memory["m"]["n"].item() for one in grown] == [1, 2, 3, 1, 2]


@pytest.mark.usefixtures("tapes")
def test_a_recorded_training_tells_that_updates_run_plainly(tmp_path: Path) -> None:
    data = [BATCHES[0]] * 4
    values = []
    for capture in (False, True):
        with JsonLog(tmp_path / f"{capture}.jsonl") as log:
            learner = learner_of({"auroc": Auroc()}, dls=DataLoaders(data, data), capture=capture, sinks=[log])
            values.append(learner.fit(2, print_stats=False).state)
    assert values[0] == values[1]
    notes = [json.loads(line) for line in (tmp_path / "True.jsonl").read_text().splitlines()]
    assert [one["text"] for one in notes if one.get("code") == "capture.metric"] == [
        "what auroc remembers is updated after each recorded pass, and not recorded"
    ]


def reconstructs(model: nn.Module, batch: Batch) -> StepOutput[Tensor]:
    """A task without a target; the term is told beside the loss, and no loss is computed of the weight."""
    preds: Tensor = model(batch[0])
    return StepOutput(preds.square().mean(), preds, parts={"size": preds.abs().mean()}, weight=len(batch[0]))


def of_task(metrics: Any, **others: Any) -> Learner[Batch, Tensor]:
    torch.manual_seed(1)
    dls = DataLoaders(BATCHES, BATCHES[:2])
    return Learner.of(nn.Linear(4, 4), dls, reconstructs, optimizer(torch.optim.SGD, lr=0.1), metrics=metrics, **others)


def test_of_a_task_metrics_see_what_it_returned() -> None:
    """A function is called with the preds and the target that the task set, None here; a `Metric` sees all."""

    def untargeted(preds: Tensor, target: object) -> Tensor:
        assert target is None
        return preds.mean()

    def update(memory: Any, output: StepOutput[Any]) -> Any:
        assert output.target is None
        assert isinstance(output.weight, int)
        return {"n": memory["n"] + output.parts["size"] * output.weight}

    metric = Counts(update=update, compute=lambda memory: memory["n"] / 14)
    stats = of_task({"mean": untargeted, "size of all": metric}).fit(1, print_stats=False).state.history[0]
    assert list(stats.metrics) == ["size", "mean", "size of all"]
    assert stats.metrics["size of all"] == pytest.approx(stats.metrics["size"])


def test_a_part_and_a_metric_of_one_name() -> None:
    with pytest.raises(LossError, match="named a part 'size', and so is a metric"):
        of_task({"size": Counts(update=lambda memory, output: memory)}).fit(1, print_stats=False)


def test_evaluate_has_the_values_of_a_phase() -> None:
    learner = learner_of({"range": Range(), "auroc": Auroc(), "accuracy": accuracy})
    state = learner.fit(1, print_stats=False).state
    assert evaluate(learner, state).metrics == state.history[-1].metrics


def test_the_weight_is_the_batchs_samples_or_what_weigh_says() -> None:
    def update(memory: Any, output: StepOutput[Any]) -> Any:
        return {"n": memory["n"] + output.weight}

    for weigh, total in ((None, 14), (lambda batch: 2 * len(batch[1]), 28)):
        learner = learner_of({"n": Counts(update=update)}, weigh=weigh)
        assert learner.fit(1, print_stats=False).state.history[0].metrics["n"] == total
