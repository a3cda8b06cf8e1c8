"""What an event log can tell: `LogEvent`, the base of nntrain's own events and of anybody else's.

An event is a value. nntrain's own are in `nntrain.log.events`; a subscriber gives one of its own with
`state.log(event)`, and the sinks are shown it with the transition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, get_args

from pydantic import BaseModel, Field

from nntrain.errors import ConfigError

Level = Literal["debug", "info", "warning", "error"]

_HEAD = {"schema", "timestamp", "level", "run_id", "seq", "elapsed_s", "rank", "lost_lines", "nonfinite"}
RESERVED: Final = frozenset(_HEAD | {"epoch", "phase", "batch", "step", "samples"})
"""The fields that every line of a log has, beside `event`: no event has one of its own by these names."""

NOT_FINITE: Final = "loss_not_finite"
"""The code of the warning with which a training ends whose loss stayed NaN or infinite."""

_DOTTED: Final = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)+")
_REGISTERED: Final[dict[str, type[LogEvent]]] = {}


class LogEvent(BaseModel, frozen=True, extra="forbid"):
    """Something that happened in a training, as a frozen record of what a log is to say of it.

    An event of your own is a subclass under a dotted name, which keeps packages apart; making the class registers it:

        class Mixup(LogEvent, frozen=True):
            event: Literal["acme.mixup"] = "acme.mixup"
            alpha: float

    Its fields are what JSON can hold. `level` is the class's, `"info"` unless it says otherwise; lines of level
    `"debug"` may be written later, many at once.

    Raises `ConfigError` when a class is made whose name is taken, or not dotted, or that has a field which every line
    has already (`step`, `timestamp` ...).
    """

    level: ClassVar[Level] = "info"
    event: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Register the class under its name."""
        field = cls.model_fields["event"]
        names = get_args(field.annotation)
        if not names:
            return  # a base of other events
        where = f"{cls.__module__}.{cls.__qualname__}"
        if len(names) != 1 or field.default != names[0]:
            raise ConfigError(
                f"{where} needs one name, as its type and its default: "
                f'event: Literal["acme.{cls.__name__.lower()}"] = "acme.{cls.__name__.lower()}".'
            )
        (name,) = names
        own = cls.__module__ == __name__ or cls.__module__.startswith("nntrain.log.")
        if not own and not (isinstance(name, str) and _DOTTED.fullmatch(name)):
            raise ConfigError(
                f"{where} has the name {name!r}; an event's name is dotted and in lower case, like "
                f"'acme.{cls.__name__.lower()}', to keep packages apart."
            )
        taken = sorted(RESERVED & set(cls.model_fields))
        if taken:
            raise ConfigError(
                f"{where} has the field {taken[0]!r}, which every line of a log has already. Give it another name."
            )
        if cls.level not in get_args(Level):
            raise ConfigError(f"{where} has the level {cls.level!r}; expected one of {', '.join(get_args(Level))}.")
        there = _REGISTERED.get(name)
        if there is not None and (there.__module__, there.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"{where} and {there.__module__}.{there.__qualname__} both have the name {name!r}. Give one another."
            )
        _REGISTERED[name] = cls


class CheckpointSaved(LogEvent, frozen=True):
    """A state was saved: where, how large it is, how long that took, and its digest.

    `seconds` is the time of writing, and `waited_seconds` that for which the training stood still for it.
    """

    event: Literal["checkpoint_saved"] = "checkpoint_saved"
    path: str
    bytes: int = Field(ge=0)
    seconds: float
    waited_seconds: float
    digest: str


class CheckpointLoaded(LogEvent, frozen=True):
    """A state was loaded for the run's learner: where from, how large it is, how long that took, and its digest."""

    event: Literal["checkpoint_loaded"] = "checkpoint_loaded"
    path: str
    bytes: int = Field(ge=0)
    seconds: float
    digest: str


class RolledBack(LogEvent, frozen=True):
    """The training went back to a state that was good, for the `times`th time of at most `at_most`, to go on otherwise.

    `to_epoch`, `to_batch` and `to_step` are where that state stands; `lr_scale` is what the learning rate is multiplied
    with from there on, and `new_key` whether other random numbers are drawn.
    """

    level: ClassVar[Level] = "warning"
    event: Literal["rolled_back"] = "rolled_back"
    reason: str
    to_epoch: int = Field(ge=0)
    to_batch: int = Field(ge=0)
    to_step: int = Field(ge=0)
    times: int = Field(ge=0)
    at_most: int = Field(ge=0)
    lr_scale: float
    new_key: bool


class WarningEvent(LogEvent, frozen=True):
    """Something came up that ends nothing: a code to look for, and what it means."""

    level: ClassVar[Level] = "warning"
    event: Literal["warning"] = "warning"
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something that whoever runs a training should know, and that ends nothing: a code to look for, and a text."""

    code: str
    text: str


def registered(name: str) -> type[LogEvent] | None:
    """Return the class of the events of a name, if there is one in this process."""
    return _REGISTERED.get(name)


def registered_events() -> dict[str, type[LogEvent]]:
    """Return all classes of events in this process, by name."""
    return dict(_REGISTERED)
