"""Law 4 over processes: save at any transition, load in a new process, finish: nothing tells it from the straight run.

One process trains straight through and saves a file at every transition. A second, which has nothing of the first but
these files, goes on from each with a new learner, and saves once more on its way. A third goes on from what the second
saved. What the second and the third print, publish, log and end with is compared with the straight run's, by digests
of every bit that are taken here and not by nntrain.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pytest
import torch
from datasets.dataset_dict import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from nntrain import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    DataLoaders,
    EarlyStopping,
    Learner,
    Slot,
    Subscriber,
    TrainState,
    Transition,
    fit_step,
)
from nntrain import data as images
from nntrain.checkpoint import load, save
from nntrain.live import recorded as capture
from nntrain.log import JsonLog, LogEvent
from nntrain.sinks.print_stats import PrintStats
from nntrain.subscribers.protocol import AnswerBatch, AnswerEpoch
from nntrain.subscribers.rollback import Rollback
from nntrain.values.history import EpochStats
from nntrain.values.output import BatchOutput
from nntrain.values.sums import Sums, WeightedSums
from tests.data.images.pictures import picture, png, stored
from tests.laws.strategies import MODELS, OPTIMIZERS, Batch, KeyedLoader, KeyedLoaders, Rolls, Setup
from tests.laws.test_law_04_resume import SkipEveryThird
from tests.log.warm import Warm
from tests.sampled import TRIES
from tests.tape import TapeRecorder

EXAMPLES: Final = max(2, TRIES // 25)
"""Of each kind of data in the sweep: two, and twenty with --hypothesis-profile=sweep. Half of them otherwise."""

# -- what subscribers do --------------------------------------------------------------------------------------------


class Counted(LogEvent, frozen=True):
    """Told after some batches."""

    event: Literal["tests.law4_counted"] = "tests.law4_counted"
    total: int
    loss: float


class Average(BaseModel, frozen=True, arbitrary_types_allowed=True):
    """A running mean of all weights, and how many batches were seen in which phase."""

    weights: dict[str, Tensor] = {}
    seen: dict[str, int] = {}
    losses: tuple[float, ...] = ()


AVERAGE: Final = Slot("tests.law4_average", Average, default=Average())


class Averages(Subscriber[Batch]):
    """Keeps tensors in the state, and tells an event of its own."""

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        """Take the weights into the mean."""
        before = state.get(AVERAGE)
        phase = state.progress.phase
        seen = {**before.seen, phase: before.seen.get(phase, 0) + 1}
        with state.borrow() as tensors:
            weights = {
                name: 0.9 * before.weights[name] + 0.1 * tensor if name in before.weights else tensor.clone()
                for name, tensor in tensors.items()
            }
        losses = (*before.losses[-2:], output.loss.item())
        kept = state.put(AVERAGE, Average(weights=weights, seen=seen, losses=losses))
        return kept.log(Counted(total=sum(seen.values()), loss=losses[-1])) if seen[phase] % 2 else kept


class Cancels(Subscriber[Batch]):
    """Cancels at random, as the state's key says."""

    order = 5

    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        """Skip some batches, and the rest of some phases."""
        drawn = torch.rand(()).item()
        if drawn < 0.1:
            return CancelEpoch(reason=f"drew {drawn:.3f}")
        return CancelBatch(reason="drawn", state=state.scale_lr(0.5)) if drawn < 0.3 else state

    def after_epoch(self, state: TrainState) -> AnswerEpoch:
        """End some fits."""
        return CancelFit(reason="drawn") if torch.rand(()).item() < 0.1 else state


SUBSCRIBERS: Final[Mapping[str, Callable[[], Subscriber[Any]]]] = {
    "skips": SkipEveryThird,
    "rolls": Rolls,
    "averages": Averages,
    "cancels": Cancels,
    "stops": lambda: EarlyStopping(monitor="loss", patience=1, min_delta=0.05),
    "goes back": lambda: Rollback(every=2, spike=1.01, at_most=2),
}

