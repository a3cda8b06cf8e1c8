"""An exporter whose package is not there says so when it is made, in one line that names the extra."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nntrain.errors import MissingExtraError
from nntrain.log.export import Exporter, MLflow, OpenTelemetry, TensorBoard, WeightsAndBiases, export
from nntrain.log.targets import target_of
from tests.log.samples import scripted

MADE: dict[str, tuple[str, Callable[[Path], Exporter]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "mlflow": ("mlflow", MLflow),
    "sqlalchemy": ("mlflow", MLflow),
    "wandb": ("wandb", WeightsAndBiases),
    "opentelemetry": ("opentelemetry", lambda _: OpenTelemetry()),
}


@pytest.mark.parametrize("package", MADE)
def test_a_missing_package(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = importlib.import_module

    def blocked(name: str) -> object:
        if name.split(".", maxsplit=1)[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name)

    monkeypatch.setattr("nntrain.errors.import_module", blocked)
    extra, make = MADE[package]
    with pytest.raises(MissingExtraError, match=rf"needs {package}, .*pip install 'nntrain\[{extra}\]'\.$") as caught:
        make(tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.mark.sweep
def test_importing_the_exporters_imports_none_of_them() -> None:
    code = f"import sys, nntrain.log.export; print([name for name in {[*MADE]} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_each_is_a_target_as_it_is(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    assert target_of(board) is board
    assert export(scripted(), board) == len(scripted())
