"""Pictures of the report's page, to be looked at: `python -m tests.log.report_pictures FOLDER [CASE...]`.

One run, five, fifty, one with a single epoch, one amid an epoch, and a real training that is looked into: each at three
widths, light and dark, and once with everything changed that can be (smoothing, log scale).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from nntrain.log import Line, read, replay
from nntrain.log.report import page
from nntrain.values.looks import ConfusionMatrix
from tests.log.browser import Browser
from tests.log.samples import Script, scripted
from tests.log.test_report_within import trained

_ENDS: Final[Sequence[Literal["completed", "cancelled", "failed", "running"]]] = (
    *("completed", "cancelled", "failed", "running", "completed"),
)


def run(number: int, **options: Any) -> list[Line]:
    """Give the lines of a run of any number: the samples know ten."""
    run_id = f"0199b9a1-0000-7000-8000-{number:012}"
    return [line.model_copy(update={"run_id": run_id}) for line in scripted(number % 10, **options)]


def five() -> list[Line]:
    settings = [{"lr": 10.0**-at, "optimizer": ("SGD", "Adam")[at % 2]} for at in range(5)]
    return [
        line
        for at, ends in enumerate(_ENDS)
        for line in run(at, epochs=8, every=2, config=settings[at], nan_at=70 if at == 3 else None, ends=ends)
    ]


def fifty() -> list[Line]:
    sizes, metrics = {"train": 100, "eval": 5}, ("accuracy", "f1")
    made = (
        run(at, epochs=20, every=5, batches=sizes, metrics=metrics, config={"lr": at / 100, "seed": at})
        for at in range(50)
    )
    return [line for lines in made for line in lines]


def looked_into() -> list[Line]:
    with tempfile.TemporaryDirectory() as folder:
        trained(Path(folder) / "log.jsonl").fit(20, print_stats=False)
        lines = list(read(Path(folder) / "log.jsonl"))
    script = Script()
    script.run_id, script.lines = lines[0].run_id, lines
    classes = range(10)
    counts = tuple(tuple((7 * row + column) % 11 + 90 * (row == column) for column in classes) for row in classes)
    script.say(ConfusionMatrix(labels=tuple(map(str, classes)), counts=counts), epoch=19, phase="eval", batch=2)
    return script.lines


CASES: Final[dict[str, Callable[[], list[Line]]]] = {
    "one": lambda: run(0, epochs=5, every=2),
    "five": five,
    "fifty": fifty,
    "one-epoch": lambda: run(0, epochs=1),
    "amid-an-epoch": lambda: run(0, epochs=1, every=1, ends="running"),
    "looked-into": looked_into,
}


def main(folder: Path, cases: Sequence[str]) -> None:
    """Take the pictures, and say of each page how large it is, and what the browser complained of."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as browser:
        for case in cases or CASES:
            runs = replay(CASES[case]())
            content = page(runs, title=case, names=[f"sweep/run-{at:02}" for at in range(len(runs))])
            path = folder / f"{case}.html"
            path.write_text(content, encoding="utf-8")
            print(f"{case}: {len(content.encode()):,} bytes")
            for width in (400, 800, 1600):
                for scheme in ("light", "dark"):
                    browser.open(path, width=width, dark=scheme == "dark")
                    browser.shot(folder / f"{case}-{width}-{scheme}.png")
                    wide = browser.value("document.documentElement.scrollWidth")
                    for said in browser.complaints() + [f"{wide} pixels wide"] * (wide != width):
                        print(f"  {width}, {scheme}: {said}")
            browser.value("Object.assign(smoothing, { value: 0.8 }).dispatchEvent(new Event('input'))")
            browser.click("#logarithmic")
            browser.shot(folder / f"{case}-changed.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
