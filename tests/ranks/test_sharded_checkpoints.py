"""Law 4 over sharded parameters: saved on some processes, in a folder or in one file, and resumed on others."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from nntrain import Checkpoint, Learner, fit_step
from nntrain.checkpoint import convert, diff, inspect, latest, load, resume, save, saving, verify
from nntrain.checkpoint.finding import files_of
from nntrain.checkpoint.manifest import MANIFEST
from nntrain.checkpoint.saving import UNFINISHED, remove_unfinished
from nntrain.errors import CheckpointError, ConfigError
from nntrain.update import accumulate, chain, ema, optimizer
from tests.ranks.launching import launch
from tests.ranks.test_sharded import apart, fitted, learner

RULE = chain(accumulate(3), optimizer(torch.optim.AdamW, lr=1e-2), ema(0.9))


def training(parallel: Any = "sharded") -> Learner[Any, Any]:
    return learner(RULE, parallel, rows=(16, 7, 6, 8))


def saved(folder: Path, options: Any) -> None:
    """Save after an epoch in both forms, go on, and save what that comes to."""
    ours = training(options)
    one = fit_step(ours, ours.init(0), 1).state
    for name, sharded in (("one.safetensors", False), ("one.sharded", True)):
        found = save(one, folder / name, sharded=sharded)
        assert found.bytes == inspect(folder / name).bytes
        assert found.digest == inspect(folder / name).digest
        assert load(folder / name, ours) == one, name
        if dist.get_rank() == 0:
            assert not diff(folder / name, folder / "one.safetensors")
        dist.barrier()
    twice = save(one, folder / "one.sharded", sharded=True)  # another takes its place
    assert twice.digest == inspect(folder / "one.sharded").digest
    two = fit_step(ours, one, 1).state
    save(two, folder / "two.sharded", sharded=True)


def gone_on(folder: Path, options: Any, *, same: bool) -> None:
    """Go on from either form, and compare with what the others came to."""
    ours = training(options)
    expected = load(folder / "two.sharded", ours)
    for name in ("one.safetensors", "one.sharded"):
        state = load(folder / name, ours)
        found = fit_step(ours, state, 1).state
        if same:
            assert found == expected
            assert not found.diff(expected)
        assert apart(found, expected) < 1e-6
        # to the other form and back, on this number of ranks
        again = folder / f"again-{name}"
        save(state, again, sharded=name == "one.safetensors")
        assert load(again, ours) == state
        if not dist.is_initialized() or dist.get_rank() == 0:
            assert not diff(again, folder / name)
    assert not [*folder.glob(f".*{UNFINISHED}")]


def two_forms(folder: Path) -> None:
    ours = training()
    state = ours.init(0)
    save(state, folder / "it.sharded", sharded=True)
    save(state, folder / "it.safetensors")
    assert load(folder / "it.sharded", ours) == state == load(folder / "it.safetensors", ours)
    with pytest.raises(CheckpointError, match="There is no folder"):  # on all ranks, though rank 0 alone tries
        save(state, folder / "nowhere" / "it", sharded=True)
    with pytest.raises(CheckpointError, match="There is no folder"):
        save(state, folder / "nowhere" / "it")
    with pytest.raises(CheckpointError, match="it is a file"):
        save(state, folder / "it.safetensors", sharded=True)


def check_damage(folder: Path) -> None:
    """Check that a change of a checkpoint that two processes saved is seen on one."""
    assert verify(folder).format == "nntrain.checkpoint.sharded/1"
    files = sorted(one.name for one in folder.iterdir())
    assert files == [MANIFEST, "rank-00000-of-00002.safetensors", "rank-00001-of-00002.safetensors"]
    with pytest.raises(CheckpointError, match="a part of a sharded checkpoint"):
        inspect(folder / files[1])
    said = json.loads((folder / MANIFEST).read_text())
    for name in files:
        whole = (folder / name).read_bytes()
        for at in (0, 9, len(whole) // 2, len(whole) - 1):
            changed = bytearray(whole)
            changed[at] ^= 1
            (folder / name).write_bytes(changed)
            with pytest.raises(CheckpointError):
                verify(folder)
        (folder / name).write_bytes(whole[:-1])
        with pytest.raises(CheckpointError):
            verify(folder)
        (folder / name).unlink()
        with pytest.raises(CheckpointError) as caught:
            verify(folder)
        assert name in str(caught.value) or "without the manifest" in str(caught.value)
        (folder / name).write_bytes(whole)
    record = json.loads(said["record"])
    for forged in (
        {**said, "format": "nntrain.checkpoint.sharded/2"},
        {**said, "record": json.dumps({**record, "files": {"../outside": [1, "0" * 64]}})},
        {**said, "record": "[]"},
    ):
        (folder / MANIFEST).write_text(json.dumps(forged))
        with pytest.raises(CheckpointError):
            inspect(folder)
    (folder / MANIFEST).write_text(json.dumps(said))
    verify(folder)


def test_unfinished_folders_of_the_dead_are_removed(tmp_path: Path) -> None:
    left = tmp_path / f".it.0123{UNFINISHED}"
    left.mkdir()
    (left / "writing").touch()
    (left / "rank-00000-of-00002.safetensors").touch()
    remove_unfinished(tmp_path)
    assert not left.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # the child calls nothing of torch's
def test_another_process_never_takes_a_whole_folder_for_one_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.rename

    def rename(self: Path, target: Path) -> Path:
        child = os.fork()
        if not child:  # another process that begins to save in this folder at this very moment
            saving._BEING_WRITTEN.clear()
            remove_unfinished(tmp_path)
            os._exit(0)
        os.waitpid(child, 0)
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    ours = learner(optimizer(torch.optim.SGD, lr=0.1), None)
    save(ours.init(0), tmp_path / "it.sharded", sharded=True)
    assert [one.name for one in tmp_path.iterdir()] == ["it.sharded"]
    assert load(tmp_path / "it.sharded", ours) == ours.init(0)
    assert {one.name for one in (tmp_path / "it.sharded").iterdir()} == {MANIFEST, "rank-00000-of-00001.safetensors"}


def test_one_process_has_a_folder_too(tmp_path: Path) -> None:
    ours = learner(optimizer(torch.optim.SGD, lr=0.1, momentum=0.9), None)
    state = fit_step(ours, ours.init(0), 1).state
    folder = tmp_path / "it.sharded"
    save(state, folder, sharded=True)
    assert load(folder, ours) == state
    save(fit_step(ours, state, 1).state, folder, sharded=True)
    assert load(folder, ours) != state


def straight(folder: Path, sharded: bool, background: bool) -> None:
    sink = Checkpoint(folder, every_steps=1, keep_last=100, keep_best="loss", sharded=sharded, background=background)
    ours = learner(RULE, rows=(16, 7, 6, 8), sinks=[sink])
    ours.fit(2, print_stats=False)


def from_anywhere(folder: Path, parallel: Any, same: bool) -> None:
    """Go on from each checkpoint, and compare with the last one."""
    ours = learner(RULE, parallel, rows=(16, 7, 6, 8))
    paths = files_of(folder)
    expected = load(paths[-1], ours)
    assert expected.progress.at == "finished"
    for path in paths[:-1]:
        state = load(path, ours)
        found = fit_step(ours, state).state
        if same:
            assert found == expected, path
        assert found.progress == expected.progress
        assert apart(found, expected) < 1e-6
        assert [one.samples for one in found.history] == [one.samples for one in expected.history]
    assert resume(folder, ours).path == paths[-1]


def failing(folder: Path) -> None:
    """Fail on one rank alone: it ends the save on all, with one error, and leaves what was there."""
    ours, second = training(), dist.get_rank() == 1
    state = ours.init(0)
    there = folder / "there.sharded"
    digest = save(state, there, sharded=True).digest
    cannot = CheckpointError("the state", "unsavable", "slot it holds what no file can")
    full = OSError(28, "No space left on device")
    with pytest.MonkeyPatch.context() as patch:
        if second:
            patch.setattr("nntrain.checkpoint.manifest.write", raising(full))
        with pytest.raises(CheckpointError, match=r"there\.sharded: rank 1 has failed: OSError: .*No space left"):
            save(state, there, sharded=True)
        sink = Checkpoint(folder / "full", sharded=True)
        outcome = learner(RULE, rows=(8, 6), sinks=[sink]).fit(1, print_stats=False)
        assert outcome.sink_failures
    for name, sharded in (("unsavable", True), ("unsavable-files", False)):
        with pytest.MonkeyPatch.context() as patch:
            for module in ("sink", "saving") if second else ():
                patch.setattr(f"nntrain.checkpoint.{module}.flatten_state", raising(cannot))
            with pytest.raises(CheckpointError, match="slot it holds"):
                save(state, there, sharded=sharded)
            sink = Checkpoint(folder / name, every_steps=1, sharded=sharded)
            outcome = learner(RULE, rows=(8, 6), sinks=[sink]).fit(1, print_stats=False)
            assert outcome.sink_failures
        assert not files_of(folder / name)
    assert inspect(there).digest == digest
    assert load(there, ours) == state
    dist.barrier()
    if second:
        (there / "rank-00001-of-00002.safetensors").unlink()
    dist.barrier()
    with pytest.raises(CheckpointError, match=r"its file rank-00001-of-00002\.safetensors cannot be read"):
        load(there, ours)
    assert not [*folder.glob(".*")]


def raising(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def kept(folder: Path) -> None:
    sink = Checkpoint(folder, every_steps=1, keep_last=2, sharded=True)
    fitted(learner(RULE, rows=(16, 7, 6, 8), sinks=[sink]), epochs=3)
    with pytest.raises(ConfigError, match="checkpoints of another training"):
        fitted(learner(RULE, rows=(16, 7, 6, 8), sinks=[Checkpoint(folder, sharded=True)]))


SINKS = [("folders", True, False), ("files", False, False), ("folders-later", True, True), ("files-later", False, True)]


def made(folder: Path) -> None:
    """Make all checkpoints, on two processes."""
    saved(folder, "sharded")
    two_forms(folder)
    failing(folder / "failing")
    kept(folder / "kept")
    for name, sharded, background in SINKS:
        straight(folder / name, sharded, background)


def gone_on_from_all(folder: Path, options: Any, *, same: bool) -> None:
    """Go on from all of them."""
    gone_on(folder, options, same=same)
    for name, _, _ in SINKS if same else SINKS[:2]:
        from_anywhere(folder / name, options, same)


def damaged_later(folder: Path) -> None:
    """Find the newest one of which each rank's part is whole."""
    gone_on_from_all(folder, "sharded", same=True)
    for name, sharded, _ in SINKS[:2]:
        *_, before, newest = files_of(folder / name)
        dist.barrier()
        if dist.get_rank() == 0:
            of_last = sorted(newest.glob("rank*"))[-1] if sharded else newest
            of_last.write_bytes(of_last.read_bytes()[:-1])  # one rank's part alone is damaged
        dist.barrier()
        found = resume(folder / name, learner(RULE, rows=(16, 7, 6, 8)))
        assert found.path == before
        assert [one.path for one in found.skipped] == [newest]


