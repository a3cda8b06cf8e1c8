"""What every value is made as: a frozen pydantic model, and a mapping that cannot be changed."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema, to_jsonable_python
from torch import Tensor

from nntrain.values.tensors import summarised

RecordT = TypeVar("RecordT", bound=BaseModel)
Value = TypeVar("Value", covariant=True)  # noqa: PLC0105 - the name that readers of an error message know
Other = TypeVar("Other")


class Record(BaseModel, frozen=True, extra="forbid", arbitrary_types_allowed=True):
    """A frozen pydantic model without unknown fields."""


def evolved(record: RecordT, **changes: object) -> RecordT:
    """Return a record with other values for some fields, without validating them again.

    For the machine, whose values are right by construction: validating three records anew took 2.6 % of a batch of the
    MLP in `tests.benchmarks.loop`. It is `model_copy(update=...)`, less what frozen records do not need.
    """
    return assembled(type(record), {**record.__dict__, **changes}, record.__pydantic_fields_set__)


def assembled(kind: type[RecordT], fields: dict[str, Any], given: set[str]) -> RecordT:
    """Return the record of all its `fields`, without validating them. `given` are the names of those that were set."""
    record = object.__new__(kind)
    _set_fields(record, fields)
    _set_given(record, given)
    _set_extra(record, None)
    _set_private(record, None)
    return record


_set_fields, _set_given, _set_extra, _set_private = (
    vars(BaseModel)[slot].__set__
    for slot in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


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
        """Return the names."""
        return self._items.keys()

    def values(self) -> ValuesView[Value]:
        """Return the values."""
        return self._items.values()

    def items(self) -> ItemsView[str, Value]:
        """Return the names with their values, at a dict's speed."""
        return self._items.items()

    def __repr__(self) -> str:
        return repr(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def put(self, name: str, value: Other) -> FrozenMapping[Value | Other]:
        """Return a mapping with one more, or another, value."""
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
