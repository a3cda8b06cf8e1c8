"""`nntrain fit` and `nntrain evaluate` of a learner of one's own: FILE.py:NAME and package.module:NAME."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

from nntrain.checkpoint import diff, inspect
from nntrain.cli import nntrain
from nntrain.cli.target import learner_of
from nntrain.data import load_digits

FASHION: Final = Path("/usr/share/datasets/fashion-mnist")
TRAIN: Final = """
from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn.functional import cross_entropy

import shapes
from nntrain import DataLoaders, Learner, PrintStats, accuracy

if TYPE_CHECKING:
    from nowhere import Stated

print("imported")
Kind = Literal["linear", "mlp"]


def make(
    lr: float = 0.1, kind: Kind = "linear", widths: list[int] = [3], note: str = "", sets: bool = False,
    where: Path = Path(),
) -> Learner[tuple[torch.Tensor, torch.Tensor]]:
    model = torch.nn.Linear(4, 3) if kind == "linear" else torch.nn.Sequential(
        *(torch.nn.Linear(a, b) for a, b in zip([4, *widths], [*widths, 3]))
    )
    batches = shapes.batches(5)
    valid = {"near": batches[:2], "far": batches[2:]} if sets else batches
    print("note", repr(note), repr(where))
    return Learner(
        model, DataLoaders(batches, valid), cross_entropy, {"accuracy": accuracy}, torch.optim.SGD, lr,
        sinks=[PrintStats()],
    )


learner = make()
slow = partial(make, lr=0.001, kind="mlp")


def stated(lr: float) -> Stated:
    return make(lr)


def planned(epochs: int = 3, steps: int = 50) -> Learner[tuple[torch.Tensor, torch.Tensor]]:
    print("planned", epochs, steps)
    return make()
number = 3


def needs(lr: float, width: int) -> Learner[tuple[torch.Tensor, torch.Tensor]]:
    return make(lr)


def gives_a_model() -> torch.nn.Module:
    return torch.nn.Linear(4, 3)


def fails() -> Learner[tuple[torch.Tensor, torch.Tensor]]:
    raise FileNotFoundError("no images here")


def bad_lr() -> Learner[tuple[torch.Tensor, torch.Tensor]]:
    return make(lr=-1.0)


def leaves() -> Learner[tuple[torch.Tensor, torch.Tensor]]:
    raise SystemExit("usage: train.py")
"""
SHAPES: Final = """
import torch


def batches(count):
    return [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(count)]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "shapes.py").write_text(SHAPES)
    monkeypatch.chdir(tmp_path)
    before = [*sys.path], {*sys.modules}
    yield tmp_path
    assert sys.path == before[0]
    for name in {*sys.modules} - before[1]:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def called(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(nntrain, [command, *arguments])


def fit(*arguments: str) -> Result:
    return called("fit", *arguments, "--log", "run.jsonl")


def events() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("run.jsonl").read_text().splitlines()]


def statistics(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("epoch=")]


def only(folder: str) -> Path:
    *_, last = sorted(Path(folder).glob("*.safetensors"))
    return last


def test_a_learner_is_trained_and_prints_its_statistics_once() -> None:
    done = fit("train.py:learner", "--epochs", "2")
    assert done.exit_code == 0, done.output
    assert [line[:16] for line in done.stdout.splitlines()] == [
        "epoch=00 | train",
        "epoch=00 | eval ",
        "epoch=01 | train",
        "epoch=01 | eval ",
        "log: run.jsonl",
    ]
    assert done.stderr.splitlines()[2:] == [
        "makes the learner: train.py:learner ...",
        "imported",
        "note '' PosixPath('.')",
    ]
    assert [event["event"] for event in events()].count("epoch_finished") == 4
    assert "train" not in sys.modules