@pytest.mark.sweep
def test_it_goes_on_from_anywhere_on_any_number_of_processes(tmp_path: Path) -> None:
    (tmp_path / "failing").mkdir()
    launch(made, 2, tmp_path, limit=180.0)
    for name, sharded, background in SINKS:
        paths = files_of(tmp_path / name)
        assert {path.suffix for path in paths} == {".sharded" if sharded else ".safetensors"}
        assert background or len(paths) > 4  # in the background a step may pass while the file before is written
        for path in paths:
            verify(path)
    assert not [*tmp_path.rglob(f".*{UNFINISHED}")]
    assert len([*(tmp_path / "kept").iterdir()]) == 2
    assert latest(tmp_path / "kept").path == files_of(tmp_path / "kept")[-1]
    assert not diff(tmp_path / "it.sharded", tmp_path / "it.safetensors")
    convert(tmp_path / "it.sharded", tmp_path / "converted.safetensors")
    assert (tmp_path / "converted.safetensors").stat().st_size == (tmp_path / "it.safetensors").stat().st_size
    assert not diff(tmp_path / "converted.safetensors", tmp_path / "it.safetensors")
    check_damage(tmp_path / "it.sharded")
    gone_on_from_all(tmp_path, None, same=False)
    launch(partial(gone_on_from_all, same=False), 3, tmp_path, "sharded", limit=180.0)
    launch(damaged_later, 2, tmp_path, limit=180.0)


def straight_and_from_some(folder: Path) -> None:
    """Go on from checkpoints of the first epoch, amid a window and after one, and from the one at its end."""
    straight(folder, sharded=True, background=False)
    dist.barrier()
    ours = learner(RULE, "sharded", rows=(16, 7, 6, 8))
    *paths, last = files_of(folder)
    expected = load(last, ours)
    assert expected.progress.at == "finished"
    for path in (paths[0], paths[1], paths[len(paths) // 2]):
        assert fit_step(ours, load(path, ours)).state == expected, path


@pytest.mark.sweep
def test_four_processes_go_on_from_some_and_two_from_theirs(tmp_path: Path) -> None:
    launch(straight_and_from_some, 4, tmp_path / "four", limit=180.0)
    paths = files_of(tmp_path / "four")
    assert all(len([*path.glob("rank-*-of-00004.safetensors")]) == 4 for path in paths)
    launch(on_two, 2, paths, limit=180.0)


def on_two(paths: list[Path]) -> None:
    ours = learner(RULE, "sharded", rows=(16, 7, 6, 8))
    expected = load(paths[-1], ours)
    found = fit_step(ours, load(paths[0], ours)).state
    assert found.progress == expected.progress
    assert apart(found, expected) < 1e-6
