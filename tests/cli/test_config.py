"""The configuration of `nntrain fit`, and plugins by name: from flags, the environment and a TOML file."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result

from nntrain.cli import nntrain
from nntrain.cli.settings import FitConfig, read_config, schema_of_all
from nntrain.errors import ConfigError
from nntrain.log import read
from nntrain.log.events import RunStarted
from tests.log.validating import validator

PLUGINS = """
from __future__ import annotations
from pathlib import Path
from typing import Literal
import datasets
from nntrain import CancelFit, Subscriber, TrainState, Transition
from nntrain.data import load_digits

class Enough(Subscriber[object]):
    def __init__(self, epochs: int, reason: Literal["time", "money"] = "time", *, quietly: bool = False) -> None:
        self.epochs, self.reason = epochs, reason
    def after_epoch(self, state: TrainState) -> TrainState | CancelFit:
        return CancelFit(reason=self.reason) if state.progress.epoch + 1 == self.epochs else state

class Notes:
    def __init__(self, path: Path, every: list[int] = [1, 2]) -> None:
        self.path = path
    def __call__(self, transition: Transition, /) -> None:
        with self.path.open("a") as file:
            file.write(f"{transition.at}\\n")

def few(rows: int = 40) -> datasets.DatasetDict:
    return datasets.DatasetDict({name: split.select(range(rows)) for name, split in load_digits().items()})

def wrong() -> int:
    return 3

def untyped(epochs):
    return epochs

NOTHING = 3
"""
ENTRIES = """
[nntrain.subscribers]
enough = acme_plugins:Enough
untyped = acme_plugins:untyped
gone = acme_nowhere:Gone
missing = acme_plugins:Missing
nothing = acme_plugins:NOTHING

[nntrain.sinks]
notes = acme_plugins:Notes

[nntrain.sources]
few = acme_plugins:few
wrong = acme_plugins:wrong
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a distribution with plugins, some of them broken."""
    site = tmp_path / "site"
    info = site / "acme_plugins-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-plugins\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    (site / "acme_plugins.py").write_text(PLUGINS)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "acme_plugins", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(nntrain, list(arguments), env=env, catch_exceptions=False)


def test_a_flag_counts_then_the_environment_then_the_file_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.toml"
    path.write_text("lr = 0.1\nepochs = 3\nbatch_size = 7\n[subscribers.nan_guard]\nevery = 2\n")
    monkeypatch.setenv("NNTRAIN_EPOCHS", "5")
    monkeypatch.setenv("NNTRAIN_SUBSCRIBERS__NAN_GUARD__ORDER", "4")
    config = read_config(path, {"batch_size": 9, "subscribers": {"early_stopping": {}}})
    assert (config.lr, config.epochs, config.batch_size, config.hidden) == (0.1, 5, 9, 50)
    assert config.subscribers == {"nan_guard": {"every": 2, "order": "4"}, "early_stopping": {}}


def test_a_run_is_configured_by_all_three(acme: Path) -> None:
    (acme / "run.toml").write_text(
        'data = "few"\nquiet = true\nlog = "log.jsonl"\n[subscribers.enough]\nepochs = 2\n[sources.few]\nrows = 20\n'
    )
    flags = ("--set", 'subscribers.enough.reason="money"', "--sink", "notes", "--set", "sinks.notes.path=told.txt")
    done = run("fit", "--config", "run.toml", *flags, env={"NNTRAIN_LR": "0.5"})
    assert done.exit_code == 0, done.output
    assert "stopped by Enough: money" in done.output
    lines = list(read(acme / "log.jsonl"))
    assert isinstance(lines[0].event, RunStarted)
    config = lines[0].event.config
    assert config["lr"] == 0.5
    assert config["subscribers"] == ["Enough"]
    assert config["sinks"] == ["Notes", "JsonLog"]
    assert max(line.samples for line in lines) == 20
    assert (acme / "told.txt").read_text().splitlines()[0] == "before_fit"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "learning_rate=1"], "learning_rate: there is no such option.\nThere are data, data_dir,"),
        (["--set", "foo=1"], "foo: there is no such option.\nThere are data, data_dir,"),
        (["--set", "lr=fast"], "lr: Input should be a valid number, unable to parse string as a number; got 'fast'"),
        (["--set", "lr"], "'lr' is no NAME=VALUE"),
        (["--set", "lr.a=1", "--set", "lr.a.b=2"], "lr.a.b is said to be two things"),
        (
            ["--subscriber", "nan_gard"],
            "No distribution here has 'nan_gard' among its subscribers. Probably meant: nan_guard. There are ",
        ),
        (
            ["--sink", "early_stopping"],
            "No distribution here has 'early_stopping' among its sinks. It is among the subscribers. `nntrain plugins`",
        ),
        (["--subscriber", "enough"], "subscribers.enough.epochs: Field required"),
        (["--set", "subscribers.enough.epochs=many"], "subscribers.enough.epochs: Input should be a valid integer"),
        (
            ["--set", "subscribers.enough.epoch=1"],
            "subscribers.enough.epoch: there is no such option. Probably meant: epochs.",
        ),
        (["--subscriber", "untyped"], "has a parameter epochs without a name to give it by, or without a type"),
        (["--subscriber", "gone"], "cannot be imported: ModuleNotFoundError: No module named 'acme_nowhere'"),
        (["--subscriber", "missing"], "cannot be imported: AttributeError"),
        (["--subscriber", "nothing"], "is 3; expected something that can be called"),
        (["--set", "subscribers.nan_guard.every=0"], "every is 0; expected a whole number of batches, 1 or more"),
        (["--data", "wrong"], "The data source wrong gave a int; expected a datasets.DatasetDict"),
        (["--data", "fewer"], "nor a data source by name (few, wrong)"),
        (["--config", "none.toml"], "The configuration none.toml cannot be read"),
        (["--config", "bad.toml"], "The configuration bad.toml is no TOML"),
        (["--config", "nested.toml"], "lr: Input should be a valid number"),
    ],
)
def test_what_cannot_be_meant_is_said_with_its_place(acme: Path, arguments: list[str], said: str) -> None:
    (acme / "bad.toml").write_text("lr = \n")
    (acme / "nested.toml").write_text("[lr]\nvalue = 1\n")
    done = run("fit", "--log", "log.jsonl", *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert not (acme / "log.jsonl").exists() or arguments[0] == "--data"


def test_the_environment_is_checked_too() -> None:
    done = run("fit", env={"NNTRAIN_EPOCHS": "-1"})
    assert done.exit_code == 2
    assert "epochs: Input should be greater than or equal to 0; got '-1'" in done.output
    done = run("fit", env={"NNTRAIN_SUBSCRIBERS": "{"})
    assert done.exit_code == 2
    assert "The environment's NNTRAIN_... cannot be read" in done.output


CONFIG = """\
# of a run
epochs = 3
"batch_size" = true
log_every = 0

