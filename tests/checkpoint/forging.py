"""Checkpoints made by hand: with a digest that is right, whatever their records say."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

ITEM_BYTES: Final = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "U8": 1, "BOOL": 1}


class Parts(NamedTuple):
    """A file taken apart: its metadata, its record, and the bytes of each tensor."""

    metadata: dict[str, str]
    record: Any
    entries: dict[str, Any]
    data: bytes


def parts_of(content: bytes) -> Parts:
    """Take a file apart, as any safetensors reader would."""
    (length,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + length])
    metadata = entries.pop("__metadata__")
    return Parts(metadata, json.loads(metadata["record"]), entries, content[8 + length :])


def forged(record: Any, data: bytes, *, version: int = 1) -> bytes:
    """Make a file that has this record, its digest, the header that goes with it, and this data."""
    return forged_text(json.dumps(record, separators=(",", ":")), tensors_of(record), data, version=version)


def forged_text(text: str, tensors: Mapping[str, Any], data: bytes, *, version: int = 1) -> bytes:
    """Make a file of a record that need not be JSON."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    entries: dict[str, Any] = {
        "__metadata__": {"format": f"nntrain.checkpoint/{version}", "digest": digest, "record": text}
    }
    offset = 0
    for name in sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name]["dtype"]], name)):
        size = ITEM_BYTES[tensors[name]["dtype"]]
        for one in tensors[name]["shape"]:
            size *= one
        entries[name] = {
            "dtype": tensors[name]["dtype"],
            "shape": tensors[name]["shape"],
            "data_offsets": [offset, offset + size],
        }
        offset += size
    return with_header(json.dumps(entries, separators=(",", ":")), data)


def with_header(header: str, data: bytes) -> bytes:
    """Make a file of a header's text."""
    header += " " * (-len(header.encode()) % 8)
    return struct.pack("<Q", len(header.encode())) + header.encode() + data


def tensors_of(record: Any) -> dict[str, Any]:
    """Give what a record says of its tensors, as far as a header can have it."""
    said = record.get("tensors") if isinstance(record, dict) else None
    return {
        name: one
        for name, one in (said.items() if isinstance(said, dict) else ())
        if isinstance(one, dict)
        and one.get("dtype") in list(ITEM_BYTES)
        and isinstance(one.get("shape"), list)
        and all(type(size) is int for size in one["shape"])
    }


def changed(record: Any, change: Callable[[Any], Any]) -> Any:
    """Give a record to which something was done."""
    copy = json.loads(json.dumps(record))
    result = change(copy)
    return copy if result is None else result
