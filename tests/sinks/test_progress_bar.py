"""The progress bar, on terminals that are not there: what is drawn, what is left, and where nothing is said."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Final

import pytest
import torch
import tqdm  # type: ignore[import-untyped]  # it has no py.typed
from torch import Tensor, nn

from nntrain import (
    BatchOutput,
    CancelBatch,
    CancelEpoch,
    DataLoaders,
    Learner,
    PrintStats,
    ProgressBar,
    TrainState,
    Transition,
    accuracy,
    advance,
    epoch_step,
    fit_step,
    on,
    supervised,
)
from nntrain.data import segments
from nntrain.sinks import progress_bar
from nntrain.sinks.interest import interest_of
from nntrain.testing import check_sink
from nntrain.update import accumulate, chain, optimizer
from nntrain.values.sums import Sums
from tests.sinks.terminals import Terminal

Batch = tuple[Tensor, Tensor]
BATCHES: Final = [(torch.ones(4, 2), torch.tensor([0, 1, 0, 1])) for _ in range(6)]


def looking_at(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a terminal, which both streams write to from here on, and on which each batch is drawn.

    No fixture: pytest sets the streams again before it calls the test.
    """
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setattr(sys, "stdout", found)
    monkeypatch.setattr(progress_bar, "EVERY", 0.0)
    return found


def learner_of(train: Any = BATCHES, valid: Any = BATCHES[:2], **changes: Any) -> Learner[Batch]:
    given: dict[str, Any] = {"optim_class": torch.optim.SGD, "lr": 0.1, **changes}
    dls: DataLoaders[Batch] = DataLoaders(train, valid)
    model = nn.Linear(2, 2)
    nn.init.eye_(model.weight)
    nn.init.zeros_(model.bias)
    return Learner(model, dls, nn.functional.cross_entropy, accuracy, **given)


def counts(bars: Sequence[str]) -> list[str]:
    """Return "train 3/6" for each bar, or "train 3" where nobody knows of how many."""
    matches = [re.match(r"epoch=\d+ \| (\w+) *: .*?(\d+(?:/\d+)?)(?: batches)? \[", bar) for bar in bars]
    return [f"{one[1]} {one[2]}" for one in matches if one]


def test_the_lines_are_as_without_it_and_nothing_else_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    learner_of().fit(2)
    drawn = [*(f"train {batch}/6" for batch in range(7)), *(f"eval {batch}/2" for batch in range(3))]
    assert counts(terminal.bars()) == drawn * 2
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stdout", plain)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    learner_of().fit(2)
    assert terminal.screen() == plain.getvalue().splitlines()
    assert len(terminal.screen()) == 4


def test_it_says_phase_means_so_far_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    learner_of().fit(1)
    bar = next(bar for bar in terminal.bars() if "6/6" in bar)
    line = terminal.screen()[0]
    assert bar.startswith("epoch=00 | train: 100%|")
    assert "<" in bar
    assert "batches/s" in bar
    _, _, loss, metric = line.split(" | ")
    assert bar.endswith(f"{loss}, {metric}]")  # the last batch's means are those of the phase


