"""The house: imports go down only, from room to room and from module to module; those for type checkers alone too."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

import nntrain

PACKAGE: Final = Path(nntrain.__file__).parent
CORE: Final = (
    "errors",
    "values",
    "ranks",
    "schedules",
    "update",
    "task",
    "metrics",
    "data",
    "live",
    "subscribers",
    "sinks",
    "machine",
    "evaluation",
)
MAY_IMPORT: Final[Mapping[str, frozenset[str]]] = {
    room: frozenset(rooms.split())
    for room, rooms in {
        "errors": "",
        "values": "errors",
        "ranks": "errors",
        "schedules": "errors values",
        "update": "errors values",
        "task": "errors values metrics",
        "metrics": "errors values",
        "data": "errors values ranks",
        "live": "errors values ranks update task metrics data",
        "subscribers": "errors values",
        "sinks": "errors values ranks",
        "machine": " ".join(one for one in CORE[:-2] if one != "schedules"),
        "evaluation": " ".join(one for one in CORE[:-1] if one not in {"schedules", "metrics"}),
        "looking": "errors values task metrics data live subscribers machine evaluation",
        "log": "errors values ranks sinks",
        "checkpoint": "errors values ranks sinks machine",
        "plots": "errors values schedules evaluation looking log",
        "testing": " ".join([*CORE, "checkpoint", "log"]),
        "cli": " ".join([*CORE, "checkpoint", "log"]),
    }.items()
}
"""Who may import whom. The package's own three files are the front of it, and may import all."""
FRONT: Final = {"__init__", "__main__", "pytest_plugin"}


def modules() -> dict[str, Path]:
    """Give the package's modules by name, as imports call them."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: Mapping[str, object]) -> Iterator[str]:
    """Give what a module imports of the package: anywhere in it, and for type checkers alone too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path} imports by a relative name"
            for one in node.names:
                inner = f"{node.module}.{one.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@cache
def graph() -> dict[str, set[str]]:
    """Give what each module imports of the package."""
    known = modules()
    return {name: set(imported(path, known)) for name, path in known.items()}


def test_every_room_is_in_the_table_and_the_root_has_few_files() -> None:
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert files == {"errors.py", "py.typed", *(f"{name}.py" for name in FRONT)}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders | {"errors"} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_those_below_it_only(room: str) -> None:
    for name, others in graph().items():
        if room_of(name) == room:
            rooms = {room_of(other) for other in others} - {room}
            assert rooms <= MAY_IMPORT[room], f"{name} imports {', '.join(sorted(rooms - MAY_IMPORT[room]))}"


def test_the_table_goes_down_only() -> None:
    assert [*TopologicalSorter(MAY_IMPORT).static_order()]  # raises where a room may import what may import it


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert [*TopologicalSorter(graph()).static_order()]


def test_what_is_not_needed_is_not_allowed() -> None:
    seen: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for name, others in graph().items():
        if room_of(name) not in {*FRONT, "errors"}:
            seen[room_of(name)] |= {room_of(other) for other in others} - {room_of(name)}
    assert {
        room: MAY_IMPORT[room] - used for room, used in seen.items() if MAY_IMPORT[room] - used and room in CORE
    } == {}


@pytest.mark.parametrize("room", [room for room in MAY_IMPORT if room != "errors"])
def test_a_room_says_in_one_sentence_what_it_is(room: str) -> None:
    said = importlib.import_module(f"nntrain.{room}").__doc__ or ""
    first = said.split("\n\n")[0]
    assert first.endswith("."), room
    assert first.count(". ") == 0, room
