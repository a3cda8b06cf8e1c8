"""`nntrain fit --parallel` under a real torchrun: one console, a log a rank, checkpoints that all commands take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from nntrain import cli
from nntrain.checkpoint import inspect
from nntrain.cli import nntrain
from nntrain.log import read

TOLERANCE = 1e-6
"""Of docs/how-to/train-on-several-processes.md."""
TARGET = """
import torch

from nntrain import DataLoaders, Learner, accuracy


def make(lr: float = 0.1) -> Learner:
    print("is made")
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(37, 4, generator=generator), torch.randint(0, 3, (37,), generator=generator)
    batches = [*zip(torch.split(x, 8), torch.split(y, 8), strict=True)]
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    dls = DataLoaders(batches, batches)
    return Learner(model, dls, torch.nn.functional.cross_entropy, accuracy, torch.optim.SGD, lr)
"""


def fit(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `torchrun --standalone --nproc-per-node 2 -m nntrain fit train.py:make`, as the docs have it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*torchrun, "-m", "nntrain", "fit", "train.py:make", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def called(*words: str) -> str:
    done = CliRunner().invoke(nntrain, words)
    assert done.exit_code == 0, done.output
    return done.output


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: one for name, one in load_file(path).items() if name.startswith("params/")}


@pytest.mark.sweep
def test_shards_go_on_from_what_those_saved_that_share_but_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TARGET)
    every = "--log-every", "all", "--save-every", "3"
    begun = fit("--parallel", "data", "--epochs", "1", "--checkpoint-dir", "run", *every)
    assert begun.returncode == 0, begun.stderr
    saved = "run/checkpoint-000002-step-00000005.safetensors"
    assert [line[:16] for line in begun.stdout.splitlines()[:2]] == ["epoch=00 | train", "epoch=00 | eval "]
    assert begun.stdout.splitlines()[2:] == [f"checkpoint: {saved}", "log: run/log.jsonl"]
    assert begun.stderr.splitlines().count("is made") == 1
    ended = fit("--parallel", "sharded", "--epochs", "2", "--checkpoint-dir", "run", "--resume", *every)
    assert ended.returncode == 0, ended.stderr
    first, *stats, at, _ = ended.stdout.splitlines()
    assert first.startswith(f"going on from {saved}: ")
    assert [line[:8] for line in stats] == ["epoch=01"] * 2
    assert ended.stderr.splitlines().count("is made") == 1
    assert {line.rank for line in read(Path("run"))} == {0, 1}

    newest = at.removeprefix("checkpoint: ")
    assert inspect(newest).progress.step == 10
    called("fit", "train.py:make", "--epochs", "2", "--checkpoint-dir", "alone", *every)
    expected = weights(next(Path("alone").glob("*-step-00000010.safetensors")))
    found = weights(Path(newest))
    assert (
        found.keys() == expected.keys() == {f"params/{layer}.{name}" for layer in "02" for name in ("bias", "weight")}
    )
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=0.0, atol=TOLERANCE)
    called("evaluate", "train.py:make", "--checkpoint", newest)
    called("checkpoint", "verify", newest)
    assert json.loads(called("checkpoint", "show", "--json", newest))


@pytest.mark.parametrize(("rank", "waited", "first"), [("0", [], "Usage: "), ("1", [cli._SECONDS], "rank 1:")])
def test_rank_0_is_the_first_to_say_what_is_wrong_with_the_usage(
    rank: str,
    waited: list[float],
    first: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("sys.argv", ["nntrain", "fit", "--nothing"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert slept == waited
    said = capsys.readouterr().err
    assert said.startswith(first)
    assert said.count("No such option") == 1
