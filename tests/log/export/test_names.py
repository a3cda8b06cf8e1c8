"""Names, texts and curves as other tools take them."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nntrain.log import EpochFinished, Line
from nntrain.log.export.curves import Curves
from nntrain.log.export.names import Names, name_of_run
from nntrain.log.export.text import INT64, flat, in_json, safe, safe_sentence
from nntrain.values.record import FrozenMapping
from tests.log.export import hostile
from tests.log.samples import Script, scripted

texts = hostile.texts
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(plain, lambda one: st.lists(one) | st.dictionaries(texts, one), max_leaves=8)


@given(st.lists(texts, max_size=8))
def test_names_are_given_once_are_stable_and_are_such_as_mlflow_takes(wishes: list[str]) -> None:
    from mlflow.utils import validation  # which takes seconds, also for those who run other tests

    names = Names()
    given_ = {wish: names.of(wish, wish) for wish in wishes}
    assert len({name.casefold() for name in given_.values()}) == len(given_)
    assert all(names.of(wish, wish) == name for wish, name in given_.items())
    for name in given_.values():
        validation._validate_metric_name(name)  # type: ignore[no-untyped-call] # MLflow has no types there
        validation._validate_param(name, "value")  # type: ignore[no-untyped-call] # as above


def test_a_good_name_stays_as_it_is() -> None:
    names = Names()
    assert [names.of(one, one) for one in ("top-5 accuracy/train", "Genauigkeit_ü", "lr")] == [
        "top-5 accuracy/train",
        "Genauigkeit_ü",
        "lr",
    ]
    assert [names.of(one, one) for one in ("a?", "a!", "A?")] == ["a_", "a__2", "A__3"]


@given(texts.filter(bool), st.sampled_from([0, 1, 12345, 10**70]))
def test_a_run_is_a_name_for_a_folder_inside_the_folder(run_id: str, rank: int) -> None:
    line = hostile.lines("x", run_id=run_id)[0].model_copy(update={"rank": rank})
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name_of_run(line)), name_of_run(line)


def test_runs_that_differ_have_names_that_differ() -> None:
    line = Script()
    line.say(hostile.HostileMixup(alpha=1.0))
    ids = ["a", "a-rank1", "a?", "a!", "a_", "../a", "A" * 100, "A" * 101]
    found = [
        name_of_run(line.lines[0].model_copy(update={"run_id": run_id, "rank": rank}))
        for run_id in ids
        for rank in range(3)
    ]
    assert len(set(found)) == len(found)
    assert found[:2] == ["a", "a-rank1"]


@given(texts, st.sampled_from([1, 10, 100, 65536]))
def test_safe_text_is_utf8_without_control_characters(text: str, longest: int) -> None:
    found = safe(text, longest)
    found.encode("utf-8")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028]", found)
    assert len(found) <= longest
    if text.isprintable() and len(text) <= longest:
        assert found == text


def test_what_is_cut_says_so() -> None:
    assert safe("x" * 1_000_000, 40) == "x" * 18 + "… (1000000 characters)"
    assert safe("x" * 1_000_000).endswith("x… (1000000 characters)")


def test_flat_keeps_types_and_leaves_out_what_is_absent() -> None:
    nested = {"a": {"b": 1, "c": None, "d": True}, "list": [1, 2], "mixed": [1, "x", {"y": math.nan}], "big": 10**30}
    assert dict(flat(nested)) == {
        "a.b": 1,
        "a.d": True,
        "list": [1, 2],
        "mixed": '[1, "x", {"y": "nan"}]',
        "big": str(10**30),
    }


@given(values)
def test_json_text_is_json(value: object) -> None:
    text = in_json(value)
    text.encode("utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_every_line_has_a_sentence() -> None:
    for line in [*hostile.lines(*hostile.TEXTS, extreme=True), *scripted(every=5, ends="cancelled")]:
        assert 0 < len(safe_sentence(line)) <= 500
    (said,) = {safe_sentence(line) for line in scripted(ends="failed", text="no") if line.event.event == "run_failed"}
    assert said == "RuntimeError in batch, eval of epoch 2: no"


def points(lines: list[Line]) -> dict[str, list[tuple[int, float]]]:
    curves = Curves()
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for point in curves.points(line):
            found.setdefault(point.curve, []).append((point.x, point.value))
    return found


def test_curves_of_epochs_and_batches() -> None:
    found = points(scripted(every=5, epochs=2))
    ours = ("loss", "seconds", "samples_per_s", "metric")
    names = {f"{name}/{phase}" for phase in ("train", "eval") for name in ours}
    names |= {f"{phase}_batch/{name}" for phase in ("train", "eval") for name in ("loss", "samples_per_s", "metric")}
    assert set(found) == {*names, "train_batch/lr"}
    assert [x for x, _ in found["loss/train"]] == [x for x, _ in found["loss/eval"]] == [20, 40]
    assert [x for x, _ in found["train_batch/loss"]] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [x for x, _ in found["eval_batch/loss"]] == [5, 10], "the batches evaluated: the step stands still"
    assert [value for _, value in found["samples_per_s/train"]] == [1280 / 0.2] * 2


def test_a_metric_that_is_called_as_ours_is_another_curve() -> None:
    script = Script()
    metrics = FrozenMapping({"loss": 1.0, "lr": 2.0, "acc": 3.0, "acc?": 4.0, "acc!": 5.0})
    script.say(EpochFinished(loss=0.0, metrics=metrics, batches=1, seconds=1.0))
    assert {name: value for name, [(_, value)] in points(script.lines).items()} == {
        "loss/train": 0.0,
        "metric.loss/train": 1.0,
        "metric.lr/train": 2.0,
        "acc/train": 3.0,
        "acc_/train": 4.0,
        "acc__2/train": 5.0,
        "seconds/train": 1.0,
        "samples_per_s/train": 0.0,
    }


def test_the_numbers_of_somebody_elses_event_are_curves() -> None:
    found = points(hostile.lines("x", extreme=True))
    assert found["hostile.mixup/alpha"] == [(INT64, 0.5)]
    assert found["other.package/size"] == [(INT64, 1e30)]
    assert "other.package/whole" not in found
