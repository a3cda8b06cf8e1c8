"""Packages that are asked for only where they are used: each is an extra of nntrain's."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from nntrain.errors import MissingExtraError


def needed(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module`; raise `MissingExtraError`, one line that names the extra, where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.split(".", maxsplit=1)[0] != error.name.split(".")[0]:
            raise  # it is there, and lacks something itself
        package = module.split(".", maxsplit=1)[0]
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed: pip install 'nntrain[{extra}]'.", name=error.name
        ) from None
