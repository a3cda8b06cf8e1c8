"""The records: `TrainState`, which is all that a training is, and what it is made of.

All are frozen pydantic models that accept no unknown field. A record is a value: keep it, and it never changes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from contextlib import AbstractContextManager
from types import NotImplementedType
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar

import torch
from pydantic import BaseModel, Field, GetCoreSchemaHandler, SerializeAsAny, ValidationError
from pydantic_core import CoreSchema, core_schema, to_jsonable_python
from torch import Tensor, nn

from nntrain.bits import same_bits, same_tensor
from nntrain.borrowing import lent
from nntrain.differences import Difference, difference
from nntrain.errors import ConfigError, MisfitError
from nntrain.logged import LogEvent
from nntrain.modules import module_with
from nntrain.tensors import Tensors, summarised
from nntrain.trees import Flat, Flattener

Phase = Literal["train", "eval"]
"""The two phases of an epoch."""
Place = Literal["before_fit", "before_epoch", "batch", "after_epoch", "after_fit", "finished"]
"""Where the machine can stand. `nntrain.machine` has the table of what leads where."""

RecordT = TypeVar("RecordT", bound=BaseModel)
Value = TypeVar("Value", covariant=True)  # noqa: PLC0105 - the name that readers of an error message know
Other = TypeVar("Other")

_MASK = (1 << 64) - 1


class Record(BaseModel, frozen=True, extra="forbid", arbitrary_types_allowed=True):
    """A frozen pydantic model without unknown fields."""


def evolved(record: RecordT, **changes: object) -> RecordT:
    """Give a record with other values for some fields, without validating them again.

    For the machine, whose values are right by construction: validating three records anew took 2.6 % of a batch of the
    MLP in `tests.benchmarks.loop`. It is `model_copy(update=...)`, less what frozen records do not need.
    """
    other = object.__new__(type(record))
    put = object.__setattr__
    put(other, "__dict__", {**record.__dict__, **changes})
    put(other, "__pydantic_fields_set__", record.__pydantic_fields_set__)
    put(other, "__pydantic_extra__", None)
    put(other, "__pydantic_private__", None)
    return other


class FrozenMapping(Mapping[str, Value], Generic[Value]):
    """A mapping from names to values that cannot be changed, as a field of a record."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Value] | None = None) -> None:
        self._items: dict[str, Value] = dict(items or {})

    def __getitem__(self, name: str) -> Value:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def keys(self) -> KeysView[str]:
        """Give the names."""
        return self._items.keys()

    def values(self) -> ValuesView[Value]:
        """Give the values."""
        return self._items.values()

    def items(self) -> ItemsView[str, Value]:
        """Give the names with their values, at a dict's speed."""
        return self._items.items()

    def __repr__(self) -> str:
        return repr(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def put(self, name: str, value: Other) -> FrozenMapping[Value | Other]:
        """Give a mapping with one more, or another, value."""
        return FrozenMapping({**self._items, name: value})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        (value,) = getattr(source, "__args__", (Any,))
        plain = core_schema.dict_schema(core_schema.str_schema(), handler.generate_schema(value))
        return core_schema.union_schema(
            [
                core_schema.is_instance_schema(cls),
                core_schema.no_info_after_validator_function(cls, plain),
            ],
            mode="left_to_right",
            serialization=core_schema.plain_serializer_function_ser_schema(
                dict, return_schema=core_schema.dict_schema(core_schema.str_schema(), _as_is(value, handler))
            ),
        )


def _as_is(value: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    """Serialise numbers as numbers (a NaN as null) and records by their own fields, whatever their class."""
    if value is float:
        return handler.generate_schema(value)
    return core_schema.any_schema(
        serialization=core_schema.plain_serializer_function_ser_schema(_plain, when_used="json")
    )


def _plain(value: object) -> object:
    return to_jsonable_python(value, fallback=_summary, inf_nan_mode="null")


def _summary(value: object) -> object:
    """Summarise a tensor that a subscriber keeps in its record."""
    if isinstance(value, Tensor):
        return summarised(value.shape, value.dtype)
    return repr(value)


class Key(Record, frozen=True):
    """A source of randomness that is a value: a seed, and what was folded into it.

    All that is random in a training is a function of the key: the shuffle of epoch e of (seed, e), the noise of
    step s of (seed, s). Mixing is splitmix64's finaliser (Steele, Lea, Flood 2014) over seed and folds.

    >>> Key(seed=0).fold(3) == Key(seed=0, folds=(3,))
    True
    """

    seed: int = Field(ge=0, lt=1 << 63)
    folds: tuple[int, ...] = ()

    def fold(self, *numbers: int) -> Key:
        """Give the key for one use among many, such as one epoch's shuffle."""
        return Key(seed=self.seed, folds=(*self.folds, *numbers))

    @property
    def bits(self) -> int:
        """63 bits, a pure function of the seed and the folds: what a generator is seeded with."""
        return self.derived()

    def derived(self, *numbers: int) -> int:
        """Give the `bits` of `fold(*numbers)`, without making the key."""
        mixed = _mix(self.seed)
        for number in (*self.folds, *numbers):
            mixed = _mix(mixed ^ (number * 0x632BE59BD9B4E019 & _MASK))
        return mixed >> 1


def _mix(number: int) -> int:
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


class Progress(Record, frozen=True):
    """Where a training stands.

    `at` is the machine's place. `epochs` is the fit's goal: the number of epochs that lie behind when it is done.
    `epoch` counts from 0 and is the one that runs, or comes next. `batch` is the position in the phase's data: the
    batches that lie behind, cancelled ones too. `step` counts the optimizer's steps since `init`. `samples` are those
    of this phase that count in its means.
    """

    at: Place = "before_fit"
    epochs: int = Field(default=0, ge=0)
    epoch: int = Field(default=0, ge=0)
    phase: Phase = "train"
    batch: int = Field(default=0, ge=0)
    step: int = Field(default=0, ge=0)
    samples: int = Field(default=0, ge=0)


class EpochStats(Record, frozen=True):
    """The statistics of one finished phase.

    `loss` and `metrics` are means over `samples`, so that a short last batch counts for what it is; `batches` are
    those that ran. `seconds` is what the clock said, and takes no part in equality: the same training is the same.
    """

    epoch: int
    phase: Phase
    loss: float
    metrics: FrozenMapping[float] = FrozenMapping()
    samples: int
    batches: int
    seconds: float = 0.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EpochStats):
            return NotImplemented
        return same_bits(self._value(), other._value())

    def __hash__(self) -> int:
        return hash((self.epoch, self.phase, self.samples, self.batches))

    def _value(self) -> tuple[object, ...]:
        return (self.epoch, self.phase, self.loss, dict(self.metrics), self.samples, self.batches)


class History(tuple[EpochStats, ...]):
    """The finished phases, oldest first. Validated once when made, so that a long history costs a step nothing."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = handler.generate_schema(tuple[EpochStats, ...])
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), core_schema.no_info_after_validator_function(cls, plain)],
            mode="left_to_right",
            serialization=core_schema.plain_serializer_function_ser_schema(tuple, return_schema=plain),
        )


class Totals(Flat):
    """Sample-weighted sums of the loss and of each metric, in float64, where they are cheapest.

    On a CPU reading a number out of a tensor waits for nothing, so the sums are Python floats. On a device they are
    one float64 tensor there, and nothing waits until the phase is done.
    """

    __slots__ = ("_values", "metrics")

    def __init__(self, values: Sequence[float] | Tensor = (), metrics: tuple[str, ...] = ()) -> None:
        self._values = values
        self.metrics: tuple[str, ...] = metrics
        """The names of the metrics, in the order of the sums; the loss comes before them."""

    def add(
        self, means: Sequence[Tensor | float], samples: int, device: torch.device | None, metrics: tuple[str, ...]
    ) -> Totals:
        """Add one batch: `means` are the loss and each of `metrics`, means over `samples`.

        The sums live on `device`; None keeps them as Python floats, for a device that reading waits for nothing.
        """
        before = self._values
        if device is None and not isinstance(before, Tensor):
            if not before:
                return Totals([float(mean) * samples for mean in means], metrics)
            added = list(before)
            for index, mean in enumerate(means):
                added[index] += float(mean) * samples
            return Totals(added, metrics)
        here = [mean for mean in means if isinstance(mean, Tensor) and mean.device == device]
        if len(here) == len(means) and all(mean.dtype == torch.float32 for mean in here):
            # A float64 holds such a mean times samples exactly: here two launches come to the bits of the five below.
            return self.plus(torch.stack(here), metrics, samples)
        return self.plus(Totals.summed(means, samples, device), metrics)

    @staticmethod
    def summed(means: Sequence[Tensor | float], samples: int, device: torch.device | None) -> Tensor:
        """Give one batch's sums, float64 on `device`: `means` times `samples`."""
        parts = [
            mean.to(device=device, dtype=torch.float64)
            if isinstance(mean, Tensor)
            else torch.tensor(mean, dtype=torch.float64, device=device)
            for mean in means
        ]
        return torch.stack(parts).mul_(samples)

    def plus(self, means: Tensor, metrics: tuple[str, ...], samples: int = 1) -> Totals:
        """Add one batch's means over `samples`, or its sums. What is given may be overwritten afterwards."""
        before = self._values
        if not isinstance(before, Tensor):
            if not before:
                return Totals(means.to(torch.float64, copy=True).mul_(samples), metrics)
            before = torch.tensor(before, dtype=torch.float64, device=means.device)
        return Totals(torch.add(before.to(means.device), means, alpha=samples), metrics)

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:  # noqa: ARG002 - of one tensor at most
        """Give the sums, on a device as the tensor that they are, and the metrics' names."""
        values = self._values
        return "totals", {"values": values if isinstance(values, Tensor) else list(values), "metrics": self.metrics}

    def tolist(self) -> list[float]:
        """Read the sums; on a device, this waits for it."""
        values = self._values
        return values.tolist() if isinstance(values, Tensor) else list(values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Totals):
            return NotImplemented
        if self.metrics != other.metrics:
            return False
        mine, theirs = self._values, other._values
        if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
            return same_tensor(mine, theirs)
        return same_bits(self.tolist(), other.tolist())

    def __hash__(self) -> int:
        return hash(Totals)

    def __repr__(self) -> str:
        return f"Totals({self.tolist()})"

    def __deepcopy__(self, memo: dict[int, object]) -> Totals:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(cls.tolist)
        )


