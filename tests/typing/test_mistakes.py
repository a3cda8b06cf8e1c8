"""The mistakes that people make: what mypy says of each, to the letter, and what those read who do not type-check.

Each file of `mistakes` makes one. `# E: ` at its line is mypy's message, `# N: ` below are the notes to it; `# R: ` at
its end is the error at run time, where `...` stands for what differs from machine to machine.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import mypy.version
import pytest

from tests.typing.strict import CACHE, STRICT

ROOT: Final = Path(__file__).parents[2]
FILES: Final = sorted((ROOT / "tests" / "typing" / "mistakes").glob("*.py"))
MAJOR, MINOR = map(int, mypy.version.__version__.split(".")[:2])
VERSIONS: Final = [
    pytest.param(None, id="current", marks=pytest.mark.sweep),
    pytest.param(f"{MAJOR}.{MINOR - 2}", id="two minor versions ago", marks=pytest.mark.sweep),
]
"""The mypy at hand, and the one two minor versions before."""
WHERE: Final = re.compile(r'"[A-Z]\w*" defined in "[\w.]+"')
"""A note that mypy gives of a record's own `__init__` only where it has read the record from its cache."""


def expected(path: Path) -> list[tuple[int, str]]:
    """Give the line and the text of each message."""
    lines = enumerate(path.read_text().splitlines(), 1)
    return [(number, said) for number, line in lines for said in line.split("  # E: ")[1:]]


def expected_notes(path: Path) -> list[str]:
    """Give the notes to the messages, in their order."""
    return [line.removeprefix("# N: ") for line in path.read_text().splitlines() if line.startswith("# N: ")]


def at_run_time(path: Path) -> tuple[str, str] | None:
    """Give what is to be run after the file, and the error that it raises."""
    found = re.search(r"^# At run time: (.*)\n# R: (.*)\Z", path.read_text().rstrip(), re.MULTILINE)
    return None if found is None else (found[1], found[2])


RUN: Final = [path for path in FILES if at_run_time(path)]


def test_there_are_enough_of_both_kinds() -> None:
    assert len(FILES) >= 40
    assert len(RUN) >= 40
    assert all(len({number for number, _ in expected(path)}) == 1 for path in FILES)


class Said(NamedTuple):
    """What mypy said of a file: the lines and texts of its messages, and of its notes."""

    errors: list[tuple[int, str]]
    notes: list[tuple[int, str]]


@pytest.fixture(scope="module", params=VERSIONS)
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    """Run mypy over all files, strict and without plugins; give its messages for each."""
    version: str | None = request.param
    folder = tmp_path_factory.mktemp("mypy")
    (folder / "mypy.ini").write_text(STRICT)
    command, cache = [sys.executable, "-m", "mypy"], CACHE
    if version is not None:
        uv = shutil.which("uv")
        if uv is None:
            pytest.skip("uv, which brings other versions of mypy, is not here")
        command, cache = [uv, "tool", "run", "--from", f"mypy=={version}.*", "mypy"], folder / "cache"
        found = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=300, check=False)
        if found.returncode:
            pytest.skip(f"mypy {version} cannot be had here")
        assert f"mypy {version}." in found.stdout
    options = ["--config-file", str(folder / "mypy.ini"), "--python-executable", sys.executable, "--no-error-summary"]
    options += ["--cache-dir", str(cache), "--no-pretty"]
    command += [*options, "tests/typing/mistakes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert not done.stderr, done.stderr
    messages = {path.name: Said([], []) for path in FILES}
    for line in done.stdout.splitlines():
        one = re.match(r"tests/typing/(.+?):(\d+): (error|note): (.*)$", line)
        assert one is not None, line
        of_file = messages[one[1].removeprefix("mistakes/")]
        (of_file.errors if one[3] == "error" else of_file.notes).append((int(one[2]), one[4]))
    return messages


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_mypy_says_of_it(said: dict[str, Said], path: Path) -> None:
    errors, notes = said[path.name]
    assert errors == expected(path)
    assert [text for _, text in notes if not WHERE.fullmatch(text)] == expected_notes(path)
    assert {line for line, _ in notes} <= {line for line, _ in errors}


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_who_does_not_type_check_reads(path: Path) -> None:
    found = at_run_time(path)
    assert found is not None
    statement, message = found
    scope: dict[str, Any] = {"__name__": f"mistakes_{path.stem}"}
    source = "import torch\n" + path.read_text()
    if statement != "importing this":
        source += f"\n{statement}\n"
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - its text is compared below
        exec(compile(source, path.name, "exec", dont_inherit=True), scope)
    pattern = re.escape(message).replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, f"{type(caught.value).__name__}: {' '.join(str(caught.value).split())}")


@pytest.fixture(scope="module")
def objected(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, int]]:
    """Give where pyright, strict, sees an error."""
    config = tmp_path_factory.mktemp("pyright") / "pyrightconfig.json"
    where = {"include": [str(ROOT / "tests" / "typing" / "mistakes")], "extraPaths": [str(ROOT)]}
    config.write_text(json.dumps({"typeCheckingMode": "strict", "pythonVersion": "3.11", **where}))
    command = [sys.executable, "-m", "basedpyright", "-p", str(config), "--outputjson", "--level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    told = json.loads(done.stdout)["generalDiagnostics"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in told}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.sweep
def test_pyright_agrees(objected: set[tuple[str, int]], path: Path) -> None:
    ((line, _), *_) = expected(path)
    lines = {number for name, number in objected if name == path.name}
    assert any(line <= number <= line + 3 for number in lines), lines
