"""The benchmark of the data runs, and its table is of what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.data import Seconds, compared, main


def test_the_table_gives_medians_of_ratios_in_the_same_round() -> None:
    rounds = [(Seconds(0, epoch, epoch), Seconds(1, 1, 0.5)) for epoch in (4.0, 10.0, 5.0)]
    _, _, decoding, epoch, run = (
        [word.strip() for word in line.split("|")[1:-1]] for line in compared(rounds).splitlines()
    )
    assert decoding == ["decoding", "0.000", "1.000", "", "", ""]
    assert [float(word) for word in epoch[1:]] == [5, 0.5, 10, 8, 20]
    assert [float(word) for word in run[1:]] == [25, 4, 6.2, 5, 12.5]


def test_without_the_files_it_says_so_and_takes_the_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data-dir", str(tmp_path / "nowhere"), "--rounds", "1", "--threads", "1"])
    first, _, second, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'nowhere'} is not there: the embedded digits")
    assert second.startswith("digits as PNG, MLP with 50 hidden units, batches of 1024, 1 rounds")
    assert len(rows) == 5