class Sums(Record, frozen=True):
    """A phase's running sums: of loss and metrics over `samples`, the `batches` that ran, the `seconds` spent."""

    totals: Totals = Totals()
    samples: int = 0
    batches: int = 0
    seconds: float = 0.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sums):
            return NotImplemented
        return (self.samples, self.batches, self.totals) == (other.samples, other.batches, other.totals)

    def __hash__(self) -> int:
        return hash((self.samples, self.batches))


_SLOTS: Final[dict[str, type[BaseModel]]] = {}
"""The kind of record under each name: of the `Slot` that was made last."""


def slot_record(name: str) -> type[BaseModel] | None:
    """Give the kind of record that is kept under a name, if a slot of that name was made in this process."""
    return _SLOTS.get(name)


class Unread(Record, Flat, frozen=True):
    """What a checkpoint holds for a slot that nobody has made yet: its fields, until `state.get` asks for them."""

    fields: FrozenMapping[object]

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:  # noqa: ARG002 - the fields are taken apart by it
        """Give the fields, as the record itself would."""
        return "record", self.fields


class Slot(Generic[RecordT]):
    """A typed key under which a subscriber keeps a record of its own in the state.

    `name` is dotted, to keep packages apart (`"acme.patience"`); `record` is a frozen pydantic model; `default` is
    what `state.get` gives before the first `state.put`. A slot is saved, resumed, rolled back and compared with the
    rest of the state.
    """

    __slots__ = ("default", "name", "record")

    def __init__(self, name: str, record: type[RecordT], default: RecordT) -> None:
        if not (isinstance(name, str) and "." in name and all(part.isidentifier() for part in name.split("."))):
            raise ConfigError(f"A slot's name is dotted, like 'acme.patience', to keep packages apart; got {name!r}.")
        if not (isinstance(record, type) and issubclass(record, BaseModel) and record.model_config.get("frozen")):
            raise ConfigError(
                f"Slot {name!r} needs a frozen pydantic model, so that no kept state can change: "
                f"class {getattr(record, '__name__', record)}(BaseModel, frozen=True)."
            )
        if not isinstance(default, record):
            raise ConfigError(f"Slot {name!r} has a default of {type(default).__name__}, expected {record.__name__}.")
        self.name: str = name
        self.record: type[RecordT] = record
        self.default: RecordT = default
        _SLOTS[name] = record

    def __repr__(self) -> str:
        return f"Slot({self.name!r}, {self.record.__name__})"


