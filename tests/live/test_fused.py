"""The backward pass compiled with the forward pass: the same training, in one call a batch."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nntrain import DataLoaders, Engine, Learner, StepOutput, TrainState, accuracy, supervised
from nntrain.errors import ConfigError
from nntrain.live import backward
from nntrain.log import JsonLog
from nntrain.update import accumulate, chain, clip_norm, optimizer
from tests.live.test_compiled import TRAIN, VALID, Batch, forgotten, learner_of, same_kernels
from tests.sampled import one_in

__all__ = ["forgotten"]
BACKEND: Mapping[str, object] = {"backend": "aot_eager"}


def notes_of(learner: Learner[Any], folder: Path) -> list[str]:
    """Return the codes of what the log notes of a fit."""
    with JsonLog(folder / "log.jsonl") as log:
        learner.replace(sinks=[log]).fit(1, print_stats=False)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["code"] for line in lines if line.get("code", "").startswith("compile")]


def both(model: nn.Module, **changes: Any) -> tuple[TrainState, TrainState]:
    """Return what a plain learner and a compiled one come to in an epoch."""
    made = learner_of(model=model, **changes)
    return tuple(one.fit(1, print_stats=False).state for one in (made, made.replace(compile=BACKEND)))  # type: ignore[return-value] # of two


def without_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("autograd ran")

    monkeypatch.setattr(backward.Backward, "backward", refuse)


def references(given: object) -> int:
    """Return how many references there are to what a call is given."""
    return sys.getrefcount(given)


@pytest.mark.parametrize("breaks", one_in(2, [False, True]))
def test_autograd_does_not_run_for_batches_of_any_shape(
    breaks: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not breaks:
        without_backward(monkeypatch)
    before = references(object())
    model = {"model": Breaks()} if breaks else {}
    assert notes_of(learner_of(compile=BACKEND, **model), tmp_path) == (["compile.gradients"] if breaks else [])
    assert not torch._dynamo.config.trace_autograd_ops
    # After an error while it traces, torch would leave its own evaluator of Python in place, which keeps arguments.
    after = references(object())
    assert after == before


@pytest.mark.sweep
@same_kernels
@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([clip_norm(0.1), optimizer(torch.optim.SGD, lr=0.1)], marks=pytest.mark.sweep),
        [accumulate(2), clip_norm(0.1), optimizer(torch.optim.SGD, lr=0.1)],
    ],
    ids=["clip", "accumulate"],
)
def test_rules_get_the_gradients_that_they_get_from_autograd(rules: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(compile: bool | Mapping[str, object]) -> TrainState:
        plain = learner_of()
        made = Learner.of(
            plain.model,
            plain.dls,
            supervised(cross_entropy),
            chain(*rules),
            metrics={"accuracy": accuracy},
            engine=Engine(compile=compile),
        )
        return made.fit(2, print_stats=False).state

    plain = fitted(compile=False)
    without_backward(monkeypatch)
    assert fitted(compile=BACKEND) == plain


class Sums(nn.Module):
    """Its parameters get the same gradient, or one of a single number seen many times."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = (nn.Parameter(torch.full((4, 3), value)) for value in (0.5, 0.25))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, inputs: Tensor) -> Tensor:
        both = self.first + self.second if self.kind == "the same" else self.first
        return (both if self.kind == "of one number" else both.square()).sum().expand(len(inputs), 3)


def first_of(preds: Tensor, target: Tensor) -> Tensor:
    return preds[0, 0]


