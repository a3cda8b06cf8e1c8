"""`nntrain new`: a small typed project to begin with."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

from nntrain.cli.commands import Command
from nntrain.cli.output import UnwritableError
from nntrain.errors import escape_untrusted

TEMPLATE: Final = files("nntrain.cli") / "template"
FILES: Final = ("train.py", "subscriber.py", "tests/test_train.py", "mypy.ini", "pyproject.toml")
"""What a project has."""


@click.command(
    cls=Command,
    short_help="Write a small project: a learner, a subscriber, tests.",
    examples=(
        "nntrain new mine",
        "nntrain new projects/mine && cd projects/mine && nntrain fit train.py:make",
        "nntrain new .          # in a folder that is empty",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def new(folder: Path) -> None:
    """Write a small typed project to DIR: a learner, a subscriber, and tests.

    DIR must be empty; it is made if it does not exist. The learner trains on the digits that come with nntrain, or on
    images of your own with --data. The tests check the subscriber with nntrain.testing. The project passes mypy's
    strict mode.
    """
    try:
        taken = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UnwritableError(folder, error) from error
    if taken or (folder.exists() and not folder.is_dir()):
        found = f"is not empty, it has {taken[0]!r}" if taken else "is a file"
        raise click.BadParameter(f"{folder} {found}. Give a folder that is new or empty.", param_hint="DIR")
    name, source = _name_of(folder), source_of(_installed_from())
    try:
        for file in FILES:
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            text = (TEMPLATE / f"{path.name}.txt").read_text(encoding="utf-8")
            path.write_text(Template(text).substitute(name=name, source=source), encoding="utf-8")
    except OSError as error:
        raise UnwritableError(folder, error) from error
    click.echo(escape_untrusted(f"{folder} has {', '.join(FILES)}"))
    click.echo("What to do next:")
    for command, what in _next(folder):
        click.echo(escape_untrusted(f"  {command:<42}{'  # ' if what else ''}{what}".rstrip()))


def _name_of(folder: Path) -> str:
    """Return the project's name, which begins the names of its slots too: as its folder's, in letters of names."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")
    return name if name[:1].isalpha() else f"project_{name}".rstrip("_")


def _installed_from() -> str | None:
    """Return the record of where nntrain was installed from (PEP 610); None where that was a registry."""
    try:
        return distribution("nntrain").read_text("direct_url.json")
    except PackageNotFoundError:
        return None


def source_of(record: str | None) -> str:
    """Return the part of pyproject.toml that lets uv find nntrain where it was found before, if no registry has it."""
    if record is None:
        return ""
    found: dict[str, Any] = json.loads(record)
    url, git = str(found["url"]), found.get("vcs_info")
    parts = urlsplit(url)
    if git is not None:
        source = {git["vcs"]: url, "rev": git["commit_id"]}
    elif parts.scheme == "file":
        source = {"path": url2pathname(parts.path)}
    else:
        source = {"url": url}
    if "subdirectory" in found:
        source["subdirectory"] = found["subdirectory"]
    said = ", ".join(f"{name} = {json.dumps(one, ensure_ascii=False)}" for name, one in source.items())
    return f"\n[tool.uv.sources]\nnntrain = {{ {said} }} # where it was installed from\n"


def _next(folder: Path) -> list[tuple[str, str]]:
    """Return the commands to try, each with what it does."""
    return [
        *([] if folder.resolve() == Path.cwd() else [(f"cd {shlex.quote(str(folder))}", "")]),
        ("nntrain fit train.py:make", "trains on the digits"),
        ("nntrain fit train.py:make --data FOLDER", "on images of your own, in a folder for each class"),
        ("pip install 'nntrain[testing]' mypy", "what the next two need"),
        ("python -m pytest", "the subscriber keeps the laws, and the loss falls"),
        ("python -m mypy", "the types are right"),
    ]
