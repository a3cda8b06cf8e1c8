"""The scripts under `docs/examples` learn what they are there for: some of their work, and how far it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import torch

from tests.docs.scripts import script

REAL: Final = Path("/usr/share/datasets/fashion-mnist")
pytestmark = pytest.mark.sweep


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}: install the package dataset-fashion-mnist")
def test_clothes_are_told_apart_after_one_epoch() -> None:
    torch.manual_seed(0)
    narrow = script("fashion_mnist_cnn").learner(1, width=16)
    assert narrow.fit(1).state.history[-1].metrics["accuracy"] > 0.83


def test_a_training_that_is_killed_ends_as_one_that_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    script("resume_after_a_kill").main(3, kills=1)
    assert "1 kills, and the state at the end is the same, bit for bit" in capsys.readouterr().out


def test_the_small_jobs_learn_what_they_say() -> None:
    torch.manual_seed(0)
    assert script("tabular_regression").learner().fit(40).state.history[-1].metrics["r2"] > 0.9
    torch.manual_seed(0)
    assert script("image_folder").learner(12).fit(12).state.history[-1].metrics["balanced"] > 0.8
    torch.manual_seed(0)
    assert script("digits").learner().fit(10).state.history[-1].metrics["accuracy"] > 0.9


def test_text_and_digits_are_learned() -> None:
    torch.manual_seed(0)
    text = script("language_model").learner(1).fit(1).state
    assert text.history[-1].metrics["bits"] < 3.8  # 4.7 are those of the bytes by themselves
    digits = script("digits_vae").learner(20).fit(20).state
    assert digits.history[-1].loss < 26  # 27.4 where the code says nothing
