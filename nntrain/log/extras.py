"""Optional packages, imported only where they are used, each an extra of nntrain's; and their environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from nntrain.errors import MissingExtraError


def needed(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return the module `module`. Raises `MissingExtraError`, which names the extra, if it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".", maxsplit=1)[0]
        if error.name is not None and package != error.name.split(".")[0]:
            raise  # the package is installed, but something that it imports is not
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed: pip install 'nntrain[{extra}]'.", name=error.name
        ) from None


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable within the block, unless it is set already."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
