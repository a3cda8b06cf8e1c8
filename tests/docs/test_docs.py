"""Every code block of the README and the docs: Python blocks are run and type-checked, commands are run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from mypy import api

from nntrain.cli import nntrain
from nntrain.cli.plugins import KINDS
from nntrain.cli.settings import make_plugins, read_config
from nntrain.machine.table import TABLE

ROOT = Path(__file__).parents[2]
MADE = {"_build", "docstrings"}
"""The folders under `docs` that the site's build makes."""
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if not MADE & {*page.parts})]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEST_COMMAND = "uv run pytest"


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(page.read_text()) if found == language]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


PYTHON = [page for page in PAGES if blocks(page, "python")]
FIRST = [page for page in PYTHON if name_of(page) in {"README.md", "docs/index.md", "docs/tutorial.md"}]
"""What is read first, and run by the README's test command; the sweep runs every page."""
COMMANDS = [
    pytest.param(page, line, marks=[] if page.name == "README.md" else [pytest.mark.sweep])
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
]


def test_there_is_something_to_run_in_every_language() -> None:
    # The last are those of test_contributing and of test_launch.
    known = {"python", "sh", "text", "mermaid", "toml", "console", "bash", "yaml"}
    assert {language for page in PAGES for language, _ in FENCE.findall(page.read_text())} <= known
    assert len(PYTHON) >= 5


@pytest.mark.parametrize("page", FIRST, ids=name_of)
def test_python_blocks_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page, capsys)


AS_SCRIPT = [page for page in PYTHON if any(re.search("^if __name__ ==", one, re.M) for one in blocks(page, "python"))]


@pytest.mark.sweep
@pytest.mark.parametrize("page", [page for page in PYTHON if page not in AS_SCRIPT], ids=name_of)
def test_python_blocks_run_a_second_time_in_the_same_folder(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run_blocks(page, capsys)


def run_blocks(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a page's blocks in the working directory, and check that the outputs which it shows are those obtained."""
    module = {"__name__": "__docs__"}
    for block in blocks(page, "python"):
        if re.search(r"^from ray\b", block, re.MULTILINE):
            continue  # tests/docs/test_launch.py runs it, where there is Ray
        exec(compile(block, name_of(page), "exec", dont_inherit=True), module)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    for line in shown(page):
        assert any(alike(line, other) for other in said.out.splitlines()), line


def shown(page: Path) -> list[str]:
    """Return the lines of output that a page shows."""
    return [line for block in blocks(page, "text") for line in block.splitlines()]


def alike(one: str, other: str) -> bool:
    """Compare two lines of output; the last places of numbers depend on the processor."""
    number = re.compile(r"\d+\.\d+")
    if number.sub("#", one) != number.sub("#", other):
        return False
    return all(abs(float(a) - float(b)) < 0.01 for a, b in zip(number.findall(one), number.findall(other), strict=True))


@pytest.mark.sweep
def test_python_blocks_are_clean_in_mypy_strict(tmp_path: Path) -> None:
    for page in PYTHON:
        name = re.sub(r"\W", "_", name_of(page).removesuffix(".md"))
        (tmp_path / f"{name}.py").write_text("\n".join(blocks(page, "python")))
    said, errors, code = api.run(["--config-file", str(ROOT / "mypy.ini"), str(tmp_path)])
    assert code == 0, said + errors


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda one: one if isinstance(one, str) else name_of(one))
def test_commands_run(page: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's in processes of their own; the others in this one, which has torch imported already.

    A Python block of the page that begins with the name of a file is there as that file.
    """
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        name = re.match(r"# (\w+\.py)\n", block)
        if name is not None:
            (tmp_path / name[1]).write_text(block)
    for command in (part.strip() for part in line.split("&&")):
        if command == "pip install uv":
            continue  # the tool this test is run by, or stands in for
        if command == TEST_COMMAND:
            config = tomllib.loads((ROOT / "pyproject.toml").read_text())
            assert config["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests", "nntrain"]
            continue  # the very command that runs this test
        words = shlex.split(command.removeprefix("uv run "))
        if words[0] == "torchrun":
            torchrun = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            subprocess.run(torchrun, check=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})
            continue
        assert words[0] == "nntrain", f"{page}: {command}"
        if page.name == "README.md":
            subprocess.run([sys.executable, "-m", *words], check=True, timeout=300)
        else:
            done = CliRunner().invoke(nntrain, words[1:])
            assert done.exit_code == 0, done.output


@pytest.mark.sweep
@pytest.mark.parametrize("page", AS_SCRIPT, ids=name_of)
def test_pages_that_spawn_processes_run_as_a_script(page: Path, tmp_path: Path) -> None:
    """What trains is under `if __name__ == "__main__"`: a spawned process, whose output is seen, repeats nothing."""
    parts = blocks(page, "python")
    files = {found[1]: block for block in parts if (found := re.match(r"# (\w+\.py)\n", block)) is not None}
    for name, block in {**files, "main.py": "\n".join(parts)}.items():
        (tmp_path / name).write_text(block)
    command = [sys.executable, "main.py"]
    for _ in ("once", "again, in the same folder"):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        said = done.stdout.splitlines()
        assert len(said) == len(shown(page)), said
        assert all(map(alike, said, shown(page))), said


TOML = [(page, block) for page in PAGES for block in blocks(page, "toml")]


@pytest.mark.parametrize(
    ("page", "block"), TOML, ids=lambda one: one.split()[0] if isinstance(one, str) else name_of(one)
)
def test_toml_blocks_are_configurations_or_entry_points(page: Path, block: str, tmp_path: Path) -> None:
    content = tomllib.loads(block)
    if "project" in content:
        assert {group.removeprefix("nntrain.") for group in content["project"]["entry-points"]} <= set(KINDS)
        return
    (tmp_path / "run.toml").write_text(block)
    config = read_config(tmp_path / "run.toml", {})
    assert make_plugins("subscribers", config.subscribers)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """Those of README too, which is no page of the site, and of what a forge shows."""
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, heading = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not heading or heading in headings(target), link


def headings(page: Path) -> set[str]:
    """Return what a forge calls the headings of a page in links."""
    found = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in found}


def diagram() -> str:
    lines = ["stateDiagram-v2", "    [*] --> before_fit"]
    for place, leads in TABLE.items():
        together = {to: [cause for cause, other in leads.items() if other == to] for to in leads.values()}
        lines += [f"    {place} --> {to}: {', '.join(causes)}" for to, causes in together.items()]
    return "\n".join([*lines, "    finished --> [*]"]) + "\n"


def test_the_diagram_is_the_table() -> None:
    (drawn,) = blocks(ROOT / "docs" / "reference" / "machine.md", "mermaid")
    assert drawn == diagram()