@pytest.mark.parametrize("stream", ["stderr", "stdout", None])
def test_it_is_drawn_where_somebody_looks(
    stream: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        streams = {name: io.StringIO() for name in ("stderr", "stdout")}
        if stream is not None:
            streams[stream] = Terminal()
        for name, one in streams.items():
            monkeypatch.setattr(sys, name, one)
        learner_of().fit(1)
    drawn = {name for name, one in streams.items() if "\r" in one.getvalue()}
    assert drawn == ({stream} if stream else set())


@pytest.mark.parametrize("stream", [None, io.BytesIO(), "closed"])
def test_streams_that_are_none_are_no_place_to_look_at(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert progress_bar.where_somebody_looks() is None


def test_a_notebook_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shell:
        config: Final[dict[str, object]] = {"IPKernelApp": {}}

    class IPython:
        get_ipython = staticmethod(lambda: Shell())

    assert progress_bar.where_somebody_looks() is None
    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert progress_bar.where_somebody_looks() is sys.stderr


def test_where_nobody_looks_it_wants_nothing() -> None:
    assert not interest_of(ProgressBar()).places
    assert interest_of(ProgressBar(io.StringIO())).places


def test_without_statistics_nothing_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    learner_of().fit(1, print_stats=False)
    assert terminal.getvalue() == ""


def test_a_bar_that_tqdm_was_told_not_to_draw_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """By TQDM_DISABLE=1, which tqdm reads when it is imported."""

    class Off(tqdm.tqdm):  # type: ignore[misc, type-arg, unused-ignore] # it has no py.typed
        def __init__(self, **given: Any) -> None:
            super().__init__(disable=True, **given)

    monkeypatch.setattr(tqdm, "tqdm", Off)
    monkeypatch.setattr(progress_bar, "EVERY", 0.0)
    file = io.StringIO()
    assert learner_of(sinks=[ProgressBar(file)]).fit(1, print_stats=False).sink_failures == {}
    assert file.getvalue() == ""


def test_one_of_ones_own_takes_the_place_of_the_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    elsewhere = io.StringIO()
    learner_of(sinks=[ProgressBar(elsewhere)]).fit(1)
    assert terminal.bars() == []
    assert "100%" in elsewhere.getvalue()


def test_a_line_printed_before_it_is_told_stands_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of sinks is the caller's: the line is written while the bar is still drawn."""
    terminal = looking_at(monkeypatch)
    learner_of(sinks=[PrintStats(), ProgressBar()]).fit(1)
    assert [line[:16] for line in terminal.screen()] == ["epoch=00 | train", "epoch=00 | eval "]


def test_after_resuming_in_mid_epoch_it_begins_there(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    kept: list[TrainState] = []

    def keep(transition: Transition) -> None:
        if transition.state.progress.batch == 4 and not kept:
            kept.append(transition.state)

    learner = learner_of()
    fit_step(learner.replace(sinks=[keep]), learner.init(0), epochs=1)
    fit_step(learner.replace(sinks=[ProgressBar()]), kept[0], epochs=1)
    assert counts(terminal.bars()) == ["train 5/6", "train 6/6", "eval 0/2", "eval 1/2", "eval 2/2"]


@pytest.mark.parametrize("window", [1, 2])
def test_a_goal_in_steps_cuts_it(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    update = chain(*[accumulate(window)] * (window > 1), optimizer(torch.optim.SGD, lr=0.1))
    task = supervised(nn.functional.cross_entropy)
    Learner.of(nn.Linear(2, 2), DataLoaders(BATCHES, None), task, update).fit(steps=2)
    assert counts(terminal.bars())[-1] == f"train {2 * window}/{2 * window}"


def test_a_segment_has_its_own_length(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    learner_of(segments(BATCHES, batches=4), None).fit(2)
    assert [one for one in counts(terminal.bars()) if one.endswith("4/4")] == ["train 4/4"] * 2


class Again:
    """A loader that does not know its length."""

    def __init__(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.batches_of = batches

    def __iter__(self) -> Iterator[Batch]:
        return self.batches_of()


def test_without_a_length_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    learner_of(Again(lambda: iter(BATCHES)), None).fit(1)
    assert counts(terminal.bars())[-1] == "train 6"


def test_each_set_that_is_evaluated_has_a_bar_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    learner_of(valid={"near": BATCHES[:2], "far": BATCHES[:3]}).fit(1)
    drawn = counts(terminal.bars())
    assert "near 2/2" in drawn
    assert "far 3/3" in drawn
    assert len(terminal.screen()) == 3


@pytest.mark.parametrize("verdict", [CancelEpoch, CancelBatch])
def test_of_a_cancelled_phase_nothing_is_left(verdict: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)

    @on("before_batch")
    def cancels(state: TrainState, batch: object) -> Any:
        progress = state.progress
        return verdict(reason="so") if (progress.phase, progress.batch) == ("train", 3) else state

    learner_of(subs=[cancels]).fit(1)
    lines = ["epoch=00 | train", "epoch=00 | eval "]
    assert [line[:16] for line in terminal.screen()] == lines[verdict is CancelEpoch :]
    assert "train 3/6" in counts(terminal.bars())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_line_is_free(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)

    @on("before_batch")
    def breaks(state: TrainState, batch: object) -> TrainState:
        if state.progress.batch == 3:
            raise error
        return state

    with pytest.raises(error):
        learner_of(subs=[breaks]).fit(1)
    assert counts(terminal.bars())[-1] == "train 3/6"
    print("free", file=terminal)
    assert terminal.screen() == ["free"]


def test_a_phase_at_a_time_and_a_bar_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    learner = learner_of(sinks=[ProgressBar()])
    state = advance(learner, learner.init(0, epochs=1)).state
    state = epoch_step(learner, state).state
    assert counts(terminal.bars())[-1] == "train 6/6"
    print("free", file=terminal)
    epoch_step(learner, state)
    assert counts(terminal.bars())[-1] == "eval 2/2"
    assert terminal.screen() == ["free"]


def test_one_phase_that_is_gone_over_again_begins_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looking_at(monkeypatch)
    learner = learner_of(sinks=[ProgressBar()])
    begun = advance(learner, advance(learner, learner.init(0, epochs=1)).state).state
    for _ in range(2):
        one = advance(learner, begun).state
        advance(learner, one)
    assert counts(terminal.bars())[1:] == ["train 1/6", "train 2/6"] * 2


def test_it_is_told_of_no_batch_until_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: now))
    file = Terminal()
    bar, told = ProgressBar(file), []

    class Passing:
        interest = interest_of(bar)

        def __call__(self, transition: Transition, /) -> None:
            told.append((transition.at, transition.state.progress.batch))
            bar(transition)

    def batches() -> Iterator[Batch]:
        nonlocal now
        for batch in BATCHES:
            now += 0.1
            yield batch

    learner = learner_of(Again(batches), None, sinks=[Passing()])
    fit_step(learner, learner.init(0), epochs=1)
    assert [batch for at, batch in told if at == "batch"] == [4, 6]
    assert counts(file.bars()) == ["train 0", "train 4"]


def test_numbers_that_have_not_arrived_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from CUDA: what was sent with one drawing is shown by a later one."""
    terminal = looking_at(monkeypatch)
    here, sent = False, Sums.sent

    def slowly(sums: Sums) -> tuple[Sums, Callable[[], bool]]:
        return sent(sums)[0], lambda: here

    @on("after_batch")
    def arrives(state: TrainState, batch: object, output: BatchOutput) -> TrainState:
        nonlocal here
        here = state.progress.batch >= 4
        return state

    monkeypatch.setattr(Sums, "sent", slowly)
    learner_of(valid=None, subs=[arrives]).fit(1)
    with_loss = ["loss=" in bar for bar in terminal.bars()]
    assert with_loss == [False] * 4 + [False, True, True]


def test_it_keeps_the_laws() -> None:
    check_sink(lambda: ProgressBar(io.StringIO()), examples=5)
