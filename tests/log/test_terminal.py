"""Logs at a terminal: what they look like, live and after the fact, and that nothing in them is obeyed."""

from __future__ import annotations

import io
import math
import re
import runpy
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, zip_longest
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from nntrain.errors import MissingExtraError
from nntrain.log import (
    BatchFinished,
    CheckpointLoaded,
    CheckpointSaved,
    EpochFinished,
    EpochStarted,
    FitStarted,
    HistoryReplaced,
    Line,
    OtherEvent,
    RunFailed,
    RunStarted,
    WarningEvent,
    terminal,
)
from nntrain.log.following import Waiting
from nntrain.log.terminal.bars import Bar, Bars
from nntrain.log.terminal.gauge import Gauge
from nntrain.log.terminal.screen import Screen
from nntrain.values.record import FrozenMapping
from tests.log.samples import CONFIG, RUN, Script, scripted

Mode = Literal["plain", "colour"]
ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z])?")
FORBIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def console(mode: Mode = "plain", width: int = 100) -> Console:
    environ = {"TERM": "xterm-256color"}
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=mode == "colour",
        color_system="256" if mode == "colour" else None,
        _environ=environ,
    )


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def shown(lines: Iterable[Line], width: int = 100, mode: Mode = "plain") -> str:
    to = console(mode, width)
    terminal.show(lines, console=to)
    return written(to)


def followed(lines: Iterable[Line], width: int = 100, mode: Mode = "plain") -> str:
    to = console(mode, width)
    terminal.follow(iter(lines), console=to)
    return written(to)


def on_screen(output: str) -> list[str]:
    """What stands on an endless screen after `output`."""
    rows, at, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", output):
        if part == "\r":
            column = 0
        elif part == "\n":
            at, column = at + 1, 0
            rows += [""] * (at + 1 - len(rows))
        elif part.startswith("\x1b"):
            if part[-1] == "A":
                at -= int(part[2:-1] or 1)
                assert at >= 0, "the cursor went above what was written"
            elif part[-1] == "K":
                assert part == "\x1b[2K"
                rows[at] = ""
            else:
                assert part[-1] in "mhl", part
        else:
            rows[at] = rows[at][:column] + part + rows[at][column + len(part) :]
            column += len(part)
    while rows and not rows[-1]:
        rows.pop()
    return rows


# What it looks like


WIDE = """\
run 0199b9a1-0000-7000-8000-000000000000
learner    Learner(Sequential, 50 parameters, cross_entropy, SGD, lr=0.1, subs=[])
model      Sequential, 50 parameters
device     cpu, seed 0
versions   nntrain 0.1.0, python 3.11.7, torch 2.11.0, pydantic 2.11.0, structlog 25.1
started    2026-01-01 12:00:00 UTC

epoch  phase     loss   metric  samples  samples/s  seconds
    0  train   1.4607   0.5131    1,280      6,400     0.20
    0  eval    1.4607   0.5131      320      6,400     0.05
    1  train   0.9452   0.6849    1,280      6,400     0.20

warning    epoch 0 train: capture.device: no better
checkpoint epoch 0 eval: saved runs/0.ckpt (12.3 kB, 0.01 s)
failure    RuntimeError in batch, eval of epoch 2: no better
  Traceback (most recent call last):
    File a.py
  RuntimeError: no better
failed     1 of 2 epochs in 0.12 s; lowest eval loss 1.4607, in epoch 0
"""


def test_a_run_reads_well() -> None:
    assert shown(scripted(epochs=2, ends="failed")) == WIDE


