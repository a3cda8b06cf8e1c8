"""What is right must be accepted: by mypy strict without plugins, and by pyright strict.

With pydantic's plugin it is checked with the rest of the repository.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from mypy import api

from tests.typing.strict import CACHE, STRICT

ROOT: Final = Path(__file__).parents[2]
ACCEPTED: Final = Path(__file__).parent / "accepted.py"


@pytest.mark.sweep
def test_what_is_right_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(STRICT)
    options = ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(CACHE)]
    said, errors, code = api.run([*options, str(ACCEPTED)])
    assert code == 0, said + errors


@pytest.mark.sweep
def test_pyright_strict_agrees(tmp_path: Path) -> None:
    config = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "include": [str(ACCEPTED)],
        "extraPaths": [str(ROOT)],
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "basedpyright", "-p", str(tmp_path), "--level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout
