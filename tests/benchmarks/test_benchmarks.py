"""The benchmarks run, and what they compare does the same work. How long anything takes is no test's business."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.benchmarks import __main__, checkpoint, footprint, imports, loop, memory, profile, resume, rules, toolkit
from tests.benchmarks.growth import growth
from tests.benchmarks.own import OWN
from tests.benchmarks.peers import PEERS
from tests.benchmarks.rounds import interleaved
from tests.benchmarks.setting import Batches, Loop, ModelName, Prepared, Reported, batches_of, model_of

LOOPS: Mapping[str, Loop] = {**OWN, **{name: peer.loop for name, peer in PEERS.items()}}
SMOOTHED = {"fastai"}
"""Those whose training loss is no mean over the epoch."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Give no test more than the benchmarks take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows_of(printed: str) -> dict[str, list[str]]:
    """Read the rows of the tables that were printed: the first cell, and the others."""
    lines = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("| ")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def assert_ratios(cells: list[str]) -> None:
    for cell in cells:
        value = float(cell.partition(" ")[0].replace(",", ""))
        assert math.isfinite(value)
        assert value > 0


def result(name: str, model: ModelName) -> tuple[Reported, Mapping[str, Tensor]]:
    """Run a loop for one epoch. Gives its report, and the weights that it began with."""
    torch.manual_seed(0)
    made = model_of(model)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    prepared = LOOPS[name](made, batches_of(12, 16), batches_of(3, 16))
    prepared.fit()
    return prepared.report(), before


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("name", LOOPS)
def test_every_loop_does_the_same_work(name: str, model: ModelName) -> None:
    if name in PEERS and not PEERS[name].installed:
        pytest.skip(f"{name} is not installed (the dependency group `peers`)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, before = result(name, model)
    expected, _ = result("hand-written", model)
    assert found.weights.keys() == expected.weights.keys()
    for key, value in expected.weights.items():
        assert torch.allclose(found.weights[key], value, rtol=1e-5, atol=1e-6), key
    assert any(not torch.equal(value, before[key]) for key, value in found.weights.items())
    assert found.train_loss == pytest.approx(expected.train_loss, rel=0.05 if name in SMOOTHED else 1e-4)
    if found.train_accuracy is not None:
        assert found.train_accuracy == pytest.approx(expected.train_accuracy, abs=1e-5)
    assert found.valid_loss == pytest.approx(expected.valid_loss, rel=1e-4)
    assert found.valid_accuracy == pytest.approx(expected.valid_accuracy, abs=1e-5)


@pytest.mark.parametrize("name", [*toolkit.OWN, *toolkit.EQUIPPED])
def test_every_loop_with_the_toolkit_does_the_same_work(name: str) -> None:
    if name in toolkit.EQUIPPED and not toolkit.EQUIPPED[name].installed:
        pytest.skip(f"{name} is not installed (the dependency group `peers`)")
    batches = batches_of(24, 16), batches_of(3, 16)
    results = []
    other = toolkit.EQUIPPED[name].loop if name in toolkit.EQUIPPED else toolkit.OWN[name]
    for loop_of in (toolkit.hand_written, other):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepared = loop_of(model_of("mlp"), *batches)
            prepared.fit()
        results.append(prepared.report())
    expected, found = results
    torch.manual_seed(0)
    before = model_of("mlp").state_dict()
    assert found.weights.keys() == expected.weights.keys() == {*before, *(f"ema.{key}" for key in before)}
    for key, value in expected.weights.items():
        assert torch.allclose(found.weights[key], value, rtol=1e-4, atol=1e-5), key
        assert not torch.allclose(value, before[key.removeprefix("ema.")], atol=1e-4), key
    assert not torch.allclose(expected.weights["0.weight"], expected.weights["ema.0.weight"], atol=1e-5)
    assert found[1:] == pytest.approx(expected[1:], rel=1e-4)


def test_toolkit(capsys: pytest.CaptureFixture[str]) -> None:
    toolkit.main(["--times", "2", "--rounds", "1", "--batches", "12", "--batch-sizes", "4", "--no-peers"])
    rows = rows_of(capsys.readouterr().out)
    assert rows.pop("loop") == ["batch", "best", "median", "µs more a batch"]
    assert set(rows) == set(toolkit.OWN)
    for cells in rows.values():
        assert_ratios(cells[:3])


@pytest.mark.parametrize("case", rules.CASES, ids=str)
def test_both_loops_with_rules_end_alike(case: rules.Rules) -> None:
    model, train = model_of("mlp"), batches_of(12, 16)
    expected, found = (make(model, train, case, rules.Stamps())() for make in (rules.hand_written, rules.by_nntrain))
    for name, value in expected.weights.items():
        assert torch.equal(found.weights[name], value), name
        assert not torch.equal(value, dict(model.named_parameters())[name]), name
    assert found[1:] == pytest.approx(expected[1:])


def test_rules(capsys: pytest.CaptureFixture[str]) -> None:
    rules.main(["--times", "2", "--rounds", "1", "--batches", "12", "--batch-sizes", "4"])
    rows = rows_of(capsys.readouterr().out)
    assert rows.pop("beside the loop by hand") == ["batch", "ratio", "best", "µs by hand", "µs more a batch"]
    assert set(rows) == {*map(str, rules.CASES)}
    for cells in rows.values():
        assert_ratios(cells[1:3])
    with pytest.raises(SystemExit):
        rules.main(["--batches", "13"])
    assert "--batches is 13; expected a multiple of 4" in capsys.readouterr().err


@pytest.mark.sweep
def test_loop(capsys: pytest.CaptureFixture[str]) -> None:
    loop.main(["--rounds", "1", "--batches", "6", "--batch-size", "4", "--no-peers"])
    printed = capsys.readouterr().out
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC; .+ cores; 1 thread; nntrain .+, torch .+, Python ", printed)
    rows = rows_of(printed)
    assert set(OWN) < set(rows)
    for name in OWN:
        assert_ratios(rows[name][:3])


def test_loop_names_the_peers_that_are_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(loop), "PEERS", {"skorch": PEERS["skorch"]._replace(package="not_there")})
    loop.main(["--rounds", "1", "--batches", "1", "--batch-size", "4"])
    assert "not installed: skorch" in capsys.readouterr().out


