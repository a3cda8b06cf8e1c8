"""What can go wrong, by name: every error of nntrain's own derives from `NNTrainError`.

Each is also the builtin kind that fits, so that `except ValueError` keeps working. An error raised by the
caller's own code (model, loss, metric, loader, subscriber) is never wrapped: it passes on as it is, with a note
that says where it happened, and `nntrain.state_before(error)` leads back to the training as it stood before.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal

__all__ = [
    "BorrowError",
    "BusyError",
    "CheckpointError",
    "ConfigError",
    "ConfigWarning",
    "DataError",
    "DataWarning",
    "LogError",
    "LogWarning",
    "LossError",
    "MetricError",
    "MisfitError",
    "MissingExtraError",
    "NNTrainError",
    "OrderWarning",
    "RankError",
    "SinkWarning",
    "StateError",
    "StatePicklingError",
    "SubscriberError",
    "Terminated",
    "VerdictError",
]


class NNTrainError(Exception):
    """The root of nntrain's own errors."""


class ConfigError(NNTrainError, ValueError):
    """An argument that cannot be meant: it says what was given, what was expected and what to do.

    Nothing has begun yet, and nothing is lost: change the argument, the option or the entry that the message names.
    """


class DataError(NNTrainError, ValueError):
    """Data that cannot be trained on.

    The message names the split, the batch, the row or the file. Repair it, leave it out, or tell the loader what
    the data are; a training that was under way goes on from `nntrain.state_before(error)`.
    """


class LossError(NNTrainError, ValueError):
    """A loss function that returned something other than a scalar tensor with a gradient.

    Let `loss_fn(preds, target)`, or the task, return a tensor without dimensions that was computed from the model's
    parameters: no `.item()`, no `.detach()`, no `torch.no_grad()` on the way, and `.mean()` or `.sum()` at its end.
    """


class MetricError(NNTrainError, ValueError):
    """A metric that returned something other than a number.

    Let `metric_fn(preds, target)` return a tensor without dimensions, or a float; a `Metric`, what its kind
    says. More than one number are more than one metric: `{"accuracy": accuracy, "top5": top5}`.
    """


class SubscriberError(NNTrainError, TypeError):
    """A subscriber whose methods, or whose answers, are not what the event allows.

    Let each method end with `return state`, or with a verdict that its event allows, and name methods as the events
    are: mypy finds both before anything runs. `nntrain.testing.check_subscriber` finds what only running shows.
    """


class VerdictError(NNTrainError, ValueError):
    """A verdict that cancels a scope which is not running.

    Answer with the verdict of a scope that is running: `CancelBatch` in `before_batch` and `after_batch` alone,
    `CancelEpoch` from `before_epoch` to `after_epoch`, `CancelFit` anywhere. The table is in the page on the
    machine.
    """


class StateError(NNTrainError, ValueError):
    """A state whose tensors do not fit the learner, or whose tensors were lost.

    Go on with a learner of the same model, metrics, sets and task as the one that made the state, or finish the
    phase with that one first (`epoch_step(learner, state)`). Where tensors were lost, go on from a state that was
    kept.
    """


class StatePicklingError(NNTrainError, pickle.PicklingError):
    """A state that was to be pickled.

    Save it with `nntrain.checkpoint.save`, take its tensors with `state.params`, or copy it with
    `copy.deepcopy(state)`.
    """


class BorrowError(NNTrainError, RuntimeError):
    """A write to tensors that a state had only lent.

    Write to a copy (`tensor.clone()`), and keep a copy of what is needed after the block; `state.params` gives
    copies.
    """


class BusyError(NNTrainError, RuntimeError):
    """A learner that was asked for a step while it was in the middle of one.

    Give whoever asks a learner of its own: `learner.replace()` has the same parts and live tensors of its own.
    """


