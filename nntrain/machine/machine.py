"""The machine: what stands at a place is done, subscribers are asked, sinks are told. One step at a time, or a phase.

`nntrain.machine.table` says what leads where. `Machine.step` is the only way through; everything larger is a fold of it
(`nntrain.machine.steps`). At a batch it goes on to the phase's end, and makes a state only where somebody looks.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from nntrain.data.divided import Divided
from nntrain.data.dividing import Part, part_of
from nntrain.data.stream import Stream
from nntrain.errors import ConfigError, ConfigWarning, DataError, StateError
from nntrain.live.ahead import Ahead, sender_for
from nntrain.live.determinism import deterministic
from nntrain.live.engine import Passed, Runner
from nntrain.live.fused import tracing_gradients
from nntrain.live.precision import MatmulPrecision, matmul_precision
from nntrain.live.resident import note_resident
from nntrain.live.turn import Turn
from nntrain.live.workspace import Workspace
from nntrain.machine.agreement import agreed
from nntrain.machine.cursor import Cursor, Position
from nntrain.machine.interrupts import Interrupts
from nntrain.machine.shares import Sharing, of_all_ranks
from nntrain.machine.table import TABLE, Step, leave, moved_to
from nntrain.machine.telling import Telling
from nntrain.metrics.monitors import Monitors
from nntrain.metrics.phase import PhaseMetrics
from nntrain.ranks.pulse import Pulse
from nntrain.ranks.ranks import Ranks
from nntrain.ranks.world import current_world
from nntrain.sinks.audience import Watcher
from nntrain.sinks.interest import Sink
from nntrain.sinks.news import News
from nntrain.sinks.transition import RunInfo
from nntrain.subscribers.asking import Listener, Published, publish
from nntrain.task.task import Task
from nntrain.values.history import EpochStats, History
from nntrain.values.key import Key
from nntrain.values.log_event import Note
from nntrain.values.output import BatchOutput
from nntrain.values.progress import Phase, Place
from nntrain.values.randomness import restoring_rng, seed_all
from nntrain.values.record import FrozenMapping, evolved
from nntrain.values.state import TrainState
from nntrain.values.tensors import Tensors
from nntrain.values.trees import to_device
from nntrain.values.verdicts import Event
from nntrain.values.weights import averages_in

Batch = TypeVar("Batch")

# What a key is folded with, so that different uses draw different numbers.
WRITES_IN_EVAL: Final = (
    "The model writes to a buffer or a parameter in eval, and an update rule has in_eval=True: with the average in the "
    "place of the weights, what is written belongs to neither. Leave in_eval out, and call evaluate(learner, state, "
    "weights=...) beside the fit."
)
_NOISE, _EVAL_NOISE, _EVENTS = 1, 2, 3
_BITS: Final = (1 << 63) - 1
_EPOCHS_WITHOUT_A_BATCH: Final = 100
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


def machine_of(learner: HasMachine[Batch]) -> Machine[Batch]:
    """Return a learner's machine. Raises `ConfigError` for what is no learner, such as a module."""
    try:
        machine: object = learner.machine
    except AttributeError:
        if hasattr(type(learner), "machine"):  # it is a learner, and its model's or optimizer's code has failed
            raise
        machine = None
    if isinstance(machine, Machine):
        return machine
    given = f"the class {learner.__name__}" if isinstance(learner, type) else type(learner).__name__
    raise ConfigError(
        f"Got {given} where a Learner is expected: Learner(model, dls, ...). A checkpoint's weights as a module are "
        f"load(path, learner).to_module()."
    )


