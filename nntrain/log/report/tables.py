"""The page's tables: all numbers by epoch, readable without scripts."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from nntrain.log.events import RunFailed
from nntrain.log.replay import Run, RunOutcome, seconds_in_batches, verdicts_of
from nntrain.log.report.config import Setting
from nntrain.log.report.markup import Child, long_text, row, table, tag
from nntrain.log.report.notable import Kind, NotableEvent
from nntrain.log.report.run_view import RunView
from nntrain.log.report.series import labels_of, loss, metric, metrics_of, samples_per_s
from nntrain.log.report.symbols import swatch, symbol
from nntrain.log.sentences import sentence
from nntrain.log.text import LONGEST, as_float, number, one_line, seconds, whole
from nntrain.values.history import EpochStats

_MOST_OF_A_KIND: Final = 200
_MOST_PHASES: Final = 1000
"""The most rows of the tables of all runs together."""
_MOST_METRICS: Final = 12
_MOST_DIFFERING: Final = 30
_MOST_COLUMNS: Final = 20
_OUTCOMES: Final[dict[RunOutcome, str]] = {
    "running": "… running",
    "completed": "✓ completed",
    "cancelled": "■ cancelled",
    "failed": "✗ failed",
}


def run_name(one: RunView) -> ET.Element:
    """Return a run's name, with its colour; the id is shown when the mouse is over it."""
    return tag("span", swatch(one.colour), tag("span", one.name), class_="run", title=one_line(one.run.run_id, 200))


def summary(runs: Sequence[RunView]) -> ET.Element:
    """Return the table of results, with a row for each run."""
    names = metrics_of([one.run for one in runs])[:_MOST_METRICS]
    labels = labels_of([one.run for one in runs])
    head = ["run", "outcome", "epochs", f"best {one_line(labels[1], 40)} loss"]
    head += [f"final {one_line(name, 40)}, {one_line(label, 40)}" for name in ("loss", *names) for label in labels]
    head += ["duration", "lost lines", "started", "learner"]
    rows: list[ET.Element] = []
    for one in runs:
        run = one.run
        last = {label: _last(run, label) for label in labels}
        values = [_value(stats, loss) for stats in last.values()]
        values += [_value(stats, metric(name)) for name in names for stats in last.values()]
        lost = tag("strong", whole(run.missing)) if run.missing else "0"
        learner = run.config.get("learner")
        cells: list[Child] = [
            run_name(one),
            tag("span", _OUTCOMES[run.outcome], class_=f"outcome {run.outcome}"),
            _epochs_done(run),
            _best(run, labels[1]),
            *values,
            seconds(run.elapsed_s),
            lost,
            run.started.strftime("%Y-%m-%d %H:%M:%S UTC"),
            long_text(learner if isinstance(learner, str) else "–", 120),
        ]
        rows.append(row(*cells, data_of=str(one.index)))
    return table(head, rows, "What came out", class_="numbers summary sortable")


def _last(run: Run, label: str) -> EpochStats | None:
    return next((stats for stats in reversed(run.history) if stats.label == label), None)


def _value(stats: EpochStats | None, value: Callable[[EpochStats], float | None]) -> Child:
    found = None if stats is None else value(stats)
    if found is not None and not math.isfinite(found):
        return tag("strong", number(found), class_="nonfinite")
    return number(found)


def _epochs_done(run: Run) -> str:
    done = whole(len({stats.epoch for stats in run.history if stats.phase == "train"}))
    if run.until is None:
        return f"{done} of {whole(run.epochs)}"
    return f"{done} ({whole(run.last.step)} of {whole(run.until)} steps)"


def _best(run: Run, label: str) -> str:
    finite = [stats for stats in run.history if stats.label == label and math.isfinite(stats.loss)]
    if not finite:
        return "–"
    best = min(finite, key=lambda stats: stats.loss)
    return f"{number(best.loss)} (epoch {whole(best.epoch)})"


