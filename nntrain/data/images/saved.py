"""Your own data sets: folders written by `DatasetDict.save_to_disk`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nntrain.errors import DataError

if TYPE_CHECKING:
    from datasets.dataset_dict import DatasetDict


def load_saved(path: Path | str) -> DatasetDict:
    """Load a `DatasetDict` from a folder that its `save_to_disk` wrote.

    Raises:
        DataError: `path` is not a folder, holds a single Dataset or something else, or is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {kind}; expected a folder written by DatasetDict.save_to_disk.")
    if not (folder / "dataset_dict.json").is_file():
        if (folder / "state.json").is_file():
            raise DataError(
                f"{folder} holds a single Dataset; expected a DatasetDict, with a split to learn from and "
                "one to be judged on. Make one: load_from_disk(folder).train_test_split(test_size=0.1), "
                "and save that."
            )
        raise DataError(
            f"{folder} holds no saved DatasetDict: it has no dataset_dict.json. Expected a folder written by "
            "DatasetDict.save_to_disk."
        )
    from datasets.dataset_dict import DatasetDict
    from datasets.load import load_from_disk

    try:
        dd = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # the last three: other JSON
        raise DataError(
            f"{folder} is a damaged DatasetDict ({type(error).__name__}: {error}). Save it again."
        ) from error
    if not isinstance(dd, DatasetDict):
        raise DataError(f"{folder} gave a {type(dd).__name__}; expected a DatasetDict.")
    return dd
