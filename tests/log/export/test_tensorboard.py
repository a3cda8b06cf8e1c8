"""TensorBoard: read back with TensorBoard's own reader."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nntrain.errors import LogError
from nntrain.log import FitStarted, HistoryReplaced, Line
from nntrain.log.export import TensorBoard, export
from tests.log.export import hostile
from tests.log.samples import RUN, scripted


def read(folder: Path) -> Any:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in read(folder).Scalars(tag)]


def test_scalars_texts_and_times(tmp_path: Path) -> None:
    lines = scripted(every=5, nan_at=10, ends="cancelled", text="enough")
    assert export(lines, TensorBoard(tmp_path)) == len(lines)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"{RUN}0"
    found = read(folder)
    assert [step for step, _ in scalars(folder, "loss/train")] == [20, 40, 60]
    batches = scalars(folder, "train_batch/loss")
    assert [step for step, _ in batches] == list(range(5, 61, 5))
    assert [math.isnan(value) for step, value in batches] == [step == 10 for step, _ in batches]
    assert [step for step, _ in scalars(folder, "eval_batch/loss")] == [5, 10]
    finished = [line for line in lines if line.event.event == "epoch_finished" and line.phase == "train"]
    assert [one.wall_time for one in found.Scalars("loss/train")] == [line.timestamp.timestamp() for line in finished]
    texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert set(texts) == {"config", "warning", "checkpoint_saved", "cancelled"}
    assert '    "optimizer": "SGD"' in texts["config"]
    assert texts["cancelled"] == "    EarlyStopping cancelled the fit at before_epoch: enough"


def test_several_runs_lie_side_by_side_and_of_several_ranks_the_first_is_exported(tmp_path: Path) -> None:
    lines = scripted(0, every=5) + scripted(1, every=None)
    others = [line.model_copy(update={"rank": 1}) for line in scripted(0)]
    assert export(lines + others, TensorBoard(tmp_path)) == len(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{RUN}0", f"{RUN}1"]
    assert not any(tag.startswith("train_batch/") for tag in read(tmp_path / f"{RUN}1").Tags()["scalars"])


def test_the_same_log_again_changes_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        export(scripted(every=5), TensorBoard(tmp_path))
    (path,) = (tmp_path / f"{RUN}0").iterdir()
    assert len(scalars(path.parent, "train_batch/loss")) == 12


def test_a_run_that_goes_on_after_its_end_and_in_another_process(tmp_path: Path) -> None:
    lines = scripted(every=5, epochs=1)
    later = _later(scripted(every=5, epochs=2)[len(lines) :], lines)
    with TensorBoard(tmp_path) as board:
        for line in [*lines, *later]:
            board.write(line)
    whole = scalars(tmp_path / f"{RUN}0", "loss/train")
    export(lines, TensorBoard(tmp_path / "two"))
    export(later, TensorBoard(tmp_path / "two"))
    folder = tmp_path / "two" / f"{RUN}0"
    assert len(list(folder.iterdir())) == 2
    assert scalars(folder, "loss/train") == whole


def _later(lines: list[Line], before: list[Line]) -> list[Line]:
    return [line.model_copy(update={"seq": before[-1].seq + 1 + index}) for index, line in enumerate(lines)]


@pytest.mark.parametrize("event", [HistoryReplaced(kept=2, history=()), FitStarted(epochs=3, resumed=True)])
def test_a_training_that_goes_back_drops_what_came_after(tmp_path: Path, event: HistoryReplaced | FitStarted) -> None:
    lines = scripted(every=5)
    at = next(line for line in lines if line.event.event == "epoch_finished" and line.phase == "eval")
    back = at.model_copy(update={"event": event, "timestamp": lines[-1].timestamp})
    export([*lines, back], TensorBoard(tmp_path))
    assert [step for step, _ in scalars(tmp_path / f"{RUN}0", "train_batch/loss")] == [5, 10, 15, 20]
    assert [step for step, _ in scalars(tmp_path / f"{RUN}0", "loss/eval")] == [20]


def test_what_is_flushed_is_seen(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    for line in scripted(epochs=1):
        board.write(line)
        board.flush()
        read(tmp_path / f"{RUN}0")
    assert scalars(tmp_path / f"{RUN}0", "loss/eval")
    board.close()
    board.close()
    board.flush()
    with pytest.raises(LogError, match="closed"):
        board.write(scripted()[0])


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        export(scripted(), TensorBoard(tmp_path / "file"))


@settings(max_examples=20)
@given(said=st.lists(hostile.texts, min_size=1, max_size=4), run_id=hostile.texts, extreme=st.booleans())
def test_hostile_text(tmp_path_factory: pytest.TempPathFactory, said: list[str], run_id: str, extreme: bool) -> None:
    folder = tmp_path_factory.mktemp("board")
    export(hostile.lines(*said, run_id=run_id, extreme=extreme), TensorBoard(folder / "runs"))
    assert [path.name for path in folder.iterdir()] == ["runs"]
    (run,) = (folder / "runs").iterdir()
    found = read(run)
    tags = found.Tags()["scalars"]
    assert len([tag for tag in tags if tag.endswith("/eval")]) == 3 + len({*said, "nan", "inf"})
    for tag in found.Tags()["tensors"]:
        text = found.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        assert all(line.startswith("    ") for line in text.split("\n")), "all of it is code in Markdown"
        assert len(text) < 1_000_000
