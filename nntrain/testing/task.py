"""`check_task`: the laws for a task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, overload

import torch
from torch import Tensor, nn

from nntrain.errors import ConfigError, DataError, LossError
from nntrain.task.task import Task, check_output, source_of, weight_of
from nntrain.task.task import check_task as expect_task
from nntrain.testing.copies import copy_parts
from nntrain.testing.examples import check_examples, expect_callable, st
from nntrain.testing.laws import Law, LawBrokenError
from nntrain.testing.memory import memory_of
from nntrain.testing.plans import Batch, Pair, small_batches, small_model
from nntrain.testing.purity import probe_call
from nntrain.testing.whole_metric import close
from nntrain.values.bits import same_bits
from nntrain.values.output import StepOutput
from nntrain.values.randomness import seeded
from nntrain.values.trees import to_device


@overload
def check_task(task: Task[Pair, object], *, examples: int = ..., device: torch.device | str = ...) -> None: ...
@overload
def check_task(
    task: Task[Batch, object],
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    cat: Callable[[Sequence[Batch]], Batch] | None = ...,
    device: torch.device | str = ...,
) -> None: ...
def check_task(
    task: Task[Any, object],
    model: nn.Module | None = None,
    batches: Sequence[Any] | None = None,
    *,
    cat: Callable[[Sequence[Any]], Any] | None = None,
    examples: int = 15,
    device: torch.device | str = "cpu",
) -> None:
    """Check a task by the laws, in training and in eval.

    `model` and `batches` are yours, small ones; by default a small classifier and batches of (inputs, class numbers).
    `cat` makes one batch of two, and then what a task gives must be a mean over `weight`: what it gives of the one
    batch is the weighted mean of what it gives of the two. The kit's own batches are put together by `torch.cat`. Leave
    `cat` out where a loss is no mean over samples, as one of pairs.

    Raises `LawBrokenError`: it gives no `StepOutput` that can be trained with ("answers"); it uses another model than
    it is given ("model"); it writes to the batch or the weights, or goes backward itself ("immutability"); the same
    model and batch give something else under the same seed ("determinism"), or something is remembered ("resume"); its
    figures are no means over the weight ("means"); it leaves the model in another mode, or changes global state of the
    process ("manners"); it prints or writes files ("effects"). Its own exceptions pass through.
    """
    expect_task(task)
    if (model is None) != (batches is None):
        raise ConfigError(f"{'model' if model is None else 'batches'} is None; give the model and batches for it.")
    if cat is not None:
        expect_callable(cat, "cat", "a function of two batches, in a list, that makes one of them")
    if model is None or batches is None:
        sizes = st.lists(st.integers(1, 4), min_size=2, max_size=3)

        def check(one: tuple[list[int], int]) -> None:
            sizes, seed = one
            run = f"batches of {' and '.join(map(str, sizes))} samples, seed {seed}"
            checks = _Checks(task, small_model(seed), torch.device(device), run)
            checks.all(small_batches(sizes, seed), _cat_pairs)

        check_examples(check, st.tuples(sizes, st.integers(0, 99)), examples)
        return
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is {model!r:.80}; expected a module, like nn.Linear(4, 2).")
    if not batches:
        raise ConfigError("batches is empty; expected a few small ones.")
    _Checks(task, model, torch.device(device)).all(batches, cat)


def _cat_pairs(batches: Sequence[Pair]) -> Pair:
    inputs, target = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(target)


def _modes(model: nn.Module) -> list[tuple[bool, list[bool]]]:
    return [(one.training, [param.requires_grad for param in one.parameters()]) for one in model.modules()]


class _Checks:
    """A task, and the model that it is tried with: copies of it, never the model itself."""

    def __init__(self, task: Task[Any, object], model: nn.Module, device: torch.device, run: str = "") -> None:
        self._task: Any = task
        self._name = source_of(task).removeprefix("task ")
        self._run = run
        self._given = model
        self._model = copy.deepcopy(model).to(device)
        self._device = device
        self._used = False
        self._changed: dict[str, list[tuple[object, object]]] = {}

    def all(self, batches: Sequence[Any], cat: Callable[[Sequence[Any]], Any] | None) -> None:
        """Check each batch, and pairs of them where these can be put together."""
        batches = [to_device(batch, self._device) for batch in batches]
        with self._unused():
            for index, batch in enumerate(batches):
                for train in (True, False):
                    self._batch(batch, f"batch {index} in {'training' if train else 'eval'}", train=train)
            self._memory()
            for index, (one, other) in enumerate(pairwise(batches) if cat is not None else ()):
                both = None if cat is None else to_device(cat([one, other]), self._device)
                self._means(one, other, both, f"batches {index} and {index + 1} in eval")

    @contextmanager
    def _unused(self) -> Iterator[None]:
        """Notice in a block when the task uses the module that was given to the kit, and not to the task."""

        def notice(*_: object) -> None:
            self._used = True

        hook = self._given.register_forward_pre_hook(notice)
        try:
            yield
        finally:
            hook.remove()

    def _batch(self, batch: Any, run: str, *, train: bool) -> None:
        """Check one batch."""
        one = self._copy(train=train)
        output = self._output(one, batch, run, train=train)
        again = self._output(self._copy(train=train), batch, run, train=train)
        for part in ("loss", "preds", "target", "weight", "parts"):
            if not same_bits(copy_parts(getattr(output, part)), copy_parts(getattr(again, part))):
                said = f"gave another {part} for the same model, batch and seed"
                raise self._broken("determinism", said, run)
        if train and output.loss is not None:
            output.loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            if all(param.grad is None for param in one.parameters()):
                said = "gave a loss that does not depend on the parameters of the model that it is given"
                raise self._broken("model", f"{said}. Use its argument, and no other model", run)

    def _memory(self) -> None:
        """Check that no call left anything behind, but for a cache, which changes once."""
        for name, changes in self._changed.items():
            if len(changes) > 1:
                said = f"remembers something: {name} went from {changes[-1][0]} to {changes[-1][1]:.60}"
                raise self._broken(
                    "resume", f"{said}. A task has no memory: let the model have a buffer, or a subscriber a slot", ""
                )

    def _means(self, one: Any, other: Any, both: Any, run: str) -> None:
        """Check that the figures of a batch of `both` are the weighted means of those of `one` and of `other`."""
        first, second, whole = (self._figures(batch, run) for batch in (one, other, both))
        weight = first["weight"] + second["weight"]
        if not close(weight, whole["weight"]):
            raise self._broken("means", f"weighs {whole['weight']:g} together, and apart {weight:g}", run)
        for name in whole.keys() - {"weight"}:
            if name not in first or name not in second:
                raise self._broken("means", f"gave {name} of both together, and not of each", run)
            mean = (first[name] * first["weight"] + second[name] * second["weight"]) / weight
            if not close(whole[name], mean):
                said = (
                    f"gave {name} {whole[name]:g} of both together; the mean of {first[name]:g} and {second[name]:g} "
                    f"over their weights {first['weight']:g} and {second['weight']:g} is {mean:g}. Say by weight= what "
                    f"it is a mean over"
                )
                raise self._broken("means", said, run)

    def _figures(self, batch: Any, run: str) -> dict[str, float]:
        output = self._output(self._copy(train=False), batch, run, train=False)
        figures = {} if output.loss is None else {"loss": output.loss}
        found = {**figures, **output.parts, "weight": self._weight(output, batch, run)}
        return {name: float(value) for name, value in found.items()}

    def _copy(self, *, train: bool) -> nn.Module:
        return copy.deepcopy(self._model).train(train)

    def _output(self, model: nn.Module, batch: Any, run: str, *, train: bool) -> StepOutput[Any]:
        seen = copy_parts(batch), [param.detach().clone() for param in model.parameters()]
        modes = _modes(model)
        remembered = memory_of(self._task)
        with seeded(0, self._device), torch.set_grad_enabled(train):
            output = probe_call(lambda: self._task(model, batch), lambda law, said: self._broken(law, said, run))
        for name, value in memory_of(self._task).items():
            if remembered.get(name) != value:
                self._changed.setdefault(name, []).append((remembered.get(name), str(value)))
        if self._used:
            said = "uses the module that check_task was given. Use the argument, which is the model that is trained"
            raise self._broken("model", said, run)
        if not same_bits(seen[0], copy_parts(batch)):
            raise self._broken("immutability", "wrote to the batch, which is the same memory in the next epoch", run)
        params = list(model.parameters())
        if not same_bits(seen[1], [param.detach() for param in params]):
            raise self._broken("immutability", "wrote to the model's parameters, which the update alone writes", run)
        if any(param.grad is not None for param in params):
            raise self._broken("immutability", "goes backward itself; return the loss, and leave that to nntrain", run)
        if modes != _modes(model):
            raise self._broken("manners", "leaves the model in another mode: train, eval or requires_grad", run)
        try:
            checked = check_output(output, self._task, train=train)
        except LossError as error:
            raise self._broken("answers", f"is refused: {error}", run) from error
        self._weight(checked, batch, run)
        device = None if checked.loss is None else checked.loss.device
        if device is not None and device.type != self._device.type:
            raise self._broken(
                "answers", f"gave a loss on {device}; the model and the batch are on {self._device}", run
            )
        return checked

    def _weight(self, output: StepOutput[Any], batch: Any, run: str) -> Tensor | float:
        try:
            return weight_of(output, batch, self._task, checked=False)
        except DataError as error:
            raise self._broken("answers", f"is refused: {error}", run) from error

    def _broken(self, law: Law, said: str, run: str) -> LawBrokenError:
        return LawBrokenError(law, self._name, f"it {said}", run=", ".join(filter(None, (self._run, run))))
