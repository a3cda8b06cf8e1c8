"""`load(save(state)) == state`: for all that a state can hold; and all or nothing, whatever fails.

`version_1.safetensors` is a file of the first version of the format, and stays as it is: what was saved once is read by
every later version. `make_version_1` is how it was made; a file that it makes today has the same record and other
bytes (when it was saved, and by which versions). Never make the committed file anew: add one for a new version instead.
"""

from __future__ import annotations

import ast
import copy
import enum
import errno
import hashlib
import itertools
import json
import math
import os
import pickle
import resource
import struct
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from nntrain import (
    DataLoaders,
    EarlyStopping,
    Learner,
    Slot,
    Subscriber,
    TrainState,
    Transition,
    accuracy,
    advance,
    epoch_step,
    fit_step,
)
from nntrain.checkpoint import container, content, inspect, load, save, verify
from nntrain.errors import CheckpointError, ConfigError, MisfitError, StateError
from nntrain.subscribers.early_stopping import Patience
from nntrain.subscribers.protocol import AnswerBatch
from nntrain.values import slots
from nntrain.values.bits import same_bits
from nntrain.values.output import BatchOutput
from nntrain.values.record import evolved
from nntrain.values.slots import Unread
from tests.laws.strategies import MODELS, Batch, Setup
from tests.log.warm import Warm
from tests.sampled import one_in
from tests.update.test_optimizers import CLASSES
from tests.update.test_optimizers import learner_of as words_learner

VERSION_1: Final = Path(__file__).with_name("version_1.safetensors")
Function = Callable[..., Any]


def halfway(learner: Learner[Any], steps: int = 2, seed: int = 0) -> TrainState:
    """Give the state amid the first epoch."""
    state = learner.init(seed, epochs=2)
    while state.progress.step < steps:
        state = advance(learner, state).state
    return state


def there_and_back(state: TrainState, learner: Learner[Any], folder: Path) -> TrainState:
    """Save a state, and load it with another learner."""
    save(state, folder / "state.safetensors")
    back = load(folder / "state.safetensors", learner)
    assert back == state, str(state.diff(back))
    assert not state.diff(back)
    assert verify(folder / "state.safetensors").progress == state.progress
    assert sorted(path.name for path in folder.iterdir()) == ["state.safetensors"]
    return back


# -- models and optimizers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optim_class", CLASSES, ids=lambda one: one.__name__)
def test_law_every_optimizer_goes_on_from_a_file(tmp_path: Path, optim_class: Any) -> None:
    learner = words_learner(optim_class)
    for steps in (0, 1, 2):
        state = halfway(learner, steps)
        straight = fit_step(words_learner(optim_class), copy.deepcopy(state)).state
        other = words_learner(optim_class)
        assert fit_step(other, there_and_back(state, other, tmp_path)).state == straight


TAKES_ALL: Final = [one for one in CLASSES if one.__name__ not in {"SparseAdam", "Muon"}]


@pytest.mark.parametrize("optim_class", one_in(4, TAKES_ALL), ids=lambda one: one.__name__)
@pytest.mark.parametrize("model", MODELS)
def test_law_every_model_with_every_optimizer(tmp_path: Path, model: str, optim_class: Any) -> None:
    def learner() -> Learner[Any]:
        return Setup(model=model).learner().replace(optim_class=optim_class)

    state = halfway(learner())
    back = there_and_back(state, learner(), tmp_path)
    assert fit_step(learner(), back).state == fit_step(learner(), state).state


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_state_of_any_device_goes_to_the_cpu_and_back(tmp_path: Path, device: torch.device, optimizer: str) -> None:
    setup = Setup(model="conv", optimizer=optimizer)
    state = halfway(setup.on(device).learner())
    there = there_and_back(state, setup.on(device).learner(), tmp_path)
    assert {one.device.type for one in there.params.values()} == {device.type}
    on_cpu = there_and_back(there, setup.learner(), tmp_path)
    assert {one.device.type for one in on_cpu.params.values()} == {"cpu"}
    back = there_and_back(on_cpu, setup.on(device).learner(), tmp_path)
    assert fit_step(setup.on(device).learner(), back).state == fit_step(setup.on(device).learner(), state).state


class Zoo(nn.Module):
    """Parameters and buffers of every kind, with names of every kind."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(1)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=source)

        self.add_module("in/ä b", nn.Linear(4, 4))
        self.register_parameter("in", nn.Parameter(drawn(3, 4).t()))
        self.register_parameter("frozen/w", nn.Parameter(drawn(2, 2), requires_grad=False))
        self.register_parameter("image", nn.Parameter(drawn(2, 3, 4, 5).to(memory_format=torch.channels_last)))
        for name, dtype in DTYPES.items():
            if (dtype.is_floating_point and dtype.itemsize > 1) or dtype.is_complex:
                self.register_parameter(f"param_{name}", nn.Parameter(drawn(3).to(dtype)))
            content = torch.randint(0, 128, (3 * dtype.itemsize,), generator=source, dtype=torch.uint8)
            self.register_buffer(f"buffer_{name}", content.view(dtype) if dtype != torch.bool else content > 60)
        self.register_buffer("scalar", torch.tensor(1 << 62))
        self.register_buffer("none", torch.empty(0, 3))
        self.register_buffer("one", drawn(1, 1, 1))
        self.register_buffer("transposed", drawn(3, 4).t())
        self.register_buffer("permuted", drawn(2, 3, 4).permute(2, 0, 1))
        self.register_buffer("wide", drawn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d))
        self.register_buffer(
            "nan", torch.tensor([0x7FC00001, -1, (1 << 31) - 1], dtype=torch.int32).view(torch.float32)
        )
        self.register_buffer("zero", torch.tensor([0.0, -0.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Use each parameter."""
        named = dict(self.named_parameters())
        scores: Tensor = self.get_submodule("in/ä b")(inputs) @ named["in"]
        others = [one for name, one in named.items() if name.startswith(("param_", "image"))]
        return scores + sum((one * one.conj()).real.sum().float() for one in others)


