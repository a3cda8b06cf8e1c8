"""Recorded steps are the plain ones, bit for bit; what cannot be recorded runs plainly, and the log says why."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    BatchOutput,
    CancelBatch,
    DataLoaders,
    Engine,
    Learner,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    fit_step,
    on,
    supervised,
)
from nntrain.errors import ConfigError
from nntrain.live.recorded import MOST_SHAPES, CudaGraphs, Recorded
from nntrain.log import JsonLog
from nntrain.machine.cursor import Position
from nntrain.update import UpdateRule, accumulate, chain, clip_norm, ema, optimizer
from nntrain.values.bits import same_bits
from nntrain.values.tensors import Tensors

Batch = tuple[Tensor, Tensor]
SOURCE = torch.Generator().manual_seed(0)


def batches(*sizes: int) -> list[Batch]:
    return [(torch.randn(n, 4, generator=SOURCE), torch.randint(0, 3, (n,), generator=SOURCE)) for n in sizes]


TRAIN, VALID = batches(6, 6, 6, 6, 3), batches(5, 5, 5)


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3))


def learner_of(device: torch.device, *, capture: bool = True, **changes: Any) -> Learner[Any]:
    options: dict[str, Any] = {
        "model": model(),
        "dls": DataLoaders(TRAIN, VALID),
        "loss_fn": cross_entropy,
        "metric_fn": accuracy,
        "optim_class": torch.optim.SGD,
        "lr": 0.1,
        "device": device,
        **changes,
    }
    return Learner(**options, capture=capture)


def notes_of(learner: Learner[Any], epochs: int = 2) -> tuple[TrainState, dict[str, str]]:
    found: dict[str, str] = {}

    def sink(transition: Transition) -> None:
        found.update({note.code: note.text for note in transition.notes})

    learner = learner.replace(sinks=[sink])
    state = learner.fit(epochs, print_stats=False).state
    return state, found


@pytest.fixture(autouse=True)
def recordings(tapes: None) -> None:
    """Let the CPU have a recorder."""


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_recorded_training_is_the_plain_one(device: torch.device, name: str) -> None:
    plain = learner_of(device, capture=False, optim_class=OPTIMIZERS[name]).fit(3, print_stats=False).state
    state, _ = notes_of(learner_of(device, optim_class=OPTIMIZERS[name]), 3)
    assert state == plain
    assert state.history == plain.history


def test_every_shape_is_recorded_and_the_optimizer_s_step_with_it(device: torch.device) -> None:
    learner = learner_of(device)
    learner.fit(3, print_stats=False)
    engine = learner.machine.engine
    assert isinstance(engine, Recorded)
    made = list(engine._recordings.values())
    assert len(made) == 3
    assert all(made)
    assert [one.write._launch is not None for one in made if one is not None and one.write._grads[0] is not None] == [
        True,
        True,
    ]


def test_after_the_second_batch_of_a_shape_no_python_of_the_model_runs(device: torch.device) -> None:
    calls: list[int] = []

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        calls.append(len(target))
        return cross_entropy(preds, target)

    learner = learner_of(device, dls=DataLoaders(TRAIN[:4] * 5, VALID[:1]), loss_fn=loss_fn)
    learner.fit(1, print_stats=False)
    assert calls.count(6) == 3  # the plain one, the rehearsal and the recording


def test_outputs_that_somebody_keeps_stay_what_they_were(device: torch.device) -> None:
    def outputs(capture: bool) -> list[BatchOutput]:
        seen: list[BatchOutput] = []

        class Sees(Subscriber[Batch]):
            def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
                seen.append(output)
                return state

        learner_of(device, capture=capture, subs=[Sees()]).fit(3, print_stats=False)
        return seen

    recorded, plain = outputs(True), outputs(False)
    assert same_bits([(one.loss, one.preds) for one in recorded], [(one.loss, one.preds) for one in plain])


def test_sinks_are_shown_outputs_that_stay(device: torch.device) -> None:
    def outputs(capture: bool) -> list[Any]:
        seen: list[Any] = []

        def sink(transition: Transition) -> None:
            if transition.output is not None:
                seen.append(transition.output.preds)

        learner_of(device, capture=capture, sinks=[sink]).fit(3, print_stats=False)
        return seen

    assert same_bits(outputs(True), outputs(False))


def test_a_cancelled_batch_and_a_state_that_is_gone_back_to(device: torch.device) -> None:
    kept: list[TrainState] = []

    @on("after_batch")
    def back(state: TrainState, batch: object, output: BatchOutput) -> TrainState | CancelBatch:
        if state.progress.step == 3:
            kept.append(state)
        if state.progress.step == 7 and kept:
            return CancelBatch(reason="back", state=kept.pop())
        return state

    ends = []
    for capture in (False, True):
        kept.clear()
        learner = learner_of(device, capture=capture, subs=[back], optim_class=OPTIMIZERS["momentum"])
        ends.append(learner.fit(3, print_stats=False).state)
    assert ends[0] == ends[1]


def test_going_back_to_before_the_optimizer_s_memory_was_made(device: torch.device) -> None:
    learner = learner_of(device, optim_class=OPTIMIZERS["momentum"])
    fresh = learner.init(0)
    first = fit_step(learner, fresh, 2)
    again = fit_step(learner, fresh, 2)
    assert first == again
    assert again.state == learner_of(device, capture=False, optim_class=OPTIMIZERS["momentum"]).fit(2).state


def test_a_tensor_as_learning_rate_follows_a_recorded_schedule(device: torch.device) -> None:
    def make(params: Any, *, lr: float) -> torch.optim.Optimizer:
        # foreach is for CUDA alone; a tensor for lr is read as a number by the plain step on a CPU.
        return torch.optim.Adam(params, torch.tensor(lr, device=device), capturable=device.type == "cuda")

    def lr(step: int) -> float:
        return 0.1 / (1 + step)

    plain = learner_of(device, capture=False, optim_class=make, lr=lr).fit(2, print_stats=False).state
    state, notes = notes_of(learner_of(device, optim_class=make, lr=lr))
    assert state == plain
    assert ("capture.optimizer" in notes) == (device.type == "cpu")


@dataclass(frozen=True)
class Numbered:
    """A batch with something in it that is no tensor."""

    inputs: Tensor
    number: int
    target: Tensor


class Switch(nn.Module):
    """Takes a number beside its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = model()

    def forward(self, inputs: Tensor, number: int) -> Tensor:
        scores: Tensor = self.inner(inputs) * number
        return scores


