"""Weights & Biases runs, written offline."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nntrain.errors import LogError, needed
from nntrain.log.events import CancelledEvent, RunStarted
from nntrain.log.export.curves import Curves
from nntrain.log.export.exporter import Exporter, RunExporter
from nntrain.log.export.names import name_of_run
from nntrain.log.export.text import plain, safe, safe_sentence
from nntrain.log.extras import variable
from nntrain.log.line import Line
from nntrain.log.replay import Ending, ending
from nntrain.values.log_event import RolledBack, WarningEvent

if TYPE_CHECKING:
    from wandb import Run

_EXIT: Final[Mapping[Ending, int]] = {"completed": 0, "cancelled": 0, "failed": 1, "interrupted": 130, "unknown": 255}
_WARNINGS: Final = 100


class WeightsAndBiases(RunExporter):
    """Writes each run into `wandb/offline-run-...` in a folder, for `wandb sync`; nothing goes over the network.

    The configuration is the run's; each epoch's phase and each batch is a row of its history, with the points of
    `Curves`, `step`, `epoch`, `elapsed_s` and the line's time. The optimizer's step is a column, and the axis of the
    curves (of eval's batches it is `evaluated`), because W&B's own step must always increase. The summary has
    `outcome`, cancellations, warnings (the first hundred) and errors. The exit code is 0, or 1 if the run failed, 130
    after Ctrl-C, 255 if the log does not say how it ended.

    Needs the extra `wandb`, which starts its own process.
    """

    def __init__(self, folder: str | os.PathLike[str], *, project: str = "nntrain") -> None:
        needed("wandb", extra="wandb", purpose="Writing Weights & Biases runs")
        import wandb

        super().__init__("Weights & Biases runs", "Weights & Biases", wandb.Error)
        self._folder = Path(folder).absolute()
        self._project = project
        self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK | os.X_OK):  # wandb would write somewhere else
            raise LogError(f"The Weights & Biases runs cannot be written: {folder} is not writable.")

    def _run(self, first: Line) -> Exporter:
        return _Run(self._folder, self._project, first)


class _Run(Exporter):
    """A W&B run. After `close`, W&B's process writes the rest within moments, and before this program ends."""

    def __init__(self, folder: Path, project: str, first: Line) -> None:
        import wandb

        name = name_of_run(first)
        # by default even an offline run reports its use and errors over the network
        with variable("WANDB_ERROR_REPORTING", "false"):
            self._run: Run = wandb.init(
                project=project,
                id=name,
                name=name,
                dir=str(folder),
                mode="offline",
                reinit="create_new",  # a run that the program itself has started stays as it is
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
        self._messages: dict[str, list[str]] = {}
        self._ending: Ending = "unknown"

    def write(self, line: Line, /) -> None:
        """Log a line's points, configuration or message."""
        self._ending = ending(self._ending, line)
        row: dict[str, object] = {}
        for point in self._curves.points(line):
            if point.curve not in self._drawn:
                self._drawn.add(point.curve)
                # in this name, a dot that is not escaped leads into a mapping
                self._run.define_metric(point.curve.replace(".", "\\."), step_metric=point.axis)
            row[point.curve] = point.value
            row[point.axis] = point.x
        if row:
            when = {"elapsed_s": line.elapsed_s, "_timestamp": line.timestamp.timestamp()}
            self._run.log({**row, "epoch": line.epoch, **when})
        if isinstance(line.event, RunStarted):
            self._configure(_config(line.event.config))
        elif isinstance(line.event, (CancelledEvent, RolledBack, WarningEvent)) or line.level == "error":
            messages = self._messages.setdefault("error" if line.level == "error" else line.event.event, [])
            if len(messages) < _WARNINGS:
                messages.append(safe_sentence(line))

    def _configure(self, config: dict[str, object]) -> None:
        update: Callable[..., None] = self._run.config.update  # wandb has no types for it
        update(config, allow_val_change=True)

    def close(self) -> None:
        """Write the summary, and finish the run."""
        self._run.summary.update({"outcome": self._ending, **self._messages})
        self._run.finish(exit_code=_EXIT[self._ending])


def _config(config: Mapping[str, object]) -> dict[str, object]:
    """Return the configuration; an empty name, and names that W&B reserves, get the prefix `nntrain.`."""
    named = ((safe(name), plain(value)) for name, value in config.items())
    return {f"nntrain.{name}" if not name or name.startswith("_wandb") else name: value for name, value in named}