DTYPES: Final[Mapping[str, torch.dtype]] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.complex64, torch.complex128),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e8m0fnu),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint16, torch.uint32, torch.uint64),
    )
}


UNNAMED: Final = {torch.complex128, torch.float8_e4m3fnuz, torch.float8_e8m0fnu}
"""Those that safetensors has no names for."""


def tied_zoo() -> Zoo:
    """Make it with a weight that has two names, one of them in a submodule."""
    zoo = Zoo()
    zoo.add_module("again", nn.Module())
    zoo.get_submodule("again").register_parameter("w", zoo.get_parameter("frozen/w"))
    return zoo


def zoo_learner() -> Learner[Batch]:
    batch = torch.ones(4, 4), torch.tensor([0, 1, 2, 0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tied_zoo()
    optimizer = partial(torch.optim.SGD, momentum=0.9)
    return Learner(model, DataLoaders([batch] * 4, [batch]), cross_entropy, accuracy, optimizer, 0.01)


def test_every_dtype_name_and_layout_comes_back(tmp_path: Path) -> None:
    state = halfway(zoo_learner())
    back = there_and_back(state, zoo_learner(), tmp_path)
    assert {one.dtype for one in back.buffers.values()} == set(DTYPES.values())
    with state.borrow() as before, back.borrow() as after:
        assert before.keys() == after.keys()
        assert {name: one.stride() for name, one in after.items()} == {
            name: one.stride() for name, one in before.items()
        }
        assert sum(not one.is_contiguous() for one in after.values()) == 5
    momentum = back.tensors.snapshot().optim.state["image"]["momentum_buffer"]
    assert momentum.is_contiguous(memory_format=torch.channels_last)
    assert not momentum.is_contiguous()
    assert fit_step(zoo_learner(), back).state == fit_step(zoo_learner(), state).state


def test_other_safetensors_readers_find_the_very_tensors(tmp_path: Path) -> None:
    state = halfway(zoo_learner())
    path = save(state, tmp_path / "a.safetensors").path
    momenta = {name: kept["momentum_buffer"] for name, kept in state.tensors.snapshot().optim.state.items()}
    named = {
        **{f"params/{name}": tensor for name, tensor in state.params.items()},
        **{f"buffers/{name}": tensor for name, tensor in state.buffers.items()},
        **{f"optim/{name}/momentum_buffer": tensor for name, tensor in momenta.items()},
    }
    loaded = load_file(path)
    assert loaded.keys() == named.keys()
    for name, tensor in named.items():
        if tensor.dtype not in UNNAMED:
            assert same_bits(loaded[name], tensor), name
        else:  # as bytes
            assert loaded[name].dtype == torch.uint8
            assert loaded[name].reshape(-1).tolist() == tensor.reshape(-1).contiguous().view(torch.uint8).tolist()
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == named.keys()
        metadata = file.metadata()
        assert file.get_slice("params/in").get_shape() == [4, 3]
    assert metadata["format"] == "nntrain.checkpoint/1"
    assert metadata["digest"] == hashlib.sha256(metadata["record"].encode()).hexdigest() == inspect(path).digest
    assert json.loads(metadata["record"])["tensors"]["params/in"]["strides"] == [1, 4]


def test_groups_and_rates_that_are_tensors_come_back(tmp_path: Path) -> None:
    class Counting(torch.optim.SGD):
        """Changes its groups: numbers and tensors."""

        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                group["taken"] += 1
                group["noise"] = group["noise"] * 1.5
                group["past"] = (*group["past"], group["taken"], None, math.inf)
            return super().step(closure)

    def make(params: Any, *, lr: float) -> torch.optim.Optimizer:
        first, *others = params
        groups = [{"params": [first], "lr": torch.tensor(lr)}, {"params": others, "lr": torch.tensor(2 * lr)}]
        for group in groups:
            group |= {"taken": 0, "noise": torch.tensor([1.0, -0.0]), "past": ()}
        return Counting(groups, lr=lr, momentum=0.5)

    for lr in (0.05, lambda step: 0.1 / (1 + step)):

        def learner(lr: Any = lr) -> Learner[Any]:
            return Setup().learner().replace(optim_class=make, lr=lr)

        state = halfway(learner()).scale_lr(0.5)
        back = there_and_back(state, learner(), tmp_path)
        (group, _) = back.tensors.snapshot().optim.groups
        assert group["taken"] == 2
        assert group["noise"].tolist() == [2.25, -0.0]
        assert group["past"] == (1, None, math.inf, 2, None, math.inf)
        assert fit_step(learner(), back).state == fit_step(learner(), state).state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_dtype_goes_on_from_a_file(tmp_path: Path, dtype: torch.dtype) -> None:
    def learner() -> Learner[Any]:
        model = Setup(model="batch_norm").make_model().to(dtype)
        setup = Setup()
        train, valid = ([(x.to(dtype), y) for x, y in setup.batches(phase)] for phase in ("train", "eval"))
        return Learner(model, DataLoaders(train, valid), cross_entropy, accuracy, torch.optim.AdamW, 0.01)

    state = halfway(learner())
    back = there_and_back(state, learner(), tmp_path)
    assert fit_step(learner(), back).state == fit_step(learner(), state).state


class Sparse(nn.Module):
    """An embedding with sparse gradients, and a sparse buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, sparse=True)
        self.register_buffer("graph", torch.eye(4).to_sparse())

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.embedding(tokens) @ self.get_buffer("graph").to_dense()
        return found.sum(-1, keepdim=True).expand(-1, 7)


@pytest.mark.parametrize("optimizer", ["momentum", "sparse Adam", "Adagrad"])
def test_sparse_memory_goes_on_from_a_file(tmp_path: Path, optimizer: str) -> None:
    made: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "momentum": lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9),
        "sparse Adam": torch.optim.SparseAdam,
        "Adagrad": torch.optim.Adagrad,
    }
    tokens = [torch.arange(count, count + 5) % 7 for count in range(4)]
    dls = DataLoaders([(one, one) for one in tokens], [(tokens[0], tokens[0])])

    def learner() -> Learner[Batch]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Learner(Sparse(), dls, cross_entropy, accuracy, made[optimizer], 0.1)

    one = learner()
    straight = one.fit(3, print_stats=False).state
    state = one.init(epochs=3)
    while state.progress.step < 6:
        state = advance(one, state).state
    save(state, tmp_path / "a.safetensors")
    back = load(tmp_path / "a.safetensors", learner())
    assert back == state
    assert not back.diff(state)
    assert fit_step(learner(), back).state == straight
    assert verify(tmp_path / "a.safetensors").tensors.keys() > {"buffers/graph/indices", "buffers/graph/values"}


# -- slots ----------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    first: int
    second: str


class Inner(BaseModel, frozen=True):
    number: float = 0.0
    text: str = ""
    more: Inner | None = None


class Everything(BaseModel, frozen=True, arbitrary_types_allowed=True):
    """All that a subscriber may keep."""

    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    by_number: dict[int, str] = {}
    by_pair: dict[tuple[int, str], float] = {}
    by_colour: dict[Colour, int] = {}
    by_name: dict[str, float] = {}
    names: frozenset[str] = frozenset()
    numbers: set[int] = set()
    listed: list[list[int]] = []
    pair: Pair = Pair(0, "")
    raw: bytes = b""
    colour: Colour = Colour.RED
    level: Level | None = None
    when: datetime | None = None
    day: date | None = None
    took: timedelta = timedelta()
    price: Decimal = Decimal(0)
    path: Path = Path()
    number: float = 0.0
    big: int = 0
    flag: bool = False
    text: str = ""
    anything: bool | int | float | str | None = None
    tensor: Tensor | None = None
    tensors: dict[str, Tensor] = {}
    kept: TrainState | None = None


EVERYTHING: Final = Slot("tests.save_load", Everything, default=Everything())

FLOATS: Final = st.one_of(
    st.integers(0, (1 << 64) - 1).map(lambda bits: float(struct.unpack(">d", bits.to_bytes(8, "big"))[0])),
    st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 0.1, 1e308]),
)
TEXTS: Final = st.one_of(
    st.text(max_size=5), st.sampled_from(["\ud800", "\udfff\ud800", "\0", "</script>", "ä/ñ", "\\"])
)
INNERS: Final = st.recursive(
    st.builds(Inner, number=FLOATS, text=TEXTS),
    lambda inner: st.builds(Inner, number=FLOATS, text=TEXTS, more=inner),
    max_leaves=3,
)
TENSORS: Final = st.one_of(
    st.lists(FLOATS, max_size=3).map(lambda values: torch.tensor(values, dtype=torch.float64)),
    st.builds(lambda rows, columns: torch.arange(rows * columns).reshape(rows, columns).t(), *[st.integers(0, 3)] * 2),
    st.sampled_from(list(DTYPES.values())).map(lambda dtype: torch.zeros(2, dtype=dtype)),
    st.just(torch.tensor(3.5)),
    st.just(torch.ones(1).expand(4)),
    st.just(torch.arange(12)[::3]),
    st.just(torch.tensor([1 + 2j]).conj()),
)
EVERYTHINGS: Final = st.builds(
    Everything,
    inner=INNERS,
    inners=st.lists(INNERS, max_size=2).map(tuple),
    by_number=st.dictionaries(st.integers(-3, 1 << 70), TEXTS, max_size=2),
    by_pair=st.dictionaries(st.tuples(st.integers(), st.text(max_size=2)), FLOATS, max_size=2),
    by_colour=st.dictionaries(st.sampled_from(Colour), st.integers(), max_size=2),
    by_name=st.dictionaries(TEXTS, FLOATS, max_size=3),
    names=st.frozensets(TEXTS, max_size=3),
    numbers=st.sets(st.integers(), max_size=3),
    listed=st.lists(st.lists(st.integers(), max_size=2), max_size=2),
    pair=st.builds(Pair, st.integers(), TEXTS),
    raw=st.binary(max_size=5),
    colour=st.sampled_from(Colour),
    level=st.sampled_from([None, Level.LOW]),
    when=st.none() | st.datetimes() | st.datetimes(timezones=st.sampled_from([UTC, ZoneInfo("Europe/Berlin")])),
    day=st.none() | st.dates(),
    took=st.timedeltas(timedelta(days=-999), timedelta(days=999)),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    path=st.sampled_from([Path("a/b"), Path("/ä")]),
    number=FLOATS,
    big=st.integers() | st.sampled_from([1 << 64, -(10**4000)]),
    flag=st.booleans(),
    text=TEXTS,
    anything=st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    tensor=st.none() | TENSORS,
    tensors=st.dictionaries(st.sampled_from(["a", "a/b", "ä", "", "a~2"]), TENSORS, max_size=3),
)

LEARNER: Final = Setup().learner()
STATE: Final = copy.deepcopy(halfway(LEARNER))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(kept=EVERYTHINGS)
def test_law_slots_come_back_as_they_are(tmp_path: Path, kept: Everything) -> None:
    back = there_and_back(STATE.put(EVERYTHING, kept), LEARNER, tmp_path).get(EVERYTHING)
    assert same_bits(back, kept)
    for name in Everything.model_fields:
        assert type(getattr(back, name)) is type(getattr(kept, name)), name
    load_file(tmp_path / "state.safetensors")


def test_a_tensor_under_several_names_is_one_in_the_file_and_after_it(tmp_path: Path) -> None:
    one, equal = torch.arange(5.0), torch.arange(5.0)
    kept = Everything(tensor=one, tensors={"a": one, "b": equal, "c": one})
    back = there_and_back(STATE.put(EVERYTHING, kept), LEARNER, tmp_path).get(EVERYTHING)
    assert back.tensor is back.tensors["a"] is back.tensors["c"]
    assert back.tensors["b"] is not back.tensor
    names = [name for name in load_file(tmp_path / "state.safetensors") if name.startswith("slots/")]
    assert sorted(names) == ["slots/tests.save_load/tensor", "slots/tests.save_load/tensors/b"]


def test_states_are_kept_in_a_slot(tmp_path: Path) -> None:
    """One of the very tensors of the state, and one of others, each with slots of its own."""
    earlier = copy.deepcopy(halfway(LEARNER, 1)).put(EVERYTHING, Everything(tensor=torch.ones(3)))
    for kept in (STATE, earlier):
        state = STATE.put(EVERYTHING, Everything(kept=kept))
        back = there_and_back(state, LEARNER, tmp_path).get(EVERYTHING).kept
        assert back is not None
        assert back == kept
        assert dict(back.params).keys() == dict(kept.params).keys()
        assert fit_step(Setup().learner(), back).state == fit_step(Setup().learner(), kept).state
    size = save(STATE.put(EVERYTHING, Everything(kept=STATE)), tmp_path / "twice.safetensors").bytes
    tensors = load_file(tmp_path / "twice.safetensors")
    assert len(tensors) == len(inspect(save(STATE, tmp_path / "once.safetensors").path).tensors)
    assert size < 3 * inspect(tmp_path / "once.safetensors").bytes


class Remembering(torch.optim.SGD):
    """Keeps more than tensors and numbers for a parameter, and adds a key to its group."""

    def step(self, closure: Any = None) -> Any:
        (group,) = self.param_groups
        group["steps"] = group.get("steps", 0) + 1
        for param in group["params"]:
            memory = self.state[param]
            memory.setdefault("norms", deque(maxlen=2)).append(param.grad.norm())
            memory.setdefault("shape", param.shape)
            memory.setdefault("seen", set()).add(group["steps"])
            memory["pair"] = group["steps"], "a"
            param.grad.mul_(sum(memory["norms"]) / len(memory["seen"]))
        return super().step(closure)


def test_law_what_an_optimizer_keeps_comes_back_of_the_type_that_it_was(tmp_path: Path) -> None:
    learner, again = (Setup().learner().replace(optim_class=Remembering) for _ in range(2))
    state = halfway(learner)
    back = there_and_back(state, again, tmp_path)
    assert back == state
    ours, theirs = (one.tensors.snapshot().optim for one in (state, back))
    (memory, *_), (loaded, *_) = ours.state.values(), theirs.state.values()
    assert {name: type(value) for name, value in loaded.items()} == {
        name: type(value) for name, value in memory.items()
    }
    assert ours.groups[0]["steps"] == theirs.groups[0]["steps"] > 0
    assert fit_step(again, back).state == fit_step(learner, state).state


class Ordered(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        for param in self.param_groups[0]["params"]:
            self.state[param]["kept"] = OrderedDict(a=1)
        return super().step(closure)


def test_what_an_optimizer_keeps_and_would_not_come_back_is_refused(tmp_path: Path) -> None:
    state = halfway(Setup().learner().replace(optim_class=Ordered))
    with pytest.raises(CheckpointError, match=r"keeps kept of parameter .*, OrderedDict.* come back as \{'a': 1\}"):
        save(state, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("same_shapes", [False, True])
def test_a_state_of_another_model_in_a_slot_comes_back_as_its_own(tmp_path: Path, same_shapes: bool) -> None:
    batches = [(torch.ones(4, 2), torch.zeros(4, 1))]
    first = torch.nn.Linear(2, 1)
    other = torch.nn.Linear(2, 1) if same_shapes else torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    learners = [
        Learner(one, DataLoaders(batches, batches), torch.nn.functional.mse_loss, {}, torch.optim.Adam, 0.1)
        for one in (first, other)
    ]
    teacher = learners[1].fit(1, print_stats=False).state
    state = learners[0].init().put(EVERYTHING, Everything(kept=teacher))
    back = there_and_back(state, learners[0], tmp_path).get(EVERYTHING).kept
    assert back is not None
    assert back == teacher
    assert not back.diff(teacher)
    assert {name: one.tolist() for name, one in back.params.items()} == {
        name: one.tolist() for name, one in teacher.params.items()
    }
    assert fit_step(learners[1], back, 1).state == fit_step(learners[1], teacher, 1).state
    with pytest.raises(StateError, match="is of another model than the learner that it was loaded for"):
        back.to_module()
    again = there_and_back(learners[0].init().put(EVERYTHING, Everything(kept=back)), learners[0], tmp_path)
    assert again.get(EVERYTHING).kept == teacher


class Memory(BaseModel, frozen=True, arbitrary_types_allowed=True):
    best: float
    past: tuple[int, ...]
    inner: Inner
    weights: Tensor
    ages: dict[int, str]


MEMORY: Final = Memory(
    best=math.nan, past=(1, 2), inner=Inner(number=-0.0), weights=torch.arange(3.0), ages={1: "a", 20: "ä"}
)


def memory_slot(name: str = "tests.save_load_memory") -> Slot[Memory]:
    return Slot(name, Memory, default=MEMORY)


@pytest.mark.sweep
def test_a_slot_that_nobody_made_yet_is_kept_until_somebody_does(tmp_path: Path, warm: Warm) -> None:
    """In real processes: one that never makes the slot, and one that does so after it has loaded the state."""
    name = "tests.save_load_memory"
    save(STATE.put(memory_slot(), MEMORY), tmp_path / "0.safetensors")
    for function in (pass_slot_on, make_slot_late):
        child = warm.start(function, tmp_path / function.__name__, str(tmp_path), name)
        assert child.wait() == 0, child.stderr.read_text()
    first, second = (load(tmp_path / f"{index}.safetensors", LEARNER) for index in (0, 1))
    assert first == second == STATE.put(memory_slot(), MEMORY)
    assert inspect(tmp_path / "1.safetensors").tensors == inspect(tmp_path / "0.safetensors").tensors


def pass_slot_on(folder: str, name: str) -> None:
    assert slots.slot_record(name) is None
    state = load(f"{folder}/0.safetensors", Setup().learner())
    assert isinstance(state.slots[name], Unread)
    save(state, f"{folder}/1.safetensors")
    assert load(f"{folder}/1.safetensors", Setup().learner()) == state
    assert fit_step(Setup().learner(), state).state.slots[name] == state.slots[name]


def make_slot_late(folder: str, name: str) -> None:
    state = load(f"{folder}/1.safetensors", Setup().learner())
    with pytest.raises(MisfitError, match=r"does not take: best: Extra inputs are not permitted; past: Extra inputs"):
        state.get(Slot(name, Strict, default=Strict()))
    slot = memory_slot(name)
    assert isinstance(state.slots[name], Unread)
    assert same_bits(state.get(slot), MEMORY)
    save(state, f"{folder}/late.safetensors")
    again = load(f"{folder}/late.safetensors", Setup().learner())
    assert isinstance(again.slots[name], Memory)
    assert same_bits(again.get(slot), MEMORY)


def test_a_slot_whose_record_is_another_now_does_not_fit(tmp_path: Path) -> None:
    path = save(STATE.put(memory_slot("tests.save_load_changed"), MEMORY), tmp_path / "a.safetensors").path

    class Changed(BaseModel, frozen=True, extra="forbid", arbitrary_types_allowed=True):
        best: float
        past: str = ""
        inner: Inner
        weights: Tensor

    Slot("tests.save_load_changed", Changed, default=Changed(best=0, inner=Inner(), weights=torch.ones(1)))
    with pytest.raises(MisfitError, match=r"slot tests\.save_load_changed is no Changed") as caught:
        load(path, LEARNER)
    for said in ("past: Input should be a valid string", "ages: Extra inputs are not permitted", "Nothing was loaded"):
        assert said in str(caught.value)
    assert verify(path).slots.keys() == {"tests.save_load_changed"}


class Loose(BaseModel, frozen=True, arbitrary_types_allowed=True):
    value: Any = None


class Strict(BaseModel, frozen=True, extra="forbid"):
    """Takes nothing."""


LOOSE: Final = Slot("tests.save_load_loose", Loose, default=Loose())


UNSAVABLE: Final[Mapping[str, object]] = {
    "a lambda": lambda: None,
    "an object": object(),
    "a function within": {"a": [1, print]},
    "a sparse tensor": torch.eye(3).to_sparse(),
    "a tensor without memory": torch.empty(2, device="meta"),
    # What would come back as something else, since the field says nothing of it.
    "an ordered dict": OrderedDict(a=1),
    "an enum": Colour.RED,
    "a fraction": Fraction(1, 3),
    "a record": Inner(),
    "a time": datetime(2026, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize("what", UNSAVABLE)
def test_what_would_not_come_back_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = save(STATE, tmp_path / "a.safetensors").path
    before = path.read_bytes(), path.stat().st_ino
    watched = Failing(monkeypatch)
    with pytest.raises(CheckpointError) as caught:
        save(STATE.put(LOOSE, Loose(value=UNSAVABLE[what])), path)
    assert caught.value.problem == "unsavable"
    assert "tests.save_load_loose" in str(caught.value)
    monkeypatch.undo()
    assert "write" not in [name for name, _ in watched.noted]
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]
    assert load(path, LEARNER) == STATE


def test_only_states_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"save takes a TrainState, like outcome\.state; got Completed"):
        save(LEARNER.fit(1, print_stats=False), tmp_path / "a.safetensors")  # type: ignore[arg-type] # the mistake
    assert not list(tmp_path.iterdir())


# -- no code --------------------------------------------------------------------------------------------------------


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object, **named: object) -> object:
        raise AssertionError("pickle")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    monkeypatch.setattr(torch, "load", refused)
    monkeypatch.setattr(torch, "save", refused)
    state = STATE.put(EVERYTHING, Everything(kept=STATE, tensor=torch.ones(2), when=datetime(2026, 1, 1, tzinfo=UTC)))
    there_and_back(state, LEARNER, tmp_path)
    inspect(tmp_path / "state.safetensors")


def test_no_module_on_the_way_of_a_file_can_run_what_it_says() -> None:
    package = Path(content.__file__).parent
    for path in (*package.glob("*.py"), package.parent / "values" / "flattening.py"):
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not modules & {"pickle", "marshal", "shelve", "dill", "importlib", "torch.serialization"}, path
        assert not names & {"eval", "exec", "compile", "__import__"}, path


# -- another model, another optimizer -------------------------------------------------------------------------------


class Other(nn.Module):
    """Of the names that Tied has: some are missing, some are others, some are shaped or typed otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 5)
        self.again = nn.Linear(4, 4, dtype=torch.float64)
        self.head = nn.Linear(4, 3)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Do something."""
        scores: Tensor = self.head(inputs)
        return scores


def test_all_that_does_not_fit_is_listed_at_once_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = save(halfway(Setup(model="tied").learner()), tmp_path / "a.safetensors").path

    def make(params: Any, *, lr: float) -> torch.optim.Optimizer:
        first, *others = params
        return torch.optim.Adam([{"params": [first]}, {"params": others}], lr=lr)

    batches = Setup().batches("train")
    learner = Learner(Other(), DataLoaders(batches, batches), cross_entropy, accuracy, make, 0.05)
    with pytest.raises(MisfitError) as caught:
        load(path, learner)
    first, *lines, last = str(caught.value).splitlines()
    assert first == f"{path} does not fit the learner:"
    assert [line.strip() for line in lines] == [
        "missing parameter again.weight [4, 4] float64",
        "missing parameter head.weight [3, 4] float32",
        "missing parameter head.bias [3] float32",
        "unexpected parameter out.weight [3, 4] float32",
        "unexpected parameter out.bias [3] float32",
        "parameter inner.weight is [4, 4] float32, expected [5, 4] float32",
        "parameter inner.bias is [4] float32, expected [5] float32",
        "parameter again.bias is [4] float32, expected [4] float64",
        "missing buffer count [] float32",
        "the optimizer is torch.optim.sgd.SGD, expected torch.optim.adam.Adam",
    ]
    assert last.startswith("Nothing was loaded.")

    def grouped(params: Any, *, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": [one]} for one in params], lr=lr)

    with pytest.raises(MisfitError, match="the optimizer has 1 parameter groups, expected 5"):
        load(path, Setup(model="tied").learner().replace(optim_class=grouped))


def test_a_state_amid_a_phase_of_other_metrics_does_not_fit(tmp_path: Path) -> None:
    path = save(halfway(Setup().learner()), tmp_path / "a.safetensors").path
    with pytest.raises(
        MisfitError, match=r"(?s)a\.safetensors does not fit the learner.*amid a phase.*metrics"
    ) as caught:
        load(path, Setup().learner().replace(metric_fn={"accuracy": accuracy, "other": accuracy}))
    assert "Nothing was loaded" in str(caught.value)


@pytest.mark.parametrize("other", ["model", "optimizer", "slot", "damaged"])
def test_a_learner_that_could_not_load_trains_on_as_if_nothing_was(tmp_path: Path, other: str) -> None:
    setup = {"model": Setup(model="linear"), "optimizer": Setup(optimizer="adam")}.get(other, Setup())
    foreign = halfway(setup.learner())
    if other == "slot":
        foreign = foreign.put(memory_slot("tests.save_load_torn"), MEMORY)
    path = save(foreign, tmp_path / "a.safetensors").path
    if other == "slot":
        Slot("tests.save_load_torn", Strict, default=Strict())
    if other == "damaged":
        content_of = bytearray(path.read_bytes())
        content_of[-1] ^= 1
        path.write_bytes(content_of)
    told: list[Transition] = []
    learner = Setup().learner((), [told.append])
    state = halfway(learner)
    twin, random = copy.deepcopy(state), torch.get_rng_state()
    with pytest.raises((MisfitError, CheckpointError)):
        load(path, learner)
    assert state == twin
    assert state.tensors.owned is None  # still the live one
    assert torch.equal(torch.get_rng_state(), random)
    assert fit_step(learner, state).state == fit_step(Setup().learner(), twin).state
    assert not [event for one in told for event in one.logged]


# -- whole or not there ---------------------------------------------------------------------------------------------

CALLS: Final = ("open", "write", "fsync", "replace", "lseek", "close")


class Failing:
    """Lets the system's calls fail from outside, and notes them."""

    def __init__(
        self, patch: pytest.MonkeyPatch, kind: str = "", at: int = 0, error: BaseException | None = None
    ) -> None:
        self.noted: list[tuple[str, object]] = []
        self.failed = False
        self._lock = threading.Lock()
        self._paths: dict[int, str] = {}
        for name in CALLS:
            holder: Any = Path if name == "replace" else os
            patch.setattr(holder, name, partial(self._called, name, getattr(holder, name)))
        self._kind, self._at, self._error = kind, at, error
        # A method, not a function that is bound to its path.
        called = Path.replace
        patch.setattr(Path, "replace", lambda path, target: called(path, target))

    def _called(self, name: str, plain: Function, *given: Any, **named: Any) -> Any:
        with self._lock:
            count = sum(noted == name for noted, _ in self.noted)
            about = given[0] if isinstance(given[0], (str, Path)) else self._paths.get(given[0], given[0])
            self.noted.append((name, about))
            fails = self._error is not None and name == self._kind and count == self._at
            self.failed |= fails
        if fails:
            assert self._error is not None
            if name == "close":
                plain(*given)
            if name == "write":
                plain(given[0], given[1][: len(given[1]) // 2])  # as a full disk takes what still goes in
            raise self._error
        result = plain(*given, **named)
        if name == "open":
            self._paths[result] = str(given[0])
        return result


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()],
    ids=["ENOSPC", "EIO", "KeyboardInterrupt"],
)
def test_whatever_fails_the_file_is_the_old_one_or_the_new_one_whole(
    tmp_path: Path, kind: str, error: BaseException
) -> None:
    path, other = tmp_path / "a.safetensors", STATE.scale_lr(0.5)
    at = -1
    for at in itertools.count():
        save(STATE, path)
        before = path.read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, kind, at, error)
            caught = saved_or_not(other, path)
        assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"], (kind, at)
        if not failing.failed:
            assert caught is None
            break
        if isinstance(error, KeyboardInterrupt):
            assert caught is error
        else:
            assert isinstance(caught, CheckpointError)
            assert caught.problem == "unwritable"
            assert str(error.strerror if isinstance(error, OSError) else "") in str(caught)
        replaced = "replace" in [name for name, _ in failing.noted] and kind != "replace"
        if not replaced:
            assert path.read_bytes() == before, (kind, at)
        assert load(path, LEARNER) == (other if replaced else STATE), (kind, at)
    assert at >= {"open": 2, "write": 5, "fsync": 3, "replace": 1, "lseek": 2, "close": 2}[kind]


