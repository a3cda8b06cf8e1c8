"""`nntrain predict`: the predictions of a learner with the weights of a checkpoint, as a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nntrain.cli.commands import Command, option
from nntrain.cli.evaluate import (
    NETWORK,
    checkpoint_option,
    data_dir_option,
    data_option,
    device_option,
    set_option,
    target_argument,
    trained,
)
from nntrain.cli.output import UnwritableError, say
from nntrain.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from nntrain.machine.learner import Learner

SUFFIXES: Final = (".npy", ".safetensors")
ALONE: Final = "preds"
"""The name of predictions that are one tensor."""


@click.command(
    cls=Command,
    short_help="Write predictions with the weights of a checkpoint.",
    examples=(
        "nntrain predict --checkpoint run --out preds.npy",
        "nntrain predict train.py:make --checkpoint run --out preds.safetensors",
        "nntrain predict train.py:make --checkpoint run --on night --out night.npy",
    ),
)
@target_argument
@checkpoint_option
@option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write them: FILE.npy for one tensor, FILE.safetensors for any.",
)
@option("--on", metavar="NAME", help="Which eval set, if there are several.")
@set_option
@data_option
@data_dir_option
@device_option
def predict(  # noqa: PLR0917 - click gives them by name
    target: str | None,
    checkpoint: Path,
    out: Path,
    on: str | None,
    data: str | None,
    data_dir: Path | None,
    device: str | None,
    **given: tuple[str, ...],
) -> None:
    """Write the predictions for the eval set of the learner TARGET, in its order, with the weights of a checkpoint.

    TARGET, --set, --data and the seed are as for `nntrain evaluate`. The predictions of all batches are joined along
    their first dimension. A model that returns several tensors has each under its name, or its number.
    """
    from nntrain.evaluation.evaluate import predict as predicted

    said = target or NETWORK
    if out.suffix not in SUFFIXES:
        raise click.BadParameter(f"{out} ends with neither of {', '.join(SUFFIXES)}.", param_hint="--out")
    if not out.resolve().parent.is_dir():
        raise click.BadParameter(f"there is no folder {out.parent}.", param_hint="--out")
    with trained(target, checkpoint, given["set"], device, data, data_dir) as (learner, state):
        parts: dict[str, list[Tensor]] = {}
        for preds in predicted(learner, state, _data(learner, said, on)):
            for name, tensor in _named(preds, ""):
                parts.setdefault(name, []).append(tensor.cpu())
    if not parts:
        raise ConfigError(f"{said} gave no predictions that are tensors, so that there is nothing to write.")
    joined = {name: _joined(name, tensors) for name, tensors in parts.items()}
    _write(out, joined)
    for name, tensor in joined.items():
        say(f"{name}: {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
    say(f"predictions: {out}")


def _data(learner: Learner[Any, Any], target: str, name: str | None) -> Any:
    """Return the loader of the eval set. Raises `ConfigError` where it is not clear which."""
    from nntrain.data.loaders import eval_sets

    sets = eval_sets(learner.dls.valid)
    if name is None and len(sets) == 1:
        return next(iter(sets.values()))
    if name is None or name not in sets:
        there = ", ".join(one for one in sets if one) or ("one without a name" if sets else "none")
        raise ConfigError(f"{target}: which eval set is not clear, --on is {name!r}; there is {there}.")
    return sets[name]


def _named(tree: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch's predictions by name."""
    from torch import Tensor

    from nntrain.values.trees import contents

    if isinstance(tree, Tensor):
        yield name or ALONE, tree
        return
    held = contents(tree)
    for inner, part in held.named() if held is not None else ():
        yield from _named(part, f"{name}.{inner}" if name else str(inner))


def _joined(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Return the predictions of all batches, one after the other."""
    import torch

    try:
        return torch.cat([one.unsqueeze(0) if one.ndim == 0 else one for one in tensors]).contiguous()
    except RuntimeError as error:
        shapes = ", ".join(dict.fromkeys(str(list(one.shape)) for one in tensors))
        raise ConfigError(
            f"The predictions {name} of the batches cannot be joined: their shapes are {shapes:.200}. Give them the "
            f"same shape but for the first dimension."
        ) from error


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the file whole, or not at all."""
    import numpy as np
    from safetensors.torch import save_file

    beside = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        if path.suffix == ".npy":
            if len(tensors) > 1:
                raise ConfigError(f"{path} has room for one tensor; there are {', '.join(tensors)}. Take .safetensors.")
            (only,) = tensors.values()
            np.save(beside, _as_numpy(path, only))
        else:
            save_file({**tensors}, beside)
        beside.replace(path)
    except OSError as error:
        raise UnwritableError(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def _as_numpy(path: Path, tensor: Tensor) -> Any:
    try:
        return tensor.numpy()
    except TypeError as error:
        raise ConfigError(f"{path} cannot hold predictions of {tensor.dtype}. Take .safetensors.") from error
