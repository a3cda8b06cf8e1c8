"""All that a training is, as one immutable value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from types import NotImplementedType
from typing import Final, NoReturn

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError
from torch import Tensor, nn

from nntrain.errors import ConfigError, MisfitError
from nntrain.values.bits import same_bits
from nntrain.values.differences import Difference, difference
from nntrain.values.flattening import Flat, Flattener
from nntrain.values.history import History, phases_table
from nntrain.values.key import Key
from nntrain.values.log_event import LogEvent
from nntrain.values.modules import module_with
from nntrain.values.notebook import Cell, html_details, html_table
from nntrain.values.progress import Progress
from nntrain.values.record import FrozenMapping, Record, RecordT, evolved
from nntrain.values.sharing import unshared
from nntrain.values.slots import Slot, Unread
from nntrain.values.sums import Sums
from nntrain.values.tensors import Snapshot, Tensors
from nntrain.values.weights import averages_of, checked_params


class TrainState(Record, Flat, frozen=True):
    """All that a training is, as one immutable value.

    `progress` says where it stands; `tensors` is the handle on parameters, buffers and optimizer state; `sums` are
    the running sums of this phase; `history` has one `EpochStats` per finished phase; `key` rules all randomness;
    `lr_scale` is what the learner's learning rate is multiplied with; `slots` hold what subscribers keep. `logged` are
    the events that subscribers gave within the transition that runs: the machine takes them out and shows them to the
    sinks, so a state that a step returns has none. `loaded` are those that tell of the file which the state was read
    from, until a step is taken from it. `==` compares bits, and leaves out what the clock said, and `loaded`.
    """

    progress: Progress
    tensors: Tensors
    sums: Sums = Sums()
    history: History = History()
    key: Key
    lr_scale: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    slots: FrozenMapping[BaseModel] = FrozenMapping()
    logged: tuple[SerializeAsAny[LogEvent], ...] = ()
    loaded: tuple[SerializeAsAny[LogEvent], ...] = ()

    @property
    def params(self) -> Mapping[str, Tensor]:
        """The parameters by name. Every access gives a copy: yours, and no part of the training."""
        return self.tensors.params()

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """The buffers by name (BatchNorm's statistics and the like). Every access gives a copy."""
        return self.tensors.buffers()

    def borrow(self) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Lend parameters and buffers by name, without copies, to be read inside a `with` block.

        Raises `BorrowError` where the block tries to write to one. Copy what you keep after the block.
        """
        source = self.tensors.source
        if source is not None:
            return source.lend(self.tensors)
        return self.tensors.lend()

    def to_module(self, weights: str | None = None, *, train: bool = False) -> nn.Module:
        """Return a module of the learner's kind that holds this state's parameters and buffers, on their device.

        It is in eval mode, ready to predict; with `train=True` in training mode. `weights` names an update rule whose
        average is to be taken for the parameters, like "ema"; what it has no average of, buffers too, is the state's.
        Of several objectives "ema" is the average of each that keeps one, and "maker.ema" that of one. Raises
        `ConfigError` where no rule of that name keeps one.
        """

        def made(snapshot: Snapshot) -> nn.Module:
            if weights is not None:
                snapshot = replace(snapshot, params={**snapshot.params, **averages_of(snapshot, weights)})
            return module_with(self.tensors.template, snapshot, train=train)

        return self.tensors.read(made)

    def with_params(self, tensors: Mapping[str, Tensor]) -> TrainState:
        """Return a state with other parameters, all of them by name, copied to this state's device.

        All else is as it was: buffers, the memory of the optimizer and of the rules around it, the place. Raises
        `ConfigError` for names, shapes and dtypes that are not this state's, and for values that are not finite.
        """
        snapshot = self.tensors.snapshot()
        return self._holding(replace(snapshot, params=checked_params(snapshot.params, tensors)))

    def with_averages(self, weights: str) -> TrainState:
        """Return a state whose parameters are the average that an update rule keeps, like "ema" or "swa".

        What the rule has no average of, and all else, is as it was: buffers too, of which `update_bn` takes
        BatchNorm's statistics anew. Raises `ConfigError` where no rule of that name keeps one.
        """
        snapshot = self.tensors.snapshot()
        return self._holding(replace(snapshot, params={**snapshot.params, **averages_of(snapshot, weights)}))

    def _holding(self, snapshot: Snapshot) -> TrainState:
        return evolved(self, tensors=Tensors(self.tensors.spec, self.tensors.template, None, snapshot))

    def get(self, slot: Slot[RecordT]) -> RecordT:
        """Return what is kept under `slot`, or its default; its lists, dicts and sets are the caller's own."""
        if not isinstance(slot, Slot):
            raise ConfigError(
                f"state.get takes the Slot that the record is kept under; got {slot!r} ({type(slot).__name__})."
            )
        found: object = self.slots.get(slot.name)
        if found is None:
            found = next((kept for name, kept in self.slots.items() if slot.was_named(name)), slot.default)
        if isinstance(found, slot.record):
            return unshared(found)  # type: ignore[no-any-return] # of the very class
        if isinstance(found, Unread):
            try:
                return slot.record.model_validate(dict(found.fields), by_name=True)  # pyright: ignore[reportReturnType] # same
            except ValidationError as error:
                said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
                raise MisfitError(
                    f"Slot {slot.name!r} came from a checkpoint with fields that {slot.record.__name__} does not "
                    f"take: {said}. Read it with the record that it was saved with."
                ) from error
        raise ConfigError(
            f"Slot {slot.name!r} holds a {type(found).__name__}, but was asked for as {slot.record.__name__}: "
            f"two subscribers use one name. Give one of them another."
        )

    def put(self, slot: Slot[RecordT], value: RecordT) -> TrainState:
        """Return a state that keeps `value` under `slot`."""
        if not isinstance(slot, Slot):
            raise ConfigError(
                f"state.put takes the Slot to keep the record under; got {slot!r} ({type(slot).__name__})."
            )
        if not isinstance(value, slot.record):
            raise ConfigError(
                f"Slot {slot.name!r} keeps a {slot.record.__name__}; got {value!r} ({type(value).__name__})."
            )
        slots = self.slots
        if slot.former is not None:
            slots = FrozenMapping({name: kept for name, kept in slots.items() if not slot.was_named(name)})
        return evolved(self, slots=slots.put(slot.name, unshared(value)))

    def scale_lr(self, factor: float) -> TrainState:
        """Return a state from which the learning rate, constant or of a schedule, is `factor` times what it was.

        It holds until it is scaled again, for every parameter group, and is saved and rolled back with the state.
        """
        scale = (
            self.lr_scale * factor if isinstance(factor, (int, float)) and not isinstance(factor, bool) else math.nan
        )
        if not (math.isfinite(scale) and scale >= 0):
            raise ConfigError(f"scale_lr takes a finite number of 0 or more, like 0.5; got {factor!r}.")
        return evolved(self, lr_scale=float(scale))

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:
        """Return the parts of all that the training is: what a checkpoint holds."""
        named = {name: getattr(self, name) for name in ("progress", "sums", "history", "key", "lr_scale", "slots")}
        return "state", {**self.tensors.parts(flattener), **named}

    def diff(self, other: TrainState) -> Difference:
        """Return how two states differ: each tensor by its bits, and each value, but not by what the clock said."""
        if not isinstance(other, TrainState):
            raise ConfigError(f"state.diff takes another TrainState; got {type(other).__name__}.")
        mine, theirs = Flattener(), Flattener()
        pairs: dict[str, tuple[object, object]] = {
            f"slots/{name}": (kept, other.slots[name]) for name, kept in self.slots.items() if name in other.slots
        }
        pairs["logged"] = self.logged, other.logged
        return difference(
            (mine.tree(self, ""), mine.tensors),
            (theirs.tree(other, ""), theirs.tensors),
            known={name: None if same_bits(*pair) else (repr(pair[0]), repr(pair[1])) for name, pair in pairs.items()},
        )

    def log(self, event: LogEvent) -> TrainState:
        """Return a state with which `event` is told: a subscriber answers with it, and the log writes the event."""
        if not isinstance(event, LogEvent) or not getattr(event, "event", None):
            raise ConfigError(
                f"state.log takes a LogEvent; got {event!r:.80} ({type(event).__name__}). Make a class of yours: "
                f'class Mixup(LogEvent, frozen=True): event: Literal["acme.mixup"] = "acme.mixup"; alpha: float.'
            )
        return evolved(self, logged=(*self.logged, event))

    def __eq__(self, other: object) -> bool | NotImplementedType:
        if not isinstance(other, TrainState):
            return NotImplemented
        same = (
            self.progress == other.progress
            and self.key == other.key
            and same_bits(self.lr_scale, other.lr_scale)
            and self.history == other.history
            and same_bits(dict(self.slots), dict(other.slots))
            and same_bits(self.logged, other.logged)
            and self.sums == other.sums  # of several ranks each has its own: what is compared by all comes before
        )
        return self.tensors.same(other.tensors, rest=same)

    def __hash__(self) -> int:
        return hash((self.progress, self.key))

    def __repr__(self) -> str:
        place, sums = self.progress, self.sums
        if sums.batches:
            said = f"loss={sums.means()[0]:.4g}, "
        else:
            said = f"loss={self.history[-1].loss:.4g}, " if self.history else ""
        spec = self.tensors.spec
        count = sum(math.prod(shape) for shape, _ in spec.params.values())
        epoch = f"{place.epoch}/{place.epochs}" if place.until is None else f"{place.epoch}"
        step = f"{place.step}" if place.until is None else f"{place.step}/{place.until}"
        phase = f"{place.phase}, data={place.data}" if place.data else place.phase
        return (
            f"TrainState(at={place.at}, epoch={epoch}, phase={phase}, batch={place.batch}, step={step}, {said}"
            f"parameters={count:,}, device={spec.device})"
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return tables of where it stands, the last phases and its tensors, none of which is read, for a notebook."""
        place, spec = self.progress, self.tensors.spec
        count = sum(math.prod(shape) for shape, _ in spec.params.values())
        rows: list[tuple[str, Cell]] = [
            ("at", place.at),
            ("epoch", f"{place.epoch:,}" if place.until is not None else f"{place.epoch:,} of {place.epochs:,}"),
            ("phase", f"{place.phase}: {place.data}" if place.data else place.phase),
            ("batch", place.batch),
            ("step", place.step if place.until is None else f"{place.step:,} of {place.until:,}"),
            *([("loss so far", self.sums.means()[0])] if self.sums.batches else []),
            *([("lr_scale", self.lr_scale)] if self.lr_scale != 1.0 else []),
            ("seed", str(self.key.seed)),
            *([("slots", ", ".join(self.slots))] if self.slots else []),
            ("parameters", count),
            ("device", str(spec.device)),
        ]
        tensors = [
            (name, kind, str(list(shape)), str(dtype).removeprefix("torch."))
            for kind, named in (("parameter", spec.params), ("buffer", spec.buffers))
            for name, (shape, dtype) in named.items()
        ]
        last, known = self.history[-_PHASES:], len(self.history)
        said = f"{known:,} finished phases" if known <= _PHASES else f"the last {_PHASES} of {known:,} finished phases"
        return "".join(
            (
                html_table("TrainState", rows),
                phases_table(said, last) if last else "",
                html_details(f"{len(tensors):,} tensors", html_table("", tensors, ("name", "kind", "shape", "dtype"))),
            )
        )

    def __reduce__(self) -> NoReturn:
        self.tensors.__reduce__()


_PHASES: Final = 6
"""So many of the last phases a notebook shows of a state."""
_STATE = "__nntrain_state_before__"


def remember_state(error: BaseException, state: TrainState | None) -> None:
    """Set what `state_before(error)` returns."""
    with suppress(Exception):
        object.__setattr__(error, _STATE, state)


def state_before(error: BaseException) -> TrainState | None:
    """Return the whole state before the step that failed with `error`; `fit_step` goes on from it.

    None where `error` did not come out of a step, or where an optimizer failed in the middle of its own writing
    and nobody had kept the state.
    """
    return getattr(error, _STATE, None)
