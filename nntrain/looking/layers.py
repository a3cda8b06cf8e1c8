"""The layers of a model: which are meant, and what each gives in one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from functools import partial

from torch import Tensor, nn

from nntrain.errors import ConfigError
from nntrain.values.calls import meant
from nntrain.values.trees import tensors_of

Seen = Callable[[str, nn.Module, Tensor], object]
"""What is called with the name of a layer, the layer, and the first tensor of its output that has floats."""


def check_patterns(layers: object, where: str) -> tuple[str, ...] | None:
    """Return patterns of layers' names; None stands for all that have no layers within. Raises `ConfigError`."""
    given = (layers,) if isinstance(layers, str) else layers
    if given is None:
        return None
    if not (isinstance(given, Sequence) and given and all(isinstance(one, str) for one in given)):
        raise ConfigError(
            f"{where}: layers is {layers!r:.80}; expected a pattern of names like 'body.*', a list of them, or None "
            f"for all layers that have none within."
        )
    return tuple(given)


def layers_of(module: nn.Module, patterns: Sequence[str] | None, where: str) -> Mapping[str, nn.Module]:
    """Return the layers that are meant, by name. Raises `ConfigError` for a pattern that matches none."""
    named = {name or "model": one for name, one in module.named_modules()}
    if patterns is None:
        return {name: one for name, one in named.items() if next(one.children(), None) is None}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ConfigError(f"{where}: layers has {pattern!r}, which matches no layer.{meant(pattern, named)}")
    return {name: one for name, one in named.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


@contextmanager
def watched(layers: Mapping[str, nn.Module], see: Seen) -> Iterator[None]:
    """Show what layers give within a block, as soon as it is there: what comes after may write to it.

    The second call of a layer is shown as `name:2`.
    """
    calls: Counter[str] = Counter()

    def show(name: str, layer: nn.Module, given: object, output: object) -> None:  # noqa: ARG001 - as hooks have it
        calls[name] += 1
        found = next((one for one in tensors_of(output) if one.is_floating_point()), None)
        if found is not None:
            see(name if calls[name] == 1 else f"{name}:{calls[name]}", layer, found.detach())

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(partial(show, name)).remove)
        yield
