"""Law 10, manners: the caller's module, generators, grad mode, default dtype and logging set-up are as they were."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pytest
import structlog
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from nntrain import (
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Learner,
    Subscriber,
    TrainState,
    accuracy,
    batch_step,
    epoch_step,
    fit_step,
)
from nntrain.subscribers.protocol import AnswerBatch, AnswerFit
from nntrain.values.bits import same_bits
from tests.laws.faults import POINTS, BlownError, Fused
from tests.laws.strategies import CPU, Batch, Setup, finish, setups
from tests.laws.test_law_04_resume import TorchLoaders

torch.optim.SGD([torch.zeros(1)], lr=0.1)  # torch imports its compiler with the first optimizer, which sets filters


def world() -> dict[str, object]:
    """Give all that belongs to the caller's process and not to a training."""
    kind, keys, *rest = np.random.get_state()
    root = logging.getLogger()
    return {
        "torch generator": torch.get_rng_state(),
        "cuda generators": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python generator": random.getstate(),
        "numpy generator": (kind, torch.from_numpy(np.asarray(keys).copy()), rest),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "structlog": structlog.is_configured(),
        "structlog config": {name: repr(value) for name, value in structlog.get_config().items()},
        "root handlers": list(root.handlers),
        "root level": root.level,
        "root filters": list(root.filters),
        "signals": {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)},
        "warning filters": list(warnings.filters),
        "exception hook": sys.excepthook,
        "environment": dict(os.environ),
        "directory": os.getcwd(),  # noqa: PTH109 - a string to compare
        "threads alive": threading.active_count(),
    }


def picture(module: nn.Module) -> dict[str, object]:
    """Give all that could be told apart of the caller's module."""
    return {
        "params": {name: tensor.detach().clone() for name, tensor in module.named_parameters()},
        "buffers": {name: tensor.clone() for name, tensor in module.named_buffers()},
        "identities": [id(tensor) for tensor in (*module.parameters(), *module.buffers())],
        "grads": [None if tensor.grad is None else tensor.grad.clone() for tensor in module.parameters()],
        "requires_grad": [tensor.requires_grad for tensor in module.parameters()],
        "training": [one.training for one in module.modules()],
        "hooks": [(len(one._forward_hooks), len(one._forward_pre_hooks)) for one in module.modules()],
        "attributes": [sorted(vars(one)) for one in module.modules()],
    }


def assert_same_world(before: Mapping[str, object]) -> None:
    """Compare one by one, so that a failure names what changed."""
    for name, value in world().items():
        assert same_bits(value, before[name]), name


class Cancels(Subscriber[Batch]):
    """Gives one verdict at the third batch, or before the fit."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    def before_fit(self, state: TrainState) -> AnswerFit:
        torch.rand(1)
        return CancelFit(reason="no") if self.scope == "before_fit" else state

    def before_batch(self, state: TrainState, batch: Batch) -> AnswerBatch:
        torch.rand(1)
        if state.progress.batch == 1:
            match self.scope:
                case "batch":
                    return CancelBatch(reason="no")
                case "epoch":
                    return CancelEpoch(reason="no")
                case "fit":
                    return CancelFit(reason="no")
                case _:
                    pass
        return state


MODES: Final[Mapping[str, Callable[[], Any]]] = {
    "as it is": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
DOINGS: Final[Mapping[str, Callable[[Learner[Batch], Setup], object]]] = {
    "init": lambda learner, setup: learner.init(0),
    "fit": lambda learner, setup: learner.fit(2, print_stats=False),
    "fit, printed": lambda learner, setup: learner.fit(1),
    "fit_step": lambda learner, setup: fit_step(learner, learner.init(1), 1),
    "advance": lambda learner, setup: finish(learner, learner.init(1, epochs=1)),
    "epoch_step": lambda learner, setup: epoch_step(learner, learner.init(1, epochs=1)),
    "batch_step": lambda learner, setup: batch_step(learner, learner.init(1), setup.batches("train")[0]),
    "to_module": lambda learner, setup: learner.fit(1, print_stats=False).state.to_module(),
}


@given(
    setup=setups(),
    doing=st.sampled_from(sorted(DOINGS)),
    mode=st.sampled_from(sorted(MODES)),
    cancels=st.sampled_from(["nothing", "before_fit", "batch", "epoch", "fit"]),
    loader=st.sampled_from(["list", "torch"]),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_all_is_as_it_was(
    device: torch.device, setup: Setup, doing: str, mode: str, cancels: str, *, loader: str, flags: tuple[bool, bool]
) -> None:
    setup = setup.on(device)
    training, with_grads = flags
    module = setup.make_model().train(training)
    if with_grads:
        for param in module.parameters():
            param.grad = torch.ones_like(param)
    whole = loader == "torch" and not setup.model.startswith("batch")
    dls = TorchLoaders(setup) if whole else setup.loaders()
    learner: Learner[Batch] = Learner(
        module,
        dls,
        cross_entropy,
        accuracy,
        setup.make_optimizer(),
        setup.lr,
        [Cancels(cancels)],
        device=device,
    )
    with MODES[mode]():
        before, seen = world(), picture(module)
        DOINGS[doing](learner, setup)
        assert_same_world(before)
        assert same_bits(picture(module), seen)


@given(setup=setups(), point=st.sampled_from(POINTS), passes=st.integers(0, 2))
def test_all_is_as_it_was_after_a_failure(device: torch.device, setup: Setup, point: str, passes: int) -> None:
    setup = setup.on(device)
    fused = Fused(setup)
    learner = fused.learner()
    before = world()
    fused.fuse.arm(point, passes)
    with contextlib.suppress(BlownError):
        learner.fit(1, print_stats=False)
    assert_same_world(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_is_the_callers(dtype: torch.dtype) -> None:
    default = torch.get_default_dtype()
    plain = Setup(model="dropout").learner().fit(1, print_stats=False)
    learner = Setup(model="dropout").learner()
    torch.set_default_dtype(dtype)
    try:
        outcome = learner.fit(1, print_stats=False)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(default)
    assert outcome.state.history == plain.state.history


def test_the_callers_module_can_be_trained_on_meanwhile() -> None:
    """A learner's weights are its own: what the caller does to the module changes no state."""
    setup = Setup()
    module = setup.make_model()
    learner: Learner[Batch] = Learner(
        module, setup.loaders(), cross_entropy, accuracy, setup.make_optimizer(), setup.lr, device=CPU
    )
    state = learner.init(0, epochs=1)
    params = {name: tensor.clone() for name, tensor in state.params.items()}
    with torch.no_grad():
        for param in module.parameters():
            param.fill_(3.0)
    assert same_bits(dict(state.params), params)


def test_importing_configures_nothing() -> None:
    import subprocess

    code = (
        "import logging, signal, structlog, random; before = signal.getsignal(signal.SIGINT), random.getstate()\n"
        "import torch; seed = torch.get_rng_state()\n"
        "import nntrain\n"
        "assert not structlog.is_configured()\n"
        "assert (signal.getsignal(signal.SIGINT), random.getstate()) == before\n"
        "assert torch.equal(torch.get_rng_state(), seed)\n"
        "assert logging.getLogger().handlers == []\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