class Looks(nn.Module):
    """Reads a number in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.inner(inputs)
        return scores if scores.sum().item() > 0 else -scores


class Words(nn.Module):
    """Has sparse gradients, of each word once: CUDA adds those of a word that comes twice in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(24, 3, sparse=True)

    def forward(self, words: Tensor) -> Tensor:
        scores: Tensor = self.embed(words.flatten().argsort().reshape(words.shape)).sum(1)
        return scores


def numbered() -> DataLoaders[Any]:
    train = [Numbered(inputs, index, target) for index, (inputs, target) in enumerate(TRAIN)]
    return DataLoaders(train, train[:1])


class Counting(torch.optim.SGD):
    """Keeps count in Python, of which a recording would know nothing."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # torch's overloads do not matter here
        self.param_groups[0]["lr"] *= 0.9
        super().step(closure)


def float_accuracy(preds: Tensor, target: Tensor) -> float:
    return float(len(target))


PLAINLY: dict[str, tuple[dict[str, Any], str, str]] = {
    "a number in the batch": (
        {"model": Switch(), "dls": numbered()},
        "capture.batch",
        "int is no tensor",
    ),
    "a number read": ({"model": Looks()}, "capture.pass", "RuntimeError"),
    "a number for a metric": ({"metric_fn": float_accuracy}, "capture.pass", "return a tensor"),
    "sparse gradients": ({"model": Words()}, "capture.pass", "sparse"),
    "an optimizer with a closure": ({"optim_class": torch.optim.LBFGS}, "capture.optimizer", "evaluates the model"),
    "an optimizer of one's own": ({"optim_class": Counting}, "capture.optimizer", "no class of torch.optim"),
    "a learning rate that changes": ({"lr": lambda step: 0.1 / (1 + step)}, "capture.optimizer", "torch.tensor"),
    "a short last batch": ({}, "capture.shape", r"float32\[3, 4\]"),
}


@pytest.mark.parametrize("name", PLAINLY)
def test_what_cannot_be_recorded_runs_plainly_and_the_log_says_why(
    device: torch.device, tmp_path: Path, name: str
) -> None:
    changes, code, text = PLAINLY[name]
    plain = learner_of(device, capture=False, **changes).fit(2, print_stats=False).state
    with JsonLog(tmp_path / "log.jsonl") as log:
        assert learner_of(device, sinks=[log], **changes).fit(2, print_stats=False).state == plain
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["config"]["capture"] is True
    told = [line["text"] for line in lines if line["event"] == "warning" and line["code"] == code]
    assert any(re.search(text, one) for one in told), lines
    assert len(told) == len(set(told))


def test_on_a_cpu_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nntrain.live.recorded.recorder_for", lambda device: None)
    state, notes = notes_of(learner_of(torch.device("cpu")))
    assert notes == {"capture.device": "capture=True does nothing on cpu; it is for CUDA"}
    assert state == learner_of(torch.device("cpu"), capture=False).fit(2, print_stats=False).state


def test_there_is_an_end_to_the_shapes(device: torch.device) -> None:
    sizes = [size for size in range(2, MOST_SHAPES + 5) for _ in range(2)]
    data = batches(*sizes)
    changes: dict[str, Any] = {"dls": DataLoaders(data, VALID[:1])}
    state, notes = notes_of(learner_of(device, **changes))
    assert state == learner_of(device, capture=False, **changes).fit(2, print_stats=False).state
    assert f"{MOST_SHAPES} shapes are recorded" in notes["capture.shape"]


def test_hooks_of_the_optimizer_see_recorded_trainings_steps(device: torch.device) -> None:
    seen: list[int] = []

    def make(params: Any, *, lr: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(params, lr=lr)
        optimizer.register_step_post_hook(lambda *given: seen.append(1))
        return optimizer

    learner_of(device, optim_class=make).fit(2, print_stats=False)
    assert len(seen) == 10


def test_an_error_of_the_model_s_own_is_raised_not_noted(device: torch.device) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)
            self.calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += 1
            if self.calls >= 2:
                raise OSError("broken")
            scores: Tensor = self.inner(inputs)
            return scores

    with pytest.raises(OSError, match="broken"):
        learner_of(device, model=Fails()).fit(1, print_stats=False)


@pytest.mark.parametrize("given", [1, "yes", None])
def test_capture_is_a_bool(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"capture is .*; expected True or False"):
        learner_of(torch.device("cpu"), capture=given)


class Two(nn.Module):
    """Trains one layer with one shape of batch, and another with the other."""

    def __init__(self) -> None:
        super().__init__()
        self.four = nn.Linear(4, 3)
        self.five = nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.four(inputs) if inputs.shape[1] == 4 else self.five(inputs)
        return scores


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_shapes_that_train_other_parameters_each_make_their_memory_plainly(device: torch.device, name: str) -> None:
    source = torch.Generator().manual_seed(1)
    data = [(torch.randn(8, 4 + i % 2, generator=source), torch.zeros(8, dtype=torch.long)) for i in range(10)]
    torch.manual_seed(0)
    changes: dict[str, Any] = {"model": Two(), "dls": DataLoaders(data, data), "optim_class": OPTIMIZERS[name]}
    plain = learner_of(device, capture=False, **changes).fit(2, print_stats=False).state
    learner = learner_of(device, **changes)
    for _ in range(3):
        assert learner.fit(2, print_stats=False).state == plain


class FirstInit(nn.Module):
    """Sets a parameter by its first batch, and fails in its first eval batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.zeros(4))
        self.begun = False

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training and not self.begun:
            with torch.no_grad():
                self.scale.copy_(1 / inputs.std(0))
            self.begun = True
        if not self.training:
            raise OSError("broken")
        scores: Tensor = self.inner(inputs * self.scale)
        return scores


