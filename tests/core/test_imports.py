"""Imports point one way: a module knows of those before it only, and the core of no folder."""

from __future__ import annotations

import ast
from pathlib import Path

import nntrain

PACKAGE = Path(nntrain.__file__).parent
ORDER = [
    ["errors", "bits", "randomness"],
    ["trees", "interrupts"],
    ["borrowing", "tensors", "compiled", "differences"],
    ["modules", "optimizer", "watch", "turn", "logged"],
    ["records"],
    ["verdicts"],
    ["events", "foreign", "batches", "metrics"],
    ["loaders"],
    ["transitions"],
    ["workspace"],
    ["passes"],
    ["capture", "interference"],
    ["machine"],
    ["steps"],
    ["learner"],
]
RANK = {name: rank for rank, row in enumerate(ORDER) for name in row}
FOLDERS = {"data", "checkpoint", "subscribers", "sinks", "log", "testing", "cli"}
# The learner is the friendly front: its fit prints, so it knows that one sink. data's loaders are Loaders of the core.
EXCEPTIONS = {("learner", "sinks")}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body.clear()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nntrain."):
            found.add(node.module.split(".")[1])
    return found


def test_every_core_module_has_its_place() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "pytest_plugin"} == set(RANK)
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == FOLDERS


def test_the_core_imports_downwards_only() -> None:
    for name, rank in RANK.items():
        for other in imported(PACKAGE / f"{name}.py"):
            if (name, other) not in EXCEPTIONS:
                assert RANK.get(other, 99) < rank, f"{name} imports {other}"


def test_folders_stand_on_the_core_and_not_on_each_other() -> None:
    for folder in FOLDERS - {"cli", "testing"}:  # the kit tries what it checks with data, checkpoints and logs
        for path in (PACKAGE / folder).rglob("*.py"):
            assert imported(path) <= {*RANK, folder}, path
