"""The notebooks under `docs/examples`: their code is plain Python, what they show is small, and they run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Final

import pytest
from mypy import api

from tests.docs.notebooks import FOLDER, KERNEL, NOTEBOOKS, WIDGET, cleaned, code_of, executed, outputs_of, read
from tests.docs.test_docs import LINK, ROOT, alike

GROUP: Final = ("nbclient", "nbformat", "ipykernel", "ipywidgets", "matplotlib")
PATH: Final = re.compile(r"(?<![\w.])(?:/(?:home|root|tmp|usr|opt|work|Users|private|var)/|[A-Z]:\\)")
each: Final = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_each_is_on_the_page() -> None:
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        assert f"({path.name})" in (FOLDER / "README.md").read_text()


@each
def test_its_cells_are_python_without_magic(path: Path) -> None:
    for code in code_of(read(path)):
        compile(code, path.name, "exec")


@each
def test_it_is_there_as_it_was_executed_from_top_to_bottom(path: Path) -> None:
    notebook = read(path)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    kinds = {kind for output in outputs_of(notebook) for kind in output}
    assert {"stdout", "image/png", "text/html"} <= kinds
    assert not kinds & {"error", "stderr", WIDGET}


@each
def test_what_it_shows_is_small_and_tells_nothing_of_a_machine(path: Path) -> None:
    assert path.stat().st_size < 150_000
    notebook = read(path)
    assert notebook == cleaned(read(path))
    assert notebook["metadata"] == {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for output in outputs_of(notebook):
        for kind, text in output.items():
            assert kind.startswith("image/") or not PATH.search(text), text


@each
def test_its_links_lead_to_files(path: Path) -> None:
    for cell in read(path)["cells"]:
        for link in LINK.findall("".join(cell["source"])):
            assert "://" in link or (path.parent / link.partition("#")[0]).exists(), link


@pytest.mark.sweep
@each
def test_its_cells_are_clean_in_mypy_strict(path: Path, tmp_path: Path) -> None:
    (tmp_path / f"{path.stem}.py").write_text("\n".join(code_of(read(path))))
    said, errors, code = api.run(["--config-file", str(ROOT / "mypy.ini"), str(tmp_path)])
    assert code == 0, said + errors


@pytest.mark.sweep
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in GROUP),
    reason="not in the group notebooks: uv run --group notebooks",
)
@each
def test_it_runs_and_shows_what_it_shows_here(path: Path) -> None:
    shown, anew = outputs_of(read(path)), outputs_of(executed(path))
    assert [[*one] for one in anew] == [[*one] for one in shown]
    for one, other in zip(shown, anew, strict=True):
        assert alike(one.get("stdout", ""), other.get("stdout", "")), json.dumps([one, other])
