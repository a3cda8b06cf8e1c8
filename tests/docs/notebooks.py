"""The notebooks of `docs/examples`: `uv run --group notebooks python -m tests.docs.notebooks` runs them anew in place.

What is written is the same for everybody: outputs, but no widgets, which no page could show, no times and no versions.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tests.docs.test_docs import ROOT

FOLDER: Final = ROOT / "docs" / "examples"
NOTEBOOKS: Final = sorted(FOLDER.glob("*.ipynb"))
WIDGET: Final = "application/vnd.jupyter.widget-view+json"
KERNEL: Final = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read(path: Path) -> Any:
    """Return a notebook as it stands in its file."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(notebook: Any) -> list[str]:
    """Return the source of each cell of code."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs_of(notebook: Any) -> list[dict[str, str]]:
    """Return what the cells show, each by its kind ("text/plain", "image/png", "text/html" and so on)."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            kinds = output.get("data") or {output.get("name", "error"): output.get("text", output.get("traceback"))}
            found.append({kind: text if isinstance(text, str) else "".join(text) for kind, text in kinds.items()})
    return found


def executed(path: Path) -> Any:
    """Return a notebook, run in a new kernel and an empty folder. Raises what a cell raises.

    Needs the group `notebooks`. No settings of whoever runs it are read.
    """
    import nbformat  # pyright: ignore[reportMissingImports] # it is in the group notebooks only
    from nbclient import NotebookClient  # pyright: ignore[reportMissingImports] # same

    notebook = nbformat.read(path, as_version=4)
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as made:
        os.environ.pop("MPLBACKEND", None)  # the kernel's own draws into the page
        os.environ.update(dict.fromkeys(("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"), made))
        try:
            client = NotebookClient(
                notebook,
                timeout=120,
                kernel_name="python3",
                resources={"metadata": {"path": made}},
                record_timing=False,
            )
            client.execute()
        finally:
            os.environ.clear()
            os.environ.update(before)
    return cleaned(json.loads(nbformat.writes(notebook)))


def cleaned(notebook: Any) -> Any:
    """Return a notebook without what differs from one run to the next, or is of no use on a page."""
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"], cell["id"] = {}, f"cell-{number:02d}"
        if cell["cell_type"] == "code":
            cell["outputs"] = _joined(one for one in cell["outputs"] if WIDGET not in one.get("data", ()))
            for output in cell["outputs"]:
                if "metadata" in output:
                    output["metadata"] = {}
                if "text/html" in output.get("data", ()):
                    output["data"].pop("text/plain", None)
    notebook["metadata"] = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return notebook


def _joined(outputs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return outputs with the lines of a stream together, whether or not a widget came between them."""
    found: list[dict[str, Any]] = []
    for output in outputs:
        if found and "text" in output and found[-1].get("name") == output["name"]:
            found[-1]["text"] = [*found[-1]["text"], *output["text"]]
        else:
            found.append(output)
    return found


if __name__ == "__main__":
    for path in NOTEBOOKS:
        text = json.dumps(executed(path), indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")