def test_a_narrow_console_shows_the_same_in_more_lines() -> None:
    narrow = shown(scripted(epochs=2, ends="failed"), width=60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert narrow.split() == WIDE.split()
    assert "\n           SGD, lr=0.1, subs=[])\n" in narrow, "further lines hang below the first"


@pytest.mark.parametrize("width", [20, 33, 60, 100])
@pytest.mark.parametrize("output", [shown, followed])
def test_no_line_is_wider_than_the_console(output: Callable[..., str], width: int) -> None:
    lines = scripted(every=5, metrics=("a" * 50, "日本語" * 9, "c"), text="word " * 90, ends="failed")
    rows = output(lines, width).splitlines()
    assert max(len(row) + sum("\u3000" < letter < "\uff00" for letter in row) for row in rows) <= max(31, width)


def test_metrics_that_do_not_fit_go_on_in_a_further_table() -> None:
    names = tuple(f"metric number {n}" for n in range(9))
    text = shown(scripted(metrics=names), width=60)
    tables = [row for row in text.splitlines() if row.startswith("epoch")]
    assert len(tables) > 1
    assert all(sum(name in row for row in tables) == 1 for name in names)
    assert text.count("    2  eval ") == len(tables)
    live = followed(scripted(metrics=names), width=60)
    assert "8 more metrics: nntrain log show has them" in live


def test_a_narrow_console_does_without_the_rates() -> None:
    assert "epoch  phase     loss   metric  seconds\n" in shown(scripted(), width=41)


def test_runs_with_other_metrics_have_columns_of_their_own() -> None:
    text = shown(chain(scripted(0, metrics=("accuracy",)), scripted(1, metrics=("f1", "recall"))))
    headings = [row.split() for row in text.splitlines() if row.startswith("epoch")]
    assert [row[3:-3] for row in headings] == [["accuracy"], ["f1", "recall"]]
    assert text.count("run 0199") == 2


def test_a_metric_that_only_some_phases_have_has_a_dash() -> None:
    lines = scripted(epochs=1)
    last = next(line for line in reversed(lines) if isinstance(line.event, EpochFinished))
    assert isinstance(last.event, EpochFinished)
    event = last.event.model_copy(update={"metrics": FrozenMapping({"other": 0.25})})
    text = shown([line.model_copy(update={"event": event}) if line is last else line for line in lines])
    rows = [row.split() for row in text.splitlines() if row.startswith("    0")]
    assert [row[3:5] for row in rows] == [["0.5131", "–"], ["–", "0.2500"]]


def test_numbers_that_are_not_finite_have_their_names() -> None:
    script = Script()
    script.say(FitStarted(epochs=3, resumed=False))
    for epoch, value in enumerate((math.nan, math.inf, -math.inf)):
        event = EpochFinished(loss=value, metrics=FrozenMapping({"m": value}), batches=1, seconds=abs(value))
        script.say(event, epoch=epoch, samples=64)
    for output in (shown, followed):
        rows = [row.split() for row in output(script.lines).splitlines() if re.match(" +[012]  train", row)]
        values = [("nan", "nan"), ("inf", "inf"), ("-inf", "inf")]
        assert [(row[2], row[3], row[-1]) for row in rows] == [(value, value, took) for value, took in values]
    assert re.search("31m +nan", shown(script.lines, mode="colour")), "it stands out"


def test_numbers_of_any_size_keep_to_their_columns() -> None:
    script = Script()
    script.say(FitStarted(epochs=10**300, resumed=False))
    for value in (0.0, 1e-9, 12345.678, 1.7e308, -5e-324):
        event = EpochFinished(loss=value, metrics=FrozenMapping({"m": value}), batches=10**300, seconds=abs(value))
        script.say(event, samples=10**300, epoch=10**300, batch=10**300)
        script.say(BatchFinished(loss=value, metrics=FrozenMapping(), samples_per_s=math.inf))
    script.say(CheckpointSaved(path="p", bytes=10**300, seconds=math.nan, waited_seconds=0.0, digest=""))
    for mode in ("plain", "colour"):
        followed(script.lines, mode=mode)
    rows = [row for row in shown(script.lines).splitlines() if "  train " in row]
    assert len(rows) == 5
    assert len({len(row) for row in rows}) == 1
    assert [row.split("train")[1].split()[0] for row in rows] == [
        "0.0000",
        "1.000e-09",
        "12345.6780",
        "1.700e+308",
        "-4.941e-324",
    ]


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("completed", "completed  3 of 3 epochs in 0.18 s; lowest eval loss 0.5969, in epoch 2"),
        ("cancelled", "cancelled  2 of 3 epochs in 0.18 s; lowest eval loss 0.9452, in epoch 1"),
        ("failed", "failed     2 of 3 epochs in 0.16 s; lowest eval loss 0.9452, in epoch 1"),
        ("running", "unfinished 2 of 3 epochs in 0.13 s; the log ends in epoch 2 train; lowest"),
    ],
)
@pytest.mark.parametrize("output", [shown, followed])
def test_how_a_run_ended(output: Callable[..., str], ends: Any, said: str) -> None:
    text = output(scripted(ends=ends), 200)
    assert text.splitlines()[-1].startswith(said)
    assert ("EarlyStopping cancelled the fit at before_epoch: no better" in text) is (ends == "cancelled")
    assert ("  RuntimeError: no better\n" in text) is (ends == "failed")


