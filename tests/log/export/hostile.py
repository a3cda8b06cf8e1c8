"""Lines that a hostile, or unlucky, training would log: the exporters' tests share them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal

from hypothesis import strategies as st

from nntrain.log import (
    BatchFinished,
    CancelledEvent,
    CheckpointLoaded,
    CheckpointSaved,
    EpochFinished,
    FitStarted,
    HistoryReplaced,
    Line,
    LogEvent,
    OtherEvent,
    PastPhase,
    RolledBack,
    RunFailed,
    RunFinished,
    RunStarted,
    WarningEvent,
)
from nntrain.values.record import FrozenMapping
from tests.log.samples import Script

TEXTS = (
    "",
    "<script>alert(1)</script>",
    "two\nlines\r\nand\u2028more",
    "a NUL \0 and a bell \a",
    "a lone surrogate \ud800",
    "\x1b[31mred\x1b[0m \x9b2J",
    "=HYPERLINK(A1)",
    "@SUM(1)",
    '"quoted", comma; `code` ``` | table |',
    "../../../etc/passwd",
    "/..",
    "a//b",
    ".",
    "_wandb",
    "loss",
    "日本語 ✓",
    "x" * 1_000_000,
)
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=()), max_size=40)


class HostileMixup(LogEvent, frozen=True):
    event: Literal["hostile.mixup"] = "hostile.mixup"
    alpha: float
    names: tuple[str, ...] = ()
    count: int | None = None


def lines(*said: str, run_id: str = "", extreme: bool = False) -> list[Line]:
    """Give a run in which every free text is one of `said`; if `extreme`, with numbers and times at their ends too."""
    one, *more = said or ("text",)
    far = 10**30 if extreme else 7
    metrics = FrozenMapping({name: index / 7 for index, name in enumerate(said)} | {"nan": math.nan, "inf": -math.inf})
    script = Script(started=datetime(9999, 1, 1, tzinfo=UTC) if extreme else None)
    script.say(RunStarted(config=FrozenMapping({one: one, "versions": {one: one}, "nested": {one: list(said)}})))
    script.say(FitStarted(epochs=far, resumed=False))
    script.say(WarningEvent(code=one, text=one))
    script.say(BatchFinished(loss=1e300 if extreme else 0.5, metrics=metrics, lr=0.1), batch=1, step=1)
    script.say(EpochFinished(loss=math.inf, metrics=metrics, batches=far, seconds=0.0), step=far, samples=far)
    script.say(BatchFinished(loss=math.nan, metrics=metrics), phase="eval")
    script.say(EpochFinished(loss=math.nan, metrics=metrics, batches=1, seconds=0.5))
    script.say(HostileMixup(alpha=0.5, names=said, count=far))
    script.say(OtherEvent.model_validate({"event": "other.package", "size": far, "about": one, "whole": True}))
    past = PastPhase(epoch=0, phase="train", loss=math.nan, metrics=metrics, samples=1, batches=1, seconds=0.1)
    script.say(HistoryReplaced(kept=0, history=(past,)), step=0)
    script.say(CancelledEvent(scope="fit", reason=one, subscriber=one, at="before_epoch"))
    script.say(CheckpointSaved(path=one, bytes=far, seconds=0.1, waited_seconds=0.0, digest=one))
    script.say(CheckpointLoaded(path=one, bytes=far, seconds=0.1, digest=one))
    script.say(
        RolledBack(reason=one, to_epoch=0, to_batch=1, to_step=far, times=1, at_most=far, lr_scale=0.5, new_key=True)
    )
    script.say(RunFailed(error_type=one, error_message=one, where=one, traceback="\n".join([one, *more])))
    script.say(RunFinished())
    return [line.model_copy(update={"run_id": run_id or line.run_id}) for line in script.lines]
