"""What is right must be accepted: by mypy strict, with pydantic's plugin and without, and by pyright strict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from mypy import api

ROOT: Final = Path(__file__).parents[2]
ACCEPTED: Final = Path(__file__).parent / "accepted.py"


@pytest.mark.parametrize("plugin", ["plugins = pydantic.mypy", ""], ids=["with pydantic's plugin", "without"])
def test_what_is_right_is_accepted(tmp_path: Path, plugin: str) -> None:
    (tmp_path / "mypy.ini").write_text(f"[mypy]\npython_version = 3.11\nstrict = True\n{plugin}\n")
    options = ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache")]
    said, errors, code = api.run([*options, str(ACCEPTED)])
    assert code == 0, said + errors


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
