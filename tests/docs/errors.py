"""Every error and warning, what to do, and a message: `python -m tests.docs.errors > docs/reference/errors.md`.

What is said of each is its docstring; the messages are those of the mistakes below, which are made anew each time.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import pickle
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from nntrain import (
    CancelBatch,
    DataLoaders,
    EarlyStopping,
    Interest,
    Learner,
    StepOutput,
    Subscriber,
    TrainState,
    Transition,
    advance,
    batch_step,
    errors,
    fit_step,
)
from nntrain.checkpoint import load, save
from nntrain.errors import NNTrainError, needed
from nntrain.log import JsonLog, read
from nntrain.ranks.comparing import disagreement
from nntrain.update import optimizer

HEAD: Final = """# Errors and warnings

Every error of nntrain's own is one of these: its cause, what to do, and a message as an example. A message says by
itself what was given, what was expected and what to do, so this page is seldom needed. The name before the message, at
the end of a traceback, is the heading here, and `help(nntrain.errors.BusyError)` shows the same at a Python prompt.

All of them are in `nntrain.errors`. The errors derive from `NNTrainError`, and each is also the builtin kind that fits,
so that `except ValueError` works as usual. What your own code raises (a model, a loss, a loader, a subscriber) passes
on as it is, with a note that says where it happened; `nntrain.state_before(error)` is the training before that step.

The page is made from the code, and its messages by making the mistakes: `python -m tests.docs.errors` writes it anew.
"""

BATCH: Final = torch.zeros(2, 2), torch.zeros(2, 1)
Loss = Callable[[Tensor, Tensor], Tensor]


def mean(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).square().mean()


def each(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).square()


class Forgets(Subscriber[object]):
    def after_epoch(self, state: TrainState) -> TrainState:  # type: ignore[empty-body] # the mistake
        pass


class CancelsABatch(Subscriber[object]):
    def before_epoch(self, state: TrainState) -> CancelBatch:  # type: ignore[override] # the mistake
        return CancelBatch(reason="too long")


class Fails:
    interest = Interest(places={"after_epoch"})

    def __call__(self, transition: Transition, /) -> None:
        raise OSError("no space left on device")


class Remembers:
    """Batches in an order that depends on how often they were read, which is in no state."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(2):
            self.reads += 1
            yield BATCH


def learner(model: nn.Module | None = None, loss: Loss = mean, **more: Any) -> Learner[Any, Any]:
    dls = more.pop("dls", None) or DataLoaders([BATCH], [BATCH])
    return Learner(model or nn.Linear(2, 1), dls, loss, more.pop("metric", {}), torch.optim.SGD, 0.1, **more)


def fit(*args: Any, **more: Any) -> TrainState:
    one = learner(*args, **more)
    return fit_step(one, one.init(seed=0), epochs=1).state


def step_within_a_step() -> None:
    class Steps(Subscriber[object]):
        def after_epoch(self, state: TrainState) -> TrainState:
            return fit_step(one, state, epochs=1).state

    one = learner(subs=[Steps()])
    fit_step(one, one.init(seed=0), epochs=1)


def write_to_what_is_lent() -> None:
    with learner().init(seed=0).borrow() as params:
        params["weight"].zero_()


def go_on_with_other_metrics() -> None:
    first = learner(metric={"mae": mean}, dls=DataLoaders([BATCH, BATCH]))
    amid = batch_step(first, first.init(seed=0), BATCH).state
    other = learner(metric={"mse": mean}, dls=DataLoaders([BATCH, BATCH]))
    batch_step(other, amid, BATCH)


def have_other_settings_on_a_rank() -> None:
    error = disagreement([{"setting lr": "0.1"}, {"setting lr": "0.2"}, {"setting lr": "0.1"}])
    assert error is not None
    raise error


def load_another_model() -> None:
    save(learner().init(seed=0), "small.ckpt")
    load("small.ckpt", learner(nn.Linear(3, 1)))


def load_a_damaged_file() -> None:
    save(learner().init(seed=0), "run.ckpt")
    content = bytearray(Path("run.ckpt").read_bytes())
    content[-1] ^= 1
    Path("run.ckpt").write_bytes(content)
    load("run.ckpt", learner())


def watch_what_no_batch_has() -> None:
    def task(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput[Tensor]:
        inputs, target = batch
        preds = model(inputs)
        return StepOutput(mean(preds, target), preds, target, parts={"mae": (preds - target).abs().mean()})

    rule = optimizer(torch.optim.SGD, lr=0.1)
    one = Learner.of(
        nn.Linear(2, 1), DataLoaders([BATCH], [BATCH]), task, rule, subs=[EarlyStopping("mea", patience=2)]
    )
    batch_step(one, one.init(seed=0), BATCH)


def go_on_amid_an_epoch_of_a_forgetful_loader() -> None:
    one = learner(dls=DataLoaders(Remembers()))
    state = one.init(seed=0, epochs=2)
    while (state.progress.epoch, state.progress.batch) != (1, 1):
        state = advance(one, state).state
    fit_step(learner(dls=DataLoaders(Remembers())), state)


def read_a_torn_log() -> None:
    with JsonLog("run.jsonl") as log:
        fit(sinks=[log])
    lines = Path("run.jsonl").read_bytes().splitlines(keepends=True)
    Path("run.jsonl").write_bytes(lines[0] + lines[1][:80])
    list(read("run.jsonl"))


MISTAKES: Final[dict[type[BaseException], Callable[[], object]]] = {
    errors.ConfigError: lambda: DataLoaders.from_hf_dd({}, batch_size=64),  # type: ignore[arg-type] # the mistake
    errors.DataError: lambda: DataLoaders([], [BATCH]),
    errors.LossError: lambda: fit(loss=each),
    errors.MetricError: lambda: fit(metric={"mse": each}),
    errors.SubscriberError: lambda: fit(subs=[Forgets()]),
    errors.VerdictError: lambda: fit(subs=[CancelsABatch()]),
    errors.StateError: go_on_with_other_metrics,
    errors.StatePicklingError: lambda: pickle.dumps(learner().init(seed=0)),
    errors.BorrowError: write_to_what_is_lent,
    errors.BusyError: step_within_a_step,
    errors.RankError: have_other_settings_on_a_rank,
    errors.LogError: lambda: list(read("run-7.jsonl")),
    errors.CheckpointError: load_a_damaged_file,
    errors.MisfitError: load_another_model,
    errors.MissingExtraError: lambda: needed("a_package", extra="plot", purpose="nntrain.plots"),
    errors.ConfigWarning: watch_what_no_batch_has,
    errors.DataWarning: go_on_amid_an_epoch_of_a_forgetful_loader,
    errors.SinkWarning: lambda: fit(sinks=[Fails()]),
    errors.LogWarning: read_a_torn_log,
}
"""A mistake for each class that has a message of its own."""
WITHOUT: Final = {errors.NNTrainError, errors.Terminated, errors.OrderWarning}
"""The classes without one: the root, what ends a process, and what is no longer given."""


def classes() -> list[type[BaseException]]:
    """Return the errors and warnings, in the order of their module."""
    found = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, BaseException)]
    return [one for one in found if one.__module__ == errors.__name__]


def message(kind: type[BaseException]) -> str:
    """Make the mistake of a class in an empty folder, and return what is said of it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        os.chdir(folder)
        try:
            MISTAKES[kind]()
        except kind as error:
            return str(error)
        finally:
            os.chdir(before)
    (said,) = {str(one.message) for one in warned if one.category is kind}
    return said


def wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, 110, break_on_hyphens=False) for line in text.splitlines())


def section(kind: type[BaseException]) -> Iterator[str]:
    """Yield what the page says of a class."""
    yield f"## `{kind.__name__}`\n"
    builtin = [base.__name__ for base in kind.__mro__[1:] if base.__module__ in {"builtins", "_pickle"}]
    paragraphs = (inspect.getdoc(kind) or "").split("\n\n")
    if kind is not NNTrainError:
        paragraphs[-1] = f"**What to do.** {paragraphs[-1]}"
    yield from (f"{wrapped(' '.join(paragraph.split()))}\n" for paragraph in paragraphs)
    if kind is not NNTrainError:
        yield f"It is also: `{builtin[0]}`.\n"
    others = sorted(f"{one.__module__.removesuffix('.reading')}.{one.__name__}" for one in kind.__subclasses__())
    if kind is not NNTrainError and others:
        yield f"Kinds of it: {', '.join(f'`{other}`' for other in others)}.\n"
    if kind not in WITHOUT:
        yield f"```text\n{wrapped(message(kind))}\n```\n"


def page() -> str:
    with contextlib.redirect_stdout(io.StringIO()):  # what the fits print
        return "\n".join([HEAD, *(line for kind in classes() for line in section(kind))])


if __name__ == "__main__":
    sys.stdout.write(page())