# -- where batches come from ----------------------------------------------------------------------------------------


def noise() -> float:
    """Draw from all three generators that a transform may draw from."""
    return torch.rand(()).item() + random.random() + float(np.random.rand())


class Noisy(Dataset[Batch]):
    """Samples with a transform that draws random numbers."""

    def __init__(self, samples: Batch) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples[0])

    def __getitem__(self, index: int) -> Batch:
        inputs, target = self.samples
        return inputs[index] + noise(), target[index]


class Rows(IterableDataset[Batch]):
    """The same, one after the other."""

    def __init__(self, samples: Batch) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Batch]:
        rows = Noisy(self.samples)
        return (rows[index] for index in range(len(rows)))


class Drawing:
    """No loader of torch's: batches in an order that it draws, with noise."""

    def __init__(self, samples: Batch, size: int) -> None:
        self.samples, self.size = samples, size

    def __iter__(self) -> Iterator[Batch]:
        inputs, target = self.samples
        order = torch.randperm(len(inputs)).tolist()
        for first in range(0, len(order), self.size):
            rows = order[first : first + self.size]
            yield inputs[rows] + noise(), target[rows]


def brightened(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """A transform of images, as `set_transform` takes it."""
    return {
        **columns,
        "image": [Image.eval(image, lambda pixel: pixel * 0.5 + 40 * noise()) for image in columns["image"]],
    }


def pictures(count: int, seed: int) -> Any:
    """Images of as many pixels as the models have inputs."""
    contents = [png(picture("L", 100 * seed + row, (2, 2))) for row in range(count)]
    return stored(contents, [row % 3 for row in range(count)])


def of_images(run: Run, *, memory_budget: int | None) -> DataLoaders[Any]:
    """Loaders of nntrain.data, with a transform where they stream."""
    dd = DatasetDict({"train": pictures(run.count, run.seed), "test": pictures(run.valid_count, run.seed + 1)})
    if memory_budget == 0:
        for part in dd.values():
            part.set_transform(brightened)
    return images.DataLoaders.from_hf_dd(dd, run.size, memory_budget=memory_budget, num_workers=run.workers)


def with_torch(run: Run, loader: Callable[[Batch], Any]) -> DataLoaders[Any]:
    """Loaders over the samples of each phase."""
    return DataLoaders(*(loader(samples_of(run.setup(), phase)) for phase in ("train", "eval")))


def samples_of(setup: Setup, phase: str) -> Batch:
    """Give a phase's samples in one batch."""
    inputs, target = zip(*setup.batches(phase), strict=True)
    return torch.cat(inputs), torch.cat(target)


LOADERS: Final[Mapping[str, Callable[[Run], Any]]] = {
    "list": lambda run: run.setup().loaders(),
    "keyed": lambda run: KeyedLoaders(*(KeyedLoader(run.setup().batches(phase)) for phase in ("train", "eval"))),
    "torch": lambda run: with_torch(
        run, lambda samples: DataLoader(Noisy(samples), run.size, shuffle=True, num_workers=run.workers)
    ),
    "torch, own generator": lambda run: with_torch(
        run,
        lambda samples: DataLoader(
            Noisy(samples), run.size, shuffle=True, generator=torch.Generator().manual_seed(7), num_workers=run.workers
        ),
    ),
    "torch, iterable": lambda run: with_torch(
        run, lambda samples: DataLoader(Rows(samples), run.size, num_workers=min(run.workers, 1))
    ),
    "any iterable": lambda run: with_torch(run, lambda samples: Drawing(samples, run.size)),
    "resident": lambda run: of_images(run, memory_budget=None),
    "streamed": lambda run: of_images(run, memory_budget=0),
}
WITH_WORKERS: Final = ("torch", "torch, own generator", "torch, iterable", "streamed")

# -- a configuration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A configuration by value: a process that is told of it makes an equal learner.

    `more` are the epochs of a second fit, 0 for none. `hops` is how many transitions the second process goes on before
    it saves.
    """

    data: str
    model: str = "mlp"
    optimizer: str = "momentum"
    lr: float = 0.05
    count: int = 7
    valid_count: int = 5
    size: int = 3
    subs: tuple[str, ...] = ()
    seed: int = 0
    more: int = 0
    hops: int = 2
    workers: int = 0
    capture: bool = False
    device: str = "cpu"

    def setup(self) -> Setup:
        """Give the part of it that the other laws have too."""
        return Setup(
            model=self.model,
            optimizer=self.optimizer,
            lr=self.lr,
            train=cut(self.count, self.size),
            valid=cut(self.valid_count, self.size),
            data_seed=self.seed,
            device=torch.device(self.device),
            capture=self.capture,
        )

    def learner(self, sinks: Sequence[Any]) -> Learner[Any]:
        """Make a new learner."""
        made = self.setup().learner([SUBSCRIBERS[name]() for name in self.subs], sinks)
        return made.replace(dls=LOADERS[self.data](self))

    @classmethod
    def of(cls, folder: Path) -> Run:
        """Read what a process was told."""
        told = json.loads((folder / "run.json").read_text())
        return cls(**{**told, "subs": tuple(told["subs"])})


def cut(count: int, size: int) -> tuple[int, ...]:
    """Cut samples into batches."""
    return tuple(min(size, count - first) for first in range(0, count, size))


def whole(count: int, size: int) -> int:
    """Give a count whose last batch is not of one sample, which BatchNorm refuses."""
    return count + 1 if count % size == 1 else count


@st.composite
def runs(draw: st.DrawFn, data: str, device: str = "cpu") -> Run:
    """Draw configurations on a kind of data."""
    size = draw(st.integers(2, 3))
    workers = draw(st.integers(0, 2)) if data in WITH_WORKERS else 0
    return Run(
        data=data,
        model=draw(st.sampled_from(list(MODELS))),
        optimizer=draw(st.sampled_from(list(OPTIMIZERS))),
        lr=draw(st.sampled_from([0.5, 0.05, 0.01])),
        count=whole(draw(st.integers(7, 9)), size),  # three batches and more
        valid_count=whole(draw(st.integers(2, 5)), size),
        size=size,
        subs=tuple(sorted(draw(st.sets(st.sampled_from(list(SUBSCRIBERS)), max_size=4)))),
        seed=draw(st.integers(0, 1000)),
        more=0 if workers else draw(st.sampled_from([0, 1])),  # each phase begins its workers: they take the time
        hops=draw(st.integers(1, 4)),
        workers=workers,
        capture=draw(st.booleans()),
        device=device,
    )


# -- what can be compared -------------------------------------------------------------------------------------------


def digest(value: object) -> str:
    """Digest a value by its bits; only what a clock said is left out."""
    into = hashlib.sha256()
    spell(value, into.update)
    return into.hexdigest()[:16]


def spell(value: object, write: Callable[[bytes], None]) -> None:
    """Spell a value out, each part with its kind, so that no two values are spelt alike."""
    write(f"{type(value).__qualname__}(".encode())
    if isinstance(value, Tensor):
        one = value.detach().cpu().contiguous()
        write(f"{one.dtype}{list(one.shape)}".encode() + one.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, TrainState):
        spell(parts_of(value), write)
    elif isinstance(value, WeightedSums):
        spell((value.metrics, value.tolist()), write)
    elif isinstance(value, BaseModel):
        clock = {"seconds"} if isinstance(value, (EpochStats, Sums)) else set()
        spell({name: part for name, part in value.__dict__.items() if name not in clock}, write)
    elif isinstance(value, Mapping):
        for name in sorted(value, key=repr):
            write(repr(name).encode())
            spell(value[name], write)
    elif isinstance(value, (list, tuple)):
        for part in value:
            spell(part, write)
    else:
        write(struct.pack(">d", value) if isinstance(value, float) else repr(value).encode())
    write(b")")


def parts_of(state: TrainState) -> dict[str, object]:
    """Take a state apart."""
    snapshot = state.tensors.snapshot()
    optim = snapshot.optim
    return {
        "weights": dict(snapshot.params),
        "buffers": dict(snapshot.buffers),
        "optimizer": (optim.kind, optim.state, optim.groups),
        "progress": state.progress,
        "sums": state.sums,
        "history": tuple(state.history),
        "key": state.key,
        "lr_scale": state.lr_scale,
        "slots": dict(state.slots),
    }


def shown(one: Transition) -> dict[str, Any]:
    """Give what can be compared of a transition: in words where that helps, else by digests."""
    progress = one.progress
    return {
        "at": one.at,
        "place": f"epoch {progress.epoch} of {progress.epochs}, {progress.phase}, batch {progress.batch}",
        "event": one.event,
        "by": one.by,
        "verdict": one.verdict and (type(one.verdict).__name__, one.verdict.reason),
        "stats": digest(one.stats),
        "output": one.output and digest((one.output.loss, one.output.preds, dict(one.output.metrics))),
        "lr_scale": one.lr_scale,
        "logged": digest([event for event in one.logged if event.event != "checkpoint_loaded"]),
        **{name: digest(part) for name, part in parts_of(one.state).items()},
    }


HEAD: Final = ("run_started", "fit_started", "history_replaced")
CLOCK: Final = {"timestamp", "run_id", "seq", "elapsed_s", "seconds", "samples_per_s"}


OF_ITSELF: Final = ("checkpoint_loaded", "warning")
"""What a process has to say of itself."""


def lines_of(path: Path, offset: int = 0) -> list[dict[str, Any]]:
    """Read a log from a byte on, less what the clock said, and what a process says of itself."""

    def timeless(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: timeless(one) for name, one in part.items() if name not in CLOCK}
        return [timeless(one) for one in part] if isinstance(part, list) else part

    content = path.read_bytes()[offset:] if path.exists() else b""
    lines = [timeless(json.loads(line)) for line in content.splitlines()]
    return [line for line in lines if line["event"] not in OF_ITSELF]


def beheaded(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out how a log begins: what the run is, and what lies behind it."""
    while lines and lines[0]["event"] in HEAD:
        lines = lines[1:]
    return lines


# -- what the processes do ------------------------------------------------------------------------------------------


class Watching:
    """A sink that notes each transition, and saves the state after it as `saved` says."""

    def __init__(self, log: Path, saved: Callable[[int], Path | None]) -> None:
        self.course: list[dict[str, Any]] = []
        self.offsets = [0]
        self.printed = io.StringIO()
        self.log = log
        self.saved = saved

    def __call__(self, transition: Transition, /) -> None:
        path = self.saved(len(self.course))
        if path is not None:
            save(transition.state, path)
        self.course.append(shown(transition))
        self.offsets.append(self.log.stat().st_size)

    def trained(self, run: Run, train: Callable[[Learner[Any]], TrainState]) -> dict[str, Any]:
        """Train with a new learner, and tell all there is to tell of it."""
        with JsonLog(self.log, every="all", sync="never") as log, contextlib.redirect_stdout(self.printed):
            state = train(run.learner([PrintStats(), log, self]))
        return {
            "loaded": self.log.read_text().count('"checkpoint_loaded"') if self.course else 0,
            "course": self.course,
            "lines": lines_of(self.log),
            "rest": [len(lines_of(self.log, offset)) for offset in self.offsets],
            "printed": self.printed.getvalue().splitlines(),
            "end": {name: digest(part) for name, part in parts_of(state).items()},
        }


def prepare(run: Run) -> None:
    """Make a process like the one that the tests run in."""
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    cuda = capture.recorder_for
    capture.recorder_for = lambda device: cuda(device) or TapeRecorder()


def train_straight(folder: str) -> None:
    """Be the first process: train, and save the state before the first transition and after each."""
    here = Path(folder)
    run = Run.of(here)
    prepare(run)
    watching = Watching(here / "straight.jsonl", lambda index: here / f"{index + 1}.safetensors")
    first_fit: list[int] = []

    def train(learner: Learner[Any]) -> TrainState:
        state = learner.init(run.seed, epochs=2)
        save(state, here / "0.safetensors")
        state = fit_step(learner, state).state
        first_fit.append(len(watching.course))
        return fit_step(learner, state, run.more).state if run.more else state

    told = watching.trained(run, train)
    (here / "straight.json").write_text(json.dumps({**told, "first_fit": first_fit[0]}))


def go_on(folder: str, first_fit: int, *, again: bool) -> None:
    """Be another process: go on from each file, to the end."""
    here = Path(folder)
    run = Run.of(here)
    prepare(run)
    told: dict[int, dict[str, Any]] = {}
    for path in sorted(here.glob("again-*.safetensors" if again else "[0-9]*.safetensors")):
        number = int(path.stem.removeprefix("again-"))

        def train(learner: Learner[Any], path: Path = path, number: int = number) -> TrainState:
            state = load(path, learner)
            if state.progress.at != "finished":
                state = fit_step(learner, state).state
            return fit_step(learner, state, run.more).state if run.more and number <= first_fit else state

        def saved(index: int, number: int = number) -> Path | None:
            return here / f"again-{number + run.hops}.safetensors" if index + 1 == run.hops and not again else None

        told[number] = Watching(here / f"{path.stem}.jsonl", saved).trained(run, train)
        if again and not run.workers:
            # And without sinks, where batches that merely run make no transitions.
            told[number]["quiet"] = {name: digest(part) for name, part in parts_of(train(run.learner([]))).items()}
    (here / ("again.json" if again else "resumed.json")).write_text(json.dumps(told))


def go_on_first(folder: str, first_fit: int) -> None:
    """Be the second process."""
    go_on(folder, first_fit, again=False)


def go_on_again(folder: str, first_fit: int) -> None:
    """Be the third process."""
    go_on(folder, first_fit, again=True)


# -- the law --------------------------------------------------------------------------------------------------------


def start(warm: Warm, run: Run, function: Callable[..., None], folder: Path, *arguments: int) -> None:
    """Run a function in a new process, to its end. A device cannot be used in one that was forked."""
    if run.device == "cpu":
        child = warm.start(function, folder / function.__name__, str(folder), *arguments)
        assert child.wait() == 0, child.stderr.read_text()
        return
    code = f"from {__name__} import {function.__name__} as run; run{(str(folder), *arguments)!r}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def check(warm: Warm, run: Run, folder: Path) -> None:
    """Check the law for one configuration."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(asdict(run)))
    start(warm, run, train_straight, folder)
    straight = json.loads((folder / "straight.json").read_text())
    course, first_fit = straight["course"], straight["first_fit"]
    assert course[-1].items() >= straight["end"].items()

    start(warm, run, go_on_first, folder, first_fit)
    resumed = {int(number): told for number, told in json.loads((folder / "resumed.json").read_text()).items()}
    end = len(course)
    assert sorted(resumed) == list(range(end + 1))
    for number, told in resumed.items():
        same(run, straight, number, told)

    start(warm, run, go_on_again, folder, first_fit)
    again = {int(number): told for number, told in json.loads((folder / "again.json").read_text()).items()}
    # From the files at the end of a fit, where no second one follows, there is nothing to go on with.
    assert sorted(again) == list(range(run.hops, end + 1))
    for number, told in again.items():
        same(run, straight, number, told)
        assert told.get("quiet", straight["end"]) == straight["end"]


def same(run: Run, straight: dict[str, Any], number: int, told: dict[str, Any]) -> None:
    """Compare what was told from a file on with what the straight run told from there on."""
    where = f"{run}, from the file {number}"
    rest = straight["course"][number:]
    for one, other in zip(told["course"], rest, strict=False):
        assert one == other, f"{where}: {other['at']}, {other['place']}"
    assert len(told["course"]) == len(rest), where
    assert told["end"] == straight["end"], where
    assert told["printed"] == straight["printed"][len(straight["printed"]) - len(told["printed"]) :], where
    assert len(told["printed"]) == sum(one["stats"] != digest(None) for one in rest), where
    head = [line["event"] for line in told["lines"][: len(told["lines"]) - len(beheaded(told["lines"]))]]
    if rest:
        assert head.count("run_started") == head.count("fit_started") == told["loaded"] == 1, where
    lines = straight["lines"]
    if run.device == "cpu":
        lines = lines[len(lines) - straight["rest"][number] :]
    else:  # a log reads a device's numbers in groups
        lines = lines[len(lines) - len(beheaded(told["lines"])) :]
    assert beheaded(told["lines"]) == beheaded(lines), where


FEW_LOADERS: Final = ("list", "torch")
"""What is tried always; the sweep tries the others."""


@pytest.mark.parametrize(
    ("data", "examples"),
    [
        *((one, EXAMPLES // 2) for one in FEW_LOADERS),
        *(pytest.param(one, EXAMPLES, marks=pytest.mark.sweep) for one in LOADERS),
    ],
)
def test_law_every_transition_can_be_gone_on_from_in_a_new_process(
    warm: Warm, tmp_path_factory: pytest.TempPathFactory, data: str, examples: int
) -> None:
    @settings(max_examples=examples)
    @given(run=runs(data))
    def law(run: Run) -> None:
        check(warm, run, tmp_path_factory.mktemp("law4") / "run")

    law()


@pytest.mark.sweep
@pytest.mark.parametrize("workers", [0, 1])
def test_law_with_all_that_subscribers_do_over_two_fits(warm: Warm, tmp_path: Path, workers: int) -> None:
    """What the drawn ones may miss: everything at once, and batches that are never of one size."""
    run = Run("torch", "conv", "adamw", 0.05, 8, 5, 3, tuple(SUBSCRIBERS), seed=31, more=1, hops=3, workers=workers)
    check(warm, run, tmp_path / "run")
    told = json.loads((tmp_path / "run" / "straight.json").read_text())
    events = {line["event"] for line in told["lines"]}
    assert {"tests.law4_counted", "cancelled", "rolled_back", "batch_finished"} <= events
    assert len({one["weights"] for one in told["course"]}) > 3
    assert told["first_fit"] < len(told["course"])


@pytest.mark.sweep
def test_law_from_a_device_to_a_new_process(warm: Warm, tmp_path: Path, device: torch.device) -> None:
    subs = ("averages", "rolls", "skips")
    check(warm, Run("torch", "conv", "adamw", subs=subs, more=1, device=str(device), capture=True), tmp_path / "run")


def test_the_processes_are_not_the_same_one(warm: Warm, tmp_path: Path) -> None:
    """And none has the memory of another: each is forked from one that has seen no configuration."""
    for name in ("one", "other"):
        child = warm.start(tell_memory, tmp_path / name, str(tmp_path / name))
        assert child.wait() == 0, child.stderr.read_text()
    one, other = (json.loads((tmp_path / name / "memory.json").read_text()) for name in ("one", "other"))
    assert one["process"] != other["process"]
    assert one["runs"] == other["runs"] == 0
    assert os.getpid() not in {one["process"], other["process"]}


def tell_memory(folder: str) -> None:
    """Tell which process this is, and how many runs it knows of."""
    import gc

    runs = [one for one in gc.get_objects() if isinstance(one, (Run, Watching))]
    Path(folder, "memory.json").write_text(json.dumps({"process": os.getpid(), "runs": len(runs)}))
