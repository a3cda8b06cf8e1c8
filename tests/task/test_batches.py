"""Batches of any shape: moved, counted, and told apart into inputs and target."""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from nntrain import (
    BatchOutput,
    DataLoaders,
    Learner,
    Metric,
    StepOutput,
    Subscriber,
    TrainState,
    batch_step,
    fit_step,
    predict,
)
from nntrain.errors import ConfigError, DataError, DataWarning, MetricError
from nntrain.log import JsonLog, WarningEvent, read
from nntrain.task.batches import sample_count
from nntrain.task.supervised import unpacked
from nntrain.update import optimizer
from nntrain.values.trees import clone_tree, described, tensors_of, to_device, tree_map

X, Y = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
META = torch.device("meta")


@dataclass(frozen=True)
class Example:
    image: Tensor
    label: Tensor


@dataclass(frozen=True)
class Pair:
    left: Example
    weights: Mapping[str, Tensor]


class Named(NamedTuple):
    inputs: Tensor
    target: Tensor


BATCHES: dict[str, Any] = {
    "tuple": (X, Y),
    "list": [X, Y],
    "mapping": {"image": X, "label": Y},
    "defaultdict": defaultdict(list, image=X, label=Y),
    "ordered": OrderedDict(image=X, label=Y),
    "dataclass": Example(X, Y),
    "named tuple": Named(X, Y),
    "nested": {"left": (X, [X, "name", None, 3]), "label": Pair(Example(X, Y), {"w": X})},
}


def leaves(tree: Any) -> list[Any]:
    """List what a tree holds."""
    if isinstance(tree, Mapping):
        return [leaf for one in tree.values() for leaf in leaves(one)]
    if isinstance(tree, (tuple, list)):
        return [leaf for one in tree for leaf in leaves(one)]
    if hasattr(tree, "__dataclass_fields__"):
        return [leaf for name in tree.__dataclass_fields__ for leaf in leaves(getattr(tree, name))]
    return [tree]


@pytest.mark.parametrize("name", BATCHES)
def test_every_tensor_is_moved_and_the_rest_is_kept(name: str) -> None:
    batch = BATCHES[name]
    there = to_device(batch, META)
    assert type(there) is type(batch)
    before, after = leaves(batch), leaves(there)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        if isinstance(one, Tensor):
            assert (one.device.type, other.device) == ("cpu", META)
            assert one.shape == other.shape
        else:
            assert one is other
    assert to_device(batch, torch.device("cpu")) is batch


@pytest.mark.parametrize("name", BATCHES)
def test_samples_are_counted(name: str) -> None:
    assert sample_count(BATCHES[name]) == 4


@pytest.mark.parametrize("name", ["tuple", "list", "mapping", "defaultdict", "ordered", "dataclass", "named tuple"])
def test_every_kind_trains_to_the_same_weights(name: str) -> None:
    torch.manual_seed(0)
    batch = BATCHES[name]
    learner: Learner[Any] = Learner(
        nn.Linear(3, 2),
        DataLoaders([batch], [batch]),
        nn.functional.cross_entropy,
        lambda preds, target: torch.zeros(()),
        torch.optim.SGD,
        0.1,
    )
    plain = learner.replace(dls=DataLoaders([(X, Y)], [(X, Y)]))
    state = learner.fit(2, print_stats=False).state
    assert state == plain.fit(2, print_stats=False).state
    assert batch_step(learner, state, batch).state.params.keys() == {"weight", "bias"}


