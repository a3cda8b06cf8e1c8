"""What cannot be meant of several processes is a clear error on each of them, in time; the world is told as it is."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined] # torch exports it, unsaid

from nntrain import Engine, Learner, Subscriber, TrainState, lr_find
from nntrain.cli import nntrain
from nntrain.data import DataLoaders
from nntrain.errors import ConfigError, NNTrainError, RankError
from nntrain.machine.steps import advance
from nntrain.ranks import meeting, world
from nntrain.ranks.options import DataParallel
from nntrain.ranks.world import launched_world, local_device
from tests.ranks.launching import CONTEXT, LaunchError, free_port, launch

Batch = tuple[Tensor, Tensor]


def batches(rows: int = 8, count: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(rows, 6, generator=generator), torch.randint(0, 3, (rows,), generator=generator))
        for _ in range(count)
    ]


def learner_of(data: Any = None, optim: Any = torch.optim.SGD, parallel: bool = True) -> Learner[Any]:
    torch.manual_seed(3)
    data = batches() if data is None else data
    engine = Engine(parallel=DataParallel(timeout=30) if parallel else None)
    return Learner(nn.Linear(6, 3), DataLoaders(data, data), nn.functional.cross_entropy, {}, optim, 0.1, engine=engine)


def said_of(call: Any) -> str:
    try:
        call()
    except NNTrainError as error:
        return f"{type(error).__name__} {error}"
    return "nothing"


def refusals() -> dict[str, Any]:
    """Return what each rank says of each bad input, in one world."""
    early = learner_of()
    told: dict[str, Any] = {"fewer rows than ranks": fitted(learner_of([*batches(1), *batches(4)]))}
    told["no rows"] = said_of(lambda: learner_of([{"x": 3.0}]).fit(1, print_stats=False))
    told["uneven"] = said_of(
        lambda: learner_of([(torch.randn(8, 6), torch.zeros(5, dtype=torch.long))]).fit(1, print_stats=False)
    )
    told["lbfgs"] = said_of(learner_of(optim=torch.optim.LBFGS).init)
    told["rates"] = lr_find(early, early.init(), steps=12, start=1e-3).losses
    return told


def fitted(learner: Learner[Any]) -> Any:
    state = learner.fit(1, print_stats=False).state
    return [(one.loss, one.samples) for one in state.history], [one.tolist() for one in state.params.values()]


@pytest.mark.sweep
def test_bad_input_is_an_error_on_every_rank() -> None:
    first, second = launch(refusals, 2)
    assert first == second
    alone = fitted(learner_of([*batches(1), *batches(4)], parallel=False))
    assert [samples for _, samples in first["fewer rows than ranks"][0]] == [samples for _, samples in alone[0]]
    assert [loss for loss, _ in first["fewer rows than ranks"][0]] == pytest.approx([loss for loss, _ in alone[0]])
    assert "no rows to divide over 2 ranks" in first["no rows"]
    assert "which of them go to which of 2 ranks" in first["uneven"].replace("\n", " ")
    assert "LBFGS evaluates the model as often as its loss asks for" in first["lbfgs"]
    one = learner_of(parallel=False)
    assert first["rates"] == pytest.approx(lr_find(one, one.init(), steps=12, start=1e-3).losses, rel=1e-4)


def early() -> str:
    described = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    learner = learner_of()
    state = learner.init(epochs=1)
    os.environ.update(described)
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    return said_of(lambda: advance(learner, state))


@pytest.mark.sweep
def test_a_learner_made_before_the_group_says_so_when_it_steps() -> None:
    for said in launch(early, 2):
        assert said.startswith("ConfigError The learner's first state was made in a world of 1")


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"WORLD_SIZE": "2"}, ("WORLD_SIZE='2'", "RANK, MASTER_ADDR, MASTER_PORT")),
        ({"RANK": "0"}, ("RANK='0'", "WORLD_SIZE")),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here"}, ("MASTER_PORT",)),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}, ("RANK='2'",)),
        ({"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}, ("RANK='x'",)),
    ],
)
def test_half_a_description_is_refused(environment: dict[str, str], names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        launched_world(environment)
    assert all(name in str(refused.value) for name in names)


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}, {"MASTER_ADDR": "here", "MASTER_PORT": "1"}])
def test_a_process_by_itself_is_one(environment: dict[str, str]) -> None:
    assert launched_world(environment).single


def test_a_missing_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "launched_world", lambda: world.World(0, 2))
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with pytest.raises(ConfigError, match=r"needs torch\.distributed with nccl"):
        world.join_world(torch.device("cuda", 0), timedelta(seconds=1))


def test_a_device_of_ones_own_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"process 2 of this machine .* torch sees 2"):
        local_device()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # the launcher shows each process its own
    assert local_device() == torch.device("cuda", 0)


def test_a_rank_that_never_starts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_AT_LEAST", 0.2)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(RankError, match="Rank 1, 2 did not come to the start") as told:
        meeting.meet(0, 3, 0.1)
    assert told.value.rank == 1


@pytest.mark.sweep
def test_what_an_earlier_start_left_in_the_launchers_store_misleads_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 of the start before had said all its words: rank 0 waits for the one of now."""
    port = free_port()
    store: Any = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    for key, value in {"hello/1": "old", "welcome/1": "old name", "here/1": "name"}.items():
        store.set(f"nntrain/{key}", value)
    launcher = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    ours, theirs = CONTEXT.Pipe()
    other = CONTEXT.Process(target=_meets, args=(theirs, launcher), daemon=True)
    other.start()  # before this process has the launcher's environment, which a server that starts now would keep
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    try:
        shared = meeting.meet(0, 2, 60)
        assert ours.poll(60)
        assert ours.recv() == "met"
        assert bytes(shared.get("word")) == b"of rank 1"
    finally:
        other.kill()


def _meets(pipe: Any, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    meeting.meet(1, 2, 60).set("word", "of rank 1")
    pipe.send("met")


class Ends(Subscriber[Batch]):
    """Ends the process of rank 0, which holds the store, between two epochs."""

    def before_epoch(self, state: TrainState) -> TrainState:
        if dist.get_rank() == 0 and state.progress.step:
            os._exit(3)
        return state


def without_first(folder: str) -> None:
    torch.manual_seed(3)
    said = said_of(lambda: learner_of().replace(subs=[Ends()]).fit(2, print_stats=False))
    Path(folder, f"said-{dist.get_rank()}").write_text(said)


@pytest.mark.sweep
def test_the_end_of_rank_0_is_told_as_that_by_all(tmp_path: Path) -> None:
    with pytest.raises(LaunchError):
        launch(without_first, 3, str(tmp_path))
    for rank in (1, 2):
        assert (tmp_path / f"said-{rank}").read_text().startswith("RankError Rank 0 has ended"), rank


def test_several_processes_that_share_nothing_are_refused_by_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(nntrain, ["fit", "--log", "-"])
    assert done.exit_code == 2
    assert "Add --parallel data" in done.output
