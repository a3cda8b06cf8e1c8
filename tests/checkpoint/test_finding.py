"""`latest` and `resume`: the newest whole checkpoint, by what the files say; what was passed over, and why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import (
    CancelFit,
    DataLoaders,
    EarlyStopping,
    Interest,
    Learner,
    TrainState,
    Transition,
    evaluate,
    fit_step,
    on,
    state_before,
)
from nntrain.checkpoint import Best, Checkpoint, best, inspect, latest, load, restore_best, resume, save
from nntrain.errors import CheckpointError, ConfigError, MisfitError
from nntrain.log import JsonLog, read
from nntrain.values.log_event import CheckpointLoaded, WarningEvent
from tests.checkpoint.test_sink import STEPS, batches, error_of, files, fitted, keeping_all, learner_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with the checkpoints of four steps, of which the last ends the run."""
    fitted(keeping_all(tmp_path / "run", every_steps=3))
    return tmp_path / "run"


def broken(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_newest_is_the_one_that_was_saved_last_whatever_it_is_called(run: Path) -> None:
    first, *_, last = files(run)
    last.rename(run / "a.safetensors")
    os.utime(run / "a.safetensors", (0, 0))
    first.rename(run / "z.safetensors")
    os.utime(run / "z.safetensors", (4e9, 4e9))
    found = latest(run)
    assert found.path == run / "a.safetensors"
    assert found.skipped == ()
    assert resume(run, learner_of()).path == run / "a.safetensors"


def test_broken_ones_are_passed_over_and_told(run: Path) -> None:
    first, second, third, last = files(run)
    broken(last)  # a tensor
    third.write_bytes(third.read_bytes()[:100])  # the record: nobody knows how old it is
    found = latest(run)
    assert found.path == second
    assert [one.path for one in found.skipped] == [third, last]
    assert "header is said to have" in found.skipped[0].reason
    assert "is not the one that its digest is of" in found.skipped[1].reason
    learner = learner_of()
    resumed = resume(run, learner)
    assert resumed.path == second
    assert resumed.skipped == found.skipped
    assert resumed.state == load(second, learner_of())
    assert resumed.state is not None
    assert fit_step(learner, resumed.state).state == fitted()
    for path in (first, second):
        broken(path)
    assert latest(run).path is None
    assert len(latest(run).skipped) == 4
    assert resume(run, learner_of())[:2] == (None, None)


def test_broken_ones_that_are_older_are_nobody_s_business(run: Path) -> None:
    first, *_, last = files(run)
    broken(first)
    assert latest(run) == (last, ())


def test_files_of_others_are_passed_over(run: Path) -> None:
    save_file({"a": torch.ones(2)}, run / "model.safetensors")
    (run / "notes.txt").write_text("mine")
    (run / ".hidden.safetensors").write_text("mine")
    (run / "folder.safetensors").mkdir()
    found = latest(run)
    assert found.path == sorted(run.glob("checkpoint-*"))[-1]
    assert [(one.path.name, one.reason[:22]) for one in found.skipped] == [
        ("folder.safetensors", "it is a folder without"),
        ("model.safetensors", "it is a safetensors fi"),
    ]


def test_saved_by_hand_they_count_too(tmp_path: Path) -> None:
    learner = learner_of()
    state = learner.init(epochs=1)
    save(state, tmp_path / "b.safetensors")
    save(state.scale_lr(0.5), tmp_path / "a.safetensors")
    found = resume(tmp_path, learner_of())
    assert found.path == tmp_path / "a.safetensors"
    assert found.state is not None
    assert found.state.lr_scale == 0.5


@pytest.mark.parametrize("change", ["optimizer", "model"])
def test_one_of_another_learner_is_no_reason_to_take_an_older_one(run: Path, change: str) -> None:
    other: Learner[Any] = learner_of(
        **({"optim_class": torch.optim.SGD} if change == "optimizer" else {"model": torch.nn.Linear(3, 1)})
    )
    with pytest.raises(MisfitError, match=files(run)[-1].name):
        resume(run, other)


def test_a_folder_without_any_gives_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "none", tmp_path / "empty"):
        assert latest(folder) == (None, ())
        assert resume(folder, learner_of()) == (None, None, ())
    assert not (tmp_path / "none").exists()


def test_what_is_no_folder_is_refused(run: Path) -> None:
    for find in (latest, lambda path: resume(path, learner_of())):
        with pytest.raises(ConfigError, match="is a file; expected the folder that the checkpoints are in"):
            find(files(run)[0])