def test_what_else_happened() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping({"parameters": 5000, "trainable_parameters": 50, "seed": 7})))
    script.say(CheckpointLoaded(path="old.ckpt", bytes=5_000_000, seconds=75.0, digest="d"))
    script.say(FitStarted(epochs=5, resumed=True), epoch=2)
    script.say(HistoryReplaced(kept=4, history=()))
    for name in ("acme.mixup", "acme.mixup", "acme.cut"):
        script.say(OtherEvent(event=name))
    lines = [*script.lines[:-2], script.lines[-1].model_copy(update={"seq": 9})]
    for output in (shown, followed):
        text = output(lines)
        assert "model      5,000 parameters, 50 of them trained\n" in text
        assert "seed       7\n" in text
        assert "checkpoint epoch 0 train: loaded old.ckpt (5 MB, 75 s)\n" in text
        assert "resumed    epoch 2 train: went on, towards 5 epochs\n" in text
        assert (
            "resumed    epoch 2 train: went on from another state: of the phases told before, 4 still hold; 0 are"
            in text
        )
        assert "lost       4 lines of the log are missing\n" in text
    assert "events     2 × acme.mixup, 1 × acme.cut\n" in shown(script.lines)
    assert "events     2 × acme.mixup, 1 × acme.cut\n" in followed(script.lines)


def test_what_happens_a_thousand_times_is_counted() -> None:
    script = Script()
    for number in range(1000):
        script.say(WarningEvent(code=f"code.{number}", text="again"))
    text = shown(script.lines)
    assert "code.19: again" in text
    assert "code.20: again" not in text
    assert "980 more like these" in text


def test_no_lines() -> None:
    assert shown([]) == "no run: there is no line\n"
    assert followed([]) == ""


# Live


def test_each_phase_is_written_when_it_is_finished() -> None:
    to = console("colour")
    after: list[tuple[str, int]] = []

    def fed() -> Iterator[Line]:
        for line in scripted():
            yield line
            rows = re.findall(r"\n? +\d  (?:train|eval) ", ESCAPE.sub("", written(to)))
            after.append((line.event.event, len(rows)))

    terminal.follow(fed(), console=to)
    finished = 0
    for event, rows in after:
        finished += event == "epoch_finished"
        assert rows == finished
    assert finished == 6


def test_where_no_line_comes_for_long_it_says_so_and_what_that_may_mean() -> None:
    to = console("plain")
    line, *_ = scripted()
    silence = [0.0, 0.2, 31.0, 31.2, 40.0, 70.0, 70.2]
    fed: list[Line | Waiting] = [
        Waiting(0.0, False),
        Waiting(0.2, False),
        line,
        *(Waiting(one, True) for one in silence),
    ]
    terminal.follow([*fed, line, Waiting(0.2, True), Waiting(30.0, True)], console=to)
    rows = [row for row in written(to).splitlines() if row.startswith(("waiting", "quiet"))]
    assert [row.split(":")[0] for row in rows] == [
        "waiting    for the log, which is not there yet",
        "quiet      no line for 31 s",
        "quiet      no line for 1",
        "quiet      no line for 30 s",
    ]
    said = " ".join(written(to).split())
    assert "--log-every none" in said
    assert "look whether its process still runs" in said


def test_the_bar_tells_for_how_long_no_line_came() -> None:
    now = [0.0]
    bar = Bar(clock=lambda: now[0])
    for line in scripted(every=10)[:5]:
        bar.add(line)
    assert "left" in str(bar.figures())
    now[0] = 45.0
    assert str(bar.figures()).startswith("no line for 45 s  loss")


def test_the_rate_of_the_bar_is_the_one_that_the_row_of_the_phase_will_have() -> None:
    """Also where the batches that are logged were quick ones: it is since the phase began."""
    gauge = Gauge()
    script = Script()
    script.say(EpochStarted(), batch=0, samples=0)
    began = script.lines[-1].elapsed_s
    script.say(BatchFinished(loss=1.0, metrics=FrozenMapping({}), lr=0.1, samples_per_s=9e9), batch=4, samples=256)
    taken = script.lines[-1].elapsed_s - began
    for line in script.lines:
        gauge.add(line)
    assert gauge.samples_per_s == pytest.approx(256 / taken)