@pytest.mark.sweep
@same_kernels
@pytest.mark.parametrize("kind", one_in(2, ["the same", "of one number"]))
def test_gradients_may_be_written_to(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = chain(clip_norm(0.1), optimizer(torch.optim.SGD, lr=0.1))

    def fitted(compile: bool | Mapping[str, object]) -> TrainState:
        engine = Engine(compile=compile)
        made = Learner.of(Sums(kind), DataLoaders(TRAIN, VALID), supervised(first_of), rules, engine=engine)
        return made.fit(1, print_stats=False).state

    plain = fitted(compile=False)
    without_backward(monkeypatch)
    assert fitted(compile=BACKEND) == plain
    assert torch.equal(plain.params["unused"], torch.ones(2))


class Breaks(nn.Module):
    """torch cannot trace it as one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.inner(inputs)
        torch._dynamo.graph_break()
        return hidden.relu()


@pytest.mark.sweep
@same_kernels
def test_a_model_that_is_no_single_graph_is_compiled_as_ever() -> None:
    plain, compiled = both(Breaks())
    assert compiled == plain


def silenced(_module: object, taken: Any, _given: object) -> Any:
    return (torch.zeros_like(taken[0]),)


@pytest.mark.sweep
@same_kernels
@pytest.mark.parametrize("whose", [pytest.param("model", marks=pytest.mark.sweep), "parameter"])
def test_hooks_of_the_backward_pass_are_called(whose: str) -> None:
    class Hooked(nn.Sequential):
        def __init__(self) -> None:
            first, second = nn.Linear(4, 4), nn.Linear(4, 3)
            super().__init__(first, second)
            if whose == "model":  # no gradient comes through the second layer
                second.register_full_backward_hook(silenced)
            else:
                first.weight.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call] # torch leaves it untyped

    made = learner_of(model=functools.partial(Hooked))
    plain, compiled = (one.fit(1, print_stats=False).state for one in (made, made.replace(compile=BACKEND)))
    assert compiled == plain
    before = made.init()
    assert torch.equal(compiled.params["0.weight"], before.params["0.weight"])
    assert not torch.equal(compiled.params["1.weight"], before.params["1.weight"])


@pytest.mark.sweep
@same_kernels
def test_a_task_of_ones_own_with_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def task(model: nn.Module, batch: Batch) -> StepOutput[dict[str, Tensor]]:
        preds: Tensor = model(batch[0])
        loss, weights = cross_entropy(preds, batch[1]), preds.square().mean()
        return StepOutput(loss + 0.1 * weights, {"preds": preds}, batch[1], parts={"loss_of_preds": loss})

    def fitted(compile: bool | Mapping[str, object]) -> TrainState:
        plain = learner_of()
        update = optimizer(torch.optim.SGD, lr=0.1)
        return (
            Learner.of(plain.model, plain.dls, task, update, engine=Engine(compile=compile))
            .fit(2, print_stats=False)
            .state
        )

    plain = fitted(compile=False)
    without_backward(monkeypatch)
    compiled = fitted(compile=BACKEND)
    assert compiled == plain
    assert "loss_of_preds" in compiled.history[0].metrics


@pytest.mark.sweep
def test_optimizers_that_evaluate_the_model_themselves() -> None:
    optim_class = functools.partial(torch.optim.LBFGS, max_iter=3)
    made = learner_of(optim_class=optim_class, lr=0.1)
    plain, compiled = (one.fit(1, print_stats=False).state for one in (made, made.replace(compile=BACKEND)))
    for name, tensor in plain.params.items():
        assert torch.allclose(compiled.params[name], tensor, atol=1e-5), name


@pytest.mark.parametrize("where", ["loss", "no gradient"])
def test_a_use_of_the_callers_own_module_is_refused_though_it_is_compiled(where: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)

    def loss_fn(preds: Tensor, target: Tensor) -> Tensor:
        weight = model.weight if where == "loss" else model.weight.detach()
        return cross_entropy(preds, target) + weight.square().mean()

    with pytest.raises(ConfigError, match=r"uses weight of the very module"):
        learner_of(model=model, loss_fn=loss_fn, compile=BACKEND).fit(1, print_stats=False)


def test_the_look_at_a_first_batch_leaves_no_trace() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, inputs: Tensor) -> Tensor:
            self.seen: Tensor
            self.seen += 1
            found: Tensor = self.inner(inputs + torch.randn_like(inputs))
            return found

    made = learner_of(model=Draws(), compile={"backend": "eager"})
    state = made.fit(1, print_stats=False).state
    assert state.buffers["seen"] == len(TRAIN) + len(VALID)
    assert made.fit(1, print_stats=False).state == state  # it was looked at before
    plain = made.replace(compile=False).fit(1, print_stats=False).state
    assert torch.allclose(state.params["inner.weight"], plain.params["inner.weight"], atol=1e-6)  # by the same noise