def test_targets_by_name_come_from_any_place_and_several_inputs_go_by_name() -> None:
    inputs, named, target = unpacked({"y": Y, "image": X, "mask": X})
    assert (inputs, list(named), target is Y) == ((), ["image", "mask"], True)
    inputs, named, target = unpacked((X, X, Y))
    assert (len(inputs), dict(named), target is Y) == (2, {}, True)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ((X,), "needs inputs and a target"),
        ([], "needs inputs and a target"),
        (X, r"got float32\[4, 3\]"),
        ({"image": X}, "cannot be told"),
        ({"label": Y, "target": Y, "x": X}, "cannot be told"),
        ("text", "expected|got str|mapping"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(batch: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        unpacked(batch)


def test_a_batch_without_a_batch_dimension_is_refused() -> None:
    with pytest.raises(DataError, match="no tensor with a batch dimension"):
        sample_count((torch.tensor(1.0), 3))


def test_a_batch_without_tensors_is_described_as_it_was_given() -> None:
    batch = (np.zeros((4, 3)), np.zeros(4))
    learner: Learner[Any] = Learner(nn.Linear(3, 1), DataLoaders([batch], None), mse_loss, {}, torch.optim.SGD, 0.1)
    with pytest.raises(DataError, match=r"The batch \(tuple\(ndarray, ndarray\)\) has no tensor with"):
        learner.fit(1, print_stats=False)


def test_batches_are_described_by_shape_and_type() -> None:
    assert described((X, {"y": Y})) == "tuple(float32[4, 3], {y: int64[4]})"


class Outputs(OrderedDict[str, Tensor]):
    """As the outputs of transformers: items may be set, but not all at once."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("not at once")


def test_outputs_of_ones_own_class_are_kept_as_such() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, inputs: Tensor) -> Outputs:
            found = Outputs()
            found["logits"] = self.linear(inputs)
            return found

    seen: list[type] = []

    def metric(preds: Outputs, target: Tensor) -> Tensor:
        seen.append(type(preds))
        assert not preds["logits"].requires_grad
        return torch.zeros(())

    learner: Learner[Any] = Learner(
        Model(),
        DataLoaders([(X, Y)], [(X, Y)]),
        lambda preds, target: nn.functional.cross_entropy(preds["logits"], target),
        metric,
        torch.optim.SGD,
        0.1,
    )
    learner.fit(1, print_stats=False)
    assert seen == [Outputs, Outputs]


# -- containers of one's own are copied, and never constructed -----------------------------------------------------


@dataclass
class Scaled:
    x: Tensor
    made: int = field(init=False, default=0)
    mask: Tensor | None = field(init=False, default=None)
    times: InitVar[int] = 1

    def __post_init__(self, times: int) -> None:
        self.x, self.made, self.extra = self.x / 255, self.made + times, self.x + 1


@dataclass(frozen=True, slots=True)
class Slotted:
    x: Tensor
    name: str = "a"

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", self.x * 2)


@attrs.define
class Attrs:
    x: Tensor
    _hidden: Tensor
    made: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.made += 1


def doubled(x: Tensor) -> Tensor:
    return x * 2


@attrs.frozen(slots=False)
class FrozenAttrs:
    x: Tensor = attrs.field(converter=doubled)


class Images(list[Tensor]):
    def __init__(self, items: Any, sizes: list[int]) -> None:
        super().__init__(items)
        self.sizes = sizes


class Fixed(dict[str, Tensor]):
    def __init__(self, one: Tensor, *, note: str) -> None:
        super().__init__(one=one)
        self.note = note

    def __setitem__(self, name: str, value: Tensor) -> None:
        raise TypeError("fixed")


class Point(NamedTuple):
    x: Tensor
    y: Tensor | None


class Checked(Point):
    def __new__(cls, x: Tensor) -> Checked:
        made = super().__new__(cls, x, None)
        made.note = "checked"
        return made

    note: str


class WithAttributes(OrderedDict[str, Tensor]):
    """Each item is an attribute too, as in the outputs of transformers."""

    def __setitem__(self, name: str, value: Tensor) -> None:
        super().__setitem__(name, value)
        object.__setattr__(self, name, value)


class ReadOnly(Mapping[str, Tensor]):
    __slots__ = ("_items",)

    def __init__(self, one: Tensor, two: Tensor) -> None:
        self._items = {"one": one, "two": two}

    def __getitem__(self, name: str) -> Tensor:
        return self._items[name]

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def synchronous(x: Tensor) -> WithAttributes:
    made = WithAttributes()
    made["logits"] = x
    return made


def attributed(x: Tensor) -> defaultdict[str, Any]:
    made = defaultdict[str, Any](list)
    made["x"] = x
    return made


KINDS: dict[str, Callable[[Tensor], Any]] = {
    "dataclass": lambda x: Scaled(x, times=3),
    "frozen with slots": Slotted,
    "attrs": lambda x: Attrs(x, x + 1),
    "frozen attrs": FrozenAttrs,
    "list": lambda x: Images([x, x + 1], [1, 2]),
    "dict": lambda x: Fixed(x, note="n"),
    "named tuple": lambda x: Point(x, None),
    "named tuple's subclass": Checked,
    "items and attributes": synchronous,
    "read-only mapping": lambda x: ReadOnly(x, x + 1),
    "mapping proxy": lambda x: MappingProxyType({"x": x}),
    "UserDict": lambda x: UserDict({"x": x}),
    "defaultdict": attributed,
    "Counter": lambda x: Counter[str]({"x": x}),
    "of C": lambda x: torch.max(x, dim=0),
    "packed": lambda x: pack_sequence([x, x[:2]]),
}


def unfolded(tree: Any) -> Any:
    """Show all of a container, by way of pickle's protocol: its class, and what it holds."""
    if isinstance(tree, Tensor):
        return (tree * 1.0).tolist()
    if isinstance(tree, (tuple, list)) and type(tree) in {tuple, list}:
        return type(tree), [unfolded(one) for one in tree]
    if type(tree) is dict:
        return [(name, unfolded(one)) for name, one in tree.items()]
    if tree is None or isinstance(tree, (int, str, type)):
        return tree
    inner = tuple(tree) if isinstance(tree, (tuple, list)) else dict(tree) if isinstance(tree, Mapping) else None
    return type(tree), unfolded(inner), unfolded(object.__getstate__(tree)), getattr(tree, "default_factory", None)


@given(kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3), wrapped=st.booleans())
def test_a_tree_of_any_containers_is_mapped_as_one_that_was_made_of_the_mapped_tensors_and_copied(
    kinds: list[str], wrapped: bool
) -> None:
    tensors = [torch.arange(3.0) + 10 * number for number in range(len(kinds))]
    batch = [KINDS[kind](tensor) for kind, tensor in zip(kinds, tensors, strict=True)]
    batch = [{"in": tuple(batch)}] if wrapped else batch
    before = unfolded(batch)
    assert tree_map(batch, lambda tensor: tensor) is batch
    cloned = tree_map(batch, torch.clone)
    assert unfolded(cloned) == before
    assert not {id(one) for one in tensors_of(cloned)} & {id(one) for one in tensors_of(batch)}  # attributes too
    assert unfolded(batch) == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_class_does_when_it_is_made_is_not_done_again(kind: str) -> None:
    batch = KINDS[kind](torch.full((3,), 255.0))
    with torch.inference_mode():
        inferred = KINDS[kind](torch.full((3,), 255.0))
    there = to_device(inferred, torch.device("cpu"))
    assert type(there) is type(batch)
    if kind != "packed":  # moves by itself
        assert unfolded(there) == unfolded(batch)
    assert to_device(batch, torch.device("cpu")) is batch or kind == "packed"


def test_an_item_that_is_an_attribute_too_stays_one_tensor() -> None:
    there = tree_map(synchronous(X), torch.clone)
    assert there["logits"] is there.logits
    assert there["logits"] is not X


def test_a_named_tuple_in_a_kept_tree_is_cloned() -> None:
    kept = clone_tree(Checked(X))
    assert type(kept) is Checked
    assert kept.note == "checked"
    assert kept.x is not X
    assert torch.equal(kept.x, X)


class Graph:
    """As the batches of torch_geometric: moved by a method of their own, which changes them."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def to(self, device: Any) -> Graph:
        self.x, self.y = self.x.to(device), self.y.to(device)
        return self


class Encoding(UserDict[str, Tensor]):
    """As what a tokenizer of transformers returns."""

    def to(self, device: Any) -> Encoding:
        self.data = {name: one.to(device) for name, one in self.data.items()}
        return self


def test_what_moves_by_itself_does_so_and_the_callers_own_stays_where_it_is() -> None:
    batch: dict[str, Any] = {
        "graphs": [Graph(X, Y)],
        "text": Encoding(ids=Y),
        "packed": pack_sequence([X, X[:2]]),
        "y": Y,
    }
    there = to_device(batch, META)
    assert {there["graphs"][0].x.device, there["text"]["ids"].device, there["y"].device} == {META}
    assert type(there["packed"]) is PackedSequence
    assert there["packed"].data.device == META
    assert there["packed"].batch_sizes.device.type == "cpu"
    kept = [batch["graphs"][0].x, batch["text"]["ids"], batch["packed"].data]
    assert {one.device.type for one in kept} == {"cpu"}


# -- what a batch weighs --------------------------------------------------------------------------------------------


class Opaque:
    """A batch of a class of one's own, that nothing can be seen in."""

    def __init__(self, inputs: Tensor, target: Tensor) -> None:
        self.inputs, self.target = inputs, target


def mse(preds: Tensor, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(preds, target)


class Last(nn.Module):
    """Takes sequences [T, B, F] or packed ones, and returns [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, inputs: Any) -> Tensor:
        found: Tensor = self.out(self.gru(inputs)[1][-1]).squeeze(1)
        return found


def sequences(sizes: list[int]) -> dict[str, list[tuple[Any, Tensor]]]:
    targets = [torch.randn(size) + size for size in sizes]
    return {
        "sequence first": [(torch.randn(7, len(one), 2), one) for one in targets],
        "packed": [(pack_sequence([torch.randn(9, 2)] * len(one)), one) for one in targets],
    }


def learner_of(data: Any, model: nn.Module | None = None, **more: Any) -> Learner[Any]:
    torch.manual_seed(0)
    return Learner(model or Last(), DataLoaders(data, data), mse, {"l1": mse}, torch.optim.SGD, 0.0, **more)


@pytest.mark.parametrize("kind", ["sequence first", "packed"])
def test_samples_are_counted_by_the_target_and_a_disagreement_is_warned_of_once(kind: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    data = sequences([6, 2])[kind]
    model = Last()
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner = learner_of(data, model, unpack=lambda b: ((b[0],), {}, b[1]), sinks=[log])
        with pytest.warns(DataWarning, match="disagree.*counts as 6") as warned:
            state = fit_step(learner, learner.init(), 2).state
    assert len(warned) == 1
    events = [line.event for line in read(tmp_path / "log.jsonl")]
    assert [one.code for one in events if isinstance(one, WarningEvent)] == ["batch.samples"]
    with torch.no_grad():
        right = sum(mse(model(x), y).item() * len(y) for x, y in data) / 8
    assert [one.samples for one in state.history] == [8] * 4
    assert state.history[1].loss == pytest.approx(right)


def test_what_agrees_or_is_weighed_is_not_warned_of() -> None:
    data = sequences([6, 2])["packed"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner_of(data, unpack=lambda b: ((b[0],), {}, b[1]), weigh=lambda b: len(b[1])).fit(1, print_stats=False)
        learner_of([(torch.randn(7, 7, 2), torch.randn(7))]).fit(1, print_stats=False)


def test_unpack_is_all_that_a_batch_of_ones_own_class_needs() -> None:
    tuples = [(torch.randn(n, 2), torch.randn(n, 1)) for n in (5, 3)]
    plain = learner_of(tuples, nn.Linear(2, 1))
    own = plain.replace(
        dls=DataLoaders(*[[Opaque(*one) for one in tuples]] * 2), unpack=lambda b: ((b.inputs,), {}, b.target)
    )
    state = own.fit(1, print_stats=False).state
    assert state == plain.fit(1, print_stats=False).state
    assert state.history[0].samples == 8
    with pytest.raises(DataError, match="unpack="):
        own.replace(unpack=unpacked).fit(1, print_stats=False)


WEIGHTS: dict[str, Callable[[Tensor], Any]] = {
    "int": lambda mask: int(mask.sum()),
    "float": lambda mask: float(mask.sum()),
    "tensor of ints": lambda mask: mask.sum(),
    "tensor of floats": lambda mask: mask.float().sum(),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_means_are_over_what_the_batches_weigh(kind: str, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [
        {"x": torch.randn(4, 2, generator=generator), "mask": torch.arange(4) < n, "y": torch.randn(4, 1)}
        for n in (1, 4, 0, 3)
    ]

    def masked(preds: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(preds[target[1]], target[0][target[1]])  # NaN where nothing is left

    learner: Learner[Any] = Learner(
        nn.Linear(2, 1),
        DataLoaders(data[:2], data),
        masked,
        {"same": masked},
        torch.optim.SGD,
        0.0,
        unpack=lambda b: ((b["x"],), {}, (b["y"], b["mask"])),
        weigh=lambda b: WEIGHTS[kind](b["mask"]),
        device=device,
    )
    stats = learner.fit(1, print_stats=False).state.history[1]
    every = {name: torch.cat([one[name] for one in data]) for name in ("x", "y", "mask")}
    right = masked(learner.init().to_module().cpu()(every["x"]), (every["y"], every["mask"])).item()
    assert stats.samples == 8
    assert stats.loss == pytest.approx(right)
    assert stats.metrics["same"] == pytest.approx(right)


def test_weights_that_are_no_whole_numbers() -> None:
    data = [(torch.full((1, 1), value), torch.zeros(1, 1)) for value in (1.0, 2.0)]
    learner = learner_of(data, nn.Linear(1, 1, bias=False).requires_grad_(), weigh=lambda b: b[0].sum() / 4)
    state = learner.fit(1, print_stats=False).state
    weight = state.params["weight"].item()
    assert state.history[1].loss == pytest.approx(weight**2 * (1 * 0.25 + 4 * 0.5) / 0.75)
    assert state.history[1].samples == 1


@pytest.mark.parametrize("given", [-1, True, "3", None, float("nan"), float("inf"), torch.ones(2), torch.tensor(True)])
def test_what_is_no_weight_is_refused(given: Any) -> None:
    with pytest.raises(DataError, match="weigh returned"):
        learner_of([(torch.ones(2, 2), torch.ones(2, 1))], nn.Linear(2, 1), weigh=lambda b: given).fit(1)
    with pytest.raises(ConfigError, match="weigh is 3"):
        learner_of([(torch.ones(2, 2), torch.ones(2, 1))], nn.Linear(2, 1), weigh=3)


@pytest.mark.parametrize("kind", [dict, list])
def test_what_a_task_takes_out_of_a_batch_is_there_in_the_next_epoch(kind: type) -> None:
    def task(model: nn.Module, batch: Any) -> StepOutput[Tensor]:
        target = batch.pop("labels" if kind is dict else 1)
        preds = model(batch["inputs"] if kind is dict else batch[0])
        return StepOutput(cross_entropy(preds, target), preds, target)

    torch.manual_seed(0)
    inputs, labels = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    data: Any = [{"inputs": inputs, "labels": labels} if kind is dict else [inputs, labels]]
    sgd = optimizer(torch.optim.SGD, lr=0.1)
    learner: Learner[Any] = Learner.of(nn.Linear(3, 2), DataLoaders(data, data), task, sgd)
    seen: list[int] = []

    class Looks(Subscriber[Any]):
        def after_batch(self, state: TrainState, batch: Any, output: BatchOutput[Any]) -> TrainState:
            seen.append(len(batch))
            return state

    state = learner.replace(subs=[Looks()]).fit(2, print_stats=False).state
    assert len(list(predict(learner, state, data))) == 1
    assert len(data[0]) == 2
    assert seen == [2] * 4


def test_what_unpack_takes_out_of_a_batch_is_there_in_the_next_epoch() -> None:
    def unpack(batch: dict[str, Tensor]) -> tuple[tuple[Tensor], dict[str, Tensor], Tensor]:
        return (batch["inputs"],), {}, batch.pop("labels")

    data = [{"inputs": torch.randn(4, 3), "labels": torch.zeros(4, dtype=torch.int64)}]
    dls = DataLoaders(data, data)
    learner = Learner(nn.Linear(3, 2), dls, cross_entropy, {}, torch.optim.SGD, 0.1, unpack=unpack)
    assert learner.fit(2, print_stats=False).state.progress.step == 2
    assert len(data[0]) == 2


@pytest.mark.parametrize("where", ["preds", "target", "memory"])
def test_a_metric_that_writes_to_what_it_is_given_is_told(where: str) -> None:
    def writes(preds: Tensor, target: Tensor) -> Tensor:
        return (preds.sigmoid_() if where == "preds" else target.zero_()).sum()

    class Writes(Metric[Tensor]):
        def init(self) -> Tensor:
            return torch.zeros(())

        def update(self, memory: Tensor, output: StepOutput[Any], /) -> Tensor:
            seen: Tensor = output.preds.softmax(1).sum() + output.target.zero_().sum()
            return memory + seen

        def merge(self, one: Tensor, other: Tensor, /) -> Tensor:
            return one + other

        def compute(self, memory: Tensor, /) -> Tensor:
            return memory

    data = [(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))]
    metric: Any = Writes() if where == "memory" else writes
    learner = Learner(nn.Linear(3, 2), DataLoaders(data), cross_entropy, {"odd": metric}, torch.optim.SGD, 0.1)
    written = "predictions" if where == "preds" else "target"
    with pytest.raises(MetricError, match=f"odd writes to the {written}"):
        learner.fit(1, print_stats=False)