[subscribers.nan_guard]  # stop
every = "often"
ordre = 3
[subscribers]
early_stoping = {}
rollback.every = 0
rollback.spike = true
"""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([2, 3], "batch_size: Input should be a valid number, and is true or false; got True (in run.toml, line 2)"),
        ([4], "seconds like '1s', 'all' or 'none'; got 0 (in run.toml, line 1)"),
        ([6, 7], "every: Input should be a valid integer, unable to parse string as an integer; got 'often' (in run."),
        ([6, 7], "got 'often' (in run.toml, line 2)"),
        ([1, 6, 8], "nan_guard.ordre: there is no such option (in run.toml, line 3). Probably meant: order."),
        ([9, 10], "among its subscribers (in run.toml, line 2). Probably meant: early_stopping."),
        ([9, 11], "every is 0; expected a whole number from 1 up. (in run.toml, line 2)"),
        (
            [9, 12],
            "rollback.spike: Input should be a valid number, and is true or false; got True (in run.toml, line 2",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(acme: Path, lines: list[int], said: str) -> None:
    text = CONFIG.splitlines()
    (acme / "run.toml").write_text("\n".join(text[number - 1] for number in lines))
    done = run("fit", "--config", "run.toml", "--log", "log.jsonl")
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "NNTRAIN_LR",
            "fast",
            "lr: Input should be a valid number, unable to parse string as a number; got 'fast' (in N",
        ),
        (
            "NNTRAIN_SUBSCRIBERS__NAN_GARD__EVERY",
            "3",
            "(in NNTRAIN_SUBSCRIBERS__NAN_GARD__EVERY). Probably meant: nan_guard.",
        ),
        ("NNTRAIN_SUBSCRIBERS__NAN_GUARD__EVERY", "x", "got 'x' (in NNTRAIN_SUBSCRIBERS__NAN_GUARD__EVERY)"),
        ("nntrain_epochs", "many", "got 'many' (in nntrain_epochs)"),
        ("NNTRAIN_SINKS", "{", "Of NNTRAIN_SINKS, one is no JSON object"),
    ],
)
def test_what_is_wrong_in_the_environment_is_said_with_its_variable(name: str, value: str, said: str) -> None:
    done = run("fit", env={name: value})
    assert done.exit_code == 2
    assert said in done.output


def test_a_variable_that_is_no_option_is_warned_of(acme: Path) -> None:
    env = {"NNTRAIN_BATCHSIZE": "3", "NNTRAIN_SUBSCRIBER__NAN_GUARD__EVERY": "3", "NNTRAIN_HIDDEN": "9"}
    done = run("fit", "--epochs", "0", "--log", "log.jsonl", env=env)
    assert done.exit_code == 0
    warned = [line for line in done.stderr.splitlines() if line.startswith("Warning")]
    assert warned == [
        "Warning: NNTRAIN_BATCHSIZE is set, and batchsize is no option. Probably meant: batch_size.",
        "Warning: NNTRAIN_SUBSCRIBER__NAN_GUARD__EVERY is set, and subscriber.nan_guard.every is no option. Probably "
        "meant: subscribers.",
    ]


@pytest.mark.parametrize("every", ["10", '"10"', '"2s"', '"0.5s"', '"all"', '"none"'])
def test_a_file_of_a_windows_editor_and_an_interval_as_a_number(tmp_path: Path, every: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbflog_every = " + every.encode() + b"\r\nepochs = 1\r\n")
    config = read_config(path, {})
    assert (config.log_every, config.epochs) == (every.strip('"'), 1)
    check = validator(schema_of_all())
    assert check.is_valid({"log_every": json.loads(every)})
    assert not any(
        check.is_valid({"log_every": wrong}) for wrong in (0, "0", "0s", "0.0s", "1.s", "s", "ten", True, 1.5)
    )


def test_true_is_no_number_wherever_a_number_is_expected() -> None:
    numbers = [
        name
        for name, field in FitConfig.model_fields.items()
        if {int, float} & {field.annotation, *get_args(field.annotation)}
    ]
    assert set(numbers) >= {"epochs", "batch_size", "lr", "hidden", "seed", "patience", "save_every"}
    for name in numbers:
        with pytest.raises(
            ConfigError, match=f"{name}: Input should be a valid number, and is true or false; got True"
        ):
            read_config(None, {name: True})
    assert read_config(None, {"resume": True, "quiet": False}).resume


def test_plugins_are_listed_with_their_options_and_what_is_wrong_with_them(acme: Path) -> None:
    done = run("plugins")
    assert done.exit_code == 1
    rows = {line.split()[1]: " ".join(line.split()) for line in done.output.splitlines()}
    assert rows["enough"] == "subscribers enough acme-plugins 1.2 epochs=(needed), reason=time, quietly=False"
    assert "every=50, order=0" in rows["nan_guard"]
    assert "cannot be imported: ModuleNotFoundError" in rows["gone"]
    told = [json.loads(line) for line in run("plugins", "--json").output.splitlines()]
    assert {(one["kind"], one["name"], one["problem"] is None) for one in told} >= {
        ("subscribers", "enough", True),
        ("subscribers", "untyped", False),
        ("sinks", "notes", True),
        ("sources", "few", True),
    }


def test_without_broken_ones_it_ends_with_0() -> None:
    done = run("plugins")
    assert done.exit_code == 0
    assert "rollback" in done.output


def test_two_of_one_name_are_refused(acme: Path) -> None:
    info = acme / "site" / "other-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 3\n")
    (info / "entry_points.txt").write_text("[nntrain.sinks]\nnotes = other:Notes\n")
    with pytest.raises(ConfigError, match=r"Two distributions call one of their sinks notes: .*Remove one of them"):
        run("plugins")


def test_the_schema_takes_what_the_command_takes_and_nothing_else(acme: Path) -> None:
    schema: dict[str, Any] = json.loads(run("config", "schema").output)
    assert schema == schema_of_all()
    check = validator(schema)
    assert check.is_valid(
        {"lr": 0.1, "subscribers": {"enough": {"epochs": 3}, "nan_guard": {}}, "sources": {"few": {}}}
    )
    mistakes: list[dict[str, Any]] = [
        {"learning_rate": 0.1},
        {"lr": "fast"},
        {"subscribers": {"nan_gard": {}}},
        {"subscribers": {"enough": {}}},
        {"subscribers": {"enough": {"epochs": 3, "reason": "love"}}},
    ]
    for wrong in mistakes:
        assert not check.is_valid(wrong), wrong


def test_every_option_of_fit_is_in_the_configuration() -> None:
    command = nntrain.commands["fit"]
    own = {"target", "config", "subscriber", "sink", "set", "help_all"}
    options = {one.name for one in command.params} - own
    assert options == set(FitConfig.model_fields) - {"subscribers", "sinks", "sources", "parameters"}
    defaults = {one.name: one.default for one in command.params if one.name not in own}
    for name, field in FitConfig.model_fields.items():
        if name in defaults and not callable(defaults[name]) and field.default not in {None, False}:
            assert defaults[name] == field.default, name
