"""`nntrain new`: what it writes passes its own tests and mypy's strict mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nntrain import Record, Slot
from nntrain.cli import nntrain
from nntrain.cli.new import FILES, TEMPLATE, source_of
from tests.typing.strict import CACHE


def called(*arguments: str) -> Result:
    return CliRunner().invoke(nntrain, [*arguments])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_all_its_files_and_names_what_to_do_next() -> None:
    done = called("new", "My Digits!")
    assert done.exit_code == 0, done.output
    made = Path("My Digits!")
    assert {str(one.relative_to(made)) for one in made.rglob("*") if one.is_file()} == set(FILES)
    assert {one.name for one in TEMPLATE.iterdir()} == {f"{Path(file).name}.txt" for file in FILES}
    assert 'name = "my_digits"' in (made / "pyproject.toml").read_text()
    assert "$" not in "".join((made / file).read_text() for file in FILES)
    for command in ("cd 'My Digits!'", "nntrain fit train.py:make", "python -m pytest", "python -m mypy"):
        assert command in done.stdout


@pytest.mark.parametrize(("named", "name"), [("2026", "project_2026"), ("Ünter-x", "nter_x"), ("--", "project")])
def test_the_name_is_one_that_a_slot_may_have(named: str, name: str) -> None:
    called("new", "--", named)
    assert f'Slot("{name}.streak"' in Path(named, "subscriber.py").read_text()
    assert Slot(f"{name}.streak", Record, default=Record()).name == f"{name}.streak"


def test_an_empty_folder_will_do_and_the_one_one_is_in() -> None:
    Path("mine").mkdir()
    assert called("new", "mine").exit_code == 0
    assert called("new", "a/b").exit_code == 0


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    Path("mine").mkdir()
    Path("mine/train.py").write_text("mine")
    done = called("new", "mine")
    assert done.exit_code == 2
    assert "mine is not empty, it has 'train.py'. Give a folder that is new or empty." in " ".join(done.stderr.split())
    assert Path("mine/train.py").read_text() == "mine"
    Path("file").touch()
    assert called("new", "file").exit_code == 2
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["file", "mine", "train.py"]


def test_here_in_an_empty_folder() -> None:
    done = called("new", ".")
    assert done.exit_code == 0
    assert "cd " not in done.stdout
    assert Path("train.py").exists()


@pytest.mark.parametrize(
    ("record", "source"),
    [
        (None, None),
        ({"url": "file:///a%20b/nntrain", "dir_info": {"editable": True}}, {"path": "/a b/nntrain"}),
        ({"url": "file:///a/n-1-py3-none-any.whl", "archive_info": {}}, {"path": "/a/n-1-py3-none-any.whl"}),
        (
            {"url": "https://example.org/n.git", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}, "subdirectory": "x"},
            {"git": "https://example.org/n.git", "rev": "0a1b", "subdirectory": "x"},
        ),
        ({"url": "https://example.org/n.whl", "archive_info": {}}, {"url": "https://example.org/n.whl"}),
    ],
)
def test_uv_finds_nntrain_where_it_was_installed_from(
    record: dict[str, object] | None, source: dict[str, str] | None
) -> None:
    said = source_of(None if record is None else json.dumps(record))
    project = tomllib.loads((TEMPLATE / "pyproject.toml.txt").read_text().replace("$source", said))
    assert project["tool"]["uv"].get("sources", {}).get("nntrain") == source


def test_its_learner_is_trained_by_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    called("new", ".")
    for name in ("train", "subscriber"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    done = called("fit", "train.py:make", "--epochs", "1", "--set", "width=8", "--log", "run.jsonl")
    monkeypatch.delitem(sys.modules, "subscriber", raising=False)
    assert done.exit_code == 0, done.output
    assert "epoch=00 | eval" in done.stdout


def test_it_is_clean_as_ruff_has_it() -> None:
    called("new", ".")
    ruff = [sys.executable, "-m", "ruff"]
    rules = ["--select", "E,F,W,N,UP,B,D1,RUF", "--ignore", "D107", "--line-length", "120"]
    checked = [one for one in FILES if one.endswith(".py") and "test" not in one]
    for command in ([*ruff, "check", *rules, *checked], [*ruff, "format", "--check", "--line-length", "120", "."]):
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stdout


@pytest.mark.sweep
@pytest.mark.parametrize("command", [["pytest", "-q", "-p", "no:cacheprovider"], ["mypy"]], ids=lambda one: one[0])
def test_what_it_writes_passes_its_own_tests_and_mypy_strict(command: list[str], tmp_path: Path) -> None:
    called("new", "mine")
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path / "mine",
        env={**os.environ, "MYPY_CACHE_DIR": str(CACHE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert ("3 passed" if command[0] == "pytest" else "Success") in done.stdout
