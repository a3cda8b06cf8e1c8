"""The page's tables: every number that is drawn by epoch, readable without a script."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from nntrain.log.replay import Run, RunOutcome
from nntrain.log.report.config import Setting
from nntrain.log.report.happenings import Happening, Kind
from nntrain.log.report.markup import Child, long_text, row, table, tag
from nntrain.log.report.series import loss, metric, metrics_of, samples_per_s
from nntrain.log.report.shown import Shown
from nntrain.log.report.symbols import swatch, symbol
from nntrain.log.text import LONGEST, as_float, in_a_line, number, seconds, whole
from nntrain.values.history import EpochStats
from nntrain.values.progress import Phase

_MOST_OF_A_KIND: Final = 200
_MOST_PHASES: Final = 1000
_MOST_METRICS: Final = 12
_OUTCOMES: Final[dict[RunOutcome, str]] = {
    "running": "… running",
    "completed": "✓ completed",
    "cancelled": "■ cancelled",
    "failed": "✗ failed",
}


def named(one: Shown) -> ET.Element:
    """Make a run's name, in its colour; its id is told where one points at it."""
    return tag("span", swatch(one.colour), tag("span", one.name), class_="run", title=in_a_line(one.run.run_id, 200))


def summary(runs: Sequence[Shown]) -> ET.Element:
    """Make the table of what came out: a run a row."""
    names = metrics_of([one.run for one in runs])[:_MOST_METRICS]
    head = ["run", "outcome", "epochs", "best eval loss", "final loss, train", "final loss, eval"]
    head += [f"final {in_a_line(name, 40)}, {phase}" for name in names for phase in ("train", "eval")]
    head += ["duration", "lost lines", "started", "learner"]
    rows: list[ET.Element] = []
    for one in runs:
        run = one.run
        last = {phase: _last(run, phase) for phase in ("train", "eval")}
        values = [_value(stats, loss) for stats in last.values()]
        values += [_value(stats, metric(name)) for name in names for stats in last.values()]
        lost = tag("strong", whole(run.missing)) if run.missing else "0"
        learner = run.config.get("learner")
        cells: list[Child] = [
            named(one),
            tag("span", _OUTCOMES[run.outcome], class_=f"outcome {run.outcome}"),
            f"{whole(_epochs_done(run))} of {whole(run.epochs)}",
            _best(run),
            *values,
            seconds(run.elapsed_s),
            lost,
            run.started.strftime("%Y-%m-%d %H:%M:%S UTC"),
            long_text(learner if isinstance(learner, str) else "–", 120),
        ]
        rows.append(row(*cells))
    return table(head, rows, "What came out", class_="numbers summary")


def _last(run: Run, phase: Phase | str) -> EpochStats | None:
    return next((stats for stats in reversed(run.history) if stats.phase == phase), None)


def _value(stats: EpochStats | None, value: Callable[[EpochStats], float | None]) -> Child:
    found = None if stats is None else value(stats)
    if found is not None and not math.isfinite(found):
        return tag("strong", number(found), class_="nonfinite")
    return number(found)


def _epochs_done(run: Run) -> int:
    return len({stats.epoch for stats in run.history if stats.phase == "train"})


def _best(run: Run) -> str:
    finite = [stats for stats in run.history if stats.phase == "eval" and math.isfinite(stats.loss)]
    if not finite:
        return "–"
    best = min(finite, key=loss)
    return f"{number(best.loss)} (epoch {whole(best.epoch)})"


def config(found: Sequence[Setting], runs: Sequence[Shown], caption: str) -> ET.Element:
    """Make a table of settings: a run a column; a row that differs is marked, and says so."""
    rows = [
        row(
            tag(
                "span", tag("span", "≠ ", title="not the same in all runs") if one.differs else None, long_text(one.key)
            ),
            *(long_text(value) if value is not None else tag("span", "–", class_="absent") for value in one.values),
            class_="differs" if one.differs else None,
        )
        for one in found
    ]
    head: list[Child] = ["setting", *(named(one) for one in runs)]
    return table(head, rows, caption, class_="settings")


def timings(runs: Sequence[Shown]) -> ET.Element:
    """Make the table of where the time went."""
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
        rows.append(row(named(one), *cells))
    return table(head, rows, "Timings", class_="numbers")


def happened(runs: Sequence[Shown]) -> ET.Element:
    """Make the table of what happened in each run; of a kind that comes often, its first."""
    rows: list[ET.Element] = []
    for one in runs:
        count: Counter[Kind] = Counter()
        for happening in one.happenings:
            count[happening.kind] += 1
            if count[happening.kind] <= _MOST_OF_A_KIND:
                rows.append(_happened(one, happening))
        for kind, seen in count.items():
            if seen > _MOST_OF_A_KIND:
                left = f"and {seen - _MOST_OF_A_KIND:,} more of this kind; the log has all"
                rows.append(row(named(one), _kind(kind), left, "", "", ""))
    return table(["run", "what", "in words", "after", "where", "step"], rows, "What happened", class_="happened")


def _happened(one: Shown, happening: Happening) -> ET.Element:
    line, detail = happening.line, happening.detail
    more = tag("details", tag("summary", "more"), tag("span", detail[:LONGEST], class_="text")) if detail else None
    return row(
        named(one),
        _kind(happening.kind),
        tag("td", long_text(happening.text), more, class_="words"),
        seconds(line.elapsed_s),
        f"epoch {whole(line.epoch)}, {line.phase}, batch {whole(line.batch)}",
        whole(line.step),
    )


def _kind(kind: Kind) -> ET.Element:
    return tag("span", symbol(kind), tag("span", "custom event" if kind == "other" else kind), class_=f"kind {kind}")


def phases(one: Shown) -> Iterator[Child]:
    """Yield a run's finished phases as a table, folded away."""
    names = metrics_of([one.run])[:_MOST_METRICS]
    history = one.run.history
    shown: Sequence[EpochStats] = history
    note = None
    if len(shown) > _MOST_PHASES:
        half = _MOST_PHASES // 2
        note = tag("p", f"The first and the last {half} of {len(history):,} phases; the log has all.", class_="note")
        shown = (*shown[:half], *shown[-half:])
    head = ["epoch", "phase", "loss", *(in_a_line(name, 40) for name in names)]
    head += ["samples", "batches", "seconds", "samples/s"]
    rows = [
        row(
            whole(stats.epoch),
            stats.phase,
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
    yield tag(
        "details",
        tag("summary", named(one), count),
        note,
        table(head, rows, f"The phases of {one.name}", class_="numbers"),
        class_="phases",
    )
