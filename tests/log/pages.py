"""Pages of reports as the tests read them, and logs with hostile text in all of their free fields."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from typing import Any

from nntrain.log import (
    CancelledEvent,
    CheckpointLoaded,
    CheckpointSaved,
    EpochFinished,
    FitStarted,
    HistoryReplaced,
    Line,
    OtherEvent,
    RolledBack,
    RunFailed,
    RunStarted,
    WarningEvent,
    replay,
)
from nntrain.log.report import page
from nntrain.values.record import FrozenMapping
from tests.log.samples import CONFIG, Script, scripted

HOSTILE = (
    "<script>document.title = 'pwned'; window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "<!--<script>",
    "--></style></title></textarea><img src=x onerror=window.pwned=1>",
    "\"'><svg onload=window.pwned=1>",
    "<b>bold</b><br><a href='javascript:window.pwned=1'>click</a>",
    "%{x}<extra>%{fullData.name}</extra>${y}$$z$$",
    "&lt;b&gt;&amp;&#0;&nosuch;",
    "]]>\u2028\u2029\u202edesrever\u200b\ufeff",
    "\x00\x1b[31mred\x07\r\n\t\x85\x9f",
    "\ud800\udfff \uffff \U0010ffff",
    "line\n" * 8,
    "long " * 5000,
)


class Structure(HTMLParser):
    """The elements of a document with the names of their attributes, and its text; no content of scripts."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.others: list[str] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._inside = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.attributes += attrs
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}",))
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    def text(self) -> str:
        return "".join(self.words)


def drawn(content: str) -> list[dict[str, Any]]:
    """Give the figures that the page's script draws."""
    found: dict[str, Any] = json.loads(Structure(content).scripts[1])
    figures: list[dict[str, Any]] = found["figures"]
    return figures


def titled(content: str) -> dict[str, dict[str, Any]]:
    return {figure["title"]: figure for figure in drawn(content)}


def marked(figure: dict[str, Any]) -> list[str]:
    return [one["kind"] for one in figure["marks"]]


def hostile(text: str, number: int = 7) -> list[Line]:
    """Give a run with a text in all of its free fields. Where a log can hold it, lone surrogates too."""
    clean = text.encode("utf-8", "replace").decode()
    script = Script(number)
    odd = {"learner": text, "odd": {text: text, "list": [text, 1, {text: None}]}, "nothing": {}}
    script.say(RunStarted(config=FrozenMapping({**CONFIG, **odd})))
    script.say(FitStarted(epochs=2, resumed=True))
    script.say(WarningEvent(code=clean, text=clean))
    script.say(CancelledEvent(scope="batch", reason=clean, subscriber=clean, at="before_batch"))
    script.say(OtherEvent.model_validate({"event": f"acme.{clean}", "z" + clean: text, "deep": [[text]]}))
    values = FrozenMapping({clean: 0.5, "other": math.nan})
    script.say(EpochFinished(loss=1.0, metrics=values, batches=1, seconds=1.0), samples=1, batch=1, step=1)
    script.say(CheckpointSaved(path=clean, bytes=10**12, seconds=1.0, waited_seconds=0.0, digest=clean))
    script.say(CheckpointLoaded(path=clean, bytes=1, seconds=1.0, digest=clean))
    script.say(HistoryReplaced(kept=1, history=()))
    script.say(
        RolledBack(reason=clean, to_epoch=0, to_batch=1, to_step=1, times=1, at_most=3, lr_scale=0.5, new_key=True)
    )
    script.say(RunFailed(error_type=clean, error_message=clean, where=clean, traceback=clean))
    return script.lines


def hostile_page(text: str) -> str:
    one, other = replay([*hostile(text), *scripted(1)])
    return page([one.model_copy(update={"run_id": text}), other], title=text)  # the reader takes UUIDs only