def saved_or_not(state: TrainState, path: Path) -> BaseException | None:
    try:
        save(state, path)
    except (CheckpointError, KeyboardInterrupt) as error:
        return error
    return None


def test_the_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(STATE, tmp_path / "a.safetensors")
    failing = Failing(monkeypatch)
    save(STATE, tmp_path / "a.safetensors")
    monkeypatch.undo()
    (opened, opened_folder) = [str(about) for name, about in failing.noted if name == "open"]
    assert Path(opened).parent == tmp_path
    assert opened.endswith(".nntrain-unfinished")
    assert opened_folder == str(tmp_path)
    of_file = [name for name, about in failing.noted if str(about) == opened and name != "lseek"]
    assert of_file[0] == "open"
    assert of_file[-4:] == ["write", "fsync", "replace", "close"]
    data, header = "".join(name[0] for name in of_file).rsplit("w", 1)
    assert "wf" in data  # the content is on the disk before the header that tells of it is written
    assert header == "frc"
    noted = [(name, str(about)) for name, about in failing.noted]
    assert noted.index(("replace", opened)) < noted.index(("fsync", str(tmp_path)))
    assert noted[-1] == ("close", str(tmp_path))


def test_a_system_that_takes_little_at_a_time_is_written_to_until_all_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.write
    monkeypatch.setattr(os, "write", lambda file, given: plain(file, given[:7]))
    there_and_back(STATE, LEARNER, tmp_path)