class _Reads(threading.local):
    """The names of the slots that this thread reads from states, while somebody wants to know."""

    names: set[str] | None = None


reads: Final = _Reads()


class TrainState(Record, Flat, frozen=True):
    """All that a training is, as one immutable value.

    `progress` says where it stands; `tensors` is the handle on parameters, buffers and optimizer state; `sums` are
    the running sums of this phase; `history` has one `EpochStats` per finished phase; `key` rules all randomness;
    `lr_scale` is what the learner's learning rate is multiplied with; `slots` hold what subscribers keep. `logged` are
    the events that subscribers gave within the transition that runs: the machine takes them out and shows them to the
    sinks, so a state that a step returns has none. `==` compares bits, and leaves out only what the clock said.
    """

    progress: Progress
    tensors: Tensors
    sums: Sums = Sums()
    history: History = History()
    key: Key
    lr_scale: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    slots: FrozenMapping[BaseModel] = FrozenMapping()
    logged: tuple[SerializeAsAny[LogEvent], ...] = ()

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
        snapshot = self.tensors.whole()
        return lent({**snapshot.params, **snapshot.buffers})

    def to_module(self) -> nn.Module:
        """Give a module of the learner's kind that holds this state's parameters and buffers, on their device."""
        return self.tensors.read(lambda snapshot: module_with(self.tensors.template, snapshot))

    def get(self, slot: Slot[RecordT]) -> RecordT:
        """Give what is kept under `slot`, or its default."""
        if not isinstance(slot, Slot):
            raise ConfigError(
                f"state.get takes the Slot that the record is kept under; got {slot!r} ({type(slot).__name__})."
            )
        if reads.names is not None:
            reads.names.add(slot.name)
        found: object = self.slots.get(slot.name, slot.default)
        if isinstance(found, slot.record):
            return found  # pyright: ignore[reportReturnType] # narrowed to the bound; mypy sees the RecordT
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
        """Give a state that keeps `value` under `slot`."""
        if not isinstance(slot, Slot):
            raise ConfigError(
                f"state.put takes the Slot to keep the record under; got {slot!r} ({type(slot).__name__})."
            )
        if not isinstance(value, slot.record):
            raise ConfigError(
                f"Slot {slot.name!r} keeps a {slot.record.__name__}; got {value!r} ({type(value).__name__})."
            )
        return evolved(self, slots=self.slots.put(slot.name, value))

    def scale_lr(self, factor: float) -> TrainState:
        """Give a state from which the learning rate, constant or of a schedule, is `factor` times what it was.

        It holds until it is scaled again, for every parameter group, and is saved and rolled back with the state.
        """
        scale = (
            self.lr_scale * factor if isinstance(factor, (int, float)) and not isinstance(factor, bool) else math.nan
        )
        if not (math.isfinite(scale) and scale >= 0):
            raise ConfigError(f"scale_lr takes a finite number of 0 or more, like 0.5; got {factor!r}.")
        return evolved(self, lr_scale=float(scale))

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:
        """Give the parts of all that the training is: what a checkpoint holds."""
        named = {name: getattr(self, name) for name in ("progress", "sums", "history", "key", "lr_scale", "slots")}
        return "state", {**self.tensors.parts(flattener), **named}

    def diff(self, other: TrainState) -> Difference:
        """Tell how two states differ: each tensor by its bits, and each value. What only the clock said is left out."""
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
        """Give a state with which `event` is told: a subscriber answers with it, and the log writes the event."""
        if not isinstance(event, LogEvent) or not getattr(event, "event", None):
            raise ConfigError(
                f"state.log takes a LogEvent; got {event!r:.80} ({type(event).__name__}). Make a class of yours: "
                f'class Mixup(LogEvent, frozen=True): event: Literal["acme.mixup"] = "acme.mixup"; alpha: float.'
            )
        return evolved(self, logged=(*self.logged, event))

    def __eq__(self, other: object) -> bool | NotImplementedType:
        if not isinstance(other, TrainState):
            return NotImplemented
        return (
            self.progress == other.progress
            and self.key == other.key
            and same_bits(self.lr_scale, other.lr_scale)
            and self.sums == other.sums
            and self.history == other.history
            and same_bits(dict(self.slots), dict(other.slots))
            and same_bits(self.logged, other.logged)
            and self.tensors == other.tensors
        )

    def __hash__(self) -> int:
        return hash((self.progress, self.key))

    def __repr__(self) -> str:
        place, sums = self.progress, self.sums
        if sums.samples:
            said = f"loss={sums.totals.tolist()[0] / sums.samples:.4g}, "
        else:
            said = f"loss={self.history[-1].loss:.4g}, " if self.history else ""
        spec = self.tensors.spec
        count = sum(math.prod(shape) for shape, _ in spec.params.values())
        return (
            f"TrainState(at={place.at}, epoch={place.epoch}/{place.epochs}, phase={place.phase}, batch={place.batch}, "
            f"step={place.step}, {said}parameters={count:,}, device={spec.device})"
        )

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        self.tensors.__reduce__()