def differing(found: Sequence[Setting], runs: Sequence[RunView]) -> ET.Element:
    """Return the table of the settings that differ, with a row for each run and a column for each setting."""
    shown = found[:_MOST_DIFFERING]
    rows = []
    for one in runs:
        values = [setting.values[one.index] for setting in shown]
        rows.append(row(run_name(one), *map(_setting, values), data_of=str(one.index)))
    head = ["run", *(one_line(setting.key, 60) for setting in shown)]
    made = table(head, rows, "What differs", class_="differing sortable")
    if len(found) > len(shown):
        more = f"{len(found) - len(shown):,} more settings differ; they are under Config."
        return tag("div", made, tag("p", more, class_="note"))
    return made


def _setting(value: str | None) -> ET.Element:
    return tag("span", "–", class_="absent") if value is None else long_text(value, 120)


def config(found: Sequence[Setting], runs: Sequence[RunView], caption: str) -> ET.Element:
    """Return a table of settings, with a column for each run: values that differ are marked, others are there once."""
    rows = []
    for one in found:
        unlike = tag("span", "≠ ", title="not the same in all runs") if one.differs else None
        values: list[Child] = [_setting(value) for value in one.values[:_MOST_COLUMNS]]
        if not one.differs:
            values = [tag("td", _setting(one.values[0]), colspan=str(min(len(runs), _MOST_COLUMNS)))]
        named = tag("span", unlike, long_text(one.key))
        rows.append(row(named, *values, class_="differs" if one.differs else None))
    head: list[Child] = ["setting", *(run_name(one) for one in runs[:_MOST_COLUMNS])]
    return table(head, rows, caption, class_="settings")


def timings(runs: Sequence[RunView]) -> ET.Element:
    """Return the table of timings."""
    head = ["run", "total", "in train", "in eval", "beside", "train epoch, mean", "slowest train epoch"]
    head += ["samples/s, train", "samples/s, eval"]
    rows: list[ET.Element] = []
    for one in runs:
        run = one.run
        phases = {phase: [stats for stats in run.history if stats.phase == phase] for phase in ("train", "eval")}
        spent = {phase: sum(stats.seconds for stats in found) for phase, found in phases.items()}
        rates = [
            as_float(sum(stats.samples for stats in found)) / spent[phase] if spent[phase] > 0 else None
            for phase, found in phases.items()
        ]
        beside = run.elapsed_s - sum(spent.values())
        train = phases["train"]
        slowest = max(train, key=lambda stats: stats.seconds, default=None)
        cells = [
            seconds(run.elapsed_s),
            seconds(spent["train"]) if train else "–",
            seconds(spent["eval"]) if phases["eval"] else "–",
            seconds(beside) if beside >= 0 else "–",
            seconds(spent["train"] / len(train)) if train else "–",
            "–" if slowest is None else f"{seconds(slowest.seconds)} (epoch {whole(slowest.epoch)})",
            *(number(rate) for rate in rates),
        ]
        rows.append(row(run_name(one), *cells, data_of=str(one.index)))
    return table(head, rows, "Timings", class_="numbers sortable")


def ranks(runs: Sequence[RunView]) -> ET.Element:
    """Return the table of the ranks of runs on several processes: which failed, gave verdicts, or was slower."""
    head = ["run", "rank", "outcome", "verdicts", "up to its logged batches", "failure", "lost lines"]
    rows: list[ET.Element] = []
    for one in runs:
        spent = {each.rank: seconds_in_batches(each) for each in one.run.ranks}
        for each in one.run.ranks:
            slowest = len(spent) > 1 and 0 < spent[each.rank] == max(spent.values())
            said = [sentence(line) for line in each.events if isinstance(line.event, RunFailed)]
            cells: list[Child] = [
                run_name(one),
                f"{whole(each.rank)} of {whole(one.run.world_size)}",
                tag("span", _OUTCOMES[each.outcome], class_=f"outcome {each.outcome}"),
                whole(verdicts_of(one.run, each.rank)),
                f"{seconds(spent[each.rank])}{' (the slowest)' * slowest}" if spent[each.rank] else "–",
                long_text(said[-1], 120) if said else "–",
                whole(each.missing),
            ]
            rows.append(row(*cells))
    return table(head, rows, "Ranks", class_="numbers")


