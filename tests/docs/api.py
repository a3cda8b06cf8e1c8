"""The public surface in words: `python -m tests.docs.api > docs/reference/api.md` writes the page anew."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import itertools
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import nntrain

ROOT: Final = Path(__file__).parents[2]
PUBLIC: Final = (
    "nntrain",
    "nntrain.data",
    "nntrain.metrics",
    "nntrain.update",
    "nntrain.schedules",
    "nntrain.subscribers",
    "nntrain.sinks",
    "nntrain.looking",
    "nntrain.checkpoint",
    "nntrain.log",
    "nntrain.log.export",
    "nntrain.log.report",
    "nntrain.plots",
    "nntrain.errors",
    "nntrain.testing",
)
HEAD: Final = """# What is public

The names below are nntrain's interface: they change only with the changelog saying so. All else, other modules and
other names of these modules, may change at any time. None of them has `Any` in its types.
"""


def modules() -> list[ModuleType]:
    return [importlib.import_module(name) for name in PUBLIC]


def home_of(name: str) -> list[str]:
    """Give the texts that stand under the assignments of a name, wherever in the package it is made."""
    found = []
    for module in pkgutil.walk_packages(nntrain.__path__, "nntrain."):
        spec = importlib.util.find_spec(module.name)
        assert spec is not None
        assert spec.origin is not None
        body = ast.parse(Path(spec.origin).read_text()).body
        for node, after in itertools.pairwise(body):
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets += [node.target] if isinstance(node, ast.AnnAssign) else []
            if any(isinstance(target, ast.Name) and target.id == name for target in targets) and (
                isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            ):
                found.append(str(after.value.value))
    return found


def sentence(module: ModuleType, name: str) -> str:
    """Give the first sentence of what is said of a name."""
    value = getattr(module, name)
    if isinstance(value, type) or inspect.isfunction(value):
        said = inspect.getdoc(value) or ""
    else:
        (said,) = home_of(name)
    first = " ".join(said.split("\n\n")[0].split())
    end = first.find(". ")
    return (first if end < 0 else first[: end + 1]).replace("|", "\\|")


def page() -> str:
    parts = [HEAD]
    for module in modules():
        parts.append(f"## `{module.__name__}`\n\n{(module.__doc__ or '').splitlines()[0]}\n")
        rows = [f"| `{name}` | {sentence(module, name)} |" for name in module.__all__]
        parts.append("\n".join(["| name | what it is |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
