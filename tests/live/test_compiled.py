"""Compiled steps: the bits of the plain ones where the kernels are the same, the laws in any case."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import BatchOutput, DataLoaders, Learner, Subscriber, TrainState, accuracy, advance, fit_step
from nntrain.errors import ConfigError, LossError
from nntrain.log import JsonLog
from tests.laws.strategies import Kept

SOURCE = torch.Generator().manual_seed(0)
Batch = tuple[Tensor, Tensor]


def batches(*sizes: int) -> list[Batch]:
    return [(torch.randn(n, 4, generator=SOURCE), torch.randint(0, 3, (n,), generator=SOURCE)) for n in sizes]


TRAIN, VALID = batches(6, 6, 6, 3), batches(5, 5)

VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])
same_kernels = pytest.mark.skipif(VERSION < (2, 15), reason="torch 2.11 takes another way through a traced SGD")


class Counted:
    """A backend that runs a graph as it is, and counts how many it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, examples: object) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Begin each test with nothing compiled."""
    torch.compiler.reset()


def learner_of(**changes: Any) -> Learner[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    options: dict[str, Any] = {
        "model": model,
        "dls": DataLoaders(TRAIN, VALID),
        "loss_fn": cross_entropy,
        "metric_fn": accuracy,
        "optim_class": torch.optim.SGD,
        "lr": 0.1,
        **changes,
    }
    return Learner(**options)


@same_kernels
@pytest.mark.sweep
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_with_eager_kernels_the_bits_are_the_plain_ones(device: torch.device, momentum: float) -> None:
    optim_class = functools.partial(torch.optim.SGD, momentum=momentum)
    plain = learner_of(device=device, optim_class=optim_class).fit(2, print_stats=False).state
    backend = {"backend": "aot_eager"}
    state = learner_of(device=device, optim_class=optim_class, compile=backend).fit(2, print_stats=False).state
    assert state == plain


@pytest.mark.sweep
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductors_code_trains_alike_and_always_the_same() -> None:
    plain = learner_of().fit(2, print_stats=False).state
    learner = learner_of(compile=True)
    state = learner.fit(2, print_stats=False).state
    for name, tensor in plain.params.items():
        assert torch.allclose(state.params[name], tensor, atol=1e-4), name
    assert learner.fit(2, print_stats=False).state == state


@pytest.mark.sweep
def test_kept_states_stay_and_are_gone_on_from() -> None:
    learner = learner_of(compile={"backend": "aot_eager"}, optim_class=torch.optim.Adam)
    state = learner.init(epochs=1)
    kept: list[Kept] = []
    while state.progress.at != "finished":
        kept.append(Kept(state))
        state = advance(learner, state).state
    for one in kept:
        one.check()
        assert fit_step(learner, one.state).state == state


@pytest.mark.sweep
def test_every_learner_of_a_process_is_compiled() -> None:
    """torch gives up on a code object after eight learners, if they share it."""
    graphs = []
    for _ in range(12):
        backend = Counted()
        learner_of(compile={"backend": backend}).fit(1, print_stats=False)
        graphs.append(backend.graphs)
    assert graphs[0] >= 3  # train, eval, and the optimizer's step
    assert set(graphs) == {graphs[0]}


@pytest.mark.sweep
def test_a_schedule_compiles_nothing_anew() -> None:
    def graphs(steps: int) -> int:
        backend = Counted()
        learner = learner_of(
            compile={"backend": backend},
            dls=DataLoaders(TRAIN[:1] * steps, VALID),
            lr=lambda step: 0.1 / (1 + step),
            optim_class=torch.optim.Adam,
        )
        learner.fit(1, print_stats=False)
        return backend.graphs

    assert graphs(20) == graphs(4)


@pytest.mark.sweep
def test_a_schedule_is_followed() -> None:
    def lr(step: int) -> float:
        return 0.1 / (1 + step)

    plain = learner_of(lr=lr).fit(2, print_stats=False).state
    state = learner_of(lr=lr, compile={"backend": "eager"}).fit(2, print_stats=False).state
    for name, tensor in plain.params.items():
        assert torch.allclose(state.params[name], tensor, atol=1e-5), name


@same_kernels
def test_compiled_and_recorded(tapes: None) -> None:
    plain = learner_of().fit(3, print_stats=False).state
    learner = learner_of(compile={"backend": "aot_eager"}, capture=True)
    assert learner.fit(3, print_stats=False).state == plain


def test_errors_are_those_of_the_plain_step() -> None:
    with pytest.raises(LossError, match=r"expected one number as a 0-dim tensor"):
        learner_of(compile={"backend": "eager"}, loss_fn=lambda preds, target: preds).fit(1)


@pytest.mark.parametrize("given", [1, "max-autotune", None, ["mode"]])
def test_what_is_no_bool_and_no_options_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"compile is .*torch.compile's options, like {'mode'"):
        learner_of(compile=given)


def test_a_misspelt_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"compile has 'modee'; torch.compile's options are .*mode"):
        learner_of(compile={"modee": "default"})


@pytest.mark.parametrize("given", [{"mode": "nope"}, {"backend": "nope"}])
def test_what_torch_refuses_is_refused_at_once(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"compile is .*nope.*, which torch.compile refuses"):
        learner_of(compile=given)


@pytest.mark.sweep
@same_kernels
def test_the_new_weights_can_be_read_in_any_grad_mode() -> None:
    class Looks(Subscriber[Batch]):
        def after_batch(self, state: TrainState, batch: Batch, output: BatchOutput) -> TrainState:
            with torch.enable_grad():
                assert state.params["0.weight"].isfinite().all()
            return state

    plain = learner_of().fit(1, print_stats=False).state
    assert learner_of(compile={"backend": "eager"}, subs=[Looks()]).fit(1, print_stats=False).state == plain


def test_the_log_says_that_it_was_compiled(tmp_path: Path) -> None:
    with JsonLog(tmp_path / "log.jsonl") as log:
        learner_of(compile={"backend": "eager"}, sinks=[log]).fit(1, print_stats=False)
    config = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["config"]
    assert (config["compile"], config["compile_options"]) == (True, {"backend": "eager"})
    assert config["capture"] is False


def test_learners_with_the_same_options_are_equal() -> None:
    learner = learner_of(compile={"backend": "eager"})
    assert learner == learner.replace(compile={"backend": "eager"})
    assert learner != learner.replace(compile=False)


@same_kernels
def test_a_state_goes_from_a_compiled_learner_to_a_plain_one() -> None:
    compiled = learner_of(compile={"backend": "aot_eager"})
    half: TrainState = fit_step(compiled, compiled.init(), 1).state
    whole = learner_of().fit(2, print_stats=False).state
    assert fit_step(learner_of(), half, 1).state.params.keys() == whole.params.keys()
    assert fit_step(learner_of(), half, 1).state == whole
