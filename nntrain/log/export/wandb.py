"""Weights & Biases runs, written offline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nntrain.errors import LogError
from nntrain.log.events import CancelledEvent, RunStarted
from nntrain.log.export.curves import Curves
from nntrain.log.export.environment import variable
from nntrain.log.export.exporter import Exporter
from nntrain.log.export.names import name_of_run
from nntrain.log.export.outcomes import Ending, ending
from nntrain.log.export.text import plain, safe, safe_sentence
from nntrain.log.extras import needed
from nntrain.log.line import Line
from nntrain.values.log_event import RolledBack, WarningEvent

if TYPE_CHECKING:
    from wandb import Run

_EXIT: Final[Mapping[Ending, int]] = {"completed": 0, "cancelled": 0, "failed": 1, "interrupted": 130, "unknown": 255}
_WARNINGS: Final = 100


class WeightsAndBiases(Exporter):
    """Writes each run into `wandb/offline-run-...` in a folder, for `wandb sync`; nothing goes over the network.

    The configuration is the run's; each epoch's phase and each batch is a row of its history, with the points of
    `Curves`, `step`, `epoch`, `elapsed_s` and the line's time. The optimizer's step is a column, and the axis of the
    curves (of eval's batches it is `evaluated`), rather than W&B's own step, which may not stand still nor go back.
    The summary has `outcome`, and what was cancelled, warned of (the first hundred) and failed. The exit code is 0, or
    1 where the run failed, 130 after Ctrl-C, 255 where the log does not say how it ended.

    Needs the extra `wandb`, which starts a process of its own beside this one.
    """

    def __init__(self, folder: str | os.PathLike[str], *, project: str = "nntrain") -> None:
        needed("wandb", extra="wandb", purpose="Writing Weights & Biases runs")
        self._folder = Path(folder).absolute()
        self._project = project
        self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK | os.X_OK):  # wandb would write somewhere else
            raise LogError(f"The Weights & Biases runs cannot be written: {folder} is not writable.")
        self._runs: dict[tuple[str, int], _Run] = {}
        self._closed = False

    def write(self, line: Line, /) -> None:
        """Hand a line over."""
        if self._closed:
            raise LogError("The Weights & Biases runs are closed.")
        with _as_log_error():
            run = self._runs.get((line.run_id, line.rank))
            if run is None:
                run = self._runs[line.run_id, line.rank] = _Run(self._folder, self._project, line)
            run.take(line)

    def close(self) -> None:
        """End the runs. W&B's process writes the last of them within moments, and before this program ends."""
        if not self._closed:
            self._closed = True
            with _as_log_error():
                for run in self._runs.values():
                    run.end()


class _Run:
    """A run of W&B's."""

    def __init__(self, folder: Path, project: str, first: Line) -> None:
        import wandb

        name = name_of_run(first)
        # an offline run reports on its own use and failures, unless it is told not to
        with variable("WANDB_ERROR_REPORTING", "false"):
            self._run: Run = wandb.init(
                project=project,
                id=name,
                name=name,
                dir=str(folder),
                mode="offline",
                reinit="create_new",  # a run of the program's own stays what it is
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    disable_code=True,
                    save_code=False,
                    x_disable_stats=True,
                    x_disable_meta=True,
                    x_disable_machine_info=True,
                    x_save_requirements=False,
                ),
            )
        if self._run.disabled or not self._run.offline:
            raise LogError("Weights & Biases is not offline, but disabled or online, by the environment's WANDB_MODE.")
        self._configure({"nntrain": {"run_id": safe(first.run_id), "rank": first.rank}})
        self._curves = Curves()
        self._drawn: set[str] = set()
        self._told: dict[str, list[str]] = {}
        self._ending: Ending = "unknown"

    def take(self, line: Line) -> None:
        """Hand a line over."""
        self._ending = ending(self._ending, line)
        row: dict[str, object] = {}
        for point in self._curves.points(line):
            if point.curve not in self._drawn:
                self._drawn.add(point.curve)
                self._run.define_metric(_exactly(point.curve), step_metric=point.axis)
            row[point.curve] = point.value
            row[point.axis] = point.x
        if row:
            when = {"elapsed_s": line.elapsed_s, "_timestamp": line.timestamp.timestamp()}
            self._run.log({**row, "epoch": line.epoch, **when})
        if isinstance(line.event, RunStarted):
            self._configure(_config(line.event.config))
        elif isinstance(line.event, (CancelledEvent, RolledBack, WarningEvent)) or line.level == "error":
            said = self._told.setdefault("error" if line.level == "error" else line.event.event, [])
            if len(said) < _WARNINGS:
                said.append(safe_sentence(line))

    def _configure(self, config: dict[str, object]) -> None:
        update: Callable[..., None] = self._run.config.update  # wandb has no types for it
        update(config, allow_val_change=True)

    def end(self) -> None:
        """Write the summary, and end the run."""
        self._run.summary.update({"outcome": self._ending, **self._told})
        self._run.finish(exit_code=_EXIT[self._ending])


def _exactly(curve: str) -> str:
    """Give a metric's name as W&B's definitions have it: a dot there leads into a mapping, unless it is escaped."""
    return curve.replace(".", "\\.")


def _config(config: Mapping[str, object]) -> dict[str, object]:
    """Give the configuration; names that are W&B's own, and one that is empty, stand behind `nntrain.`."""
    named = ((safe(name), plain(value)) for name, value in config.items())
    return {f"nntrain.{name}" if not name or name.startswith("_wandb") else name: value for name, value in named}


@contextmanager
def _as_log_error() -> Iterator[None]:
    import wandb

    try:
        yield
    except wandb.Error as error:
        raise LogError(f"Weights & Biases refused: {safe(' '.join(str(error).split()), 500)}") from error
