"""The published schema: what the code makes, and what every real line keeps to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nntrain import CancelFit, DataLoaders, Learner, Subscriber, TrainState, fit_step
from nntrain.log import JsonLog, LogEvent
from nntrain.log.events import OWN
from nntrain.log.schema import event_schema
from tests.log.samples import scripted
from tests.log.validating import validator

PUBLISHED = Path(__file__).parents[2] / "docs" / "reference" / "event.schema.json"
Batch = tuple[Tensor, Tensor]


class Noted(LogEvent, frozen=True):
    """An event of a test's own."""

    event: Literal["schema.noted"] = "schema.noted"
    value: float
    names: tuple[str, ...]


class Notes(Subscriber[Batch]):
    """Logs one, and cancels the second fit."""

    def before_fit(self, state: TrainState) -> TrainState | CancelFit:
        state = state.log(Noted(value=math.nan, names=("größer",)))
        return CancelFit(reason="no\nmore", state=state) if state.history else state


def test_the_published_schema_is_the_one_that_the_code_makes() -> None:
    made = json.dumps(event_schema(), indent=2, ensure_ascii=False) + "\n"
    assert PUBLISHED.read_text(encoding="utf-8") == made, "run: nntrain schema > docs/reference/event.schema.json"


def definitions(*, registered: bool = False) -> dict[str, Any]:
    found: Any = event_schema(registered=registered)["$defs"]
    return dict(found)


def test_it_describes_every_event() -> None:
    named = {str(kind.model_fields["event"].default) for kind in OWN}
    assert set(definitions()) == named | {"other"}
    assert "schema.noted" in definitions(registered=True)


def test_the_reference_names_every_event_and_field() -> None:
    page = (PUBLISHED.parent / "log.md").read_text(encoding="utf-8")
    for name, schema in definitions().items():
        for word in {*schema["properties"]} | {name} - {"other"}:
            assert f"`{word}`" in page, f"{name} has {word}"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Lines of a training with all that may be in a log: NaN, custom events, a cancel, a failure, a resumed run."""
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    bad = (torch.full((2, 1), math.inf), torch.zeros(2, 1))
    good = (torch.ones(2, 1), torch.zeros(2, 1))

    def fails(preds: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("größer\x1b[31m\ud800")

    with JsonLog(path, every="all") as log:
        learner = Learner(
            nn.Linear(1, 1), DataLoaders([good, bad], [good]), mse_loss, mse_loss, torch.optim.SGD, 0.1, [Notes()]
        ).replace(sinks=[log], capture=True)
        state = learner.fit(1, print_stats=False).state
        fit_step(learner, state, 1)
        with pytest.raises(RuntimeError):
            learner.replace(loss_fn=fails).fit(1)
    with JsonLog(path, every="all", resume=True) as log:
        fit_step(learner.replace(sinks=[log], subs=[]), state, 1)
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    scripts = [line.fields() for line in scripted(every=2, nan_at=3, ends="failed")]
    return written + scripts


def test_real_lines_keep_to_it(lines: list[dict[str, Any]]) -> None:
    published = validator(json.loads(PUBLISHED.read_text(encoding="utf-8")))
    full = validator(event_schema(registered=True))
    for line in lines:
        published.validate(line)
        full.validate(line)
    assert {line["event"] for line in lines} >= {str(kind.model_fields["event"].default) for kind in OWN} - {
        "checkpoint_loaded",
        "rolled_back",
    } | {"schema.noted"}


def broken(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the line with each of its fields gone, or of another type, and one field too many."""
    optional = {"nonfinite", "lr", "samples_per_s", "lost_lines"}
    for name, value in line.items():
        if name not in optional:
            yield {key: other for key, other in line.items() if key != name}
        yield {**line, name: "text" if isinstance(value, list) else []}
    yield {**line, "unheard_of": 1}
    yield {**line, "schema": "nntrain.event/2"}


@pytest.mark.sweep
def test_a_line_with_a_field_gone_or_of_another_type_breaks_it(lines: list[dict[str, Any]]) -> None:
    published = validator(event_schema())
    for line in {line["event"]: line for line in lines if "." not in line["event"]}.values():
        for other in broken(line):
            assert not published.is_valid(other), other
