"""`nntrain checkpoint`: show, verify, diff and latest, with an exit code for each kind of bad file."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import Checkpoint, DataLoaders, EarlyStopping, Learner, TrainState, accuracy, fit_step
from nntrain.checkpoint import diff, inspect, save
from nntrain.cli import nntrain
from nntrain.subscribers.protocol import Subscriber

NAME: Final = "it.safetensors"


def called(*arguments: str) -> Result:
    return CliRunner().invoke(nntrain, ["checkpoint", *arguments])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def learner_of(
    subs: Sequence[Subscriber[Any]] = (), *sinks: Any, lr: float = 0.01, optimizer: Any = torch.optim.Adam
) -> Learner[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 4, generator=source), torch.randint(0, 3, (8,), generator=source)) for _ in range(4)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
    return Learner(model, DataLoaders(batches, batches), cross_entropy, accuracy, optimizer, lr, subs, sinks=sinks)


def trained(epochs: int = 1, **changes: Any) -> TrainState:
    return learner_of(**changes).fit(epochs, seed=3, print_stats=False).state


def damaged(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_show_tells_what_it_has() -> None:
    sink = Checkpoint("run", every_epochs=1)
    learner_of([EarlyStopping(patience=2)], sink).fit(2, seed=3, print_stats=False)
    assert sink.newest is not None
    done = called("show", str(sink.newest))
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    seen = inspect(sink.newest)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{sink.newest}: nntrain.checkpoint/1, {seen.bytes:,} bytes"
    assert f"digest     {seen.digest}" in lines
    assert "place      finished, after 2 epochs of 2; step 8" in lines
    assert "key        seed 3" in lines
    assert "optimizer  torch.optim.adam.Adam, its learning rate as it is" in lines
    assert "run        lr: 0.01" in lines
    assert any(line.startswith("history    epoch=01 | eval  | loss=") for line in lines)
    assert any(line.startswith("slot       nntrain.early_stopping") and "best=" in line for line in lines)
    assert f"tensors    8, {sum(one.bytes for one in seen.tensors.values())} bytes" in lines
    (weight,) = (line.split() for line in lines if line.startswith("  params/weight"))
    assert weight == ["params/weight", "float32", "[3,", "4]", seen.tensors["params/weight"].digest[:12]]


def test_show_as_json_is_what_inspect_gives() -> None:
    learner = learner_of(lr=3e38, optimizer=torch.optim.SGD)
    save(learner.fit(3, print_stats=False).state, NAME)
    done = called("show", "--json", NAME)
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    seen = inspect(NAME)
    assert told["digest"] == seen.digest
    assert told["progress"]["step"] == 12
    assert set(told["tensors"]) == set(seen.tensors)
    assert told["history"][-1]["loss"] is None
    assert told["nonfinite"]["history.5.loss"] == "nan"


def test_show_in_the_middle_of_an_epoch_with_another_rate() -> None:
    learner = learner_of()
    state = learner.init(seed=5, epochs=7).scale_lr(0.25)
    save(state, NAME)
    out = called("show", NAME).stdout
    assert "place      epoch 0 of 7, train, batch 0 (before_fit); step 0" in out
    assert "its learning rate times 0.25" in out


def test_verify_goes_on_to_the_last_and_ends_with_the_first_problem() -> None:
    for name in ("a.safetensors", "b.safetensors", "c.safetensors"):
        save(trained(), name)
    size = Path("b.safetensors").stat().st_size
    damaged(Path("b.safetensors"), size - 1)
    done = called("verify", "a.safetensors", "b.safetensors", "none", "c.safetensors")
    assert done.exit_code == 5
    assert done.stdout.splitlines() == [
        f"{name}.safetensors: ok, 8 tensors, {Path(f'{name}.safetensors').stat().st_size:,} bytes" for name in "ac"
    ]
    first, second = done.stderr.splitlines()
    assert first.startswith("Error: b.safetensors: the tensor ")
    assert second.startswith("Error: none: it cannot be opened (No such file")
    assert called("verify", "a.safetensors").exit_code == 0


def test_diff_ends_with_0_only_where_all_is_equal() -> None:
    one, again, other = trained(), trained(), trained(2)
    for name, state in (("one", one), ("again", again), ("other", other)):
        save(state, name)
    done = called("diff", "one", "again")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "8 tensors of equal bits\n", "")
    done = called("diff", "one", "other")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        *str(one.diff(other)).splitlines()[:-1],
        "0 tensors of equal bits",
    ]
    assert "progress/step: 4 and 8" in done.stdout
    assert "params/bias: 3 of 3 elements differ, by at most 0.0" in done.stdout
    assert diff("one", "other") == one.diff(other)
    # One bit of one element, and nothing else.
    learner = learner_of()
    straight = learner.init()
    with straight.borrow() as tensors:
        weight = tensors["weight"].clone()
    weight.view(torch.int32)[1, 2] ^= 1
    module = learner_of().model
    assert isinstance(module, nn.Linear)
    with torch.no_grad():
        module.weight.copy_(weight)
    save(straight, "one")
    save(learner.replace(model=module).init(), "other")
    done = called("diff", "one", "other")
    assert done.exit_code == 1
    said, equal = done.stdout.splitlines()
    assert said.startswith("params/weight: 1 of 12 elements differ, by at most ")
    assert equal == "1 tensor of equal bits"


def test_diff_of_another_optimizer_names_what_is_in_one_only() -> None:
    save(trained(), "adam")
    save(trained(optimizer=torch.optim.SGD), "sgd")
    done = called("diff", "adam", "sgd")
    assert done.exit_code == 1
    assert "kind: " in done.stdout
    assert "optim/weight/exp_avg: only in the first, [3, 4] float32" in done.stdout


def test_a_file_that_cannot_be_compared_is_no_difference() -> None:
    save(trained(), "one")
    save(trained(), "other")
    damaged(Path("other"), Path("other").stat().st_size - 1)
    assert called("diff", "one", "other").exit_code == 5
    assert called("diff", "other", "one").exit_code == 5
    assert called("diff", "one", "none").exit_code == 3
    assert called("diff", "one").exit_code == 2


def test_latest_prints_the_newest_whole_one_and_nothing_else() -> None:
    sink = Checkpoint("run", every_epochs=1, keep_last=9, background=False)
    learner_of((), sink).fit(3, print_stats=False)
    *_, before, last = sorted(Path("run").iterdir())
    done = called("latest", "run")
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{last}\n", "")
    damaged(last, last.stat().st_size - 1)
    os.utime(last, (2e9, 2e9))  # times are nothing to go by
    done = called("latest", "run")
    assert (done.exit_code, done.stdout) == (0, f"{before}\n")
    assert done.stderr.startswith(f"skipped {last}: the tensor ")


def test_latest_of_a_folder_that_is_not_there() -> None:
    done = called("latest", "none")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", "Error: none does not exist.\n")


@pytest.mark.parametrize("what", ["empty", "broken"])
def test_latest_of_a_folder_without_one(what: str) -> None:
    Path(what).mkdir()
    if what == "broken":
        Path(what, NAME).write_bytes(b"{}")
    done = called("latest", what)
    assert done.exit_code == 4
    assert done.stdout == ""
    assert f"Error: {what} has no whole checkpoint." in done.stderr


def test_latest_of_a_file_is_bad_usage() -> None:
    Path("file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "nntrain", "checkpoint", "latest", "file"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "Error: file is a file; expected the folder that the checkpoints are in.\n"


def foreign() -> bytes:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


def newer() -> bytes:
    save(trained(), NAME)
    return Path(NAME).read_bytes().replace(b"nntrain.checkpoint/1", b"nntrain.checkpoint/2")


BAD: Final = {
    "missing": (None, 3, "it cannot be opened (No such file or directory)"),
    "empty": (lambda: b"", 5, "it is empty"),
    "short": (lambda: b"1234", 6, "it is no safetensors file: it has 4 bytes"),
    "foreign": (foreign, 6, "it is a safetensors file of another maker"),
    "text": (
        lambda: b"Hello, this is no checkpoint at all.",
        6,
        "it is no safetensors file; it begins with b'Hello, t'",
    ),
    "torch": (lambda: b"PK\x03\x04" + bytes(100), 6, "it is no safetensors file, but may be one of torch.save's"),
    "cut": (lambda: (900).to_bytes(8, "little") + b'{"__metadata__":', 5, "its header is said to have 900 bytes"),
    "newer": (newer, 7, "it has the format nntrain.checkpoint/2; this nntrain reads up to 1"),
}


@pytest.mark.parametrize("command", ["show", "verify"])
@pytest.mark.parametrize(("content", "code", "said"), BAD.values(), ids=BAD)
def test_each_kind_of_bad_file_has_an_exit_code(command: str, content: Any, code: int, said: str) -> None:
    if content is not None:
        Path("bad").write_bytes(content())
    done = called(command, "bad")
    assert done.exit_code == code
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: bad: {said}")


@pytest.mark.parametrize("command", ["show", "verify"])
def test_what_is_no_file_is_not_waited_for(command: str) -> None:
    os.mkfifo("pipe")
    for name, what in (("pipe", "a pipe"), ("/dev/zero", "a pipe"), (".", "a folder")):
        done = called(command, name)
        assert done.exit_code == 3
        assert f"{name}: it is {what}" in done.stderr


def test_nothing_in_a_file_or_its_name_is_obeyed() -> None:
    model = nn.Sequential()
    model.add_module("\x1b[31mred\u202e\n", nn.Linear(4, 3))
    state = learner_of().replace(model=model).init()
    name = "\x1b[2Jname\n.safetensors"
    save(state, name)
    for command in (["show", name], ["verify", name], ["diff", name, name]):
        done = called(*command)
        assert done.exit_code == 0, done.output
        assert not set("\x1b\u202e") & set(done.output)
    damaged(Path(name), Path(name).stat().st_size - 1)
    done = called("verify", name)
    assert done.exit_code == 5
    assert len(done.output.splitlines()) == 1
    assert not set("\x1b\u202e") & set(done.output)


def test_a_saved_state_is_gone_on_from() -> None:
    """What the file says is what a learner loads: the commands need none."""
    learner = learner_of()
    state = fit_step(learner, learner.init(epochs=2)).state
    save(state, NAME)
    assert called("verify", NAME).exit_code == 0
    assert not diff(NAME, NAME)