def test_loop_goes_on_without_a_peer_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: nn.Module, train: Batches, valid: Batches) -> Prepared:
        raise OSError("no such luck\nat all")

    peer = PEERS["skorch"]._replace(package="torch", distribution="torch", loop=broken)
    monkeypatch.setitem(vars(loop), "PEERS", {"skorch": peer})
    loop.main(["--rounds", "1", "--batches", "1", "--batch-size", "4", "--only", "nntrain", "skorch"])
    printed = capsys.readouterr().out
    assert printed.endswith("skorch failed: OSError: no such luck\n")
    assert "nntrain" in rows_of(printed)


def test_growth() -> None:
    rows = rows_of(growth(1, 4, 2, counts=(2, 5), depths=(2, 3), subscribers=(0, 2)))
    assert len(rows) == 7
    for cells in list(rows.values())[1:]:
        assert_ratios(cells[1:])


def test_profile(capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["--batches", "20", "--epochs", "10", "--subscribers", "1"])
    rows = rows_of(capsys.readouterr().out)
    assert rows.pop("part of a batch") == ["µs", "share"]
    assert {"torch: model and loss", "torch: backward"} < set(rows)
    assert sum(float(share.strip("%")) for _, share in rows.values()) == pytest.approx(100, abs=1)


def test_resume(capsys: pytest.CaptureFixture[str]) -> None:
    resume.main(["--rounds", "1", "--positions", "3"])
    rows = rows_of(capsys.readouterr().out)
    assert rows.pop("data") == ["batch 0", "batch 3"]
    assert set(rows) == set(resume.kinds(1))
    for cells in rows.values():
        assert_ratios(cells)


def test_import(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With lighter modules in the places of torch and nntrain, whose import takes seconds."""
    light = {"python alone": "pass", "import torch": "import json", "from nntrain import Learner": "import numpy"}
    monkeypatch.setattr(imports, "STATEMENTS", light)
    imports.main(["--rounds", "1"])
    rows = rows_of(capsys.readouterr().out)
    for name in light:
        assert_ratios(rows[name][:3])
    assert rows["imported by"] == ["import torch", "from nntrain import Learner"]
    assert rows["numpy"] == ["no", "yes"]
    assert rows["PIL"] == ["no", "no"]


@pytest.mark.sweep
def test_memory(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def here(kind: str, *arguments: object) -> dict[str, float]:
        """Do in this process what takes a fresh one: the peak is then the tests' own, and may be that of now."""
        found = footprint.MEASURES[kind](*map(str, arguments))
        return {name: value + 1 if name == "peak" else value for name, value in found.items()}

    monkeypatch.setattr(memory, "footprint", here)
    memory.main(["--rounds", "1", "--batches", "1", "--models", "mlp", "--steps", "10", "--fits", "2"])
    rows = rows_of(capsys.readouterr().out)
    for name, cells in rows.items():
        if name.startswith("mlp, "):
            assert_ratios(cells[:4])
        elif name != "run":
            assert_ratios(cells)
    assert {f"mlp, Adam: {name}" for name in memory.PEAK_LOOPS} < set(rows)
    assert {f"2 fits: {name}" for name in memory.FIT_LOOPS} < set(rows)


@pytest.mark.sweep
def test_memory_in_a_process_of_its_own() -> None:
    found = memory.footprint("peak", "nntrain", "mlp", "SGD", 1)
    assert 0 < found["before"] <= found["peak"]


def test_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checkpoint.main(["--rounds", "1", "--megabytes", "1", "--folder", str(tmp_path)])
    said = capsys.readouterr().out
    for name in ("nntrain.checkpoint.save", "torch.distributed.checkpoint.save", "one copy of the tensors"):
        assert f"| {name}" in said
    assert list(tmp_path.iterdir()) == []


def test_the_names_lead_to_the_modules(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(__main__.BENCHMARKS) == [
        "loop",
        "toolkit",
        "rules",
        "parallel",
        "scale",
        "profile",
        "data",
        "resume",
        "import",
        "memory",
        "log",
        "checkpoint",
    ]
    __main__.main(["log", "--rounds", "1", "--batches", "60", "--batch-size", "4"])
    assert "| every='all' |" in capsys.readouterr().out
    __main__.main(["loop", "--rounds", "1", "--batches", "1", "--batch-size", "4", "--only", "nntrain"])
    assert "| nntrain" in capsys.readouterr().out


def test_rounds_turn_the_order_and_divide_within_a_round() -> None:
    order: list[str] = []

    def taking(name: str, seconds: list[float]) -> float:
        order.append(name)
        return seconds[order.count(name) - 1]

    found = interleaved({"a": lambda: taking("a", [1.0, 2.0]), "b": lambda: taking("b", [3.0, 4.0])}, 2)
    assert order == ["a", "b", "b", "a"]
    assert found.ratio("b", "a") == (2.5, 2.0, 3.0)
    assert found.microseconds("b", "a") == 2e6