class ByData(torch.optim.SGD):
    """Writes past torch's version counters."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # torch's overloads do not matter here
        for param in self.param_groups[0]["params"]:
            param.data.sub_(0.1 * param.grad)


@pytest.mark.parametrize(("capture", "optim_class"), [(True, torch.optim.SGD), (False, ByData)])
def test_what_an_optimizer_writes_uncounted_is_not_put_back(
    device: torch.device, capture: bool, optim_class: Any
) -> None:
    kept: list[tuple[TrainState, Tensor]] = []

    @on("after_epoch")
    def keep(state: TrainState) -> TrainState:
        kept.append((state, state.params["scale"]))
        return state

    dls = DataLoaders(batches(6, 6, 6, 6, 6), VALID)
    learner = learner_of(device, capture=capture, model=FirstInit(), dls=dls, optim_class=optim_class, subs=[keep])
    with pytest.raises(OSError, match="broken"):
        learner.fit(1, print_stats=False)
    ((state, scale),) = kept
    assert torch.equal(state.params["scale"], scale)


def test_notes_that_nobody_is_told_of_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nntrain.live.recorded.recorder_for", lambda device: None)
    learner = learner_of(torch.device("cpu"), dls=DataLoaders(TRAIN * 10, VALID))
    seen: list[int] = []
    state = Position.state

    def counted(position: Position, tensors: Tensors) -> TrainState:
        seen.append(1)
        return state(position, tensors)

    monkeypatch.setattr(Position, "state", counted)
    learner.fit(2, print_stats=False)
    assert len(seen) == 4  # the ends of the phases


def test_each_run_of_a_learner_is_told_what_holds_of_it(device: torch.device, tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner = learner_of(device, sinks=[log], lr=lambda step: 0.1)
        for _ in range(2):
            learner.fit(2, print_stats=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    told = [line["run_id"] for line in lines if line.get("code") == "capture.optimizer"]
    assert len(told) == len(set(told)) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_capture_that_breaks_off_leaves_the_device_as_it_was() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    recorder, stream, noise = CudaGraphs(device), torch.cuda.current_stream(), torch.zeros(4, device=device)

    def draws() -> None:
        noise.copy_(torch.rand(4, device=device))

    def reads() -> None:
        noise.sum().item()

    draw = recorder.record(draws)
    with pytest.raises(RuntimeError):
        recorder.record(reads)
    assert torch.cuda.current_stream() == stream
    torch.manual_seed(3)
    plain = torch.rand(4, device=device)
    torch.manual_seed(3)
    draw()
    assert torch.equal(noise, plain)


@pytest.mark.parametrize("again", [True, False])
def test_after_a_capture_that_broke_off_another_ends_well_on_another_stream(
    monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """What `CudaGraphs` asks of torch, where there is no device to ask it of."""
    did: list[str] = []

    class Graph:
        def replay(self) -> None:
            did.append("replay")

    @contextmanager
    def graph(made: Graph, *, stream: str, capture_error_mode: str) -> Iterator[None]:
        did.append(f"capture on {stream}")
        yield
        if len([one for one in did if one.startswith("capture")]) == 1 or not again:
            raise RuntimeError("the capture was invalidated")

    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: "its own stream")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream before")
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: did.append(f"back on {stream}"))
    monkeypatch.setattr(torch.cuda, "graph", graph)
    recorder = CudaGraphs(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="invalidated"):
        recorder.record(lambda: None)
    assert did == ["capture on its own stream", "back on the stream before", "capture on its own stream"]
    if again:
        recorder.record(lambda: None)()
        assert did[3:] == ["capture on its own stream", "replay"]


RULES: dict[str, Callable[[], UpdateRule]] = {
    "clipping": lambda: chain(clip_norm(0.5), optimizer(torch.optim.SGD, lr=0.1)),
    "accumulation": lambda: chain(accumulate(3), clip_norm(0.5), optimizer(torch.optim.Adam, lr=0.1)),
    "an average": lambda: chain(optimizer(torch.optim.SGD, lr=0.1, momentum=0.9), ema(0.9)),
}


@pytest.mark.parametrize("name", RULES)
def test_with_rules_the_passes_of_all_shapes_are_recorded_and_the_writes_are_plain(
    device: torch.device, name: str
) -> None:
    calls: list[int] = []

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        calls.append(len(target))
        return cross_entropy(preds, target)

    def learner(*, capture: bool) -> Learner[Any]:
        dls = DataLoaders(batches_of_two_shapes, None)
        engine = Engine(device=device, capture=capture)
        return Learner.of(model(), dls, supervised(loss_fn), RULES[name](), engine=engine)

    batches_of_two_shapes = [TRAIN[0], TRAIN[4], *TRAIN[1:4], TRAIN[4]]
    plain = learner(capture=False).fit(4, print_stats=False).state
    calls.clear()
    state, notes = notes_of(learner(capture=True), 4)
    assert state == plain
    assert (calls.count(6), calls.count(3)) == (3, 3)  # of each shape the plain one, the rehearsal and the recording
    assert "run in Python" in notes["capture.optimizer"]
