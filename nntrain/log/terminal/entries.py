"""What a run is, what happened in it beside its phases, and how it ended, in sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Final

from rich.padding import Padding
from rich.text import Text

from nntrain.log.events import CancelledEvent, FitStarted, HistoryReplaced, RunFailed
from nntrain.log.line import Line
from nntrain.log.replay import Run, seconds_in_batches, verdicts_of
from nntrain.log.sentences import sentence
from nntrain.log.terminal import words
from nntrain.log.terminal.screen import Screen
from nntrain.log.text import one_line, word
from nntrain.values.log_event import CheckpointLoaded, CheckpointSaved, LogEvent, RolledBack, WarningEvent

_KINDS: Final[Mapping[type[LogEvent], str]] = {
    CancelledEvent: "verdict",
    CheckpointSaved: "checkpoint",
    CheckpointLoaded: "checkpoint",
    FitStarted: "resumed",
    HistoryReplaced: "resumed",
    RolledBack: "resumed",
    WarningEvent: "warning",
    RunFailed: "failure",
}
_LONGEST: Final = 400
"""Characters of the longest sentence."""
_MOST_NAMES: Final = 20
"""How many names of events that are not nntrain's are shown; the rest are counted."""


def write_facts(screen: Screen, run: Run) -> None:
    """Print what a run is: its id, what is trained on what, and when it started."""
    screen.write(Text.assemble(("run ", "bold"), (words.line(run.run_id), "bold cyan")))
    for label, text in _facts(run.config):
        screen.entry(label, Text(text))
    screen.entry("started", Text(run.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")))


def write_ranks(screen: Screen, run: Run) -> None:
    """Print what each of several ranks did: how its log ends, how long its batches took, and what is missing."""
    if not run.ranks:
        return
    spent = {one.rank: seconds_in_batches(one) for one in run.ranks}
    for one in run.ranks:
        parts = [f"{one.outcome}, {words.counted(one.last.step, 'step')}"]
        if any(spent.values()):
            slowest = len(run.ranks) > 1 and spent[one.rank] == max(spent.values())
            parts.append(f"{words.duration(spent[one.rank])} up to its logged batches{', the slowest' * slowest}")
        if given := verdicts_of(run, one.rank):
            parts.append(words.counted(given, "verdict"))
        if one.missing:
            parts.append(f"{words.counted(one.missing, 'line')} of its log missing")
        screen.entry(f"rank {one.rank}", Text("; ".join(parts)))
    absent = run.world_size - len(run.ranks)
    if absent > 0:
        screen.entry("ranks", Text(f"{words.whole(absent)} of {words.whole(run.world_size)} have no log here"))


def _facts(config: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield what a config says of a run, each fact with its label."""
    fact = {name: words.line(word(config[name])) for name in ("learner", "model", "device", "seed") if name in config}
    parameters, trainable, versions = map(config.get, ("parameters", "trainable_parameters", "versions"))
    if isinstance(parameters, int):
        size = words.counted(parameters, "parameter")
        if isinstance(trainable, int) and trainable != parameters:
            size += f", {words.whole(trainable)} of them trained"
        fact["model"] = f"{fact['model']}, {size}" if "model" in fact else size
    if "device" in fact and "seed" in fact:
        fact["device"] += f", seed {fact.pop('seed')}"
    if isinstance(versions, Mapping) and versions:
        fact["versions"] = words.line(", ".join(f"{name} {word(one)}" for name, one in versions.items()), 500)
    for label in ("learner", "model", "device", "seed", "versions"):
        if label in fact:
            yield label, fact[label]


def kind_of(line: Line) -> str | None:
    """Return the label of what happened, or None if the line only reports progress or is not one of nntrain's."""
    began = isinstance(line.event, FitStarted) and not line.event.resumed
    return None if began else _KINDS.get(type(line.event))


def write_event(screen: Screen, kind: str, line: Line, mark: str = "") -> None:
    """Print what happened: where in the training, a sentence, and the traceback of a failure."""
    text = words.line(sentence(line), _LONGEST)
    if isinstance(line.event, RunFailed):
        screen.entry(kind, Text(text, style="red"), mark)
        traceback = words.block(line.event.traceback)
        if traceback:
            screen.write(Padding(Text(traceback, style="dim", overflow="fold"), (0, 0, 0, 2)))
    else:
        where = f"epoch {words.whole(line.epoch)} {one_line(line.label, 24)}: "
        screen.entry(kind, Text.assemble((where, "dim"), text), mark)


def write_lost(screen: Screen, count: int, mark: str = "") -> None:
    """Print how many lines are missing from the log, if any."""
    if count:
        text = f"{words.counted(count, 'line')} of the log {'is' if count == 1 else 'are'} missing"
        screen.entry("lost", Text(text), mark)


def write_other_names(screen: Screen, names: Counter[str], mark: str = "") -> None:
    """Print how many events that are not nntrain's there are of each name, if any."""
    if names:
        shown = [f"{words.whole(count)} × {one_line(name, 60)}" for name, count in names.most_common(_MOST_NAMES)]
        if len(names) > _MOST_NAMES:
            shown.append(f"{words.whole(len(names) - _MOST_NAMES)} more names")
        screen.entry("events", Text(", ".join(shown)), mark)


def write_outcome(screen: Screen, run: Run, mark: str = "") -> None:
    """Print how a run ended, how many epochs it finished, how long they took, and the lowest eval loss."""
    last = run.last
    evals = [stats for stats in run.history if stats.phase == "eval"]
    first = evals[0].data if evals else ""
    finished = len({stats.epoch for stats in evals or run.history})
    if run.until is None:
        done = f"{words.whole(finished)} of {words.counted(run.epochs, 'epoch')}"
    else:
        done = f"{words.whole(last.step)} of {words.counted(run.until, 'step')}"
    parts = [f"{done} in {words.duration(last.elapsed_s)}"]
    if run.outcome == "running":
        batch = f", batch {words.whole(last.batch)}" if last.batch else ""
        parts.append(f"the log ends in epoch {words.whole(last.epoch)} {last.phase}{batch}")
    scored = [stats for stats in evals if stats.data == first and not math.isnan(stats.loss)]
    best = min(scored, key=lambda stats: stats.loss, default=None)
    if best is not None:
        parts.append(
            f"lowest {one_line(best.label, 24)} loss {words.number(best.loss)}, in epoch {words.whole(best.epoch)}"
        )
    screen.entry("unfinished" if run.outcome == "running" else run.outcome, Text("; ".join(parts)), mark)