class RankError(NNTrainError, RuntimeError):
    """A training on several processes that cannot go on: `rank` is the one that failed, hung or differs, if known.

    Look at the output of the process that the message names: its own error is there. All ranks must take the same
    steps; where one may take longer, as with a first batch that is compiled, wait longer:
    `DataParallel(timeout=...)`.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank

    def __reduce__(self) -> tuple[type[RankError], tuple[str, int | None]]:
        return type(self), (str(self), self.rank)


class LogError(NNTrainError, OSError):
    """An event log that cannot be written or read. `lost_lines` counts the lines that it cost.

    Look at the path, the permissions and the free space. `nntrain log check FILE` says what is wrong with a file,
    and on which line; a training whose log fails goes on, and counts what is lost in `outcome.sink_failures`.
    """

    def __init__(self, *arguments: object, lost_lines: int = 0) -> None:
        super().__init__(*arguments)
        self.lost_lines = lost_lines

    @classmethod
    def unwritable(cls, path: object, reason: str | None) -> LogError:
        """Return the error of a file that the system does not let be written as a log."""
        return cls(
            f"The log {path} cannot be written: {reason}. Give the path of a file in a folder that exists and that you "
            f"may write to."
        )


CheckpointProblem = Literal["unreadable", "damaged", "foreign", "version", "unsavable", "unwritable"]


class CheckpointError(NNTrainError, OSError):
    """A checkpoint that cannot be read or written: `problem` says what is wrong with the file at `path`, or the state.

    It is "unreadable" (the file cannot be opened), "damaged", "foreign" (no checkpoint of nntrain's), of another
    "version", or "unwritable"; a state that holds what no checkpoint can is "unsavable".

    Take another file: `nntrain checkpoint latest FOLDER` names the newest that is whole, `resume` takes it by
    itself, and `nntrain checkpoint verify` says of each what is wrong. Nothing was loaded, and nothing that was
    there was overwritten.
    """

    def __init__(self, path: str, problem: CheckpointProblem, reason: str) -> None:
        reason = escape_untrusted(reason)
        super().__init__(f"{path}: {reason}.")
        self.path = path
        self.problem: CheckpointProblem = problem
        self.reason = reason

    def __reduce__(self) -> tuple[type[CheckpointError], tuple[str, CheckpointProblem, str]]:
        return type(self), (self.path, self.problem, self.reason)


def escape_untrusted(text: str) -> str:
    """Return untrusted text, as from a file: control characters escaped, and cut at a length."""
    shown = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text[:_LONGEST]
    )
    return shown if len(text) <= _LONGEST else f"{shown}… ({len(text) - _LONGEST:,} more characters)"


_LONGEST: Final = 2000


class MisfitError(NNTrainError, ValueError):
    """A checkpoint that is whole, but of another model or optimizer than the learner's.

    Build the model and the optimizer as they were when it was saved; the message lists each tensor that is missing,
    unexpected or of another shape. `nntrain checkpoint show FILE` says what is in it.
    """


class MissingExtraError(NNTrainError, ImportError):
    """A package that is not installed, and comes with an extra of nntrain's.

    Install it with the command in the message.
    """


def needed(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return the module `module`. Raises `MissingExtraError`, which names the extra, if it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".", maxsplit=1)[0]
        if error.name is not None and package != error.name.split(".")[0]:
            raise  # the package is installed, but something that it imports is not
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed: pip install 'nntrain[{extra}]'.", name=error.name
        ) from None


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM), and a step was let finish first. Uncaught, it ends it with code 143.

    Derives from `SystemExit`, and so from no error: `except Exception` does not stop it.

    Nothing is to be done: go on from the newest checkpoint. Catch it where something must be put in order first.
    """

    def __init__(self) -> None:
        super().__init__(143)


class ConfigWarning(UserWarning):
    """A learner probably does not say what is meant; the training goes on with it.

    Change what the message names, or say that it is meant: `warnings.simplefilter("ignore", ConfigWarning)`.
    """


class DataWarning(UserWarning):
    """Data are probably not what they are taken for, or not those of a straight run; the training goes on with them.

    Do what the message says, or go on if its reason does not matter: the training is a training, and only what the
    message names is not held.
    """


class SinkWarning(UserWarning):
    """A sink failed; the training went on without it.

    Look at the error that the message quotes, and mend the sink. It failed once and is asked again; each failure is
    counted in `outcome.sink_failures`. To stop at the first, give its `Interest` `strict=True`.
    """


class OrderWarning(UserWarning):
    """No longer given, and kept for filters: `nntrain.testing.clashes` finds subscribers whose order matters.

    Nothing is to be done.
    """


class LogWarning(UserWarning):
    """A log is not whole: a line of it is torn, or was lost.

    Nothing is to be done after a crash: the whole lines are read. Else see what else writes to that file.
    """


def add_note(error: BaseException, note: str) -> None:
    """Add a note (PEP 678), where the error takes one: what takes no attribute passes on without."""
    with suppress(Exception):
        error.add_note(note)


if not TYPE_CHECKING:  # so that type checkers see no attribute but those above

    def __getattr__(name: str) -> object:
        """Return `state_before`, which stands beside the state that it returns; `nntrain.state_before` is it."""
        if name == "state_before":
            return import_module("nntrain").state_before
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