def test_a_file_that_may_not_grow_is_not_begun(tmp_path: Path, warm: Warm) -> None:
    """A limit of the system's, met amid the writing."""
    save(STATE, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    child = warm.start(save_limited, tmp_path / "child", str(tmp_path))
    assert child.wait() == 0, child.stderr.read_text()
    assert (tmp_path / "a.safetensors").read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.safetensors", "child"]


def save_limited(folder: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
    with pytest.raises(CheckpointError, match=r"it cannot be written .*File too large"):
        save(STATE.scale_lr(0.5), f"{folder}/a.safetensors")


def test_where_there_is_no_folder_it_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no folder .*none: make it first\."):
        save(STATE, tmp_path / "none" / "a.safetensors")
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="it cannot be written"):
        save(STATE, tmp_path / "a.safetensors")
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]


# -- states that live -----------------------------------------------------------------------------------------------


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    """Notes the operations that copy."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # same
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.noted += [name] if any(one in name for one in ("clone", "copy", "empty", "contiguous")) else []
        return func(*args, **(kwargs or {}))


def test_to_save_a_live_state_copies_no_tensor_and_leaves_it_live(tmp_path: Path) -> None:
    learner = Setup(optimizer="adam").learner()
    state = halfway(learner)
    addresses = [one.data_ptr() for one in learner.machine.workspace.module.parameters()]
    with Copies() as copies:
        save(state, tmp_path / "a.safetensors")
    assert not copies.noted
    assert state.tensors.owned is None
    assert [one.data_ptr() for one in learner.machine.workspace.module.parameters()] == addresses
    with Copies() as copies:
        state.tensors.snapshot()
    assert copies.noted  # it is seen where there is one


def test_to_save_at_each_transition_changes_no_bit(tmp_path: Path) -> None:
    for setup in (Setup(model="conv", optimizer="adamw"), Setup(model="dropout", optimizer="lbfgs")):
        saving = setup.learner((), [lambda one: save(one.state, tmp_path / "a.safetensors")])
        outcome = saving.fit(2, print_stats=False)
        assert not outcome.sink_failures
        assert outcome.state == setup.learner().fit(2, print_stats=False).state


def test_other_threads_save_what_the_state_is_while_the_training_goes_on(tmp_path: Path) -> None:
    setup = Setup(model="conv", optimizer="adamw", train=(4,) * 12)
    threads: list[threading.Thread] = []
    twins: list[TrainState] = []

    def hand_on(one: Transition) -> None:
        path = tmp_path / f"{len(threads)}.safetensors"
        threads.append(threading.Thread(target=save, args=(one.state, path)))
        threads[-1].start()

    outcome = setup.learner((), [hand_on]).fit(2, print_stats=False)
    for thread in threads:
        thread.join()
    straight = setup.learner((), [lambda one: twins.append(copy.deepcopy(one.state))]).fit(2, print_stats=False)
    assert outcome.state == straight.state
    assert len(twins) == len(threads) > 30
    learner = setup.learner()
    for index, twin in enumerate(twins):
        assert load(tmp_path / f"{index}.safetensors", learner) == twin


# -- versions -------------------------------------------------------------------------------------------------------


class Kept(BaseModel, frozen=True, arbitrary_types_allowed=True):
    """What a subscriber keeps in the committed file."""

    seen: int = 0
    losses: tuple[float, ...] = ()
    names: dict[int, str] = {}
    mean: Tensor | None = None
    note: str = "ä"


KEPT: Final = Slot("tests.version_1", Kept, default=Kept())
STOPPING: Final = EarlyStopping(patience=5)


class Keeps(Subscriber[Batch]):
    """Keeps numbers, text and a tensor."""

    def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> AnswerBatch:
        kept = state.get(KEPT)
        losses = (*kept.losses, output.loss.item())[-2:]
        assert isinstance(output.preds, Tensor)
        mean = output.preds.mean(0) if kept.mean is None else (kept.mean + output.preds.mean(0)) / 2
        names = {**kept.names, state.progress.step: state.progress.phase}
        return state.put(KEPT, Kept(seen=kept.seen + 1, losses=losses, names=names, mean=mean))


def version_1_learner() -> Learner[Batch]:
    """A small MLP with Adam, and the subscribers whose slots are in the file."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    inputs = torch.arange(16.0).reshape(8, 2).sin()
    batches = [
        (inputs[:3], torch.tensor([0, 1, 0])),
        (inputs[3:6], torch.tensor([1, 1, 0])),
        (inputs[6:], torch.tensor([0, 1])),
    ]
    with torch.no_grad():
        for number, param in enumerate(model.parameters()):
            param.copy_(torch.linspace(-1, 1, param.numel()).reshape(param.shape) + 0.1 * number)
    subs: Sequence[Any] = [Keeps(), STOPPING]
    return Learner(model, DataLoaders(batches, batches[:2]), cross_entropy, accuracy, torch.optim.Adam, 0.01, subs)