def test_the_bar_moves_with_the_batches() -> None:
    to = console("colour")
    seen: list[str] = []

    def fed() -> Iterator[Line]:
        for line in scripted(every=10, epochs=2):
            yield line
            if line.event.event in {"fit_started", "batch_finished"}:
                deadline = time.monotonic() + 10
                begun = len(written(to))
                while "━" not in written(to)[begun:] and time.monotonic() < deadline:
                    time.sleep(0.02)
                seen.append([row for row in re.split("[\r\n]+", ESCAPE.sub("", written(to))) if "━" in row][-1])

    terminal.follow(fed(), console=to)
    assert [re.findall(r"epoch \d \w+|\d+%", row) for row in seen[1:]] == [
        ["epoch 0 train", "20%"],
        ["epoch 0 train", "40%"],
        ["epoch 1 train", "70%"],
        ["epoch 1 train", "90%"],
    ]
    assert all("loss 1.7562  64,000 samples/s  metric 0.4146" in row for row in seen[1:2])
    assert all(len(row.rstrip()) <= 100 for row in seen)


@pytest.mark.parametrize("ends", ["failed", "running"])
@pytest.mark.parametrize("width", [60, 100])
def test_what_stays_on_the_screen_is_what_a_pipe_gets(width: int, ends: Any) -> None:
    lines = [line for pair in zip_longest(scripted(0, every=1), scripted(1, ends=ends)) for line in pair if line]
    live = followed(lines, width, "colour")
    assert "━" in live
    plain = followed(lines, width)
    assert "\x1b" not in plain
    assert "━" not in plain
    assert [row.rstrip() for row in on_screen(live)] == plain.splitlines()


@pytest.mark.sweep
def test_a_bar_that_comes_or_goes_while_rows_are_printed_erases_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class QuickBars(Bars):
        def __init__(self, screen: Screen) -> None:
            super().__init__(screen)
            self.live.refresh_per_second = 2000

    monkeypatch.setattr("nntrain.log.terminal.live.Bars", QuickBars)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for ends in ("failed", "completed") * 4:
            pairs = zip_longest(scripted(0, every=1), scripted(1, ends=ends))
            lines = [line for pair in pairs for line in pair if line]
            live = followed(lines, mode="colour")
            assert [row.rstrip() for row in on_screen(live)] == followed(lines).splitlines()
    finally:
        sys.setswitchinterval(interval)


def test_a_number_that_does_not_fit_is_seen_to_be_cut_off() -> None:
    script = Script()
    script.say(FitStarted(epochs=2, resumed=False))
    for epoch, loss in enumerate((0.5, 1.234e-5)):
        script.say(EpochFinished(loss=loss, metrics=FrozenMapping(), batches=1, seconds=123.0), epoch=epoch, samples=64)
    whole, cut = (row for row in followed(script.lines, width=50).splitlines() if " train  " in row)
    assert whole.endswith("  0.5000       64          1   123.00")
    assert len(whole) == 50
    assert cut.endswith("  1.234e-05       64          1   123…")


def test_runs_in_one_file_are_told_apart() -> None:
    pairs = zip_longest(scripted(0), scripted(1, metrics=("f1",), epochs=2, ends="cancelled"))
    text = followed(line for pair in pairs for line in pair if line)
    rows = [row for row in text.splitlines() if "  train " in row or "  eval " in row]
    assert [row[:6] for row in rows].count("000000") == 6
    assert [row[:6] for row in rows].count("000001") == 3
    assert text.count("epoch  phase     loss       f1") == 1
    assert "000001  verdict    epoch 1 eval: EarlyStopping cancelled" in text
    assert "000001  cancelled  1 of 2 epochs" in text
    assert "000000  completed  3 of 3 epochs" in text


def test_runs_whose_ids_end_alike_have_them_whole() -> None:
    other = [line.model_copy(update={"run_id": line.run_id.replace("0199b9a1", "0199b9a2")}) for line in scripted()]
    text = followed(chain(scripted(), other), 200)
    assert f"\n{other[0].run_id}      0  train" in text
    assert text.splitlines()[-1].startswith(f"{other[0].run_id}  completed  3 of 3")


