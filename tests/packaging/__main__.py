"""The laws with the oldest and the newest that nntrain supports: `python -m tests.packaging [NAME ...]`.

Builds the wheel; for each cell makes an environment of its own with the wheel in it, and runs the laws and the kit's
tests there, out of a folder that has no nntrain of its own. Prints a row for each cell. It needs uv and a network, and
takes minutes a cell; what runs at every change is `.ci/run`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
TRIED: Final = ("tests/laws", "tests/testing", "tests/values", "tests/live", "tests/machine", "tests/checkpoint")
SHOWN: Final = ("torch", "pydantic", "safetensors", "hypothesis")


class Cell(NamedTuple):
    """A Python, and how the versions of the packages are chosen: uv's `--resolution`."""

    python: str
    resolution: str


CELLS: Final = {
    "oldest": Cell("3.11", "lowest-direct"),
    "3.11": Cell("3.11", "highest"),
    "3.12": Cell("3.12", "highest"),
    "3.13": Cell("3.13", "highest"),
    "3.14": Cell("3.14", "highest"),
}


class CellError(Exception):
    """A cell that cannot be tried here."""


def run(command: Sequence[str | Path], cwd: Path) -> str:
    """Run a command; give what it printed. Raises `CellError` with the end of that where it fails."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise CellError(done.stdout.strip()[-3000:])
    return done.stdout


def environment(uv: str, cell: Cell, wheel: Path, folder: Path) -> Path:
    """Make the environment of a cell, with the wheel in it; give its Python."""
    run([uv, "venv", "--quiet", "--python", cell.python, folder], folder.parent)
    python = folder / "bin" / "python"
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python]
    # What pyproject.toml asks for, so that "lowest-direct" means its lower bounds.
    wanted = ["--requirements", "pyproject.toml", "--extra", "testing", "--group", "tests"]
    run([*install, "--resolution", cell.resolution, *wanted], folder.parent)
    run([*install, "--no-deps", wheel], folder.parent)
    return python


def tried(python: Path, folder: Path) -> str:
    """Run the tests of a cell; give pytest's last line. Raises `CellError` where one fails."""
    said = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TRIED], folder)
    found = re.findall(r"^.*\d+ passed.*$", said, re.MULTILINE)
    return str(found[-1]).strip("= ")


def main(argv: Sequence[str] | None = None) -> int:
    """Try the cells. Gives 1 where a test failed, and where a cell cannot be tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.packaging", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CELLS)}; all if left out")
    names = parser.parse_args(argv).names or list(CELLS)
    unknown = [name for name in names if name not in CELLS]
    if unknown:
        parser.error(f"no cell is named {', '.join(unknown)}; expected some of {', '.join(CELLS)}")
    uv = shutil.which("uv")
    if uv is None:
        parser.error("uv, which builds and installs, is not here: pip install uv")
    failed = 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        run([uv, "build", "--quiet", "--wheel", "--out-dir", folder], ROOT)
        (wheel,) = folder.glob("nntrain-*.whl")
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)  # pytest's options
        for name in names:
            began = time.perf_counter()
            versions = ""
            try:
                python = environment(uv, CELLS[name], wheel, folder / f"env-{name}")
                asked = "; ".join(f"print('{one}', version('{one}'))" for one in SHOWN)
                said = run([python, "-c", f"import sys; from importlib.metadata import version; {asked}"], folder)
                versions = ", ".join(said.split("\n")[:-1])
                came_to = tried(python, folder)
            except CellError as error:
                failed = 1
                came_to = f"failed:\n{error}"
            seconds = time.perf_counter() - began
            print(f"{name} (Python {CELLS[name].python}; {versions}; {seconds:.0f} s): {came_to}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
