"""The machine: the places a training can stand at, what leads where, and one step of it.

`TABLE` is the whole of it. `Machine.step` does what stands at the place of a state, and nothing else; everything
larger is a fold of it (`nntrain.machine.steps`). Cancelling is a value: a verdict picks another row of the table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from nntrain.data.stream import Stream
from nntrain.errors import ConfigError, DataError, StateError, add_note
from nntrain.live.passing import Pass
from nntrain.live.recorded import CapturedPass
from nntrain.live.workspace import Workspace
from nntrain.machine.interrupts import Interrupts
from nntrain.machine.table import TABLE, moved_to, next_phase
from nntrain.machine.turn import Turn
from nntrain.sinks.audience import Audience
from nntrain.sinks.transition import BatchRan, RunInfo, Transition
from nntrain.subscribers.asking import Listener, Published, publish
from nntrain.task.batches import to_device
from nntrain.values.history import EpochStats, History
from nntrain.values.key import Key
from nntrain.values.log_event import LogEvent, Note
from nntrain.values.output import BatchOutput
from nntrain.values.progress import Phase, Place, Progress
from nntrain.values.randomness import restoring_rng, seed_all
from nntrain.values.record import FrozenMapping, evolved
from nntrain.values.state import TrainState, remember_state, state_before
from nntrain.values.sums import WeightedSums
from nntrain.values.tensors import Tensors
from nntrain.values.trees import tree_map
from nntrain.values.verdicts import Cancel, Event

Batch = TypeVar("Batch")

# What a key is folded with, so that different uses draw different numbers.
_NOISE, _EVAL_NOISE, _EVENTS = 1, 2, 3
_GROUP: Final = 64
_GROUP_SECONDS: Final = 0.5
"""How many batches, and how much time, a group of those that merely ran may hold."""
_BITS: Final = (1 << 63) - 1
_PHASES: Final[dict[Phase, int]] = {"train": 0, "eval": 1}
_PLACES: Final[dict[Place, int]] = {place: number for number, place in enumerate(TABLE)}


def ordinary_tensors() -> AbstractContextManager[object]:
    """Make tensors that can be trained, whatever mode the caller is in."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


class HasMachine(Protocol[Batch]):
    """What steps take: a `Learner`."""

    @property
    def machine(self) -> Machine[Batch]:
        """The machine that the learner made."""
        ...


_Ran = tuple[int, int, Sequence[Tensor | float], float]
"""Of a batch that merely ran: batches and samples behind, loss and metrics, when."""


class Step(NamedTuple):
    """What one step of the machine came to."""

    state: TrainState
    verdict: Cancel | None = None
    by: str = ""
    event: Event | None = None
    output: BatchOutput | None = None
    stats: EpochStats | None = None
    lr_scale: float = 1.0
    """What the batch's learning rate was multiplied with."""
    lasting: bool = True
    """Whether the output may be held on to: a recording makes the next one in the same memory."""


class _Computed(NamedTuple, Generic[Batch]):
    """A batch before the optimizer's write: `after` is pending; `keep` says whether to hold on to the state before."""

    batch: Batch
    output: BatchOutput
    after: TrainState
    keep: bool


