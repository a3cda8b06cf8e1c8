"""Values that share no list, dict or set with anybody."""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping, MutableSequence, MutableSet
from copy import deepcopy
from typing import Any, Final

from pydantic import BaseModel

from nntrain.values.bits import fields_of
from nntrain.values.flattening import Flat


def unshared(value: Any) -> Any:
    """Return a value whose lists, dicts and sets are nobody else's; the very same one where it has none.

    A frozen record may hold a list, and what is appended to that would change every state that holds the record.
    Tensors and states are not copied.
    """
    kind = type(value)
    if kind in _FROZEN or isinstance(value, Flat):
        return value
    if isinstance(value, BaseModel):
        fields = fields_of(value)
        changed = {name: new for name, part in fields.items() if (new := unshared(part)) is not part}
        return value.model_copy(update=changed) if changed or not kind.model_config.get("frozen") else value
    if kind is tuple:
        items = tuple(map(unshared, value))
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if kind is list:
        return list(map(unshared, value))
    if kind is dict:
        return {name: unshared(part) for name, part in value.items()}
    if kind is deque:
        return deque(map(unshared, value), value.maxlen)
    return deepcopy(value) if isinstance(value, (MutableSequence, MutableMapping, MutableSet)) else value


_FROZEN: Final = frozenset({bool, int, float, complex, str, bytes, type(None)})
