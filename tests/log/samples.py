"""Logs as the tests of their readers need them, made of lines and not of a training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from nntrain.log import (
    BatchFinished,
    CancelledEvent,
    CheckpointSaved,
    EpochFinished,
    EpochStarted,
    FitFinished,
    FitStarted,
    Line,
    LogEvent,
    RunFailed,
    RunFinished,
    RunStarted,
    WarningEvent,
)
from nntrain.values.progress import Phase
from nntrain.values.record import FrozenMapping

RUN = "0199b9a1-0000-7000-8000-00000000000"
CONFIG: Mapping[str, Any] = {
    "learner": "Learner(Sequential, 50 parameters, cross_entropy, SGD, lr=0.1, subs=[])",
    "model": "Sequential",
    "parameters": 50,
    "trainable_parameters": 50,
    "loss_fn": "cross_entropy",
    "metrics": ["metric"],
    "optimizer": "SGD",
    "lr": 0.1,
    "compile": False,
    "capture": False,
    "subscribers": [],
    "sinks": ["JsonLog"],
    "train_batches": 20,
    "valid_batches": 5,
    "data": {"train": {"kind": "list", "start": "by index"}, "eval": {"kind": "list", "start": "by index"}},
    "versions": {"nntrain": "0.1.0", "python": "3.11.7", "torch": "2.11.0", "pydantic": "2.11.0", "structlog": "25.1"},
    "device": "cpu",
    "seed": 0,
    "host": {"system": "Linux", "machine": "x86_64", "cpus": 2},
}


BATCHES: Final[Mapping[Phase, int]] = {"train": 20, "eval": 5}


class Script:
    """Writes lines as a training would: whoever says what happens need not count."""

    def __init__(self, number: int = 0, *, rank: int = 0, started: datetime | None = None) -> None:
        self.run_id = f"{RUN}{number}"
        self.rank = rank
        self.lines: list[Line] = []
        self.started = started or datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC) + timedelta(hours=number)
        self.elapsed = 0.0
        self.place: dict[str, Any] = {"epoch": 0, "phase": "train", "batch": 0, "step": 0, "samples": 0}

    def say(self, event: LogEvent, seconds: float = 0.01, **place: Any) -> None:
        """Add a line, `seconds` after the one before, with the place changed as said."""
        self.place |= place
        self.elapsed = round(self.elapsed + seconds, 6)
        self.lines.append(
            Line(
                event=event,
                timestamp=self.started + timedelta(seconds=self.elapsed),
                level=event.level,
                run_id=self.run_id,
                seq=len(self.lines),
                elapsed_s=self.elapsed,
                rank=self.rank,
                **self.place,
            )
        )


def scripted(
    number: int = 0,
    *,
    epochs: int = 3,
    batches: Mapping[Phase, int] = BATCHES,
    every: int | None = None,
    config: Mapping[str, Any] = FrozenMapping(),
    metrics: tuple[str, ...] = ("metric",),
    nan_at: int | None = None,
    ends: Literal["completed", "cancelled", "failed", "running"] = "completed",
    text: str = "no better",
) -> list[Line]:
    """Give the lines of a run.

    `every` is that of the batch events, None for none; at the optimizer's step `nan_at` the loss is NaN; `ends` says
    how it ends, in the last epoch; `text` is what the subscriber, the warning and the error say.
    """
    script = Script(number)
    script.say(RunStarted(config=FrozenMapping({**CONFIG, "train_batches": batches["train"], **config})))
    script.say(FitStarted(epochs=epochs, resumed=False))
    script.say(WarningEvent(code="capture.device", text=text))
    step = 0
    loss, values = math.nan, FrozenMapping[float]()
    for epoch in range(epochs):
        phases: tuple[Phase, ...] = ("train", "eval")
        for phase in phases:
            script.say(EpochStarted(), epoch=epoch, phase=phase, batch=0, samples=0, step=step)
            last = epoch == epochs - 1
            if last and phase == "eval" and ends == "cancelled":
                script.say(CancelledEvent(scope="fit", reason=text, subscriber="EarlyStopping", at="before_epoch"))
                script.say(FitFinished(outcome="cancelled"))
                script.say(RunFinished())
                return script.lines
            for batch in range(1, batches[phase] + 1):
                step += phase == "train"
                done = epoch + batch / batches[phase]
                loss = math.nan if step == nan_at else 2.3 * math.exp(-done / 2) + 0.1 * math.sin(7 * done + number)
                values = FrozenMapping(dict.fromkeys(metrics, 1 - loss / 3))
                if every is not None and batch % every == 0:
                    script.say(
                        BatchFinished(
                            loss=loss, metrics=values, lr=0.1 if phase == "train" else None, samples_per_s=64 / 0.01
                        ),
                        batch=batch,
                        step=step,
                        samples=64 * batch,
                    )
                if last and batch == 3 and ends == "running":
                    return script.lines
            if last and phase == "eval" and ends == "failed":
                script.say(
                    RunFailed(
                        error_type="RuntimeError",
                        error_message=text,
                        where="batch, eval of epoch 2",
                        traceback=f"Traceback (most recent call last):\n  File a.py\nRuntimeError: {text}\n",
                    )
                )
                return script.lines
            script.say(
                EpochFinished(loss=loss, metrics=values, batches=batches[phase], seconds=batches[phase] * 0.01),
                batch=batches[phase],
                step=step,
                samples=64 * batches[phase],
            )
        if epoch == 0:
            script.say(
                CheckpointSaved(path="runs/0.ckpt", bytes=12345, seconds=0.01, waited_seconds=0.0, digest="sha256:00ff")
            )
    script.say(FitFinished(outcome="completed"))
    script.say(RunFinished())
    return script.lines


def written(path: Path, lines: Iterable[Line]) -> Path:
    """Write lines to a file."""
    path.write_text("".join(json.dumps(line.fields(), ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path
