"""The public surface: what is documented is what there is, docs use nothing else, and no type in it is `Any`."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from torch import Tensor

import nntrain
from nntrain import Learner
from nntrain.data import ImageLoader
from tests.docs.api import PUBLIC, ROOT, page
from tests.docs.test_docs import PYTHON, blocks, name_of

# What annotations name that is only imported for type checkers.
LATE: dict[str, object] = {
    "Axes": object,
    "Dataset": Dataset,
    "DatasetDict": DatasetDict,
    "LoggerProvider": object,
    "Self": typing.Self,
    "Tensor": Tensor,
    "TrainState": nntrain.TrainState,
    "torchmetrics": types.SimpleNamespace(Metric=object, MetricCollection=object),
}


@pytest.mark.sweep
def test_the_page_says_what_is_public() -> None:
    assert (ROOT / "docs" / "reference" / "api.md").read_text() == page(), "python -m tests.docs.api writes it anew"


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_is_there_and_sorted(name: str) -> None:
    module = import_module(name)
    for one in module.__all__:
        assert hasattr(module, one), one
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_the_docs_use_only_what_is_public(path: Any) -> None:
    for node in ast.walk(ast.parse("\n".join(blocks(path, "python")))):
        if isinstance(node, ast.Import):
            assert all(one.name.split(".")[0] != "nntrain" or one.name in PUBLIC for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nntrain":
            assert node.module in PUBLIC, node.module
            names = {one.name for one in node.names if f"{node.module}.{one.name}" not in PUBLIC}
            assert names <= set(import_module(node.module).__all__), ast.unparse(node)


def annotated(value: object, name: str) -> Iterator[tuple[str, object]]:
    """Give each annotation of a public class or function, by where it stands."""
    if isinstance(value, type):
        for field, hint in typing.get_type_hints(value, localns=LATE).items():
            if not field.startswith("_"):
                yield f"{name}.{field}", hint
        for member in dir(value):
            if not member.startswith("_") or member in {"__init__", "__call__"}:
                yield from annotated_function(inspect.getattr_static(value, member), f"{name}.{member}")
    elif inspect.isfunction(value):
        yield from annotated_function(value, name)
    else:
        yield name, value


def annotated_function(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    if inspect.isfunction(value) and value.__module__.startswith("nntrain"):
        # What callers are held to are the overloads; the implementation below them is nobody else's business.
        for one in typing.get_overloads(value) or [value]:
            for argument, hint in typing.get_type_hints(one, localns=LATE).items():
                yield f"{name}({argument})", hint


def has_any(hint: object) -> bool:
    if isinstance(hint, (list, tuple)):
        return any(map(has_any, hint))
    if typing.get_origin(hint) is Learner:  # without a second argument: of a model that returns anything
        return has_any(typing.get_args(hint)[0])
    if isinstance(hint, types.GenericAlias) or typing.get_args(hint):
        return any(map(has_any, typing.get_args(hint)))
    return hint is Any


@pytest.mark.parametrize("name", PUBLIC)
def test_no_public_type_is_any(name: str) -> None:
    module = import_module(name)
    found = [place for one in module.__all__ for place, hint in annotated(getattr(module, one), one) if has_any(hint)]
    # What a target is is between a task and its metrics; and of whatever predictions the original's learner has, a
    # subscriber may see them (mypy names what conflicts beside an `Any`, and not beside a `Never`).
    beside = ("StepOutput.target", "StepOutput.__init__(target)", "Learner.subs", "Learner.__init__(subs)")
    assert not {*found} - {*beside}


def test_any_would_be_found() -> None:
    def wrong(one: dict[str, list[Any]], *more: int) -> typing.Callable[[Any], int]:
        raise NotImplementedError

    wrong.__module__ = "nntrain.wrong"

    assert [place for place, hint in annotated_function(wrong, "wrong") if has_any(hint)] == [
        "wrong(one)",
        "wrong(return)",
    ]
    assert ("ImageLoader.batches(key)", nntrain.Key) in list(annotated(ImageLoader, "ImageLoader"))
    assert ("Loader.batches(epoch)", int) in list(annotated(nntrain.Loader, "Loader"))


@pytest.mark.sweep
def test_the_types_are_complete() -> None:
    command = [sys.executable, "-m", "basedpyright", "--verifytypes", "nntrain", "--ignoreexternal"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Type completeness score: 100%" in done.stdout
