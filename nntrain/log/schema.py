"""The JSON Schema of a line, made from the event classes: what a program that reads logs may rely on.

It is published as `docs/reference/event.schema.json`, which a test compares with what this module makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import JsonValue

from nntrain.log.events import OWN
from nntrain.log.line import SCHEMA, Line
from nntrain.values.log_event import LogEvent, registered_events

JsonSchema = dict[str, Any]

_ID: Final = "urn:nntrain:event:1"
_NAMED: Final = r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)+$"
_NONFINITE: Final[JsonSchema] = {
    "description": "The names of what is not finite, and null in the line, each with its kind.",
    "type": "object",
    "additionalProperties": {"enum": ["nan", "inf", "-inf"]},
    "minProperties": 1,
}


def event_schema(*, registered: bool = False) -> dict[str, JsonValue]:
    """Return the JSON Schema (draft 2020-12) of a line.

    Of events that are not nntrain's, only the fields that every line has are described; with `registered`, all fields
    of those whose classes this process knows.
    """
    kinds: list[type[LogEvent]] = list(OWN)
    if registered:
        kinds += [kind for name, kind in sorted(registered_events().items()) if "." in name]
    named = {str(kind.model_fields["event"].default): kind for kind in kinds}
    definitions = {name: _definition(name, kind) for name, kind in named.items()}
    others: JsonSchema = {"type": "string", "pattern": _NAMED}
    if registered:
        others["not"] = {"enum": sorted(name for name in named if "." in name)}
    definitions["other"] = _line_schema(
        "An event of somebody else's, under a dotted name, with fields of its own.", others, {}, [], closed=False
    )
    made: JsonSchema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _ID,
        "title": SCHEMA,
        "description": "A line of nntrain's event log: one JSON object.",
        "type": "object",
        "required": ["event", "schema"],
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in definitions],
        "$defs": definitions,
    }
    return made


def _definition(name: str, kind: type[LogEvent]) -> JsonSchema:
    own = _inline_refs(kind.model_json_schema(mode="validation"))
    properties = {field: _nullable(given) for field, given in own["properties"].items() if field != "event"}
    required = [field for field in own.get("required", []) if field != "event"]
    return _line_schema(own.get("description", ""), {"const": name}, properties, required, closed=True)


def _line_schema(
    description: str, event: JsonSchema, properties: Mapping[str, JsonSchema], required: list[str], *, closed: bool
) -> JsonSchema:
    line = _inline_refs(Line.model_json_schema(mode="validation"))
    head = {name: given for name, given in line["properties"].items() if name != "event"}
    head["timestamp"] = {
        "description": "RFC 3339, UTC, microseconds.",
        "type": "string",
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
    }
    head["lost_lines"] = {"type": "integer", "minimum": 1}
    needed = [name for name in head if name != "lost_lines"]
    return {
        "description": description,
        "type": "object",
        "properties": {
            "event": event,
            "schema": {"const": SCHEMA},
            **{name: _without_titles(given) for name, given in {**head, **properties}.items()},
            "nonfinite": _NONFINITE,
        },
        "required": ["event", "schema", *needed, *required],
        "additionalProperties": not closed,
    }


def _inline_refs(schema: JsonSchema) -> JsonSchema:
    """Return the schema with each `$ref` replaced by its definition: there are few, and none refers to itself."""
    definitions = schema.get("$defs", {})

    def put(given: Any) -> Any:
        if isinstance(given, dict):
            reference = given.get("$ref")
            if reference is not None:
                return put(definitions[reference.rpartition("/")[2]])
            return {key: put(value) for key, value in given.items() if key != "$defs"}
        return [put(item) for item in given] if isinstance(given, list) else given

    found: JsonSchema = put(schema)
    return found


def _nullable(schema: JsonSchema) -> JsonSchema:
    """Return the schema with null allowed for every float: a value that is not finite is written as null."""
    changed = {
        key: _nullable(value)
        if isinstance(value, dict)
        else [_nullable(one) if isinstance(one, dict) else one for one in value]
        if isinstance(value, list)
        else value
        for key, value in schema.items()
    }
    if changed.get("type") == "number":
        changed["type"] = ["number", "null"]
    return changed


def _without_titles(schema: JsonSchema) -> JsonSchema:
    """Return the schema without the titles that pydantic makes of names, and without defaults."""
    return {key: value for key, value in schema.items() if key not in {"title", "default"}}
