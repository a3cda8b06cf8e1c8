"""Weights outside the state: a pass that uses the caller's own module, or would train what is no part of it, is told.

A learner trains a copy. A loss or a metric that closes over the module it was given, or a hook of the module's own that
does, sees weights that never change; and what has parameters of its own beside the model is not trained. The first
pass, in training and in eval, is looked at before anything is written: each operation on the caller's tensors, and each
parameter that the loss's graph leads to. Later passes cost nothing: a hook on the graph's node of each weight that is
known waits for the first backward pass that reaches it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nntrain.errors import ConfigError
from nntrain.values.reach import tensors_within
from nntrain.values.tensors import ModelSource

_LOOKS: Final = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "type", "get_device", "__len__"}
    | {"is_floating_point", "is_complex", "is_contiguous", "__hash__", "__repr__", "__deepcopy__", "__set__"}
)
"""What may be asked of the caller's tensors: nothing of their values."""
_VALUES: Final = frozenset({"data", "T", "mT", "H", "mH", "real", "imag"})
"""The attributes of a tensor that show its values."""


class Outside:
    """The weights that are no part of one learner's state, and the watch over them.

    `loss_fn` is what gives the loss, and `called` what messages call it. `stepping` says whether a batch is trained on;
    it must hold nothing that holds this.
    """

    def __init__(
        self,
        template: ModelSource,
        live: Mapping[str, Tensor],
        loss_fn: object,
        called: str,
        stepping: Callable[[], bool],
    ) -> None:
        self._live = {id(tensor) for tensor in live.values()}
        given = (*template.named_parameters(), *template.named_buffers()) if isinstance(template, nn.Module) else ()
        theirs = [(tensor, name) for name, tensor in given if id(tensor) not in self._live]
        self._watch = _Watch({id(tensor): name for tensor, name in theirs}) if theirs else nullcontext()
        known = self._live.union(id(tensor) for tensor, _ in theirs)
        of_loss = [
            (tensor, f"{where} of {called}") for where, tensor in tensors_within(loss_fn) if id(tensor) not in known
        ]
        self._of_loss = [(weakref.ref(tensor), words) for tensor, words in of_loss]
        self._nodes = [
            _hooked(tensor, partial(_refuse_reached, refuse, words, stepping))
            for refuse, found in ((_refuse_used, theirs), (_refuse_trained, of_loss))
            for tensor, words in found
            if tensor.requires_grad and tensor.is_leaf and not tensor.is_inference()
        ]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Refuse, in a block, what uses the caller's tensors, and a loss function that writes to its own."""
        before = [(tensor, tensor._version, words) for tensor, words in self._found() if not tensor.is_inference()]
        with self._watch:
            yield
        for tensor, version, words in before:
            if tensor._version != version:
                raise ConfigError(
                    f"The batch writes to {words}, which is no part of the state: it would not be saved, and not gone "
                    f"back to. Keep it in the model, as a buffer."
                )

    def _found(self) -> Iterator[tuple[Tensor, str]]:
        """Yield what loss_fn holds of its own, and in words."""
        for ref, words in self._of_loss:
            tensor = ref()
            if tensor is not None:
                yield tensor, words

    def check_graph(self, loss: Tensor) -> None:
        """Raise `ConfigError` where the backward pass from `loss` would reach parameters that are not the model's."""
        waiting, seen = [loss.grad_fn], {loss.grad_fn}
        while waiting:
            node = waiting.pop()
            found = getattr(node, "variable", None)
            if isinstance(found, nn.Parameter) and id(found) not in self._live:
                named = {id(tensor): words for tensor, words in self._found()}
                _refuse_trained(named.get(id(found), f"a parameter {list(found.shape)}"))
            new = {after for after, _ in (node.next_functions if node is not None else ()) if after is not None} - seen
            seen |= new
            waiting.extend(new)


class _Watch(TorchFunctionMode):
    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        looks = name in _LOOKS or (name == "__get__" and getattr(func.__self__, "__name__", "") not in _VALUES)
        if self._names and not looks:
            for given in (*args, *kwargs.values()):
                for one in given if isinstance(given, (list, tuple)) else (given,):
                    if id(one) in self._names and isinstance(one, Tensor):
                        _refuse_used(self._names[id(one)])
        return func(*args, **kwargs)


def _hooked(leaf: Tensor, refuse: Callable[[object], None]) -> object:
    """Return the node of the graph at which gradients come to a leaf, with a hook that lives as long as it is kept."""
    with torch.inference_mode(False):  # whatever mode the caller is in
        node = torch.autograd.graph.get_gradient_edge(leaf).node
    node.register_prehook(refuse)
    return node


def _refuse_reached(
    refuse: Callable[[str], NoReturn],
    words: str,
    stepping: Callable[[], bool],
    gradients: object,  # noqa: ARG001 - a hook gets them
) -> None:
    if stepping():
        refuse(words)


def _refuse_used(name: str) -> NoReturn:
    raise ConfigError(
        f"The batch uses {name} of the very module that was given as model. The learner trains a copy, so those "
        f"weights never change. A loss or metric is to be computed of what it is given: what it needs beside the "
        f"predictions, the model's forward can return. A module with hooks or functions that close over it is given by "
        f"a factory: Learner(lambda: make_model(), ...). As a fixed reference, use copy.deepcopy(model)."
    )


def _refuse_trained(words: str) -> NoReturn:
    raise ConfigError(
        f"The loss would train {words}, which is no parameter of the model: no optimizer writes it, no state holds it. "
        f"Make it a part of the model (register it there, and let forward return what the loss needs of it), or, if it "
        f"is not to be trained, freeze it: requires_grad_(False)."
    )


def stepping(workspace: weakref.ref[Any]) -> bool:
    """Return whether a workspace, if it is still there, is amid a batch of training."""
    found = workspace()
    return found is not None and found.stepping
