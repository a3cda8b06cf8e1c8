"""From one form of a checkpoint to the other and back, to the last byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from nntrain import Checkpoint, fit_step
from nntrain.checkpoint import convert, diff, inspect, latest, load, save, verify
from nntrain.checkpoint.container import read_head
from nntrain.cli import nntrain
from nntrain.cli.exits import Exit
from nntrain.errors import CheckpointError
from tests.checkpoint.test_save_load import zoo_learner


def test_there_and_back_it_is_the_very_file(tmp_path: Path) -> None:
    learner = zoo_learner()
    state = fit_step(learner, learner.init(0), 1).state
    file, folder, back = (tmp_path / name for name in ("it.safetensors", "it.sharded", "back.safetensors"))
    save(state, file)
    made = convert(file, folder)
    assert made.bytes == sum(one.stat().st_size for one in folder.iterdir())
    assert made.digest == inspect(folder).digest
    assert inspect(folder).saved_at == inspect(file).saved_at
    assert not diff(file, folder)
    assert load(folder, learner) == state
    convert(folder, back)
    assert back.read_bytes() == file.read_bytes()


def test_what_is_said_of_a_run_and_its_device_stays(tmp_path: Path) -> None:
    from nntrain.checkpoint.content import text_of
    from nntrain.checkpoint.loading import open_checkpoint
    from nntrain.checkpoint.saving import write_file

    learner = zoo_learner().replace(sinks=[Checkpoint(tmp_path / "run")])
    learner.fit(1, print_stats=False)
    file = latest(tmp_path / "run").path
    assert file is not None
    on_cuda, folder, back = (tmp_path / name for name in ("cuda.safetensors", "it.sharded", "back.safetensors"))
    with open_checkpoint(file) as content:  # as a training on a GPU says it
        text = text_of(content.record)
        write_file(
            dict(content.tensors()),
            on_cuda,
            lambda stored: text({name: one._replace(device="cuda") for name, one in stored.items()}),
        )
    convert(on_cuda, folder)
    convert(folder, back)
    assert inspect(folder).run == inspect(file).run
    assert inspect(folder).run is not None
    with back.open("rb") as opened:
        assert {one.device for one in read_head(opened, "").tensors.values()} == {"cuda"}
    assert back.read_bytes() == on_cuda.read_bytes()


def test_the_command_line_takes_folders(tmp_path: Path) -> None:
    learner = zoo_learner()
    folder, file = tmp_path / "it.sharded", tmp_path / "it.safetensors"
    save(learner.init(0), folder, sharded=True)

    def called(*arguments: object) -> tuple[int, str]:
        found = CliRunner().invoke(nntrain, ["checkpoint", *map(str, arguments)])
        return found.exit_code, found.output

    assert called("convert", folder, file) == (0, f"{file}: {file.stat().st_size:,} bytes\n")
    assert called("verify", folder, file)[0] == 0
    assert called("diff", folder, file)[0] == 0
    assert "nntrain.checkpoint.sharded/1" in called("show", folder)[1]
    assert json.loads(called("show", folder, "--json")[1])["tensors"].keys() == inspect(file).tensors.keys()
    assert called("latest", tmp_path) == (0, f"{file}\n") or called("latest", tmp_path) == (0, f"{folder}\n")
    code, said = called("convert", file, tmp_path / "nowhere" / "it")
    assert code == Exit.UNWRITABLE
    assert "There is no folder" in said
    assert called("convert", folder, tmp_path)[0] == Exit.UNWRITABLE
    (part,) = folder.glob("rank*")
    part.write_bytes(part.read_bytes()[:-1])
    for command in (("verify", folder), ("convert", folder, file), ("diff", folder, file)):
        code, said = called(*command)
        assert code == Exit.DAMAGED
        assert part.name in said
    assert called("latest", tmp_path)[1].endswith(f"{file}\n")
    part.unlink()
    code, said = called("verify", folder)
    assert code == Exit.DAMAGED
    assert part.name in said
    (folder / "manifest.json").unlink()
    code, said = called("show", folder)
    assert code == Exit.UNREADABLE
    assert "without the manifest" in said
    verify(file)


def test_of_nothing_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        convert(tmp_path / "none", tmp_path / "it")
    assert not [*tmp_path.iterdir()]
