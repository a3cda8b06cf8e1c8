"""The backward pass from one loss comes to what `loss.backward()` does."""

from __future__ import annotations

import contextvars
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain.live.backward import Backward

HERE = torch.device("cpu")
CONTEXT: contextvars.ContextVar[str] = contextvars.ContextVar("CONTEXT", default="of nobody")


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    found: Tensor = model(inputs).square().mean()
    return found


def test_gradients_have_the_bits_of_torch_s_own_and_add_up(device: torch.device) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(device)
    inputs = torch.randn(5, 3, device=device)
    autograd = Backward(device)
    for _ in range(3):
        autograd.backward(loss_of(model, inputs))
    found = [param.grad for param in model.parameters()]
    model.zero_grad()
    for _ in range(3):
        loss_of(model, inputs).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    for one, param in zip(found, model.parameters(), strict=True):
        assert one is not None
        assert param.grad is not None
        assert torch.equal(one, param.grad)


class Doubles(torch.autograd.Function):
    """Writes to the gradient that it is given, which nobody should, and notes whose context it runs in."""

    seen: list[str] = []  # noqa: RUF012 - torch makes no instances

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        Doubles.seen.append(CONTEXT.get())
        return gradients[0].mul_(2)


def test_who_writes_to_the_first_gradient_changes_no_later_pass() -> None:
    autograd = Backward(HERE)
    for _ in range(3):
        weight = torch.ones((), requires_grad=True)
        doubled: Any = Doubles.apply(weight * 3)
        autograd.backward(doubled)
        assert weight.grad is not None
        assert weight.grad.item() == 6


def test_a_function_s_backward_runs_in_the_caller_s_context() -> None:
    CONTEXT.set("the caller's")
    Doubles.seen.clear()
    doubled: Any = Doubles.apply(torch.ones((), requires_grad=True))
    Backward(HERE).backward(doubled)
    assert Doubles.seen == ["the caller's"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_loss_of_another_type_has_a_gradient_of_its_own(dtype: torch.dtype) -> None:
    autograd = Backward(HERE)
    for kind in (torch.float32, dtype):
        weight = torch.ones((), dtype=kind, requires_grad=True)
        autograd.backward(weight * 2)
        assert weight.grad is not None
        assert (weight.grad.dtype, weight.grad.item()) == (kind, 2)


def test_of_a_complex_loss_torch_says_why_there_is_none() -> None:
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for real scalar outputs"):
        Backward(HERE).backward(torch.ones((), dtype=torch.complex64, requires_grad=True) * 2)


class Named(Tensor):
    """A tensor whose backward pass is its own."""

    called = False

    def backward(self, *_: Any, **__: Any) -> None:
        """Only note it."""
        Named.called = True


def test_a_subclass_goes_backward_itself() -> None:
    Backward(HERE).backward(torch.ones((), requires_grad=True).as_subclass(Named))
    assert Named.called


def test_torch_logs_the_pass_where_it_is_told_to(caplog: pytest.LogCaptureFixture) -> None:
    weight = torch.ones((), requires_grad=True)
    Backward(HERE).backward(weight * 2)
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, "torch.autograd.graph"):
        Backward(HERE).backward(weight * 2)
    assert any("MulBackward0" in record.getMessage() for record in caplog.records)