def test_a_terminal_that_cannot_go_back_gets_no_bar() -> None:
    to = Console(file=io.StringIO(), width=100, force_terminal=True, _environ={"TERM": "dumb"})
    terminal.follow(iter(scripted(every=1)), console=to)
    assert ESCAPE.sub("", written(to)) == followed(scripted(every=1), 80)  # which rich takes a dumb one to be wide
    assert "\x1b[?25l" not in written(to)


def test_a_training_that_went_back_has_the_history_that_it_has() -> None:
    lines = scripted(epochs=4)
    script = Script()
    script.lines = lines[:-2]
    script.say(HistoryReplaced(kept=2, history=()), epoch=1)
    for output in (shown, followed):
        assert "unfinished 1 of 4 epochs" in output(script.lines, 200)
        assert "lowest eval loss 1.4607, in epoch 0\n" in output(script.lines, 200)


def test_of_many_processes_the_first_is_shown() -> None:
    lines = scripted()
    others = [line.model_copy(update={"rank": 1}) for line in lines]
    assert followed(chain.from_iterable(zip(lines, others, strict=True))) == followed(lines)
    late = followed([*others[:6], *lines])
    assert late.splitlines()[-1] == followed(lines).splitlines()[-1]
    assert "lost" not in late


def test_a_run_that_goes_on_ends_twice() -> None:
    first = scripted(ends="failed", epochs=2)
    again = Script()
    again.lines = [*first]
    again.say(FitStarted(epochs=2, resumed=True), epoch=1, phase="eval")
    text = followed(again.lines)
    assert "failed     1 of 2" in text
    assert "unfinished 1 of 2" in text


def test_ctrl_c_gives_the_cursor_back() -> None:
    to = console("colour")

    def fed() -> Iterator[Line]:
        yield from scripted()[:6]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        terminal.follow(fed(), console=to)
    assert "\x1b[?25l" in written(to)
    assert written(to).rindex("\x1b[?25h") > written(to).rindex("\x1b[?25l")


# How far, and how long still


def gauge_of(lines: Iterable[Line]) -> Gauge:
    gauge = Gauge()
    for line in lines:
        gauge.add(line)
    return gauge


def test_without_batches_the_phases_tell() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping({"train_batches": 30, "valid_batches": 10})))
    script.say(FitStarted(epochs=4, resumed=False))
    script.say(EpochStarted())
    assert gauge_of(script.lines).done == 0
    assert gauge_of(script.lines).left_s is None, "nothing has told yet how long anything takes"
    script.say(EpochFinished(loss=1.0, metrics=FrozenMapping(), batches=30, seconds=6.0), samples=3000, batch=30)
    gauge = gauge_of(script.lines)
    assert gauge.done == pytest.approx(30 / 160)
    assert gauge.left_s == pytest.approx(130 * 0.2)
    assert gauge.samples_per_s == 500
    script.say(EpochStarted(), phase="eval", batch=0, samples=0)
    assert gauge_of(script.lines).done == pytest.approx(30 / 160)
    script.say(EpochFinished(loss=1.0, metrics=FrozenMapping(), batches=10, seconds=1.0), samples=1000, batch=10)
    gauge = gauge_of(script.lines)
    assert gauge.done == pytest.approx(0.25)
    assert gauge.left_s == pytest.approx(3 * 7.0), "eval has a pace of its own"


def test_batches_tell_before_the_first_phase_has_ended() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping({"train_batches": 30, "valid_batches": 10})))
    script.say(FitStarted(epochs=2, resumed=False))
    script.say(EpochStarted())
    script.say(BatchFinished(loss=1.0, metrics=FrozenMapping()), seconds=5.0, batch=10, samples=640, step=10)
    gauge = gauge_of(script.lines)
    assert gauge.done == pytest.approx(10 / 80)
    assert gauge.left_s == pytest.approx(70 * 0.5)
    assert gauge.samples_per_s == pytest.approx(128)


