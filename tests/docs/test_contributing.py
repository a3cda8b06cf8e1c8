"""What is said to contributors is so: the commands, the picture of the house, the version in its one place."""

from __future__ import annotations

import re
import tomllib

import nntrain
from tests.docs.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "CONTRIBUTING.md"


def test_the_three_commands_are_there() -> None:
    assert [block.splitlines() for block in blocks(PAGE, "console")] == [["uv sync", "uv run pytest", ".ci/run"]]
    assert (ROOT / ".ci" / "run").is_file()


def test_the_house_is_that_of_the_map() -> None:
    (drawn,) = blocks(PAGE, "mermaid")
    assert drawn == blocks(ROOT / "docs" / "reference" / "map.md", "mermaid")[0]


def test_what_it_names_is_there() -> None:
    named = re.findall(r"`((?:nntrain|tests|docs)/[\w/.]+)`", PAGE.read_text())
    assert len(named) > 8
    assert [one for one in named if not (ROOT / one).exists()] == []


def test_the_version_is_in_one_place_and_the_citation_has_it() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert config["project"]["dynamic"] == ["version"]
    assert config["tool"]["hatch"]["version"]["path"] == "nntrain/__init__.py"
    assert f"\nversion: {nntrain.__version__}\n" in (ROOT / "docs" / "CITATION.cff").read_text()
    assert f"\n## {nntrain.__version__}\n" in (ROOT / "docs" / "changelog.md").read_text()


def test_the_licence_is_at_the_root_and_is_named() -> None:
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert config["project"]["license"] == "MIT"
    assert [one for one in config["project"]["license-files"] if not (ROOT / one).is_file()] == []