@dataclass
class Machine(Generic[Batch]):
    """A learner, made ready to step: its workspace, its data, who listens."""

    workspace: Workspace
    streams: Mapping[str, Stream[Batch]]
    """The data: "train", and the sets that are evaluated in their order, by name."""
    task: Task[Batch, Any]
    engine: Runner[Batch]
    metrics: PhaseMetrics
    heard_by: Mapping[Event, tuple[Listener, ...]]
    sinks: tuple[Sink, ...]
    monitors: Monitors
    info: Callable[[int], RunInfo]
    news: News
    float32_matmul: MatmulPrecision | None = None
    deterministic: bool = False
    compiles: bool = False
    ranks: Ranks | None = None
    """The processes that train together, if there are others."""
    pulse: Pulse | None = None
    parallel: bool = False
    """Whether the learner shares its batches with other processes, where there are any."""
    sharing: Sharing | None = None
    """How a checkpoint gets what is divided over them, and gives it back; None in a machine that is no learner's."""
    turn: Turn = field(default_factory=Turn)

    @property
    def takes_batches_in_groups(self) -> bool:
        """Whether unwatched batches may be told of in groups: nobody makes a state for each of them in any case."""
        return not (self._before_batch or self._after_batch or self.workspace.needs_closure)

    def __post_init__(self) -> None:
        self._generators = self.workspace.generators
        self._size = 1 if self.ranks is None else self.ranks.world.size
        if self.ranks is not None:
            self.streams = {name: self.divided(stream) for name, stream in self.streams.items()}
        sender = sender_for(self.workspace.device)
        self._ahead = {} if sender is None else {name: Ahead(one, sender) for name, one in self.streams.items()}
        self._sets = tuple(name for name in self.streams if name != "train")
        self._running: tuple[Key, int, str] | None = None
        """Which phase this machine is in: a state in the middle of another was made elsewhere."""
        self._noise_key: Key | None = None
        self._noise_epoch = -1
        self._noise = (0, 0)
        self._own_noise: Callable[[int], int] = int if self.ranks is None else self.ranks.own_noise
        self._asking: tuple[Key, int, Phase] | None = None
        self._asking_bits: Callable[[int], int] = int
        self._before_batch = bool(self.heard_by["before_batch"])
        self._after_batch = bool(self.heard_by["after_batch"])
        self._forewarned = False
        """Whether somebody was warned that a first batch of training lacks what is read of eval."""
        self._accumulates = self.workspace.window > 1
        self._tells = self.workspace.optimizer.tells
        self.eval_weights: tuple[str, ...] = self.workspace.optimizer.eval_weights
        """The rules whose averages eval has in the place of the parameters."""
        self._written_in = 0.0
        """The seconds of the last batch's write, with those who were asked before it: the next batch counts them."""
        self._averaged: tuple[Callable[[], Tensors | None], Tensors] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Surround any number of steps: whose turn it is, and the caller's grad mode and generators to go back to.

        No step depends on what the one before it left in the generators; each seeds them for itself. Raises
        `ConfigError` where the world is another than when the machine was made.
        """
        if self.parallel:
            self._check_world()
        with (
            self.turn.taken(),
            ordinary_tensors(),
            torch.no_grad(),
            restoring_rng(self._generators),
            matmul_precision(self.float32_matmul),
            deterministic(wanted=self.deterministic),
            tracing_gradients(wanted=self.compiles),
        ):
            self.turn.begin()
            self.workspace.empties_autocast_cache = torch.is_autocast_enabled(self.workspace.device.type)
            yield

    def _check_world(self) -> None:
        now = current_world().size
        if now != self._size:
            raise ConfigError(
                f"The learner's first state was made in a world of {self._size}, and torch's process group is of {now} "
                f"now. Make the group first, or leave that to the learner, which joins the group that torchrun "
                f"describes; learner.replace() makes one for the world of now."
            )

    def check_sums(self, state: TrainState) -> None:
        """Raise `StateError` for a state amid a phase of a set that is not there, or whose sums are of other
        metrics."""
        place = state.progress
        if place.phase == "eval" and place.data not in self._sets and place.at != "finished":
            raise StateError(
                f"The state stands in the eval phase of {place.data or 'a set without a name'}; dls.valid has "
                f"{', '.join(name or 'one without a name' for name in self._sets) or 'nothing to evaluate on'}. Finish "
                f"the epoch with a learner of the same sets."
            )
        weighted, own = state.sums.weighted, self.engine.names
        theirs, ours = (*weighted.metrics, *weighted.memory), (*own, *self.metrics.whole)
        parts = 0 if self.engine.supervised else len(theirs) - len(ours)  # of a loss: they come before the metrics
        if state.progress.at == "batch" and state.sums.batches and theirs[max(parts, 0) :] != ours:
            raise StateError(
                f"The state is amid a phase, whose sums are of the metrics {', '.join(theirs) or '(none)'}; "
                f"the learner has {', '.join(ours) or 'none'}. Finish the phase with a learner of the same metrics: "
                f"epoch_step(learner, state)."
            )
        if state.progress.at == "batch" and state.sums.batches and {*weighted.carried} != {*self.engine.carrying}:
            raise StateError(
                f"The state is amid a phase whose batches hand on what {', '.join(weighted.carried) or 'nothing'} "
                f"carries; of the learner that is {', '.join(self.engine.carrying) or 'nothing'}. Finish the phase "
                f"with a learner of the same task: epoch_step(learner, state)."
            )

    # -- one step -------------------------------------------------------------------------------------------------

    def step(
        self,
        cell: list[TrainState],
        telling: Telling,
        interrupts: Interrupts,
        *,
        batch: tuple[Batch] | None = None,
        once: bool = False,
    ) -> Step:
        """Do what stands at the place of the state in `cell`, which is taken out: its tensors may be overwritten.

        At a batch it goes on with the phase until that ends or is left, Ctrl-C came, or `once` is said. `batch`, if
        given, is used instead of the loader's. A failure leaves the state before it with the error.
        """
        place = cell[0].progress
        if place.at == "batch":
            return self._batches(Cursor(cell.pop(), self._size), telling, interrupts, batch, once=once)
        try:
            step = self._event(cell)
        except BaseException as error:
            telling.failure(error, cell.pop(), place)
            raise
        cell.clear()
        # Before an epoch there is but what was agreed on after the one before it, where nobody was asked meanwhile.
        self._agree_on_signals(interrupts, at_once=place.at != "before_epoch" or bool(self.heard_by[place.at]))
        return telling.step(step, place)

    def _agree_on_signals(self, interrupts: Interrupts, *, at_once: bool = False) -> None:
        """Where several ranks train together, take a signal for pressed at the same step on all of them."""
        if self.pulse is not None:
            interrupts.pressed = self.pulse.beat(interrupts.came, at_once=at_once)

    def _event(self, cell: list[TrainState]) -> Step:
        """Publish a place's event, and go where the table leads after it."""
        state = cell[0]
        place = state.progress
        at = place.at
        if at == "finished" or at == "batch":  # noqa: PLR1714 - so that mypy narrows the place to an event
            raise ConfigError(f"No event stands at {at}.")
        published = Published(state)
        if self.heard_by[at]:
            bits = state.key.derived(_EVENTS, _PLACES[at], place.epoch, _PHASES[place.phase])
            seed_all(self._generators, bits)
            published = self._publish(at, state)
        return leave(published, at, self._sets)

    def _publish(self, event: Event, state: TrainState, *rest: object) -> Published:
        """Ask those who listen to an event; check that the state which they answered is one for this learner."""
        if self.ranks is None:
            return self._ask(event, state, *rest)
        return agreed(self.ranks, event, state, lambda: self._ask(event, state, *rest))

    def _ask(self, event: Event, state: TrainState, *rest: object) -> Published:
        published = publish(event, self.heard_by[event], state, *rest)
        if published.state.tensors.spec is not self.workspace.spec:
            self.workspace.check_fit(published.state.tensors)
        return published

    # -- the batches of a phase -----------------------------------------------------------------------------------

    def _batches(
        self,
        cursor: Cursor,
        telling: Telling,
        interrupts: Interrupts,
        given: tuple[Batch] | None,
        *,
        once: bool,
    ) -> Step:
        """Take batches until the phase is left, or a step is to be returned for another reason."""
        watching: Sequence[Watcher] = ()
        grouped, ahead = False, None
        begun, start = self._running, cursor.now[0].start
        self._running = start.key, start.epoch, start.data
        others = given is None and cursor.now[0].batch > 0 and begun != self._running
        first = others or cursor.now[0].batch == 0
        self._written_in = 0.0 if first else self._written_in
        while True:
            before = cursor.now[0]
            try:
                self._agree_on_signals(interrupts)
                if not telling.to_nobody:
                    ahead = self._step_ahead(cursor) if self._accumulates else before.step + before.start.train
                    watching = telling.watching(before, ahead)
                    grouped = not watching and telling.groups_next(before)
                    if watching and telling.pending:
                        telling.tell_group(before)
                found = self._batch(cursor, given, seen=bool(watching) or grouped)
                if isinstance(found, Passed):
                    reached = cursor.now[0]
                    if first:
                        first = False
                        self._look_at_first(before, found, others)
                    if reached.start is not before.start:  # a subscriber answered another state
                        watching = telling.watching_reached(before, reached, watching, ahead)
                    news = not watching and telling.has_news(reached.start)
                    if grouped and not news:
                        telling.add(reached, found)
                    if not (watching or news or once or interrupts.pressed):
                        continue
                    owned = watching or grouped or self._after_batch
                    output = found.output if owned else found.output.copied()  # an engine may use its memory again
                    found = Step(cursor.state(), event="after_batch", output=output, lr_scale=found.lr_scale)
                if telling.pending:
                    telling.tell_group(before)
            except BaseException as error:
                telling.tell_group(before, leniently=True)
                telling.failure(error, cursor.state(), cursor.now[0].progress)
                raise
            step = telling.step(found, before.progress, watching)
            if once or interrupts.pressed or step.state.progress.at != "batch":
                return step
            if step.state is not cursor.now[2]:
                cursor = Cursor(step.state, self._size)
            del found, step

    def _look_at_first(self, before: Position, found: Passed, others: bool) -> None:
        """Look at a phase's first batch, or the first from the state of `others`: raise, or warn, of what is amiss."""
        start, monitors, means = before.start, self.monitors, found.weighted.metrics
        if others:
            self.streams[start.data].check_place(before.progress, start.sums, found.samples, self.news.warn)
        if monitors.read:
            monitors.check(start.data or "eval", means, has_loss=found.weighted.has_loss)
            told = monitors.warning(means) if start.train and not self._forewarned else None
            if told is not None:
                self._forewarned = True
                self.news.warn(Note("monitor.missing", told), ConfigWarning)

    def _batch(self, cursor: Cursor, given: tuple[Batch] | None, *, seen: bool) -> Step | Passed:
        """Take one batch, and move the cursor past it; or return where a verdict, or the end of the data, leads to.

        After a failure the cursor stands at a whole value, if there is one: before the batch, or after it. Nobody is
        asked while the workspace is held: a subscriber may wait for a thread that reads the state.
        """
        began = time.perf_counter()
        workspace = self.workspace
        before, tensors = cursor.now[:2]
        found = given if given is not None else self._next_batch(before)
        if found is None:
            del tensors
            self._averaged = None
            told = self._write_rest(cursor) if self._accumulates and before.start.train else {}
            return self._finish_phase(cursor.state())._replace(told=told)
        (batch, part), position = self._here(found[0], divided=given is None), before
        if self._before_batch:
            asked = self._ask_before(cursor.state(), before, batch)
            if asked.verdict is not None:
                return leave(asked, "before_batch", self._sets)
            if asked.state is not cursor.now[2]:
                position, tensors = self._position(asked.state), asked.state.tensors
            del asked
        # Where another value is brought in, or the optimizer evaluates the model while it writes, the value before has
        # a copy of its own, and is kept in case of a failure.
        kept = cursor.now[1] if workspace.writes_within or tensors is not cursor.now[1] else None
        state, verdict, by, rank = None, None, "", None
        try:
            step = position.step if position.start.train else None
            seen_by_eval = self.averaged(tensors) if step is None and self.eval_weights else None
            used = tensors if seen_by_eval is None else seen_by_eval
            with workspace.held(used):
                flight = workspace.begin(used, step=step, lr_scale=position.start.lr_scale)
                del used
                flight.bits, flight.part = self._noise_of(position), part
                bits = self._own_noise(flight.bits)
                passed = self.engine.run(batch, position.weighted, flight, bits=bits, seen=seen or self._after_batch)
                if seen_by_eval is None:
                    tensors = workspace.pending(tensors)
                elif workspace.pending(seen_by_eval) is not seen_by_eval:
                    raise StateError(WRITES_IN_EVAL)
            seconds = time.perf_counter() - began
            counted = seconds + self._written_in
            position = position.after(passed.samples, passed.weighted, counted, steps=flight.steps)
            if self._after_batch:
                shown = [position.state(tensors)]
                del tensors  # only the state that is shown holds it: if that is not wanted, it is never written
                same = weakref.ref(shown[0])
                state, verdict, by, rank = self._ask_after(shown, batch, passed.output)
                position, tensors = position if state is same() else self._position(state), state.tensors
            cursor.now = position, tensors, state  # lets the value before go, before the optimizer writes
            workspace.commit(tensors)
            self._written_in = time.perf_counter() - began - seconds
        except BaseException as error:
            self._land(error, cursor, before, kept, batch)
            raise
        if self._tells and (told := workspace.optimizer.take_told()):
            passed = passed._replace(output=replace(passed.output, told=told))
        if verdict is not None:
            return leave(Published(cursor.state(), verdict, by, rank), "after_batch", self._sets)
        return passed

    def _here(self, batch: Any, *, divided: bool) -> tuple[Batch, Part[Batch] | None]:
        """Return a batch on the device, or this rank's part of it, which the loader may have `divided` already."""
        part = None if self.ranks is None else batch if divided else part_of(batch, self.ranks.world)
        mine: Batch = batch if part is None else part.batch
        try:
            return to_device(mine, self.workspace.device), part
        except Exception as error:
            note_resident(error, self.workspace, mine)
            raise

    def own_share(self, state: TrainState) -> TrainState:
        """Return a loaded state with this rank's share of what is divided over ranks. Raises `StateError`."""
        return state if self.sharing is None else self.sharing.own(state)

    def divided(self, stream: Stream[Any]) -> Stream[Any]:
        """Return a stream of this rank's parts of another's batches, where there are other ranks."""
        if self.ranks is None or isinstance(stream.loader, Divided):
            return stream
        return Stream(Divided(stream.loader, self.ranks.world), stream.fold, stream.name)

    def _position(self, state: TrainState) -> Position:
        return Position.of(state, self._size)

    def averaged(self, tensors: Tensors) -> Tensors:
        """Return the value that eval has in the place of another: with averages for parameters, as far as there are."""
        if self._averaged is None or self._averaged[0]() is not tensors:
            snapshot = tensors.snapshot()
            params = {**snapshot.params, **averages_in(snapshot, self.eval_weights)}
            averages = Tensors(tensors.spec, tensors.template, None, replace(snapshot, params=params))
            self._averaged = weakref.ref(tensors), averages
        return self._averaged[1]

    def _write_rest(self, cursor: Cursor) -> Mapping[str, Tensor | float]:
        """Write the gradients that wait for more batches, of which the phase has none; return what the rules tell.

        A failure is as in `_batch`.
        """
        workspace = self.workspace
        before, tensors = cursor.now[:2]
        if not workspace.collected(tensors):
            return {}
        try:
            with workspace.held(tensors):
                bits = self._noise_of(before)  # of the batch that there is not: no other has them
                workspace.begin_rest(tensors, step=before.step, lr_scale=before.start.lr_scale, bits=bits)
                tensors = workspace.pending(tensors)
            state = evolved(moved_to(cursor.state(), step=before.step + 1), tensors=tensors)
            cursor.now = self._position(state), tensors, state  # lets the value before go, before the optimizer writes
            workspace.commit(tensors)
            return workspace.optimizer.take_told() if self._tells else {}
        except BaseException as error:
            self._land(error, cursor, before, None)
            raise

    def _land(
        self, error: BaseException, cursor: Cursor, before: Position, kept: Tensors | None, batch: object = None
    ) -> None:
        """Leave the cursor at a whole value after a failure, if there is one: after the batch, or before it."""
        note_resident(error, self.workspace, batch)
        reached = cursor.now[1]
        remains = self.workspace.land(reached)
        if reached.lost is not None:
            cursor.now = before, remains if kept is None else kept, None

    def _step_ahead(self, cursor: Cursor) -> int | None:
        """Return the number of steps after the next batch; None where it is one to train on that writes none."""
        position, tensors, _ = cursor.now
        if not position.start.train:
            return position.step
        return position.step + 1 if self.workspace.collected(tensors) + 1 >= self.workspace.window else None

    def _ask_before(self, state: TrainState, at: Position, batch: Batch) -> Published:
        start = at.start
        phase = start.key, start.epoch, start.phase
        if self._asking != phase:
            self._asking = phase
            self._asking_bits = start.key.stream(_EVENTS, _PLACES["batch"], start.epoch, _PHASES[start.phase])
        seed_all(self._generators, self._asking_bits(at.batch))
        return self._publish("before_batch", state, batch)

    def _ask_after(self, shown: list[TrainState], batch: Batch, output: BatchOutput) -> Published:
        """Publish `after_batch`, while the optimizer's write is pending; drop the write if it is not wanted."""
        answered = self._publish("after_batch", shown.pop(), batch, output)
        if not self.workspace.is_pending(answered.state.tensors):
            self.workspace.abandon()
        return answered

    def _next_batch(self, at: Position) -> tuple[Batch] | None:
        start = at.start
        if at.step >= start.until:
            return None
        stream = self.streams[start.data]
        ahead = self._ahead.get(start.data)
        found = (
            stream.batch(start.key, start.epoch, at.batch)
            if ahead is None
            else ahead.batch(start.key, start.epoch, at.batch, last=at.step + 1 >= start.until)
        )
        if found is None and at.batch == 0:
            raise DataError(f"{stream.name} gave no batch; expected at least one.")
        return found

    def _finish_phase(self, state: TrainState) -> Step:
        """Take the phase's means, once its batches are exhausted; a phase without a finished batch has none."""
        sums, place = state.sums, state.progress
        after = moved_to(state, at="after_epoch")
        if not sums.batches:
            _check_goes_on(state)
            return Step(after)
        seconds = sums.seconds + self._written_in
        if self.ranks is not None:
            sums = of_all_ranks(self.ranks, sums, self.metrics)
            seconds = sums.seconds
        weighted = sums.weighted
        # One NaN for all: a log tells that a value is none, and not which.
        loss, *means = (mean if mean == mean else math.nan for mean in sums.means())  # noqa: PLR0124
        named = dict(zip(weighted.metrics, means, strict=True))
        stats = EpochStats(
            epoch=place.epoch,
            phase=place.phase,
            data=place.data,
            loss=loss,
            metrics=FrozenMapping(self.metrics.values(named, weighted.memory)),
            samples=round(sums.weight),
            batches=sums.batches,
            seconds=seconds,
            has_loss=sums.weighted.has_loss,
        )
        if self.monitors.read:
            self.monitors.check_values(stats.label, stats.metrics, has_loss=stats.has_loss)
        return Step(evolved(after, history=History((*state.history, stats))), stats=stats)

    # -- randomness -----------------------------------------------------------------------------------------------

    def _noise_of(self, at: Position) -> int:
        """Return what a batch's noise is seeded with; the next batch's is one more, mod 2**63."""
        start, train = at.start, at.start.train
        if start.key is not self._noise_key or start.epoch != self._noise_epoch:
            self._noise_key, self._noise_epoch = key, epoch = start.key, start.epoch
            # With `accumulate` several batches have one step.
            of_train = key.derived(_NOISE, epoch) if self._accumulates else key.derived(_NOISE)
            self._noise = of_train, eval_noise(key, epoch, 0)
        of_train, of_eval = self._noise
        if train and not self._accumulates:
            return (of_train + at.step) & _BITS
        return ((of_train if train else of_eval) + at.batch) & _BITS


def _check_goes_on(state: TrainState) -> None:
    """Raise `ConfigError` where a goal in steps is looked for without end: every batch is cancelled, epoch by epoch."""
    place = state.progress
    trained = next((one.epoch for one in reversed(state.history) if one.phase == "train"), -1)
    if place.phase == "train" and place.until is not None and place.epoch - trained >= _EPOCHS_WITHOUT_A_BATCH:
        raise ConfigError(
            f"Every batch of the last {_EPOCHS_WITHOUT_A_BATCH} epochs was cancelled: the fit stands at step "
            f"{place.step}, and its goal is step {place.until}, which it would look for without end. Let some batches "
            f"through, or give a goal in epochs: fit(epochs=...)."
        )


def eval_noise(key: Key, epoch: int, batch: int) -> int:
    """Return what the noise of a batch of eval is seeded with.

    The epoch is mixed in: torch's generator of the CPU looks at the low 32 bits of a seed only.
    """
    return (key.derived(_EVAL_NOISE, epoch) + batch) & _BITS