def make_version_1(path: Path) -> None:
    """Make the file: amid the second epoch, at half of the learning rate."""
    learner = version_1_learner()
    state = epoch_step(learner, epoch_step(learner, learner.init(3, epochs=2)).state).state.scale_lr(0.5)
    while (state.progress.epoch, state.progress.batch) != (1, 2):
        state = advance(learner, state).state
    save(state, path)


def check_version_1(state: TrainState) -> None:
    """Check each value, to the last bit."""
    assert state.progress.model_dump() == {
        **{"at": "batch", "epochs": 2, "epoch": 1, "phase": "train", "batch": 2, "step": 5, "samples": 6},
        **{"data": "", "until": None},
    }
    assert (state.key.seed, state.key.folds, state.lr_scale) == (3, (), 0.5)
    stopping = state.get(STOPPING.slot)
    kept = state.get(KEPT)
    snapshot = state.tensors.snapshot()
    found = {
        **{f"params/{name}": digest(tensor) for name, tensor in snapshot.params.items()},
        **{
            f"optim/{name}/{key}": digest(tensor)
            for name, part in snapshot.optim.state.items()
            for key, tensor in part.items()
        },
        "sums": [value.hex() for value in state.sums.weighted.tolist()],
        "history": [
            (one.epoch, one.phase, one.loss.hex(), dict(one.metrics), one.samples, one.batches) for one in state.history
        ],
        "kept": (kept.seen, tuple(loss.hex() for loss in kept.losses), kept.names, digest(kept.mean), kept.note),
        "stopping": (stopping.best and stopping.best.hex(), stopping.waited),
    }
    assert found == VERSION_1_VALUES
    assert snapshot.optim.kind == "torch.optim.adam.Adam"


