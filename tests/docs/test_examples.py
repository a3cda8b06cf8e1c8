"""The scripts under `docs/examples`: each runs by itself and on the command line, here in the small."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from nntrain.cli import nntrain
from tests.docs.scripts import FOLDER, script

SCRIPTS: Final = sorted(path.stem for path in FOLDER.glob("*.py"))
PAGE: Final = (FOLDER / "README.md").read_text()
LONG: Final = {"fashion_mnist_cnn", "language_model"}
"""Scripts that are run in the sweep."""


def clothes(folder: Path) -> Path:
    """Write Fashion-MNIST's four files, of a few images of noise."""
    rng = np.random.default_rng(0)
    for stem, count in (("train", 40), ("t10k", 10)):
        pixels, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
        for what, array in (("images", pixels), ("labels", labels)):
            header = struct.pack(f">{1 + array.ndim}I", 0x800 | array.ndim, *array.shape)
            (folder / f"{stem}-{what}-idx{array.ndim}-ubyte").write_bytes(header + array.tobytes())
    return folder


def fashion_mnist_cnn(folder: Path) -> None:
    script("fashion_mnist_cnn").main(3, clothes(folder))


def language_model(_: Path) -> None:
    script("language_model").main(1, pieces=40, length=5)


def digits_vae(folder: Path) -> None:
    script("digits_vae").main(1, folder / "vae.png")
    assert Image.open(folder / "vae.png").size == (20 * 9 + 1, 5 * 9 + 1)


def digits_gan(folder: Path) -> None:
    script("digits_gan").main(1, folder / "gan.png")
    assert Image.open(folder / "gan.png").size == (20 * 9 + 1, 5 * 9 + 1)


def digits(_: Path) -> None:
    script("digits").main(1)


def image_folder(_: Path) -> None:
    script("image_folder").main(1, count=80)


def tabular_regression(_: Path) -> None:
    script("tabular_regression").main(1, rows=400)


def fine_tuning(_: Path) -> None:
    script("fine_tuning").main(1, samples=16, before=1)


def resume_after_a_kill(folder: Path) -> None:
    whole = script("resume_after_a_kill")
    whole.learner(folder / "run").fit(1)
    assert whole.train(folder / "run", 1).progress.at == "finished"


def two_processes(folder: Path) -> None:
    script("two_processes").main(1, folder / "run", 16)


SMALL: Final[dict[str, tuple[Callable[[Path], None], tuple[str, ...]]]] = {
    "digits_gan": (digits_gan, ("width=16",)),
    "digits_vae": (digits_vae, ("width=16",)),
    "digits": (digits, ("width=16",)),
    "fine_tuning": (fine_tuning, ("width=16", "samples=16", "before=1")),
    "image_folder": (image_folder, ("width=4", "count=80")),
    "resume_after_a_kill": (resume_after_a_kill, ("width=16",)),
    "tabular_regression": (tabular_regression, ("width=16", "rows=400")),
    "fashion_mnist_cnn": (fashion_mnist_cnn, ("width=4", "batch_size=16", "data_dir=.")),
    "language_model": (language_model, ("width=16", "layers=1", "pieces=40")),
    "two_processes": (two_processes, ("width=16",)),
}
"""How each is run in the small, and what is set for that on the command line."""


def test_each_script_is_run_and_is_on_the_page() -> None:
    assert sorted(SMALL) == SCRIPTS
    folders = [one.name for one in FOLDER.iterdir() if (one / "README.md").is_file()]
    for name in [*(f"{one}.py" for one in SCRIPTS), *folders]:
        assert f"({name}" in PAGE, name


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_how_it_is_run(name: str) -> None:
    text = script(name).__doc__ or ""
    assert f"    uv run python docs/examples/{name}.py\n" in text
    found = re.search(rf"    uv run nntrain fit docs/examples/{name}.py:learner --epochs (\d+)\n", text)
    assert found is not None
    assert int(found[1]) == script(name).EPOCHS


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.sweep) if one in LONG else one for one in SCRIPTS],
)
def test_a_script_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_rng_state()
    SMALL[name][0](tmp_path)
    torch.set_rng_state(before)
    assert "epoch=00 | train | loss=" in capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_s_learner_is_fitted_on_the_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clothes(tmp_path))
    sets = [word for one in SMALL[name][1] for word in ("--set", one)]
    done = CliRunner().invoke(nntrain, ["fit", f"{FOLDER / name}.py:learner", "--epochs", "1", *sets])
    assert done.exit_code == 0, done.output
    assert "epoch=00 | train | loss=" in done.output


@pytest.mark.sweep
def test_two_processes_train_together(tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(FOLDER / "two_processes.py"), str(tmp_path / "run"), "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=150, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes, 364 samples, accuracy=") == 1


@pytest.mark.parametrize("picture", sorted(FOLDER.glob("*.png")), ids=lambda one: one.stem)
def test_a_picture_is_small_and_of_a_script(picture: Path) -> None:
    assert picture.stat().st_size < 60_000
    assert picture.stem in SCRIPTS
    assert f"({picture.name})" in PAGE