def test_it_is_the_learner_that_python_trains_with_the_same_seed(tmp_path: Path) -> None:
    rng = torch.get_rng_state()
    done = fit("train.py:learner", "--epochs", "2", "--seed", "7", "--checkpoint-dir", "run")
    assert torch.equal(torch.get_rng_state(), rng)
    again = fit("train.py:learner", "--epochs", "2", "--seed", "7", "--checkpoint-dir", "again")
    other = fit("train.py:learner", "--epochs", "2", "--seed", "8", "--checkpoint-dir", "other")
    assert statistics(done.output) == statistics(again.output) != statistics(other.output)
    assert not diff(only("run"), only("again"))
    sys.path.insert(0, str(tmp_path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made: dict[str, Any] = {"__name__": "train"}
        exec(compile(TRAIN, "train.py", "exec", dont_inherit=True), made)
    sys.path.remove(str(tmp_path))
    state = made["learner"].fit(2, seed=7, print_stats=False).state
    from nntrain.checkpoint import save

    save(state, "by_hand.safetensors")
    assert not (found := diff(only("run"), "by_hand.safetensors")), str(found)


def test_a_module_of_a_package() -> None:
    Path("jobs").mkdir()
    Path("jobs/__init__.py").touch()
    Path("jobs/digits.py").write_text(TRAIN)
    done = fit("jobs.digits:make", "--epochs", "1", "--set", "kind=mlp", "--set", "widths=[5, 6]")
    assert done.exit_code == 0, done.output
    assert events()[0]["config"]["parameters"] == 4 * 5 + 5 + 5 * 6 + 6 + 6 * 3 + 3


def test_values_are_read_as_the_parameters_annotations_say() -> None:
    settings = ("lr=3e-1", "note=1.50", "where=3", "sets=true")
    done = fit("train.py:make", "--epochs", "1", *(word for one in settings for word in ("--set", one)))
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1] == "note '1.50' PosixPath('3')"
    assert events()[0]["config"]["lr"] == 0.3
    assert [line[:16] for line in statistics(done.output)] == [
        "epoch=00 | train",
        "epoch=00 | near ",
        "epoch=00 | far  ",
    ]


@pytest.mark.parametrize(("name", "parameters"), [("slow", 27), ("stated", 15)])
def test_functions_of_other_kinds(name: str, parameters: int) -> None:
    """A partial, and one that says what it returns to type checkers alone."""
    done = fit(f"train.py:{name}", "--epochs", "0", "--set", "lr=0.75")
    assert done.exit_code == 0, done.output
    assert (events()[0]["config"]["lr"], events()[0]["config"]["parameters"]) == (0.75, parameters)


@pytest.mark.parametrize(
    ("arguments", "planned"),
    [
        ((), "10 50"),  # what is trained, also where it is not given
        (("--epochs", "0"), "0 50"),
        (("--steps", "2"), "3 2"),
        (("--epochs", "1", "--set", "epochs=4"), "4 50"),
    ],
)
def test_a_goal_is_a_parameter_of_its_name(arguments: tuple[str, ...], planned: str) -> None:
    done = fit("train.py:planned", *arguments)
    assert done.exit_code == 0, done.output
    assert f"planned {planned}\n" in done.stderr


def test_parameters_stand_in_a_file_and_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("run.toml").write_text("epochs = 1\n[parameters]\nlr = 0.25\nkind = 'mlp'\nwidths = [4]\n")
    monkeypatch.setenv("NNTRAIN_PARAMETERS__LR", "0.5")
    done = fit("train.py:make", "--config", "run.toml", "--set", "kind=linear")
    assert done.exit_code == 0, done.output
    assert "Warning" not in done.stderr
    config = events()[0]["config"]
    assert (config["lr"], config["parameters"]) == (0.5, 15)
    Path("run.toml").write_text("epochs = 1\n[parameters]\nwidths = 'four'\n")
    refused = fit("train.py:make", "--config", "run.toml")
    assert refused.exit_code == 2
    assert "parameters.widths: Input should be a valid list; got 'four' (in run.toml, line 3)" in refused.stderr


def test_everything_that_fit_has() -> None:
    """Steps, a second part that goes on from the first, a subscriber by name and patience."""
    straight = fit("train.py:make", "--steps", "12", "--checkpoint-dir", "straight", "--set", "lr=0.2")
    assert straight.exit_code == 0, straight.output
    common = ("train.py:make", "--set", "lr=0.2", "--checkpoint-dir", "run")
    first = fit(*common, "--steps", "5", "--save-every", "3", "--subscriber", "nan_guard")
    assert inspect(only("run")).progress.step == 5
    second = fit(*common, "--steps", "12", "--resume", "--set", "subscribers.nan_guard.every=5", "--seed", "9")
    assert second.exit_code == 0, second.output
    assert second.stdout.startswith(f"going on from {Path('run')}")
    assert "the seed stays 0" in second.stderr
    assert statistics(first.output) + statistics(second.output) != []
    assert inspect(only("run")).progress.step == inspect(only("straight")).progress.step == 12
    assert "nothing is left to train up to --steps 12" in fit(*common, "--steps", "12", "--resume").stdout
    assert "subscribers" in events()[0]["config"]
    stopped = fit("train.py:make", "--set", "lr=1000", "--patience", "1", "--quiet", "--device", "cpu")
    assert "stopped by EarlyStopping" in stopped.stdout
    assert statistics(stopped.output) == []


def test_a_part_gone_on_with_has_the_data_of_its_seed() -> None:
    """The data are drawn where the learner is made: they are those of the seed that was saved."""
    fit("train.py:make", "--epochs", "3", "--seed", "4", "--checkpoint-dir", "straight")
    fit("train.py:make", "--epochs", "1", "--seed", "4", "--checkpoint-dir", "run")
    fit("train.py:make", "--epochs", "3", "--checkpoint-dir", "run", "--resume")
    assert not (found := diff(only("straight"), only("run"))), str(found)


def test_a_log_on_stdout_has_lines_of_json_only() -> None:
    done = called("fit", "train.py:make", "--epochs", "1", "--log", "-")
    assert done.exit_code == 0, done.output
    names = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert (names[0], names[-1]) == ("run_started", "run_finished")
    assert len(statistics(done.stderr)) == 2


BAD: Final = {
    "no colon": (["train.py"], "'train.py' is no learner to train; expected FILE.py:NAME or package.module:NAME"),
    "no colon, but a function": (["train.py"], "returns one. Probably meant: train.py:make or "),
    "no colon, and no Python": (["syntax.py"], "NAME is a learner or a function that returns one.\n"),
    "no name": (["train.py:"], "is no learner to train"),
    "no file": (["trian.py:learner"], "trian.py does not exist; expected FILE.py:NAME"),
    "a folder": (["dir.py:learner"], "dir.py is no file; expected"),
    "no module": (["jobs.train:learner"], "There is no module jobs, neither installed nor in the working directory"),
    "neither": (["jobs/train:learner"], "'jobs/train' is neither a file that ends with .py nor the name of a module"),
    "no such name": (
        ["train.py:lerner"],
        "train.py has no lerner. Probably meant: learner. Of learners and functions it has make, learner, stated, ",
    ),
    "a number": (
        ["train.py:number"],
        "train.py:number is of type int; expected a Learner, or a function that returns one",
    ),
    "a model": (["train.py:gives_a_model"], "train.py:gives_a_model returned a Linear; expected a Learner"),
    "a name that is taken": (["torch.py:learner"], "torch.py cannot be imported: a module torch is imported already"),
    "raises": (["raises.py:learner"], "raises.py cannot be imported: ValueError: too early\n  File "),
    "imports nothing": (["imports.py:learner"], "imports.py cannot be imported: ModuleNotFoundError: No module named"),
    "syntax": (["syntax.py:learner"], "syntax.py cannot be imported:"),
    "ends": (["train.py:leaves"], "train.py:leaves failed: SystemExit: usage: train.py"),
    "fails": (["train.py:fails"], 'train.py:fails failed: FileNotFoundError: no images here\n  File "'),
    "no lr": (["train.py:bad_lr"], "train.py:bad_lr failed: nntrain.errors.ConfigError: lr is -1.0"),
    "unknown parameter": (
        ["train.py:make", "--set", "lrr=0.1"],
        "parameters.lrr: there is no such option. Probably meant: lr.\nIt has lr=0.1, kind='linear', widths=[3], ",
    ),
    "missing parameter": (["train.py:needs", "--set", "lr=1"], "parameters.width: Field required\nIt has lr, width;"),
    "not a number": (
        ["train.py:make", "--set", "lr=fast"],
        "parameters.lr: Input should be a valid number, unable to parse string as a number; got 'fast'",
    ),
    "true is no number": (
        ["train.py:make", "--set", "lr=true"],
        "Input should be a valid number, and is true or false",
    ),
    "no choice": (
        ["train.py:make", "--set", "kind=conv"],
        "parameters.kind: Input should be 'linear' or 'mlp'; got",
    ),
    "of a learner": (["train.py:learner", "--set", "lr=1"], "train.py:learner is a learner, and takes no parameters"),
    "lr": (["train.py:make", "--lr", "0.1"], "--lr is for nntrain fit without a target; train.py:make has its own."),
    "lr elsewhere": (["train.py:make", "--config", "lr.toml"], "--lr (in lr.toml, line 1) is for nntrain fit without"),
    "hidden": (["train.py:make", "--hidden", "5"], "--hidden is for nntrain fit without a target"),
    "no target": (["--set", "parameters.lr=3"], "--parameters is for a target, as in nntrain fit train.py:make"),
    "two goals": (["train.py:make", "--steps", "3", "--epochs", "2"], "it is given beside --epochs; a fit has one"),
    "no steps": (["train.py:make", "--steps", "0"], "0 is not in the range x>=1"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_meant_ends_with_2_before_anything_is_written(arguments: list[str], said: str) -> None:
    Path("dir.py").mkdir()
    for name, text in (
        ("torch.py", TRAIN),
        ("raises.py", "import json\nraise ValueError('too early')\n"),
        ("imports.py", "import nowhere_at_all\n"),
        ("syntax.py", "learner = = 3\n"),
        ("lr.toml", "lr = 0.1\n"),
    ):
        Path(name).write_text(text)
    before = {path.name for path in Path().iterdir()}
    done = fit(*arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stdout == ""
    assert {path.name for path in Path().iterdir()} - before <= {"__pycache__"}


def test_the_lines_of_an_error_are_the_users_own() -> None:
    done = fit("train.py:bad_lr")
    lines = [line.split('"')[1] for line in done.stderr.splitlines() if line.startswith("  File ")]
    assert [Path(line).name for line in lines] == ["train.py", "train.py"]


# -- evaluate -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_evaluated_as_the_fit_had_it() -> None:
    """The data are drawn where the learner is made: with the seed of the checkpoint they are the fit's."""
    fitted = fit("train.py:make", "--set", "sets=true", "--epochs", "2", "--seed", "3", "--checkpoint-dir", "run")
    near, far = statistics(fitted.stdout)[-2:]
    for where in ("run", str(only("run"))):
        done = called("evaluate", "train.py:make", "--set", "sets=true", "--checkpoint", where, "--device", "cpu")
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines() == [near, far]
    done = called("evaluate", "train.py:make", "--set", "sets=true", "--checkpoint", "run", "--json")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    history = [json.loads(one.model_dump_json()) for one in inspect(only("run")).history[-2:]]
    for one in (*told, *history):
        del one["seconds"]
    assert told == history
    assert (told[0]["data"], told[0]["samples"], set(told[0]["metrics"])) == ("near", 16, {"accuracy"})


BAD_CHECKPOINTS: Final = {
    "no file": (["none"], 3, "Error: none: it cannot be opened (No such file or directory)"),
    "an empty folder": (["empty"], 4, "Error: empty has no whole checkpoint."),
    "no checkpoint": (["train.py"], 6, "Error: train.py: it is no safetensors file"),
    "another model": (["run", "--set", "kind=mlp"], 2, "does not fit the learner"),
    "a learner that is none": (["run", "--set", "lrr=1"], 2, "Probably meant: lr."),
    "no device": (["run", "--device", "tpu"], 2, "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
}


@pytest.mark.parametrize(("arguments", "code", "said"), BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_what_cannot_be_evaluated_has_an_exit_code(
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nntrain.cli import main

    Path("empty").mkdir()
    fit("train.py:make", "--epochs", "1", "--checkpoint-dir", "run")
    monkeypatch.setattr(sys, "argv", ["nntrain", "evaluate", "train.py:make", "--checkpoint", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""


def test_without_a_target_it_is_the_network_that_the_fit_trained() -> None:
    fitted = called("fit", "--epochs", "1", "--hidden", "7", "--checkpoint-dir", "run", "--log", "run.jsonl")
    done = called("evaluate", "--checkpoint", "run")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == statistics(fitted.stdout)[-1:]
    written = called("predict", "--checkpoint", "run", "--out", "preds.npy")
    assert written.exit_code == 0, written.output
    classes = np.load("preds.npy").argmax(1)
    assert f"metric={(classes == np.array(load_digits()['test']['label'])).mean():.3f}" in done.stdout
    launched = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    again = CliRunner().invoke(nntrain, ["evaluate", "--checkpoint", "run"], env=launched)
    assert again.stdout == done.stdout  # to evaluate twice is no training by itself
    done = called("evaluate", "--checkpoint", "run", "--set", "width=3")
    assert done.exit_code == 2
    assert "the network of nntrain fit has no parameters to set; give TARGET first." in " ".join(done.stderr.split())


@pytest.mark.skipif(not FASHION.is_dir(), reason="no Fashion-MNIST: install the package dataset-fashion-mnist")
@pytest.mark.sweep
def test_the_folder_of_fashion_mnist_is_found_as_in_the_fit() -> None:
    data = "--data", "fashion-mnist", "--data-dir", str(FASHION)
    fitted = called("fit", *data, "--steps", "5", "--checkpoint-dir", "run", "--log", "run.jsonl")
    done = called("evaluate", "--checkpoint", "run", *data)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == statistics(fitted.stdout)[-1:]


def test_a_learner_without_eval_data_says_so() -> None:
    Path("train.py").write_text(TRAIN.replace("DataLoaders(batches, valid)", "DataLoaders(batches)"))
    fit("train.py:make", "--epochs", "1", "--checkpoint-dir", "run")
    done = called("evaluate", "train.py:make", "--checkpoint", "run")
    assert "train.py:make has no data to evaluate on: its dls.valid is None." in str(done.exception)


# -- predict --------------------------------------------------------------------------------------------------------


PAIRS: Final = """
from pathlib import Path

import torch
from torch import Tensor, nn

import shapes
from nntrain import DataLoaders, Learner, StepOutput
from nntrain.update import optimizer


class Pair(nn.Linear):
    def forward(self, inputs):
        return {"logits": super().forward(inputs), "count": torch.tensor(len(inputs))}


def task(model, batch):
    preds = model(batch[0])
    return StepOutput(preds["logits"].square().mean(), preds["logits"] if flat else preds)


def narrowing(model, batch):
    global width
    width -= 1
    return StepOutput(model(batch[0])["logits"].square().mean(), model(batch[0])["logits"][:, :width])


def nothing(model, batch):
    return StepOutput(model(batch[0])["logits"].square().mean(), ["words"])


flat, width = False, 1000


def of(task):
    batches = shapes.batches(3)
    return Learner.of(Pair(4, 2), DataLoaders(batches, batches), task, optimizer(torch.optim.SGD, lr=0.1))


pairs, narrow, none = of(task), of(narrowing), of(nothing)
"""


def test_predictions_are_those_of_the_state_in_the_order_of_the_data() -> None:
    fit("train.py:make", "--epochs", "1", "--seed", "5", "--checkpoint-dir", "run")
    done = called("predict", "train.py:make", "--checkpoint", "run", "--out", "preds.npy")
    assert done.exit_code == 0, done.output
    assert done.stdout == "preds: [40, 3] float32\npredictions: preds.npy\n"
    weights = load_file(only("run"))
    with learner_of("train.py:make", {}, seed=5) as learner:
        batches: Any = learner.dls.valid
        by_hand = [inputs @ weights["params/weight"].T + weights["params/bias"] for inputs, _ in batches]
    torch.testing.assert_close(torch.from_numpy(np.load("preds.npy")), torch.cat(by_hand))


def test_predictions_of_several_tensors_have_their_names() -> None:
    Path("pairs.py").write_text(PAIRS)
    fit("pairs.py:pairs", "--epochs", "1", "--checkpoint-dir", "run")
    done = called("predict", "pairs.py:pairs", "--checkpoint", "run", "--out", "preds.safetensors")
    assert done.exit_code == 0, done.output
    found = load_file("preds.safetensors")
    assert {name: list(one.shape) for name, one in found.items()} == {"logits": [24, 2], "count": [3]}
    assert {path.name for path in Path().glob("*preds*")} == {"preds.safetensors"}


BAD_PREDICTIONS: Final = {
    "no format": (["pairs", "--out", "preds.csv"], "preds.csv ends with neither of .npy, .safetensors"),
    "no folder": (["pairs", "--out", "none/preds.npy"], "there is no folder none"),
    "one of two": (["pairs", "--out", "preds.npy"], "preds.npy has room for one tensor; there are logits, count"),
    "no such set": (["pairs", "--out", "preds.npy", "--on", "far"], "--on is 'far'; there is one without a name"),
    "shapes": (["narrow", "--out", "preds.npy"], "cannot be joined: their shapes are "),
    "no predictions": (["none", "--out", "preds.npy"], "gave no predictions that are tensors"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD_PREDICTIONS.values(), ids=BAD_PREDICTIONS)
def test_what_cannot_be_predicted_ends_with_2(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nntrain.cli import main

    Path("pairs.py").write_text(PAIRS.replace("width = False, 1000", "width = False, 3"))
    assert fit("pairs.py:pairs", "--epochs", "1", "--checkpoint-dir", "run").exit_code == 0
    name, *rest = arguments
    monkeypatch.setattr(sys, "argv", ["nntrain", "predict", f"pairs.py:{name}", "--checkpoint", "run", *rest])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
    assert not [*Path().glob("*preds*")]


FOLDER: Final = """
from pathlib import Path

import torch
from datasets import DatasetDict
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Learner, accuracy


def make(data: DatasetDict, lr: float = 0.1, side: int = 4) -> Learner[tuple[torch.Tensor, torch.Tensor]]:
    def resized(rows):
        return {**rows, "image": [one.resize((side, side)) for one in rows["image"]]}

    dls = DataLoaders.from_hf_dd(data.with_transform(resized), batch_size=2, num_workers=0)
    model = torch.nn.Linear(3 * side * side, dls.train.classes)
    return Learner(model, dls, cross_entropy, {"accuracy": accuracy}, torch.optim.SGD, lr)


def of_path(data: Path = Path(), lr: float = 0.1) -> Learner[tuple[torch.Tensor, torch.Tensor]]:
    print("path", repr(data))
    return make(DatasetDict({"train": 0}), lr) if data.name == "none" else plain()


def plain() -> Learner[tuple[torch.Tensor, torch.Tensor]]:
    batches = [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]
    return Learner(torch.nn.Linear(4, 3), DataLoaders(batches, batches), cross_entropy, {}, torch.optim.SGD, 0.1)


learner = plain()
"""


@pytest.fixture
def images(folder: Path) -> Path:
    """A folder of two classes, of images of two sizes."""
    (folder / "images.py").write_text(FOLDER)
    for name in ("a", "b"):
        (folder / "shots" / name).mkdir(parents=True)
        for at in range(4):
            grey = np.full((5 + at % 2, 6), 50 * at, np.uint8)
            Image.fromarray(grey).save(folder / "shots" / name / f"{at}.png")
    return folder / "shots"


def test_a_folder_of_images_is_the_functions_data(images: Path) -> None:
    arguments = ("images.py:make", "--data", "shots", "--set", "side=3")
    done = fit(*arguments, "--epochs", "1", "--seed", "5", "--checkpoint-dir", "run")
    assert done.exit_code == 0, done.output
    started = events()[0]["config"]
    assert (started["train_samples"], started["valid_samples"]) == (6, 2)
    again = called("evaluate", *arguments, "--checkpoint", "run")
    assert again.exit_code == 0, again.output
    assert again.output.splitlines()[-1] == statistics(done.output)[-1]
    out = called("predict", *arguments, "--checkpoint", "run", "--out", "preds.npy")
    assert out.exit_code == 0, out.output
    assert np.load("preds.npy").shape == (2, 2)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("images.py:make",), "images.py:make needs data: give --data, a folder of images for instance."),
        (("images.py:plain", "--data", "shots"), "has no parameter data, which --data shots is for"),
        (("images.py:learner", "--data", "shots"), "is a learner, and takes no parameters; got --data"),
        (("images.py:of_path", "--data", "shots", "--set", "data=x"), "its parameter data is set, and --data shots is"),
        (("images.py:make", "--data", "shots", "--set", "data=x"), "parameters.data: there is no such option"),
        (("images.py:make", "--data", "nowhere"), "'nowhere' is neither 'digits' nor 'fashion-mnist' nor a folder of"),
        (("images.py:make", "--data-dir", "shots"), "--data-dir is for nntrain fit without a target"),
        (
            ("--data", "shots"),
            "The images of shots have several sizes, and the network of nntrain fit takes one. Resize",
        ),
    ],
)
def test_data_that_are_not_to_be_used_are_told(arguments: tuple[str, ...], said: str) -> None:
    refused = fit(*arguments, "--epochs", "1")
    assert refused.exit_code == 2
    assert said in " ".join(refused.output.split())


def test_the_folder_itself_for_a_function_that_reads_it(images: Path) -> None:
    done = fit("images.py:of_path", "--data", "shots", "--epochs", "1")
    assert done.exit_code == 0, done.output
    assert "path PosixPath('shots')" in done.stderr


def test_the_classifier_of_a_folder(images: Path) -> None:
    for file in images.glob("*/*.png"):
        Image.open(file).resize((6, 5)).save(file)
    done = fit("--data", "shots", "--epochs", "2", "--hidden", "3")
    assert done.exit_code == 0, done.output
    assert "learns from the split 'train', is evaluated on 'valid'" in done.output
    assert events()[0]["config"]["parameters"] == (3 * 5 * 6 + 1) * 3 + (3 + 1) * 2