@dataclass
class Machine(Generic[Batch]):
    """A learner, made ready to step: its workspace, its data, who listens."""

    workspace: Workspace
    streams: Mapping[Phase, Stream[Batch]]
    passing: Pass[Batch] | CapturedPass[Batch]
    heard_by: Mapping[Event, tuple[Listener, ...]]
    audience: Audience
    info: Callable[[int], RunInfo]
    turn: Turn = field(default_factory=Turn)
    notes: list[Note] = field(default_factory=list)
    """What is still to be told."""
    untold: list[LogEvent] = field(default_factory=list)
    """The events of those that are not asked, sinks and checkpoints, until they are told."""

    def __post_init__(self) -> None:
        self._generators = self.workspace.generators
        self._noted: tuple[Note, ...] = ()
        self._noise_key: Key | None = None
        self._noise = (0, 0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Surround any number of steps: whose turn it is, and the caller's grad mode and generators to go back to.

        No step depends on what the one before it left in the generators; each seeds them for itself.
        """
        with self.turn.taken(), ordinary_tensors(), torch.no_grad(), restoring_rng(self._generators):
            yield

    def check_sums(self, state: TrainState) -> None:
        """Refuse a state in the middle of a phase whose sums are of other metrics."""
        theirs, ours = state.sums.totals.metrics, self.passing.names
        if state.progress.at == "batch" and state.sums.batches and theirs != ours:
            raise StateError(
                f"The state is amid a phase, whose sums are of the metrics {', '.join(theirs) or '(none)'}; "
                f"the learner has {', '.join(ours) or 'none'}. Finish the phase with a learner of the same metrics: "
                f"epoch_step(learner, state)."
            )

    # -- one step -------------------------------------------------------------------------------------------------

    def step(self, cell: list[TrainState], audience: Audience, batch: tuple[Batch] | None = None) -> Step:
        """Do what stands at the place of the state in `cell`, which is taken out: its tensors may be overwritten.

        `batch`, if given, is used instead of the loader's. A failure leaves the state before it with the error.
        Sinks are told when nothing is locked any more, so that one may have another thread read the state.
        """
        progress = cell[0].progress
        try:
            with self.workspace.held(cell[0].tensors):
                step = self._batch(cell, batch, audience) if progress.at == "batch" else self._event(cell)
        except BaseException as error:
            if cell:
                self._failed(error, cell.pop(), progress, audience)
            raise
        logged = step.state.logged
        if logged:
            step = step._replace(state=evolved(step.state, logged=()))
        merely_ran = (
            step.event == "after_batch"
            and step.verdict is None
            and audience.began
            and not self.notes
            and not self.untold
            and not logged
        )
        audience.began = True
        try:
            sinks = audience.of_batch(step.state.progress) if merely_ran else audience.at(progress.at)
            if sinks:
                if not step.lasting and step.output is not None:
                    step = step._replace(output=_copied(step.output))
                transition = self._transition(progress, step, logged)
                if transition.logged or transition.notes:  # another thread may just have told it
                    sinks = audience.at(progress.at)
                audience.tell(sinks, transition, self._taken_untold)
        except BaseException as error:
            self._failed(error, step.state, progress, audience)
            raise
        return step

    def run_batches(self, cell: list[TrainState], audience: Audience, interrupts: Interrupts) -> None:
        """Take the batches that merely run: the transitions of `step`, without a state for each of them.

        No subscriber sees them, nor a sink that wants the state; those that take them in groups are told. The state in
        `cell` is replaced by the one after them. Ends with the phase, before a batch that is wanted with its state,
        and at a note or Ctrl-C, which are to be told. A failure leaves the state before it with the error.
        """
        state = cell[0]
        if state.progress.at != "batch" or not self._merely_run(audience):
            return
        parts = _parts(state)
        place, sums, key = state.progress, state.sums, state.key
        workspace, stream = self.workspace, self.streams[place.phase]
        train = place.phase == "train"
        noise = self._noise_of(key, place)
        batch, samples, totals, seconds = place.batch, sums.samples, sums.totals, sums.seconds
        handle, workspace.lr_scale = state.tensors, state.lr_scale
        group: list[_Ran] = []
        every, last = audience.group_every, audience.next_single(batch + 1)
        del state

        def reached() -> TrainState:
            return _state_amid(parts, batch, samples, totals=totals, seconds=seconds, handle=handle)

        try:
            with workspace.held(handle):
                workspace.ready(handle)
            cell.clear()  # only `handle` holds the value now, and is let go before the optimizer writes
            while batch + 1 != last and not (
                interrupts.pressed
                or ((self.notes or self.untold) and audience.at("batch"))
                or (audience.attentive and audience.wanted(place.phase, place.step + (batch + 1 - place.batch) * train))
            ):
                began, seen = time.perf_counter(), every > 0 and (batch + 1) % every == 0
                with workspace.lock:
                    found = stream.batch(key, place.epoch, batch)
                    if found is None:
                        break
                    passed = self.passing.run(
                        to_device(found[0], workspace.device),
                        totals,
                        step=place.step + batch - place.batch if train else None,
                        bits=noise + batch - place.batch & _BITS,
                        seen=seen,
                    )
                    after = workspace.pending(handle)
                    before = batch, samples, totals
                    batch, samples, totals = batch + 1, samples + passed.samples, passed.totals
                    if after is not handle:
                        handle = after
                        try:
                            workspace.commit(handle)
                        except BaseException:
                            revived = workspace.revived()
                            if revived is not None or handle.lost is not None:
                                batch, samples, totals = before
                            handle = revived or handle
                            raise
                seconds += time.perf_counter() - began
                if seen:
                    group.append((batch, samples, passed.means, time.monotonic()))
                    if len(group) == _GROUP or group[-1][-1] - group[0][-1] > _GROUP_SECONDS:
                        self._tell_group(audience, parts, group)
            self._tell_group(audience, parts, group)
        except BaseException as error:
            state = reached()
            self._tell_group(audience, parts, group, leniently=True)
            self._failed(error, state, state.progress, audience)
            raise
        cell[:] = [reached()]

    def _tell_group(
        self,
        audience: Audience,
        parts: _Parts,
        group: list[_Ran],
        *,
        leniently: bool = False,
    ) -> None:
        """Tell of batches that merely ran since the state of `parts`, and empty the group, whatever comes of it."""
        if not group:
            return
        place, sums, scale = parts["progress"], parts["sums"], parts["lr_scale"]
        train = place.phase == "train"
        ran = [
            BatchRan(
                place.epoch,
                place.phase,
                batch,
                place.step + (batch - place.batch) * train,
                place.samples + samples - sums.samples,
                loss,
                dict(zip(self.passing.names, metrics, strict=True)),
                when,
                scale,
            )
            for batch, samples, (loss, *metrics), when in group
        ]
        group.clear()
        audience.tell_batches(self.info(parts["key"].seed), ran, leniently=leniently)

    def _merely_run(self, audience: Audience) -> bool:
        """Tell whether batches that run are of no subscriber's concern."""
        return not (
            self.heard_by["before_batch"]
            or self.heard_by["after_batch"]
            or not audience.began
            or self.workspace.needs_closure
        )

    def _event(self, cell: list[TrainState]) -> Step:
        """Publish a place's event, and go where the table leads after it."""
        state = cell[0]
        progress = state.progress
        at = progress.at
        if at == "finished" or at == "batch":  # noqa: PLR1714 - so that mypy narrows the place to an event
            raise ConfigError(f"No event stands at {at}.")
        published = Published(state)
        if self.heard_by[at]:
            self._seed(state, _EVENTS, _PLACES[at], progress.epoch, _PHASES[progress.phase])
            published = self._publish(at, state)
        cell.clear()
        return self._leave(published, at)

    def _leave(self, published: Published, event: Event) -> Step:
        state, verdict = published.state, published.verdict
        if verdict is not None and verdict.scope == "fit":
            after = moved_to(state, at="finished")
        elif verdict is None and event == "before_epoch":
            after = moved_to(state, at="batch")
        elif event == "before_fit":
            reached = state.progress.epoch >= state.progress.epochs
            after = moved_to(state, at="after_fit" if reached else "before_epoch")
        elif event == "after_fit":
            after = moved_to(state, at="finished")
        else:
            after = next_phase(state)
        return Step(after, verdict, published.by, event)

    def _publish(self, event: Event, state: TrainState, *rest: object) -> Published:
        """Ask those who listen to an event; check that the state which they answered is one for this learner."""
        published = publish(event, self.heard_by[event], state, *rest)
        if published.state.tensors.spec is not self.workspace.spec:
            self.workspace.check_fit(published.state.tensors)
        return published

    # -- a batch --------------------------------------------------------------------------------------------------

    def _batch(self, cell: list[TrainState], given: tuple[Batch] | None, audience: Audience) -> Step:
        workspace = self.workspace
        seen = bool(self.heard_by["after_batch"] or self._sees_batch(cell[0].progress, audience) or not audience.began)
        came_to = self._compute(cell[0], given, seen)
        if isinstance(came_to, Step):
            cell.clear()
            return came_to
        if isinstance(came_to, Published):
            cell.clear()
            return _cancelled(came_to, "before_batch")
        # Only `cell` holds the state before, so that it can be let go before the optimizer writes.
        batch, output, after, keep = came_to
        del came_to
        scale = after.lr_scale
        verdict, by = None, ""
        if self.heard_by["after_batch"]:
            after, verdict, by = self._ask_after(after, batch, output)
        parts = _parts(cell[0])
        if not keep:
            cell.clear()
        try:
            workspace.commit(after.tensors)
        except BaseException:
            if not cell:
                revived = workspace.revived()
                written = revived is None and after.tensors.lost is None  # an interrupt came when it was done
                cell.append(after if written else TrainState(**parts, tensors=revived or after.tensors))
            raise
        cell.clear()
        if verdict is not None:
            return _cancelled(Published(after, verdict, by), "after_batch")
        return Step(after, None, "", "after_batch", output, lr_scale=scale, lasting=seen)

    def _sees_batch(self, place: Progress, audience: Audience) -> bool:
        """Tell whether a sink will see the batch that is next, if it merely runs."""
        if self.notes or self.untold:
            return bool(audience.at("batch"))
        train = place.phase == "train"
        return bool(audience.of_batch(evolved(place, batch=place.batch + 1, step=place.step + train)))

    def _compute(
        self, state: TrainState, given: tuple[Batch] | None, seen: bool
    ) -> Step | Published | _Computed[Batch]:
        """Take a batch as far as the optimizer's write: or find no batch left, or a verdict in `before_batch`."""
        began = time.perf_counter()
        found = given if given is not None else self._next_batch(state)
        if found is None:
            return self._finish_phase(state)
        batch = to_device(found[0], self.workspace.device)
        resumed = state
        if self.heard_by["before_batch"]:
            asked = self._ask_before(state, batch)
            if asked.verdict is not None:
                return asked
            resumed = asked.state
        self.workspace.ready(resumed.tensors)
        self.workspace.lr_scale = resumed.lr_scale
        output, after = self._body(resumed, batch, began, seen)
        # Where another value was brought in, the state before has a copy of its own, and is kept in case of a failure.
        return _Computed(batch, output, after, self.workspace.needs_closure or resumed.tensors is not state.tensors)

    def _ask_before(self, state: TrainState, batch: Batch) -> Published:
        place = state.progress
        self._seed(state, _EVENTS, _PLACES["batch"], place.epoch, _PHASES[place.phase], place.batch)
        return self._publish("before_batch", state, batch)

    def _ask_after(self, after: TrainState, batch: Batch, output: BatchOutput) -> Published:
        """Publish `after_batch`, while the optimizer's write is pending; drop the write if it is not wanted."""
        try:
            answered = self._publish("after_batch", after, batch, output)
        except BaseException:
            del after
            self.workspace.abandon()
            raise
        wanted = answered.state.tensors is after.tensors
        del after
        if not wanted:
            self.workspace.abandon()
        return answered

    def _body(self, state: TrainState, batch: Batch, began: float, seen: bool) -> tuple[BatchOutput, TrainState]:
        """Pass the batch through the model; the write is pending in the state that is given back."""
        place, sums = state.progress, state.sums
        train = place.phase == "train"
        bits = self._noise_of(state.key, place) & _BITS
        step = place.step if train else None
        output, samples, totals, _ = self.passing.run(batch, sums.totals, step=step, bits=bits, seen=seen)
        after = evolved(
            state,
            progress=evolved(
                place,
                at="batch",
                batch=place.batch + 1,
                step=place.step + train,
                samples=place.samples + samples,
            ),
            tensors=self.workspace.pending(state.tensors),
            sums=evolved(
                sums,
                totals=totals,
                samples=sums.samples + samples,
                batches=sums.batches + 1,
                seconds=sums.seconds + time.perf_counter() - began,
            ),
        )
        return output, after

    def _noise_of(self, key: Key, place: Progress) -> int:
        """Give what a batch's noise is seeded with, mod 2**63; the next batch's is one more."""
        if key is not self._noise_key:
            self._noise_key, self._noise = key, (key.derived(_NOISE), key.derived(_EVAL_NOISE))
        train, evaluation = self._noise
        return train + place.step if place.phase == "train" else evaluation + (place.epoch << 32) + place.batch

    def _finish_phase(self, state: TrainState) -> Step:
        """Take the phase's means, once its batches are exhausted; a phase without a finished batch has none."""
        sums, place = state.sums, state.progress
        after = moved_to(state, at="after_epoch")
        if not sums.batches:
            return Step(after)
        # One NaN for all: a log tells that a value is none, and not which.
        means = (total / sums.samples for total in sums.totals.tolist())
        loss, *metrics = (mean if mean == mean else math.nan for mean in means)  # noqa: PLR0124
        stats = EpochStats(
            epoch=place.epoch,
            phase=place.phase,
            loss=loss,
            metrics=FrozenMapping(dict(zip(self.passing.names, metrics, strict=True))),
            samples=sums.samples,
            batches=sums.batches,
            seconds=sums.seconds,
        )
        return Step(evolved(after, history=History((*state.history, stats))), stats=stats)

    # -- small things ---------------------------------------------------------------------------------------------

    def _next_batch(self, state: TrainState) -> tuple[Batch] | None:
        place = state.progress
        found = self.streams[place.phase].batch(state.key, place.epoch, place.batch)
        if found is None and place.batch == 0:
            raise DataError(
                f"dls.{'train' if place.phase == 'train' else 'valid'} gave no batch; expected at least one."
            )
        return found

    def _seed(self, state: TrainState, *folds: int) -> None:
        seed_all(self._generators, state.key.derived(*folds))

    def _transition(self, progress: Progress, step: Step, logged: tuple[LogEvent, ...]) -> Transition:
        return Transition(
            at=progress.at,
            progress=progress,
            state=step.state,
            run=self.info(step.state.key.seed),
            event=step.event,
            verdict=step.verdict,
            by=step.by or None,
            output=step.output if step.verdict is None else None,
            stats=step.stats,
            notes=self._taken_notes(progress.at),
            logged=(*self._taken_untold(), *logged),
            lr_scale=step.lr_scale,
        )

    def _taken_notes(self, at: Place) -> tuple[Note, ...]:
        """Give the notes that came up; where a fit begins, those of the fits before it too, which hold of it."""
        new = tuple(self.notes)
        self.notes.clear()
        self._noted += new
        return self._noted if at == "before_fit" else new

    def _taken_untold(self) -> tuple[LogEvent, ...]:
        taken = tuple(self.untold)
        del self.untold[: len(taken)]  # another thread may have added to it
        return taken

    def _failed(self, error: BaseException, state: TrainState, progress: Progress, audience: Audience) -> None:
        """Say where it happened, leave the state before with the error, and tell the sinks."""
        lost = state.tensors.lost is not None
        add_note(
            error,
            f"nntrain: in {progress.phase} of epoch {progress.epoch}, at {progress.at}"
            + (f" {progress.batch}" if progress.at == "batch" else "")
            + f", step {progress.step}; "
            + ("the state before it is lost" if lost else "nntrain.state_before(error) gives the state before it"),
        )
        remember_state(error, None if lost else state)
        audience.tell(
            audience.sinks,
            Transition(
                at=progress.at,
                progress=progress,
                state=state,
                run=self.info(state.key.seed),
                error=error,
                notes=self._taken_notes(progress.at),
                logged=self._taken_untold(),
            ),
            self._taken_untold,
            leniently=True,
        )

    @staticmethod
    def interrupted_by(error: Exception, interrupts: Interrupts) -> BaseException:
        """Make the interrupt that waited for the end of a step which failed, perhaps of the same Ctrl-C."""
        interrupt = interrupts.made()
        interrupt.__cause__ = error
        remember_state(interrupt, state_before(error))
        return interrupt

    def interruption(self, state: TrainState, audience: Audience, interrupts: Interrupts) -> BaseException:
        """Make the interrupt that waited for the end of a step."""
        error = interrupts.made()
        self._failed(error, state, state.progress, audience)
        return error


_Parts = dict[str, Any]


def _copied(output: BatchOutput) -> BatchOutput:
    """Give an output in memory of its own."""
    metrics = {name: value.clone() if isinstance(value, Tensor) else value for name, value in output.metrics.items()}
    return BatchOutput(output.loss.clone(), tree_map(output.preds, torch.clone), FrozenMapping(metrics))


def _parts(state: TrainState) -> _Parts:
    """Give all of a state but its tensors, so that they can be let go."""
    parts = dict(state.__dict__)
    del parts["tensors"]
    return parts


def _state_amid(
    parts: _Parts, batch: int, samples: int, *, totals: WeightedSums, seconds: float, handle: Tensors
) -> TrainState:
    """Give the state amid a phase, before `batch`: `parts` are those of the state that its batches began with."""
    place, sums = parts["progress"], parts["sums"]
    done, more = batch - place.batch, samples - sums.samples
    train = place.phase == "train"
    progress = evolved(place, batch=batch, step=place.step + done * train, samples=place.samples + more)
    running = evolved(sums, totals=totals, samples=samples, batches=sums.batches + done, seconds=seconds)
    return TrainState(**{**parts, "progress": progress, "sums": running}, tensors=handle)


def _cancelled(published: Published, event: Event) -> Step:
    """Skip what the verdict says: this batch, this phase or this fit."""
    state, verdict = published.state, published.verdict
    if verdict is None or verdict.scope == "batch":
        if event == "before_batch":
            state = moved_to(state, batch=state.progress.batch + 1)
    elif verdict.scope == "epoch":
        state = next_phase(state)
    else:
        state = moved_to(state, at="finished")
    return Step(state, verdict, published.by, event)
