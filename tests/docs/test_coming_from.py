"""The tables of `coming-from.md`: what stands on the right runs, and what stands on the left exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import torch

from nntrain import Cancelled, Completed, DataLoaders, Engine, Learner, StepOutput, TrainState
from nntrain.schedules import Curve
from nntrain.subscribers.protocol import EVENTS
from nntrain.task.supervised import Supervised
from nntrain.update import chain, optimizer

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "how-to" / "coming-from.md"
BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE: Final = re.compile(r"`([^`]+)`")
HOMES: Final = {
    "Lightning": ("lightning", ["lightning", "lightning.pytorch.callbacks"]),
    "Ignite": ("ignite", ["ignite"]),
    "Keras": ("keras", ["keras"]),
    "transformers' Trainer": ("transformers", ["transformers"]),
    "skorch": ("skorch", ["skorch"]),
}
"""The package of each section, and the modules that its names are found in. miniai is a folder of notebooks."""


class Row(NamedTuple):
    section: str
    theirs: str
    here: str
    why: str


def rows() -> Iterator[Row]:
    section = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if line.startswith("| `"):
            theirs, here, why = (cell.strip() for cell in line.strip("|").split("|"))
            yield Row(section, theirs, here, why)


ROWS: Final = list(rows())
SECTIONS: Final = list(dict.fromkeys(row.section for row in ROWS))


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give what the page's blocks made, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {"__name__": "__docs__"}
    for block in BLOCK.findall(PAGE.read_text()):
        exec(compile(block, PAGE.name, "exec", dont_inherit=True), made)
    return made


def use(value: object, learner: Learner[Any]) -> None:
    """Train with a thing that is to be trained with; look at what came of the others."""
    match value:
        case Engine():
            learner = learner.replace(engine=value)
        case Supervised():
            learner = learner.replace(task=value)
        case Learner():
            learner = value
        case DataLoaders():
            learner = learner.replace(dls=value)
        case Curve():
            learner = learner.replace(update=optimizer(torch.optim.SGD, lr=value))
        case _ if callable(getattr(value, "bind", None)):
            rule: Any = value
            learner = learner.replace(update=chain(rule))
        case _ if hasattr(value, "interest"):
            sink: Any = value
            learner = learner.replace(sinks=[sink])
        case _ if any(hasattr(value, event) for event in EVENTS):
            sub: Any = value
            learner = learner.replace(subs=[sub])
        case Iterator():
            assert list(value)
            return
        case Cancelled():
            raise AssertionError(f"{value} was cancelled")
        case _:
            assert value is not None
            return
    assert isinstance(learner.fit(1, print_stats=False), (Completed, Cancelled))


@pytest.mark.sweep
@pytest.mark.parametrize("section", SECTIONS)
def test_what_stands_here_runs(section: str, names: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bar is drawn into nothing, a run has one epoch
        for row in ROWS:
            if row.section != section:
                continue
            here = CODE.findall(row.here)
            assert here, row
            assert CODE.sub("", row.here).strip(" ,") == "", f"what is no code is not run: {row.here}"
            for code in here:
                use(eval(code, names), names["learner"])  # noqa: S307 - the page's own code


def test_the_page_has_each_library_and_each_callback_of_miniai() -> None:
    assert set(SECTIONS) == {"fastai's miniai", *HOMES}
    theirs = {name for row in ROWS if row.section == "fastai's miniai" for name in CODE.findall(row.theirs)}
    callbacks = {
        "MetricsCB",
        "DeviceCB",
        "TrainCB",
        "ProgressCB",
        "LRFinderCB",
        "SingleBatchCB",
        "HooksCallback",
        "ActivationStats",
        "BatchSchedCB",
        "EpochSchedCB",
        "RecorderCB",
        "BatchTransformCB",
        "RandErase",
        "CapturePreds",
        "MixedPrecision",
    }
    assert callbacks <= theirs


@pytest.mark.sweep
def test_what_stands_here_is_clean_in_mypy_strict(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    lines = [code for row in ROWS for code in CODE.findall(row.here)]
    (tmp_path / "coming_from.py").write_text("\n".join([*BLOCK.findall(PAGE.read_text()), *lines]) + "\n")
    said, errors, code = api.run(["--config-file", str(ROOT / "mypy.ini"), str(tmp_path / "coming_from.py")])
    assert code == 0, said + errors


def named(code: str, modules: list[Any]) -> tuple[Any, list[str]]:
    """Find what an expression names in one of the modules, and the keywords that it is called with."""
    tree: Any = ast.parse(code, mode="eval").body
    keywords = [str(one.arg) for one in tree.keywords] if isinstance(tree, ast.Call) else []
    path = ast.unparse(tree.func if isinstance(tree, ast.Call) else tree).split(".")
    for module in modules:
        found = module
        for name in path if path[0] != module.__name__ else path[1:]:
            try:
                found = getattr(found, name)
            except AttributeError:
                try:
                    found = importlib.import_module(f"{found.__name__}.{name}")
                except (ImportError, AttributeError):
                    break
        else:
            return found, keywords
    raise AssertionError(f"{code} is in none of {[module.__name__ for module in modules]}")


def parameters_of(found: Any) -> list[str]:
    """Return the arguments of a function, or those of a class and of the classes that it is made on."""
    made = (
        [vars(one)["__init__"] for one in found.__mro__[:-1] if "__init__" in vars(one)]
        if inspect.isclass(found)
        else [found]
    )
    return [name for one in made for name in inspect.signature(one).parameters]


@pytest.mark.parametrize("section", HOMES)
def test_what_stands_on_the_left_exists(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, homes = HOMES[section]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (the dependency group `peers`)")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = [importlib.import_module(name) for name in homes]
        cells = [row.theirs for row in ROWS if row.section == section]
        tail = PAGE.read_text().split(f"## {section}\n")[1].split("\n## ")[0].split("Without a counterpart:")[1]
        for code in [code for cell in [*cells, tail] for code in CODE.findall(cell)]:
            if code in {"strategy", "devices", "Target", "write"}:
                continue
            found, keywords = named(code, modules)
            known = keywords and parameters_of(found)
            assert set(keywords) <= set(known), f"{code}: {sorted(set(keywords) - set(known))}"


def test_the_names_that_are_made_are_those_of_the_page(names: dict[str, Any]) -> None:
    assert isinstance(names["state"], TrainState)
    assert isinstance(names["weighted"](names["model"], names["batches"][0]), StepOutput)
