"""What is told, when and to whom: the transitions of one run, and what came up beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from nntrain.errors import add_note
from nntrain.live.engine import Passed
from nntrain.machine.cursor import Position, Start
from nntrain.machine.table import Step
from nntrain.sinks.audience import Audience, Watcher
from nntrain.sinks.news import News, loss_warning
from nntrain.sinks.transition import BatchRan, RunInfo, Transition
from nntrain.values.progress import Progress
from nntrain.values.record import evolved
from nntrain.values.state import TrainState, remember_state

_GROUP: Final = 64
_GROUP_SECONDS: Final = 0.5
"""How many unwatched batches, and how much time, a group may hold."""


class Telling:
    """Tells the sinks of one run. Nothing is locked meanwhile, so that a sink may have another thread read a state."""

    def __init__(self, audience: Audience, news: News, info: Callable[[int], RunInfo]) -> None:
        self.audience = audience
        self._news = news
        self._info = info
        self.pending: list[BatchRan] = []
        """The group of unwatched batches that is still to be told of."""
        self.to_nobody: bool = not audience.at("batch")
        """Whether nobody wants batches, nor what comes up with them."""

    # -- which batches are watched --------------------------------------------------------------------------------

    def watching(self, at: Position, step: int | None) -> Sequence[Watcher]:
        """Return those who are to be told of the batch after `at` by itself, with its state.

        `step` is the number of steps after it; None where it is one of training that makes none.
        """
        start = at.start
        if self.has_news(start):
            return self.audience.at("batch")
        return self.audience.of_batch(start.phase, at.batch + 1, step)

    def watching_reached(
        self, before: Position, reached: Position, watching: Sequence[Watcher], step: int | None
    ) -> Sequence[Watcher]:
        """Return those who are to be told of the batch at `reached`: `watching`, if it is the next after `before`."""
        start, was, ahead = reached.start, before.start, before.step if step is None else step
        if (reached.batch, start.phase, reached.step) == (before.batch + 1, was.phase, ahead):
            return watching
        return self.audience.of_batch(start.phase, reached.batch, reached.step)

    def groups_next(self, at: Position) -> bool:
        """Return whether the batch after `at` is one for those who take them in groups."""
        every = self.audience.group_every
        return every > 0 and not (at.batch + 1) % every

    def has_news(self, start: Start) -> bool:
        """Return whether a batch is to be told of to all who want batches: the first of a run, or for what came up."""
        fields, news = start.fields, self._news
        if fields["logged"] or fields["loaded"] or not self.audience.began:
            return True
        return bool(news.notes or news.queued_events) and not self.to_nobody

    def add(self, after: Position, passed: Passed) -> None:
        """Add an unwatched batch to the group, and tell of the group when it is full."""
        loss, *metrics = passed.means
        named = {**passed.output.told, **dict(zip(passed.weighted.metrics, metrics, strict=True))}
        place = after.start.epoch, after.start.phase, after.batch, after.step, after.samples
        of = passed.lr_scale, after.start.progress.data, passed.output.has_loss
        self.pending.append(BatchRan(*place, loss, named, time.monotonic(), *of))
        if len(self.pending) == _GROUP or self.pending[-1].when - self.pending[0].when > _GROUP_SECONDS:
            self.tell_group(after)

    # -- telling --------------------------------------------------------------------------------------------------

    def tell_group(self, at: Position, *, leniently: bool = False) -> None:
        """Tell of the group of unwatched batches, and empty it, whatever comes of it."""
        if self.pending:
            ran, self.pending = self.pending, []
            self.audience.tell_batches(self._info(at.start.key.seed), ran, leniently=leniently)

    def step(self, step: Step, began: Progress, watching: Sequence[Watcher] = ()) -> Step:
        """Tell of a step that `began` there; return it without the events that its state had for the sinks.

        `watching` are those who want the batch that it was, where nothing else is to be told.
        """
        audience, news, logged = self.audience, self._news, step.state.logged
        if step.state.progress.at == "finished":
            logged += loss_warning(step.state.history)
        if step.state.logged or step.state.loaded:
            step = step._replace(state=evolved(self.queued(step.state), logged=()))
        unwatched = (
            step.event == "after_batch"
            and step.verdict is None
            and audience.began
            and not (news.notes or news.queued_events or logged)
        )
        audience.began = True
        try:
            listening = watching if unwatched else audience.at(began.at)
            if unwatched and listening:
                run = self._info(step.state.key.seed)
                transition = Transition.of_batch(began, step.state, run, step.output, step.lr_scale)
                audience.tell(listening, transition, news.take_events)
            elif listening:
                transition = Transition(
                    at=began.at,
                    progress=began,
                    state=step.state,
                    run=self._info(step.state.key.seed),
                    event=step.event,
                    verdict=step.verdict,
                    by=step.by or None,
                    output=step.output if step.verdict is None else None,
                    stats=step.stats,
                    notes=news.take_notes(began.at) if news.notes or began.at == "before_fit" else (),
                    logged=(news.take_events() if news.queued_events else ()) + logged,
                    lr_scale=step.lr_scale,
                    told=step.told,
                    rank=step.rank,
                )
                if transition.logged or transition.notes:  # another thread may just have queued it
                    listening = audience.at(began.at)
                audience.tell(listening, transition, news.take_events)
        except BaseException as error:
            self.failure(error, step.state, began)
            raise
        return step

    def queued(self, state: TrainState) -> TrainState:
        """Queue what a state tells of the file that it was read from; return it without, so that it is told once."""
        if not state.loaded:
            return state
        self._news.queued_events += state.loaded
        return evolved(state, loaded=())

    def failure(self, error: BaseException, state: TrainState, began: Progress) -> None:
        """Note where it happened, leave the state before with the error, and tell the sinks."""
        lost = state.tensors.lost is not None
        add_note(
            error,
            f"nntrain: in {began.phase}{f' ({began.data})' if began.data else ''} of epoch {began.epoch}, at {began.at}"
            + (f" {began.batch}" if began.at == "batch" else "")
            + f", step {began.step}; "
            + ("the state before it is lost" if lost else "nntrain.state_before(error) gives the state before it"),
        )
        state = self.queued(state)
        remember_state(error, None if lost else state)
        transition = Transition(
            at=began.at,
            progress=began,
            state=state,
            run=self._info(state.key.seed),
            error=error,
            notes=self._news.take_notes(began.at),
            logged=self._news.take_events(),
        )
        self.audience.tell(self.audience.everybody, transition, self._news.take_events, leniently=True)