def notable(runs: Sequence[RunView]) -> ET.Element:
    """Return the table of notable events; checkpoints are folded, and of a frequent kind only the first are there."""
    rows: list[ET.Element] = []
    for one in runs:
        of_kind: dict[Kind, list[NotableEvent]] = {}
        for event in one.notable:
            of_kind.setdefault(event.kind, []).append(event)
        folded = of_kind.get("checkpoint", [])
        count: Counter[Kind] = Counter()
        for event in one.notable:
            count[event.kind] += 1
            if event.kind == "checkpoint" and len(folded) > 1:
                if count[event.kind] == 1:
                    rows.append(_folded_row(one, folded))
            elif count[event.kind] <= _MOST_OF_A_KIND:
                rows.append(_notable_row(one, event, (event.text, event.detail)))
        for kind, events in of_kind.items():
            if len(events) > _MOST_OF_A_KIND and kind != "checkpoint":
                left = f"and {len(events) - _MOST_OF_A_KIND:,} more of this kind; the log has all"
                rows.append(row(run_name(one), _kind(kind), left, "", "", "", data_of=str(one.index)))
    return table(["run", "what", "in words", "after", "where", "step"], rows, "What happened", class_="happened")


def _folded_row(one: RunView, events: Sequence[NotableEvent]) -> ET.Element:
    """Return one row for all checkpoints of a run: how many, the last, and all at a click."""
    listed = [f"{_where(event)}, step {whole(event.line.step)}: {event.text}" for event in events[-_MOST_OF_A_KIND:]]
    if len(events) > _MOST_OF_A_KIND:
        listed.insert(0, f"the last {_MOST_OF_A_KIND}; the log has all:")
    return _notable_row(
        one, events[-1], (f"{len(events):,} checkpoints; the last: {events[-1].text}", "\n".join(listed))
    )


def _notable_row(one: RunView, event: NotableEvent, words: tuple[str, str]) -> ET.Element:
    line = event.line
    text, detail = words
    more = tag("details", tag("summary", "more"), tag("span", detail[:LONGEST], class_="text")) if detail else None
    return row(
        run_name(one),
        _kind(event.kind),
        tag("td", long_text(text), more, class_="words"),
        seconds(line.elapsed_s),
        _where(event),
        whole(line.step),
        data_of=str(one.index),
    )


def _where(event: NotableEvent) -> str:
    line = event.line
    return f"epoch {whole(line.epoch)}, {one_line(line.label, 40)}, batch {whole(line.batch)}"


def _kind(kind: Kind) -> ET.Element:
    return tag("span", symbol(kind), tag("span", "custom event" if kind == "other" else kind), class_=f"kind {kind}")


def all_phases(runs: Sequence[RunView]) -> tuple[ET.Element, ...]:
    """Return the tables of the finished phases of all runs, which together have a limited number of rows."""
    most = max(10, _MOST_PHASES // max(1, len(runs)))
    return tuple(phases(one, most) for one in runs)


def phases(one: RunView, most: int) -> ET.Element:
    """Return the table of a run's finished phases, which opens at a click."""
    names = metrics_of([one.run])[:_MOST_METRICS]
    history = one.run.history
    shown: Sequence[EpochStats] = history
    note = None
    if len(shown) > most:
        half = most // 2
        note = tag("p", f"The first and the last {half} of {len(history):,} phases; the log has all.", class_="note")
        shown = (*shown[:half], *shown[-half:])
    head = ["epoch", "phase", "loss", *(one_line(name, 40) for name in names)]
    head += ["samples", "batches", "seconds", "samples/s"]
    rows = [
        row(
            whole(stats.epoch),
            one_line(stats.label, 40),
            _value(stats, loss),
            *(_value(stats, metric(name)) for name in names),
            whole(stats.samples),
            whole(stats.batches),
            number(stats.seconds),
            number(samples_per_s(stats)),
        )
        for stats in shown
    ]
    count = f" · {len(history):,} finished phases"
    return tag(
        "details",
        tag("summary", run_name(one), count),
        note,
        table(head, rows, f"The phases of {one.name}", class_="numbers sortable"),
        class_="phases",
        data_of=str(one.index),
    )
