from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nntrain.data import DataLoaders, load_saved
from nntrain.errors import DataError
from tests.data.images.pictures import dataset, dataset_dict


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    dd = dataset_dict(mode="RGB")
    dd.save_to_disk(tmp_path / "saved")
    got = list(DataLoaders.from_hf_dd(load_saved(tmp_path / "saved")).train)
    wanted = list(DataLoaders.from_hf_dd(dd).train)
    assert torch.equal(got[0][0], wanted[0][0])
    assert torch.equal(got[0][1], wanted[0][1])
    assert len(load_saved(str(tmp_path / "saved"))["test"]) == 4


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; expected a folder written by"):
        load_saved(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file is a file; expected a folder written by"):
        load_saved(tmp_path / "file")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no saved DatasetDict: it has no dataset_dict\.json"):
        load_saved(tmp_path)


def test_a_single_dataset(tmp_path: Path) -> None:
    dataset(3).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match=r"holds a single Dataset; expected a DatasetDict.*train_test_split"):
        load_saved(tmp_path / "one")


@pytest.mark.parametrize("fault", ["index", "arrow", "missing", "info"])
def test_a_damaged_folder(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "saved"
    dataset_dict().save_to_disk(folder)
    (arrow,) = (folder / "train").glob("*.arrow")
    match fault:
        case "index":
            (folder / "dataset_dict.json").write_text("{")
        case "arrow":
            arrow.write_bytes(arrow.read_bytes()[:100])
        case "missing":
            arrow.unlink()
        case _:
            (folder / "train" / "dataset_info.json").write_text("[]")
    with pytest.raises(DataError, match="saved is a damaged DatasetDict"):
        load_saved(folder)