def digest(tensor: Tensor | None) -> str:
    """Digest dtype, shape and bytes."""
    assert tensor is not None
    content_of = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{str(tensor.dtype)[6:]}{list(tensor.shape)} {hashlib.sha256(content_of).hexdigest()[:16]}"


VERSION_1_DIGEST: Final = "ba69339462332d8e213b7cf5b711e7cc56f0fe602b104720199a6ff8c2cbbfc4"
VERSION_1_VALUES: Final[dict[str, Any]] = {
    "params/0.weight": "float32[3, 2] 2f15a3065adf73fe",
    "params/0.bias": "float32[3] 6fa1f6814cdec48d",
    "params/2.weight": "float32[2, 3] d9e7bbdd960b0738",
    "params/2.bias": "float32[2] bf7c076816d7507a",
    "optim/0.weight/step": "float32[] fca31f1667a6aa1b",
    "optim/0.weight/exp_avg": "float32[3, 2] d5658deb54b24523",
    "optim/0.weight/exp_avg_sq": "float32[3, 2] 776778fb350585ee",
    "optim/0.bias/step": "float32[] fca31f1667a6aa1b",
    "optim/0.bias/exp_avg": "float32[3] 231f19ea7e4ce4c5",
    "optim/0.bias/exp_avg_sq": "float32[3] 14363dc0c6cc6815",
    "optim/2.weight/step": "float32[] fca31f1667a6aa1b",
    "optim/2.weight/exp_avg": "float32[2, 3] 496ffdc80c390f3f",
    "optim/2.weight/exp_avg_sq": "float32[2, 3] 290432dd6fe612e9",
    "optim/2.bias/step": "float32[] fca31f1667a6aa1b",
    "optim/2.bias/exp_avg": "float32[2] 4a2515ae4838acb9",
    "optim/2.bias/exp_avg_sq": "float32[2] e38d5fec56a8e55f",
    "sums": ["0x1.251ad22000000p+3", "0x1.800000c000000p+1"],
    "history": [
        (0, "train", "0x1.ac24fca000000p+0", {"metric": 0.5000000111758709}, 8, 3),
        (0, "eval", "0x1.87a61f8000000p+0", {"metric": 0.5000000149011612}, 6, 2),
    ],
    "kept": (
        7,
        ("0x1.2638240000000p+1", "0x1.8259260000000p-1"),
        {1: "train", 2: "train", 3: "eval", 4: "train", 5: "train"},
        "float32[2] fafd420bb28ed372",
        "ä",
    ),
    "stopping": ("0x1.87a61f8000000p+0", 0),
}


