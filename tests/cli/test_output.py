"""Output that cannot be written, for every command: its exit code, one line at most, and no training that is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

import click
import pytest

from nntrain.checkpoint import inspect, save
from nntrain.cli import main, nntrain
from nntrain.log import read
from tests.checkpoint.test_sink import fitted
from tests.log.samples import scripted, written

COMMANDS: Final = {
    "--help": "--help",
    "--version": "--version",
    "checkpoint diff": "checkpoint diff a.safetensors a.safetensors",
    "checkpoint latest": "checkpoint latest .",
    "checkpoint convert": "checkpoint convert a.safetensors b.safetensors",
    "checkpoint show": "checkpoint show a.safetensors",
    "checkpoint verify": "checkpoint verify a.safetensors",
    "config schema": "config schema",
    "evaluate": "evaluate own.py:learner --checkpoint a.safetensors",
    "fit": "fit --epochs 1 --batch-size 500 --log log.jsonl --quiet",
    "follow": "follow run.jsonl",
    "log check": "log check run.jsonl",
    "log export": "log export run.jsonl --to csv -o out",
    "log follow": "log follow run.jsonl",
    "log replay": "log replay run.jsonl",
    "log show": "log show run.jsonl",
    "new": "new mine",
    "plugins": "plugins",
    "predict": "predict own.py:learner --checkpoint a.safetensors --out preds.npy",
    "report": "report run.jsonl -o -",
    "schema": "schema",
}


def names_of(group: click.Group, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from names_of(command, f"{before}{name} ")
        else:
            yield before + name


def test_every_command_is_tried() -> None:
    assert set(COMMANDS) == {*names_of(nntrain), "--help", "--version"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with what the commands read."""
    folder = tmp_path_factory.mktemp("made")
    save(fitted(epochs=1), folder / "a.safetensors")
    (folder / "own.py").write_text("from tests.checkpoint.test_sink import learner_of\n\nlearner = learner_of()\n")
    written(folder / "run.jsonl", scripted(epochs=2))
    return folder


@pytest.fixture(autouse=True)
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def full() -> TextIO:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    return Path("/dev/full").open("w", encoding="utf-8")


def gone() -> TextIO:
    """Give a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", encoding="utf-8")


def ended(monkeypatch: pytest.MonkeyPatch, command: str, out: TextIO, err: TextIO | None = None) -> object:
    """Run a command with these streams; give its exit code."""
    monkeypatch.setattr(sys, "argv", ["nntrain", *command.split()])
    monkeypatch.setattr(sys, "stdout", out)
    if err is not None:
        monkeypatch.setattr(sys, "stderr", err)
    try:
        main()
    except SystemExit as ends:
        return ends.code
    finally:
        monkeypatch.setattr(sys, "stdout", sys.__stdout__)
        with suppress(OSError):
            out.close()
    return 0


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("opened", "code", "said"),
    [(full, 10, "Error: the output cannot be written (No space left on device).\n"), (gone, 141, "")],
    ids=["full", "gone"],
)
def test_output_that_cannot_be_written(
    command: str,
    opened: Callable[[], TextIO],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(monkeypatch, COMMANDS[command], opened()) == code
    assert capsys.readouterr().err == said
    if command == "fit":
        assert [line.event.event for line in read("log.jsonl")][-1] == "run_finished"
    if command == "log export":
        assert Path("out", "epochs.csv").exists()


@pytest.mark.parametrize(("command", "code"), [("log check none", 3), ("fit --lr x", 2), ("fit --epochs 1 --log l", 0)])
def test_what_cannot_be_said_on_stderr_changes_no_exit_code(
    command: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("out.txt").open("w", encoding="utf-8") as out, full() as err:
        assert ended(monkeypatch, command, out, err) == code


@pytest.mark.sweep
def test_head_takes_the_first_line_and_the_training_goes_on(tmp_path: Path) -> None:
    """In a shell, where Python itself writes what is left when it exits."""
    command = f"'{sys.executable}' -m nntrain fit --epochs 3 --log log.jsonl --checkpoint-dir run"
    done = subprocess.run(
        ["bash", "-c", f'{command} | head -1; exit "${{PIPESTATUS[0]}}"'],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 141
    begins = "nntrain ", "log: ", "reads ", "learns "
    assert [line for line in done.stderr.splitlines() if not line.startswith(begins)] == []
    assert done.stdout.startswith("epoch=00 | train")
    assert inspect(next((tmp_path / "run").iterdir())).progress.at == "finished"
    assert [line.event.event for line in read("log.jsonl")][-1] == "run_finished"


@pytest.mark.parametrize("module", ["click", "nntrain.cli.predict", "nntrain.errors"])
def test_ctrl_c_while_it_is_imported_ends_it_as_later(module: str) -> None:
    code = f"""
import sys

class Pressed:
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            raise KeyboardInterrupt

from nntrain.__main__ import main

for name in [name for name in sys.modules if name == "{module}"]:
    del sys.modules[name]
sys.meta_path.insert(0, Pressed())
sys.argv = ["nntrain", "--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