def test_the_time_left_follows_the_last_phases() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping({"train_batches": 10, "valid_batches": 10})))
    script.say(FitStarted(epochs=20, resumed=False))
    for epoch in range(10):
        for phase in ("train", "eval"):
            event = EpochFinished(loss=1.0, metrics=FrozenMapping(), batches=10, seconds=100.0 if epoch < 5 else 1.0)
            script.say(event, epoch=epoch, phase=phase, batch=10)
    assert gauge_of(script.lines).left_s == pytest.approx(10 * 2 * 1.0)


def test_batches_that_nobody_counted_are_counted_once() -> None:
    config = {name: value for name, value in CONFIG.items() if not name.endswith("_batches")}
    lines = scripted(epochs=2, every=1)
    lines[0] = lines[0].model_copy(update={"event": RunStarted(config=FrozenMapping(config))})
    done = [gauge_of(lines[: end + 1]).done for end in range(len(lines))]
    at = {(line.epoch, line.phase, line.event.event, line.batch): part for line, part in zip(lines, done, strict=True)}
    assert at[0, "train", "batch_finished", 10] == 0
    assert at[1, "train", "batch_finished", 10] == pytest.approx(0.5 + 10 / 50)
    assert done == pytest.approx(sorted(done))
    assert done[-1] == 1


def test_a_fit_that_goes_on_is_as_far_as_it_was() -> None:
    script = Script()
    script.say(RunStarted(config=FrozenMapping(CONFIG)))
    script.say(FitStarted(epochs=4, resumed=True), epoch=2)
    assert gauge_of(script.lines).done == 0.5


def test_the_time_left_runs_down_between_lines() -> None:
    now = 100.0
    bar = Bar(clock=lambda: now)
    assert bar.left() == ""
    for line in scripted(epochs=1000)[:5]:
        bar.add(line)
    assert bar.left() == "4:09 left"
    now += 9.0
    assert bar.left() == "4:00 left"
    now += 1e6
    assert bar.left() == "0 s left"


# Text that wants more than to be read

HOSTILE = [
    "\x1b[95;44mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;http://a.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "a\rb\x08c\x0bd\x0ce\x85f",
    "\u2028line\u2029separators\u202ereversed\u202c\u2066\u2069\u200e\u061c",
    "\x00\x7f\ud800\xad\ufeff",
    "\n\n\t\ttable | │ ━ \r\n",
    "[red]a[/red] [link=http://b.example]b[/link] [/] [bold",
    ":smile: :warning:",
    "\\[bold]",
]
texts = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20)), max_size=3).map("".join)


def hostile_log(text: str) -> list[Line]:
    """A log that has a text wherever a log can have one."""
    config = {
        **dict.fromkeys(("learner", "model", "device", "seed"), text),
        "parameters": 5,
        "versions": {text: text, "a": [text]},
    }
    script = Script()
    script.say(RunStarted(config=FrozenMapping(config)))
    script.say(CheckpointSaved(path=text, bytes=1, seconds=0.0, waited_seconds=0.0, digest=text))
    script.say(CheckpointLoaded(path=text, bytes=1, seconds=0.0, digest=text))
    script.say(OtherEvent(event=f"acme.{text}"))
    lines = scripted(config=config, text=text, ends="cancelled", metrics=("metric", text), epochs=2, every=10)
    script.lines += [line.model_copy(update={"seq": len(script.lines) + line.seq}) for line in lines[:-2]]
    failed = RunFailed(error_type=text, error_message=text, where=text, traceback=f"Traceback:\n  a\nE: {text}.\n")
    return [*script.lines, lines[-1].model_copy(update={"event": failed})]


def harmless(text: str) -> str:
    return re.sub(r"[^\n]", "x", text)


@pytest.mark.sweep
@pytest.mark.parametrize("output", [shown, followed])
@given(text=texts)
@example(text="".join(HOSTILE))
@settings(max_examples=40, deadline=None)
def test_nothing_in_a_log_is_obeyed(output: Callable[..., str], text: str) -> None:
    for width in (60, 100):
        plain = output(hostile_log(text), width)
        assert not FORBIDDEN.search(plain)
        coloured = output(hostile_log(text), width, "colour")
        own = {*ESCAPE.findall(output(hostile_log(harmless(text)), width, "colour"))}
        assert {*ESCAPE.findall(coloured)} <= own, "no sequence but rich's own"
        assert "\r" not in re.sub(r"\r(\x1b\[1A)?\x1b\[2K", "", coloured), "the cursor goes back for the bar alone"
        assert not FORBIDDEN.search(ESCAPE.sub("", coloured).replace("\r", ""))
        assert [row.rstrip() for row in on_screen(coloured)] == [row.rstrip() for row in plain.splitlines()]


