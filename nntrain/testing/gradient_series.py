"""Update rules over series of gradients: what a rule makes of one must be the same again, and after going back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from nntrain.errors import ConfigError, LossError
from nntrain.testing.examples import st
from nntrain.testing.laws import Law, LawBrokenError
from nntrain.testing.memory import attributes_of
from nntrain.testing.purity import probe_call
from nntrain.update.chaining import Chain, live_update
from nntrain.update.rule import At, BoundRule, Gradients, UpdateRule
from nntrain.update.torch_rule import OptimizerRule
from nntrain.values.bits import same_bits
from nntrain.values.sums import Weight
from nntrain.values.tensors import OptimState
from nntrain.values.trees import clone_tree, described, tensors_of

ADVICE: Final = "What it remembers belongs in the memory of what `bind` returns: self.memory[name] = value."
Params = Mapping[str, Tensor]
Broken = Callable[[Law, str], LawBrokenError]
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True)
class Write:
    """A batch's gradients: drawn from `seed`, with NaN in one if `spoilt`, and one less if `lacking`."""

    seed: int
    weight: int = 1
    in_tensor: bool = False
    spoilt: bool = False
    lacking: bool = False

    def __str__(self) -> str:
        flags = [name for name in ("spoilt", "lacking") if getattr(self, name)]
        return " ".join([f"seed {self.seed}", f"weight {self.weight}", *flags])

    def gradients(self, params: Params) -> Gradients:
        """Return them, by the parameters' names."""
        source = torch.Generator().manual_seed(self.seed)
        found = {
            name: torch.randn(param.shape, generator=source).to(param.device, param.dtype)
            for name, param in params.items()
        }
        if self.lacking and len(found) > 1:
            found.popitem()
        if self.spoilt:
            next(iter(found.values())).view(-1)[:1] = math.nan
        return found

    def at(self, step: int, device: torch.device) -> At:
        """Return when it is written."""
        weight: Weight = torch.tensor(float(self.weight), device=device) if self.in_tensor else self.weight
        return At(step, weight, self.seed)


class _Seen(NamedTuple):
    """What can be seen after a write, each part under the name that a message has for it."""

    answer: bool
    scale: Tensor
    told: Mapping[str, Any]
    parameters: Params
    memory: OptimState

    def difference(self, other: _Seen) -> str:
        """Return which parts differ; "" where none does."""
        return " and ".join(name for name in self._fields if not same_bits(getattr(self, name), getattr(other, name)))


class _Bound:
    """A rule bound to parameters of its own, as a workspace binds it, and driven without a model."""

    def __init__(self, rule: UpdateRule, params: Params) -> None:
        self.params = {name: nn.Parameter(param.detach().clone()) for name, param in params.items()}
        self.device = next(iter(self.params.values())).device
        self.live = live_update(rule, self.params, None)
        self.step = 0

    def kept(self) -> tuple[int, Params, OptimState]:
        """Return its value, to go back to."""
        return self.step, clone_tree(dict(self.params)), self.live.read(clone_tree)

    def go_back(self, kept: tuple[int, Params, OptimState]) -> None:
        """Make a kept value its own, as a workspace does when a state is brought in."""
        self.step, params, memory = kept
        with torch.no_grad():
            for name, param in self.params.items():
                param.copy_(params[name])
            self.live.bring_in(memory, self.device)

    def write(self, write: Write) -> _Seen:
        """Write a batch."""
        loss = torch.tensor(1.5, device=self.device, requires_grad=True)
        with torch.enable_grad():
            (scale,) = torch.autograd.grad(self.live.loss(loss), loss)
        gradients = {name: one * scale for name, one in write.gradients(self.params).items()}
        with torch.no_grad():
            answer = self.live.write(gradients, write.at(self.step, self.device))
        self.step += answer
        told = clone_tree(self.live.take_told())
        return _Seen(answer, scale, told, clone_tree(dict(self.params)), self.live.read(clone_tree))


@dataclass(frozen=True)
class Series:
    """Batches that are written one after the other; then the state before the one numbered `back` is gone back to."""

    writes: Sequence[Write]
    back: int

    def __str__(self) -> str:
        return f"gradients of {', '.join(map(str, self.writes))}"


def all_series() -> st.SearchStrategy[Series]:
    """Return a strategy for series, which shrinks to two ordinary batches."""
    write = st.builds(
        Write,
        seed=st.integers(0, 99),
        weight=st.integers(1, 3),
        in_tensor=st.booleans(),
        spoilt=st.sampled_from([False, False, False, True]),
        lacking=st.sampled_from([False, False, True]),
    )
    return st.builds(Series, st.lists(write, min_size=2, max_size=6), st.integers(0, 5))


