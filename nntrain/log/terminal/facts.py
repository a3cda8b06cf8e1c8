"""What a run is, and what came of it, in a few lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from rich.text import Text

from nntrain.log.line import Line
from nntrain.log.replay import RunOutcome
from nntrain.log.terminal import words
from nntrain.log.terminal.screen import Screen
from nntrain.log.text import word
from nntrain.values.history import EpochStats

_STYLES: Final[dict[RunOutcome, str]] = {
    "running": "bold yellow",
    "completed": "bold green",
    "cancelled": "bold yellow",
    "failed": "bold red",
}


def begin(screen: Screen, run_id: str, started: datetime, config: Mapping[str, object]) -> None:
    """Write what a run is: its name, what is trained, on what, since when."""
    screen.row(Text.assemble(("run ", "bold"), (words.line(run_id), "bold cyan")))
    for label, said in _facts(config):
        screen.entry(Text(label, style="dim"), Text(said))
    screen.entry(Text("started", style="dim"), Text(started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")))


def _facts(config: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the facts that there are, each with its label."""
    if "learner" in config:
        yield "learner", words.setting(config["learner"])
    model = [words.setting(config["model"])] if "model" in config else []
    parameters, trainable = config.get("parameters"), config.get("trainable_parameters")
    if isinstance(parameters, int):
        part = f", {words.whole(trainable)} of them trained" if isinstance(trainable, int) else ""
        model.append(words.counted(parameters, "parameter") + ("" if trainable == parameters else part))
    if model:
        yield "model", ", ".join(model)
    where = [words.setting(config["device"])] if "device" in config else []
    seed = [words.setting(config["seed"])] if "seed" in config else []
    if where:
        yield "device", ", ".join(where + [f"seed {one}" for one in seed])
    elif seed:
        yield "seed", seed[0]
    versions = config.get("versions")
    if isinstance(versions, Mapping) and versions:
        yield "versions", words.line(", ".join(f"{of} {word(one)}" for of, one in versions.items()), 500)


def end(
    screen: Screen,
    outcome: RunOutcome,
    history: Iterable[EpochStats],
    *,
    epochs: int,
    last: Line,
    mark: str = "",
) -> None:
    """Write what came of a run: how it ended, how far it got, how long it took, and its best eval loss."""
    phases = [*history]
    finished = {stats.epoch for stats in phases if stats.phase == "eval"}
    said = f"{words.whole(len(finished))} of {words.counted(epochs, 'epoch')} in {words.duration(last.elapsed_s)}"
    if outcome == "running":
        batch = f", batch {words.whole(last.batch)}" if last.batch else ""
        said = f"{said}; the log ends in epoch {words.whole(last.epoch)} {last.phase}{batch}"
    found = [stats for stats in phases if stats.phase == "eval" and not math.isnan(stats.loss)]
    if found:
        best = min(found, key=lambda stats: stats.loss)
        said = f"{said}; lowest eval loss {words.number(best.loss)}, in epoch {words.whole(best.epoch)}"
    name = "unfinished" if outcome == "running" else outcome
    screen.entry(Text.assemble((f"{mark}  " if mark else "", "cyan"), (f"{name:<10}", _STYLES[outcome])), Text(said))