@pytest.mark.parametrize("output", [shown, pytest.param(followed, marks=pytest.mark.sweep)])
@given(text=texts)
@example(text="".join(HOSTILE))
@settings(max_examples=40, deadline=None)
def test_no_text_makes_more_rows_or_fewer(output: Callable[..., str], text: str) -> None:
    rows = output(hostile_log(text), 20_000).splitlines()
    assert len(rows) == len(output(hostile_log(harmless(text)), 20_000).splitlines())


@pytest.mark.sweep
@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60))
@example(text="[red]a[/red]:smile:[link=http://b.example]c[/link]")
@settings(max_examples=40, deadline=None)
def test_text_is_no_markup(text: str) -> None:
    for output in (shown, followed):
        said = output(hostile_log(text), 20_000)
        for begun in ("learner    ", "model      ", "capture.device: ", "saved ", "at before_epoch: ", "  E: "):
            assert begun + text in said, begun


def test_what_is_escaped_is_seen() -> None:
    said = shown(hostile_log("\x1b[31m\u202e\n\x85\t"), 20_000)
    assert "learner    \\x1b[31m\\u202e\\n\\x85\\t\n" in said
    assert "  E: \\x1b[31m\\u202e\n  \\x85\\t.\n" in said, "a traceback keeps its newlines"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_bar_is_one_line(text: str) -> None:
    bar = Bar()
    for line in scripted(metrics=(text, "b"), every=1)[:9]:
        bar.add(line)
    to = console(width=200)
    bars = Bars(Screen(to))
    bars.add_task("", total=1.0, bar=bar)
    to.print(bars.get_renderable())
    (drawn,) = written(to).splitlines()
    assert not FORBIDDEN.search(drawn)
    assert drawn.rstrip().endswith("b 0.2906")
    assert "left  loss 2.1281  6,400 samples/s  " + text[:6] in drawn or not text.isprintable()


def test_a_text_of_a_megabyte_is_shortened() -> None:
    for output in (shown, followed):
        started = time.monotonic()
        said = output(hostile_log("z" * 1_000_000), 20_000)
        assert "… 999,800 more characters\n" in said
        assert len(said) < 20_000
        assert time.monotonic() - started < 5
        failure = said[said.index("Traceback:") :]
        assert re.search(r"\n  … 996,\d{3} more characters …\n", failure)
        assert "zzz.\n" in failure, "the end of a traceback says most"


def test_what_an_encoding_does_not_have_is_written_out() -> None:
    raw = io.BytesIO()
    to = Console(file=io.TextIOWrapper(raw, encoding="ascii", write_through=True), width=100, force_terminal=True)
    terminal.show(scripted(text="größer… – 日"), console=to)
    terminal.follow(iter(scripted(text="größer", every=1)), console=to)
    assert rb"capture.device: gr\xf6\xdfer... - \u65e5" in raw.getvalue()


def test_stdout_is_where_it_goes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for output in (terminal.show, terminal.follow):
        output(iter(scripted()))
        text = capsys.readouterr().out
        assert f"run {RUN}0\n" in text
        assert "\x1b" not in text


def test_a_pipe_is_not_redrawn_whatever_the_environment_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal.follow(iter(scripted(every=1)))
    text = capsys.readouterr().out
    assert "\x1b[1m" in text, "colours were asked for"
    assert {*ESCAPE.findall(text)} <= {one for one in ESCAPE.findall(text) if one.endswith("m")}
    assert "\r" not in text
    assert "━" not in text


def test_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.split(".")[0] == "rich":
            monkeypatch.setitem(sys.modules, name, None)  # how Python says: not to be found
    anew = runpy.run_path(terminal.__file__)  # it imports none of it
    for name in ("show", "follow"):
        with pytest.raises(MissingExtraError, match=r"rich.* pip install 'nntrain\[terminal\]'\.$") as caught:
            anew[name](iter(scripted()))
        assert str(caught.value).startswith(f"nntrain log {name} needs rich")
        assert "\n" not in str(caught.value)
