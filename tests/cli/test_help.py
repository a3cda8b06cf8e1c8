"""The help of every command fits a screen and shows examples; exit codes are one table; what is misspelt is guessed."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from click.testing import CliRunner

import nntrain.cli
from nntrain.cli import nntrain as front
from nntrain.cli.commands import Command, Option
from nntrain.cli.exits import MEANINGS, Exit
from nntrain.cli.reading import EXIT_CODES
from tests.cli.test_output import folder, made  # noqa: F401 - fixtures: a folder with what the commands read

ROOT: Final = Path(__file__).parents[2]
LINES, COLUMNS = 40, 80


def commands(one: click.Command = front, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, one
    if isinstance(one, click.Group):
        for name, inner in one.commands.items():
            yield from commands(inner, (*path, name))


ALL: Final = {" ".join(path): one for path, one in commands()}


def called(line: str) -> tuple[int, str]:
    done = CliRunner().invoke(front, shlex.split(line), prog_name="nntrain", terminal_width=COLUMNS)
    return done.exit_code, done.output


@pytest.mark.parametrize("name", ALL)
def test_every_help_fits_a_screen_and_has_three_examples(name: str) -> None:
    code, said = called(f"{name} --help")
    assert code == 0
    assert len(said.splitlines()) <= LINES
    assert max(map(len, said.splitlines())) <= COLUMNS
    command = ALL[name]
    assert isinstance(command, Command)
    assert len(command.examples) == 3
    assert all(example in said for example in command.examples)


@pytest.mark.parametrize("name", ALL)
def test_every_example_is_a_call_that_is_understood(name: str) -> None:
    command = ALL[name]
    assert isinstance(command, Command)
    for example in command.examples:
        for part in re.split(r"&&|\|", re.sub(r"\$\([^)]*\)|\s#.*|\s>.*", "", example)):
            words = shlex.split(part)
            if words[0] == "nntrain":
                group: click.Command = front
                context = click.Context(front)
                while isinstance(group, click.Group):
                    _, inner, words = group.resolve_command(context, words[1:])
                    assert inner is not None
                    group, words = inner, ["", *words]
                group.make_context(group.name, words[1:])


def test_rare_options_are_behind_help_all_and_nothing_is_in_neither() -> None:
    command = ALL["fit"]
    _, brief = called("fit --help")
    code, whole = called("fit --help-all")
    assert code == 0
    rare = [one.opts[0] for one in command.params if isinstance(one, Option) and one.rare]
    assert rare
    for one in command.params:
        if isinstance(one, click.Option):
            assert re.search(rf"{one.opts[-1]}\b", whole), one.opts
            assert bool(re.search(rf"{one.opts[-1]} ", brief)) == (one.opts[0] not in rare), one.opts
            assert isinstance(one, Option) or one.name == "help_all", "an option of fit has its group"


# -- exit codes -----------------------------------------------------------------------------------------------------


def test_the_table_in_the_docs_and_in_the_help_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| ([^|;]+?)(?:;[^|]*)? \|$", page, re.MULTILINE))
    assert rows == {str(code.value): meaning for code, meaning in MEANINGS.items()}
    assert page.count("| exit code |") == 1, "there is one table"
    _, said = called("--help")
    for code, meaning in MEANINGS.items():
        assert re.search(rf"\b{code.value}  {re.escape(meaning)}", said), code


def test_every_exit_of_the_code_is_by_name() -> None:
    used: set[str] = {"USAGE"}  # click's own
    for path in Path(nntrain.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Exit":
                used.add(node.attr) if path.name != "exits.py" else None
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"sys.exit", "SystemExit"}:
                assert not isinstance(node.args[0], ast.Constant), f"{path.name}: {ast.unparse(node)}"
    assert used == {code.name for code in Exit}
    assert set(EXIT_CODES.values()) <= set(Exit)


CASES: Final = {
    "schema": Exit.DONE,
    "checkpoint diff a.safetensors b.safetensors": Exit.WRONG,
    "log check none.jsonl": Exit.UNREADABLE,
    "checkpoint verify none.safetensors": Exit.UNREADABLE,
    "log check empty": Exit.NOTHING,
    "checkpoint latest nowhere": Exit.NOTHING,
    "log check binary": Exit.DAMAGED,
    "log check text": Exit.FOREIGN,
    "checkpoint verify text": Exit.FOREIGN,
    "log check later.jsonl": Exit.VERSION,
    "log check gap.jsonl": Exit.GAP,
    "fit --lr x": Exit.USAGE,
    "predict own.py:learner --checkpoint a.safetensors --out nowhere/taken/preds.npy": Exit.USAGE,
    "report run.jsonl -o /proc/report.html": Exit.UNWRITABLE,
    "log export run.jsonl --to csv -o /proc/tables": Exit.UNWRITABLE,
    "new /proc/mine": Exit.UNWRITABLE,
}


@pytest.mark.parametrize("line", CASES)
@pytest.mark.usefixtures("folder")
def test_each_code_is_what_the_table_says(line: str) -> None:
    log = Path("run.jsonl").read_bytes()
    Path("nowhere").mkdir()
    Path("b.safetensors").write_bytes(Path("a.safetensors").read_bytes())
    Path("empty").touch()
    Path("binary").write_bytes(bytes(range(256)) * 20)
    Path("text").write_text("once upon a time\n")
    Path("later.jsonl").write_bytes(log.replace(b"nntrain.event/1", b"nntrain.event/2"))
    Path("gap.jsonl").write_bytes(b"".join(log.splitlines(keepends=True)[::2]))
    if "diff" in line:
        from nntrain.checkpoint import save
        from tests.checkpoint.test_sink import fitted

        save(fitted(epochs=2), "b.safetensors")
    done = CliRunner().invoke(front, shlex.split(line), standalone_mode=True)
    assert done.exit_code == CASES[line], done.output


# -- suggestions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fti", "No such command 'fti'. Probably meant: fit. There are checkpoint, config, evaluate, export"),
        ("log folow x", "No such command 'folow'. Probably meant: follow. There are check, export, follow"),
        ("fit --epoch 3 --x", "--epochs"),
        ("fit --patiense 3", "--patience"),
        ("fit --learning-rate 3", "No such option '--learning-rate'. Did you mean '--lr'?"),
        ("fit --random_state=3", "Did you mean '--seed'?"),
        ("fit --gpu", "Did you mean '--device'?"),
        ("fit --data digit", "Probably meant: digits."),
        ("fit --subscriber nan_gard", "Probably meant: nan_guard. There are early_stopping, nan_guard"),
        ("fit --set bach_size=3", "bach_size: there is no such option. Probably meant: batch_size."),
        ("fit --set subscribers.nan_guard.evry=3", "evry: there is no such option. Probably meant: every."),
        ("fit --set subscribers.nan_gard.every=3", "Probably meant: nan_guard."),
        ("fit --config run.toml", "subscriber: there is no such option (in run.toml, line 1). Probably meant: subscri"),
        ("log export run.jsonl --to cvs -o x", "csv"),
    ],
)
def test_what_is_misspelt_is_guessed(line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text("[subscriber.nan_guard]\nevery = 3\n")
    code, output = called(line)
    assert code == Exit.USAGE
    flat = " ".join(output.split())
    assert said.replace("config, evaluate, export", "config, evaluate, fit") in flat


def test_what_other_tools_call_an_option_is_no_option_and_of_one_only() -> None:
    options = [one for one in ALL["fit"].params if isinstance(one, Option)]
    elsewhere = [name for one in options for name in one.elsewhere]
    assert len(elsewhere) == len({*elsewhere}) > 10
    assert not {*elsewhere} & {name.lstrip("-") for one in options for name in one.opts}