def check_series(rule: Chain, name: str, params: Params, series: Series) -> None:
    """Check what a chain makes of a series, over parameters of its own. Raises `LawBrokenError`."""

    def broken(law: Law, said: str) -> LawBrokenError:
        return LawBrokenError(law, name, said, run=str(series))

    writes, back = series.writes, series.back % len(series.writes)
    try:
        first = _Bound(rule, params)
    except ConfigError as error:
        raise broken("answers", f"is refused: {error}") from error
    for one in rule.rules:
        if not isinstance(one, OptimizerRule):
            _check_alone(one, params, writes, broken)
    if first.live.needs_closure:  # it evaluates a model, which is not here
        return
    kept, straight = [], []
    try:
        for write in writes:
            kept.append(first.kept())
            straight.append(first.write(write))
    except (ConfigError, LossError) as error:
        raise broken("answers", f"is refused: {error}") from error
    again = _Bound(rule, params)
    _compare(straight, [again.write(write) for write in writes], broken, "determinism", "a second time, ")
    first.go_back(kept[back])
    said = f"after going back to the state before write {back}, "
    _compare(straight[back:], [first.write(write) for write in writes[back:]], broken, "branch", said)
    resumed = _Bound(rule, {name: param + 1 for name, param in params.items()})  # whatever a new process begins with
    resumed.go_back(kept[back])
    said = f"gone on from the state before write {back} by the rule bound anew, "
    _compare(straight[back:], [resumed.write(write) for write in writes[back:]], broken, "resume", said)


def _compare(
    straight: Sequence[_Seen],
    there: Sequence[_Seen],
    broken: Broken,
    law: Law,
    said: str,
) -> None:
    for index, (one, other) in enumerate(zip(straight, there, strict=True)):
        different = one.difference(other)
        if different:
            where = f"{said}{different} of write {len(straight) - index} from the end came out otherwise"
            advice = "" if law == "determinism" else f". {ADVICE} Look it up at each write, since it may be exchanged"
            raise broken(law, f"{where}{advice}")


def _check_alone(rule: UpdateRule, params: Params, writes: Sequence[Write], broken: Broken) -> None:
    """Check what a rule does in each of its calls, beside what it is to do."""
    given: dict[str, Tensor] = {name: nn.Parameter(param.detach().clone()) for name, param in params.items()}
    device = next(iter(given.values())).device
    calls = _Calls(broken)
    bound: BoundRule = calls.made("bind", lambda: rule.bind(dict(given)))
    if getattr(bound, "evaluates", False):  # it evaluates a batch, which is not here
        return
    counted: dict[str, int] = {}
    finite = True
    for step, write in enumerate(writes):
        finite = finite and not write.spoilt
        loss = torch.tensor(1.5, device=device, requires_grad=True)
        calls.made("loss", lambda: bound.loss(loss))  # noqa: B023 - called here
        gradients = write.gradients(given)
        at = write.at(step, device)
        before = _plain_attributes(bound)
        with torch.no_grad():
            answer: object = calls.made("write", lambda: bound.write(gradients, at))  # noqa: B023 - called here
        if not isinstance(answer, bool):
            raise broken("answers", f"write returned {answer!r:.60}; expected True, or False for the others to wait")
        _check_gradients(gradients, given, broken)
        _check_told(getattr(bound, "told", {}), broken, finite=finite)
        live = {one.untyped_storage().data_ptr() for one in given.values() if one.numel()}
        if any(one.untyped_storage().data_ptr() in live for one in tensors_of(bound.memory) if one.numel()):
            said = "a live parameter is in its memory, which would change with it. Keep a copy: param.detach().clone()"
            raise broken("resume", said)
        for name, value in _plain_attributes(bound).items():
            counted[name] = counted.get(name, 0) + (before.get(name) != value)
            if counted[name] > 1:  # a cache changes once
                said = f"{name} went from {before.get(name, 'nothing')} to {value}, and is in no state. {ADVICE}"
                raise broken("resume", said)


class _Calls:
    """Calls that are to have no effect but what they return, and to leave torch's generators as they are."""

    def __init__(self, broken: Broken) -> None:
        self._broken = broken

    def made(self, method: str, call: Callable[[], Any]) -> Any:
        """Return what a method returns."""
        drawn_from = torch.get_rng_state()
        found = probe_call(call, lambda law, said: self._broken(law, f"{method} {said}"))
        if not torch.equal(drawn_from, torch.get_rng_state()):
            said = (
                "draws from torch's global generator. Draw from one of its own: torch.Generator().manual_seed(at.bits)"
            )
            raise self._broken("manners", f"{method} {said}")
        return found


def _plain_attributes(bound: BoundRule) -> dict[str, object]:
    """Return the numbers and strings that a bound rule has beside its memory and what it tells."""
    return {
        f"self.{name}": value
        for name, value in attributes_of(bound).items()
        if name not in {"memory", "told"} and isinstance(value, _PLAIN)
    }


def _check_gradients(gradients: Gradients, params: Params, broken: Broken) -> None:
    for name, one in gradients.items():
        given: object = one
        if name not in params:
            raise broken("answers", f"write left a gradient named {name!r:.60}, and there is no such parameter")
        if not isinstance(given, Tensor) or (one.shape, one.device) != (params[name].shape, params[name].device):
            expected = described(params[name])
            raise broken("answers", f"write left {described(given):.60} as the gradient of {name}, which is {expected}")


def _check_told(told: object, broken: Broken, *, finite: bool) -> None:
    if not isinstance(told, Mapping):
        raise broken("answers", f"told is {told!r:.60}; expected a dict of names to numbers")
    for name, value in told.items():
        if not isinstance(name, str):
            raise broken("answers", f"told names a number {name!r:.60}; expected a string")
        number = not isinstance(value, bool) and isinstance(value, (int, float))
        if not number and not (isinstance(value, Tensor) and not value.ndim and not value.is_complex()):
            raise broken("answers", f"told has {name} as {value!r:.60}; expected a number, or a 0-dim tensor of one")
        if finite and not math.isfinite(float(value)):
            raise broken("answers", f"told has {name} as {float(value)}, though all gradients so far were finite")