def test_a_file_of_the_first_version_is_read_to_the_last_bit(tmp_path: Path) -> None:
    assert hashlib.sha256(VERSION_1.read_bytes()).hexdigest() == VERSION_1_DIGEST
    learner = version_1_learner()
    state = load(VERSION_1, learner)
    check_version_1(state)
    assert verify(VERSION_1).format == "nntrain.checkpoint/1"
    finished = fit_step(learner, state).state
    assert [(one.epoch, one.phase) for one in finished.history] == [
        (e, phase) for e in (0, 1) for phase in ("train", "eval")
    ]
    assert isinstance(finished.get(STOPPING.slot), Patience)
    there_and_back(state, version_1_learner(), tmp_path)


def test_a_file_made_today_has_the_same_record(tmp_path: Path) -> None:
    """Apart from when it was, by which versions, and the numbers, whose last bits are the machine's."""
    make_version_1(tmp_path / "a.safetensors")
    then, now = (record_of(path) for path in (VERSION_1, tmp_path / "a.safetensors"))
    ((_, slots),) = then["state"]["state"]["slots"].items()
    ((_, stopping),) = slots.pop("nntrain.early_stopping.eval_min_5_0x2e0_loss").items()
    slots["nntrain.early_stopping.eval_min_loss"] = {"record": {**stopping, "since": 0}}  # it says less in its name now
    assert shape_of(now) == shape_of(then)