def test_a_folder_that_cannot_be_read_is_no_empty_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def iterdir(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    for find in (latest, lambda path: resume(path, learner_of())):
        with pytest.raises(CheckpointError, match=r"the folder cannot be read \(Permission denied\)") as caught:
            find(run)
        assert caught.value.problem == "unreadable"


def test_the_log_tells_what_was_loaded_and_what_was_skipped(run: Path, tmp_path: Path) -> None:
    broken(files(run)[-1])
    with JsonLog(tmp_path / "log.jsonl") as log:
        told: list[Transition] = []
        learner = learner_of(log, told.append)
        found = resume(run, learner)
        assert found.state is not None
        assert found.path is not None
        fit_step(learner, found.state)
    events = [line.event for line in read(tmp_path / "log.jsonl")]
    assert [one.event for one in events[:2]] == ["run_started", "fit_started"]
    (skipped,) = (one for one in events if isinstance(one, WarningEvent))
    assert skipped.code == "checkpoint_skipped"
    assert skipped.text.startswith(f"{files(run)[-1]}: the tensor ")
    (loaded,) = (one for one in events if isinstance(one, CheckpointLoaded))
    assert loaded.path == str(found.path)
    assert loaded.bytes == found.path.stat().st_size
    assert loaded.seconds > 0
    assert [event for one in told for event in one.logged if isinstance(event, CheckpointLoaded)] == [loaded]


def test_loading_changes_no_learner_and_the_first_step_from_the_state_tells_of_the_file(run: Path) -> None:
    broken(files(run)[-1])
    told: list[Transition] = []
    reader, stepper = learner_of(told.append), learner_of(told.append)
    found = resume(run, reader)
    assert found.state is not None
    assert [event.event for event in found.state.loaded] == ["checkpoint_loaded", "warning"]
    assert found.state == load(files(run)[-2], reader), "what tells of the file is no part of the value"
    fit_step(reader, reader.init(), 1)
    assert not [event for one in told for event in one.logged], "it goes on from elsewhere, and has loaded nothing"
    told.clear()
    ended = fit_step(stepper, found.state).state
    assert [event for one in told for event in one.logged] == list(found.state.loaded)
    assert told[0].logged == found.state.loaded
    assert ended.loaded == ()
    assert ended == fitted()


def test_a_subscriber_that_answers_a_loaded_state_has_the_sinks_told_of_the_file(run: Path) -> None:
    told: list[Transition] = []

    @on("after_epoch")
    def goes_back(state: TrainState) -> TrainState | CancelFit:
        return CancelFit(state=load(files(run)[0], learner))

    learner = learner_of(told.append).replace(subs=[goes_back])
    ended = learner.fit(1, print_stats=False).state
    assert ended.loaded == ()
    assert "checkpoint_loaded" in [event.event for one in told for event in one.logged]
    assert told[-1].logged[0].event == "checkpoint_loaded", "with the transition that it was answered in"


def test_what_a_loaded_state_tells_waits_for_a_sink_that_is_told(run: Path) -> None:
    told: list[Transition] = []

    class AtTheEnd:
        interest = Interest(places={"after_fit"})

        def __call__(self, transition: Transition, /) -> None:
            told.append(transition)

    def fails(preds: object, target: object) -> Tensor:
        raise OSError("broken")

    learner = learner_of(AtTheEnd())
    fit_step(learner, load(files(run)[0], learner))
    assert [event.event for one in told for event in one.logged] == ["checkpoint_loaded"]
    told.clear()
    broken_one = learner_of(told.append).replace(loss_fn=fails)
    with pytest.raises(OSError, match="broken") as caught:
        fit_step(broken_one, load(files(run)[0], broken_one))
    assert [event.event for one in told for event in one.logged][:1] == ["checkpoint_loaded"]
    left = state_before(caught.value)
    assert left is not None
    assert left.loaded == ()


def test_where_no_file_is_whole_the_log_is_told_of_those_that_were_skipped(run: Path) -> None:
    for path in files(run):
        broken(path)
    told: list[Transition] = []
    learner = learner_of(told.append)
    assert resume(run, learner).state is None
    learner.fit(1, print_stats=False)
    assert [event.event for event in told[0].logged] == ["warning"] * 4


def test_other_data_do_not_fit_amid_a_phase_and_are_told_between_phases(run: Path, tmp_path: Path) -> None:
    amid, *_, last = files(run)

    def other(*sinks: Any) -> Learner[Any]:
        return learner_of(*sinks, dls=DataLoaders(batches(STEPS + 1), batches(2)))

    with pytest.raises(MisfitError) as caught:
        load(amid, other())
    assert f"it stands amid a phase of {STEPS} batches; the learner's data have {STEPS + 1}" in str(caught.value)
    # A loader that knows no length may be the same one.
    uncounted = learner_of(dls=DataLoaders(Uncounted(batches(STEPS)), batches(2)))
    assert fit_step(uncounted, load(amid, uncounted)).state == fitted()
    # A state that was saved by hand tells nothing of data: it may have been stepped with any.
    save(load(amid, learner_of()), tmp_path / "by hand")
    assert load(tmp_path / "by hand", other()) == load(amid, learner_of())
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner = other(log)
        fit_step(learner, load(last, learner), 1)
    (warned,) = (line.event for line in read(tmp_path / "log.jsonl") if isinstance(line.event, WarningEvent))
    assert warned.code == "checkpoint_changed"
    assert warned.text == f"since {last} was saved: train_batches was {STEPS}, and is {STEPS + 1}"


class Uncounted:
    """Batches that can be iterated again."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def test_what_is_not_as_it_was_is_told_once(run: Path, tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner = learner_of(log, lr=0.5, subs=[EarlyStopping(patience=3)], metric_fn={"mae": error_of})
        fit_step(learner, load(files(run)[-1], learner), 1)
    (warned,) = (line.event for line in read(tmp_path / "log.jsonl") if isinstance(line.event, WarningEvent))
    assert warned.text.split("saved: ")[1] == (
        "lr was 0.01, and is 0.5; metrics was ['metric'], and is ['mae']; subscribers was [], and is ['EarlyStopping']"
    )


def test_a_folder_that_was_moved_goes_on_elsewhere(run: Path, tmp_path: Path) -> None:
    shutil.move(run, tmp_path / "elsewhere")
    saves = Checkpoint(tmp_path / "elsewhere", keep_last=1)
    found = resume(tmp_path / "elsewhere", learner_of(saves))
    assert found.state is not None
    fit_step(learner_of(saves), found.state, 1)
    (only,) = files(tmp_path / "elsewhere")
    assert only.name == "checkpoint-000005-step-00000015.safetensors"


MODES: dict[Literal["min", "max"], Callable[[list[float]], float]] = {"min": min, "max": max}


def kept(folder: Path, epochs: int = 4) -> list[float]:
    """Save each epoch of a fit whose eval loss falls and rises, and states amid epochs; return the losses of eval."""
    rates = [0.05, 0.05, -0.0, 0.9]
    saves = Checkpoint(folder, every_epochs=1, every_steps=2, keep_last=99, background=False)
    learner = best_learner(sinks=[saves], lr=lambda step: abs(rates[min(step // 3, 3)]))
    state = learner.fit(epochs, print_stats=False).state
    return [one.loss for one in state.history if one.phase == "eval"]


def best_learner(**changes: Any) -> Learner[Any]:
    torch.manual_seed(0)
    data = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(3)]
    arguments: dict[str, Any] = {"optim_class": torch.optim.SGD, "lr": 0.1, **changes}
    return Learner(nn.Linear(2, 1), DataLoaders(data, data[:2]), mse_loss, {"error": mse_loss}, **arguments)


def test_the_best_is_that_of_the_epochs_ends_and_comes_back(tmp_path: Path) -> None:
    losses = kept(tmp_path)
    for mode, wanted in MODES.items():
        value = wanted(losses)
        found = best(tmp_path, "loss", mode)
        assert found.value == value
        assert found.path is not None
        assert inspect(found.path).progress.step == 3 * (losses.index(value) + 1)
        assert best(tmp_path, "eval/error", mode).path == found.path
        state = restore_best(tmp_path, best_learner(), "loss", mode)
        assert state == load(found.path, best_learner())
        assert evaluate(best_learner(), state).loss == value
    saved = Checkpoint(tmp_path / "other", every_epochs=1, keep_last=1, keep_best="loss", background=False)
    best_learner(sinks=[saved]).fit(3, print_stats=False)
    assert best(tmp_path / "other").path in set((tmp_path / "other").iterdir())


def test_the_best_is_whole(tmp_path: Path) -> None:
    kept(tmp_path)
    first = best(tmp_path)
    assert first.path is not None
    content = bytearray(first.path.read_bytes())
    content[-5] ^= 1
    first.path.write_bytes(content)
    second = best(tmp_path)
    assert second.path is not None
    assert second.path != first.path
    assert [one.path for one in second.skipped] == [first.path]
    assert restore_best(tmp_path, best_learner()) == load(second.path, best_learner())


def test_a_folder_without_a_best_says_so(tmp_path: Path) -> None:
    assert best(tmp_path / "nothing") == Best(None, None, ())
    with pytest.raises(CheckpointError, match="it has no whole checkpoint that was saved at the end of an epoch"):
        restore_best(tmp_path / "nothing", best_learner())
    save(best_learner().init(), tmp_path / "first.safetensors")
    assert best(tmp_path).path is None
    kept(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"monitor is 'eror', which no state in .* has\. Probably meant: error\."):
        best(tmp_path / "run", "eror")
    with pytest.raises(ConfigError, match="mode is 'least'; expected 'min'"):
        best(tmp_path / "run", "loss", "least")  # type: ignore[arg-type] # a mistake
    with pytest.raises(MisfitError):
        restore_best(tmp_path / "run", best_learner(optim_class=torch.optim.Adam))
