"""What is built is what is used: the wheel, and an extension installed beside it into a fresh environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
pytestmark = pytest.mark.packaging
EXAMPLE: Final = ROOT / "docs" / "examples" / "plateau"
OFFLINE: Final = ("Failed to fetch", "error sending request", "dns error")


def run(*command: str | Path, cwd: Path = ROOT, fails_offline: bool = False) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode and fails_offline and any(sign in done.stdout for sign in OFFLINE):
        pytest.skip("packages cannot be fetched here")
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def uv() -> str:
    found = shutil.which("uv")
    if found is None:
        pytest.skip("uv, which builds and installs, is not here")
    return found


@pytest.fixture(scope="module")
def built(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build nntrain's wheel and source distribution, and the extension's wheel."""
    folder = tmp_path_factory.mktemp("built")
    run(uv, "build", "--quiet", "--out-dir", folder, fails_offline=True)
    example = folder / "plateau"
    shutil.copytree(EXAMPLE, example, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    run(uv, "build", "--quiet", "--wheel", "--out-dir", folder, cwd=example, fails_offline=True)
    return folder


def test_the_wheel_has_types_and_no_tests(built: Path) -> None:
    (wheel,) = built.glob("nntrain-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "nntrain/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"nntrain", wheel.name.split("-py3")[0] + ".dist-info"}
    source = {str(path.relative_to(ROOT)) for path in (ROOT / "nntrain").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == source
    assert "nntrain/data/images/digits.csv.gz" in names


def test_the_source_distribution_has_tests_and_docs(built: Path) -> None:
    (source,) = built.glob("nntrain-*.tar.gz")
    with tarfile.open(source) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    for needed in (
        "nntrain/py.typed",
        "tests/conftest.py",
        "docs/changelog.md",
        "README.md",
        "LICENSE",
        "pyproject.toml",
    ):
        assert needed in names


@pytest.fixture(scope="module")
def fresh(uv: str, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment with the two wheels and what the extension is developed with."""
    folder = tmp_path_factory.mktemp("fresh") / "env"
    run(uv, "venv", "--quiet", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    (ours,), (theirs,) = built.glob("nntrain-*.whl"), built.glob("nntrain_plateau-*.whl")
    needed = [f"nntrain[testing] @ {ours.as_uri()}", str(theirs), "mypy", "basedpyright"]
    run(uv, "pip", "install", "--quiet", "--python", python, *needed, fails_offline=True)
    return python


def test_the_extension_is_clean_in_both_type_checkers(fresh: Path, built: Path) -> None:
    assert "Success" in run(fresh, "-m", "mypy", cwd=built / "plateau")
    run(fresh, "-m", "basedpyright", "--level", "error", cwd=built / "plateau")


def test_its_own_tests_pass(fresh: Path, built: Path) -> None:
    assert "8 passed" in run(fresh, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=built / "plateau")


def test_it_is_used_by_name(fresh: Path, built: Path, tmp_path: Path) -> None:
    nntrain = fresh.parent / "nntrain"
    listed = [json.loads(line) for line in run(nntrain, "plugins", "--json", cwd=tmp_path).splitlines()]
    assert {one["name"]: one["distribution"] for one in listed if "plateau" in one["distribution"]} == {
        "plateau": "nntrain-plateau 0.1.0",
        "rates": "nntrain-plateau 0.1.0",
        "stripes": "nntrain-plateau 0.1.0",
    }
    run(nntrain, "fit", "--config", built / "plateau" / "run.toml", "--log", "log.jsonl", cwd=tmp_path)
    assert len((tmp_path / "rates.csv").read_text().splitlines()) == 6
    events = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert events.count("epoch_finished") == 12
    schema = json.loads(run(nntrain, "config", "schema", cwd=tmp_path))
    assert schema["properties"]["subscribers"]["properties"]["plateau"]["properties"]["patience"]["default"] == 3
