"""The pictures of the README: `python -m tests.docs.pictures` makes them anew, of trainings that it runs.

`docs/pictures/terminal.svg` is a terminal with what two commands print, and `report.png` the page that a third makes,
as a browser shows it.
"""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from rich.console import Console
from rich.text import Text

from tests.docs.test_docs import ROOT
from tests.log.browser import Browser

FOLDER: Final = ROOT / "docs" / "pictures"
SHOWN: Final = ("nntrain fit --epochs 3 --checkpoint-dir run", "nntrain fit --epochs 5 --checkpoint-dir run --resume")
REPORT: Final = (
    "nntrain fit --epochs 6 --lr 0.1 --log-every 5 --log slow.jsonl --quiet",
    "nntrain fit --epochs 6 --lr 0.4 --log-every 5 --log fast.jsonl --quiet",
    "nntrain report slow.jsonl fast.jsonl",
)


def printed(command: str, folder: Path) -> str:
    """Run a command in a folder, and return what it prints."""
    words = [sys.executable, "-m", *shlex.split(command)]
    return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True, timeout=300).stdout


def terminal(folder: Path) -> None:
    """Draw what the commands print."""
    console = Console(record=True, file=io.StringIO(), width=100)
    for command in SHOWN:
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text(printed(command, folder).rstrip()))
    console.save_svg(str(FOLDER / "terminal.svg"), title="nntrain fit", unique_id="terminal")


def report(folder: Path) -> None:
    """Take a picture of a report's head."""
    for command in REPORT:
        printed(command, folder)
    with Browser(folder / "browser") as browser:
        browser.open(folder / "report.html", width=1200)
        browser.shot(folder / "report.png", whole=False)
    shot = Image.open(folder / "report.png").convert("RGB")
    shot.quantize(64).save(FOLDER / "report.png", optimize=True)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        terminal(Path(made))
        report(Path(made))
