"""Law 13, whole-phase metrics: a phase's metric is that of all its samples at once.

However they were batched, in whatever order parts were merged, in training and in eval, eager and recorded, and resumed
from a file at any batch in a new learner. What counts, ranks or compares is exact; a mean of floats, which are added in
another order, is held to 1e-6 of itself (1e-5 for sums in float32, as torchmetrics' R2 has).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import (
    BatchOutput,
    DataLoaders,
    Learner,
    Metric,
    StepOutput,
    Subscriber,
    TrainState,
    accuracy,
    advance,
    fit_step,
)
from nntrain.checkpoint import load, save
from nntrain.metrics import from_torchmetrics
from nntrain.metrics.phase import PhaseMetrics, computed, merged
from tests.metrics.own import CLASSES, EXACT, OWN, expected
from tests.sampled import TRIES

Batch = tuple[Tensor, Tensor]
SIZES: Final = st.lists(st.integers(1, 7), max_size=4)
"""The batches of a phase, before a last one of two samples: of one alone there is no R2."""


def theirs() -> dict[str, Any]:
    """Give torchmetrics' metrics, and skip where it is not installed."""
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: nntrain[torchmetrics]")
    from torchmetrics import MaxMetric, MeanMetric
    from torchmetrics.classification import (
        MulticlassAUROC,
        MulticlassConfusionMatrix,
        MulticlassF1Score,
        MulticlassJaccardIndex,
    )
    from torchmetrics.regression import R2Score

    return {
        "auroc": MulticlassAUROC(CLASSES),
        "binned": MulticlassAUROC(CLASSES, thresholds=20),
        "f1": MulticlassF1Score(CLASSES),
        "iou": MulticlassJaccardIndex(CLASSES),
        "cm": MulticlassConfusionMatrix(CLASSES),
        "r2": R2Score(),
        "mean": MeanMetric(),
        "max": MaxMetric(),
    }


def inputs_of(name: str) -> Any:
    """Give what an update is given of a batch, where that is not (preds, target)."""
    if name in {"auroc", "binned"}:  # their softmax has other last bits for other batches: that parts ties, moves bins
        return lambda output: (output.preds.double().softmax(1).mul(1e4).round().div(1e4), output.target)
    return (lambda output: (output.preds[:, 0], output.target.float())) if name == "r2" else None


def adapted() -> dict[str, Metric[Any]]:
    return {name: from_torchmetrics(one, inputs_of(name)) for name, one in theirs().items()}


def samples(count: int, seed: int) -> Batch:
    source = torch.Generator().manual_seed(seed)
    # coarse, so that scores tie
    return torch.randn(count, 4, generator=source).mul(2).round(), torch.randint(0, CLASSES, (count,), generator=source)


def split(data: Batch, sizes: list[int]) -> list[Batch]:
    return list(zip(torch.split(data[0], sizes), torch.split(data[1], sizes), strict=True))


def batches_of(sizes: list[int], seed: int) -> list[Batch]:
    return split(samples(sum(sizes) + 2, seed), [*sizes, 2])


def close(name: str, one: float, other: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    exact = name in EXACT or name.split("/", maxsplit=1)[0] in EXACT
    return one == other if exact else math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)


def assert_values(found: Mapping[str, float], wanted: Mapping[str, float]) -> None:
    assert {name for name in wanted if name not in found or not close(name, found[name], wanted[name])} == set(), (
        dict(found),
        wanted,
    )


class Collects(Subscriber[Batch]):
    """Keeps, outside of the training, what each phase's batches gave."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, str], list[Batch]] = {}

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
        place = state.progress.epoch, state.progress.phase
        assert isinstance(output.preds, Tensor)
        self.seen.setdefault(place, []).append((output.preds.clone(), batch[1].clone()))
        return state


def learner_of(
    metrics: Mapping[str, Any], train: list[Batch], valid: list[Batch], subs: tuple[Any, ...] = (), **others: Any
) -> Learner[Batch]:
    torch.manual_seed(0)
    dls = DataLoaders(train, valid)
    metrics = {"accuracy": accuracy, **metrics}
    return Learner(nn.Linear(4, CLASSES), dls, cross_entropy, metrics, torch.optim.SGD, 0.3, subs, **others)


def at_once(name: str, metric: Any, preds: Tensor, target: Tensor) -> dict[str, float]:
    """Give torchmetrics' own result for all samples, in one update."""
    metric = copy.deepcopy(metric)
    given = inputs_of(name)
    if given is not None:
        metric.update(*given(StepOutput(None, preds, target)))
    else:
        metric.update(*((preds,) if name in {"mean", "max"} else (preds, target)))
    result = metric.compute()
    if not result.ndim:
        return {name: result.item()}
    return {f"{name}/{row}/{column}": result[row, column].item() for row in range(CLASSES) for column in range(CLASSES)}


drawn = given(train=SIZES, valid=SIZES, seed=st.integers(0, 100), capture=st.booleans())
# torchmetrics tells of classes without samples
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def phases_have_the_values_of_all_their_samples(train: list[int], valid: list[int], seed: int, capture: bool) -> None:
    """Both phases of two epochs: in training each batch meets other weights."""
    collects = Collects()
    batches = batches_of(train, seed), batches_of(valid, seed + 1)
    originals = theirs()
    metrics = {name: make() for name, make in OWN.items()} | {f"tm_{name}": one for name, one in adapted().items()}
    outcome = learner_of(metrics, *batches, subs=(collects,), capture=capture).fit(2, print_stats=False)
    assert len(outcome.state.history) == 4
    for stats in outcome.state.history:
        seen = collects.seen[stats.epoch, stats.phase]
        preds, target = torch.cat([one[0] for one in seen]), torch.cat([one[1] for one in seen])
        assert_values(stats.metrics, expected(preds, target))
        found = {name.removeprefix("tm_"): value for name, value in stats.metrics.items() if name.startswith("tm_")}
        for name, metric in originals.items():
            assert_values(found, at_once(name, metric, preds, target))