def record_of(path: Path) -> Any:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["record"])


def shape_of(tree: Any) -> Any:
    """Give the kinds and names of a tree's values."""
    if isinstance(tree, dict):
        return {name: shape_of(part) for name, part in tree.items()}
    return [shape_of(part) for part in tree] if isinstance(tree, list) else type(tree).__name__


def test_an_old_file_goes_through_each_migration_and_a_new_one_through_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if two versions had come since: the third calls the rate's scale otherwise, and halves it."""

    def second(record: dict[str, Any]) -> dict[str, Any]:
        parts = record["state"]["state"]
        parts["scale"] = parts.pop("lr_scale")
        return record

    def third(record: dict[str, Any]) -> dict[str, Any]:
        parts = record["state"]["state"]
        parts["lr_scale"] = parts.pop("scale") / 2
        return record

    for module in (container, content):
        monkeypatch.setattr(module, "VERSION", 3)
    monkeypatch.setattr(content, "MIGRATIONS", {1: second, 2: third})
    state = load(VERSION_1, version_1_learner())
    check_version_1(evolved(state, lr_scale=2 * state.lr_scale))
    assert inspect(VERSION_1).lr_scale == verify(VERSION_1).lr_scale == 0.25
    path = save(state, tmp_path / "new.safetensors").path
    assert inspect(path).format == "nntrain.checkpoint/3"
    assert load(path, version_1_learner()) == state


def test_a_file_of_a_newer_version_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (container, content):
            patch.setattr(module, "VERSION", 2)
        path = save(STATE, tmp_path / "a.safetensors").path
    for read in (partial(load, learner=LEARNER), inspect, verify):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert caught.value.problem == "version"
        assert str(caught.value) == (
            f"{path}: it has the format nntrain.checkpoint/2; this nntrain reads up to 1. Install a newer one."
        )
