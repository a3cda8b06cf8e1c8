"""Typed keys under which subscribers keep records of their own in a state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Generic

from pydantic import BaseModel

from nntrain.errors import ConfigError
from nntrain.values.flattening import Flat, Flattener
from nntrain.values.record import FrozenMapping, Record, RecordT

_SLOTS: Final[dict[str, type[BaseModel]]] = {}
"""The kind of record under each name: of the `Slot` that was made last."""


def slot_record(name: str) -> type[BaseModel] | None:
    """Return the class of the record under a name, if a slot of that name was made in this process."""
    return _SLOTS.get(name)


class Unread(Record, Flat, frozen=True):
    """What a checkpoint holds for a slot that nobody has made yet: its fields, until `state.get` asks for them."""

    fields: FrozenMapping[object]

    def flat(self, flattener: Flattener) -> tuple[str, Mapping[str, object]]:  # noqa: ARG002 - the fields are taken apart by it
        """Return the fields, as the record itself would."""
        return "record", self.fields


class Slot(Generic[RecordT]):
    """A typed key under which a subscriber keeps a record of its own in the state.

    `name` is dotted, to keep packages apart (`"acme.patience"`), and says whose memory it is, not by which settings: a
    checkpoint goes on with others. `record` is a frozen pydantic model; `default` is what `state.get` gives before the
    first `state.put`. `former` is a pattern of the names that the slot had before, under which `state.get` finds what
    older checkpoints hold. A slot is saved, resumed, rolled back and compared with the rest of the state. `state.put`
    and `state.get` copy a record's lists, dicts and sets, so that no kept state changes with them; its tensors they do
    not copy, and whoever gets one never writes to it.
    """

    __slots__ = ("default", "former", "name", "record")

    def __init__(
        self, name: str, record: type[RecordT], default: RecordT, *, former: re.Pattern[str] | None = None
    ) -> None:
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
        self.former: re.Pattern[str] | None = former
        _SLOTS[name] = record

    def was_named(self, name: str) -> bool:
        """Return whether `name` is one that the slot had before."""
        return self.former is not None and self.former.fullmatch(name) is not None

    def __repr__(self) -> str:
        return f"Slot({self.name!r}, {self.record.__name__})"