test_a_phase_has_the_values_of_all_its_samples = settings(max_examples=5)(
    drawn(phases_have_the_values_of_all_their_samples)
)
test_many_phases_have_the_values_of_all_their_samples = pytest.mark.sweep(
    drawn(phases_have_the_values_of_all_their_samples)
)


def fold_of(metrics: PhaseMetrics, batches: list[Batch]) -> dict[str, Any]:
    memory: dict[str, Any] = metrics.init()
    for preds, target in batches:
        memory = metrics.update(memory, StepOutput(None, preds, target, len(target)))
    return memory


@pytest.mark.parametrize("kind", ["own", "torchmetrics"])
def test_parts_are_merged_in_any_order(kind: str) -> None:
    made = PhaseMetrics({name: make() for name, make in OWN.items()} if kind == "own" else adapted())

    @settings(max_examples=15)
    @given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=6), data=st.data())
    def check(sizes: list[int], data: st.DataObject) -> None:
        preds = torch.randn(sum(sizes), CLASSES, generator=torch.Generator().manual_seed(sum(sizes))).mul(2).round()
        preds, target = preds.softmax(1), samples(sum(sizes), len(sizes))[1]
        whole = fold_of(made, [(preds, target)])
        parts = [fold_of(made, [one]) for one in split((preds, target), sizes)]
        parts.insert(data.draw(st.integers(0, len(parts))), made.init())
        while len(parts) > 1:  # any order, any grouping
            first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
            second = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
            parts.append({name: merged(name, metric, first[name], second[name]) for name, metric in made.whole.items()})
        for name, metric in made.whole.items():
            assert_values(computed(name, metric, parts[0][name]), computed(name, metric, whole[name]))

    check()


def any_transition_is_gone_on_from_by_a_new_learner(
    tmp_path_factory: pytest.TempPathFactory, train: list[int], valid: list[int], seed: int, capture: bool
) -> None:
    """Through a file, with what the metrics remember; and no kept state has changed (law 1)."""
    path = tmp_path_factory.getbasetemp() / "law13.safetensors"
    batches = batches_of(train, seed), batches_of(valid, seed + 1)

    def make() -> Learner[Batch]:
        metrics = {name: make() for name, make in OWN.items()} | {f"tm_{name}": one for name, one in adapted().items()}
        return learner_of(metrics, *batches, capture=capture)

    learner = make()
    straight = fit_step(learner, learner.init(seed), 1)
    state, kept, copies = learner.init(seed, 1), list[TrainState](), list[TrainState]()
    while state.progress.at != "finished":
        kept.append(state)
        copies.append(copy.deepcopy(state))
        save(state, path)
        new = make()
        loaded = load(path, new)
        assert loaded == state
        assert not loaded.diff(state)
        assert fit_step(new, loaded) == straight
        state = advance(learner, state).state
    assert state == straight.state
    assert kept == copies
    amid = [one for one in kept if one.progress.at == "batch" and one.progress.batch]
    assert all(one.sums.memory.keys() >= OWN.keys() for one in amid)
    assert not kept[0].sums.memory
    assert not any(one.sums.memory for one in kept if one.progress.at == "before_epoch")


@pytest.mark.parametrize("capture", [False, True])
def test_each_transition_is_gone_on_from_by_a_new_learner(
    tmp_path_factory: pytest.TempPathFactory, capture: bool
) -> None:
    any_transition_is_gone_on_from_by_a_new_learner(tmp_path_factory, [3, 1], [2], 0, capture)


FITS = TRIES * 2 // 5
"""Twenty in the sweep, and two hundred with --hypothesis-profile=sweep: each is gone on from at every transition."""
test_each_transition_of_many_fits_is_gone_on_from = pytest.mark.sweep(
    settings(max_examples=FITS)(drawn(any_transition_is_gone_on_from_by_a_new_learner))
)


def test_what_a_state_remembers_is_handed_out_as_a_copy() -> None:
    data = samples(6, 0)
    learner = learner_of({"f1": OWN["f1"]()}, split(data, [3, 3]), [data])
    state = advance(learner, advance(learner, advance(learner, learner.init(0, 1)).state).state).state
    before = copy.deepcopy(state)
    state.sums.memory["f1"].add_(1)
    assert state == before
    assert state.sums.memory["f1"].sum() == 3


def test_the_classes_of_what_is_remembered_come_back_from_a_file(tmp_path: Path) -> None:
    data = samples(6, 0)
    learner = learner_of({name: make() for name, make in OWN.items()}, split(data, [3, 3]), [data])
    state = advance(learner, advance(learner, advance(learner, learner.init(0, 1)).state).state).state
    save(state, tmp_path / "state.safetensors")
    memory = load(tmp_path / "state.safetensors", learner).sums.memory
    assert {name: type(one) for name, one in memory.items()} == {
        name: type(make().init()) for name, make in OWN.items()
    }
